// SPDX-License-Identifier: GPL-2.0

//! libFuzzer's program: `RVMM_FUZZ` names the subject.

#![no_main]

use std::sync::OnceLock;

static SUBJECT: OnceLock<fn(&[u8])> = OnceLock::new();

fn choose() -> fn(&[u8]) {
    let name = std::env::var("RVMM_FUZZ").unwrap_or_default();
    rvmm_fuzz::subject(&name).unwrap_or_else(|| {
        let names: Vec<_> = rvmm_fuzz::names().collect();
        eprintln!("there is no subject '{name}'; there are: {}", names.join(" "));
        std::process::exit(2)
    })
}

libfuzzer_sys::fuzz_target!(
    init: {
        SUBJECT.get_or_init(choose);
    },
    |data: &[u8]| SUBJECT.get_or_init(choose)(data)
);
