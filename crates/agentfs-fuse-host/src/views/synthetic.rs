//! The directories under `.agentfs`: `control` in every view; `branches`, `snapshots` and `by-id` in the main
//! view, open to the owner alone, because an old mode in a snapshot must not show what was closed later.

use std::sync::Arc;

use agentfs_core::{Attr, BranchInfo, FileKind, FsCore, FsError, InodeId, Result, SnapshotInfo, Timestamp, ViewId};

use super::{NodeId, Special};

/// Where `branches/main` leads, from its own directory.
const MAIN_TARGET: &[u8] = b"../..";
/// Positions of listings below are taken by `.` and `..`.
const FIRST_POSITION: u64 = 3;

/// What a name under `.agentfs` leads to; a tree's root counts as remembered by the kernel once more.
pub(crate) struct Found {
    pub(crate) node: NodeId,
    pub(crate) attr: Attr,
}

/// The volume's own directories.
pub(crate) struct Synthetic {
    core: Arc<FsCore>,
    owner: (u32, u32),
    since: Timestamp,
}

/// An entry of a listing.
struct Listed {
    name: String,
    kind: FileKind,
    position: u64,
}

impl Synthetic {
    pub(crate) fn new(core: Arc<FsCore>, owner: (u32, u32)) -> Synthetic {
        Synthetic { core, owner, since: Timestamp::now() }
    }

    pub(crate) fn attr(&self, special: Special) -> Attr {
        let (kind, mode, nlink, size) = match special {
            Special::DotAgentfs => (FileKind::Directory, 0o755, 2, 4096),
            Special::Branches | Special::Snapshots | Special::ById => (FileKind::Directory, 0o700, 2, 4096),
            Special::Control => (FileKind::File, 0o600, 1, 0),
            Special::MainLink => (FileKind::Symlink, 0o777, 1, MAIN_TARGET.len() as u64),
        };
        let (uid, gid) = self.owner;
        let (atime, mtime, ctime) = (self.since, self.since, self.since);
        // The node id carries the number; this one is not shown.
        let (ino, rdev, blocks) = (InodeId(0), 0, 0);
        Attr { ino, kind, mode, uid, gid, nlink, rdev, size, blocks, atime, mtime, ctime }
    }

    fn found(&self, view: ViewId, special: Special) -> Found {
        Found { node: NodeId::special(view, special), attr: self.attr(special) }
    }

    /// `.agentfs` itself, in the root of a view.
    pub(crate) fn dot_agentfs(&self, view: ViewId) -> Found {
        self.found(view, Special::DotAgentfs)
    }

    pub(crate) fn lookup(&self, view: ViewId, dir: Special, name: &[u8]) -> Result<Found> {
        let text = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        match dir {
            Special::DotAgentfs => {
                let shown = entries_of(view).find(|(known, _)| *known == text);
                shown.map(|(_, special)| self.found(view, special)).ok_or(FsError::NotFound)
            }
            Special::Branches => self.enter_branch(self.core.find_branch(text), |info| branch_name(info) == text),
            Special::Snapshots => self.enter_snapshot(self.core.find_snapshot(text), |info| snapshot_name(info) == text),
            Special::ById => self
                .enter_branch(self.core.find_branch(text), |info| info.id.to_string() == text)
                .or_else(|_| self.enter_snapshot(self.core.find_snapshot(text), |info| info.id.to_string() == text)),
            Special::Control | Special::MainLink => Err(FsError::NotDirectory),
        }
    }

    fn enter_branch(&self, found: Result<BranchInfo>, shown: impl Fn(&BranchInfo) -> bool) -> Result<Found> {
        let info = found.ok().filter(shown).ok_or(FsError::NotFound)?;
        if info.view == ViewId::MAIN {
            return Ok(self.found(ViewId::MAIN, Special::MainLink));
        }
        let entered = self.core.enter_branch(info.id)?;
        Ok(Found { node: NodeId::of(entered.view, InodeId::ROOT), attr: entered.root })
    }

    fn enter_snapshot(&self, found: Result<SnapshotInfo>, shown: impl Fn(&SnapshotInfo) -> bool) -> Result<Found> {
        let info = found.ok().filter(shown).ok_or(FsError::NotFound)?;
        let entered = self.core.enter_snapshot(info.id)?;
        Ok(Found { node: NodeId::of(entered.view, InodeId::ROOT), attr: entered.root })
    }

    pub(crate) fn readlink(special: Special) -> Result<&'static [u8]> {
        match special {
            Special::MainLink => Ok(MAIN_TARGET),
            _ => Err(FsError::InvalidArgument("not a symbolic link")),
        }
    }

    /// Shows `visit` the entries after `position` until it answers false. An entry keeps its position.
    pub(crate) fn readdir(
        &self,
        view: ViewId,
        dir: Special,
        position: u64,
        mut visit: impl FnMut(u64, FileKind, &[u8]) -> bool,
    ) -> Result<()> {
        let mut listed = self.list(view, dir)?;
        listed.retain(|entry| entry.position > position);
        listed.sort_by_key(|entry| entry.position);
        for entry in listed {
            if !visit(entry.position, entry.kind, entry.name.as_bytes()) {
                break;
            }
        }
        Ok(())
    }

    fn list(&self, view: ViewId, dir: Special) -> Result<Vec<Listed>> {
        let all = usize::MAX;
        let branches = || self.core.list_branches(None, all).into_iter();
        let snapshots = || self.core.list_snapshots(None, all).into_iter();
        let branch = |info: &BranchInfo, name: String| {
            let kind = if info.view == ViewId::MAIN { FileKind::Symlink } else { FileKind::Directory };
            Listed { name, kind, position: position_of(info.id.0) }
        };
        let snapshot = |info: &SnapshotInfo, name: String| {
            Listed { name, kind: FileKind::Directory, position: position_of(info.id.0) }
        };
        let mut listed: Vec<Listed> = match dir {
            Special::DotAgentfs => (FIRST_POSITION..)
                .zip(entries_of(view))
                .map(|(position, (name, s))| Listed { name: name.to_owned(), kind: self.attr(s).kind, position })
                .collect(),
            Special::Branches => branches().map(|info| branch(&info, branch_name(&info))).collect(),
            Special::Snapshots => snapshots().map(|info| snapshot(&info, snapshot_name(&info))).collect(),
            Special::ById => {
                let named = branches().map(|info| branch(&info, info.id.to_string()));
                named.chain(snapshots().map(|info| snapshot(&info, info.id.to_string()))).collect()
            }
            Special::Control | Special::MainLink => return Err(FsError::NotDirectory),
        };
        let dots = [(1, "."), (2, "..")];
        let kind = FileKind::Directory;
        listed.extend(dots.map(|(position, name)| Listed { name: name.to_owned(), kind, position }));
        Ok(listed)
    }
}

/// What `.agentfs` holds in a view: from inside a branch, the others are out of sight.
fn entries_of(view: ViewId) -> impl Iterator<Item = (&'static str, Special)> {
    let all = [
        ("control", Special::Control),
        ("branches", Special::Branches),
        ("snapshots", Special::Snapshots),
        ("by-id", Special::ById),
    ];
    let shown = if view == ViewId::MAIN { all.len() } else { 1 };
    all.into_iter().take(shown)
}

fn position_of(id: u128) -> u64 {
    ((id as u64) >> 2).max(FIRST_POSITION)
}

fn branch_name(info: &BranchInfo) -> String {
    info.name.as_deref().map_or_else(|| info.id.to_string(), str::to_owned)
}

fn snapshot_name(info: &SnapshotInfo) -> String {
    info.name.as_deref().map_or_else(|| info.id.to_string(), str::to_owned)
}
