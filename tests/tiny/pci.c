// SPDX-License-Identifier: GPL-2.0
/*
 * PCI of the tiny guest: bus 0, by ports 0xcf8 and 0xcfc where they are, else by the
 * configuration window that QEMU's microvm has; no firmware has placed BARs there.
 * Virtio over PCI as in virtio 1.2, "Virtio Over PCI Bus".
 */
#include "tiny.h"

#define ADDRESS		0xcf8
#define DATA		0xcfc
#define ENABLED		0x80000000u
#define MICROVM_ECAM	0xe0000000u
#define MICROVM_WINDOW	0xc0000000u

#define VENDOR_VIRTIO	0x1af4
#define COMMAND		0x04
#define COMMAND_MEMORY_MASTER 6
#define BAR0		0x10
#define SUBSYSTEM	0x2c
#define CAPABILITIES	0x34
#define CAP_VENDOR	0x09
#define CAP_MSIX	0x11
#define MSIX_ENABLE	(1u << 31)

enum { COMMON = 1, NOTIFY = 2, DEVICE = 4 };

static int has_ports(void)
{
	outl(ADDRESS, ENABLED);
	return inl(ADDRESS) == ENABLED;
}

static volatile uint32_t *window(unsigned int slot, unsigned int offset)
{
	return (volatile uint32_t *)(uintptr_t)(MICROVM_ECAM + (slot << 15) + offset);
}

static uint32_t get(unsigned int slot, unsigned int offset)
{
	if (!has_ports())
		return *window(slot, offset);
	outl(ADDRESS, ENABLED | slot << 11 | offset);
	return inl(DATA);
}

static void set(unsigned int slot, unsigned int offset, uint32_t value)
{
	if (!has_ports()) {
		*window(slot, offset) = value;
		return;
	}
	outl(ADDRESS, ENABLED | slot << 11 | offset);
	outl(DATA, value);
}

static uint8_t get8(unsigned int slot, unsigned int offset)
{
	return (uint8_t)(get(slot, offset & ~3u) >> (offset & 3) * 8);
}

/* Gives each memory BAR an address that has none. */
static void place_bars(unsigned int slot)
{
	static uint32_t free = MICROVM_WINDOW;

	for (unsigned int i = 0; i < 6; i++) {
		unsigned int at = BAR0 + 4 * i;
		uint32_t old = get(slot, at), size;
		int is_64;

		set(slot, at, UINT32_MAX);
		size = -(get(slot, at) & ~15u);
		is_64 = (old & 6) == 4;
		if (!(old & 1) && size && !(old & ~15u)) {
			free = (free + size - 1) & -size;
			old = free;
			free += size;
			if (is_64)
				set(slot, at + 4, 0);
		}
		set(slot, at, old);
		i += is_64;
	}
	set(slot, COMMAND, (get(slot, COMMAND) & 0xffff) | COMMAND_MEMORY_MASTER);
}

static volatile uint8_t *bar(unsigned int slot, unsigned int index)
{
	return (volatile uint8_t *)(uintptr_t)(get(slot, BAR0 + 4 * index) & ~15u);
}

static void read_capability(struct device *device, unsigned int at)
{
	unsigned int slot = device->slot;
	uint32_t first = get(slot, at);

	if ((first & 0xff) == CAP_MSIX) {
		uint32_t table = get(slot, at + 4);

		device->msix = (volatile uint32_t *)(bar(slot, table & 7) + (table & ~7u));
		device->msix[0] = 0xfee00000;
		device->msix[1] = 0;
		device->msix[2] = VECTOR_VIRTIO;
		device->msix[3] = 0;
		set(slot, at, (first & ~(1u << 30)) | MSIX_ENABLE);
	} else if ((first & 0xff) == CAP_VENDOR) {
		volatile uint8_t *to = bar(slot, get8(slot, at + 4)) + get(slot, at + 8);

		switch (first >> 24) {
		case COMMON:
			device->common = to;
			break;
		case NOTIFY:
			device->notify = to;
			device->notify_multiplier = get(slot, at + 16);
			break;
		case DEVICE:
			device->config = to;
			break;
		}
	}
}

int pci_find(unsigned int virtio_id, struct device *device)
{
	for (unsigned int slot = 0; slot < 32; slot++) {
		uint32_t id = get(slot, 0);
		/* A transitional device says in its subsystem what it is. */
		uint32_t is = id >> 16 >= 0x1040 ? (id >> 16) - 0x1040 : get(slot, SUBSYSTEM) >> 16;

		if ((id & 0xffff) != VENDOR_VIRTIO || is != virtio_id)
			continue;
		*device = (struct device){ .slot = slot };
		place_bars(slot);
		for (unsigned int at = get8(slot, CAPABILITIES); at; at = get8(slot, at + 1))
			read_capability(device, at);
		return device->common && device->notify && device->msix;
	}
	return 0;
}
