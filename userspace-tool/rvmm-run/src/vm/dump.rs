// SPDX-License-Identifier: GPL-2.0

//! Register dumps for a processor that cannot go on, and the last exits that it made to the tool.

use std::collections::VecDeque;
use std::fmt::Write;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::abi::rvmm::{ExitRecord, LastExits, VENDOR_SVM};

/// Exits that are kept per processor.
const KEPT: usize = 16;

/// The most recent user exits of one processor, oldest first.
#[derive(Clone, Debug, Default)]
pub struct ExitLog {
    last: VecDeque<String>,
    total: u64,
}

impl ExitLog {
    /// Adds an exit and forgets the oldest beyond the limit.
    pub fn push(&mut self, exit: String) {
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(exit);
        self.total += 1;
    }

    /// Number of exits since the start, forgotten ones included.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The log as lines of text.
    pub fn render(&self) -> String {
        let mut text = format!("last user exits ({} in all):\n", self.total);
        for exit in &self.last {
            let _ = writeln!(text, "  {exit}");
        }
        text
    }
}

/// Exits that the module recorded, as lines of text.
pub(super) fn recorded(last: &LastExits) -> String {
    let count = (last.header.count as usize).min(last.records.len());
    let mut text = format!("last exits in the module ({count} of them):\n");
    for ExitRecord { rip, reason, info1, info2 } in &last.records[..count] {
        let name = match last.header.vendor {
            VENDOR_SVM => svm_name(*reason),
            _ => vmx_name(*reason),
        };
        let _ = writeln!(text, "  rip {rip:016x} {name:<12} {reason:#x} info {info1:#x} {info2:#x}");
    }
    text
}

/// APM, "SVM Intercept Exit Codes".
fn svm_name(code: u64) -> &'static str {
    match code {
        0x00..=0x1f => "control reg",
        0x20..=0x3f => "debug reg",
        0x40..=0x5f => "exception",
        0x60 => "host irq",
        0x61 => "host nmi",
        0x64 => "irq window",
        0x6f => "rdpmc",
        0x72 => "cpuid",
        0x74 => "iret",
        0x78 => "hlt",
        0x7b => "port",
        0x7c => "msr",
        0x7f => "shutdown",
        0x81 => "hypercall",
        0x8d => "xsetbv",
        0x400 => "page fault",
        u64::MAX => "invalid",
        _ => "other",
    }
}

/// SDM, "VMX Basic Exit Reasons".
fn vmx_name(reason: u64) -> &'static str {
    match reason & 0xffff {
        0 => "exception",
        1 => "host irq",
        2 => "shutdown",
        7 => "irq window",
        10 => "cpuid",
        12 => "hlt",
        18 => "hypercall",
        28 => "control reg",
        29 => "debug reg",
        30 => "port",
        31 | 32 => "msr",
        33 => "invalid",
        48 | 49 => "page fault",
        52 => "timer",
        55 => "xsetbv",
        // The module's own: not entered.
        0xffff => "in software",
        _ => "other",
    }
}

/// Registers as lines of text.
pub fn registers(regs: &kvm_regs, sregs: &kvm_sregs) -> String {
    let mut text = String::new();
    let general = [
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx), ("rdx", regs.rdx)],
        [("rsi", regs.rsi), ("rdi", regs.rdi), ("rbp", regs.rbp), ("rsp", regs.rsp)],
        [("r8", regs.r8), ("r9", regs.r9), ("r10", regs.r10), ("r11", regs.r11)],
        [("r12", regs.r12), ("r13", regs.r13), ("r14", regs.r14), ("r15", regs.r15)],
        [("rip", regs.rip), ("rflags", regs.rflags), ("cr0", sregs.cr0), ("cr2", sregs.cr2)],
        [("cr3", sregs.cr3), ("cr4", sregs.cr4), ("efer", sregs.efer), ("apic", sregs.apic_base)],
    ];
    for row in general {
        let cells: Vec<String> = row.iter().map(|(name, value)| format!("{name:>6} {value:016x}")).collect();
        let _ = writeln!(text, "{}", cells.join(" "));
    }
    let segments = [
        ("cs", &sregs.cs),
        ("ss", &sregs.ss),
        ("ds", &sregs.ds),
        ("es", &sregs.es),
        ("fs", &sregs.fs),
        ("gs", &sregs.gs),
        ("tr", &sregs.tr),
        ("ldt", &sregs.ldt),
    ];
    for (name, segment) in segments {
        let _ = writeln!(text, "{name:>6} {}", describe_segment(segment));
    }
    for (name, table) in [("gdt", &sregs.gdt), ("idt", &sregs.idt)] {
        let _ = writeln!(text, "{name:>6} base {:016x} limit {:04x}", table.base, table.limit);
    }
    text
}

fn describe_segment(s: &kvm_segment) -> String {
    format!(
        "{:04x} base {:016x} limit {:08x} type {:x} s {} dpl {} p {} l {} db {} g {}",
        s.selector, s.base, s.limit, s.type_, s.s, s.dpl, s.present, s.l, s.db, s.g
    )
}
