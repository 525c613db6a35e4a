// SPDX-License-Identifier: GPL-2.0

//! Starts a VM in the background: by `rvmm-run`, and waits until its guest runs.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;

use super::console;
use super::error::CtlError;
use crate::cmd::settings::gather;
use crate::config::cli;
use crate::config::console::ConsoleSpec;
use crate::config::name::VmName;
use crate::control::client::ControlClient;
use crate::control::protocol::{Request, VmState, VmStatus};

/// Pause between two looks whether it runs.
const LOOK: Duration = Duration::from_millis(20);

/// Starts the VM of a file, or of its name. Returns the exit code: that of the run where it ends before it has begun.
///
/// # Errors
/// What is wrong with the file; what the host or the VM refuses.
pub fn run(folder: &Path, file: &str, with_console: bool) -> Result<u8, CtlError> {
    let line = cli::CommandLine::try_parse_from(["rvmm-run", "-f", file])
        .map_err(|e| CtlError::Other(e.to_string()))?;
    let spec = gather(&line).map_err(CtlError::Tool)?;
    let name = spec.name.ok_or_else(|| CtlError::Other(format!("'{file}' gives the VM no name")))?;
    let mut command = Command::new(program());
    command.args(["-f", file]);
    if spec.console == ConsoleSpec::Stdio {
        // There is no terminal in the background.
        command.args(["--console", "none"]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|e| CtlError::Host("start rvmm-run", e))?;
    let stderr = child.stderr.take();
    // Read all the time, so that it never waits for this program.
    let said = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let Some(vm) = wait_until_it_runs(&mut child, folder, &name)? else {
        let code = child.wait().ok().and_then(|status| status.code()).unwrap_or(1);
        eprint!("{}", said.join().unwrap_or_default());
        return Ok(u8::try_from(code).unwrap_or(1));
    };
    if with_console {
        console::attach(vm, true, u32::MAX)?;
    }
    Ok(0)
}

/// Returns a connection to the VM once its guest runs; `None` if the run ends before.
fn wait_until_it_runs(
    child: &mut Child,
    folder: &Path,
    name: &VmName,
) -> Result<Option<ControlClient>, CtlError> {
    loop {
        if child.try_wait().map_err(|e| CtlError::Host("wait for rvmm-run", e))?.is_some() {
            return Ok(None);
        }
        if let Ok(mut vm) = ControlClient::connect(folder, name) {
            let is_ours = vm.hello().pid == child.id();
            match vm.ask::<VmStatus>(&Request::Status {}) {
                Ok(status) if is_ours && status.state != VmState::Starting => return Ok(Some(vm)),
                _ => {}
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// The `rvmm-run` that belongs to this program: beside it, or on the path.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("rvmm-run")));
    beside.filter(|path| path.exists()).unwrap_or_else(|| "rvmm-run".into())
}
