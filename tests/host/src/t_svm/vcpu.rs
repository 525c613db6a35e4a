// SPDX-License-Identifier: GPL-2.0

//! A virtual processor on SVM, with a VMCB that no processor reads.

use crate::arch::addr::Hpa;
use crate::arch::cr::Cr4;
use crate::arch::exception::ExceptionVector;
use crate::fake::steps::flat;
use crate::host::cpu::PinnedCpu;
use crate::host::debug::DR6_IDLE;
use crate::host::fpu::GuestFpu;
use crate::host::world::World;
use crate::machine::mailbox::VcpuMailbox;
use crate::mmu::format::HardwareRoot;
use crate::svm::region::{VmcbEntry, POINTERS};
use crate::svm::vmcb::InterceptCr;
use crate::svm::Svm;
use crate::vcpu::backend::{BackendVcpu, TableRoot, VendorBackend};
use crate::vcpu::core::{HeapParts, VcpuActivity, VcpuCore};
use crate::vcpu::cpuid::CpuidTable;
use crate::vcpu::record::VcpuRecord;
use crate::vcpu::run;
use crate::vcpu::state::{StateGroups, VcpuState};
use crate::vcpu::vm::Vm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::task::{current, SIGNAL};
use std::sync::Arc;

/// VMMCALL: an exit that has no effect here.
const VMMCALL: u64 = 0x81;
/// Physical interrupt.
const INTR: u64 = 0x60;
/// #AC, as an exit and as an event that is delivered.
const AC: u64 = 0x40 + ExceptionVector::AC.0 as u64;
const AC_EVENT: u64 = 1 << 31 | 1 << 11 | 3 << 8 | ExceptionVector::AC.0 as u64;

/// Enters a vCPU with this state once, and leaves the window. Returns the state then.
fn enter(state: &VcpuState, guest: impl FnMut(&mut VmcbEntry<'_>) + Send + 'static) -> VcpuState {
    let svm = Svm::new(Box::new(guest));
    let mut vcpu = svm.new_vcpu().unwrap();
    let mut state = state.clone();
    vcpu.write_state(StateGroups::all(), &state);
    let cpu = PinnedCpu::pin();
    let mut window = svm.open(&cpu).unwrap();
    vcpu.enter(&mut window, &TableRoot::new(Hpa(0x1000), &svm), &mut state);
    vcpu.leave(&mut window);
    vcpu.read_state(StateGroups::all(), &mut state);
    state
}

fn protected() -> VcpuState {
    let mut state = VcpuState::at_reset(0);
    flat(&mut state);
    state
}

#[test]
fn machine_checks_stay_on_while_a_guest_runs_that_has_them_off() {
    let world = World::new();
    let _in = world.enter(0);
    for own in [0, Cr4::MCE.bits()] {
        let mut state = protected();
        state.cr4 = own | Cr4::PSE.bits();

        let after = enter(&state, move |entry| {
            assert_eq!(entry.save.cr4, Cr4::MCE.bits() | Cr4::PSE.bits(), "in force");
            let reads_exit = entry.intercepts_cr().contains(InterceptCr::CR4_READ);
            assert_eq!(reads_exit, own == 0, "the guest reads its own");
            assert!(entry.intercepts_exception(ExceptionVector::MC), "one is the host's");
            entry.exit(VMMCALL, 0);
        });

        assert_eq!(after.cr4, state.cr4, "what the guest has");
    }
}

#[test]
fn the_status_of_a_guests_breakpoints_does_not_stay_in_the_processor() {
    let world = World::new();
    let _in = world.enter(0);
    for status in [DR6_IDLE, DR6_IDLE | 1 << 14, DR6_IDLE | 2] {
        let after = enter(&protected(), move |entry| {
            entry.save.dr6 = status;
            entry.exit(VMMCALL, 0);
        });

        assert_eq!(world.cpus[0].with(|r| r.dr6), DR6_IDLE, "{status:#x}");
        assert_eq!(after.dr6, status, "the guest keeps it");
    }
}

/// A delivery of #AC that raises #AC again, for ever (CVE-2015-5307).
fn circle(entry: &mut VmcbEntry<'_>, left: &mut u64) {
    *left -= 1;
    if *left == 0 {
        current().set(SIGNAL);
        return entry.exit(INTR, 0);
    }
    assert!(entry.intercepts_exception(ExceptionVector::AC));
    // The first one is the guest's own, the others are met by the delivery of the one before.
    if let Some(event) = entry.event() {
        assert_eq!(event & 0xffff_ffff, AC_EVENT);
        entry.cut_short(event);
    }
    entry.exit(AC, 0);
}

#[test]
fn an_alignment_check_in_its_own_delivery_leaves_the_window_each_time() {
    const ENTRIES: u64 = 200;
    let world = World::new();
    let _in = world.enter(0);
    let entries = Arc::new(AtomicU64::new(0));
    let (count, mut left) = (entries.clone(), ENTRIES);
    let svm = Svm::new(Box::new(move |entry| {
        count.fetch_add(1, SeqCst);
        circle(entry, &mut left);
    }));
    let svm = kernel::sync::Arc::new(svm, GFP_KERNEL).unwrap();
    let vm = Vm::new(svm.clone(), crate::fake::settings()).unwrap();
    let (mailbox, heap) = (VcpuMailbox::new(0).unwrap(), HeapParts::new().unwrap());
    let mut core = VcpuCore::new(svm.new_vcpu().unwrap(), true, None, CpuidTable::new(), 0, 0, heap);
    core.mp = VcpuActivity::Runnable;
    flat(&mut core.state);
    let record = VcpuRecord::new(0, 42, false).unwrap();
    let taken = world.cpus[0].taken.load(SeqCst);

    let ended = run::run(&vm, &mailbox, &record, &mut core, &mut GuestFpu::new().unwrap(), &|| false);

    assert_eq!(ended.map(|_| ()), Err(EINTR));
    assert_eq!(entries.load(SeqCst), ENTRIES);
    let interrupts = world.cpus[0].taken.load(SeqCst) - taken;
    assert!(
        interrupts >= ENTRIES - 1,
        "{interrupts}: the host's interrupts wait for no more than one of them"
    );
}

#[test]
fn without_nested_paging_the_processor_walks_our_tables_whatever_the_guest_has() {
    let world = World::new();
    let _in = world.enter(0);
    let modes = [
        (0x10, 0, 0, HardwareRoot::Pae([0x7001; 4])),
        (0x11, 0, 0, HardwareRoot::Pae([0x7001; 4])),
        (0x8000_0011, 0x20, 0, HardwareRoot::Pae([0x7001; 4])),
        (0x8001_0011, 0x20, 0xd00, HardwareRoot::Long { root: Hpa(0x9000), levels: 4 }),
        // What no run loop asks for: the mode is the table's all the same.
        (0x11, 0, 0, HardwareRoot::Long { root: Hpa(0x9000), levels: 5 }),
        (0x8001_0011, 0x1020, 0xd00, HardwareRoot::Pae([0; 4])),
    ];
    for (cr0, cr4, efer, root) in modes {
        let mut state = protected();
        (state.cr0, state.cr3, state.cr4, state.efer) = (cr0, 0xdead_b000, cr4, efer);
        let svm = Svm::without_nested_paging(Box::new(move |entry| {
            let s = &*entry.save;
            assert_eq!(s.cr0 & 0x8001_0000, 0x8001_0000, "paging is on, and write protection");
            assert_eq!(s.cr4 & 0x20, 0x20, "entries have eight bytes");
            let (table, is_long, is_deep) = match root {
                HardwareRoot::Long { root, levels } => (root.0, true, levels == 5),
                HardwareRoot::Pae(_) => (POINTERS, false, false),
            };
            assert_eq!(s.cr3, table);
            assert_eq!(s.efer & 0x400 != 0, is_long);
            assert_eq!(s.efer & 0x800, 0x800, "no-execute bits count");
            assert_eq!(s.cr4 & 0x1000 != 0, is_deep);
            assert!(entry.intercepts_cr().contains(InterceptCr::CR0_READ | InterceptCr::CR4_READ));
            entry.exit(VMMCALL, 0);
        }));
        let mut vcpu = svm.new_vcpu().unwrap();
        vcpu.write_state(StateGroups::all(), &state);
        let cpu = PinnedCpu::pin();
        let mut window = svm.open(&cpu).unwrap();
        vcpu.enter(&mut window, &TableRoot::linear(root, &svm), &mut state);
        vcpu.leave(&mut window);
        vcpu.read_state(StateGroups::CONTROL, &mut state);

        assert_eq!(
            (state.cr0, state.cr3, state.cr4, state.efer),
            (cr0, 0xdead_b000, cr4, efer),
            "the guest's own"
        );
    }
}
