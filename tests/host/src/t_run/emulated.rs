// SPDX-License-Identifier: GPL-2.0

//! Guests that the processor cannot run: every instruction is carried out by the emulator, on a vCPU with its
//! memory, its devices and its interrupts.

use super::world;
use crate::chipset::uart::Uart;
use crate::fake::abi::{AbiVcpu, AbiVm};
use crate::fake::backend::{Commit, Stop};
use crate::fake::direct::{Direct, RAM};
use crate::fake::steps::{flat, Ran, Steps};
use crate::host::world::{locked, World};
use crate::vcpu::exit::VmExit;
use crate::vcpu::state::{StateGroups, VcpuState, RAX, RBX, RCX, RDX, RSI, RSP};
use core::sync::atomic::Ordering::SeqCst;
use kernel::task::{current, Task, SIGNAL};
use std::sync::{Arc, Mutex};

/// Where programs are.
const AT: u64 = 0x2000;
/// RDI, as instructions encode registers.
const RDI: usize = 7;

/// Puts a vCPU into real mode.
fn real(s: &mut VcpuState) {
    flat(s);
    s.cr0 = 0x10;
    for seg in &mut s.segs {
        (seg.limit, seg.base, seg.selector, seg.attr.0) = (0xffff, 0, 0, 0x93);
    }
    s.segs[1].attr.0 = 0x9b;
    (s.idt.base, s.idt.limit) = (0, 0x3ff);
    s.rip = AT;
    s.gprs[RSP] = 0x3000;
    s.mark(StateGroups::all());
}

/// Runs a program on a vCPU until it reaches its end, and returns the registers there.
fn run_to_end(
    vcpu: &mut crate::fake::direct::Vcpu,
    code: &[u8],
    set: impl Fn(&mut VcpuState),
) -> (VcpuState, Vec<crate::vcpu::outcome::UserExit>) {
    vcpu.direct.world.process.write(RAM + AT, code, true).unwrap();
    set(&mut vcpu.core.state);
    let end = AT + code.len() as u64;
    let last = Arc::new(Mutex::new(None));
    let (out, mut left) = (last.clone(), 2_000);
    vcpu.guest.run(move |entry| {
        left -= 1;
        assert!(left != 0, "at {:#x} the program does not get on", entry.state.rip);
        if entry.state.rip == end && entry.event.is_none() {
            *locked(&out) = Some(entry.state.clone());
            current().set(SIGNAL);
            return Stop::plain(VmExit::HostInterrupt);
        }
        // The processor takes the event back, for it cannot deliver it in this mode.
        Stop { commit: Commit::CutShort, ..Stop::plain(VmExit::Emulate) }
    });
    let mut users = Vec::new();
    loop {
        match vcpu.run() {
            Ran::User(exit) => {
                users.push(exit);
                vcpu.core.io.complete(0xabcd_ef01);
                assert!(users.len() < 100, "{users:?}");
            }
            Ran::Guest => break,
            Ran::Failed(e) => panic!("{e:?}"),
        }
    }
    current().clear(SIGNAL);
    let state = locked(&last).take().expect("the end of the program");
    (state, users)
}

fn read<const N: usize>(world: &World, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    world.process.read(RAM + at, &mut bytes, true).unwrap();
    bytes
}

#[test]
fn real_mode_is_carried_out_in_software() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 64);
    let mut vcpu = direct.vcpu(0);
    // INT 0x40 goes to 0000:2800, which increments [0x600].
    world.process.write(RAM + 0x100, &[0x00, 0x28, 0, 0], true).unwrap();
    world.process.write(RAM + 0x2800, &[0xfe, 0x06, 0x00, 0x06, 0xcf], true).unwrap();
    #[rustfmt::skip]
    let code = [
        0xb8, 0x34, 0x12,               // mov ax, 0x1234
        0x50, 0x5b,                     // push ax; pop bx
        0x31, 0xc0,                     // xor ax, ax
        0x8e, 0xd0, 0xbc, 0x00, 0x30,   // mov ss, ax; mov sp, 0x3000
        0xe4, 0x21,                     // in al, 0x21
        0xe6, 0x80,                     // out 0x80, al
        0xcd, 0x40, 0xcd, 0x40,         // int 0x40, twice
        0xfb, 0x90, 0xfa,               // sti; nop; cli
        0x66, 0xb9, 0x1b, 0, 0, 0,      // mov ecx, 0x1b
        0x0f, 0x32,                     // rdmsr
        0x66, 0x89, 0xc6,               // mov esi, eax
        0x0f, 0x31,                     // rdtsc
        0x66, 0x31, 0xc0, 0x0f, 0xa2,   // xor eax, eax; cpuid
        0x0f, 0x01, 0xd9,               // vmmcall
        0x0f, 0x09,                     // wbinvd
        0x66, 0x89, 0xc7,               // mov edi, eax
        0xf3, 0x90,                     // pause
    ];

    let (state, users) = run_to_end(&mut vcpu, &code, real);

    assert_eq!(state.gprs[RSI] as u32, 0xfee0_0900);
    assert_eq!(state.gprs[RDI] as u32, -1000i32 as u32, "an unknown hypercall");
    assert_eq!(state.gprs[RSP] & 0xffff, 0x3000);
    assert_eq!(read::<1>(&world, 0x600), [2]);
    assert_eq!(users.len(), 1, "port 0x80");
}

#[test]
fn interrupts_are_delivered_in_software_and_end_a_halt() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 64);
    let mut vcpu = direct.vcpu(0);
    for (vector, count) in [(0x51u64, 0x10u8), (0x52, 0x11), (2, 0x12)] {
        let handler = 0x2800 + 16 * u64::from(count);
        world.process.write(RAM + 4 * vector, &(handler as u32).to_le_bytes(), true).unwrap();
        world.process.write(RAM + handler, &[0xfe, 0x06, count, 0x06, 0xcf], true).unwrap();
    }
    vcpu.mailbox.post(0x51, false);
    vcpu.mailbox.post_nmi();
    let mailbox = vcpu.mailbox.clone();
    kernel::sched::set_idle(Some(Arc::new(move || {
        mailbox.post(0x62, false);
        mailbox.post_nmi();
        true
    })));
    world.process.write(RAM + 4 * 0x62, &0x2910u32.to_le_bytes(), true).unwrap();
    #[rustfmt::skip]
    let code = [
        0xfb, 0x90, 0x90, 0xfa,         // sti; nop; nop; cli
        0xf4, 0x90,                     // hlt
    ];

    let (_, users) = run_to_end(&mut vcpu, &code, real);

    assert!(users.is_empty());
    assert_eq!(read::<3>(&world, 0x610)[0], 1, "the interrupt, once");
    assert!(read::<3>(&world, 0x610)[2] >= 1, "and NMIs");
}

#[test]
fn memory_operands_reach_memory_and_devices_and_what_lies_across() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 64);
    direct.vm.machine.pci.create(0xc000_0000, 0x1000_0000).unwrap();
    let mut vcpu = direct.vcpu(0);
    world.process.write(RAM + 0x3_fffe, &[0x11, 0x22], true).unwrap();
    world.process.write(RAM + 0x5000, &(0u8..64).collect::<Vec<_>>(), true).unwrap();
    #[rustfmt::skip]
    let code = [
        0xbb, 0x00, 0x00, 0xc0, 0xfe,               // mov ebx, 0xfec00000
        0xc7, 0x03, 0x01, 0, 0, 0,                  // mov dword [ebx], 1
        0x8b, 0x73, 0x10,                           // mov esi, [ebx + 0x10]: the I/O APIC's version
        0x0f, 0xb6, 0x6b, 0x10,                     // movzx ebp, byte [ebx + 0x10]
        0xb8, 0x02, 0, 0, 0, 0x87, 0x03,            // mov eax, 2; xchg eax, [ebx]
        0x83, 0x03, 0x01,                           // add dword [ebx], 1
        0xbb, 0xfe, 0xff, 0x03, 0x00,               // mov ebx, 0x3fffe
        0x8b, 0x13,                                 // mov edx, [ebx]: two bytes of memory, two of nothing
        0xc7, 0x03, 0x44, 0x33, 0x22, 0x11,         // mov dword [ebx], 0x11223344
        0xbb, 0xfd, 0x5f, 0, 0,                     // mov ebx, 0x5ffd: across two pages of memory
        0xc7, 0x03, 0x0d, 0x0c, 0x0b, 0x0a,         // mov dword [ebx], 0x0a0b0c0d
        0xb8, 0x0d, 0x0c, 0x0b, 0x0a,               // mov eax, 0x0a0b0c0d
        0xb9, 0x04, 0x03, 0x02, 0x01,               // mov ecx, 0x01020304
        0xf0, 0x0f, 0xb1, 0x0b,                     // lock cmpxchg [ebx], ecx
        0xbb, 0x00, 0x70, 0, 0,                     // mov ebx, 0x7000
        0xf0, 0x0f, 0xc1, 0x0b,                     // lock xadd [ebx], ecx
        0xf0, 0x83, 0x03, 0x05,                     // lock add dword [ebx], 5
        0xbe, 0x00, 0x50, 0, 0,                     // mov esi, 0x5000
        0xbf, 0xe0, 0x6f, 0, 0,                     // mov edi, 0x6fe0
        0xb9, 0x10, 0, 0, 0, 0xf3, 0xa5,            // mov ecx, 16; rep movsd: into two pages
        0xba, 0x80, 0, 0, 0,                        // mov edx, 0x80
        0xbe, 0x00, 0x50, 0, 0,                     // mov esi, 0x5000
        0xb9, 0x04, 0, 0, 0, 0xf3, 0x6e,            // mov ecx, 4; rep outsb
        0xbf, 0x00, 0x58, 0, 0,                     // mov edi, 0x5800
        0xb9, 0x02, 0, 0, 0, 0xf3, 0x6d,            // mov ecx, 2; rep insd
        0xbf, 0x10, 0x00, 0xc0, 0xfe,               // mov edi, 0xfec00010
        0xb9, 0x02, 0, 0, 0, 0xf3, 0xab,            // mov ecx, 2; rep stosd: to a device
        0xa1, 0x00, 0x58, 0, 0,                     // mov eax, [0x5800]
        0x68, 0x78, 0x56, 0x34, 0x12, 0x59,         // push 0x12345678; pop ecx
    ];

    let (state, users) = run_to_end(&mut vcpu, &code, |s| {
        flat(s);
        s.rip = AT;
        s.gprs[RSP] = 0x9000;
        s.mark(StateGroups::all());
    });

    assert!(users.is_empty(), "behind a host bridge nothing is user space's: {users:?}");
    assert_eq!(state.gprs[RAX] as u32, u32::MAX, "nobody is at port 0x80");
    assert_eq!(state.gprs[RCX] as u32, 0x1234_5678);
    assert_eq!(state.gprs[5] as u32 & 0xff, 0x20);
    assert_eq!(read::<2>(&world, 0x3_fffe), [0x44, 0x33], "what lies beyond is lost");
    assert_eq!(read::<4>(&world, 0x5ffd), [4, 3, 2, 1]);
    assert_eq!(read::<4>(&world, 0x7000 - 32), [0, 1, 2, 3]);
    assert_eq!(read::<4>(&world, 0x7000), [32, 33, 34, 35], "the copy goes over it");
    assert_eq!(state.gprs[RDX] as u32, 0x80);
    assert_eq!(state.gprs[RBX] as u32, 0x7000);
}

#[test]
fn user_space_answers_the_parts_of_an_instruction_one_after_the_other() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 64);
    let mut vcpu = direct.vcpu(0);
    #[rustfmt::skip]
    let code = [
        0xbb, 0xfe, 0xff, 0x03, 0x00,               // mov ebx, 0x3fffe
        0x8b, 0x13,                                 // mov edx, [ebx]: the second half is user space's
        0x89, 0x13,                                 // mov [ebx], edx
        0xbb, 0x00, 0x00, 0x00, 0x90,               // mov ebx, 0x90000000
        0x83, 0x03, 0x01,                           // add dword [ebx], 1: a read and a write
        0xbe, 0x00, 0x00, 0x00, 0x90,               // mov esi, 0x90000000
        0xbf, 0x00, 0x50, 0, 0,                     // mov edi, 0x5000
        0xb9, 0x03, 0, 0, 0, 0xf3, 0xa5,            // mov ecx, 3; rep movsd
        0xe4, 0x80,                                 // in al, 0x80
    ];

    let (state, users) = run_to_end(&mut vcpu, &code, |s| {
        flat(s);
        s.rip = AT;
        s.mark(StateGroups::all());
    });

    assert_eq!(state.gprs[RDX] as u32, 0xef01_0000);
    assert_eq!(read::<4>(&world, 0x5000), 0xabcd_ef01u32.to_le_bytes());
    // A read and a write across, a read and a write, three reads, a port.
    assert_eq!(users.len(), 2 + 2 + 3 + 1, "{users:?}");
}

#[test]
fn pages_that_are_away_are_brought_in_the_middle_of_an_instruction() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 64);
    let mut vcpu = direct.vcpu(0);
    world.process.write(RAM + 0x5ff0, &[7; 32], true).unwrap();
    #[rustfmt::skip]
    let code = [
        0xbe, 0xf0, 0x5f, 0, 0,                     // mov esi, 0x5ff0
        0xbf, 0xf4, 0x7f, 0, 0,                     // mov edi, 0x7ff4
        0xb9, 0x08, 0, 0, 0, 0xf3, 0xa5,            // mov ecx, 8; rep movsd
    ];
    vcpu.direct.world.process.write(RAM + AT, &code, true).unwrap();
    assert!(world.evict(RAM, 64 * 4096));

    run_to_end(&mut vcpu, &code, |s| {
        flat(s);
        s.rip = AT;
        s.mark(StateGroups::all());
    });

    assert_eq!(read::<32>(&world, 0x7ff4), [7; 32]);
}

#[test]
fn an_instruction_that_nobody_knows_ends_the_vm_or_the_program() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut cpu = vm.vcpu(0);
    // FNINIT is no instruction for the emulator.
    world.process.write(RAM + AT, &[0xdb, 0xe3], true).unwrap();
    let emulates = |cpu: &mut AbiVcpu| {
        cpu.guest.run(|entry| {
            entry.state.rip = AT;
            Stop::plain(VmExit::Emulate)
        });
        (cpu.run(), cpu.reason())
    };

    let (ran, reason) = emulates(&mut cpu);

    assert!(matches!(ran, Ran::User(_)));
    assert_eq!(reason, 17, "KVM_EXIT_INTERNAL_ERROR");
    assert_eq!(cpu.data()[..4], [1, 0, 0, 0], "of the emulator");
    assert!(cpu.guest.entries.load(SeqCst) >= 1);
}

/// A guest in real mode writes to its console while the host takes the page of its code away.
fn write_while_the_code_goes(seed: u64) {
    const BYTES: usize = 8;
    let world = World::new();
    let tasks = [Task::new(&world.process, 0), Task::new(&world.process, 1)];
    let entered = world.enter_as(&tasks[0]);
    let direct = Direct::new(&world, 64);
    let uart = Uart::new().unwrap();
    direct.vm.machine.interrupts.with(|bus, _, _| bus.uart = Some(uart));
    let mut vcpu = direct.vcpu(0);
    // mov dx, 0x3f8; mov al, 'A'; out dx, al
    let code: Vec<u8> = [0xba, 0xf8, 0x03, 0xb0, 0x41].into_iter().chain([0xee; BYTES]).collect();
    let runs = || drop(run_to_end(&mut vcpu, &code, real));
    let takes = || {
        for _ in 0..60 {
            world.evict(RAM + AT, 4096);
            for _ in 0..seed % 7 * 3 {
                kernel::sched::yield_point();
            }
        }
    };
    let bodies = vec![super::thread(&world, &tasks[0], runs), super::thread(&world, &tasks[1], takes)];
    drop(entered);
    super::run_all(seed, bodies);

    let written = direct.vm.machine.interrupts.look_at(|bus| bus.uart.as_ref().map(Uart::output_len));
    assert_eq!(written, Some(BYTES), "seed {seed}");
}

#[test]
fn a_port_is_written_once_though_the_code_goes_away_meanwhile() {
    super::for_seeds(40, write_while_the_code_goes);
}
