// SPDX-License-Identifier: GPL-2.0

//! What a guest asked of its platform, until a vCPU takes it to user space.

use crate::chipset::pm::PlatformRequest;
use crate::chipset::saved::{state_struct, HasState, SectionId};
use core::sync::atomic::{AtomicU32, Ordering::*};

/// What a guest may ask of its platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlatformEvent {
    /// Power off (ACPI S5).
    PowerOff,
    /// Reset.
    Reset,
    /// The guest has crashed, and has said why.
    Crash,
}

/// The last thing that was asked and not yet taken.
pub(crate) struct PowerState(AtomicU32);

const NOTHING: u32 = 0;
const POWER_OFF: u32 = 1;
const RESET: u32 = 2;
const CRASH: u32 = 3;

impl PowerState {
    /// Nothing was asked.
    pub(super) const fn new() -> PowerState {
        PowerState(AtomicU32::new(NOTHING))
    }

    /// Notes what the guest asked; the calling vCPU takes it to user space.
    pub(crate) fn note(&self, request: PlatformRequest) {
        let code = match request {
            PlatformRequest::PowerOff => POWER_OFF,
            PlatformRequest::Reset => RESET,
        };
        self.0.store(code, Release);
    }

    /// Notes that the guest has crashed; the calling vCPU takes it to user space.
    pub(crate) fn note_crash(&self) {
        self.0.store(CRASH, Release);
    }

    /// Takes what was noted.
    pub(crate) fn take(&self) -> Option<PlatformEvent> {
        match self.0.swap(NOTHING, AcqRel) {
            POWER_OFF => Some(PlatformEvent::PowerOff),
            RESET => Some(PlatformEvent::Reset),
            CRASH => Some(PlatformEvent::Crash),
            _ => None,
        }
    }
}

state_struct! {
    /// What the guest asked and no vCPU has taken to user space yet.
    struct SavedPower = 4 {
        /// 0: nothing, 1: power off, 2: reset, 3: crash.
        request: u32,
    }
}

impl HasState for &PowerState {
    const SECTION: SectionId = SectionId { id: 0x0c, version: 1 };
    type State = SavedPower;

    fn save(&self) -> SavedPower {
        let PowerState(request) = self;
        SavedPower { request: request.load(Acquire) }
    }

    fn set_state(&mut self, state: &SavedPower) {
        let request = if state.request > CRASH { NOTHING } else { state.request };
        self.0.store(request, Release);
    }
}
