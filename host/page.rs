// SPDX-License-Identifier: GPL-2.0

//! Owned pages of the host.

use super::ffi;
use crate::arch::addr::{Hpa, PAGE_SIZE};
use crate::mmu::table::TableMem;
use core::ffi::c_void;
use core::ptr::NonNull;
use kernel::prelude::*;

/// 2^`order` contiguous zeroed pages, freed on drop.
///
/// # Invariants
/// `va` is the kernel address of `PAGE_SIZE << order` bytes that this value owns.
pub(crate) struct KernelPages {
    va: NonNull<u8>,
    order: u32,
}

// SAFETY: The pages are plain memory without a tie to a thread.
unsafe impl Send for KernelPages {}
// SAFETY: Shared access only reads, or goes through volatile accesses of single words.
unsafe impl Sync for KernelPages {}

impl KernelPages {
    /// Allocates; may sleep. Charged to the caller's memory cgroup.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(order: u32) -> Result<KernelPages> {
        // SAFETY: No precondition.
        let va = unsafe { ffi::rvmm_pages_alloc(order, false) };
        // INVARIANT: A non-null answer owns the pages asked for.
        Ok(KernelPages { va: NonNull::new(va.cast()).ok_or(ENOMEM)?, order })
    }

    /// Allocates one page that the processor keeps a guest's or the host's state in; as [`KernelPages::new`].
    ///
    /// It is not at a 2 MiB boundary: with SEV-SNP switched on in the host, processors take a large page that
    /// somebody else touches there for one that belongs to a guest, and fault. Linux has it from AMD
    /// (`snp_safe_alloc_page_node()`).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn for_processor() -> Result<KernelPages> {
        let page = KernelPages::new(0)?;
        if !page.hpa().is_at_2m_boundary() {
            return Ok(page);
        }
        // The second of two neighbours never is.
        let pair = KernelPages::new(1)?;
        // SAFETY: The value owns an allocation of that order, and is forgotten.
        let second = unsafe { ffi::rvmm_pages_split(pair.va.as_ptr().cast()) };
        core::mem::forget(pair);
        // INVARIANT: `rvmm_pages_split()` frees the first page and gives the second one away.
        Ok(KernelPages { va: NonNull::new(second.cast()).ok_or(ENOMEM)?, order: 0 })
    }

    /// Allocates one page below 4 GiB, as [`KernelPages::new`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn low() -> Result<KernelPages> {
        // SAFETY: No precondition.
        let va = unsafe { ffi::rvmm_page_alloc_low() };
        // INVARIANT: A non-null answer owns the page.
        Ok(KernelPages { va: NonNull::new(va.cast()).ok_or(ENOMEM)?, order: 0 })
    }

    /// Returns the size in bytes.
    pub(crate) fn len(&self) -> usize {
        (PAGE_SIZE as usize).wrapping_shl(self.order)
    }

    /// Returns the physical address of the first byte.
    pub(crate) fn hpa(&self) -> Hpa {
        // SAFETY: `va` is an address in the direct map (type invariant).
        Hpa(unsafe { ffi::rvmm_va_to_hpa(self.va.as_ptr().cast()) })
    }

    /// Returns the bytes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: Owned memory of that size, and `self` is borrowed for as long.
        unsafe { core::slice::from_raw_parts_mut(self.va.as_ptr(), self.len()) }
    }

    /// Returns the start of the pages, for the folders that hand pages to the processor.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        self.va
    }

    /// Maps the first page into a process at `offset` from the start of `vma`.
    ///
    /// # Errors
    /// Those of `vm_insert_page()`.
    pub(super) fn insert_into(&self, vma: &kernel::mm::virt::VmaNew, offset: u64) -> Result {
        // SAFETY: `vma` is valid during `mmap()`; the page holds a reference of its own in the mapping.
        kernel::error::to_result(unsafe {
            ffi::rvmm_vma_insert(vma.as_ptr().cast(), offset, self.va.as_ptr().cast())
        })
    }
}

impl Drop for KernelPages {
    fn drop(&mut self) {
        // SAFETY: The pages are owned (type invariant) and nobody can use them after this.
        unsafe { ffi::rvmm_pages_free(self.va.as_ptr().cast(), self.order) }
    }
}

/// Returns which page of its file an area of a process begins with.
pub(crate) fn first_page(vma: &kernel::mm::virt::VmaNew) -> usize {
    // SAFETY: The area is being set up by the calling thread, and this is a field of it.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// A page that is also mapped into a process, so that its bytes change at any time.
pub(crate) struct SharedPage(KernelPages);

impl SharedPage {
    /// Allocates; may sleep.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<SharedPage> {
        Ok(SharedPage(KernelPages::new(0)?))
    }

    /// Copies bytes out; what lies beyond the page reads as zero.
    pub(crate) fn read(&self, offset: usize, buf: &mut [u8]) {
        for (i, b) in buf.iter_mut().enumerate() {
            let at = offset.saturating_add(i);
            *b = if at < self.0.len() {
                // SAFETY: Within the owned page; volatile, since the process may write meanwhile.
                unsafe { self.0.va.as_ptr().add(at).read_volatile() }
            } else {
                0
            };
        }
    }

    /// Copies eight bytes out at once, as a number; 0 where they are not aligned or do not lie in the page.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> u64 {
        if at & 7 != 0 || at >= self.0.len() {
            return 0;
        }
        // SAFETY: Within the owned page, whose length is one of whole words, and aligned as the page is; volatile, since
        // the process may write meanwhile.
        unsafe { self.0.va.as_ptr().add(at).cast::<u64>().read_volatile() }
    }

    /// Copies bytes in; what lies beyond the page is dropped.
    pub(crate) fn write(&self, offset: usize, buf: &[u8]) {
        let mut at = offset;
        let mut rest = buf;
        while let Some((word, later)) = rest.split_first_chunk::<8>() {
            if !self.write_word(at, *word) {
                break;
            }
            (at, rest) = (at.saturating_add(8), later);
        }
        for byte in rest {
            if at < self.0.len() {
                // SAFETY: Within the owned page; volatile, since the process may read meanwhile.
                unsafe { self.0.va.as_ptr().add(at).write_volatile(*byte) }
            }
            at = at.saturating_add(1);
        }
    }

    /// Copies eight bytes in at once. Returns whether they are aligned and lie in the page.
    fn write_word(&self, at: usize, word: [u8; 8]) -> bool {
        let fits = at & 7 == 0 && at < self.0.len();
        if fits {
            // SAFETY: Within the owned page, whose length is one of whole words, and aligned as the page is;
            // volatile, since the process may read meanwhile.
            unsafe { self.0.va.as_ptr().add(at).cast::<u64>().write_volatile(u64::from_ne_bytes(word)) }
        }
        fits
    }

    /// Maps the page into a process; see [`KernelPages::insert_into`].
    ///
    /// # Errors
    /// Those of `vm_insert_page()`.
    pub(crate) fn map(&self, vma: &kernel::mm::virt::VmaNew, offset: u64) -> Result {
        self.0.insert_into(vma, offset)
    }
}

/// How many pages the pool is filled up to: more than any one fault can use, and few, for an idle VM has them, too.
const POOL: usize = 8;

/// A chain of zeroed single pages, linked outside the pages themselves so that they stay zero.
struct PageChain {
    head: *mut c_void,
    len: usize,
}

// SAFETY: The chain owns its pages.
unsafe impl Send for PageChain {}

impl PageChain {
    const fn new() -> PageChain {
        PageChain { head: core::ptr::null_mut(), len: 0 }
    }

    fn push(&mut self, va: *mut c_void) {
        // SAFETY: `va` is a page owned by the caller, who gives it away.
        unsafe { ffi::rvmm_page_set_next(va, self.head) };
        self.head = va;
        self.len = self.len.saturating_add(1);
    }

    fn pop(&mut self) -> Option<*mut c_void> {
        if self.head.is_null() {
            return None;
        }
        let va = self.head;
        // SAFETY: `va` is in the chain, so its link was set by `push()`.
        self.head = unsafe { ffi::rvmm_page_next(va) };
        self.len = self.len.saturating_sub(1);
        Some(va)
    }
}

impl Drop for PageChain {
    fn drop(&mut self) {
        while let Some(va) = self.pop() {
            // SAFETY: The chain owned the page.
            unsafe { ffi::rvmm_pages_free(va, 0) };
        }
    }
}

/// A zeroed page on its way into a [`TablePages`].
pub(crate) struct TablePage(*mut c_void);

impl TablePage {
    /// Allocates; may sleep.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<TablePage> {
        // SAFETY: No precondition.
        let va = unsafe { ffi::rvmm_pages_alloc(0, false) };
        if va.is_null() {
            Err(ENOMEM)
        } else {
            Ok(TablePage(va))
        }
    }
}

impl Drop for TablePage {
    fn drop(&mut self) {
        // SAFETY: Owned; `donate()` forgets the value instead.
        unsafe { ffi::rvmm_pages_free(self.0, 0) };
    }
}

/// The pages that one second-level table is made of: a pool to take from without sleeping.
///
/// The physical addresses that [`TableMem`] takes are those that [`TableMem::alloc`] gave and the table
/// keeps in its entries; the table and what it unlinked are the only callers. Only `alloc()` needs the pool itself:
/// what was unlinked is freed through an empty one.
pub(crate) struct TablePages {
    free: PageChain,
}

impl TablePages {
    /// An empty pool.
    pub(crate) fn new() -> TablePages {
        TablePages { free: PageChain::new() }
    }

    /// Returns how many pages the pool lacks.
    pub(crate) fn missing(&self) -> usize {
        POOL.saturating_sub(self.free.len)
    }

    /// Adds a page to the pool.
    pub(crate) fn donate(&mut self, page: TablePage) {
        self.free.push(page.0);
        core::mem::forget(page);
    }

    #[inline]
    fn entry(table: Hpa, index: usize) -> *mut u64 {
        // SAFETY: A variable set once at boot.
        let base = unsafe { kernel::bindings::page_offset_base } as u64;
        base.wrapping_add(table.0).wrapping_add((index & 511) as u64 * 8) as *mut u64
    }
}

impl TableMem for TablePages {
    #[inline]
    fn read(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: `table` came from `alloc()` (type description), so it lies in the direct map.
        unsafe { Self::entry(table, index).read_volatile() }
    }

    #[inline]
    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        // SAFETY: As in `read()`; an aligned store that a walking processor sees whole.
        unsafe { Self::entry(table, index).write_volatile(entry) }
    }

    fn alloc(&mut self) -> Option<Hpa> {
        let va = self.free.pop()?;
        // SAFETY: `va` is a page in the direct map.
        Some(Hpa(unsafe { ffi::rvmm_va_to_hpa(va) }))
    }

    fn free(&mut self, table: Hpa) {
        // SAFETY: `table` came from `alloc()`, and by the trait's contract nothing refers to it any more.
        unsafe { ffi::rvmm_pages_free(Self::entry(table, 0).cast(), 0) };
    }

    fn set_note(&mut self, table: Hpa, note: u64) {
        // SAFETY: As in `read()`; the caller owns the page, so nobody else uses the word beside it.
        unsafe { ffi::rvmm_page_set_next(Self::entry(table, 0).cast(), note as *mut c_void) };
    }

    fn take_note(&mut self, table: Hpa) -> u64 {
        // SAFETY: As in `set_note()`.
        unsafe { ffi::rvmm_page_next(Self::entry(table, 0).cast()) as u64 }
    }
}
