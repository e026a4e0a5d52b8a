//! Objects counted by the contents that name them: the last one to go has its bytes deleted,
//! on a thread of its own, or by whoever asked to know how many bytes come back.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Sender, unbounded};
use tracing::warn;

use super::{Device, ObjectFile};
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

struct Reaper {
    queue: Sender<ObjectId>,
    closing: AtomicBool,
}

impl Reaper {
    fn start(device: Arc<dyn Device>) -> io::Result<Arc<Reaper>> {
        let (queue, work) = unbounded::<ObjectId>();
        thread::Builder::new().name("object-reaper".into()).spawn(move || {
            for id in work {
                remove(&*device, id);
            }
        })?;
        Ok(Arc::new(Reaper { queue, closing: AtomicBool::new(false) }))
    }

    fn remove_later(&self, id: ObjectId) {
        if !self.closing.load(Ordering::Relaxed) && self.queue.send(id).is_err() {
            warn!(object = id.0, "the object reaper is gone; the object stays behind");
        }
    }
}

fn remove(device: &dyn Device, id: ObjectId) -> u64 {
    device.remove(id).unwrap_or_else(|error| {
        warn!(object = id.0, %error, "could not delete an unused object");
        0
    })
}

/// A backstore with its objects numbered and reaped.
pub struct Store {
    device: Arc<dyn Device>,
    next: AtomicU64,
    reaper: Arc<Reaper>,
}

impl Store {
    /// A store over `device`, whose object ids begin at `first_object`.
    ///
    /// # Errors
    /// When the reaper's thread cannot be started.
    pub fn new(device: Arc<dyn Device>, first_object: ObjectId) -> io::Result<Store> {
        let reaper = Reaper::start(device.clone())?;
        Ok(Store { device, next: AtomicU64::new(first_object.0), reaper })
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
        let id = self.fresh_id();
        Ok((id, self.device.create(id)?))
    }

    /// A copy of the first `len` bytes of `from`, not yet named by any content.
    pub fn duplicate(&self, from: &Object, len: u64) -> io::Result<(ObjectId, Arc<dyn ObjectFile>)> {
        let id = self.fresh_id();
        Ok((id, self.device.duplicate(from.id, id, len)?))
    }

    /// Opens an object that a content names.
    pub fn open(&self, object: &Object) -> io::Result<Arc<dyn ObjectFile>> {
        self.device.open(object.id)
    }

    /// Makes an unnamed object private content of `epoch`, deleted when nothing names it any more.
    pub fn adopt(&self, id: ObjectId, epoch: Epoch) -> Arc<Object> {
        Arc::new(Object { id, epoch, reaper: self.reaper.clone() })
    }

    /// Deletes an object that was never adopted.
    pub fn discard(&self, id: ObjectId) {
        self.reaper.remove_later(id);
    }

    /// Drops `garbage`, deletes at once the objects that only it named, and returns the bytes they held.
    pub fn reclaim<T>(&self, garbage: T) -> u64 {
        CAPTURED.set(Some(Vec::new()));
        drop(garbage);
        let freed = CAPTURED.take().unwrap_or_default();
        freed.into_iter().map(|id| remove(&*self.device, id)).sum()
    }

    /// From now on objects are left where they are when their last content goes: the volume is closing.
    pub fn close(&self) {
        self.reaper.closing.store(true, Ordering::Relaxed);
    }
}
