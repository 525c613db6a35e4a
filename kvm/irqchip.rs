// SPDX-License-Identifier: GPL-2.0

//! Interrupt routing, and the state of the interrupt controllers and the timer.
//!
//! Documentation of KVM's API, "KVM_SET_GSI_ROUTING", "KVM_GET_IRQCHIP" and "KVM_GET_PIT2".

use super::user;
use crate::abi::vm as abi;
use crate::chipset::ioapic::SavedIoapic;
use crate::chipset::pic::{Pic, SavedPic, SavedPicChip};
use crate::chipset::pit::SavedPitChannel;
use crate::chipset::routing::{GsiRoute, GsiRouting, GsiTarget};
use crate::chipset::saved::HasState;
use crate::machine::irqchip::IrqchipMode;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;
use zerocopy::FromBytes;

/// Replaces the routing table.
///
/// # Errors
/// `EINVAL` without interrupt controllers, with flags, with too many entries and for an entry that
/// cannot be; `EFAULT`, `ENOMEM`.
#[inline(never)]
pub(super) fn set_routing<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let header: abi::IrqRouting = user::read(arg)?;
    let mode = vm.machine.irqchip.mode();
    if mode == IrqchipMode::None || header.flags != 0 || header.nr > abi::MAX_IRQ_ROUTES {
        return Err(EINVAL);
    }
    let max = abi::MAX_IRQ_ROUTES as usize;
    let entries = user::read_array::<abi::IrqRouting, abi::IrqRoutingEntry>(arg, header.nr, max)?;
    let mut routes = KVec::with_capacity(entries.len(), GFP_KERNEL_ACCOUNT)?;
    for e in &entries {
        let [a, b, c, ..] = e.u;
        routes.push_within_capacity(GsiRoute::from_entry(e.gsi, e.kind, e.flags, [a, b, c])?)?;
    }
    let mut routing = GsiRouting::new(routes.iter().copied())?;
    if let IrqchipMode::Split { pins } = mode {
        // There are no chips whose pins could be meant.
        if routes.iter().any(|r| !matches!(r.target, GsiTarget::Msi { .. } | GsiTarget::Sint { .. })) {
            return Err(EINVAL);
        }
        routing.reserve_pins(pins);
    }
    // Swapped, so that the old table is freed without the lock.
    vm.machine.interrupts.with(|bus, _now, _out| core::mem::swap(&mut bus.routing, &mut routing));
    Ok(0)
}

/// Gives a controller's state to user space.
///
/// # Errors
/// `ENXIO` without interrupt controllers, `EINVAL` for one that does not exist; `EFAULT`.
#[inline(never)]
pub(super) fn get<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let asked: abi::Irqchip = user::read(arg)?;
    let id = asked.chip_id;
    let answer = vm.machine.interrupts.with(|bus, _now, _out| {
        let (Some(pic), Some(ioapic)) = (bus.pic.as_ref(), bus.ioapic.as_ref()) else { return Err(ENXIO) };
        match id {
            abi::IRQCHIP_PIC_MASTER => Ok(abi::Irqchip::with_state(id, &pic.save().master.to_kvm())),
            abi::IRQCHIP_PIC_SLAVE => Ok(abi::Irqchip::with_state(id, &pic.save().slave.to_kvm())),
            abi::IRQCHIP_IOAPIC => Ok(abi::Irqchip::with_state(id, &ioapic_to_kvm(&ioapic.save()))),
            _ => Err(EINVAL),
        }
    })?;
    user::write(arg, &answer)?;
    Ok(0)
}

/// Takes a controller's state from user space, and sends what it has pending.
///
/// # Errors
/// As [`get`].
#[inline(never)]
pub(super) fn set<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let given: abi::Irqchip = user::read(arg)?;
    vm.machine.interrupts.with(|bus, _now, out| {
        let Some(pic) = bus.pic.as_mut() else { return Err(ENXIO) };
        match given.chip_id {
            abi::IRQCHIP_PIC_MASTER => {
                let master = pic_from_kvm(&given)?;
                restore_pic(pic, |s| s.master = master);
            }
            abi::IRQCHIP_PIC_SLAVE => {
                let slave = pic_from_kvm(&given)?;
                restore_pic(pic, |s| s.slave = slave);
            }
            abi::IRQCHIP_IOAPIC => {
                let state = ioapic_from_kvm(&given.ioapic().ok_or(EINVAL)?);
                if !bus.restore_ioapic(&state, out) {
                    return Err(ENXIO);
                }
            }
            _ => return Err(EINVAL),
        }
        Ok(0)
    })
}

fn pic_from_kvm(given: &abi::Irqchip) -> Result<SavedPicChip> {
    let (raw, _) = <[u8; 16]>::read_from_prefix(&given.chip).map_err(|_| EINVAL)?;
    Ok(SavedPicChip::from_kvm(raw))
}

fn restore_pic(pic: &mut Pic, change: impl FnOnce(&mut SavedPic)) {
    let mut state = pic.save();
    change(&mut state);
    pic.set_state(&state);
}

fn ioapic_to_kvm(s: &SavedIoapic) -> abi::IoapicState {
    let SavedIoapic { base_address, ioregsel, id, irr, pad, redirtbl } = *s;
    abi::IoapicState { base_address, ioregsel, id, irr, pad, redirtbl }
}

fn ioapic_from_kvm(s: &abi::IoapicState) -> SavedIoapic {
    let abi::IoapicState { base_address, ioregsel, id, irr, pad: _, redirtbl } = *s;
    SavedIoapic { base_address, ioregsel, id, irr, pad: 0, redirtbl }
}

/// Returns the timer's state and its flags, `PIT_FLAGS_*`.
///
/// # Errors
/// `ENXIO` without a timer.
fn pit_state<B: VendorBackend>(vm: &Vm<B>) -> Result<([abi::PitChannelState; 3], u32)> {
    vm.machine.interrupts.with(|bus, now, _out| {
        let state = bus.pit.as_ref().ok_or(ENXIO)?.save();
        let speaker = if state.speaker_data != 0 { abi::PIT_FLAGS_SPEAKER_DATA_ON } else { 0 };
        let replaced = if state.replaced != 0 { abi::PIT_FLAGS_HPET_LEGACY } else { 0 };
        Ok((state.channels.map(|c| c.to_kvm(now)), speaker | replaced))
    })
}

/// Sets the timer's state; missed pulses are forgotten. Without `flags`, speaker and IRQ 0 stay as they are.
///
/// # Errors
/// `ENXIO` without a timer.
fn set_pit_state<B: VendorBackend>(
    vm: &Vm<B>,
    channels: [abi::PitChannelState; 3],
    flags: Option<u32>,
) -> Result<i64> {
    vm.machine.interrupts.with(|bus, now, _out| {
        let pit = bus.pit.as_mut().ok_or(ENXIO)?;
        let speaker_data = flags.map(|f| f & abi::PIT_FLAGS_SPEAKER_DATA_ON != 0);
        pit.set_channels(channels.map(|c| SavedPitChannel::from_kvm(&c, now)), speaker_data, now);
        if let Some(f) = flags {
            pit.set_replaced(f & abi::PIT_FLAGS_HPET_LEGACY != 0);
        }
        Ok(0)
    })
}

/// Carries KVM_GET_PIT out.
///
/// # Errors
/// `ENXIO` without a timer; `EFAULT`.
#[inline(never)]
pub(super) fn get_pit<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let (channels, _) = pit_state(vm)?;
    user::write(arg, &abi::PitState { channels })?;
    Ok(0)
}

/// Carries KVM_SET_PIT out.
///
/// # Errors
/// `ENXIO` without a timer; `EFAULT`.
#[inline(never)]
pub(super) fn set_pit<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let given: abi::PitState = user::read(arg)?;
    set_pit_state(vm, given.channels, None)
}

/// Carries KVM_GET_PIT2 out.
///
/// # Errors
/// `ENXIO` without a timer; `EFAULT`.
#[inline(never)]
pub(super) fn get_pit2<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let (channels, flags) = pit_state(vm)?;
    user::write(arg, &abi::PitState2 { channels, flags, reserved: [0; 9] })?;
    Ok(0)
}

/// Carries KVM_SET_PIT2 out.
///
/// # Errors
/// `ENXIO` without a timer; `EFAULT`.
#[inline(never)]
pub(super) fn set_pit2<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let given: abi::PitState2 = user::read(arg)?;
    // As KVM: flags that nobody knows are ignored.
    set_pit_state(vm, given.channels, Some(given.flags))
}
