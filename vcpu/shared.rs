// SPDX-License-Identifier: GPL-2.0

//! The part of a vCPU that other threads and interrupts may touch.
//!
//! Nobody but its own thread ever touches a running vCPU. Whoever wants something of it posts that
//! here and calls [`VcpuShared::kick`]: an IPI when the vCPU is in guest mode, a wake-up when it
//! sleeps. The vCPU announces guest mode before it looks for posts, and posters post before they look
//! for guest mode, both sequentially consistent; so no post is missed.

use super::record::{Recorder, Times};
use crate::arch::time::Ns;
use crate::chipset::lapic::ApicIdentity;
use crate::chipset::ApicMessage;
use crate::host::cpu;
use crate::host::timer::{OnTimer, Timer};
use crate::host::wait::Waiter;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use kernel::prelude::*;
use kernel::sync::Arc;

bitflags::bitflags! {
    /// What is asked of a vCPU.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Requests: u32 {
        /// Deliver an NMI.
        const NMI = 1 << 0;
        /// INIT.
        const INIT = 1 << 1;
        /// Start-up IPI; the vector is in `sipi`.
        const SIPI = 1 << 2;
        /// Drop cached translations.
        const TLB_FLUSH = 1 << 3;
        /// The APIC timer may be due.
        const TIMER = 1 << 4;
        /// Interrupts were posted to `posted_edge` or `posted_level`.
        const INTERRUPT = 1 << 5;
        /// The interrupt controller pair's output rose.
        const EXTINT = 1 << 6;
        /// The VM has ended or is being reset: leave for user space.
        const EXIT = 1 << 7;
        /// Something waits for [`super::pci::Pci::serve`].
        const CHORE = 1 << 9;
        /// Write the paravirtual clock again.
        const CLOCK = 1 << 8;
        /// Look again at the word in which the guest ends interrupts.
        const EOI = 1 << 10;
        /// Serve the queue that the vCPU wrote to: `VcpuCore::turn`.
        const TURN = 1 << 11;
        /// Deliver a second NMI.
        const NMI_AGAIN = 1 << 12;
        /// All NMIs.
        const NMIS = 1 << 0 | 1 << 12;
    }
}

impl Requests {
    /// Returns how many NMIs these are.
    pub(crate) fn nmis(self) -> u8 {
        u8::from(self.contains(Requests::NMI)).wrapping_add(u8::from(self.contains(Requests::NMI_AGAIN)))
    }
}

/// Not in guest mode.
const OUTSIDE: u32 = 0;

/// See the module's description.
#[pin_data]
pub(crate) struct VcpuShared {
    /// The vCPU's number, also its APIC id.
    pub(crate) id: u32,
    /// [`OUTSIDE`], or the host CPU's number plus one while in guest mode.
    mode: AtomicU32,
    requests: AtomicU32,
    /// Edge-triggered interrupt vectors posted, one bit each.
    posted_edge: [AtomicU64; 4],
    /// Level-triggered ones. Two sets, for a vector may be posted as both before it is taken.
    posted_level: [AtomicU64; 4],
    sipi: AtomicU32,
    /// The local APIC's identity, packed, for senders.
    identity: AtomicU64,
    /// Exits by which performance is judged; written by the vCPU only.
    pub(crate) stats: Stats,
    /// The last exits; written by the vCPU only.
    pub(crate) recorder: Recorder,
    /// How long exits take, where that is asked for; written by the vCPU only.
    pub(crate) times: Option<Times>,
    /// The process that made the vCPU.
    pub(crate) pid: i32,
    waiter: Waiter,
    #[pin]
    timer: Timer<VcpuShared>,
}

/// Counters of one vCPU.
#[derive(Default)]
pub(crate) struct Stats {
    /// Returns to user space for the guest's sake.
    pub(crate) user_exits: AtomicU64,
    /// Host interrupts that ended guest mode.
    pub(crate) host_interrupts: AtomicU64,
    /// Faults of the second-level table.
    pub(crate) page_faults: AtomicU64,
    /// Instructions emulated.
    pub(crate) emulated: AtomicU64,
    /// CPUID.
    pub(crate) cpuid: AtomicU64,
    /// RDMSR and WRMSR.
    pub(crate) msr: AtomicU64,
    /// VMMCALL and VMCALL.
    pub(crate) hypercalls: AtomicU64,
    /// Accesses to the memory of devices.
    pub(crate) mmio: AtomicU64,
    /// Port accesses.
    pub(crate) pio: AtomicU64,
    /// HLT.
    pub(crate) halts: AtomicU64,
    /// Waits for an event that began by polling.
    pub(crate) polls: AtomicU64,
    /// Of those, the ones that needed no sleep.
    pub(crate) polls_met: AtomicU64,
    /// Interrupts injected.
    pub(crate) interrupts: AtomicU64,
}

/// Adds one to a counter that only this thread writes.
#[inline]
pub(crate) fn count(c: &AtomicU64) {
    c.store(c.load(Relaxed).wrapping_add(1), Relaxed);
}

impl VcpuShared {
    /// Makes the shared part of vCPU `id` for process `pid`; `timed` says whether exits are.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(id: u32, pid: i32, timed: bool) -> Result<Arc<VcpuShared>> {
        let (recorder, times) = (Recorder::new()?, if timed { Some(Times::new()?) } else { None });
        let this = Arc::pin_init(
            pin_init!(VcpuShared {
                id,
                mode: AtomicU32::new(OUTSIDE),
                requests: AtomicU32::new(0),
                posted_edge: [const { AtomicU64::new(0) }; 4],
                posted_level: [const { AtomicU64::new(0) }; 4],
                sipi: AtomicU32::new(0),
                identity: AtomicU64::new(0),
                stats: Stats::default(),
                recorder,
                times,
                pid,
                waiter: Waiter::new(),
                timer <- Timer::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        Timer::bind(&this, |s| &s.timer)?;
        Ok(this)
    }

    /// Says that the vCPU is about to enter the guest on host CPU `cpu`. Returns whether something
    /// is asked of it, in which case it must not enter.
    #[inline]
    pub(crate) fn enter_guest_mode(&self, cpu: u32) -> bool {
        self.mode.swap(cpu.wrapping_add(1), SeqCst);
        self.requests.load(SeqCst) != 0
    }

    /// Says that the vCPU has left the guest.
    #[inline]
    pub(crate) fn leave_guest_mode(&self) {
        self.mode.store(OUTSIDE, Release);
    }

    /// Returns the host CPU on which the vCPU is in guest mode.
    pub(crate) fn running_on(&self) -> Option<u32> {
        self.mode.load(SeqCst).checked_sub(1)
    }

    /// Takes those requests that are in `which`.
    pub(crate) fn take_requests(&self, which: Requests) -> Requests {
        Requests::from_bits_retain(self.requests.fetch_and(!which.bits(), SeqCst)) & which
    }

    /// Returns whether anything is asked.
    #[inline]
    pub(crate) fn has_requests(&self) -> bool {
        self.requests.load(SeqCst) != 0
    }

    /// Returns whether one of `which` is asked.
    pub(crate) fn is_requested(&self, which: Requests) -> bool {
        self.requests.load(SeqCst) & which.bits() != 0
    }

    /// Asks something, and makes the vCPU notice.
    pub(crate) fn request(&self, what: Requests) {
        self.requests.fetch_or(what.bits(), SeqCst);
        self.kick();
    }

    /// Asks something of the calling vCPU itself, which will look before it next enters.
    pub(crate) fn request_self(&self, what: Requests) {
        self.requests.fetch_or(what.bits(), SeqCst);
    }

    /// Makes the vCPU look at what was posted. Any context.
    pub(crate) fn kick(&self) {
        match self.running_on() {
            // Its own thread, between two entries: it will look before the next. Whoever comes to this CPU
            // meanwhile finds that the vCPU has left it, and it looks before it enters anywhere.
            Some(cpu) if cpu == cpu::cpu_id() => {}
            Some(cpu) => cpu::kick(cpu),
            None => self.waiter.wake(),
        }
    }

    /// Posts an interrupt.
    pub(crate) fn post(&self, vector: u8, level: bool) {
        let (word, bit) = (usize::from(vector >> 6), 1u64 << (vector & 63));
        let posted = if level { &self.posted_level } else { &self.posted_edge };
        if let Some(p) = posted.get(word) {
            p.fetch_or(bit, SeqCst);
        }
        self.request(Requests::INTERRUPT);
    }

    /// Takes the posted interrupts: the edge-triggered vectors and the level-triggered ones. Those whose request the
    /// caller has taken are among them.
    pub(crate) fn take_posted(&self) -> ([u64; 4], [u64; 4]) {
        (take_words(&self.posted_edge), take_words(&self.posted_level))
    }

    /// Asks for INIT. A start-up IPI that came before it is forgotten: the processor was not waiting for one.
    fn post_init(&self) {
        self.requests.fetch_and(!Requests::SIPI.bits(), SeqCst);
        self.request(Requests::INIT);
    }

    /// Posts an NMI. Two can wait here, as in KVM: one for a processor that takes it at once, and the one that a
    /// processor holds back meanwhile.
    pub(crate) fn post_nmi(&self) {
        let earlier = self.requests.fetch_or(Requests::NMI.bits(), SeqCst);
        if earlier & Requests::NMI.bits() != 0 {
            self.requests.fetch_or(Requests::NMI_AGAIN.bits(), SeqCst);
        }
        self.kick();
    }

    /// Posts a start-up IPI for page `vector`.
    pub(crate) fn post_sipi(&self, vector: u8) {
        self.sipi.store(u32::from(vector), Release);
        self.request(Requests::SIPI);
    }

    /// Returns the page of the last start-up IPI.
    pub(crate) fn sipi_vector(&self) -> u8 {
        self.sipi.load(Acquire) as u8
    }

    /// Returns the local APIC's identity, as senders see it.
    pub(crate) fn identity(&self) -> ApicIdentity {
        ApicIdentity::unpack(self.identity.load(Relaxed))
    }

    /// Publishes the local APIC's identity.
    pub(crate) fn set_identity(&self, identity: ApicIdentity) {
        self.identity.store(identity.pack(), Release);
    }

    /// Arms the timer that posts [`Requests::TIMER`], or disarms it.
    pub(crate) fn set_timer(&self, at: Option<Ns>) {
        match at {
            Some(at) => self.timer.arm(at),
            None => self.timer.disarm(),
        }
    }

    /// Sleeps until something is asked; called by the vCPU's own thread only.
    ///
    /// # Errors
    /// `EINTR` on a signal.
    pub(crate) fn wait(&self) -> Result {
        self.waiter.wait(|| self.has_requests())
    }
}

/// Takes the bits of all words. Most are 0, and looking costs less than taking.
fn take_words(words: &[AtomicU64; 4]) -> [u64; 4] {
    words.each_ref().map(|w| if w.load(Relaxed) == 0 { 0 } else { w.swap(0, SeqCst) })
}

impl OnTimer for VcpuShared {
    fn on_timer(&self) {
        self.request(Requests::TIMER);
    }
}

/// Delivers a message of the APIC bus to one vCPU that it was found to match.
pub(crate) fn deliver(target: &VcpuShared, msg: &ApicMessage) {
    use crate::chipset::Delivery;
    match msg.delivery {
        Delivery::Fixed | Delivery::LowestPriority => target.post(msg.vector, msg.level),
        Delivery::Nmi => target.post_nmi(),
        Delivery::Init => target.post_init(),
        Delivery::StartUp => target.post_sipi(msg.vector),
        Delivery::ExtInt => target.request(Requests::EXTINT),
        // No system management mode.
        Delivery::Smi => {}
    }
}
