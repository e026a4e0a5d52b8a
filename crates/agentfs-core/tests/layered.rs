//! Large files that were frozen and are written to: what was durable stays, space comes back, copies share.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)]

mod volume;

use std::sync::Arc;

use agentfs_core::testing::{Chance, rewrite_log};
use agentfs_core::{
    Caller, Device, Edit, FallocateFlags, FileId, FileKind, Folder, InodeId, Memory, OpenMode, Record,
    ViewId, check_store, repair_store,
};
use volume::large::{BLOCK, copy, filled, held, is_layered, layered, open, tend};
use volume::{Volume, bytes_of};

#[test]
fn a_file_that_is_overwritten_gives_all_space_back_with_its_snapshot() {
    let device = Arc::new(Memory::default());
    let v = open(device.clone(), 1);
    let len = 100 * BLOCK;
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &filled(1, len as usize));
    let whole = held(&*device);
    // All of it, and every third block of it.
    v.0.create_snapshot("main", Some("all")).unwrap();
    for at in (0..100).rev() {
        v.write_at("main", "f", at * BLOCK, &filled(2, BLOCK as usize));
    }
    assert!(!is_layered(&v, "main", "f"), "all of it is in one object");
    assert_eq!(held(&*device), 2 * whole);
    assert_eq!(v.0.delete_snapshot("all").unwrap().1, whole);
    assert_eq!(held(&*device), whole);
    v.0.create_snapshot("main", Some("thirds")).unwrap();
    (0..100).step_by(3).for_each(|at| v.write_at("main", "f", at * BLOCK, &filled(3, BLOCK as usize)));
    assert!(is_layered(&v, "main", "f"));
    assert_eq!(held(&*device), whole + 34 * BLOCK);
    assert_eq!(v.0.delete_snapshot("thirds").unwrap().1, 34 * BLOCK, "it says what came back");
    assert_eq!(held(&*device), whole);
    let expected: Vec<u8> =
        (0..100).flat_map(|at| filled(if at % 3 == 0 { 3 } else { 2 }, BLOCK as usize)).collect();
    assert_eq!(v.bytes("main", "f").unwrap(), expected);
    drop(v);
    assert_eq!(open(device.clone(), 1).bytes("main", "f").unwrap(), expected);
}

fn objects(v: &Volume, path: &str) -> usize {
    let ino = v.find("main", path).unwrap();
    v.0.version(ViewId::MAIN).unwrap().get(ino).unwrap().objects()
}

/// A file that was written a little between each two of many snapshots lies in few objects, and is what it was in each.
#[test]
fn what_many_snapshots_have_a_little_of_is_gathered() {
    let device = Arc::new(Memory::default());
    let (mut v, mut chance) = (open(device.clone(), 1), Chance(5));
    let mut expected = filled(1, 600 * BLOCK as usize);
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &expected);
    let mut then = Vec::new();
    for n in 0..300_usize {
        let taken = v.0.create_snapshot("main", None).unwrap();
        then.push((taken.id, expected.clone()));
        let at = chance.below(599 * BLOCK) as usize;
        v.write_at("main", "f", at as u64, &filled(n as u8, 100));
        expected[at..at + 100].fill((n as u8).max(1));
        v.0.tend().unwrap();
        assert!(objects(&v, "f") <= 66, "{} objects after {n} snapshots", objects(&v, "f"));
    }
    assert!(is_layered(&v, "main", "f"));
    for round in 0..2 {
        assert!(v.bytes("main", "f").unwrap() == expected);
        for (id, expected) in then.iter().step_by(7) {
            let view = v.0.enter_snapshot(*id, InodeId::ROOT).unwrap();
            assert!(bytes_of(&v.0, view, v.find("main", "f").unwrap()) == *expected);
            v.0.forget(view, InodeId::ROOT, 1);
        }
        if round == 0 {
            drop(v); // a kill
            v = open(device.clone(), 1);
        }
    }
    // All but the blocks that were written to went into one object, and comes back with the snapshots.
    for (id, _) in &then {
        v.0.delete_snapshot(&id.to_string()).unwrap();
    }
    tend(&v);
    assert!(held(&*device) <= 602 * BLOCK, "{} bytes are held of {}", held(&*device), 600 * BLOCK);
    assert!(v.bytes("main", "f").unwrap() == expected);
}

/// What is written as often as the rest is large comes to be in one object again.
#[test]
fn a_file_that_is_written_much_is_in_one_object_again() {
    let device = Arc::new(Memory::default());
    let v = open(device.clone(), 1);
    let mut expected = filled(1, 500 * BLOCK as usize);
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &expected);
    v.0.create_snapshot("main", Some("s")).unwrap();
    expected[7 * BLOCK as usize..][..3000].fill(9);
    for n in 0..499 {
        v.write_at("main", "f", 7 * BLOCK, &filled(9, 3000));
        if n == 200 {
            tend(&v);
            assert!(is_layered(&v, "main", "f"), "too early");
        }
    }
    let mtime = v.0.getattr(ViewId::MAIN, v.find("main", "f").unwrap()).unwrap().mtime;
    (0..300).for_each(|_| v.write_at("main", "f", 7 * BLOCK, &filled(9, 3000)));
    tend(&v);
    assert!(!is_layered(&v, "main", "f") && v.bytes("main", "f").unwrap() == expected);
    let now = v.0.getattr(ViewId::MAIN, v.find("main", "f").unwrap()).unwrap();
    assert!(now.mtime > mtime && now.blocks * 512 == 500 * BLOCK);
    v.0.delete_snapshot("s").unwrap();
    assert_eq!(held(&*device), 500 * BLOCK);
    drop(v);
    assert!(open(device.clone(), 1).bytes("main", "f").unwrap() == expected);
}

/// A closed volume with a file of 20 blocks in layers.
fn closed() -> Arc<Memory> {
    let device = Arc::new(Memory::default());
    let v = open(device.clone(), 1);
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &filled(1, 20 * BLOCK as usize));
    v.0.create_snapshot("main", None).unwrap();
    v.write_at("main", "f", 5 * BLOCK, &filled(2, 3000));
    assert!(is_layered(&v, "main", "f"));
    v.0.checkpoint().unwrap();
    v.0.close().unwrap();
    device
}

#[test]
fn a_check_finds_what_is_wrong_with_layers_and_a_repair_cuts_what_lies_behind_the_end() {
    let checked = |device: &Arc<Memory>| {
        let report = check_store(device.clone(), layered(1)).unwrap();
        report.findings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(checked(&closed()), Vec::<String>::new());
    // One object is gone, or shorter than what lies in it.
    for harm in ["is missing", "it says that it has"] {
        let device = closed();
        let objects = device.list(Folder::Objects).unwrap().into_iter();
        let top = objects.min_by_key(|id| device.open(*id).unwrap().stat().unwrap().blocks).unwrap();
        match harm {
            "is missing" => drop(device.remove(top).unwrap()),
            _ => device.open(top).unwrap().set_len(5 * BLOCK + 100).unwrap(),
        }
        let found = checked(&device);
        assert!(found.len() == 1 && found[0].contains("/f") && found[0].contains(harm), "{found:?}");
    }
    // The file is shorter than what lies in its layers.
    let device = closed();
    for id in device.list(Folder::Log).unwrap() {
        let FileId::Log(piece) = id else { continue };
        let shorter = |edit: Edit| match edit {
            Edit::Put(ino, inode) if inode.is_layered() => {
                let mut inode = (*inode).clone();
                inode.meta.size = 10 * BLOCK;
                Edit::Put(ino, Arc::new(inode))
            }
            Edit::Meta(ino, mut meta) if meta.size == 20 * BLOCK => {
                meta.size = 10 * BLOCK;
                Edit::Meta(ino, meta)
            }
            other => other,
        };
        rewrite_log(&*device, piece, |record| {
            Some(match record {
                Record::Version(number, base, edits) => {
                    Record::Version(number, base, edits.into_iter().map(shorter).collect())
                }
                other => other,
            })
        });
    }
    let found = checked(&device);
    assert!(
        !found.is_empty() && found.iter().all(|found| found.contains("content up to byte 81920")),
        "{found:?}"
    );
    let store: Arc<dyn Device> = device.clone();
    let repaired = repair_store(&store, &layered(1)).unwrap();
    assert!(!repaired.mended.is_empty() && repaired.report.findings.is_empty(), "{repaired:?}");
    assert_eq!(open(device, 1).bytes("main", "f").unwrap().len() as u64, 10 * BLOCK);
}

/// Writes, cuts, snapshots, branches and deletions by chance: what is left at the end is what is needed.
#[test]
fn what_nothing_names_any_more_takes_no_space_whatever_was_done() {
    for seed in 1..40 {
        let (device, mut chance) = (Arc::new(Memory::default()), Chance(seed));
        let mut v = open(device.clone(), 1);
        v.make("main", "f", FileKind::File);
        v.write_at("main", "f", 0, &filled(1, 40 * BLOCK as usize));
        let mut expected = filled(1, 40 * BLOCK as usize);
        for n in 0..80_u8 {
            match chance.below(12) {
                0 => drop(v.0.create_snapshot("main", None).unwrap()),
                // There may be enough.
                1 => drop(v.0.create_branch("main", None)),
                2 => {
                    let all = v.0.list_branches(None, 100);
                    let some = &all[chance.below(all.len() as u64) as usize];
                    // `main` is refused.
                    let _ = v.0.delete_branch(&some.id.to_string(), true);
                }
                3 => {
                    let all = v.0.list_snapshots(None, 1000);
                    if !all.is_empty() {
                        let some = &all[chance.below(all.len() as u64) as usize];
                        let _ = v.0.delete_snapshot(&some.id.to_string());
                    }
                }
                4 => {
                    let (at, len) = (chance.below(36 * BLOCK), 1 + chance.below(4 * BLOCK));
                    let handle =
                        v.0.open(ViewId::MAIN, v.find("main", "f").unwrap(), OpenMode::Write, Caller::ROOT);
                    let handle = handle.unwrap();
                    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    v.0.allocate(handle, mode, at, len, Caller::ROOT).unwrap();
                    v.0.release(handle).unwrap();
                    expected[at as usize..(at + len) as usize].fill(0);
                }
                5 => tend(&v),
                6 if n % 3 == 0 => {
                    v.0.close().unwrap();
                    drop(v);
                    v = open(device.clone(), 1);
                }
                _ => {
                    let at = chance.below(39 * BLOCK) as usize;
                    let len = 1 + chance.below(BLOCK * 2) as usize;
                    let len = len.min(expected.len() - at);
                    v.write_at("main", "f", at as u64, &filled(n + 2, len));
                    expected[at..at + len].fill(n + 2);
                }
            }
        }
        assert_eq!(v.bytes("main", "f").unwrap(), expected);
        for branch in v.0.list_branches(None, 100).iter().filter(|info| info.name.as_deref() != Some("main"))
        {
            v.0.delete_branch(&branch.id.to_string(), true).unwrap();
        }
        for snapshot in v.0.list_snapshots(None, 1000) {
            v.0.delete_snapshot(&snapshot.id.to_string()).unwrap();
        }
        tend(&v);
        let blocks = v.0.getattr(ViewId::MAIN, v.find("main", "f").unwrap()).unwrap().blocks * 512;
        // At both ends of a hole a block may be left in part, and what was made ahead is empty.
        let pieces = expected.windows(2).filter(|pair| (pair[0] == 0) != (pair[1] == 0)).count() as u64;
        let now = held(&*device);
        assert!(
            now <= blocks + (pieces + 2) * BLOCK && now + (pieces + 2) * BLOCK >= blocks,
            "seed {seed}: {now} bytes held, the file has {blocks}"
        );
        assert_eq!(v.bytes("main", "f").unwrap(), expected);
        v.0.close().unwrap();
        drop(v);
        assert_eq!(open(device.clone(), 1).bytes("main", "f").unwrap(), expected);
    }
}

/// A branch of a large file holds what was written in it.
#[test]
fn the_usage_of_a_branch_counts_the_blocks_that_are_its_own() {
    let v = open(Arc::new(Memory::default()), 1);
    v.make("main", "f", FileKind::File);
    v.write_at("main", "f", 0, &filled(1, 100 * BLOCK as usize));
    v.0.create_snapshot("main", Some("s")).unwrap();
    let usage = |branch: &str| {
        let usage = v.0.usage(branch).unwrap();
        (usage.private_bytes / BLOCK, usage.shared_bytes / BLOCK)
    };
    ["a", "b"].iter().for_each(|name| drop(v.0.create_branch("s", Some(name)).unwrap()));
    assert_eq!(usage("a"), (0, 100));
    v.write_at("a", "f", 10 * BLOCK, &filled(2, 5 * BLOCK as usize));
    v.write_at("b", "f", 50 * BLOCK, &filled(3, 100));
    assert_eq!((usage("a"), usage("b"), usage("main")), ((5, 95), (1, 99), (0, 100)));
    v.0.create_branch("a", Some("c")).unwrap();
    v.write_at("c", "f", 12 * BLOCK, &filled(4, BLOCK as usize));
    assert_eq!((usage("a"), usage("c")), ((1, 99), (1, 99)));
}

/// Not only what was frozen is shared: what the branch writes in place becomes nobody's to write.
#[test]
fn a_copy_of_a_large_file_takes_no_space_and_both_go_their_own_ways() {
    let device = Arc::new(Memory::default());
    let v = open(device.clone(), 1);
    let len = 64 * BLOCK;
    v.make("main", "f", FileKind::File);
    v.make("main", "copy", FileKind::File);
    v.make("main", "moved", FileKind::File);
    v.write_at("main", "f", 0, &filled(1, len as usize));
    let whole = held(&*device);
    assert_eq!(copy(&v, ("f", 0), ("copy", 0), len), len);
    // To another place in a file, and not at the bounds of blocks.
    assert_eq!(copy(&v, ("f", 100), ("moved", 5000), len - 100), len - 100);
    assert_eq!(held(&*device), whole);
    v.write_at("main", "f", 10, b"one");
    v.write_at("main", "copy", 20, b"two");
    v.write_at("main", "moved", 5020, b"three");
    assert_eq!(held(&*device), whole + 5 * BLOCK - 2 * BLOCK);
    let expect = |v: &Volume| {
        let mut expected = [filled(1, len as usize), filled(1, len as usize), vec![0; 5000]];
        expected[2].extend(filled(1, len as usize - 100));
        expected[0][10..13].copy_from_slice(b"one");
        expected[1][20..23].copy_from_slice(b"two");
        expected[2][5020..5025].copy_from_slice(b"three");
        for (path, expected) in ["f", "copy", "moved"].iter().zip(expected) {
            assert!(v.bytes("main", path).unwrap() == expected, "{path} is not what was written");
        }
    };
    expect(&v);
    // A kill, and a snapshot of which all three are written again.
    drop(v);
    let v = open(device.clone(), 1);
    expect(&v);
    v.0.create_snapshot("main", Some("s")).unwrap();
    ["f", "copy", "moved"].iter().for_each(|path| v.write_at("main", path, 9000, b"again"));
    let snapshot = v.0.find_snapshot("s").unwrap();
    let view = v.0.enter_snapshot(snapshot.id, InodeId::ROOT).unwrap();
    let then = bytes_of(&v.0, view, v.find("main", "copy").unwrap());
    assert_eq!((&then[20..23], &then[9000..9005]), (&b"two"[..], &[1; 5][..]));
    assert_eq!(&v.bytes("main", "copy").unwrap()[9000..9005], b"again");
}
