// SPDX-License-Identifier: GPL-2.0

//! Loaders of kernels that are not Linux's: multiboot of both versions, OpenBSD, PVH for i386, and gzip around each.
//!
//! As in `kernel.rs`: good images land where they say, and no image, however broken, does worse than an error.

mod common;

use std::io::Write;

use common::{
    add_sections, bzimage, elf, elf32, header_sizes, load_in, put, pvh_note, ram, read, u32_at, Segment,
    TempDir,
};
use flate2::write::GzEncoder;
use proptest::prelude::*;
use rvmm_run::config::layout::{BOOT_INFO, CMDLINE, MIB, OPENBSD_ARGS, OPENBSD_STACK, RSDP_SIZE};
use rvmm_run::config::memory::RamSize;
use rvmm_run::config::root::RootDevice;
use rvmm_run::kernel::error::{KernelError, KernelOption};
use rvmm_run::kernel::gzip;
use rvmm_run::kernel::image::{FileImage, KernelImage};
use rvmm_run::kernel::load;
use rvmm_run::kernel::loaded::{KernelEntry, KernelProtocol, LoadedKernel, LoadedModule};
use rvmm_run::kernel::modules::ModuleSpace;
use rvmm_run::kernel::multiboot::header::MultibootVersion;
use rvmm_run::kernel::openbsd::howto::BootHowto;
use rvmm_run::kernel::params::{self, KernelFacts};
use rvmm_run::vm::regs;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const BASE: u64 = 0x10_0000;

fn text_at(ram: &GuestMemoryMmap<()>, gpa: u32) -> String {
    let bytes = read(ram, gpa.into(), 256);
    String::from_utf8(bytes.split(|b| *b == 0).next().unwrap().to_vec()).unwrap()
}

/// Writes all that `kernel` is told, with these modules.
fn tell(
    kernel: &LoadedKernel,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
    modules: &[LoadedModule],
    cmdline: &str,
) {
    let root = RootDevice::default();
    params::write(ram, &KernelFacts { size, kernel, modules, cmdline, root, rsdp: &[7; RSDP_SIZE] }).unwrap();
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A header of version 1, with address fields if there are any.
fn header_1(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002u32;
    [words(&[magic, flags, magic.wrapping_add(flags).wrapping_neg()]), words(addresses)].concat()
}

/// A tag of a header of version 2.
fn tag(kind: u16, flags: u16, contents: &[u32]) -> Vec<u8> {
    let mut tag = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    tag.extend((8 + 4 * contents.len() as u32).to_le_bytes());
    tag.extend(words(contents));
    tag.resize(tag.len().next_multiple_of(8), 0);
    tag
}

/// A header of version 2 with these tags.
fn header_2(tags: &[Vec<u8>]) -> Vec<u8> {
    let tags = [tags.concat(), tag(0, 0, &[])].concat();
    let (magic, len) = (0xe852_50d6u32, 16 + tags.len() as u32);
    [words(&[magic, 0, len, magic.wrapping_add(len).wrapping_neg()]), tags].concat()
}

/// What follows a header in a file.
fn with_code(header: Vec<u8>) -> Vec<u8> {
    [header, vec![0xf4; 256]].concat()
}

/// An ELF file for i386 whose one segment begins with `header`, four bytes on: file offsets of headers of version 2 are
/// multiples of eight.
fn elf_with(header: Vec<u8>) -> Vec<u8> {
    elf32(BASE as u32 + 0x80, &[Segment::load(BASE, &with_code([vec![0xf4; 4], header].concat()))])
}

fn version_of(loaded: &LoadedKernel) -> Option<MultibootVersion> {
    match loaded.entry {
        KernelEntry::Multiboot { version, .. } => Some(version),
        _ => None,
    }
}

#[test]
fn protocols_are_told_apart_by_content() {
    let segment = |header: &[u8]| Segment::load(BASE, &with_code(header.to_vec()));
    let one = header_1(3, &[]);
    let note = Segment::note(pvh_note(BASE as u32));
    let entry = |image: &[u8]| load_in(64, image).unwrap().0.entry;
    let eip = BASE as u32;
    let multiboot = |version| KernelEntry::Multiboot { eip, version };

    assert_eq!(entry(&elf(BASE, &[segment(&[])])), KernelEntry::Linux64 { rip: BASE });
    assert_eq!(
        entry(&elf(BASE, &[segment(&one)])),
        multiboot(MultibootVersion::One),
        "no Linux, though 64 bit"
    );
    assert_eq!(entry(&elf(BASE, &[segment(&one), note.clone()])), KernelEntry::Pvh { eip });
    assert_eq!(entry(&elf32(eip, &[segment(&[]), note])), KernelEntry::Pvh { eip });
    let both = [vec![0xf4; 4], header_2(&[]), one.clone()].concat();
    assert_eq!(entry(&elf32(eip, &[segment(&both)])), multiboot(MultibootVersion::Two));
    let random = Segment::random(BASE, 8);
    assert_eq!(entry(&elf(BASE, &[segment(&one), random])), KernelEntry::OpenBsd { eip });
    assert!(matches!(load_in(64, &elf32(eip, &[segment(&[])])), Err(KernelError::Elf32)));
    let mut bz = bzimage(&[0x90; 1024]);
    put(&mut bz, 0x300, &one);
    assert!(matches!(entry(&bz), KernelEntry::Linux64 { .. }), "a bzImage is one whatever is in it");
}

#[test]
fn multiboot_header_lies_in_the_first_8_or_32_kib() {
    let at = |header: Vec<u8>, offset: usize| {
        let mut code = vec![0xf4; offset];
        code.extend(header);
        code.resize(40 << 10, 0xf4);
        // Headers of the file come before.
        load_in(64, &elf(BASE, &[Segment::load(BASE, &code)])).unwrap().0
    };
    let (ehdr, phdr, _) = header_sizes(true);
    let before = ehdr + phdr;

    assert!(version_of(&at(header_1(3, &[]), 8192 - 12 - before)).is_some());
    assert!(version_of(&at(header_1(3, &[]), 8192 - 8 - before)).is_none());
    assert!(version_of(&at(header_1(3, &[]), 2)).is_none(), "not aligned");
    assert!(version_of(&at(header_2(&[]), 32768 - 24 - before)).is_some());
    assert!(version_of(&at(header_2(&[]), 12)).is_none(), "not aligned");
}

#[test]
fn multiboot_elf_may_have_a_virtual_entry() {
    let mut segment = Segment::load(BASE, &with_code(header_1(3, &[])));
    segment.vaddr = 0xc000_0000;
    segment.mem_len = 0x5000;

    let (loaded, ram) = load_in(64, &elf32(0xc000_0020, &[segment])).unwrap();

    assert_eq!(loaded.entry, KernelEntry::Multiboot { eip: 0x10_0020, version: MultibootVersion::One });
    assert_eq!(loaded.end, 0x10_5000);
    assert_eq!(u32_at(&ram, BASE), 0x1bad_b002);
}

/// A file of version 1 with a header 16 bytes behind its start.
fn flat(addresses: &[u32]) -> Vec<u8> {
    [vec![0x90; 16], with_code(header_1(0x1_0003, addresses))].concat()
}

#[test]
fn multiboot_address_fields_place_the_file() {
    let image = flat(&[0x20_0010, 0x20_0000, 0x20_0100, 0x20_1000, 0x20_0040]);

    let (loaded, ram) = load_in(64, &image).unwrap();

    assert_eq!(loaded.entry, KernelEntry::Multiboot { eip: 0x20_0040, version: MultibootVersion::One });
    assert_eq!(loaded.end, 0x20_1000);
    assert_eq!(read(&ram, 0x20_0000, 256), image[..256]);
    assert_eq!(read(&ram, 0x20_0100, 64), [0; 64], "behind the end of loading");

    let (loaded, ram) = load_in(64, &flat(&[0x20_0010, 0x20_0008, 0, 0, 0x20_0040])).unwrap();
    assert_eq!(loaded.end, 0x20_0000 + image.len() as u64, "to the file's end");
    assert_eq!(read(&ram, 0x20_0008, 8), [0x90; 8], "from where the addresses say");
    assert_eq!(read(&ram, 0x20_0000, 8), [0; 8]);
}

#[test]
fn multiboot_address_fields_go_before_elf() {
    let header = header_1(0x1_0003, &[0x20_0054, 0x20_0000, 0, 0, 0x20_0080]);
    let image = elf32(0x10_0000, &[Segment::load(BASE, &with_code(header))]);
    assert_eq!(image[0x54..0x58], 0x1bad_b002u32.to_le_bytes());

    let (loaded, ram) = load_in(64, &image).unwrap();

    assert_eq!(loaded.entry.start(), 0x20_0080);
    assert_eq!(read(&ram, 0x20_0000, 4), b"\x7fELF");
}

#[test]
fn multiboot_2_address_tags_place_the_file() {
    let addresses = |load| tag(2, 0, &[0x30_0000, load, 0, 0x30_2000]);
    let image = |load| with_code(header_2(&[addresses(load), tag(3, 0, &[0x30_0050])]));

    for load in [0x30_0000, u32::MAX] {
        let (loaded, ram) = load_in(64, &image(load)).unwrap();

        assert_eq!(loaded.entry, KernelEntry::Multiboot { eip: 0x30_0050, version: MultibootVersion::Two });
        assert_eq!((loaded.end, u32_at(&ram, 0x30_0000)), (0x30_2000, 0xe852_50d6));
    }
}

#[test]
fn broken_address_fields_are_told_apart() {
    let error = |addresses: &[u32; 5]| load_in(64, &flat(addresses)).unwrap_err();
    let contradiction =
        |e: &KernelError| matches!(e, KernelError::MultibootHeader(why) if why.contains("contradict"));

    assert!(contradiction(&error(&[0x20_0010, 0x20_0020, 0, 0, 0x20_0040])), "loaded from behind the header");
    assert!(contradiction(&error(&[0x20_0020, 0x20_0000, 0, 0, 0x20_0040])), "from before the file");
    assert!(contradiction(&error(&[0x20_0010, 0x20_0000, 0x1f_0000, 0, 0x20_0040])), "ends before it begins");
    assert!(
        contradiction(&error(&[0x20_0010, 0x20_0000, 0x20_0100, 0x20_0080, 0x20_0040])),
        "bss in the data"
    );
    assert!(matches!(
        error(&[0x20_0010, 0x20_0000, 0x20_1000, 0, 0x20_0040]),
        KernelError::Truncated { needs: 0x1000, .. }
    ));
    assert!(matches!(
        error(&[0x20_0010, 0x20_0000, 0, 0x3000_0000, 0x20_0040]),
        KernelError::DoesNotFit { end: 0x3000_0000, .. }
    ));
    assert!(matches!(error(&[0x20_0010, 0x20_0000, 0, 0, 0x21_0000]), KernelError::EntryOutside(0x21_0000)));
    let low = error(&[0x8010, 0x8000, 0, 0, 0x8040]);
    assert!(low.to_string().contains("first MiB"), "{low}");
    assert!(load_in(64, &with_code(header_1(3, &[]))).unwrap_err().to_string().contains("no load addresses"));
    let no_entry = with_code(header_2(&[tag(2, 0, &[0x30_0000, 0x30_0000, 0, 0])]));
    assert!(load_in(64, &no_entry).unwrap_err().to_string().contains("no entry point"));
    assert!(load_in(64, &header_1(0x1_0000, &[1, 2])).unwrap_err().to_string().contains("cut off"));
}

#[test]
fn multiboot_requirements_that_nobody_knows_are_refused() {
    let error = |header| load_in(64, &elf_with(header)).unwrap_err();
    let accepts = |header| load_in(64, &elf_with(header)).is_ok();

    assert!(matches!(error(header_1(0x8003, &[])), KernelError::MultibootFlags(0x8000)));
    assert!(matches!(error(header_1(0x8, &[])), KernelError::MultibootFlags(8)));
    assert!(accepts(header_1(0xfffe_0007, &[])), "the upper half may be ignored, a video mode too");
    assert!(matches!(error(header_2(&[tag(0x77, 0, &[])])), KernelError::MultibootTag(0x77)));
    assert!(accepts(header_2(&[tag(0x77, 1, &[])])), "it is optional");
    assert!(
        matches!(error(header_2(&[tag(7, 0, &[])])), KernelError::MultibootTag(7)),
        "EFI's boot services"
    );
    assert!(matches!(error(header_2(&[tag(1, 0, &[6, 0x55])])), KernelError::MultibootRequest(0x55)));
    assert!(
        matches!(error(header_2(&[tag(1, 0, &[9])])), KernelError::MultibootRequest(9)),
        "section headers"
    );
    assert!(accepts(header_2(&[tag(1, 1, &[0x55]), tag(1, 0, &[1, 2, 3, 4, 6, 8, 14, 15, 21])])));
    assert!(matches!(error(header_2(&[tag(4, 0, &[1])])), KernelError::MultibootConsole));
    assert!(accepts(header_2(&[tag(4, 1, &[1]), tag(4, 0, &[2]), tag(5, 0, &[0, 0, 0]), tag(6, 0, &[])])));
    let mut mips = header_2(&[]);
    put(&mut mips, 4, &words(&[4]));
    put(&mut mips, 12, &words(&[(0xe852_50d6u32 + 4 + 24).wrapping_neg()]));
    assert!(error(mips).to_string().contains("another architecture"));
    let mut cut = header_2(&[tag(5, 0, &[0, 0, 0])]);
    put(&mut cut, 20, &words(&[0x4000]));
    assert!(error(cut).to_string().contains("cut off"));
}

/// A kernel of multiboot with two modules, both loaded, in 64 MiB.
fn with_modules(header: Vec<u8>) -> (LoadedKernel, RamSize, GuestMemoryMmap<()>, Vec<LoadedModule>) {
    let (size, ram) = ram(64);
    let loaded = load(&elf_with(header)[..], size, &ram).unwrap();
    let mut space = ModuleSpace::new(&loaded, size);
    let modules = vec![
        space.load(&[1; 5000][..], "first one", &ram).unwrap(),
        space.load(&[2; 3][..], "", &ram).unwrap(),
    ];
    (loaded, size, ram, modules)
}

#[test]
fn multiboot_modules_follow_the_kernel_page_by_page() {
    let (_, _, ram, modules) = with_modules(header_1(3, &[]));

    assert_eq!(modules.iter().map(|m| m.base).collect::<Vec<_>>(), [0x10_1000, 0x10_3000]);
    assert_eq!(read(&ram, 0x10_1000 + 4999, 1), [1]);
    assert_eq!(read(&ram, 0x10_3000, 4), [2, 2, 2, 0]);
}

#[test]
fn modules_that_are_empty_or_beyond_memory_are_refused() {
    let (size, ram) = ram(16);
    let large = vec![1; 14 << 20];
    for image in [
        elf_with(header_1(3, &[])),
        elf(BASE, &[Segment::load(BASE, &[0; 8]), Segment::note(pvh_note(BASE as u32))]),
    ] {
        let loaded = load(&image[..], size, &ram).unwrap();
        let mut space = ModuleSpace::new(&loaded, size);

        assert!(matches!(space.load(&[][..], "", &ram), Err(KernelError::Empty)));
        space.load(&large[..], "", &ram).unwrap();
        let error = space.load(&large[..], "", &ram).unwrap_err();
        assert!(
            matches!(error, KernelError::ModuleDoesNotFit { size: 0xe0_0000, room } if room < 2 << 20),
            "{error}"
        );
    }
}

#[test]
fn multiboot_information_points_to_everything() {
    let (loaded, size, ram, modules) = with_modules(header_1(3, &[]));

    tell(&loaded, size, &ram, &modules, "a b");

    let field = |at: u64| u32_at(&ram, BOOT_INFO + at);
    assert_eq!(field(0), 0x24d);
    assert_eq!((field(4), field(8)), (639, 63 << 10), "KiB below 640 KiB, and from 1 MiB on");
    assert_eq!((text_at(&ram, field(16)), text_at(&ram, field(64))), ("a b".into(), "rvmm-run".into()));
    assert_eq!(field(20), 2);
    let list = u64::from(field(24));
    assert_eq!((u32_at(&ram, list), u32_at(&ram, list + 4)), (0x10_1000, 0x10_1000 + 5000));
    assert_eq!(text_at(&ram, u32_at(&ram, list + 8)), "first one");
    assert_eq!(text_at(&ram, u32_at(&ram, list + 24)), "");
    let (mut at, end) = (u64::from(field(48)), u64::from(field(48) + field(44)));
    let mut map = Vec::new();
    while at < end {
        let entry: (u64, u64) =
            (ram.read_obj(GuestAddress(at + 4)).unwrap(), ram.read_obj(GuestAddress(at + 12)).unwrap());
        map.push((entry.0, entry.1, u32_at(&ram, at + 20)));
        at += 4 + u64::from(u32_at(&ram, at));
    }
    assert_eq!(map, size.e820().iter().map(|r| (r.base, r.size, r.kind as u32)).collect::<Vec<_>>());
    let general = regs::general(loaded.entry);
    assert_eq!((general.rax, general.rbx, general.rip), (0x2bad_b002, BOOT_INFO, BASE + 0x80));
}

/// The tags of version 2 as (type, contents).
fn tags_of(ram: &GuestMemoryMmap<()>) -> Vec<(u32, Vec<u8>)> {
    let mut tags = Vec::new();
    let mut at = BOOT_INFO + 8;
    loop {
        let (kind, size) = (u32_at(ram, at), u32_at(ram, at + 4));
        tags.push((kind, read(ram, at + 8, size as usize - 8)));
        at += u64::from(size).next_multiple_of(8);
        if kind == 0 {
            assert_eq!(at, BOOT_INFO + u64::from(u32_at(ram, BOOT_INFO)));
            return tags;
        }
    }
}

#[test]
fn multiboot_2_information_has_a_tag_for_everything() {
    let (loaded, size, ram, modules) = with_modules(header_2(&[tag(10, 1, &[0, 0, 0, 0])]));

    tell(&loaded, size, &ram, &modules, "a b");

    let tags = tags_of(&ram);
    assert_eq!(tags.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2, 3, 3, 4, 6, 14, 15, 21, 0]);
    assert_eq!(tags[0].1, b"a b\0");
    assert_eq!(tags[1].1, b"rvmm-run\0");
    assert_eq!(tags[2].1, [&words(&[0x10_1000, 0x10_1000 + 5000])[..], b"first one\0"].concat());
    assert_eq!(tags[3].1, [&words(&[0x10_3000, 0x10_3003])[..], b"\0"].concat());
    assert_eq!(tags[4].1, words(&[639, 63 << 10]));
    assert_eq!(tags[5].1[..8], words(&[24, 0]));
    assert_eq!(tags[5].1.len(), 8 + 24 * size.e820().len());
    assert_eq!((&tags[6].1[..], &tags[7].1[..]), (&[7; 20][..], &[7; 36][..]), "the RSDP");
    assert_eq!(tags[8].1, words(&[BASE as u32]));
    let general = regs::general(loaded.entry);
    assert_eq!((general.rax, general.rbx), (0x36d7_6289, BOOT_INFO));
}

#[test]
fn information_that_does_not_fit_is_refused() {
    let (loaded, size, ram, mut modules) = with_modules(header_1(3, &[]));
    modules[0].args = "x".repeat(400_000);
    let root = RootDevice::default();
    let facts =
        KernelFacts { size, kernel: &loaded, modules: &modules, cmdline: "", root, rsdp: &[0; RSDP_SIZE] };

    let error = params::write(&ram, &facts).unwrap_err();

    assert!(matches!(error, KernelError::InfoTooLarge(len) if len > 400_000), "{error}");
}

/// A kernel of OpenBSD at 16 MiB (amd64) or 2 MiB (i386, at a virtual address of the kernel's window), of 256 bytes and a
/// bss that ends in the middle of a page.
fn openbsd(is_64: bool) -> Vec<u8> {
    let base = if is_64 { 0x100_0000 } else { 0xd020_0000 };
    let mut segment = Segment::load(base, &[0xf4; 256]);
    segment.mem_len = 0x1004;
    let segments = [segment, Segment::random(base + 0x80, 64)];
    if is_64 {
        elf(base, &segments)
    } else {
        elf32(base as u32, &segments)
    }
}

const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
/// Names of the sections below, each behind a zero.
const NAMES: &[u8] = b"\0.text\0.symtab\0.strtab\0.debug_line\0.shstrtab\0";

fn openbsd_with_symbols(is_64: bool) -> Vec<u8> {
    let mut image = openbsd(is_64);
    let sections = [
        (1, ".text", &[0xf4; 16][..]),
        (SYMTAB, ".symtab", &[0x11; 48]),
        (STRTAB, ".strtab", b"\0main\0"),
        (1, ".debug_line", &[0x22; 5]),
        (STRTAB, ".shstrtab", NAMES),
    ];
    add_sections(&mut image, &sections);
    image
}

#[test]
fn openbsd_kernels_are_loaded_where_the_lower_bits_say() {
    for (is_64, base) in [(true, 0x100_0000), (false, 0x20_0000)] {
        let (loaded, ram) = load_in(64, &openbsd(is_64)).unwrap();

        assert_eq!(loaded.entry, KernelEntry::OpenBsd { eip: base as u32 });
        assert_eq!(read(&ram, base, 128), [0xf4; 128]);
        assert_eq!(read(&ram, base + 0xc0, 64), [0xf4; 64], "behind the random bytes");
        let seed = read(&ram, base + 0x80, 64);
        assert!(seed.iter().filter(|b| **b != 0xf4 && **b != 0).count() > 40, "{seed:?}");
        assert_eq!(read(&ram, base + 0x100, 0xf04), [0; 0xf04], "the bss");
        let KernelProtocol::OpenBsd(kernel) = loaded.protocol else { panic!("{loaded:?}") };
        assert_eq!((kernel.is_amd64, kernel.symbols_end), (is_64, 0), "it has no symbols");
        assert_eq!(loaded.end, base + 0x1004);
    }
}

#[test]
fn openbsd_symbols_lie_behind_the_bss() {
    for (is_64, start) in [(true, 0x100_1008u64), (false, 0x20_1004)] {
        let (loaded, ram) = load_in(64, &openbsd_with_symbols(is_64)).unwrap();

        let (ehdr, _, shdr) = header_sizes(is_64);
        let word = if is_64 { 8 } else { 4 };
        let number = |at: u64| {
            if is_64 {
                ram.read_obj(GuestAddress(at)).unwrap()
            } else {
                u64::from(u32_at(&ram, at))
            }
        };
        assert_eq!(read(&ram, start, 4), b"\x7fELF");
        let (phoff, shoff, phnum) = if is_64 { (32, 40, 56) } else { (28, 32, 44) };
        assert_eq!((number(start + phoff), number(start + shoff)), (0, ehdr as u64));
        assert_eq!(read(&ram, start + phnum - 2, 4), [0; 4], "no program headers");
        let header = |n: usize| start + (ehdr + n * shdr) as u64;
        let (offset, flags) = if is_64 { (24, 8) } else { (16, 8) };
        let mut next = (ehdr + 6 * shdr) as u64;
        for (n, contents) in [(2, &[0x11; 48][..]), (3, b"\0main\0"), (4, &[0x22; 5]), (5, NAMES)] {
            next = next.next_multiple_of(word);
            assert_eq!(number(header(n) + offset), next, "section {n}");
            assert_eq!(number(header(n) + flags), 2, "section {n} is in memory");
            assert_eq!(read(&ram, start + next, contents.len()), contents);
            next += contents.len() as u64;
        }
        assert_eq!(number(header(1) + flags), 0, "the text is not among them");
        let KernelProtocol::OpenBsd(kernel) = loaded.protocol else { panic!("{loaded:?}") };
        assert_eq!(u64::from(kernel.symbols_end), start + next.next_multiple_of(word));
        assert_eq!(loaded.end, u64::from(kernel.symbols_end));
    }
}

#[test]
fn broken_openbsd_kernels_are_told_apart() {
    let good = openbsd_with_symbols(true);
    let broken = |offset: usize, bytes: &[u8]| {
        let mut image = good.clone();
        put(&mut image, offset, bytes);
        load_in(64, &image).unwrap_err()
    };
    // The second program header is that of the random bytes.
    let random = 64 + 56;

    assert!(matches!(broken(random + 24, &[0, 0, 0x30, 1]), KernelError::RandomOutside(0x130_0000)));
    assert!(matches!(broken(random + 32, &[0xff; 7]), KernelError::RandomOutside(_)));
    assert!(matches!(broken(24, &[0, 0, 0x50, 1]), KernelError::EntryOutside(0x150_0000)));
    assert!(matches!(broken(58, &[1]), KernelError::ElfHeader("section headers")));
    assert!(matches!(broken(40, &[0xff; 7]), KernelError::Truncated { .. }));
    let symtab = good.len() - 6 * 64 + 2 * 64;
    assert!(matches!(broken(symtab + 24, &[0xff; 7]), KernelError::Truncated { .. }));
    assert!(matches!(broken(symtab + 32, &[0xff; 8]), KernelError::ElfHeader(_)));
    assert!(matches!(load_in(64, &good[..good.len() - 1]), Err(KernelError::Truncated { .. })));
    assert!(matches!(load_in(16, &good), Err(KernelError::DoesNotFit { .. })));
    let mut twice = Segment::load(0x100_0000, &[0; 64]);
    twice.mem_len = 0x100;
    let segments = [twice.clone(), twice, Segment::random(0x100_0000, 8)];
    assert!(matches!(load_in(64, &elf(0x100_0000, &segments)), Err(KernelError::Overlap(0, 1))));
    // Symbols count: they end where memory does.
    let (size, ram) = ram(17);
    let mut image = good.clone();
    put(&mut image, 64 + 40, &0xf_fff0u64.to_le_bytes());
    assert!(matches!(load(&image[..], size, &ram), Err(KernelError::DoesNotFit { .. })));
}

#[test]
fn openbsd_stack_and_records_are_what_its_kernels_read() {
    for is_64 in [true, false] {
        let (size, ram) = ram(64);
        let kernel = load(&openbsd_with_symbols(is_64)[..], size, &ram).unwrap();
        let root = "0123456789abcdef.b".parse().unwrap();
        let facts =
            KernelFacts { size, kernel: &kernel, modules: &[], cmdline: "-as", root, rsdp: &[0; RSDP_SIZE] };

        params::write(&ram, &facts).unwrap();

        let stack = |n: u64| u32_at(&ram, OPENBSD_STACK + 4 * n);
        assert_eq!((stack(1), stack(2), stack(3)), (0x1_0003, 0xa000_0104, 0x0e));
        assert_eq!((u64::from(stack(4)), stack(5), stack(6)), (kernel.end, 63 << 10, 0));
        assert_eq!(u64::from(stack(8)), OPENBSD_ARGS);
        assert_eq!(regs::general(kernel.entry).rsp, OPENBSD_STACK);
        let mut at = OPENBSD_ARGS;
        let mut kinds = Vec::new();
        loop {
            let (kind, len, next) = (u32_at(&ram, at), u32_at(&ram, at + 4), u32_at(&ram, at + 8));
            kinds.push((kind, len));
            at += u64::from(len);
            if kind == u32::MAX {
                break;
            }
            assert_eq!(u64::from(next), at, "what follows");
        }
        let console = if is_64 { 12 + 32 } else { 12 + 16 };
        let map = 12 + 20 * (size.e820().len() as u32 + 1);
        assert_eq!(kinds, [(0, map), (5, console), (9, 20), (u32::MAX, 12)]);
        assert_eq!(at, OPENBSD_ARGS + u64::from(stack(7)));
        assert_eq!(read(&ram, at - 12 - 8, 8), 0x0123_4567_89ab_cdefu64.to_be_bytes());
        let com0 = OPENBSD_ARGS + u64::from(map) + 12;
        assert_eq!((u32_at(&ram, com0), u32_at(&ram, com0 + 8), u32_at(&ram, com0 + 12)), (0x800, 0x3f8, 0));
    }
}

#[test]
fn boot_options_are_those_of_boot() {
    let bits = |text| BootHowto::parse(text).map(BootHowto::bits);

    assert_eq!(bits("").unwrap(), 0);
    assert_eq!(bits(" -a  -s ").unwrap(), 3);
    assert_eq!(bits("-dc").unwrap(), 0x440);
    for text in ["-x", "-", "a", "-a root=sd0a"] {
        let error = bits(text).unwrap_err().to_string();
        assert!(error.contains("-s is single user"), "{error}");
    }
}

#[test]
fn each_protocol_takes_its_own_options() {
    let linux = load_in(64, &bzimage(&[0x90; 1024])).unwrap().0;
    let multiboot = load_in(64, &elf_with(header_1(3, &[]))).unwrap().0;
    let openbsd = load_in(64, &openbsd(true)).unwrap().0;
    let refused = |kernel: &LoadedKernel, initrd, modules, root| match params::check_options(
        kernel, initrd, modules, root,
    ) {
        Ok(()) => None,
        Err(KernelError::NotTaken(option)) => Some(option),
        Err(e) => panic!("{e}"),
    };

    assert_eq!(refused(&linux, true, false, false), None);
    assert_eq!(refused(&linux, false, true, false), Some(KernelOption::Module));
    assert_eq!(refused(&linux, false, false, true), Some(KernelOption::Root));
    assert_eq!(refused(&multiboot, true, true, false), None);
    assert_eq!(refused(&openbsd, false, false, true), None);
    assert_eq!(refused(&openbsd, true, false, false), Some(KernelOption::Initrd));
    assert_eq!(params::default_cmdline(&linux, "console=ttyS0"), "console=ttyS0");
    assert_eq!(params::default_cmdline(&multiboot, "console=ttyS0"), "");
    assert!(params::check_cmdline("console=ttyS0", &multiboot).is_ok());
    assert!(matches!(params::check_cmdline("console=ttyS0", &openbsd), Err(KernelError::BootOption(_))));
}

#[test]
fn pvh_modules_have_their_arguments() {
    let (size, ram) = ram(64);
    let image = elf32(BASE as u32, &[Segment::load(BASE, &[0xf4; 64]), Segment::note(pvh_note(BASE as u32))]);
    let loaded = load(&image[..], size, &ram).unwrap();
    let mut space = ModuleSpace::new(&loaded, size);
    let modules =
        [space.load(&[1; 5000][..], "", &ram).unwrap(), space.load(&[2; 3][..], "b c", &ram).unwrap()];
    assert_eq!(modules.each_ref().map(|m| m.base), [64 * MIB - 0x2000, 64 * MIB - 0x3000], "out of the way");

    tell(&loaded, size, &ram, &modules, "x");

    let entry = |n: u64, word: u64| u32_at(&ram, BOOT_INFO + 32 * n + 8 * word);
    assert_eq!((entry(0, 0), entry(0, 1), entry(0, 2)), (modules[0].base as u32, 5000, 0));
    assert_eq!((entry(1, 0), entry(1, 1)), (modules[1].base as u32, 3));
    assert_eq!(text_at(&ram, entry(1, 2)), "b c");
    assert_eq!(text_at(&ram, CMDLINE as u32), "x");
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn kernels_of_each_kind_may_be_compressed() {
    for kernel in [bzimage(&[0x90; 4096]), elf_with(header_2(&[])), openbsd_with_symbols(false)] {
        let dir = TempDir::new();
        let file = std::fs::File::open(dir.file("kernel.gz", &packed(&kernel))).unwrap();
        let image = FileImage::new(file).unwrap();

        let bytes = gzip::unpack(&image).unwrap().unwrap();

        let unpacked = image.with_bytes(bytes).unwrap();
        let mut contents = vec![0; kernel.len()];
        unpacked.read_at(0, &mut contents).unwrap();
        assert_eq!((contents, unpacked.len()), (kernel.clone(), kernel.len() as u64));
        let (size, ram) = ram(64);
        assert!(load(&unpacked, size, &ram).is_ok());
    }
    assert!(gzip::unpack(&b"\x7fELF"[..]).unwrap().is_none());
    assert!(gzip::unpack(&b"\x1f\x8b"[..]).unwrap().is_none());
}

#[test]
fn compressed_kernels_that_are_damaged_or_endless_are_refused() {
    let good = packed(&[0x90; 100_000]);
    let mut wrong = good.clone();
    let crc = good.len() - 8;
    put(&mut wrong, crc, &[good[crc] ^ 1]);

    for image in
        [&good[..good.len() / 2], &good[..good.len() - 1], &wrong, b"\x1f\x8b\x08\x00garbage of no kind"]
    {
        let error = gzip::unpack(image).unwrap_err();
        assert!(matches!(error, KernelError::Gzip(_)), "{error:?}");
    }
    let error = gzip::unpack_at_most(&good[..], 99_999).unwrap_err();
    assert!(matches!(error, KernelError::UnpackedTooLarge(99_999)), "{error}");
    assert_eq!(gzip::unpack_at_most(&good[..], 100_000).unwrap().unwrap().len(), 100_000);
}

/// Bytes at random places of a good image.
fn damaged(mut image: Vec<u8>, damage: &[(prop::sample::Index, u8)], cut: usize) -> Vec<u8> {
    for (index, byte) in damage {
        let at = index.index(image.len());
        image[at] = *byte;
    }
    image.truncate(image.len().saturating_sub(cut));
    image
}

/// What holds for every kernel that was accepted, and that it can be told of modules.
fn check(image: &[u8]) -> Result<(), TestCaseError> {
    let (size, ram) = ram(32);
    if let Ok(loaded) = load(image, size, &ram) {
        let start = loaded.entry.start();
        prop_assert!(start >= MIB && start < loaded.end, "{loaded:?}");
        prop_assert!(loaded.end <= 32 * MIB, "{loaded:?}");
        if let KernelProtocol::OpenBsd(kernel) = loaded.protocol {
            prop_assert!(kernel.symbols_end == 0 || u64::from(kernel.symbols_end) == loaded.end);
        }
        let module = ModuleSpace::new(&loaded, size).load(&[1; 100][..], "x", &ram).ok();
        if let Some(module) = &module {
            prop_assert!(module.base >= loaded.end && module.end() <= 32 * MIB);
        }
        tell(&loaded, size, &ram, module.as_slice(), "");
    }
    Ok(())
}

fn damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

    #[test]
    fn damaged_multiboot_is_refused_or_within_ram(damage in damage(), cut in 0usize..200, which in 0usize..4) {
        let image = match which {
            0 => elf_with(header_1(3, &[])),
            1 => flat(&[0x20_0010, 0x20_0000, 0x20_0100, 0x20_1000, 0x20_0040]),
            2 => elf_with(header_2(&[tag(1, 0, &[1, 2, 3]), tag(10, 1, &[0, 0, 0, 0])])),
            _ => with_code(header_2(&[tag(2, 0, &[0x30_0000, u32::MAX, 0, 0x30_2000]), tag(3, 0, &[0x30_0050])])),
        };
        check(&damaged(image, &damage, cut))?;
    }

    #[test]
    fn damaged_openbsd_is_refused_or_within_ram(damage in damage(), cut in 0usize..200, is_64: bool) {
        check(&damaged(openbsd_with_symbols(is_64), &damage, cut))?;
    }

    #[test]
    fn damaged_gzip_never_panics(damage in damage(), cut in 0usize..20) {
        let _ = gzip::unpack(&damaged(packed(&openbsd(true)), &damage, cut)[..]);
    }
}
