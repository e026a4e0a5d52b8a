//! Files that the kernel reads and writes by itself, past the daemon.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agentfs_core::testing::{CoreDriver, Trial, config, direct_ops};
use agentfs_core::{
    Caller, Config, Device, FsCore, FsError, HandleId, HostFs, InodeId, Memory, Name, ObjectFile, OpenMode,
    SetAttr, SetTime, Timestamp, Unrecorded, ViewId,
};

fn volume(device: Arc<dyn Device>) -> FsCore {
    FsCore::new_volume(device, Arc::new(Unrecorded), Config { small_file: 0, ..config() }).unwrap()
}

fn as_the_model(cases: u64, device: impl Fn() -> (Arc<dyn Device>, Option<tempfile::TempDir>)) {
    let direct = AtomicU64::new(0);
    for seed in 0..cases {
        let (device, _directory) = device();
        let mut trial = Trial::new(CoreDriver::new(Arc::new(volume(device))).past_the_daemon());
        let result = trial.run(&direct_ops(seed, 250), 25);
        direct.fetch_add(trial.driver().direct() as u64, Ordering::Relaxed);
        result.unwrap_or_else(|mismatch| panic!("seed {seed}: {mismatch}"));
    }
    println!("{direct:?} times past the daemon");
    assert!(direct.into_inner() > cases * 20);
}

#[test]
fn a_volume_in_memory_does_as_the_model() {
    as_the_model(100, || (Arc::new(Memory::default()), None));
}

#[test]
fn a_volume_on_a_host_directory_does_as_the_model() {
    as_the_model(10, || {
        let directory = tempfile::tempdir().unwrap();
        let device = HostFs::open(&directory.path().join("store"), true).unwrap();
        (Arc::new(device), Some(directory))
    });
}

/// A volume with a file of so many bytes.
fn with_file(len: usize) -> (FsCore, InodeId) {
    let core = volume(Arc::new(Memory::default()));
    let name = Name::new(b"f").unwrap();
    let made =
        core.create_open(ViewId::MAIN, InodeId::ROOT, &name, (0o644, 0), OpenMode::Write, Caller::ROOT);
    let (attr, handle) = made.unwrap();
    core.write(handle, 0, &vec![b'a'; len], false).unwrap();
    assert!(core.open_direct(handle, true).unwrap().is_some(), "nobody else has it open");
    core.release(handle).unwrap();
    (core, attr.ino)
}

fn open(core: &FsCore, ino: InodeId, mode: OpenMode) -> (HandleId, Option<Arc<dyn ObjectFile>>) {
    let handle = core.open(ViewId::MAIN, ino, mode, Caller::ROOT).unwrap();
    (handle, core.open_direct(handle, true).unwrap())
}

#[test]
fn size_and_times_are_the_hosts_and_what_was_set_stays() {
    let (core, ino) = with_file(100);
    let (handle, object) = open(&core, ino, OpenMode::Write);
    object.unwrap().write_at(b"more", 1000).unwrap();
    let attr = core.getattr(ViewId::MAIN, ino).unwrap();
    assert_eq!(attr.size, 1004);
    let name = Name::new(b"f").unwrap();
    assert_eq!(core.lookup(ViewId::MAIN, InodeId::ROOT, &name).unwrap().unwrap().size, 1004);
    let then = Timestamp { secs: 1_000_000, nanos: 7 };
    let set = SetAttr { mtime: Some(SetTime::At(then)), ..SetAttr::default() };
    core.setattr(ViewId::MAIN, ino, &set, Caller::ROOT).unwrap();
    core.release(handle).unwrap();
    let attr = core.getattr(ViewId::MAIN, ino).unwrap();
    assert_eq!((attr.size, attr.mtime), (1004, then));
}

#[test]
fn what_is_open_through_the_daemon_stays_so_and_what_takes_privileges_too() {
    let (core, ino) = with_file(100);
    let through = core.open(ViewId::MAIN, ino, OpenMode::Read, Caller::ROOT).unwrap();
    let (second, object) = open(&core, ino, OpenMode::Write);
    assert!(object.is_none());
    core.release(through).unwrap();
    core.release(second).unwrap();
    let set = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
    core.setattr(ViewId::MAIN, ino, &set, Caller::ROOT).unwrap();
    assert!(open(&core, ino, OpenMode::Write).1.is_none());
}

/// Two cells are written one after the other, all the while. A snapshot has both of one round, or the first of the next; or
/// it is refused by name.
#[test]
fn a_snapshot_of_what_is_written_all_the_while_is_of_one_moment_or_refused() {
    let (core, ino) = with_file(1 << 20);
    let (handle, object) = open(&core, ino, OpenMode::Write);
    let object = object.unwrap();
    let (stop, busy, cells) = (AtomicBool::new(false), AtomicBool::new(false), [0_u64, 500_000]);
    let read = |object: &dyn Fn(&mut [u8], u64)| {
        cells.map(|at| {
            let mut bytes = [0; 8];
            object(&mut bytes, at);
            u64::from_le_bytes(bytes)
        })
    };
    let (mut taken, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1_u64.. {
                cells.iter().for_each(|at| drop(object.write_at(&round.to_le_bytes(), *at)));
                // Now and then it rests.
                if round.is_multiple_of(50_000) && !busy.load(Ordering::Relaxed) {
                    std::thread::sleep(std::time::Duration::from_millis(40));
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        for _ in 0..10 {
            match core.create_snapshot("main", None) {
                Ok(snapshot) => {
                    taken += 1;
                    let view = core.enter_snapshot(snapshot.id, InodeId::ROOT).unwrap();
                    let frozen = core.open(view, ino, OpenMode::Read, Caller::ROOT).unwrap();
                    let seen = read(&|bytes, at| assert_eq!(core.read(frozen, at, bytes).unwrap(), 8));
                    core.release(frozen).unwrap();
                    core.forget(view, InodeId::ROOT, 1);
                    core.delete_snapshot(&snapshot.id.to_string()).unwrap();
                    assert!(seen[0] == seen[1] || seen[0] == seen[1] + 1, "{seen:?}");
                }
                Err(FsError::Busy(words)) => {
                    refused += 1;
                    assert!(words.contains(": f;"), "{words}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        busy.store(true, Ordering::Relaxed);
        // Whatever goes on, if it need not be of one moment; and it does not change afterwards.
        for _ in 0..3 {
            let snapshot = core.create_fuzzy_snapshot("main", None).unwrap();
            let view = core.enter_snapshot(snapshot.id, InodeId::ROOT).unwrap();
            let frozen = core.open(view, ino, OpenMode::Read, Caller::ROOT).unwrap();
            let seen = || read(&|bytes, at| assert_eq!(core.read(frozen, at, bytes).unwrap(), 8));
            let first = seen();
            std::thread::sleep(std::time::Duration::from_millis(30));
            assert_eq!(seen(), first);
            core.release(frozen).unwrap();
            core.forget(view, InodeId::ROOT, 1);
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{taken} taken, {refused} refused");
    core.release(handle).unwrap();
    core.create_snapshot("main", None).unwrap();
}

#[test]
fn what_has_not_changed_since_the_last_snapshot_is_not_copied_again() {
    let directory = tempfile::tempdir().unwrap();
    let device = Arc::new(HostFs::open(&directory.path().join("store"), false).unwrap());
    if !device.tick().is_zero() {
        println!("SKIPPED: this host does not note each change at a time of its own");
        return;
    }
    let core = volume(device.clone());
    let name = Name::new(b"f").unwrap();
    let made =
        core.create_open(ViewId::MAIN, InodeId::ROOT, &name, (0o644, 0), OpenMode::Write, Caller::ROOT);
    let (attr, handle) = made.unwrap();
    core.write(handle, 0, b"one", false).unwrap();
    let object = core.open_direct(handle, true).unwrap().unwrap();
    let objects = || {
        core.tend().unwrap();
        device.list(agentfs_core::Folder::Objects).unwrap().len()
    };
    let snapshot = || core.create_snapshot("main", None).unwrap().id;
    let first = snapshot();
    let held = objects();
    let second = snapshot();
    assert_eq!(objects(), held, "it was copied though nothing had changed");
    object.write_at(b"two", 0).unwrap();
    let third = snapshot();
    assert_eq!(objects(), held + 1);
    core.delete_snapshot(&first.to_string()).unwrap();
    let content = |id| {
        let view = core.enter_snapshot(id, InodeId::ROOT).unwrap();
        let (handle, mut bytes) = (core.open(view, attr.ino, OpenMode::Read, Caller::ROOT).unwrap(), [0; 3]);
        core.read(handle, 0, &mut bytes).unwrap();
        core.release(handle).unwrap();
        core.forget(view, InodeId::ROOT, 1);
        bytes
    };
    assert_eq!((content(second), content(third)), (*b"one", *b"two"));
    core.delete_snapshot(&second.to_string()).unwrap();
    // Nothing changes back to what no snapshot has any more.
    let fourth = snapshot();
    assert_eq!(content(fourth), *b"two");
}
