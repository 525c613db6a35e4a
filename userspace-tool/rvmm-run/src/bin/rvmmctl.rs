// SPDX-License-Identifier: GPL-2.0

//! `rvmmctl`: finds and steers the VMs that `rvmm-run` runs.

use std::process::ExitCode;

use clap::Parser;
use rvmm_run::ctl::cli::CommandLine;
use rvmm_run::ctl::run;

fn main() -> ExitCode {
    match CommandLine::try_parse() {
        Ok(cli) => ExitCode::from(run(&cli)),
        Err(e) => {
            let _ = e.print();
            ExitCode::from(u8::from(e.use_stderr()))
        }
    }
}
