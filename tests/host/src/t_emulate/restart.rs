// SPDX-License-Identifier: GPL-2.0

//! What a fault or a retry leaves behind: nothing, or whole elements of a repetition.

use super::machine::{Asked, Box86, RAX, RBX, RCX, RDI, RDX, RSI, RSP};
use crate::arch::exception::ExceptionVector;
use crate::vcpu::emulate::decode::CodeMode::{self, Bits16, Bits32, Bits64};
use crate::vcpu::emulate::execute::emulate;
use crate::vcpu::emulate::machine::StopReason;
use proptest::prelude::*;

fn machine(mode: CodeMode, code: &[u8]) -> Box86 {
    let mut m = Box86::new(mode, 0, vec![0; 0x10000]);
    m.rip = 0x100;
    m.put(0x100, code);
    m
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever the bytes and the state, the emulator answers, and what is not carried out changes
    /// nothing. (Repeated string instructions have their own tests below.)
    #[test]
    fn an_instruction_not_carried_out_changes_nothing(
        start in prop::collection::vec(any::<u8>(), 15),
        prefix in prop::sample::select(vec![0x0fu8, 0x66, 0x48, 0xf0, 0x67]),
        prefixed: bool,
        mode in prop_oneof![Just(Bits16), Just(Bits32), Just(Bits64)],
        regs in prop::array::uniform16(prop_oneof![0u64..0x2000, 0x1ff0u64..0x2010, any::<u64>()]),
        cpl in prop::sample::select(vec![0u8, 3]),
        wall in 0u64..0x2000,
        retries: bool,
    ) {
        let mut code = start;
        if prefixed {
            code.insert(0, prefix);
            code.truncate(15);
        }
        code.iter_mut().filter(|byte| matches!(byte, 0xf2 | 0xf3)).for_each(|byte| *byte = 0x0f);
        let mut m = Box86::new(mode, 0, vec![0; 0x2000]);
        m.rip = 0x100;
        m.gpr = regs;
        m.cpl = cpl;
        if retries {
            m.retry = wall..wall + 0x400;
        } else {
            m.read_only = wall..wall + 0x400;
        }
        let before = m.clone();

        let result = emulate(&mut m, Some(&code));

        if result.is_err() {
            m.asked.clear();
            prop_assert_eq!(m, before);
        }
    }
}

#[test]
fn a_read_modify_write_of_a_read_only_page_is_a_write_fault() {
    let mut m = machine(Bits64, &[0x01, 0x03]); // add [rbx], eax
    m.gpr[usize::from(RBX)] = 0x2000;
    m.read_only = 0x2000..0x3000;

    let Err(StopReason::Fault(fault)) = emulate(&mut m, None) else { panic!("no fault") };

    assert_eq!((fault.vector, fault.error), (ExceptionVector::PF, Some(3)));
}

#[test]
fn string_input_takes_nothing_from_the_port_before_its_page_is_there() {
    let mut m = machine(Bits32, &[0xf3, 0x6c]); // rep insb
    m.gpr[usize::from(RDI)] = 0x1ffe;
    m.gpr[usize::from(RCX)] = 4;
    m.gpr[usize::from(RDX)] = 0x60;
    m.port_input = vec![1, 2, 3, 4];
    m.retry = 0x2000..0x3000;

    assert_eq!(emulate(&mut m, None), Err(StopReason::Retry));

    assert_eq!(m.port_input, [3, 4]);
    assert_eq!((m.gpr[usize::from(RCX)], m.gpr[usize::from(RDI)], m.rip), (2, 0x2000, 0x100));

    m.retry = 0..0;
    assert_eq!(emulate(&mut m, None), Ok(()));

    assert_eq!(m.bytes(0x1ffe, 4), [1, 2, 3, 4]);
    assert_eq!(m.rip, 0x102);
}

#[test]
fn a_repeated_move_stops_at_the_page_that_faults() {
    let mut m = machine(Bits64, &[0xf3, 0x48, 0xa5]); // rep movsq
    m.gpr[usize::from(RSI)] = 0x4000;
    m.gpr[usize::from(RDI)] = 0x1ff0;
    m.gpr[usize::from(RCX)] = 10;
    m.read_only = 0x2000..0x3000;

    let Err(StopReason::Fault(fault)) = emulate(&mut m, None) else { panic!("no fault") };

    assert_eq!(fault.cr2.unwrap().0, 0x2000);
    assert_eq!((m.gpr[usize::from(RCX)], m.gpr[usize::from(RSI)], m.rip), (8, 0x4010, 0x100));
}

#[test]
fn a_long_repetition_is_left_in_the_middle_and_goes_on() {
    let mut m = machine(Bits64, &[0xf3, 0xaa]); // rep stosb
    m.gpr[usize::from(RAX)] = 0x11;
    m.gpr[usize::from(RDI)] = 0x2000;
    m.gpr[usize::from(RCX)] = 5000;
    let mut calls = 0;

    while m.rip == 0x100 {
        let left = m.gpr[usize::from(RCX)];
        assert_eq!(emulate(&mut m, None), Ok(()));
        assert!(m.gpr[usize::from(RCX)] < left, "no progress");
        calls += 1;
    }

    assert!(calls > 1, "5000 elements at once");
    assert_eq!(m.bytes(0x2000, 5001).iter().filter(|byte| **byte == 0x11).count(), 5000);
}

#[test]
fn output_to_a_port_that_waits_is_run_again() {
    let mut m = machine(Bits64, &[0xec]); // in al, dx
    let before = m.clone();
    assert_eq!(emulate(&mut m, None), Err(StopReason::Retry));
    assert_eq!(m, before);
    m.port_input = vec![7];

    assert_eq!(emulate(&mut m, None), Ok(()));

    assert_eq!((m.gpr[usize::from(RAX)], m.asked.len()), (7, 1));
}

#[test]
fn a_push_that_faults_leaves_the_stack_pointer() {
    for code in
        [&[0x50][..], &[0x6a, 1], &[0x9c], &[0xe8, 0, 0, 0, 0], &[0xff, 0x33], &[0x60], &[0xc8, 0, 0, 0]]
    {
        let mut m = machine(Bits32, code);
        m.gpr[usize::from(RSP)] = 0x2000;
        m.gpr[usize::from(RBX)] = 0x3000;
        m.retry = 0x1f00..0x2000;
        let before = m.clone();

        assert_eq!(emulate(&mut m, None), Err(StopReason::Retry), "{code:02x?}");

        assert_eq!(m, before);
    }
}

#[test]
fn a_contended_lock_gives_up_for_now() {
    let mut m = machine(Bits64, &[0xf0, 0x01, 0x03]); // lock add [rbx], eax
    m.gpr[usize::from(RBX)] = 0x2000;
    m.gpr[usize::from(RAX)] = 0x100;
    m.rivals = u32::MAX;

    assert_eq!(emulate(&mut m, None), Err(StopReason::Retry));

    assert_eq!(m.rip, 0x100);
    assert_eq!(m.bytes(0x2001, 1), [0]);
    assert!(m.asked.contains(&Asked::Cmpxchg(0x2000)));
}

#[test]
fn a_repetition_under_the_trap_flag_stops_after_each_element() {
    let mut m = machine(Bits64, &[0xf3, 0xaa]); // rep stosb
    m.gpr[usize::from(RDI)] = 0x2000;
    m.gpr[usize::from(RCX)] = 3;
    m.rflags |= 1 << 8;

    for left in [2, 1] {
        assert_eq!(emulate(&mut m, None), Ok(()));
        assert_eq!((m.gpr[usize::from(RCX)], m.rip), (left, 0x100));
        assert_eq!(m.rflags >> 16 & 1, 1, "RF, for the instruction goes on");
    }
    assert_eq!(emulate(&mut m, None), Ok(()));

    assert_eq!((m.gpr[usize::from(RCX)], m.rip, m.rflags >> 16 & 1), (0, 0x102, 0));
}

#[test]
fn a_long_repetition_is_left_in_between() {
    let mut m = machine(Bits64, &[0xf3, 0xaa]);
    m.gpr[usize::from(RDI)] = 0x2000;
    m.gpr[usize::from(RCX)] = 300;

    let calls = (1..).find(|_| emulate(&mut m, None).is_ok() && m.rip != 0x100).unwrap();

    assert_eq!((calls, m.gpr[usize::from(RDI)]), (3, 0x2000 + 300));
}
