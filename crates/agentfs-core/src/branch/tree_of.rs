//! What an operation works on: a branch or a snapshot, read alike.

use std::sync::Arc;

use super::branch::regular_content;
use super::{Branch, Lower, Since, Snapshot};
use crate::error::{FsError, Result};
use crate::store::Content;
use crate::tree::{Inode, Version};
use crate::types::InodeId;

/// A tree that can be looked at.
#[derive(Clone)]
pub enum Tree {
    /// It changes.
    Branch(Arc<Branch>),
    /// It does not.
    Snapshot(Arc<Snapshot>),
}

impl Tree {
    /// Reads the version.
    ///
    /// # Errors
    /// What the store answers, of a snapshot that nobody looked at for long.
    pub fn read<T>(&self, f: impl FnOnce(&Version) -> T) -> Result<T> {
        match self {
            Tree::Branch(branch) => Ok(branch.read(f)),
            Tree::Snapshot(snapshot) => snapshot.read(f),
        }
    }

    /// An inode that the version has itself, and whether it has lost its name. (Where there is a lower directory, no snapshot is
    /// on disk alone.)
    pub fn own_inode(&self, ino: InodeId) -> Option<(Arc<Inode>, bool)> {
        match self {
            Tree::Branch(branch) => branch.own_inode(ino),
            Tree::Snapshot(snapshot) => {
                let inode = snapshot.read(|version| version.get(ino).cloned()).ok()??;
                Some((inode, false))
            }
        }
    }

    /// The lower directory that the version lies over, and the moment that it relies on.
    pub fn lower(&self) -> Option<(&Lower, Since)> {
        let lower = match self {
            Tree::Branch(branch) => &branch.lower,
            Tree::Snapshot(snapshot) => &snapshot.lower,
        };
        let lower = lower.as_deref()?;
        let since = self.read(|version| version.lower().map(|origin| origin.since)).ok()??;
        Some((lower, since))
    }

    /// Reads an inode, or one of the lower directory, without its extended attributes.
    ///
    /// # Errors
    /// `Stale` when there is none, `Changed` as [`Lower::inode`].
    pub fn with_inode<T>(&self, ino: InodeId, f: impl FnOnce(&Inode) -> T) -> Result<T> {
        match self {
            Tree::Branch(branch) => branch.with_inode(ino, f),
            Tree::Snapshot(snapshot) => snapshot.with_inode(ino, f),
        }
    }

    /// The bytes of a regular file.
    ///
    /// # Errors
    /// `Stale` when it is gone, `IsDirectory` and `InvalidArgument` when it is no regular file.
    pub fn content(&self, ino: InodeId) -> Result<Content> {
        self.with_inode(ino, regular_content)?
    }

    /// The branch, to change it.
    ///
    /// # Errors
    /// `ReadOnly` when it is a snapshot.
    pub fn branch(&self) -> Result<&Arc<Branch>> {
        match self {
            Tree::Branch(branch) => Ok(branch),
            Tree::Snapshot(_) => Err(FsError::ReadOnly),
        }
    }
}
