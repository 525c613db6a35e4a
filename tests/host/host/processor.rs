// SPDX-License-Identifier: GPL-2.0

//! The processors of the machine: what CPUID says, and what is in the registers that are switched for guests.

use super::world::{locked, world};
use crate::arch::cpuid::CpuidRegs;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use kernel::sched;
use std::collections::HashMap;
use std::sync::Mutex;

/// What a test can have otherwise than it is.
pub(crate) struct Settings {
    /// Leaves of CPUID that are not as below.
    pub(crate) cpuid: HashMap<(u32, u32), CpuidRegs>,
    /// What the kernel found about its processors: bits of `HostFlags`.
    pub(crate) host_flags: u32,
    /// The host trusts its TSC.
    pub(crate) is_tsc_stable: bool,
    /// How long the thread has waited for a CPU.
    pub(crate) run_delay_ns: u64,
    /// How long it has run.
    pub(crate) run_time_ns: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cpuid: HashMap::new(),
            host_flags: 0,
            is_tsc_stable: true,
            run_delay_ns: 0,
            run_time_ns: 0,
        }
    }
}

/// Registers of one processor that guests get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    /// DR0 to DR3.
    pub(crate) dr: [u64; 4],
    /// The host's DR7.
    pub(crate) dr7: u64,
    /// The status, of the host or of a guest.
    pub(crate) dr6: u64,
    pub(crate) tsc_aux: u32,
    pub(crate) spec_ctrl: u32,
    pub(crate) test_ctrl: u64,
    pub(crate) xcr0: u64,
    pub(crate) pkru: u32,
    /// The guest's extended state is in the registers.
    pub(crate) has_guest_fpu: bool,
    /// Commands for the branch predictor's barrier.
    pub(crate) barriers: u64,
    /// A barrier comes before the return to user space.
    pub(crate) barrier_on_return: bool,
    /// The guest that ran last.
    pub(crate) last_guest: u64,
    /// Machine checks given to the kernel.
    pub(crate) machine_checks: u64,
    /// The keys that were in force when the last one was: while it is a guest's, nothing has touched its memory.
    pub(crate) machine_check_pkru: u32,
}

/// A processor.
#[derive(Default)]
pub(crate) struct Cpu {
    /// Interrupts are off.
    pub(crate) is_pinned: AtomicBool,
    /// An interrupt waits.
    irq: AtomicBool,
    /// How often interrupts were taken.
    pub(crate) taken: AtomicU64,
    pub(crate) registers: Mutex<Registers>,
}

impl Cpu {
    /// An interrupt comes. It waits while interrupts are off.
    pub(crate) fn interrupt(&self) {
        self.irq.store(true, SeqCst);
        if !self.is_pinned.load(SeqCst) {
            self.take_interrupts();
        }
        sched::yield_point();
    }

    /// Returns whether an interrupt waits.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.irq.load(SeqCst)
    }

    /// Interrupts are on: those that wait are taken.
    pub(crate) fn take_interrupts(&self) {
        self.irq.store(false, SeqCst);
        self.taken.fetch_add(1, SeqCst);
    }

    /// Calls `f` with the registers.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Registers) -> R) -> R {
        f(&mut locked(&self.registers))
    }
}

/// Calls `f` with the registers of the calling thread's processor.
pub(crate) fn registers<R>(f: impl FnOnce(&mut Registers) -> R) -> R {
    world().cpus[super::cpu::cpu_id() as usize].with(f)
}

const fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidRegs {
    CpuidRegs { eax, ebx, ecx, edx }
}

/// The components of the extended state that the host has on: x87, SSE, AVX and PKRU.
pub(crate) const HOST_XCR0: u64 = 0x207;
/// The highest basic leaf.
const LAST: u32 = 0xd;
/// The highest extended one.
const LAST_EXTENDED: u32 = 0x8000_0008;

/// What CPUID answers: a processor of AMD's that has most of what guests are offered.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidRegs {
    if let Some(regs) = locked(&world().settings).cpuid.get(&(leaf, subleaf)) {
        return *regs;
    }
    match (leaf, subleaf) {
        // "AuthenticAMD".
        (0, _) => regs(LAST, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
        (1, _) => regs(0x00a2_0f12, 0x0001_0800, 0x7ed8_3203, 0x178b_fbff),
        (7, 0) => regs(0, 0x219c_97a9, 0x0040_0018, 0x0000_0000),
        (0xd, 0) => regs(HOST_XCR0 as u32, 0xa88, 0xa88, 0),
        (0xd, 1) => regs(1, 0x340, 0, 0),
        (0xd, 2) => regs(256, 576, 0, 0),
        (0xd, 9) => regs(8, 2688, 0, 0),
        (0x8000_0000, _) => regs(LAST_EXTENDED, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
        (0x8000_0001, _) => regs(0x00a2_0f12, 0, 0x0000_01f3, 0x2fd3_fbff),
        (0x8000_0007, _) => regs(0, 0, 0, 0x100),
        // IBPB, IBRS, STIBP and SSBD.
        (0x8000_0008, _) => regs(0x3030, 1 << 12 | 1 << 14 | 1 << 15 | 1 << 24, 0, 0),
        _ => regs(0, 0, 0, 0),
    }
}
