//! `mknod`, `mkdir` and the first half of `create`: a new inode under a new name.

use crate::branch::Draft;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::store::Content;
use crate::tree::{Body, Directory, Entry, Inode, Meta, Times};
use crate::types::{Attr, Caller, FileKind, InodeId, Name, Timestamp, ViewId};

const SGID: u16 = 0o2000;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateMode {
    /// A directory, a regular file, or a special file; not a symlink.
    pub kind: FileKind,
    /// Permission bits, the umask already taken off.
    pub mode: u16,
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
        self.add_inode(view, (dir, name), self.fresh_inode()?, what.mode, body, who)
    }

    /// Gives the new inode `ino` the name `place`.
    pub(super) fn add_inode(
        &self,
        view: ViewId,
        place: (InodeId, &Name),
        ino: InodeId,
        mode: u16,
        body: Body,
        caller: Caller,
    ) -> Result<Attr> {
        self.change(view, |draft| plan(draft, place, ino, mode, body, caller))
    }
}

fn plan(
    draft: &mut Draft<'_>,
    (dir, name): (InodeId, &Name),
    ino: InodeId,
    mode: u16,
    body: Body,
    caller: Caller,
) -> Result<Attr> {
    if draft.entry(dir, name)?.is_some() {
        return Err(FsError::Exists);
    }
    let now = Timestamp::now();
    let parent = draft.inode(dir)?.meta;
    let inherits = parent.mode & SGID != 0;
    let is_directory = matches!(body, Body::Directory(_));
    let meta = Meta {
        mode: if inherits && is_directory { mode | SGID } else { mode },
        uid: caller.uid,
        gid: if inherits { parent.gid } else { caller.gid },
        nlink: if is_directory { 2 } else { 1 },
        times: Times::all(now),
        size: 0,
        blocks: 0,
    };
    let inode = Inode { meta, body, xattrs: None };
    let attr = inode.attr(ino);
    draft.link(dir, name, Entry::new(ino, attr.kind), now)?;
    draft.put(ino, inode);
    Ok(attr)
}
