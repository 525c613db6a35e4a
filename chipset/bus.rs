// SPDX-License-Identifier: GPL-2.0

//! The devices of one VM behind their ports, and the wires between them.
//!
//! Owns the chips that share one lock: the interrupt controllers, timers, UART, keyboard controller,
//! power management and PCI configuration. Every access goes to one chip; then [`ChipBus::settle`]
//! carries that chip's interrupt lines to the controllers. What comes out of those is delivered by the lock's
//! holder before the lock is dropped: [`ChipBus::intr`], a function of the state, and what an access sends, which
//! gathers in [`BusSignals`].
//!
//! ```text
//! uart, rtc, i8042, pm, pit ─┬─ gsi ──┬── pic pair ─────────────> ChipBus::intr
//! pins of PCI functions ─────┘        ├── ioapic ── pins ──┐
//!                                     └── MSI ─────────────┴────> ChipBus::take_message
//! ```

pub(crate) mod save;

use super::i8042::{self, I8042};
use super::ioapic::{self, Ioapic, SavedIoapic};
use super::pci::{wired_to, INTX_GSIS};
use super::pic::{self, Pic};
use super::pit::{self, Pit};
use super::pm::{self, PlatformRequest, Pm};
use super::resample::ResampledGsis;
use super::routing::{GsiRouting, GsiTarget};
use super::rtc::{self, Rtc};
use super::saved::HasState;
use super::uart::{self, Uart};
use super::{ApicMessage, DestFormat, PinLevel, PioDevice};
use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::time::{earliest, Ns};

/// The IOAPIC's registers.
pub(crate) const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes decoded from [`IOAPIC_BASE`].
pub(crate) const IOAPIC_SIZE: u64 = 0x1000;

/// GSI of the timer.
const GSI_PIT: u32 = 0;
/// GSI of the keyboard.
const GSI_KEYBOARD: u32 = 1;
/// GSI of the first UART.
const GSI_UART: u32 = 4;
/// GSI of the real-time clock.
const GSI_RTC: u32 = 8;
/// GSI of ACPI events.
const GSI_SCI: u32 = 9;
/// GSI of the PS/2 mouse.
const GSI_AUX: u32 = 12;

/// The GSIs that chips and PCI functions drive, a bit each.
const DRIVEN: u32 = {
    let [a, b, c] = INTX_GSIS;
    let chips = 1 << GSI_KEYBOARD | 1 << GSI_UART | 1 << GSI_RTC | 1 << GSI_SCI | 1 << GSI_AUX;
    chips | 1 << a | 1 << b | 1 << c
};

/// The most MSIs that one access can cause: one for each line that chips drive.
const MSIS: usize = 6;

/// What an access sends, until [`ChipBus::take_message`] hands it out.
pub(crate) struct BusSignals {
    /// The pins of the IOAPIC that send, a bit each.
    pins: u32,
    /// There are MSIs.
    has_msis: bool,
    /// Interrupts of resampled GSIs have ended: [`ResampledGsis::take_ended`] has them.
    has_ended: bool,
    msis: [Option<ApicMessage>; MSIS],
}

impl BusSignals {
    /// Nothing to send.
    pub(crate) fn new() -> BusSignals {
        BusSignals { pins: 0, has_msis: false, has_ended: false, msis: [None; MSIS] }
    }

    /// Returns whether somebody outside waits for the end of an interrupt that has ended.
    #[inline(always)]
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    fn push(&mut self, msi: ApicMessage) {
        self.has_msis = true;
        if let Some(slot) = self.msis.iter_mut().find(|m| m.is_none()) {
            *slot = Some(msi);
        }
    }
}

/// A message to be sent, and the pin of the IOAPIC that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutgoingMessage {
    /// The message.
    pub(crate) message: ApicMessage,
    /// `None` for an MSI.
    pub(crate) pin: Option<usize>,
}

/// A chip on the bus, for [`ChipBus::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChipName {
    Pic,
    Pit,
    Rtc,
    Uart,
    I8042,
    Pm,
}

impl ChipName {
    /// Returns the chip that decodes `port`.
    #[inline]
    const fn at(port: u16) -> Option<ChipName> {
        Some(match port {
            0x3f8..=0x3ff => ChipName::Uart,
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => ChipName::Pic,
            0x40..=0x43 | 0x61 => ChipName::Pit,
            0x70 | 0x71 => ChipName::Rtc,
            0x60 | 0x64 | 0x92 => ChipName::I8042,
            0x600..=0x60b | 0xcf9 => ChipName::Pm,
            _ => return None,
        })
    }
}

/// The first port above all that chips decode, but for 0xcf9.
const LOW_PORTS: usize = 0x640;

/// Which of the ports below [`LOW_PORTS`] chips decode, a bit each.
const DECODED: &[u64; LOW_PORTS / 64] = &{
    let mut map = [0; LOW_PORTS / 64];
    let mut port = 0;
    while port < LOW_PORTS {
        if ChipName::at(port as u16).is_some() {
            map[port / 64] |= 1 << (port % 64);
        }
        port += 1;
    }
    map
};

/// Returns whether a chip of ours may decode `port`, without looking at any.
#[inline(always)]
pub(crate) fn decodes(port: u16) -> bool {
    match DECODED.get(usize::from(port >> 6)) {
        Some(word) => word >> (port & 63) & 1 != 0,
        None => ChipName::at(port).is_some(),
    }
}

/// The chips of one VM. One that was not created is `None`, and its ports go to user space.
#[derive(Default)]
pub(crate) struct ChipBus {
    /// The interrupt controller pair.
    pub(crate) pic: Option<Pic>,
    /// The I/O APIC.
    pub(crate) ioapic: Option<Ioapic>,
    /// The interval timer.
    pub(crate) pit: Option<Pit>,
    /// Port 0x61 is user space's although there is a timer.
    pub(crate) leaves_speaker: bool,
    /// The real-time clock.
    pub(crate) rtc: Option<Rtc>,
    /// The first serial port.
    pub(crate) uart: Option<Uart>,
    /// The keyboard controller.
    pub(crate) i8042: Option<I8042>,
    /// Power management.
    pub(crate) pm: Option<Pm>,
    /// Where each GSI goes.
    pub(crate) routing: GsiRouting,
    /// The GSIs that wait for the ends of their interrupts.
    pub(crate) resampled: ResampledGsis,
    /// How the MSIs among the routes name their destinations.
    msi_format: DestFormat,
    /// The level of each of the first 32 GSIs, as last driven by a chip.
    driven: u32,
    /// The same as last driven from outside the machine.
    outside: u32,
    /// Readers of the console have been told of output that they have not yet read.
    console_told: bool,
    /// A writer of the console waits for room.
    console_full: bool,
    /// How many vCPUs have a message of a synthetic timer that waits for an end of interrupt.
    sint_waiters: u32,
}

impl ChipBus {
    /// Reads a port. `None`: no chip there.
    pub(crate) fn pio_read(
        &mut self,
        port: u16,
        width: AccessWidth,
        now: Ns,
        out: &mut BusSignals,
    ) -> Option<u32> {
        let chip = ChipName::at(port)?;
        let value = match chip {
            ChipName::Uart => self.uart.as_mut()?.read(port.wrapping_sub(uart::FIRST_PORT), width, now),
            ChipName::Pic => self.pic.as_mut()?.read(port.wrapping_sub(pic::FIRST_PORT), width, now),
            ChipName::Pit if self.is_left(port) => return None,
            ChipName::Pit => self.pit.as_mut()?.read(port.wrapping_sub(pit::FIRST_PORT), width, now),
            ChipName::Rtc => self.rtc.as_mut()?.read(port.wrapping_sub(rtc::FIRST_PORT), width, now),
            ChipName::I8042 => self.i8042.as_mut()?.read(port.wrapping_sub(i8042::FIRST_PORT), width, now),
            ChipName::Pm => self.pm.as_mut()?.read(port.wrapping_sub(pm::FIRST_PORT), width, now),
        };
        self.settle(chip, now, out);
        Some(value)
    }

    /// Writes a port. Returns whether a chip is there.
    pub(crate) fn pio_write(
        &mut self,
        port: u16,
        width: AccessWidth,
        value: u32,
        now: Ns,
        out: &mut BusSignals,
    ) -> bool {
        let Some(chip) = ChipName::at(port) else { return false };
        let done = match chip {
            ChipName::Uart => write_to(&mut self.uart, port, uart::FIRST_PORT, width, value, now),
            ChipName::Pic => write_to(&mut self.pic, port, pic::FIRST_PORT, width, value, now),
            ChipName::Pit if self.is_left(port) => false,
            ChipName::Pit => write_to(&mut self.pit, port, pit::FIRST_PORT, width, value, now),
            ChipName::Rtc => write_to(&mut self.rtc, port, rtc::FIRST_PORT, width, value, now),
            ChipName::I8042 => write_to(&mut self.i8042, port, i8042::FIRST_PORT, width, value, now),
            ChipName::Pm => write_to(&mut self.pm, port, pm::FIRST_PORT, width, value, now),
        };
        if done {
            self.settle(chip, now, out);
        }
        done
    }

    /// Reads a byte of the timer ([`pit::PORTS`]) as [`Pit::read_quietly`] does: no signal comes of it. `None`: nothing
    /// has been done.
    #[inline(always)]
    pub(crate) fn read_timer(&mut self, port: u16, now: impl FnOnce() -> Ns) -> Option<u8> {
        if self.is_left(port) {
            return None;
        }
        self.pit.as_mut()?.read_quietly(port.wrapping_sub(pit::FIRST_PORT), now)
    }

    /// Writes a byte of the timer as [`Pit::write_quietly`] does. Returns whether it is done.
    #[inline(always)]
    pub(crate) fn write_timer(&mut self, port: u16, value: u8, now: impl FnOnce() -> Ns) -> bool {
        let offset = port.wrapping_sub(pit::FIRST_PORT);
        !self.is_left(port) && self.pit.as_mut().is_some_and(|pit| pit.write_quietly(offset, value, now))
    }

    /// Returns whether `port` is one that the timer decodes and leaves to user space.
    #[inline(always)]
    fn is_left(&self, port: u16) -> bool {
        self.leaves_speaker && port == pit::SPEAKER
    }

    /// Reads memory that belongs to a chip. `None`: no chip there.
    pub(crate) fn mmio_read(&self, gpa: Gpa, width: AccessWidth) -> Option<u64> {
        let offset = ioapic_offset(gpa)?;
        Some(self.ioapic.as_ref()?.read(offset, width))
    }

    /// Writes memory that belongs to a chip. Returns whether one is there.
    pub(crate) fn mmio_write(
        &mut self,
        gpa: Gpa,
        width: AccessWidth,
        value: u64,
        out: &mut BusSignals,
    ) -> bool {
        let Some(offset) = ioapic_offset(gpa) else { return false };
        if offset == ioapic::EOI && !self.resampled.is_empty() {
            let [vector, ..] = value.to_le_bytes();
            self.end_resampled_vector(vector, out);
        }
        let Some(ioapic) = self.ioapic.as_mut() else { return false };
        out.pins |= ioapic.write(offset, width, value).pins();
        true
    }

    /// Sets the IOAPIC's state, as far as it can be in it, and sends what is due. Returns whether there is one.
    pub(crate) fn restore_ioapic(&mut self, state: &SavedIoapic, out: &mut BusSignals) -> bool {
        let Some(ioapic) = self.ioapic.as_mut() else { return false };
        ioapic.set_state(state);
        out.pins |= ioapic.retry().pins();
        true
    }

    /// A local APIC may take messages that it did not take before: sends those that nobody took again.
    pub(crate) fn retry(&mut self, out: &mut BusSignals) {
        if let Some(ioapic) = self.ioapic.as_mut() {
            out.pins |= ioapic.retry().pins();
        }
    }

    /// Returns the next message to be sent, and takes it out of `out`.
    pub(crate) fn take_message(&self, out: &mut BusSignals) -> Option<OutgoingMessage> {
        while out.pins != 0 {
            let pin = usize::try_from(out.pins.trailing_zeros()).ok()?;
            out.pins &= out.pins.wrapping_sub(1);
            let message = self.ioapic.as_ref().and_then(|ioapic| ioapic.message(pin));
            if let Some(message) = message {
                return Some(OutgoingMessage { message, pin: Some(pin) });
            }
        }
        if !out.has_msis {
            // Mostly so, and asked after each access to the chipset.
            return None;
        }
        let message = out.msis.iter_mut().find_map(Option::take)?;
        Some(OutgoingMessage { message, pin: None })
    }

    /// No local APIC took a message.
    pub(crate) fn not_accepted(&mut self, sent: OutgoingMessage) {
        if let (Some(ioapic), Some(pin)) = (self.ioapic.as_mut(), sent.pin) {
            ioapic.not_accepted(pin);
        }
    }

    /// The guest ended a level-triggered interrupt: the IOAPIC may send it again. Returns whether user space has one
    /// that waits for it instead.
    pub(crate) fn eoi(&mut self, vector: u8, now: Ns, out: &mut BusSignals) -> bool {
        if !self.resampled.is_empty() {
            // Before the pin looks at its line, which would make it send once more.
            self.end_resampled_vector(vector, out);
        }
        let Some(ioapic) = self.ioapic.as_mut() else { return self.routing.is_for_user(vector) };
        out.pins |= ioapic.eoi(vector).pins();
        self.settle_timer(now, out);
        false
    }

    /// Drives a GSI from outside the chips. Returns how many controllers took it, 0 when it joined a
    /// request that waits already; `None` when no controller heard it, as all mask it or none is on its
    /// route. What the messages in `out` reach counts on top. This is the sum that KVM makes.
    pub(crate) fn set_gsi(&mut self, gsi: u32, level: PinLevel, out: &mut BusSignals) -> Option<u32> {
        let is_held = !self.resampled.is_empty() && self.resampled.is_asserted(gsi);
        let line_level = if is_held { PinLevel::High } else { level };
        let mut heard: Option<u32> = None;
        for target in self.routing.targets(gsi) {
            let taken = match *target {
                GsiTarget::Pic(line) => self.pic.as_mut().and_then(|pic| pic.set_irq(line, line_level)),
                GsiTarget::Ioapic(pin) => self.ioapic.as_mut().and_then(|ioapic| {
                    let heard = ioapic.heard(pin, line_level);
                    if ioapic.set_irq(pin, line_level).is_none() {
                        return heard;
                    }
                    out.pins |= 1u32.wrapping_shl(u32::from(pin));
                    Some(0)
                }),
                GsiTarget::Msi { addr, data } if level.is_high() => {
                    let msg = ApicMessage::from_msi(addr, data, self.msi_format);
                    msg.map(|msg| {
                        out.push(msg);
                        0
                    })
                }
                // Raised by who drives the GSI from outside, and knows the vCPUs.
                GsiTarget::Msi { .. } | GsiTarget::Sint { .. } => None,
            };
            heard = add_heard(heard, taken);
        }
        heard
    }

    /// As [`ChipBus::set_gsi`], by user space, whose level stays beside that of others.
    pub(crate) fn set_gsi_from_outside(
        &mut self,
        gsi: u32,
        level: PinLevel,
        out: &mut BusSignals,
    ) -> Option<u32> {
        let bit = 1u32.checked_shl(gsi).unwrap_or(0);
        self.outside = if level.is_high() { self.outside | bit } else { self.outside & !bit };
        self.set_gsi(gsi, level, out)
    }

    /// Asserts a resampled GSI until its interrupt ends.
    pub(crate) fn assert_resampled(&mut self, gsi: u32, out: &mut BusSignals) {
        self.resampled.assert(gsi);
        self.set_gsi(gsi, PinLevel::High, out);
    }

    /// An irqfd that resamples `gsi` goes; with the last one goes the level that they held.
    pub(crate) fn remove_resampler(&mut self, gsi: u32, out: &mut BusSignals) {
        if self.resampled.remove_user(gsi) {
            self.release(gsi, out);
        }
    }

    /// Carries the level of a resampled GSI that is no longer asserted.
    fn release(&mut self, gsi: u32, out: &mut BusSignals) {
        let bit = 1u32.checked_shl(gsi).unwrap_or(0);
        let by_others = PinLevel::from((self.driven | self.outside) & bit != 0);
        self.set_gsi(gsi, by_others, out);
    }

    /// The interrupt of targets that are `meant` has ended: releases the resampled GSIs that reach them.
    fn end_resampled(&mut self, meant: impl Fn(&ChipBus, u32, &GsiTarget) -> bool, out: &mut BusSignals) {
        let mut place = 0usize;
        while let Some(gsi) = self.resampled.at(place) {
            place = place.wrapping_add(1);
            if self.routing.targets(gsi).iter().any(|target| meant(self, gsi, target)) {
                self.resampled.end(gsi);
                self.release(gsi, out);
                out.has_ended = true;
            }
        }
    }

    /// A local APIC has ended `vector`.
    #[cold]
    #[inline(never)]
    fn end_resampled_vector(&mut self, vector: u8, out: &mut BusSignals) {
        let pins = self.ioapic.as_ref().map_or(0, |ioapic| ioapic.pins_of(vector));
        let meant = |target: &GsiTarget| match *target {
            GsiTarget::Ioapic(pin) => pins >> (pin & 31) & 1 != 0,
            _ => false,
        };
        self.end_resampled(|_, _, target| meant(target), out);
    }

    /// The pair has ended the service of `lines`, a bit each.
    #[cold]
    #[inline(never)]
    fn end_resampled_lines(&mut self, lines: u16, out: &mut BusSignals) {
        let meant = |target: &GsiTarget| match *target {
            GsiTarget::Pic(line) => lines >> (line & 15) & 1 != 0,
            _ => false,
        };
        self.end_resampled(|_, _, target| meant(target), out);
    }

    /// Returns whether a resampled GSI is asserted at an edge-triggered pin, whose end no local APIC tells by itself.
    #[cold]
    #[inline(never)]
    fn has_resampled_edge(&self) -> bool {
        self.resampled.asserted().any(|gsi| self.routing.targets(gsi).iter().any(|t| self.is_open_edge(t)))
    }

    fn is_open_edge(&self, target: &GsiTarget) -> bool {
        match (*target, self.ioapic.as_ref()) {
            (GsiTarget::Ioapic(pin), Some(ioapic)) => ioapic.is_open_edge(pin),
            (GsiTarget::Sint { .. }, _) => true,
            _ => false,
        }
    }

    /// Sets how MSIs of user space name their destinations. In the IOAPIC's entries they stay narrow.
    pub(crate) fn set_msi_format(&mut self, format: DestFormat) {
        self.msi_format = format;
        if let Some(ioapic) = self.ioapic.as_mut() {
            ioapic.set_format(format.narrow());
        }
    }

    /// Returns the message that a GSI is and all that it is: see [`GsiRouting::message`].
    pub(crate) fn message(&self, gsi: u32) -> Option<ApicMessage> {
        self.routing.message(gsi, self.msi_format)
    }

    /// Returns the level of the pair's output.
    #[inline]
    pub(crate) fn intr(&self) -> PinLevel {
        self.pic.as_ref().map_or(PinLevel::Low, Pic::intr)
    }

    /// Acknowledges the pair's interrupt. Returns its vector.
    pub(crate) fn acknowledge(&mut self, now: Ns, out: &mut BusSignals) -> Option<u8> {
        let pic = self.pic.as_mut()?;
        if !pic.intr().is_high() {
            return None;
        }
        let vector = pic.acknowledge();
        // With automatic EOI the service ends here, and no write follows: the timer may have the next pulse ready.
        let ended = pic.take_ended();
        if ended != 0 {
            self.note_ended_lines(ended, out);
            self.settle_timer(now, out);
        }
        Some(vector)
    }

    fn drive(&mut self, gsi: u32, level: PinLevel, out: &mut BusSignals) {
        let bit = 1u32.wrapping_shl(gsi);
        if (self.driven & bit != 0) != level.is_high() {
            self.driven ^= bit;
            self.set_gsi(gsi, level, out);
        }
    }

    /// Carries the lines of the chip that was touched to the controllers.
    #[inline]
    fn settle(&mut self, chip: ChipName, now: Ns, out: &mut BusSignals) {
        match chip {
            ChipName::Uart => self.settle_uart(out),
            ChipName::Rtc => {
                if let Some(level) = self.rtc.as_ref().map(Rtc::irq) {
                    self.drive(GSI_RTC, level, out);
                }
            }
            ChipName::I8042 => {
                if let Some((key, aux)) = self.i8042.as_ref().map(|c| (c.irq(), c.aux_irq())) {
                    self.drive(GSI_KEYBOARD, key, out);
                    self.drive(GSI_AUX, aux, out);
                }
            }
            ChipName::Pm => {
                if let Some(level) = self.pm.as_ref().map(Pm::irq) {
                    self.drive(GSI_SCI, level, out);
                }
            }
            ChipName::Pit => self.settle_timer(now, out),
            ChipName::Pic => {
                // The acknowledge first: the timer may have the next pulse ready, which waits for it.
                let ended = self.pic.as_mut().map_or(0, Pic::take_ended);
                self.note_ended_lines(ended, out);
                self.settle_timer(now, out);
            }
        }
    }

    /// Carries all lines and sends what waits: the machine goes on with a state that it was given.
    fn settle_all(&mut self, now: Ns, out: &mut BusSignals) {
        self.retry(out);
        for chip in [ChipName::Uart, ChipName::Rtc, ChipName::I8042, ChipName::Pm, ChipName::Pit] {
            self.settle(chip, now, out);
        }
    }

    /// Carries the UART's line, also after its console side was touched.
    pub(crate) fn settle_uart(&mut self, out: &mut BusSignals) {
        if let Some(level) = self.uart.as_ref().map(Uart::irq) {
            self.drive(GSI_UART, level, out);
        }
    }

    /// Carries the INTx pins of PCI functions: `asserted` are the devices whose pin is, a bit each. A line is shared, and
    /// high as long as one of them asserts it.
    pub(crate) fn settle_intx(&mut self, asserted: u32, out: &mut BusSignals) {
        for (n, gsi) in INTX_GSIS.into_iter().enumerate() {
            self.drive(gsi, PinLevel::from(asserted & wired_to(n) != 0), out);
        }
    }

    /// Tells those who wait for it that the pair has ended the service of `lines`, a bit each.
    #[inline]
    fn note_ended_lines(&mut self, lines: u16, out: &mut BusSignals) {
        if lines & 1 != 0 {
            self.ack_timer();
        }
        if lines != 0 && !self.resampled.is_empty() {
            self.end_resampled_lines(lines, out);
        }
    }

    fn ack_timer(&mut self) {
        if let Some(pit) = self.pit.as_mut() {
            pit.ack();
        }
    }

    /// Pulses IRQ 0 for what the timer has due.
    fn settle_timer(&mut self, now: Ns, out: &mut BusSignals) {
        let Some(pit) = self.pit.as_mut() else { return };
        pit.tick(now);
        if !pit.take_pulse() {
            return;
        }
        let heard = self.set_gsi(GSI_PIT, PinLevel::High, out);
        self.set_gsi(GSI_PIT, PinLevel::Low, out);
        if let (None, Some(pit)) = (heard, self.pit.as_mut()) {
            // All mask it: no acknowledge will come, and nobody counts those that were missed.
            pit.forget_missed();
        }
    }

    /// The guest ended the service of an edge-triggered interrupt while somebody waited for that of their own
    /// ([`ChipBus::awaits_edge_eoi`]): take it for that. A timer or a device that comes a little early does no harm, one
    /// that never comes does.
    pub(crate) fn edge_eoi(&mut self, now: Ns, out: &mut BusSignals) {
        if self.is_timer_waiting() {
            self.ack_timer();
            self.settle_timer(now, out);
        }
        if !self.resampled.is_empty() {
            self.end_resampled(
                |bus, gsi, target| bus.resampled.is_asserted(gsi) && bus.is_open_edge(target),
                out,
            );
        }
    }

    /// Returns whether the timer has a pulse that waits for the end of the last one.
    #[inline]
    fn is_timer_waiting(&self) -> bool {
        self.pit.as_ref().is_some_and(Pit::waits_for_ack)
    }

    /// Returns whether somebody waits for the end of an edge-triggered interrupt: the timer, whose next pulse is ready, or
    /// a resampled GSI.
    #[inline]
    pub(crate) fn awaits_edge_eoi(&self) -> bool {
        self.sint_waiters != 0
            || self.is_timer_waiting()
            || (!self.resampled.is_empty() && self.has_resampled_edge())
    }

    /// One vCPU more, or one fewer, has a message of a synthetic timer that waits for an end of interrupt.
    pub(crate) fn count_sint_waiter(&mut self, waits: bool) {
        let count = self.sint_waiters;
        self.sint_waiters = if waits { count.saturating_add(1) } else { count.saturating_sub(1) };
    }

    /// The guest has taken the messages of a virtual processor: tells those whose GSIs are routed to its sources.
    pub(crate) fn end_of_message(&mut self, of_vp: u32, out: &mut BusSignals) {
        let meant =
            |target: &GsiTarget| matches!(*target, GsiTarget::Sint { vp_index, .. } if vp_index == of_vp);
        if !self.resampled.is_empty() {
            self.end_resampled(|_, _, target| meant(target), out);
        }
    }

    /// Lets time pass.
    pub(crate) fn tick(&mut self, now: Ns, out: &mut BusSignals) {
        if let Some(rtc) = self.rtc.as_mut() {
            rtc.tick(now);
        }
        if let Some(pm) = self.pm.as_mut() {
            pm.tick(now);
        }
        if let Some(kbd) = self.i8042.as_mut() {
            kbd.tick(now);
        }
        // Of the others none depends on time.
        for chip in [ChipName::Rtc, ChipName::Pm, ChipName::I8042, ChipName::Pit] {
            self.settle(chip, now, out);
        }
    }

    /// Looks whether the invariants of all chips hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.pic.as_ref().map_or(Ok(()), Pic::check)?;
        self.ioapic.as_ref().map_or(Ok(()), Ioapic::check)?;
        self.pit.as_ref().map_or(Ok(()), Pit::check)?;
        self.rtc.as_ref().map_or(Ok(()), Rtc::check)?;
        self.uart.as_ref().map_or(Ok(()), Uart::check)
    }

    /// Returns when [`ChipBus::tick`] is next wanted.
    pub(crate) fn deadline(&self) -> Option<Ns> {
        let d =
            earliest(self.pit.as_ref().and_then(Pit::deadline), self.rtc.as_ref().and_then(Rtc::deadline));
        let d = earliest(d, self.pm.as_ref().and_then(Pm::deadline));
        earliest(d, self.i8042.as_ref().and_then(I8042::deadline))
    }

    /// Presses the power button.
    pub(crate) fn press_power_button(&mut self, now: Ns, out: &mut BusSignals) -> bool {
        let Some(pm) = self.pm.as_mut() else { return false };
        pm.press_power_button();
        self.settle(ChipName::Pm, now, out);
        true
    }

    /// Returns whether readers of the console should be woken now: output arrived after the last read.
    #[inline]
    pub(crate) fn take_console_wake(&mut self) -> bool {
        let news = !self.console_told && self.uart.as_ref().is_some_and(|u| u.output_len() != 0);
        self.console_told |= news;
        news
    }

    /// Returns whether writers of the console should be woken now: the guest took input while one waited.
    #[inline]
    pub(crate) fn take_console_room(&mut self) -> bool {
        let news = self.console_full && self.uart.as_ref().is_some_and(Uart::is_input_low);
        self.console_full &= !news;
        news
    }

    /// Returns how many bytes of input the console takes now. When there is no room, the next
    /// [`ChipBus::take_console_room`] tells of some.
    pub(crate) fn console_room(&mut self) -> usize {
        let room = self.uart.as_ref().map_or(0, Uart::input_room);
        self.console_full |= room == 0;
        room
    }

    /// The console was read: tell of the next output.
    pub(crate) fn console_read(&mut self) {
        self.console_told = false;
    }

    /// Takes what the guest asked of the platform.
    pub(crate) fn take_request(&mut self) -> Option<PlatformRequest> {
        let asked = self.pm.as_mut().and_then(Pm::take_request);
        asked.or_else(|| self.i8042.as_mut().and_then(I8042::take_request))
    }
}

/// Adds two answers of those whom an interrupt may reach: `None` did not hear it.
pub(crate) fn add_heard(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    }
}

fn ioapic_offset(gpa: Gpa) -> Option<u64> {
    gpa.0.checked_sub(IOAPIC_BASE).filter(|o| *o < IOAPIC_SIZE)
}

fn write_to<D: PioDevice>(
    dev: &mut Option<D>,
    port: u16,
    first: u16,
    width: AccessWidth,
    value: u32,
    now: Ns,
) -> bool {
    let Some(dev) = dev.as_mut() else { return false };
    dev.write(port.wrapping_sub(first), width, value, now);
    true
}
