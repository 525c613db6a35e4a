// SPDX-License-Identifier: GPL-2.0

//! Structs of the `/dev` node: lists of CPUID leaves and of MSRs.
//!
//! Both lists are a header followed by entries; only the header's size counts in the request number.

/// The version that KVM_GET_API_VERSION returns.
pub(crate) const API_VERSION: i32 = 12;

/// The node's attribute with the components of extended state that guests can have, a `u64`.
pub(crate) const XCOMP_GUEST_SUPP: u64 = 0;
/// The most entries that a CPUID list may have.
pub(crate) const MAX_CPUID_ENTRIES: usize = 256;

/// In [`CpuidEntry2::flags`]: the leaf has subleaves, [`CpuidEntry2::index`] counts.
pub(crate) const CPUID_FLAG_SIGNIFICANT_INDEX: u32 = 1 << 0;

abi_struct! {
    /// Header of a CPUID list: KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_GET_CPUID2.
    struct Cpuid2 = 8 {
        /// In: room for entries. Out: entries given.
        nent: u32,
        /// Unused.
        padding: u32,
    }

    /// One leaf, or one subleaf, of CPUID.
    struct CpuidEntry2 = 40 {
        /// The leaf: EAX on input.
        function: u32,
        /// The subleaf: ECX on input, where the flag says so.
        index: u32,
        /// [`CPUID_FLAG_SIGNIFICANT_INDEX`].
        flags: u32,
        /// What CPUID returns in EAX.
        eax: u32,
        /// What CPUID returns in EBX.
        ebx: u32,
        /// What CPUID returns in ECX.
        ecx: u32,
        /// What CPUID returns in EDX.
        edx: u32,
        /// Unused.
        padding: [u32; 3],
    }

    /// Header of a list of MSR numbers (`u32` each): KVM_GET_MSR_INDEX_LIST.
    struct MsrList = 4 {
        /// In: room for numbers. Out: how many there are.
        nmsrs: u32,
    }
}

impl CpuidEntry2 {
    /// Returns whether [`index`](Self::index) counts.
    pub(crate) const fn has_index(&self) -> bool {
        self.flags & CPUID_FLAG_SIGNIFICANT_INDEX != 0
    }
}
