// SPDX-License-Identifier: GPL-2.0

//! What `rvmmctl` shows, as text.

use std::collections::BTreeSet;

use super::error::CtlError;
use crate::config::memory::human;
use crate::control::feed::{FeedItem, VmEvent};
use crate::control::protocol::{VmState, VmStats, VmStatus};
use crate::events::print;

/// Writes text to standard output.
///
/// # Errors
/// `Host` when it takes nothing.
pub fn output(text: &str) -> Result<(), CtlError> {
    print(text).map_err(|e| CtlError::Host("write to standard output", e))
}

/// Returns rows as columns, each as wide as it has to be.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

fn state(state: VmState) -> &'static str {
    match state {
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Stopping => "stopping",
    }
}

/// Returns a time as people say it.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

/// Returns the table of what runs.
pub fn list(vms: &[VmStatus]) -> String {
    let head = ["ID", "NAME", "STATE", "CPUS", "MEMORY", "USED", "DISKS", "CONSOLE", "UPTIME"];
    let row = |vm: &VmStatus| {
        vec![
            vm.pid.to_string(),
            vm.name.clone(),
            state(vm.state).into(),
            vm.cpus.to_string(),
            human(vm.memory),
            human(vm.memory_used),
            vm.disks.len().to_string(),
            vm.console.clone(),
            duration(vm.uptime_ms),
        ]
    };
    let rows: Vec<_> = [head.map(String::from).to_vec()].into_iter().chain(vms.iter().map(row)).collect();
    table(&rows)
}

/// Returns what a VM is like, a line each.
pub fn status(vm: &VmStatus) -> String {
    let mut rows = vec![
        ("name", vm.name.clone()),
        ("id", vm.pid.to_string()),
        ("state", state(vm.state).into()),
        ("cpus", vm.cpus.to_string()),
        ("memory", human(vm.memory)),
        ("used", human(vm.memory_used)),
        ("console", vm.console.clone()),
        ("uptime", duration(vm.uptime_ms)),
        ("resets", vm.resets.to_string()),
    ];
    for disk in &vm.disks {
        rows.push(("disk", disk.path.clone() + if disk.read_only { " (read-only)" } else { "" }));
    }
    rows.extend(vm.nets.iter().map(|net| ("net", net.clone())));
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_string(), value]).collect();
    table(&rows)
}

/// Returns the counters, a column for each virtual CPU.
pub fn stats(stats: &VmStats) -> String {
    let names: BTreeSet<&String> = stats.vcpus.iter().flat_map(|cpu| cpu.keys()).collect();
    let head = (0..stats.vcpus.len()).map(|id| format!("vcpu {id}"));
    let mut rows = vec![["counter".to_string()].into_iter().chain(head).collect::<Vec<_>>()];
    for name in names {
        let values = stats.vcpus.iter().map(|cpu| cpu.get(name).map_or("-".into(), u64::to_string));
        rows.push([name.clone()].into_iter().chain(values).collect());
    }
    for (id, failed) in stats.failed_disk_requests.iter().enumerate() {
        rows.push(vec![format!("disk{id}_failed"), failed.to_string()]);
    }
    table(&rows)
}

/// Returns an event as a line, with its time of day in UTC.
pub fn event(item: &FeedItem) -> String {
    let seconds = item.at_ms / 1000;
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let text = match &item.event {
        VmEvent::Started => "-- the guest is started".to_string(),
        VmEvent::Paused => "-- the guest is paused".to_string(),
        VmEvent::Resumed => "-- the guest goes on".to_string(),
        VmEvent::Reset => "-- the guest is started anew".to_string(),
        VmEvent::PowerButton => "-- its power button is pressed".to_string(),
        VmEvent::Log { text } => text.clone(),
        VmEvent::Ended { code } => format!("-- the run has ended with {code}"),
    };
    format!("{h:02}:{m:02}:{s:02}Z {text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_have_to_be() {
        let rows = [vec!["A".to_string(), "B".into()], vec!["long".to_string(), "é".into()]];

        assert_eq!(table(&rows), "A     B\nlong  é\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn times_are_said_as_people_do() {
        let of = |seconds: u64| duration(seconds * 1000);

        assert_eq!([of(5), of(61), of(3700), of(90_000)], ["5s", "1m01s", "1h01m", "1d01h"]);
    }
}
