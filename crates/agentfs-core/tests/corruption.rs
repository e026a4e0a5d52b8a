//! Planted corruption: each kind is found and named by `check`, none is served as good data, none is a panic; what can be
//! mended without guessing is mended, and what a repair takes away is kept.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use agentfs_core::testing::{config, rewrite_log};
use agentfs_core::{
    Caller, Config, CreateMode, Device, Edit, Entry, FileId, FileKind, Folder, FsCore, InodeId, Memory, Name,
    ObjectId, OpenMode, Record, Repaired, ViewId, check_store, repair_store,
};

const MAIN: ViewId = ViewId::MAIN;
const ROOT: InodeId = InodeId::ROOT;
/// The directory `dir`, which is made first.
const DIR: InodeId = InodeId(16);
/// The piece of the log with the checkpoint, and the one behind it.
const CHECKPOINT: u64 = 3;
const TAIL: u64 = 4;

fn settings() -> Config {
    Config { small_file: 4096, ..config() }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn make(core: &FsCore, dir: InodeId, called: &str, kind: FileKind) -> InodeId {
    let what = CreateMode { kind, mode: 0o755, umask: 0, rdev: 0 };
    core.create(MAIN, dir, &name(called), what, Caller::ROOT).unwrap().ino
}

fn fill(core: &FsCore, view: ViewId, ino: InodeId, bytes: &[u8]) {
    let handle = core.open(view, ino, OpenMode::Write, Caller::ROOT).unwrap();
    assert_eq!(core.write(handle, 0, bytes, false).unwrap(), bytes.len());
    core.release(handle).unwrap();
}

/// A closed volume: a checkpoint, a log behind it, files in packs and in objects, a branch, a snapshot.
fn volume() -> Arc<Memory> {
    let device = Arc::new(Memory::default());
    let (core, _) = FsCore::open_volume(device.clone(), settings()).unwrap();
    let dir = make(&core, ROOT, "dir", FileKind::Directory);
    for (at, (dir, called, len)) in
        [(ROOT, "small", 100), (dir, "inner", 2000), (ROOT, "large", 20_000), (dir, "big", 9000)]
            .into_iter()
            .enumerate()
    {
        let ino = make(&core, dir, called, FileKind::File);
        fill(&core, MAIN, ino, &vec![at as u8 + 1; len]);
    }
    core.create_snapshot("main", Some("then")).unwrap();
    core.create_branch("then", Some("other")).unwrap();
    core.checkpoint().unwrap().unwrap();
    let late = make(&core, ROOT, "late", FileKind::File);
    fill(&core, MAIN, late, &[9; 300]);
    core.sync().unwrap();
    let later = make(&core, ROOT, "later", FileKind::Directory);
    make(&core, later, "leaf", FileKind::File);
    core.close().unwrap();
    drop(core);
    assert!(check_store(device.clone(), settings()).unwrap().findings.is_empty());
    device
}

fn bytes_of(device: &Memory, id: FileId) -> Vec<u8> {
    let file = device.open(id).unwrap();
    let mut bytes = vec![0; file.stat().unwrap().len as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn flip(device: &Memory, id: FileId, at: usize) {
    let byte = bytes_of(device, id)[at] ^ 4;
    device.open(id).unwrap().write_at(&[byte], at as u64).unwrap();
}

fn files(device: &Memory, folder: Folder) -> Vec<FileId> {
    let mut files = device.list(folder).unwrap();
    files.retain(|id| device.open(*id).unwrap().stat().unwrap().len > 0);
    files.sort();
    files
}

/// Removes, from the operation that made `called`, the edits that `wanted` picks, or changes them.
fn change_edits(device: &Memory, piece: u64, mut change: impl FnMut(Edit) -> Option<Edit>) {
    rewrite_log(device, piece, |record| {
        Some(match record {
            Record::Edits(branch, edits) => {
                Record::Edits(branch, edits.into_iter().filter_map(&mut change).collect())
            }
            Record::Version(number, base, edits) => {
                Record::Version(number, base, edits.into_iter().filter_map(&mut change).collect())
            }
            other => other,
        })
    });
}

type Plant = fn(&Memory);

/// What is planted, what `check` must say, and whether a repair mends it.
const KINDS: [(&str, Plant, &str, bool); 24] = [
    (
        "a flipped bit in the log",
        |d| flip(d, FileId::Log(TAIL), 60),
        "piece 4 of the log is damaged at byte",
        true,
    ),
    ("a flipped bit in a checkpoint", |d| flip(d, FileId::Log(CHECKPOINT), 90), "checkpoint", false),
    (
        "a checkpoint cut short",
        |d| d.open(FileId::Log(CHECKPOINT)).unwrap().set_len(200).unwrap(),
        "checkpoint",
        false,
    ),
    ("a checkpoint that is gone", |d| remove(d, FileId::Log(CHECKPOINT)), "\"main\"", false),
    ("a record that is none", |d| garble(d), "a record that is none", false),
    ("a missing object", |d| remove(d, files(d, Folder::Objects)[0]), "is missing", false),
    ("an object that is too short", |d| resize(d, Folder::Objects, -1), "its content has", false),
    ("a flipped bit in a pack", |d| flip(d, files(d, Folder::Packs)[0], 50), "is damaged", false),
    ("a pack cut short", |d| resize(d, Folder::Packs, -1), "is damaged", false),
    ("a missing pack", |d| remove(d, files(d, Folder::Packs)[0]), "the content is missing", false),
    ("a lost directory record", lose_link, "has no name", true),
    ("a lost inode", lose_inode, "which is missing", true),
    ("a wrong link count", wrong_links, "links, and has", true),
    ("a directory that lies elsewhere", wrong_parent, "says that it lies in", true),
    ("a directory with a second name", |d| second_name(d, ROOT), "has a second name", true),
    ("a directory with a second name elsewhere", |d| second_name(d, DIR), "has a second name", true),
    ("a directory that leads to the root", root_inside, "has a second name", true),
    ("directories in each other", cycle, "has no name", true),
    ("an entry of the wrong kind", wrong_kind, "which it is not", true),
    ("a wrong size", wrong_size, "it says that it has", false),
    ("another file's content", overlapping, "two contents lie at byte", false),
    ("a number that was not given", early_number, "was not given yet", false),
    ("one index for two branches", same_view, "the same view index", false),
    ("one name for two branches", same_name, "two branches are called", false),
];

fn remove(device: &Memory, id: FileId) {
    device.remove(id).unwrap();
}

fn resize(device: &Memory, folder: Folder, by: i64) {
    let file = device.open(files(device, folder)[0]).unwrap();
    let len = file.stat().unwrap().len.saturating_add_signed(by);
    file.set_len(len).unwrap();
}

/// A frame with a right checksum and a payload that means nothing.
fn garble(device: &Memory) {
    let payload = [250_u8, 1, 2, 3];
    let crc = crc32c::crc32c_append(4, &payload);
    let frame = [&4_u32.to_le_bytes()[..], &crc.to_le_bytes(), &payload].concat();
    let file = device.open(FileId::Log(TAIL)).unwrap();
    file.write_at(&frame, file.stat().unwrap().len).unwrap();
}

fn lose_link(device: &Memory) {
    change_edits(device, TAIL, |edit| {
        if matches!(&edit, Edit::Link(_, called, _) if *called == name("later")) { None } else { Some(edit) }
    });
}

fn lose_inode(device: &Memory) {
    change_edits(device, TAIL, |edit| {
        if matches!(&edit, Edit::Put(_, inode) if inode.kind() == FileKind::Directory) {
            None
        } else {
            Some(edit)
        }
    });
}

fn wrong_links(device: &Memory) {
    change_edits(device, TAIL, |edit| match edit {
        Edit::Meta(ino, mut meta) if ino == ROOT => {
            meta.nlink += 3;
            Some(Edit::Meta(ino, meta))
        }
        other => Some(other),
    });
}

fn wrong_parent(device: &Memory) {
    add_edits(device, |later| vec![Edit::Parent(later, InodeId(17))]);
}

/// Adds edits to the operation that made the directory `later`; `more` is told its number.
fn add_edits(device: &Memory, more: impl Fn(InodeId) -> Vec<Edit>) {
    rewrite_log(device, TAIL, |record| match record {
        Record::Edits(branch, mut edits) => {
            let made = edits.iter().find_map(|edit| match edit {
                Edit::Put(ino, inode) if inode.kind() == FileKind::Directory => Some(*ino),
                _ => None,
            });
            edits.extend(made.into_iter().flat_map(&more));
            Some(Record::Edits(branch, edits))
        }
        other => Some(other),
    });
}

fn directory(ino: InodeId) -> Entry {
    Entry::new(ino, FileKind::Directory)
}

fn second_name(device: &Memory, dir: InodeId) {
    add_edits(device, |later| vec![Edit::Link(dir, name("again"), directory(later))]);
}

fn root_inside(device: &Memory) {
    add_edits(device, |later| vec![Edit::Link(later, name("up"), directory(ROOT))]);
}

/// `later` and `dir` lie in each other, and nowhere else.
fn cycle(device: &Memory) {
    add_edits(device, |later| {
        vec![
            Edit::Unlink(ROOT, name("later")),
            Edit::Unlink(ROOT, name("dir")),
            Edit::Link(later, name("in"), directory(DIR)),
            Edit::Link(DIR, name("out"), directory(later)),
            Edit::Parent(DIR, later),
            Edit::Parent(later, DIR),
        ]
    });
}

fn wrong_kind(device: &Memory) {
    change_edits(device, TAIL, |edit| match edit {
        Edit::Link(dir, called, entry) if called == name("late") => {
            Some(Edit::Link(dir, called, Entry::new(entry.ino(), FileKind::Symlink)))
        }
        other => Some(other),
    });
}

fn wrong_size(device: &Memory) {
    change_edits(device, CHECKPOINT, |edit| match edit {
        Edit::Put(ino, inode) if inode.meta.size == 2000 => {
            let mut inode = (*inode).clone();
            inode.meta.size = 2001;
            Some(Edit::Put(ino, Arc::new(inode)))
        }
        other => Some(other),
    });
}

/// Two extents of one pack that overlap.
fn overlapping(device: &Memory) {
    let pack = files(device, Folder::Packs)[0];
    let FileId::Pack(id) = pack else { panic!("a pack") };
    let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap();
    // A record that names the same place one byte further on, under a name of its own: made by a volume that has it.
    let bytes = bytes_of(device, pack);
    let place = at(&bytes, &[1; 100]) as u32;
    agentfs_core::testing::append_extent(device, TAIL, id, place + 1, &bytes[place as usize + 1..][..150]);
}

fn early_number(device: &Memory) {
    rewrite_log(device, CHECKPOINT, |record| match record {
        Record::Marks(mut marks) => {
            marks.inode = 3;
            Some(Record::Marks(marks))
        }
        other => Some(other),
    });
    // What the log behind it makes would give the numbers again.
    device.remove(FileId::Log(TAIL)).unwrap();
}

fn same_view(device: &Memory) {
    rewrite_log(device, CHECKPOINT, |record| match record {
        Record::BranchIs(mut made, version) => {
            made.view = MAIN;
            Some(Record::BranchIs(made, version))
        }
        other => Some(other),
    });
}

fn same_name(device: &Memory) {
    rewrite_log(device, CHECKPOINT, |record| match record {
        Record::BranchIs(mut made, version) => {
            made.name = Some("main".into());
            Some(Record::BranchIs(made, version))
        }
        other => Some(other),
    });
}

/// All files of all branches and snapshots: their bytes, or that they cannot be read.
fn contents(device: &Arc<Memory>) -> Option<BTreeMap<String, Option<Vec<u8>>>> {
    let (core, _) = FsCore::open_volume(device.clone(), settings()).ok()?;
    let mut all = BTreeMap::new();
    for info in core.list_branches(None, 100) {
        read_below(&core, info.view, ROOT, &format!("branch {:?}", info.name), &mut all);
    }
    for info in core.list_snapshots(None, 100) {
        let view = core.enter_snapshot(info.id, ROOT).unwrap();
        read_below(&core, view, ROOT, &format!("snapshot {:?}", info.name), &mut all);
    }
    Some(all)
}

fn read_below(
    core: &FsCore,
    view: ViewId,
    dir: InodeId,
    path: &str,
    all: &mut BTreeMap<String, Option<Vec<u8>>>,
) {
    let mut entries = Vec::new();
    let listed = core.readdir(view, dir, 0, |entry| {
        entries.push((entry.ino, String::from_utf8(entry.name.to_vec()).unwrap()));
        true
    });
    if listed.is_err() {
        return;
    }
    for (ino, called) in entries.into_iter().skip(2) {
        let path = format!("{path}/{called}");
        match core.getattr(view, ino) {
            // Planted directories may lie in each other.
            Ok(attr) if attr.kind == FileKind::Directory && path.len() < 100 => {
                read_below(core, view, ino, &path, all);
            }
            Ok(attr) if attr.kind == FileKind::File => {
                let mut bytes = vec![0; attr.size as usize];
                let handle = core.open(view, ino, OpenMode::Read, Caller::ROOT).unwrap();
                let read = core.read(handle, 0, &mut bytes).ok();
                all.insert(path, read.map(|read| bytes[..read].to_vec()));
            }
            _ => {}
        }
    }
}

#[test]
fn every_kind_of_corruption_is_found_and_none_is_served() {
    let good = contents(&volume()).unwrap();
    assert_eq!(good.len(), 14);
    for (what, plant, said, mendable) in KINDS {
        let device = volume();
        plant(&device);
        let report = check_store(device.clone(), settings()).unwrap();
        let told: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| told.contains(said)), "{what}: {told:#?}");
        let repaired = repair_store(&(device.clone() as Arc<dyn Device>), &settings());
        let clean = repaired.as_ref().is_ok_and(|repaired| repaired.report.findings.is_empty());
        assert_eq!(clean, mendable, "{what}: {repaired:#?}");
        let device = volume();
        plant(&device);
        let served = contents(&device);
        let errors = served.iter().flatten().filter(|(_, bytes)| bytes.is_none()).count();
        for (path, bytes) in served.iter().flatten() {
            // A size that was planted is nothing that could be told from a right one, but for its content.
            let same = bytes.is_none() || good.get(path).is_none_or(|good| Some(good) == Some(bytes));
            assert!(same, "{what}: {path} is served with other bytes");
        }
        let state =
            served.as_ref().map_or("refused to mount".to_owned(), |_| format!("mounts, {errors} files EIO"));
        println!("{what}: {}; {state}{}", told[0], if mendable { "; mended" } else { "" });
    }
}

#[test]
fn what_has_no_name_is_found_in_lost_and_found_and_what_is_taken_away_is_kept() {
    let device = volume();
    lose_link(&device);
    let repaired = repair_store(&(device.clone() as Arc<dyn Device>), &settings()).unwrap();
    assert!(repaired.report.findings.is_empty() && !repaired.mended.is_empty(), "{repaired:#?}");
    let all = contents(&device).unwrap();
    assert!(all.keys().any(|path| path.contains("/lost+found/#") && path.ends_with("/leaf")), "{all:?}");
    let device = volume();
    lose_inode(&device);
    repair_store(&(device.clone() as Arc<dyn Device>), &settings()).unwrap();
    let kept = bytes_of(&device, FileId::Lost(0, 0));
    assert!(String::from_utf8(kept).unwrap().contains("\"later\""));
    assert_eq!(
        contents(&device).unwrap().len(),
        14,
        "all files are there, the one in the lost directory too"
    );
}

fn repaired(device: &Arc<Memory>) -> Repaired {
    let repaired = repair_store(&(device.clone() as Arc<dyn Device>), &settings()).unwrap();
    assert!(repaired.report.findings.is_empty() && !repaired.mended.is_empty(), "{repaired:#?}");
    repaired
}

#[test]
fn a_repair_changes_nothing_but_what_is_wrong() {
    let good = contents(&volume()).unwrap();
    for plant in
        [wrong_parent, |d: &Memory| second_name(d, ROOT), |d: &Memory| second_name(d, DIR), root_inside]
    {
        let device = volume();
        plant(&device);
        repaired(&device);
        assert_eq!(contents(&device).unwrap(), good);
    }
    let device = volume();
    cycle(&device);
    repaired(&device);
    let bytes = |all: &BTreeMap<String, Option<Vec<u8>>>| {
        let mut bytes: Vec<_> = all.values().cloned().collect();
        bytes.sort();
        bytes
    };
    let found = contents(&device).unwrap();
    assert_eq!(bytes(&found), bytes(&good), "all is there, under other names");
}

#[test]
fn a_repair_finds_a_free_name_for_what_is_lost() {
    let device = volume();
    add_edits(&device, |later| {
        let taken = Edit::Link(ROOT, name("lost+found"), directory(later));
        vec![Edit::Unlink(ROOT, name("later")), taken, Edit::Unlink(ROOT, name("dir"))]
    });
    repaired(&device);
    let found = contents(&device).unwrap();
    assert!(found.contains_key("branch Some(\"main\")/lost+found/leaf"), "{:?}", found.keys());
    assert!(found.contains_key("branch Some(\"main\")/lost+found.1/#16/inner"), "{:?}", found.keys());
}

#[test]
fn a_closed_volume_that_was_repaired_is_a_closed_volume() {
    let device = volume();
    wrong_links(&device);
    repaired(&device);
    let object = files(&device, Folder::Objects)[0];
    remove(&device, object);
    // What is missing after a restart of the host is missing: nothing was lost by that.
    let restarted = Config { boot: settings().boot + 1, ..settings() };
    let report = check_store(device.clone(), restarted.clone()).unwrap();
    assert!(report.findings.iter().any(|found| found.to_string().contains("is missing")), "{report:?}");
    let (core, _) = FsCore::open_volume(device.clone(), restarted).unwrap();
    core.close().unwrap();
    assert!(!device.list(Folder::Objects).unwrap().contains(&object), "nothing is put in its place");
}

#[test]
fn space_comes_back_after_a_repair() {
    let device = volume();
    second_name(&device, ROOT);
    repaired(&device);
    assert!(device.open(FileId::Lost(0, 0)).is_ok(), "the name that was taken away is kept");
    let (core, _) = FsCore::open_volume(device.clone(), settings()).unwrap();
    let objects = device.list(Folder::Objects).unwrap().len();
    core.delete_branch("other", false).unwrap();
    core.delete_snapshot("then").unwrap();
    core.unlink(MAIN, ROOT, &name("large")).unwrap();
    core.sync().unwrap();
    core.tend().unwrap();
    assert!(device.list(Folder::Objects).unwrap().len() < objects, "the object is gone");
    device.create(FileId::Object(ObjectId(1 << 20))).unwrap();
    core.close().unwrap();
    drop(core);
    let (core, _) = FsCore::open_volume(device.clone(), settings()).unwrap();
    assert_eq!(core.sweep().unwrap(), 1);
}

#[test]
fn a_volume_that_was_not_closed_is_not_unsound_for_that() {
    let findings = |device: &Arc<Memory>, boot: u128| {
        let report = check_store(device.clone(), Config { boot, ..settings() }).unwrap();
        let told: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        (told, report.notes.join("; "))
    };
    let (here, restarted) = (settings().boot, settings().boot + 1);
    // An object that is longer than its file: a write was cut off from its record.
    let device = volume();
    resize(&device, Folder::Objects, 1);
    assert_eq!(findings(&device, here).0, [""; 0]);
    // Killed: what is short is damage, unless it was being written.
    let device = Arc::new(Memory::default());
    assert_eq!(findings(&device, here).0, [""; 0], "nothing was begun");
    let (core, _) = FsCore::open_volume(device.clone(), settings()).unwrap();
    let ino = make(&core, ROOT, "large", FileKind::File);
    fill(&core, MAIN, ino, &[1; 20_000]);
    core.sync().unwrap();
    drop(core);
    assert_eq!(findings(&device, here).0, [""; 0]);
    resize(&device, Folder::Objects, -1);
    assert!(findings(&device, here).0[0].contains("its content has 19999"));
    // After a power cut the next mount puts zeros there.
    let (told, notes) = findings(&device, restarted);
    assert_eq!(told, [""; 0]);
    assert!(notes.contains("1 contents were not synced before a power cut"), "{notes}");
    remove(&device, files(&device, Folder::Objects)[0]);
    assert_eq!(findings(&device, restarted).0, [""; 0]);
    assert!(findings(&device, here).0[0].contains("is missing"));
}
