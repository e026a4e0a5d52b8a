//! `rename`, replacing or not, and exchanging two names.

use super::create::{Permissions, new_inode};
use super::remove::check_empty;
use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::{Body, Entry, Version};
use crate::types::{Caller, FileKind, InodeId, Name, Timestamp, ViewId};

/// What to do with what the new name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail (`RENAME_NOREPLACE`).
    NoReplace,
    /// Give it the old name (`RENAME_EXCHANGE`).
    Exchange,
    /// Leave a whiteout, a character device with the number 0, at the old name (`RENAME_WHITEOUT`).
    Whiteout {
        /// Whose it is.
        owner: Caller,
        /// Replace what the new name leads to, or fail.
        replace: bool,
    },
}

/// A name in a directory.
type Place<'a> = (InodeId, &'a Name);

impl FsCore {
    /// Moves what `from` names to the name `to`.
    ///
    /// # Errors
    /// `NotFound`, `Exists` (`NoReplace`), `NotEmpty`, `IsDirectory`, `NotDirectory`, `InvalidArgument` when a
    /// directory would come to lie in itself, `ReadOnly`, `Stale`.
    pub fn rename(&self, view: ViewId, from: Place<'_>, to: Place<'_>, mode: RenameMode) -> Result<()> {
        self.change_names(view, &[from, to], |draft| {
            let moved = draft.existing(from.0, from.1)?;
            let target = draft.entry(to.0, to.1)?;
            check_not_into_itself(draft.version(), moved, to.0)?;
            match (mode, target) {
                (RenameMode::NoReplace | RenameMode::Whiteout { replace: false, .. }, Some(_)) => {
                    return Err(FsError::Exists);
                }
                (RenameMode::Exchange, None) => return Err(FsError::NotFound),
                (RenameMode::Exchange, Some(target)) => {
                    return exchange(draft, (from, moved), (to, target));
                }
                // Two names of one file: POSIX leaves both.
                (_, Some(target)) if moved.ino() == target.ino() => return Ok(()),
                (_, Some(target)) => replace(draft, (from, moved), (to, target))?,
                (_, None) => relocate(draft, (from, moved), to)?,
            }
            if let RenameMode::Whiteout { owner, .. } = mode {
                put_whiteout(draft, from, self.fresh_inode()?, owner)?;
            }
            Ok(())
        })
    }
}

/// Refuses to move a directory into itself or below.
fn check_not_into_itself(version: &Version, moved: Entry, into: InodeId) -> Result<()> {
    let mut at = into;
    while moved.kind() == FileKind::Directory {
        if at == moved.ino() {
            return Err(FsError::InvalidArgument("a directory cannot be moved into itself"));
        }
        if at == InodeId::ROOT {
            break;
        }
        at = version.get(at).and_then(|inode| inode.directory()).ok_or(FsError::Stale)?.parent;
    }
    Ok(())
}

fn relocate(draft: &mut Draft<'_>, (from, moved): (Place<'_>, Entry), to: Place<'_>) -> Result<()> {
    let now = Timestamp::now();
    draft.unlink(from.0, from.1, moved, now)?;
    draft.link(to.0, to.1, moved, now)?;
    settle(draft, moved, from.0, to.0, now)
}

/// What a moved inode itself notices.
fn settle(draft: &mut Draft<'_>, moved: Entry, from: InodeId, to: InodeId, now: Timestamp) -> Result<()> {
    if from != to && moved.kind() == FileKind::Directory {
        draft.set_parent(moved.ino(), to);
    }
    draft.meta(moved.ino())?.times.ctime = now;
    Ok(())
}

fn replace(
    draft: &mut Draft<'_>,
    source: (Place<'_>, Entry),
    (to, target): (Place<'_>, Entry),
) -> Result<()> {
    let moved = source.1;
    match (moved.kind(), target.kind()) {
        (FileKind::Directory, FileKind::Directory) => check_empty(draft, target)?,
        (FileKind::Directory, _) => return Err(FsError::NotDirectory),
        (_, FileKind::Directory) => return Err(FsError::IsDirectory),
        _ => {}
    }
    let now = Timestamp::now();
    draft.unlink(to.0, to.1, target, now)?;
    draft.release(target, now)?;
    draft.replaces(moved.ino());
    relocate(draft, source, to)
}

/// Puts a whiteout where a name was taken away.
fn put_whiteout(draft: &mut Draft<'_>, (dir, name): Place<'_>, ino: InodeId, owner: Caller) -> Result<()> {
    let now = Timestamp::now();
    let body = Body::Special(FileKind::CharDevice, 0);
    let what = Permissions { mode: 0, umask: 0 };
    let inode = new_inode(draft.inode(dir)?, what, body, owner, now)?;
    draft.put(ino, inode);
    draft.link(dir, name, Entry::new(ino, FileKind::CharDevice), now)?;
    Ok(())
}

fn exchange(draft: &mut Draft<'_>, a: (Place<'_>, Entry), b: (Place<'_>, Entry)) -> Result<()> {
    let ((place_a, entry_a), (place_b, entry_b)) = (a, b);
    check_not_into_itself(draft.version(), entry_b, place_a.0)?;
    if entry_a.ino() == entry_b.ino() {
        return Ok(());
    }
    let now = Timestamp::now();
    draft.unlink(place_a.0, place_a.1, entry_a, now)?;
    draft.unlink(place_b.0, place_b.1, entry_b, now)?;
    draft.link(place_a.0, place_a.1, entry_b, now)?;
    draft.link(place_b.0, place_b.1, entry_a, now)?;
    settle(draft, entry_a, place_a.0, place_b.0, now)?;
    settle(draft, entry_b, place_b.0, place_a.0, now)
}
