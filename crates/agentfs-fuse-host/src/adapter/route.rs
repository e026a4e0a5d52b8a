//! From a node to the part of the volume that knows it: a tree of the core, or the volume's own directories.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use agentfs_core::{
    Attr, Caller, CreateMode, FileKind, FsError, InodeId, Name, OpenMode, RenameMode, Result, ViewId,
};
use agentfs_proto::names::APPLY_DIRECTORY;
use fuser::{FileHandle, INodeNo, RenameFlags, ReplyDirectory, ReplyDirectoryPlus};

use super::Adapter;
use super::attr::{file_attr, file_type};
use super::caller::caller;
use super::reply::{self, Entry};
use crate::flusher::Flusher;
use crate::views::{DOT_AGENTFS, Found, HeldName, Keep, ListingNumber, Node, NodeId, Special, Split};

/// A name in a tree's directory.
pub(super) type Place = (ViewId, InodeId, Name);

/// An entry of a listing.
struct Listed {
    position: u64,
    name: Box<[u8]>,
    ino: InodeId,
    kind: FileKind,
    attr: Option<Attr>,
}

/// What an entry with its attributes takes in an answer, besides its name.
const ENTRY_BYTES: usize = 152;
/// How much is listed in one go.
const LISTED_BYTES: usize = 32 * 1024;

impl Adapter {
    /// The file or directory that a node is to who asks.
    pub(super) fn tree(&self, req: &fuser::Request, ino: INodeNo) -> Result<(ViewId, InodeId)> {
        self.pid_view.place(ino.into(), req.pid())
    }

    /// A name about to be made, moved or removed. What the volume claims is not touched.
    pub(super) fn place(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr) -> Result<Place> {
        let (view, dir) = self.tree(req, parent)?;
        let is_apply = || name == APPLY_DIRECTORY && self.core.lower_descriptor().is_some();
        if dir == InodeId::ROOT && (name.as_bytes() == DOT_AGENTFS || is_apply()) {
            return Err(FsError::NotPermitted);
        }
        let name = Name::new(name.as_bytes())?;
        if self.pid_view.held(parent.into(), &name).is_some() {
            return Err(FsError::Busy("something is mounted on it, or in it".into()));
        }
        Ok((view, dir, name))
    }

    /// The kernel is about to be told of a file or directory under a name.
    pub(super) fn tell(
        &self,
        keep: &Keep<'_>,
        parent: INodeNo,
        (view, _, name): &Place,
        attr: Attr,
    ) -> Entry {
        let node = self.pid_view.tell(parent.into(), name, *view, &attr);
        let times = (keep.entry(parent.into(), name.as_bytes(), attr.kind), keep.attr(node, &attr));
        Entry::Node(node, attr, times)
    }

    /// The kernel forgets a node, or was not told of it after all. The volume's own are always there.
    pub(super) fn forget_node(&self, node: NodeId, times: u64) {
        self.passthrough.forget(node);
        match node.node() {
            Node::Special(view, Special::NameLink) => {
                self.core.forget(view, Special::NameLink.inode(), times)
            }
            Node::Special(..) => {}
            Node::Tree(..) | Node::Private(..) | Node::Shared(_) => self.pid_view.forget(node, times),
        }
    }

    pub(super) fn find(
        &self,
        req: &fuser::Request,
        keep: &Keep<'_>,
        parent: INodeNo,
        name: &OsStr,
    ) -> Result<Entry> {
        let bytes = name.as_bytes();
        let found = match NodeId::from(parent).node() {
            Node::Special(_, Special::DotAgentfs) if self.flusher.is_process(req.pid()) => {
                Flusher::named(bytes).map_or(Err(FsError::NotFound), |node| self.found_again(node))
            }
            Node::Special(view, dir) => self.synthetic.lookup(view, dir, bytes),
            _ => {
                let tree = self.tree(req, parent);
                if let Ok(name) = Name::new(bytes)
                    && let Some(held) = self.pid_view.held(parent.into(), &name)
                {
                    // A branch may lack the directory; any other answer would take the mount away.
                    return self.find_held(req, parent, (tree.ok(), &name), held);
                }
                let (view, dir) = tree?;
                if dir == InodeId::ROOT && bytes == DOT_AGENTFS {
                    // At the mount point there is one for all.
                    let view = if NodeId::from(parent) == NodeId::MOUNT_POINT { ViewId::MAIN } else { view };
                    Ok(self.synthetic.dot_agentfs(view))
                } else {
                    let place = (view, dir, Name::new(bytes)?);
                    let attr = self.core.lookup(view, dir, &place.2)?;
                    let nothing = || Entry::Nothing(keep.negative(parent.into(), bytes));
                    return Ok(attr.map_or_else(nothing, |attr| self.tell(keep, parent, &place, attr)));
                }
            }
        };
        // Branches and snapshots come and go without the kernel's knowing.
        found.map(|found| {
            Entry::Node(found.node, found.attr, (Duration::ZERO, keep.attr(found.node, &found.attr)))
        })
    }

    /// A name that holds a mount leads to the node that it led to when that was made. The kernel asks each time.
    fn find_held(
        &self,
        req: &fuser::Request,
        parent: INodeNo,
        (own, name): (Option<(ViewId, InodeId)>, &Name),
        held: HeldName,
    ) -> Result<Entry> {
        let is_main = own.is_some_and(|(view, _)| view == ViewId::MAIN);
        if !held.is_directory() && !is_main && !self.pid_view.sees_mounts(req.pid()) {
            // Nobody is shown main's file for the branch's; any other answer than this would take the mount away.
            return Err(FsError::Io(rustix::io::Errno::NOMEM.into()));
        }
        let own = own.and_then(|(view, dir)| {
            let found = self.core.lookup(view, dir, name).ok().flatten()?;
            (found.kind == FileKind::Directory).then_some((view, found.ino))
        });
        let attr = self.core.getattr(ViewId::MAIN, held.inode)?;
        self.pid_view.tell_held((parent.into(), name), held, own);
        Ok(Entry::Node(held.node, attr, (Duration::ZERO, Duration::ZERO)))
    }

    /// A file that the kernel knows, under one name more: for a moment.
    fn found_again(&self, node: NodeId) -> Result<Found> {
        let Node::Tree(view, ino) = node.node() else { return Err(FsError::NotFound) };
        let attr = self.core.getattr(view, ino)?;
        if attr.kind != FileKind::File {
            return Err(FsError::NotFound);
        }
        self.core.remember(view, ino);
        Ok(Found { node, attr })
    }

    pub(super) fn make(
        &self,
        req: &fuser::Request,
        keep: &Keep<'_>,
        (parent, name): (INodeNo, &OsStr),
        what: CreateMode,
    ) -> Result<Entry> {
        let place = self.place(req, parent, name)?;
        let attr = self.core.create(place.0, place.1, &place.2, what, caller(req))?;
        Ok(self.tell(keep, parent, &place, attr))
    }

    pub(super) fn add_name(
        &self,
        req: &fuser::Request,
        keep: &Keep<'_>,
        ino: INodeNo,
        (parent, name): (INodeNo, &OsStr),
    ) -> Result<Entry> {
        let (from, ino) = self.tree(req, ino)?;
        let place = self.place(req, parent, name)?;
        if from != place.0 {
            return Err(FsError::CrossBranch);
        }
        let attr = self.core.link(place.0, ino, place.1, &place.2)?;
        Ok(self.tell(keep, parent, &place, attr))
    }

    pub(super) fn remove_directory(&self, req: &fuser::Request, parent: INodeNo, name: &OsStr) -> Result<()> {
        let place = self.place(req, parent, name)?;
        let removed = self.own_directory(parent, &place, None)?;
        let (view, dir, name) = place;
        self.core.rmdir(view, dir, &name)?;
        if let Some(ino) = removed {
            self.pid_view.removed(parent.into(), &name, view, ino);
        }
        Ok(())
    }

    /// The directory that a name leads to, which its branch has for itself now. `Stale` has the kernel look it up once
    /// more; `None` when it is none.
    fn own_directory(
        &self,
        parent: INodeNo,
        (view, dir, name): &Place,
        to: Option<(INodeNo, &Name)>,
    ) -> Result<Option<InodeId>> {
        let found = self.core.lookup(*view, *dir, name)?;
        let Some(attr) = found.filter(|attr| attr.kind == FileKind::Directory) else { return Ok(None) };
        let to = to.map(|(parent, name)| (parent.into(), name));
        match self.pid_view.split_name((parent.into(), name), to, (*view, attr.ino)) {
            Split::NotNeeded => Ok(Some(attr.ino)),
            Split::LookUpAgain => Err(FsError::Stale),
        }
    }

    pub(super) fn move_name(
        &self,
        req: &fuser::Request,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        mode: RenameMode,
    ) -> Result<()> {
        let (source, target) = (self.place(req, from.0, from.1)?, self.place(req, to.0, to.1)?);
        if source.0 != target.0 {
            return Err(FsError::CrossBranch);
        }
        let moved = self.own_directory(from.0, &source, Some((to.0, &target.2)));
        let back = (mode == RenameMode::Exchange).then_some((from.0, &source.2));
        let (moved, replaced) = match (moved, self.own_directory(to.0, &target, back)) {
            // Both are made the branch's own in one go.
            (Err(error), _) | (_, Err(error)) => return Err(error),
            (Ok(moved), Ok(replaced)) => (moved, replaced),
        };
        let view = source.0;
        self.core.rename(view, (source.1, &source.2), (target.1, &target.2), mode)?;
        let (from, to) = ((from.0.into(), &source.2), (to.0.into(), &target.2));
        let exchanged = replaced.filter(|_| mode == RenameMode::Exchange);
        if let Some(replaced) = replaced.filter(|_| exchanged.is_none()) {
            self.pid_view.removed(to.0, to.1, view, replaced);
        }
        self.pid_view.moved((from, moved), (to, exchanged), view);
        Ok(())
    }

    pub(super) fn list(
        &self,
        req: &fuser::Request,
        keep: &Keep<'_>,
        (ino, fh): (INodeNo, FileHandle),
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let number = ListingNumber(fh.0);
        let (outdated, mut ended) = (keep.is_outdated(ino.into(), number), false);
        let result = match NodeId::from(ino).node() {
            Node::Special(view, dir) => self.synthetic.readdir(view, dir, offset, |position, kind, name| {
                // A lookup tells the number; a listing need not enter every branch to know it.
                !reply.add(ino, position, file_type(kind), OsStr::from_bytes(name))
            }),
            _ => self.tree(req, ino).and_then(|(view, dir)| {
                let entries = self.entries((view, dir), offset, outdated.then_some(number))?;
                ended = entries.is_empty();
                for entry in entries {
                    let node = listed_number(ino.into(), view, entry.ino);
                    let name = OsStr::from_bytes(&entry.name);
                    if reply.add(node.into(), entry.position, file_type(entry.kind), name) {
                        break;
                    }
                }
                Ok(())
            }),
        };
        if ended {
            keep.listed(ino.into(), number);
        }
        match result {
            Ok(()) if ended && outdated => self.caching.drop_cached_later(ino.into(), || reply.ok()),
            Ok(()) => reply.ok(),
            Err(e) => reply.error(super::errno(&e)),
        }
    }

    /// Some entries of a directory, which may be more or fewer than one answer takes. They are told outside the core's
    /// locks: whoever has the lock on common nodes may wait for those. The last of all gets the end of `own_end`.
    fn entries(
        &self,
        (view, dir): (ViewId, InodeId),
        offset: u64,
        own_end: Option<ListingNumber>,
    ) -> Result<Vec<Listed>> {
        let (mut entries, mut bytes, mut all) = (Vec::new(), 0, true);
        if ListingNumber::is_end(offset) {
            return Ok(entries);
        }
        self.core.readdirplus(view, dir, offset, |entry, attr| {
            all = bytes < LISTED_BYTES;
            // A tree may have one of its own, from elsewhere.
            let is_claimed = dir == InodeId::ROOT && entry.name == DOT_AGENTFS;
            if all && !is_claimed {
                let (position, name) = (entry.position, Box::from(entry.name));
                bytes += entry.name.len() + ENTRY_BYTES;
                entries.push(Listed { position, name, ino: entry.ino, kind: entry.kind, attr });
            }
            all
        })?;
        if let (true, Some(number), Some(last)) = (all, own_end, entries.last_mut()) {
            last.position = number.end();
        }
        Ok(entries)
    }

    pub(super) fn list_plus(
        &self,
        req: &fuser::Request,
        keep: &Keep<'_>,
        (ino, fh): (INodeNo, FileHandle),
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut add = |node: NodeId, position: u64, name: &[u8], attr: &Attr, times: Duration| {
            let name = OsStr::from_bytes(name);
            !reply.add(node.into(), position, name, &times, &file_attr(node, attr), reply::GENERATION)
        };
        let number = ListingNumber(fh.0);
        let (outdated, mut ended) = (keep.is_outdated(ino.into(), number), false);
        let result = match NodeId::from(ino).node() {
            Node::Special(view, dir) => self.synthetic.readdir(view, dir, offset, |position, kind, name| {
                let plain = reply::plain(InodeId::ROOT, kind);
                if matches!(name, b"." | b"..") {
                    return add(ino.into(), position, name, &plain, Duration::ZERO);
                }
                // What is gone since the list was made is left out.
                let Ok(found) = self.synthetic.lookup(view, dir, name) else { return true };
                let added = add(found.node, position, name, &found.attr, Duration::ZERO);
                if !added {
                    self.forget_node(found.node, 1);
                }
                added
            }),
            _ => self.tree(req, ino).and_then(|(view, dir)| {
                let entries = self.entries((view, dir), offset, outdated.then_some(number))?;
                ended = entries.is_empty();
                for entry in entries {
                    // The kernel counts no lookup for "." and "..".
                    let (Some(attr), Ok(name)) = (entry.attr, Name::new(&entry.name)) else {
                        let node = listed_number(ino.into(), view, entry.ino);
                        let plain = reply::plain(entry.ino, entry.kind);
                        if !add(node, entry.position, &entry.name, &plain, Duration::ZERO) {
                            break;
                        }
                        continue;
                    };
                    if let Some(held) = self.pid_view.held(ino.into(), &name) {
                        let is_shown = held.is_directory()
                            || view == ViewId::MAIN
                            || self.pid_view.sees_mounts(req.pid());
                        let main = self.core.getattr(ViewId::MAIN, held.inode).ok().filter(|_| is_shown);
                        let Some(main) = main else {
                            // Without a node the kernel takes the name and nothing else.
                            let unknown = NodeId::from(INodeNo(0));
                            if !add(unknown, entry.position, &entry.name, &attr, Duration::ZERO) {
                                break;
                            }
                            continue;
                        };
                        let own = (entry.kind == FileKind::Directory).then_some((view, attr.ino));
                        self.pid_view.tell_held((ino.into(), &name), held, own);
                        if !add(held.node, entry.position, &entry.name, &main, Duration::ZERO) {
                            self.forget_node(held.node, 1);
                            break;
                        }
                        continue;
                    }
                    let node = self.pid_view.tell(ino.into(), &name, view, &attr);
                    let times = keep.entry(ino.into(), &entry.name, entry.kind);
                    let times = match entry.kind {
                        FileKind::Directory => times.min(keep.attr(node, &attr)),
                        _ => times,
                    };
                    if !add(node, entry.position, &entry.name, &attr, times) {
                        self.forget_node(node, 1);
                        break;
                    }
                }
                Ok(())
            }),
        };
        if ended {
            keep.listed(ino.into(), number);
        }
        match result {
            Ok(()) if ended && outdated => self.caching.drop_cached_later(ino.into(), || reply.ok()),
            Ok(()) => reply.ok(),
            Err(e) => reply.error(super::errno(&e)),
        }
    }
}

/// The number that a listing of `dir` shows.
fn listed_number(dir: NodeId, view: ViewId, ino: InodeId) -> NodeId {
    let is_at_mount = !matches!(dir.node(), Node::Tree(view, _) if view != ViewId::MAIN);
    if is_at_mount && ino == InodeId::ROOT { NodeId::MOUNT_POINT } else { NodeId::of(view, ino) }
}

/// Only what may be read, too, may be mapped to be written.
pub(super) fn open_mode(flags: i32, write_back: bool) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    if flags & libc::O_TRUNC == 0 && access == libc::O_RDONLY {
        return OpenMode::Read;
    }
    match (flags & libc::O_TRUNC != 0, access == libc::O_RDWR || write_back) {
        (false, false) => OpenMode::Write,
        (false, true) => OpenMode::WriteCached,
        (true, false) => OpenMode::Truncate,
        (true, true) => OpenMode::TruncateCached,
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
