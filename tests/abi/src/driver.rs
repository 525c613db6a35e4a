// SPDX-License-Identifier: GPL-2.0

//! A driver of virtio devices that is a list of writes, for guests that are random otherwise: straight-line code that
//! brings each device up with split queues, and queues that are full of buffers.
//!
//! Follows VIRTIO 1.2, "PCI-specific Initialization And Device Operation" and "Split Virtqueues". Where the structures
//! lie in a device's first BAR is the module's choice, and not looked for.

/// Entries of a queue.
const RING: u16 = 16;
/// Bytes that a queue takes: descriptors, what is available, what is used.
const RING_BYTES: u32 = 0x200;
const AVAILABLE: u32 = 0x100;
/// Where in a queue the device writes how many buffers it has used.
pub const USED_INDEX: u32 = 0x142;
const USED: u32 = 0x140;

/// Addresses that a device decodes: two BARs.
pub const BAR_BYTES: u32 = 0x8000;
const MSIX_BAR: u32 = 0x4000;
const NOTIFY: u32 = 0x3000;
const COMMAND: u32 = 0x04;
const BARS: u32 = 0x10;
/// The first capability.
const MSIX: u32 = 0x40;
const MSIX_ENABLE: u32 = 1 << 31;

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A disk.
    Disk,
    /// A source of entropy.
    Entropy,
    /// A network card.
    Card,
    /// A console.
    Console,
}

impl Model {
    /// Returns how many queues the driver uses.
    pub fn queues(self) -> u16 {
        match self {
            Model::Disk | Model::Entropy => 1,
            Model::Card | Model::Console => 2,
        }
    }

    /// Returns the pieces of a buffer: offset in the data, bytes, and whether the device writes there.
    fn pieces(self, queue: u16) -> &'static [(u32, u32, bool)] {
        match (self, queue) {
            (Model::Disk, _) => &[(0, 16, false), (0x200, 0x200, true), (0x10, 1, true)],
            (Model::Entropy, _) => &[(0x20, 64, true)],
            (Model::Card, 0) => &[(0x100, 0x700, true)],
            (Model::Card, _) => &[(0x80, 12, false), (0xc0, 60, false)],
            (Model::Console, 0) => &[(0x60, 16, true)],
            (Model::Console, _) => &[(0xc0, 60, false)],
        }
    }
}

/// Where things are in the guest.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The BARs, [`BAR_BYTES`] for each device.
    pub bars: u32,
    /// The queues, two for each device.
    pub rings: u32,
    /// The data, 2 KiB.
    pub data: u32,
}

impl Layout {
    /// Returns where the `n`th device, in slot `n` + 1 of the bus, decodes.
    pub fn bar(&self, n: u32) -> u32 {
        self.bars + n * BAR_BYTES
    }

    /// Returns the address that tells the `n`th device of buffers in a queue.
    pub fn doorbell(&self, n: u32, queue: u16) -> u32 {
        self.bar(n) + NOTIFY + 4 * u32::from(queue)
    }

    /// Returns where a queue is.
    pub fn ring(&self, n: u32, queue: u16) -> u32 {
        self.rings + (2 * n + u32::from(queue)) * RING_BYTES
    }

    /// Returns a queue that is full of buffers, after the device has used `used` of those before them.
    pub fn full_ring(&self, model: Model, queue: u16, used: u16) -> Vec<u8> {
        let pieces = model.pieces(queue);
        let mut ring = vec![0; RING_BYTES as usize];
        let mut put = |at: u32, bytes: &[u8]| ring[at as usize..][..bytes.len()].copy_from_slice(bytes);
        let chains = RING / pieces.len() as u16;
        for chain in 0..chains {
            let first = chain * pieces.len() as u16;
            for ((at, bytes, device_writes), n) in pieces.iter().zip(first..) {
                let is_last = usize::from(n - first) + 1 == pieces.len();
                let flags = u16::from(!is_last) | u16::from(*device_writes) << 1;
                let entry = u128::from(self.data + at)
                    | u128::from(*bytes) << 64
                    | u128::from(flags) << 96
                    | u128::from(n + 1) << 112;
                put(16 * u32::from(n), &entry.to_le_bytes());
            }
        }
        // Each turn of the ring has the same chains again, as far as they go round in it.
        for n in 0..RING {
            put(AVAILABLE + 4 + 2 * u32::from(n), &((n % chains) * pieces.len() as u16).to_le_bytes());
        }
        put(AVAILABLE + 2, &used.wrapping_add(RING).to_le_bytes());
        put(USED_INDEX, &used.to_le_bytes());
        ring
    }

    /// Returns code for flat protected mode that brings up `devices`, and ends in #UD. `uses_msix`: they send messages
    /// of vector 0x41 instead of raising a pin.
    pub fn code(&self, devices: &[Model], features: u32, uses_msix: bool) -> Vec<u8> {
        let mut code = Writes(Vec::new());
        for (model, n) in devices.iter().zip(0..) {
            self.bring_up(&mut code, *model, n, features, uses_msix);
        }
        code.0.extend_from_slice(&[0x0f, 0x0b]);
        code.0
    }

    fn bring_up(&self, code: &mut Writes, model: Model, n: u32, features: u32, uses_msix: bool) {
        let (slot, bar) = (n + 1, self.bar(n));
        code.config(slot, BARS, bar);
        code.config(slot, BARS + 4, bar + MSIX_BAR);
        code.config(slot, COMMAND, 6);
        if uses_msix {
            code.config(slot, MSIX, MSIX_ENABLE);
            for (at, word) in [(0, 0xfee0_0000), (4, 0), (8, 0x41), (12, 0)] {
                code.store32(bar + MSIX_BAR + at, word);
            }
        }
        code.store8(bar + 0x14, 0);
        code.store8(bar + 0x14, 3);
        for (half, word) in [(0, features), (1, 1)] {
            code.store32(bar + 8, half);
            code.store32(bar + 12, word);
        }
        code.store8(bar + 0x14, 0xb);
        for queue in 0..model.queues() {
            let ring = self.ring(n, queue);
            code.store16(bar + 0x16, queue);
            code.store16(bar + 0x18, RING);
            if uses_msix {
                code.store16(bar + 0x1a, 0);
            }
            for (at, area) in [(0x20, ring), (0x28, ring + AVAILABLE), (0x30, ring + USED)] {
                code.store32(bar + at, area);
                code.store32(bar + at + 4, 0);
            }
            code.store16(bar + 0x1c, 1);
        }
        code.store8(bar + 0x14, 0xf);
        for queue in 0..model.queues() {
            code.store16(self.doorbell(n, queue), queue);
        }
    }
}

/// Code that writes.
struct Writes(Vec<u8>);

impl Writes {
    fn instruction(&mut self, opcode: &[u8], address: u32, value: &[u8]) {
        self.0.extend_from_slice(opcode);
        self.0.extend_from_slice(&address.to_le_bytes());
        self.0.extend_from_slice(value);
    }

    fn store8(&mut self, address: u32, value: u8) {
        self.instruction(&[0xc6, 0x05], address, &[value]);
    }

    fn store16(&mut self, address: u32, value: u16) {
        self.instruction(&[0x66, 0xc7, 0x05], address, &value.to_le_bytes());
    }

    fn store32(&mut self, address: u32, value: u32) {
        self.instruction(&[0xc7, 0x05], address, &value.to_le_bytes());
    }

    /// mov edx, port; mov eax, value; out dx, eax: the address and the data of configuration space.
    fn config(&mut self, slot: u32, register: u32, value: u32) {
        for (port, value) in [(0xcf8, 1 << 31 | slot << 11 | register), (0xcfc, value)] {
            self.instruction(&[0xba], port, &[0xb8]);
            self.0.extend_from_slice(&value.to_le_bytes());
            self.0.push(0xef);
        }
    }
}
