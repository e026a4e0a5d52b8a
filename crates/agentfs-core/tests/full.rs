//! A host without room: what needs some is refused and nothing else, and it all works on when there is room again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentfs_core::testing::{CrashDevice, Errno, Io, config, errno};
use agentfs_core::{
    Caller, Config, CreateMode, Device, FileId, FileKind, Folder, FsCore, FsError, InodeId, Memory, Name,
    OpenMode, SetAttr, ViewId, check_store,
};

const MAIN: ViewId = ViewId::MAIN;
const ROOT: InodeId = InodeId::ROOT;

/// A log that is always worth shortening.
fn settings() -> Config {
    Config { log_factor: 0, log_slack: 0, ..config() }
}

fn name(n: usize) -> Name {
    Name::new(n.to_string().as_bytes()).unwrap()
}

fn write(core: &FsCore, n: usize, len: usize) -> Result<(), FsError> {
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    let ino = core.create(MAIN, ROOT, &name(n), what, Caller::ROOT)?.ino;
    let handle = core.open(MAIN, ino, OpenMode::Write, Caller::ROOT)?;
    let written = core.write(handle, 0, &vec![n as u8; len], false);
    core.release(handle)?;
    written.map(drop)
}

fn is_full(result: Result<(), FsError>) -> bool {
    matches!(result, Err(error) if errno(&error) == Errno::NOSPC)
}

#[test]
fn a_full_host_lets_files_be_deleted_and_mounts_while_the_log_waits_to_be_shortened() {
    let device = Arc::new(CrashDevice::new(Memory::default()));
    let core = FsCore::open_volume(device.clone(), settings()).unwrap().0;
    for n in 0..300 {
        write(&core, n, 500).unwrap();
    }
    core.sync().unwrap();
    device.set_full(true);
    assert!(is_full(write(&core, 1000, 100)) && is_full(write(&core, 1001, 100_000)));
    for _ in 0..50 {
        // Nothing that is tried again and again eats what room there is, or stops the volume.
        let _ = core.tend();
        assert!(device.list(Folder::Log).unwrap().len() <= 3, "{:?}", device.list(Folder::Log));
    }
    for n in 0..200 {
        core.unlink(MAIN, ROOT, &name(n)).unwrap_or_else(|e| panic!("file {n} cannot be deleted: {e}"));
        core.tend().unwrap_or_default();
    }
    core.sync().unwrap();
    drop(core);
    // The daemon is killed, and comes again while there is no room.
    let (core, found) = FsCore::open_volume(device.clone(), settings()).unwrap();
    assert_eq!(found.damage, None);
    for n in 200..250 {
        core.unlink(MAIN, ROOT, &name(n)).unwrap();
    }
    assert!(is_full(write(&core, 1002, 100)));
    device.set_full(false);
    core.tend().unwrap();
    write(&core, 1003, 100_000).unwrap();
    core.close().unwrap();
    drop(core);
    let (core, _) = FsCore::open_volume(device.clone(), settings()).unwrap();
    for n in 0..250 {
        assert!(core.lookup(MAIN, ROOT, &name(n)).unwrap().is_none());
    }
    for n in 250..300 {
        let attr = core.lookup(MAIN, ROOT, &name(n)).unwrap().unwrap();
        let handle = core.open(MAIN, attr.ino, OpenMode::Read, Caller::ROOT).unwrap();
        let mut bytes = [0; 500];
        assert_eq!((core.read(handle, 0, &mut bytes).unwrap(), bytes), (500, [n as u8; 500]));
        core.release(handle).unwrap();
    }
    assert!(!device.list(Folder::Log).unwrap().iter().any(|id| matches!(id, FileId::Draft(_))));
    core.close().unwrap();
    drop(core);
    assert!(check_store(device, settings()).unwrap().findings.is_empty());
}

#[test]
fn what_deletes_nothing_does_not_use_up_what_is_kept_for_deletions() {
    let device = Arc::new(CrashDevice::new(Memory::default()));
    let core = FsCore::open_volume(device.clone(), config()).unwrap().0;
    for n in 0..300 {
        write(&core, n, 500).unwrap();
    }
    let first = core.lookup(MAIN, ROOT, &name(0)).unwrap().unwrap().ino;
    core.close().unwrap();
    drop(core);
    device.set_full(true);
    // Of a mount that finds the host full, too.
    let (core, _) = FsCore::open_volume(device.clone(), config()).unwrap();
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    let refused =
        (0..60_000).find_map(|n| core.setattr(MAIN, first, &mode(0o600 + n % 8), Caller::ROOT).err());
    assert_eq!(errno(&refused.expect("the room for it ends")), Errno::NOSPC);
    for n in 0..300 {
        core.unlink(MAIN, ROOT, &name(n)).unwrap_or_else(|e| panic!("file {n} cannot be deleted: {e}"));
    }
    core.close().unwrap();
}

#[test]
fn a_quota_that_is_used_up_is_a_full_host_and_deletions_make_room_in_it() {
    let device = Arc::new(CrashDevice::new(Memory::default()));
    let core = FsCore::open_volume(device.clone(), Config { small_file: 4096, ..config() }).unwrap().0;
    write(&core, 0, 20_000).unwrap();
    let deleted = AtomicBool::new(false);
    device.set_rule(move |io| match io {
        Io::Remove(FileId::Object(_)) => {
            deleted.store(true, Ordering::SeqCst);
            None
        }
        Io::Create(_) | Io::Write(FileId::Pack(_) | FileId::Object(_), ..) => {
            (!deleted.load(Ordering::SeqCst)).then_some(Errno::DQUOT)
        }
        _ => None,
    });
    assert_eq!(errno(&write(&core, 1, 20_000).unwrap_err()), Errno::DQUOT);
    core.unlink(MAIN, ROOT, &name(0)).unwrap();
    write(&core, 2, 20_000).unwrap();
    core.close().unwrap();
}
