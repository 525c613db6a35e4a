// SPDX-License-Identifier: GPL-2.0

//! Virtio console: bytes between the rings and whoever is at the console.
//!
//! Follows VIRTIO 1.2, "Console Device": one port, its size told at the start, emergency writes. Not
//! modelled: several ports, a size that changes.
//!
//! Both sides meet in two rings of bytes, as with the UART:
//!
//! ```text
//! guest: transmit queue -> output ring (64 KiB) -> drain_output()
//! guest: receive queue <- input ring (4 KiB) <- push_input()
//! ```
//!
//! Nothing here sleeps: the queues are served by the vCPU that kicks them, and the receive queue also by
//! whoever brings input. A buffer of the guest's is used up as soon as it is in the output ring. Of a console that
//! waits for its reader a buffer stays in the queue while the ring is full, and the queue is served again when the
//! reader has made room; of another one the newest output is kept, whether anybody reads or not.

use crate::arch::addr::AccessWidth;
use crate::arch::ring::ByteRing;
use crate::chipset::saved::{state_struct, BadState, HasState, SectionId, StateReader, StateWriter};
use crate::mmu::mem::GuestMem;
use crate::virtio::queue::{QueueError, QueueFault, VirtQueue};
use crate::virtio::segment;
use crate::virtio::transport::pci::{QueueServed, VirtioDevice, VirtioPci};
use kernel::prelude::*;

/// VIRTIO_CONSOLE_F_SIZE.
const F_SIZE: u64 = 1 << 0;
/// VIRTIO_CONSOLE_F_EMERG_WRITE.
const F_EMERG_WRITE: u64 = 1 << 2;

/// The port's queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Entries of each.
const QUEUE_SIZE: u16 = 64;
/// Descriptors that a buffer can have.
const MAX_CHAIN: usize = 64;
/// Most buffers of a queue that one call serves, under the device's lock.
const MAX_BUFFERS: usize = 64;
/// Most bytes of output that it moves.
const MAX_BYTES: u64 = 16 << 10;
/// Bytes moved at a time, on the stack.
const CHUNK: usize = 256;

/// Bytes of guest output that are kept for the console.
const OUTPUT: usize = 64 << 10;
/// Bytes of console input that are kept for the guest.
const INPUT: usize = 4 << 10;

/// Columns, rows, number of ports, emergency write.
const CONFIG_BYTES: usize = 12;
const CONFIG_EMERG_WRITE: u32 = 8;

/// A virtio console.
#[derive(Debug)]
pub(crate) struct VirtioConsole {
    config: [u8; CONFIG_BYTES],
    has_size: bool,
    input: ByteRing,
    output: ByteRing,
    /// What is full waits for its reader; else the newest output is kept.
    waits: bool,
    /// A buffer waits for room.
    is_waiting: bool,
    /// Bytes of output that nobody read.
    lost: u64,
    /// Bytes of the buffer that the transmit queue gives next that were taken already.
    taken: u64,
    /// Readers were woken and have not read since.
    told: bool,
    /// A writer found no room.
    full: bool,
}

impl VirtioConsole {
    /// Returns a console of so many columns and rows; 0 to say nothing of its size.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(columns: u16, rows: u16) -> Result<VirtioConsole> {
        let ([c0, c1], [r0, r1]) = (columns.to_le_bytes(), rows.to_le_bytes());
        Ok(VirtioConsole {
            // One port, as far as anybody asks.
            config: [c0, c1, r0, r1, 1, 0, 0, 0, 0, 0, 0, 0],
            has_size: columns != 0 && rows != 0,
            input: ByteRing::new(INPUT)?,
            output: ByteRing::new(OUTPUT)?,
            waits: false,
            is_waiting: false,
            lost: 0,
            taken: 0,
            told: false,
            full: false,
        })
    }

    /// Makes output wait for its reader.
    pub(crate) fn wait_for_reader(self, waits: bool) -> VirtioConsole {
        VirtioConsole { waits, ..self }
    }

    /// Puts output into the ring.
    fn put(&mut self, bytes: &[u8]) {
        let lost = match self.waits {
            true => bytes.len().saturating_sub(self.output.push_some(bytes)),
            false => self.output.push_newest(bytes),
        };
        self.lost = self.lost.saturating_add(lost as u64);
    }

    /// Moves a buffer's bytes to the output ring as far as they fit, at most `left` of them, which becomes less by
    /// as many.
    fn transmit<M: GuestMem>(
        &mut self,
        queue: &mut VirtQueue,
        mem: &M,
        left: &mut u64,
    ) -> Result<BufferMoved, QueueError> {
        let Some(chain) = queue.pop(mem)? else { return Ok(BufferMoved::Nothing) };
        let total = segment::total(chain.readable);
        if !self.waits {
            // Of what is longer than the ring only the end would stay there.
            let beyond = total.saturating_sub(OUTPUT as u64);
            self.lost = self.lost.saturating_add(beyond.saturating_sub(self.taken));
            self.taken = self.taken.max(beyond);
        }
        while self.taken < total {
            let room = if self.waits { self.output.room() } else { CHUNK };
            if room == 0 {
                self.is_waiting = true;
                return Ok(BufferMoved::Nothing);
            }
            if *left == 0 {
                return Ok(BufferMoved::Part);
            }
            let mut chunk = [0; CHUNK];
            let n = total.saturating_sub(self.taken).min(CHUNK.min(room) as u64).min(*left);
            let chunk = chunk.get_mut(..n as usize).unwrap_or(&mut []);
            segment::read_segments(mem, chain.readable, self.taken, chunk)?;
            self.put(chunk);
            self.taken = self.taken.saturating_add(n);
            *left = left.saturating_sub(n);
        }
        let buffer = chain.buffer;
        queue.add_used(mem, buffer, 0)?;
        // Not before the buffer is back: when that has to be tried again, nothing of it must be output twice.
        self.taken = 0;
        Ok(BufferMoved::Buffer)
    }

    /// Moves waiting input into a buffer, if there are both. All that can wait is less than one call may move.
    fn receive<M: GuestMem>(
        &mut self,
        queue: &mut VirtQueue,
        mem: &M,
        _left: &mut u64,
    ) -> Result<BufferMoved, QueueError> {
        if self.input.len() == 0 {
            return Ok(BufferMoved::Nothing);
        }
        let Some(chain) = queue.pop(mem)? else { return Ok(BufferMoved::Nothing) };
        let room = segment::total(chain.writable);
        if room == 0 {
            return Err(QueueError::Broken(QueueFault::Malformed));
        }
        let total = room.min(self.input.len() as u64);
        let mut written = 0u64;
        while written < total {
            let mut chunk = [0; CHUNK];
            let n = total.saturating_sub(written).min(CHUNK as u64);
            let chunk = chunk.get_mut(..n as usize).unwrap_or(&mut []);
            self.input.peek(written as usize, chunk);
            segment::write_segments_at(mem, chain.writable, written, chunk)?;
            written = written.saturating_add(n);
        }
        let buffer = chain.buffer;
        queue.add_used(mem, buffer, (total & 0xffff_ffff) as u32)?;
        // Last, so that a buffer that could not be given back gets the same bytes when that is tried again.
        self.input.consume(total as usize);
        Ok(BufferMoved::Buffer)
    }
}

/// What became of a queue's next buffer.
enum BufferMoved {
    /// There was none, or nothing to put into it.
    Nothing,
    /// It is done.
    Buffer,
    /// It is to go on with it.
    Part,
}

state_struct! {
    /// How far the console is, beside what is in its rings.
    struct SavedConsole = 16 {
        /// Bytes of the next buffer of output that were taken already.
        taken: u64,
        /// A buffer waits for room.
        is_waiting: u8,
        /// Readers were woken and have not read since.
        told: u8,
        /// A writer found no room.
        full: u8,
        /// 0.
        pad: [u8; 5],
    }
}

/// Input that waits for the guest.
const CONSOLE_INPUT: SectionId = SectionId { id: 0x28, version: 1 };
/// Output that nobody has read yet.
const CONSOLE_OUTPUT: SectionId = SectionId { id: 0x29, version: 1 };

impl HasState for VirtioConsole {
    const SECTION: SectionId = SectionId { id: 0x27, version: 1 };
    type State = SavedConsole;

    fn save(&self) -> SavedConsole {
        let VirtioConsole {
            config: _,
            has_size: _,
            input: _,
            output: _,
            waits: _,
            is_waiting,
            // A count of the host's.
            lost: _,
            taken,
            told,
            full,
        } = *self;
        SavedConsole {
            taken,
            is_waiting: is_waiting.into(),
            told: told.into(),
            full: full.into(),
            pad: [0; 5],
        }
    }

    fn set_state(&mut self, state: &SavedConsole) {
        let SavedConsole { taken, is_waiting, told, full, pad: _ } = *state;
        self.taken = taken;
        self.is_waiting = is_waiting != 0;
        self.told = told != 0;
        self.full = full != 0;
    }
}

impl VirtioDevice for VirtioConsole {
    const TYPE: u16 = 3;
    /// Communication device of no other kind.
    const CLASS: u32 = 0x07_80_00;

    fn features(&self) -> u64 {
        F_EMERG_WRITE | if self.has_size { F_SIZE } else { 0 }
    }

    fn accept(&mut self, _features: u64) {
        self.taken = 0;
        self.is_waiting = false;
    }

    fn queues(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn max_chain(&self) -> usize {
        MAX_CHAIN
    }

    fn save_own(&self, instance: u32, out: &mut StateWriter) {
        out.put(instance, self);
        out.put_bytes(CONSOLE_INPUT, instance, self.input.len(), |to| self.input.peek(0, to));
        out.put_bytes(CONSOLE_OUTPUT, instance, self.output.len(), |to| self.output.peek(0, to));
    }

    fn restore_own(&mut self, instance: u32, from: &mut StateReader<'_>) -> Result<(), BadState> {
        from.get(instance, self)?;
        for (section, ring) in [(CONSOLE_INPUT, &mut self.input), (CONSOLE_OUTPUT, &mut self.output)] {
            let bytes = from.get_bytes(section, instance)?;
            ring.clear();
            if ring.push_some(bytes) != bytes.len() {
                return Err(BadState::Version(section.id));
            }
        }
        Ok(())
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn write_config(&mut self, at: u32, _width: AccessWidth, value: u64) -> bool {
        // Drivers may write it with any width, whenever they like: the first byte is the character.
        if at == CONFIG_EMERG_WRITE {
            self.put(&[(value & 0xff) as u8]);
        }
        at == CONFIG_EMERG_WRITE
    }
}

impl VirtioPci<VirtioConsole> {
    /// Takes the guest's output.
    pub(crate) fn serve_output<M: GuestMem>(&mut self, mem: &M) -> QueueServed {
        self.serve_queue(TRANSMIT, mem, VirtioConsole::transmit)
    }

    /// Gives waiting input to the guest.
    pub(crate) fn serve_input<M: GuestMem>(&mut self, mem: &M) -> QueueServed {
        self.serve_queue(RECEIVE, mem, VirtioConsole::receive)
    }

    fn serve_queue<M: GuestMem>(
        &mut self,
        index: u16,
        mem: &M,
        step: impl Fn(&mut VirtioConsole, &mut VirtQueue, &M, &mut u64) -> Result<BufferMoved, QueueError>,
    ) -> QueueServed {
        let mut left = MAX_BYTES;
        for _ in 0..MAX_BUFFERS {
            let Some((device, queue)) = self.taking(index) else { return QueueServed::Empty(None) };
            let mark = queue.mark();
            match step(device, queue, mem, &mut left) {
                Ok(BufferMoved::Buffer) => {}
                Ok(BufferMoved::Part) => {
                    queue.rewind(mark);
                    break;
                }
                Ok(BufferMoved::Nothing) => {
                    // A buffer that waits is popped again.
                    queue.rewind(mark);
                    return QueueServed::Empty(self.used(index, mem));
                }
                Err(QueueError::NotResident(gpa)) => {
                    queue.rewind(mark);
                    return QueueServed::NotResident(gpa, self.used(index, mem));
                }
                Err(QueueError::Broken(fault)) => return QueueServed::Broken(self.fail(fault)),
            }
        }
        QueueServed::More(self.used(index, mem))
    }

    /// Takes input for the guest, which [`VirtioPci::serve_input`] gives to it. Returns how many bytes there
    /// was room for.
    pub(crate) fn push_input(&mut self, bytes: &[u8]) -> usize {
        self.device_mut().input.push_some(bytes)
    }

    /// Returns how many bytes [`VirtioPci::push_input`] would take. When there is no room, the next
    /// [`VirtioPci::take_news`] tells of some.
    pub(crate) fn input_room(&mut self) -> usize {
        let device = self.device_mut();
        let room = device.input.room();
        device.full |= room == 0;
        room
    }

    /// Moves guest output to `out`, oldest first. Returns how many bytes. The next
    /// [`VirtioPci::take_news`] tells of more.
    pub(crate) fn drain_output(&mut self, out: &mut [u8]) -> usize {
        let device = self.device_mut();
        device.told = false;
        device.output.drain(out)
    }

    /// Returns how many bytes of guest output wait.
    pub(crate) fn output_len(&self) -> usize {
        self.device().output.len()
    }

    /// Returns whether a buffer of the guest's waits for room that there is now; then
    /// [`VirtioPci::serve_output`] is due.
    pub(crate) fn take_waiting(&mut self) -> bool {
        let device = self.device_mut();
        // Only with half of the ring free: each time takes a vCPU out of the guest.
        let is_due = device.is_waiting && device.output.room() >= device.output.len();
        device.is_waiting &= !is_due;
        is_due
    }

    /// Returns how many bytes of guest output were lost, for nobody read them.
    pub(crate) fn lost(&self) -> u64 {
        self.device().lost
    }

    /// Returns whether readers and writers should be woken now: there is output after the last read, or room
    /// after a writer found none.
    pub(crate) fn take_news(&mut self) -> bool {
        let device = self.device_mut();
        let output = !device.told && device.output.len() != 0;
        let room = device.full && device.input.room() >= device.input.len();
        device.told |= output;
        device.full &= !room;
        output || room
    }

    /// Whoever polls wants to be told again.
    pub(crate) fn ask_again(&mut self) {
        self.device_mut().told = false;
    }
}
