//! The volume: what all operations share. The operations themselves are in `ops/`, a file a verb.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::branch::{Branch, BranchInfo, Catalog, Draft, Lower, Origin, Pager, Tree, Views};
use crate::config::Config;
use crate::error::{FsError, Result};
use crate::handle::{DirectFiles, Handles, Lookups, OpenFiles};
use crate::log::{Journal, Marks, NewBranch, Record, RootAttributes};
use crate::patience::Patience;
use crate::store::{Account, Device, Quotas, Store};
use crate::tree::Version;
use crate::types::{BranchId, Epoch, InodeId, Knows, Timestamp, ViewId};

/// The name of the branch a volume starts with.
pub const MAIN: &str = "main";

/// Tells whether a process that replaces files still lives.
pub(crate) type Replacing = Box<dyn Fn() -> bool + Send>;

/// A volume.
pub struct FsCore {
    pub(crate) config: Config,
    pub(crate) store: Store,
    /// Where any was set.
    pub(crate) quotas: Option<Quotas>,
    pub(crate) journal: Arc<dyn Journal>,
    /// Before rank 0. Held by whoever shortens the log or empties packs.
    pub(crate) compacting: Mutex<()>,
    /// Before rank 0. Held by whoever works on files that nobody need have open.
    pub(crate) tending: Mutex<()>,
    /// Rank 0. Held by whoever adds, renames or deletes branches and snapshots.
    pub(crate) control: Mutex<()>,
    /// Whether whoever is replacing files of the lower directory still lives: meanwhile no tree is frozen, which would rely
    /// on some of before and some of after. After rank 0.
    pub(crate) replacing: Mutex<Option<Replacing>>,
    /// After rank 0. What is written past the daemon: shared by who begins to, exclusive to whoever freezes a branch or
    /// has files of the store change places.
    pub(crate) direct: DirectFiles,
    /// Rank 4.
    pub(crate) catalog: RwLock<Catalog>,
    pub(crate) views: Views,
    /// What the volume lies over, if anything.
    pub(crate) lower: Option<Arc<Lower>>,
    pub(crate) open_files: OpenFiles,
    pub(crate) handles: Handles,
    pub(crate) lookups: Lookups,
    /// The numbers of all objects and packs that the log named when the volume was opened, until the sweep has used them. `None` when the log is,
    /// or ever was, damaged: what was lost may have named others.
    pub(crate) named_at_open: Mutex<Option<HashSet<u64>>>,
    /// After rank 4. How much had been let go of when room was last made on a full host.
    pub(crate) room_made: Mutex<u64>,
    /// What was left for the log when room was last made on a full host, in some unit.
    pub(crate) relieved: AtomicU64,
    /// Leaf lock: files in layers that are written so much that they are better off in one object.
    pub(crate) hot: Mutex<HashSet<(ViewId, InodeId)>>,
    /// Leaf lock: files in layers that are in many objects.
    pub(crate) scattered: Mutex<HashSet<(ViewId, InodeId)>>,
    /// Which snapshots are in memory; where the volume lies over a directory, all are: they may come to have more of it.
    pub(crate) pager: Option<Arc<Pager>>,
    /// With what `tend` tries again what failed: writing the log anew, shortening it, content that was given up, writing
    /// snapshots to disk.
    pub(crate) healing: Patience,
    pub(crate) shortening: Patience,
    pub(crate) retrying: Patience,
    pub(crate) paging: Patience,
    next_inode: AtomicU64,
    next_epoch: AtomicU64,
}

impl FsCore {
    /// A new volume on `device`, with the empty branch `main`.
    ///
    /// # Errors
    /// When the journal refuses the first record.
    pub fn new_volume(device: Arc<dyn Device>, journal: Arc<dyn Journal>, config: Config) -> Result<FsCore> {
        let core = FsCore::bare(device, journal, config, None);
        let record = core.plant_main()?;
        core.journal.append(&Record::BranchCreated(record))?;
        core.store.serve();
        Ok(core)
    }

    /// A volume without any branch.
    pub(crate) fn bare(
        device: Arc<dyn Device>,
        journal: Arc<dyn Journal>,
        config: Config,
        lower: Option<Arc<Lower>>,
    ) -> FsCore {
        let pager = lower.is_none().then(|| Pager::new(device.clone(), config.resident_snapshots));
        FsCore {
            pager,
            store: Store::new(device, Arc::new(journal.clone()), config.packs),
            quotas: Quotas::new(config.quota, config.branch_quota),
            journal,
            compacting: Mutex::new(()),
            tending: Mutex::new(()),
            control: Mutex::new(()),
            replacing: Mutex::default(),
            direct: DirectFiles::default(),
            catalog: RwLock::default(),
            views: Views::default(),
            lower,
            open_files: OpenFiles::default(),
            handles: Handles::new(config.max_open_handles),
            lookups: Lookups::default(),
            named_at_open: Mutex::new(None),
            room_made: Mutex::new(0),
            relieved: AtomicU64::new(u64::MAX),
            hot: Mutex::default(),
            scattered: Mutex::default(),
            healing: Patience::new(30),
            shortening: Patience::new(300),
            retrying: Patience::new(300),
            paging: Patience::new(300),
            next_inode: AtomicU64::new(InodeId::FIRST_FREE.0),
            next_epoch: AtomicU64::new(1),
            config,
        }
    }

    /// The branch `main`, empty.
    pub(crate) fn plant_main(&self) -> Result<NewBranch> {
        let now = Timestamp::now();
        let (mode, uid, gid) = (self.config.root_mode, self.config.root_uid, self.config.root_gid);
        let record = NewBranch {
            id: BranchId::generate(),
            name: Some(MAIN.into()),
            snapshot: None,
            branch: None,
            view: self.views.reserve()?,
            epoch: self.fresh_epoch(),
            source_epoch: None,
            root: Some(RootAttributes { mode, uid, gid }),
            created: now,
        };
        self.catalog.write().ancestry.set_branch(record.id, record.id, Knows::new());
        self.add_branch(record.clone(), Origin::Empty, Version::new(mode, uid, gid, now));
        Ok(record)
    }

    /// Numbers below these are taken.
    pub(crate) fn passed(&self, inode: u64, epoch: u64) {
        self.next_inode.fetch_max(inode, Ordering::Relaxed);
        self.next_epoch.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Puts a recorded branch into catalogue and views.
    pub(crate) fn add_branch(&self, new: NewBranch, origin: Origin, version: Version) -> BranchInfo {
        let (lower, account) = (self.lower.clone(), self.account());
        let branch = Arc::new(Branch::new(new.id, new.view, version, new.epoch, lower, account));
        let info = BranchInfo { id: new.id, name: new.name, origin, created: new.created, view: new.view };
        self.views.fill(new.view, Tree::Branch(branch.clone()));
        self.catalog.write().insert_branch(info.clone(), branch);
        info
    }

    /// Who is charged for what a branch is to write, where there are quotas.
    pub(crate) fn account(&self) -> Option<Arc<Account>> {
        self.quotas.as_ref().map(Quotas::account)
    }

    /// The next inode and the next epoch.
    pub(crate) fn next_numbers(&self) -> (u64, u64) {
        (self.next_inode.load(Ordering::Relaxed), self.next_epoch.load(Ordering::Relaxed))
    }

    /// Numbers that are taken.
    pub(crate) fn marks(&self) -> Marks {
        let (inode, epoch) = self.next_numbers();
        Marks { inode, object: self.store.next_mount(), epoch }
    }

    pub(crate) fn fresh_inode(&self) -> Result<InodeId> {
        let number = self.next_inode.fetch_add(1, Ordering::Relaxed);
        if number >= InodeId::LOWER.0 {
            self.next_inode.store(InodeId::LOWER.0, Ordering::Relaxed);
            return Err(FsError::LimitReached("this store has given out all its inode numbers".into()));
        }
        Ok(InodeId(number))
    }

    pub(crate) fn fresh_epoch(&self) -> Epoch {
        Epoch(self.next_epoch.fetch_add(1, Ordering::Relaxed))
    }

    /// Carries out an operation on the branch that `view` means.
    pub(crate) fn change<T>(
        &self,
        view: ViewId,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        let tree = self.views.get(view)?;
        let changed = self.change_branch(tree.branch()?, plan);
        self.relieve();
        changed
    }

    /// Carries out an operation on `branch`.
    pub(crate) fn change_branch<T>(
        &self,
        branch: &Branch,
        plan: impl FnOnce(&mut Draft<'_>) -> Result<T>,
    ) -> Result<T> {
        let changed = branch.change(&*self.journal, plan)?;
        for ino in changed.orphaned {
            self.drop_if_unused(branch, ino);
        }
        Ok(changed.value)
    }

    /// Lets go of an inode without a name that nobody has open and the kernel does not remember.
    pub(crate) fn drop_if_unused(&self, branch: &Branch, ino: InodeId) {
        if !self.open_files.contains(branch.view, ino) && !self.lookups.remembers(branch.view, ino) {
            branch.drop_orphan(ino);
        }
    }

    /// The kernel is told of an inode: it lives, even without a name, until the kernel forgets it.
    pub fn remember(&self, view: ViewId, ino: InodeId) {
        if self.lookups.add(view, ino)
            && let Some(lower) = self.lower.as_ref().filter(|_| ino.is_lower())
        {
            lower.remember(ino, view);
        }
    }

    /// The kernel forgets `times` of what it was told of an inode.
    pub fn forget(&self, view: ViewId, ino: InodeId, times: u64) {
        let forgotten = self.lookups.forget(view, ino, times);
        if let Some(lower) = self.lower.as_ref().filter(|_| forgotten.inode && ino.is_lower()) {
            lower.forget(ino, view);
        }
        if forgotten.inode
            && let Ok(Tree::Branch(branch)) = self.views.get(view)
        {
            self.drop_if_unused(&branch, ino);
        }
        if forgotten.view {
            self.views.forgotten(view, |view| !self.lookups.remembers_view(view));
        }
    }

    /// Makes everything durable, and leaves all objects where they are when the volume is dropped.
    ///
    /// # Errors
    /// What the store answers.
    pub fn close(&self) -> Result<()> {
        if self.journal.is_poisoned() {
            self.heal()?;
        }
        self.settle_all();
        let synced = self.sync_all().and_then(|()| self.journal.sync());
        self.store.reap();
        self.punch(usize::MAX);
        self.store.close();
        synced.and_then(|()| self.journal.close())
    }

    /// Reads the version a view shows now, for checks and comparisons.
    ///
    /// # Errors
    /// `Stale` when the view means nothing; what the store answers.
    pub fn version(&self, view: ViewId) -> Result<Version> {
        self.views.get(view)?.read(Version::clone)
    }
}

impl Drop for FsCore {
    /// A volume that goes, for whatever reason, is not a volume whose files were deleted.
    fn drop(&mut self) {
        self.store.abandon();
    }
}
