//! The log, appended to. A record is written with one `write` before its change is answered, so it outlives a killed
//! daemon; it outlives a power cut when it was synced. Syncs are grouped: who waits for one finds the work of another done.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use tracing::warn;

use super::frame_writer::framed;
use super::{Journal, Record};
use crate::error::{FsError, Result};
use crate::store::{Device, FallocateFlags, FileId, ObjectFile, Packs, Seek, is_no_space, no_space};
use crate::tree::Edit;
use crate::types::{InodeId, ObjectId};

/// A log being written. Positions are bytes since it was opened, from 1.
pub struct LogWriter {
    device: Arc<dyn Device>,
    /// Content of small files, made durable before the records that name it. The volume holds it; it holds this.
    packs: Weak<Packs>,
    /// The boot of the host, told at the beginning of each piece.
    boot: u128,
    /// Leaf lock, held for one append.
    head: Mutex<Head>,
    /// Rank: before `head`. Held over a sync; appends go on meanwhile.
    syncing: Mutex<()>,
    /// Objects whose sync failed: were they given up? Leaf lock.
    failed: Mutex<HashMap<ObjectId, bool>>,
    durable: AtomicU64,
    poisoned: AtomicBool,
    /// How often it was poisoned, and how often when the checkpoint began that is being made.
    poisonings: AtomicU64,
    healing: AtomicU64,
    /// Bytes left of what the host has set aside, when it has no more.
    spare: AtomicU64,
    /// The position at which the checkpoint that is being made takes over.
    rotated: AtomicU64,
    /// Bytes of the pieces since the last checkpoint that are not written any more, and of that checkpoint.
    since: AtomicU64,
    checkpoint: AtomicU64,
}

struct Head {
    file: Arc<dyn ObjectFile>,
    /// The number of the piece.
    piece: u64,
    /// Bytes in it.
    len: u64,
    /// Bytes of it that are durable.
    synced: u64,
    /// Bytes that the host has set aside for it.
    reserved: u64,
    position: u64,
    /// Pieces before it that may not be durable.
    before: Vec<Arc<dyn ObjectFile>>,
    /// Objects to be synced before the records that name them.
    first: HashSet<ObjectId>,
    /// The inodes of which records speak that came after the last sync began.
    touched: HashSet<InodeId>,
    /// Those of records before, while that sync is not done.
    in_sync: HashSet<InodeId>,
    /// Its bytes when it was begun, for a checkpoint that is not there yet.
    begun: Option<u64>,
}

impl Head {
    /// A piece that has these bytes, all durable.
    fn of(file: Arc<dyn ObjectFile>, piece: u64, len: u64) -> Head {
        Head {
            file,
            piece,
            len,
            synced: len,
            reserved: len,
            position: 1,
            before: Vec::new(),
            first: HashSet::new(),
            touched: HashSet::new(),
            in_sync: HashSet::new(),
            begun: None,
        }
    }

    /// Passes on what is not durable yet, whichever the piece.
    fn hand_over(&mut self, next: &mut Head) {
        next.position = self.position;
        next.before = std::mem::take(&mut self.before);
        next.first = std::mem::take(&mut self.first);
        next.touched = std::mem::take(&mut self.touched);
        next.in_sync = std::mem::take(&mut self.in_sync);
    }

    /// Bytes that are set aside behind its end.
    fn spare(&self) -> u64 {
        self.reserved.saturating_sub(self.len)
    }

    /// Sees to it that the host has set some space aside, so that what gives space back can be recorded when there is
    /// none left. False when it could not.
    fn reserve(&mut self, more: u64) -> bool {
        self.len + more + RESERVE <= self.reserved
            || self.set_aside(self.reserved.max(self.len), 2 * RESERVE + more)
    }

    /// Finds what an earlier mount left set aside, when the host has no more.
    fn find_reserve(&mut self) {
        let sizes = std::iter::successors(Some(2 * RESERVE), |size| Some(size / 2));
        for size in sizes.take_while(|size| *size >= BLOCK) {
            if self.set_aside(self.len, size) {
                break;
            }
        }
    }

    /// Has the host set aside so many bytes from there on. False when it has not so many.
    fn set_aside(&mut self, from: u64, len: u64) -> bool {
        match self.file.allocate(FallocateFlags::KEEP_SIZE, from, len) {
            Ok(()) => self.reserved = from + len,
            Err(e) if is_no_space(&e) => return false,
            // A host that cannot set space aside.
            Err(_) => self.reserved = u64::MAX,
        }
        true
    }
}

/// After a sync failed, what the host has not written of a file is like written to it, and no later sync would write it.
/// Nobody else writes to files meanwhile: the log is poisoned.
fn write_anew(object: &dyn ObjectFile) -> io::Result<()> {
    let (mut at, len) = (0, object.stat()?.len);
    let mut chunk = vec![0; 1 << 20];
    while let Some(data) = object.seek(Seek::Data, at)?.filter(|data| *data < len) {
        let end = object.seek(Seek::Hole, data)?.unwrap_or(len).min(len);
        let want = ((end - data) as usize).min(chunk.len());
        let read = object.read_at(chunk.get_mut(..want).unwrap_or_default(), data)?;
        let bytes = chunk.get(..read).unwrap_or_default();
        if read == 0 || object.write_at(bytes, data)? < read {
            return Err(no_space());
        }
        at = data + read as u64;
    }
    object.sync(true)
}

/// Bytes kept for when the host is full: half of it for any record that needs no space elsewhere, half for those that give
/// space back.
const RESERVE: u64 = 256 << 10;
/// The host sets space aside in blocks of so many bytes.
const BLOCK: u64 = 4096;

/// A mark that was written.
struct Marked {
    /// To be synced now, oldest first.
    files: Vec<Arc<dyn ObjectFile>>,
    /// Where it ends.
    len: u64,
    /// The position behind it, when nothing else came between.
    behind: Option<u64>,
}

/// Where a log goes on.
pub struct Start {
    /// The piece.
    pub piece: u64,
    /// Its bytes so far, which are durable; 0 makes a new piece.
    pub len: u64,
    /// What a new piece follows: a piece and its bytes.
    pub follows: Option<(u64, u64)>,
    /// Bytes of the log since its checkpoint, but for those of `piece`.
    pub since: u64,
    /// Bytes of that checkpoint.
    pub checkpoint: u64,
    /// The boot of the host.
    pub boot: u128,
}

impl LogWriter {
    /// Goes on writing a log.
    ///
    /// # Errors
    /// What the device answers.
    pub fn open(device: Arc<dyn Device>, packs: &Arc<Packs>, start: &Start) -> Result<LogWriter> {
        let file = match device.open(FileId::Log(start.piece)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => device.create(FileId::Log(start.piece))?,
            opened => opened?,
        };
        if file.stat()?.len > start.len {
            file.set_len(start.len)?;
        }
        let head = Head::of(file, start.piece, start.len);
        let writer = LogWriter {
            device,
            packs: Arc::downgrade(packs),
            boot: start.boot,
            head: Mutex::new(head),
            syncing: Mutex::new(()),
            failed: Mutex::default(),
            durable: AtomicU64::new(1),
            poisoned: AtomicBool::new(false),
            poisonings: AtomicU64::new(0),
            healing: AtomicU64::new(0),
            spare: AtomicU64::new(u64::MAX),
            rotated: AtomicU64::new(0),
            since: AtomicU64::new(start.since),
            checkpoint: AtomicU64::new(start.checkpoint),
        };
        {
            let mut head = writer.head.lock();
            match start.follows.filter(|_| start.len == 0) {
                Some(before) => writer.begin_piece(&mut head, before)?,
                // On a full host it is done when there is room again.
                None => head.find_reserve(),
            }
            head.file.sync(false)?;
            head.synced = head.len;
        }
        writer.device.sync_names()?;
        Ok(writer)
    }

    /// Writes what a new piece begins with, and has space set aside for it.
    ///
    /// # Errors
    /// What the device answers; also when it has no space to set aside.
    fn begin_piece(&self, head: &mut Head, (piece, len): (u64, u64)) -> Result<()> {
        if !head.reserve(0) {
            return Err(FsError::no_space());
        }
        self.write(head, &framed(&Record::Continues { piece, len })?)
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
        match head.file.set_len(head.len) {
            // What was set aside behind may have gone with it.
            Ok(()) => head.reserved = head.reserved.min(head.len),
            Err(_) => self.poison(),
        }
        Err(written.map_or_else(FsError::Io, |_| FsError::no_space()))
    }

    /// The kernel may have dropped what it could not write, and no later sync would notice.
    fn poison(&self) {
        self.poisonings.fetch_add(1, Ordering::AcqRel);
        self.poisoned.store(true, Ordering::Release);
    }

    /// Makes content durable that must be before the records that name it.
    fn sync_content(&self) -> Result<()> {
        let first = std::mem::take(&mut self.head.lock().first);
        let synced =
            self.sync_objects(&first).and_then(|()| self.sync_packs().inspect_err(|_| self.poison()));
        if synced.is_err() {
            self.head.lock().first.extend(first);
        }
        synced
    }

    fn sync_packs(&self) -> Result<()> {
        self.packs.upgrade().map_or(Ok(()), |packs| Ok(packs.sync()?))
    }

    /// Goes on in a new piece, when that has a beginning and some space.
    fn rotate(&self, number: u64, file: Arc<dyn ObjectFile>) -> Result<()> {
        let mut head = self.head.lock();
        let mut next = Head::of(file, number, 0);
        head.hand_over(&mut next);
        let mut old = std::mem::replace(&mut *head, next);
        let position = head.position;
        let begun = self.begin_piece(&mut head, (old.piece, old.len));
        let begun = begun.and_then(|()| self.write(&mut head, &framed(&Record::Mounted(self.boot))?));
        if let Err(error) = begun {
            head.hand_over(&mut old);
            old.position = position;
            *head = old;
            return Err(error);
        }
        head.begun = Some(head.len);
        self.rotated.store(position, Ordering::Relaxed);
        // What was set aside behind it is for the new one. If it stays, it goes with the piece.
        let _ = old.file.set_len(old.len);
        self.since.fetch_add(old.len, Ordering::Relaxed);
        head.before.push(old.file);
        Ok(())
    }

    /// A sync that fails poisons the log. One that fails again is given up: what else was written is not to wait for it.
    fn sync_objects(&self, objects: &HashSet<ObjectId>) -> Result<()> {
        let mut failed = self.failed.lock();
        for id in objects {
            let has_failed = match failed.get(id) {
                Some(true) => continue,
                known => known.is_some(),
            };
            let object = match self.device.open(FileId::Object(*id)) {
                // One that is gone by now is named by nothing.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    failed.remove(id);
                    continue;
                }
                opened => opened?,
            };
            let synced = if has_failed { write_anew(&*object) } else { object.sync(true) };
            match synced {
                Ok(()) => drop(failed.remove(id)),
                Err(error) if has_failed => {
                    warn!(object = id.0, %error, "the content of a file cannot be made durable: only its fsync tries again");
                    failed.insert(*id, true);
                }
                Err(error) => {
                    failed.insert(*id, false);
                    self.poison();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Tries again what was given up; nobody writes to these objects meanwhile.
    fn sync_given_up(&self, wanted: impl Fn(ObjectId) -> bool) -> Result<()> {
        let mut failed = self.failed.lock();
        let given_up: Vec<_> =
            failed.iter().filter(|(id, up)| **up && wanted(**id)).map(|(id, _)| *id).collect();
        for id in given_up {
            match self.device.open(FileId::Object(id)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                opened => write_anew(&*opened?)?,
            }
            failed.remove(&id);
        }
        Ok(())
    }

    /// Says in the log that what the records before `through` name is durable.
    fn mark(&self, through: u64) -> Result<Marked> {
        let mut head = self.head.lock();
        let at = head.len;
        let synced = head.synced;
        self.write(&mut head, &framed(&Record::Ordered { at, through, synced })?)?;
        let files = head.before.iter().chain([&head.file]).cloned().collect();
        Ok(Marked { files, len: head.len, behind: (at == through).then_some(head.position) })
    }

    /// Makes the records until now durable; returns the position before which they are. A sync that fails poisons the
    /// log.
    fn sync_now(&self) -> Result<u64> {
        let (through, position) = {
            let mut head = self.head.lock();
            let touched = std::mem::take(&mut head.touched);
            if head.in_sync.is_empty() {
                head.in_sync = touched
            } else {
                head.in_sync.extend(touched)
            }
            (head.len, head.position)
        };
        self.sync_content()?;
        let Marked { files, len, behind } = self.mark(through)?;
        let synced = files.iter().try_for_each(|file| file.sync(true));
        synced.inspect_err(|_| self.poison())?;
        let mut head = self.head.lock();
        head.before.clear();
        head.synced = len;
        let done = std::mem::take(&mut head.in_sync);
        drop(head);
        drop(done); // it may be much
        Ok(behind.unwrap_or(position))
    }
}

impl Journal for LogWriter {
    fn append(&self, record: &Record) -> Result<()> {
        let mut head = self.head.lock();
        self.refuse_poisoned()?;
        // Not before the lock: content that is moved is not named by its old place after its move took effect.
        let frame = framed(record)?;
        let has_room = head.reserve(frame.len() as u64);
        self.spare.store(if has_room { u64::MAX } else { head.spare() }, Ordering::Relaxed);
        let is_taken = has_room
            || record.gives_back()
            || (!record.grows() && head.spare() >= RESERVE / 2 + frame.len() as u64);
        if !is_taken {
            return Err(FsError::no_space());
        }
        self.write(&mut head, &frame)?;
        if let Record::EditsAfter(_, first, _) = record {
            head.first.extend(first);
        }
        head.touched.extend(inodes(record));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let wanted = self.position();
        let _syncing = self.syncing.lock();
        self.refuse_poisoned()?;
        if self.durable.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let done = self.sync_now()?;
        self.durable.store(done, Ordering::Release);
        Ok(())
    }

    fn close(&self) -> Result<()> {
        self.sync()?;
        self.sync_given_up(|_| true)?;
        let _syncing = self.syncing.lock();
        let mut head = self.head.lock();
        let closed = framed(&Record::Closed { at: head.len })?;
        // What is set aside behind it stays: the next mount needs some, be the host full or not.
        self.write(&mut head, &closed)?;
        Ok(head.file.sync(false)?)
    }

    fn sync_inode(&self, ino: InodeId) -> Result<()> {
        let is_touched = {
            let head = self.head.lock();
            head.touched.contains(&ino) || head.in_sync.contains(&ino)
        };
        if is_touched { self.sync() } else { self.refuse_poisoned() }
    }

    fn is_given_up(&self, object: ObjectId) -> bool {
        self.failed.lock().get(&object).is_some_and(|given_up| *given_up)
    }

    fn sync_given_up(&self, object: ObjectId) -> Result<()> {
        LogWriter::sync_given_up(self, |id| id == object)
    }

    fn position(&self) -> u64 {
        self.head.lock().position
    }

    fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    fn begin_checkpoint(&self) -> Result<Option<u64>> {
        let _syncing = self.syncing.lock();
        self.healing.store(self.poisonings.load(Ordering::Acquire), Ordering::Release);
        let mut number = {
            let head = self.head.lock();
            if head.begun == Some(head.len) {
                return Ok(Some(head.piece - 1)); // nothing was recorded since a try that failed
            }
            head.piece + 2
        };
        let file = loop {
            match self.device.create(FileId::Log(number)) {
                // Left by a try that failed.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                made => break made?,
            }
        };
        let rotated = self.device.sync_names().map_err(FsError::Io).and_then(|()| self.rotate(number, file));
        if rotated.is_err() {
            // One that stays is empty, or ends where it begins: it says nothing.
            let _ = self.device.remove(FileId::Log(number));
        }
        rotated.map(|()| Some(number - 1))
    }

    fn sync_content(&self) -> Result<()> {
        let _syncing = self.syncing.lock();
        LogWriter::sync_content(self)
    }

    fn end_checkpoint(&self, len: u64) {
        let _syncing = self.syncing.lock();
        {
            let mut head = self.head.lock();
            head.before.clear();
            head.begun = None;
        }
        self.durable.fetch_max(self.rotated.load(Ordering::Relaxed), Ordering::AcqRel);
        self.since.store(0, Ordering::Relaxed);
        self.checkpoint.store(len, Ordering::Relaxed);
        // What failed after the checkpoint began, it does not mend.
        if self.poisonings.load(Ordering::Acquire) == self.healing.load(Ordering::Acquire) {
            self.poisoned.store(false, Ordering::Release);
        }
    }

    fn lengths(&self) -> (u64, u64) {
        let since = self.since.load(Ordering::Relaxed) + self.head.lock().len;
        (since, self.checkpoint.load(Ordering::Relaxed))
    }

    fn spare(&self) -> Option<u64> {
        Some(self.spare.load(Ordering::Relaxed)).filter(|spare| *spare != u64::MAX)
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }
}

/// The inodes that a record speaks of, by themselves or by a name of theirs.
fn inodes(record: &Record) -> impl Iterator<Item = InodeId> {
    record
        .edits()
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
