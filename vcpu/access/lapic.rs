// SPDX-License-Identifier: GPL-2.0

//! The local APIC's registers, in memory and as MSRs, and what a write to them sets off.

use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::exception::CpuException;
use crate::arch::time::Ns;
use crate::chipset::bus::{BusSignals, ChipBus};
use crate::chipset::lapic::{Lapic, LapicEffect, SyntheticReg, TimerClock};
use crate::machine::mailbox::VcpuRequests;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;

/// The x2APIC registers start at this MSR.
const X2APIC_FIRST: u32 = 0x800;

/// Returns the offset of `gpa` in this vCPU's register page.
#[inline(always)]
pub(crate) fn offset<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, gpa: Gpa) -> Option<u64> {
    let base = cx.core.lapic.as_ref()?.mmio_base()?;
    gpa.0.checked_sub(base).filter(|o| *o < 0x1000)
}

/// The clocks, read only where the register needs them.
#[inline]
fn clock<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, reg: u32) -> TimerClock {
    if reg == TSC_DEADLINE || Lapic::is_timed(reg) {
        TimerClock { now: cx.now(), tsc: cx.core.guest_tsc(), ns_per_tick: cx.vm.machine.clock.ns_per_tick }
    } else {
        TimerClock { now: Ns::ZERO, tsc: 0, ns_per_tick: 0 }
    }
}

/// Stands for IA32_TSC_DEADLINE among the registers.
const TSC_DEADLINE: u32 = u32::MAX;

/// Reads the register page.
pub(crate) fn read<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, offset: u64, width: AccessWidth) -> u64 {
    if offset == TPR_OFFSET {
        cx.core.vapic.note(cx.core.state.rip, false);
    }
    let now = clock(cx, (offset >> 4) as u32).now;
    cx.core.lapic.as_mut().map_or(width.mask(), |l| l.mmio_read(offset, width, now))
}

/// Writes the register page.
pub(crate) fn write<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    offset: u64,
    width: AccessWidth,
    value: u64,
) {
    if offset == TPR_OFFSET {
        cx.core.vapic.note(cx.core.state.rip, true);
    }
    let clock = clock(cx, (offset >> 4) as u32);
    let Some(lapic) = cx.core.lapic.as_mut() else { return };
    let effect = lapic.mmio_write(offset, width, value, &clock);
    apply(cx, effect, offset == EOI_OFFSET);
}

/// The task priority register.
const TPR_OFFSET: u64 = 0x80;
/// The EOI register.
const EOI_OFFSET: u64 = 0xb0;

/// Reads an x2APIC register.
///
/// # Errors
/// #GP as [`crate::chipset::lapic::Lapic::read_msr`] says.
pub(crate) fn read_msr<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    index: u32,
) -> Result<u64, CpuException> {
    let now = clock(cx, index.wrapping_sub(X2APIC_FIRST)).now;
    cx.core.lapic.as_mut().ok_or(CpuException::GP0)?.read_msr(index, now)
}

/// Writes an x2APIC register.
///
/// # Errors
/// #GP as [`crate::chipset::lapic::Lapic::write_msr`] says.
#[inline]
pub(crate) fn write_msr<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    index: u32,
    value: u64,
) -> Result<(), CpuException> {
    let clock = clock(cx, index.wrapping_sub(X2APIC_FIRST));
    let effect = cx.core.lapic.as_mut().ok_or(CpuException::GP0)?.write_msr(index, value, &clock)?;
    apply(cx, effect, index == X2APIC_FIRST + 0xb);
    Ok(())
}

/// Writes a register by its synthetic MSR.
///
/// # Errors
/// #GP without a local APIC, and as [`Lapic::write_synthetic`] says.
pub(super) fn write_synthetic<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    reg: SyntheticReg,
    value: u64,
) -> Result<(), CpuException> {
    let effect = cx.core.lapic.as_mut().ok_or(CpuException::GP0)?.write_synthetic(reg, value)?;
    apply(cx, effect, reg == SyntheticReg::Eoi);
    Ok(())
}

/// Writes IA32_TSC_DEADLINE.
pub(crate) fn set_tsc_deadline<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, tsc: u64) {
    let clock = clock(cx, TSC_DEADLINE);
    let Some(lapic) = cx.core.lapic.as_mut() else { return };
    let effect = lapic.set_tsc_deadline(tsc, &clock);
    apply(cx, effect, false);
}

/// Carries out what a write asks of the world outside.
fn apply<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, effect: LapicEffect, is_eoi: bool) {
    let (vm, cpu) = (cx.vm, cx.cpu);
    match effect {
        LapicEffect::None => {}
        LapicEffect::Ipi(ipi) => cx.vm.machine.interrupts.send_ipi(cx.mailbox.id, &ipi),
        LapicEffect::EoiBroadcast(vector) => {
            let eoi = |bus: &mut ChipBus, now, out: &mut BusSignals| bus.eoi(vector, now, out);
            // An I/O APIC in user space holds its pin's next interrupt back until it hears of this end.
            if vm.machine.interrupts.with_pinned(cpu, || cx.now(), eoi) {
                cx.core.note_user_eoi(cx.mailbox, vector);
            }
        }
        LapicEffect::TimerChanged => cx.core.arm_timer(cx.mailbox, &vm.machine.clock.time),
        LapicEffect::IdentityChanged => cx.core.publish_apic(cx.mailbox, &vm.machine),
    }
    // An edge-triggered end of interrupt may be that of the timer's, of a device's or of a message's, who wait for it.
    if is_eoi && cx.vm.machine.interrupts.awaits_edge_eoi() {
        vm.machine.interrupts.with_pinned(cpu, || cx.now(), |bus, now, out| bus.edge_eoi(now, out));
        if cx.core.hyperv.retry_timers() {
            cx.mailbox.request_self(VcpuRequests::SYNIC);
        }
    }
}
