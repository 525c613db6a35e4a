// SPDX-License-Identifier: GPL-2.0

//! The task priority in memory, and reports of accesses to its register.

use crate::abi::nr;
use crate::apic::{guest_at, store, APIC};
use crate::guest::Guest;
use crate::harness::{refused, Ctx, Test};
use crate::irq::{enable_lapic, report};
use crate::raw::{self, ioctl_with};
use kvm_bindings::*;
use libc::EINVAL;

pub const TESTS: &[Test] = &[
    ("vapic: accesses to the task priority register are told of", told),
    ("vapic: the task priority is in memory for the guest", in_memory),
    ("vapic: an interrupt in service and one that waits are beside it", beside),
    ("vapic: what cannot be is refused", impossible),
];

/// The register of the task priority.
const TPR: usize = 0x80;
/// Where the guest's word is.
const WORD: u64 = 0x5000;

fn set_reports(g: &Guest, enabled: u32, flags: u32) -> Result<i32, i32> {
    let mut control = kvm_tpr_access_ctl { enabled, flags, ..Default::default() };
    ioctl_with(&g.vcpu, nr::TPR_ACCESS_REPORTING, &mut control)
}

fn set_word(g: &Guest, at: u64) -> Result<i32, i32> {
    ioctl_with(&g.vcpu, nr::SET_VAPIC_ADDR, &mut kvm_vapic_addr { vapic_addr: at })
}

fn tpr(g: &Guest) -> u8 {
    g.vcpu.get_lapic().unwrap().regs[TPR] as u8
}

fn set_register(g: &Guest, register: usize, value: u8) {
    let mut lapic = g.vcpu.get_lapic().unwrap();
    lapic.regs[register] = value as _;
    g.vcpu.set_lapic(&lapic).unwrap();
}

/// Runs to the next report: whether it was a write, and of the instruction at what distance from the first.
fn access(g: &mut Guest) -> (bool, u64) {
    g.exit();
    let run = g.vcpu.get_kvm_run();
    assert_eq!(run.exit_reason, KVM_EXIT_TPR_ACCESS);
    let (rip, is_write) = raw::tpr_access(run);
    (is_write, rip - 0x1000)
}

fn told(c: &Ctx) {
    let write = store(TPR as u16, 0x30);
    // mov eax, [TPR]
    let read = [0x66, 0xa1, TPR as u8, 0];
    let mut g = guest_at(c, APIC, &[&write, &read, &write, &report(1)]);
    assert_eq!(set_reports(&g, 1, 0), Ok(0));

    assert_eq!(access(&mut g), (true, 0));
    assert_eq!(tpr(&g), 0x30, "the instruction is done");
    assert_eq!(access(&mut g), (false, write.len() as u64));
    assert_eq!(set_reports(&g, 0, 0), Ok(0));
    assert_eq!(g.out(), (0x10, 1));
}

fn in_memory(c: &Ctx) {
    let [low, high] = (WORD as u16).to_le_bytes();
    // mov al, [WORD]; out 0x10, al; mov byte [WORD], 0x70
    let code = [&[0xa0, low, high, 0xe6, 0x10, 0xc6, 0x06, low, high, 0x70][..], &report(1)].concat();
    let mut g = Guest::with_irqchip(c, &code);
    enable_lapic(&g);
    set_register(&g, TPR, 0x40);
    assert_eq!(set_word(&g, WORD), Ok(0));

    assert_eq!(g.out(), (0x10, 0x40));
    assert_eq!(g.out(), (0x10, 1));
    assert_eq!(tpr(&g), 0x70);
    assert_eq!(set_word(&g, 0), Ok(0));
}

fn beside(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &report(1));
    enable_lapic(&g);
    // ISR of vector 0x51, IRR of vector 0x42.
    let mut lapic = g.vcpu.get_lapic().unwrap();
    lapic.regs[0x100 + 0x20 + 2] = 1 << 1;
    lapic.regs[0x200 + 0x20] = 1 << 2;
    lapic.regs[TPR] = 0x20;
    g.vcpu.set_lapic(&lapic).unwrap();
    assert_eq!(set_word(&g, WORD), Ok(0));

    assert_eq!(g.out(), (0x10, 1));
    assert_eq!(g.memory.read::<4>(WORD as usize), [0x20, 0x50, 0, 0x42]);
}

fn impossible(c: &Ctx) {
    let g = Guest::with_irqchip(c, &report(1));
    refused(set_word(&g, 0x7000_0000), &[EINVAL]);
    refused(set_reports(&g, 1, 1), &[EINVAL]);
    refused(set_word(&Guest::new(c, &report(1)), WORD), &[EINVAL]);
}
