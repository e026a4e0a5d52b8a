//! Handles: what an `open` gave out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;

use super::OpenFile;
use crate::error::{FsError, Result};
use crate::types::HandleId;

/// One `open`.
pub struct Handle {
    /// The file.
    pub file: Arc<OpenFile>,
    /// May it be written through this handle?
    pub writable: bool,
    /// Whether the kernel may keep what is written through it for a while.
    pub is_cached: bool,
    /// Do its reads and writes go past the daemon?
    pub direct: AtomicBool,
}

impl Handle {
    /// One that reads and writes through the daemon.
    pub fn new(file: Arc<OpenFile>, writable: bool, is_cached: bool) -> Handle {
        Handle { file, writable, is_cached, direct: AtomicBool::new(false) }
    }
}

/// All handles.
pub struct Handles {
    handles: DashMap<HandleId, Arc<Handle>>,
    next: AtomicU64,
    open: AtomicU64,
    limit: u64,
}

impl Handles {
    /// A table with room for `limit` handles.
    pub fn new(limit: u64) -> Handles {
        Handles { handles: DashMap::new(), next: AtomicU64::new(1), open: AtomicU64::new(0), limit }
    }

    /// Makes sure that one more handle fits, and counts it.
    ///
    /// # Errors
    /// `TooManyHandles`.
    pub fn reserve(&self) -> Result<()> {
        let fits = |open: u64| (open < self.limit).then_some(open + 1);
        let counted = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        counted.map(|_| ()).map_err(|_| FsError::TooManyHandles)
    }

    /// Gives back what [`Handles::reserve`] counted and was not used.
    pub fn unreserve(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Adds a handle that was reserved.
    pub fn insert(&self, handle: Handle) -> HandleId {
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.handles.insert(id, Arc::new(handle));
        id
    }

    /// The handle.
    ///
    /// # Errors
    /// `BadHandle` when it is not open.
    pub fn get(&self, id: HandleId) -> Result<Arc<Handle>> {
        self.handles.get(&id).map(|handle| handle.clone()).ok_or(FsError::BadHandle)
    }

    /// Takes a handle out of the table.
    ///
    /// # Errors
    /// `BadHandle` when it is not open.
    pub fn remove(&self, id: HandleId) -> Result<Arc<Handle>> {
        let (_, handle) = self.handles.remove(&id).ok_or(FsError::BadHandle)?;
        self.unreserve();
        Ok(handle)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.handles.len()
    }
}
