// SPDX-License-Identifier: GPL-2.0

//! Tests of vmx.

mod capability;
mod check;
mod event;
mod exit;
mod quirks;
mod vcpu;
mod vmcs;
