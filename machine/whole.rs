// SPDX-License-Identifier: GPL-2.0

//! A machine as a whole.

use super::choices::MachineChoices;
use super::clock::MachineClock;
use super::hyperv::HvPartition;
use super::interrupts::ChipsetLock;
use super::ioevent::{IoAddrSpace, IoEvents};
use super::irqchip::IrqchipChoice;
use super::mailbox::{VcpuMailboxes, VcpuRequests};
use super::pci::PciBus;
use super::power::PowerState;
use super::ram::GuestRam;
use super::settings::ModuleSettings;
use crate::host::cpu::PinnedCpu;
use crate::host::eventfd::EventFd;
use crate::host::rcu::RcuBox;
use core::sync::atomic::{AtomicBool, Ordering::*};
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

/// What a guest has, but for its processors.
#[pin_data]
pub(crate) struct GuestMachine {
    /// What the module was loaded with.
    pub(crate) settings: ModuleSettings,
    /// What user space has chosen.
    #[pin]
    pub(crate) choices: MachineChoices,
    /// Guest memory.
    pub(crate) ram: Arc<GuestRam>,
    /// The chips, and messages to local APICs.
    pub(crate) interrupts: Arc<ChipsetLock>,
    /// The mailboxes of the vCPUs.
    pub(crate) mailboxes: Arc<VcpuMailboxes>,
    /// The PCI bus.
    #[pin]
    pub(crate) pci: PciBus,
    /// Writes that signal user space.
    pub(crate) io_events: RcuBox<IoEvents<Arc<EventFd>>>,
    /// Its clocks.
    pub(crate) clock: MachineClock,
    /// What it is as a partition of Hyper-V's.
    #[pin]
    pub(crate) hyperv: HvPartition,
    /// What the guest asked of the platform.
    pub(crate) power: PowerState,
    /// Which interrupt controllers are in the kernel.
    pub(crate) irqchip: IrqchipChoice,
    /// A vCPU has run: what shapes the machine is fixed. Set under `shape`.
    has_run: AtomicBool,
    /// Held while the machine takes its shape; inside the VM's configuration lock, outside all others.
    #[pin]
    shape: Mutex<()>,
}

impl GuestMachine {
    /// A machine with nothing in it, and what others must know of it: its memory and its mailboxes.
    ///
    /// # Errors
    /// `ENOMEM`, `ENODEV` where the TSC's frequency is not known.
    pub(crate) fn new(
        settings: ModuleSettings,
    ) -> Result<(impl PinInit<GuestMachine>, Arc<GuestRam>, Arc<VcpuMailboxes>)> {
        let ram = Arc::pin_init(GuestRam::new(), GFP_KERNEL_ACCOUNT)?;
        let mailboxes = Arc::new(VcpuMailboxes::new(), GFP_KERNEL_ACCOUNT)?;
        let clock = MachineClock::new()?;
        let interrupts = ChipsetLock::new(mailboxes.clone(), clock.time.clone())?;
        let io_events = RcuBox::new(IoEvents::default())?;
        let hyperv = HvPartition::new()?;
        let parts = (ram.clone(), mailboxes.clone());
        let machine = pin_init!(GuestMachine {
            choices <- MachineChoices::new(&settings),
            settings,
            ram,
            interrupts,
            mailboxes,
            pci <- PciBus::new(),
            io_events,
            clock,
            hyperv <- hyperv,
            power: PowerState::new(),
            irqchip: IrqchipChoice::new(),
            has_run: AtomicBool::new(false),
            shape <- new_mutex!(()),
        });
        Ok((machine, parts.0, parts.1))
    }

    /// A vCPU is about to run for the first time: from here on the machine keeps its shape. Waits for a
    /// change that is under way.
    pub(crate) fn start(&self) {
        if !self.has_run.load(Acquire) {
            // Under the lock: a change that found the flag clear is over before the first entry.
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
        place: IoAddrSpace,
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

    /// Lets the guest's paravirtual clock show `ns` when the host's TSC is `tsc`. The VM's configuration lock is held.
    pub(crate) fn set_clock_ns(&self, tsc: u64, ns: u64) {
        self.clock.set_ns(tsc, ns);
        self.hyperv.note_clock_change();
        for vcpu in self.mailboxes.iter() {
            vcpu.request(VcpuRequests::CLOCK);
        }
    }
}
