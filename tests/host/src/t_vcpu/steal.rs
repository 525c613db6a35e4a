// SPDX-License-Identifier: GPL-2.0

//! Stolen time, as the guest reads it.

use crate::arch::addr::Gpa;
use crate::host::timer::RunDelay;
use crate::mmu::mem::GuestMem;
use crate::t_virtio::mem::Mem;
use crate::vcpu::steal::StealTime;

const AT: u64 = 0x1040;

fn on() -> StealTime {
    let mut steal = StealTime::default();
    assert!(steal.set_msr(AT | 1));
    steal
}

/// Accounts for these waits and returns the record: nanoseconds and version.
fn told(steal: &mut StealTime, mem: &Mem, thread: i32, ns: u64) -> (u64, u32) {
    steal.account(mem, RunDelay { thread, ns }).unwrap();
    (mem.read_obj(Gpa(AT)).unwrap(), mem.read_obj(Gpa(AT + 8)).unwrap())
}

#[test]
fn waits_add_up_from_the_first_run_on() {
    let (mut steal, mem) = (on(), Mem::new());

    assert_eq!(told(&mut steal, &mem, 1, 500), (0, 2), "what was before is none of its");
    assert_eq!(told(&mut steal, &mem, 1, 700), (200, 4));
    assert_eq!(told(&mut steal, &mem, 1, 700), (200, 4), "nothing new");
    assert_eq!(told(&mut steal, &mem, 1, 701), (201, 6));
}

#[test]
fn the_waits_of_another_thread_count_from_its_own_first_run_on() {
    let (mut steal, mem) = (on(), Mem::new());
    told(&mut steal, &mem, 1, 500);

    assert_eq!(told(&mut steal, &mem, 2, 90_000).0, 0);
    assert_eq!(told(&mut steal, &mem, 2, 90_005).0, 5);
    assert_eq!(told(&mut steal, &mem, 1, 600).0, 5, "and back");
}

#[test]
fn what_the_guest_has_in_its_record_is_counted_on() {
    let (mut steal, mem) = (on(), Mem::new());
    told(&mut steal, &mem, 1, 0);
    mem.write(Gpa(AT), &1_000u64.to_le_bytes()).unwrap();
    mem.write(Gpa(AT + 8), &7u32.to_le_bytes()).unwrap();
    mem.write(Gpa(AT + 16), &[1]).unwrap();

    assert_eq!(told(&mut steal, &mem, 1, 30), (1_030, 8));
    assert_eq!(mem.read_obj::<u8>(Gpa(AT + 16)).unwrap(), 0);
}

#[test]
fn a_reserved_bit_is_refused_and_no_memory_is_the_guests_loss() {
    let mut steal = on();
    for bit in 1..6 {
        assert!(!steal.set_msr(1 << bit | 1));
        assert_eq!(steal.msr(), AT | 1);
    }
    assert!(steal.set_msr(0x8000_0001));
    assert_eq!(steal.account(&Mem::new(), RunDelay { thread: 1, ns: 1 }), Ok(()));
    assert!(steal.set_msr(0) && !steal.is_on());
}

#[test]
fn a_page_that_is_away_is_asked_for_and_no_wait_is_lost_or_counted_twice() {
    for nth in 0..6 {
        let (mut steal, mem) = (on(), Mem::new());
        let before = told(&mut steal, &mem, 1, 0);

        mem.miss_nth(nth);
        let missing = steal.account(&mem, RunDelay { thread: 1, ns: 40 }).unwrap_err();
        assert!(!mem.miss_none(), "access {nth}");

        assert!((AT..AT + 64).contains(&missing.0), "{missing:?}");
        let after = told(&mut steal, &mem, 1, 50);
        assert_eq!((after.0, after.1 % 2), (50, 0), "access {nth}");
        assert!(after.1 > before.1);
    }
}
