//! The directories under `.agentfs`: `control` in every view; `branches`, `snapshots` and `by-id` in the main
//! view, open to the owner alone, because an old mode in a snapshot must not show what was closed later.

use std::sync::Arc;

use agentfs_core::{
    Attr, BranchInfo, FileKind, FsCore, FsError, InodeId, Result, Shown, SnapshotInfo, Timestamp, ViewId,
};

use super::{NodeId, Special};

/// Where `branches/main` leads, from its own directory.
const MAIN_TARGET: &[u8] = b"../..";
/// Found by lookup, not listed.
const VOLUME: &str = "volume";
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

    pub(crate) fn attr(&self, view: ViewId, special: Special) -> Attr {
        let (kind, mode, nlink, size) = match special {
            Special::DotAgentfs => (FileKind::Directory, 0o755, 2, 4096),
            Special::Branches | Special::Snapshots | Special::ById | Special::Volume => {
                (FileKind::Directory, 0o700, 2, 4096)
            }
            Special::Control => (FileKind::File, 0o600, 1, 0),
            Special::MainLink | Special::NameLink => {
                let target = self.readlink(view, special).map_or(0, |target| target.len() as u64);
                (FileKind::Symlink, 0o777, 1, target)
            }
        };
        let (uid, gid) = self.owner;
        let (atime, mtime, ctime) = (self.since, self.since, self.since);
        // The node id carries the number; this one is not shown.
        let (ino, rdev, blocks) = (InodeId(0), 0, 0);
        Attr { ino, kind, mode, uid, gid, nlink, rdev, size, blocks, atime, mtime, ctime }
    }

    fn found(&self, view: ViewId, special: Special) -> Found {
        Found { node: NodeId::special(view, special), attr: self.attr(view, special) }
    }

    /// `.agentfs` itself, in the root of a view.
    pub(crate) fn dot_agentfs(&self, view: ViewId) -> Found {
        self.found(view, Special::DotAgentfs)
    }

    pub(crate) fn lookup(&self, view: ViewId, dir: Special, name: &[u8]) -> Result<Found> {
        let text = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        match dir {
            Special::DotAgentfs if text == VOLUME && view != ViewId::MAIN => {
                Ok(self.found(view, Special::Volume))
            }
            Special::DotAgentfs => {
                let shown = entries_of(view).find(|(known, _)| *known == text);
                shown.map(|(_, special)| self.found(view, special)).ok_or(FsError::NotFound)
            }
            Special::Branches => self.branch_link(&self.named_branch(text)?),
            Special::Snapshots => {
                let link = Special::NameLink.inode();
                let view = self.core.enter_snapshot(self.named_snapshot(text)?.id, link)?;
                Ok(self.found(view, Special::NameLink))
            }
            Special::ById => self.directory_of(text),
            Special::Volume => Err(FsError::NotFound),
            Special::Control | Special::MainLink | Special::NameLink => Err(FsError::NotDirectory),
        }
    }

    fn named_branch(&self, name: &str) -> Result<BranchInfo> {
        let found = self.core.find_branch(name).ok().filter(|info| branch_name(info) == name);
        found.ok_or(FsError::NotFound)
    }

    fn named_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        let found = self.core.find_snapshot(name).ok().filter(|info| snapshot_name(info) == name);
        found.ok_or(FsError::NotFound)
    }

    fn branch_link(&self, info: &BranchInfo) -> Result<Found> {
        if info.view == ViewId::MAIN {
            return Ok(self.found(ViewId::MAIN, Special::MainLink));
        }
        let view = self.core.enter_branch(info.id, Special::NameLink.inode())?;
        Ok(self.found(view, Special::NameLink))
    }

    /// The root directory of a view just entered.
    fn root(&self, view: ViewId) -> Result<Found> {
        let attr = self.core.getattr(view, InodeId::ROOT);
        let attr = attr.inspect_err(|_| self.core.forget(view, InodeId::ROOT, 1))?;
        Ok(Found { node: NodeId::of(view, InodeId::ROOT), attr })
    }

    /// The directory that shows the branch or snapshot with this id.
    fn directory_of(&self, id: &str) -> Result<Found> {
        if let Some(info) = self.core.find_branch(id).ok().filter(|info| info.id.to_string() == id) {
            return match info.view {
                ViewId::MAIN => Ok(self.found(ViewId::MAIN, Special::MainLink)),
                _ => self.root(self.core.enter_branch(info.id, InodeId::ROOT)?),
            };
        }
        let info = self.core.find_snapshot(id).ok().filter(|info| info.id.to_string() == id);
        self.root(self.core.enter_snapshot(info.ok_or(FsError::NotFound)?.id, InodeId::ROOT)?)
    }

    pub(crate) fn readlink(&self, view: ViewId, special: Special) -> Result<Vec<u8>> {
        match special {
            Special::MainLink => Ok(MAIN_TARGET.to_vec()),
            Special::NameLink => Ok(match self.core.shown(view)? {
                Shown::Branch(info) => format!("../by-id/{}", info.id),
                Shown::Snapshot(info) => format!("../by-id/{}", info.id),
            }
            .into()),
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
        let branches = || self.core.list_branches(None, usize::MAX).into_iter();
        let snapshots = || self.core.list_snapshots(None, usize::MAX).into_iter();
        let listed = |id: u128, name: String, kind: FileKind| {
            let position = position_of(id);
            Listed { name, kind, position }
        };
        let link = FileKind::Symlink;
        let mut all: Vec<Listed> = match dir {
            Special::DotAgentfs => (FIRST_POSITION..)
                .zip(entries_of(view))
                .map(|(position, (name, s))| Listed {
                    name: name.to_owned(),
                    kind: self.attr(view, s).kind,
                    position,
                })
                .collect(),
            Special::Branches => branches().map(|info| listed(info.id.0, branch_name(&info), link)).collect(),
            Special::Snapshots => {
                snapshots().map(|info| listed(info.id.0, snapshot_name(&info), link)).collect()
            }
            Special::ById => branches()
                .map(|info| (info.id.0, if info.view == ViewId::MAIN { link } else { FileKind::Directory }))
                .chain(snapshots().map(|info| (info.id.0, FileKind::Directory)))
                .map(|(id, kind)| listed(id, format!("{id:032x}"), kind))
                .collect(),
            Special::Volume => Vec::new(),
            Special::Control | Special::MainLink | Special::NameLink => return Err(FsError::NotDirectory),
        };
        let dots = [(1, "."), (2, "..")];
        let kind = FileKind::Directory;
        all.extend(dots.map(|(position, name)| Listed { name: name.to_owned(), kind, position }));
        Ok(all)
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
