// SPDX-License-Identifier: GPL-2.0

//! What a vCPU's processor walks: the page, or the four, that its guest's CR3 comes to.
//!
//! A root is no more than handles. A vCPU takes what the processor needs from them ([`ShadowMmu::hardware`]) before an
//! entry, whenever a flush was asked for since the last one; a page of it that has gone meanwhile shows there, and the
//! root is made anew. No page is freed while a processor in guest mode has it, for its flush waits.

use super::entry::pdpte;
use super::handle::PageHandle;
use super::role::RoleBasis;
use super::{ShadowMmu, ShadowStop, ShadowWork};
use crate::arch::addr::Gva;
use crate::mmu::format::HardwareRoot;
use crate::mmu::table::TableMem;
use crate::mmu::walk::PagingRegs;

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShadowRoot {
    basis: RoleBasis,
    /// One in long mode.
    pages: [Option<PageHandle>; 4],
}

impl ShadowRoot {
    /// Returns the page that `gva` is under.
    pub(super) fn page(&self, gva: Gva) -> Option<PageHandle> {
        self.pages.get(self.basis.root_number(gva)).copied().flatten()
    }

    /// Returns whether it is one for these registers, CR3 and the directory pointers aside.
    pub(crate) fn is_for(&self, paging: &PagingRegs) -> bool {
        self.basis == RoleBasis::of(paging)
    }
}

impl ShadowMmu {
    /// Returns the root for a guest with these registers.
    ///
    /// # Errors
    /// [`ShadowStop::NeedPages`], [`ShadowStop::Again`].
    pub(crate) fn load_root<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        paging: &PagingRegs,
    ) -> Result<ShadowRoot, ShadowStop> {
        let basis = RoleBasis::of(paging);
        let (count, _) = basis.top();
        let mut root = ShadowRoot { basis, pages: [None; 4] };
        for (number, slot) in root.pages.iter_mut().enumerate().take(count) {
            if let Some((gfn, role)) = basis.root_page(paging, number) {
                let page = self.find_or_make(work, gfn, role)?;
                self.touch(page);
                *slot = Some(page);
            }
        }
        // Those that were made last may have taken the place of those that were made first.
        self.hardware(&root).map(|_| root).ok_or(ShadowStop::Again)
    }

    /// Returns what the processor is to walk; `None` where a page of the root has gone.
    pub(crate) fn hardware(&self, root: &ShadowRoot) -> Option<HardwareRoot> {
        let table = |page: PageHandle| self.arena.get(page).map(|p| p.table);
        let (count, levels) = root.basis.top();
        if count == 1 {
            let [page, ..] = root.pages;
            return table(page?).map(|root| HardwareRoot::Long { root, levels });
        }
        let mut pointers = [0; 4];
        for (pointer, page) in pointers.iter_mut().zip(root.pages) {
            if let Some(page) = page {
                *pointer = pdpte(table(page)?);
            }
        }
        Some(HardwareRoot::Pae(pointers))
    }
}
