// SPDX-License-Identifier: GPL-2.0

use crate::arch::cpuid::CpuidRegs;
use crate::svm::features::{has_xss, FeatureFit, SvmFeatures};

/// A processor with SVM whose leaf 0x8000000a has these EBX and EDX.
fn cpu(asids: u32, bits: u32) -> impl Fn(u32) -> CpuidRegs {
    move |leaf| match leaf {
        0x8000_0000 => CpuidRegs { eax: 0x8000_001f, ..CpuidRegs::default() },
        0x8000_0001 => CpuidRegs { ecx: 4, ..CpuidRegs::default() },
        0x8000_000a => CpuidRegs { ebx: asids, edx: bits, ..CpuidRegs::default() },
        _ => CpuidRegs::default(),
    }
}

#[test]
fn features_are_those_of_the_leaf() {
    let all = SvmFeatures::of(cpu(16, 0xc9)).unwrap();

    assert_eq!(all.asids, 16);
    assert!(all.nested_paging && all.next_rip && all.flush_by_asid && all.decode_assist);
    let none = SvmFeatures::of(cpu(2, !0xc9)).unwrap();
    assert!(!(none.nested_paging || none.next_rip || none.flush_by_asid || none.decode_assist));
}

#[test]
fn a_processor_without_the_bit_or_the_leaf_has_none() {
    let no_bit = |leaf| if leaf == 0x8000_0001 { CpuidRegs::default() } else { cpu(16, 1)(leaf) };
    let no_leaf = |leaf| match leaf {
        0x8000_0000 => CpuidRegs { eax: 0x8000_0008, ..CpuidRegs::default() },
        _ => cpu(16, 1)(leaf),
    };

    assert_eq!(SvmFeatures::of(no_bit), None);
    assert_eq!(SvmFeatures::of(no_leaf), None);
}

#[test]
fn a_cpu_that_differs_or_is_switched_off_does_not_fit() {
    let probed = SvmFeatures::of(cpu(16, 0x9)).unwrap();
    let other = SvmFeatures::of(cpu(16, 0x1));

    assert_eq!(probed.fit(Some(probed), Some(0)), FeatureFit::Alike);
    assert_eq!(probed.fit(Some(probed), Some(1 << 3)), FeatureFit::Alike, "the lock alone forbids nothing");
    assert_eq!(probed.fit(Some(probed), Some(1 << 4)), FeatureFit::SwitchedOff);
    assert_eq!(probed.fit(other, Some(0)), FeatureFit::Differs);
    assert_eq!(probed.fit(None, Some(0)), FeatureFit::Differs);
    assert_eq!(probed.fit(Some(probed), None), FeatureFit::Differs);
}

#[test]
fn xss_is_there_with_xsaves_that_the_host_uses() {
    let host = |osxsave: bool, last: u32, xsaves: bool| {
        move |leaf, subleaf| match (leaf, subleaf) {
            (0, 0) => CpuidRegs { eax: last, ..CpuidRegs::default() },
            (1, 0) => CpuidRegs { ecx: u32::from(osxsave) << 27, ..CpuidRegs::default() },
            (0xd, 1) => CpuidRegs { eax: u32::from(xsaves) << 3, ..CpuidRegs::default() },
            _ => CpuidRegs::default(),
        }
    };
    assert!(has_xss(host(true, 0xd, true)));
    assert!(!has_xss(host(false, 0xd, true)));
    assert!(!has_xss(host(true, 0xc, true)));
    assert!(!has_xss(host(true, 0xd, false)));
}
