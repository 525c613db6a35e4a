// SPDX-License-Identifier: GPL-2.0

//! Faults within faults, by the SDM's "Conditions for Generating a Double Fault".

use crate::arch::addr::Gva;
use crate::arch::exception::{CpuException, ExceptionVector, PfError};
use crate::vcpu::event::{merge, EventBlocking, GuestEvent, MergedEvent};
use proptest::prelude::*;

const BENIGN: [ExceptionVector; 11] = [
    ExceptionVector::DB,
    ExceptionVector::NMI,
    ExceptionVector::BP,
    ExceptionVector(4),
    ExceptionVector(5),
    ExceptionVector::UD,
    ExceptionVector(7),
    ExceptionVector(16),
    ExceptionVector::AC,
    ExceptionVector::MC,
    ExceptionVector(19),
];
const CONTRIBUTORY: [ExceptionVector; 5] =
    [ExceptionVector::DE, ExceptionVector::TS, ExceptionVector::NP, ExceptionVector::SS, ExceptionVector::GP];

/// An exception of that vector, with an error code that tells it from #DF's.
fn raised(vector: ExceptionVector) -> CpuException {
    CpuException::with_error(vector, 0x18)
}

fn double() -> MergedEvent {
    MergedEvent::One(CpuException::with_error(ExceptionVector::DF, 0))
}

fn handled_in_turn(second: ExceptionVector) -> MergedEvent {
    MergedEvent::One(raised(second))
}

#[test]
fn a_benign_first_gives_way_to_any_second() {
    for first in BENIGN {
        for second in BENIGN.into_iter().chain(CONTRIBUTORY).chain([ExceptionVector::PF]) {
            assert_eq!(merge(first, raised(second)), handled_in_turn(second), "{first:?} {second:?}");
        }
    }
}

#[test]
fn contributory_twice_is_a_double_fault_and_no_other_second_is() {
    for first in CONTRIBUTORY {
        for second in CONTRIBUTORY {
            assert_eq!(merge(first, raised(second)), double(), "{first:?} {second:?}");
        }
        for second in BENIGN.into_iter().chain([ExceptionVector::PF]) {
            assert_eq!(merge(first, raised(second)), handled_in_turn(second), "{first:?} {second:?}");
        }
    }
}

#[test]
fn a_page_fault_doubles_with_a_contributory_or_page_fault() {
    for second in CONTRIBUTORY.into_iter().chain([ExceptionVector::PF]) {
        assert_eq!(merge(ExceptionVector::PF, raised(second)), double(), "{second:?}");
    }
    for second in BENIGN {
        assert_eq!(merge(ExceptionVector::PF, raised(second)), handled_in_turn(second), "{second:?}");
    }
}

#[test]
fn a_fault_in_the_double_fault_handlers_delivery_is_the_third() {
    for second in CONTRIBUTORY.into_iter().chain([ExceptionVector::PF]) {
        assert_eq!(merge(ExceptionVector::DF, raised(second)), MergedEvent::TripleFault, "{second:?}");
    }
}

#[test]
fn nothing_blocks_a_fresh_vcpu() {
    assert_eq!(EventBlocking::default(), EventBlocking { shadow: false, nmi: false });
}

proptest! {
    /// Faults that nobody can handle end after two steps: the guest never loops in delivery.
    #[test]
    fn a_chain_of_contributory_faults_ends(faults in prop::collection::vec(0usize..6, 3..10)) {
        let all: Vec<ExceptionVector> = CONTRIBUTORY.into_iter().chain([ExceptionVector::PF]).collect();
        let mut first = all[faults[0]];
        let mut steps = 0;
        for i in &faults[1..] {
            steps += 1;
            match merge(first, raised(all[*i])) {
                MergedEvent::TripleFault => return Ok(()),
                MergedEvent::One(next) => first = next.vector,
            }
        }
        // Only page faults after contributory ones put the end off.
        prop_assert!(steps < 3 || faults[1..].contains(&5));
    }

    #[test]
    fn an_exception_becomes_the_event_of_its_vector(gva: u64, error in 0u32..64) {
        let fault = CpuException::page_fault(Gva(gva), PfError::from_bits_truncate(error));

        prop_assert_eq!(GuestEvent::from(fault), GuestEvent::Exception { vector: ExceptionVector::PF, error: Some(error) });
    }
}
