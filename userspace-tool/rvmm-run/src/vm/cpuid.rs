// SPDX-License-Identifier: GPL-2.0

//! CPUID of a virtual processor: what the module supports, with identity and topology put in.
//!
//! The machine is one package with one core per processor and no threads. SDM and APM, "CPUID" instruction reference.
//! Topology leaves that we do not fill are cleared, so that no number of the host shines through.

use kvm_bindings::{kvm_cpuid_entry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

/// Leaf 1 ECX: local APIC timer with TSC deadline.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: x2APIC.
const X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX: runs under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 0x80000001 ECX: legacy multi-core method (AMD).
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x80000001 ECX: topology extensions, leaf 0x8000001e (AMD).
const TOPOLOGY_EXT: u32 = 1 << 22;
/// Topology level types of leaf 0xb.
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Which processor of how many, and what the machine adds to the supported features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTopology {
    /// APIC id of this processor.
    pub id: u32,
    /// Number of processors.
    pub cpus: u32,
    /// Whether the module's local APIC has the TSC deadline mode.
    pub tsc_deadline: bool,
}

impl CpuTopology {
    /// Bits of an APIC id that count cores.
    fn core_bits(self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }
}

/// Makes the supported leaves those of one processor. Leaves are changed in place, except that leaf 0xb is rebuilt.
pub fn personalise(supported: &[kvm_cpuid_entry2], topology: CpuTopology) -> Vec<kvm_cpuid_entry2> {
    let vendor = supported.iter().find(|e| e.function == 0);
    let amd = vendor.is_some_and(|e| e.ebx.to_le_bytes() == *b"Auth" || e.ebx.to_le_bytes() == *b"Hygo");
    let max_basic = vendor.map_or(0, |e| e.eax);
    let mut leaves: Vec<_> =
        supported.iter().filter(|e| !matches!(e.function, 0xb | 0x1f | 0x8000_0026)).copied().collect();
    for leaf in &mut leaves {
        adjust(leaf, topology, amd);
    }
    if max_basic >= 0xb {
        leaves.extend(extended_topology(topology));
    }
    leaves
}

fn adjust(leaf: &mut kvm_cpuid_entry2, topology: CpuTopology, amd: bool) {
    let CpuTopology { id, cpus, tsc_deadline } = topology;
    let smp = cpus > 1;
    match leaf.function {
        1 => {
            leaf.ebx = (leaf.ebx & 0xffff) | (cpus.min(255) << 16) | ((id & 0xff) << 24);
            set(&mut leaf.ecx, HYPERVISOR, true);
            if tsc_deadline {
                set(&mut leaf.ecx, TSC_DEADLINE, true);
            }
            set(&mut leaf.edx, HTT, smp);
        }
        4 if leaf.eax & 0x1f != 0 => {
            let level = (leaf.eax >> 5) & 7;
            let sharing = if level >= 3 { cpus.next_power_of_two() - 1 } else { 0 };
            let cores = cpus.next_power_of_two() - 1;
            leaf.eax = (leaf.eax & 0x3fff) | ((sharing & 0xfff) << 14) | ((cores & 0x3f) << 26);
        }
        0x8000_0001 if amd => {
            set(&mut leaf.ecx, CMP_LEGACY, smp);
        }
        0x8000_0008 if amd => {
            leaf.ecx = (leaf.ecx & !0xf0ff) | ((cpus - 1).min(255)) | (topology.core_bits() << 12);
        }
        0x8000_001d if amd && leaf.eax & 0x1f != 0 => {
            let level = (leaf.eax >> 5) & 7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            leaf.eax = (leaf.eax & 0x3fff) | ((sharing & 0xfff) << 14);
        }
        0x8000_001e if amd => {
            leaf.eax = id;
            leaf.ebx = id & 0xff;
            leaf.ecx = 0;
            leaf.edx = 0;
        }
        _ => {}
    }
}

/// Leaf 0xb: one thread per core, all cores in one package, and the level that ends the list.
fn extended_topology(topology: CpuTopology) -> [kvm_cpuid_entry2; 3] {
    let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | (kind << 8),
        edx: topology.id,
        ..Default::default()
    };
    [level(0, LEVEL_SMT, 0, 1), level(1, LEVEL_CORE, topology.core_bits(), topology.cpus), level(2, 0, 0, 0)]
}

/// Whether a guest with these leaves can use x2APIC, which more than 255 processors need.
pub fn has_x2apic(leaves: &[kvm_cpuid_entry2]) -> bool {
    leaves.iter().any(|leaf| leaf.function == 1 && leaf.ecx & X2APIC != 0)
}

/// Whether the leaves announce AMD's topology extensions.
pub fn has_topology_extensions(leaves: &[kvm_cpuid_entry2]) -> bool {
    leaves.iter().any(|leaf| leaf.function == 0x8000_0001 && leaf.ecx & TOPOLOGY_EXT != 0)
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}
