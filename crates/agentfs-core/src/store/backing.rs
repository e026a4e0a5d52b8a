//! Backing files of objects: what names each, as a whole or by stretches. A file goes with the last that names any of it;
//! stretches of a file that nothing names any more are given back to the host, unless the file is still written to.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::reaper::Reaper;
use super::stretch::whole_blocks;
use super::{BLOCK, Device, FileId, Stretch};
use crate::types::{Epoch, ObjectId};

/// More stretches that fell free than this are remembered as one that covers them.
const MOST_FREED: usize = 256;

/// The file of an object, as long as anything names any of it.
pub struct Backing {
    /// Its number in the store.
    pub id: ObjectId,
    /// The epoch of the branch that may write it; no other may.
    epoch: AtomicU64,
    /// May it hold bytes that are not durable?
    unsynced: AtomicBool,
    /// Bytes that were written to it in layers, the same ones each time.
    pub(crate) written: AtomicU64,
    /// Leaf lock.
    named: Mutex<Named>,
    reaper: Arc<Reaper>,
}

/// What names a file.
#[derive(Default)]
struct Named {
    /// Names of all of it.
    wholes: usize,
    /// Names of stretches: by how much more begin here than end here.
    bounds: BTreeMap<u64, i64>,
    /// Of these something let go since they were last looked at.
    freed: Vec<Stretch>,
    /// Is it in the reaper's list already?
    is_listed: bool,
}

impl std::fmt::Debug for Backing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "object {} of epoch {}", self.id.0, self.epoch().0)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        self.reaper.remove_later(FileId::Object(self.id));
    }
}

impl Backing {
    pub(super) fn new(id: ObjectId, epoch: Epoch, reaper: Arc<Reaper>, is_new: bool) -> Arc<Backing> {
        Arc::new(Backing {
            id,
            epoch: AtomicU64::new(epoch.0),
            unsynced: AtomicBool::new(is_new),
            written: AtomicU64::new(0),
            named: Mutex::default(),
            reaper,
        })
    }

    /// The epoch of the branch that may write it; no other may.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// It goes on as private content in another epoch: no other version names it, or it is nobody's to write from then on.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    /// Is it known that all it holds is durable? What was written since [`Backing::note_write`] is not.
    pub(crate) fn is_synced(&self) -> bool {
        !self.unsynced.load(Ordering::Acquire)
    }

    /// It is about to be made durable, or that has failed.
    pub(crate) fn set_synced(&self, is_synced: bool) {
        self.unsynced.store(!is_synced, Ordering::Release);
    }

    /// So many bytes are about to be written to it.
    pub(crate) fn note_write(&self, bytes: u64) {
        self.set_synced(false);
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All of it is named, once more.
    pub(super) fn name_whole(&self) {
        self.named.lock().wholes += 1;
    }

    pub(super) fn drop_whole(self: &Arc<Backing>) {
        let mut named = self.named.lock();
        named.wholes = named.wholes.saturating_sub(1);
        // Nobody names a part of most files: they go as a whole.
        if !named.bounds.is_empty() {
            named.free((0, u64::MAX));
            self.list(&mut named);
        }
    }

    fn name(&self, (start, end): Stretch) {
        let mut named = self.named.lock();
        named.bound(start, 1);
        named.bound(end, -1);
    }

    fn drop_stretch(self: &Arc<Backing>, (start, end): Stretch) {
        let mut named = self.named.lock();
        named.bound(start, -1);
        named.bound(end, 1);
        named.free((start, end));
        self.list(&mut named);
    }

    /// A stretch of it is free though nothing ever named it.
    pub(crate) fn note_spare(self: &Arc<Backing>, start: u64, end: u64) {
        let mut named = self.named.lock();
        named.free((start, end));
        self.list(&mut named);
    }

    fn list(self: &Arc<Backing>, named: &mut Named) {
        if !named.is_listed {
            named.is_listed = self.reaper.look_later(self);
        }
    }

    /// Gives back to the host the whole blocks that nothing names any more, of those that something let go of; returns the
    /// bytes that came back. Nobody writes to the file any more, but to what is named.
    pub(super) fn punch(&self, device: &dyn Device) -> io::Result<u64> {
        let gaps = self.named.lock().take_gaps();
        if gaps.is_empty() {
            return Ok(0);
        }
        let file = device.open(FileId::Object(self.id))?;
        let before = file.stat()?;
        let len = before.len.next_multiple_of(BLOCK);
        for (start, end) in gaps.into_iter().map(|(start, end)| (start, end.min(len))) {
            if start < end {
                file.punch(start, end - start)?;
            }
        }
        Ok(before.blocks.saturating_sub(file.stat()?.blocks) * 512)
    }

    /// It is in no list any more.
    pub(super) fn unlist(&self) {
        self.named.lock().is_listed = false;
    }
}

impl Named {
    fn bound(&mut self, at: u64, by: i64) {
        let sum = self.bounds.entry(at).or_default();
        *sum += by;
        if *sum == 0 {
            self.bounds.remove(&at);
        }
    }

    fn free(&mut self, (start, end): Stretch) {
        let (start, end) = (start - start % BLOCK, end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX));
        match self.freed.last_mut() {
            Some(last) if start <= last.1 && last.0 <= end => *last = (last.0.min(start), last.1.max(end)),
            _ => self.freed.push((start, end)),
        }
        if self.freed.len() > MOST_FREED {
            let start = self.freed.iter().map(|freed| freed.0).min().unwrap_or(0);
            let end = self.freed.iter().map(|freed| freed.1).max().unwrap_or(0);
            self.freed = vec![(start, end)];
        }
    }

    /// The whole blocks that nothing names, of those that something let go of.
    fn take_gaps(&mut self) -> Vec<Stretch> {
        if self.wholes > 0 {
            return Vec::new();
        }
        let mut freed = std::mem::take(&mut self.freed);
        freed.sort_unstable();
        let (mut gaps, mut depth, mut start) = (Vec::new(), 0, 0);
        for (at, by) in &self.bounds {
            if depth == 0 {
                gaps.push((start, *at));
            }
            depth += by;
            start = *at;
        }
        gaps.push((start, u64::MAX));
        let gaps = gaps.into_iter().filter_map(whole_blocks);
        common(gaps, &freed)
    }
}

/// What is in both; each is in order, and touches itself nowhere but in `b`.
fn common(a: impl Iterator<Item = Stretch>, b: &[Stretch]) -> Vec<Stretch> {
    let (mut found, mut next): (Vec<Stretch>, _) = (Vec::new(), 0);
    for (start, end) in a {
        while let Some(freed) = b.get(next) {
            let part = (freed.0.max(start), freed.1.min(end));
            if part.0 < part.1 {
                match found.last_mut() {
                    Some(last) if part.0 <= last.1 => last.1 = last.1.max(part.1),
                    _ => found.push(part),
                }
            }
            if freed.1 > end {
                break; // it may be in the next, too
            }
            next += 1;
        }
    }
    found
}

/// A stretch of a backing file that a content names. The file has it as long as this is.
pub struct Claim {
    backing: Arc<Backing>,
    /// The first byte.
    at: u64,
    /// Bytes, 1 at least.
    len: u64,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {} of {:?}", self.len, self.at, self.backing)
    }
}

impl PartialEq for Claim {
    fn eq(&self, other: &Claim) -> bool {
        (self.backing.id, self.at, self.len) == (other.backing.id, other.at, other.len)
    }
}

impl Eq for Claim {}

impl Drop for Claim {
    fn drop(&mut self) {
        self.backing.drop_stretch((self.at, self.at + self.len));
    }
}

impl Claim {
    /// Names `len` bytes from `at` on.
    pub fn new(backing: Arc<Backing>, at: u64, len: u64) -> Arc<Claim> {
        backing.name((at, at + len));
        Arc::new(Claim { backing, at, len })
    }

    /// Names a part of it.
    pub fn part(&self, skip: u64, len: u64) -> Arc<Claim> {
        Claim::new(self.backing.clone(), self.at + skip, len)
    }

    /// The file.
    pub fn backing(&self) -> &Arc<Backing> {
        &self.backing
    }

    /// The first byte.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes, 1 at least.
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Does `next` go on in the file where this ends?
    pub(super) fn goes_on_in(&self, next: &Claim) -> bool {
        self.backing.id == next.backing.id && self.at + self.len == next.at
    }
}

/// In which epochs files are written.
pub struct Live {
    /// Those of all branches.
    pub epochs: HashSet<Epoch>,
    /// The first that no branch was ever in when these were looked at.
    pub next: Epoch,
}

impl Live {
    fn has(&self, epoch: Epoch) -> bool {
        epoch >= self.next || self.epochs.contains(&epoch)
    }
}

/// Files of which something was let go, to be looked at.
pub(super) fn punch_all(
    backings: impl IntoIterator<Item = Arc<Backing>>,
    device: &dyn Device,
    live: &Live,
) -> u64 {
    let mut held = 0;
    for backing in backings {
        backing.unlist();
        if live.has(backing.epoch()) {
            let mut named = backing.named.lock();
            backing.list(&mut named);
            continue;
        }
        match backing.punch(device) {
            Ok(bytes) => held += bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::debug!(%error, ?backing, "the host does not take space back from the middle of a file");
            }
        }
    }
    held
}
