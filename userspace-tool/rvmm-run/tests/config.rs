// SPDX-License-Identifier: GPL-2.0

//! Configuration files: what they mean, and what is said of those that are wrong.
//!
//! Every file of bad-config/ is wrong, and tells at its head, in lines that begin with `#!`, exactly what is said of it.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::{CommandFactory, Parser};
use common::TempDir;
use proptest::prelude::*;
use rvmm_run::config::cli::CommandLine;
use rvmm_run::config::console::{ConsoleDevice, ConsoleSpec};
use rvmm_run::config::disk::{DiskSpec, OnDiskError};
use rvmm_run::config::file::error::{FileErrors, SourceFile};
use rvmm_run::config::file::print::render;
use rvmm_run::config::file::{keys, load};
use rvmm_run::config::module::ModuleSpec;
use rvmm_run::config::net::{MacAddress, NetKind, NetSpec};
use rvmm_run::config::root::RootDevice;
use rvmm_run::config::spec::{SpecLayer, VmSpec};
use rvmm_run::config::DeviceSet;

/// Options that say what is to be done, and not what a VM is.
const ACTIONS: [&str; 6] = ["file", "print-config", "check", "completions", "help", "version"];

fn layer_of(text: &str) -> Result<SpecLayer, FileErrors> {
    let source = SourceFile::new(Path::new("vms/x.toml"), text);
    let contents = keys::parse(&source);
    match source.into_errors() {
        errors if errors.is_empty() => Ok(contents.layer),
        errors => Err(FileErrors(errors)),
    }
}

fn of_command_line(args: &[&str]) -> SpecLayer {
    CommandLine::try_parse_from([&["rvmm-run"], args].concat()).unwrap().layer()
}

#[test]
fn every_wrong_file_is_told_what_is_wrong_with_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-config");
    std::env::set_current_dir(&folder).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(".").unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    let mut failures = Vec::new();

    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let wanted: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#! ")).collect();
        let told = match load(Path::new(file), &[PathBuf::from("/nonexistent")]) {
            Ok(_) => "nothing".to_string(),
            Err(errors) => errors.to_string(),
        };
        if told != wanted.join("\n") || wanted.is_empty() {
            failures.push(format!("{}:\n{told}", Path::new(file).display()));
        }
    }

    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), files.len(), failures.join("\n"));
    assert!(files.len() >= 60, "{} files", files.len());
}

#[test]
fn file_and_command_line_make_the_same_vm() {
    let file = "
        kernel = '/boot/vmlinuz'
        initrd = 'initrd.img'
        append = 'console=hvc0_quiet'
        root = 'sd1b'
        memory = '2G'
        cpus = 4
        console = 'file:/tmp/out'
        console-device = 'virtio,packed=on'
        name = 'web-1'
        pid-file = 'web.pid'
        stop-timeout = 60
        no-reboot = true
        stats = true
        debug = true
        device = '/dev/kvm'
        devices = 'isa'
        disk = [
            '/srv/a,b.img',
            { path = 'b.img', ro = true, serial = 'S1', queues = 2, packed = true, format = 'raw', on-error = 'stop' },
        ]
        [[net]]
        tap = 't0'
        mac = '52:54:00:12:34:56'
        mtu = 9000
        queues = 2
        packed = true
        [[net]]
        user = true
        passt = ['--tcp-ports=2222:22', '-q']
        [[module]]
        path = 'm'
        args = 'one_two'";
    let command_line = "--name web-1 --pid-file vms/web.pid --initrd vms/initrd.img --append console=hvc0_quiet --root sd1b -m 2G -c 4 --stop-timeout 60
        --console file:/tmp/out --console-device virtio,packed=on --no-reboot --stats --debug --device=/dev/kvm
        --devices isa --disk /srv/a,,b.img --module vms/m,one_two
        --disk vms/b.img,ro,serial=S1,queues=2,packed=on,format=raw,on-error=stop
        --net tap=t0,mac=52:54:00:12:34:56,mtu=9000,queues=2,packed=on
        --net user,passt=--tcp-ports=2222:22,passt=-q /boot/vmlinuz";
    let command_line: Vec<&str> = command_line.split_whitespace().collect();

    assert_eq!(layer_of(file).unwrap(), of_command_line(&command_line));
}

#[test]
fn every_option_has_its_key() {
    let options: BTreeSet<String> = CommandLine::command()
        .get_arguments()
        .filter(|arg| !ACTIONS.contains(&arg.get_id().as_str().replace('_', "-").as_str()))
        .map(|arg| match arg.get_long() {
            Some(long) => long.to_string(),
            None if arg.get_id() == "kernel" => "kernel".to_string(),
            // Plain disks are disks, too.
            None => "disk".to_string(),
        })
        .collect();
    let keys: BTreeSet<String> = keys::known().into_iter().map(str::to_string).collect();
    let of_files: BTreeSet<String> = ["base", "include"].map(str::to_string).into();

    assert_eq!(keys, options.union(&of_files).cloned().collect());
}

#[test]
fn manual_tells_of_every_key_and_no_other() {
    let manual = include_str!("../../../docs/man/rvmm.toml.5");
    let keys = manual.split(".Sh KEYS\n").nth(1).unwrap().split(".Sh").next().unwrap();
    let told: BTreeSet<&str> = keys
        .lines()
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .map(|key| key.split(' ').next().unwrap())
        .collect();
    let hidden = ["devices"];

    assert_eq!(told, keys::known().into_iter().filter(|key| !hidden.contains(key)).collect());
}

#[test]
fn help_tells_the_defaults_as_they_are() {
    let defaults = SpecLayer { kernel: Some("k".into()), ..Default::default() }.finish().unwrap();
    let printed = render(&defaults);
    let mut told = 0;

    for arg in CommandLine::command().get_arguments() {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        if let Some((_, rest)) = help.split_once("[default: ") {
            let (default, key) = (rest.split(']').next().unwrap(), arg.get_long().unwrap());
            let line = printed.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap();
            assert_eq!(line.split(" = ").nth(1).unwrap().trim_matches('"'), default, "{key}");
            told += 1;
        }
    }

    assert!(told >= 5, "{told}");
}

#[test]
fn what_is_included_lies_below_and_the_base_below_that() {
    let dir = TempDir::new();
    dir.file(
        "base.toml",
        b"kernel = 'of-base'\nname = 'base'\ncpus = 1\nmemory = '1G'\nstats = true\ndisk = ['a', 'b']",
    );
    dir.file("one.toml", b"cpus = 2\nmemory = '2G'\nappend = 'one'");
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    dir.file("sub/two.toml", b"cpus = 3\ninitrd = 'beside-two'");
    let file = dir.file("x.toml", b"base = 'base'\ninclude = ['one.toml', 'sub/two.toml']\ndisk = ['own']");

    let layer = load(&file, &[]).unwrap();

    let here = |name: &str| dir.path().join(name);
    assert_eq!(layer.kernel, Some(here("of-base")));
    assert_eq!(layer.name, None, "the base is another VM");
    assert_eq!(layer.cpus, Some(3), "the last include is the highest");
    assert_eq!(layer.memory.map(|m| m.to_string()), Some("2G".into()), "an include goes before the base");
    assert_eq!((layer.stats, layer.append.as_deref()), (Some(true), Some("one")));
    assert_eq!(layer.initrd, Some(here("sub/beside-two")), "paths are relative to the file that has them");
    assert_eq!(layer.disks, Some(vec![DiskSpec::plain(here("own"))]), "a list is one setting");
}

#[test]
fn base_is_found_by_name_in_the_folders_too() {
    let (dir, system) = (TempDir::new(), TempDir::new());
    system.file("debian.toml", b"kernel = 'k'");
    let file = dir.file("web.toml", b"base = 'debian'");

    let layer = load(&file, &[PathBuf::from("/nonexistent"), system.path().into()]).unwrap();

    assert_eq!(layer.kernel, Some(system.path().join("k")));
}

#[test]
fn files_that_are_none() {
    let dir = TempDir::new();
    let told = |path: &Path| load(path, &[]).unwrap_err().to_string();
    let latin1 = dir.file("latin1.toml", b"kernel = 'k'\nappend = 'caf\xe9'\n");
    let endless = Path::new("/dev/zero");

    assert_eq!(told(&latin1), format!("{}: line 2 is not text in UTF-8", latin1.display()));
    assert_eq!(told(endless), "/dev/zero: the file is longer than 1 MiB: is it a configuration?");
    assert_eq!(told(Path::new("/gone.toml")), "/gone.toml: No such file or directory: check the path");
    assert!(told(dir.path()).contains("directory"), "{}", told(dir.path()));
}

#[test]
fn files_are_included_only_so_deep() {
    let dir = TempDir::new();
    for n in 0..9 {
        dir.file(&format!("{n}.toml"), format!("include = ['{}.toml']", n + 1).as_bytes());
    }
    dir.file("9.toml", b"kernel = 'k'");

    let deep = load(&dir.path().join("0.toml"), &[]).unwrap_err().to_string();

    assert!(
        deep.contains("7.toml:1:12:") && deep.contains("8.toml: files may include each other 8 deep"),
        "{deep}"
    );
    assert!(load(&dir.path().join("2.toml"), &[]).is_ok());
}

fn tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rvmm-run")).args(args).output().expect("the tool starts")
}

#[test]
fn print_config_shows_what_would_run() {
    let dir = TempDir::new();
    let file = dir.file("web.toml", b"kernel = 'k'\nmemory = '1G'\ncpus = 2\ndisk = ['d']");
    let path = file.to_str().unwrap();

    let output = tool(&["-f", path, "-m", "3G", "--no-reboot", "--print-config"]);

    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let spec = layer_of(&text).unwrap().finish().unwrap();
    assert_eq!(spec.kernel, dir.path().join("k"));
    assert_eq!((spec.memory.to_string().as_str(), spec.cpus, spec.no_reboot), ("3G", 2, true));
    assert_eq!(spec.disks, [DiskSpec::plain(dir.path().join("d"))]);
    assert_eq!(spec.name, Some("web".parse().unwrap()), "the file's name is the VM's");
}

#[test]
fn wrong_file_ends_with_one_and_a_line_for_each_mistake() {
    let dir = TempDir::new();
    let wrong = dir.file("wrong.toml", b"kernel = 'k'\ncpu = 1\nmemory = 'x'\n");
    let empty = dir.file("empty.toml", b"");
    let told = |path: &Path| {
        let output = tool(&["-f", path.to_str().unwrap(), "--device", "/nonexistent"]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };

    let lines = told(&wrong);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.lines().all(|line| line.starts_with("rvmm-run: /")), "{lines}");
    assert!(
        lines.contains("wrong.toml:2:1: unknown key 'cpu'") && lines.contains("wrong.toml:3:10: memory:"),
        "{lines}"
    );
    assert!(told(&empty).contains("no kernel is given"));
    assert!(told(Path::new("no-such-vm")).contains("no-such-vm.toml: No such file"));
}

fn some_text() -> impl Strategy<Value = String> {
    "[^\0]{0,12}"
}

fn some_path() -> impl Strategy<Value = PathBuf> {
    "/[^\0]{1,12}".prop_map(PathBuf::from)
}

prop_compose! {
    fn some_disk()(
        path in some_path(), read_only: bool, serial in "[!-~]{0,20}", packed: bool,
        queues in proptest::option::of(1u16..=16), is_raw: bool, stops: bool,
    ) -> DiskSpec {
        let on_error = if stops { OnDiskError::Stop } else { OnDiskError::Report };
        DiskSpec { path, read_only, serial, packed, queues, is_raw, on_error }
    }
}

fn some_net() -> impl Strategy<Value = NetSpec> {
    let user = proptest::collection::vec(some_text(), 0..3).prop_map(|passt| (NetKind::User(passt), None));
    let queues = proptest::option::of(1usize..=8);
    let tap = ("[a-z]{1,15}", queues).prop_map(|(name, queues)| (NetKind::Tap(name), queues));
    let others = (any::<[u8; 3]>(), proptest::option::of(68u16..), any::<bool>());
    (prop_oneof![user, tap], others).prop_map(|((kind, queues), ([a, b, c], mtu, packed))| NetSpec {
        mac: MacAddress([0x52, 0x54, 0, a, b, c]),
        mtu,
        queues,
        packed,
        ..NetSpec::new(kind)
    })
}

fn some_console() -> impl Strategy<Value = (ConsoleSpec, ConsoleDevice)> {
    let console = prop_oneof![
        Just(ConsoleSpec::Pty),
        Just(ConsoleSpec::Stdio),
        Just(ConsoleSpec::None),
        some_path().prop_map(ConsoleSpec::File)
    ];
    let device = prop_oneof![
        Just(ConsoleDevice::Uart),
        any::<bool>().prop_map(|packed| ConsoleDevice::Virtio { packed })
    ];
    (console, device)
}

fn some_root() -> impl Strategy<Value = RootDevice> {
    prop_oneof!["(wd|fd|sd|cd|rd)(1[0-5]|[0-9])[a-p]", "[0-9a-f]{16}\\.[a-p]"]
        .prop_map(|text| text.parse().unwrap())
}

prop_compose! {
    fn some_spec()(
        (kernel, name, stop_timeout) in (some_path(), proptest::option::of("[a-z0-9][a-zA-Z0-9._-]{0,63}"), 0u32..),
        disks in proptest::collection::vec(some_disk(), 0..3),
        nets in proptest::collection::vec(some_net(), 0..3),
        initrd in proptest::option::of(some_path()),
        modules in proptest::collection::vec((some_path(), some_text()), 0..3),
        append in proptest::option::of(some_text()),
        root in proptest::option::of(some_root()),
        (pages, cpus) in (4096u64..1 << 40, 1u32..),
        (console, console_device) in some_console(),
        (no_reboot, stats, debug) in any::<(bool, bool, bool)>(),
        (device, pid_file) in (some_path(), proptest::option::of(some_path())),
        devices in prop_oneof![Just(DeviceSet::All), Just(DeviceSet::Isa), Just(DeviceSet::None)],
    ) -> VmSpec {
        let memory = rvmm_run::config::memory::RamSize::from_bytes(pages * 4096).unwrap();
        let modules = modules.into_iter().map(|(path, args)| ModuleSpec { path, args }).collect();
        let name = name.map(|name| name.parse().unwrap());
        VmSpec {
            name, pid_file, stop_timeout,
            kernel, disks, nets, initrd, modules, append, root, memory, cpus, console, console_device, no_reboot,
            device, devices, stats, debug,
        }
    }
}

/// Whether a file may say this: it names no disk and no tap interface twice.
fn is_told_in_a_file(spec: &VmSpec) -> bool {
    let paths: BTreeSet<_> = spec.disks.iter().map(|disk| &disk.path).collect();
    let taps: Vec<_> = spec.nets.iter().filter(|net| matches!(net.kind, NetKind::Tap(_))).collect();
    let names: BTreeSet<_> = taps.iter().map(|net| net.kind.to_string()).collect();
    let macs: BTreeSet<_> = taps.iter().map(|net| net.mac.0).collect();
    paths.len() == spec.disks.len() && names.len() == taps.len() && macs.len() == taps.len()
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same(spec in some_spec()) {
        prop_assume!(is_told_in_a_file(&spec));
        let text = render(&spec);

        let read = layer_of(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;

        prop_assert_eq!(read.finish().unwrap(), spec);
    }

    #[test]
    fn no_text_is_worse_than_an_error(text in "[\\[\\]={}\"',#\n a-z0-9.-]{0,60}") {
        if let Err(errors) = layer_of(&text) {
            prop_assert!(!errors.0.is_empty());
        }
    }
}
