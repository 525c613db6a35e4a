// SPDX-License-Identifier: GPL-2.0

//! The instruction emulator: a decoder and an executor over a [`Machine`].

pub(crate) mod machine;
