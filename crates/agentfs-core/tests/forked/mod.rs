//! A volume whose branch `b` grew from `main`, and what plain comparisons say of the two.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod plain;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentfs_core::testing::{
    CoreDriver, Driver, Dump, FileOp, Node, Op, Place, config, dump, merge, plant, sound,
};
use agentfs_core::{
    DiffStatus, FileKind, FsCore, LowerTree, Memory, Merged, Policy, Progress, Unrecorded, ViewId,
};

/// Where the tree is that both begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// In the volume.
    Volume,
    /// In a directory of the host that the volume lies over.
    Lower,
}

/// A volume with a tree, the branch `b` grown from it, and edits in both.
pub struct Forked {
    driver: CoreDriver,
    pub base: Dump,
    /// The directory that the volume lies over.
    _lower: Option<tempfile::TempDir>,
}

impl Forked {
    /// A third of the operations makes the tree, a third each edits `main` and `b`, as far as they are `wanted`.
    pub fn new(ground: Ground, ops: &[Op], wanted: impl Fn(&FileOp) -> bool) -> Option<Forked> {
        let core = FsCore::new_volume(Arc::new(Memory::default()), Arc::new(Unrecorded), config()).unwrap();
        let mut driver = CoreDriver::new(Arc::new(core));
        edit(&mut driver, &ops[..ops.len() / 3], 0, &wanted);
        let base = dump(driver.core(), ViewId::MAIN);
        let mut lower = None;
        if ground == Ground::Lower {
            let dir = tempfile::tempdir().unwrap();
            if !plant(&base, dir.path()) {
                return None; // attributes that are root's
            }
            let tree = LowerTree::open(dir.path(), &[], &[]).unwrap();
            let opened = FsCore::open_layered(Arc::new(Memory::default()), config(), Some(tree));
            driver = CoreDriver::new(Arc::new(opened.unwrap().0));
            lower = Some(dir);
        }
        let driver = fork(driver.core(), ops, &wanted);
        Some(Forked { driver, base, _lower: lower })
    }

    pub fn core(&self) -> &FsCore {
        self.driver.core()
    }

    pub fn dump(&self, branch: &str) -> Dump {
        dump(self.core(), self.core().find_branch(branch).unwrap().view)
    }

    pub fn merge(&self, source: &str, into: &str, policy: Policy) -> Result<Merged, String> {
        merge(self.core(), source, into, policy).map_err(|error| error.to_string())
    }

    pub fn sound(&self) -> Result<(), String> {
        sound(self.core())
    }
}

/// Does operations on files in a branch, as far as they are `wanted`.
pub fn edit(driver: &mut CoreDriver, ops: &[Op], branch: u8, wanted: &dyn Fn(&FileOp) -> bool) {
    for op in ops {
        let Op::File(_, op) = op else { continue };
        if wanted(op) {
            let _ = driver.apply(&Op::File(Place::Branch(branch), op.clone()));
        }
    }
}

/// Takes the snapshot `s` of `main`, grows the branch `b` from it, and edits both: the first third of the operations made the tree, one edits
/// `main`, and the rest `b`.
pub fn fork(core: &Arc<FsCore>, ops: &[Op], wanted: &dyn Fn(&FileOp) -> bool) -> CoreDriver {
    core.create_snapshot("main", Some("s")).unwrap();
    core.create_branch("main", Some("b")).unwrap();
    let mut driver = CoreDriver::new(core.clone());
    let third = ops.len() / 3;
    edit(&mut driver, &ops[third..2 * third], 0, wanted);
    edit(&mut driver, &ops[2 * third..], 1, wanted);
    driver
}

/// What counts of a file: not its number, not its times.
pub type Face = (FileKind, u16, u64, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>);

pub fn face(node: &Node) -> Face {
    let links = if node.stat.kind == FileKind::Directory { 0 } else { node.stat.nlink };
    let xattrs = node.xattrs.iter().map(|(name, value)| (name.clone(), value.0.clone()));
    (node.stat.kind, node.stat.mode, links, node.bytes.0.clone(), xattrs.collect())
}

pub fn faces(dump: &Dump) -> BTreeMap<Vec<u8>, Face> {
    dump.iter().map(|(path, node)| (path.clone(), face(node))).collect()
}

pub fn same(what: &str, expected: &Dump, found: &Dump) -> Result<(), String> {
    alike(what, &faces(expected), &faces(found))
}

/// As [`same`], however many names files have.
pub fn same_but_links(what: &str, expected: &Dump, found: &Dump) -> Result<(), String> {
    let unlinked = |dump: &Dump| {
        let faces = faces(dump).into_iter();
        faces.map(|(path, (kind, mode, _, bytes, xattrs))| (path, (kind, mode, 0, bytes, xattrs))).collect()
    };
    alike(what, &unlinked(expected), &unlinked(found))
}

type Faces = BTreeMap<Vec<u8>, Face>;

fn alike(what: &str, expected: &Faces, found: &Faces) -> Result<(), String> {
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
pub fn plain_difference(a: &Dump, b: &Dump) -> BTreeSet<(Vec<u8>, bool, bool)> {
    let face = |node: &Node| (face(node).0, face(node).1, face(node).3, face(node).4);
    let paths: BTreeSet<_> = a.keys().chain(b.keys()).filter(|path| !path.is_empty()).collect();
    let differs = |path: &&&Vec<u8>| a.get(**path).map(face) != b.get(**path).map(face);
    let status = |path: &Vec<u8>| (path.clone(), a.contains_key(path), b.contains_key(path));
    paths.iter().filter(differs).map(|path| status(path)).collect()
}

/// Directories that were moved take what is in them along without saying so: it is added here.
pub fn told_difference(
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
