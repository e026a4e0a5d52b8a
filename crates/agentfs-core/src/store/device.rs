//! The seam under all durable bytes: what a backstore must do, and nothing else does I/O on it.
//! A memory, a host directory and (in tests) a failing device implement it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

pub use rustix::fs::FallocateFlags;

use super::copy::copy_all;
use crate::types::{ObjectId, PackId, Timestamp};

/// What `lseek` can look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

/// The room in a backstore (`statvfs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Unit of the block counts, in bytes.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for an ordinary user.
    pub available: u64,
    /// Files the host can hold in all.
    pub files: u64,
    /// Files the host can still make.
    pub files_free: u64,
}

/// A file of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileId {
    /// Content of one file.
    Object(ObjectId),
    /// Content of many small files.
    Pack(PackId),
    /// A piece of the log, by its number.
    Log(u64),
    /// A piece of the log being written, which is none before it is published.
    Draft(u64),
    /// There while something may not be durable that was to be: an empty file.
    Doubt,
    /// What a damaged piece of the log lost, by its number and the first byte that was lost.
    Lost(u64, u64),
    /// Has a name for a moment only: see [`Device::scratch`].
    Scratch,
}

impl From<ObjectId> for FileId {
    fn from(id: ObjectId) -> FileId {
        FileId::Object(id)
    }
}

impl From<PackId> for FileId {
    fn from(id: PackId) -> FileId {
        FileId::Pack(id)
    }
}

impl FileId {
    /// Its number among objects and packs; `None` for the log's files.
    pub fn number(self) -> Option<u64> {
        match self {
            FileId::Object(ObjectId(number)) | FileId::Pack(PackId(number)) => Some(number),
            FileId::Log(_) | FileId::Draft(_) | FileId::Doubt | FileId::Lost(..) | FileId::Scratch => None,
        }
    }

    /// Where it lies.
    pub fn folder(self) -> Folder {
        match self {
            FileId::Object(_) => Folder::Objects,
            FileId::Pack(_) => Folder::Packs,
            FileId::Log(_) | FileId::Draft(_) | FileId::Doubt | FileId::Lost(..) | FileId::Scratch => {
                Folder::Log
            }
        }
    }
}

/// Where the files of a store lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// All objects.
    Objects,
    /// All packs.
    Packs,
    /// The log: its pieces, drafts of them, and what damage took from them.
    Log,
}

/// What is known of a file of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Bytes.
    pub len: u64,
    /// Space held, in units of 512 bytes.
    pub blocks: u64,
    /// Last change of content.
    pub modified: Timestamp,
    /// Last change of anything, content too; the host sets it.
    pub changed: Timestamp,
}

impl FileStat {
    /// Has nothing changed between the two, as far as the host's clock tells?
    pub(crate) fn is_the_same_as(&self, other: &FileStat) -> bool {
        (self.len, self.modified, self.changed) == (other.len, other.modified, other.changed)
    }
}

/// An open file of a store. Offsets and lengths are bytes; errors are the host's.
pub trait ObjectFile: Send + Sync {
    /// Reads until `buf` is full or the object ends; returns the bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes from the start of `data`; returns the bytes written, fewer only when the host stopped midway.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;
    /// Cuts or extends (by a hole) to `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space, as `fallocate` with these flags; all supported flags are passed on.
    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()>;
    /// Makes `len` bytes zeros that take no space, up to its end.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len)
    }
    /// The next data or hole at or after `offset`; `None` past the end.
    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>>;
    /// Makes content durable (and, unless `data_only`, its times too), and the name of an object or pack.
    fn sync(&self, data_only: bool) -> io::Result<()>;
    /// Its first bytes will be read soon: the host may fetch them.
    fn will_need(&self, _len: u64) {}
    /// Waits for writes to it that are under way, by whomever; the host notes a change then.
    fn await_writes(&self) -> io::Result<()> {
        Ok(())
    }
    /// Its length, space and time.
    fn stat(&self) -> io::Result<FileStat>;
    /// By what the host knows it, when it does: it can then copy between two by itself.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The host is full.
pub(crate) fn no_space() -> io::Error {
    rustix::io::Errno::NOSPC.into()
}

/// It is only read.
pub(super) fn read_only() -> io::Error {
    rustix::io::Errno::BADF.into()
}

/// Has the host no room for this, or its owner's quota none?
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A backstore.
pub trait Device: Send + Sync {
    /// Makes an empty file. `AlreadyExists` if there is one: ids are never reused.
    fn create(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>>;
    /// Opens a file to read and write.
    fn open(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>>;
    /// Makes the object `to` with the first `len` bytes of `from`, sharing blocks where the host can. Leaves no `to`
    /// behind when it fails.
    fn duplicate(&self, from: ObjectId, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>>;
    /// Makes the object `to` with the first `len` bytes of a file that is not the store's, sharing blocks where the host can.
    /// Leaves no `to` behind when it fails.
    fn import(&self, from: &dyn ObjectFile, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>> {
        let file = self.create(FileId::Object(to))?;
        match copy_all(from, &*file, len) {
            Ok(()) => Ok(file),
            Err(error) => {
                self.remove(FileId::Object(to))?;
                Err(error)
            }
        }
    }
    /// Exchanges the names of two objects, durably: what is open goes on under the other name.
    fn exchange(&self, a: ObjectId, b: ObjectId) -> io::Result<()>;
    /// Makes an empty file without a name: it is gone when it is closed, by whatever.
    fn scratch(&self) -> io::Result<Arc<dyn ObjectFile>> {
        // Left by a daemon that was killed between the two.
        match self.remove(FileId::Scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.create(FileId::Scratch)?;
        self.remove(FileId::Scratch)?;
        Ok(file)
    }
    /// Deletes a file; returns the bytes it held.
    fn remove(&self, id: FileId) -> io::Result<u64>;
    /// What lies in a folder, in no particular order.
    fn list(&self, folder: Folder) -> io::Result<Vec<FileId>>;
    /// Makes the draft of a piece of the log that piece, for good.
    fn publish(&self, piece: u64) -> io::Result<()>;
    /// Makes the names of the log's files durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Makes everything durable that was written until now, in all files.
    fn sync_all(&self) -> io::Result<()>;
    /// The room left.
    fn space(&self) -> io::Result<Space>;
    /// Does `duplicate` share blocks?
    fn reflinks(&self) -> bool;
    /// How long two changes of a file can lie apart and be noted at the same time, when `stat` was asked between them.
    fn tick(&self) -> Duration {
        COARSE_TICK
    }
}

/// Longer than the host's clock for times of change takes from one tick to the next.
pub(super) const COARSE_TICK: Duration = Duration::from_millis(12);
