// SPDX-License-Identifier: GPL-2.0

//! A vCPU's last exits, for whoever wants to know how it came to where it is.

use super::user;
use crate::abi::rvmm::{ExitRecord, ExitsHeader, MAX_EXITS};
use crate::host::log;
use crate::vcpu::backend::Backend;
use crate::vcpu::record::VcpuRecord;
use kernel::prelude::*;

/// RVMM_GET_EXITS: writes the exits to user address `arg`, oldest first.
///
/// # Errors
/// `ENOMEM`, `EFAULT`.
pub(super) fn exits<B: Backend>(record: &VcpuRecord, arg: u64) -> Result<i64> {
    let mut records = KVec::with_capacity(MAX_EXITS, GFP_KERNEL)?;
    for (rip, raw) in record.recorder.iter().take(MAX_EXITS) {
        let exit = ExitRecord { rip, reason: raw.reason, info1: raw.info1, info2: raw.info2 };
        records.push_within_capacity(exit)?;
    }
    user::write(arg, &ExitsHeader { count: records.len() as u32, vendor: B::VENDOR })?;
    user::write_array::<ExitsHeader, _>(arg, &records)?;
    Ok(0)
}

/// Says in the kernel's log why a vCPU cannot go on.
pub(super) fn report(record: &VcpuRecord, bug: crate::vcpu::outcome::VmBug) {
    if log::may_write() {
        pr_warn!("vcpu {} of process {} stopped: {}: {:x?}\n", record.id, record.pid, bug.cause(), bug);
    }
}
