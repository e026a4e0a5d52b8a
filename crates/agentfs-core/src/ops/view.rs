//! Entering the trees of a volume: which view index shows a branch or snapshot.

use crate::branch::Tree;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::types::{Attr, BranchId, InodeId, SnapshotId, ViewId};

/// A view of a snapshot or branch, and its root directory, which counts as remembered once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Its index.
    pub view: ViewId,
    /// Its root directory.
    pub root: Attr,
}

impl FsCore {
    /// Enters a branch.
    ///
    /// # Errors
    /// `UnknownVersion`, `Stale` when it is deleted meanwhile.
    pub fn enter_branch(&self, id: BranchId) -> Result<Entered> {
        let view = self.catalog.read().branch(&id.to_string())?.0.view;
        let root = self.getattr(view, InodeId::ROOT)?;
        self.remember(view, InodeId::ROOT);
        Ok(Entered { view, root })
    }

    /// Enters a snapshot: it has a view index until the kernel forgets all its nodes.
    ///
    /// # Errors
    /// `UnknownVersion`, `LimitReached` when all view indexes are in use.
    pub fn enter_snapshot(&self, id: SnapshotId) -> Result<Entered> {
        let snapshot = self.catalog.read().snapshot(&id.to_string())?.1.clone();
        let view = self.views.enter(&snapshot, |view| self.remember(view, InodeId::ROOT))?;
        let root = snapshot.with_inode(InodeId::ROOT, |inode| inode.attr(InodeId::ROOT))?;
        Ok(Entered { view, root })
    }

    /// The branch a view shows.
    ///
    /// # Errors
    /// `ReadOnly` when it shows a snapshot, `Stale` when it shows nothing.
    pub fn branch_of(&self, view: ViewId) -> Result<BranchId> {
        match self.views.get(view)? {
            Tree::Branch(branch) => Ok(branch.id),
            Tree::Snapshot(_) => Err(FsError::ReadOnly),
        }
    }
}
