// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a virtio device, by ports and addresses of a vCPU, as firmware and a driver do it.

use super::steps::Steps;
use crate::arch::addr::AccessWidth::{B1, B2, B4};
use kernel::process::Process;
use std::sync::Arc;

/// Offsets in the common configuration structure. VIRTIO 1.2, "Common configuration structure layout".
const FEATURE_SELECT: u64 = 8;
const FEATURE: u64 = 12;
const CONFIG_VECTOR: u64 = 0x10;
const STATUS: u64 = 0x14;
const SELECT: u64 = 0x16;
const SIZE: u64 = 0x18;
const VECTOR: u64 = 0x1a;
const ENABLE: u64 = 0x1c;
const DESC: u64 = 0x20;

/// Descriptors of a queue.
pub(crate) const QUEUE: u16 = 16;
/// Where the device's notifications are in its first BAR.
const NOTIFY: u64 = 0x3000;

/// A device on the bus.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    pub(crate) slot: u8,
    pub(crate) bar: u64,
    pub(crate) table: u64,
}

/// Reads a register of configuration space.
pub(crate) fn config_read(cpu: &mut impl Steps, slot: u8, register: u8) -> u32 {
    cpu.out(0xcf8, B4, 0x8000_0000 | u32::from(slot) << 11 | u32::from(register));
    cpu.inp(0xcfc, B4)
}

/// Writes one.
pub(crate) fn config_write(cpu: &mut impl Steps, slot: u8, register: u8, value: u32) {
    cpu.out(0xcf8, B4, 0x8000_0000 | u32::from(slot) << 11 | u32::from(register));
    cpu.out(0xcfc, B4, value);
}

/// Finds a register of the MSI-X capability.
pub(crate) fn find_msix(cpu: &mut impl Steps, slot: u8) -> u8 {
    let mut at = config_read(cpu, slot, 0x34) as u8;
    while at != 0 {
        let cap = config_read(cpu, slot, at);
        if cap as u8 == 0x11 {
            return at;
        }
        at = (cap >> 8) as u8;
    }
    panic!("no MSI-X");
}

impl Device {
    /// Turns the device on, with a vector for each queue: `vector` and those after it.
    pub(crate) fn start(cpu: &mut impl Steps, slot: u8, queues: u16, vector: u8, features: u64) -> Device {
        // The local APIC's software enable bit.
        cpu.store(0xfee0_00f0, B4, 0x1ff);
        config_write(cpu, slot, 4, 6);
        let (bar, table) = (config_read(cpu, slot, 0x10), config_read(cpu, slot, 0x14));
        let device = Device { slot, bar: u64::from(bar & !0xf), table: u64::from(table & !0xf) };
        let msix = find_msix(cpu, slot);
        config_write(cpu, slot, msix, 0x8000_0000);
        for entry in 0..=queues {
            let at = device.table + 16 * u64::from(entry);
            cpu.store(at, B4, 0xfee0_0000);
            cpu.store(at + 4, B4, 0);
            cpu.store(at + 8, B4, u64::from(vector) + u64::from(entry));
            cpu.store(at + 12, B4, 0);
        }
        for status in [1, 3] {
            cpu.store(device.bar + STATUS, B1, status);
        }
        for half in 0..2u64 {
            cpu.store(device.bar + FEATURE_SELECT, B4, half);
            cpu.store(device.bar + FEATURE, B4, features >> (32 * half) & 0xffff_ffff);
        }
        cpu.store(device.bar + STATUS, B1, 11);
        assert_eq!(cpu.load(device.bar + STATUS, B1), 11, "the features are taken");
        cpu.store(device.bar + CONFIG_VECTOR, B2, u64::from(queues));
        for queue in 0..queues {
            let at = rings(queue);
            cpu.store(device.bar + SELECT, B2, u64::from(queue));
            cpu.store(device.bar + SIZE, B2, u64::from(QUEUE));
            cpu.store(device.bar + VECTOR, B2, u64::from(queue));
            for (i, part) in [at, at + 0x400, at + 0x800].into_iter().enumerate() {
                cpu.store(device.bar + DESC + 8 * i as u64, B4, part);
                cpu.store(device.bar + DESC + 8 * i as u64 + 4, B4, 0);
            }
            cpu.store(device.bar + ENABLE, B2, 1);
        }
        cpu.store(device.bar + STATUS, B1, 15);
        device
    }

    /// The address that is written to say that a queue has buffers.
    pub(crate) fn notify(&self, queue: u16) -> u64 {
        self.bar + NOTIFY + 4 * u64::from(queue)
    }
}

/// Where a queue's rings are: a page for each.
pub(crate) fn rings(queue: u16) -> u64 {
    0x1_0000 + 0x1000 * u64::from(queue)
}

/// The driver's side of a split queue, in the memory of the process.
pub(crate) struct Ring {
    process: Arc<Process>,
    base: u64,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    avail: u16,
    seen: u16,
}

/// A part of a buffer: address, bytes, and whether the device writes it.
pub(crate) type Part = (u64, u32, bool);

impl Ring {
    /// The rings of a queue; guest address 0 lies at `ram`.
    pub(crate) fn new(process: &Arc<Process>, ram: u64, queue: u16) -> Ring {
        Ring {
            process: process.clone(),
            base: ram + rings(queue),
            free: (0..QUEUE).rev().collect(),
            chains: vec![Vec::new(); usize::from(QUEUE)],
            avail: 0,
            seen: 0,
        }
    }

    /// Returns the same driver with the memory of another process.
    pub(crate) fn moved_to(self, process: &Arc<Process>) -> Ring {
        Ring { process: process.clone(), ..self }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.process.write(self.base + at, bytes, true).unwrap();
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.process.read(self.base + at, &mut bytes, true).unwrap();
        bytes
    }

    /// Returns how many descriptors are free.
    pub(crate) fn room(&self) -> usize {
        self.free.len()
    }

    /// Makes a buffer available. Returns its head.
    pub(crate) fn add(&mut self, parts: &[Part]) -> u16 {
        let chain: Vec<u16> = parts.iter().map(|_| self.free.pop().expect("a free descriptor")).collect();
        for (i, (at, len, writable)) in parts.iter().enumerate() {
            let next = chain.get(i + 1).copied();
            let flags = u16::from(next.is_some()) | if *writable { 2 } else { 0 };
            let desc = 16 * u64::from(chain[i]);
            self.put(desc, &at.to_le_bytes());
            self.put(desc + 8, &len.to_le_bytes());
            self.put(desc + 12, &flags.to_le_bytes());
            self.put(desc + 14, &next.unwrap_or(0).to_le_bytes());
        }
        let head = chain[0];
        self.chains[usize::from(head)] = chain;
        self.put(0x400 + 4 + 2 * u64::from(self.avail % QUEUE), &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        self.put(0x400 + 2, &self.avail.to_le_bytes());
        head
    }

    /// Takes the buffers that the device has used: head and length.
    pub(crate) fn take_used(&mut self) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        while self.seen != u16::from_le_bytes(self.get(0x800 + 2)) {
            let at = 0x800 + 4 + 8 * u64::from(self.seen % QUEUE);
            let head = u32::from_le_bytes(self.get(at)) as u16;
            let chain = core::mem::take(&mut self.chains[usize::from(head)]);
            assert!(!chain.is_empty(), "buffer {head} is used that was not available, or twice");
            self.free.extend(chain);
            used.push((head, u32::from_le_bytes(self.get(at + 4))));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }
}
