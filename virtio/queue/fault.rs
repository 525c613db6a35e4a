// SPDX-License-Identifier: GPL-2.0

//! What can be wrong with a virtqueue, and what a call on one ends with.

use crate::arch::addr::Gpa;
use crate::mmu::mem::MemError;

/// How the driver broke the queue's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueFault {
    /// More buffers are available or in flight than the queue has descriptors.
    AvailIndex(u16),
    /// A descriptor's number is not below the table's size.
    DescIndex(u16),
    /// The chain has more descriptors than the device takes, or it is a loop.
    TooLong,
    /// An indirect table that was not negotiated, lies in another one, goes on after it, or, in a packed
    /// ring, is part of a chain.
    Indirect,
    /// An indirect table whose size is 0, odd, or more than 32768 descriptors.
    IndirectBytes(u32),
    /// A device-readable descriptor follows a device-writable one.
    Order,
    /// A descriptor wraps around the address space, or a chain has more than 4 GiB.
    Bytes,
    /// A ring, a table, or a part of the buffer that the device must have lies outside of memory.
    Memory(Gpa),
    /// The queue was enabled with a size or an address that it cannot have.
    Layout,
    /// The buffer lacks what every request of this device has.
    Malformed,
}

/// Why a call on a queue did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// The page at this address must be faulted in; nothing was changed, call again after that.
    NotResident(Gpa),
    /// The driver broke the rules: the device needs a reset.
    Broken(QueueFault),
}

impl From<MemError> for QueueError {
    fn from(e: MemError) -> QueueError {
        match e {
            MemError::NotResident(gpa) => QueueError::NotResident(gpa),
            MemError::NoSlot(gpa) => QueueError::Broken(QueueFault::Memory(gpa)),
        }
    }
}
