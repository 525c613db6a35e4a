// SPDX-License-Identifier: GPL-2.0

//! Random callers of the module.
//!
//! Processes of several threads call every ioctl of every kind of file with arguments that are nearly right,
//! while others change the memory, close and pass the files, fork, and kill. Meanwhile CPUs go off and on, and
//! KVM runs guests on them. A watchdog proves that each CPU takes interrupts, and that each process can be killed.
//! What the kernel says in its log, and whether the module goes, is for the caller to judge:
//! tests/system/fuzz-ioctl.sh. Prints KTAP.
//!
//! A seed gives each child the same plan, though not the same timing: `--seed S --round N` runs one of them
//! again.

#[path = "../../../abi/mod.rs"]
mod abi;
mod arguments;
mod child;
#[path = "../../abi/src/driver.rs"]
mod driver;
mod ops;
mod random;
mod sys;
mod table;
mod tally;
mod watch;
mod world;

use child::Plan;
use random::Random;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};
use sys::Arena;
use tally::Tally;

const USAGE: &str = "\
Usage: fuzz-ioctl [OPTION]…
  --device PATH    the node (default: /dev/rvmm)
  --seconds N      how long (default: 60)
  --seed N         of the random numbers (default: 1)
  --round N        only this child of the seed's, again and again
  --processes N    children at a time (default: 2)
  --limit N        seconds within which the killed end (default: 20)
  --silence N      seconds within which each CPU gives a sign (default: 6)
  --beside PROGRAM run this meanwhile, a guest of KVM's
  --hotplug        take CPUs off and on meanwhile
  --wake           interrupt a CPU that is silent for a second from another one, where
                   its timer's interrupts may be lost: one that takes interrupts goes on
  --faults         let what the kernel does for the callers fail, as its fault injection is set
  --without NAME   do not call this ioctl";

struct Options {
    device: String,
    seconds: u64,
    seed: u64,
    round: Option<u64>,
    processes: usize,
    limit: Duration,
    silence: Duration,
    beside: Option<String>,
    hotplug: bool,
    wake: bool,
    faults: bool,
    without: Vec<String>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
        let mut o = Options {
            device: String::from("/dev/rvmm"),
            seconds: 60,
            seed: 1,
            round: None,
            processes: 2,
            limit: Duration::from_secs(20),
            silence: Duration::from_secs(6),
            beside: None,
            hotplug: false,
            wake: false,
            faults: false,
            without: Vec::new(),
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--hotplug" => {
                    o.hotplug = true;
                    continue;
                }
                "--wake" => {
                    o.wake = true;
                    continue;
                }
                "--faults" => {
                    o.faults = true;
                    continue;
                }
                _ => {}
            }
            let value = args.next()?;
            match arg.as_str() {
                "--device" => o.device = value,
                "--seconds" => o.seconds = value.parse().ok()?,
                "--seed" => o.seed = value.parse().ok()?,
                "--round" => o.round = Some(value.parse().ok()?),
                "--processes" => o.processes = value.parse().ok()?,
                "--limit" => o.limit = Duration::from_secs(value.parse().ok()?),
                "--silence" => o.silence = Duration::from_secs(value.parse().ok()?),
                "--beside" => o.beside = Some(value),
                "--without" => o.without.push(value),
                _ => return None,
            }
        }
        Some(o)
    }
}

/// The most that one turn of the watchdog counts for.
const STEP: Duration = Duration::from_millis(100);

/// The silence after which a CPU is woken. Long for a timer, and short enough for some tries.
const WAKE: Duration = Duration::from_secs(1);

/// How many children must have run for all to have been done.
const MANY: u64 = 5;

/// A child that runs, or that was killed and has not gone yet.
struct Child {
    pid: i32,
    round: u64,
    ends: Instant,
    /// Killed, and how long ago.
    killed: Option<Duration>,
}

/// What the watchdog found.
#[derive(Default)]
struct Findings {
    rounds: u64,
    /// The longest time from SIGKILL to the end.
    slowest: Duration,
    /// The longest time for which a CPU gave no sign.
    quietest: Duration,
    /// How many CPUs were woken.
    woken: u64,
    stuck: Vec<u64>,
    silent: Vec<usize>,
}

/// Runs the children until the time is over, or something is wrong.
fn supervise(o: &Options, tally: Tally, hearts: &[std::sync::Arc<watch::Heart>]) -> Findings {
    let (mut found, mut children) = (Findings::default(), Vec::<Child>::new());
    let lives = Random::new(o.seed, &[u64::MAX]);
    let end = Instant::now() + Duration::from_secs(o.seconds);
    let (mut last, mut silences) = (Instant::now(), vec![(0, Duration::ZERO); hearts.len()]);
    loop {
        let over = Instant::now() > end;
        // Where this thread did not run for long either, the whole machine stood still.
        let step = last.elapsed().min(STEP);
        last = Instant::now();
        while !over && children.len() < o.processes {
            found.rounds += 1;
            let round = o.round.unwrap_or(found.rounds);
            let plan =
                Plan { node: &o.device, seed: o.seed, round, tally, faults: o.faults, without: &o.without };
            let pid = sys::fork();
            if pid == 0 {
                child::run(&plan);
            }
            let life = Duration::from_millis(1000 + lives.next() % 6000);
            children.push(Child { pid, round, ends: Instant::now() + life, killed: None });
        }
        std::thread::sleep(Duration::from_millis(10));
        while sys::reap(-1).is_some() {}
        for child in &mut children {
            let gone = !sys::exists(child.pid);
            if over || gone || Instant::now() > child.ends {
                sys::kill_group(child.pid);
                child.killed = Some(child.killed.map_or(Duration::ZERO, |t| t + step));
            }
            let waited = child.killed.unwrap_or_default();
            found.slowest = found.slowest.max(waited);
            if waited > o.limit {
                println!(
                    "# round {} of seed {} is not gone {waited:?} after it was killed",
                    child.round, o.seed
                );
                sys::describe(child.pid);
                found.stuck.push(child.round);
            }
        }
        children.retain(|c| c.killed.is_none() || sys::group_exists(c.pid));
        for (heart, (beats, silence)) in hearts.iter().zip(&mut silences) {
            let now = heart.beats();
            *silence = if now == *beats { *silence + step } else { Duration::ZERO };
            *beats = now;
            found.quietest = found.quietest.max(*silence);
            if o.wake && *silence > WAKE {
                found.woken += u64::from(*silence - step <= WAKE);
                heart.wake();
            }
            if *silence > o.silence {
                let rounds: Vec<u64> = children.iter().map(|c| c.round).collect();
                println!(
                    "# CPU {} is silent for {silence:?}; rounds {rounds:?} of seed {}",
                    heart.cpu, o.seed
                );
                found.silent.push(heart.cpu);
            }
        }
        if (over && children.is_empty()) || !found.stuck.is_empty() || !found.silent.is_empty() {
            return found;
        }
    }
}

/// Prints results and counts those that failed.
struct Report {
    done: usize,
    failed: usize,
}

impl Report {
    fn check(&mut self, name: &str, good: bool) {
        self.done += 1;
        self.failed += usize::from(!good);
        println!("{} {} {name}", if good { "ok" } else { "not ok" }, self.done);
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.done += 1;
        println!("ok {} {name} # SKIP {why}", self.done);
    }
}

fn main() -> ExitCode {
    let Some(o) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    // Callers crash; that is not worth a line in the kernel's log.
    let _ = std::fs::write("/proc/sys/debug/exception-trace", "0");
    sys::adopt_orphans();
    let tally = Tally::new();
    println!("KTAP version 1\n# seed {}, {} s, {} processes", o.seed, o.seconds, o.processes);
    let guests = Arena::new(16, true);
    let beside = o.beside.as_ref().map(|program| watch::beside(program, guests));
    let (stop, hearts) = (AtomicBool::new(false), watch::hearts());
    let (found, plugged) = std::thread::scope(|s| {
        let random = Random::new(o.seed, &[u64::MAX - 1]);
        let plugs = o.hotplug.then(|| s.spawn(|| watch::hotplug(random, &stop)));
        let found = supervise(&o, tally, &hearts);
        if !found.silent.is_empty() {
            // Whoever waits for that CPU waits for ever.
            println!("not ok 1 every CPU takes interrupts");
            sys::exit(1);
        }
        stop.store(true, SeqCst);
        (found, plugs.map(|t| t.join().unwrap_or(Some(0))))
    });
    let mut report = Report { done: 0, failed: 0 };
    report.check("every CPU takes interrupts", found.silent.is_empty());
    report.check("every process that is killed ends", found.stuck.is_empty());
    tally.print();
    let missing = tally.missing(&o.without);
    let all = "every ioctl that can succeed did, and every device moved data";
    // One child again and again, or some few, need not have done everything.
    match (o.round, found.rounds) {
        (Some(_), _) => report.skip(all, "one round alone"),
        (None, ..MANY) => report.skip(all, &format!("{} rounds are too few", found.rounds)),
        _ => report.check(all, missing.is_empty()),
    }
    match plugged {
        Some(None) => report.skip("CPUs went off and came back", "no CPU can be taken off"),
        Some(Some(times)) => report.check("CPUs went off and came back", times != 0),
        None => {}
    }
    if let Some(pid) = beside {
        sys::kill(pid);
        let (runs, failed) = (guests.counter(0).load(Relaxed), guests.counter(1).load(Relaxed));
        println!("# {runs} KVM guests, {failed} failed");
        report.check("KVM's guests beside run", runs != 0 && failed == 0);
    }
    println!(
        "# {} rounds, slowest end {:?}, longest silence of a CPU {:?}, woken {} times, CPUs off {}; missing: {missing:?}",
        found.rounds,
        found.slowest,
        found.quietest,
        found.woken,
        plugged.flatten().unwrap_or(0)
    );
    println!("1..{}", report.done);
    ExitCode::from(u8::from(report.failed != 0))
}
