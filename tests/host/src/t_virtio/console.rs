// SPDX-License-Identifier: GPL-2.0

use super::driver::{Part, Ring};
use super::machine::*;
use crate::arch::addr::AccessWidth::{B1, B2, B4};
use crate::arch::ring;
use crate::chipset::pci::PciInterrupt;
use crate::virtio::device::console::VirtioConsole;
use crate::virtio::queue::QueueFault;
use crate::virtio::transport::pci::{AccessEffect, QueueServed, VirtioPci};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;

const RX: usize = 0;
const TX: usize = 1;
const OUTPUT: usize = 64 << 10;
const INPUT: usize = 4 << 10;
/// Where buffers lie: behind the rings.
const DATA: u64 = 0x4_0000;

fn console() -> Machine<VirtioConsole> {
    Machine::new(VirtioConsole::new(0, 0).unwrap())
}

fn guest() -> (Machine<VirtioConsole>, Vec<Ring>) {
    let mut m = console();
    let rings = m.start_queues(1 << 28, 2);
    (m, rings)
}

fn message(queue: usize) -> Option<PciInterrupt> {
    Some(Machine::<VirtioConsole>::message(queue as u16 + 1))
}

fn drain(m: &mut Machine<VirtioConsole>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 100];
    loop {
        let n = m.dev.drain_output(&mut chunk);
        if n == 0 {
            return all;
        }
        all.extend(&chunk[..n]);
    }
}

/// Takes the guest's output as often as there is more of it. Returns what the last call did.
fn serve_all(m: &mut Machine<VirtioConsole>) -> QueueServed {
    loop {
        match m.dev.serve_output(&m.mem) {
            QueueServed::More(_) => {}
            last => return last,
        }
    }
}

/// Makes a buffer with these bytes available, in pieces of at most `piece`.
fn print(m: &Machine<VirtioConsole>, tx: &mut Ring, text: &[u8], piece: usize) -> u16 {
    m.mem.put(DATA, text);
    let parts: Vec<Part> = text
        .chunks(piece)
        .enumerate()
        .map(|(i, part)| (DATA + (i * piece) as u64, part.len() as u32, false))
        .collect();
    let head = tx.add(&m.mem, &parts);
    tx.publish(&m.mem);
    head
}

#[test]
fn a_console_is_found_with_the_size_of_its_terminal() {
    let mut m = Machine::new(VirtioConsole::new(132, 43).unwrap());
    assert_eq!(m.reg(0x00, B4), 0x1043_1af4);
    assert_eq!(m.reg(0x08, B4), 0x0780_0001);
    m.probe();
    let at = m.at.device;
    assert_eq!((m.read(at, B2), m.read(at + 2, B2)), (132, 43));
    assert_eq!(m.read(at + 4, B4), 1, "ports");
    assert_eq!(m.offered() & 0xff, 0b101, "its size and emergency writes");
    assert_eq!(m.common(0x12, B2), 2, "queues");

    let mut m = console();
    m.probe();
    assert_eq!(m.offered() & 0xff, 0b100, "no size");
}

#[test]
fn output_comes_out_in_order_however_it_is_cut() {
    for piece in [1, 3, 500] {
        let (mut m, mut rings) = guest();
        let text: Vec<u8> = (0..60u8).collect();
        let a = print(&m, &mut rings[TX], &text[..50], piece);

        assert_eq!(m.dev.serve_output(&m.mem), QueueServed::Empty(message(TX)));
        assert!(m.dev.take_news());
        assert_eq!(rings[TX].take_used(&m.mem), [(a, 0)]);
        print(&m, &mut rings[TX], &text[50..], piece);
        assert_eq!(m.dev.serve_output(&m.mem), QueueServed::Empty(message(TX)));
        assert!(!m.dev.take_news(), "told already");

        assert_eq!(m.dev.output_len(), 60);
        assert_eq!(drain(&mut m), text);
        assert!(!m.dev.take_news());
    }
}

#[test]
fn the_newest_output_is_kept_when_nobody_reads() {
    let (mut m, mut rings) = guest();
    for n in 0..40u8 {
        print(&m, &mut rings[TX], &[n; 2000], 2000);
        assert_eq!(m.dev.serve_output(&m.mem), QueueServed::Empty(message(TX)));
        assert_eq!(rings[TX].take_used(&m.mem).len(), 1, "the guest is not held up");
    }

    let kept = drain(&mut m);

    assert_eq!(kept.len(), OUTPUT);
    assert_eq!(kept[OUTPUT - 2000..], [39; 2000]);
    assert_eq!(kept[0], 7);
}

#[test]
fn a_buffer_waits_in_its_queue_for_a_reader_that_is_waited_for() {
    let mut m = Machine::new(VirtioConsole::new(0, 0).unwrap().wait_for_reader(true));
    let mut rings = m.start_queues(1 << 28, 2);
    let text: Vec<u8> = (0..3 * OUTPUT).map(|n| (n % 251) as u8).collect();
    let head = print(&m, &mut rings[TX], &text, 5000);
    let mut got: Vec<u8> = Vec::new();

    assert_eq!(serve_all(&mut m), QueueServed::Empty(None));

    while got.len() < text.len() {
        let mut some = vec![0; 1000];
        let n = m.dev.drain_output(&mut some);
        assert_ne!(n, 0);
        got.extend(&some[..n]);
        if m.dev.take_waiting() {
            assert!(rings[TX].take_used(&m.mem).is_empty(), "not all of it is taken");
            assert!(matches!(serve_all(&mut m), QueueServed::Empty(_)));
        }
    }
    assert_eq!(got, text);
    assert_eq!(rings[TX].take_used(&m.mem), [(head, 0)]);
    assert!(!m.dev.take_waiting());
    assert_eq!(m.dev.lost(), 0);
}

#[test]
fn output_that_nobody_read_is_counted() {
    let (mut m, mut rings) = guest();
    print(&m, &mut rings[TX], &vec![1; OUTPUT + 7], OUTPUT + 7);
    assert_eq!(serve_all(&mut m), QueueServed::Empty(message(TX)));
    assert_eq!(m.dev.lost(), 7);

    print(&m, &mut rings[TX], &[2; 5], 5);
    assert_eq!(m.dev.serve_output(&m.mem), QueueServed::Empty(message(TX)));

    assert_eq!(m.dev.lost(), 12);
}

#[test]
fn a_buffer_larger_than_the_ring_costs_no_more_than_the_ring() {
    let (mut m, mut rings) = guest();
    m.mem.put(DATA + 0x7fff0, &[7; 16]);
    rings[TX].add(&m.mem, &[(DATA, 0x80000, false)]);
    rings[TX].publish(&m.mem);
    let before = m.mem.accesses();

    assert_eq!(serve_all(&mut m), QueueServed::Empty(message(TX)));

    assert!(m.mem.accesses() - before < 300);
    let kept = drain(&mut m);
    assert_eq!((kept.len(), &kept[OUTPUT - 16..]), (OUTPUT, &[7; 16][..]));
}

#[test]
fn input_goes_into_the_buffers_that_are_there_and_waits_for_more() {
    let (mut m, mut rings) = guest();
    assert_eq!(m.dev.push_input(b"hello"), 5);
    assert_eq!(m.dev.serve_input(&m.mem), QueueServed::Empty(None), "no buffer yet");
    let a = rings[RX].add(&m.mem, &[(DATA, 2, true), (DATA + 0x100, 1, true)]);
    rings[RX].publish(&m.mem);

    assert_eq!(m.dev.serve_input(&m.mem), QueueServed::Empty(message(RX)));

    assert_eq!(rings[RX].take_used(&m.mem), [(a, 3)]);
    assert_eq!((m.mem.bytes(DATA, 2), m.mem.bytes(DATA + 0x100, 1)), (b"he".to_vec(), b"l".to_vec()));
    let b = rings[RX].add(&m.mem, &[(DATA, 100, true)]);
    rings[RX].publish(&m.mem);
    assert_eq!(m.dev.serve_input(&m.mem), QueueServed::Empty(message(RX)));
    assert_eq!(rings[RX].take_used(&m.mem), [(b, 2)]);
    assert_eq!(m.mem.bytes(DATA, 2), b"lo");
}

#[test]
fn a_writer_that_found_no_room_is_told_when_there_is_some() {
    let (mut m, mut rings) = guest();
    assert_eq!(m.dev.push_input(&[1; INPUT + 5]), INPUT);
    assert_eq!(m.dev.input_room(), 0);
    assert!(!m.dev.take_news());

    rings[RX].add(&m.mem, &[(DATA, 3000, true)]);
    rings[RX].publish(&m.mem);
    assert_eq!(m.dev.serve_input(&m.mem), QueueServed::Empty(message(RX)));

    assert!(m.dev.take_news());
    assert!(!m.dev.take_news(), "once");
    assert_eq!(m.dev.input_room(), 3000);
}

#[test]
fn emergency_writes_come_out_before_any_driver_is_there() {
    let mut m = console();
    m.probe();
    let at = m.at.device;
    for (byte, width) in b"abc".iter().zip([B1, B2, B4]) {
        m.write(at + 8, width, u64::from(*byte));
        assert_eq!(m.effect, AccessEffect::Configured);
    }
    m.write(at, B2, 80);
    assert_eq!(m.effect, AccessEffect::None, "the size is not for the driver to write");

    assert_eq!(drain(&mut m), b"abc");
    assert_eq!(m.read(at, B2), 0);
}

#[test]
fn a_missing_page_loses_and_repeats_nothing() {
    for n in 0.. {
        let (mut m, mut rings) = guest();
        let text: Vec<u8> = (0..=255).cycle().take(700).map(|b: u32| b as u8).collect();
        print(&m, &mut rings[TX], &text, 300);
        m.dev.push_input(b"input");
        rings[RX].add(&m.mem, &[(DATA + 0x1000, 9, true)]);
        rings[RX].publish(&m.mem);
        m.mem.miss_nth(n);

        while let QueueServed::NotResident(..) = m.dev.serve_output(&m.mem) {}
        while let QueueServed::NotResident(..) = m.dev.serve_input(&m.mem) {}

        assert_eq!(drain(&mut m), text, "miss {n}");
        assert_eq!((rings[TX].take_used(&m.mem).len(), rings[RX].take_used(&m.mem).len()), (1, 1));
        assert_eq!(m.mem.bytes(DATA + 0x1000, 6), b"input\0");
        if m.mem.miss_none() {
            assert!(n > 10);
            break;
        }
    }
}

#[test]
fn a_receive_buffer_that_cannot_be_written_breaks_the_device() {
    let (mut m, mut rings) = guest();
    rings[RX].add(&m.mem, &[(DATA, 9, false)]);
    rings[RX].publish(&m.mem);
    assert_eq!(m.dev.serve_input(&m.mem), QueueServed::Empty(None), "as long as there is no input");
    m.dev.push_input(b"x");

    assert!(matches!(m.dev.serve_input(&m.mem), QueueServed::Broken(Some(_))));
    assert_eq!(m.dev.fault(), Some(QueueFault::Malformed));
    m.set_status(0);
    assert_eq!(m.status(), 0);
}

#[test]
fn one_call_serves_a_bounded_number_of_buffers() {
    let (mut m, mut rings) = guest();
    for _ in 0..2 {
        for _ in 0..64 {
            rings[TX].add(&m.mem, &[(DATA, 1, false)]);
        }
        rings[TX].publish(&m.mem);
        assert_eq!(m.dev.serve_output(&m.mem), QueueServed::More(message(TX)));
        assert_eq!(m.dev.serve_output(&m.mem), QueueServed::Empty(None));
        assert_eq!(rings[TX].take_used(&m.mem).len(), 64);
    }
}

#[test]
fn packed_rings_carry_it_too() {
    let mut m = Machine::with(VirtioPci::new(VirtioConsole::new(0, 0).unwrap()).unwrap().offer_packed(true));
    let mut rings = m.start_packed(F_EVENT_IDX, 2, 7);
    for n in 0..50u8 {
        m.mem.put(DATA, &[n, n + 1]);
        rings[TX].add(&m.mem, &[(DATA, 1, false), (DATA + 1, 1, false)]);
        let id = rings[RX].add(&m.mem, &[(DATA + 0x100, 10, true)]);
        m.dev.push_input(&[n; 3]);
        assert!(matches!(m.dev.serve_output(&m.mem), QueueServed::Empty(_)));
        assert!(matches!(m.dev.serve_input(&m.mem), QueueServed::Empty(_)));

        assert_eq!(drain(&mut m), [n, n + 1]);
        assert_eq!(rings[TX].take_used(&m.mem).len(), 1);
        assert_eq!(rings[RX].take_used(&m.mem), [(id, 3)]);
        assert_eq!(m.mem.bytes(DATA + 0x100, 3), [n; 3]);
    }
}

#[derive(Clone, Debug)]
enum Use {
    Some(Vec<u8>),
    Newest(Vec<u8>),
    Peek(usize, usize),
    Consume(usize),
    Drain(usize),
    Pop,
}

fn any_use() -> impl Strategy<Value = Use> {
    let bytes = || vec(any::<u8>(), 0..30);
    prop_oneof![
        bytes().prop_map(Use::Some),
        bytes().prop_map(Use::Newest),
        (0usize..20, 0usize..20).prop_map(|(skip, n)| Use::Peek(skip, n)),
        (0usize..20).prop_map(Use::Consume),
        (0usize..20).prop_map(Use::Drain),
        Just(Use::Pop),
    ]
}

proptest! {
    /// A ring is a queue with a bound.
    #[test]
    fn a_ring_of_bytes_is_a_bounded_queue(uses in vec(any_use(), 0..60)) {
        let (mut ring, mut model) = (ring::ByteRing::new(16).unwrap(), VecDeque::new());
        for what in uses {
            match what {
                Use::Some(bytes) => {
                    let n = bytes.len().min(16 - model.len());
                    prop_assert_eq!(ring.push_some(&bytes), n);
                    model.extend(&bytes[..n]);
                }
                Use::Newest(bytes) => {
                    model.extend(&bytes);
                    let over = model.len().saturating_sub(16);
                    model.drain(..over);
                    prop_assert_eq!(ring.push_newest(&bytes), over);
                }
                Use::Peek(skip, n) => {
                    let mut out = vec![0; n];
                    ring.peek(skip, &mut out);
                    let mut expected: Vec<u8> = model.iter().skip(skip).take(n).copied().collect();
                    expected.resize(n, 0);
                    prop_assert_eq!(out, expected);
                }
                Use::Consume(n) => {
                    ring.consume(n);
                    model.drain(..n.min(model.len()));
                }
                Use::Drain(n) => {
                    let mut out = vec![0; n];
                    let moved = ring.drain(&mut out);
                    prop_assert_eq!(&out[..moved], &model.drain(..n.min(model.len())).collect::<Vec<u8>>()[..]);
                }
                Use::Pop => prop_assert_eq!(ring.pop(), model.pop_front()),
            }
            prop_assert_eq!((ring.len(), ring.room()), (model.len(), 16 - model.len()));
        }
    }
}

#[test]
fn one_call_moves_a_bounded_number_of_bytes() {
    let (mut m, mut rings) = guest();
    m.mem.put(DATA, &[7; 1024]);
    let heads: Vec<u16> = (0..3).map(|_| rings[TX].add(&m.mem, &[(DATA, 40 << 10, false)])).collect();
    rings[TX].publish(&m.mem);

    let mut calls = 1;
    while let QueueServed::More(_) = m.dev.serve_output(&m.mem) {
        calls += 1;
    }

    assert_eq!(calls, 8, "of 16 KiB each");
    assert_eq!(rings[TX].take_used(&m.mem), heads.iter().map(|head| (*head, 0)).collect::<Vec<_>>());
    assert_eq!(m.dev.output_len(), OUTPUT);
}
