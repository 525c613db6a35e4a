// SPDX-License-Identifier: GPL-2.0

//! Tests of the local APIC, the I/O APIC and the routing of interrupts.

mod dest;
mod ioapic;
mod lapic;
mod pair;
pub(crate) mod property;
mod routing;
mod timer;

use crate::arch::time::{ratio, Ns};
use crate::chipset::lapic::base::base_reserved;
use crate::chipset::lapic::{Lapic, LapicEffect, TimerClock};

/// Has a local APIC take over posted vectors, word by word. Returns what is lost.
pub(crate) fn merge_posted(apic: &mut Lapic, edge: &[u64; 4], level: &[u64; 4]) -> [u64; 4] {
    [0, 1, 2, 3].map(|word: usize| apic.merge_posted(word, edge[word], level[word]))
}

/// Register offsets in the page, named as in the SDM's address map.
pub(crate) mod reg {
    pub(crate) const ID: u32 = 0x20;
    pub(crate) const VERSION: u32 = 0x30;
    pub(crate) const TPR: u32 = 0x80;
    pub(crate) const PPR: u32 = 0xa0;
    pub(crate) const EOI: u32 = 0xb0;
    pub(crate) const LDR: u32 = 0xd0;
    pub(crate) const DFR: u32 = 0xe0;
    pub(crate) const SVR: u32 = 0xf0;
    pub(crate) const ISR: u32 = 0x100;
    pub(crate) const TMR: u32 = 0x180;
    pub(crate) const IRR: u32 = 0x200;
    pub(crate) const ESR: u32 = 0x280;
    pub(crate) const ICR: u32 = 0x300;
    pub(crate) const ICR_HIGH: u32 = 0x310;
    pub(crate) const LVT_TIMER: u32 = 0x320;
    pub(crate) const LVT_PERF: u32 = 0x340;
    pub(crate) const LVT_LINT0: u32 = 0x350;
    pub(crate) const LVT_LINT1: u32 = 0x360;
    pub(crate) const LVT_ERROR: u32 = 0x370;
    pub(crate) const TIMER_INITIAL: u32 = 0x380;
    pub(crate) const TIMER_CURRENT: u32 = 0x390;
    pub(crate) const TIMER_DIVIDE: u32 = 0x3e0;
    pub(crate) const SELF_IPI: u32 = 0x3f0;
}

pub(crate) const BASE: u64 = 0xfee0_0000;
pub(crate) const EN: u64 = 1 << 11;
pub(crate) const EXTD: u64 = 1 << 10;
pub(crate) const BSP: u64 = 1 << 8;

/// The guest's counter runs at 2 GHz.
pub(crate) fn at(ns: u64) -> TimerClock {
    TimerClock { now: Ns(ns), tsc: ns.wrapping_mul(2), ns_per_tick: ratio(1_000_000, 2_000_000) }
}

pub(crate) fn reserved() -> u64 {
    base_reserved(40, true)
}

/// Writes a register whose effect does not matter.
pub(crate) fn set(apic: &mut Lapic, offset: u32, value: u32) {
    let _ = apic.write(offset, value, &at(0));
}

/// As Linux sets the boot CPU up in xAPIC mode with flat destinations.
pub(crate) fn xapic_after_linux_init() -> Lapic {
    let mut apic = Lapic::new(0, true);
    set(&mut apic, reg::DFR, 0xffff_ffff);
    set(&mut apic, reg::LDR, 0x0100_0000);
    set(&mut apic, reg::TPR, 0x10);
    set(&mut apic, reg::SVR, 0x1ff);
    set(&mut apic, reg::LVT_LINT0, 0x0001_0700);
    set(&mut apic, reg::LVT_LINT1, 0x400);
    set(&mut apic, reg::LVT_ERROR, 0xfe);
    set(&mut apic, reg::ESR, 0);
    apic
}

/// Writes a register by MSR; the offset is that in the page.
pub(crate) fn set_msr(apic: &mut Lapic, offset: u32, value: u64) -> LapicEffect {
    apic.write_msr(0x800 + (offset >> 4), value, &at(0)).expect("a legal write")
}

/// As Linux sets an AP up in x2APIC mode.
pub(crate) fn x2apic_after_linux_init(id: u32) -> Lapic {
    let mut apic = Lapic::new(id, false);
    apic.set_base(BASE | EN | EXTD, reserved()).expect("xAPIC to x2APIC");
    for (offset, value) in [
        (reg::TPR, 0x10),
        (reg::SVR, 0x1ff),
        (reg::LVT_LINT0, 0x0001_0700),
        (reg::LVT_LINT1, 0x0001_0400),
        (reg::LVT_ERROR, 0xfe),
        (reg::ESR, 0),
    ] {
        let _ = set_msr(&mut apic, offset, value);
    }
    apic
}

/// Takes the next interrupt as an entry into the guest does.
pub(crate) fn deliver(apic: &mut Lapic) -> Option<u8> {
    let vector = apic.pending()?;
    apic.accept_pending(vector);
    Some(vector)
}
