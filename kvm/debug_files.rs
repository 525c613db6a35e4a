// SPDX-License-Identifier: GPL-2.0

//! The module's folder in debugfs, and in it one for each VM. Only root reads there.
//!
//! What is in a VM's folder holds the VM, so that it can be read while the guest runs and while it dies. The folder is
//! the VM's fd's and goes with it; that waits for who reads a file of it just then. So what a file shows is gathered
//! without waiting for a vCPU or for anything else that may take long.

use super::observe::{show_counters, show_exits, ObservedHost, TakenName, VmWatch};
use super::vm_name::NameBuf;
use crate::machine::counters::DiskCounters;
use crate::vcpu::backend::Backend;
use crate::vcpu::vm::Vm;
use kernel::debugfs::{Dir, File};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The folder's files.
#[pin_data]
pub(crate) struct DebugFiles {
    #[pin]
    disks: File<&'static DiskCounters>,
    #[pin]
    counters: File<Arc<ObservedHost>>,
    #[pin]
    exits: File<Arc<ObservedHost>>,
}

impl DebugFiles {
    /// Makes them.
    pub(crate) fn new(all: &Arc<ObservedHost>) -> impl PinInit<DebugFiles, Error> + use<'_> {
        let (disks, folder) = (all.disks, &all.folder);
        try_pin_init!(DebugFiles {
            disks <- folder.read_callback_file(c"disks", disks, &|disks, f| disks.show(f)),
            counters <- folder.read_callback_file(c"counters", all.clone(), &|all, f| show_counters(all, None, f)),
            exits <- folder.read_callback_file(c"exits", all.clone(), &|all, f| show_exits(all, None, f)),
        }? Error)
    }
}

/// A VM's folder: `PID-FD`.
#[pin_data]
pub(super) struct VmFiles<B: Backend> {
    #[pin]
    counters: File<Arc<VmWatch>>,
    #[pin]
    exits: File<Arc<VmWatch>>,
    #[pin]
    report: File<Arc<VmWatch>>,
    #[pin]
    vcpus: File<Arc<Vm<B>>>,
    #[pin]
    chips: File<Arc<Vm<B>>>,
    #[pin]
    devices: File<Arc<Vm<B>>>,
    #[pin]
    memory: File<Arc<Vm<B>>>,
    // After what has the name.
    folder: Dir,
    _name: TakenName,
}

impl<B: Backend> VmFiles<B> {
    /// Makes the folder of a VM whose fd will be `fd`.
    ///
    /// # Errors
    /// `ENOMEM`. A folder or a file that debugfs does not make is not there, which is no error.
    pub(super) fn new(vm: &Arc<Vm<B>>, watch: &Arc<VmWatch>, fd: u32) -> Result<Pin<KBox<VmFiles<B>>>> {
        let taken = watch.take_name(fd)?;
        let folder = watch.folder().subdir(NameBuf::new(watch.name()).as_c_str());
        let at = folder.clone();
        let files = try_pin_init!(VmFiles {
            counters <- at.read_callback_file(c"counters", watch.clone(), &|vm, f| vm.show_counters(f)),
            exits <- at.read_callback_file(c"exits", watch.clone(), &|vm, f| vm.show_exits(f)),
            report <- at.read_callback_file(c"report", watch.clone(), &|vm, f| vm.report.show(f)),
            vcpus <- at.read_callback_file(c"vcpus", vm.clone(), &|vm, f| vm.machine.show_vcpus(f)),
            chips <- at.read_callback_file(c"chips", vm.clone(), &|vm, f| vm.machine.show_chips(f)),
            devices <- at.read_callback_file(c"devices", vm.clone(), &|vm, f| vm.machine.show_devices(f)),
            memory <- at.read_callback_file(c"memory", vm.clone(), &|vm, f| vm.machine.show_memory(f)),
            folder,
            _name: taken,
        }? Error);
        KBox::pin_init(files, GFP_KERNEL_ACCOUNT)
    }
}
