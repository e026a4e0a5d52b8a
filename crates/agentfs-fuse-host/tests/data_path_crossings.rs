//! Programs that open, write, map, read and close the same files while snapshots are taken and branches come and go, in each
//! data path: what has returned is in a snapshot that is asked for afterwards, a snapshot never changes, and nothing is lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_core::testing::{Chance, Stop};
use agentfs_proto::Response;
use agentfs_proto::request::{BranchCreate, BranchDelete, BranchSnapshot};
use support::{Volume, can_mount, code};

const SECONDS: u64 = 6;
/// How long to wait on a busy machine until each has happened often enough.
const PATIENCE: Duration = Duration::from_secs(60);
/// Larger than what is packed: these are files of the host.
const SIZE: usize = 256 << 10;
/// Where numbers are written, in this order.
const CELLS: [u64; 3] = [0, 100_000, 250_000];

type Cells = [u64; CELLS.len()];

struct Written {
    path: PathBuf,
    begun: AtomicU64,
    done: AtomicU64,
}

fn cells(file: &File) -> Cells {
    CELLS.map(|at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    })
}

fn assert_between(seen: Cells, low: u64, high: u64, what: &str) {
    assert!(seen.iter().all(|cell| (low..=high).contains(cell)), "{what}: {seen:?}, not of {low} to {high}");
}

struct Work<'a> {
    v: &'a Volume,
    is_ordered: bool,
    files: Vec<Written>,
    stop: AtomicBool,
    started: Instant,
    /// Until when writers rest, in microseconds since the start.
    calm: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
    branches: AtomicU64,
}

impl Work<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    fn calm(&self, chance: &mut Chance) {
        let until = self.started.elapsed() + Duration::from_micros(chance.below(60_000));
        self.calm.store(until.as_micros() as u64, Ordering::SeqCst);
    }

    fn rest(&self) {
        let calm = Duration::from_micros(self.calm.load(Ordering::SeqCst));
        calm.checked_sub(self.started.elapsed()).into_iter().for_each(thread::sleep);
    }

    fn write(&self, file: &Written, mut chance: Chance) {
        while self.goes_on() {
            let open = File::options().read(true).write(true).open(&file.path).unwrap();
            for _ in 0..chance.below(50) {
                let number = file.begun.fetch_add(1, Ordering::SeqCst) + 1;
                CELLS.iter().for_each(|at| open.write_all_at(&number.to_le_bytes(), *at).unwrap());
                file.done.store(number, Ordering::SeqCst);
                if chance.below(30) == 0 {
                    open.sync_data().unwrap();
                }
                assert_between(cells(&open), number, number, "who wrote it");
                self.rest();
            }
        }
    }

    fn read(&self, mut chance: Chance) {
        while self.goes_on() {
            let file = &self.files[chance.below(self.files.len() as u64) as usize];
            let open = File::open(&file.path).unwrap();
            for _ in 0..=chance.below(3) {
                let low = file.done.load(Ordering::SeqCst);
                assert_between(cells(&open), low, file.begun.load(Ordering::SeqCst), "a reader");
                assert_eq!(fs::metadata(&file.path).unwrap().len(), SIZE as u64);
                thread::sleep(Duration::from_millis(chance.below(8)));
            }
        }
    }

    /// What the files are in another view.
    fn seen_in(&self, root: &Path) -> Vec<Cells> {
        let of = |file: &Written| cells(&File::open(root.join(file.path.file_name().unwrap())).unwrap());
        self.files.iter().map(of).collect()
    }

    fn check_frozen(&self, frozen: &[Cells], low: &[u64]) {
        for ((cells, file), low) in frozen.iter().zip(&self.files).zip(low) {
            assert_between(*cells, *low, file.begun.load(Ordering::SeqCst), "what was frozen");
            // What is written meanwhile the kernel's cache hands on in any order.
            let is_one_moment = !self.is_ordered
                || cells.is_sorted_by(|a, b| a >= b) && cells[CELLS.len() - 1] + 1 >= cells[0];
            assert!(is_one_moment, "{cells:?}");
        }
    }

    fn done(&self) -> Vec<u64> {
        self.files.iter().map(|file| file.done.load(Ordering::SeqCst)).collect()
    }

    fn take_snapshots(&self, mut chance: Chance) {
        let mut kept: Vec<(PathBuf, Vec<Cells>)> = Vec::new();
        for n in 0.. {
            if !self.goes_on() {
                return;
            }
            let (low, name) = (self.done(), format!("s{n}"));
            self.calm(&mut chance);
            match self.v.ask(BranchSnapshot { branch: "main".into(), name: Some(name.clone().into()) }) {
                Response::BranchSnapshot(_) => {}
                error => {
                    assert_eq!(code(&error), libc::EBUSY, "{error:?}");
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
            }
            self.taken.fetch_add(1, Ordering::SeqCst);
            let root = self.v.snapshot(&name);
            let frozen = self.seen_in(&root);
            self.check_frozen(&frozen, &low);
            kept.push((root, frozen));
            for (root, frozen) in kept.iter().rev().take(5) {
                assert_eq!(self.seen_in(root), *frozen, "a snapshot that was taken before");
            }
        }
    }

    /// A branch of main, in which the same files are written, and which goes again.
    fn branch(&self, mut chance: Chance) {
        for n in 0.. {
            if !self.goes_on() {
                return;
            }
            let (low, name) = (self.done(), format!("b{n}"));
            self.calm(&mut chance);
            match self.v.ask(BranchCreate { from: "main".into(), name: Some(name.clone().into()) }) {
                Response::BranchCreate(_) => {}
                error => {
                    assert_eq!(code(&error), libc::EBUSY, "{error:?}");
                    continue;
                }
            }
            self.branches.fetch_add(1, Ordering::SeqCst);
            let root = self.v.branch(&name);
            let begun = self.seen_in(&root);
            self.check_frozen(&begun, &low);
            let own = u64::MAX - n;
            let path = root.join(self.files[0].path.file_name().unwrap());
            let open = File::options().read(true).write(true).open(&path).unwrap();
            CELLS.iter().for_each(|at| open.write_all_at(&own.to_le_bytes(), *at).unwrap());
            thread::sleep(Duration::from_millis(chance.below(10)));
            drop(open);
            let now = self.seen_in(&root);
            assert_eq!((now[0], &now[1..]), ([own; CELLS.len()], &begun[1..]), "what a branch has");
            // Closing is told a little later.
            for _ in 0..500 {
                let gone = self.v.ask(BranchDelete { branch: name.clone().into(), force: true });
                if matches!(gone, Response::BranchDelete(_)) {
                    break;
                }
                assert_eq!(code(&gone), libc::EBUSY, "{gone:?}");
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    fn check(&self) {
        for file in &self.files {
            let done = file.done.load(Ordering::SeqCst);
            assert_between(cells(&File::open(&file.path).unwrap()), done, done, "at the end");
        }
    }
}

fn crossings(data_path: &str) {
    if !can_mount() {
        return;
    }
    let mut v = Volume::mount_with(&[], &[("AGENTFS_FUSE_DATA_PATH", data_path)]);
    let files = (0..3).map(|n| {
        let path = v.path(&format!("f{n}"));
        fs::write(&path, vec![0; SIZE]).unwrap();
        Written { path, begun: AtomicU64::new(0), done: AtomicU64::new(0) }
    });
    let (files, stop, calm) = (files.collect(), AtomicBool::new(false), AtomicU64::new(0));
    let (taken, refused, branches) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = Work {
        v: &v,
        is_ordered: data_path != "write-back",
        files,
        stop,
        started: Instant::now(),
        calm,
        taken,
        refused,
        branches,
    };
    thread::scope(|scope| {
        let work = &work;
        let mut works: Vec<Box<dyn FnOnce() + Send>> = vec![
            Box::new(|| work.read(Chance(4))),
            Box::new(|| work.take_snapshots(Chance(5))),
            Box::new(|| work.branch(Chance(6))),
        ];
        for (n, file) in work.files.iter().enumerate() {
            works.push(Box::new(move || work.write(file, Chance(n as u64))));
        }
        for run in works {
            scope.spawn(move || {
                let _stop = Stop(&work.stop);
                run();
            });
        }
        let enough = || [&work.taken, &work.branches].iter().all(|count| count.load(Ordering::SeqCst) > 5);
        let goes = || work.started.elapsed() < Duration::from_secs(SECONDS);
        while work.goes_on() && (goes() || !enough() && work.started.elapsed() < PATIENCE) {
            thread::sleep(Duration::from_millis(20));
        }
        work.stop.store(true, Ordering::SeqCst);
    });
    work.check();
    let counts = [&work.taken, &work.branches, &work.refused].map(|counter| counter.load(Ordering::SeqCst));
    println!("{data_path}: {:?} writes, {counts:?} snapshots, branches, refused", work.done());
    assert!(counts[0] > 5 && counts[1] > 5, "{counts:?}");
    assert!(data_path == "hybrid" || counts[2] == 0, "refused {} times", counts[2]);
    let files = work.files;
    v.kill();
    v.remount();
    let paths = files.iter().map(|file| (&file.path, file.done.load(Ordering::SeqCst)));
    paths.for_each(|(path, done)| {
        assert_between(cells(&File::open(path).unwrap()), done, done, "after a kill")
    });
}

#[test]
fn hybrid() {
    crossings("hybrid");
}

#[test]
fn exact() {
    crossings("exact");
}

#[test]
fn write_back() {
    crossings("write-back");
}
