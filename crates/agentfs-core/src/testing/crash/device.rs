//! A device over memory that notes each I/O, and fails the one it is told to.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::disk::{Disk, Io};
use crate::store::{Device, FallocateFlags, FileId, FileStat, Folder, Memory, ObjectFile, Seek, Space};
use crate::types::ObjectId;

/// How an I/O fails, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`.
    Error,
    /// `ENOSPC`.
    NoSpace,
    /// A write stops midway; all else is `ENOSPC`.
    Short,
}

type Deaf = fn(FileId) -> bool;
/// Which I/Os fail, and how.
type Rule = Arc<dyn Fn(&Io) -> Option<Errno> + Send + Sync>;

struct Shared {
    trace: Mutex<Vec<Io>>,
    fault: Mutex<Option<(usize, Fault)>>,
    /// Files of which it says that they were synced, and they were not.
    deaf: Deaf,
    is_full: AtomicBool,
    rule: Mutex<Option<Rule>>,
    /// Bytes that are set aside for files.
    reserved: Mutex<HashMap<FileId, u64>>,
}

/// The device.
pub struct CrashDevice {
    memory: Memory,
    shared: Arc<Shared>,
}

impl CrashDevice {
    /// A device that has what `memory` has.
    pub fn new(memory: Memory) -> CrashDevice {
        CrashDevice::deaf(memory, |_| false)
    }

    /// A device that forgets to sync some files: what a program does that forgets it.
    pub fn deaf(memory: Memory, deaf: Deaf) -> CrashDevice {
        let (trace, fault) = (Mutex::default(), Mutex::default());
        let (is_full, rule, reserved) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        CrashDevice { memory, shared: Arc::new(Shared { trace, fault, deaf, is_full, rule, reserved }) }
    }

    /// Fails the I/O number `at`, counted from 0, those that read among them.
    pub fn fail(&self, at: usize, fault: Fault) {
        *self.shared.fault.lock() = Some((at, fault));
    }

    /// From now on there is no room, or there is again. Files can be made and deleted; what is in them, or set aside for
    /// them, can be written.
    pub fn set_full(&self, is_full: bool) {
        self.shared.is_full.store(is_full, Ordering::SeqCst);
    }

    /// From now on `rule` is asked of each I/O whether it fails. It is asked before the I/O, by who does it, and may do more.
    pub fn set_rule(&self, rule: impl Fn(&Io) -> Option<Errno> + Send + Sync + 'static) {
        *self.shared.rule.lock() = Some(Arc::new(rule));
    }

    /// No rule holds any more.
    pub fn clear_rule(&self) {
        *self.shared.rule.lock() = None;
    }

    /// Bytes set aside behind the ends of files of the log.
    pub fn set_aside(&self) -> u64 {
        let reserved = self.shared.reserved.lock();
        let behind = |(id, room): (&FileId, &u64)| match self.memory.open(*id).and_then(|file| file.stat()) {
            Ok(stat) => room.saturating_sub(stat.len),
            Err(_) => 0,
        };
        reserved.iter().map(behind).sum()
    }

    /// The disk below, with all I/Os until now.
    pub fn disk(&self, mut disk: Disk) -> Disk {
        self.trace().iter().for_each(|io| disk.apply(io));
        disk
    }

    /// Is the fault still to come?
    pub fn is_armed(&self) -> bool {
        self.shared.fault.lock().is_some()
    }

    /// How many I/Os there were.
    pub fn count(&self) -> usize {
        self.shared.trace.lock().len()
    }

    /// All I/Os until now.
    pub fn trace(&self) -> Vec<Io> {
        self.shared.trace.lock().clone()
    }
}

impl Shared {
    /// Notes what `work` did, unless it is to fail.
    fn io<T>(&self, io: Io, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let refused = self.refuses(&io);
        let mut trace = self.trace.lock();
        if let Some(error) = refused.or_else(|| self.strikes(trace.len()).map(errno)) {
            let left = if let Io::Sync(id) = io { Io::SyncFailed(id) } else { Io::Nothing };
            trace.push(left);
            return Err(error.into());
        }
        let done = work();
        trace.push(if done.is_ok() { io } else { Io::Nothing });
        done
    }

    fn refuses(&self, io: &Io) -> Option<Errno> {
        let rule = self.rule.lock().clone();
        rule.and_then(|rule| rule(io))
    }

    fn strikes(&self, at: usize) -> Option<Fault> {
        let mut fault = self.fault.lock();
        let due = fault.filter(|(when, _)| *when == at)?;
        *fault = None;
        Some(due.1)
    }
}

fn errno(fault: Fault) -> Errno {
    match fault {
        Fault::Error => Errno::IO,
        Fault::NoSpace | Fault::Short => Errno::NOSPC,
    }
}

impl CrashDevice {
    fn opened(&self, id: FileId, file: Arc<dyn ObjectFile>) -> Arc<dyn ObjectFile> {
        Arc::new(CrashFile { id, file, shared: self.shared.clone() })
    }
}

impl Device for CrashDevice {
    fn create(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        let made = self.shared.io(Io::Create(id), || self.memory.create(id))?;
        Ok(self.opened(id, made))
    }

    fn open(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        let opened = self.shared.io(Io::Open(id), || self.memory.open(id))?;
        Ok(self.opened(id, opened))
    }

    fn duplicate(&self, from: ObjectId, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>> {
        let bytes = self.memory.open(FileId::Object(from)).and_then(|file| {
            let mut bytes = vec![0; len as usize];
            file.read_at(&mut bytes, 0).map(|_| bytes)
        })?;
        let made =
            self.shared.io(Io::Copy(FileId::Object(to), bytes), || self.memory.duplicate(from, to, len))?;
        Ok(self.opened(FileId::Object(to), made))
    }

    fn exchange(&self, a: ObjectId, b: ObjectId) -> io::Result<()> {
        self.shared.io(Io::Exchange(a, b), || self.memory.exchange(a, b))
    }

    fn remove(&self, id: FileId) -> io::Result<u64> {
        self.shared.io(Io::Remove(id), || self.memory.remove(id))
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<FileId>> {
        self.shared.io(Io::Nothing, || self.memory.list(folder))
    }

    fn publish(&self, piece: u64) -> io::Result<()> {
        self.shared.io(Io::Publish(piece), || self.memory.publish(piece))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.shared.io(Io::SyncNames, || Ok(()))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.shared.io(Io::SyncAll, || Ok(()))
    }

    fn space(&self) -> io::Result<Space> {
        self.memory.space()
    }

    fn reflinks(&self) -> bool {
        false
    }
}

struct CrashFile {
    id: FileId,
    file: Arc<dyn ObjectFile>,
    shared: Arc<Shared>,
}

impl ObjectFile for CrashFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.shared.io(Io::Read(self.id), || self.file.read_at(buf, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let refused = self.shared.refuses(&Io::Write(self.id, offset, data.to_vec()));
        let mut trace = self.shared.trace.lock();
        if let Some(error) = refused {
            trace.push(Io::Nothing);
            return Err(error.into());
        }
        let end = offset + data.len() as u64;
        if self.shared.is_full.load(Ordering::SeqCst) {
            let room = self.shared.reserved.lock().get(&self.id).copied().unwrap_or(0);
            if end > self.file.stat()?.len.max(room) {
                trace.push(Io::Nothing);
                return Err(Errno::NOSPC.into());
            }
        }
        let written = match self.shared.strikes(trace.len()) {
            Some(Fault::Short) if data.len() > 1 => &data[..data.len() / 2],
            Some(fault) => {
                trace.push(Io::Nothing);
                return Err(errno(fault).into());
            }
            None => data,
        };
        trace.push(Io::Write(self.id, offset, written.to_vec()));
        self.file.write_at(written, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.shared.io(Io::SetLen(self.id, len), || self.file.set_len(len))?;
        // The host takes back what it had set aside behind.
        self.shared.reserved.lock().entry(self.id).and_modify(|room| *room = len.min(*room));
        Ok(())
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let size = self.file.stat()?.len;
        if mode == FallocateFlags::KEEP_SIZE {
            let mut reserved = self.shared.reserved.lock();
            let room = reserved.entry(self.id).or_insert(0);
            if self.shared.is_full.load(Ordering::SeqCst) && offset + len > size.max(*room) {
                return Err(Errno::NOSPC.into());
            }
            *room = (offset + len).max(*room);
        }
        let io = if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            let end =
                if mode.contains(FallocateFlags::KEEP_SIZE) { size.min(offset + len) } else { offset + len };
            Io::Write(self.id, offset, vec![0; end.saturating_sub(offset) as usize])
        } else if mode.contains(FallocateFlags::KEEP_SIZE) || offset + len <= size {
            // Space set aside for the log shows in no content: it would only take memory here.
            let keeps_log = self.id.folder() == Folder::Log;
            return self
                .shared
                .io(Io::Nothing, || if keeps_log { Ok(()) } else { self.file.allocate(mode, offset, len) });
        } else {
            Io::SetLen(self.id, offset + len)
        };
        self.shared.io(io, || self.file.allocate(mode, offset, len))
    }

    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        self.shared.io(Io::Nothing, || self.file.seek(what, offset))
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        let io = if (self.shared.deaf)(self.id) { Io::Nothing } else { Io::Sync(self.id) };
        self.shared.io(io, || self.file.sync(data_only))
    }

    fn stat(&self) -> io::Result<FileStat> {
        self.shared.io(Io::Nothing, || self.file.stat())
    }
}
