//! Content in layers: which stretch of a file lies in which object. Flat, however many snapshots there were between: a write
//! takes a place in the map, and versions share what they have in common of it. What no piece covers is a hole.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use siphasher::sip::SipHasher13;

use super::{Backing, Claim, Stretch};
use crate::types::ObjectId;

/// The pieces of a file, by their first bytes. None overlaps another.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pieces: OrdMap<u64, Arc<Claim>>,
    /// The objects that they lie in.
    owners: OrdMap<ObjectId, Owner>,
    /// Bytes in all pieces.
    bytes: u64,
}

/// An object that pieces of a file lie in.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The object's file.
    pub backing: Arc<Backing>,
    /// Pieces.
    pub pieces: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl PartialEq for Owner {
    fn eq(&self, other: &Owner) -> bool {
        (self.backing.id, self.pieces, self.bytes) == (other.backing.id, other.pieces, other.bytes)
    }
}

impl PartialEq for Layers {
    fn eq(&self, other: &Layers) -> bool {
        // Costs what differs: what they share is not looked at.
        self.bytes == other.bytes && self.pieces.diff(&other.pieces).next().is_none()
    }
}

impl Eq for Layers {}

/// What a stretch of a file is made of from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The first byte.
    pub start: u64,
    /// Bytes, 1 at least.
    pub len: u64,
    /// So many bytes of an object; a hole without.
    pub claim: Option<Arc<Claim>>,
}

impl Change {
    /// The stretch becomes a hole.
    pub fn hole(start: u64, len: u64) -> Change {
        Change { start, len, claim: None }
    }

    /// The stretch lies in an object.
    pub fn piece(start: u64, claim: Arc<Claim>) -> Change {
        Change { start, len: claim.len(), claim: Some(claim) }
    }
}

/// A part of a piece.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The first byte in the file.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// The piece.
    pub claim: &'a Arc<Claim>,
    /// Bytes of the piece before it.
    pub skip: u64,
}

impl Part<'_> {
    /// Where it begins in its object.
    pub fn at(&self) -> u64 {
        self.claim.at() + self.skip
    }

    /// A name of it.
    pub fn to_claim(self) -> Arc<Claim> {
        if self.end - self.start == self.claim.len() {
            self.claim.clone()
        } else {
            self.claim.part(self.skip, self.end - self.start)
        }
    }
}

impl Layers {
    /// Is all of it a hole?
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes in all pieces.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Behind the last byte of the last piece.
    pub fn end(&self) -> u64 {
        self.pieces.get_max().map_or(0, |(start, claim)| start + claim.len())
    }

    /// The objects that pieces lie in.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = &Owner> {
        self.owners.values()
    }

    /// What lies in an object.
    pub fn owner(&self, id: ObjectId) -> Option<&Owner> {
        self.owners.get(&id)
    }

    /// All pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &Arc<Claim>)> {
        self.pieces.iter().map(|(start, claim)| (*start, claim))
    }

    /// Stands for all pieces and their places.
    pub fn stamp(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        for (start, claim) in self.pieces() {
            (start, claim.backing().id, claim.at(), claim.len()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// What covers `[from, to)`, in order, without the holes.
    pub fn parts(&self, from: u64, to: u64) -> impl Iterator<Item = Part<'_>> {
        let first = self.pieces.get_prev(&from).filter(|(start, claim)| *start + claim.len() > from);
        let first = first.map_or(from, |(start, _)| *start);
        self.pieces.range(first..to.max(first)).map(move |(start, claim)| {
            let (begin, end) = ((*start).max(from), (start + claim.len()).min(to));
            Part { start: begin, end, claim, skip: begin - start }
        })
    }

    /// Does `[from, to)` lie in this object all of it, at the same place there?
    pub fn lies_in(&self, id: ObjectId, from: u64, to: u64) -> bool {
        let mut at = from;
        for part in self.parts(from, to) {
            if part.start != at || part.claim.backing().id != id || part.at() != part.start {
                return false;
            }
            at = part.end;
        }
        at >= to
    }

    /// Do all pieces lie in this object, each at the same place there?
    pub fn lies_all_in(&self, id: ObjectId) -> bool {
        self.owners.len() == 1
            && self.owner(id).is_some()
            && self.pieces().all(|(start, claim)| claim.at() == start)
    }

    /// The first piece, or part of one, from `from` on that lies elsewhere than at the same place in this object.
    pub fn next_not_in(&self, id: ObjectId, from: u64) -> Option<Part<'_>> {
        self.parts(from, u64::MAX).find(|part| part.claim.backing().id != id || part.at() != part.start)
    }

    /// The first byte at or behind `offset` that is in no hole.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        let inside = self.pieces.get_prev(&offset).filter(|(start, claim)| *start + claim.len() > offset);
        inside.map(|_| offset).or_else(|| self.pieces.get_next(&offset).map(|(start, _)| *start))
    }

    /// The first byte at or behind `offset` that is in no piece.
    pub fn next_hole(&self, offset: u64) -> u64 {
        let mut at = offset;
        for part in self.parts(offset, u64::MAX) {
            if part.start > at {
                break;
            }
            at = part.end;
        }
        at
    }

    /// Bytes in all pieces when these changes, none of which overlaps another, are made.
    pub fn bytes_with(&self, changes: &[Change]) -> u64 {
        changes.iter().fold(self.bytes, |bytes, change| {
            let parts = self.parts(change.start, change.start + change.len);
            let covered: u64 = parts.map(|part| part.end - part.start).sum();
            bytes - covered + change.claim.as_ref().map_or(0, |claim| claim.len())
        })
    }

    /// The first byte at or behind `from` from which on something else may lie in the other.
    pub fn same_until(&self, other: &Layers, from: u64) -> u64 {
        let mut at = from;
        loop {
            let (mine, theirs) = (self.parts(at, u64::MAX).next(), other.parts(at, u64::MAX).next());
            let (Some(mine), Some(theirs)) = (mine, theirs) else {
                return if mine.is_none() && theirs.is_none() { u64::MAX } else { at };
            };
            let is_same = (mine.start, mine.claim.backing().id, mine.at())
                == (theirs.start, theirs.claim.backing().id, theirs.at());
            if !is_same {
                return at;
            }
            at = mine.end.min(theirs.end);
        }
    }

    /// The holes in `[from, to)`.
    pub fn holes(&self, from: u64, to: u64) -> Vec<Stretch> {
        let (mut holes, mut at) = (Vec::new(), from);
        for part in self.parts(from, to.max(from)) {
            holes.push((at, part.start));
            at = part.end;
        }
        holes.push((at, to));
        holes.into_iter().filter(|(from, to)| from < to).collect()
    }

    /// Makes a change.
    pub fn apply(&mut self, change: &Change) {
        if change.len == 0 {
            return;
        }
        let end = change.start.saturating_add(change.len);
        self.clear(change.start, end);
        if let Some(claim) = &change.claim {
            self.put(change.start, claim.clone());
        }
    }

    /// Makes `[from, to)` a hole.
    fn clear(&mut self, from: u64, to: u64) {
        let cut: Vec<(u64, Arc<Claim>)> =
            self.parts(from, to).map(|part| (part.start - part.skip, part.claim.clone())).collect();
        for (start, claim) in cut {
            self.take(start);
            let end = start + claim.len();
            if start < from {
                self.insert(start, claim.part(0, from - start));
            }
            if end > to {
                self.insert(to, claim.part(to - start, end - to));
            }
        }
    }

    /// Puts a piece where there is a hole, together with what it goes on from, and what goes on from it.
    fn put(&mut self, start: u64, claim: Arc<Claim>) {
        let (mut start, mut claim) = (start, claim);
        let before = self.pieces.get_prev(&start).map(|(at, before)| (*at, before.clone()));
        if let Some((at, before)) = before
            && at + before.len() == start
            && before.goes_on_in(&claim)
        {
            claim = Claim::new(claim.backing().clone(), before.at(), before.len() + claim.len());
            self.take(at);
            start = at;
        }
        let end = start + claim.len();
        let after = self.pieces.get(&end).cloned();
        if let Some(after) = after.filter(|after| claim.goes_on_in(after)) {
            claim = Claim::new(claim.backing().clone(), claim.at(), claim.len() + after.len());
            self.take(end);
        }
        self.insert(start, claim);
    }

    fn insert(&mut self, start: u64, claim: Arc<Claim>) {
        self.bytes += claim.len();
        let id = claim.backing().id;
        match self.owners.get_mut(&id) {
            Some(owner) => (owner.pieces, owner.bytes) = (owner.pieces + 1, owner.bytes + claim.len()),
            None => {
                let owner = Owner { backing: claim.backing().clone(), pieces: 1, bytes: claim.len() };
                self.owners.insert(id, owner);
            }
        }
        self.pieces.insert(start, claim);
    }

    fn take(&mut self, start: u64) {
        let Some(claim) = self.pieces.remove(&start) else { return };
        self.bytes -= claim.len();
        let id = claim.backing().id;
        let left = self.owners.get_mut(&id).map_or(0, |owner| {
            (owner.pieces, owner.bytes) = (owner.pieces - 1, owner.bytes - claim.len());
            owner.pieces
        });
        if left == 0 {
            self.owners.remove(&id);
        }
    }

    /// The changes that make `to` out of it. Costs what differs.
    pub fn changes_to(&self, to: &Layers) -> Vec<Change> {
        let (mut holes, mut pieces) = (Vec::new(), Vec::new());
        for item in self.pieces.diff(&to.pieces) {
            let (old, new) = match item {
                DiffItem::Add(start, claim) => (None, Some((start, claim))),
                DiffItem::Remove(start, claim) => (Some((start, claim)), None),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
            };
            holes.extend(old.map(|(start, claim)| Change::hole(*start, claim.len())));
            pieces.extend(new.map(|(start, claim)| Change::piece(*start, claim.clone())));
        }
        holes.append(&mut pieces);
        holes
    }
}

impl FromIterator<Change> for Layers {
    fn from_iter<T: IntoIterator<Item = Change>>(changes: T) -> Layers {
        let mut layers = Layers::default();
        changes.into_iter().for_each(|change| layers.apply(&change));
        layers
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
