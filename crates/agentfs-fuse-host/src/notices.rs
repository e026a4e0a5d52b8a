//! Notices to the kernel about what it has cached. They wait for locks that processes hold while their requests are
//! being served: never to be sent by a thread that serves requests, nor under any lock.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;

use crate::views::NodeId;

// From `linux/fuse.h`.
const FUSE_NOTIFY_INVAL_INODE: i32 = 2;
const FUSE_NOTIFY_INVAL_ENTRY: i32 = 3;
/// Since Linux 6.2; earlier kernels take the flag for padding and drop the entry with all that is mounted below it.
const FUSE_EXPIRE_ONLY: u32 = 1;
const HEADER_LEN: usize = 16;

/// The connection to the kernel, for notices alone.
pub(crate) struct Notices(File);

impl Notices {
    pub(crate) fn new(device: OwnedFd) -> Notices {
        Notices(File::from(device))
    }

    /// The kernel asks again for what `name` leads to in the directory. Who stands in it, and what is mounted on it, stays.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn expire(&self, directory: NodeId, name: &[u8]) -> io::Result<()> {
        self.entry(directory, name, FUSE_EXPIRE_ONLY)
    }

    /// The kernel forgets what `name` leads to in the directory, with all below it that nobody uses. What is mounted there is
    /// unmounted.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn prune(&self, directory: NodeId, name: &[u8]) -> io::Result<()> {
        self.entry(directory, name, 0)
    }

    fn entry(&self, directory: NodeId, name: &[u8], flags: u32) -> io::Result<()> {
        let mut body = Vec::with_capacity(17 + name.len());
        body.extend(directory.0.to_ne_bytes());
        body.extend((name.len() as u32).to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend(name);
        body.push(0);
        self.send(FUSE_NOTIFY_INVAL_ENTRY, &body)
    }

    /// The kernel writes out what was changed of a file through `mmap`, waits until that is done, and drops what it has
    /// cached of its attributes, and of a file's pages or a directory's listing.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn drop_cached(&self, node: NodeId) -> io::Result<()> {
        let mut body = Vec::with_capacity(24);
        body.extend(node.0.to_ne_bytes());
        // From the first byte to the last.
        body.extend([0; 16]);
        self.send(FUSE_NOTIFY_INVAL_INODE, &body)
    }

    /// The kernel drops what it has cached of attributes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(crate) fn drop_attributes(&self, node: NodeId) -> io::Result<()> {
        let mut body = Vec::with_capacity(24);
        body.extend(node.0.to_ne_bytes());
        // From before the first byte: no page.
        body.extend((-1_i64).to_ne_bytes());
        body.extend(0_i64.to_ne_bytes());
        self.send(FUSE_NOTIFY_INVAL_INODE, &body)
    }

    fn send(&self, code: i32, body: &[u8]) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend(((HEADER_LEN + body.len()) as u32).to_ne_bytes());
        header.extend(code.to_ne_bytes());
        header.extend(0_u64.to_ne_bytes());
        match (&self.0).write_vectored(&[IoSlice::new(&header), IoSlice::new(body)]) {
            // The kernel does not know it: as well.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            sent => sent.map(drop),
        }
    }
}
