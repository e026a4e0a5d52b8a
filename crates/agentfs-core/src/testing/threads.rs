//! Tests with many threads: none of them hangs the run, and each thread has its own chances.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `test` on a thread of its own; panics when it panics or takes longer than `seconds`.
pub fn within(seconds: u64, test: impl FnOnce() + Send + 'static) {
    let (finished, wait) = mpsc::channel();
    let runner = thread::spawn(move || {
        test();
        let _ = finished.send(());
    });
    if wait.recv_timeout(Duration::from_secs(seconds)) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("not through after {seconds} s: a deadlock, or far too slow");
    }
    if let Err(panic) = runner.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Sets a flag when dropped, so that threads waiting for it also end when the test fails.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A generator of small numbers, of one thread; from its seed on always the same.
pub struct Chance(pub u64);

impl Chance {
    /// The next number, below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
