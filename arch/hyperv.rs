// SPDX-License-Identifier: GPL-2.0

//! Hyper-V's interface to its guests, as far as it is numbers: MSRs, leaves of CPUID, hypercalls.
//!
//! Microsoft, "Hypervisor Top-Level Functional Specification" (TLFS): "Virtual Processor Register Names and MSRs",
//! "Feature and Interface Discovery", "Hypercall Interface". A virtual machine is a partition there, and a virtual
//! processor has an index (VP index), by which hypercalls name it. The synthetic debugger, which that document does not
//! have, is as Linux knows it.

/// EAX of the leaf that names the interface: "Hv#1".
pub(crate) const HV_INTERFACE: u32 = 0x3123_7648;

/// Leaves of CPUID.
pub(crate) mod leaf {
    /// The highest leaf, and the vendor's name.
    pub(crate) const VENDOR: u32 = 0x4000_0000;
    /// Which interface it is.
    pub(crate) const INTERFACE: u32 = 0x4000_0001;
    /// The version of the hypervisor.
    pub(crate) const VERSION: u32 = 0x4000_0002;
    /// Privileges in EAX and EBX, features in EDX.
    pub(crate) const FEATURES: u32 = 0x4000_0003;
    /// What guests are recommended to use.
    pub(crate) const HINTS: u32 = 0x4000_0004;
    /// How many processors there can be.
    pub(crate) const LIMITS: u32 = 0x4000_0005;
    /// What helps hypervisors that are guests.
    pub(crate) const NESTED: u32 = 0x4000_000a;
    /// The highest leaf of the synthetic debugger, and the vendor's name.
    pub(crate) const DEBUGGER_VENDOR: u32 = 0x4000_0080;
    /// Which interface the debugger has.
    pub(crate) const DEBUGGER_INTERFACE: u32 = 0x4000_0081;
    /// What the debugger can do.
    pub(crate) const DEBUGGER: u32 = 0x4000_0082;
}

bitflags::bitflags! {
    /// What a partition may use: EAX of [`leaf::FEATURES`] is the low half, EBX the high half.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct HvPrivileges: u64 {
        /// [`HvMsr::VpRuntime`].
        const VP_RUNTIME = 1 << 0;
        /// [`HvMsr::TimeRefCount`].
        const TIME_REF_COUNT = 1 << 1;
        /// The MSRs of the synthetic interrupt controller.
        const SYNIC = 1 << 2;
        /// Those of its timers.
        const TIMERS = 1 << 3;
        /// EOI, ICR, TPR and the assist page.
        const APIC = 1 << 4;
        /// [`HvMsr::GuestOsId`] and [`HvMsr::HypercallPage`].
        const HYPERCALL = 1 << 5;
        /// [`HvMsr::VpIndex`].
        const VP_INDEX = 1 << 6;
        /// [`HvMsr::Reset`].
        const RESET = 1 << 7;
        /// [`HvMsr::ReferenceTsc`].
        const REFERENCE_TSC = 1 << 9;
        /// [`HvMsr::TscFrequency`] and [`HvMsr::ApicFrequency`].
        const FREQUENCIES = 1 << 11;
        /// To be told of another frequency of the TSC, and to have the old one meanwhile.
        const REENLIGHTENMENT = 1 << 13;
        /// [`HvMsr::TscInvariantControl`].
        const TSC_INVARIANT = 1 << 15;
        /// [`hypercall::POST_MESSAGE`].
        const POST_MESSAGES = 1 << 36;
        /// [`hypercall::SIGNAL_EVENT`].
        const SIGNAL_EVENTS = 1 << 37;
        /// The hypercalls of the debugger.
        const DEBUGGING = 1 << 43;
        /// Hypercalls from [`hypercall::QUERY_CAPABILITIES`] on.
        const EXTENDED_HYPERCALLS = 1 << 52;
    }
}

bitflags::bitflags! {
    /// What there is: EDX of [`leaf::FEATURES`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct HvFeatures: u32 {
        /// The debugger.
        const GUEST_DEBUGGING = 1 << 1;
        /// Hypercalls whose input is in registers XMM0 to XMM5.
        const XMM_INPUT = 1 << 4;
        /// The MSRs of [`HvPrivileges::FREQUENCIES`].
        const FREQUENCY_MSRS = 1 << 8;
        /// The MSRs in which a guest tells why it crashed.
        const CRASH_MSRS = 1 << 10;
        /// The debugger's MSRs.
        const DEBUG_MSRS = 1 << 11;
        /// Ranges of addresses in another format, for flushes.
        const EXTENDED_GVA_RANGES = 1 << 14;
        /// Timers that raise an interrupt instead of sending a message.
        const DIRECT_TIMERS = 1 << 19;
    }
}

bitflags::bitflags! {
    /// What guests are recommended to use: EAX of [`leaf::HINTS`].
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct HvHints: u32 {
        /// Hypercalls to flush other processors' TLBs.
        const REMOTE_FLUSH = 1 << 2;
        /// MSRs for EOI, ICR and TPR.
        const APIC_MSRS = 1 << 3;
        /// No watchdogs that go by time.
        const RELAXED_TIMING = 1 << 5;
        /// No interrupts that end by themselves.
        const NO_AUTO_EOI = 1 << 9;
        /// Hypercalls to interrupt other processors.
        const CLUSTER_IPI = 1 << 10;
        /// Sets of processors in the sparse format.
        const SPARSE_SETS = 1 << 11;
        /// No two vCPUs share a core but those that topology shows as threads of one.
        const NO_CORE_SHARING = 1 << 18;
    }
}

/// EAX of [`leaf::DEBUGGER`]: the kernel may be debugged.
pub(crate) const ALLOW_KERNEL_DEBUGGING: u32 = 1 << 1;
/// EAX of [`leaf::NESTED`]: the bitmap of MSRs of a nested guest may be said to be unchanged.
pub(crate) const NESTED_MSR_BITMAP: u32 = 1 << 19;

/// In several MSRs that hold the address of a page: the page is in use.
pub(crate) const PAGE_ENABLED: u64 = 1;
/// In those: the address.
pub(crate) const PAGE_ADDRESS: u64 = !0xfff;

/// How many sources of interrupts a synthetic interrupt controller has.
pub(crate) const SINTS: usize = 16;
/// How many timers.
pub(crate) const TIMERS: usize = 4;

/// A register of the synthetic debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DebuggerMsr {
    /// What is to be done.
    Control,
    /// What has come of it.
    Status,
    /// Where what is sent lies.
    SendPage,
    /// Where what is received goes.
    ReceivePage,
    /// Where it is told that there is something to receive.
    PendingPage,
    /// How the guest talks to the debugger.
    Options,
}

impl DebuggerMsr {
    /// Returns its number.
    pub(crate) fn index(self) -> u32 {
        match self {
            DebuggerMsr::Control => 0x4000_00f1,
            DebuggerMsr::Status => 0x4000_00f2,
            DebuggerMsr::SendPage => 0x4000_00f3,
            DebuggerMsr::ReceivePage => 0x4000_00f4,
            DebuggerMsr::PendingPage => 0x4000_00f5,
            DebuggerMsr::Options => 0x4000_00ff,
        }
    }
}

/// A register of the synthetic interrupt controller (SynIC). TLFS, "Synthetic Interrupt Controller".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SynicMsr {
    /// SCONTROL: switches it on.
    Control,
    /// SVERSION.
    Version,
    /// SIEFP: the page of event flags.
    EventPage,
    /// SIMP: the page of messages.
    MessagePage,
    /// EOM: a message has been taken.
    EndOfMessage,
    /// SINTn: the vector of a source of interrupts.
    Source(u8),
}

impl SynicMsr {
    /// Returns its number.
    pub(crate) fn index(self) -> u32 {
        match self {
            SynicMsr::Control => 0x4000_0080,
            SynicMsr::Version => 0x4000_0081,
            SynicMsr::EventPage => 0x4000_0082,
            SynicMsr::MessagePage => 0x4000_0083,
            SynicMsr::EndOfMessage => 0x4000_0084,
            SynicMsr::Source(n) => 0x4000_0090u32.wrapping_add(n.into()),
        }
    }
}

/// A synthetic MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HvMsr {
    /// Which operating system the guest is. The partition's, as are those down to [`HvMsr::Debugger`].
    GuestOsId,
    /// The page through which hypercalls are made.
    HypercallPage,
    /// 1: resets the machine.
    Reset,
    /// The reference time, in units of 100 ns.
    TimeRefCount,
    /// The page from which a guest works that out of its TSC.
    ReferenceTsc,
    /// Why the guest crashed, a word of five.
    CrashParameter(u8),
    /// That it did.
    CrashControl,
    /// To be told of another frequency of the TSC.
    Reenlightenment,
    /// The TSC keeps its frequency by emulation.
    TscEmulationControl,
    /// It does so now.
    TscEmulationStatus,
    /// CPUID shows that the TSC's frequency is constant.
    TscInvariantControl,
    /// The synthetic debugger's.
    Debugger(DebuggerMsr),
    /// The number of the virtual processor. That processor's, as are those that follow.
    VpIndex,
    /// How long it has run, in units of 100 ns.
    VpRuntime,
    /// The frequency of the TSC in Hz.
    TscFrequency,
    /// The frequency of the local APIC's timer in Hz.
    ApicFrequency,
    /// The local APIC's EOI.
    Eoi,
    /// The local APIC's ICR.
    Icr,
    /// The local APIC's TPR.
    Tpr,
    /// The page in which processor and hypervisor tell each other of states.
    AssistPage,
    /// The synthetic interrupt controller's.
    Synic(SynicMsr),
    /// How a timer works.
    TimerConfig(u8),
    /// When it fires, or its period, in units of 100 ns.
    TimerCount(u8),
}

impl HvMsr {
    /// Returns the MSR of that number.
    pub(crate) fn of(index: u32) -> Option<HvMsr> {
        let part = |first: u32| (index.wrapping_sub(first) & 0xff) as u8;
        Some(match index {
            0x4000_0000 => HvMsr::GuestOsId,
            0x4000_0001 => HvMsr::HypercallPage,
            0x4000_0002 => HvMsr::VpIndex,
            0x4000_0003 => HvMsr::Reset,
            0x4000_0010 => HvMsr::VpRuntime,
            0x4000_0020 => HvMsr::TimeRefCount,
            0x4000_0021 => HvMsr::ReferenceTsc,
            0x4000_0022 => HvMsr::TscFrequency,
            0x4000_0023 => HvMsr::ApicFrequency,
            0x4000_0070 => HvMsr::Eoi,
            0x4000_0071 => HvMsr::Icr,
            0x4000_0072 => HvMsr::Tpr,
            0x4000_0073 => HvMsr::AssistPage,
            0x4000_0080 => HvMsr::Synic(SynicMsr::Control),
            0x4000_0081 => HvMsr::Synic(SynicMsr::Version),
            0x4000_0082 => HvMsr::Synic(SynicMsr::EventPage),
            0x4000_0083 => HvMsr::Synic(SynicMsr::MessagePage),
            0x4000_0084 => HvMsr::Synic(SynicMsr::EndOfMessage),
            0x4000_0090..=0x4000_009f => HvMsr::Synic(SynicMsr::Source(part(0x4000_0090))),
            0x4000_00b0 | 0x4000_00b2 | 0x4000_00b4 | 0x4000_00b6 => {
                HvMsr::TimerConfig(part(0x4000_00b0) >> 1)
            }
            0x4000_00b1 | 0x4000_00b3 | 0x4000_00b5 | 0x4000_00b7 => {
                HvMsr::TimerCount(part(0x4000_00b0) >> 1)
            }
            0x4000_00f1 => HvMsr::Debugger(DebuggerMsr::Control),
            0x4000_00f2 => HvMsr::Debugger(DebuggerMsr::Status),
            0x4000_00f3 => HvMsr::Debugger(DebuggerMsr::SendPage),
            0x4000_00f4 => HvMsr::Debugger(DebuggerMsr::ReceivePage),
            0x4000_00f5 => HvMsr::Debugger(DebuggerMsr::PendingPage),
            0x4000_00ff => HvMsr::Debugger(DebuggerMsr::Options),
            0x4000_0100..=0x4000_0104 => HvMsr::CrashParameter(part(0x4000_0100)),
            0x4000_0105 => HvMsr::CrashControl,
            0x4000_0106 => HvMsr::Reenlightenment,
            0x4000_0107 => HvMsr::TscEmulationControl,
            0x4000_0108 => HvMsr::TscEmulationStatus,
            0x4000_0118 => HvMsr::TscInvariantControl,
            _ => return None,
        })
    }
}

impl HvMsr {
    /// Returns whether a write reaches the local APIC and nothing else.
    pub(crate) fn is_local(self) -> bool {
        matches!(self, HvMsr::Eoi | HvMsr::Icr | HvMsr::Tpr)
    }
}

/// In the number of [`HvMsr::CrashControl`]: the guest has crashed, and its parameters are there.
pub(crate) const CRASH_NOTIFY: u64 = 1 << 63;

/// Numbers of hypercalls, and what is said of one in its first word.
pub(crate) mod hypercall {
    /// Flushes an address space.
    pub(crate) const FLUSH_SPACE: u16 = 0x0002;
    /// Flushes addresses.
    pub(crate) const FLUSH_LIST: u16 = 0x0003;
    /// The processor spins for a lock.
    pub(crate) const LONG_SPIN_WAIT: u16 = 0x0008;
    /// Interrupts processors.
    pub(crate) const SEND_IPI: u16 = 0x000b;
    /// [`FLUSH_SPACE`] on a sparse set of processors.
    pub(crate) const FLUSH_SPACE_EX: u16 = 0x0013;
    /// [`FLUSH_LIST`] on a sparse set of processors.
    pub(crate) const FLUSH_LIST_EX: u16 = 0x0014;
    /// [`SEND_IPI`] to a sparse set of processors.
    pub(crate) const SEND_IPI_EX: u16 = 0x0015;
    /// Sends a message through a connection.
    pub(crate) const POST_MESSAGE: u16 = 0x005c;
    /// Signals an event through a connection.
    pub(crate) const SIGNAL_EVENT: u16 = 0x005d;
    /// Gives data to the debugger.
    pub(crate) const POST_DEBUG_DATA: u16 = 0x0069;
    /// Begins again with the debugger. Between the two is the one that takes data from it.
    pub(crate) const RESET_DEBUG_SESSION: u16 = 0x006b;
    /// The first of those that are beside the specification's: asks which others there are.
    pub(crate) const QUERY_CAPABILITIES: u16 = 0x8001;
    /// The last of them.
    pub(crate) const LAST_EXTENDED: u16 = 0x8041;

    /// Input is in registers.
    pub(crate) const FAST: u64 = 1 << 16;
    /// Bits that must be 0.
    pub(crate) const RESERVED: u64 = 0xf000_f000_f800_0000;
    /// Where the number of words of a variable header is.
    pub(crate) const HEADER_SHIFT: u32 = 17;
    /// Where the number of elements is, and in the answer those that are done.
    pub(crate) const REPEATS_SHIFT: u32 = 32;
    /// Where the first element is that is to be done.
    pub(crate) const START_SHIFT: u32 = 48;
}

/// What a hypercall answers. TLFS, "Hypercall Status Codes".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum HvStatus {
    /// Done.
    Success = 0,
    /// There is no such hypercall.
    InvalidCode = 2,
    /// The first word or the input is impossible.
    InvalidInput = 3,
    /// The input does not lie as it must.
    InvalidAlignment = 4,
    /// A parameter is impossible.
    InvalidParameter = 5,
    /// The partition may not do that.
    AccessDenied = 6,
    /// Not now.
    OperationDenied = 8,
}
