// SPDX-License-Identifier: GPL-2.0

//! The state of the interrupt controllers and the timer, and where interrupt lines go.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::{enable_lapic, pic_guest, report, set_line};
use crate::raw::{ioctl, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::{VcpuExit, VmFd};
use libc::{EEXIST, EFAULT, EINVAL, ENOENT, ENXIO};

pub const TESTS: &[Test] = &[
    ("chips: each 8259 keeps its state", pics),
    ("chips: the ioapic keeps its state", ioapic_state),
    ("chips: one that is not there has no state", absent),
    ("chips: a line that the ioapic lets through comes when its state is set", ioapic_restore),
    ("chips: the timer keeps its state", pit),
    ("chips: the timer stands still until it is programmed", fresh_pit),
    ("chips: a timer's count of 0 stands for 65536", largest_count),
    ("chips: the timer has the older ioctls too", old_pit),
    ("chips: missed pulses can be given up", reinject),
    ("chips: the speaker's port is the module's only if asked for", speaker),
    ("chips: a line tells what became of it", line_status),
    ("chips: at first a line goes to the ioapic's pin of its number", identity),
    ("chips: a line goes where the table says", rerouted),
    ("chips: a line can be a message", line_to_msi),
    ("chips: an impossible table is refused", bad_routes),
    ("chips: a message needs interrupt controllers", msi_without),
];

fn with_chips(c: &Ctx) -> VmFd {
    let vm = c.vm();
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    vm
}

/// A controller's state as bytes, and as what it is.
fn chip(vm: &VmFd, chip_id: u32) -> kvm_irqchip {
    let mut chip = kvm_irqchip { chip_id, ..Default::default() };
    vm.get_irqchip(&mut chip).unwrap();
    chip
}

/// Fields of `struct kvm_pic_state`.
const IMR: usize = 2;
const IRQ_BASE: usize = 5;

fn pics(c: &Ctx) {
    let vm = with_chips(c);

    for (id, mask, base) in [(KVM_IRQCHIP_PIC_MASTER, 0x5a, 0x40), (KVM_IRQCHIP_PIC_SLAVE, 0xa5, 0x48)] {
        let mut state = chip(&vm, id);
        let bytes = state_bytes(&mut state);
        (bytes[IMR], bytes[IRQ_BASE]) = (mask, base);
        vm.set_irqchip(&state).unwrap();
    }

    for (id, mask, base) in [(KVM_IRQCHIP_PIC_MASTER, 0x5a, 0x40), (KVM_IRQCHIP_PIC_SLAVE, 0xa5, 0x48)] {
        let mut state = chip(&vm, id);
        let bytes = state_bytes(&mut state);
        assert_eq!((bytes[IMR], bytes[IRQ_BASE]), (mask, base), "chip {id}");
    }
}

/// Bytes of `struct kvm_ioapic_state` before the redirection table.
const REDIRTBL: usize = 24;

/// Returns the IOAPIC's state.
pub fn ioapic(vm: &VmFd) -> kvm_irqchip {
    chip(vm, KVM_IRQCHIP_IOAPIC)
}

/// Returns a redirection entry of the IOAPIC's state.
pub fn entry(state: &mut kvm_irqchip, pin: usize) -> u64 {
    let at = REDIRTBL + 8 * pin;
    u64::from_le_bytes(state_bytes(state)[at..at + 8].try_into().unwrap())
}

/// Sets a redirection entry of the IOAPIC.
pub fn set_entry(vm: &VmFd, pin: usize, value: u64) {
    let mut state = ioapic(vm);
    let at = REDIRTBL + 8 * pin;
    state_bytes(&mut state)[at..at + 8].copy_from_slice(&value.to_le_bytes());
    vm.set_irqchip(&state).unwrap();
}

fn ioapic_state(c: &Ctx) {
    let vm = with_chips(c);
    let mut fresh = ioapic(&vm);
    assert_eq!(state_bytes(&mut fresh)[..8], 0xfec0_0000u64.to_le_bytes());
    assert_eq!(entry(&mut fresh, 5), 1 << 16, "masked");
    let wanted = 3 << 56 | 1 << 16 | 1 << 15 | 0x35;

    set_entry(&vm, 5, wanted);

    assert_eq!(entry(&mut ioapic(&vm), 5), wanted);
}

fn absent(c: &Ctx) {
    let mut state = kvm_irqchip::default();

    refused(ioctl_with(&c.vm(), nr::GET_IRQCHIP, &mut state), &[ENXIO]);
    state.chip_id = 3;
    refused(ioctl_with(&with_chips(c), nr::GET_IRQCHIP, &mut state), &[EINVAL]);
    assert_eq!(with_chips(c).set_irqchip(&state).map_err(|e| e.errno()), Err(EINVAL));
}

fn ioapic_restore(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x46, 0x2000, &report(0x46));
    enable_lapic(&g);
    mask_pics(&g.vm);

    set_line(&g, 20, 1);
    set_entry(&g.vm, 20, 1 << 15 | 0x46);

    assert_eq!(g.out(), (0x10, 0x46), "level triggered, and high all the time");
}

/// Masks all lines of both 8259s.
pub fn mask_pics(vm: &VmFd) {
    for id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE] {
        let mut state = chip(vm, id);
        state_bytes(&mut state)[IMR] = 0xff;
        vm.set_irqchip(&state).unwrap();
    }
}

fn counting() -> kvm_pit_channel_state {
    kvm_pit_channel_state { count: 0x1234, mode: 3, rw_mode: 3, gate: 1, ..Default::default() }
}

fn pit(c: &Ctx) {
    let vm = with_chips(c);
    assert_eq!(vm.get_pit2().map_err(|e| e.errno()), Err(ENXIO));
    vm.create_pit2(kvm_pit_config::default()).unwrap();
    let mut state = vm.get_pit2().unwrap();
    state.channels[2] = counting();

    vm.set_pit2(&state).unwrap();

    let got = vm.get_pit2().unwrap().channels[2];
    assert_eq!((got.count, got.mode, got.rw_mode, got.gate), (0x1234, 3, 3, 1));
}

fn fresh_pit(c: &Ctx) {
    let vm = with_chips(c);
    vm.create_pit2(kvm_pit_config::default()).unwrap();

    let channels = vm.get_pit2().unwrap().channels.map(|c| (c.count, c.mode, c.gate));

    assert_eq!(channels, [(0x1_0000, 0xff, 1), (0x1_0000, 0xff, 1), (0x1_0000, 0xff, 0)]);
}

fn largest_count(c: &Ctx) {
    let vm = with_chips(c);
    vm.create_pit2(kvm_pit_config::default()).unwrap();
    let mut state = vm.get_pit2().unwrap();
    state.channels[0] = kvm_pit_channel_state { count: 0, ..counting() };

    vm.set_pit2(&state).unwrap();

    assert_eq!(vm.get_pit2().unwrap().channels[0].count, 0x1_0000);
}

fn old_pit(c: &Ctx) {
    let mut state = kvm_pit_state::default();
    refused(ioctl(&c.vm(), nr::CREATE_PIT, 0), &[ENOENT]);
    let vm = with_chips(c);
    refused(ioctl_with(&vm, nr::GET_PIT, &mut state), &[ENXIO]);
    refused(ioctl_with(&vm, nr::SET_PIT, &mut state), &[ENXIO]);
    ioctl(&vm, nr::CREATE_PIT, 0).unwrap();
    refused(ioctl(&vm, nr::CREATE_PIT, 0), &[EEXIST]);

    ioctl_with(&vm, nr::GET_PIT, &mut state).unwrap();
    state.channels[2] = counting();
    ioctl_with(&vm, nr::SET_PIT, &mut state).unwrap();
    let mut got = kvm_pit_state::default();
    ioctl_with(&vm, nr::GET_PIT, &mut got).unwrap();

    assert_eq!((got.channels[2].count, got.channels[2].mode), (0x1234, 3));
    assert_eq!(vm.get_pit2().unwrap().channels[2].count, 0x1234, "the newer ioctl shows the same");
}

fn reinject(c: &Ctx) {
    let mut control = kvm_reinject_control { pit_reinject: 0, ..Default::default() };
    let vm = with_chips(c);

    refused(ioctl_with(&vm, nr::REINJECT_CONTROL, &mut control), &[ENXIO]);
    vm.create_pit2(kvm_pit_config::default()).unwrap();
    refused(ioctl(&vm, nr::REINJECT_CONTROL, 0), &[EFAULT]);
    ioctl_with(&vm, nr::REINJECT_CONTROL, &mut control).unwrap();
}

fn speaker(c: &Ctx) {
    for (flags, is_ours) in [(0, false), (KVM_PIT_SPEAKER_DUMMY, true)] {
        // in al, 0x61; out 0x10, al; hlt
        let vm = with_chips(c);
        vm.set_tss_address(0xfffb_d000).unwrap();
        vm.create_pit2(kvm_pit_config { flags, ..Default::default() }).unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut g = Guest::of(c, vm, vcpu, &[0xe4, 0x61, 0xe6, 0x10, HLT]);

        match g.exit() {
            VcpuExit::IoIn(0x61, _) => assert!(!is_ours),
            VcpuExit::IoOut(0x10, _) => assert!(is_ours),
            other => panic!("{other:?}, expected IN or OUT"),
        }
    }
}

fn status(vm: &VmFd, gsi: u32, level: u32) -> i32 {
    let mut line = [gsi, level];
    ioctl_with(vm, nr::IRQ_LINE_STATUS, &mut line).unwrap();
    line[0] as i32
}

fn line_status(c: &Ctx) {
    refused(ioctl_with(&c.vm(), nr::IRQ_LINE_STATUS, &mut [4u32, 1]), &[ENXIO]);
    let vm = with_chips(c);

    assert_eq!(status(&vm, 4, 1), 1, "the 8259 takes it; the ioapic masks it");
    assert_eq!(status(&vm, 4, 0), 2, "both hear it fall");
    assert_eq!(status(&vm, 4, 1), 0, "the first edge still waits");
    assert_eq!(status(&vm, 20, 1), -1, "masked by the only one on its route");
    assert_eq!(status(&vm, 1000, 1), -1, "no route");
    mask_pics(&vm);
    assert_eq!(status(&vm, 5, 1), -1, "masked by both");
}

fn identity(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x50, 0x2000, &report(0x50));
    enable_lapic(&g);
    mask_pics(&g.vm);
    set_entry(&g.vm, 0, 0x50);

    set_line(&g, 0, 1);

    assert_eq!(g.out(), (0x10, 0x50));
}

#[repr(C)]
struct Routing<const N: usize> {
    nr: u32,
    flags: u32,
    entries: [kvm_irq_routing_entry; N],
}

/// Sets the table to these entries.
pub fn route<const N: usize>(vm: &VmFd, entries: [kvm_irq_routing_entry; N]) -> Result<i32, i32> {
    ioctl_with(vm, nr::SET_GSI_ROUTING, &mut Routing { nr: N as u32, flags: 0, entries })
}

/// A route to a pin.
pub fn pin(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let u = kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, u, ..Default::default() }
}

/// A route to a message for APIC 0.
pub fn message(gsi: u32, vector: u32) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi { address_lo: 0xfee0_0000, data: vector, ..Default::default() };
    let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
    kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() }
}

fn rerouted(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &pic_guest(0xfd));
    g.handler(9, 0x2000, &report(9));
    enable_lapic(&g);
    assert_eq!(g.out(), (0x11, 0), "initialized");
    route(&g.vm, [pin(20, KVM_IRQCHIP_PIC_MASTER, 1), pin(20, KVM_IRQCHIP_IOAPIC, 1)]).unwrap();

    assert_eq!(status(&g.vm, 1, 1), -1, "the old route is gone");
    set_line(&g, 20, 1);

    assert_eq!(g.out(), (0x10, 9));
}

fn line_to_msi(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x42, 0x2000, &report(0x42));
    enable_lapic(&g);
    route(&g.vm, [message(24, 0x42), pin(4, KVM_IRQCHIP_IOAPIC, 4)]).unwrap();

    assert_eq!(status(&g.vm, 24, 0), -1, "a message is sent when the line rises");
    assert_eq!(status(&g.vm, 24, 1), 1);

    assert_eq!(g.out(), (0x10, 0x42));
}

fn bad_routes(c: &Ctx) {
    refused(route(&c.vm(), [message(24, 0x42), message(25, 0x43)]), &[EINVAL]);
    let vm = with_chips(c);
    let good = message(30, 0x30);
    let unknown = kvm_irq_routing_entry { gsi: 1, type_: 77, ..Default::default() };
    let flagged = kvm_irq_routing_entry { flags: 2, ..pin(1, KVM_IRQCHIP_IOAPIC, 1) };

    for (what, bad) in [
        ("a pin beyond the 8259's", pin(1, KVM_IRQCHIP_PIC_MASTER, 8)),
        ("a pin beyond the ioapic's", pin(1, KVM_IRQCHIP_IOAPIC, 24)),
        ("a chip that is not there", pin(1, 3, 0)),
        ("a gsi beyond the limit", pin(4096, KVM_IRQCHIP_IOAPIC, 0)),
        ("an unknown type", unknown),
        ("flags", flagged),
        ("two messages", message(30, 0x31)),
    ] {
        assert_eq!(route(&vm, [good, bad]), Err(EINVAL), "{what}");
    }
    let mut flags = Routing { nr: 0, flags: 1, entries: [good, good] };
    refused(ioctl_with(&vm, nr::SET_GSI_ROUTING, &mut flags), &[EINVAL]);
    let mut many = Routing { nr: 4097, flags: 0, entries: [good, good] };
    refused(ioctl_with(&vm, nr::SET_GSI_ROUTING, &mut many), &[EINVAL]);
}

fn msi_without(c: &Ctx) {
    let mut msi = kvm_msi { address_lo: 0xfee0_0000, data: 0x40, ..Default::default() };

    refused(ioctl_with(&c.vm(), nr::SIGNAL_MSI, &mut msi), &[EINVAL]);
}

fn state_bytes(state: &mut kvm_irqchip) -> &mut [u8; 512] {
    crate::raw::irqchip_bytes(state)
}
