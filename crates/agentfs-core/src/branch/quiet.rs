//! Holding changes back for a while, for one that takes long and must not be overtaken all the time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long a change is held back at most: whoever waits may hold what others wait for.
const LONGEST: Duration = Duration::from_millis(250);

/// Whether changes are held back. A courtesy, no lock: nobody may rely on it.
#[derive(Default)]
pub(super) struct Quiet {
    asked: AtomicUsize,
    lock: Mutex<()>,
    over: Condvar,
}

/// Changes are held back while it lives.
pub struct Hush<'a>(&'a Quiet);

impl Quiet {
    pub(super) fn ask(&self) -> Hush<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Hush(self)
    }

    /// Waits for as long as changes are held back, and not for ever.
    pub(super) fn keep(&self) {
        if self.asked.load(Ordering::Relaxed) == 0 {
            return;
        }
        let until = Instant::now() + LONGEST;
        let mut lock = self.lock.lock();
        while self.asked.load(Ordering::Relaxed) > 0 {
            if self.over.wait_until(&mut lock, until).timed_out() {
                return;
            }
        }
    }
}

impl Drop for Hush<'_> {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
        // Who is about to wait has the lock.
        drop(self.0.lock.lock());
        self.0.over.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_wait_until_it_is_over_or_for_long_enough() {
        let quiet = Quiet::default();
        quiet.keep();
        let begun = Instant::now();
        let hush = quiet.ask();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| quiet.keep());
            std::thread::sleep(Duration::from_millis(20));
            drop(hush);
            waits.join().unwrap();
        });
        assert!(begun.elapsed() >= Duration::from_millis(20));
        let _hush = quiet.ask();
        quiet.keep();
    }
}
