// SPDX-License-Identifier: GPL-2.0

//! What happens to a VM, as a sequence that anyone may follow: the newest events are kept, each with its number.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::eventfd::EventFd;
use serde::{Deserialize, Serialize};

/// Events that are kept.
const KEPT: usize = 1000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum VmEvent {
    /// The guest's kernel was entered.
    Started,
    /// The guest stands still.
    Paused,
    /// It goes on.
    Resumed,
    /// It was started anew.
    Reset,
    /// Its power button was pressed.
    PowerButton,
    /// The tool said something.
    Log {
        /// In one line.
        text: String,
    },
    /// The run is over.
    Ended {
        /// The tool's exit code.
        code: u8,
    },
}

/// An event with its number and its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedItem {
    /// Number, from 0; none is left out.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: VmEvent,
}

/// The newest events.
#[derive(Debug)]
pub struct EventFeed {
    state: Mutex<FeedState>,
}

#[derive(Debug)]
struct FeedState {
    items: VecDeque<FeedItem>,
    next: u64,
    wake: Option<Arc<EventFd>>,
}

impl Default for EventFeed {
    fn default() -> Self {
        Self::new()
    }
}

impl EventFeed {
    /// A feed of nothing yet.
    pub const fn new() -> Self {
        Self { state: Mutex::new(FeedState { items: VecDeque::new(), next: 0, wake: None }) }
    }

    fn state(&self) -> MutexGuard<'_, FeedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `wake` written to with each event from now on.
    pub fn wakes(&self, wake: Arc<EventFd>) {
        self.state().wake = Some(wake);
    }

    /// Adds an event, and forgets the oldest beyond the limit.
    pub fn push(&self, event: VmEvent) {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        if state.items.len() == KEPT {
            state.items.pop_front();
        }
        state.items.push_back(FeedItem { number, at_ms, event });
        if let Some(wake) = &state.wake {
            let _ = wake.write(1);
        }
    }

    /// The number that the next event will have.
    pub fn next(&self) -> u64 {
        self.state().next
    }

    /// Returns the kept events from `number` on.
    pub fn since(&self, number: u64) -> Vec<FeedItem> {
        self.state().items.iter().filter(|item| item.number >= number).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_are_kept_with_their_numbers() {
        let feed = EventFeed::new();
        for _ in 0..KEPT + 5 {
            feed.push(VmEvent::Reset);
        }

        let all = feed.since(0);

        assert_eq!((all.len(), all[0].number, feed.next()), (KEPT, 5, KEPT as u64 + 5));
        assert_eq!(feed.since(feed.next() - 1).len(), 1);
        assert!(feed.since(feed.next()).is_empty());
    }

    #[test]
    fn event_is_one_flat_line() {
        let feed = EventFeed::new();
        feed.push(VmEvent::Log { text: "a\nb".into() });

        let line = serde_json::to_string(&feed.since(0)[0]).unwrap();

        assert!(line.starts_with(r#"{"number":0,"at_ms":"#), "{line}");
        assert!(line.ends_with(r#","event":"log","text":"a\nb"}"#), "{line}");
    }
}
