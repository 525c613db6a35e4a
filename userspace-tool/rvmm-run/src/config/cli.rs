// SPDX-License-Identifier: GPL-2.0

//! The command line: a layer of settings, and what is to be done with them.

use std::path::PathBuf;

use clap::{Parser, ValueHint};
use clap_complete::Shell;

use super::console::{ConsoleDevice, ConsoleSpec};
use super::disk::DiskSpec;
use super::memory::RamSize;
use super::module::ModuleSpec;
use super::name::VmName;
use super::net::NetSpec;
use super::root::RootDevice;
use super::spec::SpecLayer;
use super::DeviceSet;

const EXAMPLES: &str = "\
Examples:
  rvmm-run vmlinuz disk.img
      boot from /dev/vda; the console is a new pseudo terminal, whose name is printed
  rvmm-run --console stdio --initrd initrd.img -m 2G -c 4 vmlinuz disk.img
      console in this terminal, 2 GiB, four CPUs (quit with Ctrl-a x)
  rvmm-run --append 'console=ttyS0 root=/dev/vda1 ro' --disk data.img,ro,serial=DATA1 vmlinuz system.img
      own command line, and a second, read-only disk
  ip tuntap add rvmm0 mode tap && ip addr add 10.0.0.1/24 dev rvmm0 && ip link set rvmm0 up
  rvmm-run --net tap=rvmm0 vmlinuz disk.img
      a network card; in the guest, give eth0 another address of 10.0.0.0/24
  rvmm-run --net user,passt=--tcp-ports=2222:22 vmlinuz disk.img
      a network card without any rights or set-up; port 2222 of the host is the guest's 22
  rvmm-run --append 'com1=115200,8n1 console=com1' --module vmlinuz,console=hvc0 --module initrd.img xen.gz
      a multiboot kernel with two modules, one of them with arguments
  rvmm-run --append -s --root sd0a bsd disk.img
      an OpenBSD kernel, single user, root on the disk's first partition
  rvmm-run -f web.toml -m 4G
      what the file says, but with 4 GiB
  rvmm-run -f web --print-config
      show what the VM of that name, /etc/rvmm/web.toml, would be
  rvmm-run --check
      say what this host lacks

Attach to a pseudo terminal with 'screen /dev/pts/N', 'tio /dev/pts/N' or 'cu -l /dev/pts/N'.
SIGPWR presses the guest's power button, and so does SIGTERM, which ends the run by force if the guest does not end in time,
or at once when it comes again. SIGCONT ends a pause.

Exit codes:
  0  the guest powered off         4  triple fault (with register dump)
  1  bad input, nothing was run    5  the module could not run the guest any further
  2  the host or the module failed 6  quit with Ctrl-a x
  3  guest reset with --no-reboot  128+N  ended by signal N";

/// Runs a guest on the rvmm kernel module.
#[derive(Clone, Debug, Parser)]
#[command(name = "rvmm-run", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct CommandLine {
    /// Kernel: of Linux (vmlinuz, vmlinux), PVH, multiboot 1 or 2, or OpenBSD; may be compressed by gzip
    #[arg(required_unless_present_any = ["check", "file"])]
    pub kernel: Option<PathBuf>,

    /// Raw disk images or block devices, writable: /dev/vda, /dev/vdb, …
    #[arg(value_name = "DISK")]
    pub plain_disks: Vec<PathBuf>,

    /// Configuration of a VM, in TOML: a file, or the name of one in /etc/rvmm, without its .toml. What the command line says
    /// goes before what the file says
    #[arg(short, long, value_name = "FILE|NAME", value_hint = ValueHint::FilePath)]
    pub file: Option<String>,

    /// Print the VM as a configuration file, with every setting in it, and end
    #[arg(long)]
    pub print_config: bool,

    /// Name of the VM, by which rvmmctl finds it; without it, that of the file of -f, without its .toml
    #[arg(long, value_name = "NAME")]
    pub name: Option<VmName>,

    /// Further disk, with options; these follow the plain ones. With on-error=stop, an error of the host's (a full file
    /// system, say) pauses the guest until SIGCONT
    #[arg(
        long = "disk",
        value_name = "PATH[,ro][,serial=TEXT][,queues=N][,packed=on|off][,format=raw][,on-error=report|stop]"
    )]
    pub disks: Vec<DiskSpec>,

    /// Network card: tap=NAME[,queues=N] on a tap interface of the host, which is made if it does not exist, or user, through
    /// passt and the host's own sockets; both with [,mac=MAC][,mtu=N][,packed=on|off]; may be given again
    #[arg(long = "net", value_name = "KIND[,OPTION]…")]
    pub nets: Vec<NetSpec>,

    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// Further module for a kernel of multiboot or PVH, with its arguments; may be given again
    #[arg(long = "module", value_name = "FILE[,ARGS]")]
    pub modules: Vec<ModuleSpec>,

    /// Kernel command line [default for Linux: console=ttyS0 root=/dev/vda, or console=hvc0 … with a virtio console]; for
    /// OpenBSD, boot(8)'s options, as in '-a -s'
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,

    /// Root device of an OpenBSD kernel, as in sd0a, or as in 0123456789abcdef.a, a disk's unique id
    #[arg(long, value_name = "DEVICE")]
    pub root: Option<RootDevice>,

    /// Guest memory, with suffix K, M, G or T; a bare number counts MiB [default: 512M]
    #[arg(short, long, value_name = "SIZE", value_parser = RamSize::parse)]
    pub memory: Option<RamSize>,

    /// Number of virtual CPUs [default: 1]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cpus: Option<u32>,

    /// Console: pty (a new one; its name is printed), stdio, file:PATH or none [default: pty]
    #[arg(long, value_name = "WHERE")]
    pub console: Option<ConsoleSpec>,

    /// What the guest has its console on: uart, the first serial port (ttyS0), or virtio[,packed=on|off], a virtio console
    /// (hvc0), which costs it less [default: uart]
    #[arg(long, value_name = "DEVICE")]
    pub console_device: Option<ConsoleDevice>,

    /// End with exit code 3 when the guest resets, instead of starting it again
    #[arg(long)]
    pub no_reboot: bool,

    /// Seconds that the guest may take to end when SIGTERM or 'rvmmctl stop' asks it to, by its power button; then it is ended
    /// by force. 0 ends it at once [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u32>,

    /// Write the number of the process to a file once the guest is about to run, and remove it at the end
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Node of the module [default: /dev/rvmm]
    #[arg(long, value_name = "NODE")]
    pub device: Option<PathBuf>,

    /// Say what the host lacks to run guests, and end
    #[arg(long)]
    pub check: bool,

    /// Which of the module's own devices the machine has. Less than all is for tests: a guest without any can be watched
    /// on every KVM node by its port accesses
    #[arg(long, hide = true, value_name = "WHICH", value_enum)]
    pub devices: Option<DeviceSet>,

    /// Print the module's counters of each virtual CPU and disk on standard error when the guest has ended
    #[arg(long)]
    pub stats: bool,

    /// Print what a shell needs to complete this program's command lines, and end
    #[arg(long, hide = true, exclusive = true, value_name = "SHELL")]
    pub completions: Option<Shell>,

    /// Log every exit to the tool on standard error, and where each virtual CPU was when it was stopped
    #[arg(long)]
    pub debug: bool,
}

impl CommandLine {
    /// The settings that the command line says.
    pub fn layer(&self) -> SpecLayer {
        let plain = self.plain_disks.iter().cloned().map(DiskSpec::plain);
        SpecLayer {
            name: self.name.clone(),
            kernel: self.kernel.clone(),
            disks: list(plain.chain(self.disks.iter().cloned())),
            nets: list(self.nets.iter().cloned()),
            initrd: self.initrd.clone(),
            modules: list(self.modules.iter().cloned()),
            append: self.append.clone(),
            root: self.root,
            memory: self.memory,
            cpus: self.cpus,
            console: self.console.clone(),
            console_device: self.console_device,
            no_reboot: flag(self.no_reboot),
            stop_timeout: self.stop_timeout,
            pid_file: self.pid_file.clone(),
            device: self.device.clone(),
            devices: self.devices,
            stats: flag(self.stats),
            debug: flag(self.debug),
        }
    }
}

/// A list that something is said of.
fn list<T>(items: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let items: Vec<T> = items.collect();
    (!items.is_empty()).then_some(items)
}

/// A flag that is there says yes; one that is not says nothing.
fn flag(is_there: bool) -> Option<bool> {
    is_there.then_some(true)
}
