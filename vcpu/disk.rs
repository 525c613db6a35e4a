// SPDX-License-Identifier: GPL-2.0

//! Where a virtio disk's requests are carried out: by the worker of each queue, a thread that the VMM lends to
//! the kernel, or by the vCPU that wrote to the queue, in its turn (see [`super::worker`]).
//!
//! The worker takes requests off its queue and starts the transfers between the backing file and guest memory,
//! as many at a time as the device has requests, until a signal ends it. Transfers end in any order,
//! without the thread; each wakes it, and it gives all that have ended back to the guest with one
//! interrupt. Being a thread of the VMM's, it has the VMM's memory, its limits and its end.
//!
//! What cannot be done that way is done by the thread at once: flush, discard and write zeroes, data of
//! odd alignment, and everything where the file does not do asynchronous direct I/O. A vCPU leaves all
//! that has to wait to the worker.
//!
//! The guest may count on order only between a request that was given back and one that it made
//! available after that; a flush makes durable the writes that were given back before. So nothing here
//! waits for other requests, but the writes that a flush is about are in the file when it comes.

use super::backend::Backend;
use super::pci::{Model, PciDevice};
use super::vm::Vm;
use crate::arch::addr::{Gpa, Hva};
use crate::host::blkio::{BackingFile, Place, Started, Transfers};
use crate::host::cpu::PinnedCpu;
use crate::host::file::{signal_pending, Known};
use crate::host::mutex::{new_killable_mutex, KillableMutex};
use crate::machine::memory::{split_at_slots, PinnedRam};
use crate::machine::worker::{Remaining, Worker, MOST_AT_ONCE};
use crate::mmu::mem::MemError;
use crate::virtio::blk::{Blk, Next, Op, Request, Retry, Status};
use crate::virtio::pci::VirtioPci;
use crate::virtio::queue::Fault;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Where a disk's sectors are, and what is under way to and from them.
pub(crate) struct Disk {
    file: Known<BackingFile>,
    /// One for each queue.
    lanes: KVec<Pin<KBox<KillableMutex<Lane>>>>,
}

/// What serves a queue, held by the one that does it now.
struct Lane {
    transfers: Transfers<Request, Arc<Worker>>,
    /// A request that a vCPU has left to the worker.
    left: Option<Request>,
}

/// log2 of the bytes of a sector.
const SECTOR_SHIFT: u32 = 9;
/// Requests that are done one by one after which the guest is told at the latest.
const TOGETHER: u64 = 16;
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

/// A request that was carried out, with its status and the bytes that a read brought.
type Done = (Request, (Status, u64));

/// A queue, and whom it is served for.
struct Side<'a, B: Backend> {
    vm: &'a Vm<B>,
    device: &'a PciDevice,
    queue: u16,
}

impl Disk {
    /// Returns a disk in `file`, with a lane for each worker, for `depth` requests at a time each.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(file: Known<BackingFile>, workers: &[Arc<Worker>], depth: u16) -> Result<Disk> {
        let mut lanes = KVec::with_capacity(workers.len(), GFP_KERNEL_ACCOUNT)?;
        for worker in workers {
            let transfers = Transfers::new(depth, worker.clone())?;
            let lane = new_killable_mutex!(Lane { transfers, left: None }, c"disk::Lane");
            lanes.push_within_capacity(KBox::pin_init(lane, GFP_KERNEL_ACCOUNT)?)?;
        }
        Ok(Disk { file, lanes })
    }

    /// Returns a queue with its lane and its worker. `None`: there is no such queue.
    fn side<'a, B: Backend>(
        &'a self,
        vm: &'a Vm<B>,
        device: &'a PciDevice,
        queue: u16,
    ) -> Option<(Side<'a, B>, &'a KillableMutex<Lane>, &'a Worker)> {
        let lane = self.lanes.get(usize::from(queue))?;
        Some((Side { vm, device, queue }, lane, device.worker(queue)?))
    }

    /// Serves a queue until a signal arrives. Nothing is under way any more when this returns, and the file is
    /// not held any more.
    ///
    /// # Errors
    /// `EINVAL` for a queue that is not there; `EBUSY` for one that another thread serves; `EBADF` where the
    /// file's fd is closed; `EINTR` on a signal; `EFAULT` when guest memory is gone.
    pub(crate) fn serve<B: Backend>(&self, vm: &Vm<B>, device: &PciDevice, queue: u16) -> Result {
        let (side, lane, worker) = self.side(vm, device, queue).ok_or(EINVAL)?;
        worker.alone(|| {
            let file = self.file.get()?;
            lane.lock()?.transfers.lend(file);
            let end = loop {
                let done = lane.lock().and_then(|mut lane| side.work(&mut lane));
                if let Err(e) = done.and_then(|taken| worker.wait(Some(taken))) {
                    break Err(e);
                }
            };
            let mut lane = lane.lock_fully();
            while lane.transfers.wait() {
                // The first error is the one to report.
                let _ = side.give_back(&mut lane);
            }
            drop(lane.transfers.take_back());
            // Whoever is the worker next has to look what this one left.
            worker.wake();
            end
        })
    }

    /// Serves a queue with the thread of the vCPU that wrote to it, as far as that need not wait; the worker
    /// does the rest. Sleeps only for memory.
    pub(crate) fn serve_inline<B: Backend>(&self, vm: &Vm<B>, device: &PciDevice, queue: u16) {
        let Some((side, lane, worker)) = self.side(vm, device, queue) else { return };
        let rest = match lane.try_lock() {
            // While a request is left to the worker, which is on its way, there is no place for another one.
            Some(mut lane) if lane.transfers.is_prompt() && lane.left.is_none() => {
                side.serve_inline(&mut lane)
            }
            _ => Remaining::MayBlock,
        };
        rest.leave_to(worker);
    }
}

impl<B: Backend> Side<'_, B> {
    /// Does what there is to do. Returns how many requests it took out of the queue.
    fn work(&self, lane: &mut Lane) -> Result<u32> {
        let (mut taken, mut untold) = (0u32, 0u64);
        let done = self.work_on(lane, &mut taken, &mut untold);
        self.notify(untold);
        done.map(|()| taken)
    }

    /// As [`Side::work`]; counts in `untold` what was given back and the guest is to be told of.
    fn work_on(&self, lane: &mut Lane, taken: &mut u32, untold: &mut u64) -> Result {
        let mut done = lane.left.take().and_then(|request| self.begin(lane, request, untold));
        loop {
            let stop = self.give_back(lane).err().or_else(|| signal_pending().then_some(ERESTARTSYS));
            if let Some(why) = stop {
                if let Some((request, answer)) = done {
                    self.complete(request, answer)?;
                    *untold = untold.wrapping_add(1);
                }
                return Err(why);
            }
            done = match self.next_after(done, untold)? {
                Next::Request(request) => {
                    *taken = taken.saturating_add(1);
                    self.begin(lane, request, untold)
                }
                Next::Answered(msg) | Next::Broken(msg) => {
                    self.vm.chipset.send_msi(msg);
                    None
                }
                Next::NotResident(gpa) => {
                    self.tell(untold);
                    self.vm.space.fault_in(gpa, true)?;
                    None
                }
                Next::Empty | Next::Full => return Ok(()),
            };
        }
    }

    /// Gives the guest the request that was done, if there is one; takes the next.
    fn next_after(&self, done: Option<Done>, untold: &mut u64) -> Result<Next> {
        let Some((request, (status, bytes))) = done else { return self.next() };
        *untold = untold.wrapping_add(1);
        let both = self.with_blk(|blk, mem| {
            let given = blk.give_back(mem, request, status, bytes)?;
            Ok((given, blk.next(self.queue, mem)))
        })?;
        let next = match both {
            Ok((msg, next)) => {
                self.vm.chipset.send_msi(msg);
                next
            }
            Err(Retry { request, .. }) => {
                self.complete(request, (status, bytes))?;
                self.next()?
            }
        };
        if *untold >= TOGETHER {
            self.tell(untold);
        }
        Ok(next)
    }

    /// Tells the guest of what it was not told of yet.
    fn tell(&self, untold: &mut u64) {
        self.notify(core::mem::take(untold));
    }

    /// Does a little of what there is to do, without waiting.
    fn serve_inline(&self, lane: &mut Lane) -> Remaining {
        let mut given = 0u64;
        let rest = self.take_some(lane, &mut given);
        self.notify(given);
        rest
    }

    fn take_some(&self, lane: &mut Lane, given: &mut u64) -> Remaining {
        for _ in 0..MOST_AT_ONCE {
            let request = match self.next() {
                Ok(Next::Request(request)) => request,
                Ok(Next::Answered(msg) | Next::Broken(msg)) => {
                    self.vm.chipset.send_msi(msg);
                    continue;
                }
                Ok(Next::Empty | Next::Full) => return Remaining::Nothing,
                Ok(Next::NotResident(_)) | Err(_) => return Remaining::MayBlock,
            };
            match self.transfer_now(lane, request) {
                Ok(None) => {}
                Ok(Some((request, answer))) => {
                    if self.complete(request, answer).is_err() {
                        return Remaining::MayBlock;
                    }
                    *given = given.wrapping_add(1);
                }
                Err(request) => {
                    lane.left = Some(request);
                    return Remaining::MayBlock;
                }
            }
        }
        Remaining::Backlog
    }

    fn next(&self) -> Result<Next> {
        self.with_blk(|blk, mem| blk.next(self.queue, mem))
    }

    /// Gives the guest what has ended, with one interrupt.
    #[inline]
    fn give_back(&self, lane: &mut Lane) -> Result {
        if lane.transfers.is_empty() {
            return Ok(());
        }
        self.give_back_ended(lane)
    }

    #[inline(never)]
    fn give_back_ended(&self, lane: &mut Lane) -> Result {
        let mut given = 0u64;
        let mut first_error = Ok(());
        while let Some((request, done)) = lane.transfers.ended() {
            let answer = self.settle(lane, &request, done);
            first_error = first_error.and(self.complete(request, answer));
            given = given.saturating_add(1);
        }
        self.notify(given);
        first_error
    }

    /// Tells the guest of requests that are in the used ring.
    fn notify(&self, given: u64) {
        if given == 0 {
            return;
        }
        COUNTERS.most_given_back.fetch_max(given, Relaxed);
        if let Ok(msg) = self.with_blk(|blk, mem| blk.notify(self.queue, mem)) {
            self.vm.chipset.send_msi(msg);
        }
    }

    /// Puts a request into the used ring; the guest is to be told of it.
    fn complete(&self, request: Request, (status, bytes): (Status, u64)) -> Result {
        let mut request = request;
        loop {
            match self.with_blk(|blk, mem| blk.give_back(mem, request, status, bytes))? {
                Ok(msg) => {
                    self.vm.chipset.send_msi(msg);
                    return Ok(());
                }
                Err(retry) => match self.vm.space.fault_in(retry.gpa, true) {
                    Ok(()) => request = retry.request,
                    Err(e) => {
                        self.abandon(retry.request, retry.gpa);
                        return Err(e);
                    }
                },
            }
        }
    }

    /// Gives up on a request whose ring has gone.
    fn abandon(&self, request: Request, gpa: Gpa) {
        if let Ok(msg) = self.with_blk(|blk, _| blk.abandon(request, Fault::Memory(gpa))) {
            self.vm.chipset.send_msi(msg);
        }
    }

    /// Starts a request, or does it: then it is to be given back with the answer. Whatever may take time
    /// comes after the guest was told of what was done before.
    fn begin(&self, lane: &mut Lane, request: Request, untold: &mut u64) -> Option<Done> {
        let done = match request.op() {
            Op::Read { .. } | Op::Write { .. } => return self.transfer(lane, request, untold),
            Op::Flush => {
                self.tell(untold);
                lane.transfers.file().and_then(BackingFile::sync)
            }
            Op::Discard { sector, count } => {
                self.tell(untold);
                clear(lane, sector, count.into(), true)
            }
            Op::WriteZeroes { sector, count, unmap } => {
                self.tell(untold);
                clear(lane, sector, count.into(), unmap)
            }
        };
        Some((request, (status_of(done.is_ok()), 0)))
    }

    /// Starts a read or a write, or does it.
    fn transfer(&self, lane: &mut Lane, request: Request, untold: &mut u64) -> Option<Done> {
        let mut request = request;
        if *untold != 0 {
            match self.transfer_now(lane, request) {
                Ok(done) => return done,
                Err(later) => request = later,
            }
            self.tell(untold);
        }
        match self.start(lane, request, false) {
            Started::UnderWay => None,
            Started::Ended(request, done) => {
                let answer = self.settle(lane, &request, done);
                Some((request, answer))
            }
        }
    }

    /// As [`Side::transfer`], as far as it need not wait.
    ///
    /// # Errors
    /// The request, where it has to.
    fn transfer_now(&self, lane: &mut Lane, request: Request) -> Result<Option<Done>, Request> {
        let read = match request.op() {
            Op::Read { .. } => request.bytes(),
            Op::Write { .. } => 0,
            Op::Flush | Op::Discard { .. } | Op::WriteZeroes { .. } => return Err(request),
        };
        if !lane.transfers.is_prompt() {
            return Err(request);
        }
        match self.start(lane, request, true) {
            Started::UnderWay => Ok(None),
            Started::Ended(request, Ok(bytes)) if bytes == request.bytes() => {
                Ok(Some((request, (Status::Ok, read))))
            }
            Started::Ended(request, _) => Err(request),
        }
    }

    /// Starts the transfer of a read or a write. `prompt`: only as far as it need not wait.
    fn start(&self, lane: &mut Lane, request: Request, prompt: bool) -> Started<Request> {
        let transfers = &mut lane.transfers;
        let at = Place { prompt, ..place(&request) };
        let mut failed = None;
        let whole = request.is_aligned(DIRECT_ALIGN)
            && transfers.gather(pieces(self.vm, &request, !at.write, &mut failed));
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
    /// did not take it as it was, or only a part. Returns the status and the bytes that a read brought.
    fn settle(&self, lane: &mut Lane, request: &Request, done: Result<u64>) -> (Status, u64) {
        let at = place(request);
        let mut failed = None;
        let again = match &done {
            Ok(bytes) => *bytes != request.bytes(),
            // Direct I/O of another alignment; what could not be done without waiting.
            Err(e) => *e == EINVAL || *e == EAGAIN,
        };
        let done = if again {
            lane.transfers.copy(pieces(self.vm, request, !at.write, &mut failed), request.bytes(), at)
        } else {
            done
        };
        let whole = failed.is_none() && matches!(done, Ok(bytes) if bytes == request.bytes());
        let bytes = if whole && !at.write { request.bytes() } else { 0 };
        (status_of(whole), bytes)
    }

    /// Calls `f` with the device's lock held, and the guest's memory.
    fn with_blk<R>(&self, f: impl FnOnce(&mut VirtioPci<Blk>, &PinnedRam<'_>) -> R) -> Result<R> {
        let cpu = PinnedCpu::pin();
        let mut model = self.device.model.lock_with(cpu.irq());
        match &mut *model {
            Model::Blk(blk) => Ok(f(blk, &self.vm.space.near(&cpu))),
            _ => Err(EINVAL),
        }
    }
}

fn clear(lane: &Lane, sector: u64, count: u64, deallocate: bool) -> Result {
    lane.transfers.file()?.clear(sector << SECTOR_SHIFT, count << SECTOR_SHIFT, deallocate)
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
    Place { pos: sector << SECTOR_SHIFT, write, durable, prompt: false }
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
    let located = split_at_slots(&*vm.space, segments, to_guest);
    located.map_while(|at| at.map_err(|e| *failed = Some(e)).ok())
}
