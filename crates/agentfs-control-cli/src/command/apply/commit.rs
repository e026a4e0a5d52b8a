//! Carrying out what the journal says, by the run that wrote it or, if that was killed, by the next. Each step looks again
//! whether what it meets is what was found.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agentfs_proto::record::{TokenEntry, WrittenEntry};
use rustix::fs::{
    AtFlags, Mode, RenameFlags, StatxAttributes, StatxFlags, fchmod, fstat, linkat, mkdirat, renameat,
    renameat_with, statx, unlinkat,
};
use rustix::io::Errno;

use super::journal::{FileState, Journal, Note, Step, StoredPath, inode_number};
use super::reliance::token_of;
use super::stage::Stage;
use crate::copy::{Place, dress_directory, enter, enter_path, failed, is_directory, look, sync_all};
use crate::failure::Failure;
use crate::output::shown;

/// What came of it.
#[derive(Default)]
pub(super) struct Outcome {
    /// What the branch relies on now.
    pub(super) written: Vec<WrittenEntry>,
    /// Files that have other change tokens.
    pub(super) tokens: Vec<TokenEntry>,
    /// Paths that others changed since they were looked at: they are as those left them.
    pub(super) skipped: Vec<PathBuf>,
}

/// Carries out what the journal says.
///
/// # Errors
/// What the host answers; the next run goes on.
pub(super) fn commit(root: BorrowedFd<'_>, stage: &Stage<'_>, journal: &Journal) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    for step in &journal.steps {
        let path = path_of(step).get();
        let done = carry_out(root, stage, step, &path).map_err(failed(&path))?;
        if !done {
            outcome.skipped.push(path);
        }
    }
    sync_all(root)?;
    for step in &journal.steps {
        outcome.written.extend(written(root, step).map_err(failed(&path_of(step).get()))?);
    }
    for note in &journal.notes {
        outcome.written.extend(noted(root, note).map_err(failed(Path::new(".")))?);
    }
    for (path, found) in &journal.linked {
        outcome.tokens.extend(moved(root, path, found).map_err(failed(&path.get()))?);
    }
    Ok(outcome)
}

/// Looks whether anything that is to be changed cannot be, whoever asks, before the first of it is.
///
/// # Errors
/// Which path it is, and why; what the host answers.
pub(super) fn check(root: BorrowedFd<'_>, journal: &Journal) -> Result<(), Failure> {
    let mut looked_at = HashSet::new();
    for path in journal.steps.iter().map(|step| path_of(step).get()) {
        let above = path.parent().unwrap_or(Path::new("")).to_owned();
        for (path, is_above) in [(above, true), (path, false)] {
            if !looked_at.insert((path.clone(), is_above)) {
                continue;
            }
            let name = if path.as_os_str().is_empty() { Path::new(".") } else { &path };
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            let stat = match statx(root, name, flags, StatxFlags::BASIC_STATS) {
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                stat => stat.map_err(failed(&path))?,
            };
            let has = |attribute: StatxAttributes| stat.stx_attributes.contains(attribute);
            let why = if has(StatxAttributes::IMMUTABLE) || has(StatxAttributes::APPEND) {
                "is immutable, or may only be appended to (chattr)"
            } else if !is_above && has(StatxAttributes::MOUNT_ROOT) {
                "has something mounted on it"
            } else {
                continue;
            };
            return Err(Failure::new(format!(
                "{} in the target directory {why}: nothing was written",
                shown(path.as_os_str().as_bytes())
            )));
        }
    }
    Ok(())
}

/// All paths that it changes, or moves.
pub(super) fn paths(journal: &Journal) -> Vec<PathBuf> {
    let linked = journal.linked.iter().map(|(path, _)| path.get());
    journal.steps.iter().map(|step| path_of(step).get()).chain(linked).collect()
}

fn path_of(step: &Step) -> &StoredPath {
    match step {
        Step::Link { from: path, .. }
        | Step::Unlock { path }
        | Step::Remove { path, .. }
        | Step::RemoveDirectory { path }
        | Step::MakeDirectory { path }
        | Step::Put { path, .. }
        | Step::Dress { path, .. } => path,
    }
}

/// The directory that a path lies in, and its name there; `None` when there is none.
fn above<'a>(root: BorrowedFd<'_>, path: &'a Path) -> Result<Option<(OwnedFd, &'a OsStr)>, Errno> {
    let Some(name) = path.file_name() else { return Ok(None) };
    Ok(enter_path(root, path.parent().unwrap_or(Path::new("")))?.map(|above| (above, name)))
}

/// Does one step unless it is done. Returns false where others were there.
fn carry_out(root: BorrowedFd<'_>, stage: &Stage<'_>, step: &Step, path: &Path) -> Result<bool, Errno> {
    if let Step::Dress { staged, .. } = step {
        return dress(root, stage, *staged, path);
    }
    if let Step::Unlock { .. } = step {
        return unlock(root, path);
    }
    let Some((above, name)) = above(root, path)? else {
        // With what it was in, or with the directory that could not be made.
        return Ok(matches!(step, Step::Remove { .. } | Step::RemoveDirectory { .. }));
    };
    let target = Place { directory: above.as_fd(), name };
    match step {
        Step::Link { found, staged, .. } => link(stage, target, found, *staged),
        Step::Remove { found, .. } => remove_file(target, found),
        Step::RemoveDirectory { .. } => remove_directory(target),
        Step::MakeDirectory { .. } => match mkdirat(target.directory, target.name, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(look(target)?.is_some_and(|there| is_directory(&there))),
            Err(error) => Err(error),
        },
        Step::Put { staged, ino, found, .. } => put(stage, target, (*staged, *ino), found.as_ref()),
        Step::Dress { .. } | Step::Unlock { .. } => Ok(true),
    }
}

fn link(stage: &Stage<'_>, from: Place<'_>, found: &FileState, staged: u64) -> Result<bool, Errno> {
    let name = Stage::name(staged);
    let to = Place { directory: stage.directory(), name: &name };
    if look(to)?.is_some() {
        return Ok(true);
    }
    if !look(from)?.is_some_and(|there| found.holds(&there)) {
        // It may have been moved to its place already: that is looked at there.
        return Ok(true);
    }
    linkat(from.directory, from.name, to.directory, to.name, AtFlags::empty())?;
    Ok(true)
}

fn remove_file(target: Place<'_>, found: &FileState) -> Result<bool, Errno> {
    match look(target)? {
        None => Ok(true),
        Some(there) if found.holds(&there) => {
            unlinkat(target.directory, target.name, AtFlags::empty()).map(|()| true)
        }
        Some(_) => Ok(false),
    }
}

fn remove_directory(target: Place<'_>) -> Result<bool, Errno> {
    match look(target)? {
        Some(there) if is_directory(&there) => {
            match unlinkat(target.directory, target.name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => Ok(false),
                removed => removed.map(|()| true),
            }
        }
        // It was removed, and a file was put there.
        _ => Ok(true),
    }
}

fn put(
    stage: &Stage<'_>,
    target: Place<'_>,
    (staged, ino): (u64, u64),
    found: Option<&FileState>,
) -> Result<bool, Errno> {
    let name = Stage::name(staged);
    let there = look(target)?;
    let is_done = there.as_ref().is_some_and(|there| there.st_ino == ino);
    let from = Place { directory: stage.directory(), name: &name };
    match look(from)? {
        None => return Ok(is_done),
        // Two names of one file: a rename would leave both.
        Some(_) if is_done => return unlinkat(from.directory, from.name, AtFlags::empty()).map(|()| true),
        Some(prepared) if prepared.st_ino != ino => return Ok(false),
        Some(_) => {}
    }
    match (found, there) {
        (None, Some(_)) => Ok(false),
        (Some(found), Some(there)) if !found.holds(&there) => Ok(false),
        (Some(_), None) => Ok(false),
        (Some(_), Some(_)) => {
            renameat(from.directory, from.name, target.directory, target.name).map(|()| true)
        }
        (None, None) => {
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(from.directory, from.name, target.directory, target.name, flags) {
                Err(Errno::EXIST) => Ok(false),
                // Not every filesystem can.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    renameat(from.directory, from.name, target.directory, target.name).map(|()| true)
                }
                moved => moved.map(|()| true),
            }
        }
    }
}

fn unlock(root: BorrowedFd<'_>, path: &Path) -> Result<bool, Errno> {
    let Some(directory) = enter_path(root, path)? else { return Ok(true) };
    let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode);
    fchmod(&directory, mode | Mode::RWXU).map(|()| true)
}

fn dress(root: BorrowedFd<'_>, stage: &Stage<'_>, staged: u64, path: &Path) -> Result<bool, Errno> {
    let name = Stage::name(staged);
    let from = enter(Place { directory: stage.directory(), name: &name })?;
    let Some(directory) = enter_path(root, path)? else { return Ok(false) };
    dress_directory(from.as_fd(), directory.as_fd()).map(|()| true)
}

/// What is to be noted of a step that is done.
fn written(root: BorrowedFd<'_>, step: &Step) -> Result<Option<WrittenEntry>, Errno> {
    let path = path_of(step).get();
    let there = match above(root, &path)? {
        Some((above, name)) => look(Place { directory: above.as_fd(), name })?,
        None => None,
    };
    Ok(match step {
        Step::Put { ino, source, .. } => {
            there.filter(|there| there.st_ino == *ino).map(|there| WrittenEntry {
                inode: source.ino,
                token: token_of(&there),
                changed: source.time(),
                is_new: true,
                ..entry(&path, b"file")
            })
        }
        Step::Remove { .. } | Step::RemoveDirectory { .. } => {
            there.is_none().then(|| entry(&path, b"removed"))
        }
        Step::Dress { ino, is_new, .. } => {
            let (inode, is_new) = (inode_number(*ino), *is_new);
            Some(WrittenEntry { inode, is_new, ..entry(&path, b"directory") })
        }
        Step::MakeDirectory { .. } | Step::Link { .. } | Step::Unlock { .. } => None,
    })
}

fn noted(root: BorrowedFd<'_>, note: &Note) -> Result<Option<WrittenEntry>, Errno> {
    let look_at = |path: &Path| match above(root, path)? {
        Some((above, name)) => look(Place { directory: above.as_fd(), name }),
        None => Ok(None),
    };
    Ok(match note {
        Note::Directory { path, ino } => {
            Some(WrittenEntry { inode: inode_number(*ino), ..entry(&path.get(), b"directory") })
        }
        Note::Removed { path } => {
            let path = path.get();
            look_at(&path)?.is_none().then(|| entry(&path, b"removed"))
        }
        Note::File { path, found, source } => {
            let path = path.get();
            let there = look_at(&path)?.filter(|there| found.holds(there));
            there.map(|there| WrittenEntry {
                inode: source.ino,
                token: token_of(&there),
                changed: source.time(),
                ..entry(&path, b"file")
            })
        }
    })
}

/// A file that has another change token than it was found with, and is what it was.
fn moved(root: BorrowedFd<'_>, path: &StoredPath, found: &FileState) -> Result<Option<TokenEntry>, Errno> {
    let path = path.get();
    let Some((above, name)) = above(root, &path)? else { return Ok(None) };
    let there = look(Place { directory: above.as_fd(), name })?;
    let there = there.filter(|there| found.has_content_of(there)).map(|there| token_of(&there));
    let now = there.filter(|now| *now != found.token);
    Ok(now.map(|now| TokenEntry { path: path.as_os_str().as_bytes().to_vec(), before: found.token, now }))
}

fn entry(path: &Path, kind: &[u8]) -> WrittenEntry {
    let (path, kind) = (path.as_os_str().as_bytes().to_vec(), kind.to_vec());
    WrittenEntry { path, kind, is_new: false, inode: 0, token: 0, changed: None }
}
