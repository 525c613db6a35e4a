// SPDX-License-Identifier: GPL-2.0

//! Events whose delivery exits: where no handler's first instruction is ever reached, the host goes on.
//!
//! A guest that keeps its CPU from taking interrupts takes it away from the host for ever, so these guests
//! run in a child, on a host CPU where another child notes that it makes progress.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{skip, slowness, Ctx, Test};
use crate::irq::{enable_lapic, send_nmi};
use crate::raw::{self, ioctl_with, Child, SharedCount};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::EINTR;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("delivery: an exception whose table is no memory is an internal error", fault_without_table),
    ("delivery: int n whose table is no memory is an internal error", int_without_table),
    ("delivery: int n whose stack is no memory is an internal error", int_without_stack),
    ("delivery: an interrupt whose table is no memory is an internal error", interrupt_without_table),
    ("delivery: a fault whose stack is no memory is an internal error", fault_without_stack),
    ("delivery: an entry that is refused takes nothing away", refused_entry),
    ("delivery: an alignment check in its own delivery leaves the host its cpu", alignment_check),
    ("delivery: a breakpoint on the stack of its handler leaves the host its cpu", breakpoint_on_stack),
    ("delivery: requests without end leave the host its cpu", requests),
    ("delivery: exits without end with interrupts off leave the host its cpu", exits),
    ("delivery: long exits without end with interrupts off leave the host its cpu", long_exits),
];

/// A page behind the end of memory.
const NO_MEMORY: u64 = 0x2_0000;
/// What a child of [`watched`] returns where a signal ended the guest.
const INTERRUPTED: u8 = 1;
/// And where KVM_RUN told of an event that cannot be delivered.
const UNDELIVERABLE: u8 = 2;

/// Runs the guest that `make` makes in a child on the last host CPU until another one has run there a few times, then
/// interrupts it. Returns how it ended; ends all tests where the CPU does nothing else, for it may never do so again.
fn watched(make: impl FnOnce() -> Guest) -> u8 {
    let (cpu, ticks, begun) = (raw::cpus().last, SharedCount::new(), SharedCount::new());
    let ticker = Child::start(|| {
        raw::pin(cpu);
        loop {
            std::thread::sleep(Duration::from_millis(5));
            ticks.get().fetch_add(1, SeqCst);
        }
    });
    let runner = Child::start(|| {
        raw::pin(cpu);
        let mut g = make();
        begun.get().fetch_add(1, SeqCst);
        end_of(&mut g)
    });
    let wait = |times, until: &dyn Fn() -> bool| {
        (0..times).take_while(|_| !until()).find_map(|_| runner.wait(Duration::from_millis(100)))
    };
    // However long it takes to make it.
    let mut end = wait(600, &|| begun.get().load(SeqCst) != 0);
    // Time to get going, and then to get round.
    end = end.or_else(|| runner.wait(Duration::from_millis(300)));
    let before = ticks.get().load(SeqCst);
    let gone = || ticks.get().load(SeqCst) - before;
    end = end.or_else(|| wait(50 * slowness(), &|| gone() >= 5));
    let (is_alive, gone) = (end.is_some() || gone() >= 5, gone());
    // Again and again: a signal just before KVM_RUN is one for nothing.
    let interrupted = || {
        runner.signal(libc::SIGUSR1);
        runner.wait(Duration::from_millis(100))
    };
    end = end.or_else(|| (0..600).find_map(|_| interrupted()));
    for child in [&runner, &ticker] {
        child.signal(libc::SIGKILL);
    }
    let Some(end) = end.filter(|_| is_alive) else {
        println!(
            "Bail out! CPU {cpu} took few interrupts while the guest ran ({gone}); the guest's end: {end:?}"
        );
        std::process::exit(1);
    };
    ticker.wait(Duration::from_secs(5));
    end
}

/// Runs a guest until it ends otherwise than by an OUT.
fn end_of(g: &mut Guest) -> u8 {
    let why = match g.vcpu.run() {
        Err(e) if e.errno() == EINTR => return INTERRUPTED,
        Ok(VcpuExit::InternalError) => None,
        other => Some(format!("{other:?}")),
    };
    if let Some(why) = why {
        panic!("{why}, expected an internal error");
    }
    let (suberror, ndata) = raw::internal_error(g.vcpu.get_kvm_run());
    assert_eq!(suberror, KVM_INTERNAL_ERROR_DELIVERY_EV);
    assert!(ndata >= 4, "{ndata} words of what happened");
    UNDELIVERABLE
}

/// A guest in protected mode without paging whose IDT is no memory.
fn without_table(c: &Ctx, code: &[u8]) -> Guest {
    let g = Guest::new(c, code);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.cr0 = 0x11;
    s.idt = kvm_dtable { base: NO_MEMORY, limit: 0x3ff, ..Default::default() };
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, db: 1, ..Default::default() };
    s.cs = kvm_segment { selector: 8, type_: 11, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, ..flat };
    (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
    g.vcpu.set_sregs(&s).unwrap();
    g
}

fn fault_without_table(c: &Ctx) {
    let end = watched(|| {
        // ud2
        without_table(c, &[0x0f, 0x0b])
    });

    assert_eq!(end, UNDELIVERABLE);
}

fn int_without_table(c: &Ctx) {
    let end = watched(|| {
        // int 0x30
        without_table(c, &[0xcd, 0x30])
    });

    assert_eq!(end, UNDELIVERABLE);
}

fn int_without_stack(c: &Ctx) {
    let end = watched(|| {
        // int 0x30
        let g = without_table(c, &[0xcd, 0x30]);
        let mut s = g.vcpu.get_sregs().unwrap();
        (s.idt.base, s.gdt) = (0x4000, kvm_dtable { base: 0x2000, limit: 0xf, ..Default::default() });
        g.vcpu.set_sregs(&s).unwrap();
        g.memory.write(0x2008, &0x00cf_9b00_0000_ffffu64.to_le_bytes());
        g.memory.write(0x4000 + 0x30 * 8, &(0x1100u64 | 8 << 16 | 0x8e << 40).to_le_bytes());
        let r = g.vcpu.get_regs().unwrap();
        g.vcpu.set_regs(&kvm_regs { rsp: NO_MEMORY + 0x100, ..r }).unwrap();
        g
    });

    assert_eq!(end, UNDELIVERABLE);
}

fn interrupt_without_table(c: &Ctx) {
    c.skip_on_kvm("KVM on AMD looks for other events only, and tries again without end");
    let end = watched(|| {
        // sti; nop; jmp $
        let mut g = without_table(c, &[0xfb, 0x90, 0xeb, 0xfe]);
        g.vcpu.get_kvm_run().request_interrupt_window = 1;
        assert!(matches!(g.exit(), VcpuExit::IrqWindowOpen));
        g.vcpu.get_kvm_run().request_interrupt_window = 0;
        ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x20u32).unwrap();
        g
    });

    assert_eq!(end, UNDELIVERABLE);
}

fn fault_without_stack(c: &Ctx) {
    let end = watched(|| {
        // mov esp, NO_MEMORY + 0x100; ud2
        let [a, b, c2, d] = (NO_MEMORY as u32 + 0x100).to_le_bytes();
        let g = Guest::new(c, &[0xbc, a, b, c2, d, 0x0f, 0x0b]);
        g.enter_long_mode_with(&[(6, 0x2000, 0, &[HLT])]);
        g
    });

    assert_eq!(end, UNDELIVERABLE);
}

fn refused_entry(c: &Ctx) {
    c.skip_on_kvm("KVM on AMD forgets what the entry was to deliver");
    let mut g = Guest::new(c, &[HLT]);
    // out 0x10, al; hlt
    g.enter_long_mode_with(&[(0x30, 0x2000, 0, &[0xe6, 0x10, HLT])]);
    g.set_flags(0x200);
    let good = g.vcpu.get_sregs().unwrap();
    let mut bad = good;
    bad.cs.db = 1;
    g.vcpu.set_sregs(&bad).unwrap();
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x30u32).unwrap();

    assert!(matches!(g.exit(), VcpuExit::FailEntry(..)));

    let events = g.vcpu.get_vcpu_events().unwrap();
    assert_eq!((events.interrupt.injected, events.interrupt.nr), (1, 0x30));
    g.vcpu.set_sregs(&good).unwrap();
    assert_eq!(g.out().0, 0x10, "the interrupt's handler");
}

/// In 32-bit code at level 3 with alignment checks on and a stack pointer that is odd, a misaligned access
/// faults, and so does each push of that fault's delivery (CVE-2015-5307).
fn alignment_check(c: &Ctx) {
    let end = watched(|| {
        // mov eax, [0x5001]; jmp $
        let g = Guest::new(c, &[0xa1, 0x01, 0x50, 0, 0, 0xeb, 0xfe]);
        for (at, descriptor) in
            [(8, 0x00cf_fb00_0000_ffffu64), (16, 0x00cf_f300_0000_ffff), (24, 0x0000_8900_3000_0067)]
        {
            g.memory.write(0x2000 + at, &descriptor.to_le_bytes());
        }
        // An interrupt gate to level 3.
        let gate = 0x1100u64 | 0x0b << 16 | 0xee << 40;
        g.memory.write(0x4000 + 17 * 8, &gate.to_le_bytes());
        g.memory.write(0x1100, &[0xeb, 0xfe]);
        let mut s = g.vcpu.get_sregs().unwrap();
        s.cr0 = 0x4_0031;
        s.gdt = kvm_dtable { base: 0x2000, limit: 0x1f, ..Default::default() };
        s.idt = kvm_dtable { base: 0x4000, limit: 0xff, ..Default::default() };
        s.tr = kvm_segment {
            base: 0x3000,
            limit: 0x67,
            selector: 24,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        let flat =
            kvm_segment { limit: u32::MAX, present: 1, dpl: 3, s: 1, g: 1, db: 1, ..Default::default() };
        s.cs = kvm_segment { selector: 0x0b, type_: 11, ..flat };
        let data = kvm_segment { selector: 0x13, type_: 3, ..flat };
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        g.vcpu.set_sregs(&s).unwrap();
        let r = kvm_regs { rip: 0x1000, rsp: 0x8002, rflags: 0x4_0202, ..Default::default() };
        g.vcpu.set_regs(&r).unwrap();
        g
    });

    assert_eq!(end, INTERRUPTED);
}

/// The handler of #DB runs on a stack of its own where a breakpoint lies: what its delivery pushes is the next
/// #DB (CVE-2015-8104).
fn breakpoint_on_stack(c: &Ctx) {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !cpuinfo.split_whitespace().any(|flag| flag == "vmx") {
        skip("QEMU ends itself when a guest's breakpoint is met in a delivery");
    }
    let end = watched(|| {
        // mov eax, 0x77f8; mov [rax], rax; again: nop; jmp again
        let g = Guest::new(c, &[0xb8, 0xf8, 0x77, 0, 0, 0x48, 0x89, 0x00, 0x90, 0xeb, 0xfd]);
        // iretq
        g.enter_long_mode_with(&[(1, 0x2000, 1, &[0x48, 0xcf])]);
        // A trap gate.
        g.memory.write(0x4015, &[0x8f]);
        let mut d = g.vcpu.get_debug_regs().unwrap();
        // Writes of 8 bytes.
        (d.db[0], d.dr7) = (0x77f8, 0x9_0402);
        g.vcpu.set_debug_regs(&d).unwrap();
        g.set_flags(0x200);
        g
    });

    assert_eq!(end, INTERRUPTED);
}

/// Another thread of the VMM asks something of the vCPU all the time.
fn requests(c: &Ctx) {
    let cpus = raw::cpus();
    let end = watched(|| {
        // again: pause; jmp again
        let g = Guest::with_irqchip(c, &[0xf3, 0x90, 0xeb, 0xfc]);
        // iret
        g.handler(2, 0x2000, &[0xcf]);
        enable_lapic(&g);
        let vm = raw::SharedFd::of(&g.vm);
        for _ in 0..3 {
            std::thread::spawn(move || {
                raw::pin(cpus.first);
                while send_nmi(&vm).is_ok() {}
            });
        }
        g
    });

    assert_eq!(end, INTERRUPTED);
}

/// A guest that takes no interrupts leaves itself for an instruction again and again, and never for anything else.
fn exits(c: &Ctx) {
    let end = watched(|| {
        // again: cpuid; jmp again
        Guest::new(c, &[0x0f, 0xa2, 0xeb, 0xfc])
    });

    assert_eq!(end, INTERRUPTED);
}

/// The same with exits that take long, while the guest itself spends next to no time.
fn long_exits(c: &Ctx) {
    let end = watched(|| {
        // cli; again: mov $0x8000, %di; mov $0x4000, %cx; in $0x40, %al to memory, that often; jmp again
        let g = Guest::with_irqchip(c, &[0xfa, 0xbf, 0x00, 0x80, 0xb9, 0x00, 0x40, 0xf3, 0x6c, 0xeb, 0xf6]);
        g.vm.create_pit2(kvm_pit_config::default()).unwrap();
        let mut regs = g.vcpu.get_regs().unwrap();
        (regs.rdx, regs.rflags) = (0x40, 0x202);
        g.vcpu.set_regs(&regs).unwrap();
        g
    });

    assert_eq!(end, INTERRUPTED);
}
