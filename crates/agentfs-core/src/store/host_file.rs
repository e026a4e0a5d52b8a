//! One file of a store in a directory of the host.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{self, Advice, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::host_fs::{Directories, OBJECT, PRIVATE};
use super::{FileId, FileStat, ObjectFile, Seek};
use crate::types::Timestamp;

pub(super) fn seek(file: impl AsFd, whence: SeekFrom) -> io::Result<Option<u64>> {
    match fs::seek(file, whence) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// A file of a store in a directory of the host.
pub(super) struct HostFile {
    fd: OwnedFd,
    id: FileId,
    dirs: Arc<Directories>,
    /// When the host let it be opened only to be read: it opened to be written, once it lets that.
    writable: Option<OnceLock<OwnedFd>>,
}

impl HostFile {
    pub(super) fn new(fd: OwnedFd, id: FileId, dirs: Arc<Directories>) -> HostFile {
        HostFile { fd, id, dirs, writable: None }
    }

    /// Opens a file that is there. A host that has become read-only still lets it be read.
    pub(super) fn open(id: FileId, dirs: Arc<Directories>) -> io::Result<HostFile> {
        let (dir, path) = dirs.place(id);
        let open = |flags| fs::openat(dir, &path, flags, Mode::empty());
        let (fd, writable) = match open(OBJECT) {
            Err(Errno::ROFS) => {
                let flags = OBJECT.difference(OFlags::RDWR).union(OFlags::RDONLY);
                (open(flags)?, Some(OnceLock::new()))
            }
            opened => (opened?, None),
        };
        Ok(HostFile { fd, id, dirs, writable })
    }

    /// It, to be written to.
    fn to_write(&self) -> Result<BorrowedFd<'_>, Errno> {
        let Some(writable) = &self.writable else { return Ok(self.fd.as_fd()) };
        if let Some(fd) = writable.get() {
            return Ok(fd.as_fd());
        }
        let (dir, path) = self.dirs.place(self.id);
        let again = fs::openat(dir, path, OBJECT, Mode::empty())?;
        let which = |fd: &OwnedFd| fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
        // Files may have changed places meanwhile.
        if which(&again)? != which(&self.fd)? {
            return Err(Errno::ROFS);
        }
        Ok(writable.get_or_init(|| again).as_fd())
    }
}

impl ObjectFile for HostFile {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        // To be written to, if the host has let that by now.
        Some(self.writable.as_ref().and_then(OnceLock::get).unwrap_or(&self.fd).as_fd())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_at(&self.fd, buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let (fd, mut done) = (self.to_write()?, 0);
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(fd, rest, offset + done as u64) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(fs::ftruncate(self.to_write()?, len)?)
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let fd = self.to_write()?;
        Ok(rustix::io::retry_on_intr(|| fs::fallocate(fd, mode, offset, len))?)
    }

    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        match what {
            Seek::Data => seek(&self.fd, SeekFrom::Data(offset)),
            Seek::Hole => seek(&self.fd, SeekFrom::Hole(offset)),
        }
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        if data_only { fs::fdatasync(&self.fd) } else { fs::fsync(&self.fd) }?;
        self.dirs.sync_name(self.id)
    }

    fn will_need(&self, len: u64) {
        // What it does not fetch now comes when it is read.
        let _ = fs::fadvise(&self.fd, 0, NonZeroU64::new(len), Advice::WillNeed);
    }

    fn await_writes(&self) -> io::Result<()> {
        // Takes the lock that a write holds from its beginning to its end.
        Ok(fs::fchmod(&self.fd, PRIVATE)?)
    }

    fn stat(&self) -> io::Result<FileStat> {
        stat(&self.fd)
    }
}

/// Reads until `buf` is full or the file ends.
pub(super) fn read_at(file: impl AsFd, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(&file, rest, offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}

pub(super) fn stat(file: &OwnedFd) -> io::Result<FileStat> {
    let stat = fs::fstat(file)?;
    let positive = |n: i64| u64::try_from(n).unwrap_or(0);
    let nanos = |n: u64| u32::try_from(n).unwrap_or(0);
    let modified = Timestamp { secs: stat.st_mtime, nanos: nanos(stat.st_mtime_nsec) };
    let changed = Timestamp { secs: stat.st_ctime, nanos: nanos(stat.st_ctime_nsec) };
    Ok(FileStat { len: positive(stat.st_size), blocks: positive(stat.st_blocks), modified, changed })
}
