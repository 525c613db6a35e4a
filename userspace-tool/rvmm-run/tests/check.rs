// SPDX-License-Identifier: GPL-2.0

//! `--check`: what the processor's flags mean.

use rvmm_run::cmd::check::{processor, Finding};
use rvmm_run::klog::message_since;

fn flags(flags: &str) -> Finding {
    processor(&format!("processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t\t: x\n"))
}

#[test]
fn svm_is_slower_without_nested_paging() {
    assert!(matches!(flags("svm npt"), Finding::Has(_)));
    assert!(matches!(flags("svm"), Finding::Slow(text) if text.contains("nested paging")));
}

#[test]
fn vmx_is_slower_without_extended_page_tables() {
    assert!(matches!(flags("vmx ept"), Finding::Has(_)));
    assert!(matches!(flags("vmx"), Finding::Slow(text) if text.contains("extended page tables")));
}

#[test]
fn other_processors_lack_something() {
    assert!(matches!(flags("svm_lock"), Finding::Lacks(text) if text.contains("firmware")));
    assert!(matches!(processor(""), Finding::Slow(_)));
}

#[test]
fn messages_of_the_module_are_found_in_the_log() {
    let record = "6,1234,5678901,-;rvmm: VM entry: bad guest state\n SUBSYSTEM=misc\n";

    assert_eq!(message_since(record, 5_000_000), Some("VM entry: bad guest state"));
    assert_eq!(message_since(record, 6_000_000), None, "of an earlier run");
    for other in ["", ";", "6,1,2,-;usb 1-1: new device\n", "6,1,x,-;rvmm: a\n", "nonsense"] {
        assert_eq!(message_since(other, 0), None, "{other}");
    }
}
