// SPDX-License-Identifier: GPL-2.0

//! Small guests in each paging mode. All have tables in frames 1 to 10, data from frame 16 on, and a window to the first
//! 16 frames, through which the guest edits its tables.

use super::machine::Machine;
use super::memory::Memory;
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::mmu::walk::PagingRegs;

/// Present, writable, accessed, dirty, of the supervisor.
pub(crate) const RW: u64 = 0x63;
/// The same for users.
pub(crate) const URW: u64 = 0x67;
/// As [`URW`], not to be written.
pub(crate) const URO: u64 = 0x25;
/// A large page.
pub(crate) const LARGE: u64 = 0x80;
/// No page of data and no table.
pub(crate) const DEVICE: u64 = 0x7d0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestMode {
    Off,
    Legacy,
    Pae,
    Long4,
    Long5,
}

pub(crate) const MODES: [GuestMode; 5] =
    [GuestMode::Off, GuestMode::Legacy, GuestMode::Pae, GuestMode::Long4, GuestMode::Long5];

impl GuestMode {
    pub(crate) fn entry_bytes(self) -> usize {
        if self == GuestMode::Legacy {
            4
        } else {
            8
        }
    }

    fn is_long(self) -> bool {
        matches!(self, GuestMode::Long4 | GuestMode::Long5)
    }

    /// Returns the registers of a guest in this mode, of root `number` of two.
    pub(crate) fn regs(self, number: usize) -> PagingRegs {
        let mut regs = PagingRegs {
            cr0: Cr0::PE | Cr0::WP,
            cr3: self.root(number) << 12,
            cr4: Cr4::PSE,
            efer: Efer::NXE,
            ac: false,
            pkru: 0,
            maxphyaddr: 40,
            gib_pages: true,
            pdptes: None,
        };
        regs.cr0.set(Cr0::PG, self != GuestMode::Off);
        regs.cr4.set(Cr4::PAE, self == GuestMode::Pae || self.is_long());
        regs.efer.set(Efer::LMA, self.is_long());
        regs.cr4.set(Cr4::LA57, self == GuestMode::Long5);
        regs
    }

    /// Returns the frame of a root table.
    pub(crate) fn root(self, number: usize) -> u64 {
        match self {
            GuestMode::Long5 => [9, 10][number],
            _ => [1, 7][number],
        }
    }

    /// Loads CR3 as the processor does.
    pub(crate) fn load_root(self, memory: &Memory, regs: &mut PagingRegs, number: usize) {
        regs.cr3 = self.root(number) << 12;
        if self == GuestMode::Pae {
            regs.pdptes = Some([0, 1, 2, 3].map(|i| memory.get(regs.cr3 + 8 * i, 8)));
        }
    }

    /// Returns the linear address of a table's entry in the window.
    pub(crate) fn window(self, frame: u64, index: u64) -> u64 {
        let base = match self {
            GuestMode::Off => 0,
            GuestMode::Legacy => 4 << 20,
            _ => 2 << 20,
        };
        base + (frame << 12) + index * self.entry_bytes() as u64
    }

    /// Returns addresses that are worth an access.
    pub(crate) fn addresses(self) -> Vec<u64> {
        const GIB: u64 = 1 << 30;
        match self {
            GuestMode::Off => [16, 17, 5, 600, 601, DEVICE].map(|g| g << 12).to_vec(),
            GuestMode::Legacy => [
                0,
                0x1000,
                0x2000,
                0x3000,
                0x20_0000,
                (8 << 20) + 0x3000,
                (10 << 20) + 0x1000,
                12 << 20,
                (12 << 20) + 0x1000,
                2 * GIB,
                2 * GIB + 0x1000,
            ]
            .to_vec(),
            _ => {
                let mut all: Vec<u64> = [
                    0,
                    0x1000,
                    0x2000,
                    0x3000,
                    (4 << 20) + 0x3000,
                    6 << 20,
                    (6 << 20) + 0x1000,
                    GIB,
                    GIB + 0x1000,
                ]
                .to_vec();
                if self.is_long() {
                    all.extend([512 * GIB, 512 * GIB + 0x1000, 513 * GIB]);
                }
                all
            }
        }
    }

    /// Writes the tables.
    pub(crate) fn build(self, memory: &Memory) {
        let bytes = self.entry_bytes();
        let put = |frame: u64, index: u64, entry: u64| {
            memory.put((frame << 12) + index * bytes as u64, entry, bytes);
        };
        let table = |frame: u64, flags: u64| frame << 12 | flags;
        if self == GuestMode::Off {
            return;
        }
        // Level 1: data; a frame twice, once read-only; a device; the window.
        for (index, entry) in [(16 << 12) | URW, (17 << 12) | URW, (17 << 12) | URO, (DEVICE << 12) | URW]
            .into_iter()
            .enumerate()
        {
            put(5, index as u64, entry);
        }
        for frame in 0..16 {
            put(6, frame, frame << 12 | RW);
        }
        match self {
            GuestMode::Off => {}
            GuestMode::Legacy => {
                for root in [1, 7] {
                    put(root, 0, table(5, URW));
                    put(root, 1, table(6, RW));
                    put(root, 2, LARGE | URW);
                    put(root, 3, table(5, URW));
                }
                put(7, 512, table(5, URW));
            }
            _ => {
                let pointer = if self == GuestMode::Pae { 1 } else { URW };
                put(4, 0, table(5, URW));
                put(4, 1, table(6, RW));
                put(4, 2, 512 << 12 | LARGE | URW);
                put(4, 3, table(5, URW));
                let directories: &[u64] = if self == GuestMode::Pae { &[1, 7] } else { &[3, 8] };
                for frame in directories {
                    put(*frame, 0, table(4, pointer));
                    put(*frame, 1, table(4, pointer));
                }
                if self.is_long() {
                    for root in [1, 7] {
                        put(root, 0, table(3, URW));
                        put(root, 1, table(8, URW));
                    }
                }
                put(9, 0, table(1, URW));
                put(10, 0, table(7, URW));
            }
        }
    }

    /// Makes a machine of `cpus` processors, each with this root of two, whose guest is in this mode. One more has no
    /// paging.
    pub(crate) fn machine(self, budget: usize, cpus: &[usize]) -> Machine {
        let mut all: Vec<PagingRegs> = cpus.iter().map(|number| self.regs(*number)).collect();
        all.push(GuestMode::Off.regs(0));
        let mut machine = Machine::new(budget, &all);
        self.build(&machine.memory);
        for (n, number) in cpus.iter().enumerate() {
            self.load_root(&machine.memory, &mut machine.cpus[n].regs, *number);
            machine.load(n, |_| {});
        }
        machine
    }
}
