// SPDX-License-Identifier: GPL-2.0

//! Virtqueues with any contents: the queue alone, under the disk, under the entropy device.

use super::bytes::Bytes;
use crate::t_virtio::driver::Ring;
use crate::t_virtio::machine::{Machine, F_EVENT_IDX, NEEDS_RESET};
use crate::t_virtio::mem::{Mem, MEM_BYTES};
use crate::t_virtio::random::{apply, check, disk, hand_back, Act, AnyDesc, SECTORS};
use crate::virtio::device::blk::{BlkRequest, BlkStatus, NextRequest};
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::queue::{QueueBuffer, QueueError};
use crate::virtio::transport::pci::QueueServed;

fn desc(b: &mut Bytes<'_>) -> AnyDesc {
    let at = match b.below(8) {
        0 => MEM_BYTES as u64 - b.below(32),
        1 => b.number(),
        _ => 0x8000 + (u64::from(b.u16() & 0x7fff) & !15),
    };
    let len = b.pick(&[16, 16, 512, 512, 1, 0, 100, u32::MAX, 0x1000, 17]);
    let flags = b.pick(&[1, 1, 3, 3, 2, 0, 4, 5, 6, 0xffff]);
    AnyDesc { at, len, flags, next: b.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 0xffff]) }
}

pub(super) fn act(b: &mut Bytes<'_>) -> Act {
    match b.below(16) {
        0 => Act::Descriptor(b.u16() & 15, desc(b)),
        1 => Act::Indirect(b.u16() & 63, desc(b)),
        2 => Act::Header((0x800 + (b.u64() & 0x7ff)) << 4, b.number() as u32, b.number()),
        3..=6 => {
            let kind = b.pick(&[0u32, 1, 0, 1, 4, 8, 11, 13, 14, u32::MAX]);
            let sector = match b.below(4) {
                0 => SECTORS.wrapping_add(b.below(5)).wrapping_sub(3),
                1 => b.number(),
                _ => b.below(100),
            };
            let bytes = b.pick(&[512u32, 512, 16, 16, 1024, 20, 0, 513, 32]);
            let odd = (b.below(8) == 0).then(|| desc(b));
            Act::Request(b.below(13) as u16, kind, sector, bytes, odd)
        }
        7 => Act::Offer(b.pick(&[0, 1, 2, 3, 4, 8, 15, 16, 0xffff])),
        8 => Act::Publish,
        9 => match b.below(4) {
            0 => Act::Jump(b.u16()),
            _ => Act::Miss(b.below(10)),
        },
        10..=13 => Act::Serve,
        _ => Act::Complete(b.below(16) as usize, b.number() & 0xfff),
    }
}

/// A call makes a bounded number of accesses, a chain is what the queue promises, and the used ring
/// grows by exactly the buffers given back.
pub(super) fn virtqueue(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let (mem, mut ring) = (Mem::new(), Ring::new(16, b.flag()));
    let mut queue = ring.queue(20);
    let mut held: Vec<QueueBuffer> = Vec::new();
    let mut given = 0u16;
    while !b.is_empty() {
        let act = act(&mut b);
        apply(&mut ring, &mem, &act);
        let before = mem.accesses();
        match act {
            Act::Serve => {
                let mark = queue.mark();
                match queue.pop(&mem) {
                    Ok(Some(chain)) => {
                        assert!(chain.buffer.id < 16);
                        assert!(chain.readable.len() + chain.writable.len() <= 20);
                        for s in chain.readable.iter().chain(chain.writable) {
                            assert!(s.len > 0 && s.gpa.checked_add(u64::from(s.len)).is_some());
                        }
                        held.push(chain.buffer);
                        if mem.accesses() & 7 == 0 {
                            queue.rewind(mark);
                            held.pop();
                        }
                    }
                    Ok(None) | Err(QueueError::NotResident(_)) => {}
                    Err(QueueError::Broken(_)) => break,
                }
            }
            Act::Complete(i, n) if !held.is_empty() => {
                let buffer = held[i % held.len()];
                if queue.add_used(&mem, buffer, n as u32).is_ok() {
                    held.remove(i % held.len());
                    let at = ring.layout.used.0 + 4 + 8 * u64::from(given % 16);
                    assert_eq!((mem.u32(at), mem.u32(at + 4)), (u32::from(buffer.id), n as u32));
                    given = given.wrapping_add(1);
                }
                queue.needs_notification(&mem);
            }
            _ => {}
        }
        assert!(mem.accesses() - before < 40, "accesses of one call");
        assert_eq!(ring.used_index(&mem), given);
        assert!(held.len() <= 16);
        assert_eq!(usize::from(queue.in_flight()), held.len());
    }
}

/// No more requests than the depth, each within the disk; and a reset always starts over.
pub(super) fn virtio_blk(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut m = disk();
    let features = 1 << 28 | 1 << 13 | 1 << 14 | if b.flag() { F_EVENT_IDX } else { 0 };
    let mut ring = m.start(features);
    let mut held: Vec<BlkRequest> = Vec::new();
    while !b.is_empty() {
        let act = act(&mut b);
        apply(&mut ring, &m.mem, &act);
        let before = m.mem.accesses();
        match act {
            Act::Serve => match m.dev.next(0, &m.mem) {
                NextRequest::Request(request) => {
                    check(&request);
                    held.push(request);
                }
                NextRequest::Full => assert_eq!(held.len(), 4),
                NextRequest::Broken(message) => {
                    assert!(message.is_some());
                    assert_ne!(m.status() & NEEDS_RESET, 0);
                }
                NextRequest::Answered(_) | NextRequest::Empty | NextRequest::NotResident(_) => {}
            },
            Act::Complete(i, n) if !held.is_empty() => hand_back(&mut m, &mut held, i, n),
            _ => {}
        }
        assert!(m.mem.accesses() - before < 300, "accesses of one call");
        assert!(held.len() <= 4);
    }

    m.mem.miss_none();
    m.set_status(0);
    for request in held {
        assert!(m.dev.complete(&m.mem, request, BlkStatus::Ok, 0).unwrap().is_none());
    }
    assert_eq!(m.status(), 0);
    m.mem.put(0x5000, &[0; 0x2000]);
    let mut ring = m.start(0);
    crate::t_virtio::blk::put_header(&m.mem, 0x8000, 4, 0);
    ring.add(&m.mem, &[(0x8000, 16, false), (0x9000, 1, true)]);
    ring.publish(&m.mem);
    assert!(matches!(m.dev.next(0, &m.mem), NextRequest::Request(_)));
}

/// The entropy device makes a bounded number of bytes, and a broken ring shows in the status.
pub(super) fn virtio_rng(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut m = Machine::new(VirtioRng);
    let mut ring = m.start(1 << 28);
    while !b.is_empty() {
        let act = act(&mut b);
        apply(&mut ring, &m.mem, &act);
        if let Act::Serve = act {
            let mut made = 0;
            let served = m.dev.serve(&m.mem, |buf| made += buf.len());
            assert!(made <= 64 * 4096 + 4096);
            if let QueueServed::Broken(_) = served {
                assert_eq!(m.status() & NEEDS_RESET, NEEDS_RESET);
                break;
            }
        }
    }
}
