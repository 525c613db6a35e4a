// SPDX-License-Identifier: GPL-2.0

//! Tests of the files of `host/` that call nothing of the host's.

mod iovec;
