// SPDX-License-Identifier: GPL-2.0

//! The PCI bus of a machine with its virtio functions.
//!
//! Lock order: [`PciBus::root`] is taken inside a function's lock only while its decoding changes or it is put on the
//! bus; elsewhere it is released before. A queue's kick takes neither: it wakes the worker.

use super::deferred::{DeferredWork, QueueId};
use super::functions::{each_function, PciFunction};
use super::interrupts::ChipsetLock;
use super::mailbox::VcpuRequests;
use super::service::function::{queue_bit, ServiceLeft, VirtioFunction, VirtioService, ALL_QUEUES};
use super::service::worker::KickTarget;
use crate::arch::addr::{AccessWidth, Gpa};
use crate::chipset::pci::{BarHit, ConfigAccess, PciInterrupt, PciRoot, PciSlot};
use crate::chipset::saved::{BadState, StateReader, StateWriter};
use crate::virtio::transport::pci::save::DEVICE_STATE_BYTES;
use crate::virtio::transport::pci::{kick, AccessEffect, VirtioDevice, VirtioPci};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{SetOnce, SpinLockIrq};

/// The device numbers of a bus.
const SLOTS: usize = 32;

/// The bus.
#[pin_data]
pub(crate) struct PciBus {
    #[pin]
    root: SpinLockIrq<Option<PciRoot>>,
    /// There is a host bridge.
    bridged: AtomicBool,
    functions: [SetOnce<PciFunction>; SLOTS],
    /// Functions with queues that wait for [`PciBus::serve_waiting`], a bit each.
    waiting: AtomicU32,
}

impl PciBus {
    /// No bus yet: its ports go to user space.
    pub(crate) fn new() -> impl PinInit<PciBus> {
        pin_init!(PciBus {
            root <- kernel::new_spinlock_irq!(None),
            bridged: AtomicBool::new(false),
            functions: [const { SetOnce::new() }; SLOTS],
            waiting: AtomicU32::new(0),
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

    /// Puts a function on the bus, at `number` or at the next free one for 0. Returns where it is.
    ///
    /// # Errors
    /// `ENODEV` without a host bridge, `EINVAL` for a bad number, and those of [`PciRoot::add`].
    pub(crate) fn add(&self, number: u32, function: PciFunction) -> Result<PciSlot> {
        let wanted = match number {
            0 => None,
            n => Some(u8::try_from(n).ok().and_then(PciSlot::new).ok_or(EINVAL)?),
        };
        let slot = each_function!(&function, s => s.function().with(|model| match &mut *self.root.lock() {
            Some(root) => root.add(wanted, model.config_space()),
            None => Err(ENODEV),
        }))?;
        each_function!(&function, s => s.function().set_slot(slot));
        if let Some(place) = self.functions.get(usize::from(slot.number())) {
            place.populate(function);
        }
        Ok(slot)
    }

    /// Returns the function in a slot.
    pub(crate) fn function(&self, slot: PciSlot) -> Option<&PciFunction> {
        self.functions.get(usize::from(slot.number()))?.as_ref()
    }

    /// Reads a configuration port. `None`: no bus.
    pub(crate) fn port_read(&self, port: u16, width: AccessWidth) -> Option<u32> {
        // The root's lock ends with the statement: the function's lock comes before it.
        let access = self.root.lock().as_ref()?.read(port.wrapping_sub(0xcf8), width);
        Some(match access {
            ConfigAccess::Done(v) => v,
            ConfigAccess::Function { slot, register } => match self.function(slot) {
                Some(f) => each_function!(f, s => read(s.function(), |m| m.config_read(register, width))),
                None => width.mask() as u32,
            },
        })
    }

    /// Writes a configuration port. `None`: no bus.
    pub(crate) fn port_write(&self, port: u16, width: AccessWidth, value: u32) -> Option<DeferredWork> {
        let access = match &mut *self.root.lock() {
            Some(root) => root.write(port.wrapping_sub(0xcf8), width, value),
            None => return None,
        };
        let ConfigAccess::Function { slot, register } = access else { return Some(DeferredWork::None) };
        let Some(f) = self.function(slot) else { return Some(DeferredWork::None) };
        Some(each_function!(f, s => self.write(slot, &**s, |m| m.config_write(register, width, value))))
    }

    fn decode(&self, gpa: Gpa) -> Option<(BarHit, &PciFunction)> {
        let hit = self.root.lock().as_ref()?.decode(gpa)?;
        Some((hit, self.function(hit.slot)?))
    }

    /// Reads a BAR. `None`: no BAR there.
    pub(crate) fn mmio_read(&self, gpa: Gpa, width: AccessWidth) -> Option<u64> {
        let (hit, f) = self.decode(gpa)?;
        Some(each_function!(f, s => read(s.function(), |m| m.bar_read(hit.bar, hit.offset, width))))
    }

    /// Writes a BAR. `None`: no BAR there.
    pub(crate) fn mmio_write(&self, gpa: Gpa, width: AccessWidth, value: u64) -> Option<DeferredWork> {
        let (hit, f) = self.decode(gpa)?;
        // Before the device's lock, which whoever serves a queue may hold just now.
        if let Some(queue) = kick(hit.bar, hit.offset) {
            let kicked = each_function!(f, s => kick_worker(s.function(), hit.slot, queue));
            if kicked.is_some() {
                return kicked;
            }
        }
        Some(
            each_function!(f, s => self.write(hit.slot, &**s, |m| m.bar_write(hit.bar, hit.offset, width, value))),
        )
    }

    /// Carries out a write to a function, and what it sets off.
    fn write<S: VirtioService>(
        &self,
        slot: PciSlot,
        service: &S,
        write: impl FnOnce(&mut VirtioPci<S::Device>) -> AccessEffect,
    ) -> DeferredWork {
        let function = service.function();
        let (queues, interrupt) = function.with(|model| {
            // Nearly every write can move the pin: of the status, the command register, MSI-X's control, a mask.
            let mut interrupt = Some(PciInterrupt::Pin);
            let queues = match write(model) {
                AccessEffect::None => None,
                // What carries a device's data may have to know that the driver's wishes are void.
                AccessEffect::Reset => {
                    function.wake_all();
                    None
                }
                AccessEffect::Kick(queue) => {
                    interrupt = None;
                    Some(Err(queue))
                }
                AccessEffect::Activated | AccessEffect::Configured => {
                    service.configured(model);
                    Some(Ok(()))
                }
                AccessEffect::Broken(told) => {
                    interrupt = told;
                    None
                }
                AccessEffect::Decode => {
                    if let Some(root) = &mut *self.root.lock() {
                        root.update(slot, model.config_space());
                    }
                    drain(&function.interrupts, model);
                    Some(Ok(()))
                }
                AccessEffect::Msix => {
                    drain(&function.interrupts, model);
                    None
                }
            };
            (queues, interrupt)
        });
        function.send(interrupt);
        let queues = match queues {
            None => return DeferredWork::None,
            Some(Ok(())) => ALL_QUEUES,
            Some(Err(queue)) => match kick_worker(function, slot, queue) {
                Some(deferred) => return deferred,
                None => queue_bit(queue),
            },
        };
        function.wake_all();
        if !S::HAS_DEFERRED {
            return DeferredWork::None;
        }
        // The queue's bit first: whoever takes the function's bit counts on finding it.
        function.note_waiting(queues);
        self.waiting.fetch_or(slot_bit(slot.number()), AcqRel);
        DeferredWork::Service
    }

    /// Serves the queue that the vCPU wrote to, in its thread. Sleeps only for memory.
    pub(crate) fn serve_inline(&self, to: QueueId) {
        if let Some(f) = self.function(to.slot) {
            each_function!(f, s => s.serve_inline(to.queue));
        }
    }

    /// Leaves a queue to its worker.
    pub(crate) fn hand_to_worker(&self, to: QueueId) {
        let Some(f) = self.function(to.slot) else { return };
        if let Some(worker) = each_function!(f, s => s.function().worker(to.queue)) {
            worker.wake();
        }
    }

    /// Asks the first vCPU to serve what the function in a slot has noted as waiting.
    pub(crate) fn request_service(&self, interrupts: &ChipsetLock, slot: PciSlot) {
        self.waiting.fetch_or(slot_bit(slot.number()), AcqRel);
        if let Some(vcpu) = interrupts.vcpus.first() {
            vcpu.request(VcpuRequests::SERVICE);
        }
    }

    /// Lets no device take anything of the guest's any more.
    pub(super) fn begin_rest(&self) {
        for f in self.functions.iter().filter_map(|f| f.as_ref()) {
            each_function!(f, s => s.function().begin_rest());
        }
    }

    /// Returns whether no device has anything under way.
    pub(super) fn is_at_rest(&self) -> bool {
        let mut functions = self.functions.iter().filter_map(|f| f.as_ref());
        functions.all(|f| each_function!(f, s => s.function().is_at_rest()))
    }

    /// Lets all devices go on, with a look at all their queues.
    pub(super) fn end_rest(&self) {
        for (number, f) in (0..=u8::MAX).zip(&self.functions) {
            if let Some(f) = f.as_ref() {
                each_function!(f, s => s.function().end_rest());
                self.waiting.fetch_or(slot_bit(number), AcqRel);
            }
        }
    }

    /// Returns how many bytes the state of the bus takes at most.
    pub(super) fn state_room(&self) -> usize {
        let functions = self.functions.iter().filter(|f| f.as_ref().is_some());
        functions.fold(DEVICE_STATE_BYTES, |room, _| room.saturating_add(DEVICE_STATE_BYTES))
    }

    /// Writes the state of root and functions of a machine at rest.
    ///
    /// # Errors
    /// `EBUSY`: it is not at rest.
    pub(super) fn save(&self, out: &mut StateWriter) -> Result {
        if let Some(root) = &*self.root.lock() {
            root.save_root(out);
        }
        for (number, f) in (0..=u8::MAX).zip(&self.functions) {
            if let Some(f) = f.as_ref() {
                each_function!(f, s => s.function().with(|model| {
                    model.quiesced().ok_or(EBUSY).map(|model| model.save(number, out))
                }))?;
            }
        }
        Ok(())
    }

    /// Takes that over, and lets addresses decode as it says.
    ///
    /// # Errors
    /// As [`BadState`].
    pub(super) fn restore(&self, from: &mut StateReader<'_>) -> Result<(), BadState> {
        if let Some(root) = &mut *self.root.lock() {
            root.restore_root(from)?;
        }
        for (number, f) in (0..=u8::MAX).zip(&self.functions) {
            if let (Some(f), Some(slot)) = (f.as_ref(), PciSlot::new(number)) {
                each_function!(f, s => self.restore_function(slot, &**s, from))?;
            }
        }
        Ok(())
    }

    fn restore_function<S: VirtioService>(
        &self,
        slot: PciSlot,
        service: &S,
        from: &mut StateReader<'_>,
    ) -> Result<(), BadState> {
        let function = service.function();
        function.with(|model| {
            let mut quiesced = model.quiesced().ok_or(BadState::Busy)?;
            quiesced.restore(slot.number(), from)?;
            service.configured(model);
            if let Some(root) = &mut *self.root.lock() {
                root.update(slot, model.config_space());
            }
            drain(&function.interrupts, model);
            // The caller settles the pins of all.
            function.note_pin(model);
            Ok(())
        })
    }

    /// Serves the queues without a worker that wait for it, in the vCPU's thread.
    pub(crate) fn serve_waiting(&self) -> ServiceLeft {
        let mut waiting = self.waiting.swap(0, AcqRel);
        while waiting != 0 {
            let number = waiting.trailing_zeros();
            let bit = 1u32.wrapping_shl(number);
            if let Some(f) = self.functions.get(number as usize).and_then(|f| f.as_ref()) {
                let unserved = each_function!(f, s => serve_function(&**s));
                if unserved != ServiceLeft::Nothing {
                    // This one, and those that were not looked at.
                    self.waiting.fetch_or(waiting, AcqRel);
                    return unserved;
                }
            }
            waiting &= !bit;
        }
        ServiceLeft::Nothing
    }
}

/// Serves the queues of a function that wait for it; those that are left wait again.
fn serve_function<S: VirtioService>(service: &S) -> ServiceLeft {
    let queues = service.function().take_waiting();
    let unserved = service.serve_deferred(queues);
    if unserved != ServiceLeft::Nothing {
        service.function().note_waiting(queues);
    }
    unserved
}

/// Sees to a queue that the driver wrote to. Returns what is left to do; `None`: it has no worker.
#[inline]
fn kick_worker<D: VirtioDevice + Unpin>(
    function: &VirtioFunction<D>,
    slot: PciSlot,
    queue: u16,
) -> Option<DeferredWork> {
    Some(match function.kick(queue)? {
        KickTarget::Worker => DeferredWork::None,
        KickTarget::Caller => DeferredWork::Inline(QueueId { slot, queue }),
    })
}

/// Returns the bit of device `number` among those that wait.
fn slot_bit(number: u8) -> u32 {
    1u32.wrapping_shl(number.into())
}

/// Reads from a function, which may bring its INTx pin down.
fn read<D: VirtioDevice + Unpin, R>(
    function: &VirtioFunction<D>,
    read: impl FnOnce(&mut VirtioPci<D>) -> R,
) -> R {
    let (value, is_changed) = function.with(|model| (read(model), function.note_pin(model)));
    if is_changed {
        function.interrupts.settle_intx();
    }
    value
}

fn drain<D: VirtioDevice>(interrupts: &ChipsetLock, model: &mut VirtioPci<D>) {
    while let Some(msg) = model.take_pending() {
        interrupts.send_msi(msg);
    }
}
