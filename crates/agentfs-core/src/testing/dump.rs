//! A whole tree as a value, and how two of them differ.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::compare::Stat;
use crate::FileKind;

/// A tree: every path (names joined by `/`, the root the empty path) and what is there.
pub type Dump = BTreeMap<Vec<u8>, Node>;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What `lstat` shows.
    pub stat: Stat,
    /// Inode number. Those of two drivers differ; [`Pairing`] sees whether they differ consistently.
    pub ino: u64,
    /// Content of a regular file, target of a symbolic link, else nothing.
    pub bytes: Bytes,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Bytes>,
    /// Modified at these seconds and nanoseconds. The model says `None` where the clock decides.
    pub mtime: Option<(i64, u32)>,
}

/// Bytes that show themselves by runs of equal ones.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())?;
        let (mut at, mut shown) = (0, 0);
        for run in self.0.chunk_by(|a, b| a == b) {
            if shown == 16 {
                return f.write_str(" …");
            }
            write!(f, " {at}:{:02x}", run[0])?;
            (at, shown) = (at + run.len(), shown + 1);
        }
        Ok(())
    }
}

/// Which inode of the model is which real one. It must hold for all trees of a volume and for its whole life:
/// numbers are stable over snapshots and branches, and never given again.
#[derive(Default)]
pub struct Pairing {
    real: HashMap<u64, u64>,
    model: HashMap<u64, u64>,
}

impl Pairing {
    /// May these two be the same inode? They are from now on.
    fn pair(&mut self, model: u64, real: u64) -> bool {
        *self.real.entry(model).or_insert(real) == real && *self.model.entry(real).or_insert(model) == model
    }

    /// All differences of a tree from the one it should be.
    pub fn differences(&mut self, expected: &Dump, found: &Dump) -> Vec<String> {
        let missing = expected.keys().filter(|path| !found.contains_key(*path));
        let extra = found.keys().filter(|path| !expected.contains_key(*path));
        let mut differences: Vec<String> =
            missing.map(|path| format!("{} is missing", shown(path))).collect();
        differences.extend(extra.map(|path| format!("{} should not be there", shown(path))));
        for (path, expected) in expected {
            let Some(found) = found.get(path) else { continue };
            if !self.pair(expected.ino, found.ino) {
                let (model, real) = (expected.ino, found.ino);
                differences.push(format!("{}: inode {real} is not the model's {model}", shown(path)));
            }
            if !expected.matches(found) {
                differences.push(format!("{}:\n  expected {expected:?}\n  found    {found:?}", shown(path)));
            }
        }
        differences
    }
}

impl Node {
    fn matches(&self, found: &Node) -> bool {
        let times = self.mtime.is_none() || self.mtime == found.mtime;
        times && self.stat == found.stat && self.bytes == found.bytes && self.xattrs == found.xattrs
    }
}

fn shown(path: &[u8]) -> String {
    let names: Vec<String> = path
        .split(|byte| *byte == b'/')
        .map(|name| {
            if name.len() > 40 { format!("<{} bytes>", name.len()) } else { name.escape_ascii().to_string() }
        })
        .collect();
    format!("/{}", names.join("/"))
}

/// Whether `stat` shows a size that means something.
pub(super) fn size_counts(kind: FileKind) -> bool {
    matches!(kind, FileKind::File | FileKind::Symlink)
}
