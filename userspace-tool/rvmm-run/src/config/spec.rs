// SPDX-License-Identifier: GPL-2.0

//! A VM as plain data, and the layers of settings that it is put together from.
//!
//! The command line and each configuration file say some of a VM's settings: a [`SpecLayer`]. Layers lie over each other,
//! setting by setting, with lists as one setting; what none of them says has its default here. So there is one way from
//! whatever the user wrote to a [`VmSpec`], and nothing behind it knows where a setting came from.
//!
//! ```text
//! command line > file > what the file includes > its base > defaults
//! ```

use std::fmt;
use std::path::PathBuf;

use super::console::{ConsoleDevice, ConsoleSpec};
use super::disk::DiskSpec;
use super::layout::MIB;
use super::memory::RamSize;
use super::module::ModuleSpec;
use super::name::VmName;
use super::net::NetSpec;
use super::root::RootDevice;
use super::DeviceSet;

/// Node of the module.
const DEFAULT_NODE: &str = "/dev/rvmm";
/// Seconds until a guest that was asked to end is ended by force.
const DEFAULT_STOP_TIMEOUT: u32 = 10;
/// Guest memory.
const DEFAULT_MEMORY: RamSize = match RamSize::from_bytes(512 * MIB) {
    Ok(size) => size,
    Err(_) => panic!("the default is a legal size"),
};

/// Everything that a run of a VM is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    /// Name, by which it can be found and steered while it runs.
    pub name: Option<VmName>,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Disks in the guest's order.
    pub disks: Vec<DiskSpec>,
    /// Network cards in the guest's order.
    pub nets: Vec<NetSpec>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Further modules, in the order that the kernel is told.
    pub modules: Vec<ModuleSpec>,
    /// Kernel command line.
    pub append: Option<String>,
    /// Root device of a kernel of OpenBSD.
    pub root: Option<RootDevice>,
    /// Guest memory.
    pub memory: RamSize,
    /// Number of processors, at least 1.
    pub cpus: u32,
    /// Where the console is on the host.
    pub console: ConsoleSpec,
    /// What the guest has it on.
    pub console_device: ConsoleDevice,
    /// A reset ends the run.
    pub no_reboot: bool,
    /// Seconds that a guest may take to end when it is asked to.
    pub stop_timeout: u32,
    /// File for the number of the process.
    pub pid_file: Option<PathBuf>,
    /// Node of the module.
    pub device: PathBuf,
    /// Which of the module's own devices the machine has.
    pub devices: DeviceSet,
    /// The module's counters are printed at the end.
    pub stats: bool,
    /// Every exit to the tool is logged.
    pub debug: bool,
}

/// Makes the structure of some settings, each said or not.
macro_rules! layer {
    ($($setting:ident: $type:ty,)*) => {
        /// Some of a VM's settings: those that one place says.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs)] // Each is what the field of `VmSpec` of its name is.
        pub struct SpecLayer {
            $(pub $setting: Option<$type>,)*
        }

        impl SpecLayer {
            /// Returns these settings, and those of `below` where this layer says nothing.
            pub fn over(self, below: Self) -> Self {
                Self { $($setting: self.$setting.or(below.$setting),)* }
            }
        }
    };
}

layer! {
    name: VmName,
    kernel: PathBuf,
    disks: Vec<DiskSpec>,
    nets: Vec<NetSpec>,
    initrd: PathBuf,
    modules: Vec<ModuleSpec>,
    append: String,
    root: RootDevice,
    memory: RamSize,
    cpus: u32,
    console: ConsoleSpec,
    console_device: ConsoleDevice,
    no_reboot: bool,
    stop_timeout: u32,
    pid_file: PathBuf,
    device: PathBuf,
    devices: DeviceSet,
    stats: bool,
    debug: bool,
}

/// No layer says which kernel to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKernel;

impl fmt::Display for NoKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no kernel is given: name one on the command line, or by the key 'kernel' of the file")
    }
}

impl SpecLayer {
    /// Returns the node, or its default.
    pub fn node(&self) -> PathBuf {
        self.device.clone().unwrap_or_else(|| DEFAULT_NODE.into())
    }

    /// Puts the defaults below this layer.
    ///
    /// # Errors
    /// `NoKernel`, the one setting without a default.
    pub fn finish(self) -> Result<VmSpec, NoKernel> {
        let device = self.node();
        Ok(VmSpec {
            name: self.name,
            kernel: self.kernel.ok_or(NoKernel)?,
            disks: self.disks.unwrap_or_default(),
            nets: self.nets.unwrap_or_default(),
            initrd: self.initrd,
            modules: self.modules.unwrap_or_default(),
            append: self.append,
            root: self.root,
            memory: self.memory.unwrap_or(DEFAULT_MEMORY),
            cpus: self.cpus.unwrap_or(1),
            console: self.console.unwrap_or(ConsoleSpec::Pty),
            console_device: self.console_device.unwrap_or(ConsoleDevice::Uart),
            no_reboot: self.no_reboot.unwrap_or(false),
            stop_timeout: self.stop_timeout.unwrap_or(DEFAULT_STOP_TIMEOUT),
            pid_file: self.pid_file,
            device,
            devices: self.devices.unwrap_or(DeviceSet::All),
            stats: self.stats.unwrap_or(false),
            debug: self.debug.unwrap_or(false),
        })
    }
}

impl VmSpec {
    /// The command line of a kernel of Linux that is given none.
    pub fn linux_cmdline(&self) -> String {
        let console = match self.console_device {
            ConsoleDevice::Uart => "ttyS0",
            ConsoleDevice::Virtio { .. } => "hvc0",
        };
        format!("console={console} root=/dev/vda")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_above_goes_before_setting_by_setting() {
        let above = SpecLayer { cpus: Some(4), ..Default::default() };
        let below = SpecLayer { cpus: Some(2), stats: Some(true), ..Default::default() };

        let both = above.over(below);

        assert_eq!((both.cpus, both.stats, both.debug), (Some(4), Some(true), None));
    }

    #[test]
    fn list_is_one_setting() {
        let disks = |names: &[&str]| Some(names.iter().map(|n| DiskSpec::plain(n.into())).collect());
        let above = SpecLayer { disks: disks(&["own"]), ..Default::default() };
        let below = SpecLayer { disks: disks(&["a", "b"]), ..Default::default() };

        assert_eq!(above.over(below).disks, disks(&["own"]));
    }

    #[test]
    fn kernel_is_all_that_has_no_default() {
        let kernel = SpecLayer { kernel: Some("k".into()), ..Default::default() };

        assert_eq!(SpecLayer::default().finish(), Err(NoKernel));
        assert_eq!(kernel.finish().map(|spec| (spec.cpus, spec.memory.bytes())), Ok((1, 512 * MIB)));
    }
}
