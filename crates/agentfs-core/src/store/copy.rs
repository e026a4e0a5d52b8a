//! Copying a stretch of one file of the store into another: inside the host where it can, holes staying holes.

use std::io;

use rustix::fs;
use rustix::io::Errno;

use super::{ObjectFile, Seek, no_space};

/// Bytes copied at once where the host cannot do it by itself.
const CHUNK: usize = 1 << 20;

/// Copies `len` bytes at `at` of `from` to `to_at` of `to`, or less when `from` has less, or an error comes after some.
/// `to` becomes as long as need be.
///
/// # Errors
/// What the host answers before anything was copied; `InvalidData` when there is nothing at `at`.
pub fn copy_range(
    from: &dyn ObjectFile,
    at: u64,
    to: &dyn ObjectFile,
    to_at: u64,
    len: u64,
) -> io::Result<u64> {
    let len = len.min(from.stat()?.len.saturating_sub(at));
    if len == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the content is shorter than the file"));
    }
    let mut done = 0;
    while done < len {
        match copy_next(from, at + done, to, to_at + done, len - done) {
            Ok(0) => break,
            Ok(copied) => done += copied,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

/// Makes an empty file the first `len` bytes of another, or all that has.
///
/// # Errors
/// What the host answers.
pub(super) fn copy_all(from: &dyn ObjectFile, to: &dyn ObjectFile, len: u64) -> io::Result<()> {
    let (len, mut done) = (len.min(from.stat()?.len), 0);
    while done < len {
        match copy_next(from, done, to, done, len - done)? {
            0 => break,
            copied => done += copied,
        }
    }
    Ok(())
}

/// Copies what comes next, data or a hole, not past its end.
fn copy_next(from: &dyn ObjectFile, at: u64, to: &dyn ObjectFile, to_at: u64, len: u64) -> io::Result<u64> {
    let data = from.seek(Seek::Data, at)?.map_or(len, |data| (data - at).min(len));
    if data > 0 {
        return make_hole(to, to_at, data).map(|()| data);
    }
    let hole = from.seek(Seek::Hole, at)?.map_or(len, |hole| (hole - at).min(len));
    match (from.descriptor(), to.descriptor()) {
        (Some(source), Some(target)) => {
            let (mut source_at, mut target_at) = (at, to_at);
            let want = usize::try_from(hole).unwrap_or(usize::MAX);
            match fs::copy_file_range(source, Some(&mut source_at), target, Some(&mut target_at), want) {
                // To another filesystem the kernel copies only by way of us, and to one that was read-only a while ago.
                Err(Errno::XDEV | Errno::BADF | Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {
                    copy_bytes(from, at, to, to_at, hole.min(CHUNK as u64) as usize)
                }
                copied => Ok(copied? as u64),
            }
        }
        _ => copy_bytes(from, at, to, to_at, hole.min(CHUNK as u64) as usize),
    }
}

/// Makes `[at, at + len)` zeros that take no space.
fn make_hole(to: &dyn ObjectFile, at: u64, len: u64) -> io::Result<()> {
    let has = to.stat()?.len;
    if at < has {
        to.punch(at, len.min(has - at))?;
    }
    if at + len > has { to.set_len(at + len) } else { Ok(()) }
}

fn copy_bytes(
    from: &dyn ObjectFile,
    at: u64,
    to: &dyn ObjectFile,
    to_at: u64,
    len: usize,
) -> io::Result<u64> {
    let mut bytes = vec![0; len];
    let read = from.read_at(&mut bytes, at)?;
    let written = to.write_at(bytes.get(..read).unwrap_or_default(), to_at)?;
    if written == 0 && read > 0 { Err(no_space()) } else { Ok(written as u64) }
}
