// SPDX-License-Identifier: GPL-2.0

//! Rings of dirty pages: where a VMM asks for them, each vCPU shows it a ring of the pages that were written, in place of
//! bitmaps that it fetches.
//!
//! Documentation of KVM's API, "KVM_CAP_DIRTY_LOG_RING". A page in a ring is marked in its slot's log
//! ([`crate::mmu::dirty`]), so that it comes once. The VMM harvests entries and says so in them; `KVM_RESET_DIRTY_RINGS`
//! then takes the marks, and the right to write, of their pages.
//!
//! What a vCPU's own thread marks comes to its ring, and what others mark to any that has room. From its soft limit on, a
//! vCPU leaves for user space before it enters the guest again; the entries behind the limit are for what has begun
//! before.

use super::mailbox::{VcpuMailbox, VcpuRequests};
use crate::arch::addr::PAGE_SIZE;
use crate::host::page::SharedPage;
use crate::host::rcu::RcuBox;
use core::sync::atomic::{fence, AtomicI32, Ordering::*};
use kernel::pr_warn_once;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLock};

/// Bytes of an entry, `struct kvm_dirty_gfn`: flags and slot, four bytes each, then the page's number in the slot.
const ENTRY: u32 = 16;
/// The module has put the entry there.
const DIRTY: u32 = 1 << 0;
/// User space has taken note of it.
const HARVESTED: u32 = 1 << 1;
/// The entries behind the soft limit: more than an instruction, an event and the vCPU's own structures can mark.
const RESERVED: u32 = 64;

/// The most bytes of a ring.
pub(crate) const MAX_BYTES: u32 = 65536 * ENTRY;

/// What all rings of a VM have in common.
pub(crate) struct DirtyRings {
    bytes: u32,
    rings: RcuBox<KVec<Arc<DirtyRing>>>,
}

impl DirtyRings {
    /// No ring yet; each will have so many bytes, a power of two from a page to [`MAX_BYTES`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(bytes: u32) -> Result<DirtyRings> {
        Ok(DirtyRings { bytes, rings: RcuBox::new(KVec::new())? })
    }

    /// Makes the ring of the vCPU of a mailbox, which is not among the VM's before [`DirtyRings::add`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn make(&self, mailbox: &Arc<VcpuMailbox>) -> Result<Arc<DirtyRing>> {
        let count = usize::try_from(u64::from(self.bytes) / PAGE_SIZE)?;
        let mut pages = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            pages.push_within_capacity(SharedPage::new()?)?;
        }
        Arc::pin_init(
            pin_init!(DirtyRing {
                mailbox: mailbox.clone(),
                runner: AtomicI32::new(0),
                pages,
                entries: self.bytes / ENTRY,
                ends <- kernel::new_spinlock!(RingEnds { dirty: 0, reset: 0 }),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Adds a ring. Only one thread at a time does; sleeps.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn add(&self, ring: Arc<DirtyRing>) -> Result {
        let count = self.rings.read(|rings| rings.len());
        let mut all = KVec::with_capacity(count.saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        self.rings.read(|rings| rings.iter().try_for_each(|ring| all.push_within_capacity(ring.clone())))?;
        all.push_within_capacity(ring)?;
        self.rings.replace(all)
    }

    /// Returns a ring by its place among those that were added.
    pub(crate) fn get(&self, index: usize) -> Option<Arc<DirtyRing>> {
        self.rings.read(|rings| rings.get(index).cloned())
    }

    /// A page of a slot was marked that was not. Does not sleep.
    #[cold]
    pub(crate) fn note(&self, slot: u16, page: u64) {
        let thread = kernel::current!().pid();
        let is_told = self.rings.read(|rings| {
            let own = rings.iter().find(|ring| ring.runner.load(Relaxed) == thread);
            own.is_some_and(|ring| ring.push(slot, page)) || rings.iter().any(|ring| ring.push(slot, page))
        });
        if !is_told {
            // Nobody runs who could mark so much, and no device of the module's is in such a machine.
            pr_warn_once!("a page was written that no ring of dirty pages had room for\n");
        }
    }
}

/// How far a ring is used. Both count on without end.
struct RingEnds {
    /// Entries that were put in.
    dirty: u32,
    /// Those of them that user space has harvested and that were reset.
    reset: u32,
}

/// The ring of a vCPU.
#[pin_data]
pub(crate) struct DirtyRing {
    mailbox: Arc<VcpuMailbox>,
    /// The thread in KVM_RUN, or 0.
    runner: AtomicI32,
    pages: KVec<SharedPage>,
    entries: u32,
    #[pin]
    ends: SpinLock<RingEnds>,
}

/// An entry that user space has taken note of. Both are what it says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HarvestedPage {
    /// The slot, and in its upper half the address space.
    pub(crate) slot: u32,
    /// The page in it.
    pub(crate) page: u64,
}

impl DirtyRing {
    /// Returns the pages that user space maps.
    pub(crate) fn pages(&self) -> &[SharedPage] {
        &self.pages
    }

    /// Returns how many entries it has room for.
    pub(crate) fn room(&self) -> u32 {
        self.entries
    }

    /// The calling thread begins to run the vCPU.
    pub(crate) fn begin_run(&self) {
        self.runner.store(kernel::current!().pid(), Relaxed);
    }

    /// It has ended to.
    pub(crate) fn end_run(&self) {
        self.runner.store(0, Relaxed);
    }

    /// Returns whether user space must harvest before the vCPU runs on.
    pub(crate) fn is_full(&self) -> bool {
        let ends = self.ends.lock();
        ends.dirty.wrapping_sub(ends.reset) >= self.limit()
    }

    fn limit(&self) -> u32 {
        self.entries.saturating_sub(RESERVED)
    }

    /// Puts a page in. Returns whether there was room.
    fn push(&self, slot: u16, page: u64) -> bool {
        let mut ends = self.ends.lock();
        let used = ends.dirty.wrapping_sub(ends.reset);
        let Some((at, offset)) = self.place(ends.dirty).filter(|_| used < self.entries) else { return false };
        at.write(offset.saturating_add(8), &page.to_le_bytes());
        // Who sees the flag sees the page.
        fence(Release);
        at.write(offset, &(u64::from(slot) << 32 | u64::from(DIRTY)).to_le_bytes());
        ends.dirty = ends.dirty.wrapping_add(1);
        drop(ends);
        if used.saturating_add(1) >= self.limit() {
            self.mailbox.request(VcpuRequests::DIRTY_RING);
        }
        true
    }

    /// Takes out the first entry, if user space has harvested it.
    pub(crate) fn take_harvested(&self) -> Option<HarvestedPage> {
        let mut ends = self.ends.lock();
        let (at, offset) = self.place(ends.reset).filter(|_| ends.reset != ends.dirty)?;
        let word = at.word(offset);
        if word as u32 & HARVESTED == 0 {
            return None;
        }
        // What user space did before it set the flag is seen.
        fence(Acquire);
        let page = at.word(offset.saturating_add(8));
        fence(Release);
        at.write(offset, &(word & !u64::from(u32::MAX)).to_le_bytes());
        ends.reset = ends.reset.wrapping_add(1);
        Some(HarvestedPage { slot: (word >> 32) as u32, page })
    }

    /// Returns where the entry with this running number is.
    fn place(&self, number: u32) -> Option<(&SharedPage, usize)> {
        let at = u64::from(number % self.entries.max(1)).wrapping_mul(ENTRY.into());
        let page = self.pages.get(usize::try_from(at / PAGE_SIZE).ok()?)?;
        Some((page, usize::try_from(at % PAGE_SIZE).ok()?))
    }
}
