// SPDX-License-Identifier: GPL-2.0

//! The table of writes that signal: against a plain list.

use crate::machine::ioevent::{search, IoAddrSpace, IoEventMatch, IoEvents};
use core::cell::Cell;
use kernel::prelude::*;
use proptest::prelude::*;

const ANY: IoEventMatch = IoEventMatch { place: IoAddrSpace::Port, addr: 0x510, len: 0, value: None };

fn at(addr: u64, len: u32, value: Option<u64>) -> IoEventMatch {
    IoEventMatch { addr, len, value, ..ANY }
}

#[test]
fn an_empty_table_takes_nothing() {
    let table: IoEvents<u32> = IoEvents::default();

    assert_eq!(table.find(IoAddrSpace::Port, 0x510, 1, 0), None);
    assert_eq!(table.without(ANY, |_| true).map(|_| ()), Err(ENOENT));
}

#[test]
fn ports_and_memory_are_apart() {
    let table = IoEvents::default().with(ANY, 1).unwrap();
    let table = table.with(IoEventMatch { place: IoAddrSpace::Memory, ..ANY }, 2).unwrap();

    assert_eq!(table.find(IoAddrSpace::Port, 0x510, 1, 0), Some(&1));
    assert_eq!(table.find(IoAddrSpace::Memory, 0x510, 8, 0), Some(&2));
}

#[test]
fn only_the_one_that_was_added_is_taken_back() {
    let wanted = at(0x510, 2, Some(7));
    let table = IoEvents::default().with(wanted, 1).unwrap();

    assert_eq!(table.without(wanted, |&e| e == 2).map(|_| ()), Err(ENOENT), "another eventfd");
    assert_eq!(table.without(at(0x510, 2, None), |_| true).map(|_| ()), Err(ENOENT), "another value");
    let table = table.without(wanted, |&e| e == 1).unwrap();
    assert_eq!(table.find(IoAddrSpace::Port, 0x510, 2, 7), None);
}

#[test]
fn running_out_of_memory_leaves_the_table_as_it_was() {
    let table = IoEvents::default().with(ANY, 1).unwrap();

    kernel::alloc::fail_nth(0);
    let changed = table.with(at(0x511, 1, None), 2);
    kernel::alloc::fail_none();

    assert_eq!(changed.map(|_| ()), Err(ENOMEM));
    assert_eq!(table.find(IoAddrSpace::Port, 0x510, 4, 9), Some(&1));
}

#[test]
fn a_write_finds_its_entry_by_halves_also_where_all_are_at_one_address() {
    const MOST: u64 = 16_384;
    let doorbells: Vec<IoEventMatch> = (0..MOST).map(|i| at(0xfe00_0000, 4, Some(i * 3))).collect();
    for value in [0, 3, 7, 3 * MOST / 2, 3 * (MOST - 1), u64::MAX] {
        let looks = Cell::new(0);
        let get = |i: usize| {
            looks.set(looks.get() + 1);
            doorbells.get(i)
        };

        let found = search(doorbells.len(), get, 0xfe00_0000, 4, value);

        let wanted = (value % 3 == 0 && value < 3 * MOST).then_some(value as usize / 3);
        assert_eq!(found, wanted, "{value}");
        assert!(looks.get() <= 17, "{} looks for {value}", looks.get());
    }
}

fn any_match() -> impl Strategy<Value = IoEventMatch> {
    let place = prop_oneof![Just(IoAddrSpace::Port), Just(IoAddrSpace::ChipPort), Just(IoAddrSpace::Memory)];
    let len = prop_oneof![Just(0u32), Just(1), Just(2), Just(4), Just(8)];
    (place, 0..4u64, len, proptest::option::of(0..3u64)).prop_map(|(place, addr, len, value)| IoEventMatch {
        place,
        addr,
        len,
        value: value.filter(|_| len != 0),
    })
}

/// Whether the write is one of `m`, as the documentation of the ioctl says it.
fn is_meant(m: &IoEventMatch, place: IoAddrSpace, addr: u64, len: u32, value: u64) -> bool {
    m.place == place
        && m.addr == addr
        && (m.len == 0 || m.len == len)
        && m.value.is_none_or(|wanted| wanted == value)
}

proptest! {
    /// After any changes a write finds what a search of everything finds, which is one or none.
    #[test]
    fn the_table_is_a_list_of_everything(
        changes in proptest::collection::vec((any_match(), any::<bool>()), 0..60),
    ) {
        let mut list: Vec<(IoEventMatch, usize)> = Vec::new();
        let mut table = IoEvents::default();
        for (i, (m, add)) in changes.into_iter().enumerate() {
            if add {
                match table.with(m, i) {
                    Ok(t) => {
                        table = t;
                        list.push((m, i));
                    }
                    Err(e) => prop_assert_eq!(e, EEXIST),
                }
            } else {
                let there = list.iter().position(|(l, _)| *l == m);
                match table.without(m, |_| true) {
                    Ok(t) => {
                        table = t;
                        list.remove(there.expect("it was there"));
                    }
                    Err(e) => {
                        prop_assert_eq!(e, ENOENT);
                        prop_assert!(there.is_none());
                    }
                }
            }
        }
        for place in [IoAddrSpace::Port, IoAddrSpace::ChipPort, IoAddrSpace::Memory] {
            for (addr, len, value) in (0..5).flat_map(|a| [1, 2, 4, 8].map(|l| (a, l)))
                .flat_map(|(a, l)| [0, 1, 2, 3].map(|v| (a, l, v)))
            {
                let meant: Vec<usize> = list
                    .iter()
                    .filter(|(m, _)| is_meant(m, place, addr, len, value))
                    .map(|(_, i)| *i)
                    .collect();
                prop_assert!(meant.len() <= 1, "no write is meant for two");
                prop_assert_eq!(table.find(place, addr, len, value), meant.first());
                for hint in 0..8 {
                    let found = table.find_near(place, addr, len, || value, &mut { hint });
                    prop_assert_eq!(found, meant.first(), "a wrong hint does no harm");
                }
            }
        }
    }
}
