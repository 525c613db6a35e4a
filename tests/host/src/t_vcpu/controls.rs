// SPDX-License-Identifier: GPL-2.0

//! What an entry is asked for: what has changed is told once, and what has not is not told.

use crate::vcpu::controls::{ControlGroups, EntryControls, EntryTpr};

#[test]
fn nothing_is_dirty_at_first() {
    let mut controls = EntryControls::new();

    assert_eq!(controls.take_dirty(), ControlGroups::empty());
}

#[test]
fn a_change_is_told_once() {
    let mut controls = EntryControls::new();
    controls.set_tsc_offset(7);
    controls.flush_tlb();

    assert_eq!(controls.take_dirty(), ControlGroups::TSC_OFFSET | ControlGroups::FLUSH);
    assert_eq!(controls.tsc_offset(), 7);
    assert_eq!(controls.take_dirty(), ControlGroups::empty());
}

#[test]
fn the_same_priority_again_is_no_change_but_where_the_guest_has_set_another() {
    let mut controls = EntryControls::new();
    let tpr = EntryTpr { cr8: 3, floor: 2 };
    controls.set_tpr(tpr);
    assert_eq!(controls.take_dirty(), ControlGroups::TPR);

    controls.set_tpr(tpr);
    assert_eq!(controls.take_dirty(), ControlGroups::empty());

    controls.note_cr8(9);
    controls.set_tpr(tpr);
    assert_eq!(controls.take_dirty(), ControlGroups::TPR);
}

#[test]
fn an_nmi_window_is_asked_for_anew_with_each_entry() {
    let mut controls = EntryControls::new();
    for on in [true, true, false] {
        controls.set_nmi_window(on);

        assert_eq!(controls.take_dirty(), ControlGroups::NMI_WINDOW);
        assert_eq!(controls.nmi_window(), on);
    }
}
