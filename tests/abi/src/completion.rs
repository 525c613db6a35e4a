// SPDX-License-Identifier: GPL-2.0

//! An access that user space carries out is finished before anything else happens to the vCPU.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::raw::{self, ioctl_with};
use kvm_bindings::{KVM_EXIT_INTR, KVM_EXIT_MMIO};
use kvm_ioctls::VcpuExit;
use libc::EINTR;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("completion: an interrupt comes after the write that user space makes", write_then_interrupt),
    ("completion: an interrupt comes after the read that user space answers", read_then_interrupt),
    ("completion: an nmi comes after the read that user space answers", read_then_nmi),
    ("completion: immediate_exit completes a pending read", immediate_exit_read),
    ("completion: immediate_exit completes a pending write", immediate_exit_write),
    ("completion: immediate_exit leaves the exit reason, a signal does not", exit_reason),
    ("completion: an interrupt does not wait for the end of a long string", long_string),
    ("completion: a long ins is given many elements at once", long_ins),
    ("completion: an interrupt does not wait for the end of a long ins", interrupted_ins),
    ("completion: an ins whose count user space changes goes by the new one", changed_ins),
    ("completion: an answer counts as far as it was asked for", wide_answer),
    ("completion: an instruction with two accesses is begun once", two_accesses),
];

/// mov ax, 0x2000; mov ds, ax; sti; nop
const START: [u8; 7] = [0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xfb, 0x90];
/// mov al, [0x10]
const READ: [u8; 3] = [0xa0, 0x10, 0x00];
/// mov byte [0x10], 0x33
const WRITE: [u8; 5] = [0xc6, 0x06, 0x10, 0x00, 0x33];
/// out 0x10, al; hlt
const END: [u8; 3] = [0xe6, 0x10, HLT];

/// A guest in real mode that goes through [`START`], `access` and [`END`]. The handlers of vector 0x20 and of
/// NMIs are `handler`.
fn guest(c: &Ctx, access: &[u8], handler: &[u8]) -> Guest {
    let g = Guest::new(c, &[&START, access, &END].concat());
    g.handler(0x20, 0x2000, handler);
    g.handler(2, 0x2000, handler);
    g
}

#[track_caller]
fn expect_write(g: &mut Guest, gpa: u64, byte: u8) {
    match g.exit() {
        VcpuExit::MmioWrite(at, data) => assert_eq!((at, data as &[u8]), (gpa, &[byte][..])),
        other => panic!("{other:?}, expected a write to {gpa:#x}"),
    }
}

#[track_caller]
fn answer_read(g: &mut Guest, gpa: u64, byte: u8) {
    match g.exit() {
        VcpuExit::MmioRead(at, data) if at == gpa => data[0] = byte,
        other => panic!("{other:?}, expected a read from {gpa:#x}"),
    }
}

fn write_then_interrupt(c: &Ctx) {
    // mov byte [0x20], 0x5a; mov al, [0x22]; out 0x11, al; iret
    let handler = [0xc6, 0x06, 0x20, 0x00, 0x5a, 0xa0, 0x22, 0x00, 0xe6, 0x11, 0xcf];
    let mut g = guest(c, &WRITE, &handler);

    expect_write(&mut g, 0x2_0010, 0x33);
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x20u32).unwrap();

    expect_write(&mut g, 0x2_0020, 0x5a);
    answer_read(&mut g, 0x2_0022, 0x77);
    assert_eq!(g.out(), (0x11, 0x77));
    assert_eq!(g.out(), (0x10, 0x77), "the write is not made again");
}

/// A read, then an event whose handler reads the same register.
fn read_then(c: &Ctx, event: impl Fn(&Guest)) {
    // xchg al, ah; mov al, [0x10]; out 0x11, al; xchg al, ah; iret
    let handler = [0x86, 0xc4, 0xa0, 0x10, 0x00, 0xe6, 0x11, 0x86, 0xc4, 0xcf];
    let mut g = guest(c, &READ, &handler);

    answer_read(&mut g, 0x2_0010, 0x42);
    event(&g);

    answer_read(&mut g, 0x2_0010, 0x99);
    assert_eq!(g.out(), (0x11, 0x99), "the handler's read is its own");
    assert_eq!(g.out(), (0x10, 0x42), "the read is not made again");
}

fn read_then_interrupt(c: &Ctx) {
    read_then(c, |g| {
        ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x20u32).unwrap();
    });
}

fn read_then_nmi(c: &Ctx) {
    read_then(c, |g| {
        raw::ioctl(&g.vcpu, nr::NMI, 0).unwrap();
    });
}

fn end_at_once(g: &mut Guest) {
    g.vcpu.set_kvm_immediate_exit(1);
    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR);
    g.vcpu.set_kvm_immediate_exit(0);
}

fn immediate_exit_read(c: &Ctx) {
    let mut g = guest(c, &READ, &[HLT]);
    answer_read(&mut g, 0x2_0010, 0x42);

    end_at_once(&mut g);

    let r = g.vcpu.get_regs().unwrap();
    assert_eq!((r.rax & 0xff, r.rip), (0x42, 0x1000 + 7 + 3));
    assert_eq!(g.out(), (0x10, 0x42));
}

fn immediate_exit_write(c: &Ctx) {
    let mut g = guest(c, &WRITE, &[HLT]);
    expect_write(&mut g, 0x2_0010, 0x33);

    end_at_once(&mut g);

    assert_eq!(g.vcpu.get_regs().unwrap().rip, 0x1000 + 7 + 5);
    g.out();
}

fn exit_reason(c: &Ctx) {
    // jmp $
    let mut g = guest(c, &[&WRITE[..], &[0xeb, 0xfe]].concat(), &[HLT]);
    expect_write(&mut g, 0x2_0010, 0x33);

    end_at_once(&mut g);
    assert_eq!(g.vcpu.get_kvm_run().exit_reason, KVM_EXIT_MMIO, "with an access to complete");
    end_at_once(&mut g);
    assert_eq!(g.vcpu.get_kvm_run().exit_reason, KVM_EXIT_MMIO, "with nothing to do");

    let thread = raw::this_thread();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        raw::interrupt(thread);
    });
    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR);
    sender.join().unwrap();
    assert_eq!(g.vcpu.get_kvm_run().exit_reason, KVM_EXIT_INTR);
}

fn long_string(c: &Ctx) {
    // mov si, 0x10; mov di, 0x4000; mov cx, 0x2000; rep movsb
    let code = [0xbe, 0x10, 0x00, 0xbf, 0x00, 0x40, 0xb9, 0x00, 0x20, 0xf3, 0xa4];
    let mut g = guest(c, &code, &[0xe6, 0x11, 0xcf]);
    let mut bytes = Vec::new();
    let mut answered_at = None;

    loop {
        let byte = bytes.len() as u8 ^ 0x5a;
        match g.exit() {
            VcpuExit::MmioRead(_, data) => {
                data.fill(byte);
                bytes.extend(data.iter());
            }
            VcpuExit::IoOut(0x11, _) => answered_at = Some(bytes.len()),
            VcpuExit::IoOut(0x10, _) => break,
            other => panic!("{other:?}, expected a read"),
        }
        if bytes.len() == 2 && answered_at.is_none() {
            ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x20u32).unwrap();
        }
    }

    assert_eq!(bytes.len(), 0x2000);
    assert!(answered_at.expect("the interrupt was taken") < 0x1000, "{answered_at:?}");
    assert_eq!(g.memory.read::<0x2000>(0x4000)[..], bytes[..]);
}

/// cld; mov di, TO; mov cx, COUNT; mov dx, 0x80; rep insb or insw
fn ins(to: u16, count: u16, is_words: bool) -> Vec<u8> {
    let [to, count] = [to, count].map(u16::to_le_bytes);
    let code =
        [0xfc, 0xbf, to[0], to[1], 0xb9, count[0], count[1], 0xba, 0x80, 0, 0xf3, 0x6c + u8::from(is_words)];
    code.to_vec()
}

/// Answers an INS with what no two elements near each other have alike. Returns the bytes, none for another exit.
fn feed(g: &mut Guest, bytes: &mut Vec<u8>) -> usize {
    match g.exit() {
        VcpuExit::IoIn(0x80, data) => {
            for byte in data.iter_mut() {
                *byte = (bytes.len() * 7 + bytes.len() / 256) as u8;
                bytes.push(*byte);
            }
            data.len()
        }
        VcpuExit::IoOut(0x10, _) => 0,
        other => panic!("{other:?}, expected INS"),
    }
}

fn long_ins(c: &Ctx) {
    // Over two ends of pages.
    for (to, is_words) in [(0x3f00, false), (0x3f01, true), (0x3f00, true)] {
        let mut g = Guest::new(c, &[&ins(to, 0x1100, is_words)[..], &END].concat());
        let (mut bytes, mut exits) = (Vec::new(), 0);
        while feed(&mut g, &mut bytes) != 0 {
            exits += 1;
        }

        let len = 0x1100 << u32::from(is_words);
        assert_eq!(bytes.len(), len);
        assert!(exits < len / 32, "{exits} exits");
        assert_eq!(g.memory.read::<0x2200>(to.into())[..len], bytes[..]);
        let r = g.vcpu.get_regs().unwrap();
        assert_eq!((r.rcx, r.rdi), (0, u64::from(to) + len as u64));
    }
}

fn interrupted_ins(c: &Ctx) {
    // sti; nop; rep insb
    let mut g = Guest::new(c, &[&[0xfb, 0x90][..], &ins(0x4000, 0x2000, false), &END].concat());
    // The handler reads the same port.
    g.handler(0x20, 0x2000, &[0x50, 0xe4, 0x80, 0xe6, 0x11, 0x58, 0xcf]);
    let (mut bytes, mut taken_at) = (Vec::new(), None);
    feed(&mut g, &mut bytes);
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x20u32).unwrap();

    loop {
        match g.exit() {
            VcpuExit::IoIn(0x80, data) if data.len() == 1 && taken_at.is_none() => {
                data[0] = 0x5a;
                taken_at = Some(bytes.len());
            }
            VcpuExit::IoIn(0x80, data) => {
                data.fill(bytes.len() as u8);
                bytes.extend(data.iter());
            }
            VcpuExit::IoOut(0x11, data) => assert_eq!(data, [0x5a], "what was given for it"),
            VcpuExit::IoOut(0x10, _) => break,
            other => panic!("{other:?}, expected INS"),
        }
    }

    assert!(taken_at.expect("the interrupt was taken") < 0x1800, "{taken_at:?}");
    assert_eq!(g.memory.read::<0x2000>(0x4000)[..], bytes[..]);
}

fn changed_ins(c: &Ctx) {
    c.skip_on_kvm("KVM takes what it was not given for the elements that are more");
    for (asked, becomes) in [(2, 1), (3, 300), (1, 300), (5, 0)] {
        let mut g = Guest::new(c, &[&ins(0x3000, asked, false)[..], &END].concat());
        let mut bytes = Vec::new();
        feed(&mut g, &mut bytes);
        let mut r = g.vcpu.get_regs().unwrap();
        r.rcx = becomes;
        g.vcpu.set_regs(&r).unwrap();

        while feed(&mut g, &mut bytes) != 0 {}

        let r = g.vcpu.get_regs().unwrap();
        assert_eq!((r.rcx, r.rdi), (0, 0x3000 + becomes), "{asked} become {becomes}");
        let n = becomes as usize;
        assert_eq!(g.memory.read::<300>(0x3000)[..n], bytes[..n]);
        assert_eq!(g.memory.read::<4>(0x3000 + n), [0; 4], "no more than that");
    }
}

fn wide_answer(c: &Ctx) {
    // mov eax, -1; movzx ebx, byte [0x10]; mov cx, [0x12]; mov edx, [0x14]
    let code = [
        0x66, 0x83, 0xc8, 0xff, 0x66, 0x0f, 0xb6, 0x1e, 0x10, 0x00, 0x8b, 0x0e, 0x12, 0x00, 0x66, 0x8b, 0x16,
        0x14, 0x00,
    ];
    let mut g = guest(c, &code, &[HLT]);

    for bytes in [1, 2, 4] {
        match g.exit() {
            VcpuExit::MmioRead(_, data) => assert_eq!(data.len(), bytes),
            other => panic!("{other:?}, expected a read"),
        }
        g.vcpu.get_kvm_run().__bindgen_anon_1.mmio.data = [0xa5; 8];
    }
    g.out();

    let r = g.hlt();
    assert_eq!((r.rbx & 0xffff_ffff, r.rcx & 0xffff, r.rdx & 0xffff_ffff), (0xa5, 0xa5a5, 0xa5a5_a5a5));
    assert_eq!((r.rbx | r.rcx | r.rdx) >> 32, 0);
}

fn two_accesses(c: &Ctx) {
    // A read and a write: not byte [0x10]. The handler writes to the same place.
    let mut g = guest(c, &[0xf6, 0x16, 0x10, 0x00], &[0xc6, 0x06, 0x10, 0x00, 0x11, 0xcf]);

    answer_read(&mut g, 0x2_0010, 0x0f);
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x20u32).unwrap();

    expect_write(&mut g, 0x2_0010, 0xf0);
    expect_write(&mut g, 0x2_0010, 0x11);
    assert_eq!(g.out().0, 0x10);
}
