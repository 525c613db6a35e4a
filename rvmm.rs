// SPDX-License-Identifier: GPL-2.0

//! rvmm: a hypervisor as a kernel module.
//!
//! Loading probes every CPU and creates /dev/rvmm, and /dev/kvm if asked to. CPUs enter root operation only while they run a guest.

use kernel::fs::File;
use kernel::miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};

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

use host::node::{kvm_node, KvmNode};
use host::rcu::{FilledCell, ModuleCell};
use kvm::debug_files::DebugFiles;
use kvm::observe::ObservedHost;
use kvm::sys::NodeContext;
use machine::counters::DiskCounters;
use machine::settings::ModuleSettings;
use svm::Svm;
use vcpu::backend::{UnsupportedHost, VendorBackend};
use vmx::Vmx;

module! {
    type: Rvmm,
    name: "rvmm",
    authors: ["The rvmm developers"],
    description: "Hypervisor with KVM's ioctl interface",
    license: "GPL",
    params: {
        ept: u8 { default: 1, description: "0: guests of Intel's processors have shadow pages, not EPT", },
        exit_times: u8 { default: 0, description: "1: measure how long exits take; see rvmm-run --stats", },
        halt_poll_ns: u32 {
            default: 200000,
            description: "Longest time in ns that a halted vCPU polls for its wake-up before it sleeps; 0: never",
        },
        kvm_node: u8 { default: 0, description: "1: also make /dev/kvm, for programs that open no other node", },
        npt: u8 { default: 1, description: "0: guests of AMD's processors have shadow pages, not nested paging", },
        nx_huge_pages: u8 {
            default: 2,
            description: "1: only small pages are executable for guests; 0: all are; 2: as the processor needs it",
        },
        pv_eoi: u8 { default: 1, description: "1: offer guests to end interrupts in memory (KVM_FEATURE_PV_EOI)", },
    },
}

fn settings() -> ModuleSettings {
    ModuleSettings {
        times_exits: module_parameters::exit_times.value() != 0,
        halt_poll_ns: module_parameters::halt_poll_ns.value(),
        nx_huge_pages: module_parameters::nx_huge_pages.value(),
        offers_pv_eoi: module_parameters::pv_eoi.value() != 0,
        disks: &DISKS,
    }
}

/// The vendor found when the module was loaded. Past this point everything is generic over it.
enum FoundBackend {
    Svm(Arc<Svm>),
    Vmx(Arc<Vmx>),
}

/// What is there from load to unload.
struct LoadedModule {
    vendor: FoundBackend,
    node: NodeContext,
}

static LOADED: ModuleCell<LoadedModule> = ModuleCell::new();
static DISKS: DiskCounters = DiskCounters::new();

impl LoadedModule {
    fn new() -> Result<Arc<LoadedModule>> {
        let node = NodeContext { settings: settings(), observed: ObservedHost::new(&DISKS)? };
        Ok(Arc::new(LoadedModule { vendor: probe()?, node }, GFP_KERNEL)?)
    }
}

/// The module: the device nodes and debugfs. Unloading waits for nothing, since open files hold the module.
#[pin_data]
struct Rvmm {
    #[pin]
    node: MiscDeviceRegistration<Node>,
    _kvm_node: KvmNode<Node>,
    #[pin]
    files: DebugFiles,
    // Dropped last: the nodes lead to it.
    _loaded: FilledCell<LoadedModule>,
}

/// Finds out what this machine has.
fn probe() -> Result<FoundBackend> {
    fn found<B: VendorBackend>(probed: core::result::Result<B, UnsupportedHost>) -> Result<Arc<B>> {
        let backend = probed.map_err(UnsupportedHost::report)?;
        let pages = if backend.format().is_none() { ", with shadow pages" } else { "" };
        pr_info!("{} on {} CPUs{}\n", B::NAME, host::cpu::online(), pages);
        Ok(Arc::new(backend, GFP_KERNEL)?)
    }
    debug_assert_eq!(host::fault_check::check(), Ok(()));
    if vmx::is_present() {
        return found(Vmx::new(module_parameters::ept.value() != 0)?).map(FoundBackend::Vmx);
    }
    found(Svm::new(module_parameters::npt.value() != 0)?).map(FoundBackend::Svm)
}

impl kernel::InPlaceModule for Rvmm {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let loaded = LoadedModule::new();
        try_pin_init!(Self {
            files <- DebugFiles::new(&loaded.as_ref().map_err(|e| *e)?.node.observed),
            _kvm_node: kvm_node(module_parameters::kvm_node.value() != 0)?,
            node <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"rvmm" }),
            // Last: from here on a node can be opened, and loading cannot fail any more.
            _loaded: LOADED.fill(loaded?),
        })
    }
}

/// /dev/rvmm, and /dev/kvm.
struct Node;

#[vtable]
impl MiscDevice for Node {
    type OwnerModule = Rvmm;
    type Ptr = Arc<LoadedModule>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<LoadedModule>> {
        LOADED.get().ok_or(ENODEV)
    }

    fn ioctl(loaded: ArcBorrow<'_, LoadedModule>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let done = match &loaded.vendor {
            FoundBackend::Svm(svm) => kvm::sys::ioctl(svm, &loaded.node, cmd, arg as u64),
            FoundBackend::Vmx(vmx) => kvm::sys::ioctl(vmx, &loaded.node, cmd, arg as u64),
        };
        done.map(|v| v as isize)
    }
}
