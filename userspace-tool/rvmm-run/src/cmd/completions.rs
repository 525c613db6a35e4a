// SPDX-License-Identifier: GPL-2.0

//! `--completions`: what bash, zsh and fish need to complete command lines. The build writes it to files, for packages.

use clap::Command;
use clap_complete::{generate, Shell};

use crate::errno;
use crate::events::{message, print};
use crate::exit_status::ExitStatus;

/// Prints the completions of a program for a shell.
pub fn run(command: Command, shell: Shell) -> ExitStatus {
    match print(&completions(command, shell)) {
        Ok(()) => ExitStatus::PowerOff,
        Err(e) => {
            message(&format!("cannot write to standard output: {}", errno::explain(&e)));
            ExitStatus::HostError
        }
    }
}

/// Returns the completions of a program, as a script of the shell's.
pub fn completions(command: Command, shell: Shell) -> String {
    let (name, mut script) = (command.get_name().to_string(), Vec::new());
    let mut shown = visible(&command).version(env!("CARGO_PKG_VERSION"));
    generate(shell, &mut shown, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Returns a command line without what its help does not show: shells would offer that, too.
fn visible(command: &Command) -> Command {
    Command::new(command.get_name().to_string())
        .about(command.get_about().cloned().unwrap_or_default())
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(visible))
}
