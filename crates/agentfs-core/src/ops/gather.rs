//! Files in layers of which many objects have a little each, as after many snapshots with few writes between: what those have
//! is copied to one, side by side. A reader opens that instead of all of them, and the host reads it in one go.

use std::collections::HashSet;

use super::layered::SCATTERED;
use crate::error::Result;
use crate::fs_core::FsCore;
use crate::handle::OpenFile;
use crate::store::{Change, Claim, ObjectFile, no_space};
use crate::types::ObjectId;

/// An object with less of a file than this many bytes has little of it.
const LITTLE: u64 = 64 << 10;
/// Pieces that are gathered at once, at most.
const AT_ONCE: usize = 1024;

impl FsCore {
    /// Gathers what is scattered of one file, if that is worth it.
    ///
    /// # Errors
    /// What the store answers; the file is as it was.
    pub(super) fn gather(&self) -> Result<()> {
        let next = {
            let mut scattered = self.scattered.lock();
            let next = scattered.iter().next().copied();
            next.filter(|next| scattered.remove(next))
        };
        next.map_or(Ok(()), |next| self.with_layers_of(next, |file| self.gather_open(file)).map(drop))
    }

    fn gather_open(&self, file: &OpenFile) -> Result<()> {
        let mut source = file.source.write();
        let Some(mut stack) = self.stack_if_layered(file, &mut source)? else { return Ok(()) };
        let top = stack.own_top()?.map(|top| top.backing.id);
        let little =
            stack.layers.owners().filter(|owner| owner.bytes < LITTLE && Some(owner.backing.id) != top);
        let little: HashSet<ObjectId> = little.map(|owner| owner.backing.id).collect();
        if little.len() < SCATTERED / 2 {
            return Ok(());
        }
        let now = stack.file();
        let is_little = |claim: &Claim| little.contains(&claim.backing().id);
        let pieces = stack.layers.pieces().filter(|(_, claim)| is_little(claim)).take(AT_ONCE);
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for (start, claim) in pieces {
            let (at, len) = (bytes.len(), claim.len());
            bytes.resize(at + len as usize, 0);
            if let Some(room) = bytes.get_mut(at..) {
                now.read_at(room, start)?;
            }
            places.push((start, at as u64, len));
        }
        drop(now);
        let (id, open) = self.with_room(|| self.store.create())?;
        // Nobody ever writes to it again.
        let gathered = self.store.adopt_backing(id, self.fresh_epoch());
        let Ok((reserved, _)) =
            self.reserve_range(stack.branch, (&gathered, &*open), (0, bytes.len() as u64), true)
        else {
            return Ok(());
        };
        if self.with_room(|| open.write_at(&bytes, 0))? < bytes.len() {
            return Err(no_space().into());
        }
        self.charge_object(stack.branch, (&gathered, &*open), reserved.as_ref())?;
        let piece = |(start, at, len)| Change::piece(start, Claim::new(gathered.clone(), at, len));
        let changes = places.into_iter().map(piece).collect();
        let size = stack.size;
        stack.commit(&mut source, changes, size, None)
    }
}
