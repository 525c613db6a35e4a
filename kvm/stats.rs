// SPDX-License-Identifier: GPL-2.0

//! Counters of a VM and of its vCPUs in KVM's binary statistics format (KVM_GET_STATS_FD).
//!
//! A header, the name of what counts, one descriptor for each counter, then the values: see [`super::abi::stats`].
//! Reading costs the vCPU nothing; the values are read one by one while it runs.

use super::vm_name::VmName;
use crate::abi::stats as abi;
use crate::host::file::{AnonFile, FMODE_PREAD};
use crate::mmu::tlb::TlbFlushes;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::record::{ExitClass, VcpuRecord, BUCKETS};
use crate::vcpu::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::iov::IovIterDest;
use kernel::prelude::*;
use kernel::sync::Arc;
use zerocopy::IntoBytes;

/// One counter: its name, and where it is.
type NamedCounter = (&'static [u8], fn(&VcpuRecord) -> &AtomicU64);

/// The same of a VM: what gives its value.
type VmCounter = (&'static [u8], fn(&TlbFlushes) -> u64);

/// The counters of a VM, under KVM's names.
const VM_COUNTERS: [VmCounter; 2] =
    [(b"remote_tlb_flush_requests", TlbFlushes::requested), (b"remote_tlb_flush", TlbFlushes::waits)];

/// The counters of a vCPU, under KVM's names where KVM has the same.
pub(super) const COUNTERS: [NamedCounter; 17] = [
    (b"exits", |s| &s.recorder.count),
    (b"user_exits", |s| &s.stats.user_exits),
    (b"signal_exits", |s| &s.stats.signals),
    (b"irq_exits", |s| &s.stats.host_interrupts),
    (b"pf_taken", |s| &s.stats.page_faults),
    (b"insn_emulation", |s| &s.stats.emulated),
    (b"insn_emulation_fail", |s| &s.stats.emulation_failures),
    (b"io_exits", |s| &s.stats.pio),
    (b"mmio_exits", |s| &s.stats.mmio),
    (b"cpuid_exits", |s| &s.stats.cpuid),
    (b"msr_exits", |s| &s.stats.msr),
    (b"hypercalls", |s| &s.stats.hypercalls),
    (b"halt_exits", |s| &s.stats.halts),
    (b"halt_attempted_poll", |s| &s.stats.polls),
    (b"halt_successful_poll", |s| &s.stats.polls_met),
    (b"irq_injections", |s| &s.stats.interrupts),
    (b"nmi_injections", |s| &s.stats.nmis),
];

/// What the counters of a file are of.
enum Counted<B: VendorBackend> {
    /// A vCPU.
    Vcpu(Arc<VcpuRecord>),
    /// A VM.
    Vm(Arc<Vm<B>>, VmName),
}

/// A file of counters.
pub(super) struct StatsFile<B: VendorBackend>(Counted<B>);

impl<B: VendorBackend> StatsFile<B> {
    /// Makes the file of a vCPU's.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn of_vcpu(vcpu: Arc<VcpuRecord>) -> Result<Arc<StatsFile<B>>> {
        Ok(Arc::new(StatsFile(Counted::Vcpu(vcpu)), GFP_KERNEL_ACCOUNT)?)
    }

    /// Makes the file of a VM's.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn of_vm(vm: Arc<Vm<B>>, name: VmName) -> Result<Arc<StatsFile<B>>> {
        Ok(Arc::new(StatsFile(Counted::Vm(vm, name)), GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns the whole file as it is now.
    fn image(&self) -> Result<KVec<u8>> {
        match &self.0 {
            Counted::Vcpu(vcpu) => image_of_vcpu(vcpu),
            Counted::Vm(vm, name) => image_of_vm(vm, *name),
        }
    }
}

fn image_of_vcpu(vcpu: &VcpuRecord) -> Result<KVec<u8>> {
    let mut name = abi::name(b"kvm-");
    abi::append_number(&mut name, vcpu.pid.unsigned_abs());
    abi::append(&mut name, b"/vcpu-");
    abi::append_number(&mut name, vcpu.id);
    let histograms = if vcpu.times.is_some() { ExitClass::ALL.len() } else { 0 };
    let mut image = StatsImage::with_room(COUNTERS.len(), histograms)?;
    for (counter, at) in COUNTERS {
        image.add(counter, abi::CUMULATIVE, &[at(vcpu).load(Relaxed)])?;
    }
    if let Some(times) = &vcpu.times {
        for (class, histogram) in ExitClass::ALL {
            let mut buckets = [0u64; BUCKETS];
            for (to, from) in buckets.iter_mut().zip(times.of(class)) {
                *to = from.load(Relaxed);
            }
            image.add(histogram, abi::CYCLES_LOG_HISTOGRAM, &buckets)?;
        }
    }
    image.join(&name)
}

fn image_of_vm<B: VendorBackend>(vm: &Vm<B>, vm_name: VmName) -> Result<KVec<u8>> {
    let mut name = abi::name(b"kvm-");
    abi::append_number(&mut name, vm_name.pid.unsigned_abs());
    let mut image = StatsImage::with_room(VM_COUNTERS.len(), 0)?;
    for (counter, count) in VM_COUNTERS {
        image.add(counter, abi::CUMULATIVE, &[count(&vm.space.flushes)])?;
    }
    image.join(&name)
}

/// The parts of a file.
struct StatsImage {
    descs: KVec<u8>,
    values: KVec<u8>,
    count: u32,
}

impl StatsImage {
    /// Nothing yet, with room for `counters` and `histograms`.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn with_room(counters: usize, histograms: usize) -> Result<StatsImage> {
        let rows = counters.saturating_add(histograms);
        let values = counters.saturating_add(histograms.saturating_mul(BUCKETS));
        Ok(StatsImage {
            descs: KVec::with_capacity(rows.saturating_mul(abi::DESC_BYTES as usize), GFP_KERNEL)?,
            values: KVec::with_capacity(values.saturating_mul(size_of::<u64>()), GFP_KERNEL)?,
            count: 0,
        })
    }

    /// Adds a counter, or a histogram.
    fn add(&mut self, name: &[u8], flags: u32, values: &[u64]) -> Result {
        let desc = abi::Desc {
            flags,
            exponent: 0,
            size: values.len() as u16,
            offset: self.values.len() as u32,
            bucket_size: 0,
        };
        append(&mut self.descs, desc.as_bytes())?;
        append(&mut self.descs, &abi::name(name))?;
        append(&mut self.values, values.as_bytes())?;
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    /// Returns the file of what is called `name`.
    fn join(self, name: &[u8; abi::NAME_BYTES as usize]) -> Result<KVec<u8>> {
        let desc_offset = abi::HEADER_BYTES.saturating_add(abi::NAME_BYTES);
        let header = abi::Header {
            flags: 0,
            name_size: abi::NAME_BYTES,
            num_desc: self.count,
            id_offset: abi::HEADER_BYTES,
            desc_offset,
            data_offset: desc_offset.saturating_add(self.descs.len() as u32),
        };
        let parts: [&[u8]; 4] = [header.as_bytes(), name, &self.descs, &self.values];
        let bytes = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let mut out = KVec::with_capacity(bytes, GFP_KERNEL)?;
        for part in parts {
            append(&mut out, part)?;
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

impl<B: VendorBackend> AnonFile for StatsFile<B> {
    const NAME: &'static CStr = c"rvmm-stats";
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
