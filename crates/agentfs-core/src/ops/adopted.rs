//! What records name in a store: objects, packs and what lies in them, one of a kind for each number or place.

use std::collections::HashMap;
use std::sync::Arc;

use crate::log::{Adopt, NotARecord, Record};
use crate::store::{Backing, Content, Extent, Move, Object, Pack, Place, Store};
use crate::tree::Edit;
use crate::types::{Epoch, ObjectId, PackId};

/// What records name in a store, one of a kind for each number or place.
pub(super) struct Adopted<'a> {
    store: &'a Store,
    pub(super) objects: HashMap<ObjectId, Arc<Backing>>,
    pub(super) packs: HashMap<PackId, Arc<Pack>>,
    /// By all places they were in, and their lengths.
    pub(super) extents: HashMap<(Place, u32), Arc<Extent>>,
    /// Where extents went that no record had named when they were moved.
    forward: HashMap<(Place, u32), Place>,
    /// The highest epoch that any object was of.
    epoch: Epoch,
}

impl<'a> Adopted<'a> {
    pub(super) fn new(store: &'a Store) -> Adopted<'a> {
        Adopted {
            store,
            objects: HashMap::new(),
            packs: HashMap::new(),
            extents: HashMap::new(),
            forward: HashMap::new(),
            epoch: Epoch(0),
        }
    }

    /// The highest epoch that any object is of.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn pack(&mut self, id: PackId) -> Arc<Pack> {
        self.store.passed(id.0);
        self.packs.entry(id).or_insert_with(|| self.store.packs.adopt(id)).clone()
    }

    /// Content was moved. Records after this may still name it by its old place.
    pub(super) fn moved(&mut self, moves: &[Move]) {
        for moved in moves {
            let Some(extent) = self.extents.get(&(moved.from, moved.len)).cloned() else {
                self.forward.insert((moved.from, moved.len), moved.to);
                continue;
            };
            self.pack(moved.to.0).take(&extent, moved.to.1);
            self.extents.insert((moved.to, moved.len), extent);
        }
    }

    /// Is the content there that was moved?
    fn has_moved(&mut self, moves: &[Move]) -> bool {
        moves.iter().all(|moved| {
            let Some(extent) = self.extents.get(&(moved.from, moved.len)).cloned() else { return true };
            self.pack(moved.to.0).holds(moved.to.1, &extent)
        })
    }

    /// Is all content there that a record names, which is not known to be durable? Of objects nobody can tell.
    pub(super) fn vouches_for(&mut self, record: &Record) -> bool {
        let is_there = |content: Option<&Content>| match content {
            Some(Content::Packed(extent)) => extent.read().is_ok(),
            // Named by a record that vouches for nothing, or by one before it.
            Some(Content::Hole | Content::Whole(_) | Content::Lower(_) | Content::Layered(_)) | None => true,
        };
        match record {
            Record::EditsAfter(..) | Record::SnapshotKeeps(..) | Record::Merged(_) => false,
            Record::Edits(_, edits) => edits.iter().all(|edit| match edit {
                Edit::Content(_, content) => is_there(Some(content)),
                Edit::Put(_, inode) => is_there(inode.content()),
                _ => true,
            }),
            Record::Moved(moves) => self.has_moved(moves),
            _ => true,
        }
    }
}

impl Adopt for Adopted<'_> {
    fn object(&mut self, id: ObjectId, epoch: Epoch) -> Result<Arc<Object>, NotARecord> {
        self.backing(id, epoch).map(Object::of)
    }

    fn backing(&mut self, id: ObjectId, epoch: Epoch) -> Result<Arc<Backing>, NotARecord> {
        self.store.passed(id.0);
        let backing = self.objects.entry(id).or_insert_with(|| self.store.adopt_backing(id, epoch)).clone();
        // Where a snapshot got a copy of what was being written, its branch goes on with what it had. And what came to be
        // shared is nobody's to write from then on.
        backing.set_epoch(backing.epoch().max(epoch));
        self.epoch = self.epoch.max(epoch);
        Ok(backing)
    }

    fn extent(&mut self, place: Place, len: u32, crc: u32) -> Result<Arc<Extent>, NotARecord> {
        if let Some(known) = self.extents.get(&(place, len)) {
            return Ok(known.clone());
        }
        let mut at = place;
        while let Some(next) = self.forward.get(&(at, len)) {
            at = *next;
        }
        let known = self.extents.get(&(at, len)).cloned();
        let extent = known.unwrap_or_else(|| self.pack(at.0).add(at.1, len, crc));
        self.extents.insert((at, len), extent.clone());
        self.extents.insert((place, len), extent.clone());
        Ok(extent)
    }
}
