// SPDX-License-Identifier: GPL-2.0

//! A debugger outside the guest: what ends in user space, whose debug registers are where, and that interrupts wait.

use super::world;
use crate::abi::{nr, vcpu as abi};
use crate::arch::exception::ExceptionVector;
use crate::fake::abi::{AbiVcpu, AbiVm};
use crate::fake::backend::{Commit, Stop};
use crate::fake::steps::{fault, Ran, Steps, CODE};
use crate::vcpu::debugger::DR6_IDLE;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::VmExit;
use kernel::prelude::*;
use kernel::task::{current, SIGNAL};

const STEP: u64 = DR6_IDLE | 1 << 14;

fn set(cpu: &AbiVcpu, control: u32, debugreg: [u64; 8]) -> Result<i64> {
    let asked = abi::GuestDebug { control, pad: 0, debugreg };
    cpu.vm.give_to(cpu.fd, nr::SET_GUEST_DEBUG, &asked)
}

/// Runs until the debugger is told. Returns exception, address, DR6 and DR7.
fn stop(cpu: &mut AbiVcpu) -> (u32, u64, u64, u64) {
    let Ran::User((4, data)) = cpu.run() else { panic!("expected a stop for the debugger") };
    let word = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap());
    (word(0) as u32, word(8), word(16), word(24))
}

/// Makes the guest execute CPUIDs, where it has the trap flag as is said.
fn cpuids(cpu: &AbiVcpu, traps: bool) {
    cpu.guest.run(move |entry| {
        assert_eq!(entry.state.rflags & 0x100 != 0, traps);
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
}

fn regs(cpu: &AbiVcpu) -> abi::Regs {
    cpu.vm.ask(cpu.fd, nr::GET_REGS).unwrap()
}

#[test]
fn an_instruction_in_software_is_a_step() {
    let (world, _in) = world();
    let mut cpu = AbiVm::new(&world, 16).vcpu(0);
    set(&cpu, abi::GUESTDBG_ENABLE | abi::GUESTDBG_SINGLESTEP, [0; 8]).unwrap();
    cpuids(&cpu, true);

    for n in 1..4 {
        assert_eq!(stop(&mut cpu), (1, CODE + 2 * n, STEP, 0x400));
        assert_eq!((regs(&cpu).rip, regs(&cpu).rflags), (CODE + 2 * n, 2));
    }
    assert_eq!(cpu.vm.ask::<abi::Debugregs>(cpu.fd, nr::GET_DEBUGREGS).unwrap().dr6, DR6_IDLE);
    set(&cpu, 0, [0; 8]).unwrap();
    let mut left = 3;
    cpu.guest.run(move |entry| {
        assert_eq!(entry.state.rflags & 0x100, 0);
        left -= 1;
        if left == 0 {
            current().set(SIGNAL);
        }
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
    assert_eq!(cpu.run(), Ran::Guest);
}

#[test]
fn debug_exceptions_are_the_debuggers_only_while_it_asks() {
    let (world, _in) = world();
    let mut cpu = AbiVm::new(&world, 16).vcpu(0);
    let own = abi::Debugregs { db: [1, 2, 3, 4], dr6: DR6_IDLE, dr7: 0x400, flags: 0, reserved: [0; 9] };
    cpu.vm.give_to(cpu.fd, nr::SET_DEBUGREGS, &own).unwrap();
    let breakpoints = [0x10, 0x20, 0x30, 0x40, 0, 0, 0, 0xff_ffff_0000_0401];
    set(&cpu, abi::GUESTDBG_ENABLE | abi::GUESTDBG_USE_HW_BP, breakpoints).unwrap();
    cpu.guest.run(|entry| {
        // The processor has the debugger's, and what it cannot hold is left out.
        assert_eq!(entry.hw.regs.dr7, 0x401);
        assert!(!entry.hw.has_debug_registers, "what the guest does with them exits");
        entry.hw.regs.dr6 = DR6_IDLE | 1;
        Stop::plain(VmExit::Exception(ExceptionVector::DB, 0))
    });

    assert_eq!(stop(&mut cpu), (1, CODE, DR6_IDLE | 1, 0x401));
    let now: abi::Debugregs = cpu.vm.ask(cpu.fd, nr::GET_DEBUGREGS).unwrap();
    assert_eq!((now.db, now.dr6, now.dr7), (own.db, own.dr6, own.dr7));
    set(&cpu, abi::GUESTDBG_ENABLE | abi::GUESTDBG_USE_SW_BP, [0; 8]).unwrap();
    let mut is_first = true;
    cpu.guest.run(move |entry| {
        assert_eq!(entry.hw.regs.dr7, 0x400);
        if core::mem::take(&mut is_first) {
            return Stop::plain(VmExit::Exception(ExceptionVector::DB, 0));
        }
        assert!(entry.event.is_some(), "the guest has its own");
        Stop::plain(VmExit::Exception(ExceptionVector::BP, 0))
    });
    assert_eq!(stop(&mut cpu).0, 3);
}

#[test]
fn an_exception_is_injected_where_none_waits() {
    let (world, _in) = world();
    let mut cpu = AbiVm::new(&world, 16).vcpu(0);
    let inject = abi::GUESTDBG_ENABLE | abi::GUESTDBG_SINGLESTEP | abi::GUESTDBG_INJECT_DB;
    set(&cpu, inject, [0; 8]).unwrap();
    assert_eq!(set(&cpu, inject, [0; 8]), Err(EBUSY));
    cpu.guest.run(|entry| {
        assert!(entry.event.is_some(), "it is the guest's, although the debugger steps");
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });

    assert_eq!(stop(&mut cpu).0, 1);
}

#[test]
fn interrupts_wait_while_the_debugger_blocks_them() {
    let (world, _in) = world();
    let mut cpu = AbiVm::new(&world, 16).vcpu(0);
    let r = abi::Regs { rflags: 0x202, ..regs(&cpu) };
    cpu.vm.give_to(cpu.fd, nr::SET_REGS, &r).unwrap();
    cpu.vm.give_to(cpu.fd, nr::INTERRUPT, &abi::Interrupt { irq: 0x40 }).unwrap();
    cpu.vm.on(cpu.fd, nr::NMI, 0).unwrap();
    let blocked = abi::GUESTDBG_ENABLE | abi::GUESTDBG_SINGLESTEP | abi::GUESTDBG_BLOCKIRQ;
    set(&cpu, blocked, [0; 8]).unwrap();
    cpuids(&cpu, true);

    for n in 1..4 {
        assert_eq!(stop(&mut cpu).1, CODE + 2 * n);
        assert!(cpu.guest.take_delivered().is_empty());
    }
    set(&cpu, 0, [0; 8]).unwrap();
    let mut entries = 0;
    cpu.guest.run(move |_| {
        entries += 1;
        if entries == 6 {
            current().set(SIGNAL);
        }
        Stop::plain(VmExit::HostInterrupt)
    });
    assert_eq!(cpu.run(), Ran::Guest);
    assert_eq!(cpu.guest.take_delivered(), [GuestEvent::Nmi, GuestEvent::Interrupt(0x40)]);
}

#[test]
fn the_guest_moves_its_own_debug_registers() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut cpu = vm.vcpu(0);
    // mov dr1, eax; mov ebx, dr1
    world
        .process
        .write(crate::fake::direct::RAM + CODE, &[0x0f, 0x23, 0xc8, 0x0f, 0x21, 0xcb], true)
        .unwrap();
    let r = abi::Regs { rax: 0x7777, ..regs(&cpu) };
    vm.give_to(cpu.fd, nr::SET_REGS, &r).unwrap();
    set(&cpu, abi::GUESTDBG_ENABLE | abi::GUESTDBG_USE_HW_BP, [9, 9, 9, 9, 0, 0, 0, 0x401]).unwrap();
    let mut left = 3;
    cpu.guest.run(move |_| {
        left -= 1;
        if left == 0 {
            current().set(SIGNAL);
            return Stop::plain(VmExit::HostInterrupt);
        }
        let insn: &[u8] = if left == 2 { &[0x0f, 0x23, 0xc8] } else { &[0x0f, 0x21, 0xcb] };
        Stop::insn(VmExit::DebugRegister, insn)
    });

    assert_eq!(cpu.run(), Ran::Guest);
    assert_eq!((regs(&cpu).rip, regs(&cpu).rbx), (CODE + 6, 0x7777));
    let own: abi::Debugregs = vm.ask(cpu.fd, nr::GET_DEBUGREGS).unwrap();
    assert_eq!((own.db[1], own.db[0]), (0x7777, 0));
}

#[test]
fn an_int3_that_is_given_back_waits_for_the_memory_of_its_delivery() {
    let (world, _in) = world();
    let mut cpu = AbiVm::new(&world, 16).vcpu(0);
    set(&cpu, abi::GUESTDBG_ENABLE | abi::GUESTDBG_INJECT_BP, [0; 8]).unwrap();
    let mut entries = 0;
    cpu.guest.run(move |entry| {
        entries += 1;
        if entries == 1 {
            return Stop { commit: Commit::CutShort, ..Stop::plain(fault(0x5000, true)) };
        }
        assert_eq!(entry.state.rip, CODE + 1, "behind it");
        current().set(SIGNAL);
        Stop::plain(VmExit::HostInterrupt)
    });

    assert_eq!(cpu.run(), Ran::Guest);

    current().clear(SIGNAL);
    let int3 = GuestEvent::Exception { vector: ExceptionVector::BP, error: None };
    assert_eq!(cpu.guest.take_delivered(), [int3]);
}
