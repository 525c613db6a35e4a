// SPDX-License-Identifier: GPL-2.0

//! The tool's control socket. Its other tests are beside the tool, in tests/control.rs.

#[path = "../../../../userspace-tool/rvmm-run/tests/common/stand_in.rs"]
mod stand_in;

use rvmm_run::control::protocol::EndReport;
use rvmm_run::control::session::Session;
use stand_in::StandIn;
use std::cell::OnceCell;
use std::sync::Arc;

/// The subjects of the control socket.
pub(crate) const TARGETS: &[crate::fuzz::Target] = &[("control", client)];

thread_local! {
    /// One for all inputs: its feed is never freed.
    static VM: OnceCell<Arc<StandIn>> = const { OnceCell::new() };
}

/// A client that sends any bytes in any pieces: the first byte says how long they are. However it ends, the console is free
/// again, and what the client is told are whole lines as long as it is no console.
fn client(bytes: &[u8]) {
    let vm = VM.with(|vm| Arc::clone(vm.get_or_init(|| StandIn::new("fuzz"))));
    let mut session = Session::new(Arc::clone(&vm) as Arc<_>, vm.feed);
    let (piece, rest) = bytes.split_first().map_or((1, bytes), |(n, rest)| (usize::from(*n).max(1), rest));
    for piece in rest.chunks(piece) {
        session.receive(piece);
        session.pull();
        assert!(session.output().len() < 2 << 20, "it does not pile up");
        if piece.len() % 2 == 0 {
            session.sent(session.output().len());
        }
    }
    session.end(&EndReport { code: 0 });
    assert!(session.is_over());
    drop(session);
    let hub = vm.hub.as_ref().expect("it has a console");
    assert!(hub.take_keyboard(), "nobody types any more");
    hub.leave_keyboard();
    hub.take_typed(usize::MAX);
    vm.done.lock().expect("no panic").clear();
}
