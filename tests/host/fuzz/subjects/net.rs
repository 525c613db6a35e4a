// SPDX-License-Identifier: GPL-2.0

//! A network card under rings with any contents.

use super::bytes::Bytes;
use super::queue::act;
use crate::t_virtio::machine::{F_EVENT_IDX, NEEDS_RESET};
use crate::t_virtio::net::card;
use crate::t_virtio::random::{apply, Act};
use crate::virtio::device::net::{NetPacket, SentPackets, TakenPacket, MAX_SEGMENTS};
use crate::virtio::transport::pci::QueueServed;

/// What a worker takes is bounded and enough; taking and giving make a bounded number of accesses.
pub(super) fn virtio_net(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut m = card(2);
    let (mq, mergeable) = (1 << 17 | 1 << 22 | 1 << 2, if b.flag() { 1 << 15 } else { 0 });
    let features = 1 << 28 | mq | mergeable | 3 | if b.flag() { F_EVENT_IDX } else { 0 };
    let mut rings = m.start_queues(features, 5);
    let mut p = NetPacket::new().unwrap();
    while !b.is_empty() {
        let queue = b.below(5) as u16;
        let act = act(&mut b);
        apply(&mut rings[usize::from(queue)], &m.mem, &act);
        if !matches!(act, Act::Serve | Act::Complete(..)) {
            continue;
        }
        let before = m.mem.accesses();
        let size = b.below(70_000);
        let taken = match queue {
            4 => match m.dev.serve_control(&m.mem) {
                QueueServed::Broken(message) => TakenPacket::Broken(message),
                _ => TakenPacket::Empty,
            },
            q if q % 2 == 0 => m.dev.take_room(q, &m.mem, &mut p, size),
            q => m.dev.take_packet(q, &m.mem, &mut p),
        };
        match taken {
            TakenPacket::Packet => {
                assert!(p.data().len() <= MAX_SEGMENTS && p.data().iter().all(|s| s.len > 0));
                let index = rings[usize::from(queue)].used_index(&m.mem);
                let given = if queue % 2 == 0 {
                    assert!(p.bytes() >= size);
                    m.dev.give_room(queue, &m.mem, &mut p, size)
                } else {
                    assert!(p.bytes() >= 12);
                    let mut sent = SentPackets::new(1).unwrap();
                    let _ = p.buffer().is_some_and(|b| sent.add(b));
                    m.dev.give_packets(queue, &m.mem, &sent)
                };
                if given.is_err() {
                    assert_eq!(rings[usize::from(queue)].used_index(&m.mem), index);
                    m.mem.miss_none();
                    // A header outside of memory is found now.
                    let _ = m.dev.abandon_packets(crate::virtio::queue::QueueFault::Malformed, 1);
                    break;
                }
                let _ = m.dev.notify_queue(queue, &m.mem);
            }
            TakenPacket::Broken(_) => {
                assert_eq!(m.status() & NEEDS_RESET, NEEDS_RESET);
                break;
            }
            TakenPacket::Empty | TakenPacket::TooLong | TakenPacket::NotResident(_) => {}
        }
        assert!(m.mem.accesses() - before < 3000, "accesses of one call");
        assert!(m.dev.receive_queue(1) <= 2);
    }
    m.mem.miss_none();
    m.set_status(0);
    assert_eq!(m.status(), 0, "nothing is out, so a reset ends at once");
}
