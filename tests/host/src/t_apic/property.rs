// SPDX-License-Identifier: GPL-2.0

//! What holds whatever a guest does to its interrupt controllers.

use super::*;
use crate::arch::addr::AccessWidth;
use crate::chipset::ioapic::Ioapic;
use crate::chipset::lapic::save::IdFormat;
use crate::chipset::lapic::{ApicIdentity, ApicMode, LvtEntry, VecBits};
use crate::chipset::saved::HasState;
use crate::chipset::DestFormat;
use crate::chipset::{ApicMessage, PinLevel};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Mmio(u64, AccessWidth, u64),
    MmioRead(u64, AccessWidth),
    Msr(u32, u64),
    MsrRead(u32),
    Base(u64),
    Deadline(u64),
    Accept(u8, bool),
    Posted([u64; 4], [u64; 4]),
    Deliver,
    Local(LvtEntry),
    Pass(u64),
    Init,
    Restore,
}

fn any_width() -> impl Strategy<Value = AccessWidth> {
    prop_oneof![1 => Just(AccessWidth::B1), 1 => Just(AccessWidth::B2), 6 => Just(AccessWidth::B4), 1 => Just(AccessWidth::B8)]
}

/// Mostly the interesting registers, aligned, with values that make sense now and then.
fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        (0u64..0x800),
        (0u64..8, any::<u8>()).prop_map(|(m, v)| (m << 16) | u64::from(v)),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let offset = || prop_oneof![4 => (0u64..0x40).prop_map(|r| r << 4), 1 => 0u64..0x1000];
    let mode = prop_oneof![Just(0), Just(EN), Just(EN | EXTD), Just(EXTD), any::<u64>()];
    let lvt = prop_oneof![
        Just(LvtEntry::Lint0),
        Just(LvtEntry::Lint1),
        Just(LvtEntry::Perf),
        Just(LvtEntry::Thermal)
    ];
    prop_oneof![
        8 => (offset(), any_width(), any_value()).prop_map(|(o, w, v)| Op::Mmio(o, w, v)),
        2 => (offset(), any_width()).prop_map(|(o, w)| Op::MmioRead(o, w)),
        8 => (0x800u32..0x840, any_value()).prop_map(|(i, v)| Op::Msr(i, v)),
        2 => (0x7f0u32..0x910).prop_map(Op::MsrRead),
        1 => mode.prop_map(|m| Op::Base(BASE | m)),
        2 => any_value().prop_map(Op::Deadline),
        6 => (any::<u8>(), any::<bool>()).prop_map(|(v, l)| Op::Accept(v, l)),
        1 => (any::<[u64; 4]>(), any::<[u64; 4]>()).prop_map(|(p, l)| Op::Posted(p, l)),
        6 => Just(Op::Deliver),
        1 => lvt.prop_map(Op::Local),
        4 => (0u64..2_000_000).prop_map(Op::Pass),
        1 => Just(Op::Init),
        1 => Just(Op::Restore),
    ]
}

pub(crate) fn run(apic: &mut Lapic, op: &Op, now: &mut u64) {
    let clock = at(*now);
    match *op {
        Op::Mmio(offset, width, value) => drop(apic.mmio_write(offset, width, value, &clock)),
        Op::MmioRead(offset, width) => {
            let value = apic.mmio_read(offset, width, clock.now);
            assert_eq!(value & !width.mask(), 0);
        }
        Op::Msr(index, value) => drop(apic.write_msr(index, value, &clock)),
        Op::MsrRead(index) => drop(apic.read_msr(index, clock.now)),
        Op::Base(value) => drop(apic.set_base(value, reserved())),
        Op::Deadline(tsc) => drop(apic.set_tsc_deadline(tsc, &clock)),
        Op::Accept(vector, level) => apic.accept(vector, level),
        Op::Posted(ref edge, ref level) => {
            let lost = merge_posted(apic, edge, level);
            assert!(lost == [0; 4] || apic.mode() == ApicMode::Disabled);
        }
        Op::Deliver => check_delivery(apic),
        Op::Local(lvt) => drop(apic.raise_local(lvt)),
        Op::Pass(ns) => {
            *now += ns;
            apic.tick(Ns(*now));
            assert!(apic.deadline().is_none_or(|d| d > Ns(*now)), "a tick leaves no deadline behind");
        }
        Op::Init => apic.reset(true),
        Op::Restore => check_restore(apic, *now),
    }
}

/// An interrupt is taken only above the processor priority, and is then the one in service that
/// the next EOI ends.
fn check_delivery(apic: &mut Lapic) {
    let ppr = apic.ppr();
    let Some(vector) = deliver(apic) else { return };

    assert!(vector >> 4 > ppr >> 4, "{vector:#x} was taken at PPR {ppr:#x}");
    assert!(apic.ppr() >> 4 == vector >> 4);
    assert_ne!(apic.highest_irr(), Some(vector));
    let level = apic.eoi_needed_by_ioapic(vector);
    let mut after = apic.clone();
    assert_eq!(after.eoi(), level.then_some(vector));
    assert!(!after.eoi_needed_by_ioapic(vector));
}

/// A page read, restored into a fresh APIC of the same mode and read again is the same page.
fn check_restore(apic: &mut Lapic, now: u64) {
    let format = if now & 1 == 0 { IdFormat::Xapic } else { IdFormat::X2apic };
    let page = apic.regs(format, Ns(now));
    let mut other = Lapic::new(apic.id(), false);
    other.restore_base(apic.base(), reserved()).unwrap();
    assert!(other.set_regs(&page, format, Ns(now)).is_ok());

    assert_eq!(other.regs(format, Ns(now)), page);
    assert_eq!(other.pending(), apic.pending());
    assert_eq!(other.ppr(), apic.ppr());
    assert_eq!(other.identity(), apic.identity());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_sequence_of_operations_breaks_an_invariant(
        x2apic in any::<bool>(),
        ops in vec(any_op(), 0..200),
    ) {
        let mut apic = if x2apic { x2apic_after_linux_init(2) } else { xapic_after_linux_init() };
        let mut now = 0;
        for op in &ops {
            run(&mut apic, op, &mut now);
            prop_assert!(apic.pending().is_none_or(|v| v >= 16 && v >> 4 > apic.ppr() >> 4));
            prop_assert!(apic.ppr() >> 4 >= apic.tpr() >> 4);
            prop_assert!(apic.mode() != ApicMode::Disabled || apic.highest_irr().is_none());
            prop_assert_eq!(ApicIdentity::unpack(apic.identity().pack()), apic.identity());
        }
    }

    /// The bit scans against an ordered set.
    #[test]
    fn vector_sets_behave_like_sets(ops in vec((any::<u8>(), any::<bool>()), 0..300)) {
        let mut bits = VecBits::default();
        let mut model = BTreeSet::new();
        for (vector, member) in ops {
            if member { bits.set(vector); model.insert(vector); } else { bits.clear(vector); model.remove(&vector); }
            prop_assert_eq!(bits.highest(), model.last().copied());
            prop_assert_eq!(bits.is_empty(), model.is_empty());
            prop_assert_eq!(bits.has(vector), member);
        }
        let parts = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| bits.part(i));
        prop_assert_eq!(VecBits::from_parts(parts), bits);
        for v in 0..=255u8 {
            prop_assert_eq!(parts[usize::from(v >> 5)] >> (v & 31) & 1 == 1, model.contains(&v));
        }
    }

    /// All that is sent is taken exactly once, classes in falling order while nothing new arrives.
    #[test]
    fn every_interrupt_is_delivered_once(vectors in vec(16u8..=255, 1..60)) {
        let mut apic = x2apic_after_linux_init(0);
        apic.set_tpr(0);
        for &v in &vectors {
            apic.accept(v, v & 1 == 0);
        }

        let mut seen = Vec::new();
        while let Some(v) = deliver(&mut apic) {
            seen.push(v);
            prop_assert_eq!(apic.eoi(), (v & 1 == 0).then_some(v));
        }

        let mut expected: Vec<u8> = vectors.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        expected.reverse();
        prop_assert_eq!(seen, expected);
    }

    /// A caller may save itself the look at the clocks where `is_timed` says so.
    #[test]
    fn untimed_registers_do_not_care_for_the_time(
        x2apic in any::<bool>(),
        ops in vec(any_op(), 0..20),
        reg in 0u32..0x40,
        value in any_value(),
    ) {
        prop_assume!(!Lapic::is_timed(reg));
        let mut one = if x2apic { x2apic_after_linux_init(2) } else { xapic_after_linux_init() };
        let mut now = 0;
        for op in &ops {
            run(&mut one, op, &mut now);
        }
        let mut other = one.clone();

        let low = value as u32;
        prop_assert_eq!(one.write(reg << 4, low, &at(0)), other.write(reg << 4, low, &at(1 << 40)));
        prop_assert_eq!(one.write_msr(0x800 + reg, value, &at(0)), other.write_msr(0x800 + reg, value, &at(1 << 40)));
        prop_assert_eq!(one.read(reg << 4, Ns(0)), other.read(reg << 4, Ns(1 << 40)));
        prop_assert_eq!(one, other);
    }

    /// The timer never fires early, whatever is armed when.
    #[test]
    fn a_timer_fires_no_earlier_than_its_count(
        count in 1u32..,
        divide in 0u32..16,
        start in 0u64..1 << 50,
        early in 1u64..,
    ) {
        let mut apic = xapic_after_linux_init();
        set(&mut apic, reg::LVT_TIMER, 0xec);
        let _ = apic.write(reg::TIMER_DIVIDE, divide, &at(start));
        let _ = apic.write(reg::TIMER_INITIAL, count, &at(start));
        let deadline = apic.deadline().expect("armed");

        let before = Ns(deadline.0 - early.min(deadline.0 - start));
        prop_assert!(before == deadline || !apic.tick(before));
        prop_assert!(apic.read(reg::TIMER_CURRENT, before) > 0);
        prop_assert!(apic.tick(deadline));
        prop_assert_eq!(apic.read(reg::TIMER_CURRENT, deadline), 0);
    }

    /// The time of a TSC deadline is where the counter has arrived, and less than 2 ns + 1 in 2^30 late.
    #[test]
    fn a_tsc_deadline_is_exact(khz in 100_000u64..6_000_000, tsc in 0u64..1 << 50, ticks in 1u64..1 << 40) {
        let mut apic = xapic_after_linux_init();
        set(&mut apic, reg::LVT_TIMER, 0x400ec);
        let clock = TimerClock { now: Ns(7), tsc, ns_per_tick: ratio(1_000_000, khz) };
        let _ = apic.set_tsc_deadline(tsc + ticks, &clock);

        let exact = u128::from(ticks) * 1_000_000 / u128::from(khz);
        let got = u128::from(apic.deadline().expect("armed").0 - 7);
        let slack = u128::from(ticks >> 30) + 2;
        prop_assert!(got + slack >= exact && got <= exact + slack, "{got} for {exact}");
    }

    /// Between two ends of its vector a level pin sends once, whatever happens to the line; and once
    /// it has been ended with its line high and unmasked, it has sent again.
    #[test]
    fn a_level_pin_never_has_two_messages_in_flight(ops in vec((0u8..6, any::<bool>()), 0..100)) {
        let mut io = Ioapic::new(0, DestFormat::Narrow);
        let _ = io.write(0, AccessWidth::B4, 0x10 + 2 * 9).count();
        let mut in_flight = 0u32;
        let mut line = false;
        let mut masked = true;
        for (op, flag) in ops {
            let sent = match op {
                0..=2 => {
                    line = flag;
                    u32::from(io.set_irq(9, PinLevel::from(flag)).is_some())
                }
                3 | 4 => {
                    masked = flag;
                    io.write(0x10, AccessWidth::B4, 0x8039 | u64::from(flag) << 16).count() as u32
                }
                _ => {
                    in_flight = 0;
                    io.eoi(0x39).count() as u32
                }
            };
            in_flight += sent;
            prop_assert!(in_flight <= 1);
            prop_assert_eq!(io.waits_for(0x39), in_flight == 1);
            prop_assert!(in_flight == 1 || masked || !line);
        }
    }

    #[test]
    fn no_register_stream_breaks_the_ioapic(
        ops in vec((0u64..0x50, any_width(), any::<u64>(), 0u8..26, any::<bool>()), 0..150),
    ) {
        let mut io = Ioapic::new(1, DestFormat::Extended);
        for (offset, width, value, pin, high) in ops {
            prop_assert!(io.write(offset & !0xf, width, value).count() <= 24);
            prop_assert_eq!(io.read(offset, width) & !width.mask(), 0);
            let _ = io.set_irq(pin, PinLevel::from(high));
            let mut other = Ioapic::new(0, DestFormat::Extended);
            other.restore(&io.save()).unwrap();
            prop_assert_eq!(&other, &io);
        }
    }

    #[test]
    fn any_msi_decodes_or_is_refused(addr in any::<u32>(), high in any::<u32>(), data in any::<u32>()) {
        let addr = u64::from(0xfee0_0000 | (addr & 0xf_ffff)) | (u64::from(high) << 32);
        for format in [DestFormat::Narrow, DestFormat::Extended, DestFormat::Wide] {
            if let Some(msg) = ApicMessage::from_msi(addr, data, format) {
                prop_assert_eq!(u32::from(msg.vector), data & 0xff);
            }
        }
    }
}
