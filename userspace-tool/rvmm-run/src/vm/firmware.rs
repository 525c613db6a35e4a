// SPDX-License-Identifier: GPL-2.0

//! What a PC's firmware leaves in the chips and in memory, for kernels that are started without one.
//!
//! The module's chips are as after power-on, or as KVM's. Kernels take more for granted: the interval timer counts and
//! can be used for delays, and the 8259 pair has vectors that are none of the processor's own, with all lines masked and
//! those of PCI devices level triggered.
//! What firmware leaves in the processors is in `regs`; RTC, keyboard controller, UART and power management come
//! from the module that way.

use kvm_bindings::{
    kvm_irqchip, kvm_pic_state, kvm_pit_channel_state, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
};
use kvm_ioctls::VmFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::config::layout::{INTX_IRQS, RESET_PORT, RESET_VALUE, RESET_VECTOR};
use crate::error::ToolError;

/// Mode of channel 0: rate generator.
const RATE_GENERATOR: u8 = 2;
/// The count that 0 stands for: 18.2 periods a second.
const LARGEST_COUNT: u32 = 0x1_0000;
/// Counts are read and written low byte first.
const WORD_ACCESS: u8 = 3;
/// Vectors of the lines 0 and 8, as the BIOS has them.
const VECTORS: [(u32, u8); 2] = [(KVM_IRQCHIP_PIC_MASTER, 0x08), (KVM_IRQCHIP_PIC_SLAVE, 0x70)];

/// Writes what resets the machine to where a BIOS begins: a kernel jumps there in real mode when it is told to reset the
/// BIOS way.
///
/// # Errors
/// `InvalidGuestAddress` when there is no RAM.
pub fn write_reset_vector(ram: &GuestMemoryMmap<()>) -> Result<(), GuestMemoryError> {
    let [low, high] = RESET_PORT.to_le_bytes();
    // mov $port, %dx; mov $value, %al; out %al, %dx; hlt: jmp back to it
    let code = [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd];
    ram.write_slice(&code, GuestAddress(RESET_VECTOR))
}

/// Returns the lines of one of the pair that are level triggered, a bit each.
fn level_triggered(is_slave: bool) -> u8 {
    let lines = INTX_IRQS.iter().fold(0u16, |lines, irq| lines | 1 << irq);
    lines.to_le_bytes()[usize::from(is_slave)]
}

/// Returns channel 0 of the timer, counting.
fn counting() -> kvm_pit_channel_state {
    kvm_pit_channel_state {
        count: LARGEST_COUNT,
        rw_mode: WORD_ACCESS,
        read_state: WORD_ACCESS,
        write_state: WORD_ACCESS,
        mode: RATE_GENERATOR,
        gate: 1,
        ..Default::default()
    }
}

/// Programs the timer and the 8259 pair of a machine that has just been made.
///
/// # Errors
/// When the module refuses a state.
pub fn program(vm: &VmFd) -> Result<(), ToolError> {
    let mut pit = vm.get_pit2().map_err(ToolError::host("read the interval timer"))?;
    pit.channels[0] = counting();
    vm.set_pit2(&pit).map_err(ToolError::host("set the interval timer"))?;
    for (chip_id, irq_base) in VECTORS {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        // Fully nested, no line in service.
        let elcr = level_triggered(chip_id == KVM_IRQCHIP_PIC_SLAVE);
        chip.chip.pic = kvm_pic_state { imr: 0xff, irq_base, elcr, ..Default::default() };
        vm.set_irqchip(&chip).map_err(ToolError::host("set an interrupt controller"))?;
    }
    Ok(())
}
