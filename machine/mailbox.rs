// SPDX-License-Identifier: GPL-2.0

//! The mailbox of a vCPU: the part of it that other threads and interrupts may touch.
//!
//! Nobody but its own thread ever touches a running vCPU. Whoever wants something of it posts that
//! here and calls [`VcpuMailbox::kick`]: an IPI when the vCPU is in guest mode, a wake-up when it
//! sleeps. The vCPU announces guest mode before it looks for posts, and posters post before they look
//! for guest mode, both sequentially consistent; so no post is missed.

use super::gate::AtWork;
use super::sints::SintVectors;
use crate::arch::time::Ns;
use crate::chipset::lapic::ApicIdentity;
use crate::chipset::{ApicMessage, DeliveryMode};
use crate::host::cpu;
use crate::host::timer::{DeadlineTimer, OnTimer};
use crate::host::trace;
use crate::host::wait::ThreadWaiter;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};

bitflags::bitflags! {
    /// What is asked of a vCPU.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct VcpuRequests: u32 {
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
        /// Write the paravirtual clock again.
        const CLOCK = 1 << 8;
        /// A queue without a worker waits for service.
        const SERVICE = 1 << 9;
        /// Look again at the word in which the guest ends interrupts.
        const EOI = 1 << 10;
        /// Serve the queue that the vCPU wrote to, which it has noted.
        const INLINE_SERVICE = 1 << 11;
        /// Deliver a second NMI.
        const NMI_AGAIN = 1 << 12;
        /// Come to rest: the machine's gate is closed.
        const REST = 1 << 13;
        /// Use the newest filter of MSRs.
        const MSR_FILTER = 1 << 14;
        /// The ring of dirty pages is full: leave for user space.
        const DIRTY_RING = 1 << 15;
        /// Wait until others have left the guest who are to flush their TLBs.
        const FLUSH_WAIT = 1 << 16;
        /// Look at the synthetic timers.
        const SYNIC = 1 << 17;
        /// All NMIs.
        const NMIS = 1 << 0 | 1 << 12;
    }
}

impl VcpuRequests {
    /// Returns how many NMIs these are.
    pub(crate) fn nmis(self) -> u8 {
        u8::from(self.contains(VcpuRequests::NMI))
            .wrapping_add(u8::from(self.contains(VcpuRequests::NMI_AGAIN)))
    }
}

/// Not in guest mode.
const OUTSIDE: u32 = 0;

/// See the module's description.
#[pin_data]
pub(crate) struct VcpuMailbox {
    /// The first of all, for that is the order in which they are dropped: it fires until then, and looks at the others.
    #[pin]
    timer: DeadlineTimer<VcpuMailbox>,
    /// The vCPU's number, also its APIC id.
    pub(crate) id: u32,
    /// [`OUTSIDE`], or the host CPU's number plus one while in guest mode.
    mode: AtomicU32,
    requests: AtomicU32,
    /// The vCPU is in KVM_RUN, and not at rest there.
    pub(crate) activity: AtWork,
    /// Edge-triggered interrupt vectors posted, one bit each.
    posted_edge: [AtomicU64; 4],
    /// Level-triggered ones. Two sets, for a vector may be posted as both before it is taken.
    posted_level: [AtomicU64; 4],
    sipi: AtomicU32,
    /// The local APIC's identity, packed, for senders.
    identity: AtomicU64,
    /// The number that it has in hypercalls of Hyper-V's.
    vp_index: AtomicU32,
    /// The vectors of its synthetic interrupt controller.
    pub(crate) sints: SintVectors,
    waiter: ThreadWaiter,
}

impl VcpuMailbox {
    /// Makes the mailbox of vCPU `id`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(id: u32) -> Result<Arc<VcpuMailbox>> {
        let this = Arc::pin_init(
            pin_init!(VcpuMailbox {
                id,
                mode: AtomicU32::new(OUTSIDE),
                requests: AtomicU32::new(0),
                activity: AtWork::none(),
                posted_edge: [const { AtomicU64::new(0) }; 4],
                posted_level: [const { AtomicU64::new(0) }; 4],
                sipi: AtomicU32::new(0),
                identity: AtomicU64::new(0),
                vp_index: AtomicU32::new(0),
                sints: SintVectors::new(),
                waiter: ThreadWaiter::new(),
                timer <- DeadlineTimer::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        this.set_vp_index(id);
        DeadlineTimer::bind(&this, |s| &s.timer)?;
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
        // No more than release is needed: who still sees guest mode sends an IPI too many, and the requests are looked
        // at before the next entry.
        self.mode.store(OUTSIDE, Release);
    }

    /// Returns the host CPU on which the vCPU is in guest mode.
    pub(crate) fn running_on(&self) -> Option<u32> {
        self.mode.load(SeqCst).checked_sub(1)
    }

    /// Takes those requests that are in `which`.
    pub(crate) fn take_requests(&self, which: VcpuRequests) -> VcpuRequests {
        VcpuRequests::from_bits_retain(self.requests.fetch_and(!which.bits(), SeqCst)) & which
    }

    /// Returns what is asked, and leaves it there.
    pub(crate) fn requests(&self) -> VcpuRequests {
        VcpuRequests::from_bits_retain(self.requests.load(Relaxed))
    }

    /// Returns whether anything is asked.
    #[inline]
    pub(crate) fn has_requests(&self) -> bool {
        self.requests.load(SeqCst) != 0
    }

    /// Returns whether one of `which` is asked.
    pub(crate) fn is_requested(&self, which: VcpuRequests) -> bool {
        self.requests.load(SeqCst) & which.bits() != 0
    }

    /// Asks something, and makes the vCPU notice.
    pub(crate) fn request(&self, what: VcpuRequests) {
        self.requests.fetch_or(what.bits(), SeqCst);
        self.kick();
    }

    /// Asks something of the calling vCPU itself, which will look before it next enters.
    pub(crate) fn request_self(&self, what: VcpuRequests) {
        self.requests.fetch_or(what.bits(), SeqCst);
    }

    /// Asks something that is of no use to a vCPU that sleeps: it stays asleep.
    pub(crate) fn request_running(&self, what: VcpuRequests) {
        self.requests.fetch_or(what.bits(), SeqCst);
        if self.running_on().is_some() {
            self.kick();
        }
    }

    /// Makes the vCPU look at what was posted. Any context.
    pub(crate) fn kick(&self) {
        match self.running_on() {
            // Its own thread, between two entries: it will look before the next. Whoever comes to this CPU
            // meanwhile finds that the vCPU has left it, and it looks before it enters anywhere.
            Some(cpu) if cpu == cpu::cpu_id() => {}
            Some(cpu) => {
                trace::kick(|| trace::Kick { vcpu: self.id, in_guest: true });
                cpu::kick(cpu);
            }
            None => {
                trace::kick(|| trace::Kick { vcpu: self.id, in_guest: false });
                self.waiter.wake();
            }
        }
    }

    /// Posts an interrupt.
    pub(crate) fn post(&self, vector: u8, level: bool) {
        let (word, bit) = (usize::from(vector >> 6), 1u64 << (vector & 63));
        let posted = if level { &self.posted_level } else { &self.posted_edge };
        if let Some(p) = posted.get(word) {
            p.fetch_or(bit, SeqCst);
        }
        self.request(VcpuRequests::INTERRUPT);
    }

    /// Takes the posted interrupts: for each word of 64 vectors that has any its number, the edge-triggered ones and the
    /// level-triggered ones. Those whose request the caller has taken are among them.
    #[inline(always)]
    pub(crate) fn take_posted(&self) -> impl Iterator<Item = (usize, u64, u64)> + '_ {
        let words = [0usize, 1, 2, 3].into_iter().zip(self.posted_edge.iter().zip(&self.posted_level));
        words.filter_map(|(word, (edge, level))| {
            let (edge, level) = (take_word(edge), take_word(level));
            (edge | level != 0).then_some((word, edge, level))
        })
    }

    /// Asks for INIT. A start-up IPI that came before it is forgotten: the processor was not waiting for one.
    fn post_init(&self) {
        self.requests.fetch_and(!VcpuRequests::SIPI.bits(), SeqCst);
        self.request(VcpuRequests::INIT);
    }

    /// Posts an NMI. Two can wait here, as in KVM: one for a processor that takes it at once, and the one that a
    /// processor holds back meanwhile.
    pub(crate) fn post_nmi(&self) {
        let earlier = self.requests.fetch_or(VcpuRequests::NMI.bits(), SeqCst);
        if earlier & VcpuRequests::NMI.bits() != 0 {
            self.requests.fetch_or(VcpuRequests::NMI_AGAIN.bits(), SeqCst);
        }
        self.kick();
    }

    /// Posts a start-up IPI for page `vector`.
    pub(crate) fn post_sipi(&self, vector: u8) {
        // The page first: whoever takes the request reads it.
        self.sipi.store(u32::from(vector), Release);
        self.request(VcpuRequests::SIPI);
    }

    /// Returns the page of the last start-up IPI.
    pub(crate) fn sipi_vector(&self) -> u8 {
        self.sipi.load(Acquire) as u8
    }

    /// Delivers a message of the APIC bus that the vCPU was found to match.
    pub(crate) fn deliver(&self, msg: &ApicMessage) {
        match msg.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.post(msg.vector, msg.level),
            DeliveryMode::Nmi => self.post_nmi(),
            DeliveryMode::Init => self.post_init(),
            DeliveryMode::StartUp => self.post_sipi(msg.vector),
            DeliveryMode::ExtInt => self.request(VcpuRequests::EXTINT),
            // No system management mode.
            DeliveryMode::Smi => {}
        }
    }

    /// Returns the local APIC's identity, as senders see it.
    pub(crate) fn identity(&self) -> ApicIdentity {
        ApicIdentity::unpack(self.identity.load(Relaxed))
    }

    /// Publishes the local APIC's identity.
    pub(crate) fn set_identity(&self, identity: ApicIdentity) {
        self.identity.store(identity.pack(), Release);
    }

    /// Returns its number in hypercalls of Hyper-V's: that of the vCPU, unless user space has chosen another.
    pub(crate) fn vp_index(&self) -> u32 {
        self.vp_index.load(Relaxed)
    }

    /// Sets that.
    pub(crate) fn set_vp_index(&self, index: u32) {
        self.vp_index.store(index, Relaxed);
    }

    /// Arms the timer that posts [`VcpuRequests::TIMER`] for a time of the host's, or disarms it.
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

/// Takes the bits of a word. Most are 0, and looking costs less than taking.
#[inline(always)]
fn take_word(word: &AtomicU64) -> u64 {
    if word.load(Relaxed) == 0 {
        0
    } else {
        word.swap(0, SeqCst)
    }
}

impl OnTimer for VcpuMailbox {
    fn on_timer(&self) {
        self.request(VcpuRequests::TIMER);
    }
}

/// vCPU numbers are below this.
pub(crate) const MAX_VCPUS: usize = 1024;

/// Those of vCPUs below this lie beside each other; the places of the others are made when the first of them is.
const NEAR: usize = 64;

/// A vCPU's place.
type MailboxSlot = SetOnce<Arc<VcpuMailbox>>;

/// The mailboxes of a VM's vCPUs, published one by one.
pub(crate) struct VcpuMailboxes {
    slots: [MailboxSlot; NEAR],
    /// From number [`NEAR`] on.
    far: SetOnce<KVec<MailboxSlot>>,
    /// All numbers that are taken lie below it.
    limit: AtomicUsize,
}

impl VcpuMailboxes {
    /// No vCPUs.
    pub(crate) fn new() -> VcpuMailboxes {
        VcpuMailboxes {
            slots: [const { SetOnce::new() }; NEAR],
            far: SetOnce::new(),
            limit: AtomicUsize::new(0),
        }
    }

    /// Makes the place of vCPU `id`, so that [`VcpuMailboxes::publish`] finds it. The VM's configuration lock is held.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn make_room(&self, id: usize) -> Result {
        if id < NEAR || self.far.as_ref().is_some() {
            return Ok(());
        }
        let mut far = KVec::with_capacity(MAX_VCPUS.saturating_sub(NEAR), GFP_KERNEL_ACCOUNT)?;
        for _ in NEAR..MAX_VCPUS {
            far.push_within_capacity(SetOnce::new())?;
        }
        self.far.populate(far);
        Ok(())
    }

    /// Publishes vCPU `id`. Returns whether that number was free.
    pub(crate) fn publish(&self, id: usize, vcpu: Arc<VcpuMailbox>) -> bool {
        // First, so that whoever acts because the vCPU is there finds it.
        self.limit.fetch_max(id.saturating_add(1).min(MAX_VCPUS), SeqCst);
        self.slot(id).is_some_and(|slot| slot.populate(vcpu))
    }

    #[inline(always)]
    fn slot(&self, id: usize) -> Option<&MailboxSlot> {
        match self.slots.get(id) {
            None => self.far_slot(id),
            near => near,
        }
    }

    #[cold]
    #[inline(never)]
    fn far_slot(&self, id: usize) -> Option<&MailboxSlot> {
        self.far.as_ref()?.get(id.checked_sub(NEAR)?)
    }

    /// Returns that of vCPU `id`.
    #[inline]
    pub(crate) fn get(&self, id: usize) -> Option<&Arc<VcpuMailbox>> {
        self.slot(id)?.as_ref()
    }

    /// Returns that of the vCPU with the lowest number: any one will do for what the machine as a whole has to do.
    pub(crate) fn first(&self) -> Option<&Arc<VcpuMailbox>> {
        self.iter().next()
    }

    /// Returns those of all vCPUs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<VcpuMailbox>> {
        let limit = self.limit.load(SeqCst);
        let far: &[MailboxSlot] = match self.far.as_ref() {
            Some(far) if limit > NEAR => far,
            _ => &[],
        };
        let far = far.iter().take(limit.saturating_sub(NEAR));
        Iterator::chain(self.slots.iter().take(limit), far).filter_map(|s| s.as_ref())
    }
}
