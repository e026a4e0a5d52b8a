//! Which snapshots are in memory: those that were looked at last, and the newest. The others are on disk, each as it differs
//! from one before it, and come back when somebody looks at them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Snapshot;
use crate::error::Result;
use crate::store::{Device, Swap};
use crate::types::{BranchId, SnapshotId};

/// So many are told by one that many branches grew from; others by their neighbours.
const MANY: usize = 64;
/// So many that came back stay at least: who looks at one looks again.
const FEW: usize = 4;
/// Snapshots that are looked at whether they may leave memory, for one that comes.
const TRIES: usize = 8;

/// Who has snapshots leave memory. All that is not said to be otherwise is done by one who keeps snapshots from coming and going.
pub struct Pager {
    pub(super) swap: Swap,
    /// So many of those that came back stay in memory, and so many of those that never left it.
    limit: usize,
    /// Leaf lock: those that came back, in the order they did. By anybody.
    woken: Mutex<VecDeque<Weak<Snapshot>>>,
    /// Leaf lock: those that never left, in the order they came. By anybody.
    fresh: Mutex<VecDeque<SnapshotId>>,
    /// Before rank 0. Held by whoever has snapshots leave memory: what is synced is what was written.
    pub turn: Mutex<()>,
    /// Leaf lock: the last of each branch.
    last: Mutex<HashMap<BranchId, SnapshotId>>,
}

/// From what a snapshot may be told to differ, best first, all of them older.
pub struct Bases {
    /// The one before it, of its branch.
    pub before: Option<Arc<Snapshot>>,
    /// What its branch grew from.
    pub origin: Option<Arc<Snapshot>>,
    /// The one before it, of any branch.
    pub neighbour: Option<Arc<Snapshot>>,
}

impl Pager {
    /// One that writes to files of `device`.
    pub fn new(device: Arc<dyn Device>, limit: usize) -> Arc<Pager> {
        let (woken, fresh, last) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Pager { swap: Swap::new(device), limit, woken, fresh, turn: Mutex::default(), last })
    }

    /// A snapshot is in memory, and stays until it is one of the oldest.
    pub fn note(&self, id: SnapshotId) {
        self.fresh.lock().push_back(id);
    }

    /// One that is to leave memory, if there are more than `limit` and so many.
    pub fn next(&self, more: usize) -> Option<SnapshotId> {
        let mut fresh = self.fresh.lock();
        if self.are_too_many(&fresh, more) { fresh.pop_front() } else { None }
    }

    /// Are there any that are to leave memory?
    pub fn has_more(&self, more: usize) -> bool {
        self.are_too_many(&self.fresh.lock(), more)
    }

    fn are_too_many(&self, fresh: &VecDeque<SnapshotId>, more: usize) -> bool {
        fresh.len() > self.limit.saturating_add(more)
    }

    /// How many may stay.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Snapshots that are on disk alone.
    pub fn on_disk(&self) -> usize {
        self.swap.len().saturating_sub(self.woken.lock().len())
    }

    /// The last snapshot of a branch that was written; the next is `now`.
    pub fn last_of(&self, branch: BranchId, now: SnapshotId) -> Option<SnapshotId> {
        let mut last = self.last.lock();
        let known = last.get(&branch).copied();
        if known.is_none_or(|known| known < now) {
            last.insert(branch, now);
        }
        known
    }

    /// A branch is gone.
    pub fn forget(&self, branch: BranchId) {
        self.last.lock().remove(&branch);
    }

    /// Writes a snapshot as it differs from one of these, if it is worth it. It is to leave memory when [`Pager::settle`] says
    /// so.
    ///
    /// # Errors
    /// What the store answers when it is written; it is tried again.
    pub fn page_out(self: &Arc<Self>, snapshot: &Arc<Snapshot>, bases: Bases) -> Result<bool> {
        let origin = bases.origin.filter(|origin| origin.dependents() < MANY);
        let base = bases.before.or(origin).or(bases.neighbour).filter(|base| base.id < snapshot.id);
        let Some(base) = base else { return Ok(false) };
        snapshot.page_out(self, &base).inspect_err(|_| self.fresh.lock().push_front(snapshot.id))
    }

    /// Has these leave memory, which were written: they are on disk for sure.
    ///
    /// # Errors
    /// What the store answers; they stay in memory then.
    pub fn settle(&self, written: Vec<Arc<Snapshot>>) -> Result<()> {
        let synced = self.swap.sync();
        for snapshot in written.iter().rev().filter(|_| synced.is_err()) {
            snapshot.stay();
            self.note(snapshot.id);
        }
        synced?;
        for snapshot in &written {
            snapshot.settle();
            self.note_woken(snapshot);
        }
        Ok(())
    }

    /// A snapshot is about to go: those that are on disk as they differ from it come back.
    ///
    /// # Errors
    /// What the store answers; it is not to go then.
    pub fn release(&self, snapshot: &Snapshot) -> Result<()> {
        self.fresh.lock().retain(|id| *id != snapshot.id);
        snapshot.free_dependents(|id| self.note(id))
    }

    /// A snapshot came back. Others may have to leave for it. By anybody.
    pub(super) fn note_woken(&self, snapshot: &Arc<Snapshot>) {
        let mut left = Vec::new();
        let mut woken = self.woken.lock();
        woken.push_back(Arc::downgrade(snapshot));
        for _ in 0..TRIES {
            if woken.len() <= self.limit.max(FEW) {
                break;
            }
            let Some(oldest) = woken.pop_front() else { break };
            match oldest.upgrade().map(|oldest| (oldest.leave(), oldest)) {
                None => {}
                Some((Some(version), oldest)) => left.push((version, oldest)),
                Some((None, _)) => woken.push_back(oldest),
            }
        }
        drop(woken);
        drop(left); // it may be much
    }
}
