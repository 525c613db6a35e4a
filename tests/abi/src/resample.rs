// SPDX-License-Identifier: GPL-2.0

//! Irqfds whose line stays high until the guest ends its interrupt, and that tell of the end: KVM_IRQFD_FLAG_RESAMPLE.

use crate::abi::nr;
use crate::apic::{store, APIC};
use crate::chips::{ioapic, mask_pics, pin, route, set_entry};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::{enable_lapic, run_a_while, set_line};
use crate::raw::{self, ioctl_with, irqchip_bytes as state_bytes, EventFd};
use kvm_bindings::*;
use kvm_ioctls::VmFd;
use libc::{EBADF, EBUSY, EINTR, EINVAL};
use std::os::fd::AsRawFd;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("resample: the capability is there", capability),
    ("resample: the end at the 8259 lowers the line and signals", pic_level),
    ("resample: an edge at the 8259 ends too", pic_edge),
    ("resample: the end at the ioapic lowers the line and signals", ioapic_level),
    ("resample: an edge at the ioapic ends too", ioapic_edge),
    ("resample: a device that still asks gets another interrupt", asks_again),
    ("resample: several on a gsi share its line and are all told", shared),
    ("resample: user space holds the line too", held_by_user_space),
    ("resample: the last one that goes lowers the line", deassign),
    ("resample: one that is signalled already raises its interrupt", pending),
    ("resample: impossible ones are refused", bad),
];

/// A line that the 8259 lets be level triggered, and its vector after [`pic_guest`].
const LINE: u32 = 3;
const LINE_VECTOR: usize = 11;
/// A pin that only the I/O APIC has, and the vector that tests give it.
const PIN: u32 = 20;
const PIN_VECTOR: usize = 0x46;
/// Level triggered, in a redirection entry.
const LEVEL: u64 = 1 << 15;

fn capability(c: &Ctx) {
    assert_eq!(raw::ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_IRQFD_RESAMPLE.into()), Ok(1));
}

fn irqfd(vm: &VmFd, event: &EventFd, gsi: u32, resample: &EventFd) -> Result<i32, i32> {
    let [fd, resamplefd] = [event, resample].map(|e| e.as_raw_fd() as u32);
    let flags = KVM_IRQFD_FLAG_RESAMPLE;
    ioctl_with(vm, nr::IRQFD, &mut kvm_irqfd { fd, gsi, flags, resamplefd, ..Default::default() })
}

/// Signals, and leaves KVM the time to hear of it: it does so by a thread.
fn signal(event: &EventFd) {
    event.signal();
    std::thread::sleep(Duration::from_millis(50));
}

/// Takes an irqfd back, which names no resamplefd.
fn take_back(vm: &VmFd, event: &EventFd, gsi: u32) {
    let fd = event.as_raw_fd() as u32;
    let mut a = kvm_irqfd { fd, gsi, flags: KVM_IRQFD_FLAG_DEASSIGN, ..Default::default() };
    ioctl_with(vm, nr::IRQFD, &mut a).unwrap();
}

/// out PORT, al
fn out(port: u8) -> [u8; 2] {
    [0xe6, port]
}

/// A guest that waits for [`LINE`] at the 8259, level triggered if `elcr` says so. Its handler writes to port 0x10, ends
/// the interrupt, and writes to port 0x12.
fn pic_guest(c: &Ctx, elcr: u8) -> Guest {
    let mut code = crate::irq::pic_guest(!(1 << LINE));
    // Before the STI: mov dx, 0x4d0; mov al, ELCR; out dx, al
    let sti = code.len() - 6;
    code.splice(sti..sti, [0xba, 0xd0, 0x04, 0xb0, elcr, 0xee]);
    let mut g = Guest::with_irqchip(c, &code);
    // mov al, 0x20; out 0x20, al; iret
    g.handler(
        LINE_VECTOR,
        0x2000,
        &[&out(0x10)[..], &[0xb0, 0x20, 0xe6, 0x20], &out(0x12), &[0xcf]].concat(),
    );
    enable_lapic(&g);
    assert_eq!(g.out().0, 0x11, "initialized");
    g
}

/// The same of [`PIN`] at the I/O APIC; `flags` are those of its redirection entry.
fn ioapic_guest(c: &Ctx, flags: u64) -> Guest {
    let mut g = Guest::with_irqchip(c, &[&out(0x11)[..], &[0xfb, HLT, 0xeb, 0xfd]].concat());
    let mut s = g.vcpu.get_sregs().unwrap();
    s.ds.base = APIC;
    g.vcpu.set_sregs(&s).unwrap();
    let handler = [&out(0x10)[..], &store(0xb0, 0), &out(0x12), &[0xcf]].concat();
    g.handler(PIN_VECTOR, 0x2000, &handler);
    enable_lapic(&g);
    mask_pics(&g.vm);
    set_entry(&g.vm, PIN as usize, flags | PIN_VECTOR as u64);
    assert_eq!(g.out().0, 0x11, "initialized");
    g
}

/// Guests whose interrupts are level triggered, and the GSIs that they wait for.
fn level_guests(c: &Ctx) -> [(Guest, u32); 2] {
    [(pic_guest(c, 1 << LINE), LINE), (ioapic_guest(c, LEVEL), PIN)]
}

/// Returns whether the I/O APIC has the line of [`PIN`] high.
fn is_pin_high(vm: &VmFd) -> bool {
    let mut state = ioapic(vm);
    let [_, _, irr, ..] = state_bytes(&mut state)[16..] else { unreachable!() };
    irr >> (PIN - 16) & 1 != 0
}

/// The guest takes the interrupt and ends it; `resample` is signalled with that and not before.
#[track_caller]
fn takes_and_ends(g: &mut Guest, resample: &EventFd) {
    assert_eq!(g.out().0, 0x10);
    assert_eq!(resample.take(), 0, "not ended yet");
    assert_eq!(g.out().0, 0x12);
    assert_eq!(resample.take(), 1, "ended once");
}

#[track_caller]
fn is_quiet(g: &mut Guest) {
    assert_eq!(run_a_while(g), Err(EINTR), "no interrupt comes");
}

fn comes_and_ends(g: &mut Guest, gsi: u32) {
    let (event, resample) = (EventFd::new(), EventFd::new());
    irqfd(&g.vm, &event, gsi, &resample).unwrap();
    for _ in 0..2 {
        event.signal();
        takes_and_ends(g, &resample);
        is_quiet(g);
        assert_eq!((event.take(), resample.take()), (0, 0));
    }
}

fn pic_level(c: &Ctx) {
    comes_and_ends(&mut pic_guest(c, 1 << LINE), LINE);
}

fn pic_edge(c: &Ctx) {
    comes_and_ends(&mut pic_guest(c, 0), LINE);
}

fn ioapic_level(c: &Ctx) {
    comes_and_ends(&mut ioapic_guest(c, LEVEL), PIN);
}

fn ioapic_edge(c: &Ctx) {
    comes_and_ends(&mut ioapic_guest(c, 0), PIN);
}

fn asks_again(c: &Ctx) {
    for (mut g, gsi) in level_guests(c) {
        let (event, resample) = (EventFd::new(), EventFd::new());
        irqfd(&g.vm, &event, gsi, &resample).unwrap();
        event.signal();
        for _ in 0..3 {
            assert_eq!(g.out().0, 0x10);
            assert_eq!(g.out().0, 0x12);
            assert_eq!(resample.take(), 1);
            event.signal();
        }
        takes_and_ends(&mut g, &resample);
        is_quiet(&mut g);
    }
}

fn shared(c: &Ctx) {
    let mut g = ioapic_guest(c, LEVEL);
    let events = [EventFd::new(), EventFd::new()];
    let resamples = [EventFd::new(), EventFd::new()];
    for (event, resample) in events.iter().zip(&resamples) {
        irqfd(&g.vm, event, PIN, resample).unwrap();
    }

    events[1].signal();
    takes_and_ends(&mut g, &resamples[0]);
    assert_eq!(resamples[1].take(), 1);

    events.iter().for_each(signal);
    assert_eq!(g.out().0, 0x10);
    assert_eq!(g.out().0, 0x12);
    assert_eq!(resamples.each_ref().map(EventFd::take), [1, 1], "one line, one end");
    is_quiet(&mut g);

    take_back(&g.vm, &events[0], PIN);
    events[1].signal();
    takes_and_ends(&mut g, &resamples[1]);
    assert_eq!(resamples[0].take(), 0, "it is told no more");
}

fn held_by_user_space(c: &Ctx) {
    for (mut g, gsi) in level_guests(c) {
        let (event, resample) = (EventFd::new(), EventFd::new());
        irqfd(&g.vm, &event, gsi, &resample).unwrap();
        set_line(&g, gsi, 1);
        takes_and_ends(&mut g, &resample);
        takes_and_ends(&mut g, &resample);

        signal(&event);
        assert_eq!(g.out().0, 0x10);
        set_line(&g, gsi, 0);
        assert_eq!(g.out().0, 0x12);
        is_quiet(&mut g);
    }
}

fn deassign(c: &Ctx) {
    // A pin that is masked takes no interrupt, and its line shows in the state.
    let mut g = ioapic_guest(c, LEVEL | 1 << 16);
    let (events, resample) = ([EventFd::new(), EventFd::new()], EventFd::new());
    for event in &events {
        irqfd(&g.vm, event, PIN, &resample).unwrap();
        signal(event);
    }

    let mut high = vec![is_pin_high(&g.vm)];
    for event in &events {
        take_back(&g.vm, event, PIN);
        high.push(is_pin_high(&g.vm));
    }

    assert_eq!(high, [true, true, false]);
    set_entry(&g.vm, PIN as usize, LEVEL | PIN_VECTOR as u64);
    is_quiet(&mut g);
    assert_eq!(resample.take(), 0);
    events[0].signal();
    assert_eq!(events[0].take(), 1, "nobody consumes it");
}

fn pending(c: &Ctx) {
    let mut g = ioapic_guest(c, LEVEL);
    let (event, resample) = (EventFd::new(), EventFd::new());
    event.signal();

    irqfd(&g.vm, &event, PIN, &resample).unwrap();

    takes_and_ends(&mut g, &resample);
    is_quiet(&mut g);
}

fn bad(c: &Ctx) {
    let (event, resample) = (EventFd::new(), EventFd::new());
    refused(irqfd(&c.vm(), &event, 1, &resample), &[EINVAL]);
    let vm = c.vm();
    vm.create_irq_chip().unwrap();
    route(&vm, [pin(4, KVM_IRQCHIP_IOAPIC, 4)]).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    let fd = event.as_raw_fd() as u32;
    let flags = KVM_IRQFD_FLAG_RESAMPLE;

    for (resamplefd, errno) in [(u32::MAX, EBADF), (file.as_raw_fd() as u32, EINVAL)] {
        let mut a = kvm_irqfd { fd, gsi: 4, flags, resamplefd, ..Default::default() };
        refused(ioctl_with(&vm, nr::IRQFD, &mut a), &[errno]);
    }
    irqfd(&vm, &event, 4, &resample).expect("nothing of the failures is left");
    refused(irqfd(&vm, &event, 4, &resample), &[EBUSY]);
    refused(irqfd(&vm, &event, 5, &resample), &[EBUSY]);
    irqfd(&vm, &resample, 5, &event).expect("each tells of the other's end");
}
