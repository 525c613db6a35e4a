// SPDX-License-Identifier: GPL-2.0

//! Shadow paging, on processors that keep every translation for as long as they may.
//!
//! | file | holds |
//! |---|---|
//! | [`memory`] | guest memory that remembers what each word was, and when |
//! | [`model`] | what a processor may find, by the guest's tables since its last flush |
//! | [`hardware`] | what a processor does with shadow pages |
//! | [`machine`] | processors that walk shadow pages, and a run loop around them |
//! | [`layout`] | small guests in each paging mode |
//! | [`random`] | any sequence of edits, flushes, accesses, and of what the host takes |
//! | [`faults`], [`writes`], [`host`] | cases, by what they are about |

mod faults;
pub(crate) mod hardware;
mod host;
pub(crate) mod layout;
pub(crate) mod machine;
mod memory;
mod model;
pub(crate) mod random;
mod writes;
