// SPDX-License-Identifier: GPL-2.0

//! What rvmm shows of a VM in debugfs; skipped on a node that shows nothing there.

use crate::guest::{Guest, HLT};
use crate::harness::{skip, Ctx, Test};
use crate::raw;
use kvm_ioctls::{VcpuExit, VmFd};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::id;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

pub const TESTS: &[Test] = &[
    ("debugfs: a vm has its folder while its fd is open", folder),
    ("debugfs: nobody but root reads there", for_root_only),
    ("debugfs: two vms that die keep a report each", reports),
    ("debugfs: all is read while vms run and go", readers),
];

const ROOT: &str = "/sys/kernel/debug/rvmm";

/// Returns the folder of a VM of this process.
fn folder_of(c: &Ctx, vm: &VmFd) -> PathBuf {
    c.skip_on_kvm("its own folders are others");
    let path = Path::new(ROOT).join(format!("{}-{}", id(), vm.as_raw_fd()));
    if !Path::new(ROOT).exists() {
        skip("no debugfs, or no rvmm in it");
    }
    path
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_else(|e| panic!("{}/{file}: {e}", folder.display()))
}

/// Returns whether the counters of vCPU 0 say so.
fn counts(folder: &Path, counter: &str, at_least: u64) -> bool {
    let line = format!("{}/0 {counter} ", id());
    let text = read(folder, "counters");
    let found = text.lines().find_map(|l| l.strip_prefix(&line)).expect("the counter of vCPU 0");
    found.parse::<u64>().unwrap() >= at_least
}

fn folder(c: &Ctx) {
    // mov eax, 0; cpuid; out 0x10, al; hlt
    let mut g = Guest::with_irqchip(c, &[0x66, 0xb8, 0, 0, 0, 0, 0x0f, 0xa2, 0xe6, 0x10, HLT]);
    let folder = folder_of(c, &g.vm);
    let other = c.vm();
    let others = folder_of(c, &other);
    assert!(counts(&folder, "exits", 0) && !counts(&folder, "cpuid_exits", 1));

    g.out();

    assert!(counts(&folder, "cpuid_exits", 1));
    assert!(read(&folder, "exits").lines().all(|l| l.starts_with(&format!("{}/0 0x", id()))));
    assert_eq!(read(&others, "counters") + &read(&others, "exits"), "", "the other one has no vCPU");
    assert!(read(&folder, "memory").starts_with("slot 0 gpa 0x0 bytes 0x10000 hva 0x"));
    assert_eq!(read(&folder, "vcpus"), "0 outside, asked VcpuRequests(0x0)\n");
    let chips = read(&folder, "chips");
    assert!(chips.starts_with("pic Saved") && chips.contains("\nioapic Saved"), "{chips}");
    assert_eq!(read(&folder, "devices") + &read(&folder, "report"), "");

    let Guest { vcpu, vm, memory: _memory } = g;
    drop(vm);
    assert!(!folder.exists(), "the vCPU's fd keeps it");
    drop(vcpu);
    assert!(others.exists());
}

fn for_root_only(c: &Ctx) {
    let vm = c.vm();
    let folder = fs::File::open(folder_of(c, &vm)).unwrap();
    let above = fs::File::open("/sys/kernel").unwrap();

    for file in [c"memory", c"chips", c"report"] {
        raw::open_in(&folder, file, true).unwrap();
        assert_eq!(raw::open_in(&folder, file, false).map(drop), Err(libc::EACCES), "{file:?} itself");
    }
    assert_eq!(raw::open_in(&above, c"debug/rvmm", false).map(drop), Err(libc::EACCES), "the way to it");
}

fn reports(c: &Ctx) {
    let mut refused = Guest::new(c, &[HLT]);
    let first = folder_of(c, &refused.vm);
    let mut dead = Guest::new(c, &[0x0f, 0x0b]);
    let second = folder_of(c, &dead.vm);
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

    let (first, second) = (read(&first, "report"), read(&second, "report"));
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
    folder_of(c, &c.vm());
    let read_all = || {
        let (mut read, mut gone) = (0u64, 0u64);
        while !is_over.load(SeqCst) {
            for vm in fs::read_dir(ROOT).unwrap().flatten() {
                let Ok(files) = fs::read_dir(vm.path()) else { continue };
                for file in files.flatten() {
                    match fs::read(file.path()) {
                        Ok(_) => read += 1,
                        Err(e) if e.kind() == ErrorKind::NotFound => gone += 1,
                        // The file went between its opening and the read.
                        Err(e) if e.raw_os_error() == Some(libc::EIO) => gone += 1,
                        Err(e) => panic!("{}: {e}", file.path().display()),
                    }
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
