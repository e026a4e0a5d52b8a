//! Branches: make, list, rename, delete.

use std::collections::HashSet;
use std::sync::Arc;

use super::freeze::Moment;
use super::history::point_of;
use crate::branch::{BranchInfo, Catalog, Origin, Snapshot, SnapshotInfo, check_name};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::{NewBranch, NewSnapshot, Record};
use crate::tree::Version;
use crate::types::{BranchId, Epoch, SnapshotId, Timestamp, ViewId};

/// What a branch begins as.
struct Seed {
    version: Version,
    origin: Origin,
    /// The epoch in which the branch it grew straight from goes on.
    source_epoch: Option<Epoch>,
}

impl FsCore {
    /// Grows a branch from a snapshot, or from the present state of a branch; both are given by id or name. O(1). The
    /// branch is durable then.
    ///
    /// # Errors
    /// `UnknownVersion`; `BadName` when the name means a snapshot and a branch, or may not be given; `NameTaken`,
    /// `LimitReached`; `Busy` as for a snapshot.
    pub fn create_branch(&self, from: &str, name: Option<&str>) -> Result<BranchInfo> {
        let control = self.await_replaced();
        {
            let catalog = self.catalog.read();
            self.check_new_branch(catalog.branch_count())?;
            name.map(|name| check_name(name).and_then(|()| catalog.free_branch_name(name))).transpose()?;
        }
        let origin = find_origin(&self.catalog.read(), from)?;
        let view = self.views.reserve()?;
        let is_copied = self.is_copied_whole(origin)?;
        let grown = self.grow(origin, view, name).inspect_err(|_| self.views.free(view))?;
        drop(control);
        if is_copied {
            self.materialize(grown.id)?;
        }
        self.journal.sync()?;
        Ok(grown)
    }

    fn is_copied_whole(&self, origin: Origin) -> Result<bool> {
        let Origin::Branch(id) = origin else { return Ok(false) };
        Ok(self.is_to_be_materialized(self.catalog.read().branch(&id.to_string())?.1))
    }

    fn grow(&self, origin: Origin, view: ViewId, name: Option<&str>) -> Result<BranchInfo> {
        let mut record = NewBranch {
            id: BranchId::generate(),
            name: name.map(Arc::from),
            snapshot: None,
            branch: None,
            view,
            epoch: self.fresh_epoch(),
            source_epoch: None,
            root: None,
            created: Timestamp::now(),
        };
        let seed = self.plant(origin, &mut record)?;
        record.source_epoch = seed.source_epoch;
        self.await_lower(&seed.version);
        self.note_origin(&record, &seed.version);
        Ok(self.add_branch(record, seed.origin, seed.version))
    }

    /// Remembers what a new branch grew from: merges begin there.
    fn note_origin(&self, new: &NewBranch, version: &Version) {
        let mut catalog = self.catalog.write();
        if let Some(NewSnapshot { id, name, branch, epoch, created }) = point_of(new) {
            let snapshot = Arc::new(Snapshot::new(id, version.clone(), self.lower.clone()));
            catalog.ancestry.note_snapshot(id, branch, epoch);
            catalog.insert_point(SnapshotInfo { id, name, branch, created }, snapshot);
            self.note_snapshot(id);
            catalog.ancestry.note_branch(new.id, id);
        } else if let Some(from) = new.snapshot {
            catalog.ancestry.note_branch(new.id, from);
        }
    }

    /// Lets go of hidden snapshots that no merge begins from any more. The caller keeps branches and snapshots from coming and
    /// going, and makes it durable.
    pub(super) fn forget_points(&self) -> Vec<Arc<Snapshot>> {
        let needed = self.catalog.read().needed_states(None);
        self.forget_points_but(&needed)
    }

    /// As [`FsCore::forget_points`], of all but these.
    pub(super) fn forget_points_but(&self, needed: &HashSet<SnapshotId>) -> Vec<Arc<Snapshot>> {
        let idle: Vec<Arc<Snapshot>> = {
            let catalog = self.catalog.read();
            let points = catalog.all_points().filter(|(info, _)| !needed.contains(&info.id));
            points.map(|(_, point)| point.clone()).collect()
        };
        let mut gone = Vec::new();
        for point in idle {
            let forgotten = self
                .let_others_stand(&point)
                .and_then(|()| self.journal.append(&Record::SnapshotDeleted(point.id)));
            if let Err(error) = forgotten {
                tracing::warn!(%error, "a state that no merge begins from stays for now");
                break;
            }
            gone.extend(self.catalog.write().remove_point(point.id));
        }
        self.catalog.write().ancestry.tidy();
        gone
    }

    /// Records the new branch, and takes the version it begins as.
    fn plant(&self, origin: Origin, record: &mut NewBranch) -> Result<Seed> {
        match origin {
            Origin::Empty => Err(FsError::InvalidArgument("a branch grows from a snapshot or a branch")),
            Origin::Snapshot(id) => {
                let snapshot = self.catalog.read().snapshot(&id.to_string())?.1.clone();
                let version = snapshot.version()?;
                record.snapshot = Some(id);
                self.journal.append(&Record::BranchCreated(record.clone()))?;
                Ok(Seed { version, origin, source_epoch: None })
            }
            Origin::Branch(id) => {
                let source = self.catalog.read().branch(&id.to_string())?.1.clone();
                let next = self.fresh_epoch();
                (record.branch, record.source_epoch) = (Some(id), Some(next));
                let version =
                    self.freeze(&source, next, &Record::BranchCreated(record.clone()), Moment::One)?;
                Ok(Seed { version, origin, source_epoch: Some(next) })
            }
        }
    }

    fn check_new_branch(&self, count: usize) -> Result<()> {
        let limit = self.config.max_branches;
        if count < limit {
            return Ok(());
        }
        Err(FsError::LimitReached(format!("limits.max_branches allows {limit}; delete one first")))
    }

    /// Up to `limit` branches after `after`, in order of creation.
    pub fn list_branches(&self, after: Option<BranchId>, limit: usize) -> Vec<BranchInfo> {
        self.catalog.read().branches_after(after).take(limit).cloned().collect()
    }

    /// A branch, by id or name.
    ///
    /// # Errors
    /// `UnknownVersion`.
    pub fn find_branch(&self, branch: &str) -> Result<BranchInfo> {
        Ok(self.catalog.read().branch(branch)?.0.clone())
    }

    /// How many files of a branch are open.
    pub fn open_files_of(&self, branch: &BranchInfo) -> usize {
        self.open_files.count(branch.view)
    }

    /// Gives a branch another name.
    ///
    /// # Errors
    /// `UnknownVersion`, `BadName`, `NameTaken`; `Refused` for `main`.
    pub fn rename_branch(&self, branch: &str, name: &str) -> Result<BranchInfo> {
        let control = self.control.lock();
        check_name(name)?;
        let mut catalog = self.catalog.write();
        let info = catalog.branch(branch)?.0.clone();
        if info.name.as_deref() == Some(name) {
            return Ok(info);
        }
        refuse_main(&info, "renamed")?;
        catalog.free_branch_name(name)?;
        let name: Arc<str> = name.into();
        self.journal.append(&Record::BranchRenamed(info.id, name.clone()))?;
        catalog.rename_branch(info.id, &name);
        drop((catalog, control));
        self.journal.sync()?;
        Ok(BranchInfo { name: Some(name), ..info })
    }

    /// Deletes a branch; returns its id and the bytes that came back. With `force` also one that others grew from:
    /// they keep all they hold.
    ///
    /// # Errors
    /// `UnknownVersion`; `Refused` for `main`; `Busy` while files in it are open, or (without `force`) while
    /// snapshots of it or branches grown from it exist.
    pub fn delete_branch(&self, branch: &str, force: bool) -> Result<(BranchId, u64)> {
        let tending = self.tending.lock();
        let control = self.control.lock();
        let (info, target) = {
            let catalog = self.catalog.read();
            let (info, target) = catalog.branch(branch)?;
            refuse_main(info, "deleted")?;
            self.check_unused_branch(&catalog, info, force)?;
            (info.clone(), target.clone())
        };
        let garbage = target.retire(|| self.journal.append(&Record::BranchDeleted(info.id)))?;
        self.catalog.write().remove_branch(info.id);
        self.pager.iter().for_each(|pager| pager.forget(info.id));
        let points = self.forget_points();
        self.views.retire(info.view, |view| !self.lookups.remembers_view(view));
        drop((control, tending));
        Ok((info.id, self.reclaim((garbage, points))))
    }

    /// A branch that may be deleted.
    ///
    /// # Errors
    /// As [`FsCore::delete_branch`].
    pub(super) fn check_deletable(&self, branch: &str, force: bool) -> Result<BranchInfo> {
        let _tending = self.tending.lock();
        let catalog = self.catalog.read();
        let info = catalog.branch(branch)?.0;
        refuse_main(info, "deleted")?;
        self.check_unused_branch(&catalog, info, force)?;
        Ok(info.clone())
    }

    fn check_unused_branch(&self, catalog: &Catalog, info: &BranchInfo, force: bool) -> Result<()> {
        let shown = info.name.as_deref().map_or_else(|| info.id.to_string(), str::to_owned);
        let open = self.open_files.count(info.view);
        if open > 0 {
            return Err(FsError::Busy(format!("branch {shown:?} has {open} open files; close them first")));
        }
        let snapshots = catalog.snapshots_of(info.id).count();
        let branches = catalog.child_count(Origin::Branch(info.id));
        if snapshots + branches > 0 && !force {
            let grown = format!("{snapshots} snapshots and {branches} branches");
            return Err(FsError::Busy(format!(
                "{grown} grew from branch {shown:?}; delete them first, or use force"
            )));
        }
        Ok(())
    }
}

fn refuse_main(info: &BranchInfo, what: &str) -> Result<()> {
    if info.view == ViewId::MAIN {
        return Err(FsError::Refused(format!("the branch \"main\" cannot be {what}")));
    }
    Ok(())
}

/// What `from` means. A name may be a snapshot's and a branch's: then only the id will do.
fn find_origin(catalog: &Catalog, from: &str) -> Result<Origin> {
    match (catalog.snapshot(from), catalog.branch(from)) {
        (Ok((snapshot, _)), Err(_)) => Ok(Origin::Snapshot(snapshot.id)),
        (Err(_), Ok((branch, _))) => Ok(Origin::Branch(branch.id)),
        (Ok((snapshot, _)), Ok((branch, _))) => Err(FsError::BadName(format!(
            "{from:?} is the name of snapshot {} and of branch {}; use the id",
            snapshot.id, branch.id
        ))),
        (Err(_), Err(_)) => Err(FsError::UnknownVersion(format!("there is no snapshot or branch {from:?}"))),
    }
}
