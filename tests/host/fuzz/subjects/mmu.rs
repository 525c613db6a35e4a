// SPDX-License-Identifier: GPL-2.0

//! The guest page table walker, memory slots and second-level tables, each against its reference.

use super::bytes::Bytes;
use crate::arch::addr::{Gfn, Gpa, Hva, PAGE_SIZE};
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::mmu::format::PageSize::{Size1G, Size2M, Size4K};
use crate::mmu::format::{MapRights, Npt, TableLevels};
use crate::mmu::slots::{GfnRange, SlotRequest};
use crate::mmu::walk::{AccessKind, AccessPrivilege, PagingRegs, WalkAccess};
use crate::t_mmu::format::{EPT, NPT};
use crate::t_mmu::slots::{none, reference, request, Changed, Model, HVA};
use crate::t_mmu::table::{run_against_model, Op};
use crate::t_mmu::walk_random::{compare, random_ram};

fn paging(b: &mut Bytes<'_>) -> PagingRegs {
    let (mode, bits) = (b.below(4), b.u8());
    let bit = |n: u8| bits >> n & 1 != 0;
    let pkru = b.u32();
    let mut p = PagingRegs {
        cr0: Cr0::PE | Cr0::PG,
        cr3: u64::from(b.u16() & 0xfff),
        cr4: Cr4::empty(),
        efer: Efer::empty(),
        ac: bit(0),
        pkru: pkru & pkru.rotate_left(7),
        maxphyaddr: 32 + b.below(21) as u32,
        gib_pages: bit(1),
        pdptes: None,
    };
    p.cr0.set(Cr0::WP, bit(2));
    p.cr4.set(Cr4::SMEP, bit(3));
    p.cr4.set(Cr4::SMAP, bit(4));
    p.cr4.set(Cr4::PKE, bit(5));
    p.cr4.set(Cr4::PSE, bit(6));
    p.cr4.set(Cr4::PAE, mode > 0);
    p.efer.set(Efer::NXE, bit(7));
    p.efer.set(Efer::LMA, mode > 1);
    p.cr4.set(Cr4::LA57, mode > 2);
    p
}

/// Result, error code, accessed and dirty bits are the reference's, over tables of which the bytes
/// choose the seed and change entries.
pub(super) fn walk(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let p = paging(&mut b);
    let legacy = !p.cr4.contains(Cr4::PAE);
    let ram = random_ram(u64::from(b.u16()) + 1, legacy, !legacy && !p.efer.contains(Efer::LMA));
    while !b.is_empty() {
        if b.below(3) == 0 {
            let at = u64::from(b.u16() & 0x1fff) * 8;
            ram.put(at, b.u64());
            continue;
        }
        let kind = b.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Fetch]);
        let privilege =
            b.pick(&[AccessPrivilege::User, AccessPrivilege::Supervisor, AccessPrivilege::Implicit]);
        compare(&ram, &p, b.u64(), WalkAccess { kind, privilege });
    }
}

/// Each request and each frame's host address are as the reference has them.
pub(super) fn slots(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut slots = none();
    let mut model = Model::new();
    let mut hint = b.u8() as usize;
    while !b.is_empty() {
        if b.below(8) == 0 {
            let wild = SlotRequest {
                slot: b.number() as u32,
                flags: b.number() as u32,
                gpa: Gpa(b.number() << b.pick(&[0, 12])),
                size_bytes: b.number() << b.pick(&[0, 12]),
                hva: Hva(b.number() << b.pick(&[0, 12])),
            };
            if let Ok((next, _)) = slots.with(&wild) {
                assert!(next.as_slice().windows(2).all(|w| w[0].range().end <= w[1].base));
                assert!(next
                    .as_slice()
                    .iter()
                    .all(|s| s.npages > 0 && s.hva.0.checked_add(s.npages << 12).is_some()));
            }
            continue;
        }
        let (id, first, npages) = (b.below(6) as u32, b.below(48), b.below(12));
        let (hva, flags) = (HVA + b.below(3) * 8 * PAGE_SIZE, b.below(4) as u32);
        let r = SlotRequest { flags, hva: Hva(hva), ..request(id, first, npages) };
        let expected = reference(&mut model, (id, first, npages, hva, flags));
        let result = slots.with(&r);
        assert_eq!(result.as_ref().map(|_| ()).map_err(|e| *e), expected);
        if let Ok((next, _)) = result {
            slots = next;
        }
        for gfn in 0..64 {
            let found = slots.gpa_to_hva(Gpa(gfn * PAGE_SIZE), &mut hint);
            let want = model.values().find(|s| (s.0..s.0 + s.1).contains(&gfn));
            assert_eq!(
                found.map(|f| (f.hva.0, f.left, f.is_writable())),
                want.map(|s| (s.2 + (gfn - s.0) * PAGE_SIZE, (s.0 + s.1 - gfn) * PAGE_SIZE, s.3 & 2 == 0))
            );
        }
    }
}

/// Frames near the boundaries of tables of all levels, as the model probes them.
fn gfn(b: &mut Bytes<'_>) -> u64 {
    let edge = |b: &mut Bytes<'_>| b.pick(&[0u64, 1, 2, 510, 511]);
    (b.below(2) << 27) + (b.below(3) << 18) + (edge(b) << 9) + edge(b)
}

fn range(b: &mut Bytes<'_>) -> GfnRange {
    let (from, n) = (gfn(b), b.below(3));
    let (start, end) = match b.below(5) {
        0 => (from, gfn(b)),
        1 => (from, from + n),
        2 => (from & !511, (from & !511) + n * 512),
        3 => (from & !0x3_ffff, (from & !0x3_ffff) + (n << 18)),
        _ => return GfnRange::ALL,
    };
    GfnRange { start: Gfn(start), end: Gfn(end.max(start)) }
}

fn op(b: &mut Bytes<'_>) -> Op {
    match b.below(12) {
        0 => Op::Unmap(range(b)),
        1 => Op::UnmapBySteps(range(b)),
        2 => Op::Protect(range(b)),
        3 => Op::Age(range(b)),
        _ => {
            let size = b.pick(&[Size4K, Size4K, Size2M, Size1G]);
            let mask = !(size.pages() - 1);
            let at = gfn(b);
            let pfn = if b.below(4) == 0 { gfn(b) } else { at };
            let rights = MapRights::from_bits_truncate(b.u8() & 3);
            let memory = if b.below(5) == 0 { Some(b.below(4) as usize) } else { None };
            Op::Map { gfn: at & mask, pfn: pfn & mask, size, rights, memory }
        }
    }
}

/// Any sequence leaves what the model has, says when to flush, and loses no table page.
pub(super) fn table(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let format = b.below(3);
    let mut ops = Vec::new();
    while !b.is_empty() && ops.len() < 60 {
        ops.push(op(&mut b));
    }
    match format {
        0 => run_against_model(NPT, &ops),
        1 => run_against_model(Npt { levels: TableLevels::Five, ..NPT }, &ops),
        _ => run_against_model(EPT, &ops),
    }
}
