//! Real threads on one volume. Every test ends within a hard limit, or fails: a deadlock must not hang the run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at what goes wrong"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use agentfs_core::testing::proptest::strategy::{Strategy, ValueTree};
use agentfs_core::testing::proptest::test_runner::TestRunner;
use agentfs_core::testing::{
    CoreDriver, Driver, Dump, Errno, FileOp, Op, Path, Place, Stop, dump, file_ops, within,
};
use agentfs_core::{
    BranchId, Caller, Config, CreateMode, Edit, FileKind, FsCore, HandleId, InodeId, Journal, Memory, Name,
    OpenMode, PackLimits, Record, SetAttr, SnapshotId, Unrecorded, ViewId, check,
};

const MAIN: ViewId = ViewId::MAIN;
const ROOT: InodeId = InodeId::ROOT;
const RECORD: usize = 8;

fn volume() -> Arc<FsCore> {
    Arc::new(
        FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), Config::default()).unwrap(),
    )
}

/// A journal that is slow to take new content, so that snapshots wait at that moment.
struct SlowOnContent;

impl Journal for SlowOnContent {
    fn append(&self, record: &Record) -> agentfs_core::Result<()> {
        let Record::Edits(_, edits) = record else { return Ok(()) };
        if edits.iter().any(|edit| matches!(edit, Edit::Content(..))) {
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

fn create(core: &FsCore, name: &str) -> (InodeId, HandleId) {
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    let ino = core.create(MAIN, ROOT, &Name::new(name.as_bytes()).unwrap(), what, Caller::ROOT).unwrap().ino;
    (ino, core.open(MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap())
}

/// Calls `f` with the view of a snapshot.
fn in_snapshot<T>(core: &FsCore, id: SnapshotId, f: impl FnOnce(ViewId) -> T) -> T {
    let view = core.enter_snapshot(id, ROOT).unwrap();
    let value = f(view);
    core.forget(view, ROOT, 1);
    value
}

/// All bytes of a file; as many as its attributes say.
fn content(core: &FsCore, view: ViewId, ino: InodeId) -> Vec<u8> {
    let size = core.getattr(view, ino).unwrap().size as usize;
    let handle = core.open(view, ino, OpenMode::Read, Caller::ROOT).unwrap();
    let mut bytes = vec![0; size + RECORD];
    let read = core.read(handle, 0, &mut bytes).unwrap();
    core.release(handle).unwrap();
    assert_eq!(read, size, "bytes of the file, and the size it shows");
    bytes.truncate(read);
    bytes
}

/// Appends numbered records to some files in turn.
struct Writer {
    files: Vec<(InodeId, HandleId)>,
    /// The number of records begun, and of those whose write has returned.
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

impl Writer {
    const FILES: u64 = 3;

    fn new(core: &FsCore, name: &str) -> Writer {
        let files = (0..Writer::FILES).map(|k| create(core, &format!("{name}-{k}"))).collect();
        Writer { files, begun: AtomicU64::new(0), acknowledged: AtomicU64::new(0) }
    }

    /// Writes records until told to stop, no more than 400 a snapshot: every one copies the files.
    fn run(&self, core: &FsCore, snapshots: &AtomicU64, stop: &AtomicBool) {
        for number in 0.. {
            while number > (snapshots.load(Ordering::SeqCst) + 1) * 400 && !stop.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let handle = self.files[(number % Writer::FILES) as usize].1;
            let offset = number / Writer::FILES * RECORD as u64;
            self.begun.store(number + 1, Ordering::SeqCst);
            assert_eq!(core.write(handle, offset, &(number + 1).to_be_bytes(), false).unwrap(), RECORD);
            self.acknowledged.store(number + 1, Ordering::SeqCst);
        }
    }

    /// How many records a view holds, after seeing that they are whole and the first ones.
    fn records_in(&self, core: &FsCore, view: ViewId) -> u64 {
        let files: Vec<_> = self.files.iter().map(|(ino, _)| content(core, view, *ino)).collect();
        let count = files.iter().map(Vec::len).sum::<usize>() / RECORD;
        for number in 0..count {
            let (file, at) = (&files[number % files.len()], number / files.len() * RECORD);
            let record = file.get(at..at + RECORD).expect("no record is missing before the last");
            assert_eq!(record, (number as u64 + 1).to_be_bytes(), "record {number} of {count}");
        }
        assert!(files.iter().all(|file| file.len() % RECORD == 0), "a torn record");
        count as u64
    }
}

#[test]
fn a_snapshot_holds_what_was_acknowledged_before_it_and_nothing_begun_after() {
    within(120, || {
        let (core, snapshots, stop) = (volume(), AtomicU64::new(0), AtomicBool::new(false));
        let writers: Vec<_> = (0..3).map(|k| Writer::new(&core, &format!("writer-{k}"))).collect();
        let mut taken = Vec::new();
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            for writer in &writers {
                scope.spawn(|| writer.run(&core, &snapshots, &stop));
            }
            for _ in 0..200 {
                let acknowledged: Vec<_> =
                    writers.iter().map(|w| w.acknowledged.load(Ordering::SeqCst)).collect();
                let id = core.create_snapshot("main", None).unwrap().id;
                let begun: Vec<_> = writers.iter().map(|w| w.begun.load(Ordering::SeqCst)).collect();
                snapshots.fetch_add(1, Ordering::SeqCst);
                let held = in_snapshot(&core, id, |view| {
                    writers.iter().map(|writer| writer.records_in(&core, view)).collect::<Vec<_>>()
                });
                for (held, (least, most)) in held.iter().zip(acknowledged.iter().zip(&begun)) {
                    assert!((least..=most).contains(&held), "{held} records, not {least} to {most}");
                }
                taken.push((id, held));
            }
        });
        for (id, held) in &taken {
            let now: Vec<u64> =
                in_snapshot(&core, *id, |view| writers.iter().map(|w| w.records_in(&core, view)).collect());
            assert_eq!(*held, now, "snapshots do not change");
        }
        println!("records in the last snapshot: {:?}", taken.last());
    });
}

/// A snapshot that falls into a truncation shows the file before or after it.
#[test]
fn a_snapshot_during_truncations_holds_whole_states() {
    const LONG: usize = 300_000;
    const SHORT: u64 = 1000;
    within(120, || {
        let core =
            FsCore::new_volume(Arc::new(Memory::default()), Arc::new(SlowOnContent), Config::default())
                .unwrap();
        let stop = AtomicBool::new(false);
        let (ino, handle) = create(&core, "file");
        core.write(handle, 0, &vec![1; LONG], false).unwrap();
        thread::scope(|scope| {
            let _stop = Stop(&stop);
            scope.spawn(|| {
                let cut = SetAttr { size: Some(SHORT), ..SetAttr::default() };
                while !stop.load(Ordering::SeqCst) {
                    core.setattr(MAIN, ino, &cut, Caller::ROOT).unwrap();
                    core.write(handle, 0, &vec![1; LONG], false).unwrap();
                }
            });
            for _ in 0..500 {
                let id = core.create_snapshot("main", None).unwrap().id;
                let bytes = in_snapshot(&core, id, |view| content(&core, view, ino));
                assert!([LONG, SHORT as usize].contains(&bytes.len()), "{} bytes", bytes.len());
                assert!(bytes.iter().all(|byte| *byte == 1), "zeros where there were none");
                core.delete_snapshot(&id.to_string()).unwrap();
            }
        });
    });
}

#[test]
fn readers_of_a_file_see_it_whole_while_others_are_written() {
    within(60, || {
        let (core, stop) = (volume(), AtomicBool::new(false));
        let read = create(&core, "read");
        let expected: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        core.write(read.1, 0, &expected, false).unwrap();
        let written: Vec<_> = (0..3).map(|k| create(&core, &format!("written-{k}"))).collect();
        thread::scope(|scope| {
            for (file, (_, handle)) in written.iter().enumerate() {
                let (core, stop) = (&core, &stop);
                scope.spawn(move || {
                    for round in (0..=u8::MAX).cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
                        let data = vec![round ^ file as u8; 10_000];
                        core.write(*handle, u64::from(round % 8) * 10_000, &data, false).unwrap();
                    }
                });
            }
            let _stop = Stop(&stop);
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| (0..500).for_each(|_| assert_eq!(content(&core, MAIN, read.0), expected)))
                })
                .collect();
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
    });
}

/// Random operations of one thread, on two branches.
fn run_random_ops(core: &Arc<FsCore>, thread: usize) -> BTreeMap<i32, u32> {
    let mut runner = TestRunner::deterministic();
    let mut driver = CoreDriver::new(core.clone());
    let mut errors = BTreeMap::new();
    for round in 0..40 {
        // Each thread and round takes its own part of one sequence.
        let ops = file_ops(100 + thread).new_tree(&mut runner).unwrap().current();
        for (at, op) in ops.into_iter().enumerate() {
            let Op::File(_, op) = op else { continue };
            let branch = Place::Branch(((at + round + thread) % 2) as u8);
            if let Err(error) = driver.apply(&Op::File(branch, op)) {
                *errors.entry(error.raw_os_error()).or_insert(0) += 1;
            }
        }
    }
    errors
}

#[test]
fn operations_at_random_by_four_threads_leave_two_sound_branches() {
    within(120, || {
        let core = volume();
        let made = FileOp::Mkdir(Path::new(0, &[]), 0o755);
        let main = CoreDriver::new(core.clone()).apply(&Op::File(Place::Branch(0), made));
        assert!(main.is_ok());
        core.create_branch("main", Some("other")).unwrap();
        let stop = AtomicBool::new(false);
        let errors: Vec<_> = thread::scope(|scope| {
            scope.spawn(|| snapshots_until(&core, &stop));
            let threads: Vec<_> = (0..4)
                .map(|k| {
                    scope.spawn({
                        let core = &core;
                        move || run_random_ops(core, k)
                    })
                })
                .collect();
            let _stop = Stop(&stop);
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        println!("errors by errno, by thread: {errors:?}");
        assert!(errors.iter().all(|errors| !errors.contains_key(&Errno::IO.raw_os_error())));
        for info in core.list_branches(None, usize::MAX) {
            assert_sound(&core, info.view);
            println!("{} names in {}", dump(&core, info.view).len() - 1, info.name.unwrap());
        }
        let status = core.status().unwrap();
        assert_eq!((status.open_handles, status.known_inodes), (0, 0));
    });
}

/// Everything that is shown of all branches and snapshots.
fn all_dumps(core: &FsCore) -> Vec<(String, Dump)> {
    let branches = core.list_branches(None, usize::MAX).into_iter();
    let mut all: Vec<_> = branches.map(|info| (info.id.to_string(), dump(core, info.view))).collect();
    for info in core.list_snapshots(None, usize::MAX) {
        all.push((info.id.to_string(), in_snapshot(core, info.id, |view| dump(core, view))));
    }
    all
}

#[test]
fn compacting_while_four_threads_work_loses_nothing_of_what_a_kill_leaves() {
    within(120, || {
        let config = || Config {
            small_file: 4096,
            packs: PackLimits { size: 16_384, slack: 0 },
            log_factor: 0,
            log_slack: 10_000,
            ..Config::default()
        };
        let device = Arc::new(Memory::default());
        let core = Arc::new(FsCore::open_volume(device.clone(), config()).unwrap().0);
        let made = FileOp::Mkdir(Path::new(0, &[]), 0o755);
        assert!(CoreDriver::new(core.clone()).apply(&Op::File(Place::Branch(0), made)).is_ok());
        core.create_branch("main", Some("other")).unwrap();
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    core.compact().unwrap();
                    core.tend().unwrap();
                    if rounds.fetch_add(1, Ordering::SeqCst) % 8 == 0 {
                        core.create_snapshot("other", None).unwrap();
                    }
                }
            });
            let work: Vec<_> = (0..4)
                .map(|k| {
                    let core = &core;
                    scope.spawn(move || run_random_ops(core, k))
                })
                .collect();
            let _stop = Stop(&stop);
            work.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        });
        println!("compacted {rounds:?} times");
        let before = all_dumps(&core);
        drop(core);
        let (core, found) = FsCore::open_volume(device.clone(), config()).unwrap();
        assert_eq!(found.damage, None);
        assert!(all_dumps(&core) == before, "what was answered is not there after a kill");
        drop(core);
        let report = agentfs_core::check_store(device, config()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
        assert!(rounds.into_inner() > 10);
    });
}

/// Takes snapshots of both branches, each of which must be sound, until told to stop.
fn snapshots_until(core: &FsCore, stop: &AtomicBool) {
    let branches: Vec<BranchId> = core.list_branches(None, usize::MAX).iter().map(|info| info.id).collect();
    for branch in branches.iter().cycle().take_while(|_| !stop.load(Ordering::SeqCst)) {
        let id = core.create_snapshot(&branch.to_string(), None).unwrap().id;
        in_snapshot(core, id, |view| {
            assert_sound(core, view);
            dump(core, view);
        });
        core.delete_snapshot(&id.to_string()).unwrap();
    }
}

fn assert_sound(core: &FsCore, view: ViewId) {
    assert_eq!(check(&core.version(view).unwrap()), []);
}
