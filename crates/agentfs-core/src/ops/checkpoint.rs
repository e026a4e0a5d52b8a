//! A checkpoint: a shorter log with the same result. Versions are written as what they differ by from one written before,
//! so that what they share is written, and after reading held in memory, once.

use std::collections::HashMap;
use std::io;

use crate::branch::{BranchInfo, Catalog, Origin, SnapshotInfo};
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::log::{FrameWriter, Marks, NewBranch, NewSnapshot, Record};
use crate::store::FileId;
use crate::tree::{Body, Edit, Version, Xattrs, diff};
use crate::types::{BranchId, Epoch, SnapshotId};

/// About so many bytes of edits go into one record: more records rather than very long ones.
const BYTES_PER_RECORD: usize = 1 << 20;

/// A checkpoint being written.
struct Checkpoint<'a> {
    catalog: &'a Catalog,
    out: FrameWriter,
    written: Vec<Version>,
    snapshots: HashMap<SnapshotId, u32>,
    branches: HashMap<BranchId, u32>,
    /// The last snapshot of a branch that was written.
    last: HashMap<BranchId, u32>,
}

impl FsCore {
    /// Writes all there is to piece `number` of the log, which supersedes those before. For a volume that nobody uses
    /// yet. Returns its length.
    ///
    /// # Errors
    /// What the device answers; the log is then as it was.
    pub(super) fn write_checkpoint(&self, number: u64, marks: Marks) -> Result<u64> {
        let device = self.store.device();
        match device.remove(FileId::Draft(number)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let catalog = self.catalog.read();
        let mut checkpoint = Checkpoint {
            catalog: &catalog,
            out: FrameWriter::new(device.create(FileId::Draft(number))?),
            written: Vec::new(),
            snapshots: HashMap::new(),
            branches: HashMap::new(),
            last: HashMap::new(),
        };
        checkpoint.out.write(&Record::Checkpoint)?;
        checkpoint.out.write(&Record::Marks(marks))?;
        checkpoint.write_all()?;
        let len = checkpoint.out.finish()?;
        device.publish(number)?;
        Ok(len)
    }
}

impl Checkpoint<'_> {
    /// Snapshots in order of age, then branches: each has its base among those before.
    fn write_all(&mut self) -> Result<()> {
        for info in self.catalog.snapshots() {
            let (_, snapshot) = self.catalog.snapshot(&info.id.to_string())?;
            let base = self.last.get(&info.branch).copied().or_else(|| self.origin_of(info.branch));
            let version = self.write_version(base, &snapshot.version)?;
            self.snapshots.insert(info.id, version);
            self.last.insert(info.branch, version);
            self.out.write(&Record::SnapshotIs(new_snapshot(info), version))?;
        }
        for info in self.catalog.branches() {
            let (_, branch) = self.catalog.branch(&info.id.to_string())?;
            let base = self.last.get(&info.id).copied().or_else(|| self.origin_of(info.id));
            let version = self.write_version(base, &branch.read(Version::clone))?;
            self.branches.insert(info.id, version);
            self.out.write(&Record::BranchIs(new_branch(info, branch.epoch()), version))?;
        }
        self.out.write(&Record::CheckpointEnd)
    }

    /// What was written of what a branch grew from.
    fn origin_of(&self, branch: BranchId) -> Option<u32> {
        match self.catalog.branch(&branch.to_string()).ok()?.0.origin {
            Origin::Empty => None,
            Origin::Snapshot(id) => self.snapshots.get(&id).copied(),
            Origin::Branch(id) => self.branches.get(&id).or_else(|| self.last.get(&id)).copied(),
        }
    }

    /// Writes a version as it differs from `base`, or, without one, from the last that was written: any will do, and that
    /// is likely to be related.
    fn write_version(&mut self, base: Option<u32>, version: &Version) -> Result<u32> {
        let base = base.or_else(|| (self.written.len() as u32).checked_sub(1));
        let from = base.and_then(|base| self.written.get(base as usize));
        let edits = diff(from, version);
        let number = self.written.len() as u32;
        let mut start = base;
        let mut rest: &[Edit] = &edits;
        loop {
            let (now, later) = rest.split_at(fitting(rest));
            self.out.write(&Record::Version(number, start, now.to_vec()))?;
            (start, rest) = (Some(number), later);
            if rest.is_empty() {
                break;
            }
        }
        self.written.push(version.clone());
        Ok(number)
    }
}

/// How many of the first edits fit a record; one at least, if there is any.
fn fitting(edits: &[Edit]) -> usize {
    let mut bytes = 0;
    let over = edits.iter().position(|edit| {
        bytes += weight(edit);
        bytes > BYTES_PER_RECORD
    });
    over.map_or(edits.len(), |over| over.max(1))
}

/// About the bytes of an edit in the log.
fn weight(edit: &Edit) -> usize {
    let of_xattrs =
        |xattrs: &Xattrs| xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    let own = match edit {
        Edit::Put(_, inode) => {
            let target = if let Body::Symlink(target) = &inode.body { target.len() } else { 0 };
            target + inode.xattrs.as_deref().map_or(0, of_xattrs)
        }
        Edit::Xattrs(_, xattrs) => xattrs.as_deref().map_or(0, of_xattrs),
        Edit::Link(_, name, _) | Edit::Unlink(_, name) => name.as_bytes().len(),
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
