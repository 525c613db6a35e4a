// SPDX-License-Identifier: GPL-2.0
#define _GNU_SOURCE
/* Rows that need more than one guest, or that the client's own clock measures. */
#include "guest.h"
#include "rows.h"
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SOON 20000
#define CREATE_ROUNDS 14
#define IDLE_VMS 1024
#define REGION_SIZE 0x4000000ULL
#define LARGE_REGION 0x80000000ULL	/* from REGION on */
#define LATE_ROUNDS 3
#define WORST "/sys/module/rvmm_late/parameters/worst"

/* From now on the calling thread runs on this CPU of the host only. */
static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		skip("no CPU %d in this host", cpu);
}

/* A vCPU on a thread of its own that runs for ever. */
struct side {
	struct vm *vm;
	int id;
	int cpu;	/* of the host */
};

static void *side_main(void *arg)
{
	struct side *side = arg;

	stay_on(side->cpu);
	vm_run(side->vm, side->id);
	return NULL;
}

static void start_side(struct side *side)
{
	pthread_t thread;

	*comm(side->vm, C_READY) = 0;
	if (pthread_create(&thread, NULL, side_main, side))
		skip("no thread");
	while (!*(volatile uint64_t *)comm(side->vm, C_READY))
		usleep(100);
	usleep(1000);
}

void row_ping(const struct row *row)
{
	struct vm vm;
	struct side pong = { &vm, 1, row->arg };

	stay_on(0);
	vm_new(&vm, NULL, 2);
	ram_handler(vm.ram, row->handler);
	vm_enter_at(&vm, 1, g_pong);
	start_side(&pong);
	measure(row, &vm);
}

void row_ioeventfd(const struct row *row)
{
	struct vm vm;
	struct kvm_ioeventfd kick = { .addr = PORT_KICK, .len = 2, .flags = KVM_IOEVENTFD_FLAG_PIO };

	if (!has_cap(KVM_CAP_IOEVENTFD))
		skip("KVM_CAP_IOEVENTFD is 0");
	if (row->arg) {
		kick.addr = row->arg;
		kick.flags = 0;
	}
	kick.fd = eventfd(0, EFD_CLOEXEC);
	vm_new(&vm, NULL, 1);
	if (ioctl(vm.fd, KVM_IOEVENTFD, &kick))
		skip("KVM_IOEVENTFD: %s", strerror(errno));
	measure(row, &vm);
}

static void route_msi(struct vm *vm)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry;
	} routes = { .head.nr = 1, .entry = { .gsi = IRQFD_GSI, .type = KVM_IRQ_ROUTING_MSI } };

	routes.entry.u.msi.address_lo = 0xfee00000;
	routes.entry.u.msi.data = VECTOR;
	if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, &routes))
		skip("KVM_SET_GSI_ROUTING: %s", strerror(errno));
}

/* Lets the guest go on, which runs on another CPU or on this one. */
static void give_way(bool other)
{
	if (other)
		__builtin_ia32_pause();
	else
		sched_yield();
}

/* With an argument on two CPUs, and soon again. */
void row_irqfd(const struct row *row)
{
	struct vm vm;
	struct side sleeper = { &vm, 0, row->arg };
	struct kvm_irqfd irqfd = { .gsi = IRQFD_GSI };
	uint64_t one = 1;

	if (!has_cap(KVM_CAP_IRQFD))
		skip("KVM_CAP_IRQFD is 0");
	stay_on(0);
	irqfd.fd = eventfd(0, EFD_CLOEXEC);
	vm_new(&vm, NULL, 1);
	ram_handler(vm.ram, row->handler);
	route_msi(&vm);
	if (ioctl(vm.fd, KVM_IRQFD, &irqfd))
		skip("KVM_IRQFD: %s", strerror(errno));
	vm_enter_at(&vm, 0, row->entry);
	start_side(&sleeper);
	for (int i = 0; i < 24 || is_forever(); i++) {
		volatile uint64_t *seen = comm(&vm, C_FLAG);
		uint64_t before = *seen, began = tsc(), took;

		if (write(irqfd.fd, &one, sizeof(one)) != sizeof(one))
			skip("write to the eventfd: %s", strerror(errno));
		while (*seen == before)
			give_way(row->arg);
		took = tsc() - began;
		if (i >= WARM_UP)
			sample(took);
		if (row->arg)
			for (began = tsc(); tsc() - began < SOON;)
				give_way(true);
		else
			usleep(1000);
	}
	print_samples(row, "instructions");
}

/* Bit 0 of the row's argument: leave the host's pages absent. */
void row_touch(const struct row *row)
{
	struct row inner = *row;
	struct vm vm;
	uint64_t stride = row->arg & ~1ULL;
	uint8_t *memory = mmap(NULL, 2 * REGION_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		skip("no memory");
	memory = (uint8_t *)(((uintptr_t)memory + 0x1fffff) & ~0x1fffffULL);
	if (madvise(memory, REGION_SIZE, stride > 0x1000 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		skip("madvise: %s", strerror(errno));
	if (!(row->arg & 1))
		for (uint64_t at = 0; at < REGION_SIZE; at += 0x1000)
			memory[at] = 1;
	vm_new(&vm, NULL, 1);
	vm_slot(&vm, 1, REGION, REGION_SIZE, memory);
	*comm(&vm, C_STRIDE) = stride;
	measure(&inner, &vm);
}

static void make(struct vm *vm, uint8_t *ram, bool irqchip)
{
	vm_open(vm, ram);
	if (irqchip)
		vm_irqchip(vm);
	vm_slot(vm, 0, 0, RAM_SIZE, ram);
	vm_vcpu(vm, 0);
	vm_cpuid(vm, 0);
	vm_enter_at(vm, 0, g_done);
	vm_run(vm, 0);
}

static void create_and_destroy(const struct row *row, bool want_destroy)
{
	uint8_t *ram = ram_new();

	for (int i = 0; i < CREATE_ROUNDS || is_forever(); i++) {
		struct vm vm;
		uint64_t began = tsc(), made, gone;

		make(&vm, ram, row->arg);
		made = tsc();
		vm_close(&vm);
		gone = tsc();
		if (i >= WARM_UP)
			sample(want_destroy ? gone - made : made - began);
	}
	print_samples(row, "instructions");
}

void row_create(const struct row *row)
{
	create_and_destroy(row, false);
}

void row_destroy(const struct row *row)
{
	create_and_destroy(row, true);
}

/* The worst lateness of the host's timers since the last call; from then on they are watched. */
static unsigned long worst_lateness(void)
{
	unsigned long worst = 0;
	FILE *f = fopen(WORST, "r+");

	if (!f || fscanf(f, "%lu", &worst) != 1 || fseek(f, 0, SEEK_SET) || fputs("0", f) < 0 || fclose(f))
		skip("%s: %s", WORST, strerror(errno));
	return worst;
}

/* Only where it is looked at, for the timer takes its time. */
static void watch_lateness(void)
{
	int module = open("rvmm_late.ko", O_RDONLY | O_CLOEXEC);

	if (module < 0 || (syscall(SYS_finit_module, module, "", 0)))
		skip("rvmm_late.ko: %s", strerror(errno));
	close(module);
}

static void touch(struct vm *vm, uint64_t bytes, uint64_t stride)
{
	*comm(vm, C_STRIDE) = stride;
	*comm(vm, C_N) = bytes / stride;
	*comm(vm, C_ROUNDS) = 1;
	vm_enter_at(vm, 0, g_touch);
	vm_run(vm, 0);
}

/*
 * The guest writes to every small page of 128 MiB and to every 16th of 2 GiB, which are the same 64 MiB of memory again
 * and again: so there are all the tables for 2 GiB, and full ones among them.
 */
static void fill(struct vm *vm, uint8_t *memory)
{
	vm_new(vm, NULL, 1);
	for (uint64_t at = 0; at < LARGE_REGION; at += REGION_SIZE)
		vm_slot(vm, 1 + at / REGION_SIZE, REGION + at, REGION_SIZE, memory);
	touch(vm, 2 * REGION_SIZE, 0x1000);
	touch(vm, LARGE_REGION, 0x10000);
}

/* How long interrupts are off when 2 GiB of small pages are taken from a guest: the row's argument says how. */
void row_late(const struct row *row)
{
	for (int i = 0; i < LATE_ROUNDS; i++) {
		uint8_t *memory = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		struct vm vm;
		unsigned long worst;

		if (memory == MAP_FAILED || madvise(memory, REGION_SIZE, MADV_NOHUGEPAGE))
			skip("no memory");
		fill(&vm, memory);
		watch_lateness();
		worst_lateness();
		if (row->arg)
			munmap(memory, REGION_SIZE);
		else
			vm_close(&vm);
		worst = worst_lateness();
		if (syscall(SYS_delete_module, "rvmm_late", 0))
			skip("rvmm_late.ko: %s", strerror(errno));
		sample(worst);
		if (row->arg)
			vm_close(&vm);
		else
			munmap(memory, REGION_SIZE);
	}
	print_samples(row, "instructions");
}

static long free_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemFree: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/*
 * After one VM that brings what all share, many, and none is closed before the end, so no memory is used twice: what
 * the kernel keeps in lists for each CPU and does not call free is megabytes.
 */
void row_memory(const struct row *row)
{
	static struct vm vms[IDLE_VMS + 1];
	struct rlimit files = { 16384, 16384 };
	uint8_t *ram = ram_new();
	long before = 0;

	if (setrlimit(RLIMIT_NOFILE, &files))
		skip("setrlimit: %s", strerror(errno));
	for (int i = 0; i <= IDLE_VMS; i++) {
		vm_new(&vms[i], ram, 1);
		vm_enter_at(&vms[i], 0, g_done);
		vm_run(&vms[i], 0);
		if (i == 0) {
			usleep(500000);
			before = free_kib();
		}
	}
	usleep(500000);
	sample((double)(before - free_kib()) / IDLE_VMS);
	print_samples(row, "KiB");
}

/* The process's time on the CPU in nanoseconds, which are instructions of the emulated host. */
static uint64_t worked(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* What the client's process executed, the kernel's part in it, while the guest did its rounds. */
void row_work(const struct row *row)
{
	uint64_t once = 0;

	for (unsigned int i = 0; i < row->rounds + WARM_UP; i++) {
		struct vm vm;
		uint64_t began;

		vm_new(&vm, NULL, 1);
		ram_handler(vm.ram, row->handler);
		*comm(&vm, C_ROUNDS) = 1;
		*comm(&vm, C_N) = i < WARM_UP ? 1 : is_forever() ? 1ULL << 40 : row->n;
		vm_enter_at(&vm, 0, row->entry);
		began = worked();
		vm_run(&vm, 0);
		began = worked() - began;
		if (i < WARM_UP)
			once = began;
		else
			sample((double)(began - once) / (row->n - 1));
		vm_close(&vm);
	}
	print_samples(row, "instructions");
}
