//! A snapshot: a version that never changes.

use std::sync::Arc;

use super::Lower;
use super::branch::below;
use crate::error::Result;
use crate::tree::{Inode, Version};
use crate::types::{InodeId, SnapshotId};

/// An immutable state of a branch.
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The tree.
    pub version: Version,
    /// What that may lie over.
    pub lower: Option<Arc<Lower>>,
}

impl Snapshot {
    /// Reads an inode, or one of the lower directory, without its extended attributes.
    ///
    /// # Errors
    /// `Stale` when there is none, `Changed` as [`Lower::inode`].
    pub fn with_inode<T>(&self, ino: InodeId, f: impl FnOnce(&Inode) -> T) -> Result<T> {
        match self.version.get(ino) {
            Some(inode) => Ok(f(inode)),
            None => below(self.lower.as_deref(), self.version.lower().map(|origin| &**origin), ino)
                .map(|inode| f(&inode)),
        }
    }
}
