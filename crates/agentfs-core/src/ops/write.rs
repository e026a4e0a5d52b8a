//! `write`.

use super::privileges::{self, Strip};
use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::OpenFile;
use crate::types::{HandleId, InodeId, Timestamp};

/// Largest size of a file in bytes (what a file offset can say).
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;

impl FsCore {
    /// Writes `data` at `offset`; returns the bytes written, fewer than asked only when the store stopped midway.
    /// `strip`: the kernel asks to clear suid and sgid, because the writer may not keep them.
    ///
    /// # Errors
    /// `BadHandle`, `FileTooLarge`, `Stale`, and what the store answers; nothing was written then.
    pub fn write(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        strip: impl Into<Strip>,
    ) -> Result<usize> {
        let strip = strip.into();
        let handle = self.handles.get(handle)?;
        if !handle.writable {
            return Err(FsError::BadHandle);
        }
        check_end(offset, data.len() as u64)?;
        self.with_own_direct(&handle.file, || self.write_open(&handle.file, offset, data, strip))
    }

    pub(super) fn write_open(
        &self,
        file: &OpenFile,
        offset: u64,
        data: &[u8],
        strip: Strip,
    ) -> Result<usize> {
        let mut source = file.source.write();
        if self.write_small(file, &mut source, offset, data, strip)? {
            return Ok(data.len());
        }
        self.write_private(file, &mut source, u64::MAX, |branch, object| {
            let written = self.with_room(|| object.write_at(data, offset))?;
            let (end, blocks) = (offset + written as u64, object.stat()?.blocks);
            self.change_branch(branch, |draft| {
                note_change(draft, file.ino, |size| size.max(end), strip)?;
                draft.touch(file.ino)?.blocks = blocks;
                Ok(())
            })?;
            Ok(written)
        })
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
    privileges::strip(draft, ino, strip)?;
    let now = Timestamp::now();
    let meta = draft.touch(ino)?;
    meta.size = size(meta.size);
    (meta.times.mtime, meta.times.ctime) = (now, now);
    Ok(())
}
