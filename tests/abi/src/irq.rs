// SPDX-License-Identifier: GPL-2.0

//! Interrupt controllers in the kernel: delivery, sleeping in HLT, and starting a second vCPU.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::raw::{self, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::VcpuFd;
use libc::EINTR;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("irq: hlt sleeps in the kernel until a signal", hlt_sleeps),
    ("irq: a line of the first 8259 reaches its handler", pic_line),
    ("irq: a masked line of the 8259 waits", masked_line),
    ("irq: a message reaches the handler of its vector", msi),
    ("irq: a message may name the offset in the local apics' page alone", msi_by_offset),
    ("irq: a message wakes a vcpu that sleeps in hlt", msi_wakes),
    ("irq: a message to nobody is not delivered", msi_to_nobody),
    ("irq: a second vcpu waits for start-up", waits_for_startup),
    ("irq: init and sipi start a second vcpu", startup),
    ("irq: the timer interrupts when it is due", pit),
    ("irq: the timer keeps quiet while another has its line", replaced_pit),
    ("irq: an interrupt that the task priority held back comes when CR8 is lowered", lower_cr8),
    ("irq: the task priority keeps its low bits", low_bits_of_tpr),
    ("irq: one hypercall interrupts many", pv_ipi),
];

/// mov al, VALUE; out 0x10, al; hlt
pub fn report(value: u8) -> [u8; 5] {
    [0xb0, value, 0xe6, 0x10, HLT]
}

/// Initializes the first 8259 for vectors from 8 on with `mask`; then sti; again: hlt; jmp again.
pub fn pic_guest(mask: u8) -> Vec<u8> {
    let mut code = Vec::new();
    for (port, value) in [(0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01), (0x21, mask)] {
        code.extend([0xb0, value, 0xe6, port]);
    }
    code.extend([0xb0, 0, 0xe6, 0x11, 0xfb, HLT, 0xeb, 0xfd]);
    code
}

/// Switches the local APIC on and lets the 8259 through it.
pub fn enable_lapic(g: &Guest) {
    enable_lapic_of(&g.vcpu);
}

/// As [`enable_lapic`], of one vCPU.
pub fn enable_lapic_of(vcpu: &VcpuFd) {
    let mut lapic = vcpu.get_lapic().unwrap();
    let mut set = |register: usize, value: u32| {
        for (to, from) in lapic.regs[register..].iter_mut().zip(value.to_le_bytes()) {
            *to = from as _;
        }
    };
    set(0xf0, 0x1ff);
    set(0x350, 0x700);
    vcpu.set_lapic(&lapic).unwrap();
}

/// Drives a GSI.
pub fn set_line(g: &Guest, gsi: u32, level: u32) {
    ioctl_with(&g.vm, nr::IRQ_LINE, &mut [gsi, level]).unwrap();
}

/// Sends a message.
pub fn send(g: &Guest, address: u32, vector: u32) -> i32 {
    send_to(&g.vm, address, vector).unwrap()
}

/// Sends an NMI to vCPU 0 from any thread. KVM_NMI waits until the vCPU does not run. Returns the errno on failure.
pub fn send_nmi(vm: &impl AsRawFd) -> Result<i32, i32> {
    send_to(vm, 0xfee0_0000, 0x400)
}

fn send_to(vm: &impl AsRawFd, address: u32, data: u32) -> Result<i32, i32> {
    let mut msi = kvm_msi { address_lo: address, data, ..Default::default() };
    ioctl_with(vm, nr::SIGNAL_MSI, &mut msi)
}

/// Runs a guest until a signal that comes in a third of a second.
pub fn run_a_while(g: &mut Guest) -> Result<String, i32> {
    run_vcpu_a_while(&mut g.vcpu)
}

/// As [`run_a_while`], one vCPU.
pub fn run_vcpu_a_while(vcpu: &mut VcpuFd) -> Result<String, i32> {
    let thread = raw::this_thread();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        raw::interrupt(thread);
    });
    let result = vcpu.run().map(|e| format!("{e:?}")).map_err(|e| e.errno());
    sender.join().unwrap();
    result
}

fn hlt_sleeps(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[HLT]);

    assert_eq!(run_a_while(&mut g), Err(EINTR));
}

fn pic_line(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &pic_guest(0xfd));
    g.handler(9, 0x2000, &report(9));
    enable_lapic(&g);
    assert_eq!(g.out(), (0x11, 0), "initialized");

    set_line(&g, 1, 1);

    assert_eq!(g.out(), (0x10, 9));
}

fn masked_line(c: &Ctx) {
    // As `pic_guest`, and after the first OUT unmask line 1: mov al, 0xfd; out 0x21, al; sti; hlt; jmp
    let mut code = pic_guest(0xff);
    code.truncate(24);
    code.extend([0xfb, 0x90, 0x90, 0xb0, 1, 0xe6, 0x11, 0xb0, 0xfd, 0xe6, 0x21, HLT, 0xeb, 0xfd]);
    let mut g = Guest::with_irqchip(c, &code);
    g.handler(9, 0x2000, &report(9));
    enable_lapic(&g);
    assert_eq!(g.out(), (0x11, 0), "initialized");

    set_line(&g, 1, 1);

    assert_eq!(g.out(), (0x11, 1), "interrupts are on, and none came");
    assert_eq!(g.out(), (0x10, 9), "it comes when it is unmasked");
}

fn msi(c: &Ctx) {
    // sti; again: hlt; jmp again
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x40, 0x2000, &report(0x40));
    enable_lapic(&g);

    assert_eq!(send(&g, 0xfee0_0000, 0x40), 1);

    assert_eq!(g.out(), (0x10, 0x40));
    assert_eq!(g.vcpu.get_lapic().unwrap().regs[0x120] as u8 & 1, 1, "in service until its end");
}

fn msi_by_offset(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x40, 0x2000, &report(0x40));
    enable_lapic(&g);

    // As QEMU does: APIC 0, its offset in the APICs' page.
    assert_eq!(send(&g, 0x0000_0000, 0x40), 1);

    assert_eq!(g.out(), (0x10, 0x40));
}

fn msi_wakes(c: &Ctx) {
    let mut g = Guest::with_irqchip(c, &[0xfb, HLT, 0xeb, 0xfd]);
    g.handler(0x41, 0x2000, &report(0x41));
    enable_lapic(&g);

    std::thread::scope(|s| {
        let vm = &g.vm;
        s.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            let mut msi = kvm_msi { address_lo: 0xfee0_0000, data: 0x41, ..Default::default() };
            ioctl_with(vm, nr::SIGNAL_MSI, &mut msi).unwrap();
        });
        match g.vcpu.run().expect("KVM_RUN") {
            kvm_ioctls::VcpuExit::IoOut(0x10, &[0x41]) => {}
            other => panic!("{other:?}, expected OUT"),
        }
    });
}

fn msi_to_nobody(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);

    // Destination 0x77.
    assert!(send(&g, 0xfee7_7000, 0x40) <= 0);
}

fn waits_for_startup(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);
    let mut second = g.vm.create_vcpu(1).unwrap();
    assert_eq!(second.get_mp_state().unwrap().mp_state, KVM_MP_STATE_UNINITIALIZED);
    let thread = raw::this_thread();

    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        raw::interrupt(thread);
    });
    let result = second.run().map(|e| format!("{e:?}")).map_err(|e| e.errno());
    sender.join().unwrap();

    assert!(matches!(result, Err(e) if e == EINTR || e == libc::EAGAIN), "{result:?}");
}

fn pv_ipi(c: &Ctx) {
    let supported = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let features = supported.as_slice().iter().find(|leaf| leaf.function == 0x4000_0001).unwrap().eax;
    assert_ne!(features & 1 << 11, 0, "KVM_FEATURE_PV_SEND_IPI");
    // "Auth": VMMCALL, else VMCALL.
    let call = if raw::cpuid(0).ebx == 0x6874_7541 { 0xd9 } else { 0xc1 };
    // mov eax, 10; mov ebx, LOW; mov ecx, HIGH; mov edx, FIRST; mov esi, ICR; the call; out 0x10, al
    let send = |[low, high, first, icr]: [u32; 4]| {
        let mut code = Vec::new();
        for (mov, value) in [(0xb8, 10), (0xbb, low), (0xb9, high), (0xba, first), (0xbe, icr)] {
            code.extend([0x66, mov]);
            code.extend(value.to_le_bytes());
        }
        code.extend([0x0f, 0x01, call, 0xe6, 0x10]);
        code
    };
    // With 32-bit words bit 1 of the second is APIC 33.
    let calls = [
        [1 << 1, 1 << 1, 0, 0x41],
        [1 << 5, 0, 0, 0x41],
        [0b11, 0, 32, 0x42],
        [1 << 4, 0, 96, 0x41],
        [1, 0, 0, 0x843],
        [1, 0, 0, 0x44],
    ];
    // sti; nop; hlt
    let code = [&calls.map(send).concat()[..], &[0xfb, 0x90, HLT]].concat();
    let mut g = Guest::with_irqchip(c, &code);
    g.handler(0x44, 0x2000, &report(0x44));
    enable_lapic(&g);
    let others = [1, 33, 100].map(|id| g.vm.create_vcpu(id).unwrap());
    others.iter().for_each(enable_lapic_of);

    for taken in [2, 0, 1, 1, 22u8.wrapping_neg(), 1] {
        assert_eq!(g.out(), (0x10, taken));
    }
    assert_eq!(g.out(), (0x10, 0x44), "to the caller itself");

    // The requests for the vectors 0x40 to 0x5f.
    let irr = others.each_ref().map(|v| v.get_lapic().unwrap().regs[0x220] as u8);
    assert_eq!(irr, [1 << 1, 1 << 1 | 1 << 2, 1 << 1]);
}

fn startup(c: &Ctx) {
    // mov eax, 0xfee00300; mov dword [rax], INIT; mov dword [rax], SIPI 2, twice;
    // spin: cmp byte [0x3000], 0x99; jne spin; mov al, 0x99; out 0x10, al; hlt
    let code = [
        0xb8, 0x00, 0x03, 0xe0, 0xfe, 0xc7, 0x00, 0x00, 0x45, 0x0c, 0x00, 0xc7, 0x00, 0x02, 0x46, 0x0c, 0x00,
        0xc7, 0x00, 0x02, 0x46, 0x0c, 0x00, 0x80, 0x3c, 0x25, 0x00, 0x30, 0x00, 0x00, 0x99, 0x75, 0xf6, 0xb0,
        0x99, 0xe6, 0x10, HLT,
    ];
    let mut g = Guest::with_irqchip(c, &code);
    g.enter_long_mode();
    enable_lapic(&g);
    // mov ax, 0; mov ds, ax; mov byte [0x3000], 0x99; again: hlt; jmp again, for a HLT may end early
    g.memory.write(0x2000, &[0xb8, 0, 0, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x30, 0x99, HLT, 0xeb, 0xfd]);
    let mut second = g.vm.create_vcpu(1).unwrap();

    let (tell, told) = mpsc::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let runner = std::thread::spawn(move || {
        tell.send(raw::this_thread()).unwrap();
        loop {
            match second.run() {
                Err(e) if e.errno() == EINTR || e.errno() == libc::EAGAIN => {}
                other => panic!("{other:?}, expected to sleep"),
            }
            if is_done.try_recv().is_ok() {
                return (second.get_sregs().unwrap().cs, second.get_regs().unwrap().rip);
            }
        }
    });
    let thread = told.recv().unwrap();
    std::thread::sleep(Duration::from_millis(100));

    assert_eq!(g.out(), (0x10, 0x99));

    std::thread::sleep(Duration::from_millis(100));
    done.send(()).unwrap();
    while !runner.is_finished() {
        raw::interrupt(thread);
        std::thread::sleep(Duration::from_millis(20));
    }
    let (cs, rip) = runner.join().unwrap();
    assert_eq!((cs.selector, cs.base, rip), (0x200, 0x2000, 0xb));
}

fn pit(c: &Ctx) {
    assert_eq!(pit_guest(c, 0).out(), (0x10, 8));
}

fn replaced_pit(c: &Ctx) {
    let mut g = pit_guest(c, 2);
    let mut state = g.vm.get_pit2().unwrap();
    state.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
    g.vm.set_pit2(&state).unwrap();
    assert_eq!(g.vm.get_pit2().unwrap().flags, KVM_PIT_FLAGS_HPET_LEGACY);

    assert_eq!(run_a_while(&mut g), Err(EINTR), "the other timer interrupts");

    let mut state = g.vm.get_pit2().unwrap();
    state.flags = 0;
    g.vm.set_pit2(&state).unwrap();
    assert_eq!(g.vm.get_pit2().unwrap().flags, 0);
    assert_eq!(g.out(), (0x10, 8));
}

/// A guest in which the timer interrupts soon, once or again and again, as its mode is.
fn pit_guest(c: &Ctx, mode: u8) -> Guest {
    // The 8259 for vector 8, then channel 0 in that mode with a count of 0x1000; sti; hlt.
    let mut code = pic_guest(0xfe);
    code.truncate(20);
    for (port, value) in [(0x43, 0x30 | mode << 1), (0x40, 0x00), (0x40, 0x10)] {
        code.extend([0xb0, value, 0xe6, port]);
    }
    code.extend([0xfb, HLT, 0xeb, 0xfd]);
    let vm = c.vm();
    vm.set_tss_address(0xfffb_d000).unwrap();
    vm.create_irq_chip().unwrap();
    vm.create_pit2(kvm_pit_config::default()).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let g = Guest::of(c, vm, vcpu, &code);
    g.handler(8, 0x2000, &report(8));
    enable_lapic(&g);
    g
}

fn lower_cr8(c: &Ctx) {
    // mov eax, 15; mov cr8, rax; sti; mov edi, 0xfee00300; mov dword [rdi], 0x44040: to itself, vector 0x40;
    // xor eax, eax; mov cr8, rax; mov ecx, 1000; again: dec ecx; jnz again; mov eax, 15; mov cr8, rax;
    // mov al, [0x3000]; out 0x10, al; hlt
    let code = [
        0xb8, 15, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0xfb, 0xbf, 0x00, 0x03, 0xe0, 0xfe, 0xc7, 0x07, 0x40,
        0x40, 4, 0, 0x31, 0xc0, 0x44, 0x0f, 0x22, 0xc0, 0xb9, 0xe8, 3, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xb8,
        15, 0, 0, 0, 0x44, 0x0f, 0x22, 0xc0, 0x8a, 0x04, 0x25, 0, 0x30, 0, 0, 0xe6, 0x10, HLT,
    ];
    // inc byte [0x3000]; mov edi, 0xfee000b0; mov dword [rdi], 0; iretq
    let handler =
        [0xfe, 0x04, 0x25, 0, 0x30, 0, 0, 0xbf, 0xb0, 0, 0xe0, 0xfe, 0xc7, 0x07, 0, 0, 0, 0, 0x48, 0xcf];
    let mut g = Guest::with_irqchip(c, &code);
    enable_lapic(&g);
    g.enter_long_mode_with(&[(0x40, 0x2000, 0, &handler)]);

    assert_eq!(g.out(), (0x10, 1), "handlers that ran while CR8 was 0");
}

fn low_bits_of_tpr(c: &Ctx) {
    c.skip_on_kvm("KVM on AMD keeps what CR8 has of it");
    // mov edi, 0xfee00080; mov dword [rdi], 0x25; mov eax, [rdi]; out 0x10, al; hlt
    let code = [0xbf, 0x80, 0, 0xe0, 0xfe, 0xc7, 0x07, 0x25, 0, 0, 0, 0x8b, 0x07, 0xe6, 0x10, HLT];
    let mut g = Guest::with_irqchip(c, &code);
    enable_lapic(&g);
    g.enter_long_mode_with(&[]);

    let (port, value) = g.out();

    assert_eq!((port, value), (0x10, 0x25));
}
