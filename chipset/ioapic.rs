// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC: 24 pins, version 0x20.
//!
//! Intel 82093AA datasheet, "I/O APIC Register Description", plus the EOI register that later chip
//! sets have at 0x40 and version 0x20 announces. Polarity is stored and ignored: callers speak of a
//! line as asserted or not.
//!
//! - An edge pin sends on a rising edge; an edge on a masked pin is lost.
//! - A level pin sends when the line is high and remote IRR is clear, sets remote IRR, and waits for
//!   the end of its vector ([`Ioapic::eoi`]). Where no local APIC takes the message, that end would never come:
//!   the caller says so ([`Ioapic::not_accepted`]), and the pin waits for one that does ([`Ioapic::retry`]).
//! - Delivery modes other than fixed and lowest priority are edge triggered whatever the entry says.
//!
//! Whatever makes pins send returns the messages. The chipset bus owns the lock.

use super::message::{ApicMessage, DeliveryMode, DestFormat, DestMode};
use super::saved::{state_struct, HasState, SectionId};
use super::PinLevel;
use crate::arch::addr::AccessWidth;
use crate::arch::rule::rule;

/// Number of pins.
pub(crate) const PINS: usize = 24;
/// Guest physical address of the register page.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const BASE: u64 = 0xfec0_0000;
/// Bytes that the registers take.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const LEN: u64 = 0x100;

const REGSEL: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// The EOI register: takes a vector.
pub(crate) const EOI: u64 = 0x40;

/// Version 0x20, highest entry 23.
const VERSION_VALUE: u32 = 0x0017_0020;
/// Entry: remote IRR.
const REMOTE_IRR: u64 = 1 << 14;
/// Entry: level triggered.
const LEVEL: u64 = 1 << 15;
/// Entry: masked.
const MASKED: u64 = 1 << 16;
/// Entry: what the guest can write: vector, modes, polarity, trigger and mask below, destination and
/// its extension above.
const WRITABLE: u64 = 0xfffe_0000_0001_afff;

state_struct! {
    /// The state as `struct kvm_ioapic_state` carries it.
    struct SavedIoapic = 216 {
        /// Guest physical address.
        base_address: u64,
        /// The register selected.
        ioregsel: u32,
        /// The APIC id.
        id: u32,
        /// The pins whose lines are high.
        irr: u32,
        /// 0.
        pad: u32,
        /// The redirection table.
        redirtbl: [u64; PINS],
    }
}

/// The I/O APIC.
///
/// # Invariants
/// An entry has only bits that there are, and waits for the end of its vector only if it is level triggered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ioapic {
    id: u8,
    select: u8,
    /// One bit for each pin whose line is high.
    lines: u32,
    entries: [u64; PINS],
    format: DestFormat,
}

/// The messages that an operation caused, at most one for each pin.
#[must_use]
pub(crate) struct PinMessages<'a> {
    ioapic: &'a Ioapic,
    pins: u32,
}

impl PinMessages<'_> {
    /// Returns the pins that send, a bit each.
    pub(crate) fn pins(&self) -> u32 {
        self.pins
    }
}

impl Iterator for PinMessages<'_> {
    type Item = ApicMessage;

    fn next(&mut self) -> Option<ApicMessage> {
        while self.pins != 0 {
            let pin = self.pins.trailing_zeros();
            self.pins &= self.pins.wrapping_sub(1);
            let message = self.ioapic.message(usize::try_from(pin).unwrap_or(PINS));
            if message.is_some() {
                return message;
            }
        }
        None
    }
}

fn bit(pin: usize) -> u32 {
    u32::try_from(pin).ok().and_then(|p| 1u32.checked_shl(p)).unwrap_or(0)
}

/// Returns the delivery mode of an entry, `None` for the reserved codes.
fn delivery(entry: u64) -> Option<DeliveryMode> {
    DeliveryMode::from_code(entry >> 8).filter(|&d| d != DeliveryMode::StartUp)
}

fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && matches!(delivery(entry), Some(DeliveryMode::Fixed | DeliveryMode::LowestPriority))
}

impl Ioapic {
    /// Returns the I/O APIC with `id` (4 bits) after reset: all pins masked, all lines low.
    pub(crate) fn new(id: u8, format: DestFormat) -> Ioapic {
        Ioapic { id: id & 0xf, select: 0, lines: 0, entries: [MASKED; PINS], format }
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let mut entries = self.entries.iter();
        rule(self.id < 16 && self.lines >> PINS == 0, "there are 24 lines, and ids of 4 bits")?;
        rule(entries.all(|e| e & !(WRITABLE | REMOTE_IRR) == 0), "an entry has the bits that there are")?;
        let waits = |e: &u64| e & REMOTE_IRR != 0;
        let mut entries = self.entries.iter();
        rule(entries.all(|e| !waits(e) || is_level(*e)), "only level-triggered pins wait for an end")
    }

    /// Resets the registers; the lines keep their levels.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        *self = Ioapic { lines: self.lines, ..Ioapic::new(self.id, self.format) };
    }

    /// Sets how destinations are read.
    pub(crate) fn set_format(&mut self, format: DestFormat) {
        self.format = format;
    }

    /// Sets the level of the line at `pin`. Returns the message that this causes. A pin that does not
    /// exist is ignored.
    pub(crate) fn set_irq(&mut self, pin: u8, level: PinLevel) -> Option<ApicMessage> {
        let pin = usize::from(pin);
        let &entry = self.entries.get(pin)?;
        let was_high = self.lines & bit(pin) != 0;
        if !level.is_high() {
            self.lines &= !bit(pin);
            return None;
        }
        self.lines |= bit(pin);
        let sends = if is_level(entry) { self.service(pin) } else { !was_high && entry & MASKED == 0 };
        if sends {
            self.message(pin)
        } else {
            None
        }
    }

    /// Returns what [`Ioapic::set_irq`] will come to without a message: 1 the line falls, 0 an edge that
    /// is there already, `None` the pin is masked, waits for the end of its interrupt, or sends.
    pub(crate) fn heard(&self, pin: u8, level: PinLevel) -> Option<u32> {
        let pin = usize::from(pin);
        let &entry = self.entries.get(pin)?;
        match level {
            PinLevel::Low => Some(1),
            PinLevel::High => (!is_level(entry) && self.lines & bit(pin) != 0).then_some(0),
        }
    }

    /// Ends `vector`: the local APICs' broadcast, or a write of the EOI register. Returns the messages
    /// of those level pins whose line is still high.
    pub(crate) fn eoi(&mut self, vector: u8) -> PinMessages<'_> {
        let mut pins = 0;
        for pin in 0..PINS {
            let Some(entry) = self.entries.get_mut(pin) else { break };
            let [v, ..] = entry.to_le_bytes();
            // All pins with the vector: the broadcast says no more than that, and pins may share one.
            if v == vector && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                if self.service(pin) {
                    pins |= bit(pin);
                }
            }
        }
        PinMessages { ioapic: self, pins }
    }

    /// Returns the pins whose entries have `vector`, a bit each.
    pub(crate) fn pins_of(&self, vector: u8) -> u32 {
        let has = |e: &u64| e.to_le_bytes().first() == Some(&vector);
        self.entries
            .iter()
            .zip(0u32..)
            .filter(|(e, _)| has(e))
            .fold(0, |pins, (_, n)| pins | 1u32.wrapping_shl(n))
    }

    /// Returns whether `pin` sends on edges and is not masked.
    pub(crate) fn is_open_edge(&self, pin: u8) -> bool {
        self.entries.get(usize::from(pin)).is_some_and(|e| !is_level(*e) && e & MASKED == 0)
    }

    /// No local APIC took the message of `pin`: it does not wait for the end of its vector. It sends again when its line
    /// is next said to be high or its entry is written, and at [`Ioapic::retry`].
    pub(crate) fn not_accepted(&mut self, pin: usize) {
        if let Some(entry) = self.entries.get_mut(pin) {
            *entry &= !REMOTE_IRR;
        }
    }

    /// Sends for all level pins that could and do not wait: a local APIC may take their messages now.
    pub(crate) fn retry(&mut self) -> PinMessages<'_> {
        let mut pins = 0;
        for pin in 0..PINS {
            if self.service(pin) {
                pins |= bit(pin);
            }
        }
        PinMessages { ioapic: self, pins }
    }

    /// Returns whether a level pin waits for the end of `vector`.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn waits_for(&self, vector: u8) -> bool {
        self.entries.iter().any(|e| e & REMOTE_IRR != 0 && e.to_le_bytes().first() == Some(&vector))
    }

    /// Lets a level pin send if it can. Returns whether it does.
    fn service(&mut self, pin: usize) -> bool {
        let high = self.lines & bit(pin) != 0;
        match self.entries.get_mut(pin) {
            Some(entry) if high && is_level(*entry) && *entry & (MASKED | REMOTE_IRR) == 0 => {
                *entry |= REMOTE_IRR;
                true
            }
            _ => false,
        }
    }

    /// Returns what the entry of `pin` sends.
    pub(crate) fn message(&self, pin: usize) -> Option<ApicMessage> {
        let &entry = self.entries.get(pin)?;
        let [vector, .., id] = entry.to_le_bytes();
        let extension = u32::try_from((entry >> 49) & 0x7f).unwrap_or(0);
        Some(ApicMessage {
            dest: self.format.dest(id, extension),
            dest_mode: DestMode::from_logical_bit(entry & 0x800 != 0),
            delivery: delivery(entry)?,
            vector,
            level: is_level(entry),
        })
    }

    /// Reads a register. The odd widths give the register's low bytes.
    pub(crate) fn read(&self, offset: u64, width: AccessWidth) -> u64 {
        let value = match offset {
            REGSEL => u32::from(self.select),
            WINDOW => self.read_selected(),
            _ => return width.mask(),
        };
        u64::from(value) & width.mask()
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            // 82093AA, "IOAPICARB": the arbitration id is loaded from the id whenever that is written.
            0 | 2 => u32::from(self.id) << 24,
            1 => VERSION_VALUE,
            _ => match self.selected_entry().and_then(|(pin, high)| Some((self.entries.get(pin)?, high))) {
                Some((entry, true)) => u32::try_from(entry >> 32).unwrap_or(0),
                Some((entry, false)) => u32::try_from(entry & 0xffff_ffff).unwrap_or(0),
                None => u32::MAX,
            },
        }
    }

    /// Returns the pin whose entry is selected, and whether its upper half is.
    fn selected_entry(&self) -> Option<(usize, bool)> {
        let index = self.select.checked_sub(0x10)?;
        let pin = usize::from(index >> 1);
        (pin < PINS).then_some((pin, index & 1 != 0))
    }

    /// Writes a register. Returns the messages that this causes: a level pin unmasked while its line
    /// is high, or ended by the EOI register.
    pub(crate) fn write(&mut self, offset: u64, width: AccessWidth, value: u64) -> PinMessages<'_> {
        let value = value & width.mask() & 0xffff_ffff;
        let [low, _, _, id, ..] = value.to_le_bytes();
        match offset {
            REGSEL => self.select = low,
            WINDOW if self.select == 0 => self.id = id & 0xf,
            WINDOW => {
                if let Some((pin, high)) = self.selected_entry() {
                    self.write_entry(pin, high, value);
                    let pins = if self.service(pin) { bit(pin) } else { 0 };
                    return PinMessages { ioapic: self, pins };
                }
            }
            EOI => return self.eoi(low),
            _ => {}
        }
        PinMessages { ioapic: self, pins: 0 }
    }

    fn write_entry(&mut self, pin: usize, high: bool, value: u64) {
        let Some(entry) = self.entries.get_mut(pin) else { return };
        let (value, mask) =
            if high { (value << 32, WRITABLE & !0xffff_ffff) } else { (value, WRITABLE & 0xffff_ffff) };
        *entry = (*entry & !mask) | (value & mask);
        // Turning a pin to edge and back is how Linux frees one that hangs without an EOI register.
        if !is_level(*entry) {
            *entry &= !REMOTE_IRR;
        }
    }
}

impl HasState for Ioapic {
    const SECTION: SectionId = SectionId { id: 0x04, version: 1 };
    type State = SavedIoapic;

    fn save(&self) -> SavedIoapic {
        let Ioapic { id, select, lines, entries, format: _ } = *self;
        SavedIoapic {
            base_address: BASE,
            ioregsel: u32::from(select),
            id: u32::from(id),
            irr: lines,
            pad: 0,
            redirtbl: entries,
        }
    }

    /// Nothing is sent: [`Ioapic::retry`] sends for level pins that are high without having been sent.
    fn set_state(&mut self, state: &SavedIoapic) {
        let SavedIoapic { base_address: _, ioregsel, id, irr, pad: _, redirtbl } = *state;
        let [select, ..] = ioregsel.to_le_bytes();
        let [id, ..] = id.to_le_bytes();
        self.id = id & 0xf;
        self.select = select;
        self.lines = irr & 0x00ff_ffff;
        self.entries = redirtbl.map(|e| e & (WRITABLE | if is_level(e) { REMOTE_IRR } else { 0 }));
    }
}
