// SPDX-License-Identifier: GPL-2.0

//! The completions of both programs: each shell takes them, and they have every option.

use std::io::Write;
use std::process::{Command, Stdio};

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use rvmm_run::cmd::completions::completions;
use rvmm_run::{config, ctl};

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Both programs' command lines.
fn programs() -> [clap::Command; 2] {
    [config::cli::CommandLine::command(), ctl::cli::CommandLine::command()]
}

/// Everything that a command line may have, as a shell's script says it: visible subcommands and long options, with those
/// of the subcommands.
fn words(command: &clap::Command, shell: Shell) -> Vec<String> {
    let option = |long: &str| match shell {
        Shell::Fish => format!(" -l {long} "),
        _ => format!("--{long}"),
    };
    let options = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let mut words: Vec<String> = options.filter_map(|arg| arg.get_long()).map(option).collect();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        words.push(sub.get_name().to_string());
        words.extend(self::words(sub, shell));
    }
    words
}

/// Runs a shell on a script; `None` where there is no such shell.
fn run_shell(shell: &str, args: &[&str], script: &str) -> Option<(bool, String)> {
    let command = Command::new(shell)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = command else {
        eprintln!("SKIP: there is no {shell}");
        return None;
    };
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn every_shell_has_every_option_and_command() {
    for program in programs() {
        for shell in SHELLS {
            let text = completions(program.clone(), shell);
            let words = words(&program, shell);
            assert!(words.len() > 15, "{words:?}");
            for word in words {
                assert!(text.contains(&word), "{shell}: {} has no {word}", program.get_name());
            }
        }
    }
}

#[test]
fn what_help_does_not_show_is_not_offered() {
    let [run, ctl] = programs();
    for shell in SHELLS {
        let text = completions(run.clone(), shell);
        assert!(!text.contains("completions") && !text.contains("WHICH"), "{text}");
        assert!(!completions(ctl.clone(), shell).contains("completions"));
    }
}

#[test]
fn every_shell_takes_them() {
    for program in programs() {
        for shell in SHELLS {
            let text = completions(program.clone(), shell);
            let name = shell.to_possible_value().unwrap().get_name().to_string();
            if let Some((is_good, said)) = run_shell(&name, &["-n"], &text) {
                assert!(is_good && said.is_empty(), "{name}: {}: {said}", program.get_name());
            }
        }
    }
}

/// What bash offers for the last of these words.
fn offered(program: &clap::Command, words: &[&str]) -> Option<Vec<String>> {
    let completions = completions(program.clone(), Shell::Bash);
    let function = completions.split("complete -F ").nth(1).unwrap().split(' ').next().unwrap();
    let script = format!(
        "{completions}\nCOMP_WORDS=({}) COMP_CWORD={}\n{function} {} '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        words.join(" "),
        words.len() - 1,
        words[0],
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let (_, text) = run_shell("bash", &["--norc"], &script)?;
    Some(text.lines().map(String::from).collect())
}

#[test]
fn bash_completes_options_and_commands() {
    let [run, ctl] = programs();
    let Some(found) = offered(&run, &["rvmm-run", "--init"]) else { return };
    assert_eq!(found, ["--initrd"]);
    assert_eq!(offered(&ctl, &["rvmmctl", "resu"]).unwrap(), ["resume"]);
    assert_eq!(offered(&ctl, &["rvmmctl", "stop", "--fo"]).unwrap(), ["--force"]);
}

#[test]
fn programs_print_them() {
    let told = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let [run, ctl] = programs();

    for shell in SHELLS {
        let name = shell.to_possible_value().unwrap().get_name().to_string();
        assert_eq!(
            told(env!("CARGO_BIN_EXE_rvmm-run"), &["--completions", &name]),
            completions(run.clone(), shell)
        );
        assert_eq!(
            told(env!("CARGO_BIN_EXE_rvmmctl"), &["completions", &name]),
            completions(ctl.clone(), shell)
        );
    }
}
