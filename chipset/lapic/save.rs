// SPDX-License-Identifier: GPL-2.0

//! The local APIC's state as KVM_GET_LAPIC and KVM_SET_LAPIC carry it: the first KiB of the
//! register page, with every register as in memory.
//!
//! IA32_APIC_BASE and IA32_TSC_DEADLINE travel as MSRs; the base has to be restored first. Errors
//! not yet latched into ESR are not carried, since the page has no place for them.

use super::dest::ApicMode;
use super::regs::{self, ICR_WRITABLE, LVT_WRITABLE, SVR_WRITABLE};
use super::timer::{LapicTimer, TimerMode};
use super::{Lapic, VecBits};
use crate::arch::time::Ns;
use kernel::prelude::*;

/// How the id register is laid out for a local APIC in x2APIC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdFormat {
    /// In bits 31:24, as in xAPIC mode: KVM's default.
    Xapic,
    /// All 32 bits: with KVM_X2APIC_API_USE_32BIT_IDS.
    #[allow(dead_code, reason = "for VMMs that enable KVM_CAP_X2APIC_API; used by the tests")]
    X2apic,
}

/// Size of the state in bytes.
pub(crate) const PAGE_LEN: usize = 1024;

/// Bits of the divide configuration register.
const DIVIDE_BITS: u32 = 0xb;

fn put(page: &mut [u8; PAGE_LEN], reg: u32, value: u32) {
    if let Some(cell) = page.chunks_exact_mut(16).nth(usize::try_from(reg).unwrap_or(PAGE_LEN)) {
        for (to, from) in cell.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }
}

fn get(page: &[u8; PAGE_LEN], reg: u32) -> u32 {
    let cell = usize::try_from(reg).ok().and_then(|r| page.chunks_exact(16).nth(r));
    match cell {
        Some([a, b, c, d, ..]) => u32::from_le_bytes([*a, *b, *c, *d]),
        _ => 0,
    }
}

fn get_bits(page: &[u8; PAGE_LEN], first: u32) -> VecBits {
    VecBits::from_parts([0, 1, 2, 3, 4, 5, 6, 7].map(|i| get(page, first.wrapping_add(i))))
}

impl Lapic {
    /// Returns the register page; fires the timer first if its time has come.
    pub(crate) fn regs(&mut self, format: IdFormat, now: Ns) -> [u8; PAGE_LEN] {
        self.tick(now);
        let mut page = [0; PAGE_LEN];
        for reg in 0..64 {
            put(&mut page, reg, self.read_reg(reg, now).unwrap_or(0));
        }
        put(&mut page, regs::ID, self.id_field(format));
        page
    }

    fn id_field(&self, format: IdFormat) -> u32 {
        match (self.mode(), format) {
            (ApicMode::X2apic, IdFormat::X2apic) => self.id,
            _ => self.id.wrapping_shl(24),
        }
    }

    /// Sets all registers from a page. The timer runs on from the current count in it.
    ///
    /// The caller publishes identity and deadline anew.
    ///
    /// # Errors
    /// EINVAL if in x2APIC mode the id is not this local APIC's; nothing is changed then. In xAPIC
    /// mode the id is ignored.
    pub(crate) fn set_regs(&mut self, page: &[u8; PAGE_LEN], format: IdFormat, now: Ns) -> Result<()> {
        let x2apic = self.mode() == ApicMode::X2apic;
        if x2apic && get(page, regs::ID) != self.id_field(format) {
            return Err(EINVAL);
        }
        let [tpr, ..] = get(page, regs::TPR).to_le_bytes();
        let [.., logical] = get(page, regs::LDR).to_le_bytes();
        let high = get(page, regs::ICR_HIGH) & if x2apic { u32::MAX } else { 0xff00_0000 };
        let low = u64::from(get(page, regs::ICR)) & ICR_WRITABLE;
        let mut lvt = LVT_WRITABLE;
        for (reg, entry) in (regs::LVT_TIMER..).zip(&mut lvt) {
            *entry &= get(page, reg);
        }
        let [timer_lvt, ..] = lvt;
        *self = Lapic {
            id: self.id,
            bsp: self.bsp,
            base: self.base,
            tpr,
            logical: if x2apic { 0 } else { logical },
            dfr: get(page, regs::DFR) | 0x0fff_ffff,
            svr: get(page, regs::SVR) & SVR_WRITABLE,
            irr: get_bits(page, regs::IRR),
            isr: get_bits(page, regs::ISR),
            tmr: get_bits(page, regs::TMR),
            esr: get(page, regs::ESR),
            errors: 0,
            icr: (u64::from(high) << 32) | low,
            lvt,
            timer: self.restored_timer(page, TimerMode::from_lvt(timer_lvt), now),
        };
        Ok(())
    }

    /// A TSC deadline is kept where the mode stays so: its MSR is restored on its own, in any order.
    fn restored_timer(&self, page: &[u8; PAGE_LEN], mode: TimerMode, now: Ns) -> LapicTimer {
        let mut timer = self.timer;
        timer.set_mode(mode);
        timer.divide = get(page, regs::TIMER_DIVIDE) & DIVIDE_BITS;
        if mode != TimerMode::TscDeadline {
            timer.initial = get(page, regs::TIMER_INITIAL);
            timer.start_at(get(page, regs::TIMER_CURRENT).min(timer.initial), now);
        }
        timer
    }
}
