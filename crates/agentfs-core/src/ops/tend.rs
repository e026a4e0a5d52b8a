//! What a volume does by the way, on the time of whoever has some to spare.

use std::sync::Arc;

use tracing::{info, warn};

use super::page_out::AT_ONCE;
use crate::error::{FsError, Result};
use crate::fs_core::FsCore;
use crate::log::Record;
use crate::store::{Live, Pack};
use crate::types::Epoch;

/// Stretches and files that are given back in one turn: the host takes some microseconds for each, and what else is due
/// waits for them.
const PUNCHED_AT_ONCE: usize = 1024;

impl FsCore {
    /// Does a little of what has to be done now and then: deletes what nothing names, makes objects ahead, empties a pack
    /// that holds little, shortens the log. To be called several times a second, from one thread.
    ///
    /// # Errors
    /// What the store answers; it is tried again the next time.
    pub fn tend(&self) -> Result<()> {
        self.store.reap();
        self.punch(PUNCHED_AT_ONCE);
        self.lower.iter().for_each(|lower| lower.tend());
        if self.journal.is_poisoned() {
            return self.healing.attempt(|| self.heal());
        }
        let made_ahead = self.store.fill_pool();
        let emptied = self.empty_a_pack();
        let promoted = self.promote().and(self.gather());
        let shortened =
            if self.is_worth_a_checkpoint() { self.shortening.attempt(|| self.shorten()) } else { Ok(()) };
        let retried = self.retrying.attempt(|| self.try_all_given_up());
        let paged = self.paging.attempt(|| self.page_out(0, AT_ONCE));
        made_ahead.map_err(FsError::Io).and(emptied).and(promoted).and(shortened).and(retried).and(paged)
    }

    /// In which epochs files are written; `None` while branches and snapshots come and go.
    pub(super) fn live(&self) -> Option<Live> {
        let _control = self.control.try_lock()?;
        let (_, next) = self.next_numbers();
        let epochs = self.all_branches().iter().map(|branch| branch.epoch()).collect();
        Some(Live { epochs, next: Epoch(next) })
    }

    /// Gives back stretches of files that no version names any more; so many places and files at most.
    pub(crate) fn punch(&self, most: usize) {
        if self.store.has_parts()
            && let Some(live) = self.live()
        {
            self.store.punch(&live, most);
        }
    }

    fn shorten(&self) -> Result<()> {
        let (_, last) = self.journal.lengths();
        if self.has_room_for(last)?
            && let Some(len) = self.checkpoint()?
        {
            info!(bytes = len, "the log was shortened");
        }
        Ok(())
    }

    pub(super) fn has_room_for(&self, bytes: u64) -> Result<bool> {
        let space = self.store.device().space()?;
        Ok(space.available.saturating_mul(u64::from(space.block_size)) >= bytes)
    }

    /// After a sync that failed the log takes nothing: what it had may be lost. A checkpoint says all of it anew, in
    /// another file.
    pub(crate) fn heal(&self) -> Result<()> {
        for pack in self.store.packs.failed() {
            let _one = self.compacting.lock();
            // Nothing is recorded before the checkpoint, which tells of the new places.
            self.store.packs.empty(&pack, |_| Ok::<_, FsError>(()))?;
        }
        self.checkpoint()?;
        warn!("the log could not be made durable and was written anew: changes are taken again");
        Ok(())
    }

    /// Makes the store as small as it can be: moves what lies in packs with gaps to others, and shortens the log.
    ///
    /// # Errors
    /// What the store answers; what was done by then stays done.
    pub fn compact(&self) -> Result<()> {
        for pack in self.store.packs.gappy() {
            self.empty_pack(&pack)?;
        }
        self.checkpoint()?;
        self.store.reap();
        self.punch(usize::MAX);
        Ok(())
    }

    fn empty_a_pack(&self) -> Result<()> {
        self.store.packs.count_one();
        let packs = self.store.packs.wasteful();
        let Some(pack) = packs.first() else { return Ok(()) };
        // On a host that is nearly full space comes back otherwise.
        if self.has_room_for(4 * self.config.packs.size)? { self.empty_pack(pack) } else { Ok(()) }
    }

    fn empty_pack(&self, pack: &Arc<Pack>) -> Result<()> {
        let _one = self.compacting.lock();
        self.store.packs.empty(pack, |moves| {
            if moves.is_empty() { Ok(()) } else { self.journal.append(&Record::Moved(moves.to_vec())) }
        })
    }
}
