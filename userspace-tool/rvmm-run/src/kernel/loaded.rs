// SPDX-License-Identifier: GPL-2.0

//! A kernel and its modules that lie in guest memory, and how the kernel is entered.

use linux_loader::loader::bootparam::setup_header;

use super::multiboot::header::MultibootVersion;

/// How the boot processor enters the kernel. All but the first are in flat 32-bit protected mode without paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelEntry {
    /// Long mode, paging on, RSI = `boot_params`.
    Linux64 {
        /// First instruction.
        rip: u64,
    },
    /// EBX = `hvm_start_info`.
    Pvh {
        /// First instruction.
        eip: u32,
    },
    /// EAX = the version's magic number, EBX = the boot information.
    Multiboot {
        /// First instruction.
        eip: u32,
        /// Which of the two.
        version: MultibootVersion,
    },
    /// Everything is on the stack.
    OpenBsd {
        /// First instruction.
        eip: u32,
    },
}

impl KernelEntry {
    /// The address of the first instruction.
    pub fn start(self) -> u64 {
        match self {
            Self::Linux64 { rip } => rip,
            Self::Pvh { eip } | Self::Multiboot { eip, .. } | Self::OpenBsd { eip } => eip.into(),
        }
    }

    /// Whether the kernel is entered in long mode.
    pub fn is_long_mode(self) -> bool {
        matches!(self, Self::Linux64 { .. })
    }
}

/// By which protocol a kernel is told about its machine, and what only that one needs.
#[derive(Clone, Debug)]
pub enum KernelProtocol {
    /// The 64-bit boot protocol; with the setup header of a bzImage, or a minimal one for an ELF image.
    Linux(setup_header),
    /// PVH.
    Pvh,
    /// Multiboot; with the lowest address of the image where the kernel can be moved and wants to know it.
    Multiboot(Option<u32>),
    /// That of OpenBSD's boot(8).
    OpenBsd(OpenBsdKernel),
}

/// What the protocol of OpenBSD has of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenBsdKernel {
    /// For amd64; else for i386.
    pub is_amd64: bool,
    /// The first byte behind its symbols, 0 without any.
    pub symbols_end: u32,
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
    /// How it is told about the machine.
    pub protocol: KernelProtocol,
}

/// An initrd or another module that lies in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedModule {
    /// First byte, page aligned.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// What the user says to it.
    pub args: String,
}

impl LoadedModule {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.base + self.size
    }
}
