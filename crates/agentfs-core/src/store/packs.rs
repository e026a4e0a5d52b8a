//! All packs of a store: which is appended to, which are not durable, which are worth emptying.

use std::cmp::Reverse;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::object::{create_unused, is_damage};
use super::pack::{Extent, Pack, Place, Writing};
use super::reaper::Reaper;
use super::{Device, Stretch, no_space};
use crate::types::PackId;

/// When a pack is full, and when it is worth emptying others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackLimits {
    /// A pack is full at so many bytes, 4 GiB at most.
    pub size: u64,
    /// Bytes that nothing names in all packs, from which on it is worth moving others to get them back.
    pub slack: u64,
}

/// Stretches of packs that nothing names any more.
pub struct Gaps(Vec<(Arc<Pack>, Vec<Stretch>)>);

/// All packs of a store.
pub struct Packs {
    device: Arc<dyn Device>,
    reaper: Arc<Reaper>,
    /// The next number, of a pack or an object.
    next: Arc<AtomicU64>,
    limits: PackLimits,
    /// Leaf lock: the pack that is appended to.
    current: Mutex<Option<Arc<Pack>>>,
    /// Leaf lock: packs that may be there.
    known: Mutex<Vec<Weak<Pack>>>,
    /// Leaf lock: those with bytes that are not durable.
    dirty: Mutex<Vec<Arc<Pack>>>,
    /// May the sync of one have failed?
    any_failed: AtomicBool,
}

/// What packs hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackUse {
    /// Packs.
    pub packs: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes of them that something names.
    pub live: u64,
}

/// An extent that was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// From here.
    pub from: Place,
    /// To here.
    pub to: Place,
    /// Its bytes: a shorter one may begin at the same place.
    pub len: u32,
}

impl Packs {
    pub(super) fn new(
        device: Arc<dyn Device>,
        reaper: Arc<Reaper>,
        next: Arc<AtomicU64>,
        limits: PackLimits,
    ) -> Packs {
        let (current, known, dirty) = (Mutex::default(), Mutex::default(), Mutex::default());
        Packs { device, reaper, next, limits, current, known, dirty, any_failed: AtomicBool::new(false) }
    }

    /// A pack of an earlier mount, of which records speak.
    pub fn adopt(&self, id: PackId) -> Arc<Pack> {
        let pack = Arc::new(Pack::new(id, self.device.clone(), self.reaper.clone()));
        let len = pack.file().and_then(|file| file.stat()).map_or(0, |stat| stat.len);
        pack.len.store(len, Ordering::Relaxed);
        self.known.lock().push(Arc::downgrade(&pack));
        pack
    }

    /// Writes content, 1 byte to what a pack holds, to a pack.
    ///
    /// # Errors
    /// What the device answers.
    pub fn append(&self, bytes: &[u8]) -> io::Result<Arc<Extent>> {
        let (pack, offset) = self.write(bytes)?;
        Ok(pack.add(offset, bytes.len() as u32, crc32c::crc32c(bytes)))
    }

    /// Content that goes on where `extent` ends, when that is where its pack ends: only `more` is written. `None`
    /// otherwise. `extent` stays what it is.
    ///
    /// # Errors
    /// What the device answers.
    pub fn extend(&self, extent: &Extent, more: &[u8]) -> io::Result<Option<Arc<Extent>>> {
        let (pack, offset) = extent.place.lock().clone();
        let end = u64::from(offset) + u64::from(extent.len);
        let writing = {
            let current = self.current.lock();
            let is_last = current.as_ref().is_some_and(|current| current.id == pack.id)
                && pack.len.load(Ordering::Relaxed) == end
                && end + more.len() as u64 <= self.limits.size;
            if !is_last {
                return Ok(None);
            }
            pack.len.fetch_add(more.len() as u64, Ordering::Relaxed);
            Writing::to(&pack)
        };
        self.put(&writing, more, end)?;
        let crc = crc32c::crc32c_append(extent.crc, more);
        Ok(Some(pack.add(offset, extent.len + more.len() as u32, crc)))
    }

    /// Writes bytes that nothing names yet.
    fn write(&self, bytes: &[u8]) -> io::Result<(Writing, u32)> {
        let (pack, offset) = self.reserve(bytes.len() as u64)?;
        self.put(&pack, bytes, offset)?;
        Ok((pack, offset as u32))
    }

    /// Writes bytes where there is room for them.
    fn put(&self, pack: &Writing, bytes: &[u8], offset: u64) -> io::Result<()> {
        if pack.file()?.write_at(bytes, offset)? < bytes.len() {
            return Err(no_space());
        }
        // Noted before any record names it, as who syncs the log syncs noted packs before.
        if !pack.is(&pack.dirty) {
            let mut dirty = self.dirty.lock();
            if !pack.dirty.swap(true, Ordering::AcqRel) {
                dirty.push((**pack).clone());
            }
        }
        Ok(())
    }

    /// Room for `len` bytes in the pack that is appended to.
    fn reserve(&self, len: u64) -> io::Result<(Writing, u64)> {
        let mut current = self.current.lock();
        let fits = |pack: &&mut Arc<Pack>| pack.len.load(Ordering::Relaxed) + len <= self.limits.size;
        if let Some(pack) = current.as_mut().filter(fits) {
            return Ok((Writing::to(pack), pack.len.fetch_add(len, Ordering::Relaxed)));
        }
        let (id, file) = create_unused(&*self.device, &self.next, PackId)?;
        let pack = Arc::new(Pack::new(id, self.device.clone(), self.reaper.clone()));
        pack.file.get_or_init(|| file);
        pack.len.store(len, Ordering::Relaxed);
        self.known.lock().push(Arc::downgrade(&pack));
        let writing = Writing::to(&pack);
        *current = Some(pack);
        Ok((writing, 0))
    }

    /// Makes all content durable that was written until now.
    ///
    /// # Errors
    /// What the device answers; the packs concerned are then emptied by and by.
    pub fn sync(&self) -> io::Result<()> {
        if self.any_failed.load(Ordering::Acquire) {
            let is_doubtful = self.all().iter().any(|pack| pack.is_doubtful());
            self.any_failed.store(is_doubtful, Ordering::Release);
            if is_doubtful {
                return Err(io::Error::other("a pack could not be made durable and is not emptied yet"));
            }
        }
        let dirty = {
            let mut dirty = self.dirty.lock();
            dirty.iter().for_each(|pack| pack.dirty.store(false, Ordering::Release));
            std::mem::take(&mut *dirty)
        };
        let mut synced = Ok(());
        for pack in dirty {
            if let Err(error) = pack.file().and_then(|file| file.sync(true)) {
                pack.failed.store(true, Ordering::Release);
                self.any_failed.store(true, Ordering::Release);
                synced = Err(error);
            }
        }
        synced
    }

    /// What all packs hold.
    pub fn usage(&self) -> PackUse {
        let mut usage = PackUse::default();
        for pack in self.all() {
            usage.packs += 1;
            usage.bytes += pack.len.load(Ordering::Relaxed);
            usage.live += pack.live();
        }
        usage
    }

    fn all(&self) -> Vec<Arc<Pack>> {
        let mut known = self.known.lock();
        known.retain(|pack| pack.strong_count() > 0);
        known.iter().filter_map(Weak::upgrade).collect()
    }

    /// Nothing is appended any more to the pack that is appended to now.
    pub fn seal(&self) {
        let sealed = self.current.lock().take();
        drop(sealed);
    }

    /// What nothing names now in packs that are not appended to; none is, after this.
    pub fn gaps(&self) -> Gaps {
        self.seal();
        let mut all = self.all();
        all.retain(|pack| pack.writing.load(Ordering::Acquire) == 0 && !pack.is(&pack.kept));
        Gaps(all.into_iter().map(|pack| (pack.clone(), pack.gaps())).collect())
    }

    /// Gives the space of gaps back to the host, when the log is durable that let go of what was there.
    ///
    /// # Errors
    /// What the device answers; a host that cannot do this says so.
    pub fn punch(&self, gaps: Gaps) -> io::Result<()> {
        for (pack, gaps) in gaps.0 {
            // One that is missing has nothing to give.
            let Ok(file) = pack.file() else { continue };
            for (start, end) in gaps {
                file.punch(start, end - start)?;
            }
        }
        Ok(())
    }

    /// The packs there are stay as they are: records that are lost may have named what is in them.
    pub fn keep(&self) {
        self.all().iter().for_each(|pack| pack.kept.store(true, Ordering::Release));
    }

    /// Nobody knows of any pack whether it is durable: as if a sync of each had failed.
    pub fn doubt(&self) {
        self.any_failed.store(true, Ordering::Release);
        self.all().iter().for_each(|pack| pack.failed.store(true, Ordering::Release));
    }

    /// Packs that a failed sync made doubtful. Nothing is appended to them any more.
    pub fn failed(&self) -> Vec<Arc<Pack>> {
        let mut failed = self.all();
        failed.retain(|pack| pack.is_doubtful());
        if !failed.is_empty() {
            self.seal();
        }
        failed
    }

    /// Packs in which something is named by nothing. Nothing is appended to them any more.
    pub fn gappy(&self) -> Vec<Arc<Pack>> {
        self.seal();
        let mut all = self.all();
        all.retain(|pack| pack.live() < pack.len.load(Ordering::Relaxed) && pack.is_movable());
        all
    }

    /// Counts what is named in the pack where most was let go of since.
    pub fn count_one(&self) {
        let mut all = self.all();
        let current = self.current.lock().as_ref().map(|pack| pack.id);
        all.retain(|pack| Some(pack.id) != current && pack.writing.load(Ordering::Acquire) == 0);
        if let Some(pack) = all.iter().max_by_key(|pack| pack.uncounted()).filter(|pack| pack.uncounted() > 0)
        {
            pack.count();
        }
    }

    /// Packs worth emptying: those that hold little of what they held when that is worth it, and small ones when there are
    /// many.
    pub fn wasteful(&self) -> Vec<Arc<Pack>> {
        let mut all = self.all();
        let current = self.current.lock().as_ref().map(|pack| pack.id);
        all.retain(|pack| Some(pack.id) != current && pack.is_movable());
        let len = |pack: &Pack| pack.len.load(Ordering::Relaxed);
        let dead: u64 = all.iter().map(|pack| len(pack).saturating_sub(pack.live())).sum();
        let is_small = |pack: &Pack| len(pack) < self.limits.size / 4;
        let small = all.iter().filter(|pack| is_small(pack)).count();
        all.retain(|pack| {
            let sparse = pack.live() * 2 < len(pack) && dead >= self.limits.slack;
            sparse || (small > MANY && is_small(pack))
        });
        all
    }

    /// Moves what `pack` holds to others. `record` is told of moves that were written, before they take effect. What is
    /// damaged stays where it is.
    ///
    /// # Errors
    /// What the device or `record` answers; what was moved by then stays moved.
    pub fn empty<E: From<io::Error>>(
        &self,
        pack: &Arc<Pack>,
        mut record: impl FnMut(&[Move]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut extents = pack.extents();
        // Of those that begin at one place, as one grew there, the longest has the bytes of all.
        extents.sort_by_key(|extent| (extent.place().1, Reverse(extent.len)));
        let mut last: Option<(Place, u32, Arc<Pack>, u32)> = None;
        for batch in extents.chunks(MOVES_AT_ONCE) {
            let (mut moves, mut moved, mut writing) = (Vec::new(), Vec::new(), Vec::new());
            for extent in batch {
                let from = extent.place();
                if from.0 != pack.id {
                    continue; // moved away earlier
                }
                if let Some((_, _, to, offset)) =
                    last.as_ref().filter(|(place, len, ..)| *place == from && *len >= extent.len)
                {
                    moves.push(Move { from, to: (to.id, *offset), len: extent.len });
                    moved.push((extent, to.clone(), *offset));
                    continue;
                }
                match extent.read() {
                    Ok(bytes) => {
                        let (to, offset) = self.write(&bytes)?;
                        moves.push(Move { from, to: (to.id, offset), len: extent.len });
                        moved.push((extent, (*to).clone(), offset));
                        last = Some((from, extent.len, (*to).clone(), offset));
                        writing.push(to);
                    }
                    // It may be in passing.
                    Err(error)
                        if !is_damage(&error) && pack.unread.fetch_add(1, Ordering::Relaxed) < READ_TRIES =>
                    {
                        return Err(error.into());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "content that cannot be moved stays where it is");
                        pack.stuck.store(true, Ordering::Release);
                    }
                }
            }
            record(&moves)?;
            for (extent, to, offset) in moved {
                to.take(extent, offset);
            }
            drop(writing);
        }
        Ok(())
    }
}

/// What cannot be read so often, seconds apart, cannot be read.
pub const READ_TRIES: usize = 8;
/// So many small packs are too many.
const MANY: usize = 8;
/// Moves in one record.
const MOVES_AT_ONCE: usize = 256;
