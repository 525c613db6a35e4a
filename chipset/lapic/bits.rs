// SPDX-License-Identifier: GPL-2.0

//! A set of interrupt vectors: the shape of IRR, ISR and TMR.
//!
//! Four 64-bit words, so that finding the highest member is at most four compares and one bit scan.

/// A set of interrupt vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VecBits(pub(crate) [u64; 4]);

/// Returns the word that holds `vector` and its bit therein.
fn place(vector: u8) -> (usize, u64) {
    (usize::from(vector >> 6), 1u64.wrapping_shl(u32::from(vector & 63)))
}

impl VecBits {
    /// Adds `vector`.
    pub(crate) fn set(&mut self, vector: u8) {
        let (word, bit) = place(vector);
        if let Some(w) = self.0.get_mut(word) {
            *w |= bit;
        }
    }

    /// Removes `vector`.
    pub(crate) fn clear(&mut self, vector: u8) {
        let (word, bit) = place(vector);
        if let Some(w) = self.0.get_mut(word) {
            *w &= !bit;
        }
    }

    /// Returns whether `vector` is a member.
    pub(crate) fn has(&self, vector: u8) -> bool {
        let (word, bit) = place(vector);
        self.0.get(word).is_some_and(|w| w & bit != 0)
    }

    /// Returns whether there is no member.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let [a, b, c, d] = self.0;
        a | b | c | d == 0
    }

    /// Returns the highest member.
    pub(crate) fn highest(&self) -> Option<u8> {
        if self.is_empty() {
            // Mostly so, and asked before each entry.
            return None;
        }
        let [a, b, c, d] = self.0;
        let (word, base) = if d != 0 {
            (d, 192)
        } else if c != 0 {
            (c, 128)
        } else if b != 0 {
            (b, 64)
        } else {
            (a, 0)
        };
        let bit = u8::try_from(word.leading_zeros()).unwrap_or(63) ^ 63;
        Some(base | bit)
    }

    /// Returns vectors `32 * i` to `32 * i + 31` as the guest's registers show them; 0 where `i > 7`.
    pub(crate) fn part(&self, i: u32) -> u32 {
        let word = usize::try_from(i >> 1).ok().and_then(|w| self.0.get(w)).copied().unwrap_or(0);
        let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
        u32::from_le_bytes(if i & 1 == 0 { [a, b, c, d] } else { [e, f, g, h] })
    }

    /// Returns the set whose [`VecBits::part`]s are `parts`.
    pub(crate) fn from_parts(parts: [u32; 8]) -> VecBits {
        let [a, b, c, d, e, f, g, h] = parts.map(u64::from);
        VecBits([a | (b << 32), c | (d << 32), e | (f << 32), g | (h << 32)])
    }
}
