// SPDX-License-Identifier: GPL-2.0

//! PCI: configuration mechanism #1, one bus, and the configuration space of a function.
//!
//! Follows the PCI Local Bus Specification 3.0, "Configuration Mechanism #1", "Configuration Space"
//! and "MSI-X Capability and Table Structures". Not modelled: bridges and further buses, several
//! functions per device, the extended configuration space.
//!
//! | who | owns |
//! |---|---|
//! | [`PciRoot`] | the address latch of ports 0xcf8 to 0xcff, the host bridge at 00:00.0, the map of BARs |
//! | a device | its own [`ConfigSpace`] |
//!
//! The root only says which function an access is meant for; the caller then asks that function,
//! under that function's lock. When a write moves a BAR or switches decoding, the caller hands the
//! function's ranges back with [`PciRoot::update`]. No call here reads a clock or calls back.

use super::saved::{state_struct, BadState, HasState, SectionId, StateReader, StateWriter};
use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::rule::rule;
use kernel::prelude::*;

mod config;

pub(crate) use config::{
    BarKind, BarRange, ConfigSpace, MsixControl, MsixLayout, PciCommand, PciIdentity, TouchedRegs, BARS,
};

/// Device numbers of a bus, the host bridge's included.
const SLOTS: u8 = 32;
/// CONFIG_ADDRESS: bits 30 to 24 and 1 to 0 are reserved.
const ADDRESS_BITS: u32 = 0x80ff_fffc;
/// Smallest distance between BARs that the root places, so that no page holds two of them.
const BAR_ALIGN: u64 = 4096;

/// A device number on bus 0, 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PciSlot(u8);

impl PciSlot {
    /// The host bridge.
    pub(crate) const HOST_BRIDGE: PciSlot = PciSlot(0);

    /// Returns the slot of a device number, or `None` above 31.
    pub(crate) fn new(device: u8) -> Option<PciSlot> {
        (device < SLOTS).then_some(PciSlot(device))
    }

    /// Returns the device number.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Returns the bit of the device in a set of all.
    pub(crate) fn bit(self) -> u32 {
        1u32.wrapping_shl(u32::from(self.0))
    }

    /// Returns the GSI that the device's INTx pin is wired to.
    fn intx_gsi(self) -> u32 {
        let turn = (0..INTX_GSIS.len()).find(|n| wired_to(*n) & self.bit() != 0);
        turn.and_then(|n| INTX_GSIS.get(n)).copied().unwrap_or(0)
    }
}

/// An interrupt message as a function writes it: the address selects local APICs, the data the vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MsixMessage {
    /// Where the message is written.
    pub(crate) addr: u64,
    /// What is written.
    pub(crate) data: u32,
}

/// What a function that wants to interrupt asks of its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PciInterrupt {
    /// A message.
    Message(MsixMessage),
    /// To look at its INTx pin, whose level may have changed.
    Pin,
}

/// The GSIs that the INTx pins are wired to: those of a PC that no chip has. Each device has one pin, INTA#, and the
/// devices take turns.
pub(crate) const INTX_GSIS: [u32; 3] = [11, 5, 10];

/// Returns the devices whose pin is wired to the same GSI, the n-th of [`INTX_GSIS`], a bit each.
pub(crate) fn wired_to(n: usize) -> u32 {
    // Every third bit.
    0x4924_9249u32.rotate_left(n as u32) & 0xffff_fffe
}

/// Where an access to the configuration ports goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConfigAccess {
    /// The root answered it: this is the value of a read; a write is done.
    Done(u32),
    /// The function in `slot` has to be asked for `register`, with the access's width and value.
    Function {
        /// Which function; it was added with [`PciRoot::add`].
        slot: PciSlot,
        /// First register of the access.
        register: u8,
    },
}

/// What an address hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BarHit {
    /// The function.
    pub(crate) slot: PciSlot,
    /// Its BAR.
    pub(crate) bar: u8,
    /// Offset in the BAR.
    pub(crate) offset: u64,
}

#[derive(Clone, Copy, Debug)]
struct BarMapping {
    slot: PciSlot,
    bar: u8,
    /// Where the root placed the BAR.
    home: u64,
    /// What the BAR claims now; sorted by its base, the inactive ones last.
    active: Option<BarRange>,
}

impl BarMapping {
    fn key(&self) -> u64 {
        self.active.map_or(u64::MAX, |range| range.base.0)
    }

    /// Returns what the map is sorted by: which of two BARs with one base wins must not depend on who came first.
    fn order(&self) -> (u64, PciSlot, u8) {
        (self.key(), self.slot, self.bar)
    }
}

/// The root of bus 0: configuration ports, host bridge, and the map from addresses to BARs.
#[derive(Debug)]
pub(crate) struct PciRoot {
    address: u32,
    bridge: ConfigSpace,
    /// Bit n: slot n has a function.
    occupied: u32,
    map: KVec<BarMapping>,
    window_next: u64,
    window_end: u64,
}

impl PciRoot {
    /// Returns a root whose functions get their BARs in `bytes` bytes from `base` on.
    pub(crate) fn new(base: u64, bytes: u64) -> PciRoot {
        PciRoot {
            address: 0,
            bridge: ConfigSpace::new(&PciIdentity {
                vendor: 0x8086,
                device: 0x1237,
                class: 0x06_00_00,
                revision: 2,
                subsystem_vendor: 0,
                subsystem: 0,
            }),
            occupied: PciSlot::HOST_BRIDGE.bit(),
            map: KVec::new(),
            window_next: base,
            window_end: base.saturating_add(bytes),
        }
    }

    /// Plugs in a function before the guest runs, in `slot` or in the next free one, and places its
    /// BARs in the window as firmware would; decoding stays off. Returns the slot.
    ///
    /// # Errors
    /// `EEXIST`: the slot is taken. `ENOSPC`: no slot or no room in the window. `ENOMEM`.
    pub(crate) fn add(&mut self, slot: Option<PciSlot>, config: &mut ConfigSpace) -> Result<PciSlot> {
        let slot = match slot {
            Some(slot) if self.occupied & slot.bit() != 0 => return Err(EEXIST),
            Some(slot) => slot,
            None => (0..SLOTS).map(PciSlot).find(|s| self.occupied & s.bit() == 0).ok_or(ENOSPC)?,
        };
        // Atomic: the caller holds the function's lock and the root's.
        let mut map = KVec::with_capacity(self.map.len().saturating_add(BARS), GFP_ATOMIC)?;
        for old in self.map.iter() {
            map.push_within_capacity(*old)?;
        }
        let mut next = self.window_next;
        // Once to see whether all of them fit, so that an error leaves the root as it was; then in earnest.
        for bar in 0..BARS as u8 {
            let Some(bytes) = config.bar_bytes(bar) else { continue };
            let home = align_up(next, bytes.max(BAR_ALIGN)).ok_or(ENOSPC)?;
            next = home.checked_add(bytes).filter(|end| *end <= self.window_end).ok_or(ENOSPC)?;
        }
        for bar in 0..BARS as u8 {
            let Some(bytes) = config.bar_bytes(bar) else { continue };
            let home = align_up(self.window_next, bytes.max(BAR_ALIGN)).ok_or(ENOSPC)?;
            self.window_next = home.saturating_add(bytes);
            map.push_within_capacity(BarMapping { slot, bar, home, active: None })?;
        }
        self.map = map;
        self.occupied |= slot.bit();
        self.place(slot, config);
        Ok(slot)
    }

    /// Resets a function's configuration space and gives it its first addresses again.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset_function(&mut self, slot: PciSlot, config: &mut ConfigSpace) {
        config.reset();
        self.place(slot, config);
    }

    /// Resets the root itself; the functions are the caller's.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        self.address = 0;
        self.bridge.reset();
    }

    fn place(&mut self, slot: PciSlot, config: &mut ConfigSpace) {
        config.wire_intx(slot.intx_gsi());
        for mapping in self.map.iter().filter(|m| m.slot == slot) {
            config.set_bar(mapping.bar, mapping.home);
        }
        self.update(slot, config);
    }

    /// Looks whether the map is sorted, and of functions that are there.
    ///
    /// # Errors
    /// The name of what does not hold.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let sorted = self.map.windows(2).all(|two| matches!(two, [a, b] if a.order() <= b.order()));
        rule(sorted, "the map of BARs is sorted")?;
        let known = self.map.iter().all(|mapping| self.occupied & mapping.slot.bit() != 0);
        rule(known, "BARs are of functions that are there")
    }

    /// Takes over what a function's BARs claim, after a write that touched [`TouchedRegs::DECODE`].
    pub(crate) fn update(&mut self, slot: PciSlot, config: &ConfigSpace) {
        for mapping in self.map.iter_mut().filter(|m| m.slot == slot) {
            mapping.active = config.bar(mapping.bar);
        }
        sort(&mut self.map);
        debug_assert_eq!(self.check(), Ok(()));
    }

    /// Returns the BAR at an address. Of overlapping BARs the one with the highest base wins, and of those the one with the
    /// highest slot.
    ///
    /// A guest can place a BAR anywhere, so RAM, LAPIC and IOAPIC have to be matched before.
    pub(crate) fn decode(&self, gpa: Gpa) -> Option<BarHit> {
        let mapping = last_at_or_below(&self.map, gpa.0)?;
        let range = mapping.active?;
        let offset = gpa.0.checked_sub(range.base.0).filter(|offset| *offset < range.bytes)?;
        Some(BarHit { slot: mapping.slot, bar: mapping.bar, offset })
    }

    /// Reads a port, `offset` from 0xcf8, CONFIG_ADDRESS.
    pub(crate) fn read(&self, offset: u16, width: AccessWidth) -> ConfigAccess {
        // PCI, "Configuration Mechanism #1": only whole doublewords reach CONFIG_ADDRESS; bytes among them are other
        // ports, as the reset register at 0xcf9.
        if offset == 0 && width == AccessWidth::B4 {
            return ConfigAccess::Done(self.address);
        }
        match self.target(offset, width) {
            Some((PciSlot::HOST_BRIDGE, register)) => ConfigAccess::Done(self.bridge.read(register, width)),
            Some((slot, register)) => ConfigAccess::Function { slot, register },
            None => ConfigAccess::Done(config::narrow(width)),
        }
    }

    /// Writes a port, `offset` from 0xcf8, CONFIG_ADDRESS.
    pub(crate) fn write(&mut self, offset: u16, width: AccessWidth, value: u32) -> ConfigAccess {
        if offset == 0 && width == AccessWidth::B4 {
            self.address = value & ADDRESS_BITS;
            return ConfigAccess::Done(0);
        }
        match self.target(offset, width) {
            Some((PciSlot::HOST_BRIDGE, register)) => {
                self.bridge.write(register, width, value);
                ConfigAccess::Done(0)
            }
            Some((slot, register)) => ConfigAccess::Function { slot, register },
            None => ConfigAccess::Done(0),
        }
    }

    /// Returns the function and register that an access to the data port means, if there is one.
    fn target(&self, offset: u16, width: AccessWidth) -> Option<(PciSlot, u8)> {
        let byte = offset.checked_sub(4)?;
        let in_window = usize::from(byte).saturating_add(width.bytes()) <= 4;
        let [register, function, bus, flags] = self.address.to_le_bytes();
        let slot = PciSlot(function >> 3);
        let exists = flags & 0x80 != 0 && bus == 0 && function & 7 == 0 && self.occupied & slot.bit() != 0;
        (in_window && exists).then_some((slot, register | (byte & 3) as u8))
    }
}

state_struct! {
    /// The root's own state.
    struct SavedPciRoot = 4 {
        /// CONFIG_ADDRESS.
        address: u32,
    }
}

impl HasState for PciRoot {
    const SECTION: SectionId = SectionId { id: 0x21, version: 1 };
    type State = SavedPciRoot;

    fn save(&self) -> SavedPciRoot {
        // Where BARs decode follows from the functions, which are saved by themselves.
        let PciRoot { address, bridge: _, occupied: _, map: _, window_next: _, window_end: _ } = self;
        SavedPciRoot { address: *address }
    }

    fn set_state(&mut self, state: &SavedPciRoot) {
        self.address = state.address & ADDRESS_BITS;
    }
}

impl PciRoot {
    /// Writes the state of the root and of the host bridge; the functions are the caller's.
    pub(crate) fn save_root(&self, out: &mut StateWriter) {
        out.put(0, self);
        out.put(0, &self.bridge);
    }

    /// Takes that over.
    ///
    /// # Errors
    /// As [`BadState`].
    pub(crate) fn restore_root(&mut self, from: &mut StateReader<'_>) -> Result<(), BadState> {
        from.get(0, self)?;
        from.get(0, &mut self.bridge)
    }
}

/// Returns the next multiple of `align`, a power of two, or `None` past the end of the space.
fn align_up(value: u64, align: u64) -> Option<u64> {
    let mask = align.wrapping_sub(1);
    value.checked_add(mask).map(|v| v & !mask)
}

/// Sorts by the active base. The map is short and nearly sorted, so insertion does.
fn sort(map: &mut [BarMapping]) {
    for sorted in 1..map.len() {
        for i in (0..sorted).rev() {
            let Some([a, b, ..]) = map.get_mut(i..) else { break };
            if a.order() <= b.order() {
                break;
            }
            core::mem::swap(a, b);
        }
    }
}

/// Returns the last mapping whose base is not above `base`, by bisection.
fn last_at_or_below(map: &[BarMapping], base: u64) -> Option<&BarMapping> {
    let (mut found, mut rest) = (None, map);
    while let Some((left, [middle, right @ ..])) = rest.split_at_checked(rest.len() >> 1) {
        if middle.key() <= base {
            found = Some(middle);
            rest = right;
        } else {
            rest = left;
        }
    }
    found
}
