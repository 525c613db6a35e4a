// SPDX-License-Identifier: GPL-2.0
/*
 * The smallest KVM guest: counts in a loop and gives each count to port 0x80.
 * Usage: kvm-hello COUNT [NODE]; exit code 0 when every count came, in order.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* inc %ax; out %ax, $0x80; cmp %bx, %ax; jne (back to inc); hlt */
static const uint8_t code[] = { 0x40, 0xe7, 0x80, 0x39, 0xd8, 0x75, 0xf9, 0xf4 };

int main(int argc, char **argv)
{
	unsigned int count = argc > 1 ? strtoul(argv[1], NULL, 0) : 10, seen = 0;
	const char *node = argc > 2 ? argv[2] : "/dev/kvm";
	int kvm = open(node, O_RDWR | O_CLOEXEC);
	int vm, vcpu, size;
	struct kvm_run *run;
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = 0x1000, .rbx = count, .rflags = 2 };
	uint8_t *ram = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region slot = {
		.memory_size = 0x10000, .userspace_addr = (uintptr_t)ram,
	};

	if (kvm < 0)
		err(2, "%s", node);
	memcpy(ram + 0x1000, code, sizeof(code));
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		err(2, "KVM_CREATE_VM");
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot))
		err(2, "KVM_SET_USER_MEMORY_REGION");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		err(2, "KVM_CREATE_VCPU");
	size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(2, "mmap of kvm_run");
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		err(2, "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		err(2, "KVM_SET_REGS");
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0))
			err(2, "KVM_RUN");
		if (run->exit_reason == KVM_EXIT_HLT)
			break;
		if (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x80)
			errx(1, "exit reason %u after %u counts", run->exit_reason, seen);
		if (*(uint16_t *)((uint8_t *)run + run->io.data_offset) != ++seen)
			errx(1, "wrong count after %u", seen - 1);
	}
	printf("%u of %u counts\n", seen, count);
	return seen != count;
}
