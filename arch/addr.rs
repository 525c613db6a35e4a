// SPDX-License-Identifier: GPL-2.0

//! Addresses and frame numbers, one type for each address space.
//!
//! | type | address space |
//! |---|---|
//! | [`Gva`] | guest virtual (linear) |
//! | [`Gpa`], [`Gfn`] | guest physical, and its 4 KiB frame number |
//! | [`Hva`] | virtual in the VMM process |
//! | [`Hpa`], [`Pfn`] | host physical, and its 4 KiB frame number |

/// log2 of the small page size.
pub(crate) const PAGE_SHIFT: u32 = 12;
/// The small page size in bytes.
pub(crate) const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// Returns `address` with all bits from `bits` - 1 on alike, as a processor with linear addresses of `bits` bits, at least
/// 1, takes them.
pub(crate) fn canonical(address: u64, bits: u32) -> u64 {
    let unused = 64u32.wrapping_sub(bits);
    (address.wrapping_shl(unused) as i64).wrapping_shr(unused) as u64
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) u64);

        #[allow(dead_code, reason = "not every kind of address needs every operation")]
        impl $name {
            /// Returns the address `bytes` further on, or `None` past the end of the space.
            pub(crate) fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// Returns the address `bytes` further on, wrapping at 2^64.
            pub(crate) fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// Returns the offset within the 4 KiB page.
            pub(crate) fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Returns the address of the start of the 4 KiB page.
            pub(crate) fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Returns how many bytes are left in the 4 KiB page from here on, 1 to 4096.
            pub(crate) fn left_in_page(self) -> u64 {
                PAGE_SIZE.wrapping_sub(self.page_offset())
            }
        }
    };
}

address!(
    /// A guest virtual (linear) address.
    Gva
);
address!(
    /// A guest physical address.
    Gpa
);
address!(
    /// A virtual address in the process that owns the VM.
    Hva
);
address!(
    /// A host physical address.
    Hpa
);

/// A guest frame number: a guest physical address divided by 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gfn(pub(crate) u64);

/// A host frame number: a host physical address divided by 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pfn(pub(crate) u64);

impl Hpa {
    /// Returns whether a 2 MiB page may start here.
    pub(crate) fn is_at_2m_boundary(self) -> bool {
        self.0 & 0x1f_ffff == 0
    }
}

impl Gpa {
    /// Returns the number of the frame that holds this address.
    pub(crate) fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl Gfn {
    /// Returns the address of the frame's first byte; the top bits of an impossible number are lost.
    pub(crate) fn gpa(self) -> Gpa {
        Gpa(self.0.wrapping_shl(PAGE_SHIFT))
    }
}

impl Hpa {
    /// Returns the number of the frame that holds this address.
    pub(crate) fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl Pfn {
    /// Returns the address of the frame's first byte.
    pub(crate) fn hpa(self) -> Hpa {
        Hpa(self.0.wrapping_shl(PAGE_SHIFT))
    }
}

/// The width of an access to a device or to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessWidth {
    /// 8 bits.
    B1 = 0,
    /// 16 bits.
    B2 = 1,
    /// 32 bits.
    B4 = 2,
    /// 64 bits; never on an I/O port.
    B8 = 3,
}

impl AccessWidth {
    /// Returns the width of `bytes` bytes, or `None` for anything but 1, 2, 4 and 8.
    pub(crate) fn from_bytes(bytes: usize) -> Option<AccessWidth> {
        Some(match bytes {
            1 => AccessWidth::B1,
            2 => AccessWidth::B2,
            4 => AccessWidth::B4,
            8 => AccessWidth::B8,
            _ => return None,
        })
    }

    /// Returns the number of bytes.
    #[inline(always)]
    pub(crate) const fn bytes(self) -> usize {
        // The variants stand for the exponents that they are.
        1usize.wrapping_shl(self as u32)
    }

    /// Returns a mask of the value's bits: also what a read of nothing gives.
    #[inline(always)]
    pub(crate) const fn mask(self) -> u64 {
        let bits = 8u32.wrapping_shl(self as u32);
        u64::MAX.wrapping_shr(64u32.wrapping_sub(bits))
    }
}

/// Returns whether the bits from `va_bits - 1` up of an address are all alike.
pub(crate) fn is_canonical(address: u64, va_bits: u32) -> bool {
    let unused = 64u32.wrapping_sub(va_bits);
    (address.wrapping_shl(unused) as i64).wrapping_shr(unused) as u64 == address
}
