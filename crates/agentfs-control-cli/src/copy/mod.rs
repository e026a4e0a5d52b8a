//! Copying trees of files, each whole or not at all: under another name first, which then takes its place. Attributes, times,
//! owners, extended attributes, holes and hard links are kept. What is there already, the same, is left alone, so that a run
//! that was interrupted is finished by the next. All places are reached through their directories: no link leads elsewhere.

mod compare;
mod file;
mod progress;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::fs::{
    linkat, mkdirat, mknodat, openat2, readlinkat, renameat, statat, symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

pub(crate) use self::compare::{Sameness, compare, has_same_attributes, has_same_content};
pub(crate) use self::file::dress_directory;
pub(crate) use self::progress::Progress;
use crate::failure::Failure;
use crate::interrupt;

/// How names begin under which files are made, with 16 hexadecimal digits after it; what is left of a run that was interrupted
/// goes with the next.
const DRAFT: &str = ".agentfs-draft-file-";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name in a directory.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
}

/// Which paths are left out.
pub(crate) type LeftOut<'a> = &'a dyn Fn(&Path, bool) -> bool;

/// Copies files to one tree.
pub(crate) struct Copier<'a> {
    /// The tree that is copied to.
    root: OwnedFd,
    left_out: LeftOut<'a>,
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
    format!("{DRAFT}{:016x}", RandomState::new().build_hasher().finish())
}

/// Is it a file that a run has not put into its place? Whatever else is called nearly so is somebody's.
pub(crate) fn is_draft(name: &OsStr) -> bool {
    let rest = name.as_bytes().strip_prefix(DRAFT.as_bytes());
    rest.is_some_and(|rest| rest.len() == 16 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// The failure of a file, by its path.
pub(crate) fn failed(path: &Path) -> impl Fn(Errno) -> Failure {
    move |error| match interrupt::check() {
        Err(interrupted) if error == Errno::INTR => interrupted,
        _ => Failure::with_errno(format!("{} cannot be copied", path.display()), error),
    }
}

impl<'a> Copier<'a> {
    /// To the tree at `root`.
    pub(crate) fn new(root: OwnedFd, left_out: LeftOut<'a>, progress: Progress) -> Self {
        Self { root, left_out, links: HashMap::new(), progress }
    }

    /// Copies what is in one directory to another, at `path` in the tree; its own attributes too.
    pub(crate) fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        path: &Path,
    ) -> Result<(), Failure> {
        remove_drafts(target).map_err(failed(path))?;
        for name in names(source).map_err(failed(path))? {
            let (from, to) =
                (Place { directory: source, name: &name }, Place { directory: target, name: &name });
            self.copy(from, to, &path.join(&name))?;
        }
        file::dress_directory(source, target).map_err(failed(path))
    }

    /// Copies a file, or a directory with all in it, to `path` in the tree. A directory there is kept, and what it has beside.
    fn copy(&mut self, source: Place<'_>, target: Place<'_>, path: &Path) -> Result<(), Failure> {
        interrupt::check()?;
        let Some(stat) = look(source).map_err(failed(path))? else { return Ok(()) };
        if is_draft(source.name) || (self.left_out)(path, is_directory(&stat)) {
            return Ok(());
        }
        let there = look(target).map_err(failed(path))?;
        self.progress.count(path);
        if is_directory(&stat) {
            if !there.as_ref().is_some_and(is_directory) {
                remove(target).map_err(failed(path))?;
                mkdirat(target.directory, target.name, Mode::RWXU).map_err(failed(path))?;
            }
            let (source, target) =
                (enter(source).map_err(failed(path))?, enter(target).map_err(failed(path))?);
            return self.directory(source.as_fd(), target.as_fd(), path);
        }
        let is_linked = stat.st_nlink > 1;
        let other = self.links.get(&(stat.st_dev, stat.st_ino)).filter(|_| is_linked).cloned();
        if let Some(other) = other {
            return self.link(&other, target, there.as_ref()).map_err(failed(path));
        }
        let is_there = match &there {
            // What has other names here may be another file's too.
            Some(there) if is_linked || there.st_nlink == 1 => {
                compare((source, &stat), (target, there)).map_err(failed(path))? == Sameness::Same
            }
            _ => false,
        };
        if !is_there {
            self.put((source, &stat), target).map_err(failed(path))?;
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

    fn put(&self, (source, stat): (Place<'_>, &Stat), target: Place<'_>) -> Result<(), Errno> {
        let draft = draft_name();
        let place = Place { directory: target.directory, name: OsStr::new(&draft) };
        let moved = make(source, place, stat).and_then(|()| {
            if look(target)?.as_ref().is_some_and(is_directory) {
                remove(target)?;
            }
            renameat(place.directory, place.name, target.directory, target.name)
        });
        moved.inspect_err(|_| {
            let _ = unlinkat(place.directory, place.name, AtFlags::empty());
        })
    }

    /// The tree.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Makes a copy of a file that is not a directory, where nothing is.
///
/// # Errors
/// What the host answers; `INTR` when the command was told to end. A part of it may be there.
pub(crate) fn make(source: Place<'_>, place: Place<'_>, stat: &Stat) -> Result<(), Errno> {
    match kind(stat) {
        FileType::RegularFile => file::copy(source, place, stat),
        FileType::Symlink => {
            let to = readlinkat(source.directory, source.name, Vec::new())?;
            symlinkat(to, place.directory, place.name)?;
            file::dress_by_name(source, place, stat)
        }
        other => {
            let mode = Mode::from_raw_mode(stat.st_mode);
            mknodat(place.directory, place.name, other, mode, stat.st_rdev)?;
            file::dress_by_name(source, place, stat)
        }
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
    let drafts = names(directory)?.into_iter().filter(|name| is_draft(name));
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
