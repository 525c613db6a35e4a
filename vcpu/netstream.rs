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

use super::backend::Backend;
use super::net::{with_net, Bench};
use crate::host::file::signal_pending;
use crate::host::netio::Stream;
use crate::machine::worker::Worker;
use crate::mmu::mem::MemError;
use crate::virtio::net::frames::{Frames, MAX_FRAME, PREFIX};
use crate::virtio::net::{Taken, HEADER_BYTES};
use crate::virtio::segment::{read_segments, write_segments, write_segments_at};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The one pair of queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Brings packets to the guest.
///
/// # Errors
/// As `Card::serve`; `ENOTCONN` when the stream has ended.
pub(super) fn receive<B: Backend>(bench: &mut Bench<'_, B>, stream: &Stream, worker: &Arc<Worker>) -> Result {
    let _ear = stream.listen(worker.clone())?;
    let mut frames = Frames::new()?;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        match frames.next() {
            Ok(Some(frame)) => {
                if to_guest(bench, frame, worker)? {
                    frames.consume();
                }
                continue;
            }
            Ok(None) => {}
            // A length that cannot be: nothing that follows makes sense.
            Err(()) => return ended(bench),
        }
        match stream.receive(frames.room()) {
            Ok(0) => return ended(bench),
            Ok(n) => frames.filled(n),
            Err(e) if e == EAGAIN => {
                bench.tell(RECEIVE);
                worker.wait(None)?;
            }
            Err(_) if signal_pending() => {}
            Err(_) => return ended(bench),
        }
    }
}

/// Tells the guest that the card has no link any more.
fn ended<B: Backend>(bench: &mut Bench<'_, B>) -> Result {
    bench.tell(RECEIVE);
    let msg = with_net(bench.vm, bench.device, |net, _| net.set_link_down())?;
    bench.vm.chipset.send_msi(msg);
    Err(ENOTCONN)
}

/// Puts a packet into the guest's buffers. Returns whether that is done with.
fn to_guest<B: Backend>(bench: &mut Bench<'_, B>, frame: &[u8], worker: &Worker) -> Result<bool> {
    let bytes = HEADER_BYTES.saturating_add(frame.len() as u64);
    let packet = &mut bench.lane.packet;
    match with_net(bench.vm, bench.device, |net, mem| net.take_room(RECEIVE, mem, packet, bytes))? {
        Taken::Packet => {}
        Taken::TooLong => return Ok(true),
        other => {
            bench.pause(other, RECEIVE, worker)?;
            return Ok(false);
        }
    }
    let copied = resident(bench, |bench| {
        write_segments(&*bench.vm.space, bench.lane.packet.data(), &[0; HEADER_BYTES as usize])?;
        write_segments_at(&*bench.vm.space, bench.lane.packet.data(), HEADER_BYTES, frame).map(drop)
    });
    if copied.is_err() {
        bench.abandon()?;
        return Ok(true);
    }
    bench.give(|net, mem, packet| net.give_room(RECEIVE, mem, packet, bytes))?;
    bench.tell_of_many(RECEIVE);
    Ok(true)
}

/// Takes packets from the guest.
///
/// # Errors
/// As `Card::serve`.
pub(super) fn transmit<B: Backend>(
    bench: &mut Bench<'_, B>,
    stream: &Stream,
    worker: &Arc<Worker>,
) -> Result {
    let mut buf = KVVec::from_elem(0u8, PREFIX.saturating_add(MAX_FRAME), GFP_KERNEL_ACCOUNT)?;
    loop {
        if signal_pending() {
            return Err(ERESTARTSYS);
        }
        let packet = &mut bench.lane.packet;
        match with_net(bench.vm, bench.device, |net, mem| net.take_packet(TRANSMIT, mem, packet))? {
            Taken::Packet => {
                let bytes = bench.lane.packet.bytes().saturating_sub(HEADER_BYTES);
                let len = usize::try_from(bytes).unwrap_or(usize::MAX);
                let whole = buf.get_mut(..PREFIX.saturating_add(len));
                // One that is longer than any packet can be is lost.
                let (mut sent, mut copied) = (Ok(()), Ok(()));
                if let Some((prefix, frame)) = whole.and_then(|b| b.split_at_mut_checked(PREFIX)) {
                    for (to, from) in prefix.iter_mut().zip((len as u32).to_be_bytes()) {
                        *to = from;
                    }
                    copied = resident(bench, |bench| {
                        read_segments(&*bench.vm.space, bench.lane.packet.data(), HEADER_BYTES, frame)
                    });
                    if copied.is_ok() && len != 0 {
                        sent = send_all(stream, buf.get(..PREFIX.saturating_add(len)).unwrap_or(&[]));
                    }
                }
                if copied.is_err() {
                    bench.abandon()?;
                    continue;
                }
                bench.give_packet(TRANSMIT)?;
                sent?;
            }
            other => bench.pause(other, TRANSMIT, worker)?,
        }
        bench.tell_of_many(TRANSMIT);
    }
}

/// Sends all of it. A stream whose other end is closed swallows everything.
///
/// # Errors
/// `EINTR` on a signal.
fn send_all(stream: &Stream, mut bytes: &[u8]) -> Result {
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
fn resident<B: Backend>(
    bench: &mut Bench<'_, B>,
    mut copy: impl FnMut(&mut Bench<'_, B>) -> Result<(), MemError>,
) -> Result {
    loop {
        match copy(bench) {
            Ok(()) => return Ok(()),
            Err(MemError::NotResident(gpa)) => bench.vm.space.fault_in(gpa, true)?,
            Err(MemError::NoSlot(_)) => return Err(EFAULT),
        }
    }
}
