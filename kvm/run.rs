// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN: the shared page on the way in and out of the run loop.

use super::hyperv;
use crate::abi::run::{self as abi, offset, ExitReason, RunExit};
use crate::arch::cr::Rflags;
use crate::arch::slice::copy_common;
use crate::host::page::SharedPage;
use crate::host::trace;
use crate::machine::power::PlatformEvent;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::exit::RawExit;
use crate::vcpu::outcome::{UserExit, VmBug};
use crate::vcpu::state::{merge_rax, RAX};
use crate::vcpu::vm::Vm;
use kernel::prelude::*;

/// The pages that a vCPU shares with user space.
pub(super) struct RunPages {
    /// struct kvm_run.
    pub(super) run: SharedPage,
    /// Port data.
    pub(super) pio: SharedPage,
}

impl RunPages {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<RunPages> {
        Ok(RunPages { run: SharedPage::new()?, pio: SharedPage::new()? })
    }

    /// Returns whether user space wants the next KVM_RUN to return at once.
    pub(super) fn immediate_exit(&self) -> bool {
        self.byte(offset::IMMEDIATE_EXIT) != 0
    }

    /// Returns a number of struct kvm_run.
    #[inline]
    pub(super) fn word(&self, at: usize) -> u64 {
        self.run.word(at)
    }

    fn byte(&self, at: usize) -> u8 {
        let mut b = [0];
        self.run.read(at, &mut b);
        b[0]
    }

    /// Finishes what user space was asked, and takes what it asks.
    pub(super) fn begin<B: VendorBackend>(&self, vm: &Vm<B>, core: &mut VcpuCore<B>) {
        if let Some(width) = core.io.port_in.take() {
            let value = (self.pio.word(0) & width.mask()) as u32;
            core.state.gprs[RAX] = merge_rax(core.state.gprs[RAX], width, value);
        }
        match core.user_exit {
            Some(UserExit::Mmio { .. }) => {
                core.io.complete(self.word(offset::MMIO_DATA));
            }
            Some(UserExit::Io { .. }) => {
                core.io.complete(self.pio.word(0));
            }
            Some(UserExit::IoString { is_in: true, .. }) => {
                self.pio.read(0, &mut core.io.string);
                core.io.complete_string();
            }
            Some(UserExit::Msr { .. }) => {
                let is_done = self.byte(offset::MSR_ERROR) == 0;
                core.complete_msr(is_done.then(|| self.word(offset::MSR_DATA)));
            }
            Some(UserExit::HyperV(exit)) => hyperv::complete(vm, core, exit, |at| self.word(at)),
            _ => {}
        }
        // So that an answer counts once, also where a signal ends this KVM_RUN.
        core.user_exit = None;
        // With a local APIC in the kernel the page's CR8 goes out only.
        if core.lapic.is_none() {
            core.set_cr8((self.word(offset::CR8) & 15) as u8);
        }
        if core.has_user_pic {
            core.wants_window = self.byte(offset::REQUEST_INTERRUPT_WINDOW) != 0;
        }
    }

    /// Tells user space what it may want to know on every return of KVM_RUN.
    pub(super) fn end<B: VendorBackend>(&self, core: &mut VcpuCore<B>) {
        // As KVM: without interrupts of user space's there is nothing to be ready for.
        let ready = !core.has_user_pic || core.is_ready_for_user_irq();
        self.run.write(offset::READY_FOR_INTERRUPT_INJECTION, &[u8::from(ready)]);
        self.run.write(offset::IF_FLAG, &[u8::from(core.state.rflags & Rflags::IF.bits() != 0)]);
        self.run.write(offset::CR8, &u64::from(core.cr8()).to_le_bytes());
        self.run.write(offset::APIC_BASE, &core.apic_base().to_le_bytes());
    }

    /// Tells user space that a signal ended KVM_RUN.
    pub(super) fn report_signal(&self) {
        self.write_exit(&RunExit::plain(ExitReason::Intr));
    }

    /// Tells user space why KVM_RUN returns.
    pub(super) fn report<B: VendorBackend>(&self, core: &VcpuCore<B>) {
        let Some(exit) = core.user_exit.as_ref() else { return };
        if let UserExit::IoString { is_in: false, .. } = exit {
            self.pio.write(0, &core.io.string);
        }
        let report = match *exit {
            UserExit::Io { port, width, is_in, data } => {
                self.pio.write(0, &u64::from(data).to_le_bytes());
                let direction = if is_in { abi::IO_IN } else { abi::IO_OUT };
                RunExit::io(direction, width.bytes() as u8, port, 1)
            }
            UserExit::IoString { port, width, count, is_in } => {
                let direction = if is_in { abi::IO_IN } else { abi::IO_OUT };
                RunExit::io(direction, width.bytes() as u8, port, count)
            }
            UserExit::Mmio { gpa, len, is_write: false, .. } => RunExit::mmio_read(gpa.0, u32::from(len)),
            UserExit::Mmio { gpa, data, len, .. } => {
                RunExit::mmio_write(gpa.0, u32::from(len), u64::from_le_bytes(data))
            }
            UserExit::Msr { index, data, is_write, reason } => {
                let access = abi::Msr { error: 0, pad: [0; 7], reason, index, data };
                let exit = if is_write { ExitReason::X86Wrmsr } else { ExitReason::X86Rdmsr };
                RunExit::with(exit, &access)
            }
            UserExit::HyperV(exit) => hyperv::report(exit),
            UserExit::Hlt => RunExit::plain(ExitReason::Hlt),
            UserExit::Shutdown => RunExit::plain(ExitReason::Shutdown),
            UserExit::TprAccess(access) => RunExit::tpr_access(access.rip, access.is_write),
            UserExit::Debug { vector, pc, dr6, dr7 } => RunExit::debug(vector.0.into(), pc, dr6, dr7),
            UserExit::DirtyRingFull => RunExit::plain(ExitReason::DirtyRingFull),
            UserExit::InterruptWindow => RunExit::plain(ExitReason::IrqWindowOpen),
            UserExit::IoapicEoi(vector) => RunExit::with(ExitReason::IoapicEoi, &abi::Eoi { vector }),
            UserExit::SystemEvent(PlatformEvent::PowerOff) => {
                RunExit::system_event(abi::SYSTEM_EVENT_SHUTDOWN)
            }
            UserExit::SystemEvent(PlatformEvent::Reset) => RunExit::system_event(abi::SYSTEM_EVENT_RESET),
            UserExit::SystemEvent(PlatformEvent::Crash) => RunExit::system_event(abi::SYSTEM_EVENT_CRASH),
            UserExit::Undeliverable { raw, gpa } => {
                let (at, cpu) = (gpa.map_or(u64::MAX, |gpa| gpa.0), crate::host::cpu::cpu_id());
                let words = [raw.info2, raw.reason, raw.info1, at, u64::from(cpu)];
                RunExit::internal_error(abi::INTERNAL_ERROR_DELIVERY_EV, &words)
            }
            UserExit::Bug(bug) => report_bug(bug),
        };
        self.write_exit(&report);
    }

    fn write_exit(&self, exit: &RunExit) {
        trace::user_exit(|| trace::UserExit { reason: exit.reason as u32 });
        self.run.write(offset::EXIT_REASON, &(exit.reason as u32).to_le_bytes());
        self.run.write(offset::EXIT, exit.data());
    }
}

fn report_bug(bug: VmBug) -> RunExit {
    match bug {
        VmBug::EntryFailed(raw) => RunExit::fail_entry(raw.reason, crate::host::cpu::cpu_id()),
        VmBug::ExtendedState => RunExit::fail_entry(u64::MAX, crate::host::cpu::cpu_id()),
        VmBug::UnknownExit(raw) => RunExit::internal_error(
            abi::INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
            &[raw.reason, raw.info1, raw.info2],
        ),
        VmBug::Delivery { rip, vector } => {
            RunExit::internal_error(abi::INTERNAL_ERROR_DELIVERY_EV, &[rip, u64::from(vector)])
        }
        VmBug::Emulation { rip, bytes, len, raw } => emulation_failure(rip, (bytes, len), raw),
    }
}

/// Returns the exit for an instruction that cannot be carried out, as KVM words it: flags, the instruction where it
/// could be read, and the last exit; then what is ours, its address.
fn emulation_failure(rip: u64, (bytes, len): ([u8; 15], u8), raw: RawExit) -> RunExit {
    let RawExit { reason, info1, info2 } = raw;
    // There is neither an event whose delivery it ended, nor an error code.
    let [event, error] = [0; 2];
    if len == 0 {
        let words = [0, reason, info1, info2, event, error, rip];
        return RunExit::internal_error(abi::INTERNAL_ERROR_EMULATION, &words);
    }
    // How many bytes there are, and they; the rest is NOP.
    let mut insn = [0x90; 16];
    insn[0] = len;
    copy_common(insn.get_mut(1..).unwrap_or(&mut []), bytes.get(..len.into()).unwrap_or(&bytes));
    let insn = u128::from_le_bytes(insn);
    let words = [
        abi::EMULATION_FLAG_INSTRUCTION_BYTES,
        insn as u64,
        (insn >> 64) as u64,
        reason,
        info1,
        info2,
        event,
        error,
        rip,
    ];
    RunExit::internal_error(abi::INTERNAL_ERROR_EMULATION, &words)
}
