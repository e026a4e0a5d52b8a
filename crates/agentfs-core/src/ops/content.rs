//! Where bytes are read from, and where they may be written: copy-on-write of content.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLockReadGuard;

use crate::branch::{Branch, changed};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{LayeredSource, OpenFile, Source};
use crate::store::{Backing, Charge, Content, LowerFile, Object, ObjectFile, Unnamed, is_no_space, no_space};
use crate::types::Epoch;

/// An object of a branch's own, open.
pub(super) type Own<'a> = (&'a Backing, &'a dyn ObjectFile);

impl FsCore {
    /// The bytes of an open file, to read. Waits for who writes it.
    pub(super) fn source_to_read<'a>(&self, file: &'a OpenFile) -> Result<RwLockReadGuard<'a, Source>> {
        let source = file.source.read();
        if !matches!(*source, Source::Unknown) {
            return Ok(source);
        }
        drop(source);
        let mut source = file.source.write();
        self.find_source(file, &mut source)?;
        Ok(parking_lot::RwLockWriteGuard::downgrade(source))
    }

    /// Opens the object of a file whose source nobody has asked for yet.
    pub(super) fn find_source(&self, file: &OpenFile, source: &mut Source) -> Result<()> {
        if let Source::Unknown = source {
            *source = match file.tree.content(file.ino)? {
                Content::Hole => Source::Hole,
                Content::Packed(extent) => {
                    if file.tree.with_inode(file.ino, |inode| inode.meta.size)? != u64::from(extent.len) {
                        return Err(FsError::damaged("the content is not as long as the file"));
                    }
                    Source::Small(extent.read()?)
                }
                Content::Lower(lower) => {
                    let open = self.open_lower(&lower)?;
                    Source::Lower(lower, open)
                }
                Content::Whole(object) => {
                    let open = self.store.open(&object)?;
                    cut_excess(file, &object, &*open)?;
                    Source::Object(object, open)
                }
                Content::Layered(_) => {
                    Source::Layered(LayeredSource { opens: self.store.opens(), top: None })
                }
            };
        }
        Ok(())
    }

    /// Opens a file of the lower directory, if it still is what was relied on.
    pub(super) fn open_lower(&self, file: &LowerFile) -> Result<Arc<dyn ObjectFile>> {
        self.lower.as_ref().ok_or(FsError::Stale)?.open(file)
    }

    /// All bytes of a file of the lower directory.
    pub(super) fn read_lower(&self, file: &LowerFile, open: &dyn ObjectFile) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(file.stat.len).map_err(|_| FsError::FileTooLarge)?];
        open.read_at(&mut bytes, 0)?;
        check_same(file, open).map(|()| bytes)
    }

    /// Would a write have to copy first? A hint, to choose where to do it.
    pub fn write_copies(&self, file: &OpenFile) -> bool {
        let Ok(branch) = file.tree.branch() else { return false };
        let copies = |object: &Object| {
            let size = || file.tree.with_inode(file.ino, |inode| inode.meta.size).unwrap_or(0);
            object.epoch() != branch.epoch() && (file.is_direct() || !self.is_worth_layers(size()))
        };
        match file.source.try_read().as_deref() {
            Some(Source::Object(object, _)) => copies(object),
            Some(Source::Hole | Source::Small(_) | Source::Layered(_)) => false,
            Some(Source::Lower(..)) => true,
            Some(Source::Unknown) => match file.tree.content(file.ino) {
                Ok(Content::Whole(object)) => copies(&object),
                Ok(Content::Lower(_)) => true,
                Ok(Content::Hole | Content::Packed(_) | Content::Layered(_)) | Err(_) => false,
            },
            None => true,
        }
    }

    /// Calls `write` with an object that is the branch's own, while no snapshot can come between. Where the
    /// content is shared, its first `keep` bytes are copied before; when that fails, nothing has changed. What `write` reserves
    /// stays so until what is there then is charged.
    pub(super) fn write_private<T>(
        &self,
        file: &OpenFile,
        source: &mut Source,
        keep: u64,
        write: impl FnOnce(&Branch, Own<'_>, &mut Option<Charge>) -> Result<T>,
    ) -> Result<T> {
        let branch = file.tree.branch()?;
        self.find_source(file, source)?;
        let mut fresh = None;
        loop {
            let permit = branch.permit_write();
            if let Some((copy, reserved)) = fresh.take() {
                self.adopt(file, source, (copy, reserved), keep, permit.epoch)?;
            }
            if let Source::Object(object, open) = source
                && object.epoch() == permit.epoch
            {
                if self.journal.is_poisoned() {
                    return Err(FsError::read_only_store());
                }
                self.mark_dirty(file, branch)?;
                let mut reserved = None;
                let own = (&**object.backing(), &**open);
                let written = write(branch, own, &mut reserved);
                self.charge_object(branch, own, reserved.as_ref())?;
                return written;
            }
            // The copy is made without the permit: a snapshot need not wait for it.
            drop(permit);
            // A snapshot that came meanwhile may have made it a file to be left where it is.
            if file.is_direct() || self.is_for_layers(file, source, keep)? {
                return Err(FsError::Contended);
            }
            let reserved = self.reserve_copy(file, keep)?;
            fresh = Some((self.copy_content(file, source, keep)?, reserved));
        }
    }

    /// An object with the first `keep` bytes of what `source` has.
    fn copy_content(&self, file: &OpenFile, source: &Source, keep: u64) -> Result<Unnamed> {
        let size = file.tree.with_inode(file.ino, |inode| inode.meta.size)?.min(keep);
        if let Source::Object(object, _) = source {
            return self.with_room(|| self.store.duplicate(object, size));
        }
        if let Source::Lower(lower, open) = source {
            let (id, copy) = self.with_room(|| self.store.import(&**open, size))?;
            return match check_same(lower, &**open) {
                Ok(()) => Ok((id, copy)),
                Err(error) => {
                    self.store.discard(id);
                    Err(error)
                }
            };
        }
        let bytes = if let Source::Small(bytes) = source { bytes.as_slice() } else { &[] };
        let bytes = bytes.get(..bytes.len().min(size as usize)).unwrap_or_default();
        let (id, open) = self.with_room(|| self.store.create())?;
        match self.with_room(|| fill(&*open, bytes, size)) {
            Ok(()) => Ok((id, open)),
            Err(e) => {
                self.store.discard(id);
                Err(e)
            }
        }
    }

    /// Makes a copy of the first `keep` bytes the content of the file, which is then no longer than they are. The
    /// caller holds the permit for `epoch`.
    fn adopt(
        &self,
        file: &OpenFile,
        source: &mut Source,
        ((id, open), reserved): (Unnamed, Option<Charge>),
        keep: u64,
        epoch: Epoch,
    ) -> Result<()> {
        let object = self.store.adopt(id, epoch);
        let branch = file.tree.branch()?;
        self.charge_object(branch, (object.backing(), &*open), reserved.as_ref())?;
        self.change_branch(branch, |draft| {
            draft.set_content(file.ino, Content::Whole(object.clone()));
            // What the copy takes the place of may be durable: the copy is, before the record of it.
            if !matches!(source, Source::Hole) {
                draft.is_to_be_durable(object.id);
            }
            draft.set_dirty(file.ino, true);
            if draft.inode(file.ino)?.meta.size > keep {
                draft.meta(file.ino)?.size = keep;
            }
            Ok(())
        })?;
        *source = Source::Object(object, open);
        file.dirty.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The object of a file is about to be written in place: from here on its size and times are not recorded. The
    /// caller holds the content lock.
    pub(super) fn mark_dirty(&self, file: &OpenFile, branch: &Branch) -> Result<()> {
        if !file.dirty.load(Ordering::Relaxed) {
            self.change_branch(branch, |draft| {
                draft.set_dirty(file.ino, true);
                Ok(())
            })?;
            file.dirty.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tries again, once, when the host is full and gets room by deleting what nothing names any more.
    pub(super) fn with_room<T>(&self, attempt: impl Fn() -> io::Result<T>) -> Result<T> {
        match attempt() {
            Err(e) if is_no_space(&e) => {
                self.make_room()?;
                Ok(attempt()?)
            }
            done => Ok(done?),
        }
    }

    /// On a full host: gives back what nothing names, now and then while the space left for the log shrinks.
    pub(crate) fn relieve(&self) {
        let Some(spare) = self.journal.spare() else { return };
        if self.relieved.swap(spare / RELIEF, Ordering::Relaxed) != spare / RELIEF
            && let Err(error) = self.make_room()
        {
            tracing::debug!(%error, "no room can be made now");
        }
    }

    /// Gives back to the host what nothing names any more.
    fn make_room(&self) -> Result<()> {
        let mut last = self.room_made.lock();
        let freed = self.store.freed();
        if *last == freed {
            return Ok(()); // nothing has become free since
        }
        let gaps = self.store.packs.gaps();
        self.journal.sync()?;
        self.store.reap();
        self.punch(usize::MAX);
        if let Err(error) = self.store.packs.punch(gaps) {
            tracing::debug!(%error, "the host does not take space back from the middle of a file");
        }
        *last = freed;
        Ok(())
    }
}

/// Is a file of the lower directory still what was relied on? Asked after it was read.
pub(super) fn check_same(file: &LowerFile, open: &dyn ObjectFile) -> Result<()> {
    if open.stat()?.is_the_same_as(&file.stat) { Ok(()) } else { Err(changed(&file.path)) }
}

/// How much of the log's spare space may be used before room is made again, in bytes.
const RELIEF: u64 = 32 << 10;

/// Gives an empty object these bytes, and a hole behind them up to `size`.
fn fill(object: &dyn ObjectFile, bytes: &[u8], size: u64) -> io::Result<()> {
    if object.write_at(bytes, 0)? < bytes.len() {
        return Err(no_space());
    }
    if size > bytes.len() as u64 { object.set_len(size) } else { Ok(()) }
}

/// Cuts what a cut left that a crash interrupted, of an object that the branch may write: what is written behind it must
/// not bring it back.
fn cut_excess(file: &OpenFile, object: &Object, open: &dyn ObjectFile) -> Result<()> {
    let Ok(branch) = file.tree.branch() else { return Ok(()) };
    if object.epoch() == branch.epoch() {
        let size = branch.with_inode(file.ino, |inode| inode.meta.size)?;
        if open.stat()?.len > size {
            open.set_len(size)?;
        }
    }
    Ok(())
}
