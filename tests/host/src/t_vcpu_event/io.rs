// SPDX-License-Identifier: GPL-2.0

//! Accesses that user space answers while the instruction is tried again.

use crate::arch::addr::Gpa;
use crate::vcpu::emulate::decode::{decode, CodeMode};
use crate::vcpu::io::PendingIo;
use proptest::prelude::*;

const DEVICE: Gpa = Gpa(0xd000_0000);

/// Asks for an access and has it answered.
fn answered(io: &mut PendingIo, gpa: Gpa, len: u8, is_write: bool, data: u64) {
    assert!(io.ask(gpa, len, is_write));
    assert!(io.complete(data));
}

#[test]
fn a_read_finds_its_answer_when_the_instruction_runs_again() {
    let mut io = PendingIo::new();
    io.begin();
    assert_eq!(io.answer(DEVICE, 4, false), None);
    answered(&mut io, DEVICE, 4, false, 0x1234_5678);

    io.begin();

    assert_eq!(io.answer(DEVICE, 4, false), Some(0x1234_5678));
    assert_eq!(io.answer(DEVICE, 4, false), None, "the next access is one of its own");
}

#[test]
fn an_answer_is_for_the_access_that_asked_alone_and_is_forgotten_when_another_comes() {
    for (gpa, len, is_write) in [(Gpa(DEVICE.0 + 4), 4, false), (DEVICE, 2, false), (DEVICE, 4, true)] {
        let mut io = PendingIo::new();
        answered(&mut io, Gpa(0), 1, false, 5);
        answered(&mut io, DEVICE, 4, false, 1);
        answered(&mut io, Gpa(8), 4, false, 2);
        io.begin();
        assert_eq!(io.answer(Gpa(0), 1, false), Some(5));

        assert_eq!(io.answer(gpa, len, is_write), None, "{gpa:?}, {len} bytes, write: {is_write}");

        answered(&mut io, gpa, len, is_write, 7);
        io.begin();
        assert_eq!(io.answer(Gpa(0), 1, false), Some(5), "what came before stays");
        assert_eq!(io.answer(gpa, len, is_write), Some(7));
        assert_eq!(io.answer(Gpa(8), 4, false), None);
    }
}

#[test]
fn what_was_done_in_the_kernel_is_not_done_again() {
    let mut io = PendingIo::new();
    io.begin();
    assert!(!io.has_begun());
    assert_eq!(io.answer(DEVICE, 8, false), None);
    io.done(DEVICE, 8, false, 0x11);
    assert!(io.has_begun());
    assert_eq!(io.answer(Gpa(0), 4, true), None, "the next access is one of its own");
    answered(&mut io, Gpa(0), 4, true, 0);

    io.begin();

    assert_eq!(io.answer(DEVICE, 8, false), Some(0x11));
    assert_eq!(io.answer(Gpa(0), 4, true), Some(0));
    io.forget();
    assert!(!io.has_begun());
}

#[test]
fn an_answer_that_nobody_asked_for_is_refused() {
    let mut io = PendingIo::new();
    assert!(!io.complete(5));
    answered(&mut io, DEVICE, 1, false, 6);

    assert!(!io.complete(7), "one question, one answer");

    io.begin();
    assert_eq!(io.answer(DEVICE, 1, false), Some(6));
    assert_eq!(io.answer(DEVICE, 1, false), None);
}

#[test]
fn an_instruction_is_unfinished_where_it_asked_until_it_is_done() {
    // mov al, [rbx]
    let insn = decode(&[0x8a, 0x03], CodeMode::Bits64).unwrap();
    let mut io = PendingIo::new();
    assert!(!io.is_unfinished());

    io.ask(DEVICE, 1, false);
    io.keep(insn, CodeMode::Bits64, 0x1000);
    assert!(io.complete(7));

    assert!(io.is_unfinished());
    assert_eq!(io.only_answer(1, false), Some(7));
    assert_eq!(io.only_answer(1, true), None);
    assert_eq!(io.only_answer(2, false), None, "a part of the access");
    assert_eq!(io.unfinished(0x1000), Some(&(insn, CodeMode::Bits64)));
    assert_eq!(io.unfinished(0x1002), None, "user space sent the vCPU elsewhere");
    io.forget();
    assert!(!io.is_unfinished());
    assert_eq!(io.unfinished(0x1000), None);
}

#[test]
fn a_completed_instruction_leaves_no_answer_to_the_next() {
    let mut io = PendingIo::new();
    answered(&mut io, DEVICE, 8, true, 0);
    io.ask(DEVICE, 8, false);

    io.forget();

    io.begin();
    assert_eq!(io.answer(DEVICE, 8, true), None);
    assert!(!io.complete(1), "the question is forgotten too");
}

proptest! {
    /// An instruction of up to eight accesses completes after as many answers, each seen in order.
    #[test]
    fn an_instruction_makes_progress_with_each_answer(
        accesses in prop::collection::vec((0u64..4, 0u32..4, any::<bool>(), any::<u64>()), 1..=8),
    ) {
        let mut io = PendingIo::new();
        for tries in 0..=accesses.len() {
            io.begin();
            let mut done = 0;
            for &(at, size, is_write, data) in &accesses {
                let (gpa, len) = (Gpa(DEVICE.0 + at * 8), 1u8 << size);
                match io.answer(gpa, len, is_write) {
                    Some(answer) => {
                        prop_assert_eq!(answer, data);
                        done += 1;
                    }
                    None => {
                        answered(&mut io, gpa, len, is_write, data);
                        break;
                    }
                }
            }
            prop_assert_eq!(done, tries);
        }
    }

    /// More answers than an instruction has accesses are not asked for, so that none is asked for again and again.
    #[test]
    fn a_full_log_takes_no_more(n in 16u64..40) {
        let mut io = PendingIo::new();
        for i in 0..n {
            prop_assert_eq!(io.ask(Gpa(DEVICE.0 + i), 1, false), i < 16);
            prop_assert_eq!(io.complete(i), i < 16);
        }
        io.done(Gpa(DEVICE.0 + 16), 1, false, 16);

        io.begin();

        for i in 0..16 {
            prop_assert_eq!(io.answer(Gpa(DEVICE.0 + i), 1, false), Some(i));
        }
        prop_assert_eq!(io.answer(Gpa(DEVICE.0 + 16), 1, false), None);
    }
}
