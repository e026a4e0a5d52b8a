//! Quotas: what a volume and each of its branches may hold. Whatever takes space carries a charge, which ends with it. What a
//! branch wrote since it was frozen last is charged to the branch and to the volume; what it had written by then goes on
//! being charged to the volume alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::{BLOCK, ObjectFile, Seek, Stretch};
use crate::error::{FsError, Result};

/// What may be held at most; `u64::MAX`: as much as there is room for. Or what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of content, in whole blocks as `du` counts them.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl Quota {
    /// As much as there is room for.
    pub const NONE: Quota = Quota { bytes: u64::MAX, inodes: u64::MAX };
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of content.
    Bytes,
    /// Files and directories.
    Inodes,
}

/// What is held of a quota.
#[derive(Debug)]
struct Tally {
    quota: Quota,
    bytes: AtomicU64,
    inodes: AtomicU64,
}

impl Tally {
    fn new(quota: Quota) -> Tally {
        Tally { quota, bytes: AtomicU64::new(0), inodes: AtomicU64::new(0) }
    }

    fn of(&self, unit: Unit) -> (&AtomicU64, u64) {
        match unit {
            Unit::Bytes => (&self.bytes, self.quota.bytes),
            Unit::Inodes => (&self.inodes, self.quota.inodes),
        }
    }

    fn held(&self, unit: Unit) -> u64 {
        self.of(unit).0.load(Ordering::Relaxed)
    }

    fn left(&self, unit: Unit) -> u64 {
        let (held, quota) = self.of(unit);
        quota.saturating_sub(held.load(Ordering::Relaxed))
    }

    fn add(&self, unit: Unit, count: u64) {
        self.of(unit).0.fetch_add(count, Ordering::Relaxed);
    }

    fn give(&self, unit: Unit, count: u64) {
        self.of(unit).0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Adds so many if they fit, also when `credit` of what is there goes soon.
    fn take(&self, unit: Unit, count: u64, credit: u64) -> bool {
        let (held, quota) = self.of(unit);
        let fits = |held: u64| {
            let sum = held.checked_add(count)?;
            (count <= credit || sum.saturating_sub(credit) <= quota).then_some(sum)
        };
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

/// Who is charged: a volume, and one of its branches from one time that it is frozen to the next.
#[derive(Debug)]
pub struct Account {
    branch: Option<Tally>,
    volume: Arc<Tally>,
}

/// The quotas of a volume.
#[derive(Debug)]
pub struct Quotas {
    branch: Quota,
    /// For what is no branch's own.
    pub shared: Arc<Account>,
}

impl Quotas {
    /// Those that were set, if any was.
    pub fn new(volume: Quota, branch: Quota) -> Option<Quotas> {
        let is_set = volume != Quota::NONE || branch != Quota::NONE;
        let shared = || Arc::new(Account { branch: None, volume: Arc::new(Tally::new(volume)) });
        is_set.then(|| Quotas { branch, shared: shared() })
    }

    /// For a branch.
    pub fn account(&self) -> Arc<Account> {
        let branch = Some(Tally::new(self.branch));
        Arc::new(Account { branch, volume: self.shared.volume.clone() })
    }
}

impl Account {
    /// For the same branch, when it has been frozen.
    pub fn next(&self) -> Arc<Account> {
        let branch = self.branch.as_ref().map(|tally| Tally::new(tally.quota));
        Arc::new(Account { branch, volume: self.volume.clone() })
    }

    fn tallies(&self) -> impl Iterator<Item = &Tally> {
        self.branch.iter().chain([&*self.volume])
    }

    /// How much fits.
    pub fn left(&self, unit: Unit) -> u64 {
        self.tallies().map(|tally| tally.left(unit)).min().unwrap_or(u64::MAX)
    }

    /// What is held, and the quota, of the branch if `is_branch`, else of the volume.
    pub fn told(&self, unit: Unit, is_branch: bool) -> (u64, u64) {
        let tally = self.branch.as_ref().filter(|_| is_branch).unwrap_or(&self.volume);
        (tally.held(unit), tally.of(unit).1)
    }

    /// Charges so many that are about to be, while the charge lives. They may take the place of `credit` others, which are
    /// there until then.
    ///
    /// # Errors
    /// `QuotaExceeded` when the branch may not hold so many, `VolumeFull` when the volume may not.
    pub fn reserve(self: &Arc<Account>, unit: Unit, count: u64, credit: u64) -> Result<Charge> {
        let branch = self.branch.as_ref();
        if branch.is_some_and(|tally| !tally.take(unit, count, credit)) {
            return Err(FsError::QuotaExceeded);
        }
        if !self.volume.take(unit, count, credit) {
            branch.inspect(|tally| tally.give(unit, count));
            return Err(FsError::VolumeFull);
        }
        Ok(Charge { account: self.clone(), unit, count: AtomicU64::new(count) })
    }

    /// Room for what is to be written to `[offset, offset + len)` of a file, and how many bytes of that fit; what is there
    /// already is not counted again: `missing` says which whole blocks of a stretch are not.
    ///
    /// # Errors
    /// As [`Account::reserve`], when nothing fits, or when it `is_whole` and not all does; what `missing` answers.
    pub fn reserve_range(
        self: &Arc<Account>,
        (offset, len): (u64, u64),
        is_whole: bool,
        missing: impl Fn(Stretch) -> Result<Vec<Stretch>>,
    ) -> Result<(Charge, u64)> {
        let (from, to) = (offset - offset % BLOCK, (offset + len).next_multiple_of(BLOCK));
        // Far from the edge nobody need look.
        let refused = match self.reserve(Unit::Bytes, to - from, 0) {
            Ok(charge) => return Ok((charge, len)),
            Err(refused) => refused,
        };
        let mut left = self.left(Unit::Bytes);
        let (mut need, mut end) = (0, offset + len);
        for (start, stop) in missing((from, to))? {
            let fits = (stop - start).min(left - left % BLOCK);
            (left, need) = (left - fits, need + fits);
            if fits < stop - start {
                end = end.min(start + fits);
                break;
            }
        }
        if end <= offset || (is_whole && end < offset + len) {
            return Err(refused);
        }
        self.reserve(Unit::Bytes, need, 0).map(|charge| (charge, end - offset))
    }
}

/// Where a file has no blocks, in whole ones.
///
/// # Errors
/// What the host answers.
pub(super) fn missing_blocks(file: &dyn ObjectFile, (from, to): Stretch) -> Result<Vec<Stretch>> {
    let (mut found, mut at) = (Vec::new(), from);
    while at < to {
        // Where a file ends, a hole begins, and the block goes on.
        let hole = file.seek(Seek::Hole, at)?.unwrap_or(at).next_multiple_of(BLOCK).min(to);
        let data = file.seek(Seek::Data, hole)?.unwrap_or(to).min(to);
        if hole < data {
            found.push((hole, data));
        }
        at = data.max(hole);
    }
    Ok(found)
}

/// What something holds, as long as it is there.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    unit: Unit,
    count: AtomicU64,
}

impl Charge {
    /// It holds so many now. What was `reserved` for them is used up by that, at once: at no time are they counted twice.
    fn set(&self, count: u64, reserved: Option<&Charge>) {
        let before = self.count.swap(count, Ordering::Relaxed);
        let same = reserved.filter(|reserved| Arc::ptr_eq(&reserved.account, &self.account));
        let used = same.map_or(0, |reserved| reserved.count.swap(0, Ordering::Relaxed));
        self.account.tallies().for_each(|tally| match count.checked_sub(before + used) {
            Some(more) => tally.add(self.unit, more),
            None => tally.give(self.unit, before + used - count),
        });
    }

    /// How many it holds, if that is charged to `account`.
    pub fn held_of(&self, account: &Arc<Account>) -> u64 {
        if Arc::ptr_eq(&self.account, account) { self.count.load(Ordering::Relaxed) } else { 0 }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let count = *self.count.get_mut();
        self.account.tallies().for_each(|tally| tally.give(self.unit, count));
    }
}

/// The charge of something, once it is known who is charged. It makes no difference between two that are the same otherwise.
#[derive(Clone, Debug, Default)]
pub struct Charged(OnceLock<Arc<Charge>>);

impl Charged {
    /// It holds so many, for which this was `reserved`; `account` is charged if nobody was before.
    pub fn set(&self, account: &Arc<Account>, unit: Unit, count: u64, reserved: Option<&Charge>) {
        let nothing = || Arc::new(Charge { account: account.clone(), unit, count: AtomicU64::new(0) });
        self.0.get_or_init(nothing).set(count, reserved);
    }

    /// It holds so many now, if anybody is charged for it.
    pub fn now(&self, count: u64) {
        if let Some(charge) = self.0.get() {
            charge.set(count, None);
        }
    }

    /// It holds what was reserved.
    pub fn begin(&self, charge: Arc<Charge>) {
        // Who was charged before still is.
        let _ = self.0.set(charge);
    }

    /// The charge.
    pub fn get(&self) -> Option<&Arc<Charge>> {
        self.0.get()
    }
}

impl PartialEq for Charged {
    fn eq(&self, _: &Charged) -> bool {
        true
    }
}

impl Eq for Charged {}
