// SPDX-License-Identifier: GPL-2.0

//! The escape key of `--console stdio`: Ctrl-a, then one more key.

/// Ctrl-a.
const PREFIX: u8 = 1;

/// What the user typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypedInput {
    /// For the guest.
    Guest(u8),
    /// Ctrl-a x: end the run.
    Quit,
    /// Ctrl-a p: press the power button.
    PowerButton,
    /// Ctrl-a c: end a pause.
    Continue,
    /// Ctrl-a d: leave the console, where one can.
    Detach,
    /// Ctrl-a h, or a key without a meaning: show the keys.
    Help,
}

/// What Ctrl-a h shows, with line ends for a raw terminal.
pub const HELP: &str = "\r\nCtrl-a x  quit rvmm-run\r\nCtrl-a p  press the power button\r\n\
    Ctrl-a c  go on after a pause\r\n\
    Ctrl-a h  this help\r\nCtrl-a Ctrl-a  send Ctrl-a to the guest\r\n";

/// State between two keys: whether the last one was the prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EscapeKey {
    pending: bool,
}

impl EscapeKey {
    /// Takes one byte from the terminal; `None` for the prefix itself.
    pub fn feed(&mut self, byte: u8) -> Option<TypedInput> {
        if !self.pending {
            self.pending = byte == PREFIX;
            return (!self.pending).then_some(TypedInput::Guest(byte));
        }
        self.pending = false;
        Some(match byte {
            PREFIX => TypedInput::Guest(PREFIX),
            b'x' | b'X' => TypedInput::Quit,
            b'p' | b'P' => TypedInput::PowerButton,
            b'c' | b'C' => TypedInput::Continue,
            b'd' | b'D' => TypedInput::Detach,
            _ => TypedInput::Help,
        })
    }
}
