// SPDX-License-Identifier: GPL-2.0

//! The queues of a network card whose packets go through a tap.
//!
//! The worker of a receive queue waits for packets from the tap and copies each straight into the driver's
//! buffers. Who serves a transmit queue takes packets out of it in bursts, copies them into a batch, and hands
//! that to the tap, which is cheaper than one packet after the other.
//!
//! A packet that cannot be carried is lost, as on any network: the tap refuses it, or it is larger than the
//! driver's buffers. Memory that is not the guest's stops the device.

use super::net_queue::{locate, NetCx, NetQueue, QueuePath, TapOutbox, BURST, PACKET_PIECES};
use super::worker::{QueueWorker, RemainingWork, MOST_AT_ONCE};
use crate::host::file::signal_pending;
use crate::host::netio::TapSocket;
use crate::virtio::device::net::{NetOffloads, TakenPacket, HEADER_BYTES};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Brings packets to the guest. `pair`: the number of the tap's queue.
///
/// # Errors
/// As `NetService::serve`.
pub(super) fn receive(cx: &mut NetCx<'_>, tap: &TapSocket, worker: &Arc<QueueWorker>, pair: u16) -> Result {
    let _listener = tap.listen(worker.clone())?;
    let mut offloads = None;
    let mut queue = 0;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        let next = tap.next_len();
        if next == 0 {
            cx.signal_used(queue);
            worker.wait(None)?;
            set_offloads(cx, tap, pair, &mut offloads)?;
            continue;
        }
        let NetQueue { packet, path: QueuePath::In(pieces), .. } = &mut *cx.io else { return Err(EINVAL) };
        let bytes = HEADER_BYTES.saturating_add(next.into());
        let taken = cx.function.with_ram(|net, mem| {
            queue = net.receive_queue(pair);
            // There may be another driver, which takes less: it is given nothing before the tap knows.
            if pair == 0 && offloads != Some(net.offloads()) {
                return None;
            }
            let taken = net.take_room(queue, mem, packet, bytes);
            if taken != TakenPacket::Packet {
                return Some(taken);
            }
            pieces.clear();
            Some(match locate(packet, mem, pieces, true) {
                Ok(_) => taken,
                Err(fault) => TakenPacket::Broken(net.abandon_packets(fault, 1)),
            })
        });
        let Some(taken) = taken else {
            set_offloads(cx, tap, pair, &mut offloads)?;
            continue;
        };
        match taken {
            TakenPacket::Packet => {
                // Where the tap has none after all the room goes back empty, which drivers drop as too short.
                let bytes = tap.receive(pieces.all()).unwrap_or(0);
                cx.complete(|net, mem, packet| net.give_room(queue, mem, packet, bytes))?;
            }
            TakenPacket::TooLong => tap.drop_next(),
            other => cx.pause(other, queue, worker)?,
        }
        cx.signal_many_used(queue);
    }
}

/// Lets the tap leave to the guest what it can do, when that has changed.
fn set_offloads(cx: &NetCx<'_>, tap: &TapSocket, pair: u16, set: &mut Option<NetOffloads>) -> Result {
    // They are of the tap as a whole, whichever of its queues is told.
    if pair != 0 {
        return Ok(());
    }
    let wanted = cx.function.with(|net| net.offloads());
    if *set != Some(wanted) {
        tap.set_offloads(wanted.bits())?;
        *set = Some(wanted);
    }
    Ok(())
}

/// Sends all packets that the guest has. Returns how many there were.
///
/// # Errors
/// As `NetService::serve`.
pub(super) fn transmit(cx: &mut NetCx<'_>, tap: &TapSocket, queue: u16) -> Result<u32> {
    let taken = transmit_all(cx, tap, queue);
    let given = finish(cx, tap, queue);
    given.and(taken)
}

/// Sends a few packets without waiting. Says what is left.
pub(super) fn serve_inline(cx: &mut NetCx<'_>, tap: &TapSocket, queue: u16) -> RemainingWork {
    let rest = send_some(cx, tap, queue).unwrap_or(RemainingWork::MayBlock);
    match finish(cx, tap, queue) {
        Ok(()) => rest,
        Err(_) => RemainingWork::MayBlock,
    }
}

fn transmit_all(cx: &mut NetCx<'_>, tap: &TapSocket, queue: u16) -> Result<u32> {
    let mut taken = 0u32;
    // First what a vCPU has left in the burst, so that packets keep their order.
    carry_off(cx, tap, queue, false)?;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        let (count, end) = take_burst(cx, queue, BURST)?;
        carry_off(cx, tap, queue, false)?;
        taken = taken.saturating_add(count as u32);
        match end {
            TakenPacket::Packet | TakenPacket::TooLong => {}
            TakenPacket::NotResident(gpa) => cx.function.ram.fault_in(gpa, true)?,
            TakenPacket::Broken(msg) => {
                cx.function.send(msg);
                return Ok(taken);
            }
            TakenPacket::Empty => return Ok(taken),
        }
    }
}

fn send_some(cx: &mut NetCx<'_>, tap: &TapSocket, queue: u16) -> Result<RemainingWork> {
    // Those that were left go first, and the worker alone may wait for the tap.
    if matches!(&cx.io.path, QueuePath::Out(out) if out.is_left()) {
        return Ok(RemainingWork::MayBlock);
    }
    let mut room = MOST_AT_ONCE as usize;
    while room != 0 {
        let (count, end) = take_burst(cx, queue, room)?;
        carry_off(cx, tap, queue, true)?;
        room = room.saturating_sub(count);
        match end {
            TakenPacket::Packet => {}
            TakenPacket::Empty => return Ok(RemainingWork::Nothing),
            TakenPacket::Broken(msg) => {
                cx.function.send(msg);
                return Ok(RemainingWork::Nothing);
            }
            TakenPacket::NotResident(_) | TakenPacket::TooLong => return Ok(RemainingWork::MayBlock),
        }
    }
    Ok(RemainingWork::Backlog)
}

/// Takes packets that the driver is known to have, `most` of them. Returns how many, and what came after them;
/// [`TakenPacket::Packet`]: there may be more.
fn take_burst(cx: &mut NetCx<'_>, queue: u16, most: usize) -> Result<(usize, TakenPacket)> {
    let NetQueue { packet, path: QueuePath::Out(out), .. } = &mut *cx.io else { return Err(EINVAL) };
    out.clear();
    let most = most.min(BURST);
    let end = cx.function.with_ram(|net, mem| {
        net.take_packets(queue, mem, packet, |packet| {
            out.add(packet, mem)?;
            Ok(out.burst.len() < most && out.pieces.room() >= PACKET_PIECES)
        })
    });
    Ok((out.burst.len(), end))
}

/// Sends the packets of the burst, or makes them wait for others, and gives them back. What the tap refuses is
/// lost. `nowait`: without waiting for room.
///
/// # Errors
/// `EAGAIN`: some were left to the worker. Those of [`finish`].
fn carry_off(cx: &mut NetCx<'_>, tap: &TapSocket, queue: u16, nowait: bool) -> Result {
    loop {
        let NetQueue { sent, path: QueuePath::Out(out), .. } = &mut *cx.io else { return Err(EINVAL) };
        let TapOutbox { pieces, burst, carried, batch } = out;
        let mut is_full = false;
        while let Some((buffer, extent)) = burst.get(*carried).filter(|_| !is_full) {
            let packet = pieces.of(*extent);
            if batch.add(tap, packet) == Err(ENOSPC) {
                // There is no room for it in the batch, or it is none that goes in batches.
                batch.send(tap);
                let alone = tap.send(packet, nowait);
                if nowait && matches!(alone, Err(e) if e == EAGAIN) {
                    return Err(EAGAIN);
                }
            }
            *carried = carried.saturating_add(1);
            is_full = !sent.add(*buffer);
        }
        if !is_full {
            return Ok(());
        }
        finish(cx, tap, queue)?;
    }
}

/// The thread leaves: sends what a vCPU has left to it as far as that need not wait, and loses the rest. Nothing is
/// under way then.
pub(super) fn leave(cx: &mut NetCx<'_>, tap: &TapSocket, queue: u16) -> Result {
    // Those that the tap has no room for are left in the burst.
    let _ = carry_off(cx, tap, queue, true);
    loop {
        let NetQueue { sent, path: QueuePath::Out(out), .. } = &mut *cx.io else { return Err(EINVAL) };
        let Some((buffer, _)) = out.burst.get(out.carried) else { break };
        out.carried = out.carried.saturating_add(1);
        if !sent.add(*buffer) {
            finish(cx, tap, queue)?;
        }
    }
    finish(cx, tap, queue)
}

/// Sends and gives back what waits for that, and tells the driver.
fn finish(cx: &mut NetCx<'_>, tap: &TapSocket, queue: u16) -> Result {
    if let QueuePath::Out(out) = &mut cx.io.path {
        out.batch.send(tap);
    }
    let given = cx.give_sent(queue);
    cx.signal_used(queue);
    given
}
