// SPDX-License-Identifier: GPL-2.0

//! Tests of KVM's ioctl ABI against any node that speaks it.
//!
//! `abi-tests [--device PATH] [--limit SECONDS] [--list] [NAME…]` prints KTAP; the exit code is 0 when all passed,
//! 1 when one failed, 4 when all were skipped. Run it on stock `/dev/kvm` and on `/dev/rvmm` of the same machine: a
//! test that fails on stock KVM says nothing about rvmm. `abi-tests [--device PATH] [--limit SECONDS] --fuzz SECONDS [SEED]` runs
//! random guests instead, of which a single result comes.

#[path = "../../../abi/mod.rs"]
mod abi;
mod harness;
mod raw;

mod apic;
mod chips;
mod coalesced;
mod code;
mod completion;
mod control;
mod crossing;
mod debug;
mod debugger;
mod delivery;
mod device;
mod dirty_ring;
mod driver;
mod emulation;
mod enable_cap;
mod eventfd;
mod eyes;
mod fuzz;
mod fuzz_devices;
mod gates;
mod guest;
mod hostile;
mod hyperv;
mod irq;
mod leaks;
mod mce;
mod memory;
mod more_state;
mod msr_exits;
mod msr_rules;
mod node;
mod paging;
mod pre_fault;
mod random;
mod regs;
mod resample;
mod split;
mod state;
mod stats;
mod tasks;
mod timer;
mod vapic;
mod vm;
mod waiting;

use harness::{Ctx, Test};
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: abi-tests [--device PATH] [--limit SECONDS] [--list] [NAME…]\n\
    \u{20}      abi-tests [--device PATH] [--limit SECONDS] --fuzz SECONDS [SEED]\n\
    Runs the tests whose names contain a NAME, or all, against PATH (default /dev/rvmm).\n\
    A test that takes longer than SECONDS (default 60) ends the run.\n\
    Or runs random guests for SECONDS, from SEED on (default: another each time).";

fn main() -> ExitCode {
    let mut device = String::from("/dev/rvmm");
    let (mut names, mut list, mut fuzz) = (Vec::new(), false, None);
    let mut limit = harness::LIMIT;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--device" => match args.next() {
                Some(path) => device = path,
                None => return usage(),
            },
            "--limit" => match args.next().and_then(|s| s.parse().ok()) {
                Some(seconds) => limit = Duration::from_secs(seconds),
                None => return usage(),
            },
            "--list" => list = true,
            "--fuzz" => match args.next().and_then(|seconds| seconds.parse().ok()) {
                Some(seconds) => fuzz = Some(seconds),
                None => return usage(),
            },
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            _ if arg.starts_with('-') => return usage(),
            _ => names.push(arg),
        }
    }
    if let Some(seconds) = fuzz {
        let Ok(seed) = names.first().map_or_else(|| Ok(some_seed()), |seed| seed.parse()) else {
            return usage();
        };
        return match Ctx::open(&device) {
            Ok(ctx) => ExitCode::from(fuzz::run(&ctx, seconds, seed, limit)),
            Err(e) => cannot_open(&device, &e),
        };
    }
    let chosen: Vec<&Test> =
        all().filter(|t| names.is_empty() || names.iter().any(|n| t.0.contains(n.as_str()))).collect();
    if list {
        chosen.iter().for_each(|t| println!("{}", t.0));
        return ExitCode::SUCCESS;
    }
    match Ctx::open(&device) {
        Ok(ctx) => {
            // KVM patches code with its first VM and its last, and QEMU's processors have been seen to meet what is
            // gone again: an int3 in the scheduler that nobody knew.
            let _one_stays = ctx.is_stock().then(|| ctx.vm());
            ExitCode::from(harness::run(&ctx, &chosen, limit))
        }
        Err(e) => cannot_open(&device, &e),
    }
}

/// Returns all tests, in the order in which they run.
fn all() -> impl Iterator<Item = &'static Test> {
    let groups = [
        node::TESTS,
        vm::TESTS,
        memory::TESTS,
        dirty_ring::TESTS,
        regs::TESTS,
        guest::TESTS,
        gates::TESTS,
        tasks::TESTS,
        delivery::TESTS,
        debug::TESTS,
        debugger::TESTS,
        code::TESTS,
        paging::TESTS,
        pre_fault::TESTS,
        paging::SOFTWARE,
        completion::TESTS,
        control::TESTS,
        emulation::TESTS,
        crossing::TESTS,
        irq::TESTS,
        apic::TESTS,
        vapic::TESTS,
        split::TESTS,
        enable_cap::TESTS,
        more_state::TESTS,
        coalesced::TESTS,
        msr_exits::TESTS,
        msr_rules::TESTS,
        hyperv::TESTS,
        chips::TESTS,
        waiting::TESTS,
        timer::TESTS,
        mce::TESTS,
        eventfd::TESTS,
        resample::TESTS,
        device::TESTS,
        stats::TESTS,
        eyes::TESTS,
        state::TESTS,
        leaks::TESTS,
        hostile::TESTS,
    ];
    groups.into_iter().flatten()
}

fn cannot_open(device: &str, why: &str) -> ExitCode {
    eprintln!("abi-tests: {device}: {why}");
    ExitCode::from(1)
}

/// Returns a seed that is another one each time.
fn some_seed() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_micros() as u64 % 1_000_000_000_000
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
