//! The log, appended to. A record is written with one `write` before its change is answered, so it outlives a killed
//! daemon; it outlives a power cut when it was synced. Syncs are grouped: who waits for one finds the work of another done.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Journal, Record, codec, frame};
use crate::error::{FsError, Result};
use crate::store::{Device, FileId, ObjectFile};
use crate::tree::Edit;
use crate::types::{InodeId, ObjectId};

/// A log being written. Positions are bytes since it was opened, from 1.
pub struct LogWriter {
    device: Arc<dyn Device>,
    /// Leaf lock, held for one append.
    head: Mutex<Head>,
    /// Rank: before `head`. Held over a sync; appends go on meanwhile.
    syncing: Mutex<()>,
    durable: AtomicU64,
    poisoned: AtomicBool,
}

struct Head {
    file: Arc<dyn ObjectFile>,
    /// Bytes in the file.
    len: u64,
    position: u64,
    /// Objects to be synced before the records that name them.
    first: HashSet<ObjectId>,
    /// The last record that speaks of an inode, for records that are not durable.
    touched: HashMap<InodeId, u64>,
}

impl LogWriter {
    /// Goes on after the first `len` bytes of the piece `number`, which are durable.
    ///
    /// # Errors
    /// What the device answers.
    pub fn open(device: Arc<dyn Device>, number: u64, len: u64) -> io::Result<LogWriter> {
        let file = match device.open(FileId::Log(number)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => device.create(FileId::Log(number))?,
            opened => opened?,
        };
        if file.stat()?.len > len {
            file.set_len(len)?;
        }
        file.sync(false)?;
        device.sync_names()?;
        let head = Head { file, len, position: 1, first: HashSet::new(), touched: HashMap::new() };
        let (durable, poisoned) = (AtomicU64::new(1), AtomicBool::new(false));
        Ok(LogWriter { device, head: Mutex::new(head), syncing: Mutex::new(()), durable, poisoned })
    }

    fn refuse_poisoned(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) { Err(FsError::read_only_store()) } else { Ok(()) }
    }

    /// Writes one frame, whole or not at all.
    fn write(&self, head: &mut Head, frame: &[u8]) -> Result<()> {
        let written = head.file.write_at(frame, head.len);
        if matches!(written, Ok(n) if n == frame.len()) {
            head.len += frame.len() as u64;
            head.position += frame.len() as u64;
            return Ok(());
        }
        // What was written of it must not be taken for a record later.
        if head.file.set_len(head.len).is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        Err(written.map_or_else(FsError::Io, |_| FsError::no_space()))
    }

    /// Syncs the objects that must be durable first, then the log; returns the position that is durable then.
    fn sync_now(&self) -> Result<u64> {
        let (file, position, first) = {
            let mut head = self.head.lock();
            (head.file.clone(), head.position, std::mem::take(&mut head.first))
        };
        for id in &first {
            match self.device.open(FileId::Object(*id)).and_then(|object| object.sync(true)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                // One that is gone by now is named by nothing.
                _ => {}
            }
        }
        file.sync(true)?;
        self.head.lock().touched.retain(|_, touched| *touched > position);
        Ok(position)
    }
}

impl Journal for LogWriter {
    fn append(&self, record: &Record, first: &[ObjectId]) -> Result<()> {
        let frame = framed(record)?;
        let mut head = self.head.lock();
        self.refuse_poisoned()?;
        self.write(&mut head, &frame)?;
        head.first.extend(first);
        let position = head.position;
        head.touched.extend(inodes(record).map(|ino| (ino, position)));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let wanted = self.position();
        let _syncing = self.syncing.lock();
        self.refuse_poisoned()?;
        if self.durable.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let done = self.sync_now();
        match &done {
            Ok(position) => self.durable.store(*position, Ordering::Release),
            // The kernel may have dropped what it could not write: no later sync would notice.
            Err(_) => self.poisoned.store(true, Ordering::Release),
        }
        done.map(|_| ())
    }

    fn sync_inode(&self, ino: InodeId) -> Result<()> {
        if self.head.lock().touched.contains_key(&ino) { self.sync() } else { self.refuse_poisoned() }
    }

    fn position(&self) -> u64 {
        self.head.lock().position
    }

    fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }
}

/// Writes records to a file that nobody reads yet, in large pieces.
pub struct FrameWriter {
    file: Arc<dyn ObjectFile>,
    buffer: Vec<u8>,
    len: u64,
}

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

impl FrameWriter {
    /// A writer to an empty file.
    pub fn new(file: Arc<dyn ObjectFile>) -> FrameWriter {
        FrameWriter { file, buffer: Vec::new(), len: 0 }
    }

    /// Writes a record.
    ///
    /// # Errors
    /// What the device answers.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        self.buffer.extend(framed(record)?);
        if self.buffer.len() < BUFFER { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_at(&self.buffer, self.len)?;
        if written < self.buffer.len() {
            return Err(FsError::no_space());
        }
        self.len += written as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all of it durable; returns its length.
    ///
    /// # Errors
    /// What the device answers.
    pub fn finish(mut self) -> Result<u64> {
        self.flush()?;
        self.file.sync(false)?;
        Ok(self.len)
    }
}

/// A record in its frame.
fn framed(record: &Record) -> Result<Vec<u8>> {
    let encoded = codec::encode(record, vec![0; frame::HEADER]);
    let mut frame = encoded.map_err(|e| FsError::Io(io::Error::other(e)))?;
    if frame.len() - frame::HEADER > frame::MAX_PAYLOAD {
        return Err(FsError::Io(io::Error::other("a record is longer than the log can hold")));
    }
    frame::seal(&mut frame);
    Ok(frame)
}

/// The inodes that a record speaks of, by themselves or by a name of theirs.
fn inodes(record: &Record) -> impl Iterator<Item = InodeId> {
    let edits = if let Record::Edits(_, edits) = record { edits.as_slice() } else { &[] };
    edits
        .iter()
        .flat_map(|edit| match edit {
            Edit::Put(ino, _)
            | Edit::Meta(ino, _)
            | Edit::Content(ino, _)
            | Edit::Xattrs(ino, _)
            | Edit::Unlink(ino, _)
            | Edit::Drop(ino)
            | Edit::Dirty(ino)
            | Edit::Clean(ino) => [Some(*ino), None],
            Edit::Parent(ino, parent) => [Some(*ino), Some(*parent)],
            Edit::Link(dir, _, entry) => [Some(*dir), Some(entry.ino())],
        })
        .flatten()
}
