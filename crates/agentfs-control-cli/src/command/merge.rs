//! `merge`, `restore`, `undo`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use agentfs_proto::Request;
use agentfs_proto::request::{MergeStart, RestoreStart};
use agentfs_proto::result::MergeResult;

use super::{from_root, job};
use crate::client::{Client, unexpected};
use crate::failure::Failure;
use crate::output::{self, Output, shown};

/// What to merge, and how.
pub(super) struct Wish<'a> {
    pub(super) source: &'a str,
    pub(super) into: Option<&'a str>,
    /// `refuse`, `ours`, `theirs` or `markers`.
    pub(super) conflicts: &'a str,
    pub(super) is_dry: bool,
    pub(super) with_git: bool,
    pub(super) all: bool,
}

pub(super) fn run(client: &Client, wish: &Wish<'_>) -> Result<Output, Failure> {
    let asked = MergeStart {
        source: wish.source.into(),
        into: wish.into.map(Into::into),
        conflicts: wish.conflicts.into(),
        dry_run: wish.is_dry,
        with_git: wish.with_git,
        all: wish.all,
    };
    let result = read(&job::run(client, "merge", asked)?)?;
    tell_git(client, &result);
    let is_refused = wish.conflicts == "refuse" && !result.conflicts.is_empty();
    if is_refused {
        let _ = writeln!(
            io::stderr(),
            "agentfs-control-cli: {} conflicts: nothing was changed; change one side, or merge with --ours, --theirs or \
             --leave-markers",
            result.conflicts.len()
        );
    }
    Ok(output::merged(&result, "MERGED", wish.is_dry, is_refused))
}

pub(super) fn restore(
    client: &Client,
    branch: &str,
    from: &str,
    paths: &[OsString],
    is_dry: bool,
) -> Result<Output, Failure> {
    let tidy = |path: &OsString| {
        let parts = from_root(path.as_bytes());
        match parts.contains(&&b".."[..]) {
            true => Err(Failure::new(format!(
                "{} has .. in it: name paths from the root of the branch",
                shown(path.as_bytes())
            ))),
            false => Ok(parts.join(&b'/')),
        }
    };
    let mut paths = paths.iter().map(tidy).collect::<Result<Vec<_>, _>>()?;
    if paths.iter().any(Vec::is_empty) {
        paths.clear(); // the root is the whole branch
    }
    let asked = RestoreStart { branch: branch.into(), from: from.into(), paths, dry_run: is_dry };
    let result = read(&job::run(client, "restore", asked)?)?;
    Ok(output::merged(&result, "RESTORED", is_dry, false))
}

pub(super) fn undo(client: &Client) -> Result<Output, Failure> {
    let result = read(&job::run(client, "undo", Request::UndoStart)?)?;
    Ok(match result.deed.as_slice() {
        b"undo-delete" => output::revived(&result),
        b"undo-merge" => output::merged(&result, "UNDONE\tmerge", false, false),
        b"undo-import" => output::merged(&result, "UNDONE\timport", false, false),
        _ => output::merged(&result, "UNDONE\trestore", false, false),
    })
}

fn read(bytes: &[u8]) -> Result<MergeResult, Failure> {
    MergeResult::decode(bytes).map_err(|_| unexpected())
}

/// How to take the commits of a branch, whose `.git` cannot be merged file by file.
fn tell_git(client: &Client, result: &MergeResult) {
    for git in &result.left_git {
        let top = git.strip_suffix(b".git").unwrap_or(git);
        let (source, top) = (shown(&result.source), shown(top.strip_suffix(b"/").unwrap_or(top)));
        let volume = client.volume().display();
        let below = if top.is_empty() { String::new() } else { format!("/{top}") };
        let _ = writeln!(
            io::stderr(),
            "left out: {}; to take its commits: git -C {volume}{below} fetch {volume}/.agentfs/branches/{source}{below}, \
             or --with-git to take it whole",
            shown(git),
        );
    }
}
