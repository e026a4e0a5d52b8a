//! One order of times over all files, whoever stamps them. What comes through the daemon gets its time from the precise
//! clock. What the kernel writes by itself, in passthrough or from its write-back cache, gets the time of the kernel's own
//! clock for files, which goes by ticks and would put it before what was written until then. While such files are open to be
//! written, all times are that clock's: it never goes back, and a time that was asked for is never before one that was given.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{MemfdFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat, futimens, memfd_create};
use rustix::time::{ClockId, clock_gettime};

use super::Timestamp;

/// How many open files, or volumes, the kernel gives times to.
static KERNEL_STAMPS: AtomicUsize = AtomicUsize::new(0);

/// How a kernel tells its clock for files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileClock {
    /// A file that is touched gets a time of its own if the one before was asked for, and no file gets an earlier one
    /// afterwards (Linux 6.13).
    Fine,
    /// By ticks, as `CLOCK_REALTIME_COARSE` has them.
    Coarse,
}

/// From now on the kernel gives times to files, too, until [`kernel_stamps_end`].
pub fn kernel_stamps_begin() {
    KERNEL_STAMPS.fetch_add(1, Ordering::SeqCst);
    if file_clock() == FileClock::Fine {
        raise();
    }
}

/// No file gets a time before those that were given until now.
fn raise() {
    let given = precise();
    // A file gets the time of the tick, or the last precise one that any got; where it has that already, and that was asked
    // for, it gets the precise one.
    for _ in 0..4 {
        if touched().is_ok_and(|touched| touched >= given) {
            return;
        }
    }
}

fn precise() -> Timestamp {
    std::time::SystemTime::now().into()
}

fn by_ticks() -> Timestamp {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Timestamp { secs: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or(0) }
}

/// Files may come to be opened so. Where the kernel's clock goes by ticks, all times are that clock's: one of ours from just
/// before would be later than those that the kernel gives.
pub fn kernel_stamps_are_possible() {
    if file_clock() == FileClock::Coarse {
        kernel_stamps_begin();
    }
}

/// One reason less.
pub fn kernel_stamps_end() {
    KERNEL_STAMPS.fetch_sub(1, Ordering::SeqCst);
}

/// The time to give to a file.
pub(super) fn now() -> Timestamp {
    if KERNEL_STAMPS.load(Ordering::SeqCst) == 0 {
        return precise();
    }
    match file_clock() {
        FileClock::Fine => touched().unwrap_or_else(|_| precise()),
        FileClock::Coarse => by_ticks(),
    }
}

/// Asks the kernel once.
fn file_clock() -> FileClock {
    static KNOWN: OnceLock<FileClock> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let distinct = || Ok::<_, rustix::io::Errno>(touched()? <= touched()? && touched()? < touched()?);
        if distinct().unwrap_or(false) { FileClock::Fine } else { FileClock::Coarse }
    })
}

/// The time that the kernel gives to a file that is touched now.
fn touched() -> rustix::io::Result<Timestamp> {
    thread_local! {
        static FILE: rustix::io::Result<OwnedFd> = {
            let file = memfd_create("agentfs-clock", MemfdFlags::CLOEXEC);
            // A time that nobody asked for may be one that others have, too.
            file.and_then(|file| fstat(&file).map(|_| file))
        };
    }
    FILE.with(|file| {
        let file = file.as_ref().map_err(|error| *error)?;
        let time = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
        futimens(file, &Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) })?;
        let stat = fstat(file)?;
        Ok(Timestamp { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 })
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn times_of_ours_and_of_the_kernel_are_in_one_order() {
        let mut file = tempfile::tempfile_in(".").unwrap();
        let mut last = Timestamp::now();
        for round in 0..1000 {
            if round % 5 == 0 {
                last = Timestamp::now();
            }
            kernel_stamps_begin();
            file.write_all(b"x").unwrap();
            if round % 3 == 0 {
                let own = Timestamp::now();
                assert!(own >= last, "round {round}: {own:?} {last:?}");
                last = own;
                file.write_all(b"x").unwrap();
            }
            let meta = file.metadata().unwrap();
            let kernels = Timestamp { secs: meta.mtime(), nanos: meta.mtime_nsec() as u32 };
            if file_clock() == FileClock::Fine {
                assert!(kernels >= last, "round {round}: {kernels:?} {last:?}");
                last = kernels;
            }
            kernel_stamps_end();
            // In the middle of a tick.
            std::thread::sleep(std::time::Duration::from_micros(round % 7 * 300));
        }
    }
}
