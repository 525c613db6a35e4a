// SPDX-License-Identifier: GPL-2.0

//! Owned pages of the host, and those that tables are made of.

use super::world::{locked, world, World};
use crate::arch::addr::{Hpa, PAGE_SIZE};
use crate::mmu::table::TableMem;
use kernel::mm::virt::{SharedBytes, VmaNew};
use kernel::prelude::*;
use kernel::sched;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// 2^`order` contiguous zeroed pages.
pub(crate) struct KernelPages(KVec<u8>);

impl KernelPages {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(order: u32) -> Result<KernelPages> {
        Ok(KernelPages(KVec::from_elem(0, (PAGE_SIZE as usize) << order, GFP_KERNEL_ACCOUNT)?))
    }

    /// Returns the size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the bytes, to be changed.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Returns which page of its file an area of a process begins with.
pub(crate) fn first_page(vma: &VmaNew) -> usize {
    vma.first_page()
}

/// A page that is also mapped into a process.
pub(crate) struct SharedPage(SharedBytes);

impl SharedPage {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<SharedPage> {
        drop(KernelPages::new(0)?);
        Ok(SharedPage(Arc::new(Mutex::new([0; PAGE_SIZE as usize]))))
    }

    /// Copies bytes out; what lies beyond the page reads as zero.
    pub(crate) fn read(&self, offset: usize, buf: &mut [u8]) {
        let page = locked(&self.0);
        for (i, b) in buf.iter_mut().enumerate() {
            *b = page.get(offset + i).copied().unwrap_or(0);
        }
    }

    /// Copies eight bytes out at once, as a number; 0 where they are not aligned or do not lie in the page.
    pub(crate) fn word(&self, at: usize) -> u64 {
        let page = locked(&self.0);
        let bytes = page.get(at..at.saturating_add(8)).filter(|_| at & 7 == 0);
        bytes.map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()))
    }

    /// Copies bytes in; what lies beyond the page is dropped.
    pub(crate) fn write(&self, offset: usize, buf: &[u8]) {
        let mut page = locked(&self.0);
        for (i, b) in buf.iter().enumerate() {
            if let Some(place) = page.get_mut(offset + i) {
                *place = *b;
            }
        }
    }

    /// Maps the page into a process.
    ///
    /// # Errors
    /// None here.
    pub(crate) fn map(&self, vma: &VmaNew, offset: u64) -> Result {
        vma.insert(offset, self.0.clone());
        Ok(())
    }
}

/// How many pages the pool is filled up to.
const POOL: usize = 8;

struct TableBytes {
    entries: Box<[u64; 512]>,
    note: u64,
}

/// All table pages that are in use.
#[derive(Default)]
pub(crate) struct TableStore {
    pages: Mutex<(u64, HashMap<u64, TableBytes>)>,
}

/// The first table page.
const FIRST: u64 = 0x1_0000_0000;

impl TableStore {
    /// Returns how many there are, those in pools not counted.
    pub(crate) fn len(&self) -> usize {
        locked(&self.pages).1.len()
    }

    fn add(&self) -> Hpa {
        let mut pages = locked(&self.pages);
        let hpa = FIRST + pages.0 * PAGE_SIZE;
        pages.0 += 1;
        pages.1.insert(hpa, TableBytes { entries: Box::new([0; 512]), note: 0 });
        Hpa(hpa)
    }

    /// Reads an entry, as the processor does.
    ///
    /// # Panics
    /// The page has been freed.
    pub(crate) fn read(&self, table: Hpa, index: usize) -> u64 {
        self.with(table, |t| t.entries[index])
    }

    fn with<R>(&self, table: Hpa, f: impl FnOnce(&mut TableBytes) -> R) -> R {
        f(locked(&self.pages).1.get_mut(&table.0).expect("a table page that is not freed"))
    }
}

/// A zeroed page on its way into a [`TablePages`].
pub(crate) struct TablePage(());

impl TablePage {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<TablePage> {
        sched::yield_point();
        drop(KBox::new((), GFP_KERNEL_ACCOUNT)?);
        Ok(TablePage(()))
    }
}

/// The pages that one table is made of.
pub(crate) struct TablePages {
    free: usize,
    world: Arc<World>,
}

impl TablePages {
    /// An empty pool.
    pub(crate) fn new() -> TablePages {
        TablePages { free: 0, world: world() }
    }

    /// Returns how many pages the pool lacks.
    pub(crate) fn missing(&self) -> usize {
        POOL.saturating_sub(self.free)
    }

    /// Adds a page to the pool.
    pub(crate) fn donate(&mut self, _page: TablePage) {
        self.free += 1;
    }
}

impl TableMem for TablePages {
    fn read(&self, table: Hpa, index: usize) -> u64 {
        self.world.tables.read(table, index)
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        self.world.tables.with(table, |t| t.entries[index] = entry);
        sched::yield_point();
    }

    fn alloc(&mut self) -> Option<Hpa> {
        self.free = self.free.checked_sub(1)?;
        Some(self.world.tables.add())
    }

    fn free(&mut self, table: Hpa) {
        let page = locked(&self.world.tables.pages).1.remove(&table.0);
        assert!(page.is_some(), "a table page is freed once");
    }

    fn set_note(&mut self, table: Hpa, note: u64) {
        self.world.tables.with(table, |t| t.note = note);
    }

    fn take_note(&mut self, table: Hpa) -> u64 {
        self.world.tables.with(table, |t| t.note)
    }
}
