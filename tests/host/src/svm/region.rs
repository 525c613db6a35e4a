// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the pages that SVM's processors read and write: the VMCB is a value, and an entry calls what the
//! test wrote down, the [`VmcbScript`].

use super::linear::confine;
use super::vmcb::{
    CleanBits, ControlArea, InterceptCr, InterceptVector3, InterceptVector4, SaveArea, Vmcb, EVENT_VALID,
    V_IRQ, V_TPR,
};
use crate::arch::exception::ExceptionVector;
use crate::host::cpu::PinnedCpu;
use crate::host::processor::registers;
use crate::mmu::asid::{AsidFlush, AsidPool, AsidTag};
use crate::vcpu::backend::TableRoot;
use std::sync::Mutex;
use zerocopy::FromZeros;

/// What a guest does with an entry.
pub(crate) type VmcbScript = Box<dyn FnMut(&mut VmcbEntry<'_>) + Send>;

/// An entry, of which the guest makes an exit.
pub(crate) struct VmcbEntry<'a> {
    control: &'a mut ControlArea,
    /// The guest's registers.
    pub(crate) save: &'a mut SaveArea,
    /// The general registers.
    pub(crate) gprs: &'a mut [u64; 16],
}

impl VmcbEntry<'_> {
    /// Returns EVENTINJ, where it is valid.
    pub(crate) fn event(&self) -> Option<u64> {
        Some(self.control.event_inj).filter(|e| e & EVENT_VALID != 0)
    }

    /// Returns the intercepts of control registers.
    pub(crate) fn intercepts_cr(&self) -> InterceptCr {
        InterceptCr::from_bits_retain(self.control.intercept_cr)
    }

    /// Returns whether that exception exits.
    pub(crate) fn intercepts_exception(&self, vector: ExceptionVector) -> bool {
        self.control.intercept_exc & 1 << vector.0 != 0
    }

    /// Exits, with that in EXITINFO1.
    pub(crate) fn exit(&mut self, code: u64, info1: u64) {
        (self.control.exit_code, self.control.exit_info1) = (code, info1);
    }

    /// The exit cuts a delivery short: EXITINTINFO.
    pub(crate) fn cut_short(&mut self, event: u64) {
        self.control.exit_int_info = event;
    }
}

/// Root operation on one CPU.
pub(crate) struct SvmWindow<'a> {
    pub(super) asids: &'a Mutex<AsidPool>,
    pub(super) cpu: &'a PinnedCpu,
}

impl SvmWindow<'_> {
    pub(super) fn shield(&mut self) {}

    pub(super) fn cpu_id(&self) -> u32 {
        self.cpu.id()
    }

    pub(super) fn assign_asid(&mut self, tag: &mut AsidTag) -> (u32, AsidFlush) {
        let assigned = self.asids.lock().unwrap().assign(tag);
        (assigned.asid, if assigned.flush_all { AsidFlush::All } else { AsidFlush::Nothing })
    }

    pub(super) fn note_refused(&mut self) {}

    pub(super) fn tlb_control(&self, flush: AsidFlush) -> u32 {
        u32::from(flush != AsidFlush::Nothing)
    }
}

/// A VMCB.
pub(crate) struct VmcbPage {
    vmcb: Box<Vmcb>,
    script: VmcbScript,
    nested_paging: bool,
}

/// Where directory pointers lie.
pub(crate) const POINTERS: u64 = 0x5000;

impl VmcbPage {
    pub(super) fn new(script: VmcbScript, nested_paging: bool) -> VmcbPage {
        VmcbPage { vmcb: Box::new(Vmcb::new_zeroed()), script, nested_paging }
    }

    pub(super) fn has_nested_paging(&self) -> bool {
        self.nested_paging
    }

    pub(super) fn control(&self) -> &ControlArea {
        &self.vmcb.control
    }

    pub(super) fn save(&self) -> &SaveArea {
        &self.vmcb.save
    }

    pub(super) fn save_mut(&mut self, _fields: CleanBits) -> &mut SaveArea {
        &mut self.vmcb.save
    }

    pub(super) fn set_intercepts(&mut self, i3: InterceptVector3, i4: InterceptVector4, exceptions: u32) {
        let c = &mut self.vmcb.control;
        (c.intercept3, c.intercept4, c.intercept_exc) = (i3.bits(), i4.bits(), exceptions);
    }

    pub(super) fn intercept_cr(&mut self, which: InterceptCr, on: bool) {
        let c = &mut self.vmcb.control;
        c.intercept_cr = if on { c.intercept_cr | which.bits() } else { c.intercept_cr & !which.bits() };
    }

    pub(super) fn intercept3(&mut self, which: InterceptVector3, on: bool) {
        let c = &mut self.vmcb.control;
        c.intercept3 = if on { c.intercept3 | which.bits() } else { c.intercept3 & !which.bits() };
    }

    pub(super) fn intercept_exception(&mut self, vector: ExceptionVector, on: bool) {
        let c = &mut self.vmcb.control;
        let bit = 1 << vector.0;
        c.intercept_exc = if on { c.intercept_exc | bit } else { c.intercept_exc & !bit };
    }

    pub(super) fn intercept_dr(&mut self, on: bool) {
        self.vmcb.control.intercept_dr = if on { u32::MAX } else { 0 };
    }

    pub(super) fn intercept_msrs(&mut self, _all: bool) {}

    pub(super) fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.control.tsc_offset = offset;
    }

    pub(super) fn set_tpr(&mut self, cr8: u8) {
        let c = &mut self.vmcb.control;
        c.v_intr = c.v_intr & !V_TPR | u64::from(cr8);
    }

    pub(super) fn set_virtual_irq(&mut self, on: bool) {
        let c = &mut self.vmcb.control;
        c.v_intr = if on { c.v_intr | V_IRQ } else { c.v_intr & !V_IRQ };
    }

    pub(super) fn set_shadow(&mut self, on: bool) {
        self.vmcb.control.interrupt_shadow = u64::from(on);
    }

    pub(super) fn set_event(&mut self, event: u64) {
        self.vmcb.control.event_inj = event;
    }

    pub(super) fn place(&mut self, _window: &SvmWindow<'_>, root: &TableRoot<'_>, tag: (u32, u32)) {
        let c = &mut self.vmcb.control;
        (c.asid, c.tlb_control) = tag;
        c.ncr3 = root.hpa().0;
    }

    pub(super) fn run(&mut self, _window: &mut SvmWindow<'_>, root: &TableRoot<'_>, gprs: &mut [u64; 16]) {
        let Vmcb { control, save } = &mut *self.vmcb;
        assert_eq!(control.ncr3, root.hpa().0, "the vCPU was placed with the table that it walks");
        control.exit_int_info = 0;
        if !self.nested_paging {
            confine(save, root.as_linear().expect("tables from linear addresses"), POINTERS);
        }
        (self.script)(&mut VmcbEntry { control: &mut *control, save: &mut *save, gprs });
        control.event_inj = 0;
        // An exit switches DR7, and leaves the guest's DR6 where it is.
        registers(|r| r.dr6 = save.dr6);
    }
}
