//! The core's hot races, each under many schedules that an explorer chose: at each lock another thread may go on. SCHEDULES says how many
//! of a race (200 by two strategies each). What an atomic alone decides is not explored: ThreadSanitizer looks at that.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test stops at what goes wrong")]

mod explorer;
#[path = "../../agentfs-core/tests/volume/mod.rs"]
mod volume;

use std::sync::Arc;

use agentfs_core::testing::{config, dump};
use agentfs_core::{
    Caller, Config, FileKind, FsCore, FsError, InodeId, Memory, MergeWish, OpenMode, PackLimits, Policy, Progress, Quota,
    RenameMode, ViewId, check,
};
use explorer::{explore, together};
use volume::{Volume, name};

const MAIN: ViewId = ViewId::MAIN;

/// Small packs, a log that is shortened at once, each file of more than two blocks in layers when it was frozen.
fn tight() -> Config {
    Config {
        max_snapshots: 20,
        small_file: 64,
        layered_from: 8192,
        log_factor: 0,
        log_slack: 0,
        packs: PackLimits { size: 4096, slack: 1 },
        ..config()
    }
}

fn open(device: &Arc<Memory>) -> Volume {
    Volume(FsCore::open_volume(device.clone(), tight()).unwrap().0)
}

fn volume() -> (Arc<Memory>, Arc<Volume>) {
    let device = Arc::new(Memory::default());
    let volume = Arc::new(open(&device));
    (device, volume)
}

/// Everything holds together; and a kill now would leave it as it is.
fn is_sound(device: &Arc<Memory>, v: Arc<Volume>) {
    let views = |v: &Volume| -> Vec<ViewId> { v.0.list_branches(None, 100).iter().map(|info| info.view).collect() };
    for view in views(&v) {
        let version = v.0.version(view).unwrap();
        assert_eq!(check(&version), vec![]);
        assert!(version.leads_back());
    }
    let shown = |v: &Volume| {
        let trees: Vec<_> = views(v).into_iter().map(|view| dump(&v.0, view)).collect();
        (trees, v.0.list_snapshots(None, 100))
    };
    let before = shown(&v);
    // Not closed: as after a kill.
    assert!(Arc::into_inner(v).is_some());
    assert_eq!(shown(&open(device)), before);
}

fn rename(v: &Volume, from: (&str, &str), to: (&str, &str)) -> Result<(), FsError> {
    let dir = |path: &str| v.find("main", path).ok_or(FsError::NotFound);
    v.0.rename(MAIN, (dir(from.0)?, &name(from.1)), (dir(to.0)?, &name(to.1)), RenameMode::Replace)
}

/// Overwrites a file in place with as many bytes of a number.
fn fill(v: &Volume, path: &str, number: u8, len: usize) {
    v.write_at("main", path, 0, &vec![number; len]);
}

/// The number that a file is full of, all of it.
fn number_in(v: &Volume, view: ViewId, path: &str) -> u8 {
    let at = |dir, part: &str| v.0.lookup(view, dir, &name(part)).unwrap().unwrap().ino;
    let ino = path.split('/').fold(InodeId::ROOT, at);
    let bytes = volume::bytes_of(&v.0, view, ino);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{path} has parts of two writes");
    bytes[0]
}

/// One of each kind, with their lengths.
const FILES: [(&str, usize); 3] = [("small", 10), ("object", 5_000), ("layers", 20_000)];

/// A volume that has these, full of ones.
fn with_files() -> (Arc<Memory>, Arc<Volume>) {
    let (device, v) = volume();
    for (path, len) in FILES {
        v.make("main", path, FileKind::File);
        fill(&v, path, 1, len);
    }
    (device, v)
}

/// The numbers that these are full of in a snapshot.
fn numbers_of(v: &Volume, snapshot: &str) -> Vec<u8> {
    let id = v.0.find_snapshot(snapshot).unwrap().id;
    let view = v.0.enter_snapshot(id, InodeId::ROOT).unwrap();
    let numbers = FILES.iter().map(|(path, _)| number_in(v, view, path)).collect();
    v.0.forget(view, InodeId::ROOT, 1);
    numbers
}

#[test]
fn directories_renamed_into_each_other_stay_a_tree() {
    explore(|| {
        let (device, v) = volume();
        for path in ["a", "b", "a/x", "b/y"] {
            v.make("main", path, FileKind::Directory);
        }
        v.put("main", "a/f", "text");
        let work = |from: (&'static str, &'static str), to: (&'static str, &'static str)| {
            let v = v.clone();
            Box::new(move || drop(rename(&v, from, to))) as Box<dyn FnOnce() + Send>
        };
        together(vec![
            work(("", "a"), ("b/y", "a")),
            work(("", "b"), ("a/x", "b")),
            work(("a", "x"), ("b", "x")),
            work(("a", "f"), ("b", "f")),
        ]);
        assert_eq!(v.0.version(MAIN).unwrap().len(), 6, "nothing was lost");
        is_sound(&device, v);
    });
}

#[test]
fn a_snapshot_has_the_writes_of_one_moment() {
    explore(|| {
        let (device, v) = with_files();
        v.0.create_snapshot("main", Some("s0")).unwrap();
        let (writer, taker, keeper) = (v.clone(), v.clone(), v.clone());
        together(vec![
            Box::new(move || {
                (2..5).for_each(|n| FILES.iter().for_each(|(path, len)| fill(&writer, path, n, *len)));
            }),
            Box::new(move || {
                let names = ["s1", "s2", "s3"];
                let at_once = names.map(|name| {
                    taker.0.create_snapshot("main", Some(name)).unwrap();
                    numbers_of(&taker, name)
                });
                assert_eq!(names.map(|name| numbers_of(&taker, name)), at_once, "a snapshot changed");
                taker.0.delete_snapshot("s1").unwrap();
            }),
            Box::new(move || (0..3).for_each(|_| keeper.0.tend().unwrap())),
        ]);
        for name in ["s0", "s2", "s3"] {
            let numbers = numbers_of(&v, name);
            // Written in this order: none is newer than the one before.
            assert!(numbers.is_sorted_by(|a, b| a >= b) && numbers[0] - numbers[2] <= 1, "{numbers:?}");
        }
        for (path, _) in FILES {
            assert_eq!(number_in(&v, MAIN, path), 4);
        }
        is_sound(&device, v);
    });
}

#[test]
fn a_merge_loses_neither_what_it_brings_nor_what_is_written_meanwhile() {
    explore(|| {
        let (device, v) = volume();
        for path in ["mine", "theirs", "large"] {
            v.make("main", path, FileKind::File);
            fill(&v, path, 1, if path == "large" { 20_000 } else { 10 });
        }
        v.0.create_branch("main", Some("b")).unwrap();
        v.write_at("b", "theirs", 0, &[7; 10]);
        v.put("b", "new", "new");
        let (writer, merger) = (v.clone(), v.clone());
        together(vec![
            Box::new(move || {
                for n in 2..5 {
                    fill(&writer, "mine", n, 10);
                    fill(&writer, "large", n, 20_000);
                    writer.put("main", &format!("made{n}"), "x");
                }
            }),
            Box::new(move || {
                let wish = MergeWish {
                    source: "b",
                    into: Some("main"),
                    policy: Policy::Refuse,
                    is_dry: false,
                    with_git: true,
                    left_out: &|_, _| false,
                };
                let merged = merger.0.merge(&wish, &Progress::default());
                assert!(matches!(&merged, Ok(merged) if merged.conflicts.is_empty() && merged.unsynced.is_none()));
            }),
        ]);
        let numbers = ["mine", "large", "theirs"].map(|path| number_in(&v, MAIN, path));
        assert_eq!(numbers, [4, 4, 7]);
        for path in ["new", "made2", "made3", "made4"] {
            assert!(v.find("main", path).is_some(), "{path}");
        }
        is_sound(&device, v);
    });
}

#[test]
fn a_checkpoint_crosses_everything_and_loses_nothing() {
    explore(|| {
        let (device, v) = volume();
        v.make("main", "d", FileKind::Directory);
        for path in ["f", "d/g"] {
            v.make("main", path, FileKind::File);
            fill(&v, path, 1, 9_000);
        }
        v.put("main", "small", "before");
        let (writer, mover, taker, keeper) = (v.clone(), v.clone(), v.clone(), v.clone());
        together(vec![
            Box::new(move || {
                (2..4).for_each(|n| fill(&writer, "f", n, 9_000));
                writer.put("main", "small", "after");
                writer.remove("main", "small");
            }),
            Box::new(move || {
                rename(&mover, ("d", "g"), ("", "h")).unwrap();
                rename(&mover, ("", "d"), ("", "e")).unwrap();
                mover.link("main", "h", "e/i");
            }),
            Box::new(move || {
                taker.0.create_branch("main", Some("b")).unwrap();
                taker.0.create_snapshot("main", Some("s")).unwrap();
                taker.0.delete_branch("b", true).unwrap();
            }),
            Box::new(move || {
                keeper.0.compact().unwrap();
                keeper.0.sync().unwrap();
                keeper.0.tend().unwrap();
                keeper.0.compact().unwrap();
            }),
        ]);
        assert_eq!(number_in(&v, MAIN, "f"), 3);
        assert_eq!(number_in(&v, MAIN, "e/i"), 1);
        is_sound(&device, v);
    });
}

#[test]
fn writers_reach_a_quota_and_do_not_pass_it() {
    explore(|| {
        let quota = Quota { bytes: 5 * 4096, ..Quota::NONE };
        let device = Arc::new(Memory::default());
        let config = Config { branch_quota: quota, ..tight() };
        let v = Arc::new(Volume(FsCore::open_volume(device, config).unwrap().0));
        let work = |path: &'static str| {
            let v = v.clone();
            let ino = v.make("main", path, FileKind::File);
            let write = move || {
                let handle = v.0.open(MAIN, ino, OpenMode::Write, Caller::ROOT).unwrap();
                for n in 0..2 {
                    match v.0.write(handle, n * 4096, &[1; 4096], false) {
                        Ok(4096) => {}
                        other => assert!(matches!(other, Err(FsError::QuotaExceeded)), "{other:?}"),
                    }
                    assert!(v.0.charged(Some("main")).unwrap().unwrap().bytes <= quota.bytes);
                }
                v.0.release(handle).unwrap();
            };
            Box::new(write) as Box<dyn FnOnce() + Send>
        };
        together(vec![work("a"), work("b"), work("c")]);
        assert_eq!(v.0.charged(Some("main")).unwrap().unwrap().bytes, quota.bytes);
    });
}

#[test]
fn who_looks_into_a_branch_or_snapshot_that_is_deleted_sees_it_or_that_it_is_gone() {
    explore(|| {
        let (device, v) = volume();
        v.make("main", "f", FileKind::File);
        fill(&v, "f", 1, 9_000);
        v.0.create_branch("main", Some("b")).unwrap();
        let snapshot = v.0.create_snapshot("main", Some("s")).unwrap().id;
        let view = v.view("b");
        let (looker, enterer, deleter) = (v.clone(), v.clone(), v.clone());
        together(vec![
            Box::new(move || {
                for _ in 0..2 {
                    let Ok(found) = looker.0.lookup(view, InodeId::ROOT, &name("f")) else { continue };
                    let ino = found.unwrap().ino;
                    let Ok(handle) = looker.0.open(view, ino, OpenMode::Read, Caller::ROOT) else { continue };
                    let mut bytes = [0; 100];
                    match looker.0.read(handle, 50, &mut bytes) {
                        Ok(100) => assert_eq!(bytes, [1; 100]),
                        other => assert!(matches!(other, Err(FsError::Stale)), "{other:?}"),
                    }
                    looker.0.release(handle).unwrap();
                }
            }),
            Box::new(move || {
                if let Ok(view) = enterer.0.enter_snapshot(snapshot, InodeId::ROOT) {
                    if let Ok(Some(found)) = enterer.0.lookup(view, InodeId::ROOT, &name("f")) {
                        assert_eq!(found.size, 9_000);
                    }
                    enterer.0.forget(view, InodeId::ROOT, 1);
                }
            }),
            Box::new(move || {
                let _ = deleter.0.delete_branch("b", true);
                let _ = deleter.0.delete_snapshot("s");
                deleter.0.create_branch("main", Some("b2")).unwrap();
                fill(&deleter, "f", 2, 9_000);
            }),
        ]);
        assert_eq!(number_in(&v, MAIN, "f"), 2);
        is_sound(&device, v);
    });
}

#[test]
fn snapshots_that_leave_memory_are_what_they_were_while_others_go() {
    explore(|| {
        let (device, v) = with_files();
        let name_of = |n: u8| format!("s{n}");
        for n in 1..9 {
            FILES.iter().for_each(|(path, len)| fill(&v, path, n, *len));
            v.0.create_snapshot("main", Some(&name_of(n))).unwrap();
        }
        assert!(v.0.status().unwrap().snapshots_on_disk > 2);
        let (looker, deleter, taker, keeper) = (v.clone(), v.clone(), v.clone(), v.clone());
        together(vec![
            Box::new(move || {
                for n in [3, 8, 1, 6] {
                    assert_eq!(numbers_of(&looker, &name_of(n)), [n; 3]);
                }
            }),
            Box::new(move || {
                for n in [2, 5, 4] {
                    deleter.0.delete_snapshot(&name_of(n)).unwrap();
                }
            }),
            Box::new(move || {
                FILES.iter().for_each(|(path, len)| fill(&taker, path, 9, *len));
                taker.0.create_snapshot("main", Some(&name_of(9))).unwrap();
            }),
            Box::new(move || {
                keeper.0.tend().unwrap();
                keeper.0.compact().unwrap();
                keeper.0.tend().unwrap();
            }),
        ]);
        for n in [1, 3, 6, 7, 8, 9] {
            assert_eq!(numbers_of(&v, &name_of(n)), [n; 3]);
        }
        is_sound(&device, v);
    });
}
