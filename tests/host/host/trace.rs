// SPDX-License-Identifier: GPL-2.0

//! Stands in for `host/trace.rs`: events are made and forgotten, so that tests run the code that gathers their fields.

macro_rules! events {
    ($($name:ident($event:ident { $($field:ident: $kind:ty),+ });)+) => {
        $(
            /// As in the module.
            pub(crate) struct $event {
                $(pub(crate) $field: $kind,)+
            }

            /// As in the module.
            pub(crate) fn $name(event: impl FnOnce() -> $event) {
                let $event { $($field: _),+ } = event();
            }
        )+
    };
}

events! {
    entry(Entry { vcpu: u32, rip: u64 });
    exit(Exit { vcpu: u32, rip: u64, reason: u64, info1: u64, info2: u64 });
    user_exit(UserExit { reason: u32 });
    inject(Inject { vcpu: u32, kind: u32, vector: u32, error_code: u32 });
    halt(Halt { vcpu: u32, ticks: u64, polled: bool });
    kick(Kick { vcpu: u32, in_guest: bool });
    port(Port { vcpu: u32, address: u64, bytes: u32, is_write: bool, value: u64 });
    mmio(Mmio { vcpu: u32, address: u64, bytes: u32, is_write: bool, value: u64 });
    msr(Msr { vcpu: u32, index: u32, is_write: bool, value: u64, refused: bool });
    map(Map { gpa: u64, hpa: u64, pages: u64, writable: bool });
    invalidate(Invalidate { start: u64, end: u64 });
    msi(Msi { address: u64, data: u32 });
    request_begin(RequestBegin { slot: u32, queue: u32, buffer: u32, kind: u32, bytes: u64 });
    request_end(RequestEnd { slot: u32, queue: u32, buffer: u32, status: u32 });
}
