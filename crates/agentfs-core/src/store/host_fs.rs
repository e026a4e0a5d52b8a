//! The HostFs backstore: a directory on the host, an object a file, in 256 folders by its lowest byte.
//! The log lies beside them. One daemon at a time, kept out by a lock file that the kernel releases when its holder dies.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{Device, FileId, FileStat, ObjectFile, Seek, Space};
use crate::types::{ObjectId, Timestamp};

/// The first line of `STORE/format`.
const FORMAT: &str = "agentfs-store 1\n";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);
const OBJECT: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why a directory cannot serve as a store. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon has it.
    #[error("the store {0} is in use by another daemon; unmount that volume first, or name another store")]
    InUse(PathBuf),
    /// It holds other things.
    #[error(
        "{0} is not empty and is not an AgentFS store; name an empty directory or one that does not exist"
    )]
    NotAStore(PathBuf),
    /// Made by a version that this one does not know.
    #[error("the store {0} has the format {1:?}, which this version does not know; nothing was changed")]
    UnknownFormat(PathBuf, String),
    /// The host refused.
    #[error("the store {0} cannot be opened: {1}")]
    Io(PathBuf, io::Error),
}

/// A locked store directory.
pub struct HostFs {
    root: OwnedFd,
    objects: OwnedFd,
    reflinks: bool,
    _lock: OwnedFd,
}

impl HostFs {
    /// Opens or makes the store in `root` and locks it. `prefer_reflinks`: copy by sharing blocks where the host can.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(root: &Path, prefer_reflinks: bool) -> Result<HostFs, StoreError> {
        let io_error = |e: io::Error| StoreError::Io(root.to_owned(), e);
        make_directories(root).map_err(io_error)?;
        refuse_strangers(root)?;
        let lock = lock(root)?;
        check_format(root)?;
        let objects = open_objects(root).map_err(io_error)?;
        let reflinks = prefer_reflinks && probe_reflink(&objects).unwrap_or(false); // a full disk, say
        let root = fs::open(root, DIRECTORY, Mode::empty()).map_err(|e| io_error(e.into()))?;
        Ok(HostFs { root, objects, reflinks, _lock: lock })
    }
}

/// Makes `root` and what is missing above it, open to its owner alone.
fn make_directories(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)
}

fn refuse_strangers(root: &Path) -> Result<(), StoreError> {
    let io_error = |e| StoreError::Io(root.to_owned(), e);
    if root.join("format").exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(root).map_err(io_error)? {
        if entry.map_err(io_error)?.file_name() != "lock" {
            return Err(StoreError::NotAStore(root.to_owned()));
        }
    }
    Ok(())
}

fn lock(root: &Path) -> Result<OwnedFd, StoreError> {
    let io_error = |e: Errno| StoreError::Io(root.to_owned(), e.into());
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::open(root.join("lock"), flags, PRIVATE).map_err(io_error)?;
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(StoreError::InUse(root.to_owned())),
        Err(e) => Err(io_error(e)),
    }
}

fn check_format(root: &Path) -> Result<(), StoreError> {
    let path = root.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) if text == FORMAT => Ok(()),
        Ok(text) => Err(StoreError::UnknownFormat(root.to_owned(), text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::write(&path, FORMAT).map_err(|e| StoreError::Io(root.to_owned(), e))
        }
        Err(e) => Err(StoreError::Io(root.to_owned(), e)),
    }
}

/// The folder of objects, with its folders.
fn open_objects(root: &Path) -> io::Result<OwnedFd> {
    let path = root.join("objects");
    make_directories(&path)?;
    let dir = fs::open(&path, DIRECTORY, Mode::empty())?;
    for folder in 0..256 {
        match fs::mkdirat(&dir, format!("{folder:02x}"), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    fs::fsync(&dir)?;
    Ok(dir)
}

/// Tries a reflink between two unnamed files.
fn probe_reflink(objects: &OwnedFd) -> io::Result<bool> {
    let (from, to) = (scratch(objects, "probe-from")?, scratch(objects, "probe-to")?);
    rustix::io::pwrite(&from, &[1; 4096], 0)?;
    Ok(fs::ioctl_ficlone(&to, &from).is_ok())
}

/// A file that is gone when closed.
fn scratch(objects: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let file = fs::openat(objects, name, OBJECT | OFlags::CREATE, PRIVATE)?;
    fs::unlinkat(objects, name, AtFlags::empty())?;
    Ok(file)
}

fn path_of(id: ObjectId) -> String {
    format!("{:02x}/{:016x}", id.0 & 0xff, id.0)
}

/// The names in a directory, but for `.` and `..`.
fn names(dir: impl AsFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16)
}

impl HostFs {
    /// Where a file lies.
    fn place(&self, id: FileId) -> (&OwnedFd, String) {
        match id {
            FileId::Object(id) => (&self.objects, path_of(id)),
            FileId::Log(number) => (&self.root, format!("log-{number:016x}")),
            FileId::Draft(number) => (&self.root, format!("draft-{number:016x}")),
            FileId::Lost(number, at) => (&self.root, format!("lost-{number:016x}-{at:016x}")),
        }
    }
}

impl Device for HostFs {
    fn create(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        let (dir, path) = self.place(id);
        let file = fs::openat(dir, path, OBJECT | OFlags::CREATE | OFlags::EXCL, PRIVATE)?;
        Ok(Arc::new(HostFile(file)))
    }

    fn open(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        let (dir, path) = self.place(id);
        Ok(Arc::new(HostFile(fs::openat(dir, path, OBJECT, Mode::empty())?)))
    }

    fn duplicate(&self, from: ObjectId, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>> {
        let source = fs::openat(&self.objects, path_of(from), OBJECT, Mode::empty())?;
        let file = fs::openat(&self.objects, path_of(to), OBJECT | OFlags::CREATE | OFlags::EXCL, PRIVATE)?;
        match self.copy(&source, &file, len) {
            Ok(()) => Ok(Arc::new(HostFile(file))),
            Err(e) => {
                fs::unlinkat(&self.objects, path_of(to), AtFlags::empty())?;
                Err(e)
            }
        }
    }

    fn remove(&self, id: FileId) -> io::Result<u64> {
        let (dir, path) = self.place(id);
        let held = fs::statat(dir, &path, AtFlags::SYMLINK_NOFOLLOW)?.st_blocks;
        fs::unlinkat(dir, &path, AtFlags::empty())?;
        Ok(u64::try_from(held).unwrap_or(0) * 512)
    }

    fn logs(&self) -> io::Result<Vec<u64>> {
        let number = |name: &String| name.strip_prefix("log-").and_then(hexadecimal);
        let mut logs: Vec<u64> = names(&self.root)?.iter().filter_map(number).collect();
        logs.sort_unstable();
        Ok(logs)
    }

    fn objects(&self) -> io::Result<Vec<ObjectId>> {
        let mut objects = Vec::new();
        for folder in 0..256 {
            let folder = fs::openat(&self.objects, format!("{folder:02x}"), DIRECTORY, Mode::empty())?;
            objects.extend(names(&folder)?.iter().filter_map(|name| hexadecimal(name)).map(ObjectId));
        }
        Ok(objects)
    }

    fn has_lost(&self) -> io::Result<bool> {
        Ok(names(&self.root)?.iter().any(|name| name.starts_with("lost-")))
    }

    fn publish(&self, piece: u64) -> io::Result<()> {
        let ((dir, draft), (_, log)) = (self.place(FileId::Draft(piece)), self.place(FileId::Log(piece)));
        fs::renameat(dir, draft, dir, log)?;
        self.sync_names()
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.root)?)
    }

    fn space(&self) -> io::Result<Space> {
        let host = fs::fstatvfs(&self.objects)?;
        Ok(Space {
            block_size: u32::try_from(host.f_frsize).unwrap_or(4096),
            blocks: host.f_blocks,
            free: host.f_bfree,
            available: host.f_bavail,
            files: host.f_files,
            files_free: host.f_ffree,
        })
    }

    fn reflinks(&self) -> bool {
        self.reflinks
    }
}

impl HostFs {
    fn copy(&self, from: &OwnedFd, to: &OwnedFd, len: u64) -> io::Result<()> {
        if self.reflinks && fs::ioctl_ficlone(to, from).is_ok() {
            return Ok(fs::ftruncate(to, len)?);
        }
        fs::ftruncate(to, len)?;
        let mut at = 0;
        while let Some(data) = seek(from, SeekFrom::Data(at))?.filter(|data| *data < len) {
            let hole = seek(from, SeekFrom::Hole(data))?.unwrap_or(len).min(len);
            copy_range(from, to, data, hole)?;
            at = hole;
        }
        Ok(())
    }
}

/// Copies `[start, end)` inside the kernel; stops early only where the source ends.
fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> io::Result<()> {
    let (mut source, mut target) = (start, start);
    while source < end {
        let want = usize::try_from(end - source).unwrap_or(usize::MAX);
        if fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), want)? == 0 {
            break;
        }
    }
    Ok(())
}

fn seek(file: impl AsFd, whence: SeekFrom) -> io::Result<Option<u64>> {
    match fs::seek(file, whence) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

struct HostFile(OwnedFd);

impl ObjectFile for HostFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&self.0, rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pwrite(&self.0, rest, offset + done as u64) {
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(fs::ftruncate(&self.0, len)?)
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        Ok(fs::fallocate(&self.0, mode, offset, len)?)
    }

    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        match what {
            Seek::Data => seek(&self.0, SeekFrom::Data(offset)),
            Seek::Hole => seek(&self.0, SeekFrom::Hole(offset)),
        }
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        Ok(if data_only { fs::fdatasync(&self.0) } else { fs::fsync(&self.0) }?)
    }

    fn stat(&self) -> io::Result<FileStat> {
        let stat = fs::fstat(&self.0)?;
        let positive = |n: i64| u64::try_from(n).unwrap_or(0);
        let modified =
            Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) };
        Ok(FileStat { len: positive(stat.st_size), blocks: positive(stat.st_blocks), modified })
    }
}
