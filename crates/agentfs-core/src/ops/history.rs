//! What a log says: its records repeated, from the first to the last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use tracing::warn;

use crate::branch::Ancestry;
use crate::log::{Marks, NewBranch, NewSnapshot, Record};
use crate::store::{Content, Device, FileId};
use crate::tree::{Aside, Edit, Inode, Version, visit_new};
use crate::types::{BranchId, Epoch, Holder, InodeId, Knows, ObjectId, SnapshotId, ViewId};

/// What a hidden snapshot is called to people.
const POINT: &str = "the state that was merged or grown from";

/// What the records say.
#[derive(Default)]
pub(super) struct History {
    pub(super) branches: BTreeMap<BranchId, PastBranch>,
    pub(super) snapshots: BTreeMap<SnapshotId, (NewSnapshot, Version)>,
    /// Snapshots that nobody asked for.
    pub(super) points: BTreeMap<SnapshotId, (NewSnapshot, Version)>,
    pub(super) ancestry: Ancestry,
    pub(super) marks: Marks,
    /// Records repeated.
    pub(super) records: u64,
    is_in_checkpoint: bool,
    /// Of the checkpoint, by number.
    versions: HashMap<u32, Version>,
}

/// A branch or snapshot as the records leave it.
pub(super) struct PastTree<'a> {
    /// What it is called.
    pub(super) name: String,
    pub(super) version: &'a Version,
    aside: Option<&'a Aside>,
}

impl PastTree<'_> {
    pub(super) fn has_dirty(&self) -> bool {
        self.aside.is_some_and(|aside| !aside.dirty.is_empty())
    }

    pub(super) fn is_dirty(&self, ino: InodeId) -> bool {
        self.aside.is_some_and(|aside| aside.dirty.contains(&ino))
    }
}

fn shown(what: &str, name: &Option<Arc<str>>, id: &dyn std::fmt::Display) -> String {
    match name {
        Some(name) => format!("{what} {name:?}"),
        None => format!("{what} {id}"),
    }
}

/// A branch as the records leave it.
pub(super) struct PastBranch {
    pub(super) made: NewBranch,
    pub(super) version: Version,
    pub(super) aside: Aside,
    pub(super) epoch: Epoch,
}

impl History {
    /// The present version of `main`.
    pub(super) fn main(&self) -> Option<&Version> {
        let mut branches = self.branches.values();
        branches.find(|branch| branch.made.view == ViewId::MAIN).map(|branch| &branch.version)
    }

    /// Is there nothing but an empty `main`?
    pub(super) fn is_plain(&self) -> bool {
        self.branches.len() <= 1
            && self.snapshots.is_empty()
            && self.main().is_none_or(|main| main.len() <= 1)
    }

    /// Does it tell of a branch `main`?
    pub(super) fn has_main(&self) -> bool {
        self.branches.values().any(|branch| branch.made.view == ViewId::MAIN)
    }

    /// Epochs up to this one are taken: objects are of it.
    pub(super) fn pass_epoch(&mut self, epoch: Epoch) {
        self.pass(0, epoch.0.saturating_add(1));
    }

    /// The numbers below which all are taken, by what was seen in use.
    fn pass(&mut self, inode: u64, epoch: u64) {
        self.marks.inode = self.marks.inode.max(inode);
        self.marks.epoch = self.marks.epoch.max(epoch);
    }

    pub(super) fn repeat(&mut self, record: Record) {
        self.records += 1;
        match record {
            Record::Edits(id, edits) | Record::EditsAfter(id, _, edits) => self.edit(id, edits),
            Record::SnapshotCreated(new) => self.snapshot(new),
            Record::SnapshotKeeps(id, _, edits) => {
                let found = self.snapshots.get_mut(&id).or_else(|| self.points.get_mut(&id));
                if let Some((_, version)) = found {
                    edits.into_iter().for_each(|edit| edit.apply(version, &mut Aside::default()));
                }
            }
            Record::BranchCreated(new) => self.branch(new),
            Record::SnapshotRenamed(id, name) => {
                if let Some((made, _)) = self.snapshots.get_mut(&id) {
                    made.name = Some(name);
                }
            }
            Record::BranchRenamed(id, name) => {
                if let Some(branch) = self.branches.get_mut(&id) {
                    branch.made.name = Some(name);
                }
            }
            Record::SnapshotDeleted(id) => {
                self.ancestry.forget_snapshot(id);
                drop((self.snapshots.remove(&id), self.points.remove(&id)));
            }
            Record::BranchDeleted(id) => {
                self.ancestry.forget_branch(id);
                drop(self.branches.remove(&id));
            }
            Record::PointCreated(new) => self.point(new),
            Record::SnapshotHidden(id) => {
                self.points.extend(self.snapshots.remove(&id).map(|point| (id, point)));
            }
            Record::PointIs(made, version) => {
                if let Some(version) = self.versions.get(&version).cloned() {
                    self.points.insert(made.id, (made, version));
                }
            }
            Record::Knows(holder, line, knows) => self.knows(holder, line, knows),
            Record::Merged(merge) => {
                self.edit(merge.branch, merge.edits);
                self.ancestry.set_branch(merge.branch, merge.line, merge.knows);
                self.ancestry.note(merge.event);
            }
            Record::Happened(event) if self.is_in_checkpoint => self.ancestry.adopt(event),
            Record::Happened(event) => self.ancestry.note(event),
            Record::Checkpoint => {
                let (records, is_in_checkpoint) = (self.records, true);
                *self = History { records, is_in_checkpoint, ..History::default() };
            }
            Record::Version(number, base, edits) => self.version(number, base, edits),
            Record::BranchIs(made, version) => {
                if let Some(version) = self.versions.get(&version).cloned() {
                    self.pass(0, made.epoch.0 + 1);
                    let (epoch, aside) = (made.epoch, Aside::default());
                    self.branches.insert(made.id, PastBranch { made, version, aside, epoch });
                }
            }
            Record::SnapshotIs(made, version) => {
                if let Some(version) = self.versions.get(&version).cloned() {
                    self.snapshots.insert(made.id, (made, version));
                }
            }
            Record::CheckpointEnd => {
                self.versions.clear();
                self.is_in_checkpoint = false;
            }
            Record::Marks(marks) => {
                self.pass(marks.inode, marks.epoch);
                self.marks.object = self.marks.object.max(marks.object);
            }
            // Of the log and of where content lies, not of the volume.
            Record::Moved(_)
            | Record::Mounted(_)
            | Record::Ordered { .. }
            | Record::Closed { .. }
            | Record::Continues { .. } => {}
        }
    }

    fn version(&mut self, number: u32, base: Option<u32>, edits: Vec<Edit>) {
        let base = base.and_then(|base| self.versions.get(&base).cloned());
        let (mut version, mut aside) = (base.unwrap_or_else(Version::nothing), Aside::default());
        for edit in edits {
            edit.apply(&mut version, &mut aside);
        }
        self.versions.insert(number, version);
    }

    fn edit(&mut self, id: BranchId, edits: Vec<Edit>) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        for edit in edits {
            if let Edit::Put(ino, _) = &edit
                && !ino.is_lower()
            {
                self.marks.inode = self.marks.inode.max(ino.0 + 1);
            }
            edit.apply(&mut branch.version, &mut branch.aside);
        }
        // Nobody has them open any more.
        branch.aside.orphans.clear();
    }

    /// All trees, related ones behind each other.
    pub(super) fn trees(&self) -> impl Iterator<Item = PastTree<'_>> {
        let snapshots = self.snapshots.iter().map(|(id, (made, version))| PastTree {
            name: shown("snapshot", &made.name, id),
            version,
            aside: None,
        });
        let branches = self.branches.iter().map(|(id, branch)| PastTree {
            name: shown("branch", &branch.made.name, id),
            version: &branch.version,
            aside: Some(&branch.aside),
        });
        let points = self.points.iter().map(|(id, (_, version))| PastTree {
            name: shown(POINT, &None, id),
            version,
            aside: None,
        });
        snapshots.chain(points).chain(branches)
    }

    /// Numbers, indexes and names that are given twice, or not yet: what cannot be served.
    pub(super) fn contradictions(&self) -> Vec<String> {
        let (mut views, mut names, mut wrong) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        for (id, branch) in &self.branches {
            if let Some(other) = views.insert(branch.made.view, *id) {
                wrong.push(format!(
                    "branches {other} and {id} have the same view index {}",
                    branch.made.view.0
                ));
            }
            if branch.epoch.0 >= self.marks.epoch {
                wrong.push(format!("branch {id} is in epoch {}, which was not given yet", branch.epoch.0));
            }
            let name = branch.made.name.clone().filter(|name| !names.insert(("branch", name.clone())));
            wrong.extend(name.map(|name| format!("two branches are called {name:?}")));
        }
        for (made, _) in self.snapshots.values() {
            let name = made.name.clone().filter(|name| !names.insert(("snapshot", name.clone())));
            wrong.extend(name.map(|name| format!("two snapshots are called {name:?}")));
        }
        let limit = self.marks.inode.max(InodeId::FIRST_FREE.0);
        for tree in self.trees() {
            if let Some(ino) = tree.version.highest().filter(|ino| ino.0 >= limit) {
                wrong.push(format!("in {}: inode {} has a number that was not given yet", tree.name, ino.0));
            }
        }
        wrong
    }

    /// The dirty files of all branches.
    pub(super) fn dirty(&self) -> HashMap<BranchId, Vec<InodeId>> {
        let of = |branch: &PastBranch| branch.aside.dirty.iter().copied().collect();
        self.branches.iter().map(|(id, branch)| (*id, of(branch))).collect()
    }

    /// Calls `mend` with all versions, each with the name of its tree.
    pub(super) fn mend(&mut self, mend: &mut dyn FnMut(&str, &mut Version)) {
        for (id, (made, version)) in &mut self.snapshots {
            mend(&shown("snapshot", &made.name, id), version);
        }
        for (id, (_, version)) in &mut self.points {
            mend(&shown(POINT, &None, id), version);
        }
        for (id, branch) in &mut self.branches {
            mend(&shown("branch", &branch.made.name, id), &mut branch.version);
        }
    }

    /// The largest size that any file says it has in each object, but for files that are dirty.
    pub(super) fn settled_sizes(&self) -> HashMap<ObjectId, u64> {
        let mut sizes = HashMap::new();
        let mut note = |inode: &Inode, is_dirty: bool| {
            let mut has = |id: ObjectId, size: u64| {
                let known = sizes.entry(id).or_insert(0);
                *known = size.max(*known);
            };
            match inode.content() {
                Some(Content::Whole(object)) if !is_dirty => has(object.id, inode.meta.size),
                // The records say which bytes are there.
                Some(Content::Layered(layers)) => {
                    layers.pieces().for_each(|(_, claim)| has(claim.backing().id, claim.at() + claim.len()))
                }
                _ => {}
            }
        };
        let mut last = None;
        for tree in self.trees() {
            visit_new(last, tree.version, &mut |ino, inode| {
                note(inode, tree.is_dirty(ino));
            });
            // What is dirty here may not be so in the next: there it is to be seen.
            if !tree.has_dirty() {
                last = Some(tree.version);
            }
        }
        sizes
    }

    /// Files of which an operation speaks whose objects may hold less than it says: their sizes are asked of these.
    pub(super) fn doubt(&mut self, id: BranchId, inodes: Vec<InodeId>) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        let is_object = |ino: &InodeId| {
            let content = branch.version.get(*ino).and_then(|inode| inode.content());
            matches!(content, Some(Content::Whole(_)))
        };
        let doubtful: Vec<InodeId> = inodes.into_iter().filter(is_object).collect();
        branch.aside.dirty.extend(doubtful);
    }

    fn snapshot(&mut self, new: NewSnapshot) {
        self.pass(0, new.epoch.0 + 1);
        if let Some(branch) = self.branches.get_mut(&new.branch) {
            branch.epoch = new.epoch;
            self.ancestry.note_snapshot(new.id, new.branch, new.epoch);
            self.snapshots.insert(new.id, (new, branch.version.clone()));
        }
    }

    fn point(&mut self, new: NewSnapshot) {
        let id = new.id;
        self.snapshot(new);
        self.points.extend(self.snapshots.remove(&id).map(|point| (id, point)));
    }

    fn knows(&mut self, holder: Holder, line: BranchId, knows: Knows) {
        match holder {
            Holder::Branch(id) => self.ancestry.set_branch(id, line, knows),
            Holder::Snapshot(id) if self.snapshots.contains_key(&id) || self.points.contains_key(&id) => {
                self.ancestry.set_snapshot(id, line, knows);
            }
            Holder::Snapshot(_) => {}
        }
    }

    fn branch(&mut self, new: NewBranch) {
        let source_epoch = new.source_epoch.unwrap_or(new.epoch);
        self.pass(0, new.epoch.0.max(source_epoch.0) + 1);
        let point = point_of(&new);
        if let Some(from) = new.snapshot {
            self.ancestry.note_branch(new.id, from);
        } else if let Some(point) = point {
            let id = point.id;
            self.point(point);
            self.ancestry.note_branch(new.id, id);
        } else {
            self.ancestry.set_branch(new.id, new.id, Knows::new());
        }
        let source = new.branch.and_then(|id| self.branches.get_mut(&id));
        let version = match (new.snapshot, source, new.root) {
            (Some(id), ..) => self.snapshots.get(&id).map(|(_, version)| version.clone()),
            (None, Some(source), _) => {
                source.epoch = source_epoch;
                Some(source.version.clone())
            }
            (None, None, Some(root)) => Some(Version::new(root.mode, root.uid, root.gid, new.created)),
            (None, None, None) => None,
        };
        if let Some(version) = version {
            let (epoch, aside) = (new.epoch, Aside::default());
            self.branches.insert(new.id, PastBranch { made: new, version, aside, epoch });
        }
    }
}

/// The hidden snapshot of what a branch grew from, when that was a branch: it has the new branch's id.
pub(super) fn point_of(new: &NewBranch) -> Option<NewSnapshot> {
    let (branch, epoch) = (new.branch?, new.source_epoch?);
    Some(NewSnapshot { id: SnapshotId(new.id.0), name: None, branch, epoch, created: new.created })
}

impl PastBranch {
    /// Asks the store for the sizes and times of files that were written in place. Returns what is to be recorded.
    ///
    /// # Errors
    /// What the device answers, but for an object that is missing.
    pub(super) fn settle(&mut self, device: &dyn Device) -> io::Result<Vec<Edit>> {
        let dirty = std::mem::take(&mut self.aside.dirty);
        let mut edits = Vec::new();
        for ino in dirty {
            if let Some(inode) = self.version.get(ino) {
                edits.extend(settled(device, ino, inode, self.epoch)?);
            }
            edits.push(Edit::Clean(ino));
        }
        for edit in &edits {
            edit.clone().apply(&mut self.version, &mut self.aside);
        }
        Ok(edits)
    }
}

/// The attributes of a file as its object has them.
fn settled(device: &dyn Device, ino: InodeId, inode: &Inode, epoch: Epoch) -> io::Result<Option<Edit>> {
    let mut meta = inode.meta;
    let (object, is_whole) = match inode.content() {
        Some(Content::Whole(object)) => (object.id, true),
        // Of such a file only the times are not recorded.
        Some(Content::Layered(layers)) => {
            let own = layers.owners().find(|owner| owner.backing.epoch() == epoch);
            let Some(own) = own else { return Ok(None) };
            (own.backing.id, false)
        }
        Some(Content::Hole | Content::Packed(_) | Content::Lower(_)) | None => return Ok(None),
    };
    match device.open(FileId::Object(object)).and_then(|file| file.stat()) {
        Ok(stat) if !is_whole => {
            if stat.modified > meta.times.ctime {
                (meta.times.mtime, meta.times.ctime) = (stat.modified, stat.modified);
            }
            Ok(Some(Edit::Meta(ino, meta)))
        }
        Ok(stat) => {
            // Written after the last record of its attributes?
            if stat.len != meta.size || stat.modified > meta.times.ctime {
                meta.times.ctime = meta.times.ctime.max(stat.modified);
                meta.times.mtime = meta.times.ctime;
            }
            (meta.size, meta.blocks) = (stat.len, stat.blocks);
            Ok(Some(Edit::Meta(ino, meta)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            warn!(inode = ino.0, object = object.0, "the content of a file is missing");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
