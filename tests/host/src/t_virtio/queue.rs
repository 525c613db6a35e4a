// SPDX-License-Identifier: GPL-2.0

use super::driver::{put_desc, put_table, Ring, INDIRECT, NEXT, WRITE};
use super::mem::{Mem, MEM_BYTES};
use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};
use crate::virtio::queue::{QueueError, QueueFault, QueueFeatures, QueueLayout, VirtQueue};
use crate::virtio::segment::{read_segments, slice, total, write_segments, MemSegment};

fn segment(at: u64, len: u32) -> MemSegment {
    MemSegment { gpa: Gpa(at), len }
}

/// Pops and gives back at once. Returns the head.
fn echo(queue: &mut VirtQueue, mem: &Mem, len: u32) -> Option<u16> {
    let buffer = queue.pop(mem).unwrap()?.buffer;
    queue.add_used(mem, buffer, len).unwrap();
    Some(buffer.id)
}

fn broken(queue: &mut VirtQueue, mem: &Mem) -> QueueFault {
    match queue.pop(mem) {
        Err(QueueError::Broken(fault)) => fault,
        other => panic!("not broken: {other:?}"),
    }
}

#[test]
fn a_chain_comes_out_with_its_readable_and_writable_parts() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    let head = ring.add(&mem, &[(0x8000, 16, false), (0x9000, 512, true), (0xa000, 1, true)]);
    ring.publish(&mem);

    let chain = queue.pop(&mem).unwrap().unwrap();

    assert_eq!(chain.buffer.id, head);
    assert_eq!(chain.readable, [segment(0x8000, 16)]);
    assert_eq!(chain.writable, [segment(0x9000, 512), segment(0xa000, 1)]);
    assert!(queue.pop(&mem).unwrap().is_none());
}

#[test]
fn descriptors_of_a_chain_may_lie_in_any_order() {
    for order in [[0, 1, 2, 3, 4, 5], [15, 14, 13, 12, 11, 10], [3, 0, 1, 9, 2, 4], [13, 14, 15, 1, 12, 0]] {
        let (mem, mut ring) = (Mem::new(), Ring::new(16, false));
        let mut queue = ring.queue(8);
        for (i, index) in order.into_iter().enumerate() {
            let next = order.get(i + 1).copied();
            let flags = if next.is_some() { NEXT } else { 0 };
            ring.desc(&mem, index, 0x8000 + i as u64, 1, flags, next.unwrap_or(0));
        }
        ring.offer(&mem, order[0]);
        ring.publish(&mem);

        let chain = queue.pop(&mem).unwrap().unwrap();

        let expected: Vec<MemSegment> = (0..6).map(|i| segment(0x8000 + i, 1)).collect();
        assert_eq!(chain.readable, expected, "{order:?}");
    }
}

#[test]
fn nothing_comes_out_of_a_queue_that_is_not_ready() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = VirtQueue::new(8, 8).unwrap();
    queue.set_layout(ring.layout);
    ring.add(&mem, &[(0x8000, 16, false)]);
    ring.publish(&mem);

    assert!(queue.pop(&mem).unwrap().is_none());
}

#[test]
fn used_buffers_appear_with_their_lengths_in_the_order_of_completion() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    let a = ring.add(&mem, &[(0x8000, 16, true)]);
    let b = ring.add(&mem, &[(0x9000, 16, true)]);
    ring.publish(&mem);
    let first = queue.pop(&mem).unwrap().unwrap().buffer;
    let second = queue.pop(&mem).unwrap().unwrap().buffer;
    assert_eq!(queue.in_flight(), 2);

    queue.add_used(&mem, second, 7).unwrap();
    queue.add_used(&mem, first, 16).unwrap();

    assert_eq!(ring.take_used(&mem), [(b, 7), (a, 16)]);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn indices_wrap_at_sixteen_bits() {
    for event_idx in [false, true] {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, event_idx));
        let mut queue = ring.queue(8);
        let mut interrupts = 0;
        for i in 0..70_000u32 {
            let head = ring.add(&mem, &[(0x8000, 16, false), (0x9000, 16, true)]);
            ring.want_after(&mem, ring.used_index(&mem));
            assert!(ring.publish(&mem), "an armed queue wants to be notified");
            assert_eq!(echo(&mut queue, &mem, i), Some(head));
            assert!(queue.pop(&mem).unwrap().is_none());
            interrupts += u32::from(queue.needs_notification(&mem));
            assert_eq!(ring.take_used(&mem), [(head, i)]);
        }
        assert_eq!(interrupts, 70_000);
    }
}

#[test]
fn an_indirect_table_is_followed() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    let head =
        ring.add_indirect(&mem, 0x2_0000, &[(0x8000, 16, false), (0x9000, 512, true), (0xa000, 1, true)]);
    ring.publish(&mem);

    let chain = queue.pop(&mem).unwrap().unwrap();

    assert_eq!(chain.buffer.id, head);
    assert_eq!(chain.readable, [segment(0x8000, 16)]);
    assert_eq!(chain.writable, [segment(0x9000, 512), segment(0xa000, 1)]);
}

#[test]
fn an_indirect_table_may_follow_direct_descriptors_and_its_own_write_flag_means_nothing() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    ring.desc(&mem, 3, 0x8000, 16, NEXT, 5);
    ring.desc(&mem, 5, 0x2_0000, 32, INDIRECT | WRITE, 0);
    put_table(&mem, 0x2_0000, &[(0x9000, 32, false), (0xa000, 1, true)]);
    ring.offer(&mem, 3);
    ring.publish(&mem);

    let chain = queue.pop(&mem).unwrap().unwrap();

    assert_eq!(chain.readable, [segment(0x8000, 16), segment(0x9000, 32)]);
    assert_eq!(chain.writable, [segment(0xa000, 1)]);
}

#[test]
fn an_indirect_table_that_was_not_negotiated_is_refused() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = VirtQueue::new(8, 8).unwrap();
    queue.set_layout(ring.layout);
    queue.enable(QueueFeatures::default()).unwrap();
    ring.add_indirect(&mem, 0x2_0000, &[(0x8000, 16, false)]);
    ring.publish(&mem);

    assert_eq!(broken(&mut queue, &mem), QueueFault::Indirect);
}

#[test]
fn nested_and_continued_indirect_tables_are_refused() {
    for (outer, inner) in [(INDIRECT, INDIRECT), (INDIRECT | NEXT, 0)] {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
        let mut queue = ring.queue(8);
        ring.desc(&mem, 0, 0x2_0000, 16, outer, 1);
        put_desc(&mem, 0x2_0000, 0, 0x3_0000, 16, inner, 0);
        ring.offer(&mem, 0);
        ring.publish(&mem);

        assert_eq!(broken(&mut queue, &mem), QueueFault::Indirect);
    }
}

#[test]
fn indirect_tables_of_odd_sizes_are_refused() {
    for len in [0, 1, 15, 17, 16 * 0x8001, u32::MAX] {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
        let mut queue = ring.queue(8);
        ring.desc(&mem, 0, 0x2_0000, len, INDIRECT, 0);
        ring.offer(&mem, 0);
        ring.publish(&mem);

        assert_eq!(broken(&mut queue, &mem), QueueFault::IndirectBytes(len));
    }
}

#[test]
fn a_chain_longer_than_the_device_takes_is_refused() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(4);
    let parts = |n| vec![(0x8000, 16, false); n];
    ring.add_indirect(&mem, 0x2_0000, &parts(4));
    ring.add_indirect(&mem, 0x2_1000, &parts(5));
    ring.publish(&mem);

    assert_eq!(queue.pop(&mem).unwrap().unwrap().readable.len(), 4);
    assert_eq!(broken(&mut queue, &mem), QueueFault::TooLong);
}

#[test]
fn loops_end() {
    for indirect in [false, true] {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
        let mut queue = ring.queue(128);
        if indirect {
            ring.desc(&mem, 0, 0x2_0000, 32, INDIRECT, 0);
            put_desc(&mem, 0x2_0000, 0, 0x8000, 0, NEXT, 1);
            put_desc(&mem, 0x2_0000, 1, 0x8000, 16, NEXT, 0);
        } else {
            ring.desc(&mem, 0, 0x8000, 16, NEXT, 1);
            ring.desc(&mem, 1, 0x8000, 0, NEXT, 0);
        }
        ring.offer(&mem, 0);
        ring.publish(&mem);
        let before = mem.accesses();

        assert_eq!(broken(&mut queue, &mem), QueueFault::TooLong);
        assert!(mem.accesses() - before < 140);
    }
}

#[test]
fn descriptor_numbers_outside_of_the_table_are_refused() {
    let cases: [fn(&Mem, &mut Ring); 3] = [
        |mem, ring| ring.offer(mem, 8),
        |mem, ring| {
            ring.desc(mem, 0, 0x8000, 16, NEXT, 8);
            ring.offer(mem, 0);
        },
        |mem, ring| {
            ring.desc(mem, 0, 0x2_0000, 8 * 16, INDIRECT, 0);
            put_desc(mem, 0x2_0000, 0, 0x8000, 16, NEXT, 8);
            ring.offer(mem, 0);
        },
    ];
    for case in cases {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
        let mut queue = ring.queue(8);
        case(&mem, &mut ring);
        ring.publish(&mem);

        assert_eq!(broken(&mut queue, &mem), QueueFault::DescIndex(8));
    }
}

#[test]
fn an_available_index_that_jumps_is_refused() {
    for (jump, ok) in [(1, true), (8, true), (9, false), (0x8000, false), (0xffff, false)] {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
        let mut queue = ring.queue(8);
        ring.publish_index(&mem, jump);

        match queue.pop(&mem) {
            Ok(Some(_)) => assert!(ok, "{jump}"),
            Err(e) => assert_eq!((e, ok), (QueueError::Broken(QueueFault::AvailIndex(jump)), false)),
            Ok(None) => panic!("nothing at {jump}"),
        }
    }
}

#[test]
fn more_buffers_in_flight_than_descriptors_are_refused() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    ring.desc(&mem, 0, 0x8000, 16, 0, 0);
    ring.publish_index(&mem, 8);
    for _ in 0..8 {
        queue.pop(&mem).unwrap().unwrap();
    }
    ring.publish_index(&mem, 9);

    assert_eq!(broken(&mut queue, &mem), QueueFault::AvailIndex(9));
}

#[test]
fn readable_after_writable_is_refused() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    ring.add(&mem, &[(0x8000, 16, true), (0x9000, 16, false)]);
    ring.publish(&mem);

    assert_eq!(broken(&mut queue, &mem), QueueFault::Order);
}

#[test]
fn buffers_that_wrap_or_exceed_4_gib_are_refused() {
    let cases: [&[(u64, u32, bool)]; 2] =
        [&[(u64::MAX - 14, 16, false)], &[(0, u32::MAX, false), (0, 1, false), (0, 1, false)]];
    for parts in cases {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
        let mut queue = ring.queue(8);
        ring.add(&mem, parts);
        ring.publish(&mem);

        assert_eq!(broken(&mut queue, &mem), QueueFault::Bytes);
    }
}

#[test]
fn empty_descriptors_count_but_leave_no_segment() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    ring.add(&mem, &[(0x8000, 0, false), (0x9000, 4, false), (0xa000, 0, true), (0xb000, 1, true)]);
    ring.add(&mem, &[(0x8000, 0, false)]);
    ring.publish(&mem);

    let chain = queue.pop(&mem).unwrap().unwrap();
    assert_eq!((chain.readable, chain.writable), (&[segment(0x9000, 4)][..], &[segment(0xb000, 1)][..]));
    let chain = queue.pop(&mem).unwrap().unwrap();
    assert!(chain.readable.is_empty() && chain.writable.is_empty());
}

#[test]
fn rings_and_tables_outside_of_memory_break_the_queue_but_data_segments_do_not() {
    let outside = MEM_BYTES as u64;
    let mem = Mem::new();
    let mut ring = Ring::new(8, false);
    ring.layout = QueueLayout { avail: Gpa(outside), ..ring.layout };
    assert_eq!(broken(&mut ring.queue(8), &mem), QueueFault::Memory(Gpa(outside + 2)));

    let mut ring = Ring::new(8, false);
    ring.desc(&mem, 0, outside, 16, INDIRECT, 0);
    ring.offer(&mem, 0);
    ring.publish(&mem);
    assert_eq!(broken(&mut ring.queue(8), &mem), QueueFault::Memory(Gpa(outside)));

    let mut ring = Ring::new(8, false);
    ring.add(&mem, &[(outside, 16, true)]);
    ring.publish(&mem);
    assert_eq!(ring.queue(8).pop(&mem).unwrap().unwrap().writable, [segment(outside, 16)]);
}

#[test]
fn areas_that_wrap_or_are_not_aligned_cannot_be_enabled() {
    let good = Ring::new(8, false).layout;
    let bad = [
        QueueLayout { desc: Gpa(0x1008), ..good },
        QueueLayout { avail: Gpa(0x5001), ..good },
        QueueLayout { used: Gpa(0x6002), ..good },
        QueueLayout { desc: Gpa(u64::MAX - 15), ..good },
        QueueLayout { avail: Gpa(u64::MAX - 1), ..good },
        QueueLayout { used: Gpa(u64::MAX - 3), ..good },
    ];
    for layout in bad {
        let mut queue = VirtQueue::new(8, 8).unwrap();
        queue.set_layout(layout);

        assert_eq!(queue.enable(QueueFeatures::default()), Err(QueueFault::Layout));
        assert!(!queue.is_ready());
    }
}

#[test]
fn sizes_that_are_no_power_of_two_or_too_large_are_kept_out() {
    let mut queue = VirtQueue::new(64, 8).unwrap();

    for size in [0, 3, 65, 128, 0xffff] {
        queue.set_size(size, false);
        assert_eq!(queue.size(), 64);
    }
    queue.set_size(16, false);
    assert_eq!(queue.size(), 16);
}

#[test]
fn flags_suppress_both_directions() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, false));
    let mut queue = ring.queue(8);
    assert!(queue.pop(&mem).unwrap().is_none());
    ring.add(&mem, &[(0x8000, 16, true)]);
    assert!(ring.publish(&mem), "an empty queue wants notifications");

    assert!(echo(&mut queue, &mem, 0).is_some());
    ring.add(&mem, &[(0x8000, 16, true)]);
    assert!(!ring.publish(&mem), "a queue being emptied does not");
    assert!(queue.needs_notification(&mem));
    assert!(!queue.needs_notification(&mem), "nothing new was used");

    ring.want_interrupts(&mem, false);
    assert!(echo(&mut queue, &mem, 0).is_some());
    assert!(!queue.needs_notification(&mem));
    assert!(queue.pop(&mem).unwrap().is_none());
    ring.add(&mem, &[(0x8000, 16, true)]);
    assert!(ring.publish(&mem), "armed again");
}

#[test]
fn event_indices_suppress_interrupts_until_the_wish_is_passed() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, true));
    let mut queue = ring.queue(8);
    for _ in 0..7 {
        ring.add(&mem, &[(0x8000, 16, true)]);
    }
    ring.publish(&mem);
    echo(&mut queue, &mem, 0);
    assert!(queue.needs_notification(&mem));

    ring.want_after(&mem, 3);
    let interrupts: Vec<bool> = (1..7)
        .map(|_| {
            echo(&mut queue, &mem, 0);
            queue.needs_notification(&mem)
        })
        .collect();

    assert_eq!(interrupts, [false, false, true, false, false, false]);
}

#[test]
fn event_indices_suppress_notifications_while_the_queue_is_being_emptied() {
    let (mem, mut ring) = (Mem::new(), Ring::new(8, true));
    let mut queue = ring.queue(8);
    assert!(queue.pop(&mem).unwrap().is_none());
    ring.add(&mem, &[(0x8000, 16, true)]);
    assert!(ring.publish(&mem), "the first buffer after the queue was empty");
    ring.add(&mem, &[(0x8000, 16, true)]);
    assert!(!ring.publish(&mem), "the second one");

    echo(&mut queue, &mem, 0);
    ring.add(&mem, &[(0x8000, 16, true)]);
    assert!(!ring.publish(&mem));
    echo(&mut queue, &mem, 0);
    echo(&mut queue, &mem, 0);
    assert!(queue.pop(&mem).unwrap().is_none());

    ring.take_used(&mem);
    ring.add(&mem, &[(0x8000, 16, true)]);
    assert!(ring.publish(&mem), "armed again");
}

#[test]
fn a_missing_page_changes_nothing_and_the_call_can_be_repeated() {
    for event_idx in [false, true] {
        // Each access in turn misses, until a run needs no more accesses than that.
        for n in 0.. {
            let (mem, mut ring) = (Mem::new(), Ring::new(8, event_idx));
            let mut queue = ring.queue(8);
            let head = ring.add_indirect(&mem, 0x2_0000, &[(0x8000, 16, false), (0x9000, 16, true)]);
            ring.publish(&mem);
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

            assert_eq!(ring.take_used(&mem), [(head, 5)]);
            if mem.miss_none() {
                assert_eq!(misses, 0);
                assert!(n > 6);
                break;
            }
            assert_eq!(misses, 1);
        }
    }
}

#[test]
fn segments_are_cut_and_copied_by_position() {
    let mem = Mem::new();
    let segments = [segment(0x100, 3), segment(0x200, 5), segment(0x300, 2)];
    mem.put(0x100, b"abc");
    mem.put(0x200, b"defgh");
    mem.put(0x300, b"ij");
    let cut = |skip, len| slice(&segments, skip, len).collect::<Vec<_>>();

    assert_eq!(total(&segments), 10);
    assert_eq!(cut(0, 10), segments);
    assert_eq!(cut(2, 3), [segment(0x102, 1), segment(0x200, 2)]);
    assert_eq!(cut(3, 5), [segment(0x200, 5)]);
    assert_eq!(cut(9, 100), [segment(0x301, 1)]);
    assert_eq!(cut(10, 1), []);
    let mut buf = [0; 6];
    read_segments(&mem, &segments, 2, &mut buf).unwrap();
    assert_eq!(&buf, b"cdefgh");
    assert_eq!(write_segments(&mem, &segments, b"ABCDEFGHIJKL").unwrap(), 10);
    assert_eq!(&mem.get::<5>(0x200), b"DEFGH");
}

/// Memory of a guest whose driver publishes a buffer right when the device arms notifications, having
/// looked at the old wish.
struct Racing<'a> {
    mem: &'a Mem,
    arming: u64,
    avail: u64,
}

impl GuestMem for Racing<'_> {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        self.mem.read(gpa, buf)
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        if gpa.0 == self.arming {
            self.mem.put(self.avail + 2, &1u16.to_le_bytes());
        }
        self.mem.write(gpa, buf)
    }

    fn cmpxchg(&self, _gpa: Gpa, _bytes: usize, _old: u64, _new: u64) -> Result<u64, MemError> {
        unreachable!("virtio needs no atomic exchange")
    }
}

#[test]
fn a_buffer_published_while_notifications_are_armed_is_not_overlooked() {
    for event_idx in [false, true] {
        let (mem, mut ring) = (Mem::new(), Ring::new(8, event_idx));
        let mut queue = ring.queue(8);
        let head = ring.add(&mem, &[(0x8000, 16, true)]);
        let used = ring.layout.used.0;
        let arming = if event_idx { used + 4 + 8 * 8 } else { used };
        let racing = Racing { mem: &mem, arming, avail: ring.layout.avail.0 };

        assert_eq!(queue.pop(&racing).unwrap().map(|chain| chain.buffer.id), Some(head));
    }
}
