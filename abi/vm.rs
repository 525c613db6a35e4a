// SPDX-License-Identifier: GPL-2.0

//! Structs of a VM: memory slots, interrupt controllers and routing, timer, clock, devices.

/// The memory slot's writes are logged.
pub(crate) const MEM_LOG_DIRTY_PAGES: u32 = 1 << 0;
/// The guest may not write the memory slot.
pub(crate) const MEM_READONLY: u32 = 1 << 1;
/// The memory slot is backed by a guest_memfd.
pub(crate) const MEM_GUEST_MEMFD: u32 = 1 << 2;

/// [`Irqchip::chip_id`] of the first 8259.
pub(crate) const IRQCHIP_PIC_MASTER: u32 = 0;
/// [`Irqchip::chip_id`] of the second 8259.
pub(crate) const IRQCHIP_PIC_SLAVE: u32 = 1;
/// [`Irqchip::chip_id`] of the I/O APIC.
pub(crate) const IRQCHIP_IOAPIC: u32 = 2;
/// Pins of the I/O APIC.
pub(crate) const IOAPIC_PINS: usize = 24;

/// [`IrqRoutingEntry::kind`]: a pin of a chip.
pub(crate) const IRQ_ROUTING_IRQCHIP: u32 = 1;
/// [`IrqRoutingEntry::kind`]: a message.
pub(crate) const IRQ_ROUTING_MSI: u32 = 2;
/// The device id of a message is valid.
pub(crate) const MSI_VALID_DEVID: u32 = 1 << 0;
/// The most GSI routes: the answer of capability IRQ_ROUTING.
pub(crate) const MAX_IRQ_ROUTES: u32 = 4096;

/// Takes an irqfd back.
pub(crate) const IRQFD_DEASSIGN: u32 = 1 << 0;
/// The irqfd is level triggered; its resamplefd is signalled at EOI.
pub(crate) const IRQFD_RESAMPLE: u32 = 1 << 1;

/// Signal only when the value written equals [`Ioeventfd::datamatch`].
pub(crate) const IOEVENTFD_DATAMATCH: u32 = 1 << 0;
/// The address is an I/O port.
pub(crate) const IOEVENTFD_PIO: u32 = 1 << 1;
/// Takes an ioeventfd back.
pub(crate) const IOEVENTFD_DEASSIGN: u32 = 1 << 2;

/// [`PitConfig::flags`]: also claim port 0x61 (the speaker).
pub(crate) const PIT_SPEAKER_DUMMY: u32 = 1;
/// [`PitState2::flags`]: the HPET has taken over channel 0.
pub(crate) const PIT_FLAGS_HPET_LEGACY: u32 = 1;
/// [`PitState2::flags`]: the speaker's data bit is on.
pub(crate) const PIT_FLAGS_SPEAKER_DATA_ON: u32 = 2;

/// [`ClockData::flags`]: the clock is derived from one TSC for all vCPUs.
pub(crate) const CLOCK_TSC_STABLE: u32 = 1 << 1;
/// [`ClockData::flags`]: [`ClockData::realtime`] is valid.
pub(crate) const CLOCK_REALTIME: u32 = 1 << 2;
/// [`ClockData::flags`]: [`ClockData::host_tsc`] is valid.
pub(crate) const CLOCK_HOST_TSC: u32 = 1 << 3;
/// All of [`ClockData::flags`].
pub(crate) const CLOCK_FLAGS: u32 = CLOCK_TSC_STABLE | CLOCK_REALTIME | CLOCK_HOST_TSC;

/// [`CreateDevice::flags`]: only say whether the type exists.
pub(crate) const CREATE_DEVICE_TEST: u32 = 1;

/// [`MsrFilter::flags`]: what no range is about is refused.
pub(crate) const MSR_FILTER_DEFAULT_DENY: u32 = 1 << 0;
/// [`MsrFilterRange::flags`]: reads and writes.
pub(crate) const MSR_FILTER_USES: u32 = 3;
/// The most bytes of a range's bitmap.
pub(crate) const MSR_FILTER_MAX_BITMAP: usize = 0x600;

/// [`HypervEventfd::conn_id`] is below this.
pub(crate) const HYPERV_CONNECTIONS: u32 = 1 << 24;
/// [`HypervEventfd::flags`]: the connection leads nowhere any more.
pub(crate) const HYPERV_DEASSIGN: u32 = 1 << 0;

abi_struct! {
    /// KVM_SET_USER_MEMORY_REGION.
    struct UserspaceMemoryRegion = 32 {
        /// Slot number; the upper 16 bits are the address space.
        slot: u32,
        /// `MEM_*`.
        flags: u32,
        /// Where the slot starts in the guest.
        guest_phys_addr: u64,
        /// Bytes; 0 removes the slot.
        memory_size: u64,
        /// Where the slot starts in the caller's address space.
        userspace_addr: u64,
    }

    /// KVM_SET_USER_MEMORY_REGION2.
    struct UserspaceMemoryRegion2 = 160 {
        /// As in [`UserspaceMemoryRegion`].
        slot: u32,
        /// `MEM_*`.
        flags: u32,
        /// As in [`UserspaceMemoryRegion`].
        guest_phys_addr: u64,
        /// As in [`UserspaceMemoryRegion`].
        memory_size: u64,
        /// As in [`UserspaceMemoryRegion`].
        userspace_addr: u64,
        /// Offset in the guest_memfd.
        guest_memfd_offset: u64,
        /// The guest_memfd.
        guest_memfd: u32,
        /// Unused.
        pad1: u32,
        /// Unused.
        pad2: [u64; 14],
    }

    /// KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS.
    struct IrqLevel = 8 {
        /// In: the GSI. Out, for KVM_IRQ_LINE_STATUS: what became of it (see `IRQ_STATUS_*`), as `i32`.
        irq: u32,
        /// 0 or 1.
        level: u32,
    }

    /// State of one 8259: the view [`Irqchip::pic`].
    struct PicState = 16 {
        /// Line levels at the last look, for edge detection.
        last_irr: u8,
        /// Interrupt request register.
        irr: u8,
        /// Interrupt mask register.
        imr: u8,
        /// In-service register.
        isr: u8,
        /// The line with the highest priority.
        priority_add: u8,
        /// Vector base.
        irq_base: u8,
        /// Next read gives ISR rather than IRR.
        read_reg_select: u8,
        /// Poll mode.
        poll: u8,
        /// Special mask mode.
        special_mask: u8,
        /// Initialization: 0 done, else the word awaited.
        init_state: u8,
        /// Automatic end of interrupt.
        auto_eoi: u8,
        /// Rotate at automatic end of interrupt.
        rotate_on_auto_eoi: u8,
        /// Special fully nested mode.
        special_fully_nested_mode: u8,
        /// The initialization has a fourth word.
        init4: u8,
        /// Edge/level control register.
        elcr: u8,
        /// Which bits of `elcr` can be set.
        elcr_mask: u8,
    }

    /// State of the I/O APIC: the view [`Irqchip::ioapic`].
    struct IoapicState = 216 {
        /// Where the registers are.
        base_address: u64,
        /// The index register.
        ioregsel: u32,
        /// The id register's id.
        id: u32,
        /// Pins that are asserted.
        irr: u32,
        /// Unused.
        pad: u32,
        /// The redirection table as the registers hold it.
        redirtbl: [u64; IOAPIC_PINS],
    }

    /// KVM_GET_IRQCHIP and KVM_SET_IRQCHIP.
    struct Irqchip = 520 {
        /// `IRQCHIP_*`.
        chip_id: u32,
        /// Unused.
        pad: u32,
        /// The state: see [`Irqchip::pic`] and [`Irqchip::ioapic`].
        chip: [u8; 512],
    }

    /// KVM_CREATE_PIT2.
    struct PitConfig = 64 {
        /// [`PIT_SPEAKER_DUMMY`].
        flags: u32,
        /// Unused.
        pad: [u32; 15],
    }

    /// KVM_REINJECT_CONTROL.
    struct ReinjectControl = 32 {
        /// Whether missed pulses are made up for.
        pit_reinject: u8,
        /// Unused.
        reserved: [u8; 31],
    }

    /// One channel of the PIT.
    struct PitChannelState = 24 {
        /// The count loaded, 1 to 65536.
        count: u32,
        /// The count latched.
        latched_count: u16,
        /// Bytes of `latched_count` still to be read, as the access mode.
        count_latched: u8,
        /// A status is latched.
        status_latched: u8,
        /// The status latched.
        status: u8,
        /// Byte order state of reads.
        read_state: u8,
        /// Byte order state of writes.
        write_state: u8,
        /// The low byte of a two-byte write.
        write_latch: u8,
        /// Access mode: 1 low, 2 high, 3 low then high.
        rw_mode: u8,
        /// Counting mode, 0 to 5.
        mode: u8,
        /// Decimal counting.
        bcd: u8,
        /// The gate's level.
        gate: u8,
        /// When the count was loaded, in nanoseconds of the host's clock.
        count_load_time: i64,
    }

    /// KVM_GET_PIT and KVM_SET_PIT.
    struct PitState = 72 {
        /// The three channels.
        channels: [PitChannelState; 3],
    }

    /// KVM_GET_PIT2 and KVM_SET_PIT2.
    struct PitState2 = 112 {
        /// The three channels.
        channels: [PitChannelState; 3],
        /// `PIT_FLAGS_*`.
        flags: u32,
        /// Unused.
        reserved: [u32; 9],
    }

    /// Header of KVM_SET_GSI_ROUTING; [`IrqRoutingEntry`] follow.
    struct IrqRouting = 8 {
        /// How many entries follow.
        nr: u32,
        /// Must be 0.
        flags: u32,
    }

    /// One route of a GSI.
    struct IrqRoutingEntry = 48 {
        /// The GSI.
        gsi: u32,
        /// `IRQ_ROUTING_*`.
        kind: u32,
        /// [`MSI_VALID_DEVID`].
        flags: u32,
        /// Unused.
        pad: u32,
        /// The target: see [`IrqRoutingEntry::chip_pin`] and [`IrqRoutingEntry::msi`].
        u: [u32; 8],
    }

    /// KVM_IRQFD.
    struct Irqfd = 32 {
        /// The eventfd.
        fd: u32,
        /// The GSI that it raises.
        gsi: u32,
        /// `IRQFD_*`.
        flags: u32,
        /// The eventfd signalled at EOI.
        resamplefd: u32,
        /// Unused.
        pad: [u8; 16],
    }

    /// KVM_IOEVENTFD.
    struct Ioeventfd = 64 {
        /// The value that must be written.
        datamatch: u64,
        /// The guest physical address or the port.
        addr: u64,
        /// 1, 2, 4, 8; or 0 for any.
        len: u32,
        /// The eventfd.
        fd: i32,
        /// `IOEVENTFD_*`.
        flags: u32,
        /// Unused.
        pad: [u8; 36],
    }

    /// KVM_HYPERV_EVENTFD.
    struct HypervEventfd = 24 {
        /// The connection, below [`HYPERV_CONNECTIONS`].
        conn_id: u32,
        /// The eventfd that it leads to.
        fd: i32,
        /// [`HYPERV_DEASSIGN`].
        flags: u32,
        /// Unused.
        padding: [u32; 3],
    }

    /// KVM_SIGNAL_MSI.
    struct Msi = 32 {
        /// The low half of the address.
        address_lo: u32,
        /// The high half of the address.
        address_hi: u32,
        /// The message.
        data: u32,
        /// [`MSI_VALID_DEVID`].
        flags: u32,
        /// The sender.
        devid: u32,
        /// Unused.
        pad: [u8; 12],
    }

    /// KVM_GET_CLOCK and KVM_SET_CLOCK.
    struct ClockData = 48 {
        /// The VM's clock in nanoseconds.
        clock: u64,
        /// `CLOCK_*`.
        flags: u32,
        /// Unused.
        pad0: u32,
        /// The host's real time in nanoseconds since 1970.
        realtime: u64,
        /// The host's TSC at that time.
        host_tsc: u64,
        /// Unused.
        pad: [u32; 4],
    }

    /// KVM_ENABLE_CAP.
    struct EnableCap = 104 {
        /// The capability's number.
        cap: u32,
        /// Must be 0.
        flags: u32,
        /// Its arguments.
        args: [u64; 4],
        /// Unused.
        pad: [u8; 64],
    }

    /// One range of KVM_X86_SET_MSR_FILTER.
    struct MsrFilterRange = 24 {
        /// `MSR_FILTER_*`: which accesses it is about.
        flags: u32,
        /// How many MSRs; 0 for no range.
        nmsrs: u32,
        /// The first.
        base: u32,
        /// Unused.
        pad: u32,
        /// Where the bitmap of those allowed is in the caller's address space.
        bitmap: u64,
    }

    /// KVM_X86_SET_MSR_FILTER.
    struct MsrFilter = 392 {
        /// [`MSR_FILTER_DEFAULT_DENY`].
        flags: u32,
        /// Unused.
        pad: u32,
        /// The ranges.
        ranges: [MsrFilterRange; 16],
    }

    /// KVM_REGISTER_COALESCED_MMIO and KVM_UNREGISTER_COALESCED_MMIO.
    struct CoalescedMmioZone = 16 {
        /// The first address.
        addr: u64,
        /// Bytes.
        size: u32,
        /// 1 for I/O ports.
        pio: u32,
    }

    /// One write in the coalesced ring.
    struct CoalescedMmio = 24 {
        /// Where.
        phys_addr: u64,
        /// Bytes.
        len: u32,
        /// 1 for an I/O port.
        pio: u32,
        /// What.
        data: [u8; 8],
    }

    /// Header of the coalesced ring, third page of a vCPU's mapping; [`CoalescedMmio`] follow.
    struct CoalescedMmioRing = 8 {
        /// The next entry that user space reads.
        first: u32,
        /// The next entry that the module writes.
        last: u32,
    }

    /// KVM_CREATE_DEVICE.
    struct CreateDevice = 12 {
        /// The type: see [`super::rvmm`].
        kind: u32,
        /// Out: the device's fd.
        fd: u32,
        /// [`CREATE_DEVICE_TEST`].
        flags: u32,
    }

    /// KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR.
    struct DeviceAttr = 24 {
        /// Must be 0.
        flags: u32,
        /// The device's group.
        group: u32,
        /// The attribute in the group.
        attr: u64,
        /// Where the attribute's data is in the caller's address space.
        addr: u64,
    }

    /// KVM_GET_DIRTY_LOG.
    struct DirtyLog = 16 {
        /// The slot; the upper 16 bits are the address space.
        slot: u32,
        /// Unused.
        padding1: u32,
        /// Where the bitmap goes in the caller's address space.
        dirty_bitmap: u64,
    }

    /// KVM_CLEAR_DIRTY_LOG.
    struct ClearDirtyLog = 24 {
        /// The slot; the upper 16 bits are the address space.
        slot: u32,
        /// How many pages.
        num_pages: u32,
        /// The first page in the slot.
        first_page: u64,
        /// Where the bitmap is in the caller's address space.
        dirty_bitmap: u64,
    }
}

/// The interrupt was ignored: masked or a vCPU is not ready. KVM_IRQ_LINE_STATUS.
pub(crate) const IRQ_STATUS_IGNORED: i32 = -1;
/// The interrupt joined one that was pending already. KVM_IRQ_LINE_STATUS.
pub(crate) const IRQ_STATUS_COALESCED: i32 = 0;
/// The interrupt was delivered. KVM_IRQ_LINE_STATUS.
pub(crate) const IRQ_STATUS_DELIVERED: i32 = 1;

/// A message-signalled interrupt: where the device writes, and what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MsiMessage {
    /// The address.
    pub(crate) address: u64,
    /// The data.
    pub(crate) data: u32,
}

/// Joins the two halves of an address.
const fn wide(lo: u32, hi: u32) -> u64 {
    (hi as u64) << 32 | lo as u64
}

impl Msi {
    /// Returns the message.
    pub(crate) const fn message(&self) -> MsiMessage {
        MsiMessage { address: wide(self.address_lo, self.address_hi), data: self.data }
    }
}

impl IrqRoutingEntry {
    /// Returns `(irqchip, pin)` of a route to a chip's pin, `None` for another kind.
    pub(crate) const fn chip_pin(&self) -> Option<(u32, u32)> {
        match self.kind {
            IRQ_ROUTING_IRQCHIP => Some((self.u[0], self.u[1])),
            _ => None,
        }
    }

    /// Returns the message of a route to an MSI, `None` for another kind.
    pub(crate) const fn msi(&self) -> Option<MsiMessage> {
        match self.kind {
            IRQ_ROUTING_MSI => Some(MsiMessage { address: wide(self.u[0], self.u[1]), data: self.u[2] }),
            _ => None,
        }
    }
}

impl Irqchip {
    /// Returns the state as that of an 8259.
    pub(crate) fn pic(&self) -> Option<PicState> {
        self.view()
    }

    /// Returns the state as that of the I/O APIC.
    pub(crate) fn ioapic(&self) -> Option<IoapicState> {
        self.view()
    }

    /// Builds the struct for chip `chip_id` from its state; bytes past the state are 0.
    pub(crate) fn with_state<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        chip_id: u32,
        state: &T,
    ) -> Irqchip {
        let mut chip = [0; 512];
        for (to, from) in chip.iter_mut().zip(state.as_bytes()) {
            *to = *from;
        }
        Irqchip { chip_id, pad: 0, chip }
    }

    fn view<T: zerocopy::FromBytes>(&self) -> Option<T> {
        T::read_from_prefix(&self.chip).ok().map(|(state, _)| state)
    }
}
