// SPDX-License-Identifier: GPL-2.0

//! Shadow paging: the bytes choose what guests do to their tables, and what the host does to their memory.

use super::bytes::Bytes;
use crate::t_mmu::shadow::layout::MODES;
use crate::t_mmu::shadow::random::{entry, run, Op};

/// The most operations of one run.
const MOST: usize = 120;

fn op(b: &mut Bytes<'_>) -> Op {
    match b.below(32) {
        0..=11 => Op::Access { cpu: b.u8(), address: b.u8(), kind: b.u8() },
        12..=19 => {
            Op::Edit { cpu: b.u8(), table: b.u8(), index: b.u8(), entry: entry(b.u8(), b.u8(), b.u16()) }
        }
        20..=22 => Op::Invlpg { cpu: b.u8(), address: b.u8() },
        23 | 24 => Op::Load { cpu: b.u8(), root: b.u8() },
        25 => Op::Toggle { cpu: b.u8(), bit: b.u8() },
        26 => Op::Unmap { first: b.u8(), count: b.u16() % 40 },
        27 => Op::Unmap { first: b.u8(), count: b.u16() % 3000 },
        28 => Op::ReplaceSlot { first: b.u8(), count: b.u16() % 3000 },
        29 => b.pick(&[Op::StartLog, Op::TakeDirty { word: 0 }, Op::TakeDirty { word: 9 }]),
        30 => Op::Exit { cpu: b.u8() },
        _ => b.pick(&[
            Op::Swap { table: 2 },
            Op::Swap { table: 3 },
            Op::Starve { left: 1 },
            Op::Starve { left: 4 },
        ]),
    }
}

/// Processors find what the architecture allows, nothing is used that the host has taken, and each table is freed once.
pub(super) fn shadow(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mode = b.pick(&MODES);
    let budget = 32 + b.below(32) as usize;
    let mut ops = Vec::new();
    while !b.is_empty() && ops.len() < MOST {
        ops.push(op(&mut b));
    }
    run(mode, budget, &ops);
}
