//! Changing a file's size, by `truncate` or `O_TRUNC`.

use super::privileges::Strip;
use super::write::{MAX_SIZE, note_change};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::store::Content;
use crate::types::{Caller, InodeId, ViewId};

impl FsCore {
    /// Cuts or extends a regular file to `size` bytes; what is added is a hole.
    pub(super) fn truncate(&self, view: ViewId, ino: InodeId, size: u64, caller: Caller) -> Result<()> {
        if size > MAX_SIZE {
            return Err(FsError::FileTooLarge);
        }
        let tree = self.views.get(view)?;
        tree.branch()?;
        self.copy_up(view, ino)?;
        let file = self.open_files.acquire(&tree, view, ino);
        let done = self.with_own_direct(&file, || self.truncate_open(&file, size, Strip::by(caller)));
        self.settle_unused(&file);
        self.let_go(&file);
        done
    }

    pub(super) fn truncate_open(&self, file: &OpenFile, size: u64, strip: Strip) -> Result<()> {
        let mut source = file.source.write();
        self.find_source(file, &mut source)?;
        match file.tree.content(file.ino)? {
            Content::Hole => self.record_size(file, size, strip),
            // What the kernel has open stays the file's.
            Content::Packed(_) | Content::Whole(_) | Content::Lower(_) | Content::Layered(_)
                if size == 0 && !file.is_direct() =>
            {
                self.empty(file, strip)?;
                *source = Source::Hole;
                Ok(())
            }
            Content::Packed(_) | Content::Lower(_)
                if self.resize_small(file, &mut source, size, strip)? =>
            {
                Ok(())
            }
            Content::Layered(_) => self.resize_layered(file, &mut source, size, strip),
            Content::Whole(_) if self.is_for_layers(file, &source, size)? => {
                self.resize_layered(file, &mut source, size, strip)
            }
            Content::Packed(_) | Content::Whole(_) | Content::Lower(_) => {
                self.resize_object(file, &mut source, size, strip)
            }
        }
    }

    fn resize_object(&self, file: &OpenFile, source: &mut Source, size: u64, strip: Strip) -> Result<()> {
        self.write_private(file, source, size, |branch, (backing, object), _| {
            backing.is_prepared_nowhere();
            // A cut is recorded before it is made, so that what fails leaves no file longer than its bytes.
            let cuts = branch.with_inode(file.ino, |inode| inode.meta.size)? > size;
            if !cuts {
                self.with_room(|| object.set_len(size))?;
            }
            self.record_size(file, size, strip)?;
            if cuts {
                object.set_len(size)?;
            }
            let blocks = object.stat()?.blocks;
            self.change_branch(branch, |draft| {
                draft.meta(file.ino)?.blocks = blocks;
                Ok(())
            })
        })
    }

    /// Gives the file another size, in its attributes; without an object that is all there is.
    fn record_size(&self, file: &OpenFile, size: u64, strip: Strip) -> Result<()> {
        let branch = file.tree.branch()?;
        self.change_branch(branch, |draft| {
            note_change(draft, file.ino, |_| size, strip)?;
            draft.meta(file.ino)?;
            Ok(())
        })
    }

    /// Content that is cut to nothing is let go of.
    fn empty(&self, file: &OpenFile, strip: Strip) -> Result<()> {
        let branch = file.tree.branch()?;
        self.change_branch(branch, |draft| {
            note_change(draft, file.ino, |_| 0, strip)?;
            draft.set_content(file.ino, Content::Hole);
            draft.meta(file.ino)?.blocks = 0;
            Ok(())
        })
    }
}
