// SPDX-License-Identifier: GPL-2.0
/*
 * The tiny guest: a driver of virtio-blk and virtio-net, and nothing else. The
 * scoreboard's virtio rows are taken with it, and tests that need a driver unlike
 * Linux's. "bench=" of its command line says, comma separated, what it does before it
 * powers the machine off; lines "guest ROW UNIT VALUE…" go to the serial port.
 *   chips                 says what the chips are like at the start
 *   kicks                 flushes, writes and reads of the disk, each with a kick
 *   tiny-blk              reads and writes of the disk
 *   tiny-read             reads of the disk
 *   tiny-net              packets
 *   forever1, forever32   the reads at that depth for ever
 *   forever               sends packets for ever
 *   button                waits until the power button is pressed
 */
#include "tiny.h"

/* The start info of "x86/HVM direct boot ABI", as far as it is of use. */
struct start_info {
	uint32_t magic, version, flags, modules;
	uint64_t module_list, command_line;
};

#define MAGIC 0x336ec578

void tiny_main(const struct start_info *info);

void *memset(void *to, int value, size_t size)
{
	unsigned char *at = to;

	while (size--)
		*at++ = (unsigned char)value;
	return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	unsigned char *at = to;
	const unsigned char *source = from;

	while (size--)
		*at++ = *source++;
	return to;
}

static int begins(const char *text, const char *with)
{
	while (*with && *text == *with)
		text++, with++;
	return !*with;
}

/* Whether the word is one of those after "bench=". */
static int wants(const char *line, const char *word)
{
	while (*line && !begins(line, "bench="))
		line++;
	for (line += *line ? 6 : 0; *line && *line != ' '; line++) {
		size_t length = 0;

		if (!begins(line, word) || (line[-1] != '=' && line[-1] != ','))
			continue;
		while (word[length])
			length++;
		if (!line[length] || line[length] == ',' || line[length] == ' ')
			return 1;
	}
	return 0;
}

void tiny_main(const struct start_info *info)
{
	const char *line;

	begin_row("chips");
	chips_note();
	machine_init();
	if (info->magic != MAGIC)
		die("no start info");
	line = (const char *)(uintptr_t)info->command_line;
	if (wants(line, "chips")) {
		chips_print();
		power_off();
	}
	if (wants(line, "button")) {
		await_power_button();
		power_off();
	}
	if (wants(line, "kicks"))
		kicks();
	if (!blk_init())
		die("no virtio disk");
	if (wants(line, "kicks"))
		blk_kicked();
	if (wants(line, "tiny-blk"))
		blk_rows(wants(line, "forever1") ? 1 : wants(line, "forever32") ? 32 : 0);
	if (wants(line, "tiny-read"))
		blk_read_rows();
	if (wants(line, "tiny-net")) {
		if (!net_init())
			die("no virtio network card");
		net_rows(wants(line, "forever"));
	}
	power_off();
}
