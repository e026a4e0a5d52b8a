//! Attributes, plain and extended: of a node, as who asks has it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::{
    Attr, Caller, FileKind, FsError, InodeId, Result, SetAttr, Strip, ViewId, Writing, XattrMode, is_acl,
};
use fuser::{INodeNo, ReplyAttr, WriteFlags};

use super::Adapter;
use super::caller::caller;
use super::reply;
use crate::views::{Node, NodeId, Split};

impl Adapter {
    /// What else a write does, as the kernel says. What it writes back in the write-back mode it dates by itself.
    pub(super) fn writing(&self, req: &fuser::Request, ino: INodeNo, flags: WriteFlags) -> Writing {
        let strip = match flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            true if self.changer(req, ino).is_member => Strip::Ids,
            true => Strip::AllIds,
            false => Strip::Nothing,
        };
        let is_kept = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        Writing { strip, is_whole: is_kept, is_late: is_kept && self.wishes.write_back }
    }

    /// The attributes of a node, as who asks has them, and the number that it sees.
    pub(super) fn attributes(&self, req: &fuser::Request, ino: INodeNo) -> Result<(NodeId, Attr)> {
        let node = NodeId::from(ino);
        if let Node::Special(view, special) = node.node() {
            return Ok((node, self.synthetic.attr(view, special)));
        }
        match self.tree(req, ino) {
            Ok((view, inode)) => self.as_shown(ino, view, self.core.getattr(view, inode)?),
            // A directory that the branch of who asks does not have, and in which a process of it stands all the same, is as
            // one that was removed: there is nothing in it, nothing can be made in it, and there is a way out.
            Err(FsError::NotFound) => {
                Ok((node, Attr { mode: 0o777, ..reply::plain(InodeId::ROOT, FileKind::Directory) }))
            }
            Err(error) => Err(error),
        }
    }

    /// The kernel has one mode and owner for the mount point: main's. A directory has one number in its branch, whichever node it
    /// is known by for now.
    fn as_shown(&self, ino: INodeNo, view: ViewId, attr: Attr) -> Result<(NodeId, Attr)> {
        let node = NodeId::from(ino);
        if node != NodeId::MOUNT_POINT {
            let is_directory = attr.kind == FileKind::Directory;
            return Ok((if is_directory { NodeId::of(view, attr.ino) } else { node }, attr));
        }
        let main = match view {
            ViewId::MAIN => attr,
            _ => self.core.getattr(ViewId::MAIN, InodeId::ROOT)?,
        };
        Ok((node, Attr { mode: main.mode, uid: main.uid, gid: main.gid, ..attr }))
    }

    pub(super) fn set_attributes(&self, req: &fuser::Request, ino: INodeNo, set: SetAttr, reply: ReplyAttr) {
        let (caller, place) = (self.changer(req, ino), self.tree(req, ino));
        // Cutting shared content copies what is kept. What can be cut is a file.
        if set.size.is_some_and(|size| size > 0) {
            let (core, keep) = (self.core.clone(), self.caching.ttl().attr);
            return self.pool.submit(0, move || {
                let changes = place.as_ref().is_ok_and(|(view, file)| core.is_written_directly(*view, *file));
                let keep = if changes { Duration::ZERO } else { keep };
                let result = place.and_then(|(view, file)| core.setattr(view, file, &set, caller));
                reply::attr(reply, |_| keep, result.map(|attr| (ino.into(), attr)));
            });
        }
        let keep = self.caching.hold();
        let result = place.and_then(|place| {
            let now = self.core.getattr(place.0, place.1)?;
            let other = |new: Option<u32>, now: u32| new.is_some_and(|new| new != now);
            let changes = set.mode.is_some_and(|mode| mode != now.mode);
            let changes = changes || other(set.uid, now.uid) || other(set.gid, now.gid);
            if changes {
                self.may_change_face(ino, place)?;
            }
            let attr = self.core.setattr(place.0, place.1, &set, caller)?;
            if changes {
                self.pid_view.face_changed(ino.into(), place.0, &attr);
            }
            self.as_shown(ino, place.0, attr)
        });
        reply::attr(reply, |attr| keep.attr(ino.into(), attr), result);
    }

    /// May mode, owner or ACL be changed under this node? `Stale` has the kernel look it up once more.
    fn may_change_face(&self, ino: INodeNo, (view, inode): (ViewId, InodeId)) -> Result<()> {
        match self.pid_view.split_face(ino.into(), view, inode)? {
            Split::NotNeeded => Ok(()),
            Split::LookUpAgain => Err(FsError::Stale),
        }
    }

    /// The value of an extended attribute; the volume's own directories have none.
    pub(super) fn xattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr) -> Result<Arc<[u8]>> {
        let (view, inode) = match self.tree(req, ino) {
            // Of a directory that the branch does not have the kernel asks this before it lets anybody but root look.
            Err(FsError::NotPermitted | FsError::NotFound) => return Err(FsError::NoAttribute),
            found => found?,
        };
        let common = NodeId::from(ino) == NodeId::MOUNT_POINT && is_acl(name.as_bytes());
        self.core.getxattr(if common { ViewId::MAIN } else { view }, inode, name.as_bytes())
    }

    /// The names of all extended attributes that the caller may see.
    pub(super) fn xattr_names(&self, req: &fuser::Request, ino: INodeNo) -> Result<Vec<u8>> {
        let (view, inode) = match self.tree(req, ino) {
            Err(FsError::NotPermitted | FsError::NotFound) => return Ok(Vec::new()),
            found => found?,
        };
        Ok(name_list(self.core.listxattr(view, inode)?, caller(req)))
    }

    pub(super) fn set_xattr(
        &self,
        req: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        let place = self.tree(req, ino)?;
        match name.as_bytes() {
            acl if is_acl(acl) => {
                self.may_change_face(ino, place)?;
                self.core.set_acl(place.0, place.1, acl, value, self.changer(req, ino))?;
                self.acl_changed(ino, place)
            }
            name => self.core.setxattr(place.0, place.1, name, value, xattr_mode(flags)?),
        }
    }

    pub(super) fn remove_xattr(&self, req: &fuser::Request, ino: INodeNo, name: &OsStr) -> Result<()> {
        let place = self.tree(req, ino)?;
        if !is_acl(name.as_bytes()) {
            return self.core.removexattr(place.0, place.1, name.as_bytes());
        }
        self.may_change_face(ino, place)?;
        self.core.removexattr(place.0, place.1, name.as_bytes())?;
        self.acl_changed(ino, place)
    }

    fn acl_changed(&self, ino: INodeNo, (view, inode): (ViewId, InodeId)) -> Result<()> {
        let attr = self.core.getattr(view, inode)?;
        self.pid_view.face_changed(ino.into(), view, &attr);
        Ok(())
    }
}

fn xattr_mode(flags: i32) -> Result<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Any),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(FsError::InvalidArgument("unknown flags of setxattr")),
    }
}

/// Names as `listxattr` gives them, each with its NUL; those in `trusted` are the superuser's to see.
fn name_list(names: Vec<Box<[u8]>>, caller: Caller) -> Vec<u8> {
    let visible = |name: &[u8]| caller.is_root() || !name.starts_with(b"trusted.");
    names.iter().filter(|name| visible(name)).flat_map(|name| name.iter().copied().chain([0])).collect()
}
