// SPDX-License-Identifier: GPL-2.0

//! The workers of a virtio disk: threads that the VMM lends to the kernel, one for each queue.
//!
//! One takes requests off its queue and starts the transfers between the backing file and guest memory,
//! as many at a time as the device has requests, until a signal ends it. Transfers end in any order,
//! without the thread; each wakes it, and it gives all that have ended back to the guest with one
//! interrupt. Being a thread of the VMM's, it has the VMM's memory, its limits and its end.
//!
//! What cannot be done that way is done by the thread at once: flush, discard and write zeroes, data of
//! odd alignment, and everything where the file does not do asynchronous direct I/O.
//!
//! The guest may count on order only between a request that was given back and one that it made
//! available after that; a flush makes durable the writes that were given back before. So nothing here
//! waits for other requests, but the writes that a flush is about are in the file when it comes.

use super::backend::Backend;
use super::pci::{send, Model, PciDevice, Worker};
use super::vm::Vm;
use crate::arch::addr::{Gpa, Hva};
use crate::host::blkio::{BackingFile, Place, Started, Transfers};
use crate::host::file::signal_pending;
use crate::mmu::mem::MemError;
use crate::virtio::blk::{Blk, Next, Op, Request, Status};
use crate::virtio::pci::VirtioPci;
use crate::virtio::queue::Fault;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::prelude::*;

/// A disk on the bus.
pub(crate) struct Disk {
    /// The device.
    pub(crate) device: kernel::sync::Arc<PciDevice>,
    /// Where its sectors are.
    pub(crate) file: BackingFile,
}

/// log2 of the bytes of a sector.
const SECTOR_SHIFT: u32 = 9;
/// What direct I/O wants at least.
const DIRECT_ALIGN: u32 = 512;
/// Counts over all disks since the module was loaded.
pub(crate) struct Counters {
    /// Reads and writes that went on without the worker.
    pub(crate) asynchronous: AtomicU64,
    /// Reads and writes that had ended when the call that starts them returned, or that the worker did
    /// itself.
    pub(crate) synchronous: AtomicU64,
    /// The most that were under way at a time for one queue.
    pub(crate) most_under_way: AtomicU64,
    /// The most that were given back with one interrupt.
    pub(crate) most_given_back: AtomicU64,
}

/// The counts.
pub(crate) static COUNTERS: Counters = Counters {
    asynchronous: AtomicU64::new(0),
    synchronous: AtomicU64::new(0),
    most_under_way: AtomicU64::new(0),
    most_given_back: AtomicU64::new(0),
};

impl Counters {
    /// Writes them down, a name and a number a line.
    pub(crate) fn show(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let Counters { asynchronous, synchronous, most_under_way, most_given_back } = self;
        writeln!(f, "asynchronous {}", asynchronous.load(Relaxed))?;
        writeln!(f, "synchronous {}", synchronous.load(Relaxed))?;
        writeln!(f, "most_under_way {}", most_under_way.load(Relaxed))?;
        writeln!(f, "most_given_back {}", most_given_back.load(Relaxed))
    }
}

/// The requests whose data is being transferred.
type InTransfer<'a> = Transfers<'a, Request>;

impl Disk {
    /// Serves a queue until a signal arrives. Nothing is under way any more when this returns.
    ///
    /// # Errors
    /// `EINVAL` for a queue that is not there; `EINTR` on a signal; `EFAULT` when guest memory is gone.
    pub(crate) fn serve<B: Backend>(&self, vm: &Vm<B>, queue: u16) -> Result {
        let worker = self.device.worker(queue).ok_or(EINVAL)?;
        let depth = self.with_blk(|blk| blk.depth())?;
        self.file.with_transfers(depth, worker.waiting(), |transfers| {
            let end = self.work(vm, queue, worker, transfers);
            while transfers.wait() {
                // The first error is the one to report.
                let _ = self.give_back(vm, queue, transfers);
            }
            // If the VMM lends more threads: another has to look what this one left.
            worker.wake();
            end
        })
    }

    fn work<B: Backend>(
        &self,
        vm: &Vm<B>,
        queue: u16,
        worker: &Worker,
        transfers: &mut InTransfer<'_>,
    ) -> Result {
        loop {
            self.give_back(vm, queue, transfers)?;
            if signal_pending() {
                return Err(ERESTARTSYS);
            }
            match self.with_blk(|blk| blk.next(queue, &*vm.space))? {
                Next::Request(request) => self.begin(vm, transfers, request)?,
                Next::Answered(msg) | Next::Broken(msg) => send(&vm.chipset, msg),
                Next::NotResident(gpa) => vm.space.fault_in(gpa, true)?,
                Next::Empty | Next::Full => worker.wait(|| transfers.has_ended())?,
            }
        }
    }

    /// Gives the guest what has ended, with one interrupt.
    fn give_back<B: Backend>(&self, vm: &Vm<B>, queue: u16, transfers: &mut InTransfer<'_>) -> Result {
        let mut given = 0u64;
        let mut first_error = Ok(());
        while let Some((request, done)) = transfers.ended() {
            let answer = self.settle(vm, transfers, &request, done);
            first_error = first_error.and(self.complete(vm, request, answer, false));
            given = given.saturating_add(1);
        }
        if given != 0 {
            COUNTERS.most_given_back.fetch_max(given, Relaxed);
            self.notify(vm, queue);
        }
        first_error
    }

    fn notify<B: Backend>(&self, vm: &Vm<B>, queue: u16) {
        if let Ok(msg) = self.with_blk(|blk| blk.notify(queue, &*vm.space)) {
            send(&vm.chipset, msg);
        }
    }

    /// Puts a request into the used ring. `tell`: and interrupts the guest; else [`Disk::notify`] is to
    /// follow.
    fn complete<B: Backend>(
        &self,
        vm: &Vm<B>,
        request: Request,
        (status, bytes): (Status, u64),
        tell: bool,
    ) -> Result {
        let mut request = request;
        loop {
            let done = self.with_blk(|blk| {
                if tell {
                    blk.complete(&*vm.space, request, status, bytes)
                } else {
                    blk.give_back(&*vm.space, request, status, bytes)
                }
            })?;
            match done {
                Ok(msg) => {
                    send(&vm.chipset, msg);
                    return Ok(());
                }
                Err(retry) => match vm.space.fault_in(retry.gpa, true) {
                    Ok(()) => request = retry.request,
                    Err(e) => {
                        self.abandon(vm, retry.request, retry.gpa);
                        return Err(e);
                    }
                },
            }
        }
    }

    /// Gives up on a request whose ring has gone.
    fn abandon<B: Backend>(&self, vm: &Vm<B>, request: Request, gpa: Gpa) {
        if let Ok(msg) = self.with_blk(|blk| blk.abandon(request, Fault::Memory(gpa))) {
            send(&vm.chipset, msg);
        }
    }

    /// Starts a request, or does it.
    fn begin<B: Backend>(&self, vm: &Vm<B>, transfers: &mut InTransfer<'_>, request: Request) -> Result {
        let done = match request.op() {
            Op::Read { .. } | Op::Write { .. } => match self.start(vm, transfers, request) {
                Started::UnderWay => return Ok(()),
                Started::Ended(request, done) => {
                    let answer = self.settle(vm, transfers, &request, done);
                    return self.complete(vm, request, answer, true);
                }
            },
            Op::Flush => self.file.sync(),
            Op::Discard { sector, count } => self.clear(sector, count.into(), true),
            Op::WriteZeroes { sector, count, unmap } => self.clear(sector, count.into(), unmap),
        };
        self.complete(vm, request, (status_of(done.is_ok()), 0), true)
    }

    /// Starts the transfer of a read or a write.
    fn start<B: Backend>(
        &self,
        vm: &Vm<B>,
        transfers: &mut InTransfer<'_>,
        request: Request,
    ) -> Started<Request> {
        let at = place(&request);
        let mut failed = None;
        let whole = request.is_aligned(DIRECT_ALIGN)
            && transfers.gather(pieces(vm, &request, !at.write, &mut failed));
        if failed.is_some() {
            return Started::Ended(request, Err(EFAULT));
        }
        let started = if whole { transfers.start(request, at) } else { Started::Ended(request, Err(EINVAL)) };
        match &started {
            Started::UnderWay => {
                COUNTERS.asynchronous.fetch_add(1, Relaxed);
                COUNTERS.most_under_way.fetch_max(transfers.under_way() as u64, Relaxed);
            }
            Started::Ended(..) => {
                COUNTERS.synchronous.fetch_add(1, Relaxed);
            }
        }
        started
    }

    /// Turns the end of a transfer into what the guest is told, and does it another way where the file
    /// did not take it as it was. Returns the status and the bytes that a read brought.
    fn settle<B: Backend>(
        &self,
        vm: &Vm<B>,
        transfers: &mut InTransfer<'_>,
        request: &Request,
        done: Result<u64>,
    ) -> (Status, u64) {
        let at = place(request);
        let mut failed = None;
        let done = match done {
            Err(e) if e == EINVAL => {
                transfers.copy(pieces(vm, request, !at.write, &mut failed), request.bytes(), at)
            }
            done => done,
        };
        let whole = failed.is_none() && matches!(done, Ok(bytes) if bytes == request.bytes());
        let bytes = if whole && !at.write { request.bytes() } else { 0 };
        (status_of(whole), bytes)
    }

    fn clear(&self, sector: u64, count: u64, deallocate: bool) -> Result {
        self.file.clear(sector << SECTOR_SHIFT, count << SECTOR_SHIFT, deallocate)
    }

    /// Calls `f` with the device's lock held.
    fn with_blk<R>(&self, f: impl FnOnce(&mut VirtioPci<Blk>) -> R) -> Result<R> {
        match &mut *self.device.model.lock() {
            Model::Blk(blk) => Ok(f(blk)),
            _ => Err(EINVAL),
        }
    }
}

fn status_of(ok: bool) -> Status {
    if ok {
        Status::Ok
    } else {
        Status::IoErr
    }
}

/// Returns where in the file a read or a write takes place.
fn place(request: &Request) -> Place {
    let (sector, write, durable) = match request.op() {
        Op::Read { sector } => (sector, false, false),
        Op::Write { sector, durable } => (sector, true, durable),
        // These have no data.
        Op::Flush | Op::Discard { .. } | Op::WriteZeroes { .. } => (0, false, false),
    };
    Place { pos: sector << SECTOR_SHIFT, write, durable }
}

/// Returns where a request's data lies in the VMM, split at the ends of memory slots. Stops at what is
/// no memory, and says so in `failed`.
fn pieces<'a, B: Backend>(
    vm: &'a Vm<B>,
    request: &'a Request,
    to_guest: bool,
    failed: &'a mut Option<MemError>,
) -> impl Iterator<Item = (Hva, u64)> + 'a {
    let segments = request.data().iter().map(|s| (s.gpa, u64::from(s.len)));
    Located { vm, segments, rest: None, to_guest }.map_while(|at| at.map_err(|e| *failed = Some(e)).ok())
}

/// Returns where segments of guest memory lie in the VMM, split at the ends of memory slots. Stops at what is
/// no memory.
pub(super) fn split_at_slots<'a, B: Backend>(
    vm: &'a Vm<B>,
    segments: impl Iterator<Item = (Gpa, u64)> + 'a,
    to_guest: bool,
) -> impl Iterator<Item = (Hva, u64)> + 'a {
    Located { vm, segments, rest: None, to_guest }.map_while(Result::ok)
}

/// Segments of guest memory with their places in the VMM.
struct Located<'a, B: Backend, I> {
    vm: &'a Vm<B>,
    segments: I,
    /// What is left of a segment that goes on in another slot.
    rest: Option<(Gpa, u64)>,
    to_guest: bool,
}

impl<B: Backend, I: Iterator<Item = (Gpa, u64)>> Iterator for Located<'_, B, I> {
    type Item = Result<(Hva, u64), MemError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (gpa, len) = self.rest.take().or_else(|| self.segments.next())?;
        let Some((hva, left)) = self.vm.space.user_range(gpa, self.to_guest) else {
            return Some(Err(MemError::NoSlot(gpa)));
        };
        let n = left.min(len);
        if n < len {
            self.rest = Some((gpa.wrapping_add(n), len.saturating_sub(n)));
        }
        Some(Ok((hva, n)))
    }
}
