// SPDX-License-Identifier: GPL-2.0

//! The contract between the run loop and a vendor's virtualization extensions.
//!
//! `Vm<B>` and `Vcpu<B>` are generic over [`VendorBackend`]: the choice is made once, when the module
//! loads, and no call on the exit path is indirect.

use super::controls::{ControlGroups, EntryControls};
use super::event::{EventBlocking, GuestEvent};
use super::exit::{RawExit, VmExit};
use super::state::{StateGroups, VcpuState};
use crate::arch::addr::Hpa;
use crate::arch::cr::Cr4;
use crate::host::cpu::PinnedCpu;
use crate::mmu::format::{HardwareRoot, TableFormat};
use core::marker::PhantomData;
use kernel::prelude::*;

/// Why this machine cannot run guests. Each is one line in the kernel's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnsupportedHost {
    /// The processor has no such extension.
    NoExtension,
    /// The firmware switched it off and locked the switch.
    Firmware,
    /// The processor lacks something we need.
    Lacks(&'static str),
    /// CPUs of this machine differ in what matters.
    MixedCpus,
    /// The host encrypts its memory.
    EncryptedMemory,
    /// The host takes its events by FRED, which an NMI or machine check after an exit would miss.
    Fred,
}

impl UnsupportedHost {
    /// Returns what speaks against a host that has this CR4, if anything.
    pub(crate) fn of_cr4(cr4: u64) -> Option<UnsupportedHost> {
        (cr4 & Cr4::FRED.bits() != 0).then_some(UnsupportedHost::Fred)
    }

    /// Says it in the kernel's log. Returns the error of whoever loads the module.
    pub(crate) fn report(self) -> Error {
        match self {
            UnsupportedHost::NoExtension => pr_err!("this processor has neither VMX nor SVM\n"),
            UnsupportedHost::Firmware => {
                pr_err!("virtualization is disabled by the firmware; enable it in the firmware's setup\n")
            }
            UnsupportedHost::Lacks(what) => pr_err!("this processor lacks {}\n", what),
            UnsupportedHost::MixedCpus => {
                pr_err!("the CPUs of this machine differ in their virtualization features\n")
            }
            UnsupportedHost::Fred => {
                pr_err!("the host takes events by FRED, which is not supported; boot with fred=off\n")
            }
            UnsupportedHost::EncryptedMemory => {
                pr_err!("the host's memory is encrypted, which is not supported; boot with mem_encrypt=off\n")
            }
        }
        ENODEV
    }
}

/// The root of what the processor walks, borrowed from its owner: as long as this lives, the tables do.
#[derive(Clone, Copy)]
pub(crate) struct TableRoot<'a> {
    /// Of a second-level table.
    hpa: Hpa,
    /// Instead of one: tables from linear addresses.
    linear: Option<HardwareRoot>,
    _owner: PhantomData<&'a ()>,
}

impl<'a> TableRoot<'a> {
    /// Wraps the address of a second-level table's root; `owner` is what keeps the table alive.
    #[inline(always)]
    pub(crate) fn new<T>(hpa: Hpa, _owner: &'a T) -> TableRoot<'a> {
        TableRoot { hpa, linear: None, _owner: PhantomData }
    }

    /// Wraps a root of tables from linear addresses; `owner` is what keeps them alive.
    pub(crate) fn linear<T>(root: HardwareRoot, _owner: &'a T) -> TableRoot<'a> {
        TableRoot { hpa: Hpa(0), linear: Some(root), _owner: PhantomData }
    }

    /// Returns the physical address of the root page of a second-level table.
    #[inline(always)]
    pub(crate) fn hpa(&self) -> Hpa {
        self.hpa
    }

    /// Returns the root of tables from linear addresses, if it is one.
    #[inline(always)]
    pub(crate) fn as_linear(&self) -> Option<&HardwareRoot> {
        self.linear.as_ref()
    }
}

/// What decides, beside memory, which bytes the instruction at RIP consists of and how they are read,
/// in the vendor's own encoding: to be compared, but for `cpl`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CodeContext {
    /// CR3.
    pub(crate) cr3: u64,
    /// CR4.
    pub(crate) cr4: u64,
    /// EFER.
    pub(crate) efer: u64,
    /// The attributes of CS.
    pub(crate) cs: u16,
    /// The privilege level. It does not matter for an instruction that the processor has fetched.
    pub(crate) cpl: u8,
}

impl CodeContext {
    /// Returns whether both give the same instruction.
    #[inline(always)]
    pub(crate) fn fetches_as(&self, other: &CodeContext) -> bool {
        self.cr3 == other.cr3 && self.cr4 == other.cr4 && self.efer == other.efer && self.cs == other.cs
    }
}

/// A vendor's extension.
pub(crate) trait VendorBackend: Sized + Send + Sync + 'static {
    /// One virtual processor.
    type Vcpu: BackendVcpu + Unpin;
    /// The format of its second-level table.
    type Format: TableFormat + Copy + Send + Sync + Unpin;
    /// The extension's name for the log.
    const NAME: &'static str;
    /// Whose numbers a [`RawExit`] holds, as the ABI names the vendors.
    const VENDOR: u32;
    /// The processor has PAE's directory pointers in registers while a guest runs: [`VcpuState::pdptes`].
    const HAS_PDPTES: bool;
    /// Some of its processors show guests what is in the host's caches: [`EntryControls::hide_host_data`] is asked for.
    /// The first entry of a window hides it by itself.
    const SHOWS_CACHES: bool;

    /// Enters root operation on the calling CPU; `None` for a CPU that was not there at load.
    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<<Self::Vcpu as BackendVcpu>::Window<'a>>;
    /// Makes a virtual processor in the state after reset.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn new_vcpu(&self) -> Result<Self::Vcpu>;
    /// Returns the format of the second-level tables on this machine. `None`: there are none, or they are not to be used;
    /// processors walk shadow pages, and the guest's control registers and page faults exit.
    fn format(&self) -> Option<Self::Format>;
}

/// One virtual processor in the vendor's terms.
pub(crate) trait BackendVcpu: Send {
    /// Guard of root operation on one CPU: dropping it gives the CPU back as it was.
    type Window<'a>;

    /// Runs the guest until something needs handling, and returns what the processor reported.
    ///
    /// General registers, RIP and RFLAGS go in from `state` and come back; the groups must have been
    /// flushed before. The root is another one than at the last entry of the window only where translations are flushed
    /// as well.
    fn enter(
        &mut self,
        window: &mut Self::Window<'_>,
        root: &TableRoot<'_>,
        state: &mut VcpuState,
    ) -> RawExit;
    /// Ends the step that [`Self::write_controls`] made of the last entry, where it did so for an NMI that
    /// waits. Returns whether the exit, of which [`Self::enter`] returned `raw`, was the step's own.
    fn end_step(&mut self, _raw: RawExit, _state: &mut VcpuState) -> bool {
        false
    }
    /// Says what the last entry ended with; `raw` is what [`Self::enter`] returned. Once for each entry.
    fn exit(&mut self, raw: RawExit, state: &mut VcpuState) -> VmExit;
    /// Keeps what is in the processor only, before the window is dropped; [`Self::read_state`] gives the
    /// same afterwards. Once for each window.
    fn leave(&mut self, window: &mut Self::Window<'_>);
    /// Fetches groups of registers.
    fn read_state(&self, want: StateGroups, out: &mut VcpuState);
    /// Fetches of [`StateGroups::SEGMENTS`] at least CS and the privilege level.
    #[inline]
    fn read_code(&self, out: &mut VcpuState) {
        self.read_state(StateGroups::SEGMENTS, out);
    }
    /// Sets groups of registers.
    fn write_state(&mut self, dirty: StateGroups, from: &VcpuState);
    /// Takes over what the coming entry is asked for, as far as it has changed. An NMI window that is taken back has
    /// exited: the IRET that ends the NMI in service is about to run.
    fn write_controls(&mut self, dirty: ControlGroups, from: &EntryControls);
    /// Returns the address of the next instruction where the processor told it with the last exit.
    fn next_rip(&self, raw: &RawExit) -> Option<u64>;
    /// Returns how the instruction that exited was fetched; `None` where the exit was not that of the
    /// instruction at RIP, or where [`Self::next_rip`] is always known.
    #[inline(always)]
    fn code_context(&self) -> Option<CodeContext> {
        None
    }
    /// Returns the bytes of the instruction where the processor told them with the last exit.
    fn insn_bytes(&self) -> Option<&[u8]>;
    /// Delivers `event` with the next entry.
    fn inject(&mut self, event: GuestEvent);
    /// Takes back an event whose delivery the last exit interrupted, if it must be delivered again.
    fn take_interrupted(&mut self) -> Option<GuestEvent>;
    /// Returns whether the last exit interrupted the delivery of an event, INT n included: it is then not the
    /// exit of the instruction at RIP.
    fn was_delivering(&self) -> bool;
    /// Returns what keeps the guest from taking events.
    fn blocking(&self) -> EventBlocking;
    /// Sets what keeps the guest from taking events.
    fn set_blocking(&mut self, blocking: EventBlocking);
    /// Returns the task priority: CR8 as the guest left it.
    fn tpr(&self) -> u8;
}

impl VcpuState {
    /// Fetches the groups in `want` that have not been fetched since the last exit.
    #[inline]
    pub(crate) fn fetch<V: BackendVcpu>(&mut self, want: StateGroups, hw: &V) {
        // Not those that are here: what was changed in them and not yet written back would be lost.
        let missing = want.difference(self.valid);
        if !missing.is_empty() {
            hw.read_state(missing, self);
            self.valid |= missing;
        }
    }

    /// Fetches CS and the privilege level, unless [`StateGroups::SEGMENTS`] has been fetched.
    #[inline]
    pub(crate) fn fetch_code<V: BackendVcpu>(&mut self, hw: &V) {
        if !self.valid.contains(StateGroups::SEGMENTS) {
            hw.read_code(self);
        }
    }
}
