// SPDX-License-Identifier: GPL-2.0

//! What a client can do to a VM: the seam between the socket and the machine, where a test puts a stand-in.

use super::protocol::{Hello, Refusal, VmStats, VmStatus};
use crate::console::hub::ConsoleHub;

/// How a VM is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopRequest {
    /// By the power button, and by force after so many seconds, or as many as its settings say.
    Politely(Option<u32>),
    /// At once.
    ByForce,
}

/// A VM that is steered from outside.
///
/// Calls come from one thread, and each delays every other client: none may take longer than a second.
///
/// # Errors
/// Each method says why it does nothing.
#[allow(missing_docs)] // Each is what the request of its name asks for.
pub trait SteeredVm: Send + Sync {
    fn hello(&self) -> Hello;
    fn status(&self) -> VmStatus;
    fn stop(&self, how: StopRequest) -> Result<(), Refusal>;
    fn pause(&self) -> Result<(), Refusal>;
    fn resume(&self) -> Result<(), Refusal>;
    fn reset(&self) -> Result<(), Refusal>;
    fn nmi(&self) -> Result<(), Refusal>;
    fn stats(&self) -> Result<VmStats, Refusal>;
    /// Returns a text for each processor.
    fn debug(&self) -> Result<Vec<String>, Refusal>;
    fn console(&self) -> Result<&ConsoleHub, Refusal>;
}
