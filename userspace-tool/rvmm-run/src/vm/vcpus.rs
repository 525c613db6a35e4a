// SPDX-License-Identifier: GPL-2.0

//! The processors of a VM, made and set up.

use kvm_bindings::{CpuId, Msrs, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use nix::errno::Errno;

use super::cpuid::{personalise, CpuTopology};
use super::prepared::PreparedRun;
use super::regs;
use crate::error::ToolError;
use crate::kernel::loaded::LoadedKernel;

/// Processors with their CPUID; the first also gets the state that the kernel's entry wants.
pub(super) fn create_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    config: &PreparedRun,
    loaded: &LoadedKernel,
) -> Result<Vec<VcpuFd>, ToolError> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(ToolError::host("read the supported CPUID"))?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut vcpus = Vec::new();
    for id in 0..config.cpus {
        let vcpu = vm.create_vcpu(u64::from(id)).map_err(ToolError::host("create a virtual CPU"))?;
        let leaves = personalise(supported.as_slice(), CpuTopology { id, cpus: config.cpus, tsc_deadline });
        let cpuid =
            CpuId::from_entries(&leaves).map_err(|_| ToolError::Host("build the CPUID", Errno::E2BIG))?;
        vcpu.set_cpuid2(&cpuid).map_err(ToolError::host("set the CPUID of a virtual CPU"))?;
        let msrs =
            Msrs::from_entries(&regs::msrs()).map_err(|_| ToolError::Host("build the MSRs", Errno::E2BIG))?;
        // How many were taken does not matter: a guest runs without either, if slower.
        vcpu.set_msrs(&msrs).map_err(ToolError::host("set the MSRs of a virtual CPU"))?;
        if id == 0 {
            set_boot_state(&vcpu, loaded)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

fn set_boot_state(vcpu: &VcpuFd, loaded: &LoadedKernel) -> Result<(), ToolError> {
    let sregs = vcpu.get_sregs().map_err(ToolError::host("read the system registers"))?;
    vcpu.set_sregs(&regs::system(sregs, loaded.entry))
        .map_err(ToolError::host("set the system registers"))?;
    vcpu.set_regs(&regs::general(loaded.entry)).map_err(ToolError::host("set the registers"))?;
    vcpu.set_fpu(&regs::fpu()).map_err(ToolError::host("set the FPU"))?;
    let mut lapic = vcpu.get_lapic().map_err(ToolError::host("read the local APIC"))?;
    regs::wire_lint(&mut lapic);
    vcpu.set_lapic(&lapic).map_err(ToolError::host("set the local APIC"))
}
