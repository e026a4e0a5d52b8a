//! Freezing a branch whose files are written past the daemon: the frozen version gets copies, all of one moment.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::usage::name_in;
use crate::branch::{Branch, Kept};
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::handle::{OpenFile, Source};
use crate::log::Record;
use crate::store::{FileStat, Object, ObjectFile, Store, Unnamed};
use crate::tree::Version;
use crate::types::{Epoch, InodeId};

/// How often a snapshot tries at least to find standing still what is written past the daemon, and for how long.
const ATTEMPTS: u32 = 4;
const PATIENCE: Duration = Duration::from_millis(400);

/// A file that is being written past the daemon, and what the host said of it.
struct Written {
    file: Arc<OpenFile>,
    object: Arc<Object>,
    open: Arc<dyn ObjectFile>,
    stat: FileStat,
    /// A copy that frozen versions have already, and that still is what it holds.
    copy: Option<Arc<Object>>,
    /// Was it written while its writers were waited for?
    moved: bool,
}

/// Of which moment a snapshot is to have what is written past the daemon meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// All of one; else it is refused.
    One,
    /// Of one if that can be had, else each file as it was found.
    Any,
}

/// What a frozen version gets instead of a file that is being written.
enum Copied {
    Now(Unnamed),
    Before(Arc<Object>),
}

impl Copied {
    fn adopt(self, store: &Store, epoch: Epoch) -> Arc<Object> {
        match self {
            Copied::Before(object) => object,
            Copied::Now((id, _)) => store.adopt(id, epoch),
        }
    }

    fn discard(self, store: &Store) {
        if let Copied::Now((id, _)) = self {
            store.discard(id);
        }
    }
}

impl FsCore {
    /// Freezes a branch. What is written past the daemon meanwhile is copied for the frozen version, all at one moment.
    ///
    /// # Errors
    /// `Busy`, which names the files, when they do not stand still for as long as that takes; those of `Branch::freeze`.
    pub(super) fn freeze(
        &self,
        branch: &Arc<Branch>,
        next: Epoch,
        record: &Record,
        moment: Moment,
    ) -> Result<Version> {
        let (mut moving, begun) = (Vec::new(), Instant::now());
        for attempt in 0.. {
            let is_late = attempt >= ATTEMPTS && begun.elapsed() >= PATIENCE;
            if is_late && (moment == Moment::One || begun.elapsed() >= 4 * PATIENCE) {
                break;
            }
            let moment = if is_late { moment } else { Moment::One };
            let written = self.written(branch)?;
            let copies = self.copy_written(&written)?;
            let _gate = self.direct.gate.write();
            moving = self.moved_since(branch, &written, moment);
            if moving.is_empty() {
                let epoch = branch.epoch();
                let mut copies: Vec<_> =
                    copies.into_iter().map(|copy| copy.adopt(&self.store, epoch)).collect();
                let kept = || {
                    // Once more, now that the daemon writes nothing.
                    if !self.moved_since(branch, &written, moment).is_empty() {
                        return Err(FsError::Busy(String::new()));
                    }
                    Ok(written
                        .iter()
                        .zip(copies.drain(..))
                        .map(|(written, copy)| written.keep(copy, moment))
                        .collect())
                };
                match branch.freeze(&*self.journal, next, record.clone(), kept) {
                    Err(FsError::Busy(_)) => {
                        moving = written.iter().map(|written| written.file.ino).collect()
                    }
                    frozen => return frozen,
                }
            } else {
                copies.into_iter().for_each(|copy| copy.discard(&self.store));
            }
        }
        Err(self.too_busy(branch, &moving))
    }

    /// Files of a branch that are written past the daemon, and what the host says of them when it has done what it was at.
    /// What it says differs after any later change: that is a tick of its clock away.
    fn written(&self, branch: &Branch) -> Result<Vec<Written>> {
        let all = |file: &OpenFile| file.view == branch.view && file.is_written_directly();
        let mut written = Vec::new();
        if !self.direct.any_writers() {
            return Ok(written);
        }
        for file in self.open_files.which(all) {
            let opened = match &*self.source_to_read(&file)? {
                Source::Object(object, open) => Some((object.clone(), open.clone())),
                Source::Unknown
                | Source::Hole
                | Source::Small(_)
                | Source::Lower(..)
                | Source::Layered(_) => None,
            };
            if let Some((object, open)) = opened {
                let stat = open.stat()?;
                // Where the host's clock does not tell changes apart, neither does it that there was none.
                let tells = self.store.device().tick().is_zero();
                let copy = if tells { file.frozen_as(stat) } else { None };
                written.push(Written { file, object, open, stat, copy, moved: false });
            }
        }
        if written.iter().any(|written| written.copy.is_none()) {
            thread::sleep(self.store.device().tick());
        }
        for written in written.iter_mut().filter(|written| written.copy.is_none()) {
            // What began before is over then; what begins now has another time, and may last as long as the copying.
            written.open.await_writes()?;
            let (before, now) = (written.stat, written.open.stat()?);
            written.moved = (before.len, before.modified) != (now.len, now.modified);
            written.stat = now;
        }
        Ok(written)
    }

    fn copy_written(&self, written: &[Written]) -> Result<Vec<Copied>> {
        // What is written through mmap is seen only after the host has written it out.
        let anew = || written.iter().filter(|written| written.copy.is_none());
        anew().try_for_each(|written| written.open.sync(true))?;
        let mut copies = Vec::new();
        for Written { object, stat, copy, .. } in written {
            let copied = match copy {
                Some(copy) => Ok(Copied::Before(copy.clone())),
                None => self.with_room(|| self.store.duplicate(object, stat.len)).map(Copied::Now),
            };
            match copied {
                Ok(copy) => copies.push(copy),
                Err(error) => {
                    copies.into_iter().for_each(|copy| copy.discard(&self.store));
                    return Err(error);
                }
            }
        }
        Ok(copies)
    }

    /// Which of these files have changed, or are written no more, and which others are written.
    fn moved_since(&self, branch: &Branch, known: &[Written], moment: Moment) -> Vec<InodeId> {
        if known.is_empty() && !self.direct.any_writers() {
            return Vec::new();
        }
        let tick = self.store.device().tick();
        let stands = |written: &&Written| match moment {
            Moment::One => written.stands(tick),
            Moment::Any => written.file.is_written_directly(),
        };
        let moved = known.iter().filter(|written| !stands(written)).map(|written| written.file.ino);
        let is_new = |file: &OpenFile| {
            let is_known = known.iter().any(|written| std::ptr::eq(&*written.file, file));
            file.view == branch.view && file.is_written_directly() && !is_known
        };
        moved.chain(self.open_files.which(is_new).iter().map(|file| file.ino)).collect()
    }

    fn too_busy(&self, branch: &Branch, moving: &[InodeId]) -> FsError {
        let names = branch.read(|version| {
            let names = moving.iter().take(5).filter_map(|ino| name_in(version, *ino));
            names.collect::<Vec<_>>().join(", ")
        });
        FsError::Busy(format!(
            "these files are written all the while, past the daemon: {names}; stop their writers, take it \
             with --allow-fuzzy, or mount with AGENTFS_FUSE_DATA_PATH=exact"
        ))
    }
}

impl Written {
    /// Is it still written past the daemon, and has not changed? What was changed in the present tick of the host's clock
    /// could change once more without its showing.
    fn stands(&self, tick: Duration) -> bool {
        let is_old = |stat: &FileStat| {
            tick.is_zero()
                || SystemTime::now().duration_since(stat.changed.into()).is_ok_and(|age| age >= tick)
        };
        !self.moved
            && self.file.is_written_directly()
            && is_old(&self.stat)
            && self.open.stat().is_ok_and(|now| now.is_the_same_as(&self.stat))
    }

    fn keep(&self, copy: Arc<Object>, moment: Moment) -> Kept {
        let modified = self.file.saw(self.stat);
        let is_exact = moment == Moment::One;
        *self.file.frozen.lock() = is_exact.then(|| (self.stat, Arc::downgrade(&copy)));
        Kept { ino: self.file.ino, stat: self.stat, modified, copy, own: self.object.clone() }
    }
}

impl OpenFile {
    /// What frozen versions got of it last, if that is what the host still says it is.
    fn frozen_as(&self, stat: FileStat) -> Option<Arc<Object>> {
        let frozen = self.frozen.lock();
        let (then, copy) = frozen.as_ref()?;
        then.is_the_same_as(&stat).then(|| copy.upgrade()).flatten()
    }
}
