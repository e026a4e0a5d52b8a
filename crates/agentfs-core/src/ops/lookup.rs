//! `lookup`: a name in a directory.

use super::lower::Found;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::types::{Attr, InodeId, Name, ViewId};

impl FsCore {
    /// The attributes of what `name` leads to in the directory `dir`; `None` when there is no such name.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`, `Changed`.
    pub fn lookup(&self, view: ViewId, dir: InodeId, name: &Name) -> Result<Option<Attr>> {
        if self.lower.is_some() {
            match self.name_in_layers(view, dir, name)? {
                Found::Own => {}
                Found::Nothing => return Ok(None),
                Found::Held(ino) => return self.getattr(view, ino).map(Some),
                Found::Below(ino, inode) => return Ok(Some(inode.attr(ino))),
            }
        }
        let tree = self.views.get(view)?;
        let found = tree.read(|version| {
            let Some(entry) = version.entry(dir, name)? else { return Ok(None) };
            let inode = version.get(entry.ino()).ok_or(FsError::Stale)?;
            Ok(Some(inode.attr(entry.ino())))
        })?;
        if let Ok(Some(attr)) = &found
            && (self.direct.any_writers() || attr.is_all_hole())
        {
            return self.getattr(view, attr.ino).map(Some);
        }
        match found {
            // A removed directory that somebody still stands in has no names.
            Err(FsError::Stale) => tree.with_inode(dir, |_| None),
            found => found,
        }
    }
}
