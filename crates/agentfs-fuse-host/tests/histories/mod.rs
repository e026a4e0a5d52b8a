//! Random histories of a small tree, and whole trees compared: what programs do to names, and all that a file is.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use agentfs_core::testing::Chance;
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};

/// One thing that is done to a tree. Paths are relative to its root. What cannot be done is left.
#[derive(Clone, Debug)]
pub enum Act {
    /// Written anew, in place.
    Write(PathBuf, String),
    /// Written under another name, which then takes the place.
    Replace(PathBuf, String),
    Append(PathBuf, String),
    Truncate(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, String),
    Fifo(PathBuf),
    MakeDirectory(PathBuf),
    /// With all in it.
    Remove(PathBuf),
    /// Removed with all in it, and made again as it was, as `git checkout` and package managers do.
    Remake(PathBuf),
    Mode(PathBuf, u32),
    Attribute(PathBuf, Option<String>),
    DefaultAcl(PathBuf),
    /// The time that archives set.
    FixedTime(PathBuf),
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const TEXTS: [&str; 5] = ["", "one", "two", "ten", "longer than the others"];
const FIXED: Timespec = Timespec { tv_sec: 499_162_500, tv_nsec: 0 };

fn path(chance: &mut Chance) -> PathBuf {
    let mut path = PathBuf::new();
    // Most are one or two names long.
    for _ in 0..=[0, 0, 0, 1, 1, 2][chance.below(6) as usize] {
        path.push(NAMES[chance.below(6) as usize]);
    }
    path
}

impl Act {
    pub fn any(chance: &mut Chance) -> Act {
        let text = TEXTS[chance.below(5) as usize].to_owned();
        // Some are large enough to lie in files of their own.
        let text = if chance.below(12) == 0 { text.repeat(20_000) } else { text };
        let at = path(chance);
        match chance.below(32) {
            0..=3 => Act::Write(at, text),
            4..=5 => Act::Replace(at, text),
            6 => Act::Append(at, text),
            7 => Act::Truncate(at, chance.below(10)),
            8..=12 => Act::Rename(at, path(chance)),
            13..=15 => Act::Exchange(at, path(chance)),
            16..=17 => Act::Link(at, path(chance)),
            18 => Act::Symlink(at, text.chars().take(20).collect::<String>() + "x"),
            19 => Act::Fifo(at),
            20..=21 => Act::MakeDirectory(at),
            22..=24 => Act::Remove(at),
            25..=26 => Act::Remake(at),
            27 => Act::Mode(at, [0o644, 0o755, 0o600, 0o700][chance.below(4) as usize]),
            28 => Act::Attribute(at, (chance.below(3) > 0).then_some(text.chars().take(9).collect())),
            29 => Act::DefaultAcl(at),
            _ => Act::FixedTime(at),
        }
    }

    /// Does it in a tree.
    pub fn act(&self, root: &Path) -> io::Result<()> {
        let at = |path: &Path| root.join(path);
        match self {
            // A pipe would keep who writes to it waiting.
            Act::Write(path, _) | Act::Append(path, _) | Act::Truncate(path, _)
                if !is_file_or_none(&at(path)) => {}
            Act::Write(path, text) => fs::write(at(path), text)?,
            Act::Append(path, text) => {
                io::Write::write_all(
                    &mut fs::OpenOptions::new().append(true).open(at(path))?,
                    text.as_bytes(),
                )?;
            }
            Act::Truncate(path, len) => fs::OpenOptions::new().write(true).open(at(path))?.set_len(*len)?,
            Act::Replace(path, text) => {
                let draft = at(path).with_file_name("draft~");
                fs::write(&draft, text)?;
                let moved = fs::rename(&draft, at(path));
                if moved.is_err() {
                    fs::remove_file(&draft)?;
                }
                moved?;
            }
            Act::Rename(from, to) => fs::rename(at(from), at(to))?,
            Act::Exchange(a, b) => {
                rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE)?;
            }
            Act::Link(from, to) => fs::hard_link(at(from), at(to))?,
            Act::Symlink(path, to) => symlink(to, at(path))?,
            Act::Fifo(path) => rustix::fs::mknodat(CWD, at(path), FileType::Fifo, Mode::RUSR, 0)?,
            Act::MakeDirectory(path) => fs::create_dir(at(path))?,
            Act::Remove(path) => remove(&at(path))?,
            Act::Remake(path) => remake(&at(path))?,
            Act::Mode(path, mode) => {
                let meta = fs::symlink_metadata(at(path))?;
                // Only root enters a directory that its owner may not.
                let is_closed = meta.is_dir() && mode & 0o100 == 0 && !rustix::process::geteuid().is_root();
                if !meta.is_symlink() && !is_closed {
                    fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))?;
                }
            }
            Act::Attribute(path, Some(value)) => {
                rustix::fs::lsetxattr(at(path), "user.k", value.as_bytes(), XattrFlags::empty())?;
            }
            Act::Attribute(path, None) => rustix::fs::lremovexattr(at(path), "user.k")?,
            Act::DefaultAcl(path) => {
                // user::rwx, user:1:r-x, group::r-x, mask::r-x, other::r-x
                let mut acl = 2_u32.to_le_bytes().to_vec();
                for (tag, perm, id) in [
                    (1_u16, 7_u16, u32::MAX),
                    (2, 5, 1),
                    (4, 5, u32::MAX),
                    (16, 5, u32::MAX),
                    (32, 5, u32::MAX),
                ] {
                    acl.extend(
                        tag.to_le_bytes().into_iter().chain(perm.to_le_bytes()).chain(id.to_le_bytes()),
                    );
                }
                rustix::fs::setxattr(at(path), "system.posix_acl_default", &acl, XattrFlags::empty())?;
            }
            Act::FixedTime(path) => {
                let times = Timestamps { last_access: FIXED, last_modification: FIXED };
                rustix::fs::utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
            }
        }
        Ok(())
    }
}

fn is_file_or_none(path: &Path) -> bool {
    fs::metadata(path).map_or(true, |meta| meta.is_file())
}

/// Removes whatever it is.
pub fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn remake(path: &Path) -> io::Result<()> {
    let before = whole(path);
    remove(path)?;
    for (inner, fact) in before {
        let at = if inner.as_os_str().is_empty() { path.to_owned() } else { path.join(inner) };
        match &fact.body {
            Body::Directory => fs::create_dir(&at)?,
            Body::File(bytes) => {
                fs::write(&at, bytes)?;
                let (tv_sec, tv_nsec) = fact.mtime;
                let time = Timespec { tv_sec, tv_nsec };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, &at, &times, AtFlags::empty())?;
            }
            Body::Link(to) => symlink(to, &at)?,
            Body::Special(..) => {}
        }
    }
    Ok(())
}

/// What a file is made of.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    Directory,
    File(Vec<u8>),
    Link(PathBuf),
    Special(u32, u64),
}

/// All of a file that is to be the same; of directories and links not the time.
#[derive(Clone, PartialEq, Eq)]
pub struct Fact {
    pub body: Body,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first path that leads to the same file.
    first: PathBuf,
}

impl Fact {
    /// When it was written does not count.
    pub fn forget_time(&mut self) {
        self.mtime = (0, 0);
    }
}

impl fmt::Debug for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = match &self.body {
            Body::Directory => "directory".into(),
            Body::File(bytes) => {
                format!("{} bytes {:?}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(20)]))
            }
            Body::Link(to) => format!("link to {to:?}"),
            Body::Special(mode, rdev) => format!("special {mode:o} {rdev}"),
        };
        write!(
            f,
            "{body} {:o} {:?} {:?} {:?} {:?}",
            self.mode, self.owner, self.mtime, self.attributes, self.first
        )
    }
}

/// All of a tree, with its root as the empty path; a file alone, too.
pub fn whole(root: &Path) -> BTreeMap<PathBuf, Fact> {
    let root = &root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let (mut found, mut open, mut inodes) = (BTreeMap::new(), vec![root.clone()], BTreeMap::new());
    while let Some(path) = open.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let name = path.strip_prefix(root).unwrap().to_owned();
        let kind = meta.file_type();
        let body = if kind.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Body::Directory
        } else if kind.is_symlink() {
            Body::Link(fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            Body::File(fs::read(&path).unwrap_or_else(|error| error.to_string().into_bytes()))
        } else {
            assert!(kind.is_fifo() || kind.is_char_device(), "{path:?}");
            Body::Special(meta.mode() & libc::S_IFMT, meta.rdev())
        };
        let is_timed = matches!(body, Body::File(_) | Body::Special(..));
        let fact = Fact {
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: if is_timed { (meta.mtime(), meta.mtime_nsec()) } else { (0, 0) },
            attributes: if kind.is_file() || kind.is_dir() { attributes(&path) } else { Vec::new() },
            first: if kind.is_dir() { PathBuf::new() } else { first_of(&mut inodes, meta.ino(), &name) },
            body,
        };
        found.insert(name, fact);
    }
    // Paths are come by in any order.
    let mut least = BTreeMap::new();
    for (path, fact) in &found {
        let known = least.entry(fact.first.clone()).or_insert_with(|| path.clone());
        if *known > *path {
            *known = path.clone();
        }
    }
    for fact in found.values_mut().filter(|fact| !fact.first.as_os_str().is_empty()) {
        fact.first = least[&fact.first].clone();
    }
    found
}

fn first_of(inodes: &mut BTreeMap<u64, PathBuf>, ino: u64, name: &Path) -> PathBuf {
    inodes.entry(ino).or_insert_with(|| Path::new("/").join(name)).clone()
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap_or(0);
        value[..len].to_vec()
    };
    let mut found: Vec<_> = names.map(|name| (name.to_vec(), value(name))).collect();
    found.sort();
    found
}

/// In what two trees differ, in words; empty when in nothing.
pub fn difference(a: &BTreeMap<PathBuf, Fact>, b: &BTreeMap<PathBuf, Fact>) -> String {
    let mut paths: Vec<&PathBuf> = a.keys().chain(b.keys()).collect();
    paths.sort();
    paths.dedup();
    let differing = paths.into_iter().filter(|path| a.get(*path) != b.get(*path));
    differing.map(|path| format!("{path:?}: {:?}\n    {:?}\n", a.get(path), b.get(path))).collect()
}
