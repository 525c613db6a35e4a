// SPDX-License-Identifier: GPL-2.0

//! The memory accesses of an instruction under emulation: from linear addresses to memory and devices.
//!
//! An access may lie in two pages, and each of them may be memory, a device, or nothing. Both are translated before
//! either is touched, and memory is made sure of; then each part goes where its page is, as on KVM:
//!
//! ```text
//! gva, len ──> Piece in page 1 ──> memory | device of ours | user space
//!          └─> Piece in page 2 ──> memory | device of ours | user space
//! ```
//!
//! What has been done and would be seen if it were done again (a device of ours; memory beside a device) is logged in
//! [`crate::vcpu::io::PendingIo`], for the instruction starts again once user space has done its part.

use super::machine::{CxMachine, RetryAfter};
use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::machine::memory::SlotLookup;
use crate::mmu::mem::{GuestMem, MemError};
use crate::mmu::walk::{self, AccessKind, AccessPrivilege, WalkError};
use crate::vcpu::access::mmio;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::emulate::machine::{EmulatedStep, MemAccess, StopReason};
use crate::vcpu::outcome::{BlockedBy, UserExit};

/// The most bytes of one access to a device.
const PART: usize = 8;

/// A piece of an access: guest physical address and length, within one page.
#[derive(Clone, Copy)]
struct OperandPart {
    gpa: Gpa,
    len: usize,
}

impl<B: VendorBackend> CxMachine<'_, '_, '_, B> {
    pub(super) fn stop<T>(&mut self, after: RetryAfter) -> EmulatedStep<T> {
        self.after = after;
        Err(StopReason::Retry)
    }

    /// Stops until user space has answered.
    pub(super) fn stop_for_user<T>(&mut self, exit: UserExit) -> EmulatedStep<T> {
        self.cx.core.leave_for_user(exit);
        self.stop(RetryAfter::User)
    }

    pub(crate) fn mem_error<T>(&mut self, e: MemError, write: bool) -> EmulatedStep<T> {
        match e {
            MemError::NotResident(gpa) => self.stop(RetryAfter::Blocked(BlockedBy::FaultIn { gpa, write })),
            MemError::NoSlot(_) => Err(StopReason::Unhandled),
        }
    }

    /// Asks user space for an access, which is logged under `key`.
    pub(crate) fn ask<T>(&mut self, key: Gpa, len: u8, is_write: bool, exit: UserExit) -> EmulatedStep<T> {
        if !self.cx.core.io.ask(key, len, is_write) {
            return Err(StopReason::Unhandled);
        }
        self.stop_for_user(exit)
    }

    /// Translates one piece that does not cross a page.
    fn translate(&mut self, gva: Gva, access: MemAccess) -> EmulatedStep<Gpa> {
        let kind = match access {
            MemAccess::Read => AccessKind::Read,
            MemAccess::Write => AccessKind::Write,
            MemAccess::Fetch => AccessKind::Fetch,
        };
        let privilege = match self.cx.core.state.cpl() {
            _ if self.implicit => AccessPrivilege::Implicit,
            3 => AccessPrivilege::User,
            _ => AccessPrivilege::Supervisor,
        };
        let how = walk::WalkAccess { kind, privilege };
        match walk::walk(&*self.cx.vm.machine.ram, &self.cx.guest_paging(), gva, how) {
            Ok(t) => Ok(t.gpa),
            Err(WalkError::Fault(e)) => Err(StopReason::Fault(e)),
            // The tables' accessed bits are set in passing, so the page must be there for writing.
            Err(WalkError::Mem(e)) => self.mem_error(e, true),
            // Others keep changing the entry. The guest is entered again, so that the host's interrupts come in
            // between.
            Err(WalkError::Busy) => self.stop(RetryAfter::Nothing),
        }
    }

    /// Splits an access at the page boundary and translates both pieces before anything is touched.
    fn pieces(
        &mut self,
        gva: Gva,
        len: usize,
        access: MemAccess,
    ) -> EmulatedStep<(OperandPart, Option<OperandPart>)> {
        let left = usize::try_from(gva.left_in_page()).unwrap_or(0);
        let first = OperandPart { gpa: self.translate(gva, access)?, len: len.min(left) };
        let rest = len.saturating_sub(left);
        if rest == 0 {
            return Ok((first, None));
        }
        let mut next = gva.wrapping_add(left as u64);
        // Outside 64-bit mode linear addresses have 32 bits, and the second piece may be at the very bottom.
        if !self.cx.core.state.is_64bit() {
            next.0 &= 0xffff_ffff;
        }
        Ok((first, Some(OperandPart { gpa: self.translate(next, access)?, len: rest })))
    }

    /// [`crate::vcpu::emulate::machine::InsnMachine::read`].
    pub(crate) fn read_linear(&mut self, gva: Gva, buf: &mut [u8], access: MemAccess) -> EmulatedStep<()> {
        match self.pieces(gva, buf.len(), access)? {
            // The write goes to user space, which may change what is there before the instruction starts again.
            (first, None) if access == MemAccess::Write && self.is_read_only(first) => {
                self.read_once(first, buf, access)
            }
            (first, None) => self.read_piece(first, buf, access),
            (first, Some(second)) => self.read_both([first, second], buf, access),
        }
    }

    /// [`crate::vcpu::emulate::machine::InsnMachine::write`].
    pub(crate) fn write_linear(&mut self, gva: Gva, buf: &[u8]) -> EmulatedStep<()> {
        match self.pieces(gva, buf.len(), MemAccess::Write)? {
            (first, None) => self.write_piece(first, buf),
            (first, Some(second)) => self.write_both([first, second], buf),
        }
    }

    /// [`crate::vcpu::emulate::machine::InsnMachine::probe`].
    pub(crate) fn probe_linear(&mut self, gva: Gva, len: usize, access: MemAccess) -> EmulatedStep<()> {
        let (first, second) = self.pieces(gva, len, access)?;
        self.probe_piece(first, access)?;
        second.map_or(Ok(()), |piece| self.probe_piece(piece, access))
    }

    /// [`crate::vcpu::emulate::machine::InsnMachine::cmpxchg`].
    pub(crate) fn cmpxchg_linear(
        &mut self,
        gva: Gva,
        width: AccessWidth,
        old: u64,
        new: u64,
    ) -> EmulatedStep<u64> {
        if gva.0 & (width.bytes() as u64).wrapping_sub(1) != 0 {
            // Not naturally aligned: as two plain accesses. Other vCPUs may see the halves apart.
            return self.unaligned_cmpxchg(gva, width, old, new);
        }
        let gpa = self.translate(gva, MemAccess::Write)?;
        match self.cx.vm.machine.ram.cmpxchg(gpa, width.bytes(), old, new) {
            Ok(found) => {
                self.note_write(gpa, width.bytes());
                Ok(found)
            }
            Err(MemError::NoSlot(_)) => {
                self.device_write(gpa, new.to_le_bytes().get(..width.bytes()).unwrap_or(&[]), true)?;
                Ok(old)
            }
            Err(e) => self.mem_error(e, true),
        }
    }

    fn unaligned_cmpxchg(&mut self, gva: Gva, width: AccessWidth, old: u64, new: u64) -> EmulatedStep<u64> {
        let (mut buf, new) = ([0u8; 8], new.to_le_bytes());
        let (Some(part), Some(new)) = (buf.get_mut(..width.bytes()), new.get(..width.bytes())) else {
            return Err(StopReason::Unhandled);
        };
        let (first, second) = self.pieces(gva, width.bytes(), MemAccess::Write)?;
        let is_memory = |p: OperandPart| self.cx.vm.machine.ram.user_range(p.gpa, true).is_some();
        if !is_memory(first) || second.is_some_and(|p| !is_memory(p)) {
            // A device has been read already, and is not compared.
            self.write_linear(gva, new)?;
            return Ok(old);
        }
        self.read_linear(gva, part, MemAccess::Write)?;
        let found = u64::from_le_bytes(buf);
        if found == old & width.mask() {
            self.write_linear(gva, new)?;
        }
        Ok(found)
    }

    fn read_piece(&mut self, p: OperandPart, buf: &mut [u8], access: MemAccess) -> EmulatedStep<()> {
        match self.cx.vm.machine.ram.read(p.gpa, buf) {
            Ok(()) => Ok(()),
            Err(MemError::NoSlot(_)) if self.implicit => Err(StopReason::NoMemory(p.gpa)),
            // Code is executed from memory only.
            Err(MemError::NoSlot(_)) if access == MemAccess::Fetch => Err(StopReason::Unhandled),
            Err(MemError::NoSlot(_)) => self.device_read(p.gpa, buf, true),
            Err(e) => self.mem_error(e, false),
        }
    }

    fn write_piece(&mut self, p: OperandPart, buf: &[u8]) -> EmulatedStep<()> {
        match self.cx.vm.machine.ram.write(p.gpa, buf) {
            Ok(()) => {
                self.note_write(p.gpa, buf.len());
                Ok(())
            }
            Err(MemError::NoSlot(_)) if self.implicit => Err(StopReason::NoMemory(p.gpa)),
            Err(MemError::NoSlot(_)) => self.device_write(p.gpa, buf, true),
            Err(e) => self.mem_error(e, true),
        }
    }

    /// Memory was written for the guest: a table that shadow pages follow may be there.
    #[inline]
    fn note_write(&mut self, gpa: Gpa, len: usize) {
        if self.cx.core.paging.shadow().is_some() {
            self.cx.vm.space.wrote(self.cx.cpu, gpa, len as u64);
        }
    }

    /// Makes sure that memory is resident, and does not touch a device.
    fn probe_piece(&mut self, p: OperandPart, access: MemAccess) -> EmulatedStep<()> {
        // One byte, read: tells whether the page is resident. A write goes through the same page.
        let mut byte = [0u8];
        match self.cx.vm.machine.ram.read(p.gpa, &mut byte) {
            Ok(()) if access == MemAccess::Write => {
                let b = u64::from(byte[0]);
                // Compared, since another processor may write to the same byte meanwhile.
                match self.cx.vm.machine.ram.cmpxchg(p.gpa, 1, b, b) {
                    Ok(_) | Err(MemError::NoSlot(_)) => Ok(()),
                    Err(e) => self.mem_error(e, true),
                }
            }
            Err(MemError::NoSlot(_)) if self.implicit => Err(StopReason::NoMemory(p.gpa)),
            Ok(()) | Err(MemError::NoSlot(_)) => Ok(()),
            Err(e) => self.mem_error(e, access == MemAccess::Write),
        }
    }

    /// Returns whether a piece can be read and not be written.
    fn is_read_only(&self, p: OperandPart) -> bool {
        let ram = &self.cx.vm.machine.ram;
        ram.user_range(p.gpa, true).is_none() && ram.user_range(p.gpa, false).is_some()
    }

    /// Makes sure of both pieces of an access, so that none is done without the other. Returns for each whether it is
    /// memory beside a device.
    fn prepare(
        &mut self,
        pieces: &[OperandPart; 2],
        writes: bool,
        access: MemAccess,
    ) -> EmulatedStep<[bool; 2]> {
        for piece in pieces {
            self.probe_piece(*piece, access)?;
        }
        let is_memory = pieces.map(|p| self.cx.vm.machine.ram.user_range(p.gpa, writes).is_some());
        let is_mixed = is_memory.contains(&true) && is_memory.contains(&false);
        Ok(is_memory.map(|memory| memory && is_mixed))
    }

    fn read_both(&mut self, pieces: [OperandPart; 2], buf: &mut [u8], access: MemAccess) -> EmulatedStep<()> {
        let once = self.prepare(&pieces, false, access)?;
        let mut rest = buf;
        for (piece, once) in pieces.into_iter().zip(once) {
            let (part, later) = rest.split_at_mut(piece.len.min(rest.len()));
            if once {
                self.read_once(piece, part, access)?;
            } else {
                self.read_piece(piece, part, access)?;
            }
            rest = later;
        }
        Ok(())
    }

    fn write_both(&mut self, pieces: [OperandPart; 2], buf: &[u8]) -> EmulatedStep<()> {
        let once = self.prepare(&pieces, true, MemAccess::Write)?;
        let mut rest = buf;
        for (piece, once) in pieces.into_iter().zip(once) {
            let (part, later) = rest.split_at(piece.len.min(rest.len()));
            if once {
                self.write_once(piece, part)?;
            } else {
                self.write_piece(piece, part)?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Reads memory, and gives the same should the instruction start again.
    fn read_once(&mut self, p: OperandPart, buf: &mut [u8], access: MemAccess) -> EmulatedStep<()> {
        let mut at = p.gpa;
        for part in buf.chunks_mut(PART) {
            let len = part.len();
            match self.cx.core.io.answer(at, len as u8, false) {
                Some(value) => put(part, value),
                None => {
                    self.read_piece(OperandPart { gpa: at, len }, part, access)?;
                    self.cx.core.io.done(at, len as u8, false, value_of(part));
                }
            }
            at = at.wrapping_add(len as u64);
        }
        Ok(())
    }

    /// Writes memory, but not again should the instruction start again.
    fn write_once(&mut self, p: OperandPart, buf: &[u8]) -> EmulatedStep<()> {
        let mut at = p.gpa;
        for part in buf.chunks(PART) {
            let len = part.len();
            if self.cx.core.io.answer(at, len as u8, true).is_none() {
                self.write_piece(OperandPart { gpa: at, len }, part)?;
                self.cx.core.io.done(at, len as u8, true, 0);
            }
            at = at.wrapping_add(len as u64);
        }
        Ok(())
    }

    /// Reads a device in parts of at most 8 bytes. `logs`: the instruction may have more to do, and start again.
    #[inline]
    pub(crate) fn device_read(&mut self, gpa: Gpa, buf: &mut [u8], logs: bool) -> EmulatedStep<()> {
        let mut at = gpa;
        for part in buf.chunks_mut(PART) {
            let len = part.len() as u8;
            let value = match self.cx.core.io.answer(at, len, false) {
                Some(v) => v,
                None => match mmio::read_bytes(self.cx, at, part.len()) {
                    Some(v) => {
                        if logs {
                            self.cx.core.io.done(at, len, false, v);
                        }
                        v
                    }
                    None => {
                        let exit = UserExit::Mmio { gpa: at, data: [0; 8], len, is_write: false };
                        return self.ask(at, len, false, exit);
                    }
                },
            };
            put(part, value);
            at = at.wrapping_add(u64::from(len));
        }
        Ok(())
    }

    /// Writes a device in parts of at most 8 bytes. `logs` as for [`CxMachine::device_read`].
    #[inline]
    pub(crate) fn device_write(&mut self, gpa: Gpa, buf: &[u8], logs: bool) -> EmulatedStep<()> {
        let mut at = gpa;
        for part in buf.chunks(PART) {
            let len = part.len() as u8;
            let value = value_of(part);
            if self.cx.core.io.answer(at, len, true).is_none() {
                if !mmio::write_bytes(self.cx, at, part.len(), value) {
                    let data = value.to_le_bytes();
                    return self.ask(at, len, true, UserExit::Mmio { gpa: at, data, len, is_write: true });
                }
                if logs {
                    self.cx.core.io.done(at, len, true, 0);
                }
            }
            at = at.wrapping_add(u64::from(len));
        }
        Ok(())
    }

    /// Reads memory alone. `None`: not all of it is there.
    pub(crate) fn read_memory(&mut self, gva: Gva, buf: &mut [u8]) -> Option<()> {
        match self.pieces(gva, buf.len(), MemAccess::Read).ok()? {
            (piece, None) => self.cx.vm.machine.ram.read(piece.gpa, buf).ok(),
            _ => None,
        }
    }
}

/// Copies the low bytes of a value to `part`, which has at most 8.
#[inline]
fn put(part: &mut [u8], value: u64) {
    for (dst, src) in part.iter_mut().zip(value.to_le_bytes()) {
        *dst = src;
    }
}

/// Returns the number that `part`, at most 8 bytes, holds.
#[inline]
fn value_of(part: &[u8]) -> u64 {
    let mut data = [0u8; 8];
    for (dst, src) in data.iter_mut().zip(part) {
        *dst = *src;
    }
    u64::from_le_bytes(data)
}
