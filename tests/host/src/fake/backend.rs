// SPDX-License-Identifier: GPL-2.0

//! A vendor's extension whose exits a test writes down.
//!
//! The guest is a function, the [`Script`]: each entry calls it, and it says with what exit the entry ends. Before
//! that the processor does its part: a host interrupt that waits ends the entry, an event that was to be injected is
//! delivered, an interrupt window exits. Translations are kept from the first use until the flush that is asked
//! for, so a guest that goes on using memory which was taken away is found: [`Entry::memory`].

use crate::abi::rvmm::VENDOR_SVM;
use crate::arch::addr::{Gpa, Gva, Hpa};
use crate::arch::cr::{Cr0, Cr4, Efer, Rflags};
use crate::arch::exception::PfError;
use crate::host::cpu::PinnedCpu;
use crate::host::world::{locked, world, World};
use crate::mmu::format::{
    index, GuestTouch, HardwareRoot, MapRights, Npt, TableEntry, TableFormat, TableLevels,
};
use crate::mmu::walk::{AccessKind, AccessPrivilege, PagingRegs, WalkAccess};
use crate::t_mmu::shadow::hardware::{self, CachedPage};
use crate::vcpu::backend::{BackendVcpu, CodeContext, TableRoot, VendorBackend};
use crate::vcpu::controls::{ControlGroups, EntryControls};
use crate::vcpu::event::{EventBlocking, GuestEvent};
use crate::vcpu::exit::{FaultFlags, GuestPageFault, LinearFault, RawExit, VmExit};
use crate::vcpu::state::{StateGroups, VcpuState};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::sched;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What becomes of an event that an entry was to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Commit {
    /// It is delivered.
    Delivered,
    /// The exit cuts its delivery short.
    CutShort,
    /// The entry fails before it.
    Refused,
}

/// How an entry ends.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub(crate) exit: VmExit,
    pub(crate) commit: Commit,
    /// The bytes of the instruction, if it is one: the next RIP follows from their number.
    pub(crate) insn: &'static [u8],
    /// The processor tells the next RIP.
    pub(crate) tells_next: bool,
    /// The processor tells the instruction's bytes.
    pub(crate) tells_bytes: bool,
}

impl Stop {
    /// An exit of no instruction.
    pub(crate) fn plain(exit: VmExit) -> Stop {
        Stop { exit, commit: Commit::Delivered, insn: &[], tells_next: false, tells_bytes: false }
    }

    /// An exit of an instruction of that many bytes.
    pub(crate) fn insn(exit: VmExit, insn: &'static [u8]) -> Stop {
        Stop { insn, tells_next: true, ..Stop::plain(exit) }
    }

    /// The entry fails.
    pub(crate) fn refused() -> Stop {
        let raw = RawExit { reason: u64::MAX, info1: 0, info2: 0 };
        Stop { commit: Commit::Refused, ..Stop::plain(VmExit::EntryFailed(raw)) }
    }
}

/// A guest.
pub(crate) type Script = Box<dyn FnMut(&mut Entry<'_, '_>) -> Stop + Send>;

/// What a test has of a vCPU's processor.
pub(crate) struct Guest {
    script: Mutex<Option<Script>>,
    /// The events delivered, in order.
    pub(crate) delivered: Mutex<Vec<GuestEvent>>,
    /// Entries so far.
    pub(crate) entries: AtomicU64,
    /// Flushes so far.
    pub(crate) flushes: AtomicU64,
    /// How often it was asked to hide the host's data.
    pub(crate) hidings: AtomicU64,
    /// What the processor does from itself, beside what scripts say.
    pub(crate) tells_context: AtomicBool,
}

impl Guest {
    /// Sets what the guest does.
    pub(crate) fn run(&self, script: impl FnMut(&mut Entry<'_, '_>) -> Stop + Send + 'static) {
        *locked(&self.script) = Some(Box::new(script));
    }

    /// Takes the events that were delivered since the last time.
    pub(crate) fn take_delivered(&self) -> Vec<GuestEvent> {
        core::mem::take(&mut locked(&self.delivered))
    }
}

/// The extension.
pub(crate) struct Fake {
    /// The vCPUs, in the order in which they were made.
    pub(crate) guests: Mutex<Vec<Arc<Guest>>>,
    /// CPUs that cannot run guests.
    pub(crate) unusable: Mutex<Vec<u32>>,
    format: Npt,
    /// Its processors walk shadow pages.
    is_shadow: bool,
    /// Windows that are open, and those that there ever were.
    pub(crate) windows: AtomicU64,
    pub(crate) opened: AtomicU64,
}

impl Fake {
    /// One with tables of four levels.
    pub(crate) fn new() -> Fake {
        Fake {
            guests: Mutex::default(),
            unusable: Mutex::default(),
            format: Npt { levels: TableLevels::Four, gib_pages: false, encryption_mask: 0 },
            is_shadow: false,
            windows: AtomicU64::new(0),
            opened: AtomicU64::new(0),
        }
    }

    /// One whose processors have no second-level table.
    pub(crate) fn shadow() -> Fake {
        Fake { is_shadow: true, ..Fake::new() }
    }

    /// Returns the processor of the vCPU that was made then.
    pub(crate) fn guest(&self, number: usize) -> Arc<Guest> {
        locked(&self.guests)[number].clone()
    }
}

/// Root operation on one CPU.
pub(crate) struct FakeWindow<'a> {
    backend: &'a Fake,
    cpu: &'a PinnedCpu,
}

impl Drop for FakeWindow<'_> {
    fn drop(&mut self) {
        self.backend.windows.fetch_sub(1, SeqCst);
    }
}

impl VendorBackend for Fake {
    type Vcpu = FakeVcpu;
    type Format = Npt;

    const NAME: &'static str = "fake";
    const VENDOR: u32 = VENDOR_SVM;
    const HAS_PDPTES: bool = false;
    const SHOWS_CACHES: bool = true;

    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<FakeWindow<'a>> {
        if locked(&self.unusable).contains(&cpu.id()) {
            return None;
        }
        self.windows.fetch_add(1, SeqCst);
        self.opened.fetch_add(1, SeqCst);
        Some(FakeWindow { backend: self, cpu })
    }

    fn new_vcpu(&self) -> Result<FakeVcpu> {
        drop(KBox::new((), GFP_KERNEL_ACCOUNT)?);
        let guest = Arc::new(Guest {
            script: Mutex::new(None),
            delivered: Mutex::default(),
            entries: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            hidings: AtomicU64::new(0),
            tells_context: AtomicBool::new(false),
        });
        locked(&self.guests).push(guest.clone());
        Ok(FakeVcpu {
            guest,
            format: self.format,
            hw: Hw::new(),
            injected: None,
            last: None,
            exit_taken: true,
            interrupted: None,
            was_delivering: false,
            arrived: Vec::new(),
        })
    }

    fn format(&self) -> Option<Npt> {
        (!self.is_shadow).then_some(self.format)
    }
}

/// The registers and the state of the processor.
pub(crate) struct Hw {
    /// The registers that are fetched in groups.
    pub(crate) regs: VcpuState,
    pub(crate) blocking: EventBlocking,
    /// Exits are asked for as soon as an interrupt, or an NMI, can be taken.
    pub(crate) interrupt_window: bool,
    pub(crate) nmi_window: bool,
    pub(crate) tpr: u8,
    pub(crate) tpr_floor: u8,
    pub(crate) tsc_offset: u64,
    pub(crate) has_debug_registers: bool,
    /// The translations that the processor has: frame, and what is allowed.
    tlb: HashMap<u64, (u64, MapRights)>,
    /// The same of linear addresses.
    linear_tlb: HashMap<u64, CachedPage>,
    flush: bool,
    next_rip: Option<u64>,
}

impl Hw {
    fn new() -> Hw {
        Hw {
            regs: VcpuState::at_reset(0),
            blocking: EventBlocking::default(),
            interrupt_window: false,
            nmi_window: false,
            tpr: 0,
            tpr_floor: 0,
            tsc_offset: 0,
            has_debug_registers: false,
            tlb: HashMap::new(),
            linear_tlb: HashMap::new(),
            flush: true,
            next_rip: None,
        }
    }
}

/// One virtual processor.
pub(crate) struct FakeVcpu {
    guest: Arc<Guest>,
    format: Npt,
    pub(crate) hw: Hw,
    injected: Option<GuestEvent>,
    last: Option<(RawExit, Stop)>,
    /// What the last entry ended with was asked for.
    exit_taken: bool,
    interrupted: Option<GuestEvent>,
    was_delivering: bool,
    arrived: Vec<GuestEvent>,
}

/// What a script sees of an entry.
pub(crate) struct Entry<'a, 'w> {
    /// The general registers, RIP and RFLAGS.
    pub(crate) state: &'a mut VcpuState,
    pub(crate) hw: &'a mut Hw,
    /// The event that the entry injects. It is delivered, but for what [`Stop::commit`] says.
    pub(crate) event: Option<GuestEvent>,
    /// Those that were delivered since the guest last executed something, and a host interrupt came in between.
    pub(crate) arrived: Vec<GuestEvent>,
    /// The CPU that it takes place on.
    pub(crate) cpu: &'w PinnedCpu,
    pub(crate) world: Arc<World>,
    root: Hpa,
    /// Instead: of tables from linear addresses.
    linear: Option<HardwareRoot>,
    format: Npt,
}

impl Entry<'_, '_> {
    /// Returns whether the guest's interrupts are on.
    pub(crate) fn has_interrupts_on(&self) -> bool {
        self.state.rflags & Rflags::IF.bits() != 0
    }

    /// Turns the guest's interrupts on or off.
    pub(crate) fn set_interrupts(&mut self, on: bool) {
        if on {
            self.state.rflags |= Rflags::IF.bits();
        } else {
            self.state.rflags &= !Rflags::IF.bits();
        }
    }

    /// Translates a linear address as a processor does that walks shadow pages.
    ///
    /// # Errors
    /// The exit that the access ends with.
    fn translate_linear(&mut self, root: &HardwareRoot, gva: u64, touch: GuestTouch) -> Result<u64, VmExit> {
        let r = &self.hw.regs;
        let regs = hardware::registers(&PagingRegs {
            cr0: Cr0::from_bits_truncate(r.cr0),
            cr3: r.cr3,
            cr4: Cr4::from_bits_truncate(r.cr4),
            efer: Efer::from_bits_truncate(r.efer),
            ac: self.state.rflags & Rflags::AC.bits() != 0,
            pkru: 0,
            maxphyaddr: 48,
            gib_pages: true,
            pdptes: None,
        });
        let kind = match touch {
            GuestTouch::Read => AccessKind::Read,
            GuestTouch::Write => AccessKind::Write,
            GuestTouch::Fetch => AccessKind::Fetch,
        };
        let is_user = r.segs[2].attr.dpl() == 3;
        let privilege = if is_user { AccessPrivilege::User } else { AccessPrivilege::Supervisor };
        let allows = |c: &CachedPage| regs.check(WalkAccess { kind, privilege }, c.rights, c.key).is_ok();
        if let Some(cached) = self.hw.linear_tlb.get(&(gva >> 12)).filter(|c| allows(c)) {
            return Ok(cached.pfn);
        }
        let tables = &self.world.tables;
        let found = hardware::top(root, gva)
            .and_then(|top| hardware::walk(|t, i| tables.read(t, i), top, gva, |_| ()));
        if let Some(found) = found.filter(allows) {
            self.hw.linear_tlb.insert(gva >> 12, found);
            return Ok(found.pfn);
        }
        let mut error = PfError::empty();
        error.set(PfError::PRESENT, found.is_some());
        error.set(PfError::WRITE, touch == GuestTouch::Write);
        error.set(PfError::FETCH, touch == GuestTouch::Fetch);
        error.set(PfError::USER, is_user);
        Err(VmExit::PageFault(LinearFault { gva: Gva(gva), error }))
    }

    /// Translates an address as the processor does: a physical one, or with shadow pages a linear one.
    ///
    /// # Errors
    /// The exit that the access ends with.
    fn translate(&mut self, gpa: Gpa, touch: GuestTouch) -> Result<u64, VmExit> {
        sched::yield_point();
        if let Some(root) = self.linear {
            return self.translate_linear(&root, gpa.0, touch);
        }
        let allows = |rights: MapRights| match touch {
            GuestTouch::Read => true,
            GuestTouch::Write => rights.contains(MapRights::WRITE),
            GuestTouch::Fetch => rights.contains(MapRights::EXEC),
        };
        let gfn = gpa.gfn();
        let mut present = false;
        if let Some((pfn, rights)) = self.hw.tlb.get(&gfn.0) {
            if allows(*rights) {
                return Ok(*pfn);
            }
            present = true;
        }
        let (mut table, mut level) = (self.root, self.format.levels().root());
        loop {
            let entry = self.world.tables.read(table, index(gfn, level));
            match self.format.decode(entry, level) {
                TableEntry::Link(next) => (table, level) = (next, level - 1),
                TableEntry::Leaf(leaf) if allows(leaf.rights) => {
                    let pfn = leaf.pfn.0 + gfn.0 % crate::mmu::format::entry_pages(level);
                    self.hw.tlb.insert(gfn.0, (pfn, leaf.rights));
                    return Ok(pfn);
                }
                TableEntry::Leaf(_) => {
                    present = true;
                    break;
                }
                TableEntry::Absent => break,
            }
        }
        let mut flags = FaultFlags::FINAL;
        flags.set(FaultFlags::WRITE, touch == GuestTouch::Write);
        flags.set(FaultFlags::FETCH, touch == GuestTouch::Fetch);
        flags.set(FaultFlags::PRESENT, present);
        Err(VmExit::GuestPageFault(GuestPageFault { gpa, flags }))
    }

    /// Accesses the page of an address, as an instruction of the guest.
    ///
    /// # Errors
    /// The exit that the access ends with.
    ///
    /// # Panics
    /// The translation leads to a frame that is not the guest's any more.
    pub(crate) fn memory<R>(
        &mut self,
        gpa: Gpa,
        touch: GuestTouch,
        f: impl FnOnce(&mut [u8; 4096]) -> R,
    ) -> Result<R, VmExit> {
        let pfn = self.translate(gpa, touch)?;
        let done = self.world.process.with_frame(pfn, f);
        Ok(done.unwrap_or_else(|| panic!("the guest uses frame {pfn:#x} at {:#x}, which has gone", gpa.0)))
    }

    /// Returns the frame behind an address, as an instruction of the guest reaches it.
    ///
    /// # Errors
    /// As [`Entry::memory`].
    pub(crate) fn frame(&mut self, gpa: Gpa, touch: GuestTouch) -> Result<u64, VmExit> {
        let pfn = self.translate(gpa, touch)?;
        self.memory(gpa, touch, |_| ())?;
        Ok(pfn)
    }

    /// Reads eight bytes.
    ///
    /// # Errors
    /// As [`Entry::memory`].
    pub(crate) fn read_u64(&mut self, gpa: Gpa) -> Result<u64, VmExit> {
        let at = (gpa.0 % 4096) as usize;
        let word = self.memory(gpa, GuestTouch::Read, |page| <[u8; 8]>::try_from(&page[at..at + 8]))?;
        Ok(u64::from_le_bytes(word.unwrap_or_default()))
    }

    /// Writes eight bytes.
    ///
    /// # Errors
    /// As [`Entry::memory`].
    pub(crate) fn write_u64(&mut self, gpa: Gpa, value: u64) -> Result<(), VmExit> {
        let at = (gpa.0 % 4096) as usize;
        self.memory(gpa, GuestTouch::Write, |page| page[at..at + 8].copy_from_slice(&value.to_le_bytes()))
    }
}

impl FakeVcpu {
    /// Ends an entry, before the guest executes anything where the processor has something to do.
    fn execute(&mut self, window: &FakeWindow<'_>, root: &TableRoot<'_>, state: &mut VcpuState) -> Stop {
        let event = self.injected;
        let before = (state.rflags, self.hw.blocking);
        if let Some(event) = event {
            self.deliver(event, state);
        }
        if window.cpu.is_interrupted() {
            self.arrived.extend(event);
            return Stop::plain(VmExit::HostInterrupt);
        }
        let interrupts_on = state.rflags & Rflags::IF.bits() != 0;
        if self.hw.interrupt_window && event.is_none() && interrupts_on && !self.hw.blocking.shadow {
            return Stop::plain(VmExit::InterruptWindow);
        }
        if self.hw.nmi_window && event.is_none() && !self.hw.blocking.nmi {
            return Stop::plain(VmExit::NmiReturn);
        }
        let mut script = locked(&self.guest.script).take().expect("a guest that does something");
        let mut entry = Entry {
            state,
            hw: &mut self.hw,
            event,
            arrived: core::mem::take(&mut self.arrived),
            cpu: window.cpu,
            world: world(),
            root: root.hpa(),
            linear: root.as_linear().copied(),
            format: self.format,
        };
        let stop = script(&mut entry);
        locked(&self.guest.script).get_or_insert(script);
        if stop.commit != Commit::Delivered {
            (state.rflags, self.hw.blocking) = before;
        }
        stop
    }

    /// Does what the delivery of an event does.
    fn deliver(&mut self, event: GuestEvent, state: &mut VcpuState) {
        self.hw.blocking.shadow = false;
        match event {
            GuestEvent::Interrupt(_) => state.rflags &= !Rflags::IF.bits(),
            GuestEvent::Nmi => self.hw.blocking.nmi = true,
            GuestEvent::Exception { .. } | GuestEvent::Software { .. } => {}
        }
    }
}

impl BackendVcpu for FakeVcpu {
    type Window<'a> = FakeWindow<'a>;

    fn enter(&mut self, window: &mut FakeWindow<'_>, root: &TableRoot<'_>, state: &mut VcpuState) -> RawExit {
        assert!(self.exit_taken, "each exit is asked for, once");
        sched::yield_point();
        let number = self.guest.entries.fetch_add(1, SeqCst);
        if core::mem::take(&mut self.hw.flush) {
            self.hw.tlb.clear();
            self.hw.linear_tlb.clear();
            self.guest.flushes.fetch_add(1, SeqCst);
        }
        if let Some(GuestEvent::Interrupt(_)) = self.injected {
            let on = state.rflags & Rflags::IF.bits() != 0;
            assert!(on && !self.hw.blocking.shadow, "an interrupt is injected where the guest can take it");
        }
        if self.injected == Some(GuestEvent::Nmi) {
            assert!(!self.hw.blocking.nmi, "an NMI is injected where none is in service");
        }
        let stop = self.execute(window, root, state);
        self.hw.next_rip = None;
        self.was_delivering = false;
        if let Some(event) = self.injected.take() {
            match stop.commit {
                Commit::Delivered => locked(&self.guest.delivered).push(event),
                Commit::CutShort => {
                    self.interrupted = Some(event);
                    self.was_delivering = true;
                }
                Commit::Refused => {}
            }
        }
        if !stop.insn.is_empty() && stop.tells_next {
            self.hw.next_rip = Some(state.rip.wrapping_add(stop.insn.len() as u64));
        }
        let raw = RawExit { reason: number, info1: 1, info2: 2 };
        self.last = Some((raw, stop));
        self.exit_taken = false;
        state.ran();
        raw
    }

    fn exit(&mut self, raw: RawExit, _state: &mut VcpuState) -> VmExit {
        let (last, stop) = self.last.as_ref().expect("an entry before");
        assert_eq!(*last, raw, "what the entry returned");
        assert!(!self.exit_taken, "once for each entry");
        self.exit_taken = true;
        stop.exit
    }

    fn leave(&mut self, _window: &mut FakeWindow<'_>) {}

    fn read_state(&self, want: StateGroups, out: &mut VcpuState) {
        copy(want, &self.hw.regs, out);
    }

    fn write_state(&mut self, dirty: StateGroups, from: &VcpuState) {
        copy(dirty, from, &mut self.hw.regs);
    }

    fn next_rip(&self, _raw: &RawExit) -> Option<u64> {
        self.hw.next_rip
    }

    fn code_context(&self) -> Option<CodeContext> {
        let r = &self.hw.regs;
        self.guest.tells_context.load(SeqCst).then(|| CodeContext {
            cr3: r.cr3,
            cr4: r.cr4,
            efer: r.efer,
            cs: r.segs[1].attr.0 as u16,
            cpl: r.segs[2].attr.dpl(),
        })
    }

    fn insn_bytes(&self) -> Option<&[u8]> {
        self.last.as_ref().filter(|(_, stop)| stop.tells_bytes).map(|(_, stop)| stop.insn)
    }

    fn inject(&mut self, event: GuestEvent) {
        assert!(self.injected.is_none(), "one event for each entry");
        self.injected = Some(event);
    }

    fn take_interrupted(&mut self) -> Option<GuestEvent> {
        // As on SVM: for all that the processor says, INT3 and INTO run again.
        self.interrupted.take().filter(|event| !event.is_software_trap())
    }

    fn was_delivering(&self) -> bool {
        self.was_delivering
    }

    fn blocking(&self) -> EventBlocking {
        self.hw.blocking
    }

    fn set_blocking(&mut self, blocking: EventBlocking) {
        self.hw.blocking = blocking;
    }

    fn write_controls(&mut self, dirty: ControlGroups, from: &EntryControls) {
        let hw = &mut self.hw;
        if dirty.contains(ControlGroups::INTERRUPT_WINDOW) {
            hw.interrupt_window = from.interrupt_window();
        }
        if dirty.contains(ControlGroups::NMI_WINDOW) {
            hw.nmi_window = from.nmi_window();
        }
        if dirty.contains(ControlGroups::TPR) {
            let tpr = from.tpr();
            assert!(tpr.floor <= tpr.cr8);
            (hw.tpr, hw.tpr_floor) = (tpr.cr8, tpr.floor);
        }
        if dirty.contains(ControlGroups::TSC_OFFSET) {
            hw.tsc_offset = from.tsc_offset();
        }
        hw.flush |= dirty.contains(ControlGroups::FLUSH);
        self.guest.hidings.fetch_add(dirty.contains(ControlGroups::HOST_DATA).into(), SeqCst);
        if dirty.contains(ControlGroups::DEBUG_PASSTHROUGH) {
            hw.has_debug_registers = from.debug_passthrough();
        }
    }

    fn tpr(&self) -> u8 {
        self.hw.tpr
    }
}

/// Copies groups of registers.
fn copy(groups: StateGroups, from: &VcpuState, to: &mut VcpuState) {
    if groups.contains(StateGroups::SEGMENTS) {
        (to.segs, to.ldtr, to.tr) = (from.segs, from.ldtr, from.tr);
    }
    if groups.contains(StateGroups::TABLES) {
        (to.gdt, to.idt) = (from.gdt, from.idt);
    }
    if groups.contains(StateGroups::CONTROL) {
        (to.cr0, to.cr2, to.cr3, to.cr4, to.efer) = (from.cr0, from.cr2, from.cr3, from.cr4, from.efer);
        to.pdptes = from.pdptes;
    }
    if groups.contains(StateGroups::SYSCALL) {
        to.syscall = from.syscall;
    }
    if groups.contains(StateGroups::DEBUG) {
        (to.dr6, to.dr7) = (from.dr6, from.dr7);
    }
}
