// SPDX-License-Identifier: GPL-2.0
/*
 * Guests of two hypervisors take turns on one CPU, and on another one from time to time. Each reads and
 * writes the same addresses as all others, and has its own memory behind them; what it reads must be its own.
 * Usage: two-tlbs NODE COUNT NODE COUNT ROUNDS; exit code 0 when every value was right.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { PAGES = 16, FIRST = 2, BYTES = PAGES * 4096, MOST = 64, ROUNDS_ON_A_CPU = 50 };

/*
 * again: mov $0x2000, %si
 * next:  lodsb; out %al, $0x80; incw 1(%si); add $0xfff, %si; jns next; jmp again
 * It reads the first byte of every page from FIRST on (the last one is in front of 0x8000), gives it to port
 * 0x80, and counts in the page.
 */
static const uint8_t code[] = {
	0xbe, 0x00, 0x20, 0xac, 0xe6, 0x80, 0xff, 0x44, 0x01, 0x81, 0xc6, 0xff, 0x0f, 0x79, 0xf4, 0xeb, 0xef,
};
enum { TURNS = 6 };

struct guest {
	int vcpu;
	struct kvm_run *run;
	uint8_t *ram;
	uint8_t mark;
	unsigned int reads;
};

static void make(struct guest *g, int node, uint8_t mark)
{
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_userspace_memory_region slot = { .memory_size = BYTES };
	struct kvm_sregs sregs;
	int vm = ioctl(node, KVM_CREATE_VM, 0), size = ioctl(node, KVM_GET_VCPU_MMAP_SIZE, 0);

	g->mark = mark;
	g->ram = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->ram == MAP_FAILED)
		err(2, "mmap");
	for (int page = FIRST; page < PAGES; page++)
		g->ram[page * 4096] = mark;
	memcpy(g->ram + 0x1000, code, sizeof(code));
	slot.userspace_addr = (uintptr_t)g->ram;
	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))
		err(2, "a VM with memory");
	g->vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (g->vcpu < 0 || ioctl(g->vcpu, KVM_GET_SREGS, &sregs))
		err(2, "a vCPU");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(g->vcpu, KVM_SET_SREGS, &sregs) || ioctl(g->vcpu, KVM_SET_REGS, &regs))
		err(2, "registers");
	g->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
	if (g->run == MAP_FAILED)
		err(2, "mmap of kvm_run");
}

/* Lets a guest read one page. */
static void turn(struct guest *g)
{
	uint8_t got;

	if (ioctl(g->vcpu, KVM_RUN, 0))
		err(2, "KVM_RUN");
	if (g->run->exit_reason != KVM_EXIT_IO || g->run->io.port != 0x80)
		errx(1, "guest %u: exit reason %u", g->mark, g->run->exit_reason);
	got = *((uint8_t *)g->run + g->run->io.data_offset);
	if (got != g->mark)
		errx(1, "guest %u reads the memory of %u", g->mark, got);
	g->reads++;
}

/* Looks whether a guest has counted in all its pages, and nobody else has. */
static void look(const struct guest *g)
{
	for (unsigned int page = FIRST; page < 8; page++) {
		/* What was read last is counted by the next run. */
		unsigned int want = (g->reads - 1 + TURNS - (page - FIRST) - 1) / TURNS, got;

		got = *(uint16_t *)(g->ram + page * 4096 + 2);
		if (got != (want & 0xffff))
			errx(1, "guest %u: %u counts in page %u, not %u", g->mark, got, page, want);
	}
}

/* Goes to the next CPU of those that there are. */
static void move(const cpu_set_t *all)
{
	static int cpu = -1;
	cpu_set_t one;

	do
		cpu = (cpu + 1) % CPU_SETSIZE;
	while (!CPU_ISSET(cpu, all));
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		err(2, "sched_setaffinity");
}

int main(int argc, char **argv)
{
	static struct guest guests[MOST];
	unsigned int count = 0, rounds;
	cpu_set_t all;

	if (argc != 6)
		errx(2, "usage: two-tlbs NODE COUNT NODE COUNT ROUNDS");
	rounds = strtoul(argv[5], NULL, 0);
	if (sched_getaffinity(0, sizeof(all), &all))
		err(2, "sched_getaffinity");
	for (int i = 1; i < 5; i += 2) {
		int node = open(argv[i], O_RDWR | O_CLOEXEC);

		if (node < 0)
			err(2, "%s", argv[i]);
		for (unsigned long n = strtoul(argv[i + 1], NULL, 0); n && count < MOST; n--, count++)
			make(&guests[count], node, count + 1);
	}
	/* Neighbours differ from round to round, so that everybody follows everybody. */
	for (unsigned int round = 0; round < rounds; round++) {
		if (round % ROUNDS_ON_A_CPU == 0)
			move(&all);
		for (unsigned int i = 0; i < count; i++)
			turn(&guests[(i * (round % 2 ? 1 : count - 1) + round) % count]);
	}
	for (unsigned int i = 0; i < count; i++)
		look(&guests[i]);
	printf("%u guests, %u rounds\n", count, rounds);
	return 0;
}
