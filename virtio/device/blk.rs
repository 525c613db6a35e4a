// SPDX-License-Identifier: GPL-2.0

//! Virtio block device: from buffers to typed requests, and back.
//!
//! Follows VIRTIO 1.2, "Block Device". One queue or several, which have nothing to do with each other.
//! Not modelled: SCSI commands, secure erase, zoned
//! devices, lifetime, a cache mode that the driver can change, several ranges in one discard.
//!
//! The device holds no file. A worker takes a [`BlkRequest`] out with [`VirtioPci::next`], does the
//! transfer from and to guest memory without the device's lock, and hands the request back with
//! [`VirtioPci::give_back`]; one [`VirtioPci::notify`] tells the driver of several. Whatever needs no
//! transfer (a bad request, the serial number) is answered inside. Requests come from a pool of the
//! queue, so none of this allocates; an empty pool gives [`NextRequest::Full`].
//!
//! Requests may be carried out and handed back in any order, as VIRTIO allows: a driver that wants one
//! after the other waits for the first. [`BlkOp::Flush`] concerns writes that were handed back before.
//!
//! | request | readable part | writable part |
//! |---|---|---|
//! | read | header | data, status |
//! | write | header, data | status |
//! | flush | header | status |
//! | discard, write zeroes | header, range | status |
//! | get id | header | 20 bytes, status |
//!
//! The header is the first 16 readable bytes and the status the last writable one, wherever the
//! descriptors begin and end: "Message Framing".

use crate::arch::addr::Gpa;
use crate::chipset::pci::PciInterrupt;
use crate::mmu::mem::GuestMem;
use crate::virtio::queue::{BufferChain, QueueBuffer, QueueError, QueueFault, VirtQueue};
use crate::virtio::segment::{self, MemSegment, SegmentList};
use crate::virtio::transport::pci::{VirtioDevice, VirtioPci};
use kernel::prelude::*;

mod config;

use config::{config_of, set_capacity, CONFIG_BYTES, MAX_DISCARD_SECTORS, MAX_ZEROES_SECTORS};
pub(crate) use config::{DiskGeometry, ID_BYTES, SECTOR_SHIFT};

/// Most data segments that a request can have.
pub(crate) const SEG_MAX: u16 = 126;
/// Descriptors for header and status.
const FRAME: u16 = 2;
/// Most queues.
pub(crate) const MAX_QUEUES: u16 = 16;

const HEADER_BYTES: u64 = 16;
const RANGE_BYTES: u64 = 16;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

/// Flag of a range: the device may deallocate the sectors that it zeroes.
const RANGE_UNMAP: u32 = 1;

/// VIRTIO_BLK_F_SEG_MAX.
const F_SEG_MAX: u64 = 1 << 2;
/// VIRTIO_BLK_F_RO.
const F_RO: u64 = 1 << 5;
/// VIRTIO_BLK_F_BLK_SIZE.
const F_BLK_SIZE: u64 = 1 << 6;
/// VIRTIO_BLK_F_FLUSH.
const F_FLUSH: u64 = 1 << 9;
/// VIRTIO_BLK_F_TOPOLOGY.
const F_TOPOLOGY: u64 = 1 << 10;
/// VIRTIO_BLK_F_MQ.
const F_MQ: u64 = 1 << 12;
/// VIRTIO_BLK_F_DISCARD.
const F_DISCARD: u64 = 1 << 13;
/// VIRTIO_BLK_F_WRITE_ZEROES.
const F_WRITE_ZEROES: u64 = 1 << 14;

/// The result of a request, as the status byte has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlkStatus {
    /// Done.
    Ok,
    /// Not done: bad position, read-only, or the host failed.
    IoErr,
    /// The device does not know such requests.
    Unsupported,
}

impl BlkStatus {
    /// Returns the status byte.
    pub(crate) const fn byte(self) -> u8 {
        match self {
            BlkStatus::Ok => 0,
            BlkStatus::IoErr => 1,
            BlkStatus::Unsupported => 2,
        }
    }
}

/// What a worker has to do. Positions and counts are in sectors of 512 bytes, inside the capacity,
/// and multiples of the block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlkOp {
    /// Reads from the disk into the request's segments.
    Read {
        /// First sector.
        sector: u64,
    },
    /// Writes the request's segments to the disk.
    Write {
        /// First sector.
        sector: u64,
        /// The driver cannot flush: the data has to be on stable storage before completion.
        durable: bool,
    },
    /// Brings all writes that are complete to stable storage.
    Flush,
    /// Drops the contents of sectors; what they read as afterwards is open.
    Discard {
        /// First sector.
        sector: u64,
        /// Sectors.
        count: u32,
    },
    /// Makes sectors read as zeroes.
    WriteZeroes {
        /// First sector.
        sector: u64,
        /// Sectors.
        count: u32,
        /// The sectors may be deallocated for it.
        unmap: bool,
    },
}

impl BlkOp {
    /// Returns the request type as virtio numbers it. VIRTIO 1.2, "Block Device", "Device Operation".
    pub(crate) const fn kind(self) -> u32 {
        match self {
            BlkOp::Read { .. } => T_IN,
            BlkOp::Write { .. } => T_OUT,
            BlkOp::Flush => T_FLUSH,
            BlkOp::Discard { .. } => T_DISCARD,
            BlkOp::WriteZeroes { .. } => T_WRITE_ZEROES,
        }
    }
}

/// A request that a worker owns until it hands it to [`VirtioPci::give_back`].
///
/// It goes through many hands on its way, so it is a pointer.
#[derive(Debug)]
#[must_use]
pub(crate) struct BlkRequest(KBox<BlkOrder>);

/// What a request says.
#[derive(Debug)]
struct BlkOrder {
    op: BlkOp,
    queue: u16,
    buffer: QueueBuffer,
    status: Gpa,
    bytes: u64,
    data: SegmentList,
}

impl BlkRequest {
    /// Returns what to do.
    pub(crate) fn op(&self) -> BlkOp {
        self.0.op
    }

    /// Returns what the driver knows the request by: see [`QueueBuffer::id`].
    pub(crate) fn buffer_id(&self) -> u16 {
        self.0.buffer.id
    }

    /// Returns the guest memory to transfer, in order, none of it empty; for reads and writes only.
    /// It may lie outside of the guest's memory: the transfer then fails with [`BlkStatus::IoErr`].
    pub(crate) fn data(&self) -> &[MemSegment] {
        self.0.data.as_slice()
    }

    /// Returns the bytes in [`BlkRequest::data`], a multiple of the block size.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Returns whether each segment starts and ends on a multiple of `align`, a power of two: what
    /// direct I/O wants.
    pub(crate) fn is_aligned(&self, align: u32) -> bool {
        let mask = u64::from(align.wrapping_sub(1));
        self.data().iter().all(|s| (s.gpa.0 | u64::from(s.len)) & mask == 0)
    }
}

/// A request that could not be completed yet: its pages have to be faulted in first.
#[derive(Debug)]
pub(crate) struct NotCompleted {
    /// The request, to be completed again with the same result.
    pub(crate) request: BlkRequest,
    /// An address in the page that is missing.
    pub(crate) gpa: Gpa,
}

/// What [`VirtioPci::next`] found.
#[derive(Debug)]
pub(crate) enum NextRequest {
    /// A request for the worker.
    Request(BlkRequest),
    /// A request that was answered at once: send the message, if there is one, and call again.
    Answered(Option<PciInterrupt>),
    /// No request; a [`kick`](crate::virtio::transport::pci::kick) or `AccessEffect::Activated` comes with the next.
    Empty,
    /// All requests of the pool are in flight: call again after a completion. No kick will come.
    Full,
    /// The page at this address has to be faulted in, without the lock; then call again.
    NotResident(Gpa),
    /// The driver broke the rules and the device stands still: send the message, if there is one.
    Broken(Option<PciInterrupt>),
}

/// A virtio block device.
#[derive(Debug)]
pub(crate) struct VirtioBlk {
    geometry: DiskGeometry,
    config: [u8; CONFIG_BYTES],
    /// Largest size of each queue.
    queues: KVec<u16>,
    max_chain: usize,
    accepted: u64,
    /// One for each queue.
    pools: KVec<OrderPool>,
}

/// The requests of a queue that can be in flight, each with room for its segments.
#[derive(Debug)]
struct OrderPool {
    /// The first `free` are here, the others are lent.
    orders: KVec<Option<KBox<BlkOrder>>>,
    free: usize,
}

impl OrderPool {
    fn new(depth: usize, max_chain: usize) -> Result<OrderPool> {
        let mut orders = KVec::with_capacity(depth, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..depth {
            let data = SegmentList::new(max_chain)?;
            let order = BlkOrder {
                op: BlkOp::Flush,
                queue: 0,
                buffer: QueueBuffer::default(),
                status: Gpa(0),
                bytes: 0,
                data,
            };
            orders.push_within_capacity(Some(KBox::new(order, GFP_KERNEL_ACCOUNT)?))?;
        }
        Ok(OrderPool { orders, free: depth })
    }

    /// Takes one out, without data.
    fn lend(&mut self) -> Option<KBox<BlkOrder>> {
        let last = self.free.checked_sub(1)?;
        let mut order = self.orders.get_mut(last)?.take()?;
        self.free = last;
        order.data.clear();
        Some(order)
    }

    /// Puts it back.
    fn recycle(&mut self, order: KBox<BlkOrder>) {
        if let Some(place) = self.orders.get_mut(self.free) {
            *place = Some(order);
            self.free = self.free.wrapping_add(1);
        }
    }
}

const TOO_LONG: QueueError = QueueError::Broken(QueueFault::TooLong);

/// What a buffer asks for: work on `bytes` bytes of it from `skip` on, or only an answer.
enum ParsedBuffer {
    Work { op: BlkOp, skip: u64, bytes: u64 },
    Answer { status: BlkStatus, len: u32 },
}

/// What became of a buffer.
enum TakenBuffer {
    Request(BlkRequest),
    Answer(BlkAnswer),
}

/// An answer that needs no work.
struct BlkAnswer {
    buffer: QueueBuffer,
    /// Where the status goes.
    at: Gpa,
    status: BlkStatus,
    /// Bytes written to the buffer.
    len: u32,
}

impl BlkAnswer {
    fn give<M: GuestMem>(&self, queue: &mut VirtQueue, mem: &M) -> Result<(), QueueError> {
        mem.write(self.at, &[self.status.byte()])?;
        queue.add_used(mem, self.buffer, self.len)
    }
}

/// What [`VirtioBlk::next`] found.
enum BlkStep {
    Request(BlkRequest),
    Answered,
    Empty,
    Full,
}

impl VirtioBlk {
    /// Returns a disk with `queues` queues of `queue_size` entries (a power of two), of each of which at
    /// most `depth` are in flight at a time.
    ///
    /// # Errors
    /// `EINVAL`: the block size, the depth or the number of queues is none. `ENOMEM`.
    pub(crate) fn new(geometry: DiskGeometry, queue_size: u16, depth: u16, queues: u16) -> Result<VirtioBlk> {
        let has_queues = (1..=MAX_QUEUES).contains(&queues);
        if !(SECTOR_SHIFT..=12).contains(&geometry.block_shift) || depth == 0 || !has_queues {
            return Err(EINVAL);
        }
        // A driver must not make a buffer of more descriptors than the queue has.
        let seg_max = queue_size.saturating_sub(FRAME).clamp(1, SEG_MAX);
        let max_chain = usize::from(seg_max.wrapping_add(FRAME));
        let depth = usize::from(depth.min(queue_size));
        let mut pools = KVec::with_capacity(queues.into(), GFP_KERNEL_ACCOUNT)?;
        for _ in 0..queues {
            pools.push_within_capacity(OrderPool::new(depth, max_chain)?)?;
        }
        let config = config_of(&geometry, seg_max, queues);
        let queues = KVec::from_elem(queue_size, queues.into(), GFP_KERNEL_ACCOUNT)?;
        Ok(VirtioBlk { geometry, config, queues, max_chain, accepted: 0, pools })
    }

    #[inline(always)]
    fn next<M: GuestMem>(
        &mut self,
        index: u16,
        queue: &mut VirtQueue,
        mem: &M,
    ) -> Result<BlkStep, QueueError> {
        // Before the pop: without an order there would be nowhere to keep the buffer.
        if self.pools.get(usize::from(index)).is_none_or(|pool| pool.free == 0) {
            return Ok(BlkStep::Full);
        }
        let mark = queue.mark();
        let Some(chain) = queue.pop(mem)? else { return Ok(BlkStep::Empty) };
        let done = match self.take(index, &chain, mem) {
            Ok(TakenBuffer::Request(request)) => Ok(BlkStep::Request(request)),
            Ok(TakenBuffer::Answer(answer)) => answer.give(queue, mem).map(|()| BlkStep::Answered),
            Err(e) => Err(e),
        };
        if let Err(QueueError::NotResident(_)) = done {
            queue.rewind(mark);
        }
        done
    }

    /// Makes a request of a buffer, or the answer to it.
    #[inline(always)]
    fn take<M: GuestMem>(
        &mut self,
        queue: u16,
        chain: &BufferChain<'_>,
        mem: &M,
    ) -> Result<TakenBuffer, QueueError> {
        let buffer = chain.buffer;
        let at = status_byte(chain).ok_or(QueueError::Broken(QueueFault::Malformed))?;
        Ok(match self.parse(chain, mem)? {
            ParsedBuffer::Answer { status, len } => {
                TakenBuffer::Answer(BlkAnswer { buffer, at, status, len })
            }
            ParsedBuffer::Work { op, skip, bytes } => {
                let from = if matches!(op, BlkOp::Read { .. }) { chain.writable } else { chain.readable };
                // The pool is not empty: `next()` saw to it. There is room for the longest chain.
                let pool = self.pools.get_mut(usize::from(queue));
                let mut order = pool.and_then(OrderPool::lend).ok_or(TOO_LONG)?;
                for segment in segment::slice(from, skip, bytes) {
                    order.data.push(segment).ok_or(TOO_LONG)?;
                }
                order.op = op;
                order.queue = queue;
                order.buffer = buffer;
                order.status = at;
                order.bytes = bytes;
                TakenBuffer::Request(BlkRequest(order))
            }
        })
    }

    /// Reads the header and checks all that can be checked without the disk.
    #[inline(always)]
    fn parse<M: GuestMem>(&self, chain: &BufferChain<'_>, mem: &M) -> Result<ParsedBuffer, QueueError> {
        let in_front = chain.readable.first().is_some_and(|first| u64::from(first.len) >= HEADER_BYTES);
        if !in_front && segment::total(chain.readable) < HEADER_BYTES {
            return Err(QueueError::Broken(QueueFault::Malformed));
        }
        let out = || segment::total(chain.readable).saturating_sub(HEADER_BYTES);
        let mut header = [0; HEADER_BYTES as usize];
        segment::read_segments(mem, chain.readable, 0, &mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        // Without the status byte, which is there.
        let into = || segment::total(chain.writable).saturating_sub(1);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            T_IN => Ok(self.transfer(BlkOp::Read { sector }, sector, into())),
            T_OUT if self.geometry.read_only => Ok(FAILED),
            T_OUT => {
                let durable = self.accepted & F_FLUSH == 0;
                Ok(self.transfer(BlkOp::Write { sector, durable }, sector, out()))
            }
            T_FLUSH => Ok(work(BlkOp::Flush)),
            T_GET_ID => {
                let serial = self.geometry.serial.get(..into().min(ID_BYTES as u64) as usize).unwrap_or(&[]);
                let written = segment::write_segments(mem, chain.writable, serial)?;
                Ok(ParsedBuffer::Answer { status: BlkStatus::Ok, len: written.saturating_add(1) })
            }
            T_DISCARD if self.accepted & F_DISCARD != 0 => self.range(chain, mem, out(), T_DISCARD),
            T_WRITE_ZEROES if self.accepted & F_WRITE_ZEROES != 0 => {
                self.range(chain, mem, out(), T_WRITE_ZEROES)
            }
            _ => Ok(ParsedBuffer::Answer { status: BlkStatus::Unsupported, len: 1 }),
        }
    }

    /// Checks a read or a write of `bytes` bytes.
    fn transfer(&self, op: BlkOp, sector: u64, bytes: u64) -> ParsedBuffer {
        let whole = bytes & (1u64 << SECTOR_SHIFT).wrapping_sub(1) == 0;
        if !whole || !self.is_inside(sector, bytes >> SECTOR_SHIFT) {
            return FAILED;
        }
        if bytes == 0 {
            return ParsedBuffer::Answer { status: BlkStatus::Ok, len: 1 };
        }
        let skip = if matches!(op, BlkOp::Read { .. }) { 0 } else { HEADER_BYTES };
        ParsedBuffer::Work { op, skip, bytes }
    }

    /// Checks a discard or a write-zeroes request with its one range.
    fn range<M: GuestMem>(
        &self,
        chain: &BufferChain<'_>,
        mem: &M,
        bytes: u64,
        kind: u32,
    ) -> Result<ParsedBuffer, QueueError> {
        // A read-only disk offers neither, so the driver did not get here on one.
        if bytes != RANGE_BYTES {
            return Ok(FAILED);
        }
        let mut range = [0; RANGE_BYTES as usize];
        segment::read_segments(mem, chain.readable, HEADER_BYTES, &mut range)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3, f0, f1, f2, f3] = range;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let count = u32::from_le_bytes([c0, c1, c2, c3]);
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        let (known, most) = match kind {
            T_DISCARD => (0, MAX_DISCARD_SECTORS),
            _ => (RANGE_UNMAP, MAX_ZEROES_SECTORS),
        };
        // VIRTIO, "Block Device", "Device Operation": unknown flags, and unmap in a discard, are answered UNSUPP, not
        // IOERR.
        if flags & !known != 0 {
            return Ok(ParsedBuffer::Answer { status: BlkStatus::Unsupported, len: 1 });
        }
        if count > most || !self.is_inside(sector, u64::from(count)) {
            return Ok(FAILED);
        }
        if count == 0 {
            return Ok(ParsedBuffer::Answer { status: BlkStatus::Ok, len: 1 });
        }
        Ok(work(if kind == T_DISCARD {
            BlkOp::Discard { sector, count }
        } else {
            BlkOp::WriteZeroes { sector, count, unmap: flags & RANGE_UNMAP != 0 }
        }))
    }

    /// Returns whether the sectors exist and are whole blocks.
    fn is_inside(&self, sector: u64, count: u64) -> bool {
        let end = sector.checked_add(count);
        end.is_some_and(|end| end <= self.geometry.sectors)
            && (sector | count) & self.geometry.block_mask() == 0
    }
}

const FAILED: ParsedBuffer = ParsedBuffer::Answer { status: BlkStatus::IoErr, len: 1 };

fn work(op: BlkOp) -> ParsedBuffer {
    ParsedBuffer::Work { op, skip: 0, bytes: 0 }
}

/// Returns where the status goes: the last writable byte.
fn status_byte(chain: &BufferChain<'_>) -> Option<Gpa> {
    let last = chain.writable.last()?;
    Some(last.gpa.wrapping_add(u64::from(last.len.checked_sub(1)?)))
}

impl VirtioDevice for VirtioBlk {
    const TYPE: u16 = 2;
    /// Mass storage, SCSI: what other hosts use, too.
    const CLASS: u32 = 0x01_00_00;

    fn features(&self) -> u64 {
        let mut features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY;
        if self.geometry.read_only {
            features |= F_RO;
        }
        if self.geometry.discard && !self.geometry.read_only {
            features |= F_DISCARD | F_WRITE_ZEROES;
        }
        if self.queues.len() > 1 {
            features |= F_MQ;
        }
        features
    }

    fn accept(&mut self, features: u64) {
        self.accepted = features;
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn max_chain(&self) -> usize {
        self.max_chain
    }

    fn config(&self) -> &[u8] {
        &self.config
    }
}

impl VirtioPci<VirtioBlk> {
    /// Returns how many requests of a queue can be out at a time.
    pub(crate) fn depth(&self) -> u16 {
        let orders = self.device().pools.first().map_or(0, |pool| pool.orders.len());
        u16::try_from(orders).unwrap_or(u16::MAX)
    }

    /// Takes over a size that may have grown; a driver keeps what it was told of a larger one. Returns the message that
    /// tells it.
    pub(crate) fn grow(&mut self, sectors: u64) -> Option<PciInterrupt> {
        let disk = self.device_mut();
        let larger = DiskGeometry { sectors, ..disk.geometry };
        // A disk never shrinks under its driver, which may have requests beyond the new end: they fail one by one.
        if larger.capacity() <= disk.geometry.capacity() {
            return None;
        }
        disk.geometry = larger;
        set_capacity(&mut disk.config, &larger);
        self.config_changed()
    }

    /// Returns the number of queues.
    pub(crate) fn queues(&self) -> u16 {
        u16::try_from(self.device().queues.len()).unwrap_or(u16::MAX)
    }

    /// Takes the next request out of a queue.
    ///
    /// To be called again until it gives [`NextRequest::Empty`] or [`NextRequest::Full`].
    #[inline(always)]
    pub(crate) fn next<M: GuestMem>(&mut self, index: u16, mem: &M) -> NextRequest {
        let Some((device, queue)) = self.taking(index) else { return NextRequest::Empty };
        match device.next(index, queue, mem) {
            Ok(BlkStep::Request(request)) => {
                self.began();
                NextRequest::Request(request)
            }
            Ok(BlkStep::Answered) => NextRequest::Answered(self.used(index, mem)),
            Ok(BlkStep::Empty) => NextRequest::Empty,
            Ok(BlkStep::Full) => NextRequest::Full,
            Err(QueueError::NotResident(gpa)) => NextRequest::NotResident(gpa),
            Err(QueueError::Broken(fault)) => NextRequest::Broken(self.fail(fault)),
        }
    }

    /// Hands a request back, in any order, without telling the driver: see [`VirtioPci::notify`].
    /// `transferred` are the bytes of its data that a read wrote to guest memory, from the first on.
    /// Returns a message to send if the queue turned out broken.
    ///
    /// After a reset, or when the device stands still, the request is dropped without touching guest
    /// memory.
    ///
    /// # Errors
    /// [`NotCompleted`]: a page has to be faulted in, without the lock; then call again.
    pub(crate) fn give_back<M: GuestMem>(
        &mut self,
        mem: &M,
        request: BlkRequest,
        status: BlkStatus,
        transferred: u64,
    ) -> Result<Option<PciInterrupt>, NotCompleted> {
        if matches!(request.op(), BlkOp::Read { .. }) {
            // All of it, for what failed may have been written in part; also of one that has been reset.
            mem.note_written(request.data().iter().map(|s| (s.gpa, s.len.into())));
        }
        let done = match self.running(request.0.queue) {
            Some((_, queue)) => finish(queue, mem, &request.0, status, transferred),
            None => Ok(()),
        };
        match done {
            Ok(()) => {
                self.drop_request(request);
                Ok(None)
            }
            Err(QueueError::NotResident(gpa)) => Err(NotCompleted { request, gpa }),
            Err(QueueError::Broken(fault)) => Ok(self.abandon(request, fault)),
        }
    }

    /// Returns the message that tells the driver of the requests of a queue that were handed back, if it
    /// wants one. Also when the device has stopped since: the message may then come later. A driver that
    /// resets the device is told nothing more.
    pub(crate) fn notify<M: GuestMem>(&mut self, index: u16, mem: &M) -> Option<PciInterrupt> {
        if self.is_resetting() {
            return None;
        }
        self.used(index, mem)
    }

    /// Hands one request back and returns the message to send: [`VirtioPci::give_back`] and
    /// [`VirtioPci::notify`].
    ///
    /// # Errors
    /// As [`VirtioPci::give_back`].
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn complete<M: GuestMem>(
        &mut self,
        mem: &M,
        request: BlkRequest,
        status: BlkStatus,
        transferred: u64,
    ) -> Result<Option<PciInterrupt>, NotCompleted> {
        let index = request.0.queue;
        let broken = self.give_back(mem, request, status, transferred)?;
        Ok(broken.or_else(|| self.notify(index, mem)))
    }

    /// Gives up on a request that cannot be handed back, and with it on the queue: the device needs a
    /// reset. Returns the message to send.
    pub(crate) fn abandon(&mut self, request: BlkRequest, why: QueueFault) -> Option<PciInterrupt> {
        let message = self.fail(why);
        self.drop_request(request);
        message
    }

    fn drop_request(&mut self, request: BlkRequest) {
        if let Some(pool) = self.device_mut().pools.get_mut(usize::from(request.0.queue)) {
            pool.recycle(request.0);
        }
        self.ended();
    }
}

fn finish<M: GuestMem>(
    queue: &mut VirtQueue,
    mem: &M,
    order: &BlkOrder,
    status: BlkStatus,
    transferred: u64,
) -> Result<(), QueueError> {
    let written = match order.op {
        BlkOp::Read { .. } => transferred.min(order.bytes),
        _ => 0,
    };
    // The status byte counts only if all before it was written.
    let len = match order.op {
        BlkOp::Read { .. } if written < order.bytes => written,
        _ => written.saturating_add(1),
    };
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    BlkAnswer { buffer: order.buffer, at: order.status, status, len }.give(queue, mem)
}
