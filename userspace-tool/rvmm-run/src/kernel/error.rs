// SPDX-License-Identifier: GPL-2.0

//! What can be wrong with a kernel, an initrd or a command line.

use std::fmt;
use std::io;

use super::unknown::UnknownImage;
use crate::config::memory::human;

/// An option that not every kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelOption {
    /// `--initrd`.
    Initrd,
    /// `--module`.
    Module,
    /// `--root`.
    Root,
}

impl fmt::Display for KernelOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initrd => "a kernel of OpenBSD takes no initrd: leave --initrd out",
            Self::Module => "only kernels of multiboot and PVH take modules: leave --module out, or give Linux an --initrd",
            Self::Root => "only kernels of OpenBSD take --root: name the root in --append, if the kernel has a word for it",
        })
    }
}

/// What is wrong with a kernel, an initrd or a module.
#[derive(Debug)]
pub enum KernelError {
    /// The file cannot be read.
    Io(io::Error),
    /// Nothing that can be started.
    UnknownFormat(UnknownImage),
    /// A segment whose physical address is a virtual one.
    VirtualAddress(usize, u64),
    /// A 32-bit ELF file that is no kernel of another protocol than that of Linux.
    Elf32,
    /// An ELF file for another machine, with its number.
    ElfMachine(u16),
    /// An ELF file that is no executable (an object, a core file), with its type.
    ElfType(u16),
    /// An ELF header with a field that makes no sense.
    ElfHeader(&'static str),
    /// No segment to load.
    NoSegments,
    /// The file ends before what it promises.
    Truncated {
        /// Bytes that the image says it has.
        needs: u64,
        /// Bytes that the file has.
        has: u64,
    },
    /// A segment that claims less memory than file contents, or wraps around.
    BadSegment(usize),
    /// Two segments claim the same memory.
    Overlap(usize, usize),
    /// A segment lies in the first MiB, where the boot structures are.
    BelowOneMib(usize),
    /// The kernel does not fit into guest RAM below 4 GiB.
    DoesNotFit {
        /// End of what the kernel needs.
        end: u64,
        /// End of RAM below 4 GiB.
        ram: u64,
    },
    /// The entry point lies outside what is loaded.
    EntryOutside(u64),
    /// A boot protocol older than 2.12, as it is coded in the header.
    OldProtocol(u16),
    /// A 32-bit bzImage.
    No64BitEntry,
    /// The data that gzip made are damaged, with what its reader says.
    Gzip(String),
    /// There is more in them than this.
    UnpackedTooLarge(u64),
    /// A multiboot header with flags that have to be known and are not.
    MultibootFlags(u16),
    /// A multiboot 2 header with a tag that has to be known and is not.
    MultibootTag(u16),
    /// A multiboot 2 header that requires information of a kind that cannot be given.
    MultibootRequest(u32),
    /// A kernel that requires a console of its own kind.
    MultibootConsole,
    /// A multiboot header that makes no sense, and why.
    MultibootHeader(&'static str),
    /// A segment for random bytes, at this address, that is not in memory.
    RandomOutside(u64),
    /// An option that OpenBSD's boot(8) does not have.
    BootOption(String),
    /// Its protocol has no place for what the option gives.
    NotTaken(KernelOption),
    /// Names and arguments of modules, and the memory map, that do not fit where they go, in bytes.
    InfoTooLarge(usize),
    /// The initrd or module is empty.
    Empty,
    /// The initrd or module does not fit between the kernel and the end of usable RAM.
    ModuleDoesNotFit {
        /// Its bytes.
        size: u64,
        /// Bytes that are free for it.
        room: u64,
    },
    /// The command line is longer than the kernel takes.
    CmdlineTooLong {
        /// Bytes given.
        len: usize,
        /// Bytes that the kernel takes.
        max: u32,
    },
    /// The command line contains a zero byte.
    CmdlineZero,
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "cannot read it: {}", crate::errno::explain(e)),
            Self::UnknownFormat(what) => write!(f, "{what}"),
            Self::VirtualAddress(i, at) => write!(
                f,
                "the physical address of its segment {i}, {at:#x}, is a virtual one: link the kernel with physical load addresses (AT in the linker script)"
            ),
            Self::Elf32 => write!(
                f,
                "it is a 32-bit ELF file without a multiboot header, a PVH note or a mark of OpenBSD: of Linux, only x86-64 kernels can be started"
            ),
            Self::ElfMachine(m) => write!(f, "it is an ELF file for another machine (e_machine {m}): only x86-64 kernels can be started"),
            Self::ElfType(t) => write!(f, "it is an ELF file but no executable (e_type {t}): give the vmlinux of a Linux kernel"),
            Self::ElfHeader(what) => write!(f, "its ELF header is damaged ({what}): build or fetch the file again"),
            Self::NoSegments => write!(f, "its ELF file has no segment to load: give an executable kernel image"),
            Self::Truncated { needs, has } => {
                write!(f, "it is truncated: the image needs {needs} bytes, the file has {has}; copy or fetch it again")
            }
            Self::BadSegment(i) => write!(f, "its segment {i} has impossible sizes: build or fetch the file again"),
            Self::Overlap(a, b) => write!(f, "its segments {a} and {b} overlap in memory: build or fetch the file again"),
            Self::BelowOneMib(i) => write!(f, "its segment {i} lies in the first MiB, which holds the boot structures: link the kernel at 1 MiB or above"),
            Self::DoesNotFit { end, ram } => {
                write!(f, "it needs memory up to {end:#x}, but guest RAM below 4 GiB ends at {ram:#x}: give the guest more with --memory")
            }
            Self::EntryOutside(at) => write!(f, "its entry point {at:#x} lies outside its segments: build or fetch the file again"),
            Self::OldProtocol(v) => {
                write!(f, "its boot protocol {}.{:02} is too old: a kernel of Linux 3.8 or newer is needed", v >> 8, v & 0xff)
            }
            Self::No64BitEntry => write!(f, "it has no 64-bit entry point: only x86-64 kernels can be started"),
            Self::Gzip(why) => write!(f, "gzip's data in it are damaged ({why}): copy or fetch it again"),
            Self::UnpackedTooLarge(max) => write!(f, "it unpacks to more than {}: give a kernel", human(*max)),
            Self::MultibootFlags(flags) => {
                write!(f, "its multiboot header requires what this loader does not know (flags {flags:#x}): give another kernel")
            }
            Self::MultibootTag(tag) => {
                write!(f, "its multiboot 2 header requires what this loader does not know (tag {tag}): give another kernel")
            }
            Self::MultibootRequest(kind) => {
                write!(f, "its multiboot 2 header requires information that this loader does not have (type {kind}): give another kernel")
            }
            Self::MultibootConsole => {
                write!(f, "its multiboot 2 header requires a screen, and there is none: build it for a serial console")
            }
            Self::MultibootHeader(why) => write!(f, "its multiboot header cannot be used ({why}): build or fetch the file again"),
            Self::RandomOutside(at) => {
                write!(f, "its segment for random bytes at {at:#x} lies outside what is loaded: build or fetch the file again")
            }
            Self::BootOption(word) => write!(
                f,
                "'{word}' is no option of OpenBSD's: -a asks for the root device, -c changes the configuration, -d enters the debugger, -s is single user"
            ),
            Self::NotTaken(option) => write!(f, "{option}"),
            Self::InfoTooLarge(bytes) => {
                write!(f, "what the kernel is told of its modules takes {bytes} bytes: give fewer, or shorten their arguments")
            }
            Self::Empty => write!(f, "it is empty: leave --initrd or --module out, or give a file with something in it"),
            Self::ModuleDoesNotFit { size, room } => {
                write!(f, "it has {}, but guest RAM has room for {} only: give the guest more with --memory", human(*size), human(*room))
            }
            Self::CmdlineTooLong { len, max } => write!(f, "it has {len} bytes, the kernel takes {max}: shorten it"),
            Self::CmdlineZero => write!(f, "it contains a zero byte: remove it"),
        }
    }
}

impl std::error::Error for KernelError {}

impl From<io::Error> for KernelError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}
