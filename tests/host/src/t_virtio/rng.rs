// SPDX-License-Identifier: GPL-2.0

use super::driver::Ring;
use super::machine::*;
use crate::arch::addr::AccessWidth::B4;
use crate::arch::addr::Gpa;
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::transport::pci::QueueServed;

fn guest() -> (Machine<VirtioRng>, Ring) {
    let mut m = Machine::new(VirtioRng);
    let ring = m.start(0);
    (m, ring)
}

fn message() -> Option<crate::chipset::pci::PciInterrupt> {
    Some(Machine::<VirtioRng>::message(1))
}

#[test]
fn an_entropy_device_is_found() {
    let mut m = Machine::new(VirtioRng);
    assert_eq!(m.reg(0x00, B4), 0x1044_1af4);
    assert_eq!(m.reg(0x08, B4), 0xff00_0001);
}

#[test]
fn buffers_are_filled_from_the_source() {
    let (mut m, mut ring) = guest();
    let a = ring.add(&m.mem, &[(0x8000, 300, true), (0x9000, 4, true)]);
    let b = ring.add(&m.mem, &[(0xa000, 8, false), (0xb000, 8, true)]);
    ring.publish(&m.mem);
    let mut next = 0u8;

    let served = m.dev.serve(&m.mem, |buf| {
        buf.fill_with(|| {
            next = next.wrapping_add(1);
            next
        })
    });

    assert_eq!(served, QueueServed::Empty(message()));
    assert_eq!(ring.take_used(&m.mem), [(a, 304), (b, 8)]);
    assert_eq!(m.mem.get::<3>(0x8000), [1, 2, 3]);
    assert_eq!(m.mem.get::<4>(0x9000), [45, 46, 47, 48]);
    assert_eq!(m.mem.get::<4>(0xb000), [49, 50, 51, 52]);
    assert_eq!(m.mem.get::<1>(0xa000), [0], "readable parts stay");
    assert_eq!(m.dev.serve(&m.mem, |_| panic!("nothing to fill")), QueueServed::Empty(None));
}

#[test]
fn a_large_buffer_gets_a_bounded_number_of_bytes() {
    let (mut m, mut ring) = guest();
    let head = ring.add(&m.mem, &[(0x1_0000, 0x2_0000, true)]);
    ring.publish(&m.mem);

    assert_eq!(m.dev.serve(&m.mem, |buf| buf.fill(0xaa)), QueueServed::Empty(message()));

    assert_eq!(ring.take_used(&m.mem), [(head, 4096)]);
    assert_eq!(m.mem.get::<2>(0x1_0fff), [0xaa, 0]);
}

#[test]
fn one_call_serves_a_bounded_number_of_buffers() {
    let (mut m, mut ring) = guest();
    for _ in 0..64 {
        ring.add(&m.mem, &[(0x8000, 1, true)]);
    }
    ring.publish(&m.mem);

    assert_eq!(m.dev.serve(&m.mem, |_| ()), QueueServed::More(message()));
    assert_eq!(m.dev.serve(&m.mem, |_| ()), QueueServed::Empty(None));
    assert_eq!(ring.take_used(&m.mem).len(), 64);
}

#[test]
fn a_missing_page_is_reported_and_the_call_repeated() {
    for n in 0.. {
        let (mut m, mut ring) = guest();
        let head = ring.add(&m.mem, &[(0x8000, 600, true)]);
        ring.publish(&m.mem);
        m.mem.miss_nth(n);
        let mut sent = 0;
        loop {
            match m.dev.serve(&m.mem, |buf| buf.fill(1)) {
                QueueServed::NotResident(_, message) => sent += message.iter().count(),
                QueueServed::Empty(message) => {
                    sent += message.iter().count();
                    break;
                }
                other => panic!("{other:?}"),
            }
        }

        assert_eq!(ring.take_used(&m.mem), [(head, 600)]);
        assert_eq!(sent, 1);
        if m.mem.miss_none() {
            assert!(n > 6);
            break;
        }
    }
}

#[test]
fn a_buffer_outside_of_memory_breaks_the_device() {
    let (mut m, mut ring) = guest();
    ring.add(&m.mem, &[(0xffff_0000, 16, true)]);
    ring.publish(&m.mem);

    assert!(matches!(m.dev.serve(&m.mem, |_| ()), QueueServed::Broken(Some(_))));
    assert_eq!(m.dev.fault(), Some(crate::virtio::queue::QueueFault::Memory(Gpa(0xffff_0000))));
}

#[test]
fn one_call_makes_a_bounded_number_of_bytes() {
    let (mut m, mut ring) = guest();
    for _ in 0..6 {
        ring.add(&m.mem, &[(0x1_0000, 4096, true)]);
    }
    ring.publish(&m.mem);

    assert_eq!(m.dev.serve(&m.mem, |_| ()), QueueServed::More(message()));
    assert_eq!(ring.take_used(&m.mem).len(), 4);
    assert_eq!(m.dev.serve(&m.mem, |_| ()), QueueServed::Empty(message()));
}
