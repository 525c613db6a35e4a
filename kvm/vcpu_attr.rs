// SPDX-License-Identifier: GPL-2.0

//! The attribute of a vCPU that is its TSC's offset from the host's.
//!
//! Documentation of KVM's API, "GROUP: KVM_VCPU_TSC_CTRL". What moves a vCPU to another host reads it with the clock, and
//! works out the offset there.

use super::{state, user};
use crate::abi::vcpu as abi;
use crate::abi::vm::DeviceAttr;
use crate::machine::mailbox::VcpuMailbox;
use crate::vcpu::access::msr;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;

fn is_offset(a: &DeviceAttr) -> bool {
    a.group == abi::VCPU_TSC_CTRL && a.attr == abi::VCPU_TSC_OFFSET
}

/// Carries KVM_HAS_DEVICE_ATTR of a vCPU out.
///
/// # Errors
/// `ENXIO` for what is none.
pub(super) fn has_attr(a: &DeviceAttr) -> Result<i64> {
    if is_offset(a) {
        Ok(0)
    } else {
        state::vcpu_has_attr(a)
    }
}

/// Carries KVM_GET_DEVICE_ATTR of a vCPU out.
///
/// # Errors
/// `EFAULT`; those of [`state::vcpu_get_attr`].
pub(super) fn get_attr<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    a: &DeviceAttr,
) -> Result<i64> {
    if !is_offset(a) {
        return state::vcpu_get_attr(vm, mailbox, core, a);
    }
    user::write(a.addr, &core.tsc_offset).map(|()| 0)
}

/// Carries KVM_SET_DEVICE_ATTR of a vCPU out.
///
/// # Errors
/// `EFAULT`; those of [`state::vcpu_set_attr`].
pub(super) fn set_attr<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    a: &DeviceAttr,
) -> Result<i64> {
    if !is_offset(a) {
        return state::vcpu_set_attr(vm, mailbox, core, a);
    }
    msr::set_tsc_offset(vm, mailbox, core, user::read(a.addr)?);
    Ok(0)
}
