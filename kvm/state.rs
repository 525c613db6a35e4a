// SPDX-License-Identifier: GPL-2.0

//! A machine at rest and its state, as user space asks for them: the group STATE of the attributes of a VM and of its
//! vCPUs.

use super::user;
use crate::abi::{rvmm as abi, vm as abi_vm};
use crate::chipset::lapic::save::SavedLapic;
use crate::chipset::saved::{BadState, HasState, StateReader, StateWriter};
use crate::machine::mailbox::VcpuMailbox;
use crate::machine::quiesce::AtRest;
use crate::machine::whole::GuestMachine;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::inject::take_interrupts;
use crate::vcpu::vm::Vm;
use core::ops::Deref;
use kernel::prelude::*;
use kernel::sync::Arc;

/// The machine of a VM.
pub(super) struct MachineOf<B: VendorBackend>(Arc<Vm<B>>);

impl<B: VendorBackend> Deref for MachineOf<B> {
    type Target = GuestMachine;
    fn deref(&self) -> &GuestMachine {
        &self.0.machine
    }
}

/// Whether user space has brought its machine to rest; under the VM's configuration lock.
pub(super) struct RestState<B: VendorBackend>(Option<AtRest<MachineOf<B>>>);

impl<B: VendorBackend> RestState<B> {
    /// The machine goes on.
    pub(super) fn none() -> RestState<B> {
        RestState(None)
    }

    /// Returns whether a VM has this attribute.
    pub(super) fn has_attr(a: &abi_vm::DeviceAttr) -> bool {
        is_state(a, abi::STATE_REST) || is_state(a, abi::STATE_MACHINE)
    }

    /// Carries KVM_GET_DEVICE_ATTR out.
    ///
    /// # Errors
    /// `ENXIO` for what is none; `EBUSY` for the state of a machine that is not at rest, `E2BIG` where there is no room
    /// for it; `EFAULT`, `ENOMEM`.
    #[inline(never)]
    pub(super) fn get_attr(&self, a: &abi_vm::DeviceAttr) -> Result<i64> {
        match a.attr {
            _ if !Self::has_attr(a) => Err(ENXIO),
            abi::STATE_REST => user::write(a.addr, &u32::from(self.0.is_some())).map(|()| 0),
            _ => give(a.addr, &self.0.as_ref().ok_or(EBUSY)?.save()?),
        }
    }

    /// Carries KVM_SET_DEVICE_ATTR out.
    ///
    /// # Errors
    /// `ENXIO` for what is none; `EINVAL` for a number that is neither 0 nor 1, and for a state that cannot be; `EBUSY`
    /// for the state of a machine that is not at rest; `E2BIG`, `EFAULT`, `EINTR`, `ENOMEM`.
    #[inline(never)]
    pub(super) fn set_attr(&mut self, vm: &Arc<Vm<B>>, a: &abi_vm::DeviceAttr) -> Result<i64> {
        match a.attr {
            _ if !Self::has_attr(a) => return Err(ENXIO),
            abi::STATE_REST => match user::read::<u32>(a.addr)? {
                0 => self.0 = None,
                1 if self.0.is_some() => {}
                1 => self.0 = Some(AtRest::new(MachineOf(vm.clone()))?),
                _ => return Err(EINVAL),
            },
            _ => {
                let at_rest = self.0.as_ref().ok_or(EBUSY)?;
                let state = fetch(a.addr, at_rest.state_room())?;
                at_rest.restore(&state).map_err(refuse)?;
            }
        }
        Ok(0)
    }
}

fn is_state(a: &abi_vm::DeviceAttr, attr: u64) -> bool {
    a.flags == 0 && a.group == abi::GROUP_STATE && a.attr == attr
}

/// Returns whether an attribute of a vCPU's is the state of its local APIC.
pub(super) fn is_lapic(a: &abi_vm::DeviceAttr) -> bool {
    is_state(a, abi::STATE_LAPIC)
}

/// Gives the state of a vCPU's local APIC where `addr` says.
///
/// # Errors
/// `ENXIO` without one; `EBUSY` where the machine is not at rest; `E2BIG`, `EFAULT`,
/// `ENOMEM`.
pub(super) fn get_lapic<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    addr: u64,
) -> Result<i64> {
    begin_lapic(vm, mailbox, core)?;
    let lapic = core.lapic.as_ref().ok_or(ENXIO)?;
    let mut out = StateWriter::new(LAPIC_ROOM)?;
    out.put(mailbox.id, lapic);
    give(addr, &out)
}

/// Takes it over from there.
///
/// # Errors
/// As [`get_lapic`], and `EINVAL` for a state that cannot be: the local APIC stays as it is.
pub(super) fn set_lapic<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    addr: u64,
) -> Result<i64> {
    begin_lapic(vm, mailbox, core)?;
    let state = fetch(addr, LAPIC_ROOM)?;
    let mut from = StateReader::new(&state);
    let lapic = core.lapic.as_mut().ok_or(ENXIO)?;
    let old = lapic.save();
    // The section may be good, and in place already, before what follows it is found to be wrong.
    if let Err(why) = from.get(mailbox.id, lapic).and_then(|()| from.finish()) {
        lapic.set_state(&old);
        return Err(refuse(why));
    }
    core.publish_apic(mailbox, &vm.machine);
    Ok(0)
}

/// Bytes of a local APIC's section, with its header.
const LAPIC_ROOM: usize = size_of::<SavedLapic>() + 16;

/// Makes the local APIC what can be saved or replaced: with all that was posted to it.
fn begin_lapic<B: VendorBackend>(vm: &Vm<B>, mailbox: &VcpuMailbox, core: &mut VcpuCore<B>) -> Result {
    if !vm.machine.clock.time.is_stopped() {
        return Err(EBUSY);
    }
    take_interrupts(vm, mailbox, core);
    Ok(())
}

/// Gives a state to user space, where the [`abi::StateBuffer`] at `at` says.
fn give(at: u64, state: &StateWriter) -> Result<i64> {
    let state = state.finish().ok_or(EIO)?;
    let room: abi::StateBuffer = user::read(at)?;
    let bytes = state.len() as u64;
    // Told even where there is no room, so that user space knows how much it needs.
    user::write(at, &abi::StateBuffer { bytes, ..room })?;
    if room.bytes < bytes {
        return Err(E2BIG);
    }
    user::write_bytes(room.addr, state).map(|()| 0)
}

/// Fetches a state of at most `room` bytes from user space, once.
fn fetch(at: u64, room: usize) -> Result<KVVec<u8>> {
    let given: abi::StateBuffer = user::read(at)?;
    let bytes = usize::try_from(given.bytes).ok().filter(|bytes| *bytes <= room).ok_or(E2BIG)?;
    let mut state = KVVec::from_elem(0, bytes, GFP_KERNEL_ACCOUNT)?;
    user::read_bytes(given.addr, &mut state)?;
    Ok(state)
}

/// Returns what user space is told of a state that was refused.
fn refuse(why: BadState) -> Error {
    match why {
        BadState::Busy => EBUSY,
        BadState::Impossible { .. }
        | BadState::Missing(_)
        | BadState::Unknown(_)
        | BadState::Version(_)
        | BadState::Short => EINVAL,
    }
}
