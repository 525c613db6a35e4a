// SPDX-License-Identifier: GPL-2.0

//! Any sequence of edits, flushes and accesses by several processors, and of what the host takes.

use super::layout::{GuestMode, DEVICE, LARGE, MODES};
use super::machine::{access, Found, Machine};
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::mmu::walk::{AccessKind, AccessPrivilege, WalkAccess};
use proptest::collection::vec;
use proptest::prelude::*;

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A processor makes an access to one of the addresses.
    Access {
        cpu: u8,
        address: u8,
        kind: u8,
    },
    /// It writes an entry of a table.
    Edit {
        cpu: u8,
        table: u8,
        index: u8,
        entry: u64,
    },
    Invlpg {
        cpu: u8,
        address: u8,
    },
    Load {
        cpu: u8,
        root: u8,
    },
    /// A bit of a control register, EFER, PKRU or RFLAGS.AC changes.
    Toggle {
        cpu: u8,
        bit: u8,
    },
    /// The host puts other pages behind frames.
    Unmap {
        first: u8,
        count: u16,
    },
    ReplaceSlot {
        first: u8,
        count: u16,
    },
    StartLog,
    TakeDirty {
        word: u8,
    },
    Exit {
        cpu: u8,
    },
    /// A page of the guest's tables is not there for once.
    Swap {
        table: u8,
    },
    /// No more pages than that can be had.
    Starve {
        left: u8,
    },
}

/// Tables worth an edit.
const TABLES: [u64; 8] = [1, 3, 4, 5, 5, 6, 7, 8];
const INDICES: [u64; 5] = [0, 1, 2, 3, 511];

/// Makes an entry: of a table, of data, of a large page, of nothing.
pub(crate) fn entry(kind: u8, target: u8, flags: u16) -> u64 {
    let gfn = match kind % 8 {
        0 => return u64::from(flags) << 1 & !1,
        1 | 2 => u64::from(target) % 9,
        3 => [0, 512][usize::from(target & 1)],
        _ => [16, 17, 18, 600, 5, 4, 16, DEVICE][usize::from(target & 7)],
    };
    let mut entry = gfn << 12 | u64::from(flags & 0x67) | 1;
    if kind % 8 == 3 {
        entry |= LARGE;
    }
    // Now and then: no execution, a protection key, a reserved bit.
    if flags & 0x700 == 0x100 {
        entry |= 1 << 63;
    }
    if flags & 0x700 == 0x200 {
        entry |= u64::from(flags >> 12) << 59;
    }
    if flags & 0xf00 == 0xf00 {
        entry |= 1 << 50;
    }
    entry
}

fn toggle(machine: &mut Machine, n: usize, bit: u8) {
    machine.load(n, |regs| match bit % 7 {
        0 => regs.cr0.toggle(Cr0::WP),
        1 => regs.efer.toggle(Efer::NXE),
        2 => regs.cr4.toggle(Cr4::SMEP),
        3 => regs.cr4.toggle(Cr4::SMAP),
        4 => regs.cr4.toggle(Cr4::PKE),
        5 => regs.pkru = regs.pkru.rotate_left(5) ^ 0x1c,
        _ => regs.ac = !regs.ac,
    });
}

fn apply(machine: &mut Machine, mode: GuestMode, op: &Op) {
    let addresses = mode.addresses();
    let at = |address: u8| addresses[usize::from(address) % addresses.len()];
    // The last one has no paging.
    let cpu = |cpu: u8| usize::from(cpu) % 2;
    match *op {
        Op::Access { cpu: n, address, kind } => {
            let access_kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][usize::from(kind % 3)];
            let privilege = match kind / 3 % 4 {
                0 | 1 => AccessPrivilege::User,
                2 => AccessPrivilege::Supervisor,
                _ => AccessPrivilege::Implicit,
            };
            // Refused although RFLAGS.AC is set: the run loop has to know that the processor made it.
            let is_known = privilege != AccessPrivilege::Implicit || !machine.cpus[cpu(n)].regs.ac;
            if is_known {
                let access = WalkAccess { kind: access_kind, privilege };
                machine.access(cpu(n), at(address), access);
            }
        }
        Op::Edit { cpu: n, table, index, entry } => {
            let (n, table) = (usize::from(n) % 3, TABLES[usize::from(table) % TABLES.len()]);
            let index = INDICES[usize::from(index) % INDICES.len()];
            let bytes = mode.entry_bytes();
            let gva = match n {
                2 => (table << 12) + index * bytes as u64,
                _ => mode.window(table, index),
            };
            let found = machine.store(n, gva, entry, bytes);
            assert!(
                n != 2 || matches!(found, Found::Page(_) | Found::Emulated(_)),
                "{found:?} without paging"
            );
        }
        Op::Invlpg { cpu: n, address } => machine.invlpg(cpu(n), at(address)),
        Op::Load { cpu: n, root } => {
            let (n, mut regs) = (cpu(n), machine.cpus[cpu(n)].regs);
            mode.load_root(&machine.memory, &mut regs, usize::from(root & 1));
            machine.load(n, |r| *r = regs);
        }
        Op::Toggle { cpu: n, bit } => toggle(machine, cpu(n), bit),
        Op::Unmap { first, count } => {
            let first = u64::from(first) * 4;
            machine.unmap(first, first + u64::from(count));
        }
        Op::ReplaceSlot { first, count } => {
            let first = u64::from(first) * 4;
            machine.replace_slot(first, first + u64::from(count));
        }
        Op::StartLog => machine.start_log(),
        Op::TakeDirty { word } => machine.take_dirty(u64::from(word % 16) * 64),
        Op::Exit { cpu: n } => machine.exit(usize::from(n) % 3),
        Op::Swap { table } => machine.memory.absent.set(Some(TABLES[usize::from(table) % TABLES.len()])),
        Op::Starve { left } => machine.pool.limit(Some(usize::from(left % 8))),
    }
}

/// Runs a guest in `mode` with room for `budget` shadow pages.
pub(crate) fn run(mode: GuestMode, budget: usize, ops: &[Op]) {
    let mut machine = mode.machine(budget, &[0, 1]);
    for (i, op) in ops.iter().enumerate() {
        apply(&mut machine, mode, op);
        if i % 4 == 3 {
            let pages = machine.check();
            assert!(pages <= budget, "{pages} pages");
        }
    }
    // The guest gets on, whatever it has come to.
    machine.memory.absent.set(None);
    machine.access(2, 16 << 12, access(AccessKind::Read, false));
    machine.end();
}

fn any_op() -> impl Strategy<Value = Op> {
    let any_entry = (any::<u8>(), any::<u8>(), any::<u16>()).prop_map(|(k, t, f)| entry(k, t, f));
    prop_oneof![
        16 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(cpu, address, kind)| Op::Access { cpu, address, kind }),
        10 => (any::<u8>(), any::<u8>(), any::<u8>(), any_entry)
            .prop_map(|(cpu, table, index, entry)| Op::Edit { cpu, table, index, entry }),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(cpu, address)| Op::Invlpg { cpu, address }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(cpu, root)| Op::Load { cpu, root }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(cpu, bit)| Op::Toggle { cpu, bit }),
        1 => (any::<u8>(), 0..900u16).prop_map(|(first, count)| Op::Unmap { first, count: count % 40 }),
        1 => (any::<u8>(), 0..3000u16).prop_map(|(first, count)| Op::Unmap { first, count }),
        1 => (any::<u8>(), 0..3000u16).prop_map(|(first, count)| Op::ReplaceSlot { first, count }),
        1 => Just(Op::StartLog),
        1 => any::<u8>().prop_map(|word| Op::TakeDirty { word }),
        1 => any::<u8>().prop_map(|cpu| Op::Exit { cpu }),
        1 => any::<u8>().prop_map(|table| Op::Swap { table }),
        1 => any::<u8>().prop_map(|left| Op::Starve { left }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the guest does to its tables and the host to the guest's memory, processors find what they may.
    #[test]
    fn processors_find_what_the_architecture_allows(
        mode in 0..MODES.len(), budget in 32..64usize, ops in vec(any_op(), 1..160),
    ) {
        run(MODES[mode], budget, &ops);
    }
}
