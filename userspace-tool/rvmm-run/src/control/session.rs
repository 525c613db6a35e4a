// SPDX-License-Identifier: GPL-2.0

//! One client's side of the conversation: what it sent becomes requests, and what it is to be told becomes bytes.
//!
//! There is no socket in here: the server carries the bytes, a test or a fuzzer makes them up.
//!
//! ```text
//!  lines --console--> bytes of the console
//!    |                    |
//!    +----> over <--------+      the client goes, is too slow, or sends what is no line
//! ```

use std::sync::Arc;

use serde_json::{json, Value};

use super::feed::{EventFeed, VmEvent};
use super::lines::LineReader;
use super::protocol::{answer, line, parse, Call, EndReport, Refusal, RefusalKind, Request};
use super::steered::{SteeredVm, StopRequest};

/// What may wait for a client that does not read, in bytes. One that has it is cut off.
const OUT_LIMIT: usize = 1 << 20;
/// Output of the console that is taken from where it is kept, in bytes: a slow reader leaves the rest there.
const CONSOLE_AHEAD: usize = 32 << 10;

/// A client.
pub struct Session {
    vm: Arc<dyn SteeredVm>,
    feed: &'static EventFeed,
    lines: LineReader,
    out: Vec<u8>,
    mode: SessionMode,
    /// The next event that the client is to hear of, if it wants to.
    events: Option<u64>,
    /// Numbers of calls that the end of the run answers.
    waiting: Vec<Option<u64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionMode {
    Lines,
    Console { at: u64, writes: bool },
    Over,
}

impl Session {
    /// Begins with the greeting.
    pub fn new(vm: Arc<dyn SteeredVm>, feed: &'static EventFeed) -> Self {
        let out = line(&vm.hello());
        let (lines, mode) = (LineReader::default(), SessionMode::Lines);
        Self { vm, feed, lines, out, mode, events: None, waiting: Vec::new() }
    }

    /// Whether nothing more comes of it once what is left is sent.
    pub fn is_over(&self) -> bool {
        self.mode == SessionMode::Over
    }

    /// Whether the client may send: not while the guest has to take what was typed first, nor while answers pile up.
    pub fn takes_input(&self) -> bool {
        match self.mode {
            SessionMode::Lines => self.out.len() < CONSOLE_AHEAD,
            SessionMode::Console { writes: true, .. } => self.vm.console().is_ok_and(|hub| hub.room() > 0),
            SessionMode::Console { .. } => true,
            SessionMode::Over => false,
        }
    }

    /// What is to be sent.
    pub fn output(&self) -> &[u8] {
        &self.out
    }

    /// So many bytes of it were.
    pub fn sent(&mut self, bytes: usize) {
        self.out.drain(..bytes.min(self.out.len()));
    }

    /// The client is gone, or nothing more is to be had from it.
    pub fn close(&mut self) {
        if let SessionMode::Console { writes, .. } = self.mode {
            if let Ok(hub) = self.vm.console() {
                hub.detach();
                if writes {
                    hub.leave_keyboard();
                }
            }
        }
        self.mode = SessionMode::Over;
    }

    /// Takes what the client sent.
    pub fn receive(&mut self, bytes: &[u8]) {
        match self.mode {
            SessionMode::Lines => self.lines.push(bytes),
            mode => return self.type_in(mode, bytes),
        }
        while self.mode == SessionMode::Lines {
            match self.lines.next_line() {
                Ok(Some(line)) if line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(Some(line)) => self.act_on(&line),
                Ok(None) => return,
                Err(_) => {
                    let refusal = Refusal::new(RefusalKind::BadRequest, "the line is too long");
                    self.out.extend(answer(None, Err(refusal)));
                    return self.close();
                }
            }
        }
        // What came behind the request for the console was typed.
        let rest = self.lines.take_rest();
        self.type_in(self.mode, &rest);
    }

    fn type_in(&self, mode: SessionMode, bytes: &[u8]) {
        if let (SessionMode::Console { writes: true, .. }, Ok(hub)) = (mode, self.vm.console()) {
            hub.type_in(bytes);
        }
    }

    fn act_on(&mut self, line: &[u8]) {
        let (id, result) = match parse(line) {
            Err((id, refusal)) => (id, Err(refusal)),
            Ok(Call { id, request: Request::Wait {} }) => return self.waiting.push(id),
            Ok(Call { id, request }) => (id, self.carry_out(request)),
        };
        self.out.extend(answer(id, result));
        self.check_backlog();
    }

    fn carry_out(&mut self, request: Request) -> Result<Value, Refusal> {
        let done = |()| json!({});
        match request {
            Request::Status {} => to_value(&self.vm.status()),
            Request::Stop { force: true, .. } => self.vm.stop(StopRequest::ByForce).map(done),
            Request::Stop { timeout, .. } => self.vm.stop(StopRequest::Politely(timeout)).map(done),
            Request::Pause {} => self.vm.pause().map(done),
            Request::Resume {} => self.vm.resume().map(done),
            Request::Reset {} => self.vm.reset().map(done),
            Request::Nmi {} => self.vm.nmi().map(done),
            Request::Stats {} => to_value(&self.vm.stats()?),
            Request::Debug {} => Ok(json!({ "vcpus": self.vm.debug()? })),
            Request::Log {} => {
                let mut items = self.feed.since(0);
                items.retain(|item| matches!(item.event, VmEvent::Log { .. }));
                Ok(json!({ "lines": to_value(&items)? }))
            }
            Request::Events {} => {
                let next = *self.events.get_or_insert_with(|| self.feed.next());
                Ok(json!({ "next": next }))
            }
            Request::Wait {} => Ok(Value::Null),
            Request::Console { write, history } => {
                let hub = self.vm.console()?;
                let at = hub.attach(history as usize);
                let writes = write && hub.take_keyboard();
                self.mode = SessionMode::Console { at, writes };
                Ok(json!({ "writes": writes }))
            }
        }
    }

    /// Takes what there is for the client of the console and of the events.
    pub fn pull(&mut self) {
        if let SessionMode::Console { at, writes } = self.mode {
            let Ok(hub) = self.vm.console() else { return };
            let (mut at, room) = (at, CONSOLE_AHEAD.saturating_sub(self.out.len()));
            let (bytes, lost) = hub.read(&mut at, room);
            if lost > 0 {
                self.out.extend(format!("\r\n[{lost} bytes of output were lost here]\r\n").as_bytes());
            }
            self.out.extend(bytes);
            self.mode = SessionMode::Console { at, writes };
            return;
        }
        if let Some(next) = &mut self.events {
            for item in self.feed.since(*next) {
                *next = item.number + 1;
                self.out.extend(line(&item));
            }
            self.check_backlog();
        }
    }

    /// The run is over: whoever waits for that is answered, and nobody is listened to any more.
    pub fn end(&mut self, report: &EndReport) {
        self.pull();
        for id in std::mem::take(&mut self.waiting) {
            self.out.extend(answer(id, to_value(report)));
        }
        self.close();
    }

    /// Cuts off a client that does not read what it asks for.
    fn check_backlog(&mut self) {
        if self.out.len() > OUT_LIMIT {
            self.out.clear();
            self.close();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.close();
    }
}

fn to_value(value: &impl serde::Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(value).map_err(|e| Refusal::new(RefusalKind::Failed, e.to_string()))
}
