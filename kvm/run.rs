// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN: the shared page on the way in and out of the run loop.

use super::abi::run as abi;
use crate::arch::addr::Width;
use crate::arch::cr::Rflags;
use crate::host::cpu::PinnedCpu;
use crate::host::page::SharedPage;
use crate::vcpu::backend::{Backend, BackendVcpu};
use crate::vcpu::core::VcpuCore;
use crate::vcpu::handle::merge_rax;
use crate::vcpu::outcome::{SystemEvent, UserExit, VmBug};
use crate::vcpu::state::RAX;
use kernel::prelude::*;

/// The pages that a vCPU shares with user space.
pub(super) struct RunPages {
    /// struct kvm_run.
    pub(super) run: SharedPage,
    /// Port data.
    pub(super) pio: SharedPage,
    /// The ring of coalesced MMIO; always empty.
    pub(super) coalesced: SharedPage,
}

impl RunPages {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<RunPages> {
        Ok(RunPages { run: SharedPage::new()?, pio: SharedPage::new()?, coalesced: SharedPage::new()? })
    }

    /// Returns whether user space wants the next KVM_RUN to return at once.
    pub(super) fn immediate_exit(&self) -> bool {
        self.byte(abi::IMMEDIATE_EXIT) != 0
    }

    fn byte(&self, at: usize) -> u8 {
        let mut b = [0];
        self.run.read(at, &mut b);
        b[0]
    }

    fn u64(page: &SharedPage, at: usize) -> u64 {
        let mut b = [0; 8];
        page.read(at, &mut b);
        u64::from_le_bytes(b)
    }

    /// Finishes what user space was asked, and takes what it asks.
    pub(super) fn begin<B: Backend>(&self, core: &mut VcpuCore<B>, last: &mut Option<UserExit>) {
        if let Some(width) = core.io.port_in.take() {
            let value = (Self::u64(&self.pio, 0) & width.mask()) as u32;
            core.state.gprs[RAX] = merge_rax(core.state.gprs[RAX], width, value);
        }
        match last.take() {
            Some(UserExit::Mmio { .. }) => {
                core.io.complete(Self::u64(&self.run, abi::MMIO_DATA));
            }
            Some(UserExit::Io { .. }) => {
                core.io.complete(Self::u64(&self.pio, 0));
            }
            _ => {}
        }
        if core.lapic.is_none() {
            core.hw.set_tpr((Self::u64(&self.run, abi::CR8) & 15) as u8);
            core.wants_window = self.byte(abi::REQUEST_INTERRUPT_WINDOW) != 0;
        }
    }

    /// Tells user space why KVM_RUN returns, and what it may want to know on every return.
    pub(super) fn end<B: Backend<Pinned = PinnedCpu>>(&self, core: &mut VcpuCore<B>, exit: Option<UserExit>) {
        let ready = core.is_interruptible()
            && core.user_irq.is_none()
            && core.interrupted.is_none()
            && core.exception.is_none();
        self.run.write(abi::READY_FOR_INTERRUPT_INJECTION, &[u8::from(core.lapic.is_some() || ready)]);
        self.run.write(abi::IF_FLAG, &[u8::from(core.state.rflags & Rflags::IF.bits() != 0)]);
        let (cr8, base) = match core.lapic.as_ref() {
            Some(l) => (l.cr8(), l.base()),
            None => (core.hw.tpr(), 0xfee0_0900),
        };
        self.run.write(abi::CR8, &u64::from(cr8).to_le_bytes());
        self.run.write(abi::APIC_BASE, &base.to_le_bytes());
        match exit {
            Some(exit) => self.report(exit),
            None => self.reason(abi::EXIT_INTR),
        }
    }

    fn reason(&self, reason: u32) {
        self.run.write(abi::EXIT_REASON, &reason.to_le_bytes());
    }

    fn report(&self, exit: UserExit) {
        match exit {
            UserExit::Io { port, width, is_in, data } => self.report_io(port, width, is_in, data),
            UserExit::Mmio { gpa, data, len, is_write } => {
                self.reason(abi::EXIT_MMIO);
                self.run.write(abi::MMIO_PHYS_ADDR, &gpa.0.to_le_bytes());
                self.run.write(abi::MMIO_DATA, &data);
                self.run.write(abi::MMIO_LEN, &u32::from(len).to_le_bytes());
                self.run.write(abi::MMIO_IS_WRITE, &[u8::from(is_write)]);
            }
            UserExit::Hlt => self.reason(abi::EXIT_HLT),
            UserExit::Shutdown => self.reason(abi::EXIT_SHUTDOWN),
            UserExit::InterruptWindow => self.reason(abi::EXIT_IRQ_WINDOW_OPEN),
            UserExit::SystemEvent(event) => {
                let kind: u32 = match event {
                    SystemEvent::PowerOff => abi::SYSTEM_EVENT_SHUTDOWN,
                    SystemEvent::Reset => abi::SYSTEM_EVENT_RESET,
                };
                self.reason(abi::EXIT_SYSTEM_EVENT);
                self.run.write(abi::UNION, &kind.to_le_bytes());
                self.run.write(abi::UNION + 4, &0u32.to_le_bytes());
            }
            UserExit::Bug(bug) => self.report_bug(bug),
        }
    }

    fn report_io(&self, port: u16, width: Width, is_in: bool, data: u32) {
        self.reason(abi::EXIT_IO);
        self.run.write(abi::IO_DIRECTION, &[u8::from(!is_in)]);
        self.run.write(abi::IO_SIZE, &[width.bytes() as u8]);
        self.run.write(abi::IO_PORT, &port.to_le_bytes());
        self.run.write(abi::IO_COUNT, &1u32.to_le_bytes());
        self.run.write(abi::IO_DATA_OFFSET, &4096u64.to_le_bytes());
        self.pio.write(0, &u64::from(data).to_le_bytes());
    }

    fn report_bug(&self, bug: VmBug) {
        match bug {
            VmBug::EntryFailed(raw) => {
                self.reason(abi::EXIT_FAIL_ENTRY);
                self.run.write(abi::UNION, &raw.reason.to_le_bytes());
                self.run.write(abi::UNION + 8, &crate::host::cpu::cpu_id().to_le_bytes());
            }
            VmBug::UnknownExit(raw) => {
                self.internal(abi::INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, &[raw.reason, raw.info1, raw.info2]);
            }
            VmBug::Emulation { rip, bytes, len } => {
                let mut insn = [0u8; 16];
                for (dst, src) in insn.iter_mut().zip(bytes) {
                    *dst = src;
                }
                let lo = u64::from_le_bytes(insn[..8].try_into().unwrap_or([0; 8]));
                let hi = u64::from_le_bytes(insn[8..].try_into().unwrap_or([0; 8]));
                self.internal(abi::INTERNAL_ERROR_EMULATION, &[rip, u64::from(len), lo, hi]);
            }
        }
    }

    fn internal(&self, suberror: u32, data: &[u64]) {
        self.reason(abi::EXIT_INTERNAL_ERROR);
        self.run.write(abi::UNION, &suberror.to_le_bytes());
        self.run.write(abi::UNION + 4, &(data.len() as u32).to_le_bytes());
        for (i, d) in data.iter().enumerate() {
            let at = (abi::UNION + 8).saturating_add(i.saturating_mul(8));
            self.run.write(at, &d.to_le_bytes());
        }
    }
}
