//! `mknod`, `mkdir` and the first half of `create`: a new inode under a new name.

use std::sync::Arc;

use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::store::Content;
use crate::tree::{ACCESS, Acl, Body, DEFAULT, Directory, Entry, Inode, Meta, Times, Xattrs};
use crate::types::{Attr, Caller, FileKind, InodeId, Name, Timestamp, ViewId};

pub(super) const SGID: u16 = 0o2000;

/// The permission bits that are asked for a new file.
#[derive(Clone, Copy)]
pub(super) struct Permissions {
    pub(super) mode: u16,
    pub(super) umask: u16,
}

impl Permissions {
    /// All bits, whatever the umask and the directory: a symlink's.
    pub(super) const ALL: Permissions = Permissions { mode: 0o777, umask: 0 };

    /// Those that a file gets in a directory, and the ACLs that it gets with them.
    fn beneath(self, directory: &Inode, body: &Body) -> Result<(u16, Option<Arc<Xattrs>>)> {
        let default = directory.xattrs.as_ref().and_then(|xattrs| xattrs.get(DEFAULT));
        let Some(default) = default.filter(|_| !matches!(body, Body::Symlink(_))) else {
            return Ok((self.mode & !self.umask, None));
        };
        let mut acl = Acl::parse(default)?;
        let (mode, mut xattrs) = (acl.inherit(self.mode), Xattrs::new());
        if !acl.is_minimal() {
            xattrs.insert(ACCESS.into(), acl.encode());
        }
        if matches!(body, Body::Directory(_)) {
            xattrs.insert(DEFAULT.into(), default.clone());
        }
        Ok((mode, (!xattrs.is_empty()).then(|| Arc::new(xattrs))))
    }
}

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateMode {
    /// A directory, a regular file, or a special file; not a symlink.
    pub kind: FileKind,
    /// Permission bits as asked for.
    pub mode: u16,
    /// Bits to take off, but where the directory has a default ACL: that does it instead.
    pub umask: u16,
    /// Device number, of a device file.
    pub rdev: u32,
}

impl FsCore {
    /// Makes a file, directory or special file.
    ///
    /// # Errors
    /// `Exists`, `NotFound` when the directory was removed, `NotDirectory`, `ReadOnly`, `Stale`, `InvalidArgument`
    /// for a symlink.
    pub fn create(
        &self,
        view: ViewId,
        dir: InodeId,
        name: &Name,
        what: CreateMode,
        who: Caller,
    ) -> Result<Attr> {
        let body = match what.kind {
            FileKind::File => Body::File(Content::Hole),
            FileKind::Directory => Body::Directory(Directory::new(dir)),
            FileKind::Symlink => return Err(FsError::InvalidArgument("a symlink needs a target")),
            special => Body::Special(special, what.rdev),
        };
        let mode = Permissions { mode: what.mode, umask: what.umask };
        self.add_inode(view, (dir, name), self.fresh_inode()?, mode, body, who)
    }

    /// Gives the new inode `ino` the name `place`.
    pub(super) fn add_inode(
        &self,
        view: ViewId,
        place: (InodeId, &Name),
        ino: InodeId,
        mode: Permissions,
        body: Body,
        caller: Caller,
    ) -> Result<Attr> {
        self.change_names(view, &[place], |draft| plan(draft, place, ino, mode, body, caller))
    }
}

fn plan(
    draft: &mut Draft<'_>,
    (dir, name): (InodeId, &Name),
    ino: InodeId,
    mode: Permissions,
    body: Body,
    caller: Caller,
) -> Result<Attr> {
    if draft.entry(dir, name)?.is_some() {
        return Err(FsError::Exists);
    }
    let now = Timestamp::now();
    let inode = new_inode(draft.inode(dir)?, mode, body, caller, now)?;
    let attr = inode.attr(ino);
    draft.put(ino, inode);
    draft.link(dir, name, Entry::new(ino, attr.kind), now)?;
    Ok(attr)
}

/// A file that is made in `directory`.
pub(super) fn new_inode(
    directory: &Inode,
    mode: Permissions,
    body: Body,
    caller: Caller,
    now: Timestamp,
) -> Result<Inode> {
    let parent = directory.meta;
    let inherits = parent.mode & SGID != 0;
    let is_directory = matches!(body, Body::Directory(_));
    let (mode, xattrs) = mode.beneath(directory, &body)?;
    let meta = Meta {
        mode: if inherits && is_directory { mode | SGID } else { mode },
        uid: caller.uid,
        gid: if inherits { parent.gid } else { caller.gid },
        nlink: if is_directory { 2 } else { 1 },
        times: Times::all(now),
        size: 0,
        blocks: 0,
    };
    Ok(Inode { xattrs, ..Inode::new(meta, body) })
}
