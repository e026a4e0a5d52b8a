//! Attributes between the core's form and fuser's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentfs_core::{Attr, FileKind, SetTime, Timestamp};
use fuser::{FileAttr, FileType, TimeOrNow};

use crate::views::NodeId;

pub(crate) const BLOCK_SIZE: u32 = 4096;

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Socket => FileType::Socket,
    }
}

/// The kind that `mknod`'s mode asks for.
pub(super) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::File),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        libc::S_IFSOCK => Some(FileKind::Socket),
        _ => None,
    }
}

/// Permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

pub(super) fn file_attr(node: NodeId, attr: &Attr) -> FileAttr {
    FileAttr {
        ino: node.into(),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// fuser 0.18.0 subtracts the nanoseconds of times before 1970 where they count forward; taken back here.
fn timestamp(time: SystemTime) -> Timestamp {
    let ago = |ago: Duration| Timestamp {
        secs: i64::try_from(ago.as_secs()).map_or(i64::MIN, |secs| -secs),
        nanos: ago.subsec_nanos(),
    };
    time.duration_since(UNIX_EPOCH).map_or_else(|before| ago(before.duration()), |_| time.into())
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

pub(super) fn exact_time(time: SystemTime) -> Timestamp {
    timestamp(time)
}
