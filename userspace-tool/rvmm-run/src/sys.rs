// SPDX-License-Identifier: GPL-2.0

//! The only file of the tool with `unsafe` code: ioctls on raw pointers, signal handlers, `madvise` and union fields.
//!
//! Each function is safe to call; what makes it so is said at its unsafe block.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::ptr::NonNull;

use kvm_bindings::{
    kvm_create_device, kvm_device_attr, kvm_run, kvm_userspace_memory_region, KVM_CREATE_DEVICE_TEST,
};
use kvm_ioctls::{DeviceFd, VcpuFd, VmFd};
use nix::errno::Errno;
use nix::sys::mman::{madvise, MmapAdvise};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use zerocopy::FromZeros;

use crate::abi::nr;
use crate::abi::rvmm::{LastExits, DEV_RUN, GET_EXITS};

/// `BLKROGET`, `_IO(0x12, 94)`.
const BLKROGET: u64 = 0x125e;
/// `FIONREAD`.
const FIONREAD: u64 = 0x541b;

/// `TUNSETIFF`, `_IOW('T', 202, int)`; the argument is a `struct ifreq` all the same.
const TUNSETIFF: u64 = 0x4004_54ca;
/// `TUNSETOFFLOAD`, `_IOW('T', 208, unsigned int)`; the argument is the value itself.
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
/// `TUNSETVNETHDRSZ`, `_IOW('T', 216, int)`.
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;

/// Makes every region of `ram` a memory slot of `vm`, slot numbers counting from 0.
///
/// # Errors
/// The error of `KVM_SET_USER_MEMORY_REGION`.
///
/// The caller keeps `ram` mapped for as long as the VM runs; [`crate::machine::Machine`] owns both and drops `ram` last.
pub fn map_ram(vm: &VmFd, ram: &GuestMemoryMmap<()>) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a live private mapping of `region`, used for nothing but guest memory. A mapping that goes
        // away early makes the guest's accesses fail in the kernel; it does not touch other memory of this process.
        unsafe { vm.set_user_memory_region(slot)? };
    }
    Ok(())
}

/// Asks the host to back `ram` with large pages. A refusal costs speed only and is ignored.
pub fn advise_huge_pages(ram: &GuestMemoryMmap<()>) {
    for region in ram.iter() {
        let (Some(start), Ok(len)) = (NonNull::new(region.as_ptr().cast()), usize::try_from(region.len()))
        else {
            continue;
        };
        // SAFETY: the range is the whole live mapping of `region`, and MADV_HUGEPAGE changes no content.
        let _ = unsafe { madvise(start, len, MmapAdvise::MADV_HUGEPAGE) };
    }
}

/// Asks that a wake-up of the calling thread does not interrupt whoever runs: SCHED_BATCH.
///
/// A guest that starts several requests then goes on until it waits for one, where it and its device share
/// a processor of the host. Elsewhere nothing changes: the thread starts at once on an idle processor. A
/// host that does not allow it only loses the batches.
pub fn prefer_batches() {
    let parameter = nix::libc::sched_param { sched_priority: 0 };
    // SAFETY: The call reads the parameter, which is valid. Not by the C library's function, which in musl
    // does nothing.
    unsafe {
        nix::libc::syscall(nix::libc::SYS_sched_setscheduler, 0, nix::libc::SCHED_BATCH, &parameter);
    }
}

/// Serves a queue of a virtio device on the calling thread until the VM is gone: 0, or the host fails a request of a disk's:
/// its errno.
///
/// # Errors
/// `Interrupted` when a signal came: call again. Anything else is final.
pub fn run_device(device: &DeviceFd, queue: u32) -> io::Result<i32> {
    // SAFETY: the request's argument is a number, so the kernel reads and writes no memory of this process on its behalf.
    match unsafe { ioctl_with_val(device, DEV_RUN.into(), queue.into()) } {
        end @ 0.. => Ok(end),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The file with a processor's counters, in KVM's binary statistics format.
///
/// # Errors
/// The error of `KVM_GET_STATS_FD`.
pub fn stats_file(vcpu: &VcpuFd) -> io::Result<File> {
    // SAFETY: the request takes no argument and answers with a new descriptor.
    let fd = unsafe { ioctl(vcpu, nr::GET_STATS_FD.into()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, so nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Asks the module for a processor's last exits.
///
/// # Errors
/// The error of `RVMM_GET_EXITS`; `ENOTTY` from KVM.
pub(crate) fn last_exits(vcpu: &VcpuFd) -> io::Result<LastExits> {
    let mut last = LastExits::new_zeroed();
    // SAFETY: the module writes no more than a `LastExits`.
    match unsafe { ioctl_with_mut_ref(vcpu, GET_EXITS.into(), &mut last) } {
        0 => Ok(last),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A second handle on a device's file, for `read`, `write` and `poll`.
///
/// # Errors
/// When no descriptor is left.
pub fn device_file(device: &DeviceFd) -> io::Result<File> {
    // SAFETY: `device` owns the descriptor and outlives the borrow, which ends with this statement.
    let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
    Ok(File::from(fd.try_clone_to_owned()?))
}

/// Suberror and data words of a `KVM_EXIT_INTERNAL_ERROR`. Only meaningful right after that exit.
pub fn internal_error(vcpu: &mut VcpuFd) -> (u32, Vec<u64>) {
    let run: &kvm_run = vcpu.get_kvm_run();
    // SAFETY: every bit pattern is valid for this union member, which consists of integers.
    let error = unsafe { run.__bindgen_anon_1.internal };
    let count = (error.ndata as usize).min(error.data.len());
    (error.suberror, error.data[..count].to_vec())
}

/// Installs a handler that does nothing for `signal`, without `SA_RESTART`: the signal's only effect is `EINTR`.
///
/// # Errors
/// The error of `sigaction`.
pub fn install_kick_handler(signal: Signal) -> nix::Result<()> {
    extern "C" fn nothing(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, so it is async-signal-safe.
    unsafe { sigaction(signal, &action) }.map(|_| ())
}

/// Ignores `signal`: what it would tell is told by an error, too.
///
/// # Errors
/// The error of `sigaction`.
pub fn ignore(signal: Signal) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(signal, &action) }.map(|_| ())
}

/// Whether the process was started with `signal` ignored, or has it ignored since.
///
/// # Errors
/// The error of `sigaction`.
pub fn is_ignored(signal: Signal) -> nix::Result<bool> {
    let mut action = std::mem::MaybeUninit::<nix::libc::sigaction>::zeroed();
    // SAFETY: no new action is given, and the structure has room for the old one.
    Errno::result(unsafe { nix::libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) })?;
    // SAFETY: filled in by the call above; zeroes are valid for all of it, too.
    Ok(unsafe { action.assume_init() }.sa_sigaction == nix::libc::SIG_IGN)
}

/// Whether `fd` is a block device that takes no writes.
pub fn is_read_only_device(fd: BorrowedFd<'_>) -> bool {
    let mut read_only = 0i32;
    // SAFETY: BLKROGET writes an `int`; what is no block device refuses it.
    unsafe { ioctl_with_mut_ref(&fd, BLKROGET, &mut read_only) == 0 && read_only != 0 }
}

/// Bytes that wait to be read from `fd`, 0 where that is not told.
pub fn unread(fd: BorrowedFd<'_>) -> usize {
    let mut bytes = 0i32;
    // SAFETY: FIONREAD writes an `int`.
    match unsafe { ioctl_with_mut_ref(&fd, FIONREAD, &mut bytes) } {
        0 => usize::try_from(bytes).unwrap_or(0),
        _ => 0,
    }
}

/// Reads a counter of a device of the module's; `None` where it has none.
pub fn device_counter(device: &impl AsRawFd, group: u32, attr: u64) -> Option<u64> {
    let mut value = 0u64;
    let request = kvm_device_attr { group, attr, addr: &raw mut value as u64, flags: 0 };
    // SAFETY: the module reads the structure and writes the 64-bit number that it points to, both of which live here.
    (unsafe { ioctl_with_ref(device, nr::GET_DEVICE_ATTR.into(), &request) } == 0).then_some(value)
}

/// Whether the module knows the device type of a request with `KVM_CREATE_DEVICE_TEST`; nothing is created.
pub fn test_device(vm: &VmFd, request: &mut kvm_create_device) -> bool {
    request.flags = KVM_CREATE_DEVICE_TEST;
    // SAFETY: the request has the size that is coded in the number, and the flag set above keeps it from making a descriptor.
    unsafe { ioctl_with_mut_ref(vm, nr::CREATE_DEVICE.into(), request) == 0 }
}

/// `struct winsize` as `TIOCGWINSZ` writes it.
#[repr(C)]
#[derive(Default)]
struct WindowSize {
    rows: u16,
    columns: u16,
    pixels: [u16; 2],
}

/// Columns and rows of a terminal; `None` for what is no terminal.
pub fn terminal_size(terminal: &impl AsRawFd) -> Option<(u16, u16)> {
    /// `TIOCGWINSZ`.
    const TIOCGWINSZ: u64 = 0x5413;
    let mut size = WindowSize::default();
    // SAFETY: the kernel writes a `struct winsize`, which is what `size` has room for.
    match unsafe { ioctl_with_mut_ref(terminal, TIOCGWINSZ, &mut size) } {
        0 => Some((size.columns, size.rows)),
        _ => None,
    }
}

/// `struct ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes `node`, an open `/dev/net/tun`, a queue of the interface `name`, which is made if it does not exist.
///
/// # Errors
/// That of `TUNSETIFF`; `ENAMETOOLONG`.
pub fn attach_tap(node: &File, name: &str, flags: u16) -> Result<(), Errno> {
    let mut request = InterfaceRequest { name: [0; 16], flags, rest: [0; 22] };
    // The last byte stays 0.
    let room =
        request.name.get_mut(..name.len()).filter(|room| room.len() < 16).ok_or(Errno::ENAMETOOLONG)?;
    room.copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads and writes a `struct ifreq`, which is what `request` has room for.
    Errno::result(unsafe { ioctl_with_mut_ref(node, TUNSETIFF, &mut request) }).map(drop)
}

/// Sets the bytes of the header in front of each packet of a tap.
///
/// # Errors
/// That of `TUNSETVNETHDRSZ`.
pub fn set_tap_header(tap: &File, bytes: i32) -> Result<(), Errno> {
    // SAFETY: the kernel reads an `int`.
    Errno::result(unsafe { ioctl_with_ref(tap, TUNSETVNETHDRSZ, &bytes) }).map(drop)
}

/// Sets what packets of a tap may leave to their receiver.
///
/// # Errors
/// That of `TUNSETOFFLOAD`.
pub fn set_tap_offloads(tap: &File, offloads: u32) -> Result<(), Errno> {
    // SAFETY: the request's argument is a number.
    Errno::result(unsafe { ioctl_with_val(tap, TUNSETOFFLOAD, offloads.into()) }).map(drop)
}
