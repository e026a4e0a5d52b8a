//! What jobs find. It may be longer than a frame and is read in parts: see [`crate::request::JobRead`].

use ssz::{Decode, Encode};
use ssz_derive::{Decode, Encode};

use crate::error::DecodeError;
use crate::record::SnapshotRecord;

/// The most bytes of a result in one response.
pub const MAX_PART: usize = crate::limits::MAX_BODY - 16;

/// What differs between two trees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct DiffResult {
    /// In the order of their paths.
    pub entries: Vec<DiffEntry>,
    /// Directories called `.git` in which something differs that was left out.
    pub left_git: Vec<Vec<u8>>,
    /// How many paths differ that `.agentfsignore` leaves out.
    pub left_out: u64,
}

/// A path at which two trees differ.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DiffEntry {
    /// The path, from the root on; in the second tree, in the first when it is deleted.
    pub path: Vec<u8>,
    /// Where it was, when it was renamed.
    pub from: Option<Vec<u8>>,
    /// `A`dded, `M`odified, `D`eleted, `R`enamed, or of another `T`ype, as one letter.
    pub status: u8,
    /// What it is in the first.
    pub old: Option<Face>,
    /// What it is in the second.
    pub new: Option<Face>,
    /// Do the bytes, the targets of links or the numbers of devices differ?
    pub content: bool,
    /// Do the extended attributes?
    pub xattrs: bool,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Face {
    /// Its type and permissions, as `st_mode` has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes, of a regular file.
    pub size: u64,
    /// Names that lead to it.
    pub links: u32,
}

/// What `apply` has to know of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct ApplyResult {
    /// Where it differs from the directory that the volume lies over, in the order of its own paths.
    pub changes: Vec<ChangeRecord>,
    /// What it relies on there, in the order of the paths there.
    pub relies_on: Vec<RelianceRecord>,
    /// Directories there that it shows, wherever: what lies in one and is not in `relies_on` it shows as it is.
    pub shown: Vec<Vec<u8>>,
    /// Inode numbers, without those of views, of files from there that it has changed and of which it does not have all names
    /// itself: these are to lead to what it has.
    pub linked: Vec<u64>,
    /// What it shows as it is it knows as it was then, in Unix nanoseconds.
    pub since_ns: u64,
}

/// A path at which a version differs from the directory that the volume lies over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChangeRecord {
    /// The path in the version.
    pub path: Vec<u8>,
    /// `put`: a file that is not what is below. `copied`: one that is, in a directory that is not. `tree`: a directory that is
    /// not the one below. `attributes`: the directory that is below has others. `gone`: nothing is there.
    pub kind: Vec<u8>,
    /// The path below of the same file; of a `tree`, of the directory of which it shows what it does not have itself.
    pub from: Option<Vec<u8>>,
    /// Whether the directory below still has the attributes that the version relies on.
    pub is_as_relied_on: bool,
}

/// What lies at a path of the directory that the volume lies over, as far as a version relies on it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RelianceRecord {
    /// The path there.
    pub path: Vec<u8>,
    /// `absent`, `directory`, `file` or `until`: anything that has the token or, in a directory, was not changed later.
    pub kind: Vec<u8>,
    /// The change token of a file: see [`crate::change_token`].
    pub token: u64,
    /// Of `until`, in Unix nanoseconds.
    pub until_ns: u64,
}

/// What was merged, restored or undone, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct MergeResult {
    /// `merge` or `restore`; what was undone: `undo-merge`, `undo-restore` or `undo-delete`.
    pub deed: Vec<u8>,
    /// The id of the branch.
    pub branch: Vec<u8>,
    /// Its name.
    pub name: Option<Vec<u8>>,
    /// The name or the id of what was merged, or gone back to.
    pub source: Vec<u8>,
    /// The snapshot of the state before; None when nothing was changed.
    pub kept: Option<SnapshotRecord>,
    /// What was done, in the order of paths.
    pub steps: Vec<StepRecord>,
    /// What conflicts.
    pub conflicts: Vec<ConflictRecord>,
    /// Directories called `.git` in which the source changed something, and which were left as they are.
    pub left_git: Vec<Vec<u8>>,
}

/// What is done to a path.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StepRecord {
    /// `add`, `take`, `merge`, `move` or `delete`.
    pub verb: Vec<u8>,
    /// The path.
    pub path: Vec<u8>,
}

/// A change that cannot be taken over without asking.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ConflictRecord {
    /// Why, as `edit/delete`.
    pub kind: Vec<u8>,
    /// The path.
    pub path: Vec<u8>,
    /// Another path that it is about.
    pub other: Option<Vec<u8>>,
}

macro_rules! whole {
    ($($Result:ident)*) => {
        $(impl $Result {
            /// All its bytes.
            pub fn encode(&self) -> Vec<u8> {
                self.as_ssz_bytes()
            }

            /// Reads them.
            ///
            /// # Errors
            /// `Malformed`.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                Ok(Self::from_ssz_bytes(bytes)?)
            }
        })*
    };
}

whole! { ApplyResult DiffResult MergeResult }
