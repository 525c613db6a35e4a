// SPDX-License-Identifier: GPL-2.0

//! The functions of shim.c (see shim.h for the C prototypes) and the exported kernel functions for
//! which the `kernel` crate has no binding.

use super::iovec::IoVec;
use core::ffi::{c_char, c_void};
use core::mem::{align_of, size_of};
use kernel::bindings;
use static_assertions::const_assert;

const_assert!(size_of::<IoVec>() == size_of::<bindings::iovec>());
const_assert!(align_of::<IoVec>() == align_of::<bindings::iovec>());

#[expect(
    improper_ctypes,
    reason = "the kernel's structures hold an empty lock class key; only pointers to them pass"
)]
unsafe extern "C" {
    pub(super) fn rvmm_cpu_id() -> u32;
    pub(super) fn rvmm_kick_cpu(cpu: u32);
    pub(super) fn rvmm_sync_cpu(cpu: u32);
    pub(super) fn rvmm_work_pending() -> bool;
    pub(super) fn rvmm_cpu_wanted() -> bool;
    pub(super) fn rvmm_thread_flags() -> *const u64;
    pub(super) fn rvmm_work_flags() -> u64;
    pub(super) fn rvmm_handle_work() -> i32;
    pub(super) fn rvmm_host_la57() -> bool;
    pub(super) fn rvmm_smt_possible() -> bool;
    pub(super) fn rvmm_cpu_count() -> u32;
    pub(super) fn rvmm_cpu_limit() -> u32;
    pub(super) fn rvmm_rdmsr_on_cpu(cpu: u32, msr: u32, value: *mut u64) -> i32;
    pub(super) fn rvmm_wrmsr_on_cpu(cpu: u32, msr: u32, value: u64) -> i32;
    pub(super) fn rvmm_cpuid_on_cpu(cpu: u32, leaf: u32, subleaf: u32, regs: *mut u32) -> i32;
    pub(super) fn rvmm_host_memory_encrypted() -> bool;
    pub(super) fn rvmm_host_dr7() -> u64;
    pub(super) fn rvmm_predictor_barrier_on_return();

    pub(super) fn rvmm_host_flags() -> u32;
    pub(super) fn rvmm_new_guest_id() -> u64;
    pub(super) fn rvmm_guest_changed(id: u64) -> bool;
    pub(super) fn rvmm_machine_check();

    pub(super) fn rvmm_pages_alloc(order: u32, atomic: bool) -> *mut c_void;
    pub(super) fn rvmm_page_alloc_low() -> *mut c_void;
    pub(super) fn rvmm_pages_free(va: *mut c_void, order: u32);
    pub(super) fn rvmm_pages_split(va: *mut c_void) -> *mut c_void;
    pub(super) fn rvmm_va_to_hpa(va: *mut c_void) -> u64;
    pub(super) fn rvmm_vma_insert(vma: *mut c_void, offset: u64, va: *mut c_void) -> i32;

    pub(super) fn rvmm_page_set_next(va: *mut c_void, next: *mut c_void);
    pub(super) fn rvmm_page_next(va: *mut c_void) -> *mut c_void;
    pub(super) fn rvmm_gup(
        hva: u64,
        write: bool,
        may_sleep: bool,
        page: *mut *mut c_void,
        pfn: *mut u64,
    ) -> i32;
    pub(super) fn rvmm_gup_dirty(page: *mut c_void);
    pub(super) fn rvmm_gup_put(page: *mut c_void);
    pub(super) fn rvmm_user_end() -> u64;
    pub(super) fn rvmm_mapping_shift(hva: u64) -> u32;
    pub(super) fn rvmm_user_cmpxchg(hva: u64, bytes: u32, old: *mut u64, new_value: u64) -> i32;
    pub(super) fn rvmm_user_load(hva: u64, bytes: u32, to: *mut c_void) -> i32;
    pub(super) fn rvmm_user_store(hva: u64, bytes: u32, from: *const c_void) -> i32;
    pub(super) fn rvmm_user_load_u16(hva: u64, to: *mut u16) -> i32;
    pub(super) fn rvmm_user_store_u16(hva: u64, value: u16) -> i32;
    pub(super) fn rvmm_user_unchanged(words: *const c_void, count: u32) -> bool;
    pub(super) fn rvmm_user_unchanged5(words: *const c_void) -> bool;

    pub(super) fn rvmm_log_may_write() -> bool;

    pub(super) fn rvmm_now_ns() -> u64;
    pub(super) fn rvmm_counts_run_delay() -> bool;
    pub(super) fn rvmm_run_delay() -> u64;
    pub(super) fn rvmm_run_time() -> u64;
    pub(super) fn rvmm_wall_ns() -> u64;

    pub(super) fn rvmm_wait(
        w: *mut bindings::rcuwait,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        arg: *mut c_void,
    ) -> i32;

    pub(super) fn rvmm_mutex_lock_killable(lock: *mut bindings::mutex) -> i32;

    pub(super) fn rvmm_wait_queue(
        queue: *mut bindings::wait_queue_head,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        arg: *mut c_void,
    ) -> i32;
    pub(super) fn rvmm_wait_queue_killable(
        queue: *mut bindings::wait_queue_head,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        arg: *mut c_void,
    ) -> i32;
    pub(super) fn rvmm_wait_queue_fully(
        queue: *mut bindings::wait_queue_head,
        ready: unsafe extern "C" fn(*mut c_void) -> bool,
        arg: *mut c_void,
    );
    pub(super) fn rvmm_signal_pending() -> bool;
    pub(super) fn rvmm_fatal_signal_pending() -> bool;
    pub(super) fn rvmm_signals_block(mask: u64);
    pub(super) fn rvmm_signals_restore();
    pub(super) fn rvmm_file_identity(file: *mut bindings::file, device: *mut u32, inode: *mut u64);

    pub(super) fn rvmm_file_size(
        file: *mut bindings::file,
        bytes: *mut u64,
        block_shift: *mut u32,
        discard: *mut bool,
    ) -> i32;
    pub(super) fn rvmm_file_may(file: *mut bindings::file, write: bool) -> bool;
    pub(super) fn rvmm_file_is_regular(file: *mut bindings::file) -> bool;
    pub(super) fn rvmm_file_is_nowait(file: *mut bindings::file) -> bool;
    pub(super) fn rvmm_file_start(
        iocb: *mut bindings::kiocb,
        ended: unsafe extern "C" fn(*mut bindings::kiocb, isize),
        file: *mut bindings::file,
        iov: *const IoVec,
        segments: u32,
        bytes: u64,
        pos: u64,
        how: u32,
    ) -> i64;
    pub(super) fn rvmm_file_end_write(iocb: *mut bindings::kiocb);
    pub(super) fn rvmm_file_copy(
        file: *mut bindings::file,
        buf: *mut c_void,
        bytes: u64,
        pos: u64,
        how: u32,
    ) -> i64;

    pub(super) fn rvmm_eventfd_listen(
        file: *mut bindings::file,
        entry: *mut bindings::wait_queue_entry,
        error: *mut i32,
    ) -> u32;

    pub(super) fn rvmm_tap_socket(file: *mut bindings::file, socket: *mut *mut c_void) -> i32;
    pub(super) fn rvmm_tap_set_offloads(file: *mut bindings::file, offloads: u32) -> i32;
    pub(super) fn rvmm_tap_next_len(socket: *mut c_void) -> u32;
    pub(super) fn rvmm_tap_send(
        socket: *mut c_void,
        iov: *const IoVec,
        segments: u32,
        bytes: u64,
        nowait: bool,
    ) -> i64;
    pub(super) fn rvmm_tap_batch_new() -> *mut c_void;
    pub(super) fn rvmm_tap_batch_free(batch: *mut c_void);
    pub(super) fn rvmm_tap_batch_add(
        batch: *mut c_void,
        socket: *mut c_void,
        iov: *const IoVec,
        segments: u32,
        bytes: u64,
    ) -> i32;
    pub(super) fn rvmm_tap_batch_send(batch: *mut c_void, socket: *mut c_void);
    pub(super) fn rvmm_tap_receive(socket: *mut c_void, iov: *const IoVec, segments: u32, bytes: u64) -> i64;
    pub(super) fn rvmm_tap_drop(socket: *mut c_void);
    pub(super) fn rvmm_stream_socket(file: *mut bindings::file, socket: *mut *mut c_void) -> i32;
    pub(super) fn rvmm_stream_send(socket: *mut c_void, buf: *const c_void, bytes: u64) -> i64;
    pub(super) fn rvmm_stream_receive(socket: *mut c_void, buf: *mut c_void, bytes: u64) -> i64;
    pub(super) fn rvmm_file_listen(
        file: *mut bindings::file,
        entry: *mut bindings::wait_queue_entry,
    ) -> *mut bindings::wait_queue_head;
    pub(super) fn rvmm_current_mm() -> *mut c_void;

    pub(super) fn rvmm_anon_file(
        name: *const c_char,
        fops: *const bindings::file_operations,
        private: *mut c_void,
        fmode: u32,
    ) -> *mut bindings::file;
}
