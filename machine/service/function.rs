// SPDX-License-Identifier: GPL-2.0

//! A virtio function and whoever serves it.
//!
//! The function's registers and queues lie behind one spin lock ([`VirtioFunction`]), typed as the device. A kick
//! needs no lock: it wakes the queue's worker, or says that the vCPU is to serve the queue. A service
//! ([`VirtioService`]) answers three questions:
//!
//! ```text
//! kick(queue)           the driver wrote; in the window           -> Deferred
//! serve_inline(queue)   the vCPU in the place of a queue's worker, out of the window
//! serve_deferred(bits)  queues without a worker, out of the window -> ServiceLeft
//! ```
//!
//! What a worker does in its own thread is each service's own.

use super::worker::{KickTarget, QueueWorker};
use crate::arch::addr::Gpa;
use crate::chipset::pci::{PciInterrupt, PciSlot};
use crate::host::cpu::PinnedCpu;
use crate::machine::interrupts::ChipsetLock;
use crate::machine::memory::PinnedRam;
use crate::machine::ram::GuestRam;
use crate::virtio::transport::pci::{QueueServed, VirtioDevice, VirtioPci};
use core::sync::atomic::{AtomicU64, AtomicU8, AtomicUsize, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLockIrq};

/// The most rounds that a queue is served at a time.
const ROUNDS: u32 = 16;

/// What the service of a queue leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceLeft {
    /// Nothing.
    Nothing,
    /// The same again, after a look at what else the thread has to do.
    More,
    /// The same again, once the page at this address is resident.
    NotResident(Gpa),
}

/// A virtio function of a device type: registers, queues, and who is woken for them.
#[pin_data]
pub(crate) struct VirtioFunction<D> {
    /// The registers and queues.
    #[pin]
    model: SpinLockIrq<VirtioPci<D>>,
    /// Its number on the bus, once it is there.
    number: AtomicU8,
    /// The guest's memory.
    pub(crate) ram: Arc<GuestRam>,
    /// Where its interrupts go.
    pub(crate) interrupts: Arc<ChipsetLock>,
    /// The workers of the first queues; the others are served by the vCPU that writes to them.
    workers: KVec<Arc<QueueWorker>>,
    /// How many of them have a queue, with the driver that there is now.
    kicked: AtomicUsize,
    /// Queues without a worker that wait for service, a bit each; those above share the last.
    waiting: AtomicU64,
}

/// All queues, as bits of those that wait.
pub(crate) const ALL_QUEUES: u64 = u64::MAX;

/// Returns `count` workers in the machine of `interrupts`, each nobody's place yet.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn new_workers(count: usize, interrupts: &ChipsetLock) -> Result<KVec<Arc<QueueWorker>>> {
    let mut workers = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
    for _ in 0..count {
        workers.push_within_capacity(QueueWorker::new(interrupts.gate.clone())?)?;
    }
    Ok(workers)
}

impl<D: VirtioDevice + Unpin> VirtioFunction<D> {
    /// Puts `model` behind its lock.
    pub(crate) fn new(
        model: VirtioPci<D>,
        workers: KVec<Arc<QueueWorker>>,
        ram: Arc<GuestRam>,
        interrupts: Arc<ChipsetLock>,
    ) -> impl PinInit<VirtioFunction<D>> {
        pin_init!(VirtioFunction {
            kicked: AtomicUsize::new(workers.len()),
            model <- kernel::new_spinlock_irq!(model),
            number: AtomicU8::new(0),
            ram,
            interrupts,
            workers,
            waiting: AtomicU64::new(0),
        })
    }

    /// Says where on the bus it is.
    pub(crate) fn set_slot(&self, slot: PciSlot) {
        self.number.store(slot.number(), Relaxed);
    }

    /// Returns its number on the bus, which tells it from others in a trace.
    pub(crate) fn slot(&self) -> u8 {
        self.number.load(Relaxed)
    }

    /// Calls `f` with the lock held.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut VirtioPci<D>) -> R) -> R {
        let mut model = self.model.lock();
        let done = f(&mut model);
        debug_assert_eq!(model.check(), Ok(()));
        done
    }

    /// Calls `f` with the lock held, and the guest's memory.
    #[inline]
    pub(crate) fn with_ram<R>(&self, f: impl FnOnce(&mut VirtioPci<D>, &PinnedRam<'_>) -> R) -> R {
        let cpu = PinnedCpu::pin();
        let mut model = self.model.lock_with(cpu.irq());
        let done = f(&mut model, &self.ram.pinned(&cpu));
        debug_assert_eq!(model.check(), Ok(()));
        done
    }

    /// Sends an interrupt, if there is one. The caller does not hold the lock.
    #[inline]
    pub(crate) fn send(&self, interrupt: Option<PciInterrupt>) {
        match interrupt {
            Some(PciInterrupt::Message(msg)) => self.interrupts.send_msi(msg),
            Some(PciInterrupt::Pin) => self.carry_pin(),
            None => {}
        }
    }

    #[cold]
    fn carry_pin(&self) {
        if self.with(|model| self.note_pin(model)) {
            self.interrupts.settle_intx();
        }
    }

    /// Notes the level of the INTx pin, with the lock held. Returns whether `settle_intx()` is to follow, without it.
    pub(crate) fn note_pin(&self, model: &VirtioPci<D>) -> bool {
        let slot = PciSlot::new(self.slot());
        slot.is_some_and(|slot| self.interrupts.note_intx(slot, model.asserts_pin()))
    }

    /// Returns the worker of a queue.
    pub(crate) fn worker(&self, queue: u16) -> Option<&Arc<QueueWorker>> {
        self.workers.get(usize::from(queue))
    }

    /// Says how many of the workers have a queue.
    pub(crate) fn set_kicked(&self, count: usize) {
        self.kicked.store(count, Relaxed);
    }

    /// Kicks the worker of a queue. `None`: it has none.
    #[inline]
    pub(crate) fn kick(&self, queue: u16) -> Option<KickTarget> {
        let index = usize::from(queue);
        Some(self.workers.get(index).filter(|_| index < self.kicked.load(Relaxed))?.kick())
    }

    /// Says that there may be work in any queue that has a worker.
    pub(crate) fn wake_all(&self) {
        for worker in &self.workers {
            worker.wake();
        }
    }

    /// Notes that queues wait for [`VirtioService::serve_deferred`].
    pub(crate) fn note_waiting(&self, queues: u64) {
        self.waiting.fetch_or(queues, AcqRel);
    }

    /// Takes what was noted.
    pub(crate) fn take_waiting(&self) -> u64 {
        self.waiting.swap(0, AcqRel)
    }

    /// Lets nothing be taken out of the queues any more; the workers finish what is under way.
    pub(crate) fn begin_rest(&self) {
        self.with(|model| model.set_at_rest(true));
        self.wake_all();
    }

    /// Returns whether nothing is under way, and the driver was told of all that was. Stays so, after
    /// [`VirtioFunction::begin_rest`].
    pub(crate) fn is_at_rest(&self) -> bool {
        // In this order: whoever gave the last one back is active until the driver has been told.
        self.with(|model| model.is_quiet()) && self.workers.iter().all(|worker| !worker.is_active())
    }

    /// Lets the queues be served again, and says that there may be work in all of them.
    pub(crate) fn end_rest(&self) {
        self.with(|model| model.set_at_rest(false));
        self.note_waiting(ALL_QUEUES);
        self.wake_all();
    }

    /// Calls `round` until it has nothing more to serve, but not more than [`ROUNDS`] times: other vCPUs can make
    /// work as fast as it is done.
    pub(crate) fn serve(&self, mut round: impl FnMut(&mut VirtioPci<D>) -> QueueServed) -> ServiceLeft {
        for _ in 0..ROUNDS {
            let served = round(&mut self.model.lock());
            // A command may have changed what the workers have to do.
            if !matches!(served, QueueServed::Empty(None)) {
                self.wake_all();
            }
            match served {
                QueueServed::More(msg) => self.send(msg),
                QueueServed::Empty(msg) | QueueServed::Broken(msg) => {
                    self.send(msg);
                    return ServiceLeft::Nothing;
                }
                QueueServed::NotResident(gpa, msg) => {
                    self.send(msg);
                    return ServiceLeft::NotResident(gpa);
                }
            }
        }
        ServiceLeft::More
    }
}

/// Returns the bit of a queue among those that wait.
pub(crate) fn queue_bit(queue: u16) -> u64 {
    1u64.wrapping_shl(u32::from(queue).min(u64::BITS - 1))
}

/// Who serves the queues of a virtio function.
///
/// A service without workers answers only [`VirtioService::serve_deferred`]; most such devices need none of their own,
/// but have [`super::threadless::ThreadlessService`].
pub(crate) trait VirtioService {
    /// The device type.
    type Device: VirtioDevice + Unpin;

    /// Returns the function.
    fn function(&self) -> &VirtioFunction<Self::Device>;

    /// The driver is ready, or has changed the configuration; the lock is held.
    fn configured(&self, _model: &VirtioPci<Self::Device>) {}

    /// Queues without a worker exist.
    const HAS_DEFERRED: bool = true;

    /// Serves a queue with the thread of the vCPU that wrote to it, in the place of its worker, as far as that need
    /// not wait; the worker does the rest. Sleeps only for memory.
    fn serve_inline(&self, _queue: u16) {}

    /// Is the worker of a queue with the calling thread, until a signal arrives, or there is something to tell user
    /// space: why the host failed a request.
    ///
    /// # Errors
    /// `EINVAL` for a queue without a worker; those of the service.
    fn serve(&self, _queue: u16) -> Result<Option<Error>> {
        Err(EINVAL)
    }

    /// Serves queues without a worker in the thread of a vCPU.
    fn serve_deferred(&self, _queues: u64) -> ServiceLeft {
        ServiceLeft::Nothing
    }
}
