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
            self.read_reg_select,
            self.poll,
            self.special_mask,
            self.init_state,
            self.auto_eoi,
            self.rotate_on_auto_eoi,
            self.special_fully_nested_mode,
            self.init4,
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
            read_reg_select: u8::from(read_isr != 0),
            poll: u8::from(poll != 0),
            special_mask: u8::from(smm != 0),
            init_state,
            auto_eoi: u8::from(auto_eoi != 0),
            rotate_on_auto_eoi: u8::from(rotate_on_auto_eoi != 0),
            special_fully_nested_mode: u8::from(sfnm != 0),
            init4: u8::from(init4 != 0),
            elcr,
            elcr_mask,
            single: 0,
            ended: 0,
        }
    }
}
