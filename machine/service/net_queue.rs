// SPDX-License-Identifier: GPL-2.0

//! What serves one queue of a network card, wherever its packets go: giving packets back, giving up on them, and
//! telling the driver of it. Interrupts are sent when there is nothing more to move, or after [`BATCH`] packets, so
//! that a busy guest gets few.

use super::function::VirtioFunction;
use super::worker::QueueWorker;
use crate::arch::addr::Gpa;
use crate::chipset::pci::PciInterrupt;
use crate::host::file::FileLoan;
use crate::host::iovec::{IoVecList, IoVecRange};
use crate::host::netio::{TapBatch, TapSocket};
use crate::machine::memory::{split_at_slots, PinnedRam};
use crate::virtio::device::net::{NetPacket, SentPackets, TakenPacket, VirtioNet, MAX_CHAIN};
use crate::virtio::queue::{QueueFault, UsedBuffer};
use crate::virtio::transport::pci::VirtioPci;
use kernel::prelude::*;

/// Packets after which the driver is told at the latest.
const BATCH: u32 = 32;
/// Packets of the guest's that are sent and given back together.
const TOGETHER: usize = 64;
/// The most packets of a burst.
pub(super) const BURST: usize = 16;
/// Pieces that there must be room for when another packet is taken: each of its segments may lie in two slots.
pub(super) const PACKET_PIECES: usize = MAX_CHAIN * 2;

/// What serves a queue, held by the one that does it now.
pub(super) struct NetQueue {
    pub(super) packet: NetPacket,
    /// Packets that were carried off and not yet given back.
    pub(super) sent: SentPackets,
    /// Packets given back that the driver was not told of.
    unsignalled: u32,
    pub(super) path: QueuePath,
    /// Of a transmit queue that a thread is lent to.
    pub(super) tap: FileLoan<TapSocket>,
}

impl NetQueue {
    /// Returns one with nothing under way.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(path: QueuePath) -> Result<NetQueue> {
        let (packet, sent) = (NetPacket::new()?, SentPackets::new(TOGETHER)?);
        Ok(NetQueue { packet, sent, unsignalled: 0, path, tap: FileLoan::empty() })
    }

    /// Calls `f` with the tap. `None`: no thread is lent.
    pub(super) fn with_tap<R>(&mut self, f: impl FnOnce(&mut NetQueue, &TapSocket) -> R) -> Option<R> {
        let tap = self.tap.take()?;
        let done = f(self, &tap);
        self.tap.fill(tap);
        Some(done)
    }
}

/// What a queue needs for where its packets go.
pub(super) enum QueuePath {
    /// From a tap: where the packet lies in the VMM.
    In(IoVecList),
    /// To a tap.
    Out(TapOutbox),
    /// From or to a stream.
    Stream,
}

impl QueuePath {
    /// From a tap.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn from_tap() -> Result<QueuePath> {
        IoVecList::new().map(QueuePath::In)
    }

    /// To a tap.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn to_tap() -> Result<QueuePath> {
        TapOutbox::new().map(QueuePath::Out)
    }
}

/// Packets of the guest's on their way to the tap.
pub(super) struct TapOutbox {
    /// Where the packets of the burst lie in the VMM.
    pub(super) pieces: IoVecList,
    /// The packets: where each is given back, and its part of `pieces`.
    pub(super) burst: KVec<(UsedBuffer, IoVecRange)>,
    /// How many of them were carried off.
    pub(super) carried: usize,
    /// Copies of packets, to be sent together.
    pub(super) batch: TapBatch,
}

impl TapOutbox {
    /// Returns an empty one.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn new() -> Result<TapOutbox> {
        let burst = KVec::with_capacity(BURST, GFP_KERNEL_ACCOUNT)?;
        Ok(TapOutbox { pieces: IoVecList::new()?, burst, carried: 0, batch: TapBatch::new()? })
    }

    /// Returns whether a vCPU has left packets to the worker.
    pub(super) fn is_left(&self) -> bool {
        self.carried < self.burst.len()
    }

    /// Forgets the burst.
    pub(super) fn clear(&mut self) {
        self.burst.clear();
        self.pieces.clear();
        self.carried = 0;
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// As [`locate`].
    #[inline(always)]
    pub(super) fn add(&mut self, packet: &NetPacket, mem: &PinnedRam<'_>) -> Result<(), QueueFault> {
        let extent = locate(packet, mem, &mut self.pieces, false)?;
        let buffer = packet.buffer().ok_or(QueueFault::Malformed)?;
        self.burst.push_within_capacity((buffer, extent)).map_err(|_| QueueFault::TooLong)
    }
}

/// Finds where a packet's memory lies in the VMM, and adds that to `pieces`.
///
/// # Errors
/// Not all of it is the guest's memory, or it is in too many pieces.
#[inline(always)]
pub(super) fn locate(
    packet: &NetPacket,
    mem: &PinnedRam<'_>,
    pieces: &mut IoVecList,
    to_guest: bool,
) -> Result<IoVecRange, QueueFault> {
    let segments = packet.data().iter().map(|s| (s.gpa, u64::from(s.len)));
    // The pieces end at what is no memory; that is then seen from their length.
    let extent = pieces.add(split_at_slots(mem, segments, to_guest).map_while(Result::ok));
    extent.filter(|extent| extent.bytes() == packet.bytes()).ok_or_else(|| packet.not_memory())
}

/// A queue that is being served, by the one who holds it.
pub(super) struct NetCx<'a> {
    pub(super) function: &'a VirtioFunction<VirtioNet>,
    pub(super) io: &'a mut NetQueue,
}

impl NetCx<'_> {
    /// Gives the packet that was taken back at once.
    pub(super) fn give_packet(&mut self, queue: u16) -> Result {
        let _ = self.io.packet.buffer().is_some_and(|buffer| self.io.sent.add(buffer));
        self.give_sent(queue)
    }

    /// Gives the driver back what was sent.
    pub(super) fn give_sent(&mut self, queue: u16) -> Result {
        let NetQueue { sent, unsignalled, .. } = &mut *self.io;
        let count = sent.len();
        if count == 0 {
            return Ok(());
        }
        let given = complete(self.function, count, |net, mem| net.give_packets(queue, mem, sent));
        sent.clear();
        *unsignalled = unsignalled.saturating_add(count);
        given
    }

    /// Does what has to be done before the queue is looked at again.
    pub(super) fn pause(&mut self, taken: TakenPacket, queue: u16, worker: &QueueWorker) -> Result {
        match taken {
            TakenPacket::Packet | TakenPacket::TooLong => Ok(()),
            TakenPacket::NotResident(gpa) => self.function.ram.fault_in(gpa, true),
            TakenPacket::Broken(msg) => {
                self.function.send(msg);
                worker.wait(None)
            }
            TakenPacket::Empty => {
                self.signal_used(queue);
                worker.wait(None)
            }
        }
    }

    /// Gives the packet back.
    pub(super) fn complete(
        &mut self,
        call: impl Fn(
            &mut VirtioPci<VirtioNet>,
            &PinnedRam<'_>,
            &mut NetPacket,
        ) -> Result<Option<PciInterrupt>, Gpa>,
    ) -> Result {
        let NetQueue { packet, unsignalled, .. } = &mut *self.io;
        complete(self.function, 1, |net, mem| call(net, mem, packet))?;
        *unsignalled = unsignalled.saturating_add(1);
        Ok(())
    }

    /// Stops the device: a packet is not in the guest's memory.
    pub(super) fn fail(&mut self) {
        let fault = self.io.packet.not_memory();
        self.function.send(self.function.with(|net| net.abandon_packets(fault, 1)));
    }

    /// Tells the driver if it was not told of many packets.
    pub(super) fn signal_many_used(&mut self, queue: u16) {
        if self.io.unsignalled >= BATCH {
            self.signal_used(queue);
        }
    }

    /// Tells the driver of the packets that were given back.
    pub(super) fn signal_used(&mut self, queue: u16) {
        if core::mem::take(&mut self.io.unsignalled) != 0 {
            self.function.send(self.function.with_ram(|net, mem| net.notify_queue(queue, mem)));
        }
    }
}

/// Gives `count` packets back by `call`, which says what page is missing for that.
fn complete(
    function: &VirtioFunction<VirtioNet>,
    count: u32,
    mut call: impl FnMut(&mut VirtioPci<VirtioNet>, &PinnedRam<'_>) -> Result<Option<PciInterrupt>, Gpa>,
) -> Result {
    match function.ram.until_resident(|| function.with_ram(&mut call)) {
        Ok(msg) => {
            function.send(msg);
            Ok(())
        }
        Err((why, gpa)) => {
            function.send(function.with(|net| net.abandon_packets(QueueFault::Memory(gpa), count)));
            Err(why)
        }
    }
}
