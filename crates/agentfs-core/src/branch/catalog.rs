//! The catalogue of branches and snapshots: ids, names, and what grew from what.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::{Ancestry, Branch, Snapshot};
use crate::error::{FsError, Result};
use crate::types::{BranchId, SnapshotId, Timestamp, ViewId};

/// So many snapshots are looked through for one of the same branch.
const NOT_FAR: usize = 64;

/// What a branch grew from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nothing: it is the first.
    Empty,
    /// A snapshot.
    Snapshot(SnapshotId),
    /// The state a branch had.
    Branch(BranchId),
}

/// A branch as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchInfo {
    /// Its id.
    pub id: BranchId,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// What it grew from.
    pub origin: Origin,
    /// When it was made.
    pub created: Timestamp,
    /// The index of its node ids.
    pub view: ViewId,
}

/// A snapshot as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// The branch it is a state of.
    pub branch: BranchId,
    /// When it was taken.
    pub created: Timestamp,
}

/// All branches and snapshots of a volume. Names are unique among branches, and among snapshots.
#[derive(Default)]
pub struct Catalog {
    branches: BTreeMap<BranchId, (BranchInfo, Arc<Branch>)>,
    snapshots: BTreeMap<SnapshotId, (SnapshotInfo, Arc<Snapshot>)>,
    branch_names: HashMap<Arc<str>, BranchId>,
    snapshot_names: HashMap<Arc<str>, SnapshotId>,
    /// How many branches grew from what.
    grown: HashMap<Origin, usize>,
    /// Snapshots that nobody asked for, and that no list shows: merges begin from them.
    points: BTreeMap<SnapshotId, (SnapshotInfo, Arc<Snapshot>)>,
    /// What came from what.
    pub ancestry: Ancestry,
}

/// May a branch or snapshot be called `name`? Names become directory names, and must not look like ids.
///
/// # Errors
/// `BadName`, saying why not.
pub fn check_name(name: &str) -> Result<()> {
    let reason = if name.is_empty() || name.len() > 255 {
        "has 1 to 255 bytes"
    } else if name.chars().any(char::is_control) {
        "has no control characters"
    } else if name.contains('/') || name == "." || name == ".." {
        "has no '/' and is neither '.' nor '..'"
    } else if name.parse::<BranchId>().is_ok() {
        "does not look like an id"
    } else {
        return Ok(());
    };
    Err(FsError::BadName(format!("the name of a branch or snapshot {reason}")))
}

impl Catalog {
    /// Finds a branch by id or name.
    ///
    /// # Errors
    /// `UnknownVersion`, naming what was asked for.
    pub fn branch(&self, id_or_name: &str) -> Result<(&BranchInfo, &Arc<Branch>)> {
        let id = id_or_name.parse().ok().or_else(|| self.branch_names.get(id_or_name).copied());
        let found = id.and_then(|id| self.branches.get(&id)).map(|(info, branch)| (info, branch));
        found.ok_or_else(|| FsError::UnknownVersion(format!("there is no branch {id_or_name:?}")))
    }

    /// Finds a snapshot by id or name.
    ///
    /// # Errors
    /// `UnknownVersion`, naming what was asked for.
    pub fn snapshot(&self, id_or_name: &str) -> Result<(&SnapshotInfo, &Arc<Snapshot>)> {
        let id = id_or_name.parse().ok().or_else(|| self.snapshot_names.get(id_or_name).copied());
        let found = id.and_then(|id| self.snapshots.get(&id)).map(|(info, snapshot)| (info, snapshot));
        found.ok_or_else(|| FsError::UnknownVersion(format!("there is no snapshot {id_or_name:?}")))
    }

    /// All branches, in order of their ids.
    pub fn all_branches(&self) -> impl Iterator<Item = (&BranchInfo, &Arc<Branch>)> {
        self.branches.values().map(|(info, branch)| (info, branch))
    }

    /// All snapshots, in order of their ids.
    pub fn all_snapshots(&self) -> impl Iterator<Item = (&SnapshotInfo, &Arc<Snapshot>)> {
        self.snapshots.values().map(|(info, snapshot)| (info, snapshot))
    }

    /// Snapshots that merges need, those that are shown among them but `gone`.
    pub fn needed_states(&self, gone: Option<SnapshotId>) -> HashSet<SnapshotId> {
        self.ancestry.needed(&|id| Some(id) != gone && self.snapshots.contains_key(&id))
    }

    /// All hidden snapshots, in order of their ids.
    pub fn all_points(&self) -> impl Iterator<Item = (&SnapshotInfo, &Arc<Snapshot>)> {
        self.points.values().map(|(info, snapshot)| (info, snapshot))
    }

    /// A snapshot by id, also a hidden one.
    pub fn state(&self, id: SnapshotId) -> Option<(&SnapshotInfo, &Arc<Snapshot>)> {
        let found = self.snapshots.get(&id).or_else(|| self.points.get(&id));
        found.map(|(info, snapshot)| (info, snapshot))
    }

    /// The snapshot before another, hidden or not; if `of` is given, of that branch, when it is not far.
    pub fn before(&self, id: SnapshotId, of: Option<BranchId>) -> Option<Arc<Snapshot>> {
        let last = |all: &BTreeMap<SnapshotId, (SnapshotInfo, Arc<Snapshot>)>| {
            let mut before = all.range(..id).rev().take(NOT_FAR);
            let found = before.find(|(_, (info, _))| of.is_none_or(|of| info.branch == of));
            found.map(|(_, (_, snapshot))| snapshot.clone())
        };
        let found = [last(&self.snapshots), last(&self.points)].into_iter().flatten();
        found.max_by_key(|snapshot| snapshot.id)
    }

    /// All branches in order of creation.
    pub fn branches(&self) -> impl Iterator<Item = &BranchInfo> {
        self.branches.values().map(|(info, _)| info)
    }

    /// All snapshots in order of creation.
    pub fn snapshots(&self) -> impl Iterator<Item = &SnapshotInfo> {
        self.snapshots.values().map(|(info, _)| info)
    }

    /// The branches later than `after`, in order of creation.
    pub fn branches_after(&self, after: Option<BranchId>) -> impl Iterator<Item = &BranchInfo> {
        let start = after.map_or(BranchId(0), |id| BranchId(id.0.saturating_add(1)));
        self.branches.range(start..).map(|(_, (info, _))| info)
    }

    /// The snapshots later than `after`, in order of creation.
    pub fn snapshots_after(&self, after: Option<SnapshotId>) -> impl Iterator<Item = &SnapshotInfo> {
        let start = after.map_or(SnapshotId(0), |id| SnapshotId(id.0.saturating_add(1)));
        self.snapshots.range(start..).map(|(_, (info, _))| info)
    }

    /// How many branches there are.
    pub fn branch_count(&self) -> usize {
        self.branches.len()
    }

    /// How many snapshots there are.
    pub fn snapshot_count(&self) -> usize {
        self.snapshots.len()
    }

    /// Is the name free for a branch?
    ///
    /// # Errors
    /// `NameTaken` if not.
    pub fn free_branch_name(&self, name: &str) -> Result<()> {
        match self.branch_names.get(name) {
            Some(id) => Err(FsError::NameTaken(format!("the branch {id} is called {name:?} already"))),
            None => Ok(()),
        }
    }

    /// Is the name free for a snapshot?
    ///
    /// # Errors
    /// `NameTaken` if not.
    pub fn free_snapshot_name(&self, name: &str) -> Result<()> {
        match self.snapshot_names.get(name) {
            Some(id) => Err(FsError::NameTaken(format!("the snapshot {id} is called {name:?} already"))),
            None => Ok(()),
        }
    }

    /// The branches that grew from `origin`.
    pub fn children(&self, origin: Origin) -> impl Iterator<Item = &BranchInfo> {
        self.branches().filter(move |info| info.origin == origin)
    }

    /// How many branches grew from this.
    pub fn child_count(&self, origin: Origin) -> usize {
        self.grown.get(&origin).copied().unwrap_or(0)
    }

    /// The snapshots of a branch.
    pub fn snapshots_of(&self, branch: BranchId) -> impl Iterator<Item = &SnapshotInfo> {
        self.snapshots().filter(move |info| info.branch == branch)
    }

    /// The snapshot that a branch grew from: a hidden one, if it was a branch.
    pub(crate) fn grown_from(&self, info: &BranchInfo) -> Option<Arc<Snapshot>> {
        let id = match info.origin {
            Origin::Empty => return None,
            Origin::Snapshot(id) => id,
            Origin::Branch(_) => SnapshotId(info.id.0),
        };
        self.state(id).map(|(_, snapshot)| snapshot.clone())
    }

    pub(crate) fn insert_branch(&mut self, info: BranchInfo, branch: Arc<Branch>) {
        self.branch_names.extend(info.name.clone().map(|name| (name, info.id)));
        *self.grown.entry(info.origin).or_default() += 1;
        self.grown_from(&info).iter().for_each(|snapshot| snapshot.note_branch());
        self.branches.insert(info.id, (info, branch));
    }

    pub(crate) fn insert_snapshot(&mut self, info: SnapshotInfo, snapshot: Arc<Snapshot>) {
        self.snapshot_names.extend(info.name.clone().map(|name| (name, info.id)));
        self.snapshots.insert(info.id, (info, snapshot));
    }

    pub(crate) fn rename_branch(&mut self, id: BranchId, name: &Arc<str>) {
        if let Some((info, _)) = self.branches.get_mut(&id) {
            let old = info.name.replace(name.clone());
            old.and_then(|old| self.branch_names.remove(&old));
            self.branch_names.insert(name.clone(), id);
        }
    }

    pub(crate) fn rename_snapshot(&mut self, id: SnapshotId, name: &Arc<str>) {
        if let Some((info, _)) = self.snapshots.get_mut(&id) {
            let old = info.name.replace(name.clone());
            old.and_then(|old| self.snapshot_names.remove(&old));
            self.snapshot_names.insert(name.clone(), id);
        }
    }

    pub(crate) fn insert_point(&mut self, info: SnapshotInfo, snapshot: Arc<Snapshot>) {
        self.points.insert(info.id, (info, snapshot));
    }

    /// A snapshot is one that nobody asked for, from now on.
    pub(crate) fn hide(&mut self, id: SnapshotId) {
        if let Some((info, snapshot)) = self.snapshots.remove(&id) {
            info.name.as_ref().and_then(|name| self.snapshot_names.remove(name));
            self.points.insert(id, (SnapshotInfo { name: None, ..info }, snapshot));
        }
    }

    pub(crate) fn remove_point(&mut self, id: SnapshotId) -> Option<Arc<Snapshot>> {
        self.ancestry.forget_snapshot(id);
        self.points.remove(&id).map(|(_, snapshot)| snapshot)
    }

    pub(crate) fn remove_branch(&mut self, id: BranchId) {
        self.ancestry.forget_branch(id);
        if let Some((info, _)) = self.branches.remove(&id) {
            self.grown_from(&info).iter().for_each(|snapshot| snapshot.forget_branch());
            info.name.and_then(|name| self.branch_names.remove(&name));
            if let Entry::Occupied(mut grown) = self.grown.entry(info.origin) {
                *grown.get_mut() -= 1;
                if *grown.get() == 0 {
                    grown.remove();
                }
            }
        }
    }

    pub(crate) fn remove_snapshot(&mut self, id: SnapshotId) -> Option<Arc<Snapshot>> {
        self.ancestry.forget_snapshot(id);
        let (info, snapshot) = self.snapshots.remove(&id)?;
        info.name.and_then(|name| self.snapshot_names.remove(&name));
        Some(snapshot)
    }
}
