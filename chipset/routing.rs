// SPDX-License-Identifier: GPL-2.0

//! From global system interrupts (GSIs) to interrupt controllers, and from MSIs to messages.
//!
//! A VM has one [`GsiRouting`] at a time, replaced as a whole by KVM_SET_GSI_ROUTING and read without
//! change on every interrupt. Documentation of KVM's API, "KVM_SET_GSI_ROUTING"; SDM, "Message
//! Signalled Interrupts".

use super::ioapic;
use super::lapic::VecBits;
use super::message::{ApicMessage, DestFormat};
use kernel::prelude::*;

/// GSIs are below this, and a table has at most so many entries: what KVM_CAP_IRQ_ROUTING answers.
pub(crate) const MAX_ROUTES: u32 = 4096;
/// Targets that one GSI can have: both PICs and the IOAPIC.
const MAX_TARGETS: usize = 3;
/// Routing entry type of a pin of an interrupt controller.
const TYPE_IRQCHIP: u32 = 1;
/// Routing entry type of an MSI.
const TYPE_MSI: u32 = 2;
/// Routing entry type of a source of Hyper-V's synthetic interrupt controller.
const TYPE_SINT: u32 = 4;
/// Data of an MSI: level triggered.
const MSI_LEVEL: u32 = 1 << 15;

/// Where a GSI goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GsiTarget {
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
    /// A source of a synthetic interrupt controller, raised from outside alone: no chip of ours drives it.
    Sint {
        /// The virtual processor's number.
        vp_index: u32,
        /// The source.
        sint: u32,
    },
}

impl GsiTarget {
    /// Returns whether two targets may share a GSI: pins of different chips.
    fn goes_with(self, other: GsiTarget) -> bool {
        match (self, other) {
            (GsiTarget::Pic(a), GsiTarget::Pic(b)) => a >> 3 != b >> 3,
            (GsiTarget::Pic(_), GsiTarget::Ioapic(_)) | (GsiTarget::Ioapic(_), GsiTarget::Pic(_)) => true,
            _ => false,
        }
    }
}

/// One entry of a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GsiRoute {
    /// The GSI.
    pub(crate) gsi: u32,
    /// One of its targets.
    pub(crate) target: GsiTarget,
}

impl GsiRoute {
    /// Returns the route that a `kvm_irq_routing_entry` says, from its plain fields: `u` are the
    /// first three words of its union.
    ///
    /// # Errors
    /// EINVAL for an unknown type, flags, an interrupt controller or a pin that does not exist, and
    /// a GSI of [`MAX_ROUTES`] or above.
    pub(crate) fn from_entry(gsi: u32, kind: u32, flags: u32, u: [u32; 3]) -> Result<GsiRoute> {
        let [a, b, c] = u;
        // An MSI may carry a device id, which nothing here needs.
        if gsi >= MAX_ROUTES || (flags != 0 && kind != TYPE_MSI) || flags > 1 {
            return Err(EINVAL);
        }
        let pin = u8::try_from(b).unwrap_or(u8::MAX);
        let target = match (kind, a) {
            (TYPE_IRQCHIP, 0) if pin < 8 => GsiTarget::Pic(pin),
            (TYPE_IRQCHIP, 1) if pin < 8 => GsiTarget::Pic(pin | 8),
            (TYPE_IRQCHIP, 2) if usize::from(pin) < ioapic::PINS => GsiTarget::Ioapic(pin),
            (TYPE_SINT, _) => GsiTarget::Sint { vp_index: a, sint: b },
            (TYPE_MSI, _) => GsiTarget::Msi { addr: u64::from(a) | (u64::from(b) << 32), data: c },
            _ => return Err(EINVAL),
        };
        Ok(GsiRoute { gsi, target })
    }
}

/// The targets of one GSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TargetList {
    len: u8,
    targets: [GsiTarget; MAX_TARGETS],
}

impl TargetList {
    const EMPTY: TargetList = TargetList { len: 0, targets: [GsiTarget::Pic(0); MAX_TARGETS] };

    fn targets(&self) -> &[GsiTarget] {
        self.targets.get(..usize::from(self.len)).unwrap_or(&[])
    }

    fn add(&mut self, target: GsiTarget) -> Result<()> {
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
pub(crate) struct GsiRouting {
    /// Indexed by GSI, up to the highest in use.
    slots: KVVec<TargetList>,
    /// The level-triggered vectors of I/O APICs in user space, which are told of their ends.
    user_vectors: VecBits,
}

impl GsiRouting {
    /// Returns the table of `routes`, in any order.
    ///
    /// # Errors
    /// EINVAL where a GSI is out of range, has more than one MSI, an MSI and a pin, or two pins of
    /// the same controller; ENOMEM.
    pub(crate) fn new(routes: impl Iterator<Item = GsiRoute> + Clone) -> Result<GsiRouting> {
        let len = routes.clone().map(|r| r.gsi.saturating_add(1)).max().unwrap_or(0);
        if len > MAX_ROUTES {
            return Err(EINVAL);
        }
        let mut slots = KVVec::from_elem(TargetList::EMPTY, usize::try_from(len)?, GFP_KERNEL_ACCOUNT)?;
        for GsiRoute { gsi, target } in routes {
            slots.get_mut(usize::try_from(gsi)?).ok_or(EINVAL)?.add(target)?;
        }
        Ok(GsiRouting { slots, user_vectors: VecBits::default() })
    }

    /// Returns the table after KVM_CREATE_IRQCHIP, KVM's own: GSIs 0 to 15 go to the pin of the same
    /// number of both PIC pair and IOAPIC, 16 to 23 to the IOAPIC.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) fn identity() -> Result<GsiRouting> {
        let pic = (0u8..16).map(|n| GsiRoute { gsi: u32::from(n), target: GsiTarget::Pic(n) });
        let ioapic = (0u8..24).map(|n| GsiRoute { gsi: u32::from(n), target: GsiTarget::Ioapic(n) });
        GsiRouting::new(Iterator::chain(pic, ioapic))
    }

    /// Returns the table of a PC whose firmware tells of IRQ 0 at IOAPIC pin 2: as
    /// [`GsiRouting::identity`], but GSI 0 goes to that pin and GSI 2 nowhere but to the PIC.
    ///
    /// # Errors
    /// ENOMEM.
    #[allow(dead_code, reason = "user space sets it, with KVM_SET_GSI_ROUTING; used by the tests")]
    pub(crate) fn pc() -> Result<GsiRouting> {
        let pic = (0u8..16).map(|n| GsiRoute { gsi: u32::from(n), target: GsiTarget::Pic(n) });
        let ioapic = (0u8..24)
            .filter(|&n| n != 2)
            .map(|n| GsiRoute { gsi: u32::from(n), target: GsiTarget::Ioapic(if n == 0 { 2 } else { n }) });
        GsiRouting::new(Iterator::chain(pic, ioapic))
    }

    /// Takes the GSIs below `pins` for pins of I/O APICs in user space: a level-triggered message of theirs waits for
    /// its end, [`GsiRouting::is_for_user`].
    pub(crate) fn reserve_pins(&mut self, pins: u32) {
        self.user_vectors = VecBits::default();
        for gsi in 0..pins.min(MAX_ROUTES) {
            // As KVM: what counts is the trigger mode of the data, whatever else the message is.
            if let [GsiTarget::Msi { data, .. }] = *self.targets(gsi) {
                let [vector, ..] = data.to_le_bytes();
                if data & MSI_LEVEL != 0 {
                    self.user_vectors.set(vector);
                }
            }
        }
    }

    /// Returns whether an I/O APIC in user space waits for the ends of `vector`.
    pub(crate) fn is_for_user(&self, vector: u8) -> bool {
        self.user_vectors.has(vector)
    }

    /// Returns the targets of `gsi`; none where it is not in the table.
    pub(crate) fn targets(&self, gsi: u32) -> &[GsiTarget] {
        let slot = usize::try_from(gsi).ok().and_then(|i| self.slots.get(i));
        slot.map_or(&[], TargetList::targets)
    }

    /// Returns the virtual processor and the source that a rising edge of `gsi` raises, and nothing else.
    pub(crate) fn sint(&self, gsi: u32) -> Option<(u32, u32)> {
        match *self.targets(gsi) {
            [GsiTarget::Sint { vp_index, sint }] => Some((vp_index, sint)),
            _ => None,
        }
    }

    /// Returns the message that a rising edge of `gsi` is and all that it is, for who wants to send it without
    /// the chips; `None` where pins or nothing hear the GSI.
    pub(crate) fn message(&self, gsi: u32, format: DestFormat) -> Option<ApicMessage> {
        match *self.targets(gsi) {
            [GsiTarget::Msi { addr, data }] => ApicMessage::from_msi(addr, data, format),
            _ => None,
        }
    }
}
