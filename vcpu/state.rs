// SPDX-License-Identifier: GPL-2.0

//! The registers of a vCPU, in groups that are fetched from and returned to the processor's control
//! structure only when somebody needs them.
//!
//! The general registers, RIP and RFLAGS are always current between an exit and the next entry. A
//! group in `valid` has been fetched since the last exit; one in `dirty` will be written back.

use crate::arch::addr::AccessWidth;
use crate::arch::cr::{Cr0, CrRules, CrState, Efer, Rflags};
use crate::arch::segment::{DescTableReg, SegAttr, SegReg, SegmentState};

bitflags::bitflags! {
    /// The groups of registers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct StateGroups: u8 {
        /// CS, DS, ES, FS, GS, SS, LDTR, TR.
        const SEGMENTS = 1 << 0;
        /// GDTR and IDTR.
        const TABLES = 1 << 1;
        /// CR0, CR2, CR3, CR4, EFER and the PDPTEs.
        const CONTROL = 1 << 2;
        /// System call MSRs and PAT.
        const SYSCALL = 1 << 3;
        /// DR6 and DR7.
        const DEBUG = 1 << 4;
    }
}

/// RAX, as instructions encode registers.
pub(crate) const RAX: usize = 0;
/// RCX.
pub(crate) const RCX: usize = 1;
/// RDX.
pub(crate) const RDX: usize = 2;
/// RBX.
pub(crate) const RBX: usize = 3;
/// RSP.
pub(crate) const RSP: usize = 4;
/// RSI.
pub(crate) const RSI: usize = 6;
/// RDI.
pub(crate) const RDI: usize = 7;
/// R8.
pub(crate) const R8: usize = 8;

/// Returns RAX after an IN of `value`.
pub(crate) fn merge_rax(rax: u64, width: AccessWidth, value: u32) -> u64 {
    match width {
        // A 32-bit result clears the upper half.
        AccessWidth::B4 | AccessWidth::B8 => u64::from(value),
        _ => (rax & !width.mask()) | (u64::from(value) & width.mask()),
    }
}

/// The MSRs of the SYSCALL group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SyscallMsrs {
    /// STAR.
    pub(crate) star: u64,
    /// LSTAR.
    pub(crate) lstar: u64,
    /// CSTAR.
    pub(crate) cstar: u64,
    /// SFMASK.
    pub(crate) sfmask: u64,
    /// KERNEL_GS_BASE.
    pub(crate) kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub(crate) sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub(crate) sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub(crate) sysenter_eip: u64,
    /// PAT.
    pub(crate) pat: u64,
}

/// The registers.
#[derive(Clone, Debug)]
pub(crate) struct VcpuState {
    /// The general registers in encoding order.
    pub(crate) gprs: [u64; 16],
    /// RIP.
    pub(crate) rip: u64,
    /// RFLAGS.
    pub(crate) rflags: u64,
    /// ES, CS, SS, DS, FS, GS in encoding order.
    pub(crate) segs: [SegmentState; 6],
    /// LDTR.
    pub(crate) ldtr: SegmentState,
    /// TR.
    pub(crate) tr: SegmentState,
    /// GDTR.
    pub(crate) gdt: DescTableReg,
    /// IDTR.
    pub(crate) idt: DescTableReg,
    /// CR0.
    pub(crate) cr0: u64,
    /// CR2.
    pub(crate) cr2: u64,
    /// CR3.
    pub(crate) cr3: u64,
    /// CR4.
    pub(crate) cr4: u64,
    /// EFER, as the guest sees it.
    pub(crate) efer: u64,
    /// The directory pointers of PAE paging, where the processor keeps them; see [`CrState::is_pae_paging`].
    pub(crate) pdptes: [u64; 4],
    /// Which values the control registers take; set with [`StateGroups::CONTROL`], never fetched.
    pub(crate) cr_rules: CrRules,
    /// The system call MSRs and PAT.
    pub(crate) syscall: SyscallMsrs,
    /// DR6.
    pub(crate) dr6: u64,
    /// DR7.
    pub(crate) dr7: u64,
    /// The rule about a guest's state that the last entry broke, as far as the backend knows it.
    pub(crate) broken_rule: &'static str,
    pub(super) valid: StateGroups,
    dirty: StateGroups,
}

/// The value of PAT after reset. SDM, "PAT MSR".
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

impl VcpuState {
    /// The state after reset. SDM, "Processor State After Reset"; `family` is CPUID.1:EAX.
    pub(crate) fn at_reset(signature: u32) -> VcpuState {
        let data = SegmentState { selector: 0, attr: SegAttr(0x93), limit: 0xffff, base: 0 };
        let mut segs = [data; 6];
        segs[SegReg::Cs as usize] =
            SegmentState { selector: 0xf000, attr: SegAttr(0x9b), limit: 0xffff, base: 0xffff_0000 };
        let mut gprs = [0; 16];
        gprs[RDX] = u64::from(signature);
        VcpuState {
            gprs,
            rip: 0xfff0,
            rflags: Rflags::ONE.bits(),
            segs,
            ldtr: SegmentState { selector: 0, attr: SegAttr(0x82), limit: 0xffff, base: 0 },
            tr: SegmentState { selector: 0, attr: SegAttr(0x8b), limit: 0xffff, base: 0 },
            gdt: DescTableReg { base: 0, limit: 0xffff },
            idt: DescTableReg { base: 0, limit: 0xffff },
            cr0: (Cr0::CD | Cr0::NW | Cr0::ET).bits(),
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            pdptes: [0; 4],
            cr_rules: CrRules::WITHOUT_CPUID,
            syscall: SyscallMsrs { pat: PAT_RESET, ..SyscallMsrs::default() },
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            broken_rule: "",
            valid: StateGroups::all(),
            dirty: StateGroups::all(),
        }
    }

    /// The state after INIT in this one: as after reset, but for what INIT keeps. All groups must have been fetched.
    pub(crate) fn after_init(&self, signature: u32) -> VcpuState {
        let keep = (Cr0::CD | Cr0::NW).bits();
        let cr0 = Cr0::ET.bits() | self.cr0 & keep;
        VcpuState { cr0, syscall: self.syscall, cr_rules: self.cr_rules, ..VcpuState::at_reset(signature) }
    }

    /// Says that the groups were changed and must be written back. They must have been fetched.
    #[inline]
    pub(crate) fn mark(&mut self, groups: StateGroups) {
        self.valid |= groups;
        self.dirty |= groups;
    }

    /// Goes back to registers that were copied, with everything that may have changed since marked.
    pub(crate) fn take_back(&mut self, before: VcpuState) {
        let changed = self.dirty;
        *self = before;
        self.mark(changed);
    }

    /// Returns the groups that were changed and not yet written back.
    #[inline(always)]
    pub(crate) fn dirty(&self) -> StateGroups {
        self.dirty
    }

    /// Takes them: they are about to be written back.
    pub(crate) fn take_dirty(&mut self) -> StateGroups {
        core::mem::replace(&mut self.dirty, StateGroups::empty())
    }

    /// Says that the processor ran: what was fetched is stale.
    #[inline]
    pub(crate) fn ran(&mut self) {
        self.valid = StateGroups::empty();
    }

    /// Returns a segment register; the group must have been fetched.
    pub(crate) fn seg(&self, reg: SegReg) -> SegmentState {
        self.segs[reg as usize]
    }

    /// Sets EAX, EBX, ECX and EDX and clears their upper halves.
    pub(crate) fn set_abcd(&mut self, r: crate::arch::cpuid::CpuidRegs) {
        self.gprs[RAX] = u64::from(r.eax);
        self.gprs[RBX] = u64::from(r.ebx);
        self.gprs[RCX] = u64::from(r.ecx);
        self.gprs[RDX] = u64::from(r.edx);
    }

    /// Returns EDX:EAX.
    pub(crate) fn edx_eax(&self) -> u64 {
        self.gprs[RDX] << 32 | (self.gprs[RAX] & 0xffff_ffff)
    }

    /// Sets EDX:EAX and clears the upper halves.
    pub(crate) fn set_edx_eax(&mut self, value: u64) {
        self.gprs[RAX] = value & 0xffff_ffff;
        self.gprs[RDX] = value >> 32;
    }

    /// Returns what decides about another value of a control register; needs [`StateGroups::SEGMENTS`] and
    /// [`StateGroups::CONTROL`].
    pub(crate) fn control(&self) -> CrState {
        let cs_long = self.seg(SegReg::Cs).attr.is_long();
        CrState { cr0: self.cr0, cr3: self.cr3, cr4: self.cr4, efer: self.efer, cs_long }
    }

    /// Sets the control registers, not the PDPTEs.
    pub(crate) fn set_control(&mut self, new: &CrState) {
        (self.cr0, self.cr3, self.cr4, self.efer) = (new.cr0, new.cr3, new.cr4, new.efer);
        self.mark(StateGroups::CONTROL);
    }

    /// Returns the current privilege level; needs [`StateGroups::SEGMENTS`].
    pub(crate) fn cpl(&self) -> u8 {
        // Of SS, not CS, which may be conforming code of another level.
        self.seg(SegReg::Ss).attr.dpl()
    }

    /// Returns whether the guest runs 64-bit code; needs [`StateGroups::SEGMENTS`] and [`StateGroups::CONTROL`].
    pub(crate) fn is_64bit(&self) -> bool {
        self.efer & Efer::LMA.bits() != 0 && self.seg(SegReg::Cs).attr.is_long()
    }
}
