// SPDX-License-Identifier: GPL-2.0

//! What the user is told while the program runs.
//!
//! What is told is also kept, for clients of the control socket. Standard error may be full or closed: a message is then lost, and the run goes on.

use std::io::{self, Write};

use crate::console::stdio;
use crate::control::feed::{EventFeed, VmEvent};

static FEED: EventFeed = EventFeed::new();

/// What happens to the VM of this process.
pub fn feed() -> &'static EventFeed {
    &FEED
}

/// Writes a message of the tool to standard error, with line ends that a raw terminal shows right.
pub fn message(text: &str) {
    FEED.push(VmEvent::Log { text: text.trim_end().to_string() });
    report(&format!("rvmm-run: {}\n", text.trim_end()));
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
