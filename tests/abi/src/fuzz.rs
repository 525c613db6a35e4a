// SPDX-License-Identifier: GPL-2.0

//! Random guests: instruction streams at all privilege levels and in all modes, over random page tables, on memory,
//! the chips and addresses where there is nothing.
//!
//! What must hold whatever they do: the host CPU that runs them goes on taking interrupts, KVM_RUN ends when a
//! signal asks for it, and nothing changes beyond the memory that they were given, nor what they may only read.
//!
//! Guest number `n` is made from seed `n` alone, so `abi-tests --fuzz 0 SEED` is that guest again, but for the
//! moments at which signals and interrupts come.

use crate::abi::nr;
use crate::harness::Ctx;
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
/// How long the host's CPU may be silent, and a guest not end: a loaded machine that emulates a host is slow.
const SILENCE: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(20);

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
/// Ends every sequence of instructions that it is behind: as many HLT as the longest instruction has bytes, and one. No
/// entry of a table is present that consists of them.
const WALL: [u8; 16] = [0xf4; 16];

/// A generator of random numbers (xorshift).
struct Random(u64);

impl Random {
    fn of(seed: u64) -> Random {
        let mut r = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| r.0 = r.next());
        r
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    /// An address or a number where something may go wrong.
    fn address(&mut self) -> u64 {
        let near = self.below(24).wrapping_sub(12);
        match self.below(12) {
            0 | 1 => self.below(RAM),
            2 => (self.below(RAM / PAGE) * PAGE).wrapping_add(near),
            3 => ROM.wrapping_add(near),
            4 => 0xfee0_0000 + self.below(0x40) * 0x10 + self.below(4),
            5 => 0xfee0_0000u64.wrapping_add(self.pick(&[0, 0x1000])).wrapping_add(near),
            6 => 0xfec0_0000 + self.pick(&[0, 0, 0x10, 0x10, 1, 0x40, 0xfff]),
            7 => RAM.wrapping_add(near),
            8 => {
                self.pick(&[0xd000_0000u64, 0xffff_ffff, 0x1_0000_0000, 1 << 40, 1 << 47]).wrapping_add(near)
            }
            9 => self.next(),
            10 => self.below(0x100),
            _ => self.pick(&[CODE, IDT, GDT, TSS, TABLES, TABLES + PAGE]).wrapping_add(self.below(64) * 8),
        }
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
const MSRS: [u32; 28] = [
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
            code.extend_from_slice(&r.address().to_le_bytes()[..if wide { 8 } else { 4 }]);
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
        0 if byte & 7 == 5 => code.extend_from_slice(&r.address().to_le_bytes()[..4]),
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
        let g = Guest { vm, vcpus: Vec::new(), has_irqchip, memory, rom };
        let mut tables = g.fill(r, mode);
        let list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let vcpus = (0..r.pick(&[1, 1, 2])).map(|id| {
            let vcpu = g.vm.create_vcpu(id).expect("KVM_CREATE_VCPU");
            vcpu.set_cpuid2(&list).unwrap();
            set_state(&vcpu, r, mode);
            vcpu
        });
        let vcpus: Vec<VcpuFd> = vcpus.collect();
        tables.extend(vcpus.iter().map(|vcpu| vcpu.get_sregs().unwrap().cr3));
        tables.into_iter().for_each(|table| g.wall_up(table));
        Guest { vcpus, ..g }
    }

    fn write(&self, gpa: u64, bytes: &[u8]) {
        self.memory.write((PAGE + gpa) as usize, bytes);
    }

    /// Keeps the guest from running out of a page that is a table into the next one: where QEMU's translation of code
    /// goes on to another page, and the walk to that goes through the page it came from, the CPU waits
    /// for itself for ever. `tb_invalidate_phys_range_fast()` takes the lock of the table's page, since the walk
    /// under nested paging is a write there; `translator_loop()` has it already. Seen with seed 352.
    fn wall_up(&self, table: u64) {
        let page = table & !(PAGE - 1);
        if page < RAM {
            self.write(page + PAGE - WALL.len() as u64, &WALL);
        }
    }

    /// Writes code, tables and descriptors. Returns the addresses of tables.
    fn fill(&self, r: &mut Random, mode: Mode) -> Vec<u64> {
        for at in (0..RAM).step_by(8) {
            let word = r.address();
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
            let gate = at | 8 << 16 | u64::from(rights) << 40;
            let size = if mode == Mode::Long { 16 } else { 8 };
            self.write(IDT + vector * size, &gate.to_le_bytes());
            if size == 16 {
                self.write(IDT + vector * size + 8, &[0; 8]);
            }
        }
        let l = if mode == Mode::Long { 0x20_0000_0000_0000u64 } else { 0x40_0000_0000_0000 };
        let gdt = [
            0,
            0x008f_9b00_0000_ffff | l,
            0x00cf_9300_0000_ffff,
            0x008f_fb00_0000_ffff | l,
            0x00cf_f300_0000_ffff,
        ];
        gdt.iter().enumerate().for_each(|(i, d)| self.write(GDT + 8 * i as u64, &d.to_le_bytes()));
        self.write(TSS, &[0; 0x68]);
        self.write(TSS + 4, &0x3800u64.to_le_bytes());
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
                self.write(TABLES + 0xfec, &0xfec0_0087u32.to_le_bytes());
                (0..pages).for_each(|n| self.write(page_table + n * 4, &(small(n) as u32).to_le_bytes()));
            }
            Mode::Pae => {
                put(TABLES, (TABLES + PAGE) | 1);
                put(TABLES + 24, (TABLES + 2 * PAGE) | 1);
                put(TABLES + PAGE, page_table | 7);
                put(TABLES + 2 * PAGE + 0x1f6 * 8, 0xfec0_0087);
                put(TABLES + 2 * PAGE + 0x1f7 * 8, 0xfee0_0087);
                (0..pages).for_each(|n| put(page_table + n * 8, small(n)));
            }
            _ => {
                put(TABLES, (TABLES + PAGE) | 7);
                put(TABLES + PAGE, (TABLES + 2 * PAGE) | 7);
                // The last GiB below 4 through the same directory: the controllers at a multiple of 1 GiB less.
                put(TABLES + PAGE + 24, (TABLES + 2 * PAGE) | 7);
                put(TABLES + 2 * PAGE, page_table | 7);
                put(TABLES + 2 * PAGE + 0x1f6 * 8, 0xfec0_0087);
                put(TABLES + 2 * PAGE + 0x1f7 * 8, 0xfee0_0087);
                (0..pages).for_each(|n| put(page_table + n * 8, small(n)));
            }
        }
        let mut tables: Vec<u64> = (0..4).map(|n| TABLES + n * PAGE).collect();
        for _ in 0..r.pick(&[0, 0, 1, 4, 40]) {
            let at =
                if r.one_in(4) { TABLES + r.below(0x300) * size } else { page_table + r.below(pages) * size };
            let page = if r.one_in(2) { r.below(48) * PAGE } else { r.address() & !0xfff };
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
    let user = mode != Mode::Real && r.one_in(3);
    let dpl = if user { 3 } else { 0 };
    if mode != Mode::Real {
        let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, dpl, ..Default::default() };
        let l = u8::from(mode == Mode::Long);
        let (code, data) = if user { (24 | 3, 32 | 3) } else { (8, 16) };
        s.cs = kvm_segment { selector: code, type_: 11, l, db: 1 - l, ..flat };
        let data = kvm_segment { selector: data, type_: 3, db: 1, ..flat };
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        // Not busy: QEMU ends when it takes a stack from a 32-bit TSS that is.
        s.tr =
            kvm_segment { base: TSS, limit: 0x67, selector: 40, type_: 9, present: 1, ..Default::default() };
        s.gdt = kvm_dtable { base: GDT, limit: 39, ..Default::default() };
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
        0 => s.idt.base = r.address(),
        1 => s.gdt.base = r.address(),
        2 => s.tr.base = r.address(),
        3 => s.cr3 = r.address(),
        4 => s.cr4 |= 1 << r.below(25),
        5 => s.fs.base = r.address(),
        6 => s.cs.base = r.address() & 0xffff_ffff,
        _ => {}
    }
    if vcpu.set_sregs(&s).is_err() {
        vcpu.set_sregs(&regular).ok();
    }
    let mut regs = [0; 16];
    regs.iter_mut().for_each(|reg| *reg = r.address());
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, _] = regs;
    let rcx = if r.one_in(2) { r.below(0x3000) } else { rcx };
    let flags = r.pick(&[2, 2, 0x202, 0x102, 0x3202, 0x402, 0x4_0002]);
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
        d.db = [CODE + r.below(64), r.address(), 0x7ff8, r.address()];
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
}

/// Runs one guest. Returns what is wrong.
fn guest(c: &Ctx, seed: u64) -> Option<&'static str> {
    let mut g = Guest::new(c, seed);
    let stop = AtomicBool::new(false);
    let (threads, running) = (Mutex::new(Vec::new()), AtomicU64::new(g.vcpus.len() as u64));
    let is_over = AtomicBool::new(false);
    let (has_irqchip, mut vcpus) = (g.has_irqchip, std::mem::take(&mut g.vcpus));
    std::thread::scope(|scope| {
        for (n, vcpu) in vcpus.iter_mut().enumerate() {
            let (stop, threads, running, is_over) = (&stop, &threads, &running, &is_over);
            scope.spawn(move || {
                threads.lock().unwrap().push(raw::this_thread());
                drive(vcpu, &mut Random::of(seed ^ (n as u64 + 1) << 48), has_irqchip, stop);
                // It must not end while it may be sent signals.
                running.fetch_sub(1, SeqCst);
                while !is_over.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
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
            if has_irqchip && r.one_in(4) {
                let mut line = kvm_irq_level { level: r.below(2) as u32, ..Default::default() };
                line.__bindgen_anon_1.irq = r.below(24) as u32;
                ioctl_with(&g.vm, nr::IRQ_LINE_STATUS, &mut line).ok();
            }
        }
        is_over.store(true, SeqCst);
    });
    g.damage()
}

/// Runs guests for `seconds`, but at least one, from `seed` on. Returns the exit code.
pub fn run(c: &Ctx, seconds: u64, seed: u64) -> u8 {
    raw::ignore_sigusr1();
    println!("KTAP version 1\n1..1\n# random guests from seed {seed}");
    let watch: &'static Watch = Box::leak(Box::new(Watch {
        seed: AtomicU64::new(seed),
        beats: AtomicU64::new(0),
        guests: AtomicU64::new(0),
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
        watch_over(watch);
    });
    raw::pin(cpus.last);
    let started = Instant::now();
    let mut n = seed;
    loop {
        watch.seed.store(n, SeqCst);
        // Where the host itself stands still, nobody is left to tell of it but what was said before.
        println!("# seed {n}");
        if let Some(what) = guest(c, n) {
            println!("not ok 1 fuzz: seed {n}: {what}");
            return 1;
        }
        watch.guests.fetch_add(1, SeqCst);
        n = n.wrapping_add(1);
        if started.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    println!("# {} guests, {} beats", watch.guests.load(SeqCst), watch.beats.load(SeqCst));
    println!("ok 1 fuzz: the host lives with random guests");
    0
}

/// Ends the process when the guests' CPU takes no interrupts, or a guest does not end.
fn watch_over(watch: &Watch) -> ! {
    let (mut beats, mut guests) = ((0, Instant::now()), (0, Instant::now()));
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let fail = |what: &str| -> ! {
            println!("not ok 1 fuzz: seed {}: {what}", watch.seed.load(SeqCst));
            std::process::exit(1);
        };
        for (last, now, limit, what) in [
            (&mut beats, watch.beats.load(SeqCst), SILENCE, "its CPU takes no interrupts"),
            (&mut guests, watch.guests.load(SeqCst), PATIENCE, "it does not end"),
        ] {
            if last.0 != now {
                *last = (now, Instant::now());
            } else if last.1.elapsed() > limit {
                fail(what);
            }
        }
    }
}
