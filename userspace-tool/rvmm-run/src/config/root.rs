// SPDX-License-Identifier: GPL-2.0

//! The option `--root`: a disk and a partition in OpenBSD's words.

use std::fmt;
use std::str::FromStr;

/// A root device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootDevice {
    /// Number of the block device driver, the same on amd64 and i386.
    pub major: u8,
    /// Which of its disks.
    pub unit: u8,
    /// Which partition: 0 is a.
    pub partition: u8,
    /// The unique id in the disk's label, which goes before driver and unit.
    pub duid: Option<[u8; 8]>,
}

/// Drivers of disks with their numbers. OpenBSD, `sys/arch/amd64/amd64/conf.c`, `bdevsw`.
const DRIVERS: [(&str, u8); 5] = [("wd", 0), ("fd", 2), ("sd", 4), ("cd", 6), ("rd", 17)];
/// The highest unit that a boot device has room for.
const MAX_UNIT: u8 = 15;

impl Default for RootDevice {
    /// The first partition of the first virtio disk.
    fn default() -> Self {
        Self { major: 4, unit: 0, partition: 0, duid: None }
    }
}

impl FromStr for RootDevice {
    type Err = String;

    /// Parses `sd0a`, or a unique id of 16 digits with `.a`.
    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| {
            format!("'{text}' is no root device: give driver, unit and partition, as in sd0a, or a disk's unique id and the partition, as in 0123456789abcdef.a")
        })
    }
}

impl fmt::Display for RootDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partition = char::from(b'a'.saturating_add(self.partition));
        if let Some(duid) = self.duid {
            return write!(f, "{:016x}.{partition}", u64::from_be_bytes(duid));
        }
        let driver = DRIVERS.iter().find(|(_, major)| *major == self.major).map_or("?", |(name, _)| name);
        write!(f, "{driver}{}{partition}", self.unit)
    }
}

fn parse(text: &str) -> Option<RootDevice> {
    let partition = partition(text.chars().last()?)?;
    let disk = &text[..text.len() - 1];
    if let Some(digits) = disk.strip_suffix('.') {
        if digits.len() != 16 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let duid = u64::from_str_radix(digits, 16).ok()?.to_be_bytes();
        return Some(RootDevice { partition, duid: Some(duid), ..Default::default() });
    }
    let (name, major) = DRIVERS.iter().find(|(name, _)| disk.starts_with(name))?;
    let digits = &disk[name.len()..];
    let unit = digits.parse().ok().filter(|unit| *unit <= MAX_UNIT && !digits.starts_with('+'))?;
    Some(RootDevice { major: *major, unit, partition, duid: None })
}

fn partition(letter: char) -> Option<u8> {
    ('a'..='p').position(|known| known == letter).map(|n| n as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_openbsd_does() {
        let device = |major, unit, partition| RootDevice { major, unit, partition, duid: None };

        assert_eq!("sd0a".parse(), Ok(RootDevice::default()));
        assert_eq!("wd15p".parse(), Ok(device(0, 15, 15)));
        assert_eq!("rd0a".parse(), Ok(device(17, 0, 0)));
        for text in ["", "a", "sda", "sd0", "sd16a", "sd0q", "hd0a", "sd-1a", "sd+1a", "sd0aé"] {
            assert!(text.parse::<RootDevice>().is_err(), "{text}");
        }
    }

    #[test]
    fn unique_id_names_a_disk_wherever_it_is() {
        let root: RootDevice = "0123456789ABCDEF.d".parse().unwrap();

        assert_eq!(root.duid, Some([0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]));
        assert_eq!(root.partition, 3);
        for text in ["0123456789abcde.a", "0123456789abcdefa", "+123456789abcdef.a", ".a"] {
            assert!(text.parse::<RootDevice>().is_err(), "{text}");
        }
    }
}
