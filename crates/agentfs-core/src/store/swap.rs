//! Room on disk for what nobody looks at: bytes in files without a name, gone with the daemon. The log says all of it, too:
//! the next mount needs none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{BLOCK, Device, ObjectFile, no_space};

/// Bytes after which another file is begun: the space of one comes back whole when nothing in it is needed.
const FULL: u64 = 4 << 20;

/// Room on disk for what nobody looks at.
pub struct Swap {
    device: Arc<dyn Device>,
    /// The file that is being filled, and its bytes. Held over writes to it, by the one who writes.
    open: Mutex<Option<(Arc<dyn ObjectFile>, u64)>>,
    /// Leaf lock: those that were written since they were synced.
    written: Mutex<Vec<Arc<dyn ObjectFile>>>,
    count: Arc<AtomicUsize>,
}

/// Bytes in a swap, until this is dropped.
pub struct Swapped {
    file: Arc<dyn ObjectFile>,
    at: u64,
    len: usize,
    checksum: u32,
    count: Arc<AtomicUsize>,
}

impl Swap {
    /// One in files of `device`.
    pub fn new(device: Arc<dyn Device>) -> Swap {
        Swap { device, open: Mutex::default(), written: Mutex::default(), count: Arc::default() }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// What the device answers.
    pub fn put(&self, bytes: &[u8]) -> io::Result<Swapped> {
        let mut open = self.open.lock();
        let (file, at) = match open.take() {
            Some((file, end)) if end < FULL => (file, end),
            _ => (self.device.scratch()?, 0),
        };
        {
            let mut unsynced = self.written.lock();
            if !unsynced.iter().any(|known| Arc::ptr_eq(known, &file)) {
                unsynced.push(file.clone());
            }
        }
        let written = file.write_at(bytes, at);
        *open = Some((file.clone(), at + bytes.len() as u64));
        if written? < bytes.len() {
            return Err(no_space());
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let (len, checksum) = (bytes.len(), crc32c::crc32c(bytes));
        Ok(Swapped { file, at, len, checksum, count: self.count.clone() })
    }

    /// Sees to it that the host has what was written until now: it may forget what it could not write, and tells once.
    ///
    /// # Errors
    /// What the device answers: nothing that was put since the last time is to be relied on.
    pub fn sync(&self) -> io::Result<()> {
        let written = std::mem::take(&mut *self.written.lock());
        let synced = written.iter().try_for_each(|file| file.sync(true));
        let mut open = self.open.lock();
        *open = match (open.take(), &synced) {
            // No block is written again that holds what was relied on.
            (Some((file, end)), Ok(())) => Some((file, end.next_multiple_of(BLOCK))),
            _ => None,
        };
        synced
    }

    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Swapped {
    /// Reads the bytes.
    ///
    /// # Errors
    /// What the device answers; `InvalidData` when they are not those that were written.
    pub fn get(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.len];
        let read = self.file.read_at(&mut bytes, self.at)?;
        if read == self.len && crc32c::crc32c(&bytes) == self.checksum {
            return Ok(bytes);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "what was put aside on disk is damaged"))
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let (from, to) = (self.at.next_multiple_of(BLOCK), self.at + self.len as u64);
        let len = to.saturating_sub(from) / BLOCK * BLOCK;
        if len > 0 {
            // Else it comes back with the file.
            let _ = self.file.punch(from, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Memory;

    #[test]
    fn what_is_put_is_got_until_it_is_dropped() {
        let swap = Swap::new(Arc::new(Memory::default()));
        let pieces = [vec![7; 100], Vec::new(), vec![8; 40_000], vec![9; 1]];
        let put: Vec<_> = pieces.iter().map(|bytes| swap.put(bytes).expect("memory takes it")).collect();
        assert_eq!(swap.len(), 4);
        for (put, bytes) in put.iter().zip(&pieces) {
            assert_eq!(put.get().expect("memory reads"), *bytes);
        }
        let held = || put.first().map(|put| put.file.stat().expect("memory knows").blocks * 512);
        assert_eq!(held(), Some(10 * 4096));
        let mut put = put;
        drop(put.remove(2));
        let held = put.first().map(|put| put.file.stat().expect("memory knows").blocks * 512);
        assert_eq!((held, swap.len()), (Some(2 * 4096), 3));
        let last = put.pop().expect("there are three");
        last.file.write_at(&[3], last.at).expect("memory takes it");
        assert_eq!(last.get().err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
    }
}
