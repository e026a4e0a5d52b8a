//! Packs: files that hold the content of many small files, so that one of these costs no file of the host's. Content is
//! appended and never changed; each stretch of it, an extent, is known by its checksum. A file that grows at the end of a
//! pack grows there: its extent before is a part of that after. A pack goes with the last extent in it; one that holds
//! little is emptied by moving what it holds to another.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::object::missing_is_damage;
use super::quota::{Account, Charge, Charged, Unit};
use super::reaper::Reaper;
use super::stretch::{merge, whole_blocks};
use super::{BLOCK, Device, FileId, ObjectFile, Stretch};
use crate::types::PackId;

/// Where an extent begins.
pub type Place = (PackId, u32);

/// Content of a small file, which never changes but may be moved.
pub struct Extent {
    /// Leaf lock.
    pub(super) place: Mutex<(Arc<Pack>, u32)>,
    /// Bytes, 1 at least.
    pub len: u32,
    /// CRC-32C of the bytes.
    pub crc: u32,
    charge: Charged,
}

impl Extent {
    /// Where it is now.
    pub fn place(&self) -> Place {
        let place = self.place.lock();
        (place.0.id, place.1)
    }

    /// Its bytes, whole and unchanged.
    ///
    /// # Errors
    /// What the device answers; `InvalidData` when they are not those that were written.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        loop {
            let (pack, offset) = self.place.lock().clone();
            if let Some(bytes) = pack.read(offset, self)? {
                return Ok(bytes);
            }
            if self.place() == (pack.id, offset) {
                let text = format!("the content at byte {offset} of pack {:x} is damaged", pack.id.0);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }

    /// What it holds, for which this was `reserved`, is charged to `account`, in whole blocks as `stat` shows it, if nobody was
    /// charged before.
    pub fn charge(&self, account: &Arc<Account>, reserved: Option<&Charge>) {
        self.charge.set(account, Unit::Bytes, u64::from(self.len).next_multiple_of(BLOCK), reserved);
    }

    /// How much of it is charged to `account`, in bytes.
    pub fn charged_to(&self, account: &Arc<Account>) -> u64 {
        self.charge.get().map_or(0, |charge| charge.held_of(account))
    }

    /// It is there from now on.
    fn move_to(&self, pack: Arc<Pack>, offset: u32) {
        pack.live.fetch_add(u64::from(self.len), Ordering::Relaxed);
        let (old, _) = std::mem::replace(&mut *self.place.lock(), (pack, offset));
        old.live.fetch_sub(u64::from(self.len), Ordering::Relaxed);
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        let pack = &self.place.get_mut().0;
        pack.live.fetch_sub(u64::from(self.len), Ordering::Relaxed);
        pack.reaper.note_packed(u64::from(self.len));
    }
}

impl std::fmt::Debug for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pack, offset) = self.place();
        write!(f, "{} bytes at {offset} of pack {}", self.len, pack.0)
    }
}

/// A pack. It is deleted when nothing holds it, and the log is durable so far.
pub struct Pack {
    /// Its number in the store.
    pub id: PackId,
    device: Arc<dyn Device>,
    pub(super) file: OnceLock<Arc<dyn ObjectFile>>,
    /// Bytes of extents that something names, the same ones several times when a file grew and snapshots have it as it was.
    pub(super) live: AtomicU64,
    /// Those bytes counted once, or more, and what `live` was when they were counted.
    named: AtomicU64,
    counted: AtomicU64,
    /// Bytes in it.
    pub(super) len: AtomicU64,
    /// Who is writing to it and has not named what was written.
    pub(super) writing: AtomicUsize,
    /// Has it bytes that are not durable?
    pub(super) dirty: AtomicBool,
    /// A sync failed: the host may have forgotten what it had not written, and what is here is to be moved.
    pub(super) failed: AtomicBool,
    /// How often something in it could not be read.
    pub(super) unread: AtomicUsize,
    /// It holds damaged content, which cannot be moved.
    pub(super) stuck: AtomicBool,
    /// Records that are lost may have named what is in it: it stays as it is.
    pub(super) kept: AtomicBool,
    extents: Mutex<Vec<Weak<Extent>>>,
    reaper: Arc<Reaper>,
}

impl Drop for Pack {
    fn drop(&mut self) {
        if !self.is(&self.kept) {
            self.reaper.remove_later(FileId::Pack(self.id));
        }
    }
}

impl Pack {
    pub(super) fn new(id: PackId, device: Arc<dyn Device>, reaper: Arc<Reaper>) -> Pack {
        Pack {
            id,
            device,
            file: OnceLock::new(),
            live: AtomicU64::new(0),
            named: AtomicU64::new(u64::MAX),
            counted: AtomicU64::new(u64::MAX),
            len: AtomicU64::new(0),
            writing: AtomicUsize::new(0),
            dirty: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
            stuck: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            extents: Mutex::default(),
            reaper,
        }
    }

    pub(super) fn file(&self) -> io::Result<&Arc<dyn ObjectFile>> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = self.device.open(FileId::Pack(self.id)).map_err(missing_is_damage)?;
        Ok(self.file.get_or_init(|| opened))
    }

    /// A new extent in it, that was written or is known to have been.
    pub fn add(self: &Arc<Pack>, offset: u32, len: u32, crc: u32) -> Arc<Extent> {
        self.live.fetch_add(u64::from(len), Ordering::Relaxed);
        let place = Mutex::new((self.clone(), offset));
        let extent = Arc::new(Extent { place, len, crc, charge: Charged::default() });
        self.note(&extent);
        extent
    }

    /// An extent lies at `offset` of this pack from now on.
    pub fn take(self: &Arc<Pack>, extent: &Arc<Extent>, offset: u32) {
        self.note(extent);
        extent.move_to(self.clone(), offset);
    }

    /// Is the content of `extent` at `offset` of this pack, too?
    pub fn holds(&self, offset: u32, extent: &Extent) -> bool {
        matches!(self.read(offset, extent), Ok(Some(_)))
    }

    /// The content of `extent`, if that is what lies at `offset`.
    fn read(&self, offset: u32, extent: &Extent) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; extent.len as usize];
        let read = self.file()?.read_at(&mut bytes, u64::from(offset))?;
        let is_whole = read == bytes.len() && crc32c::crc32c(&bytes) == extent.crc;
        Ok(is_whole.then_some(bytes))
    }

    fn note(&self, extent: &Arc<Extent>) {
        let mut extents = self.extents.lock();
        if extents.len() == extents.capacity() {
            extents.retain(|extent| extent.strong_count() > 0);
            let live = extents.len();
            extents.reserve(live.max(8));
        }
        extents.push(Arc::downgrade(extent));
    }

    /// All that something names, and some that were moved away since.
    pub(super) fn extents(&self) -> Vec<Arc<Extent>> {
        self.extents.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Stretches that something names, in order, none touching the next.
    fn stretches(&self) -> Vec<Stretch> {
        let here = |extent: &Arc<Extent>| {
            let (pack, offset) = extent.place();
            (pack == self.id).then_some((u64::from(offset), u64::from(offset) + u64::from(extent.len)))
        };
        let mut named: Vec<Stretch> = self.extents().iter().filter_map(here).collect();
        merge(&mut named);
        named
    }

    /// Stretches of whole blocks that nothing names, each from its first byte to behind its last.
    pub(super) fn gaps(&self) -> Vec<Stretch> {
        let named = self.stretches();
        let len = self.len.load(Ordering::Relaxed);
        let starts = std::iter::once(0).chain(named.iter().map(|(_, end)| *end));
        let ends = named.iter().map(|(start, _)| *start).chain([len]);
        starts.zip(ends).filter_map(whole_blocks).collect()
    }

    pub(super) fn is(&self, flag: &AtomicBool) -> bool {
        flag.load(Ordering::Acquire)
    }

    /// Did a sync of it fail, and has what it holds not been moved away yet?
    pub(super) fn is_doubtful(&self) -> bool {
        self.is(&self.failed) && !self.is(&self.stuck) && self.live() > 0
    }

    /// May its content be moved away, and its space be given back?
    pub(super) fn is_movable(&self) -> bool {
        !self.is(&self.kept) && !self.is(&self.stuck)
    }

    /// Bytes that something names, or more.
    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed).min(self.named.load(Ordering::Relaxed))
    }

    /// By how much what is named has shrunk since it was counted.
    pub(super) fn uncounted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed).saturating_sub(self.live.load(Ordering::Relaxed))
    }

    /// Counts what something names. Nothing is appended to it any more.
    pub(super) fn count(&self) {
        self.counted.store(self.live.load(Ordering::Relaxed), Ordering::Relaxed);
        let named = self.stretches().iter().map(|(start, end)| end - start).sum();
        self.named.store(named, Ordering::Relaxed);
    }
}

/// A pack that is being written to, until what was written has a name.
pub(super) struct Writing(Arc<Pack>);

impl Writing {
    pub(super) fn to(pack: &Arc<Pack>) -> Writing {
        pack.writing.fetch_add(1, Ordering::AcqRel);
        Writing(pack.clone())
    }
}

impl std::ops::Deref for Writing {
    type Target = Arc<Pack>;
    fn deref(&self) -> &Arc<Pack> {
        &self.0
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::AcqRel);
    }
}
