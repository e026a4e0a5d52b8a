//! What the kernel knows of a view, and where directories lie.

use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::tree::Version;
use crate::types::{FileKind, InodeId, Name, ViewId};

impl FsCore {
    /// What an inode is, also one that has lost its last name and is still known to the kernel.
    ///
    /// # Errors
    /// `Stale` when there is none.
    pub fn kind(&self, view: ViewId, ino: InodeId) -> Result<FileKind> {
        self.views.get(view)?.with_inode(ino, |inode| inode.kind())
    }

    /// The names that lead from the root to a directory. Searches the directories on the way: for rare questions.
    ///
    /// # Errors
    /// `Stale` when it is gone, `NotDirectory` when it is none.
    pub fn directory_path(&self, view: ViewId, dir: InodeId) -> Result<Vec<Name>> {
        let version = self.version(view)?;
        let (mut at, mut names) = (dir, Vec::new());
        while at != InodeId::ROOT {
            if let Some((parent, name)) = self.place_below(&version, at) {
                names.push(name);
                at = parent;
                continue;
            }
            let parent = parent_of(&version, at)?;
            let siblings = version.get(parent).and_then(|inode| inode.directory()).ok_or(FsError::Stale)?;
            let name = siblings.iter().find(|(_, entry)| entry.ino() == at).ok_or(FsError::Stale)?.0;
            names.push(name.clone());
            at = parent;
        }
        names.reverse();
        Ok(names)
    }

    /// The directory that names lead to, from the root on.
    ///
    /// # Errors
    /// `NotFound` when they lead to none.
    pub fn find_directory(&self, view: ViewId, names: &[Name]) -> Result<InodeId> {
        if self.lower.is_some() {
            return names.iter().try_fold(InodeId::ROOT, |dir, name| match self.lookup(view, dir, name) {
                Ok(Some(attr)) if attr.kind == FileKind::Directory => Ok(attr.ino),
                _ => Err(FsError::NotFound),
            });
        }
        self.views.get(view)?.read(|version| {
            names.iter().try_fold(InodeId::ROOT, |dir, name| {
                let entry = version.entry(dir, name).ok().flatten();
                let found = entry.filter(|entry| entry.kind() == FileKind::Directory);
                found.map(|entry| entry.ino()).ok_or(FsError::NotFound)
            })
        })?
    }

    /// Shows `directory` each directory of the view that the kernel was told of, and `name` each name in it that leads to
    /// something it was told of.
    pub fn known(
        &self,
        view: ViewId,
        mut directory: impl FnMut(InodeId),
        mut name: impl FnMut(InodeId, &Name),
    ) {
        let Ok(version) = self.version(view) else { return };
        for ino in self.lookups.of_view(view) {
            if let Some(lower) = self.lower.as_ref().filter(|_| ino.is_lower())
                && let Some((parent, its_name, kind)) = lower.place_of(ino)
            {
                if kind == FileKind::Directory {
                    directory(ino);
                }
                name(parent, &its_name);
            }
            let Some(entries) = version.get(ino).and_then(|inode| inode.directory()) else { continue };
            directory(ino);
            for (entry_name, entry) in entries.iter() {
                if self.lookups.remembers(view, entry.ino()) {
                    name(ino, entry_name);
                }
            }
        }
    }

    /// How often the kernel was told of an inode and has not forgotten it.
    pub fn times_remembered(&self, view: ViewId, ino: InodeId) -> u64 {
        self.lookups.times(view, ino)
    }
}

impl FsCore {
    /// Where a file lies that the version only has from below.
    fn place_below(&self, version: &Version, ino: InodeId) -> Option<(InodeId, Name)> {
        let lower = self.lower.as_ref().filter(|_| version.get(ino).is_none())?;
        lower.place_of(ino).map(|(parent, name, _)| (parent, name))
    }
}

fn parent_of(version: &Version, dir: InodeId) -> Result<InodeId> {
    let inode = version.get(dir).ok_or(FsError::Stale)?;
    Ok(inode.directory().ok_or(FsError::NotDirectory)?.parent)
}
