// SPDX-License-Identifier: GPL-2.0

//! The pages that the processor reads and writes by itself, and root operation as a guard.
//!
//! What in a VMCB could hurt the host is written here only: the addresses of the maps and of the
//! table come from owners, and the intercepts that protect the host are always set.

#![expect(unsafe_code, reason = "memory shared with the processor, and root operation")]

use super::asm;
use super::exit::is_refused;
use super::features::{is_switched_off, SvmFeatures};
use super::linear::{confine, LINEAR3, LINEAR_CR, LINEAR_EXCEPTIONS};
use super::quirks::{HiddenMsrs, SvmQuirks};
use super::vmcb::{
    CleanBits, ControlArea, InterceptCr, InterceptVector3, InterceptVector4, SaveArea, Vmcb, VmcbSegment,
};
use super::vmcb::{NP_ENABLE, TLB_FLUSH_ALL, TLB_FLUSH_ASID, V_INTR_MASKING, V_IRQ, V_TPR};
use crate::arch::addr::Hpa;
use crate::arch::cr::{Cr0, Efer, Rflags};
use crate::arch::exception::ExceptionVector;
use crate::arch::msr::{VM_CR, VM_HSAVE_PA};
use crate::arch::rule::rule;
use crate::host::cpu::{self, PinnedCpu};
use crate::host::msr::{rdmsr, try_rdmsr, try_wrmsr, wrmsr};
use crate::host::page::KernelPages;
use crate::mmu::asid::{AsidFlush, AsidNeighbour, AsidPool, AsidTag, WindowAsids};
use crate::mmu::format::HardwareRoot;
use crate::vcpu::backend::TableRoot;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use kernel::pr_warn_once;
use kernel::prelude::*;
use kernel::sync::Arc;
use x86::msr::IA32_EFER;

/// What each CPU has for running guests.
pub(super) struct SvmCpuArea {
    cpu: u32,
    /// The processor keeps the host's state here between VMRUN and #VMEXIT.
    _hsave: KernelPages,
    hsave_hpa: Hpa,
    /// VMSAVE keeps the rest of the host's state here while a window is open.
    _host_vmcb: KernelPages,
    host_vmcb_hpa: Hpa,
    asids: UnsafeCell<AsidPool>,
    /// The VMCB of no guest, whose entry only flushes.
    flusher: UnsafeCell<VmcbPage>,
    /// The TLB can be flushed for one ASID.
    flush_by_asid: bool,
    /// The CPU was found to be able to run guests.
    checked: AtomicBool,
    /// A flush did not happen: the CPU must not run guests any more.
    failed: AtomicBool,
}

// SAFETY: `asids` and `flusher` are reached only through a `SvmWindow`, which holds the CPU that the area
// belongs to with interrupts off; so no two threads use them at once.
unsafe impl Sync for SvmCpuArea {}

impl SvmCpuArea {
    /// Allocates for CPU `cpu` of a machine with these features.
    ///
    /// # Errors
    /// `ENOMEM`.
    // See `areas()`.
    #[inline(never)]
    pub(super) fn new(cpu: u32, features: &SvmFeatures, maps: &Arc<PermissionMaps>) -> Result<SvmCpuArea> {
        let (hsave, host_vmcb) = (KernelPages::for_processor()?, KernelPages::for_processor()?);
        Ok(SvmCpuArea {
            cpu,
            hsave_hpa: hsave.hpa(),
            _hsave: hsave,
            host_vmcb_hpa: host_vmcb.hpa(),
            _host_vmcb: host_vmcb,
            asids: UnsafeCell::new(AsidPool::new(cpu, 1, features.asids.saturating_sub(1))),
            flusher: UnsafeCell::new(VmcbPage::of_no_guest(maps.clone())?),
            flush_by_asid: features.flush_by_asid,
            checked: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        })
    }

    /// Returns whether the CPU was found to be able to run guests.
    #[inline]
    pub(super) fn is_checked(&self) -> bool {
        self.checked.load(Relaxed)
    }

    /// Checks the calling CPU, which has SVM and which the area belongs to. Returns whether it can run
    /// guests.
    pub(super) fn check(&self, _cpu: &PinnedCpu) -> bool {
        // SAFETY: Reading it has no side effect.
        let vm_cr = unsafe { try_rdmsr(VM_CR) };
        let free = vm_cr.is_ok_and(|v| !is_switched_off(v)) && !self.failed.load(Relaxed);
        self.checked.store(free, Relaxed);
        free
    }
}

impl Drop for SvmCpuArea {
    fn drop(&mut self) {
        // Windows leave the address behind.
        if cpu::rdmsr_on(self.cpu, VM_HSAVE_PA) == Ok(self.hsave_hpa.0) {
            // SAFETY: Nobody runs a guest with this module's save area.
            let _ = unsafe { cpu::wrmsr_on(self.cpu, VM_HSAVE_PA, 0) };
        }
    }
}

/// Root operation on one CPU, interrupts off. Dropping it leaves the CPU as it was found, but for VM_HSAVE_PA:
/// see [`AsidNeighbour::of`].
pub(crate) struct SvmWindow<'a> {
    area: &'a SvmCpuArea,
    cpu: &'a PinnedCpu,
    /// Of the area.
    host_vmcb: Hpa,
    /// EFER to put back, where SVME was not set yet.
    efer: Option<u64>,
    asids: WindowAsids,
    quirks: SvmQuirks,
    /// What of the host's was taken away; see [`SvmWindow::shield`].
    shielded: Option<HiddenMsrs>,
}

/// Reads an MSR that [`SvmQuirks::hide`] asks for.
fn host_rdmsr(msr: u32) -> u64 {
    // SAFETY: The kernel found what the quirk is about, so the MSR exists; reading it has no side effect.
    unsafe { rdmsr(msr) }
}

/// Writes an MSR as [`SvmQuirks::hide`] and [`HiddenMsrs::show`] do.
fn host_wrmsr(msr: u32, value: u64) {
    // SAFETY: By what those promise: tracing goes off for the window; the kernel's FPU code, which alone uses IA32_XSS,
    // does not run in it; BP_SPEC_REDUCE is the kernel's own wish; and what is put back is what was found.
    unsafe { wrmsr(msr, value) };
}

impl<'a> SvmWindow<'a> {
    /// Enters root operation on this CPU; `area` is the CPU's own.
    ///
    /// Where somebody (a loaded KVM) has SVME set already, its EFER and save area stay: the area is
    /// in use only between a VMRUN and its #VMEXIT, and no other VMRUN can happen in the window.
    ///
    /// `None` where the processor refuses.
    #[inline(always)]
    pub(super) fn open(area: &'a SvmCpuArea, cpu: &'a PinnedCpu, quirks: SvmQuirks) -> Option<SvmWindow<'a>> {
        // SAFETY: Reading them has no side effect.
        let (efer, hsave) = unsafe { (try_rdmsr(IA32_EFER).ok()?, try_rdmsr(VM_HSAVE_PA).ok()?) };
        let ours = area.hsave_hpa.0;
        let neighbour = AsidNeighbour::of(efer & Efer::SVME.bits() != 0, hsave, ours);
        let restore = (neighbour != AsidNeighbour::Here).then_some(efer);
        if restore.is_some() {
            // SAFETY: Put back in `drop()`, and with interrupts off nobody sees it in between.
            unsafe { try_wrmsr(IA32_EFER, efer | Efer::SVME.bits()).ok()? };
        }
        // SAFETY: Only a window of this CPU reaches the pool, and this is the only one.
        let asids = WindowAsids::open(unsafe { &mut *area.asids.get() }, neighbour);
        let host_vmcb = area.host_vmcb_hpa;
        // From here on EFER is put back whatever happens.
        let window = SvmWindow { area, cpu, host_vmcb, efer: restore, asids, quirks, shielded: None };
        if neighbour == AsidNeighbour::Gone || hsave == 0 {
            // SAFETY: Whoever runs guests writes his own address first; this area is the CPU's own.
            unsafe { try_wrmsr(VM_HSAVE_PA, ours).ok()? };
        }
        // SAFETY: The page is this CPU's own.
        if unsafe { asm::vmsave(area.host_vmcb_hpa) } {
            Some(window)
        } else {
            None
        }
    }

    /// Takes away what of the host's a guest would meet, until the window is dropped: before the first entry, but
    /// after the guest's extended state was loaded, since IA32_XSS says what of the host's is saved then.
    pub(super) fn shield(&mut self) {
        if self.shielded.is_none() && !self.quirks.are_none() {
            self.shielded = Some(self.quirks.hide(host_rdmsr, host_wrmsr));
        }
    }

    /// Returns the number of the CPU.
    pub(super) fn cpu_id(&self) -> u32 {
        self.cpu.id()
    }

    /// Gives `tag` an ASID of this CPU. Returns it, and what the next entry must flush.
    pub(super) fn assign_asid(&mut self, tag: &mut AsidTag) -> (u32, AsidFlush) {
        // SAFETY: Only a window of this CPU reaches the pool, and `self` is borrowed mutably.
        self.asids.assign(unsafe { &mut *self.area.asids.get() }, tag)
    }

    /// The processor refused an entry.
    #[cold]
    pub(super) fn note_refused(&mut self) {
        // SAFETY: As in `assign_asid()`.
        self.asids.note_refused(unsafe { &mut *self.area.asids.get() });
    }

    /// Returns the TLB_CONTROL that flushes so much.
    #[inline]
    pub(super) fn tlb_control(&self, flush: AsidFlush) -> u32 {
        match flush {
            AsidFlush::Nothing => 0,
            AsidFlush::One if self.area.flush_by_asid => TLB_FLUSH_ASID,
            AsidFlush::One | AsidFlush::All => TLB_FLUSH_ALL,
        }
    }

    /// Flushes what a guest left under an ASID. Only an entry does.
    #[cold]
    fn flush(&mut self, asid: u32) {
        // SAFETY: As in `assign_asid()`.
        let no_guest = unsafe { &mut *self.area.flusher.get() };
        let maps = no_guest.maps.clone();
        let root = TableRoot::new(maps.nothing.hpa(), &maps);
        no_guest.place(self, &root, (asid, self.tlb_control(AsidFlush::One)));
        no_guest.run(self, &root, &mut [0; 16]);
        if is_refused(no_guest.control().exit_code) {
            pr_warn_once!(
                "CPU {}: translations could not be flushed: no guests there any more\n",
                self.cpu_id()
            );
            self.area.failed.store(true, Relaxed);
            self.area.checked.store(false, Relaxed);
        }
    }
}

impl Drop for SvmWindow<'_> {
    fn drop(&mut self) {
        if let Some(hidden) = self.shielded {
            hidden.show(host_wrmsr);
        }
        // SAFETY: As in `assign_asid()`.
        let left = self.asids.left_behind(unsafe { &*self.area.asids.get() });
        if let Some(asid) = left {
            self.flush(asid);
        }
        if let Some(efer) = self.efer {
            // SAFETY: The value found when the window was opened.
            unsafe { wrmsr(IA32_EFER, efer) };
        }
    }
}

/// An MSR permission map: two bits an MSR, set where the access exits. APM, "MSR Intercepts".
pub(super) struct MsrPermissionMap(KernelPages);

impl MsrPermissionMap {
    /// A map in which everything exits.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<MsrPermissionMap> {
        let mut pages = KernelPages::new(1)?;
        pages.bytes_mut().fill(0xff);
        Ok(MsrPermissionMap(pages))
    }

    /// Lets the guest read and write `msr` without an exit; unknown ranges stay as they are.
    ///
    /// Only for MSRs whose guest value is in the processor while a guest runs: those that VMLOAD loads.
    pub(super) fn pass_through(&mut self, msr: PassThrough) {
        let msr = msr as u32;
        let (range, index) = match msr {
            0..=0x1fff => (0usize, msr),
            0xc000_0000..=0xc000_1fff => (0x800, msr & 0x1fff),
            0xc001_0000..=0xc001_1fff => (0x1000, msr & 0x1fff),
            _ => return,
        };
        if let Some(byte) = self.0.bytes_mut().get_mut(range.saturating_add(index as usize / 4)) {
            *byte &= !(3 << (index % 4 * 2));
        }
    }
}

/// The MSRs that VMLOAD and VMSAVE switch, and so may be left to the guest.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum PassThrough {
    SysenterCs = 0x174,
    SysenterEsp = 0x175,
    SysenterEip = 0x176,
    Star = 0xc000_0081,
    Lstar = 0xc000_0082,
    Cstar = 0xc000_0083,
    SfMask = 0xc000_0084,
    FsBase = 0xc000_0100,
    GsBase = 0xc000_0101,
    KernelGsBase = 0xc000_0102,
}

/// An I/O permission map in which every port exits. APM, "I/O Intercepts".
pub(super) struct IoMap(KernelPages);

impl IoMap {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<IoMap> {
        let mut pages = KernelPages::new(2)?;
        pages.bytes_mut().fill(0xff);
        Ok(IoMap(pages))
    }
}

/// The maps that all guests share.
pub(super) struct PermissionMaps {
    pub(super) msr: MsrPermissionMap,
    pub(super) io: IoMap,
    /// The root of a nested table that maps nothing, or directory pointers that do.
    pub(super) nothing: KernelPages,
    /// Guests have nested paging.
    pub(super) nested_paging: bool,
}

/// Writes of CR4: MCE is the host's, and with bits that the guest is not offered it would work on registers that
/// nobody switches.
const HOST_SAFETY_CR: InterceptCr = InterceptCr::CR4_WRITE;
/// The intercepts without which a guest could touch the host.
const HOST_SAFETY3: InterceptVector3 = InterceptVector3::INTR
    .union(InterceptVector3::NMI)
    .union(InterceptVector3::SMI)
    .union(InterceptVector3::INIT)
    .union(InterceptVector3::IOIO)
    .union(InterceptVector3::MSR)
    .union(InterceptVector3::INVD)
    .union(InterceptVector3::INVLPGA)
    .union(InterceptVector3::FERR_FREEZE)
    .union(InterceptVector3::SHUTDOWN);
/// As [`HOST_SAFETY3`].
const HOST_SAFETY4: InterceptVector4 = InterceptVector4::VMRUN
    .union(InterceptVector4::VMLOAD)
    .union(InterceptVector4::VMSAVE)
    .union(InterceptVector4::STGI)
    .union(InterceptVector4::CLGI)
    .union(InterceptVector4::SKINIT)
    .union(InterceptVector4::WBINVD)
    .union(InterceptVector4::XSETBV);

impl PermissionMaps {
    /// Returns the intercepts of control registers that protect the host.
    fn safety_cr(&self) -> InterceptCr {
        if self.nested_paging {
            HOST_SAFETY_CR
        } else {
            HOST_SAFETY_CR | LINEAR_CR
        }
    }

    /// As [`PermissionMaps::safety_cr`], of the third vector.
    fn safety3(&self) -> InterceptVector3 {
        if self.nested_paging {
            HOST_SAFETY3
        } else {
            HOST_SAFETY3 | LINEAR3
        }
    }

    /// As [`PermissionMaps::safety_cr`], of exceptions.
    fn safety_exceptions(&self) -> u32 {
        if self.nested_paging {
            0
        } else {
            LINEAR_EXCEPTIONS
        }
    }
}

/// An owned VMCB.
///
/// # Invariants
/// The control area has the intercepts that protect the host, interrupt masking on, the maps of `maps`, which live as
/// long, and nested paging as `maps` has it. Where it is off, each entry is [`confine`]d to tables of ours.
pub(super) struct VmcbPage {
    page: KernelPages,
    hpa: Hpa,
    /// The clean bits of the coming entry.
    clean: CleanBits,
    last_cpu: Option<u32>,
    maps: Arc<PermissionMaps>,
    /// Without nested paging: directory pointers of the PAE format, below 4 GiB.
    pointers: Option<KernelPages>,
}

impl VmcbPage {
    /// Makes one whose maps are `maps`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(maps: Arc<PermissionMaps>) -> Result<VmcbPage> {
        let page = KernelPages::for_processor()?;
        let hpa = page.hpa();
        let pointers = if maps.nested_paging { None } else { Some(KernelPages::low()?) };
        let mut vmcb = VmcbPage { page, hpa, clean: CleanBits::empty(), last_cpu: None, maps, pointers };
        let (iopm, msrpm) = (vmcb.maps.io.0.hpa().0, vmcb.maps.msr.0.hpa().0);
        let np_control = if vmcb.maps.nested_paging { NP_ENABLE } else { 0 };
        let c = vmcb.control_mut();
        c.iopm_base = iopm;
        c.msrpm_base = msrpm;
        c.np_control = np_control;
        c.v_intr = V_INTR_MASKING;
        vmcb.set_intercepts(InterceptVector3::empty(), InterceptVector4::empty(), 0);
        Ok(vmcb)
    }

    /// Makes one in real mode, to be run with a table that maps nothing: it exits when it fetches its first
    /// instruction.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn of_no_guest(maps: Arc<PermissionMaps>) -> Result<VmcbPage> {
        let mut vmcb = VmcbPage::new(maps)?;
        let s = vmcb.save_mut(CleanBits::all());
        s.efer = Efer::SVME.bits();
        s.cr0 = Cr0::ET.bits();
        s.rflags = Rflags::ONE.bits();
        // Present, accessed, code.
        s.cs = VmcbSegment { attrib: 0x9b, limit: 0xffff, ..VmcbSegment::default() };
        Ok(vmcb)
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    fn check(&self) -> Result<(), &'static str> {
        let c = self.control();
        let (i3, i4) = (
            InterceptVector3::from_bits_retain(c.intercept3),
            InterceptVector4::from_bits_retain(c.intercept4),
        );
        let cr = InterceptCr::from_bits_retain(c.intercept_cr);
        rule(i3.contains(self.maps.safety3()) && i4.contains(HOST_SAFETY4), "what is the host's exits")?;
        rule(cr.contains(self.maps.safety_cr()), "control registers that are the host's exit")?;
        let exceptions = self.maps.safety_exceptions();
        rule(c.intercept_exc & exceptions == exceptions, "page faults of tables of ours exit")?;
        rule(
            c.v_intr & V_INTR_MASKING != 0,
            "the guest's interrupt flag does not hold the host's interrupts back",
        )?;
        let is_nested = c.np_control & NP_ENABLE != 0;
        rule(is_nested || self.save().cr0 & Cr0::PG.bits() != 0, "tables of ours are walked")?;
        rule(is_nested == self.maps.nested_paging, "nested paging is as the machine has it")?;
        let maps = [self.maps.msr.0.hpa().0, self.maps.io.0.hpa().0];
        rule(maps.contains(&c.msrpm_base) && c.iopm_base == self.maps.io.0.hpa().0, "the maps are ours")
    }

    #[inline(always)]
    fn vmcb(&self) -> &Vmcb {
        // SAFETY: The page is zeroed or written through this type, `Vmcb` is plain data that fits in
        // it, and the processor touches it only inside `run()`, which borrows `self` mutably.
        unsafe { self.page.as_ptr().cast::<Vmcb>().as_ref() }
    }

    #[inline(always)]
    fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: As in `vmcb()`.
        unsafe { self.page.as_ptr().cast::<Vmcb>().as_mut() }
    }

    #[inline(always)]
    fn control_mut(&mut self) -> &mut ControlArea {
        &mut self.vmcb_mut().control
    }

    /// Returns the control area to read.
    #[inline]
    pub(super) fn control(&self) -> &ControlArea {
        &self.vmcb().control
    }

    /// Returns the guest's registers.
    #[inline]
    pub(super) fn save(&self) -> &SaveArea {
        &self.vmcb().save
    }

    /// Returns the guest's registers to change; `fields` says which clean fields that touches.
    #[inline]
    pub(super) fn save_mut(&mut self, fields: CleanBits) -> &mut SaveArea {
        self.clean.remove(fields);
        &mut self.vmcb_mut().save
    }

    /// Sets the intercepts; those that protect the host are added.
    pub(super) fn set_intercepts(&mut self, i3: InterceptVector3, i4: InterceptVector4, exceptions: u32) {
        self.clean.remove(CleanBits::INTERCEPTS);
        let (safety3, safety_cr) = (self.maps.safety3(), self.maps.safety_cr());
        let exceptions = exceptions | self.maps.safety_exceptions();
        let c = self.control_mut();
        c.intercept3 = i3.union(safety3).bits();
        c.intercept4 = i4.union(HOST_SAFETY4).bits();
        c.intercept_exc = exceptions;
        c.intercept_cr |= safety_cr.bits();
    }

    /// Adds or removes intercepts of control registers; those that protect the host stay.
    #[inline]
    pub(super) fn intercept_cr(&mut self, which: InterceptCr, on: bool) {
        let safety = self.maps.safety_cr();
        let c = self.control_mut();
        let old = InterceptCr::from_bits_retain(c.intercept_cr);
        let new = if on { old | which } else { old.difference(which) | safety };
        if new != old {
            c.intercept_cr = new.bits();
            self.clean.remove(CleanBits::INTERCEPTS);
        }
    }

    /// Adds or removes one intercept of the third vector; those that protect the host stay.
    pub(super) fn intercept3(&mut self, which: InterceptVector3, on: bool) {
        let safety = self.maps.safety3();
        let c = self.control_mut();
        let old = InterceptVector3::from_bits_retain(c.intercept3);
        let new = if on { old | which } else { old.difference(which) | safety };
        if new != old {
            c.intercept3 = new.bits();
            self.clean.remove(CleanBits::INTERCEPTS);
        }
    }

    /// Makes an exception exit, or not; those that protect the host's memory stay. Not for #MC.
    pub(super) fn intercept_exception(&mut self, vector: ExceptionVector, on: bool) {
        self.clean.remove(CleanBits::INTERCEPTS);
        let bit = 1u32.wrapping_shl(vector.0.into());
        let safety = self.maps.safety_exceptions();
        let c = self.control_mut();
        c.intercept_exc = if on { c.intercept_exc | bit } else { c.intercept_exc & !bit | safety };
    }

    /// Makes accesses to debug registers exit, or not.
    pub(super) fn intercept_dr(&mut self, on: bool) {
        self.clean.remove(CleanBits::INTERCEPTS);
        self.control_mut().intercept_dr = if on { u32::MAX } else { 0 };
    }

    /// Intercepts all MSRs, or those that the map of MSRs says.
    pub(super) fn intercept_msrs(&mut self, all: bool) {
        self.clean.remove(CleanBits::PERM_MAPS);
        // The map of ports has all bits set, and is longer.
        let map = if all { self.maps.io.0.hpa() } else { self.maps.msr.0.hpa() };
        self.control_mut().msrpm_base = map.0;
    }

    /// Sets the guest's TSC offset.
    pub(super) fn set_tsc_offset(&mut self, offset: u64) {
        self.clean.remove(CleanBits::INTERCEPTS);
        self.control_mut().tsc_offset = offset;
    }

    /// Sets the virtual task priority.
    #[inline]
    pub(super) fn set_tpr(&mut self, cr8: u8) {
        let c = self.control_mut();
        let new = (c.v_intr & !V_TPR) | (u64::from(cr8) & V_TPR);
        if new != c.v_intr {
            c.v_intr = new;
            self.clean.remove(CleanBits::TPR);
        }
    }

    /// Makes a virtual interrupt pending (for the window), or not.
    pub(super) fn set_virtual_irq(&mut self, on: bool) {
        use super::vmcb::{V_IGN_TPR, V_PRIO};
        self.clean.remove(CleanBits::TPR);
        let c = self.control_mut();
        c.v_intr &= !(V_IRQ | V_PRIO | V_IGN_TPR);
        if on {
            c.v_intr |= V_IRQ | V_PRIO | V_IGN_TPR;
        }
    }

    /// Sets the interrupt shadow.
    pub(super) fn set_shadow(&mut self, on: bool) {
        self.control_mut().interrupt_shadow = u64::from(on);
    }

    /// Sets EVENTINJ.
    #[inline]
    pub(super) fn set_event(&mut self, event: u64) {
        self.control_mut().event_inj = event;
    }

    /// Sets, for the coming entries of `window`, the table that they walk, what the guest is tagged with on its CPU, and what
    /// they flush.
    pub(super) fn place(
        &mut self,
        window: &SvmWindow<'_>,
        root: &TableRoot<'_>,
        (asid, tlb_control): (u32, u32),
    ) {
        if self.last_cpu != Some(window.cpu_id()) {
            self.last_cpu = Some(window.cpu_id());
            // What this CPU may have cached of the VMCB is not from its last run. APM, "VMCB Clean Bits".
            self.clean = CleanBits::empty();
        }
        if self.control().asid != asid {
            self.clean.remove(CleanBits::ASID);
        }
        let c = self.control_mut();
        c.asid = asid;
        c.tlb_control = tlb_control;
        if c.ncr3 != root.hpa().0 {
            c.ncr3 = root.hpa().0;
            self.clean.remove(CleanBits::NP);
        }
    }

    /// Returns whether the guest has nested paging.
    pub(super) fn has_nested_paging(&self) -> bool {
        self.maps.nested_paging
    }

    /// Runs the guest until its next exit. [`VmcbPage::place`] came before, in the same window and with the same root.
    #[inline(always)]
    pub(super) fn run(&mut self, window: &mut SvmWindow<'_>, root: &TableRoot<'_>, gprs: &mut [u64; 16]) {
        if self.pointers.is_some() {
            self.confine(root);
        }
        let clean = self.clean.bits();
        self.control_mut().clean = clean;
        debug_assert_eq!(self.check(), Ok(()));
        debug_assert_eq!(self.control().ncr3, root.hpa().0);
        let (vmcb, host) = (self.hpa, window.host_vmcb);
        // SAFETY:
        // - `window` exists, so interrupts are off, SVME is set, the save area is ours to use and
        //   `_host_vmcb` was filled on this CPU; the run loop does not change what it holds.
        // - The VMCB has the intercepts and maps of the type invariant; `root` borrows the table that `place()` gave it,
        //   or that `confine()` did.
        unsafe { asm::enter(vmcb, gprs, host) };
        self.control_mut().event_inj = 0;
        self.clean = CleanBits::all();
    }

    /// Without nested paging: makes the coming entry walk the tables of `root`, or nothing where it has none.
    #[cold]
    #[inline(never)]
    fn confine(&mut self, root: &TableRoot<'_>) {
        let tables = root.as_linear().unwrap_or(&HardwareRoot::NOTHING);
        let Some(pointers) = self.pointers.as_mut() else { return };
        tables.write_pointers(pointers.bytes_mut());
        let pdpt = pointers.hpa().0;
        // Also where the address is the same: the processor loads directory pointers with CR3.
        confine(self.save_mut(CleanBits::CRX), tables, pdpt);
    }
}
