// SPDX-License-Identifier: GPL-2.0

//! Values out of a fuzzer's bytes. Behind the end of the bytes everything is zero.

use crate::arch::addr::AccessWidth;

/// The bytes that are left.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let n = N.min(self.0.len());
        let (now, later) = self.0.split_at(n);
        out[..n].copy_from_slice(now);
        self.0 = later;
        out
    }

    pub(super) fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    pub(super) fn flag(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// A number below `n`, which is at most 256.
    pub(super) fn below(&mut self, n: u64) -> u64 {
        u64::from(self.u8()) % n
    }

    /// One of `all`.
    pub(super) fn pick<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::from(self.u8()) % all.len()].clone()
    }

    pub(super) fn width(&mut self) -> AccessWidth {
        self.pick(&[AccessWidth::B4, AccessWidth::B1, AccessWidth::B2, AccessWidth::B8])
    }

    /// A number of any magnitude, small ones as often as large ones.
    pub(super) fn number(&mut self) -> u64 {
        match self.u8() {
            n @ 0..=127 => u64::from(n),
            128..=175 => u64::from(self.u16()),
            176..=215 => u64::from(self.u32()),
            216..=240 => self.u64(),
            241..=247 => (1 << (self.u8() & 63)) - 1,
            248..=253 => 1 << (self.u8() & 63),
            _ => u64::MAX,
        }
    }
}
