//! Long operations, each in a thread of its own: begun by one request, watched, read and ended by others.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_core::{FsError, Progress, Result};
use agentfs_proto::response::{JobReply, PollReply, ReadReply};
use agentfs_proto::result::MAX_PART;
use parking_lot::Mutex;

/// Jobs that may be under way.
const MAX_RUNNING: usize = 32;
/// How long the result of a job is kept for whoever began it.
const KEPT: Duration = Duration::from_secs(600);
/// Results that are kept at the same time; of more, those that were found first go.
const MAX_KEPT: usize = 64;
/// Bytes of results that are kept; but the last one is, whatever it has.
const MAX_KEPT_BYTES: usize = 256 << 20;

/// What a job found, in bytes, and when.
type Ended = (Result<Vec<u8>>, Instant);

#[derive(Default)]
struct Job {
    progress: Progress,
    /// Was it told that it has ended?
    is_told: AtomicBool,
    ended: Mutex<Option<Ended>>,
}

/// All jobs of a volume.
#[derive(Default)]
pub(super) struct Jobs {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    jobs: BTreeMap<u64, Arc<Job>>,
}

impl Job {
    /// Since when it has ended, and how many bytes it found.
    fn ended(&self) -> Option<(Instant, usize)> {
        let ended = self.ended.lock();
        ended.as_ref().map(|(found, when)| (*when, found.as_ref().map_or(0, Vec::len)))
    }
}

impl Table {
    /// Forgets results that nobody came for, and those that are too many: whoever begins jobs and leaves them takes no more than
    /// that.
    fn forget_old(&mut self) {
        let ended = self.jobs.iter().filter_map(|(number, job)| Some((*number, job.ended()?)));
        let mut ended: Vec<_> = ended.collect();
        ended.sort_unstable_by_key(|(_, (when, _))| std::cmp::Reverse(*when));
        let (mut count, mut bytes) = (0, 0);
        for (number, (when, len)) in ended {
            (count, bytes) = (count + 1, bytes + len);
            let is_last = count == 1;
            if when.elapsed() >= KEPT || count > MAX_KEPT || (bytes > MAX_KEPT_BYTES && !is_last) {
                self.jobs.remove(&number);
            }
        }
    }
}

impl Jobs {
    /// Begins a job. `work` is to end soon with an error when its progress says that it is cancelled.
    ///
    /// # Errors
    /// `Busy` when too many are under way or there can be no more threads.
    pub(super) fn start(
        &self,
        name: &str,
        work: impl FnOnce(&Progress) -> Result<Vec<u8>> + Send + 'static,
    ) -> Result<JobReply> {
        let mut table = self.table.lock();
        table.forget_old();
        let running = table.jobs.values().filter(|job| job.ended.lock().is_none()).count();
        if running >= MAX_RUNNING {
            return Err(FsError::Busy(format!("{running} long operations are under way: try again later")));
        }
        let job = Arc::new(Job::default());
        let its = job.clone();
        let run = move || {
            let found = catch_unwind(AssertUnwindSafe(|| work(&its.progress)));
            let found = found.unwrap_or_else(|_| {
                tracing::error!("a job panicked; please report this");
                Err(FsError::Io(std::io::Error::other(
                    "the operation failed inside the daemon; its log says why",
                )))
            });
            *its.ended.lock() = Some((found, Instant::now()));
        };
        thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map_err(|error| FsError::Busy(format!("no thread can be started: {error}")))?;
        table.last += 1;
        let number = table.last;
        table.jobs.insert(number, job);
        Ok(JobReply { job: number })
    }

    /// How far a job is; its error, when it failed.
    ///
    /// # Errors
    /// `UnknownVersion` when there is no such job, and the job's own.
    pub(super) fn poll(&self, number: u64) -> Result<PollReply> {
        let job = self.job(number)?;
        let seen = job.progress.done();
        let mut ended = job.ended.lock();
        match ended.take() {
            None => Ok(PollReply { is_done: false, seen, length: 0 }),
            Some((Ok(found), when)) => {
                let length = found.len() as u64;
                *ended = Some((Ok(found), when));
                job.is_told.store(true, Ordering::Relaxed);
                Ok(PollReply { is_done: true, seen, length })
            }
            Some((Err(error), _)) => {
                // The table is locked before a job is.
                drop(ended);
                self.table.lock().jobs.remove(&number);
                Err(error)
            }
        }
    }

    /// A part of what a job found.
    ///
    /// # Errors
    /// `UnknownVersion` when there is no such job; `Busy` when it has not ended.
    pub(super) fn read(&self, number: u64, offset: u64) -> Result<ReadReply> {
        let job = self.job(number)?;
        let ended = job.ended.lock();
        let Some((Ok(found), _)) = &*ended else { return Err(FsError::Busy("the job has not ended".into())) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = found.get(from..).unwrap_or_default();
        Ok(ReadReply { bytes: rest.get(..MAX_PART).unwrap_or(rest).to_vec() })
    }

    /// Cancels a job: it ends soon, as cancelled if it was not too late. Forgets one of which it was told that it has ended.
    ///
    /// # Errors
    /// `UnknownVersion` when there is no such job.
    pub(super) fn end(&self, number: u64) -> Result<JobReply> {
        let job = self.job(number)?;
        job.progress.cancel();
        // One that ended just before it was to be cancelled is asked for once more.
        if job.is_told.load(Ordering::Relaxed) {
            self.table.lock().jobs.remove(&number);
        }
        Ok(JobReply { job: number })
    }

    fn job(&self, number: u64) -> Result<Arc<Job>> {
        let job = self.table.lock().jobs.get(&number).cloned();
        job.ok_or_else(|| FsError::UnknownVersion(format!("there is no job {number}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(jobs: &Jobs, job: u64) -> Result<PollReply> {
        loop {
            match jobs.poll(job) {
                Ok(reply) if !reply.is_done => thread::sleep(Duration::from_millis(1)),
                ended => return ended,
            }
        }
    }

    #[test]
    fn a_job_is_read_in_parts_and_then_forgotten() {
        let jobs = Jobs::default();
        let bytes: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        let found = bytes.clone();
        let JobReply { job } = jobs.start("test", move |_| Ok(found)).unwrap();
        assert_eq!(wait(&jobs, job).unwrap().length, 10_000);
        let mut read = Vec::new();
        loop {
            let part = jobs.read(job, read.len() as u64).unwrap().bytes;
            if part.is_empty() {
                break;
            }
            read.extend(part);
        }
        assert_eq!(read, bytes);
        jobs.end(job).unwrap();
        assert!(jobs.poll(job).is_err() && jobs.read(job, 0).is_err() && jobs.end(job).is_err());
    }

    #[test]
    fn a_job_that_is_ended_is_told_so() {
        let jobs = Jobs::default();
        let work = |progress: &Progress| {
            loop {
                progress.step()?;
                thread::sleep(Duration::from_millis(1));
            }
        };
        let JobReply { job } = jobs.start("test", work).unwrap();
        assert!(!jobs.poll(job).unwrap().is_done);
        jobs.end(job).unwrap();
        assert!(matches!(wait(&jobs, job), Err(FsError::Cancelled)));
        assert!(matches!(jobs.poll(job), Err(FsError::UnknownVersion(_))));
    }

    #[test]
    fn failures_and_panics_are_told_once() {
        let jobs = Jobs::default();
        let JobReply { job } = jobs.start("test", |_| Err(FsError::NotFound)).unwrap();
        assert!(matches!(wait(&jobs, job), Err(FsError::NotFound)));
        assert!(matches!(jobs.poll(job), Err(FsError::UnknownVersion(_))));
        let JobReply { job } = jobs.start("test", |_| panic!("this test panics")).unwrap();
        assert!(wait(&jobs, job).is_err());
    }

    #[test]
    fn results_that_nobody_comes_for_take_only_so_much() {
        let jobs = Jobs::default();
        let found = |bytes: usize| {
            let JobReply { job } = jobs.start("test", move |_| Ok(vec![0; bytes])).unwrap();
            wait(&jobs, job).map(|_| job)
        };
        let many: Vec<u64> = (0..MAX_KEPT + 10).map(|_| found(1).unwrap()).collect();
        let kept = |jobs: &Jobs, all: &[u64]| all.iter().filter(|job| jobs.poll(**job).is_ok()).count();
        found(1).unwrap();
        assert_eq!(kept(&jobs, &many), MAX_KEPT);
        let large: Vec<u64> = (0..4).map(|_| found(MAX_KEPT_BYTES / 2).unwrap()).collect();
        found(1).unwrap();
        assert_eq!((kept(&jobs, &many), kept(&jobs, &large)), (0, 2));
        let too_large = found(MAX_KEPT_BYTES + 1).unwrap();
        assert!(jobs.read(too_large, 0).is_ok(), "it could never be read");
    }

    #[test]
    fn there_are_only_so_many() {
        let jobs = Jobs::default();
        let wait_for_end = |progress: &Progress| {
            while progress.step().is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
            Ok(Vec::new())
        };
        let running: Vec<u64> =
            (0..MAX_RUNNING).map(|_| jobs.start("test", wait_for_end).unwrap().job).collect();
        assert!(matches!(jobs.start("test", wait_for_end), Err(FsError::Busy(_))));
        for job in running {
            jobs.end(job).unwrap();
            assert!(matches!(wait(&jobs, job), Err(FsError::Cancelled)) || jobs.end(job).is_ok());
        }
        jobs.start("test", |_| Ok(Vec::new())).unwrap();
    }
}
