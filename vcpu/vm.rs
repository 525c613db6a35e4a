// SPDX-License-Identifier: GPL-2.0

//! The VM as its vCPUs see it: the machine, the table that shows its memory, and what the host's processors can.

use super::backend::VendorBackend;
use super::second_level::SecondLevel;
use crate::arch::mitigation::{HostFlags, SpecFeatures};
use crate::host::mitigation;
use crate::host::msr::has_tsc_aux;
use crate::host::notifier::{self, RegisteredTarget};
use crate::machine::settings::ModuleSettings;
use crate::machine::whole::GuestMachine;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A virtual machine.
#[pin_data]
pub(crate) struct Vm<B: VendorBackend> {
    /// The vendor.
    pub(crate) backend: Arc<B>,
    /// The table that shows guest memory to the processor; dropped before the machine, since its notifier goes first.
    pub(crate) space: RegisteredTarget<SecondLevel<B::Format>>,
    /// Everything but the processors.
    #[pin]
    pub(crate) machine: GuestMachine,
    /// The processor has TSC_AUX.
    pub(crate) has_tsc_aux: bool,
    /// What the processor can do against speculation.
    pub(crate) speculation: SpecFeatures,
    /// What the host's kernel found about its processors.
    pub(crate) host_flags: HostFlags,
    /// Vcpus that run on a CPU after another are kept apart by a barrier.
    pub(crate) separates_guests: bool,
}

impl<B: VendorBackend> Vm<B> {
    /// Makes an empty VM for the calling process.
    ///
    /// # Errors
    /// `ENOMEM`, `EINTR`.
    pub(crate) fn new(backend: Arc<B>, settings: ModuleSettings) -> Result<Arc<Vm<B>>> {
        let host_flags = mitigation::host_flags();
        let small_code = host_flags.wants_small_code(settings.nx_huge_pages);
        let (machine, ram, mailboxes) = GuestMachine::new(settings)?;
        let space = SecondLevel::new(backend.format(), ram, mailboxes, small_code)?;
        // After all that it looks at: from here on the host calls back.
        let space = notifier::Notifier::register(space)?;
        Arc::pin_init(
            pin_init!(Vm {
                backend,
                space,
                machine <- machine,
                has_tsc_aux: has_tsc_aux(),
                speculation: SpecFeatures::of_this_cpu(),
                host_flags,
                separates_guests: host_flags.wants_guest_barrier(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }
}
