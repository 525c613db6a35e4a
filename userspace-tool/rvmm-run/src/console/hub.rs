// SPDX-License-Identifier: GPL-2.0

//! The console for clients of the control socket, beside the one that the user chose: any number of readers, one writer.
//!
//! The newest output is kept for whoever attaches later. A reader that is slower than the guest loses what falls out of
//! that, and is told how much; nobody waits for it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Output that is kept, in bytes.
pub const KEPT: usize = 256 << 10;
/// Input that waits for the guest, in bytes.
const IN_LIMIT: usize = 16 << 10;

/// What readers and the writer share with the console.
#[derive(Debug)]
pub struct ConsoleHub {
    state: Mutex<HubState>,
    /// Readable when input waits.
    typed: EventFd,
}

#[derive(Debug, Default)]
struct HubState {
    out: VecDeque<u8>,
    /// Bytes of output so far.
    end: u64,
    inp: VecDeque<u8>,
    readers: usize,
    has_writer: bool,
    wake: Option<Arc<EventFd>>,
}

impl HubState {
    fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _ = wake.write(1);
        }
    }
}

impl ConsoleHub {
    /// A console without anybody.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self, Errno> {
        let typed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { state: Mutex::default(), typed })
    }

    fn state(&self) -> MutexGuard<'_, HubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `wake` written to when readers have something to read, or the writer room again.
    pub fn wakes(&self, wake: Arc<EventFd>) {
        self.state().wake = Some(wake);
    }

    /// The guest put something out.
    pub fn put_out(&self, bytes: &[u8]) {
        let mut state = self.state();
        state.end += bytes.len() as u64;
        state.out.extend(bytes);
        let excess = state.out.len().saturating_sub(KEPT);
        state.out.drain(..excess);
        if state.readers > 0 {
            state.wake();
        }
    }

    /// Becomes readable when somebody typed.
    pub fn typed(&self) -> BorrowedFd<'_> {
        self.typed.as_fd()
    }

    /// Takes what was typed, at most `most` bytes.
    pub fn take_typed(&self, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let most = most.min(state.inp.len());
        let taken = state.inp.drain(..most).collect();
        if state.inp.is_empty() {
            let _ = self.typed.read();
        }
        if most > 0 {
            state.wake();
        }
        taken
    }

    /// A reader comes, and begins with the newest `history` bytes. Returns where that is.
    pub fn attach(&self, history: usize) -> u64 {
        let mut state = self.state();
        state.readers += 1;
        state.end - history.min(state.out.len()) as u64
    }

    /// A reader goes.
    pub fn detach(&self) {
        let mut state = self.state();
        state.readers = state.readers.saturating_sub(1);
    }

    /// Returns at most `most` bytes from `at` on, which moves behind them, and how many were lost before.
    pub fn read(&self, at: &mut u64, most: usize) -> (Vec<u8>, u64) {
        let state = self.state();
        let start = state.end - state.out.len() as u64;
        let lost = start.saturating_sub(*at);
        let skipped = (*at + lost - start) as usize;
        let bytes: Vec<u8> = state.out.iter().skip(skipped).take(most).copied().collect();
        *at += lost + bytes.len() as u64;
        (bytes, lost)
    }

    /// Makes the caller the one who types, unless there is one.
    pub fn take_keyboard(&self) -> bool {
        !std::mem::replace(&mut self.state().has_writer, true)
    }

    /// The one who types does so no more.
    pub fn leave_keyboard(&self) {
        self.state().has_writer = false;
    }

    /// Bytes that can be typed now.
    pub fn room(&self) -> usize {
        IN_LIMIT.saturating_sub(self.state().inp.len())
    }

    /// Types: what there is no room for is lost.
    pub fn type_in(&self, bytes: &[u8]) {
        let mut state = self.state();
        let room = IN_LIMIT.saturating_sub(state.inp.len());
        state.inp.extend(&bytes[..bytes.len().min(room)]);
        let _ = self.typed.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_reader_begins_with_the_newest_output() {
        let hub = ConsoleHub::new().unwrap();
        hub.put_out(b"old login: ");

        let mut at = hub.attach(7);

        assert_eq!(hub.read(&mut at, 100), (b"login: ".to_vec(), 0));
        assert_eq!(hub.read(&mut at, 100), (Vec::new(), 0));
        hub.put_out(b"root");
        assert_eq!(hub.read(&mut at, 2), (b"ro".to_vec(), 0));
        assert_eq!(hub.read(&mut at, 2), (b"ot".to_vec(), 0));
    }

    #[test]
    fn slow_reader_is_told_what_it_lost() {
        let hub = ConsoleHub::new().unwrap();
        let mut at = hub.attach(0);
        hub.put_out(&vec![b'x'; KEPT]);
        hub.put_out(b"12345");

        let (bytes, lost) = hub.read(&mut at, usize::MAX);

        assert_eq!((bytes.len(), lost), (KEPT, 5));
        assert!(bytes.ends_with(b"x12345"));
    }

    #[test]
    fn one_types_at_a_time() {
        let hub = ConsoleHub::new().unwrap();

        assert!(hub.take_keyboard());
        assert!(!hub.take_keyboard());
        hub.leave_keyboard();
        assert!(hub.take_keyboard());
    }

    #[test]
    fn typed_bytes_wait_in_order_and_only_so_many() {
        let hub = ConsoleHub::new().unwrap();
        hub.type_in(b"ls\n");
        hub.type_in(&vec![b'y'; IN_LIMIT]);

        assert_eq!(hub.room(), 0);
        assert_eq!(hub.take_typed(3), b"ls\n");
        assert_eq!(hub.room(), 3);
        assert_eq!(hub.take_typed(usize::MAX).len(), IN_LIMIT - 3);
        assert!(hub.typed.read().is_err(), "nothing waits any more");
    }
}
