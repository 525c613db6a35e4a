// SPDX-License-Identifier: GPL-2.0

//! Hypercalls of Hyper-V's.

use super::hyperv::{
    call, hyperv, leaves, posted_edge, put_words, set, vcpu_with, GUEST_OS_ID, INVALID_CODE, LINUX, PAGE,
    VMMCALL,
};
use super::{for_seeds, run_all, thread, world};
use crate::abi::{nr, run as abi_run, vm as abi_vm};
use crate::arch::hyperv::{hypercall as code, leaf};
use crate::fake::abi::AbiVm;
use crate::fake::backend::Stop;
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::{Steps, CODE};
use crate::machine::mailbox::VcpuRequests;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{VirtInsn, VmExit};
use crate::vcpu::state::{VcpuState, R8, RAX, RBX, RCX, RDI, RDX, RSI};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::task::{current, Task, SIGNAL};
use std::sync::Arc;

const INVALID_INPUT: u64 = 3;
const INVALID_ALIGNMENT: u64 = 4;
const ACCESS_DENIED: u64 = 6;

/// A vCPU whose guest has said what it is, and so makes hypercalls.
fn caller(direct: &Direct, id: u32) -> Vcpu {
    let mut vcpu = hyperv(direct, id);
    assert!(set(&mut vcpu, GUEST_OS_ID, LINUX));
    vcpu
}

#[test]
fn hypercalls_that_are_none_are_answered_so() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = hyperv(&direct, 0);
    // Before it has a name, they are KVM's.
    let answer = call(&mut vcpu, 0xbeef, [0; 2]).unwrap();
    assert_eq!(answer as u32, 0u32.wrapping_sub(1000));
    assert!(vcpu.wrmsr(GUEST_OS_ID, LINUX));

    assert_eq!(call(&mut vcpu, 0xbeef, [0; 2]), Some(INVALID_CODE));
    for reserved in [27, 31, 44, 47, 60, 63] {
        assert_eq!(call(&mut vcpu, 1 << reserved | 8, [0; 2]), Some(INVALID_INPUT), "bit {reserved}");
    }
    assert_eq!(call(&mut vcpu, 8, [0; 2]), Some(0), "a long wait for a lock");
    assert_eq!(call(&mut vcpu, 8 | 1 << 32, [0; 2]), Some(INVALID_INPUT));
    assert_eq!(call(&mut vcpu, code::POST_MESSAGE.into(), [0; 2]), Some(INVALID_INPUT));
    vcpu.core.state.segs[2].attr.0 |= 0x60;
    vcpu.core.state.mark(crate::vcpu::state::StateGroups::SEGMENTS);
    assert_eq!(call(&mut vcpu, 8, [0; 2]), None, "at another privilege level it is undefined");
}

#[test]
fn a_hypercall_needs_its_hint_or_privilege_where_user_space_insists_on_that() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let calls: [(u32, u64); 7] = [
        (leaf::HINTS, code::LONG_SPIN_WAIT.into()),
        (leaf::HINTS, code::FLUSH_SPACE.into()),
        (leaf::HINTS, code::FLUSH_LIST_EX.into()),
        (leaf::HINTS, code::SEND_IPI.into()),
        (leaf::HINTS, code::SEND_IPI_EX.into()),
        (leaf::FEATURES, code::SIGNAL_EVENT.into()),
        (leaf::FEATURES, code::QUERY_CAPABILITIES.into()),
    ];

    for (n, (function, control)) in calls.into_iter().enumerate() {
        let mut vcpu = vcpu_with(&direct, n as u32, |e| {
            if e.function == function {
                (e.eax, e.ebx, e.edx) = (0, 0, 0);
            }
        });
        assert!(set(&mut vcpu, GUEST_OS_ID, LINUX));
        vcpu.core.hyperv.rights.is_enforced = true;
        assert_eq!(call(&mut vcpu, control, [PAGE, 0]), Some(ACCESS_DENIED), "{control:#x}");
    }
    let mut vcpu = vcpu_with(&direct, 20, |e| {
        if e.function == leaf::FEATURES {
            e.edx &= !(1 << 4);
        }
    });
    let flush = u64::from(code::FLUSH_SPACE) | code::FAST;
    assert_eq!(call(&mut vcpu, flush, [0, 1]), Some(0));
    vcpu.core.hyperv.rights.is_enforced = true;
    assert_eq!(call(&mut vcpu, flush, [0, 1]), None, "no input in XMM registers: undefined");
}

#[test]
fn extended_hypercalls_are_user_spaces() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    let mut vcpu = vm.vcpu(0);
    vm.give_leaves(&vcpu, &leaves());
    assert!(vcpu.wrmsr(GUEST_OS_ID, LINUX));

    for is_long in [false, true] {
        let done = vcpu.step(
            move |s| {
                if is_long {
                    (s.gprs[RCX], s.gprs[RDX], s.gprs[R8]) = (0x8001, 0x1_2345_6000, 0x7000);
                } else {
                    (s.gprs[RDX], s.gprs[RAX]) = (0, 0x8001);
                    (s.gprs[RBX], s.gprs[RCX]) = (1, 0x2345_6000);
                    (s.gprs[RDI], s.gprs[RSI]) = (0, 0x7000);
                }
            },
            move |entry| {
                let (efer, cs) = if is_long { (0x500, 0xa09b) } else { (0, 0xc09b) };
                entry.hw.regs.efer = efer;
                entry.hw.regs.segs[1].attr.0 = cs;
                Some(Stop::insn(VmExit::VirtInsn(VirtInsn::Hypercall), VMMCALL))
            },
        );
        let [(reason, data)] = done.user[..] else { panic!("{done:?}") };
        assert_eq!(reason, abi_run::ExitReason::Hyperv as u32);
        let word = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
        assert_eq!([word(0), word(8), word(24), word(32)], [2, 0x8001, 0x1_2345_6000, 0x7000]);
        // Nobody has put an answer there.
        assert_eq!(done.gprs[RAX], 0);
        // WRMSR, and a call for each.
        assert_eq!(done.rip, CODE + if is_long { 8 } else { 5 });
    }
    vcpu.set(abi_run::offset::HYPERV_RESULT, &7u64.to_le_bytes());
}

#[test]
fn an_event_goes_where_its_connection_leads() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    let mut vcpu = vm.vcpu(0);
    vm.give_leaves(&vcpu, &leaves());
    assert!(vcpu.wrmsr(GUEST_OS_ID, LINUX));
    let (events, counts): (Vec<i32>, Vec<_>) = (0..2).map(|_| world.eventfd()).unzip();
    let connect = |conn_id, fd, flags| {
        vm.give(nr::HYPERV_EVENTFD, &abi_vm::HypervEventfd { conn_id, fd, flags, padding: [0; 3] })
    };
    let signal = |vcpu: &mut crate::fake::abi::AbiVcpu, word: u64, is_fast: bool| {
        let fast = if is_fast { code::FAST } else { 0 };
        let control = u64::from(code::SIGNAL_EVENT) | fast;
        let param = if is_fast { word } else { PAGE };
        world.process.write(Direct::hva(PAGE), &word.to_le_bytes(), true).unwrap();
        let set = move |s: &mut VcpuState| {
            (s.gprs[RDX], s.gprs[RAX]) = (0, control);
            (s.gprs[RBX], s.gprs[RCX]) = (param >> 32, param & 0xffff_ffff);
        };
        vcpu.exits(set, VmExit::VirtInsn(VirtInsn::Hypercall), VMMCALL).edx_eax()
    };

    assert_eq!(connect(1 << 24, events[0], 0), Err(EINVAL));
    assert_eq!(connect(5, events[0], 2), Err(EINVAL));
    assert_eq!(connect(5, -1, 0), Err(EBADF));
    assert_eq!(connect(5, 0, 1), Err(ENOENT));
    assert_eq!((connect(5, events[0], 0), connect(9, events[1], 0)), (Ok(0), Ok(0)));
    assert_eq!(connect(5, events[1], 0), Err(EEXIST));
    for is_fast in [true, false] {
        assert_eq!(signal(&mut vcpu, 9, is_fast), 0);
        assert_eq!(signal(&mut vcpu, 5, is_fast), 0);
        assert_eq!(signal(&mut vcpu, 6, is_fast), INVALID_INPUT, "nobody knows it");
        assert_eq!(signal(&mut vcpu, 1 << 24, is_fast), INVALID_INPUT);
        assert_eq!(signal(&mut vcpu, 5 | 1 << 32, is_fast), INVALID_INPUT);
    }
    assert_eq!([counts[0].take(), counts[1].take()], [2, 2]);
    assert_eq!(connect(5, 0, 1), Ok(0));
    assert_eq!(signal(&mut vcpu, 5, true), INVALID_INPUT);
    assert_eq!(signal(&mut vcpu, 9, true), 0);
    assert_eq!(counts[1].take(), 1);
    let unaligned = |s: &mut VcpuState| {
        (s.gprs[RDX], s.gprs[RAX]) = (0, code::SIGNAL_EVENT.into());
        (s.gprs[RBX], s.gprs[RCX]) = (0, PAGE + 4);
    };
    let done = vcpu.exits(unaligned, VmExit::VirtInsn(VirtInsn::Hypercall), VMMCALL);
    assert_eq!(done.edx_eax(), INVALID_ALIGNMENT);
}

/// Calls about sets of processors: the first word, the input in memory from word 0 on, and who is meant of 0 to 3.
fn sets(number: u16, head: &[u64]) -> Vec<(u64, Vec<u64>, Vec<u32>)> {
    let number = u64::from(number);
    let words = |tail: &[u64]| [head, tail].concat();
    vec![
        (number | 1 << 17, words(&[0, 1, 0b0101]), vec![0, 2]),
        (number | 2 << 17, words(&[0, 0b11, 0b0010, u64::MAX]), vec![1]),
        (number | 1 << 17, words(&[0, 0b10, u64::MAX]), vec![]),
        (number, words(&[1, 0]), vec![0, 1, 2, 3]),
        (number, words(&[0, 0]), vec![]),
    ]
}

#[test]
fn interrupts_go_to_those_who_are_named() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpus: Vec<Vcpu> = (0..4).map(|id| caller(&direct, id)).collect();
    let taken = |vcpus: &[Vcpu]| -> Vec<u32> {
        let got = |v: &&Vcpu| posted_edge(&v.mailbox)[3] >> 62 & 1 == 1;
        vcpus.iter().filter(got).map(|v| v.mailbox.id).collect()
    };

    for (control, input, meant) in sets(code::SEND_IPI_EX, &[0xfe]) {
        put_words(&direct, PAGE, &input);
        assert_eq!(call(&mut vcpus[3], control, [PAGE, 0]), Some(0));
        // Its own is taken by now.
        let others: Vec<u32> = meant.into_iter().filter(|id| *id != 3).collect();
        assert_eq!(taken(&vcpus), others, "{control:#x} {input:?}");
    }
    put_words(&direct, PAGE, &[0xfe, 0b0110]);
    assert_eq!(call(&mut vcpus[3], code::SEND_IPI.into(), [PAGE, 0]), Some(0));
    assert_eq!(taken(&vcpus), [1, 2]);
    let fast = u64::from(code::SEND_IPI) | code::FAST;
    assert_eq!(call(&mut vcpus[3], fast, [0xfe, 0b0011]), Some(0));
    assert_eq!(taken(&vcpus), [0, 1]);
    for (bad, params) in [
        (fast, [0xf, 1]),
        (fast, [0x100, 1]),
        (fast, [1 << 32 | 0xfe, 1]),
        (fast | 1 << 32, [0xfe, 1]),
        (fast | 1 << 17, [0xfe, 1]),
        (code::SEND_IPI.into(), [0xdead_b000, 0]),
        (u64::from(code::SEND_IPI_EX) | 1 << 17, [0xdead_b000, 0]),
    ] {
        assert_eq!(call(&mut vcpus[3], bad, params), Some(INVALID_INPUT), "{bad:#x}");
    }
    assert_eq!(taken(&vcpus), [] as [u32; 0]);
    // By number, not by id.
    vcpus[1].mailbox.set_vp_index(700);
    put_words(&direct, PAGE, &[0xfe, 0, 1 << 10, 1 << (700 % 64)]);
    assert_eq!(call(&mut vcpus[3], u64::from(code::SEND_IPI_EX) | 1 << 17, [PAGE, 0]), Some(0));
    assert_eq!(taken(&vcpus), [1]);
}

#[test]
fn input_goes_on_in_xmm_registers() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let (mut sender, other) = (caller(&direct, 0), caller(&direct, 1));
    let mut xmm = |words: &[u64]| {
        for (i, word) in words.iter().enumerate() {
            sender.fpu.image()[160 + i * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
    };
    xmm(&[0b01, 0b10]);
    let ipi = u64::from(code::SEND_IPI_EX) | code::FAST;

    assert_eq!(call(&mut sender, ipi | 1 << 17, [0x41, 0]), Some(0));
    assert_eq!(posted_edge(&other.mailbox)[1], 2);
    // A set of 12 words would end behind the registers.
    sender.fpu.image()[160..168].copy_from_slice(&0xfffu64.to_le_bytes());
    assert_eq!(call(&mut sender, ipi | 12 << 17, [0x41, 0]), Some(INVALID_INPUT));
    let flush = u64::from(code::FLUSH_LIST) | code::FAST;
    assert_eq!(call(&mut sender, flush | 11 << 32, [0, 1]), Some(11 << 32), "that many addresses fit");
    assert_eq!(call(&mut sender, flush | 12 << 32, [0, 1]), Some(INVALID_INPUT));
    assert_eq!(call(&mut sender, flush | 16 << 32, [0, 1]), Some(16 << 32), "and of more none is read");
}

#[test]
fn those_who_are_named_flush_before_they_run_on() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpus: Vec<Vcpu> = (0..4).map(|id| caller(&direct, id)).collect();
    let asked = |vcpus: &[Vcpu]| -> Vec<u32> {
        let is_asked = |v: &&Vcpu| !v.mailbox.take_requests(VcpuRequests::TLB_FLUSH).is_empty();
        vcpus.iter().filter(is_asked).map(|v| v.mailbox.id).collect()
    };
    // The first entry flushes in any case.
    assert_eq!(vcpus[3].rdmsr(GUEST_OS_ID), Some(LINUX));

    for number in [code::FLUSH_SPACE_EX, code::FLUSH_LIST_EX] {
        for (mut control, mut input, meant) in sets(number, &[0, 0]) {
            if number == code::FLUSH_LIST_EX {
                control |= 1 << 32;
                input.push(PAGE);
            }
            put_words(&direct, PAGE, &input);
            let flushes = vcpus[3].guest.flushes.load(SeqCst);
            let answer = call(&mut vcpus[3], control, [PAGE, 0]);
            assert_eq!(answer, Some(control >> 32 << 32), "{control:#x}");
            let others: Vec<u32> = meant.iter().copied().filter(|id| *id != 3).collect();
            assert_eq!(asked(&vcpus), others, "{control:#x} {input:?}");
            assert_eq!(vcpus[3].guest.flushes.load(SeqCst) > flushes, meant.contains(&3));
        }
    }
    for (flags, mask, meant) in [(0, 0b0010, vec![1]), (1, 0b0010, vec![0, 1, 2]), (0, 0, vec![0, 1, 2])] {
        put_words(&direct, PAGE, &[0, flags, mask]);
        assert_eq!(call(&mut vcpus[3], code::FLUSH_SPACE.into(), [PAGE, 0]), Some(0));
        assert_eq!(asked(&vcpus), meant);
    }
    for bad in [
        u64::from(code::FLUSH_SPACE) | 1 << 32,
        u64::from(code::FLUSH_SPACE) | 1 << 17,
        code::FLUSH_LIST.into(),
        u64::from(code::FLUSH_LIST) | 1 << 32 | 1 << 48,
        u64::from(code::FLUSH_SPACE_EX) | 3 << 17,
    ] {
        assert_eq!(call(&mut vcpus[3], bad, [PAGE, 0]), Some(INVALID_INPUT), "{bad:#x}");
    }
}

/// One vCPU has another flush, which runs meanwhile.
fn flush_beside_a_guest(seed: u64) {
    let world = crate::host::world::World::new();
    let tasks = [Task::new(&world.process, 0), Task::new(&world.process, 1)];
    let entered = world.enter_as(&tasks[0]);
    let direct = Direct::new(&world, 16);
    let (mut sender, mut receiver) = (caller(&direct, 0), caller(&direct, 1));
    // How often the receiver had flushed when the call was made; from when the call has returned on.
    let (before, known) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
    let (guest, until, count) = (receiver.guest.clone(), known.clone(), receiver.guest.clone());
    let mut left = 40;
    guest.run(move |entry| {
        let flushed = count.flushes.load(SeqCst);
        let known = until.load(SeqCst);
        assert!(known == u64::MAX || flushed > known, "it runs with what it had before the call");
        left -= 1;
        if left == 0 || known != u64::MAX {
            current().set(SIGNAL);
            return Stop::plain(VmExit::HostInterrupt);
        }
        entry.state.rip = CODE + 128;
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
    let flushes = receiver.guest.clone();
    let sends = || {
        before.store(flushes.flushes.load(SeqCst), SeqCst);
        let fast = u64::from(code::FLUSH_SPACE) | code::FAST;
        assert_eq!(call(&mut sender, fast, [0, 1]), Some(0));
        known.store(before.load(SeqCst), SeqCst);
    };
    let runs = || {
        let _ = receiver.run_once();
    };
    drop(entered);
    run_all(seed, vec![thread(&world, &tasks[0], sends), thread(&world, &tasks[1], runs)]);
}

#[test]
fn a_flush_has_reached_everybody_when_its_call_is_done() {
    for_seeds(200, flush_beside_a_guest);
}

#[test]
fn an_interrupt_by_hypercall_is_delivered() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = caller(&direct, 0);
    vcpu.core.state.rflags |= 0x200;
    let done = vcpu.exits(
        |s| {
            (s.gprs[RDX], s.gprs[RAX]) = (0, u64::from(code::SEND_IPI) | code::FAST);
            (s.gprs[RBX], s.gprs[RCX]) = (0, 0x77);
            (s.gprs[RDI], s.gprs[RSI]) = (0, 1);
            s.rflags |= 0x200;
        },
        VmExit::VirtInsn(VirtInsn::Hypercall),
        VMMCALL,
    );
    assert_eq!(done.events, [GuestEvent::Interrupt(0x77)]);
}
