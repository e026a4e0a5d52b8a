//! What can go wrong, in the core's own words. Adapters map each to an errno in one exhaustive table.

use std::io;

/// Why an operation failed. Nothing was changed, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// No such branch or snapshot; the text says which was asked for.
    #[error("{0}")]
    UnknownVersion(String),
    /// The inode, view or handle is gone.
    #[error("the file or its branch no longer exists")]
    Stale,
    /// The handle is unknown, or not open for this.
    #[error("bad file handle")]
    BadHandle,
    /// The name is taken.
    #[error("the name exists already")]
    Exists,
    /// The name of a branch or snapshot is taken; the text says which.
    #[error("{0}")]
    NameTaken(String),
    /// A directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory will not do.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// Longer than a name or a symlink target may be.
    #[error("the name is too long")]
    NameTooLong,
    /// The argument makes no sense; the text says why.
    #[error("{0}")]
    InvalidArgument(&'static str),
    /// The name given to a branch or snapshot is not allowed; the text says why.
    #[error("{0}")]
    BadName(String),
    /// A rename or link between two branches.
    #[error("the two names are in different branches")]
    CrossBranch,
    /// A snapshot is never written.
    #[error("a snapshot is read-only")]
    ReadOnly,
    /// The operation is not allowed on this kind of file.
    #[error("operation not permitted")]
    NotPermitted,
    /// It cannot be told which process asks, and so which branch is meant.
    #[error("it cannot be told which process asks, while processes are bound to branches")]
    UnknownCaller,
    /// This request is not supported; the text says which.
    #[error("{0}")]
    Unsupported(&'static str),
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The extended attribute is larger than 64 KiB.
    #[error("the extended attribute is too large")]
    AttributeTooLarge,
    /// An offset beyond the data.
    #[error("no data at or after this offset")]
    NoData,
    /// The largest file size was passed.
    #[error("the file would be too large")]
    FileTooLarge,
    /// The largest number of hard links was reached.
    #[error("too many links")]
    TooManyLinks,
    /// `limits.max_open_handles` was reached.
    #[error("too many open files in this volume")]
    TooManyHandles,
    /// `limits.max_branch_bytes` or `limits.max_branch_inodes` was reached.
    #[error("the branch holds as much as its quota allows")]
    QuotaExceeded,
    /// `limits.max_bytes` or `limits.max_inodes` was reached.
    #[error("the volume holds as much as its quota allows")]
    VolumeFull,
    /// A limit on branches, snapshots or inodes was reached; the text says which.
    #[error("{0}")]
    LimitReached(String),
    /// The file is being opened in another way; the operation is to be tried again.
    #[error("the file is being opened")]
    Contended,
    /// A file of the lower directory is not what a branch or snapshot relies on; the text says which.
    #[error(
        "{0:?} in the lower directory changed since this branch or snapshot relies on it; branch anew to see it as it is"
    )]
    Changed(String),
    /// Whoever asked for it does not want it any more.
    #[error("cancelled: nothing was changed")]
    Cancelled,
    /// The volume does not allow it; the text says why.
    #[error("{0}")]
    Refused(String),
    /// It is in use, or others grew from it; the text says by what.
    #[error("{0}")]
    Busy(String),
    /// What the kernel keeps of a file could not be written out; the text says of which.
    #[error("what programs wrote to {0:?} cannot be written out: {1}")]
    Unwritten(String, io::Error),
    /// The store's host failed.
    #[error("the store failed: {0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for FsError {
    fn from(errno: rustix::io::Errno) -> FsError {
        FsError::Io(errno.into())
    }
}

impl FsError {
    /// An earlier write to the log failed: changes are refused until the volume is mounted again.
    pub(crate) fn read_only_store() -> FsError {
        rustix::io::Errno::ROFS.into()
    }

    /// What the store holds is not what was put there.
    pub(crate) fn damaged(what: &str) -> FsError {
        FsError::Io(io::Error::new(io::ErrorKind::InvalidData, what))
    }

    /// The store's host is full.
    pub(crate) fn no_space() -> FsError {
        rustix::io::Errno::NOSPC.into()
    }
}

/// The result of an operation of the core.
pub type Result<T, E = FsError> = std::result::Result<T, E>;
