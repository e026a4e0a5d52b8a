//! Doing what was planned to a branch: the state before is kept, all is done in one record, and planned anew when something
//! came between.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::freeze::Moment;
use super::merge::Merged;
use crate::branch::{Branch, BranchInfo, Cover, SnapshotInfo, Tree};
use crate::compare::{Pair, Sight};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::{Merge, Record};
use crate::merge::{self, Plan};
use crate::store::join;
use crate::types::{BranchId, Deed, Event, InodeId, Knows, SnapshotId, Timestamp, ViewId};

/// How often a merge is planned anew because the branch was changed meanwhile.
const ATTEMPTS: usize = 5;

/// What is done to a branch.
pub(super) struct What {
    pub(super) deed: Deed,
    /// The branch or snapshot that it takes from.
    pub(super) source: u128,
    /// Its name.
    pub(super) name: Option<Arc<str>>,
    /// The state of it.
    pub(super) state: SnapshotId,
    /// Is the branch what it was before, for others too? What it did since is not its own then.
    pub(super) begins_line: bool,
}

impl FsCore {
    /// Attempts something until nothing comes between; from the second time on other changes are held back.
    pub(super) fn insist(&self, attempt: impl Fn(bool) -> Result<Merged>) -> Result<Merged> {
        for turn in 0..ATTEMPTS {
            match attempt(turn > 0) {
                Err(FsError::Contended) => {}
                done => return done,
            }
        }
        Err(FsError::Busy(
            "the branch is written to all the while in the files that would change; nothing was changed: try \
             again when it is quiet"
                .into(),
        ))
    }

    /// Does what was planned, if it may be done; `kept` is `None` when it is only to be told.
    pub(super) fn carry_out(
        &self,
        (info, branch): (&BranchInfo, &Arc<Branch>),
        plan: Plan,
        refuses: bool,
        kept: Option<&SnapshotInfo>,
        what: What,
        known: impl FnOnce(Knows) -> Knows,
    ) -> Result<Merged> {
        if plan.is_stuck && kept.is_some() && (!refuses || plan.conflicts.is_empty()) {
            return Err(FsError::Refused(
                "what conflicts cannot be settled for the whole tree; nothing was changed: merge without an \
                 option to see what conflicts, and change one side"
                    .into(),
            ));
        }
        let mut merged = Merged { into: Some(info.clone()), ..Merged::default() };
        let Some(kept) = kept else {
            (merged.steps, merged.conflicts) = (plan.steps, plan.conflicts);
            return Ok(merged);
        };
        if refuses && !plan.conflicts.is_empty() {
            self.forget_kept(Some(kept));
            (merged.steps, merged.conflicts) = (plan.steps, plan.conflicts);
            return Ok(merged);
        }
        if !plan.unowned.is_empty() {
            self.pin_paths(&Tree::Branch(branch.clone()), plan.unowned)?;
            return Err(FsError::Contended);
        }
        let control = self.control.lock();
        if self.catalog.read().state(what.state).is_none() {
            return Err(FsError::Contended); // it was deleted, and nothing must be known of what is not kept
        }
        if what.deed == Deed::Undone && !self.catalog.read().ancestry.can_undo(what.state) {
            return Err(FsError::Refused("it was undone meanwhile".into()));
        }
        let (mine, old) = {
            let catalog = self.catalog.read();
            (catalog.ancestry.of_branch(info.id), catalog.ancestry.line(info.id))
        };
        let mut knows = known(mine.clone());
        let line = if what.begins_line { BranchId::generate() } else { old };
        knows.remove(&line);
        let is_new = !plan.is_empty();
        if !is_new && knows == mine && !what.begins_line {
            drop(control);
            self.forget_kept(Some(kept));
            return Ok(merged);
        }
        let event = Event {
            deed: what.deed,
            when: Timestamp::now(),
            branch: info.id,
            name: info.name.clone(),
            source: what.source,
            source_name: what.name,
            kept: is_new.then_some(kept.id),
            is_undone: false,
        };
        self.commit(branch, &plan, (line, knows.clone()), event.clone())?;
        let mut catalog = self.catalog.write();
        catalog.ancestry.set_branch(info.id, line, knows);
        catalog.ancestry.note(event);
        drop(catalog);
        let points = self.forget_points();
        drop(control);
        self.reclaim(points);
        merged.unsynced = self.journal.sync().err();
        merged.is_noted = true;
        if is_new {
            merged.kept = Some(kept.clone());
        } else {
            self.forget_kept(Some(kept));
        }
        merged.names = plan.removed.keys().chain(plan.added.keys()).cloned().collect();
        let named = plan.removed.values().chain(plan.added.values()).map(|entry| entry.ino());
        merged.inodes = plan.attributes.keys().copied().chain(named).collect();
        (merged.steps, merged.conflicts) = (plan.steps, plan.conflicts);
        Ok(merged)
    }

    fn commit(
        &self,
        branch: &Arc<Branch>,
        plan: &Plan,
        (line, knows): (BranchId, Knows),
        event: Event,
    ) -> Result<()> {
        let covers = self.covers(&Tree::Branch(branch.clone()), plan)?;
        let edit = |draft: &mut crate::branch::Draft<'_>| {
            draft.cover(covers, None);
            merge::emit(plan, draft)
        };
        let record = |first, edits| {
            Some(Record::Merged(Box::new(Merge { branch: branch.id, line, knows, event, first, edits })))
        };
        let changed = branch.change_as(&*self.journal, edit, record)?;
        changed.orphaned.into_iter().for_each(|ino| self.drop_if_unused(branch, ino));
        Ok(())
    }

    /// What is in the lower directory under names that go.
    fn covers(&self, tree: &Tree, plan: &Plan) -> Result<Vec<Cover>> {
        let Some((lower, _)) = tree.lower() else { return Ok(Vec::new()) };
        let mut covers = Vec::new();
        for (dir, name) in plan.removed.keys() {
            let Some((inode, false)) = tree.own_inode(*dir) else { continue };
            let Some(path) = inode.lower.as_ref().map(|origin| join(&origin.path, name)) else { continue };
            if lower.find(&path)?.is_some() {
                covers.push(Cover { dir: *dir, name: name.clone() });
            }
        }
        Ok(covers)
    }

    /// Has a tree that lies over the lower directory have itself what changes from one state to another are about, and the
    /// directories that they are in.
    pub(super) fn pin(&self, tree: &Tree, (from, to): (&Sight, &Sight), changes: &[Pair]) -> Result<()> {
        let mut paths = BTreeSet::new();
        for (sight, node) in changes.iter().flat_map(|pair| [(from, &pair.a), (to, &pair.b)]) {
            let Some(node) = node else { continue };
            paths.extend(node.inode.lower.as_ref().map(|origin| origin.path.clone()));
            for (dir, name) in &node.places {
                paths.extend(sight.beneath(*dir));
                paths.extend(sight.below(*dir, name));
            }
        }
        self.pin_paths(tree, paths)
    }

    fn pin_paths(&self, tree: &Tree, paths: impl IntoIterator<Item = Arc<[u8]>>) -> Result<()> {
        let Some(layer) = tree.lower() else { return Ok(()) };
        for path in paths {
            match self.copy_up_name_at(tree, layer, &path) {
                // It shows something else there.
                Ok(()) | Err(FsError::Stale | FsError::NotFound | FsError::NotDirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The state before something is done to a branch, as a snapshot.
    pub(super) fn keep_before(&self, info: &BranchInfo, deed: Deed) -> Result<SnapshotInfo> {
        let what = match deed {
            Deed::Merged => "merge",
            Deed::Restored => "restore",
            Deed::Deleted => "delete",
            Deed::Undone => "undo",
            Deed::Imported => "import",
        };
        let name = {
            let catalog = self.catalog.read();
            let free = |name: &String| catalog.free_snapshot_name(name).is_ok();
            (1_u64..).map(|n| format!("before-{what}-{n}")).find(free).unwrap_or_default()
        };
        self.snapshot_lazily(&info.id.to_string(), Some(&name), Moment::One)
    }

    pub(super) fn forget_kept(&self, kept: Option<&SnapshotInfo>) {
        if let Some(Err(error)) = kept.map(|kept| self.delete_snapshot(&kept.id.to_string())) {
            tracing::warn!(%error, "a snapshot that is not needed stays");
        }
    }

    /// A branch as the snapshot has it that was taken of it for this, or, without one, as it is now. The snapshot goes when it
    /// cannot be looked at.
    pub(super) fn sight_as_kept(&self, kept: Option<&SnapshotInfo>, tree: &Tree) -> Result<Sight> {
        match kept {
            Some(info) => self.sight_of(info.id).inspect_err(|_| self.forget_kept(kept)),
            None => Sight::of(tree, self.lower.as_ref()),
        }
    }

    pub(super) fn sight_of(&self, id: SnapshotId) -> Result<Sight> {
        let snapshot = self.catalog.read().state(id).ok_or(FsError::Stale)?.1.clone();
        Sight::of(&Tree::Snapshot(snapshot), self.lower.as_ref())
    }

    /// A number for a file in a branch: this one, if nothing has it there or had it and is remembered.
    pub(super) fn number_in(&self, view: ViewId, wanted: InodeId) -> Result<InodeId> {
        let tree = self.views.get(view)?;
        let is_free = wanted.0 != 0
            && tree.own_inode(wanted).is_none()
            && !self.lookups.remembers(view, wanted)
            && !self.open_files.contains(view, wanted);
        if is_free { Ok(wanted) } else { self.fresh_inode() }
    }
}
