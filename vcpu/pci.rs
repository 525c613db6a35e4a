// SPDX-License-Identifier: GPL-2.0

//! The PCI bus of a VM with its virtio devices.
//!
//! Lock order: [`Pci::root`] and a device's `model` are never held together, but for `root` inside
//! `model` while a function's decoding changes. A queue's kick takes neither: it wakes the worker.

use super::backend::Backend;
use super::disk::Disk;
use super::net::Card;
use super::vm::Vm;
use crate::arch::addr::{Gpa, Width};
use crate::chipset::pci::{BarHit, ConfigAccess, PciRoot, Slot};
use crate::host::random;
use crate::machine::deferred::{Deferred, QueueId};
use crate::machine::interrupts::ChipsetLock;
use crate::machine::mailbox::Requests;
use crate::machine::worker::{KickTarget, Worker};
use crate::mmu::mem::GuestMem;
use crate::virtio::blk::Blk;
use crate::virtio::console::Console;
use crate::virtio::net::Net;
use crate::virtio::pci::{kick, Effect, Served, VirtioPci};
use crate::virtio::rng::Rng;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce, SpinLockIrq};

/// The device numbers of a bus.
const SLOTS: usize = 32;

/// A device model.
pub(crate) enum Model {
    /// Disk.
    Blk(VirtioPci<Blk>),
    /// Network card.
    Net(VirtioPci<Net>),
    /// Entropy source.
    Rng(VirtioPci<Rng>),
    /// Console.
    Console(VirtioPci<Console>),
}

impl Model {
    /// Returns how many of its queues, from the first on, have a worker of their own.
    fn workers(&self) -> usize {
        match self {
            Model::Blk(blk) => usize::from(blk.queues()),
            Model::Net(net) => usize::from(net.max_pairs()).saturating_mul(2),
            Model::Rng(_) | Model::Console(_) => 0,
        }
    }
}

/// Calls the same method of whichever model it is.
macro_rules! each {
    ($model:expr, $d:ident => $e:expr) => {
        match $model {
            Model::Blk($d) => $e,
            Model::Net($d) => $e,
            Model::Rng($d) => $e,
            Model::Console($d) => $e,
        }
    };
}

/// Where the data of a device's queues comes from and goes to.
pub(crate) enum Backing {
    /// The device itself.
    Nothing,
    /// A file.
    Disk(Disk),
    /// A network.
    Card(Card),
}

/// A function on the bus.
#[pin_data]
pub(crate) struct PciDevice {
    /// The registers and queues.
    #[pin]
    pub(crate) model: SpinLockIrq<Model>,
    /// The workers of the first queues; the others are served by the vCPU that writes to them.
    workers: KVec<Arc<Worker>>,
    /// How many of them have a queue, with the driver that there is now.
    kicked: AtomicUsize,
    /// What they work with.
    pub(crate) backing: Backing,
}

impl PciDevice {
    /// Returns the worker of a queue.
    pub(crate) fn worker(&self, queue: u16) -> Option<&Arc<Worker>> {
        self.workers.get(usize::from(queue))
    }

    /// Sees to a queue that the driver wrote to. Returns what is left to do; `None`: it has no worker.
    #[inline]
    fn kick(&self, slot: Slot, queue: u16) -> Option<Deferred> {
        let index = usize::from(queue);
        let worker = self.workers.get(index).filter(|_| index < self.kicked.load(Relaxed))?;
        Some(match worker.kick() {
            KickTarget::Worker => Deferred::None,
            KickTarget::Caller => Deferred::Inline(QueueId { slot, queue }),
        })
    }

    /// Says that there may be work in any queue.
    fn wake_all(&self) {
        for worker in &self.workers {
            worker.wake();
        }
    }

    /// Calls `round` until it has nothing more to serve, but not more than [`ROUNDS`] times: other vCPUs can make
    /// work as fast as it is done.
    fn serve(&self, chipset: &ChipsetLock, mut round: impl FnMut(&mut Model) -> Served) -> Unserved {
        for _ in 0..ROUNDS {
            let served = round(&mut self.model.lock());
            // A command may have changed what the workers have to do.
            if !matches!(served, Served::Empty(None)) {
                self.wake_all();
            }
            match served {
                Served::More(msg) => chipset.send_msi(msg),
                Served::Empty(msg) | Served::Broken(msg) => {
                    chipset.send_msi(msg);
                    return Unserved::Nothing;
                }
                Served::NotResident(gpa, msg) => {
                    chipset.send_msi(msg);
                    return Unserved::NotResident(gpa);
                }
            }
        }
        Unserved::More
    }

    /// Calls `f` with a console's lock held. `None`: it is no console.
    pub(crate) fn with_console<R>(&self, f: impl FnOnce(&mut VirtioPci<Console>) -> R) -> Option<R> {
        match &mut *self.model.lock() {
            Model::Console(console) => Some(f(console)),
            _ => None,
        }
    }

    /// Gives a console's waiting input to the guest, and wakes who waits for output or for room. As
    /// [`Pci::serve`].
    pub(crate) fn serve_console<M: GuestMem>(&self, chipset: &ChipsetLock, mem: &M) -> Unserved {
        let Some(news) = self.with_console(|console| console.take_news()) else { return Unserved::Nothing };
        let unserved = self.serve(chipset, |model| match model {
            Model::Console(console) => console.serve_input(mem),
            _ => Served::Empty(None),
        });
        if news | self.with_console(|console| console.take_news()).unwrap_or(false) {
            chipset.console.wake();
        }
        unserved
    }
}

/// The most rounds that a queue is served at a time.
const ROUNDS: u32 = 16;

/// What the service of a queue leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unserved {
    /// Nothing.
    Nothing,
    /// The same again, after a look at what else the thread has to do.
    More,
    /// The same again, once the page at this address is resident.
    NotResident(Gpa),
}

/// The bus.
#[pin_data]
pub(crate) struct Pci {
    #[pin]
    root: SpinLockIrq<Option<PciRoot>>,
    /// There is a host bridge.
    bridged: AtomicBool,
    devices: [SetOnce<Arc<PciDevice>>; SLOTS],
}

impl Pci {
    /// No bus yet: its ports go to user space.
    pub(crate) fn new() -> impl PinInit<Pci> {
        pin_init!(Pci {
            root <- kernel::new_spinlock_irq!(None),
            bridged: AtomicBool::new(false),
            devices: [const { SetOnce::new() }; SLOTS],
        })
    }

    /// Creates the host bridge with the window that BARs are placed in.
    ///
    /// # Errors
    /// `EBUSY` when there is one.
    pub(crate) fn create(&self, base: u64, bytes: u64) -> Result {
        let mut root = self.root.lock();
        if root.is_some() {
            return Err(EBUSY);
        }
        *root = Some(PciRoot::new(base, bytes));
        self.bridged.store(true, Release);
        Ok(())
    }

    /// Returns whether what no device claims ends at the host bridge, as on a PC: reads give all ones,
    /// writes are lost. Without one, it goes to user space.
    #[inline]
    pub(crate) fn ends_unclaimed(&self) -> bool {
        self.bridged.load(Relaxed)
    }

    /// Puts a device on the bus, at `number` or at the next free one for 0. `backing` makes what its workers
    /// work with.
    ///
    /// # Errors
    /// `ENODEV` without a host bridge, `EINVAL` for a bad number, and those of [`PciRoot::add`] and `backing`.
    pub(crate) fn add(
        &self,
        number: u32,
        mut model: Model,
        backing: impl FnOnce(&[Arc<Worker>]) -> Result<Backing>,
    ) -> Result<Arc<PciDevice>> {
        let wanted = match number {
            0 => None,
            n => Some(u8::try_from(n).ok().and_then(Slot::new).ok_or(EINVAL)?),
        };
        let mut workers = KVec::with_capacity(model.workers(), GFP_KERNEL_ACCOUNT)?;
        for _ in 0..model.workers() {
            workers.push_within_capacity(Worker::new()?)?;
        }
        let backing = backing(&workers)?;
        let slot = {
            let Some(root) = &mut *self.root.lock() else { return Err(ENODEV) };
            each!(&mut model, d => root.add(wanted, d.config_space()))?
        };
        let device = Arc::pin_init(
            pin_init!(PciDevice {
                kicked: AtomicUsize::new(workers.len()),
                model <- kernel::new_spinlock_irq!(model),
                workers,
                backing,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        if let Some(place) = self.devices.get(usize::from(slot.number())) {
            place.populate(device.clone());
        }
        Ok(device)
    }

    fn device(&self, slot: Slot) -> Option<&Arc<PciDevice>> {
        self.devices.get(usize::from(slot.number()))?.as_ref()
    }

    /// Reads a configuration port. `None`: no bus.
    pub(crate) fn port_read(&self, port: u16, width: Width) -> Option<u32> {
        let access = self.root.lock().as_ref()?.read(port.wrapping_sub(0xcf8), width);
        Some(match access {
            ConfigAccess::Done(v) => v,
            ConfigAccess::Function { slot, register } => match self.device(slot) {
                Some(d) => each!(&mut *d.model.lock(), m => m.config_read(register, width)),
                None => width.mask() as u32,
            },
        })
    }

    /// Writes a configuration port. `None`: no bus.
    pub(crate) fn port_write(
        &self,
        chipset: &ChipsetLock,
        port: u16,
        width: Width,
        value: u32,
    ) -> Option<Deferred> {
        let access = match &mut *self.root.lock() {
            Some(root) => root.write(port.wrapping_sub(0xcf8), width, value),
            None => return None,
        };
        if let ConfigAccess::Function { slot, register } = access {
            if let Some(d) = self.device(slot) {
                let mut model = d.model.lock();
                let effect = each!(&mut *model, m => m.config_write(register, width, value));
                return Some(self.apply(chipset, slot, d, &mut model, effect));
            }
        }
        Some(Deferred::None)
    }

    fn decode(&self, gpa: Gpa) -> Option<(BarHit, &Arc<PciDevice>)> {
        let hit = self.root.lock().as_ref()?.decode(gpa)?;
        Some((hit, self.device(hit.slot)?))
    }

    /// Reads a BAR. `None`: no BAR there.
    pub(crate) fn mmio_read(&self, gpa: Gpa, width: Width) -> Option<u64> {
        let (hit, device) = self.decode(gpa)?;
        Some(each!(&mut *device.model.lock(), m => m.bar_read(hit.bar, hit.offset, width)))
    }

    /// Writes a BAR. `None`: no BAR there.
    pub(crate) fn mmio_write(
        &self,
        chipset: &ChipsetLock,
        gpa: Gpa,
        width: Width,
        value: u64,
    ) -> Option<Deferred> {
        let (hit, device) = self.decode(gpa)?;
        let kicked = kick(hit.bar, hit.offset).and_then(|queue| device.kick(hit.slot, queue));
        if kicked.is_some() {
            return kicked;
        }
        let mut model = device.model.lock();
        let effect = each!(&mut *model, m => m.bar_write(hit.bar, hit.offset, width, value));
        Some(self.apply(chipset, hit.slot, device, &mut model, effect))
    }

    /// Carries out what an access to a device set off.
    fn apply(
        &self,
        chipset: &ChipsetLock,
        slot: Slot,
        d: &PciDevice,
        model: &mut Model,
        effect: Effect,
    ) -> Deferred {
        match effect {
            Effect::None => return Deferred::None,
            // What carries a device's data may have to know that the driver's wishes are void.
            Effect::Reset => {
                d.wake_all();
                return Deferred::None;
            }
            Effect::Kick(queue) => {
                if let Some(deferred) = d.kick(slot, queue) {
                    return deferred;
                }
            }
            Effect::Activated | Effect::Configured => {
                if let Model::Net(net) = &*model {
                    d.kicked.store(net.carriers().into(), Relaxed);
                }
            }
            Effect::Broken(msg) => {
                chipset.send_msi(msg);
                return Deferred::None;
            }
            Effect::Decode => {
                if let Some(root) = &mut *self.root.lock() {
                    each!(&mut *model, m => root.update(slot, m.config_space()));
                }
                drain(chipset, model);
            }
            Effect::Msix => {
                drain(chipset, model);
                return Deferred::None;
            }
        }
        d.wake_all();
        match model {
            Model::Blk(_) => Deferred::None,
            Model::Net(_) | Model::Rng(_) | Model::Console(_) => Deferred::Service,
        }
    }

    /// Serves the queue that the vCPU wrote to, in its thread. Sleeps only for memory.
    pub(crate) fn serve_inline<B: Backend>(&self, vm: &Vm<B>, to: QueueId) {
        let Some(device) = self.device(to.slot) else { return };
        match &device.backing {
            Backing::Nothing => {}
            Backing::Disk(disk) => disk.serve_inline(vm, device, to.queue),
            Backing::Card(card) => card.serve_inline(vm, device, to.queue),
        }
    }

    /// Leaves a queue to its worker.
    pub(crate) fn hand_to_worker(&self, to: QueueId) {
        if let Some(worker) = self.device(to.slot).and_then(|d| d.worker(to.queue)) {
            worker.wake();
        }
    }

    /// Asks the first vCPU to call [`Pci::serve`].
    pub(crate) fn request_service(&self, chipset: &ChipsetLock) {
        if let Some(vcpu) = chipset.vcpus.get(0) {
            vcpu.request(Requests::SERVICE);
        }
    }

    /// Serves the devices that have no worker, in the vCPU's thread.
    pub(crate) fn serve<M: GuestMem>(&self, chipset: &ChipsetLock, mem: &M) -> Unserved {
        for device in self.devices.iter().filter_map(|d| d.as_ref()) {
            let mut unserved = device.serve(chipset, |model| match model {
                Model::Rng(rng) => rng.serve(mem, random::fill),
                Model::Net(net) => net.serve_control(mem),
                Model::Console(console) => console.serve_output(mem),
                Model::Blk(_) => Served::Empty(None),
            });
            if unserved == Unserved::Nothing {
                unserved = device.serve_console(chipset, mem);
            }
            if unserved != Unserved::Nothing {
                return unserved;
            }
        }
        Unserved::Nothing
    }
}

fn drain(chipset: &ChipsetLock, model: &mut Model) {
    while let Some(msg) = each!(&mut *model, m => m.take_pending()) {
        chipset.send_msi(Some(msg));
    }
}
