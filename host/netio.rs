// SPDX-License-Identifier: GPL-2.0

//! Ways to the network that the VMM opened: a tap device, and a stream socket.
//!
//! Packets go straight between a tap's socket and the VMM's memory, as vhost does it. A stream socket only
//! carries bytes of the kernel's, here.
//!
//! The VMM makes the tap and hands over its file. Each packet has a header of virtio's in front of it, which
//! the tap checks and carries out (checksums, segments of TCP and UDP): nothing in it is trusted here.

use super::eventfd::OnEvent;
use super::ffi;
use super::file::{FileRef, HostFile};
use super::iovec::{outcome, IoVecSlice};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_uint, c_void};
use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;

/// A reference to the file of a socket or of something that has one, and the socket.
///
/// # Invariants
/// `socket` is the one of `file`, which keeps it.
struct HostSocket {
    file: FileRef,
    socket: NonNull<c_void>,
}

/// Finds the socket of a referenced file; an error number where it has none.
type FindSocket = unsafe extern "C" fn(*mut bindings::file, *mut *mut c_void) -> c_int;

impl HostSocket {
    /// Finds the socket of a file.
    ///
    /// # Errors
    /// `EINVAL` for a file in which `find` finds none.
    fn of(file: FileRef, find: FindSocket) -> Result<HostSocket> {
        let mut socket = core::ptr::null_mut();
        // SAFETY: The file is referenced, the out pointer is valid.
        kernel::error::to_result(unsafe { find(file.as_ptr(), &mut socket) })?;
        // INVARIANT: That is the file's.
        Ok(HostSocket { file, socket: NonNull::new(socket).ok_or(EINVAL)? })
    }

    fn as_ptr(&self) -> *mut c_void {
        self.socket.as_ptr()
    }
}

/// A tap device.
pub(crate) struct TapSocket(HostSocket);

// SAFETY: The tap has locks of its own.
unsafe impl HostFile for TapSocket {
    fn of(file: FileRef) -> Result<TapSocket> {
        HostSocket::of(file, ffi::rvmm_tap_socket).map(TapSocket)
    }
}

impl TapSocket {
    /// Sets what packets from the tap may leave to their receiver: bits of TUNSETOFFLOAD. Sleeps.
    ///
    /// # Errors
    /// `EINVAL` for bits that the kernel does not know, `EBADFD` when the tap is gone.
    pub(crate) fn set_offloads(&self, offloads: u32) -> Result {
        // SAFETY: The file is referenced, and it is a tap's: this request takes a number.
        kernel::error::to_result(unsafe { ffi::rvmm_tap_set_offloads(self.0.file.as_ptr(), offloads) })
    }

    /// Returns the bytes of the next packet, without its header; 0 when there is none.
    pub(crate) fn next_len(&self) -> u32 {
        // SAFETY: By the invariant of `HostSocket`.
        unsafe { ffi::rvmm_tap_next_len(self.0.as_ptr()) }
    }

    /// Sends a packet, header first. May sleep, but for room only if not `nowait`. Returns the bytes that were
    /// taken.
    ///
    /// # Errors
    /// Those of the tap: `EINVAL` for a bad header, `EFAULT`, `EIO` when the tap is down, and others. `EAGAIN`
    /// where it would have to wait for room.
    pub(crate) fn send(&self, packet: IoVecSlice<'_>, nowait: bool) -> Result<u64> {
        let iov = packet.iov();
        // SAFETY: By the invariant of `HostSocket`. The pieces are read during the call only, and whoever copies from
        // them checks that they are addresses of the process.
        outcome(unsafe {
            ffi::rvmm_tap_send(self.0.as_ptr(), iov.as_ptr(), iov.len() as u32, packet.bytes(), nowait)
        })
    }

    /// Receives a packet, header first, without waiting for one. May sleep for memory. Returns its bytes.
    ///
    /// # Errors
    /// `EAGAIN` when there is none; `EFAULT` and others, with which a packet is lost.
    pub(crate) fn receive(&self, room: IoVecSlice<'_>) -> Result<u64> {
        let iov = room.iov();
        // SAFETY: As in `send()`.
        outcome(unsafe {
            ffi::rvmm_tap_receive(self.0.as_ptr(), iov.as_ptr(), iov.len() as u32, room.bytes())
        })
    }

    /// Throws the next packet away.
    pub(crate) fn drop_next(&self) {
        // SAFETY: By the invariant of `HostSocket`.
        unsafe { ffi::rvmm_tap_drop(self.0.as_ptr()) }
    }

    /// Calls `target` whenever a packet comes or the tap changes, until the answer is dropped. Sleeps.
    ///
    /// # Errors
    /// `EBADFD`: the tap is gone. `ENOMEM`.
    pub(crate) fn listen<T: OnEvent>(&self, target: T) -> Result<SocketListener<'_, T>> {
        SocketListener::new(&self.0.file, target)
    }
}

/// Packets for a tap that are sent together.
///
/// # Invariants
/// The pointer is to a batch that this owns.
pub(crate) struct TapBatch(NonNull<c_void>);

// SAFETY: A batch is plain memory and pages, used by whoever has it.
unsafe impl Send for TapBatch {}

impl TapBatch {
    /// Returns an empty one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<TapBatch> {
        // SAFETY: Process context.
        NonNull::new(unsafe { ffi::rvmm_tap_batch_new() }).map(TapBatch).ok_or(ENOMEM)
    }

    /// Copies a packet for `tap`, header first. May sleep for memory.
    ///
    /// # Errors
    /// `ENOSPC`: it is to be sent alone, after those that wait, or these have to be sent first. `EINVAL` for a
    /// bad header, `EFAULT`.
    pub(crate) fn add(&mut self, tap: &TapSocket, packet: IoVecSlice<'_>) -> Result {
        let (iov, bytes) = (packet.iov(), packet.bytes());
        let (pieces, count) = (iov.as_ptr(), iov.len() as u32);
        // SAFETY: By the invariants of both. The pieces are read during the call only, and the callee checks
        // that they are addresses of the process.
        kernel::error::to_result(unsafe {
            ffi::rvmm_tap_batch_add(self.0.as_ptr(), tap.0.as_ptr(), pieces, count, bytes)
        })
    }

    /// Sends what waits. What the tap does not take is lost.
    pub(crate) fn send(&mut self, tap: &TapSocket) {
        // SAFETY: By the invariants of both.
        unsafe { ffi::rvmm_tap_batch_send(self.0.as_ptr(), tap.0.as_ptr()) }
    }
}

impl Drop for TapBatch {
    fn drop(&mut self) {
        // SAFETY: By the invariant, and nobody uses it any more.
        unsafe { ffi::rvmm_tap_batch_free(self.0.as_ptr()) }
    }
}

/// A stream socket.
pub(crate) struct PacketStream(HostSocket);

// SAFETY: The socket has locks of its own.
unsafe impl HostFile for PacketStream {
    fn of(file: FileRef) -> Result<PacketStream> {
        HostSocket::of(file, ffi::rvmm_stream_socket).map(PacketStream)
    }
}

impl PacketStream {
    /// Sends bytes; sleeps until there is room for them or a signal comes. Returns how many were sent.
    ///
    /// # Errors
    /// `EPIPE` when the other end is closed; `EINTR` on a signal before the first byte; others of the socket.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize> {
        let (at, len) = (bytes.as_ptr().cast(), bytes.len() as u64);
        // SAFETY: By the invariant of `HostSocket`; the bytes are valid for the call.
        let sent = outcome(unsafe { ffi::rvmm_stream_send(self.0.as_ptr(), at, len) })?;
        Ok(usize::try_from(sent)?)
    }

    /// Receives what has come, without waiting for more. Returns how many bytes; 0 says that the other end is
    /// closed.
    ///
    /// # Errors
    /// `EAGAIN` when nothing has come; others of the socket.
    pub(crate) fn receive(&self, room: &mut [u8]) -> Result<usize> {
        let (at, len) = (room.as_mut_ptr().cast(), room.len() as u64);
        // SAFETY: By the invariant of `HostSocket`; the room is valid for the call and ours.
        let received = outcome(unsafe { ffi::rvmm_stream_receive(self.0.as_ptr(), at, len) })?;
        Ok(usize::try_from(received)?)
    }

    /// Calls `target` whenever bytes come or there is room for more, until the answer is dropped. Sleeps.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn listen<T: OnEvent>(&self, target: T) -> Result<SocketListener<'_, T>> {
        SocketListener::new(&self.0.file, target)
    }
}

/// The part of an [`SocketListener`] that the kernel points to.
///
/// # Invariants
/// `entry` is the first field, so that a pointer to it is one to the whole.
#[repr(C)]
struct SocketEntry<T> {
    entry: UnsafeCell<bindings::wait_queue_entry>,
    target: T,
}

/// Calls its target when something happens to a file; see [`TapSocket::listen`].
///
/// # Invariants
/// The entry of `inner` is in the queue `head`, which the file keeps.
pub(crate) struct SocketListener<'a, T> {
    inner: KBox<SocketEntry<T>>,
    head: NonNull<bindings::wait_queue_head>,
    _file: &'a FileRef,
}

impl<'a, T: OnEvent> SocketListener<'a, T> {
    fn new(file: &'a FileRef, target: T) -> Result<SocketListener<'a, T>> {
        let entry = bindings::wait_queue_entry { func: Some(hear::<T>), ..Default::default() };
        let inner = KBox::new(SocketEntry { entry: UnsafeCell::new(entry), target }, GFP_KERNEL_ACCOUNT)?;
        // SAFETY: The file is referenced, and the entry lies in a box, so it stays where it is until the drop
        // of `SocketListener` removes it.
        let head = unsafe { ffi::rvmm_file_listen(file.as_ptr(), inner.entry.get()) };
        Ok(SocketListener { inner, head: NonNull::new(head).ok_or(EBADFD)?, _file: file })
    }
}

impl<T> Drop for SocketListener<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. The callback runs under the queue's lock, which this takes: once it
        // returns, the callback is over and will not come again.
        unsafe { bindings::remove_wait_queue(self.head.as_ptr(), self.inner.entry.get()) };
    }
}

/// # Safety
/// Only a wait queue calls this, under its lock, with the entry of an [`SocketEntry<T>`].
unsafe extern "C" fn hear<T: OnEvent>(
    entry: *mut bindings::wait_queue_entry,
    _mode: c_uint,
    _flags: c_int,
    _key: *mut c_void,
) -> c_int {
    // SAFETY: By contract, and the type's invariant; the drop of the listener waits for this call.
    let inner = unsafe { &*entry.cast::<SocketEntry<T>>() };
    inner.target.on_event();
    0
}
