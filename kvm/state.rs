// SPDX-License-Identifier: GPL-2.0

//! A machine at rest, as user space asks for it: the group STATE of a VM's attributes.

use super::user;
use crate::abi::{rvmm as abi, vm as abi_vm};
use crate::machine::quiesce::AtRest;
use crate::machine::whole::GuestMachine;
use crate::vcpu::backend::Backend;
use crate::vcpu::vm::Vm;
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The machine of a VM.
pub(super) struct MachineOf<B: Backend>(Arc<Vm<B>>);

impl<B: Backend> Deref for MachineOf<B> {
    type Target = GuestMachine;
    fn deref(&self) -> &GuestMachine {
        &self.0.machine
    }
}

/// Whether user space has brought its machine to rest; under the VM's configuration lock.
pub(super) struct RestState<B: Backend>(Option<AtRest<MachineOf<B>>>);

impl<B: Backend> RestState<B> {
    /// The machine goes on.
    pub(super) fn none() -> RestState<B> {
        RestState(None)
    }

    /// Returns whether a VM has this attribute.
    pub(super) fn has_attr(a: &abi_vm::DeviceAttr) -> bool {
        a.flags == 0 && a.group == abi::GROUP_STATE && a.attr == abi::STATE_REST
    }

    /// Carries KVM_GET_DEVICE_ATTR out.
    ///
    /// # Errors
    /// `ENXIO` for what is none; `EFAULT`.
    pub(super) fn get_attr(&self, a: &abi_vm::DeviceAttr) -> Result<i64> {
        if !Self::has_attr(a) {
            return Err(ENXIO);
        }
        user::write(a.addr, &u32::from(self.0.is_some())).map(|()| 0)
    }

    /// Carries KVM_SET_DEVICE_ATTR out.
    ///
    /// # Errors
    /// `ENXIO` for what is none, `EINVAL` for another number than 0 and 1; `EFAULT`, `EINTR`.
    pub(super) fn set_attr(&mut self, vm: &Arc<Vm<B>>, a: &abi_vm::DeviceAttr) -> Result<i64> {
        if !Self::has_attr(a) {
            return Err(ENXIO);
        }
        match user::read::<u32>(a.addr)? {
            0 => self.0 = None,
            1 if self.0.is_some() => {}
            1 => self.0 = Some(AtRest::new(MachineOf(vm.clone()))?),
            _ => return Err(EINVAL),
        }
        Ok(0)
    }
}
