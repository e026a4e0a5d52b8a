//! The seam under all durable bytes: what a backstore must do, and nothing else does I/O on it.
//! A memory, a host directory and (in tests) a failing device implement it.

use std::io;
use std::sync::Arc;

use crate::types::{ObjectId, Timestamp};

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
    /// Content.
    Object(ObjectId),
    /// A piece of the log, by its number.
    Log(u64),
    /// A piece of the log being written, which is none before it is published.
    Draft(u64),
    /// What a damaged piece of the log lost, by its number and the first byte that was lost.
    Lost(u64, u64),
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
    fn allocate(&self, mode: rustix::fs::FallocateFlags, offset: u64, len: u64) -> io::Result<()>;
    /// The next data or hole at or after `offset`; `None` past the end.
    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>>;
    /// Makes content (and, unless `data_only`, its length and times) durable.
    fn sync(&self, data_only: bool) -> io::Result<()>;
    /// Its length, space and time.
    fn stat(&self) -> io::Result<FileStat>;
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
    /// Deletes a file; returns the bytes it held.
    fn remove(&self, id: FileId) -> io::Result<u64>;
    /// The pieces of the log that are there, in order.
    fn logs(&self) -> io::Result<Vec<u64>>;
    /// All objects that are there, in no particular order.
    fn objects(&self) -> io::Result<Vec<ObjectId>>;
    /// Is anything there that a damaged log has lost?
    fn has_lost(&self) -> io::Result<bool>;
    /// Makes the draft of a piece of the log that piece, for good.
    fn publish(&self, piece: u64) -> io::Result<()>;
    /// Makes the names of pieces of the log durable.
    fn sync_names(&self) -> io::Result<()>;
    /// The room left.
    fn space(&self) -> io::Result<Space>;
    /// Does `duplicate` share blocks?
    fn reflinks(&self) -> bool;
}
