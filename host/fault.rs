// SPDX-License-Identifier: GPL-2.0

//! Instructions that may fault, in the kernel's exception table.
//!
//! The processor decides whether an instruction faults: by an emulator below, by a part that lacks what its
//! like have, by a value that came from a caller and passed a check that was wrong. In a window, with
//! interrupts off and root operation on, that must be an error and not an oops. So each instruction that can
//! fault there has an entry, which says where to go on and what to tell.
//!
//! `scripts/check-faults` looks for instructions that lack one; [`super::fault_check`] sees that what an entry says comes
//! true.

/// The assembly that makes the entry for the instruction at the label `2` before it: after a fault go on at
/// `$to`, and
///
/// | | |
/// |---|---|
/// | `rax = -1` | as it says; what the instruction takes or gives there has a zero upper half |
/// | `rax = 0` | as it says |
/// | `rcx = 1` | as it says |
/// | `fs = 0` | load the null selector |
/// | `rdmsr`, `wrmsr` | say so in the kernel's log, once; 0 was read |
/// | nothing | do nothing else |
///
/// Linux, `asm/extable_fixup_types.h`: the kind, the number of a register above it, then a value.
macro_rules! on_fault {
    ($to:literal) => { $crate::host::fault::on_fault!(@ $to, "1") };
    ($to:literal, rax = -1) => { $crate::host::fault::on_fault!(@ $to, "0xffff0011") };
    ($to:literal, rax = 0) => { $crate::host::fault::on_fault!(@ $to, "0x00000011") };
    ($to:literal, rcx = 1) => { $crate::host::fault::on_fault!(@ $to, "0x00010111") };
    ($to:literal, fs = 0) => { $crate::host::fault::on_fault!(@ $to, "5") };
    ($to:literal, wrmsr) => { $crate::host::fault::on_fault!(@ $to, "8") };
    ($to:literal, rdmsr) => { $crate::host::fault::on_fault!(@ $to, "9") };
    (@ $to:literal, $data:literal) => {
        concat!(
            ".pushsection __ex_table, \"aM\", @progbits, 12\n.balign 4\n",
            ".long (2b) - .\n.long (", $to, ") - .\n.long ", $data, "\n.popsection"
        )
    };
}
pub(crate) use on_fault;
