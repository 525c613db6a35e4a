// SPDX-License-Identifier: GPL-2.0

//! Rings of dirty pages, for user space: KVM_CAP_DIRTY_LOG_RING and KVM_RESET_DIRTY_RINGS.
//!
//! Under the VM's configuration lock, so that the slots stay as they are and resets come one by one.

use crate::arch::addr::PAGE_SIZE;
use crate::machine::dirty_ring::{DirtyRings, HarvestedPage, MAX_BYTES};
use crate::mmu::dirty::place_of;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;

/// The page of a vCPU's mapping that its ring begins with.
pub(super) const FIRST_PAGE: usize = 64;

/// Carries KVM_CAP_DIRTY_LOG_RING out: each vCPU is to have a ring of `bytes` bytes. `is_late`: there is a vCPU, or a device
/// of the module's, which could mark more at once than rings have room for.
///
/// # Errors
/// `EINVAL` for a size that is no power of two or less than a page, for a second choice, and for one that is late; `E2BIG`
/// for a size beyond the limit; `ENOMEM`.
pub(crate) fn enable<B: VendorBackend>(vm: &Vm<B>, is_late: bool, bytes: u32) -> Result {
    if !bytes.is_power_of_two() || u64::from(bytes) < PAGE_SIZE {
        return Err(EINVAL);
    }
    if bytes > MAX_BYTES {
        return Err(E2BIG);
    }
    if is_late || !vm.machine.ram.choose_rings(DirtyRings::new(bytes)?) {
        return Err(EINVAL);
    }
    take_marks(vm);
    Ok(())
}

/// Takes what was marked before, since only what is not marked comes to a ring.
fn take_marks<B: VendorBackend>(vm: &Vm<B>) {
    let mut index = 0usize;
    while let Some(slot) = vm.machine.ram.slot_at(index) {
        index = index.saturating_add(1);
        let Some((slot, log)) = vm.machine.ram.dirty_log(slot.id) else { continue };
        for word in 0..log.len() {
            vm.space.take_dirty(&slot, &log, word, u64::MAX);
        }
    }
    vm.space.flush_protected();
}

/// Carries KVM_RESET_DIRTY_RINGS out: takes the marks of what user space has harvested. Returns how many entries were.
///
/// # Errors
/// `EINVAL` where there are no rings.
pub(crate) fn reset<B: VendorBackend>(vm: &Vm<B>) -> Result<i64> {
    let rings = vm.machine.ram.dirty_rings().ok_or(EINVAL)?;
    let (mut count, mut index) = (0u32, 0usize);
    while let Some(ring) = rings.get(index) {
        index = index.saturating_add(1);
        // No more than it has room for, while user space harvests and the guest writes.
        for _ in 0..ring.room() {
            let Some(page) = ring.take_harvested() else { break };
            take_mark(vm, page);
            count = count.saturating_add(1);
        }
    }
    if count != 0 {
        vm.space.flush_protected();
    }
    Ok(count.into())
}

/// Takes the mark of a page, if there is such a page.
fn take_mark<B: VendorBackend>(vm: &Vm<B>, HarvestedPage { slot, page }: HarvestedPage) {
    let logged = u16::try_from(slot).ok().and_then(|id| vm.machine.ram.dirty_log(id));
    let Some((slot, log)) = logged.filter(|(slot, _)| page < slot.npages) else { return };
    if let Some((index, mark)) = place_of(page) {
        vm.space.take_dirty(&slot, &log, index, mark);
    }
}
