// SPDX-License-Identifier: GPL-2.0

//! A VM as a configuration file, with every setting in it: what `--print-config` prints.

use std::fmt::{Display, Write};
use std::path::Path;

use clap::ValueEnum;

use crate::config::disk::{DiskSpec, OnDiskError};
use crate::config::net::{NetKind, NetSpec};
use crate::config::spec::VmSpec;
use crate::config::DeviceSet;

/// Lines of `key = value`.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn raw(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.raw(key, quoted(&value.to_string()));
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, path.display());
    }

    fn table(&mut self, key: &str) {
        let _ = writeln!(self.0, "\n[[{key}]]");
    }

    /// A key that is only shown where it says something.
    fn flag(&mut self, key: &str, is_set: bool) {
        if is_set {
            self.raw(key, true);
        }
    }
}

/// Returns a VM as a file. A path that is no UTF-8 is shown as well as can be.
pub fn render(spec: &VmSpec) -> String {
    let mut lines = Lines::default();
    if let Some(name) = &spec.name {
        lines.text("name", name);
    }
    lines.path("kernel", &spec.kernel);
    if let Some(initrd) = &spec.initrd {
        lines.path("initrd", initrd);
    }
    if let Some(append) = &spec.append {
        lines.text("append", append);
    }
    if let Some(root) = &spec.root {
        lines.text("root", root);
    }
    lines.text("memory", spec.memory);
    lines.raw("cpus", spec.cpus);
    lines.text("console", &spec.console);
    lines.text("console-device", spec.console_device);
    lines.raw("no-reboot", spec.no_reboot);
    lines.raw("stop-timeout", spec.stop_timeout);
    if let Some(path) = &spec.pid_file {
        lines.path("pid-file", path);
    }
    lines.raw("stats", spec.stats);
    lines.raw("debug", spec.debug);
    lines.path("device", &spec.device);
    if spec.devices != DeviceSet::All {
        let value = spec.devices.to_possible_value();
        lines.text("devices", value.as_ref().map_or("all", |value| value.get_name()));
    }
    for disk in &spec.disks {
        add_disk(&mut lines, disk);
    }
    for net in &spec.nets {
        add_net(&mut lines, net);
    }
    for module in &spec.modules {
        lines.table("module");
        lines.path("path", &module.path);
        if !module.args.is_empty() {
            lines.text("args", &module.args);
        }
    }
    lines.0
}

fn add_disk(lines: &mut Lines, disk: &DiskSpec) {
    lines.table("disk");
    lines.path("path", &disk.path);
    lines.flag("ro", disk.read_only);
    if !disk.serial.is_empty() {
        lines.text("serial", &disk.serial);
    }
    if let Some(queues) = disk.queues {
        lines.raw("queues", queues);
    }
    lines.flag("packed", disk.packed);
    if disk.is_raw {
        lines.text("format", "raw");
    }
    if disk.on_error == OnDiskError::Stop {
        lines.text("on-error", "stop");
    }
}

fn add_net(lines: &mut Lines, net: &NetSpec) {
    lines.table("net");
    match &net.kind {
        NetKind::Tap(name) => lines.text("tap", name),
        NetKind::User(passt) => {
            lines.raw("user", true);
            if !passt.is_empty() {
                let arguments: Vec<String> = passt.iter().map(|text| quoted(text)).collect();
                lines.raw("passt", format_args!("[{}]", arguments.join(", ")));
            }
        }
    }
    lines.text("mac", net.mac);
    if let Some(mtu) = net.mtu {
        lines.raw("mtu", mtu);
    }
    if let Some(queues) = net.queues {
        lines.raw("queues", queues);
    }
    lines.flag("packed", net.packed);
}

/// Returns text as a basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
