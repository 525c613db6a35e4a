// SPDX-License-Identifier: GPL-2.0

//! The paravirtual clock: time that a guest reads from its TSC without an exit.
//!
//! The guest finds a TSC value, the time at that value, and a factor in a structure in its own memory;
//! the time now is that time plus the scaled difference of the TSC. Linux,
//! "KVM-specific MSRs" (MSR_KVM_WALL_CLOCK_NEW, MSR_KVM_SYSTEM_TIME_NEW), tells the layout.
//!
//! A structure is updated in three writes: an odd version, the body, an even version. A guest that reads
//! the same even version before and after has read one state. The writes must reach the guest in order;
//! on x86 stores do, so it is enough that they are made in order.

use crate::arch::rule::rule;
use zerocopy::IntoBytes;

/// Bit of the MSR's value: the structure is in use.
pub(crate) const ENABLED: u64 = 1;
/// [`TimeInfo::flags`]: times of different vCPUs can be compared.
pub(crate) const TSC_STABLE: u8 = 1 << 0;
/// [`TimeInfo::flags`]: the guest stood still for a while, which is no fault of its own. The guest clears it.
pub(crate) const GUEST_STOPPED: u8 = 1 << 1;

const NS_PER_S: u64 = 1_000_000_000;

/// The factor from TSC ticks to nanoseconds: `ns = ((ticks << shift) * mul) >> 32`, where a negative
/// shift goes right.
///
/// # Invariants
/// The top bit of `mul` is set, so the factor is exact to one part in 2^31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TscScale {
    /// The factor as a fraction of 2^32.
    pub(crate) mul: u32,
    /// The power of two before it.
    pub(crate) shift: i8,
}

impl TscScale {
    /// Returns the factor for a TSC of `khz` kHz, or `None` for 0.
    pub(crate) fn from_khz(khz: u32) -> Option<TscScale> {
        let mut hz = u64::from(khz).checked_mul(1000).filter(|&hz| hz != 0)?;
        let mut ns = NS_PER_S;
        let mut shift = 0i8;
        // Both are below 2^43, and each loop ends before one passes twice the other.
        while ns >= hz {
            hz = hz.wrapping_shl(1);
            shift = shift.wrapping_add(1);
        }
        while ns.wrapping_shl(1) < hz {
            ns = ns.wrapping_shl(1);
            shift = shift.wrapping_sub(1);
        }
        let scale = TscScale { mul: fraction(ns, hz), shift };
        debug_assert_eq!(scale.check(), Ok(()));
        Some(scale)
    }

    /// Looks whether the invariant holds.
    ///
    /// # Errors
    /// Its name if it does not.
    fn check(self) -> Result<(), &'static str> {
        rule(self.mul >> 31 == 1, "the factor has 32 significant bits")
    }

    /// Returns `ticks` in nanoseconds, modulo 2^64, as the guest computes it.
    pub(crate) fn ns(self, ticks: u64) -> u64 {
        let by = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 { ticks.wrapping_shr(by) } else { ticks.wrapping_shl(by) };
        (u128::from(shifted).wrapping_mul(u128::from(self.mul)) >> 32) as u64
    }
}

/// Units of Hyper-V's reference time are 100 ns.
pub(crate) const REFERENCE_UNIT_NS: u64 = 100;

impl TscScale {
    /// Returns the same factor to units of 100 ns as a fraction of 2^64; `None` where it is no fraction, for a TSC below
    /// 10 MHz.
    pub(crate) fn reference_scale(self) -> Option<u64> {
        let shift = 32u32.checked_add_signed(self.shift.into())?;
        let wide = u128::from(self.mul).checked_shl(shift)?;
        // By two divisions of 64 bits: the kernel has none of 128.
        let (high, low) = ((wide >> 64) as u64, wide as u64);
        if high >= REFERENCE_UNIT_NS {
            return None;
        }
        let upper = high.wrapping_shl(32) | low >> 32;
        let rest = upper.checked_rem(REFERENCE_UNIT_NS)?.wrapping_shl(32) | low & 0xffff_ffff;
        Some(upper.checked_div(REFERENCE_UNIT_NS)?.wrapping_shl(32) | rest.checked_div(REFERENCE_UNIT_NS)?)
    }
}

/// Returns `num / den` as a fraction of 2^32, for `den / 2 <= num < den < 2^63`: long division.
fn fraction(num: u64, den: u64) -> u32 {
    let (mut rem, mut quotient) = (num, 0u32);
    for _ in 0..32 {
        rem = rem.wrapping_shl(1);
        quotient = quotient.wrapping_shl(1);
        if rem >= den {
            rem = rem.wrapping_sub(den);
            quotient |= 1;
        }
    }
    quotient
}

/// `struct pvclock_vcpu_time_info`: the clock of one vCPU.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
)]
pub(crate) struct TimeInfo {
    /// Odd while the structure is being changed.
    pub(crate) version: u32,
    /// Unused.
    pub(crate) pad0: u32,
    /// The guest's TSC at the reference point.
    pub(crate) tsc_timestamp: u64,
    /// The time there, in nanoseconds of the VM's clock.
    pub(crate) system_time: u64,
    /// See [`TscScale::mul`].
    pub(crate) tsc_to_system_mul: u32,
    /// See [`TscScale::shift`].
    pub(crate) tsc_shift: i8,
    /// [`TSC_STABLE`], [`GUEST_STOPPED`].
    pub(crate) flags: u8,
    /// Unused.
    pub(crate) pad: [u8; 2],
}

/// `struct pvclock_wall_clock`: the real time at the VM clock's zero.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
)]
pub(crate) struct WallClock {
    /// Odd while the structure is being changed.
    pub(crate) version: u32,
    /// Seconds since 1970 UTC.
    pub(crate) sec: u32,
    /// Nanoseconds on top.
    pub(crate) nsec: u32,
}

static_assertions::const_assert_eq!(core::mem::size_of::<TimeInfo>(), 32);
static_assertions::const_assert_eq!(core::mem::size_of::<WallClock>(), 12);

impl TimeInfo {
    /// The clock that shows `ns` when the guest's TSC is `tsc`.
    pub(crate) const fn new(tsc: u64, ns: u64, scale: TscScale, flags: u8) -> TimeInfo {
        TimeInfo {
            version: 0,
            pad0: 0,
            tsc_timestamp: tsc,
            system_time: ns,
            tsc_to_system_mul: scale.mul,
            tsc_shift: scale.shift,
            flags,
            pad: [0; 2],
        }
    }

    /// Writes the structure by way of `write(offset, bytes)`; `version` is what the guest's memory
    /// holds now.
    ///
    /// # Errors
    /// Those of `write`; the version is then left odd, and the guest waits for the next update.
    pub(crate) fn publish<E>(
        &self,
        version: u32,
        write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        publish(version, self.as_bytes(), write)
    }
}

impl WallClock {
    /// The wall clock of a VM whose clock was 0 at `ns` nanoseconds since 1970 UTC.
    pub(crate) fn new(ns: u64) -> WallClock {
        let sec = ns.checked_div(NS_PER_S).unwrap_or(0);
        let nsec = ns.checked_rem(NS_PER_S).unwrap_or(0);
        WallClock { version: 0, sec: sec as u32, nsec: nsec as u32 }
    }

    /// As [`TimeInfo::publish`].
    ///
    /// # Errors
    /// Those of `write`.
    pub(crate) fn publish<E>(
        &self,
        version: u32,
        write: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        publish(version, self.as_bytes(), write)
    }
}

/// Writes a structure that starts with its version: odd version, body, even version.
fn publish<E>(
    version: u32,
    whole: &[u8],
    mut write: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    // A guest may have left an odd number there.
    let even = version.wrapping_add(1) & !1;
    write(0, even.wrapping_add(1).to_le_bytes().as_slice())?;
    write(4, whole.get(4..).unwrap_or(&[]))?;
    write(0, even.wrapping_add(2).to_le_bytes().as_slice())
}
