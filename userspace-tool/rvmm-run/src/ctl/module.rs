// SPDX-License-Identifier: GPL-2.0

//! Loads and unloads the module, and says what each CPU has.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::error::CtlError;
use super::show::output;
use crate::cmd::check::processor;
use crate::klog;

/// The module's folder in sysfs, while it is loaded.
const LOADED: &str = "/sys/module/rvmm";

/// Loads the module, unless it is loaded, and says of each CPU what it has for guests.
///
/// # Errors
/// Why it cannot be loaded.
pub fn enable() -> Result<(), CtlError> {
    let was_loaded = Path::new(LOADED).exists();
    if !was_loaded {
        run("modprobe", &["rvmm"])?;
    }
    output(&findings(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()))?;
    output(if was_loaded { "the module was loaded already\n" } else { "the module is loaded\n" })
}

/// Unloads the module.
///
/// # Errors
/// Why it cannot be: a VM runs, for instance.
pub fn disable() -> Result<(), CtlError> {
    if !Path::new(LOADED).exists() {
        return output("the module is not loaded\n");
    }
    run("rmmod", &["rvmm"])?;
    output("the module is unloaded\n")
}

fn run(program: &'static str, args: &[&str]) -> Result<(), CtlError> {
    let done = Command::new(program).args(args).output();
    let done = done.map_err(|e| CtlError::Other(format!("{program}: {}", crate::errno::explain(&e))))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_string();
    Err(CtlError::Other(match klog::newest() {
        Some(text) => format!("{said}\nthe module says: {text}"),
        None => said,
    }))
}

/// Returns a line for each CPU of `/proc/cpuinfo`.
fn findings(cpuinfo: &str) -> String {
    let cpus = cpuinfo.split("\n\n").filter(|cpu| !cpu.trim().is_empty());
    let lines: Vec<String> =
        cpus.enumerate().map(|(id, cpu)| format!("cpu {id}: {}", processor(cpu))).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cpu_has_its_line() {
        let text = findings("processor : 0\nflags : svm npt\n\nprocessor : 1\nflags : fpu\n\n");

        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("cpu 0: ok") && text.contains("cpu 1: LACKS"), "{text}");
    }
}
