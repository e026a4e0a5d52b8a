//! `fallocate`: reserve, punch, zero.

use rustix::fs::FallocateFlags;

use super::privileges::Strip;
use super::write::{check_end, note_change};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::OpenFile;
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
        let strip = Strip::by(caller);
        self.with_own_direct(&handle.file, || self.allocate_open(&handle.file, mode, (offset, len), strip))
    }

    pub(super) fn allocate_open(
        &self,
        file: &OpenFile,
        mode: FallocateFlags,
        (offset, len): (u64, u64),
        strip: Strip,
    ) -> Result<()> {
        let (keep, end) = (mode.contains(FallocateFlags::KEEP_SIZE), offset + len);
        let mut source = file.source.write();
        self.find_source(file, &mut source)?;
        if self.is_for_layers(file, &source, u64::MAX)? {
            return self.allocate_layered(file, &mut source, mode, (offset, len), strip);
        }
        self.write_private(file, &mut source, u64::MAX, |branch, own, reserved| {
            let (backing, object) = own;
            if mode.contains(FallocateFlags::PUNCH_HOLE) {
                backing.is_prepared_nowhere();
            } else {
                (*reserved, _) = self.reserve_range(branch, own, (offset, len), true)?;
            }
            self.with_room(|| object.allocate(mode, offset, len))?;
            if reserved.is_some() {
                backing.is_prepared((offset, end));
            }
            let grown = |size: u64| if keep { size } else { size.max(end) };
            let blocks = object.stat()?.blocks;
            self.change_branch(branch, |draft| {
                note_change(draft, file.ino, grown, strip)?;
                draft.touch(file.ino)?.blocks = blocks;
                Ok(())
            })
        })
    }
}
