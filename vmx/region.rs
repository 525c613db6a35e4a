// SPDX-License-Identifier: GPL-2.0

//! The pages that the processor reads and writes by itself, and root operation as a guard.
//!
//! What in a VMCS could hurt the host is written here only: controls, masks, host state, and the
//! addresses of pages, which come from owners.

#![expect(unsafe_code, reason = "memory shared with the processor, and root operation")]

mod registers;

use super::asm::{self, HostSegments, VmFail};
use super::capability::{EptVpid, PrimaryControls, VmxSetup};
use super::event;
use super::exit::{EntryRefusal, ExitReport, REASON_EPT_VIOLATION, VM_FAIL};
use super::linear::{cr0_host, LINEAR_EXCEPTIONS};
use super::quirks::VmxQuirks;
use super::shared::SharedPages;
use super::switched::{SwitchedMsrs, SWITCHED};
use super::vmcs::{GuestField, HostField, OwnedField, ReadField, VmcsField};
use crate::arch::addr::Hpa;
use crate::arch::cr::{Cr4, Efer};
use crate::arch::exception::ExceptionVector;
use crate::arch::msr::PEBS_ENABLE;
use crate::host::cpu::PinnedCpu;
use crate::host::mitigation;
use crate::host::msr::{rdmsr, try_wrmsr, wrmsr};
use crate::host::page::KernelPages;
use crate::host::timer;
use crate::mmu::asid::{AsidPool, AsidTag, AssignedAsid};
use crate::mmu::format::{Ept, HardwareRoot};
use crate::vcpu::backend::TableRoot;
use crate::vcpu::exit::WATCHED_EXCEPTIONS;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use kernel::pr_warn_once;
use kernel::prelude::*;
use kernel::sync::Arc;
use x86::msr;

/// The last VPID. Another hypervisor's guests may have the same ones: see [`VmxWindow::assign_vpid`].
const LAST_VPID: u32 = 0xffff;

/// What each CPU has for running guests.
pub(super) struct VmxCpuArea {
    vmxon: KernelPages,
    vpids: UnsafeCell<AsidPool>,
}

// SAFETY: `vpids` is reached only through a `VmxWindow`, which holds the CPU that the area belongs to
// with interrupts off; so no two threads use it at once.
unsafe impl Sync for VmxCpuArea {}

impl VmxCpuArea {
    /// Allocates for CPU `cpu`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(cpu: u32, setup: &VmxSetup) -> Result<VmxCpuArea> {
        Ok(VmxCpuArea {
            vmxon: region(setup.revision)?,
            vpids: UnsafeCell::new(AsidPool::new(cpu, 1, LAST_VPID)),
        })
    }
}

/// A zeroed page that starts with the revision identifier, as VMXON and VMPTRLD want it.
fn region(revision: u32) -> Result<KernelPages> {
    let mut page = KernelPages::new(0)?;
    for (to, from) in page.bytes_mut().iter_mut().zip(revision.to_le_bytes()) {
        *to = from;
    }
    Ok(page)
}

/// Control of processor trace.
const RTIT_CTL: u32 = 0x570;
/// In [`RTIT_CTL`]: it is on.
const TRACE_ENABLE: u64 = 1;

/// IA32_FLUSH_CMD: flush the L1 data cache.
const FLUSH_CMD: u32 = 0x10b;

/// How a window came into VMX operation.
enum VmxOperation {
    /// By itself: the value of CR4 to put back, and of RTIT_CTL where tracing has to stop meanwhile.
    Own { cr4: u64, trace: u64 },
    /// Somebody (a loaded KVM) is in it: the address of the VMCS that was current.
    Shared(u64),
    /// Not at all: CR4 is as it was.
    Failed,
}

/// VMX operation on one CPU, interrupts off. Dropping it leaves the CPU as it was found.
///
/// CR4.VMXE is set behind the kernel's shadow copy of CR4, so no other writer of CR4 may run before
/// the drop: interrupts are off, and the NMI handlers write no CR4.
pub(crate) struct VmxWindow<'a> {
    area: &'a VmxCpuArea,
    cpu: &'a PinnedCpu,
    quirks: VmxQuirks,
    mode: VmxOperation,
    loaded: Option<LoadedVmcs>,
}

/// The VMCS that is current, and what of the host its guest changes.
struct LoadedVmcs {
    memory: Arc<VmcsMemory>,
    segments: HostSegments,
    fs_base: u64,
    debugctl: u64,
    /// PEBS_ENABLE.
    pebs: u64,
    /// EFER.SCE, where entries and exits do not switch it.
    syscalls: Option<bool>,
    msrs: [u64; SWITCHED.len()],
}

fn read_switched() -> [u64; SWITCHED.len()] {
    // SAFETY: Every 64-bit processor has these.
    SWITCHED.map(|m| unsafe { rdmsr(m) })
}

/// Writes those that differ from `old`.
///
/// # Errors
/// `EIO` where the processor refuses one; every 64-bit processor has them, and the values are such as it takes (the
/// host's own, or by [`VmxVcpu::write_state`](super::vcpu::VmxVcpu)).
fn write_switched(new: &[u64; SWITCHED.len()], old: &[u64; SWITCHED.len()]) -> Result {
    for ((index, new), old) in SWITCHED.iter().zip(new).zip(old) {
        if new != old {
            // SAFETY: The host uses them only on its way from and to user space, before which the window is
            // dropped.
            unsafe { try_wrmsr(*index, *new)? };
        }
    }
    Ok(())
}

/// Lets SYSCALL work, or not. Returns whether it did.
fn set_syscalls(on: bool) -> bool {
    // SAFETY: Every 64-bit processor has it.
    let efer = unsafe { rdmsr(msr::IA32_EFER) };
    let sce = Efer::SCE.bits();
    let wanted = if on { efer | sce } else { efer & !sce };
    if wanted != efer {
        // SAFETY: No system call comes before the window is dropped, which puts it back; nothing else changes.
        unsafe { wrmsr(msr::IA32_EFER, wanted) };
    }
    efer & sce != 0
}

/// Says in the log that the host did not get something back.
#[cold]
fn lost(what: &'static str) {
    pr_warn_once!("the host's {what} could not be put back\n");
}

/// Enters VMX operation. Returns CR4 as it was.
///
/// # Errors
/// The processor refuses; CR4 is as it was.
fn enter_operation(area: &VmxCpuArea, cr4: u64) -> core::result::Result<u64, VmFail> {
    // SAFETY: Only VMXE is added, and taken back below or with the window.
    unsafe { asm::set_cr4(cr4 | Cr4::VMXE.bits())? };
    // SAFETY: VMXE is set, interrupts are off (the caller opens a window), and the page is this CPU's own.
    unsafe { asm::vmxon(area.vmxon.hpa()) }.map(|()| cr4).inspect_err(|_| leave_operation(cr4))
}

/// Puts CR4 back, outside VMX operation.
fn leave_operation(cr4: u64) {
    // SAFETY: The value found.
    if unsafe { asm::set_cr4(cr4) }.is_err() {
        lost("CR4");
    }
}

/// Switches processor trace off where VMXON would, which loses its state. Returns RTIT_CTL, 0 where nothing was on.
///
/// An interrupt of the tracer's, an NMI, may try to switch it on meanwhile: that faults, and the kernel notes it.
fn stop_trace(quirks: VmxQuirks) -> u64 {
    if !quirks.stops_trace {
        return 0;
    }
    // SAFETY: The processor has it.
    let control = unsafe { rdmsr(RTIT_CTL) };
    if control & TRACE_ENABLE == 0 {
        return 0;
    }
    // SAFETY: As above; `go_on_tracing()` puts it back.
    unsafe { wrmsr(RTIT_CTL, control & !TRACE_ENABLE) };
    control
}

/// Undoes [`stop_trace`].
fn go_on_tracing(control: u64) {
    if control != 0 {
        // SAFETY: The value found, and VMX operation is over.
        unsafe { wrmsr(RTIT_CTL, control) };
    }
}

impl<'a> VmxWindow<'a> {
    /// Enters VMX operation on this CPU; `area` is the CPU's own.
    ///
    /// Where somebody has CR4.VMXE set already, VMXON was executed too: only the current VMCS changes
    /// hands, and the other's comes back when the window is dropped. Its own VMXOFF would come with an
    /// interrupt, which cannot happen in the window.
    pub(super) fn open(area: &'a VmxCpuArea, cpu: &'a PinnedCpu, quirks: VmxQuirks) -> VmxWindow<'a> {
        let cr4 = asm::cr4();
        let mode = if cr4 & Cr4::VMXE.bits() != 0 {
            if quirks.is_alone {
                pr_warn_once!("beside another hypervisor on Hyper-V no guest can run: unload kvm_intel\n");
                Err(VmFail::Invalid)
            } else {
                asm::vmptrst().map(VmxOperation::Shared)
            }
        } else {
            let trace = stop_trace(quirks);
            let entered = enter_operation(area, cr4).inspect_err(|_| go_on_tracing(trace));
            entered.map(|cr4| VmxOperation::Own { cr4, trace })
        };
        let mode = mode.unwrap_or(VmxOperation::Failed);
        VmxWindow { area, cpu, quirks, mode, loaded: None }
    }

    fn is_loaded(&self, memory: &Arc<VmcsMemory>) -> bool {
        self.loaded.as_ref().is_some_and(|l| Arc::ptr_eq(&l.memory, memory))
    }

    /// Gives `tag` a VPID of this CPU.
    ///
    /// It tells apart the vCPUs of one VM only: while EPT is in use, the processor uses and makes no
    /// translations but those that are tagged with the table's root, too, and no two hypervisors have a root
    /// in the same page. What was in a page before it became a root is flushed when a vCPU first comes to a
    /// CPU. SDM, "Caching Translation Information".
    fn assign_vpid(&mut self, tag: &mut AsidTag) -> AssignedAsid {
        // SAFETY: Only a window of this CPU reaches the pool, and `self` is borrowed mutably.
        unsafe { &mut *self.area.vpids.get() }.assign(tag)
    }

    /// Takes the VMCS off this CPU and puts back what its guest changed of the host.
    fn unload(&mut self) {
        let Some(l) = self.loaded.take() else { return };
        l.memory.live.store(false, Relaxed);
        // SAFETY: In VMX operation, since `load()` succeeded; the VMCS is this module's.
        let _ = unsafe { asm::vmclear(l.memory.vmcs.hpa()) };
        // SAFETY: Read on this CPU in this window.
        unsafe { l.segments.restore() };
        if l.segments.fs != 0 {
            // SAFETY: The value found.
            unsafe { wrmsr(msr::IA32_FS_BASE, l.fs_base) };
        }
        if l.pebs != 0 {
            // SAFETY: The value found.
            unsafe { wrmsr(PEBS_ENABLE, l.pebs) };
        }
        if write_switched(&l.msrs, &read_switched()).is_err() {
            lost("system call MSRs");
        }
        if let Some(on) = l.syscalls {
            set_syscalls(on);
        }
        if l.debugctl != 0 {
            // SAFETY: The value found; exits clear it.
            unsafe { wrmsr(msr::IA32_DEBUGCTL, l.debugctl) };
        }
    }
}

impl Drop for VmxWindow<'_> {
    fn drop(&mut self) {
        self.unload();
        match self.mode {
            VmxOperation::Own { cr4, trace } => {
                // SAFETY: Entered in `open()`; no VMCS is active after `unload()`.
                unsafe { asm::vmxoff() };
                leave_operation(cr4);
                go_on_tracing(trace);
            }
            VmxOperation::Shared(u64::MAX) | VmxOperation::Failed => {}
            VmxOperation::Shared(vmcs) => {
                // SAFETY: It was current on this CPU when the window was opened.
                if unsafe { asm::vmptrld(Hpa(vmcs)) }.is_err() {
                    lost("VMCS");
                }
            }
        }
    }
}

/// What the processor may hold on to while a VMCS is active; a window keeps it alive.
pub(super) struct VmcsMemory {
    vmcs: KernelPages,
    virtual_apic: KernelPages,
    shared: Arc<SharedPages>,
    /// A window has it as its current VMCS. That window belongs to the thread that has the vCPU.
    live: AtomicBool,
}

/// What the processor walks for a guest without EPT.
struct LinearTables {
    /// Directory pointers of the PAE format, below 4 GiB.
    pointers: KernelPages,
    /// What the VMCS leads to, unless it is to be written anew.
    walked: Option<HardwareRoot>,
    /// The guest's EFER.SCE.
    syscalls: bool,
}

/// An owned VMCS with its guest's part of the switched MSRs.
///
/// Its fields are in the processor while it is live; what is written at other times waits.
///
/// # Invariants
/// There are `linear` tables where the setup has no EPT. Then each entry is confined to tables of ours, and what would make
/// the processor walk others exits.
pub(super) struct VmcsPage {
    memory: Arc<VmcsMemory>,
    setup: VmxSetup,
    initialized: bool,
    launched: bool,
    primary: u32,
    primary_written: u32,
    /// The exceptions that exit.
    exceptions: u64,
    exceptions_written: u64,
    tpr_threshold: u8,
    tpr_threshold_written: u8,
    ept_pointer: u64,
    vpid: u64,
    /// Without EPT.
    linear: Option<KBox<LinearTables>>,
    /// The bits of CR4 that the guest changes without an exit.
    cr4_guest: u64,
    host: [u64; HostField::ALL.len()],
    msrs: SwitchedMsrs,
    /// What the processor did not take: told instead of the next entry.
    refusal: Option<EntryRefusal>,
}

impl VmcsPage {
    /// Makes one that exits for what `setup` says.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(setup: &VmxSetup, shared: Arc<SharedPages>) -> Result<VmcsPage> {
        let (vmcs, virtual_apic) = (region(setup.revision)?, KernelPages::new(0)?);
        let memory = VmcsMemory { vmcs, virtual_apic, shared, live: AtomicBool::new(false) };
        let mut exceptions = WATCHED_EXCEPTIONS.into();
        let mut linear = None;
        if !setup.has_ept() {
            exceptions |= LINEAR_EXCEPTIONS;
            let tables = LinearTables { pointers: KernelPages::low()?, walked: None, syscalls: false };
            linear = Some(KBox::new(tables, GFP_KERNEL_ACCOUNT)?);
        }
        Ok(VmcsPage {
            memory: Arc::new(memory, GFP_KERNEL_ACCOUNT)?,
            setup: *setup,
            initialized: false,
            launched: false,
            primary: setup.primary,
            primary_written: 0,
            exceptions,
            exceptions_written: 0,
            tpr_threshold: 0,
            tpr_threshold_written: 0,
            ept_pointer: 0,
            vpid: 0,
            linear,
            cr4_guest: 0,
            host: [0; HostField::ALL.len()],
            msrs: SwitchedMsrs::default(),
            refusal: None,
        })
    }

    /// Returns whether the fields can be read and written now.
    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.memory.live.load(Relaxed)
    }

    #[inline]
    fn vmread(&self, field: u32) -> u64 {
        if !self.is_live() {
            return 0;
        }
        // SAFETY: Live: in VMX operation on this CPU.
        unsafe { asm::vmread(field) }.unwrap_or(0)
    }

    #[inline]
    fn vmwrite(&mut self, field: u32, value: u64) {
        if !self.is_live() {
            return;
        }
        // SAFETY: Live: in VMX operation, and this VMCS is current. The callers below know their fields.
        if unsafe { asm::vmwrite(field, value) }.is_err() {
            self.note_refusal(EntryRefusal::Field(field));
        }
    }

    #[cold]
    fn note_refusal(&mut self, what: EntryRefusal) {
        self.refusal = self.refusal.or(Some(what));
    }

    /// Reads a field of the guest; 0 where the VMCS is not live.
    #[inline]
    pub(super) fn read(&self, field: GuestField) -> u64 {
        self.vmread(field.encoding())
    }

    /// Writes a field of the guest; without effect where the VMCS is not live.
    #[inline]
    pub(super) fn write(&mut self, field: GuestField, value: u64) {
        self.vmwrite(field.encoding(), value);
    }

    #[inline]
    fn told(&self, field: ReadField) -> u64 {
        self.vmread(field.encoding())
    }

    fn own(&mut self, field: OwnedField, value: u64) {
        self.vmwrite(field.encoding(), value);
    }

    /// Turns the exits for a window, for debug registers or for HLT on or off.
    #[inline]
    pub(super) fn set_primary(&mut self, which: PrimaryControls, on: bool) {
        let which = which.intersection(PrimaryControls::CHANGING).bits();
        self.primary = if on { self.primary | which } else { self.primary & !which };
    }

    /// The guest is not halted any more, if it was.
    #[cold]
    pub(super) fn end_halt(&mut self) {
        self.own(OwnedField::ActivityState, 0);
    }

    /// Makes INT3 exit, or not.
    pub(super) fn set_breakpoint_exits(&mut self, on: bool) {
        let bit = 1u64 << ExceptionVector::BP.0;
        // The next window writes it: debuggers ask between two, when the VMCS is nowhere loaded.
        self.exceptions = if on { self.exceptions | bit } else { self.exceptions & !bit };
    }

    /// Returns the guest's values of the MSRs that are switched by hand.
    pub(super) fn switched(&self) -> SwitchedMsrs {
        if self.is_live() {
            SwitchedMsrs::from_array(read_switched())
        } else {
            self.msrs
        }
    }

    /// Sets the guest's values of the MSRs that are switched by hand.
    pub(super) fn set_switched(&mut self, msrs: SwitchedMsrs) {
        self.msrs = msrs;
        if self.is_live() && write_switched(&msrs.to_array(), &read_switched()).is_err() {
            self.note_refusal(EntryRefusal::Msr);
        }
    }

    /// Returns the task priority register of the virtual-APIC page. SDM, "TPR Virtualization".
    #[inline]
    pub(super) fn tpr(&self) -> u8 {
        // SAFETY: Within the owned page; the processor writes it only while the guest runs.
        unsafe { self.memory.virtual_apic.as_ptr().add(TPR).read_volatile() }
    }

    /// Sets the task priority register of the virtual-APIC page, and the class below which a change of it exits.
    #[inline]
    pub(super) fn set_tpr(&mut self, tpr: u8, threshold: u8) {
        self.tpr_threshold = threshold;
        // SAFETY: As in `tpr()`; this value owns the page, though a window may keep it alive.
        unsafe { self.memory.virtual_apic.as_ptr().add(TPR).write_volatile(tpr) };
    }

    /// Makes this the current VMCS of the window's CPU, with that CPU's host state. Returns whether it
    /// is; the reason why not is then in `Err`, for [`ExitReport::reason`]. The guest starts with `rflags`.
    ///
    /// # Errors
    /// VMX operation could not be entered, or VMPTRLD failed.
    #[inline]
    pub(super) fn load(
        &mut self,
        window: &mut VmxWindow<'_>,
        rflags: u64,
    ) -> core::result::Result<(), VmFail> {
        if window.is_loaded(&self.memory) {
            return Ok(());
        }
        self.load_now(window, rflags)
    }

    #[inline(never)]
    fn load_now(&mut self, window: &mut VmxWindow<'_>, rflags: u64) -> core::result::Result<(), VmFail> {
        if matches!(window.mode, VmxOperation::Failed) {
            return Err(VmFail::Invalid);
        }
        window.unload();
        let hpa = self.memory.vmcs.hpa();
        // SAFETY: In VMX operation; no CPU has this VMCS active, since each window clears it.
        unsafe { asm::vmclear(hpa).and_then(|()| asm::vmptrld(hpa))? };
        let host = read_switched();
        let segments = HostSegments::read();
        // SAFETY: Every 64-bit processor has it.
        let fs_base = unsafe { rdmsr(msr::IA32_FS_BASE) };
        let debugctl = if window.quirks.has_debugctl {
            // SAFETY: By the line above.
            unsafe { rdmsr(msr::IA32_DEBUGCTL) }
        } else {
            0
        };
        let pebs = if window.quirks.has_pebs {
            // SAFETY: The probe found it.
            unsafe { rdmsr(PEBS_ENABLE) }
        } else {
            0
        };
        if pebs != 0 {
            // A record that is under way needs time to be written, so the entry alone would come too late.
            // SAFETY: Switches sampling off, for the window.
            unsafe { wrmsr(PEBS_ENABLE, 0) };
        }
        let syscalls = self.linear.as_ref().map(|linear| set_syscalls(linear.syscalls));
        self.launched = false;
        self.memory.live.store(true, Relaxed);
        window.loaded = Some(LoadedVmcs {
            memory: self.memory.clone(),
            segments,
            fs_base,
            debugctl,
            pebs,
            syscalls,
            msrs: host,
        });
        if write_switched(&self.msrs.to_array(), &host).is_err() {
            self.note_refusal(EntryRefusal::Msr);
        }
        if !self.initialized {
            self.initialize();
            self.initialized = true;
        }
        if self.exceptions != self.exceptions_written {
            self.exceptions_written = self.exceptions;
            self.own(OwnedField::ExceptionBitmap, self.exceptions);
        }
        if window.quirks.has_pebs {
            self.own(OwnedField::EntryMsrLoadCount, window.quirks.entry_loads(pebs));
        }
        if let Some(timer) = self.setup.longest_run(timer::tsc_khz(), rflags) {
            self.own(OwnedField::PreemptionTimer, u64::from(timer));
        }
        self.write_host(&segments, fs_base);
        self.flush_l1d();
        Ok(())
    }

    /// Flushes the L1 data cache where a guest could read it: before the first entry of a window, and where the host has
    /// read data of its own since the last one.
    pub(super) fn flush_l1d(&self) {
        if self.is_live() && self.memory.shared.flushes_l1d {
            // SAFETY: The processor has it (probe); it drops cached data only.
            unsafe { wrmsr(FLUSH_CMD, 1) };
        }
    }

    /// Takes the guest's part of the switched MSRs back, before the window is dropped.
    pub(super) fn leave(&mut self) {
        self.msrs = self.switched();
    }

    /// Writes what never changes.
    fn initialize(&mut self) {
        let s = self.setup;
        if s.has_encls() {
            // No guest is offered enclaves; ENCLS would work on the host's.
            self.own(OwnedField::EnclsBitmap, u64::MAX);
        }
        let (bitmap, apic) = (self.memory.shared.bitmap.hpa().0, self.memory.virtual_apic.hpa().0);
        for (field, value) in [
            (OwnedField::PinControls, u64::from(s.pin)),
            (OwnedField::SecondaryControls, u64::from(s.secondary)),
            (OwnedField::ExitControls, u64::from(s.exit)),
            (OwnedField::VmEntryControls, u64::from(s.entry)),
            (OwnedField::PageFaultMask, 0),
            (OwnedField::PageFaultMatch, 0),
            (OwnedField::Cr3TargetCount, 0),
            (OwnedField::ExitMsrStoreCount, 0),
            (OwnedField::ExitMsrLoadCount, 0),
            (OwnedField::EntryMsrLoadCount, 0),
            (OwnedField::EntryMsrLoad, self.memory.shared.no_pebs.hpa().0),
            (OwnedField::TprThreshold, 0),
            (OwnedField::ActivityState, 0),
            (OwnedField::LinkPointer, u64::MAX),
            (OwnedField::DebugCtl, 0),
            (OwnedField::MsrBitmap, bitmap),
            (OwnedField::VirtualApic, apic),
            (OwnedField::Cr0Mask, cr0_host(&s)),
        ] {
            self.own(field, value);
        }
    }

    /// Writes what of the host state has changed since the last window. FS, GS, DS and ES are null for
    /// the kernel; a selector of user space is put back by [`VmxWindow::unload`].
    fn write_host(&mut self, s: &HostSegments, fs_base: u64) {
        // SAFETY: Every processor with VMX has these MSRs.
        let of_msr = |index| unsafe { rdmsr(index) };
        for (i, field) in HostField::ALL.iter().enumerate() {
            let value = match field {
                // Exits do not load it, and the processor may not have the field.
                HostField::Pat | HostField::Efer if self.linear.is_some() => continue,
                HostField::EsSelector | HostField::DsSelector => 0,
                HostField::FsSelector | HostField::GsSelector => 0,
                HostField::CsSelector => u64::from(s.cs),
                HostField::SsSelector => u64::from(s.ss),
                HostField::TrSelector => u64::from(s.tr),
                HostField::Pat => of_msr(msr::IA32_PAT),
                HostField::Efer => of_msr(msr::IA32_EFER),
                HostField::SysenterCs => of_msr(msr::IA32_SYSENTER_CS),
                HostField::SysenterEsp => of_msr(msr::IA32_SYSENTER_ESP),
                HostField::SysenterEip => of_msr(msr::IA32_SYSENTER_EIP),
                HostField::Cr0 => asm::cr0(),
                HostField::Cr3 => asm::cr3(),
                HostField::Cr4 => asm::cr4(),
                HostField::FsBase => fs_base,
                HostField::GsBase => of_msr(msr::IA32_GS_BASE),
                HostField::TrBase => s.tss_base(),
                HostField::GdtrBase => s.gdt_base(),
                HostField::IdtrBase => s.idt_base(),
            };
            if self.host.get(i) != Some(&value) || !self.launched_once() {
                self.vmwrite(field.encoding(), value);
                if let Some(slot) = self.host.get_mut(i) {
                    *slot = value;
                }
            }
        }
    }

    /// Whether the host state has been written before; 0 is then no longer "never written".
    fn launched_once(&self) -> bool {
        self.primary_written != 0
    }

    fn write_address_space(&mut self, window: &mut VmxWindow<'_>, eptp: u64, tag: &mut AsidTag, flush: bool) {
        let assigned = window.assign_vpid(tag);
        // Without VPIDs entries and exits drop what they would tag.
        let vpid = if self.setup.has_vpid() { u64::from(assigned.asid) } else { 0 };
        if vpid != self.vpid {
            self.vpid = vpid;
            self.own(OwnedField::Vpid, vpid);
        }
        if eptp != self.ept_pointer {
            self.ept_pointer = eptp;
            self.own(OwnedField::EptPointer, eptp);
        }
        if flush || assigned.is_new {
            // Drops what is cached of the guest's physical addresses, and all that was derived from it, under
            // whichever VPID.
            let one = self.setup.ept_vpid.contains(EptVpid::INVEPT_SINGLE).then_some(eptp);
            // SAFETY: In VMX operation; the probe found this type.
            if unsafe { asm::invept(one) }.is_err() {
                *tag = AsidTag::default();
                self.note_refusal(EntryRefusal::Flush);
            }
        }
    }

    /// Runs the guest until its next exit. The VMCS must have been loaded.
    #[inline]
    pub(super) fn run(
        &mut self,
        window: &mut VmxWindow<'_>,
        (root, format): (&TableRoot<'_>, &Ept),
        (tag, flush): (&mut AsidTag, bool),
        gprs: &mut [u64; 16],
    ) -> ExitReport {
        if !window.is_loaded(&self.memory) {
            return ExitReport { reason: VM_FAIL, ..ExitReport::default() };
        }
        if self.linear.is_some() {
            // Without VPIDs entries and exits flush everything.
            self.confine(root);
        } else {
            self.write_address_space(window, format.eptp(root.hpa()), tag, flush);
        }
        if self.primary != self.primary_written {
            self.primary_written = self.primary;
            self.own(OwnedField::PrimaryControls, u64::from(self.primary));
        }
        if self.tpr_threshold != self.tpr_threshold_written {
            self.tpr_threshold_written = self.tpr_threshold;
            self.own(OwnedField::TprThreshold, u64::from(self.tpr_threshold));
        }
        // Not entered: a field that was refused still has its old value.
        if let Some(what) = self.refusal.take() {
            return ExitReport { reason: VM_FAIL, qualification: what.info(), ..ExitReport::default() };
        }
        // SAFETY:
        // - `window` has this VMCS as the current one, so interrupts are off and its CPU is in VMX
        //   operation; `launched` is cleared with each VMCLEAR.
        // - The controls are those of `VmxSetup`, which exit for what is the host's; the host state was
        //   written in this window; `root` borrows the table.
        match unsafe { asm::enter(gprs, self.launched) } {
            Ok(()) => self.report(window.cpu),
            Err(_) => {
                let error = self.told(ReadField::InstructionError);
                ExitReport { reason: VM_FAIL, qualification: error, ..ExitReport::default() }
            }
        }
    }

    /// Reads what the processor tells about the exit, and hands the host what is its own.
    #[inline]
    fn report(&mut self, cpu: &PinnedCpu) -> ExitReport {
        let mut r = ExitReport {
            reason: self.told(ReadField::ExitReason),
            qualification: self.told(ReadField::Qualification),
            vectoring: self.told(ReadField::IdtVectoring) as u32,
            length: self.told(ReadField::InsnLength) as u32,
            ..ExitReport::default()
        };
        if r.vectoring & event::VALID != 0 {
            r.vectoring_error = self.told(ReadField::IdtVectoringErrorCode) as u32;
        }
        match r.basic() {
            Some(0) => {
                r.interruption = self.told(ReadField::ExitInterruption) as u32;
                r.error = self.told(ReadField::ExitErrorCode) as u32;
                if event::is_nmi(r.interruption) {
                    // SAFETY: That is what just happened; hosts with FRED were refused.
                    unsafe { asm::host_nmi() };
                }
            }
            Some(REASON_EPT_VIOLATION | 49) => r.gpa = self.told(ReadField::GuestPhysical),
            None if r.is_machine_check() => mitigation::machine_check(cpu),
            _ => {}
        }
        // Only an entry that succeeds launches the VMCS: after a first one that failed it is VMLAUNCH again.
        self.launched |= r.basic().is_some();
        r
    }
}

/// Offset of the task priority register in the virtual-APIC page.
const TPR: usize = 0x80;
