// SPDX-License-Identifier: GPL-2.0

//! Tests of what the processor manuals define.

mod addr;
mod cr;
mod mitigation;
mod xsave;
