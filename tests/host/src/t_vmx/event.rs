// SPDX-License-Identifier: GPL-2.0

//! Events in the VMCS's words.

use crate::arch::exception::ExceptionVector;
use crate::vcpu::event::{EventBlocking, GuestEvent};
use crate::vmx::event::{blocking, encode, interrupted, is_int1, is_nmi, with_blocking, VALID};
use proptest::prelude::*;

fn gp(error: Option<u32>) -> GuestEvent {
    GuestEvent::Exception { vector: ExceptionVector::GP, error }
}

#[test]
fn events_are_encoded_as_the_manual_says() {
    for (event, info) in [
        (GuestEvent::Interrupt(0x31), 0x8000_0031),
        (GuestEvent::Nmi, 0x8000_0202),
        (gp(None), 0x8000_030d),
        (gp(Some(4)), 0x8000_0b0d),
        (GuestEvent::Software { vector: 0x80 }, 0x8000_0480),
    ] {
        assert_eq!(encode(event, true).info, info, "{event:?}");
    }
    assert_eq!(encode(gp(Some(4)), true).error, 4);
    assert_eq!(encode(GuestEvent::Software { vector: 3 }, true).length, 2);
}

#[test]
fn real_mode_exceptions_have_no_error_code() {
    assert_eq!(encode(gp(Some(4)), false).info, 0x8000_030d);
}

#[test]
fn software_events_are_left_to_run_again() {
    for kind in [4u32, 5, 6] {
        assert_eq!(interrupted(VALID | kind << 8 | 3, 0), None);
    }
    assert_eq!(interrupted(0x31, 0), None, "not valid");
}

#[test]
fn causes_of_exits_are_told_apart() {
    assert!(is_nmi(0x8000_0202) && !is_nmi(0x0000_0202) && !is_nmi(0x8000_0302));
    assert!(is_int1(0x8000_0501) && !is_int1(0x8000_0301));
}

#[test]
fn a_shadow_keeps_its_kind() {
    let on = EventBlocking { shadow: true, nmi: false };
    assert_eq!(with_blocking(1, on), 1);
    assert_eq!(with_blocking(2, on), 2);
    assert_eq!(with_blocking(0, on), 2, "a new one does not depend on RFLAGS.IF");
    assert_eq!(with_blocking(3, EventBlocking { shadow: false, nmi: true }), 8);
}

proptest! {
    #[test]
    fn what_an_exit_cuts_short_is_what_was_injected(vector: u8, error: Option<u32>, kind in 0..3) {
        let event = match kind {
            0 => GuestEvent::Interrupt(vector),
            1 => GuestEvent::Nmi,
            _ => GuestEvent::Exception { vector: ExceptionVector(vector), error },
        };
        let i = encode(event, true);
        prop_assert_eq!(interrupted(i.info, i.error), Some(event));
    }

    #[test]
    fn blocking_reads_back(old in (0u32..16).prop_filter("one shadow", |o| o & 3 != 3), shadow: bool, nmi: bool) {
        let want = EventBlocking { shadow, nmi };
        let state = with_blocking(old, want);
        prop_assert_eq!(blocking(state), want);
        prop_assert_ne!(state & 3, 3, "STI and MOV SS never both");
    }
}
