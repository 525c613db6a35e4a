// SPDX-License-Identifier: GPL-2.0

//! `--check`: what the processor's flags mean.

use rvmm_run::cmd::check::{processor, Finding};

fn flags(flags: &str) -> Finding {
    processor(&format!("processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t\t: x\n"))
}

#[test]
fn svm_needs_nested_paging() {
    assert!(matches!(flags("svm npt"), Finding::Has(_)));
    assert!(matches!(flags("svm"), Finding::Lacks(text) if text.contains("NPT")));
}

#[test]
fn vmx_needs_extended_page_tables() {
    assert!(matches!(flags("vmx ept"), Finding::Has(_)));
    assert!(matches!(flags("vmx"), Finding::Lacks(text) if text.contains("EPT")));
}

#[test]
fn other_processors_lack_something() {
    assert!(matches!(flags("svm_lock"), Finding::Lacks(text) if text.contains("firmware")));
    assert!(matches!(processor(""), Finding::Slow(_)));
}
