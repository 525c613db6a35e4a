// SPDX-License-Identifier: GPL-2.0
/*
 * Processes that are killed in the midst of work in the module that does not end by itself, or while they wait for somebody
 * else's: each is gone within a second. Prints KTAP.
 * Usage: killed-busy SECONDS; how long a second may take here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "caller.h"

#define SECTORS		65536
#define REGION		(64u << 20)
#define SHOWN		0x10000000u	/* where the guest has it */

static double second;

/* How many requests a process has served, which another one sees. */
static volatile unsigned long *served;

/* Starts a process that does `body`, and gives it time to get there. */
static pid_t start(void (*body)(void *), void *arg)
{
	pid_t pid;

	fflush(stdout);
	pid = must(fork(), "fork");
	if (!pid) {
		body(arg);
		_exit(0);
	}
	usleep(500000 * second);
	return pid;
}

/* Kills a process that should still be there. */
static void check_killed(const char *name, pid_t pid)
{
	int status = 0;
	bool is_there = waitpid(pid, &status, WNOHANG) == 0;
	double began = now();

	kill(pid, SIGKILL);
	bool is_gone = is_there && ends_within(pid, second, &status);
	check(name, is_gone && WIFSIGNALED(status));
	printf("# there %d, gone after %.3f s\n", is_there, now() - began);
}

/*
 * A disk that never runs out of requests: each sector holds, where the guest's memory has them, the next request and the
 * index that makes it available.
 */
static int endless_disk(void)
{
	int fd = must(open("/tmp/endless", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), "disk");
	uint8_t sectors[128][512];

	for (uint32_t n = 0; n < SECTORS; n += 128) {
		for (uint32_t i = 0; i < 128; i++)
			fill_window(sectors[i], n + i + 2);
		if (write(fd, sectors, sizeof(sectors)) != sizeof(sectors))
			err(2, "/tmp/endless");
	}
	unlink("/tmp/endless");
	return fd;
}

/* The worker does not come back, so somebody looks from beside. */
static void *count_served(void *used_index)
{
	for (uint16_t last = 0; *served < ULONG_MAX; usleep(1000)) {
		uint16_t index = *(volatile uint16_t *)used_index;

		*served += (uint16_t)(index - last);
		last = index;
	}
	return NULL;
}

static void serve_for_ever(void *arg)
{
	struct machine m = make_guest("\xf4", 1, false);
	pthread_t counter;
	int disk;

	add_bus(&m);
	disk = add_disk(&m, endless_disk());
	drive_disk(&m);
	pthread_create(&counter, NULL, count_served, m.memory + USED + 2);
	ioctl(disk, RVMM_DEV_RUN, 0L);
}

static void a_queue_without_end(void)
{
	pid_t pid = start(serve_for_ever, NULL);
	unsigned long before;

	for (int i = 0; i < 100 && !*served; i++)
		usleep(100000);
	before = *served;
	usleep(300000 * second);
	check("a queue that never runs dry is served", before && *served > before);
	printf("# %lu requests, then %lu\n", before, *served);
	check_killed("killed while it serves a queue that never runs dry", pid);
}

/* A guest that does nothing but write to its serial port, or read from it. */
static const uint8_t writes[] = { 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfd }, reads[] = { 0xba, 0xf8, 0x03, 0xec, 0xeb, 0xfd };
static const uint8_t halts[] = { 0xf4 };

struct console { int fd; bool writes; };

static void *run(void *arg)
{
	struct machine *m = arg;

	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		ioctl(m->vcpu, KVM_RUN, 0);
	return NULL;
}

/* Moves much at a time. */
static void use_console(void *arg)
{
	static uint8_t bytes[1 << 20];
	struct console *c = arg;

	for (;;) {
		ssize_t n = c->writes ? write(c->fd, bytes, sizeof(bytes)) : read(c->fd, bytes, sizeof(bytes));

		if (n < 0)
			err(2, "the console");
	}
}

/* The console's user is another process than its guest's, whose end alone would end the guest. */
static void a_console(const char *name, const uint8_t *code, size_t bytes, bool writes)
{
	struct machine m = make_guest(code, bytes, false);
	struct rvmm_uart_config uart = { 0 };
	struct console c = { .fd = add(&m, RVMM_DEV_UART, &uart), .writes = writes };
	pthread_t guest;

	if (code != halts)
		pthread_create(&guest, NULL, run, &m);
	check_killed(name, start(use_console, &c));
	if (code != halts) {
		pthread_cancel(guest);
		pthread_join(guest, NULL);
	}
	close(c.fd);
	close(m.vcpu);
	close(m.vm);
	munmap(m.run, 3 * 4096);
}

/*
 * An MMU notifier between its begin and its end for as long as we like: a thread that is nearly always in one loses its CPU
 * to one of higher priority.
 */
static _Atomic int hog_wanted, hog_runs, is_over;
static uint8_t *region;
static int last_cpu;

static void stay_on_last_cpu(int policy, int priority)
{
	struct sched_param how = { .sched_priority = priority };
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(last_cpu, &set);
	must(sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
	must(sched_setscheduler(0, policy, &how), "sched_setscheduler");
}

static void *notify(void *arg)
{
	stay_on_last_cpu(SCHED_OTHER, 0);
	while (!is_over)
		madvise(region, REGION, MADV_FREE);
	return NULL;
}

static void *hog(void *arg)
{
	stay_on_last_cpu(SCHED_FIFO, 50);
	while (!is_over) {
		hog_runs = hog_wanted;
		if (!hog_wanted)
			usleep(1000);
	}
	return NULL;
}

static struct machine changed;

static int change_slot(void *arg)
{
	struct kvm_userspace_memory_region slot = { .slot = 2, .guest_phys_addr = SHOWN * 2, .memory_size = 4096,
						    .userspace_addr = (uintptr_t)changed.memory };

	return ioctl(changed.vm, KVM_SET_USER_MEMORY_REGION, &slot) ? 1 : 0;
}

static int ask_for_rest(void *arg)
{
	uint32_t rest;
	struct kvm_device_attr a = { .group = RVMM_GROUP_STATE, .attr = RVMM_STATE_REST, .addr = (uintptr_t)&rest };

	return ioctl(changed.vm, KVM_GET_DEVICE_ATTR, &a) ? 1 : 0;
}

/*
 * A process of its own, to be killed alone, with the memory of whoever made the VM. A fork would wait for whoever uses that
 * memory, the one with the notifier.
 */
static pid_t start_beside(int (*body)(void *), int n)
{
	static uint8_t stacks[2][65536] __attribute__((aligned(16)));

	return must(clone(body, stacks[n] + sizeof(stacks[n]), CLONE_VM | CLONE_FILES | SIGCHLD, NULL), "clone");
}

static void set_number(const char *path, const char *number)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, number, strlen(number)) < 0)
		printf("# %s: %s\n", path, strerror(errno));
	close(fd);
}

/* Returns a process that waits for the end of a notifier; with it, the notifier is held. */
static pid_t wait_for_notifier(void)
{
	for (int i = 1; i <= 50; i++) {
		int status;

		usleep(5000 + i * 1300);
		hog_wanted = 1;
		while (!hog_runs)
			usleep(1000);
		pid_t pid = start_beside(change_slot, 0);

		if (!ends_within(pid, 0.3 * second, &status)) {
			printf("# try %d\n", i);
			return pid;
		}
		hog_wanted = 0;
		while (hog_runs)
			usleep(1000);
	}
	return -1;
}

static void behind_a_notifier(void)
{
	struct kvm_userspace_memory_region slot = { .slot = 1, .guest_phys_addr = SHOWN, .memory_size = REGION };
	struct sched_param how = { .sched_priority = 60 };
	pthread_t threads[2];
	pid_t changes, asks;

	changed = make_guest(halts, sizeof(halts), false);
	region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region == MAP_FAILED || madvise(region, REGION, MADV_NOHUGEPAGE))
		err(2, "mmap");
	memset(region, 1, REGION);
	slot.userspace_addr = (uintptr_t)region;
	must(ioctl(changed.vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	last_cpu = sysconf(_SC_NPROCESSORS_ONLN) - 1;
	/* Above the one that takes the CPU, should there be one CPU only. */
	must(sched_setscheduler(0, SCHED_FIFO, &how), "sched_setscheduler");
	pthread_create(&threads[0], NULL, notify, NULL);
	pthread_create(&threads[1], NULL, hog, NULL);

	changes = wait_for_notifier();
	check("a slot change waits behind a notifier", changes > 0);
	if (changes > 0) {
		asks = start_beside(ask_for_rest, 1);
		usleep(300000 * second);
		check_killed("killed while it waits for the VM's configuration", asks);
		check_killed("killed while its slot change waits behind a notifier", changes);
	}
	hog_wanted = 0;
	check("the next change goes through", !change_slot(NULL));
	is_over = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
	second = argc > 1 ? atof(argv[1]) : 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	served = mmap(NULL, sizeof(*served), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (served == MAP_FAILED)
		err(2, "mmap");
	a_queue_without_end();
	a_console("killed while it reads a console whose guest writes on and on", writes, sizeof(writes), false);
	a_console("killed while it waits for a guest's output", halts, sizeof(halts), false);
	a_console("killed while it writes to a console whose guest reads on and on", reads, sizeof(reads), true);
	a_console("killed while it waits for room for a guest's input", halts, sizeof(halts), true);
	/* All CPU time for whoever has the priority. */
	set_number("/proc/sys/kernel/sched_rt_runtime_us", "-1");
	for (long cpu = sysconf(_SC_NPROCESSORS_ONLN) - 1; cpu >= 0; cpu--) {
		char path[96];

		snprintf(path, sizeof(path), "/sys/kernel/debug/sched/fair_server/cpu%ld/runtime", cpu);
		set_number(path, "0");
	}
	behind_a_notifier();
	printf("1..%d\n", results);
	return failed != 0;
}
