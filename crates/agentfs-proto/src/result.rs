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

whole! { DiffResult MergeResult }
