// SPDX-License-Identifier: GPL-2.0
/* What a kernel is told that is entered by its PVH note. */
#include "boot.h"

struct start_info {
	uint32_t magic, version, flags, module_count;
	uint64_t modules, command_line, rsdp, map;
	uint32_t ranges, reserved;
};

struct module {
	uint64_t base, size, command_line, reserved;
};

struct range {
	uint64_t base, size;
	uint32_t kind, reserved;
};

static const char *text(uint64_t at)
{
	return at ? (const char *)(uint32_t)at : "";
}

void report(const struct entry_state *state)
{
	const struct start_info *info = (const struct start_info *)state->ebx;
	const struct module *modules = (const struct module *)(uint32_t)info->modules;
	const struct range *map = (const struct range *)(uint32_t)info->map;

	say("PVH magic %x version %x", info->magic, info->version);
	say("command line '%s'", text(info->command_line));
	for (unsigned int i = 0; i < info->ranges; i++)
		say_range(map[i].base, map[i].size, map[i].kind);
	for (unsigned int i = 0; i < info->module_count; i++)
		say_module((uint32_t)modules[i].base, (uint32_t)(modules[i].base + modules[i].size),
			   text(modules[i].command_line));
	say("RSDP told at %X", info->rsdp);
}
