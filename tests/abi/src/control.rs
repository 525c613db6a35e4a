// SPDX-License-Identifier: GPL-2.0

//! Control registers and EFER: PAE paging, and that a vCPU takes what its CPUID offers and nothing else.

use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use kvm_bindings::*;
use libc::EINVAL;

pub const TESTS: &[Test] = &[
    ("control: pae paging that user space sets up translates", pae_by_user),
    ("control: a guest turns pae paging on by itself", pae_by_guest),
    ("control: bits of cr4 that cpuid hides are a general protection fault", hidden_cr4),
    ("control: bits of cr4 that cpuid offers can be set", offered_cr4),
    ("control: user space cannot set bits of cr4 that cpuid hides", hidden_sregs),
    ("control: bits of efer that cpuid hides are a general protection fault", hidden_efer),
    ("control: reserved bits of cr0 are ignored", reserved_cr0),
    ("control: the guest finds the caching bits that it set", caching_bits),
    ("control: machine checks that the guest switches off are off for it", mce),
];

const PAE: u64 = 1 << 5;
const MCE: u64 = 1 << 6;
const SMEP: u64 = 1 << 20;
const UMIP: u64 = 1 << 11;
const SVME: u64 = 1 << 12;
const FFXSR: u64 = 1 << 14;

/// Flat segments of 32 bits, and the first 2 MiB mapped to themselves by PAE's tables at 0x9000.
fn protect(g: &Guest, cr0: u64, cr3: u64, cr4: u64) {
    g.memory.write(0x9000, &0xa001u64.to_le_bytes());
    g.memory.write(0xa000, &0x83u64.to_le_bytes());
    let mut s = g.vcpu.get_sregs().unwrap();
    (s.cr0, s.cr3, s.cr4, s.efer) = (cr0, cr3, cr4, 0);
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, db: 1, ..Default::default() };
    s.cs = kvm_segment { selector: 8, type_: 11, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, ..flat };
    (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
    g.vcpu.set_sregs(&s).unwrap();
}

fn pae_by_user(c: &Ctx) {
    // mov al, 0x55; out 0x10, al; mov al, 0x66; out 0x10, al; hlt
    let mut g = Guest::new(c, &[0xb0, 0x55, 0xe6, 0x10, 0xb0, 0x66, 0xe6, 0x10, HLT]);
    protect(&g, 0x8000_0031, 0x9000, PAE);

    assert_eq!(g.out(), (0x10, 0x55));
    g.vcpu.set_sregs(&g.vcpu.get_sregs().unwrap()).unwrap();
    assert_eq!(g.out(), (0x10, 0x66));
}

fn pae_by_guest(c: &Ctx) {
    // mov eax, 0x20; mov cr4, eax; mov eax, 0x9000; mov cr3, eax; mov eax, 0x80000011; mov cr0, eax;
    // mov al, 0x55; out 0x10, al; mov eax, cr3; mov cr3, eax; mov al, 0x66; out 0x10, al; hlt
    let code = [
        0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0, 0xb8, 0x00, 0x90, 0, 0, 0x0f, 0x22, 0xd8, 0xb8, 0x11, 0, 0,
        0x80, 0x0f, 0x22, 0xc0, 0xb0, 0x55, 0xe6, 0x10, 0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, 0xb0, 0x66, 0xe6,
        0x10, HLT,
    ];
    let mut g = Guest::new(c, &code);
    protect(&g, 0x11, 0, 0);

    assert_eq!(g.out(), (0x10, 0x55));
    g.vcpu.set_sregs(&g.vcpu.get_sregs().unwrap()).unwrap();
    assert_eq!(g.out(), (0x10, 0x66));
}

/// mov eax, `value`; mov cr4, eax; hlt
fn set_cr4(value: u64) -> [u8; 10] {
    let [a, b, c, d] = (value as u32).to_le_bytes();
    [0x66, 0xb8, a, b, c, d, 0x0f, 0x22, 0xe0, HLT]
}

/// A guest in real mode that runs `code`, whose #GP handler tells so; its CPUID is what `hide` leaves.
fn told(c: &Ctx, code: &[u8], hide: fn(&mut kvm_cpuid_entry2)) -> Guest {
    let g = Guest::new(c, code);
    g.handler(13, 0x2000, &[0xb0, 13, 0xe6, 0x10, HLT]);
    let mut list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    list.as_mut_slice().iter_mut().for_each(hide);
    g.vcpu.set_cpuid2(&list).unwrap();
    g
}

/// Hides SMEP and UMIP.
fn hide_smep(e: &mut kvm_cpuid_entry2) {
    if (e.function, e.index) == (7, 0) {
        e.ebx &= !(1 << 7);
        e.ecx &= !(1 << 2);
    }
}

fn hidden_cr4(c: &Ctx) {
    for bit in [SMEP, UMIP] {
        let mut g = told(c, &set_cr4(bit), hide_smep);
        assert_eq!(g.out(), (0x10, 13), "{bit:#x}");
        assert_eq!(g.vcpu.get_sregs().unwrap().cr4 & bit, 0);
    }
}

fn offered_cr4(c: &Ctx) {
    const OLD: u64 = 0x6bf;
    let mut g = told(c, &set_cr4(OLD), hide_smep);
    g.hlt();
    assert_eq!(g.vcpu.get_sregs().unwrap().cr4, OLD);
}

fn hidden_sregs(c: &Ctx) {
    let g = told(c, &[HLT], hide_smep);
    let s = g.vcpu.get_sregs().unwrap();
    let with = |cr4| kvm_sregs { cr4, ..s };

    assert_eq!(g.vcpu.set_sregs(&with(SMEP)).map_err(|e| e.errno()), Err(EINVAL));
    assert!(g.vcpu.set_sregs(&with(PAE)).is_ok());
}

fn hidden_efer(c: &Ctx) {
    fn hide(e: &mut kvm_cpuid_entry2) {
        if e.function == 0x8000_0001 {
            // SVM; FFXSR.
            e.ecx &= !(1 << 2);
            e.edx &= !(1 << 25);
        }
    }
    for bit in [FFXSR, SVME] {
        // mov ecx, 0xc0000080; mov eax, bit; xor edx, edx; wrmsr; hlt
        let [_, b, _, _] = (bit as u32).to_le_bytes();
        let code = [0x66, 0xb9, 0x80, 0, 0, 0xc0, 0x66, 0xb8, 0, b, 0, 0, 0x66, 0x31, 0xd2, 0x0f, 0x30, HLT];
        let mut g = told(c, &code, hide);
        assert_eq!(g.out(), (0x10, 13), "{bit:#x}");
    }
}

fn reserved_cr0(c: &Ctx) {
    // mov eax, 0x50; mov cr0, eax; mov al, 0x55; out 0x10, al; hlt
    let mut g = Guest::new(c, &[0x66, 0xb8, 0x50, 0, 0, 0, 0x0f, 0x22, 0xc0, 0xb0, 0x55, 0xe6, 0x10, HLT]);
    g.handler(13, 0x2000, &[0xb0, 13, 0xe6, 0x10, HLT]);

    assert_eq!(g.out(), (0x10, 0x55));
}

fn mce(c: &Ctx) {
    // mov eax, MCE; mov cr4, eax; out 0x10, al; xor eax, eax; mov cr4, eax; hlt
    let code =
        [0x66, 0xb8, 0x40, 0, 0, 0, 0x0f, 0x22, 0xe0, 0xe6, 0x10, 0x66, 0x31, 0xc0, 0x0f, 0x22, 0xe0, HLT];
    let mut g = Guest::new(c, &code);

    assert_eq!(g.out(), (0x10, 0x40));
    assert_eq!(g.vcpu.get_sregs().unwrap().cr4 & MCE, MCE);
    g.hlt();
    assert_eq!(g.vcpu.get_sregs().unwrap().cr4 & MCE, 0);
}

fn caching_bits(c: &Ctx) {
    const CD: u64 = 1 << 30;
    const NW: u64 = 1 << 29;
    #[rustfmt::skip]
    let code = [
        0x0f, 0x20, 0xc0, 0x66, 0x89, 0xc3, HLT,            // mov eax, cr0; mov ebx, eax
        0x0c, 0x02, 0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xc1,     // or al, 2; mov cr0, eax; mov ecx, cr0
        0x0f, 0x01, 0xe2, HLT,                              // smsw dx
        0x66, 0x25, 0xff, 0xff, 0xff, 0x9f,                 // and eax, 0x9fffffff
        0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xc6, HLT,            // mov cr0, eax; mov esi, cr0
        0x66, 0x0d, 0x08, 0, 0, 0x40,                       // or eax, 0x40000008
        0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xc7, HLT,            // mov cr0, eax; mov edi, cr0
        0x0f, 0x20, 0xc5, 0x0f, 0x06, 0x0f, 0x20, 0xc3, HLT, // mov ebp, cr0; clts; mov ebx, cr0
    ];
    let mut g = Guest::new(c, &code);
    let cr0 = |g: &Guest| g.vcpu.get_sregs().unwrap().cr0;
    let mut next = || {
        let r = g.hlt();
        (r, cr0(&g))
    };

    let (r, own) = next();
    assert_eq!((r.rbx, own), (CD | NW | 0x10, CD | NW | 0x10), "as reset leaves them");
    let (r, own) = next();
    assert_eq!((r.rcx, r.rdx & 0xffff, own), (CD | NW | 0x12, 0x12, CD | NW | 0x12));
    let (r, own) = next();
    assert_eq!((r.rsi, own), (0x12, 0x12), "cleared");
    let (r, own) = next();
    assert_eq!((r.rdi, own), (CD | 0x1a, CD | 0x1a), "set by the guest itself");
    let (r, own) = next();
    assert_eq!((r.rbp, r.rbx, own), (CD | 0x1a, CD | 0x12, CD | 0x12), "after KVM_RUN has returned");
}
