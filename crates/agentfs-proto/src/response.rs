//! What the daemon answers.
//!
//! A response is one SSZ union: the selector of its request and a container, or selector 92 and the error.
//! Ids are 32 lower-case hex digits; strings are bytes on the wire.

use ssz::{Decode, Encode};
use ssz_derive::{Decode, Encode};

use crate::error::{DecodeError, ErrorReply};
use crate::frame::{self, Frame, FrameError};
use crate::page::Page;
use crate::record::{
    BranchEntry, BranchRecord, EventEntry, ProcessEntry, RequestCount, Setting, SnapshotEntry, SnapshotRecord,
};

/// The table of responses: a selector for each message, for encoding and decoding alike.
macro_rules! responses {
    ($($(#[$doc:meta])* $selector:literal $Response:ident($Payload:ty),)*) => {
        /// One response.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Response {
            $($(#[$doc])* $Response($Payload),)*
        }

        impl Response {
            /// The bytes of the message, which [`crate::frame::encode`] takes.
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Self::$Response(payload) => selected($selector, payload),)*
                }
            }

            /// Reads a message.
            pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
                let (selector, rest) = body.split_first().ok_or(DecodeError::Malformed)?;
                match selector {
                    $($selector => Ok(Self::$Response(Decode::from_ssz_bytes(rest)?)),)*
                    unknown => Err(DecodeError::UnknownSelector(*unknown)),
                }
            }
        }
    };
}

responses! {
    /// The snapshot that was made.
    0 SnapshotCreate(SnapshotReply),
    /// All snapshots.
    1 SnapshotList(SnapshotListReply),
    /// Where the snapshot can be read.
    2 SnapshotExport(ExportReply),
    /// The export that was ended.
    3 SnapshotExportRelease(ExportReleaseReply),
    /// The branch that was made.
    4 BranchCreate(BranchReply),
    /// The process, and what it sees now.
    5 BranchBind(BindReply),
    /// The process, and what it saw before.
    6 BranchUnbind(UnbindReply),
    /// The branch that was dropped.
    7 BranchDelete(BranchDeleteReply),
    /// The daemon's refusal.
    92 Error(ErrorReply),
    /// One page of branches, in the order of their ids.
    95 BranchList(Page<BranchEntry>),
    /// One page of snapshots, in the order of their ids.
    96 SnapshotPage(Page<SnapshotEntry>),
    /// The snapshot that was dropped.
    97 SnapshotDelete(SnapshotDeleteReply),
    /// The snapshot under its new name.
    98 SnapshotRename(SnapshotReply),
    /// The branch under its new name.
    99 BranchRename(BranchReply),
    /// The daemon's state.
    100 Status(StatusReply),
    /// One page of operations, in the order of their names.
    101 RequestCounts(Page<RequestCount>),
    /// The snapshot that was made.
    102 BranchSnapshot(SnapshotReply),
    /// The snapshot that was made, and is durable with all its content.
    103 SyncedSnapshot(SnapshotReply),
    /// What a process sees.
    104 Whoami(WhoamiReply),
    /// The branch that the process may mount now.
    105 BranchEnter(EnterReply),
    /// One page of processes, in the order of their numbers.
    106 ProcessList(Page<ProcessEntry>),
    /// What a branch holds.
    107 BranchUsage(UsageReply),
    /// The daemon ends.
    108 Stop(StopReply),
    /// The snapshot that was made; a file that was being written may be of no one moment in it.
    109 FuzzySnapshot(SnapshotReply),
    /// The directory that the volume lies over.
    111 Lower(LowerReply),
    /// What branches keep now.
    112 KeepLower(KeptReply),
    /// The job that compares.
    114 DiffStart(JobReply),
    /// The job that merges.
    115 MergeStart(JobReply),
    /// The job that restores.
    116 RestoreStart(JobReply),
    /// The job that undoes.
    117 UndoStart(JobReply),
    /// How far the job is. One that failed is answered with its error.
    118 JobPoll(PollReply),
    /// A part of what the job found.
    119 JobRead(ReadReply),
    /// The job is no more, or will be soon.
    120 JobEnd(JobReply),
    /// One page of events, oldest first.
    121 Events(Page<EventEntry>),
    /// The branch that was deleted, and what is kept of it.
    122 BranchDiscard(DiscardReply),
    /// The job that collects.
    123 ApplyStart(JobReply),
    /// What is there is what the branch relies on.
    124 ApplyNote(NotedReply),
    /// The branch, and the snapshot of the state before.
    125 ImportBegin(ImportReply),
    /// The gate is as asked.
    126 ApplyGate(GateReply),
}

/// The errno of an answer that does not fit, on every Linux but Alpha, MIPS, PA-RISC and SPARC.
const EOVERFLOW: u32 = 75;

impl Response {
    /// A refusal with its errno.
    pub fn error(sentence: &str, errno: u32) -> Self {
        Self::Error(ErrorReply::new(sentence, Some(errno)))
    }

    /// The response in its frame. One that does not fit becomes the error EOVERFLOW, which says what does.
    pub fn to_frame(&self) -> Result<Frame, FrameError> {
        frame::encode(&self.encode()).or_else(|_| frame::encode(&self.overflow().encode()))
    }

    fn overflow(&self) -> Self {
        let sentence = match self {
            Self::SnapshotList(_) => {
                "the list of snapshots does not fit one response; use SnapshotPage (selector 96)"
            }
            _ => "the answer does not fit one response",
        };
        Self::error(sentence, EOVERFLOW)
    }
}

/// Payload of the responses about one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotReply {
    /// The snapshot.
    pub snapshot: SnapshotRecord,
}

/// Payload of [`Response::SnapshotList`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotListReply {
    /// All of them, in the order of their ids.
    pub snapshots: Vec<SnapshotRecord>,
}

/// Payload of [`Response::SnapshotExport`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ExportReply {
    /// The directory that shows the snapshot.
    pub path: Vec<u8>,
    /// What ends the export.
    pub cleanup_token: Vec<u8>,
}

/// Payload of [`Response::SnapshotExportRelease`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ExportReleaseReply {
    /// What the request said.
    pub cleanup_token: Vec<u8>,
}

/// Payload of the responses about one branch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchReply {
    /// The branch.
    pub branch: BranchRecord,
}

/// Payload of [`Response::BranchBind`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BindReply {
    /// The id of the branch that the process sees.
    pub branch: Vec<u8>,
    /// The process, in the daemon's pid namespace.
    pub pid: u32,
}

/// Payload of [`Response::BranchUnbind`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct UnbindReply {
    /// The process, in the daemon's pid namespace.
    pub pid: u32,
    /// The id of the branch that the process saw.
    pub previous_branch: Vec<u8>,
}

/// Payload of [`Response::BranchDelete`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchDeleteReply {
    /// Its id.
    pub branch: Vec<u8>,
    /// How much the store gave back, in bytes.
    pub bytes_reclaimed: u64,
}

/// Payload of [`Response::SnapshotDelete`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SnapshotDeleteReply {
    /// Its id.
    pub snapshot: Vec<u8>,
    /// How much the store gave back, in bytes.
    pub bytes_reclaimed: u64,
}

/// Payload of [`Response::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StatusReply {
    /// The daemon's version.
    pub version: Vec<u8>,
    /// The directory of the store, or `memory`.
    pub store: Vec<u8>,
    /// The user that owns the volume.
    pub owner_uid: u32,
    /// How long the daemon has served, in milliseconds.
    pub uptime_ms: u64,
    /// How many branches there are.
    pub branches: u32,
    /// How many snapshots there are.
    pub snapshots: u32,
    /// How many files and directories are open.
    pub open_handles: u32,
    /// How many inodes the kernel remembers.
    pub known_inodes: u64,
    /// How many inodes the main branch has.
    pub inodes: u64,
    /// Whether the store shares extents between files.
    pub reflink: bool,
    /// What was negotiated with the kernel.
    pub settings: Vec<Setting>,
}

/// Payload of [`Response::Whoami`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct WhoamiReply {
    /// The id of the branch that the process sees.
    pub branch: Vec<u8>,
    /// The branch's name.
    pub name: Option<Vec<u8>>,
    /// The process, in the daemon's pid namespace.
    pub pid: u32,
    /// Why: `bound`, `inherited`, `exec` or `default`.
    pub reason: Vec<u8>,
    /// The process that was bound, or that `branch-exec` started.
    pub of: Option<u32>,
}

/// Payload of [`Response::Lower`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LowerReply {
    /// The daemon, in its pid namespace.
    pub pid: u32,
    /// The descriptor by which it has the directory.
    pub descriptor: u32,
    /// The directory's device number.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
}

/// Payload of [`Response::ApplyNote`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NotedReply {
    /// How many entries were noted.
    pub count: u64,
}

/// Payload of [`Response::ApplyGate`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GateReply {
    /// New snapshots and branches wait.
    pub is_closed: bool,
}

/// Payload of [`Response::ImportBegin`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ImportReply {
    /// The branch's id.
    pub branch: Vec<u8>,
    /// The snapshot.
    pub kept: SnapshotRecord,
}

/// Payload of [`Response::KeepLower`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeptReply {
    /// How many files branches have themselves that they had not.
    pub files: u64,
}

/// Payload of the responses about a job.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JobReply {
    /// Its number.
    pub job: u64,
}

/// Payload of [`Response::JobPoll`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PollReply {
    /// Has it ended?
    pub is_done: bool,
    /// Files that it has looked at.
    pub seen: u64,
    /// How long what it found is, in bytes: the SSZ of a [`crate::result::DiffResult`] or a
    /// [`crate::result::MergeResult`].
    pub length: u64,
}

/// Payload of [`Response::JobRead`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReadReply {
    /// From the offset that was asked on; none at the end.
    pub bytes: Vec<u8>,
}

/// Payload of [`Response::BranchDiscard`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DiscardReply {
    /// Its id.
    pub branch: Vec<u8>,
    /// Its last state.
    pub snapshot: SnapshotRecord,
    /// How much the store gave back, in bytes.
    pub bytes_reclaimed: u64,
}

/// Payload of [`Response::BranchEnter`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EnterReply {
    /// The branch's id.
    pub branch: Vec<u8>,
    /// The directory to mount, below the volume; empty where the volume itself shows the branch.
    pub directory: Vec<u8>,
}

/// Payload of [`Response::BranchUsage`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct UsageReply {
    /// The branch's id.
    pub branch: Vec<u8>,
    /// How many files and directories it has.
    pub inodes: u64,
    /// Bytes of content that no other branch or snapshot has.
    pub private_bytes: u64,
    /// Bytes of content that others have too.
    pub shared_bytes: u64,
}

/// Payload of [`Response::Stop`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StopReply {
    /// The daemon's process.
    pub pid: u32,
}

fn selected(selector: u8, payload: &impl Encode) -> Vec<u8> {
    let mut body = vec![selector];
    payload.ssz_append(&mut body);
    body
}
