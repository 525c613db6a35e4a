// SPDX-License-Identifier: GPL-2.0

//! Tiny guests: a few bytes of machine code, and the exits that they cause.

use crate::abi::nr;
use crate::harness::{Ctx, Test};
use crate::raw::{self, ioctl_with, AfterRun, Memory};
use kvm_bindings::*;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use libc::EINTR;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("guest: hlt exits after the instruction", hlt),
    ("guest: out gives port and value", out),
    ("guest: in takes the value that user space gives", input),
    ("guest: a string of outs arrives whole and in order", outs),
    ("guest: a string of outs in 64-bit code crosses a page", long_outs),
    ("guest: writes outside memory exit with address and bytes", mmio_write),
    ("guest: reads outside memory take what user space gives", mmio_read),
    ("guest: immediate_exit alone runs nothing", immediate_exit),
    ("guest: immediate_exit completes a pending in", immediate_exit_completes),
    ("guest: a fault without a handler is a shutdown", triple_fault),
    ("guest: a signal ends the run", signal),
    ("guest: an interrupt is taken when the window opens", interrupt),
    ("guest: an nmi wakes the handler", nmi),
    ("guest: cpuid answers from the vcpu's list", cpuid),
    ("guest: msrs written by the guest are read by user space", wrmsr),
    ("guest: an unknown msr is a general protection fault", bad_rdmsr),
    ("guest: 64-bit code runs", long_mode),
    ("guest: a state that no processor can enter is told, and can be corrected", bad_state),
    ("guest: memory is shared with user space while it runs", shared_memory),
    ("guest: memory is gone when its slot is deleted", deleted_slot),
    ("guest: two vcpus see the same memory", two_vcpus),
    ("guest: single instructions at the end of memory are fetched", end_of_memory),
    ("guest: the caller's local descriptor table and its segments survive a run", local_descriptors),
];

const RAM: u64 = 0x1_0000;
const CODE: u64 = 0x1000;
/// The instruction.
pub const HLT: u8 = 0xf4;

/// A machine with 64 KiB of memory and one vCPU in real mode, all segments at 0.
pub struct Guest {
    /// The vCPU.
    pub vcpu: VcpuFd,
    /// The VM.
    pub vm: VmFd,
    /// Its memory.
    pub memory: Memory,
}

impl Guest {
    /// Puts `code` where the vCPU starts.
    pub fn new(c: &Ctx, code: &[u8]) -> Guest {
        let (vm, vcpu) = c.vcpu();
        Guest::of(c, vm, vcpu, code)
    }

    /// As [`Guest::new`], with interrupt controllers in the kernel.
    pub fn with_irqchip(c: &Ctx, code: &[u8]) -> Guest {
        let vm = c.vm();
        vm.set_tss_address(0xfffb_d000).expect("KVM_SET_TSS_ADDR");
        vm.create_irq_chip().expect("KVM_CREATE_IRQCHIP");
        let vcpu = vm.create_vcpu(0).expect("KVM_CREATE_VCPU");
        Guest::of(c, vm, vcpu, code)
    }

    /// A guest of a VM and vCPU that are there already.
    pub fn of(c: &Ctx, vm: VmFd, vcpu: VcpuFd, code: &[u8]) -> Guest {
        let memory = Memory::new(RAM as usize);
        memory.set_slot(&vm, 0, 0, RAM).unwrap();
        memory.write(CODE as usize, code);
        vcpu.set_cpuid2(&c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();
        start(&vcpu, CODE);
        Guest { vcpu, vm, memory }
    }

    /// Runs until an exit.
    pub fn exit(&mut self) -> VcpuExit<'_> {
        self.vcpu.run().expect("KVM_RUN")
    }

    /// Runs until an OUT, and returns the port and the value.
    #[track_caller]
    pub fn out(&mut self) -> (u16, u8) {
        match self.exit() {
            VcpuExit::IoOut(port, &[value]) => (port, value),
            other => panic!("{other:?}, expected OUT"),
        }
    }

    /// Runs until HLT, and returns the registers.
    #[track_caller]
    pub fn hlt(&mut self) -> kvm_regs {
        match self.exit() {
            VcpuExit::Hlt => self.vcpu.get_regs().unwrap(),
            other => panic!("{other:?}, expected HLT"),
        }
    }

    /// Puts the vCPU into 64-bit mode: the first 2 MiB and those at 0xfee00000 map to themselves.
    pub fn enter_long_mode(&self) {
        let tables =
            [(0x9000, 0xa003u64), (0xa000, 0xb003), (0xb000, 0x83), (0xa018, 0xc003), (0xcfb8, 0xfee0_009b)];
        for (at, entry) in tables {
            self.memory.write(at, &entry.to_le_bytes());
        }
        let mut s = self.vcpu.get_sregs().unwrap();
        (s.cr0, s.cr3, s.cr4, s.efer) = (0x8000_0033, 0x9000, 0x20, 0x500);
        let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
        s.cs = kvm_segment { selector: 8, type_: 11, l: 1, ..flat };
        let data = kvm_segment { selector: 16, type_: 3, db: 1, ..flat };
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        self.vcpu.set_sregs(&s).unwrap();
    }

    /// Puts the vCPU into 64-bit mode with tables for `gates`: vector, address of the handler, its stack in the
    /// TSS (0: the one in use) and its code. The IDT is at 0x4000, the GDT at 0x5000, the TSS at 0x6000; the
    /// first stack in it ends at 0x7800.
    pub fn enter_long_mode_with(&self, gates: &[(usize, u32, u8, &[u8])]) {
        self.enter_long_mode();
        let gdt = [0u64, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_6000_0067, 0];
        for (i, descriptor) in gdt.iter().enumerate() {
            self.memory.write(0x5000 + i * 8, &descriptor.to_le_bytes());
        }
        for (vector, at, ist, code) in gates {
            self.memory.write(*at as usize, code);
            let [low, high] = [u64::from(at & 0xffff), u64::from(at >> 16)];
            let gate = low | 8 << 16 | u64::from(*ist) << 32 | 0x8e00 << 32 | high << 48;
            self.memory.write(0x4000 + vector * 16, &gate.to_le_bytes());
            self.memory.write(0x4008 + vector * 16, &[0; 8]);
        }
        self.memory.write(0x6024, &0x7800u64.to_le_bytes());
        let mut s = self.vcpu.get_sregs().unwrap();
        s.gdt = kvm_dtable { base: 0x5000, limit: 39, ..Default::default() };
        s.idt = kvm_dtable { base: 0x4000, limit: 0xfff, ..Default::default() };
        s.tr = kvm_segment {
            base: 0x6000,
            limit: 0x67,
            selector: 24,
            type_: 11,
            present: 1,
            ..Default::default()
        };
        self.vcpu.set_sregs(&s).unwrap();
    }

    /// Starts the vCPU with these flags, where it starts otherwise.
    pub fn set_flags(&self, rflags: u64) {
        let r = kvm_regs { rip: CODE, rsp: 0x8000, rflags: rflags | 2, ..Default::default() };
        self.vcpu.set_regs(&r).unwrap();
    }

    /// Sets the real-mode handler of `vector` to the code `code` at `at`.
    pub fn handler(&self, vector: usize, at: u16, code: &[u8]) {
        self.memory.write(vector * 4, &[at as u8, (at >> 8) as u8, 0, 0]);
        self.memory.write(at.into(), code);
    }
}

/// Starts a vCPU in real mode at `rip`.
pub fn start(vcpu: &VcpuFd, rip: u64) {
    let mut s = vcpu.get_sregs().unwrap();
    (s.cs.base, s.cs.selector) = (0, 0);
    vcpu.set_sregs(&s).unwrap();
    let r = kvm_regs { rip, rsp: 0x8000, rflags: 2, ..Default::default() };
    vcpu.set_regs(&r).unwrap();
}

fn hlt(c: &Ctx) {
    let mut g = Guest::new(c, &[0x90, HLT]);

    assert_eq!(g.hlt().rip, CODE + 2);
}

fn out(c: &Ctx) {
    // mov dx, 0x3f8; mov al, 'A'; out dx, al; mov al, 'B'; out 0x10, al; hlt
    let mut g = Guest::new(c, &[0xba, 0xf8, 0x03, 0xb0, b'A', 0xee, 0xb0, b'B', 0xe6, 0x10, HLT]);

    assert_eq!(g.out(), (0x3f8, b'A'));
    assert_eq!(g.out(), (0x10, b'B'));
    g.hlt();
}

fn input(c: &Ctx) {
    // in al, 0x60; mov ah, al; in al, 0x61; hlt
    let mut g = Guest::new(c, &[0xe4, 0x60, 0x88, 0xc4, 0xe4, 0x61, HLT]);

    for (expected, value) in [(0x60, 0x12), (0x61, 0x34)] {
        match g.exit() {
            VcpuExit::IoIn(port, data) => {
                assert_eq!((port, data.len()), (expected, 1));
                data[0] = value;
            }
            other => panic!("{other:?}, expected IN"),
        }
    }

    assert_eq!(g.hlt().rax & 0xffff, 0x1234);
}

fn outs(c: &Ctx) {
    const TEXT: &[u8] = b"a string of outs";
    // cld; mov si, 0x3000; mov cx, 16; mov dx, 0x80; rep outsb; hlt
    let code = [0xfc, 0xbe, 0x00, 0x30, 0xb9, 16, 0, 0xba, 0x80, 0, 0xf3, 0x6e, HLT];
    let mut g = Guest::new(c, &code);
    g.memory.write(0x3000, TEXT);

    let mut got = Vec::new();
    loop {
        match g.exit() {
            VcpuExit::IoOut(0x80, data) => got.extend_from_slice(data),
            VcpuExit::Hlt => break,
            other => panic!("{other:?}, expected OUT"),
        }
    }

    assert_eq!(got, TEXT);
    let r = g.vcpu.get_regs().unwrap();
    assert_eq!((r.rcx, r.rsi), (0, 0x3010));
}

fn long_outs(c: &Ctx) {
    // cld; mov esi, 0x3f00; mov ecx, 400; mov dx, 0x80; rep outsw; hlt
    let code = [0xfc, 0xbe, 0, 0x3f, 0, 0, 0xb9, 0x90, 1, 0, 0, 0x66, 0xba, 0x80, 0, 0xf3, 0x66, 0x6f, HLT];
    let text: Vec<u8> = (0..800u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let mut g = Guest::new(c, &code);
    g.memory.write(0x3f00, &text);
    g.enter_long_mode();

    let mut got = Vec::new();
    loop {
        match g.exit() {
            VcpuExit::IoOut(0x80, data) => got.extend_from_slice(data),
            VcpuExit::Hlt => break,
            other => panic!("{other:?}, expected OUT"),
        }
    }

    assert_eq!(got, text);
    let r = g.vcpu.get_regs().unwrap();
    assert_eq!((r.rcx, r.rsi), (0, 0x3f00 + 800));
}

fn mmio_write(c: &Ctx) {
    // mov ax, 0x2000; mov ds, ax; mov byte [0x10], 0x5a; mov word [0x12], 0x1234;
    // mov eax, 0x89abcdef; mov [0x20], eax; hlt
    let code = [
        0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xc6, 0x06, 0x10, 0x00, 0x5a, 0xc7, 0x06, 0x12, 0x00, 0x34, 0x12, 0x66,
        0xb8, 0xef, 0xcd, 0xab, 0x89, 0x66, 0xa3, 0x20, 0x00, HLT,
    ];
    let mut g = Guest::new(c, &code);

    let expected: [(u64, &[u8]); 3] =
        [(0x2_0010, &[0x5a]), (0x2_0012, &[0x34, 0x12]), (0x2_0020, &[0xef, 0xcd, 0xab, 0x89])];
    for (gpa, bytes) in expected {
        match g.exit() {
            VcpuExit::MmioWrite(at, data) => assert_eq!((at, data as &[u8]), (gpa, bytes)),
            other => panic!("{other:?}, expected a write"),
        }
    }
    g.hlt();
}

fn mmio_read(c: &Ctx) {
    // mov ax, 0x2000; mov ds, ax; xor eax, eax; mov al, [0x12]; mov ebx, [0x40]; hlt
    let code =
        [0xb8, 0x00, 0x20, 0x8e, 0xd8, 0x66, 0x31, 0xc0, 0xa0, 0x12, 0x00, 0x66, 0x8b, 0x1e, 0x40, 0x00, HLT];
    let mut g = Guest::new(c, &code);

    let expected: [(u64, &[u8]); 2] = [(0x2_0012, &[0xc3]), (0x2_0040, &[1, 2, 3, 4])];
    for (gpa, bytes) in expected {
        match g.exit() {
            VcpuExit::MmioRead(at, data) => {
                assert_eq!((at, data.len()), (gpa, bytes.len()));
                data.copy_from_slice(bytes);
            }
            other => panic!("{other:?}, expected a read"),
        }
    }

    let r = g.hlt();
    assert_eq!((r.rax & 0xffff_ffff, r.rbx & 0xffff_ffff), (0xc3, 0x0403_0201));
}

fn immediate_exit(c: &Ctx) {
    let mut g = Guest::new(c, &[0x90, HLT]);
    g.vcpu.set_kvm_immediate_exit(1);

    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR);
    assert_eq!(g.vcpu.get_regs().unwrap().rip, CODE);

    g.vcpu.set_kvm_immediate_exit(0);
    g.hlt();
}

fn immediate_exit_completes(c: &Ctx) {
    let mut g = Guest::new(c, &[0xe4, 0x60, HLT]);
    match g.exit() {
        VcpuExit::IoIn(0x60, data) => data[0] = 0x77,
        other => panic!("{other:?}, expected IN"),
    }

    g.vcpu.set_kvm_immediate_exit(1);
    assert_eq!(g.vcpu.run().unwrap_err().errno(), EINTR);

    let r = g.vcpu.get_regs().unwrap();
    assert_eq!((r.rax & 0xff, r.rip), (0x77, CODE + 2));
}

fn triple_fault(c: &Ctx) {
    let mut g = Guest::new(c, &[0xcc]);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.idt.limit = 0;
    g.vcpu.set_sregs(&s).unwrap();

    assert!(matches!(g.exit(), VcpuExit::Shutdown));
}

fn signal(c: &Ctx) {
    // jmp $
    let mut g = Guest::new(c, &[0xeb, 0xfe]);
    let thread = raw::this_thread();

    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        raw::interrupt(thread);
    });
    let result = g.vcpu.run().map(|e| format!("{e:?}")).map_err(|e| e.errno());
    sender.join().unwrap();

    assert_eq!(result, Err(EINTR));
    assert_eq!(g.vcpu.get_regs().unwrap().rip, CODE);
}

fn interrupt(c: &Ctx) {
    // sti; nop; jmp $
    let mut g = Guest::new(c, &[0xfb, 0x90, 0xeb, 0xfe]);
    // mov al, 0x77; out 0x10, al; hlt
    g.handler(0x20, 0x2000, &[0xb0, 0x77, 0xe6, 0x10, HLT]);

    g.vcpu.get_kvm_run().request_interrupt_window = 1;
    assert!(matches!(g.exit(), VcpuExit::IrqWindowOpen));
    assert_eq!(g.vcpu.get_kvm_run().ready_for_interrupt_injection, 1);
    g.vcpu.get_kvm_run().request_interrupt_window = 0;
    ioctl_with(&g.vcpu, nr::INTERRUPT, &mut 0x20u32).unwrap();

    assert_eq!(g.out(), (0x10, 0x77));
    assert_eq!(g.vcpu.get_kvm_run().if_flag, 0, "the handler runs with interrupts off");
}

fn nmi(c: &Ctx) {
    // nop; jmp $
    let mut g = Guest::new(c, &[0x90, 0xeb, 0xfe]);
    g.handler(2, 0x2000, &[0xb0, 0x02, 0xe6, 0x10, HLT]);

    raw::ioctl(&g.vcpu, nr::NMI, 0).unwrap();

    assert_eq!(g.out(), (0x10, 2));
}

fn cpuid(c: &Ctx) {
    // mov eax, 0x40000000; cpuid; hlt
    let mut g = Guest::new(c, &[0x66, 0xb8, 0, 0, 0, 0x40, 0x0f, 0xa2, HLT]);
    let mut list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let leaf = list.as_mut_slice().iter_mut().find(|e| e.function == 0x4000_0000).unwrap();
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0x4000_0001, 1, 2, 3);
    g.vcpu.set_cpuid2(&list).unwrap();

    let r = g.hlt();

    assert_eq!((r.rax, r.rbx, r.rcx, r.rdx), (0x4000_0001, 1, 2, 3));
}

fn wrmsr(c: &Ctx) {
    // mov ecx, 0xc0000081 (STAR); mov eax, 0x11223344; mov edx, 0x55667788; wrmsr;
    // xor eax, eax; xor edx, edx; rdmsr; hlt
    let code = [
        0x66, 0xb9, 0x81, 0, 0, 0xc0, 0x66, 0xb8, 0x44, 0x33, 0x22, 0x11, 0x66, 0xba, 0x88, 0x77, 0x66, 0x55,
        0x0f, 0x30, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x32, HLT,
    ];
    let mut g = Guest::new(c, &code);

    let r = g.hlt();

    assert_eq!((r.rax, r.rdx), (0x1122_3344, 0x5566_7788));
    let mut star = Msrs::from_entries(&[kvm_msr_entry { index: 0xc000_0081, ..Default::default() }]).unwrap();
    g.vcpu.get_msrs(&mut star).unwrap();
    assert_eq!(star.as_slice()[0].data, 0x5566_7788_1122_3344);
}

fn bad_rdmsr(c: &Ctx) {
    // mov ecx, 0x0bad0bad; rdmsr; hlt
    let mut g = Guest::new(c, &[0x66, 0xb9, 0xad, 0x0b, 0xad, 0x0b, 0x0f, 0x32, HLT]);
    g.handler(13, 0x2000, &[0xb0, 13, 0xe6, 0x10, HLT]);

    assert_eq!(g.out(), (0x10, 13));
}

fn bad_state(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    g.enter_long_mode();
    let (good, regs) = (g.vcpu.get_sregs().unwrap(), g.vcpu.get_regs().unwrap());
    let mut bad = good;
    // Code of 64 bits and of 32 bits at once.
    (bad.cs.l, bad.cs.db) = (1, 1);
    g.vcpu.set_sregs(&bad).unwrap();

    for _ in 0..2 {
        match g.exit() {
            VcpuExit::FailEntry(reason, _) => assert_ne!(reason, 0),
            other => panic!("{other:?}, expected that the entry fails"),
        }
    }

    // All of it: QEMU's failed entries leave registers of the host in the guest's state.
    g.vcpu.set_sregs(&good).unwrap();
    g.vcpu.set_regs(&regs).unwrap();
    assert_eq!(g.hlt().rip, CODE + 1);
}

fn long_mode(c: &Ctx) {
    // mov rax, 0x123456789abcdef0; mov r15, rax; hlt
    let code = [0x48, 0xb8, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0x49, 0x89, 0xc7, HLT];
    let mut g = Guest::new(c, &code);
    g.enter_long_mode();

    let r = g.hlt();

    assert_eq!((r.rax, r.r15), (0x1234_5678_9abc_def0, 0x1234_5678_9abc_def0));
}

fn shared_memory(c: &Ctx) {
    // again: inc byte [0x3000]; mov al, [0x3001]; out 0x10, al; jmp again
    let code = [0xfe, 0x06, 0x00, 0x30, 0xa0, 0x01, 0x30, 0xe6, 0x10, 0xeb, 0xf5];
    let mut g = Guest::new(c, &code);

    for n in 1..=3u8 {
        g.memory.write(0x3001, &[n * 16]);
        assert_eq!(g.out(), (0x10, n * 16), "the guest reads what user space wrote");
        assert_eq!(g.memory.read::<1>(0x3000), [n], "user space reads what the guest wrote");
    }
}

fn deleted_slot(c: &Ctx) {
    // mov ax, 0x3000; mov ds, ax; mov al, [0]; out 0x10, al; mov al, [0]; hlt
    let code = [0xb8, 0x00, 0x30, 0x8e, 0xd8, 0xa0, 0, 0, 0xe6, 0x10, 0xa0, 0, 0, HLT];
    let mut g = Guest::new(c, &code);
    let more = Memory::new(0x1000);
    more.write(0, &[0x42]);
    more.set_slot(&g.vm, 1, 0x3_0000, 0x1000).unwrap();

    assert_eq!(g.out(), (0x10, 0x42));
    more.set_slot(&g.vm, 1, 0x3_0000, 0).unwrap();

    match g.exit() {
        VcpuExit::MmioRead(0x3_0000, data) => data[0] = 0x24,
        other => panic!("{other:?}, expected a read"),
    }
    assert_eq!(g.hlt().rax & 0xff, 0x24);
}

fn two_vcpus(c: &Ctx) {
    // mov byte [0x3000], 0x99; hlt
    let mut g = Guest::new(c, &[0xc6, 0x06, 0x00, 0x30, 0x99, HLT]);
    // mov al, [0x3000]; hlt
    g.memory.write(0x2000, &[0xa0, 0x00, 0x30, HLT]);
    let mut second = g.vm.create_vcpu(1).unwrap();
    start(&second, 0x2000);

    g.hlt();

    assert!(matches!(second.run().expect("KVM_RUN"), VcpuExit::Hlt));
    assert_eq!(second.get_regs().unwrap().rax & 0xff, 0x99);
}

fn end_of_memory(c: &Ctx) {
    let mut g = Guest::new(c, &[]);
    g.memory.write(0xfffd, &[0xb0, 0x55, HLT]);
    start(&g.vcpu, 0xfffd);

    assert_eq!(g.hlt().rax & 0xff, 0x55);
}

fn local_descriptors(c: &Ctx) {
    let g = Guest::new(c, &[0x90, HLT]);
    raw::make_ldt();

    let after = raw::run_with_ldt(&g.vcpu);

    let selectors = [raw::LDT_SELECTOR; 4];
    assert_eq!(after, AfterRun { ret: 0, selectors, has_table: true });
    assert_eq!(g.vcpu.get_regs().unwrap().rip, CODE + 2, "the guest ran");
}
