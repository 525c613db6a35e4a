// SPDX-License-Identifier: GPL-2.0

//! Where things lie in the guest's physical address space and on its I/O ports.
//!
//! ```text
//! 0x0000_0000  boot structures (first MiB, see below)
//! 0x0010_0000  kernel, initrd: RAM up to min(size, 3 GiB)
//! 0xc000_0000  PCI window for 32-bit BARs
//! 0xfec0_0000  I/O APIC          0xfee0_0000  local APIC
//! 0x1_0000_0000  the rest of RAM
//! ```
//!
//! The addresses of devices are a contract with the module, which models them; the boot structures are the tool's choice.
//! All of those lie in RAM that the E820 map gives to the kernel after it has copied what it wants.

/// One page of guest memory in bytes.
pub const PAGE: u64 = 0x1000;
/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;

/// GDT that the boot processor starts with.
pub const GDT: u64 = 0x500;
/// IDT base; its limit is zero, any fault before the kernel's own IDT is a triple fault.
pub const IDT: u64 = 0x580;
/// Boot arguments of a kernel of OpenBSD, one page: where its own loader has them.
pub const OPENBSD_ARGS: u64 = 0x2000;
/// PVH `hvm_start_info`, followed by its memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// PVH memory map.
pub const PVH_MEMMAP: u64 = 0x6100;
/// Linux `boot_params` ("zero page").
pub const BOOT_PARAMS: u64 = 0x7000;
/// What a kernel of OpenBSD finds on its stack.
pub const OPENBSD_STACK: u64 = 0x8fc0;
/// Top of the stack at the entry of any other.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables for the 64-bit entry: PML4, PDPT and four page directories.
pub const PML4: u64 = 0x9000;
/// Page directory pointer table.
pub const PDPT: u64 = 0xa000;
/// First of the four page directories, which map 4 GiB one to one with 2 MiB pages.
pub const PD: u64 = 0xb000;
/// Kernel command line, zero terminated.
pub const CMDLINE: u64 = 0x2_0000;
/// Room for the command line, terminator included.
pub const CMDLINE_SPACE: u64 = 0x1_0000;
/// Modules' names and places, and all that a kernel of multiboot is told.
pub const BOOT_INFO: u64 = 0x3_0000;
/// Room for that.
pub const BOOT_INFO_SPACE: u64 = 0x6_0000;
/// End of conventional memory: what follows up to 1 MiB is no usable RAM for a PC kernel.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables: an area in which a kernel searches the RSDP.
pub const ACPI: u64 = 0xe_0000;
/// Bytes of the RSDP, which is the first of them.
pub const RSDP_SIZE: usize = 36;
/// End of the ACPI area.
pub const ACPI_END: u64 = MP_TABLE;
/// MP tables: the area in which a kernel searches their pointer is the last 64 KiB below 1 MiB.
pub const MP_TABLE: u64 = 0xf_0000;
/// Where a processor in real mode goes to reset the machine: f000:fff0.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Kernels and initrds are loaded from here on.
pub const HIGH_RAM: u64 = MIB;

/// RAM below 4 GiB ends here at the latest.
pub const LOW_RAM_MAX: u64 = 3 * GIB;
/// Start of the PCI window for 32-bit BARs.
pub const PCI_MMIO: u64 = 0xc000_0000;
/// Size of the PCI window: it ends where the I/O APIC begins.
pub const PCI_MMIO_SIZE: u64 = IOAPIC - PCI_MMIO;
/// I/O APIC registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// Local APIC registers.
pub const LAPIC: u64 = 0xfee0_0000;
/// RAM beyond `LOW_RAM_MAX` continues here.
pub const HIGH_RAM_4G: u64 = 4 * GIB;

/// Pages below 4 GiB that Intel processors without unrestricted guest mode want from the VMM (identity map).
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for the TSS that the same processors need.
pub const TSS: u64 = 0xfffb_d000;

/// PM1a event block.
pub const PM1A_EVENT: u16 = 0x600;
/// PM1a control block.
pub const PM1A_CONTROL: u16 = 0x604;
/// PM timer.
pub const PM_TIMER: u16 = 0x608;
/// Reset register, written with `RESET_VALUE`.
pub const RESET_PORT: u16 = 0xcf9;
/// Value that resets the machine.
pub const RESET_VALUE: u8 = 6;
/// Sleep type of the soft-off state S5.
pub const S5_SLEEP_TYPE: u8 = 5;
/// System control interrupt.
pub const SCI_IRQ: u8 = 9;
/// Device numbers on the PCI bus.
pub const PCI_DEVICES: u8 = 32;
/// Interrupts that the INTx pins of PCI devices are wired to, by turns: device 0 to the first.
pub const INTX_IRQS: [u8; 3] = [11, 5, 10];

/// Returns the interrupt that the INTx pin of a PCI device is wired to.
pub fn intx_irq(device: u8) -> u8 {
    INTX_IRQS[usize::from(device) % INTX_IRQS.len()]
}

/// First serial port.
pub const COM1: u16 = 0x3f8;
/// Interrupt of the first serial port.
pub const COM1_IRQ: u8 = 4;
/// RTC index port.
pub const RTC: u16 = 0x70;
/// Interrupt of the RTC.
pub const RTC_IRQ: u8 = 8;
