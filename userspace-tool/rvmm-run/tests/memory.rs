// SPDX-License-Identifier: GPL-2.0

//! Memory sizes and the E820 map.

use proptest::prelude::*;
use rvmm_run::config::layout::{GIB, HIGH_RAM_4G, LOW_RAM_MAX, MIB};
use rvmm_run::config::memory::{E820Kind, MemoryError, RamSize};

#[test]
fn sizes_take_suffixes_and_default_to_mib() {
    for (text, bytes) in [
        ("512", 512 * MIB),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("2G", 2 * GIB),
        ("2GiB", 2 * GIB),
        ("65536K", 64 * MIB),
        ("33554432B", 32 * MIB),
    ] {
        assert_eq!(RamSize::parse(text).map(RamSize::bytes), Ok(bytes), "{text}");
    }
}

#[test]
fn bad_sizes_say_what_is_wrong() {
    for text in ["", "G", "1X", "-1", "1.5G", "99999999999T"] {
        assert_eq!(RamSize::parse(text), Err(MemoryError::NotASize), "{text}");
    }
    assert_eq!(RamSize::parse("0"), Err(MemoryError::TooSmall(0)));
    assert_eq!(RamSize::parse("1M"), Err(MemoryError::TooSmall(MIB)));
    assert_eq!(RamSize::parse("33554433B"), Err(MemoryError::NotWholePages(33_554_433)));
    let size = RamSize::parse("2G").unwrap();
    assert_eq!(size.check_host(GIB), Err(MemoryError::MoreThanHost { asked: 2 * GIB, host: GIB }));
    assert_eq!(size.check_host(2 * GIB), Ok(()));
}

proptest! {
    /// The map is sorted, free of overlaps, leaves the device window out and accounts for every byte of RAM but the PC hole.
    #[test]
    fn map_is_sorted_and_complete(pages in 4096u64..(16 << 20)) {
        let size = RamSize::from_bytes(pages * 4096).unwrap();

        let map = size.e820();

        for pair in map.windows(2) {
            prop_assert!(pair[0].base + pair[0].size <= pair[1].base);
        }
        for range in &map {
            prop_assert!(range.base + range.size <= LOW_RAM_MAX || range.base >= HIGH_RAM_4G);
        }
        let usable: u64 = map.iter().filter(|r| r.kind == E820Kind::Ram).map(|r| r.size).sum();
        prop_assert_eq!(usable, size.bytes() - (MIB - 0x9_fc00));
    }
}

/// The module maps 2 MiB at a time only where guest and host addresses are aligned alike. Odd sizes may miss that.
#[test]
fn ram_is_aligned_for_large_pages() {
    use vm_memory::GuestMemory;
    for bytes in [64 * MIB, 100 * MIB, 512 * MIB, 5 * GIB] {
        let ram = RamSize::from_bytes(bytes).unwrap().allocate().unwrap();
        for region in ram.iter() {
            assert_eq!(region.as_ptr() as usize % (2 << 20), 0, "{bytes:#x}");
        }
    }
}
