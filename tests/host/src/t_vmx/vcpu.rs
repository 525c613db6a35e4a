// SPDX-License-Identifier: GPL-2.0

//! A virtual processor on VMX, with a VMCS that no processor reads.

use super::capability::{core2, ivy_bridge};
use crate::arch::addr::{Gpa, Gva, Hpa, Hva};
use crate::arch::exception::{ExceptionVector, PfError};
use crate::arch::segment::SegReg;
use crate::fake::direct::RAM;
use crate::fake::steps::flat;
use crate::host::cpu::PinnedCpu;
use crate::host::fpu::GuestFpu;
use crate::host::world::World;
use crate::machine::mailbox::VcpuMailbox;
use crate::mmu::format::HardwareRoot;
use crate::mmu::slots::SlotRequest;
use crate::vcpu::backend::{BackendVcpu, TableRoot, VendorBackend};
use crate::vcpu::core::{HeapParts, VcpuActivity, VcpuCore};
use crate::vcpu::cpuid::CpuidTable;
use crate::vcpu::exit::{CrAccess, CrKind, LinearFault, VmExit};
use crate::vcpu::paging::VcpuPaging;
use crate::vcpu::record::VcpuRecord;
use crate::vcpu::run;
use crate::vcpu::state::{StateGroups, VcpuState};
use crate::vcpu::vm::Vm;
use crate::vmx::capability::{PrimaryControls, VmxSetup};
use crate::vmx::exit::ExitReport;
use crate::vmx::region::{VmcsEntry, POINTERS};
use crate::vmx::vmcs::{GuestField, OwnedField};
use crate::vmx::Vmx;
use kernel::prelude::*;
use kernel::task::{current, SIGNAL};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

const PAE: HardwareRoot = HardwareRoot::Pae([0x7001, 0x8001, 0x9001, 0xa001]);
const LONG: HardwareRoot = HardwareRoot::Long { root: Hpa(0x9000), levels: 4 };

/// Without EPT, as asked for by who loads the module.
fn without_ept() -> VmxSetup {
    VmxSetup::new(&ivy_bridge(), false).unwrap()
}

fn protected() -> VcpuState {
    let mut state = VcpuState::at_reset(0);
    flat(&mut state);
    state
}

/// Another mode: CR0, CR4, EFER.
fn in_mode(cr0: u64, cr4: u64, efer: u64) -> VcpuState {
    let mut state = protected();
    (state.cr0, state.cr3, state.cr4, state.efer) = (cr0, 0xdead_b000, cr4, efer);
    state
}

fn vmcall(entry: &mut VmcsEntry<'_>) {
    entry.report = ExitReport { reason: 18, length: 3, ..ExitReport::default() };
}

/// Enters a vCPU with this state once, and leaves the window. Returns what the exit was.
fn enter(
    setup: VmxSetup,
    root: &HardwareRoot,
    state: &mut VcpuState,
    guest: impl FnMut(&mut VmcsEntry<'_>) + Send + 'static,
) -> VmExit {
    let vmx = Vmx::new(setup, Box::new(guest));
    let mut vcpu = vmx.new_vcpu().unwrap();
    vcpu.write_state(StateGroups::all(), state);
    let cpu = PinnedCpu::pin();
    let mut window = vmx.open(&cpu).unwrap();
    let raw = vcpu.enter(&mut window, &TableRoot::linear(*root, &vmx), state);
    let exit = vcpu.exit(raw, state);
    vcpu.leave(&mut window);
    vcpu.read_state(StateGroups::all(), state);
    exit
}

#[test]
fn without_ept_the_processor_walks_our_tables_whatever_the_guest_has() {
    let world = World::new();
    let _in = world.enter(0);
    for setup in [without_ept(), VmxSetup::new(&core2(), true).unwrap()] {
        for (cr0, cr4, efer, root) in [
            (0x11, 0, 0, PAE),
            (0x8000_0011, 0, 0, PAE),
            (0x8000_0011, 0x30, 0x800, PAE),
            (0x8001_0011, 0x30_00a0, 0xd01, LONG),
            // What no run loop asks for: the mode is the table's all the same.
            (0x11, 0, 0, HardwareRoot::Long { root: Hpa(0x9000), levels: 5 }),
            (0x8001_0011, 0x2_1020, 0xd00, HardwareRoot::Pae([0; 4])),
        ] {
            let mut state = in_mode(cr0, cr4, efer);
            let exit = enter(setup, &root, &mut state, move |entry| {
                let (now0, now4) = (entry.field(OwnedField::Cr0), entry.field(OwnedField::Cr4));
                assert_eq!(now0 & 0x8001_0001, 0x8001_0001, "protected, paged, and write protection is on");
                assert_eq!(now4 & 0x20, 0x20, "entries have eight bytes");
                assert_eq!(now4 & 0x2_0000, 0, "nothing is tagged");
                let paged = cr0 & 0x8000_0000 != 0;
                assert_eq!(
                    now4 & 0x30_0000,
                    if paged { cr4 & 0x30_0000 } else { 0 },
                    "rights of its own tables"
                );
                assert_eq!(now4 & 0x2040, 0x2040, "VMX operation, and the host's machine checks");
                let long = entry.field(OwnedField::VmEntryControls) & 0x200 != 0;
                match root {
                    HardwareRoot::Long { root, levels } => {
                        assert_eq!((entry.field(OwnedField::Cr3), long), (root.0, true));
                        assert_eq!(now4 & 0x1000 != 0, levels == 5);
                    }
                    HardwareRoot::Pae(pointers) => {
                        assert_eq!((entry.field(OwnedField::Cr3), long), (POINTERS, false));
                        let memory = pointers.map(u64::to_ne_bytes).concat();
                        assert_eq!(entry.pointers, Some(&memory[..]));
                        assert_eq!(now4 & 0x1000, 0);
                    }
                }
                assert_eq!(entry.has_syscall, efer & 1 != 0, "the guest's EFER.SCE");
                let (mask0, mask4) = (entry.field(OwnedField::Cr0Mask), entry.field(OwnedField::Cr4Mask));
                assert_eq!(mask0 & 0x8001_0001, 0x8001_0001, "what paging depends on exits");
                assert_eq!(mask4 & 0x72_10b0, 0x72_10b0, "and in CR4");
                assert_eq!(entry.field(OwnedField::Cr0Shadow) & mask0, cr0 & mask0);
                assert_eq!(entry.field(OwnedField::Cr4Shadow) & mask4, cr4 & mask4);
                assert_ne!(entry.exceptions & 1 << ExceptionVector::PF.0, 0);
                let exits = PrimaryControls::CR3_LOAD | PrimaryControls::CR3_STORE | PrimaryControls::INVLPG;
                assert!(entry.primary.contains(exits));
                vmcall(entry);
            });

            assert!(matches!(exit, VmExit::VirtInsn(_)));
            let own = (state.cr0, state.cr3, state.cr4, state.efer);
            assert_eq!(own, (cr0, 0xdead_b000, cr4, efer), "the guest's own");
        }
    }
}

#[test]
fn with_ept_the_processor_walks_the_guests_tables() {
    let world = World::new();
    let _in = world.enter(0);
    let setup = VmxSetup::new(&ivy_bridge(), true).unwrap();
    let mut state = in_mode(0x8000_0011, 0x20, 0xd01);

    enter(setup, &LONG, &mut state, |entry| {
        assert_eq!(entry.field(OwnedField::Cr3), 0xdead_b000);
        assert_eq!(entry.field(GuestField::Efer), 0xd01);
        assert_eq!(entry.field(OwnedField::Cr0) & 0x1_0000, 0, "as the guest has it");
        assert_eq!(entry.exceptions & 1 << ExceptionVector::PF.0, 0);
        assert!(!entry.primary.intersects(PrimaryControls::CR3_LOAD | PrimaryControls::INVLPG));
        entry.set(OwnedField::Cr3, 0xbeef_0000);
        vmcall(entry);
    });

    assert_eq!(state.cr3, 0xbeef_0000, "it loads CR3 by itself");
}

#[test]
fn without_ept_page_faults_and_control_registers_exit() {
    let world = World::new();
    let _in = world.enter(0);
    let exit_of = |report: ExitReport| {
        let mut state = in_mode(0x8001_0011, 0x20, 0xd01);
        enter(without_ept(), &LONG, &mut state, move |entry| entry.report = report)
    };

    let fault = ExitReport {
        qualification: 0xffff_8000_0000_1234,
        interruption: 0x8000_0b0e,
        error: 6,
        ..ExitReport::default()
    };
    let told = LinearFault { gva: Gva(0xffff_8000_0000_1234), error: PfError::WRITE | PfError::USER };
    assert_eq!(exit_of(fault), VmExit::PageFault(told));
    // MOV to CR0 and CR4 as well, which with EPT are tried again.
    for number in [0u8, 3, 4] {
        let report = ExitReport { reason: 28, qualification: number.into(), ..ExitReport::default() };
        assert_eq!(exit_of(report), VmExit::Cr(CrAccess { number, kind: CrKind::Write }));
    }
}

#[test]
fn what_the_guest_changes_by_itself_stays_when_its_tables_are_others() {
    let world = World::new();
    let _in = world.enter(0);
    let mut first = true;
    let vmx = Vmx::new(
        without_ept(),
        Box::new(move |entry| {
            if std::mem::take(&mut first) {
                // CR0.TS and CR4.TSD.
                entry.set(OwnedField::Cr0, entry.field(OwnedField::Cr0) | 8);
                entry.set(OwnedField::Cr4, entry.field(OwnedField::Cr4) | 4);
            } else {
                assert_eq!(entry.field(OwnedField::Cr3), 0xb000);
                assert_eq!((entry.field(OwnedField::Cr0) & 8, entry.field(OwnedField::Cr4) & 4), (8, 4));
            }
            vmcall(entry);
        }),
    );
    let mut vcpu = vmx.new_vcpu().unwrap();
    let mut state = in_mode(0x8001_0011, 0x20, 0xd01);
    vcpu.write_state(StateGroups::all(), &state);
    let cpu = PinnedCpu::pin();
    let mut window = vmx.open(&cpu).unwrap();
    vcpu.enter(&mut window, &TableRoot::linear(LONG, &vmx), &mut state);
    let other = HardwareRoot::Long { root: Hpa(0xb000), levels: 4 };
    vcpu.enter(&mut window, &TableRoot::linear(other, &vmx), &mut state);
    vcpu.read_state(StateGroups::CONTROL, &mut state);

    assert_eq!((state.cr0, state.cr4), (0x8001_0019, 0x24));
    // Software puts them back: what is compared is what the processor has.
    (state.cr0, state.cr4) = (0x8001_0011, 0x20);
    vcpu.write_state(StateGroups::CONTROL, &state);
    let mut read = protected();
    vcpu.read_state(StateGroups::CONTROL, &mut read);
    assert_eq!((read.cr0, read.cr4), (0x8001_0011, 0x20));
    vcpu.leave(&mut window);
}

#[test]
fn real_mode_is_carried_out_in_software_and_unpaged_protected_mode_is_not() {
    let world = World::new();
    let _in = world.enter(0);
    let entries = Arc::new(AtomicU64::new(0));
    let run = |setup: VmxSetup, change: &dyn Fn(&mut VcpuState)| {
        let mut state = protected();
        change(&mut state);
        let count = entries.clone();
        let before = entries.load(SeqCst);
        let exit = enter(setup, &PAE, &mut state, move |entry| {
            count.fetch_add(1, SeqCst);
            vmcall(entry);
        });
        let is_native = entries.load(SeqCst) != before;
        assert_eq!(exit == VmExit::Emulate, !is_native);
        is_native
    };
    let stale = |s: &mut VcpuState| s.segs[SegReg::Cs as usize].selector = 0x1001;

    assert!(run(without_ept(), &|_| {}));
    assert!(!run(without_ept(), &|s| s.cr0 = 0x10), "real mode");
    assert!(!run(without_ept(), &stale), "a selector of real mode's, which no entry takes");
    assert!(run(without_ept(), &|s| s.cr0 = 0x8000_0011));
    // With EPT the processor would walk tables of the guest's.
    let mut msrs = ivy_bridge();
    msrs.secondary &= !(1 << (32 + 7));
    let restricted = VmxSetup::new(&msrs, true).unwrap();
    assert!(!run(restricted, &|_| {}));
    assert!(run(restricted, &|s| s.cr0 = 0x8000_0011));
    assert!(run(VmxSetup::new(&ivy_bridge(), true).unwrap(), &|s| s.cr0 = 0x10));
}

#[test]
fn an_address_that_faulted_is_no_reason_to_write_control_registers_anew() {
    let world = World::new();
    let _in = world.enter(0);
    let mut entries = 0;
    let vmx = Vmx::new(
        without_ept(),
        Box::new(move |entry| {
            entries += 1;
            match entries {
                1 => entry.set(OwnedField::Cr4Shadow, 0x123),
                2 => assert_eq!(entry.field(OwnedField::Cr4Shadow), 0x123, "not written"),
                _ => assert_ne!(entry.field(OwnedField::Cr4Shadow), 0x123, "other bits are"),
            }
            vmcall(entry);
        }),
    );
    let mut vcpu = vmx.new_vcpu().unwrap();
    let mut state = in_mode(0x8001_0011, 0x20, 0xd01);
    vcpu.write_state(StateGroups::all(), &state);
    let cpu = PinnedCpu::pin();
    let mut window = vmx.open(&cpu).unwrap();
    vcpu.enter(&mut window, &TableRoot::linear(LONG, &vmx), &mut state);
    vcpu.read_state(StateGroups::CONTROL, &mut state);
    state.cr2 = 0x1234;
    vcpu.write_state(StateGroups::CONTROL, &state);
    vcpu.enter(&mut window, &TableRoot::linear(LONG, &vmx), &mut state);
    vcpu.read_state(StateGroups::CONTROL, &mut state);
    assert_eq!(state.cr2, 0x1234);
    state.cr4 |= 0x200;
    vcpu.write_state(StateGroups::CONTROL, &state);
    vcpu.enter(&mut window, &TableRoot::linear(LONG, &vmx), &mut state);
    vcpu.leave(&mut window);
}

/// Walks the tables that an entry leads to, as a processor outside IA-32e mode does. Returns the leaf of a small page.
fn walk(world: &World, entry: &VmcsEntry<'_>, at: u64) -> Option<u64> {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    let pointer = entry.pointers?.chunks(8).nth((at >> 30) as usize)?;
    let mut next = u64::from_ne_bytes(pointer.try_into().unwrap());
    for shift in [21, 12] {
        if next & 1 == 0 {
            return None;
        }
        next = world.tables.read(Hpa(next & ADDRESS), (at >> shift & 0x1ff) as usize);
    }
    (next & 1 != 0).then_some(next)
}

#[test]
fn an_unpaged_guest_is_shown_its_memory_as_it_is() {
    const PAGES: u64 = 16;
    let world = World::new();
    let _in = world.enter(0);
    let (seen, mut entries) = (world.clone(), 0);
    let vmx = Vmx::new(
        without_ept(),
        Box::new(move |entry| {
            entries += 1;
            assert!(entries < 20, "the guest does not get on");
            let Some(leaf) = walk(&seen, entry, 0x5000) else {
                let write =
                    ExitReport { qualification: 0x5123, interruption: 0x8000_0b0e, ..ExitReport::default() };
                entry.report = ExitReport { error: 2, ..write };
                return;
            };
            assert_eq!(Some(leaf >> 12 & 0xff_ffff_ffff), seen.process.pfn(RAM + 0x5000));
            assert_eq!(leaf & 2, 2, "it may be written");
            current().set(SIGNAL);
            entry.report = ExitReport { reason: 1, ..ExitReport::default() };
        }),
    );
    let vmx = kernel::sync::Arc::new(vmx, GFP_KERNEL).unwrap();
    let vm = Vm::new(vmx.clone(), crate::fake::settings()).unwrap();
    world.process.map(RAM, PAGES * 4096, true, false);
    let slot = SlotRequest { slot: 0, flags: 0, gpa: Gpa(0), size_bytes: PAGES * 4096, hva: Hva(RAM) };
    vm.space.change_slots(&slot).unwrap();
    let (mailbox, heap) = (VcpuMailbox::new(0).unwrap(), HeapParts::new().unwrap());
    let mut core = VcpuCore::new(vmx.new_vcpu().unwrap(), true, None, CpuidTable::new(), 0, 0, heap);
    core.mp = VcpuActivity::Runnable;
    core.paging = VcpuPaging::new(vm.space.is_shadow()).unwrap();
    flat(&mut core.state);
    assert!(vm.machine.mailboxes.publish(0, mailbox.clone()));
    let record = VcpuRecord::new(0, 42, false).unwrap();

    let ended = run::run(&vm, &mailbox, &record, &mut core, &mut GuestFpu::new().unwrap(), &|| false);

    assert_eq!(ended.map(|_| ()), Err(EINTR));
}
