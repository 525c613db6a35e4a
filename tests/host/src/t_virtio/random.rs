// SPDX-License-Identifier: GPL-2.0

//! Guests that do anything at all.

use super::driver::{put_desc, Ring};
use super::machine::*;
use super::mem::{Mem, MEM_BYTES};
use crate::arch::addr::AccessWidth::{self, B1, B2, B4, B8};
use crate::chipset::pci::PciSlot;
use crate::virtio::device::blk::{BlkOp, BlkRequest, BlkStatus, DiskGeometry, NextRequest, VirtioBlk};
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::queue::{QueueBuffer, QueueError, QueueFault};
use crate::virtio::segment::total;
use crate::virtio::transport::pci::AccessEffect;
use crate::virtio::transport::pci::QueueServed;
use proptest::collection::vec;
use proptest::prelude::*;

pub(crate) const SECTORS: u64 = 1 << 20;

pub(crate) fn disk() -> Machine<VirtioBlk> {
    let geometry = DiskGeometry {
        sectors: SECTORS,
        block_shift: 9,
        read_only: false,
        discard: true,
        serial: [b'x'; 20],
    };
    Machine::new(VirtioBlk::new(geometry, 16, 4, 1).unwrap())
}

/// Hands a request back in one of the ways that a worker has, which `n` picks.
pub(crate) fn hand_back(m: &mut Machine<VirtioBlk>, held: &mut Vec<BlkRequest>, i: usize, n: u64) {
    let request = held.remove(i % held.len());
    let done = match n % 4 {
        0 => m.dev.complete(&m.mem, request, BlkStatus::Ok, n),
        1 => m.dev.complete(&m.mem, request, BlkStatus::IoErr, 0),
        _ => m.dev.give_back(&m.mem, request, BlkStatus::Ok, n),
    };
    if n % 4 == 3 {
        let _ = m.dev.notify(0, &m.mem);
    }
    match done {
        Ok(_) => {}
        Err(retry) if n % 5 == 0 => {
            let _ = m.dev.abandon(retry.request, QueueFault::Memory(retry.gpa));
            assert!(!m.dev.is_running());
        }
        Err(retry) => held.push(retry.request),
    }
}

/// A descriptor that is often nearly right.
#[derive(Clone, Debug)]
pub(crate) struct AnyDesc {
    pub(crate) at: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

fn any_desc() -> impl Strategy<Value = AnyDesc> {
    let at = prop_oneof![
        8 => (0x8000u64..0x1_0000).prop_map(|a| a & !15),
        1 => Just(MEM_BYTES as u64 - 8),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![
        4 => Just(16u32), 3 => Just(512u32), 2 => Just(1u32), 1 => Just(0u32), 1 => 0u32..100, 1 => any::<u32>(),
    ];
    let flags = prop_oneof![4 => Just(1u16), 3 => Just(3u16), 2 => Just(2u16), 2 => Just(0u16), 2 => Just(4u16), 1 => any::<u16>()];
    let next = prop_oneof![9 => 0u16..16, 1 => any::<u16>()];
    (at, len, flags, next).prop_map(|(at, len, flags, next)| AnyDesc { at, len, flags, next })
}

/// What the guest, or the worker, does next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Descriptor(u16, AnyDesc),
    /// In the area that indirect tables and headers often lie in.
    Indirect(u16, AnyDesc),
    Header(u64, u32, u64),
    /// A whole request, most of it right: first descriptor, type, position, bytes, one descriptor more.
    Request(u16, u32, u64, u32, Option<AnyDesc>),
    Offer(u16),
    Publish,
    Jump(u16),
    Serve,
    Complete(usize, u64),
    Miss(u64),
}

fn any_request() -> impl Strategy<Value = Act> {
    let kind = prop_oneof![
        2 => Just(0u32), 2 => Just(1u32), 1 => Just(4u32), 1 => Just(8u32), 1 => Just(11u32), 1 => Just(13u32),
        1 => any::<u32>(),
    ];
    let sector = prop_oneof![4 => 0u64..100, 1 => SECTORS - 2..SECTORS + 2, 1 => any::<u64>()];
    let bytes = prop_oneof![3 => Just(512u32), 3 => Just(16u32), 1 => Just(1024u32), 1 => 0u32..2000];
    (0u16..13, kind, sector, bytes, prop::option::weighted(0.1, any_desc()))
        .prop_map(|(at, kind, sector, bytes, odd)| Act::Request(at, kind, sector, bytes, odd))
}

/// Writes header, range and descriptors of a request, offers and publishes it.
fn request(ring: &mut Ring, mem: &Mem, at: u16, kind: u32, sector: u64, bytes: u32, odd: &Option<AnyDesc>) {
    let header = 0x1_0000 + 0x100 * u64::from(at);
    super::blk::put_header(mem, header, kind, sector);
    // Where a discard has its range, which a small number of sectors fits.
    super::blk::put_range(mem, header + 0x20, sector, bytes & 0xff, u32::from(kind == 13));
    let data = if kind == 0 || kind == 8 { 3 } else { 1 };
    ring.desc(mem, at, header, 16, 1, at + 1);
    ring.desc(mem, at + 1, header + 0x20, bytes, data, at + 2);
    ring.desc(mem, at + 2, header + 0x10, 1, 2, 0);
    if let Some(d) = odd {
        ring.desc(mem, at + 1, d.at, d.len, d.flags, d.next);
    }
    ring.offer(mem, at);
    ring.publish(mem);
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (0u16..16, any_desc()).prop_map(|(i, d)| Act::Descriptor(i, d)),
        2 => (0u16..64, any_desc()).prop_map(|(i, d)| Act::Indirect(i, d)),
        3 => (0x800u64..0x1000, prop_oneof![4 => 0u32..14, 1 => any::<u32>()], prop_oneof![4 => 0u64..100, 1 => any::<u64>()])
            .prop_map(|(at, kind, sector)| Act::Header(at << 4, kind, sector)),
        24 => any_request(),
        2 => prop_oneof![9 => 0u16..16, 1 => any::<u16>()].prop_map(Act::Offer),
        1 => Just(Act::Publish),
        1 => any::<u16>().prop_map(Act::Jump),
        30 => Just(Act::Serve),
        8 => (any::<usize>(), 0u64..2000).prop_map(|(i, n)| Act::Complete(i, n)),
        1 => (0u64..10).prop_map(Act::Miss),
    ]
}

/// Does what the guest does in memory; the rest is the caller's.
pub(crate) fn apply(ring: &mut Ring, mem: &Mem, act: &Act) {
    match act {
        Act::Descriptor(i, d) => ring.desc(mem, *i, d.at, d.len, d.flags, d.next),
        Act::Indirect(i, d) => put_desc(mem, 0x8000, *i, d.at, d.len, d.flags, d.next),
        Act::Header(at, kind, sector) => super::blk::put_header(mem, *at, *kind, *sector),
        Act::Request(at, kind, sector, bytes, odd) => request(ring, mem, *at, *kind, *sector, *bytes, odd),
        Act::Offer(head) => ring.offer(mem, *head),
        Act::Publish => drop(ring.publish(mem)),
        Act::Jump(index) => ring.publish_index(mem, *index),
        Act::Miss(n) => mem.miss_nth(*n),
        Act::Serve | Act::Complete(..) => {}
    }
}

/// Checks what a worker relies on.
pub(crate) fn check(request: &BlkRequest) {
    let inside = |sector: u64, count: u64| sector + count <= SECTORS;
    match request.op() {
        BlkOp::Read { sector } | BlkOp::Write { sector, .. } => {
            assert_eq!(total(request.data()), request.bytes());
            assert!(request.bytes() > 0 && request.bytes() & 511 == 0);
            assert!(inside(sector, request.bytes() >> 9));
            assert!(request.data().len() <= 128 && request.data().iter().all(|s| s.len > 0));
        }
        BlkOp::Discard { sector, count } | BlkOp::WriteZeroes { sector, count, .. } => {
            assert!(count > 0 && inside(sector, u64::from(count)));
        }
        BlkOp::Flush => assert!(request.data().is_empty()),
    }
}

proptest! {
    /// Whatever the rings hold: a call ends after a bounded number of accesses, what comes out is
    /// what the queue promises, and the used ring grows by exactly the buffers given back.
    #[test]
    fn a_queue_survives_any_ring(event_idx in any::<bool>(), acts in vec(any_act(), 0..120)) {
        let (mem, mut ring) = (Mem::new(), Ring::new(16, event_idx));
        let mut queue = ring.queue(20);
        let mut held: Vec<QueueBuffer> = Vec::new();
        let mut given = 0u16;
        for act in acts {
            apply(&mut ring, &mem, &act);
            let before = mem.accesses();
            match act {
                Act::Serve => match queue.pop(&mem) {
                    Ok(Some(chain)) => {
                        prop_assert!(chain.buffer.id < 16);
                        prop_assert!(chain.readable.len() + chain.writable.len() <= 20);
                        for s in chain.readable.iter().chain(chain.writable) {
                            prop_assert!(s.len > 0 && s.gpa.checked_add(u64::from(s.len)).is_some());
                        }
                        held.push(chain.buffer);
                        prop_assert!(held.len() <= 16);
                    }
                    Ok(None) | Err(QueueError::NotResident(_)) => {}
                    Err(QueueError::Broken(_)) => break,
                },
                Act::Complete(i, n) if !held.is_empty() => {
                    let buffer = held[i % held.len()];
                    if queue.add_used(&mem, buffer, n as u32).is_ok() {
                        held.remove(i % held.len());
                        let at = ring.layout.used.0 + 4 + 8 * u64::from(given % 16);
                        prop_assert_eq!((mem.u32(at), mem.u32(at + 4)), (u32::from(buffer.id), n as u32));
                        given += 1;
                    }
                    queue.needs_notification(&mem);
                }
                _ => {}
            }
            prop_assert!(mem.accesses() - before < 40);
            prop_assert_eq!(ring.used_index(&mem), given);
            prop_assert_eq!(usize::from(queue.in_flight()), held.len());
        }
    }

    /// The same through the whole block device, which in the end can always be reset.
    #[test]
    fn a_disk_survives_any_ring(event_idx in any::<bool>(), acts in vec(any_act(), 0..120)) {
        let mut m = disk();
        let features = 1 << 28 | 1 << 13 | 1 << 14 | if event_idx { F_EVENT_IDX } else { 0 };
        let mut ring = m.start(features);
        let mut held: Vec<BlkRequest> = Vec::new();
        for act in acts {
            apply(&mut ring, &m.mem, &act);
            let before = m.mem.accesses();
            match act {
                Act::Serve => {
                    match m.dev.next(0, &m.mem) {
                        NextRequest::Request(request) => {
                            check(&request);
                            held.push(request);
                        }
                        NextRequest::Full => prop_assert_eq!(held.len(), 4),
                        NextRequest::Broken(message) => prop_assert!(message.is_some()),
                        NextRequest::Answered(_) | NextRequest::Empty | NextRequest::NotResident(_) => {}
                    }
                }
                Act::Complete(i, n) if !held.is_empty() => hand_back(&mut m, &mut held, i, n),
                _ => {}
            }
            prop_assert!(m.mem.accesses() - before < 300);
            prop_assert!(held.len() <= 4);
        }

        m.mem.miss_none();
        m.set_status(0);
        for request in held {
            prop_assert!(m.dev.complete(&m.mem, request, BlkStatus::Ok, 0).unwrap().is_none());
        }
        prop_assert_eq!(m.status(), 0);
        m.mem.put(0x5000, &[0; 0x2000]);
        let mut ring = m.start(0);
        super::blk::put_header(&m.mem, 0x8000, 4, 0);
        ring.add(&m.mem, &[(0x8000, 16, false), (0x9000, 1, true)]);
        ring.publish(&m.mem);
        prop_assert!(matches!(m.dev.next(0, &m.mem), NextRequest::Request(_)));
    }

    /// The entropy device writes to nothing but the buffers, and never more than its bound.
    #[test]
    fn an_entropy_device_survives_any_ring(acts in vec(any_act(), 0..80)) {
        let mut m = Machine::new(VirtioRng);
        let mut ring = m.start(1 << 28);
        for act in acts {
            apply(&mut ring, &m.mem, &act);
            if let Act::Serve = act {
                let mut made = 0;
                let served = m.dev.serve(&m.mem, |buf| made += buf.len());
                prop_assert!(made <= 64 * 4096 + 4096);
                if let QueueServed::Broken(_) = served {
                    prop_assert_eq!(m.status() & NEEDS_RESET, NEEDS_RESET);
                    break;
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Access {
    Config(u8, AccessWidth, u32),
    Bar(u8, u64, AccessWidth, u64),
    Reset,
}

fn any_width() -> impl Strategy<Value = AccessWidth> {
    prop_oneof![Just(B1), Just(B2), Just(B4), Just(B8)]
}

fn any_access() -> impl Strategy<Value = Access> {
    let offset = prop_oneof![
        6 => 0u64..0x40, 1 => 0x1000u64..0x1010, 1 => 0x2000u64..0x2050, 1 => 0x3000u64..0x3010,
        1 => 0u64..0x5000, 1 => any::<u64>(),
    ];
    let value = prop_oneof![4 => 0u64..16, 1 => Just(0xffffu64), 2 => any::<u64>()];
    prop_oneof![
        3 => (any::<u8>(), any_width(), any::<u32>()).prop_map(|(r, w, v)| Access::Config(r, w, v)),
        8 => (0u8..3, offset, any_width(), value).prop_map(|(b, o, w, v)| Access::Bar(b, o, w, v)),
        1 => Just(Access::Reset),
    ]
}

proptest! {
    /// Registers in any order: no access panics, values fit their width, a device that runs has
    /// agreed on features that it offers, and a driver can always start over.
    #[test]
    fn a_device_survives_any_register_access(accesses in vec(any_access(), 0..200)) {
        let mut m = disk();
        let offered = { m.probe(); m.offered() };
        for access in accesses {
            match access {
                Access::Config(register, width, value) => {
                    let effect = m.dev.config_write(register, width, value);
                    m.act(effect);
                    let read = m.dev.config_read(register, width);
                    prop_assert!(u64::from(read) <= width.mask());
                }
                Access::Bar(bar, offset, width, value) => {
                    let effect = m.dev.bar_write(bar, offset, width, value);
                    if let AccessEffect::Kick(queue) = effect {
                        prop_assert!(m.dev.is_running() && queue == 0);
                    }
                    m.act(effect);
                    prop_assert!(m.dev.bar_read(bar, offset, width) <= width.mask());
                }
                Access::Reset => {
                    m.dev.reset();
                    m.root.reset_function(PciSlot::new(m.slot).unwrap(), m.dev.config_space());
                }
            }
            if m.dev.is_running() {
                let accepted = {
                    let read = |m: &mut Machine<VirtioBlk>, half| {
                        let _ = m.dev.bar_write(0, 0x08, B4, half);
                        m.dev.bar_read(0, 0x0c, B4)
                    };
                    read(&mut m, 0) | read(&mut m, 1) << 32
                };
                prop_assert_eq!(accepted & !offered, 0);
                prop_assert_ne!(accepted & F_VERSION_1, 0);
            }
            let _ = m.dev.next(0, &m.mem);
        }
        m.dev.reset();
        m.root.reset_function(PciSlot::new(m.slot).unwrap(), m.dev.config_space());
        m.start(0);
        prop_assert!(m.dev.is_running());
    }
}
