// SPDX-License-Identifier: GPL-2.0

//! The instructions of VMX, and what of the host's state no other file reads.
//!
//! SDM, "VMX Instruction Reference"; their failures are values. "Conventions" there: CF says that
//! there is no current VMCS, ZF that the current VMCS has an error number. A fault counts as the former.
//!
//! VMREAD, VMWRITE with registers as operands fault only outside VMX operation, and are used only with a VMCS
//! that was made current in this window.

#![expect(unsafe_code, reason = "instructions that change the processor's mode")]

use crate::arch::addr::Hpa;
use crate::arch::segment::descriptor_base;
use crate::host::fault::on_fault;
use core::arch::asm;

unsafe extern "C" {
    /// See enter.S.
    fn rvmm_vmx_enter(gprs: *mut u64, launched: u32) -> u32;
    /// Loads the user's GS with its base, keeping the kernel's; see shim.h.
    fn rvmm_load_gs(selector: u16);
    /// Tells the kernel that TR's limit is the smallest; see shim.h.
    fn rvmm_tss_limit_changed();
}

/// A VMX instruction failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VmFail {
    /// Without a current VMCS: VMfailInvalid. Or by a fault.
    Invalid,
    /// With one, which has the error number: VMfailValid.
    Valid,
}

#[inline]
fn outcome(invalid: u8, valid: u8) -> Result<(), VmFail> {
    match (invalid, valid) {
        (0, 0) => Ok(()),
        (0, _) => Err(VmFail::Valid),
        _ => Err(VmFail::Invalid),
    }
}

macro_rules! on_address {
    ($(#[$doc:meta])* $name:ident, $insn:literal) => {
        $(#[$doc])*
        pub(super) unsafe fn $name(region: Hpa) -> Result<(), VmFail> {
            let (invalid, valid): (u64, u8);
            // SAFETY: By this function's contract; a fault is a result.
            unsafe {
                asm!(concat!("2: ", $insn, " [{p}]"), "setc cl", "3: setz {z}", on_fault!("3b", rcx = 1),
                    p = in(reg) &region.0, out("rcx") invalid, z = out(reg_byte) valid, options(nostack))
            };
            outcome(invalid as u8, valid)
        }
    };
}

on_address!(
    /// Enters VMX operation.
    ///
    /// # Safety
    /// CR4.VMXE is set, interrupts are off, and `region` is a page with the revision identifier that
    /// nobody else uses.
    vmxon, "vmxon");
on_address!(
    /// Makes a VMCS current.
    ///
    /// # Safety
    /// The processor is in VMX operation, and `region` is a VMCS that no other processor has active.
    vmptrld, "vmptrld");
on_address!(
    /// Writes a VMCS back to memory and makes it no longer active.
    ///
    /// # Safety
    /// The processor is in VMX operation, and `region` is a VMCS of the caller's.
    vmclear, "vmclear");

/// Leaves VMX operation; a processor that faults is out of it.
///
/// # Safety
/// The VMX operation is the caller's, and no VMCS is active.
pub(super) unsafe fn vmxoff() {
    // SAFETY: By this function's contract; a fault goes on behind the instruction.
    unsafe { asm!("2: vmxoff", "3:", on_fault!("3b"), options(nostack)) };
}

/// Returns the address of the current VMCS, all ones without one.
///
/// # Errors
/// The processor is not in VMX operation.
pub(super) fn vmptrst() -> Result<u64, VmFail> {
    let mut p = 0u64;
    let fault: u64;
    // SAFETY: Stores eight bytes, or faults, which is the result.
    unsafe {
        asm!("2: vmptrst [{p}]", "3:", on_fault!("3b", rcx = 1), p = in(reg) &mut p,
            inlateout("rcx") 0u64 => fault, options(nostack))
    };
    outcome(fault as u8, 0).map(|()| p)
}

/// Reads a field of the current VMCS.
///
/// # Safety
/// The processor is in VMX operation.
#[inline]
pub(super) unsafe fn vmread(field: u32) -> Result<u64, VmFail> {
    let value: u64;
    let (invalid, valid): (u8, u8);
    // SAFETY: By this function's contract.
    unsafe {
        asm!("vmread {v}, {f:r}", "setc {c}", "setz {z}", v = out(reg) value, f = in(reg) u64::from(field),
            c = out(reg_byte) invalid, z = out(reg_byte) valid, options(nostack, nomem))
    };
    outcome(invalid, valid).map(|()| value)
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// The processor is in VMX operation, and the current VMCS is the caller's. What an entry with the
/// field does is the caller's business.
#[inline]
pub(super) unsafe fn vmwrite(field: u32, value: u64) -> Result<(), VmFail> {
    let (invalid, valid): (u8, u8);
    // SAFETY: By this function's contract.
    unsafe {
        asm!("vmwrite {f:r}, {v}", "setc {c}", "setz {z}", v = in(reg) value, f = in(reg) u64::from(field),
            c = out(reg_byte) invalid, z = out(reg_byte) valid, options(nostack))
    };
    outcome(invalid, valid)
}

/// INVEPT of one EPT pointer, or of all.
///
/// # Safety
/// The processor is in VMX operation and has that type of INVEPT.
pub(super) unsafe fn invept(one: Option<u64>) -> Result<(), VmFail> {
    let descriptor = [one.unwrap_or(0), 0];
    let kind: u64 = if one.is_some() { 1 } else { 2 };
    let (invalid, valid): (u64, u8);
    // SAFETY: By this function's contract; a fault is a result.
    unsafe {
        asm!("2: invept {k}, [{d}]", "setc cl", "3: setz {z}", on_fault!("3b", rcx = 1), k = in(reg) kind,
            d = in(reg) &descriptor, out("rcx") invalid, z = out(reg_byte) valid, options(nostack))
    };
    outcome(invalid as u8, valid)
}

/// Switches to the guest of the current VMCS and comes back with its next exit; an error where the
/// processor refused before it tried.
///
/// # Safety
/// - Interrupts are off, the processor is in VMX operation, and the current VMCS is the caller's, with
///   controls that protect the host and with host state that is this processor's.
/// - `launched` says whether it was launched since it was made current.
#[inline]
pub(super) unsafe fn enter(gprs: &mut [u64; 16], launched: bool) -> Result<(), VmFail> {
    // SAFETY: By this function's contract; `gprs` has the 16 slots that the code uses.
    match unsafe { rvmm_vmx_enter(gprs.as_mut_ptr(), u32::from(launched)) } {
        0 => Ok(()),
        _ => Err(VmFail::Valid),
    }
}

/// Gives the host an NMI that ended the guest, by its own handler, whose IRET lets further NMIs come.
///
/// # Safety
/// An exit for an NMI has just happened, and the host does not use FRED.
pub(super) unsafe fn host_nmi() {
    // SAFETY: By this function's contract the handler finds the processor as after a real NMI.
    unsafe { asm!("int 2") };
}

macro_rules! control_register {
    ($read:ident, $reg:literal) => {
        #[doc = concat!("Reads ", $reg, ".")]
        #[inline]
        pub(super) fn $read() -> u64 {
            let v: u64;
            // SAFETY: The kernel may read it at any time.
            unsafe { asm!(concat!("mov {}, ", $reg), out(reg) v, options(nomem, nostack, preserves_flags)) };
            v
        }
    };
}

control_register!(cr0, "cr0");
control_register!(cr2, "cr2");
control_register!(cr3, "cr3");
control_register!(cr4, "cr4");
control_register!(dr6, "dr6");

/// Writes CR2, which the host uses only at the start of its page fault handler.
#[inline]
pub(super) fn set_cr2(value: u64) {
    // SAFETY: Nobody relies on it; see above.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Writes DR6, which the host reads only in its debug exception handler.
pub(super) fn set_dr6(value: u64) {
    // SAFETY: Only status; the upper half, which must be 0, is cut off.
    unsafe { asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nomem, nostack, preserves_flags)) };
}

/// Writes CR4.
///
/// # Errors
/// The processor refuses the value, and keeps what it has.
///
/// # Safety
/// `value` differs from what the host has in VMXE alone, and is put back before interrupts come on.
pub(super) unsafe fn set_cr4(value: u64) -> Result<(), VmFail> {
    let fault: i64;
    // SAFETY: By this function's contract; a fault is the result. Bit 63 of CR4 is reserved.
    unsafe {
        asm!("2: mov cr4, rax", "3:", on_fault!("3b", rax = -1), inlateout("rax") value => fault, options(nostack, preserves_flags))
    };
    outcome(u8::from(fault < 0), 0)
}

/// The segment registers and descriptor tables of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostSegments {
    pub(super) cs: u16,
    pub(super) ss: u16,
    pub(super) ds: u16,
    pub(super) es: u16,
    pub(super) fs: u16,
    pub(super) gs: u16,
    pub(super) tr: u16,
    ldt: u16,
    gdt: InvDescriptor,
    idt: InvDescriptor,
}

/// The operand of LGDT and its like.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct InvDescriptor {
    limit: u16,
    base: u64,
}

macro_rules! selector {
    ($insn:literal) => {{
        let v: u16;
        // SAFETY: Reading a selector has no side effect.
        unsafe { asm!($insn, v = out(reg) v, options(nomem, nostack, preserves_flags)) };
        v
    }};
}

/// Loads a segment register with a selector.
macro_rules! load {
    ($insn:literal, ($($fault:tt)*), $selector:expr) => {
        // SAFETY: The selector that the host had; a fault ends in one that refers to nothing.
        unsafe {
            asm!(concat!("2: ", $insn), "3:", on_fault!($($fault)*), inlateout("rax") u64::from($selector) => _,
                options(nostack, preserves_flags))
        }
    };
}

impl HostSegments {
    /// Reads them.
    pub(super) fn read() -> HostSegments {
        let (mut gdt, mut idt) = (InvDescriptor::default(), InvDescriptor::default());
        // SAFETY: The operands have the ten bytes that are stored.
        unsafe {
            asm!("sgdt [{g}]", "sidt [{i}]", g = in(reg) &mut gdt, i = in(reg) &mut idt, options(nostack, preserves_flags))
        };
        HostSegments {
            cs: selector!("mov {v:x}, cs"),
            ss: selector!("mov {v:x}, ss"),
            ds: selector!("mov {v:x}, ds"),
            es: selector!("mov {v:x}, es"),
            fs: selector!("mov {v:x}, fs"),
            gs: selector!("mov {v:x}, gs"),
            tr: selector!("str {v:x}"),
            ldt: selector!("sldt {v:x}"),
            gdt,
            idt,
        }
    }

    /// Returns the base of the GDT.
    pub(super) fn gdt_base(&self) -> u64 {
        self.gdt.base
    }

    /// Returns the base of the IDT.
    pub(super) fn idt_base(&self) -> u64 {
        self.idt.base
    }

    /// Returns the base of the TSS, from its descriptor. SDM, "TSS Descriptor in 64-bit mode".
    pub(super) fn tss_base(&self) -> u64 {
        let at = self.gdt.base.wrapping_add(u64::from(self.tr & 0xfff8)) as *const u64;
        // SAFETY: TR was loaded from this descriptor of 16 bytes in the host's GDT.
        let (low, high) = unsafe { (at.read_unaligned(), at.wrapping_add(1).read_unaligned()) };
        descriptor_base(low) | high << 32
    }

    /// Puts back what exits do not: the limits of the tables and of TR, LDTR, and the selectors of user space,
    /// which may be in the LDT. One that cannot be loaded any more becomes null, as where the kernel switches
    /// threads. The caller puts the bases of FS and GS back after this.
    ///
    /// SDM, "Loading Host Segment and Descriptor-Table Registers".
    ///
    /// # Safety
    /// `self` was read on this processor since interrupts went off, and exits have happened since.
    pub(super) unsafe fn restore(&self) {
        // SAFETY: The host's own tables, with their own limits.
        unsafe {
            asm!("lgdt [{g}]", "lidt [{i}]", g = in(reg) &self.gdt, i = in(reg) &self.idt, options(nostack, preserves_flags))
        };
        // SAFETY: Writes a flag of this processor.
        unsafe { rvmm_tss_limit_changed() };
        if self.ldt != 0 {
            load!("lldt ax", ("2b", rax = 0), self.ldt);
        }
        if self.ds | self.es != 0 {
            load!("mov ds, eax", ("2b", rax = 0), self.ds);
            load!("mov es, eax", ("2b", rax = 0), self.es);
        }
        if self.fs != 0 {
            load!("mov fs, eax", ("3b", fs = 0), self.fs);
        }
        if self.gs != 0 {
            // SAFETY: As above; interrupts are off, as the function wants it.
            unsafe { rvmm_load_gs(self.gs) };
        }
    }
}
