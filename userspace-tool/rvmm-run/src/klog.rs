// SPDX-License-Identifier: GPL-2.0

//! What the module has said in the kernel's log since the program started: the reason of a failure, where it gave one.
//!
//! Read from `/dev/kmsg`: a record a read, `priority,sequence,microseconds,flags;text`. Who may not read the log is told
//! nothing.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::time::{clock_gettime, ClockId};

/// What begins the module's messages.
const PREFIX: &str = "rvmm: ";
/// Longest record of the log.
const RECORD: usize = 8 << 10;

/// The module's newest message since the program started.
pub fn newest() -> Option<String> {
    let began = began_us()?;
    let mut log =
        OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg").ok()?;
    let mut record = vec![0; RECORD];
    let mut found = None;
    loop {
        match log.read(&mut record) {
            Ok(len) => {
                let text = String::from_utf8_lossy(&record[..len]);
                found = message_since(&text, began).map(str::to_string).or(found);
            }
            // Records that were overwritten meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => return found,
        }
    }
}

/// The module's message in a record that is not older than `began`, in microseconds.
pub fn message_since(record: &str, began: u64) -> Option<&str> {
    let (head, text) = record.split_once(';')?;
    let at: u64 = head.split(',').nth(2)?.parse().ok()?;
    let message = text.lines().next()?.strip_prefix(PREFIX)?;
    (at >= began).then_some(message)
}

/// When the program started, by the log's clock.
fn began_us() -> Option<u64> {
    const TICKS: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name may have blanks and brackets in it. The 22nd field counts ticks since boot.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let now =
        |clock| clock_gettime(clock).ok().map(|t| t.tv_sec() as u64 * 1_000_000 + t.tv_nsec() as u64 / 1000);
    // The log's clock stands while the machine sleeps.
    let asleep = now(ClockId::CLOCK_BOOTTIME)?.saturating_sub(now(ClockId::CLOCK_MONOTONIC)?);
    Some((ticks * (1_000_000 / TICKS)).saturating_sub(asleep))
}
