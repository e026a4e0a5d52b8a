//! A branch: one version that changes, and the two locks that order changes against snapshots.

use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::quiet::{Hush, Quiet};
use super::{Draft, Lower};
use crate::error::{FsError, Result};
use crate::log::{Journal, Record};
use crate::store::{Account, Charged, Content, FileStat, Object, Unit};
use crate::tree::{Aside, Edit, Inode, Origin, Version};
use crate::types::{BranchId, Epoch, InodeId, ObjectId, Timestamp, ViewId};

/// A branch. Lock order: the epoch gate before the state.
pub struct Branch {
    /// Its id.
    pub id: BranchId,
    /// The index of its node ids.
    pub view: ViewId,
    /// What its version may lie over.
    pub(super) lower: Option<Arc<Lower>>,
    /// Rank 2. Shared by whoever writes data into private content, exclusive to whoever freezes the branch:
    /// no write that began before a snapshot lands in what the snapshot holds.
    gate: RwLock<()>,
    /// Rank 3. Held for the length of an edit in memory, never over I/O on content.
    state: RwLock<State>,
    quiet: Quiet,
}

/// What a branch is now.
pub(super) struct State {
    pub(super) version: Version,
    pub(super) aside: Aside,
    epoch: Epoch,
    /// Who is charged for what is made, where there are quotas.
    account: Option<Arc<Account>>,
    deleted: bool,
}

impl State {
    /// A version of which nothing else is known.
    pub(super) fn of(version: Version) -> State {
        State { version, aside: Aside::default(), epoch: Epoch(0), account: None, deleted: false }
    }

    pub(super) fn inode(&self, ino: InodeId) -> Option<&Arc<Inode>> {
        self.version.get(ino).or_else(|| self.aside.orphans.get(&ino))
    }
}

/// A file that is written past the daemon while its branch is frozen.
pub struct Kept {
    /// The file.
    pub ino: InodeId,
    /// What the host says of it.
    pub stat: FileStat,
    /// When it was written last, if that is not known yet.
    pub modified: Option<Timestamp>,
    /// What the frozen version gets.
    pub copy: Arc<Object>,
    /// What the branch goes on with.
    pub own: Arc<Object>,
}

/// The result of a change, and the inodes that lost their last name by it.
pub struct Changed<T> {
    /// What the operation answers.
    pub value: T,
    /// Orphans made.
    pub orphaned: Vec<InodeId>,
}

/// Leave to write private content of the branch while held: no snapshot comes between.
pub struct WritePermit<'a> {
    /// The epoch that private content has.
    pub epoch: Epoch,
    _gate: RwLockReadGuard<'a, ()>,
}

impl Branch {
    /// A branch that begins as `version`.
    pub fn new(
        id: BranchId,
        view: ViewId,
        version: Version,
        epoch: Epoch,
        lower: Option<Arc<Lower>>,
        account: Option<Arc<Account>>,
    ) -> Branch {
        let state = State { version, aside: Aside::default(), epoch, account, deleted: false };
        let (gate, state, quiet) = (RwLock::new(()), RwLock::new(state), Quiet::default());
        Branch { id, view, lower, gate, state, quiet }
    }

    /// Reads the present version.
    pub fn read<T>(&self, f: impl FnOnce(&Version) -> T) -> T {
        f(&self.state.read().version)
    }

    /// Reads an inode, an orphan too, or one of the lower directory, without its extended attributes.
    ///
    /// # Errors
    /// `Stale` when there is none, `Changed` as [`Lower::inode`].
    pub fn with_inode<T>(&self, ino: InodeId, f: impl FnOnce(&Inode) -> T) -> Result<T> {
        let origin = {
            let state = self.state.read();
            match state.inode(ino) {
                Some(inode) => return Ok(f(inode)),
                None => state.version.lower().cloned(),
            }
        };
        below(self.lower.as_deref(), origin.as_deref(), ino).map(|inode| f(&inode))
    }

    /// An inode that the branch has itself, and whether it has lost its name.
    pub fn own_inode(&self, ino: InodeId) -> Option<(Arc<Inode>, bool)> {
        let state = self.state.read();
        let named = state.version.get(ino).map(|inode| (inode.clone(), false));
        named.or_else(|| state.aside.orphans.get(&ino).map(|inode| (inode.clone(), true)))
    }

    /// Carries out an operation: `plan` looks at the present state and drafts edits; the journal takes them;
    /// they are applied. When `plan` or the journal fails, nothing has changed.
    ///
    /// # Errors
    /// What `plan` or the journal answers; `Stale` when the branch is deleted; `QuotaExceeded` and `VolumeFull` for a new
    /// inode.
    pub fn change<T>(
        &self,
        journal: &dyn Journal,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<Changed<T>> {
        self.quiet.keep();
        self.change_as(journal, plan, |first, edits| {
            if edits.is_empty() {
                return None;
            }
            Some(match first {
                first if first.is_empty() => Record::Edits(self.id, edits),
                first => Record::EditsAfter(self.id, first, edits),
            })
        })
    }

    /// Holds back changes, all but those by [`Branch::change_as`], while the guard lives; not for long, and not all for sure.
    pub fn hush(&self) -> Hush<'_> {
        self.quiet.ask()
    }

    /// As [`Branch::change`], recorded as `record` says: told which objects are to be durable before, and the edits.
    ///
    /// # Errors
    /// The same.
    pub fn change_as<T>(
        &self,
        journal: &dyn Journal,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
        record: impl FnOnce(Vec<ObjectId>, Vec<Edit>) -> Option<Record>,
    ) -> Result<Changed<T>> {
        let mut state = self.state.write();
        if state.deleted {
            return Err(FsError::Stale);
        }
        let mut draft = Draft::new(&state);
        let value = plan(&mut draft)?;
        let edits = draft.finish();
        state.charge(edits.recorded.iter().chain(&edits.unrecorded))?;
        if let Some(record) = record(edits.first, edits.recorded) {
            journal.append(&record)?;
            state.apply(record.into_edits());
        }
        state.apply(edits.unrecorded);
        state.forget_charges(&edits.dropped);
        Ok(Changed { value, orphaned: edits.dropped })
    }

    /// What a checkpoint says of it: its version, which files in it are dirty, its epoch. No operation is half in it.
    pub fn capture(&self) -> (Version, Vec<InodeId>, Epoch) {
        let state = self.state.read();
        (state.version.clone(), state.aside.dirty.iter().copied().collect(), state.epoch)
    }

    /// Waits until no snapshot is being taken, and keeps them out while the permit lives.
    pub fn permit_write(&self) -> WritePermit<'_> {
        let gate = self.gate.read();
        let epoch = self.state.read().epoch;
        WritePermit { epoch, _gate: gate }
    }

    /// Waits for the data writes under way, and keeps others out while the guard lives. Who keeps them out of several
    /// branches asks in the order of their ids.
    pub fn keep_writers_out(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write()
    }

    /// The present epoch. It may end at any time but while a permit is held.
    pub fn epoch(&self) -> Epoch {
        self.state.read().epoch
    }

    /// Are there inodes without a name?
    pub fn has_orphans(&self) -> bool {
        !self.state.read().aside.orphans.is_empty()
    }

    /// Who is charged for what is written in the present epoch, where there are quotas.
    pub fn account(&self) -> Option<Arc<Account>> {
        self.state.read().account.clone()
    }

    /// Ends the epoch: waits for the data writes under way, records the version that is now frozen by `record`, and goes
    /// on in `next`. The sizes and times of files that are open to write are recorded before. `kept` tells, while nothing
    /// changes but what is written past the daemon, which files the branch goes on with as they are: what is frozen has
    /// copies of them.
    ///
    /// # Errors
    /// What the journal or `kept` answers, `Stale` when the branch is deleted; the epoch then goes on.
    pub fn freeze(
        &self,
        journal: &dyn Journal,
        next: Epoch,
        record: Record,
        kept: impl FnOnce() -> Result<Vec<Kept>>,
    ) -> Result<Version> {
        let _gate = self.gate.write();
        let mut state = self.state.write();
        if state.deleted {
            return Err(FsError::Stale);
        }
        let kept = kept()?;
        for kept in &kept {
            state.refresh(kept);
        }
        let mut before = state.unrecorded_metas();
        let live = state.version.lower().filter(|origin| origin.since.is_none()).cloned();
        let (mut frozen, mut after) = (state.version.clone(), Vec::new());
        for Kept { ino, copy, own, .. } in &kept {
            own.set_epoch(next);
            if frozen.get(*ino).is_some() {
                let copied = Edit::Content(*ino, Content::Whole(copy.clone()));
                copied.clone().apply(&mut frozen, &mut Aside::default());
                before.push(copied);
                after.push(Edit::Content(*ino, Content::Whole(own.clone())));
            }
        }
        if let Some(live) = live {
            // What is frozen relies on the lower directory as it is now.
            let since = Some(Timestamp::now());
            let fixed = Edit::Origin(InodeId::ROOT, Some(Arc::new(Origin { since, ..(*live).clone() })));
            fixed.clone().apply(&mut frozen, &mut Aside::default());
            before.push(fixed);
            after.push(Edit::Origin(InodeId::ROOT, Some(live)));
        }
        // What the copies take the place of may be durable: they are, before the record of it.
        let copies: Vec<_> = kept.iter().map(|kept| kept.copy.id).collect();
        let before = match (before.is_empty(), copies.is_empty()) {
            (true, _) => None,
            (false, true) => Some(Record::Edits(self.id, before)),
            (false, false) => Some(Record::EditsAfter(self.id, copies, before)),
        };
        let after = (!after.is_empty()).then_some(Record::Edits(self.id, after));
        let records: Vec<_> = before.into_iter().chain([record]).chain(after).collect();
        journal
            .append_all(&records)
            .inspect_err(|_| kept.iter().for_each(|kept| kept.own.set_epoch(state.epoch)))?;
        state.epoch = next;
        state.account = state.account.as_ref().map(|account| account.next());
        Ok(frozen)
    }

    /// Takes the branch out of life: what is under way fails with `Stale`. Returns what it held.
    ///
    /// # Errors
    /// What `commit` answers; the branch then lives on.
    pub fn retire(&self, commit: impl FnOnce() -> Result<()>) -> Result<(Version, Aside)> {
        let _gate = self.gate.write();
        let mut state = self.state.write();
        commit()?;
        state.deleted = true;
        // Not even a root: whoever looks into it yet finds that it is gone.
        let version = std::mem::replace(&mut state.version, Version::nothing());
        Ok((version, std::mem::take(&mut state.aside)))
    }

    /// The bytes of a regular file.
    ///
    /// # Errors
    /// `Stale` when it is gone, `IsDirectory` and `InvalidArgument` when it is no regular file.
    pub fn content(&self, ino: InodeId) -> Result<Content> {
        self.with_inode(ino, regular_content)?
    }

    /// Lets go of an inode without a name, if `ino` is one.
    pub fn drop_orphan(&self, ino: InodeId) {
        if self.state.read().aside.orphans.contains_key(&ino) {
            let orphan = self.state.write().aside.orphans.remove(&ino);
            drop(orphan);
        }
    }
}

impl State {
    /// Takes over what the host says of a file that was written past the daemon.
    fn refresh(&mut self, kept: &Kept) {
        if let Some(mut meta) = self.inode(kept.ino).map(|inode| inode.meta) {
            meta.note_host(kept.stat, kept.modified);
            self.apply(vec![Edit::Meta(kept.ino, meta)]);
        }
    }

    /// Charges what is new in these edits.
    fn charge<'a>(&self, edits: impl Iterator<Item = &'a Edit>) -> Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        for edit in edits {
            let Edit::Put(ino, inode) = edit else { continue };
            match self.inode(*ino).and_then(|known| known.charge.get()) {
                Some(charge) => inode.charge.begin(charge.clone()),
                None if inode.charge.get().is_some() => {}
                // What comes up from below is not new: it is there to be changed or deleted.
                None => {
                    let credit = u64::from(ino.is_lower());
                    inode.charge.begin(Arc::new(account.reserve(Unit::Inodes, 1, credit)?));
                }
            }
        }
        Ok(())
    }

    /// What has no name left counts no more among the inodes, though somebody may have it open.
    fn forget_charges(&mut self, dropped: &[InodeId]) {
        if self.account.is_some() {
            for ino in dropped {
                if let Some(inode) = self.aside.orphans.get_mut(ino) {
                    Arc::make_mut(inode).charge = Charged::default();
                }
            }
        }
    }

    /// What writes have changed and no record says.
    fn unrecorded_metas(&self) -> Vec<Edit> {
        let meta = |ino: &InodeId| Some(Edit::Meta(*ino, self.version.get(*ino)?.meta));
        self.aside.dirty.iter().filter_map(meta).collect()
    }

    fn apply(&mut self, edits: Vec<Edit>) {
        for edit in edits {
            edit.apply(&mut self.version, &mut self.aside);
        }
    }
}

/// An inode of the lower directory, in a version that lies over it.
pub(super) fn below(lower: Option<&Lower>, origin: Option<&Origin>, ino: InodeId) -> Result<Inode> {
    let (Some(lower), Some(origin)) = (lower, origin) else { return Err(FsError::Stale) };
    lower.inode(ino, origin.since)
}

/// The content of a regular file, or why there is none.
pub(super) fn regular_content(inode: &Inode) -> Result<Content> {
    match inode.content() {
        Some(content) => Ok(content.clone()),
        None if inode.directory().is_some() => Err(FsError::IsDirectory),
        None => Err(FsError::InvalidArgument("not a regular file")),
    }
}
