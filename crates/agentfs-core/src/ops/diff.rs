//! `diff`: what differs between two trees, path by path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::branch::{Catalog, Tree};
use crate::compare::{Node, Pair, Sight, compare};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::progress::Progress;
use crate::tree::{Inode, Version};
use crate::types::{FileKind, InodeId};

/// How the file at a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiffStatus {
    /// It is there only in the second.
    Added,
    /// It is there only in the first.
    Deleted,
    /// It is there in both.
    Modified,
    /// It was elsewhere in the first.
    Renamed,
    /// It is something else in the second.
    TypeChanged,
}

/// What a file is at one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    /// Its kind.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes, of a regular file.
    pub size: u64,
    /// Names that lead to it.
    pub links: u32,
}

/// A path at which two trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path in the second tree; in the first when it is deleted.
    pub path: Arc<[u8]>,
    /// Where it was, when it was renamed.
    pub from: Option<Arc<[u8]>>,
    /// How it differs.
    pub status: DiffStatus,
    /// What it is in the first.
    pub old: Option<Face>,
    /// What it is in the second.
    pub new: Option<Face>,
    /// Do the bytes, the targets of links or the numbers of devices differ?
    pub content: bool,
    /// Do the extended attributes?
    pub xattrs: bool,
}

impl Face {
    fn of(inode: &Inode) -> Face {
        let meta = &inode.meta;
        let size = if inode.content().is_some() { meta.size } else { 0 };
        Face { kind: inode.kind(), mode: meta.mode, uid: meta.uid, gid: meta.gid, size, links: meta.nlink }
    }
}

/// The name that means the directory that the volume lies over.
pub const LOWER: &str = "lower";

impl FsCore {
    /// All paths at which two trees differ, in their order. Each is a snapshot or a branch by id or name, or `lower`, the
    /// directory that the volume lies over. Costs what differs. A branch is taken as it is at this moment; what is written in
    /// it meanwhile may be seen or not.
    ///
    /// # Errors
    /// `UnknownVersion`, `BadName` when a name means a snapshot and a branch, `Refused` for `lower` where there is none,
    /// `Changed`, `Cancelled`, what the store answers.
    pub fn diff(&self, a: &str, b: &str, progress: &Progress) -> Result<Vec<Difference>> {
        let (a, b) = (self.sight(a)?, self.sight(b)?);
        let pairs = compare(&a, &b, &|| progress.step())?;
        let mut differences = BTreeMap::new();
        for pair in &pairs {
            progress.step()?;
            for difference in self.differences(&a, &b, pair)? {
                let key = (difference.path.clone(), difference.status != DiffStatus::Deleted);
                differences.insert(key, difference);
            }
        }
        Ok(join_types(differences))
    }

    /// The bytes of the regular file at a path of a tree, as [`FsCore::diff`] names one. `None` when there is no such file.
    ///
    /// # Errors
    /// As [`FsCore::diff`]; `FileTooLarge` past `limit`, in bytes.
    pub fn read_path(&self, of: &str, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        let node = self.sight(of)?.at(&Arc::from(path))?;
        let file = node.filter(|node| node.inode.content().is_some());
        file.map(|node| self.read_all(&node.inode, limit)).transpose()
    }

    /// A tree to be looked at, by what it is called.
    pub(super) fn sight(&self, of: &str) -> Result<Sight> {
        let catalog = self.catalog.read();
        let found = tree_called(&catalog, of);
        drop(catalog);
        match found {
            Err(FsError::UnknownVersion(_)) if of == LOWER => self.lower_sight(),
            found => Sight::of(&found?, self.lower.as_ref()),
        }
    }

    /// The directory that the volume lies over, as a tree that changes nothing of it.
    fn lower_sight(&self) -> Result<Sight> {
        let none = || FsError::Refused("this volume lies over no directory".into());
        let lower = self.lower.as_ref().ok_or_else(none)?;
        let root: Arc<[u8]> = Arc::from([]);
        let (_, stat) = lower.find(&root)?.ok_or(FsError::Stale)?;
        let mut inode = lower.face(&root, &stat, InodeId::ROOT)?;
        lower.dress(&mut inode, &root);
        Ok(Sight::new(Version::of_root(inode), Some(lower)))
    }

    fn differences(&self, a: &Sight, b: &Sight, pair: &Pair) -> Result<Vec<Difference>> {
        let paths = |sight: &Sight, node: &Option<Node>| match node {
            Some(node) if node.ino == InodeId::ROOT => Ok(vec![Arc::from([])]),
            Some(node) => sight.paths(node),
            None => Ok(Vec::new()),
        };
        let (old, new) = (paths(a, &pair.a)?, paths(b, &pair.b)?);
        let (content, xattrs) = match (&pair.a, &pair.b) {
            (Some(a), Some(b)) => (!self.is_same_body(&a.inode, &b.inode)?, a.inode.xattrs != b.inode.xattrs),
            _ => (true, true),
        };
        let face = |node: &Option<Node>| node.as_ref().map(|node| Face::of(&node.inode));
        let (before, after) = (face(&pair.a), face(&pair.b));
        let of = |path: &Arc<[u8]>, from: Option<Arc<[u8]>>, status, old, new| Difference {
            path: path.clone(),
            from,
            status,
            old,
            new,
            content,
            xattrs,
        };
        let (was, is): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
        let (mut gone, added) = (old.iter().filter(|path| !is.contains(path)), new.iter());
        let mut found = Vec::new();
        for path in added {
            if was.contains(path) {
                let differs =
                    |a: &Face, b: &Face| (a.kind, a.mode, a.uid, a.gid) != (b.kind, b.mode, b.uid, b.gid);
                let is_changed = before.zip(after).is_some_and(|(a, b)| differs(&a, &b)) || content || xattrs;
                let kinds = before.zip(after).is_some_and(|(a, b)| a.kind != b.kind);
                let status = if kinds { DiffStatus::TypeChanged } else { DiffStatus::Modified };
                found.extend(is_changed.then(|| of(path, None, status, before, after)));
            } else if let Some(from) = gone.next() {
                found.push(of(path, Some(from.clone()), DiffStatus::Renamed, before, after));
            } else {
                found.push(of(path, None, DiffStatus::Added, None, after));
            }
        }
        found.extend(gone.map(|path| of(path, None, DiffStatus::Deleted, before, None)));
        Ok(found)
    }
}

/// What was taken away and what was put at one path is one that changed.
fn join_types(differences: BTreeMap<(Arc<[u8]>, bool), Difference>) -> Vec<Difference> {
    let mut joined: Vec<Difference> = Vec::new();
    for (_, next) in differences {
        match joined.last_mut() {
            Some(last)
                if last.path == next.path
                    && last.status == DiffStatus::Deleted
                    && next.status == DiffStatus::Added =>
            {
                last.status = DiffStatus::TypeChanged;
                last.new = next.new;
            }
            _ => joined.push(next),
        }
    }
    joined
}

/// What a name or an id means.
pub(super) fn tree_called(catalog: &Catalog, of: &str) -> Result<Tree> {
    match (catalog.snapshot(of), catalog.branch(of)) {
        (Ok((_, snapshot)), Err(_)) => Ok(Tree::Snapshot(snapshot.clone())),
        (Err(_), Ok((_, branch))) => Ok(Tree::Branch(branch.clone())),
        (Ok((snapshot, _)), Ok((branch, _))) => Err(FsError::BadName(format!(
            "{of:?} is the name of snapshot {} and of branch {}; use the id",
            snapshot.id, branch.id
        ))),
        (Err(_), Err(_)) => Err(FsError::UnknownVersion(format!("there is no snapshot or branch {of:?}"))),
    }
}
