//! What fails is tried again, less and less often.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Result;

/// Tries less and less often what fails.
pub(crate) struct Patience {
    /// Calls that pass at most before the next try.
    most: u32,
    failures: AtomicU32,
    /// Calls to let pass before the next try.
    wait: AtomicU32,
}

impl Patience {
    pub(crate) fn new(most: u32) -> Patience {
        Patience { most, failures: AtomicU32::new(0), wait: AtomicU32::new(0) }
    }

    /// Calls `work`, unless it failed lately: twice in a row, and it waits for one call, then for 3, 7 …, `most` in the end.
    pub(crate) fn attempt(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let (most, wait) = (self.most, self.wait.load(Ordering::Relaxed));
        if wait > 0 {
            self.wait.store(wait - 1, Ordering::Relaxed);
            return Ok(());
        }
        let done = work();
        let failures = if done.is_ok() { 0 } else { self.failures.load(Ordering::Relaxed) + 1 };
        self.failures.store(failures, Ordering::Relaxed);
        let wait = 1_u32.checked_shl(failures.saturating_sub(1)).map_or(most, |calls| most.min(calls - 1));
        self.wait.store(wait, Ordering::Relaxed);
        done
    }
}
