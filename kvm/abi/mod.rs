// SPDX-License-Identifier: GPL-2.0

//! KVM's ioctl ABI as plain data: numbers, structures and capabilities.

#![forbid(unsafe_code)]
