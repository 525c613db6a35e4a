// SPDX-License-Identifier: GPL-2.0

//! Runs a machine: one thread per processor, one per disk, two per network
//! card's pair of queues, one for the console, and the main thread that waits for the end.
//!
//! The first thread that sees the end records it and wakes the main thread, which then kicks every other thread out of the
//! module with a signal until it has ended.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvm_ioctls::{DeviceFd, VcpuFd};
use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::pthread::{pthread_kill, Pthread};
use nix::sys::signal::Signal;

use super::device_types::{lost_output, press_power_button, utc_offset};
use super::devices::{QueueWorker, VmDevices};
use super::disks::{GrowthWatch, RunningDisk};
use super::handle::{SteeredMachine, VmHandle};
use super::machine::GuestMachine;
pub use super::shared::RunOutcome;
use super::shared::{PanicGuard, Shared, StopPlan};
use super::stats;
use super::vcpu_loop::{run_until_end, VcpuEnd};
use crate::console::pump::{ConsolePump, PumpRequest};
use crate::control::feed::VmEvent;
use crate::control::notify;
use crate::control::signals::{SignalQueue, SignalRequest, KICK};
use crate::error::ToolError;
use crate::events::{feed, message, report};

/// How long a thread may take to leave the module.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Time between two kicks, in milliseconds.
const KICK_INTERVAL: u16 = 2;

/// What goes from a machine to the next one after a reset.
#[derive(Debug, Default)]
pub struct KeptParts {
    /// The console.
    pub pump: Option<ConsolePump>,
    /// Seconds that the guest's clock is ahead of UTC: a clock has a battery.
    pub utc_offset_seconds: i64,
    /// The guest was asked to end.
    pub stop_plan: Option<StopPlan>,
    /// One machine has run.
    pub has_run: bool,
}

/// Runs `machine` to its end. The kept parts come back for the next machine.
///
/// # Errors
/// `Host` when threads or descriptors run out, or a thread does not leave the module.
pub fn run(
    machine: GuestMachine,
    kept: &mut KeptParts,
    signals: &SignalQueue,
    how: &RunOptions,
) -> Result<RunOutcome, ToolError> {
    // Dropped in reverse order: RAM goes last.
    let GuestMachine { ram: _ram, vm, devices, vcpus } = machine;
    let vm = Arc::new(vm);
    let VmDevices { helpers: _helpers, others: _others, workers, disks, power, rtc, console } = devices;
    let growth = GrowthWatch::new(disks.clone()).map_err(|e| ToolError::Host("watch the disks", e))?;
    let shared = Arc::new(Shared::new(vcpus.len(), kept.stop_plan.take())?);
    let power = Arc::new(power);
    let has_console = console.is_some();
    let console = match (&console, kept.pump.take_if(|p| has_console && p.has_anybody())) {
        (Some(console), Some(pump)) => Some(start_console(pump, console, &power, &shared)?),
        _ => None,
    };
    let mut threads = Vec::new();
    let processors = vcpus.len();
    let wants_counters = how.stats || how.handle.is_some();
    let counters = Arc::new(if wants_counters { open_counters(&vcpus)? } else { Vec::new() });
    let started = start_all(vcpus, workers, &shared, how.debug, &mut threads);
    if let Err(e) = started {
        shared.end(RunOutcome::Failed(e));
    }
    // The processors' threads are the last ones.
    let processors = threads.iter().rev().take(processors).map(JoinHandleExt::as_pthread_t).collect();
    if let Some(handle) = &how.handle {
        handle.attach(SteeredMachine {
            vm: Arc::clone(&vm),
            shared: Arc::clone(&shared),
            power: Arc::clone(&power),
            counters: Arc::clone(&counters),
            disks: disks.clone(),
        });
    }
    let is_first = !std::mem::replace(&mut kept.has_run, true);
    feed().push(if is_first { VmEvent::Started } else { VmEvent::Reset });
    if is_first {
        notify::ready();
    }
    let main = MainLoop { shared: &shared, signals, power: &power, growth, processors, how };
    let waited = main.wait();
    if let Some(handle) = &how.handle {
        handle.detach();
    }
    stop(&shared, threads)?;
    if how.stats {
        print_counters(&counters, &disks);
    }
    if let Some(thread) = console {
        kept.pump = thread.join().ok();
    }
    kept.utc_offset_seconds = rtc.as_ref().map_or(0, utc_offset);
    kept.stop_plan = shared.plan();
    waited?;
    Ok(shared.take_outcome().unwrap_or(RunOutcome::Quit))
}

/// How a machine is run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Every exit to the tool is printed, and the processors' state when they are stopped.
    pub debug: bool,
    /// The module's counters are printed at the end.
    pub stats: bool,
    /// How long a guest that was asked to end may take.
    pub stop_timeout: Duration,
    /// What steers the VM, if it has a control socket.
    pub handle: Option<Arc<VmHandle>>,
}

fn open_counters(vcpus: &[VcpuFd]) -> Result<Vec<File>, ToolError> {
    let open = |v| {
        crate::sys::stats_file(v).map_err(|e| {
            ToolError::Host("open a processor's counters", Errno::from_raw(e.raw_os_error().unwrap_or(0)))
        })
    };
    vcpus.iter().map(open).collect()
}

fn print_counters(files: &[File], disks: &[Arc<RunningDisk>]) {
    let disks: String = disks.iter().map(|disk| disk.render()).collect();
    match files.iter().map(stats::read).collect::<Result<Vec<_>, _>>() {
        Ok(cpus) => report(&(stats::render(&cpus) + &disks)),
        Err(e) => message(&format!("cannot read the counters: {e}")),
    }
}

fn start_all(
    vcpus: Vec<VcpuFd>,
    workers: Vec<QueueWorker>,
    shared: &Arc<Shared>,
    debug: bool,
    threads: &mut Vec<JoinHandle<()>>,
) -> Result<(), ToolError> {
    for worker in workers {
        let shared = Arc::clone(shared);
        threads.push(spawn(worker.name.clone(), move || work(&worker, &shared))?);
    }
    for (id, vcpu) in vcpus.into_iter().enumerate() {
        let shared = Arc::clone(shared);
        threads.push(spawn(format!("vcpu{id}"), move || run_vcpu(id, vcpu, &shared, debug))?);
    }
    Ok(())
}

fn spawn<T: Send + 'static>(
    name: String,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, ToolError> {
    std::thread::Builder::new().name(name).spawn(body).map_err(ToolError::io("start a thread"))
}

/// A processor's thread.
fn run_vcpu(id: usize, mut vcpu: VcpuFd, shared: &Arc<Shared>, debug: bool) {
    let _guard = PanicGuard(Arc::clone(shared));
    let log = |text: &str| message(&format!("vcpu {id}: {text}"));
    let pause = |dump: &dyn Fn() -> String| shared.wait_as_processor(id, dump);
    let end = run_until_end(&mut vcpu, &shared.stop, pause, debug.then_some(&log as &dyn Fn(&str)));
    if end != VcpuEnd::Stopped {
        shared.end(RunOutcome::Vcpu { id, end });
    }
}

fn work(worker: &QueueWorker, shared: &Arc<Shared>) {
    let _guard = PanicGuard(Arc::clone(shared));
    crate::sys::prefer_batches();
    while !shared.stopping() {
        match crate::sys::run_device(&worker.device, worker.queue) {
            Ok(0) => return,
            Ok(errno) => disk_failed(worker, errno, shared),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) if e.raw_os_error() == Some(Errno::ENOTCONN as i32) => {
                return message(&format!(
                    "{}: passt has ended: the guest's network card has lost its link",
                    worker.name
                ));
            }
            Err(e) => {
                return shared.end(RunOutcome::Failed(ToolError::io("serve a disk or a network card")(e)))
            }
        }
    }
}

/// The host failed a request of a disk's.
fn disk_failed(worker: &QueueWorker, errno: i32, shared: &Shared) {
    let Some(disk) = &worker.disk else { return };
    if disk.report(errno) {
        shared.gate.close();
        shared.gate.wait_outside();
        disk.forget();
    }
}

/// The console's thread, which gives the pump back.
fn start_console(
    mut pump: ConsolePump,
    device: &DeviceFd,
    power: &Arc<Option<DeviceFd>>,
    shared: &Arc<Shared>,
) -> Result<JoinHandle<ConsolePump>, ToolError> {
    let mut device: File =
        crate::sys::device_file(device).map_err(ToolError::io("open the console's device"))?;
    fcntl(&device, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
        .map_err(|e| ToolError::Host("make the console's device non-blocking", e))?;
    let (shared, power) = (Arc::clone(shared), Arc::clone(power));
    spawn("console".into(), move || {
        let _guard = PanicGuard(Arc::clone(&shared));
        let request = |request| match request {
            PumpRequest::Quit => shared.end(RunOutcome::Quit),
            PumpRequest::PowerButton => power_button(&power),
            PumpRequest::Continue => {
                shared.go_on();
            }
        };
        if let Err(e) = pump.run(&mut device, &shared.ended, request) {
            shared.end(RunOutcome::Failed(ToolError::io("serve the console")(e)));
        }
        pump.count_lost(lost_output(&device));
        pump
    })
}

fn power_button(power: &Option<DeviceFd>) {
    match power.as_ref().map(press_power_button) {
        Some(Err(e)) => message(&e.explanation()),
        Some(Ok(())) => feed().push(VmEvent::PowerButton),
        None => {}
    }
}

/// What the main thread sees to while the machine runs.
struct MainLoop<'a> {
    shared: &'a Shared,
    signals: &'a SignalQueue,
    power: &'a Option<DeviceFd>,
    growth: GrowthWatch,
    /// The threads of the processors.
    processors: Vec<Pthread>,
    how: &'a RunOptions,
}

impl MainLoop<'_> {
    /// Waits for the end.
    fn wait(&self) -> Result<(), ToolError> {
        let shared = self.shared;
        while !shared.stopping() {
            let mut fds = [
                PollFd::new(shared.ended.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.fd.as_fd(), PollFlags::POLLIN),
                PollFd::new(shared.gate.closed.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.growth.inotify.as_fd(), PollFlags::POLLIN),
            ];
            let is_closing = shared.gate.is_closing(self.processors.len());
            let interval = if is_closing { Some(KICK_INTERVAL) } else { self.growth.interval() };
            let interval = soonest(interval, shared.time_left());
            match poll(&mut fds, interval.map_or(PollTimeout::NONE, PollTimeout::from)) {
                Ok(n) => self.growth.look(n == 0 && !is_closing),
                Err(Errno::EINTR) => {}
                Err(e) => shared.end(RunOutcome::Failed(ToolError::Host("wait for the guest", e))),
            }
            let _ = shared.gate.closed.read();
            self.act_on_signals();
            if shared.gate.is_closing(self.processors.len()) {
                for thread in &self.processors {
                    let _ = pthread_kill(*thread, KICK);
                }
            }
        }
        Ok(())
    }

    fn act_on_signals(&self) {
        while let Some(asked) = self.signals.take() {
            match asked {
                SignalRequest::PowerButton => power_button(self.power),
                SignalRequest::Continue => {
                    self.shared.go_on();
                }
                SignalRequest::Terminate => self.terminate(),
                SignalRequest::Stop(signal) => self.shared.end(RunOutcome::Signal(signal)),
            }
        }
    }

    /// Asks the guest to end, and ends it where it was asked before, or cannot be.
    fn terminate(&self) {
        let signal = Signal::SIGTERM;
        let was_asked = self.shared.plan().is_some();
        if was_asked || self.how.stop_timeout.is_zero() || self.power.is_none() {
            return self.shared.end(RunOutcome::Signal(signal));
        }
        self.shared.go_on();
        power_button(self.power);
        self.shared.plan_stop(self.how.stop_timeout, Some(signal));
    }
}

/// The shorter of two times to wait, in milliseconds.
fn soonest(interval: Option<u16>, left: Option<Duration>) -> Option<u16> {
    // A millisecond more, for what is less than one.
    let left = left.map(|left| u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX));
    interval.into_iter().chain(left).min()
}

/// Kicks every thread until it has ended.
fn stop(shared: &Shared, mut threads: Vec<JoinHandle<()>>) -> Result<(), ToolError> {
    shared.stop.store(true, Ordering::Release);
    shared.gate.end();
    let limit = Instant::now() + STOP_LIMIT;
    loop {
        let mut running = Vec::new();
        for thread in threads {
            if thread.is_finished() {
                // A panic has been reported by the hook and ended the run already.
                let _ = thread.join();
            } else {
                running.push(thread);
            }
        }
        threads = running;
        if threads.is_empty() {
            return Ok(());
        }
        if Instant::now() > limit {
            return Err(ToolError::Host("stop the guest: a thread stays in the module", Errno::ETIMEDOUT));
        }
        for thread in &threads {
            let _ = pthread_kill(thread.as_pthread_t(), KICK);
        }
        std::thread::sleep(Duration::from_millis(KICK_INTERVAL.into()));
    }
}
