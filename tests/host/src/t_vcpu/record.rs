// SPDX-License-Identifier: GPL-2.0

//! What a vCPU leaves behind of its exits.

use crate::vcpu::exit::RawExit;
use crate::vcpu::record::*;
use core::sync::atomic::Ordering::Relaxed;
use proptest::prelude::*;

fn raw(n: u64) -> RawExit {
    RawExit { reason: n, info1: n + 1, info2: n + 2 }
}

proptest! {
    /// The recorder has the last 64 exits, oldest first, and counts all.
    #[test]
    fn the_last_exits_are_kept_in_order(n in 0u64..300) {
        let recorder = ExitRecorder::new().unwrap();
        for i in 0..n {
            recorder.record_exit(i * 16, raw(i));
        }

        let expected: Vec<_> = (n.saturating_sub(RECORDED as u64)..n).map(|i| (i * 16, raw(i))).collect();
        prop_assert_eq!(recorder.iter().collect::<Vec<_>>(), expected);
        prop_assert_eq!(recorder.count.load(Relaxed), n);
        prop_assert_eq!(recorder.last(), if n == 0 { RawExit::default() } else { raw(n - 1) });
    }

    /// Each exit is counted once, in its class and in the bucket whose bounds hold its time.
    #[test]
    fn times_go_into_the_bucket_that_holds_them(ticks in prop_oneof![0u64..100, any::<u64>()], class in 0usize..8) {
        let times = ExitTimes::new().unwrap();
        let (class, _) = ExitClass::ALL[class];
        times.note(class, ticks);

        for (other, _) in ExitClass::ALL {
            let counts: Vec<_> = times.of(other).iter().map(|c| c.load(Relaxed)).collect();
            prop_assert_eq!(counts.iter().sum::<u64>(), u64::from(other == class));
        }
        let bucket = times.of(class).iter().position(|c| c.load(Relaxed) == 1).unwrap();
        let (low, high) = (if bucket == 0 { 0 } else { 1u64 << (bucket - 1) }, 1u64 << bucket);
        prop_assert!(ticks >= low && (ticks < high || bucket == BUCKETS - 1));
    }
}
