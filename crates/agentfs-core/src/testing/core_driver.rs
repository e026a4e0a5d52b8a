//! Operations on the core. What the kernel checks before it asks a filesystem is checked here in its place, and
//! marked so; all else is the core's to answer.

use std::sync::Arc;

use rustix::io::Errno;

use super::compare::{Answer, Driver, Outcome};
use super::core_dump::{dump, stat};
use super::dump::Dump;
use super::errno::errno;
use super::op::{
    FileOp, KeptOp, MAX_BRANCHES, MAX_SNAPSHOTS, Op, Path, Place, ROOT_MODE, SLOTS, TARGETS, VolumeOp,
    XATTRS, pattern, pick,
};
use crate::types::{
    Attr, BranchId, Caller, FileKind, HandleId, InodeId, Name, SetAttr, SetTime, SnapshotId, Timestamp,
    ViewId,
};
use crate::{Config, CreateMode, FallocateFlags, FsCore, FsError, OpenMode, RenameMode, check};

/// How a volume is set up for operations.
pub fn config() -> Config {
    Config {
        max_branches: MAX_BRANCHES,
        max_snapshots: MAX_SNAPSHOTS,
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
}

/// A file kept open.
#[derive(Clone, Copy)]
struct Kept {
    handle: HandleId,
    view: ViewId,
    ino: InodeId,
    writable: bool,
    /// Does the kernel remember the inode? Only in some slots, so that either count keeps files alive.
    remembered: bool,
    is_snapshot: bool,
}

type Result<T = Answer, E = Errno> = std::result::Result<T, E>;

fn failed(error: FsError) -> Errno {
    errno(&error)
}

fn done<T>(result: crate::Result<T>) -> Outcome {
    result.map(|_| Answer::Done).map_err(failed)
}

fn name(bytes: &[u8]) -> Result<Name> {
    Name::new(bytes).map_err(failed)
}

impl CoreDriver {
    /// A driver of the branches that a volume made with [`config`] has now.
    pub fn new(core: Arc<FsCore>) -> CoreDriver {
        let branches = core.list_branches(None, usize::MAX).iter().map(|info| (info.id, info.view)).collect();
        CoreDriver { core, branches, snapshots: Vec::new(), slots: [None; SLOTS] }
    }

    /// The volume was ended, by a crash or cleanly, and this is it again.
    pub fn reopened(&mut self, core: Arc<FsCore>) {
        let at = |id: &BranchId| (*id, core.find_branch(&id.to_string()).expect("the branch is there").view);
        self.branches = self.branches.iter().map(|(id, _)| at(id)).collect();
        self.slots = [None; SLOTS];
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
        let (writable, remembered) = (!is_snapshot, slot.is_multiple_of(2));
        let kept = self.at(place, |at| {
            let ino = at.find(path)?.ino;
            let mode = if writable { OpenMode::Write } else { OpenMode::Read };
            let handle = at.core.open(at.view, ino, mode, Caller::ROOT).map_err(failed)?;
            if remembered {
                at.core.remember(at.view, ino);
            }
            if is_snapshot {
                at.core.remember(at.view, InodeId::ROOT);
            }
            Ok(Kept { handle, view: at.view, ino, writable, remembered, is_snapshot })
        })?;
        self.slots[slot] = Some(kept);
        Ok(Answer::Done)
    }

    fn close_slot(&mut self, slot: usize) {
        let Some(kept) = self.slots[slot].take() else { return };
        self.core.release(kept.handle).expect("the slot's handle is open");
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
        let Kept { handle, view, ino, writable, .. } = self.slots[slot].ok_or(Errno::BADF)?;
        match op {
            KeptOp::Write(offset, len, fill) => write(&self.core, handle, *offset, *len, *fill),
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
        check(&version).into_iter().map(|fault| format!("{what} {place:?}: {fault}")).collect()
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

fn write(core: &FsCore, handle: HandleId, offset: u32, len: u16, fill: u8) -> Outcome {
    let data = pattern(fill, u64::from(offset), usize::from(len));
    core.write(handle, u64::from(offset), &data, false).map(Answer::Count).map_err(failed)
}

fn read(core: &FsCore, handle: HandleId, offset: u32, len: u16) -> Outcome {
    let mut bytes = vec![0xAA; usize::from(len)];
    let read = core.read(handle, u64::from(offset), &mut bytes).map_err(failed)?;
    bytes.truncate(read);
    Ok(Answer::Data(bytes))
}

fn xattr(index: u8) -> &'static [u8] {
    XATTRS[usize::from(index) % XATTRS.len()]
}

/// One tree.
struct At<'a> {
    core: &'a FsCore,
    view: ViewId,
}

impl At<'_> {
    /// The directory of the last name; whether it is one is not looked at.
    fn dir(&self, path: &Path) -> Result<InodeId> {
        path.above().try_fold(InodeId::ROOT, |dir, above| {
            let found = self.core.lookup(self.view, dir, &name(above)?).map_err(failed)?;
            found.map(|attr| attr.ino).ok_or(Errno::NOENT)
        })
    }

    /// As [`At::dir`], refusing what is no directory: the kernel walks both paths of a call first.
    fn sure_dir(&self, path: &Path) -> Result<InodeId> {
        let dir = self.dir(path)?;
        let kind = self.core.getattr(self.view, dir).map_err(failed)?.kind;
        if kind == FileKind::Directory { Ok(dir) } else { Err(Errno::NOTDIR) }
    }

    fn lookup(&self, path: &Path) -> Result<Option<Attr>> {
        self.core.lookup(self.view, self.dir(path)?, &name(path.last())?).map_err(failed)
    }

    fn find(&self, path: &Path) -> Result<Attr> {
        self.lookup(path)?.ok_or(Errno::NOENT)
    }

    fn with_open<T>(&self, path: &Path, mode: OpenMode, f: impl FnOnce(HandleId) -> Result<T>) -> Result<T> {
        let handle = self.core.open(self.view, self.find(path)?.ino, mode, Caller::ROOT).map_err(failed)?;
        let result = f(handle);
        self.core.release(handle).map_err(failed)?;
        result
    }

    fn file_op(&self, op: &FileOp) -> Outcome {
        let (core, view) = (self.core, self.view);
        match op {
            FileOp::CreateFile(path, mode) => self.create(path, FileKind::File, *mode),
            FileOp::Mkdir(path, mode) => self.create(path, FileKind::Directory, *mode),
            FileOp::Mkfifo(path, mode) => self.create(path, FileKind::Fifo, *mode),
            FileOp::Symlink(path, target) => {
                let target = TARGETS[usize::from(*target) % TARGETS.len()];
                done(core.symlink(view, self.dir(path)?, &name(path.last())?, target, Caller::ROOT))
            }
            FileOp::Link(from, to) => self.link(from, to),
            FileOp::Unlink(path) => done(core.unlink(view, self.dir(path)?, &name(path.last())?)),
            FileOp::Rmdir(path) => done(core.rmdir(view, self.dir(path)?, &name(path.last())?)),
            FileOp::Rename(from, to, mode) => self.rename(from, to, *mode),
            FileOp::Write { .. }
            | FileOp::Read { .. }
            | FileOp::Truncate(..)
            | FileOp::OpenTruncate(..)
            | FileOp::Punch(..)
            | FileOp::Allocate { .. } => self.content_op(op),
            FileOp::Chmod(..) | FileOp::SetTimes(..) | FileOp::SetXattr { .. } | FileOp::RemoveXattr(..) => {
                self.attribute_op(op)
            }
            FileOp::Readlink(path) => {
                let target = core.readlink(view, self.find(path)?.ino).map_err(failed)?;
                Ok(Answer::Data(target.to_vec()))
            }
            FileOp::Stat(path) => Ok(Answer::Stat(stat(&self.find(path)?))),
        }
    }

    fn create(&self, path: &Path, kind: FileKind, mode: u16) -> Outcome {
        let what = CreateMode { kind, mode, rdev: 0 };
        done(self.core.create(self.view, self.dir(path)?, &name(path.last())?, what, Caller::ROOT))
    }

    fn link(&self, from: &Path, to: &Path) -> Outcome {
        let (ino, dir) = (self.find(from)?.ino, self.dir(to)?);
        let linked = done(self.core.link(self.view, ino, dir, &name(to.last())?));
        match linked {
            // Of two errors the kernel tells this one.
            Err(Errno::PERM) if self.lookup(to)?.is_some() => Err(Errno::EXIST),
            other => other,
        }
    }

    fn rename(&self, from: &Path, to: &Path, mode: RenameMode) -> Outcome {
        let (from_dir, to_dir) = (self.sure_dir(from)?, self.sure_dir(to)?);
        let (from_name, to_name) = (name(from.last())?, name(to.last())?);
        let renamed = done(self.core.rename(self.view, (from_dir, &from_name), (to_dir, &to_name), mode));
        // Of two errors the kernel tells these.
        match (renamed, mode) {
            (Err(Errno::INVAL), RenameMode::NoReplace) if self.lookup(to)?.is_some() => Err(Errno::EXIST),
            (Err(Errno::INVAL), RenameMode::Exchange) if self.lookup(to)?.is_none() => Err(Errno::NOENT),
            (Err(Errno::ISDIR), _) if starts_with(from, to) => Err(Errno::NOTEMPTY),
            (other, _) => other,
        }
    }

    fn truncate(&self, ino: InodeId, size: u32) -> Outcome {
        let set = SetAttr { size: Some(u64::from(size)), ..SetAttr::default() };
        done(self.core.setattr(self.view, ino, &set, Caller::ROOT))
    }

    fn content_op(&self, op: &FileOp) -> Outcome {
        let core = self.core;
        let allocate = |path: &Path, mode: FallocateFlags, offset: u32, len: u32| {
            self.with_open(path, OpenMode::Write, |handle| {
                done(core.allocate(handle, mode, u64::from(offset), u64::from(len), Caller::ROOT))
            })
        };
        match op {
            FileOp::Write { path, offset, len, fill } => {
                self.with_open(path, OpenMode::Write, |handle| write(core, handle, *offset, *len, *fill))
            }
            FileOp::Read { path, offset, len } => {
                self.with_open(path, OpenMode::Read, |handle| read(core, handle, *offset, *len))
            }
            FileOp::Truncate(path, size) => self.truncate(self.find(path)?.ino, *size),
            FileOp::OpenTruncate(path, len, fill) => self.with_open(path, OpenMode::Truncate, |handle| {
                if *len == 0 { Ok(Answer::Count(0)) } else { write(core, handle, 0, *len, *fill) }
            }),
            FileOp::Punch(path, offset, len) => {
                allocate(path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, *offset, *len)
            }
            FileOp::Allocate { path, offset, len, keep_size } => {
                let mode = if *keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
                allocate(path, mode, *offset, *len)
            }
            other => unreachable!("{other:?} has nothing to do with content"),
        }
    }

    fn attribute_op(&self, op: &FileOp) -> Outcome {
        let (core, view) = (self.core, self.view);
        match op {
            FileOp::Chmod(path, mode) => {
                let attr = self.find(path)?;
                if attr.kind == FileKind::Symlink {
                    return Err(Errno::OPNOTSUPP); // the kernel
                }
                let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                done(core.setattr(view, attr.ino, &set, Caller::ROOT))
            }
            FileOp::SetTimes(path, secs, nanos) => {
                let time = SetTime::At(Timestamp { secs: *secs, nanos: *nanos });
                let set = SetAttr { mtime: Some(time), ..SetAttr::default() };
                done(core.setattr(view, self.find(path)?.ino, &set, Caller::ROOT))
            }
            FileOp::SetXattr { path, name, len, fill, mode } => {
                let (ino, value) = (self.with_xattrs(path)?, vec![*fill; usize::from(*len)]);
                done(core.setxattr(view, ino, xattr(*name), &value, *mode))
            }
            FileOp::RemoveXattr(path, name) => {
                done(core.removexattr(view, self.with_xattrs(path)?, xattr(*name)))
            }
            other => unreachable!("{other:?} changes no attribute"),
        }
    }

    /// The kernel keeps the namespace `user` to regular files and directories.
    fn with_xattrs(&self, path: &Path) -> Result<InodeId> {
        let attr = self.find(path)?;
        match attr.kind {
            FileKind::File | FileKind::Directory => Ok(attr.ino),
            _ => Err(Errno::PERM),
        }
    }
}

/// Does `path` go through all names of `above`, and on?
fn starts_with(path: &Path, above: &Path) -> bool {
    path.names().len() > above.names().len() && above.names().zip(path.names()).all(|(a, b)| a == b)
}
