//! One file: its bytes, holes left out, and what is known of it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    copy_file_range, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, ftruncate,
    futimens, ioctl_ficlone, lgetxattr, llistxattr, lremovexattr, lsetxattr, openat, seek, utimensat,
};
use rustix::io::Errno;

use super::{Place, is_directory};
use crate::interrupt;

/// Most bytes of an extended attribute, or of all names of them (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MOST_XATTR: usize = 64 << 10;
/// What the host decides.
const SELINUX: &[u8] = b"security.selinux";
/// Bytes that are copied at once where the kernel cannot copy by itself.
const CHUNK: usize = 1 << 20;

/// Bytes that the kernel copies at once: a signal is heard in between.
const PIECE: usize = 64 << 20;

/// Copies a regular file to a place where nothing is.
pub(super) fn copy(source: Place<'_>, to: Place<'_>, stat: &Stat) -> Result<(), Errno> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = openat(source.directory, source.name, read, Mode::empty())?;
    let make = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(to.directory, to.name, make, Mode::RUSR | Mode::WUSR)?;
    copy_bytes(&from, &file)?;
    dress(from.as_fd(), file.as_fd(), stat)
}

fn copy_bytes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let len = u64::try_from(fstat(from)?.st_size).unwrap_or(0);
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    ftruncate(to, len)?;
    let mut at = 0;
    while at < len {
        let data = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error),
        };
        let end = seek(from, SeekFrom::Hole(data))?.min(len);
        copy_stretch(from, to, data, end)?;
        at = end.max(data + 1);
    }
    Ok(())
}

fn copy_stretch(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (start, start);
    while read_at < end {
        interrupt::check().map_err(|_| Errno::INTR)?;
        let want = usize::try_from(end - read_at).unwrap_or(PIECE).min(PIECE);
        match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), want) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_through(from, to, read_at, end);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy_through(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<(), Errno> {
    let (mut at, mut buffer) = (start, vec![0; CHUNK]);
    while at < end {
        interrupt::check().map_err(|_| Errno::INTR)?;
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let read = rustix::io::pread(from, buffer.get_mut(..want).unwrap_or_default(), at)?;
        if read == 0 {
            return Ok(());
        }
        let mut rest = buffer.get(..read).unwrap_or_default();
        while !rest.is_empty() {
            let written = rustix::io::pwrite(to, rest, at)?;
            at += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
    }
    Ok(())
}

/// Gives a file what another has beside bytes; owners where that is allowed.
fn dress(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    allowed(fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))))?;
    // Before the permissions: who is not root writes them as long as the file may be written.
    copy_xattrs(Subject::Open(from), Subject::Open(to))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    futimens(to, &times(stat))
}

/// As [`dress`], of a directory.
pub(crate) fn dress_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = fstat(from)?;
    if is_directory(&stat) { dress(from, to, &stat) } else { Err(Errno::NOTDIR) }
}

/// As [`dress`], of what cannot be opened.
pub(super) fn dress_by_name(source: Place<'_>, place: Place<'_>, stat: &Stat) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    allowed(chownat(place.directory, place.name, Some(uid), Some(gid), nofollow))?;
    copy_xattrs(Subject::Named(source), Subject::Named(place))?;
    if super::kind(stat) != rustix::fs::FileType::Symlink {
        // It was just made, under a name of ours.
        chmodat(place.directory, place.name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    utimensat(place.directory, place.name, &times(stat), nofollow)
}

/// Who is not root gives nothing away.
fn allowed(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => other,
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |secs: i64, nanos: u64| Timespec { tv_sec: secs, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// An extended attribute: its name and its value.
type Xattr = (Vec<u8>, Vec<u8>);

/// A file whose extended attributes are asked for.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Open(BorrowedFd<'a>),
    /// What cannot be opened: a link, a pipe, a device.
    Named(Place<'a>),
}

impl Subject<'_> {
    /// Where a link in the last place is not followed. The directory is the one that is open, whatever leads there.
    fn path(place: Place<'_>) -> Vec<u8> {
        let directory = format!("/proc/self/fd/{}/", place.directory.as_raw_fd());
        [directory.as_bytes(), place.name.as_bytes()].concat()
    }

    fn list(self, names: &mut Vec<u8>) -> Result<usize, Errno> {
        match self {
            Subject::Open(file) => flistxattr(file, spare_capacity(names)),
            Subject::Named(place) => llistxattr(Self::path(place), spare_capacity(names)),
        }
    }

    fn get(self, name: &[u8], value: &mut Vec<u8>) -> Result<usize, Errno> {
        match self {
            Subject::Open(file) => fgetxattr(file, name, spare_capacity(value)),
            Subject::Named(place) => lgetxattr(Self::path(place), name, spare_capacity(value)),
        }
    }

    fn set(self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Subject::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            Subject::Named(place) => lsetxattr(Self::path(place), name, value, XattrFlags::empty()),
        }
    }

    fn remove(self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Subject::Open(file) => fremovexattr(file, name),
            Subject::Named(place) => lremovexattr(Self::path(place), name),
        }
    }
}

/// The extended attributes of a file that a copy of it is to have, in the order of their names.
pub(super) fn xattrs(file: Subject<'_>) -> Result<Vec<Xattr>, Errno> {
    let mut names = xattr_names(file)?.unwrap_or_default();
    names.retain(|name| !name.starts_with(SELINUX));
    names.sort();
    names.into_iter().map(|name| xattr(file, &name).map(|value| (name, value))).collect()
}

fn xattr(file: Subject<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = Vec::with_capacity(MOST_XATTR);
    file.get(name, &mut value)?;
    Ok(value)
}

/// `None` where there are none.
fn xattr_names(file: Subject<'_>) -> Result<Option<Vec<Vec<u8>>>, Errno> {
    let mut names = Vec::with_capacity(MOST_XATTR);
    match file.list(&mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(None),
        listed => listed?,
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(Some(names.map(<[u8]>::to_vec).collect()))
}

fn copy_xattrs(from: Subject<'_>, to: Subject<'_>) -> Result<(), Errno> {
    let Some(names) = xattr_names(from)? else { return Ok(()) };
    // What it has from its directory, or had.
    for name in xattr_names(to)?.unwrap_or_default() {
        if !names.contains(&name) && !name.starts_with(SELINUX) {
            match to.remove(&name) {
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NODATA) => {}
                removed => removed?,
            }
        }
    }
    for name in &names {
        match to.set(name, &xattr(from, name)?) {
            // The other filesystem has none such, or it is root's to give.
            Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            set => set?,
        }
    }
    Ok(())
}
