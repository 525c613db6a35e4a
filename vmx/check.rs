// SPDX-License-Identifier: GPL-2.0

//! Which rule about guest state an entry broke.
//!
//! SDM, "Checks on the Guest State Area", for what this backend enters: 64-bit hosts, with EPT EFER and PAT
//! loaded at entry, no dual-monitor treatment. The processor says only that a check failed; this names
//! the first one that does. A pure function of the fields.

use super::capability::VmEntryControls;
use super::event::{BY_MOV_SS, BY_NMI, BY_STI, VALID};
use crate::arch::addr::is_canonical;
use crate::arch::cr::{Cr0, Cr4, Efer, Rflags};
use crate::arch::segment::{SegReg, SegmentState};

/// GDTR or IDTR as the VMCS has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableField {
    /// Base.
    pub(crate) base: u64,
    /// Limit, all 32 bits.
    pub(crate) limit: u32,
}

/// The fields that the checks look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestState {
    /// CR0 in the processor, not its shadow.
    pub(crate) cr0: u64,
    /// CR3.
    pub(crate) cr3: u64,
    /// CR4 in the processor.
    pub(crate) cr4: u64,
    /// DR7.
    pub(crate) dr7: u64,
    /// IA32_EFER.
    pub(crate) efer: u64,
    /// The directory pointers of PAE paging.
    pub(crate) pdptes: [u64; 4],
    /// IA32_PAT.
    pub(crate) pat: u64,
    /// IA32_SYSENTER_ESP.
    pub(crate) sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub(crate) sysenter_eip: u64,
    /// RIP.
    pub(crate) rip: u64,
    /// RFLAGS.
    pub(crate) rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub(crate) segs: [SegmentState; 6],
    /// LDTR.
    pub(crate) ldtr: SegmentState,
    /// TR.
    pub(crate) tr: SegmentState,
    /// GDTR.
    pub(crate) gdt: TableField,
    /// IDTR.
    pub(crate) idt: TableField,
    /// Interruptibility state.
    pub(crate) interruptibility: u32,
    /// Activity state.
    pub(crate) activity: u32,
    /// Pending debug exceptions.
    pub(crate) pending_debug: u64,
    /// The event to be injected.
    pub(crate) interruption: u32,
    /// VM-entry controls.
    pub(crate) entry: u32,
    /// VMCS link pointer.
    pub(crate) link: u64,
    /// Bits that CR0 must have.
    pub(crate) cr0_one: u64,
    /// Bits that CR4 must have.
    pub(crate) cr4_one: u64,
    /// Unrestricted guest.
    pub(crate) unrestricted: bool,
    /// Bits of a physical address.
    pub(crate) phys_bits: u32,
}

/// Tells `Some(rule)` where the condition does not hold.
macro_rules! rules {
    ($($holds:expr => $rule:literal,)*) => {
        $(if !$holds { return Some($rule); })*
    };
}

impl GuestState {
    fn is_64(&self) -> bool {
        self.entry & VmEntryControls::GUEST_64.bits() != 0
    }

    fn is_vm86(&self) -> bool {
        self.rflags & Rflags::VM.bits() != 0
    }

    fn is_paged(&self) -> bool {
        self.cr0 & Cr0::PG.bits() != 0
    }

    fn seg(&self, reg: SegReg) -> &SegmentState {
        &self.segs[reg as usize]
    }
}

/// Returns the first rule that `s` breaks, or `None` where it breaks none that is known here.
pub(crate) fn broken_rule(s: &GuestState) -> Option<&'static str> {
    control(s)
        .or_else(|| pdptes(s))
        .or_else(|| segments(s))
        .or_else(|| tables(s))
        .or_else(|| flow(s))
        .or_else(|| non_register(s))
}

/// Returns the first rule about segment registers that a guest in protected mode without paging breaks, where
/// unrestricted guest does not take them as they are.
pub(crate) fn broken_segments(
    segs: &[SegmentState; 6],
    ldtr: &SegmentState,
    tr: &SegmentState,
    rflags: u64,
) -> Option<&'static str> {
    let protected = Cr0::PE.bits();
    segments(&GuestState {
        cr0: protected,
        rflags,
        segs: *segs,
        ldtr: *ldtr,
        tr: *tr,
        ..GuestState::default()
    })
}

/// A linear address that has all upper bits equal, with 48 bits.
fn canonical(address: u64) -> bool {
    is_canonical(address, 48)
}

/// SDM, "Checks on Guest Control Registers, Debug Registers, and MSRs".
fn control(s: &GuestState) -> Option<&'static str> {
    let lma = s.efer & Efer::LMA.bits() != 0;
    let lme = s.efer & Efer::LME.bits() != 0;
    let pae = s.cr4 & Cr4::PAE.bits() != 0;
    let known = (Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE).bits();
    let pat_ok = s.pat.to_le_bytes().iter().all(|t| matches!(t, 0 | 1 | 4..=7));
    rules! {
        s.cr0 & s.cr0_one == s.cr0_one => "CR0 must have the bits that VMX operation fixes to 1",
        s.cr0 >> 32 == 0 => "CR0 bits 63:32 must be 0",
        !s.is_paged() || s.cr0 & Cr0::PE.bits() != 0 => "CR0.PG needs CR0.PE",
        s.cr4 & s.cr4_one == s.cr4_one => "CR4 must have the bits that VMX operation fixes to 1",
        s.cr4 & Cr4::CET.bits() == 0 || s.cr0 & Cr0::WP.bits() != 0 => "CR4.CET needs CR0.WP",
        !s.is_64() || (s.is_paged() && pae) => "an IA-32e mode guest needs CR0.PG and CR4.PAE",
        s.is_64() || s.cr4 & Cr4::PCIDE.bits() == 0 => "CR4.PCIDE needs an IA-32e mode guest",
        s.cr3.checked_shr(s.phys_bits).unwrap_or(0) == 0 => "CR3 must lie within the physical address width",
        s.dr7 >> 32 == 0 => "DR7 bits 63:32 must be 0",
        canonical(s.sysenter_esp) => "IA32_SYSENTER_ESP must be canonical",
        canonical(s.sysenter_eip) => "IA32_SYSENTER_EIP must be canonical",
        pat_ok => "each byte of IA32_PAT must name a memory type",
        s.efer & !known == 0 => "IA32_EFER must have no reserved bit",
        lma == s.is_64() => "IA32_EFER.LMA must equal the control for IA-32e mode",
        !s.is_paged() || lma == lme => "with paging IA32_EFER.LMA must equal LME",
    }
    None
}

/// SDM, "Checks on Guest Page-Directory-Pointer-Table Entries".
fn pdptes(s: &GuestState) -> Option<&'static str> {
    const RESERVED: u64 = 0x1e6;
    let in_use = s.is_paged() && !s.is_64() && s.cr4 & Cr4::PAE.bits() != 0;
    let is_good = |e: &u64| e & 1 == 0 || (e & RESERVED == 0 && e.checked_shr(s.phys_bits).unwrap_or(0) == 0);
    rules! {
        !in_use || s.pdptes.iter().all(is_good) => "a PDPTE that is present must have no reserved bit",
    }
    None
}

/// SDM, "Checks on Guest Segment Registers".
fn segments(s: &GuestState) -> Option<&'static str> {
    const TI: u16 = 4;
    let (cs, ss) = (s.seg(SegReg::Cs), s.seg(SegReg::Ss));
    rules! {
        s.tr.selector & TI == 0 => "TR's selector must be in the GDT",
        s.ldtr.attr.is_unusable() || s.ldtr.selector & TI == 0 => "LDTR's selector must be in the GDT",
        canonical(s.tr.base) => "TR's base must be canonical",
        canonical(s.seg(SegReg::Fs).base) => "FS's base must be canonical",
        canonical(s.seg(SegReg::Gs).base) => "GS's base must be canonical",
        s.ldtr.attr.is_unusable() || canonical(s.ldtr.base) => "LDTR's base must be canonical",
        cs.base >> 32 == 0 => "CS's base must be below 4 GiB",
    }
    for reg in [SegReg::Ss, SegReg::Ds, SegReg::Es] {
        let seg = s.seg(reg);
        if !seg.attr.is_unusable() && seg.base >> 32 != 0 {
            return Some("the bases of SS, DS and ES must be below 4 GiB");
        }
    }
    if s.is_vm86() {
        return vm86(s);
    }
    code(s, cs, ss)
        .or_else(|| stack(s, cs, ss))
        .or_else(|| data(s))
        .or_else(|| if s.unrestricted { None } else { privilege(s, cs, ss) })
        .or_else(|| system(s))
}

/// In virtual-8086 mode each segment is what its selector says.
fn vm86(s: &GuestState) -> Option<&'static str> {
    for seg in &s.segs {
        rules! {
            seg.base == u64::from(seg.selector) << 4 => "in virtual-8086 mode a base must be its selector times 16",
            seg.limit == 0xffff => "in virtual-8086 mode limits must be 64 KiB",
            seg.attr.0 == 0xf3 => "in virtual-8086 mode access rights must be 0xf3",
        }
    }
    system(s)
}

/// The bits of an access-rights field that must be 0.
const RESERVED_RIGHTS: u32 = 0xfffe_0f00;

/// Whether G is what the limit demands.
fn granular(seg: &SegmentState) -> bool {
    let g = seg.attr.0 & (1 << 15) != 0;
    if g {
        seg.limit & 0xfff == 0xfff
    } else {
        seg.limit >> 20 == 0
    }
}

fn code(s: &GuestState, cs: &SegmentState, ss: &SegmentState) -> Option<&'static str> {
    let kind = cs.attr.kind() & 15;
    let (cs_dpl, ss_dpl) = (cs.attr.dpl(), ss.attr.dpl());
    rules! {
        !cs.attr.is_unusable() => "CS must be usable",
        matches!(kind, 3 | 9 | 11 | 13 | 15) => "CS must be accessed code, or writable data with DPL 0",
        cs.attr.kind() & 16 != 0 => "CS must not be a system segment",
        kind != 3 || cs_dpl == 0 => "CS as data must have DPL 0",
        !matches!(kind, 9 | 11) || cs_dpl == ss_dpl => "CS's DPL must equal SS's",
        !matches!(kind, 13 | 15) || cs_dpl <= ss_dpl => "conforming CS's DPL must not exceed SS's",
        cs.attr.is_present() => "CS must be present",
        cs.attr.0 & RESERVED_RIGHTS == 0 => "CS's access rights must have no reserved bit",
        !(s.is_64() && cs.attr.is_long() && cs.attr.is_big()) => "64-bit CS must have D/B clear",
        granular(cs) => "CS's limit and granularity must agree",
    }
    None
}

fn stack(s: &GuestState, cs: &SegmentState, ss: &SegmentState) -> Option<&'static str> {
    let real = s.cr0 & Cr0::PE.bits() == 0;
    rules! {
        !(real || cs.attr.kind() & 15 == 3) || ss.attr.dpl() == 0 => "SS's DPL must be 0 in real mode",
    }
    if ss.attr.is_unusable() {
        return None;
    }
    rules! {
        matches!(ss.attr.kind() & 15, 3 | 7) => "SS must be accessed writable data",
        ss.attr.kind() & 16 != 0 => "SS must not be a system segment",
        ss.attr.is_present() => "SS must be present",
        ss.attr.0 & RESERVED_RIGHTS == 0 => "SS's access rights must have no reserved bit",
        granular(ss) => "SS's limit and granularity must agree",
    }
    None
}

fn data(s: &GuestState) -> Option<&'static str> {
    for reg in [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
        let seg = s.seg(reg);
        if seg.attr.is_unusable() {
            continue;
        }
        let kind = seg.attr.kind() & 15;
        rules! {
            kind & 1 != 0 => "DS, ES, FS and GS must be accessed",
            kind & 8 == 0 || kind & 2 != 0 => "DS, ES, FS and GS must be readable where they are code",
            seg.attr.kind() & 16 != 0 => "DS, ES, FS and GS must not be system segments",
            seg.attr.is_present() => "DS, ES, FS and GS must be present",
            seg.attr.0 & RESERVED_RIGHTS == 0 => "the access rights of DS to GS must have no reserved bit",
            granular(seg) => "the limits and granularities of DS to GS must agree",
        }
    }
    None
}

/// What a guest that always has paging on must keep, too.
fn privilege(s: &GuestState, cs: &SegmentState, ss: &SegmentState) -> Option<&'static str> {
    let rpl = |seg: &SegmentState| (seg.selector & 3) as u8;
    rules! {
        cs.attr.is_code() => "CS must be code without unrestricted guest",
        rpl(ss) == rpl(cs) => "SS's RPL must equal CS's without unrestricted guest",
        ss.attr.dpl() == rpl(ss) => "SS's DPL must equal its RPL without unrestricted guest",
    }
    for reg in [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
        let seg = s.seg(reg);
        let conforming = seg.attr.kind() & 0xc == 0xc;
        if !seg.attr.is_unusable() && !conforming && seg.attr.dpl() < rpl(seg) {
            return Some("the DPLs of DS to GS must not be below their RPLs without unrestricted guest");
        }
    }
    None
}

/// TR and LDTR.
fn system(s: &GuestState) -> Option<&'static str> {
    let (tr, ldtr) = (&s.tr, &s.ldtr);
    let busy = tr.attr.kind() == 11 || (tr.attr.kind() == 3 && !s.is_64());
    rules! {
        !tr.attr.is_unusable() => "TR must be usable",
        busy => "TR must be a busy TSS, in IA-32e mode a 64-bit one",
        tr.attr.is_present() => "TR must be present",
        tr.attr.0 & RESERVED_RIGHTS == 0 => "TR's access rights must have no reserved bit",
        granular(tr) => "TR's limit and granularity must agree",
    }
    if ldtr.attr.is_unusable() {
        return None;
    }
    rules! {
        ldtr.attr.kind() == 2 => "LDTR must be an LDT",
        ldtr.attr.is_present() => "LDTR must be present",
        ldtr.attr.0 & RESERVED_RIGHTS == 0 => "LDTR's access rights must have no reserved bit",
        granular(ldtr) => "LDTR's limit and granularity must agree",
    }
    None
}

/// SDM, "Checks on Guest Descriptor-Table Registers".
fn tables(s: &GuestState) -> Option<&'static str> {
    rules! {
        canonical(s.gdt.base) => "GDTR's base must be canonical",
        canonical(s.idt.base) => "IDTR's base must be canonical",
        s.gdt.limit >> 16 == 0 => "GDTR's limit must have 16 bits",
        s.idt.limit >> 16 == 0 => "IDTR's limit must have 16 bits",
    }
    None
}

/// SDM, "Checks on Guest RIP, RSP, and RFLAGS".
fn flow(s: &GuestState) -> Option<&'static str> {
    const RESERVED: u64 = !0 << 22 | 1 << 15 | 1 << 5 | 1 << 3;
    let long = s.is_64() && s.seg(SegReg::Cs).attr.is_long();
    let external = s.interruption & VALID != 0 && s.interruption & 0x700 == 0;
    let protected = s.cr0 & Cr0::PE.bits() != 0;
    rules! {
        long || s.rip >> 32 == 0 => "RIP must have 32 bits outside 64-bit mode",
        !long || canonical(s.rip) => "RIP must be canonical",
        s.rflags & RESERVED == 0 => "RFLAGS must have no reserved bit",
        s.rflags & Rflags::ONE.bits() != 0 => "RFLAGS bit 1 must be 1",
        !s.is_vm86() || (!s.is_64() && protected) => "RFLAGS.VM needs protected mode outside IA-32e mode",
        !external || s.rflags & Rflags::IF.bits() != 0 => "an injected interrupt needs RFLAGS.IF",
    }
    None
}

/// SDM, "Checks on Guest Non-Register State".
fn non_register(s: &GuestState) -> Option<&'static str> {
    let (state, event) = (s.interruptibility, s.interruption);
    let valid = event & VALID != 0;
    let (external, nmi) = (valid && event & 0x700 == 0, valid && event & 0x700 == 0x200);
    let shadow = state & (BY_STI | BY_MOV_SS) != 0;
    let interrupts = s.rflags & Rflags::IF.bits() != 0;
    let single_step = s.pending_debug & (1 << 14) != 0;
    rules! {
        s.activity <= 3 => "the activity state must be one of four",
        s.activity != 1 || s.seg(SegReg::Ss).attr.dpl() == 0 => "HLT needs SS's DPL 0",
        s.activity == 0 || !shadow => "a shadow of STI or MOV SS needs the active state",
        state >> 5 == 0 => "the interruptibility state must have no reserved bit",
        state & (BY_STI | BY_MOV_SS) != BY_STI | BY_MOV_SS => "STI and MOV SS must not both block",
        state & BY_STI == 0 || interrupts => "blocking by STI needs RFLAGS.IF",
        !(external && shadow) => "an injected interrupt must not meet a shadow",
        !(nmi && state & BY_MOV_SS != 0) => "an injected NMI must not meet a shadow of MOV SS",
        !(nmi && state & BY_NMI != 0) => "an injected NMI must not meet blocking by NMI",
        state & 4 == 0 => "SMIs must not be blocked outside SMM",
        s.pending_debug & !0x5_500f == 0 => "pending debug exceptions must have no reserved bit",
        !shadow || single_step == (s.rflags & Rflags::TF.bits() != 0) =>
            "in a shadow the pending single step must equal RFLAGS.TF",
        s.link == u64::MAX => "the VMCS link pointer must be all ones",
    }
    None
}
