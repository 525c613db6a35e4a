// SPDX-License-Identifier: GPL-2.0

//! ACPI power management: PM1 event and control blocks, the PM timer, the reset register.
//!
//! Follows the ACPI specification, "PM1 Event Grouping", "PM1 Control Registers", "Power Management Timer" and "Reset
//! Register"; the register at 0xcf9 is that of the ICH, "Reset Control Register".
//!
//! ```text
//! 0x600 PM1_STS  0x602 PM1_EN  0x604 PM1_CNT  0x608 PM_TMR  0xcf9 RST_CNT
//! ```
//!
//! The machine is always in ACPI mode (the FADT names no SMI command), so SCI_EN reads one. Of the sleeping states
//! only S5 exists, with SLP_TYP 5; others are ignored. General purpose events, bus mastering and the global lock are
//! not modelled.
//!
//! No lock inside: the bus owns it, and the timer for [`Pm::deadline`].

use super::saved::{state_struct, HasState, SectionId};
use super::time::TickClock;
use super::{all_ones, PinLevel, PioDevice};
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use core::ops::RangeInclusive;

/// The port that offset 0 stands for.
pub(crate) const FIRST_PORT: u16 = 0x600;
/// The ports decoded. At 0xcf9 only bytes: wider accesses around it are PCI configuration's.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const PORTS: [RangeInclusive<u16>; 2] = [0x600..=0x60b, 0xcf9..=0xcf9];
/// The SLP_TYP of S5, as the DSDT's `\_S5` says it.
pub(crate) const SLP_TYP_S5: u8 = 5;

/// The clock of the PM timer.
pub(crate) type PmClock = TickClock<3_579_545>;

const RESET_PORT: u16 = 0xcf9;
/// Offsets within the block.
const STATUS: u16 = 0;
const ENABLE: u16 = 2;
const CONTROL: u16 = 4;
const TIMER: u16 = 8;
const END: u16 = 12;

bitflags::bitflags! {
    /// PM1 status and enable bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Pm1: u16 {
        /// The most significant bit of the timer changed.
        const TMR = 1 << 0;
        /// The global lock was released.
        const GBL = 1 << 5;
        /// The power button was pressed.
        const PWRBTN = 1 << 8;
        /// The sleep button was pressed.
        const SLPBTN = 1 << 9;
        /// The RTC's alarm.
        const RTC = 1 << 10;
    }
}

/// PM1 control, low byte: SCI_EN and BM_RLD.
const SCI_EN: u8 = 1 << 0;
const BM_RLD: u8 = 1 << 1;
/// PM1 control, high byte: SLP_TYP in bits 4:2, SLP_EN (write only) in bit 5.
const SLP_EN: u8 = 1 << 5;
const SLP_TYP: u8 = 7 << 2;
/// The reset control register: SYS_RST, RST_CPU and FULL_RST.
const RST_CPU: u8 = 1 << 2;
const RST_MASK: u8 = 0x0e;

/// What the guest wants of the machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlatformRequest {
    /// Power off (S5).
    PowerOff,
    /// A platform reset.
    Reset,
}

impl PlatformRequest {
    /// Returns the byte of a request in a state; 0 is none.
    pub(super) fn code(request: Option<PlatformRequest>) -> u8 {
        match request {
            None => 0,
            Some(PlatformRequest::PowerOff) => 1,
            Some(PlatformRequest::Reset) => 2,
        }
    }

    /// Returns the request of a byte in a state.
    pub(super) fn from_code(code: u8) -> Option<PlatformRequest> {
        match code {
            1 => Some(PlatformRequest::PowerOff),
            2 => Some(PlatformRequest::Reset),
            _ => None,
        }
    }
}

/// How many bits of the PM timer count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum TimerWidth {
    /// 24 bits: 4.7 seconds.
    #[allow(dead_code, reason = "for machines whose FADT names the short timer; used by the tests")]
    Bits24,
    /// 32 bits: 20 minutes; the FADT's TMR_VAL_EXT.
    #[default]
    Bits32,
}

impl TimerWidth {
    /// Returns the number of the most significant bit.
    fn top_bit(self) -> u32 {
        match self {
            TimerWidth::Bits24 => 23,
            TimerWidth::Bits32 => 31,
        }
    }

    fn mask(self) -> u32 {
        match self {
            TimerWidth::Bits24 => 0x00ff_ffff,
            TimerWidth::Bits32 => u32::MAX,
        }
    }
}

state_struct! {
    /// The state of the power management block.
    struct SavedPm = 24 {
        /// The time at which the timer was 0.
        timer_base: u64,
        /// How often the timer's top bit had changed when that was last looked at.
        toggles: u64,
        /// PM1 status.
        status: u16,
        /// PM1 enable.
        enable: u16,
        /// PM1 control without SCI_EN and SLP_EN.
        control: u16,
        /// The reset control register.
        reset_control: u8,
        /// A request that was not taken yet: see [`PlatformRequest::code`].
        request: u8,
    }
}

/// The power management block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pm {
    width: TimerWidth,
    status: Pm1,
    enable: Pm1,
    control_low: u8,
    control_high: u8,
    reset_control: u8,
    timer_base: Ns,
    toggles: u64,
    request: Option<PlatformRequest>,
}

impl Pm {
    /// Returns the block at power-on, its timer 0 at `now`.
    pub(crate) fn new(width: TimerWidth, now: Ns) -> Pm {
        Pm {
            width,
            status: Pm1::empty(),
            enable: Pm1::empty(),
            control_low: 0,
            control_high: 0,
            reset_control: 0,
            timer_base: now,
            toggles: 0,
            request: None,
        }
    }

    /// Back to power-on; the timer starts again from 0 at `now`.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self, now: Ns) {
        *self = Pm::new(self.width, now);
    }

    /// Someone pressed the power button.
    pub(crate) fn press_power_button(&mut self) {
        self.status |= Pm1::PWRBTN;
    }

    /// Returns the level of the SCI, IRQ 9.
    pub(crate) fn irq(&self) -> PinLevel {
        PinLevel::from(self.status.intersects(self.enable))
    }

    /// Returns what the guest asked for since the last call; a later request replaces an earlier one.
    pub(crate) fn take_request(&mut self) -> Option<PlatformRequest> {
        self.request.take()
    }

    /// Returns when the timer's top bit changes next, if that would raise the SCI.
    pub(crate) fn deadline(&self) -> Option<Ns> {
        if !self.enable.contains(Pm1::TMR) || self.status.contains(Pm1::TMR) {
            return None;
        }
        let next = self.toggles.saturating_add(1).checked_mul(1u64.wrapping_shl(self.width.top_bit()))?;
        Some(self.timer_base.after(PmClock::ns(next)))
    }

    /// Brings the timer's status bit to `now`.
    pub(crate) fn tick(&mut self, now: Ns) {
        let toggles = self.ticks(now) >> self.width.top_bit();
        if toggles != self.toggles {
            self.toggles = toggles;
            self.status |= Pm1::TMR;
        }
    }

    /// Returns the timer without its limit of 24 or 32 bits.
    fn ticks(&self, now: Ns) -> u64 {
        PmClock::ticks(now.since(self.timer_base))
    }

    fn timer(&self, now: Ns) -> u32 {
        u32::try_from(self.ticks(now) & u64::from(self.width.mask())).unwrap_or(0)
    }

    fn read_byte(&self, offset: u16, now: Ns) -> u8 {
        let byte =
            |bytes: &[u8], from: u16| bytes.get(usize::from(offset.wrapping_sub(from))).copied().unwrap_or(0);
        match offset {
            STATUS..ENABLE => byte(&self.status.bits().to_le_bytes(), STATUS),
            ENABLE..CONTROL => byte(&self.enable.bits().to_le_bytes(), ENABLE),
            CONTROL..TIMER => byte(&[self.control_low | SCI_EN, self.control_high], CONTROL),
            TIMER..END => byte(&self.timer(now).to_le_bytes(), TIMER),
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, offset: u16, value: u8) {
        let low = u16::from_le_bytes([value, 0]);
        let high = u16::from_le_bytes([0, value]);
        match offset {
            // ACPI, "PM1 Event Grouping": a one clears, so that writing back what was read keeps what came since.
            0 => self.status &= !Pm1::from_bits_truncate(low),
            1 => self.status &= !Pm1::from_bits_truncate(high),
            2 => self.enable = Pm1::from_bits_truncate(self.enable.bits() & 0xff00 | low),
            3 => self.enable = Pm1::from_bits_truncate(self.enable.bits() & 0x00ff | high),
            4 => self.control_low = value & BM_RLD,
            5 => {
                self.control_high = value & SLP_TYP;
                if value & SLP_EN != 0 && self.control_high >> 2 == SLP_TYP_S5 {
                    self.request = Some(PlatformRequest::PowerOff);
                }
            }
            _ => {}
        }
    }

    /// The reset happens when RST_CPU goes from 0 to 1, whatever kind the other bits name.
    fn write_reset_control(&mut self, value: u8) {
        if value & !self.reset_control & RST_CPU != 0 {
            self.request = Some(PlatformRequest::Reset);
        }
        self.reset_control = value & RST_MASK;
    }
}

/// Returns whether an access lies within the block and is aligned to its width.
fn is_decoded(offset: u16, width: AccessWidth) -> bool {
    let bytes = u16::try_from(width.bytes()).unwrap_or(u16::MAX);
    width != AccessWidth::B8 && offset < END && offset & bytes.wrapping_sub(1) == 0
}

impl PioDevice for Pm {
    fn read(&mut self, offset: u16, width: AccessWidth, now: Ns) -> u32 {
        self.tick(now);
        if offset == RESET_PORT.wrapping_sub(FIRST_PORT) && width == AccessWidth::B1 {
            return u32::from(self.reset_control);
        }
        if !is_decoded(offset, width) {
            return all_ones(width);
        }
        let mut bytes = [0u8; 4];
        for (n, byte) in (0..4).zip(bytes.iter_mut().take(width.bytes())) {
            *byte = self.read_byte(offset.wrapping_add(n), now);
        }
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, offset: u16, width: AccessWidth, value: u32, now: Ns) {
        self.tick(now);
        let bytes = value.to_le_bytes();
        if offset == RESET_PORT.wrapping_sub(FIRST_PORT) && width == AccessWidth::B1 {
            let [value, ..] = bytes;
            return self.write_reset_control(value);
        }
        if !is_decoded(offset, width) {
            return;
        }
        for (n, byte) in (0..4).zip(bytes.into_iter().take(width.bytes())) {
            self.write_byte(offset.wrapping_add(n), byte);
        }
    }
}

impl HasState for Pm {
    const SECTION: SectionId = SectionId { id: 0x09, version: 1 };
    type State = SavedPm;

    fn save(&self) -> SavedPm {
        let Pm {
            width: _,
            status,
            enable,
            control_low,
            control_high,
            reset_control,
            timer_base,
            toggles,
            request,
        } = self;
        SavedPm {
            status: status.bits(),
            enable: enable.bits(),
            control: u16::from_le_bytes([*control_low, *control_high]),
            reset_control: *reset_control,
            timer_base: timer_base.0,
            toggles: *toggles,
            request: PlatformRequest::code(*request),
        }
    }

    fn set_state(&mut self, state: &SavedPm) {
        let SavedPm { status, enable, control, reset_control, timer_base, toggles, request } = *state;
        let [low, high] = control.to_le_bytes();
        *self = Pm {
            width: self.width,
            status: Pm1::from_bits_truncate(status),
            enable: Pm1::from_bits_truncate(enable),
            control_low: low & BM_RLD,
            control_high: high & SLP_TYP,
            reset_control: reset_control & RST_MASK,
            timer_base: Ns(timer_base),
            toggles,
            request: PlatformRequest::from_code(request),
        };
    }
}
