// SPDX-License-Identifier: GPL-2.0

//! Network cards: how they are named on the command line, and what is behind them: a tap of the host, or passt, which
//! makes a network out of the host's own sockets and needs no rights.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use nix::errno::Errno;
use nix::unistd::dup;

use crate::disk::on_or_off;
use crate::sys;

/// Longest name of a network interface.
const NAME_MAX: usize = 15;
/// Most pairs of queues of a card.
pub const PAIRS_MAX: usize = 8;
/// Smallest and largest MTU of virtio.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 68..=65535;
/// Bytes of the header in front of each packet.
const HEADER_BYTES: i32 = 12;
/// Where taps come from.
const NODE: &str = "/dev/net/tun";
/// What a specification looks like.
const USAGE: &str =
    "write tap=NAME[,mac=MAC][,mtu=BYTES][,queues=N][,packed=on|off] or user[,mac=MAC][,mtu=BYTES][,packed=on|off][,passt=ARGUMENT]";
/// The program behind `user`.
const PASST: &str = "passt";
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

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no address of the form 52:54:00:12:34:56");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(format!("'{text}' is no address of one card: it is a group's, or none at all"));
        }
        Ok(Self(bytes))
    }
}

impl Mac {
    /// An address that stays the same for a card of this host, and differs from those of other hosts.
    fn for_card(tap: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        std::fs::read("/etc/machine-id").unwrap_or_default().hash(&mut hasher);
        tap.hash(&mut hasher);
        let [a, b, c, ..] = hasher.finish().to_ne_bytes();
        Self([0x52, 0x54, 0x00, a, b, c])
    }
}

/// What is behind a network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetKind {
    /// This interface of the host.
    Tap(String),
    /// A network in user space, with these further arguments to passt.
    User(Vec<String>),
}

impl fmt::Display for NetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(tap) => write!(f, "network interface '{tap}'"),
            Self::User(_) => write!(f, "network in user space"),
        }
    }
}

/// A network card as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSpec {
    /// What is behind it.
    pub kind: NetKind,
    /// Address of the guest's card.
    pub mac: Mac,
    /// Largest packet for the guest to send, if it is to be told.
    pub mtu: Option<u16>,
    /// Pairs of queues; without a number, one for each processor.
    pub queues: Option<usize>,
    /// Whether packed rings are offered.
    pub packed: bool,
}

impl FromStr for NetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let kind = match kind.strip_prefix("tap=") {
            Some(tap) => NetKind::Tap(check_name(tap)?),
            None if kind == "user" => NetKind::User(Vec::new()),
            None => return Err(USAGE.to_string()),
        };
        let mac = Mac::for_card(&kind.to_string());
        let mut spec = Self { kind, mac, mtu: None, queues: None, packed: false };
        for option in parts {
            if let (NetKind::User(arguments), Some(argument)) =
                (&mut spec.kind, option.strip_prefix("passt="))
            {
                arguments.push(argument.to_string());
                continue;
            }
            match option.split_once('=') {
                Some(("queues", _)) if matches!(spec.kind, NetKind::User(_)) => {
                    return Err("a network in user space has one pair of queues".to_string());
                }
                Some(("mac", mac)) => spec.mac = mac.parse()?,
                Some(("mtu", mtu)) => {
                    let mtu = mtu.parse().ok().filter(|n| MTU_RANGE.contains(n));
                    spec.mtu =
                        Some(mtu.ok_or_else(|| format!("'{option}': the MTU is a number from 68 to 65535"))?);
                }
                Some(("queues", n)) => {
                    let n = n.parse().ok().filter(|n| (1..=PAIRS_MAX).contains(n));
                    spec.queues = Some(n.ok_or_else(|| format!("'{option}': 1 to {PAIRS_MAX} queues"))?);
                }
                Some(("packed", choice)) => spec.packed = on_or_off(option, choice)?,
                _ => return Err(format!("'{option}' is no option of a network card: {USAGE}")),
            }
        }
        Ok(spec)
    }
}

fn check_name(tap: &str) -> Result<String, String> {
    if tap.is_empty()
        || tap.len() > NAME_MAX
        || !tap.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'%' && b != b':')
    {
        return Err(format!("'{tap}' is no name of an interface: 1 to {NAME_MAX} letters and digits"));
    }
    Ok(tap.to_string())
}

/// A network card that was checked.
#[derive(Debug)]
pub struct Net {
    /// What is behind it.
    pub way: Way,
    /// Address of the guest's card.
    pub mac: Mac,
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
pub enum Way {
    /// A queue of the tap for each pair; the module gets the descriptors.
    Taps(Vec<File>),
    /// Arguments of a passt that is yet to be started, one for each machine.
    Passt(Vec<String>),
}

/// A passt that runs, and the socket that it carries packets through. It ends with this.
#[derive(Debug)]
pub struct Passt {
    child: Child,
    /// Our end, for the module.
    pub socket: UnixStream,
}

impl Passt {
    /// Starts one.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn start(arguments: &[String]) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        // A copy that stays open in the child. It is closed here before any other program is started.
        let theirs: OwnedFd = dup(theirs)?;
        let child = Command::new(PASST)
            .args(["--foreground", "--quiet", "--fd", &theirs.as_raw_fd().to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { child, socket })
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // It ends by itself when the socket is closed, but the module may still hold that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
pub fn open(spec: &NetSpec, cpus: usize) -> Result<Net, NetError> {
    match &spec.kind {
        NetKind::Tap(tap) => open_tap(spec, tap, cpus),
        NetKind::User(arguments) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            if !std::env::split_paths(&path).any(|folder| folder.join(PASST).is_file()) {
                return Err(NetError::NoPasst);
            }
            let mtu = spec.mtu.unwrap_or(USER_MTU);
            let way = Way::Passt(arguments.clone());
            let (mac, packed) = (spec.mac, spec.packed);
            Ok(Net { way, mac, mtu, tcp_offloads: false, udp_offloads: false, packed })
        }
    }
}

fn open_tap(spec: &NetSpec, tap: &str, cpus: usize) -> Result<Net, NetError> {
    let pairs = spec.queues.unwrap_or(cpus).clamp(1, PAIRS_MAX);
    let files = match attach(tap, pairs) {
        // A tap that was made beforehand mostly has one queue, and one is what was not asked otherwise.
        Err(NetError::OtherKind { .. }) if spec.queues.is_none() && pairs > 1 => attach(tap, 1)?,
        files => files?,
    };
    let udp_offloads = set_up(&files, TCP_OFFLOADS | UDP_OFFLOADS)?;
    let tcp_offloads = udp_offloads || set_up(&files, TCP_OFFLOADS)?;
    // The module sets what the guest can do.
    set_up(&files, 0)?;
    let way = Way::Taps(files);
    let (mac, mtu, packed) = (spec.mac, spec.mtu.unwrap_or(0), spec.packed);
    Ok(Net { way, mac, mtu, tcp_offloads, udp_offloads, packed })
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
