// SPDX-License-Identifier: GPL-2.0

use super::driver::Ring;
use super::machine::*;
use super::mem::MEM_BYTES;
use crate::arch::addr::AccessWidth::{B1, B2, B4};
use crate::arch::addr::Gpa;
use crate::virtio::device::net::frames::{FrameStream, MAX_FRAME};
use crate::virtio::device::net::{
    NetConfig, NetOffloads, NetPacket, SentPackets, TakenPacket, VirtioNet, MAX_PAIRS,
};
use crate::virtio::queue::QueueFault;
use crate::virtio::transport::pci::QueueServed;
use proptest::collection::vec;
use proptest::prelude::*;

const F_CSUM: u64 = 1;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
const RX: u16 = 0;
const TX: u16 = 1;
/// Where packets lie: behind the rings.
const DATA: u64 = 0xc_0000;

pub(crate) fn card(pairs: u16) -> Machine<VirtioNet> {
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    Machine::new(
        VirtioNet::new(&NetConfig { mac, mtu: 1400, pairs, offloads: true, udp_offloads: true }).unwrap(),
    )
}

/// A card with one pair: the machine, and its receive and transmit rings.
fn guest(features: u64) -> (Machine<VirtioNet>, Ring, Ring) {
    let mut m = card(1);
    let mut rings = m.start_queues(features, 2);
    let tx = rings.remove(1);
    (m, rings.remove(0), tx)
}

fn message(queue: u16) -> Option<crate::chipset::pci::PciInterrupt> {
    Some(Machine::<VirtioNet>::message(queue + 1))
}

fn packet() -> NetPacket {
    NetPacket::new().unwrap()
}

/// Fills the room as a tap does: byte n is n modulo 251.
fn fill(m: &Machine<VirtioNet>, packet: &NetPacket, bytes: u64) {
    let mut n = 0u64;
    for s in packet.data() {
        for at in s.gpa.0..s.gpa.0 + u64::from(s.len) {
            if n < bytes {
                m.mem.put(at, &[(n % 251) as u8]);
            }
            n += 1;
        }
    }
}

#[test]
fn a_network_card_is_found_with_its_address_and_mtu() {
    let mut m = card(1);
    assert_eq!(m.reg(0x00, B4), 0x1041_1af4);
    assert_eq!(m.reg(0x08, B4), 0x0200_0001);
    m.probe();
    let at = m.at.device;
    let mac: Vec<u64> = (0..6).map(|i| m.read(at + i, B1)).collect();
    assert_eq!(mac, [0x52, 0x54, 0, 1, 2, 3]);
    assert_eq!(m.read(at + 6, B2), 1, "the link is up");
    assert_eq!(m.read(at + 10, B2), 1400);
    assert_eq!(m.offered() & (F_MQ | F_CTRL_VQ), 0, "one pair needs no control queue");
}

#[test]
fn a_card_has_as_many_pairs_as_asked_for_within_bounds() {
    for pairs in [0, MAX_PAIRS + 1, u16::MAX] {
        let c = NetConfig { mac: [0; 6], mtu: 0, pairs, offloads: false, udp_offloads: false };
        assert!(VirtioNet::new(&c).is_err());
    }
    let mut m = card(3);
    m.probe();
    assert_eq!(m.common(0x12, B2), 7, "three pairs and the control queue");
    let at = m.at.device;
    assert_eq!(m.read(at + 8, B2), 3);
}

#[test]
fn a_packet_to_the_guest_is_spread_over_as_many_buffers_as_it_needs() {
    let (mut m, mut rx, _) = guest(F_MRG_RXBUF);
    let a = rx.add(&m.mem, &[(DATA, 100, true)]);
    let b = rx.add(&m.mem, &[(DATA + 0x100, 60, true), (DATA + 0x200, 40, true)]);
    let c = rx.add(&m.mem, &[(DATA + 0x300, 100, true)]);
    rx.publish(&m.mem);
    let mut p = packet();

    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 150), TakenPacket::Packet);
    assert_eq!(p.bytes(), 200);
    fill(&m, &p, 150);
    assert_eq!(m.dev.give_room(RX, &m.mem, &mut p, 150), Ok(None));
    assert_eq!(m.dev.notify_queue(RX, &m.mem), message(RX));

    assert_eq!(rx.take_used(&m.mem), [(a, 100), (b, 50)]);
    assert_eq!(m.mem.u16(DATA + 10), 2, "the header says over how many");
    assert_eq!(m.mem.bytes(DATA + 12, 3), [12, 13, 14]);
    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 100), TakenPacket::Packet);
    assert_eq!(m.dev.give_room(RX, &m.mem, &mut p, 100), Ok(None));
    assert_eq!(rx.take_used(&m.mem), [(c, 100)]);
    assert_eq!(m.mem.u16(DATA + 0x30a), 1);
}

#[test]
fn a_header_in_pieces_still_gets_the_number_of_buffers() {
    let (mut m, mut rx, _) = guest(F_MRG_RXBUF);
    rx.add(&m.mem, &[(DATA, 11, true), (DATA + 0x100, 1, true), (DATA + 0x200, 100, true)]);
    rx.publish(&m.mem);
    m.mem.put(DATA + 10, &[7]);
    m.mem.put(DATA + 0x100, &[7]);
    let mut p = packet();

    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 50), TakenPacket::Packet);
    assert_eq!(m.dev.give_room(RX, &m.mem, &mut p, 50), Ok(None));

    assert_eq!(m.mem.bytes(DATA + 10, 1), [1]);
    assert_eq!(m.mem.bytes(DATA + 0x100, 1), [0]);
}

#[test]
fn without_merged_buffers_a_packet_that_is_too_long_leaves_the_buffer() {
    let (mut m, mut rx, _) = guest(0);
    let head = rx.add(&m.mem, &[(DATA, 100, true)]);
    rx.add(&m.mem, &[(DATA, 100, true)]);
    rx.publish(&m.mem);
    let mut p = packet();

    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 101), TakenPacket::TooLong);
    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 100), TakenPacket::Packet);
    assert_eq!(m.dev.give_room(RX, &m.mem, &mut p, 100), Ok(None));
    assert_eq!(rx.take_used(&m.mem), [(head, 100)]);
}

#[test]
fn too_few_buffers_wait_for_a_kick() {
    let (mut m, mut rx, _) = guest(F_MRG_RXBUF | F_EVENT_IDX);
    let mut p = packet();
    let a = rx.add(&m.mem, &[(DATA, 100, true)]);
    rx.publish(&m.mem);

    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 150), TakenPacket::Empty);
    let b = rx.add(&m.mem, &[(DATA + 0x100, 100, true)]);
    assert!(rx.publish(&m.mem), "the driver is asked to kick for the next buffer");
    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 150), TakenPacket::Packet);
    assert_eq!(m.dev.give_room(RX, &m.mem, &mut p, 150), Ok(None));
    assert_eq!(rx.take_used(&m.mem), [(a, 100), (b, 50)]);
}

#[test]
fn a_packet_from_the_guest_is_lent_and_given_back() {
    let (mut m, _, mut tx) = guest(F_CSUM);
    let head = tx.add(&m.mem, &[(DATA, 12, false), (DATA + 0x100, 60, false)]);
    tx.publish(&m.mem);
    let mut p = packet();

    assert_eq!(m.dev.take_packet(TX, &m.mem, &mut p), TakenPacket::Packet);
    assert_eq!(p.bytes(), 72);
    assert_eq!(p.data()[1].gpa, Gpa(DATA + 0x100));
    assert_eq!(m.dev.give_packets(TX, &m.mem, &sent([&p])), Ok(None));
    assert_eq!(m.dev.notify_queue(TX, &m.mem), message(TX));

    assert_eq!(tx.take_used(&m.mem), [(head, 0)]);
    assert_eq!(m.dev.take_packet(TX, &m.mem, &mut p), TakenPacket::Empty);
}

/// Packets to be given back.
fn sent<const N: usize>(packets: [&NetPacket; N]) -> SentPackets {
    let mut sent = SentPackets::new(8).unwrap();
    for packet in packets {
        assert!(sent.add(packet.buffer().unwrap()));
    }
    sent
}

#[test]
fn packets_are_given_back_together_and_a_reset_waits_for_all() {
    let (mut m, _, mut tx) = guest(0);
    let first = tx.add(&m.mem, &[(DATA, 12, false)]);
    let second = tx.add(&m.mem, &[(DATA + 0x100, 60, false)]);
    tx.publish(&m.mem);
    let (mut p, mut q) = (packet(), packet());
    assert_eq!(m.dev.take_packet(TX, &m.mem, &mut p), TakenPacket::Packet);
    assert_eq!(m.dev.take_packet(TX, &m.mem, &mut q), TakenPacket::Packet);

    assert_eq!(m.dev.give_packets(TX, &m.mem, &sent([&p, &q])), Ok(None));
    assert_eq!(tx.take_used(&m.mem), [(first, 0), (second, 0)]);

    for _ in 0..2 {
        tx.add(&m.mem, &[(DATA, 12, false)]);
    }
    tx.publish(&m.mem);
    assert_eq!(m.dev.take_packet(TX, &m.mem, &mut p), TakenPacket::Packet);
    assert_eq!(m.dev.take_packet(TX, &m.mem, &mut q), TakenPacket::Packet);
    m.set_status(0);
    assert_ne!(m.common(0x14, B1), 0, "the reset waits");
    assert_eq!(m.dev.give_packets(TX, &m.mem, &sent([&p, &q])), Ok(None));
    assert_eq!(m.common(0x14, B1), 0);
    assert!(tx.take_used(&m.mem).is_empty(), "memory is left alone after a reset");
}

#[test]
fn packets_are_taken_together_as_long_as_more_are_known_and_wanted() {
    let (mut m, _, mut tx) = guest(0);
    let heads = [12, 40, 60].map(|bytes| tx.add(&m.mem, &[(DATA, bytes, false), (DATA + 0x100, 8, true)]));
    tx.publish(&m.mem);
    let mut p = packet();

    let mut seen = Vec::new();
    let mut sent = SentPackets::new(8).unwrap();
    for (most, end) in [(2, TakenPacket::Packet), (8, TakenPacket::Packet), (8, TakenPacket::Empty)] {
        let mut count = 0;
        let taken = m.dev.take_packets(TX, &m.mem, &mut p, |packet| {
            count += 1;
            seen.push(packet.bytes());
            assert!(sent.add(packet.buffer().unwrap()));
            Ok(count < most)
        });
        assert_eq!(taken, end);
    }

    assert_eq!(seen, [12, 40, 60], "what the device may write is no part of a packet");
    assert_eq!(m.dev.give_packets(TX, &m.mem, &sent), Ok(None));
    assert_eq!(tx.take_used(&m.mem), heads.map(|head| (head, 0)));
}

#[test]
fn a_packet_in_which_a_fault_is_found_stops_the_device_and_no_reset_waits_for_it() {
    let (mut m, _, mut tx) = guest(0);
    for _ in 0..2 {
        tx.add(&m.mem, &[(DATA, 12, false)]);
    }
    tx.publish(&m.mem);
    let mut p = packet();
    let mut given = None;

    let taken = m.dev.take_packets(TX, &m.mem, &mut p, |packet| match given {
        None => {
            given = packet.buffer();
            Ok(true)
        }
        Some(_) => Err(QueueFault::Memory(Gpa(DATA))),
    });

    assert!(matches!(taken, TakenPacket::Broken(Some(_))));
    assert_eq!(m.dev.fault(), Some(QueueFault::Memory(Gpa(DATA))));
    m.set_status(0);
    assert_ne!(m.common(0x14, B1), 0, "the reset waits for the first");
    let mut sent = SentPackets::new(8).unwrap();
    assert!(sent.add(given.unwrap()));
    assert_eq!(m.dev.give_packets(TX, &m.mem, &sent), Ok(None));
    assert_eq!(m.common(0x14, B1), 0);
}

#[test]
fn a_packet_without_a_whole_header_breaks_the_device() {
    let (mut m, _, mut tx) = guest(0);
    tx.add(&m.mem, &[(DATA, 11, false)]);
    tx.publish(&m.mem);
    assert!(matches!(m.dev.take_packet(TX, &m.mem, &mut packet()), TakenPacket::Broken(Some(_))));
    assert_eq!(m.dev.fault(), Some(QueueFault::Malformed));
}

#[test]
fn a_receive_buffer_that_cannot_be_written_breaks_the_device() {
    let (mut m, mut rx, _) = guest(F_MRG_RXBUF);
    rx.add(&m.mem, &[(DATA, 100, false)]);
    rx.publish(&m.mem);
    assert!(matches!(m.dev.take_room(RX, &m.mem, &mut packet(), 50), TakenPacket::Broken(Some(_))));
    assert_eq!(m.dev.fault(), Some(QueueFault::Malformed));
}

#[test]
fn a_reset_waits_for_the_packet_that_is_out() {
    let (mut m, mut rx, _) = guest(F_MRG_RXBUF);
    rx.add(&m.mem, &[(DATA, 100, true)]);
    rx.publish(&m.mem);
    let mut p = packet();
    assert_eq!(m.dev.take_room(RX, &m.mem, &mut p, 50), TakenPacket::Packet);

    m.set_status(0);
    assert!(m.dev.is_resetting());
    assert_eq!(m.dev.offloads(), NetOffloads::empty());
    assert_eq!(m.dev.give_room(RX, &m.mem, &mut p, 50), Ok(None));

    assert_eq!(m.common(0x14, B1), 0);
    assert!(rx.take_used(&m.mem).is_empty(), "nothing is written after a reset");
}

#[test]
fn the_tap_leaves_to_the_guest_what_it_accepted() {
    let (mut m, _, _) = guest(F_GUEST_CSUM | F_GUEST_TSO4);
    assert_eq!(m.dev.offloads(), NetOffloads::CSUM | NetOffloads::TSO4);
    m.set_status(0);
    assert_eq!(m.dev.offloads(), NetOffloads::empty());
}

/// A command in the control queue of a card with two pairs; returns the answer.
fn command(m: &mut Machine<VirtioNet>, control: &mut Ring, bytes: &[u8]) -> u8 {
    m.mem.put(DATA, bytes);
    m.mem.put(DATA + 0x100, &[0xee]);
    control.add(&m.mem, &[(DATA, bytes.len() as u32, false), (DATA + 0x100, 1, true)]);
    control.publish(&m.mem);
    assert!(matches!(m.dev.serve_control(&m.mem), QueueServed::Empty(_)));
    assert_eq!(control.take_used(&m.mem).len(), 1);
    m.mem.bytes(DATA + 0x100, 1)[0]
}

#[test]
fn a_driver_that_does_not_know_of_several_pairs_finds_the_control_queue_after_the_first() {
    let mut m = card(3);
    let features = F_CTRL_VQ | F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM | F_GUEST_TSO4;
    let mut rings = m.start_queues(features, 3);
    let control = &mut rings[2];
    assert_eq!(m.dev.carriers(), 2);

    assert_eq!(command(&mut m, control, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert_eq!(m.dev.offloads(), NetOffloads::CSUM);
    assert_eq!(command(&mut m, control, &[4, 0, 2, 0]), 1, "several pairs were not agreed on");
    for class in [0, 1, 2, 3, 6, 255] {
        assert_eq!(command(&mut m, control, &[class, 0, 1]), 1, "class {class}");
    }
    assert_eq!(m.dev.receive_queue(2), 0);

    m.set_status(0);
    m.start_queues(F_CTRL_VQ | F_MQ, 7);
    assert_eq!(m.dev.carriers(), 6);
}

#[test]
fn a_card_that_loses_its_link_says_so_and_works_on() {
    let (mut m, mut rx, _) = guest(F_MRG_RXBUF);
    let at = m.at.device;
    let generation = m.common(0x15, B1);

    assert_eq!(m.dev.set_link_down(), Some(Machine::<VirtioNet>::message(0)));

    assert_eq!(m.read(at + 6, B2), 0, "the link is down");
    assert_ne!(m.common(0x15, B1), generation);
    assert_eq!(m.read(at + 8, B2), 1, "nothing else has changed");
    rx.add(&m.mem, &[(DATA, 100, true)]);
    rx.publish(&m.mem);
    assert_eq!(m.dev.take_room(RX, &m.mem, &mut packet(), 50), TakenPacket::Packet);
    let mut m = card(1);
    assert_eq!(m.dev.set_link_down(), None, "there is nobody to be told");
    m.probe();
    let at = m.at.device;
    assert_eq!(m.read(at + 6, B2), 0, "who comes later sees it, too");
}

#[test]
fn the_driver_says_how_many_pairs_it_uses_and_what_it_takes() {
    let mut m = card(2);
    let features = F_MQ | F_CTRL_VQ | F_CTRL_GUEST_OFFLOADS | F_GUEST_CSUM | F_GUEST_TSO4;
    let mut rings = m.start_queues(features, 5);
    let control = &mut rings[4];

    assert_eq!(m.dev.receive_queue(1), 0, "one pair is used at first");
    assert_eq!(command(&mut m, control, &[4, 0, 2, 0]), 0);
    assert_eq!(m.dev.receive_queue(1), 2);
    assert_eq!(command(&mut m, control, &[4, 0, 3, 0]), 1, "more pairs than there are");
    assert_eq!(command(&mut m, control, &[4, 0, 0, 0]), 1);
    assert_eq!(m.dev.receive_queue(1), 2);
    assert_eq!(command(&mut m, control, &[5, 0, 2, 0, 0, 0, 0, 0, 0, 0]), 0);
    assert_eq!(m.dev.offloads(), NetOffloads::CSUM);
    assert_eq!(command(&mut m, control, &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]), 1, "never accepted");
    assert_eq!(command(&mut m, control, &[5, 0, 2]), 1, "too short");
    assert_eq!(command(&mut m, control, &[9, 9]), 1);
    m.set_status(0);
    assert_eq!(m.dev.receive_queue(1), 0);
}

#[test]
fn a_missing_page_is_reported_and_the_call_repeated() {
    for n in 0.. {
        let (mut m, mut rx, mut tx) = guest(F_MRG_RXBUF);
        let a = rx.add(&m.mem, &[(DATA, 50, true)]);
        let b = rx.add(&m.mem, &[(DATA + 0x100, 20, true), (DATA + 0x180, 30, true)]);
        rx.publish(&m.mem);
        let c = tx.add(&m.mem, &[(DATA, 20, false), (DATA + 0x80, 30, false)]);
        tx.publish(&m.mem);
        let mut p = packet();
        m.mem.miss_nth(n);

        while m.dev.take_room(RX, &m.mem, &mut p, 90) != TakenPacket::Packet {}
        while m.dev.give_room(RX, &m.mem, &mut p, 90).is_err() {
            assert!(rx.take_used(&m.mem).is_empty(), "all buffers of a packet are seen together");
        }
        while m.dev.take_packet(TX, &m.mem, &mut p) != TakenPacket::Packet {}
        let sent = sent([&p]);
        while m.dev.give_packets(TX, &m.mem, &sent).is_err() {}

        assert_eq!(rx.take_used(&m.mem), [(a, 50), (b, 40)]);
        assert_eq!(tx.take_used(&m.mem), [(c, 0)]);
        if m.mem.miss_none() {
            assert!(n > 12);
            break;
        }
    }
}

proptest! {
    #[test]
    fn packets_of_any_size_come_through_buffers_of_any_size(
        buffers in vec(vec(1u32..3000, 1..4), 1..40),
        packets in vec(12u64..6000, 1..10),
        merge in any::<bool>(),
    ) {
        let (mut m, mut rx, _) = guest(if merge { F_MRG_RXBUF } else { 0 });
        let mut at = DATA;
        let mut heads = Vec::new();
        for buffer in &buffers {
            let mut parts = Vec::new();
            for len in buffer {
                if at + u64::from(*len) < MEM_BYTES as u64 {
                    parts.push((at, *len, true));
                    at += u64::from(*len);
                }
            }
            if !parts.is_empty() {
                heads.push((rx.add(&m.mem, &parts), parts));
            }
        }
        rx.publish(&m.mem);
        let mut p = packet();
        let mut next = 0;
        for bytes in packets {
            match m.dev.take_room(RX, &m.mem, &mut p, bytes) {
                TakenPacket::Packet => {}
                TakenPacket::TooLong => {
                    let first: u64 = heads[next].1.iter().map(|p| u64::from(p.1)).sum();
                    prop_assert!(!merge && first < bytes);
                    continue;
                }
                TakenPacket::Empty => break,
                other => panic!("{other:?}"),
            }
            fill(&m, &p, bytes);
            prop_assert_eq!(m.dev.give_room(RX, &m.mem, &mut p, bytes), Ok(None));
            let used = rx.take_used(&m.mem);
            prop_assert!(merge || used.len() == 1);
            prop_assert_eq!(used.iter().map(|u| u64::from(u.1)).sum::<u64>(), bytes);
            let mut read = Vec::new();
            for (head, len) in &used {
                let (expected, parts) = &heads[next];
                prop_assert_eq!(head, expected, "in the driver's order");
                next += 1;
                let whole: Vec<u8> =
                    parts.iter().flat_map(|(at, len, _)| m.mem.bytes(*at, *len as usize)).collect();
                read.extend_from_slice(&whole[..*len as usize]);
            }
            let count = u16::from_le_bytes([read[10], read[11]]);
            prop_assert_eq!(usize::from(count), used.len());
            for (n, byte) in read.iter().enumerate().skip(12) {
                prop_assert_eq!(*byte, (n % 251) as u8);
            }
        }
    }
}

/// Packets as a stream carries them.
fn stream(packets: &[Vec<u8>]) -> Vec<u8> {
    packets.iter().flat_map(|p| [&(p.len() as u32).to_be_bytes()[..], p].concat()).collect()
}

#[test]
fn a_length_that_no_packet_has_ends_a_stream() {
    for length in [0, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut frames = FrameStream::new().unwrap();
        frames.room()[..4].copy_from_slice(&length.to_be_bytes());
        frames.filled(4);
        assert_eq!(frames.next(), Err(()));
        frames.consume();
        assert_eq!(frames.next(), Err(()), "for ever");
    }
}

proptest! {
    #[test]
    fn packets_come_out_of_a_stream_however_it_is_cut(
        sizes in vec(prop_oneof![1usize..100, 1000usize..2000, 60_000usize..=MAX_FRAME], 1..12),
        cuts in vec(1usize..90_000, 1..50),
    ) {
        let packets: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(i, n)| (0..*n).map(|k| (k * 7 + i) as u8).collect()).collect();
        let bytes = stream(&packets);
        let (mut frames, mut out, mut at) = (FrameStream::new().unwrap(), Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            let room = frames.room();
            prop_assert!(!room.is_empty());
            let n = room.len().min(*cut).min(bytes.len() - at);
            room[..n].copy_from_slice(&bytes[at..at + n]);
            frames.filled(n);
            at += n;
            while let Some(frame) = frames.next().unwrap() {
                out.push(frame.to_vec());
                frames.consume();
            }
            if at == bytes.len() {
                break;
            }
        }
        prop_assert_eq!(out, packets);
    }
}
