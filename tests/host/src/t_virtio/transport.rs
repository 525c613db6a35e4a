// SPDX-License-Identifier: GPL-2.0

use super::machine::*;
use crate::arch::addr::AccessWidth::{B1, B2, B4, B8};
use crate::chipset::pci::PciInterrupt;
use crate::virtio::device::blk::{BlkRequest, BlkStatus, NextRequest};
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::transport::pci::QueueServed;
use crate::virtio::transport::pci::{kick, AccessEffect, VirtioPci};

type Disk = super::blk::Disk;

fn disk() -> Disk {
    super::blk::disk(4096)
}

fn take(machine: &mut Disk) -> BlkRequest {
    match machine.dev.next(0, &machine.mem) {
        NextRequest::Request(request) => request,
        other => panic!("no request: {other:?}"),
    }
}

#[test]
fn a_driver_finds_a_modern_block_device() {
    let mut m = disk();

    assert_eq!(m.reg(0x00, B4), 0x1042_1af4);
    assert_eq!(m.reg(0x08, B4), 0x0100_0001, "mass storage, revision 1");
    assert_eq!(m.reg(0x2c, B4), 0x0042_1af4);
    m.probe();
    assert_eq!(m.effect, AccessEffect::Decode);
    assert_eq!(m.at.common, WINDOW);
    assert_eq!(m.at.notify, WINDOW + 0x3000, "a page of its own");
    assert_eq!(m.at.multiplier, 4);
    assert_eq!(m.at.vectors, 2);
    assert_eq!(m.at.msix_table, WINDOW + 0x4000);
    assert_eq!(m.common(0x12, B2), 1, "one queue");
    assert_eq!(m.common(0x10, B2), 0xffff, "no vector yet");
}

#[test]
fn the_whole_initialisation_leads_to_a_running_device() {
    let mut m = disk();
    assert!(!m.dev.is_running());

    m.start(F_EVENT_IDX);

    assert!(m.dev.is_running());
    assert_eq!(m.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    m.write(m.at.notify, B2, 0);
    assert_eq!(m.effect, AccessEffect::Kick(0));
    m.write(m.at.notify + 4, B2, 1);
    assert_eq!(m.effect, AccessEffect::None, "no such queue");
    assert!(m.sent.is_empty());
}

#[test]
fn a_kick_is_recognised_without_the_device() {
    assert_eq!(kick(0, 0x3000), Some(0));
    assert_eq!(kick(0, 0x3004), Some(1));
    assert_eq!(kick(0, 0x2fff), None);
    assert_eq!(kick(1, 0x3000), None);
    assert_eq!(kick(0, u64::MAX), None);
}

#[test]
fn features_ok_is_refused_unless_the_features_fit() {
    for (features, ok) in [(F_VERSION_1, true), (0, false), (F_VERSION_1 | 1, false), (F_EVENT_IDX, false)] {
        let mut m = disk();
        m.probe();
        assert_eq!(m.offered() & F_VERSION_1, F_VERSION_1);
        m.set_status(ACKNOWLEDGE | DRIVER);
        m.accept(features);

        m.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);

        assert_eq!(m.status() & FEATURES_OK != 0, ok, "{features:#x}");
        m.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK);
        assert_eq!(m.status() & DRIVER_OK != 0, ok, "{features:#x}");
    }
}

#[test]
fn features_are_fixed_once_agreed_on() {
    let mut m = disk();
    m.probe();
    m.negotiate(F_VERSION_1);

    m.accept(F_VERSION_1 | F_EVENT_IDX);

    m.set_common(0x08, B4, 0);
    assert_eq!(m.common(0x0c, B4), 0);
    m.set_common(0x00, B4, 2);
    assert_eq!(m.common(0x04, B4), 0, "there are only two words of features");
}

#[test]
fn queue_registers_keep_what_a_queue_can_have() {
    let mut m = disk();
    m.probe();
    m.negotiate(F_VERSION_1);
    assert_eq!(m.common(0x18, B2), 256);

    m.set_common(0x18, B2, 100);
    assert_eq!(m.common(0x18, B2), 256);
    m.set_common(0x18, B2, 64);
    assert_eq!(m.common(0x18, B2), 64);
    m.set_common(0x20, B8, 0x1_2345_6780);
    assert_eq!(m.common(0x20, B8), 0x1_2345_6780);
    assert_eq!(m.common(0x24, B4), 1);
    assert_eq!(m.common(0x22, B2), 0xffff, "no such field");
    m.set_common(0x1a, B2, 2);
    assert_eq!(m.common(0x1a, B2), 0xffff, "no such vector");
    m.set_common(0x10, B2, 1);
    assert_eq!(m.common(0x10, B2), 1);
    m.set_common(0x16, B2, 1);
    assert_eq!(m.common(0x18, B2), 0, "no such queue");
    assert_eq!(m.common(0x1c, B2), 0);
    m.set_common(0x1c, B2, 1);
    assert_eq!(m.effect, AccessEffect::None);
}

#[test]
fn a_queue_is_enabled_once_and_only_after_the_features() {
    let mut m = disk();
    m.probe();
    m.set_status(ACKNOWLEDGE | DRIVER);
    m.set_common(0x1c, B2, 1);
    assert_eq!(m.common(0x1c, B2), 0);
    m.negotiate(F_VERSION_1);
    m.set_up_queue(false);
    assert_eq!(m.common(0x1c, B2), 1);

    m.set_common(0x18, B2, 8);
    m.set_common(0x20, B4, 0);

    assert_eq!((m.common(0x18, B2), m.common(0x20, B4)), (256, 0x1000), "fixed while enabled");
}

#[test]
fn enabling_a_queue_that_cannot_be_needs_a_reset() {
    let mut m = disk();
    m.probe();
    m.negotiate(F_VERSION_1);
    m.set_common(0x20, B4, 8);

    m.set_common(0x1c, B2, 1);

    assert_eq!(m.effect, AccessEffect::Broken(None));
    assert_eq!(m.status() & NEEDS_RESET, NEEDS_RESET);
    m.set_status(0);
    assert_eq!(m.status(), 0);
}

#[test]
fn a_reset_forgets_the_driver_but_not_the_bars() {
    let mut m = disk();
    m.start(0);

    m.set_status(0);

    assert_eq!(m.effect, AccessEffect::Reset);
    assert_eq!(m.status(), 0);
    assert!(!m.dev.is_running());
    assert_eq!(m.common(0x1c, B2), 0);
    assert_eq!(m.common(0x20, B8), 0);
    assert_eq!(m.common(0x1a, B2), 0xffff);
    m.start(0);
    assert!(m.dev.is_running());
}

#[test]
fn a_reset_waits_for_the_requests_in_flight_and_drops_them() {
    let mut m = disk();
    let mut ring = m.start(0);
    super::blk::put_header(&m.mem, 0x8000, 0, 0);
    ring.add(&m.mem, &[(0x8000, 16, false), (0x9000, 512, true), (0xa000, 1, true)]);
    ring.add(&m.mem, &[(0x8000, 16, false), (0x9000, 512, true), (0xa001, 1, true)]);
    ring.publish(&m.mem);
    m.mem.put(0xa000, &[0xee, 0xee]);
    let (first, second) = (take(&mut m), take(&mut m));

    m.set_status(0);
    assert_eq!(m.effect, AccessEffect::Reset);
    assert_ne!(m.status(), 0, "the driver has to wait");
    assert!(m.dev.is_resetting());
    m.set_status(ACKNOWLEDGE);
    assert!(matches!(m.dev.next(0, &m.mem), NextRequest::Empty));
    assert_eq!(m.dev.complete(&m.mem, first, BlkStatus::Ok, 512).unwrap(), None);
    assert_ne!(m.status(), 0);
    assert_eq!(m.dev.complete(&m.mem, second, BlkStatus::Ok, 512).unwrap(), None);

    assert_eq!(m.status(), 0);
    assert_eq!(m.mem.get::<2>(0xa000), [0xee, 0xee], "no status was written");
    assert_eq!(ring.used_index(&m.mem), 0);
}

#[test]
fn a_platform_reset_gives_the_first_addresses_again() {
    let mut m = disk();
    m.start(0);
    m.set_reg(0x10, B4, 0xd000_0000);

    m.dev.reset();
    let slot = crate::chipset::pci::PciSlot::new(m.slot).unwrap();
    m.root.reset_function(slot, m.dev.config_space());

    assert_eq!(m.reg(0x10, B4), WINDOW as u32);
    assert_eq!(m.reg(0x04, B2), 0);
    assert_eq!(m.reg(m.at.msix + 2, B2), 1, "MSI-X is off, two vectors");
    m.start(0);
    assert!(m.dev.is_running());
}

#[test]
fn a_broken_queue_stops_the_device_and_tells_the_driver() {
    let mut m = disk();
    let mut ring = m.start(0);
    ring.publish_index(&m.mem, 1000);

    let NextRequest::Broken(message) = m.dev.next(0, &m.mem) else { panic!("not broken") };

    assert_eq!(message, Some(Disk::message(0)), "a configuration change");
    assert_eq!(m.status() & NEEDS_RESET, NEEDS_RESET);
    assert!(m.dev.fault().is_some());
    assert!(matches!(m.dev.next(0, &m.mem), NextRequest::Empty));
    m.write(m.at.notify, B2, 0);
    assert_eq!(m.effect, AccessEffect::None);
}

#[test]
fn a_request_that_a_broken_device_completes_is_dropped() {
    let mut m = disk();
    let mut ring = m.start(0);
    super::blk::put_header(&m.mem, 0x8000, 4, 0);
    ring.add(&m.mem, &[(0x8000, 16, false), (0xa000, 1, true)]);
    ring.publish(&m.mem);
    let request = take(&mut m);
    ring.publish_index(&m.mem, 1000);
    assert!(matches!(m.dev.next(0, &m.mem), NextRequest::Broken(_)));

    assert_eq!(m.dev.complete(&m.mem, request, BlkStatus::Ok, 0).unwrap(), None);

    assert_eq!(ring.used_index(&m.mem), 0);
    m.set_status(0);
    assert_eq!(m.status(), 0);
}

#[test]
fn nothing_moves_while_bus_mastering_is_off() {
    let mut m = Machine::new(VirtioRng);
    let mut ring = m.start(0);
    ring.add(&m.mem, &[(0x8000, 16, true)]);
    ring.publish(&m.mem);
    m.set_reg(0x04, B2, 0x2);

    assert_eq!(m.dev.serve(&m.mem, |_| ()), QueueServed::Empty(None));
    assert_eq!(ring.used_index(&m.mem), 0);

    m.set_reg(0x04, B2, 0x6);
    assert_eq!(m.effect, AccessEffect::Decode);
    let message = Machine::<VirtioRng>::message(1);
    assert_eq!(m.dev.serve(&m.mem, |_| ()), QueueServed::Empty(Some(message)));
}

#[test]
fn masked_interrupts_come_when_they_are_unmasked() {
    let mut m = Machine::new(VirtioRng);
    m.start(0);
    m.mask(1);
    assert_eq!(m.dev.interrupt(0), None);
    assert_eq!(m.read(m.at.msix_pending, B8), 2);
    m.unmask(1);
    assert_eq!(m.sent, [Machine::<VirtioRng>::message(1)]);

    m.set_reg(m.at.msix + 2, B2, 0xc000);
    assert_eq!(m.dev.interrupt(0), None);
    assert_eq!(m.sent.len(), 1);
    m.set_reg(m.at.msix + 2, B2, 0x8000);
    assert_eq!(m.effect, AccessEffect::Msix);
    assert_eq!(m.sent.len(), 2);
    assert_eq!(m.read(m.at.msix_pending, B8), 0);
}

#[test]
fn the_isr_tells_causes_without_msix_and_forgets_them_when_read() {
    let mut m = Machine::new(VirtioRng);
    m.probe();
    m.negotiate(1 << 32);

    assert_eq!(m.dev.config_changed(), None, "there is no driver yet");
    m.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(m.dev.interrupt(0), Some(PciInterrupt::Pin));
    assert_eq!(m.dev.config_changed(), Some(PciInterrupt::Pin));

    assert_eq!(m.read(m.at.isr, B1), 3);
    assert_eq!(m.read(m.at.isr, B1), 0);
}

#[test]
fn a_changed_configuration_has_a_new_generation_and_an_interrupt() {
    let mut m = disk();
    m.start(0);
    let before = m.common(0x15, B1);

    assert_eq!(m.dev.config_changed(), Some(Disk::message(0)));

    assert_ne!(m.common(0x15, B1), before);
}

#[test]
fn bars_can_be_reached_through_configuration_space() {
    let mut m = disk();
    m.probe();
    let cap = m.at.pci_cfg;
    let set = |m: &mut Disk, offset: u32, length: u32| {
        m.set_reg(cap + 4, B1, 0);
        m.set_reg(cap + 8, B4, offset);
        m.set_reg(cap + 12, B4, length);
    };
    set(&mut m, 0x14, 1);
    m.set_reg(cap + 16, B1, u32::from(ACKNOWLEDGE));
    assert_eq!(m.status(), ACKNOWLEDGE);
    assert_eq!(m.reg(cap + 16, B1), u32::from(ACKNOWLEDGE));

    set(&mut m, 0x12, 2);
    assert_eq!(m.reg(cap + 16, B2), 1, "the number of queues");

    for (offset, length) in [(0x12, 4), (0x14, 3), (0x14, 8), (0x14, 0)] {
        set(&mut m, offset, length);
        m.set_reg(cap + 16, B4, 0);
        assert_eq!(m.status(), ACKNOWLEDGE, "{offset:#x} {length}: not a valid access");
    }
}

#[test]
fn accesses_beside_the_structures_read_as_ones() {
    let mut m = disk();
    m.probe();

    assert_eq!(m.read(m.at.common + 0x38, B4), 0xffff_ffff);
    assert_eq!(m.read(m.at.common + 0x14, B4), 0xffff_ffff);
    assert_eq!(m.read(m.at.notify, B4), 0xffff_ffff);
    assert_eq!(m.dev.bar_read(2, 0, B8), u64::MAX);
    assert_eq!(m.dev.bar_read(0, u64::MAX, B2), 0xffff);
    assert_eq!(m.dev.bar_write(5, 0, B4, 0), AccessEffect::None);
    assert_eq!(m.read(m.at.device + 0x100, B4), 0, "beyond the configuration there is nothing");
}

#[test]
fn no_memory_is_an_error_and_not_a_panic() {
    for n in 0..20 {
        kernel::alloc::fail_nth(n);
        let result = VirtioPci::new(VirtioRng).map(|_| ());
        if kernel::alloc::fail_none() {
            assert_eq!(result, Ok(()));
            assert!(n > 2);
            return;
        }
        assert_eq!(result, Err(kernel::prelude::ENOMEM));
    }
    panic!("more allocations than expected");
}
