// SPDX-License-Identifier: GPL-2.0

//! Virtio network device: packets between the rings and whoever carries them.
//!
//! Follows VIRTIO 1.2, "Network Device". Not modelled: receive filters, VLANs, announcing, RSS, hash
//! reports, notification coalescing.
//!
//! Queues 2n and 2n + 1 are pair n: one to receive, one to transmit. With several pairs there is a
//! control queue after them, in which the driver says how many it uses. For a driver that does not know
//! of several pairs, it comes after the first one.
//!
//! A worker per queue moves the packets, without the device's lock while it does. For a packet to the
//! guest it takes buffers for as many bytes as the packet has ([`VirtioPci::take_room`]), fills them, and
//! gives them back ([`VirtioPci::give_room`]). A packet from the guest is taken with
//! [`VirtioPci::take_packet`], put with others that were [`SentPackets`], and given back with
//! [`VirtioPci::give_packets`]. [`VirtioPci::notify_queue`] tells the driver of all that was given back
//! before. None of this allocates.
//!
//! Every packet begins with a header of 12 bytes, the same that a tap device has in front of its packets.
//! The header goes through unread: who carries the packet has to check it, as Linux's tap does. Only the
//! number of buffers is written here.

use crate::arch::addr::Gpa;
use crate::chipset::pci::PciInterrupt;
use crate::chipset::saved::{state_struct, BadState, HasState, SectionId, StateReader, StateWriter};
use crate::mmu::mem::GuestMem;
use crate::virtio::queue::{QueueBuffer, QueueError, QueueFault, UsedBuffer, VirtQueue};
use crate::virtio::segment::{self, MemSegment, SegmentList};
use crate::virtio::transport::pci::{QueueServed, VirtioDevice, VirtioPci};
use kernel::prelude::*;

mod config;
pub(crate) mod frames;

use config::*;
pub(crate) use config::{NetConfig, NetOffloads, MAX_PAIRS};

/// Bytes of the header in front of each packet.
pub(crate) const HEADER_BYTES: u64 = 12;
/// Where in the header the number of buffers is.
const NUM_BUFFERS: u64 = 10;
/// Entries of a receive or transmit queue.
const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 16;
/// Descriptors that a buffer can have.
pub(crate) const MAX_CHAIN: usize = 64;
/// Buffers that a packet to the guest can be spread over: 64 KiB in buffers of 1 KiB.
const MAX_BUFFERS: usize = 68;
/// Pieces of memory that a packet can consist of.
pub(crate) const MAX_SEGMENTS: usize = 128;
/// Most commands that one call of [`VirtioPci::serve_control`] carries out.
const MAX_COMMANDS: usize = 16;

/// A packet, or room for one, that a worker has taken out of a queue. Made once per worker.
#[derive(Debug)]
pub(crate) struct NetPacket {
    /// The buffers with their bytes.
    buffers: KVec<UsedBuffer>,
    data: SegmentList,
    /// Bytes in `data`.
    bytes: u64,
}

impl NetPacket {
    /// Returns an empty one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<NetPacket> {
        let buffers = KVec::with_capacity(MAX_BUFFERS, GFP_KERNEL_ACCOUNT)?;
        Ok(NetPacket { buffers, data: SegmentList::new(MAX_SEGMENTS)?, bytes: 0 })
    }

    /// Returns the guest memory of the packet, header first, in order, none of it empty. It may lie outside of
    /// the guest's memory.
    pub(crate) fn data(&self) -> &[MemSegment] {
        self.data.as_slice()
    }

    /// Returns the bytes in [`NetPacket::data`].
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns what is wrong with a packet that is not in the guest's memory.
    pub(crate) fn not_memory(&self) -> QueueFault {
        QueueFault::Memory(self.data().first().map_or(Gpa(0), |s| s.gpa))
    }

    /// Returns the buffer of a packet that [`VirtioPci::take_packet`] gave.
    pub(crate) fn buffer(&self) -> Option<UsedBuffer> {
        self.buffers.first().copied()
    }

    fn clear(&mut self) {
        self.buffers.clear();
        self.data.clear();
        self.bytes = 0;
    }

    /// Adds a buffer. `None`: there is no room for another.
    fn add(&mut self, buffer: QueueBuffer, segments: &[MemSegment]) -> Option<()> {
        let bytes = segment::total(segments);
        let len = u32::try_from(bytes).ok()?;
        self.buffers.push_within_capacity(UsedBuffer { buffer, len }).ok()?;
        segments.iter().try_for_each(|s| self.data.push(*s))?;
        self.bytes = self.bytes.saturating_add(bytes);
        Some(())
    }

    /// Sets how many bytes of each buffer are used for a packet of `bytes` bytes. Returns over how many buffers
    /// it is spread.
    fn spread(&mut self, mut bytes: u64) -> u16 {
        let mut filled = 0u16;
        for buffer in &mut self.buffers {
            let here = bytes.min(u64::from(buffer.len));
            bytes = bytes.saturating_sub(here);
            buffer.len = u32::try_from(here).unwrap_or(0);
            if here != 0 {
                filled = filled.saturating_add(1);
            }
        }
        filled
    }
}

/// Packets of the guest's that are to be given back together.
#[derive(Debug)]
pub(crate) struct SentPackets(KVec<UsedBuffer>);

impl SentPackets {
    /// Returns none, with room for `most`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(most: usize) -> Result<SentPackets> {
        Ok(SentPackets(KVec::with_capacity(most, GFP_KERNEL_ACCOUNT)?))
    }

    /// Adds the buffer of one. Returns whether there is room for another.
    #[must_use]
    pub(crate) fn add(&mut self, buffer: UsedBuffer) -> bool {
        // There was room: that is what was said last.
        let _ = self.0.push_within_capacity(buffer);
        self.0.len() < self.0.capacity()
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Removes all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What a worker got.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum TakenPacket {
    /// A packet, or room for one, which has to be given back.
    Packet,
    /// The driver's buffers are too small for the packet, or too many: drop it.
    TooLong,
    /// Not enough buffers; a kick or `AccessEffect::Activated` comes with the next.
    Empty,
    /// The page at this address has to be faulted in, without the lock; then call again.
    NotResident(Gpa),
    /// The driver broke the rules and the device stands still: send the message, if there is one.
    Broken(Option<PciInterrupt>),
}

/// A virtio network device.
#[derive(Debug)]
pub(crate) struct VirtioNet {
    offered: u64,
    accepted: u64,
    /// What the driver switched off again while it runs; a set of features.
    guest_offloads: u64,
    config: [u8; CONFIG_BYTES],
    queues: KVec<u16>,
    max_pairs: u16,
    /// Pairs that the driver uses.
    pairs: u16,
}

impl VirtioNet {
    /// Returns a network card.
    ///
    /// # Errors
    /// `EINVAL`: no pair, or more than [`MAX_PAIRS`]. `ENOMEM`.
    pub(crate) fn new(c: &NetConfig) -> Result<VirtioNet> {
        if c.pairs == 0 || c.pairs > MAX_PAIRS {
            return Err(EINVAL);
        }
        let several = c.pairs > 1;
        let count = usize::from(c.pairs).wrapping_mul(2);
        let mut queues = KVec::from_elem(QUEUE_SIZE, count, GFP_KERNEL_ACCOUNT)?;
        if several {
            queues.push(CONTROL_SIZE, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(VirtioNet {
            offered: c.features(),
            accepted: 0,
            guest_offloads: 0,
            config: c.bytes(),
            queues,
            max_pairs: c.pairs,
            pairs: 1,
        })
    }

    /// Returns how many queues carry packets, for the driver that there is now. The control queue comes after
    /// them.
    fn carriers(&self) -> u16 {
        let pairs = if self.accepted & F_MQ != 0 { self.max_pairs } else { 1 };
        pairs.wrapping_mul(2)
    }

    /// Returns the number of the control queue, if there is one.
    fn control(&self) -> Option<u16> {
        (self.accepted & F_CTRL_VQ != 0).then(|| self.carriers())
    }

    fn set_link_down(&mut self) {
        if let Some(status) = self.config.get_mut(CONFIG_STATUS) {
            *status = 0;
        }
    }

    /// Carries a command out. Returns whether it could be.
    fn command(&mut self, class: u8, command: u8, data: &[u8]) -> bool {
        match (class, command, data) {
            (CLASS_MQ, MQ_PAIRS_SET, [low, high, ..]) if self.accepted & F_MQ != 0 => {
                let pairs = u16::from_le_bytes([*low, *high]);
                let ok = (1..=self.max_pairs).contains(&pairs);
                if ok {
                    self.pairs = pairs;
                }
                ok
            }
            (CLASS_OFFLOADS, OFFLOADS_SET, _) if self.accepted & F_CTRL_GUEST_OFFLOADS != 0 => {
                let Some(bytes) = data.first_chunk::<8>() else { return false };
                let wanted = u64::from_le_bytes(*bytes);
                let ok = wanted & !(self.accepted & GUEST_OFFLOADS) == 0;
                if ok {
                    self.guest_offloads = wanted;
                }
                ok
            }
            _ => false,
        }
    }
}

state_struct! {
    /// What the driver switched by its control queue, and the link.
    struct SavedNet = 16 {
        /// Offloads that are on.
        guest_offloads: u64,
        /// Pairs that the driver uses.
        pairs: u16,
        /// The link is up.
        link_up: u8,
        /// 0.
        pad: [u8; 5],
    }
}

impl HasState for VirtioNet {
    const SECTION: SectionId = SectionId { id: 0x26, version: 1 };
    type State = SavedNet;

    fn save(&self) -> SavedNet {
        let VirtioNet { offered: _, accepted: _, guest_offloads, config, queues: _, max_pairs: _, pairs } =
            self;
        let link_up = config.get(CONFIG_STATUS).copied().unwrap_or(0);
        SavedNet { guest_offloads: *guest_offloads, pairs: *pairs, link_up, pad: [0; 5] }
    }

    fn set_state(&mut self, state: &SavedNet) {
        let most = if self.accepted & F_MQ != 0 { self.max_pairs } else { 1 };
        self.guest_offloads = state.guest_offloads & self.accepted & GUEST_OFFLOADS;
        self.pairs = state.pairs.clamp(1, most.max(1));
        if let Some(status) = self.config.get_mut(CONFIG_STATUS) {
            *status = u8::from(state.link_up != 0);
        }
    }
}

impl VirtioDevice for VirtioNet {
    const TYPE: u16 = 1;
    /// Network controller, Ethernet.
    const CLASS: u32 = 0x02_00_00;

    fn features(&self) -> u64 {
        self.offered
    }

    fn accept(&mut self, features: u64) {
        self.accepted = features;
        self.guest_offloads = features & GUEST_OFFLOADS;
        self.pairs = 1;
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn max_chain(&self) -> usize {
        MAX_CHAIN
    }

    fn save_own(&self, instance: u32, out: &mut StateWriter) {
        out.put(instance, self);
    }

    fn restore_own(&mut self, instance: u32, from: &mut StateReader<'_>) -> Result<(), BadState> {
        from.get(instance, self)
    }

    fn config(&self) -> &[u8] {
        &self.config
    }
}

impl VirtioPci<VirtioNet> {
    /// Returns the most pairs of queues.
    pub(crate) fn max_pairs(&self) -> u16 {
        self.device().max_pairs
    }

    /// Returns how many queues, from the first on, carry packets for the driver that there is now.
    pub(crate) fn carriers(&self) -> u16 {
        self.device().carriers()
    }

    /// Notes that the way to the network has ended. Returns the message that tells the driver, if it can be
    /// told now.
    pub(crate) fn set_link_down(&mut self) -> Option<PciInterrupt> {
        self.device_mut().set_link_down();
        self.config_changed()
    }

    /// Returns the receive queue for what comes through the `lane`-th way to the network: the driver may use
    /// fewer queues than there are ways.
    pub(crate) fn receive_queue(&self, lane: u16) -> u16 {
        lane.checked_rem(self.device().pairs).unwrap_or(0).wrapping_mul(2)
    }

    /// Returns what packets to the guest may leave to it, now. Nothing while the device does not run.
    pub(crate) fn offloads(&self) -> NetOffloads {
        if self.is_running() {
            NetOffloads::of_features(self.device().guest_offloads)
        } else {
            NetOffloads::empty()
        }
    }

    /// Takes room for a packet of `bytes` bytes, header included, out of the receive queue `index`.
    pub(crate) fn take_room<M: GuestMem>(
        &mut self,
        index: u16,
        mem: &M,
        packet: &mut NetPacket,
        bytes: u64,
    ) -> TakenPacket {
        let Some((device, queue)) = self.taking(index) else { return TakenPacket::Empty };
        let merge = device.accepted & F_MRG_RXBUF != 0;
        let mark = queue.mark();
        let taken = gather(queue, mem, packet, bytes, merge);
        // Buffers that do not suffice stay in the queue, for when the driver has added more.
        if taken == Ok(TakenPacket::Packet) {
            self.began();
        } else {
            queue.rewind(mark);
        }
        self.ended_with(taken)
    }

    /// Gives room back that was filled with `bytes` bytes, header included. Returns a message to send if
    /// the queue turned out broken. After a reset the guest's memory is not touched.
    ///
    /// # Errors
    /// The page at this address has to be faulted in, without the lock; then call again.
    pub(crate) fn give_room<M: GuestMem>(
        &mut self,
        index: u16,
        mem: &M,
        packet: &mut NetPacket,
        bytes: u64,
    ) -> Result<Option<PciInterrupt>, Gpa> {
        mem.note_written(packet.data().iter().map(|s| (s.gpa, s.len.into())));
        let done = match self.running(index) {
            Some((_, queue)) => fill_in(queue, mem, packet, bytes),
            None => Ok(()),
        };
        self.given(done, 1)
    }

    /// Takes a packet out of the transmit queue `index`.
    pub(crate) fn take_packet<M: GuestMem>(
        &mut self,
        index: u16,
        mem: &M,
        packet: &mut NetPacket,
    ) -> TakenPacket {
        self.take_packets(index, mem, packet, |_| Ok(false))
    }

    /// Takes packets out of the transmit queue `index`, each into `packet`, and shows them to `each`: as long as
    /// that returns that it wants another one, and the driver is known to have one. Returns what came after
    /// them; [`TakenPacket::Packet`]: perhaps another one. A fault that `each` finds stops the device, and its packet
    /// is not one to be given back.
    #[inline(always)]
    pub(crate) fn take_packets<M: GuestMem>(
        &mut self,
        index: u16,
        mem: &M,
        packet: &mut NetPacket,
        mut each: impl FnMut(&NetPacket) -> Result<bool, QueueFault>,
    ) -> TakenPacket {
        let Some((_, queue)) = self.taking(index) else { return TakenPacket::Empty };
        let mut count = 0u32;
        let end = loop {
            let mark = queue.mark();
            match fetch(queue, mem, packet) {
                Ok(TakenPacket::Packet) => {}
                Ok(end) => break Ok(end),
                Err(e) => {
                    queue.rewind(mark);
                    break Err(e);
                }
            }
            match each(packet) {
                Ok(wants_more) => {
                    count = count.saturating_add(1);
                    if !wants_more || !queue.knows_more() {
                        break Ok(TakenPacket::Packet);
                    }
                }
                Err(fault) => break Err(QueueError::Broken(fault)),
            }
        };
        self.began_some(count);
        self.ended_with(end)
    }

    /// Gives packets back that were carried off, or dropped. As [`VirtioPci::give_room`].
    ///
    /// # Errors
    /// As [`VirtioPci::give_room`].
    pub(crate) fn give_packets<M: GuestMem>(
        &mut self,
        index: u16,
        mem: &M,
        sent: &SentPackets,
    ) -> Result<Option<PciInterrupt>, Gpa> {
        let done = match self.running(index) {
            Some((_, queue)) => queue.add_used_together(mem, &sent.0),
            None => Ok(()),
        };
        self.given(done, sent.len())
    }

    /// Gives up on `count` packets that cannot be given back: the device needs a reset. Returns the message to
    /// send.
    pub(crate) fn abandon_packets(&mut self, why: QueueFault, count: u32) -> Option<PciInterrupt> {
        let message = self.fail(why);
        self.ended_some(count);
        message
    }

    /// Returns the message that tells the driver of what was given back in a queue, if it wants one.
    pub(crate) fn notify_queue<M: GuestMem>(&mut self, index: u16, mem: &M) -> Option<PciInterrupt> {
        self.used(index, mem)
    }

    /// Carries out the commands in the control queue.
    pub(crate) fn serve_control<M: GuestMem>(&mut self, mem: &M) -> QueueServed {
        let Some(index) = self.device().control() else { return QueueServed::Empty(None) };
        for _ in 0..MAX_COMMANDS {
            let Some((device, queue)) = self.taking(index) else { return QueueServed::Empty(None) };
            let mark = queue.mark();
            match obey(device, queue, mem) {
                Ok(true) => {}
                Ok(false) => return QueueServed::Empty(self.used(index, mem)),
                Err(QueueError::NotResident(gpa)) => {
                    queue.rewind(mark);
                    return QueueServed::NotResident(gpa, self.used(index, mem));
                }
                Err(QueueError::Broken(fault)) => return QueueServed::Broken(self.fail(fault)),
            }
        }
        QueueServed::More(self.used(index, mem))
    }

    fn ended_with(&mut self, taken: Result<TakenPacket, QueueError>) -> TakenPacket {
        match taken {
            Ok(taken) => taken,
            Err(QueueError::NotResident(gpa)) => TakenPacket::NotResident(gpa),
            Err(QueueError::Broken(fault)) => TakenPacket::Broken(self.fail(fault)),
        }
    }

    fn given(&mut self, done: Result<(), QueueError>, count: u32) -> Result<Option<PciInterrupt>, Gpa> {
        match done {
            Ok(()) => {
                self.ended_some(count);
                Ok(None)
            }
            Err(QueueError::NotResident(gpa)) => Err(gpa),
            Err(QueueError::Broken(fault)) => Ok(self.abandon_packets(fault, count)),
        }
    }
}

/// Collects buffers for `bytes` bytes; only one where they may not be merged.
fn gather<M: GuestMem>(
    queue: &mut VirtQueue,
    mem: &M,
    packet: &mut NetPacket,
    bytes: u64,
    merge: bool,
) -> Result<TakenPacket, QueueError> {
    packet.clear();
    loop {
        let Some(chain) = queue.pop(mem)? else { return Ok(TakenPacket::Empty) };
        if chain.writable.is_empty() {
            return Err(QueueError::Broken(QueueFault::Malformed));
        }
        if packet.add(chain.buffer, chain.writable).is_none() {
            return Ok(TakenPacket::TooLong);
        }
        if packet.bytes >= bytes {
            return Ok(TakenPacket::Packet);
        }
        if !merge {
            return Ok(TakenPacket::TooLong);
        }
    }
}

/// Completes the header and puts the buffers into the used ring.
fn fill_in<M: GuestMem>(
    queue: &mut VirtQueue,
    mem: &M,
    packet: &mut NetPacket,
    bytes: u64,
) -> Result<(), QueueError> {
    // How much of a buffer is used does not change what is left of it: this can be called again.
    let buffers = packet.spread(bytes).max(1).to_le_bytes();
    segment::write_segments_at(mem, packet.data.as_slice(), NUM_BUFFERS, &buffers)?;
    queue.add_used_together(mem, &packet.buffers)
}

/// Takes a packet of the guest's.
#[inline(always)]
fn fetch<M: GuestMem>(
    queue: &mut VirtQueue,
    mem: &M,
    packet: &mut NetPacket,
) -> Result<TakenPacket, QueueError> {
    packet.clear();
    // There is room for the longest chain.
    let Some(popped) = queue.pop_into(mem, &mut packet.data)? else { return Ok(TakenPacket::Empty) };
    // The device writes nothing to a packet of the guest's, whatever the driver says it may.
    packet.data.truncate(popped.readable);
    packet.bytes = popped.readable_bytes;
    let pushed = packet.buffers.push_within_capacity(UsedBuffer { buffer: popped.buffer, len: 0 });
    if packet.bytes < HEADER_BYTES || pushed.is_err() {
        return Err(QueueError::Broken(QueueFault::Malformed));
    }
    Ok(TakenPacket::Packet)
}

/// Carries out one command. Returns whether there was one.
fn obey<M: GuestMem>(device: &mut VirtioNet, queue: &mut VirtQueue, mem: &M) -> Result<bool, QueueError> {
    let Some(chain) = queue.pop(mem)? else { return Ok(false) };
    let buffer = chain.buffer;
    let bytes = segment::total(chain.readable).min(COMMAND_BYTES as u64);
    let mut command = [0u8; COMMAND_BYTES];
    let command = command.get_mut(..bytes as usize).unwrap_or(&mut []);
    segment::read_segments(mem, chain.readable, 0, command)?;
    let answer = chain.writable.first().map(|s| s.gpa).ok_or(QueueError::Broken(QueueFault::Malformed))?;
    // Carrying a command out twice does no harm, if the answer's page is missing now.
    let done = match command {
        [class, command, data @ ..] => device.command(*class, *command, data),
        _ => return Err(QueueError::Broken(QueueFault::Malformed)),
    };
    mem.write(answer, &[u8::from(!done)])?;
    queue.add_used(mem, buffer, 1)?;
    Ok(true)
}
