// SPDX-License-Identifier: GPL-2.0

//! What the fd of a VM of rvmm shows in /proc/PID/fdinfo, and what a vCPU tells of its last exits.

use crate::abi::rvmm;
use crate::guest::{Guest, HLT};
use crate::harness::{Ctx, Test};
use crate::raw::ioctl_with;
use kvm_ioctls::{VcpuExit, VmFd};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::process::id;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use zerocopy::FromZeros;

pub const TESTS: &[Test] = &[
    ("fdinfo: a vm's fd shows what the vm is like", state),
    ("fdinfo: two vms that die keep a report each", reports),
    ("fdinfo: all is read while vms run and go", readers),
    ("exits: a vcpu tells its last ones, the newest at the end", last_exits),
];

/// Returns where a VM of this process is shown.
fn info_of(c: &Ctx, vm: &VmFd) -> String {
    c.skip_on_kvm("its fds show nothing");
    format!("/proc/{}/fdinfo/{}", id(), vm.as_raw_fd())
}

/// Returns the lines under a heading.
fn section(info: &str, name: &str) -> String {
    let all = fs::read_to_string(info).unwrap_or_else(|e| panic!("{info}: {e}"));
    let heading = format!("\n{name}:\n");
    let (_, below) = all.split_once(&heading).unwrap_or_else(|| panic!("{info} has no {name}: {all}"));
    let is_heading = |l: &&str| !l.starts_with(' ') && l.ends_with(':');
    below.lines().take_while(|l| !is_heading(l)).flat_map(|l| [l, "\n"]).collect()
}

/// Returns whether the counters of vCPU 0 say so.
fn counts(info: &str, counter: &str, at_least: u64) -> bool {
    let line = format!("{}/0 {counter} ", id());
    let text = section(info, "counters");
    let found = text.lines().find_map(|l| l.strip_prefix(&line)).expect("the counter of vCPU 0");
    found.parse::<u64>().unwrap() >= at_least
}

fn state(c: &Ctx) {
    // mov eax, 0; cpuid; out 0x10, al; hlt
    let mut g = Guest::with_irqchip(c, &[0x66, 0xb8, 0, 0, 0, 0, 0x0f, 0xa2, 0xe6, 0x10, HLT]);
    let info = info_of(c, &g.vm);
    let other = c.vm();
    let others = info_of(c, &other);
    assert!(counts(&info, "exits", 0) && !counts(&info, "cpuid_exits", 1));

    g.out();

    assert!(counts(&info, "cpuid_exits", 1));
    assert!(section(&info, "exits").lines().all(|l| l.starts_with(&format!("{}/0 0x", id()))));
    assert_eq!(section(&others, "counters") + &section(&others, "exits"), "", "the other one has no vCPU");
    assert!(section(&info, "memory").starts_with("slot 0 gpa 0x0 bytes 0x10000 hva 0x"));
    assert_eq!(section(&info, "vcpus"), "0 outside, asked VcpuRequests(0x0)\n");
    let chips = section(&info, "chips");
    assert!(chips.starts_with("pic Saved") && chips.contains("\nioapic Saved"), "{chips}");
    assert_eq!(section(&info, "devices") + &section(&info, "report"), "");
}

fn reports(c: &Ctx) {
    let mut refused = Guest::new(c, &[HLT]);
    let first = info_of(c, &refused.vm);
    let mut dead = Guest::new(c, &[0x0f, 0x0b]);
    let second = info_of(c, &dead.vm);
    refused.enter_long_mode();
    let mut bad = refused.vcpu.get_sregs().unwrap();
    (bad.cs.l, bad.cs.db) = (1, 1);
    refused.vcpu.set_sregs(&bad).unwrap();
    // An empty IDT: the invalid opcode ends in a triple fault.
    let mut s = dead.vcpu.get_sregs().unwrap();
    s.idt.limit = 0;
    dead.vcpu.set_sregs(&s).unwrap();

    assert!(matches!(refused.exit(), VcpuExit::FailEntry(..)));
    assert!(matches!(dead.exit(), VcpuExit::Shutdown));

    let (first, second) = (section(&first, "report"), section(&second, "report"));
    assert!(
        first.starts_with("vcpu 0 stopped: the processor does not enter a guest in this state\n"),
        "{first}"
    );
    if fs::read_to_string("/proc/cpuinfo").unwrap().contains(" vmx ") {
        assert!(first.contains("\nrule 64-bit CS must have D/B clear\n"), "{first}");
    }
    assert!(second.starts_with("vcpu 0 stopped: triple fault\nexit Shutdown\nRegs {"), "{second}");
    assert!(second.lines().last().unwrap().starts_with("0x"), "the exits that led to it: {second}");
}

fn readers(c: &Ctx) {
    let is_over = AtomicBool::new(false);
    info_of(c, &c.vm());
    let read_all = || {
        let (mut read, mut gone) = (0u64, 0u64);
        while !is_over.load(SeqCst) {
            for fd in fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
                match fs::read_to_string(fd.path()) {
                    Ok(text) => read += u64::from(text.contains("\nvcpus:\n")),
                    Err(e) if e.kind() == ErrorKind::NotFound => gone += 1,
                    Err(e) => panic!("{}: {e}", fd.path().display()),
                }
            }
        }
        (read, gone)
    };

    let (read, gone) = thread::scope(|scope| {
        let reader = scope.spawn(read_all);
        for _ in 0..40 {
            let mut g = Guest::with_irqchip(c, &[0x0f, 0xa2, 0xe6, 0x10]);
            g.out();
            drop(g);
        }
        is_over.store(true, SeqCst);
        reader.join().unwrap()
    });

    println!("# {read} files were read, {gone} had gone");
    assert!(read > 0, "nothing was read");
}

fn last_exits(c: &Ctx) {
    c.skip_on_kvm("it has no such ioctl");
    // again: out 0x10, al; jmp again
    let mut g = Guest::new(c, &[0xe6, 0x10, 0xeb, 0xfc]);
    g.enter_long_mode();
    let mut last = rvmm::LastExits::new_zeroed();
    let mut told = |g: &Guest| {
        ioctl_with(&g.vcpu, rvmm::GET_EXITS, &mut last).unwrap();
        last.records[..last.header.count as usize].iter().map(|e| (e.rip, e.reason)).collect::<Vec<_>>()
    };
    assert_eq!(told(&g), [], "it has not run");

    g.out();
    let first = told(&g);
    let port_access = *first.last().expect("an exit");
    assert_eq!(port_access.0, 0x1000);

    for _ in 0..rvmm::MAX_EXITS + 3 {
        g.out();
    }
    // Interrupts of the host's may be among them.
    let exits = told(&g);
    assert_eq!((exits.len(), exits.last()), (rvmm::MAX_EXITS, Some(&port_access)));
    assert!(exits.iter().filter(|e| **e == port_access).count() > rvmm::MAX_EXITS / 2);
}
