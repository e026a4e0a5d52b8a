//! Attributes of a file, as `stat` shows them and `setattr` changes them.

use super::{InodeId, Timestamp};

/// What a file is (`S_IFMT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Unix socket.
    Socket,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The inode.
    pub ino: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with suid, sgid and sticky (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that lead here; for a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// Device number of a device file (`makedev` as the kernel encodes it for FUSE).
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Space held, in units of 512 bytes.
    pub blocks: u64,
    /// Last read, kept lazily (relatime).
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
}

impl Attr {
    /// Returns whether it is a file that has a size and no space.
    pub fn is_all_hole(&self) -> bool {
        self.kind == FileKind::File && self.size > 0 && self.blocks == 0
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// This time.
    At(Timestamp),
}

/// Attributes to change; `None` leaves one as it is. All `None` clears suid and sgid: the kernel
/// asks so when it writes past the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Last change of attributes (the kernel sends it in write-back mode).
    pub ctime: Option<Timestamp>,
}
