//! Objects that are to be durable before records, and those that could not be made so.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing::warn;

use crate::store::{Device, FileId, ObjectFile, no_space};
use crate::types::ObjectId;

/// Syncs objects.
pub(super) struct Objects {
    device: Arc<dyn Device>,
    /// Leaf lock: objects whose sync failed; were they given up?
    failed: Mutex<HashMap<ObjectId, bool>>,
    /// Is any given up?
    any: AtomicBool,
}

/// Does anybody write to objects meanwhile?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writers {
    Active,
    Out,
}

/// Why objects are not durable.
pub(super) enum Unsynced {
    /// They could not be opened now: nothing is lost by that.
    NotTried(io::Error),
    /// The host may have forgotten what it had not written.
    Failed(io::Error),
}

/// After a sync failed, what the host has not written of a file is like written to it, and no later sync would write it.
/// Nobody else writes to it meanwhile. Zeros need not be written: where the host forgot them, there are zeros. What is a
/// hole to the host may not be one.
fn write_anew(object: &dyn ObjectFile) -> io::Result<()> {
    let (mut at, len) = (0, object.stat()?.len);
    let mut chunk = vec![0; 1 << 20];
    while at < len {
        let read = object.read_at(&mut chunk, at)?;
        let bytes = chunk.get(..read).unwrap_or_default();
        if read == 0 {
            break;
        }
        if bytes.iter().any(|byte| *byte != 0) && object.write_at(bytes, at)? < read {
            return Err(no_space());
        }
        at += read as u64;
    }
    object.sync(true)
}

impl Objects {
    pub(super) fn new(device: Arc<dyn Device>) -> Objects {
        Objects { device, failed: Mutex::default(), any: AtomicBool::new(false) }
    }

    /// `None` for one that is gone: nothing names it.
    fn open(&self, id: ObjectId) -> io::Result<Option<Arc<dyn ObjectFile>>> {
        match self.device.open(FileId::Object(id)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Makes objects durable; those whose sync failed before by writing them anew, when nobody else writes to them. One that
    /// fails again is given up: what else was written is not to wait for it.
    pub(super) fn sync(&self, objects: &HashSet<ObjectId>, writers: Writers) -> Result<(), Unsynced> {
        let mut failure = None;
        for id in objects {
            let known = self.failed.lock().get(id).copied();
            if known == Some(true) {
                continue;
            }
            let object = match self.open(*id) {
                Ok(Some(object)) => object,
                Ok(None) => {
                    self.failed.lock().remove(id);
                    continue;
                }
                Err(error) => return Err(failure.map_or(Unsynced::NotTried(error), Unsynced::Failed)),
            };
            if known.is_some() && writers == Writers::Active {
                failure.get_or_insert_with(|| {
                    io::Error::other("the content of a file waits to be written anew")
                });
                continue;
            }
            let synced = if known.is_some() { write_anew(&*object) } else { object.sync(true) };
            match synced {
                Ok(()) => self.settle(*id, known),
                Err(error) if known.is_some() => {
                    warn!(object = id.0, %error, "the content of a file cannot be made durable; it is tried again");
                    self.give_up(*id);
                }
                Err(error) => {
                    self.failed.lock().insert(*id, false);
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(()), |error| Err(Unsynced::Failed(error)))
    }

    /// It is durable, unless that failed once more meanwhile.
    fn settle(&self, object: ObjectId, known: Option<bool>) {
        let mut failed = self.failed.lock();
        if failed.get(&object).copied() == known {
            failed.remove(&object);
        }
    }

    /// Is this one given up? Any, for `None`.
    pub(super) fn has_given_up(&self, object: Option<ObjectId>) -> bool {
        self.any.load(Ordering::Acquire)
            && object.is_none_or(|id| self.failed.lock().get(&id).is_some_and(|given_up| *given_up))
    }

    /// Tries what was given up again: this one, or all. Nobody writes to them meanwhile.
    ///
    /// # Errors
    /// What the device answers; the others were tried all the same.
    pub(super) fn try_given_up(&self, object: Option<ObjectId>) -> io::Result<()> {
        let is_wanted = |id: ObjectId| object.is_none_or(|wanted| wanted == id);
        let given_up: Vec<ObjectId> =
            self.failed.lock().iter().filter(|(id, up)| **up && is_wanted(**id)).map(|(id, _)| *id).collect();
        let mut tried = Ok(());
        for id in given_up {
            let written =
                self.open(id).and_then(|object| object.map_or(Ok(()), |object| write_anew(&*object)));
            match written {
                Ok(()) => drop(self.failed.lock().remove(&id)),
                Err(error) => tried = Err(error),
            }
        }
        let failed = self.failed.lock();
        self.any.store(failed.values().any(|given_up| *given_up), Ordering::Release);
        tried
    }

    /// It could not be made durable, and is tried again by and by.
    pub(super) fn give_up(&self, object: ObjectId) {
        let mut failed = self.failed.lock();
        failed.insert(object, true);
        self.any.store(true, Ordering::Release);
    }

    /// Of these nobody knows whether they are durable.
    pub(super) fn doubt(&self, objects: &[ObjectId]) {
        self.failed.lock().extend(objects.iter().map(|id| (*id, false)));
    }

    /// Is all durable that was to be?
    pub(super) fn are_sound(&self) -> bool {
        self.failed.lock().is_empty()
    }
}
