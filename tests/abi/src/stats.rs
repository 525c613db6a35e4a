// SPDX-License-Identifier: GPL-2.0

//! The counters of VMs and vCPUs: KVM_GET_STATS_FD.

use crate::abi::{nr, stats as abi};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw::{self, ioctl};
use kvm_bindings::KVM_CAP_BINARY_STATS_FD;
use libc::{EINTR, ENOTTY};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

pub const TESTS: &[Test] = &[
    ("stats: vms and vcpus have counters in kvm's format", format),
    ("stats: a vcpu's counters count", vcpu_counts),
    ("stats: a vm's counters count", vm_counts),
    ("stats: a file outlives what it is of", outlives),
    ("stats: a file can be read and nothing else", read_only),
];

/// Returns the file of a VM's or a vCPU's counters.
pub fn file_of(of: &impl AsRawFd) -> File {
    raw::file(ioctl(of, nr::GET_STATS_FD, 0).expect("KVM_GET_STATS_FD"))
}

fn bytes(file: &File, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).expect("pread");
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).expect("a name ends");
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

/// One counter.
struct Stat {
    flags: u32,
    exponent: i16,
    bucket_size: u32,
    values: Vec<u64>,
}

/// Returns what the counters are of, and they.
fn read(file: &File) -> (String, BTreeMap<String, Stat>) {
    let header = bytes(file, 0, abi::HEADER_BYTES as usize);
    let [name_size, count, id, descs, data] = [4, 8, 12, 16, 20].map(|at| word(&header, at));
    let step = name_size as usize + 16;
    let id = text(&bytes(file, id.into(), name_size as usize));
    let mut all = BTreeMap::new();
    for desc in bytes(file, descs.into(), step * count as usize).chunks_exact(step) {
        let [exponent, size] = [4, 6].map(|at| u16::from_le_bytes(desc[at..at + 2].try_into().unwrap()));
        let values = bytes(file, u64::from(data + word(desc, 8)), usize::from(size) * 8);
        let values = values.chunks_exact(8).map(|v| u64::from_le_bytes(v.try_into().unwrap())).collect();
        let stat =
            Stat { flags: word(desc, 0), exponent: exponent as i16, bucket_size: word(desc, 12), values };
        assert!(all.insert(text(&desc[16..]), stat).is_none(), "a name twice");
    }
    (id, all)
}

/// Returns a counter.
#[track_caller]
pub fn value(file: &File, name: &str) -> u64 {
    let (_, all) = read(file);
    all.get(name).unwrap_or_else(|| panic!("no counter {name}")).values[0]
}

fn format(c: &Ctx) {
    assert_eq!(ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_BINARY_STATS_FD.into()), Ok(1));
    let (vm, vcpu) = c.vcpu();
    let (of_vm, vm_stats) = read(&file_of(&vm));
    let (of_vcpu, vcpu_stats) = read(&file_of(&vcpu));

    assert!(of_vm.starts_with("kvm-"), "{of_vm}");
    assert_eq!(of_vcpu, format!("{of_vm}/vcpu-0"));
    assert!(!vm_stats.is_empty() && !vcpu_stats.is_empty());
    for (name, stat) in vm_stats.iter().chain(&vcpu_stats) {
        let (kind, unit, base) = (stat.flags & 15, stat.flags >> 4 & 15, stat.flags >> 8);
        assert!(kind <= 4 && unit <= 4 && base <= 1, "{name}: {:#x}", stat.flags);
        assert!(if unit == 2 { stat.exponent <= 0 } else { stat.exponent >= 0 }, "{name}");
        assert_eq!(stat.bucket_size != 0, kind == 3, "{name}");
        assert!(!stat.values.is_empty(), "{name}");
    }
    for name in ["exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits", "irq_injections", "pf_taken"] {
        assert_eq!(vcpu_stats.get(name).map(|s| s.flags), Some(0), "{name}");
    }
}

fn vcpu_counts(c: &Ctx) {
    // out 0x10, al, twice; hlt; jmp $
    let mut g = Guest::new(c, &[0xe6, 0x10, 0xe6, 0x10, HLT, 0xeb, 0xfe]);
    // What software carries out is no exit.
    g.enter_long_mode_with(&[(2, 0x2000, 0, &[0xe6, 0x11, 0xeb, 0xfe])]);
    let file = file_of(&g.vcpu);
    assert_eq!(value(&file, "exits"), 0);

    g.out();
    g.out();
    g.hlt();

    assert_eq!(value(&file, "io_exits"), 2);
    assert_eq!(value(&file, "halt_exits"), 1);
    assert!(value(&file, "exits") >= 3);
    assert!(value(&file, "pf_taken") >= 1);
    g.vcpu.nmi().unwrap();
    assert_eq!(g.out().0, 0x11);
    // More than one where its delivery faulted.
    assert!(value(&file, "nmi_injections") >= 1);
    assert_eq!(value(&file, "irq_injections"), 0);
    assert_eq!(crate::irq::run_a_while(&mut g), Err(EINTR));
    assert_eq!(value(&file, "signal_exits"), 1);
}

fn vm_counts(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    g.enter_long_mode();
    let file = file_of(&g.vm);
    g.hlt();
    let before = value(&file, "remote_tlb_flush_requests");

    let Guest { vcpu: _vcpu, vm: _vm, memory } = g;
    drop(memory);

    assert!(value(&file, "remote_tlb_flush_requests") > before, "what the guest used has gone");
    assert!(value(&file, "remote_tlb_flush_requests") >= value(&file, "remote_tlb_flush"));
}

fn outlives(c: &Ctx) {
    let mut g = Guest::new(c, &[0xe6, 0x10, HLT]);
    g.out();
    let files = [file_of(&g.vm), file_of(&g.vcpu)];

    drop(g);

    assert_eq!(value(&files[1], "io_exits"), 1);
    value(&files[0], "remote_tlb_flush");
}

fn read_only(c: &Ctx) {
    let (vm, vcpu) = c.vcpu();
    for mut file in [file_of(&vm), file_of(&vcpu)] {
        assert!(file.write(&[0]).is_err());
        refused(ioctl(&file, nr::RUN, 0), &[ENOTTY]);
        assert_eq!(file.read_at(&mut [0; 8], 1 << 20).ok(), Some(0), "behind the end there is nothing");
    }
}
