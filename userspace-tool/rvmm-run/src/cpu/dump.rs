// SPDX-License-Identifier: GPL-2.0

//! Register dumps for a processor that cannot go on, and the last exits that it made to the tool.

use std::collections::VecDeque;
use std::fmt::Write;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

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
