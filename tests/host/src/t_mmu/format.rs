// SPDX-License-Identifier: GPL-2.0

//! Entries of NPT and EPT: the manuals' bits, and decoding what was encoded.

use crate::arch::addr::{Hpa, Pfn};
use crate::mmu::format::{
    small_code, Ept, GuestTouch, LeafEntry, MapRights, MemoryType, Npt, PageSize, TableEntry, TableFormat,
    TableLevels,
};
use proptest::prelude::*;

pub(crate) const NPT: Npt = Npt { levels: TableLevels::Four, gib_pages: true, encryption_mask: 0 };
pub(crate) const EPT: Ept =
    Ept { gib_pages: true, accessed_dirty: true, memory_type: MemoryType::WriteBack, ignore_pat: false };

#[test]
fn npt_entries_have_the_manuals_bits() {
    let all = MapRights::all();

    assert_eq!(NPT.leaf(Pfn(0x12345), PageSize::Size4K, all), 0x1234_5067);
    assert_eq!(NPT.leaf(Pfn(0x12200), PageSize::Size2M, all), 0x1220_00e7);
    assert_eq!(NPT.leaf(Pfn(0x12345), PageSize::Size4K, MapRights::empty()), 0x8000_0000_1234_5025);
    assert_eq!(NPT.link(Hpa(0x7000)), 0x7027);
}

#[test]
fn ept_entries_have_the_manuals_bits() {
    let all = MapRights::all();

    assert_eq!(EPT.leaf(Pfn(0x12345), PageSize::Size4K, all), 0x1234_5337);
    assert_eq!(EPT.leaf(Pfn(0x12200), PageSize::Size2M, all), 0x1220_03b7);
    assert_eq!(EPT.leaf(Pfn(0x12345), PageSize::Size4K, MapRights::empty()), 0x1234_5131);
    assert_eq!(EPT.link(Hpa(0x7000)), 0x7107);
    assert_eq!(EPT.eptp(Hpa(0x7000)), 0x705e);
}

#[test]
fn ept_without_accessed_flags_keeps_their_bits_clear() {
    let ept = Ept { accessed_dirty: false, ignore_pat: true, ..EPT };

    assert_eq!(ept.leaf(Pfn(1), PageSize::Size4K, MapRights::all()), 0x1077);
    assert_eq!(ept.link(Hpa(0x7000)), 0x7007);
    assert_eq!(ept.eptp(Hpa(0x7000)), 0x701e);
}

#[test]
fn the_encryption_bit_is_set_in_entries_and_hidden_on_decoding() {
    let npt = Npt { encryption_mask: 1 << 51, ..NPT };

    assert_eq!(npt.link(Hpa(0x7000)), 0x0008_0000_0000_7027);
    assert_eq!(npt.decode(npt.link(Hpa(0x7000)), 2), TableEntry::Link(Hpa(0x7000)));
}

fn round_trip(f: &impl TableFormat, pfn: u64, level: u32, bits: u8) {
    let size = PageSize::of_level(level).unwrap();
    let pfn = Pfn(pfn & !(size.pages() - 1));
    let rights = MapRights::from_bits_truncate(bits);
    let entry = f.leaf(pfn, size, rights);

    assert_eq!(f.decode(entry, level), TableEntry::Leaf(LeafEntry { pfn, rights, accessed: true }));
    let protected = f.decode(f.without_write(entry), level);
    assert_eq!(
        protected,
        TableEntry::Leaf(LeafEntry { pfn, rights: rights - MapRights::WRITE, accessed: true })
    );
    let aged = f.decode(f.without_accessed(entry), level);
    assert_eq!(aged, TableEntry::Leaf(LeafEntry { pfn, rights, accessed: false }));
}

proptest! {
    #[test]
    fn decoding_gives_what_was_encoded(pfn in 0u64..1 << 40, level in 1u32..=3, bits in 0u8..4) {
        round_trip(&NPT, pfn, level, bits);
        round_trip(&EPT, pfn, level, bits);
    }

    /// The table keeps a list in such entries.
    #[test]
    fn an_entry_with_clear_low_bits_is_absent(page in any::<u64>(), level in 1u32..=5) {
        let entry = page & !0xfff;
        prop_assert_eq!(NPT.decode(entry, level), TableEntry::Absent);
        prop_assert_eq!(EPT.decode(entry, level), TableEntry::Absent);
    }
}

#[test]
fn large_pages_are_for_data_where_code_must_be_small() {
    use PageSize::*;
    let all = MapRights::all();
    let choose = |touch, size, rights, is_split| small_code(touch, size, rights, || is_split);
    assert_eq!(choose(GuestTouch::Write, Size2M, all, false), (Size2M, MapRights::WRITE));
    assert_eq!(choose(GuestTouch::Read, Size2M, MapRights::EXEC, false), (Size2M, MapRights::empty()));
    assert_eq!(choose(GuestTouch::Fetch, Size2M, all, false), (Size4K, all), "an instruction splits it");
    assert_eq!(choose(GuestTouch::Write, Size2M, all, true), (Size4K, all), "and it stays split");
    assert_eq!(choose(GuestTouch::Write, Size4K, all, false), (Size4K, all));
}
