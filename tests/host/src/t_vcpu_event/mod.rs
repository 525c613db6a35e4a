// SPDX-License-Identifier: GPL-2.0

//! Tests of the vCPU's events and of the accesses that user space answers.

mod event;
mod io;
