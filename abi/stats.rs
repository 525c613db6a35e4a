// SPDX-License-Identifier: GPL-2.0

//! The layout of KVM's binary statistics. KVM API documentation, "KVM_GET_STATS_FD".

/// Bytes of [`Header`].
pub(crate) const HEADER_BYTES: u32 = 24;
/// Bytes of each name, and of the file's own identification.
pub(crate) const NAME_BYTES: u32 = 48;
/// Bytes of a descriptor with its name.
pub(crate) const DESC_BYTES: u32 = 16 + NAME_BYTES;
/// [`Desc::flags`]: counts up, in no unit, to the power of ten.
pub(crate) const CUMULATIVE: u32 = 0;
/// [`Desc::flags`]: a logarithmic histogram of cycles.
pub(crate) const CYCLES_LOG_HISTOGRAM: u32 = 4 | 3 << 4;

abi_struct! {
    /// `struct kvm_stats_header`.
    struct Header = 24 {
        /// Reserved.
        flags: u32,
        /// [`NAME_BYTES`].
        name_size: u32,
        /// How many descriptors.
        num_desc: u32,
        /// Where the file's identification is.
        id_offset: u32,
        /// Where the descriptors are.
        desc_offset: u32,
        /// Where the values are.
        data_offset: u32,
    }

    /// `struct kvm_stats_desc` without the name that follows.
    struct Desc = 16 {
        /// Type, unit and base.
        flags: u32,
        /// The power of the base.
        exponent: i16,
        /// Values of 8 bytes.
        size: u16,
        /// From the start of the values.
        offset: u32,
        /// Of a linear histogram.
        bucket_size: u32,
    }
}

/// Returns `text` as a name, cut to size and ended by zeroes.
pub(crate) fn name(text: &[u8]) -> [u8; NAME_BYTES as usize] {
    let mut out = [0; NAME_BYTES as usize];
    for (dst, src) in out.iter_mut().zip(text.iter().take(NAME_BYTES as usize - 1)) {
        *dst = *src;
    }
    out
}

/// Appends `text` to a name, as far as it has room.
pub(crate) fn append(name: &mut [u8; NAME_BYTES as usize], text: &[u8]) {
    let start = name.iter().position(|b| *b == 0).unwrap_or(NAME_BYTES as usize);
    let room = name.get_mut(start..(NAME_BYTES as usize - 1)).unwrap_or(&mut []);
    for (dst, src) in room.iter_mut().zip(text) {
        *dst = *src;
    }
}

/// Appends a number in decimal to a name, as far as it has room.
pub(crate) fn append_number(name: &mut [u8; NAME_BYTES as usize], number: u32) {
    let mut digits = [0u8; 10];
    let mut left = number;
    for d in digits.iter_mut().rev() {
        *d = b'0'.wrapping_add((left % 10) as u8);
        left /= 10;
    }
    // The number 0 has a digit, too.
    let used = digits.iter().position(|d| *d != b'0').unwrap_or(9);
    append(name, digits.get(used..).unwrap_or(&[]));
}
