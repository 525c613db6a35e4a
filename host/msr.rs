// SPDX-License-Identifier: GPL-2.0

//! MSRs of the host that guests see directly, switched over a window.

use super::cpu::PinnedCpu;
use crate::arch::msr::TSC_AUX;
use core::arch::asm;

fn read() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: Only used where CPUID offers RDTSCP, which comes with this MSR.
    unsafe {
        asm!("rdmsr", in("ecx") TSC_AUX, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

fn write(value: u32) {
    // SAFETY: As in `read()`; any 32-bit value is taken, and the host reads it in user space only, which
    // it does not return to before the old value is back (see `TscAux`).
    unsafe {
        asm!("wrmsr", in("ecx") TSC_AUX, in("eax") value, in("edx") 0, options(nostack, preserves_flags))
    };
}

/// Returns whether this processor has TSC_AUX (RDTSCP).
pub(crate) fn has_tsc_aux() -> bool {
    super::cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0001
        && super::cpu::cpuid(0x8000_0001, 0).edx & (1 << 27) != 0
}

/// TSC_AUX holds the guest's value until this is dropped.
pub(crate) struct TscAux {
    host: u32,
    guest: u32,
}

impl TscAux {
    /// Loads the guest's value. `None` where the processor has no such MSR.
    pub(crate) fn load(guest: u32, present: bool, _cpu: &PinnedCpu) -> Option<TscAux> {
        if !present {
            return None;
        }
        let host = read() as u32;
        if host != guest {
            write(guest);
        }
        Some(TscAux { host, guest })
    }

    /// Changes the guest's value.
    pub(crate) fn set(&mut self, guest: u32) {
        self.guest = guest;
        write(guest);
    }
}

impl Drop for TscAux {
    fn drop(&mut self) {
        if self.host != self.guest {
            write(self.host);
        }
    }
}
