// SPDX-License-Identifier: GPL-2.0

//! What a kernel of OpenBSD is told: words on the stack, and records of boot arguments.
//!
//! OpenBSD, `sys/arch/*/include/biosvar.h` and `getbootinfo()` or `bios_getopt()` of its kernels. A record is its type, its
//! size with these three words, the address of the next (which the kernel makes itself) and its contents; the last has
//! type -1. They lie where boot(8) puts them, and in one page, as the kernels expect. There is no record of disks'
//! checksums, which would tell which disk of the BIOS is which: no BIOS numbered them.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::howto::{BootHowto, GOOD_RANDOM};
use crate::config::layout::{COM1, OPENBSD_ARGS, OPENBSD_STACK, PAGE};
use crate::config::memory::{E820Kind, RamSize};
use crate::config::root::RootDevice;
use crate::kernel::blob::Blob;
use crate::kernel::loaded::OpenBsdKernel;

/// Kinds of records.
const MEMORY_MAP: u32 = 0;
const CONSOLE: u32 = 5;
const BOOT_DUID: u32 = 9;
const END: u32 = u32::MAX;
/// Version of all this: records instead of a vector, and a memory map in bytes among them.
const API_VERSION: u32 = 0x0e;
/// Device number of the first serial port: major 8, minor 0.
const COM0: u32 = 8 << 8;
/// Its speed, which nothing depends on.
const SPEED: u32 = 115_200;
/// What `bootdev` begins with.
const DEVICE_MAGIC: u32 = 0xa000_0000;

/// Writes the boot arguments, and the stack that the kernel finds at its entry.
///
/// # Errors
/// When guest RAM does not hold the boot area, which `RamSize` excludes.
pub fn write(
    ram: &GuestMemoryMmap<()>,
    size: RamSize,
    kernel: OpenBsdKernel,
    howto: BootHowto,
    root: RootDevice,
) -> Result<(), GuestMemoryError> {
    let records = records(size, kernel, root);
    ram.write_slice(&records, GuestAddress(OPENBSD_ARGS))?;
    let words = [
        // There is nothing to return to.
        0,
        howto.bits() | GOOD_RANDOM,
        boot_device(root),
        API_VERSION,
        kernel.symbols_end,
        (size.above_one_mib() >> 10) as u32,
        // With no conventional memory here the kernel believes the memory map.
        0,
        records.len() as u32,
        OPENBSD_ARGS as u32,
    ];
    for (n, word) in words.into_iter().enumerate() {
        ram.write_obj(word, GuestAddress(OPENBSD_STACK + 4 * n as u64))?;
    }
    Ok(())
}

/// The boot device: driver, unit and partition. `MAKEBOOTDEV` of `sys/sys/reboot.h`.
fn boot_device(root: RootDevice) -> u32 {
    DEVICE_MAGIC | u32::from(root.unit) << 16 | u32::from(root.partition) << 8 | u32::from(root.major)
}

fn records(size: RamSize, kernel: OpenBsdKernel, root: RootDevice) -> Vec<u8> {
    let mut blob = Blob::new(OPENBSD_ARGS as u32);
    add_record(&mut blob, MEMORY_MAP, |blob| {
        for range in size.e820() {
            add_range(blob, range.base, range.size, range.kind as u32);
        }
        add_range(blob, 0, 0, 0);
    });
    add_record(&mut blob, CONSOLE, |blob| add_console(blob, kernel.is_amd64));
    if let Some(duid) = root.duid {
        add_record(&mut blob, BOOT_DUID, |blob| blob.add_bytes(&duid));
    }
    add_record(&mut blob, END, |_| {});
    debug_assert!(blob.bytes.len() < PAGE as usize);
    blob.bytes
}

/// A range of the memory map; its kinds have E820's numbers, and 0 ends it.
fn add_range(blob: &mut Blob, base: u64, size: u64, kind: u32) {
    const { assert!(E820Kind::Ram as u32 == 1 && E820Kind::Reserved as u32 == 2) };
    blob.add_u64(base);
    blob.add_u64(size);
    blob.add_u32(kind);
}

/// The console: the first serial port, at its address, with the UART's usual clock. For amd64 an address has 64 bits, which
/// older kernels read as an address and a clock of 0; behind it are the clock, flags (ports), width and shift of registers.
fn add_console(blob: &mut Blob, is_amd64: bool) {
    blob.add_u32(COM0);
    blob.add_u32(SPEED);
    blob.add_u32(COM1.into());
    blob.add_u32(0);
    if is_amd64 {
        for _ in 0..4 {
            blob.add_u32(0);
        }
    }
}

fn add_record(blob: &mut Blob, kind: u32, contents: impl FnOnce(&mut Blob)) {
    let start = blob.reserve(12);
    contents(blob);
    // Records are walked by their sizes.
    let size = (blob.bytes.len() - start) as u32;
    let next = blob.here();
    blob.put_u32(start, kind);
    blob.put_u32(start + 4, size);
    blob.put_u32(start + 8, if kind == END { 0 } else { next });
}
