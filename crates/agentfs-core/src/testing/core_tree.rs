//! Operations on one tree of the core, by path. What the kernel checks before it asks a filesystem is checked here
//! in its place, and marked so; all else is the core's to answer.

use rustix::io::Errno;

use super::compare::{Answer, Outcome};
use super::core_dump::stat;
use super::errno::errno;
use super::op::{FileOp, Path, TARGETS, XATTRS, pattern};
use crate::types::{Attr, Caller, FileKind, HandleId, InodeId, Name, SetAttr, SetTime, Timestamp, ViewId};
use crate::{CreateMode, FallocateFlags, FsCore, FsError, OpenMode, RenameMode};

pub(super) type Result<T = Answer, E = Errno> = std::result::Result<T, E>;

pub(super) fn failed(error: FsError) -> Errno {
    errno(&error)
}

fn done<T>(result: crate::Result<T>) -> Outcome {
    result.map(|_| Answer::Done).map_err(failed)
}

fn name(bytes: &[u8]) -> Result<Name> {
    Name::new(bytes).map_err(failed)
}

pub(super) fn write(core: &FsCore, handle: HandleId, offset: u32, len: u16, fill: u8) -> Outcome {
    let data = pattern(fill, u64::from(offset), usize::from(len));
    core.write(handle, u64::from(offset), &data, false).map(Answer::Count).map_err(failed)
}

pub(super) fn read(core: &FsCore, handle: HandleId, offset: u32, len: u16) -> Outcome {
    let mut bytes = vec![0xAA; usize::from(len)];
    let read = core.read(handle, u64::from(offset), &mut bytes).map_err(failed)?;
    bytes.truncate(read);
    Ok(Answer::Data(bytes))
}

fn xattr(index: u8) -> &'static [u8] {
    XATTRS[usize::from(index) % XATTRS.len()]
}

/// One tree.
pub(super) struct At<'a> {
    pub(super) core: &'a FsCore,
    pub(super) view: ViewId,
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

    pub(super) fn find(&self, path: &Path) -> Result<Attr> {
        self.lookup(path)?.ok_or(Errno::NOENT)
    }

    fn with_open<T>(&self, path: &Path, mode: OpenMode, f: impl FnOnce(HandleId) -> Result<T>) -> Result<T> {
        let handle = self.core.open(self.view, self.find(path)?.ino, mode, Caller::ROOT).map_err(failed)?;
        let result = f(handle);
        self.core.release(handle).map_err(failed)?;
        result
    }

    pub(super) fn file_op(&self, op: &FileOp) -> Outcome {
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
            | FileOp::Copy { .. }
            | FileOp::Read { .. }
            | FileOp::Truncate(..)
            | FileOp::OpenTruncate(..)
            | FileOp::Punch(..)
            | FileOp::Allocate { .. } => self.content_op(op),
            FileOp::Chmod(..) | FileOp::SetTimes(..) | FileOp::SetXattr { .. } | FileOp::RemoveXattr(..) => {
                self.attribute_op(op)
            }
            FileOp::Fsync(path) => {
                self.with_open(path, OpenMode::Read, |handle| done(core.fsync(handle, false)))
            }
            FileOp::Readlink(path) => {
                let target = core.readlink(view, self.find(path)?.ino).map_err(failed)?;
                Ok(Answer::Data(target.to_vec()))
            }
            FileOp::Stat(path) => Ok(Answer::Stat(stat(&self.find(path)?))),
        }
    }

    fn create(&self, path: &Path, kind: FileKind, mode: u16) -> Outcome {
        let what = CreateMode { kind, mode, umask: 0, rdev: 0 };
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

    pub(super) fn truncate(&self, ino: InodeId, size: u32) -> Outcome {
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
            FileOp::Copy { from, from_at, to, to_at, len } => {
                self.with_open(from, OpenMode::Read, |source| {
                    self.with_open(to, OpenMode::Write, |target| {
                        if self.find(from)?.ino == self.find(to)?.ino {
                            return Err(Errno::INVAL);
                        }
                        let (from, to) = ((source, (*from_at).into()), (target, (*to_at).into()));
                        let copied =
                            core.copy_range(from, to, (*len).into(), Caller::ROOT).map_err(failed)?;
                        Ok(Answer::Count(copied as usize))
                    })
                })
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
