// SPDX-License-Identifier: GPL-2.0

//! Processors that walk shadow pages, and a run loop around them.
//!
//! A processor uses whatever it has cached, until it must flush: at an entry where a flush was asked for, and where its
//! guest flushes. It stays in guest mode until it has a page fault, or somebody makes it leave.

use super::hardware::{self, CachedPage};
use super::memory::Memory;
use super::model::may_find;
use crate::arch::addr::{Gfn, Gpa, Gva, Hpa, Pfn};
use crate::arch::exception::CpuException;
use crate::mmu::dirty::TakenWord;
use crate::mmu::format::{HardwareRoot, PageSize};
use crate::mmu::shadow::{
    RangeLoss, ShadowFault, ShadowFrame, ShadowMmu, ShadowRanges, ShadowRoot, ShadowStop, ShadowWork,
};
use crate::mmu::slots::GfnRange;
use crate::mmu::table::{FlushNeeded, TableMem};
use crate::mmu::tlb::TlbFlushes;
use crate::mmu::walk::{walk_by, AccessKind, AccessPrivilege, PagingRegs, WalkAccess, WalkError, WalkSteps};
use crate::t_mmu::table::Pool;
use std::collections::{BTreeMap, BTreeSet};

/// Frames of guest memory; what is beyond is devices'.
pub(crate) const FRAMES: u64 = 1024;

const READ: AccessKind = AccessKind::Read;

/// A processor.
pub(crate) struct Cpu {
    pub(crate) regs: PagingRegs,
    root: Option<ShadowRoot>,
    hardware: Option<HardwareRoot>,
    generation: u64,
    in_guest: bool,
    tlb: BTreeMap<u64, CachedPage>,
    /// Tables of level 1, by the address that they are for.
    tables: BTreeMap<u64, Hpa>,
    /// When all was flushed, and when a page.
    flushed: u64,
    page_flushed: BTreeMap<u64, u64>,
}

/// What came of an access.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// Memory, at this guest frame.
    Page(u64),
    /// Memory that software accessed.
    Emulated(u64),
    /// A device.
    Device(Gpa),
    /// A page fault for the guest.
    Fault(CpuException),
}

pub(crate) struct Machine {
    pub(crate) memory: Memory,
    pub(crate) pool: Pool,
    pub(crate) mmu: Option<ShadowMmu>,
    pub(crate) flushes: TlbFlushes,
    pub(crate) cpus: Vec<Cpu>,
    pending: FlushNeeded,
    /// How often the host has put another page behind a frame.
    versions: BTreeMap<u64, u64>,
    /// The frames whose marks were taken, and not made again.
    clean: BTreeSet<u64>,
    logs: bool,
    /// Of the memory slots.
    pub(crate) generation: u64,
    /// How often the guest's tables were walked, and how often other processors were waited for.
    pub(crate) walks: u64,
    pub(crate) waits: u64,
    /// The most entries that were written in one step of taking a range.
    pub(crate) longest_step: usize,
}

/// An access of user or supervisor.
pub(crate) fn access(kind: AccessKind, user: bool) -> WalkAccess {
    WalkAccess { kind, privilege: if user { AccessPrivilege::User } else { AccessPrivilege::Supervisor } }
}

impl Machine {
    pub(crate) fn new(budget: usize, regs: &[PagingRegs]) -> Machine {
        let cpu = |regs: &PagingRegs| Cpu {
            regs: *regs,
            root: None,
            hardware: None,
            generation: 0,
            in_guest: false,
            tlb: BTreeMap::new(),
            tables: BTreeMap::new(),
            flushed: 0,
            page_flushed: BTreeMap::new(),
        };
        Machine {
            memory: Memory::new(FRAMES),
            pool: Pool::default(),
            mmu: Some(ShadowMmu::new(budget, false).unwrap()),
            flushes: TlbFlushes::new(),
            cpus: regs.iter().map(cpu).collect(),
            pending: FlushNeeded::default(),
            versions: BTreeMap::new(),
            clean: BTreeSet::new(),
            logs: false,
            generation: 1,
            walks: 0,
            waits: 0,
            longest_step: 0,
        }
    }

    fn pfn_of(&self, gfn: u64) -> u64 {
        gfn + (1 + self.versions.get(&gfn).copied().unwrap_or(0)) * 0x1_0000
    }

    /// Does something under the lock.
    fn work<R>(
        &mut self,
        f: impl FnOnce(&mut ShadowMmu, &mut ShadowWork<'_, Pool>, &Memory, &mut [Cpu], &mut BTreeSet<u64>) -> R,
    ) -> R {
        let mmu = self.mmu.as_mut().unwrap();
        let mut work = ShadowWork::new(&mut self.pool, &self.flushes);
        let result = f(mmu, &mut work, &self.memory, &mut self.cpus, &mut self.clean);
        let flush = work.end(mmu);
        self.pending.join(&mut self.pool, flush);
        result
    }

    /// Waits for the processors, as whoever must know that they use no page any more.
    pub(crate) fn finish(&mut self) {
        let generation = self.flushes.requested();
        if !self.flushes.is_done(generation) {
            self.waits += 1;
            self.cpus.iter_mut().for_each(|cpu| cpu.in_guest = false);
            self.flushes.note_done(generation);
        }
        core::mem::take(&mut self.pending).release_each(&mut self.pool);
    }

    /// Takes what a stop asks for.
    fn unblock(&mut self, stop: ShadowStop) {
        match stop {
            ShadowStop::NeedPages => self.top_up(),
            ShadowStop::NeedFlush => self.finish(),
            ShadowStop::FaultIn(_) => self.memory.absent.set(None),
            ShadowStop::Again | ShadowStop::Reload | ShadowStop::Emulate => {}
        }
        if self.pending.is_needed() {
            self.finish();
        }
    }

    pub(crate) fn top_up(&mut self) {
        self.pool.limit(None);
        let mmu = self.mmu.as_mut().unwrap();
        while mmu.missing_nodes() > 0 {
            assert!(mmu.donate_nodes(ShadowMmu::new_nodes().unwrap()).is_none());
        }
        assert!(mmu.donate_nodes(ShadowMmu::new_nodes().unwrap()).is_some(), "a full store takes no more");
    }

    /// Enters the guest.
    pub(crate) fn enter(&mut self, n: usize) {
        loop {
            let cpu = &mut self.cpus[n];
            let (regs, root) = (cpu.regs, cpu.root.filter(|r| r.is_for(&cpu.regs)));
            let hardware = root.and_then(|r| self.mmu.as_ref().unwrap().hardware(&r));
            if hardware.is_some() {
                cpu.hardware = hardware;
                break;
            }
            match self.work(|mmu, work, _, _, _| mmu.load_root(work, &regs)) {
                Ok(root) => self.cpus[n].root = Some(root),
                Err(stop) => self.unblock(stop),
            }
        }
        let cpu = &mut self.cpus[n];
        if cpu.generation != self.flushes.requested() {
            cpu.generation = self.flushes.requested();
            cpu.tlb.clear();
            cpu.tables.clear();
        }
        cpu.in_guest = true;
    }

    /// Makes a processor leave guest mode.
    pub(crate) fn exit(&mut self, n: usize) {
        self.cpus[n].in_guest = false;
    }

    /// Translates as the processor does. `None`: a page fault.
    fn translate(&mut self, n: usize, gva: Gva, access: WalkAccess) -> Option<u64> {
        let cpu = &mut self.cpus[n];
        let regs = hardware::registers(&cpu.regs);
        let page = gva.0 >> 12;
        let allows = |c: &CachedPage| regs.check(access, c.rights, c.key).is_ok();
        if let Some(cached) = cpu.tlb.get(&page).filter(|c| allows(c)) {
            return Some(cached.pfn);
        }
        cpu.tlb.remove(&page);
        let top = match cpu.tables.get(&(gva.0 >> 21)) {
            Some(table) => (*table, 1),
            None => hardware::top(&cpu.hardware.unwrap(), gva.0)?,
        };
        let tables = &mut cpu.tables;
        let found = hardware::walk(
            |t, i| self.pool.read(t, i),
            top,
            gva.0,
            |table| {
                tables.insert(gva.0 >> 21, table);
            },
        )?;
        cpu.tlb.insert(page, found);
        allows(&found).then_some(found.pfn)
    }

    /// Makes an access, and looks whether what comes of it may.
    pub(crate) fn access(&mut self, n: usize, gva: u64, access: WalkAccess) -> Found {
        let gva = self.cpus[n].regs.linear(Gva(gva));
        for _ in 0..200 {
            if !self.cpus[n].in_guest {
                self.enter(n);
            }
            if let Some(pfn) = self.translate(n, gva, access) {
                let gfn = pfn & 0xffff;
                assert_eq!(pfn, self.pfn_of(gfn), "a page of the host's that it has taken away");
                let is_write = access.kind == AccessKind::Write;
                assert!(!(is_write && self.clean.contains(&gfn)), "a write that the log misses");
                self.assert_allowed(n, gva, access, gfn);
                return Found::Page(gfn);
            }
            self.exit(n);
            if let Some(found) = self.fault(n, gva, access) {
                return found;
            }
        }
        panic!("the guest does not get on at {gva:?} for {access:?}");
    }

    fn assert_allowed(&self, n: usize, gva: Gva, access: WalkAccess, gfn: u64) {
        let cpu = &self.cpus[n];
        let since = cpu.page_flushed.get(&(gva.0 >> 12)).copied().unwrap_or(0).max(cpu.flushed);
        assert!(
            may_find(&self.memory, &cpu.regs, gva, access, since, gfn),
            "cpu {n} finds frame {gfn:#x} at {:#x} for {access:?}, which no walk since its flush does",
            gva.0
        );
    }

    /// Handles a page fault.
    fn fault(&mut self, n: usize, gva: Gva, access: WalkAccess) -> Option<Found> {
        let (regs, generation) = (self.cpus[n].regs, self.generation);
        let root = self.cpus[n].root.unwrap();
        let known = self.mmu.as_ref().unwrap().device(&self.pool, &root, &regs, gva, access, generation);
        if let Some(gpa) = known {
            self.assert_allowed(n, gva, access, gpa.0 >> 12);
            return Some(Found::Device(gpa));
        }
        self.walks += 1;
        let mut steps: WalkSteps = Default::default();
        let translation = match walk_by(&self.memory, &regs, gva, access, &mut steps) {
            Ok(translation) => translation,
            Err(WalkError::Fault(e)) => return Some(Found::Fault(e)),
            Err(WalkError::Mem(_)) => {
                self.memory.absent.set(None);
                return None;
            }
            Err(WalkError::Busy) => return None,
        };
        let fault = ShadowFault { gva, access, steps: &steps, translation };
        let gfn = translation.gpa.0 >> 12;
        if !self.memory.has(gfn) {
            let done =
                self.work(|mmu, work, ram, _, _| mmu.remember_device(work, ram, &root, &fault, generation));
            if let Err(stop) = done {
                self.unblock(stop);
            }
            return Some(Found::Device(translation.gpa));
        }
        let frame = ShadowFrame { pfn: Pfn(self.pfn_of(gfn)), size: self.host_size(gfn) };
        let logs = self.logs;
        let done = self.work(|mmu, work, ram, _, clean| {
            mmu.map(work, ram, &root, &fault, frame, || {
                let writes = access.kind == AccessKind::Write;
                if writes {
                    clean.remove(&gfn);
                }
                !logs || !clean.contains(&gfn)
            })
        });
        match done {
            Ok(is_new) => {
                if !is_new {
                    self.cpus[n].tlb.clear();
                    self.cpus[n].tables.clear();
                }
                if self.pending.is_needed() {
                    self.finish();
                }
                None
            }
            Err(ShadowStop::Emulate) => {
                self.unblock(ShadowStop::Emulate);
                self.clean.remove(&gfn);
                Some(Found::Emulated(gfn))
            }
            Err(ShadowStop::Reload) => {
                self.cpus[n].root = None;
                self.unblock(ShadowStop::Reload);
                None
            }
            Err(stop) => {
                self.unblock(stop);
                None
            }
        }
    }

    fn host_size(&self, gfn: u64) -> PageSize {
        let first = gfn & !511;
        let version = |g| self.versions.get(&g).copied().unwrap_or(0);
        let is_whole = (first..first + 512).all(|g| version(g) == version(first)) && !self.logs;
        if is_whole {
            PageSize::Size2M
        } else {
            PageSize::Size4K
        }
    }

    /// Writes a word of `bytes` at a linear address.
    pub(crate) fn store(&mut self, n: usize, gva: u64, value: u64, bytes: usize) -> Found {
        let found = self.access(n, gva, access(AccessKind::Write, false));
        match found {
            Found::Page(gfn) => self.memory.put((gfn << 12) + (gva & 0xfff), value, bytes),
            Found::Emulated(gfn) => {
                let gpa = (gfn << 12) + (gva & 0xfff);
                self.memory.put(gpa, value, bytes);
                self.work(|mmu, work, _, _, _| mmu.wrote(work, Gpa(gpa), bytes as u64));
                if self.pending.is_needed() {
                    self.finish();
                }
            }
            Found::Device(_) | Found::Fault(_) => {}
        }
        found
    }

    pub(crate) fn read(&mut self, n: usize, gva: u64) -> Found {
        self.access(n, gva, access(READ, false))
    }

    /// INVLPG.
    pub(crate) fn invlpg(&mut self, n: usize, gva: u64) {
        self.exit(n);
        let gva = self.cpus[n].regs.linear(Gva(gva));
        match self.cpus[n].root {
            Some(root) => self.work(|mmu, work, ram, _, _| mmu.refresh_at(work, ram, &root, gva)),
            None => self.work(|mmu, work, ram, _, _| mmu.refresh_all(work, ram)),
        }
        let now = self.memory.tick();
        let cpu = &mut self.cpus[n];
        cpu.tlb.remove(&(gva.0 >> 12));
        cpu.tables.clear();
        cpu.page_flushed.insert(gva.0 >> 12, now);
    }

    /// A load of CR3, or a change of what translations mean: all is flushed.
    pub(crate) fn load(&mut self, n: usize, change: impl FnOnce(&mut PagingRegs)) {
        self.exit(n);
        change(&mut self.cpus[n].regs);
        self.work(|mmu, work, ram, _, _| mmu.refresh_all(work, ram));
        if self.pending.is_needed() {
            self.finish();
        }
        let now = self.memory.tick();
        let cpu = &mut self.cpus[n];
        cpu.root = None;
        cpu.tlb.clear();
        cpu.tables.clear();
        cpu.page_flushed.clear();
        cpu.flushed = now;
    }

    /// Takes a range, and waits for nobody yet. Returns in how many steps.
    pub(crate) fn take_only(&mut self, range: GfnRange, loss: RangeLoss) -> usize {
        self.take_beside(range, loss, |_| {})
    }

    /// The same while `others` happens after each step.
    pub(crate) fn take_beside(
        &mut self,
        range: GfnRange,
        loss: RangeLoss,
        mut others: impl FnMut(&mut Machine),
    ) -> usize {
        let mut ranges = ShadowRanges::new(core::iter::once(range), loss);
        let mut steps = 0;
        while !ranges.is_done() {
            let before = self.pool.writes;
            self.work(|mmu, work, _, _, _| ranges.go_on(mmu, work, 64));
            self.longest_step = self.longest_step.max(self.pool.writes - before);
            steps += 1;
            others(self);
        }
        steps
    }

    fn take(&mut self, range: GfnRange, loss: RangeLoss) {
        self.take_only(range, loss);
        self.finish();
    }

    /// The host puts other pages behind frames.
    pub(crate) fn unmap(&mut self, start: u64, end: u64) {
        self.take(GfnRange { start: Gfn(start), end: Gfn(end) }, RangeLoss::Pages);
        for gfn in start..end.min(FRAMES) {
            *self.versions.entry(gfn).or_default() += 1;
        }
    }

    /// A slot goes, and comes back with the same contents.
    pub(crate) fn replace_slot(&mut self, start: u64, end: u64) {
        self.take(GfnRange { start: Gfn(start), end: Gfn(end) }, RangeLoss::Memory);
        self.generation += 1;
        for gfn in start..end.min(FRAMES) {
            *self.versions.entry(gfn).or_default() += 1;
        }
    }

    /// Begins to log: nothing is marked.
    pub(crate) fn start_log(&mut self) {
        self.logs = true;
        self.take(GfnRange { start: Gfn(0), end: Gfn(FRAMES) }, RangeLoss::Writes);
        self.clean.extend(0..FRAMES);
    }

    /// Takes the marks of 64 frames.
    pub(crate) fn take_dirty(&mut self, first: u64) {
        if self.logs {
            let taken = TakenWord { first: Gfn(first), mask: u64::MAX };
            self.work(|mmu, work, _, _, _| mmu.write_protect_taken(work, taken));
            self.finish();
            self.clean.extend(first..first + 64);
        }
    }

    /// Returns whether a frame is marked as written.
    pub(crate) fn is_marked(&self, gfn: u64) -> bool {
        !self.clean.contains(&gfn)
    }

    /// Looks whether all that must hold does.
    pub(crate) fn check(&mut self) -> usize {
        let mmu = self.mmu.as_mut().unwrap();
        let pages = mmu.check(&self.pool).expect("pages, lists and tables agree");
        mmu.check_guest(&self.pool, &self.memory, &self.flushes).expect("pages and the guest's tables agree");
        pages
    }

    /// Ends it: each table is freed, once.
    pub(crate) fn end(mut self) {
        self.finish();
        let pages = self.check();
        assert_eq!(self.pool.live(), pages, "a table for each page");
        self.mmu.take().unwrap().teardown(&mut self.pool);
        assert_eq!(self.pool.live(), 0, "no table is left");
    }
}
