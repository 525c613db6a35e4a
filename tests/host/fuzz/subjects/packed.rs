// SPDX-License-Identifier: GPL-2.0

//! Packed virtqueues: under a driver that keeps the rules, and with any contents.

use super::bytes::Bytes;
use crate::t_virtio::mem::{Mem, MEM_BYTES};
use crate::t_virtio::packed::{Pair, Step};
use crate::t_virtio::packed_driver::PackedRing;
use crate::virtio::queue::{QueueBuffer, QueueError};

/// Every buffer comes out whole and in order, returns exactly once, and no side waits for ever.
pub(super) fn packed_pair(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut pair = Pair::new(1 + b.below(20) as u16, b.flag());
    while !b.is_empty() {
        let step = match b.below(10) {
            0..=2 => Step::Add(1 + b.below(5) as usize, b.flag()),
            3 | 4 => Step::Pop,
            5 => Step::PopAndRewind(1 + b.below(3) as usize),
            6 => Step::Give(b.below(16) as usize, b.below(100) as u32),
            7 => Step::GiveTogether(1 + b.below(3) as usize),
            8 => match b.below(4) {
                0 => Step::Miss(b.below(6)),
                _ => Step::Decide,
            },
            _ => Step::TakeUsed,
        };
        pair.step(&step);
    }
    pair.finish();
}

/// A call makes a bounded number of accesses, and no more entries are out than the ring has.
pub(super) fn packed_ring(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let (mem, ring) = (Mem::new(), PackedRing::new(1 + b.below(9) as u16, b.flag()));
    let mut queue = ring.queue(6);
    let mut held: Vec<QueueBuffer> = Vec::new();
    while !b.is_empty() {
        let before = mem.accesses();
        match b.below(8) {
            0..=2 => {
                let at = b.pick(&[0x8000, 0x8010, 0x8800, MEM_BYTES as u64 - 8, u64::MAX, 0x9000]);
                let len = b.pick(&[16, 32, 48, 1, 0, 100, u32::MAX]);
                let flags =
                    b.pick(&[0, 0, 1, 2, 3, 4, 5, 0xff]) | b.pick(&[0x80, 0x8000, 0x80, 0x8000, 0, 0x8080]);
                ring.desc(&mem, b.u16() % ring.size, at, len, b.u16(), flags);
            }
            3 | 4 => {
                let mark = queue.mark();
                match queue.pop(&mem) {
                    Ok(Some(chain)) => {
                        assert!(chain.readable.len() + chain.writable.len() <= 6);
                        held.push(chain.buffer);
                        if b.below(8) == 0 {
                            queue.rewind(mark);
                            held.pop();
                        }
                    }
                    Ok(None) | Err(QueueError::NotResident(_)) => {}
                    Err(QueueError::Broken(_)) => break,
                }
            }
            5 if !held.is_empty() => {
                let i = b.below(held.len() as u64) as usize;
                if queue.add_used(&mem, held[i], b.below(99) as u32).is_ok() {
                    held.remove(i);
                }
            }
            6 => drop(queue.needs_notification(&mem)),
            _ => match b.below(4) {
                0 => mem.miss_nth(b.below(8)),
                _ => mem.put(ring.layout.avail.0, &[b.u16() as u8, b.u16() as u8, b.below(4) as u8, 0]),
            },
        }
        assert!(mem.accesses() - before < 12, "accesses of one call");
        assert!(queue.in_flight() <= ring.size && held.len() <= usize::from(queue.in_flight()));
    }
}
