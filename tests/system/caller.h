// SPDX-License-Identifier: GPL-2.0
/*
 * What callers of the module have in common: results, a machine, its devices, and a driver of a disk in it.
 */
#ifndef CALLER_H
#define CALLER_H

#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rvmm_abi.h"

#define MEMORY		(1 << 20)
#define CODE		0x1000
#define QUEUE		0x4000	/* descriptors of the disk's queue */
#define WINDOW		0x5000	/* what is available in it, and the request: 512 bytes */
#define USED		0x6000
#define STATUS		0x7000
#define BAR		0xc0000000u
#define RING		16

static int results, failed;

static inline void check(const char *name, bool good)
{
	printf("%sok %d %s\n", good ? "" : "not ", ++results, name);
	failed += !good;
}

static inline void skip(const char *name, const char *why)
{
	printf("ok %d %s # SKIP %s\n", ++results, name, why);
}

static inline int must(int ret, const char *what)
{
	if (ret < 0)
		err(2, "%s", what);
	return ret;
}

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Returns whether a child of ours ends within so many seconds. */
static inline bool ends_within(pid_t pid, double seconds, int *status)
{
	for (double end = now() + seconds; ; usleep(5000)) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		if (now() > end)
			return false;
	}
}

struct machine { int vm, vcpu; struct kvm_run *run; uint8_t *memory; };

/* A machine with one vCPU whose guest does what `code` says. */
static inline struct machine make_guest(const void *code, size_t bytes, bool irqchip)
{
	int node = must(open("/dev/rvmm", O_RDWR | O_CLOEXEC), "/dev/rvmm");
	struct machine m = { .vm = must(ioctl(node, KVM_CREATE_VM, 0), "KVM_CREATE_VM") };
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_userspace_memory_region slot = { .memory_size = MEMORY };
	struct kvm_sregs sregs;

	m.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	slot.userspace_addr = (uintptr_t)m.memory;
	memcpy(m.memory + CODE, code, bytes);
	must(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	if (irqchip)
		must(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	m.vcpu = must(ioctl(m.vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	m.run = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
	must(ioctl(m.vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	must(ioctl(m.vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(m.vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	close(node);
	return m;
}

/* Puts a device into the machine. Returns its fd. */
static inline int add(const struct machine *m, uint32_t type, const void *config)
{
	struct kvm_create_device d = { .type = type };
	struct kvm_device_attr a = { .group = RVMM_GROUP_CONFIG, .addr = (uintptr_t)config };

	must(ioctl(m->vm, KVM_CREATE_DEVICE, &d), "KVM_CREATE_DEVICE");
	must(ioctl(d.fd, KVM_SET_DEVICE_ATTR, &a), "KVM_SET_DEVICE_ATTR");
	return d.fd;
}

static inline void add_bus(const struct machine *m)
{
	close(add(m, RVMM_DEV_PCI_HOST, &(struct rvmm_pci_host_config){ BAR, 0x10000000 }));
}

/* Puts a disk into slot 1 of the bus. Returns its fd. */
static inline int add_disk(const struct machine *m, int fd)
{
	return add(m, RVMM_DEV_VIRTIO_BLK, &(struct rvmm_virtio_blk_config){ .fd = fd, .slot = 1 });
}

/* What a sector, or the memory at first, says: `n` requests were made available, the last of which reads sector `n` - 1. */
static inline void fill_window(uint8_t *to, uint32_t n)
{
	memset(to, 0, 512);
	memcpy(to + 2, &n, 2);			/* the index; each entry is chain 0 */
	memcpy(to + 0x100 + 8, &(uint32_t){ (n - 1) & 0xffff }, 4);	/* the request: read, the sector */
}

/* A store of an immediate, in flat protected mode. */
static inline uint8_t *store(uint8_t *at, int width, uint32_t address, uint32_t value)
{
	if (width == 2)
		*at++ = 0x66;
	*at++ = width == 1 ? 0xc6 : 0xc7;
	*at++ = 0x05;
	memcpy(at, &address, 4);
	memcpy(at + 4, &value, width);
	return at + 4 + width;
}

/* mov edx, port; mov eax, value; out dx, eax */
static inline uint8_t *out(uint8_t *at, uint32_t port, uint32_t value)
{
	*at++ = 0xba;
	memcpy(at, &port, 4);
	at[4] = 0xb8;
	memcpy(at + 5, &value, 4);
	at[9] = 0xef;
	return at + 10;
}

/*
 * Lets the guest bring its disk up, with one request available: to read sector 0 to WINDOW. (Virtio 1.2, "Device
 * Initialization"; where the structures lie in the BAR is the module's choice.) Then the guest has ended in a triple fault.
 */
static inline void drive_disk(const struct machine *m)
{
	struct { uint64_t address; uint32_t bytes; uint16_t flags, next; } chain[3] = {
		{ WINDOW + 0x100, 16, 1, 1 }, { WINDOW, 512, 3, 2 }, { STATUS, 1, 2, 0 },
	};
	static const struct { uint8_t width; uint16_t at; uint32_t value; } common[] = {
		{ 1, 0x14, 0 }, { 1, 0x14, 3 }, { 4, 0x08, 0 }, { 4, 0x0c, 0 }, { 4, 0x08, 1 }, { 4, 0x0c, 1 }, { 1, 0x14, 0xb },
		{ 2, 0x16, 0 }, { 2, 0x18, RING }, { 4, 0x20, QUEUE }, { 4, 0x28, WINDOW }, { 4, 0x30, USED }, { 2, 0x1c, 1 },
		{ 1, 0x14, 0xf }, { 2, 0x3000, 0 },
	};
	struct kvm_segment code = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 };
	struct kvm_segment data = code;
	struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
	struct kvm_sregs sregs;
	uint8_t *at = m->memory + CODE;

	memcpy(m->memory + QUEUE, chain, sizeof(chain));
	fill_window(m->memory + WINDOW, 1);
	/* The address of the first BAR, then memory accesses and bus mastering. */
	at = out(out(at, 0xcf8, 0x80000810), 0xcfc, BAR);
	at = out(out(at, 0xcf8, 0x80000804), 0xcfc, 6);
	for (unsigned int i = 0; i < sizeof(common) / sizeof(*common); i++)
		at = store(at, common[i].width, BAR + common[i].at, common[i].value);
	memcpy(at, "\x0f\x0b", 2);

	data.selector = 16;
	data.type = 3;
	must(ioctl(m->vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 |= 1;
	sregs.idt.limit = 0;
	must(ioctl(m->vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(m->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	must(ioctl(m->vcpu, KVM_RUN, 0), "KVM_RUN");
	if (m->run->exit_reason != KVM_EXIT_SHUTDOWN)
		errx(2, "the driver ended with %u", m->run->exit_reason);
}

#endif
