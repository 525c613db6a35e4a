// SPDX-License-Identifier: GPL-2.0

//! `--print-config`: shows what would run.

use crate::config::file::print::render;
use crate::config::spec::VmSpec;
use crate::error::ToolError;
use crate::events::print;

/// Prints the VM as a configuration file.
///
/// # Errors
/// `Host` when standard output takes nothing.
pub fn run(spec: &VmSpec) -> Result<(), ToolError> {
    print(&render(spec)).map_err(ToolError::io("write to standard output"))
}
