//! A checkpoint: a shorter log with the same result. Versions are written as what they differ by from one written before,
//! so that what they share is written, and after reading held in memory, once.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::fsync::waits_for_direct_writers;
use crate::branch::{Branch, BranchInfo, Known, Origin, SnapshotInfo, Still};
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::log::{self, FrameWriter, Marks, NewBranch, NewSnapshot, Record};
use crate::store::{Content, FileId};
use crate::tree::{Body, Edit, Version, Xattrs, diff};
use crate::types::{BranchId, Epoch, Event, Holder, InodeId, SnapshotId};

/// About so many bytes of edits go into one record: more records rather than very long ones.
const BYTES_PER_RECORD: usize = 1 << 20;

/// All that a checkpoint says, as it was when no branch or snapshot came or went.
pub(super) struct Captured {
    /// In order of their ids; and which of them nobody asked for.
    snapshots: Vec<(SnapshotInfo, Still, bool)>,
    branches: Vec<CapturedBranch>,
    knows: Vec<(Holder, BranchId, Known)>,
    events: Vec<Event>,
    marks: Marks,
    boot: u128,
    is_closed: bool,
}

/// How a volume was left.
pub(super) struct PastState {
    /// The boot of the host.
    pub(super) boot: u128,
    /// Files that were being written.
    pub(super) dirty: HashMap<BranchId, Vec<InodeId>>,
    /// Was it closed?
    pub(super) is_closed: bool,
}

struct CapturedBranch {
    info: BranchInfo,
    version: Version,
    dirty: Vec<InodeId>,
    epoch: Epoch,
}

/// A checkpoint being written.
struct Checkpoint<'a> {
    captured: &'a Captured,
    out: FrameWriter,
    written: Vec<Still>,
    snapshots: HashMap<SnapshotId, u32>,
    branches: HashMap<BranchId, u32>,
    /// The last snapshot of a branch that was written.
    last: HashMap<BranchId, u32>,
}

/// A log of so many bytes is not worth compacting, whatever it says.
const LITTLE_LOG: u64 = 2 << 20;
/// About what a checkpoint takes for an inode, in bytes, and for how many of them a snapshot counts.
const PER_INODE: u64 = 200;
const INODES_PER_SNAPSHOT: usize = 16;

impl FsCore {
    /// Writes a new checkpoint, while operations go on: what they record meanwhile follows it, and repeats what it says
    /// already with the same result. Then what it supersedes goes. Returns its length; `None` when no log is kept.
    ///
    /// # Errors
    /// What the device answers; the log is then longer than it need be, and says what it said.
    pub fn checkpoint(&self) -> Result<Option<u64>> {
        let _one = self.compacting.lock();
        // Asked before it begins: what fails from here on, it does not mend.
        let is_poisoned = self.journal.is_poisoned();
        let (piece, captured) = {
            let _control = self.control.lock();
            let Some(piece) = self.journal.begin_checkpoint()? else { return Ok(None) };
            (piece, self.capture())
        };
        // What was recorded since, up to what was captured, is to be durable with it: repeated in part it would be a state
        // that never was. Poisoned, the log takes nothing meanwhile, and no object is written to once those writes are done
        // that began before.
        let first = || {
            if !is_poisoned {
                return self.journal.sync();
            }
            let _gate = self.direct.gate.write();
            if self.direct.any_writers() {
                return Err(waits_for_direct_writers());
            }
            self.drain_writers();
            self.journal.sync_content()
        };
        let len = self.write_checkpoint(piece, &captured, first).inspect_err(|_| {
            // It has no meaning, and takes space.
            let _ = self.store.device().remove(FileId::Draft(piece));
        })?;
        self.journal.end_checkpoint(len);
        self.remove_superseded()?;
        Ok(Some(len))
    }

    /// Is the log much longer than it need be?
    pub(super) fn is_worth_a_checkpoint(&self) -> bool {
        let (since, checkpoint) = self.journal.lengths();
        let is_long = since > self.config.log_factor * checkpoint + self.config.log_slack;
        // After much was deleted the last checkpoint is of what was there before.
        is_long
            || since > checkpoint / 4 + LITTLE_LOG / 8
                && since + checkpoint > self.config.log_factor * self.expected_log() + LITTLE_LOG
    }

    /// About how many bytes a checkpoint would take: not less for most trees.
    fn expected_log(&self) -> u64 {
        let catalog = self.catalog.read();
        let inodes: usize = catalog.all_branches().map(|(_, branch)| branch.read(Version::len)).sum();
        let versions = catalog.snapshot_count() + catalog.all_points().count();
        PER_INODE * (inodes + INODES_PER_SNAPSHOT * versions) as u64
    }

    /// The caller keeps branches and snapshots from coming and going.
    pub(super) fn capture(&self) -> Captured {
        let catalog = self.catalog.read();
        let asked = catalog.all_snapshots().map(|(info, snapshot)| (info.clone(), snapshot.still(), false));
        let points = catalog.all_points().map(|(info, point)| (info.clone(), point.still(), true));
        let mut snapshots: Vec<_> = asked.chain(points).collect();
        snapshots.sort_by_key(|(info, ..)| info.id);
        let branch = |(info, branch): (&BranchInfo, &Arc<Branch>)| {
            let (version, dirty, epoch) = branch.capture();
            CapturedBranch { info: info.clone(), version, dirty, epoch }
        };
        Captured {
            snapshots,
            knows: catalog.ancestry.all().collect(),
            events: catalog.ancestry.events().to_vec(),
            branches: catalog.all_branches().map(branch).collect(),
            marks: self.marks(),
            boot: self.config.boot,
            is_closed: false,
        }
    }

    /// Writes piece `number` of the log, which supersedes those before. `first` makes durable what it names. Returns its
    /// length.
    pub(super) fn write_checkpoint(
        &self,
        number: u64,
        captured: &Captured,
        first: impl FnOnce() -> Result<()>,
    ) -> Result<u64> {
        let device = self.store.device();
        match device.remove(FileId::Draft(number)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let mut checkpoint = Checkpoint {
            captured,
            out: FrameWriter::new(device.create(FileId::Draft(number))?),
            written: Vec::new(),
            snapshots: HashMap::new(),
            branches: HashMap::new(),
            last: HashMap::new(),
        };
        checkpoint.out.write(&Record::Checkpoint)?;
        checkpoint.out.write(&Record::Mounted(captured.boot))?;
        checkpoint.out.write(&Record::Marks(captured.marks))?;
        checkpoint.write_all()?;
        if captured.is_closed {
            let at = checkpoint.out.position();
            checkpoint.out.write(&Record::Closed { at })?;
        }
        let len = checkpoint.out.finish()?;
        first()?;
        device.publish(number)?;
        Ok(len)
    }

    /// Deletes the pieces of the log before the newest checkpoint.
    pub(super) fn remove_superseded(&self) -> Result<()> {
        let device = self.store.device();
        for id in log::superseded(device)? {
            device.remove(id)?;
        }
        Ok(())
    }
}

impl Captured {
    /// Of a volume that is not open.
    pub(super) fn set_past(&mut self, mut past: PastState) {
        (self.boot, self.is_closed) = (past.boot, past.is_closed);
        for branch in &mut self.branches {
            branch.dirty = past.dirty.remove(&branch.info.id).unwrap_or_default();
        }
    }
}

impl Checkpoint<'_> {
    /// Snapshots in order of age, then branches: each has its base among those before.
    fn write_all(&mut self) -> Result<()> {
        let captured = self.captured;
        for (info, version, is_hidden) in &captured.snapshots {
            let base = self.last.get(&info.branch).copied().or_else(|| self.origin_of(info.branch));
            let version = self.write_version(base, version)?;
            self.snapshots.insert(info.id, version);
            self.last.insert(info.branch, version);
            let is = if *is_hidden { Record::PointIs } else { Record::SnapshotIs };
            self.out.write(&is(new_snapshot(info), version))?;
        }
        for branch in &captured.branches {
            let id = branch.info.id;
            let base = self.last.get(&id).copied().or_else(|| self.origin_of(id));
            let version = self.write_version(base, &Still::Whole(branch.version.clone()))?;
            self.branches.insert(id, version);
            self.out.write(&Record::BranchIs(new_branch(&branch.info, branch.epoch), version))?;
            if !branch.dirty.is_empty() {
                let dirty = branch.dirty.iter().map(|ino| Edit::Dirty(*ino)).collect();
                self.out.write(&Record::Edits(id, dirty))?;
            }
        }
        for (holder, line, knows) in &captured.knows {
            self.out.write(&Record::Knows(*holder, *line, knows.all()))?;
        }
        for event in &captured.events {
            self.out.write(&Record::Happened(event.clone()))?;
        }
        self.out.write(&Record::CheckpointEnd)
    }

    /// What was written of what a branch grew from.
    fn origin_of(&self, branch: BranchId) -> Option<u32> {
        let found = self.captured.branches.binary_search_by_key(&branch, |branch| branch.info.id).ok()?;
        match self.captured.branches.get(found)?.info.origin {
            Origin::Empty => None,
            Origin::Snapshot(id) => self.snapshots.get(&id).copied(),
            Origin::Branch(id) => self.branches.get(&id).or_else(|| self.last.get(&id)).copied(),
        }
    }

    /// Writes a version as it differs from `base`, or, without one, from the last that was written: any will do, and that
    /// is likely to be related.
    fn write_version(&mut self, base: Option<u32>, still: &Still) -> Result<u32> {
        let base = base.or_else(|| (self.written.len() as u32).checked_sub(1));
        let from = base.and_then(|base| self.written.get(base as usize)).map(Still::version).transpose()?;
        let version = still.version()?;
        let number = self.written.len() as u32;
        let (mut start, mut edits, mut bytes, mut written) = (base, Vec::new(), 0, Ok(()));
        diff(from.as_ref(), &version, &mut |edit| {
            bytes += weight(&edit);
            edits.push(edit);
            if bytes > BYTES_PER_RECORD && written.is_ok() {
                let edits = std::mem::take(&mut edits);
                written = self.out.write(&Record::Version(number, start.replace(number), edits));
                bytes = 0;
            }
        });
        written?;
        if !edits.is_empty() || start != Some(number) {
            self.out.write(&Record::Version(number, start, edits))?;
        }
        self.written.push(still.clone());
        Ok(number)
    }
}

/// About the bytes of a piece of content in the log.
const PIECE: usize = 24;

/// About the bytes of an edit in the log.
fn weight(edit: &Edit) -> usize {
    let of_xattrs =
        |xattrs: &Xattrs| xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let own = match edit {
        Edit::Put(_, inode) => {
            let target = if let Body::Symlink(target) = &inode.body { target.len() } else { 0 };
            let pieces = if let Some(Content::Layered(layers)) = inode.content() { layers.len() } else { 0 };
            target + inode.xattrs.as_deref().map_or(0, of_xattrs) + pieces * PIECE
        }
        Edit::Xattrs(_, xattrs) => xattrs.as_deref().map_or(0, of_xattrs),
        Edit::Content(_, Content::Layered(layers)) => layers.len() * PIECE,
        Edit::Layers(_, changes) => changes.len() * PIECE,
        Edit::Link(_, name, _) | Edit::Unlink(_, name) => name.as_bytes().len(),
        Edit::LowerEntry(path, _) => path.len(),
        _ => 0,
    };
    100 + own
}

fn new_snapshot(info: &SnapshotInfo) -> NewSnapshot {
    // Only the branch's present epoch matters any more.
    let epoch = Epoch(0);
    NewSnapshot { id: info.id, name: info.name.clone(), branch: info.branch, epoch, created: info.created }
}

fn new_branch(info: &BranchInfo, epoch: Epoch) -> NewBranch {
    let (snapshot, branch) = match info.origin {
        Origin::Empty => (None, None),
        Origin::Snapshot(id) => (Some(id), None),
        Origin::Branch(id) => (None, Some(id)),
    };
    let (id, name, view, created) = (info.id, info.name.clone(), info.view, info.created);
    NewBranch { id, name, snapshot, branch, view, epoch, source_epoch: None, root: None, created }
}
