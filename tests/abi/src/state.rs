// SPDX-License-Identifier: GPL-2.0

//! A machine at rest, its state, and another machine that goes on from it; skipped on a node that has none of that.

use crate::abi::{nr, rvmm};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, skip, Ctx, Test};
use crate::irq::{enable_lapic, pic_guest};
use crate::raw::{self, ioctl_with, SharedFd};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::{E2BIG, EBUSY, EFAULT, EINTR, EINVAL, ENXIO};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("state: a running guest stands still while its machine is at rest", stands_still),
    ("state: a guest goes on in another machine, and its timers fire", goes_on),
    ("state: a deadline of the tsc is met in another machine", deadline),
    ("state: a state that cannot be is refused", impossible),
    ("state: only a machine at rest has one", at_rest_only),
];

/// Where the handlers count: ticks of the 8254, and of the local APIC.
const PIT_TICKS: usize = 0x3000;
const APIC_TICKS: usize = 0x3004;
/// Where the guest counts while it runs.
const TURNS: usize = 0x3008;

fn attr(fd: &impl AsRawFd, request: u32, attr: u64, addr: u64) -> Result<i32, i32> {
    ioctl_with(fd, request, &mut kvm_device_attr { flags: 0, group: rvmm::GROUP_STATE, attr, addr })
}

/// Brings a machine to rest, or lets it go on.
fn set_rest(vm: &impl AsRawFd, rest: u32) -> Result<i32, i32> {
    attr(vm, nr::SET_DEVICE_ATTR, rvmm::STATE_REST, &raw const rest as u64)
}

/// Returns a state.
fn save(fd: &impl AsRawFd, what: u64) -> Vec<u8> {
    let mut buffer = rvmm::StateBuffer { addr: 0, bytes: 0 };
    refused(attr(fd, nr::GET_DEVICE_ATTR, what, &raw mut buffer as u64), &[E2BIG]);
    let mut state = vec![0; buffer.bytes as usize];
    buffer.addr = state.as_mut_ptr() as u64;
    attr(fd, nr::GET_DEVICE_ATTR, what, &raw mut buffer as u64).unwrap();
    assert_eq!(buffer.bytes as usize, state.len());
    state
}

/// Sets one.
fn restore(fd: &impl AsRawFd, what: u64, state: &[u8]) -> Result<i32, i32> {
    let buffer = rvmm::StateBuffer { addr: state.as_ptr() as u64, bytes: state.len() as u64 };
    attr(fd, nr::SET_DEVICE_ATTR, what, &raw const buffer as u64)
}

/// A machine of chips that runs `code`, whose handlers count ticks.
fn guest(c: &Ctx, code: &[u8]) -> Guest {
    let vm = c.vm();
    refuse_strangers(&vm);
    vm.set_tss_address(0xfffb_d000).unwrap();
    vm.create_irq_chip().unwrap();
    vm.create_pit2(kvm_pit_config::default()).unwrap();
    put(&vm, rvmm::DEV_UART, &rvmm::UartConfig { index: 0, flags: 0 });
    let rtc = rvmm::RtcConfig { ram_below_4g_bytes: 1 << 20, ram_above_4g_bytes: 0, utc_offset_seconds: 0 };
    put(&vm, rvmm::DEV_RTC, &rtc);
    put(&vm, rvmm::DEV_I8042, &rvmm::I8042Config { flags: 0 });
    put(&vm, rvmm::DEV_ACPI_PM, &rvmm::AcpiPmConfig { flags: 0 });
    let vcpu = vm.create_vcpu(0).unwrap();
    let g = Guest::of(c, vm, vcpu, code);
    enable_lapic(&g);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.ds.base = 0xfee0_0000;
    g.vcpu.set_sregs(&s).unwrap();
    // inc dword ss:[0x3000]; push ax; mov al, 0x20; out 0x20, al; pop ax; iret
    g.handler(8, 0x2000, &[0x36, 0x66, 0xff, 0x06, 0, 0x30, 0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]);
    // inc dword ss:[0x3004]; mov dword [0xb0], 0; iret
    g.handler(0x40, 0x2100, &[0x36, 0x66, 0xff, 0x06, 4, 0x30, 0x66, 0xc7, 0x06, 0xb0, 0, 0, 0, 0, 0, 0xcf]);
    g
}

/// Skips on a node that knows no states.
fn refuse_strangers(vm: &impl AsRawFd) {
    if attr(vm, nr::HAS_DEVICE_ATTR, rvmm::STATE_MACHINE, 0).is_err() {
        skip("no states of machines");
    }
}

/// Makes a device of rvmm's. Its fd may be closed then.
fn put<T>(vm: &kvm_ioctls::VmFd, type_: u32, config: &T) {
    let device = vm.create_device(&mut kvm_create_device { type_, ..Default::default() }).unwrap();
    let addr = config as *const T as u64;
    let mut a = kvm_device_attr { flags: 0, group: rvmm::GROUP_CONFIG, attr: 0, addr };
    ioctl_with(&device, nr::SET_DEVICE_ATTR, &mut a).unwrap();
}

/// Lets the 8254 interrupt every 10 ms and the local APIC every 5; puts out 0x12 after each.
fn ticking() -> Vec<u8> {
    // mov al, 0x34; out 0x43, al; mov al, 0x9c; out 0x40, al; mov al, 0x2e; out 0x40, al
    let mut code = vec![0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x9c, 0xe6, 0x40, 0xb0, 0x2e, 0xe6, 0x40];
    // mov dword [0x3e0], 3; mov dword [0x320], 0x20040; mov dword [0x380], 312500
    for (at, value) in [(0x3e0u16, 3u32), (0x320, 0x2_0040), (0x380, 312_500)] {
        code.extend([0x66, 0xc7, 0x06]);
        code.extend(at.to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    let wait = pic_guest(0xfe);
    // Up to its HLT; then out 0x12, al; jmp to that.
    code.extend(&wait[..wait.len() - 3]);
    code.extend([HLT, 0xe6, 0x12, 0xeb, 0xfb]);
    code
}

fn word(g: &Guest, at: usize) -> u32 {
    u32::from_le_bytes(g.memory.read(at))
}

/// MSRs of a vCPU that a guest of real mode has: the TSC first, its deadline last.
const MSRS: [u32; 4] = [0x10, 0x1b, 0x277, 0x6e0];

/// Moves a vCPU with its memory to another machine, both at rest. Returns the TSC with which it arrives.
fn carry_over(from: &Guest, to: &Guest) -> u64 {
    let bytes: Box<[u8; 0x1_0000]> = Box::new(from.memory.read(0));
    to.memory.write(0, &*bytes);
    restore(&to.vm, rvmm::STATE_MACHINE, &save(&from.vm, rvmm::STATE_MACHINE)).unwrap();
    to.vcpu.set_sregs(&from.vcpu.get_sregs().unwrap()).unwrap();
    to.vcpu.set_regs(&from.vcpu.get_regs().unwrap()).unwrap();
    let mut msrs =
        Msrs::from_entries(&MSRS.map(|index| kvm_msr_entry { index, ..Default::default() })).unwrap();
    assert_eq!(from.vcpu.get_msrs(&mut msrs).unwrap(), MSRS.len());
    restore(&to.vcpu, rvmm::STATE_LAPIC, &save(&from.vcpu, rvmm::STATE_LAPIC)).unwrap();
    assert_eq!(to.vcpu.set_msrs(&msrs).unwrap(), MSRS.len());
    to.vcpu.set_vcpu_events(&from.vcpu.get_vcpu_events().unwrap()).unwrap();
    to.vcpu.set_mp_state(from.vcpu.get_mp_state().unwrap()).unwrap();
    assert_eq!(save(&to.vm, rvmm::STATE_MACHINE), save(&from.vm, rvmm::STATE_MACHINE));
    let lapics = [from, to].map(|g| save(&g.vcpu, rvmm::STATE_LAPIC));
    assert_eq!(lapics[0].len(), lapics[1].len());
    msrs.as_slice()[0].data
}

fn goes_on(c: &Ctx) {
    const EACH: u32 = 8;
    let mut g = guest(c, &ticking());
    assert_eq!(g.out().0, 0x11);
    while word(&g, PIT_TICKS) < EACH {
        assert_eq!(g.out().0, 0x12);
    }
    let (pit, apic) = (word(&g, PIT_TICKS), word(&g, APIC_TICKS));
    // The last OUT is finished by another run.
    g.vcpu.set_kvm_immediate_exit(1);
    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR);
    g.vcpu.set_kvm_immediate_exit(0);

    set_rest(&g.vm, 1).unwrap();
    let mut other = guest(c, &[HLT]);
    set_rest(&other.vm, 1).unwrap();
    carry_over(&g, &other);
    // Time goes by, but not here.
    thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    set_rest(&other.vm, 0).unwrap();
    while word(&other, PIT_TICKS) < pit + EACH {
        assert_eq!(other.out().0, 0x12);
    }

    let took = started.elapsed();
    let (pits, apics) = (word(&other, PIT_TICKS) - pit, word(&other, APIC_TICKS) - apic);
    // Nearly eight periods of 10 ms at least, whose first had begun before; no bursts for the time at rest.
    assert!(took >= Duration::from_millis(68), "{pits} ticks in {took:?}");
    assert!((8..=10).contains(&pits) && apics >= 4, "{pits} ticks of the 8254, {apics} of the local APIC");
    assert_eq!(word(&g, PIT_TICKS), pit, "the first machine stands still");
    // It goes on as well.
    set_rest(&g.vm, 0).unwrap();
    while word(&g, PIT_TICKS) < pit + 2 {
        assert_eq!(g.out().0, 0x12);
    }
}

fn deadline(c: &Ctx) {
    const TSC: u64 = 1 << 40;
    // sti; hlt; out 0x12, al
    let g = guest(c, &[0xfb, HLT, 0xe6, 0x12]);
    let mut lapic = g.vcpu.get_lapic().unwrap();
    for (to, from) in lapic.regs[0x320..].iter_mut().zip(0x4_0040u32.to_le_bytes()) {
        *to = from as _;
    }
    g.vcpu.set_lapic(&lapic).unwrap();
    let khz = u64::from(g.vcpu.get_tsc_khz().unwrap());
    let due = TSC + khz * 2_000;
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let msrs = Msrs::from_entries(&[entry(0x10, TSC), entry(0x6e0, due)]).unwrap();
    assert_eq!(g.vcpu.set_msrs(&msrs).unwrap(), 2);

    set_rest(&g.vm, 1).unwrap();
    let mut other = guest(c, &[HLT]);
    set_rest(&other.vm, 1).unwrap();
    let started = Instant::now();
    let tsc = carry_over(&g, &other);
    set_rest(&other.vm, 0).unwrap();
    assert_eq!(other.out().0, 0x12);

    let (took, left) = (started.elapsed(), Duration::from_millis(due.saturating_sub(tsc) / khz));
    assert!(took >= left && took < left + Duration::from_secs(20), "{took:?} for {left:?}");
    assert_eq!(word(&other, APIC_TICKS), 1);
}

fn stands_still(c: &Ctx) {
    // again: inc dword ss:[0x3008]; jmp again
    let mut g = guest(c, &[0x36, 0x66, 0xff, 0x06, 8, 0x30, 0xeb, 0xf8]);
    let vm = SharedFd::of(&g.vm);
    let memory = g.memory.address() as usize + TURNS;
    let (done, finished) = mpsc::channel();
    let thread = raw::this_thread();
    let rests = thread::spawn(move || {
        let turns = || raw::read_u32(memory);
        let mut seen = Vec::new();
        for _ in 0..20 {
            let before = turns();
            while turns() == before {
                thread::yield_now();
            }
            set_rest(&vm, 1).unwrap();
            let at_rest = turns();
            thread::sleep(Duration::from_millis(5));
            seen.push(turns() == at_rest);
            set_rest(&vm, 0).unwrap();
        }
        // A signal ends a run that waits.
        set_rest(&vm, 1).unwrap();
        while finished.try_recv().is_err() {
            raw::interrupt(thread);
            thread::sleep(Duration::from_millis(5));
        }
        set_rest(&vm, 0).unwrap();
        seen
    });
    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR);
    done.send(()).unwrap();

    assert_eq!(rests.join().unwrap(), [true; 20]);
    assert!(word(&g, TURNS) != 0);
}

fn impossible(c: &Ctx) {
    let g = guest(c, &[HLT]);
    set_rest(&g.vm, 1).unwrap();
    let (state, lapic) = (save(&g.vm, rvmm::STATE_MACHINE), save(&g.vcpu, rvmm::STATE_LAPIC));
    for (fd, what, state) in [
        (SharedFd::of(&g.vm), rvmm::STATE_MACHINE, &state),
        (SharedFd::of(&g.vcpu), rvmm::STATE_LAPIC, &lapic),
    ] {
        refused(restore(&fd, what, &state[..state.len() - 1]), &[EINVAL]);
        refused(restore(&fd, what, &[]), &[EINVAL]);
        // The id, the instance, the version and the length of the first section; and its padding's worth of bytes.
        for at in [0, 4, 8, 12] {
            let mut bad = state.clone();
            bad[at] ^= 0x40;
            refused(restore(&fd, what, &bad), &[EINVAL]);
        }
        let mut more = state.clone();
        more.extend_from_within(..);
        refused(restore(&fd, what, &more), &[EINVAL, E2BIG]);
        let huge = rvmm::StateBuffer { addr: state.as_ptr() as u64, bytes: u64::MAX };
        refused(attr(&fd, nr::SET_DEVICE_ATTR, what, &raw const huge as u64), &[E2BIG]);
        let nowhere = rvmm::StateBuffer { addr: 1 << 63, bytes: state.len() as u64 };
        refused(attr(&fd, nr::SET_DEVICE_ATTR, what, &raw const nowhere as u64), &[EFAULT]);
        refused(attr(&fd, nr::SET_DEVICE_ATTR, what, 1 << 63), &[EFAULT]);
        // Any byte may be wrong: it is refused, or the machine has that state, and goes on to what is due then.
        for at in (16..state.len()).step_by(5) {
            let mut bad = state.clone();
            bad[at] ^= 0xff;
            match restore(&fd, what, &bad) {
                Ok(_) => {
                    let now = save(&fd, what);
                    restore(&fd, what, &now).unwrap_or_else(|e| panic!("byte {at}: error {e}"));
                    assert!(save(&fd, what) == now, "byte {at}");
                }
                Err(e) => assert_eq!(e, EINVAL, "byte {at}"),
            }
        }
        restore(&fd, what, state).unwrap();
        assert_eq!(&save(&fd, what), state);
    }
    refused(set_rest(&g.vm, 2), &[EINVAL]);
}

fn at_rest_only(c: &Ctx) {
    let mut g = guest(c, &[0xe6, 0x12, 0xe6, 0x12]);
    let mut buffer = rvmm::StateBuffer { addr: 0, bytes: 0 };
    for request in [nr::GET_DEVICE_ATTR, nr::SET_DEVICE_ATTR] {
        let at = &raw mut buffer as u64;
        refused(attr(&g.vm, request, rvmm::STATE_MACHINE, at), &[EBUSY]);
        refused(attr(&g.vcpu, request, rvmm::STATE_LAPIC, at), &[EBUSY]);
        for other in [rvmm::STATE_LAPIC, 99] {
            refused(attr(&g.vm, request, other, at), &[ENXIO]);
        }
        for other in [rvmm::STATE_MACHINE, rvmm::STATE_REST] {
            refused(attr(&g.vcpu, request, other, at), &[ENXIO]);
        }
    }
    assert!(matches!(g.exit(), VcpuExit::IoOut(0x12, _)));
    for rest in [1, 1, 0, 0, 1, 0] {
        set_rest(&g.vm, rest).unwrap();
        let mut is = 7u32;
        attr(&g.vm, nr::GET_DEVICE_ATTR, rvmm::STATE_REST, &raw mut is as u64).unwrap();
        assert_eq!(is, rest);
    }
    assert!(matches!(g.exit(), VcpuExit::IoOut(0x12, _)));
}
