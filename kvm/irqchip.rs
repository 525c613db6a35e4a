// SPDX-License-Identifier: GPL-2.0

//! Interrupt routing, and the state of the interrupt controllers and the timer.
//!
//! Documentation of KVM's API, "KVM_SET_GSI_ROUTING", "KVM_GET_IRQCHIP" and "KVM_GET_PIT2".

use super::abi::vm as abi;
use super::user;
use crate::chipset::ioapic::IoapicState;
use crate::chipset::pic::{ChipState, Pic, PicState};
use crate::chipset::pit::kvm::KvmChannel;
use crate::chipset::pit::{ChannelState, PitState};
use crate::chipset::routing::{Route, Routing};
use crate::vcpu::backend::Backend;
use crate::vcpu::vm::Vm;
use core::sync::atomic::Ordering::*;
use kernel::prelude::*;
use zerocopy::FromBytes;

/// Replaces the routing table.
///
/// # Errors
/// `EINVAL` without interrupt controllers, with flags, with too many entries and for an entry that
/// cannot be; `EFAULT`, `ENOMEM`.
pub(super) fn set_routing<B: Backend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let header: abi::IrqRouting = user::read(arg)?;
    if !vm.has_irqchip.load(Acquire) || header.flags != 0 || header.nr > abi::MAX_IRQ_ROUTES {
        return Err(EINVAL);
    }
    let max = abi::MAX_IRQ_ROUTES as usize;
    let entries = user::read_array::<abi::IrqRouting, abi::IrqRoutingEntry>(arg, header.nr, max)?;
    let mut routes = KVec::with_capacity(entries.len(), GFP_KERNEL_ACCOUNT)?;
    for e in &entries {
        let [a, b, c, ..] = e.u;
        routes.push_within_capacity(Route::from_entry(e.gsi, e.kind, e.flags, [a, b, c])?)?;
    }
    let mut routing = Routing::new(routes.iter().copied())?;
    vm.chipset.with(|bus, _now, _out| core::mem::swap(&mut bus.routing, &mut routing));
    Ok(0)
}

/// Gives a controller's state to user space.
///
/// # Errors
/// `ENXIO` without interrupt controllers, `EINVAL` for one that does not exist; `EFAULT`.
pub(super) fn get<B: Backend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let asked: abi::Irqchip = user::read(arg)?;
    let id = asked.chip_id;
    let answer = vm.chipset.with(|bus, _now, _out| {
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
pub(super) fn set<B: Backend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let given: abi::Irqchip = user::read(arg)?;
    vm.chipset.with(|bus, _now, out| {
        let (Some(pic), Some(ioapic)) = (bus.pic.as_mut(), bus.ioapic.as_mut()) else { return Err(ENXIO) };
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
                for msg in ioapic.restore(&state) {
                    vm.chipset.send(&msg);
                }
            }
            _ => return Err(EINVAL),
        }
        bus.note_intr(out);
        Ok(0)
    })
}

fn pic_from_kvm(given: &abi::Irqchip) -> Result<ChipState> {
    let (raw, _) = <[u8; 16]>::read_from_prefix(&given.chip).map_err(|_| EINVAL)?;
    Ok(ChipState::from_kvm(raw))
}

fn restore_pic(pic: &mut Pic, change: impl FnOnce(&mut PicState)) {
    let mut state = pic.save();
    change(&mut state);
    pic.restore(&state);
}

fn ioapic_to_kvm(s: &IoapicState) -> abi::IoapicState {
    let IoapicState { base_address, ioregsel, id, irr, redirtbl } = *s;
    abi::IoapicState { base_address, ioregsel, id, irr, pad: 0, redirtbl }
}

fn ioapic_from_kvm(s: &abi::IoapicState) -> IoapicState {
    let abi::IoapicState { base_address, ioregsel, id, irr, pad: _, redirtbl } = *s;
    IoapicState { base_address, ioregsel, id, irr, redirtbl }
}

/// Gives the timer's state to user space.
///
/// # Errors
/// `ENXIO` without a timer; `EFAULT`.
pub(super) fn get_pit<B: Backend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let answer = vm.chipset.with(|bus, now, _out| {
        let state = bus.pit.as_ref().ok_or(ENXIO)?.save();
        Ok::<_, Error>(abi::PitState2 {
            channels: state.channels.map(|c| channel_to_kvm(c.to_kvm(now))),
            flags: if state.speaker_data { abi::PIT_FLAGS_SPEAKER_DATA_ON } else { 0 },
            reserved: [0; 9],
        })
    })?;
    user::write(arg, &answer)?;
    Ok(0)
}

/// Takes the timer's state from user space; missed pulses are forgotten.
///
/// # Errors
/// `ENXIO` without a timer, `EINVAL` for unknown flags; `EFAULT`.
pub(super) fn set_pit<B: Backend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let given: abi::PitState2 = user::read(arg)?;
    // DEVIATION: KVM takes the HPET's legacy mode and ignores other flags; there is no HPET here.
    if given.flags & !abi::PIT_FLAGS_SPEAKER_DATA_ON != 0 {
        return Err(EINVAL);
    }
    vm.chipset.with(|bus, now, _out| {
        let pit = bus.pit.as_mut().ok_or(ENXIO)?;
        let channels = given.channels.map(|c| ChannelState::from_kvm(&channel_from_kvm(c), now));
        let speaker_data = given.flags & abi::PIT_FLAGS_SPEAKER_DATA_ON != 0;
        let state = PitState { channels, speaker_data, pending: 0, acked: true, ..pit.save() };
        pit.restore(&state);
        Ok(0)
    })
}

fn channel_to_kvm(c: KvmChannel) -> abi::PitChannelState {
    abi::PitChannelState {
        count: c.count,
        latched_count: c.latched_count,
        count_latched: c.count_latched,
        status_latched: c.status_latched,
        status: c.status,
        read_state: c.read_state,
        write_state: c.write_state,
        write_latch: c.write_latch,
        rw_mode: c.rw_mode,
        mode: c.mode,
        bcd: c.bcd,
        gate: c.gate,
        count_load_time: c.count_load_time,
    }
}

fn channel_from_kvm(c: abi::PitChannelState) -> KvmChannel {
    KvmChannel {
        count: c.count,
        latched_count: c.latched_count,
        count_latched: c.count_latched,
        status_latched: c.status_latched,
        status: c.status,
        read_state: c.read_state,
        write_state: c.write_state,
        write_latch: c.write_latch,
        rw_mode: c.rw_mode,
        mode: c.mode,
        bcd: c.bcd,
        gate: c.gate,
        count_load_time: c.count_load_time,
    }
}
