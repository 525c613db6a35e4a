// SPDX-License-Identifier: GPL-2.0

//! What serves a virtio network card: a worker for each queue, a thread that the VMM lends to the kernel, and for
//! a transmit queue the vCPU that wrote to it, in its turn (see [`super::worker`]).
//!
//! A worker does not leave the kernel before a signal comes. What it does depends on where the packets go:
//! [`nettap`], [`netstream`]. Here is what both need: giving packets back, giving up on them, and telling the
//! driver of it. Interrupts are sent when there is nothing more to move, or after [`BATCH`] packets, so that
//! a busy guest gets few.

use super::backend::Backend;
use super::netstream;
use super::nettap::{self, Outbox};
use super::pci::{Model, PciDevice};
use super::vm::Vm;
use crate::arch::addr::Gpa;
use crate::chipset::pci::MsiMessage;
use crate::host::cpu::PinnedCpu;
use crate::host::file::{Known, Loan};
use crate::host::mutex::{new_killable_mutex, KillableMutex};
use crate::host::netio::{Stream, Tap};
use crate::host::pieces::Pieces;
use crate::machine::memory::PinnedRam;
use crate::machine::worker::{Remaining, Worker};
use crate::virtio::net::{Net, Packet, Sent, Taken};
use crate::virtio::pci::VirtioPci;
use crate::virtio::queue::Fault;
use kernel::prelude::*;

/// Packets after which the driver is told at the latest.
const BATCH: u32 = 32;
/// Packets of the guest's that are sent and given back together.
const TOGETHER: usize = 64;

/// Where a network card's packets go, and what serves its queues.
pub(crate) struct Card {
    way: Way,
    /// One for each queue.
    lanes: KVec<Pin<KBox<KillableMutex<Lane>>>>,
}

/// Ways to the network.
pub(crate) enum Way {
    /// A queue of a tap for each pair of queues.
    Taps(KVec<Known<Tap>>),
    /// Packets one after the other in a stream, for one pair of queues.
    Stream(Known<Stream>),
}

/// What serves a queue, held by the one that does it now.
pub(super) struct Lane {
    pub(super) packet: Packet,
    /// Packets that were carried off and not yet given back.
    pub(super) sent: Sent,
    /// Packets given back that the driver was not told of.
    untold: u32,
    pub(super) gear: Gear,
    /// Of a transmit queue that a thread is lent to.
    tap: Loan<Tap>,
}

impl Lane {
    /// Calls `f` with the tap. `None`: no thread is lent.
    fn with_tap<R>(&mut self, f: impl FnOnce(&mut Lane, &Tap) -> R) -> Option<R> {
        let tap = self.tap.take()?;
        let done = f(self, &tap);
        self.tap.fill(tap);
        Some(done)
    }
}

/// What a lane needs for where its packets go.
pub(super) enum Gear {
    /// From a tap: where the packet lies in the VMM.
    In(Pieces),
    /// To a tap.
    Out(Outbox),
    /// From or to a stream.
    Stream,
}

/// A lane at work.
pub(super) struct Bench<'a, B: Backend> {
    pub(super) vm: &'a Vm<B>,
    pub(super) device: &'a PciDevice,
    pub(super) lane: &'a mut Lane,
}

impl Card {
    /// Returns a card with a lane for each of `queues` queues.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(way: Way, queues: usize) -> Result<Card> {
        let mut lanes = KVec::with_capacity(queues, GFP_KERNEL_ACCOUNT)?;
        for queue in 0..queues {
            let gear = match &way {
                Way::Taps(_) if queue & 1 == 0 => Gear::In(Pieces::new()?),
                Way::Taps(_) => Gear::Out(Outbox::new()?),
                Way::Stream(_) => Gear::Stream,
            };
            let lane = Lane {
                packet: Packet::new()?,
                sent: Sent::new(TOGETHER)?,
                untold: 0,
                gear,
                tap: Loan::empty(),
            };
            let lane = new_killable_mutex!(lane, c"net::Lane");
            lanes.push_within_capacity(KBox::pin_init(lane, GFP_KERNEL_ACCOUNT)?)?;
        }
        Ok(Card { way, lanes })
    }

    /// Serves a queue until a signal arrives.
    ///
    /// # Errors
    /// `EINVAL` for a queue without a worker, `EBUSY` for one that another thread serves; `EBADF` where the fd
    /// of the tap or stream is closed; `EINTR` on a signal; `EFAULT` when guest memory is gone; `EBADFD` when the tap is; `ENOTCONN` when the stream
    /// has ended.
    pub(crate) fn serve<B: Backend>(&self, vm: &Vm<B>, device: &PciDevice, queue: u16) -> Result {
        let worker = device.worker(queue).ok_or(EINVAL)?;
        let lane = self.lanes.get(usize::from(queue)).ok_or(EINVAL)?;
        let receives = queue & 1 == 0;
        worker.alone(|| match &self.way {
            Way::Taps(taps) => {
                let tap = taps.get(usize::from(queue >> 1)).ok_or(EINVAL)?.get()?;
                if receives {
                    let mut bench = Bench { vm, device, lane: &mut *lane.lock()? };
                    return nettap::receive(&mut bench, &tap, worker, queue >> 1);
                }
                lane.lock()?.tap.fill(tap);
                let end = transmit_to_tap(vm, device, lane, worker, queue);
                drop(lane.lock_fully().tap.take());
                end
            }
            Way::Stream(stream) => {
                let (stream, mut lane) = (stream.get()?, lane.lock()?);
                let mut bench = Bench { vm, device, lane: &mut lane };
                if receives {
                    netstream::receive(&mut bench, &stream, worker)
                } else {
                    netstream::transmit(&mut bench, &stream, worker)
                }
            }
        })
    }

    /// Sends what waits in a queue with the thread of the vCPU that wrote to it, as far as that need not wait;
    /// the worker does the rest. Sleeps only for memory.
    pub(crate) fn serve_inline<B: Backend>(&self, vm: &Vm<B>, device: &PciDevice, queue: u16) {
        let Some(worker) = device.worker(queue) else { return };
        let lane = self.lanes.get(usize::from(queue)).and_then(|lane| lane.try_lock());
        let rest = lane.filter(|_| queue & 1 == 1).and_then(|mut lane| {
            lane.with_tap(|lane, tap| nettap::serve_inline(&mut Bench { vm, device, lane }, tap, queue))
        });
        rest.unwrap_or(Remaining::MayBlock).leave_to(worker);
    }
}

/// Sends what the guest transmits to the tap that is lent, until a signal arrives.
fn transmit_to_tap<B: Backend>(
    vm: &Vm<B>,
    device: &PciDevice,
    lane: &KillableMutex<Lane>,
    worker: &Worker,
    queue: u16,
) -> Result {
    loop {
        // The lane is free again while this waits.
        let done = lane
            .lock()?
            .with_tap(|lane, tap| nettap::transmit(&mut Bench { vm, device, lane }, tap, queue))
            .ok_or(EBADF)??;
        worker.wait(Some(done))?;
    }
}

impl<B: Backend> Bench<'_, B> {
    /// Gives the packet that was taken back at once.
    pub(super) fn give_packet(&mut self, queue: u16) -> Result {
        let _ = self.lane.packet.buffer().is_some_and(|buffer| self.lane.sent.add(buffer));
        self.give_sent(queue)
    }

    /// Gives the driver back what was sent.
    pub(super) fn give_sent(&mut self, queue: u16) -> Result {
        let Lane { sent, untold, .. } = &mut *self.lane;
        let count = sent.len();
        if count == 0 {
            return Ok(());
        }
        let given = give(self.vm, self.device, count, |net, mem| net.give_packets(queue, mem, sent));
        sent.clear();
        *untold = untold.saturating_add(count);
        given
    }

    /// Does what has to be done before the queue is looked at again.
    pub(super) fn pause(&mut self, taken: Taken, queue: u16, worker: &Worker) -> Result {
        match taken {
            Taken::Packet | Taken::TooLong => Ok(()),
            Taken::NotResident(gpa) => self.vm.space.fault_in(gpa, true),
            Taken::Broken(msg) => {
                self.vm.chipset.send_msi(msg);
                worker.wait(None)
            }
            Taken::Empty => {
                self.tell(queue);
                worker.wait(None)
            }
        }
    }

    /// Gives the packet back.
    pub(super) fn give(
        &mut self,
        call: impl Fn(&mut VirtioPci<Net>, &PinnedRam<'_>, &mut Packet) -> Result<Option<MsiMessage>, Gpa>,
    ) -> Result {
        let Lane { packet, untold, .. } = &mut *self.lane;
        give(self.vm, self.device, 1, |net, mem| call(net, mem, packet))?;
        *untold = untold.saturating_add(1);
        Ok(())
    }

    /// Stops the device: a packet is not in the guest's memory.
    pub(super) fn abandon(&mut self) -> Result {
        let fault = self.lane.packet.not_memory();
        let msg = with_net(self.vm, self.device, |net, _| net.abandon_packets(fault, 1))?;
        self.vm.chipset.send_msi(msg);
        Ok(())
    }

    /// Tells the driver if it was not told of many packets.
    pub(super) fn tell_of_many(&mut self, queue: u16) {
        if self.lane.untold >= BATCH {
            self.tell(queue);
        }
    }

    /// Tells the driver of the packets that were given back.
    pub(super) fn tell(&mut self, queue: u16) {
        if core::mem::take(&mut self.lane.untold) != 0 {
            if let Ok(msg) = with_net(self.vm, self.device, |net, mem| net.notify_queue(queue, mem)) {
                self.vm.chipset.send_msi(msg);
            }
        }
    }
}

/// Gives `count` packets back by `call`, which says what page is missing for that.
fn give<B: Backend>(
    vm: &Vm<B>,
    device: &PciDevice,
    count: u32,
    mut call: impl FnMut(&mut VirtioPci<Net>, &PinnedRam<'_>) -> Result<Option<MsiMessage>, Gpa>,
) -> Result {
    loop {
        match with_net(vm, device, &mut call)? {
            Ok(msg) => {
                vm.chipset.send_msi(msg);
                return Ok(());
            }
            Err(gpa) => {
                if let Err(e) = vm.space.fault_in(gpa, true) {
                    let msg = with_net(vm, device, |net, _| net.abandon_packets(Fault::Memory(gpa), count))?;
                    vm.chipset.send_msi(msg);
                    return Err(e);
                }
            }
        }
    }
}

/// Calls `f` with the device's lock held, and the guest's memory.
pub(super) fn with_net<B: Backend, R>(
    vm: &Vm<B>,
    device: &PciDevice,
    f: impl FnOnce(&mut VirtioPci<Net>, &PinnedRam<'_>) -> R,
) -> Result<R> {
    let cpu = PinnedCpu::pin();
    let mut model = device.model.lock_with(cpu.irq());
    match &mut *model {
        Model::Net(net) => Ok(f(net, &vm.space.near(&cpu))),
        _ => Err(EINVAL),
    }
}
