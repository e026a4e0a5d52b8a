//! Objects counted by the contents that name them: the last one to go has its bytes deleted,
//! on a thread of its own, or by whoever asked to know how many bytes come back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tracing::warn;

use super::{Device, FileId, ObjectFile};
use crate::types::{Epoch, ObjectId};

thread_local! {
    /// While set, objects dropped by this thread are listed here instead of going to the reaper.
    static CAPTURED: RefCell<Option<Vec<ObjectId>>> = const { RefCell::new(None) };
}

/// A backing object that at least one content names.
pub struct Object {
    /// Its number in the store.
    pub id: ObjectId,
    /// The epoch of the branch that made it; no other may write it.
    pub epoch: Epoch,
    reaper: Arc<Reaper>,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "object {} of epoch {}", self.id.0, self.epoch.0)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let kept = CAPTURED.with_borrow_mut(|list| list.as_mut().map(|list| list.push(self.id)).is_some());
        if !kept {
            self.reaper.remove_later(self.id);
        }
    }
}

/// How far the log is durable: an object goes only when the record that let go of it will be found again.
pub trait Durability: Send + Sync {
    /// The position behind the last record.
    fn position(&self) -> u64;
    /// The position before which all is durable.
    fn durable(&self) -> u64;
}

struct Reaper {
    queue: Sender<(ObjectId, u64)>,
    durability: Arc<dyn Durability>,
    closing: AtomicBool,
}

/// How often the reaper looks whether the log has become durable.
const PAUSE: Duration = Duration::from_millis(200);

impl Reaper {
    fn start(device: Arc<dyn Device>, durability: Arc<dyn Durability>) -> io::Result<Arc<Reaper>> {
        let (queue, work) = unbounded();
        let watched = durability.clone();
        thread::Builder::new()
            .name("object-reaper".into())
            .spawn(move || reap(&work, &*device, &*watched))?;
        Ok(Arc::new(Reaper { queue, durability, closing: AtomicBool::new(true) }))
    }

    fn remove_later(&self, id: ObjectId) {
        let due = (id, self.durability.position());
        if !self.closing.load(Ordering::Relaxed) && self.queue.send(due).is_err() {
            warn!(object = id.0, "the object reaper is gone; the object stays until the next mount");
        }
    }
}

/// Deletes objects in the order they fell due, each when the log is durable so far; ends with the volume.
fn reap(work: &Receiver<(ObjectId, u64)>, device: &dyn Device, durability: &dyn Durability) {
    let mut waiting = VecDeque::new();
    loop {
        match work.recv_timeout(PAUSE) {
            Ok(due) => waiting.push_back(due),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let durable = durability.durable();
        while let Some((id, _)) = waiting.front().copied().filter(|(_, position)| *position <= durable) {
            waiting.pop_front();
            remove(device, id);
        }
    }
}

fn remove(device: &dyn Device, id: ObjectId) -> u64 {
    match device.remove(FileId::Object(id)) {
        Ok(held) => held,
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => {
            warn!(object = id.0, %error, "could not delete an unused object");
            0
        }
    }
}

/// An object that a content names and that is not there is no missing file to whoever reads it, but a broken one.
fn missing_is_damage(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::NotFound { io::Error::other("the content is missing") } else { error }
}

/// A backstore with its objects numbered and reaped.
pub struct Store {
    device: Arc<dyn Device>,
    next: AtomicU64,
    /// Object ids below are of earlier mounts.
    first: AtomicU64,
    reaper: Arc<Reaper>,
}

/// More objects than one mount will make: so many numbers each takes, so that none is ever given twice.
const NUMBERS_PER_MOUNT: u64 = 1 << 40;

impl Store {
    /// A store over `device`, whose objects go when the log has become durable.
    ///
    /// # Errors
    /// When the reaper's thread cannot be started.
    pub fn new(device: Arc<dyn Device>, durability: Arc<dyn Durability>) -> io::Result<Store> {
        let reaper = Reaper::start(device.clone(), durability)?;
        Ok(Store { device, next: AtomicU64::new(1), first: AtomicU64::new(1), reaper })
    }

    /// Objects up to `id` are taken.
    pub fn passed(&self, id: ObjectId) {
        self.next.fetch_max(id.0.saturating_add(1), Ordering::Relaxed);
    }

    /// From here on objects are of this mount; returns the first number of the next, to be recorded.
    pub fn begin_mount(&self) -> ObjectId {
        let first = self.next.load(Ordering::Relaxed);
        self.first.store(first, Ordering::Relaxed);
        ObjectId(first.saturating_add(NUMBERS_PER_MOUNT))
    }

    /// The first number of this mount.
    pub fn first_of_this_mount(&self) -> ObjectId {
        ObjectId(self.first.load(Ordering::Relaxed))
    }

    /// The device below.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    fn fresh_id(&self) -> ObjectId {
        ObjectId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// An empty object, not yet named by any content: [`Store::adopt`] it, or [`Store::discard`] it.
    pub fn create(&self) -> io::Result<(ObjectId, Arc<dyn ObjectFile>)> {
        loop {
            let id = self.fresh_id();
            match self.device.create(FileId::Object(id)) {
                // Made before a crash that took its record along: its number is used up.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => return Ok((id, made?)),
            }
        }
    }

    /// A copy of the first `len` bytes of `from`, not yet named by any content.
    pub fn duplicate(&self, from: &Object, len: u64) -> io::Result<(ObjectId, Arc<dyn ObjectFile>)> {
        loop {
            let id = self.fresh_id();
            match self.device.duplicate(from.id, id, len) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => return Ok((id, made.map_err(missing_is_damage)?)),
            }
        }
    }

    /// Opens an object that a content names.
    pub fn open(&self, object: &Object) -> io::Result<Arc<dyn ObjectFile>> {
        self.device.open(FileId::Object(object.id)).map_err(missing_is_damage)
    }

    /// Makes an unnamed object private content of `epoch`, deleted when nothing names it any more.
    pub fn adopt(&self, id: ObjectId, epoch: Epoch) -> Arc<Object> {
        Arc::new(Object { id, epoch, reaper: self.reaper.clone() })
    }

    /// Deletes an object that was never adopted.
    pub fn discard(&self, id: ObjectId) {
        self.reaper.remove_later(id);
    }

    /// Drops `garbage` and returns the objects that only it named; [`Store::remove`] them when that is durable.
    pub fn release<T>(&self, garbage: T) -> Vec<ObjectId> {
        CAPTURED.set(Some(Vec::new()));
        drop(garbage);
        CAPTURED.take().unwrap_or_default()
    }

    /// Deletes released objects; returns the bytes they held.
    pub fn remove(&self, objects: Vec<ObjectId>) -> u64 {
        objects.into_iter().map(|id| remove(&*self.device, id)).sum()
    }

    /// Deletes released objects when the log has become durable.
    pub fn remove_later(&self, objects: Vec<ObjectId>) {
        objects.into_iter().for_each(|id| self.reaper.remove_later(id));
    }

    /// From now on objects go with their last content. Before, while the volume is opened, none does: what fails then
    /// must not delete what was not found yet.
    pub fn serve(&self) {
        self.reaper.closing.store(false, Ordering::Relaxed);
    }

    /// From now on objects are left where they are when their last content goes: the volume is closing.
    pub fn close(&self) {
        self.reaper.closing.store(true, Ordering::Relaxed);
    }
}
