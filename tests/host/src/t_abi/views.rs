// SPDX-License-Identifier: GPL-2.0

//! The views into unions, conversions to the architecture's types, and exits as bytes.

use crate::abi::{run, vcpu, vm};
use crate::arch::segment::{SegAttr, SegmentState};
use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

#[test]
fn the_chip_union_gives_back_the_state_that_was_put_in() {
    let pic = vm::PicState::read_from_bytes(&core::array::from_fn::<u8, 16, _>(|i| i as u8)).unwrap();
    let mut ioapic = vm::IoapicState::new_zeroed();
    ioapic.base_address = 0xfec0_0000;
    ioapic.redirtbl[23] = 0x0100_0000_0001_0033;

    let pic_chip = vm::Irqchip::with_state(vm::IRQCHIP_PIC_SLAVE, &pic);
    let ioapic_chip = vm::Irqchip::with_state(vm::IRQCHIP_IOAPIC, &ioapic);

    assert_eq!((pic_chip.chip_id, pic_chip.pic()), (1, Some(pic)));
    assert_eq!(pic_chip.chip[16..], [0; 496]);
    assert_eq!((ioapic_chip.chip_id, ioapic_chip.ioapic()), (2, Some(ioapic)));
}

#[test]
fn a_route_is_a_pin_or_a_message_by_its_kind() {
    let entry = |kind| vm::IrqRoutingEntry { gsi: 5, kind, flags: 0, pad: 0, u: [2, 9, 0x41, 0, 0, 0, 0, 0] };

    assert_eq!(entry(vm::IRQ_ROUTING_IRQCHIP).chip_pin(), Some((2, 9)));
    assert_eq!(entry(vm::IRQ_ROUTING_IRQCHIP).msi(), None);
    assert_eq!(entry(vm::IRQ_ROUTING_MSI).chip_pin(), None);
    let message = vm::MsiMessage { address: 0x9_0000_0002, data: 0x41 };
    assert_eq!(entry(vm::IRQ_ROUTING_MSI).msi(), Some(message));
    assert_eq!((entry(77).msi(), entry(77).chip_pin()), (None, None));
}

#[test]
fn the_flat_64_bit_code_segment_reads_as_the_manual_says() {
    let code = SegmentState { selector: 0x10, attr: SegAttr(0xa09b), limit: u32::MAX, base: 0 };

    let abi = vcpu::Segment::from(code);

    assert_eq!((abi.kind, abi.s, abi.dpl, abi.present), (0xb, 1, 0, 1));
    assert_eq!((abi.avl, abi.l, abi.db, abi.g, abi.unusable), (0, 1, 0, 1, 0));
}

#[test]
fn a_port_exit_is_the_bytes_of_the_union() {
    let exit = run::RunExit::io(run::IO_OUT, 1, 0x3f8, 3);

    assert_eq!(exit.reason, run::ExitReason::Io);
    assert_eq!(exit.data(), [1, 1, 0xf8, 3, 3, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_exit_without_data_writes_nothing() {
    assert_eq!(run::RunExit::plain(run::ExitReason::Shutdown).data(), []);
}

#[test]
fn an_internal_error_counts_its_words_and_drops_those_past_the_sixteenth() {
    let words: Vec<u64> = (1..=20).collect();

    let few = run::RunExit::internal_error(run::INTERNAL_ERROR_EMULATION, &words[..2]);
    let many = run::RunExit::internal_error(run::INTERNAL_ERROR_EMULATION, &words);

    let (few, many) = (
        run::Internal::read_from_bytes(few.data()).unwrap(),
        run::Internal::read_from_bytes(many.data()).unwrap(),
    );
    assert_eq!((few.suberror, few.ndata, few.data[1], few.data[2]), (1, 2, 2, 0));
    assert_eq!((many.ndata, many.data[15]), (16, 16));
}

proptest! {
    /// No bit of a segment's attributes is lost on the way to user space and back.
    #[test]
    fn segments_survive_the_round_trip(selector: u16, attr in any::<u32>(), limit: u32, base: u64) {
        let segment = SegmentState { selector, attr: SegAttr(attr & 0x1_f0ff), limit, base };

        prop_assert_eq!(SegmentState::from(vcpu::Segment::from(segment)), segment);
    }

    /// Whatever bytes user space gives as a segment, the architecture's type gets only defined bits.
    #[test]
    fn any_bytes_are_a_segment(bytes: [u8; 24]) {
        let segment = SegmentState::from(vcpu::Segment::read_from_bytes(&bytes).unwrap());

        prop_assert_eq!(segment.attr.0 & !0x1_f0ff, 0);
    }

    /// A write exit carries the value in the guest's byte order.
    #[test]
    fn an_mmio_write_carries_the_value(gpa: u64, len in 1u32..=8, value: u64) {
        let exit = run::RunExit::mmio_write(gpa, len, value);

        let mmio = run::Mmio::read_from_bytes(exit.data()).unwrap();
        prop_assert_eq!((mmio.phys_addr, mmio.len, mmio.is_write), (gpa, len, 1));
        prop_assert_eq!(mmio.data.as_bytes(), value.to_le_bytes());
    }
}
