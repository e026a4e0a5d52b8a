//! Small files: their content lies in packs, is read and written as a whole, and recorded with each change.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::privileges::Strip;
use super::write::{Writing, note_written};
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::store::{Content, Extent};

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
        how: Writing,
    ) -> Result<bool> {
        self.find_source(file, source)?;
        let end = offset + data.len() as u64;
        let Some(mut bytes) = self.small_bytes(file, source, end)? else { return Ok(false) };
        let len = bytes.len() as u64;
        if offset >= len + HOLE || data.is_empty() {
            return Ok(false);
        }
        bytes.resize(bytes.len().max(end as usize), 0);
        if let Some(room) = bytes.get_mut(offset as usize..end as usize) {
            room.copy_from_slice(data);
        }
        let same = if offset >= len { len as usize } else { 0 };
        self.put_small(file, source, bytes, same, how)?;
        Ok(true)
    }

    /// Cuts or extends a file that is small and stays so. False, and nothing is done, for any other.
    pub(super) fn resize_small(
        &self,
        file: &OpenFile,
        source: &mut Source,
        size: u64,
        strip: Strip,
    ) -> Result<bool> {
        self.find_source(file, source)?;
        let Some(mut bytes) = self.small_bytes(file, source, size)? else { return Ok(false) };
        if size >= bytes.len() as u64 + HOLE {
            return Ok(false);
        }
        let len = bytes.len();
        bytes.resize(size as usize, 0);
        let same = if size as usize > len { len } else { 0 };
        self.put_small(file, source, bytes, same, strip.into())?;
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
            Source::Lower(lower, open) if lower.stat.len <= limit => {
                self.read_lower(lower, &**open).map(Some)
            }
            Source::Unknown | Source::Object(..) | Source::Lower(..) | Source::Layered(_) => Ok(None),
        }
    }

    /// Gives a file these bytes, of which the first `same` are all it had.
    fn put_small(
        &self,
        file: &OpenFile,
        source: &mut Source,
        bytes: Vec<u8>,
        same: usize,
        how: Writing,
    ) -> Result<()> {
        let branch = file.tree.branch()?;
        let size = bytes.len() as u64;
        // Who is charged stays who writes.
        let _permit = self.quotas.as_ref().map(|_| branch.permit_write());
        let reserved = self.reserve_small(file, branch, size)?;
        let (extent, written) = self.with_room(|| self.pack(file, &bytes, same))?;
        self.change_branch(branch, |draft| {
            draft.set_content(file.ino, Content::Packed(Arc::clone(&extent)));
            note_written(draft, file.ino, |_| size, how)?;
            draft.meta(file.ino)?.blocks = size.div_ceil(HOLE) * (HOLE / 512);
            Ok(())
        })?;
        if let Some((account, reserved)) = reserved {
            extent.charge(&account, Some(&reserved));
        }
        file.rewritten.fetch_add(written as u64, Ordering::Relaxed);
        *source = Source::Small(bytes);
        Ok(())
    }

    /// Puts the bytes of a file into a pack; where they go on from what is there only the rest of them. Returns how many
    /// were written, too.
    fn pack(&self, file: &OpenFile, bytes: &[u8], same: usize) -> io::Result<(Arc<Extent>, usize)> {
        let more = bytes.get(same..).unwrap_or_default();
        if same > 0
            && let Ok(Content::Packed(old)) = file.tree.content(file.ino)
            && old.len as usize == same
            && let Some(grown) = self.store.packs.extend(&old, more)?
        {
            return Ok((grown, more.len()));
        }
        Ok((self.store.packs.append(bytes)?, bytes.len()))
    }
}
