// SPDX-License-Identifier: GPL-2.0

//! A machine as a partition of Hyper-V's: what its virtual processors share.
//!
//! TLFS, "Partition Reference Counter" and "Partition Reference Time Enlightenment", among others. The reference time
//! counts units of 100 ns. It is the machine's paravirtual clock, and while the guest has a page from which it works the
//! time out of its TSC, it is what that page says. The page is written by a vCPU before it enters the guest, where the page
//! or the clock has been set since.
//!
//! Everything else is words that the guest, or user space, has written. Any vCPU reads and writes them at any time.

use super::clock::MachineClock;
use crate::arch::addr::Gpa;
use crate::arch::hyperv::{DebuggerMsr, HvMsr, PAGE_ADDRESS, PAGE_ENABLED};
use crate::arch::slice::count_first;
use crate::host::cpu::PinnedCpu;
use crate::host::eventfd::EventFd;
use crate::host::rcu::RcuBox;
use crate::host::timer;
use crate::machine::pvclock::REFERENCE_UNIT_NS;
use crate::mmu::mem::{GuestMem, MemError};
use core::sync::atomic::{AtomicU64, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex, SpinLockIrq};

/// How many words there are.
const WORDS: usize = 18;

/// Returns the place of an MSR that is a word of the partition's.
fn place(msr: HvMsr) -> Option<usize> {
    Some(match msr {
        HvMsr::GuestOsId => 0,
        HvMsr::HypercallPage => 1,
        HvMsr::CrashControl => 2,
        HvMsr::Reenlightenment => 3,
        HvMsr::TscEmulationControl => 4,
        HvMsr::TscEmulationStatus => 5,
        HvMsr::TscInvariantControl => 6,
        HvMsr::Debugger(DebuggerMsr::Control) => 7,
        HvMsr::Debugger(DebuggerMsr::Status) => 8,
        HvMsr::Debugger(DebuggerMsr::SendPage) => 9,
        HvMsr::Debugger(DebuggerMsr::ReceivePage) => 10,
        HvMsr::Debugger(DebuggerMsr::PendingPage) => 11,
        HvMsr::Debugger(DebuggerMsr::Options) => 12,
        HvMsr::CrashParameter(n) => 13usize.wrapping_add(n.into()),
        _ => return None,
    })
}

/// How far the reference page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageState {
    /// There is none.
    Unset,
    /// The guest has put it somewhere: it is to be written.
    Placed,
    /// User space has, or the clock has been set: it is to be written, unless the guest goes by the old one still.
    Stale,
    /// It is there.
    Valid,
    /// It cannot be written, or its like cannot be worked out.
    Broken,
}

/// The page from which the guest works out the reference time: `(TSC * scale >> 64) + offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReferencePage {
    /// The MSR: address and enable bit.
    msr: u64,
    state: PageState,
    /// The number that the page had last. The guest takes two looks at it for one where they differ.
    sequence: u32,
    scale: u64,
    offset: u64,
}

/// Returns the upper half of a product.
fn high_half(a: u64, b: u64) -> u64 {
    (u128::from(a).wrapping_mul(u128::from(b)) >> 64) as u64
}

impl ReferencePage {
    /// Returns the reference time that the page gives for the guest's TSC.
    fn time_at(&self, tsc: u64) -> u64 {
        high_half(tsc, self.scale).wrapping_add(self.offset)
    }
}

/// The most connections of a machine.
const MAX_CONNECTIONS: usize = 16384;

/// What a guest signals through connections: eventfds, sorted by the numbers of the connections.
#[derive(Default)]
pub(crate) struct HvConnections(KVec<(u32, Arc<EventFd>)>);

impl HvConnections {
    fn place(&self, id: u32) -> core::result::Result<usize, usize> {
        let HvConnections(list) = self;
        let at = count_first(list.len(), |i| list.get(i).is_some_and(|(other, _)| *other < id));
        match list.get(at) {
            Some((other, _)) if *other == id => Ok(at),
            _ => Err(at),
        }
    }

    /// Returns a copy with room for one more.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn try_clone(&self) -> Result<HvConnections> {
        let HvConnections(list) = self;
        let mut new = KVec::with_capacity(list.len().saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        for (id, event) in list {
            new.push_within_capacity((*id, event.clone()))?;
        }
        Ok(HvConnections(new))
    }

    /// Lets a connection lead to `event`, or to nothing any more. There is room for one more.
    ///
    /// # Errors
    /// `EEXIST` for one that leads somewhere, `ENOENT` for one that does not; `ENOSPC`.
    fn change(&mut self, id: u32, event: Option<Arc<EventFd>>) -> Result {
        match (self.place(id), event) {
            (Ok(_), Some(_)) => return Err(EEXIST),
            (Err(_), None) => return Err(ENOENT),
            (Err(_), Some(_)) if self.0.len() >= MAX_CONNECTIONS => return Err(ENOSPC),
            (Err(at), Some(event)) => self.0.insert_within_capacity(at, (id, event)).map_err(|_| ENOMEM)?,
            (Ok(at), None) => drop(self.0.remove(at)),
        }
        Ok(())
    }
}

/// See the module's description.
#[pin_data]
pub(crate) struct HvPartition {
    words: [AtomicU64; WORDS],
    /// Held for a few instructions.
    #[pin]
    page: SpinLockIrq<ReferencePage>,
    /// Held while the page is written, so that two who write it do not mix theirs.
    #[pin]
    writing: Mutex<()>,
    /// What the guest signals.
    connections: RcuBox<HvConnections>,
    /// The same, for who changes it.
    #[pin]
    connecting: Mutex<HvConnections>,
}

impl HvPartition {
    /// One that no guest has said anything to.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<impl PinInit<HvPartition>> {
        let page = ReferencePage { msr: 0, state: PageState::Unset, sequence: 0, scale: 0, offset: 0 };
        let connections = RcuBox::new(HvConnections::default())?;
        Ok(pin_init!(HvPartition {
            words: [const { AtomicU64::new(0) }; WORDS],
            page <- kernel::new_spinlock_irq!(page),
            writing <- kernel::new_mutex!(()),
            connections,
            connecting <- kernel::new_mutex!(HvConnections::default()),
        }))
    }

    /// Signals what a connection leads to. Returns whether there is one of that number.
    pub(crate) fn signal(&self, cpu: &PinnedCpu, id: u32) -> bool {
        let connections = self.connections.pinned(cpu);
        let found = connections.place(id).ok().and_then(|at| connections.0.get(at));
        if let Some((_, event)) = found {
            event.signal();
        }
        found.is_some()
    }

    /// Lets a connection lead to `event`, or to nothing any more. Sleeps.
    ///
    /// # Errors
    /// `EEXIST` for one that leads somewhere, `ENOENT` for one that does not; `ENOSPC`, `ENOMEM`.
    pub(crate) fn connect(&self, id: u32, event: Option<Arc<EventFd>>) -> Result {
        let mut own = self.connecting.lock();
        let mut changed = own.try_clone()?;
        changed.change(id, event)?;
        // What the vCPUs see first: where this fails, both are as they were.
        self.connections.replace(changed.try_clone()?)?;
        *own = changed;
        Ok(())
    }

    fn word(&self, msr: HvMsr) -> Option<&AtomicU64> {
        self.words.get(place(msr)?)
    }

    /// Returns a word of the partition's, 0 for an MSR that is none.
    pub(crate) fn get(&self, msr: HvMsr) -> u64 {
        self.word(msr).map_or(0, |word| word.load(Relaxed))
    }

    /// Sets a word of the partition's.
    pub(crate) fn put(&self, msr: HvMsr, value: u64) {
        if let Some(word) = self.word(msr) {
            word.store(value, Relaxed);
        }
    }

    /// Sets which operating system the guest is; none: it makes no hypercalls any more.
    pub(crate) fn set_guest_os(&self, id: u64) {
        self.put(HvMsr::GuestOsId, id);
        if let (0, Some(page)) = (id, self.word(HvMsr::HypercallPage)) {
            page.fetch_and(!PAGE_ENABLED, Relaxed);
        }
    }

    /// Returns MSR REFERENCE_TSC.
    pub(crate) fn reference_page(&self) -> u64 {
        self.page.lock().msr
    }

    /// Sets MSR REFERENCE_TSC. The page is written by the next [`HvPartition::publish`], which the caller asks for.
    pub(crate) fn set_reference_page(&self, msr: u64, by_guest: bool) {
        let mut page = self.page.lock();
        page.msr = msr;
        page.state = match (msr & PAGE_ENABLED, by_guest) {
            (0, _) => PageState::Unset,
            (_, true) => PageState::Placed,
            (_, false) => PageState::Stale,
        };
    }

    /// Returns whether the guest goes by the page as it is, whatever becomes of its TSC: it has asked to have the
    /// old frequency until it is told otherwise.
    fn keeps_page(&self) -> bool {
        self.get(HvMsr::TscEmulationControl) != 0
    }

    /// The paravirtual clock has been set, or a vCPU's TSC: the page is out of date.
    pub(crate) fn note_clock_change(&self) {
        let mut page = self.page.lock();
        if page.state == PageState::Valid && !self.keeps_page() {
            page.state = PageState::Stale;
        }
    }

    /// Returns the reference time on a vCPU whose TSC is `tsc_offset` ahead of the host's.
    pub(crate) fn time(&self, clock: &MachineClock, tsc_offset: u64) -> u64 {
        let tsc = timer::rdtsc();
        let page = *self.page.lock();
        if page.state == PageState::Valid {
            page.time_at(tsc.wrapping_add(tsc_offset))
        } else {
            clock.ns_at(tsc) / REFERENCE_UNIT_NS
        }
    }

    /// Writes the page, if it is to be written, for TSCs that are `tsc_offset` ahead of the host's. Sleeps.
    ///
    /// # Errors
    /// The address of the page, which must be made resident first.
    pub(crate) fn publish<M: GuestMem>(
        &self,
        mem: &M,
        clock: &MachineClock,
        tsc_offset: u64,
    ) -> Result<(), Gpa> {
        let _writing = self.writing.lock();
        let asked = *self.page.lock();
        let keeps = match asked.state {
            PageState::Placed => false,
            PageState::Stale => self.keeps_page(),
            PageState::Unset | PageState::Valid | PageState::Broken => return Ok(()),
        };
        let written = self.write(mem, asked, keeps, clock, tsc_offset);
        let now = match written {
            Ok(page) => page.unwrap_or(ReferencePage { state: PageState::Broken, ..asked }),
            Err(MemError::NotResident(gpa)) => return Err(gpa),
            Err(MemError::NoSlot(_)) => ReferencePage { state: PageState::Broken, ..asked },
        };
        let mut page = self.page.lock();
        // Set anew meanwhile: whoever did that has asked for the next one.
        if (page.msr, page.state) == (asked.msr, asked.state) {
            *page = now;
        }
        Ok(())
    }

    /// Writes the page. Returns what it holds; `None`: it holds nothing, and the guest asks by MSR.
    fn write<M: GuestMem>(
        &self,
        mem: &M,
        asked: ReferencePage,
        keeps: bool,
        clock: &MachineClock,
        tsc_offset: u64,
    ) -> Result<Option<ReferencePage>, MemError> {
        let at = |offset: u64| Gpa(asked.msr & PAGE_ADDRESS).wrapping_add(offset);
        let found: u32 = mem.read_obj(at(SEQUENCE))?;
        if found != 0 && keeps {
            let (scale, offset) = (mem.read_obj(at(SCALE))?, mem.read_obj(at(OFFSET))?);
            return Ok(Some(ReferencePage {
                state: PageState::Valid,
                sequence: found,
                scale,
                offset,
                ..asked
            }));
        }
        let before = if found == 0 { asked.sequence } else { found };
        // Kept at once: where the page goes before all is written, it reads as 0 the next time.
        self.page.lock().sequence = before;
        mem.write_obj(at(SEQUENCE), &0u32)?;
        let Some(scale) = clock.scale.reference_scale().filter(|_| timer::is_tsc_stable()) else {
            return Ok(None);
        };
        let tsc = timer::rdtsc();
        let ticks = high_half(tsc.wrapping_add(tsc_offset), scale);
        let offset = (clock.ns_at(tsc) / REFERENCE_UNIT_NS).wrapping_sub(ticks);
        mem.write_obj(at(SCALE), &scale)?;
        mem.write_obj(at(OFFSET), &offset)?;
        let sequence = match before.wrapping_add(1) {
            // Both say that the page is not to be used.
            0 | u32::MAX => 1,
            next => next,
        };
        mem.write_obj(at(SEQUENCE), &sequence)?;
        Ok(Some(ReferencePage { state: PageState::Valid, sequence, scale, offset, ..asked }))
    }
}

/// In the reference page: its number, which changes with each update; 0: do not use it.
const SEQUENCE: u64 = 0;
/// The factor.
const SCALE: u64 = 8;
/// What is added.
const OFFSET: u64 = 16;
