// SPDX-License-Identifier: GPL-2.0

//! What a running VM and its clients say to each other: a line of JSON each. docs/control.md is the description for whoever
//! writes a client.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the protocol. It grows when something changes its meaning or goes; what is added changes nothing.
pub const VERSION: u32 = 1;

/// The first line that a client gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the run.
    pub rvmm: u32,
    /// Name of the VM.
    pub name: String,
    /// Process of the run, which is also the VM's id.
    pub pid: u32,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// A [`VmStatus`].
    Status {},
    /// The end: by the power button, and then by force.
    Stop {
        /// By force at once.
        #[serde(default)]
        force: bool,
        /// Seconds until force; without it, as the VM's settings say.
        #[serde(default)]
        timeout: Option<u32>,
    },
    /// Processors stand still when this is answered.
    Pause {},
    /// They go on.
    Resume {},
    /// The machine is made anew.
    Reset {},
    /// A non-maskable interrupt for every processor.
    Nmi {},
    /// A [`VmStats`].
    Stats {},
    /// Registers and last exits of a paused VM, as text.
    Debug {},
    /// The kept lines of the tool's log, as feed items.
    Log {},
    /// Every event from now on, as lines of their own.
    Events {},
    /// Answered when the run is over, with an [`EndReport`].
    Wait {},
    /// From the answer on, the connection carries the console's bytes, both ways.
    Console {
        /// To type, too, where nobody else does.
        #[serde(default)]
        write: bool,
        /// Bytes of the newest output to begin with.
        #[serde(default)]
        history: u32,
    },
}

/// A request with the number that its answer will have.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// What the client calls it.
    pub id: Option<u64>,
    /// What it asks for.
    pub request: Request,
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub text: String,
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The line is no request.
    BadRequest,
    /// Not in the state that the VM is in.
    BadState,
    /// The VM does not have what it takes.
    Unsupported,
    /// The host or the module failed.
    Failed,
}

impl Refusal {
    /// A refusal of a kind.
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// The answer to a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<Value>,
    /// Or why there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Refusal>,
}

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// The machine is being made.
    Starting,
    /// It does.
    Running,
    /// It stands still.
    Paused,
    /// It was asked to end.
    Stopping,
}

/// What a VM is like at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// Process of the run.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub state: VmState,
    /// Number of processors.
    pub cpus: u32,
    /// Memory that the guest has, in bytes.
    pub memory: u64,
    /// Memory that the whole run takes of the host, in bytes.
    pub memory_used: u64,
    /// Disks in the guest's order.
    pub disks: Vec<DiskStatus>,
    /// What is behind each network card.
    pub nets: Vec<String>,
    /// Where the console is.
    pub console: String,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// How often it was started anew.
    pub resets: u32,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its image or device, as a whole path.
    pub path: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// The module's counters at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStats {
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Of each processor, by name.
    pub vcpus: Vec<std::collections::BTreeMap<String, u64>>,
    /// Requests of each disk that the host failed.
    pub failed_disk_requests: Vec<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReport {
    /// The tool's exit code.
    pub code: u8,
}

/// Reads a line as a call.
///
/// # Errors
/// What is wrong with it, and its number where it has one.
pub fn parse(line: &[u8]) -> Result<Call, (Option<u64>, Refusal)> {
    let bad = |text: String| Refusal::new(RefusalKind::BadRequest, text);
    let mut value: Value =
        serde_json::from_slice(line).map_err(|e| (None, bad(format!("the line is no JSON: {e}"))))?;
    let Some(object) = value.as_object_mut() else {
        return Err((None, bad("a request is an object".into())));
    };
    let id = match object.remove("id") {
        None => None,
        Some(id) => {
            Some(id.as_u64().ok_or_else(|| (None, bad("the id is no number from 0 to 2^64 - 1".into())))?)
        }
    };
    let request = serde_json::from_value(value).map_err(|e| (id, bad(e.to_string())))?;
    Ok(Call { id, request })
}

/// Returns something of ours as a line.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Returns the line that answers a call.
pub fn answer(id: Option<u64>, result: Result<Value, Refusal>) -> Vec<u8> {
    let (ok, error) = match result {
        Ok(value) => (Some(value), None),
        Err(refusal) => (None, Some(refusal)),
    };
    line(&Answer { id, ok, error })
}

/// Returns the line that asks for something.
pub fn call(id: u64, request: &Request) -> Vec<u8> {
    let mut value = serde_json::to_value(request).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("id".into(), id.into());
    }
    line(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_is_read_as_it_was_written() {
        let request = Request::Stop { force: false, timeout: Some(3) };

        let call = parse(&call(7, &request)).unwrap();

        assert_eq!(call, Call { id: Some(7), request });
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let stop = parse(br#"{"do":"stop"}"#).unwrap();

        assert_eq!(stop, Call { id: None, request: Request::Stop { force: false, timeout: None } });
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_number() {
        let id_of = |line: &str| parse(line.as_bytes()).unwrap_err().0;

        assert_eq!(id_of("nonsense"), None);
        assert_eq!(id_of("[1]"), None);
        assert_eq!(id_of(r#"{"id":-1,"do":"status"}"#), None);
        assert_eq!(id_of(r#"{"id":5,"do":"dance"}"#), Some(5));
        assert_eq!(id_of(r#"{"id":6,"do":"stop","now":true}"#), Some(6));
        assert_eq!(id_of(r#"{"id":7}"#), Some(7));
        assert_eq!(id_of(r#"{"id":8,"do":"status","x":1}"#), Some(8));
    }
}
