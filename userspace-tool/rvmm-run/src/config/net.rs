// SPDX-License-Identifier: GPL-2.0

//! Network cards, as the user names them.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;

use super::options::{on_or_off, split};
use crate::abi::rvmm::NET_MAX_PAIRS;

/// Longest name of a network interface.
const NAME_MAX: usize = 15;
/// Smallest and largest MTU of virtio.
pub const MTU_RANGE: std::ops::RangeInclusive<u16> = 68..=65535;
/// What a specification looks like.
const USAGE: &str =
    "write tap=NAME[,mac=MAC][,mtu=BYTES][,queues=N][,packed=on|off] or user[,mac=MAC][,mtu=BYTES][,packed=on|off][,passt=ARGUMENT]";

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

impl FromStr for MacAddress {
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

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl MacAddress {
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
    pub mac: MacAddress,
    /// Largest packet for the guest to send, if it is to be told.
    pub mtu: Option<u16>,
    /// Pairs of queues; without a number, one for each processor.
    pub queues: Option<usize>,
    /// Whether packed rings are offered.
    pub packed: bool,
}

impl NetSpec {
    /// A card with an address of its own, and nothing else said of it.
    pub fn new(kind: NetKind) -> Self {
        let mac = MacAddress::for_card(&kind.to_string());
        Self { kind, mac, mtu: None, queues: None, packed: false }
    }
}

impl FromStr for NetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = split(text);
        let mut parts = parts.iter().map(String::as_str);
        let kind = parts.next().unwrap_or_default();
        let kind = match kind.strip_prefix("tap=") {
            Some(tap) => NetKind::Tap(check_name(tap)?),
            None if kind == "user" => NetKind::User(Vec::new()),
            None => return Err(USAGE.to_string()),
        };
        let mut spec = Self::new(kind);
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
                    let n = n.parse().ok().filter(|n| (1..=NET_MAX_PAIRS).contains(n));
                    spec.queues = Some(n.ok_or_else(|| format!("'{option}': 1 to {NET_MAX_PAIRS} queues"))?);
                }
                Some(("packed", choice)) => spec.packed = on_or_off(option, choice)?,
                _ => return Err(format!("'{option}' is no option of a network card: {USAGE}")),
            }
        }
        Ok(spec)
    }
}

/// Checks the name of an interface.
///
/// # Errors
/// What is wrong, for the user.
pub fn check_name(tap: &str) -> Result<String, String> {
    if tap.is_empty()
        || tap.len() > NAME_MAX
        || !tap.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'%' && b != b':')
    {
        return Err(format!("'{tap}' is no name of an interface: 1 to {NAME_MAX} letters and digits"));
    }
    Ok(tap.to_string())
}
