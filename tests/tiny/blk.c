// SPDX-License-Identifier: GPL-2.0
/*
 * The rows of the disk. Every sector of a block carries a tag: the block's number, how
 * often it was written, and the sector's number. Reads are checked by all eight tags of
 * their block; after each row of writes, all of the disk is read back.
 */
#include "tiny.h"

#define VIRTIO_BLK	2
#define F_FLUSH		(1ull << 9)
#define T_IN		0
#define T_OUT		1
#define BLOCK		4096
#define SECTOR		512
#define SECTORS		(BLOCK / SECTOR)
#define BLOCKS		8192
#define DEEPEST		32
#define ROUNDS		10
#define WARM_UP		2
#define PER_ROUND	256
/* How long the host's watcher needs to see a mark and read the counters. */
#define LOOK		60000000

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

/* A request's own memory; descriptors 3 n to 3 n + 2 are those of slot n. */
struct slot {
	struct header header;
	uint8_t status;
	unsigned int block;
};

static struct device device;
static struct queue queue;
static struct ring_memory ring;
static struct slot slots[DEEPEST];
static uint64_t data[DEEPEST][BLOCK / 8] __attribute__((aligned(BLOCK)));
static uint16_t generation[BLOCKS];
static unsigned int place;

int blk_init(void)
{
	if (!pci_find(VIRTIO_BLK, &device))
		return 0;
	/* Without FLUSH, QEMU would write through. */
	virtio_begin(&device, F_FLUSH);
	virtio_queue(&device, 0, &queue, &ring);
	virtio_ready(&device);
	if (*(volatile uint32_t *)device.config < BLOCKS * SECTORS)
		die("the disk is too small");
	for (uint16_t i = 0; i < DEEPEST; i++) {
		struct descriptor *chain = &ring.descriptors[3 * i];

		chain[0] = (struct descriptor){ (uintptr_t)&slots[i].header, sizeof(struct header), F_NEXT,
						(uint16_t)(3 * i + 1) };
		chain[1] = (struct descriptor){ (uintptr_t)data[i], BLOCK, F_NEXT, (uint16_t)(3 * i + 2) };
		chain[2] = (struct descriptor){ (uintptr_t)&slots[i].status, 1, F_WRITE, 0 };
	}
	return 1;
}

static uint64_t tag(unsigned int block, unsigned int sector)
{
	return (uint64_t)generation[block] << 32 | block << 8 | sector;
}

/* All blocks but the first, each once, in an order that looks like chance, then again. */
static unsigned int next_place(void)
{
	do
		place = (place * 1229 + 3571) % BLOCKS;
	while (!place);
	return place;
}

static void set_direction(uint32_t type)
{
	for (unsigned int i = 0; i < DEEPEST; i++) {
		slots[i].header.type = type;
		ring.descriptors[3 * i + 1].flags = type == T_IN ? F_NEXT | F_WRITE : F_NEXT;
	}
}

static void add(unsigned int slot, uint32_t type, unsigned int block)
{
	slots[slot].block = block;
	slots[slot].status = 0xff;
	slots[slot].header.sector = (uint64_t)block * SECTORS;
	if (type == T_OUT) {
		generation[block]++;
		for (unsigned int i = 0; i < SECTORS; i++)
			data[slot][i * SECTOR / 8] = tag(block, i);
	}
	queue_add(&queue, (uint16_t)(3 * slot));
}

/* The slot of the next request that has ended, or -1. */
static int reap(uint32_t type)
{
	uint32_t length;
	int head = queue_next(&queue, &length);
	unsigned int slot = (unsigned int)head / 3;
	volatile uint8_t *status = &slots[slot % DEEPEST].status;

	if (head < 0)
		return -1;
	if (slot >= DEEPEST || head % 3 || *status || length != (type == T_IN ? BLOCK + 1 : 1))
		die("a request failed");
	if (type == T_IN)
		for (unsigned int i = 0; i < SECTORS; i++)
			if (data[slot][i * SECTOR / 8] != tag(slots[slot].block, i))
				die("wrong data were read");
	return (int)slot;
}

/*
 * `number` requests at `depth`, the places by `next`; all have ended when it returns. With `kicks` every request has
 * one of its own, whether the device asks for it or not.
 */
static inline __attribute__((always_inline)) void run_with(uint32_t type, unsigned int depth, uint64_t number,
							   unsigned int (*next)(void), uint64_t *rounds, int kicks)
{
	uint64_t begun = depth, ended = 0, before = tsc();

	for (unsigned int i = 0; i < depth; i++) {
		add(i, type, next());
		if (kicks)
			queue_kick(&queue);
	}
	queue_publish(&queue);
	while (ended < number) {
		int slot = reap(type);

		if (slot < 0) {
			queue_publish(&queue);
			queue_wait(&queue, 1);
			continue;
		}
		ended++;
		if (begun < number) {
			begun++;
			add((unsigned int)slot, type, next());
			if (kicks)
				queue_kick(&queue);
		}
		if (rounds && ended % PER_ROUND == 0) {
			uint64_t now = tsc();

			*rounds++ = (now - before) * 1000 / PER_ROUND;
			before = now;
		}
	}
}

static void run(uint32_t type, unsigned int depth, uint64_t number, unsigned int (*next)(void), uint64_t *rounds)
{
	run_with(type, depth, number, next, rounds, 0);
}

static void run_kicked(uint32_t type, unsigned int depth, uint64_t number)
{
	set_direction(type);
	run_with(type, depth, number, next_place, NULL, 1);
}

static unsigned int scan_at;

static unsigned int scan(void)
{
	return scan_at = scan_at % (BLOCKS - 1) + 1;
}

/* Every block but the first, in order. */
static void whole_disk(uint32_t type)
{
	set_direction(type);
	scan_at = 0;
	run(type, DEEPEST, BLOCKS - 1, scan, NULL);
}

void mark(char letter)
{
	uint32_t length;

	set_direction(T_OUT);
	slots[0].header.sector = 0;
	slots[0].status = 0xff;
	*(volatile char *)data[0] = letter;
	queue_add(&queue, 0);
	queue_publish(&queue);
	while (queue_next(&queue, &length) < 0)
		queue_wait(&queue, 1);
	sleep(LOOK);
}

static void row(const char *name, uint32_t type, unsigned int depth, char letter)
{
	uint64_t rounds[ROUNDS - WARM_UP], interrupts, kicks;
	const uint64_t number = (ROUNDS - WARM_UP) * PER_ROUND;

	begin_row(name);
	set_direction(type);
	run(type, depth, WARM_UP * PER_ROUND, next_place, NULL);
	mark(letter);
	set_direction(type);
	interrupts = virtio_interrupts;
	kicks = queue.kicks;
	run(type, depth, number, next_place, rounds);
	interrupts = (virtio_interrupts - interrupts) * 1000 / number;
	kicks = (queue.kicks - kicks) * 1000 / number;
	mark((char)(letter - 'a' + 'A'));
	if (type == T_OUT)
		whole_disk(T_IN);
	figures(name, "", "instructions", rounds, ROUNDS - WARM_UP);
	figures(name, "-irqs", "interrupts", &interrupts, 1);
	figures(name, "-kicks", "kicks", &kicks, 1);
}

void blk_kicked(void)
{
	begin_row("kicked");
	whole_disk(T_OUT);
	for (unsigned int depth = 1; depth <= 4; depth++) {
		run_kicked(T_OUT, depth, PER_ROUND);
		run_kicked(T_IN, depth, 4 * PER_ROUND);
	}
	whole_disk(T_IN);
	print("guest kicked: the data are right\n");
}

static void fill(void)
{
	whole_disk(T_OUT);
	whole_disk(T_IN);
}

static void read_rows(void)
{
	row("blk-4k-read-depth-1", T_IN, 1, 'a');
	row("blk-4k-read-depth-32", T_IN, DEEPEST, 'b');
}

void blk_read_rows(void)
{
	fill();
	read_rows();
}

void blk_rows(unsigned int forever)
{
	fill();
	if (forever) {
		mark(forever == 1 ? 'a' : 'b');
		set_direction(T_IN);
		run(T_IN, forever, UINT64_MAX, next_place, NULL);
	}
	read_rows();
	row("blk-4k-write-depth-1", T_OUT, 1, 'c');
	row("blk-4k-write-depth-32", T_OUT, DEEPEST, 'd');
}
