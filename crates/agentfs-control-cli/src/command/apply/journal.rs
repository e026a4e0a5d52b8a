//! What an apply is about to do, written down before it begins: the next run finishes one that was killed. Every step tells
//! by what it finds whether it is still to be done.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use agentfs_proto::record::Time;
use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

use super::reliance::token_of;

/// The layout of the file.
pub(super) const VERSION: u32 = 1;

/// All of an apply that is to be done.
#[derive(Serialize, Deserialize)]
pub(super) struct Journal {
    /// The id of the branch.
    pub(super) branch: String,
    /// In order.
    pub(super) steps: Vec<Step>,
    /// What was there already as it is to be.
    pub(super) notes: Vec<Note>,
    /// Files that lose or get names: all names, and what was found there.
    pub(super) linked: Vec<(StoredPath, FileState)>,
}

/// One thing to do.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Step {
    /// Gives a file another name, that of a staged file.
    Link { from: StoredPath, found: FileState, staged: u64 },
    /// Lets its owner change a directory.
    Unlock { path: StoredPath },
    /// Removes a file.
    Remove { path: StoredPath, found: FileState },
    /// Removes an empty directory.
    RemoveDirectory { path: StoredPath },
    /// Makes a directory, which is open to its owner alone until it is dressed.
    MakeDirectory { path: StoredPath },
    /// Moves a staged file, of this inode, to its place.
    Put { path: StoredPath, staged: u64, ino: u64, found: Option<FileState>, source: Source },
    /// Gives a directory the attributes of a staged one.
    Dress { path: StoredPath, staged: u64, ino: u64, is_new: bool },
}

/// Something that the branch is to rely on.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Note {
    /// A file, if it still is what was found.
    File {
        path: StoredPath,
        found: FileState,
        source: Source,
    },
    Directory {
        path: StoredPath,
        ino: u64,
    },
    Removed {
        path: StoredPath,
    },
}

/// A path, whatever its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredPath(Vec<u8>);

impl StoredPath {
    pub(super) fn of(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }

    pub(super) fn get(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.clone()))
    }
}

/// What a file in the branch was when it was frozen.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Source {
    /// Its inode number there, without the number of the view.
    pub(super) ino: u64,
    /// When it had been changed last; `None` when it may have been changed since at the same time.
    changed: Option<(i64, u32)>,
}

/// Bits of an inode number that are the same in all views.
const INODE_BITS: u32 = 33;
/// So long before a moment a change has an earlier time for sure, on a host that tells times by ticks.
pub(super) const TICKS_NS: u64 = 20_000_000;

impl Source {
    /// Of a file in a view that was frozen at a moment, in Unix nanoseconds.
    pub(super) fn of(stat: &Stat, frozen_ns: i128) -> Self {
        let changed_ns = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
        let is_certain = changed_ns + i128::from(TICKS_NS) <= frozen_ns;
        let changed = is_certain.then_some((stat.st_ctime, stat.st_ctime_nsec as u32));
        Self { ino: inode_number(stat.st_ino), changed }
    }

    pub(super) fn time(&self) -> Option<Time> {
        self.changed.map(|(secs, nanos)| Time { secs: secs as u64, nanos })
    }
}

/// The number that an inode has in all views.
pub(super) fn inode_number(node: u64) -> u64 {
    node & ((1 << INODE_BITS) - 1)
}

/// A file as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    pub(super) ino: u64,
    /// Its change token.
    pub(super) token: u64,
    size: i64,
    modified: (i64, u64),
    /// Its mode, user and group.
    attributes: (u32, u32, u32),
    /// It loses or gets names by what is done: its change token becomes another.
    pub(super) is_linked: bool,
}

impl FileState {
    pub(super) fn of(stat: &Stat) -> Self {
        let modified = (stat.st_mtime, stat.st_mtime_nsec);
        let (ino, token, size) = (stat.st_ino, token_of(stat), stat.st_size);
        let attributes = (stat.st_mode, stat.st_uid, stat.st_gid);
        Self { ino, token, size, modified, attributes, is_linked: stat.st_nlink > 1 }
    }

    /// The same of a file that is to get a name.
    pub(super) fn linked(self) -> Self {
        Self { is_linked: true, ..self }
    }

    /// Returns whether a file still is what was found.
    pub(super) fn holds(&self, stat: &Stat) -> bool {
        let attributes = (stat.st_mode, stat.st_uid, stat.st_gid);
        self.token == token_of(stat)
            || self.is_linked && self.has_content_of(stat) && self.attributes == attributes
    }

    /// Returns whether a file has not been written to, whatever names it has.
    pub(super) fn has_content_of(&self, stat: &Stat) -> bool {
        (self.ino, self.size, self.modified)
            == (stat.st_ino, stat.st_size, (stat.st_mtime, stat.st_mtime_nsec))
    }
}
