// SPDX-License-Identifier: GPL-2.0

//! Guest RAM: how much, where, and what the E820 map says of it.

use std::io;

use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use super::layout::{ACPI, ACPI_END, GIB, HIGH_RAM, HIGH_RAM_4G, LOW_RAM_END, LOW_RAM_MAX, MIB, PAGE};

/// The smallest guest memory that the boot structures and any kernel fit in.
pub const MIN_MEMORY: u64 = 16 * MIB;

/// A size of guest RAM that has been checked: whole pages, at least `MIN_MEMORY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamSize(u64);

/// What is wrong with a requested memory size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// Not a number with an optional suffix.
    NotASize,
    /// Zero or too small to boot anything, in bytes.
    TooSmall(u64),
    /// Not a multiple of the page size.
    NotWholePages(u64),
    /// More than the host has; both in bytes.
    MoreThanHost {
        /// What was asked for.
        asked: u64,
        /// What the host has.
        host: u64,
    },
}

impl std::fmt::Display for MemoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotASize => {
                write!(f, "not a size: write a number with an optional suffix K, M, G or T, as in 512M")
            }
            Self::TooSmall(bytes) => {
                write!(f, "{} is too small: a guest needs at least {}", human(*bytes), human(MIN_MEMORY))
            }
            Self::NotWholePages(bytes) => {
                write!(f, "{bytes} bytes is not a multiple of 4096: use a suffix such as 512M")
            }
            Self::MoreThanHost { asked, host } => {
                write!(f, "{} is more than the host has ({}): ask for less", human(*asked), human(*host))
            }
        }
    }
}

impl std::error::Error for MemoryError {}

impl RamSize {
    /// Parses a size such as `512M`, `2G`, `1048576K`. A bare number counts MiB, as for other VMMs.
    ///
    /// # Errors
    /// Every `MemoryError` but `MoreThanHost`.
    pub fn parse(text: &str) -> Result<Self, MemoryError> {
        Self::from_bytes(parse_bytes(text).ok_or(MemoryError::NotASize)?)
    }

    /// Checks a size in bytes.
    ///
    /// # Errors
    /// `TooSmall` or `NotWholePages`.
    pub const fn from_bytes(bytes: u64) -> Result<Self, MemoryError> {
        if bytes < MIN_MEMORY {
            return Err(MemoryError::TooSmall(bytes));
        }
        if bytes % PAGE != 0 {
            return Err(MemoryError::NotWholePages(bytes));
        }
        Ok(Self(bytes))
    }

    /// Size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Bytes of RAM below 4 GiB.
    pub fn low(self) -> u64 {
        self.0.min(LOW_RAM_MAX)
    }

    /// Bytes of RAM between 1 MiB and the hole below 4 GiB.
    pub fn above_one_mib(self) -> u64 {
        self.low() - HIGH_RAM
    }

    /// Bytes of RAM from 4 GiB on.
    pub fn high(self) -> u64 {
        self.0 - self.low()
    }

    /// Refuses what exceeds the RAM of the host (in bytes).
    ///
    /// # Errors
    /// `MoreThanHost`.
    pub fn check_host(self, host: u64) -> Result<(), MemoryError> {
        if self.0 > host {
            return Err(MemoryError::MoreThanHost { asked: self.0, host });
        }
        Ok(())
    }

    /// Reserves the guest's address space; the host fills it with pages on first use.
    ///
    /// # Errors
    /// When the host refuses the mapping.
    pub fn allocate(self) -> io::Result<GuestMemoryMmap<()>> {
        let mut ranges = vec![(0, self.low())];
        if self.high() > 0 {
            ranges.push((HIGH_RAM_4G, self.high()));
        }
        let mut regions = Vec::new();
        for (base, len) in ranges {
            let mapping = map_aligned(usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?)?;
            regions.extend(GuestRegionMmap::new(mapping, GuestAddress(base)));
        }
        let ram = GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?;
        crate::sys::advise_huge_pages(&ram);
        Ok(ram)
    }

    /// The memory map for the kernel, sorted and free of overlaps.
    pub fn e820(self) -> Vec<E820> {
        let mut map = vec![
            E820 { base: 0, size: LOW_RAM_END, kind: E820Kind::Ram },
            E820 { base: LOW_RAM_END, size: 0xa_0000 - LOW_RAM_END, kind: E820Kind::Reserved },
            E820 { base: ACPI, size: ACPI_END - ACPI, kind: E820Kind::Reserved },
            E820 { base: HIGH_RAM, size: self.above_one_mib(), kind: E820Kind::Ram },
        ];
        if self.high() > 0 {
            map.push(E820 { base: HIGH_RAM_4G, size: self.high(), kind: E820Kind::Ram });
        }
        map
    }
}

impl std::fmt::Display for RamSize {
    /// Writes the size as it can be read again, in the largest unit that gives a whole number.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(1 << 40, 'T'), (GIB, 'G'), (MIB, 'M')];
        let whole = units.into_iter().find(|(unit, _)| self.0 % unit == 0);
        let (unit, name) = whole.unwrap_or((1024, 'K'));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// Kind of an E820 range, with the number that the map uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E820Kind {
    /// Usable.
    Ram = 1,
    /// Not for the kernel.
    Reserved = 2,
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820 {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: E820Kind,
}

/// Maps `len` bytes, a multiple of 2 MiB starting on a large page where that can be had: the module maps 2 MiB at a time only
/// where guest and host addresses are aligned alike. Not every host aligns large mappings by itself, but a new mapping
/// usually lies right below the last one, so one of the size that is too much, made first, shifts it into place.
fn map_aligned(len: usize) -> io::Result<MmapRegion> {
    const LARGE_PAGE: usize = 2 << 20;
    const TRIES: usize = 4;
    let map = |len| MmapRegion::<()>::new(len).map_err(io::Error::other);
    let mut shift = Vec::new();
    for _ in 0..TRIES {
        let region = map(len)?;
        match region.as_ptr() as usize % LARGE_PAGE {
            0 => return Ok(region),
            excess => {
                drop(region);
                shift.push(map(excess)?);
            }
        }
    }
    map(len)
}

/// RAM of the host in bytes, 0 when the host does not say.
pub fn host_memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map(|info| info.ram_total()).unwrap_or(0)
}

/// A size for people: the largest binary unit that gives a whole number.
pub fn human(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")];
    for (unit, name) in units {
        if bytes >= unit && (bytes % unit == 0 || bytes >= 16 * unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} bytes")
}

/// Bytes for a number with an optional binary suffix (`K`, `M`, `G`, `T`, each also as `KiB` and `KB`, or `B`).
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let number: u64 = digits.parse().ok()?;
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}
