// SPDX-License-Identifier: GPL-2.0

//! Guests whose instructions are written one after the other: each is an exit, and what the guest finds after it.

use super::backend::{Entry, Guest, Stop};
use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::segment::{SegAttr, SegReg};
use crate::host::world::locked;
use crate::mmu::format::GuestTouch;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{FaultFlags, GuestPageFault, MsrAccess, PioAccess, VmExit};
use crate::vcpu::state::{VcpuState, RAX, RBX, RCX, RDX};
use kernel::prelude::*;
use kernel::task::{current, SIGNAL};
use std::sync::{Arc, Mutex};

/// Guest physical address of a page of `mov [ebx], eax`, `mov [ebx], ax` and `mov [ebx], al`: see [`code_page`].
pub(crate) const CODE: u64 = 0x1000;

/// MOV to memory at EBX, by width.
pub(crate) const STORES: [&[u8]; 3] = [&[0x88, 0x03], &[0x66, 0x89, 0x03], &[0x89, 0x03]];
/// MOV from there.
pub(crate) const LOADS: [&[u8]; 3] = [&[0x8a, 0x03], &[0x66, 0x8b, 0x03], &[0x8b, 0x03]];

fn number(width: AccessWidth) -> usize {
    match width {
        AccessWidth::B1 => 0,
        AccessWidth::B2 => 1,
        AccessWidth::B4 | AccessWidth::B8 => 2,
    }
}

/// Where the instruction lies in the page.
fn place(is_store: bool, width: AccessWidth) -> u64 {
    CODE + number(width) as u64 * 64 + if is_store { 0 } else { 32 }
}

/// Returns the page that guests execute from.
pub(crate) fn code_page() -> Vec<u8> {
    let mut page = vec![0x90; 4096];
    for (i, (store, load)) in STORES.iter().zip(LOADS).enumerate() {
        page[i * 64..][..store.len()].copy_from_slice(store);
        page[i * 64 + 32..][..load.len()].copy_from_slice(load);
    }
    page
}

/// How a call of the run loop ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ran<X> {
    /// It returned to user space for this.
    User(X),
    /// The guest has got past the instruction, or to where it was, and had its thread signalled.
    Guest,
    /// The run loop failed.
    Failed(Error),
}

/// What came of an instruction.
#[derive(Clone, Debug)]
pub(crate) struct Stepped<X> {
    /// What user space was asked for on the way.
    pub(crate) user: Vec<X>,
    /// The events that were delivered meanwhile.
    pub(crate) events: Vec<GuestEvent>,
    /// The registers there.
    pub(crate) gprs: [u64; 16],
    pub(crate) rip: u64,
    /// How often the instruction was executed.
    pub(crate) times: u32,
}

impl<X> Stepped<X> {
    /// Returns whether it raised that exception.
    pub(crate) fn raised(&self, vector: u8) -> bool {
        self.events.iter().any(|e| matches!(e, GuestEvent::Exception { vector: v, .. } if v.0 == vector))
    }

    /// Returns EDX:EAX.
    pub(crate) fn edx_eax(&self) -> u64 {
        self.gprs[RDX] << 32 | self.gprs[RAX] & 0xffff_ffff
    }
}

/// A vCPU that is run.
pub(crate) trait Steps {
    /// What user space is told.
    type UserExit: Clone + core::fmt::Debug;

    /// Its processor.
    fn guest(&self) -> Arc<Guest>;
    /// Calls the run loop once.
    fn run(&mut self) -> Ran<Self::UserExit>;
    /// Does what user space is asked for, `Some`: with which the test goes on.
    fn answer(&mut self, _exit: &Self::UserExit) -> bool {
        true
    }

    /// Executes an instruction that `exit` writes down, with registers that `set` sets. Returns what came of it when
    /// the guest is entered again.
    fn step(
        &mut self,
        set: impl Fn(&mut VcpuState) + Send + 'static,
        exit: impl Fn(&mut Entry<'_, '_>) -> Option<Stop> + Send + 'static,
    ) -> Stepped<Self::UserExit> {
        let found = Arc::new(Mutex::new(None));
        let (guest, out) = (self.guest(), found.clone());
        let (mut is_set, mut rip, mut times) = (false, 0, 0);
        guest.take_delivered();
        guest.run(move |entry| {
            if !is_set {
                set(entry.state);
                rip = entry.state.rip;
            }
            let is_over =
                is_set && (entry.state.rip != rip || entry.event.is_some() || !entry.arrived.is_empty());
            is_set = true;
            if !is_over {
                if let Some(stop) = exit(entry) {
                    times += 1;
                    return stop;
                }
            }
            *locked(&out) = Some((entry.state.gprs, entry.state.rip, times));
            current().set(SIGNAL);
            Stop::plain(VmExit::HostInterrupt)
        });
        let mut user = Vec::new();
        loop {
            match self.run() {
                Ran::User(exit) => {
                    let goes_on = self.answer(&exit);
                    user.push(exit);
                    if !goes_on {
                        break;
                    }
                }
                Ran::Guest => {
                    current().clear(SIGNAL);
                    if locked(&found).is_some() {
                        break;
                    }
                }
                Ran::Failed(e) => panic!("the run loop fails: {e:?}"),
            }
            if user.len() > 16 {
                break;
            }
        }
        let events = self.guest().take_delivered();
        let (gprs, rip, times) = locked(&found).take().unwrap_or(([0; 16], 0, 0));
        Stepped { user, events, gprs, rip, times }
    }

    /// Executes an instruction of one exit.
    fn exits(
        &mut self,
        set: impl Fn(&mut VcpuState) + Send + 'static,
        exit: VmExit,
        insn: &'static [u8],
    ) -> Stepped<Self::UserExit> {
        self.step(set, move |_| Some(Stop::insn(exit, insn)))
    }

    /// OUT.
    fn out(&mut self, port: u16, width: AccessWidth, value: u32) -> Stepped<Self::UserExit> {
        let access = PioAccess::new(port, width, false, false);
        self.exits(move |s| s.gprs[RAX] = u64::from(value), VmExit::Pio(access), &[0xee])
    }

    /// IN.
    fn inp(&mut self, port: u16, width: AccessWidth) -> u32 {
        let access = PioAccess::new(port, width, true, false);
        let done = self.exits(|s| s.gprs[RAX] = 0, VmExit::Pio(access), &[0xec]);
        done.gprs[RAX] as u32
    }

    /// RDMSR. `None`: #GP.
    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        let set = move |s: &mut VcpuState| s.gprs[RCX] = u64::from(index);
        let done = self.exits(set, VmExit::Msr(MsrAccess::Read), &[0x0f, 0x32]);
        (!done.raised(13)).then(|| done.edx_eax())
    }

    /// WRMSR. Returns whether it did not fault.
    fn wrmsr(&mut self, index: u32, value: u64) -> bool {
        let set = move |s: &mut VcpuState| {
            s.gprs[RCX] = u64::from(index);
            s.set_edx_eax(value);
        };
        !self.exits(set, VmExit::Msr(MsrAccess::Write), &[0x0f, 0x30]).raised(13)
    }

    /// CPUID. Returns EAX to EDX.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let set = move |s: &mut VcpuState| {
            s.gprs[RAX] = u64::from(leaf);
            s.gprs[RCX] = u64::from(subleaf);
        };
        let g = self.exits(set, VmExit::Cpuid, &[0x0f, 0xa2]).gprs;
        [g[RAX] as u32, g[RBX] as u32, g[RCX] as u32, g[RDX] as u32]
    }

    /// MOV to or from memory. Where that is memory, the processor does it; else it is a device's.
    fn mov(&mut self, gpa: u64, width: AccessWidth, store: Option<u64>) -> Stepped<Self::UserExit> {
        let (rip, touch) = (
            place(store.is_some(), width),
            if store.is_some() { GuestTouch::Write } else { GuestTouch::Read },
        );
        let insn = if store.is_some() { STORES } else { LOADS }[number(width)];
        let set = move |s: &mut VcpuState| {
            s.rip = rip;
            s.gprs[RBX] = gpa;
            s.gprs[RAX] = store.unwrap_or(0);
        };
        self.step(set, move |entry| {
            let (at, n) = ((gpa % 4096) as usize, width.bytes());
            let value = entry.state.gprs[RAX];
            let done = entry.memory(Gpa(gpa), touch, |page| match store {
                Some(_) => {
                    page[at..at + n].copy_from_slice(&value.to_le_bytes()[..n]);
                    value
                }
                None => {
                    let mut word = [0; 8];
                    word[..n].copy_from_slice(&page[at..at + n]);
                    u64::from_le_bytes(word)
                }
            });
            match done {
                Ok(value) => {
                    entry.state.gprs[RAX] = value;
                    entry.state.rip += insn.len() as u64;
                    None
                }
                Err(fault) => Some(Stop { tells_next: false, ..Stop::insn(fault, insn) }),
            }
        })
    }

    /// Reads a device or memory.
    fn load(&mut self, gpa: u64, width: AccessWidth) -> u64 {
        self.mov(gpa, width, None).gprs[RAX] & width.mask()
    }

    /// Writes a device or memory.
    fn store(&mut self, gpa: u64, width: AccessWidth, value: u64) {
        self.mov(gpa, width, Some(value));
    }
}

/// A fault of the second-level table at an address, by an access of the instruction itself.
pub(crate) fn fault(gpa: u64, write: bool) -> VmExit {
    let write = if write { FaultFlags::WRITE } else { FaultFlags::empty() };
    VmExit::GuestPageFault(GuestPageFault { gpa: Gpa(gpa), flags: FaultFlags::FINAL | write })
}

/// Puts a vCPU into protected mode without paging, with segments of 4 GiB, its interrupts off.
pub(crate) fn flat(s: &mut VcpuState) {
    s.cr0 = 0x11;
    for seg in &mut s.segs {
        (seg.attr, seg.limit, seg.base, seg.selector) = (SegAttr(0xc093), u32::MAX, 0, 0x10);
    }
    let cs = &mut s.segs[SegReg::Cs as usize];
    (cs.attr, cs.selector) = (SegAttr(0xc09b), 8);
    s.rip = CODE;
    s.mark(crate::vcpu::state::StateGroups::all());
}
