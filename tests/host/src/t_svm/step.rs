// SPDX-License-Identifier: GPL-2.0

//! What a guest sees of a step past what keeps an NMI from it: nothing.

use crate::svm::step::{AfterStep, SingleStep};

const TF: u64 = 1 << 8;
const BS: u64 = 1 << 14;
const IDLE: u64 = 0xffff_0ff0;

const OVER_IRET: SingleStep = SingleStep { iret: Some(0x1000), rflags: 2, dr6: IDLE };
const OUT_OF_SHADOW: SingleStep = SingleStep { iret: None, ..OVER_IRET };

#[test]
fn the_trap_of_a_step_is_not_the_guests() {
    let after = AfterStep { rflags: 2, dr6: IDLE, is_ours: true };
    assert_eq!(OUT_OF_SHADOW.end(true, 0x1001, 2 | TF, IDLE | BS), after);
    assert_eq!(OVER_IRET.end(true, 0x2000, 2, IDLE | BS), after);
}

#[test]
fn the_trap_flag_that_iret_takes_from_the_stack_stays() {
    assert_eq!(OVER_IRET.end(true, 0x2000, 2 | TF, IDLE | BS).rflags, 2 | TF);
}

#[test]
fn an_exit_before_the_end_of_the_step_takes_the_trap_flag_back() {
    for step in [OVER_IRET, OUT_OF_SHADOW] {
        let after = AfterStep { rflags: 2, dr6: IDLE, is_ours: false };
        assert_eq!(step.end(false, 0x1000, 2 | TF, IDLE), after);
    }
}

#[test]
fn a_guest_that_steps_itself_gets_its_trap() {
    let step = SingleStep { rflags: 2 | TF, ..OUT_OF_SHADOW };
    let after = AfterStep { rflags: 2 | TF, dr6: IDLE | BS, is_ours: false };
    assert_eq!(step.end(true, 0x1001, 2 | TF, IDLE | BS), after);
}

#[test]
fn a_breakpoint_of_the_guest_is_told_without_the_step() {
    let after = AfterStep { rflags: 2, dr6: IDLE | 1, is_ours: false };
    assert_eq!(OUT_OF_SHADOW.end(true, 0x1001, 2 | TF, IDLE | BS | 1), after);
}

#[test]
fn what_the_guest_left_in_dr6_stays() {
    let step = SingleStep { dr6: IDLE | BS | 2, ..OVER_IRET };
    let after = step.end(true, 0x2000, 2, IDLE | BS | 2);
    assert_eq!((after.dr6, after.is_ours), (IDLE | BS | 2, true));
}
