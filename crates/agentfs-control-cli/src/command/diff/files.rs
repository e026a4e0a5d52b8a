//! What differs, as files that a patch can tell of: directories that moved are the files in them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agentfs_proto::result::{DiffEntry, Face};
use rustix::fs::FileType;

use super::sides::Sides;
use crate::failure::Failure;
use crate::left_out::Ignored;
use crate::output::shown;

/// The modes that git knows.
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_000;

/// A file at one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) path: Vec<u8>,
    /// As git has it.
    pub(super) mode: u32,
}

impl File {
    pub(super) fn is_link(&self) -> bool {
        self.mode == LINK
    }
}

/// A file that differs; one side is there at least.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) old: Option<File>,
    pub(super) new: Option<File>,
}

impl Change {
    pub(super) fn old_path(&self) -> &[u8] {
        self.old.as_ref().or(self.new.as_ref()).map_or(&[], |file| &file.path)
    }

    pub(super) fn new_path(&self) -> &[u8] {
        self.new.as_ref().or(self.old.as_ref()).map_or(&[], |file| &file.path)
    }
}

/// All files that differ.
#[derive(Default)]
pub(super) struct Files {
    /// In the order of their paths.
    pub(super) changes: Vec<Change>,
    /// Differences that no patch can tell of.
    others: Vec<Vec<u8>>,
}

impl Files {
    pub(super) fn of(
        entries: &[DiffEntry],
        sides: &Sides<'_>,
        with_git: bool,
        all: bool,
    ) -> Result<Files, Failure> {
        let is_there = |entry: &&DiffEntry| entry.status != b'D';
        let listed =
            entries.iter().filter(is_there).map(|entry| (entry.path.as_slice(), entry.status)).collect();
        let gone =
            entries.iter().filter(|entry| entry.new.is_none()).map(|entry| entry.path.as_slice()).collect();
        let ignored = if all { Ignored::nothing() } else { Ignored::of(sides.new_root())? };
        let ignored = if with_git { ignored } else { ignored.and_git() };
        let sources = entries.iter().filter_map(|entry| entry.from.as_deref()).collect();
        let walk = Walk { listed, gone, sources, sides, ignored };
        let mut files = Files::default();
        for entry in entries {
            let is_directory =
                |face: &Option<Face>| face.is_some_and(|face| kind(face) == FileType::Directory);
            match (&entry.from, is_directory(&entry.old), is_directory(&entry.new)) {
                (Some(from), _, true) => walk.moved(&mut files, from, &entry.path)?,
                // What came from where nothing is told of, or went there, is not listed below.
                (None, false, true) if entry.old.is_none() => walk.all(&mut files, &entry.path, true)?,
                (None, true, false) if entry.new.is_none() => walk.all(&mut files, &entry.path, false)?,
                (from, ..) => files.add(entry, from.as_ref().unwrap_or(&entry.path)),
            }
        }
        // What goes makes room for what comes.
        let key = |change: &Change| (change.new_path().to_vec(), change.new.is_some());
        files.changes.sort_by_cached_key(key);
        files.changes.dedup();
        Ok(files)
    }

    /// Leaves those that have one of these paths.
    pub(super) fn retain(&mut self, is_asked: impl Fn(&[u8]) -> bool) {
        self.changes.retain(|change| is_asked(change.old_path()) || is_asked(change.new_path()));
        self.others.retain(|path| is_asked(path));
    }

    fn add(&mut self, entry: &DiffEntry, from: &[u8]) {
        let file = |face: Option<Face>, path: &[u8]| {
            face.and_then(git_mode).map(|mode| File { path: path.to_vec(), mode })
        };
        let (old, new) = (file(entry.old, from), file(entry.new, &entry.path));
        let is_told = entry.content || old != new;
        let is_lost = |face: Option<Face>, file: &Option<File>| {
            face.is_some_and(|face| kind(face) != FileType::Directory) && file.is_none()
        };
        let is_other = is_lost(entry.old, &old) || is_lost(entry.new, &new);
        let attributes = |face: Face| (face.mode, face.uid, face.gid);
        let is_attributes =
            entry.old.zip(entry.new).is_some_and(|(old, new)| attributes(old) != attributes(new));
        let both = old.is_some() && new.is_some();
        let has_other_mode =
            is_attributes && (!both || old.as_ref().map(|f| f.mode) == new.as_ref().map(|f| f.mode));
        if is_other || has_other_mode || (both && entry.xattrs) {
            self.others.push(entry.path.clone());
        }
        if is_told && (old.is_some() || new.is_some()) {
            self.changes.push(Change { old, new });
        }
    }

    /// What a patch does not say.
    pub(super) fn tell_of_others(&self) {
        let Some(first) = self.others.first() else { return };
        let more = match self.others.len() {
            1 => String::new(),
            count => format!(" and of {} other paths", count - 1),
        };
        let _ = writeln!(
            io::stderr(),
            "not in the patch: owners, permissions, extended attributes or special files, of {}{more}",
            shown(first)
        );
    }
}

/// Files in directories, which are not told of one by one.
struct Walk<'a> {
    /// What is told by itself, of what is there in the second.
    listed: HashMap<&'a [u8], u8>,
    /// What is told to be there only in the first.
    gone: HashSet<&'a [u8]>,
    /// Where what was moved was.
    sources: HashSet<&'a [u8]>,
    sides: &'a Sides<'a>,
    ignored: Ignored,
}

impl Walk<'_> {
    fn is_left_out(&self, path: &[u8], is_directory: bool) -> bool {
        self.ignored.has(Path::new(OsStr::from_bytes(path)), is_directory)
    }

    /// Files in a directory that was moved. What is new is listed with all in it, what was moved by itself goes its own way.
    fn moved(&self, files: &mut Files, from: &[u8], to: &[u8]) -> Result<(), Failure> {
        for (name, metadata) in names(self.sides.new_root(), to)? {
            let [old, new] = [from, to].map(|directory| [directory, b"/", &name].concat());
            let status = self.listed.get(new.as_slice());
            if metadata.is_dir() {
                if !matches!(status, Some(b'A' | b'R' | b'T')) {
                    self.moved(files, &old, &new)?;
                }
                continue;
            }
            if let (None, Some(mode)) = (status, mode(&metadata)) {
                let [is_old_left, is_left] = [&old, &new].map(|path| self.is_left_out(path, false));
                let file = |path, is_left: bool| (!is_left).then_some(File { path, mode });
                let change = Change { old: file(old, is_old_left), new: file(new, is_left) };
                files.changes.extend((!is_old_left || !is_left).then_some(change));
            }
        }
        Ok(())
    }

    /// All files in a directory that is told of by itself, in the second or in the first.
    fn all(&self, files: &mut Files, path: &[u8], is_new: bool) -> Result<(), Failure> {
        let root = if is_new { self.sides.new_root() } else { self.sides.old_root() };
        for (name, metadata) in names(root, path)? {
            let path = [path, b"/", &name].concat();
            let is_told = if is_new {
                self.listed.contains_key(path.as_slice())
            } else {
                self.gone.contains(path.as_slice())
            };
            let is_left = self.is_left_out(&path, metadata.is_dir()) || self.has_moved(&path, is_new);
            match (is_told || is_left, metadata.is_dir(), mode(&metadata)) {
                (true, ..) => {}
                (_, true, _) => self.all(files, &path, is_new)?,
                (.., Some(mode)) => {
                    let (file, nothing) = (Some(File { path, mode }), None);
                    files.changes.push(match is_new {
                        true => Change { old: nothing, new: file },
                        false => Change { old: file, new: nothing },
                    });
                }
                (.., None) => {}
            }
        }
        Ok(())
    }

    /// Is what was here told of as moved elsewhere?
    fn has_moved(&self, path: &[u8], is_new: bool) -> bool {
        !is_new && self.sources.contains(path)
    }
}

/// The names in a directory, and what they lead to.
fn names(root: &Path, path: &[u8]) -> Result<Vec<(Vec<u8>, fs::Metadata)>, Failure> {
    let failed = |error: io::Error| Failure::io(&format!("{} cannot be read", shown(path)), &error);
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(OsStr::from_bytes(path))).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        names.push((entry.file_name().into_vec(), entry.metadata().map_err(failed)?));
    }
    Ok(names)
}

fn mode(metadata: &fs::Metadata) -> Option<u32> {
    match (metadata.is_symlink(), metadata.is_file()) {
        (true, _) => Some(LINK),
        (_, true) if metadata.permissions().mode() & 0o100 != 0 => Some(PROGRAM),
        (_, true) => Some(FILE),
        _ => None,
    }
}

fn kind(face: Face) -> FileType {
    FileType::from_raw_mode(face.mode)
}

fn git_mode(face: Face) -> Option<u32> {
    match kind(face) {
        FileType::RegularFile if face.mode & 0o100 != 0 => Some(PROGRAM),
        FileType::RegularFile => Some(FILE),
        FileType::Symlink => Some(LINK),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(mode: u32) -> Option<Face> {
        Some(Face { mode, uid: 0, gid: 0, size: 1, links: 1 })
    }

    fn told(status: u8, old: Option<Face>, new: Option<Face>, content: bool) -> (Vec<Change>, usize) {
        let mut files = Files::default();
        let entry = DiffEntry { path: b"x".to_vec(), from: None, status, old, new, content, xattrs: false };
        files.add(&entry, b"x");
        (files.changes, files.others.len())
    }

    #[test]
    fn a_patch_tells_of_files_and_links_and_of_who_may_run_them() {
        let file = |mode| Some(File { path: b"x".to_vec(), mode });
        let changed = |old, new| vec![Change { old, new }];
        assert_eq!(told(b'A', None, face(0o100_600), true), (changed(None, file(FILE)), 0));
        assert_eq!(told(b'D', face(0o120_777), None, true), (changed(file(LINK), None), 0));
        let run = changed(file(FILE), file(PROGRAM));
        assert_eq!(told(b'M', face(0o100_644), face(0o100_755), false), (run, 0));
        assert_eq!(told(b'M', face(0o100_644), face(0o100_600), false), (vec![], 1));
        assert_eq!(told(b'M', face(0o100_644), face(0o100_600), true), (changed(file(FILE), file(FILE)), 1));
        assert_eq!(told(b'A', None, face(0o040_755), true), (vec![], 0));
        assert_eq!(told(b'A', None, face(0o010_644), true), (vec![], 1));
        let turned = changed(None, file(FILE));
        assert_eq!(told(b'T', face(0o040_755), face(0o100_644), true).0, turned);
    }
}
