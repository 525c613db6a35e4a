// SPDX-License-Identifier: GPL-2.0

//! A VM without a guest, for the control socket: it does what it is told, and notes it.

#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use rvmm_run::console::hub::ConsoleHub;
use rvmm_run::control::feed::{EventFeed, VmEvent};
use rvmm_run::control::protocol::{
    DiskStatus, Hello, Refusal, RefusalKind, VmState, VmStats, VmStatus, VERSION,
};
use rvmm_run::control::steered::{SteeredVm, StopRequest};

/// A VM that runs, stands still, or was told to stop.
pub struct StandIn {
    name: String,
    state: Mutex<VmState>,
    /// What was asked of it.
    pub done: Mutex<Vec<String>>,
    pub hub: Option<ConsoleHub>,
    pub feed: &'static EventFeed,
    /// Path of its disk.
    pub disk: Mutex<String>,
}

impl StandIn {
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            state: Mutex::new(VmState::Running),
            done: Mutex::default(),
            hub: Some(ConsoleHub::new().unwrap()),
            feed: Box::leak(Box::new(EventFeed::new())),
            disk: Mutex::new("/srv/web.img".into()),
        })
    }

    fn note(&self, what: &str) {
        self.done.lock().unwrap().push(what.into());
    }

    fn go(&self, from: VmState, to: VmState, event: VmEvent) -> Result<(), Refusal> {
        let mut state = self.state.lock().unwrap();
        if *state != from {
            return Err(Refusal::new(RefusalKind::BadState, format!("the guest is {state:?}")));
        }
        *state = to;
        self.feed.push(event);
        Ok(())
    }
}

impl SteeredVm for StandIn {
    fn hello(&self) -> Hello {
        Hello { rvmm: VERSION, name: self.name.clone(), pid: std::process::id() }
    }

    fn status(&self) -> VmStatus {
        VmStatus {
            pid: std::process::id(),
            name: self.name.clone(),
            state: *self.state.lock().unwrap(),
            cpus: 2,
            memory: 512 << 20,
            memory_used: 100 << 20,
            disks: vec![DiskStatus { path: self.disk.lock().unwrap().clone(), read_only: false }],
            nets: vec!["tap t0".into()],
            console: "/dev/pts/7".into(),
            uptime_ms: 61_000,
            resets: 0,
        }
    }

    fn stop(&self, how: StopRequest) -> Result<(), Refusal> {
        self.note(&format!("{how:?}"));
        *self.state.lock().unwrap() = VmState::Stopping;
        Ok(())
    }

    fn pause(&self) -> Result<(), Refusal> {
        self.go(VmState::Running, VmState::Paused, VmEvent::Paused)
    }

    fn resume(&self) -> Result<(), Refusal> {
        self.go(VmState::Paused, VmState::Running, VmEvent::Resumed)
    }

    fn reset(&self) -> Result<(), Refusal> {
        self.feed.push(VmEvent::Reset);
        self.note("reset");
        Ok(())
    }

    fn nmi(&self) -> Result<(), Refusal> {
        self.note("nmi");
        Ok(())
    }

    fn stats(&self) -> Result<VmStats, Refusal> {
        let cpu = |exits| BTreeMap::from([("exits".to_string(), exits)]);
        Ok(VmStats { uptime_ms: 61_000, vcpus: vec![cpu(7), cpu(9)], failed_disk_requests: vec![3] })
    }

    fn debug(&self) -> Result<Vec<String>, Refusal> {
        match *self.state.lock().unwrap() {
            VmState::Paused => Ok(vec!["rip 0".into(), "rip 1".into()]),
            _ => Err(Refusal::new(RefusalKind::BadState, "pause the guest first")),
        }
    }

    fn console(&self) -> Result<&ConsoleHub, Refusal> {
        self.hub.as_ref().ok_or_else(|| Refusal::new(RefusalKind::Unsupported, "there is no console"))
    }
}
