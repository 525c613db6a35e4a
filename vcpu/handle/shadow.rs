// SPDX-License-Identifier: GPL-2.0

//! Page faults of a processor that walks shadow pages: the guest's own, memory not shown yet, or a device.

use super::memory;
use crate::arch::addr::Gpa;
use crate::arch::exception::PfError;
use crate::mmu::mem::MemError;
use crate::mmu::shadow::{ShadowFault, ShadowRoot};
use crate::mmu::walk::{walk_by, AccessKind, AccessPrivilege, WalkAccess, WalkError, WalkSteps};
use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::insn;
use crate::vcpu::exit::{FaultFlags, GuestPageFault, LinearFault};
use crate::vcpu::outcome::{BlockedBy, ExitOutcome, UserExit};
use crate::vcpu::record::count;
use crate::vcpu::second_level::TableFault;
use crate::vcpu::state::StateGroups;

/// Handles one.
#[inline(never)]
pub(super) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, fault: LinearFault) -> ExitOutcome {
    if fault.error.contains(PfError::RSVD) {
        // No shadow page has a reserved bit set.
        return cx.core.unknown(cx.record.recorder.last());
    }
    count(&cx.record.stats.page_faults);
    cx.core.fetch(StateGroups::CONTROL | StateGroups::SEGMENTS);
    let paging = cx.guest_paging();
    let access = access_of(cx, fault.error);
    let gva = paging.linear(fault.gva);
    let Some(root) = cx.core.paging.shadow().and_then(|shadow| shadow.root().copied()) else {
        return cx.core.unknown(cx.record.recorder.last());
    };
    // Before the look-up, so that a slot which comes meanwhile makes it another one.
    let generation = cx.vm.machine.ram.generation();
    if let Some(gpa) = cx.vm.space.device(cx.cpu, &root, &paging, (gva, access), generation) {
        return device(cx, gpa, access);
    }
    let mut steps = WalkSteps::default();
    let translation = match walk_by(&*cx.vm.machine.ram, &paging, gva, access, &mut steps) {
        Ok(translation) => translation,
        Err(WalkError::Fault(e)) => return ExitOutcome::Inject(e),
        // The tables' accessed bits are set in passing, so the page must be there for writing.
        Err(WalkError::Mem(MemError::NotResident(gpa))) => {
            return ExitOutcome::Blocked(BlockedBy::FaultIn { gpa, write: true })
        }
        Err(WalkError::Mem(MemError::NoSlot(_)) | WalkError::Busy) => return ExitOutcome::HostInterrupt,
    };
    let fault = ShadowFault { gva, access, steps: &steps, translation };
    allowed(cx, &root, &fault, generation)
}

/// The guest's tables allow the access.
fn allowed<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    root: &ShadowRoot,
    fault: &ShadowFault<'_>,
    generation: u64,
) -> ExitOutcome {
    match cx.vm.space.shadow_fault(cx.cpu, root, fault, &mut cx.core.slot_hint) {
        TableFault::Mapped => ExitOutcome::Resume,
        TableFault::Stale => {
            cx.core.controls.flush_tlb();
            ExitOutcome::Resume
        }
        TableFault::Blocked(by) => ExitOutcome::Blocked(by),
        TableFault::Again => {
            // Or the root is another one's, or a page of it has gone.
            if let Some(shadow) = cx.core.paging.shadow() {
                shadow.forget_root();
            }
            ExitOutcome::HostInterrupt
        }
        TableFault::Mmio => {
            // Writes to a read-only slot come here as well, but its reads find memory.
            if !cx.vm.machine.ram.has_slot(fault.translation.gpa.gfn()) {
                cx.vm.space.remember_device(cx.cpu, root, fault, generation);
            }
            device(cx, fault.translation.gpa, fault.access)
        }
        TableFault::Software if cx.core.hw.was_delivering() => {
            // A stack, or a descriptor's accessed bit, in one of the guest's tables.
            let raw = cx.record.recorder.last();
            cx.core.leave_for_user(UserExit::Undeliverable { raw, gpa: Some(fault.translation.gpa) })
        }
        TableFault::Software => insn::emulate(cx),
    }
}

/// Carries out an access to a device.
fn device<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, gpa: Gpa, access: WalkAccess) -> ExitOutcome {
    let flags = match access.kind {
        AccessKind::Write => FaultFlags::FINAL | FaultFlags::WRITE,
        AccessKind::Fetch => FaultFlags::FINAL | FaultFlags::FETCH,
        AccessKind::Read => FaultFlags::FINAL,
    };
    memory::device(cx, &GuestPageFault { gpa, flags })
}

/// Returns what the guest did. Needs [`StateGroups::SEGMENTS`].
fn access_of<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, error: PfError) -> WalkAccess {
    let kind = if error.contains(PfError::FETCH) {
        AccessKind::Fetch
    } else if error.contains(PfError::WRITE) {
        AccessKind::Write
    } else {
        AccessKind::Read
    };
    let privilege = if error.contains(PfError::USER) {
        AccessPrivilege::User
    } else if cx.core.state.cpl() == 3 || cx.core.hw.was_delivering() {
        // By the processor for itself: a descriptor table, the task state, the stack of a handler.
        AccessPrivilege::Implicit
    } else {
        AccessPrivilege::Supervisor
    };
    WalkAccess { kind, privilege }
}
