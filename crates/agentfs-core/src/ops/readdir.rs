//! `readdir`.

use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::{Directory, Version};
use crate::types::{Attr, FileKind, InodeId, Name, ViewId};

/// A name in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The inode.
    pub ino: InodeId,
    /// Its kind.
    pub kind: FileKind,
    /// The name; `.` and `..` are listed too.
    pub name: &'a [u8],
    /// Where to resume behind it.
    pub position: u64,
}

impl FsCore {
    /// Shows `visit` the entries of `dir` after `position` (0: from the start) until it answers false.
    /// An entry that is there all the while is shown once, whatever changes meanwhile.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`.
    pub fn readdir(
        &self,
        view: ViewId,
        dir: InodeId,
        position: u64,
        visit: impl FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        if let Some(directory) = self.merged(view, dir)? {
            list_from(&directory, dir, position, visit);
            return Ok(());
        }
        self.list(view, dir, |directory, _| list_from(directory, dir, position, visit))
    }

    /// As [`FsCore::readdir`], with attributes; not for `.` and `..`.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`.
    pub fn readdirplus(
        &self,
        view: ViewId,
        dir: InodeId,
        position: u64,
        mut visit: impl FnMut(DirEntry<'_>, Option<Attr>) -> bool,
    ) -> Result<()> {
        self.refresh_view(view)?;
        if let Some(directory) = self.merged(view, dir)? {
            list_from(&directory, dir, position, |entry| {
                let found = Name::new(entry.name).ok().and_then(|name| self.lookup(view, dir, &name).ok()?);
                visit(DirEntry { ino: found.map_or(entry.ino, |attr| attr.ino), ..entry }, found)
            });
            return Ok(());
        }
        self.list(view, dir, |directory, version| {
            list_from(directory, dir, position, |entry| {
                let is_dot = matches!(entry.name, b"." | b"..");
                let inode = (!is_dot).then(|| version.get(entry.ino)).flatten();
                let mut attr = inode.map(|inode| inode.attr(entry.ino));
                if let Some(attr) = attr.as_mut().filter(|attr| attr.is_all_hole())
                    && self.open_files.get(view, entry.ino).is_some_and(|file| file.may_have_unwritten())
                {
                    attr.blocks = 1;
                }
                visit(entry, attr)
            });
        })
    }

    /// What a directory shows that lies over one below; `None` for all others.
    fn merged(&self, view: ViewId, dir: InodeId) -> Result<Option<Directory>> {
        if self.lower.is_none() {
            return Ok(None);
        }
        let (is_over, directory) = self.shown_in(view, dir)?;
        Ok(is_over.then_some(directory))
    }

    fn list(&self, view: ViewId, dir: InodeId, f: impl FnOnce(&Directory, &Version)) -> Result<()> {
        let tree = self.views.get(view)?;
        tree.read(|version| match version.get(dir) {
            Some(inode) => {
                f(inode.directory().ok_or(FsError::NotDirectory)?, version);
                Ok(true)
            }
            None => Ok(false),
        })?
        .and_then(|found| if found { Ok(()) } else { tree.with_inode(dir, |_| ()) })
    }
}

fn list_from(
    directory: &Directory,
    dir: InodeId,
    position: u64,
    mut visit: impl FnMut(DirEntry<'_>) -> bool,
) {
    let kind = FileKind::Directory;
    let dots = [(1, &b"."[..], dir), (2, &b".."[..], directory.parent)];
    for (at, name, ino) in dots.into_iter().filter(|(at, ..)| *at > position) {
        if !visit(DirEntry { ino, kind, name, position: at }) {
            return;
        }
    }
    for (at, name, entry) in directory.after(position.max(2)) {
        let (ino, kind) = (entry.ino(), entry.kind());
        if !visit(DirEntry { ino, kind, name: name.as_bytes(), position: at }) {
            return;
        }
    }
}
