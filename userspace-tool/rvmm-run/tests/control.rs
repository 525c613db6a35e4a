// SPDX-License-Identifier: GPL-2.0

//! The control socket of a VM, with a stand-in for the VM: what clients are answered, and what they cannot do to it and to
//! each other.

mod common;
#[path = "common/stand_in.rs"]
mod stand_in;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::TempDir;
use rvmm_run::config::name::VmName;
use rvmm_run::control::claim::{Claim, ClaimError};
use rvmm_run::control::client::{list, ClientError, ControlClient};
use rvmm_run::control::feed::{FeedItem, VmEvent};
use rvmm_run::control::lines::LONGEST;
use rvmm_run::control::place;
use rvmm_run::control::protocol::{EndReport, RefusalKind, Request, VmState, VmStats, VmStatus};
use rvmm_run::control::server::{ControlServer, MOST_CLIENTS};
use serde_json::{json, Value};
use stand_in::StandIn;

/// A VM with its socket.
struct Running {
    dir: TempDir,
    name: VmName,
    vm: Arc<StandIn>,
    server: Option<ControlServer>,
}

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

fn start() -> Running {
    let (dir, name, vm) = (TempDir::new(), name("web"), StandIn::new("web"));
    let claim = Claim::new(dir.path(), &name).unwrap();
    let server = ControlServer::start(claim, Arc::clone(&vm) as Arc<_>, vm.feed).unwrap();
    Running { dir, name, vm, server: Some(server) }
}

impl Running {
    fn client(&self) -> ControlClient {
        ControlClient::connect(self.dir.path(), &self.name).unwrap()
    }

    fn socket(&self) -> PathBuf {
        place::socket(self.dir.path(), &self.name)
    }

    /// A connection that has read the greeting.
    fn raw(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(read_line(&mut stream).contains("\"rvmm\":1"));
        stream
    }

    fn finish(mut self, code: u8) -> TempDir {
        self.server.take().unwrap().finish(EndReport { code });
        self.dir
    }
}

fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

fn nothing(value: Result<Value, ClientError>) {
    assert_eq!(value.unwrap(), json!({}));
}

/// Waits for something that another thread does.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn vm_tells_its_state_and_changes_it() {
    let running = start();
    let mut client = running.client();
    let state = |client: &mut ControlClient| client.ask::<VmStatus>(&Request::Status {}).unwrap().state;

    assert_eq!(client.hello().pid, std::process::id());
    assert_eq!(state(&mut client), VmState::Running);
    nothing(client.ask(&Request::Pause {}));
    assert_eq!(state(&mut client), VmState::Paused);
    let again = client.ask::<Value>(&Request::Pause {});
    assert!(matches!(again, Err(ClientError::Refused(r)) if r.kind == RefusalKind::BadState));
    assert_eq!(client.ask::<Value>(&Request::Debug {}).unwrap()["vcpus"].as_array().unwrap().len(), 2);
    nothing(client.ask(&Request::Resume {}));
    nothing(client.ask(&Request::Reset {}));
    nothing(client.ask(&Request::Nmi {}));
    assert_eq!(client.ask::<VmStats>(&Request::Stats {}).unwrap().uptime_ms, 61_000);
    nothing(client.ask(&Request::Stop { force: false, timeout: Some(9) }));
    nothing(client.ask(&Request::Stop { force: true, timeout: None }));

    assert_eq!(state(&mut client), VmState::Stopping);
    assert_eq!(*running.vm.done.lock().unwrap(), ["reset", "nmi", "Politely(Some(9))", "ByForce"]);
}

#[test]
fn end_of_the_run_is_told_and_the_socket_goes() {
    let running = start();
    let socket = running.socket();
    let mut waiting: Vec<_> = (0..3).map(|_| running.client()).collect();
    let threads: Vec<_> = waiting
        .drain(..)
        .map(|mut client| {
            std::thread::spawn(move || client.ask::<EndReport>(&Request::Wait {}).unwrap().code)
        })
        .collect();
    let mut idle = running.raw();
    std::thread::sleep(Duration::from_millis(100));

    let dir = running.finish(4);

    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 4));
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the connection is closed");
    assert!(!socket.exists());
    assert!(list(dir.path()).is_empty());
}

#[test]
fn events_come_to_whoever_wants_them() {
    let running = start();
    let (mut first, mut second) = (running.client(), running.client());
    for client in [&mut first, &mut second] {
        assert_eq!(client.ask::<Value>(&Request::Events {}).unwrap()["next"], 0);
    }

    nothing(running.client().ask(&Request::Pause {}));
    nothing(first.ask(&Request::Resume {}));
    running.vm.feed.push(VmEvent::Log { text: "hello".into() });

    let events: Vec<FeedItem> = (0..3).map(|_| second.next_event().unwrap()).collect();
    let numbers: Vec<u64> = events.iter().map(|item| item.number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(events[0].event, VmEvent::Paused);
    assert_eq!(events[2].event, VmEvent::Log { text: "hello".into() });
    let log: Value = second.ask(&Request::Log {}).unwrap();
    assert_eq!(log["lines"].as_array().unwrap().len(), 1);
}

fn attach(running: &Running, write: bool, history: u32) -> (UnixStream, Vec<u8>, bool) {
    let mut client = running.client();
    let answer: Value = client.ask(&Request::Console { write, history }).unwrap();
    let (stream, rest) = client.into_stream();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (stream, rest, answer["writes"].as_bool().unwrap())
}

fn read_until(stream: &mut UnixStream, mut have: Vec<u8>, end: &str) -> String {
    let mut bytes = [0; 4096];
    while !have.ends_with(end.as_bytes()) {
        let len = stream.read(&mut bytes).unwrap();
        assert!(len > 0, "closed after {}", String::from_utf8_lossy(&have));
        have.extend(&bytes[..len]);
    }
    String::from_utf8(have).unwrap()
}

#[test]
fn console_has_several_readers_and_one_who_types() {
    let running = start();
    let hub = running.vm.hub.as_ref().unwrap();
    hub.put_out(b"very old ... login: ");

    let (mut first, rest, writes) = attach(&running, true, 7);
    assert!(writes);
    assert_eq!(read_until(&mut first, rest, "login: "), "login: ");
    let (mut second, rest, writes) = attach(&running, true, 1000);
    assert!(!writes, "somebody else does");
    assert_eq!(read_until(&mut second, rest, "login: "), "very old ... login: ");
    second.write_all(b"not typed").unwrap();
    first.write_all(b"root\n").unwrap();
    eventually("it is typed", || hub.room() < 16 << 10);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(hub.take_typed(100), b"root\n");
    hub.put_out(b"# ");
    assert_eq!(read_until(&mut first, Vec::new(), "# "), "# ");
    assert_eq!(read_until(&mut second, Vec::new(), "# "), "# ");

    drop(first);
    let took_over = || attach(&running, true, 0).2;
    eventually("the keyboard is free again", took_over);
}

#[test]
fn much_output_comes_whole_to_who_reads() {
    let running = start();
    let hub = running.vm.hub.as_ref().unwrap();
    let all = (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>().join("\r\n") + "\r\n";
    hub.put_out(all.as_bytes());

    let (mut reader, rest, _) = attach(&running, false, u32::MAX);

    assert_eq!(read_until(&mut reader, rest, "19999\r\n"), all);
}

#[test]
fn slow_reader_of_the_console_holds_up_nobody_and_is_told_what_it_lost() {
    let running = start();
    let hub = running.vm.hub.as_ref().unwrap();
    let (mut slow, rest, _) = attach(&running, false, 0);
    for _ in 0..100 {
        hub.put_out(&[b'x'; 64 << 10]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(running.client().ask::<VmStatus>(&Request::Status {}).unwrap().cpus, 2);
    hub.put_out(b"\r\nend");

    let text = read_until(&mut slow, rest, "\r\nend");

    assert!(text.contains("bytes of output were lost here]"), "{} bytes", text.len());
    assert!(text.len() < 100 * (64 << 10));
}

#[test]
fn garbage_is_refused_and_the_next_line_is_read() {
    let running = start();
    let mut stream = running.raw();
    let wrong: [&[u8]; 6] =
        [b"\xff\xfe\x00", b"{", b"42", b"{\"do\":\"dance\"}", b"{\"id\":\"x\",\"do\":\"status\"}", b"]]]]"];
    for line in wrong {
        stream.write_all(line).unwrap();
        stream.write_all(b"\n").unwrap();

        let answer: Value = serde_json::from_str(&read_line(&mut stream)).unwrap();
        assert_eq!(answer["error"]["kind"], "bad-request", "{line:?}");
    }
    stream.write_all(b"\n  \r\n").unwrap();
    stream.write_all(b"{\"id\":9,\"do\":\"status\"}\n").unwrap();
    assert!(read_line(&mut stream).starts_with("{\"id\":9,\"ok\":{"));
    let deep = [vec![b'['; 10_000], b"\n".to_vec()].concat();
    stream.write_all(&deep).unwrap();
    assert!(read_line(&mut stream).contains("bad-request"), "no stack is deep enough for every list");
}

#[test]
fn line_may_come_in_pieces_and_several_at_once() {
    let running = start();
    let mut stream = running.raw();
    for byte in b"{\"id\":1,\"do\":\"status\"}\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert!(read_line(&mut stream).starts_with("{\"id\":1,\"ok\""));
    stream.write_all(b"{\"id\":2,\"do\":\"pause\"}\n{\"id\":3,\"do\":\"resume\"}\n{\"id\":4,").unwrap();
    assert!(read_line(&mut stream).starts_with("{\"id\":2,\"ok\""));
    assert!(read_line(&mut stream).starts_with("{\"id\":3,\"ok\""));
    stream.write_all(b"\"do\":\"nmi\"}\n").unwrap();
    assert!(read_line(&mut stream).starts_with("{\"id\":4,\"ok\""));
}

#[test]
fn half_line_at_the_end_does_nothing() {
    let running = start();
    let mut stream = running.raw();
    stream.write_all(b"{\"do\":\"status\"}\n{\"do\":\"stop\"").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();

    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();

    assert_eq!(rest.lines().count(), 1, "{rest}");
    assert!(running.vm.done.lock().unwrap().is_empty());
}

#[test]
fn huge_line_ends_the_connection() {
    let running = start();
    let mut stream = running.raw();
    // The far end may be closed before all of it is sent.
    let _ = stream.write_all(&vec![b'x'; 4 * LONGEST]);

    let answer = read_line(&mut stream);

    assert!(answer.contains("the line is too long"), "{answer}");
    assert_eq!(running.client().ask::<VmStatus>(&Request::Status {}).unwrap().name, "web");
}

#[test]
fn client_that_never_reads_is_cut_off() {
    let running = start();
    let mut deaf = running.raw();
    deaf.set_nonblocking(true).unwrap();
    let mut deaf_to_events = running.raw();
    deaf_to_events.write_all(b"{\"do\":\"events\"}\n").unwrap();
    let text = "y".repeat(4000);
    for _ in 0..1000 {
        let _ = deaf.write_all(b"{\"do\":\"status\"}\n{\"do\":\"log\"}\n");
        running.vm.feed.push(VmEvent::Log { text: text.clone() });
        std::thread::sleep(Duration::from_micros(200));
    }

    assert_eq!(running.client().ask::<VmStatus>(&Request::Status {}).unwrap().name, "web");
    let mut left = Vec::new();
    deaf_to_events.read_to_end(&mut left).expect("it was closed");
    assert!(left.len() < 4_000_000, "{}", left.len());
}

#[test]
fn hundred_clients_are_served_and_too_many_are_told() {
    let running = start();
    let mut clients: Vec<_> = (0..100).map(|_| running.client()).collect();
    for client in &mut clients {
        assert_eq!(client.ask::<VmStatus>(&Request::Status {}).unwrap().cpus, 2);
    }
    let more: Vec<_> = (clients.len()..MOST_CLIENTS).map(|_| running.client()).collect();

    let told = ControlClient::connect(running.dir.path(), &running.name).unwrap_err();

    assert!(told.to_string().contains("128 clients already"), "{told}");
    drop(more);
    drop(clients);
    eventually("there is room again", || ControlClient::connect(running.dir.path(), &running.name).is_ok());
}

#[test]
fn name_that_is_taken_is_refused_with_who_has_it() {
    let running = start();

    let refused = Claim::new(running.dir.path(), &running.name).unwrap_err();

    let own = std::process::id() as i32;
    assert!(matches!(&refused, ClaimError::Taken { pid: Some(pid), .. } if *pid == own), "{refused:?}");
    assert!(refused.to_string().contains(&format!("'web' is running already, by process {own}")));
    assert!(Claim::new(running.dir.path(), &name("other")).is_ok());
}

/// What a run that was killed leaves behind.
fn leave_stale(dir: &Path, name: &VmName) -> PathBuf {
    let path = place::socket(dir, name);
    drop(UnixListener::bind(&path).unwrap());
    path
}

#[test]
fn socket_of_a_killed_run_is_cleaned() {
    let dir = TempDir::new();
    let web = name("web");

    let path = leave_stale(dir.path(), &web);
    assert!(list(dir.path()).is_empty());
    assert!(!path.exists(), "the list removes it");

    leave_stale(dir.path(), &web);
    let gone = ControlClient::connect(dir.path(), &web).unwrap_err();
    assert!(matches!(gone, ClientError::NotRunning(_)));
    assert!(!path.exists(), "so does a client");

    leave_stale(dir.path(), &web);
    let claim = Claim::new(dir.path(), &web).unwrap();
    assert!(path.exists(), "a new run takes its place");
    drop(claim);
    assert!(!path.exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = TempDir::new();
    let file = dir.file("web.sock", b"precious");

    let refused = Claim::new(dir.path(), &name("web")).unwrap_err();

    assert!(refused.to_string().contains("remove it"), "{refused}");
    assert_eq!(list(dir.path()).len(), 1);
    assert_eq!(std::fs::read(file).unwrap(), b"precious");
}

#[test]
fn socket_is_for_its_user_alone_and_a_successors_is_not_removed() {
    let dir = TempDir::new();
    let web = name("web");
    let first = Claim::new(dir.path(), &web).unwrap();
    assert_eq!(std::fs::metadata(first.path()).unwrap().permissions().mode() & 0o777, 0o600);

    // Somebody removed it by hand, and another run took the name.
    std::fs::remove_file(first.path()).unwrap();
    let second = Claim::new(dir.path(), &web).unwrap();
    drop(first);

    assert!(second.path().exists());
}

#[test]
fn of_many_who_want_a_name_at_once_one_has_it() {
    let dir = TempDir::new();
    for _ in 0..20 {
        leave_stale(dir.path(), &name("web"));
        let claims: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Claim::new(dir.path(), &name("web")))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });

        let had: Vec<_> = claims.iter().filter(|claim| claim.is_ok()).collect();
        assert_eq!(had.len(), 1, "{claims:?}");
    }
}

#[test]
fn list_shows_what_runs_and_what_does_not_answer() {
    let running = start();
    let silent = UnixListener::bind(place::socket(running.dir.path(), &name("silent"))).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = silent.accept().unwrap();
        let _ = stream.write_all(b"HTTP/1.0 400\r\n\r\n");
    });

    let all = list(running.dir.path());

    assert_eq!(all.len(), 2);
    assert!(matches!(&all[0], listed if listed.name == name("silent") && listed.status.is_err()));
    assert_eq!(all[1].status.as_ref().unwrap().disks[0].path, "/srv/web.img");
}

#[test]
fn vm_without_a_console_says_so() {
    let dir = TempDir::new();
    let mut vm = StandIn::new("mute");
    Arc::get_mut(&mut vm).unwrap().hub = None;
    let claim = Claim::new(dir.path(), &name("mute")).unwrap();
    let _server = ControlServer::start(claim, Arc::clone(&vm) as Arc<_>, vm.feed).unwrap();

    let mut client = ControlClient::connect(dir.path(), &name("mute")).unwrap();
    let refused = client.ask::<Value>(&Request::Console { write: true, history: 0 });

    assert!(matches!(refused, Err(ClientError::Refused(r)) if r.kind == RefusalKind::Unsupported));
}
