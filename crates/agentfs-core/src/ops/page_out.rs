//! Having snapshots leave memory that nobody looks at.

use crate::branch::{Bases, Pager, Snapshot};
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::types::{BranchId, SnapshotId};

/// Snapshots that leave memory in one turn, at most, and when one more came than may wait for that.
pub(super) const AT_ONCE: usize = 2048;
const AT_ONCE_NOW: usize = 64;
/// Bytes that are to be free on the host.
const ROOM: u64 = 64 << 20;

impl FsCore {
    /// Has the oldest snapshots leave memory that never left it, if there are `more` than may stay; so many at most.
    ///
    /// # Errors
    /// What the store answers; they stay in memory.
    pub(super) fn page_out(&self, more: usize, most: usize) -> Result<()> {
        let Some(pager) = &self.pager else { return Ok(()) };
        let Some(_turn) = pager.turn.try_lock() else { return Ok(()) };
        if !pager.has_more(more) || !self.has_room_for(ROOM)? {
            return Ok(());
        }
        let (mut written, mut done) = (Vec::new(), Ok(()));
        for _ in 0..most {
            // Who makes or deletes snapshots comes first.
            let Some(_control) = self.control.try_lock() else { break };
            let Some(id) = pager.next(more) else { break };
            let found = {
                let catalog = self.catalog.read();
                catalog.state(id).map(|(info, snapshot)| (info.branch, snapshot.clone()))
            };
            let Some((branch, snapshot)) = found else { continue };
            match pager.page_out(&snapshot, self.bases_of(pager, id, branch)) {
                Ok(true) => written.push(snapshot),
                Ok(false) => {}
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
        }
        pager.settle(written).and(done)
    }

    /// From what a snapshot of `branch` may be told to differ. The caller keeps snapshots from coming and going.
    fn bases_of(&self, pager: &Pager, id: SnapshotId, branch: BranchId) -> Bases {
        let catalog = self.catalog.read();
        let state = |id: SnapshotId| catalog.state(id).map(|(_, snapshot)| snapshot.clone());
        let last = pager.last_of(branch, id);
        let origin = catalog.branch(&branch.to_string()).ok().and_then(|(info, _)| catalog.grown_from(info));
        let before = catalog.before(id, Some(branch)).or_else(|| state(last.filter(|last| *last < id)?));
        Bases { before, origin, neighbour: catalog.before(id, None) }
    }

    /// A snapshot came, hidden or not.
    pub(super) fn note_snapshot(&self, id: SnapshotId) {
        self.pager.iter().for_each(|pager| pager.note(id));
    }

    /// A snapshot came, and more may have come in a short time than `tend` has leave memory.
    pub(super) fn page_out_now(&self) {
        let limit = self.pager.as_ref().map_or(0, |pager| pager.limit());
        if let Err(error) = self.paging.attempt(|| self.page_out(limit, AT_ONCE_NOW)) {
            tracing::debug!(%error, "a snapshot stays in memory");
        }
    }

    /// A snapshot is about to go. The caller keeps others from coming and going.
    ///
    /// # Errors
    /// What the store answers: it must not go then.
    pub(super) fn let_others_stand(&self, going: &Snapshot) -> Result<()> {
        self.pager.as_ref().map_or(Ok(()), |pager| pager.release(going))
    }
}
