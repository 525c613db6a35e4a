// SPDX-License-Identifier: GPL-2.0

//! Field encodings, by the SDM's appendix "Field Encoding in VMCS".

use crate::vmx::vmcs::{FieldWidth, GuestField, HostField, OwnedField, ReadField, VmcsField};

fn all() -> Vec<(String, u32, FieldWidth)> {
    fn list<F: VmcsField + core::fmt::Debug>(fields: &[F]) -> Vec<(String, u32, FieldWidth)> {
        fields.iter().map(|f| (format!("{f:?}"), f.encoding(), f.width())).collect()
    }
    [list(GuestField::ALL), list(OwnedField::ALL), list(HostField::ALL), list(ReadField::ALL)].concat()
}

#[test]
fn no_field_is_in_two_families_and_all_are_full_accesses() {
    let mut seen = std::collections::BTreeMap::new();
    for (name, encoding, _) in all() {
        assert_eq!(encoding & 1, 0, "{name} is the high half of a field");
        assert_eq!(encoding & !0x7fff, 0, "{name}: reserved bits");
        assert_eq!(seen.insert(encoding, name.clone()), None, "{name} is there twice");
    }
}

#[test]
fn types_of_fields_match_their_families() {
    // Bits 11:10: 0 control, 1 read-only, 2 guest, 3 host.
    for f in HostField::ALL {
        assert_eq!(f.encoding() >> 10 & 3, 3, "{f:?}");
    }
    for f in ReadField::ALL {
        assert_eq!(f.encoding() >> 10 & 3, 1, "{f:?}");
    }
    for f in GuestField::ALL {
        let control = matches!(
            f,
            GuestField::EntryInterruption
                | GuestField::EntryErrorCode
                | GuestField::EntryInsnLength
                | GuestField::TscOffset
        );
        assert_eq!(f.encoding() >> 10 & 3, if control { 0 } else { 2 }, "{f:?}");
    }
}

#[test]
fn widths_follow_from_names() {
    for (name, _, width) in all() {
        let expected = match name.as_str() {
            n if n.ends_with("Selector") || n == "Vpid" => FieldWidth::Word,
            n if n.ends_with("Limit") || n.ends_with("Rights") || n.ends_with("Controls") => FieldWidth::Long,
            n if n.ends_with("Count") || n.ends_with("ErrorCode") || n.ends_with("Length") => {
                FieldWidth::Long
            }
            n if n.ends_with("Base") => FieldWidth::Natural,
            "Pat" | "Efer" | "TscOffset" | "EptPointer" | "LinkPointer" | "MsrBitmap" | "VirtualApic"
            | "DebugCtl" | "GuestPhysical" | "EntryMsrLoad" | "EnclsBitmap" | "Pdpte0" | "Pdpte1"
            | "Pdpte2" | "Pdpte3" => FieldWidth::Quad,
            "Interruptibility" | "ActivityState" | "EntryInterruption" | "ExceptionBitmap"
            | "PageFaultMask" | "PageFaultMatch" | "TprThreshold" | "PreemptionTimer" | "SysenterCs"
            | "InstructionError" | "ExitReason" | "ExitInterruption" | "IdtVectoring" => FieldWidth::Long,
            _ => FieldWidth::Natural,
        };
        assert_eq!(width, expected, "{name}");
    }
}

#[test]
fn segments_are_listed_in_encoding_order() {
    for (i, f) in GuestField::SEGMENTS.iter().chain([&GuestField::LDTR, &GuestField::TR]).enumerate() {
        let i = 2 * i as u32;
        assert_eq!(f.0.encoding(), 0x800 + i);
        assert_eq!(f.1.encoding(), 0x4800 + i);
        assert_eq!(f.2.encoding(), 0x4814 + i);
        assert_eq!(f.3.encoding(), 0x6806 + i);
    }
}
