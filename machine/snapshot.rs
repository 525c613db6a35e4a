// SPDX-License-Identifier: GPL-2.0

//! The state of a machine at rest, as a row of sections: its time, what the guest asked of the platform, the chips, the
//! PCI root, and each function by its slot. The local APICs belong to the vCPUs, and the memory to user space.
//!
//! A machine that takes a state over is made the same way first; see [`crate::chipset::saved`] for what is state and
//! what is not. When it goes on, it looks at all queues and timers.

use super::clock::MachineTime;
use super::quiesce::AtRest;
use super::whole::GuestMachine;
use crate::chipset::bus::save::BUS_STATE_BYTES;
use crate::chipset::saved::{state_struct, BadState, HasState, SectionId, StateReader, StateWriter};
use core::ops::Deref;
use kernel::prelude::*;

state_struct! {
    /// The time at which a machine goes on.
    struct SavedTime = 8 {
        /// Nanoseconds.
        now: u64,
    }
}

/// The latest time that a machine can be told to have, which leaves room for every deadline.
const LATEST: u64 = u64::MAX >> 2;

/// The time of a machine at rest.
struct StoppedTime<'a>(&'a MachineTime);

impl HasState for StoppedTime<'_> {
    const SECTION: SectionId = SectionId { id: 0x01, version: 1 };
    type State = SavedTime;

    fn save(&self) -> SavedTime {
        let StoppedTime(time) = self;
        SavedTime { now: time.now().0 }
    }

    fn set_state(&mut self, state: &SavedTime) {
        self.0.set_stopped(state.now.min(LATEST));
    }
}

/// Bytes of the sections that are no chip's and no function's, with their headers.
const OWN_BYTES: usize = 64;

impl<M: Deref<Target = GuestMachine>> AtRest<M> {
    /// Returns how many bytes the state takes at most.
    pub(crate) fn state_room(&self) -> usize {
        let chips = OWN_BYTES.saturating_add(BUS_STATE_BYTES);
        chips.saturating_add(self.machine().pci.state_room())
    }

    /// Returns the state.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn save(&self) -> Result<StateWriter> {
        let machine = self.machine();
        let mut out = StateWriter::new(self.state_room())?;
        out.put(0, &StoppedTime(&machine.clock.time));
        out.put(0, &&machine.power);
        machine.interrupts.with(|bus, _now, _signals| bus.save_chips(&mut out));
        machine.pci.save(&mut out)?;
        Ok(out)
    }

    /// Takes a state over.
    ///
    /// # Errors
    /// As [`BadState`]: parts of the machine have their new state then, and it is to be thrown away, though nothing that
    /// it does harms the host.
    pub(crate) fn restore(&self, state: &[u8]) -> Result<(), BadState> {
        let machine = self.machine();
        let mut from = StateReader::new(state);
        // The time first: what the chips find due when they are restored is due at that time.
        from.get(0, &mut StoppedTime(&machine.clock.time))?;
        from.get(0, &mut &machine.power)?;
        machine.interrupts.with(|bus, now, signals| bus.restore_chips(&mut from, now, signals))?;
        machine.pci.restore(&mut from)?;
        // Once all functions are there, for they share lines.
        machine.interrupts.settle_intx();
        from.finish()
    }
}
