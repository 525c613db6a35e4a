// SPDX-License-Identifier: GPL-2.0

//! The pure part of the SVM backend.

use crate::vcpu::exit::{RawExit, VmExit};

#[path = "../../../svm/caching.rs"]
pub(crate) mod caching;
#[path = "../../../svm/exit.rs"]
mod exit;
#[path = "../../../svm/features.rs"]
pub(crate) mod features;
#[path = "../../../svm/step.rs"]
pub(crate) mod step;
#[path = "../../../svm/vmcb.rs"]
pub(crate) mod vmcb;

/// The backend's own view of which exit codes are no exits.
pub(crate) fn is_refused(code: u64) -> bool {
    exit::is_refused(code)
}

/// The backend's own view of its decoder.
pub(crate) fn decode(raw: RawExit) -> VmExit {
    exit::decode(raw)
}
