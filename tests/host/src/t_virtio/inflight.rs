// SPDX-License-Identifier: GPL-2.0

use super::blk::{disk_with_depth, put_header, Disk};
use super::driver::Ring;
use crate::arch::addr::AccessWidth::B2;
use crate::host::inflight::{EndedRing, InFlight};
use crate::virtio::device::blk::{BlkRequest, BlkStatus, NextRequest};
use crate::virtio::queue::QueueFault;
use crate::virtio::transport::features::F_EVENT_IDX;
use crate::virtio::transport::pci::AccessEffect;
use kernel::alloc::{fail_none, fail_nth};
use kernel::prelude::ENOMEM;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

const NEEDS_RESET: u8 = 1 << 6;

/// Puts an item into a slot; gives it back if there is none.
fn begin<T>(work: &mut InFlight<T>, item: T) -> Result<u16, T> {
    let Some(slot) = work.reserve() else { return Err(item) };
    work.fill(slot, item);
    Ok(slot)
}

#[test]
fn a_slot_that_was_reserved_in_vain_is_free_again() {
    let mut work = InFlight::<()>::new(1).unwrap();
    let slot = work.reserve().unwrap();
    assert_eq!((work.len(), work.reserve()), (1, None));
    assert_eq!(work.end(slot), None, "nothing is in it");

    work.release(slot);

    assert_eq!((work.len(), work.reserve()), (0, Some(slot)));
}

#[test]
fn slots_run_out_and_come_back() {
    let mut work = InFlight::new(2).unwrap();
    let first = begin(&mut work, "first").unwrap();
    let second = begin(&mut work, "second").unwrap();

    assert_eq!(begin(&mut work, "third"), Err("third"));
    assert_eq!(work.end(first), Some("first"));
    assert_eq!(work.end(first), None, "it is free now");
    assert_eq!(begin(&mut work, "third"), Ok(first));
    assert_eq!(work.len(), 2);
    assert_eq!(work.end(second), Some("second"));
}

#[test]
fn slots_that_are_none_end_nothing() {
    let mut work = InFlight::<u32>::new(3).unwrap();

    for slot in [0, 3, u16::MAX] {
        assert_eq!(work.end(slot), None);
    }
    assert_eq!(work.len(), 0);
}

#[test]
fn no_room_at_all_is_no_trouble() {
    let mut work = InFlight::new(0).unwrap();
    let mut ended = EndedRing::new(0).unwrap();

    assert_eq!(begin(&mut work, 1), Err(1));
    assert!(!ended.push(0, 0));
    assert_eq!(ended.pop(), None);
}

#[test]
fn without_memory_there_are_none() {
    for n in 0..2 {
        fail_nth(n);
        assert_eq!(InFlight::<u32>::new(4).map(|_| ()), Err(ENOMEM));
        fail_none();
    }
    fail_nth(0);
    assert_eq!(EndedRing::new(4).map(|_| ()), Err(ENOMEM));
    fail_none();
}

/// A disk, its driver, and a worker that has up to `depth` requests with the host.
struct Bench {
    m: Disk,
    ring: Ring,
    work: InFlight<BlkRequest>,
    ended: EndedRing,
    /// Slots with the host.
    host: Vec<u16>,
    /// Heads that the driver made available and did not get back.
    out: Vec<u16>,
    interrupts: usize,
}

impl Bench {
    fn new(depth: u16, features: u64) -> Bench {
        let mut m = disk_with_depth(depth);
        let ring = m.start(features);
        let (work, ended) = (InFlight::new(depth).unwrap(), EndedRing::new(depth).unwrap());
        Bench { m, ring, work, ended, host: Vec::new(), out: Vec::new(), interrupts: 0 }
    }

    /// The driver asks for a flush. Only so many, that descriptors do not run out.
    fn submit(&mut self) {
        if self.out.len() < 8 {
            put_header(&self.m.mem, 0x8000, 4, 0);
            let head = self.ring.add(&self.m.mem, &[(0x8000, 16, false), (0x9000, 1, true)]);
            self.ring.publish(&self.m.mem);
            self.out.push(head);
        }
    }

    /// The worker takes what it can.
    fn take(&mut self) -> bool {
        loop {
            match self.m.dev.next(0, &self.m.mem) {
                NextRequest::Request(request) => self.host.push(begin(&mut self.work, request).unwrap()),
                NextRequest::Full => return true,
                NextRequest::Empty => return false,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The host ends one.
    fn end(&mut self, which: usize) {
        if !self.host.is_empty() {
            let slot = self.host.remove(which % self.host.len());
            assert!(self.ended.push(slot, i64::from(slot)), "there is room for all");
        }
    }

    /// The worker gives back what has ended. Returns how many.
    fn give_back(&mut self) -> usize {
        let mut given = 0;
        while let Some((slot, result)) = self.ended.pop() {
            assert_eq!(result, i64::from(slot));
            let request = self.work.end(slot).expect("it was under way");
            let message = self.m.dev.give_back(&self.m.mem, request, BlkStatus::Ok, 0).unwrap();
            assert_eq!(message, None);
            given += 1;
        }
        if self.m.dev.notify(0, &self.m.mem).is_some() {
            self.interrupts += 1;
        }
        given
    }

    /// The driver takes what it got back.
    fn collect(&mut self) -> usize {
        let used = self.ring.take_used(&self.m.mem);
        for (head, _) in &used {
            let at = self.out.iter().position(|h| h == head).expect("it is given back once");
            self.out.remove(at);
        }
        used.len()
    }
}

#[test]
fn requests_that_ended_together_make_one_interrupt() {
    let mut b = Bench::new(4, 0);
    for _ in 0..4 {
        b.submit();
    }
    b.take();
    for which in [2, 0, 1, 0] {
        b.end(which);
    }

    assert_eq!(b.give_back(), 4);
    assert_eq!(b.interrupts, 1);
    assert_eq!(b.collect(), 4);
    assert_eq!(b.give_back(), 0);
    assert_eq!(b.interrupts, 1, "and none without a reason");
}

#[test]
fn one_interrupt_for_several_honours_the_event_index() {
    let mut b = Bench::new(4, F_EVENT_IDX);
    for _ in 0..4 {
        b.submit();
    }
    b.ring.want_after(&b.m.mem, 2);
    b.take();
    b.end(0);
    b.end(0);

    b.give_back();
    assert_eq!(b.interrupts, 0, "the driver wants one after the third");
    b.end(0);
    b.end(0);
    b.give_back();
    assert_eq!(b.interrupts, 1);
}

#[test]
fn giving_up_on_a_request_stops_the_device_until_a_reset_and_loses_no_room() {
    let mut b = Bench::new(1, 0);
    b.submit();
    b.take();
    let request = b.work.end(b.host.remove(0)).unwrap();

    let message = b.m.dev.abandon(request, QueueFault::Layout);

    assert!(message.is_some(), "the driver is told");
    assert_eq!(b.m.status() & NEEDS_RESET, NEEDS_RESET);
    b.m.set_status(0);
    assert_eq!(b.m.status(), 0, "nothing is in flight any more");
    b.m.mem.put(0x5000, &[0; 0x2000]);
    b.ring = b.m.start(0);
    b.out.clear();
    b.submit();
    b.take();
    assert_eq!(b.host.len(), 1, "the one place is free again");
}

#[test]
fn nothing_is_told_after_a_reset() {
    let mut b = Bench::new(2, 0);
    b.submit();
    b.submit();
    b.take();
    b.m.set_status(0);
    assert_ne!(b.m.status(), 0, "the reset waits for both");
    b.end(0);
    b.end(0);

    b.give_back();

    assert_eq!(b.interrupts, 0);
    assert_eq!(b.m.status(), 0);
}

#[test]
fn what_was_given_back_before_a_reset_is_not_told_during_it() {
    let mut b = Bench::new(2, 0);
    b.submit();
    b.submit();
    b.take();
    let request = b.work.end(b.host.remove(0)).unwrap();
    assert_eq!(b.m.dev.give_back(&b.m.mem, request, BlkStatus::Ok, 0).unwrap(), None);
    b.m.set_status(0);
    assert_ne!(b.m.status(), 0, "the reset waits for the other one");

    assert_eq!(b.m.dev.notify(0, &b.m.mem), None);
}

#[test]
fn a_driver_that_stops_the_device_before_it_is_told_is_told_later() {
    let mut b = Bench::new(2, 0);
    b.submit();
    b.take();
    let request = b.work.end(b.host.remove(0)).unwrap();
    assert_eq!(b.m.dev.give_back(&b.m.mem, request, BlkStatus::Ok, 0).unwrap(), None);
    b.m.set_reg(0x04, B2, 0x2);

    assert_eq!(b.m.dev.notify(0, &b.m.mem), None, "no messages without bus mastering");
    b.m.set_reg(0x04, B2, 0x6);

    assert_eq!(b.m.effect, AccessEffect::Decode);
    assert_eq!(b.m.sent, [Disk::message(1)]);
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Submit,
    Take,
    End(usize),
    GiveBack,
    Collect,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Submit),
        2 => Just(Act::Take),
        4 => (0usize..16).prop_map(Act::End),
        2 => Just(Act::GiveBack),
        1 => Just(Act::Collect),
    ]
}

proptest! {
    /// A slot is given out again only after it has ended, and each item comes back from its own.
    #[test]
    fn slots_are_as_a_map_has_them(room in 0u16..9, acts in vec((any::<bool>(), 0usize..12), 0..200)) {
        let mut work = InFlight::new(room).unwrap();
        let mut model = HashMap::new();
        for (item, (begin, which)) in acts.into_iter().enumerate() {
            if begin {
                match self::begin(&mut work, item) {
                    Ok(slot) => {
                        prop_assert!(slot < room);
                        prop_assert_eq!(model.insert(slot, item), None);
                    }
                    Err(back) => {
                        prop_assert_eq!(back, item);
                        prop_assert_eq!(model.len(), usize::from(room));
                    }
                }
            } else {
                let slot = which as u16;
                prop_assert_eq!(work.end(slot), model.remove(&slot));
            }
            prop_assert_eq!(work.len(), model.len());
        }
    }

    /// What has ended comes out in the order in which it went in, and never more than there is room for.
    #[test]
    fn ends_are_as_a_queue_has_them(room in 0u16..9, acts in vec(proptest::option::of(any::<i64>()), 0..200)) {
        let mut ended = EndedRing::new(room).unwrap();
        let mut model = VecDeque::new();
        for (n, act) in acts.into_iter().enumerate() {
            match act {
                Some(result) => {
                    let fits = model.len() < usize::from(room);
                    prop_assert_eq!(ended.push(n as u16, result), fits);
                    if fits {
                        model.push_back((n as u16, result));
                    }
                }
                None => prop_assert_eq!(ended.pop(), model.pop_front()),
            }
            prop_assert_eq!(ended.len(), model.len());
        }
    }

    /// Whatever the order in which requests end and are given back: each is given back once, one
    /// interrupt comes with each batch, no request is held back while there is room, and none is lost.
    #[test]
    fn every_request_is_given_back_once(depth in 1u16..6, acts in vec(any_act(), 0..150)) {
        let mut b = Bench::new(depth, 0);
        for act in acts {
            match act {
                Act::Submit => b.submit(),
                Act::Take => {
                    let full = b.take();
                    prop_assert_eq!(full, b.work.len() == usize::from(depth));
                }
                Act::End(which) => b.end(which),
                Act::GiveBack => {
                    let before = b.interrupts;
                    let given = b.give_back();
                    prop_assert_eq!(b.interrupts - before, usize::from(given != 0));
                }
                Act::Collect => { b.collect(); }
            }
            prop_assert_eq!(b.work.len(), b.host.len() + b.ended.len());
        }

        for _ in 0..20 {
            b.take();
            b.end(0);
            b.give_back();
        }
        b.collect();
        prop_assert!(b.out.is_empty());
        prop_assert_eq!(b.work.len(), 0);
    }

    /// With event indices, a driver that sets its wish to the next one gets an interrupt whenever
    /// something was given back since it last looked.
    #[test]
    fn a_driver_that_waits_is_woken(depth in 1u16..6, acts in vec(any_act(), 0..150)) {
        let mut b = Bench::new(depth, F_EVENT_IDX);
        let (mut seen, mut told) = (0u16, true);
        b.ring.want_after(&b.m.mem, 0);
        for act in acts {
            match act {
                Act::Submit => b.submit(),
                Act::Take => { b.take(); }
                Act::End(which) => b.end(which),
                Act::GiveBack => {
                    let before = b.interrupts;
                    if b.give_back() != 0 && told {
                        prop_assert_eq!(b.interrupts, before + 1);
                        told = false;
                    }
                }
                Act::Collect => {
                    seen = seen.wrapping_add(b.collect() as u16);
                    b.ring.want_after(&b.m.mem, seen);
                    told = true;
                }
            }
        }
    }
}
