// SPDX-License-Identifier: GPL-2.0

//! A watch over the host: a thread on each CPU that wants to wake up often, CPUs that go off and on, and KVM's
//! guests beside.

use crate::random::Random;
use crate::sys::{self, Arena};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

/// How often a CPU is to be seen.
const BEAT: Duration = Duration::from_millis(50);

/// The signs of life of a CPU.
pub struct Heart {
    /// The CPU.
    pub cpu: usize,
    beats: AtomicU64,
    /// The thread on that CPU, from its start on.
    thread: OnceLock<Thread>,
}

impl Heart {
    /// Returns how many signs it has given.
    pub fn beats(&self) -> u64 {
        self.beats.load(SeqCst)
    }

    /// Lets the thread run at once, which the kernel asks its CPU for by an interrupt.
    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Watches each CPU that this process may run on.
pub fn hearts() -> Vec<Arc<Heart>> {
    let start = |cpu| {
        let heart = Arc::new(Heart { cpu, beats: AtomicU64::new(0), thread: OnceLock::new() });
        let its = Arc::clone(&heart);
        std::thread::spawn(move || {
            its.thread.get_or_init(std::thread::current);
            loop {
                // Nobody can stay on a CPU that is off, which is not silent then.
                sys::stay_on(its.cpu);
                std::thread::park_timeout(BEAT);
                its.beats.fetch_add(1, SeqCst);
            }
        });
        heart
    };
    sys::cpus().into_iter().map(start).collect()
}

/// Takes CPUs off and on again, but for the first that this process may run on, until told to stop. Returns how
/// often one went; `None` where none can.
pub fn hotplug(random: Random, stop: &AtomicBool) -> Option<u64> {
    let (mut count, cpus) = (0, sys::cpus());
    let path = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/online");
    let others: Vec<usize> =
        cpus.into_iter().skip(1).filter(|cpu| fs::metadata(path(*cpu)).is_ok()).collect();
    if others.is_empty() {
        return None;
    }
    while !stop.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(500 + random.next() % 1500));
        let cpu = random.of(&others);
        if fs::write(path(cpu), "0").is_ok() {
            count += 1;
            std::thread::sleep(Duration::from_millis(random.next() % 800));
            // The CPU may be wanted by others for a moment.
            while fs::write(path(cpu), "1").is_err() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
    Some(count)
}

/// Starts a process that runs `program`, a guest of KVM's, again and again, and counts in two words how often,
/// and how often it failed. Returns its pid.
pub fn beside(program: &str, counts: Arena) -> i32 {
    let pid = sys::fork();
    if pid != 0 {
        return pid;
    }
    loop {
        counts.counter(0).fetch_add(1, SeqCst);
        match Command::new(program).arg("500").output() {
            Ok(done) if done.status.success() => {}
            Ok(done) => {
                counts.counter(1).fetch_add(1, SeqCst);
                println!("# {program}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
            }
            Err(e) => {
                counts.counter(1).fetch_add(1, SeqCst);
                println!("# {program}: {e}");
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
