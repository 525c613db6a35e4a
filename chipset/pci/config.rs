// SPDX-License-Identifier: GPL-2.0

//! The configuration space of a function.
//!
//! Follows the PCI Local Bus Specification 3.0, "Configuration Space Organization", "Base Addresses"
//! and "Capabilities List". The space is 256 bytes with a mask of what the guest may write, and that
//! is all there is to sizing a BAR: its low bits stay 0. Not modelled: I/O BARs, expansion ROMs.

use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::rule::rule;
use crate::chipset::saved::{state_struct, HasState, SectionId};
use kernel::prelude::*;

/// BARs of a function.
pub(crate) const BARS: usize = 6;
/// Bytes of a conventional configuration space.
const CONFIG_BYTES: usize = 256;
/// First byte after the predefined header.
const HEADER_BYTES: u8 = 0x40;

const REG_VENDOR: u8 = 0x00;
const REG_DEVICE: u8 = 0x02;
const REG_COMMAND: u8 = 0x04;
const REG_STATUS: u8 = 0x06;
const REG_REVISION: u8 = 0x08;
const REG_CLASS: u8 = 0x09;
const REG_BAR0: u8 = 0x10;
const REG_BAR_END: u8 = 0x28;
const REG_SUBSYSTEM_VENDOR: u8 = 0x2c;
const REG_SUBSYSTEM: u8 = 0x2e;
const REG_CAPABILITIES: u8 = 0x34;
const REG_INTERRUPT_LINE: u8 = 0x3c;
const REG_INTERRUPT_PIN: u8 = 0x3d;

/// Status register: the function wants to interrupt by its pin, which the command register may disable.
const STATUS_INTERRUPT: u8 = 1 << 3;
/// Status register: the capability list exists.
const STATUS_CAPABILITIES: u8 = 1 << 4;

/// Capability id of MSI-X.
const CAP_MSIX: u8 = 0x11;
/// Offset of the message control register in the MSI-X capability.
const MSIX_CONTROL: u8 = 2;
/// Message control: MSI-X is enabled.
const MSIX_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
const MSIX_MASK_ALL: u16 = 1 << 14;

bitflags::bitflags! {
    /// The command register, as far as a function without I/O has one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PciCommand: u16 {
        /// The function answers I/O accesses.
        const IO = 1 << 0;
        /// The function answers memory accesses.
        const MEMORY = 1 << 1;
        /// The function may access memory itself, which includes sending MSIs.
        const BUS_MASTER = 1 << 2;
        /// INTx is disabled.
        const INTX_DISABLE = 1 << 10;
    }
}

bitflags::bitflags! {
    /// Which parts of a configuration space a write fell upon.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct TouchedRegs: u8 {
        /// The command register or a BAR: what the function decodes may have changed.
        const DECODE = 1 << 0;
        /// The message control register of MSI-X.
        const MSIX = 1 << 1;
    }
}

/// What identifies a function to its driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PciIdentity {
    /// Vendor id.
    pub(crate) vendor: u16,
    /// Device id.
    pub(crate) device: u16,
    /// Base class, subclass and programming interface, from bit 23 down.
    pub(crate) class: u32,
    /// Revision id.
    pub(crate) revision: u8,
    /// Subsystem vendor id.
    pub(crate) subsystem_vendor: u16,
    /// Subsystem id.
    pub(crate) subsystem: u16,
}

/// The kind of a memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    /// 32-bit address.
    Memory32,
    /// 64-bit address; takes the next BAR's register too.
    Memory64,
}

/// The addresses that a BAR claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BarRange {
    /// First address.
    pub(crate) base: Gpa,
    /// Bytes, a power of two.
    pub(crate) bytes: u64,
}

/// Where the MSI-X structures lie: a BAR and an offset for each, and how many vectors there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MsixLayout {
    /// Vectors, 1 to 2048.
    pub(crate) vectors: u16,
    /// BAR of the vector table.
    pub(crate) table_bar: u8,
    /// Offset of the vector table, a multiple of 8.
    pub(crate) table: u32,
    /// BAR of the pending bits.
    pub(crate) pending_bar: u8,
    /// Offset of the pending bits, a multiple of 8.
    pub(crate) pending: u32,
}

/// What the guest programmed into the MSI-X message control register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MsixControl {
    /// The function uses MSI-X.
    pub(crate) enabled: bool,
    /// All vectors are masked.
    pub(crate) masked: bool,
}

#[derive(Clone, Copy, Debug)]
struct BarShape {
    kind: BarKind,
    bytes: u64,
}

/// The configuration space of one function: 256 bytes, of which a mask says what the guest may write.
///
/// # Invariants
/// Every bit that the guest can write is 0 after reset. A BAR's address is a multiple of its size. The list of capabilities
/// ends.
#[derive(Debug)]
pub(crate) struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    bars: [Option<BarShape>; BARS],
    next_capability: u8,
    last_link: u8,
    msix: Option<u8>,
}

impl ConfigSpace {
    /// Returns the space of a function without BARs and capabilities.
    pub(crate) fn new(id: &PciIdentity) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            bars: [None; BARS],
            next_capability: HEADER_BYTES,
            last_link: REG_CAPABILITIES,
            msix: None,
        };
        let [interface, subclass, base, _] = id.class.to_le_bytes();
        space.set(REG_VENDOR, &id.vendor.to_le_bytes());
        space.set(REG_DEVICE, &id.device.to_le_bytes());
        space.set(REG_REVISION, &[id.revision]);
        space.set(REG_CLASS, &[interface, subclass, base]);
        space.set(REG_SUBSYSTEM_VENDOR, &id.subsystem_vendor.to_le_bytes());
        space.set(REG_SUBSYSTEM, &id.subsystem.to_le_bytes());
        let command = PciCommand::MEMORY | PciCommand::BUS_MASTER | PciCommand::INTX_DISABLE;
        space.allow(REG_COMMAND, &command.bits().to_le_bytes());
        space.allow(REG_INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Looks whether the invariants hold that can be seen from outside.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let is_aligned = |index: u8| match (self.bar_bytes(index), self.bar_address(index)) {
            (Some(bytes), Some(base)) => base & bytes.wrapping_sub(1) == 0,
            _ => true,
        };
        rule((0..BARS as u8).all(is_aligned), "a BAR is aligned as its size asks")?;
        let next = |at: u8| self.bytes.get(usize::from(at)).copied().filter(|at| *at != 0);
        let mut capability = next(REG_CAPABILITIES);
        // Each has two bytes at least.
        for _ in 0..CONFIG_BYTES / 2 {
            let Some(at) = capability else { break };
            rule(at >= HEADER_BYTES, "capabilities lie behind the header")?;
            capability = next(at.wrapping_add(1));
        }
        rule(capability.is_none(), "the list of capabilities ends")?;
        let status = self.bytes.get(usize::from(REG_STATUS)).copied().unwrap_or(0);
        rule(status & STATUS_INTERRUPT == 0, "a wish to interrupt is no state")
    }

    /// Adds a memory BAR of `bytes` bytes, a power of two from 16 on.
    ///
    /// # Errors
    /// `EINVAL`: the BAR does not exist, is taken, or the size is none.
    pub(crate) fn add_bar(&mut self, index: u8, kind: BarKind, bytes: u32) -> Result {
        let last = if kind == BarKind::Memory64 { index.wrapping_add(1) } else { index };
        let taken = |i: u8| self.bars.get(usize::from(i)).is_none_or(Option::is_some);
        let upper_half = index
            .checked_sub(1)
            .and_then(|i| self.bars.get(usize::from(i)))
            .is_some_and(|b| b.is_some_and(|b| b.kind == BarKind::Memory64));
        if taken(index) || taken(last) || upper_half || !bytes.is_power_of_two() || bytes < 16 {
            return Err(EINVAL);
        }
        if let Some(bar) = self.bars.get_mut(usize::from(index)) {
            *bar = Some(BarShape { kind, bytes: u64::from(bytes) });
        }
        let register = bar_register(index);
        self.allow(register, &bytes.wrapping_neg().to_le_bytes());
        if kind == BarKind::Memory64 {
            self.set(register, &[0b100]);
            self.allow(register.wrapping_add(4), &[0xff; 4]);
        }
        Ok(())
    }

    /// Appends a capability: `body` are its bytes after the id and the link, `writable` the bits
    /// in them that the guest may write. Returns the capability's offset.
    ///
    /// # Errors
    /// `ENOSPC`: no room is left.
    pub(crate) fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8> {
        let at = self.next_capability;
        let end = usize::from(at).saturating_add(2).saturating_add(body.len());
        // The next capability starts on a doubleword; 0xfc is the last that can be linked.
        let next = end.saturating_add(3) & !3;
        // The next offset after a space that is full is 0.
        if at < HEADER_BYTES || end > CONFIG_BYTES {
            return Err(ENOSPC);
        }
        self.set(at, &[id, 0]);
        self.set(at.wrapping_add(2), body);
        self.allow(at.wrapping_add(2), writable);
        self.set(self.last_link, &[at]);
        self.set(REG_STATUS, &[STATUS_CAPABILITIES]);
        self.last_link = at.wrapping_add(1);
        self.next_capability = u8::try_from(next).unwrap_or(0);
        Ok(at)
    }

    /// Adds the MSI-X capability. Returns its offset.
    ///
    /// # Errors
    /// `EINVAL`: no vector or more than 2048. `ENOSPC`: no room is left.
    pub(crate) fn add_msix(&mut self, layout: &MsixLayout) -> Result<u8> {
        let last = layout.vectors.checked_sub(1).filter(|last| *last < 2048).ok_or(EINVAL)?;
        let [c0, c1] = last.to_le_bytes();
        let [t0, t1, t2, t3] = (layout.table & !7 | u32::from(layout.table_bar & 7)).to_le_bytes();
        let [p0, p1, p2, p3] = (layout.pending & !7 | u32::from(layout.pending_bar & 7)).to_le_bytes();
        let at = self.add_capability(
            CAP_MSIX,
            &[c0, c1, t0, t1, t2, t3, p0, p1, p2, p3],
            &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes(),
        )?;
        self.msix = Some(at);
        Ok(at)
    }

    /// Reads a register. Bytes beyond the space read as ones, as does a 64-bit access.
    pub(crate) fn read(&self, register: u8, width: AccessWidth) -> u32 {
        if width == AccessWidth::B8 {
            return u32::MAX;
        }
        let mut value = [0xff; 4];
        let from = self.bytes.iter().skip(usize::from(register)).take(width.bytes());
        for (to, from) in value.iter_mut().zip(from) {
            *to = *from;
        }
        u32::from_le_bytes(value) & narrow(width)
    }

    /// Writes a register, as far as its bits can be written. Returns what was fallen upon.
    pub(crate) fn write(&mut self, register: u8, width: AccessWidth, value: u32) -> TouchedRegs {
        if width == AccessWidth::B8 {
            return TouchedRegs::empty();
        }
        let at = usize::from(register);
        let bytes = self.bytes.iter_mut().skip(at).zip(self.writable.iter().skip(at));
        for ((byte, mask), new) in bytes.zip(value.to_le_bytes()).take(width.bytes()) {
            *byte = (*byte & !mask) | (new & mask);
        }
        self.touched(register, width)
    }

    /// Puts every bit that the guest can write back to 0: BARs, decoding, MSI-X.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        for (byte, mask) in self.bytes.iter_mut().zip(self.writable.iter()) {
            *byte &= !mask;
        }
    }

    /// Says that the function has the pin INTA#, and as firmware would, which interrupt that is.
    pub(super) fn wire_intx(&mut self, gsi: u32) {
        self.set(REG_INTERRUPT_PIN, &[1]);
        self.set(REG_INTERRUPT_LINE, &[(gsi & 0xff) as u8]);
    }

    /// Says whether the function wants to interrupt by its pin.
    pub(crate) fn set_interrupt_status(&mut self, is_wanted: bool) {
        if let Some(status) = self.bytes.get_mut(usize::from(REG_STATUS)) {
            *status = (*status & !STATUS_INTERRUPT) | if is_wanted { STATUS_INTERRUPT } else { 0 };
        }
    }

    /// Returns the command register.
    pub(crate) fn command(&self) -> PciCommand {
        PciCommand::from_bits_truncate(self.half(REG_COMMAND))
    }

    /// Returns the MSI-X message control; all off if the function has no MSI-X.
    pub(crate) fn msix_control(&self) -> MsixControl {
        let control = self.msix.map_or(0, |at| self.half(at.wrapping_add(MSIX_CONTROL)));
        MsixControl { enabled: control & MSIX_ENABLE != 0, masked: control & MSIX_MASK_ALL != 0 }
    }

    /// Returns what a BAR claims now: nothing while memory decoding is off or its address is 0.
    pub(crate) fn bar(&self, index: u8) -> Option<BarRange> {
        let base = self.bar_address(index)?;
        let bytes = self.bar_bytes(index)?;
        let active = self.command().contains(PciCommand::MEMORY) && base != 0;
        (active && base.checked_add(bytes).is_some()).then_some(BarRange { base: Gpa(base), bytes })
    }

    /// Returns the size of a BAR in bytes, or `None` if the function does not have it.
    pub(crate) fn bar_bytes(&self, index: u8) -> Option<u64> {
        self.bars.get(usize::from(index))?.map(|bar| bar.bytes)
    }

    /// Programs a BAR's address, as firmware would. An address above 4 GiB needs a 64-bit BAR.
    pub(super) fn set_bar(&mut self, index: u8, base: u64) {
        let [b0, b1, b2, b3, b4, b5, b6, b7] = base.to_le_bytes();
        let register = bar_register(index);
        self.write(register, AccessWidth::B4, u32::from_le_bytes([b0, b1, b2, b3]));
        if self.bars.get(usize::from(index)).is_some_and(|b| b.is_some_and(|b| b.kind == BarKind::Memory64)) {
            self.write(register.wrapping_add(4), AccessWidth::B4, u32::from_le_bytes([b4, b5, b6, b7]));
        }
    }

    fn bar_address(&self, index: u8) -> Option<u64> {
        let bar = (*self.bars.get(usize::from(index))?)?;
        let register = bar_register(index);
        let low = u64::from(self.read(register, AccessWidth::B4) & !0xf);
        Some(match bar.kind {
            BarKind::Memory32 => low,
            BarKind::Memory64 => low | u64::from(self.read(register.wrapping_add(4), AccessWidth::B4)) << 32,
        })
    }

    fn touched(&self, register: u8, width: AccessWidth) -> TouchedRegs {
        let first = u16::from(register);
        let end = first.wrapping_add(width.bytes() as u16);
        let hits = |from: u8, to: u8| first < u16::from(to) && end > u16::from(from);
        let mut touched = TouchedRegs::empty();
        touched.set(TouchedRegs::DECODE, hits(REG_COMMAND, REG_STATUS) || hits(REG_BAR0, REG_BAR_END));
        let msix = self.msix.map(|at| at.wrapping_add(MSIX_CONTROL));
        touched.set(TouchedRegs::MSIX, msix.is_some_and(|at| hits(at, at.wrapping_add(2))));
        touched
    }

    fn half(&self, register: u8) -> u16 {
        (self.read(register, AccessWidth::B2) & 0xffff) as u16
    }

    fn set(&mut self, register: u8, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(usize::from(register)).zip(bytes) {
            *to = *from;
        }
    }

    fn allow(&mut self, register: u8, mask: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(usize::from(register)).zip(mask) {
            *to = *from;
        }
    }
}

state_struct! {
    /// A configuration space, all of it: what the guest cannot write has to be as this function has it.
    struct SavedConfig = 256 {
        /// The registers.
        bytes: [u8; 256],
    }
}

impl HasState for ConfigSpace {
    const SECTION: SectionId = SectionId { id: 0x20, version: 1 };
    type State = SavedConfig;

    fn save(&self) -> SavedConfig {
        let ConfigSpace { bytes, writable: _, bars: _, next_capability: _, last_link: _, msix: _ } = self;
        SavedConfig { bytes: *bytes }
    }

    /// The caller takes over what follows: decoding, and the control of MSI-X.
    fn set_state(&mut self, state: &SavedConfig) {
        let bytes = self.bytes.iter_mut().zip(self.writable.iter());
        for ((byte, mask), new) in bytes.zip(state.bytes) {
            *byte = (*byte & !mask) | (new & mask);
        }
    }
}

/// Returns the register of a BAR; a BAR that does not exist gives some register below 0x40.
fn bar_register(index: u8) -> u8 {
    REG_BAR0.wrapping_add((index & 7).wrapping_mul(4))
}

/// Returns the bits of a 32-bit register that an access of this width has.
pub(super) fn narrow(width: AccessWidth) -> u32 {
    (width.mask() & 0xffff_ffff) as u32
}
