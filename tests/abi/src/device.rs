// SPDX-License-Identifier: GPL-2.0

//! rvmm's own devices; skipped on a node that has none.

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

const CREATE_DEVICE: u64 = 0xc00c_aee0;
const SET_ATTR: u64 = 0x4018_aee1;
const GET_ATTR: u64 = 0x4018_aee2;
const HAS_ATTR: u64 = 0x4018_aee3;
const UART: u32 = 0x7276_0000;
const KEYBOARD: u32 = 0x7276_0002;
const POWER: u32 = 0x7276_0004;

fn unknown_type(c: &Ctx) {
    let mut d = kvm_create_device { type_: 0x7fff_ffff, ..Default::default() };

    refused(ioctl_with(&c.vm(), CREATE_DEVICE, &mut d), &[ENODEV]);
}

fn device(vm: &VmFd, type_: u32) -> DeviceFd {
    let mut d = kvm_create_device { type_, ..Default::default() };
    vm.create_device(&mut d).unwrap_or_else(|_| skip("no devices of rvmm"))
}

/// An attribute whose value is `value`.
fn attr(device: &DeviceFd, request: u64, group: u32, attr: u64, value: u32) -> Result<i32, i32> {
    let addr = &raw const value as u64;
    ioctl_with(device, request, &mut kvm_device_attr { flags: 0, group, attr, addr })
}

fn attributes(c: &Ctx) {
    let vm = c.vm();
    let (keyboard, power) = (device(&vm, KEYBOARD), device(&vm, POWER));

    for request in [SET_ATTR, GET_ATTR, HAS_ATTR] {
        for (group, number) in [(0, 1), (1, 0), (2, 0)] {
            refused(attr(&keyboard, request, group, number, 0), &[ENXIO]);
        }
    }
    attr(&keyboard, HAS_ATTR, 0, 0, 0).unwrap();
    attr(&power, HAS_ATTR, 1, 0, 0).unwrap();
    refused(attr(&keyboard, GET_ATTR, 0, 0, 0), &[EPERM]);
    refused(attr(&power, GET_ATTR, 1, 0, 0), &[EPERM]);
    attr(&keyboard, SET_ATTR, 0, 0, 0).unwrap();
    refused(attr(&keyboard, SET_ATTR, 0, 0, 0), &[EBUSY]);
}

fn bad_config(c: &Ctx) {
    let vm = c.vm();

    refused(attr(&device(&vm, KEYBOARD), SET_ATTR, 0, 0, 1), &[EINVAL]);
}

fn after_run(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    let keyboard = device(&g.vm, KEYBOARD);
    g.hlt();

    refused(attr(&keyboard, SET_ATTR, 0, 0, 0), &[EBUSY]);
}

fn console_room(c: &Ctx) {
    // mov dx, 0x3f8; mov cx, 0xffff; 1: in al, dx; loop 1b; hlt
    let mut g = Guest::new(c, &[0xba, 0xf8, 0x03, 0xb9, 0xff, 0xff, 0xec, 0xe2, 0xfd, HLT]);
    let uart = device(&g.vm, UART);
    let config = [0u32; 2];
    let addr = config.as_ptr() as u64;
    ioctl_with(&uart, SET_ATTR, &mut kvm_device_attr { flags: 0, group: 0, attr: 0, addr }).unwrap();
    let fd = uart.as_raw_fd();
    raw::fill(fd);
    assert!(!raw::is_writable(fd, 0), "it is full");

    let told = thread::spawn(move || raw::is_writable(fd, 20_000));
    thread::sleep(std::time::Duration::from_millis(200));
    g.hlt();

    assert!(told.join().unwrap(), "nobody told");
}
