// SPDX-License-Identifier: GPL-2.0

//! Machine-check banks, filled by user space.

use crate::arch::cpuid::CpuVendor;
use crate::vcpu::mce::{MachineCheck, MceConsequence};
use crate::vcpu::msr_table::{MsrRefused, MsrStore, MCG_CTL, MCG_STATUS};

const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const UNCORRECTED: u64 = 1 << 61;
const CORRUPT: u64 = 1 << 57;
const STATUS_2: u32 = 0x409;

fn store(cap: u64) -> MsrStore {
    let mut store = MsrStore::new(CpuVendor::Intel);
    store.setup_mce(cap).unwrap();
    store
}

fn error(status: u64) -> MachineCheck {
    MachineCheck { bank: 2, status: VALID | status, addr: 0x1000, misc: 0x86, mcg_status: 5 }
}

#[test]
fn a_fatal_error_is_an_exception_and_in_its_bank() {
    let mut store = store(10);
    let fatal = error(UNCORRECTED | CORRUPT);

    assert_eq!(store.note_mce(&fatal, true), Ok(MceConsequence::Exception));

    let bank = [0, 1, 2].map(|i| store.get(STATUS_2 + i));
    assert_eq!(bank, [fatal.status, fatal.addr, fatal.misc]);
    assert_eq!(store.get(MCG_STATUS), 5);
    assert_eq!(store.note_mce(&fatal, true), Ok(MceConsequence::Shutdown), "the first is not handled yet");
}

#[test]
fn without_cr4_mce_a_fatal_error_stops_the_processor() {
    assert_eq!(store(10).note_mce(&error(UNCORRECTED | CORRUPT), false), Ok(MceConsequence::Shutdown));
}

#[test]
fn reports_that_are_switched_off_are_dropped() {
    let fatal = error(UNCORRECTED | CORRUPT);

    let mut bank_off = store(10);
    bank_off.put(STATUS_2 - 1, 0);
    assert_eq!(bank_off.note_mce(&fatal, true), Ok(MceConsequence::None));
    assert_eq!(bank_off.get(STATUS_2), 0);

    let mut all_off = store(10 | 1 << 8);
    all_off.put(MCG_CTL, 0);
    assert_eq!(all_off.note_mce(&fatal, true), Ok(MceConsequence::None));
}

#[test]
fn a_corrected_error_never_replaces_an_uncorrected_one() {
    let mut store = store(10);
    let fatal = error(UNCORRECTED | CORRUPT);
    store.note_mce(&fatal, true).unwrap();

    assert_eq!(store.note_mce(&error(1), true), Ok(MceConsequence::None));

    assert_eq!(store.get(STATUS_2), fatal.status | OVERFLOW);
}

#[test]
fn an_error_that_needs_no_action_is_logged_only() {
    let mut store = store(10);
    let quiet = MachineCheck { mcg_status: 0, ..error(UNCORRECTED) };

    assert_eq!(store.note_mce(&quiet, false), Ok(MceConsequence::None));

    assert_eq!(store.get(STATUS_2), quiet.status);
}

#[test]
fn what_is_not_there_is_refused() {
    let mut two_banks = store(2);

    assert_eq!(two_banks.note_mce(&error(UNCORRECTED), true), Err(MsrRefused));
    assert_eq!(store(10).note_mce(&MachineCheck { status: 1, ..error(0) }, true), Err(MsrRefused));
    assert!(two_banks.has(0x407) && !two_banks.has(0x408) && !two_banks.has(0x427));
    assert!(two_banks.has(0x428) && two_banks.has(0x3ff), "no numbers of banks");
    for cap in [0, 11, 10 | 1 << 24] {
        assert_eq!(MsrStore::new(CpuVendor::Intel).setup_mce(cap), Err(MsrRefused), "{cap:#x}");
    }
}
