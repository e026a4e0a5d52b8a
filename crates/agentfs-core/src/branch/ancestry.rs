//! What came from what: which states of other branches a branch has in it, the states that merges begin from, and what was
//! done that can be undone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::types::{BranchId, Deed, Epoch, Event, Holder, Knows, SnapshotId};

/// A moment of a branch: the state that it was left in when this epoch of it began.
pub type Moment = (BranchId, Epoch);

/// Where merges crossed again and again: how far back states are kept that the ones they begin from are made of.
const DEPTH: usize = 2;

/// Events that are kept.
const EVENTS: usize = 1000;

/// Is this what another undid? That names the snapshot of before.
fn undoes(event: &Event, known: &Event) -> bool {
    known.can_be_undone() && known.kept.is_some_and(|kept| kept.0 == event.source)
}

fn moments(knows: &Knows) -> impl Iterator<Item = Moment> {
    knows.iter().map(|(branch, epoch)| (*branch, *epoch))
}

/// Takes over what another state knows.
pub fn learn(knows: &mut Knows, other: &Knows) {
    for (branch, epoch) in other {
        let known = knows.entry(*branch).or_insert(*epoch);
        *known = (*known).max(*epoch);
    }
}

/// A snapshot: of which moment, and what that knows of others, which the snapshots of a branch share.
struct Past {
    moment: Moment,
    others: Arc<Knows>,
}

/// What a state knows: of others, and which moment it is itself, if it is one.
#[derive(Clone)]
pub struct Known {
    own: Option<Moment>,
    others: Arc<Knows>,
}

impl Known {
    fn of_branch(knows: &Arc<Knows>) -> Known {
        Known { own: None, others: knows.clone() }
    }

    /// All of it.
    pub fn all(&self) -> Knows {
        let mut all = (*self.others).clone();
        all.extend(self.own);
        all
    }

    fn get(&self, branch: &BranchId) -> Option<Epoch> {
        let own = self.own.filter(|(of, _)| of == branch).map(|(_, epoch)| epoch);
        own.or_else(|| self.others.get(branch).copied())
    }

    fn moments(&self) -> impl Iterator<Item = Moment> {
        moments(&self.others).chain(self.own)
    }
}

impl Past {
    fn known(&self) -> Known {
        Known { own: Some(self.moment), others: self.others.clone() }
    }
}

/// The ancestry of all branches and snapshots of a volume.
#[derive(Default)]
pub struct Ancestry {
    branches: HashMap<BranchId, Arc<Knows>>,
    /// The lines of branches, where they are not called by the branch's own id: one that was put back begins a new one.
    lines: HashMap<BranchId, BranchId>,
    snapshots: HashMap<SnapshotId, Past>,
    /// What the last snapshot of a line knew.
    recent: HashMap<BranchId, Arc<Knows>>,
    moments: HashMap<Moment, SnapshotId>,
    events: Vec<Event>,
    /// States that operations under way rely on, and how many do.
    held: HashMap<SnapshotId, usize>,
}

impl Ancestry {
    /// What a branch knows of others.
    pub fn of_branch(&self, id: BranchId) -> Knows {
        self.branches.get(&id).map(|knows| (**knows).clone()).unwrap_or_default()
    }

    /// What a snapshot knows, its own branch included.
    pub fn of_snapshot(&self, id: SnapshotId) -> Knows {
        self.snapshots.get(&id).map(|past| past.known().all()).unwrap_or_default()
    }

    /// The line that a branch is in.
    pub fn line(&self, id: BranchId) -> BranchId {
        self.lines.get(&id).copied().unwrap_or(id)
    }

    /// A branch is in a line, and knows this.
    pub fn set_branch(&mut self, id: BranchId, line: BranchId, knows: Knows) {
        self.branches.insert(id, Arc::new(knows));
        if line != id {
            self.lines.insert(id, line);
        }
    }

    /// A snapshot in a line knows this.
    pub fn set_snapshot(&mut self, id: SnapshotId, line: BranchId, mut knows: Knows) {
        let Some(epoch) = knows.remove(&line) else { return };
        let others = match self.recent.get(&line) {
            Some(recent) if **recent == knows => recent.clone(),
            _ => Arc::new(knows),
        };
        self.recent.insert(line, others.clone());
        self.moments.insert((line, epoch), id);
        self.snapshots.insert(id, Past { moment: (line, epoch), others });
    }

    /// A snapshot was taken of a branch that goes on in `epoch`.
    pub fn note_snapshot(&mut self, id: SnapshotId, branch: BranchId, epoch: Epoch) {
        let (mut knows, line) = (self.of_branch(branch), self.line(branch));
        knows.insert(line, epoch);
        self.set_snapshot(id, line, knows);
    }

    /// A branch grew from a snapshot.
    pub fn note_branch(&mut self, id: BranchId, from: SnapshotId) {
        if let Some(past) = self.snapshots.get(&from) {
            self.branches.insert(id, Arc::new(past.known().all()));
        }
    }

    /// A branch is gone.
    pub fn forget_branch(&mut self, id: BranchId) {
        self.branches.remove(&id);
        self.lines.remove(&id);
    }

    /// A snapshot is gone.
    pub fn forget_snapshot(&mut self, id: SnapshotId) {
        if let Some(past) = self.snapshots.remove(&id)
            && self.moments.get(&past.moment) == Some(&id)
        {
            self.moments.remove(&past.moment);
        }
    }

    /// An operation relies on a state.
    pub fn hold(&mut self, id: SnapshotId) {
        *self.held.entry(id).or_insert(0) += 1;
    }

    /// It does no longer.
    pub fn let_go(&mut self, id: SnapshotId) {
        if let Some(count) = self.held.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.held.remove(&id);
            }
        }
    }

    /// Something was done.
    pub fn note(&mut self, event: Event) {
        if event.deed == Deed::Undone
            && let Some(undone) = self.events.iter_mut().rev().find(|known| undoes(&event, known))
        {
            undone.is_undone = true;
        }
        self.adopt(event);
    }

    /// As it was noted before.
    pub fn adopt(&mut self, event: Event) {
        self.events.push(event);
        let excess = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..excess);
    }

    /// What was done last that can be undone.
    pub fn to_undo(&self) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.can_be_undone())
    }

    /// Is there something that can be undone by going back to this snapshot?
    pub fn can_undo(&self, kept: SnapshotId) -> bool {
        self.events.iter().any(|event| event.can_be_undone() && event.kept == Some(kept))
    }

    /// What was done, oldest first.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// What branches know, and what snapshots know, each with its line.
    pub fn all(&self) -> impl Iterator<Item = (Holder, BranchId, Known)> {
        let branches = self.branches.iter();
        let branches =
            branches.map(|(id, knows)| (Holder::Branch(*id), self.line(*id), Known::of_branch(knows)));
        let snapshots =
            self.snapshots.iter().map(|(id, past)| (Holder::Snapshot(*id), past.moment.0, past.known()));
        branches.chain(snapshots)
    }

    /// The snapshots of moments that two states have in them and that are in no other such moment: `ours` and `theirs` say what
    /// the two know, each itself included. `None` when one of them is not kept any more: nothing older may stand for it.
    pub fn common(&self, ours: &Knows, theirs: &Knows) -> Option<Vec<SnapshotId>> {
        let both = ours.iter().filter_map(|(branch, own)| Some((*branch, *own.min(theirs.get(branch)?))));
        let both: Vec<Moment> = both.collect();
        let found: Vec<(Moment, SnapshotId)> =
            both.iter().filter_map(|moment| Some((*moment, *self.moments.get(moment)?))).collect();
        let is_in = |(branch, epoch): Moment, id: SnapshotId| {
            let known = self.snapshots.get(&id).and_then(|past| past.known().get(&branch));
            known.is_some_and(|known| known >= epoch)
        };
        let is_covered = |moment: &Moment| found.iter().any(|(_, id)| is_in(*moment, *id));
        let is_best = |(moment, id): &(Moment, SnapshotId)| {
            !found.iter().any(|(_, other)| other != id && is_in(*moment, *other))
        };
        both.iter()
            .all(is_covered)
            .then(|| found.iter().filter(|at| is_best(at)).map(|(_, id)| *id).collect())
    }

    /// The snapshots that a merge may begin from, of branches or of snapshots that are `shown`, and those that these may have
    /// been made one from.
    pub fn needed(&self, shown: &dyn Fn(SnapshotId) -> bool) -> HashSet<SnapshotId> {
        let branches =
            self.branches.iter().map(|(id, knows)| (Some(self.line(*id)), Known::of_branch(knows)));
        let snapshots =
            self.snapshots.iter().filter(|(id, _)| shown(**id)).map(|(_, past)| (None, past.known()));
        let holders: Vec<(Option<BranchId>, Known)> = branches.chain(snapshots).collect();
        let alive: HashSet<BranchId> = holders.iter().filter_map(|(own, _)| *own).collect();
        let exact: HashSet<Moment> = holders.iter().flat_map(|(_, knows)| knows.moments()).collect();
        let begins = |(id, past): (&SnapshotId, &Past)| {
            let is_gone = !alive.contains(&past.moment.0);
            let is_needed =
                exact.contains(&past.moment) && (!is_gone || self.joins(&holders, *id, past.moment));
            is_needed.then_some(*id)
        };
        let mut needed: HashSet<SnapshotId> = self.snapshots.iter().filter_map(begins).collect();
        needed.extend(self.held.keys());
        let mut last: Vec<SnapshotId> = needed.iter().copied().collect();
        for _ in 0..DEPTH {
            let known = last.iter().filter_map(|id| self.snapshots.get(id)).map(Past::known);
            let known = known.flat_map(|known| known.moments().collect::<Vec<_>>());
            let older: HashSet<SnapshotId> =
                known.filter_map(|moment| self.moments.get(&moment)).copied().collect();
            last = older.into_iter().filter(|id| needed.insert(*id)).collect();
        }
        needed
    }

    /// Of a moment of a branch that is gone: may several who have it in them have nothing later together?
    fn joins(&self, holders: &[(Option<BranchId>, Known)], id: SnapshotId, (of, epoch): Moment) -> bool {
        let has = |known: &Known| known.get(&of).is_some_and(|known| known >= epoch);
        let having: Vec<_> = holders.iter().filter(|(_, knows)| has(knows)).collect();
        let Some((first, others)) = having.split_first().filter(|(_, others)| !others.is_empty()) else {
            return false;
        };
        let of_branch = |(own, known): &(Option<BranchId>, Known), branch: BranchId| {
            if *own == Some(branch) { Some(Epoch(u64::MAX)) } else { known.get(&branch) }
        };
        let branches = first.1.moments().map(|(branch, _)| branch).chain(first.0);
        let mut together = branches.filter_map(|branch| {
            let all = others.iter().map(|other| of_branch(other, branch));
            let least =
                all.chain([of_branch(first, branch)]).collect::<Option<Vec<_>>>()?.into_iter().min()?;
            Some((branch, least))
        });
        !together.any(|moment| {
            let later = self.moments.get(&moment).filter(|other| **other != id);
            later.and_then(|other| self.snapshots.get(other)).is_some_and(|past| has(&past.known()))
        })
    }

    /// Forgets what was known of branches that are gone, where no snapshot of theirs is left: no merge can begin from it.
    pub fn tidy(&mut self) {
        let left: BTreeSet<BranchId> = self
            .moments
            .keys()
            .map(|(line, _)| *line)
            .chain(self.branches.keys().map(|id| self.line(*id)))
            .collect();
        self.recent.retain(|line, _| left.contains(line));
        for knows in self.branches.values_mut() {
            if knows.keys().any(|branch| !left.contains(branch)) {
                Arc::make_mut(knows).retain(|branch, _| left.contains(branch));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Timestamp;

    /// A volume of which only the ancestry is there.
    #[derive(Default)]
    struct Past {
        ancestry: Ancestry,
        epoch: u64,
    }

    impl Past {
        fn snapshot(&mut self, of: u128) -> SnapshotId {
            self.epoch += 1;
            let id = SnapshotId(1000 + u128::from(self.epoch));
            self.ancestry.note_snapshot(id, BranchId(of), Epoch(self.epoch));
            id
        }

        fn branch(&mut self, new: u128, of: u128) -> SnapshotId {
            let from = self.snapshot(of);
            self.ancestry.note_branch(BranchId(new), from);
            from
        }

        fn merge(&mut self, of: u128, into: u128) -> SnapshotId {
            let point = self.snapshot(of);
            let mut knows = self.ancestry.of_branch(BranchId(into));
            learn(&mut knows, &self.ancestry.of_snapshot(point));
            knows.remove(&BranchId(into));
            self.ancestry.set_branch(BranchId(into), BranchId(into), knows);
            point
        }

        fn bases(&mut self, a: u128, b: u128) -> Vec<SnapshotId> {
            let (a, b) = (self.snapshot(a), self.snapshot(b));
            let (ours, theirs) = (self.ancestry.of_snapshot(a), self.ancestry.of_snapshot(b));
            self.ancestry.common(&ours, &theirs).unwrap()
        }
    }

    #[test]
    fn a_merge_begins_where_the_two_were_last_the_same() {
        let mut past = Past::default();
        past.ancestry.set_branch(BranchId(0), BranchId(0), Knows::new());
        let fork = past.branch(1, 0);
        assert_eq!(past.bases(0, 1), [fork]);
        let merged = past.merge(1, 0);
        assert_eq!(past.bases(0, 1), [merged], "merged twice");
        assert_eq!(past.bases(1, 0), [merged]);
        let back = past.merge(0, 1);
        assert_eq!(past.bases(0, 1), [back], "merged back");
        let (a, b) = (past.branch(2, 0), past.branch(3, 0));
        assert_eq!(past.bases(2, 3), [a], "siblings");
        assert_eq!(past.bases(3, 0), [b]);
    }

    #[test]
    fn where_merges_crossed_there_are_two_beginnings() {
        let mut past = Past::default();
        past.ancestry.set_branch(BranchId(0), BranchId(0), Knows::new());
        past.branch(1, 0);
        past.branch(2, 0);
        // Each takes over what the other was before: by branches of these states.
        let (one, two) = (past.branch(3, 1), past.branch(4, 2));
        past.merge(3, 2);
        past.merge(4, 1);
        let mut bases = past.bases(1, 2);
        bases.sort();
        let expected = past
            .ancestry
            .common(&past.ancestry.of_branch(BranchId(1)), &past.ancestry.of_branch(BranchId(2)));
        assert_eq!(bases.len(), 2, "{bases:?} {expected:?} {one:?} {two:?}");
    }

    #[test]
    fn what_no_merge_can_begin_from_is_not_needed() {
        let mut past = Past::default();
        past.ancestry.set_branch(BranchId(0), BranchId(0), Knows::new());
        let fork = past.branch(1, 0);
        assert!(past.ancestry.needed(&|_| false).contains(&fork));
        let merged = past.merge(1, 0);
        assert!(past.ancestry.needed(&|_| false).contains(&merged));
        past.ancestry.forget_branch(BranchId(1));
        assert!(
            !past.ancestry.needed(&|_| false).contains(&fork)
                && !past.ancestry.needed(&|_| false).contains(&merged)
        );
        past.ancestry.forget_snapshot(fork);
        past.ancestry.forget_snapshot(merged);
        past.ancestry.tidy();
        assert_eq!(past.ancestry.of_branch(BranchId(0)), Knows::new());
    }

    #[test]
    fn what_was_undone_is_not_undone_again() {
        let event = |deed, source, kept| Event {
            deed,
            when: Timestamp::default(),
            branch: BranchId(0),
            name: None,
            source,
            source_name: None,
            kept: Some(SnapshotId(kept)),
            is_undone: false,
        };
        let mut ancestry = Ancestry::default();
        ancestry.note(event(Deed::Merged, 0, 1));
        ancestry.note(event(Deed::Restored, 0, 2));
        ancestry.note(event(Deed::Undone, 2, 3));
        assert!(ancestry.can_undo(SnapshotId(1)) && !ancestry.can_undo(SnapshotId(2)));
        let left = |ancestry: &Ancestry| ancestry.to_undo().map(|event| event.deed);
        assert_eq!(left(&ancestry), Some(Deed::Merged));
        ancestry.note(event(Deed::Undone, 1, 4));
        assert_eq!(left(&ancestry), None);
    }
}
