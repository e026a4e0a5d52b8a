//! Objects counted by the contents that name them: the last one to go has its bytes deleted by the reaper.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::packs::{PackLimits, Packs};
use super::reaper::{self, Durability, Reaper, Released};
use super::{Backing, Device, FileId, Folder, Live, ObjectFile, Opens};
use crate::types::{Epoch, ObjectId};

/// All of a backing file, named by at least one content.
pub struct Object {
    /// Its number in the store.
    pub id: ObjectId,
    backing: Arc<Backing>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.backing.fmt(f)
    }
}

impl Object {
    /// All of a file.
    pub fn of(backing: Arc<Backing>) -> Arc<Object> {
        backing.name_whole();
        Arc::new(Object { id: backing.id, backing })
    }

    /// The file.
    pub fn backing(&self) -> &Arc<Backing> {
        &self.backing
    }

    /// The epoch of the branch that may write it; no other may.
    pub fn epoch(&self) -> Epoch {
        self.backing.epoch()
    }

    /// It goes on as private content in another epoch of its branch: no other version names it.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.backing.set_epoch(epoch);
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        self.backing.drop_whole();
    }
}

/// An object that a content names and that is not there is no missing file to whoever reads it, but a broken one.
pub(super) fn missing_is_damage(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound { io::Error::other("the content is missing") } else { error }
}

/// Is it what is there that is broken, and not the way there?
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other)
}

/// Makes a file under a number that was never used.
pub(super) fn create_unused<Id: Copy + Into<FileId>>(
    device: &dyn Device,
    next: &AtomicU64,
    kind: impl Fn(u64) -> Id,
) -> io::Result<(Id, Arc<dyn ObjectFile>)> {
    loop {
        let id = kind(next.fetch_add(1, Ordering::Relaxed));
        match device.create(id.into()) {
            // Made before a crash that took its record along: its number is used up.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return Ok((id, made?)),
        }
    }
}

/// An object that no content names yet.
pub type Unnamed = (ObjectId, Arc<dyn ObjectFile>);

/// A backstore with its objects and packs, numbered and reaped.
pub struct Store {
    device: Arc<dyn Device>,
    /// Many small files' content.
    pub packs: Arc<Packs>,
    next: Arc<AtomicU64>,
    /// Numbers below are of earlier mounts.
    first: AtomicU64,
    reaper: Arc<Reaper>,
    /// Leaf lock: objects made ahead.
    pool: Mutex<Vec<Unnamed>>,
    /// Were any taken since the pool was filled?
    pool_used: AtomicBool,
}

/// More objects than one mount will make: so many numbers each takes, so that none is ever given twice.
const NUMBERS_PER_MOUNT: u64 = 1 << 40;
/// Objects made ahead.
const POOL: usize = 32;
/// Objects whose numbers differ by this lie in one folder of the host's: its name is made durable once for all of them.
const FOLDERS: u64 = 256;

impl Store {
    /// A store over `device`, whose files go when the log has become durable.
    pub fn new(device: Arc<dyn Device>, durability: Arc<dyn Durability>, limits: PackLimits) -> Store {
        let reaper = Arc::new(Reaper::new(durability));
        let (next, first) = (Arc::new(AtomicU64::new(1)), AtomicU64::new(1));
        let packs = Arc::new(Packs::new(device.clone(), reaper.clone(), next.clone(), limits));
        Store {
            device,
            packs,
            next,
            first,
            reaper,
            pool: Mutex::default(),
            pool_used: AtomicBool::new(false),
        }
    }

    /// Objects and packs up to `id` are taken.
    pub fn passed(&self, id: u64) {
        self.next.fetch_max(id.saturating_add(1), Ordering::Relaxed);
    }

    /// From here on objects and packs are of this mount.
    pub fn begin_mount(&self) {
        self.first.store(self.next.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The first number of the next mount, to be recorded before any of this one is used.
    pub fn next_mount(&self) -> u64 {
        self.first.load(Ordering::Relaxed).saturating_add(NUMBERS_PER_MOUNT)
    }

    /// Is a file, by its number, of an earlier mount?
    pub fn is_of_earlier(&self, number: u64) -> bool {
        number < self.first.load(Ordering::Relaxed)
    }

    /// All objects and packs that are there, in no particular order.
    ///
    /// # Errors
    /// What the device answers.
    pub fn files(&self) -> io::Result<Vec<FileId>> {
        let mut files = self.device.list(Folder::Objects)?;
        files.extend(self.device.list(Folder::Packs)?);
        Ok(files)
    }

    /// The device below.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// A number that no file has.
    fn fresh(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// An empty object, not yet named by any content: [`Store::adopt`] it, or [`Store::discard`] it.
    pub fn create(&self) -> io::Result<Unnamed> {
        self.pool_used.store(true, Ordering::Relaxed);
        if let Some(made) = self.pool.lock().pop() {
            return Ok(made);
        }
        create_unused(&*self.device, &self.next, ObjectId)
    }

    /// Makes objects ahead, if any were taken since.
    ///
    /// # Errors
    /// What the device answers.
    pub fn fill_pool(&self) -> io::Result<()> {
        let missing = POOL - self.pool.lock().len().min(POOL);
        if missing < POOL / 2 || !self.pool_used.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let base = self.next.fetch_add(FOLDERS * missing as u64, Ordering::Relaxed);
        for n in 0..missing as u64 {
            let id = ObjectId(base + FOLDERS * n);
            let file = self.device.create(FileId::Object(id))?;
            if n == 0 {
                file.sync(true)?;
            }
            self.pool.lock().push((id, file));
        }
        Ok(())
    }

    /// A copy of the first `len` bytes of `from`, not yet named by any content.
    ///
    /// # Errors
    /// What the device answers.
    pub fn duplicate(&self, from: &Object, len: u64) -> io::Result<Unnamed> {
        loop {
            let id = ObjectId(self.fresh());
            match self.device.duplicate(from.id, id, len) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => return Ok((id, made.map_err(missing_is_damage)?)),
            }
        }
    }

    /// A new object with the first `len` bytes of a file that is not the store's.
    ///
    /// # Errors
    /// What the device answers.
    pub fn import(&self, from: &dyn ObjectFile, len: u64) -> io::Result<Unnamed> {
        loop {
            let id = ObjectId(self.fresh());
            match self.device.import(from, id, len) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => return Ok((id, made?)),
            }
        }
    }

    /// Opens an object that a content names.
    ///
    /// # Errors
    /// What the device answers.
    pub fn open(&self, object: &Object) -> io::Result<Arc<dyn ObjectFile>> {
        self.device.open(FileId::Object(object.id)).map_err(missing_is_damage)
    }

    /// Opens the file of an object that a content names in part.
    ///
    /// # Errors
    /// What the device answers.
    pub fn open_backing(&self, backing: &Backing) -> io::Result<Arc<dyn ObjectFile>> {
        self.device.open(FileId::Object(backing.id)).map_err(missing_is_damage)
    }

    /// What a file in layers keeps open: nothing yet.
    pub fn opens(&self) -> Arc<Opens> {
        Arc::new(Opens::new(self.device.clone()))
    }

    /// Makes an unnamed object private content of `epoch`, deleted when nothing names it any more.
    pub fn adopt(&self, id: ObjectId, epoch: Epoch) -> Arc<Object> {
        Object::of(self.adopt_backing(id, epoch))
    }

    /// As [`Store::adopt`], of one that is to be named by stretches.
    pub fn adopt_backing(&self, id: ObjectId, epoch: Epoch) -> Arc<Backing> {
        Backing::new(id, epoch, self.reaper.clone(), !self.is_of_earlier(id.0))
    }

    /// Deletes an object that was never adopted.
    pub fn discard(&self, id: ObjectId) {
        self.reaper.remove_later(FileId::Object(id));
    }

    /// Drops `garbage` and returns what only it named; [`Store::remove`] that when it is durable.
    pub fn release<T>(&self, garbage: T) -> Released {
        reaper::release(garbage)
    }

    /// Deletes what was released, and stretches of files that are not written in an epoch that is `live`; returns the bytes it
    /// held.
    pub fn remove(&self, released: Released, live: &Live) -> u64 {
        released.remove(&*self.device, live, self.reaper.durable())
    }

    /// Is there a file of which something was let go?
    pub fn has_parts(&self) -> bool {
        self.reaper.has_parts()
    }

    /// Gives back the stretches of files that nothing names any more, as far as the log is durable, of those that are not
    /// written to in an epoch that is `live`; so many places and files at most. Returns the bytes that came back.
    pub fn punch(&self, live: &Live, most: usize) -> u64 {
        self.reaper.punch(&*self.device, live, most)
    }

    /// Deletes what was released when the log has become durable.
    pub fn remove_later(&self, released: Released) {
        released.remove_later(&self.reaper);
    }

    /// Deletes a file when the log has become durable.
    pub fn remove_file_later(&self, id: FileId) {
        self.reaper.remove_later(id);
    }

    /// Deletes what nothing names, as far as the log is durable; returns the number of files.
    pub fn reap(&self) -> usize {
        self.reaper.reap(&*self.device)
    }

    /// How often something was let go of: while this stays, there is nothing to give back.
    pub fn freed(&self) -> u64 {
        self.reaper.freed()
    }

    /// From now on files go with their last content. Before, while the volume is opened, none does: what fails then
    /// must not delete what was not found yet.
    pub fn serve(&self) {
        self.reaper.set_idle(false);
    }

    /// From now on files are left where they are when their last content goes: the volume ends.
    pub fn abandon(&self) {
        self.reaper.set_idle(true);
    }

    /// As [`Store::abandon`], leaving no objects that were made ahead.
    pub fn close(&self) {
        self.abandon();
        let made_ahead = std::mem::take(&mut *self.pool.lock());
        for (id, _) in made_ahead {
            // One that stays is swept away at the next mount.
            let _ = self.device.remove(FileId::Object(id));
        }
    }
}
