// SPDX-License-Identifier: GPL-2.0

//! The PC's chips as pure state machines.
//!
//! A device here has no lock, no clock and no callback. It is called with the time, it answers
//! with values, and everything it wants from the world is a function of its state:
//!
//! - `irq()`: the level of its interrupt line,
//! - `deadline()`: when it next wants `tick()`.
//!
//! The bus owns the devices of one VM, and the VM owns the lock around the bus.

#![forbid(unsafe_code)]

pub(crate) mod bus;
pub(crate) mod i8042;
pub(crate) mod ioapic;
pub(crate) mod lapic;
pub(crate) mod message;
pub(crate) mod pci;
pub(crate) mod pic;
pub(crate) mod pit;
pub(crate) mod pm;
pub(crate) mod resample;
pub(crate) mod routing;
pub(crate) mod rtc;
pub(crate) mod saved;
pub(crate) mod time;
pub(crate) mod uart;

pub(crate) use message::{ApicMessage, DeliveryMode, DestFormat};

use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;

/// The level of an interrupt line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PinLevel {
    /// Not asserted.
    #[default]
    Low,
    /// Asserted.
    High,
}

impl From<bool> for PinLevel {
    fn from(high: bool) -> PinLevel {
        if high {
            PinLevel::High
        } else {
            PinLevel::Low
        }
    }
}

impl PinLevel {
    /// Returns whether the line is asserted.
    pub(crate) fn is_high(self) -> bool {
        self == PinLevel::High
    }
}

/// Returns what a read of nothing gives on an I/O port: all ones, at most 32 of them.
pub(crate) fn all_ones(width: AccessWidth) -> u32 {
    u32::try_from(width.mask()).unwrap_or(u32::MAX)
}

/// A device behind I/O ports.
///
/// `offset` counts from the device's first port. A width or offset that the device does not decode
/// has one policy everywhere: a read gives all ones, a write is ignored. Results carry no bits above
/// `width`.
pub(crate) trait PioDevice {
    /// Reads a port.
    fn read(&mut self, offset: u16, width: AccessWidth, now: Ns) -> u32;
    /// Writes a port; bits of `value` above `width` are ignored.
    fn write(&mut self, offset: u16, width: AccessWidth, value: u32, now: Ns);
}
