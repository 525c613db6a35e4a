// SPDX-License-Identifier: GPL-2.0

//! The VMs and vCPUs of this host for whoever looks: names, counters, and the last exits.

use super::recorder::LastReport;
use super::stats::COUNTERS;
use super::vm_name::VmName;
use crate::machine::counters::DiskCounters;
use crate::vcpu::record::{ExitClass, VcpuRecord};
use core::sync::atomic::Ordering::Relaxed;
use kernel::debugfs::Dir;
use kernel::fmt::Formatter;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex, SetOnce};

/// What there is to be looked at.
#[pin_data]
pub(crate) struct ObservedHost {
    /// The module's folder.
    pub(crate) folder: Dir,
    /// What all disks count together.
    pub(super) disks: &'static DiskCounters,
    /// The vCPUs, each with its VM.
    #[pin]
    vcpus: Mutex<SparseList<(Arc<VmWatch>, Arc<VcpuRecord>)>>,
}

impl ObservedHost {
    /// Nothing yet but the folder.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(disks: &'static DiskCounters) -> Result<Arc<ObservedHost>> {
        Arc::pin_init(
            pin_init!(ObservedHost {
                folder: Dir::new(c"rvmm"),
                disks,
                vcpus <- new_mutex!(SparseList(KVec::new())),
            }),
            GFP_KERNEL,
        )
    }
}

/// A list whose places are used again.
struct SparseList<T>(KVec<Option<T>>);

impl<T: Clone> SparseList<T> {
    /// Puts an item in.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn put(&mut self, item: T) -> Result {
        if !self.0.iter().any(Option::is_none) {
            let size = self.0.len().saturating_mul(2).max(4);
            let mut more = KVec::with_capacity(size, GFP_KERNEL_ACCOUNT)?;
            for i in 0..size {
                more.push_within_capacity(self.0.get(i).cloned().flatten())?;
            }
            self.0 = more;
        }
        if let Some(place) = self.0.iter_mut().find(|p| p.is_none()) {
            *place = Some(item);
        }
        Ok(())
    }

    fn remove(&mut self, is_it: impl Fn(&T) -> bool) {
        if let Some(place) = self.0.iter_mut().find(|p| p.as_ref().is_some_and(&is_it)) {
            *place = None;
        }
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}

/// A VM as it is looked at: shared by its fd and those of its vCPUs.
#[pin_data]
pub(crate) struct VmWatch {
    observed: Arc<ObservedHost>,
    name: SetOnce<VmName>,
    /// Why a vCPU last could not go on.
    #[pin]
    pub(super) report: LastReport,
}

impl VmWatch {
    /// Looks at a VM that has no name yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(observed: Arc<ObservedHost>) -> Result<Arc<VmWatch>> {
        Arc::pin_init(
            pin_init!(VmWatch { observed, name: SetOnce::new(), report <- LastReport::new() }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the VM's name.
    pub(crate) fn name(&self) -> VmName {
        self.name.as_ref().copied().unwrap_or_default()
    }

    /// Names the VM for its fd in the calling process.
    pub(crate) fn set_name(&self, fd: u32) {
        self.name.populate(VmName { pid: kernel::current!().group_leader().pid(), fd });
    }

    /// Lists a vCPU until the answer is dropped.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn list(this: &Arc<VmWatch>, vcpu: Arc<VcpuRecord>) -> Result<ListedVcpu> {
        this.observed.vcpus.lock().put((this.clone(), vcpu.clone()))?;
        Ok(ListedVcpu { observed: this.observed.clone(), vcpu })
    }

    /// Writes down the counters of the VM's vCPUs: see [`show_counters`].
    pub(super) fn show_counters(&self, f: &mut Formatter<'_>) -> kernel::fmt::Result {
        show_counters(&self.observed, Some(self), f)
    }

    /// Writes down the last exits of the VM's vCPUs: see [`show_exits`].
    pub(super) fn show_exits(&self, f: &mut Formatter<'_>) -> kernel::fmt::Result {
        show_exits(&self.observed, Some(self), f)
    }
}

/// A vCPU that is listed.
pub(super) struct ListedVcpu {
    observed: Arc<ObservedHost>,
    vcpu: Arc<VcpuRecord>,
}

impl Drop for ListedVcpu {
    fn drop(&mut self) {
        self.observed.vcpus.lock().remove(|(_, v)| core::ptr::eq(&**v, &*self.vcpu));
    }
}

fn text(name: &[u8]) -> &str {
    core::str::from_utf8(name).unwrap_or("?")
}

fn is_of(vm: &Arc<VmWatch>, only: Option<&VmWatch>) -> bool {
    only.is_none_or(|only| core::ptr::eq(&**vm, only))
}

/// Writes the counters down, of `only` one VM or of all: a line for each counter of each vCPU, and one for each
/// histogram, with the buckets that are not empty as "less than ticks: exits".
pub(super) fn show_counters(
    observed: &ObservedHost,
    only: Option<&VmWatch>,
    f: &mut Formatter<'_>,
) -> kernel::fmt::Result {
    for (_, v) in observed.vcpus.lock().iter().filter(|(vm, _)| is_of(vm, only)) {
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
pub(super) fn show_exits(
    observed: &ObservedHost,
    only: Option<&VmWatch>,
    f: &mut Formatter<'_>,
) -> kernel::fmt::Result {
    for (_, v) in observed.vcpus.lock().iter().filter(|(vm, _)| is_of(vm, only)) {
        for (rip, raw) in v.recorder.iter() {
            writeln!(f, "{}/{} {:#x} {:#x} {:#x} {:#x}", v.pid, v.id, rip, raw.reason, raw.info1, raw.info2)?;
        }
    }
    Ok(())
}
