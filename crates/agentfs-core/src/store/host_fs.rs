//! The HostFs backstore: a directory on the host, an object a file, in 256 folders by its lowest byte; packs and the log
//! beside them. One daemon at a time, kept out by a lock file that the kernel releases when its holder dies.

use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::copy::copy_all;
use super::device::COARSE_TICK;
use super::host_file::HostFile;
use super::probe::{has_fine_times, probe_reflink};
use super::{Device, FileId, Folder, ObjectFile, Space};
use crate::types::{ObjectId, PackId};

/// The first line of `STORE/format`.
const FORMAT: &str = "agentfs-store 6\n";
/// Earlier formats, each a part of the present one: such a store is read as it is, and of this format from then on.
const EARLIER: [&str; 5] =
    ["agentfs-store 1\n", "agentfs-store 2\n", "agentfs-store 3\n", "agentfs-store 4\n", "agentfs-store 5\n"];
/// The format's line on its way into place.
const FORMAT_DRAFT: &str = "format.new";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);
pub(super) const OBJECT: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
pub(super) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

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
    /// There is none.
    #[error("{0} is not an AgentFS store: it has no file \"format\"")]
    Missing(PathBuf),
    /// The host refused.
    #[error("the store {0} cannot be opened: {1}")]
    Io(PathBuf, io::Error),
}

/// A locked store directory.
pub struct HostFs {
    dirs: Arc<Directories>,
    reflinks: bool,
    tick: Duration,
    _lock: OwnedFd,
}

pub(super) struct Directories {
    root: OwnedFd,
    objects: OwnedFd,
    packs: OwnedFd,
    /// Objects and packs whose names may not be durable yet.
    new_names: Mutex<HashSet<FileId>>,
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
        // A store of another kind is not even locked.
        if let Err(error @ StoreError::UnknownFormat(..)) = known_format(root) {
            return Err(error);
        }
        let lock = lock(root)?;
        check_format(root)?;
        make_folders(root).map_err(io_error)?;
        let mut store = HostFs::of(root, lock).map_err(io_error)?;
        let is_fine = has_fine_times(&store.dirs.objects).unwrap_or(false);
        store.tick = if is_fine { Duration::ZERO } else { COARSE_TICK };
        store.reflinks = prefer_reflinks && probe_reflink(&store.dirs.objects).unwrap_or(false); // a full disk, say
        Ok(store)
    }

    /// Opens a store that exists and locks it, to look at it: nothing is made or changed by that.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn inspect(root: &Path) -> Result<HostFs, StoreError> {
        known_format(root)?;
        let lock = lock(root)?;
        HostFs::of(root, lock).map_err(|e| StoreError::Io(root.to_owned(), e))
    }

    fn of(root: &Path, lock: OwnedFd) -> io::Result<HostFs> {
        let directory = |path: &Path| fs::open(path, DIRECTORY, Mode::empty());
        let objects = directory(&root.join("objects"))?;
        // A store of format 1 that is only looked at has no packs: none are found among the log's files.
        let packs = directory(&root.join("packs")).or_else(|_| directory(root))?;
        let (root, new_names) = (directory(root)?, Mutex::default());
        let dirs = Arc::new(Directories { root, objects, packs, new_names });
        Ok(HostFs { dirs, reflinks: false, tick: COARSE_TICK, _lock: lock })
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
        let name = entry.map_err(io_error)?.file_name();
        if name != "lock" && name != FORMAT_DRAFT {
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

/// The store's format line, if this version can read it.
fn known_format(root: &Path) -> Result<String, StoreError> {
    match std::fs::read_to_string(root.join("format")) {
        Ok(text) if text == FORMAT || EARLIER.contains(&text.as_str()) => Ok(text),
        Ok(text) => Err(StoreError::UnknownFormat(root.to_owned(), text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing(root.to_owned())),
        Err(e) => Err(StoreError::Io(root.to_owned(), e)),
    }
}

/// Sees to it that the store says the present format.
fn check_format(root: &Path) -> Result<(), StoreError> {
    match known_format(root) {
        Ok(text) if text == FORMAT => Ok(()),
        Ok(_) | Err(StoreError::Missing(_)) => {
            write_format(root).map_err(|e| StoreError::Io(root.to_owned(), e))
        }
        Err(other) => Err(other),
    }
}

/// Writes the format's line, whole or not at all.
fn write_format(root: &Path) -> io::Result<()> {
    let draft = root.join(FORMAT_DRAFT);
    let mut options = std::fs::File::options();
    let mut file =
        options.write(true).create(true).truncate(true).mode(PRIVATE.as_raw_mode()).open(&draft)?;
    file.write_all(FORMAT.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, root.join("format"))?;
    std::fs::File::open(root)?.sync_all()
}

/// The folders of objects and of packs.
fn make_folders(root: &Path) -> io::Result<()> {
    let objects = root.join("objects");
    make_directories(&objects)?;
    make_directories(&root.join("packs"))?;
    let dir = fs::open(&objects, DIRECTORY, Mode::empty())?;
    for folder in 0..256 {
        match fs::mkdirat(&dir, format!("{folder:02x}"), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    fs::fsync(&dir)?;
    Ok(fs::fsync(fs::open(root, DIRECTORY, Mode::empty())?)?)
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

/// What a file among the log's files is.
fn log_file(name: &str) -> Option<FileId> {
    let number = |prefix| name.strip_prefix(prefix).and_then(hexadecimal);
    let lost = || {
        let (piece, at) = name.strip_prefix("lost-")?.split_once('-')?;
        Some(FileId::Lost(hexadecimal(piece)?, hexadecimal(at)?))
    };
    number("log-").map(FileId::Log).or_else(|| number("draft-").map(FileId::Draft)).or_else(lost)
}

impl Directories {
    /// Where a file lies.
    pub(super) fn place(&self, id: FileId) -> (&OwnedFd, String) {
        match id {
            FileId::Object(id) => (&self.objects, path_of(id)),
            FileId::Pack(id) => (&self.packs, format!("pack-{:016x}", id.0)),
            FileId::Log(number) => (&self.root, format!("log-{number:016x}")),
            FileId::Doubt => (&self.root, "doubt".to_owned()),
            FileId::Scratch => (&self.root, "scratch".to_owned()),
            FileId::Draft(number) => (&self.root, format!("draft-{number:016x}")),
            FileId::Lost(number, at) => (&self.root, format!("lost-{number:016x}-{at:016x}")),
        }
    }

    /// Makes the name of an object or pack durable, unless it is known to be.
    pub(super) fn sync_name(&self, id: FileId) -> io::Result<()> {
        if !self.new_names.lock().contains(&id) {
            return Ok(());
        }
        match id {
            FileId::Object(id) => fs::fsync(folder_of(&self.objects, id.0 & 0xff)?)?,
            _ => fs::fsync(&self.packs)?,
        }
        self.new_names.lock().remove(&id);
        Ok(())
    }
}

fn folder_of(objects: &OwnedFd, number: u64) -> io::Result<OwnedFd> {
    Ok(fs::openat(objects, format!("{number:02x}"), DIRECTORY, Mode::empty())?)
}

impl HostFs {
    fn opened(&self, id: FileId, fd: OwnedFd) -> Arc<dyn ObjectFile> {
        Arc::new(HostFile::new(fd, id, self.dirs.clone()))
    }

    /// A file that is new.
    fn made(&self, id: FileId, fd: OwnedFd) -> Arc<dyn ObjectFile> {
        if id.folder() != Folder::Log {
            self.dirs.new_names.lock().insert(id);
        }
        self.opened(id, fd)
    }

    fn list_objects(&self) -> io::Result<Vec<FileId>> {
        let mut objects = Vec::new();
        for number in 0..256 {
            let found = names(folder_of(&self.dirs.objects, number)?)?;
            let ids = found.iter().filter_map(|name| hexadecimal(name));
            objects.extend(ids.map(|id| FileId::Object(ObjectId(id))));
        }
        Ok(objects)
    }
}

impl Device for HostFs {
    fn create(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        let (dir, path) = self.dirs.place(id);
        Ok(self.made(id, fs::openat(dir, path, OBJECT | OFlags::CREATE | OFlags::EXCL, PRIVATE)?))
    }

    fn open(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        Ok(Arc::new(HostFile::open(id, self.dirs.clone())?))
    }

    fn duplicate(&self, from: ObjectId, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>> {
        let source = self.open(FileId::Object(from))?;
        self.import(&*source, to, len)
    }

    fn import(&self, from: &dyn ObjectFile, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>> {
        let (objects, id) = (&self.dirs.objects, FileId::Object(to));
        let flags = OBJECT | OFlags::CREATE | OFlags::EXCL;
        let file = self.opened(id, fs::openat(objects, path_of(to), flags, PRIVATE)?);
        match self.fill(from, &*file, len) {
            Ok(()) => {
                self.dirs.new_names.lock().insert(id);
                Ok(file)
            }
            Err(e) => {
                fs::unlinkat(objects, path_of(to), AtFlags::empty())?;
                Err(e)
            }
        }
    }

    fn exchange(&self, a: ObjectId, b: ObjectId) -> io::Result<()> {
        let objects = &self.dirs.objects;
        fs::renameat_with(objects, path_of(a), objects, path_of(b), RenameFlags::EXCHANGE)?;
        let sync = || [a, b].into_iter().try_for_each(|id| Ok(fs::fsync(folder_of(objects, id.0 & 0xff)?)?));
        sync().inspect_err(|_| {
            // Nobody has relied on it yet.
            let _ = fs::renameat_with(objects, path_of(a), objects, path_of(b), RenameFlags::EXCHANGE);
        })
    }

    fn remove(&self, id: FileId) -> io::Result<u64> {
        let (dir, path) = self.dirs.place(id);
        let held = fs::statat(dir, &path, AtFlags::SYMLINK_NOFOLLOW)?.st_blocks;
        fs::unlinkat(dir, &path, AtFlags::empty())?;
        self.dirs.new_names.lock().remove(&id);
        Ok(u64::try_from(held).unwrap_or(0) * 512)
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<FileId>> {
        match folder {
            Folder::Log => Ok(names(&self.dirs.root)?.iter().filter_map(|name| log_file(name)).collect()),
            Folder::Packs => {
                let pack = |name: &String| name.strip_prefix("pack-").and_then(hexadecimal);
                Ok(names(&self.dirs.packs)?
                    .iter()
                    .filter_map(pack)
                    .map(|id| FileId::Pack(PackId(id)))
                    .collect())
            }
            Folder::Objects => self.list_objects(),
        }
    }

    fn publish(&self, piece: u64) -> io::Result<()> {
        let ((dir, draft), (_, log)) =
            (self.dirs.place(FileId::Draft(piece)), self.dirs.place(FileId::Log(piece)));
        fs::renameat(dir, draft, dir, log)?;
        self.sync_names()
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.dirs.root)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        // What it made durable by name stays noted as new: names are then synced once more than need be.
        Ok(fs::syncfs(&self.dirs.root)?)
    }

    fn space(&self) -> io::Result<Space> {
        let host = fs::fstatvfs(&self.dirs.objects)?;
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

    fn tick(&self) -> Duration {
        self.tick
    }
}

impl HostFs {
    /// Makes an empty file the first `len` bytes of another, sharing blocks where that may be; what that lacks is a hole.
    fn fill(&self, from: &dyn ObjectFile, to: &dyn ObjectFile, len: u64) -> io::Result<()> {
        let is_cloned = match (from.descriptor(), to.descriptor()) {
            (Some(from), Some(to)) => self.reflinks && fs::ioctl_ficlone(to, from).is_ok(),
            _ => false,
        };
        if !is_cloned {
            copy_all(from, to, len)?;
        }
        to.set_len(len)
    }
}
