// SPDX-License-Identifier: GPL-2.0

//! Code that changes after it has exited: what a hypervisor remembers of an instruction holds only as long as
//! the instruction does.

use crate::guest::{start, Guest};
use crate::harness::{Ctx, Test};
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuExit;

pub const TESTS: &[Test] = &[
    ("code: many instructions exit in turn, each as its bytes are now", rewritten),
    ("code: an address exits as the page that it maps to now", mapped_elsewhere),
    ("code: an instruction at the end of a page exits as its bytes are now", at_the_end),
];

/// Where there is no memory.
const MMIO: u64 = 0x10_0000;
/// MOV of AL and of EAX to the address in RBX.
const BYTE: [u8; 2] = [0x88, 0x03];
const LONG: [u8; 2] = [0x89, 0x03];

/// A guest in 64-bit mode whose RBX is [`MMIO`].
fn guest(c: &Ctx, code: &[u8], regs: kvm_regs) -> Guest {
    let g = Guest::new(c, code);
    start(&g.vcpu, 0x1000);
    g.enter_long_mode();
    let r = g.vcpu.get_regs().unwrap();
    g.vcpu.set_regs(&kvm_regs { rbx: MMIO, rip: r.rip, rsp: r.rsp, rflags: r.rflags, ..regs }).unwrap();
    g
}

/// Runs until a write to [`MMIO`], and returns how many bytes it has.
#[track_caller]
fn written(g: &mut Guest) -> usize {
    match g.exit() {
        VcpuExit::MmioWrite(MMIO, data) => data.len(),
        other => panic!("{other:?}, expected a write to {MMIO:#x}"),
    }
}

fn rewritten(c: &Ctx) {
    // More than any hypervisor is likely to remember; NOPs between, and a JMP back at the end.
    const COUNT: usize = 40;
    const STRIDE: usize = 37;
    let mut code = vec![0x90; COUNT * STRIDE];
    for place in code.chunks_exact_mut(STRIDE) {
        place[..2].copy_from_slice(&BYTE);
    }
    let back = -(code.len() as i32 + 5);
    code.push(0xe9);
    code.extend(back.to_le_bytes());
    let mut g = guest(c, &code, kvm_regs::default());

    for round in 0..6 {
        let is_long = |i: usize| (i * 7 + round * 5) % 3 == 0;
        for i in 0..COUNT {
            g.memory.write(0x1000 + i * STRIDE, if is_long(i) { &LONG } else { &BYTE });
        }
        for i in 0..COUNT {
            let bytes = if is_long(i) { 4 } else { 1 };
            assert_eq!(written(&mut g), bytes, "round {round}, instruction {i}");
            if i == 0 {
                // Changed behind its back, this one exits as it was when it was executed.
                g.memory.write(0x1000, &BYTE);
            }
        }
    }
}

fn mapped_elsewhere(c: &Ctx) {
    // At 0x1000: a reload of CR3, and a JMP to RDI. There: the write, and a JMP to RSI.
    let reload = [0x0f, 0x20, 0xd9, 0x0f, 0x22, 0xd9, 0xff, 0xe7];
    let regs = kvm_regs { rsi: 0x1000, rdi: 0x20_0000, ..Default::default() };
    let mut g = guest(c, &reload, regs);
    for (page, write) in [(0x2000, BYTE), (0x3000, LONG)] {
        g.memory.write(page, &write);
        g.memory.write(page + 2, &[0xff, 0xe6]);
    }
    g.memory.write(0xb008, &0xd003u64.to_le_bytes());

    for round in 0..8 {
        let (page, bytes) = if round % 3 == 0 { (0x2003u64, 1) } else { (0x3003, 4) };
        g.memory.write(0xd000, &page.to_le_bytes());
        assert_eq!(written(&mut g), bytes, "round {round}");
        assert_eq!(written(&mut g), bytes, "round {round} once more");
    }
}

fn at_the_end(c: &Ctx) {
    // So many bytes of the instruction lie in the first page: a MOV of one byte or of four to the address in RBX, seven
    // bytes long, the last one of its value, which is repeated by the JMP behind it.
    const BYTE: [u8; 7] = [0xc6, 0x83, 0, 0, 0, 0, 0x5a];
    const LONG: [u8; 7] = [0xc7, 0x43, 0, 0, 0, 0, 0x5a];
    for inside in 1..=20 {
        let at = 0x2000 - inside;
        let mut g = guest(c, &[0xff, 0xe7], kvm_regs { rdi: at as u64, ..Default::default() });
        g.memory.write(at + 7, &[0xff, 0xe7]);
        for round in 0..8 {
            let (code, bytes) = if round % 3 == 1 { (LONG, 4) } else { (BYTE, 1) };
            g.memory.write(at, &code);
            for value in [0x5a, 0x5a, 0x77] {
                g.memory.write(at + 6, &[value]);
                match g.exit() {
                    VcpuExit::MmioWrite(MMIO, data) => {
                        assert_eq!(
                            (data.len(), data[bytes - 1]),
                            (bytes, value),
                            "{inside} inside, round {round}"
                        );
                    }
                    other => panic!("{other:?}, expected a write to {MMIO:#x}"),
                }
            }
        }
    }
}
