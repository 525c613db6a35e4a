// SPDX-License-Identifier: GPL-2.0

//! Lists of things that are numbered, whose links lie in the things: no memory, and no step that grows with the length.
//!
//! Whoever adds to a list that a guest can make long takes the last one out where [`IdList::is_full`], so that a walk
//! along any of them is bounded.

/// No number.
const NONE: u32 = u32::MAX;

/// The most members of a list that is walked along with the lock held.
pub(super) const MAX_CHAIN: u32 = 1024;

/// A member's neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainLink {
    next: u32,
    prev: u32,
}

impl ChainLink {
    /// In no list.
    pub(super) const NONE: ChainLink = ChainLink { next: NONE, prev: NONE };
}

/// Where the links of members are.
pub(super) trait ChainLinks {
    /// Returns the link of member `id`, which exists.
    fn link(&mut self, id: u32) -> Option<&mut ChainLink>;
}

/// A list.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdList {
    first: u32,
    last: u32,
    len: u32,
}

impl IdList {
    /// Nothing in it.
    pub(super) const EMPTY: IdList = IdList { first: NONE, last: NONE, len: 0 };

    /// Returns the member that was added last.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// Returns the member that was added first.
    pub(super) fn last(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    /// Returns how many members there are.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Returns whether a member must go before another comes.
    pub(super) fn is_full(&self) -> bool {
        self.len >= MAX_CHAIN
    }

    /// Returns the member after `id`.
    pub(super) fn next(links: &mut impl ChainLinks, id: u32) -> Option<u32> {
        links.link(id).map(|l| l.next).filter(|&next| next != NONE)
    }

    /// Returns the member before `id`.
    pub(super) fn prev(links: &mut impl ChainLinks, id: u32) -> Option<u32> {
        links.link(id).map(|l| l.prev).filter(|&prev| prev != NONE)
    }

    /// Adds `id`, which is in no list of these links, at the front.
    pub(super) fn push(&mut self, links: &mut impl ChainLinks, id: u32) {
        if let Some(link) = links.link(id) {
            *link = ChainLink { next: self.first, prev: NONE };
        }
        match links.link(self.first) {
            Some(first) => first.prev = id,
            None => self.last = id,
        }
        self.first = id;
        self.len = self.len.saturating_add(1);
    }

    /// Takes out `id`, which is in this list.
    pub(super) fn remove(&mut self, links: &mut impl ChainLinks, id: u32) {
        let Some(link) = links.link(id) else { return };
        let ChainLink { next, prev } = core::mem::replace(link, ChainLink::NONE);
        match links.link(prev) {
            Some(before) => before.next = next,
            None => self.first = next,
        }
        match links.link(next) {
            Some(after) => after.prev = prev,
            None => self.last = prev,
        }
        self.len = self.len.saturating_sub(1);
    }
}
