// SPDX-License-Identifier: GPL-2.0

//! What a VM's fd shows, while it runs and while it dies.

use super::world;
use crate::abi::rvmm;
use crate::arch::addr::AccessWidth::B2;
use crate::fake::abi::{AbiVcpu, AbiVm};
use crate::fake::backend::Stop;
use crate::fake::direct::RAM;
use crate::fake::steps::{Ran, Steps};
use crate::fake::virtio::{Device, Ring};
use crate::vcpu::exit::{RawExit, VmExit};

/// What there is, in order.
const SECTIONS: [&str; 7] = ["vcpus", "memory", "chips", "devices", "counters", "exits", "report"];

/// Returns the lines under a heading.
fn read(vm: &AbiVm, name: &str) -> String {
    let all = vm.world.fdinfo(vm.fd).unwrap();
    let is_heading = |l: &str| l.strip_suffix(':').is_some_and(|name| SECTIONS.contains(&name));
    let headings: Vec<&str> = all.lines().filter(|l| is_heading(l)).collect();
    assert_eq!(headings, SECTIONS.map(|name| format!("{name}:")));
    let below = all.lines().skip_while(|l| *l != format!("{name}:")).skip(1);
    below.take_while(|l| !is_heading(l)).flat_map(|l| [l, "\n"]).collect()
}

/// Has the vCPU exit once, for what the VMM is told of. Returns the exit reason.
fn die(cpu: &mut AbiVcpu, stop: fn() -> Stop) -> u32 {
    cpu.guest.run(move |_| stop());
    match cpu.run() {
        Ran::User((reason, _)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_vm_shows_its_own_vcpus() {
    let (world, _in) = world();
    let one = AbiVm::new(&world, 16);
    let two = one.another(16);
    let (mut first, _second) = (one.vcpu(0), two.vcpu(3));

    first.cpuid(0, 0);

    let pid = kernel::task::current().process.pid;
    assert!(read(&one, "counters").contains(&format!("{pid}/0 cpuid_exits 1\n")));
    assert!(read(&two, "counters").contains(&format!("{pid}/3 cpuid_exits 0\n")));
    assert!(!read(&two, "counters").contains(&format!("{pid}/0 ")));
    assert_eq!(read(&two, "exits"), "");
    assert!(!read(&one, "exits").is_empty());
    assert_eq!(read(&two, "vcpus"), "3 outside, asked VcpuRequests(0x0)\n");
}

#[test]
fn slots_chips_and_queues_are_shown_as_they_are() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 64);
    vm.device(rvmm::DEV_VIRTIO_RNG, &rvmm::VirtioRngConfig { slot: 3, flags: 0 }).unwrap();
    let mut cpu = vm.vcpu(0);
    assert_eq!(read(&vm, "devices"), "3 virtio-rng status 0x0 features 0x0 in flight 0\n");

    let device = Device::start(&mut cpu, 3, 1, 0x41, 1 << 32);
    let mut ring = Ring::new(&vm.world.process, RAM, 0);
    ring.add(&[(0x2_0000, 64, true)]);
    cpu.store(device.notify(0), B2, 0);

    let devices = read(&vm, "devices");
    let expected = "3 virtio-rng status 0xf features 0x100000000 in flight 0\n  \
        queue 0 size 16 next 1 used 1 in flight 0 at 0x10000 0x10400 0x10800\n";
    assert_eq!(devices, expected);
    let memory = read(&vm, "memory");
    assert!(memory.starts_with(&format!("slot 0 gpa 0x0 bytes 0x40000 hva {RAM:#x}\nchanges ")), "{memory}");
    let chips = read(&vm, "chips");
    let names: Vec<&str> = chips.lines().filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(names, ["pic", "ioapic", "pit", "rtc", "uart", "i8042", "pm"]);
}

#[test]
fn each_vm_keeps_the_report_of_its_own_end() {
    let (world, _in) = world();
    let one = AbiVm::new(&world, 16);
    let two = one.another(16);
    let (mut first, mut second) = (one.vcpu(0), two.vcpu(1));
    assert_eq!((read(&one, "report"), read(&two, "report")), (String::new(), String::new()));

    first.cpuid(0, 0);
    assert_eq!(die(&mut first, Stop::refused), 9, "failed entry");
    assert_eq!(die(&mut second, || Stop::plain(VmExit::TripleFault)), 8, "shutdown");

    let (refused, shutdown) = (read(&one, "report"), read(&two, "report"));
    let cause = "vcpu 0 stopped: the processor does not enter a guest in this state\nexit Bug(EntryFailed(";
    assert!(refused.starts_with(cause), "{refused}");
    assert!(refused.contains("Regs { rax: ") && refused.contains("Sregs { cs: "), "{refused}");
    assert!(shutdown.starts_with("vcpu 1 stopped: triple fault\nexit Shutdown\n"), "{shutdown}");
    assert_eq!(shutdown.lines().count(), 5, "one exit led to it: {shutdown}");

    let raw = RawExit { reason: 0x77, info1: 1, info2: 2 };
    assert_eq!(
        die(&mut second, || Stop::plain(VmExit::Unknown(RawExit { reason: 0x77, info1: 1, info2: 2 }))),
        17
    );

    assert_eq!(read(&one, "report"), refused);
    assert!(read(&two, "report").contains(&format!("UnknownExit({raw:x?})")));
}

/// How many lines the log has got since the last time.
fn lines() -> usize {
    kernel::print::take_log().len()
}

#[test]
fn who_makes_vcpus_die_again_and_again_does_not_fill_the_log() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut cpu = vm.vcpu(0);
    let mut die_often = |times| {
        for _ in 0..times {
            assert_eq!(die(&mut cpu, Stop::refused), 9);
        }
        lines()
    };
    lines();

    assert_eq!(die_often(300), 1, "one of a VM");
    world.run_to_tsc(world.tsc() + 6_000_000 * crate::host::world::TICKS_PER_US);
    assert_eq!(die_often(300), 1, "and one more after a while");

    let mut others: Vec<AbiVcpu> = (0..30).map(|_| vm.another(16).vcpu(0)).collect();
    for cpu in &mut others {
        die(cpu, Stop::refused);
    }
    assert_eq!(lines(), 9, "of any number of them ten");
}
