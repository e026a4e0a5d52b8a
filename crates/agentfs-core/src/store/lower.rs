//! A directory of the host that a volume lies over. It is only read, and never left: neither by symbolic links, `..` and
//! renames under way, nor by what is mounted in it. Paths are relative to it, without leading or doubled slashes; the empty
//! one is the directory itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::host_file::{self, seek};
use super::{FallocateFlags, FileStat, ObjectFile, Seek};
use crate::types::{FileKind, Name, Timestamp};

/// Bytes of a path that the kernel takes at once, with room to spare.
const AT_ONCE: usize = 4000;
/// Most bytes of an extended attribute, or of all names of them.
const MOST_XATTR: usize = 64 << 10;
/// A link's target is no longer than a path (`PATH_MAX`).
const MOST_TARGET: usize = 4096;

const FLAGS: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW);
const READ: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What the host says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowerStat {
    /// By these two it is told from all others that the host has, or had under the same number.
    pub identity: Identity,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names, wherever they are.
    pub nlink: u32,
    /// Device number, as FUSE has it.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Space, in units of 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
}

/// Which file of the host it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its inode number.
    pub ino: u64,
    /// When it was made, where the host tells.
    pub born: Timestamp,
}

/// A name in a directory, with the host's inode number and what it leads to.
pub type Listed = (Name, u64, FileKind);

/// An extended attribute: its name and its value.
pub type Xattr = (Box<[u8]>, Arc<[u8]>);

/// The directory.
pub struct LowerTree {
    root: OwnedFd,
    /// Where it was when it was taken.
    path: PathBuf,
    /// What is not shown: devices and inode numbers.
    hidden: Vec<(u32, u32, u64)>,
    /// Names in the root that are not shown: the volume has its own there.
    claimed: Vec<Name>,
    /// That of the directory itself.
    device: Option<(u32, u32)>,
}

/// A clone of the mount that a directory is in, from there on, of which nothing is mounted anywhere. It takes a privilege.
fn clone_of(directory: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(directory, c"", clone | OpenTreeFlags::AT_EMPTY_PATH)
}

/// The directory that lies at a path below all that is mounted there.
fn beneath_mounts(path: &Path) -> rustix::io::Result<OwnedFd> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::NOTCONN) };
    let above = clone_of(&fs::open(parent, DIRECTORY, Mode::empty())?)?;
    fs::openat(&above, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

impl LowerTree {
    /// Takes a directory as it is mounted now. What is mounted over it or in it later, or was mounted in it before, does not
    /// count. The directories `hidden` are not shown, nor what has one of the `claimed` names in the root. Where the mount of a daemon that died lies over it, it is what lies at this
    /// path below all mounts.
    ///
    /// # Errors
    /// What the host answers; `NotADirectory`.
    pub fn open(path: &Path, hidden: &[&Path], claimed: &[&str]) -> io::Result<LowerTree> {
        let key = |at: BorrowedFd<'_>, path: &Path| {
            let statx = fs::statx(at, path, AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
            Ok::<_, Errno>((statx.stx_dev_major, statx.stx_dev_minor, statx.stx_ino))
        };
        let mut plain = fs::open(path, DIRECTORY, Mode::empty())?;
        // The mount of a volume over it whose daemon died can be opened so, and no more.
        if matches!(key(plain.as_fd(), Path::new("")), Err(Errno::NOTCONN | Errno::CONNABORTED)) {
            plain = beneath_mounts(path)?;
        }
        let root = clone_of(&plain).unwrap_or(plain);
        let device = key(root.as_fd(), Path::new("")).map(|(major, minor, _)| (major, minor)).ok();
        let hidden = hidden.iter().filter_map(|path| key(fs::CWD, path).ok()).collect();
        let claimed = claimed.iter().filter_map(|name| Name::new(name.as_bytes()).ok()).collect();
        let tree = LowerTree { root, path: path.to_owned(), hidden, claimed, device };
        // Old kernels cannot be told to stay within.
        tree.find(b"")?.ok_or(io::ErrorKind::NotADirectory)?;
        Ok(tree)
    }

    /// Where it was when it was taken.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself, as a descriptor of this process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What is at a path; `None` when there is nothing, or only what is mounted there, or the store.
    ///
    /// # Errors
    /// What the host answers.
    pub fn find(&self, path: &[u8]) -> io::Result<Option<LowerStat>> {
        let Some(file) = self.reach(path, OFlags::PATH)? else { return Ok(None) };
        self.stat(&file)
    }

    /// The names in a directory; `None` when there is none at this path.
    ///
    /// # Errors
    /// What the host answers.
    pub fn list(&self, path: &[u8]) -> io::Result<Option<Vec<Listed>>> {
        let Some(directory) = self.reach(path, OFlags::RDONLY | OFlags::DIRECTORY)? else { return Ok(None) };
        let mut listed = Vec::new();
        for entry in fs::Dir::read_from(&directory)? {
            let entry = entry?;
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            if path.is_empty() && self.claimed.contains(&name) {
                continue;
            }
            let kind = match kind_of(entry.file_type()) {
                Some(kind) if self.hidden.iter().all(|(.., ino)| *ino != entry.ino()) => Some(kind),
                _ => self.find(&join(path, &name))?.map(|stat| stat.kind),
            };
            listed.extend(kind.map(|kind| (name, entry.ino(), kind)));
        }
        Ok(Some(listed))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// What the host answers, `NotFound` when there is none.
    pub fn target(&self, path: &[u8]) -> io::Result<Arc<[u8]>> {
        let link = self.reach(path, OFlags::PATH)?.ok_or(io::ErrorKind::NotFound)?;
        let target = fs::readlinkat(&link, c"", Vec::with_capacity(MOST_TARGET))?;
        Ok(target.as_bytes().into())
    }

    /// The extended attributes of a file or directory that may be read; others have none here.
    pub fn xattrs(&self, path: &[u8]) -> Vec<Xattr> {
        let Ok(Some(file)) = self.reach(path, OFlags::RDONLY | READ) else { return Vec::new() };
        let mut names = Vec::with_capacity(MOST_XATTR);
        if fs::flistxattr(&file, spare_capacity(&mut names)).is_err() {
            return Vec::new();
        }
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        names.filter_map(|name| Some((name.into(), xattr(file.as_fd(), name)?))).collect()
    }

    /// Opens a regular file to read it; with what the host says of it then.
    ///
    /// # Errors
    /// What the host answers, `NotFound` when there is none.
    pub fn content(&self, path: &[u8]) -> io::Result<(Arc<dyn ObjectFile>, LowerStat)> {
        let flags = OFlags::RDONLY | READ;
        // Reading changes nothing in there, if the host allows it.
        let opened = match self.reach(path, flags | OFlags::NOATIME) {
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
                self.reach(path, flags)?
            }
            opened => opened?,
        };
        let file = opened.ok_or(io::ErrorKind::NotFound)?;
        let stat = self.stat(&file)?.filter(|stat| stat.kind == FileKind::File);
        Ok((Arc::new(ReadOnlyFile(file)), stat.ok_or(io::ErrorKind::NotFound)?))
    }

    /// Those of the claimed names that are in the root all the same.
    pub fn claimed_here(&self) -> Vec<String> {
        let is_here =
            |name: &&Name| fs::statat(&self.root, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        self.claimed
            .iter()
            .filter(is_here)
            .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
            .collect()
    }

    fn reach(&self, path: &[u8], flags: OFlags) -> io::Result<Option<OwnedFd>> {
        let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
        if self.claimed.iter().any(|name| name.as_bytes() == first) {
            return Ok(None);
        }
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let (mut from, mut rest): (Option<OwnedFd>, _) = (None, path);
        loop {
            let at = from.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            let cut = rest.get(..AT_ONCE).and_then(|head| head.iter().rposition(|byte| *byte == b'/'));
            let (head, tail) = match cut {
                Some(cut) => (rest.get(..cut), rest.get(cut + 1..)),
                None => (Some(rest), None),
            };
            let head = head.filter(|head| !head.is_empty()).unwrap_or(b".");
            let flags = if tail.is_some() { OFlags::PATH | OFlags::DIRECTORY } else { flags };
            let opened =
                rustix::io::retry_on_intr(|| fs::openat2(at, head, flags | FLAGS, Mode::empty(), within));
            match (opened, tail) {
                (Ok(file), None) => return Ok(Some(file)),
                (Ok(file), Some(tail)) => (from, rest) = (Some(file), tail),
                (Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG), _) => {
                    return Ok(None);
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
    }

    fn stat(&self, file: &OwnedFd) -> io::Result<Option<LowerStat>> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = fs::statx(file, c"", AtFlags::EMPTY_PATH, wanted)?;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let is_directory = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory;
        // A subvolume has numbers of its own, which may be those of other files here.
        let is_elsewhere = is_directory && self.device.is_some_and(|own| own != device);
        if is_elsewhere || self.hidden.contains(&(device.0, device.1, stat.stx_ino)) {
            return Ok(None);
        }
        let time = |time: fs::StatxTimestamp| Timestamp { secs: time.tv_sec, nanos: time.tv_nsec };
        let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
        Ok(kind_of(FileType::from_raw_mode(u32::from(stat.stx_mode))).map(|kind| LowerStat {
            identity: Identity { ino: stat.stx_ino, born: time(stat.stx_btime) },
            kind,
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            nlink: stat.stx_nlink,
            rdev: minor & 0xff | major << 8 | (minor & !0xff) << 12,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            atime: time(stat.stx_atime),
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        }))
    }
}

/// Returns the token of a file of the host: another file, or a later change, has another. Never 0, and below 2^61.
pub fn change_token(ino: u64, changed: Timestamp) -> u64 {
    let nanos = (changed.secs as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(changed.nanos));
    let mixed = (ino ^ nanos.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ nanos;
    (mixed.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 3).max(1)
}

impl LowerStat {
    /// Returns the token of the file as it is.
    pub fn change_token(&self) -> u64 {
        change_token(self.identity.ino, self.ctime)
    }

    /// What it says of a file's content.
    pub fn content(&self) -> FileStat {
        FileStat { len: self.size, blocks: self.blocks, modified: self.mtime, changed: self.ctime }
    }
}

/// The path of a name in a directory.
pub fn join(directory: &[u8], name: &Name) -> Arc<[u8]> {
    match directory {
        [] => name.as_bytes().into(),
        directory => [directory, name.as_bytes()].join(&b'/').into(),
    }
}

/// The directory that a path lies in, and its name there; `None` for the empty path.
pub fn split(path: &[u8]) -> Option<(&[u8], Name)> {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = match at {
        Some(at) => (path.get(..at)?, path.get(at + 1..)?),
        None => (&[][..], path),
    };
    Some((directory, Name::new(name).ok()?))
}

fn xattr(file: BorrowedFd<'_>, name: &[u8]) -> Option<Arc<[u8]>> {
    let mut value = Vec::with_capacity(MOST_XATTR);
    fs::fgetxattr(file, name, spare_capacity(&mut value)).ok()?;
    Some(value.into())
}

fn kind_of(kind: FileType) -> Option<FileKind> {
    Some(match kind {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::Socket => FileKind::Socket,
        FileType::Unknown => return None,
    })
}

/// A file that is only read.
struct ReadOnlyFile(OwnedFd);

impl ObjectFile for ReadOnlyFile {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        host_file::read_at(&self.0, buf, offset)
    }

    fn write_at(&self, _data: &[u8], _offset: u64) -> io::Result<usize> {
        Err(Errno::BADF.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(Errno::BADF.into())
    }

    fn allocate(&self, _mode: FallocateFlags, _offset: u64, _len: u64) -> io::Result<()> {
        Err(Errno::BADF.into())
    }

    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        match what {
            Seek::Data => seek(&self.0, SeekFrom::Data(offset)),
            Seek::Hole => seek(&self.0, SeekFrom::Hole(offset)),
        }
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        Ok(()) // it is another's
    }

    fn stat(&self) -> io::Result<FileStat> {
        host_file::stat(&self.0)
    }
}
