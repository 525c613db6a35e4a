// SPDX-License-Identifier: GPL-2.0

//! Where shadow pages live: a fixed number of places.
//!
//! Whoever follows a handle asks the arena, which knows whether that page has gone and another come. So a link to a page
//! that is gone leads nowhere, whatever became of its place.

use super::chain::{ChainLink, ChainLinks, IdList};
use super::entry::{EntryNode, EntryTarget};
use super::handle::{PageHandle, MAX_PAGES};
use super::page::ShadowPage;
use crate::mmu::format::ENTRIES;
use kernel::prelude::*;

/// The lists that a page is in.
#[derive(Clone, Copy, Debug)]
pub(super) enum PageList {
    /// Of pages whose frames have the same hash.
    Frame = 0,
    /// Of pages that follow tables, whose 2 MiB of guest memory have the same hash.
    Region = 1,
    /// By their last use; of free places, of those.
    Age = 2,
    /// Of pages that are brought up to date when the guest flushes.
    Refresh = 3,
}

const LISTS: usize = 4;

/// The nodes beside the entries of one page.
pub(crate) type EntryNodes = KVVec<EntryNode>;

struct PagePlace {
    generation: u64,
    page: Option<ShadowPage>,
    /// Of all entries; none before the first page here. They stay.
    nodes: EntryNodes,
    links: [ChainLink; LISTS],
}

/// How many pages' nodes are kept ready.
const SPARE: usize = 8;

/// All shadow pages of a VM.
pub(super) struct PageArena {
    places: KVVec<PagePlace>,
    free: IdList,
    /// Nodes for places that have none yet.
    spare: KVec<EntryNodes>,
}

impl PageArena {
    /// Places for `budget` pages.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(budget: usize) -> Result<PageArena> {
        let budget = budget.min(MAX_PAGES);
        let mut places = KVVec::with_capacity(budget, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..budget {
            let links = [ChainLink::NONE; LISTS];
            places.push_within_capacity(PagePlace {
                generation: 0,
                page: None,
                nodes: KVVec::new(),
                links,
            })?;
        }
        let spare = KVec::with_capacity(SPARE, GFP_KERNEL_ACCOUNT)?;
        let mut arena = PageArena { places, free: IdList::EMPTY, spare };
        for index in (0..budget).rev() {
            arena.free.push(&mut PageLinks { places: &mut arena.places, list: PageList::Age }, index as u32);
        }
        Ok(arena)
    }

    /// Makes the nodes of a page; may sleep.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new_nodes() -> Result<EntryNodes> {
        let mut nodes = KVVec::with_capacity(ENTRIES, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..ENTRIES {
            nodes.push_within_capacity(EntryNode::EMPTY)?;
        }
        Ok(nodes)
    }

    /// Returns how many pages' nodes are missing in the store.
    pub(super) fn missing_nodes(&self) -> usize {
        SPARE.saturating_sub(self.spare.len())
    }

    /// Puts nodes into the store. Returns them where it is full.
    pub(super) fn donate_nodes(&mut self, nodes: EntryNodes) -> Option<EntryNodes> {
        self.spare.push_within_capacity(nodes).err().map(|e| e.0)
    }

    /// Returns how many places there are.
    pub(super) fn capacity(&self) -> usize {
        self.places.len()
    }

    /// Returns how many places are free.
    pub(super) fn free(&self) -> u32 {
        self.free.len()
    }

    /// Puts a page into a free place. `None`: there is none, or it has no nodes and the store is empty.
    pub(super) fn insert(&mut self, page: ShadowPage) -> Option<PageHandle> {
        let index = self.free.first()?;
        let place = self.places.get_mut(index as usize)?;
        if place.nodes.is_empty() {
            place.nodes = self.spare.pop()?;
        }
        place.page = Some(page);
        let generation = place.generation;
        self.free.remove(&mut PageLinks { places: &mut self.places, list: PageList::Age }, index);
        Some(PageHandle::new(index, generation))
    }

    /// Takes a page out, whose entries lead nowhere and which is in no list. Every handle to it is void from now on.
    pub(super) fn remove(&mut self, handle: PageHandle) -> Option<ShadowPage> {
        let place = self.places.get_mut(handle.index() as usize)?;
        if place.generation != handle.generation() {
            return None;
        }
        let page = place.page.take()?;
        place.generation = place.generation.wrapping_add(1) & PageHandle::GENERATIONS;
        // In front, so that places with nodes are used first.
        self.free.push(&mut PageLinks { places: &mut self.places, list: PageList::Age }, handle.index());
        Some(page)
    }

    fn place(&self, handle: PageHandle) -> Option<&PagePlace> {
        self.places.get(handle.index() as usize).filter(|p| p.generation == handle.generation())
    }

    /// Returns the page that a handle names, if it is still there.
    pub(super) fn get(&self, handle: PageHandle) -> Option<&ShadowPage> {
        self.place(handle)?.page.as_ref()
    }

    /// The same to change.
    pub(super) fn get_mut(&mut self, handle: PageHandle) -> Option<&mut ShadowPage> {
        let place = self.places.get_mut(handle.index() as usize)?;
        place.page.as_mut().filter(|_| place.generation == handle.generation())
    }

    /// Returns the handle of what is in place `index`.
    pub(super) fn handle(&self, index: u32) -> Option<PageHandle> {
        let place = self.places.get(index as usize)?;
        place.page.as_ref().map(|_| PageHandle::new(index, place.generation))
    }

    /// Returns what an entry leads to.
    pub(super) fn target(&self, handle: PageHandle, entry: usize) -> EntryTarget {
        let node = self.place(handle).and_then(|p| p.nodes.get(entry));
        node.map_or(EntryTarget::Nothing, EntryNode::target)
    }

    /// Sets what an entry leads to, and counts it.
    pub(super) fn set_target(&mut self, handle: PageHandle, entry: usize, target: EntryTarget) {
        let Some(place) = self.places.get_mut(handle.index() as usize) else { return };
        let (Some(page), Some(node)) = (place.page.as_mut(), place.nodes.get_mut(entry)) else { return };
        let (was, is) = (node.target() != EntryTarget::Nothing, target != EntryTarget::Nothing);
        page.filled = page.filled.wrapping_add(u32::from(is)).wrapping_sub(u32::from(was));
        node.set_target(target);
    }

    /// Returns whose entry number `id` is, and which.
    pub(super) fn owner(&self, id: u32) -> Option<(PageHandle, usize)> {
        let entry = (id % ENTRIES as u32) as usize;
        self.handle(id / ENTRIES as u32).map(|handle| (handle, entry))
    }

    /// Returns the links of a list of pages.
    pub(super) fn pages(&mut self, list: PageList) -> PageLinks<'_> {
        PageLinks { places: &mut self.places, list }
    }

    /// Returns the links between entries.
    pub(super) fn entries(&mut self) -> EntryLinks<'_> {
        EntryLinks { places: &mut self.places }
    }
}

/// See [`PageArena::pages`].
pub(super) struct PageLinks<'a> {
    places: &'a mut [PagePlace],
    list: PageList,
}

impl ChainLinks for PageLinks<'_> {
    fn link(&mut self, id: u32) -> Option<&mut ChainLink> {
        self.places.get_mut(id as usize)?.links.get_mut(self.list as usize)
    }
}

/// See [`PageArena::entries`].
pub(super) struct EntryLinks<'a> {
    places: &'a mut [PagePlace],
}

impl ChainLinks for EntryLinks<'_> {
    fn link(&mut self, id: u32) -> Option<&mut ChainLink> {
        let place = self.places.get_mut((id / ENTRIES as u32) as usize)?;
        Some(&mut place.nodes.get_mut((id % ENTRIES as u32) as usize)?.link)
    }
}
