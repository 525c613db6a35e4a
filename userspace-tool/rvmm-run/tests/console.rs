// SPDX-License-Identifier: GPL-2.0

//! The console: a pseudo terminal that keeps output for a late reader, files, the escape key, the bounded queue.

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::TempDir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use rvmm_run::config::console::{ConsoleDevice, ConsoleSpec};
use rvmm_run::console::error::ConsoleError;
use rvmm_run::console::escape::{EscapeKey, TypedInput};
use rvmm_run::console::pty::{is_ours, PtyConsole};
use rvmm_run::console::pump::ConsolePump;
use rvmm_run::console::ring::ByteRing;
use rvmm_run::console::HostConsole;
use rvmm_run::control::signals::SignalQueue;
use rvmm_run::devices::file_id::FileId;
use rvmm_run::sys::is_ignored;

/// A pump on its thread, with the far end of a stand-in UART.
struct Running {
    uart: UnixStream,
    stop: Arc<EventFd>,
    thread: JoinHandle<ConsolePump>,
}

fn start(mut pump: ConsolePump) -> Running {
    let (near, uart) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    uart.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
    let seen = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let mut near = File::from(OwnedFd::from(near));
        pump.run(&mut near, &seen, |_| {}).unwrap();
        pump
    });
    Running { uart, stop, thread }
}

impl Running {
    fn finish(self) -> ConsolePump {
        self.stop.write(1).unwrap();
        self.thread.join().unwrap()
    }
}

/// A pseudo terminal, where the host has devpts.
fn new_pty() -> Option<PtyConsole> {
    if !std::path::Path::new("/dev/pts/ptmx").exists() {
        eprintln!("SKIP: devpts is not mounted on /dev/pts");
        return None;
    }
    Some(PtyConsole::new().unwrap())
}

fn pty() -> Option<(ConsolePump, PathBuf)> {
    let pty = new_pty()?;
    let name = pty.name().to_path_buf();
    Some((ConsolePump::new(HostConsole::Pty(pty)), name))
}

fn attach(name: &PathBuf) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags((OFlag::O_NOCTTY | OFlag::O_NONBLOCK).bits())
        .open(name)
        .unwrap()
}

/// Reads until `len` bytes are there or five seconds have passed.
fn read_len(file: &mut File, len: usize) -> Vec<u8> {
    let end = Instant::now() + Duration::from_secs(5);
    let mut all = Vec::new();
    let mut buf = [0; 4096];
    while all.len() < len && Instant::now() < end {
        match file.read(&mut buf) {
            Ok(n) => all.extend(&buf[..n]),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    all
}

#[test]
fn late_reader_gets_what_was_printed_before() {
    let Some((pump, name)) = pty() else { return };
    let mut running = start(pump);
    running.uart.write_all(b"Linux version\r\nlogin: ").unwrap();
    std::thread::sleep(Duration::from_millis(50));

    let mut reader = attach(&name);

    assert_eq!(read_len(&mut reader, 22), b"Linux version\r\nlogin: ");
    running.finish();
}

#[test]
fn second_reader_gets_what_the_first_did_not() {
    let Some((pump, name)) = pty() else { return };
    let mut running = start(pump);
    let mut first = attach(&name);
    running.uart.write_all(b"one").unwrap();
    assert_eq!(read_len(&mut first, 3), b"one");
    drop(first);
    std::thread::sleep(Duration::from_millis(50));
    running.uart.write_all(b"two").unwrap();
    std::thread::sleep(Duration::from_millis(50));

    let mut second = attach(&name);

    assert_eq!(read_len(&mut second, 3), b"two");
    running.finish();
}

#[test]
fn input_reaches_the_guest_and_output_is_not_echoed_back() {
    let Some((pump, name)) = pty() else { return };
    let mut running = start(pump);
    let mut terminal = attach(&name);
    running.uart.write_all(b"login: ").unwrap();
    assert_eq!(read_len(&mut terminal, 7), b"login: ");

    terminal.write_all(b"root\r\x03\x01x").unwrap();

    let mut got = [0; 8];
    running.uart.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"root\r\x03\x01x", "control characters are for the guest, and so is Ctrl-a on a pty");
    running.finish();
}

#[test]
fn without_a_reader_the_newest_output_is_kept() {
    let Some((pump, name)) = pty() else { return };
    let mut running = start(pump);
    let line = [b'x'; 1 << 10];
    for _ in 0..512 {
        running.uart.write_all(&line).unwrap();
    }
    running.uart.write_all(b"the end").unwrap();
    std::thread::sleep(Duration::from_millis(300));

    let mut reader = attach(&name);

    let all = read_len(&mut reader, 256 << 10);
    assert_eq!(all.len(), 256 << 10);
    assert!(all.ends_with(b"the end"));
    running.finish();
}

#[test]
fn console_stays_attached_over_a_new_machine() {
    let Some((pump, name)) = pty() else { return };
    let mut terminal = attach(&name);
    let mut first = start(pump);
    first.uart.write_all(b"first ").unwrap();
    assert_eq!(read_len(&mut terminal, 6), b"first ");
    let pump = first.finish();

    let mut second = start(pump);
    second.uart.write_all(b"second").unwrap();

    assert_eq!(read_len(&mut terminal, 6), b"second");
    second.finish();
}

#[test]
fn output_written_just_before_the_end_arrives() {
    let dir = TempDir::new();
    let path = dir.path().join("out");
    let console = HostConsole::open(&ConsoleSpec::File(path.clone()), &[]).unwrap();
    let mut running = start(ConsolePump::new(console));

    running.uart.write_all(b"Power down\r\n").unwrap();
    let pump = running.finish();
    assert_eq!(pump.finish(&SignalQueue::new().unwrap(), false), Ok(()));

    assert_eq!(std::fs::read(path).unwrap(), b"Power down\r\n");
}

#[test]
fn reader_that_is_slow_gets_every_byte_before_the_run_ends() {
    let Some((pump, name)) = pty() else { return };
    let mut running = start(pump);
    let mut reader = attach(&name);
    std::thread::sleep(Duration::from_millis(50));
    let text: Vec<u8> = (0..600_000u32).map(|n| b'a' + (n % 26) as u8).collect();
    let wanted = text.clone();
    let mut uart = running.uart.try_clone().unwrap();
    // The guest waits, as the UART does.
    let guest = std::thread::spawn(move || uart.write_all(&text).unwrap());
    std::thread::sleep(Duration::from_millis(300));
    assert!(!guest.is_finished(), "the guest is held back while nothing is read");

    let mut got = read_len(&mut reader, 300_000);
    guest.join().unwrap();
    running.uart.flush().unwrap();
    let pump = running.finish();
    let end = std::thread::spawn(move || pump.finish(&SignalQueue::new().unwrap(), false));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!end.is_finished(), "the run waits for the reader");
    got.extend(read_len(&mut reader, wanted.len() - got.len()));

    assert_eq!(end.join().unwrap(), Ok(()));
    assert!(got == wanted, "{} of {} bytes", got.len(), wanted.len());
}

#[test]
fn user_who_ends_the_run_does_not_wait_for_a_reader_that_does_not_read() {
    let Some((pump, name)) = pty() else { return };
    let mut running = start(pump);
    let _reader = attach(&name);
    running.uart.write_all(&[b'x'; 100_000]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let pump = running.finish();
    let began = Instant::now();

    assert_eq!(pump.finish(&SignalQueue::new().unwrap(), true), Ok(()));

    assert!(began.elapsed() < Duration::from_secs(4));
}

#[test]
fn file_that_takes_no_more_ends_the_run_with_its_error() {
    let console = HostConsole::open(&ConsoleSpec::File("/dev/full".into()), &[]).unwrap();
    let mut running = start(ConsolePump::new(console));
    running.uart.write_all(b"Linux version").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    // The guest goes on.
    running.uart.write_all(&[b'x'; 600_000]).unwrap();

    let pump = running.finish();

    assert_eq!(pump.finish(&SignalQueue::new().unwrap(), false), Err(Errno::ENOSPC));
}

#[test]
fn pipe_without_a_reader_is_told_at_once() {
    let dir = TempDir::new();
    let path = dir.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let spec = ConsoleSpec::File(path.clone());

    assert!(matches!(HostConsole::open(&spec, &[]), Err(ConsoleError::NoReader(_))));
    let _reader = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
    assert!(HostConsole::open(&spec, &[]).is_ok());
}

#[test]
fn file_that_the_guest_starts_from_is_not_emptied() {
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", b"kernel");
    let other_name = dir.path().join("console.log");
    std::fs::hard_link(&kernel, &other_name).unwrap();
    let id = FileId::of(&File::open(&kernel).unwrap()).unwrap();

    let opened = HostConsole::open(&ConsoleSpec::File(other_name), &[(id, "the kernel")]);

    assert!(matches!(opened, Err(ConsoleError::FileIsInput(_, "the kernel"))));
    assert_eq!(std::fs::read(kernel).unwrap(), b"kernel");
}

#[test]
fn signal_that_is_ignored_is_known() {
    assert_eq!(is_ignored(Signal::SIGUSR2), Ok(false));
    // What Rust's start-up does for every program.
    assert_eq!(is_ignored(Signal::SIGPIPE), Ok(true));
}

#[test]
fn file_belongs_to_one_run_and_must_be_no_terminal() {
    let dir = TempDir::new();
    let path = dir.file("out", b"old");
    let first = HostConsole::open(&ConsoleSpec::File(path.clone()), &[]).unwrap();
    let Some(pty) = new_pty() else { return };

    assert!(matches!(HostConsole::open(&ConsoleSpec::File(path), &[]), Err(ConsoleError::FileLocked(_))));
    assert!(matches!(
        HostConsole::open(&ConsoleSpec::File(pty.name().into()), &[]),
        Err(ConsoleError::FileIsTerminal(_))
    ));
    drop(first);
}

#[test]
fn pseudo_terminal_has_an_owner_as_long_as_it_exists() {
    let Some(pty) = new_pty() else { return };
    let name = pty.name().to_path_buf();

    assert!(is_ours(&name));
    drop(pty);
    assert!(!is_ours(&name));
}

#[test]
fn escape_key_has_its_meanings() {
    let mut escape = EscapeKey::default();
    let typed: Vec<TypedInput> =
        b"a\x01\x01\x01h\x01p\x01xb".iter().filter_map(|b| escape.feed(*b)).collect();

    assert_eq!(
        typed,
        [
            TypedInput::Guest(b'a'),
            TypedInput::Guest(1),
            TypedInput::Help,
            TypedInput::PowerButton,
            TypedInput::Quit,
            TypedInput::Guest(b'b'),
        ]
    );
}

#[test]
fn devices_of_consoles_are_parsed() {
    assert_eq!("uart".parse(), Ok(ConsoleDevice::Uart));
    assert_eq!("virtio".parse(), Ok(ConsoleDevice::Virtio { packed: false }));
    assert_eq!("virtio,packed=on".parse(), Ok(ConsoleDevice::Virtio { packed: true }));
    assert_eq!("virtio,packed=off".parse(), Ok(ConsoleDevice::Virtio { packed: false }));
    for bad in ["", "hvc", "uart,packed=on", "virtio,", "virtio,packed", "virtio,packed=yes"] {
        assert!(bad.parse::<ConsoleDevice>().is_err(), "{bad}");
    }
}

#[test]
fn console_names_are_parsed() {
    assert_eq!("pty".parse(), Ok(ConsoleSpec::Pty));
    assert_eq!("file:/tmp/x".parse(), Ok(ConsoleSpec::File("/tmp/x".into())));
    assert!("file:".parse::<ConsoleSpec>().is_err());
    assert!("tty".parse::<ConsoleSpec>().is_err());
}

#[test]
fn what_the_queue_forgets_is_counted() {
    let mut ring = ByteRing::new(4);

    assert_eq!(ring.push(b"abc"), 0);
    assert_eq!(ring.push(b"defg"), 3);
    ring.append(b"hi");

    assert_eq!((ring.len(), ring.room(), ring.push(b"j")), (6, 0, 3));
}

proptest! {
    /// The queue holds the newest bytes, whatever is pushed and consumed.
    #[test]
    fn ring_is_the_tail_of_what_came(chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), 0usize..20), 0..40)) {
        let mut ring = ByteRing::new(32);
        let mut model: Vec<u8> = Vec::new();
        for (chunk, taken) in chunks {
            ring.push(&chunk);
            model.extend(&chunk);
            let excess = model.len().saturating_sub(32);
            model.drain(..excess);
            prop_assert_eq!(ring.len(), model.len());
            prop_assert_eq!(ring.front(), &model[..ring.front().len()]);
            prop_assert_eq!(ring.is_empty(), model.is_empty());
            let taken = taken.min(ring.front().len());
            ring.consume(taken);
            model.drain(..taken);
        }
    }
}
