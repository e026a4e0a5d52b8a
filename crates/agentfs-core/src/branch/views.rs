//! Which tree a view index means. A branch keeps its index; a snapshot has one while the kernel
//! remembers nodes of it; no index is given again before the kernel has forgotten all its nodes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Snapshot, Tree};
use crate::error::{FsError, Result};
use crate::types::{BranchId, SnapshotId, ViewId};

/// One more than the largest index: node ids have 19 bits for it, and use the last one themselves.
const LIMIT: usize = (1 << 19) - 1;

/// The table of views. Rank 4.
#[derive(Default)]
pub struct Views {
    slots: RwLock<Slots>,
}

#[derive(Default)]
struct Slots {
    trees: Vec<Slot>,
    free: Vec<ViewId>,
    snapshots: HashMap<SnapshotId, ViewId>,
}

enum Slot {
    Free,
    /// For a branch about to be made.
    Reserved,
    Live(Tree),
    /// Deleted, but the kernel may still know nodes of it.
    Retired,
}

impl Slots {
    fn reserve(&mut self) -> Result<ViewId> {
        if let Some(view) = self.free.pop() {
            if let Some(slot) = self.slot(view) {
                *slot = Slot::Reserved;
            }
            return Ok(view);
        }
        if self.trees.len() >= LIMIT {
            return Err(FsError::LimitReached(format!(
                "no more than {LIMIT} branches and snapshots can be in use"
            )));
        }
        self.trees.push(Slot::Reserved);
        Ok(ViewId((self.trees.len() - 1) as u32))
    }

    fn slot(&mut self, view: ViewId) -> Option<&mut Slot> {
        self.trees.get_mut(view.0 as usize)
    }
}

impl Views {
    /// The tree that `view` means.
    ///
    /// # Errors
    /// `Stale` when it means none any more.
    pub fn get(&self, view: ViewId) -> Result<Tree> {
        match self.slots.read().trees.get(view.0 as usize) {
            Some(Slot::Live(tree)) => Ok(tree.clone()),
            Some(Slot::Free | Slot::Reserved | Slot::Retired) | None => Err(FsError::Stale),
        }
    }

    /// An index for a branch about to be made: [`Views::fill`] it, or [`Views::free`] it.
    ///
    /// # Errors
    /// `LimitReached` when all are taken.
    pub fn reserve(&self) -> Result<ViewId> {
        self.slots.write().reserve()
    }

    /// Gives a branch of an earlier mount its index again; those between are free.
    pub fn restore(&self, view: ViewId, tree: Tree) {
        let mut slots = self.slots.write();
        while slots.trees.len() <= view.0 as usize {
            let next = ViewId(slots.trees.len() as u32);
            slots.trees.push(Slot::Free);
            slots.free.push(next);
        }
        slots.free.retain(|free| *free != view);
        if let Some(slot) = slots.slot(view) {
            *slot = Slot::Live(tree);
        }
    }

    /// From now on `view` means `tree`.
    pub fn fill(&self, view: ViewId, tree: Tree) {
        if let Some(slot) = self.slots.write().slot(view) {
            *slot = Slot::Live(tree);
        }
    }

    /// The index of a snapshot, given now if it has none. `pin` is called before anybody could find it unused.
    ///
    /// # Errors
    /// `LimitReached` when all are taken.
    pub fn enter(&self, snapshot: &Arc<Snapshot>, pin: impl FnOnce(ViewId)) -> Result<ViewId> {
        let mut slots = self.slots.write();
        let view = match slots.snapshots.get(&snapshot.id) {
            Some(view) => *view,
            None => {
                let view = slots.reserve()?;
                if let Some(slot) = slots.slot(view) {
                    *slot = Slot::Live(Tree::Snapshot(snapshot.clone()));
                }
                slots.snapshots.insert(snapshot.id, view);
                view
            }
        };
        pin(view);
        Ok(view)
    }

    /// Calls `pin` if `view` shows the branch `id` now, before it could come to show another.
    ///
    /// # Errors
    /// `Stale` when it does not.
    pub fn enter_branch(&self, view: ViewId, id: BranchId, pin: impl FnOnce()) -> Result<()> {
        let slots = self.slots.read();
        match slots.trees.get(view.0 as usize) {
            Some(Slot::Live(Tree::Branch(branch))) if branch.id == id => {
                pin();
                Ok(())
            }
            _ => Err(FsError::Stale),
        }
    }

    /// The index a snapshot has now, if any.
    pub fn of_snapshot(&self, id: SnapshotId) -> Option<ViewId> {
        self.slots.read().snapshots.get(&id).copied()
    }

    /// `view` means nothing any more, its nodes are stale; it is free when `unused`.
    pub fn retire(&self, view: ViewId, unused: impl Fn(ViewId) -> bool) {
        let mut slots = self.slots.write();
        slots.snapshots.retain(|_, known| *known != view);
        if let Some(slot) = slots.slot(view) {
            *slot = Slot::Retired;
        }
        slots.recycle(view, unused);
    }

    /// The kernel forgot the last node of `view`: a snapshot or deleted branch gives its index back.
    pub fn forgotten(&self, view: ViewId, unused: impl Fn(ViewId) -> bool) {
        self.slots.write().recycle(view, unused);
    }

    /// Gives back an index that was reserved and never filled.
    pub fn free(&self, view: ViewId) {
        let mut slots = self.slots.write();
        if let Some(slot @ Slot::Reserved) = slots.slot(view) {
            *slot = Slot::Free;
            slots.free.push(view);
        }
    }
}

impl Slots {
    fn recycle(&mut self, view: ViewId, unused: impl Fn(ViewId) -> bool) {
        let idle = match self.trees.get(view.0 as usize) {
            Some(Slot::Live(Tree::Snapshot(_)) | Slot::Retired) => unused(view),
            Some(Slot::Live(Tree::Branch(_)) | Slot::Reserved | Slot::Free) | None => false,
        };
        if idle && let Some(slot) = self.slot(view) {
            *slot = Slot::Free;
            self.free.push(view);
            self.snapshots.retain(|_, known| *known != view);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_index_is_given_to_nobody_else() {
        let views = Views::default();
        let (first, second) = (views.reserve().unwrap(), views.reserve().unwrap());
        views.forgotten(first, |_| true);
        assert!(![first, second].contains(&views.reserve().unwrap()));
        views.free(first);
        assert_eq!(views.reserve().unwrap(), first);
        views.forgotten(first, |_| true);
        assert_ne!(views.reserve().unwrap(), first);
    }
}
