//! A binding: what the mark of a process means.

use std::io;

use agentfs_core::{BranchId, FsError, ViewId};
use serde::{Deserialize, Serialize};

use super::mark::Mark;

/// How a process came to see a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// `branch-bind`: the mount point shows it the branch.
    Bound,
    /// `branch-exec`: it has a mount of the branch.
    Exec,
}

/// A mark and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Binding {
    pub(crate) mark: Mark,
    pub(crate) kind: Kind,
    #[serde(with = "hexadecimal")]
    pub(crate) branch: BranchId,
    #[serde(skip, default = "no_view")]
    pub(crate) view: ViewId,
    /// The process it was given to.
    pub(crate) pid: u32,
    /// When that process was started, in ticks since the boot.
    pub(crate) started: u64,
    /// In Unix milliseconds.
    pub(crate) since_ms: u64,
    /// What that process carried before.
    pub(crate) outer: Option<Mark>,
    /// Of `branch-exec`: the mount namespace in which the branch is. Who is in it lives in the branch.
    #[serde(default)]
    pub(crate) namespace: Option<u64>,
}

/// What a branch that is gone shows: errors.
pub(super) fn no_view() -> ViewId {
    ViewId(u32::MAX)
}

mod hexadecimal {
    use agentfs_core::BranchId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &BranchId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BranchId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom("not an id"))
    }
}

/// A living process and its binding.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) pid: u32,
    pub(crate) command: String,
    pub(crate) binding: Binding,
}

/// Why a process cannot be bound.
pub(super) fn refusal(pid: u32, error: &io::Error) -> FsError {
    match error.raw_os_error() {
        Some(libc::ESRCH) => FsError::UnknownVersion(format!("there is no process {pid}")),
        Some(libc::EPERM) => FsError::Refused(format!(
            "process {pid} belongs to another user than the daemon: only a daemon that runs as root can bind it"
        )),
        Some(libc::EINVAL) => FsError::Refused(format!(
            "process {pid} has a hard limit on real-time processor time (RLIMIT_RTTIME), so it cannot carry a binding: \
             raise the limit to unlimited"
        )),
        _ => FsError::Refused(format!("process {pid} cannot be bound: {error}")),
    }
}
