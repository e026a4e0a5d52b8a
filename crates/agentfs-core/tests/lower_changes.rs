//! Somebody else changes the directory that a volume lies over: `main` shows it at once, and what a snapshot or branch relies
//! on is what it was or fails by name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentfs_core::testing::{Chance, config};
use agentfs_core::{
    Attr, Caller, Config, FileKind, FsCore, FsError, InodeId, LowerTree, Memory, Name, OpenMode, SetAttr,
    ViewId,
};

struct Volume {
    core: FsCore,
    device: Arc<Memory>,
    lower: tempfile::TempDir,
}

type Seen = Result<Vec<u8>, FsError>;

impl Volume {
    fn over(files: &[(&str, &[u8])]) -> Volume {
        let lower = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = lower.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let device = Arc::new(Memory::default());
        Volume { core: open(&device, lower.path()), device, lower }
    }

    fn reopen(&mut self) {
        self.core.close().unwrap();
        self.core = open(&self.device, self.lower.path());
    }

    fn below(&self, path: &str) -> PathBuf {
        self.lower.path().join(path)
    }

    fn branch(&self, from: &str, name: &str) -> ViewId {
        self.core.create_branch(from, Some(name)).unwrap().view
    }

    fn find(&self, view: ViewId, path: &str) -> Result<Attr, FsError> {
        let mut attr = self.core.getattr(view, InodeId::ROOT)?;
        for name in path.split('/') {
            let name = Name::new(name.as_bytes()).unwrap();
            attr = self.core.lookup(view, attr.ino, &name)?.ok_or(FsError::NotFound)?;
        }
        Ok(attr)
    }

    fn read(&self, view: ViewId, path: &str) -> Seen {
        let attr = self.find(view, path)?;
        let handle = self.core.open(view, attr.ino, OpenMode::Read, Caller::ROOT)?;
        let mut bytes = vec![0; attr.size as usize + 10];
        let read = self.core.read(handle, 0, &mut bytes);
        self.core.release(handle).unwrap();
        bytes.truncate(read?);
        Ok(bytes)
    }

    fn write(&self, view: ViewId, path: &str, bytes: &[u8]) -> Result<(), FsError> {
        let attr = self.find(view, path)?;
        let handle = self.core.open(view, attr.ino, OpenMode::Write, Caller::ROOT)?;
        let written = self.core.write(handle, 0, bytes, false);
        self.core.release(handle).unwrap();
        written.map(drop)
    }

    fn names(&self, view: ViewId, path: &str) -> Vec<String> {
        let dir = if path.is_empty() { InodeId::ROOT } else { self.find(view, path).unwrap().ino };
        let mut names = Vec::new();
        self.core
            .readdir(view, dir, 2, |entry| {
                names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                true
            })
            .unwrap();
        names.sort();
        names
    }
}

fn open(device: &Arc<Memory>, lower: &Path) -> FsCore {
    let tree = LowerTree::open(lower, &[], &[]).unwrap();
    FsCore::open_layered(device.clone(), Config { max_branches: 20, ..config() }, Some(tree)).unwrap().0
}

/// As editors do.
fn replace(path: &Path, bytes: &[u8]) {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes).unwrap();
    fs::rename(draft, path).unwrap();
}

fn is_changed(seen: &Seen, path: &str) -> bool {
    matches!(seen, Err(FsError::Changed(named)) if named == path)
}

#[test]
fn main_shows_what_others_do_and_branches_do_not_differ_silently() {
    let mut v = Volume::over(&[("a", b"a"), ("b", b"b"), ("c", b"c"), ("d/e", b"e"), ("d/f", b"f")]);
    let branch = v.branch("main", "branch");
    v.core.create_snapshot("main", Some("s")).unwrap();
    let later = v.branch("s", "later");
    v.write(branch, "c", b"mine").unwrap();
    // Nothing has been read: what they rely on is what it was when they were made.
    fs::OpenOptions::new().append(true).open(v.below("a")).unwrap().write_all(b"more").unwrap();
    replace(&v.below("b"), b"another");
    fs::write(v.below("c"), b"theirs").unwrap();
    fs::remove_file(v.below("d/e")).unwrap();
    fs::write(v.below("d/new"), b"new").unwrap();
    for round in 0..2 {
        let main = ViewId::MAIN;
        assert_eq!(v.read(main, "a").unwrap(), b"amore");
        assert_eq!(v.read(main, "b").unwrap(), b"another");
        assert_eq!(v.read(main, "c").unwrap(), b"theirs");
        assert_eq!(v.names(main, "d"), ["f", "new"]);
        for (view, name) in [(branch, "branch"), (later, "later")] {
            for path in ["a", "b", "d/new"] {
                let seen = v.read(view, path);
                assert!(is_changed(&seen, path), "{name} {path} {round}: {seen:?}");
                assert!(is_changed(&v.write(view, path, b"x").map(|()| Vec::new()), path));
            }
            assert_eq!(v.read(view, "d/f").unwrap(), b"f");
        }
        assert_eq!(v.read(branch, "c").unwrap(), b"mine");
        assert!(is_changed(&v.read(later, "c"), "c"));
        v.reopen();
    }
    // Anew it is there.
    let fresh = v.branch("main", "fresh");
    assert_eq!(v.read(fresh, "b").unwrap(), b"another");
    assert_eq!(v.read(fresh, "d/new").unwrap(), b"new");
}

#[test]
fn what_a_branch_changed_stays_when_others_take_away_all_around_it() {
    let mut v = Volume::over(&[("p/q/r/a", b"a"), ("p/q/b", b"b")]);
    let branch = v.branch("main", "branch");
    v.write(branch, "p/q/r/a", b"mine").unwrap();
    let dir = v.find(branch, "p/q").unwrap().ino;
    let name = Name::new(b"new").unwrap();
    let what = agentfs_core::CreateMode { kind: FileKind::File, mode: 0o644, umask: 0, rdev: 0 };
    v.core.create(branch, dir, &name, what, Caller::ROOT).unwrap();
    fs::remove_dir_all(v.below("p")).unwrap();
    // The numbers of what went are the first that are given again.
    for n in 0..20 {
        fs::create_dir_all(v.below(&format!("other{n}/q"))).unwrap();
        fs::write(v.below(&format!("other{n}/q/a")), "theirs").unwrap();
    }
    for _ in 0..2 {
        assert_eq!(v.read(branch, "p/q/r/a").unwrap(), b"mine");
        assert_eq!(v.names(branch, "p/q"), ["new", "r"]);
        for n in 0..20 {
            assert_eq!(v.read(ViewId::MAIN, &format!("other{n}/q/a")).unwrap(), b"theirs");
            assert_eq!(v.names(ViewId::MAIN, &format!("other{n}/q")), ["a"]);
        }
        v.reopen();
    }
}

#[test]
fn attributes_are_changed_without_content_and_the_content_must_stay_then() {
    let v = Volume::over(&[("a", &[b'a'; 100_000])]);
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let ino = v.find(ViewId::MAIN, "a").unwrap().ino;
    v.core.setattr(ViewId::MAIN, ino, &set, Caller::ROOT).unwrap();
    assert_eq!(v.find(ViewId::MAIN, "a").unwrap().mode, 0o600);
    assert_eq!(v.read(ViewId::MAIN, "a").unwrap(), [b'a'; 100_000]);
    let objects = agentfs_core::Device::list(&*v.device, agentfs_core::Folder::Objects).unwrap();
    assert!(objects.is_empty(), "{objects:?}");
    replace(&v.below("a"), b"other");
    assert!(is_changed(&v.read(ViewId::MAIN, "a"), "a"));
}

/// Random changes below, random reading and writing above.
#[test]
fn nothing_is_ever_silently_different() {
    let paths: Vec<String> = (0..30).map(|n| format!("d{}/f{n}", n % 5)).collect();
    for seed in 0..8 {
        let mut chance = Chance(seed);
        let files: Vec<_> = paths.iter().map(|path| (path.as_str(), path.as_bytes())).collect();
        let mut v = Volume::over(&files);
        // What each view must show, when it shows it.
        let mut expected: Vec<(ViewId, BTreeMap<String, Vec<u8>>)> = Vec::new();
        let mut below: BTreeMap<String, Vec<u8>> =
            paths.iter().map(|path| (path.clone(), path.clone().into_bytes())).collect();
        let (mut same, mut failed) = (0, 0);
        for step in 0..400 {
            let path = &paths[chance.below(paths.len() as u64) as usize];
            let bytes = format!("{path} {step}").into_bytes();
            match chance.below(12) {
                0 if expected.len() < 3 => {
                    let view = v.branch("main", &format!("b{step}"));
                    expected.push((view, below.clone()));
                }
                1 => {
                    fs::write(v.below(path), &bytes).unwrap();
                    below.insert(path.clone(), bytes);
                }
                2 => {
                    replace(&v.below(path), &bytes);
                    below.insert(path.clone(), bytes);
                }
                3 if below.remove(path).is_some() => fs::remove_file(v.below(path)).unwrap(),
                4 if !expected.is_empty() => {
                    let at = chance.below(expected.len() as u64) as usize;
                    let (view, tree) = &mut expected[at];
                    if tree.contains_key(path) && v.write(*view, path, &bytes).is_ok() {
                        // It may have been longer.
                        let old = &tree[path];
                        let rest = old.get(bytes.len()..).unwrap_or_default();
                        let new = [&bytes[..], rest].concat();
                        tree.insert(path.clone(), new);
                    }
                }
                5 if step % 7 == 0 => v.reopen(),
                _ => {
                    let seen = v.read(ViewId::MAIN, path).ok();
                    assert_eq!(seen.as_ref(), below.get(path), "main {path}, seed {seed}, step {step}");
                    for (view, tree) in &expected {
                        match (v.read(*view, path), tree.get(path)) {
                            (Ok(seen), Some(bytes)) => {
                                assert_eq!(seen, *bytes, "{path}, seed {seed}, step {step}");
                                same += 1;
                            }
                            (Ok(_), None) => panic!("{path} was not there, seed {seed}, step {step}"),
                            (Err(_), _) => failed += 1,
                        }
                    }
                }
            }
        }
        println!("seed {seed}: {same} the same, {failed} refused");
        assert!(same > 50 && failed > 20, "{same}, {failed}");
    }
}

/// Others give what main has another name: removing that takes nothing from main.
#[test]
fn names_that_others_gave_are_removed_without_what_main_has() {
    let mut v = Volume::over(&[("a", b"a"), ("src/f", b"f")]);
    let main = ViewId::MAIN;
    v.write(main, "a", b"mine").unwrap();
    v.write(main, "src/f", b"mine").unwrap();
    fs::rename(v.below("a"), v.below("b")).unwrap();
    fs::rename(v.below("src"), v.below("lib")).unwrap();
    assert_eq!(v.read(main, "b").unwrap(), b"mine");
    let name = |name: &str| Name::new(name.as_bytes()).unwrap();
    v.core.unlink(main, InodeId::ROOT, &name("b")).unwrap();
    // A directory has one place.
    assert!(is_changed(&v.read(main, "lib/f"), "lib"));
    for _ in 0..2 {
        assert_eq!(v.read(main, "a").unwrap(), b"mine");
        assert_eq!(v.read(main, "src/f").unwrap(), b"mine");
        assert!(matches!(v.read(main, "b"), Err(FsError::NotFound)));
        v.reopen();
    }
    v.core.unlink(main, InodeId::ROOT, &name("a")).unwrap();
    assert!(matches!(v.read(main, "a"), Err(FsError::NotFound)));
    v.core.close().unwrap();
    let report = agentfs_core::check_store(v.device.clone(), config()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

/// A directory that others moved to another's place is not taken for that.
#[test]
fn directories_that_others_exchange_are_not_what_they_were() {
    let v = Volume::over(&[("d/f", b"d"), ("e/f", b"e")]);
    let branch = v.branch("main", "branch");
    fs::rename(v.below("d"), v.below("x")).unwrap();
    fs::rename(v.below("e"), v.below("d")).unwrap();
    assert!(is_changed(&v.read(branch, "d/f"), "d"));
    assert_eq!(v.read(ViewId::MAIN, "d/f").unwrap(), b"e");
}

#[test]
fn what_is_kept_for_several_is_nobodys_own() {
    let large = vec![b'l'; 100_000];
    let mut v = Volume::over(&[("large", &large), ("small", b"small")]);
    let (one, two) = (v.branch("main", "one"), v.branch("main", "two"));
    v.core.create_snapshot("main", Some("before")).unwrap();
    let paths = [b"large".to_vec(), b"small".to_vec(), b"new".to_vec()];
    assert_eq!(v.core.keep_lower(&paths, true).unwrap(), 10);
    replace(&v.below("large"), b"theirs");
    replace(&v.below("small"), b"theirs");
    fs::write(v.below("new"), "new").unwrap();
    v.reopen();
    for n in 0..4 {
        v.core.create_snapshot("one", Some(&format!("s{n}"))).unwrap();
        v.write(one, "large", format!("mine {n}").as_bytes()).unwrap();
    }
    assert_eq!(v.read(two, "large").unwrap(), large);
    assert_eq!(v.read(two, "small").unwrap(), b"small");
    assert!(matches!(v.find(two, "new"), Err(FsError::NotFound)));
    let grown = v.branch("before", "grown");
    assert_eq!(v.read(grown, "large").unwrap(), large);
    assert_eq!(v.read(ViewId::MAIN, "large").unwrap(), b"theirs");
    let first = v.branch("s0", "first");
    assert_eq!(v.read(first, "large").unwrap(), large);
    let second = v.branch("s1", "second");
    assert_eq!(v.read(second, "large").unwrap()[..6], *b"mine 0");
    v.core.close().unwrap();
    let report = agentfs_core::check_store(v.device.clone(), config()).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}

#[test]
fn what_is_copied_whole_never_changes_and_main_goes_on_to_show_what_others_do() {
    let eager = Config { materialization: agentfs_core::Materialization::Eager, ..config() };
    let lower = tempfile::tempdir().unwrap();
    fs::create_dir_all(lower.path().join("d/e")).unwrap();
    fs::create_dir(lower.path().join("empty")).unwrap();
    for (path, bytes) in [("a", vec![b'a'; 100_000]), ("d/b", b"b".to_vec()), ("d/e/c", b"c".to_vec())] {
        fs::write(lower.path().join(path), bytes).unwrap();
    }
    let device = Arc::new(Memory::default());
    let open = || {
        let tree = LowerTree::open(lower.path(), &[], &[]).unwrap();
        FsCore::open_layered(device.clone(), eager.clone(), Some(tree)).unwrap().0
    };
    let mut v = Volume { core: open(), device: device.clone(), lower: tempfile::tempdir().unwrap() };
    v.write(ViewId::MAIN, "d/b", b"B").unwrap();
    let branch = v.branch("main", "branch");
    v.core.create_snapshot("main", Some("s")).unwrap();
    assert_eq!(v.core.list_branches(None, 10).len(), 2, "what was made on the way is gone");
    fs::remove_dir_all(lower.path().join("d")).unwrap();
    fs::write(lower.path().join("a"), "theirs").unwrap();
    fs::write(lower.path().join("new"), "new").unwrap();
    for _ in 0..2 {
        let of_snapshot = v.branch("s", &format!("later{}", v.core.list_branches(None, 10).len()));
        for view in [branch, of_snapshot] {
            assert_eq!(v.names(view, ""), ["a", "d", "empty"]);
            assert_eq!(v.read(view, "a").unwrap(), [b'a'; 100_000]);
            assert_eq!(v.read(view, "d/b").unwrap(), b"B");
            assert_eq!(v.read(view, "d/e/c").unwrap(), b"c");
        }
        assert_eq!(v.names(ViewId::MAIN, ""), ["a", "d", "empty", "new"]);
        assert_eq!(v.read(ViewId::MAIN, "a").unwrap(), b"theirs");
        assert_eq!(v.read(ViewId::MAIN, "d/b").unwrap(), b"B");
        v.core.close().unwrap();
        v.core = open();
    }
}
