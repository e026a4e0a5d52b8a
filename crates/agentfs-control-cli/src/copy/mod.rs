//! Copying trees of files, each whole or not at all: under another name first, which then takes its place. Attributes, times,
//! owners, extended attributes, holes and hard links are kept. What is there already, the same, is left alone, so that a run
//! that was interrupted is finished by the next. All places are reached through their directories: no link leads elsewhere.

mod file;
mod progress;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::fs::{
    linkat, mkdirat, mknodat, openat2, readlinkat, renameat, renameat_with, statat, symlinkat, syncfs,
    unlinkat,
};
use rustix::io::Errno;

pub(crate) use self::file::dress_directory;
pub(crate) use self::progress::Progress;
use crate::failure::Failure;

/// How names begin under which files are made; what is left of a run that was interrupted goes with the next.
const DRAFT: &str = ".agentfs-draft-";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
}

/// Which paths are left out.
pub(crate) type LeftOut<'a> = &'a dyn Fn(&Path, bool) -> bool;

/// What is at a place before something is put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Whatever it is.
    Anything,
    Nothing,
    /// This file, unchanged: its inode number and size, when it was written last, and, of one that has no other names, when it
    /// was changed last.
    File(u64, i64, (i64, u64), Option<(i64, u64)>),
}

impl Expected {
    /// What is there now.
    pub(crate) fn as_found(stat: Option<&Stat>) -> Expected {
        let Some(stat) = stat else { return Expected::Nothing };
        let changed =
            (stat.st_nlink == 1 || is_directory(stat)).then_some((stat.st_ctime, stat.st_ctime_nsec));
        Expected::File(stat.st_ino, stat.st_size, (stat.st_mtime, stat.st_mtime_nsec), changed)
    }
}

/// Somebody was faster.
pub(crate) fn changed_meanwhile(path: &Path) -> Failure {
    Failure::new(format!(
        "{} was changed by somebody else meanwhile; what was done until then stays",
        path.display()
    ))
}

/// Copies files to one tree.
pub(crate) struct Copier<'a> {
    /// The tree that is copied to.
    root: OwnedFd,
    left_out: LeftOut<'a>,
    /// Is each file to be durable before it takes its place?
    is_durable: bool,
    /// Where the other names of files lead that have some.
    links: HashMap<(u64, u64), PathBuf>,
    pub(crate) progress: Progress,
}

/// What is at a place; `None` when there is nothing.
pub(crate) fn look(place: Place<'_>) -> Result<Option<Stat>, Errno> {
    match statat(place.directory, place.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    kind(stat) == FileType::Directory
}

/// Opens a directory that neither a link leads to nor something mounted lies over.
pub(crate) fn enter(place: Place<'_>) -> Result<OwnedFd, Errno> {
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(place.directory, place.name, DIRECTORY | OFlags::RDONLY, Mode::empty(), within)
}

/// Opens a directory and those above it, from `root` on; `None` when there is none.
pub(crate) fn enter_path(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let mut at = enter(Place { directory: root, name: OsStr::new(".") })?;
    for name in path {
        match enter(Place { directory: at.as_fd(), name }) {
            Ok(inner) => at = inner,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(at))
}

/// The names in a directory, in order.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A name for a file that is not in its place yet. Nobody can guess it.
pub(crate) fn draft_name() -> String {
    format!("{DRAFT}file-{:016x}", RandomState::new().build_hasher().finish())
}

/// Is it a file that a run has not put into its place?
pub(crate) fn is_draft(name: &OsStr) -> bool {
    name.as_bytes().starts_with(DRAFT.as_bytes())
}

/// Are two files the same, as far as their attributes tell?
pub(crate) fn is_same(source: (Place<'_>, &Stat), target: (Place<'_>, &Stat)) -> bool {
    let (a, b) = (source.1, target.1);
    let is_root = rustix::process::geteuid().is_root();
    let owners = !is_root || (a.st_uid, a.st_gid) == (b.st_uid, b.st_gid);
    let modes = a.st_mode == b.st_mode && owners;
    match kind(a) {
        FileType::RegularFile => {
            let times = (a.st_mtime, a.st_mtime_nsec) == (b.st_mtime, b.st_mtime_nsec);
            modes && a.st_size == b.st_size && times
        }
        FileType::Symlink => {
            let target_of = |place: Place<'_>| readlinkat(place.directory, place.name, Vec::new()).ok();
            modes && target_of(source.0) == target_of(target.0)
        }
        _ => modes && a.st_rdev == b.st_rdev,
    }
}

/// The failure of a file, by its path.
pub(crate) fn failed(path: &Path) -> impl Fn(Errno) -> Failure {
    move |error| Failure::with_errno(format!("{} cannot be copied", path.display()), error)
}

impl<'a> Copier<'a> {
    /// To the tree at `root`.
    pub(crate) fn new(root: OwnedFd, left_out: LeftOut<'a>, is_durable: bool, progress: Progress) -> Self {
        Self { root, left_out, is_durable, links: HashMap::new(), progress }
    }

    /// Copies what is in one directory to another, at `path` in the tree; its own attributes too.
    pub(crate) fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<(), Failure> {
        self.inside(source, target, path, Expected::Anything)
    }

    fn inside(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
        expected: Expected,
    ) -> Result<(), Failure> {
        remove_drafts(target).map_err(failed(path))?;
        for name in names(source).map_err(failed(path))? {
            let (from, to) =
                (Place { directory: source, name: &name }, Place { directory: target, name: &name });
            self.copy(from, to, &path.join(&name), expected)?;
        }
        file::dress_directory(source, target).map_err(failed(path))
    }

    /// Copies a file, or a directory with all in it, to `path` in the tree. A directory there is kept, and what it has beside.
    /// A file that is there must be as `expected`; it is the same already only if anything may be there.
    pub(crate) fn copy(
        &mut self,
        source: Place<'_>,
        target: Place<'_>,
        path: &Path,
        expected: Expected,
    ) -> Result<(), Failure> {
        let Some(stat) = look(source).map_err(failed(path))? else { return Ok(()) };
        if is_draft(source.name) || (self.left_out)(path, is_directory(&stat)) {
            return Ok(());
        }
        let there = look(target).map_err(failed(path))?;
        let is_in_the_way = there.as_ref().is_some_and(|there| is_directory(&stat) && !is_directory(there));
        if is_in_the_way && expected != Expected::Anything && expected != Expected::as_found(there.as_ref()) {
            return Err(changed_meanwhile(path));
        }
        if is_directory(&stat) {
            // In a directory that is made now there is nothing yet.
            let inside = if there.is_none() { Expected::Nothing } else { Expected::Anything };
            match there {
                None => mkdirat(target.directory, target.name, Mode::RWXU).map_err(failed(path))?,
                Some(there) if is_directory(&there) => {}
                Some(_) => {
                    unlinkat(target.directory, target.name, AtFlags::empty()).map_err(failed(path))?;
                    mkdirat(target.directory, target.name, Mode::RWXU).map_err(failed(path))?;
                }
            }
            let (source, target) =
                (enter(source).map_err(failed(path))?, enter(target).map_err(failed(path))?);
            self.progress.count(path);
            return self.inside(source.as_fd(), target.as_fd(), path, inside);
        }
        self.progress.count(path);
        let is_linked = stat.st_nlink > 1;
        let other = self.links.get(&(stat.st_dev, stat.st_ino)).filter(|_| is_linked).cloned();
        if let Some(other) = other {
            return self.link(&other, target, there.as_ref()).map_err(failed(path));
        }
        let is_old = expected == Expected::as_found(there.as_ref());
        let is_there = there.is_some_and(|there| !is_old && is_same((source, &stat), (target, &there)));
        if !is_there {
            self.put((source, &stat), (target, path), expected)?;
        }
        if is_linked {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        Ok(())
    }

    /// Gives a file that was copied another name.
    fn link(&mut self, other: &Path, target: Place<'_>, there: Option<&Stat>) -> Result<(), Errno> {
        let is_it = statat(&self.root, other, AtFlags::SYMLINK_NOFOLLOW)?;
        if there.is_some_and(|there| (there.st_dev, there.st_ino) == (is_it.st_dev, is_it.st_ino)) {
            return Ok(());
        }
        let draft = draft_name();
        linkat(&self.root, other, target.directory, &draft, AtFlags::empty())?;
        renameat(target.directory, &draft, target.directory, target.name)
    }

    fn put(
        &mut self,
        (source, stat): (Place<'_>, &Stat),
        (target, path): (Place<'_>, &Path),
        expected: Expected,
    ) -> Result<(), Failure> {
        let draft = draft_name();
        let place = Place { directory: target.directory, name: OsStr::new(&draft) };
        let made = self.make(source, place, stat).map_err(failed(path)).and_then(|()| {
            let now = look(target).map_err(failed(path))?;
            let flags = match expected {
                Expected::Nothing => RenameFlags::NOREPLACE,
                _ => RenameFlags::empty(),
            };
            if expected != Expected::Anything && expected != Expected::as_found(now.as_ref()) {
                return Err(changed_meanwhile(path));
            }
            let moved = renameat_with(place.directory, place.name, target.directory, target.name, flags);
            match moved {
                Err(Errno::EXIST) => Err(changed_meanwhile(path)),
                // Not every filesystem can.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    renameat(place.directory, place.name, target.directory, target.name).map_err(failed(path))
                }
                moved => moved.map_err(failed(path)),
            }
        });
        made.inspect_err(|_| {
            let _ = unlinkat(place.directory, place.name, AtFlags::empty());
        })
    }

    fn make(&self, source: Place<'_>, place: Place<'_>, stat: &Stat) -> Result<(), Errno> {
        match kind(stat) {
            FileType::RegularFile => file::copy(source, place, stat, self.is_durable),
            FileType::Symlink => {
                let to = readlinkat(source.directory, source.name, Vec::new())?;
                symlinkat(to, place.directory, place.name)?;
                file::dress_by_name(place, stat)
            }
            other => {
                let mode = Mode::from_raw_mode(stat.st_mode);
                mknodat(place.directory, place.name, other, mode, stat.st_rdev)?;
                file::dress_by_name(place, stat)
            }
        }
    }

    /// The tree.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Makes all that was written to a filesystem durable.
///
/// # Errors
/// What the host answers. It tells once of what failed in a run that was killed: that is not this one's.
pub(crate) fn sync_all(directory: BorrowedFd<'_>) -> Result<(), Failure> {
    let synced =
        syncfs(directory).or_else(|error| if error == Errno::INTR { syncfs(directory) } else { Err(error) });
    synced.map_err(|error| Failure::with_errno("what was written may not be durable", error))
}

/// Removes what a run that was interrupted has not put into its place.
pub(crate) fn remove_drafts(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let is_file = |name: &OsStr| {
        name.as_bytes().strip_prefix(DRAFT.as_bytes()).is_some_and(|rest| rest.starts_with(b"file-"))
    };
    let drafts = names(directory)?.into_iter().filter(|name| is_file(name));
    drafts.into_iter().try_for_each(|name| unlinkat(directory, &name, AtFlags::empty()))
}

/// Removes what is at a place, with all in it.
pub(crate) fn remove(place: Place<'_>) -> Result<(), Errno> {
    match look(place)? {
        None => Ok(()),
        Some(stat) if is_directory(&stat) => {
            let inner = enter(place)?;
            for name in names(inner.as_fd())? {
                remove(Place { directory: inner.as_fd(), name: &name })?;
            }
            unlinkat(place.directory, place.name, AtFlags::REMOVEDIR)
        }
        Some(_) => unlinkat(place.directory, place.name, AtFlags::empty()),
    }
}
