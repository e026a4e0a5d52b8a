//! What a branch relies on in the directory that it is written out to. What is not so was changed by somebody else.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agentfs_proto::change_token;
use agentfs_proto::result::RelianceRecord;
use rustix::fs::Stat;

/// What a branch relies on at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reliance {
    /// Nothing is there.
    Absent,
    /// A directory is there.
    Directory,
    /// A file with this change token is there.
    File(u64),
    /// What is there has this change token or was not changed after this time, in Unix nanoseconds.
    Until(u64, u64),
    /// The branch shows what is there, as it was when the branch came to rely on it.
    Shown,
    /// The branch does not show what is there, nor was it there when it was hidden.
    Unknown,
}

/// What a branch relies on.
pub(super) struct Reliances {
    by_path: HashMap<PathBuf, Reliance>,
    shown: HashSet<PathBuf>,
    since_ns: u64,
}

impl Reliances {
    /// As the daemon tells it.
    pub(super) fn new(records: &[RelianceRecord], shown: &[Vec<u8>], since_ns: u64) -> Self {
        let by_path = records.iter().map(|record| {
            let reliance = match record.kind.as_slice() {
                b"absent" => Reliance::Absent,
                b"directory" => Reliance::Directory,
                b"file" => Reliance::File(record.token),
                b"until" => Reliance::Until(record.token, record.until_ns),
                _ => Reliance::Unknown,
            };
            (path(&record.path), reliance)
        });
        let shown = shown.iter().map(|shown| path(shown)).collect();
        Self { by_path: by_path.collect(), shown, since_ns }
    }

    /// What is relied on at a path.
    pub(super) fn at(&self, path: &Path) -> Reliance {
        if let Some(known) = self.by_path.get(path) {
            return *known;
        }
        for above in path.ancestors().skip(1) {
            if self.shown.contains(above) {
                return Reliance::Shown;
            }
            match self.by_path.get(above) {
                None => {}
                Some(known @ Reliance::Until(..)) => return *known,
                Some(_) => return Reliance::Unknown,
            }
        }
        Reliance::Unknown
    }

    /// Returns whether a file at a path is the one that is relied on.
    pub(super) fn holds(&self, path: &Path, stat: &Stat) -> bool {
        match self.at(path) {
            Reliance::File(token) => token_of(stat) == token,
            Reliance::Until(token, until) => token_of(stat) == token || changed_ns(stat) <= until,
            Reliance::Shown => changed_ns(stat) <= self.since_ns,
            Reliance::Absent | Reliance::Directory | Reliance::Unknown => false,
        }
    }

    /// Returns whether the branch relies on a directory at a path. What is in it is asked for by itself.
    pub(super) fn has_directory(&self, path: &Path) -> bool {
        match self.at(path) {
            Reliance::Directory | Reliance::Until(..) | Reliance::Shown => true,
            Reliance::Absent | Reliance::File(_) | Reliance::Unknown => false,
        }
    }

    /// Returns whether the branch relies on something at a path that it has taken over.
    pub(super) fn has_anything(&self, path: &Path) -> bool {
        match self.at(path) {
            Reliance::Directory | Reliance::File(_) => true,
            Reliance::Absent | Reliance::Until(..) | Reliance::Shown | Reliance::Unknown => false,
        }
    }
}

/// The change token of a file as it is.
pub(super) fn token_of(stat: &Stat) -> u64 {
    change_token(stat.st_ino, changed_ns(stat))
}

fn changed_ns(stat: &Stat) -> u64 {
    let secs = u64::try_from(stat.st_ctime).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(stat.st_ctime_nsec)
}

/// A path as the daemon tells it.
pub(super) fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
