// SPDX-License-Identifier: GPL-2.0

//! Cargo wants a target in every package; this one stays empty.
