// SPDX-License-Identifier: GPL-2.0

use super::blk::put_header;
use super::driver::{Part, INDIRECT, NEXT, WRITE};
use super::machine::{Machine, F_EVENT_IDX, F_RING_PACKED};
use super::mem::{Mem, MEM_BYTES};
use super::packed_driver::{PackedRing, Turn};
use super::random::AnyDesc;
use crate::arch::addr::Gpa;
use crate::virtio::device::blk::{BlkStatus, DiskGeometry, NextRequest, VirtioBlk};
use crate::virtio::device::net::{NetConfig, NetPacket, TakenPacket, VirtioNet};
use crate::virtio::queue::{
    QueueBuffer, QueueError, QueueFault, QueueFeatures, QueueLayout, UsedBuffer, VirtQueue,
};
use crate::virtio::segment::MemSegment;
use crate::virtio::transport::pci::VirtioPci;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;

const PACKED: QueueFeatures = QueueFeatures { indirect: true, event_idx: false, packed: true };
/// Flags of an available descriptor in the first lap.
const FIRST_LAP: u16 = 1 << 7;

fn segment(at: u64, len: u32) -> MemSegment {
    MemSegment { gpa: Gpa(at), len }
}

fn pop(queue: &mut VirtQueue, mem: &Mem) -> QueueBuffer {
    queue.pop(mem).unwrap().expect("a buffer").buffer
}

/// Pops and gives back at once. Returns the id.
fn echo(queue: &mut VirtQueue, mem: &Mem, len: u32) -> u16 {
    let buffer = pop(queue, mem);
    queue.add_used(mem, buffer, len).unwrap();
    buffer.id
}

fn broken(queue: &mut VirtQueue, mem: &Mem) -> QueueFault {
    match queue.pop(mem) {
        Err(QueueError::Broken(fault)) => fault,
        other => panic!("not broken: {other:?}"),
    }
}

#[test]
fn a_chain_comes_out_with_its_readable_and_writable_parts() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(8, false));
    let mut queue = ring.queue(8);
    let id = ring.add(&mem, &[(0x8000, 16, false), (0x9000, 512, true), (0xa000, 1, true)]);

    let chain = queue.pop(&mem).unwrap().unwrap();

    assert_eq!(chain.buffer.id, id);
    assert_eq!(chain.readable, [segment(0x8000, 16)]);
    assert_eq!(chain.writable, [segment(0x9000, 512), segment(0xa000, 1)]);
    assert!(queue.pop(&mem).unwrap().is_none());
    assert_eq!(queue.in_flight(), 3);
}

#[test]
fn an_indirect_table_is_one_entry_of_the_ring_and_all_of_it_is_the_buffer() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(4, false));
    let mut queue = ring.queue(8);
    let parts: Vec<Part> = (0..8).map(|i| (0x8000 + 0x100 * i, 16, i >= 5)).collect();
    let id = ring.add_indirect(&mem, 0x2_0000, &parts);

    let chain = queue.pop(&mem).unwrap().unwrap();

    assert_eq!((chain.readable.len(), chain.writable.len()), (5, 3));
    assert_eq!(chain.writable[2], segment(0x8700, 16));
    let buffer = chain.buffer;
    assert_eq!(queue.in_flight(), 1);
    queue.add_used(&mem, buffer, 5).unwrap();
    assert_eq!(ring.take_used(&mem), [(id, 5)]);
}

#[test]
fn buffers_come_back_in_the_order_of_completion_each_skipping_its_own_entries() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(8, false));
    let mut queue = ring.queue(8);
    let long = ring.add(&mem, &[(0x8000, 1, false), (0x9000, 1, false), (0xa000, 1, true)]);
    let short = ring.add(&mem, &[(0xb000, 16, true)]);
    let (first, second) = (pop(&mut queue, &mem), pop(&mut queue, &mem));

    queue.add_used(&mem, second, 7).unwrap();
    queue.add_used(&mem, first, 0).unwrap();

    assert_eq!(mem.u16(0x1000 + 12), short, "the first entry tells of the buffer that ended first");
    assert_eq!(mem.u16(0x1000 + 16 + 12), long, "and the next one of the other");
    assert_eq!(ring.take_used(&mem), [(short, 7), (long, 0)]);
    assert_eq!((ring.free, queue.in_flight()), (8, 0));
}

#[test]
fn rings_of_any_size_go_around_with_their_wrap_counters() {
    for event_idx in [false, true] {
        for size in [1, 2, 3, 5, 7, 8, 64] {
            let (mem, mut ring) = (Mem::new(), PackedRing::new(size, event_idx));
            let mut queue = ring.queue(8);
            for i in 0..500u32 {
                if event_idx {
                    ring.want_at(&mem, ring.last);
                }
                let parts: Vec<Part> =
                    (0..=(i as u64 % u64::from(size.min(4)))).map(|p| (p, 16, true)).collect();
                let id = ring.add(&mem, &parts);
                assert!(ring.wants_kick(&mem, parts.len() as u16), "an armed queue wants to be notified");
                assert_eq!(echo(&mut queue, &mem, i), id);
                assert!(queue.pop(&mem).unwrap().is_none());
                assert!(queue.needs_notification(&mem));
                assert!(!queue.needs_notification(&mem), "told of once");
                assert_eq!(ring.take_used(&mem), [(id, i)]);
            }
        }
    }
}

#[test]
fn buffers_given_back_together_appear_at_once() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(4, false));
    let mut queue = ring.queue(8);
    for _ in 0..3 {
        let ids: Vec<u16> = (0..3).map(|i| ring.add(&mem, &[(i, 16, true)])).collect();
        let used: Vec<UsedBuffer> =
            (0..3).map(|i| UsedBuffer { buffer: pop(&mut queue, &mem), len: 10 + i }).collect();
        // Every access misses in turn: the driver sees nothing.
        for n in 0..3 {
            mem.miss_nth(n);
            assert!(matches!(queue.add_used_together(&mem, &used), Err(QueueError::NotResident(_))));
            assert!(!ring.has_used(&mem));
        }

        queue.add_used_together(&mem, &used).unwrap();

        let expected: Vec<(u16, u32)> = ids.iter().zip(10..).map(|(id, len)| (*id, len)).collect();
        assert_eq!(ring.take_used(&mem), expected);
    }
}

#[test]
fn what_was_popped_can_be_taken_back() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(3, false));
    let mut queue = ring.queue(8);
    for _ in 0..7 {
        let a = ring.add(&mem, &[(0x8000, 16, true), (0x9000, 16, true)]);
        let b = ring.add(&mem, &[(0xa000, 16, true)]);
        let mark = queue.mark();
        pop(&mut queue, &mem);
        pop(&mut queue, &mem);
        queue.rewind(mark);
        assert_eq!(queue.in_flight(), 0);

        assert_eq!((echo(&mut queue, &mem, 1), echo(&mut queue, &mem, 2)), (a, b));
        assert_eq!(ring.take_used(&mem), [(a, 1), (b, 2)]);
    }
}

#[test]
fn a_chain_longer_than_the_ring_or_than_the_device_takes_is_refused() {
    for (size, max_chain, fault) in [(4, 16, QueueFault::AvailIndex(0)), (8, 4, QueueFault::TooLong)] {
        let (mem, ring) = (Mem::new(), PackedRing::new(size, false));
        let mut queue = ring.queue(max_chain);
        for slot in 0..size {
            ring.desc(&mem, slot, 0x8000, 16, 0, NEXT | FIRST_LAP);
        }

        assert_eq!(broken(&mut queue, &mem), fault);
    }
}

#[test]
fn entries_that_the_device_still_has_cannot_be_made_available_again() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(4, false));
    let mut queue = ring.queue(8);
    for i in 0..4 {
        ring.add(&mem, &[(i, 16, true)]);
        pop(&mut queue, &mem);
    }
    assert!(queue.pop(&mem).unwrap().is_none());
    // As in the next lap.
    ring.desc(&mem, 0, 0x8000, 16, 0, 1 << 15);

    assert_eq!(broken(&mut queue, &mem), QueueFault::AvailIndex(0));
}

#[test]
fn indirect_descriptors_stand_alone() {
    let bad = [(INDIRECT | NEXT, 16), (INDIRECT, 0), (INDIRECT, 24)];
    for (flags, len) in bad {
        let (mem, ring) = (Mem::new(), PackedRing::new(4, false));
        ring.desc(&mem, 0, 0x8000, len, 0, flags | FIRST_LAP);
        let fault = broken(&mut ring.queue(8), &mem);
        assert!(matches!(fault, QueueFault::Indirect | QueueFault::IndirectBytes(_)), "{fault:?}");
    }
    let (mem, ring) = (Mem::new(), PackedRing::new(4, false));
    ring.desc(&mem, 0, 0x8000, 16, 0, NEXT | FIRST_LAP);
    ring.desc(&mem, 1, 0x9000, 16, 0, INDIRECT | FIRST_LAP);
    assert_eq!(broken(&mut ring.queue(8), &mem), QueueFault::Indirect, "not at the end of a chain");
    let (mem, ring) = (Mem::new(), PackedRing::new(4, false));
    let mut queue = VirtQueue::new(4, 8).unwrap();
    queue.set_layout(ring.layout);
    queue.enable(QueueFeatures { indirect: false, ..PACKED }).unwrap();
    ring.desc(&mem, 0, 0x8000, 16, 0, INDIRECT | FIRST_LAP);
    assert_eq!(broken(&mut queue, &mem), QueueFault::Indirect, "not negotiated");
}

#[test]
fn a_ring_that_cannot_be_is_not_enabled() {
    let good = PackedRing::new(8, false).layout;
    let odd = [
        QueueLayout { desc: Gpa(0x1008), ..good },
        QueueLayout { avail: Gpa(0x5002), ..good },
        QueueLayout { used: Gpa(0x6002), ..good },
        QueueLayout { desc: Gpa(u64::MAX - 15), ..good },
    ];
    for layout in odd {
        let mut queue = VirtQueue::new(8, 8).unwrap();
        queue.set_layout(layout);
        assert_eq!(queue.enable(PACKED), Err(QueueFault::Layout), "{layout:?}");
        assert!(!queue.is_ready());
    }
    let mut queue = VirtQueue::new(8, 8).unwrap();
    for (size, kept) in [(0, 8), (9, 8), (5, 5), (1, 1)] {
        queue.set_size(size, true);
        assert_eq!(queue.size(), kept);
    }
    queue.set_size(3, true);
    queue.set_layout(good);
    assert_eq!(
        queue.enable(QueueFeatures::default()),
        Err(QueueFault::Layout),
        "split rings have powers of two"
    );
}

#[test]
fn the_driver_gets_interrupts_when_it_wants_them() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(5, true));
    let mut queue = ring.queue(8);
    let mut after = |wish: &dyn Fn(&PackedRing)| {
        ring.add(&mem, &[(0x8000, 16, true), (0x9000, 16, true)]);
        wish(&ring);
        echo(&mut queue, &mem, 1);
        let told = queue.needs_notification(&mem);
        ring.take_used(&mem);
        told
    };

    for _ in 0..10 {
        assert!(after(&|r| r.want_interrupts(&mem, true)));
        assert!(!after(&|r| r.want_interrupts(&mem, false)));
        assert!(after(&|r| r.want_at(&mem, r.last)));
        assert!(!after(&|r| r.want_at(&mem, r.last.on(2, 5))), "the one after that");
        assert!(after(&|r| r.want_at(&mem, Turn { slot: 5, wrap: true })), "no such place");
        assert!(after(&|r| r.want_at(&mem, r.last)), "as long as the driver has not seen it");
        assert!(after(&|r| mem.put(r.layout.avail.0 + 2, &[3, 0])), "a value that has no meaning");
    }
    // Without event indices, a place means nothing.
    let (mem, mut ring) = (Mem::new(), PackedRing::new(5, false));
    let mut queue = ring.queue(8);
    ring.add(&mem, &[(0x8000, 16, true)]);
    ring.want_at(&mem, ring.last.on(3, 5));
    echo(&mut queue, &mem, 1);
    assert!(queue.needs_notification(&mem));
}

#[test]
fn notifications_are_suppressed_while_the_queue_is_being_emptied() {
    for event_idx in [false, true] {
        let (mem, mut ring) = (Mem::new(), PackedRing::new(8, event_idx));
        let mut queue = ring.queue(8);
        assert!(queue.pop(&mem).unwrap().is_none());
        ring.add(&mem, &[(0x8000, 16, true)]);
        assert!(ring.wants_kick(&mem, 1), "the first buffer after the queue was empty");
        echo(&mut queue, &mem, 0);
        for _ in 0..6 {
            ring.add(&mem, &[(0x8000, 16, true)]);
            assert!(!ring.wants_kick(&mem, 1));
            echo(&mut queue, &mem, 0);
            ring.take_used(&mem);
        }
        assert!(queue.pop(&mem).unwrap().is_none());
        ring.add(&mem, &[(0x8000, 16, true)]);
        assert!(ring.wants_kick(&mem, 1), "armed again");
    }
}

#[test]
fn a_missing_page_changes_nothing_and_the_call_can_be_repeated() {
    for event_idx in [false, true] {
        // Each access in turn misses, until a run needs no more accesses than that.
        for n in 0.. {
            let (mem, mut ring) = (Mem::new(), PackedRing::new(8, event_idx));
            let mut queue = ring.queue(8);
            let id = ring.add_indirect(&mem, 0x2_0000, &[(0x8000, 16, false), (0x9000, 16, true)]);
            mem.miss_nth(n);

            let mut misses = 0;
            let mut again = |e: QueueError| match e {
                QueueError::NotResident(_) => misses += 1,
                QueueError::Broken(fault) => panic!("{fault:?}"),
            };
            let popped = loop {
                match queue.pop(&mem) {
                    Ok(chain) => break chain.unwrap().buffer,
                    Err(e) => again(e),
                }
            };
            while let Err(e) = queue.add_used(&mem, popped, 5) {
                again(e);
            }
            while let Err(e) = queue.pop(&mem).map(|chain| assert!(chain.is_none())) {
                again(e);
            }

            assert_eq!(ring.take_used(&mem), [(id, 5)]);
            if mem.miss_none() {
                assert_eq!(misses, 0);
                assert!(n > 4);
                break;
            }
            assert_eq!(misses, 1);
        }
    }
}

#[test]
fn a_ring_outside_of_memory_breaks_the_queue() {
    let (mem, mut ring) = (Mem::new(), PackedRing::new(4, false));
    ring.layout.desc = Gpa(MEM_BYTES as u64);
    assert_eq!(broken(&mut ring.queue(8), &mem), QueueFault::Memory(Gpa(MEM_BYTES as u64 + 14)));
}

#[test]
fn packed_rings_are_offered_only_where_that_was_asked_for() {
    let geometry =
        DiskGeometry { sectors: 1000, block_shift: 9, read_only: false, discard: false, serial: [0; 20] };
    for offered in [false, true] {
        let blk = VirtioBlk::new(geometry, 16, 4, 1).unwrap();
        let mut m = Machine::with(VirtioPci::new(blk).unwrap().offer_packed(offered));
        m.probe();
        assert_eq!(m.offered() & F_RING_PACKED != 0, offered);
    }
}

#[test]
fn a_disk_hands_requests_back_in_any_order_through_a_packed_ring() {
    let geometry =
        DiskGeometry { sectors: 1000, block_shift: 9, read_only: false, discard: false, serial: [0; 20] };
    let dev = VirtioPci::new(VirtioBlk::new(geometry, 16, 4, 1).unwrap()).unwrap().offer_packed(true);
    let mut m = Machine::with(dev);
    let mut ring = m.start_packed(F_EVENT_IDX | 1 << 28, 1, 11).remove(0);
    for lap in 0..40u64 {
        ring.want_at(&m.mem, ring.last);
        let mut ids = Vec::new();
        let mut requests = Vec::new();
        for i in 0..3 {
            let at = 0x1_0000 + 0x1000 * i;
            put_header(&m.mem, at, 0, i);
            let parts = [(at, 16, false), (at + 0x200, 512, true), (at + 0x100, 1, true)];
            ids.push(if i == lap % 3 {
                ring.add_indirect(&m.mem, at + 0x800, &parts)
            } else {
                ring.add(&m.mem, &parts)
            });
            match m.dev.next(0, &m.mem) {
                NextRequest::Request(request) => requests.push(request),
                other => panic!("no request: {other:?}"),
            }
        }
        assert!(matches!(m.dev.next(0, &m.mem), NextRequest::Empty));

        let mut expected = Vec::new();
        for i in [2, 0, 1] {
            let request = requests.remove(if i == 2 { 2 } else { 0 });
            let told = m.dev.complete(&m.mem, request, BlkStatus::Ok, 512).unwrap();
            assert_eq!(told.is_some(), i == 2, "an interrupt with the first");
            expected.push((ids[i], 513));
        }
        assert_eq!(ring.take_used(&m.mem), expected);
        assert_eq!(m.mem.get::<1>(0x1_0100), [0], "the status");
    }
    m.set_status(0);
    assert_eq!(m.status(), 0);
}

#[test]
fn a_packet_is_spread_over_buffers_of_a_packed_ring() {
    let c = NetConfig { mac: [2, 0, 0, 0, 0, 1], mtu: 0, pairs: 1, offloads: false, udp_offloads: false };
    let mut m = Machine::with(VirtioPci::new(VirtioNet::new(&c).unwrap()).unwrap().offer_packed(true));
    let mut rings = m.start_packed(1 << 15, 2, 5);
    let mut packet = NetPacket::new().unwrap();
    for _ in 0..20 {
        let rx = &mut rings[0];
        let ids: Vec<u16> = (0..3).map(|i| rx.add(&m.mem, &[(0x4_0000 + 0x100 * i, 100, true)])).collect();

        assert_eq!(m.dev.take_room(0, &m.mem, &mut packet, 150), TakenPacket::Packet);
        assert_eq!(m.dev.give_room(0, &m.mem, &mut packet, 150), Ok(None));

        let rx = &mut rings[0];
        assert_eq!(rx.take_used(&m.mem), [(ids[0], 100), (ids[1], 50)]);
        assert_eq!(m.mem.u16(0x4_000a), 2, "the header says over how many");
        assert_eq!(m.dev.take_room(0, &m.mem, &mut packet, 150), TakenPacket::Empty);
        assert_eq!(m.dev.take_room(0, &m.mem, &mut packet, 90), TakenPacket::Packet);
        assert_eq!(m.dev.give_room(0, &m.mem, &mut packet, 90), Ok(None));
        assert_eq!(rings[0].take_used(&m.mem), [(ids[2], 90)]);
    }
}

/// What driver and device do next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A buffer of that many pieces, through a table or not.
    Add(usize, bool),
    Pop,
    /// Pops that many and takes them back.
    PopAndRewind(usize),
    /// Gives one back: which, and its length.
    Give(usize, u32),
    /// Gives some back together.
    GiveTogether(usize),
    /// Asks whether to interrupt.
    Decide,
    TakeUsed,
    Miss(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1usize..6, any::<bool>()).prop_map(|(n, table)| Step::Add(n, table)),
        5 => Just(Step::Pop),
        1 => (1usize..4).prop_map(Step::PopAndRewind),
        4 => (any::<usize>(), 0u32..100).prop_map(|(i, len)| Step::Give(i, len)),
        1 => (1usize..4).prop_map(Step::GiveTogether),
        3 => Just(Step::Decide),
        3 => Just(Step::TakeUsed),
        1 => (0u64..6).prop_map(Step::Miss),
    ]
}

/// A driver and a device on one ring, and what must come out.
pub(crate) struct Pair {
    mem: Mem,
    ring: PackedRing,
    queue: VirtQueue,
    /// Made available and not popped: id and pieces.
    waiting: VecDeque<(u16, Vec<Part>)>,
    /// Popped and not given back.
    held: Vec<QueueBuffer>,
    /// Given back and not seen by the driver.
    given: VecDeque<(u16, u32)>,
    /// The device slept when it last looked, and must be kicked for the next buffer.
    asleep: bool,
    /// The driver waits for an interrupt, having seen all that was used.
    expects: bool,
    made: u64,
}

impl Pair {
    pub(crate) fn new(size: u16, event_idx: bool) -> Pair {
        let ring = PackedRing::new(size, event_idx);
        let queue = ring.queue(6);
        Pair {
            mem: Mem::new(),
            ring,
            queue,
            waiting: VecDeque::new(),
            held: Vec::new(),
            given: VecDeque::new(),
            asleep: false,
            expects: false,
            made: 0,
        }
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Add(n, table) => self.add(*n, *table),
            Step::Pop => {
                if let Some(buffer) = self.pop() {
                    self.held.push(buffer);
                }
            }
            Step::PopAndRewind(n) => {
                let (mark, waiting) = (self.queue.mark(), self.waiting.clone());
                for _ in 0..*n {
                    if self.pop().is_none() {
                        break;
                    }
                }
                self.queue.rewind(mark);
                // It looks again before it sleeps.
                self.asleep &= waiting.is_empty();
                self.waiting = waiting;
            }
            Step::Give(i, len) if !self.held.is_empty() => {
                let buffer = self.held[i % self.held.len()];
                match self.queue.add_used(&self.mem, buffer, *len) {
                    Ok(()) => {
                        self.held.remove(i % self.held.len());
                        self.given.push_back((buffer.id, *len));
                    }
                    Err(QueueError::NotResident(_)) => {}
                    Err(e) => panic!("{e:?}"),
                }
            }
            Step::GiveTogether(n) => {
                let n = (*n).min(self.held.len());
                let used: Vec<UsedBuffer> =
                    self.held[..n].iter().map(|buffer| UsedBuffer { buffer: *buffer, len: 9 }).collect();
                if self.queue.add_used_together(&self.mem, &used).is_ok() {
                    self.given.extend(self.held.drain(..n).map(|buffer| (buffer.id, 9)));
                }
            }
            Step::Decide => {
                let told = self.queue.needs_notification(&self.mem);
                if self.expects && !self.given.is_empty() {
                    assert!(told, "the driver would wait for ever");
                }
                if told {
                    self.expects = false;
                }
            }
            Step::TakeUsed => self.take_used(),
            Step::Miss(n) => self.mem.miss_nth(*n),
            Step::Give(..) => {}
        }
        let entries = self.ring.size - self.ring.free;
        assert!(self.queue.in_flight() <= entries);
    }

    fn add(&mut self, n: usize, table: bool) {
        let need = if table { 1 } else { n as u16 };
        if need > self.ring.free {
            return;
        }
        self.made += 1;
        let parts: Vec<Part> =
            (0..n).map(|i| (self.made << 8 | i as u64, 1 + i as u32, i * 2 >= n)).collect();
        let id = if table {
            let at = 0x2_0000 + (u64::from(self.ring.next.slot) << 8);
            self.ring.add_indirect(&self.mem, at, &parts)
        } else {
            self.ring.add(&self.mem, &parts)
        };
        if self.asleep {
            assert!(self.ring.wants_kick(&self.mem, need), "the device would sleep for ever");
            self.asleep = false;
        }
        self.waiting.push_back((id, parts));
    }

    fn pop(&mut self) -> Option<QueueBuffer> {
        let before = self.mem.accesses();
        match self.queue.pop(&self.mem) {
            Ok(Some(chain)) => {
                let (id, parts) = self.waiting.pop_front().expect("nothing was made available");
                assert_eq!(chain.buffer.id, id);
                let got: Vec<Part> = chain
                    .readable
                    .iter()
                    .map(|s| (s.gpa.0, s.len, false))
                    .chain(chain.writable.iter().map(|s| (s.gpa.0, s.len, true)))
                    .collect();
                assert_eq!(got, parts);
                assert!(self.mem.accesses() - before < 10);
                self.asleep = false;
                Some(chain.buffer)
            }
            Ok(None) => {
                assert!(self.waiting.is_empty(), "a buffer was overlooked");
                self.asleep = true;
                None
            }
            Err(QueueError::NotResident(_)) => None,
            Err(e) => panic!("{e:?}"),
        }
    }

    fn take_used(&mut self) {
        let used = self.ring.take_used(&self.mem);
        assert_eq!(used, self.given.drain(..).collect::<Vec<_>>());
        if self.ring.event_idx {
            self.ring.want_at(&self.mem, self.ring.last);
        } else {
            self.ring.want_interrupts(&self.mem, true);
        }
        self.expects = true;
    }

    /// Gives everything back: each buffer returns exactly once.
    pub(crate) fn finish(&mut self) {
        self.mem.miss_none();
        while let Some(buffer) = self.pop() {
            self.held.push(buffer);
        }
        while let Some(buffer) = self.held.pop() {
            self.queue.add_used(&self.mem, buffer, 1).unwrap();
            self.given.push_back((buffer.id, 1));
        }
        self.take_used();
        assert_eq!((self.ring.free, self.queue.in_flight()), (self.ring.size, 0));
    }
}

fn any_desc() -> impl Strategy<Value = (u16, AnyDesc)> {
    let at = prop_oneof![4 => 0x8000u64..0x9000, 1 => Just(MEM_BYTES as u64 - 8), 1 => any::<u64>()];
    let len = prop_oneof![4 => Just(16u32), 2 => Just(32u32), 1 => 0u32..100, 1 => any::<u32>()];
    let lap = prop_oneof![8 => Just(FIRST_LAP), 8 => Just(1u16 << 15), 1 => Just(0u16), 1 => Just(0x8080u16)];
    let kind = prop_oneof![4 => Just(0u16), 3 => Just(NEXT), 2 => Just(WRITE), 1 => Just(INDIRECT), 1 => any::<u16>()];
    (0u16..7, at, len, any::<u16>(), kind, lap)
        .prop_map(|(slot, at, len, id, kind, lap)| (slot, AnyDesc { at, len, flags: id, next: kind | lap }))
}

proptest! {
    /// A driver that keeps the rules: buffers come out whole and in order, each returns exactly once, in
    /// whatever order the device is done with them, and neither side sleeps while the other waits for it.
    #[test]
    fn every_buffer_returns_exactly_once(
        size in 1u16..20, event_idx in any::<bool>(), steps in vec(any_step(), 0..200),
    ) {
        let mut pair = Pair::new(size, event_idx);
        for step in &steps {
            pair.step(step);
        }
        pair.finish();
    }

    /// A driver that does anything: a call makes a bounded number of accesses, never more entries are out
    /// than the ring has, and what comes out is what the queue promises.
    #[test]
    fn a_packed_queue_survives_any_ring(
        event_idx in any::<bool>(),
        acts in vec(prop_oneof![
            3 => any_desc().prop_map(|d| (Some(d), 0u64)),
            4 => (0u64..8).prop_map(|n| (None, n)),
        ], 0..150),
    ) {
        let (mem, ring) = (Mem::new(), PackedRing::new(7, event_idx));
        let mut queue = ring.queue(6);
        let mut held: Vec<QueueBuffer> = Vec::new();
        for (desc, n) in acts {
            if let Some((slot, d)) = desc {
                ring.desc(&mem, slot, d.at, d.len, d.flags, d.next);
                continue;
            }
            let before = mem.accesses();
            match n {
                0..=3 => match queue.pop(&mem) {
                    Ok(Some(chain)) => {
                        prop_assert!(chain.readable.len() + chain.writable.len() <= 6);
                        for s in chain.readable.iter().chain(chain.writable) {
                            prop_assert!(s.len > 0 && s.gpa.checked_add(u64::from(s.len)).is_some());
                        }
                        held.push(chain.buffer);
                    }
                    Ok(None) | Err(QueueError::NotResident(_)) => {}
                    Err(QueueError::Broken(_)) => break,
                },
                4..=5 if !held.is_empty() => {
                    let buffer = held.remove(n as usize % held.len());
                    queue.add_used(&mem, buffer, n as u32).unwrap();
                }
                6 => drop(queue.needs_notification(&mem)),
                _ => mem.put(ring.layout.avail.0, &[n as u8, 0x80, 2, 0]),
            }
            prop_assert!(mem.accesses() - before < 12);
            prop_assert!(queue.in_flight() <= 7 && held.len() <= usize::from(queue.in_flight()));
        }
    }
}
