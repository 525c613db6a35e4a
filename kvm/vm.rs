// SPDX-License-Identifier: GPL-2.0

//! A VM's fd.

use super::coalesced::CoalescedWrites;
use super::device::DeviceFile;
use super::enable_cap::{self, ChosenCaps};
use super::observe::{ObservedHost, VmWatch};
use super::state::RestState;
use super::stats::StatsFile;
use super::vcpu::VcpuFile;
use super::{caps, dirty_log, dirty_ring, eventfd, hyperv, irqchip, user};
use crate::abi::{nr, vm as abi};
use crate::arch::addr::{Gpa, Hva};
use crate::chipset::ioapic::Ioapic;
use crate::chipset::pic::Pic;
use crate::chipset::pit::Pit;
use crate::chipset::routing::GsiRouting;
use crate::chipset::PinLevel;
use crate::host::file::{self, AnonFile, PreparedFile};
use crate::host::mutex::{new_killable_mutex, KillableMutex};
use crate::host::timer::{self, HostMoment};
use crate::machine::devices::DeviceHandle;
use crate::machine::irqchip::IrqchipMode;
use crate::machine::settings::ModuleSettings;
use crate::mmu::slots::SlotRequest;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::vm::Vm;
use kernel::fmt::Formatter;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

/// Where messages to local APICs go, and the part of the address that says to which. SDM, "Message Address Register
/// Format".
const MSI_BASE: u64 = 0xfee0_0000;
const MSI_OFFSET: u64 = 0xf_ffff;

/// What KVM_SET_NR_MMU_PAGES takes at least.
const MIN_MMU_PAGES: u64 = 64;

/// What is guarded by the VM's configuration lock, the outermost one.
struct VmConfig<B: VendorBackend> {
    vcpus: usize,
    chosen: ChosenCaps,
    rest: RestState<B>,
}

/// The file behind a VM's fd.
#[pin_data]
pub(crate) struct VmFile<B: VendorBackend> {
    vm: Arc<Vm<B>>,
    watch: Arc<VmWatch>,
    coalesced: Arc<CoalescedWrites>,
    #[pin]
    config: KillableMutex<VmConfig<B>>,
    /// Dropped with the fd, so that no interrupt is raised from outside afterwards.
    #[pin]
    irqfds: Mutex<eventfd::IrqFds>,
    #[pin]
    ioeventfds: Mutex<eventfd::IoEventFds>,
}

impl<B: VendorBackend> VmFile<B> {
    /// Makes an empty VM.
    ///
    /// # Errors
    /// `ENOMEM`, `EINTR`.
    pub(super) fn new(
        backend: Arc<B>,
        settings: ModuleSettings,
        observed: Arc<ObservedHost>,
    ) -> Result<Arc<VmFile<B>>> {
        let (vm, watch) = (Vm::new(backend, settings)?, VmWatch::new(observed)?);
        let coalesced = CoalescedWrites::new()?;
        let config = VmConfig { vcpus: 0, chosen: ChosenCaps::default(), rest: RestState::none() };
        Arc::pin_init(
            pin_init!(VmFile {
                vm,
                watch,
                coalesced,
                config <- new_killable_mutex!(config, c"VmFile::config"),
                irqfds <- new_mutex!(KVec::new()),
                ioeventfds <- new_mutex!(eventfd::IoEventFds::default()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Names the VM after the fd that it is about to have.
    pub(super) fn set_name(&self, fd: u32) {
        self.watch.set_name(fd);
    }

    #[inline(never)]
    fn create_vcpu(&self, id: u64) -> Result<i64> {
        let mut config = self.config.lock()?;
        config.chosen.settle_vcpu_id(id)?;
        let id = usize::try_from(id).map_err(|_| EINVAL)?;
        if self.vm.machine.mailboxes.get(id).is_some() {
            return Err(EEXIST);
        }
        let vcpu = VcpuFile::new(self.vm.clone(), self.watch.clone(), self.coalesced.clone(), id)?;
        self.vm.machine.mailboxes.make_room(id)?;
        // Nothing may fail once the machine has it, or nobody could make it again.
        let file = PreparedFile::new(vcpu.clone())?;
        vcpu.show_ring()?;
        vcpu.set_order(config.vcpus);
        if !vcpu.publish() {
            return Err(EEXIST);
        }
        config.vcpus = config.vcpus.saturating_add(1);
        Ok(file.install())
    }

    #[inline(never)]
    fn set_memory(&self, r: abi::UserspaceMemoryRegion) -> Result<i64> {
        if !self.vm.space.is_current() {
            return Err(EIO);
        }
        let request = SlotRequest {
            slot: r.slot,
            flags: r.flags,
            gpa: Gpa(r.guest_phys_addr),
            size_bytes: r.memory_size,
            hva: Hva(r.userspace_addr),
        };
        let _config = self.config.lock()?;
        self.vm.space.change_slots(&request)?;
        Ok(0)
    }

    fn set_memory2(&self, r: abi::UserspaceMemoryRegion2) -> Result<i64> {
        self.set_memory(abi::UserspaceMemoryRegion {
            slot: r.slot,
            flags: r.flags,
            guest_phys_addr: r.guest_phys_addr,
            memory_size: r.memory_size,
            userspace_addr: r.userspace_addr,
        })
    }

    #[inline(never)]
    fn create_irqchip(&self) -> Result<i64> {
        let config = self.config.lock()?;
        if self.vm.machine.irqchip.has_lapics() {
            return Err(EEXIST);
        }
        // A vCPU is made with a local APIC or without, for good.
        if config.vcpus != 0 {
            return Err(EINVAL);
        }
        // Allocated before the spin lock is taken, and what it replaces is freed after.
        let mut routing = GsiRouting::identity()?;
        // KVM_CAP_X2APIC_API may have been enabled before there is a chip to be told.
        let format = self.vm.machine.choices.msi_format().narrow();
        self.vm.machine.interrupts.with(|bus, _now, _out| {
            bus.pic = Some(Pic::new());
            bus.ioapic = Some(Ioapic::new(0, format));
            core::mem::swap(&mut bus.routing, &mut routing);
        });
        // Last, for whoever sees it counts on the chips.
        self.vm.machine.irqchip.choose(IrqchipMode::Full);
        Ok(0)
    }

    #[inline(never)]
    fn enable_cap(&self, cap: &abi::EnableCap) -> Result<i64> {
        let mut config = self.config.lock()?;
        let vcpus = config.vcpus;
        enable_cap::enable(&self.vm, &mut config.chosen, vcpus, &self.irqfds, cap)
    }

    #[inline(never)]
    fn set_msr_filter(&self, filter: &abi::MsrFilter) -> Result<i64> {
        let _config = self.config.lock()?;
        enable_cap::set_msr_filter(&self.vm, filter)
    }

    fn set_boot_cpu(&self, id: u64) -> Result<i64> {
        let config = self.config.lock()?;
        enable_cap::set_boot_cpu(&self.vm, &config.chosen, config.vcpus, id)
    }

    /// `flags` are those of KVM_CREATE_PIT2: without the speaker, its port is left to user space.
    #[inline(never)]
    fn create_pit(&self, flags: u32) -> Result<i64> {
        let _config = self.config.lock()?;
        self.vm.machine.interrupts.with(|bus, _now, _out| {
            if bus.pic.is_none() {
                return Err(ENOENT);
            }
            if bus.pit.is_some() {
                return Err(EEXIST);
            }
            bus.pit = Some(Pit::new());
            bus.leaves_speaker = flags & abi::PIT_SPEAKER_DUMMY == 0;
            Ok(0)
        })
    }

    /// Returns how many took it, 0 where it joined an interrupt that waits, or -1 where nobody heard it.
    fn irq_line(&self, irq: u32, level: u32) -> Result<i64> {
        if !self.vm.machine.irqchip.has_lapics() {
            return Err(ENXIO);
        }
        let heard = self.vm.machine.interrupts.set_gsi(irq, PinLevel::from(level != 0));
        Ok(heard.map_or(i64::from(abi::IRQ_STATUS_IGNORED), i64::from))
    }

    /// As KVM_IRQ_LINE, and says what became of it.
    #[inline(never)]
    fn irq_line_status(&self, arg: u64) -> Result<i64> {
        let mut l: abi::IrqLevel = user::read(arg)?;
        l.irq = self.irq_line(l.irq, l.level)? as u32;
        user::write(arg, &l)?;
        Ok(0)
    }

    #[inline(never)]
    fn signal_msi(&self, m: abi::Msi) -> Result<i64> {
        if !self.vm.machine.irqchip.has_lapics() || m.flags & !abi::MSI_VALID_DEVID != 0 {
            return Err(EINVAL);
        }
        let msg = m.message();
        let format = self.vm.machine.choices.msi_format();
        // As KVM: it goes to local APICs, whatever else the address says; QEMU gives the offset in their page.
        let address = MSI_BASE | msg.address & (MSI_OFFSET | format.address_bits());
        if !format.takes_address(address) {
            return Err(EINVAL);
        }
        Ok(i64::from(self.vm.machine.interrupts.signal_msi(address, msg.data, format).ok_or(EINVAL)?))
    }

    #[inline(never)]
    fn reinject(&self, arg: u64) -> Result<i64> {
        let control: abi::ReinjectControl = user::read(arg)?;
        self.vm.machine.interrupts.with(|bus, _now, _out| match bus.pit.as_mut() {
            Some(pit) => {
                pit.set_reinject(control.pit_reinject != 0);
                Ok(0)
            }
            None => Err(ENXIO),
        })
    }

    #[inline(never)]
    fn get_clock(&self, arg: u64) -> Result<i64> {
        // All three of one moment: user space works out from them what the clock shows at another.
        let HostMoment { tsc, wall_ns } = timer::moment();
        // Without a TSC that the host itself trusts, they would not stay together.
        let (flags, realtime, host_tsc) = match timer::is_tsc_stable() {
            true => (abi::CLOCK_FLAGS, wall_ns, tsc),
            false => (0, 0, 0),
        };
        let clock = self.vm.machine.clock.ns_at(tsc);
        user::write(arg, &abi::ClockData { clock, flags, pad0: 0, realtime, host_tsc, pad: [0; 4] })?;
        Ok(0)
    }

    #[inline(never)]
    fn set_clock(&self, arg: u64) -> Result<i64> {
        let data: abi::ClockData = user::read(arg)?;
        // One flag alone asks for something; what KVM_GET_CLOCK gave may be given back as it is.
        if data.flags & !abi::CLOCK_FLAGS != 0 {
            return Err(EINVAL);
        }
        let _config = self.config.lock()?;
        // Not before the lock is there, for which time may have passed.
        let HostMoment { tsc, wall_ns } = timer::moment();
        let passed = match data.flags & abi::CLOCK_REALTIME {
            0 => 0,
            _ => wall_ns.saturating_sub(data.realtime),
        };
        self.vm.machine.set_clock_ns(tsc, data.clock.wrapping_add(passed));
        Ok(0)
    }

    #[inline(never)]
    fn create_device(&self, arg: u64) -> Result<i64> {
        let mut d: abi::CreateDevice = user::read(arg)?;
        if d.flags & !abi::CREATE_DEVICE_TEST != 0 {
            return Err(EINVAL);
        }
        let device = DeviceHandle::new(d.kind).ok_or(ENODEV)?;
        if d.flags & abi::CREATE_DEVICE_TEST != 0 {
            return Ok(0);
        }
        let mut config = self.config.lock()?;
        // What a device writes at once, no ring has room for.
        if self.vm.machine.ram.dirty_rings().is_some() {
            return Err(EINVAL);
        }
        let file = PreparedFile::new(DeviceFile::new(self.vm.clone(), device)?)?;
        d.fd = file.fd();
        // Told before the fd is there: a process that cannot be told has none to lose.
        user::write(arg, &d)?;
        file.install();
        config.chosen.has_devices = true;
        Ok(0)
    }
}

impl<B: VendorBackend> AnonFile for VmFile<B> {
    const NAME: &'static CStr = c"rvmm-vm";

    /// All that there is of the VM, a heading and some lines each. A machine that runs or dies meanwhile is not held
    /// up: what is shown is copied without waiting for a vCPU.
    fn show(this: &Arc<Self>, f: &mut Formatter<'_>) -> kernel::fmt::Result {
        let VmFile { vm, watch, .. } = &**this;
        writeln!(f, "vcpus:")?;
        vm.machine.show_vcpus(f)?;
        writeln!(f, "memory:")?;
        vm.machine.show_memory(f)?;
        writeln!(f, "chips:")?;
        vm.machine.show_chips(f)?;
        writeln!(f, "devices:")?;
        vm.machine.show_devices(f)?;
        writeln!(f, "counters:")?;
        watch.show_counters(f)?;
        writeln!(f, "exits:")?;
        watch.show_exits(f)?;
        writeln!(f, "report:")?;
        watch.report.show(f)
    }

    // What it calls is not inlined: there each has a stack frame of its own, and here they would add up.
    fn ioctl(this: &Arc<Self>, cmd: u32, arg: u64) -> Result<i64> {
        match cmd {
            nr::CHECK_EXTENSION => Ok(caps::check_extension(arg, this.vm.machine.choices.apic_bus_period())),
            nr::CREATE_VCPU => this.create_vcpu(arg),
            nr::SET_USER_MEMORY_REGION => this.set_memory(user::read(arg)?),
            nr::SET_USER_MEMORY_REGION2 => this.set_memory2(user::read(arg)?),
            nr::GET_DIRTY_LOG => {
                let _config = this.config.lock()?;
                dirty_log::get(&this.vm, arg)
            }
            nr::CLEAR_DIRTY_LOG => {
                let _config = this.config.lock()?;
                dirty_log::clear(&this.vm, arg)
            }
            nr::RESET_DIRTY_RINGS => {
                let _config = this.config.lock()?;
                dirty_ring::reset(&this.vm)
            }
            // Real mode needs no help from us, so the addresses are not used.
            nr::SET_TSS_ADDR => Ok(0),
            nr::SET_IDENTITY_MAP_ADDR => user::read::<u64>(arg).map(|_| 0),
            nr::ENABLE_CAP => this.enable_cap(&user::read(arg)?),
            nr::X86_SET_MSR_FILTER => this.set_msr_filter(&user::read(arg)?),
            nr::SET_BOOT_CPU_ID => this.set_boot_cpu(arg),
            nr::CREATE_IRQCHIP => this.create_irqchip(),
            nr::CREATE_PIT => this.create_pit(abi::PIT_SPEAKER_DUMMY),
            nr::CREATE_PIT2 => this.create_pit(user::read::<abi::PitConfig>(arg)?.flags),
            // There is no shadow page whose number could be limited.
            nr::SET_NR_MMU_PAGES if arg >= MIN_MMU_PAGES => Ok(0),
            nr::SET_NR_MMU_PAGES => Err(EINVAL),
            nr::IRQ_LINE => {
                let l: abi::IrqLevel = user::read(arg)?;
                this.irq_line(l.irq, l.level).map(|_| 0)
            }
            nr::IRQ_LINE_STATUS => this.irq_line_status(arg),
            nr::SET_GSI_ROUTING => {
                irqchip::set_routing(&this.vm, arg).inspect(|_| eventfd::reroute(&this.irqfds))
            }
            nr::GET_IRQCHIP => irqchip::get(&this.vm, arg),
            nr::SET_IRQCHIP => irqchip::set(&this.vm, arg),
            nr::GET_PIT => irqchip::get_pit(&this.vm, arg),
            nr::SET_PIT => irqchip::set_pit(&this.vm, arg),
            nr::GET_PIT2 => irqchip::get_pit2(&this.vm, arg),
            nr::SET_PIT2 => irqchip::set_pit2(&this.vm, arg),
            nr::IRQFD => eventfd::irqfd(&this.vm, &this.irqfds, arg),
            nr::HYPERV_EVENTFD => hyperv::eventfd(&this.vm, arg),
            nr::IOEVENTFD => eventfd::ioeventfd(&this.vm, &this.ioeventfds, arg),
            nr::REGISTER_COALESCED_MMIO => this.coalesced.register(user::read(arg)?),
            nr::UNREGISTER_COALESCED_MMIO => this.coalesced.unregister(&user::read(arg)?),
            nr::SIGNAL_MSI => this.signal_msi(user::read(arg)?),
            nr::REINJECT_CONTROL => this.reinject(arg),
            nr::GET_CLOCK => this.get_clock(arg),
            nr::SET_CLOCK => this.set_clock(arg),
            nr::CREATE_DEVICE => this.create_device(arg),
            nr::HAS_DEVICE_ATTR if RestState::<B>::has_attr(&user::read(arg)?) => Ok(0),
            nr::HAS_DEVICE_ATTR => Err(ENXIO),
            nr::GET_DEVICE_ATTR => this.config.lock()?.rest.get_attr(&user::read(arg)?),
            nr::SET_DEVICE_ATTR => this.config.lock()?.rest.set_attr(&this.vm, &user::read(arg)?),
            nr::GET_TSC_KHZ => Ok(i64::from(timer::tsc_khz())),
            nr::GET_STATS_FD => file::install(StatsFile::of_vm(this.vm.clone(), this.watch.name())?),
            _ => Err(ENOTTY),
        }
    }
}
