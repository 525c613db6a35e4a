// SPDX-License-Identifier: GPL-2.0

//! Segments and descriptor tables: between the processor's attributes and KVM's, which are taken apart.
//!
//! Pure, so compiled under cargo too. No bit that the architecture defines is lost on the way.

use crate::abi::vcpu as abi;
use crate::arch::segment::{DescTableReg, SegAttr, SegmentState};

/// Returns a flag of the ABI as one bit of an attribute word.
const fn bit(flag: u8, at: u32) -> u32 {
    ((flag & 1) as u32) << at
}

impl From<abi::Segment> for SegmentState {
    fn from(s: abi::Segment) -> SegmentState {
        let attr = u32::from(s.kind & 0xf)
            | bit(s.s, 4)
            | u32::from(s.dpl & 3) << 5
            | bit(s.present, 7)
            | bit(s.avl, 12)
            | bit(s.l, 13)
            | bit(s.db, 14)
            | bit(s.g, 15)
            | bit(s.unusable, 16);
        SegmentState { selector: s.selector, attr: SegAttr(attr), limit: s.limit, base: s.base }
    }
}

impl From<SegmentState> for abi::Segment {
    fn from(s: SegmentState) -> abi::Segment {
        let flag = |at: u32| u8::from(s.attr.0 & (1 << at) != 0);
        abi::Segment {
            base: s.base,
            limit: s.limit,
            selector: s.selector,
            kind: s.attr.kind() & 0xf,
            present: flag(7),
            dpl: s.attr.dpl(),
            db: flag(14),
            s: flag(4),
            l: flag(13),
            g: flag(15),
            avl: flag(12),
            unusable: flag(16),
            padding: 0,
        }
    }
}

impl From<abi::Dtable> for DescTableReg {
    fn from(t: abi::Dtable) -> DescTableReg {
        DescTableReg { base: t.base, limit: t.limit }
    }
}

impl From<DescTableReg> for abi::Dtable {
    fn from(t: DescTableReg) -> abi::Dtable {
        abi::Dtable { base: t.base, limit: t.limit, padding: [0; 3] }
    }
}
