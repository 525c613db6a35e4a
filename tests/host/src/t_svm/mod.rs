// SPDX-License-Identifier: GPL-2.0

//! Tests of svm.

mod caching;
mod exit;
mod features;
mod quirks;
mod step;
mod vcpu;
