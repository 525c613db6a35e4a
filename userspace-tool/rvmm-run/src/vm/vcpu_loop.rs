// SPDX-License-Identifier: GPL-2.0

//! The loop around `KVM_RUN`.
//!
//! The machine's devices live in the module, so a healthy guest never returns here until it ends. What does return is
//! treated as a PC treats an address without a device: reads give all ones, writes are lost.

use std::sync::atomic::{AtomicBool, Ordering};

use kvm_ioctls::{VcpuExit, VcpuFd};
use nix::errno::Errno;

use super::dump::{recorded, registers, ExitLog};
use crate::abi::run::{SYSTEM_EVENT_RESET, SYSTEM_EVENT_SHUTDOWN};

/// What the loop needs of a processor; a test gives a scripted one.
pub trait Processor {
    /// Runs the guest until something needs the tool.
    ///
    /// # Errors
    /// The error of `KVM_RUN`; `EINTR` and `EAGAIN` are no failures.
    fn run(&mut self) -> Result<VcpuExit<'_>, Errno>;

    /// Has the guest told that it stood still, where it has a clock of KVM's.
    fn note_stop(&self);

    /// Suberror and data of the internal error that `run` just returned.
    fn internal_error(&mut self) -> (u32, Vec<u64>);

    /// Registers as text, or why they cannot be read.
    fn registers(&self) -> String;

    /// The last exits that the module handled, as text.
    fn module_exits(&self) -> String;
}

impl Processor for VcpuFd {
    fn run(&mut self) -> Result<VcpuExit<'_>, Errno> {
        self.run().map_err(|e| Errno::from_raw(e.errno()))
    }

    fn note_stop(&self) {
        // A guest without the clock is told nothing.
        let _ = self.kvmclock_ctrl();
    }

    fn internal_error(&mut self) -> (u32, Vec<u64>) {
        crate::sys::internal_error(self)
    }

    fn registers(&self) -> String {
        match (self.get_regs(), self.get_sregs()) {
            (Ok(regs), Ok(sregs)) => registers(&regs, &sregs),
            (Err(e), _) | (_, Err(e)) => format!("registers cannot be read: {e}\n"),
        }
    }

    fn module_exits(&self) -> String {
        match crate::sys::last_exits(self) {
            Ok(last) => recorded(&last),
            Err(e) => format!("the module's last exits cannot be read: {e}\n"),
        }
    }
}

/// Why a processor's loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuEnd {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// Triple fault; with the dump.
    TripleFault(String),
    /// The module cannot run this guest any further; with the reason and the dump.
    Failed {
        /// In one line.
        reason: String,
        /// Registers and last exits.
        dump: String,
    },
    /// `KVM_RUN` itself failed.
    Host(Errno),
    /// Somebody else ended the run.
    Stopped,
}

/// What to do after one exit.
enum Next {
    Continue,
    End(VcpuEnd),
    InternalError,
    Stuck(String),
    TripleFault,
}

/// Runs a processor until the machine ends. `stop` is looked at after every return of `KVM_RUN`, which a signal forces;
/// `pause` is called then, with what tells the processor's state, and returns when the machine is not paused.
/// `debug`, if any, hears of every exit, and where the processor was when it was stopped.
pub fn run_until_end(
    cpu: &mut impl Processor,
    stop: &AtomicBool,
    pause: impl Fn(&dyn Fn() -> String),
    debug: Option<&dyn Fn(&str)>,
) -> VcpuEnd {
    let mut log = ExitLog::default();
    loop {
        if stop.load(Ordering::Acquire) {
            if let Some(debug) = debug {
                debug(&format!("stopped at\n{}", dump(cpu, &log)));
            }
            return VcpuEnd::Stopped;
        }
        let next = match cpu.run() {
            Ok(exit) => {
                let (text, next) = handle(exit);
                if let Some(text) = text {
                    if let Some(debug) = debug {
                        debug(&text);
                    }
                    log.push(text);
                }
                next
            }
            // The tool's own signals end the run or pause it. Or the process was stopped and goes on, or was frozen.
            // The guest's watchdogs are to forget that time.
            Err(Errno::EINTR) => {
                pause(&|| dump(cpu, &log));
                if !stop.load(Ordering::Acquire) {
                    cpu.note_stop();
                }
                Next::Continue
            }
            Err(Errno::EAGAIN) => Next::Continue,
            Err(errno) => Next::End(VcpuEnd::Host(errno)),
        };
        match next {
            Next::Continue => {}
            Next::End(end) => return end,
            Next::TripleFault => return VcpuEnd::TripleFault(dump(cpu, &log)),
            Next::Stuck(reason) => return VcpuEnd::Failed { reason, dump: dump(cpu, &log) },
            Next::InternalError => {
                let (suberror, data) = cpu.internal_error();
                let reason = format!("internal error, suberror {suberror}, data {data:x?}");
                return VcpuEnd::Failed { reason, dump: dump(cpu, &log) };
            }
        }
    }
}

fn dump(cpu: &impl Processor, log: &ExitLog) -> String {
    cpu.registers() + &cpu.module_exits() + &log.render()
}

/// Completes one exit. The text, when there is one, is for the log.
fn handle(exit: VcpuExit<'_>) -> (Option<String>, Next) {
    match exit {
        VcpuExit::IoIn(port, data) => {
            data.fill(0xff);
            (Some(format!("in  port {port:#06x} len {}", data.len())), Next::Continue)
        }
        VcpuExit::IoOut(port, data) => {
            (Some(format!("out port {port:#06x} len {} data {data:02x?}", data.len())), Next::Continue)
        }
        VcpuExit::MmioRead(gpa, data) => {
            data.fill(0xff);
            (Some(format!("read  mmio {gpa:#x} len {}", data.len())), Next::Continue)
        }
        VcpuExit::MmioWrite(gpa, data) => {
            (Some(format!("write mmio {gpa:#x} len {} data {data:02x?}", data.len())), Next::Continue)
        }
        VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Nmi | VcpuExit::IoapicEoi(_) => {
            (None, Next::Continue)
        }
        VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _) => (None, Next::End(VcpuEnd::PowerOff)),
        VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _) => (None, Next::End(VcpuEnd::Reset)),
        VcpuExit::SystemEvent(kind, data) => (
            None,
            Next::Stuck(format!("system event {kind} with data {data:x?}, which the tool does not know")),
        ),
        VcpuExit::Shutdown => (None, Next::TripleFault),
        VcpuExit::FailEntry(reason, cpu) => (
            None,
            Next::Stuck(format!("entry to the guest failed, hardware reason {reason:#x} on host CPU {cpu}")),
        ),
        VcpuExit::InternalError => (None, Next::InternalError),
        VcpuExit::MemoryFault { flags, gpa, size } => {
            (None, Next::Stuck(format!("memory fault at {gpa:#x}, size {size:#x}, flags {flags:#x}")))
        }
        VcpuExit::Hlt => {
            (None, Next::Stuck("HLT came to the tool: the module has no local APIC for this VM".into()))
        }
        VcpuExit::Unsupported(reason) => {
            (None, Next::Stuck(format!("exit reason {reason}, which the tool does not know")))
        }
        other => (None, Next::Stuck(format!("exit {other:?}, which the tool does not know"))),
    }
}
