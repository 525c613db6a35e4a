/* SPDX-License-Identifier: GPL-2.0 */
/* Virtual machines through KVM's ioctls, on any node that speaks them. */
#ifndef VM_H
#define VM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_VCPUS 2

struct vm {
	int fd;
	int vcpu[MAX_VCPUS];
	struct kvm_run *run[MAX_VCPUS];
	uint8_t *ram;
	bool owns_ram;
};

extern const char guest_start[], guest_end[], traps[];

/* Entries of the guest and handlers of its interrupt (guest.S). */
extern const char g_empty[], g_cpuid[], g_rdmsr[], g_wrmsr[], g_hypercall[], g_pio_read[],
	g_pio_write[], g_pit_write[], g_pit_read[], g_port61_write[], g_lapic_read[],
	g_lapic_write[], g_ioapic_read[], g_ioapic_write[], g_user_in[], g_user_out[],
	g_user_read[], g_user_write[], g_user_outsb[], g_kick_port[], g_kick_mmio[],
	g_touch[], g_self_ipi[], h_since_r8[], h_eoi_x2apic[], g_self_ipi_xapic[],
	h_eoi_xapic[], h_since_r8_xapic[], g_timer_arm[], g_timer_now[], g_timer_spin[],
	g_timer_hlt[], g_ping[], h_ping[], g_pong[], g_sleep[], h_count[], g_done[];

/* The row cannot run, or went wrong: says so and ends this row's process. */
void skip(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

void node_open(const char *path);
int node_fd(void);
bool has_cap(int cap);
static inline uint64_t tsc(void) { return __builtin_ia32_rdtsc(); }
static inline uint64_t *comm(struct vm *vm, int offset) { return (uint64_t *)(vm->ram + 0xa000 + offset); }

/* Memory of the guest with its tables and code; can serve many VMs. */
uint8_t *ram_new(void);
void ram_handler(uint8_t *ram, const char *handler);

/* The parts of making a VM, and all of it: interrupt controllers, a slot, `vcpus` in long mode. */
void vm_open(struct vm *vm, uint8_t *ram);
void vm_irqchip(struct vm *vm);
void vm_slot(struct vm *vm, uint32_t slot, uint64_t gpa, uint64_t size, void *memory);
void vm_vcpu(struct vm *vm, int id);
void vm_enter_at(struct vm *vm, int id, const char *entry);
void vm_cpuid(struct vm *vm, int id);
void vm_new(struct vm *vm, uint8_t *ram, int vcpus);
void vm_close(struct vm *vm);

/* Runs until the guest says that it is done; answers ports and MMIO by nothing. */
void vm_run(struct vm *vm, int id);

#endif
