// SPDX-License-Identifier: GPL-2.0

//! What rvmm adds to KVM's ABI: the devices of the in-kernel machine.
//!
//! Each is a type of KVM_CREATE_DEVICE. KVM_SET_DEVICE_ATTR with group [`GROUP_CONFIG`], attribute 0 and
//! the address of the type's configuration struct configures the new device and puts it into the
//! machine, once: EBUSY after a vCPU has run or when done twice.

/// A 16550A at port 0x3f8, IRQ 4: [`UartConfig`]. Its fd can be read, written and polled.
pub(crate) const DEV_UART: u32 = 0x7276_0000;
/// The RTC and CMOS memory at port 0x70, IRQ 8: [`RtcConfig`].
pub(crate) const DEV_RTC: u32 = 0x7276_0001;
/// The keyboard controller at ports 0x60 and 0x64, and port 0x92: [`I8042Config`].
pub(crate) const DEV_I8042: u32 = 0x7276_0002;
/// The PCI host bridge at ports 0xcf8 and 0xcfc, bus 0: [`PciHostConfig`]. With it the machine is whole: ports
/// and addresses that no device claims read as all ones and lose writes, and do not go to user space.
pub(crate) const DEV_PCI_HOST: u32 = 0x7276_0003;
/// The ACPI power management block at port 0x600, and the reset port 0xcf9: [`AcpiPmConfig`].
pub(crate) const DEV_ACPI_PM: u32 = 0x7276_0004;
/// A virtio block device on PCI: [`VirtioBlkConfig`].
pub(crate) const DEV_VIRTIO_BLK: u32 = 0x7276_0010;
/// A virtio entropy source on PCI: [`VirtioRngConfig`].
pub(crate) const DEV_VIRTIO_RNG: u32 = 0x7276_0011;
/// A virtio network card on PCI: [`VirtioNetConfig`].
pub(crate) const DEV_VIRTIO_NET: u32 = 0x7276_0012;
/// A virtio console on PCI: [`VirtioConsoleConfig`]. Its fd can be read, written and polled, and is written by
/// the process that made the VM only.
pub(crate) const DEV_VIRTIO_CONSOLE: u32 = 0x7276_0013;

/// The group of the configuration; its only attribute is 0.
pub(crate) const GROUP_CONFIG: u32 = 0;
/// The group of what a device counts, to be read: 64-bit numbers. Consoles have [`COUNT_LOST`], disks [`COUNT_FAILED`].
pub(crate) const GROUP_COUNTERS: u32 = 2;
/// Attribute of [`GROUP_COUNTERS`]: bytes of the guest's output that nobody read before they were overwritten, or that came
/// while the transmitter was full.
pub(crate) const COUNT_LOST: u64 = 0;
/// Attribute of [`GROUP_COUNTERS`]: requests of a disk that the host could not carry out, each time that it was tried.
pub(crate) const COUNT_FAILED: u64 = 1;
/// The group of what a clock says, to be read: of [`DEV_RTC`], [`CLOCK_UTC_OFFSET`].
pub(crate) const GROUP_CLOCK: u32 = 3;
/// Attribute of [`GROUP_CLOCK`]: how many seconds the guest's clock is ahead of the host's UTC, signed, 64 bits; the guest may
/// have set it. Given to another [`RtcConfig`], the clock goes on there.
pub(crate) const CLOCK_UTC_OFFSET: u64 = 0;
/// The group of commands to the device: [`DEV_ACPI_PM`] has [`COMMAND_POWER_BUTTON`], [`DEV_VIRTIO_BLK`] has
/// [`COMMAND_LOOK_AT_SIZE`].
pub(crate) const GROUP_COMMAND: u32 = 1;
/// Attribute of [`GROUP_COMMAND`]: press the power button.
pub(crate) const COMMAND_POWER_BUTTON: u64 = 0;
/// Attribute of [`GROUP_COMMAND`]: a disk's file may have grown; if so, the guest is told. EBADF as for [`DEV_RUN`].
pub(crate) const COMMAND_LOOK_AT_SIZE: u64 = 1;

/// The group of a machine's state, on a VM's fd and on those of its vCPUs.
pub(crate) const GROUP_STATE: u32 = 0x7276_0000;
/// Attribute of [`GROUP_STATE`], of a VM: a 32-bit number. 1 brings the machine to rest, 0 lets it go on.
pub(crate) const STATE_REST: u64 = 0;

/// Attribute of [`GROUP_STATE`], of a VM at rest: the state of all devices, by a [`StateBuffer`].
pub(crate) const STATE_MACHINE: u64 = 1;
/// Attribute of [`GROUP_STATE`], of a vCPU of a VM at rest: the state of its local APIC, by a [`StateBuffer`].
pub(crate) const STATE_LAPIC: u64 = 2;

/// RVMM_DEV_RUN: lends the calling thread to the device until the VM is gone (0) or a signal (EINTR). The
/// argument is the queue to serve, 0 for a device with one. A disk with [`BLK_TELLS_FAILURES`] ends it, too, when the
/// host could not carry out a request: with the host's errno as a positive number.
pub(crate) const DEV_RUN: u32 = 0xaef0;

/// RVMM_GET_EXITS: a vCPU's last exits, oldest first: of [`LastExits`], as much as there are records.
pub(crate) const GET_EXITS: u32 = 0x8808_aef1;
/// The most records of [`LastExits`].
pub(crate) const MAX_EXITS: usize = 64;
/// [`ExitsHeader::vendor`]: the numbers are those of SVM.
pub(crate) const VENDOR_SVM: u32 = 0;
/// [`ExitsHeader::vendor`]: the numbers are those of VMX.
pub(crate) const VENDOR_VMX: u32 = 1;

/// Bytes of a disk's serial number.
pub(crate) const BLK_SERIAL_BYTES: usize = 20;
/// The most queues of a disk.
pub(crate) const BLK_MAX_QUEUES: u16 = 16;
/// [`VirtioBlkConfig::flags`]: the guest may not write.
pub(crate) const BLK_READ_ONLY: u32 = 1 << 0;
/// [`VirtioBlkConfig::flags`]: packed rings are offered.
pub(crate) const BLK_PACKED: u32 = 1 << 1;
/// [`VirtioBlkConfig::flags`]: [`DEV_RUN`] says when the host failed a request.
pub(crate) const BLK_TELLS_FAILURES: u32 = 1 << 2;
/// [`VirtioBlkConfig::flags`]: a request that the host failed is not answered; the next [`DEV_RUN`] of its queue tries it
/// again. Only with [`BLK_TELLS_FAILURES`].
pub(crate) const BLK_HOLDS_FAILED: u32 = 1 << 3;

/// [`VirtioNetConfig::flags`]: the taps take and give unfinished checksums and TCP segments.
pub(crate) const NET_OFFLOADS: u32 = 1 << 0;
/// [`VirtioNetConfig::flags`]: the same for UDP.
pub(crate) const NET_UDP_OFFLOADS: u32 = 1 << 1;
/// [`VirtioNetConfig::flags`]: the one fd is a connected stream socket, in which each packet has its length in
/// front of it, four bytes, the highest first; not with the flags for offloads.
pub(crate) const NET_STREAM: u32 = 1 << 2;
/// [`VirtioNetConfig::flags`]: packed rings are offered.
pub(crate) const NET_PACKED: u32 = 1 << 3;
/// [`VirtioRngConfig::flags`]: packed rings are offered.
pub(crate) const RNG_PACKED: u32 = 1 << 0;
/// [`VirtioConsoleConfig::flags`]: packed rings are offered.
pub(crate) const CONSOLE_PACKED: u32 = 1 << 0;
/// [`VirtioConsoleConfig::flags`]: output waits for its reader, as with [`UART_WAITS`].
pub(crate) const CONSOLE_WAITS: u32 = 1 << 1;
/// [`UartConfig::flags`]: while nobody reads what the guest has put out, the transmitter stays full and the guest
/// waits. Without it the newest output is kept.
pub(crate) const UART_WAITS: u32 = 1 << 0;
/// The most pairs of queues of a network card.
pub(crate) const NET_MAX_PAIRS: usize = 8;

abi_struct! {
    /// Configuration of [`DEV_UART`].
    struct UartConfig = 8 {
        /// 0 for the first serial port; no other exists yet.
        index: u32,
        /// [`UART_WAITS`].
        flags: u32,
    }

    /// Configuration of [`DEV_RTC`].
    struct RtcConfig = 24 {
        /// Bytes of RAM below 4 GiB, for the CMOS memory fields.
        ram_below_4g_bytes: u64,
        /// Bytes of RAM from 4 GiB on.
        ram_above_4g_bytes: u64,
        /// Seconds to add to the host's UTC.
        utc_offset_seconds: i64,
    }

    /// Configuration of [`DEV_I8042`].
    struct I8042Config = 4 {
        /// Must be 0.
        flags: u32,
    }

    /// Configuration of [`DEV_PCI_HOST`].
    struct PciHostConfig = 16 {
        /// Start of the 32-bit window that BARs are placed in.
        mmio_base: u64,
        /// Its bytes.
        mmio_size: u64,
    }

    /// Configuration of [`DEV_ACPI_PM`].
    struct AcpiPmConfig = 4 {
        /// Must be 0.
        flags: u32,
    }

    /// Configuration of [`DEV_VIRTIO_BLK`].
    ///
    /// Each queue wants a thread in [`DEV_RUN`].
    struct VirtioBlkConfig = 40 {
        /// The backing file or block device, opened by the caller.
        fd: i32,
        /// [`BLK_READ_ONLY`], [`BLK_PACKED`], [`BLK_TELLS_FAILURES`], [`BLK_HOLDS_FAILED`].
        flags: u32,
        /// What the guest reads as the serial number; unused bytes are 0.
        serial: [u8; BLK_SERIAL_BYTES],
        /// PCI device number 1 to 31, or 0 for the next free one.
        slot: u32,
        /// Descriptors in a queue, a power of two; 0 for 256.
        queue_size: u32,
        /// Queues, up to [`BLK_MAX_QUEUES`]; 0 for 1.
        queues: u16,
        /// Must be 0.
        pad: u16,
    }

    /// Configuration of [`DEV_VIRTIO_RNG`].
    struct VirtioRngConfig = 8 {
        /// PCI device number 1 to 31, or 0 for the next free one.
        slot: u32,
        /// [`RNG_PACKED`].
        flags: u32,
    }

    /// Configuration of [`DEV_VIRTIO_NET`].
    ///
    /// Queue 2n receives for the guest and queue 2n + 1 transmits: each wants a thread in [`DEV_RUN`].
    struct VirtioNetConfig = 56 {
        /// A queue of a tap device for each pair, opened by the caller with IFF_VNET_HDR and a header of 12
        /// bytes.
        fds: [i32; NET_MAX_PAIRS],
        /// [`NET_OFFLOADS`], [`NET_UDP_OFFLOADS`], [`NET_STREAM`], [`NET_PACKED`].
        flags: u32,
        /// PCI device number 1 to 31, or 0 for the next free one.
        slot: u32,
        /// Pairs of queues, 1 to [`NET_MAX_PAIRS`].
        pairs: u16,
        /// The largest packet without its Ethernet header, in bytes; 0 to say nothing.
        mtu: u16,
        /// The guest's address.
        mac: [u8; 6],
        /// Must be 0.
        pad: [u8; 6],
    }

    /// Configuration of [`DEV_VIRTIO_CONSOLE`].
    struct VirtioConsoleConfig = 16 {
        /// PCI device number 1 to 31, or 0 for the next free one.
        slot: u32,
        /// [`CONSOLE_PACKED`].
        flags: u32,
        /// Size of the terminal, 0 for one that is not known.
        columns: u16,
        /// As `columns`.
        rows: u16,
        /// Must be 0.
        pad: u32,
    }

    /// Where a state is to be put, or is.
    struct StateBuffer = 16 {
        /// The address.
        addr: u64,
        /// In: how many bytes there is room for, or the state has. Out of KVM_GET_DEVICE_ATTR: how many it has, or
        /// with E2BIG how many there must be room for.
        bytes: u64,
    }

    /// What [`GET_EXITS`] writes first.
    struct ExitsHeader = 8 {
        /// Records that follow.
        count: u32,
        /// [`VENDOR_SVM`] or [`VENDOR_VMX`].
        vendor: u32,
    }

    /// One exit as the processor reported it.
    struct ExitRecord = 32 {
        /// RIP at the exit.
        rip: u64,
        /// VMCB exit code or VMCS exit reason.
        reason: u64,
        /// EXITINFO1 or the exit qualification.
        info1: u64,
        /// EXITINFO2 or the guest physical address.
        info2: u64,
    }

    /// All that [`GET_EXITS`] may write.
    struct LastExits = 2056 {
        /// How many of `records` are written.
        header: ExitsHeader,
        /// The exits, oldest first.
        records: [ExitRecord; MAX_EXITS],
    }
}

static_assertions::const_assert_eq!(super::nr::size_of_request(GET_EXITS), size_of::<LastExits>());
