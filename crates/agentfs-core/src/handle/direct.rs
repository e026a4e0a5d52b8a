//! Files that the kernel reads and writes past the daemon.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::OpenFile;
use crate::types::{InodeId, ObjectId, ViewId, kernel_stamps_begin, kernel_stamps_end};

/// All of them.
#[derive(Default)]
pub struct DirectFiles {
    /// Shared by who begins to read or write past the daemon, exclusive to whoever freezes a branch or has objects
    /// exchange their names.
    pub gate: RwLock<()>,
    /// Leaf lock: whose kernel node an object is, one at a time: others read it through the daemon, which can be told that
    /// it lies elsewhere.
    owners: Mutex<HashMap<ObjectId, (ViewId, InodeId)>>,
    /// Handles that may write so, in all.
    writers: AtomicU64,
    /// How often objects have exchanged their names.
    exchanges: AtomicU64,
}

impl DirectFiles {
    /// Nobody freezes a branch meanwhile; also for who holds it already.
    pub fn enter(&self) -> RwLockReadGuard<'_, ()> {
        #[cfg(not(agentfs_schedules))]
        return self.gate.read_recursive();
        // The explorer of schedules has no such lock, and nobody in its tests holds it twice.
        #[cfg(agentfs_schedules)]
        self.gate.read()
    }

    /// Is anything written past the daemon?
    pub fn any_writers(&self) -> bool {
        self.writers.load(Ordering::Acquire) > 0
    }

    /// One handle more; how many there are then. `None` when the object is another file's.
    pub fn begin(&self, object: ObjectId, file: &OpenFile, writable: bool) -> Option<u32> {
        let mut owners = self.owners.lock();
        let own = (file.view, file.ino);
        if *owners.entry(object).or_insert(own) != own {
            return None;
        }
        let handles = file.direct.fetch_add(1, Ordering::SeqCst) + 1;
        if writable {
            kernel_stamps_begin();
            file.direct_writers.fetch_add(1, Ordering::AcqRel);
            self.writers.fetch_add(1, Ordering::AcqRel);
        }
        Some(handles)
    }

    /// One handle less.
    pub fn end(&self, object: Option<ObjectId>, file: &OpenFile, writable: bool) {
        let mut owners = self.owners.lock();
        if writable {
            file.direct_writers.fetch_sub(1, Ordering::AcqRel);
            self.writers.fetch_sub(1, Ordering::AcqRel);
            kernel_stamps_end();
        }
        if file.direct.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(object) = object
        {
            owners.remove(&object);
        }
    }

    /// How often objects have exchanged their names. Whoever opened a frozen one before asks this after each read: what is
    /// open may be another's now, and be written to.
    pub fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Acquire)
    }

    /// The object of a file has another number now.
    pub fn renumbered(&self, from: ObjectId, to: ObjectId) {
        self.exchanges.fetch_add(1, Ordering::AcqRel);
        let mut owners = self.owners.lock();
        if let Some(owner) = owners.remove(&from) {
            owners.insert(to, owner);
        }
    }
}
