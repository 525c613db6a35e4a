// SPDX-License-Identifier: GPL-2.0

//! The paravirtual features of one vCPU: the clock in guest memory, and the end of interrupt without
//! an exit.
//!
//! The clock is the machine's ([`MachineClock`]), put into the terms of the vCPU's own TSC.
//!
//! For the end of interrupt, a flag in guest memory says "clear me instead of writing EOI". It is set
//! with the entry that delivers an interrupt whose end nobody waits for, and looked at after the next exit.

use super::steal::StealTime;
use crate::arch::addr::Gpa;
use crate::chipset::lapic::Lapic;
use crate::machine::clock::MachineClock;
use crate::machine::pvclock::{TimeInfo, WallClock, ENABLED, GUEST_STOPPED, TSC_STABLE};
use crate::mmu::mem::{GuestMem, MemError};
use core::mem::offset_of;

/// Bit 0 of the word that PV_EOI shares with the guest: the end of interrupt needs no exit.
const EOI_PENDING: u8 = 1;

/// What the guest has switched on.
#[derive(Debug, Default)]
pub(crate) struct PvState {
    /// MSR KVM_SYSTEM_TIME.
    pub(crate) system_time: u64,
    /// MSR KVM_WALL_CLOCK: where the guest last asked for it.
    pub(crate) wall_clock: u64,
    /// MSR KVM_PV_EOI_EN.
    pub(crate) eoi: u64,
    /// `wall_clock` has been asked for and not yet been written.
    pub(crate) wall_wanted: bool,
    /// The guest is to be told with its clock that it stood still.
    was_stopped: bool,
    /// The flag in guest memory is set.
    eoi_armed: bool,
    /// The time that the host's other threads take.
    pub(crate) steal: StealTime,
    /// The guest has what its CPUID offers, and nothing else of it.
    pub(crate) is_enforced: bool,
}

impl PvState {
    /// Writes what the guest asked for into its memory.
    ///
    /// # Errors
    /// The address of a page that must be made resident first.
    pub(crate) fn publish<M: GuestMem>(
        &mut self,
        mem: &M,
        clock: &MachineClock,
        tsc_offset: u64,
        boot_wall_ns: u64,
    ) -> Result<(), Gpa> {
        if self.wall_wanted {
            let at = Gpa(self.wall_clock);
            // Counted on from what is there: a guest that compares two looks must see it move.
            let version = mem.read_obj::<u32>(at).or_else(MemError::unless_absent)?;
            WallClock::new(boot_wall_ns)
                .publish(version, |o, b| mem.write(at.wrapping_add(o), b))
                .or_else(MemError::unless_absent)?;
            self.wall_wanted = false;
        }
        if self.system_time & ENABLED != 0 {
            let at = Gpa(self.system_time & !ENABLED);
            let version = mem.read_obj::<u32>(at).or_else(MemError::unless_absent)?;
            let (host_tsc, ns) = clock.point();
            // What the guest has been told and has not yet noticed is said again.
            let told = mem
                .read_obj::<u8>(at.wrapping_add(offset_of!(TimeInfo, flags) as u64))
                .or_else(MemError::unless_absent)?;
            let stopped = if self.was_stopped { GUEST_STOPPED } else { told & GUEST_STOPPED };
            let tsc = host_tsc.wrapping_add(tsc_offset);
            let info = TimeInfo::new(tsc, ns, clock.scale, TSC_STABLE | stopped);
            info.publish(version, |o, b| mem.write(at.wrapping_add(o), b))
                .or_else(MemError::unless_absent)?;
            // Not before it is written: a page that is missing ends this call early.
            self.was_stopped = false;
        }
        Ok(())
    }

    /// Has the guest told that it stood still, with the next [`publish`](Self::publish). Returns whether it has a
    /// clock to be told with.
    pub(crate) fn note_stop(&mut self) -> bool {
        self.was_stopped = self.system_time & ENABLED != 0;
        self.was_stopped
    }

    /// Returns whether the guest may end the interrupt in service without an exit.
    #[inline(always)]
    pub(crate) fn is_eoi_armed(&self) -> bool {
        self.eoi_armed
    }

    /// Sets MSR KVM_PV_EOI_EN. What was armed at the old place is forgotten: its end will be an exit.
    pub(crate) fn set_eoi(&mut self, value: u64) {
        self.eoi = value;
        self.eoi_armed = false;
    }

    /// INIT switches off what goes on writing into the guest's memory. A wall clock that was asked for is still to
    /// be written: the guest has been past that instruction.
    pub(crate) fn init(&mut self) {
        self.system_time = 0;
        self.was_stopped = false;
        self.steal = StealTime::default();
        self.set_eoi(0);
    }

    /// Before an entry: lets the guest end the interrupt that the entry delivers (what `coming` returns) or the one in
    /// service without an exit, where it can.
    // Before every entry, and nothing to do for most: the rest stays out of line.
    #[inline(always)]
    pub(crate) fn arm_eoi<M: GuestMem>(
        &mut self,
        mem: &M,
        lapic: &Lapic,
        coming: impl FnOnce() -> Option<u8>,
    ) {
        if self.eoi & ENABLED != 0 && !self.eoi_armed && lapic.pv_eoi_allowed(coming()) {
            self.set_eoi_flag(mem);
        }
    }

    #[inline(never)]
    fn set_eoi_flag<M: GuestMem>(&mut self, mem: &M) {
        // A page that is not resident is not waited for: then the end is an exit.
        self.eoi_armed = mem.write(Gpa(self.eoi & !ENABLED), &[EOI_PENDING]).is_ok();
    }

    /// After an exit, where [`PvState::is_eoi_armed`]: ends the interrupt if the guest said so. Returns its vector if the IOAPIC must hear of it,
    /// as [`Lapic::eoi`] does.
    ///
    /// # Errors
    /// The address of a page that must be made resident first. Until then the word may hold an end that
    /// is not known yet, so it stays armed.
    #[inline(never)]
    pub(crate) fn take_eoi<M: GuestMem>(&mut self, mem: &M, lapic: &mut Lapic) -> Result<Option<u8>, Gpa> {
        let at = Gpa(self.eoi & !ENABLED);
        // So it stays where there is no memory: nobody has ended the interrupt there.
        let mut flag = [EOI_PENDING];
        mem.read(at, &mut flag).or_else(MemError::unless_absent)?;
        if flag[0] & EOI_PENDING == 0 {
            self.eoi_armed = false;
            return Ok(lapic.eoi());
        }
        // Not ended yet: from here on its end is an exit, unless the flag is set again.
        mem.write(at, &[0]).or_else(MemError::unless_absent)?;
        self.eoi_armed = false;
        Ok(None)
    }
}
