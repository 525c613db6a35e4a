// SPDX-License-Identifier: GPL-2.0

//! KVM_PRE_FAULT_MEMORY: maps guest memory before the guest touches it.
//!
//! Documentation of KVM's API, "KVM_PRE_FAULT_MEMORY".

use super::user;
use crate::abi::vcpu as abi;
use crate::arch::addr::{Gpa, PAGE_SIZE};
use crate::host::file::signal_pending;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;

/// Maps the pages of a range, and tells what is left of it. `hint` is as
/// [`SecondLevel::fault`](crate::vcpu::second_level::SecondLevel::fault) has it.
///
/// # Errors
/// `EINVAL` for flags and for a range that is empty, ends beyond all addresses, or is not of pages; `EIO` in another
/// process; where the first page cannot be mapped, `ENOENT` for no memory, `EFAULT` for none of the VMM's below it,
/// `EINTR`, `ENOMEM`.
pub(super) fn pre_fault<B: VendorBackend>(vm: &Vm<B>, hint: &mut usize, arg: u64) -> Result<i64> {
    let mut range: abi::PreFaultMemory = user::read(arg)?;
    if !vm.space.is_current() {
        return Err(EIO);
    }
    let answer = map_all(vm, hint, &mut range);
    user::write(arg, &range)?;
    answer.map(|()| 0)
}

fn map_all<B: VendorBackend>(vm: &Vm<B>, hint: &mut usize, range: &mut abi::PreFaultMemory) -> Result {
    let end = range.gpa.checked_add(range.size).filter(|end| *end > range.gpa).ok_or(EINVAL)?;
    if range.flags != 0 || (range.gpa | end) % PAGE_SIZE != 0 {
        return Err(EINVAL);
    }
    let first = range.gpa;
    while range.gpa < end {
        let mapped = if signal_pending() { Err(EINTR) } else { vm.space.pre_fault(Gpa(range.gpa), hint) };
        match mapped {
            Ok(()) => {}
            Err(e) if range.gpa == first => return Err(e),
            // What is mapped is mapped; user space sees how far it came.
            Err(_) => break,
        }
        range.gpa = range.gpa.wrapping_add(PAGE_SIZE);
        range.size = range.size.wrapping_sub(PAGE_SIZE);
    }
    Ok(())
}
