// SPDX-License-Identifier: GPL-2.0

//! Accesses that lie in two pages, of which one or both are no memory: each part goes where its page is.

use crate::abi::nr;
use crate::guest::{start, Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::irq::enable_lapic;
use crate::raw::{ioctl_with, EventFd};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = &[
    ("crossing: a store from memory into a device", store_into_device),
    ("crossing: a store from a device into memory", store_into_memory),
    ("crossing: a store of an odd number of bytes to each page", store_odd),
    ("crossing: a store from one device into another", store_devices),
    ("crossing: a store into a device signals no eventfd by its whole length", store_signals),
    ("crossing: a store from memory into the local apic", store_lapic),
    ("crossing: a store in a real-mode segment", store_real),
    ("crossing: a load from memory and a device", load_into_device),
    ("crossing: a load from a device and memory", load_into_memory),
    ("crossing: a load from two devices", load_devices),
    ("crossing: the part in memory is loaded and stored once", once),
    ("crossing: a sum is read and written in both pages", add),
    ("crossing: a locked exchange reads and writes both pages", exchange),
    ("crossing: a compare-exchange that fails writes nothing new", compare),
    ("crossing: string instructions store and load both pages", strings),
    ("crossing: a string goes on from page to page, memory and device in turn", long_string),
    ("crossing: a push into a device", push),
    ("crossing: a device's word goes into two pages of memory far apart", scattered),
];

/// Physical addresses where there is no memory.
const DEVICE: u64 = 0x10_0000;
const OTHER: u64 = 0x30_0000;
/// Linear addresses of pages, in this order, and what they map.
const PAGES: u64 = 0x20_0000;
const MAPS: [u64; 7] = [0x3000, DEVICE, 0x4000, DEVICE, OTHER, 0x7000, 0x5000];
/// The boundaries between them.
const INTO_DEVICE: u64 = PAGES + 0x1000;
const INTO_MEMORY: u64 = PAGES + 0x2000;
const DEVICES: u64 = PAGES + 0x4000;
const SCATTERED: u64 = PAGES + 0x6000;
const VALUE: u64 = 0x1122_3344_5566_7788;

/// An exit that is expected; a read, with what it gives.
enum Io {
    W(u64, &'static [u8]),
    R(u64, &'static [u8]),
}
use Io::{R, W};

/// A guest in 64-bit mode that has the pages of [`MAPS`] at [`PAGES`], RBX at `at`, and RAX of [`VALUE`].
fn guest(c: &Ctx, code: &[u8], at: u64) -> Guest {
    let g = Guest::new(c, &[code, &[HLT]].concat());
    paged(&g);
    let r = kvm_regs { rax: VALUE, rbx: at, rip: 0x1000, rsp: 0x8000, rflags: 2, ..Default::default() };
    g.vcpu.set_regs(&r).unwrap();
    g
}

fn paged(g: &Guest) {
    start(&g.vcpu, 0x1000);
    g.enter_long_mode();
    g.memory.write(0xb008, &0xd003u64.to_le_bytes());
    MAPS.iter().enumerate().for_each(|(i, gpa)| g.memory.write(0xd000 + i * 8, &(gpa | 3).to_le_bytes()));
    for page in [0x3000, 0x4000, 0x5000, 0x7000] {
        g.memory.write(page, &[0xcc; 0x1000]);
    }
}

#[track_caller]
fn expect(g: &mut Guest, io: &[Io]) {
    for (n, io) in io.iter().enumerate() {
        match (io, g.exit()) {
            (W(gpa, bytes), VcpuExit::MmioWrite(at, data)) => {
                assert_eq!((at, data as &[u8]), (*gpa, *bytes), "exit {n}")
            }
            (R(gpa, bytes), VcpuExit::MmioRead(at, data)) => {
                assert_eq!((at, data.len()), (*gpa, bytes.len()), "exit {n}");
                data.copy_from_slice(bytes);
            }
            (W(gpa, bytes), other) => {
                panic!("exit {n}: {other:?}, expected a write of {bytes:x?} to {gpa:#x}")
            }
            (R(gpa, bytes), other) => {
                panic!("exit {n}: {other:?}, expected a read of {} from {gpa:#x}", bytes.len())
            }
        }
    }
}

/// Runs to HLT with these exits, and returns the registers.
#[track_caller]
fn run(g: &mut Guest, io: &[Io]) -> kvm_regs {
    expect(g, io);
    g.hlt()
}

/// mov [rbx], rax
const STORE: &[u8] = &[0x48, 0x89, 0x03];
/// mov rax, [rbx]
const LOAD: &[u8] = &[0x48, 0x8b, 0x03];

fn store_into_device(c: &Ctx) {
    let mut g = guest(c, STORE, INTO_DEVICE - 4);

    run(&mut g, &[W(DEVICE, &[0x44, 0x33, 0x22, 0x11])]);

    assert_eq!(g.memory.read::<6>(0x3ffa), [0xcc, 0xcc, 0x88, 0x77, 0x66, 0x55]);
}

fn store_into_memory(c: &Ctx) {
    let mut g = guest(c, STORE, INTO_MEMORY - 4);

    run(&mut g, &[W(DEVICE + 0xffc, &[0x88, 0x77, 0x66, 0x55])]);

    assert_eq!(g.memory.read::<5>(0x4000), [0x44, 0x33, 0x22, 0x11, 0xcc]);
}

fn store_odd(c: &Ctx) {
    let mut g = guest(c, STORE, INTO_DEVICE - 1);
    run(&mut g, &[W(DEVICE, &[0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11])]);
    assert_eq!(g.memory.read::<2>(0x3ffe), [0xcc, 0x88]);

    let mut g = guest(c, STORE, INTO_MEMORY - 3);
    run(&mut g, &[W(DEVICE + 0xffd, &[0x88, 0x77, 0x66])]);
    assert_eq!(g.memory.read::<6>(0x4000), [0x55, 0x44, 0x33, 0x22, 0x11, 0xcc]);

    // mov [rbx], eax; mov word [rbx+2], 0x9abc, both with two bytes at most before the boundary
    let mut g = guest(c, &[0x89, 0x03, 0x66, 0xc7, 0x43, 0x02, 0xbc, 0x9a], INTO_DEVICE - 3);
    run(&mut g, &[W(DEVICE, &[0x55]), W(DEVICE, &[0x9a])]);
    assert_eq!(g.memory.read::<4>(0x3ffc), [0xcc, 0x88, 0x77, 0xbc]);
}

fn store_devices(c: &Ctx) {
    let mut g = guest(c, STORE, DEVICES - 6);

    run(&mut g, &[W(DEVICE + 0xffa, &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33]), W(OTHER, &[0x22, 0x11])]);
}

fn store_signals(c: &Ctx) {
    let ioeventfd = |g: &Guest, fd: &EventFd, len| {
        let mut arg = kvm_ioeventfd { addr: DEVICE, len, fd: fd.as_raw_fd(), ..Default::default() };
        ioctl_with(&g.vm, nr::IOEVENTFD, &mut arg).expect("KVM_IOEVENTFD");
    };
    // mov [rbx], eax
    let (mut g, fd) = (guest(c, &[0x89, 0x03], INTO_DEVICE - 2), EventFd::new());
    ioeventfd(&g, &fd, 4);
    run(&mut g, &[W(DEVICE, &[0x66, 0x55])]);
    assert_eq!(fd.take(), 0, "a part of the four bytes");
    assert_eq!(g.memory.read::<2>(0x3ffe), [0x88, 0x77]);

    // As the code of `code::known`: whole at first, twice, then across the boundary. mov [rbx], eax; sub bl, 2; …
    let code = [0x89, 0x03, 0x66, 0x01, 0xcb, 0xff, 0xca, 0x75, 0xf7];
    let mut g = guest(c, &code, INTO_DEVICE);
    ioeventfd(&g, &fd, 4);
    let r = g.vcpu.get_regs().unwrap();
    g.vcpu.set_regs(&kvm_regs { rcx: 0, rdx: 3, ..r }).unwrap();
    run(&mut g, &[]);
    assert_eq!(fd.take(), 3);
    g.vcpu.set_regs(&kvm_regs { rcx: 0xfffe, rdx: 2, ..r }).unwrap();
    run(&mut g, &[W(DEVICE, &[0x66, 0x55])]);
    assert_eq!(fd.take(), 1, "the first of the two");
    assert_eq!(g.memory.read::<2>(0x3ffe), [0x88, 0x77]);

    let (mut g, fd) = (guest(c, STORE, INTO_DEVICE - 5), EventFd::new());
    ioeventfd(&g, &fd, 0);
    run(&mut g, &[]);
    assert_eq!(fd.take(), 1, "any length");
    assert_eq!(g.memory.read::<5>(0x3ffb), [0x88, 0x77, 0x66, 0x55, 0x44]);
}

fn store_lapic(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[STORE, LOAD, &[0xe6, 0x10]].concat());
    enable_lapic(&g);
    paged(&g);
    g.memory.write(0xd008, &0xfee0_001bu64.to_le_bytes());
    let r = kvm_regs {
        rax: VALUE,
        rbx: INTO_DEVICE - 4,
        rip: 0x1000,
        rsp: 0x8000,
        rflags: 2,
        ..Default::default()
    };
    g.vcpu.set_regs(&r).unwrap();

    g.out();

    assert_eq!(g.memory.read::<6>(0x3ffa), [0xcc, 0xcc, 0x88, 0x77, 0x66, 0x55]);
    assert_eq!(g.vcpu.get_regs().unwrap().rax & 0xffff_ffff, 0x5566_7788);
}

fn store_real(c: &Ctx) {
    // mov ax, 0x0fff; mov ds, ax; mov dword [0x000e], 0x11223344; hlt: from the last memory into nothing.
    let code = [0xb8, 0xff, 0x0f, 0x8e, 0xd8, 0x66, 0xc7, 0x06, 0x0e, 0x00, 0x44, 0x33, 0x22, 0x11, HLT];
    let mut g = Guest::new(c, &code);

    run(&mut g, &[W(0x1_0000, &[0x22, 0x11])]);

    assert_eq!(g.memory.read::<3>(0xfffd), [0, 0x44, 0x33]);
}

fn load_into_device(c: &Ctx) {
    let mut g = guest(c, LOAD, INTO_DEVICE - 3);
    g.memory.write(0x3ffd, &[1, 2, 3]);

    let r = run(&mut g, &[R(DEVICE, &[4, 5, 6, 7, 8])]);

    assert_eq!(r.rax, 0x0807_0605_0403_0201);
}

fn load_into_memory(c: &Ctx) {
    // movzx eax, word [rbx]
    let mut g = guest(c, &[0x0f, 0xb7, 0x03], INTO_MEMORY - 1);
    g.memory.write(0x4000, &[0x22]);

    assert_eq!(run(&mut g, &[R(DEVICE + 0xfff, &[0x11])]).rax, 0x2211);
}

fn load_devices(c: &Ctx) {
    let mut g = guest(c, LOAD, DEVICES - 4);

    let r = run(&mut g, &[R(DEVICE + 0xffc, &[1, 2, 3, 4]), R(OTHER, &[5, 6, 7, 8])]);

    assert_eq!(r.rax, 0x0807_0605_0403_0201);
}

fn once(c: &Ctx) {
    let mut g = guest(c, &[STORE, LOAD].concat(), INTO_DEVICE - 4);
    expect(&mut g, &[W(DEVICE, &[0x44, 0x33, 0x22, 0x11])]);
    assert_eq!(g.memory.read::<4>(0x3ffc), [0x88, 0x77, 0x66, 0x55], "stored before the device's part");
    g.memory.write(0x3ffc, &[1, 2, 3, 4]);

    expect(&mut g, &[R(DEVICE, &[5, 6, 7, 8])]);
    assert_eq!(g.memory.read::<4>(0x3ffc), [1, 2, 3, 4], "not stored again");
    g.memory.write(0x3ffc, &[9; 4]);

    assert_eq!(g.hlt().rax, 0x0807_0605_0403_0201, "not loaded again");
}

fn add(c: &Ctx) {
    // add [rbx], rax
    let mut g = guest(c, &[0x48, 0x01, 0x03], INTO_DEVICE - 4);
    g.memory.write(0x3ffc, &[0xff; 4]);

    run(&mut g, &[R(DEVICE, &[1, 0, 0, 0]), W(DEVICE, &[0x46, 0x33, 0x22, 0x11])]);

    assert_eq!(g.memory.read::<4>(0x3ffc), [0x87, 0x77, 0x66, 0x55]);
}

fn exchange(c: &Ctx) {
    // xchg [rbx], rax
    let mut g = guest(c, &[0x48, 0x87, 0x03], INTO_MEMORY - 4);
    g.memory.write(0x4000, &[5, 6, 7, 8]);

    let r = run(&mut g, &[R(DEVICE + 0xffc, &[1, 2, 3, 4]), W(DEVICE + 0xffc, &[0x88, 0x77, 0x66, 0x55])]);

    assert_eq!(r.rax, 0x0807_0605_0403_0201);
    assert_eq!(g.memory.read::<4>(0x4000), [0x44, 0x33, 0x22, 0x11]);
}

fn compare(c: &Ctx) {
    // cmpxchg [rbx], ecx
    let mut g = guest(c, &[0x0f, 0xb1, 0x0b], INTO_DEVICE - 2);
    g.memory.write(0x3ffe, &[1, 2]);

    expect(&mut g, &[R(DEVICE, &[3, 4])]);
    // Processors write what was there; whether that is seen is theirs to choose.
    let mut exit = g.exit();
    if let VcpuExit::MmioWrite(DEVICE, data) = &exit {
        assert_eq!(data, &[3, 4]);
        exit = g.exit();
    }
    assert!(matches!(exit, VcpuExit::Hlt), "{exit:?}");

    assert_eq!(g.memory.read::<2>(0x3ffe), [1, 2]);
    assert_eq!(g.vcpu.get_regs().unwrap().rax, 0x0403_0201);
}

fn strings(c: &Ctx) {
    // mov rdi, rbx; stosq; mov rsi, rbx; lodsq
    let code = [0x48, 0x89, 0xdf, 0x48, 0xab, 0x48, 0x89, 0xde, 0x48, 0xad];
    let mut g = guest(c, &code, INTO_DEVICE - 4);

    let r = run(&mut g, &[W(DEVICE, &[0x44, 0x33, 0x22, 0x11]), R(DEVICE, &[1, 2, 3, 4])]);

    assert_eq!(g.memory.read::<4>(0x3ffc), [0x88, 0x77, 0x66, 0x55]);
    assert_eq!(r.rax, 0x0403_0201_5566_7788);
    assert_eq!((r.rsi, r.rdi), (INTO_DEVICE + 4, INTO_DEVICE + 4));
}

fn long_string(c: &Ctx) {
    // mov rdi, rbx; mov esi, 0x7000; mov ecx, 4; rep movsd
    let code = [0x48, 0x89, 0xdf, 0xbe, 0, 0x70, 0, 0, 0xb9, 4, 0, 0, 0, 0xf3, 0xa5];
    let mut g = guest(c, &code, INTO_DEVICE - 6);
    g.memory.write(0x7000, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    let r =
        run(&mut g, &[W(DEVICE, &[6, 7]), W(DEVICE + 2, &[8, 9, 10, 11]), W(DEVICE + 6, &[12, 13, 14, 15])]);

    assert_eq!(g.memory.read::<6>(0x3ffa), [0, 1, 2, 3, 4, 5]);
    assert_eq!((r.rcx, r.rdi), (0, INTO_DEVICE + 10));
}

fn push(c: &Ctx) {
    // lea rsp, [rbx+4]; push rax
    let mut g = guest(c, &[0x48, 0x8d, 0x63, 0x04, 0x50], INTO_DEVICE);

    let r = run(&mut g, &[W(DEVICE, &[0x44, 0x33, 0x22, 0x11])]);

    assert_eq!(g.memory.read::<4>(0x3ffc), [0x88, 0x77, 0x66, 0x55]);
    assert_eq!(r.rsp, INTO_DEVICE - 4);
}

fn scattered(c: &Ctx) {
    // mov rdi, rbx; mov esi, PAGES + 0x1010; movsq
    let code = [0x48, 0x89, 0xdf, 0xbe, 0x10, 0x10, 0x20, 0, 0x48, 0xa5];
    let mut g = guest(c, &code, SCATTERED - 3);

    run(&mut g, &[R(DEVICE + 0x10, &[1, 2, 3, 4, 5, 6, 7, 8])]);

    assert_eq!(g.memory.read::<4>(0x7ffc), [0xcc, 1, 2, 3]);
    assert_eq!(g.memory.read::<6>(0x5000), [4, 5, 6, 7, 8, 0xcc]);
}
