// SPDX-License-Identifier: GPL-2.0

//! The state of a virtqueue: where the driver put it and how far the device is in it.
//!
//! Of a queue that the driver has not enabled only its size and its addresses are state. What the device has read ahead
//! of a split ring is state as well: the driver may change those entries of the ring, and whoever goes on must see what
//! was seen.

use super::format::QueueShape;
use super::packed::PackedRing;
use super::split::SplitRing;
use super::state::{SavedQueue, HEADS};
use super::{AnyRing, QueueFeatures, QueueLayout, VirtQueue};
use crate::arch::addr::Gpa;
use crate::chipset::saved::{HasState, SectionId};

impl HasState for VirtQueue {
    const SECTION: SectionId = SectionId { id: 0x25, version: 1 };
    type State = SavedQueue;

    fn save(&self) -> SavedQueue {
        let VirtQueue { max_size: _, max_chain: _, shape, ready, armed, format, chain: _ } = self;
        let QueueShape { size, layout: QueueLayout { desc, avail, used }, features } = *shape;
        let QueueFeatures { indirect, event_idx, packed } =
            if *ready { features } else { QueueFeatures::default() };
        let mut state = SavedQueue {
            desc: desc.0,
            avail: avail.0,
            used: used.0,
            next_avail: 0,
            next_used: 0,
            signalled: 0,
            avail_idx: 0,
            size,
            first_head: 0,
            head_count: 0,
            heads: [0; HEADS],
            are_chains: 0,
            ready: (*ready).into(),
            armed: (*ready && *armed).into(),
            packed: packed.into(),
            indirect: indirect.into(),
            event_idx: event_idx.into(),
            pad: [0; 6],
        };
        match format {
            _ if !*ready => {}
            AnyRing::Split(ring) => ring.save(&mut state),
            AnyRing::Packed(ring) => ring.save(&mut state),
        }
        state
    }

    fn set_state(&mut self, state: &SavedQueue) {
        let SavedQueue { desc, avail, used, size, ready, armed, packed, indirect, event_idx, .. } = *state;
        self.reset();
        if size != 0 && size <= self.max_size {
            self.shape.size = size;
        }
        self.shape.layout = QueueLayout { desc: Gpa(desc), avail: Gpa(avail), used: Gpa(used) };
        let features =
            QueueFeatures { indirect: indirect != 0, event_idx: event_idx != 0, packed: packed != 0 };
        // What cannot be enabled is not.
        if ready == 0 || self.enable(features).is_err() {
            return;
        }
        self.armed = armed != 0;
        match &mut self.format {
            AnyRing::Split(ring) => *ring = SplitRing::from_state(state, &self.shape),
            AnyRing::Packed(ring) => *ring = PackedRing::from_state(state, &self.shape),
        }
    }
}
