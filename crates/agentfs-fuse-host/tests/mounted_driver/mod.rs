//! The model's operations as system calls on a mount.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use agentfs_core::testing::{
    Answer, Bytes, Driver, Dump, Errno, FileOp, KeptOp, Node, Op, Outcome, Path, Place, SLOTS, Stat, TARGETS,
    VolumeOp, XATTRS, pattern, pick,
};
use agentfs_core::{FileKind, RenameMode, XattrMode};
use agentfs_proto::request::{BranchCreate, BranchDelete, BranchList, BranchSnapshot, SnapshotDelete};
use agentfs_proto::{Request, Response};
use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};

use super::support::{Volume, code};

type Result<T = Answer, E = Errno> = std::result::Result<T, E>;

/// Runs operations on a mounted volume.
pub struct MountedDriver<'a> {
    volume: &'a Volume,
    branches: Vec<String>,
    snapshots: Vec<String>,
    slots: [Option<OwnedFd>; SLOTS],
}

/// A name in an open directory.
struct At {
    dir: OwnedFd,
    name: &'static [u8],
}

fn directory(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(at, name, flags, Mode::empty())
}

impl At {
    fn find(root: &std::path::Path, path: &Path) -> Result<At> {
        let root = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let dir = path.above().try_fold(root, |dir, name| directory(&dir, name))?;
        Ok(At { dir, name: path.last() })
    }

    fn stat(&self) -> Result<fs::Stat> {
        fs::statat(&self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn kind(&self) -> Result<FileType> {
        Ok(FileType::from_raw_mode(self.stat()?.st_mode))
    }

    /// Opens a regular file; what would block or follow a link is looked at first.
    fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        match self.kind()? {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        fs::openat(&self.dir, self.name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// A path for calls that take no directory.
    fn path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))
            .join(std::ffi::OsStr::from_bytes(self.name))
    }

    fn with_xattrs(&self) -> Result<PathBuf> {
        match self.kind()? {
            FileType::RegularFile | FileType::Directory => Ok(self.path()),
            _ => Err(Errno::PERM),
        }
    }
}

fn mode(mode: u16) -> Mode {
    Mode::from_bits_retain(mode.into())
}

fn write(file: &OwnedFd, offset: u32, len: u16, fill: u8) -> Outcome {
    let bytes = pattern(fill, offset.into(), len.into());
    rustix::io::pwrite(file, &bytes, offset.into()).map(Answer::Count)
}

fn read(file: &OwnedFd, offset: u32, len: u16) -> Outcome {
    let mut bytes = vec![0; len.into()];
    let read = rustix::io::pread(file, &mut bytes[..], offset.into())?;
    bytes.truncate(read);
    Ok(Answer::Data(bytes))
}

fn kind_of(stat: &fs::Stat) -> FileKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        other => panic!("{other:?}"),
    }
}

fn shown(stat: &fs::Stat) -> Stat {
    let kind = kind_of(stat);
    let has_size = matches!(kind, FileKind::File | FileKind::Symlink);
    let size = if has_size { stat.st_size as u64 } else { 0 };
    Stat { kind, mode: (stat.st_mode & 0o7777) as u16, nlink: stat.st_nlink, size }
}

#[allow(clippy::too_many_lines, reason = "a flat match, one arm an operation")]
fn file_op(root: &std::path::Path, op: &FileOp) -> Outcome {
    let at = |path| At::find(root, path);
    match op {
        FileOp::CreateFile(path, bits) => {
            let (at, flags) = (at(path)?, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC);
            fs::openat(&at.dir, at.name, flags, mode(*bits)).map(|_| Answer::Done)
        }
        FileOp::Mkdir(path, bits) => {
            at(path).and_then(|at| fs::mkdirat(&at.dir, at.name, mode(*bits))).map(done)
        }
        FileOp::Mkfifo(path, bits) => {
            at(path).and_then(|at| fs::mknodat(&at.dir, at.name, FileType::Fifo, mode(*bits), 0)).map(done)
        }
        FileOp::Symlink(path, target) => {
            let target = TARGETS[usize::from(*target) % TARGETS.len()];
            at(path).and_then(|at| fs::symlinkat(target, &at.dir, at.name)).map(done)
        }
        FileOp::Link(old, new) => {
            let (old, new) = (at(old)?, at(new));
            old.stat()?;
            let new = new?;
            fs::linkat(&old.dir, old.name, &new.dir, new.name, AtFlags::empty()).map(done)
        }
        FileOp::Unlink(path) => {
            at(path).and_then(|at| fs::unlinkat(&at.dir, at.name, AtFlags::empty())).map(done)
        }
        FileOp::Rmdir(path) => {
            at(path).and_then(|at| fs::unlinkat(&at.dir, at.name, AtFlags::REMOVEDIR)).map(done)
        }
        FileOp::Rename(old, new, how) => {
            let (old, new) = (at(old)?, at(new)?);
            let flags = match how {
                RenameMode::Replace => RenameFlags::empty(),
                RenameMode::NoReplace => RenameFlags::NOREPLACE,
                RenameMode::Exchange => RenameFlags::EXCHANGE,
                RenameMode::Whiteout { replace: true, .. } => RenameFlags::WHITEOUT,
                RenameMode::Whiteout { replace: false, .. } => RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
            };
            fs::renameat_with(&old.dir, old.name, &new.dir, new.name, flags).map(done)
        }
        FileOp::Write { path, offset, len, fill } => {
            write(&at(path)?.open(OFlags::WRONLY)?, *offset, *len, *fill)
        }
        FileOp::Copy { from, from_at, to, to_at, len } => {
            let (from, to) = (at(from)?.open(OFlags::RDONLY)?, at(to)?.open(OFlags::WRONLY)?);
            if fs::fstat(&from)?.st_ino == fs::fstat(&to)?.st_ino {
                return Err(Errno::INVAL);
            }
            let (mut from_at, mut to_at) = (u64::from(*from_at), u64::from(*to_at));
            let len = usize::try_from(*len).unwrap();
            fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), len).map(Answer::Count)
        }
        FileOp::Read { path, offset, len } => read(&at(path)?.open(OFlags::RDONLY)?, *offset, *len),
        FileOp::Truncate(path, size) => {
            fs::ftruncate(at(path)?.open(OFlags::WRONLY)?, (*size).into()).map(done)
        }
        FileOp::OpenTruncate(path, len, fill) => {
            let file = at(path)?.open(OFlags::WRONLY | OFlags::TRUNC)?;
            if *len == 0 { Ok(Answer::Count(0)) } else { write(&file, 0, *len, *fill) }
        }
        FileOp::Punch(path, offset, len) => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fs::fallocate(at(path)?.open(OFlags::WRONLY)?, flags, (*offset).into(), (*len).into()).map(done)
        }
        FileOp::Allocate { path, offset, len, keep_size } => {
            let flags = if *keep_size { FallocateFlags::KEEP_SIZE } else { FallocateFlags::empty() };
            fs::fallocate(at(path)?.open(OFlags::WRONLY)?, flags, (*offset).into(), (*len).into()).map(done)
        }
        FileOp::Chmod(path, bits) => {
            let at = at(path)?;
            if at.kind()? == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            fs::chmodat(&at.dir, at.name, mode(*bits), AtFlags::empty()).map(done)
        }
        FileOp::SetTimes(path, secs, nanos) => {
            let keep = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT };
            let last_modification = Timespec { tv_sec: *secs, tv_nsec: (*nanos).into() };
            let times = Timestamps { last_access: keep, last_modification };
            at(path)
                .and_then(|at| fs::utimensat(&at.dir, at.name, &times, AtFlags::SYMLINK_NOFOLLOW))
                .map(done)
        }
        FileOp::SetXattr { path, name, len, fill, mode } => {
            let flags = match mode {
                XattrMode::Any => XattrFlags::empty(),
                XattrMode::Create => XattrFlags::CREATE,
                XattrMode::Replace => XattrFlags::REPLACE,
            };
            let at = at(path)?;
            let value = vec![*fill; (*len).into()];
            fs::lsetxattr(at.with_xattrs()?, XATTRS[usize::from(*name) % XATTRS.len()], &value, flags)
                .map(done)
        }
        FileOp::RemoveXattr(path, name) => {
            let at = at(path)?;
            fs::lremovexattr(at.with_xattrs()?, XATTRS[usize::from(*name) % XATTRS.len()]).map(done)
        }
        FileOp::Fsync(path) => fs::fsync(at(path)?.open(OFlags::RDONLY)?).map(done),
        FileOp::Readlink(path) => {
            let target = at(path).and_then(|at| fs::readlinkat(&at.dir, at.name, Vec::new()))?;
            Ok(Answer::Data(target.into_bytes()))
        }
        FileOp::Stat(path) => Ok(Answer::Stat(shown(&at(path)?.stat()?))),
    }
}

fn done(_: ()) -> Answer {
    Answer::Done
}

impl<'a> MountedDriver<'a> {
    pub fn new(volume: &'a Volume) -> MountedDriver<'a> {
        let Response::BranchList(page) = volume.ask(BranchList { after: None }) else { panic!("no list") };
        let branches = page.entries.into_iter().map(|entry| String::from_utf8(entry.id).unwrap()).collect();
        MountedDriver { volume, branches, snapshots: Vec::new(), slots: Default::default() }
    }

    fn root(&self, place: Place) -> Result<PathBuf> {
        match place {
            Place::Branch(index) => {
                let at = pick(index, self.branches.len()).ok_or(Errno::NOENT)?;
                Ok(if at == 0 { self.volume.root() } else { self.volume.branch(&self.branches[at]) })
            }
            Place::Snapshot(index) => {
                let at = pick(index, self.snapshots.len()).ok_or(Errno::NOENT)?;
                Ok(self.volume.snapshot(&self.snapshots[at]))
            }
        }
    }

    fn kept_op(&mut self, slot: u8, op: &KeptOp) -> Outcome {
        let slot = usize::from(slot) % SLOTS;
        if let KeptOp::Open(place, path) = op {
            self.slots[slot] = None;
            let flags = if matches!(place, Place::Snapshot(_)) { OFlags::RDONLY } else { OFlags::RDWR };
            self.slots[slot] = Some(At::find(&self.root(*place)?, path)?.open(flags)?);
            return Ok(Answer::Done);
        }
        let file = self.slots[slot].as_ref().ok_or(Errno::BADF)?;
        match op {
            KeptOp::Write(offset, len, fill) => write(file, *offset, *len, *fill),
            KeptOp::Read(offset, len) => read(file, *offset, *len),
            KeptOp::Truncate(size) => fs::ftruncate(file, (*size).into()).map(done),
            KeptOp::Stat => Ok(Answer::Stat(shown(&fs::fstat(file)?))),
            KeptOp::Open(..) | KeptOp::Close => {
                self.slots[slot] = None;
                Ok(Answer::Done)
            }
        }
    }

    /// The kernel tells of a closed file after `close` has returned.
    fn wait_for_closes(&self) {
        let kept = self.slots.iter().flatten().count() as u32;
        for _ in 0..2000 {
            match self.volume.ask(Request::Status) {
                Response::Status(status) if status.open_handles > kept => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                _ => return,
            }
        }
        panic!("closed files stay open in the daemon");
    }

    fn volume_op(&mut self, op: &VolumeOp) -> Outcome {
        match op {
            VolumeOp::Snapshot(branch) => {
                let at = pick(*branch, self.branches.len()).ok_or(Errno::NOENT)?;
                let branch = self.branches[at].clone().into_bytes();
                match self.volume.ask(BranchSnapshot { branch, name: None }) {
                    Response::BranchSnapshot(taken) => {
                        self.snapshots.push(String::from_utf8(taken.snapshot.id).unwrap());
                    }
                    refused => return Err(Errno::from_raw_os_error(code(&refused))),
                }
            }
            VolumeOp::Branch(from) => {
                let from = match from {
                    Place::Branch(index) => pick(*index, self.branches.len()).map(|at| &self.branches[at]),
                    Place::Snapshot(index) => {
                        pick(*index, self.snapshots.len()).map(|at| &self.snapshots[at])
                    }
                };
                let from = from.ok_or(Errno::NOENT)?.clone().into_bytes();
                match self.volume.ask(BranchCreate { from, name: None }) {
                    Response::BranchCreate(made) => {
                        self.branches.push(String::from_utf8(made.branch.id).unwrap())
                    }
                    refused => return Err(Errno::from_raw_os_error(code(&refused))),
                }
            }
            VolumeOp::DeleteBranch(branch, force) => {
                let at = pick(*branch, self.branches.len()).ok_or(Errno::NOENT)?;
                self.wait_for_closes();
                let branch = self.branches[at].clone().into_bytes();
                match self.volume.ask(BranchDelete { branch, force: *force }) {
                    Response::BranchDelete(_) => drop(self.branches.remove(at)),
                    refused => return Err(Errno::from_raw_os_error(code(&refused))),
                }
            }
            VolumeOp::DeleteSnapshot(snapshot) => {
                let at = pick(*snapshot, self.snapshots.len()).ok_or(Errno::NOENT)?;
                self.wait_for_closes();
                match self.volume.ask(SnapshotDelete { snapshot: self.snapshots[at].clone().into_bytes() }) {
                    Response::SnapshotDelete(_) => drop(self.snapshots.remove(at)),
                    refused => return Err(Errno::from_raw_os_error(code(&refused))),
                }
            }
        }
        Ok(Answer::Done)
    }
}

/// Reads a tree into `dump`, `path` being the place of `dir` in it.
fn walk(dir: &OwnedFd, path: &[u8], dump: &mut Dump) {
    for entry in fs::Dir::read_from(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let below = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
        let name: &'static [u8] = Box::leak(name.to_vec().into_boxed_slice());
        let at = At { dir: rustix::io::dup(dir).unwrap(), name };
        let node = node(&at);
        assert_eq!(entry.ino() & ((1 << 33) - 1), node.ino, "d_ino of {below:?}");
        let is_directory = node.stat.kind == FileKind::Directory;
        dump.insert(below.clone(), node);
        if is_directory {
            walk(&directory(dir, name).unwrap(), &below, dump);
        }
    }
}

fn node(at: &At) -> Node {
    let stat = at.stat().unwrap();
    let bytes = match kind_of(&stat) {
        FileKind::File => {
            let file = at.open(OFlags::RDONLY).unwrap();
            let mut bytes = vec![0; stat.st_size as usize + 1];
            let read = rustix::io::pread(&file, &mut bytes[..], 0).unwrap();
            bytes.truncate(read);
            bytes
        }
        FileKind::Symlink => fs::readlinkat(&at.dir, at.name, Vec::new()).unwrap().into_bytes(),
        _ => Vec::new(),
    };
    node_of(&stat, bytes, &at.path())
}

fn node_of(stat: &fs::Stat, bytes: Vec<u8>, path: &std::path::Path) -> Node {
    let mut names = vec![0; 4096];
    let len = fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|b| *b == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let len = fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(len);
        Bytes(value)
    };
    let xattrs: BTreeMap<Vec<u8>, Bytes> = names.map(|name| (name.to_vec(), value(name))).collect();
    let mtime = Some((stat.st_mtime, stat.st_mtime_nsec as u32));
    Node { stat: shown(stat), ino: stat.st_ino & ((1 << 33) - 1), bytes: Bytes(bytes), xattrs, mtime }
}

fn dump(root: &std::path::Path) -> Dump {
    let dir = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let stat = fs::fstat(&dir).unwrap();
    let mut dump = Dump::from([(Vec::new(), node_of(&stat, Vec::new(), root))]);
    walk(&dir, b"", &mut dump);
    dump
}

impl Driver for MountedDriver<'_> {
    fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::File(place, op) => file_op(&self.root(*place)?, op),
            Op::Kept(slot, op) => self.kept_op(*slot, op),
            Op::Volume(op) => self.volume_op(op),
        }
    }

    fn branches(&self) -> usize {
        self.branches.len()
    }

    fn snapshots(&self) -> usize {
        self.snapshots.len()
    }

    fn dump_branch(&mut self, index: usize) -> Dump {
        dump(&self.root(Place::Branch(index as u8)).unwrap())
    }

    fn dump_snapshot(&mut self, index: usize) -> Dump {
        dump(&self.root(Place::Snapshot(index as u8)).unwrap())
    }

    fn close(&mut self) {
        self.slots = Default::default();
    }
}
