//! One thing that fails, and what it must not take along: a branch that was never written, the host's room, a checkpoint,
//! other files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use agentfs_core::testing::{CrashDevice, Cut, Disk, Errno, Io, config, errno};
use agentfs_core::{
    Caller, Config, CreateMode, Device, FileId, FileKind, Folder, FsCore, FsError, HandleId, InodeId, Memory,
    Name, OpenMode, ViewId, check_store,
};

const MAIN: ViewId = ViewId::MAIN;
const ROOT: InodeId = InodeId::ROOT;
/// Of a file that has an object of its own.
const LARGE: usize = 20_000;

fn settings() -> Config {
    Config { small_file: 4096, max_branches: 100, max_snapshots: 100, ..config() }
}

/// On another boot of the host.
fn after_a_restart() -> Config {
    Config { boot: settings().boot + 1, ..settings() }
}

fn open(device: &Arc<CrashDevice>) -> Arc<FsCore> {
    Arc::new(FsCore::open_volume(device.clone(), settings()).unwrap().0)
}

fn device() -> Arc<CrashDevice> {
    Arc::new(CrashDevice::new(Memory::default()))
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn make(core: &FsCore, called: &str) -> Result<InodeId, FsError> {
    let what = CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    Ok(core.create(MAIN, ROOT, &name(called), what, Caller::ROOT)?.ino)
}

/// Writes a file and leaves it open.
fn write(core: &FsCore, called: &str, len: usize) -> HandleId {
    let ino = make(core, called).unwrap();
    let handle = core.open(MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
    assert_eq!(core.write(handle, 0, &vec![7; len], false).unwrap(), len);
    handle
}

fn read(core: &FsCore, view: ViewId, called: &str) -> Result<Vec<u8>, FsError> {
    let attr = core.lookup(view, ROOT, &name(called))?.ok_or(FsError::NotFound)?;
    let handle = core.open(view, attr.ino, OpenMode::Read, Caller::ROOT)?;
    let mut bytes = vec![0; attr.size as usize];
    let read = core.read(handle, 0, &mut bytes);
    core.release(handle)?;
    bytes.truncate(read?);
    Ok(bytes)
}

/// The volume as it is found when the power was cut and nothing is there that was not synced.
fn after_a_power_cut(device: &CrashDevice) -> FsCore {
    let found = device.disk(Disk::default()).after(Cut::Synced);
    let (core, recovered) = FsCore::open_volume(Arc::new(found), after_a_restart()).unwrap();
    assert_eq!(recovered.damage, None);
    core
}

#[test]
fn after_a_power_cut_a_branch_of_a_branch_with_an_open_file_can_be_read() {
    let device = device();
    let core = open(&device);
    // It has a name that is durable, and content that is not.
    let handle = write(&core, "large", 5000);
    core.fsync(handle, false).unwrap();
    core.write(handle, 5000, &[7; LARGE], false).unwrap();
    for _ in 0..8 {
        core.create_branch("main", None).unwrap();
    }
    core.sync().unwrap();
    // What was written is as lost as it can be.
    let core = after_a_power_cut(&device);
    let branches = core.list_branches(None, 100);
    assert_eq!(branches.len(), 9);
    for info in branches {
        let bytes = read(&core, info.view, "large").unwrap_or_else(|e| panic!("{}: {e}", info.id));
        assert!(bytes.iter().all(|byte| [0, 7].contains(byte)));
    }
}

#[test]
fn a_checkpoint_without_room_is_not_tried_until_the_host_is_full() {
    let device = device();
    let core = Arc::new(
        FsCore::open_volume(device.clone(), Config { log_factor: 0, log_slack: 0, ..settings() }).unwrap().0,
    );
    write(&core, "file", 100);
    core.tend().unwrap();
    let (pieces, set_aside) = (device.list(Folder::Log).unwrap().len(), device.set_aside());
    device.set_rule(|io| match io {
        Io::Write(FileId::Draft(_), ..) => Some(Errno::NOSPC),
        _ => None,
    });
    for n in 0..1000 {
        make(&core, &n.to_string()).unwrap();
        let _ = core.tend();
    }
    let more = device.list(Folder::Log).unwrap().len() - pieces;
    assert!(more < 20, "{more} pieces more");
    assert!(device.set_aside() <= set_aside + (1 << 20), "{} bytes set aside", device.set_aside());
    // With nothing new to say there is no new piece.
    for _ in 0..1000 {
        let _ = core.tend();
    }
    assert!(device.list(Folder::Log).unwrap().len() <= pieces + more + 1);
    device.clear_rule();
    for _ in 0..300 {
        core.tend().unwrap();
    }
    assert!(device.list(Folder::Log).unwrap().len() <= pieces, "{:?}", device.list(Folder::Log));
}

#[test]
fn a_poisoned_log_that_cannot_be_written_anew_takes_no_more_and_more_room() {
    let device = device();
    let core = open(&device);
    write(&core, "file", 100);
    let fails = |io: &Io| matches!(io, Io::Sync(FileId::Log(_)) | Io::Write(FileId::Draft(_), ..));
    device.set_rule(move |io| fails(io).then_some(Errno::IO));
    assert!(core.sync().is_err());
    let pieces = device.list(Folder::Log).unwrap().len();
    for _ in 0..1000 {
        assert!(core.tend().is_err() || errno(&make(&core, "no").unwrap_err()) == Errno::ROFS);
    }
    assert!(device.list(Folder::Log).unwrap().len() <= pieces + 1, "{:?}", device.list(Folder::Log));
    device.clear_rule();
    for _ in 0..40 {
        let _ = core.tend();
    }
    make(&core, "yes").unwrap();
    core.sync().unwrap();
    let core = after_a_power_cut(&device);
    assert_eq!(read(&core, MAIN, "file").unwrap(), [7; 100]);
    assert_eq!(read(&core, MAIN, "yes").unwrap(), []);
}

#[test]
fn a_checkpoint_is_not_published_when_a_sync_fails_while_it_is_written() {
    let device = device();
    let core = open(&device);
    write(&core, "before", 100);
    let (weak, again): (OnceLock<Weak<FsCore>>, _) = (OnceLock::new(), AtomicBool::new(true));
    weak.set(Arc::downgrade(&core)).unwrap();
    let fails = AtomicBool::new(false);
    device.set_rule(move |io| match io {
        // The checkpoint is written, and not yet published.
        Io::Sync(FileId::Draft(_)) if again.swap(false, Ordering::SeqCst) => {
            let core = weak.get().unwrap().upgrade().unwrap();
            write(&core, "meanwhile", 100);
            fails.store(true, Ordering::SeqCst);
            assert!(core.sync().is_err());
            fails.store(false, Ordering::SeqCst);
            None
        }
        Io::Sync(FileId::Log(_)) if fails.load(Ordering::SeqCst) => Some(Errno::IO),
        _ => None,
    });
    assert!(core.checkpoint().is_err(), "what follows it is not durable");
    device.clear_rule();
    assert_eq!(errno(&make(&core, "now").unwrap_err()), Errno::ROFS);
    core.tend().unwrap();
    make(&core, "now").unwrap();
    let core = after_a_power_cut(&device);
    for called in ["before", "meanwhile"] {
        assert_eq!(read(&core, MAIN, called).unwrap(), [7; 100], "{called}");
    }
}

/// A volume in which the sync of an object fails that a record needs: the copy of a file made after a snapshot.
fn with_an_object_to_sync(device: &Arc<CrashDevice>) -> (Arc<FsCore>, HandleId) {
    let core = open(device);
    let handle = write(&core, "large", LARGE);
    core.create_snapshot("main", None).unwrap();
    core.write(handle, 0, &[8; 100], false).unwrap();
    (core, handle)
}

#[test]
fn one_object_that_cannot_be_written_does_not_make_the_volume_read_only_for_ever() {
    let device = device();
    let (core, handle) = with_an_object_to_sync(&device);
    let broken: Mutex<Option<FileId>> = Mutex::new(None);
    device.set_rule(move |io| match io {
        Io::Sync(id @ FileId::Object(_)) => {
            (*broken.lock().unwrap().get_or_insert(*id) == *id).then_some(Errno::IO)
        }
        _ => None,
    });
    assert!(core.sync().is_err());
    assert_eq!(errno(&make(&core, "too early").unwrap_err()), Errno::ROFS);
    for _ in 0..40 {
        let _ = core.tend();
    }
    make(&core, "works on").unwrap();
    core.sync().unwrap();
    assert!(core.fsync(handle, false).is_err(), "whoever asks about that file is told");
    assert_eq!(read(&core, MAIN, "large").unwrap().len(), LARGE);
    device.clear_rule();
    core.fsync(handle, false).unwrap();
    let core = after_a_power_cut(&device);
    assert_eq!(read(&core, MAIN, "works on").unwrap(), []);
    let large = read(&core, MAIN, "large").unwrap();
    assert_eq!((large.len(), large[0], large[LARGE - 1]), (LARGE, 8, 7));
}

#[test]
fn an_object_that_cannot_be_opened_in_passing_is_no_failed_sync() {
    let device = device();
    let (core, _) = with_an_object_to_sync(&device);
    device.set_rule(|io| matches!(io, Io::Open(FileId::Object(_))).then_some(Errno::MFILE));
    assert_eq!(errno(&core.sync().unwrap_err()), Errno::MFILE);
    make(&core, "goes on").unwrap();
    device.clear_rule();
    core.sync().unwrap();
    let core = after_a_power_cut(&device);
    assert_eq!(read(&core, MAIN, "large").unwrap()[..100], [8; 100]);
}

#[test]
fn content_that_cannot_be_read_in_passing_is_not_taken_for_durable() {
    let device = device();
    let core = open(&device);
    write(&core, "small", 300);
    device.set_rule(|io| matches!(io, Io::Sync(FileId::Pack(_))).then_some(Errno::IO));
    assert!(core.sync().is_err());
    let passing = AtomicBool::new(true);
    device.set_rule(move |io| {
        let is_read = matches!(io, Io::Read(FileId::Pack(_)));
        (is_read && passing.swap(false, Ordering::SeqCst)).then_some(Errno::IO)
    });
    assert!(core.tend().is_err());
    core.tend().unwrap();
    make(&core, "goes on").unwrap();
    core.sync().unwrap();
    let core = after_a_power_cut(&device);
    assert_eq!(read(&core, MAIN, "small").unwrap(), [7; 300]);
    assert_eq!(read(&core, MAIN, "goes on").unwrap(), []);
}

#[test]
fn a_write_under_way_when_a_sync_fails_is_not_undone_by_healing() {
    let device = device();
    let (core, handle) = with_an_object_to_sync(&device);
    // 1: the writer is in the middle; 2: it may go on; 3: it is done.
    let stage = Arc::new(AtomicU32::new(0));
    let (writes, syncs, shared) = (AtomicU32::new(0), AtomicU32::new(0), stage.clone());
    let wait_for = |stage: &AtomicU32, wanted: u32, most_ms: u64| {
        let begun = Instant::now();
        while stage.load(Ordering::SeqCst) < wanted && begun.elapsed() < Duration::from_millis(most_ms) {
            std::thread::yield_now();
        }
    };
    device.set_rule(move |io| match io {
        Io::Write(FileId::Object(_), ..) => {
            if writes.fetch_add(1, Ordering::SeqCst) == 0 {
                shared.store(1, Ordering::SeqCst);
                wait_for(&shared, 2, 300);
            } else if shared.load(Ordering::SeqCst) == 1 {
                // What is written anew was read before.
                shared.store(2, Ordering::SeqCst);
                wait_for(&shared, 3, 300);
            }
            None
        }
        Io::Sync(FileId::Object(_)) => (syncs.fetch_add(1, Ordering::SeqCst) == 0).then_some(Errno::IO),
        _ => None,
    });
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let written = core.write(handle, 1000, &[9; 100], false);
            stage.store(3, Ordering::SeqCst);
            written
        });
        wait_for(&stage, 1, 10_000);
        assert!(core.sync().is_err());
        core.tend().unwrap();
        assert_eq!(writer.join().unwrap().unwrap(), 100);
    });
    core.fsync(handle, false).unwrap();
    assert_eq!(read(&core, MAIN, "large").unwrap()[1000..1100], [9; 100]);
    device.clear_rule();
    assert_eq!(read(&after_a_power_cut(&device), MAIN, "large").unwrap()[1000..1100], [9; 100]);
}

/// A volume of which a sync failed, with content in a pack and in an object; then `end` it, and open it again.
fn opened_again_after_a_failed_sync(end: fn(&CrashDevice, Arc<FsCore>)) {
    let device = device();
    let (core, _) = with_an_object_to_sync(&device);
    write(&core, "small", 300);
    device.set_rule(|io| matches!(io, Io::Sync(_)).then_some(Errno::IO));
    assert!(core.sync().is_err());
    end(&device, core);
    device.clear_rule();
    // The host is well again, and says of what it forgot that it is durable.
    let core = open(&device);
    assert_eq!(read(&core, MAIN, "small").unwrap(), [7; 300]);
    let later = write(&core, "later", 300);
    core.fsync(later, false).unwrap();
    core.sync_content().unwrap();
    let core = after_a_power_cut(&device);
    assert_eq!(read(&core, MAIN, "small").unwrap(), [7; 300]);
    assert_eq!(read(&core, MAIN, "later").unwrap(), [7; 300]);
    let large = read(&core, MAIN, "large").unwrap();
    assert_eq!((large.len(), large[0], large[LARGE - 1]), (LARGE, 8, 7));
}

#[test]
fn a_failed_sync_is_remembered_by_the_mount_after_a_kill() {
    opened_again_after_a_failed_sync(|_, core| drop(core));
}

#[test]
fn a_failed_sync_is_remembered_by_the_mount_after_a_volume_that_could_not_be_closed() {
    opened_again_after_a_failed_sync(|_, core| assert!(core.close().is_err()));
}

#[test]
fn closing_makes_durable_what_a_failed_sync_left() {
    opened_again_after_a_failed_sync(|device, core| {
        device.clear_rule();
        core.close().unwrap();
    });
}

#[test]
fn a_synced_snapshot_has_what_was_given_up_too() {
    let device = device();
    let (core, _) = with_an_object_to_sync(&device);
    device.set_rule(|io| matches!(io, Io::Sync(FileId::Object(_))).then_some(Errno::IO));
    assert!(core.sync().is_err());
    core.tend().unwrap();
    core.create_snapshot("main", None).unwrap();
    assert!(core.sync_content().is_err(), "it cannot be made durable");
    device.clear_rule();
    core.sync_content().unwrap();
    assert_eq!(read(&after_a_power_cut(&device), MAIN, "large").unwrap()[..100], [8; 100]);
}

#[test]
fn a_log_that_is_gone_is_no_new_volume() {
    let device = device();
    let core = open(&device);
    write(&core, "large", LARGE);
    core.close().unwrap();
    drop(core);
    for id in device.list(Folder::Log).unwrap() {
        device.remove(id).unwrap();
    }
    let found = check_store(device.clone(), settings()).unwrap();
    assert!(found.findings.iter().any(|found| found.to_string().contains("log is missing")), "{found:?}");
    assert!(FsCore::open_volume(device.clone(), settings()).is_err());
    assert!(!device.list(Folder::Objects).unwrap().is_empty());
}

#[test]
fn a_checkpoint_that_fails_leaves_no_more_pieces_while_the_log_is_only_synced() {
    let device = device();
    let settings = Config { log_factor: 0, log_slack: 0, ..settings() };
    let core = FsCore::open_volume(device.clone(), settings).unwrap().0;
    write(&core, "file", 100);
    device.set_rule(|io| matches!(io, Io::Write(FileId::Draft(_), ..)).then_some(Errno::IO));
    for n in 0..6000 {
        let _ = core.tend();
        if n % 25 == 0 {
            core.sync().unwrap();
        }
    }
    assert!(device.list(Folder::Log).unwrap().len() <= 4, "{:?}", device.list(Folder::Log));
}

#[test]
fn several_objects_that_cannot_be_written_are_given_up_at_once() {
    let device = device();
    let core = open(&device);
    let handles: Vec<_> = (0..10).map(|n| write(&core, &n.to_string(), LARGE)).collect();
    core.create_snapshot("main", None).unwrap();
    for handle in handles {
        core.write(handle, 0, &[8; 100], false).unwrap();
    }
    device.set_rule(|io| matches!(io, Io::Sync(FileId::Object(_))).then_some(Errno::IO));
    assert!(core.sync().is_err());
    core.tend().unwrap();
    make(&core, "goes on").unwrap();
}

#[test]
fn what_the_host_could_not_write_is_not_durable_when_it_says_nothing_the_second_time() {
    let device = device();
    let core = open(&device);
    write(&core, "large", LARGE);
    write(&core, "small", 300);
    let (tells, object) = (AtomicBool::new(true), AtomicBool::new(true));
    device.set_rule(move |io| match io {
        Io::SyncAll => tells.swap(false, Ordering::SeqCst).then_some(Errno::IO),
        Io::Sync(FileId::Object(_)) => object.swap(false, Ordering::SeqCst).then_some(Errno::IO),
        _ => None,
    });
    assert!(core.sync_content().is_err());
    for _ in 0..5 {
        let _ = core.tend();
    }
    core.sync_content().unwrap();
    let core = after_a_power_cut(&device);
    assert_eq!(read(&core, MAIN, "large").unwrap(), [7; LARGE]);
    assert_eq!(read(&core, MAIN, "small").unwrap(), [7; 300]);
}

#[test]
fn what_another_program_could_not_write_stops_nothing() {
    let device = device();
    let core = open(&device);
    write(&core, "large", LARGE);
    device.set_rule(|io| matches!(io, Io::SyncAll).then_some(Errno::IO));
    assert!(core.sync_content().is_err(), "nobody knows whose it is");
    make(&core, "goes on").unwrap();
    core.sync().unwrap();
    assert!(!device.list(Folder::Log).unwrap().contains(&FileId::Doubt));
    assert_eq!(read(&after_a_power_cut(&device), MAIN, "large").unwrap(), [7; LARGE]);
}

#[test]
fn an_fsync_that_failed_is_no_success_until_it_is() {
    let device = device();
    let core = open(&device);
    let handle = write(&core, "large", LARGE);
    device.set_rule(|io| matches!(io, Io::Sync(FileId::Object(_))).then_some(Errno::IO));
    assert!(core.fsync(handle, false).is_err());
    device.clear_rule();
    core.fsync(handle, false).unwrap();
    assert_eq!(read(&after_a_power_cut(&device), MAIN, "large").unwrap(), [7; LARGE]);
}

#[test]
fn a_volume_in_doubt_is_served_when_it_cannot_be_written_anew() {
    let device = device();
    let core = open(&device);
    write(&core, "small", 300);
    write(&core, "large", LARGE);
    core.sync().unwrap();
    device.set_rule(|io| matches!(io, Io::Sync(_)).then_some(Errno::IO));
    make(&core, "more").unwrap();
    assert!(core.sync().is_err());
    drop(core);
    // Nothing can be written to packs: the host is full.
    device.set_rule(|io| matches!(io, Io::Create(_)).then_some(Errno::NOSPC));
    let core = open(&device);
    assert_eq!(read(&core, MAIN, "small").unwrap(), [7; 300]);
    assert_eq!(errno(&make(&core, "no").unwrap_err()), Errno::ROFS);
    device.clear_rule();
    for _ in 0..40 {
        let _ = core.tend();
    }
    make(&core, "yes").unwrap();
    core.sync().unwrap();
    core.unlink(MAIN, ROOT, &name("large")).unwrap();
    core.close().unwrap();
    drop(core);
    assert!(!device.list(Folder::Log).unwrap().contains(&FileId::Doubt), "the note is gone");
    assert_eq!(read(&open(&device), MAIN, "yes").unwrap(), []);
}

#[test]
fn content_that_is_cut_short_is_not_copied_as_zeros() {
    let device = device();
    let core = open(&device);
    let from = write(&core, "large", 300_000);
    core.sync_content().unwrap();
    for id in device.list(Folder::Objects).unwrap() {
        let file = device.open(id).unwrap();
        if file.stat().unwrap().len == 300_000 {
            file.set_len(1000).unwrap();
        }
    }
    let to = write(&core, "copy", 5);
    let mut copied = 0;
    let told = loop {
        match core.copy_range((from, copied), (to, copied), 300_000 - copied, Caller::ROOT) {
            Ok(0) => break Ok(()),
            Ok(more) => copied += more,
            Err(error) => break Err(error),
        }
    };
    assert!(told.is_err() && copied <= 1000, "{copied}");
}

#[test]
fn healing_that_fails_deletes_nothing_that_the_log_names() {
    let device = device();
    let core = open(&device);
    write(&core, "small", 300);
    core.sync_content().unwrap();
    let (tells, pack) = (AtomicBool::new(true), AtomicBool::new(true));
    device.set_rule(move |io| match io {
        Io::SyncAll => tells.swap(false, Ordering::SeqCst).then_some(Errno::IO),
        Io::Sync(FileId::Pack(_)) => pack.swap(false, Ordering::SeqCst).then_some(Errno::IO),
        Io::Write(FileId::Draft(_), ..) => Some(Errno::NOSPC),
        _ => None,
    });
    assert!(core.sync_content().is_err());
    for _ in 0..10 {
        let _ = core.tend();
    }
    drop(core);
    device.clear_rule();
    let core = open(&device);
    assert_eq!(read(&core, MAIN, "small").unwrap(), [7; 300]);
    core.sweep().unwrap();
    for _ in 0..5 {
        core.tend().unwrap();
    }
    assert_eq!(read(&core, MAIN, "small").unwrap(), [7; 300]);
}

#[test]
fn a_mount_in_doubt_deletes_nothing_before_it_is_written_anew() {
    let device = device();
    let core = open(&device);
    write(&core, "large", LARGE);
    core.sync_content().unwrap();
    device.set_rule(|io| matches!(io, Io::Sync(FileId::Log(_))).then_some(Errno::IO));
    core.unlink(MAIN, ROOT, &name("large")).unwrap();
    assert!(core.sync().is_err());
    drop(core);
    device.set_rule(|io| matches!(io, Io::Write(FileId::Draft(_), ..)).then_some(Errno::NOSPC));
    let objects = device.list(Folder::Objects).unwrap();
    let core = open(&device);
    core.sweep().unwrap();
    for _ in 0..10 {
        let _ = core.tend();
    }
    let left = device.list(Folder::Objects).unwrap();
    assert!(objects.iter().all(|id| left.contains(id)), "{objects:?} {left:?}");
    device.clear_rule();
    for _ in 0..40 {
        let _ = core.tend();
    }
    make(&core, "goes on").unwrap();
}

#[test]
fn a_record_does_not_overtake_an_object_whose_fsync_failed() {
    let device = device();
    let core = open(&device);
    let handle = write(&core, "large", LARGE);
    core.fsync(handle, false).unwrap();
    core.create_snapshot("main", None).unwrap();
    core.write(handle, 0, &[8; 100], false).unwrap();
    let once = AtomicBool::new(true);
    device.set_rule(move |io| {
        let fails = matches!(io, Io::Sync(FileId::Object(_))) && once.swap(false, Ordering::SeqCst);
        fails.then_some(Errno::IO)
    });
    assert!(core.fsync(handle, false).is_err());
    let _ = core.sync();
    let large = read(&after_a_power_cut(&device), MAIN, "large").unwrap();
    assert_eq!((large.len(), large[LARGE - 1]), (LARGE, 7));
    core.tend().unwrap();
    core.fsync(handle, false).unwrap();
    assert_eq!(read(&after_a_power_cut(&device), MAIN, "large").unwrap()[..100], [8; 100]);
}
