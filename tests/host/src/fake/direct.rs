// SPDX-License-Identifier: GPL-2.0

//! A VM and its vCPUs, without the ioctls around them: for tests that look inside.

use super::backend::{Fake, Guest};
use super::steps::{code_page, flat, Ran, Steps, CODE};
use crate::arch::addr::{Gpa, Hva};
use crate::chipset::ioapic::Ioapic;
use crate::chipset::lapic::Lapic;
use crate::chipset::message::DestFormat;
use crate::chipset::pic::Pic;
use crate::chipset::pit::Pit;
use crate::chipset::routing::GsiRouting;
use crate::host::fpu::GuestFpu;
use crate::host::world::World;
use crate::machine::irqchip::IrqchipMode;
use crate::machine::mailbox::VcpuMailbox;
use crate::machine::settings::ModuleSettings;
use crate::mmu::slots::SlotRequest;
use crate::vcpu::core::{HeapParts, VcpuCore};
use crate::vcpu::cpuid::CpuidTable;
use crate::vcpu::outcome::UserExit;
use crate::vcpu::paging::VcpuPaging;
use crate::vcpu::record::VcpuRecord;
use crate::vcpu::run::{self, RunEnd};
use crate::vcpu::vm::Vm;
use kernel::prelude::*;
use std::sync::Arc;

/// Where guest address 0 lies in the process.
pub(crate) const RAM: u64 = 0x7000_0000;

/// A VM.
#[derive(Clone)]
pub(crate) struct Direct {
    pub(crate) world: Arc<World>,
    pub(crate) backend: kernel::sync::Arc<Fake>,
    pub(crate) vm: kernel::sync::Arc<Vm<Fake>>,
}

impl Direct {
    /// One with `pages` pages of memory from 0 on, and interrupt controllers. The caller is in the world.
    pub(crate) fn new(world: &Arc<World>, pages: u64) -> Direct {
        Direct::with(world, pages, super::settings())
    }

    /// The same, of a module that was loaded with other parameters.
    pub(crate) fn with(world: &Arc<World>, pages: u64, settings: ModuleSettings) -> Direct {
        Direct::on(world, pages, settings, Fake::new())
    }

    /// The same as [`Direct::new`], on processors that walk shadow pages.
    pub(crate) fn shadow(world: &Arc<World>, pages: u64) -> Direct {
        Direct::on(world, pages, super::settings(), Fake::shadow())
    }

    fn on(world: &Arc<World>, pages: u64, settings: ModuleSettings, backend: Fake) -> Direct {
        let backend = kernel::sync::Arc::new(backend, GFP_KERNEL).unwrap();
        let vm = Vm::new(backend.clone(), settings).unwrap();
        let mut routing = GsiRouting::identity().unwrap();
        vm.machine.interrupts.with(|bus, _, _| {
            bus.pic = Some(Pic::new());
            bus.pit = Some(Pit::new());
            bus.ioapic = Some(Ioapic::new(0, DestFormat::Narrow));
            core::mem::swap(&mut bus.routing, &mut routing);
        });
        vm.machine.irqchip.choose(IrqchipMode::Full);
        let direct = Direct { world: world.clone(), backend, vm };
        world.process.map(RAM, pages * 4096, true, false);
        direct.set_slot(0, 0, pages, RAM).unwrap();
        world.process.write(RAM + CODE, &code_page(), true).unwrap();
        direct
    }

    /// Sets a memory slot; no pages: removes it.
    pub(crate) fn set_slot(&self, slot: u32, gfn: u64, pages: u64, hva: u64) -> Result {
        self.set_slot_with(slot, gfn, pages, hva, 0)
    }

    /// The same with flags.
    pub(crate) fn set_slot_with(&self, slot: u32, gfn: u64, pages: u64, hva: u64, flags: u32) -> Result {
        let (gpa, size_bytes) = (Gpa(gfn * 4096), pages * 4096);
        self.vm.space.change_slots(&SlotRequest { slot, flags, gpa, size_bytes, hva: Hva(hva) })
    }

    /// Makes a vCPU, in protected mode.
    pub(crate) fn vcpu(&self, id: u32) -> Vcpu {
        let mailbox = VcpuMailbox::new(id).unwrap();
        let mut lapic = Lapic::new(id, id == 0);
        // The software enable bit of the spurious vector's register.
        let _ = lapic.mmio_write(
            0xf0,
            crate::arch::addr::AccessWidth::B4,
            0x1ff,
            &crate::chipset::lapic::TimerClock {
                now: crate::arch::time::Ns(0),
                tsc: 0,
                ns_per_tick: 1 << 32,
            },
        );
        mailbox.set_identity(lapic.identity());
        let number = crate::host::world::locked(&self.backend.guests).len();
        let hw = crate::vcpu::backend::VendorBackend::new_vcpu(&*self.backend).unwrap();
        let heap = HeapParts::new().unwrap();
        let mut core = VcpuCore::new(hw, id == 0, Some(lapic), CpuidTable::new(), 0, 0, heap);
        core.set_tsc_offset(self.vm.machine.clock.tsc_offset);
        core.mp = crate::vcpu::core::VcpuActivity::Runnable;
        core.paging = VcpuPaging::new(self.vm.space.is_shadow()).unwrap();
        flat(&mut core.state);
        if let Some(rings) = self.vm.machine.ram.dirty_rings() {
            let ring = rings.make(&mailbox).unwrap();
            rings.add(ring.clone()).unwrap();
            core.dirty_ring = Some(ring);
        }
        assert!(self.vm.machine.mailboxes.publish(id as usize, mailbox.clone()));
        Vcpu {
            direct: self.clone(),
            mailbox,
            record: VcpuRecord::new(id, 42, false).unwrap(),
            core,
            fpu: GuestFpu::new().unwrap(),
            guest: self.backend.guest(number),
        }
    }

    /// The process's address of a guest's.
    pub(crate) fn hva(gpa: u64) -> u64 {
        RAM + gpa
    }
}

/// A vCPU of one.
pub(crate) struct Vcpu {
    pub(crate) direct: Direct,
    pub(crate) mailbox: kernel::sync::Arc<VcpuMailbox>,
    pub(crate) record: VcpuRecord,
    pub(crate) core: VcpuCore<Fake>,
    pub(crate) fpu: GuestFpu,
    pub(crate) guest: Arc<Guest>,
}

impl Vcpu {
    /// Calls the run loop. Returns what user space is told.
    ///
    /// # Errors
    /// Its own.
    pub(crate) fn run_once(&mut self) -> Result<Option<UserExit>> {
        let end =
            run::run(&self.direct.vm, &self.mailbox, &self.record, &mut self.core, &mut self.fpu, &|| false)?;
        Ok(match end {
            RunEnd::UserExit => self.core.user_exit.take(),
            RunEnd::NotEntered => None,
        })
    }
}

impl Steps for Vcpu {
    type UserExit = UserExit;

    fn guest(&self) -> Arc<Guest> {
        self.guest.clone()
    }

    fn run(&mut self) -> Ran<UserExit> {
        match self.run_once() {
            Ok(Some(exit)) => Ran::User(exit),
            Ok(None) => unreachable!("nobody asks for that"),
            Err(e) if e == EINTR => Ran::Guest,
            Err(e) => Ran::Failed(e),
        }
    }

    fn answer(&mut self, _exit: &UserExit) -> bool {
        self.core.io.complete(0);
        true
    }
}
