// SPDX-License-Identifier: GPL-2.0

//! Counters of a vCPU in KVM's binary statistics format (KVM_GET_STATS_FD).
//!
//! A header, the vCPU's name, one descriptor for each counter, then the values: see [`super::abi::stats`].
//! Reading costs the vCPU nothing; the values are read one by one while it runs.

use crate::abi::stats as abi;
use crate::host::file::{AnonFile, FMODE_PREAD};
use crate::vcpu::record::{ExitClass, VcpuRecord, BUCKETS};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::iov::IovIterDest;
use kernel::prelude::*;
use kernel::sync::Arc;
use zerocopy::IntoBytes;

/// One counter: its name, and where it is.
type NamedCounter = (&'static [u8], fn(&VcpuRecord) -> &AtomicU64);

/// The counters, under KVM's names where KVM has the same.
pub(super) const COUNTERS: [NamedCounter; 14] = [
    (b"exits", |s| &s.recorder.count),
    (b"user_exits", |s| &s.stats.user_exits),
    (b"irq_exits", |s| &s.stats.host_interrupts),
    (b"pf_taken", |s| &s.stats.page_faults),
    (b"insn_emulation", |s| &s.stats.emulated),
    (b"io_exits", |s| &s.stats.pio),
    (b"mmio_exits", |s| &s.stats.mmio),
    (b"cpuid_exits", |s| &s.stats.cpuid),
    (b"msr_exits", |s| &s.stats.msr),
    (b"hypercalls", |s| &s.stats.hypercalls),
    (b"halt_exits", |s| &s.stats.halts),
    (b"halt_attempted_poll", |s| &s.stats.polls),
    (b"halt_successful_poll", |s| &s.stats.polls_met),
    (b"irq_injections", |s| &s.stats.interrupts),
];

/// The file of one vCPU's counters.
pub(super) struct StatsFile {
    vcpu: Arc<VcpuRecord>,
}

impl StatsFile {
    /// Makes the file.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(vcpu: Arc<VcpuRecord>) -> Result<Arc<StatsFile>> {
        Ok(Arc::new(StatsFile { vcpu }, GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns the whole file as it is now.
    fn image(&self) -> Result<KVec<u8>> {
        let histograms: &[_] = if self.vcpu.times.is_some() { &ExitClass::ALL } else { &[] };
        let n = COUNTERS.len().saturating_add(histograms.len()) as u32;
        let values = COUNTERS.len().saturating_add(histograms.len().saturating_mul(BUCKETS)) as u32;
        let descs = abi::HEADER_BYTES.saturating_add(abi::NAME_BYTES);
        let data = descs.saturating_add(n.saturating_mul(abi::DESC_BYTES));
        let size = data.saturating_add(values.saturating_mul(8));
        let mut out = KVec::with_capacity(size as usize, GFP_KERNEL)?;
        let header = abi::Header {
            flags: 0,
            name_size: abi::NAME_BYTES,
            num_desc: n,
            id_offset: abi::HEADER_BYTES,
            desc_offset: descs,
            data_offset: data,
        };
        append(&mut out, header.as_bytes())?;
        let mut name = abi::name(b"rvmm-vcpu-");
        abi::append_number(&mut name, self.vcpu.id);
        append(&mut out, &name)?;
        let mut offset = 0u32;
        let mut describe = |counter: &[u8], flags, size: u16| {
            let desc = abi::Desc { flags, exponent: 0, size, offset, bucket_size: 0 };
            offset = offset.saturating_add(u32::from(size).saturating_mul(8));
            append(&mut out, desc.as_bytes())?;
            append(&mut out, &abi::name(counter))
        };
        for (counter, _) in COUNTERS {
            describe(counter, abi::CUMULATIVE, 1)?;
        }
        for (_, histogram) in histograms {
            describe(histogram, abi::CYCLES_LOG_HISTOGRAM, BUCKETS as u16)?;
        }
        for (_, at) in COUNTERS {
            append(&mut out, &at(&self.vcpu).load(Relaxed).to_le_bytes())?;
        }
        for (class, _) in histograms {
            for bucket in self.vcpu.times.as_ref().map_or(&[][..], |t| t.of(*class)) {
                append(&mut out, &bucket.load(Relaxed).to_le_bytes())?;
            }
        }
        Ok(out)
    }
}

/// Appends `bytes`, for which there is room.
fn append(out: &mut KVec<u8>, bytes: &[u8]) -> Result {
    for byte in bytes {
        out.push_within_capacity(*byte)?;
    }
    Ok(())
}

impl AnonFile for StatsFile {
    const NAME: &'static CStr = c"rvmm-vcpu-stats";
    const FMODE: u32 = FMODE_PREAD;

    fn ioctl(_this: &Arc<Self>, _cmd: u32, _arg: u64) -> Result<i64> {
        Err(ENOTTY)
    }

    fn read(
        this: &Arc<Self>,
        to: &mut IovIterDest<'_>,
        position: &mut u64,
        _nonblock: bool,
    ) -> Result<usize> {
        let image = this.image()?;
        let from = usize::try_from(*position)?;
        let n = image.get(from..).map_or(0, |rest| to.copy_to_iter(rest));
        *position = position.saturating_add(n as u64);
        Ok(n)
    }
}
