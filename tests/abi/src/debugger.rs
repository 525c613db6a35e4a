// SPDX-License-Identifier: GPL-2.0

//! A debugger outside the guest: steps, breakpoints, and where addresses lead.

use crate::abi::{nr, vcpu as abi};
use crate::guest::{start, Guest, HLT};
use crate::harness::{skip, Ctx, Test};
use crate::raw::ioctl_with;
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::EBUSY;

pub const TESTS: &[Test] = &[
    ("debugger: each instruction is a step", steps),
    ("debugger: a step shows neither in the flags nor in the debug registers", hidden),
    ("debugger: int3 exits before the guest's handler", software_breakpoint),
    ("debugger: int3 is given back to the guest", inject_breakpoint),
    ("debugger: int3 that is given back waits for its handler's stack", inject_breakpoint_late),
    ("debugger: int3 is the debugger's from one run to the next", switch_breakpoints),
    ("debugger: a breakpoint exits before its instruction", hardware_breakpoint),
    ("debugger: a watchpoint exits behind the write", watchpoint),
    ("debugger: the guest keeps its own debug registers", own_registers),
    ("debugger: a debug exception is given to the guest", inject_debug),
    ("debugger: what is injected must find room", inject_busy),
    ("debugger: interrupts wait while they are blocked", block_interrupts),
    ("debugger: an interrupt's handler runs within a step", step_interrupt),
    ("debugger: without it the guest has its own steps", own_steps),
    ("debugger: addresses are translated as the guest's kernel reads them", translate),
];

/// DR6 with nothing to report, and with a step.
const IDLE: u64 = 0xffff_0ff0;
const STEP: u64 = IDLE | 1 << 14;
/// What DR6 may say of breakpoints that are off: the processor still has the addresses of somebody before. SDM, "Debug Status
/// Register (DR6)".
const UNUSED: u64 = 0xf;

fn debug(g: &Guest, control: u32, debugreg: [u64; 8]) {
    let d = kvm_guest_debug { control, pad: 0, arch: kvm_guest_debug_arch { debugreg } };
    g.vcpu.set_guest_debug(&d).expect("KVM_SET_GUEST_DEBUG");
}

fn set_steps(g: &Guest, more: u32) {
    debug(g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | more, [0; 8]);
}

fn off(g: &Guest) {
    debug(g, 0, [0; 8]);
}

/// Runs until the debugger is told. Returns exception, address and DR6.
#[track_caller]
fn stop(g: &mut Guest) -> (u32, u64, u64) {
    match g.exit() {
        VcpuExit::Debug(d) => (d.exception, d.pc, d.dr6),
        other => panic!("{other:?}, expected a stop for the debugger"),
    }
}

/// Makes a step. Returns where it ends.
#[track_caller]
fn step(g: &mut Guest, more: u32) -> u64 {
    set_steps(g, more);
    let (exception, pc, dr6) = stop(g);
    assert_eq!((exception, dr6 & !UNUSED), (1, STEP));
    pc
}

fn steps(c: &Ctx) {
    // nop; cpuid; mov ecx, 0x10; rdmsr; jmp +1; hlt; nop; hlt
    let code = [0x90, 0x0f, 0xa2, 0xb9, 0x10, 0, 0, 0, 0x0f, 0x32, 0xeb, 1, HLT, 0x90, HLT];
    let mut g = Guest::new(c, &code);
    g.enter_long_mode();

    for pc in [0x1001, 0x1003, 0x1008, 0x100a, 0x100d, 0x100e] {
        assert_eq!(step(&mut g, 0), pc);
    }
    off(&g);
    assert_eq!(g.hlt().rip, 0x100f);
}

fn hidden(c: &Ctx) {
    let mut g = Guest::new(c, &[0x90, 0x90, HLT]);
    g.enter_long_mode();
    let own = kvm_debugregs { db: [1, 2, 3, 4], dr6: IDLE | 2, dr7: 0x400, ..Default::default() };
    g.vcpu.set_debug_regs(&own).unwrap();

    for _ in 0..2 {
        step(&mut g, 0);
        assert_eq!(g.vcpu.get_regs().unwrap().rflags & 0x100, 0);
        assert_eq!(g.vcpu.get_debug_regs().unwrap(), own);
    }
    // The guest's own flag is kept by who sets it.
    off(&g);
    assert_eq!(g.vcpu.get_regs().unwrap().rflags & 0x100, 0);
    assert_eq!(g.vcpu.get_debug_regs().unwrap(), own);
    g.hlt();
}

/// A guest that meets INT3, whose handler tells where it returns to.
fn with_int3(c: &Ctx) -> Guest {
    // nop; int3; hlt
    let g = Guest::new(c, &[0x90, 0xcc, HLT]);
    // mov rax, [rsp]; out 0x10, al; hlt
    g.enter_long_mode_with(&[(3, 0x2000, 0, &[0x48, 0x8b, 0x04, 0x24, 0xe6, 0x10, HLT])]);
    g.set_flags(0);
    g
}

/// As [`stop`] for an INT3, where that exits at all; a handler would tell that it returns to `behind`.
#[track_caller]
fn stop_at_int3(g: &mut Guest, behind: u8) -> (u32, u64, u64) {
    match g.exit() {
        VcpuExit::Debug(d) => (d.exception, d.pc, d.dr6),
        // QEMU's processor looks at the intercept of INT n instead.
        VcpuExit::IoOut(0x10, &[to]) if to == behind => {
            skip("the processor does not intercept the exception of INT3")
        }
        other => panic!("{other:?}, expected a stop for the debugger"),
    }
}

fn software_breakpoint(c: &Ctx) {
    let mut g = with_int3(c);
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, [0; 8]);

    let (exception, pc, _) = stop_at_int3(&mut g, 2);
    assert_eq!((exception, pc, g.vcpu.get_regs().unwrap().rip), (3, 0x1001, 0x1001));
    let (exception, pc, _) = stop(&mut g);
    assert_eq!((exception, pc), (3, 0x1001), "it is still there");
    // What was there before the debugger put it there.
    g.memory.write(0x1001, &[0x90]);
    assert_eq!(g.hlt().rip, 0x1003);
}

fn inject_breakpoint(c: &Ctx) {
    let mut g = with_int3(c);
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, [0; 8]);
    stop_at_int3(&mut g, 2);
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP, [0; 8]);

    assert_eq!(g.out(), (0x10, 2), "the handler returns behind it");
}

fn inject_breakpoint_late(c: &Ctx) {
    let mut g = with_int3(c);
    let r = g.vcpu.get_regs().unwrap();
    // A stack that nobody has touched: what the delivery pushes exits.
    g.vcpu.set_regs(&kvm_regs { rip: 0x1001, rsp: 0xf000, ..r }).unwrap();
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP, [0; 8]);

    assert_eq!(g.out(), (0x10, 2), "the handler returns behind it");
}

fn switch_breakpoints(c: &Ctx) {
    // out 0x11, al; int3; int3; hlt
    let mut g = Guest::new(c, &[0xe6, 0x11, 0xcc, 0xcc, HLT]);
    // mov rax, [rsp]; out 0x10, al; iretq
    g.enter_long_mode_with(&[(3, 0x2000, 0, &[0x48, 0x8b, 0x04, 0x24, 0xe6, 0x10, 0x48, 0xcf])]);
    g.set_flags(0);

    assert_eq!(g.out().0, 0x11, "it runs before there is a debugger");
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, [0; 8]);
    let (exception, pc, _) = stop_at_int3(&mut g, 3);
    assert_eq!((exception, pc), (3, 0x1002));
    off(&g);
    assert_eq!(g.out(), (0x10, 3), "the first is the guest's again");
    assert_eq!(g.out(), (0x10, 4), "and the second");
    assert_eq!(g.hlt().rip, 0x1005);
}

fn hardware_breakpoint(c: &Ctx) {
    let mut g = Guest::new(c, &[0x90, 0x90, 0x90, HLT]);
    g.enter_long_mode();
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, [0, 0, 0x1002, 0, 0, 0, 0, 0x420]);

    assert_eq!(stop(&mut g), (1, 0x1002, IDLE | 4));
    assert_eq!(g.vcpu.get_regs().unwrap().rip, 0x1002);
    off(&g);
    g.hlt();
}

fn watchpoint(c: &Ctx) {
    // mov byte [0x3000], 1; mov byte [0x3004], 1; nop; hlt
    let code = [0xc6, 0x04, 0x25, 0, 0x30, 0, 0, 1, 0xc6, 0x04, 0x25, 4, 0x30, 0, 0, 1, 0x90, HLT];
    let mut g = Guest::new(c, &code);
    g.enter_long_mode();
    // DR0: writes of four bytes.
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, [0x3004, 0, 0, 0, 0, 0, 0, 0xd_0402]);

    assert_eq!(stop(&mut g), (1, 0x1010, IDLE | 1));
    assert_eq!(g.memory.read::<1>(0x3004), [1]);
    assert_eq!(g.hlt().rip, 0x1012);
}

fn own_registers(c: &Ctx) {
    // mov eax, 0x3000; mov dr1, rax; mov rbx, dr1; mov rcx, dr0; mov eax, 0x400; mov dr7, rax; mov rdx, dr7; nop; hlt
    let code = [
        0xb8, 0, 0x30, 0, 0, 0x0f, 0x23, 0xc8, 0x0f, 0x21, 0xcb, 0x0f, 0x21, 0xc1, 0xb8, 0, 4, 0, 0, 0x0f,
        0x23, 0xf8, 0x0f, 0x21, 0xfa, 0x90, HLT,
    ];
    let mut g = Guest::new(c, &code);
    g.enter_long_mode();
    let own = kvm_debugregs { db: [0x77, 0, 0, 0], dr6: IDLE, dr7: 0x400, ..Default::default() };
    g.vcpu.set_debug_regs(&own).unwrap();
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, [0, 0, 0, 0x1019, 0, 0, 0, 0x480]);

    assert_eq!(stop(&mut g), (1, 0x1019, IDLE | 8));
    let r = g.vcpu.get_regs().unwrap();
    assert_eq!((r.rbx, r.rcx, r.rdx), (0x3000, 0x77, 0x400));
    let now = g.vcpu.get_debug_regs().unwrap();
    assert_eq!((now.db, now.dr7), ([0x77, 0x3000, 0, 0], 0x400));
    off(&g);
    g.hlt();
    assert_eq!(g.vcpu.get_debug_regs().unwrap().db, [0x77, 0x3000, 0, 0]);
}

fn inject_debug(c: &Ctx) {
    let mut g = Guest::new(c, &[0x90, HLT]);
    // mov al, 0x31; out 0x10, al; hlt
    g.enter_long_mode_with(&[(1, 0x2000, 0, &[0xb0, 0x31, 0xe6, 0x10, HLT])]);
    g.set_flags(0);
    debug(&g, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP | KVM_GUESTDBG_INJECT_DB, [0; 8]);

    assert_eq!(g.out(), (0x10, 0x31));
}

fn inject_busy(c: &Ctx) {
    let g = Guest::new(c, &[0x90, HLT]);
    let asked = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB;
    debug(&g, asked, [0; 8]);

    let d = kvm_guest_debug { control: asked, pad: 0, arch: kvm_guest_debug_arch { debugreg: [0; 8] } };
    assert_eq!(g.vcpu.set_guest_debug(&d).map_err(|e| e.errno()), Err(EBUSY));
}

/// A guest with an interrupt that waits, whose handler counts at 0x3000.
fn with_interrupt(c: &Ctx) -> Guest {
    // nop; nop; nop; hlt
    let g = Guest::new(c, &[0x90, 0x90, 0x90, HLT]);
    // inc byte [0x3000]; iretq
    let handler = [0xfe, 0x04, 0x25, 0, 0x30, 0, 0, 0x48, 0xcf];
    g.enter_long_mode_with(&[(0x40, 0x2000, 0, &handler)]);
    g.set_flags(0x200);
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut kvm_interrupt { irq: 0x40 }).expect("KVM_INTERRUPT");
    g
}

fn block_interrupts(c: &Ctx) {
    c.skip_on_kvm("an interrupt of user space's counts as injected there");
    let mut g = with_interrupt(c);

    assert_eq!(step(&mut g, KVM_GUESTDBG_BLOCKIRQ), 0x1001);
    assert_eq!(step(&mut g, KVM_GUESTDBG_BLOCKIRQ), 0x1002);
    assert_eq!(g.memory.read::<1>(0x3000), [0]);
    off(&g);
    g.hlt();
    assert_eq!(g.memory.read::<1>(0x3000), [1]);
}

fn step_interrupt(c: &Ctx) {
    let mut g = with_interrupt(c);
    set_steps(&g, 0);

    let (exception, pc, dr6) = stop(&mut g);
    assert_eq!((exception, dr6 & !UNUSED), (1, STEP));
    assert_eq!(g.memory.read::<1>(0x3000), [1], "the handler has run");
    assert!((0x1000..=0x1001).contains(&pc), "{pc:#x}");
}

fn own_steps(c: &Ctx) {
    let mut g = Guest::new(c, &[0x90, 0x90, HLT]);
    // mov al, 0x31; out 0x10, al; hlt
    g.enter_long_mode_with(&[(1, 0x2000, 0, &[0xb0, 0x31, 0xe6, 0x10, HLT])]);
    g.set_flags(0);
    step(&mut g, 0);
    off(&g);
    g.set_flags(0x100);

    assert_eq!(g.out(), (0x10, 0x31), "the guest's handler");
    assert_eq!(g.vcpu.get_debug_regs().unwrap().dr6 & 1 << 14, 1 << 14);
}

fn translate(c: &Ctx) {
    let g = Guest::new(c, &[HLT]);
    let ask = |linear_address| {
        let mut t = abi::Translation {
            linear_address,
            physical_address: 1,
            valid: 7,
            writeable: 7,
            usermode: 7,
            pad: [0; 5],
        };
        ioctl_with(&g.vcpu, nr::TRANSLATE, &mut t).expect("KVM_TRANSLATE");
        (t.physical_address, t.valid, t.writeable, t.usermode)
    };
    start(&g.vcpu, 0x1000);
    assert_eq!(ask(0x1234), (0x1234, 1, 1, 0), "without paging");

    g.enter_long_mode();
    assert_eq!(ask(0x1234), (0x1234, 1, 1, 0));
    assert_eq!(ask(0x1f_ffff), (0x1f_ffff, 1, 1, 0), "no memory need be there");
    assert_eq!(ask(0xfee0_0123), (0xfee0_0123, 1, 1, 0));
    assert_eq!(ask(0x20_0000), (u64::MAX, 0, 1, 0));
    assert_eq!(ask(1 << 46), (u64::MAX, 0, 1, 0));
    // A page of user code's, read-only, elsewhere.
    g.memory.write(0xb008, &0xd007u64.to_le_bytes());
    g.memory.write(0xd008, &0x5005u64.to_le_bytes());
    assert_eq!(ask(0x20_1042), (0x5042, 1, 1, 0));
    assert_eq!(ask(0x20_2042), (u64::MAX, 0, 1, 0));
}
