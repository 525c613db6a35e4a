// SPDX-License-Identifier: GPL-2.0

//! Interrupts and exceptions in protected mode without paging, which go through the gates of the guest's
//! IDT, and in real mode, which go by its table of far pointers. Some processors leave both to software.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::irq::{enable_lapic, pic_guest, report, send, send_nmi, set_line};
use crate::raw::{self, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::EINTR;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("gates: real mode: an undefined instruction reaches its handler and goes on", real_undefined),
    ("gates: real mode: int n comes back with iret", real_int),
    ("gates: real mode: a fault is delivered without an error code", real_fault),
    ("gates: an undefined instruction reaches its handler and goes on", undefined),
    ("gates: a bad selector faults with it as error code", bad_selector),
    ("gates: an interrupt gate clears IF and iret restores it", interrupt_gate),
    ("gates: a trap gate leaves IF", trap_gate),
    ("gates: int3 pushes the address behind it", breakpoint),
    ("gates: a 16-bit gate pushes words", words),
    ("gates: int n beyond the table is a general protection fault", beyond_table),
    ("gates: int n through an absent gate names it", absent_gate),
    ("gates: int n to a segment that is no code names the segment", no_code),
    ("gates: an interrupt that user space gives comes back with iret", user_interrupt),
    ("gates: a line of the first 8259 reaches its handler", pic_line),
    ("gates: a message reaches the handler of its vector", message),
    ("gates: an interrupt through an absent gate becomes a fault", absent_interrupt),
    ("gates: an nmi waits for the iret of the one before, and no longer", nmi),
    ("gates: an nmi after sti waits for one instruction", nmi_in_shadow),
    ("gates: an nmi comes right behind an event that is being delivered", nmi_behind_event),
    ("gates: an nmi after sti leaves no trace of one that ended before", nmi_in_later_shadow),
    ("gates: two nmis before a run are two", two_nmis),
    ("gates: an nmi that is held back does not end hlt", nmi_and_hlt),
    ("gates: a fault on the way to a fault's handler is a double fault", double_fault),
    ("gates: a fault on the way to a double fault's handler is a shutdown", triple_fault),
    ("gates: a guest goes from real to protected mode by itself", own_way),
];

/// Where the code of a guest in protected mode is.
pub const CODE: u64 = 0x1000;
const HANDLER: u16 = 0x2000;
/// Where the GDT of a guest in protected mode is, and its IDT.
pub const GDT: usize = 0x5000;
pub const IDT: usize = 0x6000;
const STACK: u64 = 0x8000;
/// A selector beyond the end of the GDT.
pub const NOWHERE: u8 = 0x50;

/// A present interrupt gate of 32 bits; and others.
pub const INTERRUPT_32: u8 = 0x8e;
const TRAP_32: u8 = 0x8f;
const INTERRUPT_16: u8 = 0x86;
const ABSENT: u8 = 0x0e;

/// pop eax; hlt: ends with the error code in EAX.
pub const TELL_ERROR: [u8; 2] = [0x58, HLT];

/// Makes the vCPU run in protected mode without paging: flat segments of 32 bits, code at 8 and data at 16,
/// and an IDT without entries.
fn protect(g: &Guest) {
    tables(g);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.cr0 = 0x11;
    (s.gdt.base, s.gdt.limit) = (GDT as u64, 23);
    (s.idt.base, s.idt.limit) = (IDT as u64, 0x3ff);
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, db: 1, ..Default::default() };
    s.cs = kvm_segment { selector: 8, type_: 11, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, ..flat };
    (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
    g.vcpu.set_sregs(&s).unwrap();
}

/// Writes the GDT, without the accessed bits.
fn tables(g: &Guest) {
    for (at, raw) in [(8, 0x00cf_9a00_0000_ffffu64), (16, 0x00cf_9200_0000_ffff)] {
        g.memory.write(GDT + at, &raw.to_le_bytes());
    }
}

/// A guest in protected mode, see [`protect`].
pub fn protected(c: &Ctx, code: &[u8]) -> Guest {
    let g = Guest::new(c, code);
    protect(&g);
    g
}

/// Sets the gate of `vector`, which the rights say the kind of, and the code that it leads to.
pub fn gate(g: &Guest, vector: u8, rights: u8, at: u16, code: &[u8]) {
    let [low, high] = at.to_le_bytes();
    g.memory.write(IDT + usize::from(vector) * 8, &[low, high, 8, 0, 0, rights, 0, 0]);
    g.memory.write(at.into(), code);
}

fn real_undefined(c: &Ctx) {
    // ud2; mov al, 0x66; out 0x10, al; hlt
    let mut g = Guest::new(c, &[0x0f, 0x0b, 0xb0, 0x66, 0xe6, 0x10, HLT]);
    // mov bp, sp; add word [bp], 2; iret
    g.handler(6, HANDLER, &[0x89, 0xe5, 0x83, 0x46, 0x00, 0x02, 0xcf]);

    assert_eq!(g.out(), (0x10, 0x66));
    assert_eq!(g.hlt().rsp, STACK);
}

fn real_int(c: &Ctx) {
    // sti; int 0x21; mov al, 1; out 0x11, al; hlt
    let mut g = Guest::new(c, &[0xfb, 0xcd, 0x21, 0xb0, 1, 0xe6, 0x11, HLT]);
    // mov al, 0x21; out 0x10, al; iret
    g.handler(0x21, HANDLER, &[0xb0, 0x21, 0xe6, 0x10, 0xcf]);

    assert_eq!(g.out(), (0x10, 0x21));
    assert_eq!(g.vcpu.get_kvm_run().if_flag, 0, "the handler runs with interrupts off");
    assert_eq!(g.out(), (0x11, 1));
    assert_eq!(g.vcpu.get_kvm_run().if_flag, 1, "as before");
    assert_eq!(g.hlt().rsp, STACK);
}

fn real_fault(c: &Ctx) {
    // mov ecx, 0x0bad0bad; rdmsr
    let mut g = Guest::new(c, &[0x66, 0xb9, 0xad, 0x0b, 0xad, 0x0b, 0x0f, 0x32]);
    g.handler(13, HANDLER, &[HLT]);

    assert_eq!(g.hlt().rsp, STACK - 6);
    assert_eq!(g.memory.read::<2>(0x7ffa), [0x06, 0x10], "where it comes back to");
}

fn undefined(c: &Ctx) {
    let mut g = protected(c, &[0x0f, 0x0b, 0xb0, 0x66, 0xe6, 0x10, HLT]);
    // add dword [esp], 2; iret
    gate(&g, 6, INTERRUPT_32, HANDLER, &[0x83, 0x04, 0x24, 0x02, 0xcf]);

    assert_eq!(g.out(), (0x10, 0x66));
    assert_eq!(g.hlt().rsp, STACK);
}

fn bad_selector(c: &Ctx) {
    // mov eax, NOWHERE; mov ds, ax
    let mut g = protected(c, &[0xb8, NOWHERE, 0, 0, 0, 0x8e, 0xd8]);
    // mov ecx, [esp + 4]; and then as usual
    let code = [&[0x8b, 0x4c, 0x24, 0x04][..], &TELL_ERROR].concat();
    gate(&g, 13, INTERRUPT_32, HANDLER, &code);

    let r = g.hlt();

    assert_eq!(r.rax, u64::from(NOWHERE));
    assert_eq!((r.rcx, r.rsp), (CODE + 5, STACK - 12), "EIP of the instruction is behind the error code");
}

/// sti; int 0x30; mov al, 1; out 0x11, al; hlt
const INT_30: [u8; 8] = [0xfb, 0xcd, 0x30, 0xb0, 1, 0xe6, 0x11, HLT];
/// mov al, 0x30; out 0x10, al; iret
const ANSWER_30: [u8; 5] = [0xb0, 0x30, 0xe6, 0x10, 0xcf];

fn int_through(c: &Ctx, rights: u8) -> u8 {
    let mut g = protected(c, &INT_30);
    gate(&g, 0x30, rights, HANDLER, &ANSWER_30);

    assert_eq!(g.out(), (0x10, 0x30));
    let inside = g.vcpu.get_kvm_run().if_flag;
    assert_eq!(g.vcpu.get_regs().unwrap().rsp, STACK - 12);
    assert_eq!(g.out(), (0x11, 1));
    assert_eq!(g.vcpu.get_kvm_run().if_flag, 1, "as before");
    assert_eq!(g.hlt().rsp, STACK);
    inside
}

fn interrupt_gate(c: &Ctx) {
    assert_eq!(int_through(c, INTERRUPT_32), 0);
}

fn trap_gate(c: &Ctx) {
    assert_eq!(int_through(c, TRAP_32), 1);
}

fn breakpoint(c: &Ctx) {
    let mut g = protected(c, &[0x90, 0xcc]);
    gate(&g, 3, TRAP_32, HANDLER, &TELL_ERROR);

    assert_eq!(g.hlt().rax, CODE + 2);
}

fn words(c: &Ctx) {
    // int 0x31; hlt
    let mut g = protected(c, &[0xcd, 0x31, HLT]);
    // mov al, 0x31; out 0x10, al; iretw
    gate(&g, 0x31, INTERRUPT_16, HANDLER, &[0xb0, 0x31, 0xe6, 0x10, 0x66, 0xcf]);

    assert_eq!(g.out(), (0x10, 0x31));
    assert_eq!(g.vcpu.get_regs().unwrap().rsp, STACK - 6);
    assert_eq!(g.memory.read::<4>(0x7ffa), [0x02, 0x10, 8, 0]);
    let r = g.hlt();
    assert_eq!((r.rip, r.rsp), (CODE + 3, STACK));
}

fn beyond_table(c: &Ctx) {
    let mut g = protected(c, &[0xcd, 0x80]);
    gate(&g, 13, INTERRUPT_32, HANDLER, &TELL_ERROR);

    assert_eq!(g.hlt().rax, 0x80 * 8 + 2);
}

fn absent_gate(c: &Ctx) {
    let mut g = protected(c, &[0xcd, 0x32]);
    gate(&g, 0x32, ABSENT, 0x2100, &[HLT]);
    gate(&g, 11, INTERRUPT_32, HANDLER, &TELL_ERROR);

    assert_eq!(g.hlt().rax, 0x32 * 8 + 2);
}

fn no_code(c: &Ctx) {
    let mut g = protected(c, &[0xcd, 0x33]);
    gate(&g, 0x33, INTERRUPT_32, 0x2100, &[HLT]);
    g.memory.write(IDT + 0x33 * 8 + 2, &[16]);
    gate(&g, 13, INTERRUPT_32, HANDLER, &TELL_ERROR);

    assert_eq!(g.hlt().rax, 16);
}

/// sti; again: cmp byte [0x3000], 0; je again; mov al, 1; out 0x11, al; hlt
const WAIT: [u8; 15] = [0xfb, 0x80, 0x3d, 0, 0x30, 0, 0, 0, 0x74, 0xf7, 0xb0, 1, 0xe6, 0x11, HLT];
/// mov byte [0x3000], 1; iret
const NOTE: [u8; 8] = [0xc6, 0x05, 0, 0x30, 0, 0, 1, 0xcf];

/// Runs a guest until it can take an interrupt, and gives it that of `vector`.
fn interrupt(g: &mut Guest, mut vector: u32) {
    g.vcpu.get_kvm_run().request_interrupt_window = 1;
    assert!(matches!(g.exit(), VcpuExit::IrqWindowOpen));
    g.vcpu.get_kvm_run().request_interrupt_window = 0;
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut vector).unwrap();
}

fn user_interrupt(c: &Ctx) {
    let mut g = protected(c, &WAIT);
    gate(&g, 0x20, INTERRUPT_32, HANDLER, &NOTE);

    interrupt(&mut g, 0x20);

    assert_eq!(g.out(), (0x11, 1));
    assert_eq!(g.vcpu.get_kvm_run().if_flag, 1);
    assert_eq!(g.hlt().rsp, STACK);
}

fn pic_line(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &pic_guest(0xfd));
    protect(&g);
    gate(&g, 9, INTERRUPT_32, HANDLER, &report(9));
    enable_lapic(&g);
    assert_eq!(g.out(), (0x11, 0), "initialized");

    set_line(&g, 1, 1);

    assert_eq!(g.out(), (0x10, 9));
}

fn message(c: &Ctx) {
    // sti; again: hlt; jmp again
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    protect(&g);
    gate(&g, 0x40, INTERRUPT_32, HANDLER, &report(0x40));
    enable_lapic(&g);

    assert_eq!(send(&g, 0xfee0_0000, 0x40), 1);

    assert_eq!(g.out(), (0x10, 0x40));
}

fn absent_interrupt(c: &Ctx) {
    let mut g = protected(c, &WAIT);
    gate(&g, 0x20, ABSENT, 0x2100, &[HLT]);
    gate(&g, 11, INTERRUPT_32, HANDLER, &TELL_ERROR);

    interrupt(&mut g, 0x20);

    // The processor sets bit 0, for the event was external; QEMU's does not.
    assert_eq!(g.hlt().rax | 1, 0x20 * 8 + 3);
}

fn nmi(c: &Ctx) {
    // sti; out 0x12, al; again: inc ebx; jmp again
    let mut g = protected(c, &[0xfb, 0xe6, 0x12, 0x43, 0xeb, 0xfd]);
    // mov al, 2; out 0x10, al; out 0x11, al; iret
    gate(&g, 2, INTERRUPT_32, HANDLER, &[0xb0, 2, 0xe6, 0x10, 0xe6, 0x11, 0xcf]);
    assert_eq!(g.out(), (0x12, 0));

    raw::ioctl(&g.vcpu, nr::NMI, 0).unwrap();
    assert_eq!(g.out(), (0x10, 2));
    let before = g.vcpu.get_regs().unwrap();
    raw::ioctl(&g.vcpu, nr::NMI, 0).unwrap();

    assert_eq!(g.out(), (0x11, 2), "the second one waits");
    assert_eq!(g.out(), (0x10, 2), "and comes");
    let r = g.vcpu.get_regs().unwrap();
    assert_eq!((r.rbx, r.rsp), (0, before.rsp), "right behind the iret");
    let flags = u32::from_le_bytes(g.memory.read::<4>(STACK as usize - 4));
    assert_eq!(flags & 0x300, 0x200, "and nothing of how it was told");
    assert_eq!(g.out(), (0x11, 2));
}

fn nmi_in_shadow(c: &Ctx) {
    // out 0x12, al; sti; inc ebx; inc ebx; jmp $
    let mut g = protected(c, &[0xe6, 0x12, 0xfb, 0x43, 0x43, 0xeb, 0xfe]);
    gate(&g, 2, INTERRUPT_32, HANDLER, &TELL_ERROR);
    assert_eq!(g.out(), (0x12, 0));
    g.vcpu.set_kvm_immediate_exit(1);
    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR, "past the out");
    g.vcpu.set_kvm_immediate_exit(0);
    let mut r = g.vcpu.get_regs().unwrap();
    (r.rip, r.rflags) = (CODE + 3, 0x202);
    g.vcpu.set_regs(&r).unwrap();
    let mut events = g.vcpu.get_vcpu_events().unwrap();
    events.interrupt.shadow = KVM_X86_SHADOW_INT_STI as u8;
    events.flags |= KVM_VCPUEVENT_VALID_SHADOW;
    g.vcpu.set_vcpu_events(&events).unwrap();

    raw::ioctl(&g.vcpu, nr::NMI, 0).unwrap();

    let r = g.hlt();
    assert_eq!((r.rbx, r.rax), (1, CODE + 4));
    let flags = u32::from_le_bytes(g.memory.read::<4>(STACK as usize - 4));
    assert_eq!(flags & 0x300, 0x200, "and nothing of how it was told");
}

fn nmi_behind_event(c: &Ctx) {
    // sti; out 0x12, al; jmp $
    let mut g = protected(c, &[0xfb, 0xe6, 0x12, 0xeb, 0xfe]);
    // inc ebx; inc ebx; jmp $. On a page that is mapped, so that nothing else ends the guest's run.
    let handler = CODE as u16 + 0x40;
    gate(&g, 0x20, INTERRUPT_32, handler, &[0x43, 0x43, 0xeb, 0xfe]);
    gate(&g, 2, INTERRUPT_32, 0x2100, &TELL_ERROR);
    assert_eq!(g.out(), (0x12, 0));
    g.vcpu.set_kvm_immediate_exit(1);
    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR, "past the out");
    g.vcpu.set_kvm_immediate_exit(0);
    let mut events = g.vcpu.get_vcpu_events().unwrap();
    (events.interrupt.injected, events.interrupt.nr) = (1, 0x20);
    events.nmi.pending = 1;
    events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
    g.vcpu.set_vcpu_events(&events).unwrap();

    let r = g.hlt();

    assert_eq!((r.rbx, r.rax), (0, u64::from(handler)));
}

/// A page that is there only once it was asked for: then another NMI has come.
const LATE: usize = 0xe000;

fn nmi_in_later_shadow(c: &Ctx) {
    // out 0x12, al; sti; mov eax, [LATE]; nop; out 0x11, al; out 0x13, al
    let code = [0xe6, 0x12, 0xfb, 0xa1, 0x00, 0xe0, 0, 0, 0x90, 0xe6, 0x11, 0xe6, 0x13];
    let mut g = Guest::with_irqchip(c, &code);
    protect(&g);
    enable_lapic(&g);
    // push eax; mov eax, [esp + 12]; or [0x3100], eax; inc byte [0x3000]; pop eax; iret
    let handler =
        [0x50, 0x8b, 0x44, 0x24, 12, 0x09, 0x05, 0, 0x31, 0, 0, 0xfe, 0x05, 0, 0x30, 0, 0, 0x58, 0xcf];
    gate(&g, 2, INTERRUPT_32, HANDLER, &handler);
    assert_eq!(g.out(), (0x12, 0));
    send_nmi(&g.vm).unwrap();
    let vm = raw::SharedFd::of(&g.vm);
    let late = g.memory.fill_late(LATE, move || {
        send_nmi(&vm).unwrap();
    });

    let end = g.out();
    late.join().unwrap();

    assert_eq!(end, (0x11, 0), "no debug exception");
    assert_eq!(g.memory.read::<1>(0x3000), [2], "NMIs");
    let seen = u32::from_le_bytes(g.memory.read::<4>(0x3100));
    assert_eq!(seen & 0x300, 0x200, "flags that were interrupted");
    assert_eq!(g.vcpu.get_regs().unwrap().rflags & 0x100, 0);
    assert_eq!(g.out().0, 0x13);
}

fn two_nmis(c: &Ctx) {
    // mov cx, 1000; again: loop again; mov al, [0x3000]; out 0x10, al; hlt
    let mut g = Guest::new(c, &[0xb9, 0xe8, 3, 0xe2, 0xfe, 0xa0, 0, 0x30, 0xe6, 0x10, HLT]);
    // inc byte [0x3000]; iret
    g.handler(2, HANDLER, &[0xfe, 0x06, 0, 0x30, 0xcf]);

    for _ in 0..3 {
        raw::ioctl(&g.vcpu, nr::NMI, 0).unwrap();
    }

    assert_eq!(g.vcpu.get_vcpu_events().unwrap().nmi.pending, 2, "and no more");
    assert_eq!(g.out(), (0x10, 2));
}

fn nmi_and_hlt(c: &Ctx) {
    c.skip_on_kvm("KVM looks at the NMI once more outside HLT");
    // nop; jmp $
    let mut g = Guest::with_irqchip(c, &[0x90, 0xeb, 0xfe]);
    // hlt; mov al, 0xee; out 0x10, al; hlt
    g.handler(2, HANDLER, &[HLT, 0xb0, 0xee, 0xe6, 0x10, HLT]);
    enable_lapic(&g);
    send_nmi(&g.vm).unwrap();
    let (thread, vm) = (raw::this_thread(), raw::SharedFd::of(&g.vm));

    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        send_nmi(&vm).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        raw::interrupt(thread);
    });
    let result = g.vcpu.run().map(|e| format!("{e:?}")).map_err(|e| e.errno());
    sender.join().unwrap();

    assert_eq!(result, Err(EINTR));
    assert_eq!(g.vcpu.get_regs().unwrap().rip, u64::from(HANDLER) + 1);
}

fn double_fault(c: &Ctx) {
    // mov eax, 5; int 0x34, which has no gate
    let mut g = protected(c, &[0xb8, 5, 0, 0, 0, 0xcd, 0x34]);
    gate(&g, 13, ABSENT, 0x2100, &[HLT]);
    gate(&g, 8, INTERRUPT_32, HANDLER, &TELL_ERROR);

    let r = g.hlt();

    assert_eq!((r.rax, r.rip), (0, u64::from(HANDLER) + 2));
}

fn triple_fault(c: &Ctx) {
    let mut g = protected(c, &[0xcd, 0x34]);

    assert!(matches!(g.exit(), VcpuExit::Shutdown));
}

fn own_way(c: &Ctx) {
    // lgdt [0x5100]; lidt [0x5108]; mov eax, cr0; or al, 1; mov cr0, eax; ljmpl 8:0x1100
    let real = [
        0x0f, 0x01, 0x16, 0x00, 0x51, 0x0f, 0x01, 0x1e, 0x08, 0x51, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22,
        0xc0, 0x66, 0xea, 0x00, 0x11, 0x00, 0x00, 0x08, 0x00,
    ];
    // mov ax, 16; mov ss, ax; mov ds, ax; mov esp, 0x7000; and then as above
    let entry = [0x66, 0xb8, 16, 0, 0x8e, 0xd0, 0x8e, 0xd8, 0xbc, 0x00, 0x70, 0x00, 0x00];
    let mut g = Guest::new(c, &real);
    tables(&g);
    g.memory.write(0x1100, &[&entry[..], &INT_30].concat());
    g.memory.write(0x5100, &[23, 0, 0x00, 0x50, 0, 0, 0, 0, 0xff, 0x03, 0x00, 0x60, 0, 0]);
    gate(&g, 0x30, INTERRUPT_32, HANDLER, &ANSWER_30);

    assert_eq!(g.out(), (0x10, 0x30));
    assert_eq!(g.vcpu.get_regs().unwrap().rsp, 0x7000 - 12);
    assert_eq!(g.out(), (0x11, 1));
    assert_eq!(g.hlt().rsp, 0x7000);
}
