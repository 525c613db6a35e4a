// SPDX-License-Identifier: GPL-2.0

//! Who takes an interrupt message, what comes of one that nobody takes, and INIT.

use crate::abi::nr;
use crate::chips::{entry, ioapic, pin, route, set_entry};
use crate::guest::{start, Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::irq::{enable_lapic, pic_guest, report, send, set_line};
use crate::raw::{ioctl_with, EventFd};
use kvm_bindings::*;
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = &[
    ("apic: the 8259's interrupt waits while the ioapic is read", read_ioapic),
    ("apic: the 8259's interrupt waits while the ioapic is written", write_ioapic),
    ("apic: the 8259's interrupt waits while its state is looked at", look_at_state),
    ("apic: the 8259's interrupt waits while a route is set", set_route),
    ("apic: the 8259's interrupt waits while an eventfd becomes an interrupt", set_irqfd),
    ("apic: a level pin does not wait for the end of what nobody took", level_to_nobody),
    ("apic: one disabled by software takes no message", software_disabled),
    ("apic: lowest priority to all others spares the sender", lowest_others),
    ("apic: lowest priority goes to who is enabled", lowest_enabled),
    ("apic: a base that user space sets counts for senders and cpuid", base_by_sregs),
    ("apic: an impossible base is refused", bad_base),
    ("apic: the command register keeps all bits but the busy one", icr_bits),
    ("apic: x2apic mode is refused where cpuid lacks it", no_x2apic),
    ("apic: init keeps what the processor keeps and ends what kvm ends", init),
];

pub const APIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;
/// Redirection entry: waits for the end of its interrupt.
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
/// mov cx, 1000; loop $
const WHILE: &[u8] = &[0xb9, 0xe8, 0x03, 0xe2, 0xfe];

/// mov dword [at], value
pub fn store(at: u16, value: u32) -> Vec<u8> {
    [&[0x66, 0xc7, 0x06][..], &at.to_le_bytes(), &value.to_le_bytes()].concat()
}

fn wrmsr(index: u32, value: u64) -> Vec<u8> {
    let mut code = Vec::new();
    for (mov, value) in [(0xb9, index), (0xb8, value as u32), (0xba, (value >> 32) as u32)] {
        code.extend([0x66, mov]);
        code.extend(value.to_le_bytes());
    }
    code.extend([0x0f, 0x30]);
    code
}

/// A guest in real mode whose DS begins at `base`.
pub fn guest_at(c: &Ctx, base: u64, code: &[&[u8]]) -> Guest {
    let g = Guest::with_irqchip(c, &code.concat());
    enable_lapic(&g);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.ds.base = base;
    g.vcpu.set_sregs(&s).unwrap();
    g
}

/// A guest that initializes the 8259, and after its first OUT does `access` on the IOAPIC's page with interrupts
/// off before it takes line 1's interrupt.
fn waiting(c: &Ctx, access: &[u8]) -> Guest {
    let mut code = pic_guest(0xfd);
    // Without sti, hlt, jmp.
    code.truncate(code.len() - 4);
    let mut g = guest_at(c, IOAPIC, &[&code, access, &[0xfb], WHILE, &report(0)]);
    g.handler(9, 0x2000, &report(9));
    assert_eq!(g.out(), (0x11, 0), "initialized");
    set_line(&g, 1, 1);
    g
}

fn read_ioapic(c: &Ctx) {
    // mov eax, [0]
    assert_eq!(waiting(c, &[0x66, 0xa1, 0, 0]).out(), (0x10, 9));
}

fn write_ioapic(c: &Ctx) {
    assert_eq!(waiting(c, &store(0, 1)).out(), (0x10, 9));
}

fn look_at_state(c: &Ctx) {
    let mut g = waiting(c, &[]);
    ioapic(&g.vm);

    assert_eq!(g.out(), (0x10, 9));
}

fn set_route(c: &Ctx) {
    let mut g = waiting(c, &[]);
    route(&g.vm, [pin(1, KVM_IRQCHIP_PIC_MASTER, 1), pin(1, KVM_IRQCHIP_IOAPIC, 1)]).unwrap();

    assert_eq!(g.out(), (0x10, 9));
}

fn set_irqfd(c: &Ctx) {
    let mut g = waiting(c, &[]);
    let event = EventFd::new();
    let mut irqfd = kvm_irqfd { fd: event.as_raw_fd() as u32, gsi: 5, ..Default::default() };
    ioctl_with(&g.vm, nr::IRQFD, &mut irqfd).unwrap();

    assert_eq!(g.out(), (0x10, 9));
}

fn level_to_nobody(c: &Ctx) {
    // Selects the lower half of entry 20 and writes it: level, vector 0x46.
    let code = [&store(0, 0x10 + 40)[..], &store(0x10, 0x8046), &[0xfb], WHILE, &report(0)];
    let mut g = guest_at(c, IOAPIC, &code);
    g.handler(0x46, 0x2000, &report(0x46));
    let on = g.vcpu.get_lapic().unwrap();
    let mut off = on;
    // SVR.
    off.regs[0xf1] = 0;
    g.vcpu.set_lapic(&off).unwrap();

    set_entry(&g.vm, 20, LEVEL | 0x46);
    set_line(&g, 20, 1);
    assert_eq!(entry(&mut ioapic(&g.vm), 20), LEVEL | 0x46, "nobody has taken it");

    g.vcpu.set_lapic(&on).unwrap();
    assert_eq!(g.out(), (0x10, 0x46));
    assert_eq!(entry(&mut ioapic(&g.vm), 20), LEVEL | REMOTE_IRR | 0x46);
}

fn software_disabled(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);

    assert_eq!(send(&g, APIC as u32, 0x40), 0);

    enable_lapic(&g);
    assert_eq!(send(&g, APIC as u32, 0x40), 1);
}

/// Counts at 0x3000 and ends the interrupt: inc byte ss:[0x3000]; mov dword [0xb0], 0; iret
fn counter() -> Vec<u8> {
    [&[0x36, 0xfe, 0x06, 0x00, 0x30][..], &store(0xb0, 0), &[0xcf]].concat()
}

fn lowest_others(c: &Ctx) {
    // ICR: lowest priority, all but the sender, vector 0x40. Then mov al, ss:[0x3000]; out 0x10, al
    let code = [&[0xfb][..], &store(0x300, 0x000c_4140), WHILE, &[0x36, 0xa0, 0x00, 0x30, 0xe6, 0x10, HLT]];
    let mut g = guest_at(c, APIC, &code);
    g.handler(0x40, 0x2000, &counter());

    assert_eq!(g.out(), (0x10, 0), "interrupts at the sender");
}

fn lowest_enabled(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);
    let second = g.vm.create_vcpu(1).unwrap();
    enable_lapic(&g);

    // Redirection hint, logical, to all.
    for vector in 0x40..0x48 {
        assert_eq!(send(&g, APIC as u32 | 0xff << 12 | 0xc, vector), 1);
    }

    assert_eq!(g.vcpu.get_lapic().unwrap().regs[0x220] as u8, 0xff, "all at the first one");
    assert_eq!(second.get_lapic().unwrap().regs[0x220] as u8, 0);
}

fn base_by_sregs(c: &Ctx) {
    // mov eax, 1; cpuid; hlt -> out, for HLT sleeps: mov eax, edx; shr eax, 9; and al, 1; out 0x10, al
    let code =
        [0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x66, 0x89, 0xd0, 0x66, 0xc1, 0xe8, 9, 0x24, 1, 0xe6, 0x10];
    let mut g = guest_at(c, 0, &[&code]);
    let on = g.vcpu.get_sregs().unwrap();
    let off = kvm_sregs { apic_base: APIC | 1 << 8, ..on };

    g.vcpu.set_sregs(&off).unwrap();
    assert_eq!(send(&g, APIC as u32, 0x40), 0);
    assert_eq!(g.out(), (0x10, 0), "CPUID has no APIC");

    g.vcpu.set_sregs(&on).unwrap();
    enable_lapic(&g);
    start(&g.vcpu, 0x1000);
    assert_eq!(send(&g, APIC as u32, 0x40), 1);
    assert_eq!(g.out(), (0x10, 1), "CPUID has an APIC");
}

fn bad_base(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);
    let s = g.vcpu.get_sregs().unwrap();

    // x2APIC mode without the APIC; a reserved bit; an address that the processor does not have.
    for apic_base in [APIC | 1 << 10, s.apic_base | 1, s.apic_base | 1 << 62] {
        let result = g.vcpu.set_sregs(&kvm_sregs { apic_base, ..s });
        assert_eq!(result.map_err(|e| e.errno()), Err(libc::EINVAL), "{apic_base:#x}");
    }
    assert_eq!(g.vcpu.get_sregs().unwrap().apic_base, s.apic_base);
}

fn icr_bits(c: &Ctx) {
    // To APIC 0x77, which there is none of: vector 0x40, fixed, and all that means nothing.
    let code = [&store(0x310, 0x77ff_ffff)[..], &store(0x300, 0xfff3_3040), &[0xe6, 0x10]];
    let mut g = guest_at(c, APIC, &code);
    assert_eq!(g.out().0, 0x10);

    let lapic = g.vcpu.get_lapic().unwrap();
    let register = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| lapic.regs[at + i] as u8));
    assert_eq!((register(0x310), register(0x300)), (0x7700_0000, 0xfff3_2040));
    g.vcpu.set_lapic(&lapic).unwrap();
    let again = g.vcpu.get_lapic().unwrap();
    assert_eq!(again.regs[0x300..0x320], lapic.regs[0x300..0x320]);
}

fn no_x2apic(c: &Ctx) {
    const X2APIC: u64 = 1 << 10;
    // mov ecx, 0x1b; rdmsr; or ah, 4; wrmsr; out 0x11, al
    let code = [0x66, 0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x80, 0xcc, 0x04, 0x0f, 0x30, 0xe6, 0x11];
    for has in [false, true] {
        let mut g = Guest::with_irqchip(c, &code);
        g.handler(13, 0x2000, &[0xe6, 0x10, HLT]);
        let mut cpuid = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        for leaf in cpuid.as_mut_slice().iter_mut().filter(|leaf| leaf.function == 1) {
            leaf.ecx = if has { leaf.ecx | 1 << 21 } else { leaf.ecx & !(1 << 21) };
        }
        g.vcpu.set_cpuid2(&cpuid).unwrap();

        assert_eq!(g.out().0, if has { 0x11 } else { 0x10 }, "#GP where it lacks it");

        let s = g.vcpu.get_sregs().unwrap();
        assert_eq!(s.apic_base & X2APIC != 0, has);
        let set = g.vcpu.set_sregs(&kvm_sregs { apic_base: s.apic_base | X2APIC, ..s });
        assert_eq!(set.map_err(|e| e.errno()), if has { Ok(()) } else { Err(libc::EINVAL) });
    }
}

fn init(c: &Ctx) {
    /// Number, value before INIT, value after.
    const MSRS: [(u32, u64, u64); 8] = [
        // KVM's end of interrupt, and its clock.
        (0x4b56_4d04, 0x3001, 0),
        (0x4b56_4d01, 0x3101, 0),
        // EFER: SCE.
        (0xc000_0080, 1, 0),
        // STAR, LSTAR, SYSENTER_EIP, PAT, the default type of the MTRRs.
        (0xc000_0081, 0x10_0008 << 32, 0x10_0008 << 32),
        (0xc000_0082, 0x1234_5000, 0x1234_5000),
        (0x176, 0x1234_6000, 0x1234_6000),
        (0x277, 0x0606_0606_0606_0606, 0x0606_0606_0606_0606),
        (0x2ff, 0xc06, 0xc06),
    ];
    let mut code: Vec<u8> = MSRS.iter().flat_map(|m| wrmsr(m.0, m.1)).collect();
    // ICR: INIT to APIC 0.
    for part in [&store(0x310, 0)[..], &store(0x300, 0x4500), &report(0)] {
        code.extend(part);
    }
    let mut g = guest_at(c, APIC, &[&code]);

    // There is no memory where the processor starts again.
    let end = format!("{:?}", g.vcpu.run());

    assert!(!end.contains("IoOut"), "{end}");
    let (s, r) = (g.vcpu.get_sregs().unwrap(), g.vcpu.get_regs().unwrap());
    assert_eq!((s.cs.base, r.rip), (0xffff_0000, 0xfff0), "{end}");
    assert_eq!((s.cr0 & 0x1f, s.apic_base), (0x10, APIC | 0x900));
    let list = MSRS.map(|(index, ..)| kvm_msr_entry { index, ..Default::default() });
    let mut got = Msrs::from_entries(&list).unwrap();
    assert_eq!(g.vcpu.get_msrs(&mut got).unwrap(), MSRS.len());
    for (entry, (index, _, after)) in got.as_slice().iter().zip(MSRS) {
        assert_eq!(entry.data, after, "MSR {index:#x}");
    }
    assert_eq!(send(&g, APIC as u32, 0x40), 0, "the local APIC is disabled again");
}
