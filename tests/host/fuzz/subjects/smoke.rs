// SPDX-License-Identifier: GPL-2.0

//! Each subject under a bounded number of pseudo-random inputs, the same in every run.

use super::TARGETS;
use std::time::{Duration, Instant};

/// Inputs of a subject at the most.
const INPUTS: u64 = 300;
/// A slow machine stops a subject here, but never before the first [`LEAST`] inputs.
const BUDGET: Duration = Duration::from_secs(3);
const LEAST: u64 = 20;

fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Bytes that are often small, which more of the subjects' choices hit.
fn input(seed: &mut u64) -> Vec<u8> {
    let len = next(seed) % 700;
    let kind = next(seed);
    (0..len)
        .map(|_| {
            let r = next(seed);
            let byte = (r >> 8) as u8;
            if r & 3 < kind & 3 {
                byte & 15
            } else {
                byte
            }
        })
        .collect()
}

fn smoke(name: &str) {
    let (_, run) = TARGETS.iter().find(|t| t.0 == name).expect("a subject");
    let mut seed = 0x2545_f491_4f6c_dd1d;
    run(&[]);
    let began = Instant::now();
    for n in 0..INPUTS {
        if n >= LEAST && began.elapsed() > BUDGET {
            break;
        }
        let bytes = input(&mut seed);
        if let Err(panic) = std::panic::catch_unwind(|| run(&bytes)) {
            eprintln!("{name}: the failing input is {bytes:02x?}");
            std::panic::resume_unwind(panic);
        }
    }
}

macro_rules! smoke {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                smoke(stringify!($name));
            }
        )*

        #[test]
        fn every_subject_has_its_test() {
            let names: Vec<&str> = TARGETS.iter().map(|t| t.0).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

smoke!(
    uart,
    pit,
    pic,
    rtc,
    i8042,
    pm,
    bus,
    lapic,
    ioapic,
    virtqueue,
    packed_pair,
    packed_ring,
    virtio_blk,
    virtio_rng,
    virtio_net,
    pci,
    saved_machine,
    saved_restore,
    decode,
    emulate,
    walk,
    slots,
    table,
    shadow
);
