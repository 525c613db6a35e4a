// SPDX-License-Identifier: GPL-2.0

//! The decoder and the emulator over a machine of arrays.

use super::bytes::Bytes;
use crate::arch::segment::SegAttr;
use crate::t_emulate::machine::{Asked, Box86};
use crate::vcpu::emulate::decode::CodeMode::{self, Bits16, Bits32, Bits64};
use crate::vcpu::emulate::decode::{decode, DecodeError, MAX_LEN};
use crate::vcpu::emulate::execute::emulate;
use crate::vcpu::emulate::exit_insn::insn_len;

/// An instruction lies in its bytes, needs all of them and no more than fifteen, and names
/// registers that there are.
pub(super) fn decoder(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mode = b.pick(&[Bits64, Bits32, Bits16]);
    let code = b.0;
    let insn = match decode(code, mode) {
        Ok(insn) => insn,
        Err(e) => {
            assert!(e != DecodeError::Truncated || code.len() < MAX_LEN);
            return;
        }
    };
    let len = usize::from(insn.len);
    assert!((1..=MAX_LEN).contains(&len) && len <= code.len());
    assert_eq!(decode(&code[..len], mode), Ok(insn));
    for cut in 0..len {
        assert_eq!(decode(&code[..cut], mode), Err(DecodeError::Truncated));
    }
    assert_eq!(insn_len(code, mode), Some(len));
    let limit = if mode == Bits64 { 16 } else { 8 };
    assert!(insn.reg < limit && insn.rm < limit && insn.ext < 8);
    if let Some(mem) = insn.mem {
        assert!(mem.base.unwrap_or(0) < limit && mem.index.unwrap_or(0) < limit && mem.scale < 4);
    }
}

const BASE: u64 = 0x4000;
const BYTES: usize = 0x2000;
const CODE: u64 = BASE + 0x1000;

fn machine(b: &mut Bytes<'_>, mode: CodeMode) -> Box86 {
    let mut m = Box86::new(mode, BASE, (0..BYTES).map(|i| i as u8).collect());
    m.rip = CODE;
    m.rflags = 2 | (b.u32() as u64 & 0x20_0cd5);
    m.cpl = b.pick(&[0, 0, 3]);
    m.rivals = u32::from(b.u8() & 1);
    if b.flag() {
        m.read_only = BASE..BASE + 0x800;
    }
    if b.flag() {
        m.retry = BASE + 0x800..BASE + 0xa00;
    }
    m.port_input = (0..b.below(4)).map(|n| 0x1111_1111 * n as u32).collect();
    for n in 0..16 {
        m.gpr[n] = match b.u8() {
            v @ 0..=159 => BASE + u64::from(v) * 0x20,
            160..=200 => u64::from(b.u8()),
            201..=230 => b.number(),
            _ => b.u64(),
        };
    }
    if b.below(4) == 0 {
        // One data segment is odd; CS stays, or there is nothing to emulate.
        let seg = &mut m.seg[b.pick(&[0usize, 2, 3, 4, 5])];
        seg.attr = SegAttr(u32::from(b.u16()));
        seg.limit = b.number() as u32;
        seg.base = b.number();
    }
    m
}

/// What was asked for but for the marks of progress.
fn asked(m: &Box86) -> Vec<Asked> {
    m.asked.iter().filter(|a| !matches!(a, Asked::Commit)).copied().collect()
}

/// Bytes saved by the processor and bytes fetched give the same; what does not complete leaves RIP
/// and, without a repeated string in progress, everything as it was.
pub(super) fn emulator(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mode = b.pick(&[Bits64, Bits32, Bits16]);
    let mut code = [0x90; MAX_LEN];
    let len = usize::from(b.u8() & 15);
    code[..len].fill_with(|| b.u8());
    let mut m = machine(&mut b, mode);
    m.put(CODE, &code);
    let before = m.clone();
    let mut assisted = m.clone();

    let result = emulate(&mut m, None);
    let with_bytes = emulate(&mut assisted, Some(&code));

    assert_eq!(result, with_bytes, "{code:02x?}");
    assert_eq!(m, assisted, "{code:02x?}");
    assert_eq!(m.rflags & 0x8028 | 2, 2, "reserved flags: {code:02x?}");
    if let Ok(insn) = decode(&code, mode) {
        // A, LODS and the others, INS, OUTS: elements that are done stay done.
        let string = asked(&m).len() > asked(&before).len() || m.asked.contains(&Asked::Commit);
        if result.is_err() && !string && insn.prefixes.rep.is_none() {
            assert_eq!(m, before, "{result:?} changed something: {code:02x?} in {mode:?}");
        }
    } else {
        assert!(result.is_err());
        assert_eq!(m, before);
    }
    if result.is_err() {
        assert_eq!(m.rip, before.rip);
    }
}
