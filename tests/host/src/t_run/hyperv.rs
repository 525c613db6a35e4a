// SPDX-License-Identifier: GPL-2.0

//! Hyper-V's MSRs and leaves, through the run loop and by user space.

use super::world;
use crate::abi::sys::CpuidEntry2;
use crate::abi::{nr, sys};
use crate::arch::addr::Gpa;
use crate::arch::hyperv::{hypercall as code, leaf, HvMsr};
use crate::fake::abi::{supported_cpuid, AbiVm};
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::{Steps, CODE};
use crate::host::world::locked;
use crate::machine::mailbox::VcpuMailbox;
use crate::machine::power::PlatformEvent;
use crate::mmu::mem::GuestMem;
use crate::vcpu::access::msr;
use crate::vcpu::cpuid::CpuidTable;
use crate::vcpu::exit::{VirtInsn, VmExit};
use crate::vcpu::hyperv::leaves::{supported, HvInputs};
use crate::vcpu::hyperv::rights::HvRights;
use crate::vcpu::hyperv::HvExit;
use crate::vcpu::outcome::UserExit;
use crate::vcpu::state::{VcpuState, RAX, RBX, RCX, RDI, RDX, RSI};
use kernel::prelude::*;

pub(super) const GUEST_OS_ID: u32 = 0x4000_0000;
const HYPERCALL: u32 = 0x4000_0001;
const VP_INDEX: u32 = 0x4000_0002;
const RESET: u32 = 0x4000_0003;
const VP_RUNTIME: u32 = 0x4000_0010;
const TIME_REF_COUNT: u32 = 0x4000_0020;
const REFERENCE_TSC: u32 = 0x4000_0021;
const TSC_FREQUENCY: u32 = 0x4000_0022;
const APIC_FREQUENCY: u32 = 0x4000_0023;
const EOI: u32 = 0x4000_0070;
const ICR: u32 = 0x4000_0071;
const TPR: u32 = 0x4000_0072;
const ASSIST_PAGE: u32 = 0x4000_0073;
const DEBUG_CONTROL: u32 = 0x4000_00f1;
const DEBUG_STATUS: u32 = 0x4000_00f2;
const DEBUG_OPTIONS: u32 = 0x4000_00ff;
const CRASH_P0: u32 = 0x4000_0100;
const CRASH_CONTROL: u32 = 0x4000_0105;
const TSC_EMULATION_CONTROL: u32 = 0x4000_0107;
const TSC_EMULATION_STATUS: u32 = 0x4000_0108;
const TSC_INVARIANT: u32 = 0x4000_0118;

/// Any operating system.
pub(super) const LINUX: u64 = 0x8100 << 48;
/// A page of guest memory that nothing else uses.
pub(super) const PAGE: u64 = 0x5000;
pub(super) const VMMCALL: &[u8] = &[0x0f, 0x01, 0xd9];
/// Statuses.
pub(super) const INVALID_CODE: u64 = 2;
const INVALID_PARAMETER: u64 = 5;
const OPERATION_DENIED: u64 = 8;

/// Takes the edge-triggered vectors that were posted for a vCPU.
pub(super) fn posted_edge(mailbox: &VcpuMailbox) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, edge, _) in mailbox.take_posted() {
        words[word] = edge;
    }
    words
}

/// All that there is of Hyper-V, in the place of KVM's own leaves.
pub(super) fn leaves() -> Vec<CpuidEntry2> {
    supported(&HvInputs { has_lapic: true, shares_cores: true, max_vcpus: 1024 }).to_vec()
}

/// A vCPU that runs on Hyper-V, as `change` has its leaves.
pub(super) fn vcpu_with(direct: &Direct, id: u32, change: impl Fn(&mut CpuidEntry2)) -> Vcpu {
    let mut vcpu = direct.vcpu(id);
    let own = supported_cpuid(&direct.world, &direct.backend);
    let is_kvm = |e: &CpuidEntry2| (0x4000_0000..0x4000_0100).contains(&e.function);
    let mut entries: Vec<_> = own.into_iter().filter(|e| !is_kvm(e)).chain(leaves()).collect();
    entries.iter_mut().for_each(change);
    vcpu.core.set_cpuid(CpuidTable::from_entries(&entries).unwrap());
    vcpu
}

pub(super) fn hyperv(direct: &Direct, id: u32) -> Vcpu {
    vcpu_with(direct, id, |_| {})
}

/// What user space reads.
pub(super) fn get(vcpu: &mut Vcpu, index: u32) -> Option<u64> {
    msr::get(&vcpu.direct.vm, &vcpu.mailbox, &mut vcpu.core, index)
}

/// Writes as user space does.
pub(super) fn set(vcpu: &mut Vcpu, index: u32, value: u64) -> bool {
    msr::set(&vcpu.direct.vm, &vcpu.mailbox, &mut vcpu.core, index, value)
}

pub(super) fn guest_word(direct: &Direct, at: u64) -> u64 {
    direct.vm.machine.ram.read_obj(Gpa(at)).unwrap()
}

pub(super) fn put_words(direct: &Direct, at: u64, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    direct.world.process.write(Direct::hva(at), &bytes, true).unwrap();
}

/// Makes a hypercall in 32-bit mode. Returns its answer; `None`: #UD.
pub(super) fn call(vcpu: &mut Vcpu, control: u64, params: [u64; 2]) -> Option<u64> {
    let set = move |s: &mut VcpuState| {
        (s.gprs[RDX], s.gprs[RAX]) = (control >> 32, control & 0xffff_ffff);
        (s.gprs[RBX], s.gprs[RCX]) = (params[0] >> 32, params[0] & 0xffff_ffff);
        (s.gprs[RDI], s.gprs[RSI]) = (params[1] >> 32, params[1] & 0xffff_ffff);
    };
    let done = vcpu.exits(set, VmExit::VirtInsn(VirtInsn::Hypercall), VMMCALL);
    (!done.raised(6)).then(|| done.edx_eax())
}

#[test]
fn who_is_told_of_no_hyper_v_has_none() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);

    assert_eq!(vcpu.rdmsr(GUEST_OS_ID), None);
    assert!(!vcpu.wrmsr(GUEST_OS_ID, LINUX));
    assert_eq!(get(&mut vcpu, GUEST_OS_ID), Some(0), "user space saves and restores it all the same");
    assert!(set(&mut vcpu, GUEST_OS_ID, LINUX));
    let done = vcpu.exits(|s| s.gprs[RAX] = 77, VmExit::VirtInsn(VirtInsn::Hypercall), VMMCALL);
    assert_eq!(done.gprs[RAX], 0u64.wrapping_sub(1000), "and KVM's hypercalls stay KVM's");
}

#[test]
fn user_space_gets_back_what_it_sets() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    let kept = [GUEST_OS_ID, CRASH_P0, CRASH_P0 + 4, DEBUG_CONTROL, DEBUG_STATUS, DEBUG_OPTIONS, 0x4000_0106];

    for index in kept.into_iter().chain([TSC_EMULATION_CONTROL, TSC_EMULATION_STATUS]) {
        assert!(set(&mut vcpu, index, 0x1234_5678_9abc), "{index:#x}");
        assert_eq!(get(&mut vcpu, index), Some(0x1234_5678_9abc), "{index:#x}");
    }
    assert!(set(&mut vcpu, CRASH_CONTROL, u64::MAX));
    assert_eq!(get(&mut vcpu, CRASH_CONTROL), Some(1 << 63));
    assert!(!set(&mut vcpu, TSC_INVARIANT, 2));
    assert!(set(&mut vcpu, TSC_INVARIANT, 1) && set(&mut vcpu, TSC_INVARIANT, 0));
    assert!(!set(&mut vcpu, VP_INDEX, 1024));
    assert!(set(&mut vcpu, VP_INDEX, 1023));
    assert_eq!((get(&mut vcpu, VP_INDEX), vcpu.rdmsr(VP_INDEX)), (Some(1023), Some(1023)));
    for index in [RESET, TIME_REF_COUNT, TSC_FREQUENCY, APIC_FREQUENCY] {
        assert!(set(&mut vcpu, index, 77), "{index:#x} takes it and keeps nothing");
        assert_ne!(get(&mut vcpu, index), Some(77), "{index:#x}");
    }
    assert!(set(&mut vcpu, VP_RUNTIME, 5000));
    locked(&world.settings).run_time_ns += 1000;
    assert_eq!(get(&mut vcpu, VP_RUNTIME), Some(5010));
    assert!(!vcpu.wrmsr(VP_RUNTIME, 0), "which the guest cannot set");
    assert_eq!(get(&mut vcpu, 0x4000_0004), None);
}

/// A register of a leaf.
type LeafRegister = fn(&mut CpuidEntry2) -> &mut u32;

/// MSRs of which each privilege of leaf 3 allows some: the register, its bit, and those.
const PRIVILEGES: &[(LeafRegister, u32, &[u32])] = &[
    (eax, 0, &[VP_RUNTIME]),
    (eax, 1, &[TIME_REF_COUNT]),
    (eax, 4, &[TPR, ICR, ASSIST_PAGE]),
    (eax, 5, &[GUEST_OS_ID, HYPERCALL]),
    (eax, 6, &[VP_INDEX]),
    (eax, 7, &[RESET]),
    (eax, 9, &[REFERENCE_TSC]),
    (eax, 11, &[TSC_FREQUENCY, APIC_FREQUENCY]),
    (eax, 13, &[0x4000_0106, TSC_EMULATION_CONTROL, TSC_EMULATION_STATUS]),
    (eax, 15, &[TSC_INVARIANT]),
    (edx, 10, &[CRASH_P0, CRASH_CONTROL]),
    (edx, 11, &[DEBUG_CONTROL, DEBUG_OPTIONS]),
];

fn eax(e: &mut CpuidEntry2) -> &mut u32 {
    &mut e.eax
}

fn edx(e: &mut CpuidEntry2) -> &mut u32 {
    &mut e.edx
}

#[test]
fn what_cpuid_does_not_offer_is_refused_where_user_space_insists_on_that() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);

    for (n, (register, bit, msrs)) in PRIVILEGES.iter().enumerate() {
        let mut vcpu = vcpu_with(&direct, n as u32, |e| {
            if e.function == leaf::FEATURES {
                *register(e) &= !(1 << bit);
            }
        });
        for index in *msrs {
            assert!(vcpu.rdmsr(*index).is_some(), "{index:#x} without the insisting");
        }
        vcpu.core.hyperv.rights.is_enforced = true;
        for index in *msrs {
            assert_eq!(vcpu.rdmsr(*index), None, "{index:#x}");
            assert!(!vcpu.wrmsr(*index, 0), "{index:#x}");
            assert!(get(&mut vcpu, *index).is_some(), "{index:#x} is user space's all the same");
        }
        for (_, other, others) in PRIVILEGES.iter().filter(|(_, other, _)| other != bit) {
            assert!(vcpu.rdmsr(others[0]).is_some(), "{other} is not {bit}");
        }
    }
}

#[test]
fn rights_follow_the_cpuid_table() {
    let none = HvRights::default();
    let of = |list: &[CpuidEntry2]| none.with_cpuid(&CpuidTable::from_entries(list).unwrap());
    let mut list = leaves();

    assert!(!of(&[]).allows(HvMsr::GuestOsId));
    assert!(of(&list).allows(HvMsr::GuestOsId));
    let interface = list.iter_mut().find(|e| e.function == leaf::INTERFACE).unwrap();
    interface.eax ^= 1;
    assert!(!of(&list).allows(HvMsr::GuestOsId), "the name is another one's");
}

#[test]
fn the_hypercall_page_is_there_once_the_guest_has_a_name() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);

    assert!(vcpu.wrmsr(HYPERCALL, PAGE | 1), "which is ignored");
    assert_eq!(vcpu.rdmsr(HYPERCALL), Some(0));
    assert!(vcpu.wrmsr(GUEST_OS_ID, LINUX));
    assert!(!vcpu.wrmsr(HYPERCALL, 0xdead_b000 | 1), "there is no memory");
    assert!(vcpu.wrmsr(HYPERCALL, PAGE | 1));
    // The fake extension says that it is AMD's.
    assert_eq!(guest_word(&direct, PAGE) as u32, u32::from_le_bytes([0x0f, 0x01, 0xd9, 0xc3]));
    assert!(vcpu.wrmsr(GUEST_OS_ID, 0));
    assert_eq!(vcpu.rdmsr(HYPERCALL), Some(PAGE), "without a name it is off");
    assert_eq!(vcpu.rdmsr(GUEST_OS_ID), Some(0));
}

#[test]
fn a_page_that_is_not_resident_is_waited_for() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    assert!(vcpu.wrmsr(GUEST_OS_ID, LINUX));
    for (index, by_guest) in
        [(HYPERCALL, true), (HYPERCALL, false), (ASSIST_PAGE, true), (REFERENCE_TSC, true)]
    {
        assert!(world.evict(Direct::hva(PAGE), 4096));

        let done = if by_guest { vcpu.wrmsr(index, PAGE | 1) } else { set(&mut vcpu, index, PAGE | 1) };

        assert!(done, "{index:#x}");
        assert_eq!(vcpu.rdmsr(index), Some(PAGE | 1), "{index:#x}");
    }
}

#[test]
fn the_reference_time_is_the_same_by_msr_and_by_page() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    let page_time = |vcpu: &mut Vcpu| {
        let [scale, offset] = [8, 16].map(|o| guest_word(&vcpu.direct.clone(), PAGE + o));
        let tsc = vcpu.rdmsr(0x10).unwrap();
        ((u128::from(tsc) * u128::from(scale) >> 64) as u64).wrapping_add(offset)
    };
    let sequence = |vcpu: &Vcpu| guest_word(&vcpu.direct, PAGE) as u32;

    put_words(&direct, PAGE, &[0; 3]);
    let before = vcpu.rdmsr(TIME_REF_COUNT).unwrap();
    assert!(vcpu.wrmsr(REFERENCE_TSC, PAGE));
    assert_eq!(sequence(&vcpu), 0, "switched off it is not written");
    assert!(vcpu.wrmsr(REFERENCE_TSC, PAGE | 1));
    assert_eq!(sequence(&vcpu), 1);
    let by_page = page_time(&mut vcpu);
    let by_msr = vcpu.rdmsr(TIME_REF_COUNT).unwrap();
    // Each look moves the clock on.
    assert!(
        before < by_page && by_page <= by_msr && by_msr - by_page < 10_000,
        "{before} {by_page} {by_msr}"
    );

    direct.vm.machine.set_clock_ns(crate::host::timer::rdtsc(), 0);
    let after = vcpu.rdmsr(TIME_REF_COUNT).unwrap();
    assert!(after < 10_000 && sequence(&vcpu) == 2, "the clock was set: {after}");
    assert!(page_time(&mut vcpu) - after < 10_000);

    // The guest goes by the old frequency until it says otherwise.
    assert!(vcpu.wrmsr(TSC_EMULATION_CONTROL, 1));
    let old = [8, 16].map(|o| guest_word(&direct, PAGE + o));
    direct.vm.machine.set_clock_ns(crate::host::timer::rdtsc(), 1 << 50);
    let still = vcpu.rdmsr(TIME_REF_COUNT).unwrap();
    assert!(still < 20_000, "{still}");
    assert_eq!(old, [8, 16].map(|o| guest_word(&direct, PAGE + o)));
    assert_eq!(sequence(&vcpu), 2);

    assert!(vcpu.wrmsr(TSC_EMULATION_CONTROL, 0));
    assert!(vcpu.wrmsr(REFERENCE_TSC, 0));
    assert!(vcpu.rdmsr(TIME_REF_COUNT).unwrap() > 1 << 43, "by the clock again");
    assert_eq!(sequence(&vcpu), 2, "and the page is left alone");
}

#[test]
fn a_restored_page_stays_as_the_guest_knows_it() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    put_words(&direct, PAGE, &[7, 1 << 60, 12345]);

    assert!(set(&mut vcpu, TSC_EMULATION_CONTROL, 1));
    assert!(set(&mut vcpu, REFERENCE_TSC, PAGE | 1));
    vcpu.cpuid(0, 0);

    assert_eq!([0, 8, 16].map(|o| guest_word(&direct, PAGE + o)), [7, 1 << 60, 12345]);
    let tsc = vcpu.rdmsr(0x10).unwrap();
    let time = vcpu.rdmsr(TIME_REF_COUNT).unwrap();
    assert!(time >= (tsc >> 4) + 12345 && time - (tsc >> 4) < 100_000, "{time}");
    // Without that, it is written anew, and says so.
    assert!(set(&mut vcpu, TSC_EMULATION_CONTROL, 0));
    assert!(set(&mut vcpu, REFERENCE_TSC, PAGE | 1));
    vcpu.cpuid(0, 0);
    assert_eq!(guest_word(&direct, PAGE) as u32, 8);
    assert_ne!(guest_word(&direct, PAGE + 8), 1 << 60);
}

#[test]
fn without_a_trusted_tsc_or_memory_the_page_says_nothing() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);

    assert!(vcpu.wrmsr(REFERENCE_TSC, 0xdead_b000 | 1));
    assert!(vcpu.rdmsr(TIME_REF_COUNT).is_some());
    locked(&world.settings).is_tsc_stable = false;
    assert!(vcpu.wrmsr(REFERENCE_TSC, PAGE | 1));
    assert_eq!(guest_word(&direct, PAGE), 0);
    assert!(vcpu.rdmsr(TIME_REF_COUNT).is_some());
}

#[test]
fn frequencies_are_those_of_the_tsc_and_of_the_local_apics_clock() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);

    assert_eq!(vcpu.rdmsr(TSC_FREQUENCY), Some(2_000_000_000));
    assert_eq!(vcpu.rdmsr(APIC_FREQUENCY), Some(1_000_000_000));
    for index in [TSC_FREQUENCY, APIC_FREQUENCY, TIME_REF_COUNT, VP_INDEX] {
        assert!(!vcpu.wrmsr(index, 1), "{index:#x}");
    }
}

#[test]
fn the_local_apic_is_reached_in_either_mode() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let (mut vcpu, other) = (hyperv(&direct, 0), direct.vcpu(1));
    for is_x2apic in [false, true] {
        if is_x2apic {
            assert!(vcpu.wrmsr(0x1b, 0xfee0_0d00));
        }
        assert!(vcpu.wrmsr(TPR, 0x30));
        assert_eq!(vcpu.rdmsr(TPR), Some(0x30));
        assert!(!vcpu.wrmsr(TPR, 1 << 32));
        assert!(vcpu.wrmsr(TPR, 0));
        assert_eq!(vcpu.rdmsr(EOI), None);
        assert!(!vcpu.wrmsr(ICR, 1 << 20), "a reserved bit");
        let dest = if is_x2apic { 1 << 32 } else { 1 << 56 };

        assert!(vcpu.wrmsr(ICR, dest | 0x4055));

        assert_eq!(vcpu.rdmsr(ICR), Some(dest | 0x4055));
        assert_eq!(posted_edge(&other.mailbox)[1], 1 << (0x55 - 64));
        let lapic = vcpu.core.lapic.as_mut().unwrap();
        lapic.accept(0x61, false);
        lapic.accept_pending(0x61);
        assert!(vcpu.wrmsr(EOI, 1), "any value ends it");
        assert_eq!(vcpu.core.lapic.as_ref().unwrap().ppr(), 0);
    }
}

#[test]
fn interrupts_end_in_the_assist_page() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    put_words(&direct, PAGE, &[u64::MAX; 2]);

    assert!(!vcpu.wrmsr(ASSIST_PAGE, 0xdead_b000 | 1));
    assert!(vcpu.wrmsr(ASSIST_PAGE, PAGE | 1));

    assert_eq!(guest_word(&direct, PAGE), u64::MAX << 32, "the rest is the guest's");
    assert_eq!(vcpu.core.pv.eoi, PAGE | 1);
    assert!(vcpu.wrmsr(ASSIST_PAGE, 0));
    assert_eq!(vcpu.core.pv.eoi, 0);
}

#[test]
fn the_guest_resets_the_machine_and_tells_of_its_crash() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    let write = |vcpu: &mut Vcpu, index: u32, value: u64| {
        let set = move |s: &mut VcpuState| {
            s.gprs[RCX] = index.into();
            s.set_edx_eax(value);
        };
        let exit = VmExit::Msr(crate::vcpu::exit::MsrAccess::Write);
        vcpu.exits(set, exit, &[0x0f, 0x30]).user
    };

    assert_eq!(write(&mut vcpu, RESET, 2), []);
    assert_eq!(write(&mut vcpu, RESET, 1), [UserExit::SystemEvent(PlatformEvent::Reset)]);
    assert!(vcpu.wrmsr(CRASH_P0 + 1, 0xbad));
    assert_eq!(write(&mut vcpu, CRASH_CONTROL, 1), []);
    assert_eq!(write(&mut vcpu, CRASH_CONTROL, 1 << 63), [UserExit::SystemEvent(PlatformEvent::Crash)]);
    assert_eq!((get(&mut vcpu, CRASH_P0 + 1), get(&mut vcpu, CRASH_CONTROL)), (Some(0xbad), Some(0)));
    assert!(!vcpu.wrmsr(TSC_EMULATION_STATUS, 1) && vcpu.wrmsr(TSC_EMULATION_STATUS, 0));
}

#[test]
fn the_invariant_tsc_is_shown_once_the_guest_asks_for_it() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let shows = |e: &mut CpuidEntry2| {
        if e.function == 0x8000_0007 {
            e.edx |= 1 << 8;
        }
    };
    let (mut vcpu, mut other) = (vcpu_with(&direct, 0, shows), vcpu_with(&direct, 1, shows));
    let is_shown = |vcpu: &mut Vcpu| vcpu.cpuid(0x8000_0007, 0)[3] >> 8 & 1 == 1;

    assert!(!is_shown(&mut vcpu) && !is_shown(&mut other));
    assert!(!vcpu.wrmsr(TSC_INVARIANT, 3));
    assert!(vcpu.wrmsr(TSC_INVARIANT, 1));

    assert!(is_shown(&mut vcpu) && is_shown(&mut other));
    assert!(!vcpu.wrmsr(TSC_INVARIANT, 0), "that stays");
}

#[test]
fn user_space_plays_the_debugger() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    for n in 0..3 {
        assert!(set(&mut vcpu, 0x4000_00f3 + n, 0x100 + u64::from(n)));
    }
    let done = vcpu.exits(
        |s| {
            s.gprs[RCX] = DEBUG_CONTROL.into();
            s.set_edx_eax(5);
        },
        VmExit::Msr(crate::vcpu::exit::MsrAccess::Write),
        &[0x0f, 0x30],
    );
    assert!(
        matches!(
            done.user[..],
            [UserExit::HyperV(HvExit::Debugger { control: 5, pages: [0x100, 0x101, 0x102], .. })]
        ),
        "{done:?}"
    );
    assert!(done.rip != CODE, "the instruction is done");

    let mut blind = vcpu_with(&direct, 1, |e| {
        if e.function == leaf::DEBUGGER {
            e.eax = 0;
        }
    });
    assert_eq!(blind.rdmsr(DEBUG_OPTIONS), None);
    assert!(!blind.wrmsr(DEBUG_OPTIONS, 0));
    assert!(blind.wrmsr(GUEST_OS_ID, LINUX));
    assert_eq!(call(&mut blind, code::RESET_DEBUG_SESSION.into(), [0; 2]), Some(INVALID_CODE));
    assert_eq!(call(&mut vcpu, code::RESET_DEBUG_SESSION.into(), [0; 2]), Some(OPERATION_DENIED));
    assert_eq!(
        call(&mut vcpu, u64::from(code::POST_DEBUG_DATA) | code::FAST, [0; 2]),
        Some(INVALID_PARAMETER)
    );
}

#[test]
fn the_leaves_are_given_where_there_is_room_for_all() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    let vcpu = vm.vcpu(0);

    for fd in [None, Some(vcpu.fd)] {
        let ask = |nent| {
            let list = vm.put(&sys::Cpuid2 { nent, padding: 0 });
            let done = match fd {
                None => vm.node(nr::GET_SUPPORTED_HV_CPUID, list),
                Some(fd) => vm.on(fd, nr::GET_SUPPORTED_HV_CPUID, list),
            };
            done.map(|_| vm.get::<sys::Cpuid2>(list).nent)
        };
        assert_eq!(ask(9), Err(E2BIG));
        assert_eq!(ask(10), Ok(10));
        assert_eq!(ask(200), Ok(10));
    }
    assert!(leaves().iter().all(|e| (0x4000_0000..=0x4000_0082).contains(&e.function)));
}
