// SPDX-License-Identifier: GPL-2.0

//! The state of a chip in the layout of KVM's `struct kvm_pic_state`.

use super::SavedPicChip;

impl SavedPicChip {
    /// Returns the sixteen bytes of the structure. `single` and `ended` have no place in it.
    pub(crate) fn to_kvm(self) -> [u8; 16] {
        [
            self.last_irr,
            self.irr,
            self.imr,
            self.isr,
            self.priority_add,
            self.irq_base,
            u8::from(self.read_reg_select),
            u8::from(self.poll),
            u8::from(self.special_mask),
            self.init_state,
            u8::from(self.auto_eoi),
            u8::from(self.rotate_on_auto_eoi),
            u8::from(self.special_fully_nested_mode),
            u8::from(self.init4),
            self.elcr,
            self.elcr_mask,
        ]
    }

    /// Reads the sixteen bytes of the structure.
    pub(crate) fn from_kvm(raw: [u8; 16]) -> SavedPicChip {
        let [last_irr, irr, imr, isr, priority_add, irq_base, read_isr, poll, smm, init_state, rest @ ..] =
            raw;
        let [auto_eoi, rotate_on_auto_eoi, sfnm, init4, elcr, elcr_mask] = rest;
        SavedPicChip {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_reg_select: read_isr != 0,
            poll: poll != 0,
            special_mask: smm != 0,
            init_state,
            auto_eoi: auto_eoi != 0,
            rotate_on_auto_eoi: rotate_on_auto_eoi != 0,
            special_fully_nested_mode: sfnm != 0,
            init4: init4 != 0,
            elcr,
            elcr_mask,
            single: false,
            ended: 0,
        }
    }
}
