// SPDX-License-Identifier: GPL-2.0

//! A process of several threads that call the module until it is killed.

use crate::ops::Caller;
use crate::random::Random;
use crate::sys;
use crate::tally::Tally;
use crate::world::World;
use std::time::Duration;

/// What a child is to do.
pub struct Plan<'a> {
    /// The node.
    pub node: &'a str,
    /// The seed of the whole run.
    pub seed: u64,
    /// The child's number.
    pub round: u64,
    /// What is done.
    pub tally: Tally,
    /// The callers' calls may fail by the kernel's fault injection.
    pub faults: bool,
    /// Names of ioctls that are not called.
    pub without: &'a [String],
}

/// Runs a child; does not return.
pub fn run(plan: &Plan<'_>) -> ! {
    sys::lead_group();
    sys::ignore_sigusr1();
    let r = Random::new(plan.seed, &[plan.round]);
    let world = World::new(plan.node, &r, plan.tally, plan.round);
    // Of the callers alone: whoever watches, and the threads while they are made, go on.
    let begin = |n: u64| {
        world.threads.put(n as usize, sys::thread());
        if plan.faults {
            sys::fail_now_and_then();
        }
    };
    let caller = |n: u64| {
        let random = Random::new(plan.seed, &[plan.round, n]);
        Caller::new(&world, plan.without, random)
    };
    std::thread::scope(|s| {
        for n in 0..4 {
            let (caller, begin) = (caller(n), &begin);
            s.spawn(move || {
                begin(n);
                loop {
                    caller.call_waiting(if n < 2 { "RUN" } else { "DEV_RUN" });
                }
            });
        }
        // Who waits in the module is interrupted often, and who waits for anything else now and then.
        s.spawn(|| {
            for tick in 0u64.. {
                std::thread::sleep(Duration::from_micros(1500));
                let all = if tick % 16 == 0 { 8 } else { 4 };
                (0..all).map(|n| world.threads.at(n)).filter(|t| *t > 0).for_each(sys::interrupt);
            }
        });
        for n in 4..7 {
            let (mut caller, begin) = (caller(n), &begin);
            s.spawn(move || {
                begin(n);
                loop {
                    caller.step();
                }
            });
        }
        let mut caller = caller(7);
        begin(7);
        loop {
            for _ in 0..200 {
                caller.step();
            }
            // Another process with the same files.
            let pid = sys::fork();
            if pid == 0 {
                for _ in 0..r.below(100) {
                    caller.step();
                }
                sys::exit(0);
            }
            if r.once_in(2) {
                sys::kill(pid);
            }
            while sys::reap(-1).is_some() {}
            if r.once_in(20) {
                sys::exit(0);
            }
        }
    })
}
