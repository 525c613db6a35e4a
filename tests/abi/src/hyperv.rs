// SPDX-License-Identifier: GPL-2.0

//! Hyper-V's interface: leaves, MSRs, hypercalls, and the synthetic interrupt controller with its timers.

use crate::abi::{caps, nr, run, vm as abi};
use crate::chips::route;
use crate::enable_cap::enable;
use crate::eventfd::set_irqfd;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, skip, Ctx, Test};
use crate::irq::enable_lapic;
use crate::raw::{hyperv_words, ioctl_with, set_hyperv_word, EventFd};
use kvm_bindings::*;
use kvm_ioctls::{VcpuExit, VcpuFd};
use libc::{E2BIG, EEXIST, EINVAL, ENOENT};
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = &[
    ("hyperv: leaves are told where there is room for them", leaves_told),
    ("hyperv: a guest that is told of none has no such msrs", untold),
    ("hyperv: msrs come back as they were set", come_back),
    ("hyperv: what cpuid does not offer is refused where user space insists", enforced),
    ("hyperv: a vcpu's number is its place, or user space's choice", vp_index),
    ("hyperv: hypercalls are made through their page", hypercall_page),
    ("hyperv: extended hypercalls are answered by user space", extended),
    ("hyperv: the reference time goes on, by msr and by page", reference_time),
    ("hyperv: the guest resets its machine, and tells of its crash", reset_and_crash),
    ("hyperv: an event signals where its connection leads", events),
    ("hyperv: a processor interrupts itself by hypercall", ipi),
    ("hyperv: registers of the interrupt controller are told to user space", synic_exits),
    ("hyperv: without the interrupt controller there are none", no_synic),
    ("hyperv: a timer sends its message", timer_message),
    ("hyperv: a timer raises its vector", timer_direct),
    ("hyperv: a message that finds its slot full waits for the guest", message_waits),
    ("hyperv: an interrupt that ends by itself lets the next one in", auto_eoi),
    ("hyperv: a gsi raises a source", gsi),
];

const GUEST_OS_ID: u32 = 0x4000_0000;
const HYPERCALL: u32 = 0x4000_0001;
const VP_INDEX: u32 = 0x4000_0002;
const RESET: u32 = 0x4000_0003;
const TIME_REF_COUNT: u32 = 0x4000_0020;
const REFERENCE_TSC: u32 = 0x4000_0021;
const SCONTROL: u32 = 0x4000_0080;
const SIMP: u32 = 0x4000_0083;
const EOM: u32 = 0x4000_0084;
const SINT2: u32 = 0x4000_0092;
const STIMER0_CONFIG: u32 = 0x4000_00b0;
const STIMER0_COUNT: u32 = 0x4000_00b1;
const CRASH_P0: u32 = 0x4000_0100;
const CRASH_CONTROL: u32 = 0x4000_0105;
const LINUX: u64 = 0x8100 << 48;

/// Pages that the guests' tables and code leave free.
const CALLS: u64 = 0xd000;
const MESSAGES: u64 = 0xe000;
const INPUT: u64 = 0xf000;
/// The slot of source 2.
const SLOT: usize = MESSAGES as usize + 512;
const TIMER_MESSAGE: u32 = 0x8000_0010;

#[repr(C)]
struct List {
    nent: u32,
    padding: u32,
    entries: [kvm_cpuid_entry2; 20],
}

fn list(nent: u32) -> List {
    List { nent, padding: 0, entries: [kvm_cpuid_entry2::default(); 20] }
}

/// All that the node offers of Hyper-V.
fn leaves(c: &Ctx) -> Vec<kvm_cpuid_entry2> {
    let mut all = list(20);
    if ioctl_with(&c.kvm, nr::GET_SUPPORTED_HV_CPUID, &mut all).is_err() {
        skip("the node knows no Hyper-V");
    }
    all.entries[..all.nent as usize].to_vec()
}

/// Gives a guest Hyper-V's leaves in the place of KVM's, as `change` has them.
fn tell(c: &Ctx, g: &Guest, change: impl Fn(&mut kvm_cpuid_entry2)) {
    let own = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let is_kvm = |e: &&kvm_cpuid_entry2| (0x4000_0000..0x4000_0100).contains(&e.function);
    let kept = own.as_slice().iter().filter(|e| !is_kvm(e)).copied();
    let mut entries: Vec<_> = kept.chain(leaves(c)).collect();
    entries.iter_mut().for_each(change);
    g.vcpu.set_cpuid2(&CpuId::from_entries(&entries).unwrap()).unwrap();
}

/// A guest of Hyper-V's in 64-bit mode, with interrupt controllers. #GP reports at port 0x13, vector 0x40 at port 0x40.
fn guest(c: &Ctx, code: &[&[u8]]) -> Guest {
    let g = Guest::with_irqchip(c, &code.concat());
    tell(c, &g, |_| {});
    g.enter_long_mode_with(&[
        (13, 0x2000, 0, &[0xe6, 0x13, HLT]),
        (6, 0x2100, 0, &[0xe6, 0x06, HLT]),
        (0x40, 0x2200, 0, &[0xe6, 0x40, HLT]),
    ]);
    g
}

/// mov ecx, INDEX; mov eax, LOW; mov edx, HIGH; wrmsr
fn wrmsr(index: u32, value: u64) -> Vec<u8> {
    let [low, high] = [value as u32, (value >> 32) as u32].map(u32::to_le_bytes);
    [&[0xb9][..], &index.to_le_bytes(), &[0xb8], &low, &[0xba], &high, &[0x0f, 0x30]].concat()
}

/// mov ecx, INDEX; rdmsr
fn rdmsr(index: u32) -> Vec<u8> {
    [&[0xb9][..], &index.to_le_bytes(), &[0x0f, 0x32]].concat()
}

/// mov rcx, CONTROL; mov rdx, INPUT; mov r8, OUTPUT; mov rbx, CALLS; call rbx
fn call(control: u64, input: u64, output: u64) -> Vec<u8> {
    let word = |op: [u8; 2], value: u64| [&op[..], &value.to_le_bytes()].concat();
    let moves = [
        word([0x48, 0xb9], control),
        word([0x48, 0xba], input),
        word([0x49, 0xb8], output),
        word([0x48, 0xbb], CALLS),
    ];
    [&moves.concat()[..], &[0xff, 0xd3]].concat()
}

/// The guest's first steps: its name, and its page for hypercalls.
fn begin() -> Vec<u8> {
    [wrmsr(GUEST_OS_ID, LINUX), wrmsr(HYPERCALL, CALLS | 1)].concat()
}

/// mov eax, 0x1ff; mov [0xfee000f0], eax: the local APIC is on.
const APIC_ON: &[u8] = &[0xb8, 0xff, 1, 0, 0, 0xbb, 0xf0, 0, 0xe0, 0xfe, 0x89, 0x03];
/// out 0x10, al
const TELL: &[u8] = &[0xe6, 0x10];
/// sti; jmp $
const WAIT: &[u8] = &[0xfb, 0xeb, 0xfe];

fn get(g: &Guest, index: u32) -> Option<u64> {
    let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).unwrap();
    (g.vcpu.get_msrs(&mut msrs).unwrap() == 1).then(|| msrs.as_slice()[0].data)
}

fn set(g: &Guest, index: u32, data: u64) -> bool {
    let entry = kvm_msr_entry { index, data, ..Default::default() };
    g.vcpu.set_msrs(&Msrs::from_entries(&[entry]).unwrap()).unwrap() == 1
}

fn word(g: &Guest, at: usize) -> u32 {
    u32::from_le_bytes(g.memory.read(at))
}

fn leaves_told(c: &Ctx) {
    let all = leaves(c);
    let (_vm, vcpu) = c.vcpu();

    refused(ioctl_with(&c.kvm, nr::GET_SUPPORTED_HV_CPUID, &mut list(3)), &[E2BIG]);
    let mut own = list(20);
    assert_eq!(ioctl_with(&vcpu, nr::GET_SUPPORTED_HV_CPUID, &mut own), Ok(0));
    assert_eq!(own.nent as usize, all.len());
    assert!(all.iter().any(|e| e.function == 0x4000_0001 && e.eax == 0x3123_7648));
    // Without a local APIC there is nothing to raise a vector in.
    assert!(own.entries.iter().all(|e| e.function != 0x4000_0003 || e.edx >> 19 & 1 == 0));
}

fn untold(c: &Ctx) {
    leaves(c);
    let mut g = Guest::with_irqchip(c, &[&rdmsr(GUEST_OS_ID)[..], TELL].concat());
    g.enter_long_mode_with(&[(13, 0x2000, 0, &[0xe6, 0x13, HLT])]);

    assert_eq!(g.out().0, 0x13);
    assert_eq!(get(&g, GUEST_OS_ID), Some(0));
}

fn come_back(c: &Ctx) {
    let g = guest(c, &[&[HLT]]);

    for (index, value) in [
        (GUEST_OS_ID, LINUX),
        (HYPERCALL, CALLS | 1),
        (CRASH_P0, 0x1234_5678_9abc),
        (CRASH_P0 + 4, u64::MAX),
        (CRASH_CONTROL, 1 << 63),
        (0x4000_0106, 0x1_00ff),
        (0x4000_0107, 1),
        (0x4000_0108, 1),
        (0x4000_0118, 1),
        (0x4000_0073, INPUT | 1),
        (0x4000_00ff, 4),
        (0x4000_00f3, 0x5000),
    ] {
        assert!(set(&g, index, value), "{index:#x}");
        assert_eq!(get(&g, index), Some(value), "{index:#x}");
    }
    // There is none to be set up, and that can be put back.
    for index in [SCONTROL, STIMER0_CONFIG] {
        assert!(set(&g, index, 0) && !set(&g, index, 1), "{index:#x}");
        assert_eq!(get(&g, index), Some(0), "{index:#x}");
    }
    assert!(!set(&g, 0x4000_0118, 2));
    assert!(!set(&g, VP_INDEX, 1 << 20));
}

fn enforced(c: &Ctx) {
    for insists in [false, true] {
        let code = [rdmsr(TIME_REF_COUNT), TELL.to_vec()].concat();
        let mut g = guest(c, &[&code]);
        tell(c, &g, |e| {
            if e.function == 0x4000_0003 {
                e.eax &= !2;
            }
        });
        assert_eq!(enable(&g.vcpu, caps::HYPERV_ENFORCE_CPUID, insists.into()), Ok(0));

        assert_eq!(g.out().0, if insists { 0x13 } else { 0x10 });
        assert!(get(&g, TIME_REF_COUNT).is_some());
    }
}

fn vp_index(c: &Ctx) {
    leaves(c);
    let vm = c.vm();
    vm.create_irq_chip().unwrap();
    let read = |vcpu: &VcpuFd| {
        let mut msrs =
            Msrs::from_entries(&[kvm_msr_entry { index: VP_INDEX, ..Default::default() }]).unwrap();
        assert_eq!(vcpu.get_msrs(&mut msrs).unwrap(), 1);
        msrs.as_slice()[0].data
    };
    let (first, second) = (vm.create_vcpu(5).unwrap(), vm.create_vcpu(2).unwrap());

    assert_eq!((read(&first), read(&second)), (0, 1));
    let entry = kvm_msr_entry { index: VP_INDEX, data: 77, ..Default::default() };
    assert_eq!(second.set_msrs(&Msrs::from_entries(&[entry]).unwrap()).unwrap(), 1);
    assert_eq!(read(&second), 77);
}

fn hypercall_page(c: &Ctx) {
    let code =
        [begin(), call(0xbeef, 0, 0), TELL.to_vec(), call(8, 0, 0), TELL.to_vec(), call(1 << 60, 0, 0)];
    let mut g = guest(c, &[&code.concat(), TELL]);

    for answer in [2, 0, 3] {
        assert_eq!(g.out().0, 0x10);
        assert_eq!(g.vcpu.get_regs().unwrap().rax, answer);
    }
}

fn extended(c: &Ctx) {
    let mut g = guest(c, &[&begin(), &call(0x8001, INPUT, MESSAGES), TELL]);

    exits_with(&mut g, run::HYPERV_CALL);
    let seen = hyperv_words(g.vcpu.get_kvm_run());
    assert_eq!((seen[1], seen[3], seen[4]), (0x8001, INPUT, MESSAGES));
    set_hyperv_word(g.vcpu.get_kvm_run(), 2, 7);
    assert_eq!(g.out().0, 0x10);
    assert_eq!(g.vcpu.get_regs().unwrap().rax, 7);
}

/// Runs until an exit of Hyper-V's of that kind.
#[track_caller]
fn exits_with(g: &mut Guest, kind: u32) {
    match g.exit() {
        VcpuExit::Hyperv => {}
        other => panic!("{other:?}, expected one of Hyper-V's"),
    }
    assert_eq!(hyperv_words(g.vcpu.get_kvm_run())[0] as u32, kind);
}

fn reference_time(c: &Ctx) {
    let read = [rdmsr(TIME_REF_COUNT), TELL.to_vec()].concat();
    let code = [&read[..], &read, &wrmsr(REFERENCE_TSC, INPUT | 1), TELL, &read];
    let mut g = guest(c, &code);
    let mut time = || {
        assert_eq!(g.out().0, 0x10);
        let r = g.vcpu.get_regs().unwrap();
        r.rdx << 32 | r.rax & 0xffff_ffff
    };
    let (first, second) = (time(), time());
    assert!(second > first);
    time();
    let third = time();
    assert!(third > second && third - second < 100_000_000, "{second} {third}");
    // Only a host that trusts its TSC has a page.
    if word(&g, INPUT as usize) != 0 {
        assert_ne!(word(&g, INPUT as usize + 12), 0, "a factor");
    }
}

fn reset_and_crash(c: &Ctx) {
    let code = [wrmsr(CRASH_P0, 0xbad), wrmsr(CRASH_CONTROL, 1 << 63), wrmsr(RESET, 1)];
    let mut g = guest(c, &[&code.concat(), TELL]);

    for kind in [KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET] {
        match g.exit() {
            VcpuExit::SystemEvent(seen, _) => assert_eq!(seen, kind),
            other => panic!("{other:?}, expected a system event"),
        }
    }
    assert_eq!(get(&g, CRASH_P0), Some(0xbad));
    assert_eq!(g.out().0, 0x10);
}

fn events(c: &Ctx) {
    let fast = 0x1_005d;
    let code =
        [begin(), call(fast, 5, 0), TELL.to_vec(), call(0x5d, INPUT, 0), TELL.to_vec(), call(fast, 6, 0)];
    let mut g = guest(c, &[&code.concat(), TELL]);
    g.memory.write(INPUT as usize, &5u64.to_le_bytes());
    let event = EventFd::new();
    let connect = |conn_id: u32, flags: u32| {
        let fd = event.as_raw_fd();
        let mut asked = abi::HypervEventfd { conn_id, fd, flags, padding: [0; 3] };
        ioctl_with(&g.vm, nr::HYPERV_EVENTFD, &mut asked)
    };
    refused(connect(1 << 24, 0), &[EINVAL]);
    refused(connect(5, 2), &[EINVAL]);
    refused(connect(5, 1), &[ENOENT]);
    assert_eq!(connect(5, 0), Ok(0));
    refused(connect(5, 0), &[EEXIST]);

    for answer in [0, 0, 3] {
        assert_eq!(g.out().0, 0x10);
        assert_eq!(g.vcpu.get_regs().unwrap().rax, answer);
    }
    assert_eq!(event.take(), 2);
}

fn ipi(c: &Ctx) {
    let mut g = guest(c, &[APIC_ON, &begin(), &call(0x1_000b, 0x40, 1), TELL, WAIT]);

    assert_eq!(g.out().0, 0x10);
    assert_eq!(g.vcpu.get_regs().unwrap().rax, 0);
    assert_eq!(g.out().0, 0x40);
}

fn no_synic(c: &Ctx) {
    for index in [SCONTROL, SIMP, SINT2, EOM] {
        let mut g = guest(c, &[&rdmsr(index), TELL]);
        assert_eq!(g.out().0, 0x13, "{index:#x}");
    }
    let mut g = guest(c, &[&wrmsr(STIMER0_COUNT, 1), TELL]);
    assert_eq!(g.out().0, 0x13);
    // A call to send a message has nobody to take it.
    let mut g = guest(c, &[&begin(), &call(0x5c, INPUT, 0), TELL]);
    assert_eq!(g.out().0, 0x10);
    assert_eq!(g.vcpu.get_regs().unwrap().rax, 3);
}

fn synic_exits(c: &Ctx) {
    let code = [begin(), wrmsr(SCONTROL, 1), wrmsr(SIMP, MESSAGES | 1), call(0x5c, INPUT, 0), TELL.to_vec()];
    let mut g = guest(c, &[&code.concat()]);
    g.memory.write(SLOT, &[0xff; 8]);
    refused(enable(&g.vcpu, caps::HYPERV_SYNIC2, 1), &[EINVAL]);
    assert_eq!(enable(&g.vcpu, caps::HYPERV_SYNIC, 0), Ok(0));
    assert_eq!(get(&g, SCONTROL), Some(1));

    exits_with(&mut g, run::HYPERV_SYNIC);
    let seen = hyperv_words(g.vcpu.get_kvm_run());
    assert_eq!((seen[1] as u32, seen[2], seen[4]), (SCONTROL, 1, 0));
    exits_with(&mut g, run::HYPERV_SYNIC);
    let seen = hyperv_words(g.vcpu.get_kvm_run());
    assert_eq!((seen[1] as u32, seen[4]), (SIMP, MESSAGES | 1));
    assert_eq!(word(&g, SLOT), 0, "the page is cleared");
    exits_with(&mut g, run::HYPERV_CALL);
    set_hyperv_word(g.vcpu.get_kvm_run(), 2, 18);
    assert_eq!(g.out().0, 0x10);
    assert_eq!(g.vcpu.get_regs().unwrap().rax, 18);
}

/// A guest with an interrupt controller whose message page and source 2 user space has set up. It runs `code` and waits
/// for interrupts.
fn with_synic(c: &Ctx, source: u64, code: &[&[u8]]) -> Guest {
    let g = guest(c, &[APIC_ON, &code.concat(), WAIT]);
    assert_eq!(enable(&g.vcpu, caps::HYPERV_SYNIC2, 0), Ok(0));
    for (index, value) in [(SIMP, MESSAGES | 1), (SINT2, source)] {
        assert!(set(&g, index, value), "{index:#x}");
    }
    g
}

/// Periodic, a message to source 2.
const PERIODIC: u64 = 1 | 2 | 2 << 16;
/// Once, a message to source 2.
const ONCE: u64 = 1 | 2 << 16;

fn timer_message(c: &Ctx) {
    let code = [wrmsr(STIMER0_COUNT, 10_000), wrmsr(STIMER0_CONFIG, PERIODIC)].concat();
    let mut g = with_synic(c, 0x40, &[&code]);

    assert_eq!(g.out().0, 0x40);
    assert_eq!((word(&g, SLOT), word(&g, SLOT + 4), word(&g, SLOT + 16)), (TIMER_MESSAGE, 24, 0));
    assert_eq!(get(&g, STIMER0_CONFIG), Some(PERIODIC));
    assert_eq!(get(&g, STIMER0_COUNT), Some(10_000));
}

fn timer_direct(c: &Ctx) {
    // Once, at a time that has passed: at once.
    let code = [wrmsr(STIMER0_COUNT, 1), wrmsr(STIMER0_CONFIG, 1 | 0x40 << 4 | 1 << 12)].concat();
    let mut g = with_synic(c, 1 << 16, &[&code]);

    assert_eq!(g.out().0, 0x40);
    assert_eq!(word(&g, SLOT), 0);
    assert_eq!(get(&g, STIMER0_CONFIG).map(|v| v & 1), Some(0), "it is off now");
}

fn message_waits(c: &Ctx) {
    let code = [wrmsr(STIMER0_COUNT, 1), wrmsr(STIMER0_CONFIG, ONCE), TELL.to_vec(), wrmsr(EOM, 0)].concat();
    let mut g = with_synic(c, 0x40, &[&code]);
    g.memory.write(SLOT, &1u32.to_le_bytes());

    assert_eq!(g.out().0, 0x10);
    assert_eq!((word(&g, SLOT), word(&g, SLOT + 4) >> 8 & 1), (1, 1), "there is another one, the slot says");
    assert_eq!(get(&g, STIMER0_CONFIG).map(|v| v & 1), Some(1));
    g.memory.write(SLOT, &0u32.to_le_bytes());
    assert_eq!(g.out().0, 0x40);
    assert_eq!(word(&g, SLOT), TIMER_MESSAGE);
}

fn auto_eoi(c: &Ctx) {
    for ends_itself in [false, true] {
        let fire = [wrmsr(STIMER0_COUNT, 1), wrmsr(STIMER0_CONFIG, 1 | 0x40 << 4 | 1 << 12)].concat();
        let code = [&fire[..], &[0xfb, 0x90, 0xfa], &rdmsr(0x4000_0072), TELL].concat();
        let source = 0x40 | if ends_itself { 1 << 17 } else { 0 };
        let mut g = with_synic(c, source, &[&code]);
        // iretq
        g.memory.write(0x2200, &[0xe6, 0x40, 0x48, 0xcf]);
        assert_eq!(g.out().0, 0x40);
        assert_eq!(g.out().0, 0x10);
        let lapic = g.vcpu.get_lapic().unwrap();
        let in_service = lapic.regs[0x120] & 1;
        assert_eq!(in_service == 0, ends_itself, "{ends_itself}");
    }
}

fn gsi(c: &Ctx) {
    let mut g = with_synic(c, 0x40, &[]);
    let to = |vcpu, sint| {
        let mut entry =
            kvm_irq_routing_entry { gsi: 30, type_: KVM_IRQ_ROUTING_HV_SINT, ..Default::default() };
        entry.u.hv_sint = kvm_irq_routing_hv_sint { vcpu, sint };
        assert_eq!(route(&g.vm, [entry]), Ok(0));
    };
    let raise = || {
        let mut line = abi::IrqLevel { irq: 30, level: 1 };
        assert_eq!(ioctl_with(&g.vm, nr::IRQ_LINE_STATUS, &mut line), Ok(0));
        line.irq as i32
    };
    enable_lapic(&g);
    to(0, 3);
    assert_eq!(raise(), -1, "which is masked");
    to(9, 2);
    assert_eq!(raise(), -1, "there is no such processor");
    to(0, 2);
    let event = EventFd::new();
    set_irqfd(&g.vm, &event, 30, 0).unwrap();
    event.signal();

    assert_eq!(g.out().0, 0x40);
}
