// SPDX-License-Identifier: GPL-2.0

//! The debug registers, shared between the host's breakpoints and the guest's.

use super::cpu::{host_dr7, PinnedCpu};
use core::arch::asm;

macro_rules! dr {
    ($read:ident, $write:ident, $reg:literal) => {
        fn $read() -> u64 {
            let v: u64;
            // SAFETY: The kernel may read debug registers at any time; with CR4.DE they all exist.
            unsafe { asm!(concat!("mov {}, ", $reg), out(reg) v, options(nomem, nostack, preserves_flags)) };
            v
        }
        fn $write(v: u64) {
            // SAFETY: An address register alone breaks nothing: DR7 is off whenever this is called with
            // a guest's value, and gets the host's value back together with the host's addresses.
            unsafe { asm!(concat!("mov ", $reg, ", {}"), in(reg) v, options(nomem, nostack, preserves_flags)) };
        }
    };
}

dr!(read0, write0, "dr0");
dr!(read1, write1, "dr1");
dr!(read2, write2, "dr2");
dr!(read3, write3, "dr3");

fn write6(v: u64) {
    // SAFETY: Status only; every caller's value has the upper half clear.
    unsafe { asm!("mov dr6, {}", in(reg) v, options(nomem, nostack, preserves_flags)) };
}

/// DR6 with nothing to report.
pub(crate) const DR6_IDLE: u64 = 0xffff_0ff0;

/// Takes a guest's status out of DR6, which the host reads in its debug exception handler alone.
pub(crate) fn reset_status() {
    write6(DR6_IDLE);
}

fn write7(v: u64) {
    // SAFETY: Only the host's own value is written (see `HostDebug`).
    unsafe { asm!("mov dr7, {}", in(reg) v, options(nomem, nostack, preserves_flags)) };
}

/// Returns DR0 to DR3.
pub(crate) fn read_addresses() -> [u64; 4] {
    [read0(), read1(), read2(), read3()]
}

/// Loads DR0 to DR3 for a guest, inside a window.
pub(crate) fn write_addresses(dr: &[u64; 4], _cpu: &PinnedCpu) {
    write0(dr[0]);
    write1(dr[1]);
    write2(dr[2]);
    write3(dr[3]);
}

/// The host's breakpoints, put back on drop. Empty and free of cost when the host has none.
pub(crate) struct HostDebug {
    dr7: u64,
    addresses: [u64; 4],
}

impl HostDebug {
    /// Saves the host's breakpoints for the length of a window. A world switch leaves DR7 off.
    pub(crate) fn save(cpu: &PinnedCpu) -> HostDebug {
        let dr7 = host_dr7(cpu);
        HostDebug { dr7, addresses: if dr7 == 0 { [0; 4] } else { read_addresses() } }
    }
}

impl Drop for HostDebug {
    fn drop(&mut self) {
        if self.dr7 != 0 {
            let a = &self.addresses;
            write0(a[0]);
            write1(a[1]);
            write2(a[2]);
            write3(a[3]);
            // Last: with it on, an address that is still the guest's could hit in the host.
            write7(self.dr7);
        }
    }
}
