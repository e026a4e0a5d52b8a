//! How often the kernel asked for what, and how long the answers took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

macro_rules! requests {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A kind of request. In the order of its names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Request { $($variant),* }

        impl Request {
            const NAMES: &'static [&'static str] = &[$($name),*];
        }
    };
}

requests! {
    Access "access",
    CopyFileRange "copy_file_range",
    Create "create",
    Fallocate "fallocate",
    Flush "flush",
    Forget "forget",
    Fsync "fsync",
    Fsyncdir "fsyncdir",
    Getattr "getattr",
    Getxattr "getxattr",
    Ioctl "ioctl",
    Link "link",
    Listxattr "listxattr",
    Lookup "lookup",
    Lseek "lseek",
    Mkdir "mkdir",
    Mknod "mknod",
    Open "open",
    Opendir "opendir",
    Read "read",
    Readdir "readdir",
    Readdirplus "readdirplus",
    Readlink "readlink",
    Release "release",
    Releasedir "releasedir",
    Removexattr "removexattr",
    Rename "rename",
    Rmdir "rmdir",
    Setattr "setattr",
    Setxattr "setxattr",
    Statfs "statfs",
    Symlink "symlink",
    Unlink "unlink",
    Write "write",
}

impl Request {
    /// May an answer take long: by I/O on content, or because much is asked for?
    pub(crate) fn may_wait(self) -> bool {
        use Request::{
            CopyFileRange, Fallocate, Fsync, Fsyncdir, Lseek, Read, Readdir, Readdirplus, Setattr, Statfs,
            Write,
        };
        matches!(
            self,
            CopyFileRange
                | Fallocate
                | Fsync
                | Fsyncdir
                | Lseek
                | Read
                | Readdir
                | Readdirplus
                | Setattr
                | Statfs
                | Write
        )
    }
}

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    nanos: AtomicU64,
}

/// Counters of all requests.
pub(crate) struct Metrics {
    counters: Vec<Counter>,
    started: Instant,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let counters = Request::NAMES.iter().map(|_| Counter::default()).collect();
        Metrics { counters, started: Instant::now() }
    }

    /// A request was served by its thread within `took`.
    pub(crate) fn count(&self, request: Request, took: Duration) {
        if let Some(counter) = self.counters.get(request as usize) {
            counter.count.fetch_add(1, Ordering::Relaxed);
            counter.nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// All kinds of request that were made: name, count, nanoseconds in all.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let counters = Request::NAMES.iter().zip(&self.counters);
        counters
            .map(|(name, c)| (*name, c.count.load(Ordering::Relaxed), c.nanos.load(Ordering::Relaxed)))
            .filter(|(_, count, _)| *count > 0)
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
