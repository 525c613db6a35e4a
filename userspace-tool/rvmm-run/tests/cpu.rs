// SPDX-License-Identifier: GPL-2.0

//! Processors: the run loop with a scripted `KVM_RUN`, entry state, CPUID.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

use kvm_bindings::{kvm_cpuid_entry2, kvm_lapic_state, kvm_sregs};
use kvm_ioctls::VcpuExit;
use nix::errno::Errno;
use proptest::prelude::*;
use rvmm_run::config::layout::{BOOT_PARAMS, GDT, PML4, PVH_START_INFO};
use rvmm_run::config::memory::RamSize;
use rvmm_run::kernel::loaded::KernelEntry;
use rvmm_run::vm::cpuid::{personalise, CpuTopology};
use rvmm_run::vm::dump::ExitLog;
use rvmm_run::vm::regs;
use rvmm_run::vm::vcpu_loop::{run_until_end, Processor, VcpuEnd};
use vm_memory::{Bytes, GuestAddress};

/// One scripted return of `KVM_RUN`.
#[derive(Clone, Copy, Debug)]
enum Step {
    In(u16),
    Out(u16),
    MmioRead(u64),
    Event(u32),
    Shutdown,
    FailEntry,
    InternalError,
    Unknown,
    Fails(Errno),
}

struct Script {
    steps: VecDeque<Step>,
    data: [u8; 4],
    seen: Vec<[u8; 4]>,
    stops_noted: Cell<u32>,
}

impl Script {
    fn new(steps: &[Step]) -> Self {
        let steps = steps.iter().copied().collect();
        Self { steps, data: [0; 4], seen: Vec::new(), stops_noted: Cell::new(0) }
    }
}

impl Processor for Script {
    fn run(&mut self) -> Result<VcpuExit<'_>, Errno> {
        self.seen.push(self.data);
        self.data = [0; 4];
        match self.steps.pop_front().expect("the loop ran past the end of the script") {
            Step::In(port) => Ok(VcpuExit::IoIn(port, &mut self.data[..2])),
            Step::Out(port) => Ok(VcpuExit::IoOut(port, &[1, 2])),
            Step::MmioRead(gpa) => Ok(VcpuExit::MmioRead(gpa, &mut self.data)),
            Step::Event(kind) => Ok(VcpuExit::SystemEvent(kind, &[])),
            Step::Shutdown => Ok(VcpuExit::Shutdown),
            Step::FailEntry => Ok(VcpuExit::FailEntry(0x8000_0021, 3)),
            Step::InternalError => Ok(VcpuExit::InternalError),
            Step::Unknown => Ok(VcpuExit::Unsupported(99)),
            Step::Fails(errno) => Err(errno),
        }
    }

    fn note_stop(&self) {
        self.stops_noted.set(self.stops_noted.get() + 1);
    }

    fn internal_error(&mut self) -> (u32, Vec<u64>) {
        (1, vec![0xabc])
    }

    fn module_exits(&self) -> String {
        "last exits in the module\n".into()
    }

    fn registers(&self) -> String {
        "rip here\n".into()
    }
}

fn end_of(steps: &[Step]) -> VcpuEnd {
    run_until_end(&mut Script::new(steps), &AtomicBool::new(false), |_| {}, None)
}

#[test]
fn system_events_end_the_run_as_the_guest_meant() {
    assert_eq!(end_of(&[Step::Event(1)]), VcpuEnd::PowerOff);
    assert_eq!(end_of(&[Step::Event(2)]), VcpuEnd::Reset);
    assert!(matches!(end_of(&[Step::Event(3)]), VcpuEnd::Failed { .. }));
}

#[test]
fn signals_and_retries_do_not_end_the_run() {
    assert_eq!(
        end_of(&[Step::Fails(Errno::EINTR), Step::Fails(Errno::EAGAIN), Step::Event(1)]),
        VcpuEnd::PowerOff
    );
    assert_eq!(end_of(&[Step::Fails(Errno::EFAULT)]), VcpuEnd::Host(Errno::EFAULT));
}

#[test]
fn a_guest_is_told_when_it_was_stopped_and_goes_on() {
    let mut script = Script::new(&[Step::Fails(Errno::EINTR), Step::Fails(Errno::EAGAIN), Step::Event(1)]);

    run_until_end(&mut script, &AtomicBool::new(false), |_| {}, None);

    assert_eq!(script.stops_noted.get(), 1, "once, and not for a retry");
}

#[test]
fn nobody_home_reads_all_ones() {
    let mut script =
        Script::new(&[Step::In(0x99), Step::MmioRead(0xfed0_0000), Step::Out(0x80), Step::Event(1)]);

    run_until_end(&mut script, &AtomicBool::new(false), |_| {}, None);

    assert_eq!(script.seen[1], [0xff, 0xff, 0, 0], "as wide as the access");
    assert_eq!(script.seen[2], [0xff; 4]);
}

#[test]
fn triple_fault_dumps_registers_and_last_exits() {
    let VcpuEnd::TripleFault(dump) = end_of(&[Step::Out(0x80), Step::Shutdown]) else {
        panic!("no triple fault")
    };

    assert!(dump.contains("rip here"), "{dump}");
    assert!(dump.contains("out port 0x0080 len 2"), "{dump}");
}

#[test]
fn failures_of_the_module_name_their_numbers() {
    for (step, text) in [
        (Step::FailEntry, "0x80000021"),
        (Step::InternalError, "suberror 1, data [abc]"),
        (Step::Unknown, "exit reason 99"),
    ] {
        let VcpuEnd::Failed { reason, dump } = end_of(&[step]) else { panic!("{step:?} did not fail") };
        assert!(reason.contains(text), "{reason}");
        assert!(dump.contains("rip here"));
    }
}

#[test]
fn stopped_machine_does_not_enter_the_guest() {
    assert_eq!(run_until_end(&mut Script::new(&[]), &AtomicBool::new(true), |_| {}, None), VcpuEnd::Stopped);
}

#[test]
fn a_stopped_processor_tells_where_it_was_to_who_debugs() {
    let told = Cell::new(String::new());
    let tell = |text: &str| told.set(text.into());
    let end = run_until_end(&mut Script::new(&[]), &AtomicBool::new(true), |_| {}, Some(&tell));

    assert_eq!(end, VcpuEnd::Stopped);
    let told = told.take();
    assert!(told.contains("rip here") && told.contains("last exits in the module"), "{told}");
}

#[test]
fn exit_log_keeps_the_newest() {
    let mut log = ExitLog::default();
    for i in 0..100 {
        log.push(format!("exit {i}"));
    }

    let text = log.render();

    assert_eq!(log.total(), 100);
    assert!(
        text.contains("exit 99\n") && text.contains("exit 84\n") && !text.contains("exit 83\n"),
        "{text}"
    );
}

#[test]
fn linux_entry_is_long_mode_with_the_first_4_gib_mapped() {
    let entry = KernelEntry::Linux64 { rip: 0x100_0200 };
    let ram = RamSize::from_bytes(64 << 20).unwrap().allocate().unwrap();

    regs::write_tables(&ram, entry).unwrap();
    let general = regs::general(entry);
    let system = regs::system(kvm_sregs { apic_base: 0xfee0_0900, ..Default::default() }, entry);

    assert_eq!((general.rip, general.rsi, general.rflags), (0x100_0200, BOOT_PARAMS, 2));
    assert_eq!(system.efer, 0x500);
    assert_eq!(system.cr0 & 0x8000_0001, 0x8000_0001);
    assert_eq!((system.cs.l, system.cs.db), (1, 0));
    assert_eq!(system.apic_base, 0xfee0_0900);
    for gpa in [0u64, 0x1234_5678, 0xffff_ffff] {
        let mut table = PML4;
        for shift in [39, 30] {
            let entry: u64 = ram.read_obj(GuestAddress(table + 8 * ((gpa >> shift) & 511))).unwrap();
            assert_eq!(entry & 0x81, 1, "a table for {gpa:#x}");
            table = entry & !0xfff;
        }
        let page: u64 = ram.read_obj(GuestAddress(table + 8 * ((gpa >> 21) & 511))).unwrap();
        assert_eq!(page, (gpa & !0x1f_ffff) | 0x83);
    }
}

#[test]
fn pvh_entry_is_flat_protected_mode_without_paging() {
    let entry = KernelEntry::Pvh { eip: 0x100_0010 };

    let general = regs::general(entry);
    let system = regs::system(kvm_sregs { efer: 0x500, cr4: 0x20, cr3: 7, ..Default::default() }, entry);

    assert_eq!((general.rip, general.rbx), (0x100_0010, PVH_START_INFO));
    assert_eq!((system.cr0, system.cr3, system.cr4, system.efer), (0x11, 0, 0, 0));
    assert_eq!((system.cs.l, system.cs.db, system.cs.limit, system.cs.g), (0, 1, u32::MAX, 1));
}

#[test]
fn descriptors_in_memory_match_the_loaded_segments() {
    for (entry, code) in [
        (KernelEntry::Linux64 { rip: 0 }, 0x00af_9b00_0000_ffffu64),
        (KernelEntry::Pvh { eip: 0 }, 0x00cf_9b00_0000_ffff),
    ] {
        let ram = RamSize::from_bytes(64 << 20).unwrap().allocate().unwrap();

        regs::write_tables(&ram, entry).unwrap();

        let at = |index: u64| ram.read_obj::<u64>(GuestAddress(GDT + 8 * index)).unwrap();
        assert_eq!((at(0), at(2), at(3), at(4)), (0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067));
    }
}

#[test]
fn local_apic_takes_the_8259_on_lint0_and_nmi_on_lint1() {
    let mut lapic = kvm_lapic_state::default();

    regs::wire_lint(&mut lapic);

    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| lapic.regs[at + i] as u8));
    assert_eq!((word(0x350), word(0x360)), (0x700, 0x400));
}

fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, index, eax: 0x1f, ..Default::default() }
}

/// Supported leaves of an imaginary AMD host.
fn amd_host() -> Vec<kvm_cpuid_entry2> {
    let mut vendor = leaf(0, 0);
    vendor.ebx = u32::from_le_bytes(*b"Auth");
    vec![
        vendor,
        kvm_cpuid_entry2 { function: 1, ebx: 0x4408_0800, ..Default::default() },
        leaf(0xb, 0),
        leaf(0x1f, 0),
        leaf(0x8000_0001, 0),
        leaf(0x8000_0008, 0),
        kvm_cpuid_entry2 { function: 0x8000_001d, eax: 0x43, ..Default::default() },
        leaf(0x8000_001e, 0),
        leaf(0x8000_0026, 0),
    ]
}

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> &kvm_cpuid_entry2 {
    leaves.iter().find(|l| l.function == function && l.index == index).expect("leaf")
}

#[test]
fn cpuid_tells_each_processor_its_own_id() {
    let leaves = personalise(&amd_host(), CpuTopology { id: 2, cpus: 4, tsc_deadline: true });

    assert_eq!(find(&leaves, 1, 0).ebx, 0x0204_0800);
    assert_eq!(find(&leaves, 1, 0).ecx, (1 << 31) | (1 << 24));
    assert_eq!(find(&leaves, 1, 0).edx, 1 << 28);
    assert_eq!(find(&leaves, 0xb, 0).edx, 2);
    assert_eq!((find(&leaves, 0xb, 1).eax, find(&leaves, 0xb, 1).ebx), (2, 4));
    assert_eq!(find(&leaves, 0x8000_0008, 0).ecx & 0xf0ff, 0x2003);
    assert_eq!(find(&leaves, 0x8000_001e, 0).eax, 2);
    assert!(!leaves.iter().any(|l| matches!(l.function, 0x1f | 0x8000_0026)), "no topology of the host");
}

#[test]
fn single_processor_has_no_neighbours() {
    let leaves = personalise(&amd_host(), CpuTopology { id: 0, cpus: 1, tsc_deadline: false });

    assert_eq!(find(&leaves, 1, 0).edx & (1 << 28), 0);
    assert_eq!(find(&leaves, 1, 0).ecx & (1 << 24), 0);
    assert_eq!((find(&leaves, 0xb, 1).eax, find(&leaves, 0xb, 1).ebx), (0, 1));
    assert_eq!(find(&leaves, 0x8000_0008, 0).ecx & 0xf0ff, 0);
}

proptest! {
    /// For any number of processors, the shift of leaf 0xb leaves room for all ids and no leaf is there twice.
    #[test]
    fn topology_has_room_for_every_id(cpus in 1u32..4096, pick: prop::sample::Index) {
        let id = pick.index(cpus as usize) as u32;

        let leaves = personalise(&amd_host(), CpuTopology { id, cpus, tsc_deadline: true });

        prop_assert_eq!(id >> find(&leaves, 0xb, 1).eax, 0);
        let mut keys: Vec<_> = leaves.iter().map(|l| (l.function, l.index)).collect();
        keys.sort_unstable();
        keys.dedup();
        prop_assert_eq!(keys.len(), leaves.len());
    }

    /// Any leaves of a host are taken without a panic.
    #[test]
    fn any_host_is_taken(words in prop::collection::vec(any::<[u32; 6]>(), 0..40), cpus in 1u32..300) {
        let host: Vec<_> = words
            .iter()
            .map(|w| kvm_cpuid_entry2 {
                function: if w[0] & 1 == 0 { w[0] % 0x20 } else { 0x8000_0000 + w[0] % 0x30 },
                index: w[1] % 4,
                eax: w[2],
                ebx: w[3],
                ecx: w[4],
                edx: w[5],
                ..Default::default()
            })
            .collect();
        let _ = personalise(&host, CpuTopology { id: cpus - 1, cpus, tsc_deadline: true });
    }
}
