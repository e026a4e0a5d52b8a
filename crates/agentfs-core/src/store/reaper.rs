//! Deleting what nothing names any more: when the log is durable up to the record that let go of it, and on the time of
//! whoever has some to spare.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tracing::warn;

use super::backing::{Live, punch_all};
use super::{Backing, Device, FileId};
#[cfg(agentfs_schedules)]
use shuttle::thread_local;

thread_local! {
    /// While set, what this thread drops is listed here instead of going to the reaper.
    static CAPTURED: RefCell<Option<Released>> = const { RefCell::new(None) };
}

/// What a dropped version alone named.
#[derive(Debug, Default)]
pub struct Released {
    files: Vec<FileId>,
    /// Bytes in packs, which come back when these are emptied.
    packed: u64,
    /// Of these files only a part.
    parts: Vec<Weak<Backing>>,
}

/// How far the log is durable: a file goes only when the record that let go of it will be found again.
pub trait Durability: Send + Sync {
    /// The position behind the last record.
    fn position(&self) -> u64;
    /// The position before which all is durable.
    fn durable(&self) -> u64;
}

/// Files to be deleted, in the order they fell due.
pub(super) struct Reaper {
    /// Leaf lock.
    due: Mutex<VecDeque<(FileId, u64)>>,
    /// Leaf lock: files of which something was let go, each once.
    parts: Mutex<VecDeque<(Weak<Backing>, u64)>>,
    durability: Arc<dyn Durability>,
    idle: AtomicBool,
    freed: AtomicU64,
}

impl Reaper {
    pub(super) fn new(durability: Arc<dyn Durability>) -> Reaper {
        Reaper {
            due: Mutex::default(),
            parts: Mutex::default(),
            durability,
            idle: AtomicBool::new(true),
            freed: AtomicU64::new(1),
        }
    }

    /// Nothing names `id` any more.
    pub(super) fn remove_later(&self, id: FileId) {
        self.freed.fetch_add(1, Ordering::Relaxed);
        let captured = CAPTURED.with(|list| list.borrow_mut().as_mut().map(|list| list.files.push(id)));
        if captured.is_none() && !self.idle.load(Ordering::Relaxed) {
            self.due.lock().push_back((id, self.durability.position()));
        }
    }

    /// The position behind the last record.
    pub(super) fn position(&self) -> u64 {
        self.durability.position()
    }

    /// The position before which all is durable.
    pub(super) fn durable(&self) -> u64 {
        self.durability.durable()
    }

    /// Something of a file is named by nothing any more. False when nobody will look.
    pub(super) fn look_later(&self, backing: &Arc<Backing>) -> bool {
        self.freed.fetch_add(1, Ordering::Relaxed);
        let part = Arc::downgrade(backing);
        let captured =
            CAPTURED.with(|list| list.borrow_mut().as_mut().map(|list| list.parts.push(part.clone())));
        let is_idle = self.idle.load(Ordering::Relaxed);
        if captured.is_none() && !is_idle {
            self.parts.lock().push_back((part, self.durability.position()));
        }
        captured.is_some() || !is_idle
    }

    /// There is more to give back of a file, by records that are durable. False when nobody will look.
    pub(super) fn look_next(&self, backing: &Arc<Backing>) -> bool {
        let is_idle = self.idle.load(Ordering::Relaxed);
        if !is_idle {
            self.freed.fetch_add(1, Ordering::Relaxed);
            self.parts.lock().push_front((Arc::downgrade(backing), 0));
        }
        !is_idle
    }

    /// Nothing names so many bytes of a pack any more.
    pub(super) fn note_packed(&self, bytes: u64) {
        self.freed.fetch_add(1, Ordering::Relaxed);
        CAPTURED.with(|list| list.borrow_mut().iter_mut().for_each(|list| list.packed += bytes));
    }

    /// How often something was let go of.
    pub(super) fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    /// While idle, nothing is deleted.
    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Deletes what has fallen due; returns the number of files.
    pub(super) fn reap(&self, device: &dyn Device) -> usize {
        let durable = self.durability.durable();
        let mut count = 0;
        loop {
            let next = {
                let mut due = self.due.lock();
                let is_due = due.front().is_some_and(|(_, position)| *position <= durable);
                if is_due && !self.idle.load(Ordering::Relaxed) { due.pop_front() } else { None }
            };
            let Some((id, _)) = next else { return count };
            remove(device, id);
            count += 1;
        }
    }

    pub(super) fn has_parts(&self) -> bool {
        !self.parts.lock().is_empty()
    }

    /// Gives stretches back that have fallen due, but for those of files that are written to in an epoch that is `live`; so
    /// many places and files at most. Returns the bytes that came back.
    pub(super) fn punch(&self, device: &dyn Device, live: &Live, mut most: usize) -> u64 {
        let durable = self.durability.durable();
        if self.idle.load(Ordering::Relaxed) {
            return 0;
        }
        let due: Vec<_> = {
            let mut parts = self.parts.lock();
            let count = parts.iter().take_while(|(_, position)| *position <= durable).count();
            parts.drain(..count.min(most)).collect()
        };
        punch_all(due.iter().filter_map(|(part, _)| part.upgrade()), device, live, durable, &mut most)
    }
}

/// Drops `garbage` and returns what only it named.
pub(super) fn release<T>(garbage: T) -> Released {
    CAPTURED.with(|list| *list.borrow_mut() = Some(Released::default()));
    drop(garbage);
    CAPTURED.with(RefCell::take).unwrap_or_default()
}

impl Released {
    /// Deletes the files; returns the bytes that came back or will when packs are emptied. All this was let go of by records
    /// before the position `durable`.
    pub(super) fn remove(self, device: &dyn Device, live: &Live, durable: u64) -> u64 {
        let (backings, mut left) = (self.parts.iter().filter_map(Weak::upgrade), usize::MAX);
        let parts = punch_all(backings, device, live, durable, &mut left);
        let held = self.files.into_iter().map(|id| match id {
            // Its bytes were counted by what lay in it.
            FileId::Pack(_) => {
                remove(device, id);
                0
            }
            _ => remove(device, id),
        });
        held.sum::<u64>() + self.packed + parts
    }

    pub(super) fn remove_later(self, reaper: &Reaper) {
        self.files.into_iter().for_each(|id| reaper.remove_later(id));
        let position = reaper.durability.position();
        reaper.parts.lock().extend(self.parts.into_iter().map(|part| (part, position)));
    }
}

fn remove(device: &dyn Device, id: FileId) -> u64 {
    match device.remove(id) {
        Ok(held) => held,
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => {
            warn!(?id, %error, "could not delete a file that nothing names");
            0
        }
    }
}
