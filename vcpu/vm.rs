// SPDX-License-Identifier: GPL-2.0

//! The VM as its vCPUs see it: the address space, the devices, and the way to the other vCPUs.

use super::backend::Backend;
use super::core::VcpuCore;
use super::ioevent::{IoEvents, Place};
use super::outcome::SystemEvent;
use super::pci::Pci;
use super::pv::ClockReference;
use super::pvclock::TscScale;
use super::shared::{deliver, Requests, VcpuShared};
use super::space::{Space, VcpuList};
use crate::arch::addr::Gpa;
use crate::arch::mitigation::HostFlags;
use crate::arch::time::{ratio, Ns};
use crate::chipset::bus::{add_heard, Bus, Signals};
use crate::chipset::lapic::{self, ApicIdentity, Ipi};
use crate::chipset::pm::Request;
use crate::chipset::{ApicMessage, Delivery, Level};
use crate::host::cpu::PinnedCpu;
use crate::host::eventfd::EventFd;
use crate::host::file::WaitQueue;
use crate::host::mitigation;
use crate::host::msr::{has_tsc_aux, Speculation};
use crate::host::notifier::Registered;
use crate::host::rcu::RcuBox;
use crate::host::timer::{self, OnTimer, Timer};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex, SpinLockIrq};

/// The devices behind one lock, with what the lock's holder needs to pass signals on.
#[pin_data]
pub(crate) struct Chipset {
    /// The chips. Taken with interrupts off, also by the timer. What they come to is published before it is
    /// released: [`Chipset::publish`].
    #[pin]
    bus: SpinLockIrq<Bus>,
    /// The vCPUs that messages go to.
    pub(crate) vcpus: VcpuRef,
    /// Whether the pair's output is high.
    extint: AtomicBool,
    /// The next vCPU to be tried for lowest-priority delivery.
    round_robin: AtomicU32,
    /// Woken when the console has output or room for input.
    #[pin]
    pub(crate) console: WaitQueue,
    /// The interval timer has a pulse that waits for the end of the last one.
    timer_waiting: AtomicBool,
    /// When the timer is armed for; `u64::MAX` when it is not.
    armed_for: AtomicU64,
    #[pin]
    timer: Timer<Chipset>,
}

/// The published vCPUs of a VM, kept apart from the space so that it is free of the vendor's type.
pub(crate) type VcpuRef = Arc<VcpuList>;

impl Chipset {
    /// Makes an empty machine.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(vcpus: VcpuRef) -> Result<Arc<Chipset>> {
        let this = Arc::pin_init(
            pin_init!(Chipset {
                bus <- kernel::new_spinlock_irq!(Bus::default()),
                vcpus,
                extint: AtomicBool::new(false),
                round_robin: AtomicU32::new(0),
                console <- WaitQueue::new(),
                timer_waiting: AtomicBool::new(false),
                armed_for: AtomicU64::new(u64::MAX),
                timer <- Timer::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        Timer::bind(&this, |c| &c.timer)?;
        Ok(this)
    }

    /// Makes known what the chips come to after an access, on every way out of the lock: sends what it sent, and
    /// tells the vCPUs of the pair's output and the timer of the next deadline. Returns how many local APICs took a
    /// message, `None` if there was none.
    fn publish(&self, bus: &mut Bus, mut signals: Signals) -> Option<u32> {
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
            if let (true, Some(bsp)) = (high, self.vcpus.get(0)) {
                bsp.request(Requests::EXTINT);
            }
        }
        self.rearm(bus);
        taken
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
        if msg.delivery == Delivery::LowestPriority {
            return u32::from(self.send_to_one(msg, |id| lapic::dest::matches(msg, id)));
        }
        let mut taken = 0u32;
        for vcpu in self.vcpus.iter() {
            if lapic::dest::matches(msg, &vcpu.identity()) {
                deliver(vcpu, msg);
                taken = taken.saturating_add(1);
            }
        }
        taken
    }

    /// Drives a GSI from outside the machine. Returns how many controllers and local APICs took it, 0
    /// when it joined a request that waits, `None` when nobody heard it. Any context.
    pub(crate) fn set_gsi(&self, gsi: u32, level: Level) -> Option<u32> {
        let mut bus = self.bus.lock();
        let mut signals = Signals::new();
        let heard = bus.set_gsi(gsi, level, &mut signals);
        let taken = self.publish(&mut bus, signals);
        add_heard(heard, taken)
    }

    /// Drives a GSI high and low again. Any context.
    pub(crate) fn pulse_gsi(&self, gsi: u32) {
        self.with(|bus, _now, out| {
            bus.set_gsi(gsi, Level::High, out);
            bus.set_gsi(gsi, Level::Low, out);
        });
    }

    /// Sends an interprocessor interrupt of vCPU `sender`.
    pub(crate) fn send_ipi(&self, sender: u32, ipi: &Ipi) {
        if let Some(id) = ipi.unicast() {
            self.send_to(id, &ipi.msg);
            return;
        }
        if ipi.msg.delivery == Delivery::LowestPriority {
            self.send_to_one(&ipi.msg, |id| ipi.matches(sender, id));
            return;
        }
        for vcpu in self.vcpus.iter() {
            if ipi.matches(sender, &vcpu.identity()) {
                deliver(vcpu, &ipi.msg);
            }
        }
    }

    /// Returns whether the interval timer waits for an end of interrupt.
    #[inline]
    pub(crate) fn is_timer_waiting(&self) -> bool {
        self.timer_waiting.load(Relaxed)
    }

    /// Sends a message to the one local APIC that it can go to: a vCPU's number is its APIC id.
    fn send_to(&self, id: u32, msg: &ApicMessage) -> bool {
        let vcpu = usize::try_from(id).ok().and_then(|id| self.vcpus.get(id));
        let taker = vcpu.filter(|vcpu| lapic::dest::matches(msg, &vcpu.identity()));
        if let Some(vcpu) = taker {
            deliver(vcpu, msg);
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
                deliver(vcpu, msg);
                return true;
            }
        }
        false
    }

    /// Arms the timer for the bus's next deadline.
    fn rearm(&self, bus: &Bus) {
        self.timer_waiting.store(bus.is_timer_waiting(), Relaxed);
        let at = bus.deadline().map_or(u64::MAX, |d| d.0);
        if self.armed_for.swap(at, Relaxed) != at {
            if at == u64::MAX {
                self.timer.disarm();
            } else {
                self.timer.arm(Ns(at));
            }
        }
    }

    /// Does something with the bus, and publishes what came of it.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Bus, Ns, &mut Signals) -> R) -> R {
        let mut bus = self.bus.lock();
        let mut signals = Signals::new();
        let r = f(&mut bus, timer::now(), &mut signals);
        self.publish(&mut bus, signals);
        r
    }

    /// As [`Bus::read_timer`], from the run loop: nothing comes of it that would have to be published.
    #[inline(always)]
    pub(crate) fn read_timer(&self, cpu: &PinnedCpu, port: u16, now: impl FnOnce() -> Ns) -> Option<u8> {
        self.bus.lock_with(cpu.irq()).read_timer(port, now)
    }

    /// As [`Bus::write_timer`], from the run loop: nothing comes of it either.
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

    /// As [`Chipset::with`], from the run loop and by its clock.
    pub(crate) fn with_pinned<R>(
        &self,
        cpu: &PinnedCpu,
        now: impl FnOnce() -> Ns,
        f: impl FnOnce(&mut Bus, Ns, &mut Signals) -> R,
    ) -> R {
        let mut bus = self.bus.lock_with(cpu.irq());
        let mut signals = Signals::new();
        let r = f(&mut bus, now(), &mut signals);
        self.publish(&mut bus, signals);
        r
    }
}

impl OnTimer for Chipset {
    fn on_timer(&self) {
        self.armed_for.store(u64::MAX, Relaxed);
        self.with(|bus, now, out| bus.tick(now, out));
    }
}

/// A virtual machine.
#[pin_data]
pub(crate) struct Vm<B: Backend> {
    /// The vendor.
    pub(crate) backend: Arc<B>,
    /// Guest memory; dropped before what it refers to, since its notifier goes first.
    pub(crate) space: Registered<Space<B>>,
    /// The devices.
    pub(crate) chipset: Arc<Chipset>,
    /// The PCI bus.
    #[pin]
    pub(crate) pci: Pci,
    /// Interrupt controllers are in the kernel.
    pub(crate) has_irqchip: AtomicBool,
    /// What the guest asked of the platform, waiting for a vCPU to take it to user space: 0 nothing,
    /// 1 power-off, 2 reset.
    event: AtomicU32,
    /// A vCPU has run: what shapes the machine is fixed. Set under `shape`.
    has_run: AtomicBool,
    /// Held while the machine takes its shape; inside the VM's configuration lock, outside all others.
    #[pin]
    shape: Mutex<()>,
    /// Writes that signal user space.
    pub(crate) io_events: RcuBox<IoEvents<Arc<EventFd>>>,
    /// The guest's TSC at creation minus the host's, so that all vCPUs agree.
    pub(crate) tsc_offset: u64,
    /// Nanoseconds for each tick of the guest's TSC, a 32.32 factor.
    pub(crate) ns_per_tick: u64,
    /// The paravirtual clock.
    pub(crate) clock: ClockReference,
    /// The TSC's frequency, as the guest turns ticks into time.
    pub(crate) tsc_scale: TscScale,
    /// The processor has TSC_AUX.
    pub(crate) has_tsc_aux: bool,
    /// What the processor can do against speculation.
    pub(crate) speculation: Speculation,
    /// What the host's kernel found about its processors.
    pub(crate) host_flags: HostFlags,
    /// Vcpus that run on a CPU after another are kept apart by a barrier.
    pub(crate) separates_guests: bool,
}

impl<B: Backend> Vm<B> {
    /// Makes an empty VM for the calling process.
    ///
    /// # Errors
    /// `ENOMEM`, `EINTR`.
    pub(crate) fn new(backend: Arc<B>) -> Result<Arc<Vm<B>>> {
        let tsc_scale = TscScale::from_khz(timer::tsc_khz()).ok_or(ENODEV)?;
        let vcpus = Arc::new(VcpuList::new(), GFP_KERNEL_ACCOUNT)?;
        let host_flags = mitigation::host_flags();
        let small_code = host_flags.wants_small_code(crate::nx_huge_pages());
        let space = Space::new(&*backend, vcpus.clone(), small_code)?;
        let space = crate::host::notifier::Notifier::register(space)?;
        let chipset = Chipset::new(vcpus)?;
        let io_events = RcuBox::new(IoEvents::default())?;
        Arc::pin_init(
            pin_init!(Vm {
                backend,
                space,
                chipset,
                pci <- Pci::new(),
                has_irqchip: AtomicBool::new(false),
                event: AtomicU32::new(0),
                has_run: AtomicBool::new(false),
                shape <- new_mutex!(()),
                io_events,
                tsc_offset: 0u64.wrapping_sub(timer::rdtsc()),
                ns_per_tick: ratio(1_000_000, u64::from(timer::tsc_khz())),
                clock: ClockReference::new(timer::rdtsc(), 0),
                tsc_scale,
                has_tsc_aux: has_tsc_aux(),
                speculation: Speculation::of_this_cpu(),
                host_flags,
                separates_guests: host_flags.wants_guest_barrier(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns vCPU `id`'s shared part.
    pub(crate) fn vcpu(&self, id: usize) -> Option<&Arc<VcpuShared>> {
        self.space.vcpus.get(id)
    }

    /// A vCPU is about to run for the first time: from here on the machine keeps its shape. Waits for a
    /// change that is under way.
    pub(crate) fn start(&self) {
        if !self.has_run.load(Acquire) {
            let _shape = self.shape.lock();
            self.has_run.store(true, Release);
        }
    }

    /// Changes the shape of a machine in which no vCPU has run, nor will before `change` is done.
    ///
    /// # Errors
    /// `EBUSY` after a vCPU has run; those of `change`.
    pub(crate) fn reshape<R>(&self, change: impl FnOnce() -> Result<R>) -> Result<R> {
        let _shape = self.shape.lock();
        if self.has_run.load(Acquire) {
            return Err(EBUSY);
        }
        change()
    }

    /// A write of `len` bytes that no device takes; `value` returns them. Returns whether it signals user space
    /// instead. `hint` is as [`IoEvents::find_near`] has it.
    #[inline(always)]
    pub(crate) fn signal_write(
        &self,
        cpu: &PinnedCpu,
        place: Place,
        addr: u64,
        (len, value): (u32, impl Fn() -> u64),
        hint: &mut usize,
    ) -> bool {
        let Some(event) = self.io_events.pinned(cpu).find_near(place, addr, len, value, hint) else {
            return false;
        };
        event.signal();
        true
    }

    /// Notes what the guest asked of the platform; the calling vCPU takes it to user space.
    pub(crate) fn note_request(&self, request: Request) {
        let code = match request {
            Request::PowerOff => 1,
            Request::Reset => 2,
        };
        self.event.store(code, Release);
    }

    /// Takes what was noted.
    pub(crate) fn take_event(&self) -> Option<SystemEvent> {
        match self.event.swap(0, AcqRel) {
            1 => Some(SystemEvent::PowerOff),
            2 => Some(SystemEvent::Reset),
            _ => None,
        }
    }

    /// Returns the guest's paravirtual clock in nanoseconds.
    pub(crate) fn clock_ns(&self) -> u64 {
        self.clock.at(timer::rdtsc(), self.tsc_scale)
    }

    /// Sets the guest's paravirtual clock. The VM's configuration lock is held.
    pub(crate) fn set_clock_ns(&self, ns: u64) {
        self.clock.set(timer::rdtsc(), ns);
        for vcpu in self.space.vcpus.iter() {
            vcpu.request(Requests::CLOCK);
        }
    }

    /// Writes the clocks that a vCPU asked for into guest memory.
    ///
    /// # Errors
    /// The address of a page that must be made resident first.
    pub(crate) fn publish_clock(&self, core: &mut VcpuCore<B>) -> Result<(), Gpa> {
        let boot = timer::wall_ns().wrapping_sub(self.clock_ns());
        core.pv.publish(&*self.space, &self.clock, self.tsc_scale, core.tsc_offset, boot)
    }
}
