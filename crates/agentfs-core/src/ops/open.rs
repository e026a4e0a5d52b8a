//! `open` and `release` of regular files.

use std::sync::atomic::Ordering;

use super::CreateMode;
use crate::branch::Tree;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{Handle, OpenFile, Source};
use crate::types::{Attr, Caller, FileKind, HandleId, InodeId, Name, ViewId};

/// What a handle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading.
    Read,
    /// Writing too.
    Write,
    /// Writing, from an empty file on (`O_TRUNC`).
    Truncate,
}

impl FsCore {
    /// Opens a regular file. The kernel has checked that the caller may.
    ///
    /// # Errors
    /// `ReadOnly` to write in a snapshot, `TooManyHandles`, `IsDirectory`, `InvalidArgument` when it is no regular
    /// file, `Stale`; with `Truncate` those of `setattr`.
    pub fn open(&self, view: ViewId, ino: InodeId, mode: OpenMode, caller: Caller) -> Result<HandleId> {
        let tree = self.views.get(view)?;
        match tree.with_inode(ino, |inode| inode.kind())? {
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IsDirectory),
            _ => return Err(FsError::InvalidArgument("not a regular file")),
        }
        let writable = mode != OpenMode::Read;
        if writable {
            tree.branch()?;
        }
        self.handles.reserve()?;
        if mode == OpenMode::Truncate {
            self.truncate(view, ino, 0, caller).inspect_err(|_| self.handles.unreserve())?;
        }
        Ok(self.add_handle(&tree, view, ino, writable))
    }

    /// Makes a regular file with the permissions `mode.0` and opens it.
    ///
    /// # Errors
    /// Those of `create`, and `TooManyHandles`; no file was made then.
    pub fn create_open(
        &self,
        view: ViewId,
        dir: InodeId,
        name: &Name,
        mode: (u16, OpenMode),
        caller: Caller,
    ) -> Result<(Attr, HandleId)> {
        self.handles.reserve()?;
        let what = CreateMode { kind: FileKind::File, mode: mode.0, rdev: 0 };
        let made =
            self.views.get(view).and_then(|tree| Ok((tree, self.create(view, dir, name, what, caller)?)));
        let (tree, attr) = made.inspect_err(|_| self.handles.unreserve())?;
        Ok((attr, self.add_handle(&tree, view, attr.ino, mode.1 != OpenMode::Read)))
    }

    /// A handle for which room was reserved.
    fn add_handle(&self, tree: &Tree, view: ViewId, ino: InodeId, writable: bool) -> HandleId {
        let file = self.open_files.acquire(tree, view, ino);
        file.writers.fetch_add(u32::from(writable), Ordering::Relaxed);
        self.handles.insert(Handle { file, writable })
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// `BadHandle` when it is not open.
    pub fn release(&self, handle: HandleId) -> Result<()> {
        let handle = self.handles.remove(handle)?;
        let file = &handle.file;
        if handle.writable {
            file.writers.fetch_sub(1, Ordering::Relaxed);
            self.settle_blocks(file);
        }
        self.let_go(file);
        Ok(())
    }

    /// One user less of an open file; an orphan goes with the last.
    pub(super) fn let_go(&self, file: &OpenFile) {
        if self.open_files.release(file)
            && let Ok(branch) = file.tree.branch()
        {
            self.drop_if_unused(branch, file.ino);
        }
    }

    /// Keeps how much space a file holds now that a writer is through with it, and its size and times with it.
    fn settle_blocks(&self, file: &OpenFile) {
        let blocks = match &*file.source.read() {
            Source::Object(_, object) => object.blocks().ok(),
            Source::Hole => Some(0),
            Source::Unknown => return, // never written through this open file
        };
        let (Some(blocks), Ok(branch)) = (blocks, file.tree.branch()) else { return };
        let settled = self.change_branch(branch, |draft| {
            draft.meta(file.ino)?.blocks = blocks;
            Ok(())
        });
        if let Err(error) = settled {
            tracing::debug!(%error, "a file was closed after its branch");
        }
    }
}
