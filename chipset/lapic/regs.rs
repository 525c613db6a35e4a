// SPDX-License-Identifier: GPL-2.0

//! The registers of the local APIC, by memory and by MSR.
//!
//! SDM, "The Local APIC Block Diagram" (register address map), "x2APIC Register Address Space" and
//! "Reserved Bit Checking". One number names a register in both modes: its offset in the page
//! divided by 16, which is its MSR number minus 0x800.
//!
//! In memory a register that does not exist reads 0, and ESR tells of it; by MSR it is #GP, as are
//! reserved bits, writes to what can only be read and reads of what can only be written.

use super::dest::{ApicIdentity, ApicMode, DELIVERY_STATUS, ICR_WRITABLE};
use super::timer::{TimerClock, TimerMode};
use super::{Lapic, LapicEffect, LvtEntry, ESR_ILLEGAL_REGISTER, LVT_MASKED, SVR_ENABLE};
use crate::arch::addr::AccessWidth;
use crate::arch::exception::CpuException;
use crate::arch::msr::{X2APIC_FIRST, X2APIC_LAST};
use crate::arch::time::Ns;

pub(super) const ID: u32 = 0x02;
pub(super) const VERSION: u32 = 0x03;
pub(super) const TPR: u32 = 0x08;
const APR: u32 = 0x09;
pub(super) const PPR: u32 = 0x0a;
const EOI: u32 = 0x0b;
const REMOTE_READ: u32 = 0x0c;
pub(super) const LDR: u32 = 0x0d;
pub(super) const DFR: u32 = 0x0e;
pub(super) const SVR: u32 = 0x0f;
pub(super) const ISR: u32 = 0x10;
pub(super) const TMR: u32 = 0x18;
pub(super) const IRR: u32 = 0x20;
pub(super) const ESR: u32 = 0x28;
pub(super) const ICR: u32 = 0x30;
pub(super) const ICR_HIGH: u32 = 0x31;
pub(super) const LVT_TIMER: u32 = 0x32;
const LVT_ERROR: u32 = 0x37;
pub(super) const TIMER_INITIAL: u32 = 0x38;
pub(super) const TIMER_CURRENT: u32 = 0x39;
pub(super) const TIMER_DIVIDE: u32 = 0x3e;
const SELF_IPI: u32 = 0x3f;

/// Version 0x14, highest LVT entry 5, no EOI broadcast suppression.
const VERSION_VALUE: u32 = 0x0005_0014;
/// SVR: vector, enable, focus processor checking.
pub(super) const SVR_WRITABLE: u32 = 0x3ff;
/// Bits of each LVT entry that can be written.
pub(super) const LVT_WRITABLE: [u32; 6] = [0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];
/// Remote IRR of a LINT entry: read-only.
const REMOTE_IRR: u32 = 1 << 14;

/// Returns which LVT entry a register is.
fn lvt_index(reg: u32) -> Option<usize> {
    match reg {
        LVT_TIMER..=LVT_ERROR => usize::try_from(reg.wrapping_sub(LVT_TIMER)).ok(),
        _ => None,
    }
}

/// A register that a guest reaches by a synthetic MSR, in either mode of its local APIC. TLFS, "Local APIC MSR Accesses".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyntheticReg {
    /// EOI.
    Eoi,
    /// ICR, both halves.
    Icr,
    /// TPR.
    Tpr,
}

impl Lapic {
    /// Returns whether writing register `reg` (offset / 16, or MSR number - 0x800) needs the right
    /// [`TimerClock`], and reading it the right time; for all others, the hot ones among them, any will do.
    pub(crate) fn is_timed(reg: u32) -> bool {
        matches!(reg, SVR | LVT_TIMER | TIMER_INITIAL | TIMER_CURRENT | TIMER_DIVIDE)
    }

    /// Reads the register at `offset` of the page: 32 bits, `offset` a multiple of 16.
    pub(crate) fn read(&mut self, offset: u32, now: Ns) -> u32 {
        match self.read_reg(offset >> 4, now) {
            Some(value) => value,
            None => {
                self.error(ESR_ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes the register at `offset` of the page: 32 bits, `offset` a multiple of 16.
    pub(crate) fn write(&mut self, offset: u32, value: u32, clock: &TimerClock) -> LapicEffect {
        self.write_reg(offset >> 4, value, clock)
    }

    /// Reads the page as the bus does. Reads within the lower 4 bytes of a register are taken at any
    /// width that fits; anything else, and any access outside xAPIC mode, gives all ones.
    pub(crate) fn mmio_read(&mut self, offset: u64, width: AccessWidth, now: Ns) -> u64 {
        let within = u32::try_from(offset & 0xf).unwrap_or(0xf);
        let bytes = u32::try_from(width.bytes()).unwrap_or(8);
        let Ok(reg) = u32::try_from(offset & 0xff0) else { return width.mask() };
        if self.mode() != ApicMode::Xapic || within.saturating_add(bytes) > 4 {
            return width.mask();
        }
        let value = self.read(reg, now).wrapping_shr(within.wrapping_mul(8));
        u64::from(value) & width.mask()
    }

    /// Writes the page as the bus does: aligned 32-bit writes are taken, all others ignored.
    pub(crate) fn mmio_write(
        &mut self,
        offset: u64,
        width: AccessWidth,
        value: u64,
        clock: &TimerClock,
    ) -> LapicEffect {
        let aligned = width == AccessWidth::B4 && offset & 0xf == 0;
        if self.mode() != ApicMode::Xapic || !aligned {
            return LapicEffect::None;
        }
        let (Ok(offset), Ok(value)) =
            (u32::try_from(offset & 0xff0), u32::try_from(value & AccessWidth::B4.mask()))
        else {
            return LapicEffect::None;
        };
        self.write(offset, value, clock)
    }

    /// Reads an x2APIC register.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, for a register that does not exist or can only be written.
    pub(crate) fn read_msr(&mut self, index: u32, now: Ns) -> Result<u64, CpuException> {
        let reg = self.x2apic_reg(index)?;
        match reg {
            // By MSR it is one register of 64 bits, so its upper half is none of its own.
            ICR => Ok(self.icr),
            EOI | SELF_IPI | APR | REMOTE_READ | DFR | ICR_HIGH => Err(CpuException::GP0),
            _ => self.read_reg(reg, now).map(u64::from).ok_or(CpuException::GP0),
        }
    }

    /// Writes an x2APIC register.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, for a register that does not exist or can only be read, and for
    /// reserved bits.
    pub(crate) fn write_msr(
        &mut self,
        index: u32,
        value: u64,
        clock: &TimerClock,
    ) -> Result<LapicEffect, CpuException> {
        let reg = self.x2apic_reg(index)?;
        if reg == ICR {
            return self.write_whole_icr(value);
        }
        let Ok(low) = u32::try_from(value) else { return Err(CpuException::GP0) };
        let allowed = match reg {
            EOI | ESR => 0,
            TPR | SELF_IPI => 0xff,
            SVR => SVR_WRITABLE,
            TIMER_INITIAL => u32::MAX,
            TIMER_DIVIDE => 0xb,
            _ => {
                let i = lvt_index(reg).ok_or(CpuException::GP0)?;
                LVT_WRITABLE.get(i).ok_or(CpuException::GP0)? | DELIVERY_STATUS | REMOTE_IRR
            }
        };
        if low & !allowed != 0 {
            return Err(CpuException::GP0);
        }
        if reg == SELF_IPI {
            let [vector, ..] = low.to_le_bytes();
            self.accept(vector, false);
            return Ok(LapicEffect::None);
        }
        Ok(self.write_reg(reg, low, clock))
    }

    fn write_whole_icr(&mut self, value: u64) -> Result<LapicEffect, CpuException> {
        let reserved = !(ICR_WRITABLE | u64::from(DELIVERY_STATUS)) & u64::from(u32::MAX);
        if value & reserved != 0 {
            return Err(CpuException::GP0);
        }
        Ok(self.write_icr(value & !u64::from(DELIVERY_STATUS)))
    }

    /// Reads a register by its synthetic MSR; `None` for one that can only be written.
    pub(crate) fn read_synthetic(&self, reg: SyntheticReg) -> Option<u64> {
        match reg {
            SyntheticReg::Eoi => None,
            SyntheticReg::Icr => Some(self.icr),
            SyntheticReg::Tpr => Some(self.tpr.into()),
        }
    }

    /// Writes a register by its synthetic MSR.
    ///
    /// # Errors
    /// #GP for reserved bits.
    pub(crate) fn write_synthetic(
        &mut self,
        reg: SyntheticReg,
        value: u64,
    ) -> Result<LapicEffect, CpuException> {
        if reg == SyntheticReg::Icr {
            return self.write_whole_icr(value);
        }
        let Ok(low) = u32::try_from(value) else { return Err(CpuException::GP0) };
        let reg = if reg == SyntheticReg::Eoi { EOI } else { TPR };
        // Neither is about time.
        Ok(self.write_reg(reg, low, &TimerClock { now: Ns::ZERO, tsc: 0, ns_per_tick: 0 }))
    }

    fn x2apic_reg(&self, index: u32) -> Result<u32, CpuException> {
        if self.mode() != ApicMode::X2apic || !(X2APIC_FIRST..=X2APIC_LAST).contains(&index) {
            return Err(CpuException::GP0);
        }
        Ok(index.wrapping_sub(X2APIC_FIRST))
    }

    /// Returns what LDR reads in the present mode.
    pub(super) fn ldr(&self) -> u32 {
        match self.mode() {
            ApicMode::X2apic => ApicIdentity::x2apic_ldr(self.id),
            _ => u32::from(self.logical) << 24,
        }
    }

    /// Reads a register, `None` if there is no such register.
    pub(super) fn read_reg(&self, reg: u32, now: Ns) -> Option<u32> {
        Some(match reg {
            ID if self.mode() == ApicMode::X2apic => self.id,
            ID => self.id.wrapping_shl(24),
            VERSION => VERSION_VALUE,
            TPR => u32::from(self.tpr),
            PPR => u32::from(self.ppr()),
            APR | EOI | REMOTE_READ => 0,
            LDR => self.ldr(),
            DFR => self.dfr,
            SVR => self.svr,
            0x10..=0x17 => self.isr.part(reg & 7),
            0x18..=0x1f => self.tmr.part(reg & 7),
            0x20..=0x27 => self.irr.part(reg & 7),
            ESR => self.esr,
            ICR => u32::try_from(self.icr & 0xffff_ffff).unwrap_or(0),
            ICR_HIGH => u32::try_from(self.icr >> 32).unwrap_or(0),
            TIMER_INITIAL => self.timer.initial,
            TIMER_CURRENT => self.timer.current(now),
            TIMER_DIVIDE => self.timer.divide,
            _ => return self.lvt.get(lvt_index(reg)?).copied(),
        })
    }

    /// Writes a register. Reserved bits are ignored here: whoever must refuse them has done so.
    fn write_reg(&mut self, reg: u32, value: u32, clock: &TimerClock) -> LapicEffect {
        let [low, .., high] = value.to_le_bytes();
        match reg {
            EOI => return self.eoi().map_or(LapicEffect::None, LapicEffect::EoiBroadcast),
            TPR => self.set_tpr(low),
            ICR => {
                let dest = self.icr & !0xffff_ffff;
                // As KVM: reserved bits stay as they are written.
                return self.write_icr(dest | u64::from(value & !DELIVERY_STATUS));
            }
            ICR_HIGH => self.icr = (self.icr & 0xffff_ffff) | (u64::from(value & 0xff00_0000) << 32),
            LDR => {
                self.logical = high;
                return LapicEffect::IdentityChanged;
            }
            DFR => {
                self.dfr = value | 0x0fff_ffff;
                return LapicEffect::IdentityChanged;
            }
            SVR => return self.write_svr(value, clock.now),
            ESR => {
                // SDM, "Error Handling": a write, whatever its value, latches what came since the last one.
                self.esr = self.errors;
                self.errors = 0;
            }
            LVT_TIMER => return self.write_lvt_timer(value, clock.now),
            TIMER_INITIAL => {
                self.timer.set_initial(value, clock.now);
                return LapicEffect::TimerChanged;
            }
            TIMER_DIVIDE => {
                // What is due fires first: working out the rest of the count by the new divisor would lose it.
                self.tick(clock.now);
                self.timer.set_divide(value, clock.now);
                return LapicEffect::TimerChanged;
            }
            // Read-only ones.
            ID | VERSION | APR | PPR | REMOTE_READ | 0x10..=0x27 | TIMER_CURRENT => {}
            _ => match lvt_index(reg) {
                Some(i) => self.write_lvt(i, value),
                None => self.error(ESR_ILLEGAL_REGISTER),
            },
        }
        LapicEffect::None
    }

    fn write_lvt(&mut self, i: usize, value: u32) {
        // SDM, "Local APIC State After It Has Been Software Disabled": attempts to clear a mask bit are ignored.
        let held = if self.svr & SVR_ENABLE == 0 { LVT_MASKED } else { 0 };
        if let (Some(entry), Some(writable)) = (self.lvt.get_mut(i), LVT_WRITABLE.get(i)) {
            *entry = (value & writable) | held;
        }
    }

    /// An expiry that came while the entry was masked must not fire when it is unmasked.
    fn write_lvt_timer(&mut self, value: u32, now: Ns) -> LapicEffect {
        self.tick(now);
        self.write_lvt(0, value);
        self.timer.set_mode(TimerMode::from_lvt(self.lvt(LvtEntry::Timer)));
        LapicEffect::TimerChanged
    }

    /// Disabling masks the whole local vector table; enabling unmasks nothing.
    fn write_svr(&mut self, value: u32, now: Ns) -> LapicEffect {
        let was = self.software_enabled();
        self.tick(now);
        // After the tick: an expiry that is due belongs to the time before the change.
        self.svr = value & SVR_WRITABLE;
        if !self.software_enabled() {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
        if was == self.software_enabled() {
            LapicEffect::None
        } else {
            LapicEffect::IdentityChanged
        }
    }
}
