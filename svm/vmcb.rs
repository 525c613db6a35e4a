// SPDX-License-Identifier: GPL-2.0

//! The layout of the VMCB and the encodings of its fields, as plain types.
//!
//! APM, "Layout of VMCB": a control area of 1,024 bytes, then the state-save area. Who may write
//! what is decided in [`super::region`], which owns the page.

use bitflags::bitflags;
use static_assertions::const_assert_eq;

/// A segment register in the state-save area. The attributes are the descriptor's bits 40 to 47
/// and 52 to 55, packed into 12 bits.
#[repr(C)]
#[derive(Clone, Copy, Default, zerocopy_derive::FromZeros)]
pub(crate) struct VmcbSegment {
    /// The selector.
    pub(crate) selector: u16,
    /// The packed attributes.
    pub(crate) attrib: u16,
    /// The limit in bytes.
    pub(crate) limit: u32,
    /// The base address.
    pub(crate) base: u64,
}

bitflags! {
    /// Fields that the processor may keep from the last run. APM, "VMCB Clean Bits".
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct CleanBits: u32 {
        /// Intercept vectors, TSC offset, pause filter.
        const INTERCEPTS = 1 << 0;
        /// Permission map addresses.
        const PERM_MAPS = 1 << 1;
        /// ASID.
        const ASID = 1 << 2;
        /// V_TPR, V_IRQ and their companions.
        const TPR = 1 << 3;
        /// Nested paging: nCR3 and g_pat.
        const NP = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CRX = 1 << 5;
        /// DR6, DR7.
        const DRX = 1 << 6;
        /// GDT and IDT.
        const DT = 1 << 7;
        /// CS, DS, SS, ES and CPL.
        const SEG = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
        /// Last branch records.
        const LBR = 1 << 10;
    }
}

bitflags! {
    /// Intercepts of control registers, vector 0: reads in the low half, writes in the high one.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct InterceptCr: u32 {
        /// Reads of CR0.
        const CR0_READ = 1 << 0;
        /// Reads of CR3.
        const CR3_READ = 1 << 3;
        /// Reads of CR4.
        const CR4_READ = 1 << 4;
        /// Writes of CR0.
        const CR0_WRITE = 1 << 16;
        /// Writes of CR3.
        const CR3_WRITE = 1 << 19;
        /// Writes of CR4.
        const CR4_WRITE = 1 << 20;
        /// Writes of CR8.
        const CR8_WRITE = 1 << 24;
    }
}

bitflags! {
    /// Intercepts, vector 3 (offset 0x00c).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct InterceptVector3: u32 {
        /// Physical interrupts.
        const INTR = 1 << 0;
        /// Physical NMIs.
        const NMI = 1 << 1;
        /// Physical SMIs.
        const SMI = 1 << 2;
        /// Physical INIT.
        const INIT = 1 << 3;
        /// A virtual interrupt is about to be taken.
        const VINTR = 1 << 4;
        /// CR0 writes that change more than TS and MP.
        const CR0_SEL_WRITE = 1 << 5;
        /// RDPMC.
        const RDPMC = 1 << 15;
        /// CPUID.
        const CPUID = 1 << 18;
        /// IRET.
        const IRET = 1 << 20;
        /// INVD.
        const INVD = 1 << 22;
        /// PAUSE.
        const PAUSE = 1 << 23;
        /// HLT.
        const HLT = 1 << 24;
        /// INVLPG.
        const INVLPG = 1 << 25;
        /// INVLPGA.
        const INVLPGA = 1 << 26;
        /// IN, OUT, INS, OUTS by the I/O permission map.
        const IOIO = 1 << 27;
        /// RDMSR and WRMSR by the MSR permission map.
        const MSR = 1 << 28;
        /// Task switches.
        const TASK_SWITCH = 1 << 29;
        /// FERR_FREEZE.
        const FERR_FREEZE = 1 << 30;
        /// Shutdown (triple fault).
        const SHUTDOWN = 1 << 31;
    }
}

bitflags! {
    /// Intercepts, vector 4 (offset 0x010).
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) struct InterceptVector4: u32 {
        /// VMRUN; must be set.
        const VMRUN = 1 << 0;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// WBINVD and WBNOINVD.
        const WBINVD = 1 << 9;
        /// MONITOR and MONITORX.
        const MONITOR = 1 << 10;
        /// MWAIT and MWAITX.
        const MWAIT = 1 << 11;
        /// XSETBV.
        const XSETBV = 1 << 13;
        /// RDPRU.
        const RDPRU = 1 << 14;
    }
}

/// The control area. APM, "VMCB Layout, Control Area".
#[repr(C)]
#[derive(zerocopy_derive::FromZeros)]
pub(super) struct ControlArea {
    pub(super) intercept_cr: u32,
    pub(super) intercept_dr: u32,
    pub(super) intercept_exc: u32,
    pub(super) intercept3: u32,
    pub(super) intercept4: u32,
    pub(super) intercept5: u32,
    reserved_018: [u8; 0x24],
    pub(super) pause_filter_threshold: u16,
    pub(super) pause_filter_count: u16,
    pub(super) iopm_base: u64,
    pub(super) msrpm_base: u64,
    pub(super) tsc_offset: u64,
    pub(super) asid: u32,
    pub(super) tlb_control: u32,
    pub(super) v_intr: u64,
    pub(super) interrupt_shadow: u64,
    pub(super) exit_code: u64,
    pub(super) exit_info1: u64,
    pub(super) exit_info2: u64,
    pub(super) exit_int_info: u64,
    pub(super) np_control: u64,
    reserved_098: [u8; 0x10],
    pub(super) event_inj: u64,
    pub(super) ncr3: u64,
    pub(super) lbr_control: u64,
    pub(super) clean: u32,
    reserved_0c4: u32,
    pub(super) next_rip: u64,
    pub(super) insn_len: u8,
    pub(super) insn_bytes: [u8; 15],
    reserved_0e0: [u8; 0x320],
}
const_assert_eq!(core::mem::size_of::<ControlArea>(), 0x400);
const_assert_eq!(core::mem::offset_of!(ControlArea, pause_filter_threshold), 0x3c);
const_assert_eq!(core::mem::offset_of!(ControlArea, iopm_base), 0x40);
const_assert_eq!(core::mem::offset_of!(ControlArea, v_intr), 0x60);
const_assert_eq!(core::mem::offset_of!(ControlArea, exit_int_info), 0x88);
const_assert_eq!(core::mem::offset_of!(ControlArea, event_inj), 0xa8);
const_assert_eq!(core::mem::offset_of!(ControlArea, clean), 0xc0);
const_assert_eq!(core::mem::offset_of!(ControlArea, next_rip), 0xc8);

/// The state-save area. APM, "VMCB Layout, State Save Area". Any value in it is safe for the host:
/// the worst is a VMRUN that ends with VMEXIT_INVALID.
#[repr(C)]
#[derive(zerocopy_derive::FromZeros)]
pub(crate) struct SaveArea {
    pub(crate) es: VmcbSegment,
    pub(crate) cs: VmcbSegment,
    pub(crate) ss: VmcbSegment,
    pub(crate) ds: VmcbSegment,
    pub(crate) fs: VmcbSegment,
    pub(crate) gs: VmcbSegment,
    pub(crate) gdtr: VmcbSegment,
    pub(crate) ldtr: VmcbSegment,
    pub(crate) idtr: VmcbSegment,
    pub(crate) tr: VmcbSegment,
    reserved_0a0: [u8; 0x2b],
    pub(crate) cpl: u8,
    reserved_0cc: u32,
    pub(crate) efer: u64,
    reserved_0d8: [u8; 0x70],
    pub(crate) cr4: u64,
    pub(crate) cr3: u64,
    pub(crate) cr0: u64,
    pub(crate) dr7: u64,
    pub(crate) dr6: u64,
    pub(crate) rflags: u64,
    pub(crate) rip: u64,
    reserved_180: [u8; 0x58],
    pub(crate) rsp: u64,
    reserved_1e0: [u8; 0x18],
    pub(crate) rax: u64,
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) sfmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) sysenter_cs: u64,
    pub(crate) sysenter_esp: u64,
    pub(crate) sysenter_eip: u64,
    pub(crate) cr2: u64,
    reserved_248: [u8; 0x20],
    pub(crate) g_pat: u64,
    pub(crate) dbgctl: u64,
    pub(crate) br_from: u64,
    pub(crate) br_to: u64,
    pub(crate) last_excp_from: u64,
    pub(crate) last_excp_to: u64,
}
const_assert_eq!(core::mem::offset_of!(SaveArea, cpl), 0xcb);
const_assert_eq!(core::mem::offset_of!(SaveArea, efer), 0xd0);
const_assert_eq!(core::mem::offset_of!(SaveArea, cr4), 0x148);
const_assert_eq!(core::mem::offset_of!(SaveArea, rip), 0x178);
const_assert_eq!(core::mem::offset_of!(SaveArea, rsp), 0x1d8);
const_assert_eq!(core::mem::offset_of!(SaveArea, rax), 0x1f8);
const_assert_eq!(core::mem::offset_of!(SaveArea, cr2), 0x240);
const_assert_eq!(core::mem::offset_of!(SaveArea, g_pat), 0x268);

/// The whole VMCB.
#[repr(C)]
#[derive(zerocopy_derive::FromZeros)]
pub(super) struct Vmcb {
    pub(super) control: ControlArea,
    pub(super) save: SaveArea,
}

/// V_TPR in the virtual interrupt control word.
pub(super) const V_TPR: u64 = 0xf;
/// V_IRQ: a virtual interrupt is pending.
pub(super) const V_IRQ: u64 = 1 << 8;
/// V_INTR_PRIO, all ones: above any TPR.
pub(super) const V_PRIO: u64 = 0xf << 16;
/// V_IGN_TPR.
pub(super) const V_IGN_TPR: u64 = 1 << 20;
/// V_INTR_MASKING: RFLAGS.IF and CR8 of the guest are virtual.
pub(super) const V_INTR_MASKING: u64 = 1 << 24;

/// EVENTINJ and EXITINTINFO: the field is valid.
pub(super) const EVENT_VALID: u64 = 1 << 31;
/// EVENTINJ and EXITINTINFO: an error code is in bits 63 to 32.
pub(super) const EVENT_ERROR: u64 = 1 << 11;

/// NP_ENABLE.
pub(super) const NP_ENABLE: u64 = 1 << 0;

/// TLB_CONTROL: flush every entry of every ASID.
pub(super) const TLB_FLUSH_ALL: u32 = 1;
/// TLB_CONTROL: flush this guest's entries (needs the FlushByAsid feature).
pub(super) const TLB_FLUSH_ASID: u32 = 3;
