// SPDX-License-Identifier: GPL-2.0

//! `rvmm-run`: runs a guest on the rvmm module.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use rvmm_run::cmd::{check, completions, print_config, run, settings};
use rvmm_run::config::cli::CommandLine;
use rvmm_run::console;
use rvmm_run::events::error;
use rvmm_run::exit_status::ExitStatus;

fn main() -> ExitCode {
    let cli = match CommandLine::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            // Help and version are no failures; everything else is bad input.
            let status = if e.use_stderr() { ExitStatus::BadInput } else { ExitStatus::PowerOff };
            return status.into();
        }
    };
    restore_terminal_on_panic();
    let status = match cli.completions {
        Some(shell) => completions::run(CommandLine::command(), shell),
        None if cli.check => check::run(&cli.layer().node()),
        None => act(&cli),
    };
    status.into()
}

/// Carries out what is about a VM.
fn act(cli: &CommandLine) -> ExitStatus {
    let done = settings::gather(cli).and_then(|spec| match cli.print_config {
        true => print_config::run(&spec).map(|()| ExitStatus::PowerOff),
        false => run::run(&spec),
    });
    done.unwrap_or_else(|e| {
        e.explanation().lines().for_each(error);
        e.status()
    })
}

/// Makes the terminal usable before the panic's message is printed.
fn restore_terminal_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        console::stdio::restore();
        default(info);
    }));
}
