// SPDX-License-Identifier: GPL-2.0

//! The state of all chips of a bus, section by section.
//!
//! What the VMM sets up is no state: which chips there are, routing, whether the speaker's port is its own, what it drives
//! from outside and by irqfds.

use super::{BusSignals, ChipBus};
use crate::arch::time::Ns;
use crate::chipset::saved::{state_struct, BadState, HasState, SectionId, StateReader, StateWriter};
use crate::chipset::uart;

/// Bytes that the sections of all chips take at most.
pub(crate) const BUS_STATE_BYTES: usize = uart::OUTPUT_BYTES + uart::INPUT_BYTES + 2048;

/// Input that waits for the guest behind the UART.
const UART_INPUT: SectionId = SectionId { id: 0x0a, version: 1 };
/// Output of the guest that nobody has read yet.
const UART_OUTPUT: SectionId = SectionId { id: 0x0b, version: 1 };

state_struct! {
    /// The wires between the chips, and what the console's users wait for.
    struct SavedWires = 8 {
        /// The level of each of the first 32 GSIs, as last driven by a chip.
        driven: u32,
        /// Readers of the console were told of output.
        console_told: u8,
        /// A writer of the console waits for room.
        console_full: u8,
        /// 0.
        pad: [u8; 2],
    }
}

impl HasState for ChipBus {
    const SECTION: SectionId = SectionId { id: 0x02, version: 1 };
    type State = SavedWires;

    fn save(&self) -> SavedWires {
        let ChipBus {
            pic: _,
            ioapic: _,
            pit: _,
            leaves_speaker: _,
            rtc: _,
            uart: _,
            i8042: _,
            pm: _,
            routing: _,
            resampled: _,
            outside: _,
            driven,
            console_told,
            console_full,
            msi_format: _,
            sint_waiters: _,
        } = *self;
        SavedWires {
            driven,
            console_told: console_told.into(),
            console_full: console_full.into(),
            pad: [0; 2],
        }
    }

    fn set_state(&mut self, state: &SavedWires) {
        let SavedWires { driven, console_told, console_full, pad: _ } = *state;
        self.driven = driven & super::DRIVEN;
        self.console_told = console_told != 0;
        self.console_full = console_full != 0;
    }
}

/// Calls the macro `$do` with what it is given and the names of all chips: the one list of them, in the order in which
/// they are saved and shown.
macro_rules! with_chips {
    ($do:ident!($($given:tt)*)) => {
        $do!($($given)* pic ioapic pit rtc uart i8042 pm)
    };
}
pub(crate) use with_chips;

/// Does `$do` for each chip that there is.
macro_rules! each_chip {
    ($bus:ident, $as:ident, $chip:ident => $do:expr) => {
        with_chips!(each_chip!(@ $bus, $as, $chip, $do,))
    };
    (@ $bus:ident, $as:ident, $chip:ident, $do:expr, $($field:ident)*) => {
        $(if let Some($chip) = $bus.$field.$as() {
            $do;
        })*
    };
}

impl ChipBus {
    /// Writes the state of all chips.
    pub(crate) fn save_chips(&self, out: &mut StateWriter) {
        out.put(0, self);
        each_chip!(self, as_ref, chip => out.put(0, chip));
        if let Some(uart) = self.uart.as_ref() {
            let (input, output) = uart.rings();
            out.put_bytes(UART_INPUT, 0, input.len(), |to| input.peek(0, to));
            out.put_bytes(UART_OUTPUT, 0, output.len(), |to| output.peek(0, to));
        }
    }

    /// Takes over the state of all chips, and then sends what is due at `now`.
    ///
    /// # Errors
    /// As [`BadState`]. The chips before the one that was refused have their new state, the others their old
    /// one: such a machine is to be thrown away, though nothing that it does harms the host.
    pub(crate) fn restore_chips(
        &mut self,
        from: &mut StateReader<'_>,
        now: Ns,
        out: &mut BusSignals,
    ) -> Result<(), BadState> {
        from.get(0, self)?;
        each_chip!(self, as_mut, chip => from.get(0, chip)?);
        if let Some(uart) = self.uart.as_mut() {
            let (input, output) = (from.get_bytes(UART_INPUT, 0)?, from.get_bytes(UART_OUTPUT, 0)?);
            // The rings would drop what goes beyond: a state that does not fit is refused, not cut.
            if input.len() > uart::INPUT_BYTES {
                return Err(BadState::Version(UART_INPUT.id));
            }
            if output.len() > uart::OUTPUT_BYTES {
                return Err(BadState::Version(UART_OUTPUT.id));
            }
            uart.set_rings(input, output);
        }
        self.settle_all(now, out);
        Ok(())
    }
}
