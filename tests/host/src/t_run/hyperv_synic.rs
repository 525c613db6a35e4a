// SPDX-License-Identifier: GPL-2.0

//! Hyper-V's synthetic interrupt controller and its timers, through the run loop.

use super::hyperv::{call, get, guest_word, hyperv, leaves, put_words, set, GUEST_OS_ID, LINUX, PAGE};
use super::world;
use crate::abi::{caps, nr, vm as abi_vm};
use crate::arch::addr::AccessWidth::B4;
use crate::arch::hyperv::{hypercall as code, SynicMsr};
use crate::fake::abi::AbiVm;
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::{Stepped, Steps};
use crate::machine::reference_timer::ReferenceTimer;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{MsrAccess, VirtInsn, VmExit};
use crate::vcpu::hyperv::timer::{SynTimer, TimerAction};
use crate::vcpu::hyperv::HvExit;
use crate::vcpu::outcome::UserExit;
use crate::vcpu::state::{VcpuState, RAX, RCX, RDX};
use kernel::prelude::*;
use proptest::prelude::*;

const TIME_REF_COUNT: u32 = 0x4000_0020;
const EOI: u32 = 0x4000_0070;
const SCONTROL: u32 = 0x4000_0080;
const SVERSION: u32 = 0x4000_0081;
const SIEFP: u32 = 0x4000_0082;
const SIMP: u32 = 0x4000_0083;
const EOM: u32 = 0x4000_0084;
const SINT2: u32 = 0x4000_0092;
const CONFIG: u32 = 0x4000_00b0;
const COUNT: u32 = 0x4000_00b1;

const MASKED: u64 = 1 << 16;
const AUTO_EOI: u64 = 1 << 17;
/// A timer's CONFIG: it runs; again and again; a message to source 2; vector 0x61.
const RUNS: u64 = 1;
const PERIODIC: u64 = 1 << 1;
const TO_2: u64 = 2 << 16;
const DIRECT: u64 = 1 << 12 | 0x61 << 4;
/// The slot of source 2, and what is there for a timer.
const SLOT: u64 = PAGE + 512;
const TIMER_MESSAGE: u64 = 24 << 32 | 0x8000_0010;

/// A vCPU with the controller. User space has given it a message page and its source 2.
fn with_synic(direct: &Direct, source: u64) -> Vcpu {
    synic_of(hyperv(direct, 0), source)
}

fn synic_of(mut vcpu: Vcpu, source: u64) -> Vcpu {
    vcpu.core.hyperv.wake_up = Some(ReferenceTimer::new(vcpu.mailbox.clone()).unwrap());
    vcpu.core.hyperv.synic.activate(true);
    put_words(&vcpu.direct, PAGE, &[0; 512]);
    for (index, value) in [(SIMP, PAGE | 1), (SINT2, source)] {
        assert!(set(&mut vcpu, index, value), "{index:#x}");
    }
    vcpu
}

/// Lets the guest run for an instruction, with interrupts on. Returns what it was interrupted by.
fn interrupts(vcpu: &mut Vcpu) -> Vec<GuestEvent> {
    vcpu.core.state.rflags |= 0x200;
    let set = |s: &mut VcpuState| {
        (s.gprs[RAX], s.gprs[RCX]) = (0, 0);
        s.rflags |= 0x200;
    };
    vcpu.exits(set, VmExit::Cpuid, &[0x0f, 0xa2]).events
}

/// WRMSR of the guest's.
fn write(vcpu: &mut Vcpu, index: u32, value: u64) -> Stepped<UserExit> {
    let set = move |s: &mut VcpuState| {
        (s.gprs[RCX], s.gprs[RDX], s.gprs[RAX]) = (index.into(), value >> 32, value & 0xffff_ffff);
    };
    vcpu.exits(set, VmExit::Msr(MsrAccess::Write), &[0x0f, 0x30])
}

#[test]
fn there_is_no_controller_before_user_space_asks_for_one() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    for index in [SCONTROL, SVERSION, SIEFP, SIMP, EOM, SINT2, CONFIG, COUNT] {
        assert!(!vcpu.wrmsr(index, 1), "{index:#x}");
        assert!(set(&mut vcpu, index, 0), "{index:#x}");
        assert!(!set(&mut vcpu, index, 1), "{index:#x}");
    }
    assert_eq!(vcpu.rdmsr(SIMP), None);
    assert_eq!((get(&mut vcpu, SIMP), get(&mut vcpu, SINT2)), (Some(0), Some(MASKED)));
    assert!(vcpu.wrmsr(GUEST_OS_ID, LINUX));
    assert_eq!(call(&mut vcpu, code::POST_MESSAGE.into(), [PAGE, 0]), Some(3));
}

#[test]
fn registers_keep_what_they_are_given() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = with_synic(&direct, MASKED);
    assert_eq!((vcpu.rdmsr(SCONTROL), vcpu.rdmsr(SVERSION), vcpu.rdmsr(EOM)), (Some(1), Some(1), Some(0)));
    assert!(!vcpu.wrmsr(SVERSION, 1));
    assert!(!vcpu.wrmsr(SINT2, 15), "no such vector");
    assert!(set(&mut vcpu, SINT2, 15), "user space puts back what there was");
    assert!(vcpu.wrmsr(SINT2, 15 | MASKED));
    assert!(vcpu.wrmsr(SINT2, 0x33 | AUTO_EOI));
    assert_eq!(get(&mut vcpu, SINT2), Some(0x33 | AUTO_EOI));

    for (index, value, register) in [
        (SCONTROL, 0, SynicMsr::Control),
        (SIEFP, 0x6001, SynicMsr::EventPage),
        (SIMP, 0x5001, SynicMsr::MessagePage),
    ] {
        let told = write(&mut vcpu, index, value).user;
        let [UserExit::HyperV(HvExit::Synic { register: which, control: 0, message_page: 0x5001, .. })] =
            told[..]
        else {
            panic!("{index:#x}: {told:?}")
        };
        assert_eq!(which, register);
        assert_eq!(get(&mut vcpu, index), Some(value));
    }
    assert_eq!(write(&mut vcpu, EOM, 0).user, []);
}

#[test]
fn the_guests_pages_are_cleared_unless_user_space_keeps_them() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    for keeps in [true, false] {
        let mut vcpu = synic_of(hyperv(&direct, keeps.into()), MASKED);
        vcpu.core.hyperv.synic.activate(keeps);
        for index in [SIEFP, SIMP] {
            put_words(&direct, PAGE, &[7; 512]);
            assert!(set(&mut vcpu, index, PAGE | 1));
            assert_eq!(guest_word(&direct, PAGE + 4088), 7, "user space's write clears nothing");
            write(&mut vcpu, index, PAGE);
            assert_eq!(guest_word(&direct, PAGE + 4088), 7, "switched off");
            write(&mut vcpu, index, PAGE | 1);
            assert_eq!(guest_word(&direct, PAGE + 4088), if keeps { 7 } else { 0 }, "{index:#x}");
        }
    }
}

#[test]
fn a_timer_sends_its_message_once_its_time_has_come() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = with_synic(&direct, 0x40);
    let at = vcpu.rdmsr(TIME_REF_COUNT).unwrap() + 20_000;
    assert!(vcpu.wrmsr(COUNT, at));
    assert!(vcpu.wrmsr(CONFIG, RUNS | TO_2));
    assert_eq!(interrupts(&mut vcpu), []);
    assert_eq!(guest_word(&direct, SLOT), 0);

    world.advance(3_000_000);

    assert_eq!(interrupts(&mut vcpu), [GuestEvent::Interrupt(0x40)]);
    assert_eq!((guest_word(&direct, SLOT), guest_word(&direct, SLOT + 16)), (TIMER_MESSAGE, 0));
    let [expired, sent] = [24, 32].map(|o| guest_word(&direct, SLOT + o));
    assert!(expired == at && sent >= at && sent < at + 20_000, "{at} {expired} {sent}");
    assert_eq!(vcpu.rdmsr(CONFIG), Some(TO_2), "it is off");
}

#[test]
fn a_period_is_that_of_a_local_apic_at_least() {
    let mut timer = SynTimer::default();
    // Enabled, periodic, direct.
    timer.set_config(0x1ff3);
    timer.set_count(1, false);

    timer.serve(100, |_| Ok(true)).unwrap();

    assert_eq!(timer.deadline(), Some(2_100));
}

#[test]
fn a_periodic_timer_goes_on() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = with_synic(&direct, 0x40);
    assert!(vcpu.wrmsr(CONFIG, RUNS | PERIODIC | TO_2));
    assert_eq!(interrupts(&mut vcpu), [], "without a period it does not run");
    assert!(vcpu.wrmsr(COUNT, 10_000));
    let mut last = 0;
    for turn in 0..4 {
        world.advance(if turn == 2 { 9_500_000 } else { 1_000_000 });
        assert_eq!(interrupts(&mut vcpu), [GuestEvent::Interrupt(0x40)], "{turn}");
        let expired = guest_word(&direct, SLOT + 24);
        assert!(expired >= last + 10_000 || last == 0, "{turn}: {last} {expired}");
        last = expired;
        put_words(&direct, SLOT, &[0]);
        assert!(vcpu.wrmsr(EOI, 0));
        assert_eq!(interrupts(&mut vcpu), [], "those that were missed do not follow");
    }
    // A slot that is full: its message is lost, and the slot says nothing of it.
    put_words(&direct, SLOT, &[1]);
    world.advance(1_000_000);
    assert_eq!(interrupts(&mut vcpu), []);
    assert_eq!(guest_word(&direct, SLOT), 1);
    assert!(vcpu.wrmsr(COUNT, 0));
    assert_eq!(vcpu.rdmsr(CONFIG), Some(PERIODIC | TO_2), "no period: off");
}

#[test]
fn a_message_that_finds_its_slot_full_comes_when_the_guest_has_taken_the_first() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = with_synic(&direct, 0x40);
    for by_eoi in [false, true] {
        if by_eoi {
            let lapic = vcpu.core.lapic.as_mut().unwrap();
            lapic.accept(0x55, false);
            lapic.accept_pending(0x55);
        }
        put_words(&direct, SLOT, &[1]);
        assert!(vcpu.wrmsr(COUNT, 1));
        assert!(vcpu.wrmsr(CONFIG, RUNS | TO_2));
        assert_eq!(interrupts(&mut vcpu), []);
        assert_eq!(guest_word(&direct, SLOT), 1 | 1 << 40, "there is another one, the slot says");
        assert!(direct.vm.machine.interrupts.with(|bus, _, _| bus.awaits_edge_eoi()));
        assert_eq!(vcpu.rdmsr(CONFIG), Some(RUNS | TO_2));
        put_words(&direct, SLOT, &[0]);
        assert_eq!(interrupts(&mut vcpu), []);

        let done = write(&mut vcpu, if by_eoi { EOI } else { EOM }, 0);

        assert_eq!(guest_word(&direct, SLOT), TIMER_MESSAGE);
        assert_eq!(done.events, [GuestEvent::Interrupt(0x40)], "{by_eoi}");
        assert!(!direct.vm.machine.interrupts.with(|bus, _, _| bus.awaits_edge_eoi()));
        assert_eq!(vcpu.rdmsr(CONFIG), Some(TO_2));
        assert!(vcpu.wrmsr(EOI, 0));
    }
}

#[test]
fn a_timer_can_raise_a_vector_instead() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = with_synic(&direct, MASKED);
    // COUNT starts it.
    assert!(vcpu.wrmsr(CONFIG, DIRECT | 1 << 3));
    assert!(vcpu.wrmsr(COUNT, 1));
    assert_eq!(interrupts(&mut vcpu), [GuestEvent::Interrupt(0x61)], "its time has passed");
    assert_eq!(vcpu.rdmsr(CONFIG), Some(DIRECT | 1 << 3));
    // User space's write starts nothing.
    assert!(vcpu.wrmsr(EOI, 0));
    assert!(set(&mut vcpu, COUNT, 1));
    assert_eq!(interrupts(&mut vcpu), []);
    // Source 0 is for nobody's messages.
    let done = write(&mut vcpu, CONFIG, RUNS | DIRECT);
    assert_eq!(done.events, [GuestEvent::Interrupt(0x61)]);
    assert!(vcpu.wrmsr(COUNT, 1 << 40));
    assert!(vcpu.wrmsr(CONFIG, RUNS | DIRECT));
    assert!(vcpu.wrmsr(CONFIG, RUNS));
    assert_eq!(vcpu.rdmsr(CONFIG), Some(0));
}

#[test]
fn an_interrupt_that_ends_by_itself_is_not_in_service() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    for (id, source, in_service) in [
        (0, 0x61, 0x60),
        (1, 0x61 | AUTO_EOI, 0),
        (2, 0x62 | AUTO_EOI, 0x60),
        (3, 0x61 | AUTO_EOI | MASKED, 0x60),
    ] {
        let mut vcpu = synic_of(hyperv(&direct, id), source);
        assert!(vcpu.wrmsr(COUNT, 1));
        assert!(vcpu.wrmsr(CONFIG, RUNS | DIRECT));
        assert_eq!(interrupts(&mut vcpu), [GuestEvent::Interrupt(0x61)], "{source:#x}");
        assert_eq!(vcpu.core.lapic.as_ref().unwrap().ppr() & 0xf0, in_service, "{source:#x}");
    }
}

#[test]
fn a_message_of_the_guests_is_user_spaces() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    for (id, number) in [(0, code::POST_MESSAGE), (1, code::SIGNAL_EVENT)] {
        let mut vcpu = synic_of(hyperv(&direct, id), MASKED);
        assert!(vcpu.wrmsr(GUEST_OS_ID, LINUX));
        put_words(&direct, PAGE, &[77]);
        let set = move |s: &mut VcpuState| {
            (s.gprs[RDX], s.gprs[RAX]) = (0, number.into());
            (s.gprs[3], s.gprs[RCX]) = (0, PAGE);
        };
        let done = vcpu.exits(set, VmExit::VirtInsn(VirtInsn::Hypercall), &[0x0f, 0x01, 0xd9]);
        // Nobody answers, so the call is made again and again.
        let Some(UserExit::HyperV(HvExit::Call { control, params: [PAGE, _] })) = done.user.first() else {
            panic!("{done:?}")
        };
        assert_eq!(*control, u64::from(number));
    }
}

/// By ioctls, of a machine with chips.
#[test]
fn a_gsi_raises_a_source() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    let mut vcpu = vm.vcpu(0);
    vm.give_leaves(&vcpu, &leaves());
    vcpu.store(0xfee0_00f0, B4, 0x1ff);
    let enable = |cap, arg: u64| {
        let mut a = [0u64; 13];
        (a[0], a[1]) = (u64::from(cap), arg);
        vm.give_to(vcpu.fd, nr::ENABLE_CAP, &a).map(drop)
    };
    assert_eq!(enable(caps::HYPERV_SYNIC2, 1), Err(EINVAL));
    assert_eq!(enable(caps::HYPERV_SYNIC2, 0), Ok(()));
    assert_eq!(enable(caps::HYPERV_SYNIC, 0), Ok(()));
    let msr = |index: u32, data: u64| {
        let list = [1u64, index.into(), data];
        assert_eq!(vm.give_to(vcpu.fd, nr::SET_MSRS, &list), Ok(1), "{index:#x}");
    };
    let route = |vp: u32, sint: u32| {
        let mut table = [0u32; 2 + 12];
        (table[0], table[2], table[3]) = (1, 30, 4);
        (table[6], table[7]) = (vp, sint);
        vm.give(nr::SET_GSI_ROUTING, &table).unwrap();
        let mut line = abi_vm::IrqLevel { irq: 30, level: 1 };
        line = vm.exchange(vm.fd, nr::IRQ_LINE_STATUS, &line).unwrap();
        line.irq as i32
    };
    assert_eq!(route(0, 2), -1, "which is masked");
    msr(SINT2, 0x71);
    assert_eq!(route(0, 2), 1);
    assert_eq!(route(0, 3), -1);
    assert_eq!(route(0, 16), -1);
    assert_eq!(route(5, 2), -1, "there is no such processor");
    msr(0x4000_0002, 5);
    assert_eq!(route(5, 2), 1, "now there is");
}

proptest! {
    /// Whatever it was set to, a timer that has been looked at wants that again later, or not at all.
    #[test]
    fn a_timer_is_due_later_whenever_it_has_been_looked_at(
        steps in prop::collection::vec((0..4, any::<u64>(), 0..3u8), 32),
    ) {
        let (mut timer, mut now) = (SynTimer::default(), 1u64 << 40);
        for (what, value, answer) in steps {
            match what {
                0 => timer.set_config(value),
                1 => timer.set_count(value, true),
                2 => timer.set_count(value >> 20, false),
                _ => timer.retry(),
            }
            let was = timer.deadline();
            let mut acts = 0;
            let done = timer.serve(now, |action| {
                acts += 1;
                if let TimerAction::Message { sint, .. } = action {
                    assert!(sint < 16);
                }
                match answer {
                    0 => Ok(true),
                    1 => Ok(false),
                    _ => Err(crate::arch::addr::Gpa(0x1000)),
                }
            });
            prop_assert!(acts <= 2, "{acts}");
            prop_assert!(acts == 0 || done.is_err() == (answer == 2));
            if done.is_ok() {
                prop_assert!(timer.deadline().is_none_or(|at| at > now), "{was:?} {timer:?} {now}");
            }
            now = now.saturating_add(value >> 24);
        }
    }
}
