// SPDX-License-Identifier: GPL-2.0

//! The attributes of a vCPU: its TSC's offset from the host's, and the state of its local APIC.
//!
//! Documentation of KVM's API, "GROUP: KVM_VCPU_TSC_CTRL". What moves a vCPU to another host reads the offset with the
//! clock, and works out the one there.

use super::{state, user};
use crate::abi::vcpu as abi;
use crate::abi::vm::DeviceAttr;
use crate::machine::mailbox::VcpuMailbox;
use crate::vcpu::access::msr;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;

/// An attribute of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VcpuAttr {
    /// What is added to the host's TSC, a `u64`.
    TscOffset,
    /// The state of the local APIC, of a machine at rest.
    Lapic,
}

impl VcpuAttr {
    /// Returns which one is asked for.
    ///
    /// # Errors
    /// `ENXIO` for what is none.
    pub(super) fn of(a: &DeviceAttr) -> Result<VcpuAttr> {
        match (a.group, a.attr) {
            (abi::VCPU_TSC_CTRL, abi::VCPU_TSC_OFFSET) => Ok(VcpuAttr::TscOffset),
            _ if state::is_lapic(a) => Ok(VcpuAttr::Lapic),
            _ => Err(ENXIO),
        }
    }

    /// Carries KVM_GET_DEVICE_ATTR out.
    ///
    /// # Errors
    /// `EFAULT`; those of [`state::get_lapic`].
    pub(super) fn get<B: VendorBackend>(
        self,
        vm: &Vm<B>,
        mailbox: &VcpuMailbox,
        core: &mut VcpuCore<B>,
        addr: u64,
    ) -> Result<i64> {
        match self {
            VcpuAttr::TscOffset => user::write(addr, &core.tsc_offset).map(|()| 0),
            VcpuAttr::Lapic => state::get_lapic(vm, mailbox, core, addr),
        }
    }

    /// Carries KVM_SET_DEVICE_ATTR out.
    ///
    /// # Errors
    /// `EFAULT`; those of [`state::set_lapic`].
    pub(super) fn set<B: VendorBackend>(
        self,
        vm: &Vm<B>,
        mailbox: &VcpuMailbox,
        core: &mut VcpuCore<B>,
        addr: u64,
    ) -> Result<i64> {
        match self {
            VcpuAttr::TscOffset => {
                msr::set_tsc_offset(vm, mailbox, core, user::read(addr)?);
                Ok(0)
            }
            VcpuAttr::Lapic => state::set_lapic(vm, mailbox, core, addr),
        }
    }
}
