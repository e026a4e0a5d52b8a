//! What a client asks for.
//!
//! A request is one SSZ union: its selector, then a container of the protocol's version and the payload;
//! or the version alone where there is nothing more to say. Snapshots and branches are named by id or by
//! name. Strings are bytes on the wire; whether they are UTF-8 is for the daemon to check.

use ssz::{Decode, Encode, SszDecoderBuilder, SszEncoder};
use ssz_derive::{Decode, Encode};

use crate::error::DecodeError;
use crate::limits::VERSION;
use crate::record::{TokenEntry, WrittenEntry};

/// The table of requests: a selector for each message, for encoding and decoding alike.
macro_rules! requests {
    (
        with payload { $($(#[$payload_doc:meta])* $selector:literal $Payload:ident,)* }
        version alone { $($(#[$bare_doc:meta])* $bare_selector:literal $Bare:ident,)* }
    ) => {
        /// One request, of the only version there is.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request {
            $($(#[$payload_doc])* $Payload($Payload),)*
            $($(#[$bare_doc])* $Bare,)*
        }

        impl Request {
            /// The bytes of the message, which [`crate::frame::encode`] takes.
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Self::$Payload(payload) => versioned($selector, payload),)*
                    $(Self::$Bare => [&[$bare_selector], VERSION].concat(),)*
                }
            }

            /// Reads a message. The version is judged before the payload, which another version may change.
            pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
                let (selector, rest) = body.split_first().ok_or(DecodeError::Malformed)?;
                match selector {
                    $($selector => unversioned(rest).map(Self::$Payload),)*
                    $($bare_selector => check_version(rest.to_vec()).map(|()| Self::$Bare),)*
                    unknown => Err(DecodeError::UnknownSelector(*unknown)),
                }
            }
        }

        $(impl From<$Payload> for Request {
            fn from(payload: $Payload) -> Self {
                Self::$Payload(payload)
            }
        })*
    };
}

// Selectors 8 to 91 belong to other transports of the earlier system, and 92 is the error: never use them. 110 and 113
// were `apply`'s until it began to go by paths: never use them again.
requests! {
    with payload {
        /// Freezes the view that the control file was opened in.
        0 SnapshotCreate,
        /// Mounts a snapshot for reading outside the volume.
        2 SnapshotExport,
        /// Ends such an export.
        3 SnapshotExportRelease,
        /// Grows a branch from a snapshot or a branch.
        4 BranchCreate,
        /// Shows a branch to a process and its children.
        5 BranchBind,
        /// Shows a process the main branch again.
        6 BranchUnbind,
        /// Drops a branch and what only it holds.
        7 BranchDelete,
        /// One page of all branches.
        95 BranchList,
        /// One page of all snapshots.
        96 SnapshotPage,
        /// Drops a snapshot.
        97 SnapshotDelete,
        /// Gives a snapshot another name.
        98 SnapshotRename,
        /// Gives a branch another name.
        99 BranchRename,
        /// One page of how often the kernel asked for what.
        101 RequestCounts,
        /// Freezes a branch that is named.
        102 BranchSnapshot,
        /// Freezes a branch that is named, and makes all content durable that was written until then.
        103 SyncedSnapshot,
        /// Tells which branch a process sees, and why.
        104 Whoami,
        /// Lets the process that asks live in a branch, in a mount of its own that it makes itself.
        105 BranchEnter,
        /// One page of the processes that see another branch than main, or live in one.
        106 ProcessList,
        /// What a branch holds alone and what it shares.
        107 BranchUsage,
        /// Unmounts the volume and ends its daemon.
        108 Stop,
        /// Freezes a branch also when files in it are written all the while, past the daemon.
        109 FuzzySnapshot,
        /// Has branches keep files of the directory that the volume lies over, which are about to be changed.
        112 KeepLower,
        /// Begins to compare two trees.
        114 DiffStart,
        /// Begins to merge a branch or a snapshot into a branch.
        115 MergeStart,
        /// Begins to put a branch back to a snapshot.
        116 RestoreStart,
        /// Asks how far a job is.
        118 JobPoll,
        /// Reads a part of what a job that has ended found.
        119 JobRead,
        /// Cancels a job, or forgets one that has ended.
        120 JobEnd,
        /// One page of what was merged, restored, deleted and undone.
        121 Events,
        /// Deletes a branch and keeps its last state as a snapshot.
        122 BranchDiscard,
        /// Begins to collect what a branch changes of the directory that the volume lies over.
        123 ApplyStart,
        /// Notes what was written to the directory that the volume lies over.
        124 ApplyNote,
        /// Keeps the state of a branch before files are copied into it.
        125 ImportBegin,
        /// Closes or opens the gate to new snapshots and branches while files of the directory below are replaced.
        126 ApplyGate,
    }
    version alone {
        /// All snapshots in one response, which fails when they do not fit; [`SnapshotPage`] has no such limit.
        1 SnapshotList,
        /// The daemon's state.
        100 Status,
        /// The directory that the volume lies over.
        111 Lower,
        /// Begins to undo what was merged, restored or deleted last.
        117 UndoStart,
    }
}

/// Payload of [`Request::SnapshotCreate`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotCreate {
    /// The name it gets.
    pub name: Option<Vec<u8>>,
}

/// Payload of [`Request::SnapshotExport`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotExport {
    /// Its id or name.
    pub snapshot: Vec<u8>,
}

/// Payload of [`Request::SnapshotExportRelease`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotExportRelease {
    /// What the export answered.
    pub cleanup_token: Vec<u8>,
}

/// Payload of [`Request::BranchCreate`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchCreate {
    /// The snapshot or branch it grows from, by id or name.
    pub from: Vec<u8>,
    /// The name it gets.
    pub name: Option<Vec<u8>>,
}

/// Payload of [`Request::BranchBind`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchBind {
    /// Its id or name.
    pub branch: Vec<u8>,
    /// The process; None is the one that asks.
    pub pid: Option<u32>,
}

/// Payload of [`Request::BranchUnbind`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchUnbind {
    /// The process; None is the one that asks.
    pub pid: Option<u32>,
}

/// Payload of [`Request::BranchDelete`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchDelete {
    /// Its id or name.
    pub branch: Vec<u8>,
    /// Delete it although snapshots of it or branches grown from it exist.
    pub force: bool,
}

/// Payload of [`Request::BranchList`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchList {
    /// The `next` of the page before; None for the first page.
    pub after: Option<Vec<u8>>,
}

/// Payload of [`Request::SnapshotPage`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotPage {
    /// The `next` of the page before; None for the first page.
    pub after: Option<Vec<u8>>,
}

/// Payload of [`Request::SnapshotDelete`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotDelete {
    /// Its id or name.
    pub snapshot: Vec<u8>,
}

/// Payload of [`Request::SnapshotRename`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotRename {
    /// Its id or name.
    pub snapshot: Vec<u8>,
    /// The new name.
    pub name: Vec<u8>,
}

/// Payload of [`Request::BranchRename`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchRename {
    /// Its id or name.
    pub branch: Vec<u8>,
    /// The new name.
    pub name: Vec<u8>,
}

/// Payload of [`Request::RequestCounts`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RequestCounts {
    /// The `next` of the page before; None for the first page.
    pub after: Option<Vec<u8>>,
}

/// Payload of [`Request::BranchSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchSnapshot {
    /// Its id or name; empty is the branch of the view that the control file was opened in.
    pub branch: Vec<u8>,
    /// The name the snapshot gets.
    pub name: Option<Vec<u8>>,
}

/// Payload of [`Request::SyncedSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SyncedSnapshot {
    /// Its id or name; empty is the branch of the view that the control file was opened in.
    pub branch: Vec<u8>,
    /// The name the snapshot gets.
    pub name: Option<Vec<u8>>,
}

/// Payload of [`Request::FuzzySnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FuzzySnapshot {
    /// Its id or name; empty is the branch of the view that the control file was opened in.
    pub branch: Vec<u8>,
    /// The name the snapshot gets.
    pub name: Option<Vec<u8>>,
}

/// Payload of [`Request::ApplyStart`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ApplyStart {
    /// The id or name of the branch or snapshot.
    pub of: Vec<u8>,
}

/// Payload of [`Request::KeepLower`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeepLower {
    /// Paths in that directory.
    pub paths: Vec<Vec<u8>>,
    /// Is all that is in a directory kept, too?
    pub deep: bool,
}

/// Payload of [`Request::ApplyNote`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ApplyNote {
    /// The branch that was written out, by id or name; empty when nothing of one is noted.
    pub branch: Vec<u8>,
    /// What lies at paths of the directory now: the branch relies on it.
    pub written: Vec<WrittenEntry>,
    /// Files of the directory that have other change tokens although nobody changed them: names of theirs came or went.
    pub tokens: Vec<TokenEntry>,
}

/// Payload of [`Request::ImportBegin`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ImportBegin {
    /// The branch, by id or name.
    pub branch: Vec<u8>,
}

/// Payload of [`Request::ApplyGate`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ApplyGate {
    /// New snapshots and branches wait from now on, until the gate is opened or the process that closed it ends.
    pub is_closed: bool,
}

/// Payload of [`Request::DiffStart`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DiffStart {
    /// A snapshot or a branch by id or name, or `lower`.
    pub a: Vec<u8>,
    /// Another.
    pub b: Vec<u8>,
    /// Also what is in directories called `.git`.
    pub with_git: bool,
    /// Also what the second's `.agentfsignore` leaves out.
    pub all: bool,
}

/// Payload of [`Request::MergeStart`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MergeStart {
    /// The branch or the snapshot, by id or name.
    pub source: Vec<u8>,
    /// The branch that is merged into; None is the one that the source grew from.
    pub into: Option<Vec<u8>>,
    /// What becomes of conflicts: `refuse`, `ours`, `theirs` or `markers`.
    pub conflicts: Vec<u8>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Take `.git` directories whole from the source.
    pub with_git: bool,
    /// Also what the source's `.agentfsignore` leaves out.
    pub all: bool,
}

/// Payload of [`Request::RestoreStart`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RestoreStart {
    /// The branch, by id or name.
    pub branch: Vec<u8>,
    /// The snapshot, by id or name.
    pub from: Vec<u8>,
    /// What is put back, and all below it; none is the whole branch.
    pub paths: Vec<Vec<u8>>,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

/// Payload of [`Request::JobPoll`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JobPoll {
    /// The job.
    pub job: u64,
}

/// Payload of [`Request::JobRead`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JobRead {
    /// The job.
    pub job: u64,
    /// From which byte on.
    pub offset: u64,
}

/// Payload of [`Request::JobEnd`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JobEnd {
    /// The job.
    pub job: u64,
}

/// Payload of [`Request::Events`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Events {
    /// The `next` of the page before; None for the first page.
    pub after: Option<Vec<u8>>,
}

/// Payload of [`Request::BranchDiscard`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchDiscard {
    /// Its id or name.
    pub branch: Vec<u8>,
    /// Delete it although snapshots of it or branches grown from it exist.
    pub force: bool,
}

/// Payload of [`Request::Whoami`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Whoami {
    /// The process; None is the one that asks.
    pub pid: Option<u32>,
}

/// Payload of [`Request::BranchEnter`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchEnter {
    /// Its id or name.
    pub branch: Vec<u8>,
}

/// Payload of [`Request::ProcessList`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ProcessList {
    /// The `next` of the page before; None for the first page.
    pub after: Option<Vec<u8>>,
}

/// Payload of [`Request::BranchUsage`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchUsage {
    /// Its id or name.
    pub branch: Vec<u8>,
}

/// Payload of [`Request::Stop`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Stop {
    /// `force` to stop although processes live in branches; empty to refuse then.
    pub how: Vec<u8>,
}

/// Writes the selector and the container `(version, payload)`.
fn versioned<T: Encode>(selector: u8, payload: &T) -> Vec<u8> {
    let mut body = vec![selector];
    // What is of one length is not behind an offset.
    let fixed = <Vec<u8> as Encode>::ssz_fixed_len() + T::ssz_fixed_len();
    let mut container = SszEncoder::container(&mut body, fixed);
    container.append(&VERSION.to_vec());
    container.append(payload);
    container.finalize();
    body
}

/// Reads the container `(version, payload)`.
fn unversioned<T: Decode>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut builder = SszDecoderBuilder::new(bytes);
    builder.register_type::<Vec<u8>>()?;
    builder.register_type::<T>()?;
    let mut container = builder.build()?;
    check_version(container.decode_next()?)?;
    Ok(container.decode_next()?)
}

fn check_version(version: Vec<u8>) -> Result<(), DecodeError> {
    if version == VERSION { Ok(()) } else { Err(DecodeError::Version(version)) }
}
