//! A snapshot: a version that shows the same for ever.

use std::sync::Arc;

use parking_lot::RwLock;

use super::branch::{State, below};
use super::{Draft, Lower};
use crate::error::{FsError, Result};
use crate::log::{Journal, Record};
use crate::tree::{Aside, Inode, Version};
use crate::types::{InodeId, SnapshotId};

/// An immutable state of a branch.
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Rank 3. The tree. What it shows never changes; where it lies over the lower directory it may come to have more of
    /// that itself.
    version: RwLock<Version>,
    /// What that may lie over.
    pub lower: Option<Arc<Lower>>,
}

impl Snapshot {
    /// A snapshot that is `version`.
    pub fn new(id: SnapshotId, version: Version, lower: Option<Arc<Lower>>) -> Snapshot {
        Snapshot { id, version: RwLock::new(version), lower }
    }

    /// The tree.
    pub fn version(&self) -> Version {
        self.version.read().clone()
    }

    /// Reads the tree.
    pub fn read<T>(&self, f: impl FnOnce(&Version) -> T) -> T {
        f(&self.version.read())
    }

    /// Reads an inode, or one of the lower directory, without its extended attributes.
    ///
    /// # Errors
    /// `Stale` when there is none, `Changed` as [`Lower::inode`].
    pub fn with_inode<T>(&self, ino: InodeId, f: impl FnOnce(&Inode) -> T) -> Result<T> {
        let origin = {
            let version = self.version.read();
            match version.get(ino) {
                Some(inode) => return Ok(f(inode)),
                None => version.lower().cloned(),
            }
        };
        below(self.lower.as_deref(), origin.as_deref(), ino).map(|inode| f(&inode))
    }

    /// Has the snapshot have more itself of what it shows. `plan` changes nothing that shows.
    ///
    /// # Errors
    /// What `plan` or the journal answers; nothing has changed then.
    pub fn keep<T>(
        &self,
        journal: &dyn Journal,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut version = self.version.write();
        let mut state = State::of(version.clone());
        let mut draft = Draft::new(&state);
        let value = plan(&mut draft)?;
        let edits = draft.finish();
        if !edits.unrecorded.is_empty() || !edits.dropped.is_empty() {
            return Err(FsError::ReadOnly);
        }
        if !edits.recorded.is_empty() {
            journal.append(&Record::SnapshotKeeps(self.id, edits.first, edits.recorded.clone()))?;
            edits.recorded.into_iter().for_each(|edit| edit.apply(&mut state.version, &mut Aside::default()));
            *version = state.version;
        }
        Ok(value)
    }
}
