// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the pages that VMX's processors read and write: the VMCS is a table of fields, and an entry calls what
//! the test wrote down, the [`VmcsScript`].

#[path = "../../../../vmx/region/registers.rs"]
mod registers;

use super::capability::{PrimaryControls, VmxSetup};
use super::exit::{EntryRefusal, ExitReport};
use super::linear::{cr0_host, LINEAR_EXCEPTIONS};
use super::switched::SwitchedMsrs;
use super::vmcs::{GuestField, OwnedField, VmcsField};
use crate::arch::addr::Hpa;
use crate::arch::exception::ExceptionVector;
use crate::host::cpu::PinnedCpu;
use crate::mmu::asid::AsidTag;
use crate::mmu::format::{Ept, HardwareRoot};
use crate::vcpu::backend::TableRoot;
use crate::vcpu::exit::WATCHED_EXCEPTIONS;
use std::cell::Cell;
use std::collections::BTreeMap;

/// What a guest does with an entry.
pub(crate) type VmcsScript = Box<dyn FnMut(&mut VmcsEntry<'_>) + Send>;

/// An entry, of which the guest makes an exit.
pub(crate) struct VmcsEntry<'a> {
    fields: &'a mut BTreeMap<u32, u64>,
    pub(crate) pointers: Option<&'a [u8]>,
    /// The general registers.
    pub(crate) gprs: &'a mut [u64; 16],
    /// What the processor tells of the exit.
    pub(crate) report: ExitReport,
    /// SYSCALL works.
    pub(crate) has_syscall: bool,
    pub(crate) exceptions: u64,
    pub(crate) primary: PrimaryControls,
}

impl VmcsEntry<'_> {
    /// Returns a field.
    pub(crate) fn field(&self, field: impl VmcsField) -> u64 {
        self.fields.get(&field.encoding()).copied().unwrap_or(0)
    }

    /// Changes a field, as the guest does.
    pub(crate) fn set(&mut self, field: impl VmcsField, value: u64) {
        self.fields.insert(field.encoding(), value);
    }
}

/// Root operation on one CPU.
pub(crate) struct VmxWindow<'a> {
    _cpu: &'a PinnedCpu,
}

impl<'a> VmxWindow<'a> {
    pub(super) fn new(cpu: &'a PinnedCpu) -> VmxWindow<'a> {
        VmxWindow { _cpu: cpu }
    }
}

/// Where directory pointers lie.
pub(crate) const POINTERS: u64 = 0x5000;

/// A page at [`POINTERS`].
struct LowPage([u8; 32]);

impl LowPage {
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn hpa(&self) -> Hpa {
        Hpa(POINTERS)
    }
}

struct LinearTables {
    pointers: LowPage,
    walked: Option<HardwareRoot>,
    syscalls: bool,
}

thread_local! {
    /// The processor's EFER.SCE; the host's is set.
    static SYSCALLS: Cell<bool> = const { Cell::new(true) };
}

fn set_syscalls(on: bool) -> bool {
    SYSCALLS.replace(on)
}

/// A VMCS.
pub(crate) struct VmcsPage {
    fields: BTreeMap<u32, u64>,
    script: VmcsScript,
    setup: VmxSetup,
    cr4_guest: u64,
    linear: Option<Box<LinearTables>>,
    refusal: Option<EntryRefusal>,
    primary: u32,
    exceptions: u64,
    msrs: SwitchedMsrs,
    is_live: bool,
    tpr: u8,
}

impl VmcsPage {
    pub(super) fn new(setup: &VmxSetup, script: VmcsScript) -> VmcsPage {
        let tables = LinearTables { pointers: LowPage([0; 32]), walked: None, syscalls: false };
        let linear = (!setup.has_ept()).then(|| Box::new(tables));
        let mut exceptions = WATCHED_EXCEPTIONS.into();
        if linear.is_some() {
            exceptions |= LINEAR_EXCEPTIONS;
        }
        VmcsPage {
            fields: BTreeMap::from([(OwnedField::Cr0Mask.encoding(), cr0_host(setup))]),
            script,
            setup: *setup,
            cr4_guest: 0,
            linear,
            refusal: None,
            primary: setup.primary,
            exceptions,
            msrs: SwitchedMsrs::default(),
            is_live: false,
            tpr: 0,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.is_live
    }

    fn vmread(&self, field: u32) -> u64 {
        if self.is_live {
            self.fields.get(&field).copied().unwrap_or(0)
        } else {
            0
        }
    }

    /// Writes a field that this processor has.
    fn vmwrite(&mut self, field: u32, value: u64) {
        if !self.is_live {
            return;
        }
        let is_absent =
            [GuestField::Pat, GuestField::Efer, GuestField::Pdpte0].map(|f| f.encoding()).contains(&field)
                || field == OwnedField::EptPointer.encoding();
        assert!(self.linear.is_none() || !is_absent, "{field:#x} exists with EPT alone");
        self.fields.insert(field, value);
    }

    pub(super) fn read(&self, field: GuestField) -> u64 {
        self.vmread(field.encoding())
    }

    pub(super) fn write(&mut self, field: GuestField, value: u64) {
        self.vmwrite(field.encoding(), value);
    }

    fn own(&mut self, field: OwnedField, value: u64) {
        self.vmwrite(field.encoding(), value);
    }

    pub(super) fn set_primary(&mut self, which: PrimaryControls, on: bool) {
        let which = which.intersection(PrimaryControls::CHANGING).bits();
        self.primary = if on { self.primary | which } else { self.primary & !which };
    }

    pub(super) fn end_halt(&mut self) {}

    pub(super) fn set_breakpoint_exits(&mut self, on: bool) {
        let bit = 1u64 << ExceptionVector::BP.0;
        self.exceptions = if on { self.exceptions | bit } else { self.exceptions & !bit };
    }

    pub(super) fn switched(&self) -> SwitchedMsrs {
        self.msrs
    }

    pub(super) fn set_switched(&mut self, msrs: SwitchedMsrs) {
        self.msrs = msrs;
    }

    pub(super) fn tpr(&self) -> u8 {
        self.tpr
    }

    pub(super) fn set_tpr(&mut self, tpr: u8, _threshold: u8) {
        self.tpr = tpr;
    }

    pub(super) fn load(&mut self, _window: &mut VmxWindow<'_>, _rflags: u64) -> Result<(), ()> {
        if let (false, Some(linear)) = (self.is_live, &self.linear) {
            set_syscalls(linear.syscalls);
        }
        self.is_live = true;
        Ok(())
    }

    pub(super) fn flush_l1d(&self) {}

    /// The window ends with it.
    pub(super) fn leave(&mut self) {
        self.is_live = false;
        set_syscalls(true);
    }

    pub(super) fn run(
        &mut self,
        _window: &mut VmxWindow<'_>,
        (root, format): (&TableRoot<'_>, &Ept),
        _tag: (&mut AsidTag, bool),
        gprs: &mut [u64; 16],
    ) -> ExitReport {
        if self.linear.is_some() {
            self.confine(root);
        } else {
            self.own(OwnedField::EptPointer, format.eptp(root.hpa()));
        }
        let mut entry = VmcsEntry {
            fields: &mut self.fields,
            pointers: self.linear.as_ref().map(|l| &l.pointers.0[..]),
            gprs,
            report: ExitReport::default(),
            has_syscall: SYSCALLS.get(),
            exceptions: self.exceptions,
            primary: PrimaryControls::from_bits_retain(self.primary),
        };
        (self.script)(&mut entry);
        entry.report
    }
}
