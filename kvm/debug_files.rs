// SPDX-License-Identifier: GPL-2.0

//! The module's folder in debugfs, about all VMs together. Only root reads there. What there is of one VM shows its fd,
//! in /proc/PID/fdinfo: see `VmFile::show`.

use super::observe::{show_counters, show_exits, ObservedHost};
use crate::machine::counters::DiskCounters;
use kernel::debugfs::File;
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
