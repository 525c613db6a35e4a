// SPDX-License-Identifier: GPL-2.0

//! Tests of chipset.

mod clock;
mod i8042;
pub(crate) mod ops;
mod pic;
mod pit;
mod pm;
mod rtc;
mod uart;
