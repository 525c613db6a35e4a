// SPDX-License-Identifier: GPL-2.0

//! Ways to the network, each with another end for the test.

use super::eventfd::OnEvent;
use super::file::{signal_pending, FileRef, HostFile};
use super::guest_ram::{gather, scatter};
use super::iovec::IoVecSlice;
use super::world::locked;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use kernel::context::{in_interrupt, might_sleep};
use kernel::prelude::*;
use kernel::sched;
use kernel::task::{current, FATAL, SIGNAL};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

type Target = Arc<dyn OnEvent>;

/// Who hears what happens to a file.
#[derive(Default)]
struct Ears {
    next: AtomicU64,
    open: Mutex<Vec<(u64, Target)>>,
}

impl Ears {
    fn tell(&self) {
        let all = locked(&self.open).clone();
        for (_, target) in all {
            in_interrupt(|| target.on_event());
        }
    }
}

/// Calls its target when something happens to a file, until it is dropped.
pub(crate) struct SocketListener<'a> {
    ears: &'a Ears,
    number: u64,
}

impl<'a> SocketListener<'a> {
    fn new(ears: &'a Ears, target: impl OnEvent) -> Result<SocketListener<'a>> {
        might_sleep("listen()");
        drop(KBox::new((), GFP_KERNEL_ACCOUNT)?);
        let number = ears.next.fetch_add(1, SeqCst);
        locked(&ears.open).push((number, Arc::new(target)));
        sched::yield_point();
        Ok(SocketListener { ears, number })
    }
}

impl Drop for SocketListener<'_> {
    fn drop(&mut self) {
        locked(&self.ears.open).retain(|(n, _)| *n != self.number);
    }
}

/// Bytes of virtio's header in front of each packet.
pub(crate) const HEADER: usize = 12;

/// A tap device.
#[derive(Default)]
pub(crate) struct TapDevice {
    to_guest: Mutex<VecDeque<Vec<u8>>>,
    from_guest: Mutex<Vec<Vec<u8>>>,
    ears: Ears,
    /// What packets to the guest may leave to it.
    pub(crate) offloads: AtomicU32,
    /// What that was when each packet was taken.
    pub(crate) taken_with: Mutex<Vec<u32>>,
    /// How many packets it takes before there is no room.
    room: AtomicU64,
    /// It is down: it refuses packets.
    pub(crate) is_down: AtomicBool,
    /// Batches that were sent.
    pub(crate) batches: AtomicU64,
}

impl TapDevice {
    /// One with room for all that is sent.
    pub(crate) fn new() -> Arc<TapDevice> {
        Arc::new(TapDevice { room: AtomicU64::new(u64::MAX), ..TapDevice::default() })
    }

    /// A packet comes for the guest.
    pub(crate) fn deliver(&self, packet: &[u8]) {
        locked(&self.to_guest).push_back(packet.to_vec());
        sched::yield_point();
        self.ears.tell();
    }

    /// Takes the packets that the guest has sent, headers first.
    pub(crate) fn take_sent(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut locked(&self.from_guest))
    }

    /// Sets for how many packets there is room.
    pub(crate) fn set_room(&self, packets: u64) {
        self.room.store(packets, SeqCst);
        self.ears.tell();
    }

    /// Takes a packet; one of a batch does not wait for room, as the kernel has it.
    fn take(&self, packet: Vec<u8>, is_batched: bool) -> Result {
        if self.is_down.load(SeqCst) {
            return Err(EIO);
        }
        if !is_batched {
            if self.room.load(SeqCst) == 0 {
                return Err(EAGAIN);
            }
            self.room.fetch_sub(1, SeqCst);
        }
        locked(&self.from_guest).push(packet);
        Ok(())
    }
}

/// A tap.
pub(crate) struct TapSocket(Arc<TapDevice>);

impl HostFile for TapSocket {
    fn of(file: FileRef) -> Result<TapSocket> {
        file.tap().map(TapSocket)
    }
}

impl TapSocket {
    /// Sets what packets from the tap may leave to their receiver.
    ///
    /// # Errors
    /// None here.
    pub(crate) fn set_offloads(&self, offloads: u32) -> Result {
        self.0.offloads.store(offloads, SeqCst);
        Ok(())
    }

    /// Returns the bytes of the next packet, without its header; 0 when there is none.
    pub(crate) fn next_len(&self) -> u32 {
        sched::yield_point();
        locked(&self.0.to_guest).front().map_or(0, |p| p.len() as u32)
    }

    /// Sends a packet, header first.
    ///
    /// # Errors
    /// `EINVAL` for a bad header, `EFAULT`, `EIO`; `EAGAIN` where it would have to wait.
    pub(crate) fn send(&self, packet: IoVecSlice<'_>, nowait: bool) -> Result<u64> {
        might_sleep("TapSocket::send()");
        let bytes = gather(packet)?;
        if bytes.len() < HEADER {
            return Err(EINVAL);
        }
        let n = bytes.len() as u64;
        loop {
            match self.0.take(bytes.clone(), false) {
                Err(e) if e == EAGAIN && !nowait => {
                    let task = current();
                    let room = || self.0.room.load(SeqCst) != 0;
                    sched::wait_until("room in the tap", || room() || task.has(SIGNAL | FATAL));
                    if !room() {
                        return Err(EINTR);
                    }
                }
                done => return done.map(|()| n),
            }
        }
    }

    /// Receives a packet, header first. Returns its bytes.
    ///
    /// # Errors
    /// `EAGAIN` when there is none.
    pub(crate) fn receive(&self, room: IoVecSlice<'_>) -> Result<u64> {
        might_sleep("TapSocket::receive()");
        let packet = locked(&self.0.to_guest).pop_front().ok_or(EAGAIN)?;
        locked(&self.0.taken_with).push(self.0.offloads.load(SeqCst));
        let mut all = vec![0; HEADER];
        all.extend_from_slice(&packet);
        scatter(room, &all).map(|n| n as u64)
    }

    /// Throws the next packet away.
    pub(crate) fn drop_next(&self) {
        locked(&self.0.to_guest).pop_front();
    }

    /// Calls `target` whenever a packet comes or the tap changes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn listen(&self, target: impl OnEvent) -> Result<SocketListener<'_>> {
        SocketListener::new(&self.0.ears, target)
    }
}

/// The largest packet that goes with others.
const BATCHED: u64 = 2_000;
/// How many go together.
const BATCH: usize = 16;

/// Packets for a tap that are sent together.
pub(crate) struct TapBatch(Vec<Vec<u8>>);

impl TapBatch {
    /// Returns an empty one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<TapBatch> {
        drop(KBox::new((), GFP_KERNEL_ACCOUNT)?);
        Ok(TapBatch(Vec::new()))
    }

    /// Copies a packet, header first.
    ///
    /// # Errors
    /// `ENOSPC`: it is to be sent alone, or others first. `EINVAL` for a bad header, `EFAULT`.
    pub(crate) fn add(&mut self, _tap: &TapSocket, packet: IoVecSlice<'_>) -> Result {
        if packet.bytes() > BATCHED || self.0.len() == BATCH {
            return Err(ENOSPC);
        }
        let bytes = gather(packet)?;
        if bytes.len() < HEADER {
            return Err(EINVAL);
        }
        self.0.push(bytes);
        Ok(())
    }

    /// Sends what waits. What the tap does not take is lost.
    pub(crate) fn send(&mut self, tap: &TapSocket) {
        if !self.0.is_empty() {
            tap.0.batches.fetch_add(1, SeqCst);
        }
        for packet in self.0.drain(..) {
            let _ = tap.0.take(packet, true);
        }
    }
}

/// A stream socket, of which the test has the other end.
#[derive(Default)]
pub(crate) struct StreamSocket {
    to_guest: Mutex<VecDeque<u8>>,
    from_guest: Mutex<Vec<u8>>,
    is_closed: AtomicBool,
    ears: Ears,
    /// The most bytes that one call sends; 0: there is no room.
    pub(crate) most: AtomicU64,
}

impl StreamSocket {
    /// One that is open.
    pub(crate) fn new() -> Arc<StreamSocket> {
        Arc::new(StreamSocket { most: AtomicU64::new(1 << 16), ..StreamSocket::default() })
    }

    /// The other end sends bytes.
    pub(crate) fn deliver(&self, bytes: &[u8]) {
        locked(&self.to_guest).extend(bytes);
        sched::yield_point();
        self.ears.tell();
    }

    /// The other end takes what was sent.
    pub(crate) fn take_sent(&self) -> Vec<u8> {
        core::mem::take(&mut locked(&self.from_guest))
    }

    /// The other end closes.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, SeqCst);
        self.ears.tell();
    }
}

/// A stream.
pub(crate) struct PacketStream(Arc<StreamSocket>);

impl HostFile for PacketStream {
    fn of(file: FileRef) -> Result<PacketStream> {
        file.stream().map(PacketStream)
    }
}

impl PacketStream {
    /// Sends bytes; sleeps. Returns how many were sent.
    ///
    /// # Errors
    /// `EPIPE` when the other end is closed; `EINTR` on a signal.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize> {
        might_sleep("PacketStream::send()");
        let task = current();
        let most = || self.0.most.load(SeqCst) as usize;
        sched::wait_until("room in the stream", || most() != 0 || task.has(SIGNAL | FATAL));
        if self.0.is_closed.load(SeqCst) {
            return Err(EPIPE);
        }
        if signal_pending() {
            return Err(EINTR);
        }
        let n = bytes.len().min(most());
        locked(&self.0.from_guest).extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    /// Receives what has come. Returns how many bytes; 0: the other end is closed.
    ///
    /// # Errors
    /// `EAGAIN` when nothing has come.
    pub(crate) fn receive(&self, room: &mut [u8]) -> Result<usize> {
        // Another thread may run here, which must not be under the lock; and what comes before the end is received.
        let is_closed = self.0.is_closed.load(SeqCst);
        let mut queue = locked(&self.0.to_guest);
        let n = room.len().min(queue.len());
        for place in &mut room[..n] {
            *place = queue.pop_front().unwrap_or(0);
        }
        match n {
            0 if is_closed => Ok(0),
            0 => Err(EAGAIN),
            n => Ok(n),
        }
    }

    /// Calls `target` whenever bytes come or there is room for more.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn listen(&self, target: impl OnEvent) -> Result<SocketListener<'_>> {
        SocketListener::new(&self.0.ears, target)
    }
}
