// SPDX-License-Identifier: GPL-2.0
/* The list of rows, and how the guest's own figures become samples. */
#include "rows.h"
#include "guest.h"
#include "vm.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define DEFAULT_N 16
#define DEFAULT_ROUNDS 24

static double samples[MAX_ROUNDS];
static unsigned int count;

bool is_forever(void)
{
	return getenv("RVMM_BENCH_FOREVER");
}

void sample(double value)
{
	if (count < MAX_ROUNDS)
		samples[count++] = value;
}

void print_samples(const struct row *row, const char *unit)
{
	printf("row %s %s", row->name, unit);
	for (unsigned int i = 0; i < count; i++)
		printf(" %.2f", samples[i]);
	printf("\n");
}

void measure(const struct row *row, struct vm *vm)
{
	unsigned int n = row->n ? row->n : DEFAULT_N, rounds = row->rounds ? row->rounds : DEFAULT_ROUNDS;

	*comm(vm, C_N) = is_forever() ? 1ULL << 40 : n;
	*comm(vm, C_ROUNDS) = rounds;
	if (row->handler)
		ram_handler(vm->ram, row->handler);
	vm_enter_at(vm, 0, row->entry);
	vm_run(vm, 0);
	for (unsigned int i = WARM_UP; i < rounds; i++) {
		int64_t all = *comm(vm, C_SAMPLES + 8 * i);

		if (!row->is_sum)
			all -= *comm(vm, C_EMPTY);
		sample((double)all / n / (row->per ? row->per : 1));
	}
	print_samples(row, "instructions");
}

void open_vms(unsigned int number)
{
	while (number--) {
		struct vm other;

		vm_new(&other, NULL, 1);
		vm_enter_at(&other, 0, g_done);
		vm_run(&other, 0);
	}
}

/* VMs and memory slots that are only there. */
static void add_company(const struct row *row, struct vm *vm)
{
	void *page = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	open_vms(row->vms);
	for (unsigned int i = 1; i < row->slots; i++)
		vm_slot(vm, i, SPARE_SLOTS + i * 0x2000ULL, 0x1000, page);
}

static void row_guest(const struct row *row)
{
	struct vm vm;

	vm_new(&vm, NULL, 1);
	add_company(row, &vm);
	*comm(&vm, C_LEAF) = row->arg;
	measure(row, &vm);
}

#define LOOP(row_name, symbol, ...) { .name = row_name, .run = row_guest, .entry = symbol, ##__VA_ARGS__ }
#define SUM(row_name, symbol, h, ...) \
	{ .name = row_name, .run = row_guest, .entry = symbol, .handler = h, .is_sum = true, ##__VA_ARGS__ }
#define HOST(row_name, function, ...) { .name = row_name, .run = function, ##__VA_ARGS__ }
#define MIB2 0x200000

const struct row rows[] = {
	LOOP("cpuid", g_cpuid),
	LOOP("cpuid-late-leaf", g_cpuid, .arg = 0x80000008),
	LOOP("rdmsr", g_rdmsr),
	LOOP("wrmsr", g_wrmsr),
	LOOP("hypercall", g_hypercall),
	LOOP("pio-read-61", g_pio_read),
	LOOP("pio-write-61", g_port61_write),
	LOOP("pit-read", g_pit_read),
	LOOP("pit-write", g_pit_write),
	LOOP("lapic-read", g_lapic_read),
	LOOP("lapic-write", g_lapic_write),
	LOOP("ioapic-read", g_ioapic_read),
	LOOP("ioapic-write", g_ioapic_write),
	SUM("self-ipi-x2apic", g_self_ipi, h_since_r8),
	SUM("self-ipi-xapic", g_self_ipi_xapic, h_since_r8_xapic),
	SUM("eoi-x2apic", g_self_ipi, h_eoi_x2apic),
	SUM("eoi-xapic", g_self_ipi_xapic, h_eoi_xapic),
	HOST("hlt-ipi-wake", row_ping, .entry = g_ping, .handler = h_ping, .n = 8, .per = 2),
	HOST("hlt-ipi-wake-2-cpus", row_ping, .entry = g_ping, .handler = h_ping, .n = 8, .per = 2, .arg = 1),
	LOOP("timer-arm", g_timer_arm),
	SUM("timer-passed", g_timer_now, h_since_r8),
	SUM("timer-late-running", g_timer_spin, h_since_r8),
	SUM("timer-late-hlt", g_timer_hlt, h_since_r8),
	HOST("timer-hlt-work", row_work, .entry = g_timer_hlt, .handler = h_since_r8, .n = 100, .rounds = 10),
	LOOP("user-pio-in", g_user_in),
	LOOP("user-pio-out", g_user_out),
	LOOP("user-mmio-read", g_user_read),
	LOOP("user-mmio-write", g_user_write),
	LOOP("user-outsb-64", g_user_outsb, .n = 1, .rounds = 8),
	HOST("ioeventfd-pio", row_ioeventfd, .entry = g_kick_port),
	HOST("ioeventfd-mmio", row_ioeventfd, .entry = g_kick_mmio, .arg = KICK_MMIO),
	HOST("irqfd-hlt", row_irqfd, .entry = g_sleep, .handler = h_count),
	HOST("irqfd-hlt-2-cpus", row_irqfd, .entry = g_sleep, .handler = h_count, .arg = 1),
	HOST("touch-4k", row_touch, .entry = g_touch, .arg = 0x1000),
	HOST("touch-4k-absent", row_touch, .entry = g_touch, .arg = 0x1000 | 1),
	HOST("touch-2m", row_touch, .entry = g_touch, .arg = MIB2, .n = 2, .rounds = 12),
	HOST("vm-create", row_create),
	HOST("vm-create-irqchip", row_create, .arg = 1),
	HOST("vm-destroy", row_destroy),
	HOST("vm-destroy-irqchip", row_destroy, .arg = 1),
	HOST("vm-memory", row_memory),
	HOST("irqs-off-close", row_late),
	HOST("irqs-off-unmap", row_late, .arg = 1),
	LOOP("cpuid-8-vms", g_cpuid, .vms = 7),
	LOOP("cpuid-64-vms", g_cpuid, .vms = 63),
	LOOP("lapic-read-8-vms", g_lapic_read, .vms = 7),
	LOOP("lapic-read-64-vms", g_lapic_read, .vms = 63),
	LOOP("cpuid-4-slots", g_cpuid, .slots = 4),
	LOOP("cpuid-64-slots", g_cpuid, .slots = 64),
	LOOP("cpuid-512-slots", g_cpuid, .slots = 512),
	LOOP("lapic-read-4-slots", g_lapic_read, .slots = 4),
	LOOP("lapic-read-64-slots", g_lapic_read, .slots = 64),
	LOOP("lapic-read-512-slots", g_lapic_read, .slots = 512),
	LOOP("user-mmio-read-4-slots", g_user_read, .slots = 4),
	LOOP("user-mmio-read-64-slots", g_user_read, .slots = 64),
	LOOP("user-mmio-read-512-slots", g_user_read, .slots = 512),
	{ 0 },
};
