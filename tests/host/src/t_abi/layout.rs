// SPDX-License-Identifier: GPL-2.0

//! Every struct has the header's size, and every field the header's offset. The crate kvm-bindings,
//! generated from the header, is the reference.

use crate::abi::{run, sys, vcpu, vm};
use core::mem::{offset_of, size_of};

/// Checks the size of a struct, and the offset of each field: `ours` or `ours => theirs`.
macro_rules! same_layout {
    ($ours:ty, $theirs:ident { $($field:ident $(=> $($other:ident).+)?),* $(,)? }) => {
        assert_eq!(size_of::<$ours>(), size_of::<kvm_bindings::$theirs>(), "size of {}", stringify!($theirs));
        $(
            assert_eq!(
                offset_of!($ours, $field),
                same_layout!(@theirs $theirs, $field $(, $($other).+)?),
                "{}.{}", stringify!($theirs), stringify!($field)
            );
        )*
    };
    (@theirs $theirs:ident, $field:ident) => { offset_of!(kvm_bindings::$theirs, $field) };
    (@theirs $theirs:ident, $field:ident, $($other:ident).+) => { offset_of!(kvm_bindings::$theirs, $($other).+) };
}

#[test]
fn node_structs_lie_as_in_the_header() {
    same_layout!(sys::Cpuid2, kvm_cpuid2 { nent, padding });
    same_layout!(sys::CpuidEntry2, kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding });
    same_layout!(sys::MsrList, kvm_msr_list { nmsrs });
}

#[test]
fn vm_structs_lie_as_in_the_header() {
    same_layout!(
        vm::UserspaceMemoryRegion,
        kvm_userspace_memory_region { slot, flags, guest_phys_addr, memory_size, userspace_addr }
    );
    same_layout!(
        vm::UserspaceMemoryRegion2,
        kvm_userspace_memory_region2 {
            slot,
            flags,
            guest_phys_addr,
            memory_size,
            userspace_addr,
            guest_memfd_offset,
            guest_memfd,
            pad1,
            pad2
        }
    );
    same_layout!(vm::HypervEventfd, kvm_hyperv_eventfd { conn_id, fd, flags, padding });
    same_layout!(vm::IrqLevel, kvm_irq_level { irq => __bindgen_anon_1.irq, level });
    same_layout!(
        vm::PicState,
        kvm_pic_state {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_reg_select,
            poll,
            special_mask,
            init_state,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested_mode,
            init4,
            elcr,
            elcr_mask
        }
    );
    same_layout!(vm::IoapicState, kvm_ioapic_state { base_address, ioregsel, id, irr, pad, redirtbl });
    same_layout!(vm::Irqchip, kvm_irqchip { chip_id, pad, chip });
    same_layout!(vm::PitConfig, kvm_pit_config { flags, pad });
    same_layout!(
        vm::PitChannelState,
        kvm_pit_channel_state {
            count,
            latched_count,
            count_latched,
            status_latched,
            status,
            read_state,
            write_state,
            write_latch,
            rw_mode,
            mode,
            bcd,
            gate,
            count_load_time
        }
    );
    same_layout!(vm::PitState, kvm_pit_state { channels });
    same_layout!(vm::PitState2, kvm_pit_state2 { channels, flags, reserved });
    same_layout!(vm::IrqRouting, kvm_irq_routing { nr, flags });
    same_layout!(vm::IrqRoutingEntry, kvm_irq_routing_entry { gsi, kind => type_, flags, pad, u });
    same_layout!(vm::Irqfd, kvm_irqfd { fd, gsi, flags, resamplefd, pad });
    same_layout!(vm::Ioeventfd, kvm_ioeventfd { datamatch, addr, len, fd, flags, pad });
    same_layout!(vm::Msi, kvm_msi { address_lo, address_hi, data, flags, devid, pad });
    same_layout!(vm::ClockData, kvm_clock_data { clock, flags, pad0, realtime, host_tsc, pad });
    same_layout!(vm::EnableCap, kvm_enable_cap { cap, flags, args, pad });
    same_layout!(vm::CoalescedMmioZone, kvm_coalesced_mmio_zone { addr, size, pio => __bindgen_anon_1.pio });
    same_layout!(vm::CoalescedMmio, kvm_coalesced_mmio { phys_addr, len, pio => __bindgen_anon_1.pio, data });
    same_layout!(vm::CoalescedMmioRing, kvm_coalesced_mmio_ring { first, last });
    same_layout!(vm::CreateDevice, kvm_create_device { kind => type_, fd, flags });
    same_layout!(vm::DeviceAttr, kvm_device_attr { flags, group, attr, addr });
    same_layout!(vm::DirtyLog, kvm_dirty_log { slot, padding1, dirty_bitmap => __bindgen_anon_1.dirty_bitmap });
    same_layout!(vm::ClearDirtyLog, kvm_clear_dirty_log { slot, num_pages, first_page, dirty_bitmap => __bindgen_anon_1.dirty_bitmap });
}

#[test]
fn register_structs_lie_as_in_the_header() {
    same_layout!(
        vcpu::Regs,
        kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags
        }
    );
    same_layout!(vcpu::Segment, kvm_segment { base, limit, selector, kind => type_, present, dpl, db, s, l, g, avl, unusable, padding });
    same_layout!(vcpu::Dtable, kvm_dtable { base, limit, padding });
    same_layout!(
        vcpu::Sregs,
        kvm_sregs {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            interrupt_bitmap
        }
    );
    same_layout!(
        vcpu::Sregs2,
        kvm_sregs2 {
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            tr,
            ldt,
            gdt,
            idt,
            cr0,
            cr2,
            cr3,
            cr4,
            cr8,
            efer,
            apic_base,
            flags,
            pdptrs
        }
    );
}

#[test]
fn vcpu_structs_lie_as_in_the_header() {
    same_layout!(
        vcpu::Fpu,
        kvm_fpu { fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2 }
    );
    same_layout!(vcpu::Xsave, kvm_xsave { region });
    same_layout!(vcpu::Xcr, kvm_xcr { xcr, reserved, value });
    same_layout!(vcpu::Xcrs, kvm_xcrs { nr_xcrs, flags, xcrs, padding });
    same_layout!(vcpu::VcpuEvents, kvm_vcpu_events { exception_injected => exception.injected, exception_nr => exception.nr, exception_has_error_code => exception.has_error_code, exception_pending => exception.pending, exception_error_code => exception.error_code, interrupt_injected => interrupt.injected, interrupt_nr => interrupt.nr, interrupt_soft => interrupt.soft, interrupt_shadow => interrupt.shadow, nmi_injected => nmi.injected, nmi_pending => nmi.pending, nmi_masked => nmi.masked, nmi_pad => nmi.pad, sipi_vector, flags, smi_smm => smi.smm, smi_pending => smi.pending, smi_smm_inside_nmi => smi.smm_inside_nmi, smi_latched_init => smi.latched_init, triple_fault_pending => triple_fault.pending, reserved, exception_has_payload, exception_payload });
    same_layout!(vcpu::Debugregs, kvm_debugregs { db, dr6, dr7, flags, reserved });
    same_layout!(vcpu::MpState, kvm_mp_state { mp_state });
    same_layout!(vcpu::Msrs, kvm_msrs { nmsrs, pad });
    same_layout!(vcpu::MsrEntry, kvm_msr_entry { index, reserved, data });
    same_layout!(vcpu::LapicState, kvm_lapic_state { regs });
    same_layout!(vcpu::Interrupt, kvm_interrupt { irq });
    same_layout!(vcpu::SignalMask, kvm_signal_mask { len });
    same_layout!(vcpu::TprAccessCtl, kvm_tpr_access_ctl { enabled, flags, reserved });
    same_layout!(vcpu::VapicAddr, kvm_vapic_addr { vapic_addr });
    same_layout!(vcpu::PreFaultMemory, kvm_pre_fault_memory { gpa, size, flags, padding });
    same_layout!(vcpu::GuestDebug, kvm_guest_debug { control, pad, debugreg => arch.debugreg });
    same_layout!(
        vcpu::Translation,
        kvm_translation { linear_address, physical_address, valid, writeable, usermode, pad }
    );
    same_layout!(vcpu::X86Mce, kvm_x86_mce { status, addr, misc, mcg_status, bank, pad1, pad2 });
}

/// Checks that an exit's struct lies in the union as the header's member does.
macro_rules! same_exit {
    ($ours:ty, $member:ident { $($field:ident $(=> $($other:ident).+)?),* $(,)? }) => {
        $(
            assert_eq!(
                run::offset::EXIT + offset_of!($ours, $field),
                same_exit!(@theirs $member, $field $(, $($other).+)?),
                "{}.{}", stringify!($member), stringify!($field)
            );
        )*
    };
    (@theirs $member:ident, $field:ident) => {
        offset_of!(kvm_bindings::kvm_run, __bindgen_anon_1.$member.$field)
    };
    (@theirs $member:ident, $field:ident, $($other:ident).+) => {
        offset_of!(kvm_bindings::kvm_run, __bindgen_anon_1.$member.$($other).+)
    };
}

#[test]
fn the_shared_page_lies_as_in_the_header() {
    use kvm_bindings::kvm_run as theirs;

    assert_eq!(run::SIZE, size_of::<theirs>());
    assert_eq!(run::offset::REQUEST_INTERRUPT_WINDOW, offset_of!(theirs, request_interrupt_window));
    assert_eq!(run::offset::IMMEDIATE_EXIT, offset_of!(theirs, immediate_exit));
    assert_eq!(run::offset::EXIT_REASON, offset_of!(theirs, exit_reason));
    assert_eq!(run::offset::READY_FOR_INTERRUPT_INJECTION, offset_of!(theirs, ready_for_interrupt_injection));
    assert_eq!(run::offset::IF_FLAG, offset_of!(theirs, if_flag));
    assert_eq!(run::offset::FLAGS, offset_of!(theirs, flags));
    assert_eq!(run::offset::CR8, offset_of!(theirs, cr8));
    assert_eq!(run::offset::APIC_BASE, offset_of!(theirs, apic_base));
    assert_eq!(run::offset::EXIT, offset_of!(theirs, __bindgen_anon_1));
    assert_eq!(run::offset::VALID_REGS, offset_of!(theirs, kvm_valid_regs));
    assert_eq!(run::offset::DIRTY_REGS, offset_of!(theirs, kvm_dirty_regs));
    assert_eq!(run::offset::SYNC_REGS, offset_of!(theirs, s));
    assert_eq!(run::offset::MMIO_DATA, offset_of!(theirs, __bindgen_anon_1.mmio.data));
    assert_eq!(run::offset::MSR_ERROR, offset_of!(theirs, __bindgen_anon_1.msr.error));
    assert_eq!(run::offset::MSR_DATA, offset_of!(theirs, __bindgen_anon_1.msr.data));
    assert_eq!(run::offset::HYPERV_RESULT, offset_of!(theirs, __bindgen_anon_1.hyperv.u.hcall.result));
    assert_eq!(run::offset::HYPERV_STATUS, offset_of!(theirs, __bindgen_anon_1.hyperv.u.syndbg.status));
    assert_eq!(run::offset::HYPERCALL_RET, offset_of!(theirs, __bindgen_anon_1.hypercall.ret));
}

#[test]
fn exits_lie_in_the_union_as_in_the_header() {
    same_exit!(run::Hardware, hw { hardware_exit_reason });
    same_exit!(run::FailEntry, fail_entry { hardware_entry_failure_reason, cpu });
    same_exit!(run::ExceptionExit, ex { exception, error_code });
    same_exit!(run::Io, io { direction, size, port, count, data_offset });
    same_exit!(run::Debug, debug { exception => arch.exception, pc => arch.pc, dr6 => arch.dr6, dr7 => arch.dr7 });
    same_exit!(run::Mmio, mmio { phys_addr, data, len, is_write });
    same_exit!(run::Hypercall, hypercall { nr, args, ret, flags => __bindgen_anon_1.flags });
    same_exit!(run::TprAccess, tpr_access { rip, is_write });
    same_exit!(run::Internal, internal { suberror, ndata, data });
    same_exit!(run::SystemEvent, system_event { kind => type_, ndata, data => __bindgen_anon_1.data });
    same_exit!(run::Eoi, eoi { vector });
    same_exit!(run::HypervSynic, hyperv {
        kind => type_,
        msr => u.synic.msr,
        control => u.synic.control,
        evt_page => u.synic.evt_page,
        msg_page => u.synic.msg_page
    });
    same_exit!(run::HypervCall, hyperv {
        kind => type_,
        input => u.hcall.input,
        result => u.hcall.result,
        params => u.hcall.params
    });
    same_exit!(run::HypervDebugger, hyperv {
        kind => type_,
        msr => u.syndbg.msr,
        control => u.syndbg.control,
        status => u.syndbg.status,
        send_page => u.syndbg.send_page,
        recv_page => u.syndbg.recv_page,
        pending_page => u.syndbg.pending_page
    });
    same_exit!(run::Msr, msr { error, reason, index, data });
    same_exit!(run::MemoryFault, memory_fault { flags, gpa, size });
    same_layout!(run::SyncRegs, kvm_sync_regs { regs, sregs, events });
}

#[test]
fn exit_reasons_have_the_numbers_of_the_header() {
    use run::ExitReason as R;

    let pairs = [
        (R::Unknown, kvm_bindings::KVM_EXIT_UNKNOWN),
        (R::Exception, kvm_bindings::KVM_EXIT_EXCEPTION),
        (R::Io, kvm_bindings::KVM_EXIT_IO),
        (R::Hypercall, kvm_bindings::KVM_EXIT_HYPERCALL),
        (R::Debug, kvm_bindings::KVM_EXIT_DEBUG),
        (R::Hlt, kvm_bindings::KVM_EXIT_HLT),
        (R::Mmio, kvm_bindings::KVM_EXIT_MMIO),
        (R::IrqWindowOpen, kvm_bindings::KVM_EXIT_IRQ_WINDOW_OPEN),
        (R::Shutdown, kvm_bindings::KVM_EXIT_SHUTDOWN),
        (R::FailEntry, kvm_bindings::KVM_EXIT_FAIL_ENTRY),
        (R::Intr, kvm_bindings::KVM_EXIT_INTR),
        (R::SetTpr, kvm_bindings::KVM_EXIT_SET_TPR),
        (R::TprAccess, kvm_bindings::KVM_EXIT_TPR_ACCESS),
        (R::InternalError, kvm_bindings::KVM_EXIT_INTERNAL_ERROR),
        (R::SystemEvent, kvm_bindings::KVM_EXIT_SYSTEM_EVENT),
        (R::IoapicEoi, kvm_bindings::KVM_EXIT_IOAPIC_EOI),
        (R::Hyperv, kvm_bindings::KVM_EXIT_HYPERV),
        (R::X86Rdmsr, kvm_bindings::KVM_EXIT_X86_RDMSR),
        (R::X86Wrmsr, kvm_bindings::KVM_EXIT_X86_WRMSR),
        (R::DirtyRingFull, kvm_bindings::KVM_EXIT_DIRTY_RING_FULL),
        (R::X86BusLock, kvm_bindings::KVM_EXIT_X86_BUS_LOCK),
        (R::Notify, kvm_bindings::KVM_EXIT_NOTIFY),
        (R::MemoryFault, kvm_bindings::KVM_EXIT_MEMORY_FAULT),
    ];

    for (ours, header) in pairs {
        assert_eq!(ours as u32, header, "{ours:?}");
    }
}
