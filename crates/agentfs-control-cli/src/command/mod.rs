//! From a command to the daemon's answer to it: one function a command.

mod branch;
mod exec;
mod process;
mod snapshot;
mod status;

use crate::args::Command;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;

/// Asks the daemon what the command line asks.
pub(crate) fn run(client: &Client, command: &Command) -> Result<Output, Failure> {
    match command {
        Command::SnapshotCreate { name, branch, sync, allow_fuzzy } => {
            let kind = match (sync, allow_fuzzy) {
                (true, _) => snapshot::Kind::Synced,
                (false, true) => snapshot::Kind::Fuzzy,
                (false, false) => snapshot::Kind::Plain,
            };
            snapshot::create(client, name.as_deref(), branch.as_deref(), kind)
        }
        Command::SnapshotList => snapshot::list(client),
        Command::SnapshotDelete { snapshot } => snapshot::delete(client, snapshot.given()),
        Command::SnapshotRename { snapshot, name } => snapshot::rename(client, snapshot, name),
        Command::BranchCreate { from, name } => branch::create(client, from, name.as_deref()),
        Command::BranchList => branch::list(client),
        Command::BranchDelete { branch, force } => branch::delete(client, branch.given(), *force),
        Command::BranchRename { branch, name } => branch::rename(client, branch, name),
        Command::BranchBind { branch, pid } => process::bind(client, branch, *pid),
        Command::BranchUnbind { pid } => process::unbind(client, *pid),
        Command::Whoami { pid } => process::whoami(client, *pid),
        Command::BranchExec(args) => exec::run(client, args),
        Command::Stop { force } => process::stop(client, *force),
        Command::Status { requests: false } => status::show(client),
        Command::Status { requests: true } => status::requests(client),
    }
}
