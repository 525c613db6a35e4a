// SPDX-License-Identifier: GPL-2.0

//! rvmm: a hypervisor as a kernel module.
//!
//! Loading probes every CPU and creates /dev/rvmm, which speaks KVM's ioctl interface. CPUs enter
//! root operation only while they run a guest; see docs/adr.

use kernel::debugfs;
use kernel::error::Error;
use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::sync::Arc;

pub(crate) mod abi;
pub(crate) mod arch;
pub(crate) mod chipset;
pub(crate) mod host;
pub(crate) mod kvm;
pub(crate) mod machine;
pub(crate) mod mmu;
pub(crate) mod svm;
pub(crate) mod vcpu;
pub(crate) mod virtio;
pub(crate) mod vmx;

use host::rcu::{Filled, ModuleCell};
use kvm::observe::{self, Observed};
use machine::service::blk::COUNTERS;
use svm::Svm;
use vcpu::backend::{Backend, Unsupported};
use vmx::Vmx;

module! {
    type: Rvmm,
    name: "rvmm",
    authors: ["The rvmm developers"],
    description: "Hypervisor with KVM's ioctl interface",
    license: "GPL",
    params: {
        exit_times: u8 {
            default: 0,
            description: "1: measure how long exits take; see rvmm-run --stats",
        },
        halt_poll_ns: u32 {
            default: 200000,
            description: "Longest time in ns that a halted vCPU polls for its wake-up before it sleeps; 0: never",
        },
        nx_huge_pages: u8 {
            default: 2,
            description: "1: only small pages are executable for guests; 0: all are; 2: as the processor needs it",
        },
        pv_eoi: u8 {
            default: 1,
            description: "1: offer guests to end interrupts in memory (KVM_FEATURE_PV_EOI)",
        },
    },
}

/// Returns whether vCPUs measure how long their exits take.
pub(crate) fn times_exits() -> bool {
    module_parameters::exit_times.value() != 0
}

/// Returns the longest time in nanoseconds that a halted vCPU polls before it sleeps.
pub(crate) fn halt_poll_ns() -> u32 {
    module_parameters::halt_poll_ns.value()
}

/// Returns whether only small pages are executable for guests, as in [`arch::mitigation`].
pub(crate) fn nx_huge_pages() -> u8 {
    module_parameters::nx_huge_pages.value()
}

/// Returns whether guests are offered to end interrupts in memory.
pub(crate) fn offers_pv_eoi() -> bool {
    module_parameters::pv_eoi.value() != 0
}

/// Returns this module, as files name their owner.
pub(crate) const fn owner() -> *mut kernel::bindings::module {
    kernel::module::this_module::<Rvmm>().as_ptr()
}

/// The vendor found when the module was loaded. Past this point everything is generic over it.
enum Machine {
    Svm(Arc<Svm>),
    Vmx(Arc<Vmx>),
}

static MACHINE: ModuleCell<Machine> = ModuleCell::new();

/// The module: the device node, and counters for whoever looks into debugfs. Unloading waits for
/// nothing, since open files hold the module.
#[pin_data]
struct Rvmm {
    #[pin]
    node: MiscDeviceRegistration<Node>,
    folder: debugfs::Dir,
    #[pin]
    disks: debugfs::File<()>,
    #[pin]
    counters: debugfs::File<()>,
    #[pin]
    exits: debugfs::File<()>,
    // Dropped last: the node and the files lead to them.
    _observed: Filled<Observed>,
    _machine: Filled<Machine>,
}

fn explain(why: Unsupported) -> Error {
    match why {
        Unsupported::NoExtension => pr_err!("this processor has neither VMX nor SVM\n"),
        Unsupported::Firmware => {
            pr_err!("virtualization is disabled by the firmware; enable it in the firmware's setup\n")
        }
        Unsupported::Lacks(what) => pr_err!("this processor lacks {}\n", what),
        Unsupported::MixedCpus => {
            pr_err!("the CPUs of this machine differ in their virtualization features\n")
        }
        Unsupported::Fred => {
            pr_err!("the host takes events by FRED, which is not supported; boot with fred=off\n")
        }
        Unsupported::EncryptedMemory => {
            pr_err!("the host's memory is encrypted, which is not supported; boot with mem_encrypt=off\n")
        }
    }
    ENODEV
}

/// Finds out what this machine has.
fn probe() -> Result<Machine> {
    fn found<B: Backend>(probed: core::result::Result<B, Unsupported>) -> Result<Arc<B>> {
        let backend = probed.map_err(explain)?;
        pr_info!("{} on {} CPUs\n", B::NAME, host::cpu::online());
        Ok(Arc::new(backend, GFP_KERNEL)?)
    }
    if vmx::is_present() {
        return found(Vmx::new()?).map(Machine::Vmx);
    }
    found(Svm::new()?).map(Machine::Svm)
}

impl kernel::InPlaceModule for Rvmm {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _machine: MACHINE.fill(Arc::new(probe()?, GFP_KERNEL)?),
            _observed: observe::init()?,
            folder: debugfs::Dir::new(c"rvmm"),
            disks <- folder.read_callback_file(c"disks", (), &|(), f| COUNTERS.show(f)),
            counters <- folder.read_callback_file(c"counters", (), &|(), f| observe::show_counters(f)),
            exits <- folder.read_callback_file(c"exits", (), &|(), f| observe::show_exits(f)),
            node <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"rvmm" }),
        })
    }
}

/// /dev/rvmm.
struct Node;

#[vtable]
impl MiscDevice for Node {
    type OwnerModule = Rvmm;
    type Ptr = Arc<Machine>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Machine>> {
        MACHINE.get().ok_or(ENODEV)
    }

    fn ioctl(
        machine: kernel::sync::ArcBorrow<'_, Machine>,
        _file: &File,
        cmd: u32,
        arg: usize,
    ) -> Result<isize> {
        let done = match &*machine {
            Machine::Svm(svm) => kvm::sys::ioctl(svm, cmd, arg as u64),
            Machine::Vmx(vmx) => kvm::sys::ioctl(vmx, cmd, arg as u64),
        };
        done.map(|v| v as isize)
    }
}
