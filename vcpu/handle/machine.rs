// SPDX-License-Identifier: GPL-2.0

//! The emulator's [`Machine`] over a vCPU: registers, guest page tables, memory and devices.

use super::{mmio, pio, Cx};
use crate::arch::addr::{Gpa, Gva, Width};
use crate::arch::cr::{Cr0, Cr4, Efer, Rflags};
use crate::arch::exception::Exception;
use crate::arch::segment::{SegReg, Segment, Table};
use crate::mmu::mem::{GuestMem, MemError};
use crate::mmu::walk::{self, AccessKind, Paging, Privilege, WalkError};
use crate::vcpu::backend::Backend;
use crate::vcpu::emulate::decode::MAX_LEN;
use crate::vcpu::emulate::machine::{Access, Machine, Step, Stop, TableReg};
use crate::vcpu::outcome::UserExit;
use crate::vcpu::state::Groups;

/// What must happen before the instruction can run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Nothing: just run it again.
    Nothing,
    /// Make a page of guest memory resident; `true` for writing.
    FaultIn(Gpa, bool),
    /// Ask user space.
    User(UserExit),
}

/// A piece of an access: guest physical address and length, within one page.
#[derive(Clone, Copy)]
struct Piece {
    gpa: Gpa,
    len: usize,
}

/// Returns what translations depend on now; needs [`Groups::CONTROL`].
pub(super) fn paging<B: Backend>(cx: &Cx<'_, '_, B>) -> Paging {
    let s = &cx.core.state;
    Paging {
        cr0: Cr0::from_bits_truncate(s.cr0),
        cr3: s.cr3,
        cr4: Cr4::from_bits_truncate(s.cr4),
        efer: Efer::from_bits_truncate(s.efer),
        ac: s.rflags & Rflags::AC.bits() != 0,
        pkru: cx.fpu.pkru(),
        maxphyaddr: cx.core.cpuid.phys_bits(),
        gib_pages: cx.core.has_gib_pages,
    }
}

/// A [`Machine`] on the vCPU of a [`Cx`]. SEGMENTS and CONTROL must have been fetched, and TABLES for
/// instructions that use them.
pub(super) struct CxMachine<'c, 'a, 'f, B: Backend> {
    cx: &'c mut Cx<'a, 'f, B>,
    /// Why the last step stopped with [`Stop::Retry`].
    pub(super) want: Want,
    /// The access is the processor's own, not the instruction's.
    implicit: bool,
}

impl<'c, 'a, 'f, B: Backend> CxMachine<'c, 'a, 'f, B> {
    /// Wraps a vCPU.
    pub(super) fn new(cx: &'c mut Cx<'a, 'f, B>) -> Self {
        CxMachine { cx, want: Want::Nothing, implicit: false }
    }

    fn stop<T>(&mut self, want: Want) -> Step<T> {
        self.want = want;
        Err(Stop::Retry)
    }

    fn mem_error<T>(&mut self, e: MemError, write: bool) -> Step<T> {
        match e {
            MemError::NotResident(gpa) => self.stop(Want::FaultIn(gpa, write)),
            MemError::NoSlot(_) => Err(Stop::Unhandled),
        }
    }

    /// Translates one piece that does not cross a page.
    fn translate(&mut self, gva: Gva, access: Access) -> Step<Gpa> {
        let paging = paging(self.cx);
        let kind = match access {
            Access::Read => AccessKind::Read,
            Access::Write => AccessKind::Write,
            Access::Fetch => AccessKind::Fetch,
        };
        let privilege = match self.cx.core.state.cpl() {
            _ if self.implicit => Privilege::Implicit,
            3 => Privilege::User,
            _ => Privilege::Supervisor,
        };
        let how = walk::Access { kind, privilege };
        match walk::walk(&*self.cx.vm.space, &paging, gva, how) {
            Ok(t) => Ok(t.gpa),
            Err(WalkError::Fault(e)) => Err(Stop::Fault(e)),
            // The tables' accessed bits are set in passing, so the page must be there for writing.
            Err(WalkError::Mem(e)) => self.mem_error(e, true),
            Err(WalkError::Busy) => self.stop(Want::Nothing),
        }
    }

    /// Splits an access at the page boundary and translates both parts before anything is touched.
    fn pieces(&mut self, gva: Gva, len: usize, access: Access) -> Step<[Option<Piece>; 2]> {
        let left = usize::try_from(gva.left_in_page()).unwrap_or(0);
        let first = len.min(left);
        let a = Piece { gpa: self.translate(gva, access)?, len: first };
        let rest = len.saturating_sub(first);
        let b = if rest == 0 {
            None
        } else {
            let gpa = self.translate(gva.wrapping_add(first as u64), access)?;
            Some(Piece { gpa, len: rest })
        };
        Ok([Some(a), b])
    }

    fn read_piece(&mut self, p: Piece, buf: &mut [u8]) -> Step<()> {
        match self.cx.vm.space.read(p.gpa, buf) {
            Ok(()) => Ok(()),
            Err(MemError::NoSlot(_)) => self.device_read(p.gpa, buf),
            Err(e) => self.mem_error(e, false),
        }
    }

    fn write_piece(&mut self, p: Piece, buf: &[u8]) -> Step<()> {
        match self.cx.vm.space.write(p.gpa, buf) {
            Ok(()) => Ok(()),
            Err(MemError::NoSlot(_)) => self.device_write(p.gpa, buf),
            Err(e) => self.mem_error(e, true),
        }
    }

    /// Reads a device in pieces of at most 8 bytes.
    pub(super) fn device_read(&mut self, gpa: Gpa, buf: &mut [u8]) -> Step<()> {
        let mut at = gpa;
        for part in buf.chunks_mut(8) {
            let len = part.len() as u8;
            let value = match self.cx.core.io.answer(at, len, false) {
                Some(v) => v,
                None => match Width::from_bytes(part.len()).and_then(|w| mmio::read(self.cx, at, w)) {
                    Some(v) => v,
                    None => {
                        self.cx.core.io.ask(at, len, false);
                        let exit = UserExit::Mmio { gpa: at, data: [0; 8], len, is_write: false };
                        return self.stop(Want::User(exit));
                    }
                },
            };
            for (dst, src) in part.iter_mut().zip(value.to_le_bytes()) {
                *dst = src;
            }
            at = at.wrapping_add(u64::from(len));
        }
        Ok(())
    }

    /// Writes a device in pieces of at most 8 bytes.
    pub(super) fn device_write(&mut self, gpa: Gpa, buf: &[u8]) -> Step<()> {
        let mut at = gpa;
        for part in buf.chunks(8) {
            let len = part.len() as u8;
            let mut data = [0u8; 8];
            for (dst, src) in data.iter_mut().zip(part) {
                *dst = *src;
            }
            let value = u64::from_le_bytes(data);
            let done = self.cx.core.io.answer(at, len, true).is_some()
                || Width::from_bytes(part.len()).is_some_and(|w| mmio::write(self.cx, at, w, value));
            if !done {
                self.cx.core.io.ask(at, len, true);
                return self.stop(Want::User(UserExit::Mmio { gpa: at, data, len, is_write: true }));
            }
            at = at.wrapping_add(u64::from(len));
        }
        Ok(())
    }

    /// Returns the bytes at RIP as far as they can be read, for a report.
    pub(super) fn peek_code(&mut self) -> ([u8; MAX_LEN], u8) {
        let mut bytes = [0; MAX_LEN];
        let at = Gva(self.cx.core.state.seg(SegReg::Cs).base.wrapping_add(self.cx.core.state.rip));
        let n = MAX_LEN.min(usize::try_from(at.left_in_page()).unwrap_or(0));
        let read = match bytes.get_mut(..n) {
            Some(part) => self.read(at, part, Access::Fetch).is_ok(),
            None => false,
        };
        (bytes, if read { n as u8 } else { 0 })
    }

    /// Returns whether CPL and IOPL alone allow port accesses.
    fn is_io_allowed(&self) -> bool {
        let s = &self.cx.core.state;
        let protected = s.cr0 & Cr0::PE.bits() != 0;
        let vm86 = s.rflags & Rflags::VM.bits() != 0;
        let iopl = ((s.rflags >> 12) & 3) as u8;
        !protected || (!vm86 && s.cpl() <= iopl)
    }
}

impl<B: Backend> Machine for CxMachine<'_, '_, '_, B> {
    fn gpr(&self, n: u8) -> u64 {
        self.cx.core.state.gprs[usize::from(n & 15)]
    }

    fn set_gpr(&mut self, n: u8, value: u64) {
        self.cx.core.state.gprs[usize::from(n & 15)] = value;
    }

    fn rip(&self) -> u64 {
        self.cx.core.state.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.cx.core.state.rip = rip;
    }

    fn rflags(&self) -> u64 {
        self.cx.core.state.rflags
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.cx.core.state.rflags = rflags;
    }

    fn segment(&self, reg: SegReg) -> Segment {
        self.cx.core.state.seg(reg)
    }

    fn set_segment(&mut self, reg: SegReg, seg: Segment) {
        self.cx.core.state.segs[reg as usize] = seg;
        self.cx.core.state.mark(Groups::SEGMENTS);
    }

    fn table(&self, which: TableReg) -> Table {
        let s = &self.cx.core.state;
        match which {
            TableReg::Gdt => s.gdt,
            TableReg::Idt => s.idt,
        }
    }

    fn set_table(&mut self, which: TableReg, table: Table) {
        let s = &mut self.cx.core.state;
        match which {
            TableReg::Gdt => s.gdt = table,
            TableReg::Idt => s.idt = table,
        }
        s.mark(Groups::TABLES);
    }

    fn ldt(&self) -> Segment {
        self.cx.core.state.ldtr
    }

    fn set_ldt(&mut self, ldt: Segment) {
        self.cx.core.state.ldtr = ldt;
        self.cx.core.state.mark(Groups::SEGMENTS);
    }

    fn set_task(&mut self, task: Segment) {
        self.cx.core.state.tr = task;
        self.cx.core.state.mark(Groups::SEGMENTS);
    }

    fn cr(&self, n: u8) -> u64 {
        let s = &self.cx.core.state;
        match n {
            0 => s.cr0,
            2 => s.cr2,
            3 => s.cr3,
            4 => s.cr4,
            8 => self.cx.core.lapic.as_ref().map_or(0, |l| u64::from(l.cr8())),
            _ => 0,
        }
    }

    fn set_cr(&mut self, n: u8, value: u64) -> Step<()> {
        let gp = Err(Stop::Fault(Exception::GP0));
        let s = &mut self.cx.core.state;
        match n {
            0 => {
                let Some(cr0) = Cr0::from_bits(value) else { return gp };
                let paged = cr0.contains(Cr0::PG);
                if (paged && !cr0.contains(Cr0::PE)) || (cr0.contains(Cr0::NW) && !cr0.contains(Cr0::CD)) {
                    return gp;
                }
                if s.efer & Efer::LME.bits() != 0 {
                    if paged && s.cr4 & Cr4::PAE.bits() == 0 {
                        return gp;
                    }
                    s.efer = if paged { s.efer | Efer::LMA.bits() } else { s.efer & !Efer::LMA.bits() };
                }
                s.cr0 = value;
            }
            2 => s.cr2 = value,
            3 => s.cr3 = value,
            4 => {
                let long = s.efer & Efer::LMA.bits() != 0;
                if Cr4::from_bits(value).is_none() || (long && value & Cr4::PAE.bits() == 0) {
                    return gp;
                }
                s.cr4 = value;
            }
            8 => {
                if value > 15 {
                    return gp;
                }
                if let Some(l) = self.cx.core.lapic.as_mut() {
                    l.set_cr8(value as u8);
                }
                return Ok(());
            }
            _ => return Err(Stop::Fault(Exception::UD)),
        }
        s.mark(Groups::CONTROL);
        Ok(())
    }

    fn efer(&self) -> u64 {
        self.cx.core.state.efer
    }

    fn cpl(&self) -> u8 {
        self.cx.core.state.cpl()
    }

    fn read(&mut self, gva: Gva, buf: &mut [u8], access: Access) -> Step<()> {
        let mut rest = buf;
        for p in self.pieces(gva, rest.len(), access)?.into_iter().flatten() {
            let (now, later) = rest.split_at_mut(p.len.min(rest.len()));
            self.read_piece(p, now)?;
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, gva: Gva, buf: &[u8]) -> Step<()> {
        let mut rest = buf;
        for p in self.pieces(gva, rest.len(), Access::Write)?.into_iter().flatten() {
            let (now, later) = rest.split_at(p.len.min(rest.len()));
            self.write_piece(p, now)?;
            rest = later;
        }
        Ok(())
    }

    fn cmpxchg(&mut self, gva: Gva, width: Width, old: u64, new: u64) -> Step<u64> {
        let gpa = self.translate(gva, Access::Write)?;
        if gva.0 & (width.bytes() as u64).wrapping_sub(1) != 0 {
            // Not naturally aligned: as two plain accesses. Other vCPUs may see the halves apart.
            return self.unaligned_cmpxchg(gva, width, old, new);
        }
        match self.cx.vm.space.cmpxchg(gpa, width.bytes(), old, new) {
            Ok(found) => Ok(found),
            Err(MemError::NoSlot(_)) => {
                self.device_write(gpa, new.to_le_bytes().get(..width.bytes()).unwrap_or(&[]))?;
                Ok(old)
            }
            Err(e) => self.mem_error(e, true),
        }
    }

    fn probe(&mut self, gva: Gva, len: usize, access: Access) -> Step<()> {
        for p in self.pieces(gva, len, access)?.into_iter().flatten() {
            // One byte, read: tells whether the page is resident. A write goes through the same page.
            let mut byte = [0u8];
            match self.cx.vm.space.read(p.gpa, &mut byte) {
                Ok(()) if access == Access::Write => {
                    let b = u64::from(byte[0]);
                    match self.cx.vm.space.cmpxchg(p.gpa, 1, b, b) {
                        Ok(_) | Err(MemError::NoSlot(_)) => {}
                        Err(e) => return self.mem_error(e, true),
                    }
                }
                Ok(()) | Err(MemError::NoSlot(_)) => {}
                Err(e) => return self.mem_error(e, access == Access::Write),
            }
        }
        Ok(())
    }

    fn commit(&mut self) {
        self.cx.core.io.forget();
    }

    fn port_in(&mut self, port: u16, width: Width) -> Step<u32> {
        self.check_port(port, width)?;
        if let Some(v) = pio::read(self.cx, port, width) {
            return Ok(v);
        }
        // Ports and memory share the log; a port's key lies above any physical address.
        let key = Gpa(PORT_KEY | u64::from(port));
        if let Some(v) = self.cx.core.io.answer(key, width.bytes() as u8, false) {
            return Ok(v as u32);
        }
        self.cx.core.io.ask(key, width.bytes() as u8, false);
        self.stop(Want::User(UserExit::Io { port, width, is_in: true, data: 0 }))
    }

    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Step<()> {
        self.check_port(port, width)?;
        if pio::write(self.cx, port, width, value) {
            return Ok(());
        }
        let key = Gpa(PORT_KEY | u64::from(port));
        if self.cx.core.io.answer(key, width.bytes() as u8, true).is_some() {
            return Ok(());
        }
        self.cx.core.io.ask(key, width.bytes() as u8, true);
        self.stop(Want::User(UserExit::Io { port, width, is_in: false, data: value }))
    }
}

/// Marks a port in the log of answers.
const PORT_KEY: u64 = 1 << 63;

impl<B: Backend> CxMachine<'_, '_, '_, B> {
    fn unaligned_cmpxchg(&mut self, gva: Gva, width: Width, old: u64, new: u64) -> Step<u64> {
        let mut buf = [0u8; 8];
        let Some(part) = buf.get_mut(..width.bytes()) else { return Err(Stop::Unhandled) };
        self.read(gva, part, Access::Write)?;
        let found = u64::from_le_bytes(buf);
        if found == old & width.mask() {
            let bytes = new.to_le_bytes();
            self.write(gva, bytes.get(..width.bytes()).unwrap_or(&[]))?;
        }
        Ok(found)
    }

    /// Checks the I/O permission bitmap of the TSS. SDM, "I/O Permission Bit Map".
    fn check_port(&mut self, port: u16, width: Width) -> Step<()> {
        if self.is_io_allowed() {
            return Ok(());
        }
        let gp = Err(Stop::Fault(Exception::GP0));
        let tr = self.cx.core.state.tr;
        if !tr.attr.is_present() || tr.limit < 103 {
            return gp;
        }
        let mut base = [0u8; 2];
        self.read_as_supervisor(Gva(tr.base.wrapping_add(102)), &mut base)?;
        let at = u32::from(u16::from_le_bytes(base)).saturating_add(u32::from(port >> 3));
        if at.saturating_add(1) > tr.limit {
            return gp;
        }
        let mut bits = [0u8; 2];
        self.read_as_supervisor(Gva(tr.base.wrapping_add(u64::from(at))), &mut bits)?;
        let mask = (1u16 << width.bytes()).wrapping_sub(1);
        if (u16::from_le_bytes(bits) >> (port & 7)) & mask != 0 {
            return gp;
        }
        Ok(())
    }

    fn read_as_supervisor(&mut self, gva: Gva, buf: &mut [u8]) -> Step<()> {
        self.implicit = true;
        let done = self.read(gva, buf, Access::Read);
        self.implicit = false;
        done
    }
}
