//! Snapshots that nobody looks at are on disk, and what they were when somebody does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

mod volume;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::testing::{Chance, CrashDevice, Errno, Io, Stop, config, within};
use agentfs_core::{
    Attr, Caller, Config, Device, FileId, FileKind, Folder, FsCore, FsError, InodeId, Memory, OpenMode,
    Quota, SnapshotId, ViewId, XattrMode,
};
use volume::{Volume, name};

fn settings(resident: usize) -> Config {
    Config {
        resident_snapshots: resident,
        max_snapshots: 100_000,
        max_branches: 100,
        small_file: 64,
        ..config()
    }
}

fn open(device: &Arc<impl Device + 'static>, resident: usize) -> Volume {
    Volume(FsCore::open_volume(device.clone(), settings(resident)).unwrap().0)
}

/// The files in the root of a snapshot, each with all its bytes.
fn files(v: &Volume, id: SnapshotId) -> Result<BTreeMap<String, Vec<u8>>, FsError> {
    let view = v.0.enter_snapshot(id, InodeId::ROOT)?;
    let mut names = Vec::new();
    let listed = v.0.readdirplus(view, InodeId::ROOT, 2, |entry, _| {
        names.push(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    });
    let files = listed.and_then(|()| {
        let file = |called: String| {
            let attr = v.0.lookup(view, InodeId::ROOT, &name(&called))?.ok_or(FsError::NotFound)?;
            let bytes = match attr.kind {
                FileKind::File => read(&v.0, view, attr)?,
                _ => Vec::new(),
            };
            Ok((called, bytes))
        };
        names.into_iter().map(file).collect()
    });
    v.0.forget(view, InodeId::ROOT, 1);
    files
}

fn read(core: &FsCore, view: ViewId, attr: Attr) -> Result<Vec<u8>, FsError> {
    let handle = core.open(view, attr.ino, OpenMode::Read, Caller::ROOT)?;
    let mut bytes = vec![0xAA; attr.size as usize];
    let read = core.read(handle, 0, &mut bytes);
    core.release(handle)?;
    assert_eq!(read?, bytes.len());
    Ok(bytes)
}

fn on_disk(v: &Volume) -> usize {
    v.0.status().unwrap().snapshots_on_disk
}

/// Does some of all that can be done to files in a branch; `now` says what is there then.
fn work(v: &Volume, branch: &str, chance: &mut Chance, now: &mut BTreeMap<String, Vec<u8>>) {
    for _ in 0..3 {
        let (called, other) = (format!("f{}", chance.below(12)), format!("f{}", chance.below(12)));
        let text = vec![b'a' + chance.below(26) as u8; 1 + chance.below(200) as usize];
        match chance.below(6) {
            0 if now.contains_key(&called) => {
                v.remove(branch, &called);
                now.remove(&called);
            }
            1 if now.contains_key(&called) && called != other => {
                if now.contains_key(&other) {
                    v.remove(branch, &other);
                }
                v.link(branch, &called, &other);
                v.remove(branch, &called);
                let bytes = now.remove(&called).unwrap();
                now.insert(other, bytes);
            }
            2 if now.contains_key(&called) => {
                let at = now[&called].len();
                v.write_at(branch, &called, at as u64, &text);
                now.get_mut(&called).unwrap().extend(&text);
            }
            3 => {
                let dir = format!("d{}", chance.below(4));
                if v.find(branch, &dir).is_none() {
                    v.make(branch, &dir, FileKind::Directory);
                    now.insert(dir.clone(), Vec::new());
                }
                v.put(branch, &format!("{dir}/{called}"), "in a directory");
                let ino = v.find(branch, &dir).unwrap();
                v.0.setxattr(v.view(branch), ino, b"user.of", &text, XattrMode::Any).unwrap();
            }
            _ => {
                v.put(branch, &called, std::str::from_utf8(&text).unwrap());
                now.insert(called, text);
            }
        }
    }
}

type Then = Vec<(SnapshotId, BTreeMap<String, Vec<u8>>)>;

/// Many snapshots of two branches, and what is in each.
fn history(v: &Volume, chance: &mut Chance, count: usize) -> Then {
    let mut now = [("main", BTreeMap::new()), ("b", BTreeMap::new())];
    v.0.create_branch("main", Some("b")).unwrap();
    let mut then = Vec::new();
    for _ in 0..count {
        let (branch, files) = &mut now[chance.below(2) as usize];
        work(v, branch, chance, files);
        then.push((v.0.create_snapshot(branch, None).unwrap().id, files.clone()));
    }
    then
}

fn assert_all(v: &Volume, then: &Then) {
    for (id, expected) in then {
        assert_eq!(files(v, *id).unwrap(), *expected, "snapshot {id}");
    }
}

#[test]
fn each_snapshot_is_what_it_was_in_whatever_order_they_are_looked_at_and_deleted() {
    for (seed, resident) in [(1, 0), (2, 5), (3, 30)] {
        let (device, mut chance) = (Arc::new(Memory::default()), Chance(seed));
        let v = open(&device, resident);
        let mut then = history(&v, &mut chance, 120);
        v.0.tend().unwrap();
        assert!(on_disk(&v) >= 112 - 2 * resident, "{} of 120 are on disk", on_disk(&v));
        while !then.is_empty() {
            let some: Vec<usize> = (0..10).map(|_| chance.below(then.len() as u64) as usize).collect();
            for at in some {
                assert_eq!(files(&v, then[at].0).unwrap(), then[at].1);
            }
            for _ in 0..chance.below(30).min(then.len() as u64) {
                let (id, _) = then.remove(match chance.below(3) {
                    0 => 0,
                    1 => then.len() - 1,
                    _ => chance.below(then.len() as u64) as usize,
                });
                v.0.delete_snapshot(&id.to_string()).unwrap();
            }
            v.0.tend().unwrap();
            assert!(on_disk(&v) <= then.len() + 2, "the branch's origin is hidden");
            if chance.below(3) == 0 {
                v.0.checkpoint().unwrap();
                assert_all(&v, &then);
            }
        }
        v.0.delete_branch("b", true).unwrap();
        for file in v.names("main") {
            if v.0.unlink(ViewId::MAIN, InodeId::ROOT, &name(&file)).is_err() {
                (0..12).filter(|n| v.find("main", &format!("{file}/f{n}")).is_some()).for_each(|n| {
                    v.remove("main", &format!("{file}/f{n}"));
                });
            }
        }
        v.0.compact().unwrap();
        v.0.sync().unwrap();
        v.0.tend().unwrap();
        assert_eq!(on_disk(&v), 0);
        // What was made ahead is empty.
        let held: u64 = device
            .list(Folder::Objects)
            .unwrap()
            .into_iter()
            .map(|id| device.open(id).unwrap().stat().unwrap().blocks)
            .sum();
        assert_eq!(held, 0, "all space is back");
    }
}

#[test]
fn what_is_written_of_them_to_the_log_is_the_same() {
    let (device, mut chance) = (Arc::new(Memory::default()), Chance(7));
    let v = open(&device, 0);
    let then = history(&v, &mut chance, 150);
    v.0.checkpoint().unwrap();
    assert_all(&v, &then);
    drop(v);
    for resident in [0, 1024] {
        let v = open(&device, resident);
        v.0.tend().unwrap();
        assert_eq!(on_disk(&v) > 140, resident == 0);
        assert_all(&v, &then);
        // A branch grows from one that is on disk, and is compared with another.
        let (from, expected) = &then[75];
        let grown = v.0.create_branch(&from.to_string(), Some(&format!("of-{resident}"))).unwrap();
        let found: Vec<String> = v.names(&grown.name.unwrap()).into_iter().collect();
        assert_eq!(found, expected.keys().cloned().collect::<Vec<_>>());
    }
}

#[test]
fn a_snapshot_that_cannot_be_read_back_fails_alone_and_comes_back() {
    let device = Arc::new(CrashDevice::new(Memory::default()));
    let mut chance = Chance(11);
    let v = open(&device, 0);
    let then = history(&v, &mut chance, 50);
    device.set_rule(|io| matches!(io, Io::Read(FileId::Scratch)).then_some(Errno::IO));
    let failed = then.iter().filter(|(id, _)| matches!(files(&v, *id), Err(FsError::Io(_)))).count();
    assert!(failed > 40, "{failed} failed");
    // Nothing goes that others are told by.
    for (id, _) in then.iter().take(40) {
        if let Err(error) = v.0.delete_snapshot(&id.to_string()) {
            assert!(matches!(error, FsError::Io(_)), "{error}");
        }
    }
    assert!(v.0.list_snapshots(None, 100).len() > 45);
    assert!(v.0.checkpoint().is_err());
    v.put("main", "new", "is written all the same");
    v.0.create_snapshot("main", Some("after")).unwrap();
    assert_eq!(v.text("main", "new").unwrap(), "is written all the same");
    device.clear_rule();
    let left: Vec<SnapshotId> = v.0.list_snapshots(None, 100).iter().map(|info| info.id).collect();
    let then: Then = then.into_iter().filter(|(id, _)| left.contains(id)).collect();
    assert_all(&v, &then);
    v.0.checkpoint().unwrap();
    drop(v);
    assert_all(&open(&device, 0), &then);
}

#[test]
fn without_room_on_disk_they_stay_in_memory() {
    let refused = |io: &Io| match io {
        Io::Write(FileId::Scratch, ..) | Io::Create(FileId::Scratch) => Some(Errno::NOSPC),
        _ => None,
    };
    stays_in_memory_while(13, (50, 45), refused, refused);
}

/// Takes so many snapshots while some I/Os are `refused`, and looks at all of them while `others` are: none has left memory. They
/// do when nothing is refused any more: more than `least`.
fn stays_in_memory_while(
    seed: u64,
    (count, least): (usize, usize),
    refused: fn(&Io) -> Option<Errno>,
    others: fn(&Io) -> Option<Errno>,
) {
    let device = Arc::new(CrashDevice::new(Memory::default()));
    let v = open(&device, 0);
    device.set_rule(refused);
    let then = history(&v, &mut Chance(seed), count);
    v.0.tend().unwrap_or_default(); // it may wait a while before it tries again
    assert_eq!(on_disk(&v), 0);
    device.set_rule(others);
    assert_all(&v, &then);
    device.clear_rule();
    (0..400).for_each(|_| v.0.tend().unwrap_or_default());
    assert!(on_disk(&v) > least, "{}", on_disk(&v));
    assert_all(&v, &then);
}

#[test]
fn what_they_hold_is_charged_as_before() {
    let quota = Quota { bytes: 1 << 30, inodes: 1 << 20 };
    let charged = |resident: usize| {
        let (device, mut chance) = (Arc::new(Memory::default()), Chance(17));
        let config = Config { quota, branch_quota: quota, ..settings(resident) };
        let v = Volume(FsCore::open_volume(device, config).unwrap().0);
        let then = history(&v, &mut chance, 100);
        v.0.tend().unwrap();
        let mut found = vec![v.0.charged(None).unwrap()];
        assert_all(&v, &then);
        for (id, _) in &then {
            v.0.tend().unwrap();
            v.0.delete_snapshot(&id.to_string()).unwrap();
            found.push(v.0.charged(None).unwrap());
        }
        found
    };
    assert_eq!(charged(0), charged(1000));
}

#[test]
fn thousands_that_are_told_one_by_the_other_go_at_once() {
    let run = || {
        let device = Arc::new(Memory::default());
        let v = open(&device, 0);
        for n in 0..3000 {
            v.put("main", "f", &n.to_string());
            v.0.create_snapshot("main", Some(&n.to_string())).unwrap();
        }
        let status = v.0.status().unwrap();
        assert!(status.snapshots_on_disk > 2950, "{status:?}");
        for n in [0, 1023, 1024, 1025, 2999] {
            let id = v.0.find_snapshot(&n.to_string()).unwrap().id;
            assert_eq!(files(&v, id).unwrap()["f"], n.to_string().into_bytes());
        }
    };
    // Dropped, they take no more stack the more there are.
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn many_look_while_others_come_and_go() {
    within(120, || {
        let device = Arc::new(Memory::default());
        let v = open(&device, 3);
        let mut chance = Chance(23);
        let then = history(&v, &mut chance, 100);
        let (done, until) = (AtomicBool::new(false), Instant::now() + Duration::from_secs(4));
        std::thread::scope(|scope| {
            let _stop = Stop(&done);
            for seed in 0..3 {
                let (v, then, done) = (&v, &then, &done);
                scope.spawn(move || {
                    let mut chance = Chance(seed);
                    while !done.load(Ordering::SeqCst) {
                        let (id, expected) = &then[chance.below(100) as usize];
                        match files(v, *id) {
                            Ok(files) => assert_eq!(files, *expected),
                            Err(FsError::UnknownVersion(_) | FsError::Stale) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let (v, done) = (&v, &done);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    v.0.tend().unwrap();
                    v.0.checkpoint().unwrap();
                }
            });
            let mut left: Vec<SnapshotId> = then.iter().map(|(id, _)| *id).collect();
            let mut now = then.last().map(|(_, files)| files.clone()).unwrap();
            while Instant::now() < until {
                v.put("main", "x", &chance.below(1000).to_string());
                now.clear();
                let taken = v.0.create_snapshot("main", None).unwrap().id;
                if left.len() > 20 && chance.below(2) == 0 {
                    let gone = left.swap_remove(chance.below(left.len() as u64) as usize);
                    match v.0.delete_snapshot(&gone.to_string()) {
                        Ok(_) | Err(FsError::Busy(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                if chance.below(2) == 0 {
                    v.0.delete_snapshot(&taken.to_string()).unwrap();
                }
            }
        });
        let known: Vec<SnapshotId> = v.0.list_snapshots(None, 100_000).iter().map(|info| info.id).collect();
        let then: Then = then.into_iter().filter(|(id, _)| known.contains(id)).collect();
        assert!(then.len() > 10);
        assert_all(&v, &then);
        drop(v);
        assert_all(&open(&device, 0), &then);
    });
}

/// The host may forget what it could not write, and tells once: nothing that was written before is relied on then.
#[test]
fn what_is_not_on_disk_for_sure_stays_in_memory() {
    stays_in_memory_while(
        29,
        (60, 50),
        |io| matches!(io, Io::Sync(FileId::Scratch)).then_some(Errno::IO),
        |io| matches!(io, Io::Read(FileId::Scratch)).then_some(Errno::IO),
    );
}

#[test]
fn many_branches_of_one_snapshot_are_told_by_each_other() {
    let (device, mut chance) = (Arc::new(Memory::default()), Chance(31));
    let v = Volume(FsCore::open_volume(device, Config { max_branches: 1000, ..settings(0) }).unwrap().0);
    (0..50).for_each(|n| v.put("main", &format!("base{n}"), "of all"));
    v.0.create_snapshot("main", Some("base")).unwrap();
    let mut then = Vec::new();
    for n in 0..300 {
        let branch = format!("b{n}");
        v.0.create_branch("base", Some(&branch)).unwrap();
        v.put(&branch, "own", &branch);
        v.remove(&branch, &format!("base{}", n % 50));
        then.push((v.0.create_snapshot(&branch, None).unwrap().id, branch));
    }
    v.0.tend().unwrap();
    assert!(on_disk(&v) > 285, "{}", on_disk(&v));
    // The branches go, and what they grew from; their snapshots stay.
    for n in 0..300 {
        v.0.delete_branch(&format!("b{n}"), true).unwrap();
    }
    v.0.delete_snapshot("base").unwrap();
    v.0.tend().unwrap();
    assert!(on_disk(&v) > 285, "{}", on_disk(&v));
    while let Some((id, branch)) = then.pop() {
        let found = files(&v, id).unwrap();
        assert_eq!((found["own"].as_slice(), found.len()), (branch.as_bytes(), 50));
        if chance.below(2) == 0 {
            v.0.delete_snapshot(&id.to_string()).unwrap();
        }
    }
}

#[test]
fn those_of_a_branch_that_are_thinned_out_from_the_newest_stay_small() {
    let (device, mut chance) = (Arc::new(Memory::default()), Chance(37));
    let v = open(&device, 0);
    v.0.create_snapshot("main", Some("origin")).unwrap();
    v.0.create_branch("origin", Some("b")).unwrap();
    let mut now = BTreeMap::new();
    let mut then = Vec::new();
    for _ in 0..100 {
        work(&v, "b", &mut chance, &mut now);
        then.push((v.0.create_snapshot("b", None).unwrap().id, now.clone()));
    }
    for at in (0..99).rev().filter(|at| at % 3 > 0) {
        let (id, _) = then.remove(at);
        v.0.delete_snapshot(&id.to_string()).unwrap();
        if chance.below(4) == 0 {
            v.0.tend().unwrap();
        }
    }
    v.0.tend().unwrap();
    assert!(on_disk(&v) >= then.len() - 6, "{} of {}", on_disk(&v), then.len());
    // From the newest: each brings back what the next ones need.
    then.reverse();
    assert_all(&v, &then);
}

/// Branches of many old snapshots share with each other what these have in common, and what they grew from stays.
#[test]
fn what_a_branch_grew_from_stays_in_memory_as_long_as_the_branch() {
    let (device, mut chance) = (Arc::new(Memory::default()), Chance(41));
    let v = open(&device, 0);
    let then = history(&v, &mut chance, 100);
    v.0.tend().unwrap();
    let before = on_disk(&v);
    for n in 0..20 {
        v.0.create_branch(&then[n * 5].0.to_string(), Some(&format!("n{n}"))).unwrap();
    }
    assert_all(&v, &then);
    assert!(on_disk(&v) <= before - 15, "{} of {before}", on_disk(&v));
    for n in 0..20 {
        v.0.delete_branch(&format!("n{n}"), true).unwrap();
    }
    (0..3).for_each(|_| assert_all(&v, &then));
    assert!(on_disk(&v) >= before - 8, "{} of {before}", on_disk(&v));
}
