// SPDX-License-Identifier: GPL-2.0

//! What user space is given holds nothing of the kernel's memory: zeros where nothing is.

use crate::abi::nr;
use crate::harness::{Ctx, Test};
use crate::raw::{ioctl_with, mapping};
use kvm_bindings::*;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = &[
    ("leaks: a new vcpu's mapping is all zeros", run_pages),
    ("leaks: reserved fields of a vcpu's structures are zeros", vcpu_structures),
    ("leaks: reserved fields of a vm's structures are zeros", vm_structures),
];

fn run_pages(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let pages = mapping(&vcpu, c.kvm.get_vcpu_mmap_size().unwrap());

    assert_eq!(pages.iter().position(|&b| b != 0), None, "the first byte that is not 0");
}

/// Asks for a structure, whose place holds ones before, and checks that these ranges of it are zeros.
#[track_caller]
fn zeros(fd: &impl AsRawFd, request: u32, ranges: impl IntoIterator<Item = Range<usize>>) {
    let mut bytes = [0xffu8; 1024];

    ioctl_with(fd, request, &mut bytes).unwrap();

    for range in ranges {
        assert!(bytes[range.clone()].iter().all(|&b| b == 0), "{request:x}: bytes {range:?}");
    }
}

/// The bytes from a field of a structure to the end of it, or to another field.
macro_rules! bytes {
    ($t:ty, $($from:tt).+) => { offset_of!($t, $($from).+)..size_of::<$t>() };
    ($t:ty, $($from:tt).+, $($to:tt).+) => { offset_of!($t, $($from).+)..offset_of!($t, $($to).+) };
}

fn vcpu_structures(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let segments = offset_of!(kvm_sregs, cs)..offset_of!(kvm_sregs, gdt);
    let mut sregs: Vec<_> = segments
        .step_by(size_of::<kvm_segment>())
        .map(|at| at + offset_of!(kvm_segment, padding)..at + size_of::<kvm_segment>())
        .collect();
    sregs.push(bytes!(kvm_sregs, gdt.padding, idt));
    sregs.push(bytes!(kvm_sregs, idt.padding, cr0));
    let used = vcpu.get_xcrs().unwrap().nr_xcrs as usize;
    let first = offset_of!(kvm_xcrs, xcrs) + used * size_of::<kvm_xcr>();

    zeros(&vcpu, nr::GET_SREGS, sregs);
    zeros(&vcpu, nr::GET_FPU, [bytes!(kvm_fpu, pad1, last_opcode), bytes!(kvm_fpu, pad2)]);
    zeros(
        &vcpu,
        nr::GET_VCPU_EVENTS,
        [
            bytes!(kvm_vcpu_events, nmi.pad, sipi_vector),
            bytes!(kvm_vcpu_events, reserved, exception_has_payload),
        ],
    );
    zeros(&vcpu, nr::GET_DEBUGREGS, Some(bytes!(kvm_debugregs, reserved)));
    zeros(&vcpu, nr::GET_XCRS, Some(first..size_of::<kvm_xcrs>()));
}

fn vm_structures(c: &Ctx) {
    let vm = c.vm();
    vm.create_irq_chip().unwrap();
    vm.create_pit2(kvm_pit_config::default()).unwrap();

    zeros(&vm, nr::GET_CLOCK, [bytes!(kvm_clock_data, pad0, realtime), bytes!(kvm_clock_data, pad)]);
    zeros(&vm, nr::GET_PIT2, Some(bytes!(kvm_pit_state2, reserved)));
}
