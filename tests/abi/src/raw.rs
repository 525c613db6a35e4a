// SPDX-License-Identifier: GPL-2.0

//! Everything unsafe: ioctls with arguments that no library would pass, guest memory, signals.

#![allow(unsafe_code)]

use crate::abi::{nr, run, vm};
use kvm_bindings::{kvm_irqchip, kvm_run, kvm_sync_regs, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use std::arch::x86_64::{CpuidResult, __cpuid};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Calls an ioctl whose argument is a number.
pub fn ioctl(fd: &impl AsRawFd, request: u32, arg: u64) -> Result<i32, i32> {
    // SAFETY: Callers pass numbers that the request does not take for an address, or 0.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), arg) };
    check(ret)
}

/// Calls an ioctl whose argument is a structure, read or written.
pub fn ioctl_with<T>(fd: &impl AsRawFd, request: u32, arg: &mut T) -> Result<i32, i32> {
    assert!(nr::size_of_request(request) <= size_of::<T>(), "the request is larger than its argument");
    // SAFETY: The kernel accesses the bytes that the request number names, all inside `arg`.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), arg as *mut T) };
    check(ret)
}

/// What pages are mapped for that are read, and that are written too.
const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Maps `len` bytes of a file from its page `page` on. Returns where.
fn map(fd: &impl AsRawFd, page: usize, len: usize, prot: i32, flags: i32) -> Result<*mut u8, i32> {
    let from = (page * 4096) as i64;
    // SAFETY: A new mapping harms nobody.
    let at = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), from) };
    let errno = || std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    if at == libc::MAP_FAILED {
        Err(errno())
    } else {
        Ok(at.cast())
    }
}

/// Maps `len` bytes of a file from its start, and returns what they are.
pub fn mapping(fd: &impl AsRawFd, len: usize) -> Vec<u8> {
    let at = map(fd, 0, len, READ, libc::MAP_SHARED).expect("mmap");
    let mut bytes = vec![0; len];
    // SAFETY: The mapping has that many bytes; it goes here, and nobody knew of it.
    unsafe {
        ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), len);
        libc::munmap(at.cast(), len);
    }
    bytes
}

/// Maps `len` bytes of a file from its page `page` on, and returns the byte at `at` of that; `None`: an access is an
/// error.
pub fn mapped_byte(fd: &impl AsRawFd, (page, len): (usize, usize), at: usize) -> Option<u8> {
    assert!(at < len);
    let mut byte = [0u8];
    let from = map(fd, page, len, READ, libc::MAP_SHARED).expect("mmap");
    let mut ends = [0; 2];
    // SAFETY: There is room for two.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0, "pipe");
    // SAFETY: Both are new and nobody else's.
    let [mut reader, writer] = ends.map(|fd| unsafe { File::from_raw_fd(fd) });
    // By the kernel, which says EFAULT where the process itself would be sent SIGBUS.
    // SAFETY: The byte lies in the mapping, which goes after that; it is only read.
    let written = unsafe {
        let written = libc::write(writer.as_raw_fd(), from.add(at).cast(), 1);
        libc::munmap(from.cast(), len);
        written
    };
    if written != 1 {
        return None;
    }
    reader.read_exact(&mut byte).expect("a byte");
    Some(byte[0])
}

fn check(ret: i32) -> Result<i32, i32> {
    match ret {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        _ => Ok(ret),
    }
}

/// Anonymous memory for a guest, unmapped when dropped.
pub struct Memory {
    at: *mut u8,
    len: usize,
}

impl Memory {
    /// Maps `len` bytes of zeros.
    pub fn new(len: usize) -> Memory {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: A new mapping harms nobody.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        Memory { at: at.cast(), len }
    }

    /// Returns the address.
    pub fn address(&self) -> u64 {
        self.at as u64
    }

    /// Copies bytes in.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: Inside the mapping; no reference to it exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(at), bytes.len()) };
    }

    /// Copies bytes out.
    pub fn read<const N: usize>(&self, at: usize) -> [u8; N] {
        assert!(at + N <= self.len);
        let mut bytes = [0; N];
        // SAFETY: As in `write`.
        unsafe { ptr::copy_nonoverlapping(self.at.add(at), bytes.as_mut_ptr(), N) };
        bytes
    }

    /// Lets the memory be written, or only read.
    pub fn protect(&self, may_write: bool) {
        let prot = if may_write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: The mapping is ours, and nobody writes to it meanwhile but the guest.
        assert_eq!(unsafe { libc::mprotect(self.at.cast(), self.len, prot) }, 0, "mprotect");
    }

    /// Gives the memory to a VM as a slot. Returns the errno on failure.
    pub fn set_slot(&self, vm: &VmFd, slot: u32, gpa: u64, len: u64) -> Result<(), i32> {
        self.set_slot_at(vm, slot, gpa, len, self.address(), 0)
    }

    /// As [`Memory::set_slot`], with an address and flags of the test's choice.
    pub fn set_slot_at(
        &self,
        vm: &VmFd,
        slot: u32,
        gpa: u64,
        len: u64,
        address: u64,
        flags: u32,
    ) -> Result<(), i32> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr: address,
        };
        // SAFETY: What the guest writes is this memory or, where a test passes another address, nothing
        // that is mapped: those calls are expected to fail.
        unsafe { vm.set_user_memory_region(region) }.map_err(|e| e.errno())
    }
}

/// `struct uffdio_api`, `struct uffdio_register` and `struct uffdio_zeropage`.
const UFFDIO_API: u32 = 0xc018_aa3f;
const UFFDIO_REGISTER: u32 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u32 = 0xc020_aa04;
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const PAGE: u64 = 4096;

impl Memory {
    /// Makes whoever first touches the page at `at` wait until `first` has been called.
    pub fn fill_late(&self, at: usize, first: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let page = self.address() + at as u64;
        // SAFETY: No memory is passed.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        assert!(fd >= 0, "userfaultfd");
        // SAFETY: The fd is new and nobody else's.
        let mut fd = unsafe { File::from_raw_fd(fd as RawFd) };
        ioctl_with(&fd, UFFDIO_API, &mut [UFFD_API, 0, 0]).expect("UFFDIO_API");
        let mut register = [page, PAGE, UFFDIO_REGISTER_MODE_MISSING, 0];
        ioctl_with(&fd, UFFDIO_REGISTER, &mut register).expect("UFFDIO_REGISTER");
        std::thread::spawn(move || {
            let mut message = [0; 32];
            fd.read_exact(&mut message).expect("a fault");
            first();
            ioctl_with(&fd, UFFDIO_ZEROPAGE, &mut [page, PAGE, 0, 0]).expect("UFFDIO_ZEROPAGE");
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and no reference to it exists.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Returns the state in the structure, whichever chip's it is.
pub fn irqchip_bytes(chip: &mut kvm_irqchip) -> &mut [u8; 512] {
    // SAFETY: The union is 512 bytes of plain numbers, and any bytes are valid.
    unsafe { &mut *ptr::from_mut(&mut chip.chip).cast() }
}

/// An eventfd that never blocks.
pub struct EventFd(File);

impl EventFd {
    /// Makes one with count 0.
    pub fn new() -> EventFd {
        // SAFETY: No precondition.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
        assert!(fd >= 0, "eventfd");
        // SAFETY: The fd is new and nobody else's.
        EventFd(unsafe { File::from_raw_fd(fd) })
    }

    /// Adds 1 to the count.
    pub fn signal(&self) {
        (&self.0).write_all(&1u64.to_ne_bytes()).expect("write to an eventfd");
    }

    /// Takes the count.
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match (&self.0).read(&mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(e) => panic!("read from an eventfd: {e}"),
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Returns the file of an fd that a call has made.
pub fn file(fd: i32) -> File {
    // SAFETY: Callers pass a new fd, which is nobody else's.
    unsafe { File::from_raw_fd(fd) }
}

/// Executes CPUID, subleaf 0.
pub fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: CPUID exists on every x86-64 processor.
    unsafe { __cpuid(leaf) }
}

/// Returns MXCSR_MASK, as FXSAVE stores it.
pub fn mxcsr_mask() -> u32 {
    #[repr(align(16))]
    struct Area([u8; 512]);
    let mut area = Area([0; 512]);
    // SAFETY: The area has the size and the alignment, and every 64-bit processor has the instruction.
    unsafe { std::arch::x86_64::_fxsave64(area.0.as_mut_ptr()) };
    u32::from_le_bytes([area.0[28], area.0[29], area.0[30], area.0[31]])
}

/// The selector of the only entry of this process's local descriptor table, once [`make_ldt`] has made it.
pub const LDT_SELECTOR: u16 = 7;

/// Makes a local descriptor table of one flat data segment.
pub fn make_ldt() {
    // struct user_desc: entry 0, base 0, limit; then the bits 32-bit, limit in pages, useable.
    let mut entry = [0u32, 0, 0xf_ffff, 1 | 1 << 4 | 1 << 6];
    let bytes = size_of_val(&entry);
    // SAFETY: The structure is as modify_ldt() takes it.
    let ret = unsafe { libc::syscall(libc::SYS_modify_ldt, 1, entry.as_mut_ptr(), bytes) };
    assert_eq!(ret, 0, "modify_ldt");
}

/// What KVM_RUN left of the segment registers.
#[derive(Debug, PartialEq, Eq)]
pub struct AfterRun {
    /// What the ioctl returned.
    pub ret: i64,
    /// DS, ES, FS, GS.
    pub selectors: [u16; 4],
    /// The processor still finds the table.
    pub has_table: bool,
}

/// Calls KVM_RUN with the selector of [`make_ldt`] in DS, ES, FS and GS.
pub fn run_with_ldt(vcpu: &impl AsRawFd) -> AfterRun {
    let mut base = 0u64;
    // ARCH_GET_FS.
    // SAFETY: Stores eight bytes.
    assert_eq!(unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1003, &raw mut base) }, 0);
    let (ret, has_table): (i64, u64);
    let (ds, es, fs, gs): (u64, u64, u64, u64);
    // SAFETY: The segment is flat, DS and ES have no effect on 64-bit code, and nothing between here and the
    // second system call, ARCH_SET_FS, uses FS or GS.
    unsafe {
        std::arch::asm!(
            "mov ds, r8d", "mov es, r8d", "mov gs, r8d", "mov fs, r8d",
            "syscall",
            "mov r10, rax",
            "mov r12d, ds", "mov r13d, es", "mov r14d, fs", "mov r15d, gs",
            "lar edx, r8d", "sete dl", "movzx r8d, dl",
            "xor eax, eax", "mov ds, eax", "mov es, eax", "mov gs, eax",
            "mov eax, 158", "mov edi, 0x1002", "mov rsi, r9",
            "syscall",
            inout("rax") libc::SYS_ioctl => _, inout("rdi") i64::from(vcpu.as_raw_fd()) => _,
            inout("rsi") u64::from(nr::RUN) => _, inout("rdx") 0u64 => _, inout("r8") u64::from(LDT_SELECTOR) => has_table,
            in("r9") base, out("r10") ret, out("rcx") _, out("r11") _,
            out("r12") ds, out("r13") es, out("r14") fs, out("r15") gs,
        );
    }
    AfterRun { ret, selectors: [ds, es, fs, gs].map(|s| s as u16), has_table: has_table != 0 }
}

/// How often SIGUSR1 was taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: libc::c_int) {
    TAKEN.fetch_add(1, SeqCst);
}

/// Returns how often SIGUSR1 was taken, by any thread.
pub fn signals_taken() -> u64 {
    TAKEN.load(SeqCst)
}

/// Blocks SIGUSR1 for the calling thread, or lets it through.
pub fn block_sigusr1(blocked: bool) {
    let how = if blocked { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: The set is valid when zeroed.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::pthread_sigmask(how, &set, ptr::null_mut());
    }
}

/// Returns whether SIGUSR1 waits for the calling thread.
pub fn is_sigusr1_pending() -> bool {
    // SAFETY: The set is valid when zeroed.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&mut set);
        libc::sigismember(&set, libc::SIGUSR1) == 1
    }
}

/// Makes SIGUSR1 interrupt system calls and be counted.
pub fn ignore_sigusr1() {
    // SAFETY: The handler does nothing; the structure is valid when zeroed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut());
    }
}

/// Names the calling thread for [`interrupt`].
pub fn this_thread() -> u64 {
    // SAFETY: No precondition.
    unsafe { libc::pthread_self() as u64 }
}

/// Sends SIGUSR1 to a thread that is alive.
pub fn interrupt(thread: u64) {
    // SAFETY: Callers join the sender before the thread ends.
    unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGUSR1) };
}

/// Keeps the calling thread on one host CPU.
pub fn pin(cpu: usize) {
    let mut mask = [0u64; 16];
    mask[cpu / 64] = 1 << (cpu % 64);
    // SAFETY: The mask has that many bytes.
    let ret = unsafe { libc::sched_setaffinity(0, size_of_val(&mask), mask.as_ptr().cast()) };
    assert_eq!(ret, 0, "sched_setaffinity to CPU {cpu}");
}

/// Host CPUs that this thread may use; the same one twice where there is one.
#[derive(Clone, Copy)]
pub struct Cpus {
    /// The first one.
    pub first: usize,
    /// The last one.
    pub last: usize,
}

/// Returns the host CPUs that the calling thread may use.
pub fn cpus() -> Cpus {
    let mut mask = [0u64; 16];
    // SAFETY: The mask has that many bytes.
    unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
    let mut usable = (0..mask.len() * 64).filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 != 0);
    let first = usable.next().expect("a CPU");
    Cpus { first, last: usable.last().unwrap_or(first) }
}

/// A count that this process and its children share.
pub struct SharedCount(*mut AtomicU64);

impl SharedCount {
    /// Makes one of 0. Its page stays until the process ends.
    pub fn new() -> SharedCount {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: A new mapping harms nobody.
        let at = unsafe { libc::mmap(ptr::null_mut(), 4096, prot, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        SharedCount(at.cast())
    }

    /// Returns the count.
    pub fn get(&self) -> &AtomicU64 {
        // SAFETY: The page is never unmapped, and holds zeros at first.
        unsafe { &*self.0 }
    }
}

/// A child process.
pub struct Child(libc::pid_t);

impl Child {
    /// Starts a child that ends with what `body` returns, which should do little beside system calls: it finds
    /// none of the parent's other threads.
    pub fn start(body: impl FnOnce() -> u8) -> Child {
        // SAFETY: The parent's other thread only sleeps, so it holds no lock that the child could want.
        match unsafe { libc::fork() } {
            -1 => panic!("fork"),
            0 => {
                let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(u8::MAX);
                let _ = std::io::stdout().flush();
                // SAFETY: Ends this process alone, without what the parent registered.
                unsafe { libc::_exit(code.into()) }
            }
            pid => Child(pid),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: It has not been waited for, so the number is its own.
        unsafe { libc::kill(self.0, signal) };
    }

    /// Waits until the child has ended, but not longer than `limit`. Returns its exit code; `None`: it was
    /// killed, or goes on.
    pub fn wait(&self, limit: Duration) -> Option<u8> {
        let until = Instant::now() + limit;
        let mut status = 0;
        // SAFETY: Writes the status alone.
        while unsafe { libc::waitpid(self.0, &raw mut status, libc::WNOHANG) } == 0 {
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status) as u8)
    }
}

/// A file's number, for threads that the file outlives.
#[derive(Clone, Copy)]
pub struct SharedFd(RawFd);

impl SharedFd {
    /// Returns that of a file.
    pub fn of(file: &impl AsRawFd) -> SharedFd {
        SharedFd(file.as_raw_fd())
    }
}

impl AsRawFd for SharedFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Returns what a KVM_EXIT_TPR_ACCESS says: the instruction's address and whether it writes.
pub fn tpr_access(run: &kvm_run) -> (u64, bool) {
    // SAFETY: Plain numbers, whatever the exit was.
    let access = unsafe { run.__bindgen_anon_1.tpr_access };
    (access.rip, access.is_write != 0)
}

/// Reads a number that others write, in memory that outlives the call.
pub fn read_u32(at: usize) -> u32 {
    // SAFETY: Callers pass an address in guest memory that they unmap after the last call; aligned.
    unsafe { ptr::with_exposed_provenance::<u32>(at).read_volatile() }
}

/// Returns the suberror of KVM_EXIT_INTERNAL_ERROR and how many words say more.
pub fn internal_error(run: &kvm_run) -> (u32, u32) {
    // SAFETY: The exit reason says that this member is valid; any numbers are.
    let internal = unsafe { &run.__bindgen_anon_1.internal };
    (internal.suberror, internal.ndata)
}

/// Returns what KVM_EXIT_INTERNAL_ERROR says of an instruction that could not be emulated, if it does: how many bytes it
/// has, and they.
pub fn failed_instruction(run: &kvm_run) -> Option<(u8, [u8; 15])> {
    // SAFETY: The exit reason says that this member is valid; any numbers are.
    let failure = unsafe { &run.__bindgen_anon_1.emulation_failure };
    let known = u64::from(kvm_bindings::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    // SAFETY: Plain numbers.
    let insn = unsafe { &failure.__bindgen_anon_1.__bindgen_anon_1 };
    (failure.flags & known != 0).then_some((insn.insn_size, insn.insn_bytes))
}

/// Makes `fd` nonblocking, and writes until it takes no more.
pub fn fill(fd: i32) {
    // SAFETY: No memory is passed.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    let bytes = [b'x'; 1000];
    // SAFETY: The buffer has that many bytes.
    while unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } > 0 {}
}

/// Makes `fd` nonblocking, and reads what there is, within reason.
pub fn drain(fd: i32) {
    // SAFETY: No memory is passed.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    let mut bytes = [0u8; 4096];
    // SAFETY: The buffer has that many bytes.
    unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// Returns whether `fd` may be written within `ms` milliseconds.
pub fn is_writable(fd: i32, ms: i32) -> bool {
    let mut p = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: One valid entry.
    unsafe { libc::poll(&raw mut p, 1, ms) == 1 && p.revents & libc::POLLOUT != 0 }
}

/// What an exit of Hyper-V's tells, as words of 8 bytes.
pub fn hyperv_words(run: &mut kvm_run) -> [u64; 8] {
    // SAFETY: The union has room for as many, and any bytes are words.
    unsafe { ptr::from_mut(&mut run.__bindgen_anon_1).cast::<[u64; 8]>().read_volatile() }
}

/// Sets one of them, before the vCPU runs on.
pub fn set_hyperv_word(run: &mut kvm_run, n: usize, value: u64) {
    // SAFETY: As above.
    unsafe { (*ptr::from_mut(&mut run.__bindgen_anon_1).cast::<[u64; 8]>())[n] = value }
}

/// Returns the registers in a vCPU's page.
pub fn sync_regs(run: &mut kvm_run) -> &mut kvm_sync_regs {
    // SAFETY: Plain numbers, any of which are valid.
    unsafe { &mut run.s.regs }
}

/// The ring of coalesced writes, mapped from a vCPU.
pub struct Ring(*mut u8);

impl Ring {
    /// Maps that of a vCPU, until the process ends.
    pub fn of(vcpu: &impl AsRawFd) -> Ring {
        Ring(map(vcpu, run::COALESCED_PAGE, 4096, WRITE, libc::MAP_SHARED).expect("mmap"))
    }

    /// Takes the next write: address, bytes, whether it is of a port, value.
    pub fn take(&self) -> Option<(u64, u32, u32, u64)> {
        let header = self.0.cast::<vm::CoalescedMmioRing>();
        // SAFETY: The page is mapped and nobody writes to it while no vCPU runs.
        let vm::CoalescedMmioRing { first, last } = unsafe { header.read_volatile() };
        if first == last {
            return None;
        }
        // SAFETY: As above; the ring's entries follow its header, and the page ends after the last one.
        let entry = unsafe { header.add(1).cast::<vm::CoalescedMmio>().add(first as usize).read_volatile() };
        let after = (first + 1) % ((4096 - 8) / 24);
        // SAFETY: As above.
        unsafe { header.write_volatile(vm::CoalescedMmioRing { first: after, last }) };
        let bytes = (0u64..).zip(entry.data).take(entry.len as usize);
        Some((entry.phys_addr, entry.len, entry.pio, bytes.map(|(i, b)| u64::from(b) << (8 * i)).sum()))
    }
}

/// The ring of dirty pages of a vCPU, and the entry that is to be looked at next.
pub struct DirtyRing {
    at: *mut u64,
    entries: usize,
    next: usize,
}

impl DirtyRing {
    /// Maps one of `bytes` bytes until the process ends: `flags` are those of mmap(), and `prot` what the pages are for.
    pub fn map(vcpu: &impl AsRawFd, bytes: usize, prot: i32, flags: i32) -> Result<DirtyRing, i32> {
        let at = map(vcpu, 64, bytes, prot, flags)?;
        Ok(DirtyRing { at: at.cast(), entries: bytes / 16, next: 0 })
    }

    /// As user space maps it.
    pub fn of(vcpu: &impl AsRawFd, bytes: usize) -> DirtyRing {
        DirtyRing::map(vcpu, bytes, WRITE, libc::MAP_SHARED).expect("mmap")
    }

    /// Harvests the next entry. Returns its slot and page.
    pub fn harvest(&mut self) -> Option<(u64, u64)> {
        // SAFETY: Within the mapping; volatile, for the module writes to it.
        let at = unsafe { self.at.add(self.next % self.entries * 2) };
        // SAFETY: As above.
        let (word, page) = unsafe { (at.read_volatile(), at.add(1).read_volatile()) };
        if word & 0xffff_ffff != 1 {
            return None;
        }
        // SAFETY: As above.
        unsafe { at.write_volatile(word + 1) };
        self.next += 1;
        Some((word >> 32, page))
    }
}
