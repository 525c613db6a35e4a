// SPDX-License-Identifier: GPL-2.0

//! Disks, as the user names them.

use std::path::PathBuf;
use std::str::FromStr;

use super::options::{on_or_off, split};
use crate::abi::rvmm::{BLK_MAX_QUEUES, BLK_SERIAL_BYTES};

/// Virtio counts disks in sectors of this size.
pub const SECTOR: u64 = 512;

/// A disk as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Image file or block device.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Serial number for the guest, at most 20 bytes.
    pub serial: String,
    /// Whether packed rings are offered.
    pub packed: bool,
    /// Queues; without a number, one for each processor.
    pub queues: Option<u16>,
    /// It is raw, whatever it looks like.
    pub is_raw: bool,
    /// What comes of an error of the host's.
    pub on_error: OnDiskError,
}

/// What comes of a request of the guest's that the host cannot carry out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDiskError {
    /// The guest has an I/O error, and the user is told once.
    #[default]
    Report,
    /// The guest is paused until the user has it try again.
    Stop,
}

impl FromStr for OnDiskError {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "report" => Ok(Self::Report),
            "stop" => Ok(Self::Stop),
            _ => Err("report or stop".to_string()),
        }
    }
}

/// What is said of any other format.
pub const RAW_ONLY: &str = "disks are raw; 'qemu-img convert -O raw OLD NEW' makes them so";
/// What a specification looks like.
const USAGE: &str = "write path[,ro][,serial=TEXT][,queues=N][,packed=on|off][,format=raw][,on-error=report|stop]; a comma in the path is written twice";

impl DiskSpec {
    /// A writable disk without a serial number.
    pub fn plain(path: PathBuf) -> Self {
        Self {
            path,
            read_only: false,
            serial: String::new(),
            packed: false,
            queues: None,
            is_raw: false,
            on_error: OnDiskError::Report,
        }
    }
}

/// Checks a serial number.
///
/// # Errors
/// What is wrong, for the user.
pub fn check_serial(serial: &str) -> Result<(), String> {
    if serial.is_empty() || serial.len() > BLK_SERIAL_BYTES || !serial.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "serial '{serial}' must have 1 to {BLK_SERIAL_BYTES} printable ASCII characters"
        ));
    }
    Ok(())
}

impl FromStr for DiskSpec {
    type Err = String;

    /// Parses `path[,ro][,serial=TEXT][,queues=N][,packed=on|off][,format=raw][,on-error=report|stop]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = split(text);
        let mut parts = parts.iter().map(String::as_str);
        let path =
            parts.next().filter(|p| !p.is_empty()).ok_or_else(|| format!("the path is missing: {USAGE}"))?;
        let mut spec = Self::plain(PathBuf::from(path));
        for option in parts {
            match option.split_once('=') {
                Some(("format", "raw")) => spec.is_raw = true,
                Some(("format", _)) => {
                    return Err(format!("'{option}': {RAW_ONLY}"));
                }
                None if option == "ro" => spec.read_only = true,
                Some(("serial", serial)) => {
                    check_serial(serial)?;
                    spec.serial = serial.to_string();
                }
                Some(("queues", n)) => {
                    let n = n.parse().ok().filter(|n| (1..=BLK_MAX_QUEUES).contains(n));
                    spec.queues = Some(n.ok_or_else(|| format!("'{option}': 1 to {BLK_MAX_QUEUES} queues"))?);
                }
                Some(("on-error", choice)) => {
                    spec.on_error = choice.parse().map_err(|e| format!("'{option}': {e}"))?;
                }
                Some(("packed", choice)) => spec.packed = on_or_off(option, choice)?,
                _ => return Err(format!("'{option}' is no option of a disk: {USAGE}")),
            }
        }
        Ok(spec)
    }
}
