//! What a version changes of the directory that it lies over.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::store::{Content, Identity};
use crate::tree::{Directory, Inode, Origin, Version};
use crate::types::{InodeId, Name, SnapshotId, Timestamp};

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// There is a file, a link or something special that is not what is below.
    Put,
    /// There is a directory of which nothing is below.
    Tree,
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
    /// Which file is below there, and when it had changed last, as far as the version relies on that.
    pub seen: Option<(Identity, Timestamp)>,
    /// What is below there and was changed later is not what the version knows of.
    pub not_after: Timestamp,
}

struct Walk<'a> {
    version: &'a Version,
    since: Option<Timestamp>,
    found: BTreeMap<Vec<u8>, Change>,
}

impl FsCore {
    /// All changes of a snapshot, by id or name, in the order of their paths. Looks at all that it has itself: for rare
    /// questions.
    ///
    /// # Errors
    /// `UnknownVersion`, `Refused` when the volume lies over no directory.
    pub fn changes(&self, snapshot: &str) -> Result<Vec<Change>> {
        let id: SnapshotId = self.find_snapshot(snapshot)?.id;
        let version = self.catalog.read().snapshot(&id.to_string())?.1.version.clone();
        let origin = version.lower().cloned().ok_or_else(|| {
            FsError::Refused("this volume lies over no directory: use export to write it elsewhere".into())
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
        let not_after = self.since.unwrap_or(inode.meta.times.ctime);
        self.entries(directory, path, not_after)
    }

    fn entries(&mut self, directory: &Directory, path: &[u8], not_after: Timestamp) -> Result<()> {
        for (name, entry) in directory.iter_any() {
            let path = below(path, name);
            let put = |kind, seen| Change { path: path.clone(), kind, seen, not_after };
            if entry.is_whiteout() {
                self.found.insert(path.clone(), put(ChangeKind::Gone, None));
                continue;
            }
            let Some(inode) = self.version.get(entry.ino()) else { continue };
            let origin = inode.lower.as_deref().filter(|origin| *origin.path == *path);
            let seen = origin.and_then(|origin| Some((origin.identity, origin.since?)));
            let change = match (origin, inode.directory().is_some()) {
                (Some(origin), true) => {
                    self.directory(entry.ino(), &path)?;
                    is_changed(inode, origin).then(|| put(ChangeKind::Attributes, seen))
                }
                (None, true) => Some(put(ChangeKind::Tree, None)),
                (Some(origin), false) => is_changed(inode, origin).then(|| put(ChangeKind::Put, seen)),
                (None, false) => Some(put(ChangeKind::Put, None)),
            };
            self.found.extend(change.map(|change| (path.clone(), change)));
        }
        Ok(())
    }
}

/// Is a file another than when it was copied up?
fn is_changed(inode: &Inode, origin: &Origin) -> bool {
    let is_copied = !matches!(inode.content(), Some(Content::Lower(_)) | None);
    is_copied || origin.since != Some(inode.meta.times.ctime)
}

fn below(path: &[u8], name: &Name) -> Vec<u8> {
    match path {
        [] => name.as_bytes().to_vec(),
        path => [path, name.as_bytes()].join(&b'/'),
    }
}
