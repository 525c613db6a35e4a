// SPDX-License-Identifier: GPL-2.0

//! The virtio functions that user space can put on a machine's PCI bus: one table, a row for each.
//!
//! A row names the function in words, its number in the ABI, the structure that configures it, who serves it, and the
//! function that makes that of the structure:
//!
//! ```text
//! Rng("virtio-rng") = abi::DEV_VIRTIO_RNG, abi::VirtioRngConfig => rng: ThreadlessService<VirtioRng>;
//! ```
//!
//! Of it are made [`PciFunction`], which the bus holds; [`FunctionKind`], which makes one; and [`each_function!`], by
//! which the bus, fdinfo and whoever saves a machine reach all of them, typed: a jump by the kind, no call through a
//! pointer. A new device is a row here, its structure in `abi/rvmm.rs` and its model below `virtio/device`; one that
//! needs threads has a service of its own besides.

use super::counters::DiskCounters;
use super::interrupts::ChipsetLock;
use super::ram::GuestRam;
use super::service::blk::{BlkService, FailurePolicy};
use super::service::console::ConsoleService;
use super::service::net::{NetBackend, NetService};
use super::service::threadless::{ThreadlessDevice, ThreadlessService};
use crate::abi::rvmm as abi;
use crate::host::blkio::BackingFile;
use crate::host::file::KnownFile;
use crate::host::netio::{PacketStream, TapSocket};
use crate::host::random;
use crate::virtio::device::blk::{self as blk_model, DiskGeometry, VirtioBlk};
use crate::virtio::device::console::VirtioConsole;
use crate::virtio::device::net::{self as net_model, NetConfig, VirtioNet};
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::transport::pci::{QueueServed, VirtioPci};
use kernel::prelude::*;
use kernel::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// Requests that a disk can have under way, with one queue.
const REQUESTS: u16 = 64;
/// The same for each queue at least.
const LEAST_REQUESTS: u16 = 16;

static_assertions::const_assert_eq!(blk_model::MAX_QUEUES, abi::BLK_MAX_QUEUES);
static_assertions::const_assert_eq!(net_model::MAX_PAIRS as usize, abi::NET_MAX_PAIRS);

/// Where the structure that configures a device comes from.
pub(crate) trait ReadConfig {
    /// Reads it.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read<T: FromBytes + IntoBytes>(&self) -> Result<T>;
}

/// What a function needs of the machine that it becomes part of.
pub(crate) struct FunctionHost<'a> {
    /// The guest's memory.
    pub(crate) ram: &'a Arc<GuestRam>,
    /// Where interrupts go.
    pub(crate) interrupts: &'a Arc<ChipsetLock>,
    /// What all disks count together.
    pub(crate) disks: &'static DiskCounters,
}

macro_rules! functions {
    ($d:tt $($(#[doc = $doc:literal])*
        $kind:ident($name:literal) = $number:path, $config:ty => $make:ident: $service:ty;)*) => {
        /// The kinds of functions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum FunctionKind {
            $($(#[doc = $doc])* $kind,)*
        }

        /// A function on the bus, with whoever serves it.
        pub(crate) enum PciFunction {
            $($(#[doc = $doc])* $kind(Arc<$service>),)*
        }

        /// Evaluates the same for whichever service a function has.
        macro_rules! each_function {
            ($d function:expr, $d service:ident => $d e:expr) => {
                match $d function {
                    $($crate::machine::functions::PciFunction::$kind($d service) => $d e,)*
                }
            };
        }
        pub(crate) use each_function;

        impl FunctionKind {
            /// Returns the kind of a KVM_CREATE_DEVICE type.
            pub(crate) fn from_type(number: u32) -> Option<FunctionKind> {
                match number {
                    $($number => Some(FunctionKind::$kind),)*
                    _ => None,
                }
            }

            /// Makes a function as `config` says. Returns it with the number on the bus that it is to have, 0 for the
            /// next free one.
            ///
            /// # Errors
            /// `EINVAL` for a structure that cannot be; those of the kind.
            pub(crate) fn make(
                self,
                config: &impl ReadConfig,
                host: &FunctionHost<'_>,
            ) -> Result<(u32, PciFunction)> {
                match self {
                    $(FunctionKind::$kind => {
                        let config = config.read::<$config>()?;
                        Ok((config.slot, PciFunction::$kind($make(&config, host)?)))
                    })*
                }
            }
        }

        impl PciFunction {
            /// Returns what people call it.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $(PciFunction::$kind(_) => $name,)*
                }
            }
        }
    };
}

functions! {
    $
    /// A disk.
    Blk("virtio-blk") = abi::DEV_VIRTIO_BLK, abi::VirtioBlkConfig => blk: BlkService;
    /// A network card.
    Net("virtio-net") = abi::DEV_VIRTIO_NET, abi::VirtioNetConfig => net: NetService;
    /// An entropy source.
    Rng("virtio-rng") = abi::DEV_VIRTIO_RNG, abi::VirtioRngConfig => rng: ThreadlessService<VirtioRng>;
    /// A console.
    Console("virtio-console") = abi::DEV_VIRTIO_CONSOLE, abi::VirtioConsoleConfig => console: ConsoleService;
}

/// `EINVAL` unless `ok`.
///
/// # Errors
/// That.
pub(super) fn check(ok: bool) -> Result {
    if ok {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

fn rng(c: &abi::VirtioRngConfig, host: &FunctionHost<'_>) -> Result<Arc<ThreadlessService<VirtioRng>>> {
    check(c.flags & !abi::RNG_PACKED == 0)?;
    let rng = VirtioPci::new(VirtioRng)?.offer_packed(c.flags & abi::RNG_PACKED != 0);
    ThreadlessService::new(rng, host.ram.clone(), host.interrupts.clone())
}

/// The entropy is the host's.
impl ThreadlessDevice for VirtioRng {
    fn serve(rng: &mut VirtioPci<VirtioRng>, _queue: u16, ram: &GuestRam) -> QueueServed {
        rng.serve(ram, random::fill)
    }
}

fn console(c: &abi::VirtioConsoleConfig, host: &FunctionHost<'_>) -> Result<Arc<ConsoleService>> {
    check(c.flags & !(abi::CONSOLE_PACKED | abi::CONSOLE_WAITS) == 0 && c.pad == 0)?;
    let console = VirtioConsole::new(c.columns, c.rows)?.wait_for_reader(c.flags & abi::CONSOLE_WAITS != 0);
    let console = VirtioPci::new(console)?.offer_packed(c.flags & abi::CONSOLE_PACKED != 0);
    ConsoleService::new(console, host.ram.clone(), host.interrupts.clone())
}

fn blk(c: &abi::VirtioBlkConfig, host: &FunctionHost<'_>) -> Result<Arc<BlkService>> {
    let read_only = c.flags & abi::BLK_READ_ONLY != 0;
    let known = abi::BLK_READ_ONLY | abi::BLK_PACKED | abi::BLK_TELLS_FAILURES | abi::BLK_HOLDS_FAILED;
    check(c.flags & !known == 0 && c.pad == 0)?;
    let policy = match (c.flags & abi::BLK_TELLS_FAILURES != 0, c.flags & abi::BLK_HOLDS_FAILED != 0) {
        (true, true) => FailurePolicy::HoldAndTell,
        (true, false) => FailurePolicy::AnswerAndTell,
        (false, false) => FailurePolicy::Answer,
        // Requests that are held without a word would wait for a try that nobody knows to make.
        (false, true) => return Err(EINVAL),
    };
    let (known, file) = KnownFile::<BackingFile>::look_up(c.fd)?;
    file.check_mode(!read_only)?;
    let p = file.properties()?;
    check((9..=12).contains(&p.block_shift) && p.bytes >= 512)?;
    let geometry = DiskGeometry {
        sectors: p.bytes >> 9,
        block_shift: p.block_shift,
        read_only,
        discard: p.discard && !read_only,
        serial: c.serial,
    };
    let size = match c.queue_size {
        0 => 256,
        n => u16::try_from(n)?,
    };
    check(size.is_power_of_two() && size <= 1024)?;
    let queues = c.queues.max(1);
    // Together about as many as one queue would have.
    let depth = REQUESTS.checked_div(queues).unwrap_or(0).max(LEAST_REQUESTS);
    let blk = VirtioPci::new(VirtioBlk::new(geometry, size, depth, queues)?)?
        .offer_packed(c.flags & abi::BLK_PACKED != 0);
    BlkService::new(blk, known, host.ram.clone(), host.interrupts.clone(), (host.disks, policy))
}

fn net(c: &abi::VirtioNetConfig, host: &FunctionHost<'_>) -> Result<Arc<NetService>> {
    let offloads = abi::NET_OFFLOADS | abi::NET_UDP_OFFLOADS;
    let is_stream = c.flags & abi::NET_STREAM != 0;
    check(c.flags & !(offloads | abi::NET_STREAM | abi::NET_PACKED) == 0 && c.pad == [0; 6])?;
    // A stream carries bare packets, without the header that tells of offloads, and all of them in one order.
    check(!is_stream || (c.flags & offloads == 0 && c.pairs == 1))?;
    let net = VirtioNet::new(&NetConfig {
        mac: c.mac,
        mtu: c.mtu,
        pairs: c.pairs,
        offloads: c.flags & abi::NET_OFFLOADS != 0,
        udp_offloads: c.flags & abi::NET_UDP_OFFLOADS != 0,
    })?;
    let backend = match c.fds.get(..usize::from(c.pairs)).unwrap_or(&[]) {
        [fd] if is_stream => NetBackend::Stream(KnownFile::<PacketStream>::look_up(*fd)?.0),
        fds => {
            let mut taps = KVec::with_capacity(fds.len(), GFP_KERNEL_ACCOUNT)?;
            for fd in fds {
                taps.push_within_capacity(KnownFile::<TapSocket>::look_up(*fd)?.0)?;
            }
            NetBackend::Taps(taps)
        }
    };
    let net = VirtioPci::new(net)?.offer_packed(c.flags & abi::NET_PACKED != 0);
    NetService::new(net, backend, host.ram.clone(), host.interrupts.clone())
}
