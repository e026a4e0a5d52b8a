//! `agentfs-control-cli`: snapshots, branches and the state of a mounted AgentFS volume.
//!
//! It finds the volume's control file ([`mount`]), asks the daemon one question ([`client`], [`command`])
//! and prints the answer as text or JSON ([`output`]). It decides nothing: names, ids and rights are judged
//! by the daemon.

mod args;
mod client;
mod command;
mod copy;
mod exit_code;
mod failure;
mod interrupt;
mod ioctl;
mod left_out;
mod mount;
mod output;
mod patch;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Args, Command};
use crate::client::Client;
use crate::failure::Failure;

fn main() -> ExitCode {
    let args = Args::parse();
    let of_command = |failure: Failure| match args.command {
        Command::BranchExec(_) => failure.or_exit(exit_code::CANNOT_ENTER),
        _ => failure,
    };
    exit_code::of(run(&args).map_err(of_command))
}

fn run(args: &Args) -> Result<u8, Failure> {
    let volume = mount::find(args.mount.as_deref())?;
    let answer = command::run(&Client::open(&volume)?, &args.command)?;
    let printed = match answer.is_aside() {
        true => answer.print(args.format(), &mut io::stderr().lock()),
        false => answer.print(args.format(), &mut io::stdout().lock()),
    };
    match printed {
        // Whoever closes the pipe has seen enough, as `head` does.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("cannot write the answer", &error))
        }
        _ => Ok(answer.code()),
    }
}
