/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the tiny guest share. */
#ifndef TINY_H
#define TINY_H

#define X2APIC_EOI	0x80b

#define VECTOR_VIRTIO	0x40
#define VECTOR_TIMER	0x41

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

/* --- chips.c: what firmware would have left --- */

/* Looks at the chips, before anybody touches them. */
void chips_note(void);
/* Says what they were like: "guest chips NAME VALUE". */
void chips_print(void);

/* --- machine.c: processor, serial port, time --- */

extern volatile uint64_t virtio_interrupts, timer_interrupts;

/* Instructions of host and guest so far. */
uint64_t tsc(void);
/* Prepares interrupts; fails loudly where x2APIC or the TSC deadline is missing. */
void machine_init(void);
/* Interrupts the guest after so many, once. Returns when that is. */
uint64_t alarm(uint64_t instructions);
/* Lets `instructions` pass, halted. */
void sleep(uint64_t instructions);
/* printf of %s, %u and %x with uint64_t arguments. */
void print(const char *format, ...);
/* "guest ROW+SUFFIX UNIT VALUE…" with three digits after the point: `values` are in thousandths. */
void figures(const char *row, const char *suffix, const char *unit, const uint64_t *values, unsigned int number);
/* Names the row that fails if die() comes next. */
void begin_row(const char *name);
/* Says what is wrong, and in which row, and ends the machine. */
_Noreturn void die(const char *why);
/* Waits, halted most of the time, until the power button is pressed. */
void await_power_button(void);
/* Ends the machine. */
_Noreturn void power_off(void);

static inline void outb(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void outl(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void wrmsr(uint32_t index, uint64_t value)
{
	__asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t rdmsr(uint32_t index)
{
	uint32_t low, high;

	__asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
	return (uint64_t)high << 32 | low;
}

/* Nothing moves over it, not even a load before a store. */
static inline void fence(void)
{
	__asm__ volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
}

static inline void interrupts_off(void)
{
	__asm__ volatile("cli" : : : "memory");
}

static inline void interrupts_on(void)
{
	__asm__ volatile("sti" : : : "memory");
}

/* With interrupts off: halts until one comes, and leaves them on. None is lost in between. */
static inline void halt(void)
{
	__asm__ volatile("sti; hlt" : : : "memory");
}

/* --- pci.c --- */

/* A modern virtio device and where its registers are. */
struct device {
	unsigned int slot;
	volatile uint8_t *common, *notify, *config;
	volatile uint32_t *msix;
	uint32_t notify_multiplier;
};

/* Finds the first device with this virtio id, gives it addresses and sends its vector 0 to VECTOR_VIRTIO. 0: none. */
int pci_find(unsigned int virtio_id, struct device *device);

/* --- virtio.c --- */

#define RING 256

struct descriptor {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

#define F_NEXT 1
#define F_WRITE 2

struct avail {
	uint16_t flags, idx, ring[RING], used_event;
};

struct used {
	uint16_t flags, idx;
	struct {
		uint32_t id, length;
	} ring[RING];
	uint16_t avail_event;
};

struct queue {
	struct descriptor *descriptors;
	volatile struct avail *avail;
	volatile struct used *used;
	volatile uint16_t *doorbell;
	uint16_t number, size, filled, published, seen;
	uint64_t kicks;
};

/* Memory of one queue. */
struct ring_memory {
	struct descriptor descriptors[RING] __attribute__((aligned(4096)));
	struct avail avail __attribute__((aligned(4096)));
	struct used used __attribute__((aligned(4096)));
};

/* Resets the device and agrees on `wanted` beside VERSION_1 and EVENT_IDX. Returns what was agreed on. */
uint64_t virtio_begin(struct device *device, uint64_t wanted);
void virtio_queue(struct device *device, uint16_t number, struct queue *queue, struct ring_memory *memory);
void virtio_ready(struct device *device);
/* Puts the chain that begins with descriptor `head` into the ring; publish() shows it to the device. */
void queue_add(struct queue *queue, uint16_t head);
/* Shows what was added, and kicks if the device wants that. */
void queue_publish(struct queue *queue);
/* Shows what was added, and kicks in any case. */
void queue_kick(struct queue *queue);
/* The id of the next chain that the device has ended, or -1; its bytes. */
int queue_next(struct queue *queue, uint32_t *length);
/* Sleeps until the device has ended `more` chains beyond those that were seen, or spuriously. */
void queue_wait(struct queue *queue, uint16_t more);

/* --- blk.c, net.c, kicks.c --- */

int blk_init(void);
/* Tells the host's watcher by the disk's first byte that a row begins or has ended, and gives it time to look. */
void mark(char letter);
/* The rows; with `forever` (1 or 32) reads at that depth for ever. */
void blk_rows(unsigned int forever);
/* The rows of reads alone. */
void blk_read_rows(void);
/* Writes and reads with a kick each, and checks the data. */
void blk_kicked(void);
int net_init(void);
void net_rows(int forever);
/* Flushes with more kicks than the device asks for. */
void kicks(void);

#endif
#endif
