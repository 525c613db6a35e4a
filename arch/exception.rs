// SPDX-License-Identifier: GPL-2.0

//! Exceptions as the guest receives them.
//!
//! SDM, "Exception and Interrupt Reference"; APM, "Vectors".

use super::addr::Gva;

/// An exception or interrupt vector number, 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExceptionVector(pub(crate) u8);

impl ExceptionVector {
    /// Divide error, #DE.
    pub(crate) const DE: ExceptionVector = ExceptionVector(0);
    /// Debug, #DB.
    pub(crate) const DB: ExceptionVector = ExceptionVector(1);
    /// Non-maskable interrupt.
    pub(crate) const NMI: ExceptionVector = ExceptionVector(2);
    /// Breakpoint, #BP.
    pub(crate) const BP: ExceptionVector = ExceptionVector(3);
    /// Overflow, #OF.
    pub(crate) const OF: ExceptionVector = ExceptionVector(4);
    /// Invalid opcode, #UD.
    pub(crate) const UD: ExceptionVector = ExceptionVector(6);
    /// Double fault, #DF.
    pub(crate) const DF: ExceptionVector = ExceptionVector(8);
    /// Invalid TSS, #TS.
    pub(crate) const TS: ExceptionVector = ExceptionVector(10);
    /// Segment not present, #NP.
    pub(crate) const NP: ExceptionVector = ExceptionVector(11);
    /// Stack fault, #SS.
    pub(crate) const SS: ExceptionVector = ExceptionVector(12);
    /// General protection, #GP.
    pub(crate) const GP: ExceptionVector = ExceptionVector(13);
    /// Page fault, #PF.
    pub(crate) const PF: ExceptionVector = ExceptionVector(14);
    /// Alignment check, #AC.
    pub(crate) const AC: ExceptionVector = ExceptionVector(17);
    /// Machine check, #MC.
    pub(crate) const MC: ExceptionVector = ExceptionVector(18);

    /// Returns whether an exception of this vector is a fault, whose handler finds RF set in the flags that it
    /// returns to: not so traps (#DB may be one), and aborts. SDM, "Exception and Interrupt Vectors".
    pub(crate) fn is_fault(self) -> bool {
        matches!(self.0, 0 | 5..=7 | 10..=14 | 16 | 17 | 19..=21)
    }
}

/// An exception to be given to the guest: what an access, an instruction or an MSR did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuException {
    /// Which one.
    pub(crate) vector: ExceptionVector,
    /// The error code, for those that push one.
    pub(crate) error: Option<u32>,
    /// The faulting linear address, for #PF.
    pub(crate) cr2: Option<Gva>,
}

impl CpuException {
    /// Invalid opcode.
    pub(crate) const UD: CpuException = CpuException { vector: ExceptionVector::UD, error: None, cr2: None };
    /// General protection with error code 0.
    pub(crate) const GP0: CpuException = CpuException::with_error(ExceptionVector::GP, 0);

    /// An exception without an error code.
    pub(crate) const fn plain(vector: ExceptionVector) -> CpuException {
        CpuException { vector, error: None, cr2: None }
    }

    /// An exception that pushes `error`.
    pub(crate) const fn with_error(vector: ExceptionVector, error: u32) -> CpuException {
        CpuException { vector, error: Some(error), cr2: None }
    }

    /// A page fault at `gva` with the given error code bits.
    pub(crate) const fn page_fault(gva: Gva, error: PfError) -> CpuException {
        CpuException { vector: ExceptionVector::PF, error: Some(error.bits()), cr2: Some(gva) }
    }
}

bitflags::bitflags! {
    /// The error code of a page fault. SDM, "Page-Fault Error Code".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PfError: u32 {
        /// The translation exists; a right was missing.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access was made by CPL 3.
        const USER = 1 << 2;
        /// A reserved bit was set in a paging structure.
        const RSVD = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// A protection key refused it.
        const PKEY = 1 << 5;
    }
}
