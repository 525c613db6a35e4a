// SPDX-License-Identifier: GPL-2.0

//! Fuzz subjects: each takes any bytes, makes them operations, and asserts what must hold after each.
//!
//! Two crates mount these files: the tests, which feed them pseudo-random bytes, and the fuzzer's
//! own crate beside this folder, which lets libFuzzer choose them.

mod apic;
mod bytes;
mod chipset;
mod emulate;
mod mmu;
mod net;
mod packed;
mod pci;
mod queue;
pub(crate) mod saved;
mod shadow;
#[cfg(test)]
mod smoke;

/// A subject by its name.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All subjects.
pub(crate) const TARGETS: &[Target] = &[
    ("uart", chipset::uart),
    ("pit", chipset::pit),
    ("pic", chipset::pic),
    ("rtc", chipset::rtc),
    ("i8042", chipset::i8042),
    ("pm", chipset::pm),
    ("bus", chipset::bus),
    ("lapic", apic::lapic),
    ("ioapic", apic::ioapic),
    ("virtqueue", queue::virtqueue),
    ("packed_pair", packed::packed_pair),
    ("packed_ring", packed::packed_ring),
    ("virtio_blk", queue::virtio_blk),
    ("virtio_rng", queue::virtio_rng),
    ("virtio_net", net::virtio_net),
    ("pci", pci::pci),
    ("saved_machine", saved::machine),
    ("saved_restore", saved::restore),
    ("decode", emulate::decoder),
    ("emulate", emulate::emulator),
    ("walk", mmu::walk),
    ("slots", mmu::slots),
    ("table", mmu::table),
    ("shadow", shadow::shadow),
];
