// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR.

use super::{lapic, Cx};
use crate::arch::cr::{Cr0, Efer};
use crate::arch::exception::Exception;
use crate::arch::msr as nr;
use crate::chipset::lapic::base_reserved;
use crate::host::cpu::PinnedCpu;
use crate::vcpu::backend::Backend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::exit::MsrAccess;
use crate::vcpu::outcome::Outcome;
use crate::vcpu::shared::VcpuShared;
use crate::vcpu::state::{Groups, RCX};
use crate::vcpu::vm::Vm;
use x86::msr::*;

/// Handles RDMSR and WRMSR exits.
#[inline]
pub(super) fn handle<B: Backend>(cx: &mut Cx<'_, '_, B>, access: MsrAccess) -> Outcome {
    let index = cx.core.state.gprs[RCX] as u32;
    let done = match access {
        MsrAccess::Read => read(cx, index).map(|v| cx.core.state.set_edx_eax(v)),
        MsrAccess::Write => {
            let value = cx.core.state.edx_eax();
            write(cx, index, value)
        }
    };
    match done {
        Ok(()) => Outcome::SkipAndResume,
        Err(e) => Outcome::Inject(e),
    }
}

fn read<B: Backend>(cx: &mut Cx<'_, '_, B>, index: u32) -> Result<u64, Exception> {
    match index {
        nr::X2APIC_FIRST..=nr::X2APIC_LAST => lapic::read_msr(cx, index),
        _ => get(cx.vm, cx.core, index).ok_or(Exception::GP0),
    }
}

fn write<B: Backend>(cx: &mut Cx<'_, '_, B>, index: u32, value: u64) -> Result<(), Exception> {
    match index {
        nr::X2APIC_FIRST..=nr::X2APIC_LAST => lapic::write_msr(cx, index, value),
        IA32_TSC_DEADLINE => {
            lapic::set_tsc_deadline(cx, value);
            Ok(())
        }
        IA32_APIC_BASE => {
            let lapic = cx.core.lapic.as_mut().ok_or(Exception::GP0)?;
            lapic.set_base(value, base_reserved(52, true))?;
            lapic::publish(cx);
            Ok(())
        }
        _ => {
            if set(cx.vm, cx.shared, cx.core, index, value) {
                Ok(())
            } else {
                Err(Exception::GP0)
            }
        }
    }
}

/// Reads an MSR. `None`: there is none.
pub(crate) fn get<B: Backend>(vm: &Vm<B>, core: &mut VcpuCore<B>, index: u32) -> Option<u64> {
    let _ = vm;
    core.fetch(Groups::SYSCALL | Groups::CONTROL | Groups::SEGMENTS);
    let s = &core.state;
    Some(match index {
        IA32_TIME_STAMP_COUNTER => core.guest_tsc(),
        IA32_APIC_BASE => core.lapic.as_ref()?.base(),
        IA32_EFER => s.efer,
        IA32_STAR => s.syscall.star,
        IA32_LSTAR => s.syscall.lstar,
        IA32_CSTAR => s.syscall.cstar,
        IA32_FMASK => s.syscall.sfmask,
        IA32_FS_BASE => s.segs[4].base,
        IA32_GS_BASE => s.segs[5].base,
        IA32_KERNEL_GSBASE => s.syscall.kernel_gs_base,
        IA32_SYSENTER_CS => s.syscall.sysenter_cs,
        IA32_SYSENTER_ESP => s.syscall.sysenter_esp,
        IA32_SYSENTER_EIP => s.syscall.sysenter_eip,
        IA32_PAT => s.syscall.pat,
        IA32_TSC_DEADLINE => core.lapic.as_ref()?.tsc_deadline(crate::host::timer::now()),
        // MTRRs: 8 variable ranges, fixed ones.
        0xfe => 0x508,
        _ if is_stored(index) => core.msrs.get(index),
        _ if is_zero(index) => 0,
        _ => return None,
    })
}

/// Writes an MSR. Returns whether the value is allowed.
pub(crate) fn set<B: Backend>(
    vm: &Vm<B>,
    shared: &VcpuShared,
    core: &mut VcpuCore<B>,
    index: u32,
    value: u64,
) -> bool {
    let _ = (vm, shared);
    core.fetch(Groups::SYSCALL | Groups::CONTROL | Groups::SEGMENTS);
    let s = &mut core.state;
    match index {
        IA32_TIME_STAMP_COUNTER => {
            let offset = value.wrapping_sub(crate::host::timer::rdtsc());
            core.set_tsc_offset(offset);
            return true;
        }
        IA32_APIC_BASE => {
            let Some(l) = core.lapic.as_mut() else { return false };
            l.restore_base(value);
            return true;
        }
        IA32_EFER => return set_efer(core, value),
        IA32_STAR => s.syscall.star = value,
        IA32_LSTAR => s.syscall.lstar = value,
        IA32_CSTAR => s.syscall.cstar = value,
        IA32_FMASK => s.syscall.sfmask = value,
        IA32_KERNEL_GSBASE => s.syscall.kernel_gs_base = value,
        IA32_SYSENTER_CS => s.syscall.sysenter_cs = value,
        IA32_SYSENTER_ESP => s.syscall.sysenter_esp = value,
        IA32_SYSENTER_EIP => s.syscall.sysenter_eip = value,
        IA32_PAT => s.syscall.pat = value,
        IA32_FS_BASE => {
            s.segs[4].base = value;
            s.mark(Groups::SEGMENTS);
            return true;
        }
        IA32_GS_BASE => {
            s.segs[5].base = value;
            s.mark(Groups::SEGMENTS);
            return true;
        }
        _ if is_stored(index) => return core.msrs.set(index, value),
        _ if is_zero(index) => return true,
        _ => return false,
    }
    core.state.mark(Groups::SYSCALL);
    true
}

/// EFER: LME may not change while paging is on; LMA follows by itself.
fn set_efer<B: Backend>(core: &mut VcpuCore<B>, value: u64) -> bool {
    let s = &mut core.state;
    let allowed = Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE | Efer::FFXSR;
    if value & !allowed.bits() != 0 {
        return false;
    }
    let paged = s.cr0 & Cr0::PG.bits() != 0;
    if paged && (s.efer ^ value) & Efer::LME.bits() != 0 {
        return false;
    }
    s.efer = (value & !Efer::LMA.bits()) | (s.efer & Efer::LMA.bits());
    s.mark(Groups::CONTROL);
    true
}

fn is_stored(index: u32) -> bool {
    matches!(index, 0x200..=0x20f | 0x250 | 0x258 | 0x259 | 0x268..=0x26f | 0x2ff | 0x3b | nr::TSC_AUX | 0x1a0 | 0x140)
}

fn is_zero(index: u32) -> bool {
    matches!(
        index,
        0x8b | 0x17 | 0x179 | 0x17a | 0x1d9 | 0xce | 0xcd | 0x34 | 0x198 | 0x19a..=0x19c | 0x1c8 | 0x1c9 | 0x1a2
            | 0x606 | 0x611 | 0x619 | 0x639 | 0x641 | 0x4e0
            | 0xc000_0104 | 0xc001_0000..=0xc001_0007 | 0xc001_0010 | 0xc001_0015 | 0xc001_001f | 0xc001_0020
            | 0xc001_0055 | 0xc001_0058 | 0xc001_0061..=0xc001_0064 | 0xc001_0112 | 0xc001_0113 | 0xc001_0115
            | 0xc001_0131 | 0xc001_0140 | 0xc001_0141 | 0xc001_1020..=0xc001_1023 | 0xc001_1029 | 0xc001_102a | 0xc001_102c
            | 0xc001_10e3 | 0xc001_0015 | 0xc000_010f
    )
}
