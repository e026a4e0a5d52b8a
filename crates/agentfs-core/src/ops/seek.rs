//! `SEEK_DATA` and `SEEK_HOLE`.

use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::Source;
use crate::store::{ObjectFile, Seek};
use crate::types::HandleId;

impl FsCore {
    /// The next data or hole at or after `offset`; the end of the file counts as a hole.
    ///
    /// # Errors
    /// `NoData` past the end, or when only a hole follows; `BadHandle`, and what the store answers.
    pub fn seek(&self, handle: HandleId, what: Seek, offset: u64) -> Result<u64> {
        let handle = self.handles.get(handle)?;
        let file = &handle.file;
        self.refresh(file)?;
        let source = self.source_to_read(file)?;
        let size = file.tree.with_inode(file.ino, |inode| inode.meta.size)?;
        if offset >= size {
            return Err(FsError::NoData);
        }
        // What was only stored through a mapping, or is kept to be written later, lies where no hole may be told.
        match (&*source, what) {
            (_, Seek::Data) if file.may_have_unwritten() => Ok(offset),
            (_, Seek::Hole) if file.may_have_unwritten() => Ok(size),
            (Source::Object(_, object) | Source::Lower(_, object), Seek::Data) => {
                object.seek(what, offset)?.filter(|at| *at < size).ok_or(FsError::NoData)
            }
            (Source::Object(_, object) | Source::Lower(_, object), Seek::Hole) => {
                Ok(object.seek(what, offset)?.unwrap_or(offset).min(size))
            }
            (Source::Layered(layered), Seek::Data) => {
                self.layered_file(file, layered)?.seek(what, offset)?.ok_or(FsError::NoData)
            }
            (Source::Layered(layered), Seek::Hole) => {
                Ok(self.layered_file(file, layered)?.seek(what, offset)?.unwrap_or(size))
            }
            (Source::Small(_), Seek::Data) => Ok(offset),
            (Source::Small(_), Seek::Hole) => Ok(size),
            (Source::Hole | Source::Unknown, Seek::Hole) => Ok(offset),
            (Source::Hole | Source::Unknown, Seek::Data) => Err(FsError::NoData),
        }
    }
}
