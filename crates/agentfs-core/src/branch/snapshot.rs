//! A snapshot: a version that shows the same for ever.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use super::branch::{State, below};
use super::paged::Paged;
use super::{Draft, Lower, Pager};
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
    place: RwLock<Place>,
    /// Was it looked at since somebody asked?
    used: AtomicBool,
    /// Branches that grew from it: they have most of it in memory, and what is near it shares that.
    branches: AtomicU32,
    /// What that may lie over.
    pub lower: Option<Arc<Lower>>,
}

/// Where the tree is: in memory, on disk, or both.
struct Place {
    whole: Option<Version>,
    paged: Option<Arc<Paged>>,
    /// Those that are on disk as they differ from it.
    dependents: Vec<Weak<Snapshot>>,
}

/// A snapshot's version, which takes no memory while it is on disk.
#[derive(Clone)]
pub enum Still {
    /// It is in memory.
    Whole(Version),
    /// It was not.
    Paged(Arc<Snapshot>),
}

impl Still {
    /// The version.
    ///
    /// # Errors
    /// What the store answers.
    pub fn version(&self) -> Result<Version> {
        match self {
            Still::Whole(version) => Ok(version.clone()),
            Still::Paged(snapshot) => snapshot.version(),
        }
    }
}

impl Snapshot {
    /// A snapshot that is `version`.
    pub fn new(id: SnapshotId, version: Version, lower: Option<Arc<Lower>>) -> Snapshot {
        let place = RwLock::new(Place { whole: Some(version), paged: None, dependents: Vec::new() });
        Snapshot { id, place, used: AtomicBool::new(false), branches: AtomicU32::new(0), lower }
    }

    /// The tree.
    ///
    /// # Errors
    /// What the store answers.
    pub fn version(self: &Arc<Self>) -> Result<Version> {
        self.read(Version::clone)
    }

    /// The tree, which need not come into memory before it is wanted.
    pub fn still(self: &Arc<Self>) -> Still {
        self.place.read().whole.clone().map_or_else(|| Still::Paged(self.clone()), Still::Whole)
    }

    /// Reads the tree.
    ///
    /// # Errors
    /// What the store answers.
    pub fn read<T>(self: &Arc<Self>, f: impl FnOnce(&Version) -> T) -> Result<T> {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        let whole = self.place.read().whole.clone();
        Ok(f(&whole.map_or_else(|| self.wake(), Ok)?))
    }

    /// Reads an inode, or one of the lower directory, without its extended attributes.
    ///
    /// # Errors
    /// `Stale` when there is none, `Changed` as [`Lower::inode`]; what the store answers.
    pub fn with_inode<T>(self: &Arc<Self>, ino: InodeId, f: impl FnOnce(&Inode) -> T) -> Result<T> {
        let mut f = Some(f);
        let (found, origin) = self.read(|version| match version.get(ino) {
            Some(inode) => (f.take().map(|f| f(inode)), None),
            None => (None, version.lower().cloned()),
        })?;
        match (found, f) {
            (Some(found), _) => Ok(found),
            (None, Some(f)) => below(self.lower.as_deref(), origin.as_deref(), ino).map(|inode| f(&inode)),
            (None, None) => Err(FsError::Stale),
        }
    }

    /// Has the snapshot have more itself of what it shows. `plan` changes nothing that shows. Only where there is a lower
    /// directory: such snapshots stay in memory.
    ///
    /// # Errors
    /// What `plan` or the journal answers; nothing has changed then.
    pub fn keep<T>(
        &self,
        journal: &dyn Journal,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut place = self.place.write();
        let version = place.whole.as_mut().ok_or(FsError::Stale)?;
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

    /// Brings the tree back from disk, and with it those that it is told by: others share what they have in common.
    fn wake(self: &Arc<Self>) -> Result<Version> {
        let (mut steps, mut at) = (Vec::new(), self.clone());
        let mut version = loop {
            let next = {
                let place = at.place.read();
                match (&place.whole, &place.paged) {
                    (Some(version), _) => break version.clone(),
                    (None, Some(paged)) => paged.clone(),
                    (None, None) => return Err(FsError::Stale), // it is in one place at least
                }
            };
            let base = next.base.clone();
            steps.push((at, next));
            at = base;
        };
        for (snapshot, paged) in steps.into_iter().rev() {
            paged.apply(&mut version)?;
            let mut place = snapshot.place.write();
            if place.whole.is_none() {
                place.whole = Some(version.clone());
                drop(place);
                paged.pager.note_woken(&snapshot);
            }
        }
        Ok(version)
    }

    /// Leaves memory, if it may: it is on disk too, nobody looked at it since this was asked last, and no branch grew from it.
    /// One that is in memory alone leaves nothing. `None` when it is to be asked again.
    pub(super) fn leave(&self) -> Option<Option<Version>> {
        if self.used.swap(false, Ordering::Relaxed) || self.branches.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let mut place = self.place.try_write()?;
        let is_on_disk = place.paged.as_ref().is_some_and(|paged| paged.is_settled.load(Ordering::Acquire));
        Some(if is_on_disk { place.whole.take() } else { None })
    }

    /// A branch grew from it.
    pub(super) fn note_branch(&self) {
        self.branches.fetch_add(1, Ordering::Relaxed);
    }

    /// That branch is gone.
    pub(super) fn forget_branch(&self) {
        self.branches.fetch_sub(1, Ordering::Relaxed);
    }

    /// What it takes to make it out of a version in memory.
    pub(super) fn weight(&self) -> usize {
        self.place.read().paged.as_ref().map_or(0, |paged| paged.weight)
    }

    /// About how many are told by it.
    pub(super) fn dependents(&self) -> usize {
        self.place.read().dependents.len()
    }

    /// Writes how it differs from `base`, if that is worth it. It stays in memory, too.
    ///
    /// # Errors
    /// What the store answers.
    pub(super) fn page_out(self: &Arc<Self>, pager: &Arc<Pager>, base: &Arc<Snapshot>) -> Result<bool> {
        if self.place.read().paged.is_some() {
            return Ok(false); // it was told of twice
        }
        // One that cannot be read back is no base.
        let Ok(from) = base.version() else { return Ok(false) };
        let Some(paged) = Paged::write(pager, base, (&from, &self.version()?))? else { return Ok(false) };
        {
            let dependents = &mut base.place.write().dependents;
            if dependents.len() == dependents.capacity() {
                dependents.retain(|dependent| dependent.strong_count() > 0);
            }
            dependents.push(Arc::downgrade(self));
        }
        self.place.write().paged = Some(Arc::new(paged));
        self.used.store(false, Ordering::Relaxed);
        Ok(true)
    }

    /// What was written of it is there for sure: it may leave memory.
    pub(super) fn settle(&self) {
        if let Some(paged) = &self.place.read().paged {
            paged.is_settled.store(true, Ordering::Release);
        }
    }

    /// What was written of it is not to be relied on. It never left memory.
    pub(super) fn stay(&self) {
        let paged = self.place.write().paged.take_if(|paged| !paged.is_settled.load(Ordering::Acquire));
        drop(paged);
    }

    /// Brings those back into memory that are on disk as they differ from this one, and tells of each.
    ///
    /// # Errors
    /// What the store answers; those that did not come back are as they were.
    pub(super) fn free_dependents(&self, tell: impl Fn(SnapshotId)) -> Result<()> {
        let dependents = self.place.read().dependents.clone();
        let differs = |dependent: &Arc<Snapshot>| {
            dependent.place.read().paged.as_ref().is_some_and(|paged| std::ptr::eq(&*paged.base, self))
        };
        for dependent in dependents.iter().filter_map(Weak::upgrade).filter(differs) {
            let version = dependent.version()?;
            let paged = {
                let mut place = dependent.place.write();
                place.whole.get_or_insert(version);
                place.paged.take()
            };
            drop(paged);
            tell(dependent.id);
        }
        self.place.write().dependents.clear();
        Ok(())
    }
}

impl Drop for Snapshot {
    /// One by one, however many are told one by the other.
    fn drop(&mut self) {
        let mut next = self.place.get_mut().paged.take();
        while let Some(paged) = next.and_then(Arc::into_inner) {
            let base = Arc::into_inner(paged.base);
            next = base.and_then(|mut base| base.place.get_mut().paged.take());
        }
    }
}
