// SPDX-License-Identifier: GPL-2.0

//! The local APIC and the I/O APIC.

use super::bytes::Bytes;
use crate::chipset::ioapic::Ioapic;
use crate::chipset::lapic::{ApicIdentity, ApicMode, LvtEntry};
use crate::chipset::saved::HasState;
use crate::chipset::DestFormat;
use crate::chipset::PinLevel;
use crate::t_apic::property::{run, Op};
use crate::t_apic::{x2apic_after_linux_init, xapic_after_linux_init, BASE, EN, EXTD};

fn offset(b: &mut Bytes<'_>) -> u64 {
    match b.u8() {
        n @ 0..=0xbf => u64::from(n & 0x3f) << 4,
        n => u64::from(n) << 4 | u64::from(b.u8()),
    }
}

fn op(b: &mut Bytes<'_>) -> Op {
    match b.below(16) {
        0..=2 => Op::Mmio(offset(b), b.width(), b.number()),
        3 => Op::MmioRead(offset(b), b.width()),
        4..=6 => Op::Msr(0x800 + (b.u32() & 0x3f), b.number()),
        7 => Op::MsrRead(0x7f0 + u32::from(b.u8())),
        8 => Op::Base(BASE | b.pick(&[0, EN, EN | EXTD, EXTD, u64::MAX, 1 << 63])),
        9 => Op::Deadline(b.number()),
        10 => Op::Accept(b.u8(), b.flag()),
        11 => match b.below(4) {
            0 => Op::Posted([b.u64(), b.u64(), b.u64(), b.u64()], [b.u64(), b.u64(), b.u64(), b.u64()]),
            _ => Op::Local(b.pick(&[LvtEntry::Lint0, LvtEntry::Lint1, LvtEntry::Perf, LvtEntry::Thermal])),
        },
        12 | 13 => Op::Deliver,
        14 => Op::Pass(u64::from(b.u32() & 0xf_ffff)),
        _ => b.pick(&[Op::Restore, Op::Restore, Op::Restore, Op::Init]),
    }
}

/// An interrupt waits only above the processor priority, the priority is no lower than the task's,
/// and what [`run`] asserts of each operation.
pub(super) fn lapic(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut apic = if b.flag() { x2apic_after_linux_init(2) } else { xapic_after_linux_init() };
    let mut now = 0;
    while !b.is_empty() {
        let op = op(&mut b);
        run(&mut apic, &op, &mut now);
        assert!(apic.pending().is_none_or(|v| v >= 16 && v >> 4 > apic.ppr() >> 4), "{op:?}");
        assert!(apic.ppr() >> 4 >= apic.tpr() >> 4, "{op:?}");
        assert!(apic.mode() != ApicMode::Disabled || apic.highest_irr().is_none(), "{op:?}");
        assert_eq!(ApicIdentity::unpack(apic.identity().pack()), apic.identity(), "{op:?}");
    }
}

/// A level message leaves its pin waiting for the end of the vector, and a saved state is the whole state.
pub(super) fn ioapic(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let format = b.pick(&[DestFormat::Narrow, DestFormat::Extended, DestFormat::Wide]);
    let mut io = Ioapic::new(1, format);
    while !b.is_empty() {
        match b.below(8) {
            0..=3 => {
                let at = b.pick(&[0, 0x10, 0x10, 0x20, 0x40, 0x48]);
                let (width, value) = (b.width(), b.number());
                let sent: Vec<_> = io.write(at, width, value).collect();
                assert!(sent.len() <= 24);
                assert!(sent.iter().all(|m| !m.level || io.waits_for(m.vector)), "{sent:?}");
            }
            4 => {
                let (at, width) = (b.below(0x50), b.width());
                assert_eq!(io.read(at, width) & !width.mask(), 0);
            }
            5 | 6 => {
                let sent = io.set_irq(b.u8() & 31, PinLevel::from(b.flag()));
                assert!(sent.is_none_or(|m| !m.level || io.waits_for(m.vector)), "{sent:?}");
            }
            _ => {
                let vector = b.u8();
                let sent: Vec<_> = io.eoi(vector).collect();
                assert!(sent.iter().all(|m| m.level && m.vector == vector), "{sent:?}");
                assert_eq!(io.waits_for(vector), !sent.is_empty());
            }
        }
        let mut other = Ioapic::new(0, format);
        other.restore(&io.save()).unwrap();
        assert_eq!(other, io);
    }
}
