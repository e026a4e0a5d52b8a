//! Backing files of objects: what names each, as a whole or by stretches. A file goes with the last that names any of it;
//! stretches of a file that nothing names any more are given back to the host, unless the file is still written to.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::named::{Freed, Named};
use super::quota::{Account, Charge, Charged, Unit, missing_blocks};
use super::reaper::Reaper;
use super::stretch::{merge, whole_blocks, without};
use super::{BLOCK, Device, FileId, ObjectFile, Stretch};
use crate::error::Result;
use crate::types::{Epoch, ObjectId};

/// The file of an object, as long as anything names any of it.
pub struct Backing {
    /// Its number in the store.
    pub id: ObjectId,
    /// The epoch of the branch that may write it; no other may.
    epoch: AtomicU64,
    /// How often it was changed.
    changes: AtomicU64,
    /// How many of these changes are known to be durable.
    synced: AtomicU64,
    /// Bytes that were written to it in layers, the same ones each time.
    pub(crate) written: AtomicU64,
    /// Leaf lock.
    named: Mutex<Named>,
    /// What it holds, where there are quotas.
    charge: Charged,
    /// Leaf lock: stretches for which the host has blocks though it calls them holes, where there are quotas.
    prepared: Mutex<Vec<Stretch>>,
    reaper: Arc<Reaper>,
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
            changes: AtomicU64::new(u64::from(is_new)),
            synced: AtomicU64::new(0),
            written: AtomicU64::new(0),
            named: Mutex::default(),
            charge: Charged::default(),
            prepared: Mutex::default(),
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

    /// How often it was changed; [`Backing::is_synced_to`] there when it was made durable after this was asked.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Is it known that all it holds is durable?
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire) >= self.changes()
    }

    /// So many of its changes are durable.
    pub(crate) fn is_synced_to(&self, changes: u64) {
        self.synced.fetch_max(changes, Ordering::AcqRel);
    }

    /// It was changed: before a record says what it has now, and after it has that, or a sync that came between would count
    /// for it.
    pub(crate) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// So many bytes were written to it.
    pub(crate) fn note_write(&self, bytes: u64) {
        self.note_change();
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// It holds so many bytes, for which this was `reserved`; `account` is charged if nobody was before.
    pub fn holds(&self, account: &Arc<Account>, bytes: u64, reserved: Option<&Charge>) {
        self.charge.set(account, Unit::Bytes, bytes, reserved);
    }

    /// The host has set blocks apart for what is to be written there.
    pub(crate) fn is_prepared(&self, (start, end): Stretch) {
        let mut prepared = self.prepared.lock();
        prepared.extend(whole_blocks((start, end)));
        merge(&mut prepared);
    }

    /// Some of that may have gone back.
    pub(crate) fn is_prepared_nowhere(&self) {
        self.prepared.lock().clear();
    }

    /// Which whole blocks of a stretch it has not; `open` is its file.
    ///
    /// # Errors
    /// What the host answers.
    pub(crate) fn missing(&self, open: &dyn ObjectFile, stretch: Stretch) -> Result<Vec<Stretch>> {
        Ok(without(&missing_blocks(open, stretch)?, &self.prepared.lock()))
    }

    /// Bytes of it that contents name, if they name parts of it only.
    pub(crate) fn named_parts(&self) -> Option<u64> {
        let named = self.named.lock();
        (named.wholes == 0).then(|| named.bytes())
    }

    /// All of it is named, once more.
    pub(super) fn name_whole(&self) {
        self.named.lock().wholes += 1;
    }

    pub(super) fn drop_whole(self: &Arc<Backing>) {
        let mut named = self.named.lock();
        named.wholes = named.wholes.saturating_sub(1);
        // Nobody names a part of most files: they go as a whole.
        if named.has_parts() {
            self.free(&mut named, (0, u64::MAX));
        }
    }

    fn name(&self, (start, end): Stretch) {
        let mut named = self.named.lock();
        named.bound((start, end), 1);
    }

    fn drop_stretch(self: &Arc<Backing>, (start, end): Stretch) {
        let mut named = self.named.lock();
        named.bound((start, end), -1);
        self.free(&mut named, (start, end));
    }

    /// A stretch of it is free though nothing ever named it.
    pub(crate) fn note_spare(self: &Arc<Backing>, start: u64, end: u64) {
        self.free(&mut self.named.lock(), (start, end));
    }

    /// A volume was opened: what was let go of before, and had not been given back, is not known. It is looked for when the log is
    /// `sound`: what is lost of another may have named it.
    pub(crate) fn note_opened(self: &Arc<Backing>, live: &Live, sound: bool) {
        let mut named = self.named.lock();
        (named.freed, named.waiting) = Default::default();
        if sound && named.wholes == 0 && named.has_parts() {
            named.freed = Freed::all(self.reaper.position());
            if !live.has(self.epoch()) {
                self.list(&mut named);
            }
        }
    }

    fn free(self: &Arc<Backing>, named: &mut Named, stretch: Stretch) {
        named.freed.add(stretch);
        named.freed.position = named.freed.position.max(self.reaper.position());
        self.list(named);
    }

    fn list(self: &Arc<Backing>, named: &mut Named) {
        if !named.is_listed {
            named.is_listed = self.reaper.look_later(self);
        }
    }

    /// Gives back to the host the whole blocks that nothing names any more, of those that records before the position
    /// `durable` let go of, in `left` places at most, and counts them down; returns the bytes that came back. Nobody writes
    /// to the file any more, but to what is named.
    fn punch(self: &Arc<Backing>, device: &dyn Device, durable: u64, left: &mut usize) -> io::Result<u64> {
        let gaps = {
            let mut named = self.named.lock();
            let gaps = named.take_gaps(durable, *left);
            let is_more = gaps.len() == *left;
            *left -= gaps.len().min(*left);
            if is_more && !named.is_listed {
                // It is due already.
                named.is_listed = self.reaper.look_next(self);
            } else if named.is_waiting() {
                self.list(&mut named);
            }
            gaps
        };
        let punched = self.punch_gaps(device, &gaps);
        if punched.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::Unsupported) {
            let mut named = self.named.lock();
            gaps.into_iter().for_each(|gap| named.freed.add(gap));
            self.list(&mut named);
        }
        punched
    }

    fn punch_gaps(&self, device: &dyn Device, gaps: &[Stretch]) -> io::Result<u64> {
        if gaps.is_empty() {
            return Ok(0);
        }
        let file = device.open(FileId::Object(self.id))?;
        let before = file.stat()?;
        let len = before.len.next_multiple_of(BLOCK);
        for (start, end) in gaps.iter().map(|(start, end)| (*start, len.min(*end))) {
            if start < end {
                file.punch(start, end - start)?;
            }
        }
        let after = file.stat()?;
        self.charge.now(after.blocks * 512);
        Ok(before.blocks.saturating_sub(after.blocks) * 512)
    }

    /// It is in no list any more.
    fn unlist(&self) {
        self.named.lock().is_listed = false;
    }
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

/// Files of which something was let go, to be looked at: what records before the position `durable` let go of goes, as long
/// as places and files are `left`.
pub(super) fn punch_all(
    backings: impl Iterator<Item = Arc<Backing>>,
    device: &dyn Device,
    live: &Live,
    durable: u64,
    left: &mut usize,
) -> u64 {
    let mut held = 0;
    for backing in backings {
        backing.unlist();
        if *left == 0 || live.has(backing.epoch()) {
            let mut named = backing.named.lock();
            backing.list(&mut named);
            continue;
        }
        *left -= 1;
        match backing.punch(device, durable, left) {
            Ok(bytes) => held += bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::debug!(%error, ?backing, "the host does not take space back from the middle of a file");
            }
        }
    }
    held
}
