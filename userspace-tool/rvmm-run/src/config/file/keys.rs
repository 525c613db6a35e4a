// SPDX-License-Identifier: GPL-2.0

//! The keys of a configuration file: those of the file itself, of a disk, of a network card and of a module.
//!
//! A key is called as the option that it does the same as, and takes what that takes. What an option puts behind commas
//! are keys of a table here.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::SourceFile;
use super::table::{Located, TableReader};
use crate::abi::rvmm::{BLK_MAX_QUEUES, NET_MAX_PAIRS};
use crate::config::console::ConsoleSpec;
use crate::config::disk::{check_serial, DiskSpec, RAW_ONLY};
use crate::config::memory::RamSize;
use crate::config::module::ModuleSpec;
use crate::config::net::{check_name, NetKind, NetSpec, MTU_RANGE};
use crate::config::spec::SpecLayer;

/// What a file says: its own settings, and where others come from.
#[derive(Debug, Default)]
pub struct FileContents {
    /// Its own settings.
    pub layer: SpecLayer,
    /// Files whose settings lie below its own, the last one highest.
    pub include: Vec<Located<PathBuf>>,
    /// The VM that this one is made after, below all of those: a name or a path, as it stands there.
    pub base: Option<Located<String>>,
}

/// Reads a file's text. What is wrong is noted in `source`.
pub fn parse(source: &SourceFile<'_>) -> FileContents {
    let (document, errors) = toml::de::DeTable::parse_recoverable(source.text);
    if !errors.is_empty() {
        for error in errors {
            let end = source.text.len();
            source.wrong(&error.span().unwrap_or(end..end), in_one_line(error.message()));
        }
        return FileContents::default();
    }
    let mut reader = TableReader::new(source, document.get_ref(), "");
    let contents = read(&mut reader);
    reader.finish();
    contents
}

/// The parser's message in one line, without what it expects where it says that already.
fn in_one_line(message: &str) -> String {
    let line = message.lines().collect::<Vec<_>>().join(", ");
    line.strip_suffix(", expected literal string").map_or(line.clone(), str::to_string)
}

/// Returns every key of a file itself.
pub fn known() -> Vec<&'static str> {
    let (source, table) = (SourceFile::new(Path::new(""), ""), toml::de::DeTable::new());
    let mut reader = TableReader::new(&source, &table, "");
    read(&mut reader);
    reader.asked().to_vec()
}

fn read(file: &mut TableReader<'_>) -> FileContents {
    let include = file.texts("include").unwrap_or_default();
    let include = include
        .into_iter()
        .map(|text| Located { value: file.beside(Path::new(text.value)), at: text.at })
        .collect();
    let base = file.text("base").map(|text| Located { value: text.value.to_string(), at: text.at });
    let layer = SpecLayer {
        name: file.parsed("name"),
        kernel: file.path("kernel"),
        initrd: file.path("initrd"),
        append: file.text("append").map(|text| text.value.to_string()),
        root: file.parsed("root"),
        memory: file.size("memory", RamSize::parse),
        cpus: file.number("cpus", 1..=u32::MAX),
        console: console(file),
        console_device: file.parsed("console-device"),
        no_reboot: file.flag("no-reboot"),
        stats: file.flag("stats"),
        debug: file.flag("debug"),
        stop_timeout: file.number("stop-timeout", 0..=u32::MAX),
        pid_file: file.path("pid-file"),
        device: file.path("device"),
        devices: file.parsed("devices"),
        disks: disks(file),
        nets: nets(file),
        modules: modules(file),
    };
    FileContents { layer, include, base }
}

/// The console; a file's path is relative as all are.
fn console(file: &mut TableReader<'_>) -> Option<ConsoleSpec> {
    Some(match file.parsed("console")? {
        ConsoleSpec::File(path) => ConsoleSpec::File(file.beside(&path)),
        other => other,
    })
}

fn disks(file: &mut TableReader<'_>) -> Option<Vec<DiskSpec>> {
    let disks = file.items("disk", " of a disk", Some(DiskSpec::plain), disk)?;
    for (n, disk) in disks.iter().enumerate() {
        let has_writer = |other: &Located<DiskSpec>| !(other.value.read_only && disk.value.read_only);
        if disks.iter().take(n).any(|other| other.value.path == disk.value.path && has_writer(other)) {
            file.wrong(&disk.at, "disk: this one is there twice, and not read-only both times");
        }
    }
    Some(values(disks))
}

fn disk(table: &mut TableReader<'_>, at: Range<usize>) -> Option<DiskSpec> {
    let path = table.path("path");
    if table.place("path").is_none() {
        table.wrong(&at, "disk: there is no path");
    }
    let mut disk = DiskSpec::plain(path.unwrap_or_default());
    disk.read_only = table.flag("ro").unwrap_or_default();
    if let Some(serial) = table.text("serial") {
        match check_serial(serial.value) {
            Ok(()) => disk.serial = serial.value.to_string(),
            Err(e) => table.wrong(&serial.at, e),
        }
    }
    disk.queues = table.number("queues", 1..=BLK_MAX_QUEUES);
    disk.packed = table.flag("packed").unwrap_or_default();
    if let Some(format) = table.text("format") {
        disk.is_raw = format.value == "raw";
        if !disk.is_raw {
            table.wrong(&format.at, format!("format: {RAW_ONLY}"));
        }
    }
    disk.on_error = table.parsed("on-error").unwrap_or_default();
    Some(disk)
}

fn nets(file: &mut TableReader<'_>) -> Option<Vec<NetSpec>> {
    let nets = file.items("net", " of a network card", None::<fn(PathBuf) -> NetSpec>, net)?;
    for (n, net) in nets.iter().enumerate() {
        let mut before = nets.iter().take(n);
        let is_tap = matches!(net.value.kind, NetKind::Tap(_));
        if is_tap && before.clone().any(|other| other.value.kind == net.value.kind) {
            file.wrong(&net.at, "net: another card has this tap interface");
        } else if is_tap && before.any(|other| other.value.mac == net.value.mac) {
            file.wrong(&net.at, "net: another card has this address");
        }
    }
    Some(values(nets))
}

fn net(table: &mut TableReader<'_>, at: Range<usize>) -> Option<NetSpec> {
    let tap = table.text("tap");
    let is_user = table.flag("user");
    let passt = table.texts("passt");
    let kind = match (&tap, is_user) {
        (Some(tap), None | Some(false)) => match check_name(tap.value) {
            Ok(name) => Some(NetKind::Tap(name)),
            Err(e) => {
                table.wrong(&tap.at, format!("tap: {e}"));
                None
            }
        },
        (Some(tap), Some(true)) => {
            table.wrong(&tap.at, "tap: the card is on 'user' already: it can be on one of them");
            None
        }
        (None, Some(true)) => {
            let arguments = passt.iter().flatten().map(|text| text.value.to_string());
            Some(NetKind::User(arguments.collect()))
        }
        (None, _) => {
            if table.place("tap").is_none() {
                table
                    .wrong(&at, "net: there is nothing behind the card: write tap = \"NAME\" or user = true");
            }
            None
        }
    };
    let mut net = NetSpec::new(kind.clone().unwrap_or_else(|| NetKind::User(Vec::new())));
    if let Some(mac) = table.parsed("mac") {
        net.mac = mac;
    }
    net.mtu = table.number("mtu", MTU_RANGE);
    net.queues = table.number("queues", 1..=NET_MAX_PAIRS as u16).map(usize::from);
    net.packed = table.flag("packed").unwrap_or_default();
    for (key, is_of_user) in [("queues", false), ("passt", true)] {
        if let (Some(at), Some(kind)) = (table.place(key), &kind) {
            if matches!(kind, NetKind::User(_)) != is_of_user {
                let other = if is_of_user { "a card with user = true" } else { "a card with a tap" };
                table.wrong(&at, format!("{key}: it is for {other}"));
            }
        }
    }
    kind.map(|_| net)
}

fn modules(file: &mut TableReader<'_>) -> Option<Vec<ModuleSpec>> {
    let of_path = |path| ModuleSpec { path, args: String::new() };
    let modules = file.items("module", " of a module", Some(of_path), |table, at| {
        let path = table.path("path");
        if table.place("path").is_none() {
            table.wrong(&at, "module: there is no path");
        }
        let args = table.text("args").map_or_else(String::new, |text| text.value.to_string());
        Some(ModuleSpec { path: path?, args })
    })?;
    Some(values(modules))
}

fn values<T>(located: Vec<Located<T>>) -> Vec<T> {
    located.into_iter().map(|item| item.value).collect()
}
