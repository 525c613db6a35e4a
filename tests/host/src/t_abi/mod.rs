// SPDX-License-Identifier: GPL-2.0

//! Tests of the ioctl ABI: numbers, layouts, capabilities and views.

mod caps;
mod layout;
mod nr;
mod rvmm;
mod views;
