# SPDX-License-Identifier: GPL-2.0

"""The rows of the scoreboard in their order, with the ratio to KVM that is aimed at.

`limit` is what rvmm's own figure is to be at most, whatever KVM's.
"""

import collections

Row = collections.namedtuple("Row", "name title target limit", defaults=(None, None))

# The emulated host's processor. Without ERMS and FSRM, for they make the kernel copy and clear by REP MOVSB and
# STOSB, which icount counts by the byte.
HOST_CPU = "max,-erms,-fsrm"

SIXTH, QUARTER, THIRD = 1 / 6, 1 / 4, 1 / 3
# As much as KVM, and what KVM's own figure differs by from round to round.
ALIKE = 1.05

# Those of bench_guests.py.
GUEST_ROWS = ("blk-", "net-", "linux-", "console-kib", "boot-", "vmm-rss")



def cpus(row):
    """How many CPUs the emulated host has for a row."""
    return 2 if row.endswith("-2-cpus") else 1


ROWS = [
    Row("cpuid", "CPUID, leaf 0", SIXTH),
    Row("cpuid-late-leaf", "CPUID, leaf 0x80000008", SIXTH),
    Row("rdmsr", "RDMSR APIC_BASE", SIXTH),
    Row("wrmsr", "WRMSR of a fixed MTRR", SIXTH),
    Row("hypercall", "VMMCALL", SIXTH),
    Row("pio-read-61", "IN from port 0x61", SIXTH),
    Row("pio-write-61", "OUT to port 0x61", SIXTH),
    Row("pit-read", "IN from the PIT", SIXTH),
    Row("pit-write", "OUT to the PIT", SIXTH),
    Row("lapic-read", "read of the LAPIC by MMIO", QUARTER),
    Row("lapic-write", "write of the LAPIC by MMIO", QUARTER),
    Row("ioapic-read", "read of the I/O APIC", QUARTER),
    Row("ioapic-write", "write of the I/O APIC", QUARTER),
    Row("self-ipi-x2apic", "x2APIC self IPI to handler", QUARTER),
    Row("self-ipi-xapic", "xAPIC self IPI to handler", QUARTER),
    Row("eoi-x2apic", "EOI by x2APIC", QUARTER),
    Row("eoi-xapic", "EOI by MMIO", QUARTER),
    Row("hlt-ipi-wake-2-cpus", "IPI to a vCPU in HLT", THIRD),
    Row("hlt-ipi-wake", "IPI to a vCPU in HLT, all on one CPU", None),
    Row("timer-arm", "arming the TSC deadline", THIRD),
    Row("timer-passed", "TSC deadline that has passed, to handler", THIRD),
    Row("timer-late-running", "lateness of a 20 µs deadline, running", 1),
    Row("timer-late-hlt", "lateness of a 20 µs deadline, in HLT", 1),
    Row("timer-hlt-work", "work for a 20 µs deadline in HLT", THIRD),
    Row("user-pio-in", "IN that user space answers", 0.8),
    Row("user-pio-out", "OUT that user space answers", 0.8),
    Row("user-mmio-read", "MMIO read that user space answers", 0.8),
    Row("user-mmio-write", "MMIO write that user space answers", 0.8),
    Row("user-outsb-64", "REP OUTSB of 64 bytes to user space", 0.1),
    Row("ioeventfd-pio", "ioeventfd on a port", SIXTH),
    Row("ioeventfd-mmio", "ioeventfd on MMIO", QUARTER),
    Row("irqfd-hlt-2-cpus", "irqfd to the handler of a vCPU in HLT", THIRD),
    Row("irqfd-hlt", "irqfd to the handler of a vCPU in HLT, all on one CPU", None),
    Row("touch-4k", "first touch of 4 KiB, resident in the host", 1),
    Row("touch-4k-absent", "first touch of 4 KiB, absent in the host", 1),
    Row("touch-2m", "first touch of 2 MiB, resident in the host", 1),
    Row("vm-create", "VM create to first instruction", 0.5),
    Row("vm-create-irqchip", "the same with interrupt controllers", 0.5),
    Row("vm-destroy", "VM destroy", None),
    Row("vm-destroy-irqchip", "the same with interrupt controllers", None),
    Row("vm-memory", "memory of an idle VM with its page tables, KiB", None, 100),
    Row("irqs-off-close", "interrupts off, at worst, when a VM with 2 GiB is closed", ALIKE),
    Row("irqs-off-unmap", "the same when the memory is unmapped", ALIKE),
    Row("cpuid-8-vms", "CPUID, 8 VMs open", SIXTH),
    Row("cpuid-64-vms", "CPUID, 64 VMs open", SIXTH),
    Row("lapic-read-8-vms", "LAPIC read, 8 VMs open", QUARTER),
    Row("lapic-read-64-vms", "LAPIC read, 64 VMs open", QUARTER),
    Row("cpuid-4-slots", "CPUID, 4 memslots", SIXTH),
    Row("cpuid-64-slots", "CPUID, 64 memslots", SIXTH),
    Row("cpuid-512-slots", "CPUID, 512 memslots", SIXTH),
    Row("lapic-read-4-slots", "LAPIC read, 4 memslots", QUARTER),
    Row("lapic-read-64-slots", "LAPIC read, 64 memslots", QUARTER),
    Row("lapic-read-512-slots", "LAPIC read, 512 memslots", QUARTER),
    Row("user-mmio-read-4-slots", "user MMIO read, 4 memslots", 0.8),
    Row("user-mmio-read-64-slots", "user MMIO read, 64 memslots", 0.8),
    Row("user-mmio-read-512-slots", "user MMIO read, 512 memslots", 0.8),
    Row("blk-4k-read-depth-1", "virtio-blk read of 4 KiB at depth 1", QUARTER),
    Row("blk-4k-write-depth-1", "virtio-blk write of 4 KiB at depth 1", QUARTER),
    Row("blk-4k-read-depth-32", "virtio-blk read of 4 KiB at depth 32", THIRD),
    Row("blk-4k-write-depth-32", "virtio-blk write of 4 KiB at depth 32", THIRD),
    Row("blk-4k-read-depth-1-exits", "exits for each read at depth 1"),
    Row("blk-4k-write-depth-1-exits", "exits for each write at depth 1"),
    Row("blk-4k-read-depth-32-exits", "exits for each read at depth 32", None, 0.2),
    Row("blk-4k-write-depth-32-exits", "exits for each write at depth 32", None, 0.2),
    Row("blk-4k-read-depth-1-irqs", "interrupts for each read at depth 1"),
    Row("blk-4k-write-depth-1-irqs", "interrupts for each write at depth 1"),
    Row("blk-4k-read-depth-32-irqs", "interrupts for each read at depth 32"),
    Row("blk-4k-write-depth-32-irqs", "interrupts for each write at depth 32"),
    Row("blk-4k-read-depth-1-8-vms", "read at depth 1, 8 VMs open", QUARTER),
    Row("blk-4k-read-depth-1-64-vms", "read at depth 1, 64 VMs open", QUARTER),
    Row("blk-4k-read-depth-1-4-slots", "read at depth 1, 4 memslots", QUARTER),
    Row("blk-4k-read-depth-1-64-slots", "read at depth 1, 64 memslots", QUARTER),
    Row("blk-4k-read-depth-1-512-slots", "read at depth 1, 512 memslots", QUARTER),
    Row("blk-4k-read-depth-32-8-vms", "read at depth 32, 8 VMs open", THIRD),
    Row("blk-4k-read-depth-32-64-vms", "read at depth 32, 64 VMs open", THIRD),
    Row("blk-4k-read-depth-32-4-slots", "read at depth 32, 4 memslots", THIRD),
    Row("blk-4k-read-depth-32-64-slots", "read at depth 32, 64 memslots", THIRD),
    Row("blk-4k-read-depth-32-512-slots", "read at depth 32, 512 memslots", THIRD),
    Row("net-packet", "virtio-net, a packet sent", 1),
    Row("net-packet-exits", "exits for each packet sent"),
    Row("net-packet-irqs", "interrupts for each packet sent"),
    Row("net-echo", "virtio-net, a packet sent and its answer", 1),
    Row("net-echo-exits", "exits for each packet and its answer"),
    Row("net-echo-irqs", "interrupts for each packet and its answer"),
    Row("linux-net-mib-out", "virtio-net of Linux, a MiB sent by TCP", 1),
    Row("linux-net-mib-out-exits", "exits for each MiB sent"),
    Row("linux-net-mib-in", "virtio-net of Linux, a MiB received by TCP", 1),
    Row("linux-net-mib-in-exits", "exits for each MiB received"),
    Row("linux-blk-4k-read-depth-1", "Linux, read of 4 KiB at depth 1"),
    Row("linux-blk-4k-write-depth-1", "Linux, write of 4 KiB at depth 1"),
    Row("linux-blk-4k-read-depth-32", "Linux, read of 4 KiB at depth 32"),
    Row("linux-blk-4k-write-depth-32", "Linux, write of 4 KiB at depth 32"),
    Row("linux-blk-4k-read-depth-1-exits", "exits for each"),
    Row("linux-blk-4k-write-depth-1-exits", "exits for each"),
    Row("linux-blk-4k-read-depth-32-exits", "exits for each"),
    Row("linux-blk-4k-write-depth-32-exits", "exits for each"),
    Row("linux-blk-4k-read-depth-1-irqs", "interrupts for each"),
    Row("linux-blk-4k-write-depth-1-irqs", "interrupts for each"),
    Row("linux-blk-4k-read-depth-32-irqs", "interrupts for each"),
    Row("linux-blk-4k-write-depth-32-irqs", "interrupts for each"),
    Row("linux-net-packet", "Linux, a packet sent"),
    Row("linux-net-packet-exits", "exits for each packet sent"),
    Row("linux-net-echo", "Linux, a packet sent and its answer"),
    Row("console-kib", "console output of Linux, a KiB"),
    Row("boot-host-work", "kernel boot to init, the host's part", 0.5),
    Row("boot-guest", "kernel boot to init, the guest's part"),
    Row("boot-work", "kernel boot to init, all"),
    Row("vmm-rss", "resident memory of the VMM, KiB", None, 5120),
]
