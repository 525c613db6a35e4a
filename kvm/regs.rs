// SPDX-License-Identifier: GPL-2.0

//! Register formats: between the vCPU's state and KVM's structures.

use crate::abi::vcpu as abi;
use crate::arch::cr::{Cr0, CrState, Rflags};
use crate::arch::segment::SegReg;
use crate::arch::slice::copy_common;
use crate::machine::mailbox::VcpuMailbox;
use crate::machine::whole::GuestMachine;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::state::StateGroups;
use kernel::prelude::*;

/// Returns KVM_GET_REGS.
pub(super) fn regs<B: VendorBackend>(core: &VcpuCore<B>) -> abi::Regs {
    let s = &core.state;
    let g = &s.gprs;
    abi::Regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: s.rip,
        rflags: core.own_rflags(),
    }
}

/// Carries KVM_SET_REGS out.
pub(super) fn set_regs<B: VendorBackend>(core: &mut VcpuCore<B>, r: &abi::Regs) {
    core.state.gprs = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ];
    core.state.rip = r.rip;
    core.state.rflags = (r.rflags & Rflags::all().bits()) | Rflags::ONE.bits();
    core.begin_step();
    // As in KVM: user space that sets registers has dealt with what was pending.
    core.exception = None;
}

/// Returns KVM_GET_SREGS.
pub(super) fn sregs<B: VendorBackend>(core: &mut VcpuCore<B>) -> abi::Sregs {
    core.fetch(StateGroups::all());
    let s = &core.state;
    let mut interrupt_bitmap = [0u64; 4];
    let injected = match core.interrupted {
        Some(GuestEvent::Interrupt(v)) => Some(v),
        // With a local APIC it waits for that; else it is as good as taken.
        _ => core.user_irq.filter(|_| core.lapic.is_none()),
    };
    if let Some(v) = injected {
        interrupt_bitmap[usize::from(v >> 6)] = 1 << (v & 63);
    }
    abi::Sregs {
        cs: s.seg(SegReg::Cs).into(),
        ds: s.seg(SegReg::Ds).into(),
        es: s.seg(SegReg::Es).into(),
        fs: s.seg(SegReg::Fs).into(),
        gs: s.seg(SegReg::Gs).into(),
        ss: s.seg(SegReg::Ss).into(),
        tr: s.tr.into(),
        ldt: s.ldtr.into(),
        gdt: s.gdt.into(),
        idt: s.idt.into(),
        cr0: s.cr0,
        cr2: s.cr2,
        cr3: s.cr3,
        cr4: s.cr4,
        cr8: core.cr8().into(),
        efer: s.efer,
        apic_base: core.apic_base(),
        interrupt_bitmap,
    }
}

/// Carries KVM_SET_SREGS out; the PDPTEs are the caller's business.
///
/// # Errors
/// `EINVAL` for values that the vCPU's processor could not hold.
pub(super) fn set_sregs<B: VendorBackend>(
    machine: &GuestMachine,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    r: &abi::Sregs,
) -> Result {
    let control = CrState { cr0: r.cr0, cr3: r.cr3, cr4: r.cr4, efer: r.efer, cs_long: r.cs.l != 0 };
    if !core.cpuid.cr_rules().allows(&control) || r.cr8 > 15 {
        return Err(EINVAL);
    }
    // The last that can refuse: up to here nothing has been set.
    if core.lapic.is_some() && !core.restore_apic_base(r.apic_base) {
        return Err(EINVAL);
    }
    core.set_cr8(r.cr8 as u8);
    core.publish_apic(mailbox, machine);
    core.fetch(StateGroups::all());
    let s = &mut core.state;
    s.segs = [r.es.into(), r.cs.into(), r.ss.into(), r.ds.into(), r.fs.into(), r.gs.into()];
    s.tr = r.tr.into();
    s.ldtr = r.ldt.into();
    s.gdt = r.gdt.into();
    s.idt = r.idt.into();
    s.cr2 = r.cr2;
    // Reserved bits of CR0's lower half are ignored, as by MOV to CR0.
    s.set_control(&CrState { cr0: Cr0::from_bits_truncate(r.cr0).bits(), ..control });
    s.mark(StateGroups::SEGMENTS | StateGroups::TABLES);
    let mut words = [0u8, 64, 128, 192].into_iter().zip(r.interrupt_bitmap);
    if let Some((first, word)) = words.find(|(_, word)| *word != 0) {
        let vector = first | word.trailing_zeros() as u8;
        match core.lapic {
            Some(_) => core.interrupted = Some(GuestEvent::Interrupt(vector)),
            None => core.user_irq = Some(vector),
        }
    }
    Ok(())
}

/// Returns KVM_GET_SREGS2: the same, with the directory pointers of PAE paging instead of interrupts.
pub(super) fn sregs2<B: VendorBackend>(core: &mut VcpuCore<B>) -> abi::Sregs2 {
    let abi::Sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer,
        apic_base,
        interrupt_bitmap: _,
    } = sregs(core);
    let is_pae = core.state.control().is_pae_paging();
    let (flags, pdptrs) = if is_pae { (abi::SREGS2_PDPTRS_VALID, core.state.pdptes) } else { (0, [0; 4]) };
    abi::Sregs2 {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer,
        apic_base,
        flags,
        pdptrs,
    }
}

/// Carries KVM_SET_SREGS2 out. Returns whether the PDPTEs are still the caller's business.
///
/// # Errors
/// As [`set_sregs`], and for directory pointers without PAE paging, or flags that there are not.
pub(super) fn set_sregs2<B: VendorBackend>(
    machine: &GuestMachine,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    r: &abi::Sregs2,
) -> Result<bool> {
    let abi::Sregs2 {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer,
        apic_base,
        flags,
        pdptrs,
    } = *r;
    let has_pdptrs = flags & abi::SREGS2_PDPTRS_VALID != 0;
    let control = CrState { cr0, cr3, cr4, efer, cs_long: cs.l != 0 };
    if flags & !abi::SREGS2_PDPTRS_VALID != 0 || (has_pdptrs && !control.is_pae_paging()) {
        return Err(EINVAL);
    }
    let plain = abi::Sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldt,
        gdt,
        idt,
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        efer,
        apic_base,
        interrupt_bitmap: [0; 4],
    };
    set_sregs(machine, mailbox, core, &plain)?;
    if has_pdptrs {
        core.state.pdptes = pdptrs;
    }
    Ok(!has_pdptrs)
}

/// Returns KVM_GET_FPU from an XSAVE image.
pub(super) fn fpu(image: &[u8]) -> abi::Fpu {
    let mut f = <abi::Fpu as zerocopy::FromZeros>::new_zeroed();
    let at = |o: usize, n: usize| image.get(o..o.saturating_add(n)).unwrap_or(&[]);
    let u16_at = |o| u16::from_le_bytes(at(o, 2).try_into().unwrap_or([0; 2]));
    let u32_at = |o| u32::from_le_bytes(at(o, 4).try_into().unwrap_or([0; 4]));
    let u64_at = |o| u64::from_le_bytes(at(o, 8).try_into().unwrap_or([0; 8]));
    f.fcw = u16_at(0);
    f.fsw = u16_at(2);
    f.ftwx = at(4, 1).first().copied().unwrap_or(0);
    f.last_opcode = u16_at(6);
    f.last_ip = u64_at(8);
    f.last_dp = u64_at(16);
    f.mxcsr = u32_at(24);
    for (i, r) in f.fpr.iter_mut().enumerate() {
        copy_common(r, at(32usize.saturating_add(i.saturating_mul(16)), 16));
    }
    for (i, r) in f.xmm.iter_mut().enumerate() {
        copy_common(r, at(160usize.saturating_add(i.saturating_mul(16)), 16));
    }
    f
}

/// Returns the first 576 bytes of an XSAVE image with the contents of KVM_SET_FPU. As on KVM, MXCSR is not
/// among them.
pub(super) fn image_of_fpu(old: &[u8], f: &abi::Fpu) -> [u8; 576] {
    let mut image = [0u8; 576];
    if let Some(src) = old.get(..576) {
        copy_common(&mut image, src);
    }
    let mut put = |o: usize, b: &[u8]| {
        if let Some(dst) = image.get_mut(o..o.saturating_add(b.len())) {
            copy_common(dst, b);
        }
    };
    put(0, &f.fcw.to_le_bytes());
    put(2, &f.fsw.to_le_bytes());
    put(4, &[f.ftwx, 0]);
    put(6, &f.last_opcode.to_le_bytes());
    put(8, &f.last_ip.to_le_bytes());
    put(16, &f.last_dp.to_le_bytes());
    for (i, r) in f.fpr.iter().enumerate() {
        put(32usize.saturating_add(i.saturating_mul(16)), r);
    }
    for (i, r) in f.xmm.iter().enumerate() {
        put(160usize.saturating_add(i.saturating_mul(16)), r);
    }
    // Both parts are in use now.
    if let Some(bv) = image.get_mut(512) {
        *bv |= 3;
    }
    image
}
