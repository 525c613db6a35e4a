// SPDX-License-Identifier: GPL-2.0

//! One hypercall for interrupts to many processors: KVM_HC_SEND_IPI.
//!
//! Linux, "Linux KVM Hypercall", KVM_HC_SEND_IPI: two words with a bit for each local APIC, the id that the first bit
//! stands for, and the lower half of an ICR.

use crate::chipset::message::DestMode;
use crate::chipset::{ApicMessage, DeliveryMode};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::state::{StateGroups, RAX, RBX, RCX, RDX, RSI};

/// The hypercall's number.
pub(super) const SEND_IPI: u32 = 10;
/// KVM_EINVAL of the hypercall ABI, negative.
const KVM_EINVAL: u64 = 0u64.wrapping_sub(22);
/// KVM_EOPNOTSUPP of the hypercall ABI, negative.
const KVM_EOPNOTSUPP: u64 = 0u64.wrapping_sub(95);
/// ICR: logical destinations, and shorthands.
const OTHER_DESTINATIONS: u64 = 1 << 11 | 3 << 18;

/// Carries the hypercall out, called with the low half of RAX as its number at privilege level 0. Returns how many local
/// APICs took the interrupt; `None` where the number turns out to be another one.
#[inline(never)]
pub(super) fn send<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Option<u64> {
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL);
    // Elsewhere registers have 32 bits, and so has each of the words.
    let (mask, bits) = if cx.core.state.is_64bit() { (u64::MAX, 64) } else { (0xffff_ffff, 32) };
    let gprs = &cx.core.state.gprs;
    let [number, low, high, first, icr] = [RAX, RBX, RCX, RDX, RSI].map(|reg| gprs[reg] & mask);
    if number != u64::from(SEND_IPI) {
        return None;
    }
    if icr & OTHER_DESTINATIONS != 0 {
        return Some(KVM_EINVAL);
    }
    // As KVM: there is nobody to send to.
    if cx.core.lapic.is_none() {
        return Some(KVM_EOPNOTSUPP);
    }
    let [vector, ..] = icr.to_le_bytes();
    let delivery = match DeliveryMode::from_code(icr >> 8) {
        // As the ICR has it: the first sixteen vectors are no interrupts.
        Some(DeliveryMode::Fixed | DeliveryMode::LowestPriority) if vector < 16 => return Some(0),
        Some(delivery) => delivery,
        None => return Some(0),
    };
    let first = first as u32;
    let mut taken = 0u64;
    for (word, base) in [(low, Some(first)), (high, first.checked_add(bits))] {
        let mut left = word;
        while left != 0 {
            let id = base.and_then(|base| base.checked_add(left.trailing_zeros()));
            left &= left.wrapping_sub(1);
            let Some(dest) = id else { continue };
            let msg = ApicMessage { dest, dest_mode: DestMode::Physical, delivery, vector, level: false };
            taken = taken.wrapping_add(cx.vm.machine.interrupts.send_to(dest, &msg).into());
        }
    }
    Some(taken)
}
