//! Entering the trees of a volume: which view index shows a branch or snapshot, and which of them a view shows.

use crate::branch::{BranchInfo, SnapshotInfo, Tree};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::types::{BranchId, InodeId, SnapshotId, ViewId};

/// What a view shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A branch.
    Branch(BranchInfo),
    /// A snapshot.
    Snapshot(SnapshotInfo),
}

impl FsCore {
    /// Enters a branch: the kernel is told of `node` in its view once more.
    ///
    /// # Errors
    /// `UnknownVersion`, `Stale` when it is deleted meanwhile.
    pub fn enter_branch(&self, id: BranchId, node: InodeId) -> Result<ViewId> {
        let view = self.catalog.read().branch(&id.to_string())?.0.view;
        self.views.enter_branch(view, id, || self.remember(view, node))?;
        Ok(view)
    }

    /// Enters a snapshot: the kernel is told of `node` in its view once more, and the snapshot has that view until
    /// the kernel forgets all nodes of it.
    ///
    /// # Errors
    /// `UnknownVersion`, `LimitReached` when all view indexes are in use.
    pub fn enter_snapshot(&self, id: SnapshotId, node: InodeId) -> Result<ViewId> {
        let snapshot = self.catalog.read().snapshot(&id.to_string())?.1.clone();
        self.views.enter(&snapshot, |view| self.remember(view, node))
    }

    /// What a view shows.
    ///
    /// # Errors
    /// `Stale` when it shows nothing.
    pub fn shown(&self, view: ViewId) -> Result<Shown> {
        let tree = self.views.get(view)?;
        let catalog = self.catalog.read();
        match tree {
            Tree::Branch(branch) => Ok(Shown::Branch(catalog.branch(&branch.id.to_string())?.0.clone())),
            Tree::Snapshot(snapshot) => {
                Ok(Shown::Snapshot(catalog.snapshot(&snapshot.id.to_string())?.0.clone()))
            }
        }
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
