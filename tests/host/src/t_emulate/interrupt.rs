// SPDX-License-Identifier: GPL-2.0

//! Interrupts and exceptions through the gates of protected mode, rule by rule.

use super::far::descriptor;
use super::machine::{Box86, RAX, RSP};
use crate::arch::addr::Gpa;
use crate::arch::cr::Efer;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{DescTableReg, SegAttr, SegReg};
use crate::vcpu::emulate::decode::CodeMode::{Bits16, Bits32};
use crate::vcpu::emulate::execute::{deliver, emulate};
use crate::vcpu::emulate::interrupt::InterruptCause;
use crate::vcpu::emulate::machine::{EmulatedStep, StopReason};
use proptest::prelude::*;

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const ABSENT: u16 = 0x18;
const USER_CODE: u16 = 0x20;
const CONFORMING: u16 = 0x28;
const SHORT_CODE: u16 = 0x30;

const INTERRUPT_16: u64 = 0x86;
const TRAP_16: u64 = 0x87;
const INTERRUPT_32: u64 = 0x8e;
const TRAP_32: u64 = 0x8f;
const TASK: u64 = 0x85;

const STACK: u64 = 0x8000;
const EXT: u32 = 1;

const IF: u64 = 1 << 9;
const NT: u64 = 1 << 14;
const RF: u64 = 1 << 16;
const VM: u64 = 1 << 17;
const AC: u64 = 1 << 18;

/// 64 KiB of memory at 0, RIP at 0x100 in code of 32 bits, the stack below [`STACK`], a GDT, and an IDT of 64
/// entries.
fn machine(code: &[u8]) -> Box86 {
    let mut m = Box86::new(Bits32, 0, vec![0; 0x10000]);
    (m.rip, m.gpr[usize::from(RSP)]) = (0x100, STACK);
    m.put(0x100, code);
    m.tables = [DescTableReg { base: GDT, limit: 0x37 }, DescTableReg { base: IDT, limit: 0x1ff }];
    let entries = [
        (CODE, descriptor(0, 0xfffff, 0x9a, 0xc)),
        (DATA, descriptor(0, 0xfffff, 0x92, 0xc)),
        (ABSENT, descriptor(0, 0xfffff, 0x1a, 0xc)),
        (USER_CODE, descriptor(0, 0xfffff, 0xfa, 0xc)),
        (CONFORMING, descriptor(0, 0xfffff, 0x9e, 0xc)),
        (SHORT_CODE, descriptor(0, 0x3ff, 0x9a, 0x4)),
    ];
    for (selector, raw) in entries {
        m.put(GDT + u64::from(selector), &raw.to_le_bytes());
    }
    m
}

/// Writes the gate of `vector`: its type, DPL and present bit as in the descriptor's sixth byte.
fn gate(m: &mut Box86, vector: u8, rights: u64, selector: u16, offset: u64) {
    let raw = (offset & 0xffff) | u64::from(selector) << 16 | rights << 40 | (offset >> 16) << 48;
    m.put(IDT + u64::from(vector) * 8, &raw.to_le_bytes());
}

fn fault(vector: ExceptionVector, error: u32) -> EmulatedStep<()> {
    Err(StopReason::Fault(CpuException::with_error(vector, error)))
}

/// An error code that names the entry of `vector` in the IDT.
fn entry(vector: u8) -> u32 {
    u32::from(vector) * 8 + 2
}

/// What of the stack is in use, in words of `width` bytes, the top first.
fn pushed(m: &Box86, width: usize) -> Vec<u64> {
    let top = m.gpr[usize::from(RSP)];
    let bytes = m.bytes(top, usize::try_from(STACK - top).unwrap());
    let word = |b: &[u8]| b.iter().rev().fold(0, |sum, b| sum << 8 | u64::from(*b));
    bytes.chunks(width).map(word).collect()
}

/// Delivers through one gate and checks that a refusal leaves no trace.
fn refusal(prepare: impl Fn(&mut Box86), vector: u8, cause: InterruptCause) -> EmulatedStep<()> {
    let mut m = machine(&[]);
    prepare(&mut m);
    let before = m.clone();
    let done = deliver(&mut m, vector, cause);
    assert!(done.is_err());
    assert_eq!(m, before);
    done
}

#[test]
fn an_interrupt_pushes_flags_code_segment_and_address_as_wide_as_its_gate() {
    for (rights, width) in [(INTERRUPT_16, 2), (TRAP_16, 2), (INTERRUPT_32, 4), (TRAP_32, 4)] {
        let mut m = machine(&[]);
        m.rflags = IF | 0x83;
        gate(&mut m, 0x20, rights, CODE, 0x1_2345);
        assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Ok(()));
        assert_eq!(pushed(&m, width), [0x100, u64::from(CODE), IF | 0x83], "{rights:#x}");
        assert_eq!(m.rip, if width == 2 { 0x2345 } else { 0x1_2345 });
    }
}

#[test]
fn an_exception_pushes_its_error_code_last() {
    for (rights, width) in [(INTERRUPT_16, 2), (TRAP_32, 4)] {
        let mut m = machine(&[]);
        gate(&mut m, 13, rights, CODE, 0x400);
        assert_eq!(deliver(&mut m, 13, InterruptCause::Exception(Some(0x1234))), Ok(()));
        assert_eq!(pushed(&m, width)[..3], [0x1234, 0x100, u64::from(CODE)]);
    }
}

#[test]
fn a_handler_comes_back_after_int_n_and_to_what_faulted() {
    let mut m = machine(&[0xcd, 0x20]);
    gate(&mut m, 0x20, INTERRUPT_32, CODE, 0x400);
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!(pushed(&m, 4)[0], 0x102);

    let mut m = machine(&[]);
    gate(&mut m, 6, INTERRUPT_32, CODE, 0x400);
    assert_eq!(deliver(&mut m, 6, InterruptCause::Exception(None)), Ok(()));
    assert_eq!(pushed(&m, 4)[0], 0x100);
}

#[test]
fn only_interrupt_gates_switch_interrupts_off() {
    for (rights, left) in [(INTERRUPT_16, 0), (TRAP_16, IF), (INTERRUPT_32, 0), (TRAP_32, IF)] {
        let mut m = machine(&[]);
        m.rflags = IF | NT | RF | AC | 0x102;
        gate(&mut m, 0x20, rights, CODE, 0x400);
        assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Ok(()));
        assert_eq!(m.rflags, left | AC | 2, "{rights:#x}: TF, NT and RF are clear");
    }
}

#[test]
fn faults_push_the_resume_flag_set_and_others_as_it_is() {
    let flags = |vector, cause| {
        let mut m = machine(&[]);
        gate(&mut m, vector, INTERRUPT_32, CODE, 0x400);
        assert_eq!(deliver(&mut m, vector, cause), Ok(()));
        *pushed(&m, 4).last().unwrap() & RF
    };
    for vector in [0, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19] {
        assert_eq!(flags(vector, InterruptCause::Exception(None)), RF, "{vector}");
    }
    for vector in [1, 3, 4, 8, 18] {
        assert_eq!(flags(vector, InterruptCause::Exception(None)), 0, "{vector}");
    }
    assert_eq!(flags(13, InterruptCause::Interrupt), 0);
}

#[test]
fn an_entry_beyond_the_table_is_a_fault_that_names_it() {
    let end = |m: &mut Box86| m.tables[1].limit = 0x106;
    assert_eq!(refusal(end, 0x20, InterruptCause::Interrupt), fault(ExceptionVector::GP, entry(0x20) | EXT));
    assert_eq!(
        refusal(end, 0x20, InterruptCause::Exception(None)),
        fault(ExceptionVector::GP, entry(0x20) | EXT)
    );
    assert_eq!(refusal(end, 0x20, InterruptCause::Instruction), fault(ExceptionVector::GP, entry(0x20)));

    let mut m = machine(&[]);
    m.tables[1].limit = 0x107;
    gate(&mut m, 0x20, INTERRUPT_32, CODE, 0x400);
    assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Ok(()), "the last entry");
}

#[test]
fn what_is_no_gate_of_the_table_is_a_fault() {
    for kind in 0..32 {
        let is_gate = matches!(kind, 5 | 6 | 7 | 14 | 15);
        let put = |m: &mut Box86| gate(m, 0x20, 0x80 | kind, CODE, 0x400);
        if !is_gate {
            assert_eq!(
                refusal(put, 0x20, InterruptCause::Instruction),
                fault(ExceptionVector::GP, entry(0x20)),
                "{kind:#x}"
            );
        }
    }
}

#[test]
fn an_absent_gate_is_a_fault_of_its_own() {
    for rights in [INTERRUPT_16, TRAP_16, INTERRUPT_32, TRAP_32, TASK] {
        let put = |m: &mut Box86| gate(m, 0x20, rights & !0x80, CODE, 0x400);
        assert_eq!(refusal(put, 0x20, InterruptCause::Instruction), fault(ExceptionVector::NP, entry(0x20)));
        assert_eq!(
            refusal(put, 0x20, InterruptCause::Interrupt),
            fault(ExceptionVector::NP, entry(0x20) | EXT)
        );
    }
}

#[test]
fn the_segment_of_a_handler_must_be_present_code_of_level_0() {
    let cases = [
        (0, ExceptionVector::GP, 0),
        (3, ExceptionVector::GP, 0),
        (DATA, ExceptionVector::GP, DATA),
        (USER_CODE, ExceptionVector::GP, USER_CODE),
        (0x38, ExceptionVector::GP, 0x38),
        (CODE | 4, ExceptionVector::GP, CODE | 4),
        (ABSENT, ExceptionVector::NP, ABSENT),
    ];
    for (selector, vector, error) in cases {
        let put = |m: &mut Box86| gate(m, 0x20, INTERRUPT_32, selector, 0x400);
        let error = u32::from(error);
        assert_eq!(refusal(put, 0x20, InterruptCause::Instruction), fault(vector, error), "{selector:#x}");
        assert_eq!(
            refusal(put, 0x20, InterruptCause::Interrupt),
            fault(vector, error | EXT),
            "{selector:#x}"
        );
    }
}

#[test]
fn the_privilege_level_that_a_gate_asks_for_is_not_that_of_its_handler() {
    for selector in [CODE | 3, CONFORMING, CONFORMING | 1] {
        let mut m = machine(&[]);
        gate(&mut m, 0x20, INTERRUPT_32, selector, 0x400);
        assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Ok(()));
        let cs = m.seg[SegReg::Cs as usize];
        assert_eq!((cs.selector, cs.attr.0 & 1), (selector & !3, 1), "accessed, and level 0");
    }
}

#[test]
fn a_handler_beyond_its_segment_is_a_fault() {
    let put = |m: &mut Box86| gate(m, 0x20, INTERRUPT_32, SHORT_CODE, 0x400);
    let mut m = machine(&[]);
    put(&mut m);
    assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), fault(ExceptionVector::GP, EXT));
    assert_eq!(deliver(&mut m, 0x20, InterruptCause::Instruction), fault(ExceptionVector::GP, 0));
    assert_eq!(m.gpr[usize::from(RSP)], STACK);
    gate(&mut m, 0x20, INTERRUPT_32, SHORT_CODE, 0x3ff);
    assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Ok(()));
}

#[test]
fn a_stack_without_room_is_a_fault_before_anything_is_pushed() {
    let mut m = machine(&[]);
    gate(&mut m, 13, INTERRUPT_32, CODE, 0x400);
    // A stack that grows down to 0x7ff4 has room for three words and not for a fourth.
    m.seg[SegReg::Ss as usize].attr = SegAttr(0xc097);
    m.seg[SegReg::Ss as usize].limit = 0x7ff3;
    let before = m.bytes(0x7000, 0x1000).to_vec();
    assert_eq!(deliver(&mut m, 13, InterruptCause::Exception(Some(0))), fault(ExceptionVector::SS, EXT));
    assert_eq!(m.bytes(0x7000, 0x1000), before);
    assert_eq!(m.gpr[usize::from(RSP)], STACK);
    assert_eq!(deliver(&mut m, 13, InterruptCause::Exception(None)), Ok(()));
}

#[test]
fn a_page_that_is_to_be_had_first_leaves_the_event_to_be_delivered_again() {
    for range in [IDT + 0x100..IDT + 0x108, GDT + 8..GDT + 16, 0x7ff0..0x7ff8] {
        let mut m = machine(&[]);
        gate(&mut m, 0x20, INTERRUPT_32, CODE, 0x400);
        m.retry = range;
        assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Err(StopReason::Retry));
        m.retry = 0..0;
        assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Ok(()));
        assert_eq!(pushed(&m, 4)[0], 0x100);
    }
}

#[test]
fn a_device_in_the_place_of_a_table_or_a_frame_is_never_asked() {
    for (range, at) in
        [(IDT + 0x100..IDT + 0x108, IDT + 0x100), (GDT + 8..GDT + 16, GDT + 8), (0x7ff0..0x7ff8, 0x7ff4)]
    {
        // int 0x20
        let mut m = machine(&[0xcd, 0x20]);
        gate(&mut m, 0x20, INTERRUPT_32, CODE, 0x400);
        m.device = range;
        let before = m.clone();
        assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Err(StopReason::NoMemory(Gpa(at))));
        assert_eq!(emulate(&mut m, None), Err(StopReason::NoMemory(Gpa(at))));
        assert_eq!((m.gpr, m.rip, m.rflags, m.seg), (before.gpr, before.rip, before.rflags, before.seg));
    }
}

#[test]
fn a_descriptor_comes_from_memory_alone_and_what_a_call_pushes_does_not() {
    // mov ds, ax; call 8:0x400
    let (load, call): (&[u8], &[u8]) = (&[0x8e, 0xd8], &[0x9a, 0x00, 0x04, 0, 0, 8, 0]);
    for (code, descriptor) in [(load, GDT + 16), (call, GDT + 8)] {
        let mut m = machine(code);
        m.gpr[usize::from(RAX)] = u64::from(DATA);
        m.device = descriptor..descriptor + 8;
        assert_eq!(emulate(&mut m, None), Err(StopReason::NoMemory(Gpa(descriptor))));
        // The accessed bit.
        m.device = descriptor + 5..descriptor + 6;
        assert_eq!(emulate(&mut m, None), Err(StopReason::NoMemory(Gpa(descriptor))));
    }
    let mut m = machine(call);
    m.device = 0x7ff0..0x8000;
    assert_eq!(emulate(&mut m, None), Err(StopReason::Retry), "as any store");
}

#[test]
fn a_page_fault_on_the_way_keeps_its_error_code() {
    let mut m = machine(&[]);
    gate(&mut m, 0x20, INTERRUPT_32, CODE, 0x400);
    m.gpr[usize::from(RSP)] = 0x2_0000; // beyond memory
    let Err(StopReason::Fault(e)) = deliver(&mut m, 0x20, InterruptCause::Interrupt) else {
        panic!("no fault")
    };
    assert_eq!((e.vector, e.error), (ExceptionVector::PF, Some(2)), "a write, and no EXT");
}

#[test]
fn other_levels_and_other_modes_are_left_alone() {
    type Change = fn(&mut Box86);
    let changes: [Change; 3] = [|m| m.cpl = 3, |m| m.efer = Efer::LMA.bits(), |m| m.rflags |= VM];
    for change in changes {
        let prepare = |m: &mut Box86| {
            gate(m, 0x20, INTERRUPT_32 | 0x60, CODE, 0x400);
            change(m);
        };
        for cause in [InterruptCause::Instruction, InterruptCause::Interrupt, InterruptCause::Exception(None)]
        {
            assert_eq!(refusal(prepare, 0x20, cause), Err(StopReason::Unhandled));
        }
    }
}

/// IRET in 32-bit code to what it finds on the stack.
fn iret(frame: [u32; 3], prepare: impl Fn(&mut Box86)) -> (Box86, EmulatedStep<()>) {
    let mut m = machine(&[0xcf]);
    m.gpr[usize::from(RSP)] = STACK - 12;
    for (at, word) in (STACK - 12..).step_by(4).zip(frame) {
        m.put(at, &word.to_le_bytes());
    }
    prepare(&mut m);
    let done = emulate(&mut m, None);
    (m, done)
}

#[test]
fn iret_takes_the_flags_that_level_0_may_set() {
    let (m, done) = iret([0x500, u32::from(CONFORMING), 0x3d_7fd5], |_| {});
    assert_eq!(done, Ok(()));
    assert_eq!((m.rip, m.seg[1].selector, m.gpr[usize::from(RSP)]), (0x500, CONFORMING, STACK));
    assert_eq!(m.rflags & !RF, 0x3c_7fd7);
}

#[test]
fn iret_to_what_is_no_code_of_level_0_faults_with_its_selector() {
    let cases = [
        (0, ExceptionVector::GP, 0),
        (DATA, ExceptionVector::GP, DATA),
        (USER_CODE, ExceptionVector::GP, USER_CODE),
        (0x38, ExceptionVector::GP, 0x38),
        (ABSENT, ExceptionVector::NP, ABSENT),
    ];
    for (selector, vector, error) in cases {
        let (m, done) = iret([0x500, u32::from(selector), 2], |_| {});
        assert_eq!(done, fault(vector, u32::from(error)), "{selector:#x}");
        assert_eq!((m.rip, m.gpr[usize::from(RSP)]), (0x100, STACK - 12));
    }
    assert_eq!(iret([0x400, u32::from(SHORT_CODE), 2], |_| {}).1, fault(ExceptionVector::GP, 0));
}

#[test]
fn iret_to_another_level_or_mode_is_left_alone() {
    let code = u32::from(CODE);
    assert_eq!(iret([0, u32::from(USER_CODE) | 3, 2], |_| {}).1, Err(StopReason::Unhandled));
    assert_eq!(iret([0, code, 0x2_0002], |_| {}).1, Err(StopReason::Unhandled), "virtual-8086 mode");
    assert_eq!(iret([0, code, 2], |m| m.efer = Efer::LMA.bits()).1, Err(StopReason::Unhandled));
    assert_eq!(iret([0, code, 2], |m| m.cpl = 3).1, Err(StopReason::Unhandled));
}

#[test]
fn a_fault_in_real_mode_has_no_error_code() {
    let mut m = Box86::new(Bits16, 0, vec![0; 0x10000]);
    (m.rip, m.gpr[usize::from(RSP)]) = (0x100, STACK);
    m.tables[1] = DescTableReg { base: 0, limit: 0x3ff };
    m.put(13 * 4, &[0x00, 0x04, 0x00, 0x00]);
    assert_eq!(deliver(&mut m, 13, InterruptCause::Exception(Some(0x50))), Ok(()));
    assert_eq!(m.gpr[usize::from(RSP)], STACK - 6);
}

fn any_cause() -> impl Strategy<Value = InterruptCause> {
    prop_oneof![
        Just(InterruptCause::Instruction),
        Just(InterruptCause::Interrupt),
        any::<Option<u32>>().prop_map(InterruptCause::Exception)
    ]
}

/// Where a handler of two bytes may lie: not over the tables or the stack, which its IRET is about to read.
fn any_handler() -> impl Strategy<Value = u64> {
    prop_oneof![0..GDT - 1, IDT + 0x200..STACK - 0x20, STACK..0xe000]
}

proptest! {
    /// Whatever the IDT holds, an event is delivered whole or has changed nothing but accessed bits.
    #[test]
    fn an_event_is_delivered_whole_or_not_at_all(
        raw: u64, vector: u8, cause in any_cause(), sp in 0u64..0x10000, flags in 0u64..0x40_0000,
    ) {
        let mut m = machine(&[]);
        m.tables[1].limit = 0x7ff;
        m.put(IDT + u64::from(vector) * 8, &raw.to_le_bytes());
        m.gpr[usize::from(RSP)] = sp;
        m.rflags = flags & !VM | 2;
        let mut before = m.clone();
        if deliver(&mut m, vector, cause).is_err() {
            for selector in (8..0x38).step_by(8) {
                let at = GDT + selector + 5;
                before.put(at, m.bytes(at, 1));
            }
            prop_assert_eq!(m, before);
        } else {
            prop_assert_eq!(m.rflags & (NT | RF | VM | 0x100), 0);
        }
    }

    #[test]
    fn an_interrupt_through_a_gate_comes_back_by_iret(
        is_wide: bool, is_trap: bool, eip in 0u64..0xf000, offset in any_handler(), flags in 0u64..0x40_0000,
    ) {
        let kind = if is_wide { INTERRUPT_32 } else { INTERRUPT_16 } + u64::from(is_trap);
        let mut m = machine(&[]);
        gate(&mut m, 0x20, kind, CODE, offset);
        m.rip = eip;
        m.rflags = flags & 0x3c_7fd5 & !NT | 2;
        m.seg[1].attr.0 = 0xc09b;
        let before = m.clone();
        prop_assert_eq!(deliver(&mut m, 0x20, InterruptCause::Interrupt), Ok(()));
        m.put(offset, if is_wide { &[0xcf] } else { &[0x66, 0xcf] });
        prop_assert_eq!(emulate(&mut m, None), Ok(()));
        prop_assert_eq!((m.rip, m.seg, m.gpr, m.rflags), (before.rip, before.seg, before.gpr, before.rflags));
    }
}
