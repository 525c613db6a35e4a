// SPDX-License-Identifier: GPL-2.0

//! The worker of a virtio disk: a thread that the VMM lends to the kernel.
//!
//! It takes requests off the queue, transfers between the backing file and guest memory, and completes
//! them, until a signal ends it. Being a thread of the VMM's, it has the VMM's memory, its limits and
//! its end.

use super::backend::Backend;
use super::pci::{send, Model, PciDevice};
use super::vm::Vm;
use crate::arch::addr::Hva;
use crate::host::blkio::BackingFile;
use crate::mmu::mem::MemError;
use crate::virtio::blk::{Next, Op, Request, Status};
use kernel::prelude::*;

/// A disk on the bus.
pub(crate) struct Disk {
    /// The device.
    pub(crate) device: kernel::sync::Arc<PciDevice>,
    /// Where its sectors are.
    pub(crate) file: BackingFile,
}

/// Bytes of a sector.
const SECTOR_SHIFT: u32 = 9;
/// What direct I/O wants at least.
const DIRECT_ALIGN: u32 = 512;

impl Disk {
    /// Serves the disk until a signal arrives.
    ///
    /// # Errors
    /// `EINTR` on a signal; `EFAULT` when guest memory is gone.
    pub(crate) fn serve<B: Backend>(&self, vm: &Vm<B>) -> Result {
        loop {
            let next = match &mut *self.device.model.lock() {
                Model::Blk(blk) => blk.next(&*vm.space),
                Model::Rng(_) => return Err(EINVAL),
            };
            match next {
                Next::Request(request) => self.carry_out(vm, request)?,
                Next::Answered(msg) | Next::Broken(msg) => send(&vm.chipset, msg),
                Next::NotResident(gpa) => vm.space.fault_in(gpa, true)?,
                Next::Empty | Next::Full => self.device.wait()?,
            }
        }
    }

    fn carry_out<B: Backend>(&self, vm: &Vm<B>, request: Request) -> Result {
        let (status, bytes) = self.transfer(vm, &request);
        let mut request = request;
        loop {
            let done = match &mut *self.device.model.lock() {
                Model::Blk(blk) => blk.complete(&*vm.space, request, status, bytes),
                Model::Rng(_) => return Err(EINVAL),
            };
            match done {
                Ok(msg) => {
                    send(&vm.chipset, msg);
                    return Ok(());
                }
                Err(retry) => {
                    vm.space.fault_in(retry.gpa, true)?;
                    request = retry.request;
                }
            }
        }
    }

    /// Does the I/O. Returns the status and the bytes that a read brought.
    fn transfer<B: Backend>(&self, vm: &Vm<B>, request: &Request) -> (Status, u64) {
        let done = match request.op() {
            Op::Read { sector } => self.move_data(vm, request, sector << SECTOR_SHIFT, false, false),
            Op::Write { sector, durable } => {
                self.move_data(vm, request, sector << SECTOR_SHIFT, true, durable)
            }
            Op::Flush => self.file.sync().map(|()| 0),
            Op::Discard { sector, count } => self.clear(sector, count.into(), true),
            Op::WriteZeroes { sector, count, unmap } => self.clear(sector, count.into(), unmap),
        };
        match done {
            Ok(bytes) => (Status::Ok, bytes),
            Err(_) => (Status::IoErr, 0),
        }
    }

    fn clear(&self, sector: u64, count: u64, deallocate: bool) -> Result<u64> {
        self.file.clear(sector << SECTOR_SHIFT, count << SECTOR_SHIFT, deallocate).map(|()| 0)
    }

    fn move_data<B: Backend>(
        &self,
        vm: &Vm<B>,
        request: &Request,
        pos: u64,
        write: bool,
        sync: bool,
    ) -> Result<u64> {
        let mut failed = None;
        let bytes = if request.is_aligned(DIRECT_ALIGN) {
            let pieces = pieces(vm, request, !write, &mut failed);
            self.file.transfer(pieces, pos, write, sync)?
        } else {
            let mut done = 0u64;
            for (hva, len) in pieces(vm, request, !write, &mut failed) {
                let got = self.file.transfer_copied(hva, len, pos.saturating_add(done), write)?;
                done = done.saturating_add(got);
                if got != len {
                    break;
                }
            }
            if sync {
                self.file.sync()?;
            }
            done
        };
        if failed.is_some() || bytes != request.bytes() {
            return Err(EIO);
        }
        Ok(if write { 0 } else { bytes })
    }
}

/// Returns where a request's data lies in the VMM, split at the ends of memory slots. Stops at what is
/// no memory, and says so in `failed`.
fn pieces<'a, B: Backend>(
    vm: &'a Vm<B>,
    request: &'a Request,
    to_guest: bool,
    failed: &'a mut Option<MemError>,
) -> impl Iterator<Item = (Hva, u64)> + 'a {
    let mut segments = request.data().iter();
    let mut rest = None;
    core::iter::from_fn(move || {
        let (gpa, len) = match rest.take() {
            Some(r) => r,
            None => segments.next().map(|s| (s.gpa, u64::from(s.len)))?,
        };
        let Some((hva, left)) = vm.space.user_range(gpa, to_guest) else {
            *failed = Some(MemError::NoSlot(gpa));
            return None;
        };
        let n = left.min(len);
        if n < len {
            rest = Some((gpa.wrapping_add(n), len.saturating_sub(n)));
        }
        Some((hva, n))
    })
}
