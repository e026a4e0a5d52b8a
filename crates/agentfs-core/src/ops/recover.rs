//! Opening a volume: its log is repeated, what a crash left half-known is asked of the store, and what nothing names any
//! more is swept away.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use tracing::{info, warn};

use crate::branch::{Branch, BranchInfo, Origin, Snapshot, SnapshotInfo, Tree};
use crate::config::Config;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::{self, Damage, Journal, LogWriter, Marks, NewBranch, NewSnapshot, ReadTo, Record};
use crate::store::{Content, Device, FileId, Object, Store};
use crate::tree::{Aside, Edit, Inode, Version};
use crate::types::{BranchId, Epoch, InodeId, ObjectId, SnapshotId, ViewId};

/// How a volume was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records repeated.
    pub records: u64,
    /// What ended the log before its end.
    pub damage: Option<Damage>,
    /// Files that were open to write when the daemon ended: their size and times were asked of the store.
    pub dirty: usize,
}

/// What the records say.
#[derive(Default)]
struct History {
    branches: BTreeMap<BranchId, PastBranch>,
    snapshots: BTreeMap<SnapshotId, (NewSnapshot, Version)>,
    marks: Marks,
    records: u64,
    /// Of the checkpoint, by number.
    versions: HashMap<u32, Version>,
}

struct PastBranch {
    made: NewBranch,
    version: Version,
    aside: Aside,
    epoch: Epoch,
}

impl History {
    /// A log that is damaged before it tells of `main` tells nothing: better no volume than an empty one in its place.
    fn check_beginning(&self, damaged: bool) -> Result<()> {
        let has_main = self.branches.values().any(|branch| branch.made.view == ViewId::MAIN);
        if has_main || (self.records == 0 && !damaged) {
            return Ok(());
        }
        let lost = "the log is damaged at its beginning; nothing was changed";
        Err(FsError::Io(io::Error::new(io::ErrorKind::InvalidData, lost)))
    }

    fn repeat(&mut self, record: Record) {
        self.records += 1;
        match record {
            Record::Edits(id, edits) => self.edit(id, edits),
            Record::SnapshotCreated(new) => self.snapshot(new),
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
            Record::SnapshotDeleted(id) => drop(self.snapshots.remove(&id)),
            Record::BranchDeleted(id) => drop(self.branches.remove(&id)),
            Record::Checkpoint => *self = History { records: self.records, ..History::default() },
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
            Record::CheckpointEnd => self.versions.clear(),
            Record::Marks(marks) => {
                self.pass(marks.inode, marks.epoch);
                self.marks.object = self.marks.object.max(marks.object);
            }
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

    fn pass(&mut self, inode: u64, epoch: u64) {
        self.marks.inode = self.marks.inode.max(inode);
        self.marks.epoch = self.marks.epoch.max(epoch);
    }

    fn edit(&mut self, id: BranchId, edits: Vec<Edit>) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        for edit in edits {
            if let Edit::Put(ino, _) = &edit {
                self.marks.inode = self.marks.inode.max(ino.0 + 1);
            }
            edit.apply(&mut branch.version, &mut branch.aside);
        }
        // Nobody has them open any more.
        branch.aside.orphans.clear();
    }

    fn snapshot(&mut self, new: NewSnapshot) {
        self.pass(0, new.epoch.0 + 1);
        if let Some(branch) = self.branches.get_mut(&new.branch) {
            branch.epoch = new.epoch;
            self.snapshots.insert(new.id, (new, branch.version.clone()));
        }
    }

    fn branch(&mut self, new: NewBranch) {
        let source_epoch = new.source_epoch.unwrap_or(new.epoch);
        self.pass(0, new.epoch.0.max(source_epoch.0) + 1);
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

impl PastBranch {
    /// Asks the store for the sizes and times of files that were open to write. Returns what is to be recorded.
    fn settle(&mut self, device: &dyn Device) -> Vec<Edit> {
        let dirty = std::mem::take(&mut self.aside.dirty);
        let mut edits = Vec::new();
        for ino in dirty {
            if let Some(inode) = self.version.get(ino) {
                edits.extend(settled(device, ino, inode));
            }
            edits.push(Edit::Clean(ino));
        }
        for edit in &edits {
            edit.clone().apply(&mut self.version, &mut self.aside);
        }
        edits
    }
}

/// The attributes of a file as its object has them.
fn settled(device: &dyn Device, ino: InodeId, inode: &Inode) -> Option<Edit> {
    let Some(Content::Whole(object)) = inode.content() else { return None };
    match device.open(FileId::Object(object.id)).and_then(|file| file.stat()) {
        Ok(stat) => {
            let mut meta = inode.meta;
            // Written after the last record of its attributes?
            if stat.len != meta.size || stat.modified > meta.times.ctime {
                meta.times.ctime = meta.times.ctime.max(stat.modified);
                meta.times.mtime = meta.times.ctime;
            }
            (meta.size, meta.blocks) = (stat.len, stat.blocks);
            Some(Edit::Meta(ino, meta))
        }
        Err(error) => {
            warn!(inode = ino.0, object = object.id.0, %error, "the content of a file is missing or cannot be read");
            None
        }
    }
}

impl FsCore {
    /// Opens the volume that `device` holds, or makes one.
    ///
    /// # Errors
    /// What the device answers; `Io` when the log has no beginning.
    pub fn open_volume(device: Arc<dyn Device>, config: Config) -> Result<(FsCore, Recovered)> {
        let late = Arc::new(LateJournal::default());
        let core = FsCore::bare(device.clone(), late.clone(), config)?;
        let mut objects: HashMap<ObjectId, Arc<Object>> = HashMap::new();
        let mut history = History::default();
        let read = {
            let store = &core.store;
            let mut adopt = |id, epoch| objects.entry(id).or_insert_with(|| adopt(store, id, epoch)).clone();
            log::read(&*device, &mut adopt, |record| history.repeat(record))?
        };
        let settled: Vec<(BranchId, Vec<Edit>)> =
            history.branches.iter_mut().map(|(id, branch)| (*id, branch.settle(&*device))).collect();
        history.check_beginning(read.damage.is_some())?;
        if let Some(damage) = &read.damage {
            warn!(%damage, "the log ends early; what it lost is kept beside it");
            keep_lost(&*device, damage)?;
        }
        let dirty = settled.iter().map(|(_, edits)| edits.len() / 2).sum();
        let recovered = Recovered { records: history.records, damage: read.damage.clone(), dirty };
        core.restore(history)?;
        let object = core.store.begin_mount().0;
        let piece = read.piece.unwrap_or(1);
        if core.is_worth_a_checkpoint(&read) {
            let (inode, epoch) = core.next_numbers();
            let len = core.write_checkpoint(piece + 1, Marks { inode, object, epoch })?;
            late.begin(LogWriter::open(device.clone(), piece + 1, len)?);
            info!(before = read.len, after = len, "the log was compacted");
        } else {
            late.begin(LogWriter::open(device.clone(), piece, read.len)?);
            for (id, edits) in settled.into_iter().filter(|(_, edits)| !edits.is_empty()) {
                core.journal.append(&Record::Edits(id, edits), &[])?;
            }
            if recovered.records == 0 {
                core.create_main()?;
            }
            core.journal.append(&Record::Marks(Marks { inode: 0, object, epoch: 0 }), &[])?;
        }
        core.journal.sync()?;
        remove_superseded(&*device)?;
        core.store.serve();
        let sound = recovered.damage.is_none() && !core.store.device().has_lost()?;
        core.forget_unnamed(objects, sound);
        Ok((core, recovered))
    }

    /// Is the log much longer than it need be? Not after damage: the pieces are then left as they are.
    fn is_worth_a_checkpoint(&self, read: &ReadTo) -> bool {
        let since = read.len.saturating_sub(read.checkpoint);
        read.piece.is_some()
            && read.damage.is_none()
            && since > self.config.log_factor * read.checkpoint + self.config.log_slack
    }

    /// Makes branches and snapshots of what the log says.
    fn restore(&self, history: History) -> Result<()> {
        let History { branches, snapshots, marks, .. } = history;
        self.passed(marks.inode, marks.epoch);
        self.store.passed(ObjectId(marks.object.saturating_sub(1)));
        let mut catalog = self.catalog.write();
        for PastBranch { made, version, epoch, .. } in branches.into_values() {
            let branch = Arc::new(Branch::new(made.id, made.view, version, epoch));
            self.views.restore(made.view, Tree::Branch(branch.clone()));
            catalog.insert_branch(info(made), branch);
        }
        for (new, version) in snapshots.into_values() {
            let (id, name, branch, created) = (new.id, new.name, new.branch, new.created);
            let snapshot = Arc::new(Snapshot { id, version });
            catalog.insert_snapshot(SnapshotInfo { id, name, branch, created }, snapshot);
        }
        Ok(())
    }

    /// Objects that the log named and no version does any more go now, and the rest is noted for the sweep. After damage,
    /// now or earlier, none goes: records that are lost may have named them.
    fn forget_unnamed(&self, objects: HashMap<ObjectId, Arc<Object>>, sound: bool) {
        let named = objects.keys().copied().collect();
        let unnamed = self.store.release(objects);
        if sound {
            self.store.remove_later(unnamed);
            *self.named_at_open.lock() = Some(named);
        }
    }

    /// Deletes objects of earlier mounts that the log did not name: made shortly before a crash that took their records
    /// along. Looks at all objects there are: meant for a thread of its own. Returns how many there were.
    ///
    /// # Errors
    /// What the device answers.
    pub fn sweep(&self) -> Result<usize> {
        let Some(named) = self.named_at_open.lock().take() else { return Ok(0) };
        let found = self.store.device().objects()?;
        let of_earlier = |id: &ObjectId| *id < self.store.first_of_this_mount();
        let unnamed: Vec<ObjectId> =
            found.into_iter().filter(of_earlier).filter(|id| !named.contains(id)).collect();
        let count = unnamed.len();
        if count > 0 {
            info!(count, "deleting objects that nothing names");
        }
        self.store.remove_later(unnamed);
        Ok(count)
    }
}

fn adopt(store: &Store, id: ObjectId, epoch: Epoch) -> Arc<Object> {
    store.passed(id);
    store.adopt(id, epoch)
}

fn info(made: NewBranch) -> BranchInfo {
    let origin = match (made.snapshot, made.branch) {
        (Some(id), _) => Origin::Snapshot(id),
        (None, Some(id)) => Origin::Branch(id),
        (None, None) => Origin::Empty,
    };
    BranchInfo { id: made.id, name: made.name, origin, created: made.created, view: made.view }
}

/// Deletes the pieces of the log before the newest checkpoint.
fn remove_superseded(device: &dyn Device) -> io::Result<()> {
    for piece in log::superseded(device)? {
        device.remove(FileId::Log(piece))?;
    }
    Ok(())
}

/// Copies what the log is about to lose to a file of its own.
fn keep_lost(device: &dyn Device, damage: &Damage) -> io::Result<()> {
    let mut bytes = vec![0; usize::try_from(damage.lost).unwrap_or(usize::MAX)];
    let read = device.open(FileId::Log(damage.piece))?.read_at(&mut bytes, damage.at)?;
    let lost = bytes.get(..read).unwrap_or_default();
    // The same place may be damaged twice: the name tells only about where it was.
    for at in damage.at.. {
        let id = FileId::Lost(damage.piece, at);
        match device.create(id) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let kept = made?;
                kept.write_at(lost, 0)?;
                return kept.sync(false);
            }
        }
    }
    Ok(())
}

/// The journal of a volume that is being opened: nothing is recorded before the log was read.
#[derive(Default)]
struct LateJournal {
    writer: std::sync::OnceLock<LogWriter>,
}

impl LateJournal {
    fn begin(&self, writer: LogWriter) {
        // It is begun once, by who made it.
        let _ = self.writer.set(writer);
    }

    fn writer(&self) -> Result<&LogWriter> {
        self.writer.get().ok_or(FsError::Stale)
    }
}

impl Journal for LateJournal {
    fn append(&self, record: &Record, first: &[ObjectId]) -> Result<()> {
        self.writer()?.append(record, first)
    }
    fn sync(&self) -> Result<()> {
        self.writer()?.sync()
    }
    fn sync_inode(&self, ino: InodeId) -> Result<()> {
        self.writer()?.sync_inode(ino)
    }
    fn position(&self) -> u64 {
        self.writer.get().map_or(u64::MAX, Journal::position)
    }
    fn durable(&self) -> u64 {
        self.writer.get().map_or(0, Journal::durable)
    }
}
