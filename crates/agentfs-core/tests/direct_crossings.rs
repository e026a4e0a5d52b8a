//! Many threads that open, read, write and close the same files past the daemon and through it, while snapshots are taken
//! and branches come and go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agentfs_core::testing::{Chance, Stop, config, within};
use agentfs_core::{
    Caller, Config, CreateMode, Device, FallocateFlags, FileId, FileKind, FileStat, Folder, FsCore, FsError,
    HandleId, HostFs, InodeId, Memory, Name, ObjectFile, ObjectId, OpenMode, Seek, SnapshotId, Space, ViewId,
    check_store,
};

const SECONDS: u64 = 6;
/// How long to wait on a busy machine until each has happened often enough.
const PATIENCE: Duration = Duration::from_secs(80);
const FILES: usize = 5;
/// Of them these are written by one thread, one after the other: past the daemon, and through it.
const PAIR: (usize, usize) = (3, 4);
/// Where numbers are written, in this order.
const CELLS: [u64; 4] = [0, 20_000, 40_000, 60_000];
const SIZE: usize = 64 << 10;

type Cells = [u64; CELLS.len()];

/// A store that is slow at all that a snapshot looks at: what may come between does.
struct Slow<D>(D);

struct SlowFile(Arc<dyn ObjectFile>);

fn dawdle() {
    static TURN: AtomicU64 = AtomicU64::new(1);
    let mut chance = Chance(TURN.fetch_add(1, Ordering::Relaxed));
    chance.below(2);
    if chance.below(3) == 0 {
        thread::sleep(Duration::from_micros(chance.below(2500)));
    }
}

/// Dawdles before and after.
fn slowly<T>(work: impl FnOnce() -> T) -> T {
    dawdle();
    let done = work();
    dawdle();
    done
}

impl ObjectFile for SlowFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(data, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        slowly(|| self.0.set_len(len))
    }
    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(mode, offset, len)
    }
    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        self.0.seek(what, offset)
    }
    fn sync(&self, data_only: bool) -> io::Result<()> {
        slowly(|| self.0.sync(data_only))
    }
    fn await_writes(&self) -> io::Result<()> {
        slowly(|| self.0.await_writes())
    }
    fn stat(&self) -> io::Result<FileStat> {
        slowly(|| self.0.stat())
    }
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.0.descriptor()
    }
}

impl<D: Device> Device for Slow<D> {
    fn create(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        Ok(Arc::new(SlowFile(self.0.create(id)?)))
    }
    fn open(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        Ok(Arc::new(SlowFile(slowly(|| self.0.open(id))?)))
    }
    fn duplicate(&self, from: ObjectId, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>> {
        Ok(Arc::new(SlowFile(slowly(|| self.0.duplicate(from, to, len))?)))
    }
    fn exchange(&self, a: ObjectId, b: ObjectId) -> io::Result<()> {
        slowly(|| self.0.exchange(a, b))
    }
    fn remove(&self, id: FileId) -> io::Result<u64> {
        self.0.remove(id)
    }
    fn list(&self, folder: Folder) -> io::Result<Vec<FileId>> {
        self.0.list(folder)
    }
    fn publish(&self, piece: u64) -> io::Result<()> {
        self.0.publish(piece)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.0.sync_names()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }
    fn reflinks(&self) -> bool {
        self.0.reflinks()
    }
    fn tick(&self) -> Duration {
        self.0.tick()
    }
}

/// A descriptor: the host's file, where the kernel was given that.
struct Open {
    handle: HandleId,
    direct: Option<Arc<dyn ObjectFile>>,
}

impl Open {
    fn new(core: &FsCore, view: ViewId, ino: InodeId, mode: OpenMode) -> agentfs_core::Result<Open> {
        let handle = core.open(view, ino, mode, Caller::ROOT)?;
        // So does the host: what cannot be given is closed.
        let direct = core.open_direct(handle, true).inspect_err(|_| core.release(handle).unwrap())?;
        Ok(Open { handle, direct })
    }

    fn read(&self, core: &FsCore) -> Cells {
        CELLS.map(|at| {
            let mut bytes = [0; 8];
            let read = match &self.direct {
                Some(object) => object.read_at(&mut bytes, at).unwrap(),
                None => core.read(self.handle, at, &mut bytes).unwrap(),
            };
            assert_eq!(read, 8, "at {at}");
            u64::from_le_bytes(bytes)
        })
    }

    fn write(&self, core: &FsCore, number: u64) {
        for at in CELLS {
            let bytes = number.to_le_bytes();
            let written = match &self.direct {
                Some(object) => object.write_at(&bytes, at).unwrap(),
                None => core.write(self.handle, at, &bytes, false).unwrap(),
            };
            assert_eq!(written, 8);
        }
    }

    fn close(self, core: &FsCore) {
        core.release(self.handle).unwrap();
    }
}

/// A file of main's, that one thread writes numbers to, each greater than the last.
struct File {
    ino: InodeId,
    begun: AtomicU64,
    done: AtomicU64,
}

fn rest(chance: &mut Chance, longest: u64) {
    match chance.below(4) {
        0 => thread::sleep(Duration::from_millis(chance.below(longest))),
        1 => thread::yield_now(),
        _ => {}
    }
}

#[derive(Default, Debug)]
struct Counts {
    writes: AtomicU64,
    direct: AtomicU64,
    reads: AtomicU64,
    snapshots: AtomicU64,
    refused: AtomicU64,
    branches: AtomicU64,
}

struct Volume {
    core: Arc<FsCore>,
    files: Vec<File>,
    stop: AtomicBool,
    started: Instant,
    /// Until when writers rest, in microseconds since the start: snapshots are taken of what stands still.
    calm: AtomicU64,
    counts: Counts,
}

fn assert_between(seen: Cells, low: u64, high: u64, what: &str) {
    assert!(seen.iter().all(|cell| (low..=high).contains(cell)), "{what}: {seen:?}, not of {low} to {high}");
}

impl Volume {
    fn new(core: Arc<FsCore>) -> Volume {
        let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
        let files = (0..FILES).map(|n| {
            let name = Name::new(format!("f{n}").as_bytes()).unwrap();
            let ino = core.create(ViewId::MAIN, InodeId::ROOT, &name, what, Caller::ROOT).unwrap().ino;
            let handle = core.open(ViewId::MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
            core.write(handle, 0, &vec![0; SIZE], false).unwrap();
            core.release(handle).unwrap();
            File { ino, begun: AtomicU64::new(0), done: AtomicU64::new(0) }
        });
        let files = files.collect();
        let (stop, calm) = (AtomicBool::new(false), AtomicU64::new(0));
        Volume { core, files, stop, started: Instant::now(), calm, counts: Counts::default() }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Has the writers rest for a while, which ends at some moment of what follows.
    fn calm(&self, chance: &mut Chance) {
        let until = self.started.elapsed() + Duration::from_micros(chance.below(60_000));
        self.calm.store(until.as_micros() as u64, Ordering::SeqCst);
    }

    fn rest(&self, chance: &mut Chance) {
        let calm = Duration::from_micros(self.calm.load(Ordering::SeqCst));
        match calm.checked_sub(self.started.elapsed()) {
            Some(rest) => thread::sleep(rest),
            None => rest(chance, 5),
        }
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn write(&self, file: &File, mut chance: Chance) {
        while self.goes_on() {
            let open = Open::new(&self.core, ViewId::MAIN, file.ino, OpenMode::Write).unwrap();
            let second = (chance.below(3) == 0).then(|| {
                let mode = if chance.below(2) == 0 { OpenMode::Read } else { OpenMode::Write };
                let second = Open::new(&self.core, ViewId::MAIN, file.ino, mode).unwrap();
                // The kernel has one way to a node.
                assert_eq!(second.direct.is_some(), open.direct.is_some());
                second
            });
            for _ in 0..chance.below(40) {
                let number = file.begun.fetch_add(1, Ordering::SeqCst) + 1;
                open.write(&self.core, number);
                file.done.store(number, Ordering::SeqCst);
                Self::count(&self.counts.writes);
                if open.direct.is_some() {
                    Self::count(&self.counts.direct);
                }
                if let Some(second) = &second {
                    assert_between(second.read(&self.core), number, number, "a second descriptor");
                }
                if chance.below(20) == 0 {
                    self.core.fsync(open.handle, chance.below(2) == 0).unwrap();
                }
                self.rest(&mut chance);
            }
            if let Some(second) = second {
                second.close(&self.core);
            }
            open.close(&self.core);
            self.rest(&mut chance);
        }
    }

    /// Writes to one file, and then to the other.
    fn write_pair(&self, mut chance: Chance) {
        let (first, then) = (&self.files[PAIR.0], &self.files[PAIR.1]);
        // Nobody can have it past the daemon as long as this is open.
        let through = self.core.open(ViewId::MAIN, then.ino, OpenMode::Write, Caller::ROOT).unwrap();
        let through = Open { handle: through, direct: None };
        while self.goes_on() {
            let past = Open::new(&self.core, ViewId::MAIN, first.ino, OpenMode::Write).unwrap();
            for _ in 0..chance.below(60) {
                for (file, open) in [(first, &past), (then, &through)] {
                    let number = file.begun.fetch_add(1, Ordering::SeqCst) + 1;
                    open.write(&self.core, number);
                    file.done.store(number, Ordering::SeqCst);
                }
                self.rest(&mut chance);
            }
            past.close(&self.core);
        }
        through.close(&self.core);
    }

    fn read(&self, mut chance: Chance) {
        while self.goes_on() {
            let file = &self.files[chance.below(FILES as u64) as usize];
            let open = Open::new(&self.core, ViewId::MAIN, file.ino, OpenMode::Read).unwrap();
            for _ in 0..=chance.below(3) {
                let low = file.done.load(Ordering::SeqCst);
                let seen = open.read(&self.core);
                assert_between(seen, low, file.begun.load(Ordering::SeqCst), "a reader");
                assert_eq!(self.core.getattr(ViewId::MAIN, file.ino).unwrap().size, SIZE as u64);
                Self::count(&self.counts.reads);
                rest(&mut chance, 20);
            }
            open.close(&self.core);
        }
    }

    /// What a snapshot has.
    fn frozen(&self, id: SnapshotId) -> Vec<Cells> {
        let view = self.core.enter_snapshot(id, InodeId::ROOT).unwrap();
        let cells = self.files.iter().map(|file| {
            let open = Open::new(&self.core, view, file.ino, OpenMode::Read).unwrap();
            let cells = open.read(&self.core);
            open.close(&self.core);
            cells
        });
        let cells = cells.collect();
        self.core.forget(view, InodeId::ROOT, 1);
        cells
    }

    fn take_snapshots(&self, mut chance: Chance) {
        let mut kept: Vec<(SnapshotId, Vec<Cells>)> = Vec::new();
        while self.goes_on() {
            let low: Vec<_> = self.files.iter().map(|file| file.done.load(Ordering::SeqCst)).collect();
            self.calm(&mut chance);
            let id = match self.core.create_snapshot("main", None) {
                Ok(snapshot) => snapshot.id,
                Err(FsError::Busy(_)) => {
                    Self::count(&self.counts.refused);
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            Self::count(&self.counts.snapshots);
            let frozen = self.frozen(id);
            for ((cells, file), low) in frozen.iter().zip(&self.files).zip(low) {
                assert_between(*cells, low, file.begun.load(Ordering::SeqCst), "a snapshot");
                let is_one_moment = cells.is_sorted_by(|a, b| a >= b) && cells[3] + 1 >= cells[0];
                assert!(is_one_moment, "{cells:?}");
            }
            let (first, then) = (&frozen[PAIR.0], &frozen[PAIR.1]);
            assert!(first.iter().min() >= then.iter().max(), "{first:?} was written before {then:?}");
            kept.push((id, frozen));
            for (id, cells) in &kept {
                assert_eq!(self.frozen(*id), *cells, "a snapshot that was taken before");
            }
            if kept.len() > 4 {
                let (id, _) = kept.remove(0);
                self.core.delete_snapshot(&id.to_string()).unwrap();
            }
        }
    }

    /// A branch of main, in which the same files are written, and which goes again.
    fn branch(&self, mut chance: Chance) {
        while self.goes_on() {
            let low: Vec<_> = self.files.iter().map(|file| file.done.load(Ordering::SeqCst)).collect();
            self.calm(&mut chance);
            let branch = match self.core.create_branch("main", None) {
                Ok(branch) => branch,
                Err(FsError::Busy(_)) => continue,
                Err(error) => panic!("{error}"),
            };
            Self::count(&self.counts.branches);
            let view = self.core.enter_branch(branch.id, InodeId::ROOT).unwrap();
            for (n, (file, low)) in self.files.iter().zip(low).enumerate() {
                let reads = chance.below(2) == 0;
                let mode = if reads { OpenMode::Read } else { OpenMode::Write };
                let open = Open::new(&self.core, view, file.ino, mode).unwrap();
                let before = open.read(&self.core);
                assert_between(before, low, file.begun.load(Ordering::SeqCst), "a branch");
                let own = u64::MAX - n as u64;
                if !reads {
                    open.write(&self.core, own);
                }
                rest(&mut chance, 20);
                let expected = if reads { before } else { [own; CELLS.len()] };
                assert_eq!(open.read(&self.core), expected, "what a branch has");
                open.close(&self.core);
            }
            self.core.forget(view, InodeId::ROOT, 1);
            self.core.delete_branch(&branch.id.to_string(), true).unwrap();
        }
    }

    /// What `tend` and `sync` do at all times.
    fn keep(&self) {
        while self.goes_on() {
            self.core.tend().unwrap();
            self.core.sync().unwrap();
            thread::sleep(Duration::from_millis(30));
        }
    }

    fn check(&self) {
        for file in &self.files {
            let open = Open::new(&self.core, ViewId::MAIN, file.ino, OpenMode::Read).unwrap();
            let done = file.done.load(Ordering::SeqCst);
            assert_between(open.read(&self.core), done, done, "at the end");
            open.close(&self.core);
        }
    }

    fn run(&self, seed: u64) {
        let works: Vec<Box<dyn Fn() + Send + Sync + '_>> = vec![
            Box::new(|| self.write(&self.files[0], Chance(seed))),
            Box::new(|| self.write(&self.files[1], Chance(seed + 1))),
            Box::new(|| self.write(&self.files[2], Chance(seed + 2))),
            Box::new(|| self.write_pair(Chance(seed + 6))),
            Box::new(|| self.read(Chance(seed + 3))),
            Box::new(|| self.read(Chance(seed + 4))),
            Box::new(|| self.take_snapshots(Chance(seed + 7))),
            Box::new(|| self.branch(Chance(seed + 5))),
            Box::new(|| self.keep()),
        ];
        thread::scope(|scope| {
            for work in &works {
                scope.spawn(|| {
                    let _stop = Stop(&self.stop);
                    work();
                });
            }
            let begun = Instant::now();
            let goes = || begun.elapsed() < Duration::from_secs(SECONDS);
            while self.goes_on() && (goes() || !self.has_enough() && begun.elapsed() < PATIENCE) {
                thread::sleep(Duration::from_millis(20));
            }
            self.stop.store(true, Ordering::SeqCst);
        });
        self.check();
        println!("{:?}", self.counts);
        assert!(self.has_enough(), "{:?}", self.counts);
    }

    fn has_enough(&self) -> bool {
        let enough = [&self.counts.direct, &self.counts.reads, &self.counts.snapshots, &self.counts.branches];
        enough.iter().all(|counter| counter.load(Ordering::SeqCst) > 10)
    }
}

fn objects_only() -> Config {
    Config { small_file: 0, ..config() }
}

fn crossings(device: Arc<dyn Device>, seed: u64) {
    let (core, _) = FsCore::open_volume(device.clone(), objects_only()).unwrap();
    let volume = Volume::new(Arc::new(core));
    volume.run(seed);
    volume.core.close().unwrap();
    let Volume { core, files, stop, started, calm, counts } = volume;
    drop(core);
    let (core, found) = FsCore::open_volume(device.clone(), objects_only()).unwrap();
    assert_eq!(found.damage, None);
    let again = Volume { core: Arc::new(core), files, stop, started, calm, counts };
    again.check();
    again.core.close().unwrap();
    drop(again);
    let report = check_store(device, objects_only()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

#[test]
fn in_memory() {
    within(120, || crossings(Arc::new(Slow(Memory::default())), 1));
}

#[test]
fn on_a_host_directory() {
    within(120, || {
        let directory = tempfile::tempdir().unwrap();
        let device = HostFs::open(&directory.path().join("store"), true).unwrap();
        crossings(Arc::new(Slow(device)), 100);
    });
}
