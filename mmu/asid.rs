// SPDX-License-Identifier: GPL-2.0

//! Address space identifiers: ASIDs (AMD) and VPIDs (Intel), one pool for each processor.
//!
//! APM, "Address Space Identifier (ASID)"; SDM, "Virtual-Processor Identifiers (VPIDs)".
//!
//! A vCPU keeps its identifier for as long as it stays on a processor and the pool's generation
//! lasts. When a pool runs out, a new generation starts: the processor's whole TLB is flushed once,
//! and every tag of the old generation is stale. Nothing is ever given back, so no lock is shared
//! between processors: a pool is used by its own processor only, with interrupts off.

/// The identifiers of one processor.
#[derive(Debug)]
pub(crate) struct AsidPool {
    cpu: u32,
    first: u32,
    last: u32,
    /// The next one to give out; beyond `last`, or `None`, when there is none left.
    next: Option<u32>,
    generation: u64,
}

/// A vCPU's identifier: where and when it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AsidTag(Option<Held>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    cpu: u32,
    generation: u64,
    asid: u32,
}

/// What to enter the guest with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The identifier.
    pub(crate) asid: u32,
    /// It is not the one that the vCPU had; nothing in this TLB is tagged with it.
    pub(crate) is_new: bool,
    /// Flush the entries of all identifiers on this processor before the entry.
    pub(crate) flush_all: bool,
}

impl AsidTag {
    /// Forgets the identifier: the next one is new, which is the cheapest flush of one vCPU.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn forget(&mut self) {
        self.0 = None;
    }
}

impl AsidPool {
    /// Makes the pool of processor `cpu`, with the identifiers `first` to `last`; if `last` is
    /// below `first`, then `first` alone. The first assignment asks for a flush.
    pub(crate) const fn new(cpu: u32, first: u32, last: u32) -> AsidPool {
        let last = if last < first { first } else { last };
        AsidPool { cpu, first, last, next: None, generation: 0 }
    }

    /// Gives the vCPU that owns `tag` an identifier that no other vCPU has on this processor, and
    /// under which this TLB holds nothing but what that vCPU put there.
    pub(crate) fn assign(&mut self, tag: &mut AsidTag) -> Assigned {
        if let Some(held) = tag.0.filter(|h| h.cpu == self.cpu && h.generation == self.generation) {
            return Assigned { asid: held.asid, is_new: false, flush_all: false };
        }
        let free = self.next.filter(|&n| n <= self.last);
        if free.is_none() {
            self.generation = self.generation.wrapping_add(1);
        }
        let asid = free.unwrap_or(self.first);
        self.next = asid.checked_add(1);
        *tag = AsidTag(Some(Held { cpu: self.cpu, generation: self.generation, asid }));
        Assigned { asid, is_new: true, flush_all: free.is_none() }
    }

    /// Makes all identifiers stale, and the next assignment ask for a flush: to be called when
    /// somebody else may have used them on this processor, or to flush every guest.
    pub(crate) fn invalidate_all(&mut self) {
        self.next = None;
        self.generation = self.generation.wrapping_add(1);
    }
}
