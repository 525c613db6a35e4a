// SPDX-License-Identifier: GPL-2.0

//! A vCPU's fd.

use super::coalesced::CoalescedWrites;
use super::observe::{ListedVcpu, VmWatch};
use super::run::RunPages;
use super::stats::StatsFile;
use super::sync_regs::{self, SyncRequest};
use super::vcpu_attr::VcpuAttr;
use super::{dirty_ring, enable_cap, events, guest_debug, hyperv, pre_fault, recorder, regs, user};
use crate::abi::vm::{DeviceAttr, EnableCap};
use crate::abi::{nr, rvmm as abi_rvmm, sys as abi_sys, vcpu as abi};
use crate::arch::addr::Gpa;
use crate::arch::cpuid::KvmFeatures;
use crate::arch::cr::Cr4;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::chipset::lapic::save::IdFormat;
use crate::chipset::lapic::Lapic;
use crate::host::cpu;
use crate::host::file::{self, AnonFile};
use crate::host::fpu::GuestFpu;
use crate::host::mutex::{new_killable_mutex, KillableMutex};
use crate::host::page::{first_page, KernelPages};
use crate::host::signal::BlockedSignals;
use crate::host::timer;
use crate::machine::choices::{KvmQuirks, MachineOptions};
use crate::machine::dirty_ring::DirtyRing;
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests, MAX_VCPUS};
use crate::mmu::mem::GuestMem;
use crate::vcpu::access::msr;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::{HeapParts, VcpuActivity, VcpuCore};
use crate::vcpu::cpuid::CpuidTable;
use crate::vcpu::debugger::{DebugRegs, EntryBars};
use crate::vcpu::inject::take_interrupts;
use crate::vcpu::mce::{MachineCheck, MceConsequence};
use crate::vcpu::msr_table::MsrRefused;
use crate::vcpu::paging::VcpuPaging;
use crate::vcpu::record::{count, VcpuRecord};
use crate::vcpu::run::{run, RunEnd};
use crate::vcpu::state::StateGroups;
use crate::vcpu::vm::Vm;
use kernel::mm::virt::{flags, VmaNew};
use kernel::prelude::*;
use kernel::sync::Arc;

/// What the vCPU's mutex guards.
struct VcpuInner<B: VendorBackend> {
    /// In memory of its own: moved on the way to its place, it would take several times its size of the stack.
    core: KBox<VcpuCore<B>>,
    fpu: GuestFpu,
    /// The signals that are blocked while KVM_RUN runs; `None` for the thread's own.
    signals: Option<u64>,
    /// The guest has been entered, or might have been.
    has_run: bool,
}

/// Returns what some of CPUID's bits follow: CR4 and XCR0.
fn cpuid_state<B: VendorBackend>(inner: &mut VcpuInner<B>) -> (u64, u64) {
    inner.core.fetch(StateGroups::CONTROL);
    (inner.core.state.cr4, inner.fpu.xcr0().bits())
}

/// The file behind a vCPU's fd.
#[pin_data]
pub(super) struct VcpuFile<B: VendorBackend> {
    vm: Arc<Vm<B>>,
    mailbox: Arc<VcpuMailbox>,
    record: Arc<VcpuRecord>,
    pages: RunPages,
    ring: Option<Arc<DirtyRing>>,
    coalesced: Arc<CoalescedWrites>,
    watch: Arc<VmWatch>,
    _listed: ListedVcpu,
    #[pin]
    inner: KillableMutex<VcpuInner<B>>,
}

/// Makes the vCPU of a mailbox, and makes its local APIC known there.
///
/// # Errors
/// `ENOMEM`.
// Its frame is large, and gone before others need the stack.
#[inline(never)]
fn new_core<B: VendorBackend>(vm: &Vm<B>, mailbox: &VcpuMailbox) -> Result<KBox<VcpuCore<B>>> {
    let id = mailbox.id;
    let is_boot = id == vm.machine.interrupts.boot_cpu();
    let made = || Lapic::new(id, is_boot).with_bus_period(vm.machine.choices.apic_bus_period());
    let lapic = vm.machine.irqchip.has_lapics().then(|| match made() {
        lapic if vm.machine.choices.has_quirk(KvmQuirks::LINT0_REENABLED) => lapic,
        lapic => lapic.without_virtual_wire(),
    });
    if let Some(l) = lapic.as_ref() {
        mailbox.set_identity(l.identity());
    }
    let (hw, parts) = (vm.backend.new_vcpu()?, HeapParts::new()?);
    let halt_poll_ns = vm.machine.choices.halt_poll_ns();
    let signature = cpu::cpuid(1, 0).eax;
    let mut core = KBox::new(
        VcpuCore::new(hw, is_boot, lapic, CpuidTable::new(), signature, halt_poll_ns, parts),
        GFP_KERNEL_ACCOUNT,
    )?;
    core.paging = VcpuPaging::new(vm.space.is_shadow())?;
    // The same for all vCPUs, so that their counters agree.
    core.set_tsc_offset(vm.machine.clock.tsc_offset);
    core.set_msr_filter(vm.machine.choices.msr_filter());
    core.has_user_pic = !vm.machine.irqchip.is_full();
    if vm.machine.choices.has(MachineOptions::HALTS_IN_GUEST) {
        core.controls.set_halt_exits(false);
    }
    Ok(core)
}

impl<B: VendorBackend> VcpuFile<B> {
    /// Makes vCPU `id`, which the machine does not know before [`VcpuFile::publish`].
    ///
    /// # Errors
    /// `EINVAL` for a number beyond the limit, `ENOMEM`.
    pub(super) fn new(
        vm: Arc<Vm<B>>,
        watch: Arc<VmWatch>,
        coalesced: Arc<CoalescedWrites>,
        id: usize,
    ) -> Result<Arc<VcpuFile<B>>> {
        if id >= MAX_VCPUS {
            return Err(EINVAL);
        }
        let number = u32::try_from(id)?;
        let mailbox = VcpuMailbox::new(number)?;
        let pid = kernel::current!().group_leader().pid();
        let record =
            Arc::new(VcpuRecord::new(number, pid, vm.machine.settings.times_exits)?, GFP_KERNEL_ACCOUNT)?;
        let mut core = new_core(&vm, &mailbox)?;
        let ring = vm.machine.ram.dirty_rings().map(|rings| rings.make(&mailbox)).transpose()?;
        core.dirty_ring = ring.clone();
        let inner = VcpuInner { core, fpu: GuestFpu::new()?, signals: None, has_run: false };
        let pages = RunPages::new()?;
        let listed = VmWatch::list(&watch, record.clone())?;
        let file = Arc::pin_init(
            pin_init!(VcpuFile { vm, mailbox, record, pages, ring, coalesced, watch, _listed: listed, inner <- new_killable_mutex!(inner, c"VcpuFile::inner") }),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(file)
    }

    /// Lets marks of dirty pages come to the vCPU's ring, if it has one. Nobody else does at the same time; sleeps.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn show_ring(&self) -> Result {
        match (&self.ring, self.vm.machine.ram.dirty_rings()) {
            (Some(ring), Some(rings)) => rings.add(ring.clone()),
            _ => Ok(()),
        }
    }

    /// It is the `nth` vCPU of its machine, from 0: so a guest of Hyper-V's knows it.
    pub(super) fn set_order(&self, nth: usize) {
        self.mailbox.set_vp_index(u32::try_from(nth).unwrap_or(u32::MAX));
    }

    /// Makes the vCPU one of its machine's. Returns whether there was none of its number.
    pub(super) fn publish(&self) -> bool {
        self.vm.machine.mailboxes.publish(self.mailbox.id as usize, self.mailbox.clone())
    }

    fn run(&self, arg: u64) -> Result<i64> {
        if arg != 0 {
            return Err(EINVAL);
        }
        // Guest memory is user addresses of the process that made the VM.
        if !self.vm.space.is_current() {
            return Err(EIO);
        }
        self.vm.machine.start();
        let mut guard = self.inner.lock()?;
        let inner = &mut *guard;
        let _signals = inner.signals.map(BlockedSignals::block);
        let sync = SyncRequest::of(&self.pages)?;
        if sync.has_changed() && sync_regs::load(&self.vm, &self.mailbox, &mut inner.core, &self.pages, sync)?
        {
            self.load_pdptes(&mut inner.core);
        }
        self.pages.begin(&self.vm, &mut inner.core);
        inner.has_run |= !self.pages.immediate_exit();
        let ended = self.run_to_end(inner);
        // On every way out, that by a signal included.
        if sync.is_wanted() {
            sync_regs::store(&self.vm, &self.mailbox, &mut inner.core, &self.pages, sync);
        }
        ended
    }

    /// Runs the guest until user space must hear of it, and tells it why.
    fn run_to_end(&self, inner: &mut VcpuInner<B>) -> Result<i64> {
        match self.run_guest(inner) {
            Ok(RunEnd::UserExit) => {
                count(&self.record.stats.user_exits);
                // Told once: user space may reset the vCPU and go on.
                inner.core.bars.remove(EntryBars::SHUTDOWN);
                self.pages.end(&mut inner.core);
                self.pages.report(&inner.core);
                if inner.core.user_exit.is_some_and(|exit| exit.is_end()) {
                    self.note_end(inner);
                }
                Ok(0)
            }
            // The exit reason stays what it was.
            Ok(RunEnd::NotEntered) => {
                inner.core.user_exit = None;
                self.pages.end(&mut inner.core);
                Err(EINTR)
            }
            Err(e) => {
                // An instruction may have come so far before something else had to be waited for, and starts again.
                inner.core.user_exit = None;
                if e == EINTR {
                    count(&self.record.stats.signals);
                    self.pages.end(&mut inner.core);
                    self.pages.report_signal();
                }
                Err(e)
            }
        }
    }

    /// Runs the guest until user space must hear of it: writes that it may hear of later do not end that.
    fn run_guest(&self, inner: &mut VcpuInner<B>) -> Result<RunEnd> {
        let immediate = || self.pages.immediate_exit();
        loop {
            let end =
                run(&self.vm, &self.mailbox, &self.record, &mut inner.core, &mut inner.fpu, &immediate)?;
            let is_taken = end == RunEnd::UserExit
                && inner.core.user_exit.as_ref().is_some_and(|exit| self.coalesced.take(exit));
            if !is_taken {
                return Ok(end);
            }
            // To the instruction this is user space's answer.
            inner.core.user_exit = None;
            inner.core.io.complete(0);
        }
    }

    /// Keeps the report of the end that user space has just been told of.
    #[cold]
    #[inline(never)]
    fn note_end(&self, inner: &mut VcpuInner<B>) {
        if let Some(exit) = inner.core.user_exit {
            self.watch.report.note(self.watch.name(), &self.record, &mut inner.core, exit);
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut VcpuCore<B>, &mut GuestFpu) -> Result<R>) -> Result<R> {
        let mut guard = self.inner.lock()?;
        let inner = &mut *guard;
        f(&mut inner.core, &mut inner.fpu)
    }

    fn set_regs(&self, r: &abi::Regs) -> Result<i64> {
        self.with(|core, _| {
            regs::set_regs(core, r);
            Ok(0)
        })
    }

    #[inline(never)]
    fn get_sregs(&self, arg: u64) -> Result<i64> {
        self.with(|core, _| user::write(arg, &regs::sregs(core)).map(|()| 0))
    }

    #[inline(never)]
    fn set_sregs(&self, arg: u64) -> Result<i64> {
        let r: abi::Sregs = user::read(arg)?;
        self.with(|core, _| {
            regs::set_sregs(&self.vm.machine, &self.mailbox, core, &r)?;
            self.load_pdptes(core);
            Ok(0)
        })
    }

    #[inline(never)]
    fn get_sregs2(&self, arg: u64) -> Result<i64> {
        self.with(|core, _| user::write(arg, &regs::sregs2(core)).map(|()| 0))
    }

    #[inline(never)]
    fn set_sregs2(&self, arg: u64) -> Result<i64> {
        let r: abi::Sregs2 = user::read(arg)?;
        self.with(|core, _| {
            if regs::set_sregs2(&self.vm.machine, &self.mailbox, core, &r)? {
                self.load_pdptes(core);
            }
            Ok(0)
        })
    }

    #[inline(never)]
    fn get_fpu(&self, arg: u64) -> Result<i64> {
        self.with(|_, fpu| user::write(arg, &regs::fpu(fpu.image())).map(|()| 0))
    }

    #[inline(never)]
    fn set_fpu(&self, arg: u64) -> Result<i64> {
        let v: abi::Fpu = user::read(arg)?;
        self.with(|_, fpu| {
            let image = regs::image_of_fpu(fpu.image(), &v);
            fpu.set_image(&image).map(|()| 0)
        })
    }

    fn set_guest_debug(&self, asked: &abi::GuestDebug) -> Result<i64> {
        self.with(|core, _| core.set_guest_debug(asked.control, &asked.debugreg).map(|()| 0))
    }

    #[inline(never)]
    fn set_cpuid(&self, arg: u64) -> Result<i64> {
        let header: abi_sys::Cpuid2 = user::read(arg)?;
        let entries = user::read_array::<abi_sys::Cpuid2, _>(arg, header.nent, abi_sys::MAX_CPUID_ENTRIES)?;
        let mut table = CpuidTable::from_entries(&entries)?;
        if self.vm.machine.choices.has(MachineOptions::HALTS_IN_GUEST) {
            // As KVM: nobody learns that the guest has halted.
            table.withdraw_pv(KvmFeatures::PV_UNHALT);
        }
        let mut inner = self.inner.lock()?;
        // As KVM: once the guest has seen its processor, that stays.
        if inner.has_run {
            let (cr4, xcr0) = cpuid_state(&mut inner);
            return if table.could_replace(&inner.core.cpuid, cr4, xcr0) { Ok(0) } else { Err(EINVAL) };
        }
        inner.core.set_cpuid(table);
        inner.core.note_misc_enable(&self.vm.machine.choices);
        Ok(0)
    }

    /// Loads the directory pointers of PAE paging, where the control registers say that it is on. As KVM: what
    /// cannot be loaded leaves those that there were.
    fn load_pdptes(&self, core: &mut VcpuCore<B>) {
        let control = core.state.control();
        if !control.is_pae_paging() || !self.vm.space.is_current() {
            return;
        }
        let at = Gpa(control.pdpt());
        let read = || self.vm.machine.ram.read_obj::<[u64; 4]>(at).ok();
        let entries = read().or_else(|| self.vm.machine.ram.fault_in(at, false).ok().and_then(|()| read()));
        if let Some(entries) = entries.filter(|e| core.cpuid.cr_rules().are_pdptes(e)) {
            core.state.pdptes = entries;
        }
    }

    #[inline(never)]
    fn get_cpuid(&self, arg: u64) -> Result<i64> {
        let mut header: abi_sys::Cpuid2 = user::read(arg)?;
        let mut inner = self.inner.lock()?;
        let (cr4, xcr0) = cpuid_state(&mut inner);
        let entries = inner.core.cpuid.entries_now(cr4, xcr0)?;
        if entries.len() > header.nent as usize {
            return Err(E2BIG);
        }
        header.nent = entries.len() as u32;
        user::write(arg, &header)?;
        user::write_array::<abi_sys::Cpuid2, _>(arg, &entries)?;
        Ok(0)
    }

    #[inline(never)]
    fn msrs(&self, arg: u64, write: bool) -> Result<i64> {
        let header: abi::Msrs = user::read(arg)?;
        let mut entries = user::read_array::<abi::Msrs, abi::MsrEntry>(arg, header.nmsrs, 256)?;
        let mut done = 0i64;
        self.with(|core, _| {
            for e in &mut entries {
                let ok = if write {
                    msr::set(&self.vm, &self.mailbox, core, e.index, e.data)
                } else {
                    msr::get(&self.vm, &self.mailbox, core, e.index).map(|v| e.data = v).is_some()
                };
                if !ok {
                    break;
                }
                done = done.saturating_add(1);
            }
            Ok(())
        })?;
        if !write {
            user::write_array::<abi::Msrs, _>(arg, &entries)?;
        }
        Ok(done)
    }

    fn set_mp_state(&self, s: abi::MpState) -> Result<i64> {
        self.with(|core, _| {
            core.mp = match s.mp_state {
                abi::MP_STATE_RUNNABLE => VcpuActivity::Runnable,
                abi::MP_STATE_UNINITIALIZED if core.lapic.is_some() => VcpuActivity::Uninitialized,
                abi::MP_STATE_INIT_RECEIVED if core.lapic.is_some() => VcpuActivity::InitReceived,
                abi::MP_STATE_HALTED if core.lapic.is_some() => VcpuActivity::Halted,
                _ => return Err(EINVAL),
            };
            Ok(0)
        })
    }

    fn interrupt(&self, irq: u32) -> Result<i64> {
        let vector = u8::try_from(irq).map_err(|_| EINVAL)?;
        self.with(|core, _| {
            if !core.has_user_pic {
                return Err(ENXIO);
            }
            if core.user_irq.is_some() {
                return Err(EEXIST);
            }
            core.user_irq = Some(vector);
            Ok(0)
        })
    }

    #[inline(never)]
    fn set_mce(&self, e: abi::X86Mce) -> Result<i64> {
        let check = MachineCheck {
            bank: e.bank,
            status: e.status,
            addr: e.addr,
            misc: e.misc,
            mcg_status: e.mcg_status,
        };
        self.with(|core, _| {
            core.fetch(StateGroups::CONTROL);
            let is_enabled = core.state.cr4 & Cr4::MCE.bits() != 0;
            match core.msrs.note_mce(&check, is_enabled).map_err(|MsrRefused| EINVAL)? {
                MceConsequence::None => {}
                MceConsequence::Exception => core.raise(CpuException::plain(ExceptionVector::MC)),
                MceConsequence::Shutdown => core.bars |= EntryBars::SHUTDOWN,
            }
            Ok(0)
        })
    }

    fn get_xsave(&self, arg: u64) -> Result<i64> {
        self.with(|_, fpu| {
            let image = fpu.image();
            user::write_bytes(arg, image.get(..4096).ok_or(EINVAL)?).map(|()| 0)
        })
    }

    #[inline(never)]
    fn set_xsave(&self, arg: u64) -> Result<i64> {
        let mut page = KernelPages::new(0)?;
        let image = page.bytes_mut();
        user::read_bytes(arg, image)?;
        self.with(|_, fpu| fpu.set_image(image).map(|()| 0))
    }

    #[inline(never)]
    fn get_xcrs(&self, arg: u64) -> Result<i64> {
        self.with(|_, fpu| {
            let mut x = <abi::Xcrs as zerocopy::FromZeros>::new_zeroed();
            x.nr_xcrs = 1;
            x.xcrs[0].value = fpu.xcr0().bits();
            user::write(arg, &x).map(|()| 0)
        })
    }

    #[inline(never)]
    fn set_xcrs(&self, x: abi::Xcrs) -> Result<i64> {
        if x.flags != 0 {
            return Err(EINVAL);
        }
        let used = x.xcrs.get(..x.nr_xcrs as usize).ok_or(EINVAL)?;
        match used.iter().find(|c| c.xcr == 0) {
            Some(c) => self.with(|_, fpu| fpu.set_xcr0(c.value).map(|()| 0)),
            None => Err(EINVAL),
        }
    }

    #[inline(never)]
    fn debugregs(&self, arg: u64) -> Result<i64> {
        self.with(|core, _| {
            let DebugRegs { addresses, dr6, dr7 } = core.own_debug_regs();
            let d = abi::Debugregs { db: addresses, dr6, dr7, flags: 0, reserved: [0; 9] };
            user::write(arg, &d).map(|()| 0)
        })
    }

    fn set_debugregs(&self, d: abi::Debugregs) -> Result<i64> {
        if d.flags != 0 || d.dr6 >> 32 != 0 || d.dr7 >> 32 != 0 {
            return Err(EINVAL);
        }
        self.with(|core, _| {
            core.set_own_debug_regs(DebugRegs { addresses: d.db, dr6: d.dr6, dr7: d.dr7 });
            Ok(0)
        })
    }

    /// KVM_SET_SIGNAL_MASK: no address stands for the thread's own.
    fn set_signal_mask(&self, arg: u64) -> Result<i64> {
        let mut signals = None;
        if arg != 0 {
            let header: abi::SignalMask = user::read(arg)?;
            if header.len as usize != size_of::<u64>() {
                return Err(EINVAL);
            }
            let at = arg.checked_add(size_of::<abi::SignalMask>() as u64).ok_or(EFAULT)?;
            signals = Some(user::read::<u64>(at)?);
        }
        self.inner.lock()?.signals = signals;
        Ok(0)
    }

    /// KVM_KVMCLOCK_CTRL: tells the guest that it was stopped, so that its watchdogs do not bark.
    fn note_stop(&self) -> Result<i64> {
        self.with(|core, _| {
            if !core.pv.note_stop() {
                return Err(EINVAL);
            }
            self.mailbox.request(VcpuRequests::CLOCK);
            Ok(0)
        })
    }

    /// KVM_TPR_ACCESS_REPORTING.
    fn report_tpr(&self, arg: u64) -> Result<i64> {
        let control: abi::TprAccessCtl = user::read(arg)?;
        if control.flags != 0 {
            return Err(EINVAL);
        }
        self.with(|core, _| {
            core.vapic.set_reports(control.enabled != 0);
            Ok(())
        })?;
        user::write(arg, &control).map(|()| 0)
    }

    /// KVM_SET_VAPIC_ADDR.
    fn set_vapic(&self, at: u64) -> Result<i64> {
        let at = (at != 0).then_some(Gpa(at));
        self.with(|core, _| {
            if core.lapic.is_none() || at.is_some_and(|at| !self.vm.machine.ram.has_slot(at.gfn())) {
                return Err(EINVAL);
            }
            core.vapic.set_at(at);
            Ok(0)
        })
    }

    /// KVM_SET_TSC_KHZ: the host's frequency alone, as far as guests can tell. 0 stands for it.
    fn set_tsc_khz(khz: u64) -> Result<i64> {
        let host = u64::from(timer::tsc_khz());
        // Parts per million, KVM's default.
        let tolerance = host.saturating_mul(250) / 1_000_000;
        if khz != 0 && khz.abs_diff(host) > tolerance {
            return Err(EINVAL);
        }
        Ok(0)
    }

    /// How KVM_GET_LAPIC and KVM_SET_LAPIC show the id of a local APIC in x2APIC mode.
    fn id_format(&self) -> IdFormat {
        if self.vm.machine.choices.has(MachineOptions::WIDE_IDS) {
            IdFormat::X2apic
        } else {
            IdFormat::Xapic
        }
    }

    #[inline(never)]
    fn lapic(&self, arg: u64) -> Result<i64> {
        self.with(|core, _| {
            take_interrupts(&self.vm, &self.mailbox, core);
            let lapic = core.lapic.as_mut().ok_or(EINVAL)?;
            let regs = lapic.regs(self.id_format(), self.vm.machine.clock.time.now());
            user::write(arg, &abi::LapicState { regs }).map(|()| 0)
        })
    }

    /// Gets or sets an attribute of the vCPU's.
    fn attr(
        &self,
        arg: u64,
        carry_out: impl FnOnce(VcpuAttr, &Vm<B>, &VcpuMailbox, &mut VcpuCore<B>, u64) -> Result<i64>,
    ) -> Result<i64> {
        let asked: DeviceAttr = user::read(arg)?;
        let attr = VcpuAttr::of(&asked)?;
        self.with(|core, _| carry_out(attr, &self.vm, &self.mailbox, core, asked.addr))
    }

    #[inline(never)]
    fn set_lapic(&self, arg: u64) -> Result<i64> {
        let s: abi::LapicState = user::read(arg)?;
        self.with(|core, _| {
            // What came before goes with the state that is replaced.
            take_interrupts(&self.vm, &self.mailbox, core);
            let lapic = core.lapic.as_mut().ok_or(EINVAL)?;
            lapic.set_regs(&s.regs, self.id_format(), self.vm.machine.clock.time.now())?;
            core.publish_apic(&self.mailbox, &self.vm.machine);
            Ok(0)
        })
    }

    /// Carries out the ioctls that are about no registers.
    #[inline(never)]
    fn other_ioctl(&self, cmd: u32, arg: u64) -> Result<i64> {
        let ok = |()| 0;
        match cmd {
            nr::GET_LAPIC => self.lapic(arg),
            nr::TPR_ACCESS_REPORTING => self.report_tpr(arg),
            nr::GET_SUPPORTED_HV_CPUID => hyperv::supported_cpuid(self.vm.machine.irqchip.has_lapics(), arg),
            nr::SET_VAPIC_ADDR => self.set_vapic(user::read::<abi::VapicAddr>(arg)?.vapic_addr),
            nr::SET_TSC_KHZ => Self::set_tsc_khz(arg),
            nr::PRE_FAULT_MEMORY => self.with(|c, _| pre_fault::pre_fault(&self.vm, &mut c.slot_hint, arg)),
            nr::SET_SIGNAL_MASK => self.set_signal_mask(arg),
            nr::SET_LAPIC => self.set_lapic(arg),
            nr::INTERRUPT => self.interrupt(user::read::<abi::Interrupt>(arg)?.irq),
            nr::NMI => {
                self.mailbox.post_nmi();
                Ok(0)
            }
            nr::X86_SETUP_MCE => {
                let cap: u64 = user::read(arg)?;
                self.with(|c, _| c.msrs.setup_mce(cap).map_err(|MsrRefused| EINVAL).map(ok))
            }
            nr::X86_SET_MCE => self.set_mce(user::read(arg)?),
            nr::GET_TSC_KHZ => Ok(i64::from(timer::tsc_khz())),
            nr::GET_STATS_FD => file::install(StatsFile::<B>::of_vcpu(self.record.clone())?),
            abi_rvmm::GET_EXITS => self.with(|_, _| recorder::exits::<B>(&self.record, arg)),
            nr::KVMCLOCK_CTRL => self.note_stop(),
            nr::HAS_DEVICE_ATTR => VcpuAttr::of(&user::read(arg)?).map(|_| 0),
            nr::GET_DEVICE_ATTR => self.attr(arg, VcpuAttr::get),
            nr::SET_DEVICE_ATTR => self.attr(arg, VcpuAttr::set),
            _ => Err(ENOTTY),
        }
    }
}

impl<B: VendorBackend> AnonFile for VcpuFile<B> {
    const NAME: &'static CStr = c"rvmm-vcpu";

    // As for a VM: what needs a large stack frame has its own. KVM_RUN is called the shortest way.
    fn ioctl(this: &Arc<Self>, cmd: u32, arg: u64) -> Result<i64> {
        let ok = |()| 0;
        match cmd {
            nr::RUN => this.run(arg),
            nr::ENABLE_CAP => {
                let cap = user::read::<EnableCap>(arg)?;
                this.with(|c, _| enable_cap::enable_for_vcpu(&this.vm, &this.mailbox, c, &cap).map(ok))
            }
            nr::GET_REGS => this.with(|c, _| user::write(arg, &regs::regs(c)).map(ok)),
            nr::SET_REGS => this.set_regs(&user::read(arg)?),
            nr::SET_GUEST_DEBUG => this.set_guest_debug(&user::read(arg)?),
            nr::TRANSLATE => this.with(|c, _| guest_debug::translate(&this.vm, c, arg)),
            nr::GET_SREGS => this.get_sregs(arg),
            nr::SET_SREGS => this.set_sregs(arg),
            nr::GET_SREGS2 => this.get_sregs2(arg),
            nr::SET_SREGS2 => this.set_sregs2(arg),
            nr::SET_CPUID2 => this.set_cpuid(arg),
            nr::GET_CPUID2 => this.get_cpuid(arg),
            nr::GET_MSRS => this.msrs(arg, false),
            nr::SET_MSRS => this.msrs(arg, true),
            nr::GET_FPU => this.get_fpu(arg),
            nr::SET_FPU => this.set_fpu(arg),
            // No state of a guest's takes more.
            nr::GET_XSAVE | nr::GET_XSAVE2 => this.get_xsave(arg),
            nr::SET_XSAVE => this.set_xsave(arg),
            nr::GET_XCRS => this.get_xcrs(arg),
            nr::SET_XCRS => this.set_xcrs(user::read(arg)?),
            nr::GET_VCPU_EVENTS => this.with(|c, _| {
                user::write(arg, &events::get(&this.vm.machine.choices, &this.mailbox, c)).map(ok)
            }),
            nr::SET_VCPU_EVENTS => {
                let e: abi::VcpuEvents = user::read(arg)?;
                this.with(|c, _| events::set(&this.vm.machine.choices, &this.mailbox, c, &e).map(ok))
            }
            nr::GET_MP_STATE => {
                this.with(|c, _| user::write(arg, &abi::MpState { mp_state: c.mp as u32 }).map(ok))
            }
            nr::SET_MP_STATE => this.set_mp_state(user::read(arg)?),
            nr::GET_DEBUGREGS => this.debugregs(arg),
            nr::SET_DEBUGREGS => this.set_debugregs(user::read(arg)?),
            _ => this.other_ioctl(cmd, arg),
        }
    }

    fn mmap(this: &Arc<Self>, vma: &VmaNew) -> Result {
        let pages = [&this.pages.run, &this.pages.pio, &this.coalesced.page];
        let ring = this.ring.as_ref().map_or(&[][..], |ring| ring.pages());
        let ring_end = dirty_ring::FIRST_PAGE.saturating_add(ring.len());
        let (first, room) = (first_page(vma), vma.end().saturating_sub(vma.start()) >> 12);
        let end = first.saturating_add(room);
        let is_ring = |page| (dirty_ring::FIRST_PAGE..ring_end).contains(&page);
        // As KVM: entries are harvested by writing to them.
        let is_private = vma.flags() & (flags::EXEC | flags::SHARED) != flags::SHARED;
        if is_private && (is_ring(first) || is_ring(end.saturating_sub(1))) {
            return Err(EINVAL);
        }
        vma.set_mixedmap();
        // As KVM: an area may be of any length, and who touches it behind the last page gets SIGBUS.
        for number in first..end.min(ring_end) {
            let page = match number.checked_sub(dirty_ring::FIRST_PAGE) {
                Some(number) => ring.get(number),
                None => pages.get(number).copied(),
            };
            if let Some(page) = page {
                page.map(vma, (number.saturating_sub(first) as u64) << 12)?;
            }
        }
        Ok(())
    }
}
