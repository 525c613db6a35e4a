// SPDX-License-Identifier: GPL-2.0

//! What the processor manuals define: addresses, registers, MSRs and exceptions as types. And the few types of no
//! device and no processor that every folder may use: [`ring`], [`rule`], [`slice`].
//!
//! Nothing here knows of a guest, a device or Linux. The two vendor backends, the memory
//! management and the devices all speak in these types, so a guest physical address can never be
//! taken for a host one.

#![forbid(unsafe_code)]

pub(crate) mod addr;
pub(crate) mod cpuid;
pub(crate) mod cr;
pub(crate) mod exception;
pub(crate) mod hyperv;
pub(crate) mod mitigation;
pub(crate) mod msr;
pub(crate) mod ring;
pub(crate) mod rule;
pub(crate) mod segment;
pub(crate) mod slice;
pub(crate) mod time;
pub(crate) mod xsave;
