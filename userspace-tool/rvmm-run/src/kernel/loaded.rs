// SPDX-License-Identifier: GPL-2.0

//! A kernel and an initrd that lie in guest memory, and how the kernel is entered.

/// How the boot processor enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEntry {
    /// Long mode, paging on, RSI = `boot_params`.
    Linux64 {
        /// First instruction.
        rip: u64,
    },
    /// Flat 32-bit protected mode, EBX = `hvm_start_info`.
    Pvh {
        /// First instruction.
        eip: u32,
    },
}

/// A kernel that lies in guest memory.
#[derive(Clone, Debug)]
pub struct LoadedKernel {
    /// Where to start.
    pub entry: KernelEntry,
    /// First byte after everything the kernel touches before it has its own memory management.
    pub end: u64,
    /// Longest command line, terminator not counted.
    pub cmdline_max: u32,
    /// Highest address for the last byte of the initrd.
    pub initrd_max: u64,
    /// Setup header of a bzImage; a minimal one for an ELF image.
    pub header: linux_loader::loader::bootparam::setup_header,
}

/// An initrd that lies in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedInitrd {
    /// First byte, page aligned.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}
