//! What a version changes of the directory that it lies over.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::branch::Tree;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::{Directory, Inode, Origin, Version};
use crate::types::{InodeId, Name, Timestamp};

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// There is a file, a link or something special that is not what is below.
    Put,
    /// There is a directory of which nothing is below.
    Tree,
    /// A file in such a directory of which it is known what was below.
    Inner,
    /// There is the directory that is below, with other attributes.
    Attributes,
    /// There is nothing.
    Gone,
}

/// A path at which a version differs from the directory below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The path, from the root on.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: ChangeKind,
    /// What stands for the file below that the version relies on there, where that is known: see [`crate::stamp`].
    pub seen: Option<u64>,
    /// What is below there and was changed later is not what the version knows of.
    pub not_after: Timestamp,
}

struct Walk<'a> {
    version: &'a Version,
    since: Option<Timestamp>,
    found: BTreeMap<Vec<u8>, Change>,
}

impl FsCore {
    /// All changes of a branch or a snapshot, by id or name, in the order of their paths. Looks at all that it has itself: for
    /// rare questions.
    ///
    /// # Errors
    /// `UnknownVersion`, `Refused` when the volume lies over no directory.
    pub fn changes(&self, of: &str) -> Result<Vec<Change>> {
        let tree = {
            let catalog = self.catalog.read();
            match catalog.branch(of) {
                Ok((_, branch)) => Tree::Branch(branch.clone()),
                Err(FsError::UnknownVersion(_)) => Tree::Snapshot(catalog.snapshot(of)?.1.clone()),
                Err(error) => return Err(error),
            }
        };
        let version = tree.read(Version::clone)?;
        let origin = version.lower().cloned().ok_or_else(|| {
            FsError::Refused("it lies over no directory, or has all of it itself (eager): use export to write it elsewhere".into())
        })?;
        let mut walk = Walk { version: &version, since: origin.since, found: BTreeMap::new() };
        walk.directory(InodeId::ROOT, &[])?;
        Ok(walk.found.into_values().collect())
    }

    /// The directory that the volume lies over, as a descriptor of this process.
    pub fn lower_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.lower.as_ref().map(|lower| lower.descriptor())
    }
}

impl Walk<'_> {
    /// A directory that is below at the same path.
    fn directory(&mut self, ino: InodeId, path: &[u8]) -> Result<()> {
        let inode: &Arc<Inode> = self.version.get(ino).ok_or(FsError::Stale)?;
        let directory = inode.directory().ok_or(FsError::NotDirectory)?;
        // What it has itself was made before it was changed last.
        let changed = inode.meta.times.ctime;
        let not_after = self.since.map_or(changed, |since| since.min(changed));
        self.entries(directory, path, not_after)
    }

    fn entries(&mut self, directory: &Directory, path: &[u8], not_after: Timestamp) -> Result<()> {
        for (name, entry) in directory.iter_any() {
            let path = below(path, name);
            let change = |kind, seen| Change { path: path.clone(), kind, seen, not_after };
            if entry.is_whiteout() {
                // That there was nothing is no change.
                let gone = entry.stamp().map(|stamp| change(ChangeKind::Gone, Some(stamp)));
                self.found.extend(gone.map(|gone| (path.clone(), gone)));
                continue;
            }
            let Some(inode) = self.version.get(entry.ino()) else { continue };
            let origin = inode.lower.as_deref().filter(|origin| *origin.path == *path);
            let seen = origin.map(|origin| origin.base);
            let found = match (origin, inode.directory()) {
                (Some(origin), Some(_)) => {
                    self.directory(entry.ino(), &path)?;
                    (inode.attributes() != origin.base).then(|| change(ChangeKind::Attributes, None))
                }
                (None, Some(directory)) => {
                    self.inner(directory, &path, not_after);
                    Some(change(ChangeKind::Tree, None))
                }
                (Some(origin), None) => is_changed(inode, origin).then(|| change(ChangeKind::Put, seen)),
                (None, None) => Some(change(ChangeKind::Put, None)),
            };
            self.found.extend(found.map(|found| (path.clone(), found)));
        }
        Ok(())
    }

    /// In a directory of which nothing is below, what is known all the same.
    fn inner(&mut self, directory: &Directory, path: &[u8], not_after: Timestamp) {
        for (name, entry) in directory.iter() {
            let (path, Some(inode)) = (below(path, name), self.version.get(entry.ino())) else { continue };
            if let Some(directory) = inode.directory() {
                self.inner(directory, &path, not_after);
            } else if let Some(origin) = inode.lower.as_ref().filter(|origin| *origin.path == *path) {
                let (kind, seen) = (ChangeKind::Inner, Some(origin.base));
                self.found.insert(path.clone(), Change { path, kind, seen, not_after });
            }
        }
    }
}

/// Is a file another than when it was copied up, or written out last?
fn is_changed(inode: &Inode, origin: &Origin) -> bool {
    origin.since != Some(inode.meta.times.ctime)
}

fn below(path: &[u8], name: &Name) -> Vec<u8> {
    match path {
        [] => name.as_bytes().to_vec(),
        path => [path, name.as_bytes()].join(&b'/'),
    }
}
