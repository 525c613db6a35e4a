// SPDX-License-Identifier: GPL-2.0

use super::driver::{Part, Ring};
use super::machine::*;
use super::mem::{Mem, MEM_BYTES};
use crate::arch::addr::AccessWidth::{B1, B2, B4, B8};
use crate::arch::addr::Gpa;
use crate::virtio::device::blk::{BlkOp, BlkRequest, BlkStatus, DiskGeometry, NextRequest, VirtioBlk};
use crate::virtio::segment::MemSegment;

pub(super) type Disk = Machine<VirtioBlk>;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const F_RO: u64 = 1 << 5;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;
const F_ALL: u64 = F_FLUSH | F_DISCARD | F_WRITE_ZEROES;

const HEADER: u64 = 0x8000;
const STATUS: u64 = 0xf000;
const NOT_WRITTEN: u8 = 0xee;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn geometry(sectors: u64) -> DiskGeometry {
    DiskGeometry {
        sectors,
        block_shift: 9,
        read_only: false,
        discard: true,
        serial: *b"rvmm-0001\0\0\0\0\0\0\0\0\0\0\0",
    }
}

fn disk_of(geometry: DiskGeometry) -> Disk {
    Machine::new(VirtioBlk::new(geometry, 256, 64, 1).unwrap())
}

/// A disk that can have `depth` requests in flight.
pub(super) fn disk_with_depth(depth: u16) -> Disk {
    Machine::new(VirtioBlk::new(geometry(1000), 256, depth, 1).unwrap())
}

pub(super) fn disk(sectors: u64) -> Disk {
    disk_of(geometry(sectors))
}

pub(crate) fn put_header(mem: &Mem, at: u64, kind: u32, sector: u64) {
    mem.put(at, &kind.to_le_bytes());
    mem.put(at + 4, &0u32.to_le_bytes());
    mem.put(at + 8, &sector.to_le_bytes());
}

pub(crate) fn put_range(mem: &Mem, at: u64, sector: u64, count: u32, flags: u32) {
    mem.put(at, &sector.to_le_bytes());
    mem.put(at + 8, &count.to_le_bytes());
    mem.put(at + 12, &flags.to_le_bytes());
}

/// A running disk and the driver's ring.
struct Guest {
    m: Disk,
    ring: Ring,
}

impl Guest {
    fn new(geometry: DiskGeometry, features: u64) -> Guest {
        let mut m = disk_of(geometry);
        let ring = m.start(features);
        Guest { m, ring }
    }

    /// Adds a request: header, the data parts, status.
    fn submit(&mut self, kind: u32, sector: u64, data: &[Part]) -> u16 {
        put_header(&self.m.mem, HEADER, kind, sector);
        self.m.mem.put(STATUS, &[NOT_WRITTEN]);
        let mut parts = vec![(HEADER, 16, false)];
        parts.extend_from_slice(data);
        parts.push((STATUS, 1, true));
        self.add(&parts)
    }

    fn add(&mut self, parts: &[Part]) -> u16 {
        let head = self.ring.add(&self.m.mem, parts);
        self.ring.publish(&self.m.mem);
        head
    }

    fn request(&mut self) -> BlkRequest {
        match self.m.dev.next(0, &self.m.mem) {
            NextRequest::Request(request) => request,
            other => panic!("no request: {other:?}"),
        }
    }

    fn complete(&mut self, request: BlkRequest, status: BlkStatus, bytes: u64) {
        let message = self.m.dev.complete(&self.m.mem, request, status, bytes).unwrap();
        assert_eq!(message, Some(Disk::message(1)));
    }

    /// Expects the device to answer by itself. Returns the status byte and the used length.
    fn answer(&mut self, head: u16) -> (u8, u32) {
        match self.m.dev.next(0, &self.m.mem) {
            NextRequest::Answered(message) => assert_eq!(message, Some(Disk::message(1))),
            other => panic!("not answered: {other:?}"),
        }
        let used = self.ring.take_used(&self.m.mem);
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].0, head);
        (self.m.mem.get::<1>(STATUS)[0], used[0].1)
    }
}

fn guest() -> Guest {
    Guest::new(geometry(1000), F_ALL)
}

#[test]
fn queues_have_requests_interrupts_and_room_of_their_own() {
    let mut m = Machine::new(VirtioBlk::new(geometry(1000), 16, 2, 3).unwrap());
    let mut rings = m.start_queues(1 << 12, 3);
    assert_ne!(m.offered() & 1 << 12, 0, "VIRTIO_BLK_F_MQ");
    let at = m.at.device;
    assert_eq!(m.read(at + 34, B2), 3, "num_queues");
    put_header(&m.mem, HEADER, 1, 0);
    for ring in &mut rings {
        for i in 0..3 {
            ring.add(&m.mem, &[(HEADER, 16, false), (0x9000, 512, false), (STATUS + i, 1, true)]);
        }
        ring.publish(&m.mem);
    }

    let mut held = Vec::new();
    for queue in 0..3 {
        for _ in 0..2 {
            match m.dev.next(queue, &m.mem) {
                NextRequest::Request(request) => held.push((queue, request)),
                other => panic!("no request: {other:?}"),
            }
        }
        assert!(matches!(m.dev.next(queue, &m.mem), NextRequest::Full), "its own room is taken");
    }
    for (queue, request) in held {
        let told = m.dev.complete(&m.mem, request, BlkStatus::Ok, 0).unwrap();
        assert_eq!(told, Some(Disk::message(queue + 1)));
    }

    for (queue, ring) in rings.iter_mut().enumerate() {
        assert_eq!(ring.take_used(&m.mem).len(), 2);
        assert!(matches!(m.dev.next(queue as u16, &m.mem), NextRequest::Request(_)), "the third");
    }
    assert!(matches!(m.dev.next(3, &m.mem), NextRequest::Empty), "there is no such queue");
    for queues in [0, 17] {
        assert!(VirtioBlk::new(geometry(1000), 16, 2, queues).is_err());
    }
}

#[test]
fn the_configuration_tells_capacity_and_limits() {
    let mut m = disk(1000);
    m.probe();
    let at = m.at.device;

    assert_eq!(m.read(at, B8), 1000);
    assert_eq!((m.read(at, B4), m.read(at + 4, B4)), (1000, 0));
    assert_eq!(m.read(at + 12, B4), 126, "seg_max");
    assert_eq!(m.read(at + 20, B4), 512, "blk_size");
    assert_eq!(m.read(at + 24, B1), 3, "eight logical blocks in a physical one");
    assert_eq!(m.read(at + 34, B2), 1, "num_queues");
    assert_eq!(m.read(at + 36, B4), 1 << 21, "max_discard_sectors");
    assert_eq!(m.read(at + 40, B4), 1, "max_discard_seg");
    assert_eq!(m.read(at + 48, B4), 1 << 15, "max_write_zeroes_sectors");
    assert_eq!(m.offered() & (F_ALL | F_RO), F_ALL);
}

#[test]
fn a_read_only_disk_says_so_and_offers_no_discard() {
    let mut m = disk_of(DiskGeometry { read_only: true, ..geometry(1000) });
    m.probe();

    assert_eq!(m.offered() & (F_ALL | F_RO), F_FLUSH | F_RO);
}

#[test]
fn a_capacity_is_rounded_down_to_whole_blocks() {
    let mut m = disk_of(DiskGeometry { block_shift: 12, ..geometry(1001) });
    m.probe();

    assert_eq!(m.read(m.at.device, B8), 1000);
    assert_eq!(m.read(m.at.device + 20, B4), 4096);
}

#[test]
fn a_read_gives_its_sector_and_where_the_data_goes() {
    let mut g = guest();
    let head = g.submit(IN, 7, &[(0x2_0000, 512, true), (0x3_0000, 1024, true)]);

    let request = g.request();
    assert_eq!(request.op(), BlkOp::Read { sector: 7 });
    let segments =
        [MemSegment { gpa: Gpa(0x2_0000), len: 512 }, MemSegment { gpa: Gpa(0x3_0000), len: 1024 }];
    assert_eq!(request.data(), segments);
    assert_eq!(request.bytes(), 1536);
    g.complete(request, BlkStatus::Ok, 1536);

    assert_eq!(g.ring.take_used(&g.m.mem), [(head, 1537)]);
    assert_eq!(g.m.mem.get::<1>(STATUS), [OK]);
    assert!(matches!(g.m.dev.next(0, &g.m.mem), NextRequest::Empty));
}

#[test]
fn a_read_that_ends_early_counts_only_what_was_written() {
    let mut g = guest();
    let head = g.submit(IN, 7, &[(0x2_0000, 1024, true)]);

    let request = g.request();
    g.complete(request, BlkStatus::IoErr, 512);

    assert_eq!(g.ring.take_used(&g.m.mem), [(head, 512)]);
    assert_eq!(g.m.mem.get::<1>(STATUS), [IOERR]);
}

#[test]
fn a_write_gives_its_sector_and_where_the_data_is() {
    let mut g = guest();
    let head = g.submit(OUT, 999, &[(0x2_0000, 512, false)]);

    let request = g.request();
    assert_eq!(request.op(), BlkOp::Write { sector: 999, durable: false });
    assert_eq!(request.data(), [MemSegment { gpa: Gpa(0x2_0000), len: 512 }]);
    g.complete(request, BlkStatus::Ok, 0);

    assert_eq!(g.ring.take_used(&g.m.mem), [(head, 1)]);
    assert_eq!(g.m.mem.get::<1>(STATUS), [OK]);
}

#[test]
fn writes_are_durable_for_a_driver_that_cannot_flush() {
    let mut g = Guest::new(geometry(1000), 0);
    g.submit(OUT, 0, &[(0x2_0000, 512, false)]);

    let request = g.request();

    assert_eq!(request.op(), BlkOp::Write { sector: 0, durable: true });
    g.complete(request, BlkStatus::Ok, 0);
}

#[test]
fn a_flush_goes_to_the_worker() {
    let mut g = guest();
    let head = g.submit(FLUSH, 0, &[]);

    let request = g.request();
    assert_eq!((request.op(), request.data()), (BlkOp::Flush, &[][..]));
    g.complete(request, BlkStatus::Ok, 0);

    assert_eq!(g.ring.take_used(&g.m.mem), [(head, 1)]);
}

#[test]
fn the_serial_number_is_answered_at_once() {
    let mut g = guest();
    let head = g.submit(GET_ID, 0, &[(0x2_0000, 20, true)]);

    assert_eq!(g.answer(head), (OK, 21));
    assert_eq!(&g.m.mem.get::<20>(0x2_0000), b"rvmm-0001\0\0\0\0\0\0\0\0\0\0\0");

    g.m.mem.put(0x2_0000, &[NOT_WRITTEN; 8]);
    let head = g.submit(GET_ID, 0, &[(0x2_0000, 4, true)]);
    assert_eq!(g.answer(head), (OK, 5));
    assert_eq!(&g.m.mem.get::<5>(0x2_0000), b"rvmm\xee", "no more than fits");
}

#[test]
fn header_data_and_status_may_lie_anywhere_in_the_descriptors() {
    let mut g = guest();
    // The header in three pieces, the last of them with the first data; status behind the data.
    put_header(&g.m.mem, HEADER, OUT, 0x102);
    let bytes = g.m.mem.bytes(HEADER, 16);
    g.m.mem.put(0x9000, &bytes[5..12]);
    g.m.mem.put(0xa000, &bytes[12..]);
    let head = g.add(&[(HEADER, 5, false), (0x9000, 7, false), (0xa000, 4 + 512, false), (0xb000, 9, true)]);

    let request = g.request();
    assert_eq!(request.op(), BlkOp::Write { sector: 0x102, durable: false });
    assert_eq!(request.data(), [MemSegment { gpa: Gpa(0xa004), len: 512 }]);
    g.m.mem.put(0xb000, &[NOT_WRITTEN; 9]);
    g.complete(request, BlkStatus::Ok, 0);
    assert_eq!(g.m.mem.get::<9>(0xb000), [0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, OK]);
    assert_eq!(g.ring.take_used(&g.m.mem), [(head, 1)]);

    // A read whose status is the last byte of the last data descriptor.
    put_header(&g.m.mem, HEADER, IN, 1);
    let head = g.add(&[(HEADER, 16, false), (0x2_0000, 100, true), (0x3_0000, 413, true)]);
    let request = g.request();
    let segments = [MemSegment { gpa: Gpa(0x2_0000), len: 100 }, MemSegment { gpa: Gpa(0x3_0000), len: 412 }];
    assert_eq!(request.data(), segments);
    assert!(!request.is_aligned(512));
    g.complete(request, BlkStatus::Ok, 512);
    assert_eq!(g.m.mem.get::<1>(0x3_0000 + 412), [OK]);
    assert_eq!(g.ring.take_used(&g.m.mem), [(head, 513)]);
}

#[test]
fn transfers_beyond_the_end_fail() {
    let cases = [(1000, 512), (999, 1024), (u64::MAX, 512), (u64::MAX - 1, 1024), (0, 512 * 1001)];
    for (sector, len) in cases {
        for (kind, writable) in [(IN, true), (OUT, false)] {
            let mut g = guest();
            let head = g.submit(kind, sector, &[(0x2_0000, len, writable)]);
            assert_eq!(g.answer(head), (IOERR, 1), "{kind} {sector} {len}");
        }
    }
}

#[test]
fn transfers_of_broken_blocks_fail() {
    let big = DiskGeometry { block_shift: 12, ..geometry(1000) };
    for (geometry, sector, len) in
        [(geometry(1000), 0, 511), (geometry(1000), 0, 513), (big, 0, 512), (big, 1, 4096), (big, 0, 4097)]
    {
        let mut g = Guest::new(geometry, F_ALL);
        let head = g.submit(IN, sector, &[(0x2_0000, len, true)]);
        assert_eq!(g.answer(head), (IOERR, 1), "{sector} {len}");
    }
    let mut g = Guest::new(big, F_ALL);
    g.submit(IN, 8, &[(0x2_0000, 4096, true)]);
    let request = g.request();
    assert!(request.is_aligned(4096));
    g.complete(request, BlkStatus::Ok, 4096);
}

#[test]
fn a_transfer_of_nothing_succeeds_at_once() {
    let mut g = guest();
    let head = g.submit(IN, 0, &[]);
    assert_eq!(g.answer(head), (OK, 1));
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let mut g = Guest::new(DiskGeometry { read_only: true, ..geometry(1000) }, F_FLUSH | F_RO);
    let head = g.submit(OUT, 0, &[(0x2_0000, 512, false)]);
    assert_eq!(g.answer(head), (IOERR, 1));

    g.submit(IN, 0, &[(0x2_0000, 512, true)]);
    let request = g.request();
    g.complete(request, BlkStatus::Ok, 512);
}

#[test]
fn discard_and_write_zeroes_carry_one_range() {
    let mut g = guest();
    put_range(&g.m.mem, 0x9000, 10, 90, 0);
    g.submit(DISCARD, 0, &[(0x9000, 16, false)]);
    let request = g.request();
    assert_eq!(request.op(), BlkOp::Discard { sector: 10, count: 90 });
    g.complete(request, BlkStatus::Ok, 0);
    g.ring.take_used(&g.m.mem);

    for (flags, unmap) in [(0, false), (1, true)] {
        put_range(&g.m.mem, 0x9000, 0, 1000, flags);
        g.submit(WRITE_ZEROES, 0, &[(0x9000, 16, false)]);
        let request = g.request();
        assert_eq!(request.op(), BlkOp::WriteZeroes { sector: 0, count: 1000, unmap });
        g.complete(request, BlkStatus::Ok, 0);
    }
}

#[test]
fn ranges_that_cannot_be_are_answered_at_once() {
    let huge = DiskGeometry { sectors: 1 << 40, ..geometry(0) };
    let cases = [
        (geometry(1000), DISCARD, 999, 2, 0, 16, IOERR),
        (geometry(1000), DISCARD, u64::MAX, 1, 0, 16, IOERR),
        (geometry(1000), DISCARD, 0, 1, 1, 16, UNSUPP),
        (geometry(1000), WRITE_ZEROES, 0, 1, 2, 16, UNSUPP),
        (geometry(1000), DISCARD, 0, 1, 0, 32, IOERR),
        (geometry(1000), DISCARD, 0, 1, 0, 15, IOERR),
        (geometry(1000), DISCARD, 5, 0, 0, 16, OK),
        (huge, WRITE_ZEROES, 0, (1 << 21) + 1, 0, 16, IOERR),
        (DiskGeometry { block_shift: 12, ..huge }, DISCARD, 8, 1, 0, 16, IOERR),
    ];
    for (geometry, kind, sector, count, flags, len, status) in cases {
        let mut g = Guest::new(geometry, F_ALL);
        put_range(&g.m.mem, 0x9000, sector, count, flags);
        let head = g.submit(kind, 0, &[(0x9000, len, false)]);
        assert_eq!(g.answer(head), (status, 1), "{kind} {sector} {count} {flags} {len}");
    }
}

#[test]
fn requests_that_the_driver_did_not_negotiate_or_nobody_knows_are_unsupported() {
    for (features, kind) in [(F_FLUSH, DISCARD), (F_FLUSH, WRITE_ZEROES), (F_ALL, 2), (F_ALL, u32::MAX)] {
        let mut g = Guest::new(geometry(1000), features);
        put_range(&g.m.mem, 0x9000, 0, 1, 0);
        let head = g.submit(kind, 0, &[(0x9000, 16, false)]);
        assert_eq!(g.answer(head), (UNSUPP, 1), "{kind}");
    }
}

#[test]
fn buffers_without_header_or_status_break_the_device() {
    let cases: [&[Part]; 4] = [
        &[(HEADER, 15, false), (STATUS, 1, true)],
        &[(STATUS, 1, true)],
        &[(HEADER, 16, false)],
        &[(MEM_BYTES as u64 - 8, 16, false), (STATUS, 1, true)],
    ];
    for parts in cases {
        let mut g = guest();
        g.add(parts);
        assert!(matches!(g.m.dev.next(0, &g.m.mem), NextRequest::Broken(Some(_))), "{parts:?}");
    }
}

#[test]
fn data_outside_of_memory_is_for_the_worker_to_find() {
    let mut g = guest();
    g.submit(IN, 0, &[(MEM_BYTES as u64, 512, true)]);

    let request = g.request();
    g.complete(request, BlkStatus::IoErr, 0);

    assert_eq!(g.m.mem.get::<1>(STATUS), [IOERR]);
}

#[test]
fn requests_complete_in_any_order() {
    let mut g = guest();
    let heads: Vec<u16> = (0..3).map(|i| g.submit(IN, i, &[(0x2_0000, 512, true)])).collect();
    let mut requests: Vec<BlkRequest> = (0..3).map(|_| g.request()).collect();

    for i in [1, 1, 0] {
        let request = requests.remove(i);
        g.complete(request, BlkStatus::Ok, 512);
    }

    let used: Vec<u16> = g.ring.take_used(&g.m.mem).iter().map(|u| u.0).collect();
    assert_eq!(used, [heads[1], heads[2], heads[0]]);
}

#[test]
fn a_pool_that_is_empty_holds_the_rest_back_until_a_completion() {
    let mut m = Machine::new(VirtioBlk::new(geometry(1000), 256, 2, 1).unwrap());
    let ring = m.start(0);
    let mut g = Guest { m, ring };
    for _ in 0..3 {
        g.submit(IN, 0, &[(0x2_0000, 512, true)]);
    }
    let first = g.request();
    let second = g.request();

    assert!(matches!(g.m.dev.next(0, &g.m.mem), NextRequest::Full));
    g.complete(second, BlkStatus::Ok, 512);
    let third = g.request();

    assert!(matches!(g.m.dev.next(0, &g.m.mem), NextRequest::Full));
    g.complete(first, BlkStatus::Ok, 512);
    g.complete(third, BlkStatus::Ok, 512);
    assert!(matches!(g.m.dev.next(0, &g.m.mem), NextRequest::Empty));
}

#[test]
fn the_longest_request_fits_and_a_longer_one_does_not() {
    let mut g = Guest::new(geometry(100_000), F_ALL | 1 << 28);
    put_header(&g.m.mem, HEADER, IN, 0);
    let parts = |n: usize| {
        let mut parts = vec![(HEADER, 16, false)];
        parts.extend((0..n).map(|i| (0x2_0000 + 0x400 * i as u64, 512, true)));
        parts.push((STATUS, 1, true));
        parts
    };
    g.ring.add_indirect(&g.m.mem, 0xc000, &parts(126));
    g.ring.publish(&g.m.mem);
    let request = g.request();
    assert_eq!(request.data().len(), 126);
    g.complete(request, BlkStatus::Ok, 126 * 512);

    g.ring.add_indirect(&g.m.mem, 0xc000, &parts(127));
    g.ring.publish(&g.m.mem);
    assert!(matches!(g.m.dev.next(0, &g.m.mem), NextRequest::Broken(_)));
}

#[test]
fn a_missing_page_can_be_faulted_in_at_every_step() {
    for (kind, parts) in [(IN, (0x2_0000, 512, true)), (GET_ID, (0x2_0000, 20, true))] {
        for n in 0.. {
            let mut g = guest();
            let head = g.submit(kind, 3, &[parts]);
            g.m.mem.miss_nth(n);
            let mut misses = 0;
            loop {
                match g.m.dev.next(0, &g.m.mem) {
                    NextRequest::NotResident(_) => misses += 1,
                    NextRequest::Answered(_) => {}
                    NextRequest::Empty => break,
                    NextRequest::Request(request) => {
                        let mut result = g.m.dev.complete(&g.m.mem, request, BlkStatus::Ok, 512);
                        while let Err(retry) = result {
                            misses += 1;
                            result = g.m.dev.complete(&g.m.mem, retry.request, BlkStatus::Ok, 512);
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }

            let used = g.ring.take_used(&g.m.mem);
            assert_eq!(used, [(head, if kind == IN { 513 } else { 21 })]);
            assert_eq!(g.m.mem.get::<1>(STATUS), [OK]);
            if g.m.mem.miss_none() {
                assert!(n > 9);
                break;
            }
            // Deciding about an interrupt is the one place where a miss costs nothing.
            assert!(misses <= 1);
        }
    }
}

#[test]
fn interrupts_follow_the_event_index() {
    let mut g = Guest::new(geometry(1000), F_ALL | F_EVENT_IDX);
    for _ in 0..4 {
        g.submit(FLUSH, 0, &[]);
    }
    g.ring.want_after(&g.m.mem, 2);
    let requests: Vec<BlkRequest> = (0..4).map(|_| g.request()).collect();

    let messages: Vec<bool> = requests
        .into_iter()
        .map(|r| g.m.dev.complete(&g.m.mem, r, BlkStatus::Ok, 0).unwrap().is_some())
        .collect();

    assert_eq!(messages, [false, false, true, false]);
}

#[test]
fn disks_that_cannot_be_are_refused() {
    for bad in [
        VirtioBlk::new(DiskGeometry { block_shift: 8, ..geometry(8) }, 256, 64, 1).map(|_| ()),
        VirtioBlk::new(DiskGeometry { block_shift: 13, ..geometry(8) }, 256, 64, 1).map(|_| ()),
        VirtioBlk::new(geometry(8), 256, 0, 1).map(|_| ()),
    ] {
        assert_eq!(bad, Err(kernel::prelude::EINVAL));
    }
    let odd = VirtioBlk::new(geometry(8), 100, 64, 1).unwrap();
    assert!(crate::virtio::transport::pci::VirtioPci::new(odd).is_err());
}
