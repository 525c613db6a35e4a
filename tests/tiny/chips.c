// SPDX-License-Identifier: GPL-2.0
/*
 * What the chips are like when the kernel starts: firmware leaves them so, and kernels
 * rely on it before they program anything.
 */
#include "tiny.h"

#define PIT_COUNTER	0x40
#define PIT_CONTROL	0x43
#define LATCH		0x00
#define READ_STATUS	0xe2
#define MSR_APIC_BASE	0x1b
#define MSR_MTRR_TYPE	0x2ff
#define LVT_LINT0	0xfee00350
#define LVT_LINT1	0xfee00360

static struct {
	uint16_t count, later;
	uint8_t status, imr[2], cmos[2], kbd, kbd_command, uart[3];
	uint32_t lint[2];
	uint64_t apic_base, mtrr;
} seen;

static uint16_t pit_count(void)
{
	uint8_t low;

	outb(PIT_CONTROL, LATCH);
	low = inb(PIT_COUNTER);
	return (uint16_t)(inb(PIT_COUNTER) << 8 | low);
}

static uint8_t cmos(uint8_t index)
{
	outb(0x70, index);
	return inb(0x71);
}

void chips_note(void)
{
	seen.count = pit_count();
	outb(PIT_CONTROL, READ_STATUS);
	/* The output's level and the count to be taken over come and go. */
	seen.status = inb(PIT_COUNTER) & 0x3f;
	seen.imr[0] = inb(0x21);
	seen.imr[1] = inb(0xa1);
	seen.cmos[0] = cmos(0x0a) & 0x7f;
	seen.cmos[1] = cmos(0x0b);
	seen.kbd = inb(0x64);
	outb(0x64, 0x20);
	seen.kbd_command = inb(0x60);
	seen.uart[0] = inb(0x3f9);
	seen.uart[1] = inb(0x3fb);
	seen.uart[2] = inb(0x3fd);
	seen.lint[0] = *(volatile uint32_t *)LVT_LINT0;
	seen.lint[1] = *(volatile uint32_t *)LVT_LINT1;
	seen.apic_base = rdmsr(MSR_APIC_BASE);
	seen.mtrr = rdmsr(MSR_MTRR_TYPE);
	for (unsigned int i = 0; i < 1000000 && seen.later >= seen.count - 1; i++)
		seen.later = pit_count();
}

void chips_print(void)
{
	print("guest chips pit-counts %s\n", seen.later < seen.count ? "down" : "not");
	print("guest chips pit-status %x\n", (uint64_t)seen.status);
	print("guest chips pic-masks %x %x\n", (uint64_t)seen.imr[0], (uint64_t)seen.imr[1]);
	print("guest chips rtc %x %x\n", (uint64_t)seen.cmos[0], (uint64_t)seen.cmos[1]);
	print("guest chips keyboard %x %x\n", (uint64_t)seen.kbd, (uint64_t)seen.kbd_command);
	print("guest chips uart %x %x %x\n", (uint64_t)seen.uart[0], (uint64_t)seen.uart[1], (uint64_t)seen.uart[2]);
	print("guest chips lint %x %x\n", (uint64_t)seen.lint[0], (uint64_t)seen.lint[1]);
	print("guest chips apic-base %x\n", seen.apic_base);
	print("guest chips mtrr %x\n", seen.mtrr);
}
