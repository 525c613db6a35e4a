// SPDX-License-Identifier: GPL-2.0

//! A device of the in-kernel machine: KVM_CREATE_DEVICE types of our own. What the devices are is the machine's
//! ([`crate::machine::devices`]).

use super::user;
use crate::abi::{nr, rvmm as abi, vm as abi_vm};
use crate::host::file::{AnonFile, WaitQueue};
use crate::machine::devices::{DeviceHandle, ReadConfig};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::vm::Vm;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// The file behind a device's fd.
pub(super) struct DeviceFile<B: VendorBackend> {
    pub(super) vm: Arc<Vm<B>>,
    pub(super) device: DeviceHandle,
}

/// A structure at an address of user space.
struct UserConfig(u64);

impl ReadConfig for UserConfig {
    fn read<T: FromBytes + IntoBytes>(&self) -> Result<T> {
        user::read(self.0)
    }
}

impl<B: VendorBackend> DeviceFile<B> {
    /// Makes the file of a device that is yet to be configured.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(vm: Arc<Vm<B>>, device: DeviceHandle) -> Result<Arc<DeviceFile<B>>> {
        Ok(Arc::new(DeviceFile { vm, device }, GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns whether the device has this attribute.
    fn has_attr(&self, a: &abi_vm::DeviceAttr) -> bool {
        match (a.group, a.attr) {
            (abi::GROUP_CONFIG, 0) => true,
            (abi::GROUP_COMMAND, abi::COMMAND_POWER_BUTTON) => self.device.has_power_button(),
            (abi::GROUP_COMMAND, abi::COMMAND_LOOK_AT_SIZE) => self.device.is_disk(),
            (abi::GROUP_COUNTERS, abi::COUNT_LOST) => self.device.is_console(),
            (abi::GROUP_COUNTERS, abi::COUNT_FAILED) => self.device.is_disk(),
            (abi::GROUP_CLOCK, abi::CLOCK_UTC_OFFSET) => self.device.is_clock(),
            _ => false,
        }
    }

    fn get_attr(&self, a: abi_vm::DeviceAttr) -> Result<i64> {
        match (a.group, a.attr) {
            (abi::GROUP_COUNTERS, abi::COUNT_LOST) if self.device.is_console() => {
                user::write(a.addr, &self.lost_output()).map(|()| 0)
            }
            (abi::GROUP_COUNTERS, abi::COUNT_FAILED) if self.device.is_disk() => {
                user::write(a.addr, &self.device.failed_requests(&self.vm.machine).unwrap_or(0)).map(|()| 0)
            }
            (abi::GROUP_CLOCK, abi::CLOCK_UTC_OFFSET) if self.device.is_clock() => {
                let offset = self.device.utc_offset_seconds(&self.vm.machine).ok_or(ENXIO)?;
                user::write(a.addr, &offset).map(|()| 0)
            }
            // Commands and the configuration are set only.
            _ if self.has_attr(&a) => Err(EPERM),
            _ => Err(ENXIO),
        }
    }

    fn set_attr(&self, a: abi_vm::DeviceAttr) -> Result<i64> {
        match (a.group, a.attr) {
            (abi::GROUP_CONFIG, 0) => {
                self.device.configure(&self.vm.machine, &UserConfig(a.addr)).map(|()| 0)
            }
            (abi::GROUP_COMMAND, abi::COMMAND_POWER_BUTTON)
                if self.device.press_power_button(&self.vm.machine) =>
            {
                Ok(0)
            }
            (abi::GROUP_COMMAND, abi::COMMAND_LOOK_AT_SIZE) => {
                self.device.look_at_size(&self.vm.machine).map(|()| 0)
            }
            _ => Err(ENXIO),
        }
    }

    /// Serves a queue with the calling thread.
    fn serve(&self, queue: u64) -> Result<i64> {
        // The queue is in guest memory, by user addresses of the process that made the VM.
        if !self.vm.space.is_current() {
            return Err(EIO);
        }
        let failed = self.device.serve(&self.vm.machine, u16::try_from(queue)?)?;
        Ok(failed.map_or(0, |why| i64::from(why.to_errno().wrapping_neg())))
    }
}

impl<B: VendorBackend> AnonFile for DeviceFile<B> {
    const NAME: &'static CStr = c"rvmm-device";

    fn ioctl(this: &Arc<Self>, cmd: u32, arg: u64) -> Result<i64> {
        match cmd {
            nr::SET_DEVICE_ATTR => this.set_attr(user::read(arg)?),
            abi::DEV_RUN => this.serve(arg),
            nr::HAS_DEVICE_ATTR if this.has_attr(&user::read(arg)?) => Ok(0),
            nr::HAS_DEVICE_ATTR => Err(ENXIO),
            nr::GET_DEVICE_ATTR => this.get_attr(user::read(arg)?),
            _ => Err(ENOTTY),
        }
    }

    fn read(
        this: &Arc<Self>,
        to: &mut IovIterDest<'_>,
        _position: &mut u64,
        nonblock: bool,
    ) -> Result<usize> {
        this.read_console(to, nonblock)
    }

    fn write(this: &Arc<Self>, from: &mut IovIterSource<'_>, nonblock: bool) -> Result<usize> {
        this.write_console(from, nonblock)
    }

    fn poll(this: &Arc<Self>) -> u32 {
        this.poll_console()
    }

    fn wait_queue(this: &Self) -> Option<&WaitQueue> {
        this.device.is_console().then_some(&this.vm.machine.interrupts.console)
    }
}
