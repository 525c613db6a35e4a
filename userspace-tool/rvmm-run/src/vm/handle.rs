// SPDX-License-Identifier: GPL-2.0

//! A running VM as its control socket sees it. It outlives the machine, of which a reset makes another.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_msi;
use kvm_ioctls::{DeviceFd, VmFd};
use nix::unistd::{sysconf, SysconfVar};

use super::device_types::press_power_button;
use super::disks::RunningDisk;
use super::shared::{RunOutcome, Shared};
use super::stats;
use super::vcpu_loop::VcpuEnd;
use crate::config::layout::LAPIC;
use crate::config::net::NetKind;
use crate::config::spec::VmSpec;
use crate::console::hub::ConsoleHub;
use crate::control::feed::VmEvent;
use crate::control::protocol::{
    DiskStatus, Hello, Refusal, RefusalKind, VmState, VmStats, VmStatus, VERSION,
};
use crate::control::steered::{SteeredVm, StopRequest};
use crate::error::ToolError;
use crate::events::{feed, message};

/// How long a processor may take to come to rest: as long as a client may be kept waiting.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
/// Pause between two looks at that.
const LOOK: Duration = Duration::from_millis(1);
/// Delivery mode of a message-signalled interrupt, its register "Message Data": NMI.
const MSI_NMI: u32 = 0b100 << 8;

/// A running VM.
#[derive(Debug)]
pub struct VmHandle {
    /// What does not change.
    facts: VmStatus,
    /// How long a guest may take to end.
    stop_timeout: Duration,
    began: Instant,
    hub: Arc<ConsoleHub>,
    state: Mutex<HandleState>,
}

#[derive(Debug, Default)]
struct HandleState {
    machine: Option<SteeredMachine>,
    /// How many there were.
    machines: u32,
    is_over: bool,
    console: Option<String>,
}

/// What a machine can be steered by.
#[derive(Debug)]
pub(super) struct SteeredMachine {
    pub(super) vm: Arc<VmFd>,
    pub(super) shared: Arc<Shared>,
    pub(super) power: Arc<Option<DeviceFd>>,
    pub(super) counters: Arc<Vec<File>>,
    pub(super) disks: Vec<Arc<RunningDisk>>,
}

impl VmHandle {
    /// The handle of a VM that is about to run.
    ///
    /// # Errors
    /// `Host` when no descriptor is left.
    pub fn new(spec: &VmSpec, name: &str) -> Result<Self, ToolError> {
        let disk = |disk: &crate::config::disk::DiskSpec| DiskStatus {
            path: whole_path(&disk.path),
            read_only: disk.read_only,
        };
        let net = |net: &crate::config::net::NetSpec| match &net.kind {
            NetKind::Tap(tap) => format!("tap {tap}"),
            NetKind::User(_) => "user".to_string(),
        };
        let facts = VmStatus {
            pid: std::process::id(),
            name: name.to_string(),
            state: VmState::Starting,
            cpus: spec.cpus,
            memory: spec.memory.bytes(),
            memory_used: 0,
            disks: spec.disks.iter().map(disk).collect(),
            nets: spec.nets.iter().map(net).collect(),
            console: spec.console.to_string(),
            uptime_ms: 0,
            resets: 0,
        };
        let hub = ConsoleHub::new().map_err(|e| ToolError::Host("make an eventfd", e))?;
        let stop_timeout = Duration::from_secs(spec.stop_timeout.into());
        let (hub, state) = (Arc::new(hub), Mutex::default());
        Ok(Self { facts, stop_timeout, began: Instant::now(), hub, state })
    }

    /// Says where the console is, once that is known.
    pub fn set_console(&self, console: String) {
        self.lock().console = Some(console);
    }

    /// The console's output and input for clients.
    pub fn hub(&self) -> Arc<ConsoleHub> {
        Arc::clone(&self.hub)
    }

    fn lock(&self) -> MutexGuard<'_, HandleState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine runs from now on.
    pub(super) fn attach(&self, machine: SteeredMachine) {
        let mut state = self.lock();
        state.machine = Some(machine);
        state.machines = state.machines.saturating_add(1);
    }

    /// It does no more. Nobody steers it when this returns.
    pub(super) fn detach(&self) {
        self.lock().machine = None;
    }

    /// No other machine comes.
    pub fn set_over(&self) {
        self.lock().is_over = true;
    }

    /// Does something with the machine, which stays for as long as that takes.
    fn with<R>(&self, f: impl FnOnce(&SteeredMachine) -> Result<R, Refusal>) -> Result<R, Refusal> {
        match &self.lock().machine {
            Some(machine) => f(machine),
            None => Err(Refusal::new(RefusalKind::BadState, "the guest is being started, or has ended")),
        }
    }

    fn uptime_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

impl SteeredMachine {
    fn processors(&self) -> usize {
        self.counters.len()
    }

    fn state(&self) -> VmState {
        if self.shared.plan().is_some() {
            VmState::Stopping
        } else if self.shared.gate.is_closed() {
            VmState::Paused
        } else {
            VmState::Running
        }
    }

    /// Whether every processor stands still.
    fn rests(&self) -> bool {
        self.shared.gate.is_closed() && !self.shared.gate.is_closing(self.processors())
    }

    fn stop(&self, after: Duration) -> Result<(), Refusal> {
        let Some(power) = &*self.power else {
            return Err(Refusal::new(RefusalKind::Unsupported, "the guest has no power button: use force"));
        };
        // A guest that stands still cannot end.
        self.shared.go_on();
        press_power_button(power).map_err(|e| Refusal::new(RefusalKind::Failed, e.explanation()))?;
        feed().push(VmEvent::PowerButton);
        self.shared.plan_stop(after, None);
        Ok(())
    }
}

impl SteeredVm for VmHandle {
    fn hello(&self) -> Hello {
        Hello { rvmm: VERSION, name: self.facts.name.clone(), pid: self.facts.pid }
    }

    fn status(&self) -> VmStatus {
        let state = self.lock();
        VmStatus {
            state: match &state.machine {
                Some(machine) => machine.state(),
                None if state.is_over => VmState::Stopping,
                None => VmState::Starting,
            },
            memory_used: memory_used(),
            uptime_ms: self.uptime_ms(),
            resets: state.machines.saturating_sub(1),
            console: state.console.clone().unwrap_or_else(|| self.facts.console.clone()),
            ..self.facts.clone()
        }
    }

    fn stop(&self, how: StopRequest) -> Result<(), Refusal> {
        self.with(|machine| match how {
            StopRequest::ByForce => {
                machine.shared.end(RunOutcome::Quit);
                Ok(())
            }
            StopRequest::Politely(seconds) => {
                let after = seconds.map_or(self.stop_timeout, |s| Duration::from_secs(s.into()));
                machine.stop(after)
            }
        })
    }

    fn pause(&self) -> Result<(), Refusal> {
        self.with(|machine| {
            let gate = &machine.shared.gate;
            if gate.is_closed() {
                return Err(Refusal::new(RefusalKind::BadState, "the guest is paused already"));
            }
            gate.close();
            let limit = Instant::now() + PAUSE_LIMIT;
            while !machine.rests() {
                if machine.shared.stopping() {
                    return Err(Refusal::new(RefusalKind::BadState, "the guest has ended"));
                }
                if Instant::now() > limit {
                    gate.open();
                    return Err(Refusal::new(RefusalKind::Failed, "a virtual CPU stays in the module"));
                }
                std::thread::sleep(LOOK);
            }
            message("the guest is paused");
            feed().push(VmEvent::Paused);
            Ok(())
        })
    }

    fn resume(&self) -> Result<(), Refusal> {
        self.with(|machine| match machine.shared.go_on() {
            true => Ok(()),
            false => Err(Refusal::new(RefusalKind::BadState, "the guest is not paused")),
        })
    }

    fn reset(&self) -> Result<(), Refusal> {
        self.with(|machine| {
            machine.shared.end(RunOutcome::Vcpu { id: 0, end: VcpuEnd::Reset });
            Ok(())
        })
    }

    fn nmi(&self) -> Result<(), Refusal> {
        self.with(|machine| {
            for id in 0..machine.processors() as u32 {
                let address_lo = LAPIC as u32 | id << 12;
                let msi = kvm_msi { address_lo, data: MSI_NMI, ..Default::default() };
                machine.vm.signal_msi(msi).map_err(|e| {
                    Refusal::new(RefusalKind::Failed, format!("cannot send it to virtual CPU {id}: {e}"))
                })?;
            }
            Ok(())
        })
    }

    fn stats(&self) -> Result<VmStats, Refusal> {
        self.with(|machine| {
            let read = machine.counters.iter().map(stats::read).collect::<Result<Vec<_>, _>>();
            let read = read.map_err(|e| {
                Refusal::new(RefusalKind::Failed, format!("the counters cannot be read: {e}"))
            })?;
            Ok(VmStats {
                uptime_ms: self.uptime_ms(),
                vcpus: read.into_iter().map(|cpu| cpu.plain.into_iter().collect()).collect(),
                failed_disk_requests: machine.disks.iter().map(|disk| disk.failed()).collect(),
            })
        })
    }

    fn debug(&self) -> Result<Vec<String>, Refusal> {
        self.with(|machine| match machine.rests() {
            true => Ok(machine.shared.dumps()),
            false => Err(Refusal::new(RefusalKind::BadState, "the guest runs: pause it first")),
        })
    }

    fn console(&self) -> Result<&ConsoleHub, Refusal> {
        Ok(&self.hub)
    }
}

/// A path as seen from anywhere.
fn whole_path(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string()
}

/// Memory of the host that this process takes, in bytes; 0 where that is not told. proc_pid_statm(5).
fn memory_used() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|n| u64::try_from(n).ok());
    pages * page.unwrap_or(0)
}
