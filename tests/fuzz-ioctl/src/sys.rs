// SPDX-License-Identifier: GPL-2.0

//! Everything unsafe: system calls with any argument, memory that changes under everybody, processes.
//!
//! The calls are wrong on purpose, so what they are given to write to is memory that nothing else lies in.

#![allow(unsafe_code)]

use libc::{c_int, c_void, pid_t};
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicU8, Ordering::Relaxed};

/// Calls an ioctl with whatever argument. Returns its answer, -1 for an error.
pub fn ioctl(fd: i32, request: u32, arg: u64) -> i32 {
    // SAFETY: What the kernel may write to lies in an [`Arena`], or is no memory of ours.
    unsafe { libc::ioctl(fd, u64::from(request), arg) }
}

/// Returns whether the thread's last call was ended by a signal.
pub fn was_interrupted() -> bool {
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
}

/// Memory of a child's own in which nothing has a type: arguments, or what guests run in.
#[derive(Clone, Copy)]
pub struct Arena {
    at: *mut u8,
    len: usize,
}

// SAFETY: It is plain bytes that are copied, or changed one by one, by whoever wants to.
unsafe impl Send for Arena {}
// SAFETY: As above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps `len` bytes, shared with nobody or with later children.
    pub fn new(len: usize, shared: bool) -> Arena {
        let flags = libc::MAP_ANONYMOUS | if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        // SAFETY: A new mapping harms nobody.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        Arena { at: at.cast(), len }
    }

    /// Returns the address.
    pub fn address(&self) -> u64 {
        self.at as u64
    }

    /// Copies bytes in, as far as there is room. For an arena whose protection does not change.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let len = bytes.len().min(self.len.saturating_sub(at));
        // SAFETY: Inside the mapping; no reference to it exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(at), len) };
    }

    /// Copies bytes out, as [`Arena::write`].
    pub fn read(&self, at: usize, bytes: &mut [u8]) {
        let len = bytes.len().min(self.len.saturating_sub(at));
        // SAFETY: As in `write()`.
        unsafe { ptr::copy_nonoverlapping(self.at.add(at), bytes.as_mut_ptr(), len) };
    }

    /// Copies bytes in, if they may be written now: the kernel does it, which takes no for an answer.
    pub fn try_write(&self, at: usize, bytes: &[u8]) {
        let from = libc::iovec { iov_base: bytes.as_ptr() as *mut c_void, iov_len: bytes.len() };
        let to = libc::iovec { iov_base: (self.at as usize + at) as *mut c_void, iov_len: bytes.len() };
        // SAFETY: The bytes are valid; the kernel checks the other address, which lies in the arena or nowhere.
        unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) };
    }

    /// Copies bytes out, as [`Arena::try_write`]. Returns whether all could be read.
    pub fn try_read(&self, at: usize, bytes: &mut [u8]) -> bool {
        let len = bytes.len();
        let to = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len };
        let from = libc::iovec { iov_base: (self.at as usize + at) as *mut c_void, iov_len: len };
        // SAFETY: As in `try_write()`.
        unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) == len as isize }
    }

    /// Gives advice about a part.
    pub fn advise(&self, at: usize, len: usize, advice: c_int) {
        // SAFETY: Only untyped bytes lie there.
        unsafe { libc::madvise(self.at.add(at).cast(), len.min(self.len - at), advice) };
    }

    /// Changes the protection of a part.
    pub fn protect(&self, at: usize, len: usize, protection: c_int) {
        // SAFETY: As above.
        unsafe { libc::mprotect(self.at.add(at).cast(), len.min(self.len - at), protection) };
    }

    /// Puts other memory in the place of a part; nothing, with `hole`.
    pub fn remap(&self, at: usize, len: usize, shared: bool, hole: bool) {
        let len = len.min(self.len - at);
        let flags =
            libc::MAP_ANONYMOUS | libc::MAP_FIXED | if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
        let protection = if hole { libc::PROT_NONE } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: As above.
        unsafe { libc::mmap(self.at.add(at).cast(), len, protection, flags, -1, 0) };
    }

    /// The `i`th word, which processes share.
    pub fn counter(&self, i: usize) -> &AtomicU64 {
        assert!((i + 1) * 8 <= self.len);
        // SAFETY: Inside the mapping, aligned, and only ever used as an atomic.
        unsafe { &*self.at.cast::<AtomicU64>().add(i) }
    }
}

/// The pages that a vCPU shares.
pub struct RunPage {
    at: *const AtomicU8,
    len: usize,
}

// SAFETY: The pages are the process's, and are changed by atomic accesses.
unsafe impl Send for RunPage {}

impl RunPage {
    /// Maps `len` bytes of a vCPU's file.
    pub fn map(fd: i32, len: usize, offset: i64) -> Option<RunPage> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: A new mapping harms nobody.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, fd, offset) };
        (at != libc::MAP_FAILED).then_some(RunPage { at: at as *const AtomicU8, len })
    }

    /// Sets a byte of the first page.
    pub fn set(&self, i: usize, value: u8) {
        if i < self.len.min(4096) {
            // SAFETY: Inside the mapping, whose first page is the vCPU's.
            unsafe { (*self.at.add(i)).store(value, Relaxed) };
        }
    }

    /// Returns a byte of the first page.
    pub fn get(&self, i: usize) -> u8 {
        assert!(i < self.len.min(4096));
        // SAFETY: As in `set()`.
        unsafe { (*self.at.add(i)).load(Relaxed) }
    }

    /// Returns the address.
    pub fn address(&self) -> u64 {
        self.at as u64
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: Ours, and nobody refers to it.
        unsafe { libc::munmap(self.at as *mut c_void, self.len) };
    }
}

/// Opens a file. Returns -1 for an error.
pub fn open(path: &str) -> i32 {
    let path = std::ffi::CString::new(path).unwrap_or_default();
    // SAFETY: A string with its end.
    unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }
}

/// Closes an fd that no object of ours owns.
pub fn close(fd: i32) {
    if fd > 2 {
        // SAFETY: No memory is passed.
        unsafe { libc::close(fd) };
    }
}

/// Duplicates an fd.
pub fn dup(fd: i32) -> i32 {
    // SAFETY: No memory is passed.
    unsafe { libc::dup(fd) }
}

/// Sets or clears O_NONBLOCK.
pub fn set_nonblock(fd: i32, on: bool) {
    // SAFETY: No memory is passed.
    unsafe { libc::fcntl(fd, libc::F_SETFL, if on { libc::O_NONBLOCK } else { 0 }) };
}

/// Makes an eventfd that does not block.
pub fn eventfd() -> i32 {
    // SAFETY: No memory is passed.
    unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) }
}

/// Makes a file of memory.
pub fn memory_file(bytes: i64) -> i32 {
    // SAFETY: A string with its end.
    let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC) };
    resize(fd, bytes);
    fd
}

/// Sets the size of a file.
pub fn resize(fd: i32, bytes: i64) {
    // SAFETY: No memory is passed.
    unsafe { libc::ftruncate(fd, bytes) };
}

/// Makes a pair of connected stream sockets.
pub fn socket_pair() -> [i32; 2] {
    let mut ends = [-1; 2];
    // SAFETY: Room for two.
    unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) };
    ends
}

/// Opens a tap that goes with its fd.
pub fn tap() -> i32 {
    let fd = open("/dev/net/tun");
    // SAFETY: A structure of plain bytes.
    let mut name: libc::ifreq = unsafe { std::mem::zeroed() };
    name.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    let header: c_int = 12;
    // SAFETY: Both structures are valid for the calls.
    unsafe {
        libc::ioctl(fd, libc::TUNSETIFF, &mut name);
        libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &header);
    }
    fd
}

/// Reads into or writes from a buffer on the stack.
pub fn transfer(fd: i32, len: usize, write: bool, at: Option<i64>) {
    let mut buffer = [0x55u8; 4096];
    let (data, len) = (buffer.as_mut_ptr().cast::<c_void>(), len.min(4096));
    // SAFETY: The buffer has that many bytes.
    unsafe {
        match (at, write) {
            (Some(at), _) => libc::pread(fd, data, len, at),
            (None, true) => libc::write(fd, data, len),
            (None, false) => libc::read(fd, data, len),
        };
    }
}

/// Polls an fd for `ms` milliseconds.
pub fn poll(fd: i32, ms: i32) {
    let mut p = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
    // SAFETY: One valid entry.
    unsafe { libc::poll(&mut p, 1, ms) };
}

/// Queues copies of fds in a socket.
pub fn send_fds(socket: i32, fds: &[i32]) {
    let mut byte = 0u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0u64; 16];
    let fds = &fds[..fds.len().min(8)];
    // SAFETY: The header lies in `control`, which has room for eight fds, and all pointers outlive the call.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of_val(fds) as u32) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of_val(fds) as u32) as usize;
        ptr::copy_nonoverlapping(fds.as_ptr(), libc::CMSG_DATA(header).cast(), fds.len());
        libc::sendmsg(socket, &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    }
}

/// Takes the fds of a message in a socket.
pub fn receive_fds(socket: i32) -> Vec<i32> {
    let mut byte = 0u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0u64; 16];
    let mut fds = Vec::new();
    // SAFETY: All pointers outlive the call, and the kernel says how much it wrote.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut data;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        if libc::recvmsg(socket, &mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) < 0 {
            return fds;
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / 4;
            let first = libc::CMSG_DATA(header).cast::<i32>();
            fds.extend((0..count).map(|i| first.add(i).read_unaligned()));
        }
    }
    fds
}

/// Becomes two processes. Returns 0 in the new one, which dies with the thread that made it.
pub fn fork() -> pid_t {
    // SAFETY: The new process calls what is safe after a fork of a process with threads: glibc sees to its
    // allocator, and nothing else here has a lock.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: No memory is passed.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
    pid
}

/// Ends the process at once.
pub fn exit(code: i32) -> ! {
    // SAFETY: No precondition.
    unsafe { libc::_exit(code) }
}

/// Lets what the kernel does for this thread, and for processes that it makes, fail now and then; a kernel without fault
/// injection has no such file.
pub fn fail_now_and_then() {
    let _ = std::fs::write("/proc/thread-self/make-it-fail", "1");
}

/// Makes the process the head of a group, so that its children can be killed with it.
pub fn lead_group() {
    // SAFETY: No memory is passed.
    unsafe { libc::setpgid(0, 0) };
}

/// Kills a process and its group.
pub fn kill_group(pid: pid_t) {
    // SAFETY: No memory is passed.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::kill(-pid, libc::SIGKILL);
    }
}

/// Kills a process.
pub fn kill(pid: pid_t) {
    // SAFETY: No memory is passed.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Takes a child that has ended: any for -1. Returns its pid and whether it was killed by SIGKILL or left with 0.
pub fn reap(pid: pid_t) -> Option<(pid_t, bool)> {
    let mut status = 0;
    // SAFETY: The status is valid.
    let got = unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) };
    let good = (libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
        || (libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
    (got > 0).then_some((got, good))
}

/// Returns whether a process exists, if only as a zombie.
pub fn exists(pid: pid_t) -> bool {
    // SAFETY: No memory is passed.
    unsafe { libc::kill(pid, 0) == 0 }
}

/// Returns whether a process group has anyone left.
pub fn group_exists(group: pid_t) -> bool {
    // SAFETY: No memory is passed.
    unsafe { libc::kill(-group, 0) == 0 }
}

/// Prints where the threads of a group are, as far as the kernel tells.
pub fn describe(group: pid_t) {
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let stat = read(format!("/proc/{pid}/stat"));
        let its = stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(2)?.parse::<pid_t>().ok());
        if its != Some(group) {
            continue;
        }
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let path = task.path().display().to_string();
            let state =
                read(format!("{path}/status")).lines().find(|l| l.starts_with("State")).map(String::from);
            println!("# {path}: {}", state.unwrap_or_default());
            read(format!("{path}/stack")).lines().take(12).for_each(|l| println!("#   {l}"));
        }
    }
}

/// Makes orphans of children ours.
pub fn adopt_orphans() {
    // SAFETY: No memory is passed.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
}

/// Returns the calling thread's number.
pub fn thread() -> i32 {
    // SAFETY: No memory is passed.
    unsafe { libc::gettid() }
}

/// Interrupts a thread of this process.
pub fn interrupt(thread: i32) {
    // SAFETY: No memory is passed.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
}

extern "C" fn nothing(_: c_int) {}

/// Makes SIGUSR1 interrupt system calls and do nothing else.
pub fn ignore_sigusr1() {
    // SAFETY: The handler does nothing; the structure is valid when zeroed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
        libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut());
    }
}

/// Returns the CPUs that the thread may run on.
pub fn cpus() -> Vec<usize> {
    // SAFETY: A set of bits, valid when zeroed, which the kernel fills.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        (0..1024).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

/// Keeps the thread on a CPU, before others that want to run there. Returns whether that can be.
pub fn stay_on(cpu: usize) -> bool {
    // SAFETY: A set of bits, valid when zeroed, and a parameter that is valid for the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        let priority = libc::sched_param { sched_priority: 50 };
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &priority);
        libc::sched_setaffinity(0, size_of_val(&set), &set) == 0
    }
}
