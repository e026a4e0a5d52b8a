//! `link`: another name for a file.

use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::Entry;
use crate::types::{Attr, FileKind, InodeId, Name, Timestamp, ViewId};

impl FsCore {
    /// Gives the file `ino` another name.
    ///
    /// # Errors
    /// `NotPermitted` for a directory, `Exists`, `NotFound` when the file has no name left or the directory was
    /// removed, `TooManyLinks`, `NotDirectory`, `ReadOnly`, `Stale`.
    pub fn link(&self, view: ViewId, ino: InodeId, dir: InodeId, name: &Name) -> Result<Attr> {
        self.refresh_inode(view, ino)?;
        self.copy_up(view, ino)?;
        self.change_names(view, &[(dir, name)], |draft| plan(draft, ino, dir, name))
    }
}

fn plan(draft: &mut Draft<'_>, ino: InodeId, dir: InodeId, name: &Name) -> Result<Attr> {
    let inode = draft.inode(ino)?;
    if inode.kind() == FileKind::Directory {
        return Err(FsError::NotPermitted);
    }
    if inode.meta.nlink == 0 {
        return Err(FsError::NotFound);
    }
    if draft.entry(dir, name)?.is_some() {
        return Err(FsError::Exists);
    }
    let now = Timestamp::now();
    draft.link(dir, name, Entry::new(ino, inode.kind()), now)?;
    let meta = draft.meta(ino)?;
    meta.nlink = meta.nlink.checked_add(1).ok_or(FsError::TooManyLinks)?;
    meta.times.ctime = now;
    Ok(crate::tree::Inode { meta: *meta, ..(**inode).clone() }.attr(ino))
}
