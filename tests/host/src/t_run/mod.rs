// SPDX-License-Identifier: GPL-2.0

//! Tests of the run loop and of what hangs on it, with a [fake extension](crate::fake) on a stand-in host.

mod choices;
mod clock;
mod debugger;
mod devices;
mod dirty;
mod dirty_ring;
mod emulated;
mod events;
mod eyes;
mod faults;
mod hyperv;
mod hyperv_calls;
mod hyperv_synic;
mod ioctls;
mod msr;
mod queues;
mod requests;
mod rest;
mod shadow;
mod snapshot;
mod window;

use crate::host::world::{Entered, World};
use kernel::sched::{self, Body};
use kernel::task::Task;
use std::sync::Arc;

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0)
    }

    fn next(&mut self) -> u64 {
        // Knuth, "MMIX".
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Makes a world and enters it on CPU 0.
fn world() -> (Arc<World>, Entered) {
    let world = World::new();
    let entered = world.enter(0);
    (world, entered)
}

/// A thread of a world for [`sched::run`].
fn thread<'a>(world: &Arc<World>, task: &Arc<Task>, body: impl FnOnce() + Send + 'a) -> Body<'a> {
    let (world, task) = (world.clone(), task.clone());
    Box::new(move || {
        let _entered = world.enter_as(&task);
        body();
    })
}

/// Runs threads with many seeds.
fn for_seeds(count: u64, mut test: impl FnMut(u64)) {
    // A failure names its seed; this runs that one alone.
    let only = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(1..count + 1, |s: u64| s..s + 1) {
        test(seed);
    }
}

/// Runs threads in the order of a seed.
fn run_all(seed: u64, bodies: Vec<Body<'_>>) {
    sched::run(seed, bodies);
}
