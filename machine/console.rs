// SPDX-License-Identifier: GPL-2.0

//! The other side of a machine's consoles: what user space reads of them and writes to them.
//!
//! Reading and polling need nothing of the guest. What is written to a virtio console goes on into the
//! guest's memory at once, in the thread that writes; its output is taken out of the guest's memory by a vCPU.

use super::interrupts::ChipsetLock;
use super::service::console::ConsoleService;
use super::service::function::{VirtioService, ALL_QUEUES};
use crate::chipset::uart::Uart;

/// User space's side of a console.
pub(crate) enum ConsoleEnd<'a> {
    /// Of the UART, should there be one.
    Uart(&'a ChipsetLock),
    /// Of a virtio console.
    Virtio(&'a ConsoleService),
}

/// What poll(2) asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsoleState {
    /// Bytes of output that wait.
    pub(crate) output: usize,
    /// Bytes of input that there is room for.
    pub(crate) room: usize,
}

impl ConsoleEnd<'_> {
    /// Moves output of the guest to `out`. Returns how many bytes, and whether more waits in the guest's memory for
    /// [`VirtioService::serve_deferred`]: whoever reads may be another process, which does not have that memory; a
    /// vCPU does.
    pub(crate) fn drain_output(&self, out: &mut [u8]) -> (usize, bool) {
        match self {
            ConsoleEnd::Virtio(service) => {
                let (n, waits) = service.function().with(|c| (c.drain_output(out), c.take_waiting()));
                if waits {
                    service.function().note_waiting(ALL_QUEUES);
                }
                (n, waits)
            }
            ConsoleEnd::Uart(chips) => chips.with(|bus, _, signals| {
                bus.console_read();
                let n = bus.uart.as_mut().map_or(0, |u| u.drain_output(out));
                bus.settle_uart(signals);
                (n, false)
            }),
        }
    }

    /// Returns how many bytes of the guest's output were lost.
    pub(crate) fn lost_output(&self) -> u64 {
        match self {
            ConsoleEnd::Virtio(service) => service.function().with(|c| c.lost()),
            ConsoleEnd::Uart(chips) => chips.with(|bus, _, _| bus.uart.as_ref().map_or(0, Uart::dropped)),
        }
    }

    /// Returns how many bytes of output wait.
    pub(crate) fn output_len(&self) -> usize {
        match self {
            ConsoleEnd::Virtio(service) => service.function().with(|c| c.output_len()),
            ConsoleEnd::Uart(chips) => chips.with(|bus, _, _| bus.uart.as_ref().map_or(0, Uart::output_len)),
        }
    }

    /// Returns how many bytes of input there is room for.
    pub(crate) fn input_room(&self) -> usize {
        match self {
            ConsoleEnd::Virtio(service) => service.function().with(|c| c.input_room()),
            ConsoleEnd::Uart(chips) => chips.with(|bus, _, _| bus.console_room()),
        }
    }

    /// Brings input to the guest, for which there is room.
    pub(crate) fn push_input(&self, bytes: &[u8]) {
        match self {
            ConsoleEnd::Virtio(service) => service.push_input(bytes),
            ConsoleEnd::Uart(chips) => chips.with(|bus, _, out| {
                if let Some(uart) = bus.uart.as_mut() {
                    uart.push_input(bytes);
                }
                bus.settle_uart(out);
            }),
        }
    }

    /// Returns what poll(2) asks for; whoever polls wants to be told again.
    pub(crate) fn poll(&self) -> ConsoleState {
        match self {
            ConsoleEnd::Virtio(service) => service.function().with(|c| {
                c.ask_again();
                ConsoleState { output: c.output_len(), room: c.input_room() }
            }),
            ConsoleEnd::Uart(chips) => chips.with(|bus, _, _| {
                let output = bus.uart.as_ref().map_or(0, Uart::output_len);
                let room = bus.console_room();
                bus.console_read();
                ConsoleState { output, room }
            }),
        }
    }
}
