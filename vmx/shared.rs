// SPDX-License-Identifier: GPL-2.0

//! Pages that the processor reads for all guests: the MSR bitmap, and a list of MSRs that entries load.
//!
//! They are written once, at load.

use super::switched::SWITCHED;
use crate::arch::addr::Hpa;
use crate::arch::msr::PEBS_ENABLE;
use crate::host::page::KernelPages;
use kernel::prelude::*;
use x86::msr;

/// An MSR bitmap: a bit for reading and one for writing, set where the access exits. SDM, "MSR-Bitmap
/// Address".
pub(super) struct MsrBitmapPage(KernelPages);

impl MsrBitmapPage {
    /// Everything exits but what entries, exits and windows switch.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<MsrBitmapPage> {
        let mut pages = KernelPages::new(0)?;
        pages.bytes_mut().fill(0xff);
        let mut map = MsrBitmapPage(pages);
        let in_vmcs = [
            msr::IA32_SYSENTER_CS,
            msr::IA32_SYSENTER_ESP,
            msr::IA32_SYSENTER_EIP,
            msr::IA32_FS_BASE,
            msr::IA32_GS_BASE,
        ];
        for index in Iterator::chain(in_vmcs.iter(), &SWITCHED) {
            map.pass_through(*index);
        }
        Ok(map)
    }

    /// Returns its address.
    pub(super) fn hpa(&self) -> Hpa {
        self.0.hpa()
    }

    fn pass_through(&mut self, index: u32) {
        // 1 KiB each: reads of low and of high numbers, then writes of both.
        let range = if index >= 0xc000_0000 { 0x400usize } else { 0 };
        let byte = (index & 0x1fff) as usize >> 3;
        for write in [0, 0x800usize] {
            if let Some(b) = self.0.bytes_mut().get_mut(range | write | byte) {
                *b &= !(1 << (index & 7));
            }
        }
    }
}

/// A list of MSRs that entries load: precise sampling is off. SDM, "VM-Entry Controls for MSRs".
pub(super) struct NoPebs(KernelPages);

impl NoPebs {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<NoPebs> {
        let mut page = KernelPages::new(0)?;
        // The index in 32 bits, 32 reserved ones, the value.
        for (to, from) in page.bytes_mut().iter_mut().zip(PEBS_ENABLE.to_le_bytes()) {
            *to = from;
        }
        Ok(NoPebs(page))
    }

    /// Returns its address.
    pub(super) fn hpa(&self) -> Hpa {
        self.0.hpa()
    }
}

/// What all guests share.
pub(super) struct SharedPages {
    pub(super) bitmap: MsrBitmapPage,
    pub(super) no_pebs: NoPebs,
    /// The L1 data cache is flushed before entries: see [`VmcsPage::flush_l1d`](super::region::VmcsPage::flush_l1d).
    pub(super) flushes_l1d: bool,
}
