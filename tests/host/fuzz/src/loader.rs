// SPDX-License-Identifier: GPL-2.0

//! The tool's kernel loaders. Their pseudo-random tests are beside the tool, in tests/kernel.rs and tests/protocols.rs.

#[path = "../../../../userspace-tool/rvmm-run/tests/common/mod.rs"]
mod common;

use common::{add_sections, bzimage, elf, elf32, pvh_note, Segment};
use rvmm_run::config::layout::{MIB, RSDP_SIZE};
use rvmm_run::config::memory::RamSize;
use rvmm_run::config::root::RootDevice;
use rvmm_run::kernel::gzip;
use rvmm_run::kernel::load;
use rvmm_run::kernel::loaded::{KernelProtocol, LoadedKernel};
use rvmm_run::kernel::modules::ModuleSpace;
use rvmm_run::kernel::params::{self, KernelFacts};
use std::cell::OnceCell;
use vm_memory::GuestMemoryMmap;

/// The loaders' subjects.
pub(crate) const TARGETS: &[crate::fuzz::Target] = &[
    ("elf", elf_kernel),
    ("bzimage", bz_image),
    ("multiboot", multiboot),
    ("multiboot2", multiboot_2),
    ("openbsd", openbsd),
    ("gzip", gzip_data),
    ("kernel", any),
];

thread_local! {
    /// Mapping memory anew for each input would be most of the work.
    static RAM: OnceCell<(RamSize, GuestMemoryMmap<()>)> = const { OnceCell::new() };
}

fn load_in_ram(image: &[u8]) {
    RAM.with(|ram| {
        let (size, ram) = ram.get_or_init(|| {
            let size = RamSize::from_bytes(32 * MIB).expect("a legal size");
            (size, size.allocate().expect("memory"))
        });
        match load(image, *size, ram) {
            Ok(loaded) => check(&loaded, *size, ram),
            Err(e) => assert!(!e.to_string().is_empty(), "an error says something"),
        }
    });
}

/// What was accepted lies in memory, and can be told of a module, which lies elsewhere.
fn check(loaded: &LoadedKernel, size: RamSize, ram: &GuestMemoryMmap<()>) {
    let start = loaded.entry.start();
    assert!(start >= MIB && start < loaded.end, "{loaded:?}");
    assert!(loaded.end <= 32 * MIB, "{loaded:?}");
    if let KernelProtocol::OpenBsd(kernel) = loaded.protocol {
        assert!(kernel.symbols_end == 0 || u64::from(kernel.symbols_end) == loaded.end, "{loaded:?}");
    }
    let module = ModuleSpace::new(loaded, size).load(&[1; 100][..], "x", ram).ok();
    if let Some(module) = &module {
        assert!(module.base >= loaded.end && module.end() <= 32 * MIB, "{loaded:?} {module:?}");
    }
    let facts = KernelFacts {
        size,
        kernel: loaded,
        modules: module.as_slice(),
        cmdline: "",
        root: RootDevice::default(),
        rsdp: &[0; RSDP_SIZE],
    };
    params::write(ram, &facts).expect("there is room");
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

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The same for multiboot: flags and address fields are the input's, the checksum is right. Odd inputs are ELF files.
fn multiboot(bytes: &[u8]) {
    let mut input = [0; 24];
    let len = bytes.len().min(input.len());
    input[..len].copy_from_slice(&bytes[..len]);
    let fields: Vec<u32> =
        input.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    let magic = 0x1bad_b002u32;
    let header = [magic, fields[0], magic.wrapping_add(fields[0]).wrapping_neg()];
    let code = [words(&header), words(&fields[1..]), vec![0xf4; 256]].concat();
    match bytes.len() % 2 {
        0 => load_in_ram(&code),
        _ => load_in_ram(&elf32(0x10_0040, &[Segment::load(0x10_0000, &code)])),
    }
}

/// The same for version 2, with the input as tags.
fn multiboot_2(bytes: &[u8]) {
    let (magic, len) = (0xe852_50d6u32, 16 + bytes.len() as u32);
    let header = [magic, 0, len, magic.wrapping_add(len).wrapping_neg()];
    let code = [words(&header), bytes.to_vec(), vec![0xf4; 256]].concat();
    load_in_ram(&code);
    load_in_ram(&elf32(0x10_0000 + len, &[Segment::load(0x10_0000, &code)]));
}

/// The same for a damaged kernel of OpenBSD, of either class, with symbols.
fn openbsd(bytes: &[u8]) {
    let mut segment = Segment::load(0x100_0000, &[0xf4; 256]);
    segment.mem_len = 0x1004;
    let segments = [segment, Segment::random(0x100_0080, 64)];
    let mut image = match bytes.len() % 2 {
        0 => elf(0x100_0000, &segments),
        _ => elf32(0x100_0000, &segments),
    };
    let names = b"\0.symtab\0.strtab\0.shstrtab\0";
    add_sections(
        &mut image,
        &[(2, ".symtab", &[1; 48]), (3, ".strtab", b"\0main\0"), (3, ".shstrtab", names)],
    );
    let head = image.len();
    load_in_ram(&damage(image, head, bytes));
}

/// Data that look like gzip's are unpacked, or refused, and never more than was asked for.
fn gzip_data(bytes: &[u8]) {
    const MAX: u64 = 1 << 20;
    let image = [b"\x1f\x8b\x08", bytes].concat();
    if let Ok(Some(unpacked)) = gzip::unpack_at_most(&image[..], MAX) {
        assert!(unpacked.len() as u64 <= MAX);
        load_in_ram(&unpacked);
    }
}

/// The same for any bytes at all.
fn any(bytes: &[u8]) {
    load_in_ram(bytes);
}
