// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps a different value in PKRU in two threads while both are scheduled and
 * the guest exits; says "pku ok" when it never changed, "pku none" on a CPU
 * without protection keys.
 */
#include <cpuid.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>

enum { ROUNDS = 300 };

static uint32_t rdpkru(void)
{
	uint32_t a, d;

	asm volatile("rdpkru" : "=a"(a), "=d"(d) : "c"(0));
	return a;
}

static void wrpkru(uint32_t value)
{
	asm volatile("wrpkru" : : "a"(value), "c"(0), "d"(0));
}

static void *hold(void *arg)
{
	/* Key 0 stays usable: it is the key of everything here. */
	uint32_t want = (uint32_t)(uintptr_t)arg * 0x24924924u & ~3u;

	wrpkru(want);
	for (int round = 0; round < ROUNDS; round++) {
		uint32_t a = 0, b, c = 0, d;

		/* CPUID exits to the hypervisor; system call 24 is sched_yield. */
		asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
		asm volatile("syscall" : "=a"(a) : "a"(24) : "rcx", "r11", "memory");
		if (rdpkru() != want)
			return (void *)1;
	}
	return NULL;
}

int main(void)
{
	uint32_t a, b, c, d;
	pthread_t threads[2];
	void *bad = NULL;

	/* CPUID.7:ECX.OSPKE. */
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(c & 1 << 4)) {
		puts("pku none");
		return 0;
	}
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, hold, (void *)(i + 1));
	for (int i = 0; i < 2; i++) {
		void *result;

		pthread_join(threads[i], &result);
		bad = bad ? bad : result;
	}
	puts(bad ? "pku changed" : "pku ok");
	return bad != NULL;
}
