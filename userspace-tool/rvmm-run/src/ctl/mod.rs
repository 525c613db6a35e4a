// SPDX-License-Identifier: GPL-2.0

//! `rvmmctl`: the client of control sockets for people.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`error`] | why something is not done |
//! | [`show`] | what is shown, as text |
//! | [`console`] | attaches a terminal to a console |
//! | [`start`] | starts a VM in the background |
//! | [`top`] | rates, as they go |
//! | [`module`] | loads and unloads the module |

pub mod cli;
pub mod console;
pub mod error;
pub mod module;
pub mod show;
pub mod start;
pub mod top;

use std::path::Path;

use clap::CommandFactory;
use serde::Serialize;
use serde_json::Value;

use self::cli::{Command, CommandLine};
use self::error::CtlError;
use self::show::output;
use crate::cmd::completions::completions;
use crate::config::name::VmName;
use crate::control::client::{list, ClientError, ControlClient};
use crate::control::feed::{FeedItem, VmEvent};
use crate::control::place;
use crate::control::protocol::{EndReport, Request, VmStats, VmStatus};

/// Carries out a command line. Returns the exit code.
pub fn run(cli: &CommandLine) -> u8 {
    let folder = place::own_folder();
    let done = match &cli.command {
        Some(command) => carry_out(command, &folder),
        None if cli.enable => module::enable().map(|()| 0),
        None => module::disable().map(|()| 0),
    };
    done.unwrap_or_else(|e| {
        for line in e.to_string().lines() {
            eprintln!("rvmmctl: {line}");
        }
        1
    })
}

fn carry_out(command: &Command, folder: &Path) -> Result<u8, CtlError> {
    let connect = |name: &VmName| ControlClient::connect(folder, name);
    let tell = |name: &VmName, request: Request| connect(name)?.ask::<Value>(&request).map(drop);
    match command {
        Command::Start { file, console } => return start::run(folder, file, *console),
        Command::List { json } => show_list(folder, *json)?,
        Command::Status { name, json } => {
            let status: VmStatus = connect(name)?.ask(&Request::Status {})?;
            output(&if *json { to_json(&status) } else { show::status(&status) })?;
        }
        Command::Console { name, read_only, history } => {
            console::attach(connect(name)?, !read_only, *history)?;
        }
        Command::Stop { name, force, timeout } => stop(connect(name)?, *force, *timeout)?,
        Command::Pause { name } => tell(name, Request::Pause {})?,
        Command::Resume { name } => tell(name, Request::Resume {})?,
        Command::Reset { name } => tell(name, Request::Reset {})?,
        Command::Nmi { name } => tell(name, Request::Nmi {})?,
        Command::Stats { name, json } => {
            let stats: VmStats = connect(name)?.ask(&Request::Stats {})?;
            output(&if *json { to_json(&stats) } else { show::stats(&stats) })?;
        }
        Command::Top { names, interval, count } => top::run(folder, names, *interval, *count)?,
        Command::Log { name, follow } => log(connect(name)?, *follow)?,
        Command::Wait { name } => return Ok(connect(name)?.ask::<EndReport>(&Request::Wait {})?.code),
        Command::Debug { name } => {
            let value: Value = connect(name)?.ask(&Request::Debug {})?;
            let texts = value["vcpus"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let texts: Vec<String> =
                texts.enumerate().map(|(id, text)| format!("vcpu {id}\n{text}")).collect();
            output(&texts.join("\n"))?;
        }
        Command::Completions { shell } => output(&completions(CommandLine::command(), *shell))?,
    }
    Ok(0)
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Shows what runs. One that does not answer is told on standard error.
fn show_list(folder: &Path, json: bool) -> Result<(), CtlError> {
    let (mut running, mut silent) = (Vec::new(), Vec::new());
    for vm in list(folder) {
        match vm.status {
            Ok(status) => running.push(status),
            Err(e) => silent.push(e),
        }
    }
    output(&if json { to_json(&running) } else { show::list(&running) })?;
    match silent.is_empty() {
        true => Ok(()),
        false => {
            let lines: Vec<String> = silent.iter().map(ToString::to_string).collect();
            Err(CtlError::Other(lines.join("\n")))
        }
    }
}

fn stop(mut vm: ControlClient, force: bool, timeout: Option<u32>) -> Result<(), CtlError> {
    vm.ask::<Value>(&Request::Stop { force, timeout })?;
    match vm.ask::<EndReport>(&Request::Wait {}) {
        // It ended before it could tell.
        Ok(_) | Err(ClientError::Gone) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn log(mut vm: ControlClient, follow: bool) -> Result<(), CtlError> {
    if follow {
        vm.ask::<Value>(&Request::Events {})?;
    }
    let kept: Value = vm.ask(&Request::Log {})?;
    let kept: Vec<FeedItem> = serde_json::from_value(kept["lines"].clone()).unwrap_or_default();
    kept.iter().try_for_each(|item| output(&show::event(item)))?;
    if !follow {
        return Ok(());
    }
    loop {
        match vm.next_event::<FeedItem>() {
            // What came while the log was asked for is in it.
            Ok(item) if kept.iter().any(|old| old.number == item.number) => {}
            Ok(item) => {
                output(&show::event(&item))?;
                if matches!(item.event, VmEvent::Ended { .. }) {
                    return Ok(());
                }
            }
            Err(ClientError::Gone) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}
