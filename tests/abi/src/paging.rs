// SPDX-License-Identifier: GPL-2.0

//! Guests that switch each kind of paging on by themselves, and then execute instructions that exit: where the
//! processor does not tell their length, it is found by walking the guest's own tables.

use crate::guest::{Guest, HLT};
use crate::harness::{skip, Ctx, Test};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;

pub const TESTS: &[Test] = &[
    ("paging: exits without paging", |c| run(c, &Mode::default())),
    ("paging: exits under 32-bit tables", |c| run(c, &LEGACY)),
    ("paging: exits under 32-bit tables with 4 MiB pages", |c| {
        run(c, &Mode { large: true, cr4: PSE, ..LEGACY })
    }),
    ("paging: exits under pae tables", |c| run(c, &PAE)),
    ("paging: exits under pae tables with 2 MiB pages", |c| run(c, &Mode { large: true, ..PAE })),
    ("paging: exits under pae tables with no-execute", |c| run(c, &Mode { efer: NXE, ..PAE })),
    ("paging: exits under pae tables at cpl 3", |c| run(c, &Mode { user: true, ..PAE })),
    ("paging: exits under pae tables from a segment whose base wraps", |c| {
        run(c, &Mode { base: 0x4000_0000, ..PAE })
    }),
    ("paging: exits under 32-bit tables from a segment whose base wraps", |c| {
        run(c, &Mode { base: 0x4000_0000, ..LEGACY })
    }),
    ("paging: exits under 4-level tables", |c| run(c, &LONG)),
    ("paging: exits under 4-level tables with 2 MiB pages", |c| run(c, &Mode { large: true, ..LONG })),
    ("paging: exits under 4-level tables with no-execute", |c| run(c, &Mode { efer: LME | NXE, ..LONG })),
    ("paging: exits under 4-level tables at cpl 3", |c| run(c, &Mode { user: true, ..LONG })),
    ("paging: exits under 4-level tables in compatibility mode", |c| run(c, &COMPATIBILITY)),
    ("paging: exits under 5-level tables", |c| {
        let list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        // CPUID.7.0:ECX.LA57.
        if !list.as_slice().iter().any(|e| e.function == 7 && e.index == 0 && e.ecx & 1 << 16 != 0) {
            skip("no 5-level paging");
        }
        run(c, &Mode { cr4: PAE_BIT | LA57, levels: &[48, 39, 30, 21, 12], large: true, ..LONG });
    }),
];

/// Accesses that are made in software alone: the destinations of strings whose source is a device.
pub const SOFTWARE: &[Test] = &[
    ("paging: software asks the protection key of a page", protection_key),
    ("paging: software knows how wide the guest's addresses are", address_width),
    ("paging: software asks the rights of a page", rights),
    ("paging: software finds no table where there is no memory", no_table),
];

const PSE: u32 = 1 << 4;
const PAE_BIT: u32 = 1 << 5;
const LA57: u32 = 1 << 12;
const LME: u32 = 1 << 8;
const NXE: u32 = 1 << 11;

/// A kind of paging, and what else is special about the guest.
#[derive(Clone, Copy, Default)]
struct Mode {
    cr4: u32,
    /// Bits that the guest sets in EFER.
    efer: u32,
    /// What an entry of each table covers, as log2, from the root down; empty without paging.
    levels: &'static [u32],
    /// Pages of the last but one level.
    large: bool,
    /// The base of CS.
    base: u32,
    /// The code runs at CPL 3.
    user: bool,
    /// Where the code goes on with paging on, and the memory that it uses lies; address 0 is mapped there.
    high: u64,
    /// The code goes on in 64-bit mode.
    is_64bit: bool,
}

const LEGACY: Mode = Mode {
    cr4: 0,
    efer: 0,
    levels: &[22, 12],
    large: false,
    base: 0,
    user: false,
    high: 0xc000_0000,
    is_64bit: false,
};
const PAE: Mode = Mode { cr4: PAE_BIT, levels: &[30, 21, 12], ..LEGACY };
const COMPATIBILITY: Mode = Mode { efer: LME, levels: &[39, 30, 21, 12], ..PAE };
const LONG: Mode = Mode { high: 0xffff_8080_4000_0000, is_64bit: true, ..COMPATIBILITY };

/// Physical addresses: of the code before and after paging is switched on, the GDT, the page tables, the TSS.
const START: usize = 0x1000;
const CODE: usize = 0x2000;
const DATA: usize = 0x3000;
const GDT: usize = 0x5000;
const TABLES: u64 = 0x8000;
/// Where there is no memory, also behind the same offset from [`Mode::high`].
const MMIO: u64 = 0x10_0000;
/// Selectors.
const CODE32: u16 = 8;
const DATA32: u16 = 16;
const CODE64: u16 = 24;
const USER_CODE: u16 = 32 | 3;
const USER_DATA: u16 = 40 | 3;

const P: u64 = 1;
const ALL: u64 = 7;
const LARGE: u64 = 1 << 7;
const NO_EXEC: u64 = 1 << 63;

/// The page tables under construction.
struct Tables<'a> {
    g: &'a Guest,
    mode: &'a Mode,
    /// The next table.
    free: u64,
}

impl Tables<'_> {
    fn root(&self) -> u64 {
        match self.mode.levels {
            // A PAE root may lie at any 32 bytes.
            [30, ..] => TABLES + 0xfa0,
            _ => TABLES,
        }
    }

    fn entry_bytes(&self) -> usize {
        if self.mode.levels[0] == 22 {
            4
        } else {
            8
        }
    }

    fn read(&self, at: u64) -> u64 {
        match self.entry_bytes() {
            4 => u32::from_le_bytes(self.g.memory.read(at as usize)).into(),
            _ => u64::from_le_bytes(self.g.memory.read(at as usize)),
        }
    }

    fn write(&self, at: u64, entry: u64) {
        self.g.memory.write(at as usize, &entry.to_le_bytes()[..self.entry_bytes()]);
    }

    /// Maps the page of `linear` to that of `physical`, writable for all.
    fn map(&mut self, linear: u64, physical: u64, flags: u64) {
        let (levels, mut table) = (self.mode.levels, self.root());
        let last = levels.len() - if self.mode.large { 2 } else { 1 };
        for (n, shift) in levels.iter().enumerate() {
            let entries = 1 << if self.entry_bytes() == 4 { 10 } else { 9 };
            let at = table + (linear >> shift) % entries * self.entry_bytes() as u64;
            if n == last {
                let page = physical >> shift << shift;
                return self.write(at, page | ALL | flags | if self.mode.large { LARGE } else { 0 });
            }
            if self.read(at) == 0 {
                self.free += 0x1000;
                // The pointers of PAE have no rights.
                self.write(at, self.free | if *shift == 30 && levels.len() == 3 { P } else { ALL });
            }
            table = self.read(at) & !0xfff;
        }
    }
}

fn put(code: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| code.extend_from_slice(part));
}

/// The code that switches paging on, and goes to [`CODE`] above [`Mode::high`].
fn start(mode: &Mode, root: u64) -> Vec<u8> {
    let mut code = Vec::new();
    if !mode.levels.is_empty() {
        // mov eax, …; mov cr4, eax; mov eax, …; mov cr3, eax
        put(&mut code, &[&[0xb8], &mode.cr4.to_le_bytes(), &[0x0f, 0x22, 0xe0]]);
        put(&mut code, &[&[0xb8], &(root as u32).to_le_bytes(), &[0x0f, 0x22, 0xd8]]);
        if mode.efer != 0 {
            // mov ecx, EFER; rdmsr; or eax, …; wrmsr
            put(
                &mut code,
                &[&[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x0d], &mode.efer.to_le_bytes(), &[0x0f, 0x30]],
            );
        }
        // mov eax, cr0; or eax, PG; mov cr0, eax
        put(&mut code, &[&[0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80, 0x0f, 0x22, 0xc0]]);
    }
    let target = (mode.high + CODE as u64) as u32;
    if mode.is_64bit {
        // jmp far to the next instruction; mov rax, …; jmp rax
        let next = START + code.len() + 7;
        put(&mut code, &[&[0xea], &(next as u32).to_le_bytes(), &CODE64.to_le_bytes()]);
        put(&mut code, &[&[0x48, 0xb8], &(mode.high + CODE as u64).to_le_bytes()]);
        put(&mut code, &[&to_user(mode).unwrap_or(vec![0xff, 0xe0])]);
    } else {
        // mov eax, …; jmp eax
        put(&mut code, &[&[0xb8], &target.wrapping_sub(mode.base).to_le_bytes()]);
        put(&mut code, &[&to_user(mode).unwrap_or(vec![0xff, 0xe0])]);
    }
    code
}

/// The code that goes to the address in RAX at CPL 3 with IOPL 3.
fn to_user(mode: &Mode) -> Option<Vec<u8>> {
    let mut code = Vec::new();
    let rex: &[u8] = if mode.is_64bit { &[0x48] } else { &[] };
    // push SS; push ESP; push EFLAGS; push CS; push EAX; iret
    put(
        &mut code,
        &[&[0x6a, USER_DATA as u8, 0x54, 0x68, 2, 0x30, 0, 0, 0x6a, USER_CODE as u8, 0x50], rex, &[0xcf]],
    );
    mode.user.then_some(code)
}

/// The code that runs with paging on.
fn body(mode: &Mode) -> Vec<u8> {
    let mut code = Vec::new();
    // mov eax, 0x40000000; xor ecx, ecx; cpuid; mov edi, ebx
    put(&mut code, &[&[0xb8, 0, 0, 0, 0x40, 0x31, 0xc9, 0x0f, 0xa2, 0x89, 0xdf]]);
    if !mode.user {
        // mov ecx, STAR; mov eax, 0x11223344; mov edx, 0x55667788; wrmsr; xor eax, eax; rdmsr; mov ebp, eax
        put(
            &mut code,
            &[&[0xb9, 0x81, 0, 0, 0xc0, 0xb8, 0x44, 0x33, 0x22, 0x11, 0xba, 0x88, 0x77, 0x66, 0x55]],
        );
        put(&mut code, &[&[0x0f, 0x30, 0x31, 0xc0, 0x0f, 0x32, 0x89, 0xc5]]);
    }
    // in al, 0x60; out 0x10, al
    put(&mut code, &[&[0xe4, 0x60, 0xe6, 0x10]]);
    let at = mode.high + MMIO;
    if mode.is_64bit {
        put(&mut code, &[&[0x48, 0xbb], &at.to_le_bytes()]);
    } else {
        put(&mut code, &[&[0xbb], &(at as u32).to_le_bytes()]);
    }
    // mov esi, [ebx]; mov [ebx+8], esi; add byte [ebx+12], 5
    put(&mut code, &[&[0x8b, 0x33, 0x89, 0x73, 0x08, 0x80, 0x43, 0x0c, 0x05]]);
    // mov [DATA], esi; out 0x11, al; hlt
    if mode.is_64bit {
        put(&mut code, &[&[0x48, 0xbb], &(mode.high + DATA as u64).to_le_bytes()]);
    } else {
        put(&mut code, &[&[0xbb], &((mode.high + DATA as u64) as u32).to_le_bytes()]);
    }
    put(&mut code, &[&[0x89, 0x33, 0xe6, 0x11, HLT]]);
    code
}

/// A guest in protected mode without paging, at the code that switches it on.
fn guest(c: &Ctx, mode: &Mode) -> Guest {
    let g = Guest::new(c, &[]);
    let mut tables = Tables { g: &g, mode, free: TABLES };
    let root = if mode.levels.is_empty() { 0 } else { tables.root() };
    if root != 0 {
        let data = if mode.efer & NXE != 0 && !mode.large { NO_EXEC } else { 0 };
        for page in [START, 0x4000, GDT] {
            tables.map(page as u64, page as u64, 0);
        }
        tables.map(mode.high + CODE as u64, CODE as u64, 0);
        tables.map(mode.high + DATA as u64, DATA as u64, data);
        tables.map(mode.high + MMIO, MMIO, data);
    }
    g.memory.write(START, &start(mode, root));
    g.memory.write(CODE, &body(mode));
    let user_code = if mode.is_64bit { 0x00af_fa00_0000_ffff } else { 0x00cf_fa00_0000_ffffu64 };
    let code =
        0x00cf_9a00_0000_ffff | u64::from(mode.base & 0xff_ffff) << 16 | u64::from(mode.base >> 24) << 56;
    let gdt = [0, code, 0x00cf_9200_0000_ffff, 0x00af_9a00_0000_ffff, user_code, 0x00cf_f200_0000_ffff];
    gdt.iter().enumerate().for_each(|(i, d)| g.memory.write(GDT + 8 * i, &d.to_le_bytes()));
    let mut s = g.vcpu.get_sregs().unwrap();
    s.cr0 = 0x11;
    (s.gdt.base, s.gdt.limit) = (GDT as u64, 47);
    s.idt.limit = 0;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, db: 1, ..Default::default() };
    s.cs = kvm_segment { selector: CODE32, type_: 11, base: mode.base.into(), ..flat };
    s.ss = kvm_segment { selector: DATA32, type_: 3, ..flat };
    // For all privilege levels, so that IRET leaves them.
    let data = kvm_segment { selector: USER_DATA, type_: 3, dpl: 3, ..flat };
    (s.ds, s.es, s.fs, s.gs) = (data, data, data, data);
    g.vcpu.set_sregs(&s).unwrap();
    let rip = (START as u32).wrapping_sub(mode.base).into();
    g.vcpu.set_regs(&kvm_regs { rip, rsp: 0x5000, rflags: 2, ..Default::default() }).unwrap();
    g
}

fn run(c: &Ctx, mode: &Mode) {
    let mut g = guest(c, mode);

    match g.exit() {
        VcpuExit::IoIn(0x60, data) => data[0] = 0x5a,
        other => panic!("{other:?}, expected IN"),
    }
    assert_eq!(g.out(), (0x10, 0x5a));
    let gpa = MMIO;
    match g.exit() {
        VcpuExit::MmioRead(at, data) => {
            assert_eq!((at, data.len()), (gpa, 4));
            data.copy_from_slice(&[1, 2, 3, 4]);
        }
        other => panic!("{other:?}, expected a read"),
    }
    match g.exit() {
        VcpuExit::MmioWrite(at, data) => assert_eq!((at, data as &[u8]), (gpa + 8, &[1, 2, 3, 4][..])),
        other => panic!("{other:?}, expected a write"),
    }
    match g.exit() {
        VcpuExit::MmioRead(at, data) if at == gpa + 12 => data[0] = 7,
        other => panic!("{other:?}, expected a read"),
    }
    match g.exit() {
        VcpuExit::MmioWrite(at, data) => assert_eq!((at, data as &[u8]), (gpa + 12, &[12][..])),
        other => panic!("{other:?}, expected a write"),
    }
    assert_eq!(g.out().0, 0x11);
    assert_eq!(g.memory.read::<4>(DATA), [1, 2, 3, 4]);
    let r = g.vcpu.get_regs().unwrap();
    // "KVMK".
    assert_eq!(r.rdi, 0x4b4d_564b);
    assert!(mode.user || r.rbp == 0x1122_3344, "{:#x}", r.rbp);
}

/// Page fault error code bits.
const PF_P: u8 = 1;
const PF_W: u8 = 2;
const PF_RSVD: u8 = 8;
const PF_PK: u8 = 32;

/// Moves a byte from a device to a page that `entry` maps, in 64-bit mode; returns the error code of the page fault.
/// `code` runs before; `page_table` is the address of the page's table.
#[track_caller]
fn fault(g: &mut Guest, cr4: u64, code: &[u8], page_table: u64, entry: u64) -> u8 {
    const IDT: usize = 0x4000;
    // mov rsi, MMIO; mov rdi, 0x201000; movsb
    let string = [0x48, 0xc7, 0xc6, 0, 0, 0x10, 0, 0x48, 0xc7, 0xc7, 0, 0x10, 0x20, 0, 0xa4, HLT];
    g.memory.write(CODE, &[code, &string].concat());
    // pop rax; out 0x10, al; hlt
    g.memory.write(DATA, &[0x58, 0xe6, 0x10, HLT]);
    g.memory.write(0x5008, &0x00af_9b00_0000_ffffu64.to_le_bytes());
    g.memory.write(IDT + 14 * 16, &(DATA as u64 | 0x8e00_0008_0000).to_le_bytes());
    g.enter_long_mode();
    for table in [0x9000, 0xa000] {
        let entry = u64::from_le_bytes(g.memory.read(table));
        g.memory.write(table, &(entry | 4).to_le_bytes());
    }
    g.memory.write(0xb008, &(page_table | ALL).to_le_bytes());
    g.memory.write(0xd008, &entry.to_le_bytes());
    let mut s = g.vcpu.get_sregs().unwrap();
    s.cr0 |= 1 << 16;
    s.cr4 |= cr4;
    s.gdt = kvm_dtable { base: 0x5000, limit: 15, ..Default::default() };
    s.idt = kvm_dtable { base: IDT as u64, limit: 0xfff, ..Default::default() };
    g.vcpu.set_sregs(&s).unwrap();
    g.vcpu.set_regs(&kvm_regs { rip: CODE as u64, rsp: 0x8000, rflags: 2, ..Default::default() }).unwrap();
    loop {
        match g.exit() {
            // The device may be read first.
            VcpuExit::MmioRead(MMIO, data) => data[0] = 0x33,
            VcpuExit::IoOut(0x10, &[error]) => break error,
            other => panic!("{other:?}, expected a page fault"),
        }
    }
}

fn protection_key(c: &Ctx) {
    let list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    // CPUID.7.0:ECX.PKU.
    if !list.as_slice().iter().any(|e| e.function == 7 && e.index == 0 && e.ecx & 1 << 3 != 0) {
        skip("no protection keys");
    }
    // xor ecx, ecx; xor edx, edx; mov eax, 8 (no writes with key 1); wrpkru
    let code = [0x31, 0xc9, 0x31, 0xd2, 0xb8, 8, 0, 0, 0, 0x0f, 0x01, 0xef];
    let mut g = Guest::new(c, &[]);

    assert_eq!(fault(&mut g, 1 << 22, &code, 0xd000, 0x6000 | ALL | 1 << 59), PF_P | PF_W | PF_PK);
}

fn address_width(c: &Ctx) {
    let mut g = Guest::new(c, &[]);
    let mut list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let leaf = list.as_mut_slice().iter_mut().find(|e| e.function == 0x8000_0008).unwrap();
    leaf.eax = (leaf.eax & !0xff) | 36;
    g.vcpu.set_cpuid2(&list).unwrap();

    assert_eq!(fault(&mut g, 0, &[], 0xd000, 0x6000 | ALL | 1 << 37), PF_P | PF_W | PF_RSVD);
}

fn rights(c: &Ctx) {
    let mut g = Guest::new(c, &[]);

    assert_eq!(fault(&mut g, 0, &[], 0xd000, 0x6000 | P), PF_P | PF_W);
}

fn no_table(c: &Ctx) {
    let mut g = Guest::new(c, &[]);

    assert_eq!(fault(&mut g, 0, &[], 0x70_0000, 0), PF_W);
}
