// SPDX-License-Identifier: GPL-2.0

//! The console's side of a UART or a virtio console: its fd is read, written and polled.
//!
//! Reading and polling need nothing of the guest. What is written to a virtio console goes on into the
//! guest's memory at once, in the thread that writes.

use super::device::{DeviceFile, Kind, Served};
use crate::chipset::uart::Uart;
use crate::host::file::signal_pending;
use crate::vcpu::backend::Backend;
use crate::vcpu::pci::{PciDevice, Unserved};
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::Arc;

/// poll(2): readable.
const POLLIN: u32 = 0x41;
/// poll(2): writable.
const POLLOUT: u32 = 0x104;
/// Bytes moved at a time, on the stack.
const CHUNK: usize = 512;

impl<B: Backend> DeviceFile<B> {
    /// Returns whether the device is a console.
    pub(super) fn is_console(&self) -> bool {
        matches!(self.kind, Kind::Uart | Kind::Console)
    }

    fn virtio(&self) -> Option<&Arc<PciDevice>> {
        match self.served.as_ref()? {
            Served::Console(device) => Some(device),
            _ => None,
        }
    }

    /// Moves output of the guest to `out`. Returns how many bytes.
    fn drain_output(&self, out: &mut [u8]) -> usize {
        match self.virtio() {
            Some(device) => {
                let drained = device.with_console(|c| (c.drain_output(out), c.take_waiting()));
                let (n, waits) = drained.unwrap_or((0, false));
                if waits {
                    // Output of the guest's waits in its queue. Whoever reads may be another process, which
                    // does not have the guest's memory; a vCPU does.
                    self.vm.pci.request_service(&self.vm.chipset);
                }
                n
            }
            None if self.kind == Kind::Uart => self.vm.chipset.with(|bus, _, signals| {
                bus.console_read();
                let n = bus.uart.as_mut().map_or(0, |u| u.drain_output(out));
                bus.settle_uart(signals);
                n
            }),
            None => 0,
        }
    }

    /// Returns how many bytes of the guest's output were lost.
    pub(super) fn lost_output(&self) -> u64 {
        match self.virtio() {
            Some(device) => device.with_console(|c| c.lost()).unwrap_or(0),
            None => self.vm.chipset.with(|bus, _, _| bus.uart.as_ref().map_or(0, Uart::dropped)),
        }
    }

    fn output_len(&self) -> usize {
        match self.virtio() {
            Some(device) => device.with_console(|c| c.output_len()).unwrap_or(0),
            None if self.kind == Kind::Uart => {
                self.vm.chipset.with(|bus, _, _| bus.uart.as_ref().map_or(0, Uart::output_len))
            }
            None => 0,
        }
    }

    fn input_room(&self) -> usize {
        match self.virtio() {
            Some(device) => device.with_console(|c| c.input_room()).unwrap_or(0),
            None if self.kind == Kind::Uart => self.vm.chipset.with(|bus, _, _| bus.console_room()),
            None => 0,
        }
    }

    /// Brings input to the guest, for which there is room.
    fn push_input(&self, bytes: &[u8]) {
        match self.virtio() {
            Some(device) => {
                device.with_console(|c| c.push_input(bytes));
                loop {
                    // What is left of the input reaches the guest when it next kicks.
                    let goes_on = match device.serve_console(&self.vm.chipset, &*self.vm.space) {
                        Unserved::Nothing => false,
                        Unserved::More => !signal_pending(),
                        Unserved::NotResident(gpa) => self.vm.space.fault_in(gpa, true).is_ok(),
                    };
                    if !goes_on {
                        break;
                    }
                }
            }
            None => self.vm.chipset.with(|bus, _, out| {
                if let Some(uart) = bus.uart.as_mut() {
                    uart.push_input(bytes);
                }
                bus.settle_uart(out);
            }),
        }
    }

    /// Reads what the guest has put out; waits for some unless `nonblock`.
    ///
    /// # Errors
    /// `EINVAL` for what is no console, `EAGAIN`, `EINTR`.
    pub(super) fn read_console(&self, to: &mut IovIterDest<'_>, nonblock: bool) -> Result<usize> {
        if !self.is_console() {
            return Err(EINVAL);
        }
        let mut total = 0usize;
        let mut chunk = [0u8; CHUNK];
        loop {
            let want = chunk.len().min(to.len());
            let n = self.drain_output(chunk.get_mut(..want).unwrap_or(&mut []));
            let copied = chunk.get(..n).map_or(0, |b| to.copy_to_iter(b));
            total = total.saturating_add(copied);
            if n != 0 && copied == n && !to.is_empty() && !signal_pending() {
                continue;
            }
            if total != 0 || want == 0 {
                return Ok(total);
            }
            if nonblock {
                return Err(EAGAIN);
            }
            self.vm.chipset.console.wait(|| self.output_len() != 0)?;
        }
    }

    /// Writes input for the guest; waits for room for some unless `nonblock`.
    ///
    /// # Errors
    /// `EINVAL` for what is no console, `EIO` in another process than the VM's, `EAGAIN`, `EINTR`, `EFAULT`.
    pub(super) fn write_console(&self, from: &mut IovIterSource<'_>, nonblock: bool) -> Result<usize> {
        if !self.is_console() {
            return Err(EINVAL);
        }
        if self.kind == Kind::Console && !self.vm.space.is_current() {
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
                self.vm.chipset.console.wait(|| self.input_room() != 0)?;
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
        let (output, room) = match self.virtio() {
            Some(device) => {
                let state = device.with_console(|c| {
                    // Whoever polls wants to be told again.
                    c.ask_again();
                    (c.output_len(), c.input_room())
                });
                state.unwrap_or((0, 0))
            }
            None if self.kind == Kind::Uart => self.vm.chipset.with(|bus, _, _| {
                let output = bus.uart.as_ref().map_or(0, Uart::output_len);
                let room = bus.console_room();
                bus.console_read();
                (output, room)
            }),
            None => (0, 0),
        };
        (if output != 0 { POLLIN } else { 0 }) | (if room != 0 { POLLOUT } else { 0 })
    }
}
