//! Random trees and random edits of two branches: what differs is told path by path as a plain comparison tells it, going
//! back to a snapshot makes the tree that it has, and a merge does what a plain three-way comparison of all paths says, with
//! the conflicts that it says and no other.
//!
//! `PROPTEST_CASES` sets the number of cases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentfs_core::testing::{CoreDriver, Driver, Dump, FileOp, Node, Op, Place, config, dump, random_cases};
use agentfs_core::{
    ConflictKind, DiffStatus, FileKind, FsCore, Memory, MergeWish, Merged, Policy, Progress, Unrecorded,
    ViewId, check,
};

const REGRESSIONS: &str = "tests/merging.proptest-regressions";

/// A volume with a tree, the branch `b` grown from it, and edits in both.
struct Forked {
    driver: CoreDriver,
    base: Dump,
}

impl Forked {
    /// A third of the operations makes the tree, a third each edits `main` and `b`, as far as they are `wanted`.
    fn new(ops: &[Op], wanted: impl Fn(&FileOp) -> bool) -> Forked {
        let core = FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config()).unwrap();
        let mut driver = CoreDriver::new(Arc::new(core));
        let third = ops.len() / 3;
        let run = |driver: &mut CoreDriver, ops: &[Op], branch: u8| {
            for op in ops {
                let Op::File(_, op) = op else { continue };
                if wanted(op) {
                    let _ = driver.apply(&Op::File(Place::Branch(branch), op.clone()));
                }
            }
        };
        run(&mut driver, &ops[..third], 0);
        let base = dump(driver.core(), ViewId::MAIN);
        driver.core().create_snapshot("main", Some("s")).unwrap();
        driver.core().create_branch("main", Some("b")).unwrap();
        let mut driver = CoreDriver::new(driver.core().clone());
        run(&mut driver, &ops[third..2 * third], 0);
        run(&mut driver, &ops[2 * third..], 1);
        Forked { driver, base }
    }

    fn core(&self) -> &FsCore {
        self.driver.core()
    }

    fn dump(&self, branch: &str) -> Dump {
        dump(self.core(), self.core().find_branch(branch).unwrap().view)
    }

    fn merge(&self, source: &str, into: &str, policy: Policy) -> Result<Merged, String> {
        let wish = MergeWish {
            source,
            into: Some(into),
            policy,
            is_dry: false,
            with_git: false,
            left_out: &|_, _| false,
        };
        self.core().merge(&wish, &Progress::default()).map_err(|error| error.to_string())
    }

    fn sound(&self) -> Result<(), String> {
        for info in self.core().list_branches(None, usize::MAX) {
            let version = self.core().version(info.view).unwrap();
            let faults = check(&version);
            if !faults.is_empty() || !version.leads_back() {
                return Err(format!("{:?}: {faults:?}", info.name));
            }
        }
        Ok(())
    }
}

/// What counts of a file: not its number, not its times.
type Face = (FileKind, u16, u64, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>);

fn face(node: &Node) -> Face {
    let links = if node.stat.kind == FileKind::Directory { 0 } else { node.stat.nlink };
    let xattrs = node.xattrs.iter().map(|(name, value)| (name.clone(), value.0.clone()));
    (node.stat.kind, node.stat.mode, links, node.bytes.0.clone(), xattrs.collect())
}

fn faces(dump: &Dump) -> BTreeMap<Vec<u8>, Face> {
    dump.iter().map(|(path, node)| (path.clone(), face(node))).collect()
}

fn same(what: &str, expected: &Dump, found: &Dump) -> Result<(), String> {
    let (expected, found) = (faces(expected), faces(found));
    for path in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        if expected.get(path) != found.get(path) {
            let shown = |face: Option<&Face>| {
                face.map(|(kind, mode, links, bytes, xattrs)| {
                    format!("{kind:?} {mode:o} {links} {} bytes {xattrs:?}", bytes.len())
                })
            };
            let (expected, found) = (shown(expected.get(path)), shown(found.get(path)));
            return Err(format!(
                "{what}: {:?}: expected {expected:?}, found {found:?}",
                path.escape_ascii().to_string()
            ));
        }
    }
    Ok(())
}

/// What a plain comparison says: paths that are in one only, or differ.
fn plain_difference(a: &Dump, b: &Dump) -> BTreeSet<(Vec<u8>, bool, bool)> {
    let face = |node: &Node| (face(node).0, face(node).1, face(node).3, face(node).4);
    let paths: BTreeSet<_> = a.keys().chain(b.keys()).filter(|path| !path.is_empty()).collect();
    let differs = |path: &&&Vec<u8>| a.get(**path).map(face) != b.get(**path).map(face);
    let status = |path: &Vec<u8>| (path.clone(), a.contains_key(path), b.contains_key(path));
    paths.iter().filter(differs).map(|path| status(path)).collect()
}

/// Directories that were moved take what is in them along without saying so: it is added here.
fn told_difference(
    core: &FsCore,
    a: &Dump,
    b: &Dump,
    from: &str,
    to: &str,
) -> BTreeSet<(Vec<u8>, bool, bool)> {
    let mut paths = BTreeMap::new();
    let differences = core.diff(from, to, &Progress::default()).unwrap();
    let below = |dump: &Dump, dir: &[u8]| {
        let prefix = [dir, b"/"].concat();
        dump.keys().filter(|path| path.starts_with(&prefix)).cloned().collect::<Vec<_>>()
    };
    for difference in &differences {
        let path = difference.path.to_vec();
        assert_eq!(difference.status == DiffStatus::Renamed, difference.from.is_some());
        if let Some(from) = &difference.from {
            for old in below(a, from).into_iter().chain([from.to_vec()]) {
                paths.insert(old, ());
            }
            below(b, &path).into_iter().for_each(|new| {
                paths.insert(new, ());
            });
        }
        paths.insert(path, ());
    }
    let face = |node: &Node| (face(node).0, face(node).1, face(node).3, face(node).4);
    let known = paths.into_keys().filter(|path| !path.is_empty());
    // What is moved to where something alike was is no difference at that path.
    known
        .filter(|path| a.get(path).map(face) != b.get(path).map(face))
        .map(|path| (path.clone(), a.contains_key(&path), b.contains_key(&path)))
        .collect()
}

#[test]
fn what_differs_is_told_and_a_snapshot_is_what_a_branch_goes_back_to() {
    random_cases(REGRESSIONS, 700, 90, |ops| {
        let forked = Forked::new(ops, |_| true);
        let (core, main) = (forked.core(), forked.dump("main"));
        let expected = plain_difference(&forked.base, &main);
        let told = told_difference(core, &forked.base, &main, "s", "main");
        if told != expected {
            return Err(format!("told {told:?}\nexpected {expected:?}"));
        }
        let b = forked.dump("b");
        let (expected, told) = (plain_difference(&main, &b), told_difference(core, &main, &b, "main", "b"));
        if told != expected {
            return Err(format!("main and b: told {told:?}\nexpected {expected:?}"));
        }
        core.restore("main", "s", &[], false, &Progress::default()).map_err(|error| error.to_string())?;
        same("restored", &forked.base, &forked.dump("main"))?;
        forked.sound()?;
        let left = core.diff("s", "main", &Progress::default()).unwrap();
        if !left.is_empty() {
            return Err(format!("after restoring: {left:?}"));
        }
        let undone = core.undo(&Progress::default()).map_err(|error| error.to_string());
        if !plain_difference(&forked.base, &main).is_empty() {
            undone?;
        }
        same("undone", &main, &forked.dump("main"))?;
        forked.sound()
    });
}

#[test]
fn each_path_goes_back_by_itself() {
    random_cases(REGRESSIONS, 300, 60, |ops| {
        let forked = Forked::new(ops, |op| !matches!(op, FileOp::Link(..)));
        let core = forked.core();
        let tops: BTreeSet<Vec<u8>> = forked
            .base
            .keys()
            .chain(forked.dump("main").keys())
            .filter(|path| !path.is_empty())
            .cloned()
            .collect();
        for path in tops.iter().filter(|path| !path.contains(&b'/')) {
            let mut expected = forked.dump("main");
            let is_in = |at: &Vec<u8>| at == path || at.starts_with(&[&path[..], b"/"].concat());
            expected.retain(|at, _| !is_in(at));
            expected.extend(
                forked.base.iter().filter(|(at, _)| is_in(at)).map(|(at, node)| (at.clone(), node.clone())),
            );
            let done = core.restore("main", "s", std::slice::from_ref(path), false, &Progress::default());
            let kept = done.map_err(|error| error.to_string())?.kept;
            same(
                &format!("{:?} restored", path.escape_ascii().to_string()),
                &expected,
                &forked.dump("main"),
            )?;
            forked.sound()?;
            kept.map(|kept| core.delete_snapshot(&kept.id.to_string()))
                .transpose()
                .map_err(|e| e.to_string())?;
        }
        same("all restored", &forked.base, &forked.dump("main"))
    });
}

/// One file of a path, or the directory there.
type Slot = Option<(FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>)>;

fn slot(dump: &Dump, path: &[u8], is_directory: bool) -> Slot {
    let node = dump.get(path).filter(|node| (node.stat.kind == FileKind::Directory) == is_directory)?;
    let (kind, mode, _, bytes, xattrs) = face(node);
    Some((kind, mode, bytes, xattrs))
}

/// A plain three-way comparison of all paths, without regard to what moved.
#[derive(Default)]
struct Plain {
    result: BTreeMap<Vec<u8>, Slot>,
    conflicts: BTreeSet<(Vec<u8>, ConflictKind)>,
}

impl Plain {
    fn of(base: &Dump, ours: &Dump, theirs: &Dump) -> Plain {
        let mut plain = Plain::default();
        let paths: BTreeSet<_> = base.keys().chain(ours.keys()).chain(theirs.keys()).cloned().collect();
        let mut filled = BTreeSet::new();
        for path in paths.iter().rev() {
            let files = [base, ours, theirs].map(|dump| slot(dump, path, false));
            let directories = [base, ours, theirs].map(|dump| slot(dump, path, true));
            let file = plain.file(path, &files);
            let is_filled = filled.contains(path);
            let directory = plain.directory(path, &directories, is_filled);
            if file.is_some() && directory.is_some() {
                plain.conflicts.insert((path.clone(), ConflictKind::DirectoryFile));
            }
            let found = if file.is_some() { file } else { directory };
            if found.is_some() {
                let above = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &path[..at]);
                filled.insert(above.to_vec());
                plain.result.insert(path.clone(), found);
            }
        }
        plain
    }

    fn conflict(&mut self, path: &[u8], kind: ConflictKind) {
        self.conflicts.insert((path.to_vec(), kind));
    }

    fn file(&mut self, path: &[u8], [base, ours, theirs]: &[Slot; 3]) -> Slot {
        if theirs == base || theirs == ours {
            return ours.clone();
        }
        if ours == base {
            return theirs.clone();
        }
        match (base, ours, theirs) {
            (Some(base), Some(ours), Some(theirs)) => Some(self.both(path, base, ours, theirs)),
            (Some(_), ..) => {
                self.conflict(path, ConflictKind::EditDelete);
                ours.clone()
            }
            _ => {
                self.conflict(path, ConflictKind::AddAdd);
                ours.clone()
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn both(
        &mut self,
        path: &[u8],
        base: &(FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>),
        ours: &(FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>),
        theirs: &(FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>),
    ) -> (FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut merged = ours.clone();
        let body = |slot: &(FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>)| (slot.0, slot.2.clone());
        if body(theirs) != body(base) && body(theirs) != body(ours) {
            if body(ours) == body(base) {
                (merged.0, merged.2) = body(theirs);
            } else {
                let is_text = |slot: &(FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>)| {
                    slot.0 == FileKind::File && !slot.2[..slot.2.len().min(8000)].contains(&0)
                };
                let lines = (is_text(base) && is_text(ours) && is_text(theirs))
                    .then(|| diffy::merge_bytes(&base.2, &ours.2, &theirs.2));
                match lines {
                    Some(Ok(lines)) => merged.2 = lines,
                    _ if ours.0 == theirs.0 => self.conflict(path, ConflictKind::EditEdit),
                    _ => self.conflict(path, ConflictKind::Type),
                }
            }
        }
        (merged.1, merged.3) =
            self.attributes(path, (base.1, &base.3), (ours.1, &ours.3), (theirs.1, &theirs.3));
        merged
    }

    #[allow(clippy::type_complexity)]
    fn attributes(
        &mut self,
        path: &[u8],
        base: (u16, &BTreeMap<Vec<u8>, Vec<u8>>),
        ours: (u16, &BTreeMap<Vec<u8>, Vec<u8>>),
        theirs: (u16, &BTreeMap<Vec<u8>, Vec<u8>>),
    ) -> (u16, BTreeMap<Vec<u8>, Vec<u8>>) {
        let (mut mode, mut xattrs) = (ours.0, ours.1.clone());
        if theirs.0 != base.0 && theirs.0 != ours.0 {
            if ours.0 == base.0 {
                mode = theirs.0;
            } else {
                self.conflict(path, ConflictKind::Mode);
            }
        }
        for name in base.1.keys().chain(theirs.1.keys()).collect::<BTreeSet<_>>() {
            let [b, o, t] = [base.1, ours.1, theirs.1].map(|xattrs| xattrs.get(name));
            if t == b || t == o {
                continue;
            }
            match t.filter(|_| o == b) {
                Some(value) => drop(xattrs.insert(name.clone(), value.clone())),
                None if o == b => drop(xattrs.remove(name)),
                None => self.conflict(path, ConflictKind::Xattr),
            }
        }
        (mode, xattrs)
    }

    fn directory(&mut self, path: &[u8], [base, ours, theirs]: &[Slot; 3], is_filled: bool) -> Slot {
        match (base, ours, theirs) {
            (Some(base), Some(ours), Some(theirs)) => {
                let (mode, xattrs) =
                    self.attributes(path, (base.1, &base.3), (ours.1, &ours.3), (theirs.1, &theirs.3));
                Some((ours.0, mode, ours.2.clone(), xattrs))
            }
            (None, Some(own), Some(new)) => {
                if own.1 != new.1 {
                    self.conflict(path, ConflictKind::Mode);
                }
                if own.3 != new.3 {
                    self.conflict(path, ConflictKind::Xattr);
                }
                ours.clone()
            }
            (None, _, _) => ours.clone().or_else(|| theirs.clone()),
            (Some(_), Some(_), None) => ours.clone().filter(|_| is_filled),
            (Some(_), None, Some(_)) => theirs.clone().filter(|_| is_filled),
            (Some(_), None, None) => None,
        }
    }
}

#[test]
fn a_merge_does_what_a_plain_comparison_of_all_paths_says() {
    let (clean, conflicting) = (AtomicUsize::new(0), AtomicUsize::new(0));
    random_cases(REGRESSIONS, 2000, 45, |ops| {
        let is_wanted =
            |op: &FileOp| !matches!(op, FileOp::Link(..) | FileOp::Rename(..) | FileOp::Copy { .. });
        let forked = Forked::new(ops, is_wanted);
        let (ours, theirs) = (forked.dump("main"), forked.dump("b"));
        let plain = Plain::of(&forked.base, &ours, &theirs);
        let merged = forked.merge("b", "main", Policy::Refuse)?;
        let told: BTreeSet<_> =
            merged.conflicts.iter().map(|conflict| (conflict.path.to_vec(), conflict.kind)).collect();
        if told != plain.conflicts {
            return Err(format!("told {told:?}\nexpected {:?}", plain.conflicts));
        }
        let found = forked.dump("main");
        forked.sound()?;
        if !plain.conflicts.is_empty() {
            conflicting.fetch_add(1, Ordering::Relaxed);
            return same("with conflicts nothing changes", &ours, &found);
        }
        clean.fetch_add(1, Ordering::Relaxed);
        let is: BTreeMap<_, _> = found
            .keys()
            .map(|path| (path.clone(), slot(&found, path, false).or_else(|| slot(&found, path, true))))
            .collect();
        for path in is.keys().chain(plain.result.keys()) {
            if is.get(path) != plain.result.get(path) {
                return Err(format!(
                    "{:?}: expected {:?}, found {:?}",
                    path.escape_ascii().to_string(),
                    plain.result.get(path),
                    is.get(path)
                ));
            }
        }
        // Merged twice, and back: nothing more happens, and both are the same.
        let again = forked.merge("b", "main", Policy::Refuse)?;
        let back = forked.merge("main", "b", Policy::Refuse)?;
        if again.kept.is_some() || !back.conflicts.is_empty() {
            return Err(format!("again {:?}, back {:?}", again.steps, back.conflicts));
        }
        same("merged back", &found, &forked.dump("b"))?;
        forked.sound()
    });
    println!("{clean:?} merges, {conflicting:?} with conflicts");
    assert!(clean.into_inner() > 100 && conflicting.into_inner() > 100);
}

#[test]
fn whatever_both_did_a_merge_is_clean_or_refused_and_options_settle_it() {
    let counts: [AtomicUsize; 4] = Default::default();
    random_cases(REGRESSIONS, 1500, 75, |ops| {
        let forked = Forked::new(ops, |_| true);
        let (ours, theirs) = (forked.dump("main"), forked.dump("b"));
        let merged = forked.merge("b", "main", Policy::Refuse)?;
        forked.sound()?;
        if merged.conflicts.is_empty() {
            counts[0].fetch_add(1, Ordering::Relaxed);
            let found = forked.dump("main");
            let back = forked.merge("main", "b", Policy::Refuse)?;
            if !back.conflicts.is_empty() {
                return Err(format!("merged back it conflicts: {:?}", back.conflicts));
            }
            same("merged back", &found, &forked.dump("b"))?;
            return forked.sound();
        }
        same("with conflicts nothing changes", &ours, &forked.dump("main"))?;
        let policy = [Policy::Ours, Policy::Theirs, Policy::Markers][ops.len() % 3];
        let policy = match forked.base.len() % 3 {
            0 => Policy::Ours,
            1 => Policy::Theirs,
            _ => policy,
        };
        match forked.merge("b", "main", policy) {
            Ok(settled) => {
                counts[1].fetch_add(1, Ordering::Relaxed);
                forked.sound()?;
                if settled.kept.is_some() {
                    forked.core().undo(&Progress::default()).map_err(|error| error.to_string())?;
                    same("undone", &ours, &forked.dump("main"))?;
                    forked.sound()?;
                }
            }
            Err(error) if error.contains("cannot be settled") => {
                counts[2].fetch_add(1, Ordering::Relaxed);
                same("refused", &ours, &forked.dump("main"))?;
            }
            Err(error) => return Err(error),
        }
        same("the other is as it was", &theirs, &forked.dump("b"))
    });
    println!("clean, settled, stuck: {counts:?}");
}
