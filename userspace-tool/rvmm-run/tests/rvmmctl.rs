// SPDX-License-Identifier: GPL-2.0

//! The built `rvmmctl`, and what `rvmm-run` says of names and disks that are taken, with a stand-in for the VM.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{bzimage, TempDir};
use nix::pty::openpty;
use nix::sys::termios::{tcgetattr, LocalFlags};
use rvmm_run::config::disk::DiskSpec;
use rvmm_run::control::claim::Claim;
use rvmm_run::control::feed::VmEvent;
use rvmm_run::control::place;
use rvmm_run::control::protocol::{EndReport, VmStatus};
use rvmm_run::control::server::ControlServer;
use rvmm_run::devices::disk::open;
use stand_in::StandIn;

/// A folder with a VM in it.
struct Running {
    dir: TempDir,
    vm: Arc<StandIn>,
    server: Option<ControlServer>,
}

fn start() -> Running {
    let (dir, vm) = (TempDir::new(), StandIn::new("web"));
    let claim = Claim::new(dir.path(), &"web".parse().unwrap()).unwrap();
    let server = ControlServer::start(claim, Arc::clone(&vm) as Arc<_>, vm.feed).unwrap();
    Running { dir, vm, server: Some(server) }
}

fn command(program: &str, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).env(place::VARIABLE, dir).stdin(Stdio::null());
    command
}

const CTL: &str = env!("CARGO_BIN_EXE_rvmmctl");
const RUN: &str = env!("CARGO_BIN_EXE_rvmm-run");

impl Running {
    fn ctl(&self, args: &[&str]) -> Output {
        command(CTL, self.dir.path(), args).output().unwrap()
    }

    /// What it prints when it succeeds.
    fn told(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it says when it does not, with exit code 1.
    fn refused(&self, args: &[&str]) -> String {
        let output = self.ctl(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn background(&self, args: &[&str]) -> Child {
        command(CTL, self.dir.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn finish(&mut self, code: u8) {
        self.server.take().unwrap().finish(EndReport { code });
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_runs_is_listed() {
    let running = start();

    let text = running.told(&["list"]);
    let json: Vec<VmStatus> = serde_json::from_str(&running.told(&["list", "--json"])).unwrap();

    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("ID ") && lines[1].contains("web   running  2     512 MiB  100 MiB"),
        "{text}"
    );
    assert!(lines[1].ends_with("1  /dev/pts/7  1m01s") || lines[1].contains("/dev/pts/7  1m01s"), "{text}");
    assert_eq!(json[0].disks[0].path, "/srv/web.img");
    let status = running.told(&["status", "web"]);
    assert!(status.contains("disk     /srv/web.img\n") && status.contains("net      tap t0\n"), "{status}");
}

#[test]
fn nothing_runs_is_an_empty_table() {
    let dir = TempDir::new();

    let output = command(CTL, dir.path(), &["list", "--json"]).output().unwrap();

    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"[]\n"[..]));
}

#[test]
fn vm_is_steered_by_its_name() {
    let running = start();

    assert_eq!(running.told(&["pause", "web"]), "");
    assert!(running.told(&["list"]).contains("paused"));
    assert!(running.refused(&["pause", "web"]).contains("the guest is Paused"));
    assert!(running.told(&["debug", "web"]).contains("vcpu 1\nrip 1"));
    running.told(&["resume", "web"]);
    running.told(&["reset", "web"]);
    running.told(&["nmi", "web"]);
    assert_eq!(
        running.told(&["stats", "web"]),
        "counter       vcpu 0  vcpu 1\nexits         7       9\ndisk0_failed  3\n"
    );
    let top = running.told(&["top", "-n", "1"]);
    assert!(top.lines().nth(1).is_some_and(|line| line.starts_with("web")), "{top}");

    assert_eq!(*running.vm.done.lock().unwrap(), ["reset", "nmi"]);
    assert!(running.refused(&["pause", "db"]).contains("no VM 'db' is running"));
    assert!(running.refused(&["pause", "../web"]).contains("is no name of a VM"));
    assert!(running.refused(&["dance"]).contains("unrecognized subcommand"));
}

#[test]
fn stop_waits_for_the_end_and_wait_tells_its_code() {
    let mut running = start();
    let mut stopping = running.background(&["stop", "web", "-t", "5"]);
    let mut waiting = running.background(&["wait", "web"]);
    eventually("it is asked to stop", || !running.vm.done.lock().unwrap().is_empty());
    std::thread::sleep(Duration::from_millis(200));
    assert!(stopping.try_wait().unwrap().is_none(), "it has not ended yet");

    running.finish(4);

    assert_eq!(stopping.wait().unwrap().code(), Some(0));
    assert_eq!(waiting.wait().unwrap().code(), Some(4));
    assert_eq!(*running.vm.done.lock().unwrap(), ["Politely(Some(5))"]);
}

#[test]
fn log_is_shown_and_followed_to_the_end() {
    let mut running = start();
    running.vm.feed.push(VmEvent::Log { text: "early".into() });
    assert!(running.told(&["log", "web"]).ends_with("Z early\n"));
    let following = running.background(&["log", "-f", "web"]);
    std::thread::sleep(Duration::from_millis(300));
    running.vm.feed.push(VmEvent::Log { text: "late".into() });
    running.vm.feed.push(VmEvent::Ended { code: 0 });

    let output = following.wait_with_output().unwrap();

    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(lines, ["early", "late", "-- the run has ended with 0"]);
    running.finish(0);
}

#[test]
fn console_takes_what_is_piped_in_and_ends_with_the_run() {
    let mut running = start();
    running.vm.hub.as_ref().unwrap().put_out(b"login: ");
    let mut console = running.background(&["console", "web"]);
    console.stdin.take();
    let hub = running.vm.hub.as_ref().unwrap();
    hub.put_out(b"more");
    let mut shown = [0; 11];
    console.stdout.as_mut().unwrap().read_exact(&mut shown).unwrap();

    assert_eq!(&shown, b"login: more");
    running.finish(0);
    assert_eq!(console.wait().unwrap().code(), Some(0));
}

/// A terminal, of which a program has the other side.
struct Terminal {
    master: File,
    slave: File,
}

impl Terminal {
    fn new() -> Option<Self> {
        match openpty(None, None) {
            Ok(pty) => Some(Self { master: pty.master.into(), slave: pty.slave.into() }),
            Err(e) => {
                eprintln!("SKIP: there is no pseudo terminal: {e}");
                None
            }
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(self.slave.as_fd()).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    fn stdio(&self) -> Stdio {
        self.slave.try_clone().unwrap().into()
    }
}

#[test]
fn console_on_a_terminal_is_raw_and_detaches() {
    let running = start();
    let Some(mut terminal) = Terminal::new() else { return };
    let hub = running.vm.hub.as_ref().unwrap();
    let mut command = command(CTL, running.dir.path(), &["console", "web"]);
    let mut console =
        command.stdin(terminal.stdio()).stdout(terminal.stdio()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the terminal is raw", || terminal.is_raw());

    terminal.master.write_all(b"ls\x01\x01\r").unwrap();
    let mut typed = Vec::new();
    eventually("it is typed", || {
        typed.extend(hub.take_typed(100));
        typed == b"ls\x01\r"
    });
    assert!(console.try_wait().unwrap().is_none());
    terminal.master.write_all(b"\x01d").unwrap();

    assert_eq!(console.wait().unwrap().code(), Some(0));
    assert!(!terminal.is_raw(), "it is as it was before");
    eventually("nobody types any more", || hub.take_keyboard());
}

#[test]
fn console_that_is_ended_by_a_signal_restores_the_terminal() {
    let running = start();
    let Some(terminal) = Terminal::new() else { return };
    let mut command = command(CTL, running.dir.path(), &["console", "web"]);
    let mut console =
        command.stdin(terminal.stdio()).stdout(terminal.stdio()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the terminal is raw", || terminal.is_raw());

    let pid = nix::unistd::Pid::from_raw(console.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();

    console.wait().unwrap();
    assert!(!terminal.is_raw());
}

#[test]
fn start_tells_what_is_wrong_and_ends_as_the_run_does() {
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let text = format!("kernel = '{}'\ndevice = '/nonexistent/rvmm'\n", kernel.display());
    let file = dir.file("db.toml", text.as_bytes());
    let wrong = dir.file("wrong.toml", b"kernel = 'k'\ncpu = 2\n");
    let told = |file: &Path| {
        let output = command(CTL, dir.path(), &["start", file.to_str().unwrap()]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };

    let (code, text) = told(&file);
    assert!(code == Some(1) && text.contains("rvmm-run: /nonexistent/rvmm"), "{text}");
    let (code, text) = told(&wrong);
    assert!(code == Some(1) && text.contains("wrong.toml:2:1: unknown key 'cpu'"), "{text}");
    assert!(place::names(dir.path()).is_empty(), "no socket is left");
}

#[test]
fn run_of_a_name_or_with_a_disk_that_is_taken_is_told_who_has_it() {
    let running = start();
    let files = TempDir::new();
    let kernel = files.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let disk = files.file("disk.img", &[0; 4096]);
    *running.vm.disk.lock().unwrap() = disk.display().to_string();
    let _held = open(&DiskSpec::plain(disk.clone())).unwrap();
    let told = |args: &[&str]| {
        let args = [args, &["--device", "/nonexistent", kernel.to_str().unwrap()]].concat();
        let output = command(RUN, running.dir.path(), &args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let own = std::process::id();

    let taken = told(&["--name", "web"]);
    assert!(taken.contains(&format!("a VM 'web' is running already, by process {own}")), "{taken}");
    let taken = told(&["--name", "db", "--disk", disk.to_str().unwrap()]);
    assert!(taken.contains(&format!("in use by the VM 'web' (process {own})")), "{taken}");
    assert!(taken.contains("rvmmctl stop web"), "{taken}");
    assert_eq!(place::names(running.dir.path()).len(), 1, "the name that was not used is free");
}
