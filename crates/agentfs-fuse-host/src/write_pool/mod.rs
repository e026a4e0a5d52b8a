//! Threads for what may block: copies before a first write, large writes, truncation, fsync. A request is answered
//! when it is done, by the worker that did it. `AGENTFS_FUSE_TRACE_WRITES` logs each write's depth and latency.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{io, thread};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait for each worker before the thread that received a request does it itself.
const QUEUE_PER_WORKER: usize = 16;

/// The workers' queue.
pub(crate) struct WritePool {
    jobs: Sender<Job>,
    tracer: Arc<Tracer>,
    /// Receiving threads that may be writing at once, of their number; the others are there to answer.
    receivers: usize,
    writing: AtomicUsize,
}

/// Knows how many writes are under way.
struct Tracer {
    enabled: bool,
    in_flight: AtomicUsize,
}

/// A write under way; when dropped it is done, even by a panic.
struct InFlight {
    tracer: Arc<Tracer>,
    place: &'static str,
    bytes: usize,
    begun: Instant,
}

/// A receiving thread that writes.
pub(crate) struct WriteHere<'a> {
    pool: &'a WritePool,
    _in_flight: InFlight,
}

impl Drop for WriteHere<'_> {
    fn drop(&mut self) {
        self.pool.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let depth = self.tracer.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.tracer.enabled {
            let latency_us = self.begun.elapsed().as_micros() as u64;
            let (place, bytes) = (self.place, self.bytes);
            tracing::debug!(target: "agentfs::write", place, bytes, depth, latency_us);
        }
    }
}

impl WritePool {
    /// Starts `threads` workers; up to `receivers` of the threads that receive requests may write at once.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(threads: usize, receivers: usize, trace: bool) -> io::Result<WritePool> {
        let (jobs, queue) = bounded::<Job>(threads * QUEUE_PER_WORKER);
        for number in 0..threads {
            let queue = queue.clone();
            thread::Builder::new().name(format!("write-{number}")).spawn(move || serve(&queue))?;
        }
        let tracer = Arc::new(Tracer { enabled: trace, in_flight: AtomicUsize::new(0) });
        Ok(WritePool { jobs, tracer, receivers, writing: AtomicUsize::new(0) })
    }

    /// Has a worker do it; when all are busy and the queue is full, does it here.
    pub(crate) fn submit(&self, bytes: usize, work: impl FnOnce() + Send + 'static) {
        let in_flight = self.track("pool", bytes);
        let job: Job = Box::new(move || {
            let _in_flight = in_flight;
            work();
        });
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) = self.jobs.try_send(job) {
            job();
        }
    }

    /// To be held by a receiving thread while it writes, which is counted among the writes under way: handing it over would
    /// cost a copy of the data and a change of threads. `None` when so many do already that it had better wait for a worker.
    pub(crate) fn here(&self, bytes: usize) -> Option<WriteHere<'_>> {
        let at_work = WriteHere { pool: self, _in_flight: self.track("here", bytes) };
        (self.writing.fetch_add(1, Ordering::Relaxed) < self.receivers).then_some(at_work)
    }

    fn track(&self, place: &'static str, bytes: usize) -> InFlight {
        self.tracer.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { tracer: self.tracer.clone(), place, bytes, begun: Instant::now() }
    }
}

fn serve(queue: &Receiver<Job>) {
    for job in queue {
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a write panicked and is answered EIO; please report this");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_panicking_job_costs_no_worker() {
        let pool = WritePool::start(1, 1, false).unwrap();
        pool.submit(0, || panic!("on purpose"));
        let (done, wait) = bounded(1);
        pool.submit(0, move || done.send(thread::current().name().map(str::to_owned)).unwrap());
        assert_eq!(wait.recv_timeout(Duration::from_secs(5)).unwrap().as_deref(), Some("write-0"));
    }

    #[test]
    fn some_receivers_are_left_to_answer() {
        let pool = WritePool::start(1, 1, false).unwrap();
        let one = pool.here(1);
        assert!(one.is_some() && pool.here(1).is_none());
        drop(one);
        assert!(pool.here(1).is_some());
    }

    #[test]
    fn a_full_queue_makes_the_receiver_work() {
        let pool = WritePool::start(1, 1, false).unwrap();
        let (release, hold) = bounded::<()>(0);
        pool.submit(0, move || assert!(hold.recv().is_err()));
        while !pool.jobs.is_empty() {
            thread::yield_now();
        }
        for _ in 0..QUEUE_PER_WORKER {
            pool.submit(0, || {});
        }
        let here = thread::current().id();
        let (done, wait) = bounded(1);
        pool.submit(0, move || done.send(thread::current().id()).unwrap());
        assert_eq!(wait.recv_timeout(Duration::from_secs(5)).unwrap(), here);
        drop(release);
    }
}
