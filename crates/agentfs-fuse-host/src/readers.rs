//! How many threads wait for requests at a time. The kernel wakes those that wait in turn: when all do, each request wakes one
//! that sleeps, though the one that has just answered is awake, and so is its processor's cache. So a thread that has answered
//! steps aside for a moment when enough others wait; one does, until requests pile up.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Waiting for requests costs nothing: who was not needed for so long goes back to it. No request waits longer because all
/// that wait for requests are held up.
const ASIDE: Duration = Duration::from_millis(10);
/// A request that comes so soon after the last answer has waited for it …
const AT_ONCE: Duration = Duration::from_micros(3);
/// … and when so many in a row did, one more thread is to wait.
const PILED_UP: u32 = 32;

/// The threads of a session.
pub(crate) struct Readers {
    /// Leaf lock.
    count: Mutex<Count>,
    called: Condvar,
    /// Never more than so many wait while others are aside.
    most: usize,
}

struct Count {
    /// Threads that wait for a request, or are about to.
    waiting: usize,
    /// So many are to.
    enough: usize,
    aside: usize,
    /// Threads that are aside and were called back.
    called: usize,
    /// Requests in a row that had to wait.
    at_once: u32,
    answered: Instant,
}

impl Readers {
    /// All of so many threads wait for requests. `processors`: of the machine.
    pub(crate) fn new(threads: usize, processors: usize) -> Readers {
        let count =
            Count { waiting: threads, enough: 1, aside: 0, called: 0, at_once: 0, answered: Instant::now() };
        Readers { count: Mutex::new(count), called: Condvar::new(), most: (processors / 2).max(1) }
    }

    /// A thread has received a request; `may_wait`: for the disk, say.
    pub(crate) fn received(&self, now: Instant, may_wait: bool) {
        let mut count = self.count.lock();
        count.waiting = count.waiting.saturating_sub(1);
        let is_late = now.duration_since(count.answered) < AT_ONCE;
        count.at_once = if is_late { count.at_once + 1 } else { 0 };
        if count.at_once == PILED_UP {
            count.at_once = 0;
            count.enough = (count.enough + 1).min(self.most);
        }
        let wanted = if may_wait { 1 } else { count.enough - 1 };
        if count.waiting < wanted && count.aside > 0 {
            count.aside -= 1;
            count.waiting += 1;
            count.called += 1;
            self.called.notify_one();
        }
    }

    /// A thread has answered, and is about to wait for a request.
    pub(crate) fn answered(&self) {
        let mut count = self.count.lock();
        count.answered = Instant::now();
        if count.waiting < count.enough {
            count.waiting += 1;
            return;
        }
        count.aside += 1;
        let until = count.answered + ASIDE;
        while count.called == 0 {
            if self.called.wait_until(&mut count, until).timed_out() && count.called == 0 {
                count.aside -= 1;
                count.waiting += 1;
                count.enough = (count.enough - 1).max(1);
                return;
            }
        }
        count.called -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;

    use super::*;

    /// A thread that answers; tells when it waits for requests again.
    fn answer(readers: &Arc<Readers>) -> Receiver<Duration> {
        let (readers, (back, told)) = (readers.clone(), channel());
        let begun = Instant::now();
        thread::spawn(move || {
            readers.answered();
            let _ = back.send(begun.elapsed());
        });
        told
    }

    fn patiently(told: &Receiver<Duration>) -> Duration {
        told.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn whoever_is_not_needed_steps_aside_for_a_moment() {
        let readers = Arc::new(Readers::new(2, 2));
        readers.received(Instant::now(), false);
        assert!(patiently(&answer(&readers)) >= ASIDE);
        assert_eq!(readers.count.lock().waiting, 2);
    }

    #[test]
    fn before_a_request_that_may_wait_another_is_called_back() {
        let readers = Arc::new(Readers::new(2, 2));
        readers.received(Instant::now(), false);
        let first = answer(&readers);
        while readers.count.lock().aside == 0 {
            thread::yield_now();
        }
        readers.received(Instant::now(), true);
        patiently(&first);
        let count = readers.count.lock();
        assert_eq!((count.waiting, count.aside, count.called), (1, 0, 0));
    }

    #[test]
    fn more_wait_when_requests_pile_up_and_fewer_when_they_no_longer_do() {
        let readers = Arc::new(Readers::new(8, 8));
        let pile_up = || {
            for _ in 0..PILED_UP {
                let now = readers.count.lock().answered;
                readers.received(now, false);
                readers.count.lock().waiting += 1;
            }
        };
        (0..10).for_each(|_| pile_up());
        assert_eq!(readers.count.lock().enough, 4);
        for _ in 0..10 {
            patiently(&answer(&readers));
        }
        assert_eq!(readers.count.lock().enough, 1);
    }
}
