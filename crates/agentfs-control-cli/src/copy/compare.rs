//! Whether two files are the same: by their bytes and attributes, never by size and time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, openat, readlinkat, seek};
use rustix::io::{Errno, pread};

use super::file::{Subject, xattrs};
use super::{Place, kind};
use crate::interrupt;

/// Bytes that are compared at once.
const CHUNK: usize = 256 << 10;

/// How far two files are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sameness {
    /// Kind, bytes, permissions, owner, extended attributes and time of modification.
    Same,
    /// All but the time of modification.
    ButTime,
    Different,
}

/// Compares two files that are not directories.
///
/// # Errors
/// What the host answers.
pub(crate) fn compare(a: (Place<'_>, &Stat), b: (Place<'_>, &Stat)) -> Result<Sameness, Errno> {
    if !has_same_mode(a.1, b.1) || !has_same_content(a, b)? {
        return Ok(Sameness::Different);
    }
    let has_same_xattrs = match kind(a.1) {
        FileType::RegularFile => {
            let (left, right) = (open(a.0)?, open(b.0)?);
            xattrs(Subject::Open(left.as_fd()))? == xattrs(Subject::Open(right.as_fd()))?
        }
        _ => xattrs(Subject::Named(a.0))? == xattrs(Subject::Named(b.0))?,
    };
    if !has_same_xattrs {
        return Ok(Sameness::Different);
    }
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    Ok(if times(a.1) == times(b.1) { Sameness::Same } else { Sameness::ButTime })
}

/// Returns whether two directories have the same permissions, owner and extended attributes.
///
/// # Errors
/// What the host answers.
pub(crate) fn has_same_attributes(
    (a, a_stat): (BorrowedFd<'_>, &Stat),
    (b, b_stat): (BorrowedFd<'_>, &Stat),
) -> Result<bool, Errno> {
    Ok(has_same_mode(a_stat, b_stat) && xattrs(Subject::Open(a))? == xattrs(Subject::Open(b))?)
}

/// Returns whether two files have the same kind, permissions and, as far as we may set it, owner.
fn has_same_mode(a: &Stat, b: &Stat) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    a.st_mode == b.st_mode && (!is_root || (a.st_uid, a.st_gid) == (b.st_uid, b.st_gid))
}

/// Returns whether two files of one kind have the same bytes, lead to the same place or are the same device.
///
/// # Errors
/// What the host answers.
pub(crate) fn has_same_content(a: (Place<'_>, &Stat), b: (Place<'_>, &Stat)) -> Result<bool, Errno> {
    match kind(a.1) {
        one if one != kind(b.1) => Ok(false),
        FileType::RegularFile => {
            let size = u64::try_from(a.1.st_size).unwrap_or(0);
            Ok(a.1.st_size == b.1.st_size && has_same_bytes(&open(a.0)?, &open(b.0)?, size)?)
        }
        FileType::Symlink => {
            let target = |place: Place<'_>| readlinkat(place.directory, place.name, Vec::new());
            Ok(target(a.0)? == target(b.0)?)
        }
        _ => Ok(a.1.st_rdev == b.1.st_rdev),
    }
}

fn open(place: Place<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(place.directory, place.name, flags, Mode::empty())
}

fn has_same_bytes(a: &OwnedFd, b: &OwnedFd, size: u64) -> Result<bool, Errno> {
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        interrupt::check().map_err(|_| Errno::INTR)?;
        // What is a hole in both is the same.
        at = next_data(a, at, size)?.min(next_data(b, at, size)?);
        if at >= size {
            return Ok(true);
        }
        let want = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        let (left, right) = (read(a, &mut left, want, at)?, read(b, &mut right, want, at)?);
        if left != right || left.is_empty() {
            return Ok(false);
        }
        at += left.len() as u64;
    }
}

/// Where the next bytes are that may not be zeros; `size` where there are none.
fn next_data(file: &OwnedFd, at: u64, size: u64) -> Result<u64, Errno> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(data.min(size)),
        Err(Errno::NXIO) => Ok(size),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at), // it knows of no holes
        Err(error) => Err(error),
    }
}

/// So many bytes, or fewer at the end of the file.
fn read<'a>(file: &OwnedFd, buffer: &'a mut [u8], want: usize, at: u64) -> Result<&'a [u8], Errno> {
    let mut filled = 0;
    while filled < want {
        let rest = buffer.get_mut(filled..want).unwrap_or_default();
        match pread(file, rest, at + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}
