// SPDX-License-Identifier: GPL-2.0

//! Tests of arch.

mod addr;
mod xsave;
