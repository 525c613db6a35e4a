// SPDX-License-Identifier: GPL-2.0

//! The device node: version, capabilities, what CPUID and MSRs guests can have, new VMs.

use super::caps::{check_extension, cpuid_facts};
use super::hyperv;
use super::observe::ObservedHost;
use super::user;
use super::vm::VmFile;
use crate::abi::vm::DeviceAttr;
use crate::abi::{nr, run, sys, vcpu};
use crate::chipset::lapic::BusPeriod;
use crate::host::cpu;
use crate::host::file::PreparedFile;
use crate::host::fpu::supported_xcr0;
use crate::machine::settings::ModuleSettings;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::{cpuid, msr_table};
use kernel::prelude::*;
use kernel::sync::Arc;
use zerocopy::FromZeros;

/// The most MSRs of one call.
const MAX_MSRS: usize = 255;

/// What the root of the module gives to the interface.
pub(crate) struct NodeContext {
    /// What the module was loaded with.
    pub(crate) settings: ModuleSettings,
    /// What debugfs shows.
    pub(crate) observed: Arc<ObservedHost>,
}

/// Handles an ioctl of the device node.
///
/// # Errors
/// `ENOTTY` for an unknown command, else those of the command.
pub(crate) fn ioctl<B: VendorBackend>(
    backend: &Arc<B>,
    node: &NodeContext,
    cmd: u32,
    arg: u64,
) -> Result<i64> {
    match cmd {
        nr::GET_API_VERSION => no_arg(arg, i64::from(sys::API_VERSION)),
        nr::CREATE_VM => create_vm(backend, node, arg),
        nr::CHECK_EXTENSION => Ok(check_extension(arg, BusPeriod::DEFAULT)),
        nr::GET_VCPU_MMAP_SIZE => no_arg(arg, run::MMAP_SIZE as i64),
        nr::GET_SUPPORTED_CPUID => supported_cpuid(&node.settings, backend.format().is_some(), arg),
        nr::GET_EMULATED_CPUID => emulated_cpuid(arg),
        nr::GET_SUPPORTED_HV_CPUID => hyperv::supported_cpuid(true, arg),
        nr::GET_MSR_INDEX_LIST => msr_index_list(arg, msr_table::INDEX_LIST),
        nr::GET_MSR_FEATURE_INDEX_LIST => msr_index_list(arg, msr_table::FEATURE_LIST),
        nr::GET_MSRS => feature_msrs(arg),
        nr::HAS_DEVICE_ATTR => is_xcomp_attr(&user::read(arg)?).map(|()| 0),
        nr::GET_DEVICE_ATTR => {
            let attr: DeviceAttr = user::read(arg)?;
            is_xcomp_attr(&attr)?;
            user::write(attr.addr, &supported_xcr0().bits()).map(|()| 0)
        }
        nr::X86_GET_MCE_CAP_SUPPORTED => user::write(arg, &msr_table::MCG_CAP).map(|()| 0),
        _ => Err(ENOTTY),
    }
}

/// Returns whether the node has an attribute: which components of extended state guests can have. Documentation of KVM's
/// API, "KVM_GET_DEVICE_ATTR".
fn is_xcomp_attr(a: &DeviceAttr) -> Result {
    match (a.group, a.attr) {
        (0, sys::XCOMP_GUEST_SUPP) => Ok(()),
        _ => Err(ENXIO),
    }
}

fn no_arg(arg: u64, answer: i64) -> Result<i64> {
    if arg == 0 {
        Ok(answer)
    } else {
        Err(EINVAL)
    }
}

fn create_vm<B: VendorBackend>(backend: &Arc<B>, node: &NodeContext, kind: u64) -> Result<i64> {
    if kind != 0 {
        return Err(EINVAL);
    }
    let vm = VmFile::new(backend.clone(), node.settings, node.observed.clone())?;
    let file = PreparedFile::new(vm.clone())?;
    vm.set_name(file.fd());
    Ok(file.install())
}

/// KVM_GET_SUPPORTED_CPUID; `hardware_paging`: guests' processors walk the guests' own tables.
fn supported_cpuid(settings: &ModuleSettings, hardware_paging: bool, arg: u64) -> Result<i64> {
    let mut header: sys::Cpuid2 = user::read(arg)?;
    let entries = cpuid::supported(cpu::cpuid, &cpuid_facts(settings, hardware_paging))?;
    if entries.len() > header.nent as usize {
        return Err(E2BIG);
    }
    header.nent = entries.len() as u32;
    user::write(arg, &header)?;
    user::write_array::<sys::Cpuid2, _>(arg, &entries)?;
    Ok(0)
}

/// KVM_GET_EMULATED_CPUID: which features guests may be offered that the processor lacks. There are none, and so is no leaf
/// but the one that says so.
fn emulated_cpuid(arg: u64) -> Result<i64> {
    let mut header: sys::Cpuid2 = user::read(arg)?;
    if header.nent == 0 {
        return Err(E2BIG);
    }
    let asked = header.nent.min(sys::MAX_CPUID_ENTRIES as u32);
    let given = user::read_array::<sys::Cpuid2, sys::CpuidEntry2>(arg, asked, sys::MAX_CPUID_ENTRIES)?;
    // As KVM: fields that may come to mean something must be clear.
    if given.iter().any(|e| e.padding != [0; 3]) {
        return Err(EINVAL);
    }
    let none = sys::CpuidEntry2::new_zeroed();
    header.nent = 1;
    user::write(arg, &header)?;
    user::write_array::<sys::Cpuid2, _>(arg, &[none])?;
    Ok(0)
}

fn msr_index_list(arg: u64, list: &[u32]) -> Result<i64> {
    let mut header: sys::MsrList = user::read(arg)?;
    let room = header.nmsrs as usize;
    header.nmsrs = list.len() as u32;
    // The number is told even where the list has no room. KVM API, "KVM_GET_MSR_INDEX_LIST".
    user::write(arg, &header)?;
    if list.len() > room {
        return Err(E2BIG);
    }
    user::write_array::<sys::MsrList, _>(arg, list)?;
    Ok(0)
}

/// KVM_GET_MSRS on the node: what the processors of all guests are like. Stops at the first that is none of these.
fn feature_msrs(arg: u64) -> Result<i64> {
    let header: vcpu::Msrs = user::read(arg)?;
    let mut entries = user::read_array::<vcpu::Msrs, vcpu::MsrEntry>(arg, header.nmsrs, MAX_MSRS)?;
    let mut done = 0i64;
    for e in &mut entries {
        let Some(value) = msr_table::feature(e.index) else { break };
        e.data = value;
        done = done.saturating_add(1);
    }
    user::write_array::<vcpu::Msrs, _>(arg, &entries)?;
    Ok(done)
}
