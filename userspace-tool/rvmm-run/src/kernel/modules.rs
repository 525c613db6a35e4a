// SPDX-License-Identifier: GPL-2.0

//! Places the initrd and further modules in guest memory, above everything that the kernel uses.
//!
//! Linux has its initrd as high as it takes it, where it is out of the way. Kernels of multiboot often map only the first
//! megabytes at their start: theirs come right behind the kernel, in order.

use vm_memory::GuestMemoryMmap;

use super::error::KernelError;
use super::image::{copy_to_guest, KernelImage};
use super::loaded::{KernelProtocol, LoadedKernel, LoadedModule};
use crate::config::layout::{HIGH_RAM, PAGE};
use crate::config::memory::RamSize;

/// Memory that is free for modules.
#[derive(Clone, Debug)]
pub struct ModuleSpace {
    bottom: u64,
    top: u64,
    from_bottom: bool,
}

impl ModuleSpace {
    /// What `kernel` leaves.
    pub fn new(kernel: &LoadedKernel, size: RamSize) -> Self {
        Self {
            bottom: kernel.end.max(HIGH_RAM).next_multiple_of(PAGE),
            top: size.low().min(kernel.initrd_max.saturating_add(1)),
            from_bottom: matches!(kernel.protocol, KernelProtocol::Multiboot(_)),
        }
    }

    /// Loads `image`, an initrd or a module with its arguments.
    ///
    /// # Errors
    /// `Empty`, `ModuleDoesNotFit`, `Io`.
    pub fn load(
        &mut self,
        image: &(impl KernelImage + ?Sized),
        args: &str,
        ram: &GuestMemoryMmap<()>,
    ) -> Result<LoadedModule, KernelError> {
        let size = image.len();
        if size == 0 {
            return Err(KernelError::Empty);
        }
        let room = self.top.saturating_sub(self.bottom);
        let base = if self.from_bottom {
            Some(self.bottom).filter(|_| size <= room)
        } else {
            self.top.checked_sub(size).map(|base| base & !(PAGE - 1)).filter(|base| *base >= self.bottom)
        };
        let base = base.ok_or(KernelError::ModuleDoesNotFit { size, room })?;
        copy_to_guest(image, 0, size, ram, base)?;
        if self.from_bottom {
            self.bottom = (base + size).next_multiple_of(PAGE);
        } else {
            self.top = base;
        }
        Ok(LoadedModule { base, size, args: args.into() })
    }
}
