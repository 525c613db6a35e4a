// SPDX-License-Identifier: GPL-2.0

//! The guest's extended state (x87, SSE, AVX, …) in the processor's registers.
//!
//! The kernel's guest-FPU helpers are closed to modules, so the guest's image is ours: between
//! [`GuestFpu::load`] and the drop of [`LoadedFpu`] the registers hold the guest's state, inside a
//! kernel FPU section with interrupts off. The host task's own state was saved by the section's
//! start and is reloaded by the kernel before the task returns to user space.
//!
//! Processors without XSAVE have x87 and SSE, which FXSAVE and FXRSTOR switch in the same image.
//!
//! An image or an XCR0 that the processor does not take is replaced by the initial state, and the guest is
//! not entered; [`crate::arch::xsave`] sees to it that none comes so far.

use super::cpu::PinnedCpu;
use super::fault::on_fault;
use super::mitigation::host_flags;
use super::page::KernelPages;
use crate::arch::cr::Xcr0;
use crate::arch::mitigation::HostFlags;
use crate::arch::rule::rule;
use crate::arch::slice::copy_common;
use crate::arch::xsave::{self, MXCSR, MXCSR_INITIAL, MXCSR_MASK, XSTATE_BV};
use core::arch::asm;
use kernel::bindings;
use kernel::pr_warn_once;
use kernel::prelude::*;

/// Size of an order-1 allocation: enough for every component but AMX, which guests never get.
const ORDER: u32 = 1;

/// The saved image of a guest's extended state, in the standard (not compacted) format.
///
/// # Invariants
/// [`xsave::loads`] is true of the image: neither XRSTOR nor FXRSTOR should fault on it.
pub(crate) struct GuestFpu {
    image: KernelPages,
    /// The guest's XCR0.
    xcr0: Xcr0,
    /// What the host has enabled and the image has room for.
    supported: Xcr0,
    /// The bits that MXCSR has.
    mxcsr_bits: u32,
    /// The host uses XSAVE.
    has_xsave: bool,
    /// XRSTOR leaves the pointers of the last x87 instruction as they are.
    leaks_pointers: bool,
}

/// Makes the pointers of the last x87 instruction those of one here. APM, "FXSAVE and FXRSTOR Instructions": without a
/// pending exception some processors do not restore them, and the guest would see whose code ran before.
fn forget_pointers() {
    let zero = 0u32;
    // SAFETY: In the kernel's FPU section; the registers are loaded afterwards. An exception of what was there is
    // cleared first, and the stack emptied.
    unsafe { asm!("fnclex", "emms", "fild dword ptr [{p}]", p = in(reg) &zero, options(nostack)) };
}

/// Returns PKRU.
///
/// # Safety
/// CR4.PKE is set.
#[inline]
unsafe fn rdpkru() -> u32 {
    let pkru: u32;
    // SAFETY: By this function's contract.
    unsafe {
        asm!("rdpkru", in("ecx") 0, out("eax") pkru, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    pkru
}

/// Sets PKRU.
///
/// # Safety
/// CR4.PKE is set, and the host's value is put back before the host touches user memory.
#[inline]
unsafe fn wrpkru(pkru: u32) {
    // SAFETY: By this function's contract.
    unsafe { asm!("wrpkru", in("eax") pkru, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags)) };
}

/// Returns whether the host uses XSAVE.
fn has_xsave() -> bool {
    // CPUID.1:ECX.OSXSAVE.
    super::cpu::cpuid(1, 0).ecx & (1 << 27) != 0
}

/// Returns the components that a guest may use on this host.
pub(crate) fn supported_xcr0() -> Xcr0 {
    if has_xsave() {
        Xcr0::from_bits_truncate(xgetbv())
    } else {
        Xcr0::X87 | Xcr0::SSE
    }
}

/// Returns the size in bytes of the standard-format image with the components in `xcr0`.
fn image_size(xcr0: Xcr0) -> usize {
    // Legacy area and header, with x87 and SSE in the former: components 0 and 1 have no leaf of a size.
    let mut size = 576usize;
    for i in 2u32..64 {
        if xcr0.bits() & (1u64 << i) != 0 {
            // SAFETY: CPUID exists on every x86-64 processor.
            let leaf = unsafe { core::arch::x86_64::__cpuid_count(0xd, i) };
            size = size.max((leaf.eax as usize).saturating_add(leaf.ebx as usize));
        }
    }
    size
}

fn xgetbv() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: The callers know that the host uses XSAVE.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Sets XCR0.
///
/// # Errors
/// `EINVAL` for a value that the processor does not take.
///
/// # Safety
/// The host uses XSAVE, and its value is put back before interrupts are turned on.
unsafe fn xsetbv(value: u64) -> Result {
    let fault: i64;
    // SAFETY: By this function's contract; a fault is the result.
    unsafe {
        asm!("2: xsetbv", "3:", on_fault!("3b", rax = -1), in("ecx") 0,
            inlateout("rax") value & 0xffff_ffff => fault, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
    if fault < 0 {
        Err(EINVAL)
    } else {
        Ok(())
    }
}

impl GuestFpu {
    /// The state after reset: everything initial, XCR0 = x87.
    ///
    /// # Errors
    /// `ENOMEM`; `ENODEV` when the host's image is larger than we provide for.
    pub(crate) fn new() -> Result<GuestFpu> {
        let supported = supported_xcr0();
        let mut image = KernelPages::new(ORDER)?;
        if image_size(supported) > image.len() {
            return Err(ENODEV);
        }
        // SAFETY: The page has the 512 bytes that are stored, and is aligned. Whose registers they are does
        // not matter: they are overwritten below.
        unsafe {
            asm!("fxsave64 [{p}]", p = in(reg) image.as_ptr().as_ptr(), options(nostack, preserves_flags))
        };
        let mxcsr_bits = xsave::mxcsr_bits(xsave::word(image.bytes_mut(), MXCSR_MASK));
        let leaks_pointers = host_flags().contains(HostFlags::FXSAVE_LEAK);
        let has_xsave = has_xsave();
        // INVARIANT: Established by the next line.
        let mut fpu = GuestFpu { image, xcr0: Xcr0::X87, supported, mxcsr_bits, has_xsave, leaks_pointers };
        fpu.reset();
        Ok(fpu)
    }

    /// Everything initial, XCR0 = x87.
    fn reset(&mut self) {
        self.xcr0 = Xcr0::X87;
        let bytes = self.image.bytes_mut();
        // INVARIANT: A zero header with the reset FCW and MXCSR.
        bytes.fill(0);
        copy_common(bytes, &0x37fu16.to_le_bytes());
        self.set_mxcsr(MXCSR_INITIAL);
        self.complete();
    }

    fn set_mxcsr(&mut self, mxcsr: u32) {
        if let Some(field) = self.image.bytes_mut().get_mut(MXCSR..MXCSR + 4) {
            copy_common(field, &mxcsr.to_le_bytes());
        }
    }

    /// FXRSTOR knows no header: what that calls initial gets its initial values, and is then there.
    fn complete(&mut self) {
        if self.has_xsave {
            return;
        }
        let bytes = self.image.bytes_mut();
        let there = bytes.get(XSTATE_BV).copied().unwrap_or(0);
        let mut clear = |from: usize, to: usize| {
            if let Some(part) = bytes.get_mut(from..to) {
                part.fill(0);
            }
        };
        // SDM, "FXSAVE Area": control words and pointers, ST0 to ST7; XMM0 to XMM15.
        if there & 1 == 0 {
            clear(0, MXCSR);
            clear(32, 160);
            if let Some(fcw) = bytes.get_mut(0..2) {
                fcw.copy_from_slice(&0x37fu16.to_le_bytes());
            }
        }
        if there & 2 == 0 {
            if let Some(part) = bytes.get_mut(160..416) {
                part.fill(0);
            }
        }
        if let Some(bv) = bytes.get_mut(XSTATE_BV) {
            *bv = 3;
        }
    }

    /// Returns the guest's XCR0.
    pub(crate) fn xcr0(&self) -> Xcr0 {
        self.xcr0
    }

    /// Sets the guest's XCR0.
    ///
    /// # Errors
    /// `EINVAL` for a value that XSETBV would refuse.
    pub(crate) fn set_xcr0(&mut self, value: u64) -> Result {
        self.xcr0 = self.checked_xcr0(value)?;
        Ok(())
    }

    fn checked_xcr0(&self, value: u64) -> Result<Xcr0> {
        let may = |xcr0: &Xcr0| xcr0.is_consistent() && self.supported.contains(*xcr0);
        Xcr0::from_bits(value).filter(may).ok_or(EINVAL)
    }

    /// Returns the image in the layout of XSAVE, 4096 bytes at the most being of use to KVM's ABI.
    pub(crate) fn image(&mut self) -> &mut [u8] {
        self.image.bytes_mut()
    }

    /// Replaces the first bytes of the image, the whole header among them.
    ///
    /// # Errors
    /// `EINVAL` when the header names components that the guest cannot have, is compacted, or when
    /// MXCSR has bits that the processor does not have.
    pub(crate) fn set_image(&mut self, new: &[u8]) -> Result {
        let mxcsr = xsave::loads(new, self.supported, self.mxcsr_bits).ok_or(EINVAL)?;
        // INVARIANT: By the check above.
        copy_common(self.image.bytes_mut(), new);
        self.set_mxcsr(mxcsr);
        self.complete();
        Ok(())
    }

    /// Loads the registers from the image.
    ///
    /// # Errors
    /// `EIO` where the processor faults.
    ///
    /// # Safety
    /// A kernel FPU section is open, and the host's XCR0 is in force.
    #[inline(always)]
    unsafe fn restore(&self) -> Result {
        let mask = self.supported.bits();
        let low = mask & 0xffff_ffff;
        let fault: i64;
        // SAFETY: The image is page aligned and large enough, and every component that it may name is enabled
        // (type invariant, and this function's contract). A fault is the result.
        unsafe {
            if self.has_xsave {
                asm!("2: xrstor64 [{p}]", "3:", on_fault!("3b", rax = -1), p = in(reg) self.image.as_ptr().as_ptr(),
                    inlateout("rax") low => fault, in("edx") (mask >> 32) as u32, options(nostack, preserves_flags));
            } else {
                asm!("2: fxrstor64 [{p}]", "3:", on_fault!("3b", rax = -1), p = in(reg) self.image.as_ptr().as_ptr(),
                    inlateout("rax") low => fault, options(nostack, preserves_flags));
            }
        }
        if fault < 0 {
            Err(EIO)
        } else {
            Ok(())
        }
    }

    /// Puts the guest's state into the registers until the returned value is dropped.
    ///
    /// # Errors
    /// `EIO` where the processor does not take it. It is the initial state then, and the registers are the
    /// host's to use.
    #[inline(always)]
    pub(crate) fn load<'a>(&'a mut self, _cpu: &'a PinnedCpu) -> Result<LoadedFpu<'a>> {
        // Without XSAVE nobody has an XCR0, and it never differs.
        let host_xcr0 = if self.has_xsave { xgetbv() } else { self.xcr0.bits() };
        // Without its flags: they ask for an initial x87 and MXCSR, which are loaded below.
        // SAFETY: Interrupts are off and stay off until `LoadedFpu` is dropped, so the section's end is
        // reached in the same state; nothing in between sleeps or nests a section.
        unsafe { bindings::kernel_fpu_begin_mask(0) };
        let keys = self.supported.contains(Xcr0::PKRU).then(|| {
            // SAFETY: The host sets CR4.PKE wherever it enables the state component.
            let host = unsafe { rdpkru() };
            GuestKeys { host, guest: 0, shown: true }
        });
        if self.leaks_pointers {
            forget_pointers();
        }
        // Under the host's XCR0: the guest's may leave out components that the image has.
        // SAFETY: The section began above, and XCR0 has not been touched since.
        let mut done = unsafe { self.restore() };
        if done.is_ok() && self.xcr0.bits() != host_xcr0 {
            // SAFETY: An XCR0 that differs means XSAVE (see above); put back in `LoadedFpu::drop()`, and where
            // it is not taken, it is still the host's.
            done = unsafe { xsetbv(self.xcr0.bits()) };
        }
        if done.is_err() {
            self.reset();
            if let Some(keys) = keys {
                // SAFETY: `keys` exists, so CR4.PKE is set, and it is the host's value.
                unsafe { wrpkru(keys.host) };
            }
            // SAFETY: Ends the section that began above.
            unsafe { bindings::kernel_fpu_end() };
            return Err(EIO);
        }
        let mut loaded = LoadedFpu { fpu: self, host_xcr0, keys };
        loaded.hide_keys();
        Ok(loaded)
    }
}

impl GuestFpu {
    /// Has the processor refuse an image, and then an XCR0, for [`super::fault_check`].
    ///
    /// # Errors
    /// What did not come true.
    pub(super) fn check(&mut self, cpu: &PinnedCpu) -> Result<(), &'static str> {
        if !self.has_xsave {
            return Ok(());
        }
        if let Some(reserved) = self.image.bytes_mut().get_mut(XSTATE_BV + 7) {
            // A component that no processor has. INVARIANT: Broken until `load()` puts the initial state in its place.
            *reserved = 0x40;
        }
        rule(self.load(cpu).is_err(), "an image that the processor does not take is an error")?;
        // Without x87.
        self.xcr0 = Xcr0::SSE;
        rule(self.load(cpu).is_err(), "an XCR0 that the processor does not take is an error")?;
        rule(self.xcr0 == Xcr0::X87, "what was refused becomes initial")?;
        rule(self.load(cpu).is_ok(), "the initial state is taken")
    }
}

/// The two values of PKRU, the register that says which user pages may be touched.
///
/// The kernel's own section does not cover it: the host task's value stays in the register, and every
/// access of ours to guest memory, which is user memory, goes by it. So the guest's value is in the
/// register in guest mode only.
struct GuestKeys {
    host: u32,
    guest: u32,
    /// The guest's is in the register.
    shown: bool,
}

/// The guest's state is in the registers.
pub(crate) struct LoadedFpu<'a> {
    fpu: &'a mut GuestFpu,
    host_xcr0: u64,
    /// `None` where the host does without protection keys.
    keys: Option<GuestKeys>,
}

impl LoadedFpu<'_> {
    /// Executes the guest's XSETBV.
    ///
    /// # Errors
    /// `EINVAL` where the processor would raise #GP.
    pub(crate) fn set_xcr0(&mut self, value: u64) -> Result {
        if !self.fpu.has_xsave {
            return Err(EINVAL);
        }
        let xcr0 = self.fpu.checked_xcr0(value)?;
        // SAFETY: By the check at the top; put back in `drop()`.
        unsafe { xsetbv(value)? };
        self.fpu.xcr0 = xcr0;
        Ok(())
    }

    /// Returns the guest's XCR0.
    pub(crate) fn xcr0(&self) -> Xcr0 {
        self.fpu.xcr0
    }

    /// Puts the guest's PKRU into the register, unless it is there: before an entry.
    #[inline]
    pub(crate) fn show_keys(&mut self) {
        if let Some(keys) = self.keys.as_mut().filter(|k| !k.shown) {
            keys.shown = true;
            if keys.host != keys.guest {
                // SAFETY: `keys` exists, so CR4.PKE is set; `hide_keys()` follows the exit.
                unsafe { wrpkru(keys.guest) };
            }
        }
    }

    /// Returns the guest's PKRU, when it is not in the register; 0 where the host does without keys.
    pub(crate) fn pkru(&self) -> u32 {
        self.keys.as_ref().map_or(0, |k| k.guest)
    }

    /// Returns the guest's XMM0 to XMM5, in halves, the lower one first.
    pub(crate) fn xmm_words(&self) -> [u64; 12] {
        let mut words = [0u64; 12];
        // SAFETY: The registers hold the guest's state as long as this value lives, for the kernel is built without
        // them. Each store is one of 16 bytes, of 96 that are there, aligned or not.
        unsafe {
            asm!("movups [{p}], xmm0", "movups [{p} + 16], xmm1", "movups [{p} + 32], xmm2",
                "movups [{p} + 48], xmm3", "movups [{p} + 64], xmm4", "movups [{p} + 80], xmm5",
                p = in(reg) words.as_mut_ptr(), options(nostack, preserves_flags));
        }
        words
    }

    /// Takes the guest's PKRU out of the register, if it is there: after an exit, before guest memory is
    /// touched.
    #[inline]
    pub(crate) fn hide_keys(&mut self) {
        if let Some(keys) = self.keys.as_mut().filter(|k| k.shown) {
            // The guest changes it without an exit, so the register is the only place that knows it.
            keys.shown = false;
            // SAFETY: `keys` exists, so CR4.PKE is set.
            keys.guest = unsafe { rdpkru() };
            if keys.host != keys.guest {
                // SAFETY: As above, and it is the host's value.
                unsafe { wrpkru(keys.host) };
            }
        }
    }
}

impl Drop for LoadedFpu<'_> {
    fn drop(&mut self) {
        // First, so that what the guest has turned off is stored too: it finds that again when it turns it on.
        if self.fpu.has_xsave && self.fpu.xcr0.bits() != self.host_xcr0 {
            // SAFETY: The value that the host had when the state was loaded.
            if unsafe { xsetbv(self.host_xcr0) }.is_err() {
                pr_warn_once!("the host's XCR0 could not be put back\n");
            }
        }
        let mask = self.fpu.supported.bits();
        // XSAVE stores PKRU from the register, where the host's is just now.
        self.show_keys();
        // SAFETY: As for XRSTOR in `restore()`; what XSAVE stores can be loaded again (type invariant).
        unsafe {
            if self.fpu.has_xsave {
                asm!("xsave64 [{p}]", p = in(reg) self.fpu.image.as_ptr().as_ptr(),
                    in("eax") mask as u32, in("edx") (mask >> 32) as u32, options(nostack, preserves_flags));
            } else {
                asm!("fxsave64 [{p}]", p = in(reg) self.fpu.image.as_ptr().as_ptr(), options(nostack, preserves_flags));
            }
        }
        self.hide_keys();
        // SAFETY: Ends the section that `load()` began.
        unsafe { bindings::kernel_fpu_end() };
    }
}
