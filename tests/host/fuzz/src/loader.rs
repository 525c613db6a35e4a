// SPDX-License-Identifier: GPL-2.0

//! The tool's kernel loaders. Their pseudo-random tests are beside the tool, in tests/kernel.rs.

#[path = "../../../../userspace-tool/rvmm-run/tests/common/mod.rs"]
mod common;

use common::{bzimage, elf, pvh_note, Segment};
use rvmm_run::config::layout::MIB;
use rvmm_run::config::memory::RamSize;
use rvmm_run::kernel::{load, Entry, Loaded};
use std::cell::OnceCell;
use vm_memory::GuestMemoryMmap;

/// The loaders' subjects.
pub(crate) const TARGETS: &[crate::fuzz::Target] =
    &[("elf", elf_kernel), ("bzimage", bz_image), ("kernel", any)];

thread_local! {
    /// Mapping memory anew for each input would be most of the work.
    static RAM: OnceCell<(RamSize, GuestMemoryMmap<()>)> = const { OnceCell::new() };
}

fn load_in_ram(image: &[u8]) {
    let loaded = RAM.with(|ram| {
        let (size, ram) = ram.get_or_init(|| {
            let size = RamSize::from_bytes(32 * MIB).expect("a legal size");
            (size, size.allocate().expect("memory"))
        });
        load(image, *size, ram)
    });
    match loaded {
        Ok(loaded) => check(&loaded),
        Err(e) => assert!(!e.to_string().is_empty(), "an error says something"),
    }
}

fn check(loaded: &Loaded) {
    let start = match loaded.entry {
        Entry::Linux64 { rip } => rip,
        Entry::Pvh { eip } => u64::from(eip),
    };
    assert!(start >= MIB && start < loaded.end, "{loaded:?}");
    assert!(loaded.end <= 32 * MIB, "{loaded:?}");
}

/// Changes a good image at places the bytes choose: two bytes of place, one of value; the first two
/// bytes cut its end off.
fn damage(mut image: Vec<u8>, head: usize, bytes: &[u8]) -> Vec<u8> {
    let head = head.min(image.len());
    let (cut, changes) = bytes.split_at(2.min(bytes.len()));
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % head;
        image[at] = change[2];
    }
    let cut = cut.iter().fold(0, |n, b| n << 8 | usize::from(*b));
    image.truncate(image.len() - if cut & 0xf000 == 0 { cut.min(image.len()) } else { 0 });
    image
}

/// A damaged ELF file is refused, or lies in RAM with its entry.
fn elf_kernel(bytes: &[u8]) {
    let segments = [
        Segment::load(0x100_0000, &[0xf4; 64]),
        Segment::load(0x110_0000, &[1; 32]),
        Segment::note(pvh_note(0x100_0010)),
    ];
    load_in_ram(&damage(elf(0x100_0000, &segments), 64 + 3 * 56 + 140, bytes));
}

/// The same for a damaged bzImage.
fn bz_image(bytes: &[u8]) {
    load_in_ram(&damage(bzimage(&[0x90; 2048]), 0x270, bytes));
}

/// The same for any bytes at all.
fn any(bytes: &[u8]) {
    load_in_ram(bytes);
}
