// SPDX-License-Identifier: GPL-2.0

//! The workers of a network card whose packets go through a stream socket, to a network in user space.
//!
//! The framing is done here, not in the tool: so a packet costs neither a change to user space nor a copy more,
//! and several are received at once. A packet has a length in front of it and no header of virtio's: there are
//! no offloads, and large packets come from a large MTU.
//!
//! A signal in the middle of a packet leaves the stream torn: whoever stops a worker must not go on with the
//! socket. When the stream ends or makes no sense, the card loses its link, and the one who receives leaves;
//! packets from the guest are lost.

use super::net_queue::NetCx;
use super::worker::QueueWorker;
use crate::host::file::signal_pending;
use crate::host::netio::PacketStream;
use crate::mmu::mem::MemError;
use crate::virtio::device::net::frames::{FrameStream, MAX_FRAME, PREFIX};
use crate::virtio::device::net::{TakenPacket, HEADER_BYTES};
use crate::virtio::segment::{read_segments, write_segments, write_segments_at};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The one pair of queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Brings packets to the guest.
///
/// # Errors
/// As `NetService::serve`; `ENOTCONN` when the stream has ended.
pub(super) fn receive(cx: &mut NetCx<'_>, stream: &PacketStream, worker: &Arc<QueueWorker>) -> Result {
    let _listener = stream.listen(worker.clone())?;
    let mut frames = FrameStream::new()?;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        match frames.next() {
            Ok(Some(frame)) => {
                if to_guest(cx, frame, worker)? {
                    frames.consume();
                }
                continue;
            }
            Ok(None) => {}
            // A length that cannot be: nothing that follows makes sense.
            Err(()) => return ended(cx),
        }
        match stream.receive(frames.room()) {
            Ok(0) => return ended(cx),
            Ok(n) => frames.filled(n),
            Err(e) if e == EAGAIN => {
                cx.signal_used(RECEIVE);
                worker.wait(None)?;
            }
            Err(_) if signal_pending() => {}
            Err(_) => return ended(cx),
        }
    }
}

/// Tells the guest that the card has no link any more.
fn ended(cx: &mut NetCx<'_>) -> Result {
    cx.signal_used(RECEIVE);
    let msg = cx.function.with(|net| net.set_link_down());
    cx.function.send(msg);
    Err(ENOTCONN)
}

/// Puts a packet into the guest's buffers. Returns whether that is done with.
fn to_guest(cx: &mut NetCx<'_>, frame: &[u8], worker: &QueueWorker) -> Result<bool> {
    let bytes = HEADER_BYTES.saturating_add(frame.len() as u64);
    let packet = &mut cx.io.packet;
    match cx.function.with_ram(|net, mem| net.take_room(RECEIVE, mem, packet, bytes)) {
        TakenPacket::Packet => {}
        TakenPacket::TooLong => return Ok(true),
        other => {
            cx.pause(other, RECEIVE, worker)?;
            return Ok(false);
        }
    }
    let copied = resident(cx, |cx| {
        write_segments(&*cx.function.ram, cx.io.packet.data(), &[0; HEADER_BYTES as usize])?;
        write_segments_at(&*cx.function.ram, cx.io.packet.data(), HEADER_BYTES, frame).map(drop)
    });
    if copied.is_err() {
        cx.fail();
        return Ok(true);
    }
    cx.complete(|net, mem, packet| net.give_room(RECEIVE, mem, packet, bytes))?;
    cx.signal_many_used(RECEIVE);
    Ok(true)
}

/// Takes packets from the guest.
///
/// # Errors
/// As `NetService::serve`.
pub(super) fn transmit(cx: &mut NetCx<'_>, stream: &PacketStream, worker: &Arc<QueueWorker>) -> Result {
    let mut buf = KVVec::from_elem(0u8, PREFIX.saturating_add(MAX_FRAME), GFP_KERNEL_ACCOUNT)?;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        let packet = &mut cx.io.packet;
        match cx.function.with_ram(|net, mem| net.take_packet(TRANSMIT, mem, packet)) {
            TakenPacket::Packet => {
                let bytes = cx.io.packet.bytes().saturating_sub(HEADER_BYTES);
                let len = usize::try_from(bytes).unwrap_or(usize::MAX);
                let whole = buf.get_mut(..PREFIX.saturating_add(len));
                // One that is longer than any packet can be is lost.
                let (mut sent, mut copied) = (Ok(()), Ok(()));
                if let Some((prefix, frame)) = whole.and_then(|b| b.split_at_mut_checked(PREFIX)) {
                    for (to, from) in prefix.iter_mut().zip((len as u32).to_be_bytes()) {
                        *to = from;
                    }
                    copied = resident(cx, |cx| {
                        read_segments(&*cx.function.ram, cx.io.packet.data(), HEADER_BYTES, frame)
                    });
                    if copied.is_ok() && len != 0 {
                        sent = send_all(stream, buf.get(..PREFIX.saturating_add(len)).unwrap_or(&[]));
                    }
                }
                if copied.is_err() {
                    cx.fail();
                    continue;
                }
                cx.give_packet(TRANSMIT)?;
                sent?;
            }
            other => cx.pause(other, TRANSMIT, worker)?,
        }
        cx.signal_many_used(TRANSMIT);
    }
}

/// Sends all of it. A stream whose other end is closed swallows everything.
///
/// # Errors
/// `EINTR` on a signal.
fn send_all(stream: &PacketStream, mut bytes: &[u8]) -> Result {
    while !bytes.is_empty() {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        let Ok(n) = stream.send(bytes) else {
            return if signal_pending() { Err(ERESTARTSYS) } else { Ok(()) };
        };
        bytes = bytes.get(n..).unwrap_or(&[]);
    }
    Ok(())
}

/// Copies from or to guest memory, and makes pages resident until that succeeds.
///
/// # Errors
/// `EFAULT`: it is not the guest's memory.
fn resident(cx: &NetCx<'_>, mut copy: impl FnMut(&NetCx<'_>) -> Result<(), MemError>) -> Result {
    let copied = cx.function.ram.until_resident(|| match copy(cx) {
        Ok(()) => Ok(Ok(())),
        Err(MemError::NotResident(gpa)) => Err(gpa),
        Err(MemError::NoSlot(_)) => Ok(Err(EFAULT)),
    });
    copied.map_err(|(why, _)| why)?
}
