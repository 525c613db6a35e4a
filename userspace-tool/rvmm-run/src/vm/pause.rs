// SPDX-License-Identifier: GPL-2.0

//! A pause of the machine: its processors wait outside of the guest, while the console, the signals and the devices go on.
//!
//! Whoever asks for one closes the gate; the main thread then kicks the processors until all of them wait at it.

use std::sync::{Condvar, Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Where processors wait while the machine is paused.
#[derive(Debug)]
pub struct PauseGate {
    state: Mutex<GateState>,
    changed: Condvar,
    /// Readable when the gate was closed, or else something is to be seen to, until the main thread has seen it.
    pub(super) closed: EventFd,
}

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    /// The run ends: the gate stays open.
    is_over: bool,
    /// Processors that wait.
    waiting: usize,
}

impl PauseGate {
    /// Returns an open gate.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self, Errno> {
        let closed = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { state: Mutex::default(), changed: Condvar::new(), closed })
    }

    fn with<R>(&self, f: impl FnOnce(&mut GateState) -> R) -> R {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks for a pause.
    pub fn close(&self) {
        self.with(|state| state.is_closed = !state.is_over);
        self.wake_main();
    }

    /// Has the main thread look what is to be seen to.
    pub fn wake_main(&self) {
        let _ = self.closed.write(1);
    }

    /// Whether there is a pause, or one was asked for.
    pub fn is_closed(&self) -> bool {
        self.with(|state| state.is_closed)
    }

    /// Ends the pause. Returns whether there was one.
    pub fn open(&self) -> bool {
        let was_closed = self.with(|state| std::mem::take(&mut state.is_closed));
        self.changed.notify_all();
        was_closed
    }

    /// The run ends: nobody waits any more.
    pub fn end(&self) {
        self.with(|state| state.is_over = true);
        self.open();
    }

    /// Whether a pause was asked for, and fewer than `processors` wait yet.
    pub fn is_closing(&self, processors: usize) -> bool {
        self.with(|state| state.is_closed && state.waiting < processors)
    }

    /// Waits as a processor, if there is a pause. `before` is called then, before this processor counts as one that waits.
    pub fn wait(&self, before: impl FnOnce()) {
        self.wait_as(1, before);
    }

    /// Waits as someone else.
    pub fn wait_outside(&self) {
        self.wait_as(0, || {});
    }

    fn wait_as(&self, processors: usize, before: impl FnOnce()) {
        if !self.is_closed() {
            return;
        }
        before();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting += processors;
        while state.is_closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= processors;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn processors_wait_at_a_closed_gate_until_it_opens() {
        let gate = Arc::new(PauseGate::new().unwrap());
        gate.close();

        let processor = std::thread::spawn({
            let gate = Arc::clone(&gate);
            move || gate.wait(|| {})
        });
        while gate.is_closing(1) {
            std::thread::yield_now();
        }

        assert!(!processor.is_finished());
        assert!(gate.open());
        processor.join().unwrap();
        assert!(!gate.open(), "it is open");
    }

    #[test]
    fn nobody_waits_when_the_run_is_over() {
        let gate = PauseGate::new().unwrap();
        gate.close();
        gate.end();
        gate.wait(|| {});
        gate.close();
        gate.wait(|| {});

        assert!(!gate.is_closing(1));
    }
}
