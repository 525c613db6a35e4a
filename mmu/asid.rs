// SPDX-License-Identifier: GPL-2.0

//! Address space identifiers: ASIDs (AMD) and VPIDs (Intel), one pool for each processor.
//!
//! APM, "Address Space Identifier (ASID)"; SDM, "Virtual-Processor Identifiers (VPIDs)".
//!
//! A vCPU keeps its identifier for as long as it stays on a processor and the pool's generation
//! lasts. When a pool runs out, a new generation starts: the processor's whole TLB is flushed once,
//! and every tag of the old generation is stale. Nothing is ever given back, so no lock is shared
//! between processors: a pool is used by its own processor only, with interrupts off.
//!
//! On AMD another hypervisor (a loaded KVM) hands out the same identifiers, and nothing else tells its
//! translations from ours. [`WindowAsids`] is how a window keeps them apart:
//!
//! | the other one | a window uses | and flushes |
//! |---|---|---|
//! | was not here since the last window | the pool's | what the pool says |
//! | was here, and has gone | the pool's | everything first: anybody's may be there |
//! | is here | the last one | that one first, and again when it closes |
//!
//! One that comes flushes everything before its first guest, so what older windows left is gone then; KVM's
//! generations start so when it switches a processor on.

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
pub(crate) struct AsidTag(Option<HeldAsid>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeldAsid {
    cpu: u32,
    generation: u64,
    asid: u32,
}

/// What to enter the guest with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AssignedAsid {
    /// The identifier.
    pub(crate) asid: u32,
    /// It is not the one that the vCPU had; nothing in this TLB is tagged with it.
    pub(crate) is_new: bool,
    /// Flush the entries of all identifiers on this processor before the entry.
    pub(crate) flush_all: bool,
}

/// What to flush before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AsidFlush {
    /// Nothing.
    Nothing,
    /// The entries of the identifier that the entry is made with.
    One,
    /// The entries of all identifiers on the processor.
    All,
}

/// What another hypervisor has to do with a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsidNeighbour {
    /// It was not here since this module's last window.
    Absent,
    /// It may have been, and is not any more.
    Gone,
    /// It is.
    Here,
}

impl AsidNeighbour {
    /// Tells from EFER.SVME and VM_HSAVE_PA, as a window finds them, and from the address `ours` that each window
    /// without a neighbour leaves in the latter. Nobody runs a guest without a save area of his own there.
    pub(crate) fn of(svme: bool, hsave: u64, ours: u64) -> AsidNeighbour {
        match svme {
            true => AsidNeighbour::Here,
            false if hsave == ours => AsidNeighbour::Absent,
            false => AsidNeighbour::Gone,
        }
    }
}

/// The identifiers in one window on an AMD processor.
#[derive(Debug)]
pub(crate) struct WindowAsids {
    /// The neighbour is here.
    is_shared: bool,
    /// The coming entry flushes the identifier that is shared.
    must_flush: bool,
    /// An entry was made with it.
    is_used: bool,
}

impl WindowAsids {
    /// Opens a window. `pool` is that of the processor, here and below.
    pub(crate) fn open(pool: &mut AsidPool, neighbour: AsidNeighbour) -> WindowAsids {
        if neighbour != AsidNeighbour::Absent {
            pool.invalidate_all();
        }
        let is_shared = neighbour == AsidNeighbour::Here;
        WindowAsids { is_shared, must_flush: is_shared, is_used: false }
    }

    /// Returns the identifier for the vCPU that owns `tag`, and what its next entry must flush.
    pub(crate) fn assign(&mut self, pool: &mut AsidPool, tag: &mut AsidTag) -> (u32, AsidFlush) {
        if self.is_shared {
            self.is_used = true;
            let must_flush = core::mem::take(&mut self.must_flush);
            return (pool.last, if must_flush { AsidFlush::One } else { AsidFlush::Nothing });
        }
        let assigned = pool.assign(tag);
        (assigned.asid, if assigned.flush_all { AsidFlush::All } else { AsidFlush::Nothing })
    }

    /// The processor refused an entry, and may not have flushed for it.
    pub(crate) fn note_refused(&mut self, pool: &mut AsidPool) {
        self.must_flush = self.is_shared;
        pool.invalidate_all();
    }

    /// Returns the identifier that must be flushed before anybody else may run a guest: when the window closes.
    pub(crate) fn left_behind(&self, pool: &AsidPool) -> Option<u32> {
        self.is_used.then_some(pool.last)
    }
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
    pub(crate) fn assign(&mut self, tag: &mut AsidTag) -> AssignedAsid {
        if let Some(held) = tag.0.filter(|h| h.cpu == self.cpu && h.generation == self.generation) {
            return AssignedAsid { asid: held.asid, is_new: false, flush_all: false };
        }
        let free = self.next.filter(|&n| n <= self.last);
        if free.is_none() {
            // It does not come round in 64 bits, so no old tag becomes valid again.
            self.generation = self.generation.wrapping_add(1);
        }
        let asid = free.unwrap_or(self.first);
        self.next = asid.checked_add(1);
        *tag = AsidTag(Some(HeldAsid { cpu: self.cpu, generation: self.generation, asid }));
        AssignedAsid { asid, is_new: true, flush_all: free.is_none() }
    }

    /// Makes all identifiers stale, and the next assignment ask for a flush: to be called when
    /// somebody else may have used them on this processor, or to flush every guest.
    pub(crate) fn invalidate_all(&mut self) {
        self.next = None;
        self.generation = self.generation.wrapping_add(1);
    }
}
