//! Whether two files are the same: by their bytes and attributes, never by size and time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, Stat, openat, readlinkat};
use rustix::io::Errno;

use super::file::xattrs;
use super::{Place, kind};

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
    if kind(a.1) == FileType::RegularFile {
        let (left, right) = (open(a.0)?, open(b.0)?);
        if xattrs(left.as_fd())? != xattrs(right.as_fd())? {
            return Ok(Sameness::Different);
        }
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
    Ok(has_same_mode(a_stat, b_stat) && xattrs(a)? == xattrs(b)?)
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
        FileType::RegularFile => Ok(a.1.st_size == b.1.st_size && has_same_bytes(open(a.0)?, open(b.0)?)?),
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

fn has_same_bytes(a: OwnedFd, b: OwnedFd) -> Result<bool, Errno> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let reader = |file: OwnedFd| BufReader::with_capacity(CHUNK, File::from(file));
    let (mut a, mut b) = (reader(a), reader(b));
    loop {
        let (left, right) = (a.fill_buf().map_err(failed)?, b.fill_buf().map_err(failed)?);
        let len = left.len().min(right.len());
        if len == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left.get(..len) != right.get(..len) {
            return Ok(false);
        }
        a.consume(len);
        b.consume(len);
    }
}
