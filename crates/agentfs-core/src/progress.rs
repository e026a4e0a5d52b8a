//! How far a long operation is, and whether it is to end: shared by who carries it out and who watches.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{FsError, Result};

/// The progress of an operation.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Progress {
    /// One more file was looked at.
    ///
    /// # Errors
    /// `Cancelled` when the operation is to end.
    pub fn step(&self) -> Result<()> {
        self.done.fetch_add(1, Ordering::Relaxed);
        if self.is_cancelled.load(Ordering::Relaxed) { Err(FsError::Cancelled) } else { Ok(()) }
    }

    /// Files looked at.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The operation is to end, and change nothing.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }
}
