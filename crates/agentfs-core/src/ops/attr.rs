//! `getattr` and `setattr`.

use super::privileges::{self, Strip};
use crate::branch::Draft;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::handle::{LayeredSource, Source};
use crate::tree::{ACCESS, Acl};
use crate::types::{Attr, Caller, FileKind, InodeId, SetAttr, SetTime, Timestamp, ViewId};

impl FsCore {
    /// What `stat` shows.
    ///
    /// # Errors
    /// `Stale`.
    pub fn getattr(&self, view: ViewId, ino: InodeId) -> Result<Attr> {
        self.refresh_inode(view, ino)?;
        let mut attr = self.views.get(view)?.with_inode(ino, |inode| inode.attr(ino))?;
        // Programs take a file without space for zeros and read nothing of it.
        if attr.is_all_hole() && self.open_files.get(view, ino).is_some_and(|file| file.may_have_unwritten())
        {
            attr.blocks = 1;
        }
        Ok(attr)
    }

    /// Changes attributes, all of them or none, and answers what they are then. The kernel has checked that
    /// the caller may.
    ///
    /// # Errors
    /// `Stale`, `ReadOnly`; for a new size also `IsDirectory`, `FileTooLarge` and what the store answers.
    pub fn setattr(&self, view: ViewId, ino: InodeId, set: &SetAttr, caller: Caller) -> Result<Attr> {
        self.copy_up(view, ino)?;
        if let Some(size) = set.size {
            self.truncate(view, ino, size, caller)?;
        }
        self.refresh_inode(view, ino)?;
        let ctime = set.ctime.map(|ctime| ctime.max(self.last_written(view, ino)));
        let attributes = SetAttr { size: None, ctime, ..*set };
        if set.size.is_none() || attributes != SetAttr::default() {
            self.change(view, |draft| plan(draft, ino, &attributes, caller))?;
        }
        self.getattr(view, ino)
    }

    /// When the object of a file that is written in place was. Whoever chooses a ctime by himself, as a kernel with a
    /// cache does, may have looked at the clock before he wrote: the next mount would take the write for a later one.
    fn last_written(&self, view: ViewId, ino: InodeId) -> Timestamp {
        let Some(file) = self.open_files.get(view, ino) else { return Timestamp::default() };
        let source = file.source.read();
        let object = match &*source {
            Source::Object(_, object) => object,
            Source::Layered(LayeredSource { top: Some(top), .. }) => &top.open,
            _ => return Timestamp::default(),
        };
        object.stat().map_or(Timestamp::default(), |stat| stat.modified)
    }
}

fn plan(draft: &mut Draft<'_>, ino: InodeId, set: &SetAttr, caller: Caller) -> Result<()> {
    let now = Timestamp::now();
    let chosen = |time: SetTime| if let SetTime::At(time) = time { time } else { now };
    let is_directory = draft.inode(ino)?.kind() == FileKind::Directory;
    let changes_owner = set.uid.is_some() || set.gid.is_some();
    if (*set == SetAttr::default() || changes_owner) && !is_directory {
        // A change of owner takes suid from anybody's.
        privileges::strip(draft, ino, Strip::by(caller).max(Strip::Ids))?;
    }
    if let Some(mode) = set.mode {
        chmod_acl(draft, ino, mode)?;
    }
    let meta = draft.meta(ino)?;
    meta.uid = set.uid.unwrap_or(meta.uid);
    meta.gid = set.gid.unwrap_or(meta.gid);
    meta.mode = set.mode.unwrap_or(meta.mode);
    meta.times.atime = set.atime.map_or(meta.times.atime, chosen);
    meta.times.mtime = set.mtime.map_or(meta.times.mtime, chosen);
    meta.times.ctime = set.ctime.unwrap_or(now);
    Ok(())
}

/// What the permission bits say, the ACL says too.
fn chmod_acl(draft: &mut Draft<'_>, ino: InodeId, mode: u16) -> Result<()> {
    let mut xattrs = draft.xattrs(ino)?;
    if let Some(value) = xattrs.get_mut(ACCESS) {
        let mut acl = Acl::parse(value)?;
        acl.chmod(mode);
        *value = acl.encode();
        draft.set_xattrs(ino, xattrs);
    }
    Ok(())
}
