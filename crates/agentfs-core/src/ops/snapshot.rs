//! Snapshots: take, list, rename, delete.

use std::sync::Arc;

use super::freeze::Moment;
use crate::branch::{Origin, Snapshot, SnapshotInfo, check_name};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::{NewSnapshot, Record};
use crate::types::{SnapshotId, Timestamp};

impl FsCore {
    /// Takes a snapshot of a branch, given by id or name. It holds every write that returned before the call.
    /// O(1), whatever the branch holds; waits for the data writes under way. The snapshot is durable then, with the
    /// content of small files; that of others is when it was synced, or is by [`FsCore::sync_content`].
    ///
    /// # Errors
    /// `UnknownVersion`, `BadName`, `NameTaken`, `LimitReached`; `Busy` when files are written past the daemon all the
    /// while.
    pub fn create_snapshot(&self, branch: &str, name: Option<&str>) -> Result<SnapshotInfo> {
        self.snapshot(branch, name, Moment::One)
    }

    /// As [`FsCore::create_snapshot`], but what is written past the daemon all the while need not be of one moment in it.
    ///
    /// # Errors
    /// The same, `Busy` only when such files are opened and closed all the while.
    pub fn create_fuzzy_snapshot(&self, branch: &str, name: Option<&str>) -> Result<SnapshotInfo> {
        self.snapshot(branch, name, Moment::Any)
    }

    fn snapshot(&self, branch: &str, name: Option<&str>, moment: Moment) -> Result<SnapshotInfo> {
        let of = self.catalog.read().branch(branch)?.1.clone();
        if self.is_to_be_materialized(&of) {
            // By way of a branch that has all of it.
            let whole = self.create_branch(branch, None)?.id.to_string();
            let taken = self.snapshot_lazily(&whole, name, moment);
            self.delete_branch(&whole, true)?;
            return taken;
        }
        self.snapshot_lazily(branch, name, moment)
    }

    pub(super) fn snapshot_lazily(
        &self,
        branch: &str,
        name: Option<&str>,
        moment: Moment,
    ) -> Result<SnapshotInfo> {
        let control = self.await_replaced();
        let (info, branch) = {
            let catalog = self.catalog.read();
            self.check_new_snapshot(catalog.snapshot_count())?;
            name.map(|name| check_name(name).and_then(|()| catalog.free_snapshot_name(name))).transpose()?;
            let (of, branch) = catalog.branch(branch)?;
            let (id, created) = (SnapshotId::generate(), Timestamp::now());
            (SnapshotInfo { id, name: name.map(Arc::from), branch: of.id, created }, branch.clone())
        };
        let epoch = self.fresh_epoch();
        let (id, name, created) = (info.id, info.name.clone(), info.created);
        let record = NewSnapshot { id, name, branch: info.branch, epoch, created };
        let version = self.freeze(&branch, epoch, &Record::SnapshotCreated(record), moment)?;
        self.await_lower(&version);
        let snapshot = Arc::new(Snapshot::new(info.id, version, self.lower.clone()));
        let mut catalog = self.catalog.write();
        catalog.ancestry.note_snapshot(info.id, info.branch, epoch);
        catalog.insert_snapshot(info.clone(), snapshot);
        self.note_snapshot(info.id);
        drop((catalog, control));
        self.journal.sync()?;
        self.page_out_now();
        Ok(info)
    }

    fn check_new_snapshot(&self, count: usize) -> Result<()> {
        let limit = self.config.max_snapshots;
        if count < limit {
            return Ok(());
        }
        Err(FsError::LimitReached(format!("limits.max_snapshots allows {limit}; delete one first")))
    }

    /// Up to `limit` snapshots after `after`, in order of creation.
    pub fn list_snapshots(&self, after: Option<SnapshotId>, limit: usize) -> Vec<SnapshotInfo> {
        self.catalog.read().snapshots_after(after).take(limit).cloned().collect()
    }

    /// A snapshot, by id or name.
    ///
    /// # Errors
    /// `UnknownVersion`.
    pub fn find_snapshot(&self, snapshot: &str) -> Result<SnapshotInfo> {
        Ok(self.catalog.read().snapshot(snapshot)?.0.clone())
    }

    /// How many branches grew from a snapshot.
    pub fn children_of(&self, snapshot: &SnapshotInfo) -> usize {
        self.catalog.read().child_count(Origin::Snapshot(snapshot.id))
    }

    /// Gives a snapshot another name.
    ///
    /// # Errors
    /// `UnknownVersion`, `BadName`, `NameTaken`.
    pub fn rename_snapshot(&self, snapshot: &str, name: &str) -> Result<SnapshotInfo> {
        let control = self.control.lock();
        check_name(name)?;
        let mut catalog = self.catalog.write();
        let info = catalog.snapshot(snapshot)?.0.clone();
        if info.name.as_deref() == Some(name) {
            return Ok(info);
        }
        catalog.free_snapshot_name(name)?;
        let name: Arc<str> = name.into();
        self.journal.append(&Record::SnapshotRenamed(info.id, name.clone()))?;
        catalog.rename_snapshot(info.id, &name);
        drop((catalog, control));
        self.journal.sync()?;
        Ok(SnapshotInfo { name: Some(name), ..info })
    }

    /// Deletes a snapshot; returns its id and the bytes that came back.
    ///
    /// # Errors
    /// `UnknownVersion`; `Busy` while branches that grew from it exist or files in it are open.
    pub fn delete_snapshot(&self, snapshot: &str) -> Result<(SnapshotId, u64)> {
        let control = self.control.lock();
        self.check_unused_snapshot(snapshot)?;
        let going = self.catalog.read().snapshot(snapshot)?.1.clone();
        self.let_others_stand(&going)?;
        drop(going);
        // That may have taken a while.
        let id = self.check_unused_snapshot(snapshot)?;
        let needed = self.catalog.read().needed_states(Some(id));
        let removed = if needed.contains(&id) {
            self.journal.append(&Record::SnapshotHidden(id))?;
            self.catalog.write().hide(id);
            self.note_snapshot(id);
            None
        } else {
            self.journal.append(&Record::SnapshotDeleted(id))?;
            self.catalog.write().remove_snapshot(id)
        };
        let points = self.forget_points_but(&needed);
        if let Some(view) = self.views.of_snapshot(id) {
            self.views.retire(view, |view| !self.lookups.remembers_view(view));
        }
        drop(control);
        Ok((id, self.reclaim((removed, points))))
    }

    /// Drops what was deleted, makes that durable, and deletes the objects that nothing names any more. Returns the
    /// bytes they held.
    pub(super) fn reclaim<T>(&self, garbage: T) -> u64 {
        let released = self.store.release(garbage);
        match self.journal.sync() {
            Ok(()) => match self.live() {
                // Some of what it let go of may have been let go of in part before.
                Some(live) => self.store.remove(released, &live) + self.store.punch(&live, usize::MAX),
                None => {
                    self.store.remove_later(released);
                    0
                }
            },
            Err(error) => {
                tracing::warn!(%error, "what was deleted keeps its space until the volume is mounted again");
                self.store.remove_later(released);
                0
            }
        }
    }

    fn check_unused_snapshot(&self, snapshot: &str) -> Result<SnapshotId> {
        let catalog = self.catalog.read();
        let info = catalog.snapshot(snapshot)?.0;
        if let Some(child) = catalog.children(Origin::Snapshot(info.id)).next() {
            let child = child.name.as_deref().map_or_else(|| child.id.to_string(), str::to_owned);
            return Err(FsError::Busy(format!(
                "the branch {child:?} grew from snapshot {snapshot:?}; delete it first"
            )));
        }
        let open = self.views.of_snapshot(info.id).map_or(0, |view| self.open_files.count(view));
        if open > 0 {
            return Err(FsError::Busy(format!(
                "snapshot {snapshot:?} has {open} open files; close them first"
            )));
        }
        Ok(info.id)
    }
}
