//! What a volume and its branches may hold: up to the last block, and not one more; and what is charged is what is there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at what goes wrong")]

use std::sync::Arc;

use agentfs_core::testing::{CoreDriver, Driver, Trial, config, random_cases};
use agentfs_core::{
    Caller, Config, FallocateFlags, FileKind, FsCore, FsError, HostFs, InodeId, Memory, OpenMode, Quota,
    SetAttr, ViewId,
};
use volume::Volume;
use volume::large::{BLOCK, filled, held, layered};

mod volume;

const MAIN: ViewId = ViewId::MAIN;

fn bytes(bytes: u64) -> Quota {
    Quota { bytes, ..Quota::NONE }
}

fn open(device: &Arc<Memory>, config: Config) -> Volume {
    Volume(FsCore::open_volume(device.clone(), config).unwrap().0)
}

fn volume(config: Config) -> Volume {
    open(&Arc::new(Memory::default()), config)
}

/// Each file in an object of its own.
fn plain() -> Config {
    Config { small_file: 0, layered_from: u64::MAX, ..config() }
}

fn write(v: &Volume, path: &str, offset: u64, len: usize) -> Result<usize, FsError> {
    let ino = v.find("main", path).unwrap_or_else(|| v.make("main", path, FileKind::File));
    let handle = v.0.open(MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
    let written = v.0.write(handle, offset, &filled(1, len), false);
    v.0.release(handle).unwrap();
    written
}

fn allocate(v: &Volume, path: &str, mode: FallocateFlags, range: (u64, u64)) -> Result<(), FsError> {
    let handle = v.0.open(MAIN, v.find("main", path).unwrap(), OpenMode::Write, Caller::ROOT).unwrap();
    let done = v.0.allocate(handle, mode, range.0, range.1, Caller::ROOT);
    v.0.release(handle).unwrap();
    done
}

fn charged(v: &Volume, branch: Option<&str>) -> Quota {
    v.0.charged(branch).unwrap().unwrap()
}

fn is_over<T: std::fmt::Debug>(done: &Result<T, FsError>) -> bool {
    matches!(done, Err(FsError::QuotaExceeded))
}

#[test]
fn a_branch_is_written_to_the_last_block_of_its_quota_and_no_further() {
    let v = volume(Config { branch_quota: bytes(10 * BLOCK), ..plain() });
    assert_eq!(write(&v, "f", 0, 9 * BLOCK as usize).unwrap(), 9 * BLOCK as usize);
    // As much as there is room for, as on any disk that becomes full.
    assert_eq!(write(&v, "f", 9 * BLOCK, 3 * BLOCK as usize).unwrap(), BLOCK as usize);
    assert!(is_over(&write(&v, "f", 10 * BLOCK, 1)));
    assert!(is_over(&write(&v, "g", 0, 1)));
    // What is there already is written again; a hole is not there.
    assert_eq!(write(&v, "f", 5, 9 * BLOCK as usize).unwrap(), 9 * BLOCK as usize);
    assert_eq!(v.0.statfs(MAIN).unwrap().free, 0);
    allocate(&v, "f", FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, (0, 2 * BLOCK)).unwrap();
    assert_eq!(charged(&v, Some("main")).bytes, 8 * BLOCK);
    assert!(is_over(&allocate(&v, "f", FallocateFlags::empty(), (0, 20 * BLOCK))));
    allocate(&v, "f", FallocateFlags::empty(), (0, 10 * BLOCK)).unwrap();
    assert_eq!(write(&v, "f", 0, 10 * BLOCK as usize).unwrap(), 10 * BLOCK as usize, "it was allocated");
    v.remove("main", "f");
    assert_eq!(charged(&v, Some("main")).bytes, 0);
    assert_eq!(write(&v, "g", 0, 11 * BLOCK as usize).unwrap(), 10 * BLOCK as usize);
}

/// A volume on a real filesystem, where what was allocated and not written is a hole.
fn on_disk(dir: &std::path::Path, config: Config) -> Volume {
    Volume(FsCore::open_volume(Arc::new(HostFs::open(dir, false).unwrap()), config).unwrap().0)
}

#[test]
fn what_was_allocated_is_written_without_more_room_and_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let v = on_disk(&dir.path().join("store"), Config { branch_quota: bytes(100 * BLOCK), ..plain() });
    v.make("main", "f", FileKind::File);
    allocate(&v, "f", FallocateFlags::empty(), (0, 60 * BLOCK)).unwrap();
    while write(&v, "g", v.bytes("main", "g").map_or(0, |bytes| bytes.len() as u64), 4096).is_ok() {}
    let full = charged(&v, Some("main")).bytes;
    assert!((100 * BLOCK..=101 * BLOCK).contains(&full), "{full}");
    for n in 0..30 {
        assert_eq!(write(&v, "f", n * BLOCK, 4096).unwrap(), 4096, "it was allocated");
        assert!(is_over(&write(&v, "f", (60 + n) * BLOCK, 4096)), "it was not, at {n}");
    }
    // What was punched is to be had anew.
    allocate(&v, "f", FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, (40 * BLOCK, 10 * BLOCK))
        .unwrap();
    write(&v, "h", 0, 10 * 4096).unwrap();
    assert!(is_over(&write(&v, "f", 40 * BLOCK, 4096)));
    assert!(charged(&v, Some("main")).bytes <= 101 * BLOCK);
}

#[test]
fn a_fragmented_file_is_no_way_around_a_quota() {
    let dir = tempfile::tempdir().unwrap();
    let v = on_disk(&dir.path().join("store"), Config { branch_quota: bytes(100 * BLOCK), ..plain() });
    let written = (0..).take_while(|n| write(&v, "f", n * 2 * BLOCK, 4096).is_ok()).take(500).count();
    assert!((90..=100).contains(&written), "{written}");
    for n in 0..50 {
        assert!(is_over(&write(&v, "f", (1000 + n) * BLOCK, 4096)));
    }
}

#[test]
fn copies_of_small_files_are_no_way_around_a_quota() {
    let v = volume(Config { branch_quota: bytes(40 * BLOCK), ..config() });
    write(&v, "a", 0, 60_000).unwrap();
    let mut copies = 0;
    for n in 0..20 {
        let name = format!("b{n}");
        v.make("main", &name, FileKind::File);
        let open =
            |path: &str, mode| v.0.open(MAIN, v.find("main", path).unwrap(), mode, Caller::ROOT).unwrap();
        let (from, to) = (open("a", OpenMode::Read), open(&name, OpenMode::Write));
        copies += u64::from(
            v.0.copy_range((from, 0), (to, 0), 60_000, Caller::ROOT).is_ok_and(|copied| copied == 60_000),
        );
        [from, to].into_iter().for_each(|handle| v.0.release(handle).unwrap());
        // In its place.
        assert_eq!(write(&v, "a", 0, 10).unwrap(), 10);
    }
    assert_eq!(copies, 1);
    assert!(charged(&v, Some("main")).bytes <= 40 * BLOCK);
}

#[test]
fn the_block_that_a_file_ends_in_is_filled() {
    let v = volume(Config { branch_quota: bytes(2 * BLOCK), ..plain() });
    assert_eq!(write(&v, "f", 0, 6000).unwrap(), 6000);
    assert_eq!(write(&v, "f", 6000, 6000).unwrap(), 2192);
    assert!(is_over(&write(&v, "f", 2 * BLOCK, 1)));
}

#[test]
fn small_files_count_as_the_blocks_that_stat_shows() {
    let v = volume(Config { branch_quota: bytes(3 * BLOCK), ..config() });
    for name in ["a", "b", "c"] {
        write(&v, name, 0, 100).unwrap();
    }
    assert!(is_over(&write(&v, "d", 0, 1)));
    assert_eq!(v.bytes("main", "d").unwrap(), b"");
    // Each is written anew, in its own place.
    for name in ["a", "b", "c"] {
        assert_eq!(write(&v, name, 50, 4046).unwrap(), 4046);
        assert!(is_over(&write(&v, name, 4096, 1)));
    }
    v.remove("main", "a");
    write(&v, "b", 4096, 1).unwrap();
    assert_eq!(charged(&v, Some("main")).bytes, 3 * BLOCK);
}

#[test]
fn what_a_snapshot_has_is_the_volumes_and_a_copy_for_a_write_is_the_branchs() {
    let quota = bytes(10 * BLOCK);
    let v = volume(Config { quota: bytes(25 * BLOCK), branch_quota: quota, ..plain() });
    write(&v, "f", 0, 8 * BLOCK as usize).unwrap();
    v.0.create_snapshot("main", Some("s")).unwrap();
    assert_eq!((charged(&v, Some("main")).bytes, charged(&v, None).bytes), (0, 8 * BLOCK));
    write(&v, "f", 0, 1).unwrap();
    assert_eq!((charged(&v, Some("main")).bytes, charged(&v, None).bytes), (8 * BLOCK, 16 * BLOCK));
    v.0.create_snapshot("main", Some("t")).unwrap();
    write(&v, "f", 0, 1).unwrap();
    v.0.create_snapshot("main", Some("u")).unwrap();
    // The branch may hold another copy, the volume may not.
    assert!(matches!(write(&v, "f", 0, 1), Err(FsError::VolumeFull)));
    assert_eq!(v.0.statfs(MAIN).unwrap().free, 1);
    v.0.delete_snapshot("s").unwrap();
    write(&v, "f", 0, 1).unwrap();
    assert_eq!(charged(&v, None).bytes, 24 * BLOCK);
}

#[test]
fn of_a_file_in_layers_the_blocks_that_were_written_are_charged() {
    let v = volume(Config { branch_quota: bytes(4 * BLOCK), ..layered(1) });
    write(&v, "f", 0, 4 * BLOCK as usize).unwrap();
    v.0.create_snapshot("main", Some("s")).unwrap();
    let size = SetAttr { size: Some(100 * BLOCK), ..SetAttr::default() };
    v.0.setattr(MAIN, v.find("main", "f").unwrap(), &size, Caller::ROOT).unwrap();
    write(&v, "f", 2 * BLOCK, 1).unwrap();
    assert_eq!(charged(&v, Some("main")).bytes, BLOCK);
    write(&v, "f", 50 * BLOCK, 3 * BLOCK as usize).unwrap();
    assert!(is_over(&write(&v, "f", 0, 1)));
    assert_eq!(write(&v, "f", 2 * BLOCK, BLOCK as usize).unwrap(), BLOCK as usize, "it is there already");
    allocate(&v, "f", FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, (51 * BLOCK, BLOCK)).unwrap();
    write(&v, "f", 0, 1).unwrap();
    assert!(is_over(&allocate(&v, "f", FallocateFlags::empty(), (90 * BLOCK, BLOCK))));
}

#[test]
fn files_and_directories_are_counted_once_for_all_versions_that_have_them() {
    let inodes = |inodes| Quota { inodes, ..Quota::NONE };
    let v = volume(Config { quota: inodes(5), branch_quota: inodes(3), ..config() });
    for (name, kind) in [("f", FileKind::File), ("d", FileKind::Directory), ("p", FileKind::Fifo)] {
        v.make("main", name, kind);
    }
    v.link("main", "f", "another");
    let create = |branch: &str, name: &str| {
        let what = agentfs_core::CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
        v.0.create(v.view(branch), InodeId::ROOT, &volume::name(name), what, Caller::ROOT)
    };
    assert!(is_over(&create("main", "g")));
    assert_eq!(v.0.statfs(MAIN).unwrap().files_free, 0);
    v.0.create_snapshot("main", Some("s")).unwrap();
    v.0.create_branch("s", Some("b")).unwrap();
    create("main", "g").unwrap();
    create("b", "g").unwrap();
    assert!(matches!(create("b", "h"), Err(FsError::VolumeFull)));
    v.remove("main", "p");
    assert!(matches!(create("b", "h"), Err(FsError::VolumeFull)), "the snapshot has it");
    v.remove("main", "g");
    create("b", "h").unwrap();
    assert_eq!((charged(&v, Some("b")).inodes, charged(&v, None).inodes), (2, 5));
}

#[test]
fn what_has_no_name_left_is_no_inode_more_and_holds_its_bytes_until_it_is_closed() {
    let v = volume(Config { branch_quota: Quota { bytes: 5 * BLOCK, inodes: 1 }, ..plain() });
    write(&v, "f", 0, 4 * BLOCK as usize).unwrap();
    let handle = v.0.open(MAIN, v.find("main", "f").unwrap(), OpenMode::Read, Caller::ROOT).unwrap();
    v.remove("main", "f");
    assert_eq!(charged(&v, Some("main")), Quota { bytes: 4 * BLOCK, inodes: 0 });
    assert_eq!(write(&v, "g", 0, 2 * BLOCK as usize).unwrap(), BLOCK as usize);
    v.0.release(handle).unwrap();
    assert_eq!(write(&v, "g", BLOCK, 4 * BLOCK as usize).unwrap(), 4 * BLOCK as usize);
}

#[test]
fn what_was_charged_is_charged_after_the_next_mount() {
    for config in [plain(), config(), layered(1)] {
        let config = Config { quota: bytes(1 << 40), branch_quota: bytes(20 * BLOCK), ..config };
        let device = Arc::new(Memory::default());
        let v = open(&device, config.clone());
        write(&v, "f", 0, 4 * BLOCK as usize).unwrap();
        write(&v, "g", 0, 7).unwrap();
        v.0.create_snapshot("main", Some("s")).unwrap();
        v.0.create_branch("s", Some("b")).unwrap();
        write(&v, "f", BLOCK, 1).unwrap();
        write(&v, "h", 0, 10_000).unwrap();
        v.write_at("b", "g", 0, b"x");
        let now = |v: &Volume| [None, Some("main"), Some("b")].map(|branch| charged(v, branch));
        let before = now(&v);
        v.0.close().unwrap();
        drop(v);
        assert_eq!(now(&open(&device, config)), before);
    }
}

/// Whatever was done: the volume is charged what the store's files take, and nothing when all is gone.
fn charges_are_what_the_store_holds(config: fn() -> Config) {
    random_cases("tests/quotas.proptest-regressions", 40, 80, |ops| {
        let device = Arc::new(Memory::default());
        let quota = Quota { bytes: 1 << 50, inodes: 1 << 50 };
        let core = FsCore::open_volume(device.clone(), Config { quota, ..config() }).unwrap().0;
        let mut trial = Trial::new(CoreDriver::new(Arc::new(core)));
        ops.iter().try_for_each(|op| trial.step(op)).map_err(|m| m.to_string())?;
        let mut found = Ok(());
        trial.restart(|driver| {
            driver.close();
            let core = driver.core();
            for _ in 0..3 {
                core.sync().unwrap();
                core.tend().unwrap();
            }
            let (told, there) = (core.charged(None).unwrap().unwrap().bytes, held(&*device));
            if told != there {
                found = Err(format!("{told} bytes are charged, {there} held"));
            }
        });
        found
    });
}

#[test]
fn charges_are_what_the_store_holds_in_whole_files() {
    charges_are_what_the_store_holds(plain);
}

#[test]
fn charges_are_what_the_store_holds_in_layers() {
    charges_are_what_the_store_holds(|| Config { layered_from: 1, ..plain() });
}

#[test]
fn many_that_write_at_once_reach_the_quota_and_do_not_pass_it() {
    let quota = 1000 * BLOCK;
    let v = volume(Config { branch_quota: bytes(quota), ..plain() });
    let written: u64 = std::thread::scope(|scope| {
        let work = |name: String| {
            let v = &v;
            v.make("main", &name, FileKind::File);
            scope.spawn(move || {
                let blocks = (0..).take_while(|n| write(v, &name, n * 3 * BLOCK, BLOCK as usize).is_ok());
                blocks.inspect(|_| assert!(charged(v, Some("main")).bytes <= quota)).count() as u64 * BLOCK
            })
        };
        let threads: Vec<_> = (0..4).map(|n| work(format!("f{n}"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((written, charged(&v, Some("main")).bytes), (quota, quota));
}
