// SPDX-License-Identifier: GPL-2.0

//! Memory slots that cannot be written, that move under a guest, and that log what is written to them.

use crate::abi::{caps, nr, vm as abi};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw::{self, ioctl_with, Memory};
use kvm_bindings::{kvm_enable_cap, kvm_regs, kvm_userspace_memory_region2};
use kvm_ioctls::{VcpuExit, VmFd};
use libc::{EEXIST, EFAULT, EINTR, EINVAL, ENOENT};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

pub const TESTS: &[Test] = &[
    ("memory: a read-only slot is read and executed, and writes to it exit", read_only),
    ("memory: a read-only slot keeps its contents from instructions that read and write", read_only_rmw),
    ("memory: a guest's page tables in a read-only slot stay as they are", read_only_tables),
    ("memory: what the vmm may only read the guest may only read", protected),
    ("memory: only the log of a slot can be switched", flags),
    ("memory: the newer ioctl of slots does what the older one does", newer),
    ("memory: a slot that moves is gone from where it was", moves),
    ("memory: a log is there for slots that have one", log_errors),
    ("memory: a log has the pages that the guest wrote, once", log_writes),
    ("memory: a log has what is written for the guest", log_emulated),
    ("memory: a log has the paravirtual clock", log_clock),
    ("memory: a slot keeps its log when it moves", log_moves),
    ("memory: a log that ends and begins anew is empty", log_again),
    ("memory: a log is cleared by hand", manual),
    ("memory: a log that is cleared by hand may begin full", manual_full),
    ("memory: what can be cleared of a log", clear_errors),
    ("memory: the ways to clear a log go together", manual_options),
    ("memory: a copy by the log alone is complete", migrate),
];

pub const PAGE: u64 = 4096;
/// Where the slot under test is, behind the guest's 64 KiB, and its number.
pub const AT: u64 = 0x2_0000;
pub const SLOT: u32 = 1;
/// KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY.
pub const LOG: u32 = 1;
const READ_ONLY: u32 = 2;

/// A guest in 64-bit mode with another slot of `pages` pages at [`AT`].
fn guest(c: &Ctx, code: &[u8], pages: u64, flags: u32) -> (Guest, Memory) {
    with_slot(Guest::new(c, code), pages, flags)
}

/// Gives a guest such a slot, and lets it enter 64-bit mode.
pub fn with_slot(g: Guest, pages: u64, flags: u32) -> (Guest, Memory) {
    g.enter_long_mode();
    let memory = Memory::new((pages * PAGE) as usize);
    memory.set_slot_at(&g.vm, SLOT, AT, pages * PAGE, memory.address(), flags).unwrap();
    (g, memory)
}

fn newer(c: &Ctx) {
    // mov al, [0x20000]; out 0x10, al; mov al, [0x20000]
    let code = [0x8a, 0x04, 0x25, 0, 0, 2, 0, 0xe6, 0x10, 0x8a, 0x04, 0x25, 0, 0, 2, 0];
    let mut g = Guest::new(c, &code);
    g.enter_long_mode();
    let memory = Memory::new(PAGE as usize);
    memory.write(0, &[0x77]);
    let mut slot = kvm_userspace_memory_region2 {
        slot: SLOT,
        guest_phys_addr: AT,
        memory_size: PAGE,
        userspace_addr: memory.address(),
        ..Default::default()
    };
    let mut unknown = kvm_userspace_memory_region2 { flags: 1 << 15, ..slot };

    refused(ioctl_with(&g.vm, nr::SET_USER_MEMORY_REGION2, &mut unknown), &[EINVAL]);
    ioctl_with(&g.vm, nr::SET_USER_MEMORY_REGION2, &mut slot).unwrap();
    assert_eq!(memory.set_slot(&g.vm, SLOT + 1, AT, PAGE), Err(EEXIST), "it is there");
    assert_eq!(g.out(), (0x10, 0x77));

    slot.memory_size = 0;
    ioctl_with(&g.vm, nr::SET_USER_MEMORY_REGION2, &mut slot).unwrap();
    assert!(matches!(g.exit(), VcpuExit::MmioRead(AT, _)), "it is gone");
}

/// Starts the guest's code anew, with RBX.
fn again(g: &mut Guest, rbx: u64) {
    let r = g.vcpu.get_regs().unwrap();
    g.vcpu.set_regs(&kvm_regs { rip: 0x1000, rbx, ..r }).unwrap();
}

#[track_caller]
fn written(g: &mut Guest) -> (u64, Vec<u8>) {
    match g.exit() {
        VcpuExit::MmioWrite(at, data) => (at, data.to_vec()),
        other => panic!("{other:?}, expected a write to memory"),
    }
}

fn protected(c: &Ctx) {
    // mov al, [0x20000]; out 0x10, al; mov byte [0x20000], 0x55; out 0x20, al
    let code = [0x8a, 0x04, 0x25, 0, 0, 2, 0, 0xe6, 0x10, 0xc6, 0x04, 0x25, 0, 0, 2, 0, 0x55, 0xe6, 0x20];
    let (mut g, memory) = guest(c, &code, 2, 0);
    memory.write(0, &[0x77]);
    memory.protect(false);

    assert_eq!(g.out(), (0x10, 0x77));
    assert_eq!(g.vcpu.run().map_err(|e| e.errno()).map(drop), Err(EFAULT));
    assert_eq!(memory.read(0), [0x77]);
    memory.protect(true);
    assert_eq!(g.out(), (0x20, 0x77), "the same instruction again");
    assert_eq!(memory.read(0), [0x55]);
}

fn read_only(c: &Ctx) {
    // mov al, [0x20000]; out 0x10, al; mov byte [0x20000], 0x55; mov al, [0x20000]; out 0x10, al; jmp rbx
    let code = [
        0x8a, 0x04, 0x25, 0, 0, 2, 0, 0xe6, 0x10, 0xc6, 0x04, 0x25, 0, 0, 2, 0, 0x55, 0x8a, 0x04, 0x25, 0, 0,
        2, 0, 0xe6, 0x10, 0xff, 0xe3,
    ];
    let (mut g, memory) = guest(c, &code, 2, READ_ONLY);
    memory.write(0, &[0x12]);
    // mov al, 0x77; out 0x11, al; hlt
    memory.write(PAGE as usize, &[0xb0, 0x77, 0xe6, 0x11, HLT]);
    again(&mut g, AT + PAGE);

    assert_eq!(g.out(), (0x10, 0x12));
    assert_eq!(written(&mut g), (AT, vec![0x55]));
    assert_eq!(g.out(), (0x10, 0x12), "it stays");
    assert_eq!(g.out(), (0x11, 0x77), "it can be executed");
    assert_eq!(memory.read::<1>(0), [0x12]);
}

fn read_only_rmw(c: &Ctx) {
    // add byte [0x20000], 1; setc al; out 0x10, al; lock xadd [0x20008], ecx; mov al, cl; out 0x10, al; hlt
    let code = [
        0x80, 0x04, 0x25, 0, 0, 2, 0, 1, 0x0f, 0x92, 0xc0, 0xe6, 0x10, 0xf0, 0x0f, 0xc1, 0x0c, 0x25, 8, 0, 2,
        0, 0x88, 0xc8, 0xe6, 0x10, HLT,
    ];
    let (mut g, memory) = guest(c, &code, 1, READ_ONLY);
    memory.write(0, &[0xff, 0, 0, 0, 0, 0, 0, 0, 0x30, 0, 0, 0]);
    let r = g.vcpu.get_regs().unwrap();
    g.vcpu.set_regs(&kvm_regs { rcx: 5, ..r }).unwrap();

    assert_eq!(written(&mut g), (AT, vec![0]));
    // What user space puts there now is not what the instruction has read.
    memory.write(0, &[7]);
    assert_eq!(g.out(), (0x10, 1), "the carry of what was read");
    assert_eq!(written(&mut g), (AT + 8, vec![0x35, 0, 0, 0]));
    assert_eq!(g.out(), (0x10, 0x30), "what was read");
    assert_eq!(memory.read::<9>(0), [7, 0, 0, 0, 0, 0, 0, 0, 0x30]);
}

fn read_only_tables(c: &Ctx) {
    c.skip_on_kvm("KVM takes the address in the table for that of the operand");
    // mov al, [0x3000]; mov [0x3001], al; out 0x10, al; hlt
    let code = [0x8a, 0x04, 0x25, 0, 0x30, 0, 0, 0x88, 0x04, 0x25, 1, 0x30, 0, 0, 0xe6, 0x10, HLT];
    let (mut g, memory) = guest(c, &code, 3, READ_ONLY);
    for (at, entry) in [(0, AT + PAGE + 3), (PAGE, AT + 2 * PAGE + 3), (2 * PAGE, 0x83)] {
        memory.write(at as usize, &entry.to_le_bytes());
    }
    g.memory.write(0x3000, &[0x66]);
    let mut s = g.vcpu.get_sregs().unwrap();
    s.cr3 = AT;
    g.vcpu.set_sregs(&s).unwrap();

    assert_eq!(g.out(), (0x10, 0x66));
    assert_eq!(g.memory.read::<2>(0x3000), [0x66, 0x66]);
    // GenuineIntel: Bochs' processors set the bits past the rights of the second level.
    if raw::cpuid(0).ebx != u32::from_le_bytes(*b"Genu") {
        assert_eq!(memory.read::<1>(2 * PAGE as usize), [0x83], "neither accessed nor dirty");
    }
}

fn flags(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    let set = |slot, flags| {
        memory.set_slot_at(&vm, slot, 0x4000 * u64::from(slot), 0x4000, memory.address(), flags)
    };

    for (slot, flags) in [(0, 0), (1, READ_ONLY), (2, LOG), (3, LOG | READ_ONLY)] {
        assert_eq!(set(slot, flags), Ok(()));
        assert_eq!(set(slot, flags), Ok(()), "as it is");
        assert_eq!(set(slot, flags ^ READ_ONLY), Err(EINVAL));
        assert_eq!(set(slot, flags ^ LOG), Ok(()));
        assert_eq!(set(slot, flags ^ LOG ^ READ_ONLY), Err(EINVAL));
        assert_eq!(set(slot, flags), Ok(()));
    }
    assert_eq!(set(4, 1 << 3), Err(EINVAL));
    assert_eq!(memory.set_slot_at(&vm, 1, 0, 0, 0, LOG), Ok(()), "deletion takes any");
    assert_eq!(set(1, 0), Ok(()), "anew with another flag");
}

fn moves(c: &Ctx) {
    // mov al, [rbx]; out 0x10, al; mov [rbx], al; hlt
    let (mut g, memory) = guest(c, &[0x8a, 0x03, 0xe6, 0x10, 0x88, 0x03, HLT], 1, 0);
    memory.write(0, &[0x21]);
    again(&mut g, AT);
    assert_eq!(g.out(), (0x10, 0x21));
    g.hlt();

    memory.set_slot(&g.vm, 1, AT + 0x4000, PAGE).unwrap();
    again(&mut g, AT + 0x4000);
    assert_eq!(g.out(), (0x10, 0x21));
    g.hlt();
    again(&mut g, AT);
    match g.exit() {
        VcpuExit::MmioRead(AT, data) => data[0] = 0x43,
        other => panic!("{other:?}, expected a read of no memory"),
    }
    assert_eq!(g.out(), (0x10, 0x43));
    assert_eq!(written(&mut g), (AT, vec![0x43]));
    g.hlt();
}

/// Returns the marks of a slot of up to 64 pages.
#[track_caller]
fn marks(vm: &VmFd, slot: u32, pages: u64) -> u64 {
    vm.get_dirty_log(slot, (pages * PAGE) as usize).expect("KVM_GET_DIRTY_LOG")[0]
}

fn log(vm: &VmFd, slot: u32, bitmap: u64) -> Result<i32, i32> {
    ioctl_with(vm, nr::GET_DIRTY_LOG, &mut abi::DirtyLog { slot, padding1: 0, dirty_bitmap: bitmap })
}

fn log_errors(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    memory.set_slot(&vm, 0, 0, 0x2000).unwrap();
    memory.set_slot_at(&vm, 1, 0x2000, 0x2000, memory.address(), LOG).unwrap();
    let mut bitmap = [0u64; 1];
    let at = bitmap.as_mut_ptr() as u64;

    assert_eq!(log(&vm, 0, at), Err(ENOENT), "a slot without a log");
    assert_eq!(log(&vm, 5, at), Err(ENOENT), "no slot");
    assert_eq!(log(&vm, 0x7fff, at), Err(EINVAL), "a number that none can have");
    assert_eq!(log(&vm, 1 << 24, at), Err(EINVAL), "an address space that there is not");
    assert_eq!(log(&vm, 1, 8), Err(EFAULT));
    assert_eq!(log(&vm, 1, at), Ok(0));
    memory.set_slot(&vm, 1, 0x2000, 0).unwrap();
    assert_eq!(log(&vm, 1, at), Err(ENOENT), "it went with the slot");
}

/// mov [rbx], al; mov al, [rcx]; hlt
const STORE: [u8; 5] = [0x88, 0x03, 0x8a, 0x01, HLT];

/// Lets the guest write to a page, and read another.
fn store(g: &mut Guest, page: u64, other: u64) {
    let r = g.vcpu.get_regs().unwrap();
    let (rbx, rcx) = (AT + page * PAGE, AT + other * PAGE);
    g.vcpu.set_regs(&kvm_regs { rip: 0x1000, rbx, rcx, ..r }).unwrap();
    g.hlt();
}

fn log_writes(c: &Ctx) {
    let (mut g, memory) = guest(c, &STORE, 70, 0);
    for page in [0, 3, 69] {
        store(&mut g, page, page + 1 - page / 69);
    }
    memory.set_slot_at(&g.vm, 1, AT, 70 * PAGE, memory.address(), LOG).unwrap();
    let words = |g: &Guest| g.vm.get_dirty_log(1, 70 * PAGE as usize).unwrap();

    assert_eq!(words(&g)[..2], [0, 0], "what was written before");
    store(&mut g, 3, 4);
    store(&mut g, 69, 0);
    store(&mut g, 3, 5);
    assert_eq!(words(&g)[..2], [1 << 3, 1 << 5]);
    assert_eq!(words(&g)[..2], [0, 0], "told once");
    store(&mut g, 3, 69);
    store(&mut g, 64, 64);
    assert_eq!(words(&g)[..2], [1 << 3, 1], "and again");
    memory.write(0, &[1]);
    assert_eq!(words(&g)[..2], [0, 0], "what user space writes it knows");
}

fn log_emulated(c: &Ctx) {
    // mov edi, 0x21000; mov dx, 0x60; mov ecx, 2; rep insb; hlt
    let code = [0xbf, 0, 0x10, 2, 0, 0x66, 0xba, 0x60, 0, 0xb9, 2, 0, 0, 0, 0xf3, 0x6c, HLT];
    let (mut g, memory) = guest(c, &code, 4, LOG);
    loop {
        match g.exit() {
            VcpuExit::IoIn(0x60, data) => data.fill(0x5a),
            VcpuExit::Hlt => break,
            other => panic!("{other:?}, expected IN"),
        }
    }
    assert_eq!(memory.read::<2>(PAGE as usize), [0x5a; 2]);
    assert_eq!(marks(&g.vm, 1, 4), 1 << 1);
    assert_eq!(marks(&g.vm, 1, 4), 0);
}

fn log_clock(c: &Ctx) {
    // mov ecx, 0x4b564d01; xor edx, edx; mov eax, 0x22001; wrmsr; hlt
    let code = [0xb9, 1, 0x4d, 0x56, 0x4b, 0x31, 0xd2, 0xb8, 1, 0x20, 2, 0, 0x0f, 0x30, HLT];
    let (mut g, memory) = guest(c, &code, 4, LOG);
    g.hlt();
    again(&mut g, 0);
    g.hlt();

    assert_ne!(memory.read::<32>(2 * PAGE as usize), [0; 32]);
    assert_eq!(marks(&g.vm, 1, 4), 1 << 2);
}

fn log_moves(c: &Ctx) {
    let (mut g, memory) = guest(c, &STORE, 4, LOG);
    store(&mut g, 1, 1);
    memory.set_slot_at(&g.vm, 1, AT + PAGE, 4 * PAGE, memory.address(), LOG).unwrap();
    store(&mut g, 3, 3);

    assert_eq!(marks(&g.vm, 1, 4), 1 << 1 | 1 << 2);
}

fn log_again(c: &Ctx) {
    let (mut g, memory) = guest(c, &STORE, 4, LOG);
    let set = |g: &Guest, flags| memory.set_slot_at(&g.vm, 1, AT, 4 * PAGE, memory.address(), flags).unwrap();
    store(&mut g, 1, 2);
    set(&g, 0);
    store(&mut g, 3, 2);
    set(&g, LOG);

    assert_eq!(marks(&g.vm, 1, 4), 0);
    store(&mut g, 3, 2);
    assert_eq!(marks(&g.vm, 1, 4), 1 << 3);
}

fn choose(vm: &VmFd, options: u64) -> Result<(), i32> {
    let mut cap = kvm_enable_cap { cap: caps::MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
    cap.args[0] = options;
    vm.enable_cap(&cap).map_err(|e| e.errno())
}

fn clear(vm: &VmFd, slot: u32, first_page: u64, num_pages: u32, bitmap: &[u64]) -> Result<i32, i32> {
    let dirty_bitmap = bitmap.as_ptr() as u64;
    ioctl_with(vm, nr::CLEAR_DIRTY_LOG, &mut abi::ClearDirtyLog { slot, num_pages, first_page, dirty_bitmap })
}

fn manual(c: &Ctx) {
    let (mut g, memory) = guest(c, &STORE, 70, 0);
    choose(&g.vm, 1).unwrap();
    memory.set_slot_at(&g.vm, 1, AT, 70 * PAGE, memory.address(), LOG).unwrap();
    let words = |g: &Guest| g.vm.get_dirty_log(1, 70 * PAGE as usize).unwrap();
    for page in [1, 2, 66] {
        store(&mut g, page, 0);
    }

    assert_eq!(words(&g)[..2], [0b110, 0b100]);
    assert_eq!(words(&g)[..2], [0b110, 0b100], "they stay");
    assert_eq!(clear(&g.vm, 1, 0, 64, &[0b10]), Ok(0));
    assert_eq!(words(&g)[..2], [0b100, 0b100], "but for what is cleared");
    store(&mut g, 1, 0);
    assert_eq!(words(&g)[..2], [0b110, 0b100]);
    assert_eq!(clear(&g.vm, 1, 0, 70, &[u64::MAX, u64::MAX]), Ok(0), "also bits beyond the end");
    assert_eq!(words(&g)[..2], [0, 0]);
    store(&mut g, 66, 66);
    assert_eq!(clear(&g.vm, 1, 64, 6, &[0b1000]), Ok(0));
    assert_eq!(words(&g)[..2], [0, 0b100], "another page's bit");
    assert_eq!(clear(&g.vm, 1, 64, 6, &[0b100]), Ok(0));
    assert_eq!(words(&g)[..2], [0, 0]);
}

fn manual_full(c: &Ctx) {
    let (mut g, memory) = guest(c, &STORE, 70, 0);
    store(&mut g, 5, 5);
    choose(&g.vm, 3).unwrap();
    memory.set_slot_at(&g.vm, 1, AT, 70 * PAGE, memory.address(), LOG).unwrap();
    let words = |g: &Guest| g.vm.get_dirty_log(1, 70 * PAGE as usize).unwrap();

    assert_eq!(words(&g)[..2], [u64::MAX, 0b11_1111]);
    assert_eq!(clear(&g.vm, 1, 0, 70, &[u64::MAX, u64::MAX]), Ok(0));
    store(&mut g, 5, 6);
    assert_eq!(words(&g)[..2], [1 << 5, 0]);
}

fn clear_errors(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(200 * PAGE as usize));
    memory.set_slot_at(&vm, 0, 0, 200 * PAGE, memory.address(), LOG).unwrap();
    memory.set_slot(&vm, 1, 0x10_0000, PAGE).unwrap();
    let bitmap = [0u64; 4];

    assert_eq!(clear(&vm, 0, 0, 200, &bitmap), Ok(0));
    assert_eq!(clear(&vm, 0, 64, 64, &bitmap), Ok(0));
    assert_eq!(clear(&vm, 0, 192, 8, &bitmap), Ok(0), "the end need not be that of a word");
    assert_eq!(clear(&vm, 0, 192, 0, &bitmap), Ok(0));
    for (first, count) in [(0, 201), (192, 9), (256, 0), (0, 65), (63, 64), (1, 63), (u64::MAX - 63, 64)] {
        assert_eq!(clear(&vm, 0, first, count, &bitmap), Err(EINVAL), "{count} from {first} on");
    }
    assert_eq!(clear(&vm, 1, 0, 1, &bitmap), Err(ENOENT));
    assert_eq!(clear(&vm, 9, 0, 1, &bitmap), Err(ENOENT));
    assert_eq!(clear(&vm, 9, 1, 1, &bitmap), Err(EINVAL), "this comes first");
    assert_eq!(clear(&vm, 0x7fff, 0, 1, &bitmap), Err(EINVAL));
    let mut nowhere = abi::ClearDirtyLog { slot: 0, num_pages: 200, first_page: 0, dirty_bitmap: 8 };
    refused(ioctl_with(&vm, nr::CLEAR_DIRTY_LOG, &mut nowhere), &[EFAULT]);
}

fn manual_options(c: &Ctx) {
    let vm = c.vm();
    assert_eq!(c.kvm.check_extension_raw(caps::MANUAL_DIRTY_LOG_PROTECT2.into()), 3);

    for (options, done) in
        [(0, Ok(())), (1, Ok(())), (3, Ok(())), (2, Err(EINVAL)), (4, Err(EINVAL)), (5, Err(EINVAL))]
    {
        assert_eq!(choose(&vm, options), done, "{options}");
    }
    let cap = kvm_enable_cap { cap: caps::MANUAL_DIRTY_LOG_PROTECT2, flags: 1, ..Default::default() };
    assert_eq!(vm.enable_cap(&cap).map_err(|e| e.errno()), Err(EINVAL), "flags");
}

fn migrate(c: &Ctx) {
    const PAGES: u64 = 130;
    // RBX goes through the pages, and R8 counts: inc r8; mov [rbx], r8; add rbx, 4096; cmp rbx, rdx; jb back;
    // mov rbx, rsi; jmp to the start
    let code = [
        0x49, 0xff, 0xc0, 0x4c, 0x89, 0x03, 0x48, 0x81, 0xc3, 0, 0x10, 0, 0, 0x48, 0x39, 0xd3, 0x72, 0xee,
        0x48, 0x89, 0xf3, 0xeb, 0xe9,
    ];
    let (mut g, memory) = guest(c, &code, PAGES, 0);
    let r = g.vcpu.get_regs().unwrap();
    let (rbx, rdx) = (AT, AT + PAGES * PAGE);
    g.vcpu.set_regs(&kvm_regs { rip: 0x1000, rbx, rsi: rbx, rdx, r8: 0, ..r }).unwrap();
    memory.set_slot_at(&g.vm, 1, AT, PAGES * PAGE, memory.address(), LOG).unwrap();
    let word = |page: u64| u64::from_le_bytes(memory.read((page * PAGE) as usize));
    let mut copy: Vec<u64> = (0..PAGES).map(word).collect();
    let (mut rounds, ended) = (0, AtomicBool::new(false));
    let Guest { vcpu, vm, .. } = &mut g;
    let mut round = || {
        let words = vm.get_dirty_log(1, (PAGES * PAGE) as usize).unwrap();
        for page in (0..PAGES).filter(|p| words[(p / 64) as usize] >> (p % 64) & 1 != 0) {
            copy[page as usize] = word(page);
        }
    };

    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let ended = &ended;
        let runs = scope.spawn(move || {
            tell.send(raw::this_thread()).unwrap();
            let left = vcpu.run().map(|exit| format!("{exit:?}"));
            ended.store(true, SeqCst);
            left
        });
        let (thread, began) = (told.recv().unwrap(), Instant::now());
        while began.elapsed() < Duration::from_millis(700) || rounds < 5 {
            round();
            rounds += 1;
        }
        while !ended.load(SeqCst) {
            raw::interrupt(thread);
            std::thread::sleep(Duration::from_millis(1));
        }
        let left = runs.join().expect("the thread");
        assert!(matches!(&left, Err(e) if e.errno() == EINTR), "{left:?}");
    });
    round();
    assert!(copy.iter().sum::<u64>() > 0, "the guest has written");
    for (page, copied) in (0..).zip(&copy) {
        assert_eq!(*copied, word(page), "page {page}, after {rounds} rounds");
    }
}
