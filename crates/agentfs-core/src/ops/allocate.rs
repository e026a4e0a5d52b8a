//! `fallocate`: reserve, punch, zero.

use rustix::fs::FallocateFlags;

use super::privileges::Strip;
use super::write::{check_end, note_change};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::types::{Caller, HandleId};

impl FsCore {
    /// Reserves, punches out or zeroes `[offset, offset + len)`.
    ///
    /// # Errors
    /// `Unsupported` for other modes, `FileTooLarge`, `BadHandle`, and what the store answers.
    pub fn allocate(
        &self,
        handle: HandleId,
        mode: FallocateFlags,
        offset: u64,
        len: u64,
        caller: Caller,
    ) -> Result<()> {
        let handle = self.handles.get(handle)?;
        if !handle.writable {
            return Err(FsError::BadHandle);
        }
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        let punch = mode.contains(FallocateFlags::PUNCH_HOLE);
        let keep = mode.contains(FallocateFlags::KEEP_SIZE);
        if !known.contains(mode) || (punch && (!keep || mode.contains(FallocateFlags::ZERO_RANGE))) {
            return Err(FsError::Unsupported("this mode of fallocate is not supported"));
        }
        check_end(offset, len)?;
        let (file, end) = (&handle.file, offset + len);
        let mut source = file.source.write();
        self.write_private(file, &mut source, u64::MAX, |branch, object| {
            self.with_room(|| object.allocate(mode, offset, len))?;
            let grown = |size: u64| if keep { size } else { size.max(end) };
            let blocks = object.stat()?.blocks;
            self.change_branch(branch, |draft| {
                note_change(draft, file.ino, grown, Strip::by(caller))?;
                draft.touch(file.ino)?.blocks = blocks;
                Ok(())
            })
        })
    }
}
