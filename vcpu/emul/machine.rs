// SPDX-License-Identifier: GPL-2.0

//! The emulator's [`InsnMachine`] over a vCPU: its registers and ports. For memory see [`super::operand`].

use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::arch::cr::{BadCr, Cr0, CrRules, CrState, Rflags};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{DescTableReg, SegReg, SegmentState};
use crate::mmu::mem::{GuestMem, MemError};
use crate::vcpu::access::port;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emulate::decode::MAX_LEN;
use crate::vcpu::emulate::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason, TableReg};
use crate::vcpu::io::STRING;
use crate::vcpu::outcome::{BlockedBy, ExitOutcome, UserExit};
use crate::vcpu::state::{StateGroups, VcpuState};

/// What must happen before the instruction can run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    /// Nothing: just run it again.
    Nothing,
    /// Something that sleeps.
    Blocked(BlockedBy),
    /// Ask user space: the vCPU has what.
    User,
}

impl RetryAfter {
    /// Returns what must be done before the instruction can run again.
    pub(crate) fn outcome(self) -> ExitOutcome {
        match self {
            RetryAfter::Nothing => ExitOutcome::Resume,
            RetryAfter::Blocked(by) => ExitOutcome::Blocked(by),
            RetryAfter::User => ExitOutcome::ToUser,
        }
    }
}

/// A [`InsnMachine`] on the vCPU of a [`VcpuCx`]. SEGMENTS and CONTROL must have been fetched, and TABLES for
/// instructions that use them.
pub(crate) struct CxMachine<'c, 'a, 'f, B: VendorBackend> {
    pub(crate) cx: &'c mut VcpuCx<'a, 'f, B>,
    /// Why the last step stopped with [`StopReason::Retry`].
    pub(crate) after: RetryAfter,
    /// The access is the processor's own, not the instruction's.
    pub(crate) implicit: bool,
}

impl<'c, 'a, 'f, B: VendorBackend> CxMachine<'c, 'a, 'f, B> {
    /// Wraps a vCPU.
    pub(crate) fn new(cx: &'c mut VcpuCx<'a, 'f, B>) -> Self {
        CxMachine { cx, after: RetryAfter::Nothing, implicit: false }
    }

    /// Returns the bytes at RIP as far as they can be read, for a report.
    pub(crate) fn peek_code(&mut self) -> ([u8; MAX_LEN], u8) {
        let mut bytes = [0; MAX_LEN];
        let at = Gva(self.cx.core.state.seg(SegReg::Cs).base.wrapping_add(self.cx.core.state.rip));
        // To the end of the page: the next one may not be there, and part of the bytes is better than none.
        let n = MAX_LEN.min(usize::try_from(at.left_in_page()).unwrap_or(0));
        let read = match bytes.get_mut(..n) {
            Some(part) => self.read(at, part, MemAccess::Fetch).is_ok(),
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

impl<B: VendorBackend> InsnMachine for CxMachine<'_, '_, '_, B> {
    type Registers = VcpuState;

    fn registers(&self) -> VcpuState {
        self.cx.core.state.clone()
    }

    fn put_back(&mut self, registers: VcpuState) {
        self.cx.core.state.take_back(registers);
        self.cx.core.paging.flushed();
    }

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

    fn segment(&self, reg: SegReg) -> SegmentState {
        self.cx.core.state.seg(reg)
    }

    fn set_segment(&mut self, reg: SegReg, seg: SegmentState) {
        self.cx.core.state.segs[reg as usize] = seg;
        self.cx.core.state.mark(StateGroups::SEGMENTS);
    }

    fn table(&self, which: TableReg) -> DescTableReg {
        let s = &self.cx.core.state;
        match which {
            TableReg::Gdt => s.gdt,
            TableReg::Idt => s.idt,
        }
    }

    fn set_table(&mut self, which: TableReg, table: DescTableReg) {
        let s = &mut self.cx.core.state;
        match which {
            TableReg::Gdt => s.gdt = table,
            TableReg::Idt => s.idt = table,
        }
        s.mark(StateGroups::TABLES);
    }

    fn ldt(&self) -> SegmentState {
        self.cx.core.state.ldtr
    }

    fn set_ldt(&mut self, ldt: SegmentState) {
        self.cx.core.state.ldtr = ldt;
        self.cx.core.state.mark(StateGroups::SEGMENTS);
    }

    fn task(&self) -> SegmentState {
        self.cx.core.state.tr
    }

    fn set_task(&mut self, task: SegmentState) {
        self.cx.core.state.tr = task;
        self.cx.core.state.mark(StateGroups::SEGMENTS);
    }

    fn cr(&self, n: u8) -> u64 {
        let s = &self.cx.core.state;
        match n {
            0 => s.cr0,
            2 => s.cr2,
            3 => s.cr3,
            4 => s.cr4,
            8 => self.cx.core.cr8().into(),
            _ => 0,
        }
    }

    fn set_cr(&mut self, n: u8, value: u64) -> EmulatedStep<()> {
        let rules = *self.cx.core.cpuid.cr_rules();
        let now = self.cx.core.state.control();
        let write = match n {
            0 => rules.check_cr0(&now, value),
            2 => {
                self.cx.core.state.cr2 = value;
                self.cx.core.state.mark(StateGroups::CONTROL);
                return Ok(());
            }
            3 => rules.check_cr3(&now, value),
            4 => rules.check_cr4(&now, value),
            8 => return self.set_cr8(value),
            _ => return Err(StopReason::Fault(CpuException::UD)),
        };
        let write = write.map_err(|BadCr| StopReason::Fault(CpuException::GP0))?;
        // Before the registers change: where the load faults they must be as they were.
        if write.loads_pdptes {
            self.load_pdptes(&rules, &write.state)?;
        }
        let is_switch = |bits: Cr0| (now.cr0 ^ write.state.cr0) & bits.bits() != 0;
        if n != 0 || is_switch(Cr0::PG) {
            self.cx.core.paging.flushed();
        }
        self.cx.core.state.set_control(&write.state);
        Ok(())
    }

    fn invlpg(&mut self, gva: Gva) {
        let regs = self.cx.guest_paging();
        let core = &mut *self.cx.core;
        let Some(shadow) = core.paging.shadow() else { return };
        match shadow.root().copied() {
            Some(root) => self.cx.vm.space.refresh_at(self.cx.cpu, &root, regs.linear(gva)),
            None => core.paging.flushed(),
        }
        core.controls.flush_tlb();
    }

    fn efer(&self) -> u64 {
        self.cx.core.state.efer
    }

    fn cpl(&self) -> u8 {
        self.cx.core.state.cpl()
    }

    fn read(&mut self, gva: Gva, buf: &mut [u8], access: MemAccess) -> EmulatedStep<()> {
        self.read_linear(gva, buf, access)
    }

    fn write(&mut self, gva: Gva, buf: &[u8]) -> EmulatedStep<()> {
        self.write_linear(gva, buf)
    }

    fn cmpxchg(&mut self, gva: Gva, width: AccessWidth, old: u64, new: u64) -> EmulatedStep<u64> {
        self.cmpxchg_linear(gva, width, old, new)
    }

    fn probe(&mut self, gva: Gva, len: usize, access: MemAccess) -> EmulatedStep<()> {
        self.probe_linear(gva, len, access)
    }

    fn act_as_processor(&mut self, on: bool) {
        self.implicit = on;
    }

    fn leave_task_breakpoints(&mut self) {
        self.cx.core.end_local_breakpoints();
    }

    fn task_trap(&mut self) -> CpuException {
        self.cx.core.note_task_trap();
        CpuException::plain(ExceptionVector::DB)
    }

    fn commit(&mut self) {
        self.cx.core.io.forget_element();
    }

    fn port_in(&mut self, port: u16, width: AccessWidth) -> EmulatedStep<u32> {
        self.check_port(port, width)?;
        // Ports and memory share the log; a port's key lies above any physical address.
        let (key, len) = (Gpa(PORT_KEY | u64::from(port)), width.bytes() as u8);
        // An earlier try may have come this far and stopped on memory behind it: a port is not read twice.
        if let Some(v) = self.cx.core.io.answer(key, len, false) {
            return Ok(v as u32);
        }
        if let Some(v) = port::read(self.cx, port, width) {
            self.cx.core.io.done(key, len, false, u64::from(v));
            return Ok(v);
        }
        self.ask(key, len, false, UserExit::Io { port, width, is_in: true, data: 0 })
    }

    fn port_in_string(&mut self, port: u16, width: AccessWidth, left: u64) -> EmulatedStep<u32> {
        let (key, len) = (Gpa(PORT_KEY | u64::from(port)), width.bytes() as u8);
        let count = left.min((STRING as u64).checked_div(u64::from(len)).unwrap_or(1));
        if count <= 1 && !self.cx.core.io.has_input() || !port::is_for_user(self.cx, port) {
            return self.port_in(port, width);
        }
        self.check_port(port, width)?;
        if let Some(value) = self.cx.core.io.next_input(key, len) {
            return Ok(value);
        }
        // User space may have made more of it than the one for which it was asked.
        if let Some(value) = self.cx.core.io.answer(key, len, false) {
            return Ok(value as u32);
        }
        let count = count as u32;
        self.cx.core.io.ask_string(key, len, count);
        self.stop_for_user(UserExit::IoString { port, width, count, is_in: true })
    }

    fn port_out(&mut self, port: u16, width: AccessWidth, value: u32) -> EmulatedStep<()> {
        self.check_port(port, width)?;
        let (key, len) = (Gpa(PORT_KEY | u64::from(port)), width.bytes() as u8);
        if self.cx.core.io.answer(key, len, true).is_some() {
            return Ok(());
        }
        if port::write(self.cx, port, width, value) {
            self.cx.core.io.done(key, len, true, 0);
            return Ok(());
        }
        self.ask(key, len, true, UserExit::Io { port, width, is_in: false, data: value })
    }
}

/// Marks a port in the log of answers.
const PORT_KEY: u64 = 1 << 63;

impl<B: VendorBackend> CxMachine<'_, '_, '_, B> {
    fn set_cr8(&mut self, value: u64) -> EmulatedStep<()> {
        if value > 15 {
            return Err(StopReason::Fault(CpuException::GP0));
        }
        self.cx.core.set_cr8(value as u8);
        Ok(())
    }

    /// Loads the directory pointers of PAE paging, as `state` names them. SDM, "PDPTE Registers".
    fn load_pdptes(&mut self, rules: &CrRules, state: &CrState) -> EmulatedStep<()> {
        let entries: [u64; 4] = match self.cx.vm.machine.ram.read_obj(Gpa(state.pdpt())) {
            Ok(entries) => entries,
            Err(MemError::NoSlot(_)) => return Err(StopReason::Fault(CpuException::GP0)),
            Err(e) => return self.mem_error(e, false),
        };
        if !rules.are_pdptes(&entries) {
            return Err(StopReason::Fault(CpuException::GP0));
        }
        self.cx.core.state.pdptes = entries;
        Ok(())
    }

    /// Checks the I/O permission bitmap of the TSS. SDM, "I/O Permission Bit Map".
    fn check_port(&mut self, port: u16, width: AccessWidth) -> EmulatedStep<()> {
        if self.is_io_allowed() {
            return Ok(());
        }
        let gp = Err(StopReason::Fault(CpuException::GP0));
        let tr = self.cx.core.state.tr;
        // The word that says where the map is ends with byte 103.
        if !tr.attr.is_present() || tr.limit < 103 {
            return gp;
        }
        let mut base = [0u8; 2];
        self.read_as_supervisor(Gva(tr.base.wrapping_add(102)), &mut base)?;
        let at = u32::from(u16::from_le_bytes(base)).saturating_add(u32::from(port >> 3));
        // The processor always reads two bytes, and so wants one behind the map.
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

    /// Reads the TSS. Where there is no memory, nothing is permitted, as on KVM.
    fn read_as_supervisor(&mut self, gva: Gva, buf: &mut [u8]) -> EmulatedStep<()> {
        self.act_as_processor(true);
        let done = self.read(gva, buf, MemAccess::Read);
        self.act_as_processor(false);
        match done {
            Err(StopReason::NoMemory(_)) => Err(StopReason::Fault(CpuException::GP0)),
            done => done,
        }
    }
}
