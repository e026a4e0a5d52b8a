//! The piece of the log that is written to, and the space that is set aside for it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::store::{FallocateFlags, ObjectFile, is_no_space};
use crate::types::{InodeId, ObjectId};

/// Bytes kept for when the host is full: half of it for any record that needs no space elsewhere, half for those that give
/// space back.
pub(super) const RESERVE: u64 = 256 << 10;
/// The host sets space aside in blocks of so many bytes.
const BLOCK: u64 = 4096;

/// Where records are appended.
pub(super) struct Head {
    pub(super) file: Arc<dyn ObjectFile>,
    /// The number of the piece.
    pub(super) piece: u64,
    /// Bytes in it.
    pub(super) len: u64,
    /// Bytes of it that are durable.
    pub(super) synced: u64,
    /// Bytes that the host has set aside for it.
    pub(super) reserved: u64,
    pub(super) position: u64,
    /// Pieces before it that may not be durable.
    pub(super) before: Vec<Arc<dyn ObjectFile>>,
    /// Objects to be synced before the records that name them.
    pub(super) first: HashSet<ObjectId>,
    /// The inodes of which records speak that came after the last sync began.
    pub(super) touched: HashSet<InodeId>,
    /// Those of records before, while that sync is not done.
    pub(super) in_sync: HashSet<InodeId>,
    /// Its bytes when it was begun, for a checkpoint that is not there yet.
    pub(super) begun: Option<u64>,
}

impl Head {
    /// A piece that has these bytes, all durable.
    pub(super) fn of(file: Arc<dyn ObjectFile>, piece: u64, len: u64) -> Head {
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
    pub(super) fn hand_over(&mut self, next: &mut Head) {
        next.position = self.position;
        next.before = std::mem::take(&mut self.before);
        next.first = std::mem::take(&mut self.first);
        next.touched = std::mem::take(&mut self.touched);
        next.in_sync = std::mem::take(&mut self.in_sync);
    }

    /// Bytes that are set aside behind its end.
    pub(super) fn spare(&self) -> u64 {
        self.reserved.saturating_sub(self.len)
    }

    /// Sees to it that the host has set some space aside, so that what gives space back can be recorded when there is
    /// none left. False when it could not.
    pub(super) fn reserve(&mut self, more: u64) -> bool {
        self.len + more + RESERVE <= self.reserved
            || self.set_aside(self.reserved.max(self.len), 2 * RESERVE + more)
    }

    /// Finds what an earlier mount left set aside, when the host has no more.
    pub(super) fn find_reserve(&mut self) {
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
