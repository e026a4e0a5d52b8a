//! `symlink` and `readlink`. A target is any text: it is the kernel that follows it.

use std::sync::Arc;

use super::create::Permissions;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::Body;
use crate::types::{Attr, Caller, InodeId, Name, ViewId};

/// Longest target in bytes (`PATH_MAX` without its NUL).
const MAX_TARGET: usize = 4095;

impl FsCore {
    /// Makes a symbolic link with this target.
    ///
    /// # Errors
    /// `NameTooLong` for a target past 4095 bytes, and those of `create`.
    pub fn symlink(
        &self,
        view: ViewId,
        dir: InodeId,
        name: &Name,
        target: &[u8],
        who: Caller,
    ) -> Result<Attr> {
        match target.len() {
            0 => Err(FsError::NotFound),
            1..=MAX_TARGET => {
                let body = Body::Symlink(target.into());
                self.add_inode(view, (dir, name), self.fresh_inode()?, Permissions::ALL, body, who)
            }
            _ => Err(FsError::NameTooLong),
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none, `Stale`.
    pub fn readlink(&self, view: ViewId, ino: InodeId) -> Result<Arc<[u8]>> {
        self.views.get(view)?.with_inode(ino, |inode| match &inode.body {
            Body::Symlink(target) => Ok(target.clone()),
            Body::File(_) | Body::Directory(_) | Body::Special(..) => {
                Err(FsError::InvalidArgument("not a symbolic link"))
            }
        })?
    }
}
