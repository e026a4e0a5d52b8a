//! `unlink` and `rmdir`.

use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::Entry;
use crate::types::{FileKind, InodeId, Name, Timestamp, ViewId};

impl FsCore {
    /// Removes a name that is not a directory's. A file without names lives until nobody has it open.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `NotDirectory`, `ReadOnly`, `Stale`.
    pub fn unlink(&self, view: ViewId, dir: InodeId, name: &Name) -> Result<()> {
        self.change_names(view, &[(dir, name)], |draft| match draft.existing(dir, name)? {
            entry if entry.kind() == FileKind::Directory => Err(FsError::IsDirectory),
            entry => plan(draft, dir, name, entry),
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `NotEmpty`, `NotFound`, `NotDirectory`, `ReadOnly`, `Stale`.
    pub fn rmdir(&self, view: ViewId, dir: InodeId, name: &Name) -> Result<()> {
        self.change_names(view, &[(dir, name)], |draft| {
            let entry = draft.existing(dir, name)?;
            check_empty(draft, entry)?;
            plan(draft, dir, name, entry)
        })
    }
}

fn plan(draft: &mut Draft<'_>, dir: InodeId, name: &Name, entry: Entry) -> Result<()> {
    let now = Timestamp::now();
    draft.unlink(dir, name, entry, now)?;
    draft.release(entry, now)
}

/// A directory must be empty to be removed or replaced.
pub(super) fn check_empty(draft: &Draft<'_>, entry: Entry) -> Result<()> {
    let inode = draft.inode(entry.ino())?;
    match inode.directory() {
        None => Err(FsError::NotDirectory),
        Some(directory) if directory.is_empty() && !draft.is_full_below(entry.ino()) => Ok(()),
        Some(_) => Err(FsError::NotEmpty),
    }
}
