// SPDX-License-Identifier: GPL-2.0

//! What a kernel of version 2 is told. "Multiboot2 Specification", "Boot information format".

use super::LOADER_NAME;
use crate::config::layout::LOW_RAM_END;
use crate::config::memory::RamSize;
use crate::kernel::blob::Blob;
use crate::kernel::loaded::LoadedModule;

/// Bytes of an RSDP as ACPI 1.0 had it.
const OLD_RSDP: usize = 20;

/// Builds the tags, which will lie at `base`; `rsdp` is a copy of it, `load_base` for a kernel that wants to know it.
pub fn build(
    base: u32,
    (size, rsdp): (RamSize, &[u8]),
    modules: &[LoadedModule],
    cmdline: &str,
    load_base: Option<u32>,
) -> Vec<u8> {
    let mut blob = Blob::new(base);
    blob.reserve(8);
    add_tag(&mut blob, 1, |blob| blob.add_bytes(&text(cmdline)));
    add_tag(&mut blob, 2, |blob| blob.add_bytes(&text(LOADER_NAME)));
    for module in modules {
        add_tag(&mut blob, 3, |blob| {
            blob.add_u32(module.base as u32);
            blob.add_u32(module.end() as u32);
            blob.add_bytes(&text(&module.args));
        });
    }
    add_tag(&mut blob, 4, |blob| {
        blob.add_u32((LOW_RAM_END >> 10) as u32);
        blob.add_u32((size.above_one_mib() >> 10) as u32);
    });
    add_tag(&mut blob, 6, |blob| {
        // Bytes of an entry, and its version.
        blob.add_u32(24);
        blob.add_u32(0);
        for range in size.e820() {
            blob.add_u64(range.base);
            blob.add_u64(range.size);
            blob.add_u32(range.kind as u32);
            blob.add_u32(0);
        }
    });
    add_tag(&mut blob, 14, |blob| blob.add_bytes(&rsdp[..OLD_RSDP.min(rsdp.len())]));
    add_tag(&mut blob, 15, |blob| blob.add_bytes(rsdp));
    if let Some(load_base) = load_base {
        add_tag(&mut blob, 21, |blob| blob.add_u32(load_base));
    }
    add_tag(&mut blob, 0, |_| {});
    blob.put_u32(0, blob.bytes.len() as u32);
    blob.bytes
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// A tag with `contents`, and what is missing to a multiple of eight bytes behind it.
fn add_tag(blob: &mut Blob, kind: u32, contents: impl FnOnce(&mut Blob)) {
    let start = blob.reserve(8);
    contents(blob);
    blob.put_u32(start, kind);
    blob.put_u32(start + 4, (blob.bytes.len() - start) as u32);
    blob.align(8);
}
