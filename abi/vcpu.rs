// SPDX-License-Identifier: GPL-2.0

//! Structs of a vCPU: registers, floating point, events, MSRs, local APIC, debugging.

/// [`MpState::mp_state`]: runs, or may run.
pub(crate) const MP_STATE_RUNNABLE: u32 = 0;
/// [`MpState::mp_state`]: an application processor that waits for INIT.
pub(crate) const MP_STATE_UNINITIALIZED: u32 = 1;
/// [`MpState::mp_state`]: had INIT, waits for SIPI.
pub(crate) const MP_STATE_INIT_RECEIVED: u32 = 2;
/// [`MpState::mp_state`]: sleeps in HLT.
pub(crate) const MP_STATE_HALTED: u32 = 3;
/// [`MpState::mp_state`]: had SIPI, is about to start.
pub(crate) const MP_STATE_SIPI_RECEIVED: u32 = 4;

/// [`VcpuEvents::flags`]: `nmi.pending` is valid.
pub(crate) const VCPUEVENT_VALID_NMI_PENDING: u32 = 1 << 0;
/// [`VcpuEvents::flags`]: `sipi_vector` is valid.
pub(crate) const VCPUEVENT_VALID_SIPI_VECTOR: u32 = 1 << 1;
/// [`VcpuEvents::flags`]: `interrupt_shadow` is valid.
pub(crate) const VCPUEVENT_VALID_SHADOW: u32 = 1 << 2;
/// [`VcpuEvents::flags`]: the fields of system management mode are valid.
pub(crate) const VCPUEVENT_VALID_SMM: u32 = 1 << 3;
/// [`VcpuEvents::flags`]: `exception_pending` and the payload are valid.
pub(crate) const VCPUEVENT_VALID_PAYLOAD: u32 = 1 << 4;
/// [`VcpuEvents::flags`]: `triple_fault_pending` is valid.
pub(crate) const VCPUEVENT_VALID_TRIPLE_FAULT: u32 = 1 << 5;

/// [`VcpuEvents::interrupt_shadow`]: after MOV SS or POP SS.
pub(crate) const SHADOW_INT_MOV_SS: u8 = 1;
/// [`VcpuEvents::interrupt_shadow`]: after STI.
pub(crate) const SHADOW_INT_STI: u8 = 2;

/// [`GuestDebug::control`]: debugging is on.
pub(crate) const GUESTDBG_ENABLE: u32 = 1;
/// [`GuestDebug::control`]: exit after each instruction.
pub(crate) const GUESTDBG_SINGLESTEP: u32 = 2;
/// [`GuestDebug::control`]: INT3 exits.
pub(crate) const GUESTDBG_USE_SW_BP: u32 = 1 << 16;
/// [`GuestDebug::control`]: `debugreg` are in force.
pub(crate) const GUESTDBG_USE_HW_BP: u32 = 1 << 17;

/// [`GuestDebug::control`]: raises #DB in the guest.
pub(crate) const GUESTDBG_INJECT_DB: u32 = 1 << 18;
/// [`GuestDebug::control`]: raises #BP in the guest.
pub(crate) const GUESTDBG_INJECT_BP: u32 = 1 << 19;
/// [`GuestDebug::control`]: the guest gets no interrupts.
pub(crate) const GUESTDBG_BLOCKIRQ: u32 = 1 << 20;
/// [`GuestDebug::control`]: all that there is.
pub(crate) const GUESTDBG_VALID: u32 = GUESTDBG_ENABLE
    | GUESTDBG_SINGLESTEP
    | GUESTDBG_USE_SW_BP
    | GUESTDBG_USE_HW_BP
    | GUESTDBG_INJECT_DB
    | GUESTDBG_INJECT_BP
    | GUESTDBG_BLOCKIRQ;
/// Group of a vCPU's attributes: its TSC.
pub(crate) const VCPU_TSC_CTRL: u32 = 0;
/// [`VCPU_TSC_CTRL`]: what is added to the host's TSC, a `u64`.
pub(crate) const VCPU_TSC_OFFSET: u64 = 0;

/// [`Sregs2::flags`]: `pdptrs` are valid.
pub(crate) const SREGS2_PDPTRS_VALID: u64 = 1;

/// Extended control registers that [`Xcrs`] has room for.
pub(crate) const MAX_XCRS: usize = 16;

abi_struct! {
    /// KVM_GET_REGS and KVM_SET_REGS.
    struct Regs = 144 {
        /// RAX.
        rax: u64,
        /// RBX.
        rbx: u64,
        /// RCX.
        rcx: u64,
        /// RDX.
        rdx: u64,
        /// RSI.
        rsi: u64,
        /// RDI.
        rdi: u64,
        /// RSP.
        rsp: u64,
        /// RBP.
        rbp: u64,
        /// R8.
        r8: u64,
        /// R9.
        r9: u64,
        /// R10.
        r10: u64,
        /// R11.
        r11: u64,
        /// R12.
        r12: u64,
        /// R13.
        r13: u64,
        /// R14.
        r14: u64,
        /// R15.
        r15: u64,
        /// RIP.
        rip: u64,
        /// RFLAGS.
        rflags: u64,
    }

    /// A segment register, attributes taken apart.
    struct Segment = 24 {
        /// Base address.
        base: u64,
        /// Limit in bytes, granularity applied.
        limit: u32,
        /// Selector.
        selector: u16,
        /// Type field, 4 bits.
        kind: u8,
        /// P.
        present: u8,
        /// DPL.
        dpl: u8,
        /// D/B.
        db: u8,
        /// S: code or data, not system.
        s: u8,
        /// L: 64-bit code.
        l: u8,
        /// G: limit in pages.
        g: u8,
        /// AVL.
        avl: u8,
        /// A null selector was loaded.
        unusable: u8,
        /// Unused.
        padding: u8,
    }

    /// GDTR or IDTR.
    struct Dtable = 16 {
        /// Base address.
        base: u64,
        /// Limit in bytes.
        limit: u16,
        /// Unused.
        padding: [u16; 3],
    }

    /// KVM_GET_SREGS and KVM_SET_SREGS.
    struct Sregs = 312 {
        /// CS.
        cs: Segment,
        /// DS.
        ds: Segment,
        /// ES.
        es: Segment,
        /// FS.
        fs: Segment,
        /// GS.
        gs: Segment,
        /// SS.
        ss: Segment,
        /// Task register.
        tr: Segment,
        /// LDTR.
        ldt: Segment,
        /// GDTR.
        gdt: Dtable,
        /// IDTR.
        idt: Dtable,
        /// CR0.
        cr0: u64,
        /// CR2.
        cr2: u64,
        /// CR3.
        cr3: u64,
        /// CR4.
        cr4: u64,
        /// CR8.
        cr8: u64,
        /// EFER.
        efer: u64,
        /// MSR APIC_BASE.
        apic_base: u64,
        /// The one external interrupt that is being injected, as a bit.
        interrupt_bitmap: [u64; 4],
    }

    /// KVM_GET_SREGS2 and KVM_SET_SREGS2.
    struct Sregs2 = 320 {
        /// CS.
        cs: Segment,
        /// DS.
        ds: Segment,
        /// ES.
        es: Segment,
        /// FS.
        fs: Segment,
        /// GS.
        gs: Segment,
        /// SS.
        ss: Segment,
        /// Task register.
        tr: Segment,
        /// LDTR.
        ldt: Segment,
        /// GDTR.
        gdt: Dtable,
        /// IDTR.
        idt: Dtable,
        /// CR0.
        cr0: u64,
        /// CR2.
        cr2: u64,
        /// CR3.
        cr3: u64,
        /// CR4.
        cr4: u64,
        /// CR8.
        cr8: u64,
        /// EFER.
        efer: u64,
        /// MSR APIC_BASE.
        apic_base: u64,
        /// [`SREGS2_PDPTRS_VALID`].
        flags: u64,
        /// The four page-directory pointers of PAE paging.
        pdptrs: [u64; 4],
    }

    /// KVM_GET_FPU and KVM_SET_FPU.
    struct Fpu = 416 {
        /// x87 registers, 80 bits used of each.
        fpr: [[u8; 16]; 8],
        /// Control word.
        fcw: u16,
        /// Status word.
        fsw: u16,
        /// Tag word in the short form of FXSAVE.
        ftwx: u8,
        /// Unused.
        pad1: u8,
        /// Last opcode.
        last_opcode: u16,
        /// Last instruction's address.
        last_ip: u64,
        /// Last operand's address.
        last_dp: u64,
        /// XMM registers.
        xmm: [[u8; 16]; 16],
        /// MXCSR.
        mxcsr: u32,
        /// Unused.
        pad2: u32,
    }

    /// KVM_GET_XSAVE and KVM_SET_XSAVE: the standard, not compacted, XSAVE layout.
    struct Xsave = 4096 {
        /// The area.
        region: [u32; 1024],
    }

    /// One extended control register.
    struct Xcr = 16 {
        /// Its number; only 0 exists.
        xcr: u32,
        /// Unused.
        reserved: u32,
        /// Its value.
        value: u64,
    }

    /// KVM_GET_XCRS and KVM_SET_XCRS.
    struct Xcrs = 392 {
        /// How many of `xcrs` are valid.
        nr_xcrs: u32,
        /// Must be 0.
        flags: u32,
        /// The registers.
        xcrs: [Xcr; MAX_XCRS],
        /// Unused.
        padding: [u64; 16],
    }

    /// KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS. The header's nested structs are laid out flat.
    struct VcpuEvents = 64 {
        /// An exception is being injected.
        exception_injected: u8,
        /// Its vector.
        exception_nr: u8,
        /// It pushes an error code.
        exception_has_error_code: u8,
        /// It is pending, not yet injected.
        exception_pending: u8,
        /// The error code.
        exception_error_code: u32,
        /// An interrupt is being injected.
        interrupt_injected: u8,
        /// Its vector.
        interrupt_nr: u8,
        /// It is a software interrupt.
        interrupt_soft: u8,
        /// `SHADOW_INT_*`.
        interrupt_shadow: u8,
        /// An NMI is being injected.
        nmi_injected: u8,
        /// How many NMIs wait.
        nmi_pending: u8,
        /// NMIs are blocked until IRET.
        nmi_masked: u8,
        /// Unused.
        nmi_pad: u8,
        /// The vector of the start-up message received.
        sipi_vector: u32,
        /// `VCPUEVENT_VALID_*`.
        flags: u32,
        /// In system management mode.
        smi_smm: u8,
        /// An SMI waits.
        smi_pending: u8,
        /// The SMI came inside an NMI handler.
        smi_smm_inside_nmi: u8,
        /// INIT waits for the end of system management mode.
        smi_latched_init: u8,
        /// A triple fault waits to be reported.
        triple_fault_pending: u8,
        /// Unused.
        reserved: [u8; 26],
        /// The payload is valid.
        exception_has_payload: u8,
        /// CR2 or DR6 that the exception will write.
        exception_payload: u64,
    }

    /// KVM_GET_DEBUGREGS and KVM_SET_DEBUGREGS.
    struct Debugregs = 128 {
        /// DR0 to DR3.
        db: [u64; 4],
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
        /// Must be 0.
        flags: u64,
        /// Unused.
        reserved: [u64; 9],
    }

    /// KVM_GET_MP_STATE and KVM_SET_MP_STATE.
    struct MpState = 4 {
        /// `MP_STATE_*`.
        mp_state: u32,
    }

    /// Header of KVM_GET_MSRS and KVM_SET_MSRS; [`MsrEntry`] follow.
    struct Msrs = 8 {
        /// How many entries follow.
        nmsrs: u32,
        /// Unused.
        pad: u32,
    }

    /// One MSR.
    struct MsrEntry = 16 {
        /// Its number.
        index: u32,
        /// Unused.
        reserved: u32,
        /// Its value.
        data: u64,
    }

    /// KVM_GET_LAPIC and KVM_SET_LAPIC: the register page, 16 bytes for each register.
    struct LapicState = 1024 {
        /// The page's first quarter.
        regs: [u8; 1024],
    }

    /// KVM_INTERRUPT.
    struct Interrupt = 4 {
        /// The vector.
        irq: u32,
    }

    /// Header of KVM_SET_SIGNAL_MASK; `len` bytes of a signal set follow.
    struct SignalMask = 4 {
        /// 8: the size of the kernel's signal set.
        len: u32,
    }

    /// KVM_TPR_ACCESS_REPORTING.
    struct TprAccessCtl = 40 {
        /// 1 switches the exits on.
        enabled: u32,
        /// Must be 0.
        flags: u32,
        /// Unused.
        reserved: [u32; 8],
    }

    /// KVM_PRE_FAULT_MEMORY.
    struct PreFaultMemory = 64 {
        /// In: the first guest physical address. Out: the first that is left.
        gpa: u64,
        /// In: how many bytes. Out: how many are left.
        size: u64,
        /// 0.
        flags: u64,
        /// Unused.
        padding: [u64; 5],
    }

    /// KVM_SET_VAPIC_ADDR.
    struct VapicAddr = 8 {
        /// Where the guest wants its task priority mirrored; 0 for nowhere.
        vapic_addr: u64,
    }

    /// KVM_SET_GUEST_DEBUG.
    struct GuestDebug = 72 {
        /// `GUESTDBG_*`.
        control: u32,
        /// Unused.
        pad: u32,
        /// DR0 to DR7.
        debugreg: [u64; 8],
    }

    /// KVM_TRANSLATE.
    struct Translation = 24 {
        /// In: the guest virtual address.
        linear_address: u64,
        /// Out: the guest physical address.
        physical_address: u64,
        /// Out: there is a translation.
        valid: u8,
        /// Out: it may be written.
        writeable: u8,
        /// Out: CPL 3 may use it.
        usermode: u8,
        /// Unused.
        pad: [u8; 5],
    }

    /// KVM_X86_SET_MCE.
    struct X86Mce = 64 {
        /// MCi_STATUS.
        status: u64,
        /// MCi_ADDR.
        addr: u64,
        /// MCi_MISC.
        misc: u64,
        /// MCG_STATUS.
        mcg_status: u64,
        /// The bank i.
        bank: u8,
        /// Unused.
        pad1: [u8; 7],
        /// Unused.
        pad2: [u64; 3],
    }
}
