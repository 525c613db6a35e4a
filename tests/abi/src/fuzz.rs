// SPDX-License-Identifier: GPL-2.0

//! Random guests: instruction streams at all privilege levels and in all modes, over random page tables, on memory,
//! the chips, devices that a driver has brought up, and addresses where there is nothing.
//!
//! What must hold whatever they do: the host CPU that runs them goes on taking interrupts, KVM_RUN ends when a
//! signal asks for it, and nothing changes beyond the memory that they were given, nor what they may only read.
//!
//! Guest number `n` is made from seed `n` alone, so `abi-tests --fuzz 0 SEED` is that guest again, but for the
//! moments at which signals and interrupts come.

use crate::abi::{nr, rvmm};
use crate::fuzz_devices::{Devices, DEVICES};
use crate::harness::Ctx;
use crate::random::Random;
use crate::raw::{self, ioctl_with, Memory};
use kvm_bindings::*;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a guest runs at most, on emulated hosts.
const RUN: Duration = Duration::from_millis(40);
/// How many exits to user space it may have.
const EXITS: u32 = 300;
/// How long the host's CPU may be silent, and a guest not end, as parts of the time that a test may take. What the
/// watcher itself did not run is not counted: a loaded machine that emulates a host stands still at times.
const SILENCE: u32 = 30;
const PATIENCE: u32 = 3;
/// The most that one look of the watcher counts for.
const LOOK: Duration = Duration::from_millis(50);

const PAGE: u64 = 0x1000;
const RAM: u64 = 0x1_0000;
/// Memory that the guest can only read, and how much.
const ROM: u64 = 0x2_0000;
const ROM_LEN: u64 = 0x2000;
/// What lies before, between and behind the guest's memory in this process.
const GUARD: u8 = 0xa5;
const ROM_BYTE: u8 = 0x90;
/// The first table, behind which the others lie.
const TABLES: u64 = 0x9000;
const CODE: u64 = 0x1000;
const IDT: u64 = 0x4000;
const GDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const DRIVER: u64 = 0x2000;
/// Ends every sequence of instructions that it is behind: as many HLT as the longest instruction has bytes, and one. No
/// entry of a table is present that consists of them.
const WALL: [u8; 16] = [0xf4; 16];

/// An address or a number where something may go wrong.
fn address(r: &mut Random) -> u64 {
    let near = r.below(24).wrapping_sub(12);
    match r.below(13) {
        0 | 1 => r.below(RAM),
        2 => (r.below(RAM / PAGE) * PAGE).wrapping_add(near),
        3 => ROM.wrapping_add(near),
        4 => 0xfee0_0000 + r.below(0x40) * 0x10 + r.below(4),
        5 => 0xfee0_0000u64.wrapping_add(r.pick(&[0, 0x1000])).wrapping_add(near),
        6 => 0xfec0_0000 + r.pick(&[0, 0, 0x10, 0x10, 1, 0x40, 0xfff]),
        7 => RAM.wrapping_add(near),
        8 => r.pick(&[0xd000_0000u64, 0xffff_ffff, 0x1_0000_0000, 1 << 40, 1 << 47]).wrapping_add(near),
        9 => r.next(),
        10 => r.below(0x100),
        11 => DEVICES.address(r),
        _ => r.pick(&[CODE, IDT, GDT, TSS, TABLES, TABLES + PAGE]).wrapping_add(r.below(64) * 8),
    }
}

/// Instructions with a ModRM byte and no immediate; then those with one of a byte.
const MODRM: [&[u8]; 64] = [
    &[0x00],
    &[0x01],
    &[0x02],
    &[0x03],
    &[0x11],
    &[0x19],
    &[0x21],
    &[0x29],
    &[0x31],
    &[0x39],
    &[0x84],
    &[0x85],
    &[0x86],
    &[0x87],
    &[0x88],
    &[0x89],
    &[0x89],
    &[0x8a],
    &[0x8b],
    &[0x8b],
    &[0x8c],
    &[0x8e],
    &[0x8f],
    &[0xd1],
    &[0xd3],
    &[0xf7],
    &[0xfe],
    &[0xff],
    &[0x63],
    &[0x0f, 0x00],
    &[0x0f, 0x01],
    &[0x0f, 0x0d],
    &[0x0f, 0x10],
    &[0x0f, 0x11],
    &[0x0f, 0x18],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x20],
    &[0x0f, 0x28],
    &[0x0f, 0x29],
    &[0x0f, 0x44],
    &[0x0f, 0x6f],
    &[0x0f, 0x7f],
    &[0x0f, 0x94],
    &[0x0f, 0xa3],
    &[0x0f, 0xab],
    &[0x0f, 0xad],
    &[0x0f, 0xae],
    &[0x0f, 0xaf],
    &[0x0f, 0xb0],
    &[0x0f, 0xb1],
    &[0x0f, 0xb6],
    &[0x0f, 0xb7],
    &[0x0f, 0xb8],
    &[0x0f, 0xbc],
    &[0x0f, 0xbe],
    &[0x0f, 0xc0],
    &[0x0f, 0xc1],
    &[0x0f, 0xc3],
    &[0x0f, 0xc7],
    &[0x0f, 0x38, 0xf0],
    &[0x0f, 0x38, 0xf1],
    &[0xd9],
];
const MODRM_IMM: [&[u8]; 8] =
    [&[0x80], &[0x83], &[0x6b], &[0xc0], &[0xc1], &[0xc6], &[0x0f, 0xba], &[0x0f, 0xa4]];
const PLAIN: [&[u8]; 60] = [
    &[0x0f, 0xa2],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0x31],
    &[0x0f, 0x33],
    &[0xf4],
    &[0xf3, 0x90],
    &[0xfa],
    &[0xfb],
    &[0xfc],
    &[0xfd],
    &[0x9c],
    &[0x9d],
    &[0xcf],
    &[0xcc],
    &[0xf1],
    &[0xce],
    &[0x60],
    &[0x61],
    &[0x0f, 0x06],
    &[0x0f, 0x08],
    &[0x0f, 0x09],
    &[0x0f, 0x0b],
    &[0x0f, 0x01, 0xc1],
    &[0x0f, 0x01, 0xd9],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x01, 0xd0],
    &[0x0f, 0x01, 0xd8],
    &[0x0f, 0x01, 0xda],
    &[0x0f, 0x01, 0xdc],
    &[0x0f, 0x01, 0xf8],
    &[0x0f, 0x01, 0xf9],
    &[0x0f, 0x05],
    &[0x0f, 0x07],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0xaa],
    &[0xec],
    &[0xed],
    &[0xee],
    &[0xef],
    &[0x6c],
    &[0x6d],
    &[0x6e],
    &[0x6f],
    &[0xa4],
    &[0xa5],
    &[0xa6],
    &[0xa7],
    &[0xaa],
    &[0xab],
    &[0xac],
    &[0xad],
    &[0xae],
    &[0xaf],
    &[0xc3],
    &[0xc9],
    &[0x50],
    &[0x58],
    &[0x17],
];
const MSRS: [u32; 29] = [
    0x10,
    0x1b,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17a,
    0x277,
    0x2ff,
    0x200,
    0x6e0,
    0x800,
    0x808,
    0x80b,
    0x80f,
    0x830,
    0x832,
    0x838,
    0x83f,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0100,
    0xc000_0102,
    0xc000_0103,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d03,
    0x4b56_4d04,
];
const PORTS: [u16; 24] = [
    0x20, 0x21, 0xa0, 0xa1, 0x40, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0xcf8, 0xcfc, 0xcf9, 0x3f8,
    0x3f9, 0x3fd, 0x4d0, 0x600, 0x604, 0xb2, 0xffff,
];

/// Appends a random instruction.
fn instruction(r: &mut Random, code: &mut Vec<u8>, is_64bit: bool) {
    for _ in 0..r.pick(&[0, 0, 0, 1, 1, 2]) {
        code.push(r.pick(&[0x66, 0x67, 0xf0, 0xf2, 0xf3, 0xf3, 0x2e, 0x36, 0x64, 0x65]));
    }
    if is_64bit && r.one_in(2) {
        code.push(0x40 | r.byte() & 15);
    }
    match r.below(10) {
        0 => (0..r.below(8)).for_each(|_| code.push(r.byte())),
        1..=4 => {
            let imm = r.one_in(4);
            code.extend_from_slice(if imm { r.pick(&MODRM_IMM) } else { r.pick(&MODRM) });
            mod_rm(r, code);
            if imm {
                code.push(r.byte());
            }
        }
        5 | 6 => code.extend_from_slice(r.pick(&PLAIN)),
        7 => {
            // mov r, imm; with REX.W of 8 bytes
            let wide = is_64bit && r.one_in(2);
            if wide {
                code.push(0x48 | r.byte() & 1);
            }
            code.push(0xb8 | r.byte() & 7);
            code.extend_from_slice(&address(r).to_le_bytes()[..if wide { 8 } else { 4 }]);
        }
        8 => {
            // mov ecx, MSR; mov dx, port
            if r.one_in(2) {
                code.push(0xb9);
                code.extend_from_slice(&r.pick(&MSRS).to_le_bytes());
            } else {
                code.extend_from_slice(&[0x66, 0xba]);
                code.extend_from_slice(&r.pick(&PORTS).to_le_bytes());
            }
        }
        _ => {
            // int n; jcc; in, out; loop; jmp far
            let op = r.pick(&[0xcd, 0x70, 0x75, 0xe4, 0xe6, 0xe5, 0xe7, 0xe2, 0xeb, 0xea, 0x9a, 0x6a]);
            code.extend_from_slice(&[op, r.byte() & r.pick(&[0x0f, 0x7f, 0xff])]);
        }
    }
}

fn mod_rm(r: &mut Random, code: &mut Vec<u8>) {
    let byte = r.byte();
    let byte = if r.one_in(4) { byte } else { byte & 0x7f };
    code.push(byte);
    if byte & 0xc0 != 0xc0 && byte & 7 == 4 {
        code.push(r.byte());
    }
    match byte >> 6 {
        0 if byte & 7 == 5 => code.extend_from_slice(&address(r).to_le_bytes()[..4]),
        1 => code.push(r.byte()),
        2 => code.extend_from_slice(&(r.below(64) as u32).to_le_bytes()),
        _ => {}
    }
}

/// How the guest's processor starts.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Real,
    Protected,
    Legacy,
    Pae,
    Compatibility,
    Long,
}

/// A guest, and the memory of this process around its own.
struct Guest {
    vm: VmFd,
    vcpus: Vec<VcpuFd>,
    has_irqchip: bool,
    /// Where the node has any, and the guest is one of those that do.
    devices: Option<Devices>,
    memory: Memory,
    rom: Memory,
}

impl Guest {
    fn new(c: &Ctx, seed: u64) -> Guest {
        let r = &mut Random::of(seed);
        let vm = c.vm();
        vm.set_tss_address(0xfffb_d000).expect("KVM_SET_TSS_ADDR");
        let has_irqchip = r.one_in(2);
        if has_irqchip {
            vm.create_irq_chip().expect("KVM_CREATE_IRQCHIP");
            if r.one_in(2) {
                vm.create_pit2(kvm_pit_config::default()).expect("KVM_CREATE_PIT2");
            }
        }
        let memory = guarded(RAM);
        memory.set_slot_at(&vm, 0, 0, RAM, memory.address() + PAGE, 0).expect("KVM_SET_USER_MEMORY_REGION");
        let rom = guarded(ROM_LEN);
        // Where the node has no such memory, there is nothing.
        rom.set_slot_at(&vm, 1, ROM, ROM_LEN, rom.address() + PAGE, KVM_MEM_READONLY).ok();
        rom.write(PAGE as usize, &[ROM_BYTE; ROM_LEN as usize]);
        let mode = r.pick(&[
            Mode::Real,
            Mode::Protected,
            Mode::Legacy,
            Mode::Pae,
            Mode::Compatibility,
            Mode::Long,
            Mode::Long,
        ]);
        let devices = if r.one_in(2) { Devices::new(&vm, r) } else { None };
        let g = Guest { vm, vcpus: Vec::new(), has_irqchip, devices, memory, rom };
        let mut tables = g.fill(r, mode);
        let list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let vcpus = (0..r.pick(&[1, 1, 2])).map(|id| {
            let vcpu = g.vm.create_vcpu(id).expect("KVM_CREATE_VCPU");
            vcpu.set_cpuid2(&list).unwrap();
            vcpu
        });
        let mut vcpus: Vec<VcpuFd> = vcpus.collect();
        if g.devices.is_some() {
            g.bring_devices_up(&mut vcpus[0], r);
        }
        vcpus.iter().for_each(|vcpu| set_state(vcpu, r, mode));
        tables.extend(vcpus.iter().map(|vcpu| vcpu.get_sregs().unwrap().cr3));
        tables.into_iter().for_each(|table| g.wall_up(table));
        Guest { vcpus, ..g }
    }

    /// Runs the devices' driver, which gives way to what was in its place.
    fn bring_devices_up(&self, vcpu: &mut VcpuFd, r: &mut Random) {
        for (gpa, bytes) in DEVICES.rings() {
            self.write(gpa, &bytes);
        }
        let code = DEVICES.code(r);
        let old = (0..code.len()).map(|_| r.byte());
        let old: Vec<u8> = old.collect();
        self.write(DRIVER, &code);
        let mut s = vcpu.get_sregs().unwrap();
        let flat =
            kvm_segment { limit: u32::MAX, type_: 11, present: 1, s: 1, db: 1, g: 1, ..Default::default() };
        let data = kvm_segment { type_: 3, ..flat };
        (s.cs, s.ds, s.es, s.ss, s.cr0) = (flat, data, data, data, 0x11);
        // Its last instruction has no handler.
        s.idt.limit = 0;
        vcpu.set_sregs(&s).unwrap();
        vcpu.set_regs(&kvm_regs { rip: DRIVER, rflags: 2, ..Default::default() }).unwrap();
        let ended = (0..16).any(|_| matches!(vcpu.run(), Ok(VcpuExit::Shutdown)));
        assert!(ended, "the driver does not end");
        self.write(DRIVER, &old);
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        self.memory.write((PAGE + gpa) as usize, bytes);
    }

    /// Keeps the guest from running out of a page that is a table into the next one: where QEMU's translation of code
    /// goes on to another page, and the walk to that goes through the page it came from, the CPU waits
    /// for itself for ever. `tb_invalidate_phys_range_fast()` takes the lock of the table's page, since the walk
    /// under nested paging is a write there; `translator_loop()` has it already. Seen with random guests.
    fn wall_up(&self, table: u64) {
        let page = table & !(PAGE - 1);
        if page < RAM {
            self.write(page + PAGE - WALL.len() as u64, &WALL);
        }
    }

    /// Writes code, tables and descriptors. Returns the addresses of tables.
    fn fill(&self, r: &mut Random, mode: Mode) -> Vec<u64> {
        for at in (0..RAM).step_by(8) {
            let word = address(r);
            self.write(at, &word.to_le_bytes());
        }
        for start in [CODE, CODE + 0x800, 0x7000] {
            let mut code = Vec::new();
            while code.len() < 0x700 {
                instruction(r, &mut code, mode == Mode::Long);
            }
            self.write(start, &code);
        }
        // A table of far pointers, and one of gates, most of which lead to code.
        for vector in 0..64 {
            let at = CODE + r.below(0x700);
            if mode == Mode::Real {
                self.write(vector * 4, &[at as u8, (at >> 8) as u8, 0, 0]);
                continue;
            }
            let rights = if r.one_in(8) { r.byte() } else { r.pick(&[0x8e, 0x8f, 0xee]) };
            let level = r.pick(&[0, 0, 0, 0, 1, 2, 3]);
            let gate = at | u64::from(selectors(level).0) << 16 | u64::from(rights) << 40;
            let size = if mode == Mode::Long { 16 } else { 8 };
            self.write(IDT + vector * size, &gate.to_le_bytes());
            if size == 16 {
                self.write(IDT + vector * size + 8, &[0; 8]);
            }
        }
        let l = if mode == Mode::Long { 0x20_0000_0000_0000u64 } else { 0x40_0000_0000_0000 };
        self.write(GDT, &[0; 8]);
        for dpl in 0..4 {
            let (code, data) = selectors(dpl);
            for (selector, d) in [(code, 0x008f_9b00_0000_ffff | l), (data, 0x00cf_9300_0000_ffff)] {
                let at = GDT + u64::from(selector & !3);
                self.write(at, &(d | u64::from(dpl) << 45).to_le_bytes());
            }
        }
        // The stacks of the inner levels: SS:ESP in turn, or RSP.
        self.write(TSS, &[0; 0x68]);
        for dpl in 0..3u8 {
            let (stack, wide) = (0x3800 + u64::from(dpl) * 0x200, u64::from(mode != Mode::Long));
            let stack = stack | wide * u64::from(selectors(dpl).1) << 32;
            self.write(TSS + 4 + 8 * u64::from(dpl), &stack.to_le_bytes());
        }
        self.tables(r, mode)
    }

    /// Writes tables that map memory and the controllers to themselves, and spoils some entries. Returns the addresses
    /// of all tables.
    fn tables(&self, r: &mut Random, mode: Mode) -> Vec<u64> {
        let put = |at: u64, entry: u64| self.write(at, &entry.to_le_bytes());
        let (size, pages) = if mode == Mode::Legacy { (4, RAM / PAGE + 32) } else { (8, RAM / PAGE + 32) };
        let page_table = TABLES + 3 * PAGE;
        (TABLES..page_table + PAGE).step_by(8).for_each(|at| put(at, 0));
        let small = |n: u64| n * PAGE | 7;
        match mode {
            Mode::Legacy => {
                put(TABLES, page_table | 7);
                self.write(TABLES + 0xfe8, &0xfe80_0087u32.to_le_bytes());
                self.write(TABLES + 0xfec, &0xfec0_0087u32.to_le_bytes());
                (0..pages).for_each(|n| self.write(page_table + n * 4, &(small(n) as u32).to_le_bytes()));
            }
            Mode::Pae => {
                put(TABLES, (TABLES + PAGE) | 1);
                put(TABLES + 24, (TABLES + 2 * PAGE) | 1);
                put(TABLES + PAGE, page_table | 7);
                for n in [0x1f4, 0x1f6, 0x1f7] {
                    put(TABLES + 2 * PAGE + n * 8, (0xc000_0000 + (n << 21)) | 0x87);
                }
                (0..pages).for_each(|n| put(page_table + n * 8, small(n)));
            }
            _ => {
                put(TABLES, (TABLES + PAGE) | 7);
                put(TABLES + PAGE, (TABLES + 2 * PAGE) | 7);
                // The last GiB below 4 through the same directory: the controllers at a multiple of 1 GiB less.
                put(TABLES + PAGE + 24, (TABLES + 2 * PAGE) | 7);
                put(TABLES + 2 * PAGE, page_table | 7);
                for n in [0x1f4, 0x1f6, 0x1f7] {
                    put(TABLES + 2 * PAGE + n * 8, (0xc000_0000 + (n << 21)) | 0x87);
                }
                (0..pages).for_each(|n| put(page_table + n * 8, small(n)));
            }
        }
        let mut tables: Vec<u64> = (0..4).map(|n| TABLES + n * PAGE).collect();
        for _ in 0..r.pick(&[0, 0, 1, 4, 40]) {
            let at =
                if r.one_in(4) { TABLES + r.below(0x300) * size } else { page_table + r.below(pages) * size };
            let page = if r.one_in(2) { r.below(48) * PAGE } else { address(r) & !0xfff };
            let entry =
                page | r.below(0x200) | r.pick(&[0, 1, 7, 7]) | r.pick(&[0, 0, 1 << 63, 1 << 52, 1 << 59]);
            self.write(at, &entry.to_le_bytes()[..size as usize]);
            tables.extend((at < page_table).then_some(page));
        }
        tables
    }

    /// Returns what is not as it must be.
    fn damage(&self) -> Option<&'static str> {
        let is =
            |memory: &Memory, at: u64, byte| memory.read::<0x1000>(at as usize).iter().all(|b| *b == byte);
        let guards = is(&self.memory, 0, GUARD)
            && is(&self.memory, PAGE + RAM, GUARD)
            && is(&self.rom, 0, GUARD)
            && is(&self.rom, PAGE + ROM_LEN, GUARD);
        if !guards {
            return Some("memory that is not the guest's has changed");
        }
        let rom = (PAGE..PAGE + ROM_LEN).step_by(PAGE as usize).all(|at| is(&self.rom, at, ROM_BYTE));
        (!rom).then_some("memory that the guest may only read has changed")
    }
}

/// Returns the selectors of the code and the data of a privilege level.
fn selectors(dpl: u8) -> (u16, u16) {
    let first = 8 + 16 * u16::from(dpl);
    (first | u16::from(dpl), (first + 8) | u16::from(dpl))
}

/// Makes memory of `len` bytes for a guest, and a page of [`GUARD`] on each side of it.
fn guarded(len: u64) -> Memory {
    let memory = Memory::new((len + 2 * PAGE) as usize);
    memory.write(0, &[GUARD; PAGE as usize]);
    memory.write((PAGE + len) as usize, &[GUARD; PAGE as usize]);
    memory
}

/// Sets the registers. What the node refuses stays as after reset.
fn set_state(vcpu: &VcpuFd, r: &mut Random, mode: Mode) {
    let mut s = vcpu.get_sregs().unwrap();
    let dpl = r.pick(&[0, 0, 0, 0, 1, 2, 3, 3]);
    if mode != Mode::Real {
        let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, dpl, ..Default::default() };
        let l = u8::from(mode == Mode::Long);
        let (code, data) = selectors(dpl);
        s.cs = kvm_segment { selector: code, type_: 11, l, db: 1 - l, ..flat };
        let data = kvm_segment { selector: data, type_: 3, db: 1, ..flat };
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        // Not busy: QEMU ends when it takes a stack from a 32-bit TSS that is.
        s.tr =
            kvm_segment { base: TSS, limit: 0x67, selector: 72, type_: 9, present: 1, ..Default::default() };
        s.gdt = kvm_dtable { base: GDT, limit: 71, ..Default::default() };
        s.idt = kvm_dtable { base: IDT, limit: 0x3ff, ..Default::default() };
    } else {
        (s.cs.base, s.cs.selector) = (0, 0);
    }
    s.cr3 = TABLES;
    (s.cr0, s.cr4, s.efer) = match mode {
        Mode::Real => (0x10, 0, 0),
        Mode::Protected => (0x11, 0, 0),
        Mode::Legacy => (0x8000_0011, 0x10, 0),
        Mode::Pae => (0x8000_0011, 0x20, 0),
        Mode::Compatibility | Mode::Long => (0x8000_0011, 0x20, 0x500),
    };
    s.cr0 |= r.pick(&[0, 1 << 16]);
    s.cr4 |= r.pick(&[0, 0x600, 1 << 9]);
    let regular = s;
    match r.below(12) {
        0 => s.idt.base = address(r),
        1 => s.gdt.base = address(r),
        2 => s.tr.base = address(r),
        3 => s.cr3 = address(r),
        4 => s.cr4 |= 1 << r.below(25),
        5 => s.fs.base = address(r),
        6 => s.cs.base = address(r) & 0xffff_ffff,
        _ => {}
    }
    if vcpu.set_sregs(&s).is_err() {
        vcpu.set_sregs(&regular).ok();
    }
    let mut regs = [0; 16];
    regs.iter_mut().for_each(|reg| *reg = address(r));
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, _] = regs;
    let rcx = if r.one_in(2) { r.below(0x3000) } else { rcx };
    let flags = r.pick(&[2, 2, 0x202, 0x102, 0x1202, 0x2202, 0x3202, 0x402, 0x4_0002]);
    vcpu.set_regs(&kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rsp: r.pick(&[0x8000, 0x8000, 0x3ff4, 0xfffa]),
        rip: CODE + r.pick(&[0, 0, 1, 0x800]),
        rflags: flags | if mode == Mode::Protected && r.one_in(8) { 1 << 17 } else { 0 },
    })
    .ok();
    if r.one_in(4) {
        let mut d = vcpu.get_debug_regs().unwrap();
        d.db = [CODE + r.below(64), address(r), 0x7ff8, address(r)];
        // Breakpoints on instructions only, and no MOV to a debug register above: QEMU ends when a watched stack is
        // pushed to by an interrupt.
        d.dr7 = 0x400 | r.next() & 0x23ff;
        vcpu.set_debug_regs(&d).ok();
    }
}

/// Runs a vCPU until it has had enough, or `stop` says so.
fn drive(vcpu: &mut VcpuFd, r: &mut Random, has_irqchip: bool, stop: &AtomicBool) {
    for _ in 0..EXITS {
        if stop.load(SeqCst) {
            return;
        }
        match r.below(24) {
            0 => drop(raw::ioctl(vcpu, nr::NMI, 0)),
            1 if !has_irqchip => drop(ioctl_with(vcpu, nr::INTERRUPT, &mut (r.below(256) as u32))),
            2 if !has_irqchip => vcpu.get_kvm_run().request_interrupt_window = r.below(2) as u8,
            _ => {}
        }
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(_, data) | VcpuExit::IoIn(_, data)) => {
                data.iter_mut().for_each(|b| *b = r.byte())
            }
            Ok(VcpuExit::Shutdown | VcpuExit::InternalError | VcpuExit::FailEntry(..)) => return,
            Ok(_) => {}
            // A signal; or a processor that waits to be started.
            Err(_) => {}
        }
    }
}

/// What the watchers know of the guests.
struct Watch {
    seed: AtomicU64,
    /// Beats of the host CPU that runs the guests.
    beats: AtomicU64,
    /// Guests that have ended.
    guests: AtomicU64,
    /// Guests with devices, and queues of theirs that moved.
    equipped: AtomicU64,
    moved: AtomicU64,
}

/// Runs one guest. Returns what is wrong.
fn guest(c: &Ctx, seed: u64, watch: &Watch) -> Option<&'static str> {
    let mut g = Guest::new(c, seed);
    let stop = AtomicBool::new(false);
    let workers = g.devices.as_ref().map_or(Vec::new(), Devices::workers);
    let threads = Mutex::new(Vec::new());
    let running = AtomicU64::new((g.vcpus.len() + workers.len()) as u64);
    let is_over = AtomicBool::new(false);
    let (has_irqchip, mut vcpus) = (g.has_irqchip, std::mem::take(&mut g.vcpus));
    std::thread::scope(|scope| {
        let (stop, threads, running, is_over) = (&stop, &threads, &running, &is_over);
        let begin = move || threads.lock().unwrap().push(raw::this_thread());
        // It must not end while it may be sent signals.
        let end = move || {
            running.fetch_sub(1, SeqCst);
            while !is_over.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for (n, vcpu) in vcpus.iter_mut().enumerate() {
            scope.spawn(move || {
                begin();
                drive(vcpu, &mut Random::of(seed ^ (n as u64 + 1) << 48), has_irqchip, stop);
                end();
            });
        }
        for (device, queue) in workers {
            scope.spawn(move || {
                begin();
                while !stop.load(SeqCst) {
                    raw::ioctl(&device, rvmm::DEV_RUN, queue).ok();
                    std::thread::sleep(Duration::from_micros(200));
                }
                end();
            });
        }
        let r = &mut Random::of(seed ^ 0xf00d << 48);
        let started = Instant::now();
        while running.load(SeqCst) != 0 {
            std::thread::sleep(Duration::from_millis(2));
            if started.elapsed() > RUN {
                stop.store(true, SeqCst);
            }
            for thread in threads.lock().unwrap().iter().filter(|_| stop.load(SeqCst) || r.one_in(8)) {
                raw::interrupt(*thread);
            }
            if let Some(devices) = &g.devices {
                devices.disturb(r, &g.memory, PAGE);
            }
            if has_irqchip && r.one_in(4) {
                let mut line = kvm_irq_level { level: r.below(2) as u32, ..Default::default() };
                line.__bindgen_anon_1.irq = r.below(24) as u32;
                ioctl_with(&g.vm, nr::IRQ_LINE_STATUS, &mut line).ok();
            }
        }
        is_over.store(true, SeqCst);
    });
    if let Some(devices) = &g.devices {
        watch.equipped.fetch_add(1, SeqCst);
        watch.moved.fetch_add(devices.moved(&g.memory, PAGE) as u64, SeqCst);
    }
    g.damage()
}

/// Runs guests for `seconds`, but at least one, from `seed` on, in a host where a test may take `limit`. Returns the exit
/// code.
pub fn run(c: &Ctx, seconds: u64, seed: u64, limit: Duration) -> u8 {
    raw::ignore_sigusr1();
    println!("KTAP version 1\n1..1\n# random guests from seed {seed}");
    let watch: &'static Watch = Box::leak(Box::new(Watch {
        seed: AtomicU64::new(seed),
        beats: AtomicU64::new(0),
        guests: AtomicU64::new(0),
        equipped: AtomicU64::new(0),
        moved: AtomicU64::new(0),
    }));
    let cpus = raw::cpus();
    std::thread::spawn(move || {
        raw::pin(cpus.last);
        loop {
            std::thread::sleep(Duration::from_millis(5));
            watch.beats.fetch_add(1, SeqCst);
        }
    });
    std::thread::spawn(move || {
        raw::pin(cpus.first);
        watch_over(watch, limit);
    });
    raw::pin(cpus.last);
    let started = Instant::now();
    let mut n = seed;
    loop {
        watch.seed.store(n, SeqCst);
        // Where the host itself stands still, nobody is left to tell of it but what was said before.
        println!("# seed {n}");
        if let Some(what) = guest(c, n, watch) {
            println!("not ok 1 fuzz: seed {n}: {what}");
            return 1;
        }
        watch.guests.fetch_add(1, SeqCst);
        n = n.wrapping_add(1);
        if started.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    let (equipped, moved) = (watch.equipped.load(SeqCst), watch.moved.load(SeqCst));
    println!("# {} guests, {} beats", watch.guests.load(SeqCst), watch.beats.load(SeqCst));
    println!("# {equipped} had devices, of which {moved} queues moved");
    if equipped != 0 && moved < equipped {
        println!("not ok 1 fuzz: the devices of random guests move hardly any data");
        return 1;
    }
    println!("ok 1 fuzz: the host lives with random guests");
    0
}

/// Ends the process when the guests' CPU takes no interrupts, or a guest does not end.
fn watch_over(watch: &Watch, limit: Duration) -> ! {
    let (mut beats, mut guests) = ((0, Duration::ZERO), (0, Duration::ZERO));
    let mut looked = Instant::now();
    loop {
        std::thread::sleep(LOOK / 5);
        let step = looked.elapsed().min(LOOK);
        looked = Instant::now();
        let fail = |what: &str| -> ! {
            println!("not ok 1 fuzz: seed {}: {what}", watch.seed.load(SeqCst));
            std::process::exit(1);
        };
        for (last, now, limit, what) in [
            (&mut beats, watch.beats.load(SeqCst), limit / SILENCE, "its CPU takes no interrupts"),
            (&mut guests, watch.guests.load(SeqCst), limit / PATIENCE, "it does not end"),
        ] {
            *last = (now, if last.0 == now { last.1 + step } else { Duration::ZERO });
            if last.1 > limit {
                fail(what);
            }
        }
    }
}
