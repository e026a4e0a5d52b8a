//! The backstore in memory (`"InMemory"`): pages in a map, so that holes cost nothing. Gone with the daemon.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use rustix::fs::FallocateFlags;

use super::{Device, FileId, FileStat, Folder, ObjectFile, Seek, Space};
use crate::types::{ObjectId, Timestamp};

const PAGE: u64 = 4096;
const PAGE_LEN: usize = PAGE as usize;

type Page = Box<[u8; PAGE_LEN]>;

/// All objects in memory.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<HashMap<FileId, Arc<MemoryFile>>>,
}

impl Memory {
    fn find(&self, id: FileId) -> io::Result<Arc<MemoryFile>> {
        self.objects.lock().get(&id).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Device for Memory {
    fn create(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        match self.objects.lock().entry(id) {
            Entry::Vacant(free) => Ok(free.insert(Arc::default()).clone()),
            Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn open(&self, id: FileId) -> io::Result<Arc<dyn ObjectFile>> {
        Ok(self.find(id)?)
    }

    fn duplicate(&self, from: ObjectId, to: ObjectId, len: u64) -> io::Result<Arc<dyn ObjectFile>> {
        let mut pages = self.find(FileId::Object(from))?.pages.read().clone();
        pages.set_len(len);
        let file = Arc::new(MemoryFile { pages: RwLock::new(pages) });
        self.objects.lock().insert(FileId::Object(to), file.clone());
        Ok(file)
    }

    fn exchange(&self, a: ObjectId, b: ObjectId) -> io::Result<()> {
        let mut files = self.objects.lock();
        let (a, b) = (FileId::Object(a), FileId::Object(b));
        let (Some(of_a), Some(of_b)) = (files.get(&a).cloned(), files.get(&b).cloned()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        files.extend([(a, of_b), (b, of_a)]);
        Ok(())
    }

    fn remove(&self, id: FileId) -> io::Result<u64> {
        match self.objects.lock().remove(&id) {
            Some(file) => Ok(file.pages.read().held()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<FileId>> {
        Ok(self.objects.lock().keys().filter(|id| id.folder() == folder).copied().collect())
    }

    fn publish(&self, piece: u64) -> io::Result<()> {
        let mut files = self.objects.lock();
        let draft = files.remove(&FileId::Draft(piece)).ok_or(io::ErrorKind::NotFound)?;
        files.insert(FileId::Log(piece), draft);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let info = rustix::system::sysinfo();
        let unit = u64::from(info.mem_unit.max(1));
        let pages = |amount: u64| amount.saturating_mul(unit) / PAGE;
        let (all, free) = (pages(info.totalram), pages(info.freeram.saturating_add(info.bufferram)));
        Ok(Space {
            block_size: PAGE as u32,
            blocks: all,
            free,
            available: free,
            files: all,
            files_free: free,
        })
    }

    fn reflinks(&self) -> bool {
        false
    }
}

/// Bytes that could still be kept.
fn available_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.freeram.saturating_add(info.bufferram).saturating_mul(u64::from(info.mem_unit.max(1)))
}

#[derive(Default)]
struct MemoryFile {
    pages: RwLock<Pages>,
}

#[derive(Clone, Default)]
struct Pages {
    len: u64,
    modified: Timestamp,
    map: BTreeMap<u64, Page>,
}

/// The part of the page that begins at `page` which `[offset, offset + len)` touches, as a range in the page.
fn overlap(page: u64, offset: u64, len: u64) -> std::ops::Range<usize> {
    let start = offset.max(page) - page;
    let end = (offset + len).min(page + PAGE) - page;
    start as usize..end as usize
}

fn pages_of(offset: u64, len: u64) -> impl Iterator<Item = u64> {
    let first = offset - offset % PAGE;
    (first..offset + len).step_by(PAGE_LEN)
}

impl Pages {
    fn held(&self) -> u64 {
        self.map.len() as u64 * PAGE
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.punch(len, self.len - len);
        }
        self.len = len;
    }

    fn punch(&mut self, offset: u64, len: u64) {
        let touched: Vec<u64> =
            self.map.range(offset - offset % PAGE..offset + len).map(|(at, _)| *at).collect();
        for at in touched {
            let part = overlap(at, offset, len);
            let whole = part.len() == PAGE_LEN || (part.start == 0 && offset + len >= self.len);
            if whole {
                self.map.remove(&at);
            } else if let Some(room) = self.map.get_mut(&at).and_then(|page| page.get_mut(part)) {
                room.fill(0);
            }
        }
    }

    fn page(&mut self, at: u64) -> &mut Page {
        self.map.entry(at).or_insert_with(|| Box::new([0; PAGE_LEN]))
    }
}

impl MemoryFile {
    /// The pages, about to be changed.
    fn changing(&self) -> RwLockWriteGuard<'_, Pages> {
        let mut pages = self.pages.write();
        pages.modified = Timestamp::now();
        pages
    }
}

impl ObjectFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let pages = self.pages.read();
        let len = pages.len.saturating_sub(offset).min(buf.len() as u64);
        let mut rest = buf.get_mut(..len as usize).unwrap_or_default();
        for at in pages_of(offset, len) {
            let part = overlap(at, offset, len);
            let (room, tail) = std::mem::take(&mut rest).split_at_mut(part.len());
            match pages.map.get(&at).and_then(|page| page.get(part)) {
                Some(bytes) => room.copy_from_slice(bytes),
                None => room.fill(0),
            }
            rest = tail;
        }
        Ok(len as usize)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut pages = self.changing();
        let len = data.len() as u64;
        let mut rest = data;
        for at in pages_of(offset, len) {
            let part = overlap(at, offset, len);
            let (bytes, tail) = rest.split_at(part.len());
            if let Some(room) = pages.page(at).get_mut(part) {
                room.copy_from_slice(bytes);
            }
            rest = tail;
        }
        pages.len = pages.len.max(offset + len);
        Ok(data.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.changing().set_len(len);
        Ok(())
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let mut pages = self.changing();
        if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            pages.punch(offset, len);
        } else {
            if len > available_memory() {
                return Err(rustix::io::Errno::NOSPC.into());
            }
            for at in pages_of(offset, len) {
                pages.page(at);
            }
        }
        if !mode.contains(FallocateFlags::KEEP_SIZE) {
            pages.len = pages.len.max(offset + len);
        }
        Ok(())
    }

    fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        let pages = self.pages.read();
        if offset >= pages.len {
            return Ok(None);
        }
        let first = offset - offset % PAGE;
        let at = match what {
            Seek::Data => pages.map.range(first..).next().map_or(pages.len, |(at, _)| *at),
            Seek::Hole => {
                (first..).step_by(PAGE_LEN).find(|at| !pages.map.contains_key(at)).unwrap_or(pages.len)
            }
        };
        let found = at.max(offset).min(pages.len);
        Ok((what == Seek::Hole || found < pages.len).then_some(found))
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        Ok(())
    }

    fn stat(&self) -> io::Result<FileStat> {
        let pages = self.pages.read();
        let (len, blocks, modified) = (pages.len, pages.held() / 512, pages.modified);
        Ok(FileStat { len, blocks, modified, changed: modified })
    }
}
