// SPDX-License-Identifier: GPL-2.0

//! Where a virtio disk's requests are carried out: by the worker of each queue, a thread that the VMM lends to
//! the kernel, or by the vCPU that wrote to the queue, in its place (see [`super::worker`]).
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
//! What the host cannot carry out is counted. Where user space asked for it, it also ends the worker's system call with the
//! reason, and the request either is an I/O error for the guest or waits for the next such call, which tries it again.
//!
//! The guest may count on order only between a request that was given back and one that it made
//! available after that; a flush makes durable the writes that were given back before. So nothing here
//! waits for other requests, but the writes that a flush is about are in the file when it comes.

use super::function::{new_workers, VirtioFunction, VirtioService};
use super::worker::{QueueWorker, RemainingWork, MOST_AT_ONCE};
use crate::arch::addr::Hva;
use crate::host::blkio::{BackingFile, FilePos, FileTransfers, StartedTransfer};
use crate::host::file::{signal_pending, KnownFile};
use crate::host::mutex::{new_killable_mutex, KillableMutex};
use crate::host::trace;
use crate::machine::counters::DiskCounters;
use crate::machine::interrupts::ChipsetLock;
use crate::machine::memory::split_at_slots;
use crate::machine::ram::GuestRam;
use crate::mmu::mem::MemError;
use crate::virtio::device::blk::{BlkOp, BlkRequest, BlkStatus, NextRequest, NotCompleted, VirtioBlk};
use crate::virtio::queue::QueueFault;
use crate::virtio::transport::pci::VirtioPci;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::prelude::*;
use kernel::sync::Arc;

/// A disk: where its sectors are, and what is under way to and from them.
#[pin_data]
pub(crate) struct BlkService {
    #[pin]
    function: VirtioFunction<VirtioBlk>,
    file: KnownFile<BackingFile>,
    queues: KVec<Pin<KBox<KillableMutex<BlkQueue>>>>,
    counters: &'static DiskCounters,
    failures: HostFailures,
}

/// What becomes of requests that the host cannot carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailurePolicy {
    /// The guest has an I/O error.
    Answer,
    /// The same, and the worker's system call ends with the reason.
    AnswerAndTell,
    /// The worker's system call ends with the reason, and the next one tries again.
    HoldAndTell,
}

/// The requests that the host did not carry out.
struct HostFailures {
    policy: FailurePolicy,
    /// How often that was so.
    count: AtomicU64,
}

/// What serves a queue, held by the one that does it now.
struct BlkQueue {
    transfers: FileTransfers<BlkRequest, Arc<QueueWorker>>,
    /// A request that a vCPU has left to the worker.
    left: Option<BlkRequest>,
    /// Requests that are to be tried again, with room for all that can be under way.
    held: KVec<BlkRequest>,
    /// Why the host failed a request, until user space is told.
    failure: Option<Error>,
}

/// log2 of the bytes of a sector.
const SECTOR_SHIFT: u32 = 9;
/// Requests that are done one by one after which the guest is told at the latest.
const TOGETHER: u64 = 16;
/// What direct I/O wants at least.
const DIRECT_ALIGN: u32 = 512;

/// A request that was carried out, with its status and the bytes that a read brought.
type Done = (BlkRequest, (BlkStatus, u64));

/// A queue that is being served.
struct BlkCx<'a> {
    function: &'a VirtioFunction<VirtioBlk>,
    queue: u16,
    counters: &'static DiskCounters,
    failures: &'a HostFailures,
}

impl BlkService {
    /// Returns the service of `blk`, whose sectors are in `file`, with a worker for each queue.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(
        blk: VirtioPci<VirtioBlk>,
        file: KnownFile<BackingFile>,
        ram: Arc<GuestRam>,
        interrupts: Arc<ChipsetLock>,
        (counters, policy): (&'static DiskCounters, FailurePolicy),
    ) -> Result<Arc<BlkService>> {
        let depth = blk.depth();
        let workers = new_workers(blk.queues().into(), &interrupts)?;
        let mut queues = KVec::with_capacity(workers.len(), GFP_KERNEL_ACCOUNT)?;
        for worker in &workers {
            let transfers = FileTransfers::new(depth, worker.clone())?;
            let held = KVec::with_capacity(depth.into(), GFP_KERNEL_ACCOUNT)?;
            let io = BlkQueue { transfers, left: None, held, failure: None };
            let io = new_killable_mutex!(io, c"BlkQueue");
            queues.push_within_capacity(KBox::pin_init(io, GFP_KERNEL_ACCOUNT)?)?;
        }
        let function = VirtioFunction::new(blk, workers, ram, interrupts);
        let failures = HostFailures { policy, count: AtomicU64::new(0) };
        Arc::pin_init(
            pin_init!(BlkService { function <- function, file, queues, counters, failures }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns a queue with what serves it and its worker. `None`: there is no such queue.
    fn queue(&self, queue: u16) -> Option<(BlkCx<'_>, &KillableMutex<BlkQueue>, &QueueWorker)> {
        let io = self.queues.get(usize::from(queue))?;
        Some((
            BlkCx { function: &self.function, queue, counters: self.counters, failures: &self.failures },
            io,
            self.function.worker(queue)?,
        ))
    }

    /// Returns how often the host could not carry out a request.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.count.load(Relaxed)
    }

    /// Looks whether the file has grown, and tells the guest if so.
    ///
    /// # Errors
    /// `EBADF` where the file's fd is closed.
    pub(crate) fn look_at_size(&self) -> Result {
        let sectors = self.file.get()?.properties()?.bytes >> SECTOR_SHIFT;
        self.function.send(self.function.with(|blk| blk.grow(sectors)));
        Ok(())
    }
}

impl VirtioService for BlkService {
    type Device = VirtioBlk;
    const HAS_DEFERRED: bool = false;

    fn function(&self) -> &VirtioFunction<VirtioBlk> {
        &self.function
    }

    /// Serves a queue until a signal arrives, or the host fails a request and user space is to be told: then returns why
    /// it did. Nothing is under way any more when this returns, and the file is not held any more.
    ///
    /// # Errors
    /// `EINVAL` for a queue that is not there; `EBUSY` for one that another thread serves; `EBADF` where the
    /// file's fd is closed; `EINTR` on a signal; `EFAULT` when guest memory is gone.
    fn serve(&self, queue: u16) -> Result<Option<Error>> {
        let (cx, io, worker) = self.queue(queue).ok_or(EINVAL)?;
        worker.alone(|| {
            let file = self.file.get()?;
            io.lock()?.transfers.lend(file);
            let end = loop {
                let done = io.lock().and_then(|mut io| cx.work(&mut io));
                if let Err(e) = done.and_then(|taken| worker.wait(Some(taken))) {
                    break Err(e);
                }
            };
            let mut io = io.lock_fully();
            // Left here by a vCPU after the last look. Without the file nobody could do it, nor put it back.
            if let Some((request, answer)) = io.left.take().and_then(|left| cx.begin(&mut io, left, &mut 0)) {
                let _ = cx.complete(request, answer);
                cx.notify(1);
            }
            while io.transfers.wait() {
                // The first error is the one to report.
                let _ = cx.complete_ended(&mut io);
            }
            drop(io.transfers.take_back());
            // Whoever is the worker next has to look what this one left.
            worker.wake();
            io.failure.take().map_or(end, |why| Ok(Some(why)))
        })
    }

    fn serve_inline(&self, queue: u16) {
        let Some((cx, io, worker)) = self.queue(queue) else { return };
        let remaining = match io.try_lock() {
            // While a request is left to the worker, which is on its way, there is no place for another one.
            Some(mut io) if io.transfers.is_nowait() && io.left.is_none() => cx.serve_inline(&mut io),
            _ => RemainingWork::MayBlock,
        };
        remaining.leave_to(worker);
    }
}

impl BlkCx<'_> {
    /// Does what there is to do. Returns how many requests it took out of the queue.
    fn work(&self, io: &mut BlkQueue) -> Result<u32> {
        let (mut taken, mut unsignalled) = (0u32, 0u64);
        let done = self.work_on(io, &mut taken, &mut unsignalled);
        self.notify(unsignalled);
        done.map(|()| taken)
    }

    /// As [`BlkCx::work`]; counts in `unsignalled` what was given back and the guest is to be told of.
    fn work_on(&self, io: &mut BlkQueue, taken: &mut u32, unsignalled: &mut u64) -> Result {
        let mut done = io.left.take().and_then(|request| self.begin(io, request, unsignalled));
        loop {
            let ended = self.complete_ended(io).err().or(io.failure);
            let stop = ended.or_else(|| signal_pending().then_some(ERESTARTSYS));
            if let Some(why) = stop {
                // Nobody else knows of this one, so it is given back before the thread leaves.
                if let Some((request, answer)) = done {
                    self.complete(request, answer)?;
                    *unsignalled = unsignalled.wrapping_add(1);
                }
                return Err(why);
            }
            if let (None, Some(request)) = (&done, io.held.pop()) {
                done = self.begin(io, request, unsignalled);
                continue;
            }
            done = match self.next_after(done, unsignalled)? {
                NextRequest::Request(request) => {
                    self.trace_begin(&request);
                    *taken = taken.saturating_add(1);
                    self.begin(io, request, unsignalled)
                }
                NextRequest::Answered(msg) | NextRequest::Broken(msg) => {
                    self.function.send(msg);
                    None
                }
                NextRequest::NotResident(gpa) => {
                    self.signal_used(unsignalled);
                    // After the guest was told of what is done: this may wait for the host's disk.
                    self.function.ram.fault_in(gpa, true)?;
                    None
                }
                NextRequest::Empty | NextRequest::Full => return Ok(()),
            };
        }
    }

    /// Gives the guest the request that was done, if there is one; takes the next.
    fn next_after(&self, done: Option<Done>, unsignalled: &mut u64) -> Result<NextRequest> {
        let Some((request, (status, bytes))) = done else { return Ok(self.next()) };
        self.trace_end(&request, status);
        *unsignalled = unsignalled.wrapping_add(1);
        // Under one hold of the lock, which a busy disk takes for each request.
        let both = self.function.with_ram(|blk, mem| {
            let given = blk.give_back(mem, request, status, bytes)?;
            Ok((given, blk.next(self.queue, mem)))
        });
        let next = match both {
            Ok((msg, next)) => {
                self.function.send(msg);
                next
            }
            Err(NotCompleted { request, .. }) => {
                self.give_back(request, (status, bytes))?;
                self.next()
            }
        };
        if *unsignalled >= TOGETHER {
            self.signal_used(unsignalled);
        }
        Ok(next)
    }

    /// Tells the guest of what it was not told of yet.
    fn signal_used(&self, unsignalled: &mut u64) {
        self.notify(core::mem::take(unsignalled));
    }

    /// Does a little of what there is to do, without waiting.
    fn serve_inline(&self, io: &mut BlkQueue) -> RemainingWork {
        let mut given = 0u64;
        let rest = self.take_some(io, &mut given);
        self.notify(given);
        rest
    }

    fn take_some(&self, io: &mut BlkQueue, given: &mut u64) -> RemainingWork {
        for _ in 0..MOST_AT_ONCE {
            let request = match self.next() {
                NextRequest::Request(request) => {
                    self.trace_begin(&request);
                    request
                }
                NextRequest::Answered(msg) | NextRequest::Broken(msg) => {
                    self.function.send(msg);
                    continue;
                }
                NextRequest::Empty | NextRequest::Full => return RemainingWork::Nothing,
                NextRequest::NotResident(_) => return RemainingWork::MayBlock,
            };
            match self.transfer_now(io, request) {
                Ok(None) => {}
                Ok(Some((request, answer))) => {
                    if self.complete(request, answer).is_err() {
                        return RemainingWork::MayBlock;
                    }
                    *given = given.wrapping_add(1);
                }
                Err(request) => {
                    io.left = Some(request);
                    return RemainingWork::MayBlock;
                }
            }
        }
        RemainingWork::Backlog
    }

    fn next(&self) -> NextRequest {
        self.function.with_ram(|blk, mem| blk.next(self.queue, mem))
    }

    /// Gives the guest what has ended, with one interrupt.
    #[inline]
    fn complete_ended(&self, io: &mut BlkQueue) -> Result {
        if io.transfers.is_empty() {
            return Ok(());
        }
        self.complete_all_ended(io)
    }

    #[inline(never)]
    fn complete_all_ended(&self, io: &mut BlkQueue) -> Result {
        let mut given = 0u64;
        let mut first_error = Ok(());
        while let Some((request, done)) = io.transfers.ended() {
            if let Some((request, answer)) = self.settle(io, request, done) {
                first_error = first_error.and(self.complete(request, answer));
                given = given.saturating_add(1);
            }
        }
        self.notify(given);
        first_error
    }

    /// Tells the guest of requests that are in the used ring.
    fn notify(&self, given: u64) {
        if given == 0 {
            return;
        }
        self.counters.most_given_back.fetch_max(given, Relaxed);
        self.function.send(self.function.with_ram(|blk, mem| blk.notify(self.queue, mem)));
    }

    fn trace_begin(&self, request: &BlkRequest) {
        trace::request_begin(|| trace::RequestBegin {
            slot: self.function.slot().into(),
            queue: self.queue.into(),
            buffer: request.buffer_id().into(),
            kind: request.op().kind(),
            bytes: request.bytes(),
        });
    }

    /// Told before the request is given back: then another CPU may have it again, under the same name.
    fn trace_end(&self, request: &BlkRequest, status: BlkStatus) {
        trace::request_end(|| trace::RequestEnd {
            slot: self.function.slot().into(),
            queue: self.queue.into(),
            buffer: request.buffer_id().into(),
            status: status.byte().into(),
        });
    }

    /// Puts a request into the used ring; the guest is to be told of it.
    fn complete(&self, request: BlkRequest, (status, bytes): (BlkStatus, u64)) -> Result {
        self.trace_end(&request, status);
        self.give_back(request, (status, bytes))
    }

    /// As [`BlkCx::complete`], for a request of whose end the trace knows.
    fn give_back(&self, request: BlkRequest, (status, bytes): (BlkStatus, u64)) -> Result {
        let function = self.function;
        let mut left = Some(request);
        let done = function.ram.until_resident(|| {
            let Some(request) = left.take() else { return Ok(None) };
            function.with_ram(|blk, mem| blk.give_back(mem, request, status, bytes)).map_err(|retry| {
                left = Some(retry.request);
                retry.gpa
            })
        });
        match done {
            Ok(msg) => {
                function.send(msg);
                Ok(())
            }
            Err((why, gpa)) => {
                // The ring has gone, and the request's place in it.
                function.send(
                    left.and_then(|request| {
                        function.with(|blk| blk.abandon(request, QueueFault::Memory(gpa)))
                    }),
                );
                Err(why)
            }
        }
    }

    /// Starts a request, or does it: then it is to be given back with the answer. Whatever may take time
    /// comes after the guest was told of what was done before.
    fn begin(&self, io: &mut BlkQueue, request: BlkRequest, unsignalled: &mut u64) -> Option<Done> {
        let done = match request.op() {
            BlkOp::Read { .. } | BlkOp::Write { .. } => return self.transfer(io, request, unsignalled),
            BlkOp::Flush => {
                self.signal_used(unsignalled);
                io.transfers.file().and_then(BackingFile::sync)
            }
            BlkOp::Discard { sector, count } => {
                self.signal_used(unsignalled);
                clear(io, sector, count.into(), true)
            }
            BlkOp::WriteZeroes { sector, count, unmap } => {
                self.signal_used(unsignalled);
                write_zeroes(io, sector, count.into(), unmap)
            }
        };
        match done {
            Ok(()) => Some((request, (BlkStatus::Ok, 0))),
            Err(e) => self.judge(io, request, NotDone::Host(e)),
        }
    }

    /// Starts a read or a write, or does it.
    fn transfer(&self, io: &mut BlkQueue, request: BlkRequest, unsignalled: &mut u64) -> Option<Done> {
        let mut request = request;
        if *unsignalled != 0 {
            match self.transfer_now(io, request) {
                Ok(done) => return done,
                Err(later) => request = later,
            }
            self.signal_used(unsignalled);
        }
        match self.start(io, request, false) {
            StartedTransfer::UnderWay => None,
            StartedTransfer::Ended(request, done) => self.settle(io, request, done),
        }
    }

    /// As [`BlkCx::transfer`], as far as it need not wait.
    ///
    /// # Errors
    /// The request, where it has to.
    fn transfer_now(&self, io: &mut BlkQueue, request: BlkRequest) -> Result<Option<Done>, BlkRequest> {
        let read = match request.op() {
            BlkOp::Read { .. } => request.bytes(),
            BlkOp::Write { .. } => 0,
            BlkOp::Flush | BlkOp::Discard { .. } | BlkOp::WriteZeroes { .. } => return Err(request),
        };
        if !io.transfers.is_nowait() {
            return Err(request);
        }
        match self.start(io, request, true) {
            StartedTransfer::UnderWay => Ok(None),
            StartedTransfer::Ended(request, Ok(bytes)) if bytes == request.bytes() => {
                Ok(Some((request, (BlkStatus::Ok, read))))
            }
            StartedTransfer::Ended(request, _) => Err(request),
        }
    }

    /// Starts the transfer of a read or a write. `nowait`: only as far as it need not wait.
    fn start(&self, io: &mut BlkQueue, request: BlkRequest, nowait: bool) -> StartedTransfer<BlkRequest> {
        let transfers = &mut io.transfers;
        let at = FilePos { nowait, ..place(&request) };
        let mut failed = None;
        let whole = request.is_aligned(DIRECT_ALIGN)
            && transfers.gather(pieces(&self.function.ram, &request, !at.write, &mut failed));
        if failed.is_some() {
            return StartedTransfer::Ended(request, Err(EFAULT));
        }
        let started =
            if whole { transfers.start(request, at) } else { StartedTransfer::Ended(request, Err(EINVAL)) };
        match &started {
            StartedTransfer::UnderWay => {
                self.counters.asynchronous.fetch_add(1, Relaxed);
                self.counters.max_in_flight.fetch_max(transfers.under_way() as u64, Relaxed);
            }
            StartedTransfer::Ended(..) => {
                self.counters.synchronous.fetch_add(1, Relaxed);
            }
        }
        started
    }

    /// Turns the end of a transfer into what the guest is told, and does it another way where the file
    /// did not take it as it was, or only a part. `None`: the guest is told nothing yet.
    fn settle(&self, io: &mut BlkQueue, request: BlkRequest, done: Result<u64>) -> Option<Done> {
        let at = place(&request);
        let again = match &done {
            Ok(bytes) => *bytes != request.bytes(),
            // Direct I/O of another alignment; what could not be done without waiting.
            Err(e) => *e == EINVAL || *e == EAGAIN,
        };
        let mut failed = None;
        let done = if again {
            let pieces = pieces(&self.function.ram, &request, !at.write, &mut failed);
            io.transfers.copy(pieces, request.bytes(), at)
        } else {
            done
        };
        match done {
            _ if failed.is_some() => self.judge(io, request, NotDone::Guest),
            Ok(bytes) if bytes == request.bytes() => {
                let read = if at.write { 0 } else { bytes };
                Some((request, (BlkStatus::Ok, read)))
            }
            // The file has become shorter.
            Ok(_) => self.judge(io, request, NotDone::Host(EIO)),
            Err(e) => self.judge(io, request, NotDone::Host(e)),
        }
    }

    /// Decides what becomes of a request that was not carried out.
    #[cold]
    fn judge(&self, io: &mut BlkQueue, request: BlkRequest, why: NotDone) -> Option<Done> {
        let failed = (BlkStatus::IoErr, 0);
        let why = match why {
            NotDone::Guest => return Some((request, failed)),
            NotDone::Host(e) => e,
        };
        // The file cannot do such a thing at all: an answer for the guest, and no failure of the host.
        if why == EOPNOTSUPP {
            return Some((request, (BlkStatus::Unsupported, 0)));
        }
        let is_interrupted = why == EINTR || why == ERESTARTSYS;
        // Nothing is wrong with a request that a signal broke off: whoever is the worker next does it. Where there was no
        // signal, a file has made that up (a server of FUSE's can), and would for ever.
        let is_broken_off = is_interrupted && signal_pending();
        let why = if is_interrupted { EIO } else { why };
        if !is_broken_off {
            self.failures.count.fetch_add(1, Relaxed);
            if self.failures.policy != FailurePolicy::Answer {
                io.failure.get_or_insert(why);
            }
        }
        if !is_broken_off && self.failures.policy != FailurePolicy::HoldAndTell {
            return Some((request, failed));
        }
        match io.held.push_within_capacity(request) {
            Ok(()) => None,
            Err(full) => Some((full.0, failed)),
        }
    }
}

/// Why a request was not carried out.
enum NotDone {
    /// Its buffer is no memory.
    Guest,
    /// The host failed.
    Host(Error),
}

fn clear(io: &BlkQueue, sector: u64, count: u64, deallocate: bool) -> Result {
    io.transfers.file()?.clear(sector << SECTOR_SHIFT, count << SECTOR_SHIFT, deallocate)
}

/// Makes sectors read as zeroes, by what the file can do for it.
fn write_zeroes(io: &mut BlkQueue, sector: u64, count: u64, may_deallocate: bool) -> Result {
    // Each way where the file has not the one before; writing works with every file.
    let done = if may_deallocate { clear(io, sector, count, true) } else { Err(EOPNOTSUPP) };
    let done = if done == Err(EOPNOTSUPP) { clear(io, sector, count, false) } else { done };
    match done {
        Err(e) if e == EOPNOTSUPP => io.transfers.write_zeroes(sector << SECTOR_SHIFT, count << SECTOR_SHIFT),
        done => done,
    }
}

/// Returns where in the file a read or a write takes place.
fn place(request: &BlkRequest) -> FilePos {
    let (sector, write, durable) = match request.op() {
        BlkOp::Read { sector } => (sector, false, false),
        BlkOp::Write { sector, durable } => (sector, true, durable),
        // These have no data.
        BlkOp::Flush | BlkOp::Discard { .. } | BlkOp::WriteZeroes { .. } => (0, false, false),
    };
    FilePos { pos: sector << SECTOR_SHIFT, write, durable, nowait: false }
}

/// Returns where a request's data lies in the VMM, split at the ends of memory slots. Stops at what is
/// no memory, and says so in `failed`.
fn pieces<'a>(
    ram: &'a GuestRam,
    request: &'a BlkRequest,
    to_guest: bool,
    failed: &'a mut Option<MemError>,
) -> impl Iterator<Item = (Hva, u64)> + 'a {
    let segments = request.data().iter().map(|s| (s.gpa, u64::from(s.len)));
    let located = split_at_slots(ram, segments, to_guest);
    located.map_while(|at| at.map_err(|e| *failed = Some(e)).ok())
}
