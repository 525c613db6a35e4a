// SPDX-License-Identifier: GPL-2.0
/* Makes and runs the VMs of the scoreboard. */
#include "vm.h"
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int node = -1, run_size;

void node_open(const char *path)
{
	node = open(path, O_RDWR | O_CLOEXEC);
	if (node < 0)
		skip("%s: %s", path, strerror(errno));
	run_size = ioctl(node, KVM_GET_VCPU_MMAP_SIZE, 0);
}

int node_fd(void)
{
	return node;
}

bool has_cap(int cap)
{
	return ioctl(node, KVM_CHECK_EXTENSION, (long)cap) > 0;
}

static int must(int result, const char *what)
{
	if (result < 0)
		skip("%s: %s", what, strerror(errno));
	return result;
}

static uint64_t address(const char *symbol)
{
	return CODE + (symbol - guest_start);
}

static void gate(uint8_t *ram, int vector, uint64_t target)
{
	uint64_t *entry = (uint64_t *)(ram + IDT) + 2 * vector;

	entry[0] = (target & 0xffff) | 8 << 16 | 0x8eULL << 40 | (target >> 16 & 0xffff) << 48;
	entry[1] = target >> 32;
}

uint8_t *ram_new(void)
{
	uint8_t *ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t *table;

	if (ram == MAP_FAILED)
		skip("no memory");
	memset(ram, 0, RAM_SIZE);
	table = (uint64_t *)(ram + TABLES);
	table[0] = (TABLES + 0x1000) | 3;
	for (int i = 0; i < 4; i++)
		table[512 + i] = (TABLES + 0x2000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 2048; i++)
		table[1024 + i] = i << 21 | 0x83;
	((uint64_t *)(ram + GDT))[1] = 0x00af9b000000ffff;
	((uint64_t *)(ram + GDT))[2] = 0x00cf93000000ffff;
	for (int i = 0; i < 32; i++)
		gate(ram, i, address(traps) + 16 * i);
	memcpy(ram + CODE, guest_start, guest_end - guest_start);
	return ram;
}

void ram_handler(uint8_t *ram, const char *handler)
{
	gate(ram, VECTOR, address(handler));
}

void vm_open(struct vm *vm, uint8_t *ram)
{
	*vm = (struct vm){ .fd = must(ioctl(node, KVM_CREATE_VM, 0), "KVM_CREATE_VM"), .ram = ram };
	for (int i = 0; i < MAX_VCPUS; i++)
		vm->vcpu[i] = -1;
	if (!ram) {
		vm->ram = ram_new();
		vm->owns_ram = true;
	}
}

void vm_irqchip(struct vm *vm)
{
	/* Port 0x61 too is the kernel's. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };

	must(ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	must(ioctl(vm->fd, KVM_CREATE_PIT2, &pit), "KVM_CREATE_PIT2");
}

void vm_slot(struct vm *vm, uint32_t slot, uint64_t gpa, uint64_t size, void *memory)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)memory,
	};

	must(ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

void vm_vcpu(struct vm *vm, int id)
{
	vm->vcpu[id] = must(ioctl(vm->fd, KVM_CREATE_VCPU, (long)id), "KVM_CREATE_VCPU");
	vm->run[id] = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu[id], 0);
	if (vm->run[id] == MAP_FAILED)
		skip("mmap of kvm_run: %s", strerror(errno));
}

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool is_code)
{
	return (struct kvm_segment){
		.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
		.l = is_code, .db = !is_code,
	};
}

void vm_enter_at(struct vm *vm, int id, const char *entry)
{
	struct kvm_regs regs = {
		.rip = address(entry), .rsp = id ? STACK1 : STACK0, .rdi = COMM, .rflags = 2,
	};
	struct kvm_sregs sregs;
	struct kvm_mp_state runnable = { KVM_MP_STATE_RUNNABLE };

	must(ioctl(vm->vcpu[id], KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs = segment(8, 11, true);
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = segment(16, 3, false);
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 23;
	sregs.idt.base = IDT;
	sregs.idt.limit = 0xfff;
	sregs.cr0 = 0x80050033;
	sregs.cr3 = TABLES;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	must(ioctl(vm->vcpu[id], KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(vm->vcpu[id], KVM_SET_REGS, &regs), "KVM_SET_REGS");
	if (id)
		must(ioctl(vm->vcpu[id], KVM_SET_MP_STATE, &runnable), "KVM_SET_MP_STATE");
}

void vm_cpuid(struct vm *vm, int id)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid;

	if (!cpuid.head.nent) {
		cpuid.head.nent = 256;
		must(ioctl(node, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	}
	for (uint32_t i = 0; i < cpuid.head.nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid.entries[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0xff00ffff) | (uint32_t)id << 24 | MAX_VCPUS << 16;
		if (e->function == 0xb)
			e->edx = id;
	}
	must(ioctl(vm->vcpu[id], KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
}

void vm_new(struct vm *vm, uint8_t *ram, int vcpus)
{
	vm_open(vm, ram);
	vm_irqchip(vm);
	vm_slot(vm, 0, 0, RAM_SIZE, vm->ram);
	for (int id = 0; id < vcpus; id++) {
		vm_vcpu(vm, id);
		vm_cpuid(vm, id);
	}
}

void vm_close(struct vm *vm)
{
	for (int i = 0; i < MAX_VCPUS; i++) {
		if (vm->vcpu[i] < 0)
			continue;
		munmap(vm->run[i], run_size);
		close(vm->vcpu[i]);
	}
	close(vm->fd);
	if (vm->owns_ram)
		munmap(vm->ram, RAM_SIZE);
}

void vm_run(struct vm *vm, int id)
{
	struct kvm_run *run = vm->run[id];

	for (;;) {
		if (ioctl(vm->vcpu[id], KVM_RUN, 0)) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			skip("KVM_RUN: %s", strerror(errno));
		}
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			if (run->io.port == PORT_DONE)
				return;
			if (run->io.port == PORT_TRAP)
				skip("the guest met exception %u", ((uint8_t *)run)[run->io.data_offset]);
			break;
		case KVM_EXIT_MMIO:
		case KVM_EXIT_INTR:
			break;
		case KVM_EXIT_INTERNAL_ERROR:
			skip("internal error %u", run->internal.suberror);
		default:
			skip("exit reason %u", run->exit_reason);
		}
	}
}
