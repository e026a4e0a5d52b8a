//! What a version knows of names in the lower directory that it has taken over: what lay there when it did, or what its
//! last `apply` put there. Keyed by the path below, so that it holds whatever becomes of the name here.

use crate::types::{InodeId, Timestamp};

/// What lies at a path of the lower directory, as far as a version relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowerEntry {
    /// Nothing.
    Absent,
    /// A directory. What is in it is known by entries of its own.
    Directory {
        /// The directory of which it is a copy that `apply` made; what the two hold is compared name by name.
        copy_of: Option<DirectoryCopy>,
    },
    /// Anything else.
    File {
        /// The change token of the file: see [`crate::change_token`].
        token: u64,
        /// The inode of which the file is a copy; it still is if that has not been changed since.
        copy_of: Option<CopySource>,
    },
}

/// An inode at the moment when a lower file was the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// The inode.
    pub ino: InodeId,
    /// When it had been changed last.
    pub changed: Timestamp,
}

/// A directory of a version, as it was written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryCopy {
    /// The inode.
    pub ino: InodeId,
    /// Its attributes then: see [`crate::Inode::attributes`].
    pub attributes: u64,
}

impl LowerEntry {
    /// Returns whether there is something.
    pub fn is_present(self) -> bool {
        self != LowerEntry::Absent
    }
}
