// SPDX-License-Identifier: GPL-2.0
/*
 * Guests that say on the first serial port what a loader gave them, one for each
 * protocol and shape of file, and power off. Each line begins with "boot: "; numbers
 * are hexadecimal.
 */
#include "boot.h"

#define CR0_PE 1
#define CR0_PG (1u << 31)

/* A kernel's memory behind its file's contents, which a loader leaves zero. */
static uint32_t zeroes[4096];

void boot_main(struct entry_state state);

void *memset(void *to, int value, size_t size)
{
	unsigned char *at = to;

	while (size--)
		*at++ = (unsigned char)value;
	return to;
}

void say_range(uint64_t base, uint64_t size, uint32_t kind)
{
	say("range %X size %X kind %x", base, size, kind);
}

static uint8_t sum(const void *bytes, uint32_t size)
{
	const uint8_t *at = bytes;
	uint8_t sum = 0;

	while (size--)
		sum = (uint8_t)(sum + *at++);
	return sum;
}

int sums_up(const void *bytes, uint32_t size)
{
	return sum(bytes, size) == 0;
}

int is_same(const void *a, const void *b, uint32_t size)
{
	const uint8_t *p = a, *q = b;

	while (size && *p == *q)
		p++, q++, size--;
	return !size;
}

void say_module(uint32_t start, uint32_t end, const char *text)
{
	uint32_t size = end - start;

	say("module size %x sum %x page offset %x text '%s'", size, (uint32_t)sum((const void *)start, size),
	    start & 0xfff, text);
}

/* Finds ACPI's tables as a kernel does that is told nothing of them, by both of their lists. */
static void say_acpi(void)
{
	for (const uint8_t *at = (const uint8_t *)0xe0000; at < (const uint8_t *)0x100000; at += 16) {
		const uint32_t *words = (const uint32_t *)at;
		const uint8_t *rsdt = (const uint8_t *)words[4], *xsdt = (const uint8_t *)words[6];

		if (!is_same(at, "RSD PTR ", 8) || !sums_up(at, 20))
			continue;
		say("RSDP at %x revision %x, RSDT %s, XSDT %s", (uint32_t)at, (uint32_t)at[15],
		    is_same(rsdt, "RSDT", 4) && sums_up(rsdt, ((const uint32_t *)rsdt)[1]) ? "good" : "bad",
		    is_same(xsdt, "XSDT", 4) && sums_up(xsdt, ((const uint32_t *)xsdt)[1]) ? "good" : "bad");
		return;
	}
	say("no RSDP");
}

/* That the processor is in flat 32-bit protected mode without paging: segments can be loaded anew. */
static void say_mode(uint32_t eflags)
{
	uint32_t cr0, limit, ds;

	__asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
	__asm__ volatile("mov %%ds, %0" : "=r"(ds));
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(ds) : "memory");
	__asm__ volatile("lsl %1, %0" : "=r"(limit) : "r"(ds));
	say("protected %x paging %x interrupts %x limit %x", cr0 & CR0_PE, (cr0 & CR0_PG) >> 31, eflags >> 9 & 1,
	    limit);
}

void boot_main(struct entry_state state)
{
	uint32_t dirty = 0;

	say_mode(state.eflags);
	for (unsigned int i = 0; i < sizeof(zeroes) / sizeof(*zeroes); i++)
		dirty |= ((volatile uint32_t *)zeroes)[i];
	say("bss %s", dirty ? "dirty" : "zero");
	report(&state);
	say_acpi();
	say("done");
	power_off();
}
