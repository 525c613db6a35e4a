/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel offers only as inline functions, macros and per-CPU variables, as functions.
 *
 * host/ffi.rs declares the same prototypes for Rust; shim.c includes this file, so the compiler
 * checks the definitions, and a reviewer checks that the two lists agree.
 */
#ifndef RVMM_SHIM_H
#define RVMM_SHIM_H

#include <linux/types.h>

struct rcuwait;
struct wait_queue_head;

/* cpu.rs */
u32 rvmm_cpu_id(void);
void rvmm_kick_cpu(u32 cpu);
void rvmm_sync_cpu(u32 cpu);
bool rvmm_work_pending(void);
bool rvmm_cpu_wanted(void);
const unsigned long *rvmm_thread_flags(void);
unsigned long rvmm_work_flags(void);
int rvmm_handle_work(void);
bool rvmm_host_la57(void);
bool rvmm_smt_possible(void);
u32 rvmm_cpu_count(void);
u32 rvmm_cpu_limit(void);
int rvmm_rdmsr_on_cpu(u32 cpu, u32 msr, u64 *value);
int rvmm_wrmsr_on_cpu(u32 cpu, u32 msr, u64 value);
int rvmm_cpuid_on_cpu(u32 cpu, u32 leaf, u32 subleaf, u32 *regs);
bool rvmm_host_memory_encrypted(void);
unsigned long rvmm_host_dr7(void);
void rvmm_predictor_barrier_on_return(void);

/* mitigation.rs; the same numbers as in ../arch/mitigation.rs. */
enum rvmm_host_flag {
	RVMM_MITIGATIONS_OFF	= 1 << 0,
	RVMM_SPECTRE_V2		= 1 << 1,
	RVMM_IBPB		= 1 << 2,
	RVMM_L1TF		= 1 << 3,
	RVMM_FLUSH_L1D		= 1 << 4,
	RVMM_ITLB_MULTIHIT	= 1 << 5,
	RVMM_BP_SPEC_REDUCE	= 1 << 6,
	RVMM_FXSAVE_LEAK	= 1 << 7,
	RVMM_SPLIT_LOCK_DETECT	= 1 << 8,
	RVMM_PEBS		= 1 << 9,
	RVMM_INTEL_PT		= 1 << 10,
	RVMM_BUS_LOCK_DETECT	= 1 << 11,
};
u32 rvmm_host_flags(void);
u64 rvmm_new_guest_id(void);
bool rvmm_guest_changed(u64 id);
void rvmm_machine_check(void);

/* ../vmx/asm.rs */
void rvmm_load_gs(u16 selector);
void rvmm_tss_limit_changed(void);

/* page.rs */
void *rvmm_pages_alloc(u32 order, bool atomic);
void *rvmm_page_alloc_low(void);
void rvmm_pages_free(void *va, u32 order);
/* Frees the first of two pages that were allocated as one, and returns the second. */
void *rvmm_pages_split(void *va);
u64 rvmm_va_to_hpa(void *va);
int rvmm_vma_insert(void *vma, u64 offset, void *va);
void rvmm_page_set_next(void *va, void *next);
void *rvmm_page_next(void *va);

/* guest_ram.rs */
int rvmm_gup(u64 hva, bool write, bool may_sleep, void **page, u64 *pfn);
/* While the page is mapped and cannot be unmapped. */
void rvmm_gup_dirty(void *page);
void rvmm_gup_put(void *page);
u64 rvmm_user_end(void);
u32 rvmm_mapping_shift(u64 hva);
int rvmm_user_cmpxchg(u64 hva, u32 bytes, u64 *old, u64 new_value);
/* These do not sleep. */
int rvmm_user_load_u16(u64 hva, u16 *to);
int rvmm_user_store_u16(u64 hva, u16 value);
/* What few bytes are; the same value as in guest_ram.rs. */
#define RVMM_FEW	64
/* Of few bytes, anywhere; word by word of 8 bytes, then 4, 2 and 1, each in one access. */
int rvmm_user_load(u64 hva, u32 bytes, void *to);
int rvmm_user_store(u64 hva, u32 bytes, const void *from);
struct rvmm_word {
	u64 hva;
	u64 value;
};
bool rvmm_user_unchanged(const struct rvmm_word *words, u32 count);
/* The same of five words. */
bool rvmm_user_unchanged5(const struct rvmm_word *words);

/* log.rs */
bool rvmm_log_may_write(void);

/* timer.rs */
u64 rvmm_now_ns(void);
bool rvmm_counts_run_delay(void);
u64 rvmm_run_delay(void);
u64 rvmm_run_time(void);
u64 rvmm_wall_ns(void);

/* wait.rs */
int rvmm_wait(struct rcuwait *w, bool (*ready)(void *), void *arg);

/* mutex.rs */
struct mutex;
int rvmm_mutex_lock_killable(struct mutex *lock);

/* file.rs */
struct file_operations;
struct file *rvmm_anon_file(const char *name, const struct file_operations *fops, void *private, u32 fmode);
int rvmm_wait_queue(struct wait_queue_head *queue, bool (*ready)(void *), void *arg);
int rvmm_wait_queue_killable(struct wait_queue_head *queue, bool (*ready)(void *), void *arg);
void rvmm_wait_queue_fully(struct wait_queue_head *queue, bool (*ready)(void *), void *arg);
bool rvmm_signal_pending(void);
bool rvmm_fatal_signal_pending(void);
struct file;
void rvmm_file_identity(struct file *file, u32 *device, u64 *inode);

/* signal.rs */
void rvmm_signals_block(u64 mask);
void rvmm_signals_restore(void);

/* blkio.rs */
struct iovec;
struct kiocb;
int rvmm_file_size(struct file *file, u64 *bytes, u32 *block_shift, bool *discard);
bool rvmm_file_may(struct file *file, bool write);
bool rvmm_file_is_regular(struct file *file);
bool rvmm_file_is_nowait(struct file *file);
/* What a transfer is; the same values as in blkio.rs. */
#define RVMM_IO_WRITE		1	/* to the file */
#define RVMM_IO_DURABLE		2	/* on stable storage when it ends */
#define RVMM_IO_BUFFERED	4	/* through the page cache, whatever the file was opened for */
#define RVMM_IO_NOWAIT		8	/* without waiting */
s64 rvmm_file_start(struct kiocb *iocb, void (*ended)(struct kiocb *iocb, long result),
		    struct file *file, const struct iovec *iov, u32 segments, u64 bytes, u64 pos, u32 how);
void rvmm_file_end_write(struct kiocb *iocb);
s64 rvmm_file_copy(struct file *file, void *buf, u64 bytes, u64 pos, u32 how);

/* eventfd.rs */
struct wait_queue_entry;
u32 rvmm_eventfd_listen(struct file *file, struct wait_queue_entry *entry, int *error);

/* netio.rs */
int rvmm_tap_socket(struct file *file, void **socket);
int rvmm_tap_set_offloads(struct file *file, u32 offloads);
u32 rvmm_tap_next_len(void *socket);
s64 rvmm_tap_send(void *socket, const struct iovec *iov, u32 segments, u64 bytes, bool nowait);
struct rvmm_tap_batch;
struct rvmm_tap_batch *rvmm_tap_batch_new(void);
void rvmm_tap_batch_free(struct rvmm_tap_batch *batch);
int rvmm_tap_batch_add(struct rvmm_tap_batch *batch, void *socket, const struct iovec *iov, u32 segments,
		       u64 bytes);
void rvmm_tap_batch_send(struct rvmm_tap_batch *batch, void *socket);
s64 rvmm_tap_receive(void *socket, const struct iovec *iov, u32 segments, u64 bytes);
void rvmm_tap_drop(void *socket);
int rvmm_stream_socket(struct file *file, void **socket);
s64 rvmm_stream_send(void *socket, const void *buf, u64 bytes);
s64 rvmm_stream_receive(void *socket, void *buf, u64 bytes);
struct wait_queue_head *rvmm_file_listen(struct file *file, struct wait_queue_entry *entry);

/* notifier.rs */
void *rvmm_current_mm(void);

#endif
