// SPDX-License-Identifier: GPL-2.0

//! Disks: options, checks and locks.

mod common;

use std::fs::{File, OpenOptions};

use common::TempDir;
use nix::fcntl::{fcntl, FcntlArg};
use nix::libc;
use rvmm_run::config::disk::{DiskSpec, OnDiskError};
use rvmm_run::devices::disk::error::DiskError;
use rvmm_run::devices::disk::{open, open_all};

fn spec(text: &str) -> DiskSpec {
    text.parse().unwrap()
}

#[test]
fn the_user_says_what_comes_of_an_error() {
    assert_eq!(spec("x").on_error, OnDiskError::Report);
    assert_eq!(spec("x,on-error=report").on_error, OnDiskError::Report);
    assert_eq!(spec("x,ro,on-error=stop").on_error, OnDiskError::Stop);
    assert!("x,on-error=ignore".parse::<DiskSpec>().unwrap_err().contains("report or stop"));
}

#[test]
fn options_are_parsed() {
    let disk = spec("/a/b.img,ro,serial=DATA-1");

    assert_eq!(
        (disk.path.to_str(), disk.read_only, disk.serial.as_str()),
        (Some("/a/b.img"), true, "DATA-1")
    );
    assert!(!spec("x").read_only);
    assert!(spec("x,packed=on").packed && !spec("x,packed=off").packed && !spec("x").packed);
    assert_eq!((spec("x,queues=3").queues, spec("x").queues), (Some(3), None));
    for bad in [
        "",
        ",ro",
        "x,rw",
        "x,serial=",
        "x,serial=123456789012345678901",
        "x,serial=a b",
        "x,ro=1",
        "x,packed",
        "x,packed=1",
        "x,queues=0",
        "x,queues=17",
        "x,queues=",
    ] {
        assert!(bad.parse::<DiskSpec>().is_err(), "{bad}");
    }
}

#[test]
fn writable_disk_is_for_one_vm_alone() {
    let dir = TempDir::new();
    let path = dir.file("disk", &[0; 1024]);
    let writer = DiskSpec::plain(path.clone());
    let reader = DiskSpec { read_only: true, ..writer.clone() };

    let first = open(&writer).unwrap();

    assert_eq!(first.size, 1024);
    assert!(matches!(open(&writer), Err(DiskError::Locked { for_writing: true })));
    assert!(matches!(open(&reader), Err(DiskError::Locked { for_writing: false })));
    drop(first);
    let _one = open(&reader).unwrap();
    let _two = open(&reader).unwrap();
    assert!(matches!(open(&writer), Err(DiskError::Locked { for_writing: true })));
}

#[test]
fn bad_disks_are_told_apart_and_left_alone() {
    let dir = TempDir::new();
    let odd = dir.file("odd", &[1; 1000]);
    let qcow = dir.file("qcow", &[&b"QFI\xfb"[..], &[0; 508]].concat());

    assert!(matches!(open(&DiskSpec::plain(odd.clone())), Err(DiskError::OddSize(1000))));
    assert!(matches!(open(&DiskSpec::plain(dir.file("empty", b""))), Err(DiskError::Empty)));
    assert!(matches!(open(&DiskSpec::plain(qcow)), Err(DiskError::NotRaw(f)) if f.name == "qcow2"));
    assert!(matches!(open(&DiskSpec::plain(dir.path().into())), Err(DiskError::NotADisk)));
    assert!(matches!(open(&DiskSpec::plain("/dev/null".into())), Err(DiskError::NotADisk)));
    assert!(matches!(open(&DiskSpec::plain(dir.path().join("none"))), Err(DiskError::Open(_))));
    assert_eq!(std::fs::read(odd).unwrap(), [1; 1000]);
}

/// A file of `len` bytes with `magic` at `at`, from the end if negative.
fn image(len: usize, at: isize, magic: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let at = if at < 0 { len - at.unsigned_abs() } else { at as usize };
    bytes[at..at + magic.len()].copy_from_slice(magic);
    bytes
}

#[test]
fn containers_and_compressed_images_are_refused_by_name() {
    let dir = TempDir::new();
    let cases: [(&str, &str, isize, &[u8]); 12] = [
        ("VDI", "qemu-img convert -f vdi", 0x40, &[0x7f, 0x10, 0xda, 0xbe]),
        ("VMDK", "-f vmdk", 0, b"KDMV"),
        ("VMDK", "-f vmdk", 0, b"# Disk DescriptorFile\n"),
        ("VHD (fixed)", "-f vpc", -512, b"conectix"),
        ("VHD (dynamic)", "-f vpc", 0, b"conectix"),
        ("Apple", "-f dmg", -512, b"koly"),
        ("gzip", "gzip -dc", 0, &[0x1f, 0x8b, 8, 0]),
        ("xz", "xz -dc", 0, &[0xfd, b'7', b'z', b'X', b'Z', 0]),
        ("zstd", "zstd -dc", 0, &[0x28, 0xb5, 0x2f, 0xfd]),
        ("zip", "unzip", 0, b"PK\x03\x04"),
        ("tar", "tar xf", 257, b"ustar"),
        ("Parallels", "-f parallels", 0, b"WithoutFreeSpace"),
    ];
    for (n, (name, cure, at, magic)) in cases.into_iter().enumerate() {
        // Of any size, which is not what is wrong with them.
        let path = dir.file(&format!("image{n}"), &image(1000 + n, at, magic));

        let error = open(&DiskSpec::plain(path)).unwrap_err().to_string();

        assert!(error.contains(name) && error.contains(cure) && error.contains("format=raw"), "{error}");
    }
}

#[test]
fn raw_disks_raise_no_false_alarm() {
    let dir = TempDir::new();
    let cases: [(isize, &[u8]); 6] = [
        (510, &[0x55, 0xaa]),
        (512, b"EFI PART"),
        (0, b"LUKS\xba\xbe"),
        (0x438, &[0x53, 0xef]),
        (0x8001, b"CD001"),
        (3, b"NTFS    "),
    ];
    for (n, (at, magic)) in cases.into_iter().enumerate() {
        open(&DiskSpec::plain(dir.file(&format!("disk{n}"), &image(65536, at, magic)))).unwrap();
    }
    let looks_like = dir.file("looks-like", &image(1024, 0, b"QFI\xfb"));
    let raw = DiskSpec { is_raw: true, ..DiskSpec::plain(looks_like) };
    assert_eq!(open(&raw).unwrap().size, 1024);
    assert!("x,format=raw".parse::<DiskSpec>().unwrap().is_raw);
    assert!("x,format=qcow2".parse::<DiskSpec>().unwrap_err().contains("qemu-img convert"));
}

#[test]
fn comma_in_a_path_is_written_twice() {
    let disk = spec("/a,,b,,,ro");

    assert_eq!((disk.path.to_str(), disk.read_only), (Some("/a,b,"), true));
    assert_eq!(spec("/a,,ro").path.to_str(), Some("/a,ro"));
}

fn byte_lock(kind: i32, byte: i64) -> libc::flock {
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: byte, l_len: 1, l_pid: 0 }
}

/// What QEMU does with an image: a lock of one byte each for what it does and for what it forbids others.
fn lock_bytes(path: &std::path::Path, bytes: &[i64]) -> File {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    for byte in bytes {
        fcntl(&file, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_RDLCK, *byte))).unwrap();
    }
    file
}

#[test]
fn a_disk_that_is_given_twice_is_told_from_one_of_another_guest() {
    let dir = TempDir::new();
    let writer = DiskSpec::plain(dir.file("disk", &[0; 1024]));
    let reader = DiskSpec { read_only: true, ..writer.clone() };

    let (path, error) = open_all(&[writer.clone(), writer.clone()]).unwrap_err();
    assert!(matches!(error, DiskError::Twice), "{error}");
    assert_eq!(path, writer.path);
    assert!(matches!(open_all(&[reader.clone(), writer.clone()]), Err((_, DiskError::Twice))));
    assert_eq!(open_all(&[reader.clone(), reader]).unwrap().len(), 2);
    let held = open(&writer).unwrap();
    assert!(matches!(open_all(&[writer]), Err((_, DiskError::Locked { .. }))));
    drop(held);
}

#[test]
fn disk_that_qemu_uses_is_in_use() {
    let dir = TempDir::new();
    let path = dir.file("disk", &[0; 1024]);
    let writer = DiskSpec::plain(path.clone());
    let reader = DiskSpec { read_only: true, ..writer.clone() };

    let writes = lock_bytes(&path, &[100, 101, 201, 203]);
    assert!(matches!(open(&writer), Err(DiskError::Locked { for_writing: true })));
    assert!(matches!(open(&reader), Err(DiskError::Locked { for_writing: false })));
    drop(writes);
    let reads = lock_bytes(&path, &[100, 201, 203]);
    assert!(matches!(open(&writer), Err(DiskError::Locked { for_writing: true })));
    assert!(open(&reader).is_ok());
    drop(reads);

    // And QEMU sees ours.
    let _ours = open(&writer).unwrap();
    let theirs = OpenOptions::new().read(true).open(&path).unwrap();
    for byte in [100, 101, 201] {
        let mut lock = byte_lock(libc::F_WRLCK, byte);
        fcntl(&theirs, FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
        assert_ne!(i32::from(lock.l_type), libc::F_UNLCK, "byte {byte}");
    }
}
