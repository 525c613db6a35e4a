// SPDX-License-Identifier: GPL-2.0

//! The workers of a virtio network card: threads that the VMM lends to the kernel, one for each queue.
//!
//! The one of a receive queue waits for packets from the tap and copies each straight into the driver's
//! buffers; the one of a transmit queue waits for the driver and hands its packets to the tap. Neither
//! leaves the kernel before a signal comes. Interrupts are sent when there is nothing more to move, or after
//! [`BATCH`] packets, so that a busy guest gets few.
//!
//! A packet that cannot be carried is lost, as on any network: the tap refuses it, or it is larger than the
//! driver's buffers. Memory that is not the guest's stops the device.

use super::backend::Backend;
use super::disk::split_at_slots;
use super::netstream;
use super::pci::{send, Model, PciDevice, Worker};
use super::vm::Vm;
use crate::arch::addr::Gpa;
use crate::chipset::pci::MsiMessage;
use crate::host::eventfd::OnEvent;
use crate::host::file::signal_pending;
use crate::host::netio::{Stream, Tap};
use crate::host::pieces::Pieces;
use crate::virtio::net::{Net, Offloads, Packet, Taken, HEADER_BYTES};
use crate::virtio::pci::VirtioPci;
use crate::virtio::queue::Fault;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Packets after which the driver is told at the latest.
const BATCH: u32 = 32;

/// A network card on the bus.
pub(crate) struct Card {
    /// The device.
    pub(crate) device: Arc<PciDevice>,
    /// Where its packets go.
    pub(crate) way: Way,
}

/// Ways to the network.
pub(crate) enum Way {
    /// A queue of a tap for each pair of queues.
    Taps(KVec<Tap>),
    /// Packets one after the other in a stream, for one pair of queues.
    Stream(Stream),
}

/// Wakes a worker when its way to the network has something.
pub(super) struct Waker(pub(super) Arc<Worker>);

impl OnEvent for Waker {
    fn on_event(&self) {
        self.0.wake();
    }
}

/// What a worker works with.
pub(super) struct Bench<'a, B: Backend> {
    pub(super) vm: &'a Vm<B>,
    pub(super) device: &'a PciDevice,
    pub(super) packet: Packet,
    pieces: Pieces,
    /// Packets given back that the driver was not told of.
    untold: u32,
}

impl Card {
    /// Serves a queue until a signal arrives.
    ///
    /// # Errors
    /// `EINVAL` for a queue without a worker, `EBUSY` for one that another thread serves; `EINTR` on a
    /// signal; `EFAULT` when guest memory is gone; `EBADFD` when the tap is; `ENOTCONN` when the stream
    /// has ended.
    pub(crate) fn serve<B: Backend>(&self, vm: &Vm<B>, queue: u16) -> Result {
        let worker = self.device.worker(queue).ok_or(EINVAL)?;
        let lane = queue >> 1;
        let receives = queue & 1 == 0;
        worker.alone(|| {
            let mut bench =
                Bench { vm, device: &self.device, packet: Packet::new()?, pieces: Pieces::new()?, untold: 0 };
            match &self.way {
                Way::Taps(taps) => {
                    let tap = taps.get(usize::from(lane)).ok_or(EINVAL)?;
                    if receives {
                        bench.receive(tap, worker, lane)
                    } else {
                        bench.transmit(tap, worker, queue)
                    }
                }
                Way::Stream(stream) if receives => netstream::receive(&mut bench, stream, worker),
                Way::Stream(stream) => netstream::transmit(&mut bench, stream, worker),
            }
        })
    }
}

impl<B: Backend> Bench<'_, B> {
    /// Brings packets to the guest.
    fn receive(&mut self, tap: &Tap, worker: &Arc<Worker>, lane: u16) -> Result {
        let _ear = tap.listen(Waker(worker.clone()))?;
        let mut offloads = None;
        let mut queue = 0;
        loop {
            if signal_pending() {
                return Err(ERESTARTSYS);
            }
            let next = tap.next_len();
            if next == 0 {
                self.tell(queue);
                worker.wait(|| false)?;
                self.set_offloads(tap, lane, &mut offloads)?;
                continue;
            }
            let bytes = HEADER_BYTES.saturating_add(next.into());
            let Bench { vm, device, packet, .. } = self;
            let taken = with_net(device, |net| {
                queue = net.receive_queue(lane);
                net.take_room(queue, &*vm.space, packet, bytes)
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
        let bytes = tap.receive(&self.pieces).unwrap_or(0);
        self.give(|net, vm, packet| net.give_room(queue, &*vm.space, packet, bytes))
    }

    /// Takes packets from the guest.
    fn transmit(&mut self, tap: &Tap, worker: &Arc<Worker>, queue: u16) -> Result {
        loop {
            if signal_pending() {
                return Err(ERESTARTSYS);
            }
            let Bench { vm, device, packet, .. } = self;
            match with_net(device, |net| net.take_packet(queue, &*vm.space, packet))? {
                Taken::Packet if self.locate(false) => {
                    // One that the tap refuses is lost.
                    let _ = tap.send(&self.pieces);
                    self.give(|net, vm, packet| net.give_packet(queue, &*vm.space, packet))?;
                }
                Taken::Packet => self.abandon()?,
                other => self.pause(other, queue, worker)?,
            }
            self.tell_of_many(queue);
        }
    }

    /// Does what has to be done before the queue is looked at again.
    pub(super) fn pause(&mut self, taken: Taken, queue: u16, worker: &Worker) -> Result {
        match taken {
            Taken::Packet | Taken::TooLong => Ok(()),
            Taken::NotResident(gpa) => self.vm.space.fault_in(gpa, true),
            Taken::Broken(msg) => {
                send(&self.vm.chipset, msg);
                worker.wait(|| false)
            }
            Taken::Empty => {
                self.tell(queue);
                worker.wait(|| false)
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
        call: impl Fn(&mut VirtioPci<Net>, &Vm<B>, &mut Packet) -> Result<Option<MsiMessage>, Gpa>,
    ) -> Result {
        let Bench { vm, device, packet, .. } = self;
        loop {
            match with_net(device, |net| call(net, vm, packet))? {
                Ok(msg) => {
                    send(&vm.chipset, msg);
                    self.untold = self.untold.saturating_add(1);
                    return Ok(());
                }
                Err(gpa) => {
                    if let Err(e) = vm.space.fault_in(gpa, true) {
                        let msg = with_net(device, |net| net.abandon_packet(Fault::Memory(gpa)))?;
                        send(&vm.chipset, msg);
                        return Err(e);
                    }
                }
            }
        }
    }

    /// Stops the device: a packet is not in the guest's memory.
    pub(super) fn abandon(&mut self) -> Result {
        let at = self.packet.data().first().map_or(Gpa(0), |s| s.gpa);
        let msg = with_net(self.device, |net| net.abandon_packet(Fault::Memory(at)))?;
        send(&self.vm.chipset, msg);
        Ok(())
    }

    /// Tells the driver if it was not told of many packets.
    pub(super) fn tell_of_many(&mut self, queue: u16) {
        if self.untold >= BATCH {
            self.tell(queue);
        }
    }

    /// Tells the driver of the packets that were given back.
    pub(super) fn tell(&mut self, queue: u16) {
        if core::mem::take(&mut self.untold) != 0 {
            if let Ok(msg) = with_net(self.device, |net| net.notify_queue(queue, &*self.vm.space)) {
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
        let wanted = with_net(self.device, |net| net.offloads())?;
        if *set != Some(wanted) {
            tap.set_offloads(wanted.bits())?;
            *set = Some(wanted);
        }
        Ok(())
    }
}

/// Calls `f` with the device's lock held.
pub(super) fn with_net<R>(device: &PciDevice, f: impl FnOnce(&mut VirtioPci<Net>) -> R) -> Result<R> {
    match &mut *device.model.lock() {
        Model::Net(net) => Ok(f(net)),
        _ => Err(EINVAL),
    }
}
