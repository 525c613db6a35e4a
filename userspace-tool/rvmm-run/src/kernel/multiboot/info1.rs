// SPDX-License-Identifier: GPL-2.0

//! What a kernel of version 1 is told. "Multiboot Specification", "Boot information format".

use super::LOADER_NAME;
use crate::config::layout::{CMDLINE, LOW_RAM_END};
use crate::config::memory::RamSize;
use crate::kernel::blob::Blob;
use crate::kernel::loaded::LoadedModule;

/// Bytes of the structure, with the fields of a framebuffer at its end.
const SIZE: usize = 116;
/// Which fields count.
const MEMORY: u32 = 1 << 0;
const COMMAND_LINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const LOADER: u32 = 1 << 9;

/// Builds the structure, which will lie at `base`, with everything it points to behind it.
pub fn build(base: u32, size: RamSize, modules: &[LoadedModule]) -> Vec<u8> {
    let mut blob = Blob::new(base);
    blob.reserve(SIZE);
    blob.put_u32(0, MEMORY | COMMAND_LINE | MODULES | MEMORY_MAP | LOADER);
    blob.put_u32(4, (LOW_RAM_END >> 10) as u32);
    blob.put_u32(8, (size.above_one_mib() >> 10) as u32);
    blob.put_u32(16, CMDLINE as u32);

    let map = blob.here();
    for range in size.e820() {
        // The size does not count itself.
        blob.add_u32(20);
        blob.add_u64(range.base);
        blob.add_u64(range.size);
        blob.add_u32(range.kind as u32);
    }
    blob.put_u32(44, blob.here() - map);
    blob.put_u32(48, map);

    blob.put_u32(20, modules.len() as u32);
    blob.put_u32(24, blob.here());
    let list = blob.reserve(16 * modules.len());
    for (n, module) in modules.iter().enumerate() {
        let args = blob.add_text(&module.args);
        let words = [module.base as u32, module.end() as u32, args];
        for (word, value) in words.into_iter().enumerate() {
            blob.put_u32(list + 16 * n + 4 * word, value);
        }
    }
    let name = blob.add_text(LOADER_NAME);
    blob.put_u32(64, name);
    blob.bytes
}
