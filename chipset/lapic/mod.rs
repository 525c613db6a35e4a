// SPDX-License-Identifier: GPL-2.0

//! A vCPU's local APIC, in xAPIC and x2APIC mode.
//!
//! SDM, "Advanced Programmable Interrupt Controller (APIC)"; APM, "Advanced Programmable Interrupt
//! Controller (APIC)". The version is 0x14: LVT timer, thermal, performance, LINT0, LINT1 and error.
//!
//! ```text
//!  accept() ──> IRR ── pending() asks, accept_pending() moves ──> ISR ── eoi() ──> (IOAPIC)
//!                          ^ above PPR = max(TPR, ISR)
//! ```
//!
//! An interrupt is asked for ([`Lapic::pending`]) and taken ([`Lapic::accept_pending`]) only when
//! the entry into the guest committed. Whatever the guest writes gives an [`LapicEffect`] that says what
//! has to happen outside: the model sends nothing itself.
//!
//! Not modelled: CMCI, extended AMD registers, EOI broadcast suppression, remote reads, arbitration
//! (APR reads 0), level-triggered LINT pins. The APIC id is read-only in both modes.
//!
//! The vCPU's thread owns its local APIC, without a lock. Others post vectors beside it, which
//! the owner takes over with [`Lapic::merge_posted`], and read its [`ApicIdentity`].

pub(crate) mod base;
mod bits;
pub(crate) mod dest;
mod regs;
pub(crate) mod save;
pub(crate) mod timer;

pub(crate) use bits::VecBits;
pub(crate) use dest::{ApicIdentity, ApicMode, IcrShorthand, Ipi};
pub(crate) use regs::SyntheticReg;
pub(crate) use timer::{BusPeriod, TimerClock};

use super::DeliveryMode;
use crate::arch::exception::CpuException;
use crate::arch::rule::rule;
use crate::arch::time::Ns;
use base::{ApicBase, ImpossibleBase};
use dest::IcrCommand;
use timer::LapicTimer;

/// SVR: enabled by software.
const SVR_ENABLE: u32 = 1 << 8;
/// LVT: masked.
const LVT_MASKED: u32 = 1 << 16;
/// The vectors that no interrupt message may have, of the first 64.
const ILLEGAL_VECTORS: u64 = 0xffff;
/// ESR: a vector below 16 was to be sent.
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
/// ESR: a vector below 16 was received.
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
/// ESR: a register that does not exist was accessed.
const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// What a write to the local APIC asks of the world outside.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LapicEffect {
    /// Nothing. [`Lapic::pending`] may have changed all the same.
    None,
    /// Send this.
    Ipi(Ipi),
    /// Tell the IOAPIC of the end of this level-triggered vector.
    EoiBroadcast(u8),
    /// [`Lapic::deadline`] may have changed.
    TimerChanged,
    /// [`Lapic::identity`] and [`Lapic::deadline`] may have changed.
    IdentityChanged,
}

/// The entries of the local vector table, in the order of their registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LvtEntry {
    /// The timer.
    Timer,
    /// The thermal sensor.
    #[allow(
        dead_code,
        reason = "a pin that the manual names and that nothing drives yet; used by the tests"
    )]
    Thermal,
    /// Performance counter overflow.
    Perf,
    /// Pin LINT0: the PIC's INTR on a PC.
    Lint0,
    /// Pin LINT1: NMI on a PC.
    #[allow(
        dead_code,
        reason = "a pin that the manual names and that nothing drives yet; used by the tests"
    )]
    Lint1,
    /// Errors of the APIC itself.
    Error,
}

/// The local APIC of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lapic {
    id: u32,
    bsp: bool,
    /// LINT0 passes the PIC's interrupts on after a reset.
    virtual_wire: bool,
    base: ApicBase,
    tpr: u8,
    /// Bits 31:24 of LDR in xAPIC mode; 0 in x2APIC mode.
    logical: u8,
    dfr: u32,
    svr: u32,
    irr: VecBits,
    isr: VecBits,
    tmr: VecBits,
    /// What ESR reads, latched by a write of it.
    esr: u32,
    /// The errors since.
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    timer: LapicTimer,
}

impl Lapic {
    /// Looks whether mode, base and timer go together, as [`HasState::set_state`](super::saved::HasState::set_state) has it.
    ///
    /// # Errors
    /// The name of what does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let [timer_lvt, ..] = self.lvt;
        self.base.check()?;
        rule(
            self.mode() != ApicMode::X2apic || self.logical == 0,
            "an id that was written is of xAPIC mode",
        )?;
        self.timer.check(timer_lvt)
    }

    /// Returns the local APIC with id `id` after power-on; `bsp` for the bootstrap processor.
    ///
    /// LINT0 of the bootstrap processor passes the PIC's interrupts on, as firmware would set it up
    /// (virtual wire mode) and KVM does: guests are booted without firmware.
    pub(crate) fn new(id: u32, bsp: bool) -> Lapic {
        let mut lvt = [LVT_MASKED; 6];
        if bsp {
            lvt[3] = 0x700;
        }
        Lapic {
            id,
            bsp,
            virtual_wire: bsp,
            base: ApicBase::at_power_on(bsp),
            tpr: 0,
            logical: 0,
            dfr: u32::MAX,
            svr: 0xff,
            irr: VecBits::default(),
            isr: VecBits::default(),
            tmr: VecBits::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt,
            timer: LapicTimer::new(BusPeriod::DEFAULT),
        }
    }

    /// Returns the same, just made, with LINT0 masked as the manual has it.
    pub(crate) fn without_virtual_wire(self) -> Lapic {
        Lapic { virtual_wire: false, lvt: [LVT_MASKED; 6], ..self }
    }

    /// Returns the same, just made, with another input clock of its timer.
    pub(crate) fn with_bus_period(self, period: BusPeriod) -> Lapic {
        Lapic { timer: LapicTimer::new(period), ..self }
    }

    /// Resets all registers; with `init`, as an INIT does, IA32_APIC_BASE is kept.
    ///
    /// The caller publishes identity and deadline anew.
    pub(crate) fn reset(&mut self, init: bool) {
        let mut fresh = Lapic::new(self.id, self.bsp).with_bus_period(self.timer.bus_ns);
        if !self.virtual_wire {
            fresh = fresh.without_virtual_wire();
        }
        *self = Lapic { base: if init { self.base } else { fresh.base }, ..fresh };
    }

    /// Returns the APIC id.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Returns what senders must know.
    pub(crate) fn identity(&self) -> ApicIdentity {
        ApicIdentity {
            apic_id: self.id,
            logical: self.logical,
            flat: self.dfr >> 28 == 0xf,
            mode: self.mode(),
            software_enabled: self.software_enabled(),
        }
    }

    /// Returns the mode that IA32_APIC_BASE selects.
    pub(crate) fn mode(&self) -> ApicMode {
        self.base.mode()
    }

    /// Returns IA32_APIC_BASE.
    pub(crate) fn base(&self) -> u64 {
        self.base.raw()
    }

    /// Returns the guest physical address of the register page, `None` unless in xAPIC mode.
    pub(crate) fn mmio_base(&self) -> Option<u64> {
        self.base.mmio_base()
    }

    /// Writes IA32_APIC_BASE as the guest does; `reserved` is from [`base::base_reserved`].
    ///
    /// The caller publishes identity and deadline anew, and CPUID's APIC bit follows the mode.
    /// Disabling loses all state.
    ///
    /// # Errors
    /// #GP where the mode cannot be reached from this one, and for reserved bits.
    pub(crate) fn set_base(&mut self, value: u64, reserved: u64) -> Result<(), CpuException> {
        self.change_base(self.base.written(value, reserved)?);
        Ok(())
    }

    /// Sets IA32_APIC_BASE from outside the guest, as [`Lapic::set_base`]; but every mode can be reached from every
    /// other.
    ///
    /// # Errors
    /// [`ImpossibleBase`] for what the register cannot hold, unless it is the value already.
    pub(crate) fn restore_base(&mut self, value: u64, reserved: u64) -> Result<(), ImpossibleBase> {
        self.change_base(self.base.restored(value, reserved)?);
        Ok(())
    }

    fn change_base(&mut self, base: ApicBase) {
        let was = self.mode();
        self.base = base;
        if self.mode() == ApicMode::Disabled && was != ApicMode::Disabled {
            self.reset(true);
        }
        if self.mode() == ApicMode::X2apic {
            // SDM, "x2APIC State Transitions": LDR is read-only there and follows from the id.
            self.logical = 0;
        }
        self.icr &= self.mode().icr_bits();
    }

    fn software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    // The way of an interrupt.

    /// Takes a fixed interrupt that comes from this local APIC itself; [`Lapic::merge_posted`] takes the others.
    ///
    /// Dropped when disabled by software; a vector below 16 is an error that ESR tells of.
    pub(crate) fn accept(&mut self, vector: u8, level: bool) {
        if self.mode() == ApicMode::Disabled || !self.software_enabled() {
            return;
        }
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL);
            return;
        }
        if level {
            self.tmr.set(vector);
        } else if !self.irr.has(vector) && !self.isr.has(vector) {
            self.tmr.clear(vector);
        }
        self.irr.set(vector);
    }

    /// Takes over the vectors that senders have posted, edge and level triggered ones, of one `word` of 64, from 0; a vector
    /// may be both. Returns the level-triggered ones that a disabled local APIC drops: no end of theirs will come.
    ///
    /// The senders have looked whether software has it enabled. Where it was disabled since, the interrupt came
    /// before that, and is held.
    ///
    /// DEVIATION: the processor notes for each vector how it came last. Here a vector stays level triggered while it
    /// waits or is in service, so that the I/O APIC hears of its end whoever else uses the vector.
    pub(crate) fn merge_posted(&mut self, word: usize, edge: u64, level: u64) -> u64 {
        if self.mode() == ApicMode::Disabled {
            return level;
        }
        let illegal = if word == 0 { ILLEGAL_VECTORS } else { 0 };
        if (edge | level) & illegal != 0 {
            self.error(ESR_RECEIVE_ILLEGAL);
        }
        let (edge, level) = (edge & !illegal, level & !illegal);
        let own = (self.irr.0.get_mut(word), self.tmr.0.get_mut(word), self.isr.0.get(word));
        if let (Some(irr), Some(tmr), Some(isr)) = own {
            *tmr = (*tmr & !(edge & !(*irr | isr))) | level;
            *irr |= edge | level;
        }
        0
    }

    /// Returns the vector to be injected next: the highest in IRR, if its class is above PPR's.
    /// Changes nothing.
    pub(crate) fn pending(&self) -> Option<u8> {
        self.highest_irr().filter(|vector| self.is_above_ppr(*vector))
    }

    /// Returns whether the processor priority lets `vector` through.
    #[inline]
    pub(crate) fn is_above_ppr(&self, vector: u8) -> bool {
        vector >> 4 > self.ppr() >> 4
    }

    /// Returns the highest vector in IRR, whether or not PPR holds it back.
    #[inline]
    pub(crate) fn highest_irr(&self) -> Option<u8> {
        self.irr.highest()
    }

    /// Returns the class of `vector` where the task priority holds it back, else 0: below that task priority it may
    /// be pending.
    #[inline]
    pub(crate) fn held_class(&self, vector: u8) -> u8 {
        let class = vector >> 4;
        if class <= self.tpr >> 4 {
            class
        } else {
            0
        }
    }

    /// Moves `vector` from IRR to ISR: the guest has taken it. Does nothing unless it is in IRR.
    pub(crate) fn accept_pending(&mut self, vector: u8) {
        if self.irr.has(vector) {
            self.irr.clear(vector);
            self.isr.set(vector);
        }
    }

    /// Takes `vector` out of IRR: the guest has taken it, and it has ended with that.
    pub(crate) fn accept_ended(&mut self, vector: u8) {
        self.irr.clear(vector);
    }

    /// Moves `vector` back from ISR to IRR: the guest has not taken it after all. Returns whether it is the one in
    /// service.
    pub(crate) fn take_back(&mut self, vector: u8) -> bool {
        let is_served = self.isr.highest() == Some(vector);
        if is_served {
            self.isr.clear(vector);
            self.irr.set(vector);
        }
        is_served
    }

    /// Ends the interrupt of the highest priority in service. Returns its vector if the IOAPIC must
    /// hear of it, that is if it is level triggered.
    pub(crate) fn eoi(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        self.isr.clear(vector);
        self.tmr.has(vector).then_some(vector)
    }

    /// Returns whether the end of `vector`, in service now, must be told to the IOAPIC.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn eoi_needed_by_ioapic(&self, vector: u8) -> bool {
        self.isr.has(vector) && self.tmr.has(vector)
    }

    /// Returns whether the guest may end an interrupt by memory alone (paravirtual EOI): the one that it is
    /// about to take, `coming`, or else the one in service. It is edge triggered, and nothing waits for its
    /// end.
    pub(crate) fn pv_eoi_allowed(&self, coming: Option<u8>) -> bool {
        let mut waiting = self.irr;
        if let Some(vector) = coming {
            waiting.clear(vector);
        }
        waiting.is_empty()
            && coming.or_else(|| self.isr.highest()).is_some_and(|vector| !self.tmr.has(vector))
    }

    /// Returns the processor priority.
    pub(crate) fn ppr(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        // SDM, "Task and Processor Priorities": of equal classes, either sub-class may show; here it is TPR's.
        if self.tpr >> 4 >= in_service >> 4 {
            self.tpr
        } else {
            in_service & 0xf0
        }
    }

    /// Returns what a guest finds in memory that need not read the registers: task priority, class of the interrupt
    /// in service, a byte of 0, and the highest that waits.
    pub(crate) fn vapic_word(&self) -> u32 {
        let in_service = self.isr.highest().unwrap_or(0) & 0xf0;
        u32::from_le_bytes([self.tpr, in_service, 0, self.irr.highest().unwrap_or(0)])
    }

    /// Returns the task priority.
    pub(crate) fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Sets the task priority.
    pub(crate) fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
    }

    /// Returns CR8: the task priority's class.
    pub(crate) fn cr8(&self) -> u8 {
        self.tpr >> 4
    }

    /// Writes CR8; bits above 3 are ignored.
    pub(crate) fn set_cr8(&mut self, cr8: u8) {
        self.tpr = cr8.wrapping_shl(4);
    }

    /// Writes the whole ICR at once, as x2APIC mode does. A fixed interrupt to itself is done here.
    pub(crate) fn write_icr(&mut self, icr: u64) -> LapicEffect {
        self.icr = icr;
        match IcrCommand::from_icr(icr, self.mode()) {
            IcrCommand::Nothing => LapicEffect::None,
            IcrCommand::IllegalVector => {
                self.error(ESR_SEND_ILLEGAL);
                LapicEffect::None
            }
            IcrCommand::Send(Ipi { msg, shorthand: IcrShorthand::Itself })
                if msg.delivery == DeliveryMode::Fixed =>
            {
                self.accept(msg.vector, false);
                LapicEffect::None
            }
            IcrCommand::Send(ipi) => LapicEffect::Ipi(ipi),
        }
    }

    // Local interrupts.

    fn lvt(&self, entry: LvtEntry) -> u32 {
        let [timer, thermal, perf, lint0, lint1, error] = self.lvt;
        match entry {
            LvtEntry::Timer => timer,
            LvtEntry::Thermal => thermal,
            LvtEntry::Perf => perf,
            LvtEntry::Lint0 => lint0,
            LvtEntry::Lint1 => lint1,
            LvtEntry::Error => error,
        }
    }

    /// Raises a local interrupt (a rising edge of a pin). A fixed one is taken here; any other
    /// delivery mode is returned, for the caller to carry out.
    pub(crate) fn raise_local(&mut self, entry: LvtEntry) -> Option<DeliveryMode> {
        let lvt = self.lvt(entry);
        if lvt & LVT_MASKED != 0 {
            return None;
        }
        if entry == LvtEntry::Perf {
            // SDM, "Local Vector Table": the processor masks the entry when it delivers.
            self.lvt[2] |= LVT_MASKED;
        }
        let delivery = match entry {
            // These two entries have no delivery mode field.
            LvtEntry::Timer | LvtEntry::Error => DeliveryMode::Fixed,
            _ => DeliveryMode::from_code(u64::from(lvt >> 8))?,
        };
        if delivery == DeliveryMode::Fixed {
            let [vector, ..] = lvt.to_le_bytes();
            self.accept(vector, false);
            return None;
        }
        Some(delivery)
    }

    /// Returns whether an interrupt of the PIC reaches the processor: LINT0 passes it on, or the
    /// local APIC is disabled and out of the way.
    pub(crate) fn accepts_extint(&self) -> bool {
        self.mode() == ApicMode::Disabled || self.lvt(LvtEntry::Lint0) & (LVT_MASKED | 0x700) == 0x700
    }

    /// Returns whether a rising edge of LINT1 gives an NMI.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn lint1_is_nmi(&self) -> bool {
        self.mode() == ApicMode::Disabled || self.lvt(LvtEntry::Lint1) & (LVT_MASKED | 0x700) == 0x400
    }

    /// Notes an error, and raises the error interrupt if it is new.
    fn error(&mut self, bit: u32) {
        if self.errors & bit == 0 {
            self.errors |= bit;
            // Timer and error entries are always fixed: nothing is left to the caller.
            let _ = self.raise_local(LvtEntry::Error);
        }
    }

    // The timer.

    /// Returns when [`Lapic::tick`] is to be called: when the timer fires next and is not masked.
    pub(crate) fn deadline(&self) -> Option<Ns> {
        if self.lvt(LvtEntry::Timer) & LVT_MASKED != 0 {
            return None;
        }
        self.timer.deadline
    }

    /// Fires the timer if its time has come by `now`. Returns whether it fired; early or needless
    /// calls do no harm.
    pub(crate) fn tick(&mut self, now: Ns) -> bool {
        let fired = self.timer.expire(now);
        if fired {
            let _ = self.raise_local(LvtEntry::Timer);
        }
        fired
    }

    /// Returns the guest's TSC at which the timer fires, where it is in TSC deadline mode and armed.
    pub(crate) fn armed_tsc(&self) -> Option<u64> {
        self.timer.armed_tsc()
    }

    /// Works out the TSC deadline anew after the guest's counter was set.
    pub(crate) fn tsc_changed(&mut self, clock: &TimerClock) {
        self.timer.follow_tsc(clock);
    }

    /// Returns IA32_TSC_DEADLINE: 0 when disarmed, passed, or in another timer mode.
    pub(crate) fn tsc_deadline(&self, now: Ns) -> u64 {
        self.timer.tsc_deadline(now)
    }

    /// Writes IA32_TSC_DEADLINE; a deadline already passed fires at once.
    pub(crate) fn set_tsc_deadline(&mut self, tsc: u64, clock: &TimerClock) -> LapicEffect {
        self.timer.set_tsc_deadline(tsc, clock);
        self.tick(clock.now);
        LapicEffect::TimerChanged
    }
}
