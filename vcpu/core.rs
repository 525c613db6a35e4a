// SPDX-License-Identifier: GPL-2.0

//! Everything that belongs to one vCPU and is touched by its own thread only.

use super::backend::{BackendVcpu, VendorBackend};
use super::code_cache::CodeCache;
use super::controls::{ControlGroups, EntryControls, EntryTpr};
use super::cpuid::CpuidTable;
use super::debugger::{EntryBars, VcpuDebugger};
use super::event::{merge, EntryDelivery, EventBlocking, GuestEvent, MergedEvent};
use super::exit::RawExit;
use super::hyperv::call::HvCall;
use super::hyperv::HvVcpu;
use super::io::PendingIo;
use super::msr_table::{MsrStore, RecentMsrs};
use super::outcome::{ExitOutcome, UserExit, VmBug};
use super::paging::VcpuPaging;
use super::poll::HaltPolling;
use super::pv::PvState;
use super::state::{StateGroups, VcpuState};
use super::timer_advance::TimerAdvance;
use super::vapic::VapicState;
use super::vm::Vm;
use crate::arch::addr::{Gfn, Gpa};
use crate::arch::cpuid::{CpuVendor, FExtEdx, KvmFeatures};
use crate::arch::cr::Rflags;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::msr::{MISC_ENABLE, MISC_ENABLE_MWAIT};
use crate::chipset::lapic::{Lapic, TimerClock};
use crate::host::cpu;
use crate::host::mitigation::GuestId;
use crate::host::timer::{moment, rdtsc, tsc_khz, HostMoment, NearClock};
use crate::machine::choices::{KvmQuirks, MachineChoices};
use crate::machine::clock::{MachineClock, MachineTime};
use crate::machine::deferred::QueueId;
use crate::machine::dirty_ring::DirtyRing;
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use crate::machine::msr_filter::GuestMsrFilter;
use crate::machine::whole::GuestMachine;
use kernel::prelude::*;
use kernel::sync::Arc;

/// What a vCPU is doing. The numbers are those of KVM's `KVM_MP_STATE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VcpuActivity {
    /// Runs, or is ready to.
    Runnable = 0,
    /// Waits for INIT.
    Uninitialized = 1,
    /// Waits for a start-up IPI.
    InitReceived = 2,
    /// Waits for an event after HLT.
    Halted = 3,
}

/// DR6.BS: a single step.
const DR6_BS: u64 = 1 << 14;

/// IA32_APIC_BASE: the local APIC is on.
const APIC_ENABLED: u64 = 1 << 11;

/// The larger parts of a vCPU, which do not fit on a stack that it is made on.
pub(crate) struct HeapParts {
    code: CodeCache,
    recent_msrs: RecentMsrs,
    hyperv: KBox<HvVcpu>,
    io: KBox<PendingIo>,
}

impl HeapParts {
    /// Allocates.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<HeapParts> {
        let hyperv = KBox::new(HvVcpu::default(), GFP_KERNEL_ACCOUNT)?;
        let io = KBox::new(PendingIo::new(), GFP_KERNEL_ACCOUNT)?;
        Ok(HeapParts { code: CodeCache::new()?, recent_msrs: RecentMsrs::new()?, hyperv, io })
    }
}

/// See the module's description.
pub(crate) struct VcpuCore<B: VendorBackend> {
    /// The vendor's part.
    pub(crate) hw: B::Vcpu,
    /// The registers.
    pub(crate) state: VcpuState,
    /// What the next entry is asked for.
    pub(crate) controls: EntryControls,
    /// How its addresses become the host's.
    pub(crate) paging: VcpuPaging,
    /// The local APIC, where interrupt controllers are in the kernel.
    pub(crate) lapic: Option<Lapic>,
    /// What CPUID answers.
    pub(crate) cpuid: CpuidTable,
    /// MSRs that are plain storage.
    pub(crate) msrs: MsrStore,
    /// What the MSRs are that the guest used last.
    pub(crate) recent_msrs: RecentMsrs,
    /// The paravirtual features in use.
    pub(crate) pv: PvState,
    /// What it is to a guest of Hyper-V's.
    pub(crate) hyperv: KBox<HvVcpu>,
    /// The guest's CPUID says that it is one.
    pub(crate) is_hyperv: bool,
    /// The task priority in guest memory.
    pub(crate) vapic: VapicState,
    /// TSC_AUX.
    pub(crate) tsc_aux: u32,
    /// TSC_ADJUST: what the guest's own writes have added to its TSC.
    pub(crate) tsc_adjust: u64,
    /// SPEC_CTRL, of the bits that the processor has.
    pub(crate) spec_ctrl: u32,
    /// The processor takes pages of 1 GiB in a guest's tables, whatever CPUID tells the guest.
    pub(crate) has_gib_pages: bool,
    /// What the vCPU is doing.
    pub(crate) mp: VcpuActivity,
    /// How long it polls for an event before it sleeps.
    pub(crate) polling: HaltPolling,
    /// How early its timer fires.
    pub(crate) timer_advance: TimerAdvance,
    /// An exception to be delivered with the next entry.
    pub(crate) exception: Option<CpuException>,
    /// An event whose delivery an exit interrupted.
    pub(crate) interrupted: Option<GuestEvent>,
    /// How many NMIs wait.
    pub(crate) nmis: u8,
    /// An interrupt given by user space (`KVM_INTERRUPT`) waits.
    pub(crate) user_irq: Option<u8>,
    /// User space wants to know when an interrupt can be taken.
    pub(crate) wants_window: bool,
    /// The 8259s are user space's, or whatever else it gives interrupts from (`KVM_INTERRUPT`).
    pub(crate) has_user_pic: bool,
    /// Where pages come that it has marked, if user space has asked for that.
    pub(crate) dirty_ring: Option<Arc<DirtyRing>>,
    /// A level-triggered interrupt has ended, of which user space is still to be told.
    pub(crate) user_eoi: Option<u8>,
    /// What the coming entry delivers.
    pub(crate) delivery: EntryDelivery,
    /// Accesses that user space answers.
    pub(crate) io: KBox<PendingIo>,
    /// Why user space is wanted, or was last: an outcome or the run loop's end says whether it is. Kept in one place, for
    /// there are many on the way out, and a copy in each costs as much as the exit itself.
    pub(crate) user_exit: Option<UserExit>,
    /// A queue that this vCPU wrote to and is to serve.
    pub(crate) deferred: Option<QueueId>,
    /// Instructions that exited lately, decoded.
    pub(crate) code: CodeCache,
    /// Where the last memslot look-up hit.
    pub(crate) slot_hint: usize,
    /// A frame that no memslot holds, as of that generation of the slots: the last device touched.
    pub(crate) no_slot: Option<(Gfn, u64)>,
    /// Where the last write that signalled was found.
    pub(crate) event_hint: usize,
    /// The space's flush generation that this vCPU has caught up with.
    pub(crate) flush_generation: u64,
    /// Guest TSC minus host TSC.
    pub(crate) tsc_offset: u64,
    /// The time, while the window is open.
    pub(crate) clock: NearClock,
    /// DR0 to DR3.
    pub(crate) dr: [u64; 4],
    /// The guest has touched its debug registers since they were last put away.
    pub(crate) debug_loaded: bool,
    /// The guest was found to split locks; the host's detection is off while it runs.
    pub(crate) splits_locks: bool,
    /// Its name among all vCPUs, for the barrier between them.
    pub(crate) guest_id: GuestId,
    /// What a debugger outside the guest asks.
    pub(crate) debug: VcpuDebugger,
    /// What keeps it from being entered as usual: a triple fault while an exception was delivered in software, say.
    pub(crate) bars: EntryBars,
}

impl<B: VendorBackend> VcpuCore<B> {
    /// A vCPU after reset; `is_boot` says whether it starts by itself.
    // It is large: inlined, each part would lie on its caller's stack beside the whole.
    #[inline(never)]
    pub(crate) fn new(
        hw: B::Vcpu,
        is_boot: bool,
        lapic: Option<Lapic>,
        cpuid: CpuidTable,
        signature: u32,
        halt_poll_ns: u32,
        HeapParts { code, recent_msrs, hyperv, io }: HeapParts,
    ) -> VcpuCore<B> {
        // Without a local APIC nobody can send it INIT and SIPI: user space decides when it starts.
        let mp =
            if is_boot || lapic.is_none() { VcpuActivity::Runnable } else { VcpuActivity::Uninitialized };
        VcpuCore {
            hw,
            state: VcpuState::at_reset(signature),
            controls: EntryControls::new(),
            paging: VcpuPaging::Direct,
            lapic,
            cpuid,
            msrs: MsrStore::new(CpuVendor::of(cpu::cpuid(0, 0))),
            recent_msrs,
            pv: PvState::default(),
            hyperv,
            is_hyperv: false,
            vapic: VapicState::default(),
            tsc_aux: 0,
            tsc_adjust: 0,
            spec_ctrl: 0,
            has_gib_pages: FExtEdx::from_bits_retain(cpu::cpuid(0x8000_0001, 0).edx)
                .contains(FExtEdx::PAGE_1G),
            mp,
            polling: HaltPolling::new(halt_poll_ns, tsc_khz()),
            timer_advance: TimerAdvance::new(tsc_khz()),
            exception: None,
            interrupted: None,
            nmis: 0,
            user_irq: None,
            wants_window: false,
            has_user_pic: false,
            dirty_ring: None,
            user_eoi: None,
            delivery: EntryDelivery::Nothing,
            io,
            user_exit: None,
            deferred: None,
            code,
            slot_hint: 0,
            no_slot: None,
            event_hint: 0,
            flush_generation: 0,
            tsc_offset: 0,
            clock: NearClock::new(),
            dr: [0; 4],
            debug_loaded: false,
            splits_locks: false,
            guest_id: GuestId::new(),
            debug: VcpuDebugger::default(),
            bars: EntryBars::empty(),
        }
    }

    /// Fetches register groups.
    #[inline]
    pub(crate) fn fetch(&mut self, want: StateGroups) {
        self.state.fetch(want, &self.hw);
    }

    /// Gives the backend what has changed of registers and controls, before an entry.
    #[inline(always)]
    pub(crate) fn flush(&mut self) {
        self.flush_registers();
        if !self.controls.dirty().is_empty() {
            self.flush_controls();
        }
    }

    /// Gives the backend what has changed of the registers.
    #[inline(always)]
    pub(crate) fn flush_registers(&mut self) {
        if !self.state.dirty().is_empty() {
            self.flush_state();
        }
    }

    #[inline(never)]
    fn flush_state(&mut self) {
        let dirty = self.state.take_dirty();
        if dirty.contains(StateGroups::CONTROL) {
            self.paging.changed();
        }
        self.hw.write_state(dirty, &self.state);
    }

    /// Gives the backend what has changed of the controls.
    #[inline(never)]
    pub(crate) fn flush_controls(&mut self) {
        let dirty = self.controls.take_dirty();
        self.hw.write_controls(dirty, &self.controls);
    }

    /// Returns CR8, which is the local APIC's where there is one.
    pub(crate) fn cr8(&self) -> u8 {
        if let Some(lapic) = self.lapic.as_ref() {
            return lapic.cr8();
        }
        // What was set and not yet taken over, the backend does not know.
        if self.controls.dirty().contains(ControlGroups::TPR) {
            self.controls.tpr().cr8
        } else {
            self.hw.tpr()
        }
    }

    /// Returns MSR APIC_BASE; without a local APIC as after reset: switched on at its usual place, of a boot processor.
    pub(crate) fn apic_base(&self) -> u64 {
        self.lapic.as_ref().map_or(0xfee0_0900, Lapic::base)
    }

    /// Sets CR8, which is the local APIC's where there is one. Without, the guest may have set it itself since it was last
    /// set here.
    pub(crate) fn set_cr8(&mut self, cr8: u8) {
        if let Some(lapic) = self.lapic.as_mut() {
            return lapic.set_cr8(cr8);
        }
        let now = self.cr8();
        // Or the new value would be compared with the last one set here, and the guest's own might stay in force.
        self.controls.note_cr8(now);
        self.controls.set_tpr(EntryTpr { cr8, floor: 0 });
    }

    /// Says what user space is to be told.
    #[inline(always)]
    pub(crate) fn leave_for_user(&mut self, exit: UserExit) -> ExitOutcome {
        self.user_exit = Some(exit);
        ExitOutcome::ToUser
    }

    /// Says what user space is to be told once the vCPU has gone past the instruction.
    #[inline(always)]
    pub(crate) fn skip_to_user(&mut self, exit: UserExit) -> ExitOutcome {
        self.user_exit = Some(exit);
        ExitOutcome::SkipToUser
    }

    /// Ends the VM by an exit that nobody handles.
    pub(crate) fn unknown(&mut self, raw: RawExit) -> ExitOutcome {
        self.leave_for_user(UserExit::Bug(VmBug::UnknownExit(raw)))
    }

    /// Raises an exception. One that waits or is being delivered merges with it; an interrupt or NMI that is being
    /// delivered comes after it.
    pub(crate) fn raise(&mut self, e: CpuException) {
        let first = match (self.exception, self.interrupted) {
            (Some(e), _) => Some(e.vector),
            (None, Some(GuestEvent::Exception { vector, .. })) => Some(vector),
            _ => None,
        };
        let merged = match first {
            Some(first) => merge(first, e),
            None => MergedEvent::One(e),
        };
        match merged {
            MergedEvent::One(e) => {
                self.exception = Some(e);
                self.interrupted = self.interrupted.take().and_then(|event| self.put_off(event));
            }
            MergedEvent::TripleFault => self.bars |= EntryBars::SHUTDOWN,
        }
    }

    /// An exception comes before an event that is being delivered: an interrupt or NMI goes back to where it came
    /// from, and waits there until the guest can take it. Returns the event where that cannot be: it comes first.
    ///
    /// DEVIATION: a processor loses it, for its controller takes it for served. Here the exception may be one that
    /// exits for the host's sake, or user space's.
    #[cold]
    fn put_off(&mut self, event: GuestEvent) -> Option<GuestEvent> {
        match event {
            GuestEvent::Nmi => {
                self.hw.set_blocking(EventBlocking { nmi: false, ..self.hw.blocking() });
                self.add_nmis(1);
            }
            GuestEvent::Interrupt(vector) => {
                if !self.lapic.as_mut().is_some_and(|lapic| lapic.take_back(vector)) {
                    // Of an 8259, to which none goes back.
                    if self.user_irq.is_some() {
                        return Some(event);
                    }
                    self.user_irq = Some(vector);
                }
            }
            // The first has merged; the other is an instruction that runs again.
            GuestEvent::Exception { .. } | GuestEvent::Software { .. } => {}
        }
        None
    }

    /// Lets more NMIs wait. A processor holds one back while another is in service; until then there may be two,
    /// since a vCPU that does not run takes none.
    pub(crate) fn add_nmis(&mut self, more: u8) {
        let is_served = self.interrupted == Some(GuestEvent::Nmi) || self.hw.blocking().nmi;
        self.nmis = self.nmis.saturating_add(more).min(if is_served { 1 } else { 2 });
    }

    /// Returns whether the guest can take a maskable interrupt now.
    #[inline]
    pub(crate) fn is_interruptible(&self) -> bool {
        self.state.rflags & Rflags::IF.bits() != 0 && !self.hw.blocking().shadow
    }

    /// Returns whether an interrupt of user space's 8259s comes through to the processor.
    pub(crate) fn takes_user_irq(&self) -> bool {
        self.lapic.as_ref().is_none_or(Lapic::accepts_extint)
    }

    /// Returns whether user space wants to know when an interrupt can be taken, and one could.
    #[inline]
    pub(crate) fn wants_user_window(&self) -> bool {
        self.wants_window && self.user_irq.is_none() && self.takes_user_irq()
    }

    /// Returns whether the guest can take an interrupt of user space's now, with nothing else on its way.
    pub(crate) fn is_ready_for_user_irq(&self) -> bool {
        self.is_interruptible()
            && self.user_irq.is_none()
            && self.takes_user_irq()
            && self.interrupted.is_none()
            && self.exception.is_none()
    }

    /// Notes that `vector` has ended, level triggered, for which an I/O APIC in user space waits: it is told before the
    /// guest goes on.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_user_eoi(&mut self, mailbox: &VcpuMailbox, vector: u8) {
        self.user_eoi = Some(vector);
        mailbox.request_self(VcpuRequests::EXIT);
    }

    /// Goes past an instruction that was carried out in software: to `next`, see [`VcpuCore::end_insn`].
    #[inline(always)]
    pub(crate) fn go_past(&mut self, next: u64, stepping: bool) {
        self.state.rip = next;
        self.state.rflags &= !Rflags::RF.bits();
        self.end_insn(stepping);
    }

    /// Finishes RDMSR or WRMSR that user space has carried out, reading `value`; `None`: it faults. Nothing comes of it
    /// where user space has sent the vCPU elsewhere.
    pub(crate) fn complete_msr(&mut self, value: Option<u64>) {
        let Some(pending) = self.io.msr.take().filter(|p| p.rip == self.state.rip) else { return };
        match value {
            None => self.raise(CpuException::GP0),
            Some(value) => {
                if pending.is_read {
                    self.state.set_edx_eax(value);
                }
                self.go_past(pending.next, self.is_stepping());
            }
        }
    }

    /// Finishes a hypercall of Hyper-V's that user space has carried out, with its answer. Nothing comes of it where user
    /// space has sent the vCPU elsewhere.
    pub(crate) fn complete_call(&mut self, answer: u64) {
        let Some(call) = self.hyperv.call.take().filter(|call| call.rip == self.state.rip) else { return };
        HvCall::answer(&mut self.state, call.is_long, answer);
        self.go_past(call.next, self.is_stepping());
    }

    /// Returns whether the trap flag is set.
    #[inline(always)]
    pub(crate) fn is_stepping(&self) -> bool {
        self.state.rflags & Rflags::TF.bits() != 0
    }

    /// Notes that an instruction was carried out in software, and RIP moved on: its interrupt shadow is
    /// over, and it traps where it began with the trap flag set (`stepping`). SDM, "Single-Step Exception
    /// Condition".
    #[inline]
    pub(crate) fn end_insn(&mut self, stepping: bool) {
        if self.hw.blocking().shadow {
            self.end_shadow();
        }
        if stepping {
            self.fetch(StateGroups::DEBUG);
            self.state.dr6 |= DR6_BS;
            self.state.mark(StateGroups::DEBUG);
            self.raise(CpuException::plain(ExceptionVector::DB));
        }
    }

    #[cold]
    fn end_shadow(&mut self) {
        let blocking = self.hw.blocking();
        self.hw.set_blocking(EventBlocking { shadow: false, ..blocking });
    }

    /// INIT: the state after reset, but for what INIT keeps: the caching bits of CR0, the MSRs (but EFER and the bases
    /// of segments, and SPEC_CTRL as KVM has it), the time stamp counter, XCR0 and the state of the FPU. SDM,
    /// "Processor State After Reset"; APM, "Processor Initialization State". The caller publishes the local APIC anew
    /// ([`VcpuCore::publish_apic`]).
    pub(crate) fn init(&mut self, signature: u32) {
        if let Some(lapic) = self.lapic.as_mut() {
            lapic.reset(true);
        }
        self.pv.init();
        self.spec_ctrl = 0;
        // What INIT keeps of a group must be here before the group is replaced.
        self.fetch(StateGroups::all());
        self.state = self.state.after_init(signature);
        self.controls.flush_tlb();
        self.exception = None;
        self.interrupted = None;
        self.nmis = 0;
        self.user_irq = None;
        self.delivery = EntryDelivery::Nothing;
        self.io.forget();
        // The NMI handler whose IRET would end the blocking is not come back to.
        self.hw.set_blocking(EventBlocking::default());
        self.dr = [0; 4];
        self.debug.after_init();
    }

    /// SIPI: starts in real mode at page `vector`.
    pub(crate) fn start_up(&mut self, vector: u8) {
        use crate::arch::segment::SegReg;
        self.fetch(StateGroups::SEGMENTS);
        let cs = &mut self.state.segs[SegReg::Cs as usize];
        *cs = cs.at_paragraph(u16::from(vector) << 8);
        self.state.rip = 0;
        self.state.mark(StateGroups::SEGMENTS);
        self.mp = VcpuActivity::Runnable;
    }

    /// Sets the local APIC's base register for user space, which may go from any mode to any other. Returns whether
    /// there is one and the value is possible; the caller publishes it ([`VcpuCore::publish_apic`]).
    pub(crate) fn restore_apic_base(&mut self, value: u64) -> bool {
        let reserved = self.cpuid.apic_base_reserved();
        self.lapic.as_mut().is_some_and(|l| l.restore_base(value, reserved).is_ok())
    }

    /// Makes known what others must know of the local APIC, after any change of it that is not its own timer's: who it
    /// is, when its timer fires, and whether it is there. It may now take what it did not take before.
    pub(crate) fn publish_apic(&mut self, mailbox: &VcpuMailbox, machine: &GuestMachine) {
        let Some(lapic) = self.lapic.as_ref() else { return };
        mailbox.set_identity(lapic.identity());
        self.note_apic_base();
        self.arm_timer(mailbox, &machine.clock.time);
        // Last: what is sent again is matched against the identity that is published now.
        machine.interrupts.with(|bus, _now, out| bus.retry(out));
    }

    /// The local APIC's base register may have changed, or the CPUID table: a bit of CPUID follows.
    pub(crate) fn note_apic_base(&mut self) {
        let on = self.lapic.as_ref().is_none_or(|l| l.base() & APIC_ENABLED != 0);
        self.cpuid.set_apic_enabled(on);
    }

    /// Returns whether the guest can use a feature of the paravirtual interface: one that its CPUID offers, or any where
    /// user space does not insist on that. KVM API, "KVM_CAP_ENFORCE_PV_FEATURE_CPUID".
    pub(crate) fn has_pv(&self, feature: KvmFeatures) -> bool {
        !self.pv.is_enforced || self.cpuid.pv_features().contains(feature)
    }

    /// MISC_ENABLE may have changed, or the CPUID table: a bit of CPUID follows where user space wants that.
    ///
    /// Documentation of KVM's API, "KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT".
    pub(crate) fn note_misc_enable(&mut self, choices: &MachineChoices) {
        let follows = !choices.has_quirk(KvmQuirks::MISC_ENABLE_NO_MWAIT);
        let is_on = self.msrs.get(MISC_ENABLE) & MISC_ENABLE_MWAIT != 0;
        self.cpuid.set_mwait(follows.then_some(is_on));
    }

    /// Takes another CPUID table.
    pub(crate) fn set_cpuid(&mut self, table: CpuidTable) {
        self.hyperv.rights = self.hyperv.rights.with_cpuid(&table);
        self.is_hyperv = self.hyperv.rights.is_present;
        self.cpuid = table;
        // The rules go to the backend with this group, which is written as a whole.
        self.fetch(StateGroups::CONTROL);
        self.state.cr_rules = *self.cpuid.cr_rules();
        self.state.mark(StateGroups::CONTROL);
        self.note_apic_base();
    }

    /// Returns the guest's TSC.
    pub(crate) fn guest_tsc(&self) -> u64 {
        crate::host::timer::rdtsc().wrapping_add(self.tsc_offset)
    }

    /// Sets the host's timer for the local APIC's.
    pub(crate) fn arm_timer(&self, mailbox: &VcpuMailbox, time: &MachineTime) {
        let Some(lapic) = self.lapic.as_ref() else { return };
        debug_assert_eq!(lapic.check(), Ok(()));
        let at = lapic.deadline().map(|at| time.to_host(at));
        // Only a deadline of the TSC can be waited for to the tick right before an entry.
        mailbox.set_timer(if lapic.armed_tsc().is_some() {
            at.map(|at| self.timer_advance.before(at))
        } else {
            at
        });
    }

    /// The host's timer may have fired for the local APIC's: makes its interrupt pending if its time has come,
    /// or will have come when the guest is entered.
    pub(crate) fn take_timer(&mut self, mailbox: &VcpuMailbox, clock: &MachineClock) {
        let host_tsc = rdtsc();
        let Some(lapic) = self.lapic.as_mut() else { return };
        let mut now = clock.time.now();
        if let (Some(tsc), Some(at)) = (lapic.armed_tsc(), lapic.deadline()) {
            if self.timer_advance.meet(tsc.wrapping_sub(self.tsc_offset), host_tsc) {
                // By the TSC it is near enough, and the wait before the entry does the rest; the clock may be a little
                // behind.
                now = now.max(at);
            } else {
                // The kernel's clock is slewed and went ahead of the TSC, or this is an earlier deadline's timer.
                lapic.tsc_changed(&TimerClock {
                    now,
                    tsc: host_tsc.wrapping_add(self.tsc_offset),
                    ns_per_tick: clock.ns_per_tick,
                });
            }
        }
        lapic.tick(now);
        // A periodic timer has its next deadline now, and one that fired too early still has its own.
        self.arm_timer(mailbox, &clock.time);
    }

    /// Takes another filter of MSRs.
    pub(crate) fn set_msr_filter(&mut self, filter: Option<Arc<GuestMsrFilter>>) {
        let needs_exits = filter.as_ref().is_some_and(|f| f.needs_exits());
        self.controls.set_msr_exits(needs_exits);
        self.recent_msrs.set_filter(filter);
    }

    /// Sets what is added to the host's TSC.
    pub(crate) fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
        self.controls.set_tsc_offset(offset);
    }

    /// Writes the clocks that the guest asked for into its memory. Sleeps.
    ///
    /// # Errors
    /// The address of a page that must be made resident first.
    pub(crate) fn publish_clock(&mut self, vm: &Vm<B>) -> Result<(), Gpa> {
        let HostMoment { tsc, wall_ns } = moment();
        let boot = wall_ns.wrapping_sub(vm.machine.clock.ns_at(tsc));
        self.pv.publish(&*vm.machine.ram, &vm.machine.clock, self.tsc_offset, boot)?;
        vm.machine.hyperv.publish(&*vm.machine.ram, &vm.machine.clock, self.tsc_offset)
    }
}

/// Returns CPUID.1:EAX, which RDX holds after reset.
pub(crate) fn signature() -> u32 {
    cpu::cpuid(1, 0).eax
}
