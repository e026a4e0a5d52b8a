//! From a command to the daemon's answer to it: one function a command.

mod apply;
mod branch;
mod diff;
mod exec;
mod frozen;
mod job;
mod log;
mod merge;
mod process;
mod prune;
mod snapshot;
mod status;
mod transfer;

pub(crate) use self::diff::Colour;

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
        Command::BranchDelete { branch, force, now: true } => branch::delete(client, branch.given(), *force),
        Command::BranchDelete { branch, force, now: false } => {
            branch::discard(client, branch.given(), *force)
        }
        Command::BranchRename { branch, name } => branch::rename(client, branch, name),
        Command::BranchBind { branch, pid } => process::bind(client, branch, *pid),
        Command::BranchUnbind { pid } => process::unbind(client, *pid),
        Command::Whoami { pid } => process::whoami(client, *pid),
        Command::BranchExec(args) => exec::run(client, args),
        Command::Diff { a, b, stat, patch, color, with_git, all, paths } => {
            let form = match (stat, patch) {
                (true, _) => diff::Form::Stat,
                (_, true) => diff::Form::Patch,
                _ => diff::Form::Names,
            };
            let (colour, with_git, all) = (*color, *with_git, *all);
            diff::run(client, &diff::Wish { a, b, form, colour, with_git, all, paths })
        }
        Command::Merge { branch, into, dry_run, ours, theirs, leave_markers, with_git, all } => {
            let conflicts = match (ours, theirs, leave_markers) {
                (true, ..) => "ours",
                (_, true, _) => "theirs",
                (.., true) => "markers",
                _ => "refuse",
            };
            let (is_dry, with_git, all) = (*dry_run, *with_git, *all);
            merge::run(
                client,
                &merge::Wish { source: branch, into: into.as_deref(), conflicts, is_dry, with_git, all },
            )
        }
        Command::Restore { branch, from, dry_run, paths } => {
            merge::restore(client, branch, from, paths, *dry_run)
        }
        Command::Undo => merge::undo(client),
        Command::Log { dot } => log::run(client, *dot),
        Command::Prune { keep_last, older_than, named, delete } => {
            let (keep_last, older_than) = (*keep_last, older_than.map(Into::into));
            prune::run(client, &prune::Wish { keep_last, older_than, named: *named, delete: *delete })
        }
        Command::Apply { branch, to, dry_run, with_git, all } => {
            let wish =
                apply::Wish { branch, to: to.as_deref(), is_dry: *dry_run, with_git: *with_git, all: *all };
            apply::run(client, &wish)
        }
        Command::Export { of, tar, dir, all } => {
            let form = match (tar, dir) {
                (Some(tar), _) => transfer::Form::Tar(tar),
                (None, Some(dir)) => transfer::Form::Directory(dir),
                (None, None) => return Err(Failure::new("say where to: --tar FILE or --dir DIR")),
            };
            transfer::export(client, of, &form, *all)
        }
        Command::Import { dir, branch, all } => transfer::import(client, dir, branch, *all),
        Command::Stop { force } => process::stop(client, *force),
        Command::Status { requests: false } => status::show(client),
        Command::Status { requests: true } => status::requests(client),
    }
}

/// The names in a path of a tree, from its root on, however it is written.
fn from_root(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect()
}
