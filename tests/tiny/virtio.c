// SPDX-License-Identifier: GPL-2.0
/* Set-up of a virtio device and its split queues with event indices (virtio 1.2, "Split Virtqueues"). */
#include "tiny.h"

#define STATUS_ACKNOWLEDGE	1
#define STATUS_DRIVER		2
#define STATUS_DRIVER_OK	4
#define STATUS_FEATURES_OK	8
#define F_EVENT_IDX		(1ull << 29)
#define F_VERSION_1		(1ull << 32)

/* Offsets in the common configuration. */
enum {
	DEVICE_SELECT = 0, DEVICE_FEATURES = 4, DRIVER_SELECT = 8, DRIVER_FEATURES = 12, CONFIG_VECTOR = 16,
	STATUS = 20, QUEUE_SELECT = 22, QUEUE_SIZE = 24, QUEUE_VECTOR = 26, QUEUE_ENABLE = 28, QUEUE_NOTIFY = 30,
	QUEUE_DESCRIPTORS = 32, QUEUE_DRIVER = 40, QUEUE_DEVICE = 48,
};

static volatile uint32_t *at32(struct device *device, unsigned int offset)
{
	return (volatile uint32_t *)(device->common + offset);
}

static volatile uint16_t *at16(struct device *device, unsigned int offset)
{
	return (volatile uint16_t *)(device->common + offset);
}

static void set64(struct device *device, unsigned int offset, volatile void *to)
{
	*at32(device, offset) = (uint32_t)(uintptr_t)to;
	*at32(device, offset + 4) = (uint32_t)((uintptr_t)to >> 32);
}

uint64_t virtio_begin(struct device *device, uint64_t wanted)
{
	uint64_t features;

	device->common[STATUS] = 0;
	while (device->common[STATUS])
		;
	device->common[STATUS] = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
	*at32(device, DEVICE_SELECT) = 0;
	features = *at32(device, DEVICE_FEATURES);
	*at32(device, DEVICE_SELECT) = 1;
	features |= (uint64_t)*at32(device, DEVICE_FEATURES) << 32;
	features &= wanted | F_VERSION_1 | F_EVENT_IDX;
	if (!(features & F_VERSION_1) || !(features & F_EVENT_IDX))
		die("the device lacks VERSION_1 or EVENT_IDX");
	*at32(device, DRIVER_SELECT) = 0;
	*at32(device, DRIVER_FEATURES) = (uint32_t)features;
	*at32(device, DRIVER_SELECT) = 1;
	*at32(device, DRIVER_FEATURES) = (uint32_t)(features >> 32);
	device->common[STATUS] = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;
	if (!(device->common[STATUS] & STATUS_FEATURES_OK))
		die("the device does not take the features");
	*at16(device, CONFIG_VECTOR) = UINT16_MAX;
	return features;
}

void virtio_queue(struct device *device, uint16_t number, struct queue *queue, struct ring_memory *memory)
{
	*at16(device, QUEUE_SELECT) = number;
	*queue = (struct queue){ memory->descriptors, &memory->avail, &memory->used, NULL, number, RING, 0, 0, 0, 0 };
	if (*at16(device, QUEUE_SIZE) < RING)
		die("the queue is too small");
	*at16(device, QUEUE_SIZE) = RING;
	*at16(device, QUEUE_VECTOR) = 0;
	if (*at16(device, QUEUE_VECTOR) != 0)
		die("no vector for the queue");
	queue->doorbell = (volatile uint16_t *)(device->notify +
						*at16(device, QUEUE_NOTIFY) * device->notify_multiplier);
	set64(device, QUEUE_DESCRIPTORS, memory->descriptors);
	set64(device, QUEUE_DRIVER, &memory->avail);
	set64(device, QUEUE_DEVICE, &memory->used);
	*at16(device, QUEUE_ENABLE) = 1;
}

void virtio_ready(struct device *device)
{
	device->common[STATUS] = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
}

void queue_add(struct queue *queue, uint16_t head)
{
	queue->avail->ring[queue->filled++ % RING] = head;
}

void queue_publish(struct queue *queue)
{
	uint16_t before = queue->published;

	if (before == queue->filled)
		return;
	queue->published = queue->filled;
	__asm__ volatile("" : : : "memory");
	queue->avail->idx = queue->published;
	fence();
	/* The device wants a kick when the index passes its event. */
	if ((uint16_t)(queue->published - queue->used->avail_event - 1) < (uint16_t)(queue->published - before)) {
		queue->kicks++;
		*queue->doorbell = queue->number;
	}
}

void queue_kick(struct queue *queue)
{
	queue->published = queue->filled;
	__asm__ volatile("" : : : "memory");
	queue->avail->idx = queue->published;
	queue->kicks++;
	*queue->doorbell = queue->number;
}

int queue_next(struct queue *queue, uint32_t *length)
{
	uint16_t at = queue->seen % RING;

	if (queue->used->idx == queue->seen)
		return -1;
	queue->seen++;
	*length = queue->used->ring[at].length;
	return (int)queue->used->ring[at].id;
}

void queue_wait(struct queue *queue, uint16_t more)
{
	/* An interrupt when used->idx becomes seen + more. */
	queue->avail->used_event = (uint16_t)(queue->seen + more - 1);
	fence();
	if ((uint16_t)(queue->used->idx - queue->seen) >= more)
		return;
	interrupts_off();
	if ((uint16_t)(queue->used->idx - queue->seen) < more)
		halt();
	else
		interrupts_on();
}
