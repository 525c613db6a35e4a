// SPDX-License-Identifier: GPL-2.0

//! eventfds that raise interrupts, and that the guest's writes signal.

use crate::abi::nr;
use crate::chips::{message, pin, route};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::{enable_lapic, pic_guest, report, set_line};
use crate::raw::{self, ioctl_with, EventFd};
use kvm_bindings::*;
use kvm_ioctls::{Cap, VcpuExit, VmFd};
use libc::{EBADF, EBUSY, EEXIST, EINTR, EINVAL, ENOENT};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("eventfd: the capabilities are there", capabilities),
    ("ioeventfd: out signals instead of exiting", out_signals),
    ("ioeventfd: only the value asked for signals", value_match),
    ("ioeventfd: only the length asked for signals", length_match),
    ("ioeventfd: length 0 takes every length", any_length),
    ("ioeventfd: the port of a chip stays the chip's", chip_port),
    ("ioeventfd: mov to memory signals instead of exiting", mov_signals),
    ("ioeventfd: eight bytes can be matched", eight_bytes),
    ("ioeventfd: a string of outs signals for each", outs_signal),
    ("ioeventfd: several values of one port signal different ones", several_values),
    ("ioeventfd: what could not be told apart is refused", duplicates),
    ("ioeventfd: impossible ones are refused", bad_ioeventfds),
    ("ioeventfd: one that is taken back exits again", ioeventfd_deassign),
    ("irqfd: signalling it raises the interrupt", irqfd),
    ("irqfd: it wakes a vcpu that sleeps in hlt", irqfd_wakes),
    ("irqfd: it can be a message", irqfd_message),
    ("irqfd: it goes where the newest route says", irqfd_rerouted),
    ("irqfd: one that is signalled already raises its interrupt", irqfd_pending),
    ("irqfd: one that is taken back raises nothing", irqfd_deassign),
    ("irqfd: impossible ones are refused", bad_irqfds),
    ("irqfd: an eventfd that is closed is forgotten", irqfd_closed),
    ("irqfd: a vm can go while its eventfds are signalled", irqfd_outlives_vm),
    ("eventfd: guest and user space answer each other without an exit", ping_pong),
];

const PIO: u32 = 1 << kvm_ioeventfd_flag_nr_pio;
const MATCH: u32 = 1 << kvm_ioeventfd_flag_nr_datamatch;
const DEASSIGN: u32 = 1 << kvm_ioeventfd_flag_nr_deassign;
const PORT: u64 = 0x510;

fn capabilities(c: &Ctx) {
    for cap in [Cap::Irqfd, Cap::Ioeventfd] {
        assert!(c.kvm.check_extension(cap), "{cap:?}");
    }
    for cap in [KVM_CAP_IOEVENTFD_NO_LENGTH, KVM_CAP_IOEVENTFD_ANY_LENGTH] {
        assert_eq!(raw::ioctl(&c.kvm, nr::CHECK_EXTENSION, cap.into()), Ok(1), "capability {cap}");
    }
}

fn ioeventfd(
    vm: &VmFd,
    event: &EventFd,
    flags: u32,
    addr: u64,
    len: u32,
    datamatch: u64,
) -> Result<i32, i32> {
    let fd = event.as_raw_fd();
    let mut a = kvm_ioeventfd { datamatch, addr, len, fd, flags, ..Default::default() };
    ioctl_with(vm, nr::IOEVENTFD, &mut a)
}

/// mov dx, PORT
const DX: [u8; 3] = [0xba, 0x10, 0x05];

/// mov al, value; out dx, al
fn out_al(value: u8) -> [u8; 3] {
    [0xb0, value, 0xee]
}

/// `mov dx, PORT`, then `code`, then hlt.
fn at_port(code: &[u8]) -> Vec<u8> {
    [&DX, code, &[HLT]].concat()
}

fn out_signals(c: &Ctx) {
    let mut g = Guest::new(c, &at_port(&[out_al(7), out_al(8)].concat()));
    let event = EventFd::new();
    ioeventfd(&g.vm, &event, PIO, PORT, 1, 0).unwrap();

    g.hlt();

    assert_eq!(event.take(), 2);
}

fn value_match(c: &Ctx) {
    let mut g = Guest::new(c, &at_port(&[out_al(7), out_al(8), out_al(7)].concat()));
    let event = EventFd::new();
    ioeventfd(&g.vm, &event, PIO | MATCH, PORT, 1, 7).unwrap();

    assert_eq!(g.out(), (0x510, 8), "another value goes to user space");
    g.hlt();

    assert_eq!(event.take(), 2);
}

fn length_match(c: &Ctx) {
    // out dx, al; out dx, ax; out dx, eax
    let mut g = Guest::new(c, &at_port(&[0xee, 0xef, 0x66, 0xef]));
    let event = EventFd::new();
    ioeventfd(&g.vm, &event, PIO, PORT, 2, 0).unwrap();

    for expected in [1, 4] {
        match g.exit() {
            VcpuExit::IoOut(0x510, data) => assert_eq!(data.len(), expected),
            other => panic!("{other:?}, expected OUT"),
        }
    }
    g.hlt();

    assert_eq!(event.take(), 1);
}

fn any_length(c: &Ctx) {
    let mut g = Guest::new(c, &at_port(&[0xee, 0xef, 0x66, 0xef]));
    let event = EventFd::new();
    ioeventfd(&g.vm, &event, PIO, PORT, 0, 0).unwrap();

    g.hlt();

    assert_eq!(event.take(), 3);
}

fn chip_port(c: &Ctx) {
    // mov al, 0xa5; out 0x21, al; xor al, al; in al, 0x21: the mask of the PIC
    let mask = [0xb0, 0xa5, 0xe6, 0x21, 0x30, 0xc0, 0xe4, 0x21];
    let mut g = Guest::with_irqchip(c, &[&mask, &DX[..], &[0xee]].concat());
    let event = EventFd::new();
    ioeventfd(&g.vm, &event, PIO, 0x21, 1, 0).unwrap();

    assert_eq!(g.out(), (0x510, 0xa5));

    assert_eq!(event.take(), 0);
    ioeventfd(&g.vm, &event, PIO | DEASSIGN, 0x21, 1, 0).unwrap();
}

/// mov ax, 0x2000; mov ds, ax: DS is above the memory.
const DS: [u8; 5] = [0xb8, 0x00, 0x20, 0x8e, 0xd8];

fn mov_signals(c: &Ctx) {
    // mov byte [0x10], 0x5a; mov word [0x12], 0x1234; mov byte [0x14], 1; mov byte [0x14], 2; mov byte [0x18], 3
    let code = [
        &DS[..],
        &[0xc6, 0x06, 0x10, 0x00, 0x5a, 0xc7, 0x06, 0x12, 0x00, 0x34, 0x12, 0xc6, 0x06, 0x14, 0x00, 1],
        &[0xc6, 0x06, 0x14, 0x00, 2, 0xc6, 0x06, 0x18, 0x00, 3, HLT],
    ];
    let mut g = Guest::new(c, &code.concat());
    let (byte, word, value) = (EventFd::new(), EventFd::new(), EventFd::new());
    ioeventfd(&g.vm, &byte, 0, 0x2_0010, 0, 0).unwrap();
    ioeventfd(&g.vm, &word, MATCH, 0x2_0012, 2, 0x1234).unwrap();
    ioeventfd(&g.vm, &value, MATCH, 0x2_0014, 1, 1).unwrap();

    for (gpa, byte) in [(0x2_0014, 2), (0x2_0018, 3)] {
        match g.exit() {
            VcpuExit::MmioWrite(at, data) => assert_eq!((at, data as &[u8]), (gpa, &[byte][..])),
            other => panic!("{other:?}, expected a write"),
        }
    }
    g.hlt();

    assert_eq!((byte.take(), word.take(), value.take()), (1, 1, 1));
}

fn eight_bytes(c: &Ctx) {
    // mov rax, 0x1122334455667788; mov [0x20040], rax; inc rax; mov [0x20040], rax; hlt
    let code = [
        &[0x48, 0xb8][..],
        &0x1122_3344_5566_7788u64.to_le_bytes(),
        &[0x48, 0x89, 0x04, 0x25, 0x40, 0x00, 0x02, 0x00, 0x48, 0xff, 0xc0],
        &[0x48, 0x89, 0x04, 0x25, 0x40, 0x00, 0x02, 0x00, HLT],
    ];
    let mut g = Guest::new(c, &code.concat());
    g.enter_long_mode();
    let event = EventFd::new();
    ioeventfd(&g.vm, &event, MATCH, 0x2_0040, 8, 0x1122_3344_5566_7788).unwrap();

    match g.exit() {
        VcpuExit::MmioWrite(0x2_0040, data) => assert_eq!(data[0], 0x89),
        other => panic!("{other:?}, expected a write"),
    }
    g.hlt();

    assert_eq!(event.take(), 1);
}

fn outs_signal(c: &Ctx) {
    // cld; mov si, 0x3000; mov cx, 5; rep outsb
    let mut g = Guest::new(c, &at_port(&[0xfc, 0xbe, 0x00, 0x30, 0xb9, 5, 0, 0xf3, 0x6e]));
    let event = EventFd::new();
    ioeventfd(&g.vm, &event, PIO, PORT, 1, 0).unwrap();

    g.hlt();

    assert_eq!(event.take(), 5);
}

fn several_values(c: &Ctx) {
    let code: Vec<u8> = (0..4).chain(0..2).flat_map(out_al).collect();
    let mut g = Guest::new(c, &at_port(&code));
    let events: Vec<EventFd> = (0..4).map(|_| EventFd::new()).collect();
    for (i, event) in events.iter().enumerate().rev() {
        ioeventfd(&g.vm, event, PIO | MATCH, PORT, 1, i as u64).unwrap();
        ioeventfd(&g.vm, event, PIO | MATCH, PORT - 1, 1, i as u64).unwrap();
    }

    g.hlt();

    assert_eq!(events.iter().map(EventFd::take).collect::<Vec<_>>(), [2, 2, 1, 1]);
}

fn duplicates(c: &Ctx) {
    let vm = c.vm();
    let (one, other) = (EventFd::new(), EventFd::new());
    ioeventfd(&vm, &one, PIO | MATCH, PORT, 2, 7).unwrap();

    refused(ioeventfd(&vm, &one, PIO | MATCH, PORT, 2, 7), &[EEXIST]);
    refused(ioeventfd(&vm, &other, PIO | MATCH, PORT, 2, 7), &[EEXIST]);
    refused(ioeventfd(&vm, &other, PIO, PORT, 2, 0), &[EEXIST]);
    refused(ioeventfd(&vm, &other, PIO, PORT, 0, 0), &[EEXIST]);
    ioeventfd(&vm, &other, PIO | MATCH, PORT, 2, 8).unwrap();
    ioeventfd(&vm, &other, PIO, PORT, 1, 0).unwrap();
    ioeventfd(&vm, &other, PIO, PORT + 1, 2, 0).unwrap();
    ioeventfd(&vm, &other, 0, PORT, 2, 0).unwrap();
}

fn bad_ioeventfds(c: &Ctx) {
    let (vm, event) = (c.vm(), EventFd::new());
    let file = std::fs::File::open("/dev/null").unwrap();

    refused(ioeventfd(&vm, &event, PIO, PORT, 3, 0), &[EINVAL]);
    refused(ioeventfd(&vm, &event, PIO, PORT, 16, 0), &[EINVAL]);
    refused(ioeventfd(&vm, &event, PIO | MATCH, PORT, 0, 0), &[EINVAL]);
    refused(ioeventfd(&vm, &event, PIO | 1 << 20, PORT, 1, 0), &[EINVAL]);
    refused(ioeventfd(&vm, &event, 0, u64::MAX, 4, 0), &[EINVAL]);
    for (fd, errno) in [(-1, EBADF), (file.as_raw_fd(), EINVAL)] {
        let mut a = kvm_ioeventfd { addr: PORT, len: 1, fd, flags: PIO, ..Default::default() };
        refused(ioctl_with(&vm, nr::IOEVENTFD, &mut a), &[errno]);
        a.flags |= DEASSIGN;
        refused(ioctl_with(&vm, nr::IOEVENTFD, &mut a), &[errno]);
    }
}

fn ioeventfd_deassign(c: &Ctx) {
    let mut g = Guest::new(c, &at_port(&[out_al(7), out_al(8)].concat()));
    let (event, other) = (EventFd::new(), EventFd::new());
    ioeventfd(&g.vm, &event, PIO, PORT, 1, 0).unwrap();

    refused(ioeventfd(&g.vm, &other, PIO | DEASSIGN, PORT, 1, 0), &[ENOENT]);
    refused(ioeventfd(&g.vm, &event, PIO | DEASSIGN, PORT, 2, 0), &[ENOENT]);
    refused(ioeventfd(&g.vm, &event, PIO | DEASSIGN | MATCH, PORT, 1, 0), &[ENOENT]);
    refused(ioeventfd(&g.vm, &event, DEASSIGN, PORT, 1, 0), &[ENOENT]);
    ioeventfd(&g.vm, &event, PIO | DEASSIGN, PORT, 1, 0).unwrap();
    refused(ioeventfd(&g.vm, &event, PIO | DEASSIGN, PORT, 1, 0), &[ENOENT]);

    assert_eq!(g.out(), (0x510, 7));
    assert_eq!(event.take(), 0);
}

/// Makes an eventfd raise a GSI, or not any more.
pub fn set_irqfd(vm: &VmFd, event: &EventFd, gsi: u32, flags: u32) -> Result<i32, i32> {
    let mut a = kvm_irqfd { fd: event.as_raw_fd() as u32, gsi, flags, ..Default::default() };
    ioctl_with(vm, nr::IRQFD, &mut a)
}

/// A guest that waits for line 1 of the 8259, its vector 9.
fn waiting(c: &Ctx) -> Guest {
    let mut g = Guest::with_irqchip(c, &pic_guest(0xfd));
    g.handler(9, 0x2000, &report(9));
    enable_lapic(&g);
    assert_eq!(g.out(), (0x11, 0), "initialized");
    g
}

fn irqfd(c: &Ctx) {
    let mut g = waiting(c);
    let event = EventFd::new();
    set_irqfd(&g.vm, &event, 1, 0).unwrap();

    event.signal();

    assert_eq!(g.out(), (0x10, 9));
    assert_eq!(event.take(), 0, "consumed");
}

fn irqfd_wakes(c: &Ctx) {
    let mut g = waiting(c);
    let event = EventFd::new();
    set_irqfd(&g.vm, &event, 1, 0).unwrap();

    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            event.signal();
        });
        assert_eq!(g.out(), (0x10, 9));
    });
}

fn irqfd_message(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x43, 0x2000, &report(0x43));
    enable_lapic(&g);
    let event = EventFd::new();
    // The route may come after the irqfd.
    set_irqfd(&g.vm, &event, 24, 0).unwrap();
    route(&g.vm, [message(24, 0x43), pin(4, KVM_IRQCHIP_IOAPIC, 4)]).unwrap();

    event.signal();

    assert_eq!(g.out(), (0x10, 0x43));
}

fn irqfd_rerouted(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    let vectors = [0x43, 0x53, 0x63];
    for (at, vector) in (0x2000..).step_by(0x100).zip(vectors) {
        // mov al, VECTOR; out 0x10, al; iret
        g.handler(vector.into(), at, &[0xb0, vector, 0xe6, 0x10, 0xcf]);
    }
    enable_lapic(&g);
    let event = EventFd::new();
    let other = pin(4, KVM_IRQCHIP_IOAPIC, 4);
    route(&g.vm, [message(24, 0x43), other]).unwrap();
    set_irqfd(&g.vm, &event, 24, 0).unwrap();

    event.signal();
    assert_eq!(g.out(), (0x10, 0x43));
    route(&g.vm, [message(24, 0x53), other]).unwrap();
    event.signal();
    assert_eq!(g.out(), (0x10, 0x53));
    route(&g.vm, [message(25, 0x53), other]).unwrap();
    event.signal();
    assert_eq!(event.take(), 0, "consumed, although nobody hears it");
    route(&g.vm, [message(24, 0x63), other]).unwrap();
    event.signal();
    assert_eq!(g.out(), (0x10, 0x63));
}

fn irqfd_pending(c: &Ctx) {
    let mut g = waiting(c);
    let event = EventFd::new();
    event.signal();

    set_irqfd(&g.vm, &event, 1, 0).unwrap();

    assert_eq!(g.out(), (0x10, 9));
}

fn irqfd_deassign(c: &Ctx) {
    let mut g = waiting(c);
    let event = EventFd::new();
    set_irqfd(&g.vm, &event, 1, 0).unwrap();
    set_irqfd(&g.vm, &event, 7, KVM_IRQFD_FLAG_DEASSIGN).expect("one that is not there is no error");
    set_irqfd(&g.vm, &event, 1, KVM_IRQFD_FLAG_DEASSIGN).unwrap();

    event.signal();

    assert_eq!(event.take(), 1, "nobody consumes it");
    let thread = raw::this_thread();
    std::thread::scope(|s| {
        s.spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            raw::interrupt(thread);
        });
        let result = g.vcpu.run().map(|e| format!("{e:?}")).map_err(|e| e.errno());
        assert_eq!(result, Err(EINTR), "no interrupt came");
    });
    set_irqfd(&g.vm, &event, 1, 0).expect("it can be an irqfd again");
}

fn bad_irqfds(c: &Ctx) {
    let event = EventFd::new();
    refused(set_irqfd(&c.vm(), &event, 1, 0), &[EINVAL]);
    let vm = c.vm();
    vm.create_irq_chip().unwrap();
    set_irqfd(&vm, &event, 1, 0).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();

    refused(set_irqfd(&vm, &event, 1, 0), &[EBUSY]);
    refused(set_irqfd(&vm, &event, 2, 0), &[EBUSY]);
    refused(set_irqfd(&vm, &EventFd::new(), 2, 1 << 15), &[EINVAL]);
    for (fd, errno) in [(u32::MAX, EBADF), (file.as_raw_fd() as u32, EINVAL)] {
        let mut a = kvm_irqfd { fd, gsi: 3, ..Default::default() };
        refused(ioctl_with(&vm, nr::IRQFD, &mut a), &[errno]);
        a.flags = KVM_IRQFD_FLAG_DEASSIGN;
        refused(ioctl_with(&vm, nr::IRQFD, &mut a), &[errno]);
    }
}

fn irqfd_closed(c: &Ctx) {
    let mut g = waiting(c);
    for _ in 0..50 {
        set_irqfd(&g.vm, &EventFd::new(), 1, 0).unwrap();
    }

    set_line(&g, 1, 1);

    assert_eq!(g.out(), (0x10, 9));
}

fn irqfd_outlives_vm(c: &Ctx) {
    let (event, done) = (EventFd::new(), AtomicBool::new(false));
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(SeqCst) {
                event.signal();
            }
        });
        for i in 0..30 {
            let g = Guest::with_irqchip(c, &[HLT]);
            while set_irqfd(&g.vm, &event, 1, 0) == Err(EBUSY) {
                std::thread::yield_now();
            }
            if i % 2 == 0 {
                set_irqfd(&g.vm, &event, 1, KVM_IRQFD_FLAG_DEASSIGN).unwrap();
            }
        }
        done.store(true, SeqCst);
    });
    event.take();
    event.signal();
    assert_eq!(event.take(), 1, "nobody is left who consumes it");
}

fn ping_pong(c: &Ctx) {
    const ROUNDS: u8 = 100;
    // The 8259 for vector 9, then: mov dx, PORT;
    // again: cli; out dx, al; sti; hlt; cmp byte [0x3000], ROUNDS; jb again; mov al, 1; out 0x10, al; hlt
    let mut code = pic_guest(0xfd);
    code.truncate(20);
    code.extend(DX);
    code.extend([
        0xfa, 0xee, 0xfb, HLT, 0x80, 0x3e, 0x00, 0x30, ROUNDS, 0x72, 0xf5, 0xb0, 1, 0xe6, 0x10, HLT,
    ]);
    let mut g = Guest::with_irqchip(c, &code);
    // inc byte [0x3000]; mov al, 0x20; out 0x20, al; iret
    g.handler(9, 0x2000, &[0xfe, 0x06, 0x00, 0x30, 0xb0, 0x20, 0xe6, 0x20, 0xcf]);
    enable_lapic(&g);
    let (kick, call, done) = (EventFd::new(), EventFd::new(), AtomicBool::new(false));
    ioeventfd(&g.vm, &kick, PIO, PORT, 1, 0).unwrap();
    set_irqfd(&g.vm, &call, 1, 0).unwrap();

    let kicks = std::thread::scope(|s| {
        let answerer = s.spawn(|| {
            let mut kicks = 0;
            while !done.load(SeqCst) {
                match kick.take() {
                    0 => std::thread::yield_now(),
                    n => {
                        kicks += n;
                        call.signal();
                    }
                }
            }
            kicks
        });
        let first = g.exit();
        let is_report = matches!(first, VcpuExit::IoOut(0x10, &[1]));
        let first = format!("{first:?}");
        done.store(true, SeqCst);
        assert!(is_report, "{first}, expected the report at the end");
        answerer.join().unwrap()
    });

    // A HLT may end for another reason, and the guest then asks again.
    let rounds = u64::from(ROUNDS);
    assert!((rounds..rounds + 10).contains(&kicks), "{kicks} kicks in {rounds} rounds");
}
