// SPDX-License-Identifier: GPL-2.0

//! Switches between tasks, by example; and that memory which is not there leaves no half of one behind.

use super::far::{descriptor, fault};
use super::machine::{Box86, RAX, RDI, RSP};
use crate::arch::cr::Cr0;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{DescTableReg, SegReg};
use crate::vcpu::emulate::decode::CodeMode::Bits32;
use crate::vcpu::emulate::execute::{deliver, emulate};
use crate::vcpu::emulate::interrupt::InterruptCause;
use crate::vcpu::emulate::machine::{EmulatedStep, StopReason};

const GDT: u64 = 0x1000;
const IDT: u64 = 0x1800;
const CODE: u16 = 0x08;
const DATA: u16 = 0x10;
const USER_CODE: u16 = 0x18;
const USER_DATA: u16 = 0x20;
const OLD: u16 = 0x28;
const NEW: u16 = 0x30;
const NEW16: u16 = 0x38;
const GATE: u16 = 0x40;
const LDT: u16 = 0x48;
const ABSENT: u16 = 0x50;
const SHORT: u16 = 0x58;

const OLD_TSS: u64 = 0x2000;
const NEW_TSS: u64 = 0x3000;
const NEW_TSS16: u64 = 0x4000;
/// The linear address of the new task's stack.
const STACK: u64 = 0x9000;

const IF: u64 = 1 << 9;
const NT: u64 = 1 << 14;
const RF: u64 = 1 << 16;
const VM: u64 = 1 << 17;

/// 64 KiB of memory at 0; a task at 0x100 in code of 32 bits, and others in TSSs of both sizes.
fn machine(code: &[u8]) -> Box86 {
    let mut m = Box86::new(Bits32, 0, vec![0; 0x10000]);
    for (n, value) in (0..8).zip(0x1111_0000u64..) {
        m.gpr[n] = value;
    }
    (m.rip, m.gpr[usize::from(RSP)], m.rflags) = (0x100, 0x8000, IF | 2);
    m.put(0x100, code);
    m.tables = [DescTableReg { base: GDT, limit: 0x5f }, DescTableReg { base: IDT, limit: 0x7ff }];
    let entries = [
        (CODE, descriptor(0, 0xfffff, 0x9a, 0xc)),
        (DATA, descriptor(0, 0xfffff, 0x92, 0xc)),
        (USER_CODE, descriptor(0, 0xfffff, 0xfa, 0xc)),
        (USER_DATA, descriptor(0, 0xfffff, 0xf2, 0xc)),
        (OLD, descriptor(0x2000, 0x67, 0x8b, 0)),
        (NEW, descriptor(0x3000, 0x67, 0x89, 0)),
        (NEW16, descriptor(0x4000, 0x2b, 0x81, 0)),
        (GATE, u64::from(NEW) << 16 | 0x85 << 40),
        (LDT, descriptor(0x5000, 0xf, 0x82, 0)),
        (ABSENT, descriptor(0x3000, 0x67, 0x09, 0)),
        (SHORT, descriptor(0x3000, 0x66, 0x89, 0)),
    ];
    for (selector, raw) in entries {
        m.put(GDT + u64::from(selector), &raw.to_le_bytes());
    }
    m.task.selector = OLD;
    (m.task.base, m.task.limit, m.task.attr.0) = (OLD_TSS, 0x67, 0x8b);
    image32(&mut m, [DATA, CODE, DATA, DATA, DATA, DATA], 0x2);
    m
}

/// Fills the TSS of 32 bits of the new task.
fn image32(m: &mut Box86, selectors: [u16; 6], flags: u32) {
    let mut words = vec![0x6000, 0x300, flags];
    words.extend((0..8).map(|n| if n == u32::from(RSP) { STACK as u32 } else { 0x2222_0000 + n }));
    words.extend(selectors.map(u32::from));
    words.push(u32::from(LDT));
    let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    m.put(NEW_TSS + 0x1c, &bytes);
}

fn word(m: &Box86, at: u64) -> u64 {
    u64::from(u32::from_le_bytes(m.bytes(at, 4).try_into().unwrap()))
}

/// The type byte of a descriptor.
fn rights(m: &Box86, selector: u16) -> u8 {
    m.bytes(GDT + u64::from(selector) + 5, 1)[0]
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let [low, high] = selector.to_le_bytes();
    vec![opcode, 0, 0, 0, 0, low, high]
}

fn jump(selector: u16, prepare: impl Fn(&mut Box86)) -> (Box86, EmulatedStep<()>) {
    let mut m = machine(&far(0xea, selector));
    prepare(&mut m);
    let done = emulate(&mut m, None);
    (m, done)
}

#[test]
fn a_jump_saves_one_task_and_loads_the_other() {
    for selector in [NEW, GATE] {
        let (m, done) = jump(selector, |_| {});
        assert_eq!(done, Ok(()));
        assert_eq!((word(&m, OLD_TSS + 0x20), word(&m, OLD_TSS + 0x24)), (0x107, IF | 2));
        assert_eq!((word(&m, OLD_TSS + 0x28), word(&m, OLD_TSS + 0x38)), (0x1111_0000, 0x8000));
        assert_eq!((word(&m, OLD_TSS + 0x48), word(&m, OLD_TSS + 0x4c)), (16, 8));
        assert_eq!((rights(&m, OLD), rights(&m, NEW)), (0x89, 0x8b));
        assert_eq!((m.rip, m.rflags, m.gpr[usize::from(RDI)]), (0x300, 2, 0x2222_0007));
        assert_eq!(m.gpr[usize::from(RSP)], STACK);
        assert_eq!(m.seg.map(|s| s.selector), [DATA, CODE, DATA, DATA, DATA, DATA]);
        assert_eq!((m.task.selector, m.task.base, m.task.attr.0), (NEW, NEW_TSS, 0x8b));
        assert_eq!((m.ldt.selector, m.ldt.base), (LDT, 0x5000));
        assert_ne!(m.cr[0] & Cr0::TS.bits(), 0);
        assert_eq!(word(&m, NEW_TSS), 0, "no link");
    }
}

#[test]
fn cr3_is_the_task_s_own_under_paging_alone() {
    assert_eq!(jump(NEW, |_| {}).0.cr[3], 0);
    assert_eq!(jump(NEW, |m| m.cr[0] |= Cr0::PG.bits()).0.cr[3], 0x6000);
}

#[test]
fn a_called_task_comes_back_by_iret() {
    let mut m = machine(&far(0x9a, NEW));
    m.put(0x300, &[0xcf]);
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!((m.bytes(NEW_TSS, 2), m.rflags), (&OLD.to_le_bytes()[..], NT | 2));
    assert_eq!((rights(&m, OLD), rights(&m, NEW)), (0x8b, 0x8b));
    assert_eq!(emulate(&mut m, None), Ok(()));
    assert_eq!((m.rip, m.rflags, m.task.selector), (0x107, IF | 2, OLD));
    assert_eq!(m.gpr[usize::from(RAX)], 0x1111_0000);
    assert_eq!((rights(&m, OLD), rights(&m, NEW)), (0x8b, 0x89));
    assert_eq!((word(&m, NEW_TSS + 0x20), word(&m, NEW_TSS + 0x24)), (0x301, 2), "NT is not kept");
}

#[test]
fn a_task_of_16_bits_has_the_lower_halves() {
    let (m, done) = jump(NEW16, |m| {
        let words: [u16; 15] = [0x300, 2, 1, 2, 3, 4, 0x9000, 6, 7, 8, DATA, CODE, DATA, DATA, 0];
        let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_le_bytes).collect();
        m.put(NEW_TSS16 + 0xe, &bytes);
    });
    assert_eq!(done, Ok(()));
    assert_eq!((m.rip, m.gpr[0], m.gpr[usize::from(RDI)]), (0x300, 0xffff_0001, 0xffff_0008));
    assert!(m.seg[SegReg::Fs as usize].attr.is_unusable() && m.ldt.attr.is_unusable());
    assert_eq!((m.task.selector, m.task.attr.0), (NEW16, 0x83));
}

/// Makes the new task the handler of `vector`.
fn task_gate(m: &mut Box86, vector: u64) {
    m.put(IDT + vector * 8, &(u64::from(NEW) << 16 | 0x85 << 40).to_le_bytes());
}

/// Delivers through a task gate, with code of the given level running.
fn through_gate(cause: InterruptCause, cpl: u8) -> (Box86, EmulatedStep<()>) {
    let mut m = machine(&[]);
    m.cpl = cpl;
    task_gate(&mut m, 8);
    let done = deliver(&mut m, 8, cause);
    (m, done)
}

#[test]
fn an_exception_through_a_task_gate_has_its_error_code_on_the_new_stack() {
    let (m, done) = through_gate(InterruptCause::Exception(Some(0x77)), 3);
    assert_eq!(done, Ok(()));
    assert_eq!((m.gpr[usize::from(RSP)], word(&m, STACK - 4)), (STACK - 4, 0x77));
    assert_eq!((word(&m, OLD_TSS + 0x20), m.rip, m.rflags), (0x100, 0x300, NT | 2));
    let (m, done) = through_gate(InterruptCause::Interrupt, 3);
    assert_eq!((done, m.gpr[usize::from(RSP)]), (Ok(()), STACK));
    let (_, done) = through_gate(InterruptCause::Instruction, 3);
    assert_eq!(done, fault(ExceptionVector::GP, 8 * 8 + 2), "the gate is the kernel's");
}

#[test]
fn a_fault_is_saved_with_the_resume_flag() {
    let mut m = machine(&[]);
    task_gate(&mut m, 14);
    assert_eq!(deliver(&mut m, 14, InterruptCause::Exception(Some(2))), Ok(()));
    assert_eq!(word(&m, OLD_TSS + 0x24), IF | RF | 2);
}

#[test]
fn a_task_that_may_not_be_entered_is_refused_before_anything_changes() {
    let cases = [
        (OLD, ExceptionVector::GP),
        (ABSENT, ExceptionVector::NP),
        (SHORT, ExceptionVector::TS),
        (NEW | 1, ExceptionVector::GP),
        (NEW | 4, ExceptionVector::GP),
    ];
    for (selector, vector) in cases {
        let before = machine(&far(0xea, selector));
        let (m, done) = jump(selector, |_| {});
        assert_eq!(done, fault(vector, selector & !3), "{selector:#x}");
        assert_eq!(m, before);
    }
    let mut m = machine(&far(0xea, NEW));
    m.cpl = 3;
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP, NEW), "a kernel's");
    // IRET to a task that is not busy.
    let mut m = machine(&[0xcf]);
    m.rflags |= NT;
    m.put(OLD_TSS, &NEW.to_le_bytes());
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::TS, NEW));
}

#[test]
fn a_bad_segment_is_the_new_task_s_fault() {
    let cases = [
        ([DATA, DATA, DATA, DATA, DATA, DATA], ExceptionVector::TS, DATA),
        ([DATA, CODE, CODE, DATA, DATA, DATA], ExceptionVector::TS, CODE),
        ([DATA, CODE, DATA, NEW, DATA, DATA], ExceptionVector::TS, NEW),
        ([DATA, CODE, DATA, DATA, 0x60, DATA], ExceptionVector::TS, 0x60),
        ([DATA, USER_CODE | 3, DATA, DATA, DATA, DATA], ExceptionVector::TS, DATA),
    ];
    for (selectors, vector, error) in cases {
        let (m, done) = jump(NEW, |m| image32(m, selectors, 2));
        assert_eq!(done, fault(vector, error), "{selectors:x?}");
        assert_eq!((m.rip, m.task.selector, rights(&m, NEW)), (0x300, NEW, 0x8b));
    }
}

#[test]
fn a_task_may_run_at_another_level_or_in_virtual_8086_mode() {
    let user = [USER_DATA | 3, USER_CODE | 3, USER_DATA | 3, USER_DATA | 3, 0, 0];
    let (m, done) = jump(NEW, |m| image32(m, user, 2));
    assert_eq!((done, m.seg.map(|s| s.selector)), (Ok(()), user));
    let (m, done) = jump(NEW, |m| image32(m, [1, 2, 3, 4, 5, 6], VM as u32 | 2));
    assert_eq!((done, m.rflags), (Ok(()), VM | 2));
    assert_eq!(
        m.seg.map(|s| (s.base, s.limit, s.attr.0)),
        [16, 32, 48, 64, 80, 96].map(|b| (b, 0xffff, 0xf3))
    );
}

#[test]
fn the_trap_flag_of_a_task_is_seen_before_its_first_instruction() {
    let (m, done) = jump(NEW, |m| m.put(NEW_TSS + 0x64, &[1]));
    assert_eq!(done, Err(StopReason::Fault(CpuException::plain(ExceptionVector::DB))));
    assert_eq!(m.rip, 0x300);
}

#[test]
fn memory_that_is_not_there_undoes_a_switch() {
    let switch = |m: &mut Box86| deliver(m, 8, InterruptCause::Exception(Some(0x77)));
    let start = || {
        let mut m = machine(&[]);
        task_gate(&mut m, 8);
        m
    };
    let mut whole = start();
    assert_eq!(switch(&mut whole), Ok(()));
    let mut stops = 0;
    for at in (GDT..GDT + 0x60)
        .chain(OLD_TSS..OLD_TSS + 0x68)
        .chain(NEW_TSS..NEW_TSS + 0x68)
        .chain(STACK - 4..STACK)
    {
        let mut m = start();
        m.retry = at..at + 1;
        let done = switch(&mut m);
        m.retry = 0..0;
        if done.is_err() {
            assert_eq!(done, Err(StopReason::Retry), "{at:#x}");
            let before = start();
            assert_eq!(
                Box86 { mem: Vec::new(), ..m.clone() },
                Box86 { mem: Vec::new(), ..before },
                "{at:#x}"
            );
            assert_eq!(rights(&m, NEW), 0x89, "{at:#x}");
            assert_eq!(switch(&mut m), Ok(()));
            stops += 1;
        }
        assert_eq!(m, whole, "{at:#x}");
    }
    assert!(stops > 100, "{stops}");
}
