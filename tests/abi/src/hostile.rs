// SPDX-License-Identifier: GPL-2.0

//! What a guest may try against its host.

use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::raw::Memory;
use kvm_bindings::*;

pub const TESTS: &[Test] = &[
    ("hostile: the instructions of virtualization are undefined", virtualization),
    ("hostile: a clock that crosses to another slot stays inside memory", clock_across_slots),
];

const CODE: u64 = 0x1000;
const HANDLER: u16 = 0x2000;
const GDT: usize = 0x5000;
const IDT: usize = 0x6000;
const INVALID_OPCODE: usize = 6;
const SYSTEM_TIME: u32 = 0x4b56_4d01;

/// Gives 64-bit code a handler that says 6 to port 0x10.
fn catch_undefined(g: &Guest) {
    for (at, raw) in [(8, 0x00af_9a00_0000_ffffu64), (16, 0x00cf_9200_0000_ffff)] {
        g.memory.write(GDT + at, &raw.to_le_bytes());
    }
    let [low, high] = HANDLER.to_le_bytes();
    g.memory.write(IDT + INVALID_OPCODE * 16, &[low, high, 8, 0, 0, 0x8e, 0, 0]);
    // mov al, 6; out 0x10, al; hlt
    g.memory.write(HANDLER.into(), &[0xb0, 6, 0xe6, 0x10, HLT]);
    let mut s = g.vcpu.get_sregs().unwrap();
    (s.gdt.base, s.gdt.limit) = (GDT as u64, 23);
    (s.idt.base, s.idt.limit) = (IDT as u64, 0xfff);
    g.vcpu.set_sregs(&s).unwrap();
}

fn virtualization(c: &Ctx) {
    let tries: &[(&str, &[u8])] = &[
        ("vmrun", &[0x0f, 0x01, 0xd8]),
        ("vmload", &[0x0f, 0x01, 0xda]),
        ("vmsave", &[0x0f, 0x01, 0xdb]),
        ("stgi", &[0x0f, 0x01, 0xdc]),
        ("clgi", &[0x0f, 0x01, 0xdd]),
        ("skinit", &[0x0f, 0x01, 0xde]),
        ("invlpga", &[0x0f, 0x01, 0xdf]),
        ("vmlaunch", &[0x0f, 0x01, 0xc2]),
        ("vmresume", &[0x0f, 0x01, 0xc3]),
        ("vmxoff", &[0x0f, 0x01, 0xc4]),
        ("vmfunc", &[0x0f, 0x01, 0xd4]),
        ("vmread", &[0x0f, 0x78, 0xc0]),
        ("vmwrite", &[0x0f, 0x79, 0xc0]),
        ("vmptrld", &[0x0f, 0xc7, 0x30]),
        ("vmptrst", &[0x0f, 0xc7, 0x38]),
        ("vmclear", &[0x66, 0x0f, 0xc7, 0x30]),
        ("vmxon", &[0xf3, 0x0f, 0xc7, 0x30]),
        ("invept", &[0x66, 0x0f, 0x38, 0x80, 0x00]),
        ("invvpid", &[0x66, 0x0f, 0x38, 0x81, 0x00]),
    ];
    for (name, code) in tries {
        let mut g = Guest::new(c, code);
        g.enter_long_mode();
        catch_undefined(&g);
        let r = kvm_regs { rip: CODE, rax: 0x7000, rsp: 0x8000, rflags: 2, ..Default::default() };
        g.vcpu.set_regs(&r).unwrap();

        assert_eq!(g.out(), (0x10, 6), "{name}");
    }
}

/// Two slots side by side for the guest, with a page between them that it has no part in: what the host writes for the
/// guest at the end of the first goes on in the second, or nowhere.
fn clock_across_slots(c: &Ctx) {
    const PAGE: usize = 0x1000;
    const FIRST: u64 = 0x10_0000;
    let mut g = Guest::new(c, &[0x90, HLT]);
    let memory = Memory::new(3 * PAGE);
    let second = memory.address() + 2 * PAGE as u64;
    memory.set_slot(&g.vm, 1, FIRST, PAGE as u64).unwrap();
    memory.set_slot_at(&g.vm, 2, FIRST + PAGE as u64, PAGE as u64, second, 0).unwrap();
    let clock = FIRST + PAGE as u64 - 16;
    let entry = kvm_msr_entry { index: SYSTEM_TIME, data: clock | 1, ..Default::default() };

    // Such an address may be refused, and need not be served.
    let _ = g.vcpu.set_msrs(&Msrs::from_entries(&[entry]).unwrap());
    g.hlt();

    assert_eq!(memory.read::<PAGE>(PAGE), [0; PAGE], "the page between the slots");
}
