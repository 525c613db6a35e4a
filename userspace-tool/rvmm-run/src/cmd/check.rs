// SPDX-License-Identifier: GPL-2.0

//! `--check`: says, one line each, what the host has and lacks.

use std::fmt;
use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

use crate::config::memory::{host_memory, human};
use crate::errno;
use crate::events::{message, print};
use crate::exit_status::ExitStatus;
use crate::vm::device_types;
use crate::vm::machine::{open_node, REQUIRED_CAPS};

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is there.
    Has(String),
    /// It is missing but a run is possible.
    Slow(String),
    /// It is missing and needed.
    Lacks(String),
}

/// Runs every check and prints the findings.
pub fn run(node: &Path) -> ExitStatus {
    let findings = findings(node);
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    if let Err(e) = print(&(lines.join("\n") + "\n")) {
        message(&format!("cannot write to standard output: {}", errno::explain(&e)));
        return ExitStatus::HostError;
    }
    if findings.iter().any(|finding| matches!(finding, Finding::Lacks(_))) {
        return ExitStatus::BadInput;
    }
    ExitStatus::PowerOff
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Has(text) => write!(f, "ok     {text}"),
            Self::Slow(text) => write!(f, "note   {text}"),
            Self::Lacks(text) => write!(f, "LACKS  {text}"),
        }
    }
}

fn findings(node: &Path) -> Vec<Finding> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut all = vec![processor(&cpuinfo), memory(), large_pages()];
    match open_node(node) {
        Err(e) => all.push(Finding::Lacks(e.to_string())),
        Ok(kvm) => {
            all.push(Finding::Has(format!("{} speaks KVM API version 12", node.display())));
            all.extend(capabilities(&kvm));
            all.extend(devices(&kvm));
        }
    }
    all
}

/// Hardware virtualisation, by the flags of `/proc/cpuinfo`.
pub fn processor(cpuinfo: &str) -> Finding {
    let mut flags = cpuinfo.lines().filter_map(|l| l.split_once(':')).filter(|(k, _)| k.trim() == "flags");
    let Some((_, flags)) = flags.next() else {
        return Finding::Slow("the processor's features are unknown: /proc/cpuinfo has no flags".into());
    };
    let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
    match (has("svm"), has("vmx")) {
        (true, _) if !has("npt") => Finding::Slow("the processor has AMD SVM without nested paging: shadow pages are slower".into()),
        (true, _) => Finding::Has("the processor has AMD SVM with nested paging".into()),
        (_, true) if !has("ept") => Finding::Slow("the processor has Intel VMX without extended page tables: shadow pages are slower".into()),
        (_, true) => Finding::Has("the processor has Intel VMX with extended page tables".into()),
        _ => Finding::Lacks(
            "hardware virtualisation: no AMD SVM or Intel VMX; switch it on in the firmware (or, in a VM, in the outer hypervisor)".into(),
        ),
    }
}

fn memory() -> Finding {
    match host_memory() {
        0 => Finding::Slow("the size of the host's memory is unknown".into()),
        bytes => Finding::Has(format!("{} of memory", human(bytes))),
    }
}

fn large_pages() -> Finding {
    let mode = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if mode.contains("[always]") || mode.contains("[madvise]") {
        return Finding::Has("transparent huge pages for guest memory".into());
    }
    Finding::Slow("no transparent huge pages: guests run slower; write madvise to /sys/kernel/mm/transparent_hugepage/enabled".into())
}

fn capabilities(kvm: &Kvm) -> Vec<Finding> {
    let mut all: Vec<Finding> = REQUIRED_CAPS.iter().map(|(_, name)| Finding::Has((*name).into())).collect();
    all.push(Finding::Has(format!("up to {} virtual CPUs per VM", kvm.get_max_vcpus())));
    for (cap, name) in [(Cap::TscDeadlineTimer, "TSC deadline timer"), (Cap::ImmediateExit, "immediate exit")]
    {
        all.push(match kvm.check_extension(cap) {
            true => Finding::Has(name.into()),
            false => Finding::Slow(format!("the module has no {name}")),
        });
    }
    all
}

/// Asks a VM of our own for each device type.
fn devices(kvm: &Kvm) -> Vec<Finding> {
    let vm = match kvm.create_vm() {
        Ok(vm) => vm,
        Err(e) => return vec![Finding::Lacks(format!("a VM cannot be created: {e}; see dmesg"))],
    };
    let known = |(kind, name): &(u32, &str)| match device_types::is_known(&vm, *kind) {
        true => Finding::Has((*name).into()),
        false => Finding::Lacks(format!("{name}: load the rvmm.ko that belongs to this tool")),
    };
    device_types::TYPES.iter().map(known).collect()
}
