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
use agentfs_core::{Config, FileId, FsCore, HostFs, Memory};

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
    crash_and_compare(config);
}

#[test]
fn whatever_was_answered_is_there_when_the_log_is_compacted_at_every_mount() {
    crash_and_compare(eager);
}

fn crash_and_compare(config: fn() -> Config) {
    let (executed, restarts, begun) = (AtomicUsize::new(0), AtomicUsize::new(0), Instant::now());
    random_cases("tests/reopen.proptest-regressions", 60, 200, |ops| {
        let device = Arc::new(Memory::default());
        let mut trial = Trial::new(CoreDriver::new(open_with(&device, config())));
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
    let objects = || agentfs_core::Device::objects(&*device).unwrap().len();
    let core = open(&device);
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
    agentfs_core::Device::create(&*device, FileId::Object(agentfs_core::ObjectId(77))).unwrap();
    drop((driver, core));
    let core = open(&device);
    assert_eq!(core.sweep().unwrap(), 1);
    let begun = Instant::now();
    while objects() > 2 {
        assert!(begun.elapsed().as_secs() < 10, "the object stays");
        std::thread::yield_now();
    }
}

#[test]
fn a_log_cut_or_changed_anywhere_gives_what_came_before_and_loses_no_byte_of_the_rest() {
    use agentfs_core::Device;
    let original = Arc::new(Memory::default());
    let core = open(&original);
    for name in ["a", "b", "c", "d"] {
        core.create_snapshot("main", Some(name)).unwrap();
    }
    core.close().unwrap();
    let mut log = vec![0; 1 << 20];
    let len = original.open(FileId::Log(1)).unwrap().read_at(&mut log, 0).unwrap();
    log.truncate(len);
    // The first record is of `main`: without it there is no volume.
    let first = 8 + u32::from_le_bytes([log[0], log[1], log[2], log[3]]) as usize;
    for at in 0..len {
        let device = Arc::new(Memory::default());
        let mut bytes = log.clone();
        bytes[at] ^= 0x10;
        device.create(FileId::Log(1)).unwrap().write_at(&bytes, 0).unwrap();
        let (core, found) = match FsCore::open_volume(device.clone(), config()) {
            Ok(opened) => opened,
            Err(e) if at < first => {
                assert!(e.to_string().contains("at its beginning"), "{e}");
                assert_eq!(device.open(FileId::Log(1)).unwrap().stat().unwrap().len, len as u64);
                continue;
            }
            Err(e) => panic!("byte {at}: a damaged tail refuses the mount: {e}"),
        };
        let damage = found.damage.expect("the damage is seen");
        assert!(damage.at <= at as u64 && damage.at + damage.lost == len as u64);
        let kept = ["a", "b", "c", "d"].iter().take_while(|name| core.find_snapshot(name).is_ok()).count();
        assert_eq!(
            core.list_snapshots(None, 10).len(),
            kept,
            "byte {at}: a later record without an earlier one"
        );
        let mut lost = vec![0; 1 << 20];
        let lost_len = device.open(FileId::Lost(1, damage.at)).unwrap().read_at(&mut lost, 0).unwrap();
        assert_eq!(&lost[..lost_len], &bytes[damage.at as usize..]);
        core.create_branch("main", Some("works-on")).unwrap();
    }
}

#[test]
fn a_store_on_the_host_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    for round in 0..3 {
        // The lock goes with the last thread that holds the device.
        let begun = Instant::now();
        let device = loop {
            match HostFs::open(&store, true) {
                Ok(device) => break device,
                Err(e) => assert!(begun.elapsed().as_secs() < 10, "{e}"),
            }
        };
        let (core, found) = FsCore::open_volume(Arc::new(device), config()).unwrap();
        assert_eq!((found.damage, core.list_snapshots(None, 10).len()), (None, round));
        core.create_snapshot("main", None).unwrap();
    }
}

#[test]
fn compacting_shortens_the_log_keeps_sharing_and_leaves_one_piece() {
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
    assert_eq!(agentfs_core::Device::logs(&*device).unwrap(), [2]);
    let core = open(&device);
    let versions = [0, 1, 2].map(|view| core.version(agentfs_core::ViewId(view)).unwrap());
    for (ino, inode) in versions[0].iter() {
        for other in &versions[1..] {
            assert!(Arc::ptr_eq(inode, other.get(ino).unwrap()), "{ino:?} is held more than once");
        }
    }
}

fn log_len(device: &Memory) -> u64 {
    use agentfs_core::Device;
    device.logs().unwrap().iter().map(|n| device.open(FileId::Log(*n)).unwrap().stat().unwrap().len).sum()
}

/// A volume with a file of content; returns its device.
fn with_content(files: u8) -> Arc<Memory> {
    use agentfs_core::testing::{Driver, FileOp, Op, Path, Place};
    let device = Arc::new(Memory::default());
    let mut driver = CoreDriver::new(open(&device));
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
    use agentfs_core::Device;
    let objects = |device: &Memory| device.objects().unwrap().len();
    let len = log_len(&with_content(5));
    // The first byte refuses the mount, one in the middle loses records; the objects stay either way, for ever.
    for at in [0, len / 2] {
        let device = with_content(5);
        let log = device.open(FileId::Log(1)).unwrap();
        let mut byte = [0];
        log.read_at(&mut byte, at).unwrap();
        log.write_at(&[byte[0] ^ 1], at).unwrap();
        for _ in 0..2 {
            if let Ok((core, _)) = FsCore::open_volume(device.clone(), config()) {
                assert_eq!(core.sweep().unwrap(), 0);
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert_eq!(objects(&device), 5, "byte {at}");
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
    let what = CreateMode { kind: FileKind::File, mode: 0o644, rdev: 0 };
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
