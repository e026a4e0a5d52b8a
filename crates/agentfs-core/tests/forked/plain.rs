//! A three-way comparison of all paths.

use std::collections::{BTreeMap, BTreeSet};

use agentfs_core::testing::Dump;
use agentfs_core::{ConflictKind, FileKind};

use super::face;

/// One file of a path, or the directory there.
pub type Slot = Option<(FileKind, u16, Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>)>;

pub fn slot(dump: &Dump, path: &[u8], is_directory: bool) -> Slot {
    let node = dump.get(path).filter(|node| (node.stat.kind == FileKind::Directory) == is_directory)?;
    let (kind, mode, _, bytes, xattrs) = face(node);
    Some((kind, mode, bytes, xattrs))
}

/// A plain three-way comparison of all paths, without regard to what moved.
#[derive(Default)]
pub struct Plain {
    pub result: BTreeMap<Vec<u8>, Slot>,
    pub conflicts: BTreeSet<(Vec<u8>, ConflictKind)>,
}

impl Plain {
    pub fn of(base: &Dump, ours: &Dump, theirs: &Dump) -> Plain {
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
