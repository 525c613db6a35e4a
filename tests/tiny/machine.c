// SPDX-License-Identifier: GPL-2.0
/* The tiny guest's processor, its interrupts, time, serial port and end. */
#include <stdarg.h>

#include "tiny.h"

#define MSR_APIC_BASE		0x1b
#define APIC_X2APIC_ENABLED	(3 << 10)
#define MSR_TSC_DEADLINE	0x6e0
#define X2APIC_SPURIOUS		0x80f
#define X2APIC_LVT_TIMER	0x832
#define X2APIC_LVT_LINT0	0x835
#define LVT_MASKED		(1 << 16)
#define LVT_TSC_DEADLINE	(2 << 17)
#define CPUID1_X2APIC		(1u << 21)
#define CPUID1_TSC_DEADLINE	(1u << 24)
#define KVM_FEATURES		0x40000001
#define KVM_FEATURE_PV_EOI	(1u << 6)
#define MSR_KVM_PV_EOI_EN	0x4b564d04
#define COM1			0x3f8
#define COM1_LSR		0x3fd
#define PM1A_STATUS		0x600
#define PM1_POWER_BUTTON	(1 << 8)
#define PM1A_CONTROL		0x604
#define PM1_S5			(5 << 10 | 1 << 13)

/* Instructions from one look at the power button to the next. */
#define BETWEEN_LOOKS		5000000

#define VECTORS 256

struct gate {
	uint16_t low, selector, type, middle;
	uint32_t high, zero;
};

void on_virtio(void), on_timer(void), on_exception(void);

volatile uint64_t virtio_interrupts, timer_interrupts;
/* Bit 0: the hypervisor takes the end of the interrupt from here. */
volatile uint32_t pv_eoi __attribute__((aligned(64)));
/* The row that is being measured. */
static const char *doing = "start";
static struct gate idt[VECTORS] __attribute__((aligned(16)));

uint64_t tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
	return (uint64_t)high << 32 | low;
}

static uint32_t cpuid(uint32_t leaf, char which)
{
	uint32_t a = leaf, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return which == 'a' ? a : which == 'b' ? b : c;
}

static void set_gate(unsigned int vector, void (*to)(void))
{
	uint64_t at = (uintptr_t)to;

	idt[vector] = (struct gate){ (uint16_t)at, 0x08, 0x8e00, (uint16_t)(at >> 16), (uint32_t)(at >> 32), 0 };
}

void machine_init(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = { sizeof(idt) - 1, (uintptr_t)idt };
	uint32_t has = cpuid(1, 'c');

	for (unsigned int i = 0; i < 32; i++)
		set_gate(i, on_exception);
	set_gate(VECTOR_VIRTIO, on_virtio);
	set_gate(VECTOR_TIMER, on_timer);
	__asm__ volatile("lidt %0" : : "m"(pointer));
	if (!(has & CPUID1_X2APIC) || !(has & CPUID1_TSC_DEADLINE))
		die("no x2APIC or no TSC deadline");
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_X2APIC_ENABLED);
	wrmsr(X2APIC_SPURIOUS, 0x1ff);
	wrmsr(X2APIC_LVT_LINT0, LVT_MASKED);
	wrmsr(X2APIC_LVT_TIMER, LVT_TSC_DEADLINE | VECTOR_TIMER);
	if (cpuid(0x40000000, 'b') == 0x4b4d564b && cpuid(KVM_FEATURES, 'a') & KVM_FEATURE_PV_EOI)
		wrmsr(MSR_KVM_PV_EOI_EN, (uintptr_t)&pv_eoi | 1);
	interrupts_on();
}

uint64_t alarm(uint64_t instructions)
{
	uint64_t until = tsc() + instructions;

	wrmsr(MSR_TSC_DEADLINE, until);
	return until;
}

void sleep(uint64_t instructions)
{
	uint64_t until = alarm(instructions);

	for (;;) {
		interrupts_off();
		if (tsc() >= until)
			break;
		halt();
	}
	interrupts_on();
}

static void put(char c)
{
	if (c == '\n')
		put('\r');
	while (!(inb(COM1_LSR) & 0x20))
		;
	outb(COM1, (uint8_t)c);
}

/* At least `digits` of them. */
static void number(uint64_t value, unsigned int base, unsigned int digits)
{
	char text[20];
	unsigned int n = 0;

	do {
		text[n++] = "0123456789abcdef"[value % base];
		value /= base;
	} while (value || n < digits);
	while (n)
		put(text[--n]);
}

void print(const char *format, ...)
{
	va_list values;

	va_start(values, format);
	for (; *format; format++) {
		if (*format != '%') {
			put(*format);
			continue;
		}
		switch (*++format) {
		case 's':
			for (const char *s = va_arg(values, const char *); *s; s++)
				put(*s);
			break;
		case 'x':
			number(va_arg(values, uint64_t), 16, 1);
			break;
		default:
			number(va_arg(values, uint64_t), 10, 1);
		}
	}
	va_end(values);
}

void figures(const char *row, const char *suffix, const char *unit, const uint64_t *values, unsigned int count)
{
	print("guest %s%s %s", row, suffix, unit);
	for (unsigned int i = 0; i < count; i++) {
		put(' ');
		number(values[i] / 1000, 10, 1);
		put('.');
		number(values[i] % 1000, 10, 3);
	}
	put('\n');
}

void await_power_button(void)
{
	print("guest waits for its power button\n");
	while (!(inw(PM1A_STATUS) & PM1_POWER_BUTTON))
		sleep(BETWEEN_LOOKS);
}

_Noreturn void power_off(void)
{
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) nothing = { 0, 0 };

	__asm__ volatile("outw %w0, %w1" : : "a"(PM1_S5), "d"(PM1A_CONTROL));
	/* Where that port is not the one: a triple fault, a reset on a PC. */
	__asm__ volatile("lidt %0; int3" : : "m"(nothing));
	for (;;)
		;
}

void begin_row(const char *name)
{
	doing = name;
}

_Noreturn void die(const char *why)
{
	print("tiny guest: %s: %s\n", doing, why);
	power_off();
}

_Noreturn void tiny_exception(const uint64_t *stack);

_Noreturn void tiny_exception(const uint64_t *stack)
{
	print("exception; stack: %x %x %x %x\n", stack[0], stack[1], stack[2], stack[3]);
	die("exception");
}
