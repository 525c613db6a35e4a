// SPDX-License-Identifier: GPL-2.0
/*
 * A driver that kicks for every request, wanted or not, as the simplest ones do: the wish not to be notified
 * is one that a driver may ignore. It flushes the disk, which no vCPU does by itself: what a kick makes one
 * try is left to the worker, while the next kick comes already.
 */
#include "tiny.h"

#define VIRTIO_BLK	2
#define F_FLUSH		(1ull << 9)
#define T_FLUSH		4
/* Requests in a row that come alone, after which they are left to the vCPU's own thread. */
#define ALONE		8
#define TOGETHER	3
#define ROUNDS		200
#define PATIENCE	1000000000

struct request {
	uint32_t type, reserved;
	uint64_t sector;
	uint8_t status;
};

static struct device device;
static struct queue queue;
static struct ring_memory ring;
static struct request requests[TOGETHER];

static void start(void)
{
	if (!pci_find(VIRTIO_BLK, &device))
		die("no virtio disk");
	if (!(virtio_begin(&device, F_FLUSH) & F_FLUSH))
		die("the disk has no FLUSH");
	virtio_queue(&device, 0, &queue, &ring);
	virtio_ready(&device);
	for (uint16_t i = 0; i < TOGETHER; i++) {
		requests[i].type = T_FLUSH;
		ring.descriptors[2 * i] = (struct descriptor){ (uintptr_t)&requests[i], 16, F_NEXT,
							       (uint16_t)(2 * i + 1) };
		ring.descriptors[2 * i + 1] = (struct descriptor){ (uintptr_t)&requests[i].status, 1, F_WRITE, 0 };
	}
}

/* `number` requests, each with a kick of its own; all have ended when it returns. */
static void flush(unsigned int number)
{
	uint64_t until = tsc() + PATIENCE;
	unsigned int ended = 0;

	for (uint16_t i = 0; i < number; i++) {
		requests[i].status = 0xff;
		queue_add(&queue, (uint16_t)(2 * i));
		queue_kick(&queue);
	}
	while (ended < number) {
		uint32_t length;
		int head = queue_next(&queue, &length);

		if (head >= 0) {
			ended++;
			continue;
		}
		if (tsc() >= until)
			die("a request was lost");
		alarm(PATIENCE / 8);
		queue_wait(&queue, 1);
	}
	for (unsigned int i = 0; i < number; i++)
		if (*(volatile uint8_t *)&requests[i].status)
			die("a request failed");
}

void kicks(void)
{
	begin_row("kicks");
	start();
	for (unsigned int i = 0; i < ROUNDS; i++) {
		for (unsigned int j = 0; i % 16 == 0 && j < ALONE; j++)
			flush(1);
		flush(TOGETHER);
	}
	print("guest kicks: %u rounds\n", (uint64_t)ROUNDS);
}
