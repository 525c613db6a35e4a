// SPDX-License-Identifier: GPL-2.0

//! GSIs that are asserted by an event and released by the end of their interrupt: irqfds with a resamplefd.
//!
//! Documentation of KVM's API, "KVM_IRQFD". Whoever listens to the event asserts the GSI ([`ResampledGsis::assert`]), which
//! stays so whatever else drives it. The end of the interrupt at either controller releases it and is noted
//! ([`ResampledGsis::end`]); the holder of the bus's lock takes the note ([`ResampledGsis::take_ended`]), releases the lock
//! and then signals the resamplefds, so that a device which still asks can assert it again.
//!
//! No lock inside: the bus owns it.

use kernel::prelude::*;

/// One GSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ResampledGsi {
    gsi: u32,
    /// How many irqfds share it.
    users: u32,
    is_asserted: bool,
    /// Its interrupt has ended, and the resamplefds have not been signalled since.
    has_ended: bool,
}

/// The GSIs of a VM that are resampled.
#[derive(Debug, Default)]
pub(crate) struct ResampledGsis(KVec<ResampledGsi>);

impl ResampledGsis {
    /// Returns whether there is none, as in most machines.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&mut self, gsi: u32) -> Option<&mut ResampledGsi> {
        self.0.iter_mut().find(|g| g.gsi == gsi)
    }

    /// One more irqfd resamples `gsi`. Any context.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn add_user(&mut self, gsi: u32) -> Result {
        if let Some(g) = self.find(gsi) {
            g.users = g.users.saturating_add(1);
            return Ok(());
        }
        // Atomic: the bus's lock is held.
        let mut all = KVec::with_capacity(self.0.len().saturating_add(1), GFP_ATOMIC)?;
        for old in &self.0 {
            all.push_within_capacity(*old)?;
        }
        all.push_within_capacity(ResampledGsi { gsi, users: 1, is_asserted: false, has_ended: false })?;
        self.0 = all;
        Ok(())
    }

    /// One irqfd fewer resamples `gsi`. Returns whether it was the last and left the GSI asserted.
    pub(crate) fn remove_user(&mut self, gsi: u32) -> bool {
        let Some(place) = self.0.iter().position(|g| g.gsi == gsi) else { return false };
        let Some(g) = self.0.get_mut(place) else { return false };
        g.users = g.users.saturating_sub(1);
        if g.users != 0 {
            return false;
        }
        self.0.remove(place).is_ok_and(|g| g.is_asserted)
    }

    /// Asserts `gsi` until its interrupt ends.
    pub(crate) fn assert(&mut self, gsi: u32) {
        if let Some(g) = self.find(gsi) {
            g.is_asserted = true;
        }
    }

    /// Returns whether `gsi` is asserted.
    pub(crate) fn is_asserted(&self, gsi: u32) -> bool {
        self.0.iter().any(|g| g.gsi == gsi && g.is_asserted)
    }

    /// Returns the GSIs that are asserted.
    pub(crate) fn asserted(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().filter(|g| g.is_asserted).map(|g| g.gsi)
    }

    /// Returns the GSI at `place` in the list.
    pub(crate) fn at(&self, place: usize) -> Option<u32> {
        self.0.get(place).map(|g| g.gsi)
    }

    /// The interrupt of `gsi` has ended: releases it. The caller carries its level to the controllers.
    pub(crate) fn end(&mut self, gsi: u32) {
        if let Some(g) = self.find(gsi) {
            (g.is_asserted, g.has_ended) = (false, true);
        }
    }

    /// Returns a GSI whose interrupt has ended, and forgets that it has.
    pub(crate) fn take_ended(&mut self) -> Option<u32> {
        let ended = self.0.iter_mut().find(|g| g.has_ended)?;
        ended.has_ended = false;
        Some(ended.gsi)
    }
}
