// SPDX-License-Identifier: GPL-2.0
/*
 * Thin functions over inline kernel interfaces; see shim.h. No logic of ours lives here.
 */
#include <linux/anon_inodes.h>
#include <linux/blkdev.h>
#include <linux/cc_platform.h>
#include <linux/cpu.h>
#include <linux/entry-virt.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kdev_t.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/pgtable.h>
#include <linux/poll.h>
#include <linux/ratelimit.h>
#include <linux/rcuwait.h>
#include <linux/sched.h>
#include <linux/sched/stat.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/unaligned.h>
#include <trace/events/ipi.h>
#include <asm/cpuid/api.h>
#include <asm/debugreg.h>
#include <asm/desc.h>
#include <asm/fpu/api.h>
#include <asm/gsseg.h>
#include <asm/mce.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/spec-ctrl.h>

#include "shim.h"

u32 rvmm_cpu_id(void)
{
	return raw_smp_processor_id();
}

void rvmm_kick_cpu(u32 cpu)
{
	smp_send_reschedule(cpu);
}

static void rvmm_nothing(void *unused)
{
}

void rvmm_sync_cpu(u32 cpu)
{
	smp_call_function_single(cpu, rvmm_nothing, NULL, 1);
}

const unsigned long *rvmm_thread_flags(void)
{
	return &current_thread_info()->flags;
}

unsigned long rvmm_work_flags(void)
{
	return XFER_TO_GUEST_MODE_WORK;
}

bool rvmm_work_pending(void)
{
	return __xfer_to_guest_mode_work_pending();
}

bool rvmm_cpu_wanted(void)
{
	return __xfer_to_guest_mode_work_pending() || !single_task_running();
}

int rvmm_handle_work(void)
{
	return xfer_to_guest_mode_handle_work();
}

bool rvmm_host_la57(void)
{
	return pgtable_l5_enabled();
}

u32 rvmm_cpu_count(void)
{
	return num_online_cpus();
}

bool rvmm_smt_possible(void)
{
	return cpu_smt_possible();
}

u32 rvmm_cpu_limit(void)
{
	return nr_cpu_ids;
}

int rvmm_rdmsr_on_cpu(u32 cpu, u32 msr, u64 *value)
{
	if (!cpu_online(cpu))
		return -ENXIO;
	return rdmsrq_safe_on_cpu(cpu, msr, value);
}

int rvmm_wrmsr_on_cpu(u32 cpu, u32 msr, u64 value)
{
	if (!cpu_online(cpu))
		return -ENXIO;
	return wrmsrq_safe_on_cpu(cpu, msr, value);
}

struct cpuid_call {
	u32 regs[4];
};

static void rvmm_cpuid_here(void *arg)
{
	u32 *r = ((struct cpuid_call *)arg)->regs;

	cpuid_count(r[0], r[2], &r[0], &r[1], &r[2], &r[3]);
}

int rvmm_cpuid_on_cpu(u32 cpu, u32 leaf, u32 subleaf, u32 *regs)
{
	struct cpuid_call call = { .regs = { leaf, 0, subleaf, 0 } };
	int err = smp_call_function_single(cpu, rvmm_cpuid_here, &call, 1);

	memcpy(regs, call.regs, sizeof(call.regs));
	return err;
}

bool rvmm_host_memory_encrypted(void)
{
	return cc_platform_has(CC_ATTR_MEM_ENCRYPT);
}

unsigned long rvmm_host_dr7(void)
{
	return this_cpu_read(cpu_dr7);
}

void rvmm_predictor_barrier_on_return(void)
{
	if (cpu_feature_enabled(X86_FEATURE_IBPB_EXIT_TO_USER))
		this_cpu_write(x86_ibpb_exit_to_user, true);
}

void rvmm_load_gs(u16 selector)
{
	load_gs_index(selector);
}

/* TR's limit no longer reaches the I/O permission bitmap: who needs that reloads TR. */
void rvmm_tss_limit_changed(void)
{
	this_cpu_write(__tss_limit_invalid, true);
}

u32 rvmm_host_flags(void)
{
	u32 flags = 0;

	if (cpu_mitigations_off())
		flags |= RVMM_MITIGATIONS_OFF;
	if (boot_cpu_has_bug(X86_BUG_SPECTRE_V2))
		flags |= RVMM_SPECTRE_V2;
	if (boot_cpu_has(X86_FEATURE_IBPB))
		flags |= RVMM_IBPB;
	if (boot_cpu_has_bug(X86_BUG_L1TF))
		flags |= RVMM_L1TF;
	if (boot_cpu_has(X86_FEATURE_FLUSH_L1D))
		flags |= RVMM_FLUSH_L1D;
	if (boot_cpu_has_bug(X86_BUG_ITLB_MULTIHIT))
		flags |= RVMM_ITLB_MULTIHIT;
	if (boot_cpu_has(X86_FEATURE_SRSO_BP_SPEC_REDUCE))
		flags |= RVMM_BP_SPEC_REDUCE;
	if (boot_cpu_has_bug(X86_BUG_FXSAVE_LEAK))
		flags |= RVMM_FXSAVE_LEAK;
	if (boot_cpu_has(X86_FEATURE_SPLIT_LOCK_DETECT))
		flags |= RVMM_SPLIT_LOCK_DETECT;
	if (boot_cpu_has(X86_FEATURE_PEBS))
		flags |= RVMM_PEBS;
	if (boot_cpu_has(X86_FEATURE_INTEL_PT))
		flags |= RVMM_INTEL_PT;
	if (boot_cpu_has(X86_FEATURE_BUS_LOCK_DETECT))
		flags |= RVMM_BUS_LOCK_DETECT;
	return flags;
}

static atomic64_t rvmm_guest_ids;
static DEFINE_PER_CPU(u64, rvmm_last_guest);

u64 rvmm_new_guest_id(void)
{
	return atomic64_inc_return(&rvmm_guest_ids);
}

bool rvmm_guest_changed(u64 id)
{
	if (this_cpu_read(rvmm_last_guest) == id)
		return false;
	this_cpu_write(rvmm_last_guest, id);
	return true;
}

/* A frame of user space, with interrupts on: no code of the kernel's was interrupted, so none has to be mended. */
void rvmm_machine_check(void)
{
	struct pt_regs regs = { .cs = __USER_CS, .ss = __USER_DS, .flags = X86_EFLAGS_IF };

	do_machine_check(&regs);
}

void *rvmm_pages_alloc(u32 order, bool atomic)
{
	gfp_t gfp = (atomic ? GFP_ATOMIC : GFP_KERNEL_ACCOUNT) | __GFP_ZERO;

	return (void *)__get_free_pages(gfp, order);
}

/* A zeroed page that 32 bits of a physical address reach. */
void *rvmm_page_alloc_low(void)
{
	return (void *)__get_free_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_DMA32);
}

void rvmm_pages_free(void *va, u32 order)
{
	free_pages((unsigned long)va, order);
}

void *rvmm_pages_split(void *va)
{
	split_page(virt_to_page(va), 1);
	free_page((unsigned long)va);
	return va + PAGE_SIZE;
}

u64 rvmm_va_to_hpa(void *va)
{
	return virt_to_phys(va);
}

int rvmm_vma_insert(void *vma, u64 offset, void *va)
{
	struct vm_area_struct *v = vma;

	return vm_insert_page(v, v->vm_start + offset, virt_to_page(va));
}

void rvmm_page_set_next(void *va, void *next)
{
	set_page_private(virt_to_page(va), (unsigned long)next);
}

void *rvmm_page_next(void *va)
{
	struct page *page = virt_to_page(va);
	void *next = (void *)page_private(page);

	set_page_private(page, 0);
	return next;
}

int rvmm_gup(u64 hva, bool write, bool may_sleep, void **page, u64 *pfn)
{
	unsigned int flags = write ? FOLL_WRITE : 0;
	struct page *p;
	int n;

	if (may_sleep)
		n = get_user_pages_fast(hva, 1, flags, &p);
	else
		n = get_user_pages_fast_only(hva, 1, flags, &p);
	if (n != 1)
		return n < 0 ? n : -EAGAIN;
	*page = p;
	*pfn = page_to_pfn(p);
	return 0;
}

void rvmm_gup_dirty(void *page)
{
	struct page *p = page;

	if (!PageReserved(p))
		SetPageDirty(p);
}

void rvmm_gup_put(void *page)
{
	put_page(page);
}

u64 rvmm_user_end(void)
{
	return TASK_SIZE_MAX;
}

/* The lockless walk needs interrupts off, so that no page table is freed under it. */
u32 rvmm_mapping_shift(u64 hva)
{
	pgd_t pgd = READ_ONCE(*pgd_offset(current->mm, hva));
	p4d_t p4d;
	pud_t pud;
	pmd_t pmd;

	lockdep_assert_irqs_disabled();
	if (pgd_none(pgd))
		return PAGE_SHIFT;
	p4d = READ_ONCE(*p4d_offset(&pgd, hva));
	if (p4d_none(p4d) || !p4d_present(p4d))
		return PAGE_SHIFT;
	pud = READ_ONCE(*pud_offset(&p4d, hva));
	if (pud_none(pud) || !pud_present(pud))
		return PAGE_SHIFT;
	if (pud_leaf(pud))
		return PUD_SHIFT;
	pmd = READ_ONCE(*pmd_offset(&pud, hva));
	if (pmd_none(pmd) || !pmd_present(pmd))
		return PAGE_SHIFT;
	return pmd_leaf(pmd) ? PMD_SHIFT : PAGE_SHIFT;
}

#define RVMM_CMPXCHG(type)						\
	do {								\
		type found = (type)*old;				\
									\
		unsafe_try_cmpxchg_user((type __user *)hva, &found,	\
					(type)new_value, out);		\
		*old = found;						\
		ret = 0;						\
	} while (0)

int rvmm_user_cmpxchg(u64 hva, u32 bytes, u64 *old, u64 new_value)
{
	int ret = -EFAULT;

	pagefault_disable();
	if (!user_access_begin((void __user *)hva, bytes)) {
		pagefault_enable();
		return -EFAULT;
	}
	switch (bytes) {
	case 1:
		RVMM_CMPXCHG(u8);
		break;
	case 2:
		RVMM_CMPXCHG(u16);
		break;
	case 4:
		RVMM_CMPXCHG(u32);
		break;
	case 8:
		RVMM_CMPXCHG(u64);
		break;
	default:
		ret = -EINVAL;
	}
out:
	user_access_end();
	pagefault_enable();
	return ret;
}

/* In one access, which copy_from_user_nofault() does not promise: it may go byte by byte. */
int rvmm_user_load_u16(u64 hva, u16 *to)
{
	int ret = -EFAULT;
	u16 value;

	pagefault_disable();
	if (!user_read_access_begin((void __user *)hva, sizeof(value)))
		goto refused;
	unsafe_get_user(value, (u16 __user *)hva, out);
	*to = value;
	ret = 0;
out:
	user_read_access_end();
refused:
	pagefault_enable();
	return ret;
}

int rvmm_user_store_u16(u64 hva, u16 value)
{
	int ret = -EFAULT;

	pagefault_disable();
	if (!user_write_access_begin((void __user *)hva, sizeof(value)))
		goto refused;
	unsafe_put_user(value, (u16 __user *)hva, out);
	ret = 0;
out:
	user_write_access_end();
refused:
	pagefault_enable();
	return ret;
}

/*
 * What is behind the last address of user space is not the kernel's either for some pages, so few bytes need
 * no look at where they end: the constant RVMM_FEW says that they are few.
 */

/* Copies the next of what is left, if that is so much, in one access. */
#define RVMM_LOAD(type)							\
	do {								\
		type value;						\
									\
		unsafe_get_user(value, (type __user *)hva, out);	\
		put_unaligned(value, (type *)to);			\
		hva += sizeof(type);					\
		to += sizeof(type);					\
	} while (0)
#define RVMM_STORE(type)						\
	do {								\
		type value = get_unaligned((const type *)from);		\
									\
		unsafe_put_user(value, (type __user *)hva, out);	\
		hva += sizeof(type);					\
		from += sizeof(type);					\
	} while (0)
#define RVMM_BY_WORDS(copy)						\
	do {								\
		u32 words;						\
									\
		for (words = bytes / 8; words; words--)			\
			copy(u64);					\
		if (likely(!(bytes & 7)))				\
			break;						\
		if (bytes & 4)						\
			copy(u32);					\
		if (bytes & 2)						\
			copy(u16);					\
		if (bytes & 1)						\
			copy(u8);					\
	} while (0)

int rvmm_user_load(u64 hva, u32 bytes, void *to)
{
	int ret = -EFAULT;

	pagefault_disable();
	if (bytes > RVMM_FEW || !user_read_access_begin((void __user *)hva, RVMM_FEW))
		goto refused;
	RVMM_BY_WORDS(RVMM_LOAD);
	ret = 0;
out:
	user_read_access_end();
refused:
	pagefault_enable();
	return ret;
}

int rvmm_user_store(u64 hva, u32 bytes, const void *from)
{
	int ret = -EFAULT;

	pagefault_disable();
	if (bytes > RVMM_FEW || !user_write_access_begin((void __user *)hva, RVMM_FEW))
		goto refused;
	RVMM_BY_WORDS(RVMM_STORE);
	ret = 0;
out:
	user_write_access_end();
refused:
	pagefault_enable();
	return ret;
}

/*
 * Goes to the label end unless the word has the value that was seen. The words were read by
 * copy_from_user_nofault() before, in this process, so their addresses are those of user space.
 */
#define RVMM_SAME(word)								\
	do {									\
		u64 found;							\
										\
		unsafe_get_user(found, (u64 __user *)(word).hva, end);		\
		if (found != (word).value)					\
			goto end;						\
	} while (0)

bool rvmm_user_unchanged(const struct rvmm_word *words, u32 count)
{
	bool same = false;
	u32 i;

	pagefault_disable();
	__uaccess_begin_nospec();
	for (i = 0; i < count; i++)
		RVMM_SAME(words[i]);
	same = true;
end:
	__uaccess_end();
	pagefault_enable();
	return same;
}

notrace bool rvmm_user_unchanged5(const struct rvmm_word *words)
{
	bool same = false;

	pagefault_disable();
	__uaccess_begin_nospec();
	RVMM_SAME(words[0]);
	RVMM_SAME(words[1]);
	RVMM_SAME(words[2]);
	RVMM_SAME(words[3]);
	RVMM_SAME(words[4]);
	same = true;
end:
	__uaccess_end();
	pagefault_enable();
	return same;
}

bool rvmm_log_may_write(void)
{
	static DEFINE_RATELIMIT_STATE(state, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	return __ratelimit(&state);
}

u64 rvmm_now_ns(void)
{
	return ktime_get_ns();
}

bool rvmm_counts_run_delay(void)
{
	return IS_ENABLED(CONFIG_SCHEDSTATS);
}

u64 rvmm_run_delay(void)
{
#ifdef CONFIG_SCHEDSTATS
	return current->sched_info.run_delay;
#else
	return 0;
#endif
}

u64 rvmm_run_time(void)
{
	return READ_ONCE(current->se.sum_exec_runtime);
}

u64 rvmm_wall_ns(void)
{
	return ktime_get_real_ns();
}

int rvmm_wait(struct rcuwait *w, bool (*ready)(void *), void *arg)
{
	return rcuwait_wait_event(w, ready(arg), TASK_INTERRUPTIBLE);
}

int rvmm_mutex_lock_killable(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}

struct file *rvmm_anon_file(const char *name, const struct file_operations *fops, void *private, u32 fmode)
{
	return anon_inode_getfile_fmode(name, fops, private, O_RDWR, (__force fmode_t)fmode);
}

int rvmm_wait_queue(struct wait_queue_head *queue, bool (*ready)(void *), void *arg)
{
	return wait_event_interruptible(*queue, ready(arg));
}

int rvmm_wait_queue_killable(struct wait_queue_head *queue, bool (*ready)(void *), void *arg)
{
	return wait_event_killable(*queue, ready(arg));
}

void rvmm_wait_queue_fully(struct wait_queue_head *queue, bool (*ready)(void *), void *arg)
{
	wait_event(*queue, ready(arg));
}

bool rvmm_signal_pending(void)
{
	return signal_pending(current);
}

bool rvmm_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

/* The thread's own are kept where sigtimedwait() keeps them: a signal that it blocks itself still wakes it. */
void rvmm_signals_block(u64 mask)
{
	sigset_t blocked = { .sig = { mask } };

	BUILD_BUG_ON(sizeof(blocked) != sizeof(mask));
	sigprocmask(SIG_SETMASK, &blocked, &current->real_blocked);
}

void rvmm_signals_restore(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}

void rvmm_file_identity(struct file *file, u32 *device, u64 *inode)
{
	*device = new_encode_dev(file_inode(file)->i_sb->s_dev);
	*inode = file_inode(file)->i_ino;
}

int rvmm_file_size(struct file *file, u64 *bytes, u32 *block_shift, bool *discard)
{
	struct inode *inode = file->f_mapping->host;

	if (S_ISBLK(inode->i_mode)) {
		struct block_device *bdev = I_BDEV(inode);

		*bytes = bdev_nr_bytes(bdev);
		*block_shift = ilog2(bdev_logical_block_size(bdev));
		*discard = bdev_max_discard_sectors(bdev) != 0;
		return 0;
	}
	if (!S_ISREG(inode->i_mode))
		return -EINVAL;
	*bytes = i_size_read(inode);
	*block_shift = 9;
	*discard = true;
	return 0;
}

bool rvmm_file_may(struct file *file, bool write)
{
	return file->f_mode & (write ? FMODE_WRITE : FMODE_READ);
}

bool rvmm_file_is_regular(struct file *file)
{
	return S_ISREG(file_inode(file)->i_mode);
}

/* Files of tmpfs are memory: they do not know IOCB_NOWAIT, and do not wait for a device. */
bool rvmm_file_is_nowait(struct file *file)
{
	return file->f_mode & FMODE_NOWAIT || file_inode(file)->i_sb->s_magic == TMPFS_MAGIC;
}

static s64 rvmm_file_iter(struct kiocb *iocb, struct file *file, struct iov_iter *iter, u64 pos, u32 how)
{
	iocb->ki_pos = pos;
	if (how & RVMM_IO_DURABLE)
		iocb->ki_flags |= IOCB_DSYNC;
	if (how & RVMM_IO_BUFFERED)
		iocb->ki_flags &= ~IOCB_DIRECT;
	if (how & RVMM_IO_NOWAIT && file->f_mode & FMODE_NOWAIT)
		iocb->ki_flags |= IOCB_NOWAIT;
	if (!(how & RVMM_IO_WRITE))
		return vfs_iocb_iter_read(file, iocb, iter);
	iocb->ki_flags |= IOCB_WRITE;
	return vfs_iocb_iter_write(file, iocb, iter);
}

s64 rvmm_file_start(struct kiocb *iocb, void (*ended)(struct kiocb *iocb, long result),
		    struct file *file, const struct iovec *iov, u32 segments, u64 bytes, u64 pos, u32 how)
{
	struct iov_iter iter;

	iov_iter_init(&iter, how & RVMM_IO_WRITE ? ITER_SOURCE : ITER_DEST, iov, segments, bytes);
	init_sync_kiocb(iocb, file);
	iocb->ki_complete = ended;
	return rvmm_file_iter(iocb, file, &iter, pos, how);
}

void rvmm_file_end_write(struct kiocb *iocb)
{
	kiocb_end_write(iocb);
}

s64 rvmm_file_copy(struct file *file, void *buf, u64 bytes, u64 pos, u32 how)
{
	struct kvec vec = { .iov_base = buf, .iov_len = bytes };
	struct iov_iter iter;
	struct kiocb iocb;

	iov_iter_kvec(&iter, how & RVMM_IO_WRITE ? ITER_SOURCE : ITER_DEST, &vec, 1, bytes);
	init_sync_kiocb(&iocb, file);
	return rvmm_file_iter(&iocb, file, &iter, pos, how);
}

struct rvmm_poll {
	poll_table table;
	struct wait_queue_entry *entry;
	int error;
};

static void rvmm_queue(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	struct rvmm_poll *poll = container_of(table, struct rvmm_poll, table);

	poll->error = add_wait_queue_priority_exclusive(head, poll->entry);
}

u32 rvmm_eventfd_listen(struct file *file, struct wait_queue_entry *entry, int *error)
{
	struct rvmm_poll poll = { .entry = entry, .error = -EINVAL };
	__poll_t events;

	init_poll_funcptr(&poll.table, rvmm_queue);
	events = vfs_poll(file, &poll.table);
	*error = poll.error;
	return (__force u32)events;
}

int rvmm_stream_socket(struct file *file, void **socket)
{
	struct socket *sock = sock_from_file(file);

	if (!sock || sock->type != SOCK_STREAM)
		return -EINVAL;
	*socket = sock;
	return 0;
}

s64 rvmm_stream_send(void *socket, const void *buf, u64 bytes)
{
	struct kvec vec = { .iov_base = (void *)buf, .iov_len = bytes };
	struct msghdr msg = { .msg_flags = MSG_NOSIGNAL };

	return kernel_sendmsg(socket, &msg, &vec, 1, bytes);
}

s64 rvmm_stream_receive(void *socket, void *buf, u64 bytes)
{
	struct kvec vec = { .iov_base = buf, .iov_len = bytes };
	struct msghdr msg = { };

	return kernel_recvmsg(socket, &msg, &vec, 1, bytes, MSG_DONTWAIT);
}

struct rvmm_listen {
	poll_table table;
	struct wait_queue_entry *entry;
	struct wait_queue_head *head;
};

static void rvmm_listen_queue(struct file *file, wait_queue_head_t *head, poll_table *table)
{
	struct rvmm_listen *listen = container_of(table, struct rvmm_listen, table);

	if (listen->head)
		return;
	listen->head = head;
	add_wait_queue(head, listen->entry);
}

struct wait_queue_head *rvmm_file_listen(struct file *file, struct wait_queue_entry *entry)
{
	struct rvmm_listen listen = { .entry = entry };

	init_poll_funcptr(&listen.table, rvmm_listen_queue);
	vfs_poll(file, &listen.table);
	return listen.head;
}

void *rvmm_current_mm(void)
{
	return current->mm;
}
