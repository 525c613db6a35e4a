// SPDX-License-Identifier: GPL-2.0
/* The first serial port, and the end of the machine. */
#include <stdarg.h>

#include "boot.h"

#define COM1		0x3f8
#define COM1_LSR	0x3fd
#define PM1A_CONTROL	0x604
#define PM1_S5		(5 << 10 | 1 << 13)

static void put(char c)
{
	uint8_t status;

	if (c == '\n')
		put('\r');
	do
		__asm__ volatile("inb %w1, %0" : "=a"(status) : "d"(COM1_LSR));
	while (!(status & 0x20));
	__asm__ volatile("outb %0, %w1" : : "a"(c), "d"(COM1));
}

static void text(const char *s)
{
	while (*s)
		put(*s++);
}

static void number(uint64_t value)
{
	int shift = 60;

	while (shift && !(value >> shift))
		shift -= 4;
	for (; shift >= 0; shift -= 4)
		put("0123456789abcdef"[value >> shift & 15]);
}

void say(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	text("boot: ");
	for (; *format; format++) {
		if (*format != '%')
			put(*format);
		else if (*++format == 's')
			text(va_arg(values, const char *));
		else
			number(*format == 'X' ? va_arg(values, uint64_t) : va_arg(values, uint32_t));
	}
	put('\n');
	va_end(values);
}

_Noreturn void power_off(void)
{
	__asm__ volatile("outw %w0, %w1" : : "a"(PM1_S5), "d"(PM1A_CONTROL));
	for (;;)
		__asm__ volatile("hlt");
}
