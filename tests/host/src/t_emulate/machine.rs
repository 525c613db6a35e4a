// SPDX-License-Identifier: GPL-2.0

//! A machine of arrays.

use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::arch::cr::{Cr0, Efer};
use crate::arch::exception::{CpuException, PfError};
use crate::arch::segment::{DescTableReg, SegAttr, SegReg, SegmentState};
use crate::vcpu::emulate::decode::CodeMode;
use crate::vcpu::emulate::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason, TableReg};

pub(crate) const RAX: u8 = 0;
pub(crate) const RCX: u8 = 1;
pub(crate) const RDX: u8 = 2;
pub(crate) const RBX: u8 = 3;
pub(crate) const RSP: u8 = 4;
pub(crate) const RBP: u8 = 5;
pub(crate) const RSI: u8 = 6;
pub(crate) const RDI: u8 = 7;

/// What the machine was asked for, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    In(u16, AccessWidth),
    Out(u16, AccessWidth, u32),
    Invlpg(u64),
    Cmpxchg(u64),
    Commit,
}

/// Registers, one stretch of memory, and a list of what happened on ports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Box86 {
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) seg: [SegmentState; 6],
    /// GDTR and IDTR.
    pub(crate) tables: [DescTableReg; 2],
    pub(crate) ldt: SegmentState,
    pub(crate) task: SegmentState,
    pub(crate) cr: [u64; 9],
    pub(crate) efer: u64,
    pub(crate) cpl: u8,
    pub(crate) base: u64,
    pub(crate) mem: Vec<u8>,
    /// Linear addresses that may be read but not written.
    pub(crate) read_only: core::ops::Range<u64>,
    /// Linear addresses whose access needs something first.
    pub(crate) retry: core::ops::Range<u64>,
    /// Linear addresses where there is a device of somebody else's.
    pub(crate) device: core::ops::Range<u64>,
    /// Accesses are the processor's own.
    pub(crate) acts_as_processor: bool,
    /// How often another processor gets in before a compare-exchange.
    pub(crate) rivals: u32,
    pub(crate) port_input: Vec<u32>,
    pub(crate) asked: Vec<Asked>,
}

fn flat(code: bool, mode: CodeMode) -> SegmentState {
    let size = match (mode, code) {
        (CodeMode::Bits64, true) => 0xa000,
        (CodeMode::Bits16, _) => 0,
        _ => 0xc000,
    };
    let kind = if code { 0x9b } else { 0x93 };
    let limit = if mode == CodeMode::Bits16 { 0xffff } else { 0xffff_ffff };
    SegmentState { selector: if code { 8 } else { 16 }, attr: SegAttr(kind | size), limit, base: 0 }
}

impl Box86 {
    /// A machine in `mode` (16 bits: real mode) with `mem` at linear address `base`.
    pub(crate) fn new(mode: CodeMode, base: u64, mem: Vec<u8>) -> Box86 {
        let (cr0, efer) = match mode {
            CodeMode::Bits16 => (0, 0),
            CodeMode::Bits32 => (Cr0::PE.bits(), 0),
            CodeMode::Bits64 => ((Cr0::PE | Cr0::PG).bits(), (Efer::LME | Efer::LMA).bits()),
        };
        let mut seg = [flat(false, mode); 6];
        seg[1] = flat(true, mode);
        let mut cr = [0; 9];
        cr[0] = cr0;
        Box86 {
            gpr: [0; 16],
            rip: 0,
            rflags: 2,
            seg,
            tables: [DescTableReg::default(); 2],
            ldt: SegmentState::default(),
            task: SegmentState::default(),
            cr,
            efer,
            cpl: 0,
            base,
            mem,
            read_only: 0..0,
            retry: 0..0,
            device: 0..0,
            acts_as_processor: false,
            rivals: 0,
            port_input: Vec::new(),
            asked: Vec::new(),
        }
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> &[u8] {
        let from = usize::try_from(at - self.base).unwrap();
        &self.mem[from..from + len]
    }

    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        let from = usize::try_from(at - self.base).unwrap();
        self.mem[from..from + bytes.len()].copy_from_slice(bytes);
    }

    fn check(&self, gva: Gva, len: usize, access: MemAccess) -> EmulatedStep<usize> {
        assert!((1..=16).contains(&len), "{len} bytes asked for");
        let range = gva.0..gva.0.wrapping_add(len as u64);
        let meets = |other: &core::ops::Range<u64>| range.start < other.end && other.start < range.end;
        let mut error = match access {
            MemAccess::Read => PfError::empty(),
            MemAccess::Write => PfError::WRITE,
            MemAccess::Fetch => PfError::FETCH,
        };
        let end = self.base + self.mem.len() as u64;
        if range.start < self.base || range.end > end || range.end < range.start {
            return Err(StopReason::Fault(CpuException::page_fault(gva, error)));
        }
        if access == MemAccess::Write && meets(&self.read_only) {
            error |= PfError::PRESENT;
            return Err(StopReason::Fault(CpuException::page_fault(gva, error)));
        }
        if meets(&self.retry) || (meets(&self.device) && !self.acts_as_processor) {
            return Err(StopReason::Retry);
        }
        if meets(&self.device) {
            return Err(StopReason::NoMemory(Gpa(gva.0)));
        }
        Ok(usize::try_from(range.start - self.base).unwrap())
    }
}

impl InsnMachine for Box86 {
    type Registers = Box86;
    fn registers(&self) -> Box86 {
        self.clone()
    }
    fn put_back(&mut self, registers: Box86) {
        let mem = core::mem::take(&mut self.mem);
        *self = Box86 { mem, ..registers };
    }
    fn gpr(&self, n: u8) -> u64 {
        self.gpr[usize::from(n)]
    }
    fn set_gpr(&mut self, n: u8, value: u64) {
        self.gpr[usize::from(n)] = value;
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.rflags = rflags;
    }
    fn segment(&self, reg: SegReg) -> SegmentState {
        self.seg[reg as usize]
    }
    fn set_segment(&mut self, reg: SegReg, seg: SegmentState) {
        self.seg[reg as usize] = seg;
    }
    fn table(&self, which: TableReg) -> DescTableReg {
        self.tables[which as usize]
    }
    fn set_table(&mut self, which: TableReg, table: DescTableReg) {
        self.tables[which as usize] = table;
    }
    fn ldt(&self) -> SegmentState {
        self.ldt
    }
    fn set_ldt(&mut self, ldt: SegmentState) {
        self.ldt = ldt;
    }
    fn task(&self) -> SegmentState {
        self.task
    }
    fn set_task(&mut self, task: SegmentState) {
        self.task = task;
    }
    fn cr(&self, n: u8) -> u64 {
        self.cr[usize::from(n)]
    }
    fn set_cr(&mut self, n: u8, value: u64) -> EmulatedStep<()> {
        if n == 4 && value == u64::MAX {
            return Err(StopReason::Fault(CpuException::GP0));
        }
        self.cr[usize::from(n)] = value;
        Ok(())
    }
    fn efer(&self) -> u64 {
        self.efer
    }
    fn cpl(&self) -> u8 {
        self.cpl
    }
    fn read(&mut self, gva: Gva, buf: &mut [u8], access: MemAccess) -> EmulatedStep<()> {
        let from = self.check(gva, buf.len(), access)?;
        buf.copy_from_slice(&self.mem[from..from + buf.len()]);
        Ok(())
    }
    fn write(&mut self, gva: Gva, buf: &[u8]) -> EmulatedStep<()> {
        let from = self.check(gva, buf.len(), MemAccess::Write)?;
        self.mem[from..from + buf.len()].copy_from_slice(buf);
        Ok(())
    }
    fn cmpxchg(&mut self, gva: Gva, width: AccessWidth, old: u64, new: u64) -> EmulatedStep<u64> {
        let from = self.check(gva, width.bytes(), MemAccess::Write)?;
        self.asked.push(Asked::Cmpxchg(gva.0));
        let word = &mut self.mem[from..from + width.bytes()];
        if self.rivals > 0 {
            self.rivals -= 1;
            word[0] = word[0].wrapping_add(1);
        }
        let mut le = [0; 8];
        le[..width.bytes()].copy_from_slice(word);
        let found = u64::from_le_bytes(le);
        assert_eq!((old | new) & !width.mask(), 0, "operands wider than the access");
        if found == old {
            word.copy_from_slice(&new.to_le_bytes()[..width.bytes()]);
        }
        Ok(found)
    }
    fn probe(&mut self, gva: Gva, len: usize, access: MemAccess) -> EmulatedStep<()> {
        self.check(gva, len, access).map(|_| ())
    }
    fn act_as_processor(&mut self, on: bool) {
        self.acts_as_processor = on;
    }
    fn commit(&mut self) {
        self.asked.push(Asked::Commit);
    }
    fn invlpg(&mut self, gva: Gva) {
        self.asked.push(Asked::Invlpg(gva.0));
    }
    fn cmpxchg16(&mut self, gva: Gva, old: u128, new: u128) -> EmulatedStep<u128> {
        let from = self.check(gva, 16, MemAccess::Write)?;
        let word = &mut self.mem[from..from + 16];
        let found = u128::from_le_bytes(word.try_into().unwrap());
        if found == old {
            word.copy_from_slice(&new.to_le_bytes());
        }
        Ok(found)
    }
    fn port_in(&mut self, port: u16, width: AccessWidth) -> EmulatedStep<u32> {
        if self.port_input.is_empty() {
            return Err(StopReason::Retry);
        }
        self.asked.push(Asked::In(port, width));
        Ok(self.port_input.remove(0))
    }
    fn port_out(&mut self, port: u16, width: AccessWidth, value: u32) -> EmulatedStep<()> {
        self.asked.push(Asked::Out(port, width, value));
        Ok(())
    }
}
