// SPDX-License-Identifier: GPL-2.0

//! User space's side of a console: its fd is read, written and polled.

use super::device::DeviceFile;
use crate::host::file::signal_pending;
use crate::machine::console::{ConsoleEnd, ConsoleState};
use crate::vcpu::backend::VendorBackend;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;

/// poll(2): readable.
const POLLIN: u32 = 0x41;
/// poll(2): writable.
const POLLOUT: u32 = 0x104;
/// Bytes moved at a time, on the stack.
const CHUNK: usize = 512;

impl<B: VendorBackend> DeviceFile<B> {
    fn console(&self) -> Option<ConsoleEnd<'_>> {
        self.device.console(&self.vm.machine)
    }

    /// Moves output of the guest to `out`. Returns how many bytes.
    fn drain_output(&self, out: &mut [u8]) -> usize {
        let Some(console) = self.console() else { return 0 };
        let (n, waits) = console.drain_output(out);
        // The queue stopped for want of room, and nobody else takes it up again.
        if waits {
            self.device.request_service(&self.vm.machine);
        }
        n
    }

    /// Returns how many bytes of the guest's output were lost.
    pub(super) fn lost_output(&self) -> u64 {
        self.console().map_or(0, |c| c.lost_output())
    }

    fn output_len(&self) -> usize {
        self.console().map_or(0, |c| c.output_len())
    }

    fn input_room(&self) -> usize {
        self.console().map_or(0, |c| c.input_room())
    }

    /// Brings input to the guest, for which there is room.
    fn push_input(&self, bytes: &[u8]) {
        if let Some(console) = self.console() {
            console.push_input(bytes);
        }
    }

    /// Reads what the guest has put out; waits for some unless `nonblock`.
    ///
    /// # Errors
    /// `EINVAL` for what is no console, `EAGAIN`, `EINTR`; `EFAULT` for a buffer that is no memory: what did not fit into
    /// it is lost.
    pub(super) fn read_console(&self, to: &mut IovIterDest<'_>, nonblock: bool) -> Result<usize> {
        if !self.device.is_console() {
            return Err(EINVAL);
        }
        let mut total = 0usize;
        let mut chunk = [0u8; CHUNK];
        loop {
            let want = chunk.len().min(to.len());
            let n = self.drain_output(chunk.get_mut(..want).unwrap_or(&mut []));
            let copied = chunk.get(..n).map_or(0, |b| to.copy_to_iter(b));
            total = total.saturating_add(copied);
            // A guest that writes on and on must not hold up a thread that has a signal.
            if n != 0 && copied == n && !to.is_empty() && !signal_pending() {
                continue;
            }
            if copied < n && total == 0 {
                return Err(EFAULT);
            }
            if total != 0 || want == 0 {
                return Ok(total);
            }
            if nonblock {
                return Err(EAGAIN);
            }
            self.vm.machine.interrupts.console.wait(|| self.output_len() != 0)?;
        }
    }

    /// Writes input for the guest; waits for room for some unless `nonblock`.
    ///
    /// # Errors
    /// `EINVAL` for what is no console, `EIO` in another process than the VM's, `EAGAIN`, `EINTR`, `EFAULT`.
    pub(super) fn write_console(&self, from: &mut IovIterSource<'_>, nonblock: bool) -> Result<usize> {
        if !self.device.is_console() {
            return Err(EINVAL);
        }
        // Its buffers are in guest memory: user addresses of the process that made the VM.
        if self.device.is_virtio_console() && !self.vm.space.is_current() {
            return Err(EIO);
        }
        let mut total = 0usize;
        let mut chunk = [0u8; CHUNK];
        loop {
            let room = self.input_room();
            let want = chunk.len().min(room).min(from.len());
            if total != 0 && signal_pending() {
                return Ok(total);
            }
            if want == 0 {
                if total != 0 || from.is_empty() {
                    return Ok(total);
                }
                if nonblock {
                    return Err(EAGAIN);
                }
                self.vm.machine.interrupts.console.wait(|| self.input_room() != 0)?;
                continue;
            }
            let n = chunk.get_mut(..want).map_or(0, |b| from.copy_from_iter(b));
            if n == 0 {
                return if total == 0 { Err(EFAULT) } else { Ok(total) };
            }
            self.push_input(chunk.get(..n).unwrap_or(&[]));
            total = total.saturating_add(n);
        }
    }

    /// Returns what poll(2) is to say.
    pub(super) fn poll_console(&self) -> u32 {
        let ConsoleState { output, room } = self.console().map_or_else(ConsoleState::default, |c| c.poll());
        (if output != 0 { POLLIN } else { 0 }) | (if room != 0 { POLLOUT } else { 0 })
    }
}
