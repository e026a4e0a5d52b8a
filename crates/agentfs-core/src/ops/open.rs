//! `open` and `release` of regular files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::create::Permissions;
use crate::branch::Tree;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{Handle, OpenFile, Source};
use crate::store::Content;
use crate::tree::Body;
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
    /// Writing, some of which the caller may keep for a while before it tells: what it maps to write.
    WriteCached,
    /// The same, from an empty file on.
    TruncateCached,
}

impl OpenMode {
    fn is_writable(self) -> bool {
        self != OpenMode::Read
    }

    fn truncates(self) -> bool {
        matches!(self, OpenMode::Truncate | OpenMode::TruncateCached)
    }

    fn is_cached(self) -> bool {
        matches!(self, OpenMode::WriteCached | OpenMode::TruncateCached)
    }
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
        if mode.is_writable() {
            tree.branch()?;
            self.copy_up(view, ino)?;
        }
        self.handles.reserve()?;
        let file = self.hold(&tree, view, ino, mode);
        let is_below = self.lower.is_some() && !mode.truncates() && ino.is_lower();
        if is_below && matches!(tree.content(ino), Ok(Content::Lower(_))) {
            // Now, not with the first read: others may have put another in its place then.
            self.source_to_read(&file).map(drop).inspect_err(|_| self.give_up(&file, mode))?;
        }
        if mode.truncates() {
            self.truncate(view, ino, 0, caller).inspect_err(|_| self.give_up(&file, mode))?;
        }
        Ok(self.handles.insert(Handle::new(file, mode.is_writable(), mode.is_cached())))
    }

    /// Makes a regular file, with these permission bits but for the umask (see [`CreateMode`]), and opens it.
    ///
    /// [`CreateMode`]: crate::CreateMode
    ///
    /// # Errors
    /// Those of `create`, and `TooManyHandles`; no file was made then.
    pub fn create_open(
        &self,
        view: ViewId,
        dir: InodeId,
        name: &Name,
        (permissions, umask): (u16, u16),
        mode: OpenMode,
        caller: Caller,
    ) -> Result<(Attr, HandleId)> {
        self.handles.reserve()?;
        let made = self.views.get(view).and_then(|tree| Ok((tree, self.fresh_inode()?)));
        let (tree, ino) = made.inspect_err(|_| self.handles.unreserve())?;
        let file = self.hold(&tree, view, ino, mode);
        let body = Body::File(Content::Hole);
        let attr = {
            let permissions = Permissions { mode: permissions, umask };
            self.add_inode(view, (dir, name), ino, permissions, body, caller)
        };
        let attr = attr.inspect_err(|_| self.give_up(&file, mode))?;
        *file.source.write() = Source::Hole;
        Ok((attr, self.handles.insert(Handle::new(file, mode.is_writable(), mode.is_cached()))))
    }

    /// The open file of an inode with a user, and maybe a writer, more.
    fn hold(&self, tree: &Tree, view: ViewId, ino: InodeId, mode: OpenMode) -> Arc<OpenFile> {
        let file = self.open_files.acquire(tree, view, ino);
        file.writers.fetch_add(u32::from(mode.is_writable()), Ordering::Relaxed);
        file.cached_writers.fetch_add(u32::from(mode.is_cached()), Ordering::Relaxed);
        file
    }

    /// Takes back what was held for a handle that is not given out.
    fn give_up(&self, file: &OpenFile, mode: OpenMode) {
        file.writers.fetch_sub(u32::from(mode.is_writable()), Ordering::Relaxed);
        file.cached_writers.fetch_sub(u32::from(mode.is_cached()), Ordering::Relaxed);
        self.handles.unreserve();
        self.let_go(file);
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// `BadHandle` when it is not open.
    pub fn release(&self, handle: HandleId) -> Result<()> {
        let handle = self.handles.remove(handle)?;
        let file = &handle.file;
        self.end_direct(&handle);
        file.cached_writers.fetch_sub(u32::from(handle.is_cached), Ordering::Relaxed);
        if handle.writable {
            file.writers.fetch_sub(1, Ordering::Relaxed);
            self.settle(file);
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

    /// As [`FsCore::settle`], of a file that nobody has open to write.
    pub(super) fn settle_unused(&self, file: &OpenFile) {
        if file.writers.load(Ordering::Relaxed) == 0 {
            self.settle(file);
        }
    }

    /// Records the size and times of a file that is not written in place any more, and the space it holds.
    pub(super) fn settle(&self, file: &OpenFile) {
        self.settle_when(file, |file| file.writers.load(Ordering::Relaxed) == 0);
    }

    /// As [`FsCore::settle`], of all files that are open yet: who closed them may not have been told of. What is written
    /// through the daemon afterwards marks its file anew; what is written past it is asked for by the next mount.
    pub(crate) fn settle_all(&self) {
        for file in self.open_files.which(|file| file.dirty.load(Ordering::Relaxed)) {
            self.settle_when(&file, |file| !file.is_written_directly());
        }
    }

    fn settle_when(&self, file: &OpenFile, is_last: impl Fn(&OpenFile) -> bool) {
        // Whoever writes waits for this, and marks the file anew.
        let source = file.source.read();
        let Ok(branch) = file.tree.branch() else { return };
        if !file.dirty.load(Ordering::Relaxed) {
            return;
        }
        // One whose size is not known is asked for by the next mount.
        let last = is_last(file) && !file.is_unknown.load(Ordering::Relaxed);
        let blocks = if let Source::Object(_, object) = &*source { object.stat().ok() } else { None };
        let settled = self.change_branch(branch, |draft| {
            let meta = draft.meta(file.ino)?;
            meta.blocks = blocks.map_or(meta.blocks, |stat| stat.blocks);
            if last {
                draft.set_dirty(file.ino, false);
            }
            Ok(())
        });
        match settled {
            // Another that settles it meanwhile may have been the last: it stays clean then.
            Ok(()) if last => file.dirty.store(false, Ordering::Relaxed),
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "a file was closed after its branch, or the log is full"),
        }
    }
}
