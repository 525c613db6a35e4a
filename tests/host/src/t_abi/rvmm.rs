// SPDX-License-Identifier: GPL-2.0

//! What rvmm adds, byte by byte as docs/abi.md tells it to whoever writes a VMM in another language.

use crate::abi::rvmm::*;
use zerocopy::{FromBytes, IntoBytes};

/// The bytes 1, 2, 3…, so that each field has a value of its own.
fn count<const N: usize>() -> [u8; N] {
    core::array::from_fn(|i| i as u8 + 1)
}

#[test]
fn the_types_of_devices_are_numbered_as_documented() {
    let isa = [DEV_UART, DEV_RTC, DEV_I8042, DEV_PCI_HOST, DEV_ACPI_PM];
    let virtio = [DEV_VIRTIO_BLK, DEV_VIRTIO_RNG, DEV_VIRTIO_NET, DEV_VIRTIO_CONSOLE];

    assert_eq!(isa, [0x7276_0000, 0x7276_0001, 0x7276_0002, 0x7276_0003, 0x7276_0004]);
    assert_eq!(virtio, [0x7276_0010, 0x7276_0011, 0x7276_0012, 0x7276_0013]);
    assert_eq!((GROUP_CONFIG, GROUP_COMMAND, GROUP_COUNTERS), (0, 1, 2));
    assert_eq!((DEV_RUN, GET_EXITS), (0xaef0, 0x8808_aef1));
}

#[test]
fn a_disk_is_forty_bytes() {
    let disk = VirtioBlkConfig::read_from_bytes(&count::<40>()).unwrap();

    assert_eq!((disk.fd, disk.flags), (0x0403_0201, 0x0807_0605));
    assert_eq!(disk.serial[..2], [9, 10]);
    assert_eq!((disk.slot, disk.queue_size), (0x201f_1e1d, 0x2423_2221));
    assert_eq!((disk.queues, disk.pad), (0x2625, 0x2827));
    assert_eq!((BLK_READ_ONLY, BLK_PACKED), (1, 2));
}

#[test]
fn a_network_card_is_fiftysix_bytes() {
    let card = VirtioNetConfig::read_from_bytes(&count::<56>()).unwrap();

    assert_eq!((card.fds[0], card.fds[7]), (0x0403_0201, 0x201f_1e1d));
    assert_eq!((card.flags, card.slot), (0x2423_2221, 0x2827_2625));
    assert_eq!((card.pairs, card.mtu), (0x2a29, 0x2c2b));
    assert_eq!(card.mac, [0x2d, 0x2e, 0x2f, 0x30, 0x31, 0x32]);
    assert_eq!((NET_OFFLOADS, NET_UDP_OFFLOADS, NET_STREAM, NET_PACKED), (1, 2, 4, 8));
}

#[test]
fn the_other_devices_lie_as_documented() {
    let uart = UartConfig { index: 0, flags: UART_WAITS };
    let rtc = RtcConfig { ram_below_4g_bytes: 1, ram_above_4g_bytes: 2, utc_offset_seconds: -1 };
    let pci = PciHostConfig { mmio_base: 3, mmio_size: 4 };
    let rng = VirtioRngConfig { slot: 5, flags: RNG_PACKED };
    let flags = CONSOLE_PACKED | CONSOLE_WAITS;
    let console = VirtioConsoleConfig { slot: 2, flags, columns: 80, rows: 25, pad: 0 };

    assert_eq!(uart.as_bytes(), [0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(rtc.as_bytes()[..9], [1, 0, 0, 0, 0, 0, 0, 0, 2]);
    assert_eq!(rtc.as_bytes()[16..], [0xff; 8]);
    assert_eq!(pci.as_bytes(), [3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rng.as_bytes(), [5, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(console.as_bytes(), [2, 0, 0, 0, 3, 0, 0, 0, 80, 0, 25, 0, 0, 0, 0, 0]);
}

#[test]
fn an_exit_follows_its_header() {
    let mut bytes = [0; 2056];
    bytes[..8].copy_from_slice(&[1, 0, 0, 0, 1, 0, 0, 0]);
    bytes[8..40].copy_from_slice(&count::<32>());

    let last = LastExits::read_from_bytes(&bytes).unwrap();

    assert_eq!((last.header.count, last.header.vendor), (1, VENDOR_VMX));
    assert_eq!((last.records[0].rip, last.records[0].info2), (0x0807_0605_0403_0201, 0x201f_1e1d_1c1b_1a19));
}
