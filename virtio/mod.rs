// SPDX-License-Identifier: GPL-2.0

//! Virtio devices as pure state machines over guest memory.

#![forbid(unsafe_code)]
