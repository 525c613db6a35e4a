// SPDX-License-Identifier: GPL-2.0

//! The local APIC's state as KVM_GET_LAPIC and KVM_SET_LAPIC carry it: the first KiB of the
//! register page, with every register as in memory.
//!
//! IA32_APIC_BASE and IA32_TSC_DEADLINE travel as MSRs; the base has to be restored first. Errors
//! not yet latched into ESR are not carried, since the page has no place for them.

use super::base::ApicBase;
use super::dest::ApicMode;
use super::regs::{self, LVT_WRITABLE, SVR_WRITABLE};
use super::timer::{LapicTimer, TimerMode};
use super::{Lapic, VecBits};
use crate::arch::time::Ns;
use crate::chipset::saved::{state_struct, HasState, SectionId};
use kernel::prelude::*;

/// How the id register is laid out for a local APIC in x2APIC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdFormat {
    /// In bits 31:24, as in xAPIC mode: KVM's default.
    Xapic,
    /// All 32 bits: with KVM_X2APIC_API_USE_32BIT_IDS.
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
    /// EINVAL if in x2APIC mode the id is not this local APIC's, where ids are of 32 bits; nothing is changed then.
    /// Elsewhere the id is ignored.
    pub(crate) fn set_regs(&mut self, page: &[u8; PAGE_LEN], format: IdFormat, now: Ns) -> Result<()> {
        let x2apic = self.mode() == ApicMode::X2apic;
        // As KVM.
        if x2apic && format == IdFormat::X2apic && get(page, regs::ID) != self.id {
            return Err(EINVAL);
        }
        let state = self.state_of_page(page, now);
        self.set_state(&state);
        Ok(())
    }

    /// Returns the state that a page shows, with what it has no place for as it is now. What the registers cannot
    /// hold is for [`HasState::set_state`] to drop.
    fn state_of_page(&self, page: &[u8; PAGE_LEN], now: Ns) -> SavedLapic {
        let [tpr, ..] = get(page, regs::TPR).to_le_bytes();
        let [.., logical] = get(page, regs::LDR).to_le_bytes();
        let mut lvt = [0; 6];
        for (reg, entry) in (regs::LVT_TIMER..).zip(&mut lvt) {
            *entry = get(page, reg);
        }
        let [timer_lvt, ..] = lvt;
        let timer = self.restored_timer(page, TimerMode::from_lvt(timer_lvt), now);
        let VecBits(irr) = get_bits(page, regs::IRR);
        let VecBits(isr) = get_bits(page, regs::ISR);
        let VecBits(tmr) = get_bits(page, regs::TMR);
        SavedLapic {
            base: self.base.raw(),
            icr: u64::from(get(page, regs::ICR_HIGH)) << 32 | u64::from(get(page, regs::ICR)),
            deadline: timer.deadline.unwrap_or(Ns::ZERO).0,
            tsc_deadline: timer.tsc_deadline,
            irr,
            isr,
            tmr,
            dfr: get(page, regs::DFR),
            svr: get(page, regs::SVR),
            esr: get(page, regs::ESR),
            errors: 0,
            lvt,
            initial: timer.initial,
            divide: timer.divide,
            tpr,
            logical,
            has_deadline: timer.deadline.is_some().into(),
            pad: [0; 5],
        }
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

state_struct! {
    /// The whole state of a local APIC, with what the page and the MSRs do not show. Which one it is, is no state.
    struct SavedLapic = 184 {
        /// IA32_APIC_BASE.
        base: u64,
        /// ICR.
        icr: u64,
        /// When the timer fires next; 0 where it does not run.
        deadline: u64,
        /// IA32_TSC_DEADLINE.
        tsc_deadline: u64,
        /// Requests.
        irr: [u64; 4],
        /// In service.
        isr: [u64; 4],
        /// Level triggered.
        tmr: [u64; 4],
        /// DFR.
        dfr: u32,
        /// SVR.
        svr: u32,
        /// What ESR reads.
        esr: u32,
        /// The errors since it was latched.
        errors: u32,
        /// The local vector table.
        lvt: [u32; 6],
        /// Initial count.
        initial: u32,
        /// Divide configuration.
        divide: u32,
        /// TPR.
        tpr: u8,
        /// Bits 31:24 of LDR in xAPIC mode.
        logical: u8,
        /// The timer runs.
        has_deadline: u8,
        /// 0.
        pad: [u8; 5],
    }
}

/// The errors that there are.
const ESR_BITS: u32 = 0xff;

impl HasState for Lapic {
    const SECTION: SectionId = SectionId { id: 0x10, version: 1 };
    type State = SavedLapic;

    fn save(&self) -> SavedLapic {
        let Lapic {
            id: _,
            bsp: _,
            virtual_wire: _,
            base,
            tpr,
            logical,
            dfr,
            svr,
            irr: VecBits(irr),
            isr: VecBits(isr),
            tmr: VecBits(tmr),
            esr,
            errors,
            icr,
            lvt,
            // The mode is in the timer's entry of the table.
            // The input clock is the machine's, which is made the same way.
            timer: LapicTimer { bus_ns: _, mode: _, initial, divide, tsc_deadline, deadline },
        } = *self;
        SavedLapic {
            base: base.raw(),
            icr,
            deadline: deadline.unwrap_or(Ns::ZERO).0,
            tsc_deadline,
            irr,
            isr,
            tmr,
            dfr,
            svr,
            esr,
            errors,
            lvt,
            initial,
            divide,
            tpr,
            logical,
            has_deadline: deadline.is_some().into(),
            pad: [0; 5],
        }
    }

    /// The caller publishes identity and deadline anew.
    fn set_state(&mut self, state: &SavedLapic) {
        let SavedLapic {
            base,
            icr,
            deadline,
            tsc_deadline,
            irr,
            isr,
            tmr,
            dfr,
            svr,
            esr,
            errors,
            mut lvt,
            initial,
            divide,
            tpr,
            logical,
            has_deadline,
            pad: _,
        } = *state;
        for (entry, writable) in lvt.iter_mut().zip(LVT_WRITABLE) {
            *entry &= writable;
        }
        let [timer_lvt, ..] = lvt;
        let mode = TimerMode::from_lvt(timer_lvt);
        let (deadline, tsc_deadline) = match mode {
            TimerMode::Reserved => (None, 0),
            TimerMode::TscDeadline if tsc_deadline == 0 || has_deadline == 0 => (None, 0),
            TimerMode::TscDeadline => (Some(Ns(deadline)), tsc_deadline),
            TimerMode::OneShot | TimerMode::Periodic => ((has_deadline != 0).then_some(Ns(deadline)), 0),
        };
        // First the mode: what ICR and LDR can hold depends on it.
        self.base = ApicBase::from_saved(base);
        let x2apic = self.mode() == ApicMode::X2apic;
        self.icr = icr & self.mode().icr_bits();
        self.logical = if x2apic { 0 } else { logical };
        self.tpr = tpr;
        self.dfr = dfr | 0x0fff_ffff;
        self.svr = svr & SVR_WRITABLE;
        (self.irr, self.isr, self.tmr) = (VecBits(irr), VecBits(isr), VecBits(tmr));
        (self.esr, self.errors) = (esr & ESR_BITS, errors & ESR_BITS);
        self.lvt = lvt;
        let bus_ns = self.timer.bus_ns;
        let divide = divide & DIVIDE_BITS;
        self.timer = LapicTimer { bus_ns, mode, initial, divide, tsc_deadline, deadline };
    }
}
