// SPDX-License-Identifier: GPL-2.0
/*
 * nth-fault [-x REQUEST]… COMMAND [ARG…]
 *
 * Runs a command and lets each of its ioctls, mappings, opens and loads of modules meet every
 * failure of an allocation, and of a copy from or to user space, that it can meet: the first
 * of the call fails, then the call is made again and the second fails, and so on until a call
 * ends without one. The command sees only that last one. A call that fails otherwise than
 * such failures do, or succeeds all the same, is taken as it is, and the next call of its kind
 * begins where this one left off.
 *
 * So a program that works under nth-fault shows that a call that ran out of memory has left
 * nothing behind that the next one trips over. The ioctls of -x (hexadecimal) are left alone.
 * At the end comes a line for each kind of call. Needs CONFIG_FAULT_INJECTION: the kernel
 * counts down /proc/PID/fail-nth, of the task alone (Linux kernel documentation, "Fault
 * injection capabilities infrastructure").
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH(a) (sizeof(a) / sizeof((a)[0]))

struct task {
	pid_t tid;
	int fail_nth;		/* its file */
	unsigned int n;		/* which failure the call that is under way meets */
	unsigned int request;
	int is_inside, is_retry, has_begun;
	struct user_regs_struct regs;
};

/* One kind of call: an ioctl by its number, another system call by its own. */
struct kind {
	int is_used, call;
	unsigned int request, next, calls, faults, most, kept;
};

static const int traced[] = {SYS_ioctl, SYS_mmap, SYS_openat, SYS_init_module, SYS_finit_module};
static struct task tasks[1024];
static struct kind kinds[256];
static unsigned int excluded[16], excluded_count;

static void die(const char *what)
{
	fprintf(stderr, "nth-fault: %s: %s\n", what, strerror(errno));
	exit(2);
}

static struct task *task_of(pid_t tid)
{
	struct task *free = NULL;

	for (size_t i = 0; i < LENGTH(tasks); i++) {
		if (tasks[i].tid == tid)
			return &tasks[i];
		if (!tasks[i].tid && !free)
			free = &tasks[i];
	}
	if (!free) {
		errno = EAGAIN;
		die("too many tasks");
	}
	*free = (struct task){.tid = tid, .fail_nth = -1};
	return free;
}

static void forget(struct task *t)
{
	if (t->fail_nth >= 0)
		close(t->fail_nth);
	t->tid = 0;
}

static struct kind *kind_of(int call, unsigned int request)
{
	for (size_t i = 0; i < LENGTH(kinds); i++) {
		if (!kinds[i].is_used)
			kinds[i] = (struct kind){.is_used = 1, .call = call, .request = request, .next = 1};
		if (kinds[i].call == call && kinds[i].request == request)
			return &kinds[i];
	}
	return &kinds[LENGTH(kinds) - 1];
}

static void set_fault(struct task *t, unsigned int n)
{
	char text[32];

	if (t->fail_nth < 0) {
		snprintf(text, sizeof(text), "/proc/%d/fail-nth", t->tid);
		t->fail_nth = open(text, O_RDWR | O_CLOEXEC);
		if (t->fail_nth < 0)
			die(text);
	}
	snprintf(text, sizeof(text), "%u", n);
	if (pwrite(t->fail_nth, text, strlen(text), 0) < 0 && errno != ESRCH)
		die("fail-nth");
}

/* Whether the failure that was asked for has come. Asks for none from now on. */
static int end_fault(struct task *t)
{
	char text[16] = "";

	if (pread(t->fail_nth, text, sizeof(text) - 1, 0) < 0)
		return 0;
	set_fault(t, 0);
	return atoi(text) == 0;
}

static int is_traced(unsigned long long call)
{
	for (size_t i = 0; i < LENGTH(traced); i++)
		if ((unsigned long long)traced[i] == call)
			return 1;
	return 0;
}

static int is_excluded(struct task *t)
{
	for (unsigned int i = 0; i < excluded_count; i++)
		if (t->regs.orig_rax == SYS_ioctl && t->request == excluded[i])
			return 1;
	return 0;
}

static void call_begins(struct task *t)
{
	if (ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) < 0)
		return;
	t->request = t->regs.orig_rax == SYS_ioctl ? t->regs.rsi : 0;
	if (is_excluded(t))
		return;
	t->n = t->is_retry ? t->n + 1 : kind_of(t->regs.orig_rax, t->request)->next;
	t->is_retry = 0;
	t->is_inside = 1;
	set_fault(t, t->n);
}

/* Whether a call's result says that an allocation or a copy failed. A new file's inode comes to ENOSPC, the file itself to ENFILE. */
static int is_fault(long result)
{
	return result == -ENOMEM || result == -EFAULT || result == -ENFILE || result == -ENOSPC;
}

/* A traced call has ended: it is made again when the failure made it fail. */
static void call_ends(struct task *t)
{
	struct kind *k = kind_of(t->regs.orig_rax, t->request);
	int came = end_fault(t);
	struct user_regs_struct regs;

	t->is_inside = 0;
	if (ptrace(PTRACE_GETREGS, t->tid, 0, &regs) < 0)
		return;
	k->faults += came;
	if (came && t->n > k->most)
		k->most = t->n;
	if (came && is_fault(regs.rax)) {
		regs.rip -= 2;
		regs.rax = t->regs.orig_rax;
		regs.orig_rax = -1;
		t->is_retry = !ptrace(PTRACE_SETREGS, t->tid, 0, &regs);
		return;
	}
	k->next = came ? t->n + 1 : 1;
	k->calls++;
	k->kept += came;
}

/* A stop at the begin or the end of a system call. */
static void at_system_call(struct task *t)
{
	struct __ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, t->tid, sizeof(info), &info) <= 0)
		return;
	if (info.op == PTRACE_SYSCALL_INFO_ENTRY && is_traced(info.entry.nr))
		call_begins(t);
	else if (info.op == PTRACE_SYSCALL_INFO_EXIT && t->is_inside)
		call_ends(t);
}

static void run_child(char **argv)
{
	if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0 || raise(SIGSTOP))
		die("ptrace");
	execvp(argv[0], argv);
	die(argv[0]);
}

/* Handles a stop. Returns the signal that the task goes on with. */
static int stopped(struct task *t, int status)
{
	int by = WSTOPSIG(status), signal = 0;

	if (by == (SIGTRAP | 0x80))
		at_system_call(t);
	else if (!(status >> 16) && !(by == SIGSTOP && !t->has_begun))
		signal = by;
	t->has_begun = 1;
	return signal;
}

static int trace(pid_t child)
{
	int status, code = 1;
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
		       PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;

	if (waitpid(child, &status, 0) != child || ptrace(PTRACE_SETOPTIONS, child, 0, options) < 0)
		die("the command");
	task_of(child)->has_begun = 1;
	ptrace(PTRACE_SYSCALL, child, 0, 0);
	for (pid_t tid; (tid = waitpid(-1, &status, __WALL)) > 0;) {
		struct task *t = task_of(tid);

		if (WIFSTOPPED(status)) {
			ptrace(PTRACE_SYSCALL, tid, 0, stopped(t, status));
			continue;
		}
		if (tid == child)
			code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
		forget(t);
	}
	return code;
}

int main(int argc, char **argv)
{
	unsigned int sum = 0;
	int option;

	while ((option = getopt(argc, argv, "+x:")) != -1) {
		if (option != 'x' || excluded_count == LENGTH(excluded))
			return 2;
		excluded[excluded_count++] = strtoul(optarg, NULL, 16);
	}
	if (optind == argc)
		return 2;

	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child)
		run_child(argv + optind);
	int code = trace(child);

	for (struct kind *k = kinds; k < kinds + LENGTH(kinds) && k->is_used; k++) {
		if (!k->faults)
			continue;
		sum += k->faults;
		if (k->call == SYS_ioctl)
			printf("# ioctl %08x", k->request);
		else
			printf("# system call %d", k->call);
		printf(": %u calls, %u faults, at most %u in a row, %u of them without effect\n", k->calls, k->faults, k->most, k->kept);
	}
	printf("# nth-fault: %u faults\n", sum);
	return code;
}
