//! Opening a volume: its log is repeated, what a crash left half-known is asked of the store, and what nothing names any
//! more is swept away.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use tracing::{info, warn};

use super::adopted::Adopted;
use super::checkpoint::PastState;
use super::history::{History, PastBranch};
use crate::branch::{Branch, BranchInfo, Lower, Origin, Snapshot, SnapshotInfo, Tree};
use crate::config::Config;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::{self, Damage, Journal, Log, LogWriter, NewBranch, NewSnapshot, Record, Start};
use crate::store::{Backing, Device, FileId, Folder, LowerTree, READ_TRIES, no_space};
use crate::tree::{Edit, Version};
use crate::types::{BranchId, InodeId, ObjectId, SnapshotId};

/// How a volume was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records repeated.
    pub records: u64,
    /// What ended the log before its end.
    pub damage: Option<Damage>,
    /// Files that were written in place when the daemon ended: their size and times were asked of the store.
    pub dirty: usize,
}

/// A log that was read, with what its records name.
pub(super) struct Past<'a> {
    pub(super) log: Log,
    pub(super) history: History,
    pub(super) adopted: Adopted<'a>,
    pub(super) power_cut: bool,
    /// Was it made, and never begun?
    pub(super) is_new: bool,
}

/// What a store lacks that has content and nothing else.
pub(super) const LOG_IS_MISSING: &str = "the log is missing, and there is content";

impl<'a> Past<'a> {
    /// Reads the log of `core`'s store.
    ///
    /// # Errors
    /// What the device answers; `Io` with `InvalidData` for a record that this version does not know.
    pub(super) fn read(core: &'a FsCore) -> Result<Past<'a>> {
        let mut log = Log::open(core.store.device(), core.config.boot)?;
        let power_cut = log.boot.is_some_and(|boot| boot != core.config.boot) && !log.is_closed();
        let (mut history, mut adopted, mut unknown) = (History::default(), Adopted::new(&core.store), None);
        let ordered = log.ordered.unwrap_or_default();
        log.read(|stored| {
            let Ok(record) = log::decode(stored.payload, &mut adopted) else {
                unknown = Some((stored.piece, stored.at));
                return ControlFlow::Break(());
            };
            let doubtful = power_cut && (stored.piece, stored.at) >= ordered;
            if doubtful && !adopted.vouches_for(&record) {
                return ControlFlow::Break(());
            }
            if let Record::Moved(moves) = &record {
                adopted.moved(moves);
            }
            let in_doubt = if doubtful { spoken_of(&record) } else { None };
            history.repeat(record);
            if let Some((branch, inodes)) = in_doubt {
                history.doubt(branch, inodes);
            }
            ControlFlow::Continue(())
        })?;
        history.pass_epoch(adopted.epoch());
        if let Some((piece, at)) = unknown {
            return Err(damaged(&format!("piece {piece} of the log has at byte {at} a record that is none")));
        }
        let is_new = log.len() == 0 && log.damage.is_none() && core.store.files()?.is_empty();
        Ok(Past { log, history, adopted, power_cut, is_new })
    }

    /// After a power cut an object may be missing or short, because it was never synced. From now on it is there, and as
    /// long as its file, with zeros for what was lost: what is missing or short later is damage. Files that were being
    /// written are as long as their objects instead.
    fn mend_unsynced(&mut self, device: &dyn Device) -> io::Result<()> {
        if !self.power_cut {
            return Ok(());
        }
        let found: HashSet<FileId> = device.list(Folder::Objects)?.into_iter().collect();
        let is_missing = |id: &ObjectId| !found.contains(&FileId::Object(*id));
        let missing: HashSet<ObjectId> = self.adopted.objects.keys().copied().filter(is_missing).collect();
        for id in &missing {
            device.create(FileId::Object(*id))?;
        }
        let mut count = missing.len();
        for (id, size) in self.history.settled_sizes() {
            let object = device.open(FileId::Object(id))?;
            if object.stat()?.len < size {
                object.set_len(size)?;
                count += usize::from(!missing.contains(&id));
            }
        }
        if count > 0 {
            warn!(
                count,
                "content that was not synced before a power cut is lost: there are zeros in its place"
            );
        }
        Ok(())
    }

    /// Better no volume than an empty or an old one in its place.
    pub(super) fn check_beginning(&self) -> Result<()> {
        if self.log.checkpoint_damaged {
            return Err(damaged("the checkpoint that the log begins with is damaged"));
        }
        if let Some(what) = self.history.contradictions().into_iter().next() {
            return Err(damaged(&format!("the log contradicts itself: {what}")));
        }
        if self.history.has_main() || self.is_new {
            Ok(())
        } else if self.log.len() == 0 && self.log.damage.is_none() {
            Err(damaged(LOG_IS_MISSING))
        } else {
            Err(damaged("the log is damaged at its beginning"))
        }
    }
}

fn damaged(what: &str) -> FsError {
    FsError::damaged(&format!("{what}; nothing was changed"))
}

/// The inodes an operation speaks of.
fn spoken_of(record: &Record) -> Option<(BranchId, Vec<InodeId>)> {
    let Record::Edits(branch, edits) = record else { return None };
    let inode = |edit: &Edit| match edit {
        Edit::Put(ino, _)
        | Edit::Meta(ino, _)
        | Edit::Content(ino, _)
        | Edit::Layers(ino, _)
        | Edit::Clean(ino) => Some(*ino),
        _ => None,
    };
    Some((*branch, edits.iter().filter_map(inode).collect()))
}

impl FsCore {
    /// Opens the volume that `device` holds, or makes one.
    ///
    /// # Errors
    /// What the device answers; `Io` when the log has no beginning, and then nothing was changed.
    pub fn open_volume(device: Arc<dyn Device>, config: Config) -> Result<(FsCore, Recovered)> {
        FsCore::open_layered(device, config, None)
    }

    /// As [`FsCore::open_volume`], of a volume that lies over a directory of the host.
    ///
    /// # Errors
    /// The same; `Refused` when the volume lies over another directory, or over none and is not empty.
    pub fn open_layered(
        device: Arc<dyn Device>,
        config: Config,
        lower: Option<LowerTree>,
    ) -> Result<(FsCore, Recovered)> {
        let late = Arc::new(LateJournal::default());
        let lower = lower.map(|tree| Arc::new(Lower::new(tree)));
        let core = FsCore::bare(device.clone(), late.clone(), config, lower);
        let mut past = Past::read(&core)?;
        past.check_beginning()?;
        core.check_lower(past.history.main(), past.history.is_plain())?;
        past.mend_unsynced(&*device)?;
        let branches = past.history.branches.iter_mut();
        let settled: Vec<(BranchId, Vec<Edit>)> =
            branches.map(|(id, branch)| Ok((*id, branch.settle(&*device)?))).collect::<io::Result<_>>()?;
        let Past { log, history, adopted, .. } = past;
        keep_what_ends_the_log(&*device, &log)?;
        let mut is_in_doubt = log.boot == Some(core.config.boot) && log::is_doubtful(&*device)?;
        if !log.is_closed() {
            // Records that an earlier mount did not sync are taken for durable from now on, with what they name.
            if let Err(error) = device.sync_all() {
                is_in_doubt |= !core.sync_each(&error)?.is_empty();
            }
        }
        let dirty = settled.iter().flat_map(|(_, edits)| edits).filter(|edit| matches!(edit, Edit::Clean(_)));
        let (records, dirty) = (history.records, dirty.count());
        let recovered = Recovered { records, damage: log.damage.clone(), dirty };
        let (objects, packs, extents) = (adopted.objects, adopted.packs, adopted.extents);
        core.take_over(history);
        core.store.begin_mount();
        if is_in_doubt {
            log::note_doubt(&*device);
        }
        core.begin_log(&device, &late, &log).inspect_err(|_| {
            log::note_doubt(&*device);
        })?;
        if is_in_doubt {
            core.write_anew(&objects);
        } else {
            log::forget_doubt(&*device)?; // of an earlier boot: what the host forgot then is gone
        }
        // Poisoned it takes nothing: the checkpoint that heals it will say all of this.
        if !core.journal.is_poisoned() {
            core.note_mount(settled)?;
            if core.is_worth_a_checkpoint() && recovered.damage.is_none() {
                match core.checkpoint() {
                    Ok(len) => info!(before = log.len(), after = len, "the log was shortened"),
                    Err(error) => warn!(%error, "the log stays long for now"),
                }
            }
            core.journal.sync()?;
        }
        core.lie_over_lower()?;
        core.charge_all()?;
        core.store.serve();
        let sound = recovered.damage.is_none() && !log::has_lost(&*device)?;
        if let Some(live) = core.live() {
            objects.values().for_each(|backing| backing.note_opened(&live, sound));
        }
        let named = objects.keys().map(|id| id.0).chain(packs.keys().map(|id| id.0)).collect();
        core.forget_unnamed((objects, packs, extents), named, sound);
        Ok((core, recovered))
    }

    /// Records what was found, and that a mount begins.
    fn note_mount(&self, settled: Vec<(BranchId, Vec<Edit>)>) -> Result<()> {
        for (id, edits) in settled.into_iter().filter(|(_, edits)| !edits.is_empty()) {
            self.journal.append(&Record::Edits(id, edits))?;
        }
        self.journal.append(&Record::Marks(self.marks()))?;
        // Not before what a power cut left was settled: else a kill now would leave that for good.
        self.journal.append(&Record::Mounted(self.config.boot))
    }

    /// After a mount in which a sync failed: nothing that the host says to have is known to be durable. Where it cannot be
    /// written anew now, the volume is served as it is, takes no changes, and tends to it.
    fn write_anew(&self, objects: &HashMap<ObjectId, Arc<Backing>>) {
        warn!("a sync failed when the volume was last mounted: all of it is written anew");
        self.store.packs.doubt();
        // What only the log named is named by nothing any more.
        let named = objects.iter().filter(|(_, object)| Arc::strong_count(object) > 1);
        self.journal.doubt(named.map(|(id, _)| *id).collect());
        // What cannot be read is so only after some tries.
        for _ in 0..=READ_TRIES {
            match self.heal() {
                Ok(()) => return,
                Err(error) => warn!(%error, "it cannot be written anew yet"),
            }
        }
    }

    /// Goes on with the log where it ends; begins it, with a checkpoint, when there is none.
    fn begin_log(&self, device: &Arc<dyn Device>, late: &LateJournal, log: &Log) -> Result<()> {
        let boot = self.config.boot;
        let start = match log.end() {
            Some((piece, len)) if log.len() > 0 => {
                let since = log.len() - len;
                let checkpoint = log.checkpoint;
                Start {
                    piece,
                    len,
                    follows: log.follows(),
                    since: since.saturating_sub(checkpoint),
                    checkpoint,
                    boot,
                }
            }
            end => {
                self.plant_main()?;
                let piece = end.map_or(1, |(piece, _)| piece + 1);
                let checkpoint = self.write_checkpoint(piece, &self.capture(), || Ok(()))?;
                let follows = Some((piece, checkpoint));
                Start { piece: piece + 1, len: 0, follows, since: 0, checkpoint, boot }
            }
        };
        late.begin(LogWriter::open(device.clone(), &self.store.packs, &start)?);
        self.remove_superseded()
    }

    /// Writes all there is to piece `number` of the log, in place of those before, of a volume that was left like this.
    pub(super) fn rewrite_log(&self, number: u64, past: PastState) -> Result<()> {
        let mut captured = self.capture();
        captured.set_past(past);
        self.write_checkpoint(number, &captured, || Ok(self.store.device().sync_all()?))?;
        self.remove_superseded()
    }

    /// Makes branches and snapshots of what the log says.
    pub(super) fn take_over(&self, history: History) {
        let History { branches, snapshots, points, ancestry, marks, .. } = history;
        self.passed(marks.inode, marks.epoch);
        self.store.passed(marks.object.saturating_sub(1));
        let mut states: Vec<SnapshotId> = snapshots.keys().chain(points.keys()).copied().collect();
        states.sort_unstable();
        states.into_iter().for_each(|id| self.note_snapshot(id));
        let mut catalog = self.catalog.write();
        let adopt = |version: &Version| self.lower.iter().for_each(|lower| lower.adopt(version));
        let restored = |(new, version): (NewSnapshot, Version)| {
            let (id, name, branch, created) = (new.id, new.name, new.branch, new.created);
            adopt(&version);
            let snapshot = Arc::new(Snapshot::new(id, version, self.lower.clone()));
            (SnapshotInfo { id, name, branch, created }, snapshot)
        };
        for (info, snapshot) in snapshots.into_values().map(restored) {
            catalog.insert_snapshot(info, snapshot);
        }
        for (info, point) in points.into_values().map(restored) {
            catalog.insert_point(info, point);
        }
        // What they grew from is there.
        for PastBranch { made, version, epoch, .. } in branches.into_values() {
            adopt(&version);
            let (lower, account) = (self.lower.clone(), self.account());
            let branch = Arc::new(Branch::new(made.id, made.view, version, epoch, lower, account));
            self.views.restore(made.view, Tree::Branch(branch.clone()));
            catalog.insert_branch(info(made), branch);
        }
        catalog.ancestry = ancestry;
    }

    /// Files that the log named and no version does any more go now, and the rest is noted for the sweep. After damage,
    /// now or earlier, none goes: records that are lost may have named them.
    fn forget_unnamed<T>(&self, adopted: T, named: HashSet<u64>, sound: bool) {
        let unnamed = self.store.release(adopted);
        if !sound {
            self.store.packs.keep();
        } else {
            self.store.remove_later(unnamed);
            *self.named_at_open.lock() = Some(named);
        }
    }

    /// Deletes objects and packs of earlier mounts that the log did not name: made shortly before a crash that took their
    /// records along. Looks at all objects there are: meant for a thread of its own. Returns how many there were.
    ///
    /// # Errors
    /// What the device answers.
    pub fn sweep(&self) -> Result<usize> {
        if self.journal.is_poisoned() {
            return Ok(0); // what is on the disk may name more: the next mount sweeps
        }
        let Some(named) = self.named_at_open.lock().take() else { return Ok(0) };
        let is_unnamed = |number: u64| self.store.is_of_earlier(number) && !named.contains(&number);
        let mut unnamed = self.store.files()?;
        unnamed.retain(|id| id.number().is_some_and(is_unnamed));
        let count = unnamed.len();
        if count > 0 {
            info!(count, "deleting content that nothing names");
        }
        unnamed.into_iter().for_each(|id| self.store.remove_file_later(id));
        Ok(count)
    }
}

fn info(made: NewBranch) -> BranchInfo {
    let origin = match (made.snapshot, made.branch) {
        (Some(id), _) => Origin::Snapshot(id),
        (None, Some(id)) => Origin::Branch(id),
        (None, None) => Origin::Empty,
    };
    BranchInfo { id: made.id, name: made.name, origin, created: made.created, view: made.view }
}

/// Copies what the log is about to lose by damage to files of its own, and takes away the pieces behind its end.
pub(super) fn keep_what_ends_the_log(device: &dyn Device, log: &Log) -> io::Result<()> {
    if let Some(damage) = &log.damage {
        warn!(%damage, "the log ends early; what it lost is kept beside it");
        keep(device, damage.piece, damage.at)?;
        log.stale.iter().try_for_each(|piece| keep(device, *piece, 0))?;
    }
    for piece in &log.stale {
        device.remove(FileId::Log(*piece))?;
    }
    Ok(())
}

/// Copies the end of a piece to a file of its own.
fn keep(device: &dyn Device, piece: u64, from: u64) -> io::Result<()> {
    let file = device.open(FileId::Log(piece))?;
    let len = file.stat()?.len.saturating_sub(from);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, from)?;
    keep_bytes(device, (piece, from), bytes.get(..read).unwrap_or_default())
}

/// Keeps bytes in a file of their own, durably. The name tells only about where they were: there may be others.
pub(super) fn keep_bytes(device: &dyn Device, (piece, from): (u64, u64), bytes: &[u8]) -> io::Result<()> {
    for at in from.. {
        match device.create(FileId::Lost(piece, at)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => {
                let file = made?;
                if file.write_at(bytes, 0)? < bytes.len() {
                    return Err(no_space());
                }
                file.sync(false)?;
                return device.sync_names();
            }
        }
    }
    Ok(())
}

/// The journal of a volume that is being opened: nothing is recorded before the log was read.
#[derive(Default)]
pub(super) struct LateJournal {
    writer: OnceLock<LogWriter>,
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
    fn append(&self, record: &Record) -> Result<()> {
        self.writer()?.append(record)
    }
    fn append_all(&self, records: &[Record]) -> Result<()> {
        self.writer()?.append_all(records)
    }
    fn sync(&self) -> Result<()> {
        self.writer()?.sync()
    }
    fn close(&self) -> Result<()> {
        self.writer()?.close()
    }
    fn sync_inode(&self, ino: InodeId) -> Result<()> {
        self.writer()?.sync_inode(ino)
    }
    fn has_given_up(&self, object: Option<ObjectId>) -> bool {
        self.writer.get().is_some_and(|writer| writer.has_given_up(object))
    }
    fn try_given_up(&self, object: Option<ObjectId>) -> Result<()> {
        self.writer()?.try_given_up(object)
    }
    fn give_up(&self, object: ObjectId) {
        self.writer.get().into_iter().for_each(|writer| writer.give_up(object));
    }
    fn end_doubt(&self) {
        self.writer.get().into_iter().for_each(Journal::end_doubt);
    }
    fn doubt(&self, objects: Vec<ObjectId>) {
        self.writer.get().into_iter().for_each(|writer| writer.doubt(objects.clone()));
    }
    fn position(&self) -> u64 {
        self.writer.get().map_or(u64::MAX, Journal::position)
    }
    fn durable(&self) -> u64 {
        self.writer.get().map_or(0, Journal::durable)
    }
    fn begin_checkpoint(&self) -> Result<Option<u64>> {
        self.writer()?.begin_checkpoint()
    }
    fn sync_content(&self) -> Result<()> {
        Journal::sync_content(self.writer()?)
    }
    fn end_checkpoint(&self, len: u64) {
        self.writer.get().into_iter().for_each(|writer| writer.end_checkpoint(len));
    }
    fn lengths(&self) -> (u64, u64) {
        self.writer.get().map_or((0, 0), Journal::lengths)
    }
    fn spare(&self) -> Option<u64> {
        self.writer.get().and_then(Journal::spare)
    }
    fn is_poisoned(&self) -> bool {
        self.writer.get().is_some_and(Journal::is_poisoned)
    }
}
