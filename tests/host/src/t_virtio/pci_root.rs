// SPDX-License-Identifier: GPL-2.0

use crate::arch::addr::{
    AccessWidth, AccessWidth::B1, AccessWidth::B2, AccessWidth::B4, AccessWidth::B8, Gpa,
};
use crate::chipset::pci::{
    BarHit, BarKind, BarRange, ConfigAccess, ConfigSpace, MsixLayout, PciCommand, PciIdentity, PciRoot,
    PciSlot, TouchedRegs,
};
use kernel::prelude::*;
use proptest::prelude::*;

const ID: PciIdentity = PciIdentity {
    vendor: 0x1234,
    device: 0x5678,
    class: 0x01_08_02,
    revision: 3,
    subsystem_vendor: 0x9abc,
    subsystem: 0xdef0,
};

fn slot(n: u8) -> PciSlot {
    PciSlot::new(n).unwrap()
}

fn function(bars: &[(u8, BarKind, u32)]) -> ConfigSpace {
    let mut config = ConfigSpace::new(&ID);
    for (index, kind, bytes) in bars {
        config.add_bar(*index, *kind, *bytes).unwrap();
    }
    config
}

fn address(slot: u8, register: u8) -> u32 {
    0x8000_0000 | u32::from(slot) << 11 | u32::from(register)
}

fn decode_on(config: &mut ConfigSpace) {
    assert_eq!(config.write(0x04, B2, 0x2), TouchedRegs::DECODE);
}

#[test]
fn linux_finds_configuration_mechanism_1() {
    let mut root = PciRoot::new(0xc000_0000, 0x1000_0000);

    // What the kernel's probe does, with the byte write that must not disturb anything.
    root.write(3, B1, 0x01);
    root.write(0, B4, 0x8000_0000);
    assert_eq!(root.read(0, B4), ConfigAccess::Done(0x8000_0000));

    root.write(0, B4, address(0, 0));
    assert_eq!(root.read(4, B4), ConfigAccess::Done(0x1237_8086));
    root.write(0, B4, address(0, 8));
    assert_eq!(root.read(6, B2), ConfigAccess::Done(0x0600), "a host bridge");
}

#[test]
fn every_width_and_offset_reaches_its_register() {
    let mut root = PciRoot::new(0xc000_0000, 0x1000_0000);
    let mut config = function(&[]);
    root.add(Some(slot(4)), &mut config).unwrap();
    root.write(0, B4, address(4, 0x2c));

    let register = |register| ConfigAccess::Function { slot: slot(4), register };
    assert_eq!(root.read(4, B4), register(0x2c));
    assert_eq!(root.read(4, B2), register(0x2c));
    assert_eq!(root.read(6, B2), register(0x2e));
    assert_eq!(root.read(7, B1), register(0x2f));
    assert_eq!(root.write(5, B1, 0), register(0x2d));
    assert_eq!(root.read(7, B2), ConfigAccess::Done(0xffff), "beyond the data port");
    assert_eq!(root.read(1, B1), ConfigAccess::Done(0xff));
    assert_eq!(config.read(0x2c, B4), 0xdef0_9abc);
    assert_eq!(config.read(0x2e, B2), 0xdef0);
    assert_eq!(config.read(0x2d, B1), 0x9a);
    assert_eq!(config.read(0x08, B4), 0x0108_0203);
}

#[test]
fn what_is_not_there_reads_as_ones() {
    let mut root = PciRoot::new(0xc000_0000, 0x1000_0000);
    let mut config = function(&[]);
    root.add(Some(slot(4)), &mut config).unwrap();
    let cases = [
        address(5, 0),
        address(4, 0) | 1 << 16,      // another bus
        address(4, 0) | 1 << 8,       // another function
        address(4, 0) & !0x8000_0000, // not enabled
    ];

    for address in cases {
        root.write(0, B4, address);
        assert_eq!(root.read(4, B4), ConfigAccess::Done(u32::MAX), "{address:#x}");
        assert_eq!(root.write(4, B4, 0), ConfigAccess::Done(0), "{address:#x}");
    }
}

#[test]
fn bars_are_sized_by_writing_ones() {
    let mut config = function(&[(0, BarKind::Memory32, 0x4000), (2, BarKind::Memory64, 0x10_0000)]);

    for register in (0x10..0x28).step_by(4) {
        assert_eq!(config.write(register, B4, u32::MAX), TouchedRegs::DECODE);
    }

    let sizes: Vec<u32> = (0x10..0x28).step_by(4).map(|r| config.read(r, B4)).collect();
    assert_eq!(sizes, [0xffff_c000, 0, 0xfff0_0004, 0xffff_ffff, 0, 0]);
}

#[test]
fn bars_that_cannot_be_are_refused() {
    let mut config = function(&[(1, BarKind::Memory64, 0x1000)]);
    let refused = [
        (1, BarKind::Memory32, 0x1000),
        (2, BarKind::Memory32, 0x1000),
        (0, BarKind::Memory64, 0x1000),
        (5, BarKind::Memory64, 0x1000),
        (6, BarKind::Memory32, 0x1000),
        (3, BarKind::Memory32, 0x1800),
        (3, BarKind::Memory32, 8),
    ];

    for (index, kind, bytes) in refused {
        assert_eq!(config.add_bar(index, kind, bytes), Err(EINVAL), "{index} {kind:?} {bytes:#x}");
    }
    config.add_bar(0, BarKind::Memory32, 0x1000).unwrap();
}

#[test]
fn a_bar_claims_addresses_only_while_decoding_is_on_and_placed() {
    let mut config = function(&[(0, BarKind::Memory32, 0x4000)]);
    config.write(0x10, B4, 0xc123_4567);
    assert_eq!(config.bar(0), None);

    decode_on(&mut config);
    assert_eq!(config.bar(0), Some(BarRange { base: Gpa(0xc123_4000), bytes: 0x4000 }));

    config.write(0x10, B4, 0);
    assert_eq!(config.bar(0), None);
}

#[test]
fn only_the_known_bits_of_the_command_register_stick() {
    let mut config = function(&[]);

    config.write(0x04, B4, u32::MAX);

    assert_eq!(config.command(), PciCommand::MEMORY | PciCommand::BUS_MASTER | PciCommand::INTX_DISABLE);
    assert_eq!(config.read(0x06, B2), 0, "status bits are not the guest's");
    config.write(0x00, B4, 0);
    assert_eq!(config.read(0x00, B4), 0x5678_1234);
}

#[test]
fn capabilities_are_linked_and_msix_control_is_seen() {
    let mut config = function(&[]);
    assert_eq!(config.read(0x06, B2) & 0x10, 0);
    let vendor = config.add_capability(0x09, &[5, 1, 2], &[]).unwrap();
    let layout = MsixLayout { vectors: 3, table_bar: 1, table: 0, pending_bar: 1, pending: 0x800 };
    let msix = config.add_msix(&layout).unwrap();

    assert_eq!(config.read(0x06, B2) & 0x10, 0x10);
    assert_eq!((vendor, msix), (0x40, 0x48));
    assert_eq!(config.read(0x34, B1), 0x40);
    assert_eq!(config.read(vendor, B4), 0x0105_4809);
    assert_eq!(config.read(msix, B4), 0x0002_0011);
    assert_eq!(config.read(msix + 4, B4), 1);
    assert_eq!(config.read(msix + 8, B4), 0x801);

    assert_eq!(config.write(msix + 3, B1, 0xff), TouchedRegs::MSIX);
    assert!(config.msix_control().enabled && config.msix_control().masked);
    assert_eq!(config.read(msix, B4), 0xc002_0011);
    assert_eq!(config.write(msix, B4, 0), TouchedRegs::MSIX);
    assert!(!config.msix_control().enabled && !config.msix_control().masked);
    assert_eq!(config.write(msix + 4, B4, 0xffff_ffff), TouchedRegs::empty());
    assert_eq!(config.read(msix + 4, B4), 1);
}

#[test]
fn capabilities_end_where_the_space_ends() {
    let mut config = function(&[]);
    for i in 0..12 {
        assert_eq!(config.add_capability(0x09, &[0; 14], &[]), Ok(0x40 + 16 * i));
    }
    assert_eq!(config.add_capability(0x09, &[], &[]), Err(ENOSPC));
}

#[test]
fn functions_get_slots_and_disjoint_aligned_bars() {
    let mut root = PciRoot::new(0xc000_1000, 0x10_0000);
    let mut configs: Vec<ConfigSpace> =
        (0..3).map(|_| function(&[(0, BarKind::Memory32, 0x4000), (1, BarKind::Memory32, 0x100)])).collect();
    let slots: Vec<PciSlot> = configs.iter_mut().map(|c| root.add(None, c).unwrap()).collect();
    assert_eq!(slots, [slot(1), slot(2), slot(3)]);
    assert_eq!(root.add(Some(slot(2)), &mut function(&[])), Err(EEXIST));
    assert_eq!(root.add(Some(slot(0)), &mut function(&[])), Err(EEXIST));

    assert_eq!(root.decode(Gpa(0xc000_4000)), None, "decoding is still off");
    for (slot, config) in slots.iter().zip(&mut configs) {
        decode_on(config);
        root.update(*slot, config);
    }

    let hit = |slot, bar, offset| Some(BarHit { slot, bar, offset });
    assert_eq!(root.decode(Gpa(0xc000_3fff)), None);
    assert_eq!(root.decode(Gpa(0xc000_4000)), hit(slots[0], 0, 0));
    assert_eq!(root.decode(Gpa(0xc000_7fff)), hit(slots[0], 0, 0x3fff));
    assert_eq!(root.decode(Gpa(0xc000_8010)), hit(slots[0], 1, 0x10));
    assert_eq!(root.decode(Gpa(0xc000_8100)), None);
    assert_eq!(root.decode(Gpa(0xc000_c000)), hit(slots[1], 0, 0));
    assert_eq!(root.decode(Gpa(0)), None);
    assert_eq!(root.decode(Gpa(u64::MAX)), None);
}

#[test]
fn a_bar_that_moves_is_found_at_its_new_place_only() {
    let mut root = PciRoot::new(0xc000_0000, 0x10_0000);
    let mut config = function(&[(0, BarKind::Memory64, 0x4000)]);
    let at = root.add(None, &mut config).unwrap();
    decode_on(&mut config);
    root.update(at, &config);

    config.write(0x14, B4, 0x12);
    root.update(at, &config);

    assert_eq!(root.decode(Gpa(0xc000_0000)), None);
    assert_eq!(root.decode(Gpa(0x12_c000_0004)), Some(BarHit { slot: at, bar: 0, offset: 4 }));

    root.reset_function(at, &mut config);
    assert_eq!(root.decode(Gpa(0x12_c000_0004)), None);
    assert_eq!(config.read(0x10, B4), 0xc000_0004, "placed again");
    assert_eq!(config.command(), PciCommand::empty());
}

#[test]
fn a_full_window_or_bus_refuses_and_leaves_nothing_behind() {
    let mut root = PciRoot::new(0xc000_0000, 0x8000);
    let big = || function(&[(0, BarKind::Memory32, 0x4000), (1, BarKind::Memory32, 0x4000)]);
    root.add(None, &mut function(&[(0, BarKind::Memory32, 0x1000)])).unwrap();
    assert_eq!(root.add(None, &mut big()), Err(ENOSPC));
    for n in 2..32 {
        assert_eq!(root.add(None, &mut function(&[])), Ok(slot(n)));
    }
    assert_eq!(root.add(None, &mut function(&[])), Err(ENOSPC));
}

#[test]
fn no_memory_for_the_map_is_an_error() {
    let mut root = PciRoot::new(0xc000_0000, 0x8000);
    kernel::alloc::fail_nth(0);
    let result = root.add(None, &mut function(&[]));
    kernel::alloc::fail_none();
    assert_eq!(result, Err(ENOMEM));
}

fn any_width() -> impl Strategy<Value = AccessWidth> {
    prop_oneof![Just(B1), Just(B2), Just(B4), Just(B8)]
}

proptest! {
    /// A write changes exactly the bits that its mask allows; a read has no bits above its width.
    #[test]
    fn writes_stay_inside_their_masks(ops in prop::collection::vec((any::<u8>(), any_width(), any::<u32>()), 0..60)) {
        let mut config = function(&[(0, BarKind::Memory32, 0x4000), (2, BarKind::Memory64, 0x1000)]);
        let layout = MsixLayout { vectors: 3, table_bar: 1, table: 0, pending_bar: 1, pending: 0x800 };
        config.add_msix(&layout).unwrap();
        let image = |c: &ConfigSpace| (0..=255).map(|r| c.read(r, B1)).collect::<Vec<_>>();
        let at_reset = image(&config);
        for (register, width, value) in ops {
            let _ = config.write(register, width, value);
            let read = config.read(register, width);
            prop_assert!(u64::from(read) <= width.mask());
        }
        for r in (0..0x40).filter(|r| !matches!(r, 4 | 5 | 0x10..=0x1f | 0x3c)) {
            prop_assert_eq!(config.read(r, B1), at_reset[r as usize]);
        }
        config.reset();
        prop_assert_eq!(image(&config), at_reset);
    }

    /// Wherever BARs lie, the map agrees with asking each function.
    #[test]
    fn decoding_agrees_with_the_functions(
        bases in prop::collection::vec(0u32..64, 8),
        enabled in any::<u8>(),
        probes in prop::collection::vec(0u64..0x42_0000, 50),
    ) {
        let mut root = PciRoot::new(0xc000_0000, 0x100_0000);
        let mut functions = Vec::new();
        for (i, base) in bases.iter().enumerate() {
            let mut config = function(&[(0, BarKind::Memory32, 0x1_0000)]);
            let at = root.add(None, &mut config).unwrap();
            config.write(0x10, B4, base << 16);
            config.write(0x04, B2, if enabled & 1 << i != 0 { 2 } else { 0 });
            root.update(at, &config);
            functions.push((at, config));
        }
        for gpa in probes {
            let claims = |c: &ConfigSpace| c.bar(0).is_some_and(|r| (r.base.0..r.base.0 + r.bytes).contains(&gpa));
            match root.decode(Gpa(gpa)) {
                Some(hit) => {
                    let (_, config) = functions.iter().find(|(at, _)| *at == hit.slot).unwrap();
                    prop_assert!(claims(config));
                    prop_assert_eq!(config.bar(0).unwrap().base.0 + hit.offset, gpa);
                }
                None => prop_assert!(functions.iter().all(|(_, config)| !claims(config))),
            }
        }
    }
}
