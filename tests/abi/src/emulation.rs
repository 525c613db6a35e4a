// SPDX-License-Identifier: GPL-2.0

//! Instructions on devices that an emulator does not know, or cannot get at.

use crate::enable_cap::enable;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw;
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::EINVAL;

pub const TESTS: &[Test] = &[
    ("emulation: an unknown instruction of the guest's kernel ends the vm", unknown_at_cpl_0),
    ("emulation: an unknown instruction at cpl 3 is an invalid opcode", unknown_at_cpl_3),
    ("emulation: one at cpl 3 ends the run where that is asked for", told_at_cpl_3),
    ("emulation: code in a device's memory ends the vm", code_in_device),
    ("emulation: code in a device's memory at cpl 3 is an invalid opcode", code_in_device_at_cpl_3),
    ("emulation: a segment whose table is no memory ends the vm", segment_without_table),
];

const CODE: u64 = 0x1000;
const HANDLER: u64 = 0x2000;
const IDT: usize = 0x4000;
const GDT: usize = 0x5000;
const TSS: usize = 0x6000;
/// Where there is no memory.
const MMIO: u64 = 0x10_0000;
/// paddb xmm0, [rbx]
const UNKNOWN: [u8; 4] = [0x66, 0x0f, 0xfc, 0x03];
/// jmp rbx
const JUMP: [u8; 2] = [0xff, 0xe3];

/// A guest in 64-bit mode at privilege level `cpl` whose RBX is [`MMIO`]. The handler of invalid opcodes tells the RIP
/// that it finds on its stack.
fn guest(c: &Ctx, cpl: u8, code: &[u8]) -> Guest {
    let g = Guest::new(c, &[code, &[HLT]].concat());
    g.enter_long_mode();
    for table in [0x9000, 0xa000, 0xb000] {
        let entry = u64::from_le_bytes(g.memory.read(table));
        g.memory.write(table, &(entry | 4).to_le_bytes());
    }
    // pop rax; out 0x10, al; hlt
    g.memory.write(HANDLER as usize, &[0x58, 0xe6, 0x10, HLT]);
    g.memory.write(IDT + 6 * 16, &(HANDLER | 0x8e00_0008_0000).to_le_bytes());
    g.memory.write(GDT + 8, &0x00af_9b00_0000_ffffu64.to_le_bytes());
    g.memory.write(TSS + 4, &0x7000u64.to_le_bytes());
    let mut s = g.vcpu.get_sregs().unwrap();
    // FXSAVE and SSE.
    s.cr4 |= 1 << 9;
    s.gdt = kvm_dtable { base: GDT as u64, limit: 15, ..Default::default() };
    s.idt = kvm_dtable { base: IDT as u64, limit: 0xfff, ..Default::default() };
    s.tr = kvm_segment {
        base: TSS as u64,
        limit: 0x67,
        selector: 24,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    (s.cs.dpl, s.ss.dpl) = (cpl, cpl);
    s.cs.selector |= u16::from(cpl);
    s.ss.selector |= u16::from(cpl);
    g.vcpu.set_sregs(&s).unwrap();
    let r = kvm_regs { rbx: MMIO, rip: CODE, rsp: 0x8000, rflags: 2, ..Default::default() };
    g.vcpu.set_regs(&r).unwrap();
    g
}

#[track_caller]
fn fails(g: &mut Guest, rip: u64) {
    assert!(matches!(g.exit(), VcpuExit::InternalError));
    assert_eq!(g.vcpu.get_regs().unwrap().rip, rip);
}

#[track_caller]
fn is_invalid(g: &mut Guest, rip: u64) {
    assert_eq!(g.out(), (0x10, rip as u8));
    assert_eq!(g.vcpu.get_regs().unwrap().rax, rip);
}

fn unknown_at_cpl_0(c: &Ctx) {
    fails(&mut guest(c, 0, &UNKNOWN), CODE);
}

fn unknown_at_cpl_3(c: &Ctx) {
    is_invalid(&mut guest(c, 3, &UNKNOWN), CODE);
}

fn told_at_cpl_3(c: &Ctx) {
    // The instruction; out 0x12, al
    let mut g = guest(c, 3, &[&UNKNOWN[..], &[0xe6, 0x12]].concat());
    refused(enable(&g.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 2), &[EINVAL]);
    enable(&g.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1).unwrap();
    let r = g.vcpu.get_regs().unwrap();
    // Ports may be used at any level.
    g.vcpu.set_regs(&kvm_regs { rflags: 3 << 12 | 2, ..r }).unwrap();

    fails(&mut g, CODE);

    let run = g.vcpu.get_kvm_run();
    let (suberror, ndata) = raw::internal_error(run);
    assert_eq!(suberror, KVM_INTERNAL_ERROR_EMULATION);
    assert!(ndata >= 3, "{ndata} words");
    let (len, bytes) = raw::failed_instruction(run).expect("the bytes are told");
    assert!(len >= 4, "{len} bytes");
    assert_eq!(bytes[..4], UNKNOWN);
    // User space has carried it out.
    let r = g.vcpu.get_regs().unwrap();
    g.vcpu.set_regs(&kvm_regs { rip: CODE + 4, ..r }).unwrap();
    assert_eq!(g.out().0, 0x12, "no exception is left");

    enable(&g.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 0).unwrap();
    g.vcpu.set_regs(&kvm_regs { rip: CODE, ..r }).unwrap();
    is_invalid(&mut g, CODE);
}

fn code_in_device(c: &Ctx) {
    fails(&mut guest(c, 0, &JUMP), MMIO);
}

fn code_in_device_at_cpl_3(c: &Ctx) {
    is_invalid(&mut guest(c, 3, &JUMP), MMIO);
}

/// In protected mode without paging.
fn segment_without_table(c: &Ctx) {
    c.skip_on_kvm("KVM tries again without end");
    // mov ds, ax
    let mut g = Guest::new(c, &[0x8e, 0xd8]);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.cr0 = 0x11;
    s.gdt = kvm_dtable { base: MMIO, limit: 0x1f, ..Default::default() };
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, db: 1, ..Default::default() };
    s.cs = kvm_segment { selector: 8, type_: 11, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, ..flat };
    (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
    g.vcpu.set_sregs(&s).unwrap();
    let r = g.vcpu.get_regs().unwrap();
    g.vcpu.set_regs(&kvm_regs { rax: 16, ..r }).unwrap();

    fails(&mut g, r.rip);
}
