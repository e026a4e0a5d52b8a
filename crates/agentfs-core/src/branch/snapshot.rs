//! A snapshot: a version that never changes.

use crate::error::{FsError, Result};
use crate::tree::{Inode, Version};
use crate::types::{InodeId, SnapshotId};

/// An immutable state of a branch.
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The tree.
    pub version: Version,
}

impl Snapshot {
    /// Reads an inode.
    ///
    /// # Errors
    /// `Stale` when there is none.
    pub fn with_inode<T>(&self, ino: InodeId, f: impl FnOnce(&Inode) -> T) -> Result<T> {
        self.version.get(ino).map(|inode| f(inode)).ok_or(FsError::Stale)
    }
}
