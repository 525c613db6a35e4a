// SPDX-License-Identifier: GPL-2.0

//! eventfds that raise interrupts (KVM_IRQFD), and that writes of the guest signal (KVM_IOEVENTFD).
//!
//! Documentation of KVM's API, "KVM_IRQFD" and "KVM_IOEVENTFD". An irqfd raises its interrupt in the
//! context of whoever signals it, without a thread, and without a lock of the VM's where it is an MSI. One whose eventfd is closed is forgotten with the
//! next KVM_IRQFD or the VM's fd. One with a resamplefd asserts its GSI until the guest ends the interrupt, which signals
//! that.

use super::user;
use crate::abi::vm as abi;
use crate::chipset::ApicMessage;
use crate::host::eventfd::{EventFd, EventListener, OnEvent};
use crate::machine::interrupts::ChipsetLock;
use crate::machine::ioevent::{IoAddrSpace, IoEventMatch, IoEvents};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::vm::Vm;
use core::mem;
use core::sync::atomic::{AtomicU64, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

/// What an irqfd signals when its interrupt has ended.
struct ResampleFd {
    chipset: Arc<ChipsetLock>,
    gsi: u32,
    event: Arc<EventFd>,
}

impl ResampleFd {
    fn new(chipset: &Arc<ChipsetLock>, gsi: u32, event: EventFd) -> Result<ResampleFd> {
        let event = Arc::new(event, GFP_KERNEL_ACCOUNT)?;
        chipset.add_resampler(gsi, &event)?;
        Ok(ResampleFd { chipset: chipset.clone(), gsi, event })
    }
}

impl Drop for ResampleFd {
    fn drop(&mut self) {
        self.chipset.remove_resampler(self.gsi, &self.event);
    }
}

/// The GSI that an eventfd raises.
pub(super) struct IrqFd {
    chipset: Arc<ChipsetLock>,
    gsi: u32,
    /// The GSI stays asserted until its interrupt has ended.
    resample: Option<ResampleFd>,
    /// The message that it is, as a word; 0 where the chips must be asked.
    message: AtomicU64,
}

impl IrqFd {
    fn new(chipset: &Arc<ChipsetLock>, gsi: u32, resample: Option<ResampleFd>) -> IrqFd {
        let line = IrqFd { chipset: chipset.clone(), gsi, resample, message: AtomicU64::new(0) };
        line.look_up();
        line
    }

    /// Looks up what the GSI is routed to. Under the lock of the lines, so that who looks last looks at the
    /// newest table.
    fn look_up(&self) {
        let message = self.chipset.with(|bus, _now, _out| bus.message(self.gsi));
        self.message.store(message.map_or(0, ApicMessage::pack), Relaxed);
    }
}

impl OnEvent for IrqFd {
    fn on_event(&self) {
        match ApicMessage::unpack(self.message.load(Relaxed)) {
            Some(message) => {
                self.chipset.send(&message);
            }
            None if self.resample.is_some() => self.chipset.assert_resampled(self.gsi),
            None => self.chipset.pulse_gsi(self.gsi),
        }
    }
}

/// Says that the table of routes has changed.
pub(super) fn reroute(lines: &Mutex<IrqFds>) {
    for line in lines.lock().iter() {
        line.target().look_up();
    }
}

/// The irqfds of a VM.
pub(super) type IrqFds = KVec<EventListener<IrqFd>>;

/// Carries KVM_IRQFD out.
///
/// # Errors
/// `EINVAL` for unknown flags, for what is no eventfd, without local APICs, and with a resamplefd without the other
/// controllers; `EBADF`; `EBUSY` for an eventfd that is an irqfd already; `ENOSPC` for too many resamplefds; `EFAULT`,
/// `ENOMEM`.
#[inline(never)]
pub(super) fn irqfd<B: VendorBackend>(vm: &Vm<B>, lines: &Mutex<IrqFds>, arg: u64) -> Result<i64> {
    let a: abi::Irqfd = user::read(arg)?;
    if a.flags & !(abi::IRQFD_DEASSIGN | abi::IRQFD_RESAMPLE) != 0 {
        return Err(EINVAL);
    }
    // The C struct has an unsigned field for what is an int everywhere else.
    let fd = a.fd as i32;
    if a.flags & abi::IRQFD_DEASSIGN != 0 {
        let event = EventFd::get(fd)?;
        replace(&mut lines.lock(), |l| !(l.hears(&event) && l.target().gsi == a.gsi), || Ok(None))?;
        return Ok(0);
    }
    let is_resampled = a.flags & abi::IRQFD_RESAMPLE != 0;
    let has_chips = if is_resampled { vm.machine.irqchip.is_full() } else { vm.machine.irqchip.has_lapics() };
    if !has_chips {
        return Err(EINVAL);
    }
    let chipset = &vm.machine.interrupts;
    let resample = || -> Result<_> {
        if !is_resampled {
            return Ok(None);
        }
        // As KVM: what is wrong with the other one is told first.
        EventFd::get(fd)?;
        ResampleFd::new(chipset, a.gsi, EventFd::get(a.resamplefd as i32)?).map(Some)
    };
    let line = || Ok(Some(EventListener::new(fd, IrqFd::new(chipset, a.gsi, resample()?))?));
    // Made under the lock: if the routes change after its look-up, reroute() comes to it as well.
    replace(&mut lines.lock(), |_| true, line)?;
    Ok(0)
}

/// Keeps the lines that are `wanted` and whose eventfd is open, and adds what `more` returns.
///
/// # Errors
/// `ENOMEM` or what `more` says.
fn replace(
    lines: &mut IrqFds,
    wanted: impl Fn(&EventListener<IrqFd>) -> bool,
    more: impl FnOnce() -> Result<Option<EventListener<IrqFd>>>,
) -> Result {
    let mut kept = KVec::with_capacity(lines.len().saturating_add(1), GFP_KERNEL_ACCOUNT)?;
    // All that can fail, before a line is taken out of the list.
    let more = more()?;
    let open = mem::take(lines).into_iter().filter(|l| !l.is_closed() && wanted(l));
    for line in Iterator::chain(open, more) {
        kept.push_within_capacity(line)?;
    }
    *lines = kept;
    Ok(())
}

/// The ioeventfds of a VM: what the vCPUs have is a copy of it.
pub(super) type IoEventFds = IoEvents<Arc<EventFd>>;

/// Carries KVM_IOEVENTFD out.
///
/// # Errors
/// `EINVAL` for an impossible length, address or flag and for what is no eventfd; `EBADF`; `EEXIST`
/// where a write could be meant for another one too; `ENOENT` for one to be taken back that is not
/// there; `ENOSPC`, `ENOMEM`.
#[inline(never)]
pub(super) fn ioeventfd<B: VendorBackend>(vm: &Vm<B>, writes: &Mutex<IoEventFds>, arg: u64) -> Result<i64> {
    let a: abi::Ioeventfd = user::read(arg)?;
    let is_port = a.flags & abi::IOEVENTFD_PIO != 0;
    let wants_value = a.flags & abi::IOEVENTFD_DATAMATCH != 0;
    let place = if is_port { IoAddrSpace::of_port(a.addr) } else { IoAddrSpace::Memory };
    let wanted = IoEventMatch { place, addr: a.addr, len: a.len, value: wants_value.then_some(a.datamatch) };
    // Before the checks: what cannot be is not found either.
    if a.flags & abi::IOEVENTFD_DEASSIGN != 0 {
        let event = EventFd::get(a.fd)?;
        return change(vm, writes, |t| t.without(wanted, |e| **e == event));
    }
    let known = abi::IOEVENTFD_DATAMATCH | abi::IOEVENTFD_PIO;
    if !matches!(a.len, 0 | 1 | 2 | 4 | 8)
        || a.addr.checked_add(a.len.into()).is_none()
        || a.flags & !known != 0
        || (a.len == 0 && wants_value)
    {
        return Err(EINVAL);
    }
    let event = Arc::new(EventFd::get(a.fd)?, GFP_KERNEL_ACCOUNT)?;
    change(vm, writes, |t| t.with(wanted, event))
}

/// Changes the table and what the vCPUs see of it.
fn change<B: VendorBackend>(
    vm: &Vm<B>,
    writes: &Mutex<IoEventFds>,
    f: impl FnOnce(&IoEventFds) -> Result<IoEventFds>,
) -> Result<i64> {
    let mut writes = writes.lock();
    let changed = f(&writes)?;
    // The vCPUs' copy first: where this fails, both are as they were.
    vm.machine.io_events.replace(changed.try_clone()?)?;
    *writes = changed;
    Ok(0)
}
