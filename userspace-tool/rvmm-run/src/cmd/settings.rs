// SPDX-License-Identifier: GPL-2.0

//! From the command line to the VM that it asks for.

use nix::unistd::Uid;

use crate::config::cli::CommandLine;
use crate::config::file;
use crate::config::file::find::{folders, FileArgument};
use crate::config::spec::{SpecLayer, VmSpec};
use crate::error::ToolError;

/// Puts the settings of the command line and of the file that it names together.
///
/// # Errors
/// `Config` with all that is wrong with the file; `NoKernel`.
pub fn gather(cli: &CommandLine) -> Result<VmSpec, ToolError> {
    let below = match &cli.file {
        Some(name) => {
            let folders = folders(Uid::effective().is_root(), |name| std::env::var_os(name));
            let path = FileArgument::new(name).find(folders.iter().map(|folder| folder.as_path()));
            let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let of_file = SpecLayer { name, ..SpecLayer::default() };
            file::load(&path, &folders).map_err(ToolError::Config)?.over(of_file)
        }
        None => SpecLayer::default(),
    };
    cli.layer().over(below).finish().map_err(ToolError::NoKernel)
}
