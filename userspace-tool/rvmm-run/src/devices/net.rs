// SPDX-License-Identifier: GPL-2.0

//! What is behind the guest's network cards: a tap of the host, or [`passt`](super::passt).

use std::fmt;
use std::fs::{File, OpenOptions};
use std::path::Path;

use nix::errno::Errno;

use super::passt::PASST;
use crate::abi::rvmm::NET_MAX_PAIRS;
use crate::config::net::{MacAddress, NetKind, NetSpec};
use crate::sys;

/// Bytes of the header in front of each packet.
const HEADER_BYTES: i32 = 12;
/// Where taps come from.
const NODE: &str = "/dev/net/tun";
/// Largest packet of passt: 64 KiB without the Ethernet header, in whole words.
const USER_MTU: u16 = 65520;

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_MULTI_QUEUE: u16 = 0x0100;

const TUN_F_CSUM: u32 = 1;
const TUN_F_TSO4: u32 = 2;
const TUN_F_TSO6: u32 = 4;
const TUN_F_TSO_ECN: u32 = 8;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;
const TCP_OFFLOADS: u32 = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const UDP_OFFLOADS: u32 = TUN_F_USO4 | TUN_F_USO6;

/// A network card that was checked.
#[derive(Debug)]
pub struct OpenNet {
    /// What is behind it.
    pub backend: NetBackend,
    /// Address of the guest's card.
    pub mac: MacAddress,
    /// Largest packet, 0 to say nothing.
    pub mtu: u16,
    /// The tap takes and gives unfinished checksums and TCP segments.
    pub tcp_offloads: bool,
    /// The same for UDP.
    pub udp_offloads: bool,
    /// Whether packed rings are offered.
    pub packed: bool,
}

/// What is behind an open network card.
#[derive(Debug)]
pub enum NetBackend {
    /// A queue of the tap for each pair; the module gets the descriptors.
    Taps(Vec<File>),
    /// Arguments of a passt that is yet to be started, one for each machine.
    Passt(Vec<String>),
}

/// What is wrong with a network card.
#[derive(Debug)]
pub enum NetError {
    /// There is no passt.
    NoPasst,
    /// Taps cannot be opened at all.
    Node(Errno),
    /// The interface cannot be made or attached to.
    Attach(Errno),
    /// The interface exists and is none that fits.
    OtherKind {
        /// Several queues were wanted.
        queues: bool,
    },
    /// A property cannot be set.
    Set(&'static str, Errno),
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPasst => write!(f, "there is no program '{PASST}' on the path: install it (the package is called passt, too)"),
            Self::Node(e @ (Errno::ENOENT | Errno::ENODEV | Errno::ENXIO)) => {
                write!(f, "cannot open {NODE} ({}): load the kernel's driver with 'modprobe tun'", e.desc())
            }
            Self::Node(e) => write!(f, "cannot open {NODE}: {}", e.desc()),
            Self::Attach(e @ (Errno::EPERM | Errno::EACCES)) => write!(
                f,
                "{}: run as root, or let root make it for you with 'ip tuntap add NAME mode tap user YOU'",
                e.desc()
            ),
            Self::Attach(Errno::EBUSY) => {
                write!(f, "it is in use by another program: end that, or give another name")
            }
            Self::Attach(e) => write!(f, "cannot attach to it: {}", e.desc()),
            Self::OtherKind { queues: false } => {
                write!(f, "it exists and is no tap with one queue: give another name, or add 'queues=N' if it has several")
            }
            Self::OtherKind { queues: true } => write!(
                f,
                "it exists and is no tap with several queues: give another name, make it with 'ip tuntap add … multi_queue', or say 'queues=1'"
            ),
            Self::Set(what, e) => write!(f, "cannot set {what}: {}", e.desc()),
        }
    }
}

impl std::error::Error for NetError {}

/// Opens what is behind a card. A tap is made, or attached to if it exists, with as many queues as `spec` says, else `cpus`
/// of them.
///
/// # Errors
/// Every `NetError`.
pub fn open(spec: &NetSpec, cpus: usize) -> Result<OpenNet, NetError> {
    match &spec.kind {
        NetKind::Tap(tap) => open_tap(spec, tap, cpus),
        NetKind::User(arguments) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            if !std::env::split_paths(&path).any(|folder| folder.join(PASST).is_file()) {
                return Err(NetError::NoPasst);
            }
            let mtu = spec.mtu.unwrap_or(USER_MTU);
            let backend = NetBackend::Passt(arguments.clone());
            let (mac, packed) = (spec.mac, spec.packed);
            Ok(OpenNet { backend, mac, mtu, tcp_offloads: false, udp_offloads: false, packed })
        }
    }
}

fn open_tap(spec: &NetSpec, tap: &str, cpus: usize) -> Result<OpenNet, NetError> {
    let pairs = spec.queues.unwrap_or(cpus).clamp(1, NET_MAX_PAIRS);
    let files = match attach(tap, pairs) {
        // A tap that was made beforehand mostly has one queue, and one is what was not asked otherwise.
        Err(NetError::OtherKind { .. }) if spec.queues.is_none() && pairs > 1 => attach(tap, 1)?,
        files => files?,
    };
    let udp_offloads = set_up(&files, TCP_OFFLOADS | UDP_OFFLOADS)?;
    let tcp_offloads = udp_offloads || set_up(&files, TCP_OFFLOADS)?;
    // The module sets what the guest can do.
    set_up(&files, 0)?;
    let backend = NetBackend::Taps(files);
    let (mac, mtu, packed) = (spec.mac, spec.mtu.unwrap_or(0), spec.packed);
    Ok(OpenNet { backend, mac, mtu, tcp_offloads, udp_offloads, packed })
}

fn attach(tap: &str, pairs: usize) -> Result<Vec<File>, NetError> {
    let several = if pairs > 1 { IFF_MULTI_QUEUE } else { 0 };
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | several;
    (0..pairs)
        .map(|_| {
            let node = OpenOptions::new().read(true).write(true).open(Path::new(NODE));
            let file =
                node.map_err(|e| NetError::Node(Errno::from_raw(e.raw_os_error().unwrap_or_default())))?;
            match sys::attach_tap(&file, tap, flags) {
                Ok(()) => Ok(file),
                Err(Errno::EINVAL | Errno::E2BIG) => Err(NetError::OtherKind { queues: pairs > 1 }),
                Err(e) => Err(NetError::Attach(e)),
            }
        })
        .collect()
}

/// Sets header and offloads. Returns whether the kernel knows all of these offloads.
fn set_up(files: &[File], offloads: u32) -> Result<bool, NetError> {
    for file in files {
        sys::set_tap_header(file, HEADER_BYTES).map_err(|e| NetError::Set("the size of the header", e))?;
        match sys::set_tap_offloads(file, offloads) {
            Ok(()) => {}
            Err(Errno::EINVAL) => return Ok(false),
            Err(e) => return Err(NetError::Set("the offloads", e)),
        }
    }
    Ok(true)
}
