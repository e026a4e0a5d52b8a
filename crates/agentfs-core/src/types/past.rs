//! What came from what, and what was done.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BranchId, Epoch, SnapshotId, Timestamp};

/// Of each line, up to which moment its changes are in a state: until this epoch of it began. A line is what a branch did, until
/// it was put back to what it was; its first has the branch's id.
pub type Knows = BTreeMap<BranchId, Epoch>;

/// Who knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A branch.
    Branch(BranchId),
    /// A snapshot.
    Snapshot(SnapshotId),
}

/// What was done to a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Changes of another were merged into it.
    Merged,
    /// It was put back to a snapshot.
    Restored,
    /// It was deleted.
    Deleted,
    /// What was done last was undone.
    Undone,
    /// Files from elsewhere were copied into it, or began to be.
    Imported,
}

/// Something that was done, and can be undone while its snapshot is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub deed: Deed,
    /// When.
    pub when: Timestamp,
    /// The branch it was done to.
    pub branch: BranchId,
    /// Its name then.
    pub name: Option<Arc<str>>,
    /// What was merged, or restored: the id of a branch or snapshot. Of what undoes: the snapshot of the state before that.
    pub source: u128,
    /// Its name then.
    pub source_name: Option<Arc<str>>,
    /// The snapshot of the state before.
    pub kept: Option<SnapshotId>,
    /// Was it undone?
    pub is_undone: bool,
}

impl Event {
    /// Is it something that can be undone, and was not?
    pub fn can_be_undone(&self) -> bool {
        self.deed != Deed::Undone && !self.is_undone && self.kept.is_some()
    }
}
