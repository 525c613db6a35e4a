// SPDX-License-Identifier: GPL-2.0

//! rvmm's own devices; skipped on a node that has none.

use crate::abi::{nr, rvmm};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, skip, Ctx, Test};
use crate::raw::{self, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::{DeviceFd, VmFd};
use libc::{EBUSY, EINVAL, ENODEV, ENXIO, EPERM};
use std::os::fd::AsRawFd;
use std::thread;

pub const TESTS: &[Test] = &[
    ("device: an unknown type is refused", unknown_type),
    ("device: attributes are known, and set only", attributes),
    ("device: a configuration with unknown flags is refused", bad_config),
    ("device: none joins a machine that has run", after_run),
    ("device: who waits for room in the console is told of it", console_room),
];

fn unknown_type(c: &Ctx) {
    let mut d = kvm_create_device { type_: 0x7fff_ffff, ..Default::default() };

    refused(ioctl_with(&c.vm(), nr::CREATE_DEVICE, &mut d), &[ENODEV]);
}

fn device(vm: &VmFd, type_: u32) -> DeviceFd {
    let mut d = kvm_create_device { type_, ..Default::default() };
    vm.create_device(&mut d).unwrap_or_else(|_| skip("no devices of rvmm"))
}

/// An attribute whose value is `value`.
fn attr(device: &DeviceFd, request: u32, group: u32, attr: u64, value: u32) -> Result<i32, i32> {
    let addr = &raw const value as u64;
    ioctl_with(device, request, &mut kvm_device_attr { flags: 0, group, attr, addr })
}

fn attributes(c: &Ctx) {
    let vm = c.vm();
    let (keyboard, power) = (device(&vm, rvmm::DEV_I8042), device(&vm, rvmm::DEV_ACPI_PM));

    let button = (rvmm::GROUP_COMMAND, rvmm::COMMAND_POWER_BUTTON);
    for request in [nr::SET_DEVICE_ATTR, nr::GET_DEVICE_ATTR, nr::HAS_DEVICE_ATTR] {
        for (group, number) in [(rvmm::GROUP_CONFIG, 1), button, (rvmm::GROUP_COUNTERS, rvmm::COUNT_LOST)] {
            refused(attr(&keyboard, request, group, number, 0), &[ENXIO]);
        }
    }
    attr(&keyboard, nr::HAS_DEVICE_ATTR, rvmm::GROUP_CONFIG, 0, 0).unwrap();
    attr(&power, nr::HAS_DEVICE_ATTR, button.0, button.1, 0).unwrap();
    refused(attr(&keyboard, nr::GET_DEVICE_ATTR, rvmm::GROUP_CONFIG, 0, 0), &[EPERM]);
    refused(attr(&power, nr::GET_DEVICE_ATTR, button.0, button.1, 0), &[EPERM]);
    attr(&keyboard, nr::SET_DEVICE_ATTR, rvmm::GROUP_CONFIG, 0, 0).unwrap();
    refused(attr(&keyboard, nr::SET_DEVICE_ATTR, rvmm::GROUP_CONFIG, 0, 0), &[EBUSY]);
}

fn bad_config(c: &Ctx) {
    let vm = c.vm();

    refused(attr(&device(&vm, rvmm::DEV_I8042), nr::SET_DEVICE_ATTR, rvmm::GROUP_CONFIG, 0, 1), &[EINVAL]);
}

fn after_run(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    let keyboard = device(&g.vm, rvmm::DEV_I8042);
    g.hlt();

    refused(attr(&keyboard, nr::SET_DEVICE_ATTR, rvmm::GROUP_CONFIG, 0, 0), &[EBUSY]);
}

fn console_room(c: &Ctx) {
    // mov dx, 0x3f8; mov cx, 0xffff; 1: in al, dx; loop 1b; hlt
    let mut g = Guest::new(c, &[0xba, 0xf8, 0x03, 0xb9, 0xff, 0xff, 0xec, 0xe2, 0xfd, HLT]);
    let uart = device(&g.vm, rvmm::DEV_UART);
    let config = rvmm::UartConfig { index: 0, flags: 0 };
    let (group, addr) = (rvmm::GROUP_CONFIG, &raw const config as u64);
    ioctl_with(&uart, nr::SET_DEVICE_ATTR, &mut kvm_device_attr { flags: 0, group, attr: 0, addr }).unwrap();
    let fd = uart.as_raw_fd();
    raw::fill(fd);
    assert!(!raw::is_writable(fd, 0), "it is full");

    let told = thread::spawn(move || raw::is_writable(fd, 20_000));
    thread::sleep(std::time::Duration::from_millis(200));
    g.hlt();

    assert!(told.join().unwrap(), "nobody told");
}
