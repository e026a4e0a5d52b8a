//! `copy_file_range`, within a branch and between branches: what can be shared is (`share`); all else is copied, inside the
//! host where it can.

use std::sync::Arc;

use super::content::check_same;
use super::privileges::Strip;
use super::write::{check_end, note_change};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{Handle, OpenFile, Source};
use crate::store::{FallocateFlags, LowerFile, Object, ObjectFile, copy_range};
use crate::types::{Caller, HandleId};

/// Most bytes of one call (`MAX_RW_COUNT` of the kernel): the answer is a 32-bit number.
const MOST: u64 = 0x7fff_f000;
/// Most bytes that are copied at once from an object: nobody waits longer for a snapshot. Who asked for more asks again.
const AT_ONCE: u64 = 16 << 20;
/// Bytes that go through a buffer at once where contents are small.
const CHUNK: u64 = 128 << 10;

/// What the bytes of a file that is copied are in.
enum Kind {
    Hole,
    Small,
    /// As long as something names it, no stretch of it is given back.
    Object(Arc<dyn ObjectFile>, Option<Arc<Object>>),
    /// It must not change meanwhile.
    Lower(Arc<LowerFile>, Arc<dyn ObjectFile>),
}

/// An open file, and an offset in it.
type Place = (HandleId, u64);

impl FsCore {
    /// Copies up to `len` bytes from one file to another; returns how many: 0 at the end of the first. The kernel has
    /// checked that they do not overlap.
    ///
    /// # Errors
    /// `BadHandle`, `FileTooLarge`, and those of `read` and `write`; nothing was copied then.
    pub fn copy_range(&self, from: Place, to: Place, len: u64, caller: Caller) -> Result<u64> {
        let (source, target) = (self.handles.get(from.0)?, self.handles.get(to.0)?);
        if !target.writable {
            return Err(FsError::BadHandle);
        }
        // Only the kernel has what was stored through a mapping: it copies through its own pages instead.
        if source.file.may_have_unwritten() {
            return Err(FsError::CrossBranch);
        }
        self.with_own_direct(&target.file, || self.copy_open((&source, from), (&target, to), len, caller))
    }

    fn copy_open(
        &self,
        (source, from): (&Handle, Place),
        (target, to): (&Handle, Place),
        len: u64,
        caller: Caller,
    ) -> Result<u64> {
        // What is copied from stays where it is.
        let _gate = self.direct.enter();
        self.refresh(&source.file)?;
        let size = source.file.tree.with_inode(source.file.ino, |inode| inode.meta.size)?;
        let len = len.min(size.saturating_sub(from.1)).min(MOST);
        check_end(to.1, len)?;
        let strip = Strip::by(caller);
        let is_whole = from.1 == 0 && to.1 == 0 && len == size;
        let pieces = self.pieces_to_share(&source.file, (from.1, len))?;
        if len == 0 || (is_whole && self.share(&source.file, &target.file, len, strip)?) {
            return Ok(len);
        }
        if let Some(pieces) = pieces
            && self.share_pieces(&target.file, (to.1, len), pieces, strip)?
        {
            return Ok(len);
        }
        let in_layers = self.goes_into_layers(&target.file)?;
        match self.kind_of(&source.file)? {
            Kind::Object(..) | Kind::Lower(..) if in_layers => {
                self.copy_through(from, (&target.file, to.1), len.min(AT_ONCE), strip)
            }
            Kind::Object(object, _named) if len > CHUNK => {
                self.copy_object(&*object, from.1, target, to.1, len.min(AT_ONCE), strip)
            }
            Kind::Hole if len > CHUNK => self.copy_hole((&target.file, to.1), len, strip).map(|()| len),
            Kind::Lower(lower, object) if len > CHUNK => {
                let copied = self.copy_object(&*object, from.1, target, to.1, len.min(AT_ONCE), strip);
                check_same(&lower, &*object)?;
                copied
            }
            Kind::Hole | Kind::Small | Kind::Object(..) | Kind::Lower(..) => {
                self.copy_through(from, (&target.file, to.1), len, strip)
            }
        }
    }

    fn kind_of(&self, file: &OpenFile) -> Result<Kind> {
        // Taken out of the lock: the other file has one of its own, and both could be asked for the other way round.
        Ok(match &*self.source_to_read(file)? {
            Source::Object(named, object) => Kind::Object(object.clone(), Some(named.clone())),
            Source::Lower(_, object) if self.is_live(file.view, file.ino) => {
                Kind::Object(object.clone(), None)
            }
            Source::Lower(lower, object) => Kind::Lower(lower.clone(), object.clone()),
            Source::Layered(layered) => Kind::Object(Arc::new(self.layered_file(file, layered)?), None),
            Source::Hole => Kind::Hole,
            Source::Small(_) | Source::Unknown => Kind::Small,
        })
    }

    /// Zeros that take no space.
    fn copy_hole(&self, to: (&OpenFile, u64), len: u64, strip: Strip) -> Result<()> {
        let file = to.0;
        let size = file.tree.with_inode(file.ino, |inode| inode.meta.size)?;
        if to.1 < size {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            self.allocate_open(file, mode, (to.1, len.min(size - to.1)), strip)?;
        }
        if to.1 + len > size { self.truncate_open(file, to.1 + len, strip) } else { Ok(()) }
    }

    fn copy_object(
        &self,
        from: &dyn ObjectFile,
        at: u64,
        to: &Handle,
        to_at: u64,
        len: u64,
        strip: Strip,
    ) -> Result<u64> {
        let file = &to.file;
        let mut source = file.source.write();
        self.write_private(file, &mut source, u64::MAX, |branch, own, reserved| {
            let fits;
            (*reserved, fits) = self.reserve_range(branch, own, (to_at, len), false)?;
            let copied = self.with_room(|| copy_range(from, at, own.1, to_at, fits))?;
            let (end, blocks) = (to_at + copied, own.1.stat()?.blocks);
            self.change_branch(branch, |draft| {
                note_change(draft, file.ino, |size| size.max(end), strip)?;
                draft.touch(file.ino)?.blocks = blocks;
                Ok(())
            })?;
            Ok(copied)
        })
    }

    fn copy_through(&self, from: Place, to: (&OpenFile, u64), len: u64, strip: Strip) -> Result<u64> {
        let (mut done, mut buffer) = (0, vec![0; len.min(CHUNK) as usize]);
        while done < len {
            let want = (len - done).min(CHUNK) as usize;
            let copied = self.read(from.0, from.1 + done, buffer.get_mut(..want).unwrap_or_default());
            let copied = copied.and_then(|read| {
                // Nothing is left when it was cut meanwhile.
                self.write_open(to.0, to.1 + done, buffer.get(..read).unwrap_or_default(), strip.into())
            });
            match copied {
                Ok(0) => break,
                Ok(copied) => done += copied as u64,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}
