// SPDX-License-Identifier: GPL-2.0

//! A vCPU's last exits, and what is known of one that could not go on.
//!
//! The newest report of each VM is kept until the VM goes; its fd shows it. The kernel's log has one line of it, for what
//! is no end that guests have every day, at most once in [`QUIET_NS`] for each VM: who makes one VM die again and again
//! takes no line from another.

use super::vm_name::VmName;
use super::{regs, user};
use crate::abi::rvmm::{ExitRecord, ExitsHeader, MAX_EXITS};
use crate::abi::vcpu as abi;
use crate::arch::time::Ns;
use crate::host::{log, timer};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::outcome::UserExit;
use crate::vcpu::record::VcpuRecord;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::fmt::Formatter;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Mutex;

/// RVMM_GET_EXITS: writes the exits to user address `arg`, oldest first.
///
/// # Errors
/// `ENOMEM`, `EFAULT`.
pub(super) fn exits<B: VendorBackend>(record: &VcpuRecord, arg: u64) -> Result<i64> {
    let records = last_exits(record)?;
    user::write(arg, &ExitsHeader { count: records.len() as u32, vendor: B::VENDOR })?;
    user::write_array::<ExitsHeader, _>(arg, &records)?;
    Ok(0)
}

/// Copies a vCPU's last exits, oldest first.
///
/// # Errors
/// `ENOMEM`.
fn last_exits(record: &VcpuRecord) -> Result<KVec<ExitRecord>> {
    let mut records = KVec::with_capacity(MAX_EXITS, GFP_KERNEL_ACCOUNT)?;
    for (rip, raw) in record.recorder.iter().take(MAX_EXITS) {
        let exit = ExitRecord { rip, reason: raw.reason, info1: raw.info1, info2: raw.info2 };
        records.push_within_capacity(exit)?;
    }
    Ok(records)
}

/// How long a VM's next line in the log waits for its last one.
const QUIET_NS: u64 = 5_000_000_000;

/// Why a vCPU of a VM last could not go on.
#[pin_data]
pub(super) struct LastReport {
    #[pin]
    kept: Mutex<Option<KBox<StopReport>>>,
    /// When the log may have the next line.
    quiet_until: AtomicU64,
}

/// One such end.
struct StopReport {
    vcpu: u32,
    exit: UserExit,
    cause: &'static str,
    /// The rule that the entry broke, or nothing.
    rule: &'static str,
    regs: abi::Regs,
    sregs: abi::Sregs,
    exits: KVec<ExitRecord>,
}

impl LastReport {
    /// None yet.
    pub(super) fn new() -> impl PinInit<LastReport> {
        pin_init!(LastReport { kept <- new_mutex!(None), quiet_until: AtomicU64::new(0) })
    }

    /// Notes that a vCPU of `vm` returns with `exit`, its end. Without memory for it the report is lost.
    pub(super) fn note<B: VendorBackend>(
        &self,
        vm: VmName,
        record: &VcpuRecord,
        core: &mut VcpuCore<B>,
        exit: UserExit,
    ) {
        let cause = match exit {
            UserExit::Bug(bug) => bug.cause(),
            UserExit::Shutdown => "triple fault",
            UserExit::Undeliverable { .. } => "an event whose delivery meets no memory",
            _ => return,
        };
        // Taken out, or the next end, of whatever kind, would be said to break it too.
        let rule = core::mem::take(&mut core.state.broken_rule);
        let colon = if rule.is_empty() { "" } else { ": " };
        if let UserExit::Bug(bug) = exit {
            if self.may_log(timer::now()) {
                let VmName { pid, fd, .. } = vm;
                pr_warn!("VM {pid}-{fd}: vcpu {} stopped: {cause}{colon}{rule}: {bug:x?}\n", record.id);
            }
        }
        if let Ok(report) = StopReport::new(record, core, exit, cause, rule) {
            let old = self.kept.lock().replace(report);
            // Freed without the lock.
            drop(old);
        }
    }

    /// Returns whether the log may have a line at `now`.
    fn may_log(&self, now: Ns) -> bool {
        let until = self.quiet_until.load(Relaxed);
        // Of two vCPUs that die at once, the second may take the line of the first's: one is enough.
        now.0 >= until && log::may_write() && {
            self.quiet_until.store(now.0.saturating_add(QUIET_NS), Relaxed);
            true
        }
    }

    /// Writes the newest report down: the cause, the registers, and the exits that led to it, oldest first.
    pub(super) fn show(&self, f: &mut Formatter<'_>) -> kernel::fmt::Result {
        let kept = self.kept.lock();
        let Some(report) = kept.as_ref() else { return Ok(()) };
        let StopReport { vcpu, exit, cause, rule, regs, sregs, exits } = &**report;
        writeln!(f, "vcpu {vcpu} stopped: {cause}")?;
        if !rule.is_empty() {
            writeln!(f, "rule {rule}")?;
        }
        writeln!(f, "exit {exit:x?}")?;
        writeln!(f, "{regs:x?}")?;
        writeln!(f, "{sregs:x?}")?;
        for ExitRecord { rip, reason, info1, info2 } in exits {
            writeln!(f, "{rip:#x} {reason:#x} {info1:#x} {info2:#x}")?;
        }
        Ok(())
    }
}

impl StopReport {
    /// Gathers what is known of the vCPU.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn new<B: VendorBackend>(
        record: &VcpuRecord,
        core: &mut VcpuCore<B>,
        exit: UserExit,
        cause: &'static str,
        rule: &'static str,
    ) -> Result<KBox<StopReport>> {
        let exits = last_exits(record)?;
        let (sregs, regs) = (regs::sregs(core), regs::regs(core));
        let report = StopReport { vcpu: record.id, exit, cause, rule, regs, sregs, exits };
        Ok(KBox::new(report, GFP_KERNEL_ACCOUNT)?)
    }
}
