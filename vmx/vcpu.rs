// SPDX-License-Identifier: GPL-2.0

//! One virtual processor on VMX: the VMCS in the run loop's terms.
//!
//! The VMCS can be read and written only inside a window, once it is loaded. So the registers have an
//! image here: what is set between windows waits in it, and [`BackendVcpu::leave`] fetches into it what
//! the guest left in the processor.

use super::asm;
use super::capability::{PrimaryControls, VmEntryControls, VmxSetup, CR0_PAGED};
use super::check::{self, GuestState, TableField};
use super::event::{self, EntryInjection, BY_MOV_SS, BY_NMI, BY_STI};
use super::exit::{self, decode, ExitReport, REASON_CR};
use super::region::{VmcsPage, VmxWindow};
use super::switched::SwitchedMsrs;
use super::vmcs::{GuestField, SegmentFields};
use crate::arch::addr::canonical;
use crate::arch::cr::{Cr0, CrRules, CrState, Efer, Rflags};
use crate::arch::exception::ExceptionVector;
use crate::arch::segment::{DescTableReg, SegAttr, SegReg, SegmentState};
use crate::host::debug::DR6_IDLE;
use crate::mmu::asid::AsidTag;
use crate::mmu::format::Ept;
use crate::vcpu::backend::{BackendVcpu, TableRoot};
use crate::vcpu::controls::{ControlGroups, EntryControls, EntryTpr};
use crate::vcpu::event::{EventBlocking, GuestEvent};
use crate::vcpu::exit::{RawExit, VmExit};
use crate::vcpu::state::{StateGroups, SyscallMsrs, VcpuState, RSP};

/// Pending debug exceptions, BS: a single step.
const PENDING_STEP: u64 = 1 << 14;

/// The registers of the groups, while they are not in the VMCS.
#[derive(Clone, Copy, Default)]
struct StateImage {
    segs: [SegmentState; 6],
    ldtr: SegmentState,
    tr: SegmentState,
    gdt: DescTableReg,
    idt: DescTableReg,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    pdptes: [u64; 4],
    /// Without those that are switched by hand.
    syscall: SyscallMsrs,
    dr7: u64,
}

impl StateImage {
    /// Returns the control registers; nothing is said of CS.
    fn control(&self) -> CrState {
        CrState { cr0: self.cr0, cr3: self.cr3, cr4: self.cr4, efer: self.efer, cs_long: false }
    }

    /// Returns whether PAE paging is on, for which the processor has the directory pointers in registers.
    fn is_pae_paging(&self) -> bool {
        self.control().is_pae_paging()
    }
}

/// A virtual processor.
pub(crate) struct VmxVcpu {
    vmcs: VmcsPage,
    image: StateImage,
    /// Groups whose image the VMCS does not have yet.
    dirty: StateGroups,
    cr2: u64,
    dr6: u64,
    /// The guest's DR6 is in the processor.
    debug_loaded: bool,
    cr_rules: CrRules,
    tag: AsidTag,
    flush: bool,
    format: Ept,
    phys_bits: u32,
    linear_bits: u32,
    setup_ones: (u64, u64),
    /// Real mode and protected mode without paging run as they are.
    unrestricted: bool,
    /// Without EPT: CR3, CR4 and EFER are changed by software alone, and have their truth in the image.
    is_linear: bool,
    /// Without unrestricted guest: CR0.PE or CR0.PG is clear, which the guest cannot change without an exit.
    is_unpaged: bool,
    /// Nor can the processor run it with our tables; looked at where segments or control registers have changed.
    is_emulated: bool,
    event: Option<GuestEvent>,
    interruptibility: u32,
    interruptibility_written: Option<u32>,
    tsc_offset: u64,
    tsc_offset_written: Option<u64>,
    report: ExitReport,
    rip: u64,
    /// HLT does not exit.
    halts_in_guest: bool,
}

impl VmxVcpu {
    /// Makes one in the state after reset, all of it still to be written by [`BackendVcpu::write_state`].
    pub(super) fn new(
        setup: &VmxSetup,
        format: Ept,
        (phys_bits, linear_bits): (u32, u32),
        mut vmcs: VmcsPage,
    ) -> VmxVcpu {
        vmcs.set_cr4_guest(CrRules::WITHOUT_CPUID.cr4_bits());
        VmxVcpu {
            vmcs,
            image: StateImage::default(),
            dirty: StateGroups::empty(),
            cr2: 0,
            dr6: DR6_IDLE,
            debug_loaded: false,
            cr_rules: CrRules::WITHOUT_CPUID,
            tag: AsidTag::default(),
            flush: true,
            format,
            phys_bits,
            linear_bits,
            setup_ones: (setup.cr0_one, setup.cr4_one),
            unrestricted: setup.is_unrestricted(),
            is_linear: !setup.has_ept(),
            is_unpaged: !setup.is_unrestricted(),
            is_emulated: true,
            event: None,
            interruptibility: 0,
            interruptibility_written: None,
            tsc_offset: 0,
            tsc_offset_written: None,
            report: ExitReport::default(),
            rip: 0,
            halts_in_guest: false,
        }
    }

    fn read_segment(&self, f: SegmentFields) -> SegmentState {
        SegmentState {
            selector: self.vmcs.read(f.0) as u16,
            limit: self.vmcs.read(f.1) as u32,
            attr: SegAttr(self.vmcs.read(f.2) as u32),
            base: self.vmcs.read(f.3),
        }
    }

    fn write_segment(&mut self, f: SegmentFields, s: &SegmentState) {
        self.vmcs.write(f.0, u64::from(s.selector));
        self.vmcs.write(f.1, u64::from(s.limit));
        self.vmcs.write(f.2, u64::from(s.attr.0));
        self.vmcs.write(f.3, s.base);
    }

    /// Fetches groups from the VMCS, which is live.
    fn fetch(&self, want: StateGroups, out: &mut StateImage) {
        let v = &self.vmcs;
        if want.contains(StateGroups::SEGMENTS) {
            out.segs = GuestField::SEGMENTS.map(|f| self.read_segment(f));
            out.ldtr = self.read_segment(GuestField::LDTR);
            out.tr = self.read_segment(GuestField::TR);
        }
        if want.contains(StateGroups::TABLES) {
            let table = |base, limit| DescTableReg { base: v.read(base), limit: v.read(limit) as u16 };
            out.gdt = table(GuestField::GdtrBase, GuestField::GdtrLimit);
            out.idt = table(GuestField::IdtrBase, GuestField::IdtrLimit);
        }
        if want.contains(StateGroups::CONTROL) {
            (out.cr0, out.cr4) = v.control_registers();
            if !self.is_linear {
                (out.cr3, out.efer) = (v.cr3(), v.read(GuestField::Efer));
                // In other modes the fields are left over, and what software has set is kept.
                if out.is_pae_paging() {
                    out.pdptes = GuestField::PDPTES.map(|f| v.read(f));
                }
            }
        }
        if want.contains(StateGroups::SYSCALL) {
            let m = &mut out.syscall;
            m.sysenter_cs = v.read(GuestField::SysenterCs);
            m.sysenter_esp = v.read(GuestField::SysenterEsp);
            m.sysenter_eip = v.read(GuestField::SysenterEip);
            if !self.is_linear {
                m.pat = v.read(GuestField::Pat);
            }
        }
        if want.contains(StateGroups::DEBUG) {
            out.dr7 = v.read(GuestField::Dr7);
        }
    }

    /// Writes the groups that changed into the VMCS, which is live.
    fn store(&mut self) {
        let dirty = core::mem::replace(&mut self.dirty, StateGroups::empty());
        let image = self.image;
        if dirty.contains(StateGroups::SEGMENTS) {
            for (fields, seg) in GuestField::SEGMENTS.into_iter().zip(&image.segs) {
                self.write_segment(fields, &usable_data(seg));
            }
            self.write_segment(GuestField::LDTR, &image.ldtr);
            self.write_segment(GuestField::TR, &busy(&image.tr));
        }
        if dirty.contains(StateGroups::TABLES) {
            self.vmcs.write(GuestField::GdtrBase, image.gdt.base);
            self.vmcs.write(GuestField::GdtrLimit, u64::from(image.gdt.limit));
            self.vmcs.write(GuestField::IdtrBase, image.idt.base);
            self.vmcs.write(GuestField::IdtrLimit, u64::from(image.idt.limit));
        }
        if dirty.contains(StateGroups::CONTROL) {
            self.vmcs.set_control_registers(&image.control());
            if image.is_pae_paging() && !self.is_linear {
                for (field, entry) in GuestField::PDPTES.into_iter().zip(image.pdptes) {
                    self.vmcs.write(field, entry);
                }
            }
            // A change of CR0, CR4 or EFER by software may change what translations mean.
            self.flush = true;
        }
        if dirty.contains(StateGroups::SYSCALL) {
            let m = &image.syscall;
            self.vmcs.write(GuestField::SysenterCs, m.sysenter_cs);
            self.vmcs.write(GuestField::SysenterEsp, m.sysenter_esp);
            self.vmcs.write(GuestField::SysenterEip, m.sysenter_eip);
            if !self.is_linear {
                self.vmcs.write(GuestField::Pat, m.pat);
            }
        }
        if dirty.contains(StateGroups::DEBUG) {
            self.vmcs.write(GuestField::Dr7, image.dr7);
        }
    }

    /// Writes the event to be injected, and what blocks events.
    fn store_event(&mut self, state: &VcpuState) {
        if let Some(e) = self.event.take() {
            if matches!(e, GuestEvent::Exception { vector: ExceptionVector::DB, .. }) {
                self.tell_held_breakpoints();
            }
            let (cr0, _) = self.vmcs.control_registers();
            let EntryInjection { info, error, length } = event::encode(e, cr0 & Cr0::PE.bits() != 0);
            self.vmcs.write(GuestField::EntryInterruption, u64::from(info));
            self.vmcs.write(GuestField::EntryErrorCode, u64::from(error));
            self.vmcs.write(GuestField::EntryInsnLength, u64::from(length));
        }
        // Software may have cleared IF since, without which entries refuse this blocking. SDM, "Checks on Guest
        // Non-Register State".
        if self.interruptibility & BY_STI != 0 && state.rflags & Rflags::IF.bits() == 0 {
            self.interruptibility &= !BY_STI;
        }
        let (new, old) = (self.interruptibility, self.interruptibility_written);
        if old != Some(new) {
            self.vmcs.write(GuestField::Interruptibility, u64::from(new));
            self.interruptibility_written = Some(new);
        }
        let shadow = new & (BY_STI | BY_MOV_SS) != 0;
        if shadow || old.is_some_and(|o| o != new) {
            // A single step that a shadow holds back must be pending. SDM, "Checks on Guest Non-Register
            // State".
            let step = shadow && state.rflags & Rflags::TF.bits() != 0;
            let held = self.vmcs.read(GuestField::PendingDebug) & !PENDING_STEP;
            self.vmcs.write(GuestField::PendingDebug, held | if step { PENDING_STEP } else { 0 });
        }
    }

    /// #DB is delivered: breakpoints that a shadow held back would be lost with it, so they are part of it.
    #[cold]
    fn tell_held_breakpoints(&mut self) {
        let met = self.vmcs.read(GuestField::PendingDebug) & 0xf;
        if met != 0 {
            self.dr6 = self.guest_dr6() | met;
            if self.debug_loaded {
                asm::set_dr6(self.dr6);
            }
        }
    }

    /// After an exit: what the processor keeps of events, and of the debug exception that exited.
    fn after_exit(&mut self, state: &mut VcpuState) {
        let r = self.report;
        self.interruptibility = self.vmcs.read(GuestField::Interruptibility) as u32;
        self.interruptibility_written = Some(self.interruptibility);
        if r.has_unblocked_nmi() {
            self.interruptibility |= BY_NMI;
        }
        if r.basic() == Some(0) && r.interruption & 0xff == u32::from(ExceptionVector::DB.0) {
            // The exit qualification has what DR6 would: bits 3:0, 13, 14. Exits do not change DR6.
            self.dr6 = (self.guest_dr6() & !0xf) | (r.qualification & 0x600f);
            if self.debug_loaded {
                asm::set_dr6(self.dr6);
            }
            if event::is_int1(r.interruption) {
                state.rip = state.rip.wrapping_add(u64::from(r.length));
            }
        }
    }

    /// Puts the guest's DR6 into the processor, or takes it out.
    fn pass_debug_through(&mut self, on: bool) {
        if on && !self.debug_loaded {
            asm::set_dr6(self.dr6);
        } else if !on {
            self.dr6 = self.guest_dr6();
            asm::set_dr6(DR6_IDLE);
        }
        self.debug_loaded = on;
        self.vmcs.set_primary(PrimaryControls::MOV_DR, !on);
    }

    fn guest_dr6(&self) -> u64 {
        if self.debug_loaded {
            asm::dr6()
        } else {
            self.dr6
        }
    }

    /// Handles a write to CR0 or CR4 that touched bits which are not the guest's own: they are noted,
    /// and the instruction runs again, now without an exit.
    fn control_register(&mut self, state: &VcpuState) -> VmExit {
        let Some(write) = exit::cr_write(self.report.qualification) else { return decode(&self.report) };
        let value = state.gprs.get(usize::from(write.source)).copied().unwrap_or(0);
        let cs = SegAttr(self.vmcs.read(GuestField::CsRights) as u32);
        let long = self.vmcs.read(GuestField::Efer) & Efer::LMA.bits() != 0 && cs.is_long();
        // MOV to CR has 32 bits outside 64-bit mode.
        let value = if long { value } else { value & 0xffff_ffff };
        let leaves = write.number == 0 && value & CR0_PAGED != CR0_PAGED;
        // The processor can run the guest up to this instruction, not behind it: software carries it out.
        if leaves && !self.unrestricted {
            return decode(&self.report);
        }
        let (cr0, cr4) = self.vmcs.control_registers();
        let (cr3, efer) = (self.vmcs.cr3(), self.vmcs.read(GuestField::Efer));
        let now = CrState { cr0, cr3, cr4, efer, cs_long: cs.is_long() };
        let rules = &self.cr_rules;
        let checked =
            if write.number == 0 { rules.check_cr0(&now, value) } else { rules.check_cr4(&now, value) };
        match checked {
            // The shadows alone: the rest, directory pointers included, is the processor's when the instruction runs
            // again.
            Ok(after) => self.vmcs.set_shadows(after.state.cr0, after.state.cr4),
            Err(_) => return VmExit::Forbidden,
        }
        VmExit::Resolved
    }

    /// Returns whether an unpaged guest is one that the processor cannot run: in real mode, or on the way from there with
    /// segments that entries refuse; and with EPT, where it would walk tables that the guest does not have.
    #[inline(never)]
    fn must_emulate(&mut self, rflags: u64) -> bool {
        if !self.is_linear || self.image.cr0 & Cr0::PE.bits() == 0 {
            return true;
        }
        if self.dirty.intersects(StateGroups::SEGMENTS | StateGroups::CONTROL) {
            let mut image = self.image;
            self.fetch(StateGroups::SEGMENTS.difference(self.stale()), &mut image);
            let segs = image.segs.map(|seg| usable_data(&seg));
            self.is_emulated = check::broken_segments(&segs, &image.ldtr, &busy(&image.tr), rflags).is_some();
        }
        self.is_emulated
    }

    /// Returns the groups of which the VMCS does not have what is in force.
    fn stale(&self) -> StateGroups {
        if self.vmcs.is_live() {
            self.dirty
        } else {
            StateGroups::all()
        }
    }

    /// Takes control registers over. Returns whether any is another one than before, CR2 aside.
    fn take_control(&mut self, from: &VcpuState) -> bool {
        let mut was = self.image;
        if self.is_linear {
            self.fetch(StateGroups::CONTROL.difference(self.stale()), &mut was);
        }
        let image = &mut self.image;
        (image.cr0, image.cr3, image.cr4) = (from.cr0, from.cr3, from.cr4);
        (image.efer, image.pdptes) = (from.efer, from.pdptes);
        self.is_unpaged = !self.unrestricted && from.cr0 & CR0_PAGED != CR0_PAGED;
        self.cr2 = from.cr2;
        let has_other_rules = self.cr_rules != from.cr_rules;
        if has_other_rules {
            self.cr_rules = from.cr_rules;
            self.vmcs.set_cr4_guest(from.cr_rules.cr4_bits());
        }
        has_other_rules || was.control() != self.image.control()
    }

    /// Returns why the processor did not enter.
    #[cold]
    fn broken_rule(&self) -> &'static str {
        if self.report.reason == exit::VM_FAIL {
            return exit::fail_reason(self.report.qualification);
        }
        check::broken_rule(&self.guest_state()).unwrap_or("no rule known here is broken")
    }

    fn guest_state(&self) -> GuestState {
        let v = &self.vmcs;
        let mut image = StateImage::default();
        self.fetch(StateGroups::all(), &mut image);
        let (cr0, cr4, entry, activity) = v.owned_state();
        let table = |base, limit| TableField { base: v.read(base), limit: v.read(limit) as u32 };
        let (lme, nxe) = (Efer::LME | Efer::LMA, Efer::NXE);
        // Where there is no field, an entry gives it the mode and keeps the rest.
        let efer = match self.is_linear {
            true if entry & VmEntryControls::GUEST_64.bits() != 0 => (lme | nxe).bits(),
            true => nxe.bits(),
            false => image.efer,
        };
        GuestState {
            cr0,
            cr3: v.cr3(),
            cr4,
            dr7: image.dr7,
            efer,
            pdptes: image.pdptes,
            pat: image.syscall.pat,
            sysenter_esp: image.syscall.sysenter_esp,
            sysenter_eip: image.syscall.sysenter_eip,
            rip: v.read(GuestField::Rip),
            rflags: v.read(GuestField::Rflags),
            segs: image.segs,
            ldtr: image.ldtr,
            tr: image.tr,
            gdt: table(GuestField::GdtrBase, GuestField::GdtrLimit),
            idt: table(GuestField::IdtrBase, GuestField::IdtrLimit),
            interruptibility: v.read(GuestField::Interruptibility) as u32,
            activity,
            pending_debug: v.read(GuestField::PendingDebug),
            interruption: v.read(GuestField::EntryInterruption) as u32,
            entry,
            link: u64::MAX,
            cr0_one: self.setup_ones.0,
            cr4_one: self.setup_ones.1,
            unrestricted: self.unrestricted,
            phys_bits: self.phys_bits,
        }
    }
}

/// Entries want the accessed bit in every usable segment; the processor sets it with each load, but
/// user space may leave it out.
fn usable_data(seg: &SegmentState) -> SegmentState {
    let accessed = u32::from(!seg.attr.is_unusable());
    SegmentState { attr: SegAttr(seg.attr.0 | accessed), ..*seg }
}

/// As [`usable_data`], for TR's busy bit.
fn busy(tr: &SegmentState) -> SegmentState {
    SegmentState { attr: SegAttr(tr.attr.0 | 2), ..*tr }
}

impl BackendVcpu for VmxVcpu {
    type Window<'a> = VmxWindow<'a>;

    #[inline]
    fn enter(&mut self, window: &mut VmxWindow<'_>, root: &TableRoot<'_>, state: &mut VcpuState) -> RawExit {
        if self.is_unpaged && self.must_emulate(state.rflags) {
            self.report = ExitReport { reason: exit::SOFTWARE, ..ExitReport::default() };
            return self.report.raw();
        }
        if self.vmcs.load(window, state.rflags).is_err() {
            self.report = ExitReport { reason: exit::VM_FAIL, ..ExitReport::default() };
            state.broken_rule = self.broken_rule();
            return self.report.raw();
        }
        if !self.dirty.is_empty() {
            self.store();
        }
        self.vmcs.write(GuestField::Rip, state.rip);
        self.vmcs.write(GuestField::Rsp, state.gprs[RSP]);
        self.vmcs.write(GuestField::Rflags, state.rflags | Rflags::ONE.bits());
        if self.tsc_offset_written != Some(self.tsc_offset) {
            self.tsc_offset_written = Some(self.tsc_offset);
            self.vmcs.write(GuestField::TscOffset, self.tsc_offset);
        }
        self.store_event(state);
        // The VMCS has no CR2, and writing it serializes; mostly the value is still there.
        if asm::cr2() != self.cr2 {
            asm::set_cr2(self.cr2);
        }
        let flush = core::mem::replace(&mut self.flush, false);
        self.report = self.vmcs.run(window, (root, &self.format), (&mut self.tag, flush), &mut state.gprs);
        if self.report.basic().is_none() {
            state.broken_rule = self.broken_rule();
            // Whatever the failure left of it, the next entry must not inject it.
            self.vmcs.write(GuestField::EntryInterruption, 0);
            return self.report.raw();
        }
        self.cr2 = asm::cr2();
        state.rip = self.vmcs.read(GuestField::Rip);
        state.gprs[RSP] = self.vmcs.read(GuestField::Rsp);
        state.rflags = self.vmcs.read(GuestField::Rflags);
        state.ran();
        self.after_exit(state);
        self.rip = state.rip;
        self.report.raw()
    }

    fn exit(&mut self, _raw: RawExit, state: &mut VcpuState) -> VmExit {
        if self.report.basic() == Some(REASON_CR) && !self.is_linear {
            return self.control_register(state);
        }
        decode(&self.report)
    }

    fn leave(&mut self, _window: &mut VmxWindow<'_>) {
        if self.vmcs.is_live() {
            let mut image = self.image;
            // Not the groups that still wait to be written: of those the VMCS has what was before.
            self.fetch(self.dirty.complement(), &mut image);
            self.image = image;
            if self.halts_in_guest {
                // Behind its HLT, as on SVM: what comes next may be another state, or an event that no halted
                // processor takes.
                self.vmcs.end_halt();
            }
            self.vmcs.leave();
        }
    }

    fn read_state(&self, want: StateGroups, out: &mut VcpuState) {
        let mut image = self.image;
        self.fetch(want.difference(self.stale()), &mut image);
        if want.contains(StateGroups::SEGMENTS) {
            (out.segs, out.ldtr, out.tr) = (image.segs, image.ldtr, image.tr);
        }
        if want.contains(StateGroups::TABLES) {
            (out.gdt, out.idt) = (image.gdt, image.idt);
        }
        if want.contains(StateGroups::CONTROL) {
            (out.cr0, out.cr2, out.cr3, out.cr4) = (image.cr0, self.cr2, image.cr3, image.cr4);
            (out.efer, out.pdptes) = (image.efer, image.pdptes);
        }
        if want.contains(StateGroups::SYSCALL) {
            let m = self.vmcs.switched();
            out.syscall = SyscallMsrs {
                star: m.star,
                lstar: m.lstar,
                cstar: m.cstar,
                sfmask: m.sfmask,
                kernel_gs_base: m.kernel_gs_base,
                ..image.syscall
            };
        }
        if want.contains(StateGroups::DEBUG) {
            (out.dr6, out.dr7) = (self.guest_dr6(), image.dr7);
        }
    }

    fn write_state(&mut self, mut dirty: StateGroups, from: &VcpuState) {
        let image = &mut self.image;
        if dirty.contains(StateGroups::SEGMENTS) {
            (image.segs, image.ldtr, image.tr) = (from.segs, from.ldtr, from.tr);
            // The processor takes CPL from SS, whose DPL counts even where SS is null.
            let cpl = u32::from(from.cpl());
            let ss = &mut image.segs[SegReg::Ss as usize].attr;
            ss.0 = (ss.0 & !0x60) | cpl << 5;
        }
        if dirty.contains(StateGroups::TABLES) {
            (image.gdt, image.idt) = (from.gdt, from.idt);
        }
        // Without EPT this comes with each page fault of the guest's, for CR2.
        if dirty.contains(StateGroups::CONTROL) && !self.take_control(from) && self.is_linear {
            dirty.remove(StateGroups::CONTROL);
        }
        if dirty.contains(StateGroups::SYSCALL) {
            let m = from.syscall;
            self.image.syscall = m;
            // Made such that WRMSR takes them.
            self.vmcs.set_switched(SwitchedMsrs {
                star: m.star,
                lstar: canonical(m.lstar, self.linear_bits),
                cstar: canonical(m.cstar, self.linear_bits),
                sfmask: m.sfmask & 0xffff_ffff,
                kernel_gs_base: canonical(m.kernel_gs_base, self.linear_bits),
            });
        }
        if dirty.contains(StateGroups::DEBUG) {
            self.image.dr7 = from.dr7;
            self.dr6 = from.dr6;
            if self.debug_loaded {
                asm::set_dr6(from.dr6);
            }
        }
        self.dirty |= dirty;
    }

    fn write_controls(&mut self, dirty: ControlGroups, from: &EntryControls) {
        if dirty.contains(ControlGroups::INTERRUPT_WINDOW) {
            self.vmcs.set_primary(PrimaryControls::INTERRUPT_WINDOW, from.interrupt_window());
        }
        if dirty.contains(ControlGroups::NMI_WINDOW) {
            self.vmcs.set_primary(PrimaryControls::NMI_WINDOW, from.nmi_window());
        }
        if dirty.contains(ControlGroups::TPR) {
            let EntryTpr { cr8, floor } = from.tpr();
            self.vmcs.set_tpr(cr8 << 4, floor);
        }
        if dirty.contains(ControlGroups::TSC_OFFSET) {
            self.tsc_offset = from.tsc_offset();
        }
        if dirty.contains(ControlGroups::FLUSH) {
            self.flush = true;
        }
        if dirty.contains(ControlGroups::DEBUG_PASSTHROUGH) {
            self.pass_debug_through(from.debug_passthrough());
        }
        if dirty.contains(ControlGroups::BREAKPOINT_EXITS) {
            self.vmcs.set_breakpoint_exits(from.breakpoint_exits());
        }
        if dirty.contains(ControlGroups::MSR_EXITS) {
            // Without the map, all of them exit.
            self.vmcs.set_primary(PrimaryControls::MSR_BITMAP, !from.msr_exits());
        }
        if dirty.contains(ControlGroups::HOST_DATA) {
            self.vmcs.flush_l1d();
        }
        if dirty.contains(ControlGroups::HALT_EXITS) {
            self.vmcs.set_primary(PrimaryControls::HLT, from.halt_exits());
            self.halts_in_guest = !from.halt_exits();
        }
    }

    #[inline]
    fn next_rip(&self, _raw: &RawExit) -> Option<u64> {
        let length = self.report.length;
        if !(1..=15).contains(&length) {
            return None;
        }
        let next = self.rip.wrapping_add(u64::from(length));
        // Past 4 GiB: only 64-bit code goes on there. The caller decodes and knows.
        (self.rip >> 32 == next >> 32).then_some(next)
    }

    fn insn_bytes(&self) -> Option<&[u8]> {
        None
    }

    fn inject(&mut self, event: GuestEvent) {
        if event == GuestEvent::Nmi {
            // The exit at the end of the handler is that for an NMI window.
            self.interruptibility &= !BY_NMI;
            self.vmcs.set_primary(PrimaryControls::NMI_WINDOW, true);
        }
        self.event = Some(event);
    }

    fn take_interrupted(&mut self) -> Option<GuestEvent> {
        // What was to be injected is left over where there was no entry.
        self.event.take().or_else(|| event::interrupted(self.report.vectoring, self.report.vectoring_error))
    }

    #[inline]
    fn was_delivering(&self) -> bool {
        self.report.vectoring & event::VALID != 0
    }

    #[inline]
    fn blocking(&self) -> EventBlocking {
        event::blocking(self.interruptibility)
    }

    fn set_blocking(&mut self, blocking: EventBlocking) {
        self.interruptibility = event::with_blocking(self.interruptibility, blocking);
        self.vmcs.set_primary(PrimaryControls::NMI_WINDOW, blocking.nmi);
    }

    #[inline]
    fn tpr(&self) -> u8 {
        self.vmcs.tpr() >> 4
    }
}
