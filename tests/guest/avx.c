// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps a different value in every YMM register of two threads while both are
 * scheduled and the guest exits; says "avx ok" when no register ever changed,
 * "avx none" on a CPU without AVX.
 */
#include <cpuid.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { ROUNDS = 300, REGISTERS = 8 };

__attribute__((target("avx"))) static void *hold(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	uint64_t want[REGISTERS][4], got[REGISTERS][4];

	for (int i = 0; i < REGISTERS; i++)
		for (int j = 0; j < 4; j++)
			want[i][j] = seed * 0x9e3779b97f4a7c15ull + i * 4 + j;
	for (int round = 0; round < ROUNDS; round++) {
		uint32_t a = 0, c = 0;

		/* CPUID exits to the hypervisor with the registers loaded. */
		asm volatile("vmovdqu 0(%2), %%ymm0\n\tvmovdqu 32(%2), %%ymm1\n\t"
			     "vmovdqu 64(%2), %%ymm2\n\tvmovdqu 96(%2), %%ymm3\n\t"
			     "vmovdqu 128(%2), %%ymm12\n\tvmovdqu 160(%2), %%ymm13\n\t"
			     "vmovdqu 192(%2), %%ymm14\n\tvmovdqu 224(%2), %%ymm15\n\t"
			     "mov $2000, %%r8d\n1:\tdec %%r8d\n\tjnz 1b\n\t"
			     "cpuid\n\t"
			     "mov $24, %%eax\n\tsyscall\n\t"
			     "vmovdqu %%ymm0, 0(%3)\n\tvmovdqu %%ymm1, 32(%3)\n\t"
			     "vmovdqu %%ymm2, 64(%3)\n\tvmovdqu %%ymm3, 96(%3)\n\t"
			     "vmovdqu %%ymm12, 128(%3)\n\tvmovdqu %%ymm13, 160(%3)\n\t"
			     "vmovdqu %%ymm14, 192(%3)\n\tvmovdqu %%ymm15, 224(%3)\n\t"
			     : "+a"(a), "+c"(c)
			     : "r"(want), "r"(got)
			     : "rbx", "rdx", "r8", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3",
			       "xmm12", "xmm13", "xmm14", "xmm15");
		if (memcmp(want, got, sizeof(want)))
			return (void *)1;
	}
	return NULL;
}

int main(void)
{
	uint32_t a, b, c, d;
	pthread_t threads[2];
	void *bad = NULL;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_AVX) || !(c & bit_OSXSAVE)) {
		puts("avx none");
		return 0;
	}
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, hold, (void *)(i + 1));
	for (int i = 0; i < 2; i++) {
		void *result;

		pthread_join(threads[i], &result);
		bad = bad ? bad : result;
	}
	puts(bad ? "avx changed" : "avx ok");
	return bad != NULL;
}
