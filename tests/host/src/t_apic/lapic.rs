// SPDX-License-Identifier: GPL-2.0

//! Registers, priorities, end of interrupt, mode changes, IPIs.

use super::*;
use crate::arch::addr::AccessWidth;
use crate::arch::exception::CpuException;
use crate::chipset::lapic::save::IdFormat;
use crate::chipset::lapic::{ApicMode, IcrShorthand, Ipi, LvtEntry};
use crate::chipset::message::DestMode;
use crate::chipset::message::BROADCAST;
use crate::chipset::{ApicMessage, DeliveryMode};

fn read(apic: &mut Lapic, offset: u32) -> u32 {
    apic.read(offset, Ns::ZERO)
}

#[test]
fn registers_after_reset_are_those_of_the_manual() {
    let mut apic = Lapic::new(3, false);

    assert_eq!(apic.base(), BASE | EN);
    assert_eq!(read(&mut apic, reg::ID), 3 << 24);
    assert_eq!(read(&mut apic, reg::VERSION), 0x0005_0014);
    assert_eq!(read(&mut apic, reg::SVR), 0xff);
    assert_eq!(read(&mut apic, reg::DFR), 0xffff_ffff);
    for lvt in (reg::LVT_TIMER..=reg::LVT_ERROR).step_by(16) {
        assert_eq!(read(&mut apic, lvt), 0x0001_0000, "{lvt:#x}");
    }
    for zero in [reg::TPR, reg::PPR, reg::LDR, reg::ESR, reg::ICR, reg::TIMER_INITIAL, reg::TIMER_CURRENT] {
        assert_eq!(read(&mut apic, zero), 0, "{zero:#x}");
    }
}

#[test]
fn the_boot_processor_starts_in_virtual_wire_mode() {
    assert!(Lapic::new(0, true).accepts_extint());
    assert!(!Lapic::new(1, false).accepts_extint());
    assert!(!xapic_after_linux_init().accepts_extint());
}

#[test]
fn the_highest_class_is_served_first_and_holds_back_its_own_class() {
    let mut apic = xapic_after_linux_init();
    for vector in [0x31, 0x41, 0x4f, 0xec] {
        apic.accept(vector, false);
    }

    assert_eq!(deliver(&mut apic), Some(0xec));
    assert_eq!(read(&mut apic, reg::PPR), 0xe0);
    assert_eq!(deliver(&mut apic), None);
    assert_eq!(apic.eoi(), None);
    assert_eq!(deliver(&mut apic), Some(0x4f));
    assert_eq!(deliver(&mut apic), None, "0x41 is of the class in service");
    apic.eoi();
    assert_eq!(deliver(&mut apic), Some(0x41));
}

#[test]
fn eoi_ends_the_innermost_of_nested_interrupts() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x31, true);
    assert_eq!(deliver(&mut apic), Some(0x31));
    apic.accept(0xec, false);
    assert_eq!(deliver(&mut apic), Some(0xec));
    assert!(apic.eoi_needed_by_ioapic(0x31));

    assert_eq!(apic.write(reg::EOI, 0, &at(0)), LapicEffect::None);
    assert_eq!(read(&mut apic, reg::PPR), 0x30);
    assert_eq!(apic.write(reg::EOI, 0, &at(0)), LapicEffect::EoiBroadcast(0x31));
    assert_eq!(apic.write(reg::EOI, 0, &at(0)), LapicEffect::None, "nothing in service");
    assert_eq!(read(&mut apic, reg::PPR), 0x10);
}

#[test]
fn asking_for_the_next_interrupt_changes_nothing() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x80, false);
    let before = apic.clone();

    assert_eq!((apic.pending(), apic.pending(), apic.highest_irr()), (Some(0x80), Some(0x80), Some(0x80)));

    assert_eq!(apic, before);
}

#[test]
fn task_priority_holds_back_its_class_and_those_below() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x5f, false);

    apic.set_cr8(5);
    assert_eq!((apic.pending(), apic.highest_irr()), (None, Some(0x5f)));
    assert_eq!(read(&mut apic, reg::TPR), 0x50);
    assert_eq!(read(&mut apic, reg::PPR), 0x50);

    set(&mut apic, reg::TPR, 0x4f);
    assert_eq!((apic.pending(), apic.cr8()), (Some(0x5f), 4));
}

#[test]
fn what_the_task_priority_holds_back_is_told_by_its_class() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x45, false);
    assert_eq!((apic.highest_irr(), apic.held_class(0x45)), (Some(0x45), 0), "nothing is held back");
    for tpr in [0x40, 0x4f, 0x80] {
        apic.set_tpr(tpr);
        assert_eq!((apic.held_class(0x45), apic.pending()), (4, None));
    }
    apic.set_tpr(0x3f);
    assert_eq!((apic.held_class(0x45), apic.pending()), (0, Some(0x45)));
}

#[test]
fn ppr_keeps_the_low_bits_of_tpr_only_while_tpr_rules() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x65, false);
    deliver(&mut apic);

    for (tpr, ppr) in [(0x10, 0x60), (0x5f, 0x60), (0x63, 0x63), (0x71, 0x71)] {
        apic.set_tpr(tpr);
        assert_eq!(apic.ppr(), ppr, "TPR {tpr:#x}");
    }
}

#[test]
fn request_service_and_trigger_registers_show_the_vector() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x61, true);
    assert_eq!((read(&mut apic, reg::IRR + 0x30), read(&mut apic, reg::ISR + 0x30)), (2, 0));
    assert_eq!(read(&mut apic, reg::TMR + 0x30), 2);

    deliver(&mut apic);
    assert_eq!((read(&mut apic, reg::IRR + 0x30), read(&mut apic, reg::ISR + 0x30)), (0, 2));

    apic.accept(0x61, false);
    assert_eq!(read(&mut apic, reg::TMR + 0x30), 2, "level while one that came so is in service");
    apic.eoi();
    deliver(&mut apic);
    apic.eoi();
    apic.accept(0x61, false);
    assert_eq!(read(&mut apic, reg::TMR + 0x30), 0, "the next one alone is an edge");
}

#[test]
fn a_vector_in_service_is_held_in_request_once_more() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x40, false);
    deliver(&mut apic);
    apic.accept(0x40, false);
    apic.accept(0x40, false);

    assert_eq!(deliver(&mut apic), None);
    apic.eoi();
    assert_eq!(deliver(&mut apic), Some(0x40));
    apic.eoi();
    assert_eq!(deliver(&mut apic), None);
}

#[test]
fn posted_vectors_are_taken_over_at_once() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x90, true);

    merge_posted(&mut apic, &[0, 0, 1 << 16, 1 << 63], &[0, 1, 0, 0]);

    assert_eq!(apic.highest_irr(), Some(0xff));
    assert_eq!(deliver(&mut apic), Some(0xff));
    assert_eq!(apic.eoi(), None, "posted as an edge");
    assert_eq!(deliver(&mut apic), Some(0x90));
    assert_eq!(apic.eoi(), Some(0x90), "the edge has joined the level that waited");
    assert_eq!(deliver(&mut apic), Some(0x40));
    assert_eq!(apic.eoi(), Some(0x40), "posted as a level");
}

#[test]
fn a_vector_that_comes_as_level_and_as_edge_is_ended_as_a_level() {
    for edge_first in [false, true] {
        let mut apic = xapic_after_linux_init();
        merge_posted(&mut apic, &[0, u64::from(edge_first), 0, 0], &[0, 1, 0, 0]);
        merge_posted(&mut apic, &[0, u64::from(!edge_first), 0, 0], &[0; 4]);
        assert_eq!(deliver(&mut apic), Some(0x40));
        // Once more while in service: the service after that is ended to the I/O APIC too.
        merge_posted(&mut apic, &[0, 1, 0, 0], &[0; 4]);

        assert_eq!(apic.eoi(), Some(0x40));
        assert_eq!(deliver(&mut apic), Some(0x40));
        assert_eq!(apic.eoi(), Some(0x40));

        merge_posted(&mut apic, &[0, 1, 0, 0], &[0; 4]);
        assert_eq!((deliver(&mut apic), apic.eoi()), (Some(0x40), None));
    }
}

#[test]
fn a_disabled_apic_names_the_level_vectors_that_it_drops() {
    let mut apic = xapic_after_linux_init();
    apic.set_base(BASE | BSP, reserved()).unwrap();

    assert_eq!(merge_posted(&mut apic, &[0, 2, 0, 0], &[0, 0, 4, 0]), [0, 0, 4, 0]);
    assert_eq!(apic.highest_irr(), None);
}

#[test]
fn an_apic_disabled_by_software_takes_nothing_but_keeps_what_it_has() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x70, false);

    assert_eq!(apic.write(reg::SVR, 0xff, &at(0)), LapicEffect::IdentityChanged);
    apic.accept(0x80, false);
    // What a sender posted before it could know.
    assert_eq!(merge_posted(&mut apic, &[0; 4], &[0, 0, 0, 1]), [0; 4]);

    assert_eq!(deliver(&mut apic), Some(0xc0));
    assert_eq!(apic.eoi(), Some(0xc0));
    assert_eq!(deliver(&mut apic), Some(0x70));
    apic.eoi();
    assert_eq!(deliver(&mut apic), None);
    assert!(!apic.identity().software_enabled);
}

#[test]
fn disabling_by_software_masks_the_local_vectors_until_they_are_written_again() {
    let mut apic = xapic_after_linux_init();
    set(&mut apic, reg::SVR, 0xff);
    assert_eq!(read(&mut apic, reg::LVT_ERROR), 0x0001_00fe);
    set(&mut apic, reg::LVT_LINT1, 0x400);
    assert_eq!(read(&mut apic, reg::LVT_LINT1), 0x0001_0400);

    set(&mut apic, reg::SVR, 0x1ff);
    assert_eq!(read(&mut apic, reg::LVT_LINT1), 0x0001_0400);
    assert!(!apic.lint1_is_nmi());

    set(&mut apic, reg::LVT_LINT1, 0x400);
    assert!(apic.lint1_is_nmi());
}

#[test]
fn local_interrupts_follow_their_entry() {
    let mut apic = xapic_after_linux_init();
    assert_eq!(apic.raise_local(LvtEntry::Lint0), None, "masked");
    assert_eq!(apic.raise_local(LvtEntry::Lint1), Some(DeliveryMode::Nmi));

    set(&mut apic, reg::LVT_LINT0, 0x34);
    assert_eq!(apic.raise_local(LvtEntry::Lint0), None);
    assert_eq!(apic.pending(), Some(0x34), "fixed ones are taken at once");

    set(&mut apic, reg::LVT_PERF, 0x400);
    assert_eq!(apic.raise_local(LvtEntry::Perf), Some(DeliveryMode::Nmi));
    assert_eq!(read(&mut apic, reg::LVT_PERF), 0x0001_0400, "delivery masks the entry");
}

#[test]
fn errors_show_in_esr_after_a_write_and_raise_the_error_interrupt() {
    let mut apic = xapic_after_linux_init();

    apic.accept(0x0f, false);
    set(&mut apic, reg::ICR, 0x0000_0005);
    assert_eq!(apic.read(0x3f0, Ns::ZERO), 0, "no such register");

    assert_eq!(read(&mut apic, reg::ESR), 0, "not latched yet");
    assert_eq!(apic.pending(), Some(0xfe));
    set(&mut apic, reg::ESR, 0);
    assert_eq!(read(&mut apic, reg::ESR), 0xe0);
    set(&mut apic, reg::ESR, 0);
    assert_eq!(read(&mut apic, reg::ESR), 0);
}

#[test]
fn an_error_entry_with_an_illegal_vector_ends() {
    let mut apic = xapic_after_linux_init();
    set(&mut apic, reg::LVT_ERROR, 3);

    apic.accept(1, false);

    set(&mut apic, reg::ESR, 0);
    assert_eq!(read(&mut apic, reg::ESR), 0x40);
    assert_eq!(apic.highest_irr(), None);
}

#[test]
fn base_register_allows_only_the_transitions_of_the_manual() {
    // From each mode: disabled, the invalid combination, xAPIC, x2APIC.
    let to = [0, EXTD, EN, EN | EXTD];
    let table = [
        (0, [true, false, true, false]),
        (EN, [true, false, true, true]),
        (EN | EXTD, [true, false, false, true]),
    ];
    for (from, legal) in table {
        for (to, legal) in to.into_iter().zip(legal) {
            let mut apic = Lapic::new(0, true);
            apic.restore_base(BASE | BSP | from, reserved()).unwrap();
            let expected = if legal { BASE | BSP | to } else { BASE | BSP | from };

            let result = apic.set_base(BASE | BSP | to, reserved());

            assert_eq!(result.is_ok(), legal, "{from:#x} -> {to:#x}");
            assert_eq!(apic.base(), expected);
        }
    }
}

#[test]
fn base_register_is_restored_to_any_mode_but_not_to_the_impossible() {
    let modes = [0, EN, EN | EXTD];
    for (from, to) in modes.into_iter().flat_map(|from| modes.map(|to| (from, to))) {
        let mut apic = Lapic::new(0, true);
        apic.restore_base(BASE | from, reserved()).unwrap();
        apic.restore_base(BASE | to, reserved()).unwrap();
        assert_eq!(apic.base(), BASE | to);

        for bad in [BASE | EXTD, BASE | to | 1, BASE | to | 1 << 40] {
            assert!(apic.restore_base(bad, reserved()).is_err(), "{bad:#x}");
            assert_eq!(apic.base(), BASE | to);
        }
    }
}

#[test]
fn base_register_refuses_reserved_bits() {
    let mut apic = Lapic::new(0, true);
    for bad in [1, 1 << 7, 1 << 9, 1 << 40, 1 << 63] {
        assert_eq!(apic.set_base(BASE | EN | bad, reserved()), Err(CpuException::GP0), "{bad:#x}");
    }
    assert_eq!(apic.set_base(BASE | EN | EXTD, base_reserved(40, false)), Err(CpuException::GP0));
    assert_eq!(apic.set_base(0xd000_0000 | EN, reserved()), Ok(()));
    assert_eq!(apic.mmio_base(), Some(0xd000_0000));
}

#[test]
fn disabling_loses_the_state_and_lets_the_pic_through() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x70, false);

    assert_eq!(apic.set_base(BASE | BSP, reserved()), Ok(()));

    assert_eq!((apic.mode(), apic.mmio_base(), apic.highest_irr()), (ApicMode::Disabled, None, None));
    assert!(apic.accepts_extint());
    apic.accept(0x71, false);
    assert_eq!(apic.highest_irr(), None);
    assert_eq!(apic.mmio_read(0x30, AccessWidth::B4, Ns::ZERO), 0xffff_ffff);
}

#[test]
fn init_keeps_the_base_and_power_on_does_not() {
    let mut apic = x2apic_after_linux_init(5);
    apic.accept(0x70, false);

    apic.reset(true);
    assert_eq!((apic.mode(), apic.highest_irr(), apic.id()), (ApicMode::X2apic, None, 5));
    assert!(!apic.identity().software_enabled);

    apic.reset(false);
    assert_eq!(apic.mode(), ApicMode::Xapic);
}

#[test]
fn page_accesses_of_odd_width_have_one_policy() {
    let mut apic = xapic_after_linux_init();

    assert_eq!(apic.mmio_read(0x30, AccessWidth::B4, Ns::ZERO), 0x0005_0014);
    assert_eq!(apic.mmio_read(0x32, AccessWidth::B1, Ns::ZERO), 0x05);
    assert_eq!(apic.mmio_read(0x32, AccessWidth::B4, Ns::ZERO), 0xffff_ffff);
    assert_eq!(apic.mmio_read(0x34, AccessWidth::B1, Ns::ZERO), 0xff);
    assert_eq!(apic.mmio_read(0x30, AccessWidth::B8, Ns::ZERO), u64::MAX);
    for (offset, width) in [(0x80, AccessWidth::B1), (0x81, AccessWidth::B4), (0x80, AccessWidth::B8)] {
        assert_eq!(apic.mmio_write(offset, width, 0xf0, &at(0)), LapicEffect::None);
        assert_eq!(apic.tpr(), 0x10);
    }
    assert_eq!(apic.mmio_write(0x80, AccessWidth::B4, 0x20, &at(0)), LapicEffect::None);
    assert_eq!(apic.tpr(), 0x20);
}

#[test]
fn read_only_registers_ignore_writes() {
    let mut apic = xapic_after_linux_init();
    let before = apic.clone();
    for offset in [reg::ID, reg::VERSION, reg::PPR, reg::ISR, reg::TMR + 0x70, reg::IRR, reg::TIMER_CURRENT] {
        assert_eq!(apic.write(offset, 0xffff_ffff, &at(0)), LapicEffect::None);
    }
    assert_eq!(apic, before);
}

fn x2apic_read(offset: u32) -> Result<u64, CpuException> {
    x2apic_after_linux_init(0x1_0023).read_msr(0x800 + (offset >> 4), Ns::ZERO)
}

#[test]
fn x2apic_ids_are_32_bits_and_the_logical_id_follows() {
    assert_eq!(x2apic_read(reg::ID), Ok(0x1_0023));
    assert_eq!(x2apic_read(reg::LDR), Ok(0x1002_0008));
}

#[test]
fn x2apic_registers_that_do_not_exist_give_gp() {
    for offset in [
        0,
        0x10,
        0x40,
        0x90,
        reg::EOI,
        0xc0,
        reg::DFR,
        0x290,
        0x2f0,
        reg::ICR_HIGH,
        0x3a0,
        reg::SELF_IPI,
        0x400,
        0xff0,
    ] {
        assert_eq!(x2apic_read(offset), Err(CpuException::GP0), "{offset:#x}");
    }
    assert_eq!(Lapic::new(0, true).read_msr(0x802, Ns::ZERO), Err(CpuException::GP0), "not in x2APIC mode");
}

#[test]
fn x2apic_writes_are_checked() {
    let mut apic = x2apic_after_linux_init(1);
    let bad = [
        (reg::ID, 1),
        (reg::VERSION, 0),
        (reg::PPR, 0),
        (reg::LDR, 0),
        (reg::DFR, 0),
        (reg::ISR, 0),
        (reg::IRR, 0),
        (reg::TIMER_CURRENT, 0),
        (reg::ICR_HIGH, 0),
        (0x2f0, 0),
        (0x400, 0),
        (reg::EOI, 1),
        (reg::ESR, 1),
        (reg::TPR, 0x100),
        (reg::SELF_IPI, 0x100),
        (reg::SVR, 0x1000),
        (reg::TIMER_DIVIDE, 4),
        (reg::LVT_TIMER, 1 << 20),
        (reg::TIMER_INITIAL, 1 << 32),
        (reg::ICR, 1 << 13),
        (reg::ICR, 1 << 20),
    ];
    let before = apic.clone();
    for (offset, value) in bad {
        assert_eq!(
            apic.write_msr(0x800 + (offset >> 4), value, &at(0)),
            Err(CpuException::GP0),
            "{offset:#x}"
        );
    }
    assert_eq!(apic, before);
}

#[test]
fn x2apic_end_of_interrupt_and_self_ipi_work_by_msr() {
    let mut apic = x2apic_after_linux_init(1);

    assert_eq!(set_msr(&mut apic, reg::SELF_IPI, 0xfb), LapicEffect::None);
    assert_eq!(deliver(&mut apic), Some(0xfb));
    assert_eq!(apic.read_msr(0x817, Ns::ZERO), Ok(1 << 27));

    assert_eq!(set_msr(&mut apic, reg::EOI, 0), LapicEffect::None);
    assert_eq!(apic.read_msr(0x817, Ns::ZERO), Ok(0));
}

fn message(dest: u32, delivery: DeliveryMode, vector: u8) -> ApicMessage {
    ApicMessage { dest, dest_mode: DestMode::Physical, delivery, vector, level: false }
}

/// The sequence with which Linux wakes an AP through memory.
#[test]
fn linux_starts_an_ap_with_init_and_two_start_ups() {
    let mut apic = xapic_after_linux_init();
    set(&mut apic, reg::ICR_HIGH, 1 << 24);
    let ipi = |delivery, vector| {
        LapicEffect::Ipi(Ipi { msg: message(1, delivery, vector), shorthand: IcrShorthand::None })
    };

    assert_eq!(apic.write(reg::ICR, 0xc500, &at(0)), ipi(DeliveryMode::Init, 0));
    assert_eq!(apic.write(reg::ICR, 0x8500, &at(0)), LapicEffect::None, "de-assert");
    for _ in 0..2 {
        assert_eq!(apic.write(reg::ICR, 0x0699, &at(0)), ipi(DeliveryMode::StartUp, 0x99));
    }
    assert_eq!(read(&mut apic, reg::ICR), 0x699, "delivery status reads idle");
    assert_eq!(read(&mut apic, reg::ICR_HIGH), 1 << 24);
}

#[test]
fn x2apic_icr_is_one_write_with_a_32_bit_destination() {
    let mut apic = x2apic_after_linux_init(0);

    let effect = set_msr(&mut apic, reg::ICR, 0x0001_0002_0000_00fd);

    assert_eq!(
        effect,
        LapicEffect::Ipi(Ipi {
            msg: message(0x1_0002, DeliveryMode::Fixed, 0xfd),
            shorthand: IcrShorthand::None
        })
    );
    assert_eq!(apic.read_msr(0x830, Ns::ZERO), Ok(0x0001_0002_0000_00fd));
}

#[test]
fn icr_decodes_shorthands_modes_and_broadcast() {
    let mut apic = xapic_after_linux_init();
    let mut send = |high: u32, low: u32| {
        set(&mut apic, reg::ICR_HIGH, high << 24);
        match apic.write(reg::ICR, low, &at(0)) {
            LapicEffect::Ipi(ipi) => Some(ipi),
            _ => None,
        }
    };

    assert_eq!(send(0xff, 0xfd).map(|i| i.msg.dest), Some(BROADCAST));
    assert_eq!(send(3, 0x8fd).map(|i| (i.msg.dest, i.msg.dest_mode)), Some((3, DestMode::Logical)));
    assert_eq!(send(3, 0x1fd).map(|i| i.msg.delivery), Some(DeliveryMode::LowestPriority));
    assert_eq!(send(0, 0x8_00fd).map(|i| i.shorthand), Some(IcrShorthand::All));
    assert_eq!(
        send(0, 0xc_0400).map(|i| (i.shorthand, i.msg.delivery)),
        Some((IcrShorthand::Others, DeliveryMode::Nmi))
    );
    assert_eq!(send(0, 0x300), None, "reserved delivery mode");
    assert_eq!(send(0, 0x700), None, "ExtINT is no IPI");
    assert_eq!(send(1, 0xc0fd).map(|i| i.msg.level), Some(false), "IPIs are edges");
}

#[test]
fn a_fixed_ipi_to_itself_is_done_on_the_spot() {
    let mut apic = xapic_after_linux_init();

    assert_eq!(apic.write(reg::ICR, 0x4_00f6, &at(0)), LapicEffect::None);

    assert_eq!(apic.pending(), Some(0xf6));
}

#[test]
fn paravirtual_eoi_is_for_a_lone_edge_interrupt() {
    let mut apic = xapic_after_linux_init();
    assert!(!apic.pv_eoi_allowed(None), "nothing in service");

    apic.accept(0x50, false);
    assert!(!apic.pv_eoi_allowed(None), "one waits");
    assert!(apic.pv_eoi_allowed(Some(0x50)), "it comes");
    deliver(&mut apic);
    assert!(apic.pv_eoi_allowed(None));

    apic.accept(0x40, false);
    assert!(!apic.pv_eoi_allowed(None), "something waits");
    apic.accept(0x70, false);
    assert!(!apic.pv_eoi_allowed(Some(0x70)), "something waits behind the one that comes");
    deliver(&mut apic);

    apic.accept(0x80, true);
    assert!(!apic.pv_eoi_allowed(Some(0x80)), "level comes");
    deliver(&mut apic);
    merge_posted(&mut apic, &[0; 4], &[0; 4]);
    assert!(!apic.pv_eoi_allowed(None), "level in service");
}

#[test]
fn saved_state_has_the_layout_of_the_register_page() {
    let mut apic = xapic_after_linux_init();
    apic.accept(0x61, true);
    set(&mut apic, reg::ICR_HIGH, 2 << 24);

    let page = apic.regs(IdFormat::Xapic, Ns::ZERO);
    let word = |offset: u32| u32::from_le_bytes(page[offset as usize..][..4].try_into().expect("four bytes"));

    assert_eq!(word(reg::VERSION), 0x0005_0014);
    assert_eq!(word(reg::TPR), 0x10);
    assert_eq!(word(reg::LDR), 0x0100_0000);
    assert_eq!(word(reg::SVR), 0x1ff);
    assert_eq!((word(reg::IRR + 0x30), word(reg::TMR + 0x30)), (2, 2));
    assert_eq!(word(reg::LVT_LINT1), 0x400);
    assert_eq!(word(reg::ICR_HIGH), 2 << 24);
}

#[test]
fn the_id_in_a_saved_x2apic_page_has_two_formats_and_must_match() {
    let mut apic = x2apic_after_linux_init(0x12);
    let word = |page: &[u8; 1024]| u32::from_le_bytes(page[0x20..0x24].try_into().expect("four bytes"));
    let narrow = apic.regs(IdFormat::Xapic, Ns::ZERO);
    let wide = apic.regs(IdFormat::X2apic, Ns::ZERO);

    assert_eq!((word(&narrow), word(&wide)), (0x1200_0000, 0x12));
    assert!(apic.set_regs(&narrow, IdFormat::Xapic, Ns::ZERO).is_ok());
    assert!(apic.set_regs(&narrow, IdFormat::X2apic, Ns::ZERO).is_err());
    assert_eq!(apic.id(), 0x12);
}
