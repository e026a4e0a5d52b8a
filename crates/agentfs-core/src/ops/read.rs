//! `read`.

use super::content::check_same;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::store::{LowerFile, ObjectFile};
use crate::types::{HandleId, Timestamp};

/// How old a read time may grow while the file is read and not changed (`relatime`), in seconds.
const ATIME_SLACK: i64 = 24 * 3600;

impl FsCore {
    /// Reads at `offset` until `buf` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    /// `BadHandle`, `Stale`, and what the store answers.
    pub fn read(&self, handle: HandleId, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let handle = self.handles.get(handle)?;
        let file = &handle.file;
        self.refresh(file)?;
        let source = self.source_to_read(file)?;
        if let Source::Lower(lower, open) = &*source {
            return self.read_below(file, lower, &**open, offset, buf);
        }
        // An object may be longer, after a cut that a crash interrupted.
        let size = file.tree.with_inode(file.ino, |inode| inode.meta.size)?;
        let len = size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = buf.get_mut(..len).unwrap_or_default();
        let found = match &*source {
            Source::Object(_, object) => match object.read_at(buf, offset)? {
                found if found < len => return Err(FsError::damaged("the content is shorter than the file")),
                found => found,
            },
            Source::Layered(layered) => self.layered_file(file, layered)?.read_at(buf, offset)?,
            Source::Small(bytes) => copy_from(bytes, offset, buf),
            Source::Hole | Source::Unknown | Source::Lower(..) => 0,
        };
        buf.get_mut(found..).unwrap_or_default().fill(0);
        drop(source);
        self.touch_atime(file);
        Ok(len)
    }

    /// Reads a file of the lower directory: as it was when somebody came to rely on it, or as it is in `main`.
    fn read_below(
        &self,
        file: &OpenFile,
        lower: &LowerFile,
        open: &dyn ObjectFile,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        let read = open.read_at(buf, offset)?;
        if !self.is_live(file.view, file.ino) {
            check_same(lower, open)?;
        }
        Ok(read)
    }

    fn touch_atime(&self, file: &OpenFile) {
        let Ok(branch) = file.tree.branch() else { return };
        let now = Timestamp::now();
        let is_old = |times: &crate::tree::Times| {
            let (atime, age) = (times.atime, now.secs.saturating_sub(times.atime.secs));
            atime <= times.mtime || atime <= times.ctime || age >= ATIME_SLACK
        };
        if !branch.with_inode(file.ino, |inode| is_old(&inode.meta.times)).unwrap_or(false) {
            return;
        }
        let touched = self.change_branch(branch, |draft| {
            draft.touch(file.ino)?.times.atime = now;
            Ok(())
        });
        if let Err(error) = touched {
            tracing::debug!(%error, "no read time for a file that is gone");
        }
    }
}

/// Fills the start of `buf` with what is at `offset`; returns the bytes copied.
fn copy_from(bytes: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
    let len = from.len().min(buf.len());
    if let (Some(room), Some(from)) = (buf.get_mut(..len), from.get(..len)) {
        room.copy_from_slice(from);
    }
    len
}
