// SPDX-License-Identifier: GPL-2.0

//! Hypercalls of Hyper-V's about other virtual processors: flushes of their TLBs, and interrupts.
//!
//! TLFS, "HvCallFlushVirtualAddressSpace", "HvCallFlushVirtualAddressList", "HvCallSendSyntheticClusterIpi", and their
//! extended forms. A flush is one of the whole TLB, which covers any part; the caller goes on once no processor that it
//! named runs with a translation of before.

use crate::arch::hyperv::{hypercall as code, HvStatus};
use crate::chipset::message::DestMode;
use crate::chipset::{ApicMessage, DeliveryMode};
use crate::machine::mailbox::VcpuRequests;
use crate::machine::ram::GuestRam;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::hyperv::call::{CallInput, HvCall, InputStop, VpSet};

/// In the flags of a flush: of all processors, whatever the set says.
const ALL_PROCESSORS: u64 = 1;
/// Format of a set: sparse.
const SPARSE: u64 = 0;
/// Format of a set: all.
const ALL: u64 = 1;
/// Addresses of a flush that are read; where there are more, all is flushed without a look at them.
const READ_ADDRESSES: u64 = 15;
/// The first vector that an interrupt may have.
const FIRST_VECTOR: u8 = 0x10;

/// What of the answer the caller still makes: the status, and how many elements are done.
pub(super) type VpsAnswer = Result<HvStatus, InputStop>;

/// Flushes TLBs.
///
/// # Errors
/// As [`CallInput::word`]; nothing has been done.
pub(super) fn flush<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    call: &HvCall,
    input: &CallInput<'_, GuestRam>,
) -> VpsAnswer {
    // The address space comes first. It is not looked at: of a processor that runs, nobody else knows which it has.
    let _space = input.word(0)?;
    let flags = input.word(1)?;
    let is_extended = matches!(call.code(), code::FLUSH_SPACE_EX | code::FLUSH_LIST_EX);
    let (set, addresses) = if is_extended {
        let (format, mask) = (input.word(2)?, input.word(3)?);
        let count = header_words(call, mask)?;
        let set = match format {
            SPARSE if count == 0 => return Ok(HvStatus::Success),
            SPARSE => VpSet::read(input, (4, count), mask)?,
            _ => VpSet::All,
        };
        (set, count.saturating_add(4))
    } else {
        let mask = input.word(2)?;
        // As KVM: some Windows name nobody and mean everybody.
        let is_all = flags & ALL_PROCESSORS != 0 || mask == 0;
        (if is_all { VpSet::All } else { VpSet::of_mask(mask) }, 3)
    };
    let count = call.repeats();
    let is_list = matches!(call.code(), code::FLUSH_LIST | code::FLUSH_LIST_EX);
    if let (true, Some(last)) = (is_list && count <= READ_ADDRESSES, count.checked_sub(1)) {
        // They must be there, whatever they say.
        for n in 0..=last as usize {
            input.word(addresses.saturating_add(n))?;
        }
    }
    for vcpu in cx.vm.machine.mailboxes.iter().filter(|vcpu| set.has(vcpu.vp_index())) {
        vcpu.request_running(VcpuRequests::TLB_FLUSH);
    }
    // Outside the window, where interrupts are on: others must not be waited for here.
    cx.mailbox.request_self(VcpuRequests::FLUSH_WAIT);
    Ok(HvStatus::Success)
}

/// Returns how many words a sparse set has, as the call's first word says and the set's own mask must.
///
/// # Errors
/// [`InputStop::Invalid`] where they differ.
fn header_words(call: &HvCall, mask: u64) -> Result<usize, InputStop> {
    let count = call.header_words();
    if count != u64::from(mask.count_ones()) {
        return Err(InputStop::Invalid);
    }
    Ok(count as usize)
}

/// Interrupts processors.
///
/// # Errors
/// As [`CallInput::word`]; nothing has been done.
pub(super) fn send_ipi<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    call: &HvCall,
    input: &CallInput<'_, GuestRam>,
) -> VpsAnswer {
    if cx.core.lapic.is_none() {
        return Ok(HvStatus::InvalidInput);
    }
    let first = input.word(0)?;
    let set = if call.code() == code::SEND_IPI {
        // As KVM: of a fast call alone the reserved half is looked at.
        if call.is_fast() && first >> 32 != 0 {
            return Ok(HvStatus::InvalidInput);
        }
        VpSet::of_mask(input.word(1)?)
    } else {
        let (format, mask) = (input.word(1)?, input.word(2)?);
        let count = header_words(call, mask)?;
        match format {
            ALL => VpSet::All,
            _ if count == 0 => return Ok(HvStatus::Success),
            _ => VpSet::read(input, (3, count), mask)?,
        }
    };
    let vector = match u8::try_from(first & 0xffff_ffff) {
        Ok(vector) if vector >= FIRST_VECTOR => vector,
        _ => return Ok(HvStatus::InvalidInput),
    };
    let delivery = DeliveryMode::Fixed;
    for vcpu in cx.vm.machine.mailboxes.iter() {
        if set.has(vcpu.vp_index()) && vcpu.identity().takes(delivery) {
            let dest_mode = DestMode::Physical;
            vcpu.deliver(&ApicMessage { dest: vcpu.id, dest_mode, delivery, vector, level: false });
        }
    }
    Ok(HvStatus::Success)
}
