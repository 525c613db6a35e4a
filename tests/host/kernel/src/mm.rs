// SPDX-License-Identifier: GPL-2.0

//! Areas of a process's memory.

/// Mappings that are made by `mmap()`.
pub mod virt {
    use core::cell::RefCell;
    use std::sync::{Arc, Mutex};

    /// The bytes of a page that is mapped into a process, and shared with it.
    pub type SharedBytes = Arc<Mutex<[u8; 4096]>>;

    /// What an area is for.
    pub mod flags {
        /// Code.
        pub const EXEC: u64 = 1 << 2;
        /// Writes go to the file.
        pub const SHARED: u64 = 1 << 3;
    }

    /// An area that is being set up.
    pub struct VmaNew {
        start: usize,
        end: usize,
        first_page: usize,
        flags: u64,
        pages: RefCell<Vec<(u64, SharedBytes)>>,
    }

    impl VmaNew {
        /// A shared one from `start` to `end`, of a file from its page `first_page` on.
        pub fn new(start: usize, end: usize, first_page: usize) -> VmaNew {
            VmaNew { start, end, first_page, flags: flags::SHARED, pages: RefCell::new(Vec::new()) }
        }

        /// Returns [`flags`].
        pub fn flags(&self) -> u64 {
            self.flags
        }

        /// Returns the page of the file that it begins with.
        pub fn first_page(&self) -> usize {
            self.first_page
        }

        /// Returns the first address.
        pub fn start(&self) -> usize {
            self.start
        }

        /// Returns the end.
        pub fn end(&self) -> usize {
            self.end
        }

        /// Says that pages of any kind are put in.
        pub fn set_mixedmap(&self) {}

        /// Puts a page in.
        pub fn insert(&self, offset: u64, page: SharedBytes) {
            self.pages.borrow_mut().push((offset, page));
        }

        /// Returns the pages that were put in, with their offsets.
        pub fn into_pages(self) -> Vec<(u64, SharedBytes)> {
            self.pages.into_inner()
        }
    }
}
