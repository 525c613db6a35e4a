// SPDX-License-Identifier: GPL-2.0

//! The VM as its vCPUs see it: the address space, the devices, and the way to the other vCPUs.

use super::backend::Backend;
use super::outcome::SystemEvent;
use super::pci::Pci;
use super::pv::ClockReference;
use super::second_level::SecondLevel;
use crate::arch::mitigation::HostFlags;
use crate::arch::time::ratio;
use crate::chipset::pm::Request;
use crate::host::cpu::PinnedCpu;
use crate::host::eventfd::EventFd;
use crate::host::mitigation;
use crate::host::msr::{has_tsc_aux, Speculation};
use crate::host::notifier::Registered;
use crate::host::rcu::RcuBox;
use crate::host::timer;
use crate::machine::interrupts::ChipsetLock;
use crate::machine::ioevent::{IoEvents, Place};
use crate::machine::mailbox::{Mailbox, Mailboxes, Requests};
use crate::machine::pvclock::TscScale;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

/// A virtual machine.
#[pin_data]
pub(crate) struct Vm<B: Backend> {
    /// The vendor.
    pub(crate) backend: Arc<B>,
    /// Guest memory; dropped before what it refers to, since its notifier goes first.
    pub(crate) space: Registered<SecondLevel<B>>,
    /// The devices.
    pub(crate) chipset: Arc<ChipsetLock>,
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
        let vcpus = Arc::new(Mailboxes::new(), GFP_KERNEL_ACCOUNT)?;
        let host_flags = mitigation::host_flags();
        let small_code = host_flags.wants_small_code(crate::nx_huge_pages());
        let space = SecondLevel::new(&*backend, vcpus.clone(), small_code)?;
        let space = crate::host::notifier::Notifier::register(space)?;
        let chipset = ChipsetLock::new(vcpus)?;
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

    /// Returns the mailbox of vCPU `id`.
    pub(crate) fn vcpu(&self, id: usize) -> Option<&Arc<Mailbox>> {
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
}
