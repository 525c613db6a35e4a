// SPDX-License-Identifier: GPL-2.0

//! What travels on the APIC bus, whoever sends it: MSIs, pins of the I/O APIC, interprocessor interrupts.
//!
//! SDM, "Message Signalled Interrupts" and "Interrupt Command Register (ICR)". Values only: who takes a message is
//! in [`lapic::dest`](super::lapic::dest), where a GSI goes in [`routing`](super::routing).

/// The destination that means every local APIC.
pub(crate) const BROADCAST: u32 = u32::MAX;
/// An interrupt message: what an MSI, an IOAPIC pin or an ICR write sends over the APIC bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApicMessage {
    /// Destination APIC id or logical destination.
    pub(crate) dest: u32,
    /// How `dest` is to be read.
    pub(crate) dest_mode: DestMode,
    /// What is delivered.
    pub(crate) delivery: DeliveryMode,
    /// The vector; for a SIPI the page of the start address.
    pub(crate) vector: u8,
    /// Level triggered: its EOI is broadcast to the IOAPIC.
    pub(crate) level: bool,
}

/// How a destination field selects local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DestMode {
    /// By APIC id.
    Physical,
    /// By logical id (LDR and DFR).
    Logical,
}

/// The delivery modes of the APIC bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryMode {
    /// To every destination named.
    Fixed,
    /// To the one destination of lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI.
    StartUp,
    /// As if from an external interrupt controller.
    ExtInt,
}

impl DeliveryMode {
    /// Returns the delivery mode of a three-bit code, `None` for the reserved 3. Higher bits are
    /// ignored.
    pub(crate) fn from_code(code: u64) -> Option<DeliveryMode> {
        Some(match code & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::StartUp,
            7 => DeliveryMode::ExtInt,
            _ => return None,
        })
    }

    /// Returns the code that [`DeliveryMode::from_code`] takes.
    pub(crate) fn code(self) -> u64 {
        match self {
            DeliveryMode::Fixed => 0,
            DeliveryMode::LowestPriority => 1,
            DeliveryMode::Smi => 2,
            DeliveryMode::Nmi => 4,
            DeliveryMode::Init => 5,
            DeliveryMode::StartUp => 6,
            DeliveryMode::ExtInt => 7,
        }
    }
}

impl DestMode {
    /// Returns the mode of a destination mode bit.
    pub(crate) fn from_logical_bit(logical: bool) -> DestMode {
        if logical {
            DestMode::Logical
        } else {
            DestMode::Physical
        }
    }
}

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
    /// As [`DestFormat::Narrow`], but 0xff is a broadcast to local APICs in xAPIC mode alone. What
    /// KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK offers to the VMM.
    NarrowOnly,
    /// [`DestFormat::Wide`] and [`DestFormat::NarrowOnly`] together.
    WideOnly,
}

impl DestFormat {
    /// Returns whether destinations are 32 bits wide.
    pub(crate) fn is_wide(self) -> bool {
        matches!(self, DestFormat::Wide | DestFormat::WideOnly)
    }

    /// Returns the format of an IOAPIC's entries beside it.
    pub(crate) fn narrow(self) -> DestFormat {
        match self {
            DestFormat::Wide => DestFormat::Narrow,
            DestFormat::WideOnly => DestFormat::NarrowOnly,
            format => format,
        }
    }

    /// Returns the bits of an MSI's upper address that say where it goes.
    pub(crate) fn address_bits(self) -> u64 {
        if self.is_wide() {
            0xffff_ffff_0000_0000
        } else {
            0
        }
    }

    /// Returns whether KVM takes an MSI with this address: the part of the upper half that no destination uses is 0.
    pub(crate) fn takes_address(self, addr: u64) -> bool {
        !self.is_wide() || addr >> 32 & 0xff == 0
    }

    /// Returns the destination of the 8-bit field and the 7 bits that may extend it.
    pub(crate) fn dest(self, low: u8, extension: u32) -> u32 {
        match (self, low) {
            (DestFormat::Extended, _) => u32::from(low) | ((extension & 0x7f) << 8),
            (DestFormat::NarrowOnly | DestFormat::WideOnly, _) => u32::from(low),
            (_, 0xff) => BROADCAST,
            (_, _) => u32::from(low),
        }
    }
}

impl ApicMessage {
    /// Returns the message that an MSI with this address and data is, `None` if it is none: the
    /// address is not the APICs', or the delivery mode is reserved.
    ///
    /// The redirection hint makes a fixed message one of lowest priority.
    pub(crate) fn from_msi(addr: u64, data: u32, format: DestFormat) -> Option<ApicMessage> {
        let low = u32::try_from(addr & 0xffff_ffff).unwrap_or(0);
        let high = u32::try_from(addr >> 32).unwrap_or(0);
        if low >> 20 != 0xfee || (!format.is_wide() && high != 0) {
            return None;
        }
        let [id, ..] = (low >> 12).to_le_bytes();
        let dest = match format {
            DestFormat::Wide | DestFormat::WideOnly if high != 0 => u32::from(id) | (high & !0xff),
            _ => format.dest(id, low >> 5),
        };
        // As KVM: bit 14, which says whether a level rises or falls, is not looked at. I/O APICs of user space leave it
        // clear, and a level that falls is never sent.
        let level = data & 0x8000 != 0;
        let [vector, ..] = data.to_le_bytes();
        let delivery = match DeliveryMode::from_code(u64::from(data >> 8))? {
            DeliveryMode::Fixed if low & 8 != 0 => DeliveryMode::LowestPriority,
            // SDM, "Message Data Register Format": the code is reserved there; only an ICR sends it.
            DeliveryMode::StartUp => return None,
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
            delivery: DeliveryMode::from_code(code.into())?,
            vector,
            level: word & Self::LEVEL != 0,
        })
    }
}
