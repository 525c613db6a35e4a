// SPDX-License-Identifier: GPL-2.0
/* What a kernel of OpenBSD is told: on the stack, in boot arguments and behind its bss. */
#include "boot.h"

#define ARG_MEMMAP	0
#define ARG_CONSDEV	5
#define ARG_BOOTDUID	9
#define ARG_END		-1

#define SHT_SYMTAB	2

/* What the entry finds on the stack. */
struct stack {
	uint32_t back, howto, device, version, esym, extended, conventional, size;
	const uint8_t *args;
};

struct record {
	int32_t kind;
	uint32_t size, next;
};

struct range {
	uint64_t base, size;
	uint32_t kind;
} __attribute__((packed));

#ifdef AMD64
typedef uint64_t word;
#else
typedef uint32_t word;
#endif

/* The headers of an ELF file of the kernel's class. */
struct file_header {
	uint8_t ident[16];
	uint16_t type, machine;
	uint32_t version;
	word entry, programs, sections;
	uint32_t flags;
	uint16_t size, program_size, program_count, section_size, section_count, names;
};

struct section {
	uint32_t name, type;
	word flags, address, offset, size;
	uint32_t link, info;
	word align, entry_size;
};

#ifdef AMD64
struct symbol {
	uint32_t name;
	uint8_t info, other;
	uint16_t section;
	word value, size;
};
#else
struct symbol {
	uint32_t name;
	word value, size;
	uint8_t info, other;
	uint16_t section;
};
#endif

extern const uint8_t kernel_bss_end[];
void start(void);

static uint8_t seed[64] __attribute__((section(".openbsd.randomdata")));

static void report_seed(void)
{
	unsigned int filled = 0;

	/* Of 64 random bytes hardly more than a few are zero. */
	for (unsigned int i = 0; i < sizeof(seed); i++)
		filled += ((volatile uint8_t *)seed)[i] != 0;
	say("seed %s", filled > 48 ? "random" : "empty");
}

static void report_symbols(const uint8_t *esym)
{
	const uint8_t *from = kernel_bss_end;
	const struct file_header *file = (const struct file_header *)from;
	const struct section *sections = (const struct section *)(from + file->sections);

	if (!esym) {
		say("no symbols");
		return;
	}
	say("symbols: ELF %s, program headers %x, section headers %s", is_same(file->ident, "\177ELF", 4) ? "yes" : "no",
	    (uint32_t)file->program_count, file->sections == sizeof(*file) ? "behind it" : "elsewhere");
	for (unsigned int i = 0; i < file->section_count; i++) {
		const struct section *table = &sections[i], *names = &sections[table->link];
		const uint8_t *end = from + names->offset + names->size;

		if (table->type != SHT_SYMTAB)
			continue;
		say("symbols: aligned %s, end before esym %s",
		    table->offset % sizeof(word) || names->offset % sizeof(word) ? "no" : "yes",
		    from + table->offset + table->size <= esym && end <= esym ? "yes" : "no");
		for (unsigned int n = 0; n < table->size / sizeof(struct symbol); n++) {
			const struct symbol *symbol = (const struct symbol *)(from + table->offset) + n;

			if (is_same(from + names->offset + symbol->name, "report", 7))
				say("symbol report is %s", symbol->value == (word)(uint32_t)report ? "right" : "wrong");
		}
	}
}

static void report_record(const struct record *record)
{
	const uint32_t *words = (const uint32_t *)(record + 1);

	switch (record->kind) {
	case ARG_MEMMAP:
		for (const struct range *range = (const struct range *)words; range->kind; range++)
			say_range(range->base, range->size, range->kind);
		break;
	case ARG_CONSDEV:
		say("console device %x speed %x address %x", words[0], words[1], words[2]);
#ifdef AMD64
		say("console address high %x clock %x flags %x width %x shift %x", words[3], words[4], words[5], words[6],
		    words[7]);
#endif
		break;
	case ARG_BOOTDUID:
		say("boot disk %x %x", __builtin_bswap32(words[0]), __builtin_bswap32(words[1]));
		break;
	default:
		say("record %x", (uint32_t)record->kind);
	}
}

void report(const struct entry_state *state)
{
	const struct stack *stack = (const struct stack *)state->esp;
	const uint8_t *at = stack->args;

	say("OpenBSD howto %x device %x version %x", stack->howto, stack->device, stack->version);
	say("extended %x conventional %x", stack->extended, stack->conventional);
	for (;;) {
		const struct record *record = (const struct record *)at;

		if (record->kind == ARG_END) {
			at += record->size;
			say("records end %s, in one page %s", at == stack->args + stack->size ? "where they say" : "elsewhere",
			    ((uint32_t)stack->args & 0xfff) + stack->size <= 0x1000 ? "yes" : "no");
			break;
		}
		report_record(record);
		at += record->size;
	}
	report_seed();
	report_symbols((const uint8_t *)stack->esym);
}
