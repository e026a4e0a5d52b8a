//! Files that the kernel reads and writes by itself, in the host's file: which, the core says. The kernel wants one number
//! for that file as long as anybody has the node open.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use agentfs_core::{HandleId, ObjectFile, Pages};
use dashmap::DashSet;
use fuser::{BackingId, FileHandle, FopenFlags, OpenFlags, ReplyEmpty, ReplyOpen};

use super::Adapter;
use super::errno::errno;
use super::reply::{empty, open_flags};
use crate::views::{Node, NodeId};

/// What the kernel was given.
#[derive(Default)]
pub(crate) struct Passthrough {
    /// Did the kernel grant it? Set when it connects.
    granted: Arc<OnceLock<bool>>,
    /// Did it refuse a file?
    is_refused: AtomicBool,
    /// By node, with how many descriptors use it.
    files: Mutex<HashMap<NodeId, (BackingId, u32)>>,
    /// Nodes of which the kernel may have read pages ahead all the same (`posix_fadvise`).
    outdated: DashSet<NodeId>,
}

impl Passthrough {
    pub(crate) fn new(granted: Arc<OnceLock<bool>>) -> Passthrough {
        Passthrough { granted, ..Passthrough::default() }
    }

    fn is_used(&self) -> bool {
        self.granted.get() == Some(&true)
    }

    fn files(&self) -> MutexGuard<'_, HashMap<NodeId, (BackingId, u32)>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Was a node read and written past us before? Tells it once.
    fn was_used(&self, node: NodeId) -> bool {
        !self.outdated.is_empty() && self.outdated.remove(&node).is_some()
    }

    /// The kernel forgets a node.
    pub(super) fn forget(&self, node: NodeId) {
        self.was_used(node);
    }

    /// One descriptor less.
    fn closed(&self, node: NodeId) {
        let mut files = self.files();
        if let Some((_, users)) = files.get_mut(&node) {
            *users -= 1;
            if *users == 0 {
                files.remove(&node);
            }
        }
    }

    /// Gives the kernel the file; gives the reply back when it does not take it. The kernel drops what it had of it: of what
    /// is written from now on its pages would know nothing.
    fn give(
        &self,
        (node, handle): (NodeId, HandleId),
        flags: FopenFlags,
        file: BorrowedFd<'_>,
        reply: ReplyOpen,
    ) -> Option<ReplyOpen> {
        let mut files = self.files();
        let (backing, users) = match files.remove(&node) {
            Some(known) => known,
            None if self.is_refused.load(Ordering::Relaxed) => return Some(reply),
            None => match reply.open_backing(file) {
                Ok(backing) => (backing, 0),
                Err(error) => {
                    if !self.is_refused.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the kernel takes no files of this store: all data comes through the daemon");
                    }
                    return Some(reply);
                }
            },
        };
        let flags = flags - FopenFlags::FOPEN_KEEP_CACHE;
        self.outdated.insert(node);
        reply.opened_passthrough(FileHandle(handle.0), flags, &backing);
        files.insert(node, (backing, users + 1));
        None
    }
}

impl Adapter {
    /// Answers an open: past the daemon where that may be. Else a file's pages stay valid over opens, because all its views
    /// share one node.
    pub(super) fn answer_open(
        &self,
        req: &fuser::Request,
        (node, handle): (NodeId, HandleId),
        asked: OpenFlags,
        reply: ReplyOpen,
    ) {
        let flags = open_flags();
        // Where files are copied byte by byte, writes of which the host's clock says nothing when they end would be copied
        // in part: those that bypass the host's cache may be under way for long.
        let tears = asked.0 & libc::O_DIRECT != 0 && !self.core.copies_at_once();
        let begins = !tears && !self.flusher.is_process(req.pid());
        let direct =
            if self.passthrough.is_used() { self.core.open_direct(handle, begins) } else { Ok(None) };
        let object: Option<Arc<dyn ObjectFile>> = match direct {
            Ok(object) => object,
            Err(error) => {
                // It was open for a moment only.
                let _ = self.core.release(handle);
                return reply.error(errno(&error));
            }
        };
        let mut reply = Some(reply);
        if let Some(file) = object.as_ref().and_then(|object| object.descriptor()) {
            reply = reply.and_then(|reply| self.passthrough.give((node, handle), flags, file, reply));
            if reply.is_some() {
                let _ = self.core.end_direct_of(handle);
            }
        }
        if let Some(reply) = reply {
            let pages = match node.node() {
                Node::Tree(view, ino) => self.core.pages(view, ino),
                Node::Private(..) | Node::Shared(_) | Node::Special(..) => Pages::Kept,
            };
            let is_outdated = self.passthrough.was_used(node) || pages != Pages::Kept;
            let flags = if is_outdated { flags - FopenFlags::FOPEN_KEEP_CACHE } else { flags };
            let flags = if pages == Pages::None { flags | FopenFlags::FOPEN_DIRECT_IO } else { flags };
            reply.opened(FileHandle(handle.0), flags);
        }
    }

    /// Makes a file durable.
    pub(super) fn sync(&self, req: &fuser::Request, handle: HandleId, datasync: bool, reply: ReplyEmpty) {
        if self.flusher.is_process(req.pid()) {
            return reply.ok(); // all is here now: it wanted no more
        }
        let core = self.core.clone();
        self.pool.submit(0, move || empty(reply, core.fsync(handle, datasync)));
    }

    /// Closes a file's handle.
    pub(super) fn close(&self, node: NodeId, handle: HandleId) -> agentfs_core::Result<()> {
        let (is_direct, writes) = self.core.is_direct_handle(handle);
        if is_direct {
            // Before the core lets go of it: who opens it next gives the kernel the file anew.
            self.passthrough.closed(node);
        }
        self.core.release(handle)?;
        if writes {
            // What was stored through mmap has changed its times without the kernel's knowing.
            self.caching.drop_attributes_later(node);
        }
        Ok(())
    }
}
