//! The log, appended to. A record is written with one `write` before its change is answered, so it outlives a killed
//! daemon; it outlives a power cut when it was synced. Syncs are grouped: who waits for one finds the work of another done.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tracing::warn;

use super::doubt::{forget_doubt, note_doubt};
use super::frame_writer::framed;
use super::head::{Head, RESERVE};
use super::objects::{Objects, Unsynced, Writers};
use super::{Journal, Record};
use crate::error::{FsError, Result};
use crate::store::{Device, FileId, ObjectFile, Packs};
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
    objects: Objects,
    /// Leaf lock: is it noted for the next mount that something may not be durable?
    note: Mutex<bool>,
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
            objects: Objects::new(device.clone()),
            note: Mutex::new(false),
            device,
            packs: Arc::downgrade(packs),
            boot: start.boot,
            head: Mutex::new(head),
            syncing: Mutex::new(()),
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

    /// The kernel may have dropped what it could not write, and no later sync would notice. The next mount is to know, too.
    fn poison(&self) {
        self.poisonings.fetch_add(1, Ordering::AcqRel);
        let mut note = self.note.lock();
        if !self.poisoned.swap(true, Ordering::AcqRel) || !*note {
            *note = note_doubt(&*self.device);
        }
    }

    /// What was in doubt is durable: the next mount need not see to it.
    fn end_doubt(&self) {
        let mut note = self.note.lock();
        if self.poisoned.load(Ordering::Acquire) || !self.objects.are_sound() {
            return;
        }
        match forget_doubt(&*self.device) {
            Ok(()) => *note = false,
            Err(error) => warn!(%error, "the next mount will make everything durable once more"),
        }
    }

    /// Makes content durable that must be before the records that name it.
    fn sync_content(&self, writers: Writers) -> Result<()> {
        let first = std::mem::take(&mut self.head.lock().first);
        let synced = match self.objects.sync(&first, writers) {
            Ok(()) => self.sync_packs().inspect_err(|_| self.poison()),
            Err(Unsynced::NotTried(error)) => Err(error.into()),
            Err(Unsynced::Failed(error)) => {
                self.poison();
                Err(error.into())
            }
        };
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

    /// Says in the log that what the records before `through` name is durable.
    fn mark(&self, through: u64) -> Result<Marked> {
        let mut head = self.head.lock();
        let at = head.len;
        let (synced, is_begun) = (head.synced, head.begun == Some(at));
        self.write(&mut head, &framed(&Record::Ordered { at, through, synced })?)?;
        if is_begun {
            head.begun = Some(head.len); // it says nothing that a checkpoint does not
        }
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
        self.sync_content(Writers::Active)?;
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
        self.append_all(std::slice::from_ref(record))
    }

    fn append_all(&self, records: &[Record]) -> Result<()> {
        let mut head = self.head.lock();
        self.refuse_poisoned()?;
        // Not before the lock: content that is moved is not named by its old place after its move took effect.
        let frame = records.iter().map(framed).collect::<Result<Vec<_>>>()?.concat();
        let has_room = head.reserve(frame.len() as u64);
        self.spare.store(if has_room { u64::MAX } else { head.spare() }, Ordering::Relaxed);
        let is_taken = has_room
            || records.iter().all(Record::gives_back)
            || (!records.iter().any(Record::grows) && head.spare() >= RESERVE / 2 + frame.len() as u64);
        if !is_taken {
            return Err(FsError::no_space());
        }
        self.write(&mut head, &frame)?;
        for record in records {
            if let Some(first) = record.first() {
                head.first.extend(first);
            }
            head.touched.extend(inodes(record));
        }
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
        Journal::try_given_up(self, None)?;
        let _syncing = self.syncing.lock();
        let mut head = self.head.lock();
        let closed = framed(&Record::Closed { at: head.len })?;
        // What is set aside behind it stays: the next mount needs some, be the host full or not.
        self.write(&mut head, &closed)?;
        Ok(head.file.sync(false).inspect_err(|_| self.poison())?)
    }

    fn sync_inode(&self, ino: InodeId) -> Result<()> {
        let is_touched = {
            let head = self.head.lock();
            head.touched.contains(&ino) || head.in_sync.contains(&ino)
        };
        if is_touched { self.sync() } else { self.refuse_poisoned() }
    }

    fn has_given_up(&self, object: Option<ObjectId>) -> bool {
        self.objects.has_given_up(object)
    }

    fn try_given_up(&self, object: Option<ObjectId>) -> Result<()> {
        let tried = self.objects.try_given_up(object);
        self.end_doubt();
        Ok(tried?)
    }

    fn give_up(&self, object: ObjectId) {
        if self.head.lock().first.contains(&object) {
            // A record waits for it, and is not to overtake it.
            self.objects.doubt(&[object]);
            return self.poison();
        }
        self.objects.give_up(object);
        let mut note = self.note.lock();
        *note = *note || note_doubt(&*self.device);
    }

    fn end_doubt(&self) {
        LogWriter::end_doubt(self);
    }

    fn doubt(&self, objects: Vec<ObjectId>) {
        let _syncing = self.syncing.lock();
        self.objects.doubt(&objects);
        self.head.lock().first.extend(objects);
        self.poison();
    }

    fn position(&self) -> u64 {
        self.head.lock().position
    }

    fn durable(&self) -> u64 {
        // In doubt, nothing is to be deleted that any record on the disk may name.
        if self.is_poisoned() { 0 } else { self.durable.load(Ordering::Acquire) }
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
        LogWriter::sync_content(self, Writers::Out)
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
            self.end_doubt();
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
            | Edit::Clean(ino)
            | Edit::Layers(ino, _)
            | Edit::Replaces(ino, _)
            | Edit::Origin(ino, _) => [Some(*ino), None],
            Edit::Parent(ino, parent) => [Some(*ino), Some(*parent)],
            Edit::LowerEntry(..) => [None, None],
            Edit::Link(dir, _, entry) => [Some(*dir), Some(entry.ino())],
        })
        .flatten()
}
