// SPDX-License-Identifier: GPL-2.0
/*
 * Gives a VMM's guest more memory slots than the VMM itself would:
 *
 *   slots N COMMAND…
 *
 * COMMAND is run with a tracer, which waits until its first thread has made a VM, has
 * that thread add slots, says "slots: NUMBER more", and goes away. They are numbered
 * from 511, the last that rvmm has, down to 516 - N, so a VMM that uses the first four
 * has N at most. Each is one page, all the same memory, far above what the guest uses.
 */
#define _GNU_SOURCE
#include <linux/kvm.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOTS		512
#define OF_THE_VMM	4
#define SPARE		0x1000000000ULL
#define PAGE		0x1000ULL
#define SYSCALL_SIZE	2
#define SYSCALL_STOP	(SIGTRAP | 0x80)

static pid_t traced;

static void fail(const char *what)
{
	fprintf(stderr, "slots: %s: %s\n", what, strerror(errno));
	kill(traced, SIGKILL);
	_exit(1);
}

/* Lets the thread run to its next stop at a system call, and hands it the signals that come before. */
static void to_next_stop(void)
{
	int status, signal = 0;

	for (;;) {
		if (ptrace(PTRACE_SYSCALL, traced, 0, signal))
			fail("PTRACE_SYSCALL");
		if (waitpid(traced, &status, __WALL) != traced || !WIFSTOPPED(status))
			_exit(0);
		if (WSTOPSIG(status) == SYSCALL_STOP)
			return;
		signal = status >> 16 ? 0 : WSTOPSIG(status);
	}
}

/* The file of the VM, once there is one: the thread stops at the end of the call that made it. */
static int vm_made(void)
{
	struct __ptrace_syscall_info info;
	int is_ours = 0;

	for (;;) {
		to_next_stop();
		if (ptrace(PTRACE_GET_SYSCALL_INFO, traced, sizeof(info), &info) <= 0)
			fail("PTRACE_GET_SYSCALL_INFO");
		if (info.op == PTRACE_SYSCALL_INFO_ENTRY)
			is_ours = info.entry.nr == SYS_ioctl && info.entry.args[1] == KVM_CREATE_VM;
		else if (is_ours && info.exit.rval >= 0)
			return (int)info.exit.rval;
	}
}

/* Makes the thread execute a system call. `saved` is its state at the end of another. */
static long call(const struct user_regs_struct *saved, long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	struct user_regs_struct regs = *saved;

	regs.rip -= SYSCALL_SIZE;
	regs.rax = number;
	regs.orig_rax = -1;
	regs.rdi = a;
	regs.rsi = b;
	regs.rdx = c;
	regs.r10 = d;
	regs.r8 = -1;
	regs.r9 = 0;
	if (ptrace(PTRACE_SETREGS, traced, 0, &regs))
		fail("PTRACE_SETREGS");
	to_next_stop();
	to_next_stop();
	if (ptrace(PTRACE_GETREGS, traced, 0, &regs))
		fail("PTRACE_GETREGS");
	errno = (long)regs.rax < 0 ? -(long)regs.rax : 0;
	return (long)regs.rax;
}

static void add_slots(int vm, int number)
{
	struct kvm_userspace_memory_region region = { .memory_size = PAGE };
	struct user_regs_struct saved;
	struct iovec from = { &region, sizeof(region) }, to = { NULL, sizeof(region) };
	long memory;

	if (ptrace(PTRACE_GETREGS, traced, 0, &saved))
		fail("PTRACE_GETREGS");
	memory = call(&saved, SYS_mmap, 0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
	if (memory < 0)
		fail("mmap");
	to.iov_base = (void *)memory;
	region.userspace_addr = memory + PAGE;
	for (int i = 1; i <= number; i++) {
		region.slot = SLOTS - i;
		region.guest_phys_addr = SPARE + 2 * PAGE * i;
		if (process_vm_writev(traced, &from, 1, &to, 1, 0) != sizeof(region))
			fail("process_vm_writev");
		if (call(&saved, SYS_ioctl, vm, KVM_SET_USER_MEMORY_REGION, memory, 0))
			fail("KVM_SET_USER_MEMORY_REGION");
	}
	if (ptrace(PTRACE_SETREGS, traced, 0, &saved))
		fail("PTRACE_SETREGS");
}

static void trace(int number, int ready)
{
	int status;

	if (ptrace(PTRACE_SEIZE, traced, 0, PTRACE_O_TRACESYSGOOD) || ptrace(PTRACE_INTERRUPT, traced, 0, 0))
		fail("PTRACE_SEIZE");
	if (waitpid(traced, &status, __WALL) != traced)
		fail("waitpid");
	if (write(ready, "", 1) != 1)
		fail("write");
	add_slots(vm_made(), number);
	fprintf(stderr, "slots: %d more\n", number);
	ptrace(PTRACE_DETACH, traced, 0, 0);
	_exit(0);
}

int main(int argc, char **argv)
{
	int number = argc > 2 ? atoi(argv[1]) - OF_THE_VMM : -1, ready[2];
	pid_t child;
	char byte;

	if (number < 0 || number > SLOTS - OF_THE_VMM || pipe2(ready, O_CLOEXEC)) {
		fprintf(stderr, "usage: slots N COMMAND…, N from 4 to 512\n");
		return 2;
	}
	traced = getpid();
	child = fork();
	if (!child) {
		/* The VMM is not to have a child that it knows nothing of. */
		if (fork())
			_exit(0);
		trace(number, ready[1]);
	}
	waitpid(child, NULL, 0);
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		return 1;
	execvp(argv[2], argv + 2);
	perror(argv[2]);
	return 1;
}
