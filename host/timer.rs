// SPDX-License-Identifier: GPL-2.0

//! Clocks and one-shot timers.

use super::cpu::PinnedCpu;
use super::ffi;
use crate::arch::time::Ns;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::marker::PhantomPinned;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Returns the host's monotonic time. Any context.
#[inline]
pub(crate) fn now() -> Ns {
    // SAFETY: No precondition.
    Ns(unsafe { ffi::rvmm_now_ns() })
}

/// Returns the host's wall clock in nanoseconds since 1970 UTC.
pub(crate) fn wall_ns() -> u64 {
    // SAFETY: No precondition.
    unsafe { ffi::rvmm_wall_ns() }
}

/// A moment, as the TSC and the wall clock show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostMoment {
    /// The TSC.
    pub(crate) tsc: u64,
    /// The wall clock in nanoseconds since 1970 UTC.
    pub(crate) wall_ns: u64,
}

/// How often the clocks are read for a [`HostMoment`] at most.
const LOOKS: u32 = 8;

/// Returns what both clocks show now. They are read one after the other with interrupts off, and again where that took
/// long: firmware or a hypervisor below may come in between.
pub(crate) fn moment() -> HostMoment {
    let _cpu = PinnedCpu::pin();
    let mut best = (u64::MAX, HostMoment { tsc: 0, wall_ns: 0 });
    for _ in 0..LOOKS {
        let before = rdtsc_ordered();
        let wall_ns = wall_ns();
        let took = rdtsc_ordered().wrapping_sub(before);
        if took < best.0 {
            best = (took, HostMoment { tsc: before.wrapping_add(took >> 1), wall_ns });
        }
        if took < NEAR >> 6 {
            break;
        }
    }
    best.1
}

/// How long a thread has waited for a CPU while it could have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunDelay {
    /// The thread.
    pub(crate) thread: i32,
    /// Nanoseconds, all its life.
    pub(crate) ns: u64,
}

/// Returns whether the kernel counts these waits.
pub(crate) fn counts_run_delay() -> bool {
    // SAFETY: Returns a constant.
    unsafe { ffi::rvmm_counts_run_delay() }
}

/// Returns how long this thread has waited.
pub(crate) fn run_delay() -> RunDelay {
    // SAFETY: Reads a field of the task that runs, which nobody else changes meanwhile.
    let ns = unsafe { ffi::rvmm_run_delay() };
    RunDelay { thread: kernel::current!().pid(), ns }
}

/// Returns how long this thread has run all its life, in nanoseconds, as of the scheduler's last look.
pub(crate) fn run_time_ns() -> u64 {
    // SAFETY: Reads a field of the task that runs, which is one word.
    unsafe { ffi::rvmm_run_time() }
}

/// Returns the frequency of the host's TSC in kHz.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: Set once at boot.
    unsafe { bindings::tsc_khz }
}

/// Returns whether the host trusts its TSC: in step on all CPUs, and never stopping.
pub(crate) fn is_tsc_stable() -> bool {
    // SAFETY: Reads a flag.
    unsafe { bindings::check_tsc_unstable() == 0 }
}

/// Reads the TSC.
#[inline]
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no side effect, and the kernel may always execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Waits until the TSC has reached `tsc`; on the same CPU from where that was near.
#[inline]
pub(crate) fn wait_until(tsc: u64) {
    // By the sign of the difference, so that a value that has passed already ends it.
    while (tsc.wrapping_sub(rdtsc()) as i64) > 0 {
        core::hint::spin_loop();
    }
}

/// Reads the TSC, after all that came before: a lock that was taken, say.
#[inline(always)]
fn rdtsc_ordered() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: As in `rdtsc()`; every processor that runs this module has LFENCE.
    unsafe { asm!("lfence", "rdtsc", out("eax") lo, out("edx") hi, options(nostack, preserves_flags)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// For how many ticks of the TSC a [`NearClock`] goes by itself: some ten microseconds. Even where the
/// kernel slews its clock most, by 500 ppm, the two are then apart by less than it takes a cache line to
/// get from one CPU to another, so nobody sees the time go back.
const NEAR: u64 = 1 << 17;

/// A time that goes as the host's monotonic one, from the TSC and a look at the kernel's clock a moment ago: that look
/// costs more than all else that the read of a timer's port does.
///
/// Belongs to a thread that stays on its CPU between [`NearClock::forget`] and the next.
pub(crate) struct NearClock {
    tsc: u64,
    ns: u64,
    span: u64,
}

impl NearClock {
    /// One that will look.
    pub(crate) const fn new() -> NearClock {
        NearClock { tsc: 0, ns: 0, span: 0 }
    }

    /// Says that the CPU may be another one, or that time has passed.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.span = 0;
    }

    /// Returns the time; `ns_per_tick` are the nanoseconds of a tick of the TSC, a 32.32 factor. `epoch()`, what the
    /// host's time is ahead of this one, is asked for a look only; it stays the same while the thread keeps its CPU.
    #[inline(always)]
    pub(crate) fn now(&mut self, ns_per_tick: u64, epoch: impl FnOnce() -> u64) -> Ns {
        let gone = rdtsc_ordered().wrapping_sub(self.tsc);
        if gone >= self.span {
            return self.look(epoch());
        }
        Ns(self.ns.wrapping_add(gone.wrapping_mul(ns_per_tick) >> 32))
    }

    #[cold]
    #[inline(never)]
    fn look(&mut self, epoch: u64) -> Ns {
        let before = rdtsc_ordered();
        let now = Ns(now().0.wrapping_sub(epoch));
        // Something of the firmware's may have come in between: then neither goes with the other.
        let is_near = rdtsc_ordered().wrapping_sub(before) < NEAR >> 6 && is_tsc_stable();
        *self = NearClock { tsc: before, ns: now.0, span: if is_near { NEAR } else { 0 } };
        now
    }
}

/// What a [`DeadlineTimer`] calls when it fires, in hard interrupt context.
pub(crate) trait OnTimer: Sync {
    /// The deadline has passed.
    fn on_timer(&self);
}

/// A one-shot timer that calls `T::on_timer` of the object it belongs to, of which it is the first field: it fires until it
/// is dropped, and fields are dropped in their order.
#[pin_data(PinnedDrop)]
pub(crate) struct DeadlineTimer<T: OnTimer> {
    hr: UnsafeCell<RawTimer<T>>,
    #[pin]
    _pin: PhantomPinned,
}

#[repr(C)]
struct RawTimer<T> {
    hr: bindings::hrtimer,
    target: *const T,
}

// SAFETY: hrtimers may be armed and cancelled from any thread.
unsafe impl<T: OnTimer + Send> Send for DeadlineTimer<T> {}
// SAFETY: As above; the target is only shared.
unsafe impl<T: OnTimer> Sync for DeadlineTimer<T> {}

impl<T: OnTimer> DeadlineTimer<T> {
    /// A timer that is not yet tied to an object.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            hr: UnsafeCell::new(RawTimer { hr: pin_init::zeroed(), target: core::ptr::null() }),
            _pin: PhantomPinned,
        })
    }

    /// Ties the timer to the object that holds it. Once, before the first [`DeadlineTimer::arm`].
    ///
    /// `timer` picks the timer out of its owner.
    ///
    /// # Errors
    /// `EINVAL` when the timer is not a field of `owner`, `EBUSY` when it is tied already.
    pub(crate) fn bind(owner: &Arc<T>, timer: impl Fn(&T) -> &DeadlineTimer<T>) -> Result {
        let this = timer(owner);
        let start = Arc::as_ptr(owner) as usize;
        let at = core::ptr::from_ref(this) as usize;
        if at < start || at >= start.wrapping_add(size_of::<T>()) {
            return Err(EINVAL);
        }
        if this.is_bound() {
            return Err(EBUSY);
        }
        let raw = this.hr.get();
        // SAFETY: The timer lies inside its target (checked above), which an `Arc` keeps at one address
        // until it is dropped, and dropping it cancels the timer first, as its first field. Nobody arms an unbound timer.
        unsafe {
            bindings::hrtimer_setup(
                &raw mut (*raw).hr,
                Some(Self::fire),
                bindings::CLOCK_MONOTONIC as i32,
                bindings::hrtimer_mode_HRTIMER_MODE_ABS,
            );
            (*raw).target = Arc::as_ptr(owner);
        }
        Ok(())
    }

    /// # Safety
    /// Only the kernel calls this, for a timer that [`DeadlineTimer::bind`] set up.
    unsafe extern "C" fn fire(hr: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        let raw: *const RawTimer<T> = hr.cast();
        // SAFETY: `hr` is the first field of the `RawTimer<T>` that was set up; its target outlives it.
        unsafe { (*(*raw).target).on_timer() };
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }

    fn is_bound(&self) -> bool {
        // SAFETY: `target` is written once, by `bind()`, before any use.
        unsafe { !(*self.hr.get()).target.is_null() }
    }

    /// Arms for `at`, instead of any earlier arming. Any context but NMI.
    pub(crate) fn arm(&self, at: Ns) {
        if !self.is_bound() {
            return;
        }
        let at = i64::try_from(at.0).unwrap_or(i64::MAX);
        // SAFETY: Set up by `bind()`.
        unsafe {
            bindings::hrtimer_start_range_ns(
                &raw mut (*self.hr.get()).hr,
                at,
                0,
                bindings::hrtimer_mode_HRTIMER_MODE_ABS,
            )
        }
    }

    /// Takes back [`DeadlineTimer::arm`] where the callback has not begun. Does not wait. Any context.
    pub(crate) fn disarm(&self) {
        if self.is_bound() {
            // SAFETY: Set up by `bind()`.
            unsafe { bindings::hrtimer_try_to_cancel(&raw mut (*self.hr.get()).hr) };
        }
    }
}

#[pinned_drop]
impl<T: OnTimer> PinnedDrop for DeadlineTimer<T> {
    fn drop(self: Pin<&mut Self>) {
        if self.is_bound() {
            // SAFETY: Set up by `bind()`; waits for a running callback, so the target is free after.
            unsafe { bindings::hrtimer_cancel(&raw mut (*self.hr.get()).hr) };
        }
    }
}
