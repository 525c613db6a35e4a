// SPDX-License-Identifier: GPL-2.0

//! Disks: options, checks and locks.

mod common;

use common::TempDir;
use rvmm_run::config::disk::DiskSpec;
use rvmm_run::devices::device::{BlkConfig, Device, PciConfig, RtcConfig};
use rvmm_run::devices::disk::{open, DiskError};

fn spec(text: &str) -> DiskSpec {
    text.parse().unwrap()
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
    assert!(matches!(open(&DiskSpec::plain(qcow)), Err(DiskError::NotRaw("qcow2"))));
    assert!(matches!(open(&DiskSpec::plain(dir.path().into())), Err(DiskError::NotADisk)));
    assert!(matches!(open(&DiskSpec::plain("/dev/null".into())), Err(DiskError::NotADisk)));
    assert!(matches!(open(&DiskSpec::plain(dir.path().join("none"))), Err(DiskError::Open(_))));
    assert_eq!(std::fs::read(odd).unwrap(), [1; 1000]);
}

#[test]
fn device_configurations_have_the_layout_of_the_module() {
    let blk = BlkConfig {
        fd: 7,
        read_only: true,
        packed: true,
        serial: "AB".into(),
        slot: 3,
        queue_size: 128,
        queues: 2,
    };

    let bytes = Device::Blk(blk).config();

    assert_eq!(bytes.len(), 40);
    assert_eq!(bytes[..8], [7, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(bytes[8..11], [b'A', b'B', 0]);
    assert_eq!(bytes[28..], [3, 0, 0, 0, 128, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(Device::Uart { index: 0, waits: true }.config(), [0, 0, 0, 0, 1, 0, 0, 0]);
    let rtc = RtcConfig { below_4g: 1, above_4g: 2, utc_offset: -1 };
    assert_eq!(Device::Rtc(rtc).config().len(), 24);
    assert_eq!(Device::PciHost(PciConfig { mmio_base: 1, mmio_size: 2 }).config().len(), 16);
    assert_eq!(Device::Keyboard.config().len(), 4);
    assert_eq!(Device::PowerManagement.config().len(), 4);
    assert_eq!(Device::Rng { slot: 1 }.config().len(), 8);
    let console = Device::Console { slot: 2, packed: true, waits: false, size: (80, 25) };
    assert_eq!(console.config(), [2, 0, 0, 0, 1, 0, 0, 0, 80, 0, 25, 0, 0, 0, 0, 0]);
}
