// SPDX-License-Identifier: GPL-2.0

//! What serves a virtio network card: a worker for each queue, a thread that the VMM lends to the kernel, and for
//! a transmit queue the vCPU that wrote to it, in its place (see [`super::worker`]).
//!
//! A worker does not leave the kernel before a signal comes. What it does depends on where the packets go:
//! [`net_tap`], [`net_stream`]. What both need is in [`super::net_queue`]. The control queue is served by the vCPU
//! that writes to it.

use super::function::{new_workers, ServiceLeft, VirtioFunction, VirtioService};
use super::net_queue::{NetCx, NetQueue, QueuePath};
use super::worker::{QueueWorker, RemainingWork};
use super::{net_stream, net_tap};
use crate::host::file::KnownFile;
use crate::host::mutex::{new_killable_mutex, KillableMutex};
use crate::host::netio::{PacketStream, TapSocket};
use crate::machine::interrupts::ChipsetLock;
use crate::machine::ram::GuestRam;
use crate::virtio::device::net::VirtioNet;
use crate::virtio::transport::pci::VirtioPci;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A network card: where its packets go, and what serves its queues.
#[pin_data]
pub(crate) struct NetService {
    #[pin]
    function: VirtioFunction<VirtioNet>,
    backend: NetBackend,
    queues: KVec<Pin<KBox<KillableMutex<NetQueue>>>>,
}

/// Ways to the network.
pub(crate) enum NetBackend {
    /// A queue of a tap for each pair of queues.
    Taps(KVec<KnownFile<TapSocket>>),
    /// Packets one after the other in a stream, for one pair of queues.
    Stream(KnownFile<PacketStream>),
}

impl NetService {
    /// Returns the service of `net`, whose packets go to `backend`, with a worker for each queue of packets.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(
        net: VirtioPci<VirtioNet>,
        backend: NetBackend,
        ram: Arc<GuestRam>,
        interrupts: Arc<ChipsetLock>,
    ) -> Result<Arc<NetService>> {
        let workers = new_workers(usize::from(net.max_pairs()).saturating_mul(2), &interrupts)?;
        let mut queues = KVec::with_capacity(workers.len(), GFP_KERNEL_ACCOUNT)?;
        for queue in 0..workers.len() {
            let path = match &backend {
                NetBackend::Taps(_) if queue & 1 == 0 => QueuePath::from_tap()?,
                NetBackend::Taps(_) => QueuePath::to_tap()?,
                NetBackend::Stream(_) => QueuePath::Stream,
            };
            let io = NetQueue::new(path)?;
            let io = new_killable_mutex!(io, c"NetQueue");
            queues.push_within_capacity(KBox::pin_init(io, GFP_KERNEL_ACCOUNT)?)?;
        }
        let function = VirtioFunction::new(net, workers, ram, interrupts);
        Arc::pin_init(pin_init!(NetService { function <- function, backend, queues }), GFP_KERNEL_ACCOUNT)
    }
}

impl VirtioService for NetService {
    type Device = VirtioNet;

    fn function(&self) -> &VirtioFunction<VirtioNet> {
        &self.function
    }

    fn configured(&self, net: &VirtioPci<VirtioNet>) {
        self.function.set_kicked(net.carriers().into());
    }

    /// Serves a queue until a signal arrives.
    ///
    /// # Errors
    /// `EINVAL` for a queue without a worker, `EBUSY` for one that another thread serves; `EBADF` where the fd
    /// of the tap or stream is closed; `EINTR` on a signal; `EFAULT` when guest memory is gone; `EBADFD` when the
    /// tap is; `ENOTCONN` when the stream has ended.
    fn serve(&self, queue: u16) -> Result<Option<Error>> {
        let function = &self.function;
        let worker = function.worker(queue).ok_or(EINVAL)?;
        let io = self.queues.get(usize::from(queue)).ok_or(EINVAL)?;
        let receives = queue & 1 == 0;
        worker.alone(|| match &self.backend {
            NetBackend::Taps(taps) => {
                let tap = taps.get(usize::from(queue >> 1)).ok_or(EINVAL)?.get()?;
                if receives {
                    let mut cx = NetCx { function, io: &mut *io.lock()? };
                    return net_tap::receive(&mut cx, &tap, worker, queue >> 1);
                }
                io.lock()?.tap.fill(tap);
                let end = transmit_to_tap(function, io, worker, queue);
                let mut io = io.lock_fully();
                let _ = io.with_tap(|io, tap| net_tap::leave(&mut NetCx { function, io }, tap, queue));
                drop(io.tap.take());
                end
            }
            NetBackend::Stream(stream) => {
                let (stream, mut io) = (stream.get()?, io.lock()?);
                let mut cx = NetCx { function, io: &mut io };
                if receives {
                    net_stream::receive(&mut cx, &stream, worker)
                } else {
                    net_stream::transmit(&mut cx, &stream, worker)
                }
            }
        })?;
        Ok(None)
    }

    fn serve_inline(&self, queue: u16) {
        let function = &self.function;
        let Some(worker) = function.worker(queue) else { return };
        let io = self.queues.get(usize::from(queue)).and_then(|io| io.try_lock());
        let remaining = io.filter(|_| queue & 1 == 1).and_then(|mut io| {
            io.with_tap(|io, tap| net_tap::serve_inline(&mut NetCx { function, io }, tap, queue))
        });
        remaining.unwrap_or(RemainingWork::MayBlock).leave_to(worker);
    }

    fn serve_deferred(&self, _queues: u64) -> ServiceLeft {
        self.function.serve(|net| net.serve_control(&*self.function.ram))
    }
}

/// Sends what the guest transmits to the tap that is lent, until a signal arrives.
fn transmit_to_tap(
    function: &VirtioFunction<VirtioNet>,
    io: &KillableMutex<NetQueue>,
    worker: &QueueWorker,
    queue: u16,
) -> Result {
    loop {
        // The queue is free again while this waits.
        let done = io
            .lock()?
            .with_tap(|io, tap| net_tap::transmit(&mut NetCx { function, io }, tap, queue))
            .ok_or(EBADF)??;
        worker.wait(Some(done))?;
    }
}
