// SPDX-License-Identifier: GPL-2.0

//! Random numbers that a seed repeats, and the numbers that break things.

use std::cell::Cell;

/// A stream of numbers.
pub struct Random(Cell<u64>);

impl Random {
    /// The stream of a seed and the numbers that tell it from its siblings.
    pub fn new(seed: u64, of: &[u64]) -> Random {
        let r = Random(Cell::new(seed | 1 << 63));
        for n in of {
            r.0.set((r.0.get() ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63);
            (0..4).for_each(|_| _ = r.next());
        }
        r
    }

    /// Returns any number.
    pub fn next(&self) -> u64 {
        let mut n = self.0.get();
        n ^= n << 13;
        n ^= n >> 7;
        n ^= n << 17;
        self.0.set(n);
        n
    }

    /// Returns a number below `n`, which is not 0.
    pub fn below(&self, n: usize) -> usize {
        (self.next() >> 8) as usize % n
    }

    /// As [`Random::below`], in the width of an argument.
    pub fn small(&self, n: usize) -> u64 {
        self.below(n) as u64
    }

    /// Returns true once in `n` times.
    pub fn once_in(&self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Returns one of `all`.
    pub fn of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Returns a number of those that break things.
    pub fn odd(&self) -> u64 {
        let n = self.next();
        match n >> 5 & 7 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (n & 63),
            3 => (1 << (n & 63)) - 1,
            4 => n >> 40 & 0xff,
            5 => n >> 32,
            6 => 0xfee0_0000 + (n >> 40 & 0xfff),
            _ => n,
        }
    }

    /// Changes bytes: all, most, some bits, or a few words.
    pub fn fill(&self, bytes: &mut [u8]) {
        let how = self.below(6);
        for b in bytes.chunks_mut(8).filter(|_| how < 3) {
            let word = match how {
                0 => self.next(),
                1 if self.once_in(4) => self.next() & self.next() & self.next(),
                1 => 0,
                _ => self.next() | self.next(),
            };
            b.copy_from_slice(&word.to_ne_bytes()[..b.len()]);
        }
        if how > 2 {
            for _ in 0..=self.below(3) {
                let at = self.below((bytes.len() / 4).max(1)) * 4;
                let width = self.of(&[1, 2, 4, 8]);
                let word = self.odd().to_ne_bytes();
                for (to, from) in bytes.iter_mut().skip(at).zip(&word[..width]) {
                    *to = *from;
                }
            }
        }
    }
}
