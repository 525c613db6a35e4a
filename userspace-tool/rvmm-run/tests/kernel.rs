// SPDX-License-Identifier: GPL-2.0

//! Kernel and initrd loaders: good images land where they say, and no image, however broken, does worse than an error.
//!
//! The properties are the fuzz targets of the loader path: `PROPTEST_CASES=100000 cargo test --test kernel` runs them long.

mod common;

use common::{bzimage, elf, load_in, put, pvh_note, ram, read, u32_at, Segment};
use proptest::prelude::*;
use rvmm_run::config::layout::{BOOT_PARAMS, CMDLINE, MIB, PVH_START_INFO, RSDP_SIZE};
use rvmm_run::config::memory::RamSize;
use rvmm_run::config::root::RootDevice;
use rvmm_run::kernel::error::KernelError;
use rvmm_run::kernel::image::{FileImage, KernelImage};
use rvmm_run::kernel::load;
use rvmm_run::kernel::loaded::{KernelEntry, LoadedKernel, LoadedModule};
use rvmm_run::kernel::modules::ModuleSpace;
use rvmm_run::kernel::params::{self, KernelFacts};
use rvmm_run::kernel::uki::{self, Part};
use rvmm_run::kernel::unknown::UnknownImage;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

fn load_initrd(
    image: &[u8],
    kernel: &LoadedKernel,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedModule, KernelError> {
    ModuleSpace::new(kernel, size).load(image, "", ram)
}

fn facts<'a>(
    size: RamSize,
    kernel: &'a LoadedKernel,
    modules: &'a [LoadedModule],
    cmdline: &'a str,
) -> KernelFacts<'a> {
    KernelFacts { size, kernel, modules, cmdline, root: RootDevice::default(), rsdp: &[7; RSDP_SIZE] }
}

fn u64_at(ram: &GuestMemoryMmap<()>, gpa: u64) -> u64 {
    ram.read_obj(GuestAddress(gpa)).unwrap()
}

#[test]
fn bzimage_is_loaded_at_its_preferred_address() {
    let code: Vec<u8> = (0..4096u32).map(|i| i as u8).collect();

    let (loaded, ram) = load_in(64, &bzimage(&code)).unwrap();

    assert_eq!(loaded.entry, KernelEntry::Linux64 { rip: 0x100_0200 });
    assert_eq!(loaded.end, 0x180_0000, "init_size counts, not the size of the file");
    assert_eq!(read(&ram, 0x100_0000, code.len()), code);
}

#[test]
fn relocatable_bzimage_moves_down_when_memory_is_short() {
    let mut image = bzimage(&[0x90; 1024]);
    put(&mut image, 0x258, &0x1000_0000u64.to_le_bytes());

    let (loaded, _) = load_in(32, &image).unwrap();

    assert_eq!(loaded.entry, KernelEntry::Linux64 { rip: 0x20_0200 });
}

#[test]
fn fixed_bzimage_that_does_not_fit_names_what_it_needs() {
    let mut image = bzimage(&[0x90; 1024]);
    put(&mut image, 0x258, &0x1000_0000u64.to_le_bytes());
    image[0x234] = 0;

    let error = load_in(32, &image).unwrap_err();

    assert!(matches!(error, KernelError::DoesNotFit { end: 0x1080_0000, ram } if ram == 32 * MIB), "{error}");
    assert!(error.to_string().contains("--memory"));
}

#[test]
fn truncated_bzimage_says_how_much_is_missing() {
    let image = bzimage(&[0x90; 4096]);

    let error = load_in(64, &image[..image.len() - 16]).unwrap_err();

    assert!(matches!(error, KernelError::Truncated { needs: 5120, has: 5104 }), "{error}");
}

#[test]
fn old_and_32_bit_bzimages_are_told_apart() {
    let mut old = bzimage(&[0x90; 1024]);
    put(&mut old, 0x206, &0x204u16.to_le_bytes());
    let mut narrow = bzimage(&[0x90; 1024]);
    put(&mut narrow, 0x236, &0u16.to_le_bytes());

    assert!(matches!(load_in(64, &old).unwrap_err(), KernelError::OldProtocol(0x204)));
    assert!(matches!(load_in(64, &narrow).unwrap_err(), KernelError::No64BitEntry));
}

#[test]
fn elf_with_pvh_note_is_entered_there() {
    let image =
        elf(0x100_0000, &[Segment::load(0x100_0000, &[0xf4; 64]), Segment::note(pvh_note(0x100_0010))]);

    let (loaded, ram) = load_in(64, &image).unwrap();

    assert_eq!(loaded.entry, KernelEntry::Pvh { eip: 0x100_0010 });
    assert_eq!(read(&ram, 0x100_0000, 64), [0xf4; 64]);
}

#[test]
fn elf_without_note_is_entered_in_long_mode() {
    let mut bss = Segment::load(0x200_0000, &[1; 16]);
    bss.mem_len = 0x10_0000;
    let image = elf(0x100_0004, &[Segment::load(0x100_0000, &[0xf4; 64]), bss]);

    let (loaded, _) = load_in(64, &image).unwrap();

    assert_eq!(loaded.entry, KernelEntry::Linux64 { rip: 0x100_0004 });
    assert_eq!(loaded.end, 0x210_0000);
}

#[test]
fn broken_elf_files_are_told_apart() {
    let good = elf(0x100_0000, &[Segment::load(0x100_0000, &[0xf4; 64])]);
    let broken = |offset: usize, bytes: &[u8]| {
        let mut image = good.clone();
        put(&mut image, offset, bytes);
        load_in(64, &image).unwrap_err()
    };

    assert!(matches!(broken(4, &[1]), KernelError::Elf32));
    assert!(matches!(broken(5, &[2]), KernelError::ElfHeader(_)));
    assert!(matches!(broken(18, &[183]), KernelError::ElfMachine(183)));
    assert!(matches!(broken(16, &[1]), KernelError::ElfType(1)));
    assert!(matches!(broken(56, &[0]), KernelError::NoSegments));
    assert!(matches!(broken(56, &[0xff, 0xff]), KernelError::ElfHeader(_)));
    assert!(matches!(broken(24, &[0; 8]), KernelError::EntryOutside(0)));
    assert!(matches!(broken(32, &[0xff; 8]), KernelError::ElfHeader(_)));
    assert!(matches!(broken(64 + 8, &[0xff; 7]), KernelError::Truncated { .. }));
    assert!(matches!(broken(64 + 24, &[0xff; 8]), KernelError::BadSegment(0)));
    assert!(matches!(broken(64 + 40, &[0xff; 7]), KernelError::DoesNotFit { .. }));
    assert!(matches!(broken(64 + 40, &[1, 0]), KernelError::BadSegment(0)));
    assert!(matches!(load_in(64, &good[..60]).unwrap_err(), KernelError::Truncated { .. }));
    assert!(matches!(load_in(64, &good[..100]).unwrap_err(), KernelError::Truncated { .. }));
    assert!(matches!(load_in(64, &good[..good.len() - 1]).unwrap_err(), KernelError::Truncated { .. }));
}

#[test]
fn segments_must_not_overlap_nor_touch_the_first_mib() {
    let overlap =
        elf(0x100_0000, &[Segment::load(0x100_0000, &[0; 64]), Segment::load(0x100_003f, &[0; 64])]);
    let low = elf(0x100_0000, &[Segment::load(0x100_0000, &[0; 64]), Segment::load(0xf_fff0, &[0; 64])]);

    assert!(matches!(load_in(64, &overlap).unwrap_err(), KernelError::Overlap(0, 1)));
    assert!(matches!(load_in(64, &low).unwrap_err(), KernelError::BelowOneMib(1)));
}

#[test]
fn what_is_no_kernel_is_called_so() {
    for image in [&b""[..], b"x", b"root:x:0:0\n", &[0; 4096]] {
        let error = load_in(64, image).unwrap_err();
        assert!(matches!(error, KernelError::UnknownFormat(UnknownImage::Nothing)), "{error}");
    }
}

#[test]
fn initrd_lies_page_aligned_above_the_kernel_and_below_the_limit() {
    let (size, ram) = ram(64);
    let kernel = load(&bzimage(&[0x90; 1024])[..], size, &ram).unwrap();
    let contents = vec![7u8; 5000];

    let initrd = load_initrd(&contents[..], &kernel, size, &ram).unwrap();

    assert_eq!(initrd.size, 5000);
    assert_eq!(initrd.base % 4096, 0);
    assert!(initrd.base >= kernel.end && initrd.base + initrd.size <= 64 * MIB);
    assert_eq!(read(&ram, initrd.base, 5000), contents);
}

#[test]
fn initrd_that_is_empty_or_too_large_is_refused() {
    let (size, ram) = ram(32);
    let kernel = load(&bzimage(&[0x90; 1024])[..], size, &ram).unwrap();
    let large = vec![0u8; 9 << 20];

    assert!(matches!(load_initrd(&[][..], &kernel, size, &ram), Err(KernelError::Empty)));
    assert!(matches!(
        load_initrd(&large[..], &kernel, size, &ram),
        Err(KernelError::ModuleDoesNotFit { .. })
    ));
}

#[test]
fn boot_params_hold_what_the_protocol_asks_for() {
    let (size, ram) = ram(64);
    let kernel = load(&bzimage(&[0x90; 1024])[..], size, &ram).unwrap();
    let initrd = load_initrd(&[1u8; 100][..], &kernel, size, &ram).unwrap();

    params::write(&ram, &facts(size, &kernel, &[initrd.clone()], "console=ttyS0")).unwrap();

    assert_eq!(read(&ram, CMDLINE, 14), b"console=ttyS0\0");
    assert_eq!(read(&ram, BOOT_PARAMS + 0x202, 4), b"HdrS");
    assert_eq!(read(&ram, BOOT_PARAMS + 0x210, 1), [0xff], "type of loader");
    assert_eq!(u32_at(&ram, BOOT_PARAMS + 0x228), CMDLINE as u32);
    assert_eq!(u32_at(&ram, BOOT_PARAMS + 0x218), initrd.base as u32);
    assert_eq!(u32_at(&ram, BOOT_PARAMS + 0x21c), 100);
    assert_eq!(u64_at(&ram, BOOT_PARAMS + 0x70), 0xe_0000, "RSDP");
    assert_eq!(read(&ram, BOOT_PARAMS + 0x1e8, 1), [4], "E820 entries");
    assert_eq!(u64_at(&ram, BOOT_PARAMS + 0x2d0 + 3 * 20), MIB);
    assert_eq!(u64_at(&ram, BOOT_PARAMS + 0x2d0 + 3 * 20 + 8), 63 * MIB);
    assert_eq!(read(&ram, BOOT_PARAMS + 0x1ef, 1), [0], "sentinel");
}

#[test]
fn pvh_start_info_points_to_map_modules_and_command_line() {
    let (size, ram) = ram(64);
    let image =
        elf(0x100_0000, &[Segment::load(0x100_0000, &[0xf4; 64]), Segment::note(pvh_note(0x100_0000))]);
    let kernel = load(&image[..], size, &ram).unwrap();
    let initrd = load_initrd(&[1u8; 100][..], &kernel, size, &ram).unwrap();

    params::write(&ram, &facts(size, &kernel, &[initrd.clone()], "x")).unwrap();

    assert_eq!(u32_at(&ram, PVH_START_INFO), 0x336e_c578);
    assert_eq!(u32_at(&ram, PVH_START_INFO + 4), 1, "version");
    assert_eq!(u32_at(&ram, PVH_START_INFO + 12), 1, "modules");
    let modules = u64_at(&ram, PVH_START_INFO + 16);
    assert_eq!((u64_at(&ram, modules), u64_at(&ram, modules + 8)), (initrd.base, 100));
    assert_eq!(u64_at(&ram, PVH_START_INFO + 24), CMDLINE);
    let map = u64_at(&ram, PVH_START_INFO + 40);
    assert_eq!(u32_at(&ram, PVH_START_INFO + 48), 4, "ranges");
    assert_eq!((u64_at(&ram, map + 3 * 24), u64_at(&ram, map + 3 * 24 + 8)), (MIB, 63 * MIB));
}

#[test]
fn command_line_is_held_to_what_the_kernel_takes() {
    let (loaded, _) = load_in(64, &bzimage(&[0x90; 1024])).unwrap();

    assert!(params::check_cmdline(&"x".repeat(2047), &loaded).is_ok());
    assert!(matches!(
        params::check_cmdline(&"x".repeat(2048), &loaded),
        Err(KernelError::CmdlineTooLong { len: 2048, max: 2047 })
    ));
    assert!(matches!(params::check_cmdline("a\0b", &loaded), Err(KernelError::CmdlineZero)));
}

#[test]
fn a_stock_kernel_loads_when_the_host_has_one() {
    let Ok(path) = std::env::var("RVMM_TEST_BZIMAGE") else {
        eprintln!("SKIP: RVMM_TEST_BZIMAGE does not name a bzImage");
        return;
    };
    let image = std::fs::read(path).unwrap();

    let (loaded, _) = load_in(256, &image).unwrap();

    assert!(matches!(loaded.entry, KernelEntry::Linux64 { .. }));
}

/// Bytes at random places of a good image, which is how a fuzzer gets past the magic numbers.
fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12)
}

fn damaged(mut image: Vec<u8>, head: usize, damage: &[(prop::sample::Index, u8)], cut: usize) -> Vec<u8> {
    let head = head.min(image.len());
    for (index, byte) in damage {
        let at = index.index(head);
        image[at] = *byte;
    }
    image.truncate(image.len().saturating_sub(cut));
    image
}

/// What holds for every kernel that was accepted.
fn check_invariants(loaded: &LoadedKernel) -> Result<(), TestCaseError> {
    let start = loaded.entry.start();
    prop_assert!(start >= MIB && start < loaded.end);
    prop_assert!(loaded.end <= 32 * MIB);
    Ok(())
}

proptest! {
    /// No damaged ELF file makes the loader panic or accept an entry outside RAM.
    #[test]
    fn damaged_elf_is_refused_or_within_ram(damage in damage(), cut in 0usize..300) {
        let segments =
            [Segment::load(0x100_0000, &[0xf4; 64]), Segment::load(0x110_0000, &[1; 32]), Segment::note(pvh_note(0x100_0010))];
        let image = damaged(elf(0x100_0000, &segments), 64 + 3 * 56 + 140, &damage, cut);
        if let Ok((loaded, _)) = load_in(32, &image) {
            check_invariants(&loaded)?;
        }
    }

    /// The same for a damaged bzImage.
    #[test]
    fn damaged_bzimage_is_refused_or_within_ram(damage in damage(), cut in 0usize..2000) {
        let mut image = damaged(bzimage(&[0x90; 2048]), 0x270, &damage, cut);
        if image.len() > 0x206 {
            put(&mut image, 0x202, b"HdrS");
        }
        if let Ok((loaded, _)) = load_in(32, &image) {
            check_invariants(&loaded)?;
        }
    }

    /// Any bytes at all are an error or a kernel, never a panic.
    #[test]
    fn arbitrary_bytes_never_panic(mut image in prop::collection::vec(any::<u8>(), 0..2048), elf_magic: bool) {
        if elf_magic && image.len() > 4 {
            put(&mut image, 0, b"\x7fELF");
        }
        let _ = load_in(32, &image);
    }

    /// Note segments with any lengths end the search.
    #[test]
    fn arbitrary_notes_never_panic(notes in prop::collection::vec(any::<u8>(), 0..256)) {
        let image = elf(0x100_0000, &[Segment::load(0x100_0000, &[0xf4; 64]), Segment::note(notes)]);
        let _ = load_in(32, &image);
    }

    /// An initrd is either refused or lies between the kernel and its limit.
    #[test]
    fn initrd_never_touches_the_kernel(len in 1usize..(40 << 20), limit in 0u32..u32::MAX) {
        let (size, ram) = ram(32);
        let mut image = bzimage(&[0x90; 1024]);
        put(&mut image, 0x22c, &limit.to_le_bytes());
        let kernel = load(&image[..], size, &ram).unwrap();
        let contents = vec![0u8; len];
        if let Ok(initrd) = load_initrd(&contents[..], &kernel, size, &ram) {
            prop_assert!(initrd.base >= kernel.end);
            prop_assert!(initrd.base + initrd.size <= 32 * MIB);
            prop_assert!(initrd.base + initrd.size - 1 <= u64::from(limit));
        }
    }
}

#[test]
fn what_is_given_for_a_kernel_is_named() {
    let cases: [(u64, &[u8], &str); 6] = [
        (0x38, b"ARM\x64", "64-bit ARM"),
        (0, b"\x1f\x8b\x08", "gzip -dc"),
        (0, b"\x28\xb5\x2f\xfd", "zstd -dc"),
        (0, b"070701", "--initrd"),
        (0, b"MZ", "EFI"),
        (0, b"#!/bin/sh", "script"),
    ];
    for (at, magic, word) in cases {
        let mut image = vec![0; 2048];
        put(&mut image, at as usize, magic);

        let error = load_in(64, &image[..]).unwrap_err().to_string();

        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn bzimage_may_lack_the_end_of_its_last_paragraph() {
    let whole = bzimage(&[0x90; 4096]);

    for missing in 1..16 {
        load_in(64, &whole[..whole.len() - missing]).unwrap();
    }
    let error = load_in(64, &whole[..whole.len() - 16]).unwrap_err();
    assert!(matches!(error, KernelError::Truncated { .. }), "{error}");
}

#[test]
fn elf_with_virtual_load_addresses_is_told_so() {
    let image = elf(0x100_0000, &[Segment::load(0xffff_ffff_8100_0000, &[0xf4; 64])]);

    let error = load_in(64, &image[..]).unwrap_err().to_string();

    assert!(error.contains("is a virtual one") && !error.contains("--memory"), "{error}");
}

/// A PE file with these sections.
fn pe(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut image = vec![0; 0x400];
    put(&mut image, 0, b"MZ");
    put(&mut image, 0x3c, &0x80u32.to_le_bytes());
    put(&mut image, 0x80, b"PE\0\0");
    put(&mut image, 0x86, &(sections.len() as u16).to_le_bytes());
    put(&mut image, 0x94, &0x70u16.to_le_bytes());
    for (n, (name, bytes)) in sections.iter().enumerate() {
        let header = 0x80 + 24 + 0x70 + n * 40;
        let raw = bytes.len().next_multiple_of(512);
        let offset = image.len() as u32;
        put(&mut image, header, name.as_bytes());
        put(&mut image, header + 8, &(bytes.len() as u32).to_le_bytes());
        put(&mut image, header + 16, &(raw as u32).to_le_bytes());
        put(&mut image, header + 20, &offset.to_le_bytes());
        image.extend(*bytes);
        image.resize(image.len().next_multiple_of(512), 0);
    }
    image
}

#[test]
fn unified_kernel_image_is_taken_apart() {
    let kernel = bzimage(&[0x90; 4096]);
    let image = pe(&[
        (".text", &[1; 100]),
        (".cmdline", b"root=/dev/vda1 quiet\n\0"),
        (".linux", &kernel),
        (".initrd", b"070701"),
    ]);

    let uki = uki::read(&image[..]).unwrap().unwrap();

    assert_eq!(uki.cmdline.as_deref(), Some("root=/dev/vda1 quiet"));
    let bytes = |part: Part| &image[part.offset as usize..][..part.len as usize];
    assert_eq!(bytes(uki.kernel), &kernel[..]);
    assert_eq!(bytes(uki.initrd.unwrap()), b"070701");
    assert_eq!(uki::read(&pe(&[(".text", &[1; 100])])[..]).unwrap(), None);
    assert_eq!(uki::read(&kernel[..]).unwrap(), None);
    let cut = &image[..uki.kernel.offset as usize + 100];
    assert!(matches!(uki::read(cut), Err(KernelError::Truncated { .. })));
    for len in 0..0x300 {
        let _ = uki::read(&image[..len]);
    }
}

#[test]
fn part_of_a_file_and_a_pipe_are_images() {
    let (mut bytes, kernel) = ([0; 4], bzimage(&[0x90; 64]));
    let (reader, writer) = nix::unistd::pipe().unwrap();
    std::io::Write::write_all(&mut std::fs::File::from(writer), &kernel).unwrap();

    let image = FileImage::new(reader.into()).unwrap();

    assert_eq!(image.len(), kernel.len() as u64);
    image.read_at(0x202, &mut bytes).unwrap();
    assert_eq!(&bytes, b"HdrS");
    let part = image.part(0x200, 6);
    part.read_at(2, &mut bytes).unwrap();
    assert_eq!((&bytes, part.len()), (b"HdrS", 6));
    assert!(part.read_at(3, &mut bytes).is_err());
    assert_eq!(image.part(u64::MAX, 1).len(), 0);
    let null = std::fs::File::open("/dev/zero").unwrap();
    assert!(FileImage::new(null).is_err(), "it has no end");
}
