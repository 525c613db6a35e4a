// SPDX-License-Identifier: GPL-2.0

//! The whole surface of MSRs and of CPUID, through the handlers: in the inner loop, in the run loop and by user space.

use super::{world, Random};
use crate::arch::addr::is_canonical;
use crate::fake::abi::supported_cpuid;
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::Steps;
use crate::vcpu::access::msr;
use crate::vcpu::cpuid::CpuidTable;
use crate::vcpu::msr_table::{lookup, HandledMsr, MsrPolicy, StateMsr, INDEX_LIST};
use crate::vcpu::record::VcpuRecord;

/// All MSRs of the table, and those around them and around others that processors have.
fn indexes() -> Vec<u32> {
    let ranges = [
        0x0..0x40,
        0x48..0x50,
        0x8b..0x8c,
        0xc0..0xd0,
        0x10a..0x10d,
        0x119..0x120,
        0x140..0x141,
        0x170..0x1b0,
        0x1d0..0x1e0,
        0x200..0x280,
        0x2ff..0x301,
        0x345..0x346,
        0x400..0x460,
        0x480..0x492,
        0x600..0x620,
        0x6e0..0x6e2,
        0x770..0x772,
        0x7ff..0x840,
        0xd90..0xdb0,
        0x4b56_4d00..0x4b56_4d09,
        0x11..0x13,
        0xc000_0080..0xc000_0085,
        0xc000_0100..0xc000_0110,
        0xc001_0000..0xc001_0020,
        0xc001_0030..0xc001_0036,
        0xc001_0055..0xc001_0056,
        0xc001_0110..0xc001_0120,
        0xc001_0140..0xc001_0142,
        0xc001_011f..0xc001_0120,
        0xc001_1000..0xc001_1030,
        0xffff_fffe..0xffff_ffff,
    ];
    let mut all: Vec<u32> = ranges.into_iter().flatten().chain(INDEX_LIST.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Values that MSRs take or not.
const VALUES: [u64; 12] = [
    0,
    1,
    2,
    6,
    0x0007_0406_0007_0406,
    0x0606_0606_0606_0606,
    0xfee0_0900,
    0xffff_ffff,
    1 << 32,
    0x7fff_ffff_f000,
    1 << 47,
    u64::MAX,
];

/// A machine of one vCPU; `timed`: exits are, and so handled by the run loop.
fn machine(direct: &Direct, timed: bool) -> Vcpu {
    let mut vcpu = direct.vcpu(0);
    if timed {
        vcpu.record = VcpuRecord::new(0, 42, true).unwrap();
    }
    let entries = supported_cpuid(&direct.world, &direct.backend);
    vcpu.core.set_cpuid(CpuidTable::from_entries(&entries).unwrap());
    vcpu
}

/// Returns whether what the MSR gives depends on when it is asked.
fn is_clock(index: u32) -> bool {
    let policy = lookup(index);
    matches!(policy, Some(MsrPolicy::Handled(HandledMsr::Tsc | HandledMsr::TscDeadline)))
        || matches!(policy, Some(MsrPolicy::Handled(HandledMsr::X2Apic(0x39))))
}

#[test]
fn what_the_table_does_not_have_faults_and_nothing_else_does() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = machine(&direct, false);

    for index in indexes() {
        let read = vcpu.rdmsr(index);
        match lookup(index) {
            None => {
                assert_eq!(read, None, "{index:#x}");
                for value in VALUES {
                    assert!(!vcpu.wrmsr(index, value), "{index:#x}");
                }
            }
            // No x2APIC mode yet; a command; no Hyper-V; the rest depends on what CPUID offers.
            Some(MsrPolicy::Handled(HandledMsr::X2Apic(_) | HandledMsr::PredCmd | HandledMsr::HyperV(_))) => {
                assert_eq!(read, None, "{index:#x}")
            }
            Some(_) => assert_eq!(
                read.is_some(),
                msr::get(&direct.vm, &vcpu.mailbox, &mut vcpu.core, index).is_some()
            ),
        }
    }
}

#[test]
fn the_guest_and_user_space_see_the_same_values() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = machine(&direct, false);

    for index in indexes().into_iter().filter(|i| !is_clock(*i)) {
        let guest = vcpu.rdmsr(index);
        if guest.is_some() {
            assert_eq!(msr::get(&direct.vm, &vcpu.mailbox, &mut vcpu.core, index), guest, "{index:#x}");
        }
    }
}

#[test]
fn the_inner_loop_and_the_run_loop_do_the_same() {
    let (world, _in) = world();
    let (one, other) = (Direct::new(&world, 16), Direct::new(&world, 16));
    let (mut quick, mut slow) = (machine(&one, false), machine(&other, true));
    let mut random = Random::new(7);

    for index in indexes() {
        for value in VALUES.into_iter().chain([random.next() << 32 | random.next()]) {
            let (a, b) = (quick.wrmsr(index, value), slow.wrmsr(index, value));
            assert_eq!(a, b, "WRMSR {index:#x} {value:#x}");
            let (a, b) = (quick.rdmsr(index), slow.rdmsr(index));
            assert_eq!(a.is_some(), b.is_some(), "RDMSR {index:#x}");
            if !is_clock(index) {
                assert_eq!(a, b, "RDMSR {index:#x} after {value:#x}");
            }
        }
    }
}

#[test]
fn a_guest_may_write_what_user_space_may_but_for_what_is_read_only() {
    let (world, _in) = world();
    let (one, other) = (Direct::new(&world, 16), Direct::new(&world, 16));
    let (mut guest, mut user) = (machine(&one, false), machine(&other, false));

    for index in indexes().into_iter().filter(|i| !is_clock(*i)) {
        let Some(policy) = lookup(index) else { continue };
        for value in VALUES {
            let set = msr::set(&other.vm, &user.mailbox, &mut user.core, index, value);
            // Two bits of MISC_ENABLE are not the guest's to change.
            let moves_fixed = index == 0x1a0 && (guest.core.msrs.get(index) ^ value) & 0x1800 != 0;
            let written = guest.wrmsr(index, value);
            match policy {
                // User space may write the value that there is.
                MsrPolicy::ReadOnly(v) => {
                    assert_eq!((written, set), (false, v == value), "{index:#x} {value:#x}")
                }
                MsrPolicy::Handled(HandledMsr::McgCap) => assert!(!written),
                MsrPolicy::Handled(HandledMsr::HyperV(_)) => assert!(!written, "there is no Hyper-V for it"),
                MsrPolicy::Handled(HandledMsr::PredCmd) => {
                    assert_eq!((written, set), (value & !1 == 0, false))
                }
                MsrPolicy::Handled(HandledMsr::X2Apic(_)) => assert!(!set, "by KVM_SET_LAPIC"),
                MsrPolicy::HostSet { drops, .. } => assert_eq!((written, set), (drops, true), "{index:#x}"),
                MsrPolicy::Handled(HandledMsr::MiscEnable) if moves_fixed => {
                    assert_eq!((written, set), (false, true), "{value:#x}");
                    assert!(msr::set(&one.vm, &guest.mailbox, &mut guest.core, index, value));
                }
                // From any mode to any other; the guest, as a processor lets it.
                MsrPolicy::Handled(HandledMsr::ApicBase) => continue,
                _ => {
                    assert_eq!(written, set, "{index:#x} {value:#x}");
                    assert_eq!(guest.rdmsr(index), user.rdmsr(index), "{index:#x} after {value:#x}");
                }
            }
        }
    }
}

#[test]
fn state_msrs_take_what_their_registers_take() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = machine(&direct, false);

    for index in indexes() {
        let Some(MsrPolicy::State(which)) = lookup(index) else { continue };
        for value in VALUES {
            let before = vcpu.rdmsr(index);
            // What AMD's processors have no place for is dropped.
            let kept = which.kept(value, vcpu.core.cpuid.vendor());
            let taken = vcpu.wrmsr(index, value);
            let expected = match which {
                // Without LME the guest has no use for the others here.
                StateMsr::Efer => value & !0xd01 == 0,
                StateMsr::Star | StateMsr::SysenterCs => true,
                StateMsr::Sfmask => value >> 32 == 0,
                StateMsr::Pat => value.to_le_bytes().iter().all(|b| [0, 1, 4, 5, 6, 7].contains(b)),
                _ => is_canonical(kept, 48),
            };
            assert_eq!(taken, expected, "{which:?} {value:#x}");
            assert_eq!(vcpu.rdmsr(index), if taken { Some(kept) } else { before }, "{which:?} {value:#x}");
        }
    }
}

#[test]
fn x2apic_registers_are_msrs_in_that_mode_only() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = machine(&direct, false);
    assert_eq!(vcpu.rdmsr(0x1b), Some(0xfee0_0900));
    assert!(!vcpu.wrmsr(0x1b, 1 << 52), "reserved bits");

    assert!(vcpu.wrmsr(0x1b, 0xfee0_0d00));

    assert_eq!(vcpu.rdmsr(0x802), Some(0), "the id");
    assert!(!vcpu.wrmsr(0x802, 1), "which cannot be written");
    assert!(vcpu.wrmsr(0x808, 0x20));
    assert_eq!(vcpu.rdmsr(0x808), Some(0x20));
    assert!(!vcpu.wrmsr(0x808, 0x100));
    assert!(vcpu.wrmsr(0x80b, 0), "an end of interrupt");
    assert!(!vcpu.wrmsr(0x80b, 1));
    assert_eq!(vcpu.load(0xfee0_0020, crate::arch::addr::AccessWidth::B4), 0, "the page is user space's now");
    assert!(!vcpu.wrmsr(0x1b, 0xfee0_0900), "not back from there");
}

#[test]
fn a_self_ipi_comes_back() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = machine(&direct, false);
    assert!(vcpu.wrmsr(0x1b, 0xfee0_0d00));
    vcpu.core.state.rflags |= 0x200;

    assert!(vcpu.wrmsr(0x83f, 0x61));
    vcpu.cpuid(0, 0);

    let irq = crate::vcpu::event::GuestEvent::Interrupt(0x61);
    assert_eq!(vcpu.guest.take_delivered().iter().filter(|e| **e == irq).count(), 0, "taken by the steps");
    assert_eq!(vcpu.core.lapic.as_ref().unwrap().highest_irr(), None);
}

#[test]
fn the_deadline_timer_wakes_a_halted_vcpu_on_time() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = machine(&direct, false);
    vcpu.store(0xfee0_0320, crate::arch::addr::AccessWidth::B4, 1 << 18 | 0x62);
    let now = vcpu.rdmsr(0x10).unwrap();
    let deadline = now + 3_000_000;

    assert!(vcpu.wrmsr(0x6e0, deadline));
    let halted = vcpu.exits(|s| s.rflags |= 0x200, crate::vcpu::exit::VmExit::Hlt, &[0xf4]);

    assert_eq!(halted.events, [crate::vcpu::event::GuestEvent::Interrupt(0x62)]);
    assert!(vcpu.core.guest_tsc() >= deadline);
    assert_eq!(vcpu.rdmsr(0x6e0), Some(0));
}

#[test]
fn cpuid_is_what_the_table_says_in_both_loops() {
    let (world, _in) = world();
    let (one, other) = (Direct::new(&world, 16), Direct::new(&world, 16));
    let (mut quick, mut slow) = (machine(&one, false), machine(&other, true));
    let leaves = (0..0x22).chain(0x4000_0000..0x4000_0012).chain(0x8000_0000..0x8000_0024).chain([u32::MAX]);

    for leaf in leaves {
        for subleaf in [0, 1, 2, 3, 9, 63, u32::MAX] {
            // Twice: the second answer is remembered.
            let (a, b) = (quick.cpuid(leaf, subleaf), slow.cpuid(leaf, subleaf));
            assert_eq!((a, b), (quick.cpuid(leaf, subleaf), slow.cpuid(leaf, subleaf)));
            assert_eq!(a, b, "{leaf:#x} {subleaf:#x}");
            let cr4 = quick.core.state.cr4;
            let said = quick.core.cpuid.query(leaf, subleaf, cr4, 1);
            assert_eq!(a, [said.eax, said.ebx, said.ecx, said.edx], "{leaf:#x} {subleaf:#x}");
        }
    }
}

#[test]
fn osxsave_in_cpuid_follows_cr4_and_its_sizes_follow_xcr0() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = machine(&direct, false);
    assert_eq!(vcpu.cpuid(1, 0)[2] >> 27 & 1, 0);
    let small = vcpu.cpuid(0xd, 0)[1];
    let xsetbv = |vcpu: &mut Vcpu, value: u64, index: u64| {
        let set = move |s: &mut crate::vcpu::state::VcpuState| {
            s.gprs[1] = index;
            s.set_edx_eax(value);
        };
        vcpu.exits(set, crate::vcpu::exit::VmExit::Xsetbv, &[0x0f, 0x01, 0xd1])
    };
    assert!(xsetbv(&mut vcpu, 7, 0).raised(6), "#UD without CR4.OSXSAVE");

    vcpu.core.fetch(crate::vcpu::state::StateGroups::CONTROL);
    let mut control = vcpu.core.state.control();
    control.cr4 |= 1 << 18;
    vcpu.core.state.set_control(&control);

    assert_eq!(vcpu.cpuid(1, 0)[2] >> 27 & 1, 1);
    assert!(xsetbv(&mut vcpu, 6, 0).raised(13), "x87 stays on");
    assert!(xsetbv(&mut vcpu, 7, 1).raised(13), "no other register");
    assert!(xsetbv(&mut vcpu, 7, 0).events.is_empty());
    assert!(vcpu.cpuid(0xd, 0)[1] >= small);
    assert_eq!(vcpu.fpu.xcr0().bits(), 7);
}
