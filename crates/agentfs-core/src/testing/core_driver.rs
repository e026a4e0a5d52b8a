//! Operations on the core: which tree they work in, the files kept open, branches and snapshots.

use std::sync::Arc;

use rustix::io::Errno;

use super::compare::{Answer, Driver, Outcome};
use super::core_dump::{dump, stat};
use super::core_tree::{At, Result, failed, read, write};
use super::dump::Dump;
use super::op::{
    KeptOp, MAX_BRANCHES, MAX_SNAPSHOTS, Op, Path, Place, ROOT_MODE, SLOTS, VolumeOp, pattern, pick,
};
use crate::types::{BranchId, Caller, HandleId, InodeId, SnapshotId, ViewId};
use crate::{Config, FsCore, ObjectFile, OpenMode, check};

/// How a volume is set up for operations.
pub fn config() -> Config {
    Config {
        max_branches: MAX_BRANCHES,
        max_snapshots: MAX_SNAPSHOTS,
        // None stays that may go.
        resident_snapshots: 0,
        root_mode: ROOT_MODE,
        ..Config::default()
    }
}

/// Runs operations on a core.
pub struct CoreDriver {
    core: Arc<FsCore>,
    branches: Vec<(BranchId, ViewId)>,
    snapshots: Vec<SnapshotId>,
    slots: [Option<Kept>; SLOTS],
    past_the_daemon: bool,
    remembers_all: bool,
    /// How often a file was read or written so.
    direct: usize,
}

/// A file kept open.
#[derive(Clone)]
struct Kept {
    handle: HandleId,
    /// What the kernel reads and writes by itself.
    object: Option<Arc<dyn ObjectFile>>,
    /// In some slots the file is opened to be read, and once more when it is written.
    writer: Option<(HandleId, Option<Arc<dyn ObjectFile>>)>,
    view: ViewId,
    ino: InodeId,
    writable: bool,
    /// Does the kernel remember the inode? Only in some slots, so that either count keeps files alive.
    remembered: bool,
    is_snapshot: bool,
}

impl CoreDriver {
    /// A driver of the branches and snapshots that a volume made with [`config`] has now.
    pub fn new(core: Arc<FsCore>) -> CoreDriver {
        let branches = core.list_branches(None, usize::MAX).iter().map(|info| (info.id, info.view)).collect();
        let snapshots = core.list_snapshots(None, usize::MAX).iter().map(|info| info.id).collect();
        let (past_the_daemon, remembers_all, direct) = (false, false, 0);
        CoreDriver {
            core,
            branches,
            snapshots,
            slots: Default::default(),
            past_the_daemon,
            remembers_all,
            direct,
        }
    }

    /// The kernel knows all files that are kept open: so it is, and files of a lower directory are found by what it knows.
    pub fn remembering_all(self) -> CoreDriver {
        CoreDriver { remembers_all: true, ..self }
    }

    /// Files that are kept open are read and written past the daemon where that may be, as the kernel does.
    pub fn past_the_daemon(self) -> CoreDriver {
        CoreDriver { past_the_daemon: true, ..self }
    }

    /// How often a file was read or written past the daemon.
    pub fn direct(&self) -> usize {
        self.direct
    }

    /// The volume was ended, by a crash or cleanly, and this is it again.
    pub fn reopened(&mut self, core: Arc<FsCore>) {
        let at = |id: &BranchId| (*id, core.find_branch(&id.to_string()).expect("the branch is there").view);
        self.branches = self.branches.iter().map(|(id, _)| at(id)).collect();
        self.slots = Default::default();
        self.core = core;
    }

    /// The volume.
    pub fn core(&self) -> &Arc<FsCore> {
        &self.core
    }

    /// Calls `f` with the view of a tree; a snapshot is entered for that long.
    fn at<T>(&self, place: Place, f: impl FnOnce(&At<'_>) -> Result<T>) -> Result<T> {
        let core = &*self.core;
        match place {
            Place::Branch(index) => {
                let at = pick(index, self.branches.len()).ok_or(Errno::NOENT)?;
                f(&At { core, view: self.branches[at].1 })
            }
            Place::Snapshot(index) => {
                let at = pick(index, self.snapshots.len()).ok_or(Errno::NOENT)?;
                let view = core.enter_snapshot(self.snapshots[at], InodeId::ROOT).map_err(failed)?;
                let result = f(&At { core, view });
                core.forget(view, InodeId::ROOT, 1);
                result
            }
        }
    }

    fn open_kept(&mut self, slot: usize, place: Place, path: &Path) -> Outcome {
        self.close_slot(slot);
        let is_snapshot = matches!(place, Place::Snapshot(_));
        let (writable, remembered) = (!is_snapshot, self.remembers_all || slot.is_multiple_of(2));
        let past = self.past_the_daemon;
        let is_reader = past && slot % 4 > 1;
        let kept = self.at(place, |at| {
            let ino = at.find(path)?.ino;
            let mode = if writable && !is_reader { OpenMode::Write } else { OpenMode::Read };
            let handle = at.core.open(at.view, ino, mode, Caller::ROOT).map_err(failed)?;
            let object = if past { at.core.open_direct(handle, true).map_err(failed)? } else { None };
            let writer = (writable && !is_reader).then(|| (handle, object.clone()));
            if remembered {
                at.core.remember(at.view, ino);
            }
            if is_snapshot {
                at.core.remember(at.view, InodeId::ROOT);
            }
            Ok(Kept { handle, object, writer, view: at.view, ino, writable, remembered, is_snapshot })
        })?;
        self.slots[slot] = Some(kept);
        Ok(Answer::Done)
    }

    fn open_to_write(&mut self, slot: usize) -> Result<()> {
        let Some(kept) = self.slots[slot].as_mut().filter(|kept| kept.writable && kept.writer.is_none())
        else {
            return Ok(());
        };
        let handle = self.core.open(kept.view, kept.ino, OpenMode::Write, Caller::ROOT).map_err(failed)?;
        let object = self.core.open_direct(handle, true).map_err(failed)?;
        assert!(kept.object.is_none() || object.is_some(), "the kernel takes no other file meanwhile");
        kept.writer = Some((handle, object));
        Ok(())
    }

    fn close_slot(&mut self, slot: usize) {
        let Some(kept) = self.slots[slot].take() else { return };
        let writer = kept.writer.map(|(writer, _)| writer).filter(|writer| *writer != kept.handle);
        for handle in writer.into_iter().chain([kept.handle]) {
            self.core.release(handle).expect("the slot's handle is open");
        }
        if kept.remembered {
            self.core.forget(kept.view, kept.ino, 1);
        }
        if kept.is_snapshot {
            self.core.forget(kept.view, InodeId::ROOT, 1);
        }
    }

    fn kept_op(&mut self, slot: u8, op: &KeptOp) -> Outcome {
        let slot = usize::from(slot) % SLOTS;
        if let KeptOp::Open(place, path) = op {
            return self.open_kept(slot, *place, path);
        }
        if matches!(op, KeptOp::Write(..)) {
            self.open_to_write(slot)?;
        }
        let Kept { handle, object, writer, view, ino, writable, .. } =
            self.slots[slot].clone().ok_or(Errno::BADF)?;
        self.direct += usize::from(object.is_some());
        match op {
            KeptOp::Write(offset, len, fill) if matches!(&writer, Some((_, Some(_)))) => {
                let data = pattern(*fill, u64::from(*offset), usize::from(*len));
                let written = writer
                    .and_then(|(_, object)| object)
                    .map(|object| object.write_at(&data, u64::from(*offset)));
                written.unwrap_or(Ok(0)).map(Answer::Count).map_err(|_| Errno::IO)
            }
            KeptOp::Read(offset, len) if object.is_some() => {
                let mut bytes = vec![0xAA; usize::from(*len)];
                let read = object.map(|object| object.read_at(&mut bytes, u64::from(*offset)));
                bytes.truncate(read.unwrap_or(Ok(0)).map_err(|_| Errno::IO)?);
                Ok(Answer::Data(bytes))
            }
            KeptOp::Write(offset, len, fill) => {
                write(&self.core, writer.map_or(handle, |(writer, _)| writer), *offset, *len, *fill)
            }
            KeptOp::Read(offset, len) => read(&self.core, handle, *offset, *len),
            KeptOp::Truncate(_) if !writable => Err(Errno::INVAL), // the kernel
            KeptOp::Truncate(size) => At { core: &self.core, view }.truncate(ino, *size),
            KeptOp::Stat => Ok(Answer::Stat(stat(&self.core.getattr(view, ino).map_err(failed)?))),
            KeptOp::Open(..) | KeptOp::Close => {
                self.close_slot(slot);
                Ok(Answer::Done)
            }
        }
    }

    fn volume_op(&mut self, op: &VolumeOp) -> Outcome {
        match op {
            VolumeOp::Snapshot(branch) => {
                let at = pick(*branch, self.branches.len()).ok_or(Errno::NOENT)?;
                let taken =
                    self.core.create_snapshot(&self.branches[at].0.to_string(), None).map_err(failed)?;
                self.snapshots.push(taken.id);
            }
            VolumeOp::Branch(from) => {
                let from = match from {
                    Place::Branch(index) => {
                        pick(*index, self.branches.len()).map(|at| self.branches[at].0.to_string())
                    }
                    Place::Snapshot(index) => {
                        pick(*index, self.snapshots.len()).map(|at| self.snapshots[at].to_string())
                    }
                };
                let made = self.core.create_branch(&from.ok_or(Errno::NOENT)?, None).map_err(failed)?;
                self.branches.push((made.id, made.view));
            }
            VolumeOp::DeleteBranch(branch, force) => {
                let at = pick(*branch, self.branches.len()).ok_or(Errno::NOENT)?;
                self.core.delete_branch(&self.branches[at].0.to_string(), *force).map_err(failed)?;
                self.branches.remove(at);
            }
            VolumeOp::DeleteSnapshot(snapshot) => {
                let at = pick(*snapshot, self.snapshots.len()).ok_or(Errno::NOENT)?;
                self.core.delete_snapshot(&self.snapshots[at].to_string()).map_err(failed)?;
                self.snapshots.remove(at);
            }
        }
        Ok(Answer::Done)
    }

    fn faults_of(&self, place: Place, what: &str) -> Vec<String> {
        let version = self.at(place, |at| at.core.version(at.view).map_err(failed)).expect("it lives");
        let lost = (!version.leads_back()).then(|| "an inode does not know where its names are".to_owned());
        let faults = check(&version).into_iter().map(|fault| fault.to_string()).chain(lost);
        faults.map(|fault| format!("{what} {place:?}: {fault}")).collect()
    }
}

/// `index` as places have it; volumes for tests have few trees.
fn small(index: usize) -> u8 {
    u8::try_from(index).expect("few trees")
}

impl Driver for CoreDriver {
    fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::File(place, op) => self.at(*place, |at| at.file_op(op)),
            Op::Kept(slot, op) => self.kept_op(*slot, op),
            Op::Volume(op) => self.volume_op(op),
        }
    }

    fn branches(&self) -> usize {
        self.core.list_branches(None, usize::MAX).len()
    }

    fn snapshots(&self) -> usize {
        self.core.list_snapshots(None, usize::MAX).len()
    }

    fn dump_branch(&mut self, index: usize) -> Dump {
        self.at(Place::Branch(small(index)), |at| Ok(dump(at.core, at.view))).expect("it lives")
    }

    fn dump_snapshot(&mut self, index: usize) -> Dump {
        self.at(Place::Snapshot(small(index)), |at| Ok(dump(at.core, at.view))).expect("it lives")
    }

    fn faults(&mut self) -> Vec<String> {
        let branches = (0..self.branches.len()).map(|index| Place::Branch(small(index)));
        let snapshots = (0..self.snapshots.len()).map(|index| Place::Snapshot(small(index)));
        branches.chain(snapshots).flat_map(|place| self.faults_of(place, "check of")).collect()
    }

    fn close(&mut self) {
        (0..SLOTS).for_each(|slot| self.close_slot(slot));
    }
}
