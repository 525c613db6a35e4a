// SPDX-License-Identifier: GPL-2.0

//! Switches between tasks in protected mode. Processors leave them to who runs the guest.

use crate::abi::nr;
use crate::gates::{gate, protected, CODE, GDT, IDT, INTERRUPT_32, NOWHERE, TELL_ERROR};
use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::raw;
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    ("tasks: two jump to each other", jumps),
    ("tasks: a called one comes back by iret", call),
    ("tasks: int n leads to one through a task gate", int),
    ("tasks: a fault's has the error code on its stack", fault),
    ("tasks: a double fault has one of its own", double_fault),
    ("tasks: an nmi has one of its own", nmi),
    ("tasks: one that is busy is refused", busy),
];

const OLD: u8 = 0x28;
const NEW: u8 = 0x30;
const OLD_TSS: usize = 0x9000;
const NEW_TSS: usize = 0x9100;
/// Where the new task begins, and its stack.
const TASK: u16 = 0x2400;
const STACK: u32 = 0xa000;

/// As [`protected`], with a task register and another task that runs `task`.
fn with_task(c: &Ctx, code: &[u8], task: &[u8]) -> Guest {
    let g = protected(c, code);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.gdt.limit = 0x37;
    let tss = kvm_segment { limit: 0x67, present: 1, type_: 11, ..Default::default() };
    s.tr = kvm_segment { selector: OLD.into(), base: OLD_TSS as u64, ..tss };
    g.vcpu.set_sregs(&s).unwrap();
    for (selector, base, kind) in [(OLD, OLD_TSS, 0x8bu64), (NEW, NEW_TSS, 0x89)] {
        let raw = 0x67 | (base as u64) << 16 | kind << 40;
        g.memory.write(GDT + usize::from(selector), &raw.to_le_bytes());
    }
    let put = |at: usize, value: u32| g.memory.write(NEW_TSS + at, &value.to_le_bytes());
    put(0x20, TASK.into());
    put(0x24, 2);
    put(0x38, STACK);
    for (at, selector) in (0x48..0x60).step_by(4).zip([16, 8, 16, 16, 16, 16]) {
        put(at, selector);
    }
    g.memory.write(TASK.into(), task);
    g
}

/// Makes the new task the handler of `vector`.
fn task_gate(g: &Guest, vector: u8) {
    g.memory.write(IDT + usize::from(vector) * 8, &[0, 0, NEW, 0, 0, 0x85, 0, 0]);
}

fn old_field(g: &Guest, at: usize) -> u32 {
    u32::from_le_bytes(g.memory.read(OLD_TSS + at))
}

fn jumps(c: &Ctx) {
    // mov ebx, 0x5555; ljmp NEW:0; mov al, bl; out 0x11, al; hlt
    let code = [0xbb, 0x55, 0x55, 0, 0, 0xea, 0, 0, 0, 0, NEW, 0, 0x88, 0xd8, 0xe6, 0x11, HLT];
    // mov ebx, 0x66; mov al, bl; out 0x10, al; ljmp OLD:0
    let mut g = with_task(c, &code, &[0xbb, 0x66, 0, 0, 0, 0x88, 0xd8, 0xe6, 0x10, 0xea, 0, 0, 0, 0, OLD, 0]);

    assert_eq!(g.out(), (0x10, 0x66));
    let s = g.vcpu.get_sregs().unwrap();
    // The type is that of a busy one, but QEMU's processors leave that out.
    assert_eq!((s.tr.selector, s.tr.base, s.tr.type_ | 2), (NEW.into(), NEW_TSS as u64, 11));
    assert_eq!(s.cr0 & 8, 8, "CR0.TS");
    assert_eq!(old_field(&g, 0x20), CODE as u32 + 12);
    assert_eq!(g.out(), (0x11, 0x55));
    assert_eq!(g.vcpu.get_sregs().unwrap().tr.selector, OLD.into());
    g.hlt();
}

fn call(c: &Ctx) {
    // lcall NEW:0; mov al, 1; out 0x11, al; hlt
    let code = [0x9a, 0, 0, 0, 0, NEW, 0, 0xb0, 1, 0xe6, 0x11, HLT];
    // mov al, 2; out 0x10, al; iret
    let mut g = with_task(c, &code, &[0xb0, 2, 0xe6, 0x10, 0xcf]);

    assert_eq!(g.out(), (0x10, 2));
    assert_eq!(g.vcpu.get_regs().unwrap().rflags & 0x4000, 0x4000, "NT");
    assert_eq!(g.memory.read::<2>(NEW_TSS), [OLD, 0], "the link");
    assert_eq!(g.out(), (0x11, 1));
    assert_eq!(g.vcpu.get_regs().unwrap().rflags & 0x4000, 0);
    assert_eq!(g.memory.read::<1>(GDT + usize::from(NEW) + 5), [0x89], "no longer busy");
    g.hlt();
}

fn int(c: &Ctx) {
    // int 0x30; mov al, 1; out 0x11, al; hlt
    let mut g = with_task(c, &[0xcd, 0x30, 0xb0, 1, 0xe6, 0x11, HLT], &[0xb0, 2, 0xe6, 0x10, 0xcf]);
    task_gate(&g, 0x30);

    assert_eq!(g.out(), (0x10, 2));
    assert_eq!(old_field(&g, 0x20), CODE as u32 + 2);
    assert_eq!(g.out(), (0x11, 1));
    g.hlt();
}

fn fault(c: &Ctx) {
    // mov eax, NOWHERE; mov ds, ax
    let mut g = with_task(c, &[0xb8, NOWHERE, 0, 0, 0, 0x8e, 0xd8], &TELL_ERROR);
    task_gate(&g, 13);

    let r = g.hlt();

    assert_eq!((r.rax, r.rsp), (NOWHERE.into(), STACK.into()));
    assert_eq!(old_field(&g, 0x20), CODE as u32 + 5, "where the instruction is");
}

fn double_fault(c: &Ctx) {
    // mov eax, NOWHERE; mov ds, ax: its gate is absent, and so is that of the fault which that is.
    let mut g = with_task(c, &[0xb8, NOWHERE, 0, 0, 0, 0x8e, 0xd8], &TELL_ERROR);
    task_gate(&g, 8);

    let r = g.hlt();

    assert_eq!((r.rax, r.rsp), (0, STACK.into()));
    assert_eq!(g.vcpu.get_sregs().unwrap().tr.selector, NEW.into());
}

fn nmi(c: &Ctx) {
    // out 0x12, al; out 0x11, al; hlt
    let mut g = with_task(c, &[0xe6, 0x12, 0xe6, 0x11, HLT], &[0xb0, 2, 0xe6, 0x10, 0xcf]);
    task_gate(&g, 2);
    assert_eq!(g.out(), (0x12, 0));

    raw::ioctl(&g.vcpu, nr::NMI, 0).unwrap();

    assert_eq!(g.out(), (0x10, 2));
    assert_eq!(g.out().0, 0x11);
    g.hlt();
}

fn busy(c: &Ctx) {
    // ljmp OLD:0
    let mut g = with_task(c, &[0xea, 0, 0, 0, 0, OLD, 0], &[]);
    gate(&g, 13, INTERRUPT_32, 0x2000, &TELL_ERROR);

    assert_eq!(g.hlt().rax, OLD.into());
}
