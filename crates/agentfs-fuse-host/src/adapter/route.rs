//! From a node to the part of the volume that knows it: a tree of the core, or the volume's own directories.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::{
    Attr, Caller, CreateMode, FsError, InodeId, Name, OpenMode, RenameMode, Result, ViewId, XattrMode,
};
use fuser::{INodeNo, RenameFlags, ReplyDirectory, ReplyDirectoryPlus};

use super::Adapter;
use super::attr::{file_attr, file_type};
use super::reply::{self, Entry};
use crate::views::{DOT_AGENTFS, Node, NodeId, Special};

/// A name in a tree's directory.
pub(super) type Place = (ViewId, InodeId, Name);

impl Adapter {
    /// The file or directory that a node is.
    pub(super) fn tree(&self, ino: INodeNo) -> Result<(ViewId, InodeId)> {
        match NodeId::from(ino).node() {
            Node::Tree(view, ino) => Ok((view, ino)),
            Node::Special(..) => Err(FsError::NotPermitted),
        }
    }

    /// A name about to be made, moved or removed. `.agentfs` itself is not touched.
    pub(super) fn place(&self, parent: INodeNo, name: &OsStr) -> Result<Place> {
        let (view, dir) = self.tree(parent)?;
        if dir == InodeId::ROOT && name.as_bytes() == DOT_AGENTFS {
            return Err(FsError::NotPermitted);
        }
        Ok((view, dir, Name::new(name.as_bytes())?))
    }

    /// The kernel is about to be told of a file.
    pub(super) fn tell(&self, view: ViewId, attr: Attr) -> Entry {
        self.core.remember(view, attr.ino);
        Entry::Node(NodeId::of(view, attr.ino), attr, self.ttl.entry)
    }

    /// The kernel forgets a node, or was not told of it after all. The volume's own are always there.
    pub(super) fn forget_node(&self, node: NodeId, times: u64) {
        match node.node() {
            Node::Tree(view, ino) => self.core.forget(view, ino, times),
            Node::Special(view, Special::IdLink) => self.core.forget(view, Special::IdLink.inode(), times),
            Node::Special(..) => {}
        }
    }

    /// The value of an extended attribute; the volume's own directories have none.
    pub(super) fn xattr(&self, ino: INodeNo, name: &OsStr) -> Result<Arc<[u8]>> {
        let (view, ino) = self.tree(ino).map_err(|_| FsError::NoAttribute)?;
        self.core.getxattr(view, ino, name.as_bytes())
    }

    /// The names of all extended attributes that the caller may see.
    pub(super) fn xattr_names(&self, ino: INodeNo, caller: Caller) -> Result<Vec<u8>> {
        let Ok((view, ino)) = self.tree(ino) else { return Ok(Vec::new()) };
        Ok(name_list(self.core.listxattr(view, ino)?, caller))
    }

    pub(super) fn find(&self, parent: INodeNo, name: &OsStr) -> Result<Entry> {
        let name = name.as_bytes();
        let found = match NodeId::from(parent).node() {
            Node::Tree(view, InodeId::ROOT) if name == DOT_AGENTFS => Ok(self.synthetic.dot_agentfs(view)),
            Node::Special(view, dir) => self.synthetic.lookup(view, dir, name),
            Node::Tree(view, dir) => {
                let attr = self.core.lookup(view, dir, &Name::new(name)?)?;
                return Ok(attr.map_or(Entry::Nothing, |attr| self.tell(view, attr)));
            }
        };
        // Branches and snapshots come and go without the kernel's knowing.
        found.map(|found| Entry::Node(found.node, found.attr, Duration::ZERO))
    }

    pub(super) fn make(
        &self,
        parent: INodeNo,
        name: &OsStr,
        what: CreateMode,
        caller: Caller,
    ) -> Result<Entry> {
        let (view, dir, name) = self.place(parent, name)?;
        let attr = self.core.create(view, dir, &name, what, caller)?;
        Ok(self.tell(view, attr))
    }

    pub(super) fn add_name(&self, ino: INodeNo, parent: INodeNo, name: &OsStr) -> Result<Entry> {
        let (from, ino) = self.tree(ino)?;
        let (view, dir, name) = self.place(parent, name)?;
        if from != view {
            return Err(FsError::CrossBranch);
        }
        let attr = self.core.link(view, ino, dir, &name)?;
        Ok(self.tell(view, attr))
    }

    pub(super) fn move_name(
        &self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        let (from, to) = (self.place(from.0, from.1)?, self.place(to.0, to.1)?);
        if from.0 != to.0 {
            return Err(FsError::CrossBranch);
        }
        self.core.rename(from.0, (from.1, &from.2), (to.1, &to.2), mode)
    }

    pub(super) fn list(&self, ino: INodeNo, offset: u64, mut reply: ReplyDirectory) {
        let result = match NodeId::from(ino).node() {
            Node::Tree(view, dir) => self.core.readdir(view, dir, offset, |entry| {
                let node = NodeId::of(view, entry.ino);
                !reply.add(node.into(), entry.position, file_type(entry.kind), OsStr::from_bytes(entry.name))
            }),
            Node::Special(view, dir) => self.synthetic.readdir(view, dir, offset, |position, kind, name| {
                // A lookup tells the number; a listing need not enter every branch to know it.
                !reply.add(ino, position, file_type(kind), OsStr::from_bytes(name))
            }),
        };
        match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(super::errno(&e)),
        }
    }

    pub(super) fn list_plus(&self, ino: INodeNo, offset: u64, mut reply: ReplyDirectoryPlus) {
        let keep = self.ttl.entry;
        let mut add = |node: NodeId, position: u64, name: &[u8], attr: &Attr, keep: Duration| {
            let name = OsStr::from_bytes(name);
            !reply.add(node.into(), position, name, &keep, &file_attr(node, attr), reply::GENERATION)
        };
        let result = match NodeId::from(ino).node() {
            Node::Special(view, dir) => self.synthetic.readdir(view, dir, offset, |position, kind, name| {
                if matches!(name, b"." | b"..") {
                    return add(
                        ino.into(),
                        position,
                        name,
                        &reply::plain(InodeId::ROOT, kind),
                        Duration::ZERO,
                    );
                }
                // What is gone since the list was made is left out.
                let Ok(found) = self.synthetic.lookup(view, dir, name) else { return true };
                let added = add(found.node, position, name, &found.attr, Duration::ZERO);
                if !added {
                    self.forget_node(found.node, 1);
                }
                added
            }),
            Node::Tree(view, dir) => self.core.readdirplus(view, dir, offset, |entry, attr| {
                let node = NodeId::of(view, entry.ino);
                // The kernel counts no lookup for "." and "..".
                let Some(attr) = attr else {
                    return add(node, entry.position, entry.name, &reply::plain(entry.ino, entry.kind), keep);
                };
                let added = add(node, entry.position, entry.name, &attr, keep);
                if added {
                    self.core.remember(view, entry.ino);
                }
                added
            }),
        };
        match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(super::errno(&e)),
        }
    }
}

pub(super) fn open_mode(flags: i32) -> OpenMode {
    match flags {
        flags if flags & libc::O_TRUNC != 0 => OpenMode::Truncate,
        flags if flags & libc::O_ACCMODE == libc::O_RDONLY => OpenMode::Read,
        _ => OpenMode::Write,
    }
}

pub(super) fn rename_mode(flags: RenameFlags, owner: Caller) -> Result<RenameMode> {
    let whiteout = RenameFlags::RENAME_WHITEOUT;
    match flags {
        none if none.is_empty() => Ok(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        one if one == whiteout => Ok(RenameMode::Whiteout { owner, replace: true }),
        both if both == whiteout | RenameFlags::RENAME_NOREPLACE => {
            Ok(RenameMode::Whiteout { owner, replace: false })
        }
        _ => Err(FsError::InvalidArgument("these flags of rename are not known")),
    }
}

pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode> {
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

/// Lends the thread's read buffer: made once, not for each read.
pub(super) fn with_buffer(size: usize, f: impl FnOnce(&mut [u8])) {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        f(buffer.get_mut(..size).unwrap_or_default());
    });
}
