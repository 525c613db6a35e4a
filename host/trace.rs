// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: what the module does, for ftrace, perf and BPF.
//!
//! They are in /sys/kernel/tracing/events/rvmm, each with the prefix `rvmm_`. One that is off costs a no-operation, which
//! the kernel patches into a jump when somebody turns it on; the closure that gathers an event's fields runs only then.
//! Events may be told anywhere, in a window, under a spin lock and in hard interrupt context: the kernel writes into a
//! buffer of the CPU, takes no lock and does not sleep.
//!
//! Each event is here and in trace.h, with the same fields in the same order. Fields are part of no ABI.
//! See Linux, Documentation/trace/tracepoints.rst.

use kernel::bindings::tracepoint;

/// Declares for each event what it holds, and the function that tells it.
macro_rules! events {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($event:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)+ });
    )+) => {
        kernel::macros::paste! {
            /// What trace.c makes of trace.h.
            mod ffi {
                use super::tracepoint;

                #[expect(improper_ctypes, reason = "a lock class key is empty; only the key's address is used")]
                unsafe extern "C" {
                    $(
                        pub(super) static [<__tracepoint_rvmm_ $name>]: tracepoint;
                        // So that what calls it lies out of the way of what does not.
                        #[cold]
                        pub(super) fn [<rust_do_trace_rvmm_ $name>]($($field: $kind),+);
                    )+
                }
            }

            $(
                #[doc = concat!("What [`", stringify!($name), "()`] tells.")]
                pub(crate) struct $event {
                    $($(#[$field_doc])* pub(crate) $field: $kind,)+
                }

                $(#[$doc])*
                #[inline(always)]
                pub(crate) fn $name(event: impl FnOnce() -> $event) {
                    // SAFETY: The tracepoint is one of trace.c, and its key is the kernel's.
                    let is_on = unsafe {
                        kernel::jump_label::static_branch_unlikely!(
                            ffi::[<__tracepoint_rvmm_ $name>],
                            tracepoint,
                            key
                        )
                    };
                    if is_on {
                        let $event { $($field),+ } = event();
                        // SAFETY: trace.h declares the function with these arguments. It may be called in any context.
                        unsafe { ffi::[<rust_do_trace_rvmm_ $name>]($($field),+) }
                    }
                }
            )+
        }
    };
}

events! {
    /// A vCPU enters the guest.
    fn entry(Entry {
        /// The vCPU's number.
        vcpu: u32,
        /// Where the guest goes on.
        rip: u64,
    });

    /// A vCPU has left the guest.
    fn exit(Exit {
        /// The vCPU's number.
        vcpu: u32,
        /// Where the guest was.
        rip: u64,
        /// The exit code or reason, as the processor reports it.
        reason: u64,
        /// EXITINFO1, or the qualification.
        info1: u64,
        /// EXITINFO2, or the guest physical address.
        info2: u64,
    });

    /// KVM_RUN returns to user space.
    fn user_exit(UserExit {
        /// `exit_reason` of kvm_run.
        reason: u32,
    });

    /// An event is put into the next entry.
    fn inject(Inject {
        /// The vCPU's number.
        vcpu: u32,
        /// The type as both vendors number it: 0 interrupt, 2 NMI, 3 exception, 4 software interrupt.
        kind: u32,
        /// The vector.
        vector: u32,
        /// The error code, or 0.
        error_code: u32,
    });

    /// A halted vCPU has an event.
    fn halt(Halt {
        /// The vCPU's number.
        vcpu: u32,
        /// How long it waited, in ticks of the TSC.
        ticks: u64,
        /// Whether it came while the vCPU still polled.
        polled: bool,
    });

    /// Another thread, or an interrupt, wants a vCPU to look at what is asked of it.
    fn kick(Kick {
        /// The vCPU's number.
        vcpu: u32,
        /// Whether it was in guest mode, and so got an interrupt.
        in_guest: bool,
    });

    /// The guest accessed a port.
    fn port(Port {
        /// The vCPU's number.
        vcpu: u32,
        /// The port.
        address: u64,
        /// Of one access.
        bytes: u32,
        /// OUT, not IN.
        is_write: bool,
        /// What was written, or what was read.
        value: u64,
    });

    /// The guest accessed the memory of a device.
    fn mmio(Mmio {
        /// The vCPU's number.
        vcpu: u32,
        /// The guest physical address.
        address: u64,
        /// Of one access.
        bytes: u32,
        /// A write.
        is_write: bool,
        /// What was written, or what was read.
        value: u64,
    });

    /// The guest accessed an MSR that exits.
    fn msr(Msr {
        /// The vCPU's number.
        vcpu: u32,
        /// The MSR.
        index: u32,
        /// WRMSR, not RDMSR.
        is_write: bool,
        /// What was written, or what was read.
        value: u64,
        /// Whether the guest got #GP.
        refused: bool,
    });

    /// A page went into the second-level table.
    fn map(Map {
        /// Where the guest sees it.
        gpa: u64,
        /// The page.
        hpa: u64,
        /// Of how many pages of 4 KiB it is made: 1 or 512.
        pages: u64,
        /// Whether the guest may write to it.
        writable: bool,
    });

    /// The host takes memory of the VMM away, or changes it.
    fn invalidate(Invalidate {
        /// Its first address in the VMM.
        start: u64,
        /// The first address behind it.
        end: u64,
    });

    /// A device, or user space by KVM_SIGNAL_MSI, sends a message-signalled interrupt.
    fn msi(Msi {
        /// The address that is written to.
        address: u64,
        /// What is written.
        data: u32,
    });

    /// A disk took a request from a queue that it has to carry out.
    fn request_begin(RequestBegin {
        /// The device's number on the PCI bus.
        slot: u32,
        /// The queue.
        queue: u32,
        /// What the driver names the request by: its first descriptor, or the buffer's id.
        buffer: u32,
        /// What it is asked for: the type as virtio numbers it.
        kind: u32,
        /// How much data.
        bytes: u64,
    });

    /// A disk gives a request back.
    fn request_end(RequestEnd {
        /// The device's number on the PCI bus.
        slot: u32,
        /// The queue.
        queue: u32,
        /// As in [`RequestBegin`].
        buffer: u32,
        /// The status that the guest reads.
        status: u32,
    });
}
