/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the boot guests share. */
#ifndef BOOT_H
#define BOOT_H

#include <stddef.h>
#include <stdint.h>

/* What the registers held at the entry. */
struct entry_state {
	uint32_t eax, ebx, esp, eflags;
};

/* --- print.c --- */

/* "boot: ", then printf of %s, %x with uint32_t and %X with uint64_t arguments, then the end of the line. */
void say(const char *format, ...);
/* Ends the machine. */
_Noreturn void power_off(void);

/* --- one of multiboot.c, openbsd.c, pvh.c --- */

/* Says what the kernel was told. */
void report(const struct entry_state *state);

/* --- main.c --- */

/* A range of the memory map. */
void say_range(uint64_t base, uint64_t size, uint32_t kind);
/* A module: where it is, how large, the sum of its bytes, and what is said to it. */
void say_module(uint32_t start, uint32_t end, const char *text);
/* Whether the bytes sum up to 0 as ACPI has it. */
int sums_up(const void *bytes, uint32_t size);
int is_same(const void *a, const void *b, uint32_t size);

#endif
