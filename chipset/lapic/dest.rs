// SPDX-License-Identifier: GPL-2.0

//! Who gets an interrupt message: destinations, shorthands and the ICR.
//!
//! SDM, "Determining IPI Destination", "Interrupt Command Register (ICR)" and "Logical Destination
//! Mode in x2APIC Mode".
//!
//! A vCPU's local APIC belongs to that vCPU's thread. What senders need of it is an
//! [`ApicIdentity`], which fits 64 bits: it is published in an atomic and read without a lock.
//!
//! A destination of all ones is a broadcast in either mode. Senders with 8-bit destinations have
//! 0xff turned into [`BROADCAST`] when their message is made, so that it reaches local APICs in
//! x2APIC mode as well, as KVM does it for MSIs and IOAPIC pins.

use crate::chipset::message::{ApicMessage, DeliveryMode, DestMode, BROADCAST};

/// The 8-bit broadcast, as xAPIC targets understand it.
const XAPIC_BROADCAST: u32 = 0xff;
/// Lower half of ICR in x2APIC mode: all but the delivery status and the reserved bits.
pub(super) const ICR_WRITABLE: u64 = 0x000c_cfff;
/// Delivery status, in ICR and LVT: always reads idle, a write of it is ignored.
pub(super) const DELIVERY_STATUS: u32 = 1 << 12;

/// The mode of a local APIC, from IA32_APIC_BASE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApicMode {
    /// Globally disabled.
    Disabled,
    /// Registers in memory, 8-bit ids.
    Xapic,
    /// Registers in MSRs, 32-bit ids.
    X2apic,
}

impl ApicMode {
    /// Returns the bits that ICR can hold.
    pub(super) fn icr_bits(self) -> u64 {
        match self {
            ApicMode::X2apic => !0xffff_ffff | ICR_WRITABLE,
            ApicMode::Disabled | ApicMode::Xapic => 0xff00_0000_ffff_ffff & !u64::from(DELIVERY_STATUS),
        }
    }
}

/// What a sender must know of a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApicIdentity {
    /// The APIC id, all 32 bits of it in either mode.
    pub(crate) apic_id: u32,
    /// The xAPIC logical id: bits 31:24 of LDR. 0 in x2APIC mode, where it follows from `apic_id`.
    pub(crate) logical: u8,
    /// The xAPIC destination model: flat rather than cluster.
    pub(crate) flat: bool,
    /// The mode; a disabled one takes no message at all.
    pub(crate) mode: ApicMode,
    /// Enabled by software (SVR bit 8): takes fixed and lowest-priority interrupts.
    pub(crate) software_enabled: bool,
}

impl ApicIdentity {
    const FLAT: u64 = 1 << 40;
    const XAPIC: u64 = 1 << 41;
    const X2APIC: u64 = 1 << 42;
    const SOFTWARE: u64 = 1 << 43;

    /// Returns the identity as one word, to be published in an atomic.
    pub(crate) fn pack(self) -> u64 {
        let mode = match self.mode {
            ApicMode::Disabled => 0,
            ApicMode::Xapic => Self::XAPIC,
            ApicMode::X2apic => Self::X2APIC,
        };
        let flat = if self.flat { Self::FLAT } else { 0 };
        let software = if self.software_enabled { Self::SOFTWARE } else { 0 };
        u64::from(self.apic_id) | (u64::from(self.logical) << 32) | flat | mode | software
    }

    /// Returns the identity that [`ApicIdentity::pack`] made `word` of; 0 is a disabled one.
    pub(crate) fn unpack(word: u64) -> ApicIdentity {
        let [a, b, c, d, logical, ..] = word.to_le_bytes();
        ApicIdentity {
            apic_id: u32::from_le_bytes([a, b, c, d]),
            logical,
            flat: word & Self::FLAT != 0,
            mode: if word & Self::X2APIC != 0 {
                ApicMode::X2apic
            } else if word & Self::XAPIC != 0 {
                ApicMode::Xapic
            } else {
                ApicMode::Disabled
            },
            software_enabled: word & Self::SOFTWARE != 0,
        }
    }

    /// Returns LDR in x2APIC mode: the cluster in the high half, one bit of 16 in the low half.
    pub(crate) fn x2apic_ldr(apic_id: u32) -> u32 {
        ((apic_id >> 4) << 16) | 1u32.wrapping_shl(apic_id & 15)
    }

    /// Returns whether the local APIC takes messages of this delivery mode at all. SDM, "Local APIC State After It
    /// Has Been Software Disabled".
    pub(crate) fn takes(&self, delivery: DeliveryMode) -> bool {
        match delivery {
            _ if self.mode == ApicMode::Disabled => false,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.software_enabled,
            _ => true,
        }
    }

    fn matches_logical(&self, dest: u32) -> bool {
        if self.mode == ApicMode::X2apic {
            let ldr = ApicIdentity::x2apic_ldr(self.apic_id);
            return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff != 0;
        }
        let logical = u32::from(self.logical);
        // A wider destination names no 8-bit id; cut down to 8 bits it would hit a stranger.
        if dest > 0xff {
            false
        } else if self.flat {
            logical & dest != 0
        } else {
            logical >> 4 == dest >> 4 && logical & dest & 0xf != 0
        }
    }
}

/// Returns whether `msg` names `target` as a destination, and `target` takes such messages.
///
/// For [`DeliveryMode::LowestPriority`] all that match are candidates of which one is to be chosen.
pub(crate) fn matches(msg: &ApicMessage, target: &ApicIdentity) -> bool {
    let broadcast = msg.dest == BROADCAST || (target.mode == ApicMode::Xapic && msg.dest == XAPIC_BROADCAST);
    target.takes(msg.delivery)
        && match msg.dest_mode {
            _ if broadcast => true,
            DestMode::Physical => msg.dest == target.apic_id,
            DestMode::Logical => target.matches_logical(msg.dest),
        }
}

impl ApicMessage {
    /// Returns the one APIC id that the message goes to, where that can be told without looking at
    /// the local APICs: the fast path of nearly every interrupt.
    pub(crate) fn unicast(&self) -> Option<u32> {
        // 0xff is an id in x2APIC mode and everyone in xAPIC mode: only the targets can tell.
        let one =
            self.dest_mode == DestMode::Physical && self.dest != BROADCAST && self.dest != XAPIC_BROADCAST;
        one.then_some(self.dest)
    }
}

/// The destination shorthands of the ICR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcrShorthand {
    /// None: the destination field counts.
    None,
    /// The sender alone.
    Itself,
    /// Everyone, the sender too.
    All,
    /// Everyone but the sender.
    Others,
}

/// An interprocessor interrupt to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ipi {
    /// What is sent; with a shorthand its destination means nothing.
    pub(crate) msg: ApicMessage,
    /// The shorthand.
    pub(crate) shorthand: IcrShorthand,
}

impl Ipi {
    /// Returns whether the IPI of the local APIC with id `sender` goes to `target`, as [`matches`] does.
    pub(crate) fn matches(&self, sender: u32, target: &ApicIdentity) -> bool {
        match self.shorthand {
            _ if !target.takes(self.msg.delivery) => false,
            IcrShorthand::None => matches(&self.msg, target),
            IcrShorthand::Itself => target.apic_id == sender,
            IcrShorthand::All => true,
            IcrShorthand::Others => target.apic_id != sender,
        }
    }

    /// Returns the one APIC id that the IPI goes to, where that can be told at once.
    pub(crate) fn unicast(&self) -> Option<u32> {
        match self.shorthand {
            IcrShorthand::None => self.msg.unicast(),
            _ => None,
        }
    }
}

/// What a write of the ICR asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IcrCommand {
    /// Send this.
    Send(Ipi),
    /// Nothing to be done: INIT level de-assert, or a reserved delivery mode.
    Nothing,
    /// A fixed interrupt with a vector below 16, which is an error and is not sent.
    IllegalVector,
}

impl IcrCommand {
    /// Decodes the ICR; the destination is bits 63:32 in x2APIC mode and bits 63:56 otherwise.
    ///
    /// The trigger mode counts for INIT only: an IPI is edge triggered.
    pub(super) fn from_icr(icr: u64, mode: ApicMode) -> IcrCommand {
        let [vector, ..] = icr.to_le_bytes();
        let [.., e, f, g, h] = icr.to_le_bytes();
        let dest = match (mode, h) {
            (ApicMode::X2apic, _) => u32::from_le_bytes([e, f, g, h]),
            (_, 0xff) => BROADCAST,
            (_, id) => u32::from(id),
        };
        let Some(delivery) = DeliveryMode::from_code(icr >> 8) else { return IcrCommand::Nothing };
        match delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                return IcrCommand::IllegalVector
            }
            // De-assert: trigger mode level, level 0.
            DeliveryMode::Init if icr & 0xc000 == 0x8000 => return IcrCommand::Nothing,
            // SDM, "Interrupt Command Register (ICR)": the code is reserved there.
            DeliveryMode::ExtInt => return IcrCommand::Nothing,
            _ => {}
        }
        let shorthand = match (icr >> 18) & 3 {
            0 => IcrShorthand::None,
            1 => IcrShorthand::Itself,
            2 => IcrShorthand::All,
            _ => IcrShorthand::Others,
        };
        let dest_mode = DestMode::from_logical_bit(icr & 0x800 != 0);
        IcrCommand::Send(Ipi {
            msg: ApicMessage { dest, dest_mode, delivery, vector, level: false },
            shorthand,
        })
    }
}
