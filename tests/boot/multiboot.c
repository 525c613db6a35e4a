// SPDX-License-Identifier: GPL-2.0
/* What a kernel of multiboot is told, in either version. */
#include "boot.h"

#define MAGIC_1 0x2badb002
#define MAGIC_2 0x36d76289

struct info_1 {
	uint32_t flags, lower, upper, boot_device;
	const char *command_line;
	uint32_t module_count;
	const struct module_1 {
		uint32_t start, end;
		const char *text;
		uint32_t reserved;
	} *modules;
	uint32_t symbols[4];
	uint32_t map_size;
	const uint8_t *map;
	uint32_t drives[2], configuration;
	const char *loader;
};

struct range_1 {
	uint32_t size;
	uint64_t base, length;
	uint32_t kind;
} __attribute__((packed));

struct tag {
	uint32_t kind, size;
	union {
		char text[1];
		struct {
			uint32_t start, end;
			char text[1];
		} module;
		struct {
			uint32_t lower, upper;
		} memory;
		struct {
			uint32_t size, version;
			struct range_2 {
				uint64_t base, length;
				uint32_t kind, reserved;
			} ranges[1];
		} map;
		uint8_t rsdp[1];
		uint32_t load_base;
	} of;
};

static void report_1(const struct info_1 *info)
{
	say("multiboot 1 flags %x memory %x %x", info->flags, info->lower, info->upper);
	say("command line '%s'", info->command_line);
	say("loader '%s'", info->loader);
	for (const uint8_t *at = info->map; at < info->map + info->map_size;) {
		const struct range_1 *range = (const struct range_1 *)at;

		say_range(range->base, range->length, range->kind);
		at += range->size + 4;
	}
	for (unsigned int i = 0; i < info->module_count; i++)
		say_module(info->modules[i].start, info->modules[i].end, info->modules[i].text);
}

static void report_tag(const struct tag *tag)
{
	switch (tag->kind) {
	case 1:
		say("command line '%s'", tag->of.text);
		break;
	case 2:
		say("loader '%s'", tag->of.text);
		break;
	case 3:
		say_module(tag->of.module.start, tag->of.module.end, tag->of.module.text);
		break;
	case 4:
		say("multiboot 2 memory %x %x", tag->of.memory.lower, tag->of.memory.upper);
		break;
	case 6:
		for (const struct range_2 *range = tag->of.map.ranges;
		     (const uint8_t *)range < (const uint8_t *)tag + tag->size; range++)
			say_range(range->base, range->length, range->kind);
		break;
	case 14:
	case 15:
		say("RSDP of tag %x size %x sum %s, as in the BIOS's area %s", tag->kind, tag->size - 8,
		    sums_up(tag->of.rsdp, tag->kind == 14 ? 20 : 36) ? "good" : "bad",
		    is_same(tag->of.rsdp, (const void *)0xe0000, tag->size - 8) ? "yes" : "no");
		break;
	case 21:
		say("load base %x", tag->of.load_base);
		break;
	default:
		say("tag %x size %x", tag->kind, tag->size);
	}
}

static void report_2(const uint32_t *info)
{
	const uint8_t *at = (const uint8_t *)(info + 2), *end = (const uint8_t *)info + info[0];

	for (;;) {
		const struct tag *tag = (const struct tag *)at;

		if (!tag->kind) {
			say("the tags end %s", at + 8 == end && tag->size == 8 ? "where they say" : "elsewhere");
			return;
		}
		report_tag(tag);
		at += (tag->size + 7) & ~7u;
	}
}

void report(const struct entry_state *state)
{
	say("magic %x", state->eax);
	if (state->eax == MAGIC_1)
		report_1((const struct info_1 *)state->ebx);
	else if (state->eax == MAGIC_2)
		report_2((const uint32_t *)state->ebx);
}
