// SPDX-License-Identifier: GPL-2.0

//! The module's folder in debugfs.

use super::observe::{show_counters, show_exits, Observed};
use super::sys::NodeContext;
use crate::machine::counters::DiskCounters;
use kernel::debugfs::{Dir, File};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The folder and its files.
#[pin_data]
pub(crate) struct DebugFiles {
    folder: Dir,
    #[pin]
    disks: File<&'static DiskCounters>,
    #[pin]
    counters: File<Arc<Observed>>,
    #[pin]
    exits: File<Arc<Observed>>,
}

impl DebugFiles {
    /// Makes them, for whoever looks at what `node` knows.
    pub(crate) fn new(node: &NodeContext) -> impl PinInit<DebugFiles, Error> + use<> {
        let (disks, vcpus) = (node.settings.disks, node.observed.clone());
        try_pin_init!(DebugFiles {
            folder: Dir::new(c"rvmm"),
            disks <- folder.read_callback_file(c"disks", disks, &|disks, f| disks.show(f)),
            counters <- folder.read_callback_file(c"counters", vcpus.clone(), &|vcpus, f| show_counters(vcpus, f)),
            exits <- folder.read_callback_file(c"exits", vcpus, &|vcpus, f| show_exits(vcpus, f)),
        }? Error)
    }
}
