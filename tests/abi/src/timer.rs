// SPDX-License-Identifier: GPL-2.0

//! The interval timer as a kernel's clock.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::enable_lapic;
use crate::raw;
use kvm_bindings::*;
use libc::EINVAL;
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("timer: latched counts go with the time", polled),
    ("timer: latched counts go with the time beside ticks of the local apic", beside_lapic),
    ("timer: a kernel keeps time by latched counts and ticks that it sets one by one", one_shot),
    ("timer: the frequency of the host's tsc may be set", tsc_khz),
    ("timer: a guest that was stopped is told so once, with its clock", stopped),
];

/// What the guest waits for: 20 periods of 0x8000 ticks at 1,193,182 Hz.
const WAIT: Duration = Duration::from_micros(549_254);

/// Adds the differences up as fast as it can.
const POLLING: &[u8] = &[
    // mov al, 0x34; out 0x43, al; mov al, 0; out 0x40, al; mov al, 0x80; out 0x40, al; out 0x11, al
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xb0, 0x80, 0xe6, 0x40, 0xe6, 0x11,
    // xor esi, esi; xor ecx, ecx; mov di, 0x8000; sti
    0x66, 0x31, 0xf6, 0x66, 0x31, 0xc9, 0xbf, 0x00, 0x80, 0xfb,
    // again: xor al, al; out 0x43, al; in al, 0x40; mov bl, al; in al, 0x40; mov bh, al
    0x30, 0xc0, 0xe6, 0x43, 0xe4, 0x40, 0x88, 0xc3, 0xe4, 0x40, 0x88, 0xc7,
    // mov ax, di; sub ax, bx; jnc 1f; add ax, 0x8000; 1: movzx eax, ax; add esi, eax; mov di, bx
    0x89, 0xf8, 0x29, 0xd8, 0x73, 0x03, 0x05, 0x00, 0x80, 0x66, 0x0f, 0xb7, 0xc0, 0x66, 0x01, 0xc6, 0x89,
    0xdf, // inc ecx; cmp esi, 20 * 0x8000; jb again; out 0x12, al
    0x66, 0x41, 0x66, 0x81, 0xfe, 0x00, 0x00, 0x0a, 0x00, 0x72, 0xd7, 0xe6, 0x12, HLT,
];

/// Halts between ticks of the local APIC, whose handler [`TICK`] looks at the count and sets the next one.
const TICKING: &[u8] = &[
    // mov al, 0x34; out 0x43, al; mov al, 0; out 0x40, al; mov al, 0x80; out 0x40, al; out 0x11, al
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xb0, 0x80, 0xe6, 0x40, 0xe6, 0x11,
    // xor esi, esi; mov ebp, 11932; mov di, 0x8000; mov dword [0x380], 632396; sti
    0x66, 0x31, 0xf6, 0x66, 0xbd, 0x9c, 0x2e, 0x00, 0x00, 0xbf, 0x00, 0x80, 0x66, 0xc7, 0x06, 0x80, 0x03,
    0x4c, 0xa6, 0x09, 0x00, 0xfb, // again: hlt; cmp esi, 20 * 0x8000; jb again; out 0x12, al
    HLT, 0x66, 0x81, 0xfe, 0x00, 0x00, 0x0a, 0x00, 0x72, 0xf6, 0xe6, 0x12, HLT,
];

const TICK: &[u8] = &[
    // mov dword [0xb0], 0; inc dword ss:[0x3000]
    0x66, 0xc7, 0x06, 0xb0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x36, 0x66, 0xff, 0x06, 0x00, 0x30,
    // xor al, al; out 0x43, al; in al, 0x40; mov bl, al; in al, 0x40; mov bh, al
    0x30, 0xc0, 0xe6, 0x43, 0xe4, 0x40, 0x88, 0xc3, 0xe4, 0x40, 0x88, 0xc7,
    // mov ax, di; sub ax, bx; and ax, 0x7fff; movzx eax, ax; add esi, eax; mov di, bx
    0x89, 0xf8, 0x29, 0xd8, 0x25, 0xff, 0x7f, 0x66, 0x0f, 0xb7, 0xc0, 0x66, 0x01, 0xc6, 0x89, 0xdf,
    // 2: cmp ebp, esi; ja 3f; add ebp, 11932; jmp 2b
    0x66, 0x39, 0xf5, 0x77, 0x09, 0x66, 0x81, 0xc5, 0x9c, 0x2e, 0x00, 0x00, 0xeb, 0xf2,
    // 3: mov eax, ebp; sub eax, esi; imul eax, eax, 53; mov [0x380], eax; iret
    0x66, 0x89, 0xe8, 0x66, 0x29, 0xf0, 0x66, 0x6b, 0xc0, 0x35, 0x66, 0xa3, 0x80, 0x03, 0xcf,
];

/// A guest whose clock is channel 0 of the timer, in mode 2 with a count of 0x8000, read by latching. Puts out 0x11 at
/// the start and 0x12 when [`WAIT`] has passed by that. DS is at the local APIC.
fn clock_guest(c: &Ctx, code: &[u8]) -> Guest {
    let vm = c.vm();
    vm.set_tss_address(0xfffb_d000).unwrap();
    vm.create_irq_chip().unwrap();
    vm.create_pit2(kvm_pit_config::default()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let g = Guest::of(c, vm, vcpu, code);
    enable_lapic(&g);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.ds.base = 0xfee0_0000;
    g.vcpu.set_sregs(&s).unwrap();
    g
}

/// Sets registers of the local APIC by their offsets.
fn set_lapic(g: &Guest, registers: &[(usize, u32)]) {
    let mut lapic = g.vcpu.get_lapic().unwrap();
    for &(at, value) in registers {
        for (to, from) in lapic.regs[at..].iter_mut().zip(value.to_le_bytes()) {
            *to = from as _;
        }
    }
    g.vcpu.set_lapic(&lapic).unwrap();
}

/// Runs the guest to its end. Its time may not be ahead of ours, nor stand still: where the host does not run it for a
/// period and more, it loses that much, as on any processor that stops.
fn check(g: &mut Guest, ticks: u8) {
    let start = Instant::now();
    assert_eq!(g.out().0, 0x11);
    assert_eq!(g.out().0, 0x12);
    let (took, seen) = (start.elapsed(), g.memory.read::<1>(0x3000)[0]);
    assert!(took >= WAIT && took < 20 * WAIT, "{took:?} for {WAIT:?}");
    assert!(seen >= ticks, "{seen} ticks");
}

fn polled(c: &Ctx) {
    let mut g = clock_guest(c, POLLING);
    // The 8259 stays away.
    set_lapic(&g, &[(0x350, 0x1_0700)]);

    check(&mut g, 0);
}

fn beside_lapic(c: &Ctx) {
    let mut g = clock_guest(c, POLLING);
    // inc dword ss:[0x3000]; mov dword [0xb0], 0; iret
    g.handler(
        0x40,
        0x2000,
        &[0x36, 0x66, 0xff, 0x06, 0x00, 0x30, 0x66, 0xc7, 0x06, 0xb0, 0, 0, 0, 0, 0, 0xcf],
    );
    // Divide by 16; periodic, vector 0x40; every 10 ms.
    set_lapic(&g, &[(0x350, 0x1_0700), (0x3e0, 3), (0x320, 0x2_0040), (0x380, 625_000), (0x390, 625_000)]);

    check(&mut g, 10);
}

fn one_shot(c: &Ctx) {
    let mut g = clock_guest(c, TICKING);
    g.handler(0x40, 0x2000, TICK);
    // Divide by 16; once, vector 0x40.
    set_lapic(&g, &[(0x350, 0x1_0700), (0x3e0, 3), (0x320, 0x40)]);

    check(&mut g, 10);
}

/// MSR_KVM_SYSTEM_TIME_NEW, and the flags in what it points to.
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const FLAGS: usize = 29;
const GUEST_STOPPED: u8 = 1 << 1;

fn stopped(c: &Ctx) {
    const CLOCK: usize = 0x3000;
    let mut g = clock_guest(c, &[0xe6, 0x11, 0xe6, 0x11, 0xe6, 0x11]);
    let is_told = |g: &Guest| g.memory.read::<1>(CLOCK + FLAGS)[0] & GUEST_STOPPED != 0;
    refused(raw::ioctl(&g.vcpu, nr::KVMCLOCK_CTRL, 0), &[EINVAL]);
    let entry = kvm_msr_entry { index: SYSTEM_TIME, data: CLOCK as u64 | 1, ..Default::default() };
    g.vcpu.set_msrs(&Msrs::from_entries(&[entry]).unwrap()).unwrap();
    g.out();
    assert!(!is_told(&g), "it has not been stopped");

    raw::ioctl(&g.vcpu, nr::KVMCLOCK_CTRL, 0).unwrap();
    g.out();
    assert!(is_told(&g), "it has been stopped");

    g.memory.write(CLOCK + FLAGS, &[0]);
    g.vcpu.set_msrs(&Msrs::from_entries(&[entry]).unwrap()).unwrap();
    g.out();
    assert!(!is_told(&g), "it has seen that");
}

fn tsc_khz(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let host = vcpu.get_tsc_khz().unwrap();
    let set = |khz: u32| raw::ioctl(&vcpu, nr::SET_TSC_KHZ, khz.into());

    assert_eq!(set(0), Ok(0));
    assert_eq!(set(host), Ok(0));
    assert_eq!(vcpu.get_tsc_khz().unwrap(), host);
    // One that differs is an offer of this capability.
    if c.kvm.check_extension_raw(KVM_CAP_TSC_CONTROL.into()) == 0 {
        refused(set(host / 2), &[EINVAL]);
    }
}
