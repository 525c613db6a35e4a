// SPDX-License-Identifier: GPL-2.0

//! One virtual processor on SVM: the VMCB in the run loop's terms.

use super::caching::{has_caching_bits, HiddenCaching};
use super::exit::{decode, is_refused, IOIO};
use super::features::SvmFeatures;
use super::linear::GuestControls;
use super::region::{SvmWindow, VmcbPage};
use super::step::SingleStep;
use super::vmcb::{CleanBits, InterceptCr, InterceptVector3, InterceptVector4, SaveArea, VmcbSegment};
use super::vmcb::{EVENT_ERROR, EVENT_VALID, V_TPR};
use crate::arch::cr::{Cr4, Efer, Rflags};
use crate::arch::exception::ExceptionVector;
use crate::arch::segment::{DescTableReg, SegAttr, SegReg, SegmentState};
use crate::host::cpu::kick;
use crate::host::debug::{reset_status, DR6_IDLE};
use crate::mmu::asid::{AsidFlush, AsidTag};
use crate::vcpu::backend::{BackendVcpu, CodeContext, TableRoot};
use crate::vcpu::controls::{ControlGroups, EntryControls, EntryTpr};
use crate::vcpu::event::{EventBlocking, GuestEvent};
use crate::vcpu::exit::{RawExit, VmExit, WATCHED_EXCEPTIONS};
use crate::vcpu::state::{StateGroups, VcpuState, RAX, RSP};
use kernel::prelude::*;

/// Event types of EVENTINJ and EXITINTINFO. APM, "Event Injection".
const TYPE_INTR: u64 = 0 << 8;
const TYPE_NMI: u64 = 2 << 8;
const TYPE_EXCEPTION: u64 = 3 << 8;
const TYPE_SOFT: u64 = 4 << 8;
const TYPE_MASK: u64 = 7 << 8;

/// The exit code of #DB.
const DEBUG_EXCEPTION: u64 = 0x40 + ExceptionVector::DB.0 as u64;

/// A virtual processor.
pub(crate) struct SvmVcpu {
    vmcb: VmcbPage,
    tag: AsidTag,
    /// Translations of this guest must go with the coming entry.
    flush: bool,
    /// What [`VmcbPage::place`] was told does not fit the coming entry, as for the first of a window.
    misplaced: bool,
    has_next_rip: bool,
    has_decode_assist: bool,
    /// The host's CR4.MCE, in force in guest mode too: a machine check without it shuts the CPU down.
    host_mce: u64,
    /// The guest's.
    guest_mce: u64,
    /// What the guest has of CR0's caching bits.
    caching: HiddenCaching,
    /// Without nested paging: the control registers that the guest has.
    linear: Option<KBox<GuestControls>>,
    /// An NMI is in service.
    nmi_masked: bool,
    /// The IRET that ends it is about to run, at this RIP.
    nmi_iret: Option<u64>,
    /// The coming entry is to end after one instruction.
    wants_step: bool,
    /// The coming entry is to end once its event is delivered.
    wants_exit: bool,
    /// The entry before this exit was.
    step: Option<SingleStep>,
}

impl SvmVcpu {
    /// Makes one in the state after reset, all of it still to be written by [`BackendVcpu::write_state`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(features: &SvmFeatures, host_mce: u64, mut vmcb: VmcbPage) -> Result<SvmVcpu> {
        // Beside the vCPU, so that those with nested paging look at one word.
        let linear = if vmcb.has_nested_paging() {
            None
        } else {
            Some(KBox::new(GuestControls::default(), GFP_KERNEL_ACCOUNT)?)
        };
        vmcb.set_intercepts(
            InterceptVector3::CPUID
                | InterceptVector3::HLT
                | InterceptVector3::RDPMC
                | InterceptVector3::TASK_SWITCH,
            InterceptVector4::VMMCALL
                | InterceptVector4::MONITOR
                | InterceptVector4::MWAIT
                | InterceptVector4::RDPRU,
            WATCHED_EXCEPTIONS,
        );
        vmcb.intercept_dr(true);
        Ok(SvmVcpu {
            vmcb,
            tag: AsidTag::default(),
            flush: true,
            misplaced: true,
            has_next_rip: features.next_rip,
            has_decode_assist: features.decode_assist,
            host_mce,
            guest_mce: 0,
            caching: HiddenCaching::default(),
            linear,
            nmi_masked: false,
            nmi_iret: None,
            wants_step: false,
            wants_exit: false,
            step: None,
        })
    }

    /// Tags the guest for this CPU, gives it its table, and says what the coming entry flushes.
    #[cold]
    #[inline(never)]
    fn place(&mut self, window: &mut SvmWindow<'_>, root: &TableRoot<'_>) {
        window.shield();
        if has_caching_bits(self.vmcb.save().cr0) {
            self.hide_caching();
        }
        let (asid, flush) = window.assign_asid(&mut self.tag);
        let own = if core::mem::take(&mut self.flush) { AsidFlush::One } else { AsidFlush::Nothing };
        let tlb_control = window.tlb_control(flush.max(own));
        // The entry after one that flushes does not.
        self.misplaced = tlb_control != 0;
        self.vmcb.place(window, root, (asid, tlb_control));
        if core::mem::take(&mut self.wants_exit) {
            // Interrupts are off: it waits until the guest runs, and the event goes first.
            kick(window.cpu_id());
        }
        self.note_iret();
        if core::mem::take(&mut self.wants_step) {
            let iret = self.nmi_iret;
            let s = self.vmcb.save_mut(CleanBits::empty());
            self.step = Some(SingleStep { iret, rflags: s.rflags, dr6: s.dr6 });
            s.rflags |= Rflags::TF.bits();
        }
    }

    /// The guest itself has set caching bits.
    #[cold]
    fn hide_caching(&mut self) {
        self.set_cr0(self.vmcb.save().cr0);
        // Translations have memory types.
        self.flush = true;
    }

    /// Sets the guest's CR0.
    fn set_cr0(&mut self, cr0: u64) {
        let own = self.caching.take(cr0);
        // What the guest reads is not the processor's, and what it writes must not become it.
        let exits = self.caching.is_any() || self.linear.is_some();
        self.vmcb.intercept_cr(InterceptCr::CR0_READ | InterceptCr::CR0_WRITE, exits);
        self.vmcb.save_mut(CleanBits::CRX).cr0 = own;
    }

    /// Before an entry: ends the blocking of NMIs if the IRET that was about to run has run, for RIP has moved.
    /// Until then the next entry looks again; later, RIP could be there by chance.
    fn note_iret(&mut self) {
        let Some(at) = self.nmi_iret else { return };
        if self.vmcb.save().rip == at {
            self.misplaced = true;
        } else {
            self.nmi_iret = None;
            self.nmi_masked = false;
        }
    }

    /// An event goes first: the IRET that was about to run, if it still is, exits again.
    fn put_off_iret(&mut self) {
        let Some(at) = self.nmi_iret.take() else { return };
        if self.vmcb.save().rip == at {
            self.vmcb.intercept3(InterceptVector3::IRET, true);
        } else {
            self.nmi_masked = false;
        }
    }

    /// The IRET exit came: the NMI is over once that instruction has run.
    fn await_iret(&mut self) {
        self.nmi_iret = Some(self.vmcb.save().rip);
        self.misplaced = true;
        self.vmcb.intercept3(InterceptVector3::IRET, false);
    }

    /// Drops all cached translations of this guest before the next entry.
    fn flush_tlb(&mut self) {
        self.flush = true;
        self.misplaced = true;
    }

    /// An NMI waits: lets the guest run as far as what stands in the way, an instruction or an event that is
    /// delivered.
    fn step_to_nmi(&mut self) {
        // Another one that is served ends with an IRET, which exits.
        if self.nmi_masked && self.nmi_iret.is_none() {
            return;
        }
        // An event would push the trap flag.
        let is_event = self.vmcb.control().event_inj & EVENT_VALID != 0;
        self.wants_step = !is_event;
        self.wants_exit = is_event;
        self.misplaced = true;
    }
}

fn pack(seg: &SegmentState) -> VmcbSegment {
    let attr = if seg.attr.is_unusable() { 0 } else { seg.attr.0 };
    VmcbSegment {
        selector: seg.selector,
        attrib: ((attr & 0xff) | ((attr >> 4) & 0xf00)) as u16,
        limit: seg.limit,
        base: seg.base,
    }
}

#[inline(always)]
fn unpack(seg: &VmcbSegment) -> SegmentState {
    let packed = u32::from(seg.attrib);
    // A segment that is not present (bit 7) is unusable (bit 16).
    let attr = (packed & 0xff) | ((packed & 0xf00) << 4) | ((!packed & 0x80) << 9);
    SegmentState { selector: seg.selector, attr: SegAttr(attr), limit: seg.limit, base: seg.base }
}

fn table(seg: &VmcbSegment) -> DescTableReg {
    DescTableReg { base: seg.base, limit: seg.limit as u16 }
}

fn from_table(t: &DescTableReg) -> VmcbSegment {
    VmcbSegment { selector: 0, attrib: 0, limit: u32::from(t.limit), base: t.base }
}

/// Returns the context of code without nested paging: the control registers are the guest's, not the processor's.
#[cold]
#[inline(never)]
fn linear_context(guest: &GuestControls, s: &SaveArea) -> Option<CodeContext> {
    let (cr3, cr4, efer) = guest.context();
    Some(CodeContext { cr3, cr4, efer, cs: s.cs.attrib, cpl: s.cpl })
}

impl BackendVcpu for SvmVcpu {
    type Window<'a> = SvmWindow<'a>;

    #[inline(always)]
    fn enter(&mut self, window: &mut SvmWindow<'_>, root: &TableRoot<'_>, state: &mut VcpuState) -> RawExit {
        let save = self.vmcb.save_mut(CleanBits::empty());
        save.rax = state.gprs[RAX];
        save.rsp = state.gprs[RSP];
        save.rip = state.rip;
        save.rflags = state.rflags;

        if self.misplaced {
            self.place(window, root);
        }
        self.vmcb.run(window, root, &mut state.gprs);

        let save = self.vmcb.save();
        state.gprs[RAX] = save.rax;
        state.gprs[RSP] = save.rsp;
        state.rip = save.rip;
        state.rflags = save.rflags;
        state.ran();
        let c = self.vmcb.control();
        RawExit { reason: c.exit_code, info1: c.exit_info1, info2: c.exit_info2 }
    }

    #[inline(always)]
    fn exit(&mut self, raw: RawExit, _state: &mut VcpuState) -> VmExit {
        decode(raw)
    }

    fn end_step(&mut self, raw: RawExit, state: &mut VcpuState) -> bool {
        let Some(step) = self.step.take() else { return false };
        let s = self.vmcb.save_mut(CleanBits::DRX);
        let after = step.end(raw.reason == DEBUG_EXCEPTION, s.rip, s.rflags, s.dr6);
        s.dr6 = after.dr6;
        // The guest does not see the trap flag.
        state.rflags = after.rflags;
        after.is_ours
    }

    fn leave(&mut self, window: &mut SvmWindow<'_>) {
        if self.vmcb.save().dr6 != DR6_IDLE {
            // An exit leaves the guest's in the processor.
            reset_status();
        }
        if is_refused(self.vmcb.control().exit_code) {
            window.note_refused();
        }
        self.wants_step = false;
        self.wants_exit = false;
        self.misplaced = true;
    }

    fn read_state(&self, want: StateGroups, out: &mut VcpuState) {
        let s = self.vmcb.save();
        if want.contains(StateGroups::SEGMENTS) {
            out.segs = [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs].map(unpack);
            // SS.DPL is not kept by the processor in every mode; CPL is.
            let ss = &mut out.segs[SegReg::Ss as usize].attr;
            ss.0 = (ss.0 & !0x60) | (u32::from(s.cpl & 3) << 5);
            out.ldtr = unpack(&s.ldtr);
            out.tr = unpack(&s.tr);
        }
        if want.contains(StateGroups::TABLES) {
            out.gdt = table(&s.gdtr);
            out.idt = table(&s.idtr);
        }
        if want.contains(StateGroups::CONTROL) {
            (out.cr0, out.cr2, out.cr3) = (self.caching.shown(s.cr0), s.cr2, s.cr3);
            out.cr4 = (s.cr4 & !Cr4::MCE.bits()) | self.guest_mce;
            // VMRUN wants it set, though the guest has no SVM.
            out.efer = s.efer & !Efer::SVME.bits();
            if let Some(guest) = &self.linear {
                guest.put(out);
            }
        }
        if want.contains(StateGroups::SYSCALL) {
            let m = &mut out.syscall;
            (m.star, m.lstar, m.cstar, m.sfmask) = (s.star, s.lstar, s.cstar, s.sfmask);
            m.kernel_gs_base = s.kernel_gs_base;
            (m.sysenter_cs, m.sysenter_esp, m.sysenter_eip) = (s.sysenter_cs, s.sysenter_esp, s.sysenter_eip);
            m.pat = s.g_pat;
        }
        if want.contains(StateGroups::DEBUG) {
            (out.dr6, out.dr7) = (s.dr6, s.dr7);
        }
    }

    #[inline]
    fn read_code(&self, out: &mut VcpuState) {
        let s = self.vmcb.save();
        out.segs[SegReg::Cs as usize] = unpack(&s.cs);
        let ss = &mut out.segs[SegReg::Ss as usize].attr;
        ss.0 = (ss.0 & !0x60) | (u32::from(s.cpl & 3) << 5);
    }

    fn write_state(&mut self, dirty: StateGroups, from: &VcpuState) {
        if dirty.contains(StateGroups::SEGMENTS) {
            let s = self.vmcb.save_mut(CleanBits::SEG);
            [s.es, s.cs, s.ss, s.ds, s.fs, s.gs] = [0, 1, 2, 3, 4, 5].map(|i: usize| pack(&from.segs[i]));
            s.cpl = from.cpl();
            s.ldtr = pack(&from.ldtr);
            s.tr = pack(&from.tr);
        }
        if dirty.contains(StateGroups::TABLES) {
            let s = self.vmcb.save_mut(CleanBits::DT);
            s.gdtr = from_table(&from.gdt);
            s.idtr = from_table(&from.idt);
        }
        if dirty.contains(StateGroups::CONTROL) {
            self.guest_mce = from.cr4 & Cr4::MCE.bits();
            let mut cr4 = from.cr4 | self.host_mce;
            // A guest reads its own MCE, so reads exit where the host's is another one.
            self.vmcb.intercept_cr(InterceptCr::CR4_READ, cr4 != from.cr4 || self.linear.is_some());
            let mut is_other = true;
            if let Some(guest) = &mut self.linear {
                is_other = guest.take(from);
                cr4 = guest.processor_cr4(cr4);
            }
            self.set_cr0(from.cr0);
            let s = self.vmcb.save_mut(CleanBits::CRX | CleanBits::CR2);
            (s.cr2, s.cr3, s.cr4) = (from.cr2, from.cr3, cr4);
            s.efer = from.efer | Efer::SVME.bits();
            // A change of CR0, CR4 or EFER by software may change what translations mean. Without nested paging this comes
            // with each page fault of the guest's, for CR2.
            if is_other {
                self.flush_tlb();
            }
        }
        if dirty.contains(StateGroups::SYSCALL) {
            let m = &from.syscall;
            // For G_PAT; the others are read by VMLOAD, before each entry.
            let s = self.vmcb.save_mut(CleanBits::NP);
            (s.star, s.lstar, s.cstar, s.sfmask) = (m.star, m.lstar, m.cstar, m.sfmask);
            s.kernel_gs_base = m.kernel_gs_base;
            (s.sysenter_cs, s.sysenter_esp, s.sysenter_eip) = (m.sysenter_cs, m.sysenter_esp, m.sysenter_eip);
            s.g_pat = m.pat;
        }
        if dirty.contains(StateGroups::DEBUG) {
            let s = self.vmcb.save_mut(CleanBits::DRX);
            (s.dr6, s.dr7) = (from.dr6, from.dr7);
        }
    }

    fn write_controls(&mut self, dirty: ControlGroups, from: &EntryControls) {
        if dirty.contains(ControlGroups::INTERRUPT_WINDOW) {
            self.vmcb.intercept3(InterceptVector3::VINTR, from.interrupt_window());
            self.vmcb.set_virtual_irq(from.interrupt_window());
        }
        if dirty.contains(ControlGroups::NMI_WINDOW) {
            if from.nmi_window() {
                self.step_to_nmi();
            } else {
                self.await_iret();
            }
        }
        if dirty.contains(ControlGroups::TPR) {
            let EntryTpr { cr8, floor } = from.tpr();
            self.vmcb.set_tpr(cr8);
            self.vmcb.intercept_cr(InterceptCr::CR8_WRITE, floor != 0);
        }
        if dirty.contains(ControlGroups::TSC_OFFSET) {
            self.vmcb.set_tsc_offset(from.tsc_offset());
        }
        if dirty.contains(ControlGroups::FLUSH) {
            self.flush_tlb();
        }
        if dirty.contains(ControlGroups::DEBUG_PASSTHROUGH) {
            self.vmcb.intercept_dr(!from.debug_passthrough());
        }
        if dirty.contains(ControlGroups::BREAKPOINT_EXITS) {
            self.vmcb.intercept_exception(ExceptionVector::BP, from.breakpoint_exits());
        }
        if dirty.contains(ControlGroups::MSR_EXITS) {
            self.vmcb.intercept_msrs(from.msr_exits());
        }
        if dirty.contains(ControlGroups::HALT_EXITS) {
            // Without it, a guest goes on behind its HLT after any exit: the VMCB has no place for more.
            self.vmcb.intercept3(InterceptVector3::HLT, from.halt_exits());
        }
    }

    #[inline(always)]
    fn code_context(&self) -> Option<CodeContext> {
        let s = self.vmcb.save();
        if let Some(guest) = &self.linear {
            return linear_context(guest, s).filter(|_| !self.was_delivering());
        }
        let is_insn = !self.was_delivering();
        is_insn.then_some(CodeContext { cr3: s.cr3, cr4: s.cr4, efer: s.efer, cs: s.cs.attrib, cpl: s.cpl })
    }

    #[inline(always)]
    fn next_rip(&self, raw: &RawExit) -> Option<u64> {
        // In 32 bits as in `decode()`, after which the compiler knows it.
        if raw.reason as u32 == IOIO as u32 {
            // Told for IN and OUT by every processor. APM, "IOIO Intercept", EXITINFO2.
            return Some(raw.info2);
        }
        let next = self.vmcb.control().next_rip;
        (self.has_next_rip && next != 0).then_some(next)
    }

    fn insn_bytes(&self) -> Option<&[u8]> {
        let c = self.vmcb.control();
        if !self.has_decode_assist || c.insn_len == 0 {
            return None;
        }
        c.insn_bytes.get(..usize::from(c.insn_len))
    }

    #[inline(always)]
    fn inject(&mut self, event: GuestEvent) {
        self.put_off_iret();
        let (kind, vector, error) = match event {
            GuestEvent::Interrupt(v) => (TYPE_INTR, v, None),
            GuestEvent::Nmi => {
                self.nmi_masked = true;
                self.vmcb.intercept3(InterceptVector3::IRET, true);
                (TYPE_NMI, ExceptionVector::NMI.0, None)
            }
            GuestEvent::Exception { vector, error } => (TYPE_EXCEPTION, vector.0, error),
            GuestEvent::Software { vector } => (TYPE_SOFT, vector, None),
        };
        let error = error.map_or(0, |e| EVENT_ERROR | u64::from(e) << 32);
        self.vmcb.set_event(EVENT_VALID | kind | u64::from(vector) | error);
    }

    fn take_interrupted(&mut self) -> Option<GuestEvent> {
        let info = self.vmcb.control().exit_int_info;
        if info & EVENT_VALID == 0 {
            return None;
        }
        let vector = (info & 0xff) as u8;
        match info & TYPE_MASK {
            TYPE_INTR => Some(GuestEvent::Interrupt(vector)),
            TYPE_NMI => Some(GuestEvent::Nmi),
            // RIP is still at the INT3 or INTO: it runs again by itself. So does INT n.
            TYPE_EXCEPTION if vector == ExceptionVector::BP.0 || vector == ExceptionVector::OF.0 => None,
            TYPE_EXCEPTION => Some(GuestEvent::Exception {
                vector: ExceptionVector(vector),
                error: (info & EVENT_ERROR != 0).then_some((info >> 32) as u32),
            }),
            _ => None,
        }
    }

    #[inline(always)]
    fn was_delivering(&self) -> bool {
        self.vmcb.control().exit_int_info & EVENT_VALID != 0
    }

    #[inline]
    fn blocking(&self) -> EventBlocking {
        let is_done = || self.nmi_iret.is_some_and(|rip| rip != self.vmcb.save().rip);
        EventBlocking {
            shadow: self.vmcb.control().interrupt_shadow & 1 != 0,
            nmi: self.nmi_masked && !is_done(),
        }
    }

    fn set_blocking(&mut self, blocking: EventBlocking) {
        self.vmcb.set_shadow(blocking.shadow);
        self.nmi_masked = blocking.nmi;
        self.nmi_iret = None;
        self.vmcb.intercept3(InterceptVector3::IRET, blocking.nmi);
    }

    #[inline]
    fn tpr(&self) -> u8 {
        (self.vmcb.control().v_intr & V_TPR) as u8
    }
}
