// SPDX-License-Identifier: GPL-2.0

//! National Semiconductor PC16550D UART, with the two rings of its console side.
//!
//! Follows the PC16550D datasheet, "Registers" and "FIFO Interrupt Mode Operation". There is no baud rate: a byte is
//! sent as it is written, and a received byte that leaves the FIFO below its trigger
//! level is a character timeout at once. The line to the outside never breaks and makes no parity or framing errors;
//! overruns happen only in loopback, for input from outside waits until there is room.
//!
//! THRE and TEMT read one as long as the output ring has room for what a driver may then write at once, a whole FIFO.
//! A UART that waits for its reader lets them fall, and raises the transmitter's interrupt when there is room again;
//! one that does not never lets them fall, and overwrites the oldest output.
//!
//! ```text
//! guest THR -> output ring (64 KiB) -> drain_output()
//! guest RBR <- FIFO (16 bytes, or 1) <- input ring (4 KiB) <- push_input()
//! ```
//!
//! The interrupt line is gated by OUT2, as on a PC's board. No lock inside: the bus owns it. Nothing here depends on
//! time.

mod fifo;

use self::fifo::{ReceiveFifo, FIFO};
use super::saved::{state_struct, HasState, SectionId};
use super::{all_ones, PinLevel, PioDevice};
use crate::arch::addr::AccessWidth;
use crate::arch::ring::ByteRing;
use crate::arch::rule::rule;
use crate::arch::time::Ns;
use core::ops::RangeInclusive;
use kernel::prelude::*;
use zerocopy::FromZeros;

/// The first port of COM1; the device decodes offsets 0 to 7.
pub(crate) const FIRST_PORT: u16 = 0x3f8;
/// The ports of COM1.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const PORTS: [RangeInclusive<u16>; 1] = [0x3f8..=0x3ff];
/// Bytes of guest output that are kept for the console.
pub(crate) const OUTPUT_BYTES: usize = 64 << 10;
/// Bytes of console input that are kept for the guest.
pub(crate) const INPUT_BYTES: usize = 4 << 10;

static_assertions::const_assert!(OUTPUT_BYTES.is_power_of_two() && INPUT_BYTES.is_power_of_two());

bitflags::bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Ier: u8 {
        /// Received data available, and character timeout.
        const RDA = 1 << 0;
        /// Transmitter holding register empty.
        const THRE = 1 << 1;
        /// Receiver line status.
        const RLS = 1 << 2;
        /// Modem status.
        const MS = 1 << 3;
    }

    /// Line control register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Lcr: u8 {
        /// Word length, stop bits, parity and break: kept, without effect.
        const FORMAT = 0x7f;
        /// Divisor latch access.
        const DLAB = 1 << 7;
    }

    /// Modem control register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Mcr: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        /// Lets the interrupt line through.
        const OUT2 = 1 << 3;
        const LOOP = 1 << 4;
    }

    /// Line status register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Lsr: u8 {
        /// Data ready.
        const DR = 1 << 0;
        /// Overrun error.
        const OE = 1 << 1;
        /// Transmitter holding register empty.
        const THRE = 1 << 5;
        /// Transmitter empty.
        const TEMT = 1 << 6;
    }

    /// Modem status register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct ModemStatus: u8 {
        /// CTS changed.
        const DCTS = 1 << 0;
        /// DSR changed.
        const DDSR = 1 << 1;
        /// RI fell.
        const TERI = 1 << 2;
        /// DCD changed.
        const DDCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;
        const DELTAS = 0x0f;
    }
}

/// FIFO control register.
const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_RX: u8 = 1 << 1;
/// Both FIFO bits of the interrupt identification register.
const IIR_FIFO: u8 = 0xc0;

/// The causes of an interrupt, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UartCause {
    LineStatus,
    Data,
    Timeout,
    Transmit,
    Modem,
}

impl UartCause {
    /// Returns the code in bits 3:0 of the interrupt identification register.
    fn code(self) -> u8 {
        match self {
            UartCause::LineStatus => 0x06,
            UartCause::Data => 0x04,
            UartCause::Timeout => 0x0c,
            UartCause::Transmit => 0x02,
            UartCause::Modem => 0x00,
        }
    }
}

/// The code for no interrupt.
const IIR_NONE: u8 = 0x01;

state_struct! {
    /// The guest-visible state; the console's rings are the host's and not part of it.
    struct SavedUart = 28 {
        /// Divisor latch.
        divisor: u16,
        /// Interrupt enable register.
        ier: u8,
        /// Line control register.
        lcr: u8,
        /// Modem control register.
        mcr: u8,
        /// FIFO control register: enable and trigger level.
        fcr: u8,
        /// Scratch register.
        scratch: u8,
        /// Overrun, not yet read.
        overrun: u8,
        /// Modem status as last seen, with its deltas.
        msr: u8,
        /// The transmitter's interrupt is due.
        thre_pending: u8,
        /// How many bytes of `rx` count.
        rx_len: u8,
        /// 0.
        pad: u8,
        /// Receive FIFO, oldest byte first.
        rx: [u8; FIFO],
    }
}

/// One UART and its rings.
///
/// # Invariants
/// The receive FIFO holds 16 bytes at most, and one while FIFOs are off.
#[derive(Debug)]
pub(crate) struct Uart {
    // Guest-visible registers.
    ier: Ier,
    lcr: Lcr,
    mcr: Mcr,
    fifo_on: bool,
    trigger: u8,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    msr: ModemStatus,
    thre_pending: bool,
    rx: ReceiveFifo,
    // The console side.
    input: ByteRing,
    output: ByteRing,
    /// What is full waits for its reader; else the newest output is kept.
    waits: bool,
    dropped: u64,
}

impl Uart {
    /// Returns the UART after power-on, a terminal attached: CTS, DSR and DCD are asserted.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Uart> {
        let (input, output) = (ByteRing::new(INPUT_BYTES)?, ByteRing::new(OUTPUT_BYTES)?);
        Ok(Uart {
            ier: Ier::empty(),
            lcr: Lcr::empty(),
            mcr: Mcr::empty(),
            fifo_on: false,
            trigger: 0,
            scratch: 0,
            divisor: 12,
            overrun: false,
            msr: ModemStatus::CTS | ModemStatus::DSR | ModemStatus::DCD,
            thre_pending: false,
            rx: ReceiveFifo::default(),
            input,
            output,
            waits: false,
            dropped: 0,
        })
    }

    /// Makes output wait for its reader.
    pub(crate) fn wait_for_reader(self, waits: bool) -> Uart {
        Uart { waits, ..self }
    }

    /// Back to power-on. Output that nobody has read yet is kept, waiting input is not.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        self.input.clear();
        self.set_state(&SavedUart {
            divisor: 12,
            msr: (ModemStatus::CTS | ModemStatus::DSR | ModemStatus::DCD).bits(),
            ..SavedUart::new_zeroed()
        });
    }

    /// Takes input for the guest. Returns how many bytes there was room for.
    pub(crate) fn push_input(&mut self, bytes: &[u8]) -> usize {
        let taken = self.input.push_some(bytes);
        self.refill();
        taken
    }

    /// Returns how many bytes [`Uart::push_input`] would take.
    pub(crate) fn input_room(&self) -> usize {
        self.input.room()
    }

    /// Returns whether so little input waits that whoever has more should bring it.
    pub(crate) fn is_input_low(&self) -> bool {
        self.input.room() >= self.input.len()
    }

    /// Moves guest output to `out`, oldest first. Returns how many bytes.
    pub(crate) fn drain_output(&mut self, out: &mut [u8]) -> usize {
        let was_full = !self.can_transmit();
        let n = self.output.drain(out);
        // The transmitter has become empty, as at the end of any byte on a line.
        self.thre_pending |= was_full && self.can_transmit();
        n
    }

    /// Returns whether a driver may write a whole FIFO, which is what it does when THRE is set.
    fn can_transmit(&self) -> bool {
        !self.waits || self.output.room() >= FIFO
    }

    /// Returns how many bytes of guest output wait.
    pub(crate) fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Returns how many bytes of guest output were lost since creation, for nobody read them.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the level of the interrupt line.
    pub(crate) fn irq(&self) -> PinLevel {
        PinLevel::from(self.mcr.contains(Mcr::OUT2) && self.cause().is_some())
    }

    /// Returns what waits for the guest, and what the guest has sent.
    pub(crate) fn rings(&self) -> (&ByteRing, &ByteRing) {
        (&self.input, &self.output)
    }

    /// Puts what waits for the guest, and what the guest has sent, into the rings.
    pub(crate) fn set_rings(&mut self, input: &[u8], output: &[u8]) {
        self.input.clear();
        self.input.push_some(input);
        self.output.clear();
        self.output.push_some(output);
        self.refill();
    }

    /// Returns how many bytes the receiver holds.
    fn capacity(&self) -> usize {
        if self.fifo_on {
            FIFO
        } else {
            1
        }
    }

    /// Returns at how many bytes the receiver asks for service.
    fn trigger_level(&self) -> usize {
        match (self.fifo_on, self.trigger) {
            (false, _) | (true, 0) => 1,
            (true, 1) => 4,
            (true, 2) => 8,
            (true, _) => 14,
        }
    }

    /// Moves waiting input into the receiver. In loopback the receiver is off the line.
    fn refill(&mut self) {
        if self.mcr.contains(Mcr::LOOP) {
            return;
        }
        while self.rx.len < self.capacity() {
            let Some(byte) = self.input.pop() else { return };
            self.rx.push(byte);
        }
    }

    /// Returns the most urgent cause that is enabled.
    fn cause(&self) -> Option<UartCause> {
        let due = |enable, is_due: bool, cause| (self.ier.contains(enable) && is_due).then_some(cause);
        let has_data = self.rx.len > 0;
        due(Ier::RLS, self.overrun, UartCause::LineStatus)
            .or_else(|| due(Ier::RDA, self.rx.len >= self.trigger_level(), UartCause::Data))
            .or_else(|| due(Ier::RDA, has_data && self.fifo_on, UartCause::Timeout))
            .or_else(|| due(Ier::THRE, self.thre_pending, UartCause::Transmit))
            .or_else(|| due(Ier::MS, self.msr.intersects(ModemStatus::DELTAS), UartCause::Modem))
    }

    fn read_rbr(&mut self) -> u8 {
        let byte = self.rx.pop().unwrap_or(0);
        self.refill();
        byte
    }

    /// Reading the transmitter's cause takes it back.
    fn read_iir(&mut self) -> u8 {
        let cause = self.cause();
        if cause == Some(UartCause::Transmit) {
            self.thre_pending = false;
        }
        let fifo = if self.fifo_on { IIR_FIFO } else { 0 };
        fifo | cause.map_or(IIR_NONE, UartCause::code)
    }

    fn read_lsr(&mut self) -> u8 {
        let mut lsr = Lsr::empty();
        lsr.set(Lsr::THRE | Lsr::TEMT, self.can_transmit());
        lsr.set(Lsr::DR, self.rx.len > 0);
        lsr.set(Lsr::OE, self.overrun);
        self.overrun = false;
        lsr.bits()
    }

    fn read_msr(&mut self) -> u8 {
        let msr = self.msr;
        self.msr &= !ModemStatus::DELTAS;
        msr.bits()
    }

    /// Sends a byte, which empties the holding register again at once, but for a line that waits.
    fn write_thr(&mut self, byte: u8) {
        if self.mcr.contains(Mcr::LOOP) {
            self.thre_pending = true;
            return self.receive_own(byte);
        }
        let lost = match self.waits {
            true => usize::from(!self.output.push(byte)),
            false => self.output.push_newest(&[byte]),
        };
        self.dropped = self.dropped.saturating_add(lost as u64);
        self.thre_pending = self.can_transmit();
    }

    fn receive_own(&mut self, byte: u8) {
        if self.rx.len < self.capacity() {
            return self.rx.push(byte);
        }
        // PC16550D, "Line Status Register": the buffer register is overwritten, but a FIFO keeps its bytes and loses
        // the new one.
        self.overrun = true;
        if !self.fifo_on {
            self.rx.replace(byte);
        }
    }

    fn write_ier(&mut self, value: u8) {
        let new = Ier::from_bits_truncate(value);
        // Enabling the interrupt of a holding register that is empty raises it.
        if new.contains(Ier::THRE) != self.ier.contains(Ier::THRE) {
            self.thre_pending = new.contains(Ier::THRE) && self.can_transmit();
        }
        self.ier = new;
    }

    fn write_fcr(&mut self, value: u8) {
        let on = value & FCR_ENABLE != 0;
        // PC16550D, "FIFO Control Register": going into or out of FIFO mode clears the FIFOs.
        if on != self.fifo_on || (on && value & FCR_CLEAR_RX != 0) {
            self.rx = ReceiveFifo::default();
        }
        self.fifo_on = on;
        // The other bits are taken only while FIFOs are on.
        self.trigger = if on { value >> 6 } else { 0 };
        self.refill();
    }

    fn write_mcr(&mut self, value: u8) {
        self.mcr = Mcr::from_bits_truncate(value);
        // Leaving loopback gives the line back: input that waited outside comes in with the refill.
        self.follow_modem();
        self.refill();
    }

    /// Follows the modem inputs, which in loopback are the modem outputs, and notes what changed.
    fn follow_modem(&mut self) {
        let mut lines = ModemStatus::CTS | ModemStatus::DSR | ModemStatus::DCD;
        if self.mcr.contains(Mcr::LOOP) {
            lines = ModemStatus::empty();
            lines.set(ModemStatus::CTS, self.mcr.contains(Mcr::RTS));
            lines.set(ModemStatus::DSR, self.mcr.contains(Mcr::DTR));
            lines.set(ModemStatus::RI, self.mcr.contains(Mcr::OUT1));
            lines.set(ModemStatus::DCD, self.mcr.contains(Mcr::OUT2));
        }
        let was = self.msr;
        let changed = was.symmetric_difference(lines);
        let mut deltas = was & ModemStatus::DELTAS;
        for (line, delta) in [
            (ModemStatus::CTS, ModemStatus::DCTS),
            (ModemStatus::DSR, ModemStatus::DDSR),
            (ModemStatus::DCD, ModemStatus::DDCD),
        ] {
            if changed.contains(line) {
                deltas |= delta;
            }
        }
        // PC16550D, "Modem Status Register": of the ring indicator only the trailing edge counts.
        if was.contains(ModemStatus::RI) && !lines.contains(ModemStatus::RI) {
            deltas |= ModemStatus::TERI;
        }
        self.msr = lines | deltas;
    }
}

impl PioDevice for Uart {
    fn read(&mut self, offset: u16, width: AccessWidth, _now: Ns) -> u32 {
        if width != AccessWidth::B1 {
            return all_ones(width);
        }
        let dlab = self.lcr.contains(Lcr::DLAB);
        let [low, high] = self.divisor.to_le_bytes();
        u32::from(match (offset, dlab) {
            (0, true) => low,
            (1, true) => high,
            (0, false) => self.read_rbr(),
            (1, false) => self.ier.bits(),
            (2, _) => self.read_iir(),
            (3, _) => self.lcr.bits(),
            (4, _) => self.mcr.bits(),
            (5, _) => self.read_lsr(),
            (6, _) => self.read_msr(),
            (7, _) => self.scratch,
            _ => return all_ones(width),
        })
    }

    fn write(&mut self, offset: u16, width: AccessWidth, value: u32, _now: Ns) {
        if width != AccessWidth::B1 {
            return;
        }
        let [value, ..] = value.to_le_bytes();
        let dlab = self.lcr.contains(Lcr::DLAB);
        let [low, high] = self.divisor.to_le_bytes();
        match (offset, dlab) {
            (0, true) => self.divisor = u16::from_le_bytes([value, high]),
            (1, true) => self.divisor = u16::from_le_bytes([low, value]),
            (0, false) => self.write_thr(value),
            (1, false) => self.write_ier(value),
            (2, _) => self.write_fcr(value),
            (3, _) => self.lcr = Lcr::from_bits_truncate(value),
            (4, _) => self.write_mcr(value),
            (7, _) => self.scratch = value,
            // The status registers are read only.
            _ => {}
        }
    }
}

impl Uart {
    /// Looks whether the invariants hold, those of both rings among them.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        rule(self.rx.len <= self.capacity(), "the FIFO holds what there is room for")?;
        rule(self.trigger < 4, "there are four trigger levels")?;
        self.input.check()?;
        self.output.check()
    }
}

impl HasState for Uart {
    const SECTION: SectionId = SectionId { id: 0x07, version: 1 };
    type State = SavedUart;

    fn save(&self) -> SavedUart {
        let Uart {
            ier,
            lcr,
            mcr,
            fifo_on,
            trigger,
            scratch,
            divisor,
            overrun,
            msr,
            thre_pending,
            rx: ReceiveFifo { bytes, len },
            input: _,
            output: _,
            waits: _,
            dropped: _,
        } = self;
        SavedUart {
            ier: ier.bits(),
            lcr: lcr.bits(),
            mcr: mcr.bits(),
            fcr: u8::from(*fifo_on) | (*trigger << 6),
            scratch: *scratch,
            divisor: *divisor,
            overrun: u8::from(*overrun),
            msr: msr.bits(),
            thre_pending: u8::from(*thre_pending),
            pad: 0,
            rx: *bytes,
            rx_len: u8::try_from(*len).unwrap_or(0),
        }
    }

    fn set_state(&mut self, state: &SavedUart) {
        let SavedUart {
            ier,
            lcr,
            mcr,
            fcr,
            scratch,
            divisor,
            overrun,
            msr,
            thre_pending,
            rx,
            rx_len,
            pad: _,
        } = *state;
        self.ier = Ier::from_bits_truncate(ier);
        self.lcr = Lcr::from_bits_truncate(lcr);
        self.mcr = Mcr::from_bits_truncate(mcr);
        self.fifo_on = fcr & FCR_ENABLE != 0;
        self.trigger = fcr >> 6;
        self.scratch = scratch;
        self.divisor = divisor;
        self.overrun = overrun != 0;
        self.msr = ModemStatus::from_bits_truncate(msr);
        self.thre_pending = thre_pending != 0;
        // The capacity follows from `fifo_on`, which is set above.
        self.rx = ReceiveFifo { bytes: rx, len: usize::from(rx_len).min(self.capacity()) };
    }
}
