// SPDX-License-Identifier: GPL-2.0

//! The fields of the VMCS, by who may write them.
//!
//! SDM, "Field Encoding in VMCS". Three families of types say what a value can do: a [`GuestField`]
//! can at worst make an entry fail; an [`OwnedField`] could let a guest reach the host, so that only
//! [`super::region`] writes it; a [`HostField`] is what the processor loads at each exit, written
//! there too. A [`ReadField`] belongs to the processor.

/// The width of a field, bits 14:13 of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldWidth {
    /// 16 bits.
    Word = 0,
    /// 64 bits.
    Quad = 1,
    /// 32 bits.
    Long = 2,
    /// As wide as the host's registers.
    Natural = 3,
}

/// A field of the VMCS.
pub(crate) trait VmcsField: Copy {
    /// Returns the encoding for VMREAD and VMWRITE.
    fn encoding(self) -> u32;

    /// Returns the width.
    #[allow(dead_code, reason = "used by the tests")]
    fn width(self) -> FieldWidth {
        match self.encoding() >> 13 & 3 {
            0 => FieldWidth::Word,
            1 => FieldWidth::Quad,
            2 => FieldWidth::Long,
            _ => FieldWidth::Natural,
        }
    }
}

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident = $encoding:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(crate) enum $name {
            $($(#[$field_doc])* $field = $encoding,)*
        }

        impl $name {
            /// Every field of the family.
            #[allow(dead_code, reason = "used by the tests")]
            pub(crate) const ALL: &'static [$name] = &[$($name::$field),*];
        }

        impl VmcsField for $name {
            #[inline]
            fn encoding(self) -> u32 {
                self as u32
            }
        }
    };
}

fields! {
    /// Fields in which any value is safe for the host: the worst is an entry that fails.
    GuestField {
        /// ES selector; the other segments follow in encoding order, then LDTR and TR.
        EsSelector = 0x0800,
        /// CS selector.
        CsSelector = 0x0802,
        /// SS selector.
        SsSelector = 0x0804,
        /// DS selector.
        DsSelector = 0x0806,
        /// FS selector.
        FsSelector = 0x0808,
        /// GS selector.
        GsSelector = 0x080a,
        /// LDTR selector.
        LdtrSelector = 0x080c,
        /// TR selector.
        TrSelector = 0x080e,
        /// ES limit.
        EsLimit = 0x4800,
        /// CS limit.
        CsLimit = 0x4802,
        /// SS limit.
        SsLimit = 0x4804,
        /// DS limit.
        DsLimit = 0x4806,
        /// FS limit.
        FsLimit = 0x4808,
        /// GS limit.
        GsLimit = 0x480a,
        /// LDTR limit.
        LdtrLimit = 0x480c,
        /// TR limit.
        TrLimit = 0x480e,
        /// GDTR limit.
        GdtrLimit = 0x4810,
        /// IDTR limit.
        IdtrLimit = 0x4812,
        /// ES access rights.
        EsRights = 0x4814,
        /// CS access rights.
        CsRights = 0x4816,
        /// SS access rights.
        SsRights = 0x4818,
        /// DS access rights.
        DsRights = 0x481a,
        /// FS access rights.
        FsRights = 0x481c,
        /// GS access rights.
        GsRights = 0x481e,
        /// LDTR access rights.
        LdtrRights = 0x4820,
        /// TR access rights.
        TrRights = 0x4822,
        /// ES base.
        EsBase = 0x6806,
        /// CS base.
        CsBase = 0x6808,
        /// SS base.
        SsBase = 0x680a,
        /// DS base.
        DsBase = 0x680c,
        /// FS base.
        FsBase = 0x680e,
        /// GS base.
        GsBase = 0x6810,
        /// LDTR base.
        LdtrBase = 0x6812,
        /// TR base.
        TrBase = 0x6814,
        /// GDTR base.
        GdtrBase = 0x6816,
        /// IDTR base.
        IdtrBase = 0x6818,
        /// DR7.
        Dr7 = 0x681a,
        /// RSP.
        Rsp = 0x681c,
        /// RIP.
        Rip = 0x681e,
        /// RFLAGS.
        Rflags = 0x6820,
        /// Pending debug exceptions.
        PendingDebug = 0x6822,
        /// IA32_SYSENTER_CS.
        SysenterCs = 0x482a,
        /// IA32_SYSENTER_ESP.
        SysenterEsp = 0x6824,
        /// IA32_SYSENTER_EIP.
        SysenterEip = 0x6826,
        /// IA32_PAT.
        Pat = 0x2804,
        /// IA32_EFER.
        Efer = 0x2806,
        /// The directory pointers of PAE paging, which entries with EPT load from here.
        Pdpte0 = 0x280a,
        /// See [`GuestField::Pdpte0`].
        Pdpte1 = 0x280c,
        /// See [`GuestField::Pdpte0`].
        Pdpte2 = 0x280e,
        /// See [`GuestField::Pdpte0`].
        Pdpte3 = 0x2810,
        /// What blocks events.
        Interruptibility = 0x4824,
        /// The event to be injected.
        EntryInterruption = 0x4016,
        /// Its error code.
        EntryErrorCode = 0x4018,
        /// The length of the instruction that raises it.
        EntryInsnLength = 0x401a,
        /// What is added to the TSC.
        TscOffset = 0x2010,
    }
}

fields! {
    /// Fields that keep the guest within its bounds.
    OwnedField {
        /// Virtual-processor identifier.
        Vpid = 0x0000,
        /// Address of the MSR bitmap.
        MsrBitmap = 0x2004,
        /// Address of the MSRs loaded at entries.
        EntryMsrLoad = 0x200a,
        /// Address of the virtual-APIC page.
        VirtualApic = 0x2012,
        /// Address of the root of the EPT, and how to walk it.
        EptPointer = 0x201a,
        /// Which leaves of ENCLS exit.
        EnclsBitmap = 0x202e,
        /// The VMCS link pointer: all ones.
        LinkPointer = 0x2800,
        /// Guest IA32_DEBUGCTL: no tracing into host memory.
        DebugCtl = 0x2802,
        /// Pin-based controls.
        PinControls = 0x4000,
        /// Primary controls.
        PrimaryControls = 0x4002,
        /// Which exceptions exit.
        ExceptionBitmap = 0x4004,
        /// Page faults by error code: mask.
        PageFaultMask = 0x4006,
        /// Page faults by error code: match.
        PageFaultMatch = 0x4008,
        /// CR3 targets.
        Cr3TargetCount = 0x400a,
        /// VM-exit controls.
        ExitControls = 0x400c,
        /// MSRs stored at exits.
        ExitMsrStoreCount = 0x400e,
        /// MSRs loaded at exits.
        ExitMsrLoadCount = 0x4010,
        /// VM-entry controls.
        VmEntryControls = 0x4012,
        /// MSRs loaded at entries.
        EntryMsrLoadCount = 0x4014,
        /// The TPR below which a write of CR8 exits.
        TprThreshold = 0x401c,
        /// Secondary controls.
        SecondaryControls = 0x401e,
        /// What the guest's processor does between instructions.
        ActivityState = 0x4826,
        /// The preemption timer's value at each entry.
        PreemptionTimer = 0x482e,
        /// Bits of CR0 that are the host's.
        Cr0Mask = 0x6000,
        /// Bits of CR4 that are the host's.
        Cr4Mask = 0x6002,
        /// What the guest reads of them in CR0.
        Cr0Shadow = 0x6004,
        /// What the guest reads of them in CR4.
        Cr4Shadow = 0x6006,
        /// CR0.
        Cr0 = 0x6800,
        /// CR3, which without EPT names the tables that are walked.
        Cr3 = 0x6802,
        /// CR4.
        Cr4 = 0x6804,
    }
}

fields! {
    /// The state that the processor loads at each exit.
    HostField {
        /// ES selector.
        EsSelector = 0x0c00,
        /// CS selector.
        CsSelector = 0x0c02,
        /// SS selector.
        SsSelector = 0x0c04,
        /// DS selector.
        DsSelector = 0x0c06,
        /// FS selector.
        FsSelector = 0x0c08,
        /// GS selector.
        GsSelector = 0x0c0a,
        /// TR selector.
        TrSelector = 0x0c0c,
        /// IA32_PAT.
        Pat = 0x2c00,
        /// IA32_EFER.
        Efer = 0x2c02,
        /// IA32_SYSENTER_CS.
        SysenterCs = 0x4c00,
        /// CR0.
        Cr0 = 0x6c00,
        /// CR3.
        Cr3 = 0x6c02,
        /// CR4.
        Cr4 = 0x6c04,
        /// FS base.
        FsBase = 0x6c06,
        /// GS base.
        GsBase = 0x6c08,
        /// TR base.
        TrBase = 0x6c0a,
        /// GDTR base.
        GdtrBase = 0x6c0c,
        /// IDTR base.
        IdtrBase = 0x6c0e,
        /// IA32_SYSENTER_ESP.
        SysenterEsp = 0x6c10,
        /// IA32_SYSENTER_EIP.
        SysenterEip = 0x6c12,
    }
}

fields! {
    /// What the processor tells about an exit.
    ReadField {
        /// The guest physical address of an EPT violation.
        GuestPhysical = 0x2400,
        /// Why the last VMX instruction failed.
        InstructionError = 0x4400,
        /// The exit reason.
        ExitReason = 0x4402,
        /// The event that caused the exit.
        ExitInterruption = 0x4404,
        /// Its error code.
        ExitErrorCode = 0x4406,
        /// The event whose delivery was interrupted.
        IdtVectoring = 0x4408,
        /// Its error code.
        IdtVectoringErrorCode = 0x440a,
        /// The length of the instruction that exited.
        InsnLength = 0x440c,
        /// The exit qualification.
        Qualification = 0x6400,
    }
}

impl GuestField {
    /// Selector, limit, access rights and base of ES, CS, SS, DS, FS, GS in encoding order.
    pub(crate) const SEGMENTS: [SegmentFields; 6] = {
        use GuestField::*;
        [
            SegmentFields(EsSelector, EsLimit, EsRights, EsBase),
            SegmentFields(CsSelector, CsLimit, CsRights, CsBase),
            SegmentFields(SsSelector, SsLimit, SsRights, SsBase),
            SegmentFields(DsSelector, DsLimit, DsRights, DsBase),
            SegmentFields(FsSelector, FsLimit, FsRights, FsBase),
            SegmentFields(GsSelector, GsLimit, GsRights, GsBase),
        ]
    };
    /// The four directory pointers of PAE paging.
    pub(crate) const PDPTES: [GuestField; 4] =
        [GuestField::Pdpte0, GuestField::Pdpte1, GuestField::Pdpte2, GuestField::Pdpte3];
    /// As [`GuestField::SEGMENTS`], of LDTR.
    pub(crate) const LDTR: SegmentFields = {
        use GuestField::*;
        SegmentFields(LdtrSelector, LdtrLimit, LdtrRights, LdtrBase)
    };
    /// As [`GuestField::SEGMENTS`], of TR.
    pub(crate) const TR: SegmentFields = {
        use GuestField::*;
        SegmentFields(TrSelector, TrLimit, TrRights, TrBase)
    };
}

/// The fields of a segment register: selector, limit, access rights, base.
#[derive(Clone, Copy)]
pub(crate) struct SegmentFields(
    /// Selector.
    pub(crate) GuestField,
    /// Limit.
    pub(crate) GuestField,
    /// Access rights.
    pub(crate) GuestField,
    /// Base.
    pub(crate) GuestField,
);
