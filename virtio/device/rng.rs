// SPDX-License-Identifier: GPL-2.0

//! Virtio entropy device.
//!
//! Follows VIRTIO 1.2, "Entropy Device". One queue, no features, no configuration. It is served at
//! the kick: there is nothing to wait for. A call hands out a bounded number of bytes, and a buffer
//! may get fewer than it has room for, which the specification allows.

use crate::arch::addr::Gpa;
use crate::mmu::mem::GuestMem;
use crate::virtio::queue::{QueueError, VirtQueue};
use crate::virtio::segment;
use crate::virtio::transport::pci::{QueueServed, VirtioDevice, VirtioPci};

/// Entries of the queue.
const QUEUE_SIZE: u16 = 64;
/// Descriptors a buffer can have.
const MAX_CHAIN: usize = 64;
/// Most bytes that a buffer gets.
const MAX_BYTES: u64 = 4096;
/// Most buffers that one call serves, under the device's lock.
const MAX_BUFFERS: usize = 64;
/// After so many bytes a call ends.
const ENOUGH: usize = 16 << 10;
/// Bytes made at a time, on the stack.
const CHUNK: usize = 256;

/// The one queue.
const QUEUE: u16 = 0;

/// A virtio entropy device.
#[derive(Debug)]
pub(crate) struct VirtioRng;

impl VirtioDevice for VirtioRng {
    const TYPE: u16 = 4;
    /// A device that fits no class.
    const CLASS: u32 = 0xff_00_00;

    fn features(&self) -> u64 {
        0
    }

    fn accept(&mut self, _features: u64) {}

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn max_chain(&self) -> usize {
        MAX_CHAIN
    }

    fn config(&self) -> &[u8] {
        &[]
    }
}

impl VirtioPci<VirtioRng> {
    /// Fills the buffers that the driver made available with what `source` makes.
    pub(crate) fn serve<M: GuestMem>(&mut self, mem: &M, mut source: impl FnMut(&mut [u8])) -> QueueServed {
        let mut made = 0usize;
        for _ in 0..MAX_BUFFERS {
            let Some((_, queue)) = self.taking(QUEUE) else { return QueueServed::Empty(None) };
            let mut counted = |part: &mut [u8]| {
                made = made.saturating_add(part.len());
                source(part);
            };
            match fill(queue, mem, &mut counted) {
                Ok(true) if made >= ENOUGH => break,
                Ok(true) => {}
                Ok(false) => return QueueServed::Empty(self.used(QUEUE, mem)),
                Err(QueueError::NotResident(gpa)) => {
                    return QueueServed::NotResident(gpa, self.used(QUEUE, mem));
                }
                Err(QueueError::Broken(fault)) => return QueueServed::Broken(self.fail(fault)),
            }
        }
        QueueServed::More(self.used(QUEUE, mem))
    }
}

/// Fills one buffer. Returns whether there was one.
fn fill<M: GuestMem>(
    queue: &mut VirtQueue,
    mem: &M,
    source: &mut impl FnMut(&mut [u8]),
) -> Result<bool, QueueError> {
    let mark = queue.mark();
    let Some(chain) = queue.pop(mem)? else { return Ok(false) };
    let buffer = chain.buffer;
    let mut written = 0u32;
    let done = segment::slice(chain.writable, 0, MAX_BYTES).try_for_each(|part| {
        write_random(mem, part.gpa, part.len, source)?;
        written = written.saturating_add(part.len);
        Ok(())
    });
    match done.and_then(|()| queue.add_used(mem, buffer, written)) {
        Ok(()) => Ok(true),
        Err(e) => {
            if let QueueError::NotResident(_) = e {
                queue.rewind(mark);
            }
            Err(e)
        }
    }
}

fn write_random<M: GuestMem>(
    mem: &M,
    mut at: Gpa,
    mut left: u32,
    source: &mut impl FnMut(&mut [u8]),
) -> Result<(), QueueError> {
    let mut chunk = [0; CHUNK];
    while left != 0 {
        let now = left.min(CHUNK as u32);
        let part = chunk.get_mut(..now as usize).unwrap_or(&mut []);
        source(part);
        mem.write(at, part)?;
        at = at.wrapping_add(u64::from(now));
        left = left.saturating_sub(now);
    }
    Ok(())
}
