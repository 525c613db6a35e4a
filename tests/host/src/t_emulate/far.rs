// SPDX-License-Identifier: GPL-2.0

//! Far branches, descriptors and the table of real mode, by example.

use super::machine::{Box86, RAX, RSP};
use crate::arch::cr::Efer;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{DescTableReg, SegReg};
use crate::vcpu::emulate::decode::CodeMode::{self, Bits16, Bits32, Bits64};
use crate::vcpu::emulate::execute::{deliver, emulate};
use crate::vcpu::emulate::interrupt::InterruptCause;
use crate::vcpu::emulate::machine::{EmulatedStep, StopReason};
use proptest::prelude::*;

const GDT: u64 = 0x1000;
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const ABSENT: u16 = 0x18;
const USER_CODE: u16 = 0x20;
const TASK: u16 = 0x28;
const LDT: u16 = 0x30;
const READ_ONLY: u16 = 0x38;
const GATE: u16 = 0x40;

pub(super) fn descriptor(base: u32, limit: u32, rights: u64, flags: u64) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | rights << 40
        | (limit >> 16 & 15) << 48
        | flags << 52
        | (base >> 24) << 56
}

/// 64 KiB of memory at 0, RIP at 0x100, the stack at 0x8000, a GDT at 0x1000.
fn machine(mode: CodeMode, code: &[u8]) -> Box86 {
    let mut m = Box86::new(mode, 0, vec![0; 0x10000]);
    (m.rip, m.gpr[usize::from(RSP)]) = (0x100, 0x8000);
    m.put(0x100, code);
    m.tables[0] = DescTableReg { base: GDT, limit: 0x47 };
    let entries = [
        (CODE, descriptor(0x1234_5000, 0xfffff, 0x9a, 0xc)),
        (DATA, descriptor(0, 0xffff, 0x92, 0)),
        (ABSENT, descriptor(0, 0xffff, 0x12, 0)),
        (USER_CODE, descriptor(0, 0xfffff, 0xfa, 0xc)),
        (TASK, descriptor(0x2000, 0x67, 0x89, 0)),
        (LDT, descriptor(0x3000, 0xf, 0x82, 0)),
        (READ_ONLY, descriptor(0, 0xffff, 0x90, 0)),
        (GATE, descriptor(0, 0, 0x8c, 0)),
    ];
    for (selector, raw) in entries {
        m.put(GDT + u64::from(selector), &raw.to_le_bytes());
    }
    m
}

pub(super) fn fault(vector: ExceptionVector, error: u16) -> EmulatedStep<()> {
    Err(StopReason::Fault(CpuException::with_error(vector, u32::from(error))))
}

/// MOV to a segment register from AX, in 32-bit protected mode.
fn load(reg: SegReg, selector: u16) -> (Box86, EmulatedStep<()>) {
    let mut m = machine(Bits32, &[0x8e, 0xc0 | (reg as u8) << 3]);
    m.gpr[usize::from(RAX)] = u64::from(selector);
    let done = emulate(&mut m, None);
    (m, done)
}

#[test]
fn a_data_segment_is_loaded_from_its_descriptor_which_becomes_accessed() {
    let (m, done) = load(SegReg::Es, DATA);
    assert_eq!(done, Ok(()));
    let es = m.seg[SegReg::Es as usize];
    assert_eq!((es.selector, es.base, es.limit, es.attr.0), (DATA, 0, 0xffff, 0x93));
    assert_eq!(m.bytes(GDT + u64::from(DATA) + 5, 1), [0x93]);
}

#[test]
fn a_limit_in_pages_counts_bytes_once_loaded() {
    let (m, done) = load(SegReg::Fs, CODE);
    assert_eq!(done, Ok(()));
    let fs = m.seg[SegReg::Fs as usize];
    assert_eq!((fs.base, fs.limit, fs.attr.0), (0x1234_5000, 0xffff_ffff, 0xc09b));
}

#[test]
fn a_null_selector_makes_a_segment_unusable_but_the_stack_faults() {
    let (m, done) = load(SegReg::Gs, 3);
    assert_eq!(done, Ok(()));
    assert!(m.seg[SegReg::Gs as usize].attr.is_unusable());
    assert_eq!(load(SegReg::Ss, 0).1, fault(ExceptionVector::GP, 0));
}

#[test]
fn a_bad_descriptor_is_refused_with_its_selector() {
    assert_eq!(load(SegReg::Ds, ABSENT).1, fault(ExceptionVector::NP, ABSENT));
    assert_eq!(load(SegReg::Ss, ABSENT).1, fault(ExceptionVector::SS, ABSENT));
    assert_eq!(load(SegReg::Ss, READ_ONLY).1, fault(ExceptionVector::GP, READ_ONLY));
    assert_eq!(load(SegReg::Ss, CODE).1, fault(ExceptionVector::GP, CODE));
    assert_eq!(load(SegReg::Ds, TASK).1, fault(ExceptionVector::GP, TASK));
    assert_eq!(load(SegReg::Ds, 0x48).1, fault(ExceptionVector::GP, 0x48));
}

#[test]
fn the_other_table_is_that_of_ldtr() {
    let mut m = machine(Bits32, &[0x0f, 0x00, 0xd0]); // lldt ax
    m.gpr[usize::from(RAX)] = u64::from(LDT);
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!((m.ldt.base, m.ldt.limit, m.ldt.attr.0), (0x3000, 15, 0x82));

    m.put(0x3008, &descriptor(0x4000, 0xff, 0x93, 0).to_le_bytes());
    (m.rip, m.gpr[usize::from(RAX)]) = (0x200, 0xc);
    m.put(0x200, &[0x8e, 0xd8]); // mov ds, ax
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!(m.seg[SegReg::Ds as usize].base, 0x4000);
}

#[test]
fn ltr_marks_the_task_busy_and_refuses_a_busy_one() {
    let mut m = machine(Bits32, &[0x0f, 0x00, 0xd8]); // ltr ax
    m.gpr[usize::from(RAX)] = u64::from(TASK);
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!((m.task.base, m.task.attr.0), (0x2000, 0x8b));
    m.rip = 0x100;
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP, TASK));
}

#[test]
fn a_far_jump_leaves_real_mode_for_32_bit_code() {
    // ljmpl $8, $0x11223344 with CR0.PE just set: CS is still that of real mode.
    let mut m = machine(Bits16, &[0x66, 0xea, 0x44, 0x33, 0x22, 0x11, 0x08, 0x00]);
    m.cr[0] |= 1;
    assert_eq!(emulate(&mut m, None), Ok(()));
    let cs = m.seg[SegReg::Cs as usize];
    assert_eq!((m.rip, cs.selector, cs.base, cs.attr.0), (0x1122_3344, CODE, 0x1234_5000, 0xc09b));
}

#[test]
fn a_far_jump_within_real_mode_takes_a_paragraph_number() {
    let mut m = machine(Bits16, &[0xea, 0x34, 0x12, 0x00, 0x20]);
    assert_eq!(emulate(&mut m, None), Ok(()));
    let cs = m.seg[SegReg::Cs as usize];
    assert_eq!((m.rip, cs.selector, cs.base), (0x1234, 0x2000, 0x20000));
}

#[test]
fn far_jumps_that_need_more_than_code_at_level_0_are_left_alone() {
    let far = |selector: u16| {
        let [low, high] = selector.to_le_bytes();
        let mut m = machine(Bits32, &[0xea, 0, 0, 0, 0, low, high]);
        emulate(&mut m, None)
    };
    assert_eq!(far(GATE), Err(StopReason::Unhandled));
    assert_eq!(far(DATA), fault(ExceptionVector::GP, DATA));
    assert_eq!(far(USER_CODE), fault(ExceptionVector::GP, USER_CODE));
    assert_eq!(far(0), fault(ExceptionVector::GP, 0));
    let mut m = machine(Bits64, &[0xff, 0x2b]); // ljmp [rbx]
    assert_eq!(emulate(&mut m, None), Err(StopReason::Unhandled));
    let mut m = machine(Bits32, &[0xea, 0, 0, 0, 0, 8, 0]);
    m.efer = Efer::LMA.bits();
    assert_eq!(emulate(&mut m, None), Err(StopReason::Unhandled));
}

#[test]
fn a_far_call_comes_back_by_a_far_return() {
    let mut m = machine(Bits16, &[0x9a, 0x00, 0x04, 0x10, 0x00]); // lcall 0x10:0x400
    m.seg[SegReg::Cs as usize].selector = 0;
    m.put(0x500, &[0xca, 0x06, 0x00]); // lret 6
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!((m.rip, m.seg[1].base, m.gpr[usize::from(RSP)]), (0x400, 0x100, 0x7ffc));
    assert_eq!(m.bytes(0x7ffc, 4), [0x05, 0x01, 0, 0]);
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!((m.rip, m.seg[1].base, m.gpr[usize::from(RSP)]), (0x105, 0, 0x8006));
}

#[test]
fn lgdt_takes_24_bits_of_base_with_16_bit_operands() {
    let image = [0x27, 0x00, 0x44, 0x33, 0x22, 0x11];
    for (code, base) in [
        (&[0x0f, 0x01, 0x16, 0x00, 0x05][..], 0x22_3344),
        (&[0x66, 0x0f, 0x01, 0x16, 0x00, 0x05], 0x1122_3344),
    ] {
        let mut m = machine(Bits16, code);
        m.put(0x500, &image);
        assert_eq!(emulate(&mut m, None), Ok(()));
        assert_eq!(m.tables[0], DescTableReg { base, limit: 0x27 });
    }
}

#[test]
fn sidt_stores_what_lidt_loads() {
    let mut m = machine(Bits32, &[0x0f, 0x01, 0x1d, 0x00, 0x05, 0x00, 0x00]); // lidt [0x500]
    m.put(0x500, &[0xff, 0x03, 0x44, 0x33, 0x22, 0x11]);
    m.put(0x107, &[0x0f, 0x01, 0x0d, 0x00, 0x06, 0x00, 0x00]); // sidt [0x600]
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!(m.bytes(0x600, 6), [0xff, 0x03, 0x44, 0x33, 0x22, 0x11]);
}

#[test]
fn an_interrupt_without_an_entry_in_the_table_faults() {
    let mut m = machine(Bits16, &[0xcd, 0x10]);
    m.tables[1] = DescTableReg { base: 0, limit: 0x3f };
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP, 0));
    assert_eq!(m.gpr[usize::from(RSP)], 0x8000);
}

#[test]
fn int3_and_into_have_their_own_entries() {
    let mut m = machine(Bits16, &[0xce, 0xcc]); // into; int3
    m.tables[1] = DescTableReg { base: 0, limit: 0x3ff };
    m.put(3 * 4, &[0x00, 0x03, 0x00, 0x00]);
    m.put(4 * 4, &[0x00, 0x04, 0x00, 0x00]);
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!(m.rip, 0x101, "no overflow, no interrupt");
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!(m.rip, 0x300);
    (m.rip, m.rflags) = (0x100, 0x802);
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!(m.rip, 0x400);
}

proptest! {
    #[test]
    fn an_interrupt_in_real_mode_comes_back_by_iret(
        vector: u8, ip in 0u16..0x1000, cs in 0x40u16..0x200, flags in any::<u16>(), sp in 0x4000u16..0xff00,
    ) {
        let mut m = machine(Bits16, &[]);
        m.tables[1] = DescTableReg { base: 0, limit: 0x3ff };
        let at = u64::from(vector) * 4;
        m.put(at, &[ip.to_le_bytes(), cs.to_le_bytes()].concat());
        m.seg[1].selector = 0x20;
        m.seg[1].base = 0x200;
        m.gpr[usize::from(RSP)] = u64::from(sp & !1);
        m.rflags = u64::from(flags & 0x7fd5) | 2;
        let before = m.clone();
        prop_assert_eq!(deliver(&mut m, vector, InterruptCause::Interrupt), Ok(()));
        prop_assert_eq!((m.rip, m.seg[1].selector, m.seg[1].base), (u64::from(ip), cs, u64::from(cs) << 4));
        prop_assert_eq!(m.rflags & 0x300, 0, "IF and TF are clear");
        let code = m.seg[1].base + m.rip;
        m.put(code, &[0xcf]);
        prop_assert_eq!(emulate(&mut m, None), Ok(()));
        prop_assert_eq!((m.rip, m.seg, m.gpr, m.rflags), (before.rip, before.seg, before.gpr, before.rflags));
    }
}
