// SPDX-License-Identifier: GPL-2.0

//! Shadow paging: tables from guest linear to host physical addresses, which a processor without nested paging walks in
//! the place of its guest's own.
//!
//! ```text
//! guest's tables (in its memory)             shadow pages (the processor's)
//!   CR3 ─> L4 ─> L3 ─> L2 ─> L1 ─> page        root ─> page ─> page ─> page ─> page ─> host's page
//!          each table, in the role that it is used in, is followed by a page
//! ```
//!
//! Entries are filled in by page faults and emptied by what changes the guest's tables, the host's pages or the memory
//! slots. A shadow page is a cache: taking it away costs faults, no more.
//!
//! | file | holds |
//! |---|---|
//! | [`role`] | what a page stands for |
//! | [`entry`] | what the processor reads, and what is kept beside it |
//! | [`page`], [`handle`], [`arena`] | pages, their names, where they live |
//! | [`chain`], [`index`] | lists, and lists by guest frame |
//! | [`tree`] | making, linking and taking apart |
//! | [`root`] | what a vCPU's CR3 comes to |
//! | [`map`] | a page fault that the guest's tables allow |
//! | [`sync`] | writes to the guest's tables, and its flushes |
//! | [`range`] | what the host, the slots and dirty logs take |
//! | [`check`] | what holds between calls |
//!
//! What keeps it sound:
//!
//! - A page is found by frame and role, each compared as a whole ([`role`]); a link is followed or kept only where both are
//!   what the guest's entry says now.
//! - A link names its page by a handle with a generation ([`arena`]).
//! - A table is freed by [`FlushNeeded::release`] alone, after the flush that taking its page apart asked for.
//! - A guest's table is followed only once no processor can write it without an exit, or else its page is brought up to date
//!   whenever the guest flushes ([`sync`]).
//! - What a processor may still use of entries that were dropped is remembered in one bit, and whoever must know that
//!   nobody uses a page any more asks for a flush where it is set.
//!
//! What it costs a host: at most `budget` pages, of 4 KiB and 8 KiB beside; where they do not suffice, those that were not
//! used for longest go. Each call does a bounded amount of work, whatever the guest has built: lists that are walked have
//! [`MAX_CHAIN`](chain::MAX_CHAIN) members at the most.
//!
//! The MMU lock of the VM guards it all; nothing here sleeps. Whoever calls makes flushes happen as for the direct table:
//! see [`ShadowWork`].
//!
//! DEVIATION: Writes to the guest's tables by devices and by user space are seen only by pages that are out of sync, as
//! on KVM.

mod arena;
mod chain;
mod check;
mod entry;
mod handle;
mod index;
mod map;
mod page;
mod range;
mod role;
mod root;
mod sync;
mod tree;

pub(crate) use arena::EntryNodes;
pub(crate) use map::{ShadowFault, ShadowFrame};
pub(crate) use range::{RangeLoss, ShadowRanges};
pub(crate) use root::ShadowRoot;

use super::table::{FlushNeeded, TableMem};
use super::tlb::TlbFlushes;
use crate::arch::addr::Gpa;
use arena::PageArena;
use chain::IdList;
use handle::MAX_PAGES;
use index::HashedChains;
use kernel::prelude::*;

/// The fewest pages that a VM can do with: a root, the way to a page, and some more for what an instruction touches.
const MIN_BUDGET: usize = 32;
/// Lists of leaves for each page.
const LEAF_LISTS: usize = 16;

/// Why a fault is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShadowStop {
    /// Something has changed meanwhile: let the guest run on, and it comes back.
    Again,
    /// The root is not the guest's any more, or a page of it has gone: load it anew.
    Reload,
    /// Tables or nodes must be donated first.
    NeedPages,
    /// A flush that was asked for must be done first.
    NeedFlush,
    /// A table of the guest's must be made resident first.
    FaultIn(Gpa),
    /// The access can only be carried out in software: it writes a table that is followed, or the processor would not ask
    /// for all that the guest's access depends on.
    Emulate,
}

/// One call's work under the lock: the tables' memory, and the flush that it comes to.
///
/// The caller ends each with [`ShadowWork::end`], still under the lock, and does with the [`FlushNeeded`] as with the
/// direct table's: nobody who must know that a page is not used any more goes on, and nothing is freed, before every
/// processor that was in guest mode has left it. Only holders of the lock ask for flushes.
pub(crate) struct ShadowWork<'a, M: TableMem> {
    mem: &'a mut M,
    flushes: &'a TlbFlushes,
    flush: FlushNeeded,
}

impl<'a, M: TableMem> ShadowWork<'a, M> {
    /// Begins.
    pub(crate) fn new(mem: &'a mut M, flushes: &'a TlbFlushes) -> Self {
        ShadowWork { mem, flushes, flush: FlushNeeded::default() }
    }

    /// Asks for a flush at the end of the work. Returns its generation.
    fn flush_after(&mut self) -> u64 {
        self.flush.need();
        self.flushes.requested().wrapping_add(1)
    }

    /// Ends. The flush has been asked for where one is needed.
    pub(crate) fn end(self, mmu: &mut ShadowMmu) -> FlushNeeded {
        if self.flush.is_needed() {
            // Last, for a processor that flushes now must not find what this work has taken out.
            self.flushes.request();
            mmu.is_stale = false;
        }
        self.flush
    }
}

/// The shadow pages of a VM.
///
/// # Invariants
/// See [`check`].
pub(crate) struct ShadowMmu {
    arena: PageArena,
    /// Pages by their frame.
    frames: HashedChains,
    /// Pages that follow tables, by their 2 MiB of guest memory.
    regions: HashedChains,
    /// Leaves by the frame that they map.
    leaves: HashedChains,
    /// All pages, the one that was used last in front.
    ages: IdList,
    /// The pages that are brought up to date when the guest flushes.
    refreshed: IdList,
    /// A processor may use a translation that was dropped since the last flush that was asked for.
    is_stale: bool,
    /// Only pages of 4 KiB may be executable.
    small_code: bool,
}

impl ShadowMmu {
    /// Room for `budget` pages; more than [`MIN_BUDGET`], fewer than 4 million. `small_code`: only pages of 4 KiB may be
    /// executable.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(budget: usize, small_code: bool) -> Result<ShadowMmu> {
        let budget = budget.clamp(MIN_BUDGET, MAX_PAGES);
        Ok(ShadowMmu {
            arena: PageArena::new(budget)?,
            frames: HashedChains::new(budget)?,
            regions: HashedChains::new(budget)?,
            leaves: HashedChains::new(budget.saturating_mul(LEAF_LISTS))?,
            ages: IdList::EMPTY,
            refreshed: IdList::EMPTY,
            is_stale: false,
            small_code,
        })
    }

    /// Makes what [`ShadowMmu::donate_nodes`] takes; may sleep.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new_nodes() -> Result<EntryNodes> {
        PageArena::new_nodes()
    }

    /// Returns how many nodes can be donated.
    pub(crate) fn missing_nodes(&self) -> usize {
        self.arena.missing_nodes()
    }

    /// Takes nodes for a page to come. Returns them where there is no room.
    pub(crate) fn donate_nodes(&mut self, nodes: EntryNodes) -> Option<EntryNodes> {
        self.arena.donate_nodes(nodes)
    }

    /// Frees all tables; no processor may be using any.
    pub(crate) fn teardown(self, mem: &mut impl TableMem) {
        let mut next = self.ages.first();
        let mut arena = self.arena;
        while let Some(index) = next {
            next = IdList::next(&mut arena.pages(arena::PageList::Age), index);
            if let Some(page) = arena.handle(index).and_then(|handle| arena.get(handle)) {
                mem.free(page.table);
            }
        }
    }
}
