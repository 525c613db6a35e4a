// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that the host takes away from a guest while its slots change, or while the guest faults it in. Whatever comes
 * first, the guest must not find the old page afterwards.
 * Usage: slot-races NODE aliases|deletion|move|faults TRIES; prints how many tries left the guest with an old page, exit
 * code 0 when none did. Or: slot-races NODE crowd SLOTS; exit code 0 when the time grows no faster than the slots.
 *
 * aliases   one page, shown by many slots, goes while another slot that shows it is deleted
 * deletion  a slot's memory is unmapped while the slot is deleted
 * move      the same while the slot is moved to another guest address
 * faults    a page is replaced again and again while the guest reads it
 * crowd     one page goes that a guest has mapped through many slots
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE		4096u
#define RAM		0x100000u
#define CODE		0x1000u
#define RESULTS		0x20000u	/* what the guest read */
#define ROUNDS		0x30000u	/* how often it read all */
#define SHOWN		0x1000000u	/* where the memory is shown that goes */
#define ELSEWHERE	0x2000000u	/* where its slot moves to */
#define ALIASES		200u
#define PAGES		256u		/* of a slot that is deleted */

static int vm, vcpu;
static struct kvm_run *run;
static uint8_t *ram;

static long must(long result, const char *what)
{
	if (result < 0)
		err(2, "%s", what);
	return result;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void slot(uint32_t id, uint64_t gpa, uint64_t bytes, void *memory)
{
	struct kvm_userspace_memory_region region = {
		.slot = id, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)memory,
	};

	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

static void *memory(size_t bytes)
{
	void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (m == MAP_FAILED || madvise(m, bytes, MADV_NOHUGEPAGE))
		err(2, "mmap");
	return m;
}

static uint32_t word(const void *at)
{
	return *(const volatile uint32_t *)at;
}

static void put32(uint8_t **code, uint32_t value)
{
	memcpy(*code, &value, 4);
	*code += 4;
}

static void put(uint8_t **code, const void *bytes, size_t n)
{
	memcpy(*code, bytes, n);
	*code += n;
}

/*
 * A guest that copies a word of each of `pages` pages from SHOWN on to RESULTS and counts its rounds, which it ends with
 * HLT if `halts`.
 */
static void make_guest(const char *node, unsigned int pages, bool halts)
{
	struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 };
	struct kvm_segment data = code;
	struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rsp = 0x8000 };
	struct kvm_sregs sregs;
	int kvm = must(open(node, O_RDWR | O_CLOEXEC), node);
	uint8_t *at;

	vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	ram = memory(RAM);
	slot(0, 0, RAM, ram);
	vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	close(kvm);

	at = ram + CODE;
	put(&at, "\xbe", 1), put32(&at, SHOWN);				/* mov esi */
	put(&at, "\xbf", 1), put32(&at, RESULTS);			/* mov edi */
	put(&at, "\xb9", 1), put32(&at, pages);				/* mov ecx */
	put(&at, "\x8b\x06\x89\x07", 4);				/* mov eax, [esi]; mov [edi], eax */
	put(&at, "\x81\xc6", 2), put32(&at, PAGE);			/* add esi */
	put(&at, "\x83\xc7\x04\xe2\xf1", 5);				/* add edi, 4; loop */
	put(&at, "\xff\x05", 2), put32(&at, ROUNDS);			/* inc [] */
	put(&at, halts ? "\xf4" : "\x90", 1);				/* hlt or nop */
	put(&at, "\xeb", 1);						/* jmp to the start */
	*at = CODE - (at + 1 - ram);

	data.selector = 16;
	data.type = 3;
	must(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 |= 1;
	must(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void run_once(void)
{
	must(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
	if (run->exit_reason != KVM_EXIT_HLT)
		errx(2, "exit reason %u", run->exit_reason);
}

static void *run_on(void *unused)
{
	(void)unused;
	ioctl(vcpu, KVM_RUN, 0);
	return NULL;
}

/* One who changes a slot when told so: `turn` is the number of the try, `done` that of the last change. */
static _Atomic int turn, done;
static int delay;
static uint64_t new_place;
static void *shown;

static void *change_slots(void *arg)
{
	size_t bytes = *(size_t *)arg;

	for (int k = 0; k >= 0; done = k) {
		while (turn == k)
			sched_yield();
		k = turn;
		for (volatile int i = 0; i < delay; i++)
			;
		slot(1, new_place ? new_place : SHOWN, new_place ? bytes : 0, shown);
	}
	return NULL;
}

static void start_changing(size_t *bytes)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, change_slots, bytes))
		err(2, "pthread_create");
}

static int aliases(const char *node, int tries)
{
	static size_t bytes = PAGE;
	int old = 0;

	make_guest(node, ALIASES, true);
	shown = memory(PAGE);
	for (unsigned int i = 0; i < ALIASES; i++)
		slot(1 + i, SHOWN + i * PAGE, PAGE, shown);
	start_changing(&bytes);
	for (int k = 1; k <= tries; k++) {
		uint32_t after = 0x20000000 + k;
		bool is_old = false;

		*(volatile uint32_t *)shown = 0x10000000 + k;
		run_once();
		delay = k * 37 % 4000;
		turn = k;
		for (volatile int i = 0; i < k * 53 % 2000; i++)
			;
		madvise(shown, PAGE, MADV_DONTNEED);
		while (done != k)
			sched_yield();
		*(volatile uint32_t *)shown = after;
		slot(1, SHOWN, PAGE, shown);
		run_once();
		for (unsigned int i = 0; i < ALIASES; i++)
			is_old |= word(ram + RESULTS + 4 * i) != after;
		old += is_old;
	}
	return old;
}

/* The guest reads on and on; after munmap() it must not get far. */
static int unmap_beside(const char *node, int tries)
{
	static size_t bytes = PAGES * PAGE;
	pthread_t guest;
	int old = 0;

	for (int k = 1; k <= tries; k++) {
		uint32_t rounds;

		make_guest(node, PAGES, false);
		shown = memory(bytes);
		memset(shown, 1, bytes);
		slot(1, SHOWN, bytes, shown);
		if (pthread_create(&guest, NULL, run_on, NULL))
			err(2, "pthread_create");
		while (word(ram + ROUNDS) < 10)
			sched_yield();
		if (k == 1)
			start_changing(&bytes);
		turn = k;
		usleep(500 * (k % 8));
		munmap(shown, bytes);
		/* It may end the round that it is in, no more: its next access leaves it. */
		rounds = word(ram + ROUNDS);
		while (word(ram + ROUNDS) < rounds + 2 && done != k)
			sched_yield();
		old += word(ram + ROUNDS) >= rounds + 2;
		while (done != k)
			sched_yield();
		pthread_join(guest, NULL);
		munmap(ram, RAM);
		close(vcpu);
		close(vm);
	}
	return old;
}

static int faults(const char *node, int tries)
{
	pthread_t guest;
	int old = 0;

	make_guest(node, 1, false);
	shown = memory(PAGE);
	slot(1, SHOWN, PAGE, shown);
	if (pthread_create(&guest, NULL, run_on, NULL))
		err(2, "pthread_create");
	for (int k = 1; k <= tries && !old; k++) {
		double end = now() + 5;

		madvise(shown, PAGE, MADV_DONTNEED);
		*(volatile uint32_t *)shown = k;
		while (word(ram + RESULTS) != (uint32_t)k && now() < end)
			sched_yield();
		old += word(ram + RESULTS) != (uint32_t)k;
	}
	return old;
}

/* Returns the least time, in seconds, in which a page goes that a guest has mapped through `slots` slots. */
static double time_of_loss(const char *node, unsigned int slots)
{
	double least = 1e9;

	make_guest(node, slots, true);
	shown = memory(PAGE);
	for (unsigned int i = 0; i < slots; i++)
		slot(1 + i, SHOWN + i * PAGE, PAGE, shown);
	for (uint32_t k = 1; k <= 5; k++) {
		double began, took;

		*(volatile uint32_t *)shown = k;
		run_once();
		if (word(ram + RESULTS) != k || word(ram + RESULTS + 4 * (slots - 1)) != k)
			errx(1, "the guest does not see the page");
		began = now();
		madvise(shown, PAGE, MADV_DONTNEED);
		took = now() - began;
		least = took < least ? took : least;
	}
	munmap(ram, RAM);
	munmap(shown, PAGE);
	close(vcpu);
	close(vm);
	return least;
}

static int crowd(const char *node, unsigned int slots)
{
	double few = time_of_loss(node, slots / 8), all = time_of_loss(node, slots);

	printf("crowd: a page goes in %.2f ms with %u slots, in %.2f ms with %u\n", few * 1e3, slots / 8, all * 1e3, slots);
	/* 8 times as long where the work is linear, 64 times where every slot looks at all. */
	return all > 20 * few;
}

int main(int argc, char **argv)
{
	int tries, old;

	if (argc != 4)
		errx(2, "usage: slot-races NODE aliases|deletion|move|faults|crowd NUMBER");
	tries = atoi(argv[3]);
	if (!strcmp(argv[2], "crowd")) {
		int is_slow = crowd(argv[1], tries);

		fflush(stdout);
		_exit(is_slow);
	}
	new_place = strcmp(argv[2], "move") ? 0 : ELSEWHERE;
	if (!strcmp(argv[2], "aliases"))
		old = aliases(argv[1], tries);
	else if (!strcmp(argv[2], "faults"))
		old = faults(argv[1], tries);
	else
		old = unmap_beside(argv[1], tries);
	printf("%s: %d of %d tries left the guest with an old page\n", argv[2], old, tries);
	fflush(stdout);
	_exit(old != 0);
}
