// SPDX-License-Identifier: GPL-2.0

//! The vCPUs of this machine for whoever looks into debugfs: their counters, and their last exits.

use super::stats::COUNTERS;
use crate::vcpu::record::{ExitClass, VcpuRecord};
use core::sync::atomic::Ordering::Relaxed;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

/// The vCPUs that there are.
#[pin_data]
pub(crate) struct Observed {
    #[pin]
    vcpus: Mutex<KVec<Option<Arc<VcpuRecord>>>>,
}

impl Observed {
    /// None yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Observed>> {
        Arc::pin_init(pin_init!(Observed { vcpus <- new_mutex!(KVec::new()) }), GFP_KERNEL)
    }
}

/// Lists a vCPU until the answer is dropped.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn list(observed: &Arc<Observed>, vcpu: Arc<VcpuRecord>) -> Result<Listed> {
    let mut places = observed.vcpus.lock();
    if !places.iter().any(Option::is_none) {
        *places = grown(&places)?;
    }
    if let Some(place) = places.iter_mut().find(|p| p.is_none()) {
        *place = Some(vcpu.clone());
    }
    Ok(Listed { observed: observed.clone(), vcpu })
}

/// Returns a list of the same with twice as many places.
fn grown(old: &[Option<Arc<VcpuRecord>>]) -> Result<KVec<Option<Arc<VcpuRecord>>>> {
    let size = old.len().saturating_mul(2).max(4);
    let mut new = KVec::with_capacity(size, GFP_KERNEL_ACCOUNT)?;
    for i in 0..size {
        new.push_within_capacity(old.get(i).cloned().flatten())?;
    }
    Ok(new)
}

/// A vCPU that is listed.
pub(super) struct Listed {
    observed: Arc<Observed>,
    vcpu: Arc<VcpuRecord>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut places = self.observed.vcpus.lock();
        let is_it =
            |p: &&mut Option<Arc<VcpuRecord>>| p.as_ref().is_some_and(|v| core::ptr::eq(&**v, &*self.vcpu));
        if let Some(place) = places.iter_mut().find(is_it) {
            *place = None;
        }
    }
}

fn text(name: &[u8]) -> &str {
    core::str::from_utf8(name).unwrap_or("?")
}

/// Writes the counters down: a line for each counter of each vCPU, and one for each histogram, with the
/// buckets that are not empty as "less than ticks: exits".
pub(crate) fn show_counters(observed: &Observed, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
    for v in observed.vcpus.lock().iter().flatten() {
        for (name, at) in COUNTERS {
            writeln!(f, "{}/{} {} {}", v.pid, v.id, text(name), at(v).load(Relaxed))?;
        }
        let Some(times) = &v.times else { continue };
        for (class, name) in ExitClass::ALL {
            write!(f, "{}/{} {}", v.pid, v.id, text(name))?;
            for (bits, bucket) in (0u32..).zip(times.of(class)) {
                let n = bucket.load(Relaxed);
                if n != 0 {
                    write!(f, " {}:{}", 1u64.wrapping_shl(bits), n)?;
                }
            }
            writeln!(f)?;
        }
    }
    Ok(())
}

/// Writes the last exits down, a line each, oldest first: vCPU, RIP, and what the processor reported.
pub(crate) fn show_exits(observed: &Observed, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
    for v in observed.vcpus.lock().iter().flatten() {
        for (rip, raw) in v.recorder.iter() {
            writeln!(f, "{}/{} {:#x} {:#x} {:#x} {:#x}", v.pid, v.id, rip, raw.reason, raw.info1, raw.info2)?;
        }
    }
    Ok(())
}
