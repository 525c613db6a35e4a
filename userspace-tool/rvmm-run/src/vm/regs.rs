// SPDX-License-Identifier: GPL-2.0

//! State of the processors at the kernel's entry.
//!
//! Only the boot processor gets one: the others wait for INIT and SIPI inside the module. Linux, "The Linux/x86 Boot
//! Protocol", "64-bit Boot Protocol"; Xen, "x86/HVM direct boot ABI"; GNU, "Multiboot Specification" and "Multiboot2
//! Specification", "Machine state"; SDM, "Segment Descriptors" for the attribute bits.

use kvm_bindings::{kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::config::layout::{
    BOOT_INFO, BOOT_PARAMS, BOOT_STACK, GDT, IDT, OPENBSD_STACK, PAGE, PD, PDPT, PML4, PVH_START_INFO,
};
use crate::kernel::loaded::KernelEntry;
use crate::kernel::multiboot::header::MultibootVersion;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS with nothing but the bit that is always set.
const RFLAGS: u64 = 2;

/// Present, writable.
const PTE_TABLE: u64 = 3;
/// Present, writable, 2 MiB page.
const PTE_LARGE: u64 = 0x83;
const LARGE_PAGE: u64 = 2 << 20;

/// Selectors as the 64-bit boot protocol names them (`__BOOT_CS`, `__BOOT_DS`), and a TSS behind them.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;
/// Code, readable, accessed.
const TYPE_CODE: u8 = 11;
/// Data, writable, accessed.
const TYPE_DATA: u8 = 3;
/// Busy TSS, 32 or 64 bit by mode.
const TYPE_TSS: u8 = 11;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
/// Fast strings; neither branch traces nor precise sampling.
const MISC_ENABLE_FAST_STRING: u64 = 1 | 1 << 11 | 1 << 12;
const MSR_K7_HWCR: u32 = 0xc001_0015;
/// The TSC counts at the frequency of P-state 0.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back: firmware's job, and without it a kernel distrusts caching and PAT.
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;

/// Writes what the entry state points to: the GDT, and page tables for the 64-bit entry.
///
/// # Errors
/// When guest RAM does not hold the boot area, which `RamSize` excludes.
pub fn write_tables(ram: &GuestMemoryMmap<()>, entry: KernelEntry) -> Result<(), GuestMemoryError> {
    for (index, descriptor) in gdt(entry).into_iter().enumerate() {
        ram.write_obj(descriptor, GuestAddress(GDT + 8 * index as u64))?;
    }
    ram.write_obj(0u64, GuestAddress(IDT))?;
    if entry.is_long_mode() {
        ram.write_obj(PDPT | PTE_TABLE, GuestAddress(PML4))?;
        for gib in 0..4 {
            let directory = PD + gib * PAGE;
            ram.write_obj(directory | PTE_TABLE, GuestAddress(PDPT + 8 * gib))?;
            for index in 0..512 {
                let page = (gib * 512 + index) * LARGE_PAGE;
                ram.write_obj(page | PTE_LARGE, GuestAddress(directory + 8 * index))?;
            }
        }
    }
    Ok(())
}

/// What EAX holds for a kernel of multiboot.
fn loader_magic(version: MultibootVersion) -> u64 {
    match version {
        MultibootVersion::One => 0x2bad_b002,
        MultibootVersion::Two => 0x36d7_6289,
    }
}

/// General registers of the boot processor.
pub fn general(entry: KernelEntry) -> kvm_regs {
    let start = kvm_regs { rip: entry.start(), rsp: BOOT_STACK, rflags: RFLAGS, ..Default::default() };
    match entry {
        KernelEntry::Linux64 { .. } => kvm_regs { rsi: BOOT_PARAMS, rbp: BOOT_STACK, ..start },
        KernelEntry::Pvh { .. } => kvm_regs { rbx: PVH_START_INFO, ..start },
        KernelEntry::Multiboot { version, .. } => {
            kvm_regs { rax: loader_magic(version), rbx: BOOT_INFO, ..start }
        }
        KernelEntry::OpenBsd { .. } => kvm_regs { rsp: OPENBSD_STACK, ..start },
    }
}

/// System registers of the boot processor; what is not named here (APIC base) stays as in `reset`.
pub fn system(reset: kvm_sregs, entry: KernelEntry) -> kvm_sregs {
    let code = segment(CODE_SELECTOR, TYPE_CODE, entry);
    let data = segment(DATA_SELECTOR, TYPE_DATA, entry);
    let mut sregs = kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task_state(),
        gdt: kvm_dtable { base: GDT, limit: (8 * gdt(entry).len() - 1) as u16, ..Default::default() },
        idt: kvm_dtable { base: IDT, limit: 0, ..Default::default() },
        ..reset
    };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = match entry.is_long_mode() {
        true => (CR0_PG | CR0_ET | CR0_PE, PML4, CR4_PAE, EFER_LME | EFER_LMA),
        false => (CR0_ET | CR0_PE, 0, 0, 0),
    };
    sregs
}

/// FPU as after FNINIT, with the SSE exceptions masked.
pub fn fpu() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() }
}

/// Model specific registers that firmware would have set.
pub fn msrs() -> [kvm_msr_entry; 3] {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    [
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_K7_HWCR, HWCR_TSC_FREQ_SEL),
    ]
}

/// Flat segment of the mode that `entry` has.
fn segment(selector: u16, type_: u8, entry: KernelEntry) -> kvm_segment {
    let long = entry.is_long_mode() && type_ == TYPE_CODE;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

fn task_state() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0x67,
        selector: TSS_SELECTOR,
        type_: TYPE_TSS,
        present: 1,
        ..Default::default()
    }
}

/// The descriptor table that fits the segments: two empty entries, code, data, TSS (two entries in long mode).
fn gdt(entry: KernelEntry) -> [u64; 6] {
    let code = descriptor(&segment(CODE_SELECTOR, TYPE_CODE, entry));
    let data = descriptor(&segment(DATA_SELECTOR, TYPE_DATA, entry));
    [0, 0, code, data, descriptor(&task_state()), 0]
}

/// Encodes a segment as a descriptor.
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g != 0 { segment.limit >> 12 } else { segment.limit };
    let (base, limit) = (segment.base, u64::from(limit));
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (base & 0xff_ffff) << 16
        | access << 40
        | ((limit >> 16) & 0xf) << 48
        | flags << 52
        | ((base >> 24) & 0xff) << 56
}

/// Offset of LVT LINT0 in the local APIC's page.
const LVT_LINT0: usize = 0x350;
/// Offset of LVT LINT1.
const LVT_LINT1: usize = 0x360;
/// Delivery mode ExtINT, not masked.
const EXTINT: u32 = 7 << 8;
/// Delivery mode NMI, not masked.
const NMI: u32 = 4 << 8;

/// Connects the 8259 to LINT0 and NMI to LINT1, as firmware does on the boot processor (MP specification, "Virtual Wire Mode").
pub fn wire_lint(lapic: &mut kvm_lapic_state) {
    for (offset, value) in [(LVT_LINT0, EXTINT), (LVT_LINT1, NMI)] {
        for (byte, new) in lapic.regs[offset..offset + 4].iter_mut().zip(value.to_le_bytes()) {
            *byte = new as _;
        }
    }
}
