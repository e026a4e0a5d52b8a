//! Results as fuser's replies.

use std::time::Duration;

use agentfs_core::{Attr, FileKind, FsError, HandleId, InodeId, Result, Space, Timestamp, ViewId};
use fuser::{
    FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::attr::file_attr;
use super::errno::errno;
use crate::views::NodeId;

/// Inodes are never given a second life under one number.
pub(super) const GENERATION: Generation = Generation(0);

/// What a name leads to.
pub(super) enum Entry {
    /// A node; the kernel may keep the name and the attributes this long.
    Node(NodeId, Attr, (Duration, Duration)),
    /// Nothing; the kernel may remember that for so long.
    Nothing(Duration),
}

pub(super) fn entry(reply: ReplyEntry, result: Result<Entry>) {
    match result {
        Ok(Entry::Node(node, attr, (name, attributes))) => {
            reply.entry_with_ttls(&attributes, &name, &file_attr(node, &attr), GENERATION);
        }
        Ok(Entry::Nothing(keep)) if keep.is_zero() => reply.error(errno(&FsError::NotFound)),
        // Node id 0 tells the kernel that the name is missing.
        Ok(Entry::Nothing(keep)) => {
            let nothing = file_attr(NodeId(0), &plain(InodeId(0), FileKind::File));
            reply.entry(&keep, &nothing, GENERATION);
        }
        Err(e) => reply.error(errno(&e)),
    }
}

/// Attributes of which only number and kind matter.
pub(super) fn plain(ino: InodeId, kind: FileKind) -> Attr {
    let (mode, uid, gid, nlink, rdev, size, blocks) = (0, 0, 0, 0, 0, 0, 0);
    let (atime, mtime, ctime) = (Timestamp::default(), Timestamp::default(), Timestamp::default());
    Attr { ino, kind, mode, uid, gid, nlink, rdev, size, blocks, atime, mtime, ctime }
}

pub(super) fn attr(reply: ReplyAttr, keep: impl Fn(&Attr) -> Duration, result: Result<(NodeId, Attr)>) {
    match result {
        Ok((node, attr)) => reply.attr(&keep(&attr), &file_attr(node, &attr)),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn created(reply: ReplyCreate, keep: Duration, result: Result<(ViewId, Attr, HandleId)>) {
    match result {
        Ok((view, attr, handle)) => {
            let attr = file_attr(NodeId::of(view, attr.ino), &attr);
            reply.created(&keep, &attr, GENERATION, FileHandle(handle.0), open_flags());
        }
        Err(e) => reply.error(errno(&e)),
    }
}

/// A file's pages stay valid over opens; closing needs no request.
pub(super) fn open_flags() -> FopenFlags {
    FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
}

pub(super) fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn data(reply: ReplyData, result: Result<impl AsRef<[u8]>>) {
    match result {
        Ok(data) => reply.data(data.as_ref()),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn written(reply: ReplyWrite, result: Result<usize>) {
    match result {
        Ok(written) => reply.written(written as u32),
        Err(e) => reply.error(errno(&e)),
    }
}

pub(super) fn offset(reply: ReplyLseek, result: Result<u64>) {
    match result {
        Ok(offset) => reply.offset(offset as i64),
        Err(e) => reply.error(errno(&e)),
    }
}

/// An extended attribute's value or name list: its size when `room` is 0, itself when it fits.
pub(super) fn xattr(reply: ReplyXattr, room: u32, result: Result<impl AsRef<[u8]>>) {
    match result {
        Err(e) => reply.error(errno(&e)),
        Ok(value) if room == 0 => reply.size(value.as_ref().len() as u32),
        Ok(value) if value.as_ref().len() > room as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(value.as_ref()),
    }
}

pub(super) fn statfs(reply: ReplyStatfs, result: Result<Space>) {
    match result {
        Ok(s) => reply.statfs(
            s.blocks,
            s.free,
            s.available,
            s.files,
            s.files_free,
            s.block_size,
            agentfs_core::MAX_NAME_LEN as u32,
            s.block_size,
        ),
        Err(e) => reply.error(errno(&e)),
    }
}
