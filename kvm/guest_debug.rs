// SPDX-License-Identifier: GPL-2.0

//! What debuggers ask of a vCPU that does not run: KVM_TRANSLATE. KVM_SET_GUEST_DEBUG is the vCPU's
//! ([`crate::vcpu::guest_debug`]).

use super::user;
use crate::abi::vcpu as abi;
use crate::arch::addr::Gva;
use crate::mmu::mem::MemError;
use crate::mmu::walk::{walk, AccessKind, AccessPrivilege, WalkAccess, WalkError};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::state::StateGroups;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;

/// No address.
const INVALID: u64 = u64::MAX;

/// KVM_TRANSLATE: where a linear address leads for the guest's kernel, which reads. As KVM, says of any address that it
/// may be written, and not by user code.
///
/// # Errors
/// `EFAULT`; `EIO` for a process other than the VM's; `EINTR` for a thread that is being killed.
pub(super) fn translate<B: VendorBackend>(vm: &Vm<B>, core: &mut VcpuCore<B>, arg: u64) -> Result<i64> {
    if !vm.space.is_current() {
        return Err(EIO);
    }
    let mut asked: abi::Translation = user::read(arg)?;
    core.fetch(StateGroups::all());
    let how = WalkAccess { kind: AccessKind::Read, privilege: AccessPrivilege::Supervisor };
    let found = loop {
        // No protection key applies: it is a debugger that asks.
        match walk(&*vm.machine.ram, &core.paging_regs(0), Gva(asked.linear_address), how) {
            Ok(found) => break Some(found.gpa),
            Err(WalkError::Mem(MemError::NotResident(gpa))) => vm.machine.ram.fault_in(gpa, true)?,
            // The other vCPUs go on changing the tables: as good as none.
            Err(WalkError::Fault(_) | WalkError::Mem(MemError::NoSlot(_)) | WalkError::Busy) => break None,
        }
    };
    asked.physical_address = found.map_or(INVALID, |gpa| gpa.0);
    asked.valid = u8::from(found.is_some());
    (asked.writeable, asked.usermode) = (1, 0);
    user::write(arg, &asked).map(|()| 0)
}
