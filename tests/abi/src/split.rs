// SPDX-License-Identifier: GPL-2.0

//! Local APICs in the kernel, I/O APIC and 8259s in user space: KVM_CAP_SPLIT_IRQCHIP.

use crate::abi::nr;
use crate::apic::{store, APIC};
use crate::chips::{message, pin, route};
use crate::enable_cap::enable;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::{enable_lapic, report, set_line};
use crate::raw::{ioctl, ioctl_with, EventFd};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::{EEXIST, EINVAL, ENOENT, ENXIO};
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = &[
    ("split: controllers are chosen once and before vcpus", order),
    ("split: what belongs to the other chips is refused", no_chips),
    ("split: a route goes to messages only", routes),
    ("split: the end of a reserved pin's level interrupt exits", level_ends),
    ("split: the end of an edge interrupt does not exit", edge_ends),
    ("split: the end of a level interrupt of no reserved pin does not exit", unreserved_ends),
    ("split: an interrupt of user space goes through lint0", user_interrupt),
    ("split: one that lint0 holds back waits", masked_user_interrupt),
    ("split: a second one is refused while the first waits", second_user_interrupt),
    ("split: the window opens when an interrupt can be taken", window),
    ("split: the window stays shut while lint0 is masked", masked_window),
    ("split: the window opens at hlt", window_at_hlt),
    ("split: with the 8259s in the kernel user space gives no interrupts", kernel_pic),
];

/// The pins that are reserved.
const PINS: u64 = 24;

/// A guest of a VM with local APICs alone. Its DS begins at `base`.
fn guest_at(c: &Ctx, base: u64, code: &[&[u8]]) -> Guest {
    let vm = c.vm();
    vm.set_tss_address(0xfffb_d000).unwrap();
    enable(&vm, KVM_CAP_SPLIT_IRQCHIP, PINS).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let g = Guest::of(c, vm, vcpu, &code.concat());
    enable_lapic(&g);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.ds.base = base;
    g.vcpu.set_sregs(&s).unwrap();
    g
}

/// Masks LINT0, or lets the 8259 through it.
fn mask_lint0(g: &Guest, masked: bool) {
    let mut lapic = g.vcpu.get_lapic().unwrap();
    for (to, from) in lapic.regs[0x350..].iter_mut().zip([0, 7, u8::from(masked), 0]) {
        *to = from as _;
    }
    g.vcpu.set_lapic(&lapic).unwrap();
}

fn interrupt(g: &Guest, vector: u32) -> Result<i32, i32> {
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut [vector])
}

fn order(c: &Ctx) {
    let vm = c.vm();
    refused(enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 4097), &[EINVAL]);
    assert_eq!(enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 4096), Ok(0));
    refused(enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 4096), &[EEXIST]);
    refused(ioctl(&vm, nr::CREATE_IRQCHIP, 0), &[EEXIST]);

    let vm = c.vm();
    vm.create_irq_chip().unwrap();
    refused(enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24), &[EEXIST]);

    let (vm, _vcpu) = c.vcpu();
    refused(enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24), &[EEXIST]);
}

fn no_chips(c: &Ctx) {
    let vm = c.vm();
    enable(&vm, KVM_CAP_SPLIT_IRQCHIP, PINS).unwrap();
    let event = EventFd::new();
    let fd = event.as_raw_fd() as u32;

    for chip_id in 0..3 {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        refused(ioctl_with(&vm, nr::GET_IRQCHIP, &mut chip), &[ENXIO]);
        refused(ioctl_with(&vm, nr::SET_IRQCHIP, &mut chip), &[ENXIO]);
    }
    refused(ioctl_with(&vm, nr::CREATE_PIT2, &mut kvm_pit_config::default()), &[ENOENT]);
    let resample =
        kvm_irqfd { fd, gsi: 4, flags: KVM_IRQFD_FLAG_RESAMPLE, resamplefd: fd, ..Default::default() };
    refused(ioctl_with(&vm, nr::IRQFD, &mut { resample }), &[EINVAL]);
    assert_eq!(ioctl_with(&vm, nr::IRQFD, &mut kvm_irqfd { fd, gsi: 4, ..Default::default() }), Ok(0));
}

fn routes(c: &Ctx) {
    let vm = c.vm();
    enable(&vm, KVM_CAP_SPLIT_IRQCHIP, PINS).unwrap();

    assert_eq!(route(&vm, [pin(4, KVM_IRQCHIP_IOAPIC, 4)]), Err(EINVAL));
    assert_eq!(route(&vm, [pin(4, KVM_IRQCHIP_PIC_MASTER, 4)]), Err(EINVAL));
    assert_eq!(route(&vm, [message(4, 0x41)]), Ok(0));
}

/// A guest that takes the interrupt that GSI 4 is, ends it and reports it.
fn pin_guest(c: &Ctx, gsi: u32, data: u32) -> Guest {
    // out 0x11, al; sti; hlt; jmp to hlt
    let g = guest_at(c, APIC, &[&[0xe6, 0x11, 0xfb, HLT, 0xeb, 0xfd]]);
    g.handler(0x41, 0x2000, &[&store(0xb0, 0)[..], &report(1)].concat());
    route(&g.vm, [message(gsi, data)]).unwrap();
    g
}

fn level_ends(c: &Ctx) {
    // As I/O APICs of user space have it, without the bit that says that the level rises.
    for data in [0x8041, 0xc041] {
        let mut g = pin_guest(c, 4, data);
        assert_eq!(g.out().0, 0x11);

        set_line(&g, 4, 1);

        match g.exit() {
            VcpuExit::IoapicEoi(vector) => assert_eq!(vector, 0x41),
            other => panic!("{other:?}, expected the end of the interrupt"),
        }
        assert_eq!(g.out(), (0x10, 1), "the guest goes on");
    }
}

fn edge_ends(c: &Ctx) {
    let mut g = pin_guest(c, 4, 0x41);
    assert_eq!(g.out().0, 0x11);

    set_line(&g, 4, 1);

    assert_eq!(g.out(), (0x10, 1));
}

fn unreserved_ends(c: &Ctx) {
    let mut g = pin_guest(c, PINS as u32, 0x8041);
    assert_eq!(g.out().0, 0x11);

    set_line(&g, PINS as u32, 1);

    assert_eq!(g.out(), (0x10, 1));
}

/// A guest that lets interrupts in after its first OUT; some time later it reports 0. Vector 9 reports 9.
fn extint_guest(c: &Ctx) -> Guest {
    // out 0x11, al; sti; mov cx, 1000; loop $
    let g = guest_at(c, 0, &[&[0xe6, 0x11, 0xfb, 0xb9, 0xe8, 0x03, 0xe2, 0xfe], &report(0)]);
    g.handler(9, 0x2000, &report(9));
    g
}

fn user_interrupt(c: &Ctx) {
    let mut g = extint_guest(c);
    assert_eq!(g.out().0, 0x11);
    assert_eq!(g.vcpu.get_kvm_run().ready_for_interrupt_injection, 0, "interrupts are off");

    assert_eq!(interrupt(&g, 9), Ok(0));

    assert_eq!(g.out(), (0x10, 9));
}

fn masked_user_interrupt(c: &Ctx) {
    // As `extint_guest`, and then once more.
    let later = [0xb9, 0xe8, 0x03, 0xe2, 0xfe];
    let mut g = guest_at(c, 0, &[&[0xe6, 0x11, 0xfb], &later, &[0xe6, 0x12], &later, &report(0)]);
    g.handler(9, 0x2000, &report(9));
    mask_lint0(&g, true);
    assert_eq!(g.out().0, 0x11);

    assert_eq!(interrupt(&g, 9), Ok(0));

    assert_eq!(g.out().0, 0x12, "not taken");
    mask_lint0(&g, false);
    assert_eq!(g.out(), (0x10, 9));
}

fn second_user_interrupt(c: &Ctx) {
    let mut g = extint_guest(c);
    assert_eq!(g.out().0, 0x11);

    assert_eq!(interrupt(&g, 9), Ok(0));

    refused(interrupt(&g, 9), &[EEXIST]);
    refused(interrupt(&g, 256), &[EINVAL]);
}

fn window(c: &Ctx) {
    let mut g = extint_guest(c);
    assert_eq!(g.out().0, 0x11);
    g.vcpu.get_kvm_run().request_interrupt_window = 1;

    assert!(matches!(g.exit(), VcpuExit::IrqWindowOpen));

    let run = g.vcpu.get_kvm_run();
    assert_eq!((run.ready_for_interrupt_injection, run.if_flag), (1, 1));
    run.request_interrupt_window = 0;
    assert_eq!(interrupt(&g, 9), Ok(0));
    assert_eq!(g.out(), (0x10, 9));
}

fn masked_window(c: &Ctx) {
    let mut g = extint_guest(c);
    mask_lint0(&g, true);
    assert_eq!(g.out().0, 0x11);
    g.vcpu.get_kvm_run().request_interrupt_window = 1;

    assert_eq!(g.out(), (0x10, 0));
    assert_eq!(g.vcpu.get_kvm_run().ready_for_interrupt_injection, 0);
}

fn window_at_hlt(c: &Ctx) {
    // sti; nop; out 0x11, al; hlt
    let mut g = guest_at(c, 0, &[&[0xfb, 0x90, 0xe6, 0x11, HLT], &report(0)]);
    g.handler(9, 0x2000, &report(9));
    assert_eq!(g.out().0, 0x11);
    assert_eq!(g.vcpu.get_kvm_run().ready_for_interrupt_injection, 1);
    g.vcpu.get_kvm_run().request_interrupt_window = 1;

    assert!(matches!(g.exit(), VcpuExit::IrqWindowOpen));

    g.vcpu.get_kvm_run().request_interrupt_window = 0;
    assert_eq!(interrupt(&g, 9), Ok(0));
    assert_eq!(g.out(), (0x10, 9));
}

fn kernel_pic(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);

    refused(interrupt(&g, 9), &[ENXIO]);
}
