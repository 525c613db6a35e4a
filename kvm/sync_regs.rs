// SPDX-License-Identifier: GPL-2.0

//! Registers in the shared page: KVM_CAP_SYNC_REGS.
//!
//! Documentation of KVM's API, "KVM_CAP_SYNC_REGS". User space finds there what it asked for after each KVM_RUN, and what
//! it changed and says so of is taken over before the next.

use super::run::RunPages;
use super::{events, regs};
use crate::abi::run::{self as abi, offset};
use crate::abi::vcpu::{self as abi_vcpu, VcpuEvents};
use crate::machine::mailbox::VcpuMailbox;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::vm::Vm;
use core::mem::offset_of;
use kernel::prelude::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The groups that there are.
const GROUPS: u64 = abi::SYNC_REGS | abi::SYNC_SREGS | abi::SYNC_EVENTS;

const REGS: usize = offset::SYNC_REGS + offset_of!(abi::SyncRegs, regs);
const SREGS: usize = offset::SYNC_REGS + offset_of!(abi::SyncRegs, sregs);
const EVENTS: usize = offset::SYNC_REGS + offset_of!(abi::SyncRegs, events);

/// What user space asks of the page for one KVM_RUN.
#[derive(Clone, Copy)]
pub(super) struct SyncRequest {
    /// The groups to be written at the end.
    wanted: u64,
    /// The groups to be taken over.
    changed: u64,
}

impl SyncRequest {
    /// Returns what the page says.
    ///
    /// # Errors
    /// `EINVAL` for groups that there are not.
    #[inline]
    pub(super) fn of(pages: &RunPages) -> Result<SyncRequest> {
        let (wanted, changed) = (pages.word(offset::VALID_REGS), pages.word(offset::DIRTY_REGS));
        if (wanted | changed) & !GROUPS != 0 {
            return Err(EINVAL);
        }
        Ok(SyncRequest { wanted, changed })
    }

    /// Returns whether registers are to be taken over.
    #[inline]
    pub(super) fn has_changed(self) -> bool {
        self.changed != 0
    }

    /// Returns whether registers are to be written.
    #[inline]
    pub(super) fn is_wanted(self) -> bool {
        self.wanted != 0
    }
}

/// Takes over what user space has changed. Returns whether the PDPTEs are to be loaded.
///
/// # Errors
/// `EINVAL` as the ioctls have it; what came before is in place.
#[cold]
#[inline(never)]
pub(super) fn load<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    pages: &RunPages,
    request: SyncRequest,
) -> Result<bool> {
    // In this order: taking registers over drops a pending exception, and events may bring one.
    if request.changed & abi::SYNC_REGS != 0 {
        regs::set_regs(core, &fetch::<abi_vcpu::Regs>(pages, REGS));
        done(pages, abi::SYNC_REGS);
    }
    let has_sregs = request.changed & abi::SYNC_SREGS != 0;
    if has_sregs {
        regs::set_sregs(&vm.machine, mailbox, core, &fetch::<abi_vcpu::Sregs>(pages, SREGS))?;
        done(pages, abi::SYNC_SREGS);
    }
    if request.changed & abi::SYNC_EVENTS != 0 {
        events::set(&vm.machine.choices, mailbox, core, &fetch::<VcpuEvents>(pages, EVENTS))?;
        done(pages, abi::SYNC_EVENTS);
    }
    Ok(has_sregs)
}

/// Writes what user space asked for.
#[cold]
#[inline(never)]
pub(super) fn store<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    pages: &RunPages,
    request: SyncRequest,
) {
    if request.wanted & abi::SYNC_REGS != 0 {
        pages.run.write(REGS, regs::regs(core).as_bytes());
    }
    if request.wanted & abi::SYNC_SREGS != 0 {
        pages.run.write(SREGS, regs::sregs(core).as_bytes());
    }
    if request.wanted & abi::SYNC_EVENTS != 0 {
        pages.run.write(EVENTS, events::get(&vm.machine.choices, mailbox, core).as_bytes());
    }
}

/// Copies a struct out of the page, once.
fn fetch<T: FromBytes + IntoBytes + FromZeros>(pages: &RunPages, at: usize) -> T {
    let mut value = T::new_zeroed();
    pages.run.read(at, value.as_mut_bytes());
    value
}

/// A group has been taken over.
fn done(pages: &RunPages, group: u64) {
    let left = pages.word(offset::DIRTY_REGS) & !group;
    pages.run.write(offset::DIRTY_REGS, &left.to_le_bytes());
}
