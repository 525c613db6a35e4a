// SPDX-License-Identifier: GPL-2.0

//! The interrupts of a machine: its chips behind their one lock, and the way from them to the local APICs.
//!
//! A message of the APIC bus goes to the mailboxes of the vCPUs whose local APICs it matches, without a lock:
//! [`ChipsetLock::send`]. What an access to the chips comes to is made known before their lock is released:
//! [`ChipsetLock::publish`]. The lock is taken with interrupts off, also by the chips' timer.

use super::clock::MachineTime;
use super::gate::RestGate;
use super::mailbox::{VcpuMailboxes, VcpuRequests};
use super::resample::ResampleEvents;
use crate::arch::time::Ns;
use crate::chipset::bus::{add_heard, BusSignals, ChipBus};
use crate::chipset::lapic::{self, ApicIdentity, Ipi};
use crate::chipset::message::DestMode;
use crate::chipset::pci::{MsixMessage, PciSlot};
use crate::chipset::DestFormat;
use crate::chipset::{ApicMessage, DeliveryMode, PinLevel};
use crate::host::cpu::PinnedCpu;
use crate::host::eventfd::EventFd;
use crate::host::file::WaitQueue;
use crate::host::timer::{DeadlineTimer, OnTimer};
use crate::host::trace;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLockIrq};

/// What came of an access to the chips.
struct Published {
    /// How many local APICs took a message, `None` if there was none.
    taken: Option<u32>,
    /// A resampled GSI whose interrupt ended, maybe one of several: see [`ChipsetLock::signal_ended`].
    ended: Option<u32>,
}

/// The chips of a VM behind one lock, with what the lock's holder needs to pass signals on.
#[pin_data]
pub(crate) struct ChipsetLock {
    /// The first of all, for that is the order in which they are dropped: it fires until then, and looks at the others.
    #[pin]
    timer: DeadlineTimer<ChipsetLock>,
    /// The chips. Taken with interrupts off, also by the timer. What they come to is published before it is
    /// released: [`ChipsetLock::publish`].
    #[pin]
    bus: SpinLockIrq<ChipBus>,
    /// The vCPUs that messages go to.
    pub(crate) vcpus: Arc<VcpuMailboxes>,
    /// Closed while the machine is at rest.
    pub(crate) gate: Arc<RestGate>,
    /// What the chips go by.
    time: Arc<MachineTime>,
    /// The number of the boot processor, which hears the pair.
    boot_cpu: AtomicU32,
    /// Whether the pair's output is high.
    extint: AtomicBool,
    /// The next vCPU to be tried for lowest-priority delivery.
    round_robin: AtomicU32,
    /// The PCI devices whose INTx pin is asserted, a bit each, written under the device's own lock. What is in here and
    /// was not carried to the chips yet is carried by the one who wrote it.
    intx: AtomicU32,
    /// Woken when the console has output or room for input.
    #[pin]
    pub(crate) console: WaitQueue,
    /// Somebody waits for the end of an edge-triggered interrupt: [`ChipBus::awaits_edge_eoi`].
    edge_eoi_awaited: AtomicBool,
    /// Who is told of the ends of interrupts.
    #[pin]
    resample_events: ResampleEvents,
    /// When the timer is armed for; `u64::MAX` when it is not.
    armed_for: AtomicU64,
}

impl ChipsetLock {
    /// No chips yet, which will go by `time`; messages will go to `vcpus`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(vcpus: Arc<VcpuMailboxes>, time: Arc<MachineTime>) -> Result<Arc<ChipsetLock>> {
        let gate = RestGate::new()?;
        let this = Arc::pin_init(
            pin_init!(ChipsetLock {
                bus <- kernel::new_spinlock_irq!(ChipBus::default()),
                vcpus,
                gate,
                time,
                boot_cpu: AtomicU32::new(0),
                extint: AtomicBool::new(false),
                round_robin: AtomicU32::new(0),
                intx: AtomicU32::new(0),
                console <- WaitQueue::new(),
                edge_eoi_awaited: AtomicBool::new(false),
                resample_events <- ResampleEvents::new(),
                armed_for: AtomicU64::new(u64::MAX),
                timer <- DeadlineTimer::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        DeadlineTimer::bind(&this, |c| &c.timer)?;
        Ok(this)
    }

    /// Makes known what the chips come to after an access, on every way out of the lock: sends what it sent, and
    /// tells the vCPUs of the pair's output and the timer of the next deadline.
    fn publish(&self, bus: &mut ChipBus, mut signals: BusSignals) -> Published {
        let mut taken = None;
        while let Some(sent) = bus.take_message(&mut signals) {
            let n = self.send(&sent.message);
            if n == 0 {
                bus.not_accepted(sent);
            }
            taken = add_heard(taken, Some(n));
        }
        let high = bus.intr().is_high();
        // Written here only, under the lock.
        if self.extint.load(Relaxed) != high {
            self.extint.store(high, Release);
            if let (true, Some(bsp)) = (high, self.vcpus.get(self.boot_cpu() as usize)) {
                bsp.request(VcpuRequests::EXTINT);
            }
        }
        debug_assert_eq!(bus.check(), Ok(()));
        self.rearm(bus);
        let ended = if signals.has_ended() { bus.resampled.take_ended() } else { None };
        Published { taken, ended }
    }

    /// Tells who waits for it that the interrupt of a GSI has ended, the first of those that an access has ended. Without
    /// the lock: see `resample.rs`.
    #[cold]
    #[inline(never)]
    fn signal_ended(&self, first: u32) {
        let mut ended = Some(first);
        while let Some(gsi) = ended {
            self.resample_events.signal(gsi);
            ended = self.bus.lock().resampled.take_ended();
        }
    }

    /// Returns the number of the boot processor.
    pub(crate) fn boot_cpu(&self) -> u32 {
        self.boot_cpu.load(Relaxed)
    }

    /// Chooses the boot processor, before there is a vCPU.
    pub(crate) fn set_boot_cpu(&self, id: u32) {
        self.boot_cpu.store(id, Relaxed);
    }

    /// Returns whether the controller pair asserts its output.
    #[inline]
    pub(crate) fn is_extint(&self) -> bool {
        self.extint.load(Relaxed)
    }

    /// Sends a message over the APIC bus. Returns how many local APICs took it.
    pub(crate) fn send(&self, msg: &ApicMessage) -> u32 {
        if let Some(id) = msg.unicast() {
            return u32::from(self.send_to(id, msg));
        }
        if msg.delivery == DeliveryMode::LowestPriority {
            return u32::from(self.send_to_one(msg, |id| lapic::dest::matches(msg, id)));
        }
        let mut taken = 0u32;
        for vcpu in self.vcpus.iter() {
            if lapic::dest::matches(msg, &vcpu.identity()) {
                vcpu.deliver(msg);
                taken = taken.saturating_add(1);
            }
        }
        taken
    }

    /// Sends a message-signalled interrupt of a device, if it is one.
    pub(crate) fn send_msi(&self, msg: MsixMessage) {
        self.signal_msi(msg.addr, msg.data, DestFormat::Narrow);
    }

    /// Sends a message-signalled interrupt. Returns how many local APICs took it; `None`: it is none.
    pub(crate) fn signal_msi(&self, address: u64, data: u32, format: DestFormat) -> Option<u32> {
        trace::msi(|| trace::Msi { address, data });
        Some(self.send(&ApicMessage::from_msi(address, data, format)?))
    }

    /// Notes whether a PCI device asserts its INTx pin; the caller holds the device's lock. Returns whether it is another one
    /// than before: then [`ChipsetLock::settle_intx`] is to follow, without that lock.
    pub(crate) fn note_intx(&self, device: PciSlot, is_asserted: bool) -> bool {
        let before = if is_asserted {
            self.intx.fetch_or(device.bit(), AcqRel)
        } else {
            self.intx.fetch_and(!device.bit(), AcqRel)
        };
        (before & device.bit() != 0) != is_asserted
    }

    /// Carries the INTx pins to the chips, as they are by now.
    pub(crate) fn settle_intx(&self) {
        // Read under the chips' lock: of two who carry at a time, the later carries what holds by then.
        self.with(|bus, _now, out| bus.settle_intx(self.intx.load(Acquire), out));
    }

    /// Drives a GSI from outside the machine. Returns how many controllers and local APICs took it, 0
    /// when it joined a request that waits, `None` when nobody heard it. Any context.
    pub(crate) fn set_gsi(&self, gsi: u32, level: PinLevel) -> Option<u32> {
        let mut bus = self.bus.lock();
        let mut signals = BusSignals::new();
        let mut heard = bus.set_gsi_from_outside(gsi, level, &mut signals);
        if heard.is_none() && level.is_high() {
            heard = self.raise_sint(&bus, gsi);
        }
        // No interrupt ends with it.
        let Published { taken, ended: _ } = self.publish(&mut bus, signals);
        add_heard(heard, taken)
    }

    /// Drives a GSI high and low again. Any context.
    pub(crate) fn pulse_gsi(&self, gsi: u32) {
        self.with(|bus, _now, out| {
            if bus.set_gsi(gsi, PinLevel::High, out).is_none() {
                self.raise_sint(bus, gsi);
            }
            bus.set_gsi(gsi, PinLevel::Low, out);
        });
    }

    /// Raises the source of a synthetic interrupt controller that a GSI is routed to. Returns 1 where a local APIC took it,
    /// `None` where there is no such source, or it is masked.
    #[cold]
    #[inline(never)]
    fn raise_sint(&self, bus: &ChipBus, gsi: u32) -> Option<u32> {
        let (vp_index, sint) = bus.routing.sint(gsi)?;
        let vcpu = self.vcpus.iter().find(|vcpu| vcpu.vp_index() == vp_index)?;
        let vector = vcpu.sints.get(usize::try_from(sint).ok()?)?;
        Some(u32::from(self.interrupt(vcpu.id, vector)))
    }

    /// Raises a vector of one vCPU's local APIC, edge triggered. Returns whether it took that.
    pub(crate) fn interrupt(&self, id: u32, vector: u8) -> bool {
        let (dest_mode, delivery) = (DestMode::Physical, DeliveryMode::Fixed);
        self.send_to(id, &ApicMessage { dest: id, dest_mode, delivery, vector, level: false })
    }

    /// From here on the ends of a GSI's interrupts signal `event`, until [`ChipsetLock::remove_resampler`].
    ///
    /// # Errors
    /// `ENOSPC` for too many, `ENOMEM`.
    pub(crate) fn add_resampler(&self, gsi: u32, event: &Arc<EventFd>) -> Result {
        self.with(|bus, _now, _out| bus.resampled.add_user(gsi))?;
        let added = self.resample_events.add(gsi, event.clone());
        if added.is_err() {
            self.with(|bus, _now, out| bus.remove_resampler(gsi, out));
        }
        added
    }

    /// `event` is not signalled any more once this returns; with the last one of a GSI goes the level that they held.
    pub(crate) fn remove_resampler(&self, gsi: u32, event: &Arc<EventFd>) {
        self.with(|bus, _now, out| bus.remove_resampler(gsi, out));
        self.resample_events.remove(gsi, event);
    }

    /// Asserts a GSI that has a resampler until its interrupt ends. Any context.
    pub(crate) fn assert_resampled(&self, gsi: u32) {
        self.with(|bus, _now, out| {
            bus.assert_resampled(gsi, out);
            self.raise_sint(bus, gsi);
        });
    }

    /// Sends an interprocessor interrupt of vCPU `sender`.
    pub(crate) fn send_ipi(&self, sender: u32, ipi: &Ipi) {
        if let Some(id) = ipi.unicast() {
            self.send_to(id, &ipi.msg);
            return;
        }
        if ipi.msg.delivery == DeliveryMode::LowestPriority {
            self.send_to_one(&ipi.msg, |id| ipi.matches(sender, id));
            return;
        }
        for vcpu in self.vcpus.iter() {
            if ipi.matches(sender, &vcpu.identity()) {
                vcpu.deliver(&ipi.msg);
            }
        }
    }

    /// Returns whether somebody waits for the end of an edge-triggered interrupt, which must be seen then.
    #[inline]
    pub(crate) fn awaits_edge_eoi(&self) -> bool {
        self.edge_eoi_awaited.load(Relaxed)
    }

    /// Sends a message to the one local APIC that it can go to: a vCPU's number is its APIC id. Returns whether it took
    /// it.
    pub(crate) fn send_to(&self, id: u32, msg: &ApicMessage) -> bool {
        let vcpu = usize::try_from(id).ok().and_then(|id| self.vcpus.get(id));
        let taker = vcpu.filter(|vcpu| lapic::dest::matches(msg, &vcpu.identity()));
        if let Some(vcpu) = taker {
            vcpu.deliver(msg);
        }
        taker.is_some()
    }

    /// Sends a message to one of the local APICs that it may go to, each in turn.
    fn send_to_one(&self, msg: &ApicMessage, may_take: impl Fn(&ApicIdentity) -> bool) -> bool {
        let n = self.vcpus.iter().fold(0usize, |n, _| n.wrapping_add(1));
        if n == 0 {
            return false;
        }
        let start = self.round_robin.fetch_add(1, Relaxed) as usize;
        let ring = Iterator::chain(self.vcpus.iter(), self.vcpus.iter());
        let first = start.checked_rem(n).unwrap_or(0);
        for vcpu in ring.skip(first).take(n) {
            if may_take(&vcpu.identity()) {
                vcpu.deliver(msg);
                return true;
            }
        }
        false
    }

    /// Arms the timer for the bus's next deadline.
    fn rearm(&self, bus: &ChipBus) {
        self.edge_eoi_awaited.store(bus.awaits_edge_eoi(), Relaxed);
        let at = bus.deadline().map_or(u64::MAX, |d| d.0);
        if self.armed_for.swap(at, Relaxed) != at {
            // While the time stands still no deadline comes: the host's timer would fire for it again and again.
            if at == u64::MAX || self.time.is_stopped() {
                self.timer.disarm();
            } else {
                self.timer.arm(self.time.to_host(Ns(at)));
            }
        }
    }

    /// Looks at the bus; nothing comes of it.
    pub(crate) fn look_at<R>(&self, f: impl FnOnce(&ChipBus) -> R) -> R {
        f(&self.bus.lock())
    }

    /// Stops the time once what is due has been done. The machine is at rest.
    pub(super) fn stop_time(&self) {
        self.change_time(MachineTime::stop);
    }

    /// Lets the time go on.
    pub(super) fn go_on_time(&self) {
        self.change_time(MachineTime::go_on);
    }

    /// Changes the time under the lock, so that the chips see none go back; does what is due then, and arms the timer
    /// anew.
    fn change_time(&self, change: impl FnOnce(&MachineTime)) {
        let mut bus = self.bus.lock();
        change(&self.time);
        let mut signals = BusSignals::new();
        bus.tick(self.time.now(), &mut signals);
        // No deadline is this one.
        self.armed_for.store(u64::MAX - 1, Relaxed);
        self.publish(&mut bus, signals);
    }

    /// Does something with the bus, and publishes what came of it.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut ChipBus, Ns, &mut BusSignals) -> R) -> R {
        let mut bus = self.bus.lock();
        let mut signals = BusSignals::new();
        let r = f(&mut bus, self.time.now(), &mut signals);
        let Published { taken: _, ended } = self.publish(&mut bus, signals);
        drop(bus);
        if let Some(gsi) = ended {
            self.signal_ended(gsi);
        }
        r
    }

    /// As [`ChipBus::read_timer`], from the run loop: nothing comes of it that would have to be published.
    #[inline(always)]
    pub(crate) fn read_timer(&self, cpu: &PinnedCpu, port: u16, now: impl FnOnce() -> Ns) -> Option<u8> {
        self.bus.lock_with(cpu.irq()).read_timer(port, now)
    }

    /// As [`ChipBus::write_timer`], from the run loop: nothing comes of it either.
    #[inline(always)]
    pub(crate) fn write_timer(
        &self,
        cpu: &PinnedCpu,
        port: u16,
        value: u8,
        now: impl FnOnce() -> Ns,
    ) -> bool {
        self.bus.lock_with(cpu.irq()).write_timer(port, value, now)
    }

    /// As [`ChipsetLock::with`], from the run loop and by its clock.
    pub(crate) fn with_pinned<R>(
        &self,
        cpu: &PinnedCpu,
        now: impl FnOnce() -> Ns,
        f: impl FnOnce(&mut ChipBus, Ns, &mut BusSignals) -> R,
    ) -> R {
        let mut bus = self.bus.lock_with(cpu.irq());
        let mut signals = BusSignals::new();
        let r = f(&mut bus, now(), &mut signals);
        let Published { taken: _, ended } = self.publish(&mut bus, signals);
        drop(bus);
        if let Some(gsi) = ended {
            self.signal_ended(gsi);
        }
        r
    }
}

impl OnTimer for ChipsetLock {
    fn on_timer(&self) {
        // Before the lock is taken: who holds it now would otherwise take the timer for armed.
        self.armed_for.store(u64::MAX, Relaxed);
        self.with(|bus, now, out| bus.tick(now, out));
    }
}
