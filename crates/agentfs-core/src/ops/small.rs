//! Small files: their content lies in packs, is read and written as a whole, and recorded with each change.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::write::note_change;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::store::Content;

/// A gap that is at least so long stays a hole, which packs have not: the file gets an object.
const HOLE: u64 = 4096;
/// A file written anew so often that this many times the limit went to packs is better off with an object.
const PATIENCE: u64 = 4;

impl FsCore {
    /// Writes to a file that is small and stays so. False, and nothing is done, for any other.
    pub(super) fn write_small(
        &self,
        file: &OpenFile,
        source: &mut Source,
        offset: u64,
        data: &[u8],
        strip: bool,
    ) -> Result<bool> {
        self.find_source(file, source)?;
        let end = offset + data.len() as u64;
        let Some(mut bytes) = self.small_bytes(file, source, end)? else { return Ok(false) };
        let is_hole = offset >= bytes.len() as u64 + HOLE;
        if is_hole || data.is_empty() {
            return Ok(false);
        }
        bytes.resize(bytes.len().max(end as usize), 0);
        if let Some(room) = bytes.get_mut(offset as usize..end as usize) {
            room.copy_from_slice(data);
        }
        self.put_small(file, source, bytes, strip)?;
        Ok(true)
    }

    /// Cuts or extends a file that is small and stays so. False, and nothing is done, for any other.
    pub(super) fn resize_small(
        &self,
        file: &OpenFile,
        source: &mut Source,
        size: u64,
        strip: bool,
    ) -> Result<bool> {
        self.find_source(file, source)?;
        let Some(mut bytes) = self.small_bytes(file, source, size)? else { return Ok(false) };
        if size >= bytes.len() as u64 + HOLE {
            return Ok(false);
        }
        bytes.resize(size as usize, 0);
        self.put_small(file, source, bytes, strip)?;
        Ok(true)
    }

    /// The bytes of a file that may be small, also with `end` bytes.
    fn small_bytes(&self, file: &OpenFile, source: &Source, end: u64) -> Result<Option<Vec<u8>>> {
        let limit = u64::from(self.config.small_file);
        let rewritten = file.rewritten.load(Ordering::Relaxed);
        if end > limit || rewritten > PATIENCE * limit {
            return Ok(None);
        }
        match source {
            Source::Small(bytes) => Ok(Some(bytes.clone())),
            Source::Hole => {
                let size = file.tree.with_inode(file.ino, |inode| inode.meta.size)?;
                Ok((size < HOLE).then(|| vec![0; size as usize]))
            }
            Source::Unknown | Source::Object(..) => Ok(None),
        }
    }

    /// Gives a file these bytes.
    fn put_small(&self, file: &OpenFile, source: &mut Source, bytes: Vec<u8>, strip: bool) -> Result<()> {
        let branch = file.tree.branch()?;
        let size = bytes.len() as u64;
        let extent = self.with_room(|| self.store.pack(&bytes))?;
        self.change_branch(branch, |draft| {
            draft.set_content(file.ino, Content::Packed(Arc::clone(&extent)));
            note_change(draft, file.ino, |_| size, strip)?;
            draft.meta(file.ino)?.blocks = size.div_ceil(HOLE) * (HOLE / 512);
            Ok(())
        })?;
        file.rewritten.fetch_add(size, Ordering::Relaxed);
        *source = Source::Small(bytes);
        Ok(())
    }
}
