//! The records: one for each change of state, complete enough to repeat it.

use std::sync::Arc;

use crate::store::{Content, Move};
use crate::tree::Edit;
use crate::types::{BranchId, Epoch, Event, Holder, Knows, ObjectId, SnapshotId, Timestamp, ViewId};

/// A branch that came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBranch {
    /// Its id.
    pub id: BranchId,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// The snapshot it grew from, if it grew from one.
    pub snapshot: Option<SnapshotId>,
    /// The branch it grew from, if it grew straight from one.
    pub branch: Option<BranchId>,
    /// The index of its node ids.
    pub view: ViewId,
    /// Its first epoch.
    pub epoch: Epoch,
    /// The next epoch of the branch it grew straight from, whose content it now shares.
    pub source_epoch: Option<Epoch>,
    /// The root directory, of a branch that grew from nothing.
    pub root: Option<RootAttributes>,
    /// When.
    pub created: Timestamp,
}

/// The root directory of a new volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootAttributes {
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Numbers that are not given again, also when what had them has left no other trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The next inode.
    pub inode: u64,
    /// The next object.
    pub object: u64,
    /// The next epoch.
    pub epoch: u64,
}

/// A snapshot that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// The branch it is a state of.
    pub branch: BranchId,
    /// The epoch its branch goes on in.
    pub epoch: Epoch,
    /// When.
    pub created: Timestamp,
}

/// A branch was given the state that a merge, or a restore, made.
#[derive(Clone, Debug)]
pub struct Merge {
    /// The branch.
    pub branch: BranchId,
    /// The line that it is in from now on.
    pub line: BranchId,
    /// What it knows from now on.
    pub knows: Knows,
    /// What was done.
    pub event: Event,
    /// These objects were to be durable before.
    pub first: Vec<ObjectId>,
    /// What changed.
    pub edits: Vec<Edit>,
}

/// One change of state.
#[derive(Clone, Debug)]
pub enum Record {
    /// A file operation: all its edits, or none.
    Edits(BranchId, Vec<Edit>),
    /// A snapshot was taken.
    SnapshotCreated(NewSnapshot),
    /// A branch was made.
    BranchCreated(NewBranch),
    /// A snapshot got another name.
    SnapshotRenamed(SnapshotId, Arc<str>),
    /// A branch got another name.
    BranchRenamed(BranchId, Arc<str>),
    /// A snapshot is gone.
    SnapshotDeleted(SnapshotId),
    /// A branch is gone.
    BranchDeleted(BranchId),
    /// All numbers below these are taken.
    Marks(Marks),
    /// A checkpoint begins: what came before is superseded.
    Checkpoint,
    /// In a checkpoint: the version `number` is the version `base`, or nothing, with these edits. With itself as its base
    /// it goes on.
    Version(u32, Option<u32>, Vec<Edit>),
    /// In a checkpoint: a branch, in the epoch it has now, that is this version.
    BranchIs(NewBranch, u32),
    /// In a checkpoint: a snapshot that is this version.
    SnapshotIs(NewSnapshot, u32),
    /// The checkpoint is complete.
    CheckpointEnd,
    /// As [`Record::Edits`], of an operation that takes something away: these objects were to be durable before.
    EditsAfter(BranchId, Vec<ObjectId>, Vec<Edit>),
    /// A snapshot has more of what it shows itself: these edits, and these objects were to be durable before.
    SnapshotKeeps(SnapshotId, Vec<ObjectId>, Vec<Edit>),
    /// As [`Record::SnapshotCreated`], of one that nobody asked for: merges begin from it.
    PointCreated(NewSnapshot),
    /// A snapshot became such a one.
    SnapshotHidden(SnapshotId),
    /// In a checkpoint: such a snapshot that is this version.
    PointIs(NewSnapshot, u32),
    /// In a checkpoint: what a branch or snapshot knows of others.
    Knows(Holder, BranchId, Knows),
    /// Changes were merged into a branch, or it was restored: all of it, or nothing.
    Merged(Box<Merge>),
    /// Something else was done that can be undone; in a checkpoint anything.
    Happened(Event),
    /// Content of small files was moved.
    Moved(Vec<Move>),
    /// A mount begins, on this boot of the host.
    Mounted(u128),
    /// Itself at byte `at` of its piece: all content that records before the byte `through` name is durable. It does not
    /// say that they are, but those before the byte `synced` were when it was written.
    Ordered {
        /// Where this record's frame begins.
        at: u64,
        /// Before which place content is durable.
        through: u64,
        /// Before which place the piece itself is.
        synced: u64,
    },
    /// Itself at byte `at` of its piece: the volume was closed, and everything is durable, content in objects too.
    Closed {
        /// Where this record's frame begins.
        at: u64,
    },
    /// The first of a piece: it goes on behind so many bytes of that piece.
    Continues {
        /// The piece before.
        piece: u64,
        /// Its bytes.
        len: u64,
    },
}

impl Record {
    /// The edits of a file operation.
    pub fn edits(&self) -> &[Edit] {
        match self {
            Record::Edits(_, edits)
            | Record::EditsAfter(_, _, edits)
            | Record::SnapshotKeeps(_, _, edits) => edits,
            Record::Merged(merge) => &merge.edits,
            _ => &[],
        }
    }

    /// As [`Record::edits`].
    pub fn into_edits(self) -> Vec<Edit> {
        match self {
            Record::Edits(_, edits)
            | Record::EditsAfter(_, _, edits)
            | Record::SnapshotKeeps(_, _, edits) => edits,
            Record::Merged(merge) => merge.edits,
            _ => Vec::new(),
        }
    }

    /// The objects that are to be durable before it.
    pub(super) fn first(&self) -> Option<&[ObjectId]> {
        match self {
            Record::EditsAfter(_, first, _) | Record::SnapshotKeeps(_, first, _) => Some(first),
            Record::Merged(merge) => Some(&merge.first),
            _ => None,
        }
    }

    /// Does what it records need space, rather than give some back?
    pub(super) fn grows(&self) -> bool {
        let adds = |edit: &Edit| match edit {
            Edit::Put(..) | Edit::Xattrs(_, Some(_)) => true,
            Edit::Layers(_, changes) => changes.iter().any(|change| change.claim.is_some()),
            Edit::Content(_, content) => !matches!(content, Content::Hole),
            _ => false,
        };
        match self {
            Record::SnapshotCreated(_)
            | Record::PointCreated(_)
            | Record::BranchCreated(_)
            | Record::SnapshotKeeps(..)
            | Record::Merged(_) => true,
            Record::Edits(..) | Record::EditsAfter(..) => {
                let links = self.edits().iter().any(|edit| matches!(edit, Edit::Link(..)));
                let unlinks = self.edits().iter().any(|edit| matches!(edit, Edit::Unlink(..)));
                self.edits().iter().any(adds) || (links && !unlinks)
            }
            _ => false,
        }
    }

    /// Is it of what gives space back, or ends something? That is taken as long as there is any room.
    pub(super) fn gives_back(&self) -> bool {
        let has = |is: fn(&Edit) -> bool| self.edits().iter().any(is);
        match self {
            Record::Edits(..) | Record::EditsAfter(..) => {
                has(|edit| matches!(edit, Edit::Drop(_) | Edit::Clean(_) | Edit::Content(_, Content::Hole)))
                    || (has(|edit| matches!(edit, Edit::Unlink(..)))
                        && !has(|edit| matches!(edit, Edit::Link(..))))
            }
            Record::SnapshotRenamed(..) | Record::BranchRenamed(..) => false,
            other => !other.grows(),
        }
    }
}
