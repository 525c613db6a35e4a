// SPDX-License-Identifier: GPL-2.0

//! What a run waits for and what ends the wait: KVM_SET_SIGNAL_MASK, and HLT without an exit.

use crate::abi::nr;
use crate::enable_cap::enable;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::{enable_lapic, report, run_a_while, run_vcpu_a_while, send};
use crate::raw::{self, ioctl, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::{VcpuExit, VcpuFd};
use libc::{EFAULT, EINTR, EINVAL};
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("waiting: a signal that the mask lets through ends the run and still waits", unblocked),
    ("waiting: a signal that the mask blocks comes after the run", blocked),
    ("waiting: an impossible mask is refused", bad_mask),
    ("waiting: without its exits hlt waits in guest mode", halted),
    ("waiting: an interrupt ends a hlt in guest mode", halted_until_interrupt),
    ("waiting: init and sipi reach a processor that halts in guest mode", halted_until_init),
];

/// SIGUSR1, in a mask.
const USR1: u64 = 1 << (libc::SIGUSR1 - 1);
/// Again: out 0x10, al; jmp again
const OUT: [u8; 4] = [0xe6, 0x10, 0xeb, 0xfc];

/// Sets the mask of a vCPU's runs.
fn set_mask(vcpu: &VcpuFd, blocked: u64) {
    ioctl_with(vcpu, nr::SET_SIGNAL_MASK, &mut [8, blocked as u32, (blocked >> 32) as u32]).unwrap();
}

/// SIGUSR1 is blocked as long as this lives.
struct Usr1Blocked;

impl Usr1Blocked {
    fn new() -> Usr1Blocked {
        raw::block_sigusr1(true);
        Usr1Blocked
    }
}

impl Drop for Usr1Blocked {
    fn drop(&mut self) {
        raw::block_sigusr1(false);
    }
}

fn unblocked(c: &Ctx) {
    let mut g = Guest::new(c, &OUT);
    let taken = raw::signals_taken();
    let own = Usr1Blocked::new();
    raw::interrupt(raw::this_thread());
    assert_eq!(g.out().0, 0x10, "the thread's own mask counts");

    set_mask(&g.vcpu, 0);
    for _ in 0..2 {
        assert_eq!(g.vcpu.run().map(|e| format!("{e:?}")).map_err(|e| e.errno()), Err(EINTR));
        assert_eq!(g.vcpu.get_kvm_run().exit_reason, KVM_EXIT_INTR);
        assert!(raw::is_sigusr1_pending());
        assert_eq!(raw::signals_taken(), taken, "the thread itself blocks it");
    }
    set_mask(&g.vcpu, USR1);
    assert_eq!(g.out().0, 0x10);
    set_mask(&g.vcpu, 0);
    ioctl(&g.vcpu, nr::SET_SIGNAL_MASK, 0).expect("no mask");
    assert_eq!(g.out().0, 0x10, "the thread's own again");

    drop(own);
    assert_eq!(raw::signals_taken(), taken + 1);
}

fn blocked(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x40, 0x2000, &report(0x40));
    enable_lapic(&g);
    // No mask keeps SIGKILL and SIGSTOP away, and none is refused for that.
    set_mask(&g.vcpu, u64::MAX);
    let (taken, thread) = (raw::signals_taken(), raw::this_thread());

    let (event, vm) = (raw::EventFd::new(), &g.vm);
    crate::eventfd::set_irqfd(vm, &event, 24, 0).unwrap();
    crate::chips::route(vm, [crate::chips::message(24, 0x40)]).unwrap();
    std::thread::scope(|s| {
        let event = &event;
        s.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            raw::interrupt(thread);
            std::thread::sleep(Duration::from_millis(300));
            event.signal();
        });
        assert_eq!(g.out(), (0x10, 0x40), "the interrupt, not the signal");
    });

    assert_eq!(raw::signals_taken(), taken + 1, "it came when the run was over");
}

fn bad_mask(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    for len in [0, 4, 9, 16, u32::MAX] {
        refused(ioctl_with(&vcpu, nr::SET_SIGNAL_MASK, &mut [len, 0, 0]), &[EINVAL]);
    }
    refused(ioctl(&vcpu, nr::SET_SIGNAL_MASK, 8), &[EFAULT]);
}

/// Makes a guest whose HLT does not exit.
fn halting(c: &Ctx, has_irqchip: bool, code: &[u8]) -> Guest {
    let vm = c.vm();
    vm.set_tss_address(0xfffb_d000).unwrap();
    if has_irqchip {
        vm.create_irq_chip().unwrap();
    }
    enable(&vm, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT.into()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    Guest::of(c, vm, vcpu, code)
}

fn halted(c: &Ctx) {
    let mut g = halting(c, false, &[0xe6, 0x11, HLT, 0xeb, 0xfd]);
    // Where software carries out real mode, HLT exits as ever.
    g.enter_long_mode();
    assert_eq!(g.out().0, 0x11);

    for _ in 0..2 {
        assert_eq!(run_a_while(&mut g), Err(EINTR), "no exit for HLT");
    }
    let rip = g.vcpu.get_regs().unwrap().rip;
    assert!((0x1002..=0x1003).contains(&rip), "{rip:#x}");
}

fn halted_until_interrupt(c: &Ctx) {
    let mut g = halting(c, true, &[0xe6, 0x11, 0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x40, 0x2000, &[0xb0, 0x40, 0xe6, 0x10, 0xcf]);
    enable_lapic(&g);
    assert_eq!(g.out().0, 0x11);
    let event = raw::EventFd::new();
    crate::eventfd::set_irqfd(&g.vm, &event, 24, 0).unwrap();
    crate::chips::route(&g.vm, [crate::chips::message(24, 0x40)]).unwrap();

    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            event.signal();
        });
        assert_eq!(g.out(), (0x10, 0x40), "while it waits");
    });
    // It is in service until its end, so one of a higher class comes next.
    assert_eq!(run_a_while(&mut g), Err(EINTR));
    g.handler(0x50, 0x2000, &[0xb0, 0x50, 0xe6, 0x10, 0xcf]);
    assert_eq!(send(&g, 0xfee0_0000, 0x50), 1);
    assert_eq!(g.out(), (0x10, 0x50), "after it has waited");
    g.vcpu.nmi().unwrap();
    g.handler(2, 0x2100, &[0xb0, 2, 0xe6, 0x10, 0xcf]);
    assert_eq!(g.out(), (0x10, 2));
}

fn halted_until_init(c: &Ctx) {
    // The boot processor: mov dword [0x300], INIT to all others; the same with SIPI 2, twice; hlt; jmp to hlt
    let mut code = Vec::new();
    for command in [0x000c_4500, 0x000c_4602, 0x000c_4602] {
        code.extend(crate::apic::store(0x300, command));
    }
    code.extend([HLT, 0xeb, 0xfd]);
    let mut boot = halting(c, true, &code);
    let mut s = boot.vcpu.get_sregs().unwrap();
    s.ds.base = crate::apic::APIC;
    boot.vcpu.set_sregs(&s).unwrap();
    enable_lapic(&boot);
    let mut other = boot.vm.create_vcpu(1).unwrap();
    // cli; hlt; jmp to hlt, and where SIPI starts it: out 0x10, al; hlt
    boot.memory.write(0x1800, &[0xe6, 0x11, 0xfa, HLT, 0xeb, 0xfd]);
    boot.memory.write(0x2000, &[0xe6, 0x10, HLT]);
    crate::guest::start(&other, 0x1800);
    let running = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
    other.set_mp_state(running).unwrap();
    assert!(matches!(other.run(), Ok(VcpuExit::IoOut(0x11, _))));
    assert_eq!(run_vcpu_a_while(&mut other), Err(EINTR), "halted for good");

    std::thread::scope(|s| {
        let other = &mut other;
        let started = s.spawn(move || matches!(other.run(), Ok(VcpuExit::IoOut(0x10, _))));
        // Sends, and halts until the signal.
        assert_eq!(run_a_while(&mut boot), Err(EINTR));
        assert!(started.join().unwrap());
    });
}
