// SPDX-License-Identifier: GPL-2.0

//! A machine's state: what is saved is what a guest can see, and nothing else is believed.

use crate::arch::time::Ns;
use crate::chipset::bus::{BusSignals, ChipBus};
use crate::chipset::i8042::I8042;
use crate::chipset::ioapic::Ioapic;
use crate::chipset::lapic::Lapic;
use crate::chipset::message::DestFormat;
use crate::chipset::pic::Pic;
use crate::chipset::pit::Pit;
use crate::chipset::pm::{Pm, TimerWidth};
use crate::chipset::rtc::{Rtc, RtcSetup};
use crate::chipset::saved::{BadState, HasState, SectionId, StateReader, StateWriter};
use crate::chipset::uart::Uart;
use crate::fuzz::saved::{machine, restore};
use crate::virtio::queue::VirtQueue;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// For every device and every register.
    #[test]
    fn a_machine_restored_answers_as_the_one_that_was_saved(bytes in any_stream()) {
        machine(&bytes);
    }

    #[test]
    fn a_changed_state_does_no_harm(bytes in any_stream()) {
        restore(&bytes);
    }
}

/// Operations of six bytes.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..600)
}

/// Restores any bytes: they are refused and nothing has changed, or they are what the device holds then.
fn believes_nothing<T: HasState>(mut device: T, bytes: &[u8]) {
    let (state, _) = T::State::read_from_prefix(bytes).unwrap();
    let old = device.save();
    match device.restore(&state) {
        Ok(()) => assert_eq!(device.save().as_bytes(), state.as_bytes()),
        Err(BadState::Impossible { id, offset }) => {
            assert_eq!(id, T::SECTION.id);
            assert!(offset < core::mem::size_of::<T::State>());
            assert_eq!(device.save().as_bytes(), old.as_bytes());
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// Bytes that are often small, so that more of them hold.
fn any_state() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0u8), 2 => 0u8..8, 1 => any::<u8>()];
    proptest::collection::vec(byte, 256)
}

proptest! {
    #[test]
    fn any_bytes_are_a_state_or_refused(bytes in any_state()) {
        let now = Ns(1_000_000_000);
        believes_nothing(Pic::new(), &bytes);
        believes_nothing(Pit::new(), &bytes);
        believes_nothing(Rtc::new(&RtcSetup::default(), now), &bytes);
        believes_nothing(Uart::new().unwrap(), &bytes);
        believes_nothing(I8042::new(), &bytes);
        believes_nothing(Pm::new(TimerWidth::Bits32, now), &bytes);
        believes_nothing(Ioapic::new(0, DestFormat::Narrow), &bytes);
        believes_nothing(Lapic::new(1, true), &bytes);
        believes_nothing(VirtQueue::new(64, 16).unwrap(), &bytes);
        believes_nothing(ChipBus::default(), &bytes);
    }
}

fn with_chips() -> ChipBus {
    let mut bus = ChipBus::default();
    bus.pic = Some(Pic::new());
    bus.pit = Some(Pit::new());
    bus
}

fn saved(bus: &ChipBus) -> Vec<u8> {
    let mut out = StateWriter::new(4096).unwrap();
    bus.save_chips(&mut out);
    out.finish().unwrap().to_vec()
}

fn restored(bus: &mut ChipBus, state: &[u8]) -> Result<(), BadState> {
    let mut from = StateReader::new(state);
    bus.restore_chips(&mut from, Ns(0), &mut BusSignals::new())?;
    from.finish()
}

#[test]
fn a_machine_of_other_chips_is_refused() {
    let state = saved(&with_chips());

    let (mut without_timer, mut with_clock) = (with_chips(), with_chips());
    without_timer.pit = None;
    with_clock.rtc = Some(Rtc::new(&RtcSetup::default(), Ns(0)));

    assert_eq!(restored(&mut without_timer, &state), Err(BadState::Unknown(0x05)));
    assert_eq!(restored(&mut with_clock, &state), Err(BadState::Missing(0x06)));
    assert_eq!(restored(&mut with_chips(), &state), Ok(()));
}

#[test]
fn another_version_or_length_is_refused_and_what_is_cut_off_too() {
    let state = saved(&with_chips());
    let (mut newer, mut shorter) = (state.clone(), state.clone());
    newer[8] = 2;
    shorter[12] -= 1;

    assert_eq!(restored(&mut with_chips(), &newer), Err(BadState::Version(0x02)));
    assert!(restored(&mut with_chips(), &shorter).is_err());
    for len in 1..state.len() {
        assert!(restored(&mut with_chips(), &state[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn an_optional_section_that_nobody_knows_is_stepped_over() {
    let mut out = StateWriter::new(4096).unwrap();
    out.put_bytes(SectionId { id: 1 << 31 | 5, version: 9 }, 0, 3, |to| to.fill(1));
    with_chips().save_chips(&mut out);
    out.put_bytes(SectionId { id: 1 << 31 | 6, version: 9 }, 0, 1, |to| to.fill(1));

    assert_eq!(restored(&mut with_chips(), out.finish().unwrap()), Ok(()));
}

#[test]
fn an_optional_section_behind_others_is_found_and_one_that_is_missing_takes_none_away() {
    let [a, b, c] = [5, 6, 7].map(|id| SectionId { id: 1 << 31 | id, version: 1 });
    let mut out = StateWriter::new(4096).unwrap();
    out.put_bytes(a, 0, 1, |to| to.fill(0xa));
    out.put_bytes(b, 0, 1, |to| to.fill(0xb));
    with_chips().save_chips(&mut out);
    let state = out.finish().unwrap();
    let then_chips = |mut from: StateReader<'_>| {
        with_chips().restore_chips(&mut from, Ns(0), &mut BusSignals::new())?;
        from.finish()
    };

    // Of a module that does not know the first.
    let mut from = StateReader::new(state);
    assert_eq!(from.get_bytes(b, 0), Ok(&[0xb][..]));
    assert_eq!(then_chips(from), Ok(()));
    // Of one that knows both, and a third that is not there, in any place.
    for order in [[c, a, b], [a, c, b], [a, b, c]] {
        let mut from = StateReader::new(state);
        for section in order {
            let expected: &[u8] = if section == c { &[] } else { &[section.id as u8 + 5] };
            assert_eq!(from.get_bytes(section, 0), Ok(expected), "{order:?}");
        }
        assert_eq!(then_chips(from), Ok(()));
    }
}

#[test]
fn a_state_that_has_no_room_is_none() {
    let mut out = StateWriter::new(100).unwrap();

    with_chips().save_chips(&mut out);

    assert!(out.finish().is_none());
}
