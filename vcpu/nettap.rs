// SPDX-License-Identifier: GPL-2.0

//! The queues of a network card whose packets go through a tap.
//!
//! The worker of a receive queue waits for packets from the tap and copies each straight into the driver's
//! buffers. Who serves a transmit queue takes packets out of it in bursts, copies them into a batch, and hands
//! that to the tap, which is cheaper than one packet after the other.
//!
//! A packet that cannot be carried is lost, as on any network: the tap refuses it, or it is larger than the
//! driver's buffers. Memory that is not the guest's stops the device.

use super::backend::Backend;
use super::net::{with_net, Bench, Gear, Lane};
use crate::host::file::signal_pending;
use crate::host::netio::{Batch, Tap};
use crate::host::pieces::{Extent, Pieces};
use crate::machine::memory::{split_at_slots, PinnedRam};
use crate::machine::worker::{Remaining, Worker, MOST_AT_ONCE};
use crate::virtio::net::{Offloads, Packet, Taken, HEADER_BYTES, MAX_CHAIN};
use crate::virtio::queue::{Fault, Used};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The most packets of a burst.
const BURST: usize = 16;
/// Pieces that there must be room for when another packet is taken: each of its segments may lie in two slots.
const PACKET_PIECES: usize = MAX_CHAIN * 2;

/// Packets of the guest's on their way to the tap.
pub(super) struct Outbox {
    /// Where the packets of the burst lie in the VMM.
    pieces: Pieces,
    burst: KVec<(Used, Extent)>,
    /// How many of them were carried off.
    carried: usize,
    /// Copies of packets, to be sent together.
    batch: Batch,
}

impl Outbox {
    /// Returns an empty one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Outbox> {
        let burst = KVec::with_capacity(BURST, GFP_KERNEL_ACCOUNT)?;
        Ok(Outbox { pieces: Pieces::new()?, burst, carried: 0, batch: Batch::new()? })
    }

    /// Returns whether a vCPU has left packets to the worker.
    fn is_left(&self) -> bool {
        self.carried < self.burst.len()
    }

    fn clear(&mut self) {
        self.burst.clear();
        self.pieces.clear();
        self.carried = 0;
    }

    /// Adds a packet.
    ///
    /// # Errors
    /// As [`locate`].
    #[inline(always)]
    fn add(&mut self, packet: &Packet, mem: &PinnedRam<'_>) -> Result<(), Fault> {
        let extent = locate(packet, mem, &mut self.pieces, false)?;
        let buffer = packet.buffer().ok_or(Fault::Malformed)?;
        self.burst.push_within_capacity((buffer, extent)).map_err(|_| Fault::TooLong)
    }
}

/// Finds where a packet's memory lies in the VMM, and adds that to `pieces`.
///
/// # Errors
/// Not all of it is the guest's memory, or it is in too many pieces.
#[inline(always)]
fn locate(
    packet: &Packet,
    mem: &PinnedRam<'_>,
    pieces: &mut Pieces,
    to_guest: bool,
) -> Result<Extent, Fault> {
    let segments = packet.data().iter().map(|s| (s.gpa, u64::from(s.len)));
    let extent = pieces.add(split_at_slots(mem, segments, to_guest).map_while(Result::ok));
    extent.filter(|extent| extent.bytes() == packet.bytes()).ok_or_else(|| packet.not_memory())
}

/// Brings packets to the guest. `way`: the number of the tap's queue.
///
/// # Errors
/// As `Card::serve`.
pub(super) fn receive<B: Backend>(
    bench: &mut Bench<'_, B>,
    tap: &Tap,
    worker: &Arc<Worker>,
    way: u16,
) -> Result {
    let _ear = tap.listen(worker.clone())?;
    let mut offloads = None;
    let mut queue = 0;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        let next = tap.next_len();
        if next == 0 {
            bench.tell(queue);
            worker.wait(None)?;
            set_offloads(bench, tap, way, &mut offloads)?;
            continue;
        }
        let Lane { packet, gear: Gear::In(pieces), .. } = &mut *bench.lane else { return Err(EINVAL) };
        let bytes = HEADER_BYTES.saturating_add(next.into());
        let taken = with_net(bench.vm, bench.device, |net, mem| {
            queue = net.receive_queue(way);
            let taken = net.take_room(queue, mem, packet, bytes);
            if taken != Taken::Packet {
                return taken;
            }
            pieces.clear();
            match locate(packet, mem, pieces, true) {
                Ok(_) => taken,
                Err(fault) => Taken::Broken(net.abandon_packets(fault, 1)),
            }
        })?;
        match taken {
            Taken::Packet => {
                let bytes = tap.receive(pieces.all()).unwrap_or(0);
                bench.give(|net, mem, packet| net.give_room(queue, mem, packet, bytes))?;
            }
            Taken::TooLong => tap.drop_next(),
            other => bench.pause(other, queue, worker)?,
        }
        bench.tell_of_many(queue);
    }
}

/// Lets the tap leave to the guest what it can do, when that has changed.
fn set_offloads<B: Backend>(bench: &Bench<'_, B>, tap: &Tap, way: u16, set: &mut Option<Offloads>) -> Result {
    // They are of the tap as a whole, whichever of its queues is told.
    if way != 0 {
        return Ok(());
    }
    let wanted = with_net(bench.vm, bench.device, |net, _| net.offloads())?;
    if *set != Some(wanted) {
        tap.set_offloads(wanted.bits())?;
        *set = Some(wanted);
    }
    Ok(())
}

/// Sends all packets that the guest has. Returns how many there were.
///
/// # Errors
/// As `Card::serve`.
pub(super) fn transmit<B: Backend>(bench: &mut Bench<'_, B>, tap: &Tap, queue: u16) -> Result<u32> {
    let taken = transmit_all(bench, tap, queue);
    let given = finish(bench, tap, queue);
    given.and(taken)
}

/// Sends a few packets without waiting. Says what is left.
pub(super) fn serve_inline<B: Backend>(bench: &mut Bench<'_, B>, tap: &Tap, queue: u16) -> Remaining {
    let rest = send_some(bench, tap, queue).unwrap_or(Remaining::MayBlock);
    match finish(bench, tap, queue) {
        Ok(()) => rest,
        Err(_) => Remaining::MayBlock,
    }
}

fn transmit_all<B: Backend>(bench: &mut Bench<'_, B>, tap: &Tap, queue: u16) -> Result<u32> {
    let mut taken = 0u32;
    carry_off(bench, tap, queue, false)?;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        let (count, end) = take_burst(bench, queue, BURST)?;
        carry_off(bench, tap, queue, false)?;
        taken = taken.saturating_add(count as u32);
        match end {
            Taken::Packet | Taken::TooLong => {}
            Taken::NotResident(gpa) => bench.vm.space.fault_in(gpa, true)?,
            Taken::Broken(msg) => {
                bench.vm.chipset.send_msi(msg);
                return Ok(taken);
            }
            Taken::Empty => return Ok(taken),
        }
    }
}

fn send_some<B: Backend>(bench: &mut Bench<'_, B>, tap: &Tap, queue: u16) -> Result<Remaining> {
    if matches!(&bench.lane.gear, Gear::Out(out) if out.is_left()) {
        return Ok(Remaining::MayBlock);
    }
    let mut room = MOST_AT_ONCE as usize;
    while room != 0 {
        let (count, end) = take_burst(bench, queue, room)?;
        carry_off(bench, tap, queue, true)?;
        room = room.saturating_sub(count);
        match end {
            Taken::Packet => {}
            Taken::Empty => return Ok(Remaining::Nothing),
            Taken::Broken(msg) => {
                bench.vm.chipset.send_msi(msg);
                return Ok(Remaining::Nothing);
            }
            Taken::NotResident(_) | Taken::TooLong => return Ok(Remaining::MayBlock),
        }
    }
    Ok(Remaining::Backlog)
}

/// Takes packets that the driver is known to have, `most` of them. Returns how many, and what came after them;
/// [`Taken::Packet`]: there may be more.
fn take_burst<B: Backend>(bench: &mut Bench<'_, B>, queue: u16, most: usize) -> Result<(usize, Taken)> {
    let Lane { packet, gear: Gear::Out(out), .. } = &mut *bench.lane else { return Err(EINVAL) };
    out.clear();
    let most = most.min(BURST);
    let end = with_net(bench.vm, bench.device, |net, mem| {
        net.take_packets(queue, mem, packet, |packet| {
            out.add(packet, mem)?;
            Ok(out.burst.len() < most && out.pieces.room() >= PACKET_PIECES)
        })
    })?;
    Ok((out.burst.len(), end))
}

/// Sends the packets of the burst, or makes them wait for others, and gives them back. What the tap refuses is
/// lost. `prompt`: without waiting for room.
///
/// # Errors
/// `EAGAIN`: some were left to the worker. Those of [`finish`].
fn carry_off<B: Backend>(bench: &mut Bench<'_, B>, tap: &Tap, queue: u16, prompt: bool) -> Result {
    loop {
        let Lane { sent, gear: Gear::Out(out), .. } = &mut *bench.lane else { return Err(EINVAL) };
        let Outbox { pieces, burst, carried, batch } = out;
        let mut is_full = false;
        while let Some((buffer, extent)) = burst.get(*carried).filter(|_| !is_full) {
            let packet = pieces.of(*extent);
            if batch.add(tap, packet) == Err(ENOSPC) {
                // There is no room for it in the batch, or it is none that goes in batches.
                batch.send(tap);
                let alone = tap.send(packet, prompt);
                if prompt && matches!(alone, Err(e) if e == EAGAIN) {
                    return Err(EAGAIN);
                }
            }
            *carried = carried.saturating_add(1);
            is_full = !sent.add(*buffer);
        }
        if !is_full {
            return Ok(());
        }
        finish(bench, tap, queue)?;
    }
}

/// Sends and gives back what waits for that, and tells the driver.
fn finish<B: Backend>(bench: &mut Bench<'_, B>, tap: &Tap, queue: u16) -> Result {
    if let Gear::Out(out) = &mut bench.lane.gear {
        out.batch.send(tap);
    }
    let given = bench.give_sent(queue);
    bench.tell(queue);
    given
}
