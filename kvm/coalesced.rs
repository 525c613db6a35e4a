// SPDX-License-Identifier: GPL-2.0

//! Writes that user space need not hear of at once: KVM_REGISTER_COALESCED_MMIO.
//!
//! Documentation of KVM's API, "KVM_(UN)REGISTER_COALESCED_MMIO". A write to one of the zones goes into a ring that user
//! space reads with the next exit, and the guest goes on. All vCPUs share the ring, which each of them maps. The zones are
//! looked at where a vCPU would return to user space, and nowhere else.

use crate::abi::vm::{CoalescedMmio, CoalescedMmioZone};
use crate::host::page::SharedPage;
use crate::vcpu::outcome::UserExit;
use core::sync::atomic::{fence, AtomicBool, Ordering::*};
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use zerocopy::IntoBytes;

/// The most zones of a VM.
const MAX_ZONES: usize = 1000;
/// Where the ring's entries begin.
const ENTRIES: usize = 8;
/// Where the ring's header has the entry that user space reads next, and the one that is written next.
const FIRST: usize = 0;
const LAST: usize = 4;
/// How many entries there are.
const CAPACITY: u32 = ((4096 - ENTRIES) / size_of::<CoalescedMmio>()) as u32;

/// The zones of a VM and its ring.
#[pin_data]
pub(super) struct CoalescedWrites {
    /// Third page of a vCPU's mapping.
    pub(super) page: SharedPage,
    /// There are zones.
    has_zones: AtomicBool,
    /// The zones; also held while an entry is written.
    #[pin]
    zones: Mutex<KVec<CoalescedMmioZone>>,
}

/// Returns whether a zone holds all of `len` bytes at `addr`.
fn holds(zone: &CoalescedMmioZone, addr: u64, len: u32) -> bool {
    let end = addr.checked_add(len.into());
    // As KVM: a zone that wraps around holds nothing.
    end.is_some_and(|end| addr >= zone.addr && end <= zone.addr.wrapping_add(zone.size.into()))
}

impl CoalescedWrites {
    /// No zones.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new() -> Result<Arc<CoalescedWrites>> {
        let page = SharedPage::new()?;
        Arc::pin_init(
            pin_init!(CoalescedWrites {
                page,
                has_zones: AtomicBool::new(false),
                zones <- new_mutex!(KVec::new()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Carries KVM_REGISTER_COALESCED_MMIO out.
    ///
    /// # Errors
    /// `EINVAL` for neither memory nor ports, `ENOSPC`, `ENOMEM`.
    pub(super) fn register(&self, zone: CoalescedMmioZone) -> Result<i64> {
        if zone.pio > 1 {
            return Err(EINVAL);
        }
        let mut zones = self.zones.lock();
        if zones.len() >= MAX_ZONES {
            return Err(ENOSPC);
        }
        // A new list: where memory runs out, the old one is still whole.
        let mut more = KVec::with_capacity(zones.len().saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        for z in Iterator::chain(zones.iter(), [&zone]) {
            more.push_within_capacity(*z)?;
        }
        *zones = more;
        // It only spares others the lock. Who sees it late returns to user space, as without the zone.
        self.has_zones.store(true, Relaxed);
        Ok(0)
    }

    /// Carries KVM_UNREGISTER_COALESCED_MMIO out: all zones go that hold this one, and it is no error if none does.
    ///
    /// # Errors
    /// `EINVAL` for neither memory nor ports; `ENOMEM`.
    pub(super) fn unregister(&self, zone: &CoalescedMmioZone) -> Result<i64> {
        if zone.pio > 1 {
            return Err(EINVAL);
        }
        let mut zones = self.zones.lock();
        let mut fewer = KVec::with_capacity(zones.len(), GFP_KERNEL_ACCOUNT)?;
        for z in zones.iter().filter(|z| z.pio != zone.pio || !holds(z, zone.addr, zone.size)) {
            fewer.push_within_capacity(*z)?;
        }
        *zones = fewer;
        self.has_zones.store(!zones.is_empty(), Relaxed);
        Ok(0)
    }

    /// Takes the write that `exit` is, if a zone holds it and there is room. Returns whether the guest can go on.
    #[inline]
    pub(super) fn take(&self, exit: &UserExit) -> bool {
        self.has_zones.load(Relaxed) && self.take_write(exit)
    }

    #[inline(never)]
    fn take_write(&self, exit: &UserExit) -> bool {
        let (phys_addr, len, pio, data) = match *exit {
            UserExit::Mmio { gpa, data, len, is_write: true } => (gpa.0, u32::from(len), 0, data),
            UserExit::Io { port, width, is_in: false, data } => {
                (port.into(), width.bytes() as u32, 1, u64::from(data).to_le_bytes())
            }
            _ => return false,
        };
        let zones = self.zones.lock();
        let is_held = zones.iter().any(|z| z.pio == pio && holds(z, phys_addr, len));
        is_held && self.put(&CoalescedMmio { phys_addr, len, pio, data })
    }

    /// Puts an entry into the ring, whose header user space may write meanwhile. Returns whether there was room: one
    /// entry stays free.
    fn put(&self, entry: &CoalescedMmio) -> bool {
        let word = |at| {
            let mut bytes = [0; 4];
            self.page.read(at, &mut bytes);
            u32::from_le_bytes(bytes)
        };
        let at = word(LAST);
        // User space may have put anything there.
        if at >= CAPACITY {
            return false;
        }
        let next = if at == CAPACITY - 1 { 0 } else { at.wrapping_add(1) };
        if next == word(FIRST) {
            return false;
        }
        let offset = (at as usize).wrapping_mul(size_of::<CoalescedMmio>()).wrapping_add(ENTRIES);
        self.page.write(offset, entry.as_bytes());
        // Who sees the new end sees the entry.
        fence(Release);
        self.page.write(LAST, &next.to_le_bytes());
        true
    }
}
