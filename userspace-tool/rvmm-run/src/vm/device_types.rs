// SPDX-License-Identifier: GPL-2.0

//! The module's own devices: `KVM_CREATE_DEVICE` types beyond KVM's, configured by one attribute that also realises them.
//!
//! What a device is made of is the configuration structure of its type, in the module's own words: [`crate::abi::rvmm`].

use std::os::fd::AsRawFd;

use kvm_bindings::{kvm_create_device, kvm_device_attr, KVM_CREATE_DEVICE_TEST};
use kvm_ioctls::{DeviceFd, VmFd};
use nix::errno::Errno;
use zerocopy::{Immutable, IntoBytes};

use crate::abi::rvmm as abi;
use crate::error::ToolError;

/// The configuration of a device, which says what it is of.
pub(crate) trait DeviceConfig: IntoBytes + Immutable {
    /// The type's number.
    const KIND: u32;
    /// The type in messages.
    const NAME: &'static str;
    /// What the tool does with it.
    const ACTION: &'static str;
}

/// Implements [`DeviceConfig`] for the configurations of all types.
macro_rules! device_types {
    ($($config:ident: $kind:ident, $name:literal, $one:literal;)*) => {
        $(
            impl DeviceConfig for abi::$config {
                const KIND: u32 = abi::$kind;
                const NAME: &'static str = $name;
                const ACTION: &'static str = concat!("create ", $one);
            }
        )*

        /// Every type with its name, for `--check`.
        pub(crate) const TYPES: &[(u32, &str)] = &[$((abi::$kind, $name)),*];
    };
}

device_types! {
    UartConfig: DEV_UART, "the UART", "the UART";
    RtcConfig: DEV_RTC, "the RTC", "the RTC";
    I8042Config: DEV_I8042, "the keyboard controller", "the keyboard controller";
    PciHostConfig: DEV_PCI_HOST, "the PCI host bridge", "the PCI host bridge";
    AcpiPmConfig: DEV_ACPI_PM, "the ACPI power management", "the ACPI power management";
    VirtioBlkConfig: DEV_VIRTIO_BLK, "virtio-blk disks", "a disk";
    VirtioRngConfig: DEV_VIRTIO_RNG, "virtio-rng", "the entropy source";
    VirtioNetConfig: DEV_VIRTIO_NET, "virtio-net cards", "a network card";
    VirtioConsoleConfig: DEV_VIRTIO_CONSOLE, "virtio-console", "the virtio console";
}

/// Returns the flags whose conditions hold.
pub(crate) fn flags(all: &[(u32, bool)]) -> u32 {
    all.iter().filter(|(_, is_set)| *is_set).fold(0, |flags, (flag, _)| flags | flag)
}

/// Creates and realises a device.
///
/// # Errors
/// `Lacks` for a type that the module does not know, `Host` with what else was refused.
pub(crate) fn create<C: DeviceConfig>(vm: &VmFd, config: &C) -> Result<DeviceFd, ToolError> {
    let mut request = kvm_create_device { type_: C::KIND, fd: 0, flags: 0 };
    let fd = vm.create_device(&mut request).map_err(|e| match Errno::from_raw(e.errno()) {
        Errno::ENODEV => ToolError::Lacks(C::NAME),
        errno => ToolError::Host(C::ACTION, errno),
    })?;
    let addr = config.as_bytes().as_ptr() as u64;
    let attr = kvm_device_attr { group: abi::GROUP_CONFIG, attr: 0, addr, flags: 0 };
    fd.set_device_attr(&attr).map_err(ToolError::host(C::ACTION))?;
    Ok(fd)
}

/// Presses the power button of an ACPI power management device.
///
/// # Errors
/// `Host` when the module refuses.
pub fn press_power_button(power: &DeviceFd) -> Result<(), ToolError> {
    let (group, attr) = (abi::GROUP_COMMAND, abi::COMMAND_POWER_BUTTON);
    let attr = kvm_device_attr { group, attr, addr: 0, flags: 0 };
    power.set_device_attr(&attr).map_err(ToolError::host("press the power button"))
}

/// Bytes of output that a console's device lost.
pub fn lost_output(console: &impl AsRawFd) -> u64 {
    crate::sys::device_counter(console, abi::GROUP_COUNTERS, abi::COUNT_LOST).unwrap_or(0)
}

/// Seconds that a guest's clock is ahead of the host's UTC.
pub fn utc_offset(rtc: &impl AsRawFd) -> i64 {
    let offset = crate::sys::device_counter(rtc, abi::GROUP_CLOCK, abi::CLOCK_UTC_OFFSET);
    offset.map_or(0, |offset| i64::from_le_bytes(offset.to_le_bytes()))
}

/// Whether the module knows a device type, asked without creating one.
pub fn is_known(vm: &VmFd, kind: u32) -> bool {
    let mut request = kvm_create_device { type_: kind, fd: 0, flags: KVM_CREATE_DEVICE_TEST };
    crate::sys::test_device(vm, &mut request)
}
