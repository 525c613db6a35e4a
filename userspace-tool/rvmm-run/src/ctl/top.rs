// SPDX-License-Identifier: GPL-2.0

//! Rates of what the module counts, as they go: on a terminal in one place, elsewhere a block of lines each time.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::error::CtlError;
use super::show::{self, output};
use crate::config::name::VmName;
use crate::control::client::ControlClient;
use crate::control::place;
use crate::control::protocol::{Request, VmStats, VmStatus};

/// The counters that are shown: all exits, then classes of them.
const COLUMNS: [(&str, &str); 9] = [
    ("exits", "EXITS/s"),
    ("io_exits", "PORT"),
    ("mmio_exits", "MMIO"),
    ("msr_exits", "MSR"),
    ("cpuid_exits", "CPUID"),
    ("pf_taken", "FAULT"),
    ("halt_exits", "HALT"),
    ("irq_exits", "HOST IRQ"),
    ("irq_injections", "IRQ IN"),
];

/// What was counted at a moment, by VM.
type Counted = BTreeMap<String, (VmStatus, VmStats)>;

/// Shows rates until the user types q, or `count` times.
///
/// # Errors
/// When standard output takes nothing.
pub fn run(folder: &Path, names: &[VmName], interval: u32, count: Option<u32>) -> Result<(), CtlError> {
    let is_terminal = io::stdout().is_terminal();
    let mut before = look(folder, names);
    for n in 0.. {
        if count.is_some_and(|count| n >= count) || wait(Duration::from_secs(interval.into()), is_terminal) {
            break;
        }
        let now = look(folder, names);
        let text = render(&before, &now);
        output(&if is_terminal { format!("\x1b[H\x1b[2J{text}") } else { text + "\n" })?;
        before = now;
    }
    Ok(())
}

/// Asks every VM that answers.
fn look(folder: &Path, names: &[VmName]) -> Counted {
    let names = if names.is_empty() { place::names(folder) } else { names.to_vec() };
    let ask = |name: VmName| {
        let mut vm = ControlClient::connect(folder, &name).ok()?;
        let status = vm.ask(&Request::Status {}).ok()?;
        Some((name.to_string(), (status, vm.ask(&Request::Stats {}).ok()?)))
    };
    names.into_iter().filter_map(ask).collect()
}

/// Waits. Returns whether a line on the terminal says that it is enough.
fn wait(time: Duration, is_terminal: bool) -> bool {
    let stdin = io::stdin();
    if !is_terminal || !stdin.is_terminal() {
        std::thread::sleep(time);
        return false;
    }
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, limit) {
            Ok(n) if n > 0 => {
                let mut line = String::new();
                let read = stdin.read_line(&mut line).unwrap_or(0);
                if read == 0 || line.starts_with('q') {
                    return true;
                }
            }
            _ if left.is_zero() => return false,
            _ => {}
        }
    }
}

/// Returns what happened between two moments, per second. A VM that was reset meanwhile counts from its start.
fn render(before: &Counted, now: &Counted) -> String {
    let head = ["NAME", "STATE", "USED"].into_iter().chain(COLUMNS.map(|(_, title)| title));
    let mut rows = vec![head.map(String::from).collect::<Vec<_>>()];
    for (name, (status, stats)) in now {
        let old = before.get(name).filter(|(old, _)| old.pid == status.pid && old.resets == status.resets);
        let old = old.map(|(_, stats)| stats);
        let ms = stats.uptime_ms.saturating_sub(old.map_or(0, |old| old.uptime_ms)).max(1);
        let state = serde_json::to_value(status.state).unwrap_or_default();
        let mut row = vec![
            name.clone(),
            state.as_str().unwrap_or("?").to_string(),
            crate::config::memory::human(status.memory_used >> 20 << 20),
        ];
        for (counter, _) in COLUMNS {
            let more = sum(stats, counter).saturating_sub(old.map_or(0, |old| sum(old, counter)));
            row.push((more.saturating_mul(1000) / ms).to_string());
        }
        rows.push(row);
    }
    show::table(&rows)
}

/// A counter of all virtual CPUs.
fn sum(stats: &VmStats, counter: &str) -> u64 {
    stats.vcpus.iter().filter_map(|cpu| cpu.get(counter)).fold(0, |sum, n| sum.saturating_add(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::VmState;

    fn counted(pid: u32, uptime_ms: u64, exits: u64) -> Counted {
        let status = VmStatus {
            pid,
            name: "web".into(),
            state: VmState::Running,
            cpus: 2,
            memory: 0,
            memory_used: 3 << 20,
            disks: Vec::new(),
            nets: Vec::new(),
            console: String::new(),
            uptime_ms,
            resets: 0,
        };
        let cpu = BTreeMap::from([("exits".to_string(), exits)]);
        let stats = VmStats { uptime_ms, vcpus: vec![cpu.clone(), cpu], failed_disk_requests: Vec::new() };
        BTreeMap::from([("web".to_string(), (status, stats))])
    }

    fn exits_per_second(before: &Counted, now: &Counted) -> String {
        render(before, now).lines().nth(1).unwrap().split_whitespace().nth(4).unwrap().to_string()
    }

    #[test]
    fn rates_are_of_all_processors_and_per_second() {
        assert_eq!(exits_per_second(&counted(1, 1000, 100), &counted(1, 3000, 400)), "300");
    }

    #[test]
    fn another_run_of_the_name_counts_from_its_start() {
        assert_eq!(exits_per_second(&counted(1, 9000, 900), &counted(2, 2000, 100)), "100");
    }
}
