// SPDX-License-Identifier: GPL-2.0

//! The walker against a second, naive one over random tables.
//!
//! The reference follows the manual's tables of entry formats level by level and mode by mode,
//! shares no code with the walker, and asks for each access on its own.

use super::guest::Ram;
use crate::arch::addr::Gva;
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::mmu::mem::GuestMem;
use crate::mmu::walk::{walk, AccessKind, AccessPrivilege, PagingRegs, WalkAccess, WalkError};
use proptest::prelude::*;

const PAGES: u64 = 16;

#[derive(Debug, PartialEq)]
enum Outcome {
    Gpa(u64, u32),
    Fault(u32),
}

struct Reference<'a> {
    ram: &'a Ram,
    p: &'a PagingRegs,
    gva: u64,
    access: WalkAccess,
    used: Vec<(u64, usize)>,
    user: bool,
    write: bool,
    no_exec: bool,
}

impl Reference<'_> {
    fn bit(v: u64, n: u32) -> bool {
        (v >> n) % 2 == 1
    }

    fn fault(&self, p: bool, rsvd: bool, pk: bool) -> Outcome {
        let write = self.access.kind == AccessKind::Write;
        let user = self.access.privilege == AccessPrivilege::User;
        let nx = self.p.cr4.contains(Cr4::PAE) && self.p.efer.contains(Efer::NXE);
        let fetch = self.access.kind == AccessKind::Fetch && (nx || self.p.cr4.contains(Cr4::SMEP));
        let all = [p, write, user, rsvd, fetch, pk];
        Outcome::Fault(all.iter().rev().fold(0, |code, &b| code * 2 + u32::from(b)))
    }

    /// Reads an entry that is `bytes` wide, and refuses an absent one and one where there is no memory.
    fn entry(&mut self, at: u64, bytes: usize) -> Result<u64, Outcome> {
        if at + bytes as u64 > PAGES * 4096 {
            return Err(self.fault(false, false, false));
        }
        let raw = &self.ram.bytes.borrow()[at as usize..at as usize + bytes];
        let entry = raw.iter().rev().fold(0u64, |v, b| v * 256 + u64::from(*b));
        if !Self::bit(entry, 0) {
            return Err(self.fault(false, false, false));
        }
        Ok(entry)
    }

    /// Faults if one of the bits in `ranges` (high, low) is set.
    fn must_be_zero(&self, entry: u64, ranges: &[(u32, u32)]) -> Result<(), Outcome> {
        for &(high, low) in ranges {
            if (low..=high).any(|b| Self::bit(entry, b)) {
                return Err(self.fault(true, true, false));
            }
        }
        Ok(())
    }

    fn combine(&mut self, at: u64, bytes: usize, entry: u64) {
        self.used.push((at, bytes));
        self.write &= Self::bit(entry, 1);
        self.user &= Self::bit(entry, 2);
        self.no_exec |= Self::bit(entry, 63);
    }

    fn nx_range(&self) -> (u32, u32) {
        if self.p.efer.contains(Efer::NXE) {
            (0, 1)
        } else {
            (63, 63)
        }
    }

    fn finish(&self, leaf: u64, base: u64, shift: u32) -> Outcome {
        let long = self.p.efer.contains(Efer::LMA);
        let user_mode = self.access.privilege == AccessPrivilege::User;
        let kind = self.access.kind;
        let wp = self.p.cr0.contains(Cr0::WP);
        let mut ok = true;
        let mut pk = false;
        if user_mode {
            ok &= self.user;
            ok &= kind != AccessKind::Write || self.write;
        } else {
            ok &= kind != AccessKind::Write || self.write || !wp;
            if self.user && kind == AccessKind::Fetch {
                ok &= !self.p.cr4.contains(Cr4::SMEP);
            }
            if self.user && kind != AccessKind::Fetch && self.p.cr4.contains(Cr4::SMAP) {
                ok &= self.p.ac && self.access.privilege == AccessPrivilege::Supervisor;
            }
        }
        ok &= kind != AccessKind::Fetch || !self.no_exec;
        if long && self.p.cr4.contains(Cr4::PKE) && self.user && kind != AccessKind::Fetch {
            let key = leaf >> 59 & 15;
            let ad = Self::bit(u64::from(self.p.pkru), key as u32 * 2);
            let wd = Self::bit(u64::from(self.p.pkru), key as u32 * 2 + 1);
            pk = ad || (wd && kind == AccessKind::Write && (user_mode || wp));
        }
        if !ok || pk {
            return self.fault(true, false, pk);
        }
        let size = 1u64 << shift;
        Outcome::Gpa(base / size * size + self.gva % size, shift)
    }

    fn legacy(&mut self) -> Result<Outcome, Outcome> {
        let gva = self.gva % (1 << 32);
        let at = self.p.cr3 % (1 << 32) / 4096 * 4096 + gva / (1 << 22) * 4;
        let pde = self.entry(at, 4)?;
        if Self::bit(pde, 7) && self.p.cr4.contains(Cr4::PSE) {
            let width = self.p.maxphyaddr.min(40);
            self.must_be_zero(pde, &[(21, 13 + (width - 32))])?;
            self.combine(at, 4, pde);
            let high = (pde >> 13 & 0xff) << 32;
            return Ok(self.finish(pde, high | pde & 0xffc0_0000, 22));
        }
        self.combine(at, 4, pde);
        let at = (pde & 0xffff_f000) + gva / 4096 % 1024 * 4;
        let pte = self.entry(at, 4)?;
        self.combine(at, 4, pte);
        Ok(self.finish(pte, pte, 12))
    }

    /// From a page directory on: PAE and long mode differ in the bits above the address.
    fn directory(&mut self, table: u64, top: u32) -> Result<Outcome, Outcome> {
        let width = self.p.maxphyaddr;
        let address = (1u64 << width) - 4096;
        let high = [self.nx_range(), (top, width)];
        let at = table + self.gva / (1 << 21) % 512 * 8;
        let pde = self.entry(at, 8)?;
        self.must_be_zero(pde, &high)?;
        if Self::bit(pde, 7) {
            self.must_be_zero(pde, &[(20, 13)])?;
            self.combine(at, 8, pde);
            return Ok(self.finish(pde, pde & address, 21));
        }
        self.combine(at, 8, pde);
        let at = (pde & address) + self.gva / 4096 % 512 * 8;
        let pte = self.entry(at, 8)?;
        self.must_be_zero(pte, &high)?;
        self.combine(at, 8, pte);
        Ok(self.finish(pte, pte & address, 12))
    }

    fn pae(&mut self) -> Result<Outcome, Outcome> {
        let width = self.p.maxphyaddr;
        let at = self.p.cr3 % (1 << 32) / 32 * 32 + self.gva % (1 << 32) / (1 << 30) * 8;
        let pdpte = self.entry(at, 8)?;
        self.directory(pdpte & ((1u64 << width) - 4096), 62)
    }

    fn long(&mut self) -> Result<Outcome, Outcome> {
        let width = self.p.maxphyaddr;
        let address = (1u64 << width) - 4096;
        let mut table = self.p.cr3 & ((1 << 52) - 4096);
        let tops: &[u32] = if self.p.cr4.contains(Cr4::LA57) { &[48, 39] } else { &[39] };
        for &shift in tops {
            let at = table + (self.gva >> shift) % 512 * 8;
            let entry = self.entry(at, 8)?;
            self.must_be_zero(entry, &[self.nx_range(), (51, width), (7, 7)])?;
            self.combine(at, 8, entry);
            table = entry & address;
        }
        let at = table + (self.gva >> 30) % 512 * 8;
        let pdpte = self.entry(at, 8)?;
        self.must_be_zero(pdpte, &[self.nx_range(), (51, width)])?;
        if Self::bit(pdpte, 7) {
            self.must_be_zero(pdpte, &[if self.p.gib_pages { (29, 13) } else { (7, 7) }])?;
            self.combine(at, 8, pdpte);
            return Ok(self.finish(pdpte, pdpte & address, 30));
        }
        self.combine(at, 8, pdpte);
        self.directory(pdpte & address, 51)
    }

    fn run(&mut self) -> Outcome {
        let result = if self.p.efer.contains(Efer::LMA) {
            self.long()
        } else if self.p.cr4.contains(Cr4::PAE) {
            self.pae()
        } else {
            self.legacy()
        };
        result.unwrap_or_else(|e| e)
    }

    /// Returns memory as it must be afterwards.
    fn memory_after(&self, outcome: &Outcome) -> Vec<u8> {
        let mut bytes = self.ram.bytes.borrow().clone();
        if matches!(outcome, Outcome::Gpa(..)) {
            self.used.iter().for_each(|&(at, _)| bytes[at as usize] |= 0x20);
            if self.access.kind == AccessKind::Write {
                bytes[self.used.last().unwrap().0 as usize] |= 0x40;
            }
        }
        bytes
    }
}

fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Makes an entry that mostly leads somewhere, with every other bit set now and then.
fn random_entry(seed: &mut u64) -> u64 {
    let r = next(seed);
    let mut entry = (r % PAGES) << 12;
    entry |= u64::from(r >> 8 & 15 != 0);
    entry |= u64::from(r >> 12 & 7 != 0) << 1;
    entry |= u64::from(r >> 15 & 7 != 0) << 2;
    entry |= (r >> 18 & 3) << 5;
    entry |= u64::from(r >> 20 & 7 == 0) << 7;
    if entry & 0x80 != 0 && r >> 23 & 7 != 0 {
        // A large page that is aligned.
        entry &= !0x3fff_f000;
    }
    entry |= u64::from(r >> 26 & 15 == 0) << 63;
    if r >> 30 & 1 == 0 {
        entry |= (r >> 31 & 15) << 59;
    }
    if r >> 35 & 15 == 0 {
        entry |= 1 << (next(seed) % 64);
    }
    entry
}

pub(crate) fn random_ram(mut seed: u64, legacy: bool, pae: bool) -> Ram {
    let ram = Ram::new(PAGES as usize);
    for at in (0..PAGES * 4096).step_by(if legacy { 4 } else { 8 }) {
        let mut entry = random_entry(&mut seed);
        if legacy {
            ram.put32(at, entry as u32);
            continue;
        }
        if pae {
            // Bits 62:52 are reserved there, and keys would set them nearly always.
            if next(&mut seed) & 15 != 0 {
                entry &= !(0xf << 59);
            }
            if at < 4096 && next(&mut seed) & 7 != 0 {
                entry &= !0x8000_0000_0000_01e6;
            }
        }
        ram.put(at, entry);
    }
    ram
}

fn any_paging() -> impl Strategy<Value = PagingRegs> {
    let cr4 = (0u8..4, any::<[bool; 4]>());
    (cr4, any::<[bool; 4]>(), 32u32..=52, any::<u32>(), 0u64..0x1000).prop_map(
        |((mode, [smep, smap, pke, pse]), [wp, nxe, ac, gib_pages], maxphyaddr, pkru, low)| {
            let mut p = PagingRegs {
                cr0: Cr0::PE | Cr0::PG,
                cr3: low,
                cr4: Cr4::empty(),
                efer: Efer::empty(),
                ac,
                pkru: pkru & pkru.rotate_left(7),
                maxphyaddr,
                gib_pages,
                pdptes: None,
            };
            p.cr0.set(Cr0::WP, wp);
            p.cr4.set(Cr4::SMEP, smep);
            p.cr4.set(Cr4::SMAP, smap);
            p.cr4.set(Cr4::PKE, pke);
            p.cr4.set(Cr4::PSE, pse);
            p.cr4.set(Cr4::PAE, mode > 0);
            p.efer.set(Efer::NXE, nxe);
            p.efer.set(Efer::LMA, mode > 1);
            p.cr4.set(Cr4::LA57, mode > 2);
            p
        },
    )
}

fn any_access() -> impl Strategy<Value = WalkAccess> {
    let kind = prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Fetch)];
    let privilege = prop_oneof![
        Just(AccessPrivilege::User),
        Just(AccessPrivilege::Supervisor),
        Just(AccessPrivilege::Implicit)
    ];
    (kind, privilege).prop_map(|(kind, privilege)| WalkAccess { kind, privilege })
}

/// Walks once and asserts that result and memory are the reference's.
pub(crate) fn compare(ram: &Ram, p: &PagingRegs, gva: u64, access: WalkAccess) {
    let mut reference =
        Reference { ram, p, gva, access, used: Vec::new(), user: true, write: true, no_exec: false };
    let expected = reference.run();
    let memory = reference.memory_after(&expected);

    let outcome = match walk(ram, p, Gva(gva), access) {
        Ok(t) => Outcome::Gpa(t.gpa.0, t.page_shift),
        Err(WalkError::Fault(e)) => Outcome::Fault(e.error.unwrap()),
        Err(other) => panic!("{other:?}"),
    };

    assert_eq!(outcome, expected);
    assert!(*ram.bytes.borrow() == memory, "accessed or dirty bits differ");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Result, error code, and accessed and dirty bits are the reference's, in all modes.
    #[test]
    fn the_walker_agrees_with_the_reference(
        paging in any_paging(),
        seed in 1u64..,
        addresses in proptest::collection::vec((any::<u64>(), any_access()), 30),
    ) {
        let legacy = !paging.cr4.contains(Cr4::PAE);
        let ram = random_ram(seed, legacy, !legacy && !paging.efer.contains(Efer::LMA));
        for (gva, access) in addresses {
            compare(&ram, &paging, gva, access);
        }
        prop_assert!(ram.read(crate::arch::addr::Gpa(0), &mut [0; 8]).is_ok());
    }
}

/// The random tables are worth something only if walks end in all ways.
#[test]
fn random_walks_end_in_every_way() {
    let mut seed = 99;
    let mut seen = std::collections::BTreeMap::new();
    let p = PagingRegs {
        cr0: Cr0::PE | Cr0::PG | Cr0::WP,
        cr3: 0,
        cr4: Cr4::PAE | Cr4::SMEP | Cr4::SMAP | Cr4::PKE,
        efer: Efer::LMA | Efer::NXE,
        ac: false,
        pkru: 0x4444_4444,
        maxphyaddr: 46,
        gib_pages: true,
        pdptes: None,
    };
    let ram = random_ram(7, false, false);
    for i in 0..3000 {
        let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][i % 3];
        let privilege = [AccessPrivilege::User, AccessPrivilege::Supervisor][i / 3 % 2];
        let key = match walk(&ram, &p, Gva(next(&mut seed)), WalkAccess { kind, privilege }) {
            Ok(t) => t.page_shift,
            Err(WalkError::Fault(e)) => 100 + e.error.unwrap(),
            Err(other) => panic!("{other:?}"),
        };
        *seen.entry(key).or_insert(0) += 1;
    }

    for key in [12, 21, 30, 100, 101, 103, 105, 107, 109, 111, 116, 117, 120, 121, 125, 137] {
        assert!(seen.contains_key(&key), "never {key}: {seen:?}");
    }
}
