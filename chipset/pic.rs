// SPDX-License-Identifier: GPL-2.0

//! Intel 8259A interrupt controllers, the cascaded pair of a PC, with the ELCR of PCI chipsets.
//!
//! Follows the 8259A datasheet, "Initialization Command Words", "Operation Command Words", "Fully Nested Mode" and
//! "Cascade Mode"; the edge/level registers (ELCR) are those of the PIIX and ICH.
//!
//! ```text
//! lines 0,1,3..7 -> master IR0..7 -> INTR
//! lines 8..15    -> slave  IR0..7 -> INT -> master IR2
//! ```
//!
//! Not modelled: buffered mode, the 8080 call sequence, and LTIM of ICW1 (the ELCR decides, as on the PIIX).
//!
//! DEVIATION: a chip forgets an edge when the line falls before INTA, and then answers with IR7. Here an edge stays
//! requested until it is acknowledged, as KVM does, so that a pulse of no length is an interrupt. The cascade wire
//! between the two chips behaves as the datasheet says.
//!
//! No lock inside: the bus owns it. Nothing here depends on time.

mod kvm;

use super::saved::{state_struct, HasState, SectionId};
use super::{PinLevel, PioDevice};
use crate::arch::addr::AccessWidth;
use crate::arch::rule::rule;
use crate::arch::time::Ns;
use core::ops::RangeInclusive;

/// The port that offset 0 stands for.
pub(crate) const FIRST_PORT: u16 = 0x20;
/// The ports that the pair decodes: master, slave, ELCR.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const PORTS: [RangeInclusive<u16>; 3] = [0x20..=0x21, 0xa0..=0xa1, 0x4d0..=0x4d1];

/// The master's input that carries the slave.
const CASCADE: u8 = 2;
/// What a chip answers when its request is gone at INTA.
const SPURIOUS: u8 = 7;
/// Lines whose trigger mode the ELCR can change; timer, keyboard, cascade, RTC and FPU are always edges.
const ELCR_MASK_MASTER: u8 = 0xf8;
const ELCR_MASK_SLAVE: u8 = 0xde;

/// ICW1, and OCW3's marker, in the first port.
const ICW1: u8 = 1 << 4;
const ICW1_SINGLE: u8 = 1 << 1;
const ICW1_ICW4: u8 = 1 << 0;
const ICW4_SFNM: u8 = 1 << 4;
const ICW4_AEOI: u8 = 1 << 1;
const OCW3: u8 = 1 << 3;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_READ: u8 = 1 << 1;
const OCW3_READ_ISR: u8 = 1 << 0;
const OCW3_SET_SMM: u8 = 1 << 6;
const OCW3_SMM: u8 = 1 << 5;

/// Which word of the initialization sequence the second port takes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Init {
    /// None: OCW1, the mask.
    #[default]
    Done,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PicChip {
    /// The level of each input.
    lines: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    /// The input of highest priority, 0 to 7.
    top: u8,
    /// Bits 7:3 of the vectors.
    base: u8,
    reads_isr: bool,
    poll: bool,
    special_mask: bool,
    init: Init,
    single: bool,
    wants_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    sfnm: bool,
    /// Set bits: level triggered inputs.
    elcr: u8,
    elcr_mask: u8,
    /// Inputs whose service ended since someone asked.
    ended: u8,
}

/// Returns the mask of input `n`, taken modulo 8.
fn bit(n: u8) -> u8 {
    1u8.wrapping_shl(u32::from(n & 7))
}

impl PicChip {
    /// State at power-on: nothing requested, nothing masked, all edges.
    fn at_reset(elcr_mask: u8, lines: u8) -> PicChip {
        PicChip { lines, elcr_mask, ..PicChip::default() }
    }

    /// Returns how far below the top priority the most urgent of `inputs` is, 0 to 7, or 8 for none.
    fn rank(&self, inputs: u8) -> u8 {
        let rotated = inputs.rotate_right(u32::from(self.top & 7));
        u8::try_from(rotated.trailing_zeros()).unwrap_or(8)
    }

    /// Returns the input at `rank`.
    fn input_at(&self, rank: u8) -> u8 {
        self.top.wrapping_add(rank) & 7
    }

    fn set_line(&mut self, n: u8, level: PinLevel) {
        let m = bit(n);
        let rises = level.is_high() && self.lines & m == 0;
        if level.is_high() {
            self.lines |= m;
        } else {
            self.lines &= !m;
        }
        // A level request is its line and goes away with it; an edge is remembered, however short the pulse was.
        if self.elcr & m != 0 {
            self.follow_levels();
        } else if rises {
            self.irr |= m;
        }
    }

    /// Returns what setting input `n` to `level` will come to: see [`Pic::set_irq`].
    fn heard(&self, n: u8, level: PinLevel) -> Option<u32> {
        let m = bit(n);
        let asks = level.is_high() && (self.elcr & m != 0 || self.lines & m == 0);
        (self.imr & m == 0).then(|| u32::from(!asks || self.irr & m == 0))
    }

    /// Makes the request of each level triggered input equal to its line.
    fn follow_levels(&mut self) {
        self.irr = (self.irr & !self.elcr) | (self.lines & self.elcr);
    }

    /// Returns the input that the chip asks the processor to serve.
    ///
    /// `is_master` matters in special fully nested mode: there a slave in service does not hold
    /// back the requests of its other inputs.
    fn request(&self, is_master: bool) -> Option<u8> {
        let inputs = self.irr & !self.imr;
        if inputs == 0 {
            // Mostly so, and asked after each access to the chipset.
            return None;
        }
        let wanted = self.rank(inputs);
        let mut busy = self.isr;
        if self.special_mask {
            busy &= !self.imr;
        }
        if self.sfnm && is_master {
            busy &= !bit(CASCADE);
        }
        // 8259A, "Fully Nested Mode": only what ranks above all that is in service may interrupt it, so not the same
        // input again.
        (wanted < self.rank(busy)).then(|| self.input_at(wanted))
    }

    /// The INTA cycle for input `n`.
    fn serve(&mut self, n: u8) {
        let m = bit(n);
        // A level request stays while its line is high: the device takes it back, not the acknowledge.
        if self.elcr & m == 0 {
            self.irr &= !m;
        }
        // 8259A, "Automatic End of Interrupt (AEOI) Mode": the in-service bit is gone when INTA ends, so nobody ever
        // sees it.
        if self.auto_eoi {
            self.ended |= m;
            if self.rotate_on_auto_eoi {
                self.top = n.wrapping_add(1) & 7;
            }
        } else {
            self.isr |= m;
        }
    }

    fn end(&mut self, n: u8, rotate: bool) {
        let m = bit(n);
        // A specific EOI of an input that is not in service ends nothing, and must not be taken for the timer's.
        self.ended |= self.isr & m;
        self.isr &= !m;
        if rotate {
            self.top = n.wrapping_add(1) & 7;
        }
    }

    fn end_most_urgent(&mut self, rotate: bool) {
        // 8259A, "End of Interrupt (EOI)": in special mask mode a non-specific EOI leaves the bits of masked inputs
        // alone.
        let mut inputs = self.isr;
        if self.special_mask {
            inputs &= !self.imr;
        }
        let rank = self.rank(inputs);
        if rank < 8 {
            self.end(self.input_at(rank), rotate);
        }
    }

    fn vector(&self, n: u8) -> u8 {
        (self.base & 0xf8) | (n & 7)
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.start_init(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn start_init(&mut self, icw1: u8) {
        let wants_icw4 = icw1 & ICW1_ICW4 != 0;
        *self = PicChip {
            // 8259A, "Initialization Command Words 1 and 2 (ICW1, ICW2)": the edge sense circuit is reset. A line that
            // is high already has to fall and rise before it requests again.
            lines: self.lines,
            base: self.base,
            elcr: self.elcr,
            elcr_mask: self.elcr_mask,
            // The service of these ends here without an EOI, and whoever waits for its end must hear of it.
            ended: self.ended | self.isr,
            // Without an ICW4 its functions are all zero.
            auto_eoi: self.auto_eoi && wants_icw4,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            sfnm: self.sfnm && wants_icw4,
            wants_icw4,
            single: icw1 & ICW1_SINGLE != 0,
            init: Init::Icw2,
            ..PicChip::default()
        };
        self.follow_levels();
    }

    fn write_ocw2(&mut self, value: u8) {
        let n = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 => self.end_most_urgent(false),
            5 => self.end_most_urgent(true),
            3 => self.end(n, false),
            7 => self.end(n, true),
            6 => self.top = n.wrapping_add(1) & 7,
            _ => {}
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        self.poll = value & OCW3_POLL != 0;
        // Register select and special mask each have an enable bit: an OCW3 that is meant for one leaves the other as
        // it is.
        if value & OCW3_READ != 0 {
            self.reads_isr = value & OCW3_READ_ISR != 0;
        }
        if value & OCW3_SET_SMM != 0 {
            self.special_mask = value & OCW3_SMM != 0;
        }
    }

    fn write_data(&mut self, value: u8) {
        self.init = match self.init {
            Init::Done => {
                self.imr = value;
                Init::Done
            }
            Init::Icw2 => {
                self.base = value & 0xf8;
                match (self.single, self.wants_icw4) {
                    (false, _) => Init::Icw3,
                    (true, true) => Init::Icw4,
                    (true, false) => Init::Done,
                }
            }
            // The cascade is wired: input 2, identity 2.
            Init::Icw3 if self.wants_icw4 => Init::Icw4,
            Init::Icw3 => Init::Done,
            Init::Icw4 => {
                self.sfnm = value & ICW4_SFNM != 0;
                self.auto_eoi = value & ICW4_AEOI != 0;
                Init::Done
            }
        };
    }

    fn write_elcr(&mut self, value: u8) {
        self.elcr = value & self.elcr_mask;
        self.follow_levels();
    }

    fn save(&self) -> SavedPicChip {
        let PicChip {
            lines,
            irr,
            imr,
            isr,
            top,
            base,
            reads_isr,
            poll,
            special_mask,
            init,
            single,
            wants_icw4,
            auto_eoi,
            rotate_on_auto_eoi,
            sfnm,
            elcr,
            elcr_mask,
            ended,
        } = *self;
        SavedPicChip {
            last_irr: lines,
            irr,
            imr,
            isr,
            priority_add: top,
            irq_base: base,
            read_reg_select: reads_isr.into(),
            poll: poll.into(),
            special_mask: special_mask.into(),
            init_state: match init {
                Init::Done => 0,
                Init::Icw2 => 1,
                Init::Icw3 => 2,
                Init::Icw4 => 3,
            },
            single: single.into(),
            init4: wants_icw4.into(),
            auto_eoi: auto_eoi.into(),
            rotate_on_auto_eoi: rotate_on_auto_eoi.into(),
            special_fully_nested_mode: sfnm.into(),
            elcr,
            elcr_mask,
            ended,
        }
    }

    /// Builds the chip with `elcr_mask`; that of the state is the board's, not the guest's, and is ignored.
    fn from_state(state: &SavedPicChip, mask: u8) -> PicChip {
        let SavedPicChip {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_reg_select,
            poll,
            special_mask,
            init_state,
            single,
            init4,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested_mode,
            elcr,
            elcr_mask: _,
            ended,
        } = *state;
        PicChip {
            lines: last_irr,
            irr,
            imr,
            isr,
            top: priority_add & 7,
            base: irq_base & 0xf8,
            reads_isr: read_reg_select != 0,
            poll: poll != 0,
            special_mask: special_mask != 0,
            init: match init_state {
                1 => Init::Icw2,
                2 => Init::Icw3,
                3 => Init::Icw4,
                _ => Init::Done,
            },
            single: single != 0,
            wants_icw4: init4 != 0,
            auto_eoi: auto_eoi != 0,
            rotate_on_auto_eoi: rotate_on_auto_eoi != 0,
            sfnm: special_fully_nested_mode != 0,
            elcr: elcr & mask,
            elcr_mask: mask,
            ended,
        }
    }
}

state_struct! {
    /// The state of one chip; the names are those of KVM's `struct kvm_pic_state`, which lacks the last two.
    struct SavedPicChip = 18 {
        /// The level of each input.
        last_irr: u8,
        /// Requests.
        irr: u8,
        /// Masked inputs.
        imr: u8,
        /// Inputs in service.
        isr: u8,
        /// The input of highest priority, 0 to 7.
        priority_add: u8,
        /// Vector of input 0; bits 2:0 are zero.
        irq_base: u8,
        /// A read of the first port gives the ISR, not the IRR.
        read_reg_select: u8,
        /// The next read is a poll.
        poll: u8,
        /// Special mask mode.
        special_mask: u8,
        /// The initialization word expected next: 0 none, 1 ICW2, 2 ICW3, 3 ICW4.
        init_state: u8,
        /// Automatic end of interrupt.
        auto_eoi: u8,
        /// Priority rotates on automatic end of interrupt.
        rotate_on_auto_eoi: u8,
        /// Special fully nested mode.
        special_fully_nested_mode: u8,
        /// The initialization sequence has an ICW4.
        init4: u8,
        /// Level triggered inputs.
        elcr: u8,
        /// Inputs whose trigger mode can be changed; ignored by a restore.
        elcr_mask: u8,
        /// The initialization sequence has no ICW3.
        single: u8,
        /// Inputs whose service ended and was not yet reported by [`Pic::take_ended`].
        ended: u8,
    }
}

state_struct! {
    /// The state of the pair.
    struct SavedPic = 36 {
        /// The chip at 0x20, lines 0 to 7.
        master: SavedPicChip,
        /// The chip at 0xa0, lines 8 to 15.
        slave: SavedPicChip,
    }
}

/// The cascaded pair.
///
/// # Invariants
/// The master's line 2 is the slave's output, and requests of level triggered inputs equal their lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pic {
    master: PicChip,
    slave: PicChip,
}

impl Default for Pic {
    fn default() -> Pic {
        Pic::new()
    }
}

impl Pic {
    /// Returns the pair as it is after power-on, all lines low.
    pub(crate) fn new() -> Pic {
        Pic { master: PicChip::at_reset(ELCR_MASK_MASTER, 0), slave: PicChip::at_reset(ELCR_MASK_SLAVE, 0) }
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let cascade = self.master.lines & bit(CASCADE) != 0;
        rule(cascade == self.slave.request(false).is_some(), "the cascade is the slave's output")?;
        for chip in [&self.master, &self.slave] {
            rule(chip.irr & chip.elcr == chip.lines & chip.elcr, "level requests are their lines")?;
            rule(chip.elcr & !chip.elcr_mask == 0, "level triggered inputs are those that can be")?;
            rule(chip.top <= 7 && chip.base & 7 == 0, "priorities and vectors are in range")?;
        }
        Ok(())
    }

    /// Back to power-on; the levels of the lines belong to the devices and stay.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        self.master = PicChip::at_reset(ELCR_MASK_MASTER, self.master.lines & !bit(CASCADE));
        self.slave = PicChip::at_reset(ELCR_MASK_SLAVE, self.slave.lines);
        self.settle();
    }

    /// Sets line `line`, 0 to 15. Line 2 is the cascade, and a line above 15 does not exist: both are ignored.
    ///
    /// Returns what the chip makes of it: 1 it is taken, 0 it joins a request that waits, `None` the
    /// line is masked (an edge is kept all the same).
    pub(crate) fn set_irq(&mut self, line: u8, level: PinLevel) -> Option<u32> {
        match line {
            // Routes may name it, as KVM's default ones do for GSI 2, but the slave alone drives it.
            CASCADE => None,
            0..=7 => {
                let heard = self.master.heard(line, level);
                self.master.set_line(line, level);
                heard
            }
            8..=15 => {
                let heard = self.slave.heard(line & 7, level);
                self.slave.set_line(line & 7, level);
                self.settle();
                heard
            }
            _ => None,
        }
    }

    /// Returns the level of the INTR pin.
    pub(crate) fn intr(&self) -> PinLevel {
        PinLevel::from(self.master.request(true).is_some())
    }

    /// The processor's INTA cycles: takes the most urgent request into service and returns its vector.
    ///
    /// Without a request (it may have gone since [`Pic::intr`] was high) the vector is that of IR7 of
    /// the chip that was asked, and nothing goes into service: the spurious interrupt.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let Some(n) = self.master.request(true) else { return self.master.vector(SPURIOUS) };
        self.master.serve(n);
        if n != CASCADE {
            return self.master.vector(n);
        }
        let request = self.slave.request(false);
        if let Some(s) = request {
            self.slave.serve(s);
        }
        self.drop_cascade();
        self.slave.vector(request.unwrap_or(SPURIOUS))
    }

    /// Returns the lines, as a bit mask, whose service ended (EOI of any kind) since the last call.
    ///
    /// The timer's re-injection and level triggered lines of the host wait for this.
    pub(crate) fn take_ended(&mut self) -> u16 {
        let ended = u16::from_le_bytes([self.master.ended & !bit(CASCADE), self.slave.ended]);
        self.master.ended = 0;
        self.slave.ended = 0;
        ended
    }

    /// Returns the requested lines as a bit mask; bit 2 is the cascade.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn requested(&self) -> u16 {
        u16::from_le_bytes([self.master.irr, self.slave.irr])
    }

    /// Returns the lines in service as a bit mask; bit 2 is the cascade.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn in_service(&self) -> u16 {
        u16::from_le_bytes([self.master.isr, self.slave.isr])
    }

    /// Returns the masked lines as a bit mask; bit 2 is the cascade.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn masked(&self) -> u16 {
        u16::from_le_bytes([self.master.imr, self.slave.imr])
    }

    /// Carries the slave's output to the master's cascade input.
    fn settle(&mut self) {
        let out = PinLevel::from(self.slave.request(false).is_some());
        // The cascade is an edge input, but its request goes with the slave's output all the same: a master that kept
        // it would have INTA answered with a spurious vector of the slave.
        if !out.is_high() {
            self.master.irr &= !bit(CASCADE);
        }
        self.master.set_line(CASCADE, out);
    }

    /// The slave's output falls during INTA, so that a request that is left makes a new edge.
    fn drop_cascade(&mut self) {
        self.master.set_line(CASCADE, PinLevel::Low);
        self.settle();
    }

    fn poll(&mut self, is_master: bool) -> u8 {
        let chip = if is_master { &mut self.master } else { &mut self.slave };
        chip.poll = false;
        // 8259A, "Poll Command": the read acknowledges at this chip only; a guest that finds the cascade polls the
        // slave next.
        let Some(n) = chip.request(is_master) else { return 0 };
        chip.serve(n);
        if !is_master {
            self.drop_cascade();
        }
        0x80 | n
    }

    fn read_chip(&mut self, is_master: bool, data_port: bool) -> u8 {
        let chip = if is_master { &self.master } else { &self.slave };
        if chip.poll {
            return self.poll(is_master);
        }
        match (data_port, chip.reads_isr) {
            (true, _) => chip.imr,
            (false, true) => chip.isr,
            (false, false) => chip.irr,
        }
    }
}

impl HasState for Pic {
    const SECTION: SectionId = SectionId { id: 0x03, version: 1 };
    type State = SavedPic;

    fn save(&self) -> SavedPic {
        SavedPic { master: self.master.save(), slave: self.slave.save() }
    }

    fn set_state(&mut self, state: &SavedPic) {
        self.master = PicChip::from_state(&state.master, ELCR_MASK_MASTER);
        self.slave = PicChip::from_state(&state.slave, ELCR_MASK_SLAVE);
        // The levels may be such as never went with these requests: what follows from them is worked out anew.
        self.master.follow_levels();
        self.slave.follow_levels();
        self.settle();
    }
}

/// The registers by their offset from [`FIRST_PORT`].
#[derive(Clone, Copy)]
enum Reg {
    Chip { is_master: bool, data: bool },
    Elcr { is_master: bool },
}

impl Reg {
    fn decode(offset: u16, width: AccessWidth) -> Option<Reg> {
        if width != AccessWidth::B1 {
            return None;
        }
        Some(match offset.wrapping_add(FIRST_PORT) {
            0x20 => Reg::Chip { is_master: true, data: false },
            0x21 => Reg::Chip { is_master: true, data: true },
            0xa0 => Reg::Chip { is_master: false, data: false },
            0xa1 => Reg::Chip { is_master: false, data: true },
            0x4d0 => Reg::Elcr { is_master: true },
            0x4d1 => Reg::Elcr { is_master: false },
            _ => return None,
        })
    }
}

impl PioDevice for Pic {
    fn read(&mut self, offset: u16, width: AccessWidth, _now: Ns) -> u32 {
        u32::from(match Reg::decode(offset, width) {
            Some(Reg::Chip { is_master, data }) => self.read_chip(is_master, data),
            Some(Reg::Elcr { is_master: true }) => self.master.elcr,
            Some(Reg::Elcr { is_master: false }) => self.slave.elcr,
            None => return super::all_ones(width),
        })
    }

    fn write(&mut self, offset: u16, width: AccessWidth, value: u32, _now: Ns) {
        let [value, ..] = value.to_le_bytes();
        let Some(reg) = Reg::decode(offset, width) else { return };
        let chip = match reg {
            Reg::Chip { is_master: true, .. } | Reg::Elcr { is_master: true } => &mut self.master,
            Reg::Chip { .. } | Reg::Elcr { .. } => &mut self.slave,
        };
        match reg {
            Reg::Chip { data: false, .. } => chip.write_command(value),
            Reg::Chip { data: true, .. } => chip.write_data(value),
            Reg::Elcr { .. } => chip.write_elcr(value),
        }
        self.settle();
    }
}
