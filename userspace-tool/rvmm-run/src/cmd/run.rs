// SPDX-License-Identifier: GPL-2.0

//! From a VM's settings to the exit code: checks all input, opens everything, then runs machines until the end.
//!
//! Nothing is written before every check has passed; the console, which may empty a file, is opened last.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;

use super::pid_file::PidFile;
use crate::config::console::{ConsoleDevice, ConsoleSpec};
use crate::config::memory::host_memory;
use crate::config::name::VmName;
use crate::config::spec::VmSpec;
use crate::console::pump::ConsolePump;
use crate::console::HostConsole;
use crate::control::claim::Claim;
use crate::control::client::list;
use crate::control::feed::VmEvent;
use crate::control::place;
use crate::control::protocol::EndReport;
use crate::control::server::ControlServer;
use crate::control::signals::SignalQueue;
use crate::devices::disk::error::DiskError;
use crate::devices::file_id::FileId;
use crate::devices::{disk, net};
use crate::error::ToolError;
use crate::events::{error, feed, message, print};
use crate::exit_status::ExitStatus;
use crate::kernel::error::KernelError;
use crate::kernel::image::FileImage;
use crate::kernel::{gzip, uki};
use crate::sys;
use crate::vm::contents::RamContents;
use crate::vm::devices::PCI_SLOTS;
use crate::vm::handle::VmHandle;
use crate::vm::machine::{open_node, GuestMachine};
use crate::vm::prepared::PreparedRun;
use crate::vm::run::{run as run_machine, KeptParts, RunOptions, RunOutcome};
use crate::vm::vcpu_loop::VcpuEnd;

/// CPUs that the guest's tables can name: 8-bit APIC ids, of which one is the broadcast.
const MAX_APIC_IDS: u32 = 255;

/// Runs a VM to its end.
///
/// # Errors
/// What was wrong before it ran, or what the host failed it with.
pub fn run(spec: &VmSpec) -> Result<ExitStatus, ToolError> {
    if spec.cpus > MAX_APIC_IDS {
        // The module's limit is the one to name, where it can be asked.
        let max = open_node(&spec.device).map_or(MAX_APIC_IDS, |kvm| kvm.get_max_vcpus() as u32);
        return Err(ToolError::TooManyCpus { asked: spec.cpus, max: max.min(MAX_APIC_IDS) });
    }
    let control = spec.name.as_ref().map(|name| start_control(spec, name)).transpose()?;
    let handle = control.as_ref().map(|(handle, _)| Arc::clone(handle));
    let ended = prepare_and_run(spec, handle);
    let code = ended.as_ref().map_or_else(|e| e.status(), |status| *status).code();
    feed().push(VmEvent::Ended { code });
    if let Some((_, server)) = control {
        server.finish(EndReport { code });
    }
    ended
}

/// Takes the VM's name, and begins to serve its control socket.
fn start_control(spec: &VmSpec, name: &VmName) -> Result<(Arc<VmHandle>, ControlServer), ToolError> {
    let claim = Claim::new(&place::own_folder(), name).map_err(ToolError::Claim)?;
    let handle = Arc::new(VmHandle::new(spec, name.as_str())?);
    let server = ControlServer::start(claim, Arc::clone(&handle) as Arc<_>, feed())
        .map_err(ToolError::io("serve the control socket"))?;
    Ok((handle, server))
}

fn prepare_and_run(spec: &VmSpec, handle: Option<Arc<VmHandle>>) -> Result<ExitStatus, ToolError> {
    let config = prepare(spec).map_err(tell_holder)?;
    let contents = RamContents::new(&config)?;
    let kvm = open_node(&spec.device)?;
    check_cpus(&kvm, config.cpus)?;
    let signals = SignalQueue::new()?;
    let machine = GuestMachine::new(&kvm, &config, contents, 0)?;
    let mut pump = ConsolePump::new(open_console(spec, &config)?);
    if let Some(handle) = &handle {
        if let HostConsole::Pty(pty) = pump.console() {
            handle.set_console(pty.name().display().to_string());
        }
        pump.set_hub(handle.hub());
    }
    let _pid_file = match &spec.pid_file {
        Some(path) => Some(PidFile::new(path).map_err(|e| ToolError::PidFile(path.clone(), e))?),
        None => None,
    };
    let stop_timeout = Duration::from_secs(spec.stop_timeout.into());
    let how = RunOptions { debug: spec.debug, stats: spec.stats, stop_timeout, handle };
    let kept = KeptParts { pump: Some(pump), ..KeptParts::default() };
    run_to_the_end(spec, &kvm, &config, machine, kept, &signals, &how)
}

/// Runs machine after machine, until one does not start again.
fn run_to_the_end(
    spec: &VmSpec,
    kvm: &Kvm,
    config: &PreparedRun,
    mut machine: GuestMachine,
    mut kept: KeptParts,
    signals: &SignalQueue,
    how: &RunOptions,
) -> Result<ExitStatus, ToolError> {
    let mut resets = Resets::default();
    let outcome = loop {
        let began = Instant::now();
        match run_machine(machine, &mut kept, signals, how)? {
            RunOutcome::Vcpu { id, end }
                if !spec.no_reboot && resets.starts_again(id, &end, began.elapsed()) =>
            {
                // The images were good when the run began.
                let contents = RamContents::new(config).map_err(|e| ToolError::Restart(Box::new(e)))?;
                machine = GuestMachine::new(kvm, config, contents, kept.utc_offset_seconds)?;
            }
            outcome => break outcome,
        }
    };
    if let Some(handle) = &how.handle {
        handle.set_over();
    }
    let is_asked_for = matches!(outcome, RunOutcome::Quit | RunOutcome::Signal(_));
    let delivered = kept.pump.map_or(Ok(()), |pump| pump.finish(signals, is_asked_for));
    let status = report(outcome);
    Ok(match (status, delivered) {
        // Nothing else went wrong, but the user does not have the guest's output.
        (ExitStatus::PowerOff | ExitStatus::GuestReset, Err(_)) => ExitStatus::HostError,
        _ => status,
    })
}

/// Decides which ends of a machine start it again.
#[derive(Debug, Default)]
struct Resets {
    /// Triple faults in a row that came soon after the start.
    soon: u32,
}

impl Resets {
    /// A machine that triple faults sooner than this may do so for ever.
    const SOON: Duration = Duration::from_secs(5);
    /// How often in a row it is started again.
    const MOST: u32 = 3;

    /// Whether `end`, of processor `id`, resets the machine, which ran for `lasted`. As on a PC, a triple fault does:
    /// it is the last way to reset that a kernel tries.
    fn starts_again(&mut self, id: usize, end: &VcpuEnd, lasted: Duration) -> bool {
        let is_fault = matches!(end, VcpuEnd::TripleFault(_));
        self.soon = if is_fault && lasted < Self::SOON { self.soon + 1 } else { 0 };
        if is_fault && self.soon <= Self::MOST {
            message(&format!(
                "vcpu {id}: triple fault: the guest is reset (--no-reboot ends here, with its registers)"
            ));
        }
        *end == VcpuEnd::Reset || is_fault && self.soon <= Self::MOST
    }
}

/// Checks and opens everything that does not need the module.
fn prepare(spec: &VmSpec) -> Result<PreparedRun, ToolError> {
    let (kernel, initrd, cmdline) = open_kernel(spec, open_image(&spec.kernel, ToolError::Kernel)?)?;
    let mut modules = Vec::new();
    for module in &spec.modules {
        modules.push((module.clone(), open_image(&module.path, ToolError::Module)?.1));
    }
    let host = host_memory();
    if host > 0 {
        spec.memory.check_host(host).map_err(ToolError::Memory)?;
    }
    let others = if spec.console_device == ConsoleDevice::Uart { 1 } else { 2 };
    let max = PCI_SLOTS - others;
    let asked = spec.disks.len() + spec.nets.len();
    if asked > max {
        return Err(ToolError::TooManyDevices { asked, max });
    }
    let disks = disk::open_all(&spec.disks).map_err(|(path, e)| ToolError::Disk(path, e))?;
    let mut nets = Vec::new();
    for card in &spec.nets {
        nets.push(net::open(card, spec.cpus as usize).map_err(|e| ToolError::Net(card.kind.clone(), e))?);
    }
    Ok(PreparedRun {
        ram: spec.memory,
        cpus: spec.cpus,
        kernel,
        initrd,
        modules,
        cmdline,
        linux_cmdline: spec.linux_cmdline(),
        root: spec.root,
        disks,
        nets,
        console: spec.console_device,
        has_reader: spec.console != ConsoleSpec::None,
        terminal: terminal_size(spec),
        devices: spec.devices,
    })
}

/// Says which VM has a disk that another one locked, where that VM can be asked.
fn tell_holder(error: ToolError) -> ToolError {
    let ToolError::Disk(path, DiskError::Locked { .. }) = &error else { return error };
    let Ok(id) = FileId::at(path) else { return error };
    let has_it = |path: &str| FileId::at(Path::new(path)).is_ok_and(|theirs| theirs == id);
    // This one is among them.
    let others = list(&place::own_folder()).into_iter().filter_map(|vm| vm.status.ok());
    let holder = others
        .filter(|vm| vm.pid != std::process::id())
        .find(|vm| vm.disks.iter().any(|disk| has_it(&disk.path)));
    match holder {
        Some(vm) => ToolError::Disk(path.clone(), DiskError::HeldBy { name: vm.name, pid: vm.pid }),
        None => error,
    }
}

/// An image with its path, for messages.
type NamedImage = (PathBuf, FileImage);

/// The kernel, the initrd and the command line, if there are any. A unified kernel image brings all three, and what the user
/// gives goes before.
fn open_kernel(
    spec: &VmSpec,
    kernel: NamedImage,
) -> Result<(NamedImage, Option<NamedImage>, Option<String>), ToolError> {
    let (path, mut image) = kernel;
    let damaged = |e| ToolError::Kernel(path.clone(), e);
    if let Some(bytes) = gzip::unpack(&image).map_err(damaged)? {
        image = image.with_bytes(bytes).map_err(|e| damaged(e.into()))?;
    }
    let uki = uki::read(&image).map_err(damaged)?;
    let initrd = match &spec.initrd {
        Some(path) => Some(open_image(path, ToolError::Initrd)?),
        None => None,
    };
    let Some(uki) = uki else { return Ok(((path, image), initrd, spec.append.clone())) };
    let part = |part: uki::Part| (path.clone(), image.part(part.offset, part.len));
    Ok((part(uki.kernel), initrd.or(uki.initrd.map(part)), spec.append.clone().or(uki.cmdline)))
}

fn open_image(path: &Path, error: fn(PathBuf, KernelError) -> ToolError) -> Result<NamedImage, ToolError> {
    let image = File::open(path).and_then(FileImage::new);
    image.map(|image| (path.into(), image)).map_err(|e| error(path.into(), KernelError::Io(e)))
}

fn check_cpus(kvm: &Kvm, asked: u32) -> Result<(), ToolError> {
    let max = kvm.get_max_vcpus() as u32;
    if asked > max {
        return Err(ToolError::TooManyCpus { asked, max });
    }
    Ok(())
}

/// Columns and rows of the terminal that the console will be; zeroes for what is none.
fn terminal_size(spec: &VmSpec) -> (u16, u16) {
    match spec.console {
        ConsoleSpec::Stdio => sys::terminal_size(&io::stdin()).unwrap_or_default(),
        _ => (0, 0),
    }
}

/// Opens the console and says where it is.
fn open_console(spec: &VmSpec, config: &PreparedRun) -> Result<HostConsole, ToolError> {
    let inputs = config.inputs().map_err(ToolError::io("look at the files that the guest starts from"))?;
    let console = HostConsole::open(&spec.console, &inputs).map_err(ToolError::Console)?;
    if let HostConsole::Pty(pty) = &console {
        let name = format!("console: {}\n", pty.name().display());
        print(&name).map_err(ToolError::io("write the console's name to standard output"))?;
    }
    if matches!(&console, HostConsole::Stdio(stdio) if stdio.is_in_background()) {
        message("console: the terminal is another job's; bring this one to the foreground to type");
    }
    Ok(console)
}

/// Tells how the run ended and gives the exit code for it.
fn report(outcome: RunOutcome) -> ExitStatus {
    match outcome {
        RunOutcome::Quit => ExitStatus::UserQuit,
        RunOutcome::Signal(signal) => ExitStatus::Signal(signal as u8),
        RunOutcome::Failed(e) => {
            error(&e.explanation());
            ExitStatus::HostError
        }
        RunOutcome::Vcpu { id, end } => report_end(id, end),
    }
}

fn report_end(id: usize, end: VcpuEnd) -> ExitStatus {
    match end {
        VcpuEnd::PowerOff | VcpuEnd::Stopped => ExitStatus::PowerOff,
        VcpuEnd::Reset => {
            message("the guest asked for a reset");
            ExitStatus::GuestReset
        }
        VcpuEnd::TripleFault(dump) => {
            error(&format!("vcpu {id}: triple fault\n{dump}"));
            ExitStatus::TripleFault
        }
        VcpuEnd::Failed { reason, dump } => {
            error(&format!("vcpu {id}: {reason}\n{dump}"));
            ExitStatus::VcpuFailed
        }
        VcpuEnd::Host(errno) => {
            error(&ToolError::Host("run a virtual CPU", errno).explanation());
            ExitStatus::HostError
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(60);

    fn fault() -> VcpuEnd {
        VcpuEnd::TripleFault(String::new())
    }

    #[test]
    fn reset_starts_the_guest_again_however_soon_it_comes() {
        let mut resets = Resets::default();

        assert!((0..100).all(|_| resets.starts_again(0, &VcpuEnd::Reset, SOON)));
    }

    #[test]
    fn triple_fault_starts_the_guest_again_until_it_does_nothing_else() {
        let mut resets = Resets::default();

        assert!((0..3).all(|_| resets.starts_again(0, &fault(), SOON)));
        assert!(!resets.starts_again(0, &fault(), SOON));
    }

    #[test]
    fn triple_fault_of_a_guest_that_ran_for_a_while_begins_a_new_row() {
        let mut resets = Resets::default();

        assert!((0..3).all(|_| resets.starts_again(0, &fault(), SOON)));
        assert!(resets.starts_again(0, &fault(), LATER));
        assert!((0..3).all(|_| resets.starts_again(0, &fault(), SOON)));
    }

    #[test]
    fn power_off_ends_the_run() {
        assert!(!Resets::default().starts_again(0, &VcpuEnd::PowerOff, LATER));
    }
}
