//! `write`.

use super::privileges::{self, Strip};
use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::OpenFile;
use crate::store::ObjectFile;
use crate::types::{HandleId, InodeId, Timestamp};

/// Largest size of a file in bytes (what a file offset can say).
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;

/// What else a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing {
    /// What it takes from the file.
    pub strip: Strip,
    /// Is nothing to be written, as far as anybody is told, unless all is? The kernel, when it writes what it has kept, looks
    /// at errors only, and takes a part for all.
    pub is_whole: bool,
    /// Was it written earlier, and kept by the kernel, which says by itself when that was?
    pub is_late: bool,
}

impl<T: Into<Strip>> From<T> for Writing {
    fn from(strip: T) -> Writing {
        Writing { strip: strip.into(), is_whole: false, is_late: false }
    }
}

impl FsCore {
    /// Writes `data` at `offset`; returns the bytes written, fewer than asked only when the store stopped midway.
    /// `how`: does the kernel ask to clear suid and sgid, because the writer may not keep them, and whose are the times?
    ///
    /// # Errors
    /// `BadHandle`, `FileTooLarge`, `Stale`, and what the store answers; nothing was written then.
    pub fn write(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        how: impl Into<Writing>,
    ) -> Result<usize> {
        let how = how.into();
        let handle = self.handles.get(handle)?;
        if !handle.writable {
            return Err(FsError::BadHandle);
        }
        check_end(offset, data.len() as u64)?;
        self.with_own_direct(&handle.file, || self.write_open(&handle.file, offset, data, how))
    }

    pub(super) fn write_open(
        &self,
        file: &OpenFile,
        offset: u64,
        data: &[u8],
        how: Writing,
    ) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        let mut source = file.source.write();
        if self.write_small(file, &mut source, offset, data, how)? {
            return Ok(data.len());
        }
        if self.is_for_layers(file, &source, u64::MAX)? {
            return self.write_layered(file, &mut source, offset, data, how);
        }
        self.write_private(file, &mut source, u64::MAX, |branch, own, reserved| {
            let fits;
            (*reserved, fits) = self.reserve_range(branch, own, (offset, data.len() as u64), how.is_whole)?;
            let data = data.get(..fits as usize).unwrap_or(data);
            let written = self.write_object(own.1, data, offset, how)?;
            let (end, blocks) = (offset + written as u64, own.1.stat()?.blocks);
            self.change_branch(branch, |draft| {
                note_written(draft, file.ino, |size| size.max(end), how)?;
                draft.touch(file.ino)?.blocks = blocks;
                Ok(())
            })?;
            Ok(written)
        })
    }

    /// Writes to an object of the branch's own; less than all only when it may, and there is no room for more.
    pub(super) fn write_object(
        &self,
        object: &dyn ObjectFile,
        data: &[u8],
        offset: u64,
        how: Writing,
    ) -> Result<usize> {
        let mut written = self.with_room(|| object.write_at(data, offset))?;
        while how.is_whole && written < data.len() {
            let rest = data.get(written..).unwrap_or_default();
            written += match self.with_room(|| object.write_at(rest, offset + written as u64))? {
                0 => return Err(FsError::no_space()),
                more => more,
            };
        }
        Ok(written)
    }

    /// May writing through this handle have to copy the file first? A hint, to choose a thread by.
    pub fn write_may_copy(&self, handle: HandleId) -> bool {
        self.handles.get(handle).is_ok_and(|handle| self.write_copies(&handle.file))
    }
}

/// Does a range end where a file can?
pub(super) fn check_end(offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= MAX_SIZE => Ok(()),
        _ => Err(FsError::FileTooLarge),
    }
}

/// Content changed: size, times, and what a change takes from a file.
pub(super) fn note_change(
    draft: &mut Draft<'_>,
    ino: InodeId,
    size: impl FnOnce(u64) -> u64,
    strip: Strip,
) -> Result<()> {
    note_written(draft, ino, size, strip.into())
}

/// As [`note_change`], of a write.
pub(super) fn note_written(
    draft: &mut Draft<'_>,
    ino: InodeId,
    size: impl FnOnce(u64) -> u64,
    how: Writing,
) -> Result<()> {
    privileges::strip(draft, ino, how.strip)?;
    let meta = draft.touch(ino)?;
    meta.size = size(meta.size);
    if !how.is_late {
        let now = Timestamp::now();
        (meta.times.mtime, meta.times.ctime) = (now, now);
    }
    Ok(())
}
