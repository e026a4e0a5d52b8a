//! What the host can do, tried out.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use super::device::COARSE_TICK;
use crate::types::Timestamp;

/// Changes that take far less time than as many ticks of a coarse clock.
const PROBES: u8 = 32;
const FEW_TICKS: Duration = Duration::from_millis(8);
/// From `linux/magic.h`.
const TMPFS_MAGIC: fs::FsWord = 0x0102_1994;

/// Tries a reflink between two unnamed files.
pub(super) fn probe_reflink(objects: &OwnedFd) -> io::Result<bool> {
    let (from, to) = (scratch(objects, "probe-from")?, scratch(objects, "probe-to")?);
    rustix::io::pwrite(&from, &[1; 4096], 0)?;
    Ok(fs::ioctl_ficlone(&to, &from).is_ok())
}

/// Is each change noted at a time of its own once the last one was asked for (Linux 6.13, for ext4, xfs and btrfs)?
pub(super) fn has_fine_times(objects: &OwnedFd) -> io::Result<bool> {
    let (file, mut times, begun) = (scratch(objects, "probe-times")?, HashSet::new(), Instant::now());
    // It does not note what is stored through mmap but for the first time.
    if fs::fstatfs(&file)?.f_type == TMPFS_MAGIC {
        return Ok(false);
    }
    for n in 0..PROBES {
        rustix::io::pwrite(&file, &[n], 0)?;
        let stat = fs::fstat(&file)?;
        times.insert((stat.st_ctime, stat.st_ctime_nsec));
    }
    Ok(times.len() == usize::from(PROBES) && begun.elapsed() < FEW_TICKS)
}

/// A file that is gone when closed.
fn scratch(objects: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::CREATE;
    let file = fs::openat(objects, name, flags, Mode::RUSR | Mode::WUSR)?;
    fs::unlinkat(objects, name, AtFlags::empty())?;
    Ok(file)
}

/// Waits until the clock by which the host stamps changes is past a moment, a tick of it at most; not at all when it is far
/// from there, because it was set.
pub(crate) fn await_coarse_clock(moment: Timestamp) {
    let now = || {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
    };
    let begun = Instant::now();
    while now() <= moment && begun.elapsed() < 4 * COARSE_TICK {
        thread::sleep(Duration::from_micros(500));
    }
}
