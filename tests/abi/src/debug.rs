// SPDX-License-Identifier: GPL-2.0

//! Debug exceptions and the flags that handlers find, where instructions are carried out in software or
//! exceptions pass through the host.

use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::irq::enable_lapic;

pub const TESTS: &[Test] = &[
    ("debug: a handler may use the debug registers after a step over an instruction that exits", step_exit),
    ("debug: a handler may use the debug registers after a step over one that does not", step_plain),
    ("debug: a fault's handler finds RF set in the flags it returns to", fault_sets_rf),
    ("debug: a step over an instruction that exits leaves RF clear", step_clears_rf),
    (
        "debug: a breakpoint that a load of SS meets is told behind an instruction that exits",
        breakpoint_at_ss,
    ),
    ("debug: a repeated store to a device traps after each element", step_each_element),
];

const TF: u64 = 0x100;
/// inc byte [0x3000]
const COUNT: [u8; 7] = [0xfe, 0x04, 0x25, 0, 0x30, 0, 0];
/// mov al, [0x3000]; out 0x10, al; hlt
const TELL: [u8; 10] = [0x8a, 0x04, 0x25, 0, 0x30, 0, 0, 0xe6, 0x10, HLT];
/// iretq
const IRET: [u8; 2] = [0x48, 0xcf];
/// mov rax, [rsp + FLAGS]; shr rax, 16; out 0x10, al; hlt. RF is bit 0 then.
const fn tell_rf(flags: u8) -> [u8; 12] {
    [0x48, 0x8b, 0x44, 0x24, flags, 0x48, 0xc1, 0xe8, 16, 0xe6, 0x10, HLT]
}

/// A guest that steps through `code` with DR7.GD set; its handler counts, and reads DR6.
fn step(c: &Ctx, code: &[u8]) {
    let mut g = Guest::new(c, code);
    // mov rax, dr6
    let handler = [&COUNT[..], &[0x0f, 0x21, 0xf0], &TELL].concat();
    g.enter_long_mode_with(&[(1, 0x2000, 0, &handler)]);
    let mut d = g.vcpu.get_debug_regs().unwrap();
    d.dr7 = 0x2400;
    g.vcpu.set_debug_regs(&d).unwrap();
    g.set_flags(TF);

    assert_eq!(g.out(), (0x10, 1), "debug exceptions");
}

fn step_exit(c: &Ctx) {
    // cpuid; nop; hlt
    step(c, &[0x0f, 0xa2, 0x90, HLT]);
}

fn step_plain(c: &Ctx) {
    step(c, &[0x90, 0x90, HLT]);
}

fn fault_sets_rf(c: &Ctx) {
    // mov ecx, 0x0bad0bad; rdmsr
    let mut g = Guest::new(c, &[0xb9, 0xad, 0x0b, 0xad, 0x0b, 0x0f, 0x32]);
    g.enter_long_mode_with(&[(13, 0x2000, 0, &tell_rf(24))]);

    assert_eq!(g.out().1 & 1, 1);
}

fn step_clears_rf(c: &Ctx) {
    // cpuid; hlt
    let mut g = Guest::new(c, &[0x0f, 0xa2, HLT]);
    // mov rcx, [rsp], and then as usual
    g.enter_long_mode_with(&[(1, 0x2000, 0, &[&[0x48, 0x8b, 0x0c, 0x24][..], &tell_rf(16)].concat())]);
    // The first time the delivery itself meets memory that is not mapped yet, and what an emulated processor
    // leaves in RF then is its own affair.
    g.set_flags(TF | 0x1_0000);
    g.out();
    // Past the OUT and the HLT behind it.
    g.hlt();
    g.set_flags(TF | 0x1_0000);

    let rf = g.out().1 & 1;

    assert_eq!((g.vcpu.get_regs().unwrap().rcx, rf), (0x1002, 0));
}

fn breakpoint_at_ss(c: &Ctx) {
    // mov ss, [0x3200]; cpuid; nop; mov al, 0x80; out 0x10, al; hlt
    let code = [0x8e, 0x14, 0x25, 0x00, 0x32, 0, 0, 0x0f, 0xa2, 0x90, 0xb0, 0x80, 0xe6, 0x10, HLT];
    let mut g = Guest::new(c, &code);
    g.memory.write(0x3200, &[16, 0]);
    // mov rax, dr6; out 0x10, al; hlt
    g.enter_long_mode_with(&[(1, 0x2000, 0, &[0x0f, 0x21, 0xf0, 0xe6, 0x10, HLT])]);
    let mut d = g.vcpu.get_debug_regs().unwrap();
    // Reads and writes of 2 bytes.
    (d.db[0], d.dr7) = (0x3200, 0x7_0402);
    g.vcpu.set_debug_regs(&d).unwrap();
    g.set_flags(0);

    assert_eq!(g.out().1 & 0xf, 1, "the first breakpoint");
}

fn step_each_element(c: &Ctx) {
    c.skip_on_kvm("KVM carries out many elements before the trap");
    // mov edi, 0xfee00080, the task priority; xor eax, eax; mov ecx, 4; rep stosd; nop, and then as usual
    let code =
        [&[0xbf, 0x80, 0, 0xe0, 0xfe, 0x31, 0xc0, 0xb9, 4, 0, 0, 0, 0xf3, 0xab, 0x90][..], &TELL].concat();
    let mut g = Guest::with_irqchip(c, &code);
    enable_lapic(&g);
    g.enter_long_mode_with(&[(1, 0x2000, 0, &[&COUNT[..], &IRET].concat())]);
    g.set_flags(TF);

    // Three before the string, one for each of its elements, the NOP and the MOV that reads the count.
    assert_eq!(g.out(), (0x10, 3 + 4 + 1), "traps before the count was read");
}
