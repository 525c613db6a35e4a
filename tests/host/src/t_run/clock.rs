// SPDX-License-Identifier: GPL-2.0

//! The paravirtual clock, as user space reads and sets it: clock, wall clock and TSC are of one moment.

use super::{for_seeds, run_all, thread, world};
use crate::abi::{nr, vm as abi};
use crate::fake::abi::AbiVm;
use crate::fake::direct::RAM;
use crate::host::world::World;
use kernel::task::Task;

/// What the clock is set to, as of the time of the wall clock at which the monotonic one is 0.
const CLOCK: u64 = 77_000_000_000;
const WALL: u64 = 1_790_000_000_000_000_000;

fn set(vm: &AbiVm) {
    let zeroed: abi::ClockData = zerocopy::FromZeros::new_zeroed();
    let asked = abi::ClockData { clock: CLOCK, flags: abi::CLOCK_REALTIME, realtime: WALL, ..zeroed };
    vm.give(nr::SET_CLOCK, &asked).unwrap();
}

/// Returns the nanoseconds that have passed by the wall clock and by the machine's since the moment that was set.
fn passed(vm: &AbiVm) -> (u64, u64) {
    let now: abi::ClockData = vm.ask(vm.fd, nr::GET_CLOCK).unwrap();
    assert_eq!(now.flags, abi::CLOCK_FLAGS);
    assert_eq!(now.realtime - WALL, World::ns_at(now.host_tsc), "wall clock and TSC");
    (now.realtime - WALL, now.clock.wrapping_sub(CLOCK))
}

/// Ticks are rounded once more than the wall clock's.
fn agree((wall, clock): (u64, u64)) -> bool {
    wall.abs_diff(clock) <= 2
}

#[test]
fn clock_wall_clock_and_tsc_are_of_one_moment() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);

    set(&vm);

    for wait in [0, 1_000, 1_000_000, 3_600_000_000_000] {
        world.advance(wait);
        assert!(agree(passed(&vm)), "{:?}", passed(&vm));
    }
}

#[test]
fn a_clock_that_is_set_while_others_change_the_machine_is_not_late() {
    for_seeds(60, |seed| {
        let world = World::new();
        let tasks = [Task::new(&world.process, 0), Task::new(&world.process, 1)];
        let entered = world.enter_as(&tasks[0]);
        let vm = AbiVm::new(&world, 16);
        let changes = || {
            for _ in 0..8 {
                vm.set_memory(1, 0x10_0000, 4096, RAM).unwrap();
                vm.set_memory(1, 0, 0, 0).unwrap();
            }
        };
        let bodies = vec![thread(&world, &tasks[0], || set(&vm)), thread(&world, &tasks[1], changes)];
        drop(entered);
        run_all(seed, bodies);
        let _entered = world.enter_as(&tasks[0]);
        assert!(agree(passed(&vm)), "seed {seed}: {:?}", passed(&vm));
    });
}
