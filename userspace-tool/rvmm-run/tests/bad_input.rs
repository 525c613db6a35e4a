// SPDX-License-Identifier: GPL-2.0

//! Bad input, end to end: the built tool ends with exit code 1, says what and what to do, and writes nothing.

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{bzimage, elf, elf32, put, Segment, TempDir};
use rvmm_run::config::disk::DiskSpec;
use rvmm_run::devices::disk::open;

/// Runs the tool with a node that does not exist, unless the arguments name another.
fn tool(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rvmm-run"));
    if !args.contains(&"--device") {
        command.args(["--device", "/dev/rvmm-test-none"]);
    }
    command.args(args).stdin(Stdio::null()).output().expect("the tool starts")
}

/// Checks exit code 1 and that every word is in the message.
fn refused(args: &[&str], words: &[&str]) {
    let output = tool(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: '{word}' is missing in: {text}");
    }
    assert!(output.stdout.is_empty(), "{args:?}");
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

#[test]
fn kernels_that_cannot_be_started() {
    let dir = TempDir::new();
    let good = bzimage(&[0x90; 4096]);
    let elf64 = elf(0x100_0000, &[Segment::load(0x100_0000, &[0xf4; 64])]);
    let mut elf32 = elf64.clone();
    put(&mut elf32, 4, &[1]);
    let overlap =
        elf(0x100_0000, &[Segment::load(0x100_0000, &[0; 64]), Segment::load(0x100_0020, &[0; 64])]);
    let mut huge = Segment::load(0x100_0000, &[0; 64]);
    huge.mem_len = 1 << 40;

    refused(&["/nonexistent/vmlinuz"], &["/nonexistent/vmlinuz", "No such file", "check the path"]);
    refused(&[name(dir.path())], &["is a directory", "give a file"]);
    refused(&[name(&dir.file("text", b"hello"))], &["neither a bzImage nor an ELF", "give the vmlinuz"]);
    refused(&[name(&dir.file("elf32", &elf32))], &["32-bit ELF", "x86-64"]);
    refused(&[name(&dir.file("cut", &good[..2000]))], &["truncated", "copy or fetch it again"]);
    refused(&[name(&dir.file("cut-elf", &elf64[..150]))], &["truncated"]);
    refused(&[name(&dir.file("overlap", &overlap))], &["segments 0 and 1 overlap"]);
    refused(&[name(&dir.file("huge", &elf(0x100_0000, &[huge])))], &["needs memory up to", "--memory"]);
    refused(&[], &["KERNEL"]);
}

#[test]
fn kernels_of_other_protocols_and_what_they_do_not_take() {
    let dir = TempDir::new();
    let linux = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let linux = name(&linux);
    let openbsd = elf(0x100_0000, &[Segment::load(0x100_0000, &[0xf4; 64]), Segment::random(0x100_0000, 8)]);
    let openbsd = dir.file("bsd", &openbsd);
    let openbsd = name(&openbsd);
    let header = |flags: u32| {
        [0x1bad_b002, flags, 0x1bad_b002u32.wrapping_add(flags).wrapping_neg()].map(u32::to_le_bytes).concat()
    };
    let multiboot =
        |flags| elf32(0x10_0000, &[Segment::load(0x10_0000, &[header(flags), vec![0xf4; 64]].concat())]);
    let good = dir.file("multiboot", &multiboot(3));
    let good = name(&good);
    let text = dir.file("text", b"hello");
    let large = dir.file("large", &vec![1; 17 << 20]);

    refused(&[name(&dir.file("flags", &multiboot(0x103)))], &["multiboot header requires", "flags 0x100"]);
    refused(&[name(&dir.file("gz", b"\x1f\x8b\x08\0half"))], &["gzip's data", "copy or fetch it again"]);
    refused(&["--module", "/nonexistent/m", good], &["module '/nonexistent/m'", "check the path"]);
    refused(&["--module", name(&large), "-m", "16M", good], &["module '", "room for", "--memory"]);
    refused(&["--module", name(&text), linux], &["only kernels of multiboot and PVH", "--initrd"]);
    refused(&["--root", "hd0", openbsd], &["'hd0' is no root device", "sd0a"]);
    refused(&["--root", "sd0a", linux], &["only kernels of OpenBSD", "--append"]);
    refused(&["--initrd", name(&text), openbsd], &["takes no initrd", "leave --initrd out"]);
    refused(&["--append", "-x", openbsd], &["'-x' is no option", "-s is single user"]);
}

#[test]
fn unreadable_kernel() {
    if is_root() {
        eprintln!("SKIP: root reads every file");
        return;
    }
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    std::fs::set_permissions(&kernel, Permissions::from_mode(0o000)).unwrap();

    refused(&[name(&kernel)], &["Permission denied", "check its mode"]);
}

#[test]
fn disks_that_cannot_be_used() {
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let kernel = name(&kernel);
    let odd = dir.file("odd", &[0; 700]);
    let disk = dir.file("disk", &[0; 1024]);
    let held = open(&DiskSpec::plain(disk.clone())).unwrap();

    refused(&[kernel, "/nonexistent/disk"], &["disk '/nonexistent/disk'", "check the path"]);
    refused(&[kernel, name(&odd)], &["700 bytes", "multiple of 512", "truncate -s %512"]);
    refused(&[kernel, name(&disk)], &["in use by another VM", "stop that VM"]);
    drop(held);
    refused(&[kernel, name(&disk), name(&disk)], &["has it twice", ",ro"]);
    refused(&[kernel, "--disk", "x,bogus"], &["'bogus' is no option", "path[,ro][,serial=TEXT]"]);
    if is_root() {
        eprintln!("SKIP of the disk that is not writable: root writes every file");
        return;
    }
    std::fs::set_permissions(&disk, Permissions::from_mode(0o444)).unwrap();
    refused(&[kernel, name(&disk)], &["not writable", ",ro"]);
}

#[test]
fn memory_and_processors_out_of_range() {
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let kernel = name(&kernel);

    refused(&["-m", "0", kernel], &["too small", "at least 16 MiB"]);
    refused(&["-m", "100T", kernel], &["more than the host has", "ask for less"]);
    refused(&["-m", "many", kernel], &["not a size", "512M"]);
    refused(&["-c", "0", kernel], &["--cpus"]);
}

#[test]
fn initrd_and_command_line() {
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let kernel = name(&kernel);
    let long = "x".repeat(3000);

    refused(
        &["--initrd", "/nonexistent/initrd", kernel],
        &["initrd '/nonexistent/initrd'", "check the path"],
    );
    refused(&["--initrd", name(&dir.file("empty", b"")), kernel], &["empty", "--initrd"]);
    refused(&["--append", &long, kernel], &["command line", "3000 bytes", "shorten"]);
}

#[test]
fn node_that_is_missing_or_something_else() {
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let kernel = name(&kernel);

    refused(&[kernel], &["/dev/rvmm-test-none", "insmod rvmm.ko"]);
    refused(&["--device", "/dev/null", kernel], &["/dev/null", "--device"]);
    if is_root() {
        eprintln!("SKIP of the node without permission: root opens every node");
        return;
    }
    let node = dir.file("node", b"");
    std::fs::set_permissions(&node, Permissions::from_mode(0o000)).unwrap();
    refused(&["--device", name(&node), kernel], &["Permission denied", "run as root"]);
}

#[test]
fn console_file_is_not_touched_when_something_else_is_wrong() {
    let dir = TempDir::new();
    let kernel = dir.file("vmlinuz", &bzimage(&[0x90; 4096]));
    let out = dir.file("out", b"precious");

    refused(&["--console", &format!("file:{}", name(&out)), name(&kernel)], &["insmod"]);
    refused(&["--console", "tty", name(&kernel)], &["pty, stdio, file:PATH or none"]);

    assert_eq!(std::fs::read(out).unwrap(), b"precious");
}

#[test]
fn check_says_what_is_missing() {
    let output = tool(&["--check"]);

    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("LACKS") && text.contains("insmod rvmm.ko"), "{text}");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let output = tool(&["--help"]);

    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for word in ["Examples:", "Exit codes:", "--console", "Ctrl-a x", "--disk"] {
        assert!(text.contains(word), "'{word}' is missing");
    }
}

#[test]
fn output_that_nobody_takes_is_no_panic() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (reader, closed) = nix::unistd::pipe().unwrap();
    drop(reader);
    let check = |out: Stdio, err: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rvmm-run"));
        command.args(["--check", "--device", "/nonexistent"]).stdout(out).stderr(err).status().unwrap().code()
    };

    assert_eq!(check(closed.into(), full().into()), Some(1), "the node is missing");
    assert_eq!(check(full().into(), Stdio::null()), Some(2), "the findings cannot be told");
}
