// SPDX-License-Identifier: GPL-2.0

//! Address space identifiers: which tag a guest's translations carry in a CPU's TLB.
//!
//! Each CPU hands its numbers out in order. When they run out, a new generation begins: every number
//! is free again, and the first user flushes the whole TLB. A vCPU keeps its number while it stays on
//! the CPU and in the generation.

/// The numbers of one CPU.
#[derive(Debug)]
pub(crate) struct AsidPool {
    first: u32,
    last: u32,
    next: u32,
    generation: u64,
}

/// The number that a vCPU holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AsidTag {
    asid: u32,
    cpu: u32,
    /// 0 never matches: pools start at 1.
    generation: u64,
}

/// The result of [`AsidPool::assign`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The number to enter with.
    pub(crate) asid: u32,
    /// The whole TLB must be flushed with the entry.
    pub(crate) flush_all: bool,
}

impl AsidPool {
    /// A pool of the numbers from `first` to `last`.
    pub(crate) fn new(first: u32, last: u32) -> AsidPool {
        AsidPool { first, last: last.max(first), next: first, generation: 1 }
    }

    /// Returns the number for a vCPU on CPU `cpu`, which the pool belongs to: the one it holds, or a
    /// fresh one.
    #[inline]
    pub(crate) fn assign(&mut self, tag: &mut AsidTag, cpu: u32) -> Assigned {
        if tag.generation == self.generation && tag.cpu == cpu {
            return Assigned { asid: tag.asid, flush_all: false };
        }
        let mut flush_all = false;
        if self.next > self.last {
            self.generation = self.generation.wrapping_add(1);
            self.next = self.first;
            flush_all = true;
        }
        *tag = AsidTag { asid: self.next, cpu, generation: self.generation };
        self.next = self.next.saturating_add(1);
        Assigned { asid: tag.asid, flush_all }
    }
}
