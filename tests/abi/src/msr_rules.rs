// SPDX-License-Identifier: GPL-2.0

//! MSRs that the guest and user space see differently, or that follow CPUID.

use crate::abi::nr;
use crate::enable_cap::enable;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw::{self, ioctl};
use kvm_bindings::*;
use kvm_ioctls::VcpuFd;
use libc::EINVAL;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

pub const TESTS: &[Test] = &[
    ("msr rules: what a guest adds to its tsc shows in tsc_adjust, and the other way round", tsc_adjust),
    ("msr rules: user space sets tsc and tsc_adjust alone", tsc_adjust_from_outside),
    ("msr rules: platform_info is user space's to set and to hide", platform_info),
    ("msr rules: only what cpuid offers of the paravirtual msrs, where that is enforced", enforced_pv),
    ("msr rules: only the hypercalls that cpuid offers, where that is enforced", enforced_hypercalls),
    ("msr rules: the time that others take of the vcpu's thread is in the guest's memory", steal_time),
    ("msr rules: tsc_aux is there with rdtscp or rdpid", tsc_aux),
    ("msr rules: reset values", reset_values),
    ("msr rules: cpuid stays as it is once the guest has run", cpuid_after_run),
];

const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
const UCODE_REV: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const MISC_ENABLE: u32 = 0x1a0;
const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
const TSC_AUX: u32 = 0xc000_0103;
/// What time passes in a test is less, in ticks.
const STEP: u64 = 1 << 40;

fn get(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut one = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).unwrap();
    (vcpu.get_msrs(&mut one).unwrap() == 1).then(|| one.as_slice()[0].data)
}

fn set(vcpu: &VcpuFd, index: u32, data: u64) -> bool {
    let one = Msrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }]).unwrap();
    vcpu.set_msrs(&one).unwrap() == 1
}

fn steps(ticks: u64) -> u64 {
    (ticks.wrapping_add(STEP / 2)) / STEP
}

/// A guest in 64-bit mode that does WRMSR of what RDX and RAX hold, or RDMSR, to the MSR in ECX, says 0 to port 0x80 and
/// starts again; #GP says 13.
struct MsrGuest(Guest);

impl MsrGuest {
    fn new(c: &Ctx) -> MsrGuest {
        let g = Guest::new(c, &[0x0f, 0x30, 0xb0, 0, 0xe6, 0x80, HLT, 0x0f, 0x32, HLT]);
        g.enter_long_mode_with(&[(13, 0x2000, 0, &[0xb0, 13, 0xe6, 0x80, HLT])]);
        MsrGuest(g)
    }

    /// Starts at an instruction with these registers.
    fn start(&mut self, offset: u64, index: u32, value: u64) {
        let regs = kvm_regs {
            rip: 0x1000 + offset,
            rsp: 0x8000,
            rflags: 2,
            rcx: index.into(),
            rax: value & 0xffff_ffff,
            rdx: value >> 32,
            ..Default::default()
        };
        self.0.vcpu.set_regs(&regs).unwrap();
    }

    /// Returns whether WRMSR was done without a fault.
    fn write(&mut self, index: u32, value: u64) -> bool {
        self.start(0, index, value);
        self.0.out() == (0x80, 0)
    }

    /// Returns what RDMSR gives, `None` for a fault.
    fn read(&mut self, index: u32) -> Option<u64> {
        self.start(7, index, 0);
        match self.0.vcpu.run().expect("KVM_RUN") {
            kvm_ioctls::VcpuExit::Hlt => {
                let r = self.0.vcpu.get_regs().unwrap();
                Some(r.rdx << 32 | r.rax)
            }
            _ => None,
        }
    }

    /// Changes the registers of one leaf of CPUID.
    fn change_cpuid(&self, function: u32, change: impl Fn(&mut kvm_cpuid_entry2)) {
        let mut cpuid = self.0.vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).unwrap();
        cpuid.as_mut_slice().iter_mut().filter(|e| e.function == function).for_each(change);
        self.0.vcpu.set_cpuid2(&cpuid).unwrap();
    }
}

fn tsc_adjust(c: &Ctx) {
    let mut g = MsrGuest::new(c);
    assert_eq!(get(&g.0.vcpu, TSC_ADJUST), Some(0));

    assert!(g.write(TSC, 2 * STEP));
    assert_eq!(steps(g.read(TSC_ADJUST).unwrap()), 2);
    assert!(g.write(TSC_ADJUST, 5 * STEP));
    assert_eq!(g.read(TSC_ADJUST), Some(5 * STEP));
    assert_eq!(steps(g.read(TSC).unwrap()), 5);
    assert_eq!(steps(get(&g.0.vcpu, TSC).unwrap()), 5);
}

fn tsc_adjust_from_outside(c: &Ctx) {
    let mut g = MsrGuest::new(c);

    assert!(set(&g.0.vcpu, TSC, 3 * STEP));
    assert_eq!((get(&g.0.vcpu, TSC_ADJUST), steps(g.read(TSC).unwrap())), (Some(0), 3));
    assert!(set(&g.0.vcpu, TSC_ADJUST, 7 * STEP));
    assert_eq!((g.read(TSC_ADJUST), steps(g.read(TSC).unwrap())), (Some(7 * STEP), 3));
}

fn platform_info(c: &Ctx) {
    let mut g = MsrGuest::new(c);
    let info = get(&g.0.vcpu, PLATFORM_INFO).unwrap() | 0xff00;

    assert!(set(&g.0.vcpu, PLATFORM_INFO, info));
    assert_eq!(g.read(PLATFORM_INFO), Some(info));
    assert!(!g.write(PLATFORM_INFO, info), "it is not the guest's");
    assert_eq!(enable(&g.0.vm, KVM_CAP_MSR_PLATFORM_INFO, 0), Ok(0));
    assert_eq!(g.read(PLATFORM_INFO), None);
    assert_eq!(get(&g.0.vcpu, PLATFORM_INFO), Some(info), "user space sees it");
    assert_eq!(enable(&g.0.vm, KVM_CAP_MSR_PLATFORM_INFO, 1), Ok(0));
    assert_eq!(g.read(PLATFORM_INFO), Some(info));
}

fn enforced_pv(c: &Ctx) {
    let mut g = MsrGuest::new(c);
    g.change_cpuid(0x4000_0001, |leaf| leaf.eax = 0);
    assert!(g.write(KVM_SYSTEM_TIME_NEW, 0), "nobody asked for less");

    assert_eq!(enable(&g.0.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1), Ok(0));

    assert!(!g.write(KVM_SYSTEM_TIME_NEW, 0));
    assert_eq!(g.read(KVM_SYSTEM_TIME_NEW), None);
    assert_eq!(enable(&g.0.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 0), Ok(0));
    assert!(g.write(KVM_SYSTEM_TIME_NEW, 0));
    refused(enable(&g.0.vm, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1), &[EINVAL]);
}

fn enforced_hypercalls(c: &Ctx) {
    const ENOSYS: u64 = -1000i64 as u64;
    // There are no local APICs.
    const EOPNOTSUPP: u64 = -95i64 as u64;
    for (number, offered, answer) in
        [(10, 0, ENOSYS), (10, 1 << 11, EOPNOTSUPP), (11, 0, ENOSYS), (11, 1 << 13, 0), (99, !0, ENOSYS)]
    {
        // vmcall; hlt
        let mut g = MsrGuest(Guest::new(c, &[0x0f, 0x01, 0xc1, HLT]));
        g.0.enter_long_mode();
        g.change_cpuid(0x4000_0001, |leaf| leaf.eax = offered);
        assert_eq!(enable(&g.0.vcpu, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1), Ok(0));
        let mut regs = g.0.vcpu.get_regs().unwrap();
        // To nobody.
        (regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi) = (number, 0, 0, 0, 0);
        g.0.vcpu.set_regs(&regs).unwrap();

        assert_eq!(g.0.hlt().rax, answer, "hypercall {number}, offered {offered:#x}");
    }
}

/// Returns how long this thread has waited for a CPU.
fn run_delay() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits for a CPU that another thread has, for some milliseconds.
fn be_kept_waiting() {
    let cpu = raw::cpus().first;
    let (over, until) = (AtomicBool::new(false), run_delay() + 5_000_000);
    std::thread::scope(|s| {
        s.spawn(|| {
            raw::pin(cpu);
            while !over.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        while run_delay() < until {}
        over.store(true, Relaxed);
    });
}

fn steal_time(c: &Ctx) {
    const RECORD: usize = 0x3040;
    raw::pin(raw::cpus().first);
    // Again: out 0x10, al; jmp again
    let mut g = Guest::new(c, &[0xe6, 0x10, 0xeb, 0xfc]);
    for bit in 1..6 {
        assert!(!set(&g.vcpu, KVM_STEAL_TIME, 1 << bit | 1), "bit {bit}");
    }
    assert!(set(&g.vcpu, KVM_STEAL_TIME, RECORD as u64 | 1));
    assert_eq!(get(&g.vcpu, KVM_STEAL_TIME), Some(RECORD as u64 | 1));
    let mut told = || {
        g.out();
        (u64::from_le_bytes(g.memory.read(RECORD)), u32::from_le_bytes(g.memory.read(RECORD + 8)))
    };

    let (first, version) = told();
    assert!(version != 0 && version % 2 == 0, "version {version}");
    assert!(first <= run_delay());
    let before = run_delay();
    be_kept_waiting();
    let waited = run_delay() - before;
    let (second, next) = told();
    assert!(next > version && next % 2 == 0, "version {next}");
    assert!(second - first >= waited, "{second} after {first}, {waited} waited");

    assert!(set(&g.vcpu, KVM_STEAL_TIME, 0));
    g.memory.write(RECORD, &[0; 16]);
    be_kept_waiting();
    g.out();
    assert_eq!(g.memory.read::<16>(RECORD), [0; 16], "nobody asks for it any more");
}

fn tsc_aux(c: &Ctx) {
    let mut g = MsrGuest::new(c);
    g.change_cpuid(0x8000_0001, |leaf| leaf.edx &= !(1 << 27));
    g.change_cpuid(7, |leaf| leaf.ecx &= !(1 << 22));

    assert_eq!(g.read(TSC_AUX), None);
    assert!(!g.write(TSC_AUX, 1));
}

fn reset_values(c: &Ctx) {
    let g = MsrGuest::new(c);
    let vendor = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap().as_slice()[0].ebx;
    let is_amd = vendor == u32::from_le_bytes(*b"Auth");

    assert_eq!(get(&g.0.vcpu, MISC_ENABLE), Some(0x1800));
    assert_eq!(get(&g.0.vcpu, UCODE_REV), Some(if is_amd { 0x0100_0065 } else { 1 << 32 }));
    assert!(set(&g.0.vcpu, UCODE_REV, 0x1234));
    assert_eq!(get(&g.0.vcpu, UCODE_REV), Some(0x1234));
}

fn cpuid_after_run(c: &Ctx) {
    let mut g = MsrGuest::new(c);
    g.read(TSC).unwrap();
    let mut cpuid = g.0.vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).unwrap();

    g.0.vcpu.set_cpuid2(&cpuid).expect("the same again");
    cpuid.as_mut_slice().iter_mut().find(|e| e.function == 1).unwrap().eax += 1;
    assert_eq!(g.0.vcpu.set_cpuid2(&cpuid).map_err(|e| e.errno()), Err(EINVAL));
    // What follows the registers is told as it is now, and counts as the same.
    let has_osxsave = |vcpu: &VcpuFd| {
        let list = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).unwrap();
        let leaf = *list.as_slice().iter().find(|e| e.function == 1).unwrap();
        (leaf.ecx & 1 << 26 != 0).then_some(leaf.ecx & 1 << 27 != 0)
    };
    if has_osxsave(&g.0.vcpu).is_some() {
        let mut s = g.0.vcpu.get_sregs().unwrap();
        s.cr4 |= 1 << 18;
        g.0.vcpu.set_sregs(&s).unwrap();
        assert_eq!(has_osxsave(&g.0.vcpu), Some(true));
        s.cr4 &= !(1 << 18);
        g.0.vcpu.set_sregs(&s).unwrap();
        assert_eq!(has_osxsave(&g.0.vcpu), Some(false));
    }
    assert_eq!(ioctl(&g.0.vm, nr::CHECK_EXTENSION, KVM_CAP_MSR_PLATFORM_INFO.into()), Ok(1));
}
