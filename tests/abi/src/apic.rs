// SPDX-License-Identifier: GPL-2.0

//! Who takes an interrupt message.

use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::irq::{enable_lapic, send};

pub const TESTS: &[Test] = &[
    ("apic: one disabled by software takes no message", software_disabled),
    ("apic: lowest priority to all others spares the sender", lowest_others),
    ("apic: lowest priority goes to who is enabled", lowest_enabled),
];

const APIC: u64 = 0xfee0_0000;
/// mov cx, 1000; loop $
const WHILE: &[u8] = &[0xb9, 0xe8, 0x03, 0xe2, 0xfe];

/// mov dword [at], value
fn store(at: u16, value: u32) -> Vec<u8> {
    [&[0x66, 0xc7, 0x06][..], &at.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// A guest in real mode whose DS begins at `base`.
fn guest_at(c: &Ctx, base: u64, code: &[&[u8]]) -> Guest {
    let g = Guest::with_irqchip(c, &code.concat());
    enable_lapic(&g);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.ds.base = base;
    g.vcpu.set_sregs(&s).unwrap();
    g
}

fn software_disabled(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);

    assert_eq!(send(&g, APIC as u32, 0x40), 0);

    enable_lapic(&g);
    assert_eq!(send(&g, APIC as u32, 0x40), 1);
}

/// Counts at 0x3000 and ends the interrupt: inc byte ss:[0x3000]; mov dword [0xb0], 0; iret
fn counter() -> Vec<u8> {
    [&[0x36, 0xfe, 0x06, 0x00, 0x30][..], &store(0xb0, 0), &[0xcf]].concat()
}

fn lowest_others(c: &Ctx) {
    // ICR: lowest priority, all but the sender, vector 0x40. Then mov al, ss:[0x3000]; out 0x10, al
    let code = [&[0xfb][..], &store(0x300, 0x000c_4140), WHILE, &[0x36, 0xa0, 0x00, 0x30, 0xe6, 0x10, HLT]];
    let mut g = guest_at(c, APIC, &code);
    g.handler(0x40, 0x2000, &counter());

    assert_eq!(g.out(), (0x10, 0), "interrupts at the sender");
}

fn lowest_enabled(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);
    let second = g.vm.create_vcpu(1).unwrap();
    enable_lapic(&g);

    // Redirection hint, logical, to all.
    for vector in 0x40..0x48 {
        assert_eq!(send(&g, APIC as u32 | 0xff << 12 | 0xc, vector), 1);
    }

    assert_eq!(g.vcpu.get_lapic().unwrap().regs[0x220] as u8, 0xff, "all at the first one");
    assert_eq!(second.get_lapic().unwrap().regs[0x220] as u8, 0);
}
