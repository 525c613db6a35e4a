// SPDX-License-Identifier: GPL-2.0

//! What the user is told while the program runs.
//!
//! What is told is also kept, for clients of the control socket. Standard error may be full or closed: a message is then lost, and the run goes on.

use std::io::{self, Write};
use std::sync::OnceLock;

use nix::sys::stat::fstat;

use crate::console::stdio;
use crate::control::feed::{EventFeed, VmEvent};

static FEED: EventFeed = EventFeed::new();

/// What happens to the VM of this process.
pub fn feed() -> &'static EventFeed {
    &FEED
}

/// How much a message matters, by the numbers of syslog(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Error = 3,
    Warning = 4,
    Info = 6,
}

/// Writes a message of the tool to standard error, with line ends that a raw terminal shows right.
pub fn message(text: &str) {
    tell(Level::Info, text);
}

/// The same, where something is not as it should be, and the run goes on.
pub fn warning(text: &str) {
    tell(Level::Warning, text);
}

/// The same, where the run ends of it.
pub fn error(text: &str) {
    tell(Level::Error, text);
}

fn tell(level: Level, text: &str) {
    let text = text.trim_end();
    FEED.push(VmEvent::Log { text: text.to_string() });
    let lines = format!("rvmm-run: {text}\n");
    report(&if is_to_journal() { with_level(level, &lines) } else { lines });
}

/// Returns lines as the journal takes their level: each is an entry of its own. sd-daemon(3).
fn with_level(level: Level, lines: &str) -> String {
    let lines: Vec<String> = lines.lines().map(|line| format!("<{}>{line}\n", level as u8)).collect();
    lines.concat()
}

/// Whether standard error is the journal's. systemd.exec(5), `JOURNAL_STREAM`.
fn is_to_journal() -> bool {
    static IS_TO_JOURNAL: OnceLock<bool> = OnceLock::new();
    *IS_TO_JOURNAL.get_or_init(|| {
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        fstat(io::stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
    })
}

/// Writes whole lines to standard error as [`message`] does.
pub fn report(lines: &str) {
    let text = if stdio::is_raw() { lines.replace('\n', "\r\n") } else { lines.to_string() };
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes whole lines to standard output.
///
/// # Errors
/// That of the write. A reader that has gone away wants no more, which is none.
pub fn print(lines: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_for_the_journal_has_its_level() {
        assert_eq!(with_level(Level::Error, "rvmm-run: a\nb\n"), "<3>rvmm-run: a\n<3>b\n");
        assert_eq!(with_level(Level::Info, "rvmm-run: c\n"), "<6>rvmm-run: c\n");
    }
}
