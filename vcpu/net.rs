// SPDX-License-Identifier: GPL-2.0

//! What serves a virtio network card: a worker for each queue, a thread that the VMM lends to the kernel, and for
//! a transmit queue the vCPU that wrote to it, in its turn (see [`super::worker`]).
//!
//! The worker of a receive queue waits for packets from the tap and copies each straight into the driver's
//! buffers; the one of a transmit queue waits for the driver and hands its packets to the tap. Neither
//! leaves the kernel before a signal comes. Interrupts are sent when there is nothing more to move, or after
//! [`BATCH`] packets, so that a busy guest gets few.
//!
//! A packet that cannot be carried is lost, as on any network: the tap refuses it, or it is larger than the
//! driver's buffers. Memory that is not the guest's stops the device.

use super::backend::Backend;
use super::disk::split_at_slots;
use super::netstream;
use super::pci::{send, Model, PciDevice};
use super::space::Near;
use super::vm::Vm;
use super::worker::{Rest, Worker, MOST_AT_ONCE};
use crate::arch::addr::Gpa;
use crate::chipset::pci::MsiMessage;
use crate::host::cpu::PinnedCpu;
use crate::host::file::signal_pending;
use crate::host::netio::{Batch, Stream, Tap};
use crate::host::pieces::Pieces;
use crate::virtio::net::{Net, Offloads, Packet, Sent, Taken, HEADER_BYTES};
use crate::virtio::pci::VirtioPci;
use crate::virtio::queue::Fault;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

/// Packets after which the driver is told at the latest.
const BATCH: u32 = 32;
/// Packets of the guest's that are sent and given back together.
const TOGETHER: usize = 64;

/// Where a network card's packets go, and what serves its queues.
pub(crate) struct Card {
    way: Way,
    /// One for each queue.
    lanes: KVec<Pin<KBox<Mutex<Lane>>>>,
}

/// Ways to the network.
pub(crate) enum Way {
    /// A queue of a tap for each pair of queues.
    Taps(KVec<Tap>),
    /// Packets one after the other in a stream, for one pair of queues.
    Stream(Stream),
}

/// What serves a queue, held by the one that does it now.
struct Lane {
    packet: Packet,
    pieces: Pieces,
    batch: Batch,
    /// Packets that were carried off or are in `batch`.
    sent: Sent,
    /// Packets given back that the driver was not told of.
    untold: u32,
    /// A vCPU has left `packet` to the worker.
    is_left: bool,
}

/// A lane at work.
pub(super) struct Bench<'a, B: Backend> {
    pub(super) vm: &'a Vm<B>,
    pub(super) device: &'a PciDevice,
    pub(super) packet: &'a mut Packet,
    pieces: &'a mut Pieces,
    batch: &'a mut Batch,
    sent: &'a mut Sent,
    untold: &'a mut u32,
    is_left: &'a mut bool,
}

impl Card {
    /// Returns a card with a lane for each of `queues` queues.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(way: Way, queues: usize) -> Result<Card> {
        let mut lanes = KVec::with_capacity(queues, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..queues {
            let lane = Lane {
                packet: Packet::new()?,
                pieces: Pieces::new()?,
                batch: Batch::new()?,
                sent: Sent::new(TOGETHER)?,
                untold: 0,
                is_left: false,
            };
            lanes.push_within_capacity(KBox::pin_init(kernel::new_mutex!(lane), GFP_KERNEL_ACCOUNT)?)?;
        }
        Ok(Card { way, lanes })
    }

    /// Serves a queue until a signal arrives.
    ///
    /// # Errors
    /// `EINVAL` for a queue without a worker, `EBUSY` for one that another thread serves; `EINTR` on a
    /// signal; `EFAULT` when guest memory is gone; `EBADFD` when the tap is; `ENOTCONN` when the stream
    /// has ended.
    pub(crate) fn serve<B: Backend>(&self, vm: &Vm<B>, device: &PciDevice, queue: u16) -> Result {
        let worker = device.worker(queue).ok_or(EINVAL)?;
        let lane = self.lanes.get(usize::from(queue)).ok_or(EINVAL)?;
        let receives = queue & 1 == 0;
        worker.alone(|| match &self.way {
            Way::Taps(_) if receives => {
                let tap = self.tap(queue).ok_or(EINVAL)?;
                Bench::new(vm, device, &mut lane.lock()).receive(tap, worker, queue >> 1)
            }
            Way::Taps(_) => {
                let tap = self.tap(queue).ok_or(EINVAL)?;
                loop {
                    let done = Bench::new(vm, device, &mut lane.lock()).transmit(tap, queue)?;
                    worker.wait(Some(done))?;
                }
            }
            Way::Stream(stream) if receives => {
                netstream::receive(&mut Bench::new(vm, device, &mut lane.lock()), stream, worker)
            }
            Way::Stream(stream) => {
                netstream::transmit(&mut Bench::new(vm, device, &mut lane.lock()), stream, worker)
            }
        })
    }

    /// Sends what waits in a queue with the thread of the vCPU that wrote to it, as far as that need not wait;
    /// the worker does the rest. Sleeps only for memory.
    pub(crate) fn take_turn<B: Backend>(&self, vm: &Vm<B>, device: &PciDevice, queue: u16) {
        let Some(worker) = device.worker(queue) else { return };
        let lane = self.lanes.get(usize::from(queue)).and_then(|lane| lane.try_lock());
        let rest = match (lane, self.tap(queue)) {
            (Some(mut lane), Some(tap)) if queue & 1 == 1 => {
                Bench::new(vm, device, &mut lane).take_turn(tap, queue)
            }
            _ => Rest::Slow,
        };
        rest.leave_to(worker);
    }

    /// Returns the tap's queue for a queue of the card.
    fn tap(&self, queue: u16) -> Option<&Tap> {
        match &self.way {
            Way::Taps(taps) => taps.get(usize::from(queue >> 1)),
            Way::Stream(_) => None,
        }
    }
}

impl<'a, B: Backend> Bench<'a, B> {
    fn new(vm: &'a Vm<B>, device: &'a PciDevice, lane: &'a mut Lane) -> Bench<'a, B> {
        let Lane { packet, pieces, batch, sent, untold, is_left } = lane;
        Bench { vm, device, packet, pieces, batch, sent, untold, is_left }
    }

    /// Brings packets to the guest.
    fn receive(&mut self, tap: &Tap, worker: &Arc<Worker>, lane: u16) -> Result {
        let _ear = tap.listen(worker.clone())?;
        let mut offloads = None;
        let mut queue = 0;
        loop {
            if signal_pending() {
                return Err(ERESTARTSYS);
            }
            let next = tap.next_len();
            if next == 0 {
                self.tell(queue);
                worker.wait(None)?;
                self.set_offloads(tap, lane, &mut offloads)?;
                continue;
            }
            let bytes = HEADER_BYTES.saturating_add(next.into());
            let Bench { vm, device, packet, .. } = self;
            let taken = with_net(vm, device, |net, mem| {
                queue = net.receive_queue(lane);
                net.take_room(queue, mem, packet, bytes)
            })?;
            match taken {
                Taken::Packet => self.fill(tap, queue)?,
                Taken::TooLong => tap.drop_next(),
                other => self.pause(other, queue, worker)?,
            }
            self.tell_of_many(queue);
        }
    }

    /// Receives a packet into the room that was taken.
    fn fill(&mut self, tap: &Tap, queue: u16) -> Result {
        if !self.locate(true) {
            return self.abandon();
        }
        let bytes = tap.receive(self.pieces).unwrap_or(0);
        self.give(|net, mem, packet| net.give_room(queue, mem, packet, bytes))
    }

    /// Sends all packets that the guest has. Returns how many there were.
    fn transmit(&mut self, tap: &Tap, queue: u16) -> Result<u32> {
        let taken = self.transmit_all(tap, queue);
        let given = self.finish(tap, queue);
        given.and(taken)
    }

    /// Sends and gives back what waits for that, and tells the driver.
    fn finish(&mut self, tap: &Tap, queue: u16) -> Result {
        self.batch.send(tap);
        let given = self.give_sent(queue);
        self.tell(queue);
        given
    }

    fn transmit_all(&mut self, tap: &Tap, queue: u16) -> Result<u32> {
        let mut taken = 0u32;
        if core::mem::take(self.is_left) {
            self.carry_off(tap, queue, false)?;
        }
        loop {
            if signal_pending() {
                return Err(ERESTARTSYS);
            }
            match self.take_packet(queue)? {
                Taken::Packet => {
                    self.carry_off(tap, queue, false)?;
                    taken = taken.saturating_add(1);
                }
                Taken::TooLong => {}
                Taken::NotResident(gpa) => self.vm.space.fault_in(gpa, true)?,
                Taken::Broken(msg) => {
                    send(&self.vm.chipset, msg);
                    return Ok(taken);
                }
                Taken::Empty => return Ok(taken),
            }
        }
    }

    /// Sends a few packets without waiting. Says what is left.
    fn take_turn(&mut self, tap: &Tap, queue: u16) -> Rest {
        let rest = self.send_some(tap, queue);
        match self.finish(tap, queue) {
            Ok(()) => rest,
            Err(_) => Rest::Slow,
        }
    }

    fn send_some(&mut self, tap: &Tap, queue: u16) -> Rest {
        if *self.is_left {
            return Rest::Slow;
        }
        for _ in 0..MOST_AT_ONCE {
            match self.take_packet(queue) {
                Ok(Taken::Packet) => {}
                Ok(Taken::Empty) => return Rest::Nothing,
                Ok(Taken::Broken(msg)) => {
                    send(&self.vm.chipset, msg);
                    return Rest::Nothing;
                }
                Ok(Taken::NotResident(_) | Taken::TooLong) | Err(_) => return Rest::Slow,
            }
            if self.carry_off(tap, queue, true).is_err() {
                return Rest::Slow;
            }
        }
        Rest::TooMuch
    }

    fn take_packet(&mut self, queue: u16) -> Result<Taken> {
        let Bench { vm, device, packet, .. } = self;
        with_net(vm, device, |net, mem| net.take_packet(queue, mem, packet))
    }

    /// Notes that the packet that was taken has been dealt with.
    pub(super) fn done(&mut self, tap: Option<&Tap>, queue: u16) -> Result {
        if self.sent.add(self.packet) {
            return Ok(());
        }
        match tap {
            Some(tap) => self.finish(tap, queue),
            None => self.give_sent(queue),
        }
    }

    /// Gives the driver back what was sent.
    pub(super) fn give_sent(&mut self, queue: u16) -> Result {
        let count = self.sent.len();
        if count == 0 {
            return Ok(());
        }
        let Bench { vm, device, sent, untold, .. } = self;
        let given = give(vm, device, count, |net, mem| net.give_packets(queue, mem, sent));
        sent.clear();
        **untold = untold.saturating_add(count);
        given
    }

    /// Sends the packet that was taken, or makes it wait for others, and gives it back. One that the tap
    /// refuses is lost. `prompt`: without waiting for room.
    ///
    /// # Errors
    /// `EAGAIN`: it has been left to the worker. Those of [`Bench::give`].
    fn carry_off(&mut self, tap: &Tap, queue: u16, prompt: bool) -> Result {
        if !self.locate(false) {
            return self.abandon();
        }
        let mut done = self.batch.add(tap, self.pieces);
        if done == Err(ENOSPC) {
            self.batch.send(tap);
            done = self.batch.add(tap, self.pieces);
        }
        if done == Err(ENOSPC) {
            let sent = tap.send(self.pieces, prompt);
            if prompt && matches!(sent, Err(e) if e == EAGAIN) {
                *self.is_left = true;
                return Err(EAGAIN);
            }
        }
        self.done(Some(tap), queue)
    }

    /// Does what has to be done before the queue is looked at again.
    pub(super) fn pause(&mut self, taken: Taken, queue: u16, worker: &Worker) -> Result {
        match taken {
            Taken::Packet | Taken::TooLong => Ok(()),
            Taken::NotResident(gpa) => self.vm.space.fault_in(gpa, true),
            Taken::Broken(msg) => {
                send(&self.vm.chipset, msg);
                worker.wait(None)
            }
            Taken::Empty => {
                self.tell(queue);
                worker.wait(None)
            }
        }
    }

    /// Finds where the packet's memory lies in the VMM. Returns whether all of it is the guest's.
    fn locate(&mut self, to_guest: bool) -> bool {
        let segments = self.packet.data().iter().map(|s| (s.gpa, u64::from(s.len)));
        self.pieces.set(split_at_slots(self.vm, segments, to_guest))
            && self.pieces.bytes() == self.packet.bytes()
    }

    /// Gives the packet back.
    pub(super) fn give(
        &mut self,
        call: impl Fn(&mut VirtioPci<Net>, &Near<'_>, &mut Packet) -> Result<Option<MsiMessage>, Gpa>,
    ) -> Result {
        let Bench { vm, device, packet, untold, .. } = self;
        give(vm, device, 1, |net, mem| call(net, mem, packet))?;
        **untold = untold.saturating_add(1);
        Ok(())
    }

    /// Stops the device: a packet is not in the guest's memory.
    pub(super) fn abandon(&mut self) -> Result {
        let at = self.packet.data().first().map_or(Gpa(0), |s| s.gpa);
        let msg = with_net(self.vm, self.device, |net, _| net.abandon_packets(Fault::Memory(at), 1))?;
        send(&self.vm.chipset, msg);
        Ok(())
    }

    /// Tells the driver if it was not told of many packets.
    pub(super) fn tell_of_many(&mut self, queue: u16) {
        if *self.untold >= BATCH {
            self.tell(queue);
        }
    }

    /// Tells the driver of the packets that were given back.
    pub(super) fn tell(&mut self, queue: u16) {
        if core::mem::take(self.untold) != 0 {
            if let Ok(msg) = with_net(self.vm, self.device, |net, mem| net.notify_queue(queue, mem)) {
                send(&self.vm.chipset, msg);
            }
        }
    }

    /// Lets the tap leave to the guest what it can do, when that has changed.
    fn set_offloads(&self, tap: &Tap, lane: u16, set: &mut Option<Offloads>) -> Result {
        // They are of the tap as a whole, whatever lane says so.
        if lane != 0 {
            return Ok(());
        }
        let wanted = with_net(self.vm, self.device, |net, _| net.offloads())?;
        if *set != Some(wanted) {
            tap.set_offloads(wanted.bits())?;
            *set = Some(wanted);
        }
        Ok(())
    }
}

/// Gives `count` packets back by `call`, which says what page is missing for that.
fn give<B: Backend>(
    vm: &Vm<B>,
    device: &PciDevice,
    count: u32,
    mut call: impl FnMut(&mut VirtioPci<Net>, &Near<'_>) -> Result<Option<MsiMessage>, Gpa>,
) -> Result {
    loop {
        match with_net(vm, device, &mut call)? {
            Ok(msg) => {
                send(&vm.chipset, msg);
                return Ok(());
            }
            Err(gpa) => {
                if let Err(e) = vm.space.fault_in(gpa, true) {
                    let msg = with_net(vm, device, |net, _| net.abandon_packets(Fault::Memory(gpa), count))?;
                    send(&vm.chipset, msg);
                    return Err(e);
                }
            }
        }
    }
}

/// Calls `f` with the device's lock held, and the guest's memory.
pub(super) fn with_net<B: Backend, R>(
    vm: &Vm<B>,
    device: &PciDevice,
    f: impl FnOnce(&mut VirtioPci<Net>, &Near<'_>) -> R,
) -> Result<R> {
    let cpu = PinnedCpu::pin();
    let mut model = device.model.lock_with(cpu.irq());
    match &mut *model {
        Model::Net(net) => Ok(f(net, &vm.space.near(&cpu))),
        _ => Err(EINVAL),
    }
}
