//! `steady`: one command that can play every role.
//!
//! `lb` and `agent` become the daemons; `up` runs a whole system of them on this machine; everything else is a client
//! of the private API. Nothing is decided here but the exit code: see [`error::Error::exit_code`].
#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod error;
mod pack;
mod parent;
mod show;
mod top;
mod up;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, DaemonArgs};
use crate::error::Error;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Cli { reach, json, command } = cli;
    match command {
        Command::Lb(args) => daemon(&args.daemon, |file, check| steady_lb::main(file, check, args.upgrade)),
        Command::Agent(args) => daemon(&args, steady_agent::main),
        Command::Up(args) => finish(json, up::run(&reach.dir, &args, json)),
        command => finish(json, commands::run(&reach, json, command)),
    }
}

/// Becomes a daemon, after arranging to end with the `up` that started it, if one did.
fn daemon(args: &DaemonArgs, main: impl FnOnce(&std::path::Path, bool) -> ExitCode) -> ExitCode {
    if !args.check && !parent::follow() {
        eprintln!("steady: the `steady up` that started this daemon is gone already");
        return ExitCode::FAILURE;
    }
    main(&args.config, args.check)
}

fn finish(json: bool, result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::PipeClosed) => ExitCode::SUCCESS,
        Err(error) => {
            show::error(json, &error);
            error.exit_code()
        }
    }
}
