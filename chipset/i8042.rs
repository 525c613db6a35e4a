// SPDX-License-Identifier: GPL-2.0

//! Intel 8042 keyboard controller with a keyboard that nobody types on, and port 0x92.
//!
//! Follows the IBM PS/2 Technical Reference, "Keyboard and Auxiliary Device Controller" and "Keyboard". The controller
//! answers at once; the keyboard's bytes come one by one, [`BYTE_NS`] after the one before was read, so that each makes
//! an edge on IRQ 1. There is no auxiliary device: its loopback answers without the AUX mark and its interface test
//! reports a stuck clock, which drivers read as "no such port" without waiting for a timeout.
//!
//! A20 is only remembered: no address line is ever masked. Scan codes are not modelled.
//!
//! No lock inside: the bus owns it, and the timer for [`I8042::deadline`].

use super::pm::PlatformRequest;
use super::saved::{state_struct, HasState, SectionId};
use super::{all_ones, PinLevel, PioDevice};
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use core::ops::RangeInclusive;

/// The port that offset 0 stands for.
pub(crate) const FIRST_PORT: u16 = 0x60;
/// The ports decoded: data, command and status, system control port A.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const PORTS: [RangeInclusive<u16>; 3] = [0x60..=0x60, 0x64..=0x64, 0x92..=0x92];
/// From the reading of one keyboard byte to the arrival of the next, in nanoseconds.
pub(crate) const BYTE_NS: u64 = 100_000;

bitflags::bitflags! {
    /// Status register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct KbdStatus: u8 {
        /// Output buffer full.
        const OBF = 1 << 0;
        /// The self-test was passed.
        const SYS = 1 << 2;
        /// The last write went to the command port.
        const COMMAND = 1 << 3;
        /// The keyboard is not locked.
        const UNLOCKED = 1 << 4;
        /// The byte in the output buffer is the auxiliary device's.
        const AUX = 1 << 5;
        /// The device did not answer in time.
        const TIMEOUT = 1 << 6;
    }

    /// Controller command byte.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct Ctr: u8 {
        /// IRQ 1 on.
        const KBD_INT = 1 << 0;
        /// IRQ 12 on.
        const AUX_INT = 1 << 1;
        /// Shown as the status register's.
        const SYS = 1 << 2;
        /// Ignore the lock switch.
        const IGNORE_LOCK = 1 << 3;
        /// The keyboard's clock is off.
        const KBD_OFF = 1 << 4;
        /// The auxiliary device's clock is off.
        const AUX_OFF = 1 << 5;
        /// Translate to scan code set 1.
        const TRANSLATE = 1 << 6;
    }

    /// Output port.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct OutPort: u8 {
        /// Low: the processor is in reset.
        const NOT_RESET = 1 << 0;
        const A20 = 1 << 1;
        /// Always read as one: the idle clock and data lines.
        const IDLE = 0xc0;
    }
}

const SELF_TEST_PASSED: u8 = 0x55;
const CLOCK_STUCK_LOW: u8 = 0x01;
const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;
const ECHO: u8 = 0xee;
const BAT_PASSED: u8 = 0xaa;

/// Who put a byte into the output buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Keyboard,
    #[allow(dead_code, reason = "the second port answers only once it has a device")]
    Aux,
    /// The auxiliary port, where nothing answered.
    AuxTimeout,
}

/// What the next byte at the data port is for, when a controller command asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Param {
    /// The keyboard.
    #[default]
    Keyboard,
    CommandByte,
    OutPort,
    KeyboardBuffer,
    AuxLoop,
    AuxDevice,
}

/// Keyboard commands with a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum KbdParam {
    #[default]
    None,
    /// LEDs or typematic rate: taken and forgotten.
    Ignored,
    ScanCodeSet,
}

/// The keyboard: what it has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keyboard {
    queue: [u8; 16],
    len: usize,
    param: KbdParam,
    set: u8,
    last: u8,
    /// The next byte arrives then.
    ready_at: Ns,
}

impl Keyboard {
    fn at_reset() -> Keyboard {
        Keyboard { queue: [0; 16], len: 0, param: KbdParam::None, set: 2, last: 0, ready_at: Ns::ZERO }
    }

    fn say(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(slot) = self.queue.get_mut(self.len) {
                *slot = *byte;
                self.len = self.len.wrapping_add(1);
            }
        }
    }

    fn next(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let [first, ..] = self.queue;
        self.queue.rotate_left(1);
        self.len = self.len.wrapping_sub(1);
        self.last = first;
        Some(first)
    }

    /// A byte from the host. `translated` changes how the identity reads.
    fn command(&mut self, byte: u8, translated: bool) {
        match core::mem::take(&mut self.param) {
            // A command where a parameter is awaited is carried out as a command, so that a guest can always start
            // over.
            KbdParam::Ignored if byte < 0x80 => return self.say(&[ACK]),
            KbdParam::ScanCodeSet if byte == 0 => return self.say(&[ACK, self.set]),
            KbdParam::ScanCodeSet if byte <= 3 => {
                self.set = byte;
                return self.say(&[ACK]);
            }
            _ => {}
        }
        match byte {
            0xed | 0xf3 => {
                self.param = KbdParam::Ignored;
                self.say(&[ACK]);
            }
            0xf0 => {
                self.param = KbdParam::ScanCodeSet;
                self.say(&[ACK]);
            }
            0xee => self.say(&[ECHO]),
            // The controller translates the identity as if it were a key: 0x83 reads 0x41.
            0xf2 => self.say(&[ACK, 0xab, if translated { 0x41 } else { 0x83 }]),
            0xf4 => self.say(&[ACK]),
            0xf5 | 0xf6 => {
                self.set = 2;
                self.say(&[ACK]);
            }
            0xfe => self.say(&[self.last]),
            0xff => {
                *self = Keyboard { ready_at: self.ready_at, ..Keyboard::at_reset() };
                self.say(&[ACK, BAT_PASSED]);
            }
            _ => self.say(&[RESEND]),
        }
    }
}

state_struct! {
    /// The state of the controller and its keyboard.
    struct SavedI8042 = 40 {
        /// When the keyboard's next byte arrives.
        kbd_ready_at: u64,
        /// What the keyboard has to say, oldest first.
        kbd_queue: [u8; 16],
        /// Controller command byte.
        command_byte: u8,
        /// Output port.
        out_port: u8,
        /// The last write went to the command port.
        last_was_command: u8,
        /// The self-test was passed.
        system_flag: u8,
        /// The output buffer is full.
        has_output: u8,
        /// The byte in the output buffer; 0 when that is empty.
        output: u8,
        /// Who put it there: 0 keyboard or controller, 1 auxiliary, 2 auxiliary after a timeout.
        output_source: u8,
        /// What the next data byte is for: 0 keyboard, 1 command byte, 2 output port, 3 keyboard buffer, 4 loopback,
        /// 5 auxiliary device.
        param: u8,
        /// How many bytes of `kbd_queue` count.
        kbd_len: u8,
        /// The keyboard's awaited parameter: 0 none, 1 ignored, 2 scan code set.
        kbd_param: u8,
        /// Scan code set, 1 to 3.
        kbd_set: u8,
        /// The last byte that the keyboard sent.
        kbd_last: u8,
        /// Port 0x92.
        port_a: u8,
        /// A request that was not taken yet: see [`PlatformRequest`].
        request: u8,
        /// 0.
        pad: [u8; 2],
    }
}

/// The controller with its keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct I8042 {
    ctr: Ctr,
    out_port: OutPort,
    last_was_command: bool,
    system_flag: bool,
    output: Option<(u8, Source)>,
    param: Param,
    kbd: Keyboard,
    /// Bit 0 of port 0x92: a reset happens when it is set.
    fast_reset: bool,
    request: Option<PlatformRequest>,
}

impl Default for I8042 {
    fn default() -> I8042 {
        I8042::new()
    }
}

impl I8042 {
    /// Returns the controller as firmware leaves it: self-test passed, translating, interrupts on, no auxiliary clock.
    pub(crate) fn new() -> I8042 {
        I8042 {
            ctr: Ctr::KBD_INT | Ctr::SYS | Ctr::AUX_OFF | Ctr::TRANSLATE,
            out_port: OutPort::NOT_RESET | OutPort::A20 | OutPort::IDLE,
            last_was_command: false,
            system_flag: true,
            output: None,
            param: Param::Keyboard,
            kbd: Keyboard::at_reset(),
            fast_reset: false,
            request: None,
        }
    }

    /// Back to the state of [`I8042::new`].
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        *self = I8042::new();
    }

    /// Returns the level of IRQ 1.
    pub(crate) fn irq(&self) -> PinLevel {
        let is_keyboard = matches!(self.output, Some((_, Source::Keyboard)));
        PinLevel::from(is_keyboard && self.ctr.contains(Ctr::KBD_INT))
    }

    /// Returns the level of IRQ 12.
    pub(crate) fn aux_irq(&self) -> PinLevel {
        let is_aux = matches!(self.output, Some((_, Source::Aux | Source::AuxTimeout)));
        PinLevel::from(is_aux && self.ctr.contains(Ctr::AUX_INT))
    }

    /// Returns whether the guest asked for a reset since the last call.
    pub(crate) fn take_request(&mut self) -> Option<PlatformRequest> {
        self.request.take()
    }

    /// Returns when the keyboard's next byte arrives.
    pub(crate) fn deadline(&self) -> Option<Ns> {
        (self.output.is_none() && self.kbd.len > 0 && !self.ctr.contains(Ctr::KBD_OFF))
            .then_some(self.kbd.ready_at)
    }

    /// Lets the keyboard's next byte arrive, if it is time.
    pub(crate) fn tick(&mut self, now: Ns) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.output = self.kbd.next().map(|byte| (byte, Source::Keyboard));
        }
    }

    /// The controller's own answer: replaces what is in the output buffer.
    fn answer(&mut self, byte: u8) {
        self.output = Some((byte, Source::Keyboard));
    }

    fn request_reset(&mut self) {
        self.request = Some(PlatformRequest::Reset);
    }

    fn status(&self) -> KbdStatus {
        let mut status = KbdStatus::UNLOCKED;
        status.set(KbdStatus::OBF, self.output.is_some());
        status.set(KbdStatus::SYS, self.system_flag);
        status.set(KbdStatus::COMMAND, self.last_was_command);
        let from = self.output.map(|(_, source)| source);
        status.set(KbdStatus::AUX, matches!(from, Some(Source::Aux | Source::AuxTimeout)));
        status.set(KbdStatus::TIMEOUT, from == Some(Source::AuxTimeout));
        status
    }

    /// Reading an empty buffer gives zero.
    fn read_data(&mut self, now: Ns) -> u8 {
        let Some((byte, _)) = self.output.take() else { return 0 };
        // Not at once: IRQ 1 is an edge, so the line has to be low between two bytes.
        self.kbd.ready_at = now.after(BYTE_NS);
        byte
    }

    fn write_data(&mut self, byte: u8, now: Ns) {
        match core::mem::take(&mut self.param) {
            Param::Keyboard => {
                // A byte for the keyboard turns its clock on.
                self.ctr.remove(Ctr::KBD_OFF);
                self.kbd.command(byte, self.ctr.contains(Ctr::TRANSLATE));
                self.kbd.ready_at = now;
            }
            Param::CommandByte => {
                self.ctr = Ctr::from_bits_truncate(byte);
                self.system_flag = self.ctr.contains(Ctr::SYS);
            }
            Param::OutPort => self.write_out_port(byte),
            Param::KeyboardBuffer | Param::AuxLoop => self.answer(byte),
            Param::AuxDevice => self.output = Some((RESEND, Source::AuxTimeout)),
        }
    }

    fn write_out_port(&mut self, byte: u8) {
        if byte & OutPort::NOT_RESET.bits() == 0 {
            self.request_reset();
        }
        // The port's other lines are the interrupts and the keyboard's clock and data, which follow from the rest of
        // the state.
        self.out_port.set(OutPort::A20, byte & OutPort::A20.bits() != 0);
    }

    fn command(&mut self, byte: u8) {
        // A command in place of a data byte that was asked for calls that off.
        self.param = Param::Keyboard;
        match byte {
            // Only the first byte of the controller's memory exists.
            0x20..=0x3f => self.answer(if byte == 0x20 { self.ctr.bits() } else { 0 }),
            0x60 => self.param = Param::CommandByte,
            0xa7 => self.ctr.insert(Ctr::AUX_OFF),
            0xa8 => self.ctr.remove(Ctr::AUX_OFF),
            0xa9 => self.answer(CLOCK_STUCK_LOW),
            0xaa => {
                self.system_flag = true;
                self.answer(SELF_TEST_PASSED);
            }
            0xab => self.answer(0),
            0xad => self.ctr.insert(Ctr::KBD_OFF),
            0xae => self.ctr.remove(Ctr::KBD_OFF),
            // Input port: the keyboard is not locked.
            0xc0 => self.answer(0x80),
            0xd0 => self.answer(self.out_port.bits()),
            0xd1 => self.param = Param::OutPort,
            0xd2 => self.param = Param::KeyboardBuffer,
            0xd3 => self.param = Param::AuxLoop,
            0xd4 => self.param = Param::AuxDevice,
            0xdd => self.out_port.remove(OutPort::A20),
            0xdf => self.out_port.insert(OutPort::A20),
            0xe0 => self.answer(0),
            // Pulses the output port's bits that are zero; bit 0 is the processor's reset.
            0xf0..=0xff if byte & 1 == 0 => self.request_reset(),
            _ => {}
        }
    }

    fn read_port_a(&self) -> u8 {
        u8::from(self.fast_reset) | u8::from(self.out_port.contains(OutPort::A20)) << 1
    }

    fn write_port_a(&mut self, value: u8) {
        let reset = value & 1 != 0;
        // The edge resets: a guest that left the bit set may write the port again to switch A20.
        if reset && !self.fast_reset {
            self.request_reset();
        }
        self.fast_reset = reset;
        self.out_port.set(OutPort::A20, value & 2 != 0);
    }
}

impl PioDevice for I8042 {
    fn read(&mut self, offset: u16, width: AccessWidth, now: Ns) -> u32 {
        if width != AccessWidth::B1 {
            return all_ones(width);
        }
        self.tick(now);
        u32::from(match offset.wrapping_add(FIRST_PORT) {
            0x60 => self.read_data(now),
            0x64 => self.status().bits(),
            0x92 => self.read_port_a(),
            _ => return all_ones(width),
        })
    }

    fn write(&mut self, offset: u16, width: AccessWidth, value: u32, now: Ns) {
        if width != AccessWidth::B1 {
            return;
        }
        let [value, ..] = value.to_le_bytes();
        self.tick(now);
        match offset.wrapping_add(FIRST_PORT) {
            0x60 => {
                self.last_was_command = false;
                self.write_data(value, now);
            }
            0x64 => {
                self.last_was_command = true;
                self.command(value);
            }
            0x92 => self.write_port_a(value),
            _ => {}
        }
    }
}

impl HasState for I8042 {
    const SECTION: SectionId = SectionId { id: 0x08, version: 1 };
    type State = SavedI8042;

    fn save(&self) -> SavedI8042 {
        let I8042 { ctr, out_port, last_was_command, system_flag, output, param, kbd, fast_reset, request } =
            self;
        let Keyboard { queue, len, param: kbd_param, set, last, ready_at } = kbd;
        SavedI8042 {
            command_byte: ctr.bits(),
            out_port: out_port.bits(),
            last_was_command: u8::from(*last_was_command),
            system_flag: u8::from(*system_flag),
            has_output: u8::from(output.is_some()),
            output: output.map_or(0, |(byte, _)| byte),
            output_source: match output {
                None | Some((_, Source::Keyboard)) => 0,
                Some((_, Source::Aux)) => 1,
                Some((_, Source::AuxTimeout)) => 2,
            },
            param: match param {
                Param::Keyboard => 0,
                Param::CommandByte => 1,
                Param::OutPort => 2,
                Param::KeyboardBuffer => 3,
                Param::AuxLoop => 4,
                Param::AuxDevice => 5,
            },
            kbd_queue: *queue,
            kbd_len: u8::try_from(*len).unwrap_or(0),
            kbd_param: match kbd_param {
                KbdParam::None => 0,
                KbdParam::Ignored => 1,
                KbdParam::ScanCodeSet => 2,
            },
            kbd_set: *set,
            kbd_last: *last,
            kbd_ready_at: ready_at.0,
            port_a: u8::from(*fast_reset),
            request: PlatformRequest::code(*request),
            pad: [0; 2],
        }
    }

    fn set_state(&mut self, state: &SavedI8042) {
        let SavedI8042 {
            command_byte,
            out_port,
            last_was_command,
            system_flag,
            has_output,
            output,
            output_source,
            param,
            kbd_queue,
            kbd_len,
            kbd_param,
            kbd_set,
            kbd_last,
            kbd_ready_at,
            port_a,
            request,
            pad: _,
        } = *state;
        let source = match output_source {
            1 => Source::Aux,
            2 => Source::AuxTimeout,
            _ => Source::Keyboard,
        };
        *self = I8042 {
            ctr: Ctr::from_bits_truncate(command_byte),
            out_port: OutPort::from_bits_truncate(out_port) | OutPort::IDLE | OutPort::NOT_RESET,
            last_was_command: last_was_command != 0,
            system_flag: system_flag != 0,
            output: (has_output != 0).then_some((output, source)),
            param: match param {
                1 => Param::CommandByte,
                2 => Param::OutPort,
                3 => Param::KeyboardBuffer,
                4 => Param::AuxLoop,
                5 => Param::AuxDevice,
                _ => Param::Keyboard,
            },
            kbd: Keyboard {
                queue: kbd_queue,
                len: usize::from(kbd_len).min(kbd_queue.len()),
                param: match kbd_param {
                    1 => KbdParam::Ignored,
                    2 => KbdParam::ScanCodeSet,
                    _ => KbdParam::None,
                },
                set: kbd_set.clamp(1, 3),
                last: kbd_last,
                ready_at: Ns(kbd_ready_at),
            },
            fast_reset: port_a & 1 != 0,
            request: PlatformRequest::from_code(request),
        };
    }
}
