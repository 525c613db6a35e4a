// SPDX-License-Identifier: GPL-2.0

//! A vCPU under a debugger: whose debug registers are where, and which exceptions end in user space.
//!
//! A step is made with the trap flag, which the guest's own instructions and handlers may come to see, as on KVM: PUSHF
//! shows it, and an interrupt's handler runs to its end within the step.

use super::backend::VendorBackend;
use super::core::VcpuCore;
use super::debugger::{valid_dr6, valid_dr7, DebugFlags, DebugRegs, EntryBars, DR6_IDLE};
use super::outcome::UserExit;
use super::state::StateGroups;
use crate::arch::cr::Rflags;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::SegReg;
use kernel::prelude::*;

/// DR7: the conditions and lengths of the four breakpoints follow; bits 7:0 switch them on.
const DR7_GD: u64 = 1 << 13;
/// DR7: the breakpoints of this task alone, L0 to L3 and LE.
const DR7_LOCAL: u64 = 0x155;
/// DR6: a task switch.
const DR6_BT: u64 = 1 << 15;
/// DR6: an access to a debug register.
const DR6_BD: u64 = 1 << 13;

impl<B: VendorBackend> VcpuCore<B> {
    /// KVM_SET_GUEST_DEBUG.
    ///
    /// # Errors
    /// `EBUSY` for an exception to be injected while another one waits.
    pub(crate) fn set_guest_debug(&mut self, control: u32, debugreg: &[u64; 8]) -> Result {
        let asked = DebugFlags::from_bits_truncate(control);
        // What it stood for may be gone: KVM_SET_REGS drops what waits.
        self.debug.is_injected &= self.exception.is_some();
        if asked.intersects(DebugFlags::INJECT_DB | DebugFlags::INJECT_BP) {
            self.inject_for_debugger(asked)?;
        }
        // The guest's, before anything of the debugger's is put over them.
        let own = self.own_debug_regs();
        if self.debug.is_stepping() {
            self.state.rflags &= !Rflags::TF.bits();
        }
        self.debug.set_flags(asked);
        self.controls.set_breakpoint_exits(self.debug.takes_int3());
        self.bars.set(EntryBars::NO_INTERRUPTS, self.debug.blocks_interrupts());
        // The guest's are put back first: the debugger may have none any more.
        self.debug.own = None;
        self.put_debug_regs(own);
        if self.debug.takes_debug_exceptions() {
            self.debug.own = Some(own);
            let [a, b, c, d, .., dr7] = *debugreg;
            let (addresses, dr7) = match self.debug.has_breakpoints() {
                true => ([a, b, c, d], valid_dr7(dr7)),
                false => (own.addresses, own.dr7),
            };
            self.put_debug_regs(DebugRegs { addresses, dr6: DR6_IDLE, dr7 });
        }
        let at = self.linear_rip();
        self.debug.step_from(at);
        self.begin_step();
        Ok(())
    }

    fn inject_for_debugger(&mut self, asked: DebugFlags) -> Result {
        if self.exception.is_some() {
            return Err(EBUSY);
        }
        if asked.contains(DebugFlags::INJECT_DB) {
            self.debug.is_injected = true;
            self.raise(CpuException::plain(ExceptionVector::DB));
        } else {
            // A trap: the guest goes on behind the INT3 that exited.
            self.state.rip = self.state.rip.wrapping_add(1);
            self.raise(CpuException::plain(ExceptionVector::BP));
        }
        Ok(())
    }

    /// Software has set RIP or RFLAGS. The step that began there goes on.
    pub(crate) fn begin_step(&mut self) {
        if self.debug.is_stepping() {
            let at = self.linear_rip();
            // As KVM: a step that began elsewhere is over.
            if self.debug.steps_from(at) {
                self.state.rflags |= Rflags::TF.bits();
            }
        }
    }

    /// Returns RFLAGS without what is the debugger's.
    pub(crate) fn own_rflags(&self) -> u64 {
        let step = if self.debug.is_stepping() { Rflags::TF.bits() } else { 0 };
        self.state.rflags & !step
    }

    /// Returns the linear address of the instruction at RIP.
    pub(crate) fn linear_rip(&mut self) -> u64 {
        self.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL);
        match self.state.is_64bit() {
            true => self.state.rip,
            false => self.state.seg(SegReg::Cs).base.wrapping_add(self.state.rip) & 0xffff_ffff,
        }
    }

    /// Returns the guest's own debug registers.
    pub(crate) fn own_debug_regs(&mut self) -> DebugRegs {
        if let Some(own) = self.debug.own {
            return own;
        }
        self.fetch(StateGroups::DEBUG);
        DebugRegs { addresses: self.dr, dr6: self.state.dr6, dr7: self.state.dr7 }
    }

    /// Sets the guest's own debug registers. They are in force unless the debugger has its own.
    pub(crate) fn set_own_debug_regs(&mut self, regs: DebugRegs) {
        if self.debug.own.is_none() {
            self.put_debug_regs(regs);
            return;
        }
        self.debug.own = Some(regs);
        // The guest's breakpoints stay in force under a debugger that steps; DR6 is where it is told of the step.
        if !self.debug.has_breakpoints() {
            self.fetch(StateGroups::DEBUG);
            self.put_debug_regs(DebugRegs { dr6: self.state.dr6, ..regs });
        }
    }

    fn put_debug_regs(&mut self, regs: DebugRegs) {
        self.fetch(StateGroups::DEBUG);
        self.dr = regs.addresses;
        (self.state.dr6, self.state.dr7) = (regs.dr6, regs.dr7);
        self.state.mark(StateGroups::DEBUG);
    }

    /// Takes a debug exception or a breakpoint for the debugger; `None`: it is the guest's.
    pub(crate) fn take_for_debugger(&mut self, vector: ExceptionVector) -> Option<UserExit> {
        let is_taken = match vector {
            ExceptionVector::DB => self.debug.takes_debug_exceptions() && !self.debug.is_injected,
            ExceptionVector::BP => self.debug.takes_int3(),
            _ => false,
        };
        is_taken.then(|| self.debug_exit(vector, 0))
    }

    /// Makes the exit to the debugger; `more`: causes that are not in DR6.
    fn debug_exit(&mut self, vector: ExceptionVector, more: u64) -> UserExit {
        let pc = self.linear_rip();
        self.fetch(StateGroups::DEBUG);
        let (dr6, dr7) = (self.state.dr6 | more, self.state.dr7);
        // A processor adds causes and takes none away: the next stop would tell of this one, too.
        if self.debug.own.is_some() {
            self.state.dr6 = DR6_IDLE;
            self.state.mark(StateGroups::DEBUG);
        }
        UserExit::Debug { vector, pc, dr6, dr7 }
    }

    /// Takes the exception that waits, if it ends in user space: [`super::inject::prepare`] found that the guest cannot
    /// be entered for it.
    #[cold]
    pub(crate) fn take_end(&mut self) -> UserExit {
        let waits = self.exception.map(|e| e.vector);
        match waits.and_then(|vector| self.take_for_debugger(vector)) {
            Some(exit) if !self.bars.contains(EntryBars::SHUTDOWN) => {
                self.exception = None;
                exit
            }
            _ => UserExit::Shutdown,
        }
    }

    /// MOV from a debug register by the guest, while the debugger is there. `Err`: what comes instead.
    ///
    /// # Errors
    /// An exception, or the exit of a debugger who watches the registers.
    pub(crate) fn read_own_debug(&mut self, number: u8) -> Result<u64, DebugAccess> {
        let number = self.check_debug_access(number)?;
        let own = self.own_debug_regs();
        Ok(match number {
            4 | 6 => own.dr6,
            5 | 7 => own.dr7,
            n => own.addresses.get(usize::from(n)).copied().unwrap_or(0),
        })
    }

    /// The same of MOV to one.
    ///
    /// # Errors
    /// As [`VcpuCore::read_own_debug`].
    pub(crate) fn write_own_debug(&mut self, number: u8, value: u64) -> Result<(), DebugAccess> {
        let number = self.check_debug_access(number)?;
        let mut own = self.own_debug_regs();
        if matches!(number, 4..=7) && value >> 32 != 0 {
            return Err(DebugAccess::Raise(CpuException::GP0));
        }
        match number {
            4 | 6 => own.dr6 = valid_dr6(value),
            5 | 7 => own.dr7 = valid_dr7(value),
            n => {
                if let Some(address) = own.addresses.get_mut(usize::from(n)) {
                    *address = value;
                }
            }
        }
        self.set_own_debug_regs(own);
        Ok(())
    }

    /// Checks what a MOV to or from a debug register depends on. SDM, "MOV—Move to/from Debug Registers".
    fn check_debug_access(&mut self, number: u8) -> Result<u8, DebugAccess> {
        use crate::arch::cr::Cr4;
        self.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL | StateGroups::DEBUG);
        if number > 7 || (matches!(number, 4 | 5) && self.state.cr4 & Cr4::DE.bits() != 0) {
            return Err(DebugAccess::Raise(CpuException::UD));
        }
        if self.state.cpl() != 0 {
            return Err(DebugAccess::Raise(CpuException::GP0));
        }
        if self.debug.has_breakpoints() && self.state.dr7 & DR7_GD != 0 {
            return Err(DebugAccess::Exit(self.debug_exit(ExceptionVector::DB, DR6_BD)));
        }
        let mut own = self.own_debug_regs();
        if own.dr7 & DR7_GD != 0 {
            own.dr6 |= DR6_BD;
            self.set_own_debug_regs(own);
            // The guard is the guest's own: a debugger that steps must not be given this #DB.
            self.debug.is_injected = true;
            return Err(DebugAccess::Raise(CpuException::plain(ExceptionVector::DB)));
        }
        Ok(number)
    }

    /// A task is left: its breakpoints go with it.
    pub(crate) fn end_local_breakpoints(&mut self) {
        let mut own = self.own_debug_regs();
        if own.dr7 & DR7_LOCAL != 0 {
            own.dr7 &= !DR7_LOCAL;
            self.set_own_debug_regs(own);
        }
    }

    /// The TSS of a task says that its first instruction is to be seen.
    pub(crate) fn note_task_trap(&mut self) {
        let mut own = self.own_debug_regs();
        own.dr6 |= DR6_BT;
        self.set_own_debug_regs(own);
    }

    /// #DB goes to the guest: its handler may use the debug registers. SDM, "Debug Control Register (DR7)".
    pub(crate) fn clear_debug_guard(&mut self) {
        self.debug.is_injected = false;
        let mut own = self.own_debug_regs();
        if own.dr7 & DR7_GD != 0 {
            own.dr7 &= !DR7_GD;
            self.set_own_debug_regs(own);
        }
    }
}

/// What comes instead of an access to a debug register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DebugAccess {
    /// An exception.
    Raise(CpuException),
    /// User space.
    Exit(UserExit),
}
