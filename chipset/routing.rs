// SPDX-License-Identifier: GPL-2.0

//! From global system interrupts (GSIs) to interrupt controllers, and from MSIs to messages.
//!
//! A VM has one [`Routing`] at a time, replaced as a whole by KVM_SET_GSI_ROUTING and read without
//! change on every interrupt. Documentation of KVM's API, "KVM_SET_GSI_ROUTING"; SDM, "Message
//! Signalled Interrupts".

use super::ioapic;
use super::lapic::BROADCAST;
use super::{ApicMessage, Delivery, DestMode};
use kernel::prelude::*;

/// GSIs are below this, and a table has at most so many entries: what KVM_CAP_IRQ_ROUTING answers.
pub(crate) const MAX_ROUTES: u32 = 4096;
/// Targets that one GSI can have: both PICs and the IOAPIC.
const MAX_TARGETS: usize = 3;
/// Routing entry type of a pin of an interrupt controller.
const TYPE_IRQCHIP: u32 = 1;
/// Routing entry type of an MSI.
const TYPE_MSI: u32 = 2;

/// How wide the destination field of MSIs and IOAPIC entries is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DestFormat {
    /// 8 bits, with 0xff a broadcast.
    #[default]
    Narrow,
    /// 15 bits: bits 14:8 are in address bits 11:5, and in bits 55:49 of an IOAPIC entry. What
    /// KVM_FEATURE_MSI_EXT_DEST_ID offers to the guest.
    #[allow(dead_code, reason = "for a guest that is offered that feature; used by the tests")]
    Extended,
    /// 32 bits: bits 31:8 are in the same bits of the upper address. What
    /// KVM_X2APIC_API_USE_32BIT_IDS offers to the VMM; IOAPIC entries stay narrow.
    Wide,
}

impl DestFormat {
    /// Returns the destination of the 8-bit field and the 7 bits that may extend it.
    pub(crate) fn dest(self, low: u8, extension: u32) -> u32 {
        match (self, low) {
            (DestFormat::Extended, _) => u32::from(low) | ((extension & 0x7f) << 8),
            (_, 0xff) => BROADCAST,
            (_, _) => u32::from(low),
        }
    }
}

impl ApicMessage {
    /// Returns the message that an MSI with this address and data is, `None` if it is none: the
    /// address is not the APICs', the delivery mode is reserved, or it is a level's de-assertion.
    ///
    /// The redirection hint makes a fixed message one of lowest priority.
    pub(crate) fn from_msi(addr: u64, data: u32, format: DestFormat) -> Option<ApicMessage> {
        let low = u32::try_from(addr & 0xffff_ffff).unwrap_or(0);
        let high = u32::try_from(addr >> 32).unwrap_or(0);
        if low >> 20 != 0xfee || (format != DestFormat::Wide && high != 0) {
            return None;
        }
        let [id, ..] = (low >> 12).to_le_bytes();
        let dest = match format {
            DestFormat::Wide if high != 0 => u32::from(id) | (high & !0xff),
            _ => format.dest(id, low >> 5),
        };
        let level = data & 0x8000 != 0;
        if level && data & 0x4000 == 0 {
            return None;
        }
        let [vector, ..] = data.to_le_bytes();
        let delivery = match Delivery::from_code(u64::from(data >> 8))? {
            Delivery::Fixed if low & 8 != 0 => Delivery::LowestPriority,
            Delivery::StartUp => return None,
            other => other,
        };
        let dest_mode = DestMode::from_logical_bit(low & 4 != 0);
        Some(ApicMessage { dest, dest_mode, delivery, vector, level })
    }

    const PRESENT: u64 = 1 << 63;
    const LEVEL: u64 = 1 << 44;
    const LOGICAL: u64 = 1 << 43;

    /// Returns the message as a word other than 0, to be published in an atomic.
    pub(crate) fn pack(self) -> u64 {
        let logical = if self.dest_mode == DestMode::Logical { Self::LOGICAL } else { 0 };
        let level = if self.level { Self::LEVEL } else { 0 };
        let code = u64::from(self.vector) | self.delivery.code() << 8;
        Self::PRESENT | level | logical | code << 32 | u64::from(self.dest)
    }

    /// Returns the message that [`ApicMessage::pack`] made `word` of, if it is one.
    pub(crate) fn unpack(word: u64) -> Option<ApicMessage> {
        if word & Self::PRESENT == 0 {
            return None;
        }
        let [a, b, c, d, vector, code, ..] = word.to_le_bytes();
        Some(ApicMessage {
            dest: u32::from_le_bytes([a, b, c, d]),
            dest_mode: DestMode::from_logical_bit(word & Self::LOGICAL != 0),
            delivery: Delivery::from_code(code.into())?,
            vector,
            level: word & Self::LEVEL != 0,
        })
    }
}

/// Where a GSI goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A pin of the PIC pair, 0 to 15.
    Pic(u8),
    /// A pin of the IOAPIC, 0 to 23.
    Ioapic(u8),
    /// An MSI, sent on a rising edge: see [`ApicMessage::from_msi`].
    Msi {
        /// The address.
        addr: u64,
        /// The data.
        data: u32,
    },
}

impl Target {
    /// Returns whether two targets may share a GSI: pins of different chips.
    fn goes_with(self, other: Target) -> bool {
        match (self, other) {
            (Target::Pic(a), Target::Pic(b)) => a >> 3 != b >> 3,
            (Target::Pic(_), Target::Ioapic(_)) | (Target::Ioapic(_), Target::Pic(_)) => true,
            _ => false,
        }
    }
}

/// One entry of a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The GSI.
    pub(crate) gsi: u32,
    /// One of its targets.
    pub(crate) target: Target,
}

impl Route {
    /// Returns the route that a `kvm_irq_routing_entry` says, from its plain fields: `u` are the
    /// first three words of its union.
    ///
    /// # Errors
    /// EINVAL for an unknown type, flags, an interrupt controller or a pin that does not exist, and
    /// a GSI of [`MAX_ROUTES`] or above.
    pub(crate) fn from_entry(gsi: u32, kind: u32, flags: u32, u: [u32; 3]) -> Result<Route> {
        let [a, b, c] = u;
        // An MSI may carry a device id, which nothing here needs.
        if gsi >= MAX_ROUTES || (flags != 0 && kind != TYPE_MSI) || flags > 1 {
            return Err(EINVAL);
        }
        let pin = u8::try_from(b).unwrap_or(u8::MAX);
        let target = match (kind, a) {
            (TYPE_IRQCHIP, 0) if pin < 8 => Target::Pic(pin),
            (TYPE_IRQCHIP, 1) if pin < 8 => Target::Pic(pin | 8),
            (TYPE_IRQCHIP, 2) if usize::from(pin) < ioapic::PINS => Target::Ioapic(pin),
            (TYPE_MSI, _) => Target::Msi { addr: u64::from(a) | (u64::from(b) << 32), data: c },
            _ => return Err(EINVAL),
        };
        Ok(Route { gsi, target })
    }
}

/// The targets of one GSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    len: u8,
    targets: [Target; MAX_TARGETS],
}

impl Slot {
    const EMPTY: Slot = Slot { len: 0, targets: [Target::Pic(0); MAX_TARGETS] };

    fn targets(&self) -> &[Target] {
        self.targets.get(..usize::from(self.len)).unwrap_or(&[])
    }

    fn add(&mut self, target: Target) -> Result<()> {
        if !self.targets().iter().all(|&t| t.goes_with(target)) {
            return Err(EINVAL);
        }
        *self.targets.get_mut(usize::from(self.len)).ok_or(EINVAL)? = target;
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

/// The routing table of a VM. An empty one routes nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Routing {
    /// Indexed by GSI, up to the highest in use.
    slots: KVVec<Slot>,
}

impl Routing {
    /// Returns the table of `routes`, in any order.
    ///
    /// # Errors
    /// EINVAL where a GSI is out of range, has more than one MSI, an MSI and a pin, or two pins of
    /// the same controller; ENOMEM.
    pub(crate) fn new(routes: impl Iterator<Item = Route> + Clone) -> Result<Routing> {
        let len = routes.clone().map(|r| r.gsi.saturating_add(1)).max().unwrap_or(0);
        if len > MAX_ROUTES {
            return Err(EINVAL);
        }
        let mut slots = KVVec::from_elem(Slot::EMPTY, usize::try_from(len)?, GFP_KERNEL_ACCOUNT)?;
        for Route { gsi, target } in routes {
            slots.get_mut(usize::try_from(gsi)?).ok_or(EINVAL)?.add(target)?;
        }
        Ok(Routing { slots })
    }

    /// Returns the table after KVM_CREATE_IRQCHIP, KVM's own: GSIs 0 to 15 go to the pin of the same
    /// number of both PIC pair and IOAPIC, 16 to 23 to the IOAPIC.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn identity() -> Result<Routing> {
        let pic = (0u8..16).map(|n| Route { gsi: u32::from(n), target: Target::Pic(n) });
        let ioapic = (0u8..24).map(|n| Route { gsi: u32::from(n), target: Target::Ioapic(n) });
        Routing::new(Iterator::chain(pic, ioapic))
    }

    /// Returns the table of a PC whose firmware tells of IRQ 0 at IOAPIC pin 2: as
    /// [`Routing::identity`], but GSI 0 goes to that pin and GSI 2 nowhere but to the PIC.
    ///
    /// # Errors
    /// ENOMEM.
    #[allow(dead_code, reason = "user space sets it, with KVM_SET_GSI_ROUTING; used by the tests")]
    pub(crate) fn pc() -> Result<Routing> {
        let pic = (0u8..16).map(|n| Route { gsi: u32::from(n), target: Target::Pic(n) });
        let ioapic = (0u8..24)
            .filter(|&n| n != 2)
            .map(|n| Route { gsi: u32::from(n), target: Target::Ioapic(if n == 0 { 2 } else { n }) });
        Routing::new(Iterator::chain(pic, ioapic))
    }

    /// Returns the targets of `gsi`; none where it is not in the table.
    pub(crate) fn targets(&self, gsi: u32) -> &[Target] {
        let slot = usize::try_from(gsi).ok().and_then(|i| self.slots.get(i));
        slot.map_or(&[], Slot::targets)
    }

    /// Returns the message that a rising edge of `gsi` is and all that it is, for who wants to send it without
    /// the chips; `None` where pins or nothing hear the GSI.
    pub(crate) fn message(&self, gsi: u32) -> Option<ApicMessage> {
        match *self.targets(gsi) {
            [Target::Msi { addr, data }] => ApicMessage::from_msi(addr, data, DestFormat::Narrow),
            _ => None,
        }
    }
}
