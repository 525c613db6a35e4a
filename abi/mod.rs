// SPDX-License-Identifier: GPL-2.0

//! KVM's ioctl ABI as plain data: numbers, structures and capabilities.
//!
//! The layouts are those of the Linux user-space headers `linux/kvm.h` and `asm/kvm.h` for x86-64. A
//! struct here has the header's fields in the header's order, without the prefix `kvm_` in its name.
//! Padding is always a named field, so that no byte handed to user space is left unwritten.
//!
//! | module | holds |
//! |---|---|
//! | [`nr`] | ioctl request numbers |
//! | [`sys`] | structs of the `/dev` node: CPUID and MSR lists |
//! | [`vm`] | structs of a VM: memory, interrupts, clock, devices |
//! | [`vcpu`] | structs of a vCPU: registers and events |
//! | [`run`] | the page shared with user space while a vCPU runs |
//! | [`stats`] | the layout of binary statistics |
//! | [`caps`] | capability numbers and their answers |
//! | [`rvmm`] | what rvmm adds: device types and their configuration |
//!
//! Where C has a union, the struct holds plain bytes or the widest integer, and methods give the views:
//! no value of these types is ever invalid, whatever user space wrote.

#![forbid(unsafe_code)]
#![expect(dead_code, reason = "the ABI is written down whole; the module uses what it implements")]

/// Declares ABI structs: `repr(C)`, any bytes valid, no hidden padding, size asserted.
macro_rules! abi_struct {
    ($($(#[$doc:meta])* struct $name:ident = $size:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(
                Clone, Copy, Debug, PartialEq, Eq,
                zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes,
                zerocopy_derive::Immutable, zerocopy_derive::KnownLayout,
            )]
            pub(crate) struct $name { $($(#[$fdoc])* pub(crate) $field: $ty,)* }

            static_assertions::const_assert_eq!(core::mem::size_of::<$name>(), $size);
        )*
    };
}
#[allow(unused_imports, reason = "who shares these files with the module has no structures of its own")]
pub(crate) use abi_struct;

pub(crate) mod caps;
pub(crate) mod nr;
pub(crate) mod run;
pub(crate) mod rvmm;
pub(crate) mod stats;
pub(crate) mod sys;
pub(crate) mod vcpu;
pub(crate) mod vm;
