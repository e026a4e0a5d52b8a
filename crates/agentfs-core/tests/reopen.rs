//! A volume that ends and is opened again, cleanly or by a crash of its daemon, is the volume it was: every operation
//! that was answered is there, in all branches and snapshots.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use agentfs_core::testing::{CoreDriver, Trial, config, random_cases};
use agentfs_core::{
    Caller, Config, CreateMode, Device, FileId, FileKind, Folder, FsCore, HostFs, InodeId, Memory, Name,
    OpenMode, PackLimits, SetAttr, SetTime, Timestamp, ViewId,
};
use volume::Volume;

mod volume;

fn open(device: &Arc<Memory>) -> Arc<FsCore> {
    open_with(device, config())
}

fn open_with(device: &Arc<Memory>, config: Config) -> Arc<FsCore> {
    let (core, found) = FsCore::open_volume(device.clone(), config).unwrap();
    assert_eq!(found.damage, None);
    Arc::new(core)
}

/// A log that is compacted at every mount.
fn eager() -> Config {
    Config { log_factor: 0, log_slack: 0, ..config() }
}

#[test]
fn whatever_was_answered_is_there_after_a_crash() {
    crash_and_compare(config, |driver| driver);
}

#[test]
fn whatever_was_answered_is_there_when_the_log_is_compacted_at_every_mount() {
    crash_and_compare(eager, |driver| driver);
}

#[test]
fn whatever_was_written_past_the_daemon_is_there_after_a_crash() {
    crash_and_compare(|| Config { small_file: 0, ..config() }, CoreDriver::past_the_daemon);
}

/// As every file that was frozen once has its content in layers.
fn layered() -> Config {
    Config { small_file: 0, layered_from: 1, ..config() }
}

#[test]
fn whatever_was_written_in_layers_is_there_after_a_crash() {
    crash_and_compare(layered, |driver| driver);
    crash_and_compare(|| Config { log_factor: 0, log_slack: 0, ..layered() }, |driver| driver);
    crash_and_compare(layered, CoreDriver::past_the_daemon);
}

fn crash_and_compare(config: fn() -> Config, prepare: fn(CoreDriver) -> CoreDriver) {
    let (executed, restarts, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    random_cases("tests/reopen.proptest-regressions", 60, 200, |ops| {
        let device = Arc::new(Memory::default());
        let mut trial = Trial::new(prepare(CoreDriver::new(open_with(&device, config()))));
        for (round, batch) in ops.chunks(15).enumerate() {
            batch.iter().try_for_each(|op| trial.step(op)).map_err(|m| m.to_string())?;
            trial.restart(|driver| {
                // Every other time nothing is closed and nothing synced: the daemon was killed.
                if round % 2 == 0 {
                    driver.core().close().unwrap();
                }
                driver.reopened(open_with(&device, config()));
            });
            restarts.fetch_add(1, Ordering::Relaxed);
            trial.compare().map_err(|m| m.to_string())?;
        }
        executed.fetch_add(trial.counts().0, Ordering::Relaxed);
        Ok(())
    });
    println!("{executed:?} operations, {restarts:?} restarts in {:.1?}", begun.elapsed());
}

#[test]
fn objects_that_nothing_names_are_swept_and_no_others() {
    let device = Arc::new(Memory::default());
    let objects = || device.list(Folder::Objects).unwrap().len();
    // Files without packs: each has an object.
    let objects_only = || Config { small_file: 0, ..config() };
    let core = open_with(&device, objects_only());
    let mut driver = CoreDriver::new(core.clone());
    let write = |path: u8| {
        use agentfs_core::testing::{FileOp, Op, Path, Place};
        let path = Path::new(path, &[]);
        let create = Op::File(Place::Branch(0), FileOp::CreateFile(path.clone(), 0o644));
        let write = Op::File(Place::Branch(0), FileOp::Write { path, offset: 0, len: 100, fill: 1 });
        [create, write]
    };
    use agentfs_core::testing::Driver;
    for op in write(0).iter().chain(&write(1)) {
        driver.apply(op).unwrap();
    }
    assert_eq!(objects(), 2);
    // Made right before a crash that took its record along.
    device.create(FileId::Object(agentfs_core::ObjectId(77))).unwrap();
    drop((driver, core));
    let core = open(&device);
    assert_eq!(core.sweep().unwrap(), 1);
    assert_eq!(objects(), 3, "not before the log is durable");
    core.sync().unwrap();
    core.tend().unwrap();
    assert_eq!(objects(), 2);
}

fn bytes_of(device: &Memory, id: FileId) -> Vec<u8> {
    let file = device.open(id).unwrap();
    let mut bytes = vec![0; file.stat().unwrap().len as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes
}

fn with_log(checkpoint: &[u8], log: &[u8]) -> Arc<Memory> {
    let device = Arc::new(Memory::default());
    for (piece, bytes) in [(1, checkpoint), (2, log)] {
        device.create(FileId::Log(piece)).unwrap().write_at(bytes, 0).unwrap();
    }
    device
}

#[test]
fn a_log_of_what_was_deleted_is_shortened_by_the_way() {
    let device = Arc::new(Memory::default());
    let v =
        Volume(FsCore::open_volume(device.clone(), Config { max_snapshots: 1000, ..config() }).unwrap().0);
    let name = |n: usize| format!("{n:0200}");
    for n in 0..10_000 {
        v.make("main", &name(n), FileKind::File);
        if n % 100 == 0 {
            v.0.create_snapshot("main", Some(&format!("s{n}"))).unwrap();
        }
    }
    v.0.compact().unwrap();
    let large = log_len(&device);
    assert!(large > 2 << 20, "{large}");
    v.0.tend().unwrap();
    assert_eq!(log_len(&device), large, "nothing to do yet");
    (0..10_000).for_each(|n| v.remove("main", &name(n)));
    for n in 0..100 {
        v.0.delete_snapshot(&format!("s{}", n * 100)).unwrap();
    }
    v.0.tend().unwrap();
    let small = log_len(&device);
    assert!(small < 100_000, "{small} of {large}");
    (0..10).for_each(|_| v.0.tend().unwrap());
    assert_eq!(log_len(&device), small, "once is enough");
}

/// A kernel that caches writes looks at the clock before it hands them over, and says nothing of a file that is closed
/// while the volume is unmounted.
#[test]
fn a_time_that_was_set_stays_however_late_its_content_came_and_whether_or_not_the_file_was_closed() {
    let then = Timestamp { secs: 1_000_000_000, nanos: 0 };
    for config in [|| Config { small_file: 0, ..config() }, layered] {
        for is_closed in [false, true] {
            let device = Arc::new(Memory::default());
            let v = Volume(FsCore::open_volume(device.clone(), config()).unwrap().0);
            let ino = v.make("main", "f", FileKind::File);
            v.write_at("main", "f", 0, &[1; 10_000]);
            v.0.create_snapshot("main", Some("s")).unwrap();
            let handle = v.0.open(ViewId::MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
            let before = Timestamp::now();
            std::thread::sleep(std::time::Duration::from_millis(2));
            v.0.write(handle, 5, &[2; 9_000], false).unwrap();
            let set = SetAttr { mtime: Some(SetTime::At(then)), ctime: Some(before), ..SetAttr::default() };
            v.0.setattr(ViewId::MAIN, ino, &set, Caller::ROOT).unwrap();
            if is_closed {
                v.0.close().unwrap();
            }
            drop(v);
            let (again, found) = FsCore::open_volume(device, config()).unwrap();
            assert_eq!(found.dirty, usize::from(!is_closed));
            let attr = again.getattr(ViewId::MAIN, ino).unwrap();
            assert_eq!((attr.size, attr.mtime), (10_000, then), "closed: {is_closed}");
        }
    }
}

#[test]
fn a_log_cut_or_changed_anywhere_gives_what_came_before_and_loses_no_byte_of_the_rest() {
    let original = Arc::new(Memory::default());
    let core = open(&original);
    for name in ["a", "b", "c", "d"] {
        core.create_snapshot("main", Some(name)).unwrap();
    }
    core.close().unwrap();
    let [checkpoint, log] = [1, 2].map(|piece| bytes_of(&original, FileId::Log(piece)));
    for at in 0..checkpoint.len() {
        let device = with_log(&flipped(&checkpoint, at), &log);
        let Err(refused) = FsCore::open_volume(device.clone(), config()) else {
            panic!("byte {at}: mounted")
        };
        assert!(refused.to_string().contains("is damaged"), "byte {at}: {refused}");
        assert_eq!(bytes_of(&device, FileId::Log(1)), flipped(&checkpoint, at));
        assert_eq!(bytes_of(&device, FileId::Log(2)), log);
    }
    // Behind the last mark nothing was promised: what is torn there may never have been written.
    let len = log.len();
    let mark = 8 + 9;
    for at in 0..len {
        let bytes = flipped(&log, at);
        let device = with_log(&checkpoint, &bytes);
        let (core, found) = FsCore::open_volume(device.clone(), config()).unwrap();
        if at >= len - mark {
            assert_eq!((found.damage, core.list_snapshots(None, 10).len()), (None, 4));
            continue;
        }
        let damage = found.damage.expect("the damage is seen");
        assert!(damage.at <= at as u64 && damage.at + damage.lost == len as u64);
        let kept = ["a", "b", "c", "d"].iter().take_while(|name| core.find_snapshot(name).is_ok()).count();
        assert_eq!(
            core.list_snapshots(None, 10).len(),
            kept,
            "byte {at}: a later record without an earlier one"
        );
        assert_eq!(bytes_of(&device, FileId::Lost(2, damage.at)), &bytes[damage.at as usize..]);
        core.create_branch("main", Some("works-on")).unwrap();
    }
}

#[test]
fn a_store_on_the_host_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    for round in 0..3 {
        let device = HostFs::open(&store, true).unwrap();
        let (core, found) = FsCore::open_volume(Arc::new(device), config()).unwrap();
        assert_eq!((found.damage, core.list_snapshots(None, 10).len()), (None, round));
        core.create_snapshot("main", None).unwrap();
    }
}

#[test]
fn compacting_shortens_the_log_and_keeps_sharing() {
    use agentfs_core::testing::{Driver, FileOp, Op, Path, Place};
    let device = Arc::new(Memory::default());
    let mut driver = CoreDriver::new(open(&device));
    for round in 0..500_u32 {
        let path = Path::new((round % 5) as u8, &[]);
        let write = FileOp::Write { path: path.clone(), offset: 0, len: 100, fill: round as u8 };
        let _ = driver.apply(&Op::File(Place::Branch(0), FileOp::CreateFile(path, 0o644)));
        driver.apply(&Op::File(Place::Branch(0), write)).unwrap();
    }
    let core = driver.core().clone();
    for name in ["a", "b"] {
        core.create_branch("main", Some(name)).unwrap();
    }
    let before = log_len(&device);
    drop((driver, core));
    drop(open_with(&device, eager()));
    let after = log_len(&device);
    assert!(after * 10 < before, "{before} bytes became {after}");
    let pieces = device.list(Folder::Log).unwrap();
    assert!(pieces.len() == 2 && pieces.iter().all(|id| matches!(id, FileId::Log(_))), "{pieces:?}");
    let core = open(&device);
    let versions = [0, 1, 2].map(|view| core.version(agentfs_core::ViewId(view)).unwrap());
    for (ino, inode) in versions[0].iter() {
        for other in &versions[1..] {
            assert!(Arc::ptr_eq(inode, other.get(ino).unwrap()), "{ino:?} is held more than once");
        }
    }
}

fn log_len(device: &Memory) -> u64 {
    device.list(Folder::Log).unwrap().into_iter().map(|id| device.open(id).unwrap().stat().unwrap().len).sum()
}

/// A volume with a file of content; returns its device.
fn with_content(files: u8) -> Arc<Memory> {
    use agentfs_core::testing::{Driver, FileOp, Op, Path, Place};
    let device = Arc::new(Memory::default());
    let mut driver = CoreDriver::new(open_with(&device, Config { small_file: 0, ..config() }));
    for n in 0..files {
        let path = Path::new(n, &[]);
        driver.apply(&Op::File(Place::Branch(0), FileOp::CreateFile(path.clone(), 0o644))).unwrap();
        let write = FileOp::Write { path, offset: 0, len: 100, fill: n };
        driver.apply(&Op::File(Place::Branch(0), write)).unwrap();
    }
    driver.core().close().unwrap();
    device
}

#[test]
fn no_object_goes_by_a_mount_that_is_refused_or_finds_damage() {
    let objects = |device: &Memory| device.list(Folder::Objects).unwrap().len();
    let len = bytes_of(&with_content(5), FileId::Log(2)).len() as u64;
    // One flip in the checkpoint refuses the mount, one in the log loses records; the objects stay either way, for ever.
    for (piece, at) in [(1, 20), (2, len / 2)] {
        let device = with_content(5);
        let log = device.open(FileId::Log(piece)).unwrap();
        let mut byte = [0];
        log.read_at(&mut byte, at).unwrap();
        log.write_at(&[byte[0] ^ 1], at).unwrap();
        for _ in 0..2 {
            if let Ok((core, _)) = FsCore::open_volume(device.clone(), config()) {
                assert_eq!(core.sweep().unwrap(), 0);
                core.sync().unwrap();
                core.tend().unwrap();
            }
            assert_eq!(objects(&device), 5, "piece {piece}");
        }
    }
}

#[test]
fn the_sweep_leaves_files_that_are_open_without_a_name() {
    use agentfs_core::{Caller, InodeId, Name, OpenMode, ViewId};
    let device = with_content(1);
    let core = open(&device);
    let name = Name::new(b"a").unwrap();
    let ino = core.lookup(ViewId::MAIN, InodeId::ROOT, &name).unwrap().unwrap().ino;
    let handle = core.open(ViewId::MAIN, ino, OpenMode::Read, Caller::ROOT).unwrap();
    core.unlink(ViewId::MAIN, InodeId::ROOT, &name).unwrap();
    core.sync().unwrap();
    assert_eq!(core.sweep().unwrap(), 0);
    assert_eq!(core.read(handle, 0, &mut [0; 200]).unwrap(), 100);
}

#[test]
fn a_checkpoint_of_many_large_attributes_is_read_back() {
    use agentfs_core::{Caller, CreateMode, FileKind, InodeId, Name, ViewId, XattrMode};
    let device = Arc::new(Memory::default());
    let core = open(&device);
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    for n in 0..4200_u32 {
        let name = Name::new(n.to_string().as_bytes()).unwrap();
        let ino = core.create(ViewId::MAIN, InodeId::ROOT, &name, what, Caller::ROOT).unwrap().ino;
        core.setxattr(ViewId::MAIN, ino, b"user.x", &vec![1; 65_536], XattrMode::Any).unwrap();
    }
    core.close().unwrap();
    drop(core);
    drop(open_with(&device, eager()));
    let core = open(&device);
    assert_eq!(core.status().unwrap().main_inodes, 4201);
}

#[test]
fn a_pack_is_emptied_of_which_snapshots_name_the_same_bytes_many_times() {
    let config =
        Config { small_file: 1 << 16, packs: PackLimits { size: 1 << 16, slack: 1 << 12 }, ..config() };
    let config = Config { max_snapshots: 100, ..config };
    let device = Arc::new(Memory::default());
    let core = open_with(&device, config);
    let write = |core: &FsCore, name: &str, offset: u64, bytes: &[u8]| {
        let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
        let name = Name::new(name.as_bytes()).unwrap();
        let ino = match core.lookup(ViewId::MAIN, InodeId::ROOT, &name).unwrap() {
            Some(attr) => attr.ino,
            None => core.create(ViewId::MAIN, InodeId::ROOT, &name, what, Caller::ROOT).unwrap().ino,
        };
        let handle = core.open(ViewId::MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
        core.write(handle, offset, bytes, false).unwrap();
        core.release(handle).unwrap();
    };
    write(&core, "waste", 0, &[1; 40_000]);
    core.unlink(ViewId::MAIN, InodeId::ROOT, &Name::new(b"waste").unwrap()).unwrap();
    for step in 0..50 {
        write(&core, "grows", step * 100, &[step as u8; 100]);
        core.create_snapshot("main", None).unwrap();
    }
    // The first pack is full, and most of it is named by nothing.
    write(&core, "next", 0, &[2; 30_000]);
    for _ in 0..20 {
        core.tend().unwrap();
    }
    core.sync().unwrap();
    core.tend().unwrap();
    let files = device.list(Folder::Packs).unwrap().into_iter();
    let held: u64 = files.map(|id| device.open(id).unwrap().stat().unwrap().len).sum();
    assert!(held < 45_000, "{held} bytes for 35,000");
}
