// SPDX-License-Identifier: GPL-2.0

//! The command line of `rvmmctl`.

use clap::{Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::config::name::VmName;

const EXAMPLES: &str = "\
Examples:
  rvmmctl -e                 load the module, and say of each CPU what it has
  rvmmctl start web -c       start the VM of /etc/rvmm/web.toml, with its console here
  rvmmctl list               show what runs
  rvmmctl console web        attach to a console (Ctrl-a d detaches)
  rvmmctl stop web           press the power button, and wait for the end

Exit codes:
  0  done                    1  not done; the message says why
  wait and start end with the VM's own code, which rvmm-run(1) lists, if it ends";

/// Finds and steers the VMs that rvmm-run runs.
#[derive(Clone, Debug, Parser)]
#[command(name = "rvmmctl", version, max_term_width = 100, after_help = EXAMPLES, arg_required_else_help = true, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Load the module, and say of each CPU what it has for guests
    #[arg(short = 'e', long, conflicts_with = "disable")]
    pub enable: bool,

    /// Unload the module
    #[arg(short = 'd', long)]
    pub disable: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Start the VM of a file, or of its name, in the background
    Start {
        /// A file, or the name of one in /etc/rvmm
        #[arg(value_name = "FILE|NAME", value_hint = ValueHint::FilePath)]
        file: String,
        /// Attach to its console
        #[arg(short, long)]
        console: bool,
    },
    /// Show the VMs that run
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a VM is like
    Status {
        /// Which one
        name: VmName,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Attach to a console; Ctrl-a d detaches
    Console {
        /// Which one
        name: VmName,
        /// Do not type
        #[arg(short, long)]
        read_only: bool,
        /// Begin with so many bytes of the newest output
        #[arg(long, value_name = "BYTES", default_value_t = 4096)]
        history: u32,
    },
    /// Press the power button, and wait until the VM has ended
    Stop {
        /// Which one
        name: VmName,
        /// End it at once, as by pulling the plug
        #[arg(short, long)]
        force: bool,
        /// End it by force after so many seconds, instead of as many as its settings say
        #[arg(short, long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Have a VM stand still
    Pause {
        /// Which one
        name: VmName,
    },
    /// Have it go on
    Resume {
        /// Which one
        name: VmName,
    },
    /// Press the reset button
    Reset {
        /// Which one
        name: VmName,
    },
    /// Send a non-maskable interrupt to every virtual CPU
    Nmi {
        /// Which one
        name: VmName,
    },
    /// Show the module's counters of each virtual CPU
    Stats {
        /// Which one
        name: VmName,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show exits per second, by class, as they go
    Top {
        /// Which ones; without any, all
        names: Vec<VmName>,
        /// Seconds between two looks
        #[arg(short, long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        interval: u32,
        /// End after so many looks
        #[arg(short = 'n', long, value_name = "N")]
        count: Option<u32>,
    },
    /// Show what a VM's rvmm-run has said
    Log {
        /// Which one
        name: VmName,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
    },
    /// Wait until a VM has ended, and end with its exit code
    Wait {
        /// Which one
        name: VmName,
    },
    /// Show registers and last exits of a paused VM
    Debug {
        /// Which one
        name: VmName,
    },
    /// Print what a shell needs to complete this program's command lines
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}
